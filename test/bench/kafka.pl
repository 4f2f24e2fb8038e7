#!/usr/bin/perl
# kafka.pl BINDIR SCRATCH [--events N] [--runs N]: a Kafka topic of json messages (8 fields, 300 bytes) into a stream against a bare consumer
# of librdkafka (test/brokers/kafka/kafka_tool.c), and a stream into a topic against a bare producer, in tight pairs; and how
# long a message takes until a view shows it.  The server of BINDIR has penstock and penstock_kafka installed.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin, "$FindBin::RealBin/../perl", "$FindBin::RealBin/../brokers";
use Getopt::Long;
use IPC::Open2;
use Kafka;
use Server;
use Time::HiRes qw(time sleep);

$| = 1;
my ($bin, $scratch) = splice(@ARGV, 0, 2);
my %o = (events => 500_000, runs => 5, bytes => 300, partitions => 4);
GetOptions(\%o, 'events=i', 'runs=i', 'bytes=i', 'partitions=i') or die "unknown option\n";
$ENV{TESTDATADIR} = $scratch;

my $kafka = Kafka->start or die Kafka->why . "\n";
my $server = Server->new($bin, $scratch, 'shared_buffers = 256MB', 'max_wal_size = 4GB', 'fsync = on', 'synchronous_commit = on', 'autovacuum = off');
my $db = $server->session;
my $columns = 'n bigint, user_id int, url text, latency float8, status int, ok boolean, at timestamptz, note text';

$kafka->tool('create', $_, $o{partitions}) for qw(events out bare latency);
$kafka->tool('produce', 'events', 1, $o{events}, $o{bytes});
$db->must(qq{
	CREATE EXTENSION penstock;
	CREATE EXTENSION penstock_kafka;
	CREATE SERVER k FOREIGN DATA WRAPPER kafka OPTIONS (bootstrap_servers '} . $kafka->servers . qq{');
	CREATE FOREIGN TABLE topic ($columns) SERVER k OPTIONS (topic 'events');
	CREATE FOREIGN TABLE out ($columns) SERVER k OPTIONS (topic 'out');
	CREATE FOREIGN TABLE latency (n bigint, sent timestamptz OPTIONS (metadata 'timestamp')) SERVER k OPTIONS (topic 'latency')});

sub row
{
	my ($what, $ratio, $target, $text) = @_;
	printf "%-58s %8.2f %9s  %-5s  %s\n", $what, $ratio, ">= $target", $ratio >= $target ? 'ok' : 'short', $text;
	return;
}

# bare(command ...): events a second of the tool.
sub bare
{
	my ($n, $seconds) = split ' ', $kafka->tool(@_);
	return $n / $seconds;
}

# pipe_run(name, statement, rows): events a second from the start of a paused pipe until it has all, its CPU in us an event, and its memory. rows
# is run before that, for a source that has nothing yet.
sub pipe_run
{
	my ($name, $statement, $rows) = @_;
	my $pid;

	$db->must("CALL penstock.create_pipe('$name', '$statement', active => false)") unless $rows;
	$db->must("CALL penstock.create_pipe('$name', '$statement')") if $rows;
	$db->must("SELECT penstock.pause('$name'); $rows") if $rows;
	my $begin = time;
	$db->must("SELECT penstock.resume('$name')");
	until ($pid) { $pid = $db->must("SELECT pid FROM penstock.stat_pipe WHERE pipe = '$name'"); }
	my $cpu = Server::cpu($pid);
	while ($db->must("SELECT events FROM penstock.stat_pipe WHERE pipe = '$name'") < $o{events})
	{
		die "$name does not come to an end\n" if time - $begin > 300;
		sleep 0.01;
	}
	my $seconds = time - $begin;
	$cpu = Server::cpu($pid) - $cpu;
	my $memory = Server::own_memory($pid);
	$db->must("CALL penstock.drop_pipe('$name')");
	return ($o{events} / $seconds, $cpu * 1e6 / $o{events}, $memory);
}

# compare(what, target, reference, measured): medians over runs, each between two references.
sub compare
{
	my ($what, $target, $reference, $measured) = @_;
	my (@ratios, @bare, @pipe, @cpu, $memory);

	for my $run (1 .. $o{runs})
	{
		my $first = $reference->();
		my @middle = $measured->();
		my $second = $reference->();
		push @bare, ($first + $second) / 2;
		push @pipe, $middle[0];
		push @cpu, $middle[1];
		push @ratios, $middle[0] / $bare[-1];
		$memory = $middle[2] if !$memory || $middle[2] > $memory;
		printf "# run %d: bare %.0f and %.0f, pipe %.0f events a second, %.1f us CPU an event\n", $run, $first, $second, $middle[0], $middle[1];
	}
	row($what, Server::median(@ratios), $target, sprintf('%.0f against %.0f events a second, %.1f us CPU an event, %.0f MB',
			Server::median(@pipe), Server::median(@bare), Server::median(@cpu), $memory / 1e6));
	return;
}

compare('Kafka json topic into a stream, against a bare consumer', 0.5,
	sub { return bare('consume', 'events', $o{partitions}, $o{events}); },
	sub {
		$db->must("DROP TABLE IF EXISTS events; CREATE TABLE events ($columns) USING stream");
		my @result = pipe_run('ingest', 'INSERT INTO events SELECT * FROM topic');
		die "events are missing\n" if $db->must('SELECT count(*) FROM events') != $o{events};
		return @result;
	});

# ---- the other formats: the same events, written to topics of their own by a pipe, against json read in the same moment ----

# format(name, options): events a second of the format by the rate of json, medians over runs.
sub format_run
{
	my ($format, $options) = @_;
	my (@ratios, @cpu, @rates);

	$kafka->tool('create', $format, $o{partitions});
	$db->must(qq{CREATE FOREIGN TABLE "$format" ($columns) SERVER k OPTIONS (topic '$format', format '$format' $options);
		INSERT INTO "$format" SELECT * FROM events});
	for my $run (1 .. $o{runs})
	{
		my @result;
		for my $source ('topic', $format)
		{
			$db->must("DROP TABLE IF EXISTS again; CREATE TABLE again ($columns) USING stream");
			push @result, [ pipe_run('again', qq{INSERT INTO again SELECT * FROM "$source"}) ];
		}
		push @ratios, $result[1][0] / $result[0][0];
		push @cpu, $result[1][1];
		push @rates, $result[1][0];
	}
	row("Kafka $format topic into a stream, against json", Server::median(@ratios), 1,
		sprintf('%.0f events a second, %.1f us CPU an event', Server::median(@rates), Server::median(@cpu)));
	return;
}

my $avro = '{"type": "record", "name": "event", "fields": [' . join(', ', map { my ($n, $t) = @$_; qq({"name": "$n", "type": ["null", $t]}) }
		['n', '"long"'], ['user_id', '"int"'], ['url', '"string"'], ['latency', '"double"'], ['status', '"int"'], ['ok', '"boolean"'],
		['at', '{"type": "long", "logicalType": "timestamp-micros"}'], ['note', '"string"']) . ']}';
format_run('csv', '');
if ($db->must("SELECT count(*) FROM pg_available_extensions WHERE name = 'penstock_avro'"))
{
	$db->must('CREATE EXTENSION penstock_avro');
	format_run('avro', qq{, schema '$avro'});
}

compare('stream into a Kafka topic, against a bare producer', 0.5,
	sub { return bare('produce', 'bare', 1, $o{events}, $o{bytes}); },
	sub {
		$db->must("DROP TABLE IF EXISTS outgoing; CREATE TABLE outgoing ($columns) USING stream");
		return pipe_run('sink', 'INSERT INTO out SELECT * FROM outgoing', 'INSERT INTO outgoing SELECT * FROM events');
	});

# ---- from produced to visible, at 1,000 events a second ----

$db->must(q{CREATE TABLE arrivals (n bigint, sent timestamptz) USING stream;
	CREATE MATERIALIZED VIEW newest USING continuous AS SELECT count(*) AS n, max(sent) AS sent FROM arrivals;
	CALL penstock.create_pipe('latency', 'INSERT INTO arrivals SELECT n, sent FROM latency')});
sleep 0.05 until $db->must(q{SELECT state FROM penstock.stat_pipe WHERE pipe = 'latency'}) eq 'running';
my $pid = open2(my $from, my $to, $kafka->folder . '/kafka_tool', $kafka->servers, 'lines', 'latency', -1, 'paced');
my (@delays, $sent);
$to->autoflush(1);
my $begin = time;
while (time - $begin < 5)
{
	print $to "$sent\t{\"n\": $sent}\n" while ++$sent < (time - $begin) * 1000;
	my $delay = $db->must('SELECT extract(epoch FROM clock_timestamp() - sent) * 1000 FROM newest');
	push @delays, $delay if length $delay && time - $begin > 1;
	sleep 0.005;
}
close $to;
waitpid($pid, 0);
my $median = Server::median(@delays);
printf "%-58s %8.1f %9s  %-5s  %s\n", 'Kafka to stream to view, produced to visible', $median, '<= 20', $median <= 20 ? 'ok' : 'short',
	sprintf('ms, median of %d looks at the newest event while 1,000 a second come', scalar @delays);
$db->quit;
$server->stop;
