# Penstock::Chaos: kills and cuts off everything that a pipe consists of, at random, while numbered messages go through it.
#
#	my $chaos = Penstock::Chaos->new(node => $node, proxy => $proxy, broker => sub { ... }, last => 60000,
#		progress => 'SELECT count(*) FROM sink', more => { name => sub { ... } });
#	$chaos->run(8);
#	note($chaos->figures);
#
# progress: SQL that gives how many of last have arrived; broker: kills the broker with signal 9 and starts it again; more: further
# kinds of trouble.  Pipes reach the broker through the proxy (Proxy.pm).  Kill i of n comes when i / (n + 1) of all have arrived, so
# all of them come while something is left to do, and each run goes on only if the pipes have recovered from what was before.
package Penstock::Chaos;

use strict;
use warnings;
use List::Util 'shuffle';
use Penstock::Test;
use Test::More;
use Time::HiRes qw(time sleep);

# Seconds that the pipes may take to get on.
use constant PATIENCE => 120;

sub new
{
	my ($class, %options) = @_;
	my $seed = $ENV{PENSTOCK_SEED} || int(time) % 100000;
	my $self = bless { %options, seed => $seed, count => {}, deck => [] }, $class;

	srand($seed);
	note("PENSTOCK_SEED=$seed");
	$self->{kinds} = {
		worker => sub { $self->kill_worker },
		server => sub { $self->kill_server },
		broker => $options{broker},
		cut => sub { $self->{proxy}->cut; $self->stay; $self->{proxy}->pass; },
		pause => sub { $self->{proxy}->silence; $self->stay; $self->{proxy}->pass; },
		silence => sub { $self->silence },
		forgotten => sub { $self->{proxy}->forget },
		%{ $options{more} || {} } };
	return $self;
}

# run(n): so many times.
sub run
{
	my ($self, $n) = @_;
	my $before = 'nothing';

	$self->{began} = time;
	for my $i (1 .. $n)
	{
		my $goal = int($self->{last} * $i / ($n + 1));

		# each kind once before any comes again
		$self->{deck} = [ shuffle(sort keys %{ $self->{kinds} }) ] unless @{ $self->{deck} };
		$self->until_true("SELECT ($self->{progress}) >= $goal") or return $self->fail_to("the pipes go on after: $before");
		$before = shift @{ $self->{deck} };
		$self->{count}{$before}++;
		$self->{kinds}{$before}->();
		# a killed process makes the postmaster start everything anew
		$self->until_true('SELECT true') or return $self->fail_to("the server answers after: $before");
	}
	$self->until_true("SELECT ($self->{progress}) >= $self->{last}") or return $self->fail_to("all arrive after: $before");
	return pass("all $self->{last} arrive after " . $self->figures);
}

sub fail_to
{
	my ($self, $what) = @_;
	my ($out, $pipes) = ('', '');

	fail($what);
	$self->{node}->psql('postgres', $self->{progress}, stdout => \$out);
	$self->{node}->psql('postgres', 'SELECT pipe, state, retries, last_error FROM penstock.stat_pipe', stdout => \$pipes);
	diag("$out of $self->{last} after " . $self->figures . "\n$pipes");
	return 0;
}

# figures(): what was done so far, and how long it took.
sub figures
{
	my ($self) = @_;
	my $count = $self->{count};
	my $sum = 0;

	$sum += $_ for values %$count;
	return sprintf('%d kills and cuts in %d s (%s)', $sum, time - $self->{began}, join(', ', map { "$_ $count->{$_}" } sort keys %$count));
}

# until_true(query, seconds): polls through restarts of the server.
sub until_true
{
	my ($self, $query, $seconds) = @_;
	my $end = time + ($seconds || PATIENCE);

	while (time < $end)
	{
		my ($answer, $errors, $began) = ('', '', time);
		return 1 if $self->{node}->psql('postgres', $query, stdout => \$answer, stderr => \$errors, timeout => 30) == 0 && $answer eq 't';
		# counting rows must not take the machine from what is tested
		sleep(0.05 + time - $began);
	}
	return 0;
}

# stay(): how long a cut lasts.
sub stay { return sleep(0.1 + rand(2)); }

sub kill_worker
{
	my ($self) = @_;
	my $pid = '';

	$self->{node}->psql('postgres', 'SELECT pid FROM penstock.stat_pipe WHERE pid IS NOT NULL ORDER BY random() LIMIT 1', stdout => \$pid);
	return $pid && kill('KILL', $pid);
}

# Half of the time its postmaster with signal 9, and its processes end when they notice.
sub kill_server
{
	my ($self) = @_;
	my $node = $self->{node};
	my $end = time + 60;

	if (rand() < 0.5) { $node->stop('immediate'); }
	else { $node->kill9; }
	until ($node->start(fail_ok => 1))
	{
		die "the server does not start\n" if time > $end;
		$node->{_pid} = undef;		# what a stale postmaster.pid made it believe
		sleep(0.1);
	}
	return;
}

# The broker can still be reached and says nothing, until a pipe has noticed.
sub silence
{
	my ($self) = @_;
	my $waiting = q{SELECT last_error FROM penstock.stat_pipe WHERE state = 'waiting for the source'};
	my ($began, $words) = (time, '');

	ok($self->until_true(q{SELECT count(*) FILTER (WHERE state <> 'running') = 0 FROM penstock.stat_pipe}), 'all pipes run');
	$began = time;
	$self->{proxy}->silence;
	ok($self->until_true("SELECT EXISTS ($waiting)", 60), 'silence is noticed');
	$self->{node}->psql('postgres', $waiting, stdout => \$words);
	note(sprintf('after %.1f s: %s', time - $began, $words));
	return $self->{proxy}->pass;
}

1;
