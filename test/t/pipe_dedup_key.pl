# dedup_key: messages are recognised by the value of a column, for dedup_window, whatever their ids; exactly, also across crashes.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../connector";
use Penstock::Test;
use Penstock::Session;
use TestQueue;
use Test::More;

my $node = penstock_node('pipe_dedup_key', 'fsync = off', 'restart_after_crash = on');
my $q = TestQueue->new($node);
sub sql { return $q->sql($_[0]); }

sql(q{
	CREATE FOREIGN TABLE a (n int, text text, id text OPTIONS (metadata 'message_id'), off bigint OPTIONS (metadata 'offset')) SERVER tqa OPTIONS (queue 'a');
	CREATE TABLE a_done (n int, text text, id text);
	CREATE FOREIGN TABLE b (n int, key text OPTIONS (metadata 'key')) SERVER tq OPTIONS (queue 'b');
	CREATE TABLE b_done (n int, key text);
	CREATE TABLE events (n int) USING stream});

# ---- what is refused ----

for my $case (
	[ q{'INSERT INTO a_done SELECT n, text, id FROM a', dedup_key => 'n'}, qr/ERROR:  dedup_key needs a dedup_window.*\n.*HINT:  dedup_window says for how long/ ],
	[ q{'INSERT INTO a_done SELECT n, text, id FROM a', dedup_key => 'm', dedup_window => '1 hour'},
		qr/ERROR:  dedup_key names column "m", which "a" does not have\nHINT:  It can be one of: n, text, id, off\./ ],
	[ q{'INSERT INTO a_done SELECT n, text, id FROM a', dedup_key => 'ctid', dedup_window => '1 hour'}, qr/ERROR:  dedup_key names column "ctid"/ ],
	[ q{'INSERT INTO a_done (n) SELECT n FROM events', dedup_key => 'n'}, qr/ERROR:  dedup_key is for queues\nDETAIL:  "events" is a stream/ ])
{
	my ($arguments, $error) = @$case;
	like($q->fails("CALL penstock.create_pipe('refused', $arguments)"), $error, "refused: $arguments");
}

# ---- a field of the payload ----

sql(q{CALL penstock.create_pipe('a', 'INSERT INTO a_done SELECT n, text, id FROM a', dedup_window => '1 hour', dedup_key => 'n', batch_rows => 50)});
is(sql('SELECT dedup_key FROM penstock.pipe'), 'n', 'the key is shown');
$q->append('a', 1, 100, '{"n": %s}', q{, id => 'first ' || i});
ok($q->true('SELECT count(*) = 100 FROM a_done'), 'all are new');
$q->append('a', 1, 110, '{"n": %s}', q{, id => 'second ' || i});
ok($q->true('SELECT count(*) = 110 FROM a_done'), 'repetitions are left out though their ids differ');
is(sql(q{SELECT count(*) FROM a_done WHERE id LIKE 'second%'}), '10', 'the first of each counts');
$q->append('a', 111, 115, '{"n": 111}', q{, id => 'third ' || i});
ok($q->true('SELECT count(*) = 111 FROM a_done'), 'within one batch too');
$q->append('a', 120, 124, '{"n": %s}', q{, id => 'same'});
ok($q->true('SELECT count(*) = 116 FROM a_done'), 'the id does not matter');
$q->append('a', 1, 5, '{"text": "%s"}');
$q->append('a', 1, 5, '{"text": "%s"}');
ok($q->true('SELECT count(*) = 126 FROM a_done'), 'null is like nothing, and comes as often as it comes');
ok($q->true(q{SELECT skipped = 104 FROM penstock.stat_pipe WHERE pipe = 'a'}), 'what was left out is counted');

# one that cannot be decoded has no key
$q->append('a', 1, 2, '{"n": "x"}');
ok($q->true(q{SELECT count(*) = 2 FROM penstock.dead_letter WHERE pipe_name = 'a'}), 'messages without a value for it are dead letters');

# ---- exactly, whatever happens between commit and acknowledgement ----

$q->faults('acknowledge away times=1 queue=a');
$q->append('a', 200, 250);
ok(wait_until(30, sub { $q->faults_left eq '' }), 'an acknowledgement is lost');
ok(wait_until(30, sub { $q->count('a', 'acknowledged') == $q->count('a') }), 'it is made up for');
is(sql('SELECT count(*), count(DISTINCT n) FROM a_done WHERE n >= 200'), '51|51', 'and nothing is doubled');
$q->faults('acknowledge crash times=1 queue=a');
eval { $q->append('a', 300, 350) };
ok(wait_until(60, sub { $q->faults_left eq '' && sql('SELECT 1') }), 'a crash before the acknowledgement');
ok(wait_until(60, sub { $q->count('a', 'acknowledged') == $q->count('a') }), 'all is acknowledged in the end');
is(sql('SELECT count(*), count(DISTINCT n) FROM a_done WHERE n >= 300'), '51|51', 'nothing twice');

# ---- long values, another column ----

sql(q{CALL penstock.alter_pipe('a', dedup_key => 'text')});
is(sql('SELECT count(*) FROM penstock.seen_message'), '0', 'a new key begins with an empty window');
my $long = 'y' x 5000;
for my $last (qw(1 2 1 2 3)) { $q->append('a', 1000, 1000, qq({"n": %s, "text": "$long$last"})); }
ok($q->true(q{SELECT count(*) = 3 FROM a_done WHERE n = 1000}), 'long values are told apart by their end');
is(sql('SELECT max(length(id)) FROM penstock.seen_message'), '33', 'and take no more room than a digest');
sql(q{CALL penstock.alter_pipe('a', dedup_key => '')});
$q->append('a', 1100, 1104, '{"n": 1100, "text": "z"}', q{, id => 'id ' || i});
ok($q->true('SELECT count(*) = 5 FROM a_done WHERE n = 1100'), 'without a key, ids count again');

# the window passes
sql(q{CALL penstock.alter_pipe('a', dedup_key => 'n', dedup_window => '1 ms')});
for my $n (2001 .. 2020) { $q->append('a', $n, $n); }
ok($q->true('SELECT count(*) = 20 FROM a_done WHERE n > 2000') && $q->true('SELECT count(*) < 15 FROM penstock.seen_message'), 'values are forgotten when it has passed');
like($q->fails(q{CALL penstock.alter_pipe('a', dedup_window => '0')}), qr/dedup_key needs a dedup_window/, 'a window cannot go from under its key');

# ---- metadata, and a queue with offsets ----

sql(q{CALL penstock.create_pipe('b', 'INSERT INTO b_done SELECT n, key FROM b', dedup_window => '1 hour', dedup_key => 'key')});
$q->append('b', 1, 20, '{"n": %s}', q{, key => ('k' || i % 10)::bytea});
ok($q->true('SELECT count(*) = 10 FROM b_done'), 'by metadata, where messages have no ids');
$q->append('a', 1, 20);
is(sql('SELECT count(DISTINCT pipe) FROM penstock.seen_message'), '2', 'each pipe remembers its own');

# ---- the column goes ----

sql('ALTER FOREIGN TABLE b RENAME key TO name');
$q->append('b', 21, 21, '{"n": %s}', q{, key => ('k' || i)::bytea});
ok($q->true(q{SELECT state = 'failed' FROM penstock.stat_pipe WHERE pipe = 'b'}), 'without its column the pipe stops');
like($q->error('b'), qr/dedup_key names column "key"/, 'and says why');
sql(q{CALL penstock.alter_pipe('b', statements => 'INSERT INTO b_done SELECT n, name FROM b', dedup_key => 'name'); SELECT penstock.resume('b')});
ok($q->true(q{SELECT count(*) = 1 FROM b_done WHERE n = 21}), 'with another it goes on');

$node->stop;
done_testing();
