# The PostgreSQL connector at its limits: a transaction of a million rows, a target that stands still, a server that falls silent, TLS.
use strict;
use warnings;
use Penstock::Test;
use Penstock::Session;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

use constant MEGABYTE => 1024 * 1024;

my $rows = $ENV{PENSTOCK_BIG_ROWS} || 1_000_000;
my $up = PostgreSQL::Test::Cluster->new('limits_up');
$up->init(allows_streaming => 'logical', extra => [ '--locale=C', '--encoding=UTF8' ]);
$up->append_conf('postgresql.conf', "logical_decoding_work_mem = '4MB'\nmax_wal_size = '4GB'");
$up->start;
my $down = penstock_node('limits_down', 'autovacuum = off', 'wal_level = logical', "max_wal_size = '4GB'");

sub up { return $up->safe_psql('postgres', $_[0]); }
sub down { return $down->safe_psql('postgres', $_[0]); }
sub shows { my ($sql, $expected, $what) = @_; return ok($down->poll_query_until('postgres', $sql, $expected), $what) || diag(down('SELECT pipe, state, last_error FROM penstock.stat_pipe')); }
sub worker { return down("SELECT pid FROM penstock.stat_pipe WHERE pipe = '$_[0]'"); }

sub own_memory
{
	my ($pid) = @_;
	open(my $in, '<', "/proc/$pid/status") or return 0;
	while (my $line = <$in>) { return $1 * 1024 if $line =~ /^RssAnon:\s+(\d+)/; }
	return 0;
}

# most_memory(pid, sql, expected): the most that the process had until the query gave what is expected.
sub most_memory
{
	my ($pid, $sql, $expected) = @_;
	my ($most, $end) = (0, time + 170);
	while (time < $end)
	{
		my $now = own_memory($pid);
		$most = $now if $now > $most;
		return $most if down($sql) eq $expected;
	}
	return 1e12;
}

sub says
{
	my ($pipe, $text, $what) = @_;
	my ($end, $last) = (time + 60, '');
	while (time < $end)
	{
		$last = down("SELECT coalesce(last_error, '') FROM penstock.stat_pipe WHERE pipe = '$pipe'");
		return pass($what) if $last =~ $text;
	}
	fail($what);
	return diag($last);
}

my $user = getpwuid($<);
my ($host, $port) = ($up->host, $up->port);
up('CREATE TABLE t (id bigint, pad text); CREATE PUBLICATION p FOR TABLE t; CREATE TABLE u (id bigint, pad text); CREATE PUBLICATION q FOR TABLE u');
down(qq{
	CREATE EXTENSION penstock_postgres;
	CREATE SERVER up FOREIGN DATA WRAPPER postgres_changes OPTIONS (host '$host', port '$port', dbname 'postgres', status_interval '500 ms', receive_timeout '4 s', sender_timeout '2 s');
	CREATE USER MAPPING FOR CURRENT_USER SERVER up OPTIONS (user '$user');
	CREATE FOREIGN TABLE t (id bigint, pad text, op text OPTIONS (metadata 'operation')) SERVER up OPTIONS ("table" 't', publication 'p');
	CREATE FOREIGN TABLE u (id bigint, pad text) SERVER up OPTIONS ("table" 'u', publication 'q', streaming 'false');
	CREATE TABLE s (id bigint, pad text, op text) USING stream;
	CREATE TABLE su (id bigint, pad text);
	CALL penstock.create_pipe('t', 'INSERT INTO s SELECT id, pad, op FROM t');
	CALL penstock.create_pipe('u', 'INSERT INTO su SELECT id, pad FROM u', batch_rows => 1000);
});
down(q{SELECT penstock.catch_up('t', '60 s'), penstock.catch_up('u', '60 s')});

# ---- a big transaction ----

my $pid = worker('t');
up("INSERT INTO t SELECT i, repeat('x', 60) FROM generate_series(1, $rows) i");
my $most = most_memory($pid, 'SELECT count(*) FROM s', $rows);
cmp_ok($most, '<', 128 * MEGABYTE, sprintf('a transaction of %d rows, streamed: the worker had %d MB', $rows, $most / MEGABYTE));
is(down('SELECT count(DISTINCT id), sum(id) FROM s'), "$rows|" . $rows * ($rows + 1) / 2, 'every row once');
cmp_ok(up('SELECT stream_bytes FROM pg_stat_replication_slots WHERE stream_txns > 0'), '>', $rows * 60, 'it was streamed');
ok($up->poll_query_until('postgres', 'SELECT count(*) = 2 FROM pg_replication_slots WHERE active'), 'both slots are active');

# ---- the target stands still ----

my $lock = Penstock::Session->new($down);
$lock->must('BEGIN; LOCK su');
$pid = worker('u');
up('INSERT INTO u SELECT 0, repeat($$x$$, 60)');
ok($down->poll_query_until('postgres', "SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE pid = $pid"), 'the target is locked');
my $before = own_memory($pid);
up('INSERT INTO u SELECT i, repeat($$x$$, 60) FROM generate_series(1, ' . $rows / 2 . ') i');
cmp_ok(own_memory($pid) - $before, '<', 16 * MEGABYTE, 'the memory of the worker stays as it was');
is(up('SELECT confirmed_flush_lsn < pg_current_wal_lsn() FROM pg_replication_slots WHERE slot_name = (SELECT min(slot_name) FROM pg_replication_slots)'), 't', 'the server keeps the changes');
$lock->must('ROLLBACK');
$most = most_memory($pid, 'SELECT count(*) FROM su', $rows / 2 + 1);
cmp_ok($most, '<', 128 * MEGABYTE, sprintf('then they come, not streamed: the worker had %d MB', $most / MEGABYTE));
$lock->quit;

# ---- a server that says nothing ----

my $sender = up('SELECT min(active_pid) FROM pg_replication_slots');
kill('STOP', $sender);
my $end = time + 60;
my $errors = '';
while (time < $end && $errors !~ /silent/) { $errors = down(q{SELECT string_agg(coalesce(last_error, ''), ' ') FROM penstock.stat_pipe}); }
like($errors, qr/has been silent for|is in use by/, 'a server that does not answer any more is taken for gone');
kill('CONT', $sender);
up("INSERT INTO t VALUES (-1, 'after')");
up("INSERT INTO u VALUES (-1, 'after')");
shows(q{SELECT (SELECT count(*) FROM s WHERE id = -1) + (SELECT count(*) FROM su WHERE id = -1)}, '2', 'and is found again');

# ---- catch_up ----

for my $i (1 .. 20)
{
	up("INSERT INTO t VALUES (-1000 - $i, 'now')");
	down(q{SELECT penstock.catch_up('t', '60 s')});
	my $there = down('SELECT count(*) FROM s WHERE id < -1000');
	is($there, $i, 'catch_up waits for what was committed before it') if $there != $i || $i == 20;
}

# ---- a table of the same server and database ----

down(qq{CREATE TABLE here (id int PRIMARY KEY, v text);
	INSERT INTO here SELECT i, 'v' FROM generate_series(1, 1000) i});
down(qq{
	CREATE SERVER myself FOREIGN DATA WRAPPER postgres_changes OPTIONS (host '@{[$down->host]}', port '@{[$down->port]}', dbname 'postgres', status_interval '500 ms');
	CREATE USER MAPPING FOR CURRENT_USER SERVER myself OPTIONS (user '$user');
	CREATE FOREIGN TABLE here_changes (id int, v text, op text OPTIONS (metadata 'operation')) SERVER myself OPTIONS ("table" 'here', create_publication 'true');
	CREATE TABLE here_s (id int, v text, op text) USING stream;
	CALL penstock.create_pipe('myself', 'INSERT INTO here_s SELECT id, v, op FROM here_changes')});
shows('SELECT count(*) FROM here_s', '1000', 'the copy of a table of the same database');
down(q{BEGIN; UPDATE here SET v = 'w' WHERE id <= 10; DELETE FROM here WHERE id = 1; COMMIT});
down(q{SELECT penstock.catch_up('myself', '60 s')});
is(down(q{SELECT string_agg(op || ' ' || n, ', ' ORDER BY op) FROM (SELECT op, count(*) AS n FROM here_s GROUP BY op) x}), 'copy 1000, delete 1, update 10', 'and its changes');
down(q{SELECT penstock.catch_up('myself', '60 s')});
my $position = down('SELECT pg_current_wal_insert_lsn()');
down(q{SELECT penstock.catch_up('myself', '60 s')}) for 1 .. 5;
cmp_ok(down("SELECT pg_current_wal_insert_lsn() - '$position'"), '<', 20000, 'it does not keep itself busy');

# ---- TLS ----

SKIP:
{
	my $folder = PostgreSQL::Test::Utils::tempdir();
	my $make = sub {
		my ($name, $signer, @more) = @_;
		my @sign = $signer ? ('-CA', "$folder/$signer.crt", '-CAkey', "$folder/$signer.key", '-CAcreateserial') : ();
		my $subject = $name eq 'ca' || $name eq 'other' ? "/CN=$name" : '/CN=localhost';
		return 0 if system("openssl req -new -nodes -newkey rsa:2048 -subj $subject -keyout $folder/$name.key -out $folder/$name.csr >/dev/null 2>&1");
		my $how = $signer ? "@sign" : "-signkey $folder/$name.key";
		return system("openssl x509 -req -in $folder/$name.csr $how @more -out $folder/$name.crt >/dev/null 2>&1") == 0;
	};
	skip('no openssl here', 4) unless $make->('ca', undef, '-days 10') && $make->('other', undef, '-days 10') && $make->('good', 'ca', '-days 10') && $make->('expired', 'ca', '-days -1');
	skip('the server has no TLS', 4) unless up(q{SELECT setting FROM pg_config() WHERE name = 'CONFIGURE'}) =~ /openssl|ssl=/;
	chmod(0600, "$folder/good.key", "$folder/expired.key");
	my $use = sub {
		my ($name) = @_;
		$up->append_conf('postgresql.conf', "listen_addresses = '127.0.0.1'\nport = " . $up->port . "\nssl = on\nssl_cert_file = '$folder/$name.crt'\nssl_key_file = '$folder/$name.key'");
		return $up->restart;
	};
	$up->append_conf('pg_hba.conf', 'hostssl all all 127.0.0.1/32 trust');
	$use->('good');
	my $tls = sub {
		my ($server, $ca) = @_;
		return down(qq{CREATE SERVER $server FOREIGN DATA WRAPPER postgres_changes OPTIONS (host 'localhost', hostaddr '127.0.0.1', port '$port', dbname 'postgres', sslmode 'verify-full', sslrootcert '$folder/$ca.crt');
			CREATE USER MAPPING FOR CURRENT_USER SERVER $server OPTIONS (user '$user');
			CREATE FOREIGN TABLE $server (id bigint) SERVER $server OPTIONS ("table" 't', publication 'p', copy 'false');
			CREATE TABLE s_$server (id bigint) USING stream;
			CALL penstock.create_pipe('$server', 'INSERT INTO s_$server SELECT id FROM $server')});
	};
	$tls->('tls_good', 'ca');
	$tls->('tls_wrong', 'other');
	down(q{SELECT penstock.catch_up('tls_good', '60 s')});
	up('INSERT INTO t VALUES (-2000)');
	shows('SELECT count(*) FROM s_tls_good', '1', 'TLS with a certificate that is checked');
	is(up(q{SELECT bool_or(ssl) FROM pg_stat_replication JOIN pg_stat_ssl USING (pid)}), 't', 'the connection is encrypted');
	says('tls_wrong', qr/tls_wrong.*certificate verify failed/, 'a certificate that somebody else has signed');
	$use->('expired');
	says('tls_good', qr/tls_good.*certificate verify failed/, 'a certificate that has expired');
}

$down->stop;
$up->stop;
done_testing();
