# RabbitMQ: what arrives while workers, the server and the broker are killed and the broker is cut off.  Three pipes at once: a stream
# (exactly once), a queue whose messages have ids (exactly once), a queue without (at least once); and a pipe that writes to a queue (at
# least once).
use strict;
use warnings;
use Penstock::Test;
use Penstock::Chaos;
use Proxy;
use RabbitMQ;
use PostgreSQL::Test::Utils;
use Test::More;

my $last = $ENV{PENSTOCK_MESSAGES} || 20000;
my $kills = $ENV{PENSTOCK_KILLS} || 5;
my $broker = RabbitMQ->start or plan skip_all => RabbitMQ->why;
my $node = penstock_node('rabbitmq_crash', 'log_statement = none', 'restart_after_crash = on');

sub sql { return $node->safe_psql('postgres', $_[0]); }

my $proxy = Proxy->start($broker->port);
my $port = $proxy->port;
my $options = "host '127.0.0.1', port '$port', heartbeat '2 s', connect_timeout '3 s'";
my ($user, $password) = ($RabbitMQ::user, $RabbitMQ::password);
$broker->tool('declare', 'stream', 'stream');
$broker->tool('declare', $_, 'classic') for qw(known unknown sink);
sql(qq{
	CREATE EXTENSION penstock_rabbitmq;
	CREATE SERVER queues FOREIGN DATA WRAPPER rabbitmq OPTIONS ($options);
	CREATE SERVER streams FOREIGN DATA WRAPPER rabbitmq_stream OPTIONS ($options);
	CREATE USER MAPPING FOR CURRENT_USER SERVER queues OPTIONS (username '$user', password '$password');
	CREATE USER MAPPING FOR CURRENT_USER SERVER streams OPTIONS (username '$user', password '$password');
	CREATE FOREIGN TABLE stream (n int, "offset" int8 OPTIONS (metadata 'offset')) SERVER streams OPTIONS (queue 'stream');
	CREATE FOREIGN TABLE known (n int) SERVER queues OPTIONS (queue 'known');
	CREATE FOREIGN TABLE unknown (n int) SERVER queues OPTIONS (queue 'unknown');
	CREATE FOREIGN TABLE sink (n int, message_id text OPTIONS (metadata 'message_id')) SERVER queues OPTIONS (queue 'sink');
	CREATE TABLE got_stream (n int, at int8, seq bigserial);
	CREATE TABLE got_known (n int) USING stream;
	CREATE TABLE got_unknown (n int);
	CALL penstock.create_pipe('stream', 'INSERT INTO got_stream SELECT n, "offset" FROM stream', batch_rows => 500);
	CALL penstock.create_pipe('known', 'INSERT INTO got_known SELECT n FROM known', batch_rows => 500, dedup_window => '1 hour');
	CALL penstock.create_pipe('unknown', 'INSERT INTO got_unknown SELECT n FROM unknown', batch_rows => 500, dedup_window => '0');
	CALL penstock.create_pipe('sink', \$\$INSERT INTO sink SELECT n, 'k' || n FROM got_known\$\$, batch_rows => 500)});

# Publishers that come back after failures; what they send twice has the same number and id, and in the stream another offset.
my @publishers;
for my $what (qw(stream known unknown))
{
	my $pid = fork;
	die "fork: $!" unless defined $pid;
	if ($pid == 0)
	{
		open(STDOUT, '>', "@{[ $broker->folder ]}/publisher-$what");
		open(STDERR, '>&', \*STDOUT);
		exec($broker->command('publish', '', $what, 1, $last, 100, 'id')) or POSIX::_exit(127);
	}
	push @publishers, $pid;
}

# ---- kill and cut something again and again ----

my $chaos = Penstock::Chaos->new(node => $node, proxy => $proxy, last => 3 * $last, broker => sub { $broker->kill; $broker->come_back },
	more => { connections => sub { eval { $broker->ctl('close_all_connections', 'test') } } },
	progress => '(SELECT count(*) FROM got_stream) + (SELECT count(*) FROM got_known) + (SELECT count(*) FROM got_unknown)');
$chaos->run($kills);
for my $pid (@publishers)
{
	waitpid($pid, 0);
	is($?, 0, 'all has been published');
}

# ---- all arrives ----

for my $table (qw(got_stream got_known got_unknown))
{
	ok($chaos->until_true("SELECT count(DISTINCT n) = $last FROM $table", 120), "$table: every number has arrived")
	  or diag(sql("SELECT count(*), count(DISTINCT n) FROM $table"), sql('SELECT pipe, state, last_error FROM penstock.stat_pipe'));
}
is(sql('SELECT count(*) FROM got_known'), $last, 'a queue with message ids: each once');
my @dump = split /\n/, $broker->tool('dump', 'stream', $last);
sql("SELECT penstock.catch_up('stream')");
sql('CREATE TABLE dump (at int8, n int)');
append_to_file($node->basedir . '/dump', join("\n", map { s/\|/\t/r } @dump) . "\n");
sql(q{COPY dump FROM '} . $node->basedir . q{/dump'});
is(sql('SELECT count(*) FROM (SELECT at, n FROM got_stream EXCEPT ALL SELECT at, n FROM dump) t'), '0', 'a stream: nothing that it has not');
is(sql('SELECT count(*) FROM (SELECT at, n FROM dump EXCEPT ALL SELECT at, n FROM got_stream) t'), '0', 'a stream: everything, each offset once');
is(sql('SELECT count(*) FROM (SELECT at, lag(at) OVER (ORDER BY seq) AS before FROM got_stream) t WHERE at <= before'), '0', 'a stream: in order');
sql("SELECT penstock.catch_up('sink')");
my %ids = map { /id=(\S+)/ ? ($1 => 1) : () } split /\n/, $broker->tool('get', 'sink');
is(scalar(keys %ids), $last, 'what is written to a queue: at least once');
note('twice in the queue without ids: ' . sql('SELECT count(*) - count(DISTINCT n) FROM got_unknown'));
note('published twice into the stream: ' . (@dump - $last));

$node->stop;
done_testing();
