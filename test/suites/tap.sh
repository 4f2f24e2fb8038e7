# TAP: every test/t/*.pl, with the server's own PostgreSQL::Test modules.  What does not depend on the server's version and
# takes minutes is run on the first major only.
for file in test/t/*.pl; do
	case ${PENSTOCK_LIGHT:+light} in
		light) case $file in */pipe_faults.pl|*/pipe_pressure.pl|*/pipe_retries.pl|*/claim_damage.pl|*/pipe_dedup_key.pl) continue ;; esac ;;
	esac
	[ ! -f "$file" ] || program "$(basename "$file" .pl)" 900 perl -I"$PGXS/src/test/perl" -Itest/perl "$file"
done
