# Artemis: a real ActiveMQ Artemis on free ports of 127.0.0.1, in a scratch folder.
#
#	my $broker = Artemis->start or plan skip_all => Artemis->why;
#	$broker->port; $broker->port('tls'); $broker->port('expired');
#	$broker->tool('send', 'orders', 1, 100, 'id');
package Artemis;

use strict;
use warnings;
use File::Basename;
use File::Path;
use File::Spec;
use File::Temp;
use Cwd 'abs_path';
use IO::Socket::INET;
use Time::HiRes 'time';

my $here = dirname(abs_path(__FILE__));
my %why;

# Tests look for them where they must not be.
our $user = 'amqp-user-4713';
our $password = 'very-secret-amqp-4714';

# What differs in ActiveMQ.pm.
sub install { return 'install_artemis.sh'; }
sub has_tls { return 1; }

sub why
{
	my ($class) = @_;
	return 'no ' . $class . ': ' . ($why{$class} || '');
}

# start(class, idle => ms): a broker that answers, and takes a client for gone that is silent for so long (ActiveMQ: as it is); undef, and a reason in why(), if there is none to be had.
sub start
{
	my ($class, %options) = @_;
	chomp(my $jars = `$here/@{[ $class->install ]}`);
	if ($? || !-d $jars) { $why{$class} = $class->install . ' failed'; return; }

	my $base = $ENV{TESTDATADIR} || File::Spec->tmpdir;
	my $folder = File::Temp::tempdir(lc($class) . '-XXXXXX', DIR => $base, CLEANUP => 0);
	my $self = bless { jars => $jars, java => [ map { "-D$_=$options{$_}" } keys %options ], folder => $folder, owner => $$, tls => [] }, $class;

	if (system('gcc', '-O2', '-o', "$folder/amqp_tool", "$here/artemis/amqp_tool.c", '-lqpid-proton') != 0)
	{ $why{$class} = 'amqp_tool.c does not build'; return; }
	$self->{ports}{plain} = free_port();
	$self->certificates if $class->has_tls;
	$self->launch;
	return $self if $self->wait_for;
	$why{$class} = "the broker does not answer, see $folder/log";
	return;
}

sub folder { return $_[0]{folder}; }
sub port { return $_[0]{ports}{ $_[1] || 'plain' }; }
sub pid { return $_[0]{pid}; }
sub file { return "$_[0]{folder}/tls/$_[1]"; }

# A port that nobody listens on now.
sub free_port
{
	my $socket = IO::Socket::INET->new(LocalAddr => '127.0.0.1', LocalPort => 0, Listen => 1, Proto => 'tcp')
	  or die "no free port: $!";
	return $socket->sockport;
}

# An authority, another one, and the broker's certificates: a good one and one that has expired (openssl ca makes
# certificates of the past).
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
			qw(tls expired)),
		"$sign -days 30 -in $dir/tls.csr -out $dir/tls.pem",
		"$sign -startdate 20200101000000Z -enddate 20200201000000Z -in $dir/expired.csr -out $dir/expired.pem",
		map({ ("openssl pkcs12 -export -passout pass:changeit -in $dir/$_.pem -inkey $dir/$_.key -out $dir/$_.p12") }
			qw(tls expired)))
	{
		system("$command >>$dir/log 2>&1") == 0 or die "failed: $command, see $dir/log";
	}
	chmod(0644, glob("$dir/*"));
	for my $name (qw(tls expired))
	{
		$self->{ports}{$name} = free_port();
		push @{ $self->{tls} }, "$self->{ports}{$name}=$dir/$name.p12";
	}
	return;
}

# The process ends with the pipe it reads from, so it does not outlive the test, however that ends.
sub launch
{
	my ($self) = @_;
	pipe(my $reader, my $writer) or die "pipe: $!";
	unlink "$self->{folder}/started";
	my $pid = fork;
	die "fork: $!" unless defined $pid;
	if ($pid == 0)
	{
		setpgrp(0, 0);
		close($writer);
		open(STDIN, '<&', $reader);
		open(STDOUT, '>>', "$self->{folder}/log");
		open(STDERR, '>&', \*STDOUT);
		exec('java', '-Xmx384m', '-Xms96m', '-XX:+UseSerialGC', '-XX:TieredStopAtLevel=1', '-Xshare:auto',
			'-Djava.net.preferIPv4Stack=true', @{ $self->{java} },
			'-Dorg.slf4j.simpleLogger.defaultLogLevel=warn', '-cp', "$self->{jars}:$self->{jars}/*", ref $self,
			$self->{folder}, $user, $password, $self->{ports}{plain}, @{ $self->{tls} }) or POSIX::_exit(127);
	}
	close($reader);
	@$self{qw(pid input)} = ($pid, $writer);
	return;
}

sub wait_for
{
	my ($self) = @_;
	my $end = time + 60;

	while (time < $end)
	{
		return 1 if -e "$self->{folder}/started";
		return 0 if waitpid($self->{pid}, 1) == $self->{pid};
		select(undef, undef, undef, 0.05);
	}
	return 0;
}

# command(argument ...): the command line of amqp_tool.
sub command
{
	my ($self, @arguments) = @_;
	return ("$self->{folder}/amqp_tool", '127.0.0.1', $self->port, $user, $password, @arguments);
}

# tool(argument ...): amqp_tool; its output.  Dies if it fails.
sub tool
{
	my ($self, @arguments) = @_;
	open(my $out, '-|', $self->command(@arguments)) or die $!;
	local $/;
	my $text = <$out>;
	close($out) or die "amqp_tool @arguments failed\n";
	return $text;
}

sub stop
{
	my ($self) = @_;
	return unless $self->{pid};
	close(delete $self->{input});
	return $self->reap;
}

sub kill
{
	my ($self) = @_;
	return unless $self->{pid};
	CORE::kill('KILL', $self->{pid});
	close(delete $self->{input});
	return $self->reap;
}

sub reap
{
	my ($self) = @_;
	my $pid = delete $self->{pid};
	my $end = time + 20;

	while (waitpid($pid, 1) == 0)
	{
		if (time > $end) { CORE::kill('KILL', $pid); waitpid($pid, 0); last; }
		select(undef, undef, undef, 0.05);
	}
	return;
}

sub restart
{
	my ($self) = @_;
	$self->stop;
	$self->launch;
	$self->wait_for or die ref($self) . " did not come back, see $self->{folder}/log\n";
	return;
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
	File::Path::remove_tree($self->{folder}) unless $ENV{PENSTOCK_KEEP};
	return;
}

1;
