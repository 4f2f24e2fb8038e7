# pg_upgrade from an older major, where test/run has brought one here.
[ -z "${PENSTOCK_OLD_SERVER:-}" ] || program upgrade 600 perl -I"$PGXS/src/test/perl" -Itest/perl test/upgrade/run
