#!/bin/bash
# test/fuzz/run.sh PG_CONFIG: builds the chunk codec as a module of its own, takes rows of every
# type through it and back, and damages chunks.  Prints TAP.
#
# SEED=n repeats a run; ITERATIONS=n damaged chunks a table; RANDOM_TABLES=n; SANITIZE=1 builds the
# codec with the address and undefined behaviour sanitizers (needs a server of gcc's own libc heap).
set -u
PG_CONFIG=${1:-${PG_CONFIG:-pg_config}}
SEED=${SEED:-$((RANDOM * 32768 + RANDOM))}
ITERATIONS=${ITERATIONS:-2000}
RANDOM_TABLES=${RANDOM_TABLES:-40}
BIN=$("$PG_CONFIG" --bindir) || exit 1
SOURCE=$(cd "$(dirname "$0")/../.." && pwd)
SCRATCH=$(mktemp -d "${TMPDIR:-/tmp}/penstock-fuzz.XXXXXX")
export LC_ALL=C.UTF-8 TZ=UTC
unset "${!PG@}"
PG_CONFIG=$BIN/pg_config
FLAGS=
PRELOAD=
if [ -n "${SANITIZE:-}" ]; then
	FLAGS='-fsanitize=address,undefined -fno-sanitize=alignment -fno-sanitize-recover=undefined'
	PRELOAD=$(gcc -print-file-name=libasan.so):$(gcc -print-file-name=libubsan.so)
	export ASAN_OPTIONS=detect_leaks=0,detect_stack_use_after_return=0,abort_on_error=1
fi

# servers refuse to run as root
as_user() {
	if [ "$(id -u)" = 0 ]; then
		setpriv --reuid=postgres --regid=postgres --init-groups env HOME="$SCRATCH" "$@"
	else
		"$@"
	fi
}

finish() {
	[ ! -f "$SCRATCH/data/postmaster.pid" ] ||
		as_user "$BIN/pg_ctl" -D "$SCRATCH/data" -m immediate stop >/dev/null 2>&1
	rm -rf "$SCRATCH"
}
trap finish EXIT
trap 'exit 130' INT TERM

bail() {
	echo "Bail out! $1"
	cat "$SCRATCH/log" "$SCRATCH/data/server.log" 2>/dev/null | tail -30 | sed 's/^/# /'
	exit 1
}

query() {
	as_user timeout "${LIMIT:-120}" "$BIN/psql" -h "$SCRATCH" -U postgres -XqAt -v ON_ERROR_STOP=1 "$@" postgres 2>&1
}

number=0
failed=0

# test_query NAME SQL [RESULT]: passes when the SQL runs and, if given, yields the result.
test_query() {
	local out rc=0
	out=$(query -c "$2") || rc=1
	number=$((number + 1))
	if [ $rc = 0 ] && { [ $# -lt 3 ] || [ "$out" = "$3" ]; }; then
		echo "ok $number - $1"
	else
		echo "not ok $number - $1"
		echo "$out" | head -20 | sed 's/^/#   /'
		[ $# -lt 3 ] || echo "#   expected: $3"
		failed=1
	fi
}

mkdir -p "$SCRATCH/test" "$SCRATCH/src"
cp -r "$SOURCE/src/stream" "$SOURCE/src/compat" "$SOURCE/src/util" "$SCRATCH/src/"
cp -r "$SOURCE/test/fuzz" "$SCRATCH/test/"
rm -f "$SCRATCH"/test/fuzz/*.{o,d,so}
[ "$(id -u)" != 0 ] || chown -R postgres: "$SCRATCH"
as_user make -s -C "$SCRATCH/test/fuzz" PG_CONFIG="$PG_CONFIG" ${FLAGS:+COPT="$FLAGS"} >"$SCRATCH/log" 2>&1 || bail "no build"
as_user "$BIN/initdb" -D "$SCRATCH/data" -A trust -N --locale=C.UTF-8 -E UTF8 >"$SCRATCH/log" 2>&1 || bail "no initdb"
as_user env ${PRELOAD:+LD_PRELOAD="$PRELOAD"} "$BIN/pg_ctl" -D "$SCRATCH/data" -l "$SCRATCH/data/server.log" -w \
	-o "-k $SCRATCH -c listen_addresses='' -c fsync=off -c shared_buffers=32MB" start >/dev/null || bail "no server"
LIMIT=300 query -v module="$SCRATCH/test/fuzz/penstock_chunk_test" -f "$SCRATCH/test/fuzz/chunk.sql" >"$SCRATCH/out" ||
	{ cat "$SCRATCH/out"; bail "no tables"; }
echo "# seed $SEED"

for table in events every_type toasted no_columns dropped large_row one_event; do
	test_query "round trip of $table" "SELECT chunk_roundtrip('$table', $SEED, 32768), chunk_roundtrip('$table', $SEED, 700)"
done
test_query "round trip of every type, few rows a chunk" "SELECT chunk_roundtrip('every_type', $SEED, 3), chunk_roundtrip('every_type', $SEED, 20)"
test_query "round trip of 1,600 columns" "SELECT wide_table('wide', 'int2', 300); SELECT chunk_roundtrip('wide', $SEED, 300), chunk_roundtrip('wide', $SEED, 3)"
test_query "round trip of 1,600 text columns" "SELECT wide_table('wide_text', 'text', 100); SELECT chunk_roundtrip('wide_text', $SEED, 100)"

. "$SCRATCH/test/fuzz/alter.sh"

test_query "one event stays small" "SELECT length(head) < 110, body IS NULL FROM chunk_store('one_event')" "t|t"
test_query "an event takes at most 10 bytes" "SELECT (length(head) + length(body)) / 32768.0 < 10 FROM chunk_store('events')" "t"

for ((i = 0; i < RANDOM_TABLES; i++)); do
	s=$(((SEED + i) % 1000000))
	test_query "random table $s" "SELECT random_table($s); SELECT chunk_roundtrip('random_rows', $s, 32768), chunk_roundtrip('random_rows', $s, 100); SELECT chunk_fuzz('random_rows', $s, 50, 3000)"
done
for table in events every_type toasted dropped wide; do
	test_query "damaged chunks of $table" "SELECT chunk_fuzz('$table', $SEED, $ITERATIONS / CASE '$table' WHEN 'events' THEN 1 ELSE 4 END, CASE '$table' WHEN 'every_type' THEN 300 ELSE 5000 END)"
done
grep -q 'terminated by signal' "$SCRATCH/data/server.log" && { echo "not ok $((++number)) - no crash"; failed=1; }
echo "1..$number"
exit $failed
