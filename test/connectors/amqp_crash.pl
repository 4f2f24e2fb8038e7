# AMQP 1.0: what arrives while workers, the server and the broker are killed and the broker is cut off.  Two pipes at once: a queue whose
# messages have ids (exactly once) and a queue without (at least once); and a pipe that writes to a queue (at least once).
use strict;
use warnings;
use Penstock::Test;
use Penstock::Chaos;
use Artemis;
use Proxy;
use PostgreSQL::Test::Utils;
use Test::More;

my $last = $ENV{PENSTOCK_MESSAGES} || 30000;
my $kills = $ENV{PENSTOCK_KILLS} || 7;
my $rate = $ENV{PENSTOCK_RATE} || 2000;
my $broker = Artemis->start(idle => 4000) or plan skip_all => Artemis->why;
my $node = penstock_node('amqp_crash', 'log_statement = none', 'restart_after_crash = on');

sub sql { return $node->safe_psql('postgres', $_[0]); }

my $proxy = Proxy->start($broker->port);
my $port = $proxy->port;
my ($user, $password) = ($Artemis::user, $Artemis::password);
sql(qq{
	CREATE EXTENSION penstock_amqp;
	CREATE SERVER artemis FOREIGN DATA WRAPPER amqp OPTIONS (host '127.0.0.1', port '$port', idle_timeout '3 s', connect_timeout '3 s');
	CREATE USER MAPPING FOR CURRENT_USER SERVER artemis OPTIONS (username '$user', password '$password');
	CREATE FOREIGN TABLE known (n int) SERVER artemis OPTIONS (address 'known', credit '2000');
	CREATE FOREIGN TABLE unknown (n int) SERVER artemis OPTIONS (address 'unknown');
	CREATE FOREIGN TABLE sink (n int, message_id text OPTIONS (metadata 'message_id')) SERVER artemis OPTIONS (address 'sink');
	CREATE TABLE got_known (n int) USING stream;
	CREATE TABLE got_unknown (n int);
	CREATE TABLE got_sink (n int);
	CALL penstock.create_pipe('known', 'INSERT INTO got_known SELECT n FROM known', batch_rows => 500, dedup_window => '1 hour');
	CALL penstock.create_pipe('unknown', 'INSERT INTO got_unknown SELECT n FROM unknown', batch_rows => 500, dedup_window => '0');
	CALL penstock.create_pipe('sink', \$\$INSERT INTO sink SELECT n, 'k' || n FROM got_known\$\$, batch_rows => 500);
	CALL penstock.create_pipe('back', 'INSERT INTO got_sink SELECT n FROM sink', dedup_window => '1 hour')});

# Publishers that come back after failures; what they send twice has the same number and id.
my @publishers;
for my $what (qw(known unknown))
{
	my $pid = fork;
	die "fork: $!" unless defined $pid;
	if ($pid == 0)
	{
		open(STDOUT, '>', "@{[ $broker->folder ]}/publisher-$what");
		open(STDERR, '>&', \*STDOUT);
		exec($broker->command('send', $what, 1, $last, 'id', 'pad=100', "rate=$rate")) or POSIX::_exit(127);
	}
	push @publishers, $pid;
}

# ---- kill and cut something again and again ----

my $chaos = Penstock::Chaos->new(node => $node, proxy => $proxy, last => 2 * $last, broker => sub { $broker->kill; $broker->restart },
	progress => '(SELECT count(*) FROM got_known) + (SELECT count(*) FROM got_unknown)');
$chaos->run($kills);
for my $pid (@publishers)
{
	waitpid($pid, 0);
	is($?, 0, 'all has been published');
}

# ---- all arrives ----

for my $table (qw(got_known got_unknown got_sink))
{
	ok($chaos->until_true("SELECT count(DISTINCT n) = $last FROM $table", 120), "$table: every number has arrived")
	  or diag(sql("SELECT count(*), count(DISTINCT n), min(n), max(n) FROM $table"), sql('SELECT pipe, state, last_error FROM penstock.stat_pipe'));
}
is(sql('SELECT count(*) FROM got_known'), $last, 'messages with ids: each once');
is(sql('SELECT count(*) FROM got_sink'), $last, 'written to a queue and read again by their ids: each once');
is(sql('SELECT count(*) FROM penstock.dead_letter'), '0', 'no dead letter');
note(sql('SELECT count(*) - count(DISTINCT n) FROM got_unknown') . ' came twice without ids');

$node->stop;
done_testing();
