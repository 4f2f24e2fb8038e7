# The PostgreSQL connector when everything dies: worker, server and upstream are killed or cut off while numbered changes arrive, and
# during the initial copy.  Then each change is there exactly once, in the order of its transaction.
use strict;
use warnings;
use Penstock::Test;
use Penstock::Chaos;
use Penstock::Session;
use Proxy;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use POSIX ();
use Time::HiRes qw(time);

my $last = $ENV{PENSTOCK_MESSAGES} || 100000;
my $kills = $ENV{PENSTOCK_KILLS} || 8;

my $up = PostgreSQL::Test::Cluster->new('crash_up');
$up->init(allows_streaming => 'logical', extra => [ '--locale=C', '--encoding=UTF8' ]);
$up->append_conf('postgresql.conf', "listen_addresses = '127.0.0.1'\nlogical_decoding_work_mem = '64kB'\nmax_wal_senders = 20\nmax_connections = 50");
$up->start;
my $down = penstock_node('crash_down', 'autovacuum = off', 'restart_after_crash = on');

sub up { return $up->safe_psql('postgres', $_[0]); }
sub down { return $down->safe_psql('postgres', $_[0]); }
sub patiently { my ($node, $sql) = @_; my ($rc, $out) = eval { $node->psql('postgres', $sql) }; return defined $rc && $rc == 0 ? $out : undef; }

my $proxy = Proxy->start($up->port);
my $port = $proxy->port;
my $user = getpwuid($<);

up(q{
	CREATE TABLE t (id bigint PRIMARY KEY, writer int, k int, pad text);
	CREATE SEQUENCE transactions;
	INSERT INTO t SELECT -i, 0, i, repeat('p', 100) FROM generate_series(1, 200000) i;
	CREATE PUBLICATION p FOR TABLE t;
	-- a transaction: some rows with numbers that follow each other, sometimes many, some rolled back, one of them updated
	CREATE PROCEDURE write(w int, n int) LANGUAGE plpgsql AS $$
	DECLARE x bigint := nextval('transactions') * 1000000; many int;
	BEGIN
		many := CASE WHEN random() < 0.01 THEN 10000 ELSE n END;
		INSERT INTO t SELECT x + i, w, i, repeat('x', 20) FROM generate_series(1, many) i;
		BEGIN
			INSERT INTO t SELECT x + 500000 + i, w, i, 'never' FROM generate_series(1, many) i;
			RAISE division_by_zero;
		EXCEPTION WHEN division_by_zero THEN NULL;
		END;
		UPDATE t SET pad = 'updated' WHERE id = x + many;
	END $$;
});
down(qq{
	CREATE EXTENSION penstock_postgres;
	CREATE SERVER up FOREIGN DATA WRAPPER postgres_changes OPTIONS (host '127.0.0.1', port '$port', dbname 'postgres', status_interval '1 s',
		receive_timeout '3 s', sender_timeout '3 s', connect_timeout '5');
	CREATE USER MAPPING FOR CURRENT_USER SERVER up OPTIONS (user '$user');
	CREATE FOREIGN TABLE t (id bigint, writer int, k int, pad text, op text OPTIONS (metadata 'operation'), lsn pg_lsn OPTIONS (metadata 'commit_lsn'),
		xid bigint OPTIONS (metadata 'xid')) SERVER up OPTIONS ("table" 't', publication 'p', slot 'crash_slot');
	CREATE SEQUENCE arrival;
	CREATE TABLE s (n bigint, id bigint, writer int, k int, pad text, op text, lsn pg_lsn, xid bigint) USING stream;
});

sub kill_worker
{
	my $pid = patiently($down, q{SELECT pid FROM penstock.stat_pipe WHERE pipe = 'p' AND pid IS NOT NULL});
	kill('KILL', $pid) if $pid;
	return;
}

sub kill_sender
{
	patiently($up, 'SELECT pg_terminate_backend(pid) FROM pg_stat_replication');
	return;
}

# a server that dies and comes back; its files are all that is left
sub crash
{
	my ($node) = @_;
	$node->stop('immediate', fail_ok => 1);
	$node->start;
	return;
}

# ---- the initial copy is interrupted ----

my @points = (
	[ 'worker', \&kill_worker ], [ 'sender and copier', sub { patiently($up, q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'penstock'}) } ],
	[ 'server', sub { crash($down) } ], [ 'upstream', sub { crash($up) } ],
	[ 'cut', sub { $proxy->cut; $proxy->pass } ], [ 'forgotten', sub { $proxy->forget } ]);

my $struck = 0;

# a transaction that runs there holds up the making of the slot
my $blocker = Penstock::Session->new($up);
$blocker->must('BEGIN; SELECT pg_current_xact_id()');
down(q{CALL penstock.create_pipe('p', 'INSERT INTO s SELECT nextval($$arrival$$), id, writer, k, pad, op, lsn, xid FROM t', batch_rows => 2000)});
up('CALL write(98, 10)');
for my $point (@points[ 0, 2, 4, 1, 5 ])
{
	ok($up->poll_query_until('postgres', q{SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'walsender' AND query ~ 'CREATE_REPLICATION_SLOT' AND state = 'active'}),
		'the slot is being made');
	$point->[1]->();
	$struck++;
	last unless defined patiently($up, 'SELECT 1');
}
$blocker->quit;
for my $round (0 .. 11)
{
	my $before = patiently($down, 'SELECT count(*) FROM s') || 0;
	# changes between the copies must not get lost or come twice either
	patiently($up, 'CALL write(99, 10)');
	my ($name, $code) = @{ $points[ $round % @points ] };
	my $end = time + 0.15 * (1 + int($round / 4)) + rand(0.3);
	1 while time < $end && defined patiently($down, 'SELECT 1');
	$code->();
	$struck++;
	last if $before >= 200000;
}
ok($down->poll_query_until('postgres', q{SELECT count(*) >= 200000 FROM s WHERE op = 'copy'}), "the copy arrives after $struck kills and cuts");
is(down(q{SELECT count(*) - count(DISTINCT id) FROM s WHERE op IN ('copy', 'insert')}), '0', 'no row twice, neither from the copy nor the changes');
is(down(q{SELECT count(DISTINCT id) FROM s WHERE id < 0}), '200000', 'and none missing');
is(down(q{SELECT count(*) FROM s WHERE op = 'copy' AND xid IS NOT NULL}), '0', 'copied rows have no transaction');
my $end_of_file = time + 60;
my @files = ('?');
while (@files && time < $end_of_file) { @files = glob($down->data_dir . '/penstock_copy/*'); patiently($up, 'CALL write(97, 1)'); }
is(scalar(@files), 0, 'its file is gone');

# ---- a copy that takes long, and one that is cut off ----

# the first row is given when nobody holds lock 1, another one in the middle when nobody holds lock 25000
up(q{
	CREATE TABLE slow (id int, pad text);
	INSERT INTO slow SELECT i, repeat('s', 100) FROM generate_series(1, 50000) i;
	CREATE PUBLICATION slow FOR TABLE slow;
	CREATE FUNCTION free(id int) RETURNS bool LANGUAGE plpgsql AS $$
	BEGIN
		IF id IN (1, 25000) THEN PERFORM pg_advisory_xact_lock_shared(id); END IF;
		RETURN true;
	END $$;
	CREATE POLICY free ON slow USING (free(id));
	ALTER TABLE slow ENABLE ROW LEVEL SECURITY;
	CREATE ROLE reader LOGIN REPLICATION;
	GRANT SELECT ON slow TO reader;
});
down(qq{
	CREATE SERVER reader FOREIGN DATA WRAPPER postgres_changes OPTIONS (host '127.0.0.1', port '$port', dbname 'postgres',
		receive_timeout '1 s', sender_timeout '1 s', connect_timeout '1');
	CREATE USER MAPPING FOR CURRENT_USER SERVER reader OPTIONS (user 'reader');
	CREATE FOREIGN TABLE slow (id int, pad text) SERVER reader OPTIONS ("table" 'slow', publication 'slow');
	CREATE TABLE got_slow (id int)});

# somebody who reads the table waits for a lock there, and has done so for some time
sub waits
{
	my ($lock, $time) = @_;
	return $up->poll_query_until('postgres', qq{SELECT count(*) > 0 FROM pg_locks JOIN pg_stat_activity USING (pid)
		WHERE objid = $lock AND locktype = 'advisory' AND NOT granted AND usename = 'reader' AND clock_timestamp() - waitstart > '$time'});
}

$blocker = Penstock::Session->new($up);
$blocker->must('SELECT pg_advisory_lock(1), pg_advisory_lock(25000)');
down(q{CALL penstock.create_pipe('slow', 'INSERT INTO got_slow SELECT id FROM slow')});

# CPU seconds that the worker has used
sub cpu
{
	my $pid = down(q{SELECT pid FROM penstock.stat_pipe WHERE pipe = 'slow'});
	my @fields = split ' ', (slurp_file("/proc/$pid/stat") =~ s/^.*\) //r);
	return ($fields[11] + $fields[12]) / 100;
}

ok(waits(1, '3 s'), 'a server that is at work before the first row is not taken for gone');
$blocker->must('SELECT pg_advisory_unlock(1)');
ok(waits(25000, '3 s'), 'nor one that is at work between two rows');
is(down(q{SELECT last_error FROM penstock.stat_pipe WHERE pipe = 'slow'}), '', 'neither is asked again');
cmp_ok(cpu(), '<', 1, 'no CPU burnt meanwhile');
$proxy->forget;
$blocker->quit;
ok($down->poll_query_until('postgres', 'SELECT count(*) = 50000 FROM got_slow'), 'a copy of which nothing comes any more is made again');
is(down('SELECT count(DISTINCT id) FROM got_slow'), '50000', 'each row once');

# those that were forgotten hold locks there still
$proxy->cut;
$proxy->pass;
$blocker = Penstock::Session->new($up);
$blocker->must('SELECT pg_advisory_lock(25000)');
my $reader = Penstock::Session->new($down);
$reader->send('SELECT count(*) FROM slow');
ok(waits(25000, '0 s'), 'a SELECT waits there');
$proxy->forget;
$blocker->quit;
$reader->receive;
like($reader->error, qr/server "reader" has been silent for/, 'it fails when nothing comes any more');
is($reader->must('SELECT count(*) FROM slow'), '50000', 'and works again');
$reader->quit;
down(q{CALL penstock.drop_pipe('slow')});

# ---- changes, while everything dies ----

my @writers = map {
	my $w = $_;
	my $pid = fork();
	if ($pid == 0)
	{
		open(STDERR, '>', '/dev/null');
		# never through END blocks, which would stop the servers
		local $SIG{PIPE} = 'IGNORE';
		local $SIG{$_} = sub { POSIX::_exit(0) } for qw(TERM INT HUP);
		my $rows = '';
		until ($rows =~ /^(\d+)$/ && $1 >= $last / 2)
		{
			my $sql = join('', map { "CALL write($w, " . (1 + int(rand(50))) . ");\n" } 1 .. 50) . "SELECT count(*) FROM t WHERE writer = $w";
			$rows = '';
			eval { IPC::Run::run([ 'psql', '-XAtq', '-d', $up->connstr('postgres'), '-f', '-' ], '<', \$sql, '>', \$rows, '2>', '/dev/null') };
		}
		POSIX::_exit(0);
	}
	$pid } 1 .. 2;

my $chaos = Penstock::Chaos->new(node => $down, proxy => $proxy, last => $last, broker => sub { crash($up) }, more => { sender => \&kill_sender },
	progress => q{SELECT count(*) FROM s WHERE writer IN (1, 2) AND op <> 'update'});
$chaos->run($kills);
waitpid($_, 0) for @writers;

# ---- the end: everything is there ----

my $rows = up('SELECT count(*) FROM t WHERE id > 0');
ok($down->poll_query_until('postgres', "SELECT count(*) >= $rows FROM s WHERE id > 0 AND op <> 'update'"), "$rows rows arrive")
	|| diag(down('SELECT count(DISTINCT id) FROM s WHERE id > 0'), down('SELECT state, last_error FROM penstock.stat_pipe'));
is(down(q{SELECT count(*) - count(DISTINCT id) FROM s WHERE op IN ('copy', 'insert')}), '0', 'none twice');
is(down(q{SELECT count(*) FROM s WHERE id > 0 AND op IN ('copy', 'insert')}), $rows, 'none too many');
is(down(q{SELECT count(*) FROM s WHERE pad = 'never'}), '0', 'nothing that rolled back');
my $updates = up(q{SELECT count(*) FROM t WHERE id > 0 AND pad = 'updated'});
is(down(q{SELECT count(*) FROM s WHERE op = 'update' OR (op = 'copy' AND pad = 'updated')}), $updates, 'each update once');
is(down(q{SELECT count(*) FROM (SELECT lsn, lag(lsn) OVER (ORDER BY n) AS before FROM s WHERE op <> 'copy') x WHERE lsn < before}), '0', 'transactions in the order of their commits');
is(down(q{SELECT count(*) FROM (SELECT op, k, lag(k) OVER (PARTITION BY xid ORDER BY n) AS before FROM s WHERE op <> 'copy') x WHERE CASE op WHEN 'insert' THEN k <> before + 1 ELSE k <> before END}), '0',
	'rows in the order of their transaction, none missing between');

$down->stop;
$up->stop;
done_testing();
