# The life of an engine worker: when it starts, when it leaves, and what it must never hold up.
use strict;
use warnings;
use Penstock::Test;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = penstock_node('engine_life', 'restart_after_crash = on');

# state(database): what stat_worker says, seen from database "postgres".
sub state_is
{
	my ($database, $state, $what) = @_;
	return ok($node->poll_query_until('postgres',
			"SELECT coalesce((SELECT state FROM penstock.stat_worker WHERE database = '$database'), 'none') = '$state'"),
		$what);
}

sub worker_pid
{
	my ($database) = @_;
	return $node->safe_psql('postgres', "SELECT pid FROM penstock.stat_worker WHERE database = '$database'");
}

sub workers
{
	return $node->safe_psql('postgres', q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'penstock engine'});
}

state_is('postgres', 'running', 'CREATE EXTENSION starts a worker');
$node->safe_psql('postgres', q{
	CREATE TABLE s (k int, v int) USING stream;
	CREATE MATERIALIZED VIEW v USING continuous AS SELECT k, count(*) AS n FROM s GROUP BY k;
});
$node->safe_psql('postgres', q{INSERT INTO s SELECT i % 3, i FROM generate_series(1, 9) i});
$node->safe_psql('postgres', 'SELECT penstock.catch_up()');
is($node->safe_psql('postgres', 'SELECT sum(n) FROM v'), '9', 'it works');

# databases come and go
$node->safe_psql('postgres', 'CREATE DATABASE a');
$node->safe_psql('a', 'CREATE EXTENSION penstock');
state_is('a', 'running', 'a second database has a worker of its own');
$node->safe_psql('postgres', 'ALTER DATABASE a RENAME TO b');
state_is('b', 'running', 'after ALTER DATABASE RENAME it is back');
$node->safe_psql('postgres', 'CREATE DATABASE c TEMPLATE b');
state_is('c', 'running', 'a copy of the database has a worker');
state_is('b', 'running', 'and so has, again, what was copied');
$node->safe_psql('postgres', 'DROP DATABASE b');
state_is('b', 'none', 'DROP DATABASE is not held up');
$node->safe_psql('postgres', 'BEGIN; ALTER DATABASE c RENAME TO d; ROLLBACK');
state_is('c', 'running', 'a statement that is rolled back lets the worker come back');
my ($rc, $out, $err) = $node->psql('postgres', 'ALTER DATABASE c RENAME TO postgres');
like($err, qr/already exists/, 'a statement that fails says why');
state_is('c', 'running', 'and lets the worker come back');
$node->safe_psql('postgres', 'ALTER DATABASE c ALLOW_CONNECTIONS false');
$node->safe_psql('postgres', q{SELECT pg_terminate_backend(pid) FROM penstock.stat_worker WHERE database = 'c'});
state_is('c', 'none', 'no worker where connections are not allowed');
$node->safe_psql('postgres', 'ALTER DATABASE c ALLOW_CONNECTIONS true');
state_is('c', 'running', 'and one when they are again');
$node->safe_psql('c', 'DROP EXTENSION penstock CASCADE');
state_is('c', 'none', 'DROP EXTENSION ends the worker');
$node->safe_psql('c', 'CREATE EXTENSION penstock');
state_is('c', 'running', 'CREATE EXTENSION starts one again');
$node->safe_psql('postgres', 'DROP DATABASE c WITH (FORCE)');

$node->safe_psql('postgres', 'CREATE ROLE nobody_special LOGIN');
my $pid = worker_pid('postgres');
$node->safe_psql('postgres', 'CREATE DATABASE e');
$node->safe_psql('e', 'CREATE EXTENSION penstock');
state_is('e', 'running', 'a database for the next test');
my $other = worker_pid('e');
($rc, $out, $err) = $node->psql('postgres', 'DROP DATABASE e', extra_params => [ '-U', 'nobody_special' ]);
like($err, qr/must be owner/, 'who may not drop a database');
is(worker_pid('e'), $other, 'does not disturb its worker either');
$node->safe_psql('postgres', 'DROP DATABASE e');

# the worker ends
is(worker_pid('postgres'), $pid, 'all that left the other worker alone');
$node->safe_psql('postgres', "SELECT pg_terminate_backend($pid)");
$node->safe_psql('postgres', 'INSERT INTO s VALUES (7, 7)');
$node->safe_psql('postgres', 'SELECT penstock.catch_up()');
is($node->safe_psql('postgres', 'SELECT n FROM v WHERE k = 7'), '1', 'terminated: catch_up has it started again');
isnt(worker_pid('postgres'), $pid, 'it is another process');

$node->safe_psql('postgres', 'SELECT pg_cancel_backend(pid) FROM penstock.stat_worker');
$node->safe_psql('postgres', 'INSERT INTO s VALUES (8, 8)');
$node->safe_psql('postgres', 'SELECT penstock.catch_up()');
is($node->safe_psql('postgres', 'SELECT n FROM v WHERE k = 8'), '1', 'pg_cancel_backend does no harm');

# an idle worker is not woken
$node->safe_psql('postgres', 'SELECT penstock.catch_up()');
$pid = worker_pid('postgres');
sub switches
{
	my $status = slurp_file("/proc/$pid/status");
	return $status =~ /^voluntary_ctxt_switches:\s+(\d+)/m ? $1 : undef;
}
SKIP:
{
	skip 'no /proc here', 1 unless -r "/proc/$pid/status";
	# statistics are flushed within a second after the last batch; then there must be a quiet second
	my $quiet = 0;
	for (1 .. 20)
	{
		my $before = switches();
		$node->safe_psql('template1', 'SELECT 1 FROM generate_series(1, 1000000)');
		my $end = time + 2;
		1 while time < $end;
		$quiet = $before == switches();
		last if $quiet;
	}
	ok($quiet, 'an idle worker does not wake up');
}

# a server that goes down and comes back
$node->stop('smart');
$node->start;
state_is('postgres', 'running', 'after a restart the worker is there without anybody asking');
$node->safe_psql('postgres', 'INSERT INTO s VALUES (9, 9)');
$node->stop('immediate');
$node->start;
$node->safe_psql('postgres', 'SELECT penstock.catch_up()');
is($node->safe_psql('postgres', 'SELECT n FROM v WHERE k = 9'), '1', 'after a crash nothing is missing');

$pid = worker_pid('postgres');
kill 'KILL', $pid;
ok($node->poll_query_until('postgres', "SELECT pid <> $pid FROM penstock.stat_worker WHERE database = 'postgres'"),
	'after kill -9 of the worker the server is back with another');
$node->safe_psql('postgres', 'SELECT penstock.catch_up()');
is($node->safe_psql('postgres', differences('v', 'SELECT k, count(*) AS n FROM s GROUP BY k')), '0', 'and the view is right');

# no room for workers
$node->append_conf('postgresql.conf', "max_worker_processes = 1\nmax_logical_replication_workers = 0");
$node->restart;
($rc, $out, $err) = $node->psql('postgres', 'SELECT penstock.catch_up()', timeout => 60);
like($err, qr/cannot start/, 'without a free worker slot catch_up says so');
like($err, qr/max_worker_processes/, 'and what to do');
like($node->safe_psql('postgres', 'SELECT state FROM penstock.stat_worker'), qr/waiting for a background worker slot/,
	'stat_worker shows it');
$node->append_conf('postgresql.conf', 'max_worker_processes = 20');
$node->restart;
$node->safe_psql('postgres', 'SELECT penstock.catch_up()');

# many databases: they start some at a time, and none is forgotten
$node->safe_psql('postgres', "CREATE DATABASE many_$_ TEMPLATE postgres") for 1 .. 6;
for my $round (1 .. 5)
{
	$node->stop('immediate');
	$node->start;
	ok($node->poll_query_until('postgres', q{
		SELECT count(*) = 7 AND max(started_at) < pg_postmaster_start_time() + interval '20 s'
		FROM penstock.stat_worker WHERE (database LIKE 'many%' OR database = 'postgres') AND state = 'running'}),
		"all engines run soon after start $round");
}
$node->safe_psql('postgres', "DROP DATABASE many_$_") for 1 .. 6;

# a standby has no engine before it is promoted
$node->backup('base');
my $standby = PostgreSQL::Test::Cluster->new('engine_standby');
$standby->init_from_backup($node, 'base', has_streaming => 1);
$standby->start;
$node->safe_psql('postgres', 'INSERT INTO s VALUES (10, 10)');
$node->wait_for_catchup($standby);
is($standby->safe_psql('postgres', q{SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'penstock%'}), '0',
	'nothing runs on a standby');
($rc, $out, $err) = $standby->psql('postgres', 'SELECT penstock.catch_up()');
like($err, qr/during recovery/, 'catch_up on a standby says so');
$node->stop('immediate');
$standby->promote;
$standby->safe_psql('postgres', 'INSERT INTO s VALUES (11, 11)');
$standby->safe_psql('postgres', 'SELECT penstock.catch_up()');
is($standby->safe_psql('postgres', differences('v', 'SELECT k, count(*) AS n FROM s GROUP BY k')), '0',
	'promoted, its views go on');
$standby->stop;

done_testing();
