# Pipes in a dump: it has them as its snapshot has them, with their positions, what they have seen and their dead letters, though they go on
# while it is made; restored they are paused, and once resumed each event is worked on exactly once.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../connector";
use Penstock::Test;
use Penstock::Session;
use PostgreSQL::Test::Utils;
use TestQueue;
use Test::More;

my $node = penstock_node('pipe_dump', 'fsync = off', 'max_worker_processes = 30');
$node->safe_psql('postgres', 'CREATE ROLE keeper LOGIN; CREATE ROLE reader LOGIN; CREATE ROLE auditor LOGIN IN ROLE pg_read_all_data; CREATE DATABASE kept');
$node->safe_psql('kept', 'CREATE EXTENSION penstock');
my $q = TestQueue->new($node, 'kept');
our $db = 'kept';
sub sql { return $node->safe_psql($db, $_[0]); }
sub true { return $node->poll_query_until($db, "SELECT coalesce(($_[0]), false)"); }

sql(q{
	GRANT CREATE ON DATABASE kept TO keeper;
	GRANT USAGE ON FOREIGN SERVER tq, tqa TO keeper;
	GRANT keeper TO CURRENT_USER;
	SET ROLE keeper;
	CREATE SCHEMA "My Data";
	SET search_path = "My Data";
	CREATE FOREIGN TABLE q (n int, part text OPTIONS (metadata 'partition')) SERVER tq OPTIONS (queue 'q');
	CREATE FOREIGN TABLE "Ack" (n int) SERVER tqa OPTIONS (queue 'a');
	CREATE FOREIGN TABLE keyed (n int) SERVER tqa OPTIONS (queue 'k');
	CREATE TABLE got (n int CHECK (n <> 13), part text);
	CREATE TABLE got_ack (n int);
	CREATE TABLE got_keyed (n int);
	CREATE TABLE s (k int, at timestamptz DEFAULT '2026-01-01', b bytea DEFAULT '\x00ff', t text DEFAULT E'"\\\\\n') USING stream;
	CREATE TABLE copied (k int, at timestamptz, b bytea, t text);
	CREATE TABLE parts (k int, v int) PARTITION BY LIST (k);
	CREATE TABLE parts_1 PARTITION OF parts FOR VALUES IN (1) USING stream;
	CREATE TABLE parts_2 PARTITION OF parts DEFAULT USING stream;
	CREATE TABLE from_parts (k int, v int);
	CALL penstock.create_pipe('it''s a "queue"', $$INSERT INTO got SELECT n, part FROM q WHERE 'a\b' <> ''$$, batch_rows => 77, batch_bytes => 12345, batch_time => '3 ms');
	CALL penstock.create_pipe('ack', 'INSERT INTO got_ack SELECT n FROM "Ack"', dedup_window => '1 hour', on_error => 'skip');
	CALL penstock.create_pipe('keyed', 'INSERT INTO got_keyed SELECT n FROM keyed', dedup_window => '1 hour', dedup_key => 'n', on_error => 'stop');
	CALL penstock.create_pipe('copy', 'INSERT INTO copied SELECT * FROM s');
	CALL penstock.create_pipe('parts', 'INSERT INTO from_parts SELECT * FROM parts');
	CALL penstock.create_pipe('gone', 'INSERT INTO got SELECT n, part FROM q')});
my $queue = q{'it''s a "queue"'};
$q->append('q', 1, 100, '{"n": %s}', ", partition => (i % 3)::text");
$q->append('a', 1, 50, '{"n": %s}', ', id => i::text');
$q->append('k', 1, 50);
sql('INSERT INTO "My Data".s SELECT i FROM generate_series(1, 100) i; INSERT INTO "My Data".parts SELECT i % 4, i FROM generate_series(1, 100) i');
ok(true(q{SELECT count(*) = 3 * 99 - 99 FROM "My Data".got}), 'a queue');
ok(true(q{SELECT count(*) = 2 FROM penstock.dead_letter}), 'with dead letters');
ok(true(q{SELECT count(*) = 50 FROM "My Data".got_ack}) && true(q{SELECT count(*) = 50 FROM "My Data".got_keyed}), 'queues with acknowledgements');
ok(true(q{SELECT count(*) = 100 FROM "My Data".copied}) && true(q{SELECT count(*) = 100 FROM "My Data".from_parts}), 'streams');
sql(q{CALL penstock.drop_pipe('gone')});
sql(q{DELETE FROM "My Data".got WHERE ctid IN (SELECT ctid FROM (SELECT ctid, row_number() OVER (PARTITION BY n) FROM "My Data".got) x WHERE row_number = 2)});

# ---- a snapshot with events that the streams' pipes have not taken; then everything goes on ----

sql(q{SELECT penstock.pause('copy'), penstock.pause('parts')});
sql('INSERT INTO "My Data".s SELECT i FROM generate_series(101, 2600) i; INSERT INTO "My Data".parts SELECT i % 4, i FROM generate_series(101, 130) i');
my $dump = Penstock::Session->new($node, $db);
my $snapshot = $dump->query('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT pg_export_snapshot()');
my $pipes = q{SELECT name, owner, source, statements, error, on_error, batch_rows, batch_bytes, batch_time, dedup_window, dedup_key, settings FROM penstock.pipe ORDER BY name};
my $letters = q{SELECT pipe_name, owner, partition, "offset", message_id, key, payload, headers, properties, event_timestamp, statement, column_name,
	sqlstate, message, detail, failed_at, redrive FROM penstock.dead_letter WHERE sqlstate <> '00000' ORDER BY id};
my ($pipes_before, $letters_before) = (sql($pipes), sql($letters));
sql(q{SELECT penstock.resume('copy'), penstock.resume('parts')});
$q->append('q', 101, 200, '{"n": %s}', ", partition => (i % 3)::text");
sql('INSERT INTO "My Data".s SELECT i FROM generate_series(2601, 2700) i');
ok(true(q{SELECT count(*) = 199 FROM "My Data".got}) && true(q{SELECT count(*) = 2700 FROM "My Data".copied}), 'after the snapshot, the pipes go on');
my @connection = ("--snapshot=$snapshot", '--no-sync', $node->connstr($db));
my $path = $node->basedir;
$node->command_ok([ 'pg_dump', '-f', "$path/plain.sql", @connection ], 'plain dump');
$node->command_ok([ 'pg_dump', '-Fc', '-f', "$path/custom.dump", @connection ], 'custom dump');
$node->command_ok([ 'pg_dump', '-U', 'auditor', '-f', "$path/auditor.sql", @connection ], 'a member of pg_read_all_data makes one');
$dump->quit;

for my $how (qw(plain custom auditor))
{
	my $name = "copy_$how";
	$node->safe_psql('postgres', "CREATE DATABASE $name");
	$node->command_ok($how eq 'custom' ? [ 'pg_restore', '--exit-on-error', '-j', '3', '-d', $node->connstr($name), "$path/custom.dump" ] :
		[ 'psql', '-Xq', '-v', 'ON_ERROR_STOP=1', '-f', "$path/$how.sql", $node->connstr($name) ], "$how: restore");
	local $db = $name;
	is(sql($pipes), $pipes_before, "$how: the pipes");
	is(sql('SELECT DISTINCT status FROM penstock.pipe'), 'p', "$how: they are paused");
	is(sql($letters), $letters_before, "$how: dead letters");
	is(sql(q{SELECT pipe_name, count(*) FROM penstock.dead_letter WHERE redrive GROUP BY 1 ORDER BY 1}), "copy|2500\nparts|30", "$how: events not yet taken");
	is(sql(q{SELECT count(*) FROM penstock.dead_letter d LEFT JOIN penstock.pipe p USING (pipe) WHERE p.name IS DISTINCT FROM d.pipe_name AND d.pipe_name <> 'gone'}),
		'0', "$how: they belong to their pipes");
	is(sql(q{SELECT count(*), sum(n) FROM "My Data".got}), '99|' . (5050 - 13), "$how: the target is that of the snapshot");

	# what comes after one of them was resumed is for all
	sql(q{SELECT penstock.resume('ack')});
	sql('INSERT INTO "My Data".s SELECT i FROM generate_series(2901, 2910) i');
	sql('SELECT count(penstock.resume(name)) FROM penstock.pipe');
	ok(true(q{SELECT count(*) = 199 FROM "My Data".got}), "$how: the queue is read on from where the snapshot was");
	is(sql(q{SELECT n FROM "My Data".got GROUP BY n HAVING count(*) > 1}), '', "$how: each message once");
	ok(true(q{SELECT count(*) = 2610 FROM "My Data".copied}) && true(q{SELECT count(*) = 130 FROM "My Data".from_parts}), "$how: the streams' events are worked on");
	is(sql(differences('"My Data".copied', 'SELECT * FROM "My Data".s')), '0', "$how: each once, and as it was");
	is(sql(differences('"My Data".from_parts', 'SELECT * FROM "My Data".parts')), '0', "$how: those of partitions too");
	sql('INSERT INTO "My Data".s SELECT i FROM generate_series(3001, 3100) i');
	sql(q{SELECT penstock.catch_up('copy')});
	is(sql(differences('"My Data".copied', 'SELECT * FROM "My Data".s')), '0', "$how: and what comes after");
	is(sql(qq{ALTER TABLE "My Data".got DROP CONSTRAINT got_n_check; SELECT penstock.redrive($queue)}), '1', "$how: a dead letter can be sent again");
	ok(true(q{SELECT count(*) = 1 FROM "My Data".got WHERE n = 13}), "$how: and arrives");
	is(sql(q{SELECT pipe_name FROM penstock.dead_letter}), 'gone', "$how: one of a pipe that is gone stays");

	# what came before the dump comes again from the broker
	if ($how eq 'plain')
	{
		# (the dumped database's pipes would take some of it)
		$node->safe_psql('kept', q{SELECT penstock.pause('ack'), penstock.pause('keyed')});
		$node->poll_query_until('kept', q{SELECT count(*) = 0 FROM penstock.stat_pipe WHERE pid IS NOT NULL AND pipe IN ('ack', 'keyed')}) or die 'a pipe does not pause';
		$q->append('a', 1, 60, '{"n": %s}', ', id => i::text');
		$q->append('k', 1, 60);
		ok(true(q{SELECT count(*) = 60 FROM "My Data".got_ack}) && true(q{SELECT count(*) = 60 FROM "My Data".got_keyed}), "$how: new messages")
		  or diag(sql('SELECT pipe, state, last_error FROM penstock.stat_pipe'));
		is(sql(q{SELECT count(DISTINCT n) FROM "My Data".got_ack}), '60', "$how: ids that were seen are known");
		is(sql(q{SELECT count(DISTINCT n) FROM "My Data".got_keyed}), '60', "$how: keys, too");
	}
	is(sql('SELECT count(*) FROM penstock.saved_pipe'), '0', "$how: nothing is left in the table of the dump");
	sql('SELECT count(penstock.pause(name)) FROM penstock.pipe');
}

# ---- once more into the same database, without the role, and rows that no dump has ----

{
	local $db = 'copy_custom';
	my ($out, $err);
	$node->psql($db, 'INSERT INTO penstock.saved_pipe SELECT * FROM penstock.save_pipes()', stdout => \$out, stderr => \$err);
	like($err, qr/NOTICE:  pipe "copy" already exists, skipping/, 'a pipe that is there stays');
	is(sql('SELECT count(*) FROM penstock.pipe'), '5', 'as it is');
	sql(q{SELECT penstock.pause('ack'); DELETE FROM penstock.dead_letter; INSERT INTO "My Data".s VALUES (5000)});
	sql(q{SELECT count(penstock.resume(name)) FROM penstock.pipe});
	sql(q{SELECT penstock.catch_up('copy'), penstock.pause('copy')});
	sql(q{INSERT INTO "My Data".s VALUES (5001); INSERT INTO penstock.saved_pipe SELECT * FROM penstock.save_pipes(); SELECT penstock.resume('copy'); SELECT penstock.catch_up('copy')});
	is(sql(differences('"My Data".copied', 'SELECT * FROM "My Data".s')), '0', 'and gets nothing that is not for it');
	is(sql('SELECT count(*) FROM penstock.dead_letter'), '0', 'no dead letter either');
	# insert(kind, column => value, ...): the saved row of pipe "copy", or of some dead letter, with other columns
	my $insert = sub {
		my ($kind, %changes) = @_;
		my $columns = join(', ', map { exists $changes{$_} ? $changes{$_} : "columns[$_]" } 1 .. ($kind eq 'p' ? 13 : 17));
		my $name = delete $changes{name} // q{'y'};
		my $all = delete $changes{columns} // "ARRAY[$columns]";
		$node->psql($db, "INSERT INTO penstock.saved_pipe SELECT " . (delete $changes{kind} // 'kind') . ", $name, $all FROM penstock.save_pipes() s WHERE kind = '$kind' AND ('$kind' = 'd' OR pipe = 'copy') LIMIT 1", stderr => \$err);
		return $err;
	};
	like($insert->('p', 2 => q{'not.there'}), qr/NOTICE:  not.there does not exist: pipe "y" is left out/, 'a source that is not there');
	like($insert->('p', name => q{'x'}, 1 => q{'nobody here'}), qr/NOTICE:  role "nobody here" does not exist: pipe "x" is owned by/, 'an owner that is not there');
	is(sql(q{SELECT owner = CURRENT_USER::regrole FROM penstock.pipe WHERE name = 'x'}), 't', 'is who restores');
	sql(q{SELECT penstock.pause('copy'); INSERT INTO "My Data".s VALUES (5002)});	# a dead letter in a dump
	like($insert->('d', 1 => q{'nobody here'}), qr/NOTICE:  role "nobody here" does not exist: a dead letter of pipe "y" is owned by/, 'nor that of a dead letter');
	like($insert->('p', 1 => 'NULL'), qr/ERROR:  a saved row of pipe "y" cannot be restored\nDETAIL:  Its column 1 is null/, 'a null');
	like($insert->('d', 17 => 'NULL'), qr/DETAIL:  Its column 17 is null/, 'in a dead letter');
	like($insert->('p', columns => q{'{a,b}'}), qr/DETAIL:  It has 2 columns instead of 13/, 'columns');
	like($insert->('p', columns => 'NULL'), qr/ERROR:  a saved row of pipe "y" cannot be restored\nDETAIL:  It has a null/, 'no columns');
	like($insert->('p', name => 'NULL'), qr/ERROR:  a saved row of pipe "" cannot be restored/, 'no name');
	like($insert->('p', kind => q{'x'}), qr/DETAIL:  Its kind is none/, 'kind');
	like($insert->('p', 5 => q{'x'}), qr/DETAIL:  Its on_error is none/, 'on_error');
	like($insert->('p', 6 => q{'0'}), qr/ERROR:  batch_rows must be between 1 and 10000000/, 'batch_rows');
	like($insert->('p', 6 => q{'many'}), qr/ERROR:  invalid input syntax for type integer: "many"/, 'a value of another type');
	like($insert->('p', 9 => q{'-1'}), qr/DETAIL:  Its batch_time or its dedup_window is negative/, 'dedup_window');
	like($insert->('p', 8 => q{'-1'}), qr/DETAIL:  Its batch_time or its dedup_window is negative/, 'batch_time');
	like($insert->('p', 12 => q{'{1}'}), qr/DETAIL:  Its position has 0 partitions, 1 offsets and 0 rows/, 'places of different lengths');
	like($insert->('p', 11 => q{'{null}'}, 12 => q{'{1}'}, 13 => q{'{1}'}), qr/DETAIL:  Its position has a null/, 'a place that is null');
	$node->psql($db, q{CREATE TABLE t (a int); CREATE TRIGGER t BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION penstock.restore_pipe(); INSERT INTO t VALUES (1)}, stderr => \$err);
	like($err, qr/ERROR:  penstock.restore_pipe\(\) was not called by the trigger of penstock.saved_pipe/, 'the trigger of another table');
}

# ---- rights ----

{
	my ($out, $err);
	local $db = 'kept';
	$node->psql($db, 'SET ROLE reader; SELECT * FROM penstock.save_pipes()', stdout => \$out, stderr => \$err);
	like($err, qr/ERROR:  permission denied for pipe "[^\n]*"\nDETAIL:  Only the owner and members of role pg_read_all_data can save it/, 'not everybody may save pipes');
	$node->psql($db, 'SET ROLE keeper; SELECT count(*) > 0 FROM penstock.save_pipes()', stdout => \$out, stderr => \$err);
	is($out, 't', 'the owner of all of them may');
	$node->psql('copy_plain', q{DO $$ DECLARE p text; BEGIN FOR p IN SELECT name FROM penstock.pipe LOOP CALL penstock.drop_pipe(p); END LOOP; END $$;
		SET ROLE reader; SELECT * FROM penstock.save_pipes()}, stderr => \$err);
	like($err, qr/ERROR:  permission denied for the dead letters of others/, 'nor dead letters of pipes that are gone');
	sql(q{CREATE TABLE public.private (k int) USING stream; GRANT SELECT ON public.private TO keeper; CREATE TABLE public.target (k int); GRANT ALL ON public.target TO keeper;
		SET ROLE keeper; CALL penstock.create_pipe('private', 'INSERT INTO public.target SELECT k FROM public.private', active => false)});
	sql('INSERT INTO private VALUES (1); REVOKE SELECT ON private FROM keeper');
	$node->psql($db, 'SET ROLE keeper; SELECT * FROM penstock.save_pipes()', stderr => \$err);
	like($err, qr/ERROR:  permission denied for table private/, 'events that the owner may not read any more');
	sql(q{GRANT SELECT ON private TO keeper; ALTER TABLE private ENABLE ROW LEVEL SECURITY});
	$node->psql($db, 'SET ROLE keeper; SELECT * FROM penstock.save_pipes()', stderr => \$err);
	like($err, qr/ERROR:  events of table "private" that a pipe has not taken would be affected by row-level security policy/, 'nor read around policies');
}
$node->stop;
done_testing();
