# Queues with acknowledgements: what comes again is recognised by its id within dedup_window, and only then; acknowledged is what is committed.
# And dead letters that are sent again, of every kind of source.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../connector";
use Penstock::Test;
use Penstock::Session;
use TestQueue;
use Test::More;

my $node = penstock_node('pipe_repetitions', 'fsync = off', 'restart_after_crash = on');
my $q = TestQueue->new($node);
sub sql { return $q->sql($_[0]); }

sub all_acknowledged
{
	my ($queue, $what) = @_;
	return ok(wait_until(30, sub { $q->count($queue, 'acknowledged') == $q->count($queue) }), $what);
}

sql(q{
	CREATE FOREIGN TABLE a (n int, again bool OPTIONS (metadata 'redelivered'), part text OPTIONS (metadata 'partition'), off bigint OPTIONS (metadata 'offset')) SERVER tqa OPTIONS (queue 'a');
	CREATE TABLE a_done (n int, again bool, part text, off bigint);
	CREATE FOREIGN TABLE b (n int) SERVER tqa OPTIONS (queue 'b');
	CREATE TABLE b_done (n int);
	CALL penstock.create_pipe('a', 'INSERT INTO a_done SELECT n, again, part, off FROM a', dedup_window => '1 hour', batch_rows => 50);
	CALL penstock.create_pipe('b', 'INSERT INTO b_done SELECT n FROM b')});

# ---- acknowledged after the commit ----

my $session = Penstock::Session->new($node);
$session->must('BEGIN; LOCK TABLE a_done');
$q->append('a', 1, 100, '{"n": %s}', ', id => i::text');
ok($q->true('SELECT count(*) > 0 FROM pg_locks WHERE NOT granted'), 'a batch waits');
is($q->count('a', 'acknowledged'), '0', 'nothing is acknowledged before the commit');
$session->must('COMMIT');
ok($q->true('SELECT count(*) = 100 FROM a_done'), 'committed');
all_acknowledged('a', 'acknowledged then');
is(sql('SELECT count(*) FROM a_done WHERE again'), '0', 'nothing came again');

# ---- repetitions ----

$q->append('a', 1, 100, '{"n": %s}', ', id => i::text');
$q->append('a', 101, 110, '{"n": %s}', ', id => i::text');
ok($q->true('SELECT count(*) = 110 FROM a_done'), 'ids seen before are left out');
all_acknowledged('a', 'but acknowledged');
$q->append('a', 111, 115, '{"n": %s}', q{, id => 'same'});
ok($q->true(q{SELECT count(*) = 111 FROM a_done}), 'within one batch too');
$q->append('a', 200, 220);
$q->append('a', 200, 220);
ok($q->true(q{SELECT count(*) = 153 FROM a_done}), 'messages without an id are all different');
is(sql(q{SELECT skipped FROM penstock.stat_pipe WHERE pipe = 'a'}), '104', 'what was left out is counted');
$q->faults('acknowledge away times=1 queue=a');
$q->append('a', 300, 350, '{"n": %s}', ', id => i::text');
ok(wait_until(30, sub { $q->faults_left eq '' }), 'an acknowledgement is lost');
all_acknowledged('a', 'it is made up for');
is(sql('SELECT count(*) FROM a_done WHERE n BETWEEN 300 AND 350'), '51', 'and nothing is doubled');
$q->faults('acknowledge away times=1 queue=b');
$q->append('b', 1, 50);
ok(wait_until(30, sub { $q->faults_left eq '' }), 'the same without a window');
all_acknowledged('b', 'acknowledged in the end');
is(sql('SELECT count(DISTINCT n) FROM b_done'), '50', 'nothing is lost');

# an event that is a dead letter is not one again when it comes again
sql('ALTER TABLE a_done ADD CHECK (n <> 400)');
$q->faults('acknowledge away times=1 queue=a');
$q->append('a', 395, 405, '{"n": %s}', ', id => i::text');
ok(wait_until(30, sub { $q->faults_left eq '' }), 'a batch with a bad event is not acknowledged');
all_acknowledged('a', 'then it is');
is(sql(q{SELECT count(*) FROM penstock.dead_letter WHERE pipe_name = 'a'}), '1', 'one letter');
sql('ALTER TABLE a_done DROP CONSTRAINT a_done_n_check');
sql(q{SELECT penstock.redrive('a')});
ok($q->true('SELECT count(*) = 1 FROM a_done WHERE n = 400'), 'sent again it is no repetition');

# the window passes
sql(q{CALL penstock.alter_pipe('a', dedup_window => '1 ms')});
$q->append('a', 500, 500, '{"n": %s}', ', id => i::text');
ok($q->true('SELECT count(*) = 1 FROM a_done WHERE n = 500'), 'with a window of 1 ms');
for my $n (501 .. 520) { $q->append('a', $n, $n, '{"n": %s}', ', id => i::text'); }
ok($q->true('SELECT count(*) < 60 FROM penstock.seen_message'), 'ids are forgotten when it has passed') or diag(sql('SELECT count(*) FROM penstock.seen_message'));
sql(q{CALL penstock.drop_pipe('a')});
is(sql('SELECT count(*) FROM penstock.seen_message'), '0', 'and with the pipe');

# several at once from one queue: a crash of the server between commit and acknowledgement
sql(q{TRUNCATE a_done; CALL penstock.create_pipe('a', 'INSERT INTO a_done SELECT n, again, part, off FROM a', dedup_window => '1 hour')});
$q->faults('acknowledge crash times=1 queue=a');
eval { $q->append('a', 600, 650, '{"n": %s}', ', id => i::text') };
ok(wait_until(60, sub { $q->faults_left eq '' && sql('SELECT 1') }), 'a crash before the acknowledgement');
my $here = $q->count('a', 'acknowledged');
ok(wait_until(60, sub { $q->count('a', 'acknowledged') == $q->count('a') }), 'all is acknowledged in the end');
is(sql('SELECT count(*) - count(DISTINCT n) FROM a_done WHERE n >= 600'), '0', 'nothing twice');

# a browsing SELECT takes nothing away
$q->append('b', 51, 60);
ok($q->true('SELECT count(DISTINCT n) = 60 FROM b_done'), 'a pipe took all');
is(sql('SELECT count(*) FROM b'), '0', 'SELECT shows what is not acknowledged');
sql(q{SELECT penstock.pause('b')});
ok($q->true(q{SELECT pid IS NULL FROM penstock.stat_pipe WHERE pipe = 'b'}), 'paused');
$q->append('b', 61, 70);
is(sql('SELECT count(*) FROM b'), '10', 'and leaves it there');
is(sql('SELECT count(*) FROM b'), '10', 'for the next');
sql(q{SELECT penstock.resume('b')});
ok($q->true('SELECT count(DISTINCT n) = 70 FROM b_done'), 'and for the pipe');

# ---- sent again: what an event was made of is all there ----

sql(q{
	CREATE FOREIGN TABLE full_of (n int, key text OPTIONS (metadata 'key'), id text OPTIONS (metadata 'message_id'), at timestamptz OPTIONS (metadata 'timestamp'),
		part text OPTIONS (metadata 'partition'), off bigint OPTIONS (metadata 'offset'), headers jsonb OPTIONS (metadata 'headers'),
		file text OPTIONS (metadata 'file')) SERVER tq OPTIONS (queue 'full_of');
	CREATE TABLE full_done (n int, key text, id text, at timestamptz, part text, off bigint, headers jsonb, file text);
	ALTER TABLE full_done ADD CHECK (n <> 1);
	CALL penstock.create_pipe('full', 'INSERT INTO full_done SELECT * FROM full_of');
	SELECT testqueue.append('tq', 'full_of', '{"n": 1}', '3', 'key', 'id', '2026-01-02 03:04:05+00', ARRAY['a', 'b', 'c', NULL]),
		testqueue.append('tq', 'full_of', '{"n": 2}', '3', 'key', 'id', '2026-01-02 03:04:05+00', ARRAY['a', 'b', 'c', NULL])});
ok($q->true('SELECT count(*) = 1 FROM full_done') && $q->true(q{SELECT count(*) = 1 FROM penstock.dead_letter WHERE pipe_name = 'full'}), 'one good, one bad');
sql(q{ALTER TABLE full_done DROP CONSTRAINT full_done_n_check; SELECT penstock.redrive('full')});
ok($q->true('SELECT count(*) = 2 FROM full_done'), 'sent again');
is(sql('SELECT count(DISTINCT (key, id, at, part, headers, file)) FROM full_done'), '1', 'with key, id, time, partition, headers and properties as they were')
	or diag(sql('SELECT * FROM full_done'));
is(sql('SELECT string_agg(off::text, \' \' ORDER BY n) FROM full_done'), '0 1', 'and its offset');

# rows of a connector that decodes by itself; also while the source is away
sql(q{
	CREATE FOREIGN TABLE rows (n int, t text) SERVER tqr OPTIONS (queue 'rows');
	CREATE TABLE rows_done (n int, t text, CHECK (n <> 5));
	CALL penstock.create_pipe('rows', 'INSERT INTO rows_done SELECT n, t FROM rows');
	SELECT testqueue.append('tq', 'rows', (SELECT string_agg(i || '|row ' || i, E'\n' ORDER BY i) FROM generate_series(1, 10) i)),
		testqueue.append('tq', 'rows', 'x|y')});
ok($q->true(q{SELECT count(*) = 2 FROM penstock.dead_letter WHERE pipe_name = 'rows'}), 'rows: two letters');
is(sql('SELECT count(*) FROM rows_done'), '9', 'the others arrived');
sql(q{ALTER TABLE rows_done DROP CONSTRAINT rows_done_n_check; SELECT penstock.redrive('rows')});
ok($q->true('SELECT count(*) = 10 FROM rows_done'), 'rows are sent again');
is(sql(q{SELECT string_agg(column_name, ' ') FROM penstock.dead_letter WHERE pipe_name = 'rows'}), 'n', 'the other fails again, with its column');
my $started = sql('SELECT pg_postmaster_start_time()');
$q->faults('open away queue=rows', 'open away queue=full_of');
sql(q{SELECT penstock.pause('rows'), penstock.pause('full')});
ok($q->true(q{SELECT bool_and(pid IS NULL) FROM penstock.stat_pipe WHERE pipe IN ('rows', 'full')}), 'paused');
sql(q{SELECT penstock.resume('rows'), penstock.resume('full'), penstock.redrive('rows')});
ok($q->true(q{SELECT count(*) = 2 FROM penstock.stat_pipe WHERE state = 'waiting for the source'}), 'the source is away');
is(sql('SELECT pg_postmaster_start_time()'), $started, 'redrive meanwhile: nobody crashes');
is(sql(q{SELECT count(*) FROM penstock.dead_letter WHERE pipe_name = 'rows'}), '1', 'and the letter is not lost');
$q->faults();
ok($q->true(q{SELECT count(*) = 1 AND bool_and(NOT redrive) FROM penstock.dead_letter WHERE pipe_name = 'rows'}), 'when it is back the letter is tried') or diag($q->error('rows'));
ok($q->true(q{SELECT count(*) = 0 FROM penstock.stat_pipe WHERE state <> 'running'}), 'and all run') or diag(sql('SELECT pipe, state, last_error FROM penstock.stat_pipe'));

$session->quit;
$node->stop;
done_testing();
