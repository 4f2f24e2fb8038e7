# Output plugins never see an event: not when it is written, merged, removed or rewritten.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../perl";
use Penstock::Test;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = penstock_node('decoding', 'wal_level = logical');
sub sql { my ($sql) = @_; return $node->safe_psql('postgres', $sql); }

my $plugin = $node->psql('postgres', "SELECT pg_create_logical_replication_slot('text', 'test_decoding')") == 0;
sql("CREATE TABLE h (a int PRIMARY KEY, b text);
	CREATE TABLE s (a int, b text) USING stream;
	ALTER TABLE s REPLICA IDENTITY FULL;
	CREATE PUBLICATION everything FOR ALL TABLES;");
sql("SELECT pg_create_logical_replication_slot('binary', 'pgoutput')");

# chunks with and without TOAST, beside a table
sql("INSERT INTO s SELECT i, repeat(md5(i::text), 20) FROM generate_series(1, 20000) i; INSERT INTO h VALUES (1, 'one')");
sql("DO \$\$ BEGIN FOR i IN 1..300 LOOP INSERT INTO s SELECT i, 'small' FROM generate_series(1, 150); COMMIT; END LOOP; END \$\$");
ok($node->poll_query_until('postgres', "SELECT bool_or(merged) FROM penstock.stream_chunks('s')"), 'small chunks are merged');
sql("VACUUM FULL s; ALTER TABLE s ADD COLUMN c int DEFAULT 7; INSERT INTO s VALUES (0, 'x', 1); INSERT INTO h VALUES (2, 'two')");
is(sql("SELECT count(*), sum(a) FROM s"), '65001|206782500', 'nothing is lost');
sql("ALTER TABLE s SET (penstock.retention = '1 ms')");
ok($node->poll_query_until('postgres', "SELECT count(*) = 0 FROM s"), 'retention removes all');
sql("INSERT INTO h VALUES (3, 'three')");

SKIP:
{
	skip 'test_decoding is not installed', 2 unless $plugin;
	my $changes = "FROM pg_logical_slot_peek_changes('text', NULL, NULL) WHERE data LIKE 'table %'";
	is(sql("SELECT string_agg(data, ';') $changes AND data LIKE 'table public.h:%'"),
		"table public.h: INSERT: a[integer]:1 b[text]:'one';table public.h: INSERT: a[integer]:2 b[text]:'two';"
		. "table public.h: INSERT: a[integer]:3 b[text]:'three'",
		'test_decoding sees the table');
	is(sql("SELECT DISTINCT data $changes AND data NOT LIKE 'table public.h:%'"),
		'table public.s: DELETE: (no-tuple-data)', 'and of the stream only deletions without data');
}
# pgoutput: R(elation) and I(nsert) of the table, B(egin) and C(ommit), nothing else
is(sql("SELECT string_agg(DISTINCT chr(get_byte(data, 0)), '' ORDER BY chr(get_byte(data, 0)))
	FROM pg_logical_slot_peek_binary_changes('binary', NULL, NULL, 'proto_version', '1', 'publication_names', 'everything')"),
	'BCIR', 'pgoutput sends the table only');
is(sql("SELECT count(*) FROM pg_logical_slot_peek_binary_changes('binary', NULL, NULL, 'proto_version', '1',
	'publication_names', 'everything') WHERE chr(get_byte(data, 0)) = 'I'"), '3', 'three rows of it');
$node->stop;
done_testing();
