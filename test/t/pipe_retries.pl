# What a pipe tries again, and when: a broker that stays away, options that change, deadlocks, locks, cancels.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../connector";
use Penstock::Test;
use Penstock::Session;
use TestQueue;
use Test::More;

my $node = penstock_node('pipe_retries', 'fsync = off', 'deadlock_timeout = 50ms');
my $q = TestQueue->new($node);
sub sql { return $q->sql($_[0]); }

sql(q{
	CREATE FOREIGN TABLE source (n int) SERVER tq OPTIONS (queue 'source');
	CREATE TABLE target (n int);
	CALL penstock.create_pipe('p', $$INSERT INTO target SELECT n FROM source$$)});
$q->append('source', 1, 10);
ok($q->true('SELECT count(*) = 10 FROM target'), 'a pipe');

# ---- pauses ----

$q->faults('open away queue=source');
sql(q{SELECT penstock.pause('p')});
ok($q->true(q{SELECT pid IS NULL FROM penstock.stat_pipe WHERE pipe = 'p'}), 'paused');
sql(q{SELECT penstock.resume('p')});
ok($q->true(q{SELECT last_error ~ 'broker is away in open' FROM penstock.stat_pipe WHERE pipe = 'p'}), 'the view says what is wrong');
isnt($q->state('p'), 'failed', 'and that it is tried again');
my $before = () = $q->calls('open', 'source');
ok(wait_until(60, sub { my $n = () = $q->calls('open', 'source'); $n >= $before + 6 }), 'it is tried again and again');
my @times = $q->calls('open', 'source');
cmp_ok(($times[-1] - $times[$before]) / ($#times - $before), '<', 30, 'pauses are capped');
cmp_ok($times[-1] - $times[-3], '>', $times[ $before + 2 ] - $times[$before], 'and grow');
$q->faults();
ok(wait_until(60, sub { sql(q{SELECT count(*) = 0 FROM penstock.stat_pipe WHERE last_error IS NOT NULL AND state <> 'running'}) eq 't' }), 'when the broker is back it goes on');
$q->append('source', 11, 20);
ok($q->true('SELECT count(*) = 20 FROM target'), 'and loses nothing');

# options
sql(q{CREATE FOREIGN TABLE changing (n int) SERVER tq OPTIONS (queue 'first');
	CREATE TABLE changed (n int);
	CALL penstock.create_pipe('changing', 'INSERT INTO changed SELECT n FROM changing')});
$q->append('first', 1, 10);
$q->append('second', 11, 30);
ok($q->true('SELECT count(*) = 10 FROM changed'), 'a pipe at work');
sql(q{ALTER FOREIGN TABLE changing OPTIONS (SET queue 'second')});
ok($q->true('SELECT count(*) = 20 FROM changed'), 'its options change while it is idle: it reads on at its offset in the other queue') or diag(sql('SELECT count(*) FROM changed'));
$q->faults('open refused queue=second');
sql(q{ALTER FOREIGN TABLE changing OPTIONS (ADD start 'latest')});
ok($q->true(q{SELECT state = 'waiting for the source' FROM penstock.stat_pipe WHERE pipe = 'changing'}), 'refused');
$q->faults();
sql(q{CALL penstock.drop_pipe('changing')});

# latest is where it was when the pipe was made
sql(q{SELECT testqueue.append('tq', 'late', '{"n": 1}');
	CREATE FOREIGN TABLE late (n int) SERVER tq OPTIONS (queue 'late', start 'latest');
	CREATE TABLE late_done (n int);
	CALL penstock.create_pipe('late', 'INSERT INTO late_done SELECT n FROM late');
	SELECT penstock.catch_up('late');
	SELECT penstock.pause('late')});
ok($q->true(q{SELECT pid IS NULL FROM penstock.stat_pipe WHERE pipe = 'late'}), 'a pipe from the end of its queue, paused before its first message');
$q->append('late', 2, 3);
sql(q{SELECT penstock.resume('late')});
ok($q->true('SELECT count(*) = 2 FROM late_done'), 'goes on from there') or diag(sql('SELECT count(*) FROM late_done'));

# idle: no wake-ups
sub switches
{
	my $sum = 0;
	for my $pid (split ' ', sql(q{SELECT string_agg(pid::text, ' ') FROM pg_stat_activity WHERE backend_type = 'penstock pipe'}))
	{
		open(my $in, '<', "/proc/$pid/status") or return -1;
		local $/;
		$sum += $1 if <$in> =~ /^voluntary_ctxt_switches:\s+(\d+)/m;
	}
	return $sum;
}
my $quiet = wait_until(30, sub {
	my $before = switches();
	my $end = time + 2;
	select(undef, undef, undef, 0.1) while time < $end;
	switches() - $before < 10 });
ok($quiet, 'idle pipes sleep');

# ---- locks and deadlocks ----

my $session = Penstock::Session->new($node);
sql(q{
	CREATE TABLE d1 (k int PRIMARY KEY, n int);
	CREATE TABLE d2 (k int PRIMARY KEY, n int);
	INSERT INTO d1 VALUES (1, 0);
	INSERT INTO d2 VALUES (1, 0);
	CREATE FOREIGN TABLE dl (n int) SERVER tq OPTIONS (queue 'dl');
	CALL penstock.create_pipe('dl', $$
		UPDATE d1 SET n = d1.n + x.c FROM (SELECT count(*) AS c FROM dl) x WHERE k = 1 AND c > 0;
		UPDATE d2 SET n = d2.n + x.c FROM (SELECT count(*) AS c FROM dl) x WHERE k = 1 AND c > 0$$)});
for my $round (1 .. 5)
{
	$session->must('BEGIN; UPDATE d2 SET n = n WHERE k = 1');
	$q->append('dl', 1, 10);
	ok($q->true(q{SELECT count(*) > 0 FROM pg_locks WHERE NOT granted}), 'the pipe waits for a row');
	$session->query('UPDATE d1 SET n = n WHERE k = 1');
	$session->query('COMMIT');
	ok($q->true('SELECT n = ' . 10 * $round . ' FROM d1') && sql('SELECT n FROM d2') == 10 * $round, "deadlock $round: done once in the end");
}
is(sql(q{SELECT count(*) FROM penstock.dead_letter WHERE pipe_name = 'dl'}), '0', 'a deadlock is no event\'s fault');

sql(q{
	CREATE FOREIGN TABLE lt (n int) SERVER tq OPTIONS (queue 'lt');
	CREATE FUNCTION bump(n bigint) RETURNS void LANGUAGE plpgsql SET lock_timeout = '50 ms' AS 'BEGIN UPDATE d1 SET n = d1.n + $1; END';
	CALL penstock.create_pipe('lt', 'SELECT bump(count(*)) FROM lt')});
$session->must('BEGIN; LOCK TABLE d1');
$q->append('lt', 1, 10);
ok($q->true(q{SELECT last_error ~ '55P03' FROM penstock.stat_pipe WHERE pipe = 'lt'}), 'lock_timeout: an error that goes away') or diag($q->error('lt'));
isnt($q->state('lt'), 'failed', 'the pipe does not stop');
$session->must('COMMIT');
ok($q->true('SELECT n = 60 FROM d1'), 'it goes on');

# cancelled, terminated
$session->must('BEGIN; LOCK TABLE d1');
$q->append('dl', 1, 10);
ok($q->true(q{SELECT count(*) > 0 FROM pg_locks WHERE NOT granted}), 'the pipe waits');
sql(q{SELECT pg_cancel_backend(pid) FROM pg_locks WHERE NOT granted});
$session->must('COMMIT');
ok($q->true('SELECT n = 70 FROM d1'), 'pg_cancel_backend: it is done all the same');
is(sql(q{SELECT count(*) FROM penstock.dead_letter WHERE pipe_name = 'dl'}), '0', 'and no event is put away');
$session->must('BEGIN; LOCK TABLE d1');
$q->append('dl', 1, 10);
ok($q->true(q{SELECT count(*) > 0 FROM pg_locks WHERE NOT granted}), 'the pipe waits');
sql(q{SELECT pg_terminate_backend(pid) FROM pg_locks WHERE NOT granted});
$session->must('COMMIT');
ok($q->true('SELECT n = 80 FROM d1'), 'pg_terminate_backend likewise');

# serialization failures, statement_timeout
sql(q{
	CREATE FOREIGN TABLE ser (n int) SERVER tq OPTIONS (queue 'ser');
	CREATE TABLE ser_done (n int);
	CREATE SEQUENCE tries;
	CREATE FUNCTION unlucky(n int) RETURNS int LANGUAGE plpgsql AS $$ BEGIN
		IF nextval('tries') < 4 THEN RAISE EXCEPTION USING ERRCODE = 'serialization_failure'; END IF; RETURN n; END $$;
	CALL penstock.create_pipe('ser', 'INSERT INTO ser_done SELECT unlucky(n) FROM ser')});
$q->append('ser', 1, 10);
ok($q->true('SELECT count(*) = 10 FROM ser_done'), 'serialization failures are tried again');
is(sql(q{SELECT count(*) FROM penstock.dead_letter WHERE pipe_name = 'ser'}), '0', 'without halving');
sql('ALTER SYSTEM SET statement_timeout = 200');
sql('SELECT pg_reload_conf()');
$session->must('SET statement_timeout = 0; BEGIN; LOCK TABLE ser_done');
$q->append('ser', 11, 20);
ok($q->true(q{SELECT count(*) > 0 FROM pg_locks WHERE NOT granted}), 'the pipe waits');
$session->must('COMMIT');
sql('ALTER SYSTEM RESET statement_timeout');
sql('SELECT pg_reload_conf()');
ok($q->true('SELECT count(*) = 20 FROM ser_done'), 'statement_timeout');
is(sql(q{SELECT count(*) FROM penstock.dead_letter WHERE pipe_name = 'ser'}), '0', 'is no event\'s fault');

$session->quit;
$node->stop;
done_testing();
