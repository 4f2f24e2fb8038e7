# pg_dump and restore keep streams, views, options and the aggregates of events that are long gone,
# also of views that lag at the moment of the dump.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../perl";
use Penstock::Session;
use Penstock::Test;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = penstock_node('dump', 'autovacuum_naptime = 1s');
our $db = 'postgres';
sub sql { my ($sql) = @_; return $node->safe_psql($db, $sql); }

sql("CREATE ROLE someone;
	CREATE TABLE events (ts timestamptz, k int, v numeric, note text) USING stream WITH (penstock.event_time = 'ts');
	CREATE TABLE other (k int, t timestamptz DEFAULT '2024-01-01', CHECK (k > 0)) USING stream;
	CREATE TABLE parts (k int, v int) PARTITION BY LIST (k);
	CREATE TABLE parts_1 PARTITION OF parts FOR VALUES IN (1) USING stream;
	CREATE TABLE parts_d PARTITION OF parts DEFAULT USING stream;
	CREATE TABLE names (k int PRIMARY KEY, name text);
	INSERT INTO names SELECT i, 'name ' || i FROM generate_series(0, 9) i;
	CREATE MATERIALIZED VIEW by_key USING continuous AS
		SELECT k, count(*) AS n, avg(v) AS mean, stddev_samp(v) AS spread, max(note) AS note FROM events GROUP BY k;
	CREATE MATERIALIZED VIEW total USING continuous AS SELECT count(*) AS n, sum(v) AS v FROM events;
	CREATE MATERIALIZED VIEW by_name USING continuous AS
		SELECT name, count(*) AS n FROM events JOIN names USING (k) GROUP BY name HAVING count(*) > 5;
	CREATE MATERIALIZED VIEW notes USING continuous AS SELECT k, note FROM events WHERE k = 3;
	CREATE MATERIALIZED VIEW of_parts USING continuous AS SELECT k, sum(v) AS v FROM parts GROUP BY k;
	CREATE MATERIALIZED VIEW from_now USING continuous WITH (penstock.backfill = off) AS SELECT count(*) AS n FROM other;
	CREATE INDEX total_n ON total (n);
	COMMENT ON MATERIALIZED VIEW total IS 'all of it';
	GRANT SELECT ON total TO someone;
	ALTER MATERIALIZED VIEW by_name OWNER TO someone;
	GRANT SELECT ON events, names TO someone;
	INSERT INTO events SELECT '2020-01-01'::timestamptz + i * interval '1 s', i % 10, i / 7.0, 'note ' || i % 13 FROM generate_series(1, 3000) i;
	INSERT INTO other SELECT i FROM generate_series(1, 50) i;
	INSERT INTO parts SELECT i % 3, i FROM generate_series(1, 300) i;
	SELECT penstock.catch_up();
	ALTER TABLE events SET (penstock.retention = '1 day');");
ok($node->poll_query_until($db, 'SELECT count(*) = 0 FROM events'), 'the events are past their retention and gone');

# events that one view has and another has not consumed
sql("SELECT penstock.pause('total')");
sql("INSERT INTO events SELECT now(), i % 10, i, 'new' FROM generate_series(1, 100) i");
sql("SELECT penstock.catch_up('by_key')");
sql("SELECT penstock.catch_up('notes')");

my @relations = qw(events other parts names by_key by_name notes of_parts from_now);
my %before = map { $_ => sql("SELECT * FROM $_ ORDER BY 1" . ($_ eq "from_now" ? "" : ", 2")) } @relations;
is(sql('SELECT n FROM total'), '3000', 'the paused view lags');

my $path = $node->basedir;
$node->command_ok([ 'pg_dump', '--no-sync', '-f', "$path/plain.sql", $node->connstr($db) ], 'plain dump');
$node->command_ok([ 'pg_dump', '--no-sync', '-Fc', '-f', "$path/custom.dump", $node->connstr($db) ], 'custom dump');

for my $how (qw(plain custom))
{
	my $name = "copy_$how";
	sql("CREATE DATABASE $name");
	if ($how eq 'plain')
	{
		$node->command_ok([ 'psql', '-X', '-v', 'ON_ERROR_STOP=1', '-f', "$path/plain.sql", $node->connstr($name) ], 'plain restore');
	}
	else
	{
		$node->command_ok([ 'pg_restore', '--exit-on-error', '-j', '2', '-d', $node->connstr($name), "$path/custom.dump" ], 'parallel restore');
	}
	local $db = $name;
	sql('SELECT penstock.resume(); SELECT penstock.catch_up()');
	for my $relation (@relations)
	{
		is(sql("SELECT * FROM $relation ORDER BY 1" . ($relation =~ /from_now/ ? '' : ', 2')), $before{$relation}, "$how: $relation");
	}
	is(sql('SELECT n FROM total'), '3100', "$how: the view that lagged has everything");
	is(sql("SELECT array_agg(option ORDER BY option) FROM pg_class, unnest(reloptions) option WHERE oid = 'events'::regclass"),
		'{penstock.event_time=ts,"penstock.retention=1 day"}', "$how: options of the stream");
	is(sql("SELECT obj_description('total'::regclass), relowner::regrole FROM pg_class WHERE relname = 'by_name'"), 'all of it|someone', "$how: comment and owner");
	is(sql("SELECT has_table_privilege('someone', 'total', 'SELECT'), count(*) FROM pg_indexes WHERE indexname = 'total_n'"), 't|1', "$how: grant and index");

	# and they go on
	sql("INSERT INTO events SELECT now(), i % 10, 1, 'later' FROM generate_series(1, 50) i; INSERT INTO parts VALUES (1, 5), (7, 7);
		INSERT INTO other VALUES (9); SELECT penstock.catch_up()");
	is(sql('SELECT n FROM total'), '3150', "$how: a total goes on");
	is(sql('SELECT sum(n) FROM by_key'), '3150', "$how: groups go on");
	is(sql('SELECT sum(n) FROM by_name'), '3150', "$how: a lookup goes on");
	is(sql(differences('of_parts', 'SELECT k, sum(v) FROM parts GROUP BY k')), '0', "$how: partitions go on");
	is(sql('SELECT n FROM from_now'), '51', "$how: a view that was not filled goes on");
}

# a dump is of its snapshot: the engine consumes, while it runs, events that the snapshot has and the view had not yet
{
	sql("SELECT penstock.pause('total'); INSERT INTO events SELECT now(), 1, 1, 'seen' FROM generate_series(1, 7)");
	my $dump = Penstock::Session->new($node, 'postgres');
	my $snapshot = $dump->query('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT pg_export_snapshot()');
	my $expected = $dump->query('SELECT count(*) FROM events') + 3000;
	sql("INSERT INTO events SELECT now(), 1, 1, 'unseen' FROM generate_series(1, 70); SELECT penstock.resume('total'); SELECT penstock.catch_up()");
	isnt(sql('SELECT n FROM total'), $expected, 'the view has gone on');
	$node->command_ok([ 'pg_dump', '--no-sync', "--snapshot=$snapshot", '-f', "$path/late.sql", $node->connstr($db) ], 'dump of a snapshot');
	$dump->quit;
	sql('CREATE DATABASE late');
	$node->command_ok([ 'psql', '-X', '-v', 'ON_ERROR_STOP=1', '-f', "$path/late.sql", $node->connstr('late') ], 'its restore');
	local $db = 'late';
	sql('SELECT penstock.resume(); SELECT penstock.catch_up()');
	is(sql('SELECT n FROM total'), $expected, 'the restored view has what the snapshot has');
}

# a dump without data restores to empty views that work
sql('CREATE DATABASE bare');
$node->command_ok([ 'pg_dump', '--no-sync', '--schema-only', '-f', "$path/bare.sql", $node->connstr('postgres') ], 'dump of the schema');
$node->command_ok([ 'psql', '-X', '-v', 'ON_ERROR_STOP=1', '-f', "$path/bare.sql", $node->connstr('bare') ], 'restore of the schema');
{
	local $db = 'bare';
	sql('REFRESH MATERIALIZED VIEW total');
	sql("INSERT INTO events VALUES (now(), 1, 2, 'x'); SELECT penstock.catch_up('total')");
	is(sql('SELECT n, v FROM total'), '1|2', 'a view restored without data works after REFRESH');
}
$node->stop;
done_testing();
