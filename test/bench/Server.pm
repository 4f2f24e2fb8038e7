# Server: the scratch server of the benchmark, sessions on it, and clocks.
package Server;

use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../perl";
use Penstock::Session;
use Time::HiRes qw(time sleep);

use constant PORT => 5432;

# new(class, bindir, scratch, setting ...)
sub new
{
	my ($class, $bin, $scratch, @settings) = @_;
	my $self = bless { bin => $bin, scratch => $scratch, data => "$scratch/data", owner => $$ }, $class;

	$ENV{PATH} = "$bin:$ENV{PATH}";
	shell("initdb -D $self->{data} -A trust -N -U postgres --locale=C.UTF-8 -E UTF8");
	open(my $conf, '>>', "$self->{data}/postgresql.conf") or die $!;
	print $conf "$_\n" for "listen_addresses = ''", "unix_socket_directories = '$scratch'", "shared_preload_libraries = 'penstock'", @settings;
	close $conf;
	shell("pg_ctl -D $self->{data} -w -t 120 -l $scratch/server.log start");
	return $self;
}

sub shell
{
	my ($command) = @_;
	my $output = `$command 2>&1 </dev/null`;
	die "$command: $output\n" if $?;
	return $output;
}

# what Penstock::Session asks of a node
sub connstr { return "host=$_[0]{scratch} port=" . PORT . " user=postgres dbname=$_[1]"; }
sub session { return Penstock::Session->new($_[0], $_[1] || 'postgres'); }

sub pgbench
{
	my ($self, $options) = @_;
	return shell("pgbench -h $self->{scratch} -p " . PORT . " -U postgres -n $options postgres");
}

sub stop
{
	my ($self) = @_;
	return if $self->{owner} != $$ || $self->{stopped}++;
	`pg_ctl -D $self->{data} -m fast -w -t 120 stop 2>&1 </dev/null`;
	return;
}

sub DESTROY { my ($self) = @_; local ($?, $@); $self->stop; return; }

# cpu(pid): seconds of CPU time that a process has used, 0 when it is gone.
sub cpu
{
	my ($pid) = @_;
	open(my $in, '<', "/proc/$pid/stat") or return 0;
	my $line = <$in>;
	$line =~ s/^.*\) //;
	my @field = split ' ', $line;
	return ($field[11] + $field[12]) / 100;
}

# own_memory(pid): bytes of memory that are not shared, now.
sub own_memory
{
	my ($pid) = @_;
	open(my $in, '<', "/proc/$pid/status") or return 0;
	while (my $line = <$in>) { return $1 * 1024 if $line =~ /^RssAnon:\s+(\d+)/; }
	return 0;
}

sub switches
{
	my ($pid) = @_;
	open(my $in, '<', "/proc/$pid/status") or return 0;
	while (my $line = <$in>) { return $1 if $line =~ /^voluntary_ctxt_switches:\s+(\d+)/; }
	return 0;
}

sub median
{
	my @sorted = sort { $a <=> $b } @_;
	my $middle = int(@sorted / 2);
	return 0 unless @sorted;
	return @sorted % 2 ? $sorted[$middle] : ($sorted[ $middle - 1 ] + $sorted[$middle]) / 2;
}

1;
