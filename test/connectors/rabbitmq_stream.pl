# RabbitMQ's streams: read by offset, with a real broker.
use strict;
use warnings;
use Penstock::Test;
use RabbitMQ;
use PostgreSQL::Test::Utils;
use Test::More;

my $broker = RabbitMQ->start or plan skip_all => RabbitMQ->why;
my $node = penstock_node('rabbitmq_stream', 'log_statement = none');
my ($rc, $out, $err);

sub sql { return $node->safe_psql('postgres', $_[0]); }

sub fails
{
	my ($sql, $pattern, $what) = @_;
	($rc, $out, $err) = $node->psql('postgres', $sql);
	return like($err, $pattern, $what);
}

sub becomes
{
	my ($query, $wanted, $what) = @_;
	return ok($node->poll_query_until('postgres', "SELECT ($query)::text = '$wanted'"), $what);
}

sub waits
{
	my ($pipe, $pattern, $what) = @_;
	return ok($node->poll_query_until('postgres',
		qq{SELECT coalesce(last_error, '') ~ \$\$$pattern\$\$ FROM penstock.stat_pipe WHERE pipe = '$pipe'}), $what)
	  || diag(sql(qq{SELECT state, last_error FROM penstock.stat_pipe WHERE pipe = '$pipe'}));
}

# stream(name, option ...): a stream at the broker, its foreign table, a target and a pipe.
sub stream
{
	my ($name, @options) = @_;
	my $options = join '', map { ", $_" } @options;
	sql(qq{
		CREATE FOREIGN TABLE $name (n int, "offset" int8 OPTIONS (metadata 'offset'), part text OPTIONS (metadata 'partition')) SERVER rabbit OPTIONS (queue '$name'$options);
		CREATE TABLE from_$name (n int, at int8);
		CALL penstock.create_pipe('$name', 'INSERT INTO from_$name SELECT n, "offset" FROM $name')});
	return;
}

my $port = $broker->port;
my ($user, $password) = ($RabbitMQ::user, $RabbitMQ::password);
$broker->tool('declare', $_, 'stream') for qw(events empty anew late middle);
$broker->tool('declare', 'queue', 'classic');
sql(qq{
	CREATE EXTENSION penstock_rabbitmq;
	CREATE SERVER rabbit FOREIGN DATA WRAPPER rabbitmq_stream OPTIONS (host '127.0.0.1', port '$port');
	CREATE USER MAPPING FOR CURRENT_USER SERVER rabbit OPTIONS (username '$user', password '$password')});

# ---- a pipe, and what it knows ----

$broker->tool('publish', '', 'events', 1, 10000);
stream('events');
becomes('SELECT count(*) FROM from_events', 10000, 'a pipe reads a stream from its beginning');
is(sql('SELECT count(*) FROM from_events WHERE at <> n - 1'), '0', 'with its offsets');
$broker->tool('publish', '', 'events', 10001, 12000);
becomes('SELECT count(*) FROM from_events', 12000, 'and what comes');
sql(q{SELECT pg_terminate_backend(pid) FROM penstock.stat_pipe WHERE pipe = 'events'});
$broker->tool('publish', '', 'events', 12001, 12500);
becomes('SELECT count(*) FROM from_events', 12500, 'a new worker goes on');
$broker->kill;
$broker->come_back;
$broker->tool('publish', '', 'events', 12501, 13000);
becomes('SELECT count(*) FROM from_events', 13000, 'also with a new broker');
is(sql('SELECT count(DISTINCT at) FROM from_events'), '13000', 'each once');
sql(q{SELECT penstock.pause('events')});
$broker->tool('publish', '', 'events', 13001, 16000);
sql(q{SELECT penstock.resume('events')});
becomes('SELECT count(*) FROM from_events', 16000, 'paused and resumed');
becomes(q{SELECT coalesce(lag_events, 0) FROM penstock.stat_pipe WHERE pipe = 'events'}, 0, 'nothing is left to read');
for my $i (1 .. 5)
{
	$broker->tool('publish', '', 'events', 16000 + $i, 16000 + $i);
	sql(q{SELECT penstock.catch_up('events', '30 s')});
	is(sql('SELECT count(*) FROM from_events'), 16000 + $i, 'catch_up waits for what was published before');
}

# ---- SELECT ----

is(sql('SELECT count(*), min("offset"), max("offset") FROM events'), '16005|0|16004', 'a SELECT reads all');
is(sql('SELECT count(*), min(n), max(n) FROM events WHERE "offset" BETWEEN 5000 AND 5099'), '100|5001|5100', 'or a range');
is(sql('SELECT n FROM events WHERE "offset" = 16004'), '16005', 'or the last one');
is(sql('SELECT count(*) FROM events WHERE "offset" > 16004'), '0', 'or nothing');
is(sql(q{SELECT count(*) FROM events WHERE part = 'other'}), '0', 'a partition that there is not');
sql(q{CREATE FOREIGN TABLE empty (n int) SERVER rabbit OPTIONS (queue 'empty')});
is(sql('SELECT count(*) FROM empty'), '0', 'a stream without messages');

# ---- where to begin ----

$broker->tool('publish', '', 'late', 1, 100);
$broker->tool('publish', '', 'middle', 1, 100);
stream('late', q{start 'next'});
stream('middle', q{start '50'});
becomes('SELECT count(*) FROM from_middle', 50, 'an offset to begin with');
is(sql('SELECT min(n) FROM from_middle'), '51', 'exactly that');
sql(q{SELECT penstock.catch_up('late', '30 s')});
$broker->tool('publish', '', 'late', 101, 110);
becomes('SELECT count(*) FROM from_late', 10, 'and gets just that');
sql(q{CREATE FOREIGN TABLE whenever (n int) SERVER rabbit OPTIONS (queue 'late', start '2020-01-01 00:00+00')});
sql(q{CREATE TABLE from_whenever (n int); CALL penstock.create_pipe('whenever', 'INSERT INTO from_whenever SELECT n FROM whenever')});
becomes('SELECT count(*) FROM from_whenever', 110, 'a time to begin with');
fails(q{CREATE FOREIGN TABLE bad (n int) SERVER rabbit OPTIONS (queue 'late', start 'whenever'); SELECT * FROM bad}, qr/invalid input syntax for type timestamp/, 'a start that is none');

# ---- what is not there any more ----

stream('anew');
$broker->tool('publish', '', 'anew', 1, 100);
becomes('SELECT count(*) FROM from_anew', 100, 'a stream is read');
$broker->tool('delete', 'anew');
waits('anew', '"anew" (was deleted|does not exist)', 'and deleted');
$broker->tool('declare', 'anew', 'stream');
becomes(q{SELECT state FROM penstock.stat_pipe WHERE pipe = 'anew'}, 'running', 'made anew it may be the old one');
$broker->tool('publish', '', 'anew', 201, 210);
waits('anew', 'is not the one that was read before: it ends before offset 100', 'made anew it is not read without being told to');
is(sql('SELECT count(*) FROM from_anew'), '100', 'nothing is skipped');
sql(q{ALTER FOREIGN TABLE anew OPTIONS (ADD on_lost 'first')});
becomes('SELECT count(*) FROM from_anew', 110, 'and then from its beginning');

$broker->tool('declare', 'short', 'stream', 'x-max-length-bytes=200000', 'x-stream-max-segment-size-bytes=50000');
stream('short');
$broker->tool('publish', '', 'short', 1, 10);
becomes('SELECT count(*) FROM from_short', 10, 'a stream with retention');
sql(q{SELECT penstock.pause('short')});
$broker->tool('publish', '', 'short', 11, 3000, 1000);
# sometimes retention leaves none of them
$broker->tool('publish', '', 'short', 3001, 3010);
sql(q{SELECT penstock.resume('short')});
waits('short', 'stream "short" no longer has offsets 10 to \d+', 'retention was faster: the pipe says what is lost');
sql(q{ALTER FOREIGN TABLE short OPTIONS (ADD on_lost 'first')});
becomes('SELECT max(n) FROM from_short', 3010, 'and goes on when told to');

# ---- what is not a stream ----

stream('queue');
$broker->tool('publish', '', 'queue', 1, 1);
waits('queue', 'queue "queue"|x-stream-offset', 'a queue is not a stream');

# ---- writing ----

sql('INSERT INTO empty SELECT generate_series(1, 1000)');
is(sql('SELECT count(*), sum(n) FROM empty'), '1000|500500', 'streams can be written to');

unlike(slurp_file($node->logfile), qr/\Q$password\E/, 'the password is not in the log');
$node->stop;
done_testing();
