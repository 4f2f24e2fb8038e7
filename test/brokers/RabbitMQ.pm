# RabbitMQ: a real broker on free ports of 127.0.0.1, in a scratch folder, with its plugins for streams and AMQP 1.0.
#
#	my $broker = RabbitMQ->start or plan skip_all => RabbitMQ->why;
#	$broker->port; $broker->port('tls'); $broker->tool('declare', 'orders', 'classic');
package RabbitMQ;

use strict;
use warnings;
use Cwd 'abs_path';
use File::Basename;
use File::Path;
use File::Spec;
use File::Temp;
use IO::Socket::INET;
use POSIX ();
use Time::HiRes 'time';

my $here = dirname(abs_path(__FILE__));
my $why = '';

# Tests look for them where they must not be.
our $user = 'rabbit-user-4715';
our $password = 'very-secret-rabbit-4716';

sub why { return "no RabbitMQ: $why"; }

# start(class, line ...): a broker that answers; further lines go into its configuration.  undef, and a reason in why(),
# if there is none to be had.
sub start
{
	my ($class, @lines) = @_;
	if (system("$here/install_rabbitmq.sh") != 0) { $why = 'install_rabbitmq.sh failed'; return; }

	my $base = $ENV{TESTDATADIR} || File::Spec->tmpdir;
	my $folder = File::Temp::tempdir('rabbitmq-XXXXXX', DIR => $base, CLEANUP => 0);
	my $self = bless { folder => $folder, owner => $$ }, $class;

	if (system('gcc', '-O2', '-o', "$folder/rabbitmq_tool", "$here/rabbitmq/rabbitmq_tool.c", '-lrabbitmq') != 0)
	{ $why = 'rabbitmq_tool.c does not build'; return; }
	$self->certificates;
	$self->configure(@lines);
	$self->launch_epmd;
	$self->launch;
	return $self if $self->wait_for;
	$why = "the broker does not answer, see $folder/log";
	return;
}

sub folder { return $_[0]{folder}; }
sub port { return $_[0]{ports}{ $_[1] || 'plain' }; }
sub file { return "$_[0]{folder}/tls/$_[1]"; }

# A port that nobody listens on now.
sub free_port
{
	my $socket = IO::Socket::INET->new(LocalAddr => '127.0.0.1', LocalPort => 0, Listen => 1, Proto => 'tcp')
	  or die "no free port: $!";
	return $socket->sockport;
}

# An authority, another one, and certificates: the broker's, one that has expired (openssl ca makes certificates of
# the past), and a client's.
sub certificates
{
	my ($self) = @_;
	my $dir = "$self->{folder}/tls";

	mkpath("$dir/new");
	spit("$dir/index.txt", '');
	spit("$dir/serial", "01\n");
	spit("$dir/ca.cnf", <<"END");
[req]
distinguished_name = dn
[dn]
[v3_ca]
basicConstraints = critical, CA:true
[ca]
default_ca = here
[here]
dir = $dir
database = $dir/index.txt
new_certs_dir = $dir/new
serial = $dir/serial
default_md = sha256
policy = any
x509_extensions = leaf
unique_subject = no
[any]
commonName = supplied
[leaf]
subjectAltName = DNS:localhost
END
	my $sign = "openssl ca -batch -config $dir/ca.cnf -cert $dir/ca.pem -keyfile $dir/ca.key -notext";
	for my $command (
		map({ ("openssl req -x509 -newkey rsa:2048 -nodes -days 30 -subj '/CN=$_ authority' -config $dir/ca.cnf"
				. " -extensions v3_ca -keyout $dir/$_.key -out $dir/$_.pem") } qw(ca other)),
		map({ ("openssl req -newkey rsa:2048 -nodes -subj '/CN=$_' -config $dir/ca.cnf -keyout $dir/$_.key -out $dir/$_.csr") }
			qw(broker client expired)),
		map({ "$sign -days 30 -in $dir/$_.csr -out $dir/$_.pem" } qw(broker client)),
		"$sign -startdate 20200101000000Z -enddate 20200201000000Z -in $dir/expired.csr -out $dir/expired.pem")
	{
		system("$command >>$dir/log 2>&1") == 0 or die "failed: $command, see $dir/log";
	}
	chmod(0644, glob("$dir/*.pem"), glob("$dir/*.key"));
	return;
}

sub configure
{
	my ($self, @lines) = @_;
	my $folder = $self->{folder};
	my $dir = "$folder/tls";

	$self->{ports}{$_} = free_port() for qw(plain tls stream dist epmd);
	mkpath(["$folder/data", "$folder/logs"]);
	spit("$folder/plugins", "[rabbitmq_stream,rabbitmq_amqp1_0].\n");
	spit("$folder/rabbitmq.conf", join("\n",
		"listeners.tcp.1 = 127.0.0.1:$self->{ports}{plain}",
		"listeners.ssl.1 = 127.0.0.1:$self->{ports}{tls}",
		"stream.listeners.tcp.1 = 127.0.0.1:$self->{ports}{stream}",
		"ssl_options.cacertfile = $dir/ca.pem", "ssl_options.certfile = $dir/broker.pem", "ssl_options.keyfile = $dir/broker.key",
		'ssl_options.verify = verify_peer', 'ssl_options.fail_if_no_peer_cert = false',
		"default_user = $user", "default_pass = $password", 'default_user_tags.administrator = true',
		'log.console = false', 'log.file.level = info', @lines) . "\n");
	$self->{env} = {
		HOME => $folder, RABBITMQ_NODENAME => "penstock$self->{ports}{plain}\@localhost",
		RABBITMQ_CONFIG_FILE => "$folder/rabbitmq", RABBITMQ_CONF_ENV_FILE => '/dev/null',
		RABBITMQ_ENABLED_PLUGINS_FILE => "$folder/plugins",
		RABBITMQ_MNESIA_BASE => "$folder/data", RABBITMQ_LOG_BASE => "$folder/logs",
		RABBITMQ_DIST_PORT => $self->{ports}{dist}, RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS => '+sbwt none +sbwtdcpu none +sbwtdio none',
		ERL_EPMD_ADDRESS => '127.0.0.1', ERL_EPMD_PORT => $self->{ports}{epmd}
	};
	return;
}

# A process of its own group, so that all of it can be stopped.
sub spawn
{
	my ($self, @command) = @_;
	my $pid = fork;

	die "fork: $!" unless defined $pid;
	return $pid if $pid;
	setpgrp(0, 0);
	open(STDIN, '<', '/dev/null');
	open(STDOUT, '>>', "$self->{folder}/log");
	open(STDERR, '>&', \*STDOUT);
	$ENV{$_} = $self->{env}{$_} for keys %{ $self->{env} };
	chdir($self->{folder});
	exec(@command) or POSIX::_exit(127);
}

# Erlang's name server would be started by the broker, and stay behind.
sub launch_epmd
{
	my ($self) = @_;
	$self->{epmd} = $self->spawn('epmd', '-address', '127.0.0.1', '-port', $self->{ports}{epmd});
	return answers($self->{ports}{epmd}, 20);
}

sub launch
{
	my ($self) = @_;
	$self->{pid} = $self->spawn('/usr/lib/rabbitmq/bin/rabbitmq-server');
	return;
}

# answers(port, seconds): waits until somebody listens.
sub answers
{
	my ($port, $seconds) = @_;
	my $end = time + $seconds;

	until (IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $port, Proto => 'tcp'))
	{
		return 0 if time > $end;
		select(undef, undef, undef, 0.05);
	}
	return 1;
}

# wait_for(): until a client can log in.
sub wait_for
{
	my ($self) = @_;
	my $end = time + 90;

	while (time < $end)
	{
		return 1 if answers($self->port, 1) && system("@{[ $self->command('hello') ]} 2>/dev/null") == 2 << 8;
		return 0 if waitpid($self->{pid}, 1) == $self->{pid};
		select(undef, undef, undef, 0.1);
	}
	return 0;
}

# command(argument ...): the command line of rabbitmq_tool.
sub command
{
	my ($self, @arguments) = @_;
	return ("$self->{folder}/rabbitmq_tool", $self->port, $user, $password, @arguments);
}

# tool(argument ...): rabbitmq_tool; its output.  Dies if it fails.
sub tool
{
	my ($self, @arguments) = @_;
	open(my $out, '-|', $self->command(@arguments)) or die $!;
	local $/;
	my $text = <$out>;
	close($out) or die "rabbitmq_tool @arguments failed\n";
	return $text;
}

# ctl(argument ...): rabbitmqctl; its output.
sub ctl
{
	my ($self, @arguments) = @_;
	local @ENV{ keys %{ $self->{env} } } = values %{ $self->{env} };
	open(my $out, '-|', '/usr/lib/rabbitmq/bin/rabbitmqctl', '-q', '-n', $self->{env}{RABBITMQ_NODENAME}, @arguments) or die $!;
	local $/;
	my $text = <$out>;
	close($out) or die "rabbitmqctl @arguments failed\n";
	return $text;
}

sub end_group
{
	my ($self, $which, $signal) = @_;
	my $pid = delete $self->{$which} or return;
	my $end = time + 30;

	CORE::kill($signal, -$pid);
	while (waitpid($pid, 1) == 0)
	{
		if (time > $end) { CORE::kill('KILL', -$pid); waitpid($pid, 0); last; }
		select(undef, undef, undef, 0.05);
	}
	# the launching script may be gone before the broker is
	while (CORE::kill(0, -$pid))
	{
		CORE::kill('KILL', -$pid) if time > $end || $signal eq 'KILL';
		select(undef, undef, undef, 0.05);
	}
	return;
}

sub stop { return $_[0]->end_group('pid', 'TERM'); }
sub kill { return $_[0]->end_group('pid', 'KILL'); }

# come_back(): after stop or kill.
sub come_back
{
	my ($self) = @_;
	$self->launch;
	$self->wait_for or die "RabbitMQ did not come back, see $self->{folder}/log\n";
	return;
}

sub restart
{
	my ($self) = @_;
	$self->stop;
	return $self->come_back;
}

sub spit
{
	my ($file, $text) = @_;
	open(my $out, '>', $file) or die "$file: $!";
	print $out $text;
	close($out);
	return;
}

sub DESTROY
{
	my ($self) = @_;
	local ($?, $@, $!);
	return if $$ != $self->{owner};
	$self->kill;
	$self->end_group('epmd', 'KILL');
	File::Path::remove_tree($self->{folder}) unless $ENV{PENSTOCK_KEEP};
	return;
}

1;
