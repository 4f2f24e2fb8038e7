# Pipes from and to Kafka: order, where to start, what the source says when
# it is away or refuses, lost offsets, topics made anew, new partitions, poison, back-pressure.
use strict;
use warnings;
use Penstock::Test;
use Penstock::Session;
use PostgreSQL::Test::Utils;
use Test::More;
use Kafka;

my $kafka = Kafka->start or plan skip_all => Kafka->why;
my $node = penstock_node('kafka_pipes', 'log_statement = none', 'log_min_messages = warning', 'restart_after_crash = on');

sub sql { return $node->safe_psql('postgres', $_[0]); }

# until(sql, what, seconds): waits for the query to be true.
sub until_true
{
	my ($query, $what) = @_;
	my $ok = $node->poll_query_until('postgres', $query);
	diag(sql('SELECT pipe, state, events, retries, lag_events, last_error FROM penstock.stat_pipe; SELECT * FROM penstock.source_position'))
	  unless $ok;
	return ok($ok, $what);
}

sub topic
{
	my ($name, $options, @columns) = @_;
	sql("CREATE FOREIGN TABLE $name (" . join(', ', @columns, "p int OPTIONS (metadata 'partition')", "o bigint OPTIONS (metadata 'offset')")
		. ") SERVER k OPTIONS (topic '$name'" . ($options ? ", $options" : '') . ')');
	return;
}

# What a pipe says of its source.
sub says
{
	my ($pipe, $pattern, $what) = @_;
	return until_true("SELECT state = 'waiting for the source' AND last_error ~ '$pattern' FROM penstock.stat_pipe WHERE pipe = '$pipe'", $what);
}

# CPU seconds that a process has used.
sub cpu
{
	my ($pid) = @_;
	my @fields = split ' ', (slurp_file("/proc/$pid/stat") =~ s/^.*\) //r);
	return ($fields[11] + $fields[12]) / 100;
}

sub worker { return sql("SELECT coalesce(max(pid), 0) FROM penstock.stat_pipe WHERE pipe = '$_[0]'"); }

sql('CREATE EXTENSION penstock_kafka');
sql("CREATE SERVER k FOREIGN DATA WRAPPER kafka OPTIONS (bootstrap_servers '" . $kafka->servers . "', metadata_refresh '1s')");

# ---- where to start ----

$kafka->tool('create', $_, 1) for qw(start first);
$kafka->lines('start', 0, map { "{\"n\": $_}" } 1 .. 10);
for my $case ([ 'earliest', 'earliest', '1-11' ], [ 'latest', 'latest', '11-11' ], [ 'seven', '7', '8-11' ],
	[ 'past', '2001-01-01', '1-11' ], [ 'future', '2101-01-01', '11-11' ])
{
	my ($name, $start, $expected) = @$case;
	sql("CREATE FOREIGN TABLE s_$name (n int) SERVER k OPTIONS (topic 'start', start '$start'); CREATE TABLE t_$name (n int);
		CALL penstock.create_pipe('start_$name', 'INSERT INTO t_$name SELECT n FROM s_$name')");
}
until_true("SELECT count(*) = 5 FROM penstock.stat_pipe WHERE state = 'running'", 'five pipes run');
until_true('SELECT count(*) = 10 FROM t_earliest', 'from the beginning');
until_true("SELECT count(DISTINCT pipe) = 5 FROM penstock.source_position", 'each has a first position');
# started again before anything came, "latest" still means the same
sql("SELECT penstock.pause('start_latest')");
$kafka->lines('start', 0, '{"n": 11}');
sql("SELECT penstock.resume('start_latest')");
for my $case ([ 'earliest', '1-11' ], [ 'latest', '11-11' ], [ 'seven', '8-11' ], [ 'past', '1-11' ], [ 'future', '11-11' ])
{
	my ($name, $expected) = @$case;
	until_true("SELECT max(n) = 11 FROM t_$name", "start $name has arrived");
	is(sql("SELECT min(n) || '-' || max(n) FROM t_$name"), $expected, "start $name");
}
sql("DO \$\$ DECLARE p text; BEGIN FOR p IN SELECT pipe FROM penstock.stat_pipe LOOP CALL penstock.drop_pipe(p); END LOOP; END \$\$");

# ---- in order, into two targets ----

my $all = 40000;
$kafka->tool('create', 'events', 3);
topic('events', '', 'n bigint');
sql('CREATE TABLE sink (id bigserial, n bigint, p int, o bigint); CREATE TABLE events_stream (n bigint, p int) USING stream');
sql(q{CALL penstock.create_pipe('events', 'INSERT INTO sink (n, p, o) SELECT n, p, o FROM events; INSERT INTO events_stream SELECT n, p FROM events')});
$kafka->tool('produce', 'events', 1, $all, 100);
until_true("SELECT count(*) >= $all FROM sink", "all of $all events have arrived");
is(sql('SELECT count(*), count(DISTINCT n), min(n), max(n) FROM sink'), "$all|$all|1|$all", 'each once');
is(sql('SELECT count(*), count(DISTINCT n) FROM events_stream'), "$all|$all", 'and in the stream of the same pipe');
is(sql('SELECT count(*) FROM (SELECT o <= lag(o) OVER (PARTITION BY p ORDER BY id) AS wrong FROM sink) x WHERE wrong'), '0', 'in order');
is(sql('SELECT sum("offset") FROM penstock.source_position'), $all, 'and the stored positions are the ends');
is(sql(q{SELECT lag_events FROM penstock.stat_pipe WHERE pipe = 'events'}), '0', 'nothing left');

# ---- the broker is away: said, survived, and no CPU burnt ----

$kafka->kill;
says('events', 'no Kafka broker of server "k" can be reached', 'the broker is away');
my $pid = worker('events');
my $used = cpu($pid);
until_true("SELECT retry_at > now() + interval '2 seconds' FROM penstock.stat_pipe WHERE pipe = 'events'", 'the pauses grow');
$kafka->restart;
$kafka->tool('produce', 'events', $all + 1, $all + 100, 100);
until_true("SELECT count(*) = $all + 100 FROM sink", 'and it goes on by itself');
is(worker('events'), $pid, 'in the same worker');
cmp_ok(cpu($pid) - $used, '<', 2, 'no CPU burnt meanwhile');
until_true("SELECT state = 'running' FROM penstock.stat_pipe WHERE pipe = 'events'", 'it runs');

# ---- new partitions ----

$kafka->tool('partitions', 'events', 4);
$kafka->lines('events', 3, map { "{\"n\": -$_}" } 1 .. 5);
until_true('SELECT count(*) = 5 FROM sink WHERE p = 3', 'a partition made later is read from its beginning');

# ---- retention passes the position ----

$kafka->tool('create', 'short', 1);
topic('short', '', 'n int');
sql(q{CREATE TABLE short_sink (n int); CALL penstock.create_pipe('short', 'INSERT INTO short_sink SELECT n FROM short')});
$kafka->lines('short', 0, map { "{\"n\": $_}" } 1 .. 10);
until_true('SELECT count(*) = 10 FROM short_sink', 'read so far');
sql(q{SELECT penstock.pause('short')});
until_true(q{SELECT pid IS NULL FROM penstock.stat_pipe WHERE pipe = 'short'}, 'paused');
$kafka->lines('short', 0, map { "{\"n\": $_}" } 11 .. 20);
$kafka->tool('cut', 'short', 0, 15);
sql(q{SELECT penstock.resume('short')});
says('short', 'topic "short" no longer has offset 10 of partition 0.*5 messages were removed unread', 'retention passed the position');
sql(q{ALTER FOREIGN TABLE short OPTIONS (on_offset_lost 'earliest')});
until_true('SELECT count(*) = 15 FROM short_sink', 'told to, it goes on with what is there');
ok(slurp_file($node->logfile) =~ /topic "short" lost 5 messages of partition 0/, 'and the loss is in the log');

# ---- a topic deleted, and made anew ----

sql(q{ALTER FOREIGN TABLE short OPTIONS (SET on_offset_lost 'stop')});
$kafka->tool('delete', 'short');
says('short', 'Kafka has no topic "short"', 'the topic is gone');
$kafka->tool('create', 'short', 1);
$kafka->lines('short', 0, '{"n": 101}');
says('short', 'topic "short" does not reach offset 20 of partition 0.*made anew', 'it is another one now');
sql(q{ALTER FOREIGN TABLE short OPTIONS (SET on_offset_lost 'earliest')});
until_true('SELECT max(n) = 101 FROM short_sink', 'told to, it begins with that');

# ---- wrong password, certificate, topic: each says so, and gets well ----

$kafka->tool('create', 'later', 1);
$kafka->lines('later', 0, '{"n": 1}');
my ($ca, $tls) = ($kafka->tls('ca.pem'), $kafka->servers('SSL'));
sql("CREATE SERVER sasl FOREIGN DATA WRAPPER kafka OPTIONS (bootstrap_servers '" . $kafka->servers('SASL') . "', security_protocol 'sasl_plaintext');
	CREATE SERVER expired FOREIGN DATA WRAPPER kafka OPTIONS (bootstrap_servers '" . $kafka->servers('EXPIRED') . "', security_protocol 'ssl', ssl_ca_location '$ca');
	CREATE USER MAPPING FOR postgres SERVER sasl OPTIONS (username 'alice', password 'wrong-secret-0815');
	CREATE FOREIGN TABLE wrong_password (n int) SERVER sasl OPTIONS (topic 'later');
	CREATE FOREIGN TABLE wrong_certificate (n int) SERVER expired OPTIONS (topic 'later');
	CREATE FOREIGN TABLE wrong_topic (n int) SERVER k OPTIONS (topic 'not-yet');
	CREATE TABLE well (what text, n int)");
sql("CALL penstock.create_pipe('$_', \$\$INSERT INTO well SELECT '$_', n FROM $_\$\$)") for qw(wrong_password wrong_certificate wrong_topic);
says('wrong_password', '28P01.*refuses the user name or password', 'a wrong password');
says('wrong_certificate', 'certificate has expired', 'an expired certificate');
says('wrong_topic', '42704.*Kafka has no topic "not-yet"', 'an unknown topic');
sql("ALTER USER MAPPING FOR postgres SERVER sasl OPTIONS (SET password '$Kafka::password');
	ALTER SERVER expired OPTIONS (SET bootstrap_servers '$tls')");
$kafka->tool('create', 'not-yet', 1);
$kafka->lines('not-yet', 0, '{"n": 1}');
until_true('SELECT count(*) = 3 FROM well', 'all three get well when it is put right');

# ---- poison ----

$kafka->tool('create', 'poison', 1, 1, 'max.message.bytes=8000000');
topic('poison', '', 'n int NOT NULL', 'kind text');
sql(q{CREATE TABLE healthy (n int CHECK (n <> 700), kind text);
	CALL penstock.create_pipe('poison', 'INSERT INTO healthy SELECT n, kind FROM poison')});
my %poison = (100 => '{"n": 100, "kind', 200 => '{"n": "two hundred"}', 300 => "{\"n\": 300, \"kind\": \"\xff\xfe\"}",
	400 => '[' x 20000, 500 => '{"n": 500, "kind": "\u0000"}', 600 => '{"kind": "none"}', 700 => '{"n": 700}',
	800 => '{"n": 99999999999}', 900 => '');
$kafka->lines('poison', 0, map { $poison{$_} // "{\"n\": $_, \"kind\": \"" . ($_ == 950 ? 'x' x 900000 : 'good') . '"}' } 1 .. 1000);
until_true('SELECT count(*) + (SELECT count(*) FROM penstock.dead_letter) >= 1000 FROM healthy', 'all are somewhere');
is(sql('SELECT count(*), count(DISTINCT n) FROM healthy'), '991|991', 'the healthy ones arrive, a large one too');
is(sql(q{SELECT string_agg("offset" + 1 || ' ' || sqlstate, ', ' ORDER BY "offset") FROM penstock.dead_letter WHERE pipe_name = 'poison'}),
	'100 22P02, 200 22P02, 300 22021, 400 54001, 500 22P05, 600 23502, 700 23514, 800 22003, 900 22P02', 'the others are dead letters, with their reason');

# ---- back-pressure: a target that is locked ----

$kafka->tool('create', 'pressure', 2);
topic('pressure', '', 'n bigint', 'note text');
sql(q{CREATE TABLE locked (n bigint); CALL penstock.create_pipe('pressure', 'INSERT INTO locked SELECT n FROM pressure')});
until_true("SELECT state = 'running' FROM penstock.stat_pipe WHERE pipe = 'pressure'", 'the pipe runs');
my $lock = Penstock::Session->new($node);
$lock->must('BEGIN; LOCK TABLE locked');
$kafka->tool('produce', 'pressure', 1, 200000, 400);
until_true("SELECT count(*) > 0 FROM pg_locks WHERE NOT granted AND relation = 'locked'::regclass", 'it waits for the lock');
my ($rss) = slurp_file('/proc/' . worker('pressure') . '/status') =~ /VmRSS:\s+(\d+)/;
my ($shared) = slurp_file('/proc/' . worker('pressure') . '/status') =~ /RssShmem:\s+(\d+)/;
cmp_ok($rss - $shared, '<', 256 * 1024, 'a backlog of 80 MB takes less than 256 MB of memory');
$lock->must('COMMIT');
until_true('SELECT count(*) = 200000 FROM locked', 'and all of it comes when the lock is gone');
($rss) = slurp_file('/proc/' . worker('pressure') . '/status') =~ /VmHWM:\s+(\d+)/;
cmp_ok($rss - $shared, '<', 256 * 1024, 'it never took more');

# ---- out: a stream into a topic, across kills ----

$kafka->tool('create', 'out', 3);
topic('out', '', 'n bigint', 'key text OPTIONS (metadata \'key\')');
sql(q{CREATE TABLE source (n bigint) USING stream;
	CALL penstock.create_pipe('out', 'INSERT INTO out (n, key) SELECT n, n::text FROM source')});
for my $round (1 .. 4)
{
	sql("INSERT INTO source SELECT g FROM generate_series(($round - 1) * 5000 + 1, $round * 5000) g");
	if ($round == 2) { kill 'KILL', worker('out'); $node->poll_query_until('postgres', 'SELECT true'); }
	if ($round == 3) { $kafka->kill; $kafka->restart; }
}
until_true('SELECT count(DISTINCT n) = 20000 FROM out', 'each event is in the topic at least once');
is(sql('SELECT min(n), max(n) FROM out'), '1|20000', 'and no others');

my $log = slurp_file($node->logfile);
ok($log !~ /\Q$Kafka::password\E|wrong-secret-0815/, 'no password in the log');
is(sql(q{SELECT count(*) FROM penstock.stat_pipe s WHERE s::text ~ 'secret-'}), '0', 'nor in stat_pipe');

done_testing();
