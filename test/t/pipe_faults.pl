# What goes wrong around a pipe and is no event's fault: the broker away or refusing, errors and crashes in each callback, deadlocks, locks,
# redelivery, partitions taken away.  Nothing is lost or doubled, and nothing burns a core.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../connector";
use Penstock::Test;
use Penstock::Session;
use TestQueue;
use Test::More;

my $node = penstock_node('pipe_faults', 'fsync = off', 'restart_after_crash = on', 'deadlock_timeout = 50ms');
my $q = TestQueue->new($node);
sub sql { return $q->sql($_[0]); }

sql(q{
	CREATE FOREIGN TABLE source (n int, off bigint OPTIONS (metadata 'offset')) SERVER tq OPTIONS (queue 'source');
	CREATE FOREIGN TABLE asource (n int, id text OPTIONS (metadata 'message_id'), again bool OPTIONS (metadata 'redelivered')) SERVER tqa OPTIONS (queue 'asource');
	CREATE FOREIGN TABLE sink (n int) SERVER tq OPTIONS (queue 'sink');
	CREATE TABLE target (n int);
	CREATE TABLE atarget (n int, again bool);
	CALL penstock.create_pipe('p', $$INSERT INTO target SELECT n FROM source$$);
	CALL penstock.create_pipe('a', $$INSERT INTO atarget SELECT n, again FROM asource$$, dedup_window => '1 hour');
	CALL penstock.create_pipe('s', $$INSERT INTO sink SELECT n FROM source$$)});
my ($last, $epoch) = (0, 1);

# more(number): appends so many, to both sources; returns nothing.
sub more
{
	my ($number) = @_;
	$q->append('source', $last + 1, $last + $number);
	$q->append('asource', $last + 1, $last + $number, '{"n": %s}', ", id => 'm$epoch.' || i");
	$last += $number;
	return;
}

# reopen(sub): ends the workers, so that everything is closed; then, after the sub, opened again.
sub reopen
{
	my ($meanwhile) = @_;
	sql(q{SELECT penstock.pause('p'), penstock.pause('a'), penstock.pause('s')});
	$q->true(q{SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'penstock pipe'}) or die "workers do not end\n";
	$meanwhile->() if $meanwhile;
	return sql(q{SELECT penstock.resume('p'), penstock.resume('a'), penstock.resume('s')});
}

# all_there(what): everything has arrived in the end, once.
sub all_there
{
	my ($what, $sink_may_double) = @_;
	my $here = wait_until(25, sub { sql('SELECT (SELECT count(DISTINCT n) FROM target), (SELECT count(DISTINCT n) FROM atarget)') eq "$last|$last"
		&& sql(q{SELECT count(DISTINCT payload) FROM testqueue.messages('tq', 'sink')}) == $last });
	ok($here, "$what: everything arrives")
		or diag(sql('SELECT (SELECT count(DISTINCT n) FROM target), (SELECT count(DISTINCT n) FROM atarget)'), ' of ', $last, "\n", sql('SELECT pipe, state, last_error FROM penstock.stat_pipe'));
	is(sql('SELECT (SELECT count(*) FROM target), (SELECT count(*) FROM atarget)'), "$last|$last", "$what: once");
	my $sent = $q->count('sink');
	$sink_may_double ? cmp_ok($sent, '>=', $last, "$what: sent") : is($sent, $last, "$what: sent once");
	# after a failure, the next test is to have a chance
	if (!$here)
	{
		$q->faults();
		sql(q{SELECT penstock.resume(pipe) FROM penstock.stat_pipe WHERE state = 'failed'});
		wait_until(40, sub { sql(q{SELECT penstock.catch_up('p'), penstock.catch_up('a'), penstock.catch_up('s')}); 1 });
	}
	wait_until(40, sub { sql(q{SELECT penstock.catch_up('p'), penstock.catch_up('a'), penstock.catch_up('s')}); 1 }) if $sink_may_double;
	$q->sql('TRUNCATE target, atarget');
	unlink glob($q->dir . '/sink.*');
	$last = 0;
	$epoch++;
	return $here;
}

more(100);
all_there('no fault');

# ---- away, refused and errors, callback by callback ----

for my $callback (qw(open fetch acknowledge))
{
	for my $action ('away', 'refused', 'error sqlstate=53200', 'error sqlstate=57014 at=end')
	{
		next if $action =~ /end/ && $callback eq 'open';
			$q->faults("$callback $action times=3");
		reopen() if $callback eq 'open';
		more(50);
		all_there("$callback $action", 1);
		ok(wait_until(25, sub { $q->faults_left eq '' }), "$callback $action: happened");
	}
}
for my $callback (qw(open_producer send flush))
{
	for my $action ('away', 'away sqlstate=00000', 'refused', 'error sqlstate=53200', $callback eq 'flush' ? ('away at=end', 'partial k=10') : ())
	{
			$q->faults("$callback $action times=2");
		# one batch, in which there is a tenth message
		reopen(sub { more(50) });
		all_there("$callback $action", $action =~ /end|partial/);
		ok(wait_until(25, sub { $q->faults_left eq '' }), "$callback $action: happened");
		is(sql('SELECT count(*) FROM penstock.dead_letter'), '0', "$callback $action: no event's fault") if $action =~ /away/;
		sql('DELETE FROM penstock.dead_letter');
	}
}
for my $callback (qw(wait_for lag close abort close_producer))
{
	$q->faults("$callback error times=3 sqlstate=53200", 'fetch away times=1 after=1', $callback =~ /abort|producer/ ? 'flush away times=1' : ());
	more(50);
	my $pid = sql('SELECT pg_postmaster_start_time()');
	all_there("$callback error", 1);
	is(sql('SELECT pg_postmaster_start_time()'), $pid, "$callback error: the server goes on");
	$q->faults();
}
for my $state (qw(57014 53200 08006))
{
	$q->faults("lag error sqlstate=$state times=2");
	more(50);
	all_there("lag error $state", 1);
}
$q->faults('lag unknown');
more(50);
all_there('lag unknown');
$q->faults();

# an error that will not go away stops the pipe, until somebody resumes it
$q->faults('fetch error queue=source times=2');
more(50);
ok($q->true(q{SELECT count(*) = 2 FROM penstock.stat_pipe WHERE state = 'failed' AND last_error ~ 'XX000: test fault in fetch'}), 'an internal error stops a pipe')
	or diag(sql('SELECT pipe, state, last_error FROM penstock.stat_pipe'));
sql(q{SELECT penstock.resume('p'), penstock.resume('s')});
all_there('resumed');

# ---- redelivery, revocation ----

for my $fault ('fetch revoke times=2', 'fetch duplicate k=5 times=2 queue=asource')
{
	$q->faults($fault);
	more(200);
	more(200);
	all_there($fault);
	$q->faults();
}
$q->faults('acknowledge away times=1 queue=asource');
more(50);
all_there('committed, not acknowledged');
ok($q->true('SELECT count(*) > 0 FROM penstock.seen_message'), 'message ids are remembered');
ok(wait_until(30, sub { $q->count('asource', 'acknowledged') == $q->count('asource') }), 'what came again is acknowledged too');

# ---- crashes ----

for my $at ('open', 'fetch', 'fetch at=end', 'acknowledge', 'acknowledge at=end', 'send', 'flush', 'flush at=end', 'wait_for', 'lag')
{
	my ($callback, $end) = split ' ', $at;
	my $base = $q->count('source');
	eval { $q->faults("$callback crash times=1 " . ($end // '')) };
	eval { reopen() } if $callback eq 'open';
	wait_until(60, sub { more(50); 1 });
	ok(wait_until(60, sub { $q->faults_left eq '' }), "crash at $at: happened");
	ok(wait_until(60, sub { sql('SELECT 1') }), "crash at $at: the server comes back");
	wait_until(60, sub { more(1); 1 });
	# what was cut off while it was appended was appended again
	my $expected = $q->count('source') - $base;
	ok($q->true(qq{SELECT (SELECT count(DISTINCT n) FROM target) = $last AND (SELECT count(DISTINCT n) FROM atarget) = $last}), "crash at $at: nothing lost")
		or diag(sql('SELECT pipe, state, last_error FROM penstock.stat_pipe'));
	ok($q->true("SELECT count(*) = $expected FROM target"), "crash at $at: nothing twice");
	is(sql('SELECT count(*) FROM atarget'), $last, "crash at $at: nothing twice, by message ids");
	sql(q{SELECT penstock.catch_up('s')});
	sql('TRUNCATE target, atarget');
	unlink glob($q->dir . '/sink.*');
	$last = 0;
	$epoch++;
}

# ---- pauses ----

$q->faults('open away queue=source');
reopen();
ok($q->true(q{SELECT last_error ~ 'broker is away in open' FROM penstock.stat_pipe WHERE pipe = 'p'}), 'the view says what is wrong');
isnt($q->state('p'), 'failed', 'and that it is tried again');
my $before = () = $q->calls('open', 'source');
ok(wait_until(60, sub { my $n = () = $q->calls('open', 'source'); $n >= $before + 10 }), 'it is tried again and again');
my @times = $q->calls('open', 'source');
my @pid = split ' ', sql(q{SELECT string_agg(pid::text, ' ') FROM pg_stat_activity WHERE backend_type = 'penstock pipe'});
cmp_ok(($times[-1] - $times[$before]) / ($#times - $before), '<', 30, 'pauses are capped');
# two pipes open this queue: pauses of one grow, so the later half takes longer than the first
cmp_ok($times[-1] - $times[ -5 ], '>', $times[ $before + 4 ] - $times[$before], 'and grow');
$q->faults();
ok(wait_until(60, sub { sql(q{SELECT count(*) = 0 FROM penstock.stat_pipe WHERE last_error IS NOT NULL AND state <> 'running'}) eq 't' }), 'when the broker is back it goes on');
more(10);
all_there('the broker is back');

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
