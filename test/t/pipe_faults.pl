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

$node->stop;
done_testing();
