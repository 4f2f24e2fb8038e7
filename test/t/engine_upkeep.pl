# Merge and retention between batches, and what a damaged chunk stops.
use strict;
use warnings;
use Penstock::Test;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = penstock_node('engine_upkeep', 'autovacuum = off');
my ($rc, $out, $err);

sub sql { return $node->safe_psql('postgres', $_[0]); }

# commits(table, n): n transactions of one event each, values 1 .. n.
sub commits
{
	my ($table, $n) = @_;
	return sql("DO \$\$ BEGIN FOR i IN 1 .. $n LOOP INSERT INTO $table VALUES (now(), i); COMMIT; END LOOP; END \$\$");
}

# ---- merge ----

sql(q{
	CREATE TABLE s (ts timestamptz, v int) USING stream;
	CREATE MATERIALIZED VIEW n USING continuous AS SELECT v % 10 AS k, count(*) AS n FROM s GROUP BY 1;
	CREATE MATERIALIZED VIEW paused USING continuous AS SELECT count(*) AS n FROM s;
	CREATE TABLE alone (ts timestamptz, v int) USING stream});
commits('s', 5000);
ok($node->poll_query_until('postgres', q{SELECT merges > 0 FROM penstock.stat_stream WHERE stream = 's'::regclass}),
	'small chunks are merged');
cmp_ok(sql(q{SELECT chunks FROM penstock.stat_stream WHERE stream = 's'::regclass}), '<', 2000, 'into few');
is(sql('SELECT count(*), sum(v) FROM s'), '5000|12502500', 'no event is lost or doubled');
sql('SELECT penstock.catch_up()');
is(sql(differences('n', 'SELECT v % 10 AS k, count(*) AS n FROM s GROUP BY 1')), '0', 'the view counts no event again');
sql('SELECT pg_terminate_backend(pid) FROM penstock.stat_worker');
commits('s', 10);
sql('SELECT penstock.catch_up()');
is(sql(differences('n', 'SELECT v % 10 AS k, count(*) AS n FROM s GROUP BY 1')), '0', 'nor does a new worker');
commits('alone', 5000);
ok($node->poll_query_until('postgres', q{SELECT merges > 0 FROM penstock.stat_stream WHERE stream = 'alone'::regclass}),
	'so are those of a stream that no view reads');

# a paused view has not seen what comes now: that stays as it is
sql(q{SELECT penstock.pause('paused')});
my $merges = sql(q{SELECT merges FROM penstock.stat_stream WHERE stream = 's'::regclass});
commits('s', 5000);
sql('SELECT penstock.catch_up()');
sql(q{SELECT penstock.resume('paused')});
sql('SELECT penstock.catch_up()');
is(sql('SELECT n FROM paused'), '10010', 'a paused view gets every event, merged or not');
is(sql(differences('n', 'SELECT v % 10 AS k, count(*) AS n FROM s GROUP BY 1')), '0', 'and so do the others');

# ---- retention ----

sql(q{
	CREATE TABLE r (ts timestamptz, v int) USING stream WITH (penstock.event_time = 'ts', penstock.retention = '1 hour');
	CREATE MATERIALIZED VIEW rv USING continuous AS SELECT count(*) AS n FROM r});
sql(q{INSERT INTO r VALUES (now(), 1)});
sql(q{INSERT INTO r VALUES (now() - interval '2 hours', 2)});
ok($node->poll_query_until('postgres', 'SELECT count(*) = 1 FROM r'), 'events past their time are removed');
is(sql('SELECT v FROM r'), '1', 'and only those');
sql('SELECT penstock.catch_up()');
is(sql('SELECT n FROM rv'), '2', 'the view has counted them before');
sql(q{SELECT penstock.pause('rv')});
sql(q{INSERT INTO r VALUES (now() - interval '2 hours', 3)});
sql(q{ALTER TABLE r SET (penstock.retention = '30 minutes')});
sql(q{INSERT INTO alone VALUES (now(), 0)});
sql('SELECT penstock.catch_up()');
is(sql('SELECT count(*) FROM r'), '2', 'a paused view keeps its events');
sql(q{SELECT penstock.resume('rv')});
ok($node->poll_query_until('postgres', 'SELECT count(*) = 1 FROM r'), 'until it has them');
is(sql('SELECT n FROM rv'), '3', 'and it had');
sql(q{SELECT penstock.pause('rv')});
sql(q{INSERT INTO r VALUES (now() - interval '2 hours', 4)});
sql(q{ALTER TABLE r SET (penstock.retention_force = on)});
ok($node->poll_query_until('postgres', 'SELECT count(*) = 1 FROM r'), 'retention_force does not wait');
ok($node->poll_query_until('postgres', q{SELECT lost_rows = 1 FROM penstock.stat_stream WHERE stream = 'r'::regclass}), 'what is lost is counted');
like(slurp_file($node->logfile), qr/retention of stream "r" removed 1 events that some continuous view had not consumed/, 'and said in the log');
sql(q{SELECT penstock.resume('rv')});
sql('SELECT penstock.catch_up()');
is(sql('SELECT n FROM rv'), '3', 'the view goes on without');
sql(q{SELECT penstock.stat_reset()});
is(sql(q{SELECT lost_rows, retained_rows FROM penstock.stat_stream WHERE stream = 'r'::regclass}), '0|0', 'counters can be reset');

# ---- a damaged chunk ----

sql(q{
	CREATE TABLE d (v int) USING stream;
	CREATE MATERIALIZED VIEW dv USING continuous AS SELECT count(*) AS n FROM d;
	CREATE TABLE e (v int) USING stream;
	CREATE MATERIALIZED VIEW ev USING continuous AS SELECT count(*) AS n FROM e});
sql('SELECT penstock.catch_up()');
sql(q{SELECT penstock.pause('dv')});
sql('INSERT INTO d VALUES (1)');
my $file = $node->data_dir . '/' . sql(q{SELECT pg_relation_filepath('d')});
$node->stop;
open(my $page, '+<:raw', $file) or die "$file: $!";
seek $page, 24, 0;
read $page, my $pointer, 4;
seek $page, (unpack('V', $pointer) & 0x7fff) + 24, 0;
print {$page} "\xee\xee\xee\xee";
close $page;
$node->start;
sql(q{SELECT penstock.resume('dv')});
sql('INSERT INTO e VALUES (1)');
sql(q{SELECT penstock.catch_up('ev')});
is(sql('SELECT n FROM ev'), '1', 'other views go on');
($rc, $out, $err) = $node->psql('postgres', q{SELECT penstock.catch_up('dv')});
like($err, qr/has stopped with an error.*XX001/s, 'the view over it stops and says why');

$node->stop;
done_testing();
