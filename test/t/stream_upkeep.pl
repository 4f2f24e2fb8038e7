# Merging keeps what readers see; retention keeps the size steady; writers' memory is bounded.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../perl";
use Penstock::Test;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = penstock_node('upkeep', 'autovacuum = off');
sub sql { my ($sql) = @_; return $node->safe_psql('postgres', $sql); }
sub wait_for { my ($sql, $what) = @_; ok($node->poll_query_until('postgres', $sql), $what); }

# merging, with readers whose snapshots are older
sql("CREATE TABLE s (a int, t text, d date DEFAULT '2026-01-01') USING stream;
	CREATE TABLE h (a int, t text, d date)");
sql("DO \$\$ BEGIN FOR i IN 1..300 LOOP
	INSERT INTO s SELECT i * j, CASE WHEN j % 3 > 0 THEN 't' || i END FROM generate_series(1, 150) j; COMMIT;
	END LOOP; END \$\$");
sql("INSERT INTO h SELECT i * j, CASE WHEN j % 3 > 0 THEN 't' || i END, '2026-01-01'
	FROM generate_series(1, 300) i, generate_series(1, 150) j");
my $difference = "SELECT count(*) FROM ((TABLE s EXCEPT ALL TABLE h) UNION ALL (TABLE h EXCEPT ALL TABLE s)) d";
wait_for("SELECT bool_or(merged) AND count(*) < 200 FROM penstock.stream_chunks('s')", 'small chunks are merged');
is(sql($difference), '0', 'and hold the same events');
sql("ALTER TABLE s ADD COLUMN x int DEFAULT 3; ALTER TABLE s DROP COLUMN d; ALTER TABLE h DROP COLUMN d; ALTER TABLE h ADD x int DEFAULT 3");
sql("DO \$\$ BEGIN FOR i IN 1..300 LOOP
	INSERT INTO s SELECT -i * j, 'later', i FROM generate_series(1, 150) j; COMMIT; END LOOP; END \$\$");
sql("INSERT INTO h SELECT -i * j, 'later', i FROM generate_series(1, 300) i, generate_series(1, 150) j");
wait_for("SELECT count(*) FILTER (WHERE merged) > 1 AND count(*) < 300 FROM penstock.stream_chunks('s')",
	'chunks of before and after ALTER TABLE are merged');
is(sql($difference), '0', 'and hold the same events');
sql("VACUUM s");
is(sql("SELECT reltuples FROM pg_class WHERE relname = 's'"), '90000', 'VACUUM counts events');
is(sql($difference), '0', 'and takes nothing');

# retention by event time: whole chunks whose youngest event is too old
sql("CREATE TABLE r (at timestamptz, v text) USING stream WITH (penstock.event_time = 'at')");
sql("INSERT INTO r SELECT now() - interval '3 days', 'old' FROM generate_series(1, 1000)");
sql("INSERT INTO r SELECT now() - interval '3 days' * random(), 'mixed' FROM generate_series(1, 1000)");
sql("INSERT INTO r VALUES (NULL, 'timeless')");
sql("ALTER TABLE r SET (penstock.retention = '1 day')");
wait_for("SELECT count(*) = 1001 FROM r", 'retention removes the old chunk');
is(sql("SELECT string_agg(DISTINCT v, ' ' ORDER BY v) FROM r"), 'mixed timeless', 'and only that');
for my $type ('timestamp', 'date')
{
	sql("CREATE TABLE r_$type (at $type) USING stream WITH (penstock.event_time = 'at', penstock.retention = '1 day')");
	sql("INSERT INTO r_$type SELECT now() - interval '3 days'");
	sql("INSERT INTO r_$type SELECT now() - interval '10 hours'");
	wait_for("SELECT count(*) = 1 FROM r_$type", "retention by $type");
}

# a consumer that has not read them keeps them
sql("CREATE TABLE c (at timestamptz, v int) USING stream WITH (penstock.event_time = 'at');
	CREATE MATERIALIZED VIEW cv USING continuous AS SELECT count(*) AS n FROM c;
	SELECT penstock.pause('cv')");
sql("INSERT INTO c VALUES (now() - interval '3 days', 1)");
sql("CREATE TABLE other (at timestamptz) USING stream WITH (penstock.event_time = 'at')");
sql("INSERT INTO other VALUES (now() - interval '3 days')");
sql("ALTER TABLE c SET (penstock.retention = '1 day')");
sql("ALTER TABLE other SET (penstock.retention = '1 day')");
wait_for("SELECT count(*) = 0 FROM other", 'retention has come by');
is(sql("SELECT count(*) FROM c"), '1', 'what a view has not read stays');
sql("SELECT penstock.resume('cv'); SELECT penstock.catch_up('cv')");
is(sql("SELECT n FROM cv"), '1', 'the view reads it');
sql("ALTER TABLE c SET (penstock.retention = '23 hours')");	# looks at it at once
wait_for("SELECT count(*) = 0 FROM c", 'then it goes');
is(sql("SELECT n FROM cv"), '1', 'and the view keeps its result');
sql("SELECT penstock.pause('cv')");
sql("INSERT INTO c VALUES (now() - interval '3 days', 1)");
sql("ALTER TABLE c SET (penstock.retention_force = on, penstock.retention = '22 hours')");
wait_for("SELECT count(*) = 0 FROM c", 'unless retention is forced');

# a steady rate has a steady size
sql("CREATE TABLE flow (v text) USING stream WITH (penstock.retention = '1 ms')");
my @size;
for my $round (1 .. 8)
{
	sql("INSERT INTO flow SELECT md5(i::text || $round) FROM generate_series(1, 20000) i");
	$node->poll_query_until('postgres', 'SELECT count(*) = 0 FROM flow') or fail('retention');
	sql("VACUUM flow");
	push @size, sql("SELECT pg_total_relation_size('flow')");
}
cmp_ok($size[7], '<=', $size[1] * 1.1, 'the size stays: ' . join(' ', @size));

# a writer's memory: one stream, and many partitions in one COPY
sub private_memory
{
	my ($table, $copy) = @_;
	my $ours = $node->pg_version >= 18
		? "EXISTS (SELECT FROM pg_backend_memory_contexts p WHERE p.name ILIKE 'penstock%' AND p.path[cardinality(p.path)] = ANY (c.path))"
		: "name LIKE 'penstock%' OR parent LIKE 'penstock%'";
	return sql("BEGIN; $copy;
		SELECT sum(total_bytes) FROM pg_backend_memory_contexts c WHERE $ours; ROLLBACK")
}
sql("CREATE TABLE m (a int, t text) PARTITION BY HASH (a)");
sql("DO \$\$ BEGIN FOR i IN 0..99 LOOP
	EXECUTE format('CREATE TABLE m_%s PARTITION OF m FOR VALUES WITH (MODULUS 100, REMAINDER %s) USING stream', i, i);
	END LOOP; END \$\$");
cmp_ok(private_memory('m', "INSERT INTO m SELECT i, md5(i::text) || md5(i::text) FROM generate_series(1, 600000) i"),
	'<', 48 * 1024 * 1024, 'buffers of many partitions are bounded');
sql("CREATE TABLE one (a int, t text) USING stream");
cmp_ok(private_memory('one', "INSERT INTO one SELECT i, md5(i::text) || md5(i::text) FROM generate_series(1, 600000) i"),
	'<', 16 * 1024 * 1024, 'that of one stream is small');
$node->stop;
done_testing();
