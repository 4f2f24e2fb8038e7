# pg_regress: the tests of test/regress.list, in that order, on a temporary instance.
grep -v -e '^#' -e '^$' test/regress.list >"$OUT/tests"
mapfile -t tests <"$OUT/tests"
sort "$OUT/tests" >"$OUT/listed"
(cd sql && ls ./*.sql | sed 's|^\./||; s|\.sql$||' | sort) >"$OUT/present"
diff "$OUT/listed" "$OUT/present" >"$OUT/log" ||
	{ result "not ok" "regress: test/regress.list and sql/ disagree"; cat "$OUT/log"; }
# the formats' tests call them through a module of its own
check "build formats" 300 make -s -C test/fuzz/format WERROR=-Werror PG_CONFIG="$PG_CONFIG" all install
if [ ${#tests[@]} -gt 0 ]; then
	timeout -k 10 1200 "$PGXS/src/test/regress/pg_regress" --bindir="$BIN" --inputdir="$BUILD" \
		--outputdir="$OUT/regress" --temp-instance="$OUT/regress/instance" \
		--temp-config="$BUILD/test/regress.conf" --no-locale --encoding=UTF8 \
		--dbname=regression "${tests[@]}" >"$OUT/regress.log" 2>&1
	. test/server/regress_results.sh regress "$OUT/regress.log" "$OUT/regress/regression.diffs"
fi
