#!/bin/bash
# test/fuzz/format/run.sh PG_CONFIG: builds the formats as a module of their own, damages messages and schemas, and compares
# avro with libavro where that is to be had.  Prints TAP.
#
# SEED=n repeats a run; ITERATIONS=n damaged messages a table; SANITIZE=1 builds the formats with the address and
# undefined behaviour sanitizers (needs a server of gcc's own libc heap); TIME=1 only measures.
set -u
PG_CONFIG=${1:-${PG_CONFIG:-pg_config}}
SEED=${SEED:-$((RANDOM * 32768 + RANDOM))}
ITERATIONS=${ITERATIONS:-10000}
BIN=$("$PG_CONFIG" --bindir) || exit 1
SOURCE=$(cd "$(dirname "$0")/../../.." && pwd)
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

# test_query NAME SQL [PATTERN]: passes when the SQL runs and, if given, its result matches.
test_query() {
	local out rc=0
	out=$(query -c "$2") || rc=1
	number=$((number + 1))
	if [ $rc = 0 ] && { [ $# -lt 3 ] || [[ $out =~ $3 ]]; }; then
		echo "ok $number - $1"
	else
		echo "not ok $number - $1"
		failed=1
	fi
	echo "$out" | head -20 | sed 's/^/#   /'
}

mkdir -p "$SCRATCH/test/fuzz" "$SCRATCH/src"
cp -r "$SOURCE/src/format" "$SOURCE/src/connector" "$SOURCE/src/compat" "$SCRATCH/src/"
cp -r "$SOURCE/test/fuzz/format" "$SCRATCH/test/fuzz/"
find "$SCRATCH" -name '*.[od]' -delete
[ "$(id -u)" != 0 ] || chown -R postgres: "$SCRATCH"
as_user make -s -C "$SCRATCH/test/fuzz/format" PG_CONFIG="$PG_CONFIG" ${FLAGS:+COPT="$FLAGS"} >"$SCRATCH/log" 2>&1 || bail "no build"
as_user "$BIN/initdb" -D "$SCRATCH/data" -A trust -N --locale=C.UTF-8 -E UTF8 >"$SCRATCH/log" 2>&1 || bail "no initdb"
as_user env ${PRELOAD:+LD_PRELOAD="$PRELOAD"} "$BIN/pg_ctl" -D "$SCRATCH/data" -l "$SCRATCH/data/server.log" -w \
	-o "-k $SCRATCH -c listen_addresses='' -c fsync=off -c shared_buffers=32MB" start >/dev/null || bail "no server"
for script in format.sql tables.sql; do
	query -v module="$SCRATCH/test/fuzz/format/penstock_format_test" -f "$SCRATCH/test/fuzz/format/$script" >"$SCRATCH/out" ||
		{ cat "$SCRATCH/out"; bail "no tables"; }
done

if [ -n "${TIME:-}" ]; then
	echo "# nanoseconds of CPU a message: the server's JSON parser alone, json, csv, avro; then writing them"
	for _ in 1 2 3 4 5; do query -F ' ' -c "SELECT * FROM times(200000)"; done
	exit
fi

echo "# seed $SEED"
test_query "short cuts are what the input functions give" "SELECT format_value_fuzz($SEED, $ITERATIONS)"
for table in json_fields json_nested json_whole csv_line text_line binary_number avro_record avro_nested; do
	test_query "damaged messages of $table" \
		"SELECT format_fuzz('$table', payload, $SEED, $ITERATIONS) FROM messages WHERE queue = '$table'"
done
test_query "damaged Avro schemas" "SELECT avro_schema_fuzz($SEED, $ITERATIONS / 4)"
[ -n "${SANITIZE:-}" ] || test_query "Avro as libavro has it" "SELECT avro_oracle($SEED, $ITERATIONS / 100)" "values|no libavro"
test_query "large and deep messages" "SELECT * FROM large_messages()"
grep -q 'terminated by signal' "$SCRATCH/data/server.log" && { echo "not ok $((++number)) - no crash"; failed=1; }
echo "1..$number"
exit $failed
