# Back-pressure: while a target is locked or slow a worker's memory stays flat and the broker keeps the messages; nothing leaks, however many
# batches, faults and errors there were.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../connector";
use Penstock::Test;
use Penstock::Session;
use TestQueue;
use Test::More;

plan skip_all => 'no /proc here' unless -r "/proc/$$/status";

my $node = penstock_node('pipe_pressure', 'fsync = off', 'shared_buffers = 64MB');
my $q = TestQueue->new($node);
sub sql { return $q->sql($_[0]); }

sub worker { return sql("SELECT pid FROM penstock.stat_pipe WHERE pipe = '$_[0]'"); }

# private(pid): memory of its own, in kB.
sub private
{
	my ($pid) = @_;
	open(my $in, '<', "/proc/$pid/status") or return 0;
	local $/;
	return <$in> =~ /^RssAnon:\s+(\d+)/m ? $1 : 0;
}

# descriptors(pid): those that only a connector opens.
sub descriptors
{
	my ($pid) = @_;
	return scalar(grep { (readlink($_) // '') =~ /inotify|queues/ } glob("/proc/$pid/fd/*"));
}

sql(q{
	CREATE FOREIGN TABLE src (n int, filler text) SERVER tq OPTIONS (queue 'src');
	CREATE TABLE dst (n int, filler text);
	CREATE FOREIGN TABLE bad (n int) SERVER tq OPTIONS (queue 'bad');
	CREATE TABLE bad_dst (n int);
	CREATE FOREIGN TABLE sink (n int, filler text) SERVER tq OPTIONS (queue 'sink');
	CREATE TABLE st (n int, filler text) USING stream;
	CALL penstock.create_pipe('p', 'INSERT INTO dst SELECT n, filler FROM src', batch_bytes => 1000000)});

# ---- a locked target, a backlog of 90 MB ----

my $session = Penstock::Session->new($node);
$session->must('BEGIN; LOCK TABLE dst');
sql(q{SELECT count(testqueue.append('tq', 'src', format('{"n": %s, "filler": "%s"}', i, repeat('x', 3000)))) FROM generate_series(1, 30000) i});
ok($q->true('SELECT count(*) > 0 FROM pg_locks WHERE NOT granted'), 'the pipe waits for its target');
my $pid = worker('p');
my $before = private($pid);
$q->append('src', 30001, 30100);
cmp_ok(private($pid) - $before, '<', 8192, 'it does not grow meanwhile');
cmp_ok(private($pid), '<', 65536, 'nor is it big');
$session->must('COMMIT');
my $most = 0;
ok(wait_until(180, sub { my $now = private($pid); $most = $now if $now > $most; sql('SELECT count(*) = 30100 FROM dst') eq 't' }), 'then it works the backlog off');
cmp_ok($most, '<', 100000, 'in bounded memory') or diag("$most kB");
is(worker('p'), $pid, 'in one go');

# ---- a huge message ----

sql(q{SELECT testqueue.append('tq', 'src', '{"n": -1, "filler": "' || repeat('y', 50000000) || '"}')});
ok($q->true('SELECT count(*) = 1 FROM dst WHERE n = -1 AND length(filler) = 50000000'), 'a message of 50 MB');
$q->append('src', -3, -2);
ok($q->true('SELECT count(*) = 2 FROM dst WHERE n IN (-2, -3)'), 'and those after it');

# ---- nothing leaks ----

# grows(pipe, what, sub): memory and descriptors after a run of it, compared with those after the first.
sub grows
{
	my ($pipe, $what, $run) = @_;
	$run->();
	my $pid = worker($pipe);
	my ($memory, $open) = (private($pid), descriptors($pid));
	$run->() for 1 .. 3;
	is(worker($pipe), $pid, "$what: the same process");
	cmp_ok(private($pid) - $memory, '<', 3000, "$what: no memory leaks") or diag("from $memory kB to ", private($pid));
	cmp_ok(descriptors($pid) - $open, '<=', 0, "$what: no descriptor leaks");
	return;
}

my $n = 200000;
sub small_batches
{
	my ($queue, $number) = @_;
	$q->append($queue, $n + 1, $n + $number);
	$n += $number;
	return;
}
sql(q{CALL penstock.alter_pipe('p', batch_rows => 1)});
grows('p', 'small batches', sub {
	small_batches('src', 3000);
	$q->true("SELECT max(n) = $n FROM dst") });
sql(q{CALL penstock.create_pipe('bad', 'INSERT INTO bad_dst SELECT n FROM bad', batch_rows => 100)});
grows('bad', 'dead letters', sub {
	$q->append('bad', 1, 1000, '{"n": "x%s"}');
	small_batches('bad', 1);
	$q->true("SELECT max(n) = $n FROM bad_dst") });
grows('p', 'faults', sub {
	for my $fault ('fetch away times=2', 'open away times=2', 'acknowledge away times=2', 'fetch refused times=1')
	{
		$q->faults("$fault queue=src", 'fetch away times=1 queue=src');
		small_batches('src', 5);
		$q->true("SELECT max(n) = $n FROM dst");
		wait_until(30, sub { $q->faults_left eq '' });
	}
	sql(q{SELECT penstock.catch_up('p')}) });
sql(q{CALL penstock.alter_pipe('p', batch_rows => 1000)});
sql(q{CALL penstock.create_pipe('sink', 'INSERT INTO sink SELECT n, filler FROM src', batch_rows => 20)});
sql(q{SELECT penstock.catch_up('sink')});
grows('sink', 'a sink', sub {
	small_batches('src', 1000);
	sql(q{SELECT penstock.catch_up('sink'), penstock.catch_up('p')}) });
grows('sink', 'a sink that is away', sub {
	$q->faults('flush away times=2', 'send away times=2', 'open_producer away times=1');
	small_batches('src', 50);
	wait_until(60, sub { $q->faults_left eq '' }) or diag($q->faults_left, $q->error('sink'));
	sql(q{SELECT penstock.catch_up('sink')}) });
sql(q{CALL penstock.create_pipe('st', 'INSERT INTO bad_dst SELECT n FROM st')});
grows('st', 'a stream', sub {
	sql(q{DO $$ BEGIN FOR i IN 1 .. 2000 LOOP INSERT INTO st VALUES (-i); COMMIT; END LOOP; END $$});
	sql(q{SELECT penstock.catch_up('st')}) });

# a session that reads and writes queues
my $me = $session->must('SELECT pg_backend_pid()');
my ($memory, $open);
for my $round (1 .. 4)
{
	$session->query('SELECT count(*) FROM bad LIMIT 1') for 1 .. 20;
	$session->query('SELECT n FROM bad') for 1 .. 20;		# fails
	$session->must("INSERT INTO sink (n) VALUES ($_)") for 1 .. 200;
	$session->query('BEGIN; INSERT INTO sink (n) VALUES (1); ROLLBACK') for 1 .. 100;
	($memory, $open) = (private($me), descriptors($me)) if $round == 1;
}
cmp_ok(private($me) - $memory, '<', 2000, 'a session: no memory leaks');
cmp_ok(descriptors($me) - $open, '<=', 0, 'a session: no descriptor leaks');

# a sink whose statement makes much of little, more than is held back
sql(q{
	CREATE FOREIGN TABLE big (n int) SERVER tq OPTIONS (queue 'big');
	CREATE FOREIGN TABLE big_sink (n int, filler text) SERVER tq OPTIONS (queue 'big_sink');
	CREATE TABLE big_done (n int CHECK (n <> 15));
	CALL penstock.create_pipe('big', 'INSERT INTO big_sink SELECT n, repeat(md5(n::text), 40000) FROM big; INSERT INTO big_done SELECT n FROM big')});
$q->append('big', 1, 30);
ok($q->true('SELECT count(*) = 29 FROM big_done'), 'a batch whose output is 38 MB, with one bad event');
is($q->count('big_sink'), '29', 'nothing of the parts that failed was sent');
sql(q{BEGIN; SAVEPOINT a; INSERT INTO big_sink SELECT -1, repeat('x', 1000000) FROM generate_series(1, 25); ROLLBACK TO a; INSERT INTO big_sink VALUES (-2, 'x'); COMMIT});
is($q->count('big_sink'), '30', 'nor what was rolled back to a savepoint');

$session->quit;
$node->stop;
done_testing();
