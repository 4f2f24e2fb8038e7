# Kafka: each message is in the database exactly once, and in order, while the worker, the server and the broker are killed and the broker
# is cut off; and two pipes write what arrives to other topics, at least once, one of them in transactions of Kafka.
use strict;
use warnings;
use Penstock::Test;
use Penstock::Chaos;
use PostgreSQL::Test::Utils;
use Test::More;
use Kafka;

my $last = $ENV{PENSTOCK_MESSAGES} || 60000;
my $kills = $ENV{PENSTOCK_KILLS} || 7;
my $rate = $ENV{PENSTOCK_RATE} || 3000;
my $kafka = Kafka->start(proxy => 1) or plan skip_all => Kafka->why;
my $node = penstock_node('kafka_crash', 'log_statement = none', 'log_min_messages = warning', 'restart_after_crash = on');

sub sql { return $node->safe_psql('postgres', $_[0]); }

# What the producer was told about the numbers that the topic does not have, or that are not where it was told.
sub lost
{
	sql("CREATE TABLE receipts (n int, p int, o bigint); COPY receipts FROM '@{[ $kafka->folder ]}/receipts'");
	return diag("number, confirmed partition and offset | partition and offset in the topic\n" . sql("SELECT coalesce(r.n, d.n), r.p, r.o, d.p, d.o
		FROM receipts r FULL JOIN dump d USING (n) WHERE (r.p, r.o) IS DISTINCT FROM (d.p, d.o) ORDER BY 1 LIMIT 50"));
}

my ($servers, $topic) = ($kafka->servers('PROXY'), 'events');
$kafka->tool('create', $_, 3) for $topic, qw(out whole);
sql(qq{
	CREATE EXTENSION penstock_kafka;
	CREATE SERVER k FOREIGN DATA WRAPPER kafka OPTIONS (bootstrap_servers '$servers', connect_timeout '3 s', request_timeout '3 s');
	CREATE FOREIGN TABLE events (n int, p int OPTIONS (metadata 'partition'), o bigint OPTIONS (metadata 'offset'))
		SERVER k OPTIONS (topic '$topic');
	CREATE TABLE sink (id bigserial, n int, p int, o bigint);
	CREATE TABLE events_stream (n int, p int) USING stream;
	CREATE MATERIALIZED VIEW by_partition USING continuous AS SELECT p, count(*) AS n, sum(n) AS sum FROM events_stream GROUP BY p;
	CREATE FOREIGN TABLE out (n int) SERVER k OPTIONS (topic 'out');
	CREATE FOREIGN TABLE whole (n int) SERVER k OPTIONS (topic 'whole', transactional_id 'whole');
	CALL penstock.create_pipe('out', 'INSERT INTO out SELECT n FROM events_stream', batch_rows => 1000);
	CALL penstock.create_pipe('whole', 'INSERT INTO whole SELECT n FROM events_stream', batch_rows => 1000);
	CALL penstock.create_pipe('events', 'INSERT INTO sink (n, p, o) SELECT n, p, o FROM events; INSERT INTO events_stream SELECT n, p FROM events',
		batch_rows => 1000)});

# its producer goes straight to the broker, is idempotent and goes on by itself while that is away
my $producer = IPC::Run::start([ $kafka->folder . '/kafka_tool', $kafka->servers, 'produce', $topic, 1, $last, 100, $rate,
	$kafka->folder . '/receipts' ], '>', \my $produced);
my $chaos = Penstock::Chaos->new(node => $node, proxy => $kafka->proxy, last => $last, broker => sub { $kafka->kill; $kafka->restart },
	progress => 'SELECT coalesce(sum("offset"), 0) FROM penstock.source_position');
$chaos->run($kills);
ok($producer->finish, 'all have been produced');
note("messages and seconds of the producer: $produced");

# what the topic has is in it, and that is each number once
my $file = $node->basedir . '/dump';
append_to_file($file, $kafka->tool('dump', $topic, 3) =~ s/\{"n": (\d+).*/$1/gr);
sql("CREATE TABLE dump (p int, o bigint, n int); COPY dump FROM '$file'");
is(sql("SELECT count(*), count(DISTINCT n), min(n), max(n) FROM dump"), "$last|$last|1|$last", 'each number is in the topic once') or lost();
is(sql(differences('(SELECT p, o, n FROM sink) s', 'SELECT p, o, n FROM dump')), '0', 'what is in the topic is in the table, and nothing else');
is(sql('SELECT count(*), count(DISTINCT n), min(n), max(n) FROM sink'), "$last|$last|1|$last", 'each number is in the table exactly once');
is(sql('SELECT count(*), count(DISTINCT n) FROM events_stream'), "$last|$last", 'and in the stream of the same pipe');
is(sql('SELECT count(*) FROM (SELECT o <= lag(o) OVER (PARTITION BY p ORDER BY id) AS wrong FROM sink) x WHERE wrong'), '0', 'in the order of each partition');
is(sql('SELECT sum("offset") FROM penstock.source_position'), $last, 'the stored positions are the ends');
sql(q{SELECT penstock.catch_up('by_partition')});
is(sql(differences('by_partition', 'SELECT p, count(*), sum(n) FROM sink GROUP BY p')), '0', 'and a continuous view has counted each once');
for my $sink (qw(out whole))
{
	sql("SELECT penstock.catch_up('$sink')");
	my ($sent, $numbers, $least, $most) = split /\|/, sql("SELECT count(*), count(DISTINCT n), min(n), max(n) FROM $sink");
	is("$numbers|$least|$most", "$last|1|$last", "$sink: each number has been written, at least once");
	note("$sink: " . ($sent - $numbers) . ' twice');
}
is(sql('SELECT count(*) FROM penstock.dead_letter'), '0', 'no dead letter');
ok(slurp_file($node->logfile) !~ /does not end and is left behind/, 'no client of the library was left behind');

$node->stop;
done_testing();
