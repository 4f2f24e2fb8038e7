# Events that cannot be worked on: a batch is halved until they are alone; dead letters, stop, skip, and sending again.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../connector";
use Penstock::Test;
use Penstock::Session;
use TestQueue;
use Test::More;

my $node = penstock_node('pipe_errors', 'fsync = off');
my $q = TestQueue->new($node);
sub sql { return $q->sql($_[0]); }

# What is behind the pipe: all of the queue's messages have been worked on or put away.
sub done
{
	my ($pipe, $upto, $what) = @_;
	return ok($q->true(qq{SELECT sum("offset") = $upto FROM penstock.source_position WHERE pipe = (SELECT pipe FROM penstock.pipe WHERE name = '$pipe')}), $what);
}

# ---- each kind of fault of an event, one of each in a batch of many ----

sql(q{
	CREATE FOREIGN TABLE e (n int, d date, off bigint OPTIONS (metadata 'offset')) SERVER tq OPTIONS (queue 'e');
	CREATE TABLE good (n int CHECK (n <> 30000) UNIQUE, d date, off bigint, id bigint GENERATED ALWAYS AS IDENTITY);
	CREATE TABLE parent (n int PRIMARY KEY);
	INSERT INTO parent SELECT generate_series(0, 10000);
	CREATE TABLE child (n int REFERENCES parent DEFERRABLE INITIALLY DEFERRED);
	CREATE TABLE ratio (r int)});
$q->append('e', 1, 100);					# offsets 0 .. 99
$q->append('e', 101, 101, '{"n": %s');			# 100: bad JSON
$q->append('e', 102, 200);					# 101 .. 199
$q->append('e', 1, 1, '{"n": "x%s"}');			# 200: wrong type
$q->append('e', 202, 300);					# 201 .. 299
$q->append('e', 30000, 30000);				# 300: a CHECK
$q->append('e', 301, 399);					# 301 .. 399
$q->append('e', 350, 350);					# 400: a duplicate of one before
$q->append('e', 401, 499);					# 401 .. 499
$q->append('e', 1, 1, '{"n": 700, "d": "2026-02-3%s"}');	# 500: not a date
$q->append('e', 501, 599);					# 501 .. 599
$q->append('e', 20000, 20000);				# 600: a deferred foreign key
$q->append('e', 601, 699);					# 601 .. 699
$q->append('e', 7777, 7777);				# 700: division by zero in the second statement
$q->append('e', 701, 799);					# 701 .. 799
sql(q{SELECT testqueue.append_bytes('tq', 'e', '\x7b226e223a2022ff227d')});	# 800: invalid UTF-8
sql(q{SELECT testqueue.append('tq', 'e', repeat('[', 100000))});			# 801: nested too deeply
sql(q{SELECT testqueue.append('tq', 'e', '{"n": 99999999999}')});			# 802: out of range
sql(q{SELECT testqueue.append('tq', 'e', '')});							# 803: empty
sql(q{SELECT testqueue.append('tq', 'e', '[1, 2]')});						# 804: not an object
sql(q{SELECT testqueue.append('tq', 'e', '{"n": 900, "x": "' || repeat('y', 5000000) || '"}')});	# 805: long, but good
sql(q{SELECT testqueue.append('tq', 'e', '{"n": "' || repeat('y', 5000000) || '"}')});			# 806: long and bad
$q->append('e', 901, 999);					# 807 .. 905
sql(q{CALL penstock.create_pipe('e', $$
	INSERT INTO good (n, d, off) SELECT n, d, off FROM e;
	INSERT INTO ratio SELECT 1000 / (n - 7777) FROM e;
	INSERT INTO child SELECT n FROM e
$$)});
done('e', 906, 'the pipe comes to the end');
is(sql(q{SELECT "offset", statement, column_name, sqlstate, left(message, 30) FROM penstock.dead_letter WHERE "offset" NOT IN (801, 803, 804) ORDER BY "offset"})
		=~ s/^(100\|0\|).*$/$1.../mr,
	join("\n", '100|0|...', '200|0|n|22P02|invalid input syntax for type ',
		'300|1||23514|new row for relation "good" vi', '400|1||23505|duplicate key value violates u',
		'500|0|d|22008|date/time field value out of r', '600|3||23503|insert or update on table "chi',
		'700|2||22012|division by zero', '800|0||22021|invalid byte sequence for enco', '802|0|n|22003|value "99999999999" is out of ',
		'806|0|n|22P02|invalid input syntax for type '), 'each with its reason, statement and column')
	or diag(sql(q{SELECT "offset", statement, column_name, sqlstate, left(message, 60) FROM penstock.dead_letter ORDER BY "offset"}));
is(sql(q{SELECT count(*) FROM penstock.dead_letter WHERE "offset" IN (801, 803, 804)}), '3', 'also what is nested too deeply, empty, or no object');
is(sql('SELECT count(*), count(DISTINCT n) FROM good'), '893|893', 'all others arrived')
	or diag(sql('SELECT string_agg(off::text, \' \') FROM generate_series(0, 905) off WHERE NOT EXISTS (SELECT FROM good g WHERE g.off = off.off)'));
is(sql('SELECT count(*) FROM good g FULL JOIN child c USING (n) WHERE g.n IS NULL OR c.n IS NULL'), '0', 'in all statements alike');
is(sql('SELECT count(*) FROM ratio'), sql('SELECT count(*) FROM good'), 'likewise');
is(sql(q{SELECT convert_from(payload, 'UTF8') FROM penstock.dead_letter WHERE "offset" = 200}), '{"n": "x1"}', 'the payload as it came');
is(sql(q{SELECT length(payload) FROM penstock.dead_letter WHERE "offset" = 806}), '5000009', 'however long');
is(sql(q{SELECT pipe_name, owner, source::regclass, partition FROM penstock.dead_letter WHERE "offset" = 200}), 'e|postgres|e|0', 'pipe, owner, source and partition');
is(sql('SELECT count(*) FROM (SELECT n, lag(n) OVER (ORDER BY id) AS l FROM good WHERE n < 900) a WHERE n < l'), '0', 'order is kept through it all');

# ---- sending again ----

sql('INSERT INTO parent VALUES (20000), (30000)');
sql(q{ALTER TABLE good DROP CONSTRAINT good_n_check});
sql(q{SELECT penstock.redrive('e')});
ok($q->true('SELECT count(*) = 2 FROM good WHERE n IN (30000, 20000)'), 'redriven after repair');
ok($q->true(q{SELECT count(*) = 0 FROM penstock.dead_letter WHERE "offset" IN (300, 600)}), 'their letters are gone');
ok($q->true(q{SELECT count(*) > 5 AND bool_and(NOT redrive) FROM penstock.dead_letter}), 'those that fail once more are letters again');
is(sql('SELECT count(*) FROM child WHERE n = 20000'), '1', 'in all statements');
sql(q{ALTER FOREIGN TABLE e ALTER n TYPE bigint; ALTER TABLE good ALTER n TYPE bigint; ALTER TABLE child DROP CONSTRAINT child_n_fkey; ALTER TABLE child ALTER n TYPE bigint; ALTER TABLE ratio ALTER r TYPE bigint});
sql(q{SELECT penstock.redrive('e', ARRAY(SELECT id FROM penstock.dead_letter WHERE "offset" = 802))});
ok($q->true('SELECT count(*) = 1 FROM good WHERE n = 99999999999'), 'the source itself repaired, one letter redriven');
is(sql('SELECT count(*) FROM good WHERE n = 99999999999'), '1', 'once');
sql(q{DELETE FROM penstock.dead_letter});
$q->append('e', 1000, 1000);
ok($q->true('SELECT count(*) = 1 FROM good WHERE n = 1000'), 'and it goes on');

# ---- the error is in what the statement calls ----

sql(q{
	CREATE FOREIGN TABLE f (n int) SERVER tq OPTIONS (queue 'f');
	CREATE TABLE f_done (n int);
	CREATE FUNCTION picky(n int) RETURNS int LANGUAGE plpgsql AS $$ BEGIN
		IF n = 13 THEN RAISE EXCEPTION USING ERRCODE = 'PX013', MESSAGE = 'no thirteen', DETAIL = 'It is said to bring bad luck.'; END IF;
		IF n = 14 THEN BEGIN PERFORM 1 / 0; EXCEPTION WHEN division_by_zero THEN RETURN -14; END; END IF;
		RETURN n; END $$;
	CREATE FUNCTION late() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF NEW.n = 17 THEN RAISE EXCEPTION 'late'; END IF; RETURN NULL; END $$;
	CREATE CONSTRAINT TRIGGER late AFTER INSERT ON f_done DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION late()});
sql(q{CALL penstock.create_pipe('f', 'INSERT INTO f_done SELECT picky(n) FROM f')});
$q->append('f', 1, 20);
done('f', 20, 'a function that raises');
is(sql(q{SELECT "offset", sqlstate, message, detail FROM penstock.dead_letter WHERE pipe_name = 'f' ORDER BY 1}),
	"12|PX013|no thirteen|It is said to bring bad luck.\n16|P0001|late|", 'its error, with detail; and that of a deferred trigger');
is(sql('SELECT count(*), count(*) FILTER (WHERE n = -14) FROM f_done'), '18|1', 'what it catches itself is its own affair');

# an event that makes the statement fail only together with others: none of them alone is at fault
sql(q{
	CREATE FOREIGN TABLE g (n int) SERVER tq OPTIONS (queue 'g');
	CREATE TABLE g_done (n int, of bigint CHECK (of < 4))});
sql(q{CALL penstock.create_pipe('g', 'INSERT INTO g_done SELECT n, count(*) OVER () FROM g')});
$q->append('g', 1, 100);
done('g', 100, 'a statement that fails with many events at once');
is(sql(q{SELECT count(*) FROM g_done}), '100', 'nobody is put away');
is(sql(q{SELECT count(*) FROM penstock.dead_letter WHERE pipe_name = 'g'}), '0', 'and there is no letter');

# all of them are broken
sql(q{
	CREATE FOREIGN TABLE h (n int) SERVER tq OPTIONS (queue 'h');
	CREATE TABLE h_done (n int);
	CALL penstock.create_pipe('h', 'INSERT INTO h_done SELECT n FROM h')});
$q->append('h', 1, 3000, '{"n": %s,}');
done('h', 3000, 'nothing but broken messages');
is(sql(q{SELECT count(*), count(DISTINCT "offset") FROM penstock.dead_letter WHERE pipe_name = 'h'}), '3000|3000', 'all are letters');
$q->append('h', 1, 3000, '{"n": %s}', ', (i % 3)::text');
ok($q->true('SELECT count(*) = 3000 FROM h_done'), 'good ones go on');

# what cannot be text must not hold up the pipe either
sql(q{
	CREATE FOREIGN TABLE odd (n int, id bytea OPTIONS (metadata 'message_id')) SERVER tq OPTIONS (queue 'odd');
	CREATE TABLE odd_done (n int);
	CALL penstock.create_pipe('odd', 'INSERT INTO odd_done SELECT n FROM odd');
	SELECT testqueue.append_bytes('tq', 'odd', '\x00ff', id => '\xff00fe', key => '\xff');
	SELECT testqueue.append('tq', 'odd', '{"n": 1}', headers => ARRAY['a', 'b'])});
ok($q->true('SELECT count(*) = 1 FROM odd_done'), 'a dead letter whose message id is not text');
is(sql(q{SELECT count(*) FROM penstock.dead_letter WHERE pipe_name = 'odd'}), '1', 'is one') or diag($q->state('odd'), ' ', $q->error('odd'));
sql(q{SELECT penstock.redrive('odd')});
ok($q->true(q{SELECT count(*) = 1 AND bool_and(NOT redrive) FROM penstock.dead_letter WHERE pipe_name = 'odd'}), 'it can be redriven, and fails again');

# ---- stop ----

sql(q{
	CREATE FOREIGN TABLE s (n int, off bigint OPTIONS (metadata 'offset')) SERVER tq OPTIONS (queue 's');
	CREATE TABLE s_done (n int CHECK (n <> 50));
	CALL penstock.create_pipe('s', 'INSERT INTO s_done SELECT n FROM s', on_error => 'stop')});
$q->append('s', 1, 100);
ok($q->true(q{SELECT state = 'failed' FROM penstock.stat_pipe WHERE pipe = 's'}), 'on_error stop: it stops');
like($q->error('s'), qr/23514.*s_done_n_check/, 'and says why');
like(sql(q{SELECT to_json(s) FROM penstock.stat_pipe s WHERE pipe = 's'}), qr/49/, 'and where');
ok(sql('SELECT count(*) <= 49 FROM s_done') eq 't', 'nothing behind the event has been done');
is(sql(q{SELECT count(*) FROM penstock.dead_letter WHERE pipe_name = 's'}), '0', 'no letter');
$node->restart;
is($q->state('s'), 'failed', 'after a restart it stands still');
sql(q{SELECT penstock.resume('s')});
ok($q->true(q{SELECT state = 'failed' FROM penstock.stat_pipe WHERE pipe = 's'}), 'resumed without a cure it fails again');
sql('ALTER TABLE s_done DROP CONSTRAINT s_done_n_check');
sql(q{SELECT penstock.resume('s')});
ok($q->true('SELECT count(*) = 100 FROM s_done'), 'and with one it goes on');
is(sql('SELECT count(DISTINCT n) FROM s_done'), '100', 'exactly once');

# ---- skip ----

sql(q{
	CREATE FOREIGN TABLE k (n int) SERVER tq OPTIONS (queue 'k');
	CREATE TABLE k_done (n int CHECK (n % 10 <> 0));
	CALL penstock.create_pipe('k', 'INSERT INTO k_done SELECT n FROM k', on_error => 'skip')});
$q->append('k', 1, 100);
$q->append('k', 101, 101, 'not json %s');
done('k', 101, 'on_error skip: it goes on');
is(sql('SELECT count(*) FROM k_done'), '90', 'without them');
is(sql(q{SELECT count(*) FROM penstock.dead_letter WHERE pipe_name = 'k'}), '0', 'and without letters');
is(sql(q{SELECT skipped FROM penstock.stat_pipe WHERE pipe = 'k'}), '11', 'but they are counted');

# ---- events of a stream ----

sql(q{
	CREATE TABLE st (n int, t text) USING stream;
	CREATE TABLE st_done (n int CHECK (n <> 500) UNIQUE);
	CALL penstock.create_pipe('st', 'INSERT INTO st_done SELECT n FROM st', batch_rows => 100);
	INSERT INTO st SELECT i, 'x' FROM generate_series(1, 1000) i;
	INSERT INTO st VALUES (7, 'twice')});
ok($q->true('SELECT count(*) = 999 FROM st_done'), 'a stream: the good ones');
ok($q->true(q{SELECT count(*) = 2 FROM penstock.dead_letter WHERE pipe_name = 'st'}), 'the bad ones');
is(sql(q{SELECT convert_from(payload, 'UTF8')::jsonb, sqlstate FROM penstock.dead_letter WHERE pipe_name = 'st' ORDER BY id}),
	qq({"n": 500, "t": "x"}|23514\n{"n": 7, "t": "twice"}|23505), 'as JSON');
sql(q{ALTER TABLE st_done DROP CONSTRAINT st_done_n_check; SELECT penstock.redrive('st')});
ok($q->true('SELECT count(*) = 1 FROM st_done WHERE n = 500'), 'redriven');
ok($q->true(q{SELECT count(*) = 1 FROM penstock.dead_letter WHERE pipe_name = 'st'}), 'the other is a letter again');

# ---- a sink that refuses one ----

sql(q{
	CREATE FOREIGN TABLE w (n int, t text) SERVER tq OPTIONS (queue 'w');
	CREATE FOREIGN TABLE w_out (n int, t text) SERVER tq OPTIONS (queue 'w_out', max_message '100 kB');
	CALL penstock.create_pipe('w', 'INSERT INTO w_out SELECT n, t FROM w')});
$q->append('w', 1, 50);
sql(q{SELECT testqueue.append('tq', 'w', '{"n": 51, "t": "' || repeat('x', 200000) || '"}')});
$q->append('w', 52, 100);
ok(wait_until(60, sub { $q->count('w_out') == 99 }), 'a sink that refuses one message takes the others') or diag($q->count('w_out'), ' ', $q->error('w'));
is(sql(q{SELECT "offset", statement FROM penstock.dead_letter WHERE pipe_name = 'w'}), '50|1', 'that one is a dead letter');
is(sql(q{SELECT count(DISTINCT payload) FROM testqueue.messages('tq', 'w_out')}), '99', 'no message twice');

# ---- who sees them ----

sql('CREATE ROLE other LOGIN');
is($node->safe_psql('postgres', 'SELECT count(*) FROM penstock.dead_letter', extra_params => [ '-U', 'other' ]), '0', 'dead letters are for the owner');
is($node->safe_psql('postgres', 'DELETE FROM penstock.dead_letter RETURNING 1', extra_params => [ '-U', 'other' ]), '', 'others delete none');
is($node->safe_psql('postgres', q{SELECT penstock.redrive('h')}, extra_params => [ '-U', 'other' ]), '0', 'nor redrive any');
$node->stop;
done_testing();
