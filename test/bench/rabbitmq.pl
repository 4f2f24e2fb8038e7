#!/usr/bin/perl
# rabbitmq.pl BINDIR SCRATCH [--events N] [--runs N]: a RabbitMQ queue into a stream, against a bare C consumer with
# librabbitmq that only acknowledges (test/brokers/rabbitmq/rabbitmq_tool.c), in tight pairs.  The server of BINDIR has penstock and
# penstock_rabbitmq installed.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin, "$FindBin::RealBin/../perl", "$FindBin::RealBin/../brokers";
use Getopt::Long;
use RabbitMQ;
use Server;
use Time::HiRes qw(time sleep);

$| = 1;
my ($bin, $scratch) = splice(@ARGV, 0, 2);
my %o = (events => 300_000, runs => 5, bytes => 300, prefetch => 20000);
GetOptions(\%o, 'events=i', 'runs=i', 'bytes=i', 'prefetch=i') or die "unknown option\n";
$ENV{TESTDATADIR} = $scratch;
# broker and server are stopped when the program ends
$SIG{$_} = sub { exit 130 } for qw(INT TERM HUP);

my $broker = RabbitMQ->start or die RabbitMQ->why . "\n";
my $server = Server->new($bin, $scratch, 'shared_buffers = 256MB', 'max_wal_size = 4GB', 'fsync = on', 'synchronous_commit = on', 'autovacuum = off');
my $db = $server->session;
my $port = $broker->port;
$broker->tool('declare', $_, 'classic') for qw(bare pipe);
$db->must(qq{
	CREATE EXTENSION penstock;
	CREATE EXTENSION penstock_rabbitmq;
	CREATE SERVER rabbit FOREIGN DATA WRAPPER rabbitmq OPTIONS (host '127.0.0.1', port '$port');
	CREATE USER MAPPING FOR CURRENT_USER SERVER rabbit OPTIONS (username '$RabbitMQ::user', password '$RabbitMQ::password');
	CREATE FOREIGN TABLE pipe_queue (n int, pad text) SERVER rabbit OPTIONS (queue 'pipe', prefetch '$o{prefetch}');
	CREATE TABLE events (n int, pad text) USING stream;
	CALL penstock.create_pipe('ingest', 'INSERT INTO events SELECT n, pad FROM pipe_queue');
	SELECT penstock.pause('ingest')});

my $taken = 0;
my (@ratios, @bare, @pipe, @bare_cpu, @pipe_cpu, $memory);

# bare(): events a second, and CPU microseconds an event.
sub bare
{
	$broker->tool('publish', '', 'bare', 1, $o{events}, $o{bytes});
	my ($n, $seconds, $cpu) = split ' ', $broker->tool('consume', 'bare', $o{events}, $o{prefetch});
	return ($n / $seconds, $cpu * 1e6 / $n);
}

# pipe(): the same, from resume until the stream has all.
sub pipe_run
{
	$broker->tool('publish', '', 'pipe', 1, $o{events}, $o{bytes});
	$taken += $o{events};
	my $pid;
	my $before = $db->must(q{SELECT events FROM penstock.stat_pipe WHERE pipe = 'ingest'});
	my $begin = time;
	$db->must(q{SELECT penstock.resume('ingest')});
	until ($pid) { $pid = $db->must(q{SELECT pid FROM penstock.stat_pipe WHERE pipe = 'ingest'}); }
	my $cpu = Server::cpu($pid);
	sleep 0.01 while $db->must(q{SELECT events FROM penstock.stat_pipe WHERE pipe = 'ingest'}) - $before < $o{events};
	my $seconds = time - $begin;
	$cpu = Server::cpu($pid) - $cpu;
	my $now = Server::own_memory($pid);
	$memory = $now if !$memory || $now > $memory;
	$db->must(q{SELECT penstock.pause('ingest')});
	die "events are missing\n" if $db->must('SELECT count(*) FROM events') != $taken;
	return ($o{events} / $seconds, $cpu * 1e6 / $o{events});
}

for my $run (1 .. $o{runs})
{
	my @first = bare();
	my @middle = pipe_run();
	my @second = bare();
	my $reference = ($first[0] + $second[0]) / 2;
	push @bare, $reference;
	push @pipe, $middle[0];
	push @bare_cpu, ($first[1] + $second[1]) / 2;
	push @pipe_cpu, $middle[1];
	push @ratios, $middle[0] / $reference;
	printf "# run %d: bare %.0f and %.0f, pipe %.0f events a second; CPU %.1f and %.1f us an event\n", $run, $first[0], $second[0],
		$middle[0], $bare_cpu[-1], $pipe_cpu[-1];
}
my $ratio = Server::median(@ratios);
printf "%-58s %8.2f %9s  %-5s  %s\n", 'RabbitMQ queue into a stream, against a bare consumer', $ratio, '>= 0.7', $ratio >= 0.7 ? 'ok' : 'short',
	sprintf('%.0f against %.0f events a second, %.1f us CPU an event, %.0f MB', Server::median(@pipe), Server::median(@bare),
	Server::median(@pipe_cpu), ($memory || 0) / 1e6);
$db->quit;
$server->stop;
