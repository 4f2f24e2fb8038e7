# The PostgreSQL connector against a real upstream: copy, changes, metadata, schema changes, faults and their texts.
# postgres_crash.pl kills everything under load.
use strict;
use warnings;
use FindBin;
use Penstock::Test;
use Penstock::Session;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

use constant SECRET => 'hunter2-is-secret';

my $up = PostgreSQL::Test::Cluster->new('postgres_up');
$up->init(allows_streaming => 'logical', extra => [ '--locale=C', '--encoding=UTF8' ]);
$up->append_conf('postgresql.conf', "max_wal_senders = 20\nmax_replication_slots = 20\nlogical_decoding_work_mem = '64kB'\n");
$up->start;
my $down = penstock_node('postgres_down', 'autovacuum = off');
my ($rc, $out, $err);

sub up { return $up->safe_psql('postgres', $_[0]); }
sub down { return $down->safe_psql('postgres', $_[0]); }
sub fails
{
	my ($sql, $text, $what) = @_;
	($rc, $out, $err) = $down->psql('postgres', $sql);
	return like($err, $text, $what);
}

# shows(sql, expected, what): waits until it is so.
sub shows
{
	my ($sql, $expected, $what) = @_;
	my $ok = $down->poll_query_until('postgres', $sql, $expected);
	return ok($ok, $what) || diag(down('SELECT pipe, state, last_error FROM penstock.stat_pipe'));
}

# says(pipe, regex, what): waits until stat_pipe says it.
sub says
{
	my ($pipe, $text, $what) = @_;
	my $end = time + 60;
	my $last = '';

	while (time < $end)
	{
		$last = down("SELECT coalesce(last_error, '') FROM penstock.stat_pipe WHERE pipe = '$pipe'");
		return pass($what) if $last =~ $text;
	}
	fail($what);
	return diag($last);
}

my @address = (host => $up->host, port => $up->port, dbname => 'postgres');
my $options = join(', ', map { "$address[$_ * 2] '$address[$_ * 2 + 1]'" } 0 .. 2);
my $user = getpwuid($<);

down(qq{
	CREATE EXTENSION penstock_postgres;
	CREATE SERVER up FOREIGN DATA WRAPPER postgres_changes OPTIONS ($options);
	CREATE USER MAPPING FOR CURRENT_USER SERVER up OPTIONS (user '$user');
});

# ---- options ----

fails('CREATE SERVER x FOREIGN DATA WRAPPER postgres_changes OPTIONS (hots \'a\')', qr/invalid option "hots"/, 'an option that does not exist');
fails('CREATE SERVER x FOREIGN DATA WRAPPER postgres_changes OPTIONS (sslmode \'maybe\')', qr/invalid value for option "sslmode".*verify-full/s, 'a value that does not exist');
fails('CREATE SERVER x FOREIGN DATA WRAPPER postgres_changes OPTIONS (password \'a\')', qr/invalid option "password"/, 'no passwords on servers');
fails('CREATE FOREIGN TABLE x (a int) SERVER up OPTIONS ("table" \'t\', slot \'No-Slot\'); SELECT * FROM x', qr/invalid value for option "slot"/, 'a slot that cannot be');
fails('CREATE FOREIGN TABLE y (a int OPTIONS (metadata \'lsn\')) SERVER up OPTIONS ("table" \'t\')', qr/unknown metadata "lsn".*commit_lsn/s, 'metadata that does not exist');

# ---- copy, ad-hoc SELECT, IMPORT ----

up(q{
	CREATE TABLE t (id int PRIMARY KEY, a text, n numeric, b bool, j jsonb, gone int);
	INSERT INTO t SELECT i, E'tab\t new\n back\\\\ quote" ' || i, i / 4.0, i % 2 = 0, '{"k": [1, null, "x"]}' FROM generate_series(1, 2000) i;
	INSERT INTO t VALUES (0, '\N', 'NaN', NULL, NULL), (-1, NULL, NULL, NULL, NULL), (-2, '', 0, true, '"s"');
	CREATE TABLE "Odd ""Name" (operation text, "Select" int[]);
	CREATE TABLE other (x int);
});
my $shape = q{id int, a text, n numeric, b bool, j jsonb,
	op text OPTIONS (metadata 'operation'), lsn pg_lsn OPTIONS (metadata 'commit_lsn'), at timestamptz OPTIONS (metadata 'commit_timestamp'),
	xid bigint OPTIONS (metadata 'xid'), tab text OPTIONS (metadata 'table'), old jsonb OPTIONS (metadata 'old'), new jsonb OPTIONS (metadata 'new'),
	old_a text OPTIONS (metadata 'old:a'), unchanged text[] OPTIONS (metadata 'unchanged')};
down(qq{CREATE FOREIGN TABLE t_changes ($shape) SERVER up OPTIONS ("table" 'public.t', create_publication 'true')});
is(down('SELECT count(*), sum(id), count(DISTINCT op), min(op) FROM t_changes'), '2003|2000997|1|copy', 'ad-hoc SELECT reads the rows that are there');
is(down(q{SELECT a IS NULL, a = '\N', n, a = '' FROM t_changes WHERE id <= 0 ORDER BY id}), "f|f|0|t\nt|||\nf|t|NaN|f", 'nulls, escapes and empty strings');
is(down('SELECT a FROM t_changes WHERE id = 7'), "tab\t new\n back\\ quote\" 7", 'characters that COPY escapes');
is(down(q{SELECT new->>'a' = a, (new->>'n')::numeric = n, new->'b' = to_jsonb(b), new->'j' = j FROM t_changes WHERE id = 8}), 't|t|t|t', 'the row as jsonb');

down('CREATE SCHEMA i; IMPORT FOREIGN SCHEMA public FROM SERVER up INTO i');
is(down(q{SELECT string_agg(relname, ',' ORDER BY relname) FROM pg_class WHERE relnamespace = 'i'::regnamespace}), 'Odd "Name,other,t', 'IMPORT FOREIGN SCHEMA');
is(down(q{SELECT string_agg(attname || ' ' || format_type(atttypid, atttypmod), ', ' ORDER BY attnum) FROM pg_attribute WHERE attrelid = 'i."Odd ""Name"'::regclass AND attnum > 0}),
	'operation text, Select integer[], change_operation text, commit_lsn pg_lsn, commit_timestamp timestamp with time zone', 'with types and metadata');
is(down('SELECT count(*) FROM i."Odd ""Name"'), '0', 'names that need quotes');
down('CREATE SCHEMA l; IMPORT FOREIGN SCHEMA public LIMIT TO (other) FROM SERVER up INTO l; CREATE SCHEMA e; IMPORT FOREIGN SCHEMA public EXCEPT (other) FROM SERVER up INTO e');
is(down(q{SELECT string_agg(relnamespace::regnamespace || '.' || relname, ',' ORDER BY 1) FROM (SELECT * FROM pg_class WHERE relnamespace IN ('l'::regnamespace, 'e'::regnamespace) ORDER BY relname) c}),
	'e.Odd "Name,l.other,e.t', 'LIMIT TO and EXCEPT');
fails('IMPORT FOREIGN SCHEMA nothing FROM SERVER up INTO i', qr/schema "nothing" does not exist on server/, 'a schema that does not exist');
fails('INSERT INTO t_changes (id) VALUES (1)', qr/cannot be written|not support|cannot insert/i, 'changes cannot be written');

down(q{
	CREATE TABLE s (id int, a text, n numeric, b bool, j jsonb, op text, lsn pg_lsn, at timestamptz, xid bigint, tab text, old jsonb, new jsonb, old_a text, unchanged text[]) USING stream;
	CALL penstock.create_pipe('p', 'INSERT INTO s SELECT id, a, n, b, j, op, lsn, at, xid, tab, old, new, old_a, unchanged FROM t_changes', batch_rows => 100);
});
shows('SELECT count(*) FROM s', '2003', 'the initial copy arrives');
is(down('SELECT count(*) FROM ((SELECT id, a, n, b, j FROM s EXCEPT ALL SELECT id, a, n, b, j FROM t_changes) UNION ALL (SELECT id, a, n, b, j FROM t_changes EXCEPT ALL SELECT id, a, n, b, j FROM s)) d'),
	'0', 'and is the table');
is(up(q{SELECT count(*) FROM pg_publication WHERE pubname = 'penstock_public_t'}), '1', 'a publication was made');

# ---- changes ----

up(q{BEGIN; INSERT INTO t VALUES (3000, 'new', 1.5, true, '[1]'); UPDATE t SET a = 'changed' WHERE id = 3000; UPDATE t SET id = 3001 WHERE id = 3000; DELETE FROM t WHERE id = 3001; COMMIT});
shows(q{SELECT count(*) FROM s WHERE op <> 'copy'}, '4', 'changes arrive');
is(down(q{SELECT op, id, a, old, old_a FROM s WHERE op <> 'copy'}),
	qq(insert|3000|new||\nupdate|3000|changed||\nupdate|3001|changed|{"id": 3000}|\ndelete|3001||{"id": 3001}|), 'in order, with the old key');
is(down(q{SELECT count(DISTINCT lsn), count(DISTINCT xid), bool_and(at BETWEEN now() - interval '5 min' AND now()), min(tab) FROM s WHERE op <> 'copy'}), '1|1|t|t', 'of one transaction');

up(q{ALTER TABLE t REPLICA IDENTITY FULL; UPDATE t SET a = 'full' WHERE id = 1; DELETE FROM t WHERE id = 2});
shows(q{SELECT count(*) FROM s WHERE op <> 'copy'}, '6', 'changes with the whole old row');
is(down(q{SELECT old->>'id', left(old_a, 3), n::float8 FROM s WHERE op <> 'copy' AND id IN (1, 2) ORDER BY id}), "1|tab|0.25\n2|tab|0.5", 'the old row is there');

up(q{ALTER TABLE t ALTER a SET STORAGE EXTERNAL; INSERT INTO t (id, a, n) VALUES (4000, repeat('x', 10000), 1);
	UPDATE t SET n = 2 WHERE id = 4000; ALTER TABLE t REPLICA IDENTITY DEFAULT; UPDATE t SET n = 3 WHERE id = 4000; UPDATE t SET a = 'short', n = 4 WHERE id = 4000});
shows(q{SELECT count(*) FROM s WHERE id = 4000}, '4', 'values stored out of line');
is(down(q{SELECT n, length(a), unchanged, new ? 'a' FROM s WHERE id = 4000 ORDER BY n}), "1|10000||t\n2|10000||t\n3||{a}|f\n4|5||t", 'unchanged: from the old row if that came, otherwise named');

up('ALTER TABLE t REPLICA IDENTITY NOTHING; INSERT INTO t (id) VALUES (4001)');
($rc, $out, $err) = $up->psql('postgres', 'DELETE FROM t WHERE id = 4001');
like($err, qr/does not have a replica identity/, 'without a replica identity the server refuses deletes');
up('ALTER TABLE t REPLICA IDENTITY DEFAULT; BEGIN; INSERT INTO other VALUES (1); INSERT INTO t (id) VALUES (4002); TRUNCATE t, other; INSERT INTO t (id) VALUES (4003); COMMIT');
shows(q{SELECT string_agg(coalesce(id::text, op), ',') FROM (SELECT id, op FROM s WHERE op <> 'copy' AND (id > 4000 OR id IS NULL)) x}, '4001,4002,truncate,4003', 'truncation, in order');

# ---- transactions that are streamed before they commit ----

sub fill { my ($from, $to) = @_; return "INSERT INTO t (id, a) SELECT i, repeat('y', 50) FROM generate_series($from, $to) i;"; }
my $long = Penstock::Session->new($up);
$long->must('BEGIN;' . fill(10001, 12000) . 'SAVEPOINT a;' . fill(20001, 22000) . 'SAVEPOINT b;' . fill(30001, 32000) . 'ROLLBACK TO a;' . fill(12001, 13000)
		. 'SAVEPOINT c;' . fill(13001, 14000) . 'RELEASE c');
my $other = Penstock::Session->new($up);
$other->must('BEGIN;' . fill(40001, 43000));
up('INSERT INTO t (id) VALUES (4004)');
shows('SELECT count(*) FROM s WHERE id = 4004', '1', 'a small transaction is not held up by big ones');
ok($up->poll_query_until('postgres', 'SELECT stream_txns >= 2 FROM pg_stat_replication_slots'), 'which are being streamed');
is(down('SELECT count(*) FROM s WHERE id > 10000'), '0', 'and are not visible');
$other->must('ROLLBACK');
$long->must('COMMIT');
shows('SELECT count(*) FROM s WHERE id > 10000', '4000', 'until they commit');
is(down('SELECT min(id), max(id), count(DISTINCT id) FROM s WHERE id > 10000'), '10001|14000|4000', 'without what rolled back');
is(down('SELECT bool_and(id > before) FROM (SELECT id, lag(id) OVER () AS before FROM s WHERE id > 10000) x WHERE before IS NOT NULL'), 't', 'in order');
$_->quit for $long, $other;
up(q{DO $$ BEGIN FOR i IN 1 .. 300 LOOP BEGIN INSERT INTO t (id, a) SELECT 50000 + i * 10 + j, repeat('z', 100) FROM generate_series(0, 9) j; IF i % 3 = 0 THEN RAISE division_by_zero; END IF; EXCEPTION WHEN division_by_zero THEN NULL; END; END LOOP; END $$});
shows('SELECT count(*), count(DISTINCT id) FROM s WHERE id > 50000', '2000|2000', 'many subtransactions, a third of them rolled back');
is(down('SELECT bool_or((id - 50000) / 10 % 3 = 0) FROM s WHERE id BETWEEN 50000 AND 59999'), 'f', 'and those left out');

# ---- the table changes ----

up('ALTER TABLE t ADD COLUMN extra int DEFAULT 5; INSERT INTO t (id, extra) VALUES (60000, 6)');
shows(q{SELECT new->>'extra' FROM s WHERE id = 60000}, '6', 'a column more does not matter');
up('ALTER TABLE t DROP COLUMN gone; INSERT INTO t (id) VALUES (60001)');
shows('SELECT count(*) FROM s WHERE id = 60001', '1', 'a column less that nobody asked for neither');
up('ALTER TABLE t RENAME COLUMN n TO m; INSERT INTO t (id, m) VALUES (60002, 8)');
says('p', qr/column "n" does not exist in table "public.t"/, 'a column that is needed is named');
down(q{ALTER FOREIGN TABLE t_changes ALTER n OPTIONS (ADD column_name 'm')});
shows('SELECT n FROM s WHERE id = 60002', '8', 'and the pipe goes on when the mapping is right');
up(q{ALTER TABLE t ALTER b TYPE text; UPDATE t SET b = 'perhaps' WHERE id = 60002; INSERT INTO t (id, b) VALUES (60003, 'true')});
shows('SELECT count(*) FROM s WHERE id = 60003', '1', 'a value that does not fit does not stop the others');
like(down(q{SELECT concat_ws('|', sqlstate, column_name, message) FROM penstock.dead_letter WHERE pipe_name = 'p'}), qr/22P02\|b\|.*boolean.*perhaps/, 'it is a dead letter with its column')
	|| diag(down('SELECT d FROM penstock.dead_letter d'));
like(down(q{SELECT convert_from(payload, 'UTF8') FROM penstock.dead_letter WHERE pipe_name = 'p'}), qr/"operation":"update".*"b":"perhaps"/, 'that can be read');
down(q{UPDATE penstock.dead_letter SET payload = convert_to(replace(convert_from(payload, 'UTF8'), 'perhaps', 'false'), 'UTF8'); SELECT penstock.redrive('p')});
shows(q{SELECT b, op, n FROM s WHERE id = 60002 AND op = 'update'}, 'f|update|8', 'repaired, and sent again');

# ---- an idle pipe holds no WAL ----

up('CREATE TABLE unrelated (x int); INSERT INTO unrelated SELECT generate_series(1, 1000)');
my $lsn = up('SELECT pg_current_wal_lsn()');
ok($up->poll_query_until('postgres', "SELECT confirmed_flush_lsn >= '$lsn' FROM pg_replication_slots WHERE active"), 'what does not concern the pipe is confirmed');

# ---- restarts ----

my $worker = down(q{SELECT pid FROM penstock.stat_pipe WHERE pipe = 'p'});
down("SELECT pg_terminate_backend($worker)");
up('INSERT INTO t (id) VALUES (70000)');
$down->restart;
up('INSERT INTO t (id) VALUES (70001)');
$up->restart('fast');
up('INSERT INTO t (id) VALUES (70002)');
shows('SELECT count(*), count(DISTINCT id) FROM s WHERE id >= 70000', '3|3', 'restarts of worker and servers');
$up->stop('fast');
says('p', qr/^08006: could not connect to server "up"/, 'the server is away');
$up->start;
up('INSERT INTO t (id) VALUES (70003)');
shows(q{SELECT count(*) FROM s WHERE id = 70003}, '1', 'and back');
is(down(q{SELECT state FROM penstock.stat_pipe WHERE pipe = 'p'}), 'running', 'as the view says');

# ---- all tables of a publication, as jsonb ----

up('CREATE TABLE m1 (a int PRIMARY KEY, b text); CREATE TABLE m2 (c numeric); INSERT INTO m1 VALUES (1, \'x\'); INSERT INTO m2 VALUES (2.5); CREATE PUBLICATION two FOR TABLE m1, m2');
down(q{
	CREATE FOREIGN TABLE two (op text OPTIONS (metadata 'operation'), tab text OPTIONS (metadata 'table'), new jsonb OPTIONS (metadata 'new'), old jsonb OPTIONS (metadata 'old')) SERVER up OPTIONS (publication 'two');
	CREATE TABLE two_s (op text, tab text, new jsonb, old jsonb) USING stream;
	CALL penstock.create_pipe('two', 'INSERT INTO two_s SELECT op, tab, new, old FROM two')});
shows('SELECT count(*) FROM two_s', '2', 'two tables are copied');
up('BEGIN; INSERT INTO m2 VALUES (3); DELETE FROM m1; COMMIT');
shows('SELECT count(*) FROM two_s', '4', 'and change');
is(down('SELECT op, tab, new, old FROM two_s'), qq(copy|m1|{"a": 1, "b": "x"}|\ncopy|m2|{"c": 2.5}|\ninsert|m2|{"c": 3}|\ndelete|m1||{"a": 1}), 'in one order');

# a row filter and a list of columns
up(q{CREATE TABLE f (a int PRIMARY KEY, b int, c int); INSERT INTO f SELECT i, i, i FROM generate_series(1, 10) i; CREATE PUBLICATION filtered FOR TABLE f (a, c) WHERE (a > 5)});
down(q{CREATE FOREIGN TABLE f (a int, c int) SERVER up OPTIONS ("table" 'f', publication 'filtered');
	CREATE TABLE f_s (a int, c int) USING stream;
	CALL penstock.create_pipe('f', 'INSERT INTO f_s SELECT a, c FROM f')});
shows('SELECT count(*), min(a) FROM f_s', '5|6', 'row filter and column list hold for the copy');
up('INSERT INTO f SELECT i, i, i FROM generate_series(-3, 0) i; INSERT INTO f VALUES (11, 11, 11)');
shows('SELECT count(*), min(a) FROM f_s', '6|6', 'and for the changes');

# a partitioned table, through its root
up(q{CREATE TABLE r (k int, v int) PARTITION BY LIST (k); CREATE TABLE r1 PARTITION OF r FOR VALUES IN (1); CREATE TABLE r2 PARTITION OF r FOR VALUES IN (2); INSERT INTO r VALUES (1, 1), (2, 2)});
down(q{CREATE FOREIGN TABLE r (k int, v int) SERVER up OPTIONS ("table" 'r', create_publication 'true');
	CREATE TABLE r_s (k int, v int) USING stream;
	CALL penstock.create_pipe('r', 'INSERT INTO r_s SELECT k, v FROM r')});
shows('SELECT count(*) FROM r_s', '2', 'a partitioned table is copied');
up('INSERT INTO r VALUES (1, 3), (2, 4)');
shows('SELECT sum(v) FROM r_s', '10', 'and its changes come through the root');

# ---- without a copy; a slot that is there ----

up('CREATE PUBLICATION others FOR TABLE other');
down(q{CREATE FOREIGN TABLE o (x int) SERVER up OPTIONS ("table" 'other', publication 'others', slot 'mine', create_slot 'false');
	CREATE TABLE o_s (x int) USING stream;
	CALL penstock.create_pipe('o', 'INSERT INTO o_s SELECT x FROM o')});
says('o', qr/replication slot "mine" does not exist/, 'a slot that must exist');
up(q{SELECT pg_create_logical_replication_slot('mine', 'pgoutput'); INSERT INTO other VALUES (12)});
shows('SELECT sum(x) FROM o_s', '12', 'is read on from where it stands');
down(q{CALL penstock.drop_pipe('o')});
is(up(q{SELECT count(*) FROM pg_replication_slots WHERE slot_name = 'mine'}), '1', 'a slot that was there before the pipe stays after it');

down(q{CREATE FOREIGN TABLE taken (x int) SERVER up OPTIONS ("table" 'other', publication 'others', slot 'mine');
	CALL penstock.create_pipe('taken', 'INSERT INTO o_s SELECT x FROM taken')});
says('taken', qr/replication slot "mine" exists already/, 'a copy does not take a slot that is not its own');
down(q{CALL penstock.drop_pipe('taken')});

# ---- faults, each with its own text ----

down(q{CREATE FOREIGN TABLE nopub (x int) SERVER up OPTIONS ("table" 'other', publication 'nopub');
	CALL penstock.create_pipe('nopub', 'INSERT INTO o_s SELECT x FROM nopub');
	CREATE FOREIGN TABLE notable (x int) SERVER up OPTIONS ("table" 'nowhere', publication 'others');
	CALL penstock.create_pipe('notable', 'INSERT INTO o_s SELECT x FROM notable');
	CREATE FOREIGN TABLE notin (a int) SERVER up OPTIONS ("table" 'f', publication 'others');
	CALL penstock.create_pipe('notin', 'INSERT INTO o_s SELECT a FROM notin')});
says('nopub', qr/publication "nopub" does not exist on server "up"/, 'a publication that does not exist');
says('notable', qr/table "public.nowhere" does not exist on server "up"/, 'a table that does not exist');
says('notin', qr/publication "others" of server "up" does not have table "public.f"/, 'a table that the publication does not have');
up('CREATE PUBLICATION nopub FOR TABLE other');
shows(q{SELECT last_error IS NULL OR state = 'running' FROM penstock.stat_pipe WHERE pipe = 'nopub'}, 't', 'it goes on when the publication is there');
down(qq{CALL penstock.drop_pipe('$_')}) for qw(nopub notable notin);

up(q{CREATE ROLE secretive LOGIN REPLICATION PASSWORD '} . SECRET . q{'; GRANT SELECT ON ALL TABLES IN SCHEMA public TO secretive});
my $hba = slurp_file($up->data_dir . '/pg_hba.conf');
unlink($up->data_dir . '/pg_hba.conf');
$up->append_conf('pg_hba.conf', "local all secretive scram-sha-256\nlocal replication secretive scram-sha-256\n$hba");
$up->reload;
down(qq{CREATE SERVER with_password FOREIGN DATA WRAPPER postgres_changes OPTIONS ($options);
	CREATE USER MAPPING FOR CURRENT_USER SERVER with_password OPTIONS (user 'secretive', password 'wrong-} . SECRET . q{');
	CREATE FOREIGN TABLE pw (x int) SERVER with_password OPTIONS ("table" 'other', publication 'others');
	CREATE TABLE pw_s (x int) USING stream;
	CALL penstock.create_pipe('pw', 'INSERT INTO pw_s SELECT x FROM pw')});
says('pw', qr/^28P01: could not connect to server "with_password": password authentication failed for user "secretive"/, 'a wrong password');
fails('SELECT * FROM pw', qr/password authentication failed/, 'and ad hoc');
down('ALTER USER MAPPING FOR CURRENT_USER SERVER with_password OPTIONS (SET password \'' . SECRET . '\')');
shows('SELECT count(*) FROM pw_s', '1', 'the right one');

down(q{CREATE ROLE weak LOGIN; GRANT USAGE ON FOREIGN SERVER up, with_password TO weak; GRANT SELECT ON t_changes, pw TO weak;
	CREATE USER MAPPING FOR weak SERVER up OPTIONS (user '} . $user . q{'); CREATE USER MAPPING FOR weak SERVER with_password OPTIONS (user 'secretive', password '} . SECRET . q{')});
fails('SET ROLE weak; SELECT count(*) FROM t_changes', qr/a password is required/, 'who is not a superuser needs a password');
is(down('SET ROLE weak; SELECT count(*) FROM pw'), '1', 'and may connect with one');

# ---- the slot is dropped behind our back, or is lost ----

sub slot_of
{
	my ($pipe) = @_;
	return down(qq{SELECT format('penstock_%s_%s_%s', lpad(to_hex(c.system_identifier), 16, '0'), d.oid, p.pipe)
		FROM pg_control_system() c, pg_database d, penstock.pipe p WHERE d.datname = current_database() AND p.name = '$pipe'});
}

my $two = slot_of('two');
down(q{SELECT penstock.pause('two')});
ok($up->poll_query_until('postgres', qq{SELECT NOT active FROM pg_replication_slots WHERE slot_name = '$two'}), 'not active any more');
up(qq{SELECT pg_drop_replication_slot('$two')});
down(q{SELECT penstock.resume('two')});
says('two', qr/replication slot "$two" does not exist.*dropped/, 'a slot that was dropped: refused, and why');

my $f = slot_of('f');
down(q{SELECT penstock.pause(pipe) FROM penstock.stat_pipe WHERE state <> 'paused'});
ok($up->poll_query_until('postgres', q{SELECT count(*) = 0 FROM pg_replication_slots WHERE active}), 'all are paused');
$up->append_conf('postgresql.conf', "max_slot_wal_keep_size = '1MB'\nmin_wal_size = '32MB'\nmax_wal_size = '32MB'");
$up->reload;
for my $i (1 .. 6) { up('INSERT INTO unrelated SELECT generate_series(1, 1000); SELECT pg_switch_wal(); CHECKPOINT'); }
ok($up->poll_query_until('postgres', qq{SELECT wal_status = 'lost' FROM pg_replication_slots WHERE slot_name = '$f'}), 'the server has removed WAL that the slot needed');
down(q{SELECT penstock.resume('f')});
says('f', qr/replication slot "$f" of server "up" has been invalidated/, 'refused, and why');

# ---- dropping ----

down(q{CALL penstock.drop_pipe('f')});
ok($up->poll_query_until('postgres', qq{SELECT count(*) = 0 FROM pg_replication_slots WHERE slot_name = '$f'}), 'a pipe takes its slot with it, even while it is refused');
my $r = slot_of('r');
down(q{SELECT penstock.resume('r'); CALL penstock.drop_pipe('r')});
ok($up->poll_query_until('postgres', qq{SELECT count(*) = 0 FROM pg_replication_slots WHERE slot_name = '$r'}), 'and while it runs');

# ---- the page's options ----

my $page = slurp_file("$FindBin::RealBin/../../docs/postgres.md");
my $lines = down(q{
	SELECT '| `' || option || '` | ' || place || ' | ' || allowed || ' | ' || coalesce(nullif('`' || "default" || '`', '``'), '')
		|| ' | ' || description || CASE WHEN superuser THEN ' (superusers only)' ELSE '' END || ' |'
	FROM penstock.connector_options('postgres_changes') WHERE option NOT IN ('format', 'encoding', 'flush_timeout', 'claim_threshold', 'redeem', 'metadata')});
is(join("\n", grep { index($page, $_) < 0 } split /\n/, $lines), '', 'docs/postgres.md has the options as they are');

# ---- secrets ----

my $log = join("\n", grep { !/statement: .*USER MAPPING/ } split /\n(?=\d)/, slurp_file($down->logfile));
unlike($log, qr/@{[SECRET]}/, 'no password in our log, but in the statements that are logged');
unlike(down('SELECT string_agg(s::text, $$ $$) FROM penstock.stat_pipe s'), qr/@{[SECRET]}/, 'nor in stat_pipe');
unlike(down('SELECT coalesce(string_agg(query, $$ $$), $$$$) FROM pg_stat_activity WHERE pid <> pg_backend_pid()'), qr/@{[SECRET]}/, 'nor in pg_stat_activity');
unlike(slurp_file($up->logfile) =~ s/CREATE ROLE secretive[^\n]*//gr, qr/@{[SECRET]}/, 'nor in theirs');

$down->stop;
$up->stop;
done_testing();
