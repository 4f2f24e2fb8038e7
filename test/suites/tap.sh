# TAP: every test/t/*.pl, with the server's own PostgreSQL::Test modules.
for file in test/t/*.pl; do
	[ ! -f "$file" ] || program "$(basename "$file" .pl)" 900 perl -I"$PGXS/src/test/perl" -Itest/perl "$file"
done
