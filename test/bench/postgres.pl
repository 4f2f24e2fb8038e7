#!/usr/bin/perl
# postgres.pl BINDIR SCRATCH [--quick] [--runs N]: the PostgreSQL connector beside pg_recvlogical.  The server in BINDIR has penstock
# and penstock_postgres.  One line a figure, as in bench.pl.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin, "$FindBin::RealBin/../perl";
use Getopt::Long;
use Server;
use Time::HiRes qw(time);

$| = 1;
my ($bin, $scratch) = splice(@ARGV, 0, 2);
my %o = (runs => 5, seconds => 20, transactions => 50_000);
GetOptions(\%o, 'quick', 'runs=i') or die "unknown option\n";
if ($o{quick}) { %o = (%o, runs => 1, seconds => 5, transactions => 5_000); }

my @names = qw(up down);
mkdir "$scratch/$_" for @names;
my $up = Server->new($bin, "$scratch/up", 'wal_level = logical', 'max_wal_size = 8GB', 'max_replication_slots = 50', 'max_wal_senders = 20', 'autovacuum = off');
my $down = Server->new($bin, "$scratch/down", 'max_wal_size = 8GB', 'autovacuum = off');
my ($there, $here) = ($up->session, $down->session);

# The tables of TPC-B as one stream.
my $columns = 'aid int, bid int, tid int, abalance int, tbalance int, bbalance int, delta int, mtime timestamp';
my $names = join(', ', map { (split / /)[0] } split /, /, "$columns, op text, tab text, lsn pg_lsn");

$up->pgbench('-i -s 10 -q');
$there->must('ALTER TABLE pgbench_history REPLICA IDENTITY FULL; CREATE PUBLICATION b FOR TABLE pgbench_accounts, pgbench_tellers, pgbench_branches, pgbench_history');
$here->must("CREATE EXTENSION penstock; CREATE EXTENSION penstock_postgres;
	CREATE SERVER up FOREIGN DATA WRAPPER postgres_changes OPTIONS (host '$scratch/up', port '5432', dbname 'postgres');
	CREATE USER MAPPING FOR CURRENT_USER SERVER up OPTIONS (user 'postgres')");

# make_pipe(name, slot): reads from a slot that is there.
sub make_pipe
{
	my ($name, $slot) = @_;
	$here->must("CREATE FOREIGN TABLE c_$name ($columns, op text OPTIONS (metadata 'operation'), tab text OPTIONS (metadata 'table'), lsn pg_lsn OPTIONS (metadata 'commit_lsn'))
		SERVER up OPTIONS (publication 'b', slot '$slot', create_slot 'false')");
	$here->must("CREATE TABLE s_$name ($columns, op text, tab text, lsn pg_lsn) USING stream");
	$here->must("CALL penstock.create_pipe('$name', 'INSERT INTO s_$name SELECT $names FROM c_$name')");
	return;
}

sub worker { return $here->must("SELECT pid FROM penstock.stat_pipe WHERE pipe = '$_[0]'"); }

sub drop_pipe
{
	my ($name) = @_;
	$here->must("CALL penstock.drop_pipe('$name')");
	$here->must("DROP TABLE s_$name; DROP FOREIGN TABLE c_$name");
	return;
}

my ($reached, $short) = (0, 0);
sub figure
{
	my ($what, $ratio, $target, $measured) = @_;
	my ($sense, $limit) = $target =~ /^([<>]=)\s*([\d.]+)/;
	my $ok = $sense eq '>=' ? $ratio >= $limit : $ratio <= $limit;
	$ok ? $reached++ : $short++;
	printf "%-58s %8.2f %9s  %-5s  %s\n", $what, $ratio, $target, $ok ? 'ok' : 'short', $measured;
	return;
}

# ---- a backlog ----

$there->must(q{SELECT pg_create_logical_replication_slot('backlog', 'pgoutput')});
$up->pgbench("-c 4 -t " . int($o{transactions} / 4));
my $end = $there->must('SELECT pg_current_wal_flush_lsn()');
my (@ratios, @rates, @own);
for my $run (1 .. $o{runs})
{
	$there->must("SELECT pg_copy_logical_replication_slot('backlog', '$_$run')") for qw(reference pipe);
	my $start = time;
	Server::shell("pg_recvlogical -h $scratch/up -p 5432 -U postgres -d postgres -S reference$run --start -f /dev/null -o proto_version=1 -o publication_names=b --endpos $end --no-loop");
	my $reference = time - $start;

	$start = time;
	make_pipe("p$run", "pipe$run");
	$here->must("SELECT penstock.catch_up('p$run')");
	my $took = time - $start;
	my $rows = $here->must("SELECT count(*) FROM s_p$run");
	my $pid = worker("p$run");
	push @ratios, $reference / $took;
	push @rates, $rows / $took;
	push @own, [ Server::own_memory($pid) / 1048576, Server::cpu($pid) * 1e6 / $rows ];
	drop_pipe("p$run");
	$there->must("SELECT pg_drop_replication_slot('reference$run')");
	$there->must("SELECT pg_drop_replication_slot('pipe$run') FROM pg_replication_slots WHERE slot_name = 'pipe$run' AND NOT active");
}
figure('postgres: backlog of TPC-B changes, rate of pg_recvlogical', Server::median(@ratios), '>= 0.8',
	sprintf('%d rows a second, %.1f us of CPU a row', Server::median(@rates), Server::median(map { $_->[1] } @own)));
figure('postgres: memory of the worker, MB', Server::median(map { $_->[0] } @own), '<= 256', 'anonymous, after the backlog');
$there->must(q{SELECT pg_drop_replication_slot('backlog')});

# ---- keeping up ----

$there->must(q{SELECT pg_create_logical_replication_slot('live', 'pgoutput')});
make_pipe('live', 'live');
my $start = time;
my $output = $up->pgbench("-c 4 -T $o{seconds}");
my $wrote = time - $start;
$here->must(q{SELECT penstock.catch_up('live')});
my $behind = time - $start - $wrote;
my ($tps) = $output =~ /^tps = ([\d.]+)/m;
figure('postgres: TPC-B upstream at full rate, behind at its end, s', $behind, '<= 1', sprintf('%d transactions a second for %d s', $tps, $o{seconds}));
drop_pipe('live');

print "\n$reached reached, $short short\n";
$_->quit for $there, $here;
$_->stop for $up, $down;
