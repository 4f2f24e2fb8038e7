# regress_results.sh NAME LOG DIFFS: counts pg_regress's output, of 15 ("test x ... ok") and of
# later ones (TAP); shows the differences.  Sourced by test/suite.
sed -n -E "s/^(test)? +([^ ]+) +\.\.\. (ok|FAILED).*/\3\t$1 \2/p;
	s/^(ok|not ok) [0-9]+ +[-+] ([^ ]+) .*/\1\t$1 \2/p" "$2" |
	sed 's/^FAILED/not ok/' >"$OUT/counted"
cat "$OUT/counted" >&3
sed 's/\t/ - /' "$OUT/counted"
[ -s "$OUT/counted" ] || { result "not ok" "$1: did not run"; tail -20 "$2"; }
[ ! -s "$3" ] || head -400 "$3"
