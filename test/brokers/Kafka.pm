# Kafka: a real Apache Kafka (KRaft) on free ports of 127.0.0.1, in a scratch folder, of one node or three.
#
#	my $kafka = Kafka->start or plan skip_all => Kafka->why;
#	my $three = Kafka->start(nodes => 3);
#	my $cut = Kafka->start(proxy => 1);		# servers('PROXY') are proxies, proxy(node) is one of them
#	$kafka->servers; $kafka->servers('SASL'); $kafka->tool('create', 'topic', 12);
package Kafka;

use strict;
use warnings;
use File::Basename;
use File::Path;
use File::Temp;
use Cwd 'abs_path';
use IO::Socket::INET;
use POSIX ();
use Proxy;
use Time::HiRes qw(time sleep);

my $here = dirname(abs_path(__FILE__));
my $why = '';

# One password for all: tests look for it where it must not be.
our $password = 'very-secret-kafka-4711';

sub why { return "no Kafka: $why"; }

# start(class, nodes => 1 or 3, proxy => 1): brokers that answer; undef, and a reason in why(), if there are none to be had.
sub start
{
	my ($class, %options) = @_;
	chomp(my $jars = $options{jars} || `$here/install_kafka.sh`);
	if ($? || !-d $jars) { $why = "$here/install_kafka.sh failed"; return; }

	my $base = $ENV{TESTDATADIR} || File::Spec->tmpdir;
	my $folder = File::Temp::tempdir('kafka-XXXXXX', DIR => $base, CLEANUP => 0);
	my $self = bless { jars => $jars, folder => $folder, count => $options{nodes} || 1, options => \%options,
		nodes => [], owner => $$ }, $class;

	if (system('gcc', '-O2', '-o', "$folder/kafka_tool", "$here/kafka/kafka_tool.c", '-lrdkafka') != 0)
	{ $why = 'kafka_tool.c does not build'; return; }
	$self->certificates;
	$self->configure($_) for 1 .. $self->{count};
	$self->launch($_) for 1 .. $self->{count};
	for my $node (1 .. $self->{count})
	{
		next if $self->wait_for($node);
		$why = "the broker does not answer, see $folder/node$node.log";
		return;
	}
	return $self;
}

# archive(class, jars): runs a broker once and keeps the classes that it loads.
sub archive
{
	my ($class, $jars) = @_;
	my $file = "$jars/classes.$$";
	my $self = $class->start(jars => $jars, java => "-XX:ArchiveClassesAtExit=$file") or die why() . "\n";

	$self->stop;
	rename($file, "$jars/classes.jsa") or die "no $file: $!\n";
	return;
}

sub folder { return $_[0]{folder}; }

# A port that nobody listens on now.
sub free_port
{
	my $socket = IO::Socket::INET->new(LocalAddr => '127.0.0.1', LocalPort => 0, Listen => 1, Proto => 'tcp')
	  or die "no free port: $!";
	return $socket->sockport;
}

# The broker's certificate, one that has expired, and the authority that signed both (openssl x509 makes no
# certificate of the past, openssl ca does).
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
subjectKeyIdentifier = hash
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
subjectAltName = IP:127.0.0.1, DNS:localhost
END
	my $quiet = ">>$dir/log 2>&1";
	my $sign = "openssl ca -batch -config $dir/ca.cnf -cert $dir/ca.pem -keyfile $dir/ca.key -notext";
	for my $command (
		"openssl req -x509 -newkey rsa:2048 -nodes -days 30 -subj '/CN=test authority' -config $dir/ca.cnf"
		. " -extensions v3_ca -keyout $dir/ca.key -out $dir/ca.pem",
		"openssl req -x509 -newkey rsa:2048 -nodes -days 30 -subj '/CN=another authority' -config $dir/ca.cnf"
		. " -extensions v3_ca -keyout $dir/other.key -out $dir/other.pem",
		map({ ("openssl req -newkey rsa:2048 -nodes -subj '/CN=$_' -config $dir/ca.cnf -keyout $dir/$_.key -out $dir/$_.csr") }
			qw(broker expired client)),
		"$sign -days 30 -in $dir/broker.csr -out $dir/broker.pem",
		"$sign -days 30 -in $dir/client.csr -out $dir/client.pem",
		"$sign -startdate 20200101000000Z -enddate 20200201000000Z -in $dir/expired.csr -out $dir/expired.pem")
	{
		system("$command $quiet") == 0 or die "failed: $command, see $dir/log";
	}
	for my $name (qw(broker expired))
	{
		spit("$dir/$name.store", slurp("$dir/$name.key") . slurp("$dir/$name.pem") . slurp("$dir/ca.pem"));
	}
	return;
}

sub tls { return "$_[0]{folder}/tls/$_[1]"; }

# configure(node): its ports and its files.
sub configure
{
	my ($self, $node) = @_;
	my $dir = "$self->{folder}/node$node";
	my %port;

	$port{$_} = free_port() for qw(PLAIN SASL SSL EXPIRED SASLSSL CONTROLLER), $self->{options}{proxy} ? 'PROXY' : ();
	# where clients are told to go, if that is not where the broker listens
	my %told = %port;
	my $proxy = $port{PROXY} && Proxy->start($port{PROXY});
	$told{PROXY} = $proxy->port if $proxy;
	$self->{nodes}[$node] = { port => \%port, told => \%told, proxy => $proxy, dir => $dir };
	mkpath("$dir/data");
	# what the storage tool writes; it would take a Java start for each node
	spit("$dir/data/meta.properties", "version=1\ncluster.id=cGVuc3RvY2sgdGVzdA\nnode.id=$node\n"
		. "directory.id=" . substr('AAAAAAAAAAAAAAAAAAAAA', 0, 20) . "${node}A\n");
	return;
}

# The configuration names all nodes, so it is written once all ports are known.
sub write_properties
{
	my ($self, $node) = @_;
	my $me = $self->{nodes}[$node];
	my $port = $me->{port};
	my $tls = "$self->{folder}/tls";
	my $voters = join ',', map { "$_\@127.0.0.1:$self->{nodes}[$_]{port}{CONTROLLER}" } 1 .. $self->{count};
	my $replicas = $self->{count};
	my $least = $replicas > 1 ? 2 : 1;
	my $users = "user_alice=\"$password\"";
	my %conf = (
		'process.roles' => 'broker,controller',
		'node.id' => $node,
		'controller.quorum.voters' => $voters,
		'controller.listener.names' => 'CONTROLLER',
		'listeners' => join(',', map { "$_://127.0.0.1:$port->{$_}" } sort keys %$port),
		'advertised.listeners' => join(',', map { "$_://127.0.0.1:$me->{told}{$_}" } grep { $_ ne 'CONTROLLER' } sort keys %$port),
		'listener.security.protocol.map' =>
		  'PLAIN:PLAINTEXT,CONTROLLER:PLAINTEXT,SASL:SASL_PLAINTEXT,SSL:SSL,EXPIRED:SSL,SASLSSL:SASL_SSL,PROXY:PLAINTEXT',
		'inter.broker.listener.name' => 'PLAIN',
		'sasl.enabled.mechanisms' => 'PLAIN',
		(map { ("listener.name.$_.plain.sasl.jaas.config" =>
			"org.apache.kafka.common.security.plain.PlainLoginModule required $users;",
			"listener.name.$_.sasl.enabled.mechanisms" => 'PLAIN') } qw(sasl saslssl)),
		(map { ("listener.name.$_->[0].ssl.keystore.type" => 'PEM',
			"listener.name.$_->[0].ssl.keystore.location" => "$tls/$_->[1].store",
			"listener.name.$_->[0].ssl.truststore.type" => 'PEM',
			"listener.name.$_->[0].ssl.truststore.location" => "$tls/ca.pem",
			"listener.name.$_->[0].ssl.client.auth" => 'requested') }
			[ 'ssl', 'broker' ], [ 'saslssl', 'broker' ], [ 'expired', 'expired' ]),
		'log.dirs' => "$me->{dir}/data",
		'num.network.threads' => 2,
		'num.io.threads' => 2,
		'background.threads' => 2,
		'log.cleaner.dedupe.buffer.size' => 2_000_000,
		'offsets.topic.num.partitions' => 3,
		'offsets.topic.replication.factor' => $replicas,
		'transaction.state.log.num.partitions' => 3,
		'transaction.state.log.replication.factor' => $replicas,
		'transaction.state.log.min.isr' => $least,
		'share.coordinator.state.topic.replication.factor' => $replicas,
		'default.replication.factor' => $replicas,
		'min.insync.replicas' => $least,
		'auto.create.topics.enable' => 'false',
		'group.initial.rebalance.delay.ms' => 0,
		'group.min.session.timeout.ms' => 1000,
		# a killed broker's successor waits until the killed one's time is up
		'broker.session.timeout.ms' => 2000,
		'broker.heartbeat.interval.ms' => 500,
		'connection.failed.authentication.delay.ms' => 10,
		'log.segment.delete.delay.ms' => 1000,
		%{ $self->{options}{properties} || {} });

	spit("$me->{dir}/server.properties", join('', map { "$_=$conf{$_}\n" } sort keys %conf));
	return;
}

# launch(node): starts its process; who calls waits.
sub launch
{
	my ($self, $node) = @_;
	my $me = $self->{nodes}[$node];

	my $archive = "$self->{jars}/classes.jsa";
	my @more = $self->{options}{java} || (-e $archive ? "-XX:SharedArchiveFile=$archive" : ());

	$self->write_properties($node);
	my $pid = fork;
	die "fork: $!" unless defined $pid;
	if ($pid == 0)
	{
		setpgrp(0, 0);
		open(STDIN, '<', '/dev/null');
		open(STDOUT, '>>', "$me->{dir}.log");
		open(STDERR, '>&', \*STDOUT);
		exec('java', '-Xmx256m', '-Xms96m', '-XX:+UseSerialGC', '-XX:TieredStopAtLevel=1', '-Xshare:auto', @more,
			'-Djava.net.preferIPv4Stack=true', '-Dorg.slf4j.simpleLogger.defaultLogLevel=warn',
			'-cp', join(':', sort glob("$self->{jars}/*.jar")), 'kafka.Kafka', "$me->{dir}/server.properties") or POSIX::_exit(127);
	}
	$me->{pid} = $pid;
	return;
}

# wait_for(node, seconds): until the node answers requests; false if it does not.
sub wait_for
{
	my ($self, $node, $seconds) = @_;
	my $me = $self->{nodes}[$node];
	my $end = time + ($seconds || 60);

	while (time < $end)
	{
		return 0 if waitpid($me->{pid}, 1) == $me->{pid};
		my $socket = IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $me->{port}{PLAIN}, Timeout => 1);
		return 1 if $socket && system("$self->{folder}/kafka_tool 127.0.0.1:$me->{port}{PLAIN} ping 3000 >/dev/null 2>&1") == 0;
		select(undef, undef, undef, 0.1);
	}
	return 0;
}

# servers(listener, node): host:port of all nodes or of one.
sub servers
{
	my ($self, $listener, $node) = @_;
	$listener ||= 'PLAIN';
	return join ',', map { "127.0.0.1:$self->{nodes}[$_]{told}{$listener}" } $node ? $node : 1 .. $self->{count};
}

sub port
{
	my ($self, $listener, $node) = @_;
	return $self->{nodes}[ $node || 1 ]{port}{ $listener || 'PLAIN' };
}

sub proxy { return $_[0]{nodes}[ $_[1] || 1 ]{proxy}; }
sub pid { return $_[0]{nodes}[ $_[1] || 1 ]{pid}; }

# tool(command, argument ...): kafka_tool; its output.  Dies if it fails.
sub tool
{
	my ($self, @command) = @_;
	my ($options, $input) = ('', undef);

	($options, @command) = (',' . $command[0]{options}, @command[ 1 .. $#command ]) if ref $command[0];
	my $first = (grep { $self->{nodes}[$_]{pid} } 1 .. $self->{count})[0] || 1;
	open(my $out, '-|', "$self->{folder}/kafka_tool", $self->servers('PLAIN', $first) . $options, @command) or die $!;
	local $/;
	my $text = <$out>;
	close($out) or die "kafka_tool @command failed\n";
	return $text;
}

# lines(topic, partition, line ...): each a message; with a TAB in the first one, the key stands before it.
sub lines
{
	my ($self, $topic, $partition, @lines) = @_;
	my @keyed = @lines && $lines[0] =~ /\t/ ? ('key') : ();

	open(my $in, '|-', "$self->{folder}/kafka_tool", $self->servers('PLAIN', 1), 'lines', $topic, $partition, @keyed) or die $!;
	print $in map { "$_\n" } @lines;
	close($in) or die "kafka_tool lines failed\n";
	return;
}

# One node, or all: SIGTERM and wait; SIGKILL; start again and wait.
sub stop
{
	my ($self, $node) = @_;
	return $self->finish('TERM', $node);
}

sub kill
{
	my ($self, $node) = @_;
	return $self->finish('KILL', $node);
}

sub restart
{
	my ($self, $node) = @_;
	my @nodes = $node ? $node : 1 .. $self->{count};

	$self->launch($_) for grep { !$self->{nodes}[$_]{pid} } @nodes;
	for my $i (@nodes) { $self->wait_for($i) or die "Kafka did not come back, see $self->{folder}/node$i.log\n"; }
	return;
}

sub finish
{
	my ($self, $signal, $node) = @_;
	my @nodes = grep { $self->{nodes}[$_] && $self->{nodes}[$_]{pid} } $node ? $node : 1 .. $self->{count};

	CORE::kill($signal, $self->{nodes}[$_]{pid}) for @nodes;
	for my $i (@nodes)
	{
		my $pid = delete $self->{nodes}[$i]{pid};
		my $end = time + 20;

		while (waitpid($pid, 1) == 0)
		{
			if (time > $end) { CORE::kill('KILL', $pid); waitpid($pid, 0); last; }
			select(undef, undef, undef, 0.05);
		}
	}
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

sub slurp
{
	my ($file) = @_;
	open(my $in, '<', $file) or die "$file: $!";
	local $/;
	return <$in>;
}

sub DESTROY
{
	my ($self) = @_;
	local ($?, $@, $!);
	return if $$ != $self->{owner};
	$self->finish('KILL');
	rmtree($self->{folder}) unless $ENV{KEEP};
	return;
}

1;
