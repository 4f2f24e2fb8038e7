# The regression tests under valgrind's memcheck: no error in the library's own code.  Where valgrind is installed,
# which the runner sees to on the machine's own major.
valgrind_suite() {
	local dir=$OUT/valgrind data=$OUT/valgrind/data port=$((20000 + $$ % 10000)) rc
	mkdir -p "$dir/logs"
	initdb -D "$data" -A trust -N --locale=C --encoding=UTF8 >"$dir/initdb.log" || return 1
	{
		cat "$BUILD/test/regress.conf"
		echo "unix_socket_directories = '$dir'"
		echo "listen_addresses = ''"
		echo "port = $port"
		echo "wal_sender_timeout = 0"
	} >>"$data/postgresql.conf"
	valgrind --quiet --error-limit=no --leak-check=no --gen-suppressions=no --num-callers=30 \
		--log-file="$dir/logs/%p" "$BIN/postgres" -D "$data" >"$dir/server.log" 2>&1 &
	local server=$!
	for _ in $(seq 300); do
		PGHOST=$dir PGPORT=$port pg_isready -q && break
		sleep 0.5
	done
	PGHOST=$dir PGPORT=$port createdb regression &&
		PGHOST=$dir PGPORT=$port timeout -k 10 1500 "$PGXS/src/test/regress/pg_regress" --bindir="$BIN" \
			--inputdir="$BUILD" --outputdir="$dir/regress" --use-existing --dbname=regression \
			"${tests[@]}" >"$dir/regress.log" 2>&1
	rc=$?
	kill -INT $server
	wait $server
	"$BUILD/test/checks/valgrind_errors" "$BUILD" "$dir"/logs/* | head -150
	[ "${PIPESTATUS[0]}" -eq 0 ] || return 1
	[ $rc -eq 0 ] || { tail -30 "$dir/regress.log"; head -60 "$dir/regress/regression.diffs"; return 1; }
}

if ! command -v valgrind >/dev/null; then
	result skip "valgrind (not installed)"
else
	# the random transactions of stream_oracle would take ten minutes here
	mapfile -t tests < <(grep -v -e '^#' -e '^$' -e '^stream_oracle$' test/regress.list)
	make -s -C test/fuzz/format PG_CONFIG="$PG_CONFIG" all install >"$OUT/log" 2>&1
	if valgrind_suite >"$OUT/log" 2>&1; then
		result ok "valgrind: regression tests"
	else
		result "not ok" "valgrind: regression tests"
		cat "$OUT/log"
	fi
	rm -rf "$OUT/valgrind"
fi
