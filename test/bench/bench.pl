#!/usr/bin/perl
# bench.pl BINDIR SCRATCH [options]: see test/bench/run.  One line a figure: the ratio first, then
# its target and whether it is reached, then what was measured.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin, "$FindBin::RealBin/../perl";
use Getopt::Long;
use Cases;
use ClaimCases;
use Server;

$| = 1;
my ($bin, $scratch) = splice(@ARGV, 0, 2);
my %o = (events => 5_000_000, runs => 5, seconds => 20);
GetOptions(\%o, 'quick', 'full', 'events=i', 'runs=i', 'only=s', 'list') or die "unknown option\n";
if ($o{quick}) { $o{events} = 300_000; $o{runs} = 1; $o{seconds} = 3; }
$o{backlog} = $o{full} ? 50_000_000 : $o{events};
if ($o{list}) { print map { "$_->[0]: $_->[1]\n" } Cases::all(), ClaimCases::all(); exit; }
my %only = map { $_ => 1 } split /,/, $o{only} || '';

my $server = Server->new($bin, $scratch, 'shared_buffers = 1GB', 'max_wal_size = 8GB', 'checkpoint_timeout = 30min',
	'maintenance_work_mem = 256MB', 'max_connections = 40', 'autovacuum = off', 'fsync = on', 'synchronous_commit = on');
my $cases = Cases->new($server, \%o);
my ($reached, $short) = (0, 0);

printf "%d events, median of %d runs, durable settings, %s, %d processors\n\n", $o{events}, $o{runs},
	(split /\n/, $cases->{db}->must('SHOW server_version'))[0], scalar(grep { /^processor/ } do { open(my $in, '<', '/proc/cpuinfo') or die; <$in> });
printf "%-58s %8s %9s  %-5s  %s\n", 'what', 'ratio', 'target', '', 'measured';
for my $case (Cases::all(), ClaimCases::all())
{
	my ($name, $title, $code) = @$case;
	next if %only && !$only{$name};
	my @rows = eval { $code->($cases) };
	if ($@) { chomp(my $why = $@); $why =~ s/\n.*//s; printf "%-58s %8s %9s  %-5s  %s\n", $title, '-', '', 'error', $why; $short++; next; }
	for my $row (@rows)
	{
		my ($what, $ratio, $target, $measured) = @$row;
		my ($sense, $limit) = $target =~ /^([<>]=)\s*([\d.]+)/;
		my $ok = $sense eq '>=' ? $ratio >= $limit : $ratio <= $limit;
		$ok ? $reached++ : $short++;
		printf "%-58s %8.2f %9s  %-5s  %s\n", $what, $ratio, $target, $ok ? 'ok' : 'short', $measured;
	}
}
print "\n$reached reached, $short short\n";
$server->stop;
