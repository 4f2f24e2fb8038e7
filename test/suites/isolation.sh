# pg_isolation_regress: every spec of test/isolation/specs.
(cd test/isolation/specs && ls ./*.spec 2>/dev/null | sed 's|^\./||; s|\.spec$||') >"$OUT/specs"
mapfile -t specs <"$OUT/specs"
if [ ${#specs[@]} -gt 0 ]; then
	mkdir -p "$OUT/isolation"
	timeout -k 10 900 "$PGXS/src/test/isolation/pg_isolation_regress" --bindir="$BIN" \
		--inputdir="$BUILD/test/isolation" --outputdir="$OUT/isolation" \
		--temp-instance="$OUT/isolation/instance" --temp-config="$BUILD/test/regress.conf" \
		--no-locale --encoding=UTF8 --load-extension=penstock \
		--dbname=isolation_regression "${specs[@]}" >"$OUT/isolation.log" 2>&1
	. test/server/regress_results.sh isolation "$OUT/isolation.log" "$OUT/isolation/regression.diffs"
fi
