# What tools that read a table's pages make of a stream: each works or is refused, none takes a chunk for a row.
use strict;
use warnings;
use Penstock::Test;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = penstock_node('stream_inspection');
my $have = $node->safe_psql('postgres',
	"SELECT count(*) FROM pg_available_extensions WHERE name IN ('pageinspect', 'pgstattuple', 'amcheck', 'pg_visibility')");

if ($have < 4)
{
	$node->stop;
	plan skip_all => 'the server\'s additional modules are not installed';
}

$node->safe_psql('postgres', q{
	CREATE EXTENSION pageinspect; CREATE EXTENSION pgstattuple; CREATE EXTENSION amcheck; CREATE EXTENSION pg_visibility;
	CREATE TABLE s (a int, t text, x float8) USING stream;
	INSERT INTO s SELECT i, 'text ' || i, i FROM generate_series(1, 5000) i;
	INSERT INTO s VALUES (1, 'small', 1);
	CREATE MATERIALIZED VIEW v USING continuous AS SELECT a % 10 AS k, count(*) FROM s GROUP BY 1;
	SELECT penstock.catch_up();
});

sub works
{
	my ($statement, $expected) = @_;
	return is($node->safe_psql('postgres', $statement), $expected, $statement);
}

sub refused
{
	my ($statement, $message) = @_;
	my ($out, $err);
	my $rc = $node->psql('postgres', $statement, stdout => \$out, stderr => \$err);
	isnt($rc, 0, "refused: $statement");
	return like($err, $message, 'says why');
}

works(q{SELECT count(*), min(t_infomask2 & 2047), max(t_infomask2 & 2047) FROM heap_page_items(get_raw_page('s', 0)) WHERE lp_len > 0}, '2|0|0');
refused(q{SELECT count(*) FROM heap_page_item_attrs(get_raw_page('s', 0), 's'::regclass)}, qr/ERROR/);
refused(q{SELECT * FROM pgstattuple('s')}, qr/ERROR/);
refused(q{SELECT * FROM verify_heapam('s')}, qr/ERROR/);
works(q{SELECT count(*) FROM pg_visibility('s')}, '1');
works(q{SELECT count(*) FROM verify_heapam((SELECT reltoastrelid FROM pg_class WHERE oid = 's'::regclass))}, '0');
works(q{SELECT bt_index_check(indexrelid, true) FROM pg_index WHERE indrelid = 'v'::regclass}, '');
works(q{SELECT count(*) FROM s}, '5001');
$node->stop;
done_testing();
