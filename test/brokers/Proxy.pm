# Proxy: a TCP proxy on 127.0.0.1 in front of a broker, which cuts the broker off when it is told to.
#
#	my $proxy = Proxy->start($broker->port);
#	$proxy->port;		# where clients connect to
#	$proxy->cut;		# closes all connections and refuses new ones
#	$proxy->silence;	# passes no byte, of old connections and new ones, and closes none
#	$proxy->forget;		# passes no byte of the connections there are, ever again; new ones work
#	$proxy->pass;		# works again; what was silent goes on, unless it was forgotten
#
# Each has happened when it returns.
package Proxy;

use strict;
use warnings;
use IO::Select;
use IO::Socket::INET;
use POSIX ();
use Socket;

# What is read at once, and the most that waits for a side that does not take it.
use constant SIZE => 65536;

# start(class, port): in front of that port of 127.0.0.1, in a process of its own, which ends with the test.
sub start
{
	my ($class, $to) = @_;
	my $self = bless { to => $to, owner => $$ }, $class;

	$self->{listener} = $self->listen_on(0);
	$self->{port} = $self->{listener}->sockport;
	socketpair($self->{control}, my $other, AF_UNIX, SOCK_STREAM, PF_UNSPEC) or die "socketpair: $!";
	$self->{pid} = fork // die "fork: $!";
	if ($self->{pid} == 0)
	{
		setpgrp(0, 0);
		$SIG{PIPE} = 'IGNORE';
		close($self->{control});
		$self->{control} = $other;
		eval { $self->serve; 1 } or warn "proxy: $@";
		POSIX::_exit(0);
	}
	close($other);
	close(delete $self->{listener});
	return $self;
}

sub port { return $_[0]{port}; }

sub cut { return $_[0]->tell('c'); }
sub silence { return $_[0]->tell('s'); }
sub forget { return $_[0]->tell('f'); }
sub pass { return $_[0]->tell('p'); }

# tell(what): one letter; waits for the answer.
sub tell
{
	my ($self, $what) = @_;

	syswrite($self->{control}, $what) == 1 && sysread($self->{control}, my $answer, 1) == 1 or die "the proxy has gone\n";
	return;
}

sub DESTROY
{
	my ($self) = @_;
	local ($?, $!);
	return if $$ != $self->{owner} || !$self->{pid};
	close($self->{control});
	waitpid(delete $self->{pid}, 0);
	return;
}

# ---- the process ----

sub listen_on
{
	my ($self, $port) = @_;
	return IO::Socket::INET->new(LocalAddr => '127.0.0.1', LocalPort => $port, Listen => 50, ReuseAddr => 1, Proto => 'tcp')
	  || die "no port for the proxy: $@";
}

# A side of a connection: its socket, the other side, what waits to be written to it, and whether it has been forgotten.
sub serve
{
	my ($self) = @_;

	@$self{qw(sides silent)} = ({}, 0);
	for (;;)
	{
		my ($readers, $writers) = $self->interests;
		my ($readable, $writable) = IO::Select->select($readers, $writers, undef, undef);

		for my $socket (@{ $writable || [] }) { $self->write_to($socket) if $self->{sides}{ fileno($socket) // -1 }; }
		for my $socket (@{ $readable || [] })
		{
			if ($socket == $self->{control}) { $self->obey or return; }
			elsif ($self->{listener} && $socket == $self->{listener}) { $self->take_connection; }
			elsif ($self->{sides}{ fileno($socket) // -1 }) { $self->read_from($socket); }
		}
	}
	return;
}

# What to wait for.  While it is silent, the kernel accepts for it.
sub interests
{
	my ($self) = @_;
	my $readers = IO::Select->new($self->{control});
	my $writers = IO::Select->new;

	return ($readers, $writers) if $self->{silent};
	$readers->add($self->{listener}) if $self->{listener};
	for my $side (grep { !$_->{forgotten} } values %{ $self->{sides} })
	{
		my $other = $self->{sides}{ $side->{other} };

		$readers->add($side->{socket}) if !$side->{ended} && length($other->{waiting}) < SIZE;
		$writers->add($side->{socket}) if length $side->{waiting};
	}
	return ($readers, $writers);
}

sub obey
{
	my ($self) = @_;
	my $got = sysread($self->{control}, my $what, 1);

	return 0 unless $got;
	if ($what eq 'c')
	{
		close(delete $self->{listener}) if $self->{listener};
		$self->drop($_) for keys %{ $self->{sides} };
	}
	$_->{forgotten} = 1 for $what eq 'f' ? values %{ $self->{sides} } : ();
	$self->{silent} = $what eq 's';
	$self->{listener} ||= $self->listen_on($self->{port}) if $what ne 'c';
	return syswrite($self->{control}, $what);
}

sub take_connection
{
	my ($self) = @_;
	my $client = $self->{listener}->accept or return;
	my $broker = IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $self->{to}, Proto => 'tcp');

	return close($client) unless $broker;
	for my $pair ([ $client, $broker ], [ $broker, $client ])
	{
		$pair->[0]->blocking(0);
		setsockopt($pair->[0], Socket::IPPROTO_TCP, Socket::TCP_NODELAY, 1);
		$self->{sides}{ fileno($pair->[0]) } = { socket => $pair->[0], other => fileno($pair->[1]), waiting => '' };
	}
	return;
}

sub read_from
{
	my ($self, $socket) = @_;
	my $side = $self->{sides}{ fileno($socket) };
	my $other = $self->{sides}{ $side->{other} };
	my $got = sysread($socket, $other->{waiting}, SIZE, length $other->{waiting});

	return if !defined $got && $!{EAGAIN};
	return $self->drop(fileno($socket)) unless defined $got;
	if ($got == 0)
	{
		$side->{ended} = 1;
		return $self->end_if_done($other);
	}
	return $self->write_to($other->{socket});
}

sub write_to
{
	my ($self, $socket) = @_;
	my $side = $self->{sides}{ fileno($socket) };
	my $put = syswrite($socket, $side->{waiting});

	return if !defined $put && $!{EAGAIN};
	return $self->drop(fileno($socket)) unless defined $put;
	substr($side->{waiting}, 0, $put) = '';
	return $self->end_if_done($side);
}

# The end of one direction, when all before it has been written; both ends: the connection's.
sub end_if_done
{
	my ($self, $side) = @_;
	my $other = $self->{sides}{ $side->{other} };

	return if !$other->{ended} || length $side->{waiting};
	return $self->drop($side->{other}) if $side->{ended};
	return shutdown($side->{socket}, 1);
}

sub drop
{
	my ($self, $number) = @_;
	my $side = delete $self->{sides}{$number} or return;
	my $other = delete $self->{sides}{ $side->{other} };

	close($side->{socket});
	close($other->{socket});
	return;
}

1;
