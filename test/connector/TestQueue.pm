# TestQueue: the tests' side of the connector penstock_testqueue: builds it, makes servers over a directory, plays the broker.
package TestQueue;

use strict;
use warnings;
use Cwd 'abs_path';
use Exporter 'import';
use File::Basename;
use Test::More ();
use Time::HiRes qw(time);

our @EXPORT = qw(wait_until);

# new(class, node, database): builds and installs the connector, creates the extension in the database, and servers over one new
# directory: tq (with offsets), tqa (with acknowledgements), tqr (rows).
my $built;
my $made = 0;
sub new
{
	my ($class, $node, $database) = @_;
	my $folder = dirname(abs_path(__FILE__));
	my $pg_config = $ENV{PG_CONFIG} || 'pg_config';
	my $self = bless { node => $node, database => $database || 'postgres', dir => $node->basedir . '/queues' . $made++ }, $class;

	$built ||= !system("make -s -C '$folder' PG_CONFIG='$pg_config' all install >&2");
	die "penstock_testqueue cannot be built\n" unless $built;
	mkdir $self->{dir} or die "$self->{dir}: $!";
	$self->sql('CREATE EXTENSION penstock_testqueue;'
		. join('', map { "CREATE SERVER $_->[0] FOREIGN DATA WRAPPER $_->[1] OPTIONS (directory '$self->{dir}', log_calls 'true');" }
			[ tq => 'testqueue' ], [ tqa => 'testqueue_ack' ], [ tqr => 'testqueue_rows' ]));
	return $self;
}

# sql(statements): what they give.  An error is a failed test, and the file goes on with what it says; within an eval, it dies.
sub sql
{
	my ($self, $sql) = @_;
	my ($out, $err);
	return $self->{node}->safe_psql($self->{database}, $sql) if $^S;
	$self->{node}->psql($self->{database}, $sql, stdout => \$out, stderr => \$err) == 0 and return $out;
	Test::More::fail('no error');
	Test::More::diag("$err\nin: $sql\nat ", join(':', (caller(1))[ 1, 2 ]));
	return $err;
}

sub dir { return $_[0]{dir}; }

# append(queue, from, to, template, extra): one message for each number; %s of the template, which is a format(), is the
# number, and so is i in what else is given to testqueue.append (", id => i::text").
sub append
{
	my ($self, $queue, $from, $to, $template, $extra) = @_;
	$template //= '{"n": %s}';
	$extra //= '';
	return $self->sql("SELECT count(testqueue.append('tq', '$queue', format('$template', i)$extra)) FROM generate_series($from, $to) i");
}

# faults(line ...): these happen from now on; none: no more.
sub faults
{
	my ($self, @lines) = @_;
	return $self->sql("SELECT testqueue.set_faults('tq', E'" . join('\n', @lines) . "')");
}

# What is left of the faults, without asking the server.
sub faults_left
{
	my ($self) = @_;
	open(my $in, '<', "$self->{dir}/faults") or return '';
	local $/;
	return <$in> // '';
}

# ends faults without asking the server, which may be down.
sub end_faults
{
	my ($self) = @_;
	open(my $out, '>', "$self->{dir}/faults") or die $!;
	close $out;
	return;
}

# calls(callback, queue): the times at which it was called, in seconds.
sub calls
{
	my ($self, $callback, $queue) = @_;
	open(my $in, '<', "$self->{dir}/state/calls") or return ();
	my @times;
	while (my $line = <$in>)
	{
		my ($time, undef, $what, $of) = split ' ', $line;
		push @times, $time / 1e6 if $what eq $callback && (!defined $queue || $queue eq $of);
	}
	return @times;
}

# count(queue, state): messages in the queue, of that state if it is given.
sub count
{
	my ($self, $queue, $state) = @_;
	return $self->sql("SELECT count(*) FROM testqueue.messages('tq', '$queue')" . (defined $state ? " WHERE state = '$state'" : ''));
}

# true(query): waits until it gives true.
sub true
{
	my ($self, $query) = @_;
	return $self->{node}->poll_query_until($self->{database}, "SELECT coalesce(($query), false)");
}

# is_running(pipe) ...: what stat_pipe says of a pipe.
sub state
{
	my ($self, $pipe) = @_;
	return $self->sql("SELECT state FROM penstock.stat_pipe WHERE pipe = '$pipe'");
}

sub error
{
	my ($self, $pipe) = @_;
	return $self->sql("SELECT last_error FROM penstock.stat_pipe WHERE pipe = '$pipe'");
}

# letters(pipe): its dead letters, a line each: offset|statement|column|sqlstate|payload.
sub letters
{
	my ($self, $pipe) = @_;
	return $self->sql(q{SELECT "offset", statement, column_name, sqlstate, convert_from(payload, 'UTF8') FROM penstock.dead_letter}
		. " WHERE pipe_name = '$pipe' ORDER BY partition, \"offset\", id");
}

# fails(sql): what it says when it fails, "" if it does not.
sub fails
{
	my ($self, $sql, @options) = @_;
	my ($out, $err);
	my $rc = $self->{node}->psql($self->{database}, $sql, stdout => \$out, stderr => \$err, timeout => 60, @options);
	return $rc == 0 ? '' : $err;
}

# wait_until(seconds, sub): until the sub returns something true, which is returned.
sub wait_until
{
	my ($seconds, $sub) = @_;
	my $end = time + $seconds;

	for (;;)
	{
		my $result = eval { $sub->() };
		return $result if $result;
		return if time > $end;
		select(undef, undef, undef, 0.02);
	}
}

1;
