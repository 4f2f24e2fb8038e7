# The server's own regression tests with the library preloaded and the extension in the database.
# Their source is of the nearest version that the package sources have, so that some of them fail on
# this server anyway: a test that fails must give what it gives without the library.
SOURCE=$BUILD/../source$("$PG_CONFIG" --version | sed -E 's/[^0-9]*([0-9]+).*/\1/')/regress

# server_tests NAME OPTION...: one run, its results in $OUT/NAME.
server_tests() {
	local name=$1
	shift
	mkdir -p "$OUT/$name"
	(cd "$SOURCE" && timeout -k 10 1200 "$PGXS/src/test/regress/pg_regress" --bindir="$BIN" --inputdir="$SOURCE" \
		--outputdir="$OUT/$name" --dlpath="$library" --temp-instance="$OUT/$name/instance" --no-locale \
		--max-concurrent-tests=20 --schedule="$SOURCE/parallel_schedule" "$@") >"$OUT/$name.log" 2>&1
	rm -rf "$OUT/$name/instance"
}

# same FILE FILE: but for the two access methods that lists of access methods have more.
same() {
	local filter='/^ (continuous|stream) +\|/d; s/[ -]+/ /g; s/^\([0-9]+ rows?\)$//'
	[ "$(sed -E "$filter" "$1" | md5sum)" = "$(sed -E "$filter" "$2" | md5sum)" ]
}

if [ -d "$SOURCE" ]; then
	library=$OUT/server-library
	mkdir -p "$library"
	gcc -shared -fPIC -O1 -w -I"$("$PG_CONFIG" --includedir-server)" -I"$SOURCE" -o "$library/regress.so" "$SOURCE/regress.c"
	cp "$("$PG_CONFIG" --pkglibdir)"/{refint,autoinc}.so "$library/"
	server_tests server --temp-config="$BUILD/test/regress.conf" --load-extension=penstock
	if [ -s "$OUT/server/regression.diffs" ]; then
		server_tests plain
		for file in "$OUT"/server/results/*.out; do
			test=$(basename "$file" .out)
			if same "$file" "$OUT/plain/results/$test.out"; then
				sed -i -E "s/^((test)? +$test +\.\.\. )FAILED/\1ok/; s/^not (ok [0-9]+ +[-+] $test )/\1/" "$OUT/server.log"
			elif ! cmp -s "$OUT/plain/results/$test.out" "$SOURCE/expected/$test.out"; then
				diff -U3 "$OUT/plain/results/$test.out" "$file"
			fi
		done
	fi
	. test/server/regress_results.sh server "$OUT/server.log" /dev/null
elif [ -z "${PENSTOCK_LIGHT:-}" ]; then
	result skip "server: the source of its regression tests is not to be had"
fi
