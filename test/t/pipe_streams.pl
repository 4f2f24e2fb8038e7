# Pipes that read a stream, or write one: positions are snapshots, as of views; backlogs in slices, retention, partitions, late commits.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../connector";
use Penstock::Test;
use Penstock::Session;
use TestQueue;
use Test::More;

my $node = penstock_node('pipe_streams', 'fsync = off', 'penstock.tail_size = 1024', 'autovacuum = off');
my $q = TestQueue->new($node);
sub sql { return $q->sql($_[0]); }

# same(what): every pipe's target equals what it is to make of the stream.
sub same
{
	my ($what) = @_;
	my $ok = $q->true('SELECT (SELECT count(*) FROM s) = (SELECT count(*) FROM copied)');
	is(sql(differences('copied', 'SELECT k, v FROM s')), '0', "$what: stream to table") or diag($q->state('copy'), ': ', $q->error('copy'));
	$q->true('SELECT (SELECT count(*) FROM s) = (SELECT count(*) FROM second)');
	is(sql(differences('second', 'SELECT k, v FROM s')), '0', "$what: stream to stream") or diag($q->state('stream'), ': ', $q->error('stream'));
	return $ok;
}

sql(q{
	CREATE TABLE s (k int, v int) USING stream;
	INSERT INTO s SELECT i % 10, i FROM generate_series(1, 1000) i;
	CREATE TABLE copied (k int, v int);
	CREATE TABLE second (k int, v int) USING stream;
	CREATE TABLE fresh (k int, v int);
	CREATE FOREIGN TABLE sink (k int, v int) SERVER tq OPTIONS (queue 'sink');
	CALL penstock.create_pipe('copy', 'INSERT INTO copied SELECT k, v FROM s', backfill => true);
	CALL penstock.create_pipe('stream', 'INSERT INTO second SELECT k, v FROM s', backfill => true);
	CALL penstock.create_pipe('sink', 'INSERT INTO sink SELECT k, v FROM s WHERE v % 100 = 0', backfill => true);
	CALL penstock.create_pipe('fresh', 'INSERT INTO fresh SELECT k, v FROM s')});
same('backfill');
ok(wait_until(60, sub { $q->count('sink') == 10 }), 'stream to queue');
sql('INSERT INTO s SELECT 11, i FROM generate_series(1, 100) i');
same('an insert');
ok($q->true('SELECT count(*) = 100 FROM fresh'), 'without backfill it begins with what comes') or diag(sql('SELECT count(*) FROM fresh'));
sql(q{SELECT penstock.catch_up('copy')});
is(sql('SELECT count(*) FROM copied'), '1100', 'catch_up of a pipe');
sql('INSERT INTO s VALUES (11, 101)');
sql(q{SELECT penstock.catch_up('copy')});
is(sql('SELECT count(*) FROM copied'), '1101', 'waits for what was committed before');

# ---- writers ----

my $long = Penstock::Session->new($node);
$long->must('BEGIN; INSERT INTO s SELECT 12, i FROM generate_series(1, 5000) i; SELECT count(*) FROM s');
sql('INSERT INTO s SELECT 13, i FROM generate_series(1, 10) i');
ok($q->true('SELECT count(*) = 10 FROM copied WHERE k = 13'), 'a long writer holds up nobody');
sql(q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'penstock pipe'});
sql('INSERT INTO s VALUES (13, 11)');
ok($q->true('SELECT count(*) = 11 FROM copied WHERE k = 13'), 'a worker terminated comes back');
$long->must('COMMIT');
same('a late commit');
sql(q{BEGIN; INSERT INTO s SELECT 14, i FROM generate_series(1, 100) i; PREPARE TRANSACTION 'p1'});
sql(q{BEGIN; INSERT INTO s SELECT 15, i FROM generate_series(1, 100) i; PREPARE TRANSACTION 'p2'});
sql('INSERT INTO s VALUES (16, 1)');
same('prepared transactions');
$long->quit;
$node->restart;
$long = Penstock::Session->new($node);
sql(q{COMMIT PREPARED 'p1'});
same('committed after a restart');
sql(q{ROLLBACK PREPARED 'p2'});
sql(q{BEGIN; INSERT INTO s VALUES (20, 2); SAVEPOINT a; INSERT INTO s SELECT 21, i FROM generate_series(1, 100) i; SELECT count(*) FROM s; ROLLBACK TO a; INSERT INTO s VALUES (20, 4); COMMIT});
same('subtransactions');

# ---- backlogs ----

sql(q{SELECT penstock.pause('copy'), penstock.pause('stream'), penstock.pause('sink')});
sql(q{DO $$ BEGIN FOR i IN 1 .. 2500 LOOP INSERT INTO s VALUES (30, i); COMMIT; END LOOP; END $$});
sql('INSERT INTO s SELECT 31 + i % 3, i FROM generate_series(1, 50000) i');
my $other = Penstock::Session->new($node);
$other->must('BEGIN; INSERT INTO s SELECT 34, i FROM generate_series(1, 3000) i; SELECT count(*) FROM s');
sql(q{CALL penstock.alter_pipe('copy', batch_rows => 300); CALL penstock.alter_pipe('stream', batch_rows => 1000)});
sql(q{SELECT penstock.resume('copy'), penstock.resume('stream'), penstock.resume('sink')});
ok($q->true(q{SELECT count(*) > 0 FROM copied WHERE k >= 30}), 'a backlog is worked off in slices');
$other->must('COMMIT');
sql(q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'penstock pipe'});
same('a backlog in slices, with new workers on the way');
is(sql('SELECT count(*) FROM penstock.position WHERE upto IS NOT NULL'), '0', 'no slice is left under way') if sql(q{SELECT penstock.catch_up('copy'), penstock.catch_up('stream'), penstock.catch_up('sink')}) ne 'x';
ok(wait_until(60, sub { $q->count('sink') == sql('SELECT count(*) FROM s WHERE v % 100 = 0') }), 'the sink too');
is(sql(q{SELECT count(*) FROM (SELECT convert_from(payload, 'UTF8')::jsonb FROM testqueue.messages('tq', 'sink') EXCEPT ALL SELECT to_jsonb(s) FROM s WHERE v % 100 = 0) a}), '0', 'exactly those');

# ---- merged chunks, VACUUM, ALTER ----

sql('VACUUM s');
sql('INSERT INTO s VALUES (40, 1)');
same('after VACUUM');
sql('ALTER TABLE s ADD COLUMN extra text; INSERT INTO s VALUES (41, 1, \'x\')');
same('a column more');
$other->must('BEGIN; ALTER TABLE s ADD COLUMN more int; INSERT INTO s VALUES (42, 2)');
$other->must('COMMIT');
same('ALTER TABLE and INSERT in one transaction');
sql('ALTER TABLE s DROP COLUMN extra');
sql('INSERT INTO s VALUES (43, 1)');
same('and one less');
sql('ALTER TABLE s RENAME COLUMN more TO less');
sql('INSERT INTO s VALUES (44, 1)');
same('renamed');

# ---- two pipes and a view over one stream; a chain ----

sql(q{
	CREATE MATERIALIZED VIEW counted USING continuous AS SELECT k, count(*) AS n FROM second GROUP BY k;
	CREATE TABLE third (k int, v int) USING stream;
	CALL penstock.create_pipe('chain', 'INSERT INTO third SELECT k, v FROM second', backfill => true)});
sql('INSERT INTO s SELECT 50, i FROM generate_series(1, 1000) i');
same('a chain');
ok($q->true('SELECT (SELECT count(*) FROM third) = (SELECT count(*) FROM s)'), 'stream to stream to stream');
sql('SELECT penstock.catch_up()');
is(sql(differences('counted', 'SELECT k, count(*) AS n FROM s GROUP BY k')), '0', 'a view at the end');

# a statement that looks up a stream beside its source
sql(q{
	CREATE TABLE names (k int, name text) USING stream;
	INSERT INTO names VALUES (50, 'fifty'), (51, 'fifty-one');
	CREATE TABLE named (v int, name text);
	CALL penstock.create_pipe('named', 'INSERT INTO named SELECT v, name FROM s JOIN names USING (k)', source => 's')});
sql('INSERT INTO s VALUES (51, 1)');
ok($q->true(q{SELECT count(*) = 1 FROM named WHERE name = 'fifty-one'}), 'another stream is looked up whole');
sql(q{INSERT INTO names VALUES (52, 'fifty-two'); INSERT INTO s VALUES (52, 1), (51, 2)});
ok($q->true('SELECT count(*) = 3 FROM named'), 'each time');
same('meanwhile');

# ---- partitions ----

sql(q{
	CREATE TABLE root (k int, v int) PARTITION BY LIST (k);
	CREATE TABLE root1 PARTITION OF root FOR VALUES IN (1) USING stream;
	CREATE TABLE rooted (k int, v int);
	CALL penstock.create_pipe('rooted', 'INSERT INTO rooted SELECT k, v FROM root', backfill => true);
	INSERT INTO root SELECT 1, i FROM generate_series(1, 100) i});
ok($q->true('SELECT count(*) = 100 FROM rooted'), 'a partitioned stream');
sql('BEGIN; CREATE TABLE root2 PARTITION OF root FOR VALUES IN (2) USING stream; INSERT INTO root SELECT 2, i FROM generate_series(1, 100) i; COMMIT');
ok($q->true('SELECT count(*) = 200 FROM rooted'), 'a partition more');
sql('ALTER TABLE root DETACH PARTITION root1; INSERT INTO root SELECT 2, i FROM generate_series(1, 10) i');
ok($q->true('SELECT count(*) = 210 FROM rooted'), 'one detached');
sql('INSERT INTO root1 VALUES (1, 1); DROP TABLE root2; CREATE TABLE root3 PARTITION OF root FOR VALUES IN (3) USING stream; INSERT INTO root VALUES (3, 1)');
ok($q->true('SELECT count(*) = 1 FROM rooted WHERE k = 3'), 'one dropped, one made');
is(sql('SELECT count(*) FROM rooted'), '211', 'what was detached counts no more');

# ---- retention waits for a pipe ----

sql(q{
	CREATE TABLE kept (at timestamptz, n int) USING stream WITH (penstock.event_time = 'at', penstock.retention = '1 hour');
	CREATE TABLE kept_done (n int CHECK (n <> 0));
	CALL penstock.create_pipe('kept', 'INSERT INTO kept_done SELECT n FROM kept', backfill => true, on_error => 'stop');
	SELECT penstock.pause('kept');
	INSERT INTO kept SELECT now() - interval '2 hours', i FROM generate_series(1, 100) i});
is(sql(q{SELECT count(*) FROM kept}), '100', 'old events that a paused pipe needs');
sql('INSERT INTO kept VALUES (now(), 101)');
my $again = 0;
# an upkeep has come by when a stream without a consumer has been cut
sql(q{CREATE TABLE cut (at timestamptz, n int) USING stream WITH (penstock.event_time = 'at', penstock.retention = '1 hour');
	INSERT INTO cut SELECT now() - interval '2 hours', i FROM generate_series(1, 100) i});
ok($q->true('SELECT count(*) = 0 FROM cut'), 'a stream without a consumer is cut');
is(sql(q{SELECT count(*) FROM kept}), '101', 'that of a paused pipe is not');
sql(q{SELECT penstock.resume('kept')});
ok($q->true('SELECT count(*) = 101 FROM kept_done'), 'resumed it has them all');
ok($q->true('SELECT count(*) = 1 FROM kept'), 'then they go');
sql(q{SELECT penstock.pause('kept'); INSERT INTO kept SELECT now() - interval '2 hours', i FROM generate_series(1, 100) i});
my $error = $q->fails(q{ALTER TABLE kept SET (penstock.retention_force = on)});
ok($q->true('SELECT count(*) <= 1 FROM kept'), 'retention_force does not wait') unless $error;
sql(q{SELECT penstock.resume('kept'); INSERT INTO kept VALUES (now(), 102)});
ok($q->true('SELECT count(*) = 1 FROM kept_done WHERE n = 102'), 'the pipe goes on with what is there') or diag($q->state('kept'), $q->error('kept'));

# ---- TRUNCATE, VACUUM FULL ----

sql(q{SELECT penstock.catch_up('copy')});
sql('BEGIN; TRUNCATE s; INSERT INTO s VALUES (60, 1); COMMIT');
ok($q->true('SELECT count(*) = 1 FROM copied WHERE k = 60'), 'TRUNCATE and INSERT');
sql('TRUNCATE copied, second, s');
sql('INSERT INTO s SELECT 61, i FROM generate_series(1, 100) i');
same('after TRUNCATE');
$node->psql('postgres', 'VACUUM FULL s');
sql('INSERT INTO s SELECT 62, i FROM generate_series(1, 100) i');
same('after VACUUM FULL');

# ---- failover ----

$node->backup('base');
my $standby = PostgreSQL::Test::Cluster->new('pipe_standby');
$standby->init_from_backup($node, 'base', has_streaming => 1);
$standby->start;
sql('INSERT INTO s SELECT 70, i FROM generate_series(1, 1000) i');
sql(q{SELECT penstock.catch_up('copy')});
$node->wait_for_catchup($standby);
is($standby->safe_psql('postgres', q{SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'penstock%'}), '0', 'no pipes on a standby');
$other->quit;
$long->quit;
$node->stop('immediate');
$standby->promote;
$standby->safe_psql('postgres', 'INSERT INTO s SELECT 71, i FROM generate_series(1, 1000) i');
ok($standby->poll_query_until('postgres', 'SELECT (SELECT count(*) FROM s) = (SELECT count(*) FROM copied)'), 'promoted, its pipes go on');
is($standby->safe_psql('postgres', differences('copied', 'SELECT k, v FROM s')), '0', 'nothing missing, nothing twice');

# ---- dump and restore ----

$standby->safe_psql('postgres', 'CREATE DATABASE restored');
ok($standby->run_log([ 'sh', '-c', 'pg_dump -d "$1" | psql -qXAt -v ON_ERROR_STOP=1 -d "$2"', 'sh', $standby->connstr('postgres'), $standby->connstr('restored') ]),
	'a dump of a database with pipes is restored');
$standby->safe_psql('restored', q{SELECT penstock.resume('copy'); INSERT INTO s SELECT 80, i FROM generate_series(1, 100) i; SELECT penstock.catch_up('copy')});
is($standby->safe_psql('restored', differences('copied', 'SELECT k, v FROM s')), '0', 'resumed there, a pipe goes on with what is new');
$standby->stop;
done_testing();
