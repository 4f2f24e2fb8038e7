# The life of a pipe: made, altered, paused, resumed, dropped while it runs; what it stands on dropped; databases, the extension, restarts, no free
# workers; who may do what, and as whom it runs.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../connector";
use Penstock::Test;
use Penstock::Session;
use TestQueue;
use Test::More;

my $node = penstock_node('pipe_life', 'fsync = off', 'restart_after_crash = on');
my $q = TestQueue->new($node);
sub sql { return $q->sql($_[0]); }

sub state_is
{
	my ($pipe, $state, $what) = @_;
	return ok($q->true("SELECT state = '$state' FROM penstock.stat_pipe WHERE pipe = '$pipe'"), $what) || diag($q->state($pipe), ': ', $q->error($pipe));
}

sub workers { return sql(q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'penstock pipe'}); }

sql(q{
	CREATE FOREIGN TABLE src (n int) SERVER tq OPTIONS (queue 'src');
	CREATE TABLE dst (n int);
	CREATE TABLE other_dst (n int);
	CREATE TABLE plain (n int);
	CREATE FOREIGN TABLE src_b (n int) SERVER tq OPTIONS (queue 'src_b');
	CREATE TABLE st (n int) USING stream;
	CREATE TABLE st_b (n int) USING stream});

# ---- what create_pipe refuses ----

my @refused = (
	[ '', qr/at least one statement/, 'nothing' ],
	[ 'INSERT INTO dst SELECT 1', qr/no .*source|source|consume/i, 'no source' ],
	[ 'INSERT INTO dst SELECT n FROM plain', qr/source|consume/i, 'a table is no source' ],
	[ 'INSERT INTO dst SELECT s.n FROM src s JOIN src_b USING (n)', qr/more than one source.*source => 'src'/s, 'two queues' ],
	[ 'INSERT INTO dst SELECT n FROM src; INSERT INTO dst SELECT n FROM src_b', qr/more than one source/, 'two queues, in two statements' ],
	[ 'INSERT INTO dst SELECT n FROM st; INSERT INTO dst SELECT n FROM st_b', qr/more than one source/, 'two streams' ],
	[ 'INSERT INTO src SELECT n FROM src', qr/source|itself|read/i, 'into its own source' ],
	[ 'INSERT INTO dst SELECT n FROM nowhere', qr/relation "nowhere" does not exist/, 'a table that is not there' ],
	[ 'INSERT INTO dst SELECT m FROM src', qr/column "m" does not exist/, 'a column that is not there' ],
	[ 'INSERT INTO dst SELEC', qr/syntax error/, 'a syntax error' ],
	[ 'INSERT INTO dst SELECT $1 FROM src', qr/parameter|\$1/, 'a parameter' ],
	[ 'BEGIN; INSERT INTO dst SELECT n FROM src; COMMIT', qr/not|statement/i, 'transaction control' ],
	[ 'CREATE TABLE x AS SELECT n FROM src', qr/not|statement|only/i, 'a utility statement' ],
	[ 'COPY dst FROM stdin', qr/not|statement|only/i, 'COPY' ],
	[ 'VACUUM', qr/not|statement|only/i, 'VACUUM' ],
	[ 'SELECT n FROM src FOR UPDATE', undef, 'row locks on a foreign table' ],
	[ 'INSERT INTO dst SELECT nextval(\'nope\') FROM src', qr/relation "nope" does not exist/, 'a sequence that is not there' ]);
my $i = 0;
for my $case (@refused)
{
	my ($statements, $why, $what) = @$case;
	my $error = $q->fails("CALL penstock.create_pipe('refused" . $i++ . "', \$\$$statements\$\$)");
	$why ? like($error, $why, "refused: $what") : pass("$what: $error");
}
is(sql('SELECT count(*) FROM penstock.pipe'), sql(q{SELECT count(*) FROM penstock.pipe WHERE name = 'refused15'}), 'none of them is left');
sql(q{CALL penstock.drop_pipe('refused15')}) if sql(q{SELECT count(*) FROM penstock.pipe});
for my $options ([ q{on_error => 'ignore'}, qr/on_error/ ], [ 'batch_rows => 0', qr/batch_rows/ ], [ 'batch_rows => -1', qr/batch_rows/ ], [ q{batch_time => '-1 s'}, qr/batch_time/ ],
	[ q{dedup_window => '-1 s'}, qr/dedup_window/ ])
{
	like($q->fails("CALL penstock.create_pipe('refused', 'INSERT INTO dst SELECT n FROM src', $options->[0])"), $options->[1], "refused: $options->[0]");
}
like($q->fails(q{CALL penstock.create_pipe(NULL, 'INSERT INTO dst SELECT n FROM src')}), qr/null|name/i, 'refused: no name');
like($q->fails(q{CALL penstock.create_pipe('', 'INSERT INTO dst SELECT n FROM src')}), qr/name/i, 'refused: an empty name');

# ---- create, pause, resume, alter, drop ----

sql(q{CALL penstock.create_pipe('p', 'INSERT INTO dst SELECT n FROM src')});
like($q->fails(q{CALL penstock.create_pipe('p', 'INSERT INTO dst SELECT n FROM src')}), qr/already exists/, 'a name is taken once');
$q->append('src', 1, 10);
ok($q->true('SELECT count(*) = 10 FROM dst'), 'it runs');
state_is('p', 'running', 'and says so');
is(workers(), '1', 'one worker');
like(sql(q{SELECT query FROM pg_stat_activity WHERE backend_type = 'penstock pipe'}), qr/p/, 'pg_stat_activity names it');
is(sql(q{SELECT datname, usename FROM pg_stat_activity WHERE backend_type = 'penstock pipe'}), 'postgres|postgres', 'with database and user');

my $session = Penstock::Session->new($node);
$session->must(q{BEGIN; CALL penstock.create_pipe('rolled', 'INSERT INTO dst SELECT n FROM src')});
$session->must('ROLLBACK');
is(sql(q{SELECT count(*) FROM penstock.pipe WHERE name = 'rolled'}), '0', 'create_pipe rolled back');
$session->must(q{BEGIN; CALL penstock.drop_pipe('p'); ROLLBACK});
$q->append('src', 11, 20);
ok($q->true('SELECT count(*) = 20 FROM dst'), 'drop_pipe rolled back');

sql(q{SELECT penstock.pause('p')});
state_is('p', 'paused', 'paused');
ok($q->true(q{SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'penstock pipe'}), 'a paused pipe needs no worker');
$q->append('src', 21, 30);
$node->restart;
state_is('p', 'paused', 'paused after a restart');
is(sql('SELECT count(*) FROM dst'), '20', 'it does nothing');
sql(q{SELECT penstock.resume('p')});
ok($q->true('SELECT count(*) = 30 FROM dst'), 'resumed, it goes on where it was');

sql(q{CALL penstock.alter_pipe('p', statements => 'INSERT INTO other_dst SELECT n FROM src')});
$q->append('src', 31, 40);
ok($q->true('SELECT count(*) = 10 FROM other_dst'), 'altered: other statements');
is(sql('SELECT count(*) FROM dst'), '30', 'and only those');
sql(q{CALL penstock.alter_pipe('p', batch_rows => 3)});
$q->append('src', 41, 50);
ok($q->true('SELECT count(*) = 20 FROM other_dst'), 'altered: batch_rows');
is(sql('SELECT batch_rows FROM penstock.pipe'), '3', 'shown');
like($q->fails(q{CALL penstock.alter_pipe('p', statements => 'INSERT INTO dst SELECT n FROM st')}), qr/no statement of the pipe reads "src"/, 'not another source');
like($q->fails(q{CALL penstock.alter_pipe('nope', batch_rows => 3)}), qr/pipe "nope" does not exist/, 'a pipe that is not there');
like($q->fails(q{CALL penstock.drop_pipe('nope')}), qr/pipe "nope" does not exist/, 'likewise');
like($q->fails(q{SELECT penstock.pause('nope')}), qr/"nope" does not exist/, 'likewise');
sql(q{CALL penstock.drop_pipe('p')});
ok($q->true(q{SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'penstock pipe'}), 'dropped, its worker ends');
is(sql('SELECT (SELECT count(*) FROM penstock.pipe), (SELECT count(*) FROM penstock.source_position), (SELECT count(*) FROM penstock.stat_pipe)'), '0|0|0', 'and nothing is left');
sql(q{CALL penstock.create_pipe('p', 'INSERT INTO dst SELECT n FROM src')});
ok($q->true('SELECT count(*) = 80 FROM dst'), 'made anew, it begins at the beginning');

# in the middle of a batch
$session->quit;
$session = Penstock::Session->new($node);
sql(q{CREATE FUNCTION held(n int) RETURNS int LANGUAGE plpgsql AS 'BEGIN PERFORM pg_advisory_xact_lock(42); RETURN n; END'});
for my $what (q{SELECT penstock.pause('h')}, q{CALL penstock.alter_pipe('h', batch_rows => 7)}, q{CALL penstock.drop_pipe('h')})
{
	sql(q{TRUNCATE other_dst; CALL penstock.create_pipe('h', 'INSERT INTO other_dst SELECT held(n) FROM src')});
	$session->must('SELECT pg_advisory_lock(42)');
	$q->append('src', 1, 1);
	ok($q->true(q{SELECT count(*) = 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted}), 'a batch is under way');
	my $other = Penstock::Session->new($node);
	$other->send($what);
	# it may wait for the batch, or not: but not for ever
	$session->must('SELECT pg_advisory_unlock(42)');
	$other->receive(60);
	is($other->error, '', "$what meanwhile");
	sql(q{SELECT penstock.resume('h')}) if $what =~ /pause/;
	if ($what !~ /drop/)
	{
		my $all = $q->count('src');
		ok($q->true("SELECT count(*) = $all FROM other_dst"), 'nothing is lost or doubled');
		sql(q{CALL penstock.drop_pipe('h')});
	}
}
sql(q{CALL penstock.drop_pipe('p')});

# ---- what it stands on ----

sql(q{CREATE FOREIGN TABLE src2 (n int) SERVER tq OPTIONS (queue 'src2');
	CREATE TABLE dst2 (n int);
	CALL penstock.create_pipe('on2', 'INSERT INTO dst2 SELECT n FROM src2')});
$q->append('src2', 1, 10);
ok($q->true('SELECT count(*) = 10 FROM dst2'), 'a pipe to be robbed');
sql('DROP TABLE dst2');
$q->append('src2', 11, 20);
ok($q->true(q{SELECT last_error ~ 'dst2' FROM penstock.stat_pipe WHERE pipe = 'on2'}), 'its target dropped: the view says what is missing') or diag($q->error('on2'));
is(sql('SELECT count(*) FROM penstock.dead_letter'), '0', 'that is no event\'s fault');
sql('CREATE TABLE dst2 (n int)');
$node->psql('postgres', q{SELECT penstock.resume('on2')});
ok($q->true('SELECT count(*) = 10 FROM dst2'), 'made again, it goes on');
sql('ALTER TABLE dst2 ADD COLUMN m int; ALTER FOREIGN TABLE src2 ADD COLUMN m int');
$q->append('src2', 21, 30);
ok($q->true('SELECT count(*) = 20 FROM dst2'), 'columns added to source and target');
sql('ALTER FOREIGN TABLE src2 DROP COLUMN m; ALTER TABLE dst2 DROP COLUMN m');
$q->append('src2', 31, 40);
ok($q->true('SELECT count(*) = 30 FROM dst2'), 'and dropped');
sql('ALTER FOREIGN TABLE src2 RENAME TO src3');
$q->append('src2', 41, 50);
my $renamed = $q->true(q{SELECT (SELECT count(*) = 40 FROM dst2) OR (SELECT last_error ~ 'src2' FROM penstock.stat_pipe WHERE pipe = 'on2')});
ok($renamed, 'its source renamed: it goes on, or says what is missing');
sql('ALTER FOREIGN TABLE src3 RENAME TO src2');
$node->psql('postgres', q{SELECT penstock.resume('on2')});
ok($q->true('SELECT count(*) = 40 FROM dst2'), 'renamed back it goes on');
my $error = $q->fails('DROP FOREIGN TABLE src2');
if ($error)
{
	like($error, qr/pipe|depend/, 'its source is not dropped under it');
	sql('DROP FOREIGN TABLE src2 CASCADE');
}
ok($q->true(q{SELECT count(*) = 0 FROM penstock.pipe WHERE name = 'on2'}) || $q->true(q{SELECT last_error IS NOT NULL FROM penstock.stat_pipe WHERE pipe = 'on2'}),
	'its source dropped: the pipe goes with it or says so');
$node->psql('postgres', q{CALL penstock.drop_pipe('on2')});
is(sql(q{SELECT count(*) FROM penstock.pipe}), '0', 'it can be dropped then');
is(sql('SELECT count(*) FROM penstock.source_position'), '0', 'with its places');
like($q->fails('DROP SERVER tq'), qr/depend/, 'the server neither');

sql(q{CREATE TABLE st2 (n int) USING stream; CALL penstock.create_pipe('st2', 'INSERT INTO dst SELECT n FROM st2'); INSERT INTO st2 VALUES (-1)});
ok($q->true('SELECT count(*) = 1 FROM dst WHERE n = -1'), 'a pipe on a stream');
sql('DROP TABLE st2 CASCADE');
$node->psql('postgres', q{CALL penstock.drop_pipe('st2')});
is(sql('SELECT (SELECT count(*) FROM penstock.pipe), (SELECT count(*) FROM penstock.position)'), '0|0', 'goes with it');

# ---- owner ----

sql(q{
	CREATE ROLE alice LOGIN;
	CREATE ROLE bob LOGIN;
	GRANT CREATE ON SCHEMA public TO alice;
	GRANT USAGE ON FOREIGN SERVER tq TO alice;
	CREATE FOREIGN TABLE asrc (n int, t text) SERVER tq OPTIONS (queue 'asrc');
	GRANT SELECT ON asrc TO alice;
	CREATE TABLE secret (n int);
	CREATE TABLE who (what text, session_user_ text, current_user_ text, super text)});
sql('GRANT INSERT ON who TO PUBLIC');
sub as { my ($role, $sql) = @_; return $node->safe_psql('postgres', $sql, extra_params => [ '-U', $role ]); }
as('alice', q{
	CREATE TABLE mine (n int);
	CREATE FUNCTION trick(n int) RETURNS int LANGUAGE plpgsql AS $$ BEGIN
		BEGIN RESET SESSION AUTHORIZATION; EXCEPTION WHEN OTHERS THEN NULL; END;
		BEGIN RESET ROLE; EXCEPTION WHEN OTHERS THEN NULL; END;
		BEGIN SET ROLE postgres; EXCEPTION WHEN OTHERS THEN NULL; END;
		BEGIN SET SESSION AUTHORIZATION postgres; EXCEPTION WHEN OTHERS THEN NULL; END;
		BEGIN EXECUTE 'ALTER ROLE alice SUPERUSER'; EXCEPTION WHEN OTHERS THEN NULL; END;
		BEGIN EXECUTE 'SET penstock.stop_points = ''engine_before_commit:crash'''; EXCEPTION WHEN OTHERS THEN NULL; END;
		INSERT INTO who SELECT 'function', session_user, current_user, current_setting('is_superuser');
		RETURN n; END $$;
	CREATE FUNCTION trick_trigger() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM trick(1);
		INSERT INTO who SELECT TG_ARGV[0], session_user, current_user, current_setting('is_superuser'); RETURN NEW; END $$;
	CREATE TRIGGER now BEFORE INSERT ON mine FOR EACH ROW EXECUTE FUNCTION trick_trigger('trigger');
	CREATE CONSTRAINT TRIGGER late AFTER INSERT ON mine DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION trick_trigger('deferred');
	CALL penstock.create_pipe('alice', 'INSERT INTO mine SELECT trick(n) FROM asrc')});
is(sql(q{SELECT owner FROM penstock.pipe WHERE name = 'alice'}), 'alice', 'a pipe belongs to who made it');
$q->append('asrc', 1, 3);
ok($q->true('SELECT count(*) = 3 FROM mine'), 'it runs');
is(sql('SELECT DISTINCT what, current_user_ FROM who ORDER BY 1'), "deferred|alice\nfunction|alice\ntrigger|alice", 'as its owner: also functions, triggers, deferred ones');
is(sql(q{SELECT rolsuper FROM pg_roles WHERE rolname = 'alice'}), 'f', 'nor has it become one');
is(sql(q{SELECT usename FROM pg_stat_activity WHERE backend_type = 'penstock pipe'}) =~ /^(alice|postgres)$/ ? 1 : 0, 1, 'pg_stat_activity shows a user');

# the ways out of a security-restricted operation
as('alice', q{
	CREATE TABLE deferred_mine (n int PRIMARY KEY DEFERRABLE INITIALLY DEFERRED);
	CREATE CONSTRAINT TRIGGER late AFTER INSERT ON deferred_mine DEFERRABLE INITIALLY IMMEDIATE FOR EACH ROW EXECUTE FUNCTION trick_trigger('escaped');
	CREATE FUNCTION defer(n int) RETURNS int LANGUAGE plpgsql AS $$ BEGIN
		SET CONSTRAINTS ALL DEFERRED;
		INSERT INTO deferred_mine VALUES (n);
		PERFORM set_config('search_path', 'public', false), set_config('role', 'postgres', false);
		RETURN n; END $$;
	CREATE FUNCTION cursor_trick(n int) RETURNS int LANGUAGE plpgsql AS $$ BEGIN
		EXECUTE 'DECLARE c CURSOR WITH HOLD FOR SELECT trick(1)';
		RETURN n; END $$;
	CREATE FUNCTION temp_trick(n int) RETURNS int LANGUAGE plpgsql AS $$ BEGIN
		CREATE TEMP TABLE pg_class (n int);
		RETURN n; END $$;
	CALL penstock.create_pipe('escape1', 'SELECT defer(n) FROM asrc');
	CALL penstock.create_pipe('escape2', 'SELECT cursor_trick(n) FROM asrc');
	CALL penstock.create_pipe('escape3', 'SELECT temp_trick(n) FROM asrc')});
ok($q->true(q{SELECT count(*) = 3 FROM penstock.stat_pipe WHERE pipe LIKE 'escape%' AND (state = 'failed' OR dead_letters > 0 OR events > 0)}), 'attempts to get out are over')
	or diag(sql('SELECT pipe, state, last_error FROM penstock.stat_pipe'));
is(sql(q{SELECT count(*) FROM who WHERE current_user_ <> 'alice'}), '0', 'nothing ever ran as anybody else');
is(sql(q{SELECT count(*) FROM pg_roles WHERE rolsuper}), '1', 'nobody has become a superuser');
sql("CALL penstock.drop_pipe('escape$_')") for 1 .. 3;
sql('DELETE FROM penstock.dead_letter');

# the owner of the database must not become who owns a pipe
sql(q{CREATE ROLE dba LOGIN; ALTER DATABASE postgres OWNER TO dba; CALL penstock.create_pipe('supers', 'INSERT INTO dst SELECT n FROM src')});
as('dba', q{CREATE FUNCTION pg_temp.nothing() RETURNS int LANGUAGE sql AS 'SELECT 1'});
like($q->fails(q{CALL penstock.alter_pipe('supers', statements => 'INSERT INTO secret SELECT n FROM src')}, extra_params => [ '-U', 'dba' ]),
	qr/must be owner|permission denied/, 'a database owner does not change what a superuser\'s pipe does');
sql(q{ALTER DATABASE postgres OWNER TO postgres; CALL penstock.drop_pipe('supers')});

like($node->psql('postgres', q{CALL penstock.drop_pipe('alice')}, extra_params => [ '-U', 'bob' ]) . $q->fails(q{CALL penstock.drop_pipe('alice')}, extra_params => [ '-U', 'bob' ]), qr/must be owner|permission denied/, 'others do not drop it');
like($q->fails(q{SELECT penstock.pause('alice')}, extra_params => [ '-U', 'bob' ]), qr/must be owner|permission denied/, 'nor pause it');
like($q->fails(q{CALL penstock.alter_pipe('alice', batch_rows => 1)}, extra_params => [ '-U', 'bob' ]), qr/must be owner|permission denied/, 'nor alter it');
like($q->fails(q{CALL penstock.create_pipe('bobs', 'INSERT INTO who SELECT n::text FROM asrc')}, extra_params => [ '-U', 'bob' ]), qr/permission denied/, 'nor read a source without the right');
like($q->fails(q{CALL penstock.create_pipe('alices', 'INSERT INTO secret SELECT n FROM asrc')}, extra_params => [ '-U', 'alice' ]), qr/permission denied/, 'nor write a target');
unlike(as('bob', 'SELECT coalesce(string_agg(to_json(s)::text, \' \'), \'\') FROM penstock.stat_pipe s'), qr/trick/, 'nor see its statements');

sql('REVOKE SELECT ON asrc FROM alice');
$q->append('asrc', 4, 6);
ok($q->true(q{SELECT last_error ~ 'permission denied' FROM penstock.stat_pipe WHERE pipe = 'alice'}), 'a right lost: it stops and says so') or diag($q->error('alice'));
is(sql('SELECT count(*) FROM mine'), '3', 'and does nothing');
is(sql('SELECT count(*) FROM penstock.dead_letter'), '0', 'no event is put away for it');
sql('GRANT SELECT ON asrc TO alice');
$node->psql('postgres', q{SELECT penstock.resume('alice')});
ok($q->true('SELECT count(*) = 6 FROM mine'), 'given back, it goes on');
as('alice', 'REVOKE INSERT ON mine FROM alice');
$q->append('asrc', 7, 9);
ok($q->true(q{SELECT last_error ~ 'permission denied' FROM penstock.stat_pipe WHERE pipe = 'alice'}), 'the right to write lost') or diag($q->error('alice'));
is(sql('SELECT count(*) FROM penstock.dead_letter'), '0', 'no event is put away for that either');
as('alice', 'GRANT INSERT ON mine TO alice');
$node->psql('postgres', q{SELECT penstock.resume('alice')});
ok($q->true('SELECT count(*) = 9 FROM mine'), 'given back, it goes on');
my $dropped = $q->fails('DROP OWNED BY alice CASCADE; DROP ROLE alice');
if ($dropped) { sql(q{CALL penstock.drop_pipe('alice')}); sql('DROP OWNED BY alice CASCADE; DROP ROLE alice'); }
$q->append('asrc', 1, 1);
ok($q->true(q{SELECT count(*) = 0 FROM penstock.pipe WHERE name = 'alice'}) || $q->error('alice'), 'its owner dropped: gone, or it says so');
$node->psql('postgres', q{CALL penstock.drop_pipe('alice')});
sql('SELECT 1');

# ---- many, and too many ----

sql('TRUNCATE dst');
sql("CREATE FOREIGN TABLE m$_ (n int) SERVER tq OPTIONS (queue 'm$_'); CALL penstock.create_pipe('m$_', 'INSERT INTO dst SELECT n FROM m$_')") for 1 .. 8;
$q->append("m$_", 1, 100) for 1 .. 8;
ok($q->true('SELECT count(*) = 800 FROM dst'), 'eight pipes at once');
is(workers(), '8', 'eight workers');
$node->append_conf('postgresql.conf', "max_worker_processes = 6\nmax_logical_replication_workers = 0");
$node->restart;
$q->append("m$_", 101, 200) for 1 .. 8;
ok($q->true(q{SELECT count(*) > 0 FROM penstock.stat_pipe WHERE state ~ 'waiting for a background worker'}), 'no free workers: the view says so')
	or diag(sql('SELECT pipe, state, last_error FROM penstock.stat_pipe'));
ok($q->true('SELECT count(*) > 800 FROM dst'), 'those that have one work');
# when some are dropped, others get their workers
my $dropped_all = wait_until(90, sub {
	for my $pipe (split ' ', sql(q{SELECT coalesce(string_agg(pipe, ' '), '') FROM penstock.stat_pipe WHERE state = 'running'}))
	{
		sql("SELECT penstock.catch_up('$pipe'); CALL penstock.drop_pipe('$pipe')");
	}
	sql(q{SELECT count(*) FROM penstock.pipe WHERE name LIKE 'm_'}) == 0 });
ok($dropped_all, 'when some are dropped, the others get their workers') or diag(sql('SELECT pipe, state, last_error FROM penstock.stat_pipe'));
is(sql('SELECT count(*) FROM dst'), '1600', 'and all events arrive');
$node->append_conf('postgresql.conf', 'max_worker_processes = 20');
$node->restart;

# ---- databases, the extension ----

sql('CREATE DATABASE a');
$node->safe_psql('a', 'CREATE EXTENSION penstock');
my $qa = TestQueue->new($node, 'a');
$qa->sql(q{CREATE FOREIGN TABLE src (n int) SERVER tq OPTIONS (queue 'src'); CREATE TABLE dst (n int);
	CALL penstock.create_pipe('p', 'INSERT INTO dst SELECT n FROM src'); CREATE TABLE st (n int) USING stream;
	CALL penstock.create_pipe('q', 'INSERT INTO dst SELECT n FROM st')});
$qa->append('src', 1, 10);
ok($node->poll_query_until('a', 'SELECT count(*) = 10 FROM dst'), 'a pipe in another database');
sql('CREATE DATABASE b TEMPLATE a');
ok($node->poll_query_until('b', q{SELECT bool_and(state = 'running') AND count(*) = 2 FROM penstock.stat_pipe}), 'a copy of the database has its pipes')
	or diag($node->safe_psql('b', 'SELECT pipe, state, last_error FROM penstock.stat_pipe'));
$qa->append('src', 11, 20);
ok($node->poll_query_until('a', 'SELECT count(*) = 20 FROM dst'), 'and the original goes on');
sql('ALTER DATABASE b RENAME TO c');
ok($node->poll_query_until('c', q{SELECT bool_and(state = 'running') FROM penstock.stat_pipe}), 'renamed');
sql('DROP DATABASE c');
sql('SELECT 1');
$node->safe_psql('a', 'DROP EXTENSION penstock CASCADE');
ok($q->true(q{SELECT count(*) = 0 FROM pg_stat_activity WHERE datname = 'a' AND backend_type LIKE 'penstock%'}), 'DROP EXTENSION with running pipes');
$node->safe_psql('a', 'CREATE EXTENSION penstock; CREATE EXTENSION penstock_testqueue');
sql('DROP DATABASE a');
my $depends = $q->fails('DROP EXTENSION penstock_testqueue');
like($depends, qr/depend/, 'the connector is not dropped under its servers');
sql(q{CALL penstock.create_pipe('last', 'INSERT INTO dst SELECT n FROM src')});
state_is('last', 'running', 'a pipe runs');
sql('DROP EXTENSION penstock_testqueue CASCADE');
ok($q->true(q{SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'penstock pipe'}) || $q->error('last'), 'dropped with everything');
sql('DROP EXTENSION penstock CASCADE');
ok($q->true(q{SELECT count(*) = 0 FROM pg_stat_activity WHERE datname IS NOT NULL AND backend_type LIKE 'penstock%'}), 'and the rest');

$session->quit;
$node->stop;
done_testing();
