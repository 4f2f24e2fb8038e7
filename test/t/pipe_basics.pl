# Pipes and queues when all goes well: every kind of source and target, the event splitter, metadata, SELECT and INSERT, options.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../connector";
use Penstock::Test;
use Penstock::Session;
use TestQueue;
use Test::More;

my $node = penstock_node('pipe_basics', 'fsync = off');
my $q = TestQueue->new($node);
sub sql { return $q->sql($_[0]); }

# ---- options ----

like($q->fails(q{CREATE SERVER bad FOREIGN DATA WRAPPER testqueue OPTIONS (directory '/tmp', path '/tmp')}),
	qr/invalid option "path".*HINT:.*directory/s, 'an unknown option of a server: what there is');
like($q->fails(q{CREATE SERVER bad FOREIGN DATA WRAPPER testqueue OPTIONS (directory '/tmp', poll_every 'soon')}),
	qr/invalid value for option "poll_every": "soon"/, 'a time that is none');
like($q->fails(q{CREATE SERVER bad FOREIGN DATA WRAPPER testqueue OPTIONS (directory '/tmp', poll_every '2 h')}),
	qr/invalid value for option "poll_every".*1 to 60000/s, 'a time out of range');
like($q->fails(q{CREATE FOREIGN TABLE bad (n int) SERVER tq OPTIONS (queue 'a', start 'now')}),
	qr/invalid value for option "start": "now".*earliest, latest/s, 'a value that is not in the list');
like($q->fails(q{CREATE FOREIGN TABLE bad (n int) SERVER tq OPTIONS (queue 'a', partitions '65')}),
	qr/invalid value for option "partitions": "65".*1 to 64/s, 'a number out of range');
like($q->fails(q{CREATE FOREIGN TABLE bad (n int) SERVER tq OPTIONS (queue 'a', partitions '1x')}),
	qr/invalid value for option "partitions": "1x"/, 'a number that is none');
like($q->fails(q{CREATE FOREIGN TABLE bad (n int) SERVER tq OPTIONS (queue 'a', format 'xml')}),
	qr/unknown format "xml"/, 'an unknown format');
like($q->fails(q{CREATE FOREIGN TABLE bad (n int OPTIONS (metadata 'colour')) SERVER tq OPTIONS (queue 'a')}),
	qr/unknown metadata "colour".*file, size/s, 'unknown metadata: what there is');
like($q->fails(q{CREATE USER MAPPING FOR CURRENT_USER SERVER tq OPTIONS (user 'me', secret 'x')}),
	qr/invalid option "secret"/, 'an unknown option of a user mapping');
like($q->fails(q{CREATE FOREIGN TABLE bad (n int) SERVER tq OPTIONS (queue 'no/../where')}),
	qr/invalid value for option "queue"/, 'options are checked together at CREATE') or sql('DROP FOREIGN TABLE bad');
like($q->fails(q{CREATE FOREIGN TABLE bad (n int) SERVER tq}),
	qr/option "queue".*is missing/s, 'so is what is missing') or sql('DROP FOREIGN TABLE bad');
like($q->fails(q{CREATE SERVER bad FOREIGN DATA WRAPPER testqueue}),
	qr/option "directory".*is missing/s, 'of servers too') or sql('DROP SERVER bad');
sql(q{CREATE ROLE somebody LOGIN; GRANT USAGE ON FOREIGN DATA WRAPPER testqueue TO somebody});
like($q->fails(q{CREATE SERVER bad FOREIGN DATA WRAPPER testqueue OPTIONS (directory '/tmp')}, extra_params => [ '-U', 'somebody' ]),
	qr/permission denied to set option "directory"/, 'a path is for superusers');
is(sql(q{SELECT count(*) FROM penstock.connector_options('testqueue') WHERE option IN ('queue', 'password', 'format')}), '3',
	'connector_options lists them');

# ---- SELECT ----

sql(q{
	CREATE FOREIGN TABLE numbers (n int, t text,
		raw bytea OPTIONS (metadata 'payload'), key text OPTIONS (metadata 'key'), id text OPTIONS (metadata 'message_id'),
		at timestamptz OPTIONS (metadata 'timestamp'), part text OPTIONS (metadata 'partition'), off bigint OPTIONS (metadata 'offset'),
		headers jsonb OPTIONS (metadata 'headers'), colour text OPTIONS (metadata 'header:colour'),
		again bool OPTIONS (metadata 'redelivered'), file text OPTIONS (metadata 'file'), size int OPTIONS (metadata 'size'))
	SERVER tq OPTIONS (queue 'numbers')});
is(sql('SELECT count(*) FROM numbers'), '0', 'a queue that is empty');
sql(q{SELECT testqueue.append('tq', 'numbers', '{"n": 1, "t": "one"}', '0', 'k1', 'id1', '2026-01-02 03:04:05+00', ARRAY['colour', 'red', 'x', NULL, 'colour', 'blue'])});
sql(q{SELECT testqueue.append('tq', 'numbers', '{"n": 2}', '1')});
sql(q{SELECT testqueue.append('tq', 'numbers', NULL, '1', 'k3')});
is(sql(q{SET timezone = 'UTC'; SELECT n, t, convert_from(raw, 'UTF8'), key, id, at, part, off, colour IN ('red', 'blue'), again, file, size > 10 FROM numbers WHERE part = '0'}),
	'1|one|{"n": 1, "t": "one"}|k1|id1|2026-01-02 03:04:05+00|0|0|t|f|numbers.0|t', 'all metadata');
is(sql(q{SELECT headers ->> 'colour' IN ('red', 'blue'), headers ? 'x', headers -> 'x' FROM numbers WHERE part = '0'}), 't|t|null', 'headers, one twice, one null');
is(sql(q{SELECT n, t, raw, key, off FROM numbers WHERE part = '1' ORDER BY off}), "2||\\x7b226e223a20327d||0\n|||k3|1",
	'a message without payload has null columns');
is(sql(q{SELECT count(*) FROM numbers WHERE part = '1' AND off BETWEEN 1 AND 5}), '1', 'a range of offsets');
is(sql(q{SELECT count(*) FROM numbers WHERE part = '1' AND off > 1}), '0', 'and an empty one');
is(sql(q{SELECT count(*) FROM numbers WHERE at < '2026-01-03'}), '1', 'a range of times');
is(sql(q{SELECT count(*) FROM numbers a JOIN numbers b USING (part)}), '5', 'a self-join reads it twice');
is(sql(q{SELECT count(*) FROM numbers a, LATERAL (SELECT FROM numbers b WHERE b.off = a.off) c}), '5', 'a rescan with another range');
is(sql('SELECT count(*) FROM (SELECT FROM numbers LIMIT 1) a'), '1', 'LIMIT');
like(sql('EXPLAIN (COSTS OFF) SELECT * FROM numbers WHERE n = 1'), qr/Foreign Scan on numbers/, 'EXPLAIN');
sql(q{DECLARE c CURSOR WITH HOLD FOR SELECT n FROM numbers});
like($q->fails('UPDATE numbers SET n = 3'), qr/cannot|not supported/, 'no UPDATE');
like($q->fails('DELETE FROM numbers'), qr/cannot|not supported/, 'no DELETE');
like($q->fails('TRUNCATE numbers'), qr/cannot|not supported|not a table/i, 'no TRUNCATE');

sql(q{SELECT testqueue.append('tq', 'wrong', '{"n": 1}'), testqueue.append('tq', 'wrong', '{"n": "many"}')});
sql(q{CREATE FOREIGN TABLE wrong (n int, off bigint OPTIONS (metadata 'offset')) SERVER tq OPTIONS (queue 'wrong')});
like($q->fails('SELECT * FROM wrong'), qr/invalid input syntax for type integer.*CONTEXT:.*column "?n/s, 'a value that does not fit: its column is named');
is(sql('SELECT n FROM wrong WHERE off = 0'), '1', 'those before it can be read');
is(sql('SELECT count(off) FROM wrong'), '2', 'columns that nobody asks for are not decoded');

# ---- INSERT ----

sql(q{CREATE FOREIGN TABLE out (n int, t text, key text OPTIONS (metadata 'key'), part text OPTIONS (metadata 'partition'),
		id text OPTIONS (metadata 'message_id'), at timestamptz OPTIONS (metadata 'timestamp'),
		headers jsonb OPTIONS (metadata 'headers'), colour text OPTIONS (metadata 'header:colour'))
	SERVER tq OPTIONS (queue 'out', partitions '4')});
sql(q{INSERT INTO out (n, t, key, part, id, at, headers, colour)
	VALUES (1, 'one', 'k', '2', 'id', '2026-01-02 03:04:05+00', '{"a": "b", "c": null}', 'red')});
is(sql(q{SET timezone = 'UTC'; SELECT partition, convert_from(payload, 'UTF8')::jsonb, convert_from(key, 'UTF8'), convert_from(id, 'UTF8'), "time",
	headers @> ARRAY['a', 'b', 'c', 'colour', 'red'] FROM testqueue.messages('tq', 'out')}),
	'2|{"n": 1, "t": "one"}|k|id|2026-01-02 03:04:05+00|t', 'INSERT with all metadata');
sql('INSERT INTO out (n) SELECT generate_series(2, 100)');
is($q->count('out'), '100', 'INSERT of many');
sql('BEGIN; INSERT INTO out (n) VALUES (-1); ROLLBACK');
is($q->count('out'), '100', 'INSERT rolled back sends nothing');
sql(q{BEGIN; INSERT INTO out (n) VALUES (101); SAVEPOINT a; INSERT INTO out (n) VALUES (-2); ROLLBACK TO a; INSERT INTO out (n) VALUES (102);
	SAVEPOINT b; INSERT INTO out (n) VALUES (103); SAVEPOINT c; INSERT INTO out (n) VALUES (-3); RELEASE c; ROLLBACK TO b; RELEASE b; COMMIT});
is(sql(q{SELECT string_agg(convert_from(payload, 'UTF8')::jsonb ->> 'n', ' ' ORDER BY (convert_from(payload, 'UTF8')::jsonb ->> 'n')::int)
	FROM testqueue.messages('tq', 'out') WHERE (convert_from(payload, 'UTF8')::jsonb ->> 'n')::int NOT BETWEEN 0 AND 100}), '101 102',
	'savepoints rolled back send nothing, also released ones in them');
sql(q{DO $$ BEGIN INSERT INTO out (n) VALUES (-4); RAISE EXCEPTION 'no'; EXCEPTION WHEN OTHERS THEN INSERT INTO out (n) VALUES (103); END $$});
is($q->count('out'), '103', 'an exception block in PL/pgSQL');
sql('COPY out (n) FROM PROGRAM \'seq 104 110\'');
is($q->count('out'), '110', 'COPY');
like(sql('INSERT INTO out (n, t) VALUES (111, upper(\'x\')) RETURNING n, t'), qr/^111\|X$/, 'RETURNING');
$node->psql('postgres', q{BEGIN; INSERT INTO out (n) VALUES (-5); PREPARE TRANSACTION 'x'});
$node->psql('postgres', q{ROLLBACK PREPARED 'x'});
is($q->count('out'), '111', 'what was prepared and rolled back sends nothing');
sql(q{CREATE FUNCTION in_a_commit_trigger() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN INSERT INTO out (n) VALUES (112); RETURN NULL; END';
	CREATE TABLE deferred (n int);
	CREATE CONSTRAINT TRIGGER late AFTER INSERT ON deferred DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION in_a_commit_trigger();
	INSERT INTO deferred VALUES (1)});
is($q->count('out'), '112', 'INSERT in a deferred trigger');
sql(q{CREATE TABLE in_order (n int); INSERT INTO out (n, part) SELECT i, '3' FROM generate_series(1001, 1100) i});
is(sql(q{SELECT count(*) FROM (SELECT (convert_from(payload, 'UTF8')::jsonb ->> 'n')::int AS n, lag((convert_from(payload, 'UTF8')::jsonb ->> 'n')::int) OVER (ORDER BY "offset") AS l
	FROM testqueue.messages('tq', 'out') WHERE partition = '3') a WHERE n > 1000 AND l > n}), '0', 'order is kept');

# what the broker refuses
$q->faults('flush refuse k=3');
like($q->fails('INSERT INTO out (n) SELECT generate_series(1, 5)'), qr/broker refuses message 3/, 'INSERT reports what the broker refused');
$q->faults('send away');
like($q->fails('INSERT INTO out (n) VALUES (1)'), qr/broker is away in send/, 'and that it is away');
$q->faults('open_producer away');
like($q->fails('INSERT INTO out (n) VALUES (1)'), qr/broker is away in open_producer/, 'from the start');
$q->faults('flush away times=1');
like($q->fails('BEGIN; CREATE TABLE not_there (); INSERT INTO out (n) VALUES (1); COMMIT'), qr/broker is away in flush/, 'then the transaction fails');
is(sql(q{SELECT to_regclass('not_there') IS NULL}), 't', 'all of it');
is($q->count('out'), '212', 'and nothing was sent');
sql('INSERT INTO out (n) VALUES (2000)');
is($q->count('out'), '213', 'the next one works');
$q->faults('flush slow ms=60000 queue=out');
sql(q{ALTER FOREIGN TABLE out OPTIONS (ADD flush_timeout '300 ms')});
like($q->fails('INSERT INTO out (n) VALUES (1)'), qr/within \d+ ms/, 'flush_timeout');
like($q->fails(q{SET statement_timeout = '200 ms'; INSERT INTO out (n) VALUES (1)}), qr/statement timeout|within \d+ ms/, 'statement_timeout');
$q->faults();
my $session = Penstock::Session->new($node);
$session->must('BEGIN; INSERT INTO out (n) VALUES (-7)');
$session->quit;
sql('SELECT 1');
is($q->count('out'), '213', 'a session that ends in the middle sends nothing');

# ---- secrets ----

sql(q{CREATE USER MAPPING FOR PUBLIC SERVER tq OPTIONS (user 'me', password 'kingfisher')});
open(my $password, '>', $q->dir . '/password') or die $!;
print $password "other\n";
close $password;
like($q->fails('SELECT * FROM numbers'), qr/broker does not let user "me" in.*HINT:/s, 'a wrong password');
like($q->fails('INSERT INTO out (n) VALUES (1)'), qr/broker does not let user "me" in/, 'likewise');
sql(q{ALTER USER MAPPING FOR PUBLIC SERVER tq OPTIONS (SET password 'other')});
is(sql('SELECT count(*) FROM numbers'), '3', 'the right one');
unlink $q->dir . '/password';

# ---- IMPORT FOREIGN SCHEMA ----

sql(q{CREATE SCHEMA imported; IMPORT FOREIGN SCHEMA anything LIMIT TO (numbers, out) FROM SERVER tq INTO imported});
is(sql(q{SELECT string_agg(relname, ' ' ORDER BY relname) FROM pg_class WHERE relnamespace = 'imported'::regnamespace}), 'numbers out', 'IMPORT FOREIGN SCHEMA');
is(sql('SELECT count(*) FROM imported.numbers'), '3', 'and what it made works');
$q->faults('import refused');
like($q->fails('IMPORT FOREIGN SCHEMA anything FROM SERVER tq INTO imported'), qr/broker refuses import/, 'refused');
$q->faults();

# ---- pipes: queue to everything, one batch, one transaction ----

sql(q{
	CREATE FOREIGN TABLE events (n int, k text, off bigint OPTIONS (metadata 'offset'), part text OPTIONS (metadata 'partition')) SERVER tq OPTIONS (queue 'events');
	CREATE FOREIGN TABLE sink (n int, k text) SERVER tq OPTIONS (queue 'sink');
	CREATE TABLE plain (n int, k text, off bigint, xid xid8 DEFAULT pg_current_xact_id());
	CREATE TABLE split (n int, xid xid8 DEFAULT pg_current_xact_id());
	CREATE TABLE streamed (n int, k text) USING stream;
	CREATE MATERIALIZED VIEW totals USING continuous AS SELECT k, count(*) AS c, sum(n) AS s FROM streamed GROUP BY k;
	CREATE TABLE called (n bigint);
	CREATE FUNCTION note(int) RETURNS void LANGUAGE sql AS 'INSERT INTO called VALUES ($1)'});
$q->append('events', 1, 1000, '{"n": %s, "k": "a"}');
sql(q{CALL penstock.create_pipe('all', $$
	INSERT INTO plain SELECT n, k, off FROM events;
	INSERT INTO split SELECT n FROM events WHERE n % 10 = 0;
	INSERT INTO streamed SELECT n, k FROM events;
	INSERT INTO sink SELECT n, k FROM events WHERE n % 100 = 0;
	SELECT note(n) FROM events WHERE n > 990;
	SELECT pg_notify('alerts', n::text) FROM events WHERE n = 77
$$)});
ok($q->true('SELECT count(*) = 1000 FROM plain'), 'what was there before arrives');
is(sql('SELECT count(*), sum(n) FROM streamed'), '1000|500500', 'in a stream');
is(sql('SELECT count(*) FROM split'), '100', 'split off');
is(sql('SELECT count(*) FROM split s JOIN plain p USING (n) WHERE s.xid <> p.xid'), '0', 'in the same transaction');
is($q->count('sink'), '10', 'in a queue');
is(sql('SELECT count(*) FROM called'), '10', 'by a function');
sql('SELECT penstock.catch_up()');
is(sql('SELECT * FROM totals'), 'a|1000|500500', 'and a view over the stream has it');
my $listener = Penstock::Session->new($node);
$listener->must('LISTEN alerts');
$q->append('events', 77, 77, '{"n": %s, "k": "b"}');
ok($q->true(q{SELECT count(*) = 1 FROM plain WHERE k = 'b'}), 'a new message wakes the pipe');
like($listener->must('SELECT 1'), qr/Asynchronous notification "alerts" with payload "77"/, 'pg_notify');
$q->append('events', 1, 500, '{"n": %s, "k": "c"}', q{, i::text}) for 1 .. 1;
ok($q->true(q{SELECT count(*) = 500 FROM plain WHERE k = 'c'}), 'partitions that appear later are read');
is(sql(q{SELECT count(*) FROM plain p1 JOIN plain p2 ON p1.k = 'a' AND p2.k = 'a' AND p2.n = p1.n + 1 AND p2.off <> p1.off + 1}), '0', 'offsets are right');
is(sql(q{SELECT count(*) FROM (SELECT n, lag(n) OVER (ORDER BY ctid) AS l FROM plain WHERE k = 'a') a WHERE n < l}), '0', 'order is kept');
is(sql(q{SELECT count(*) FROM penstock.source_position}), '501', 'a place for each partition');

# a source read twice in a statement, in subqueries, in a CTE
sql(q{
	CREATE FOREIGN TABLE twice (n int) SERVER tq OPTIONS (queue 'twice');
	CREATE TABLE pairs (a int, b int);
	CREATE TABLE counts (c bigint)});
$q->append('twice', 1, 10);
sql(q{CALL penstock.create_pipe('twice', $$
	INSERT INTO pairs SELECT a.n, b.n FROM twice a JOIN twice b ON b.n = a.n WHERE EXISTS (SELECT FROM twice c WHERE c.n = a.n);
	WITH x AS (SELECT n FROM twice) INSERT INTO counts SELECT count(*) FROM x HAVING count(*) > 0
$$)});
ok($q->true('SELECT count(*) = 10 FROM pairs'), 'a source that a statement reads several times');
is(sql('SELECT sum(c) FROM counts'), '10', 'in a CTE');

# updates, deletes, merge: any statement
sql(q{
	CREATE FOREIGN TABLE changes (k int, v int, gone bool) SERVER tq OPTIONS (queue 'changes');
	CREATE TABLE state (k int PRIMARY KEY, v int)});
sql(q{CALL penstock.create_pipe('upsert', $$
	INSERT INTO state SELECT DISTINCT ON (k) k, v FROM changes WHERE gone IS NOT TRUE ON CONFLICT (k) DO UPDATE SET v = excluded.v;
	DELETE FROM state USING changes c WHERE c.k = state.k AND c.gone;
	MERGE INTO state s USING (SELECT k FROM changes WHERE v = 0) c ON s.k = c.k WHEN MATCHED THEN UPDATE SET v = -1
$$)});
sql(q{SELECT testqueue.append('tq', 'changes', format('{"k": %s, "v": %s}', i % 10, i % 10)) FROM generate_series(1, 20) i});
sql(q{SELECT testqueue.append('tq', 'changes', '{"k": 5, "gone": true}')});
ok($q->true('SELECT count(*) = 9 FROM state'), 'upserts and deletes');
is(sql('SELECT v FROM state WHERE k = 0'), '-1', 'and MERGE');

# formats
sql(q{
	CREATE FOREIGN TABLE lines (a int, b text) SERVER tq OPTIONS (queue 'lines', format 'csv');
	CREATE FOREIGN TABLE texts (t text) SERVER tq OPTIONS (queue 'texts', format 'text');
	CREATE FOREIGN TABLE bytes (b bytea) SERVER tq OPTIONS (queue 'bytes', format 'binary');
	CREATE FOREIGN TABLE rows (a int, b text, off bigint OPTIONS (metadata 'offset')) SERVER tqr OPTIONS (queue 'rows');
	CREATE TABLE formatted (what text, a int, b text);
	CALL penstock.create_pipe('lines', $$INSERT INTO formatted SELECT 'csv', a, b FROM lines$$);
	CALL penstock.create_pipe('texts', $$INSERT INTO formatted SELECT 'text', length(t), t FROM texts$$);
	CALL penstock.create_pipe('bytes', $$INSERT INTO formatted SELECT 'binary', length(b), encode(b, 'hex') FROM bytes$$);
	CALL penstock.create_pipe('rows', $$INSERT INTO formatted SELECT 'rows', a, b FROM rows$$, batch_rows => 3);
	SELECT testqueue.append('tq', 'lines', '1,"a ""b"", c"');
	SELECT testqueue.append('tq', 'texts', E'two\nlines');
	SELECT testqueue.append_bytes('tq', 'bytes', '\x00ff');
	SELECT testqueue.append('tq', 'rows', (SELECT string_agg(i || '|row ' || i, E'\n' ORDER BY i) FROM generate_series(1, 10) i));
	SELECT testqueue.append('tq', 'rows', '11|\N')});
ok($q->true('SELECT count(*) = 14 FROM formatted'), 'all formats arrive');
is(sql(q{SELECT a, b FROM formatted WHERE what = 'csv'}), '1|a "b", c', 'csv');
is(sql(q{SELECT a, b FROM formatted WHERE what = 'text'}), "9|two\nlines", 'text');
is(sql(q{SELECT a, b FROM formatted WHERE what = 'binary'}), '2|00ff', 'binary');
is(sql(q{SELECT count(*), min(a), max(a), count(b) FROM formatted WHERE what = 'rows'}), '11|1|11|10', 'rows of a connector that decodes by itself, batches that end inside a transaction');

# what stands in views is no secret
my $seen = sql(q{SELECT string_agg(t, ' ') FROM (SELECT query_to_xml('SELECT * FROM ' || v, true, false, '')::text AS t
	FROM unnest(ARRAY['pg_stat_activity', 'penstock.stat_pipe', 'penstock.pipe', 'penstock.dead_letter', 'penstock.source_position']) v) a});
unlike($seen, qr/kingfisher/, 'no view shows a password');
unlike(slurp($node->logfile) =~ s/^.*(?:STATEMENT|statement):.*USER MAPPING.*$//mgr, qr/kingfisher/, 'nor does the log, beyond the statement that set it');

sub slurp
{
	open(my $in, '<', $_[0]) or die "$_[0]: $!";
	local $/;
	return <$in>;
}

$session = $listener = undef;
$node->stop;
done_testing();
