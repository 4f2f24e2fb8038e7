# What a batch takes and what it leaves: writers that run long, are prepared or roll back; backlogs in
# slices; a tail that overruns; views that are locked or fail.
use strict;
use warnings;
use Penstock::Test;
use Penstock::Session;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = penstock_node('engine_batches', 'penstock.tail_size = 1024', 'autovacuum = off');
my $query = 'SELECT k, count(*) AS n, sum(v) AS total FROM s GROUP BY k';
my ($rc, $out, $err);

sub sql { return $node->safe_psql('postgres', $_[0]); }

# same(what): after catching up, the views equal their queries.
sub same
{
	my ($what) = @_;
	sql('SELECT penstock.catch_up()');
	is(sql(differences('grouped', $query)), '0', "$what: grouped view");
	return is(sql(differences('appended', 'SELECT k, v FROM s WHERE v % 2 = 0')), '0', "$what: appended view");
}

sub setting
{
	my ($name, $value) = @_;
	sql("ALTER SYSTEM SET $name = $value");
	# at a point that every round passes, a crash may be quicker than the answer
	eval { $node->psql('postgres', 'SELECT pg_reload_conf()') };
	return;
}

sql(qq{
	CREATE TABLE s (k int, v int) USING stream;
	CREATE MATERIALIZED VIEW grouped USING continuous AS $query;
	CREATE MATERIALIZED VIEW appended USING continuous AS SELECT k, v FROM s WHERE v % 2 = 0;
});

# ---- writers ----

sql('INSERT INTO s SELECT i % 10, i FROM generate_series(1, 1000) i');
same('one insert');

my $long = Penstock::Session->new($node);
$long->must('BEGIN; INSERT INTO s SELECT i % 10, i FROM generate_series(1, 5000) i; SELECT count(*) FROM s');
sql('INSERT INTO s SELECT 11, i FROM generate_series(1, 10) i');
same('a writer still runs');
is(sql('SELECT n FROM grouped WHERE k = 11'), '10', 'others do not wait for it');
sql('CREATE MATERIALIZED VIEW late USING continuous AS SELECT count(*) AS n FROM s');
sql('SELECT pg_terminate_backend(pid) FROM penstock.stat_worker');
same('a new worker, the writer still runs');
$long->must('COMMIT');
same('the writer committed late');
is(sql(differences('late', 'SELECT count(*) AS n FROM s')), '0', 'a view made meanwhile has it once');
sql('DROP MATERIALIZED VIEW late');

sql(q{BEGIN; INSERT INTO s SELECT 12, i FROM generate_series(1, 100) i; PREPARE TRANSACTION 'p1'});
sql(q{BEGIN; INSERT INTO s SELECT 13, i FROM generate_series(1, 100) i; PREPARE TRANSACTION 'p2'});
sql('INSERT INTO s VALUES (14, 14)');
same('prepared transactions');
$long->quit;
$node->restart;
$long = Penstock::Session->new($node);
same('prepared transactions, after a restart');
sql(q{COMMIT PREPARED 'p1'});
ok($node->poll_query_until('postgres', 'SELECT n = 100 FROM grouped WHERE k = 12'), 'COMMIT PREPARED wakes the engine');
sql(q{ROLLBACK PREPARED 'p2'});
same('prepared transactions, finished');

sql(q{
	BEGIN;
	INSERT INTO s VALUES (20, 2);
	SAVEPOINT a;
	INSERT INTO s SELECT 21, i FROM generate_series(1, 100) i;
	SELECT count(*) FROM s WHERE k = 21;
	SAVEPOINT b;
	INSERT INTO s SELECT 22, i FROM generate_series(1, 100) i;
	SELECT count(*) FROM s WHERE k = 22;
	RELEASE b;
	ROLLBACK TO a;
	INSERT INTO s VALUES (20, 4);
	COMMIT});
same('subtransactions rolled back');
is(sql('SELECT n FROM grouped WHERE k = 20'), '2', 'what was kept is there');

# an address that was rolled back is used again before the engine looks
setting('penstock.stop_points', q{'engine_after_snapshot:wait'});
$long->must('SELECT pg_advisory_lock(20563, 2)');
sql(q{BEGIN; INSERT INTO s VALUES (30, 2); SAVEPOINT a; INSERT INTO s VALUES (31, 2);
	SELECT count(*) FROM s WHERE k = 31; ROLLBACK TO a; COMMIT});
sql('VACUUM s');
sql('INSERT INTO s VALUES (32, 2)');
setting('penstock.stop_points', q{''});
$long->must('SELECT pg_advisory_unlock(20563, 2)');
same('an address used again');

# ---- the snapshot is taken, then others commit ----

setting('penstock.stop_points', q{'engine_after_snapshot:wait'});
$long->must('SELECT pg_advisory_lock(20563, 2)');
for my $i (1 .. 20)
{
	sql("INSERT INTO s VALUES (40, $i)");
}
$long->must('SELECT pg_advisory_unlock(20563, 2)');
setting('penstock.stop_points', q{''});
same('commits after the snapshot');

# ---- the tail overruns ----

sub many_chunks
{
	my ($k) = @_;
	return $node->safe_psql('postgres', "DO \$\$ BEGIN FOR i IN 1 .. 2500 LOOP INSERT INTO s VALUES ($k, i); COMMIT; END LOOP; END \$\$");
}
setting('penstock.stop_points', q{'engine_before_snapshot:wait'});
$long->must('SELECT pg_advisory_lock(20563, 1)');
many_chunks(50);
$long->must('SELECT pg_advisory_unlock(20563, 1)');
setting('penstock.stop_points', q{''});
same('more chunks than the tail holds');
many_chunks(51);
same('and once more, with the engine at work');

# ---- a backlog, in slices ----

setting('penstock.batch_rows', 300);
sql('SELECT penstock.pause()');
sql('INSERT INTO s SELECT 60 + i % 3, i FROM generate_series(1, 100) i');
many_chunks(63);
my $other = Penstock::Session->new($node);
$other->must('BEGIN; INSERT INTO s SELECT 64, i FROM generate_series(1, 3000) i; SELECT count(*) FROM s');
# hold the worker, resume, and let it go on to the end of its first slice
$long->must('SELECT pg_advisory_lock(20563, 1)');
setting('penstock.stop_points', q{'engine_before_snapshot:wait'});
$long->must('SELECT pg_advisory_lock(20563, 5)');
setting('penstock.stop_points', q{'engine_after_commit:wait'});
sql('SELECT penstock.resume()');
$long->must('SELECT pg_advisory_unlock(20563, 1)');
ok($node->poll_query_until('postgres', 'SELECT count(*) > 0 FROM penstock.position WHERE upto IS NOT NULL'), 'slices are under way');
sql('INSERT INTO s VALUES (65, 1)');
$other->must('COMMIT');
($rc, $out, $err) = $node->psql('postgres', 'VACUUM FULL s', timeout => 60);
like($err, qr/cannot be rewritten now/, 'a slice keeps VACUUM FULL away');
$long->must('SELECT pg_advisory_unlock(20563, 5)');
setting('penstock.stop_points', q{''});
sql('SELECT pg_terminate_backend(pid) FROM penstock.stat_worker');
same('a backlog in slices, with a new worker on the way');
is(sql('SELECT count(*) FROM penstock.position WHERE upto IS NOT NULL'), '0', 'no slice is left under way');
sql('ALTER SYSTEM RESET penstock.batch_rows');
sql('SELECT pg_reload_conf()');

# ---- DDL ----

sql('SELECT penstock.pause()');
many_chunks(70);
sql('VACUUM FULL s');
sql('SELECT penstock.resume()');
same('resumed, from the directory');

$other->must('BEGIN; ALTER MATERIALIZED VIEW grouped RENAME TO g; ALTER MATERIALIZED VIEW g RENAME TO grouped');
sql('INSERT INTO s SELECT 71, i FROM generate_series(1, 100) i');
sql(q{SELECT penstock.catch_up('appended')});
is(sql('SELECT count(*) FROM appended WHERE k = 71'), '50', 'a locked view does not hold up the other');
($rc, $out, $err) = $node->psql('postgres', q{SELECT penstock.catch_up('grouped', '300 ms')});
like($err, qr/not caught up within 300 ms/, 'and is waited for as long as asked');
$other->must('COMMIT');
same('unlocked');

# a transaction that waits for the engine, which waits for it
for my $ddl ('CREATE INDEX by_total ON grouped (total)', 'LOCK TABLE s IN ACCESS EXCLUSIVE MODE',
	'DROP MATERIALIZED VIEW grouped', q{SELECT penstock.rebuild('grouped')})
{
	my $locks_stream = $ddl =~ /LOCK/;
	sql('SELECT penstock.pause(); INSERT INTO s SELECT 75, i FROM generate_series(1, 100) i') if $locks_stream;
	$other->must("BEGIN; $ddl");
	sql($locks_stream ? 'SELECT penstock.resume()' : 'INSERT INTO s SELECT 75, i FROM generate_series(1, 100) i');
	$other->query('SELECT penstock.catch_up()');
	like($other->error, qr/cannot catch up while this transaction keeps the engine from/, "$ddl and catch_up in one transaction");
	$other->must('ROLLBACK');
	same("after $ddl");
}
sql(q{
	CREATE FUNCTION waits(int) RETURNS int STABLE LANGUAGE plpgsql AS 'BEGIN PERFORM penstock.catch_up(); RETURN $1; END';
	CREATE TABLE w (v int) USING stream;
	CREATE MATERIALIZED VIEW wv USING continuous AS SELECT waits(v) AS v FROM w;
	INSERT INTO w VALUES (1)});
($rc, $out, $err) = $node->psql('postgres', q{SELECT penstock.catch_up('wv', '1 minute')});
like($err, qr/has stopped with an error.*cannot catch up within the query/s, 'catch_up in a view stops the view alone');
same('and no other');
sql('DROP MATERIALIZED VIEW wv');

$long->must('BEGIN; SELECT count(*) FROM grouped');
$other->send('ALTER MATERIALIZED VIEW grouped RENAME COLUMN total TO total2');
ok($node->poll_query_until('postgres', q{SELECT count(*) = 1 FROM pg_locks WHERE NOT granted}), 'somebody waits for a lock on the view');
sql('INSERT INTO s VALUES (71, 1)');
$long->query('SELECT penstock.catch_up()');
like($long->error, qr/cannot catch up while process \d+ waits for a lock on "grouped"/, 'catch_up does not wait for itself');
$long->must('ROLLBACK');
$other->receive;
$other->must('ALTER MATERIALIZED VIEW grouped RENAME COLUMN total2 TO total');
same('and all go on');

$other->must('BEGIN; ALTER TABLE s ADD COLUMN extra int; INSERT INTO s VALUES (72, 2, 3)');
$other->must('COMMIT');
same('ALTER TABLE and INSERT in one transaction');

sql('SELECT penstock.pause()');
sql('INSERT INTO s SELECT 73, i FROM generate_series(1, 100) i');
sql('SELECT penstock.resume()');
sql('BEGIN; TRUNCATE s; INSERT INTO s VALUES (74, 2); COMMIT');
sql('SELECT penstock.catch_up()');
is(sql('SELECT n FROM grouped WHERE k = 74'), '1', 'what is inserted after TRUNCATE is counted');
is(sql('SELECT n FROM grouped WHERE k = 70'), '2500', 'what was counted before stays');

# a partition and events in it, visible before anybody is told that there is a partition
sql(q{
	CREATE TABLE root (k int, v int) PARTITION BY LIST (k);
	CREATE TABLE root1 PARTITION OF root FOR VALUES IN (1) USING stream;
	CREATE MATERIALIZED VIEW rooted USING continuous AS SELECT k, count(*) AS n FROM root GROUP BY k;
	INSERT INTO root VALUES (1, 1)});
sql('SELECT penstock.catch_up()');
my $writer = Penstock::Session->new($node);
$writer->must(q{SET penstock.stop_points = 'engine_commit_visible:wait'});
$long->must('SELECT pg_advisory_lock(20563, 12)');
$writer->send('BEGIN; CREATE TABLE root2 PARTITION OF root FOR VALUES IN (2) USING stream; INSERT INTO root VALUES (2, 2); COMMIT');
ok($node->poll_query_until('postgres', q{SELECT count(*) = 1 FROM pg_class WHERE relname = 'root2'}), 'a commit is visible');
sql('INSERT INTO s VALUES (71, 3)');
($rc, $out, $err) = $node->psql('postgres', q{SELECT penstock.catch_up('rooted', '300 ms')});
like($err, qr/not caught up/, 'the engine waits for what belongs to it');
$long->must('SELECT pg_advisory_unlock(20563, 12)');
$writer->receive;
$writer->quit;
sql('SELECT penstock.catch_up()');
is(sql(differences('rooted', 'SELECT k, count(*) AS n FROM root GROUP BY k')), '0', 'no event of the new partition is passed by');

# ---- a wake-up that comes while the engine waits for something else ----

sql(q{
	CREATE FUNCTION held(int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS 'BEGIN PERFORM pg_advisory_xact_lock(42); RETURN $1; END';
	CREATE TABLE h (v int) USING stream;
	CREATE MATERIALIZED VIEW hv USING continuous AS SELECT held(v) AS v FROM h;
	INSERT INTO h VALUES (0)});
sql('SELECT penstock.catch_up()');
$long->must('SELECT pg_advisory_lock(42)');
sql('INSERT INTO h VALUES (1)');
ok($node->poll_query_until('postgres', q{SELECT count(*) = 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted}), 'a batch waits');
sql('INSERT INTO h VALUES (2)');
$long->must('SELECT pg_advisory_unlock(42)');
ok($node->poll_query_until('postgres', q{SELECT state = 'idle' FROM pg_stat_activity WHERE backend_type = 'penstock engine'}), 'it sleeps again');
is(sql('SELECT count(*) FROM hv'), '3', 'and has not forgotten what was committed while it waited');
sql('DROP MATERIALIZED VIEW hv');

# ---- errors ----

sql('CREATE TABLE e (v int) USING stream');
sql('CREATE MATERIALIZED VIEW fails USING continuous AS SELECT 10 / v AS x FROM e');
sql('CREATE MATERIALIZED VIEW works USING continuous AS SELECT count(*) AS n FROM e');
sql('INSERT INTO e VALUES (1), (2)');
sql('INSERT INTO e VALUES (0)');
($rc, $out, $err) = $node->psql('postgres', 'SELECT penstock.catch_up()');
is($rc, 0, 'catch_up of all is not an error when one has failed');
like($err, qr/WARNING:.*"fails" has stopped/, 'but a warning');
is(sql('SELECT n FROM works'), '3', 'the neighbour goes on');
is(sql(q{SELECT status FROM penstock.stat_view WHERE view = 'fails'::regclass}), 'failed', 'the view is marked');
like(sql(q{SELECT last_error FROM penstock.stat_view WHERE view = 'fails'::regclass}), qr/^22012: division by zero/, 'with its error');
($rc, $out, $err) = $node->psql('postgres', q{SELECT penstock.catch_up('fails')});
like($err, qr/has stopped with an error.*22012: division by zero/s, 'catch_up of the failed view quotes it');
sql(q{SELECT penstock.resume('fails')});
($rc, $out, $err) = $node->psql('postgres', q{SELECT penstock.catch_up('fails')});
like($err, qr/has stopped with an error/, 'resumed without a cure it fails again, and catch_up notices');
is(sql('SELECT count(*) FROM fails'), '2', 'nothing of a failed batch is left');
sql('INSERT INTO e VALUES (5)');
sql(q{SELECT penstock.catch_up('works')});
is(sql('SELECT n FROM works'), '4', 'the neighbour still goes on');

setting('penstock.stop_points', q{'engine_after_apply:transient'});
sql('INSERT INTO e VALUES (6)');
ok($node->poll_query_until('postgres', q{SELECT errors > 0 FROM penstock.stat_view WHERE view = 'works'::regclass}), 'an error that may go away');
is(sql(q{SELECT status FROM penstock.stat_view WHERE view = 'works'::regclass}), 'active', 'does not stop a view');
setting('penstock.stop_points', q{''});
sql(q{SELECT penstock.catch_up('works')});
is(sql('SELECT n FROM works'), '5', 'it is tried again');
sql('DROP MATERIALIZED VIEW fails');

# ---- crashes at every step ----

$node->append_conf('postgresql.conf', 'restart_after_crash = on');
$node->restart;
sql('CREATE TABLE c (v int) USING stream');
sql('CREATE MATERIALIZED VIEW cv USING continuous AS SELECT v % 7 AS k, count(*) AS n FROM c GROUP BY 1');
for my $point (qw(engine_before_snapshot engine_after_snapshot engine_after_apply engine_before_commit engine_after_commit))
{
	sql('SELECT penstock.catch_up()');
	my $pid = sql('SELECT pid FROM penstock.stat_worker');
	setting('penstock.stop_points', "'$point:crash'");
	eval { $node->psql('postgres', 'INSERT INTO c SELECT generate_series(1, 100)') };
	ok($node->poll_query_until('postgres', "SELECT pg_postmaster_start_time() IS NOT NULL AND NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $pid)"),
		"killed at $point");
	# the worker may die again and again until the setting is gone
	$node->append_conf('postgresql.auto.conf', q{penstock.stop_points = ''});
	# a fast shutdown that meets the server's own restart after the crash may wait for ever
	$node->stop('immediate');
	$node->start;
	sql('SELECT penstock.catch_up()');
	is(sql(differences('cv', 'SELECT v % 7 AS k, count(*) AS n FROM c GROUP BY 1')), '0', "nothing missing, nothing twice");
}

for my $point (qw(stream_after_flush stream_after_publish))
{
	my $started = sql('SELECT pg_postmaster_start_time()');
	my $pid = sql('SELECT pid FROM penstock.stat_worker');
	($rc) = $node->psql('postgres', "SET penstock.stop_points = '$point:crash'; INSERT INTO c SELECT generate_series(1, 100)");
	is($rc, 2, "a writer is killed at $point");
	# the server starts anew by itself
	ok($node->poll_query_until('postgres', "SELECT pid IS NOT NULL AND pid <> $pid FROM penstock.stat_worker"), 'and the engine with it');
	sql('INSERT INTO c VALUES (1)');
	sql('SELECT penstock.catch_up()');
	is(sql(differences('cv', 'SELECT v % 7 AS k, count(*) AS n FROM c GROUP BY 1')), '0', 'nothing of it is there');
}

$_->quit for $long, $other;
$node->stop;
done_testing();
