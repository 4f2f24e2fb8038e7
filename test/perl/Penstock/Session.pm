# Penstock::Session: a psql that stays open, for tests that need several sessions at once.
package Penstock::Session;

use strict;
use warnings;
use IO::Handle;
use IPC::Open2;
use Time::HiRes qw(time);

# new(class, node, database, option ...): connects; the options are psql's.
sub new
{
	my ($class, $node, $database, @options) = @_;
	my ($out, $in);
	my $self = bless { marks => 0, pending => 0, buffer => '', error => '' }, $class;

	{
		open(my $stderr, '>&', \*STDERR) or die $!;
		open(STDERR, '>&', \*STDOUT) or die $!;
		open(my $stdout, '>&', \*STDOUT) or die $!;
		$self->{pid} = open2($out, $in, 'sh', '-c', 'exec "$@" 2>&1', 'sh', 'psql', '-XAtq',
			@options, '-d', $node->connstr($database || 'postgres'));
		open(STDERR, '>&', $stderr) or die $!;
	}
	$in->autoflush(1);
	@$self{qw(in out)} = ($in, $out);
	return $self;
}

# send(sql): starts it and does not wait.
sub send
{
	my ($self, $sql) = @_;
	local $SIG{PIPE} = 'IGNORE';
	my $mark = '#' . ++$self->{marks} . '#';

	$self->{pending}++;
	# after the data of a COPY an empty statement would make psql say the COPY again
	my $end = $sql =~ /^\\\.\z/m ? '' : ";\n";
	return print { $self->{in} } "$sql\n$end\\echo $mark\n";
}

# receive(seconds): what the oldest statement sent printed; undef when the session has died
# or time is up.  Errors are in error().
sub receive
{
	my ($self, $seconds) = @_;
	my $end = time + ($seconds || 180);
	my $mark = '#' . ($self->{marks} - $self->{pending} + 1) . "#\n";

	while ((my $at = index($self->{buffer}, $mark)) < 0)
	{
		my $ready = '';
		vec($ready, fileno($self->{out}), 1) = 1;
		my $left = $end - time;
		return if $left <= 0 || !select($ready, undef, undef, $left);
		next if sysread($self->{out}, $self->{buffer}, 65536, length $self->{buffer});
		$self->{ended} = 1;
		return;
	}
	$self->{pending}--;
	my ($text, $rest) = split /\Q$mark\E/, $self->{buffer}, 2;
	$self->{buffer} = $rest;
	$self->{error} = join("\n", grep { /^(ERROR|FATAL|PANIC|server closed|psql: error|connection to server)/ } split /\n/, $text);
	chomp $text;
	return $text;
}

# query(sql): both; the result, rows as lines.
sub query
{
	my ($self, $sql, $seconds) = @_;
	return unless $self->send($sql);
	return $self->receive($seconds);
}

# must(sql): the same, and dies on any error.
sub must
{
	my ($self, $sql, $seconds) = @_;
	my $result = $self->query($sql, $seconds);
	die "no answer to: $sql\n$self->{buffer}\n" unless defined $result;
	die "$self->{error}\nin: $sql\n" if $self->{error};
	return $result;
}

sub error { return $_[0]{error}; }
sub pid { return $_[0]{pid}; }

# quit(): ends the session and its process.
sub quit
{
	my ($self) = @_;
	return unless $self->{pid};
	close $self->{in};
	close $self->{out};
	waitpid($self->{pid}, 0);
	delete $self->{pid};
	return;
}

sub DESTROY
{
	my ($self) = @_;
	local ($?, $@);
	$self->quit;
	return;
}

1;
