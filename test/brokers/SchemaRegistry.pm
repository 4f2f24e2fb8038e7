# SchemaRegistry: a schema registry for tests, which speaks as much of Confluent's HTTP interface as a client of Avro schemas
# uses.  A process of its own on 127.0.0.1; its schemas live in memory, what it was asked and which faults it has, in files.
package SchemaRegistry;

use strict;
use warnings;
use File::Temp;
use IO::Socket::INET;
use JSON::PP;
use POSIX ();
use Time::HiRes qw(sleep);

# start(class, user => ..., password => ...): listens on a free port; with a user, only requests with that name and password
# are answered.
sub start
{
	my ($class, %options) = @_;
	my $self = bless {
		%options,
		dir => File::Temp::tempdir('registry-XXXXXX', CLEANUP => 1, $ENV{TESTDATADIR} ? (DIR => $ENV{TESTDATADIR}) : (TMPDIR => 1)),
		json => JSON::PP->new->canonical->utf8,
		owner => $$ }, $class;
	return $self->_listen(0);
}

sub _listen
{
	my ($self, $port) = @_;
	my $socket = IO::Socket::INET->new(LocalAddr => '127.0.0.1', LocalPort => $port, Listen => 20, ReuseAddr => 1)
		or die "no socket: $@";
	$self->{port} = $socket->sockport;
	my $pid = fork() // die "fork: $!";
	if ($pid == 0)
	{
		$SIG{$_} = 'DEFAULT' for qw(INT TERM HUP);
		$self->_serve($socket);
		POSIX::_exit(0);
	}
	$self->{pid} = $pid;
	return $self;
}

sub port { return $_[0]{port}; }
sub url  { return "http://127.0.0.1:$_[0]{port}"; }

sub stop
{
	my ($self) = @_;
	my $pid = delete $self->{pid} or return;
	kill 'KILL', $pid;
	waitpid $pid, 0;
	return;
}

# restart: on the same port, with the schemas that it had.
sub restart
{
	my ($self) = @_;
	$self->stop;
	return $self->_listen($self->{port});
}

sub DESTROY
{
	my ($self) = @_;
	local ($?, $!);
	$self->stop if $self->{owner} == $$;
	return;
}

# fault(what): what it does with every request from now on: "status 500", "silent" (does not answer), "garbage", "huge",
# "redirect", "page" (another server's 404); nothing: it works.
sub fault
{
	my ($self, $what) = @_;
	open(my $out, '>', "$self->{dir}/fault") or die $!;
	print $out $what // '';
	return close $out;
}

# requests(pattern): the requests so far that match, such as "GET /schemas/ids/1".
sub requests
{
	my ($self, $pattern) = @_;
	open(my $in, '<', "$self->{dir}/requests") or return ();
	my @lines = grep { !defined $pattern || /$pattern/ } <$in>;
	chomp @lines;
	return @lines;
}

# register(subject, schema, reference ...): as a client would; the id.  The schema is text or a structure; a reference is [name, subject, version].
sub register
{
	my ($self, $subject, $schema, @references) = @_;
	$schema = $self->{json}->encode($schema) if ref $schema;
	my $request = { schema => $schema };
	$request->{references} = [ map { { name => $_->[0], subject => $_->[1], version => $_->[2] } } @references ] if @references;
	return $self->_request('POST', "/subjects/$subject/versions", $request)->{id};
}

# latest(subject): { id, version, schema }, or { error_code }.
sub latest
{
	my ($self, $subject) = @_;
	return $self->_request('GET', "/subjects/$subject/versions/latest");
}

sub _request
{
	my ($self, $method, $path, $content) = @_;
	my $socket = IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $self->{port}, Timeout => 10) or die "no registry: $@";
	my $body = $content ? $self->{json}->encode($content) : '';

	print $socket "$method $path HTTP/1.0\r\nX-Test: yes\r\nContent-Length: " . length($body) . "\r\n\r\n$body";
	local $/;
	my $answer = <$socket>;
	$answer =~ s/^.*?\r\n\r\n//s;
	return $self->{json}->decode($answer);
}

# ---- the server ----

sub _load
{
	my ($self) = @_;
	if (open(my $in, '<', "$self->{dir}/state"))
	{
		local $/;
		return $self->{json}->decode(<$in>);
	}
	return { schemas => [], subjects => {} };
}

sub _serve
{
	my ($self, $socket) = @_;
	my $state = $self->_load;

	while (my $client = $socket->accept)
	{
		my $request = _read_request($client) or next;
		my $fault = '';

		if (!$request->{is_test})
		{
			open(my $log, '>>', "$self->{dir}/requests") or die $!;
			print $log "$request->{method} $request->{path}", $request->{user} ? " as $request->{user}" : '', "\n";
			close $log;
			if (open(my $in, '<', "$self->{dir}/fault")) { $fault = <$in> // ''; }
		}
		if ($fault eq 'silent')
		{
			# the connection stays open until the client gives up
			push @{ $self->{held} }, $client;
			shift @{ $self->{held} } if @{ $self->{held} } > 20;
			next;
		}
		# what is answered is not lost if it is killed now
		my @result = $self->_result($state, $request, $fault);
		open(my $out, '>', "$self->{dir}/state.new") or die $!;
		print $out $self->{json}->encode($state);
		close $out;
		rename "$self->{dir}/state.new", "$self->{dir}/state";
		_answer($client, @result);
	}
	return;
}

sub _read_request
{
	my ($client) = @_;
	my ($method, $path) = (<$client> // '') =~ m{^(\w+) (\S+) HTTP} or return;
	my ($length, %request) = (0, method => $method, path => $path);

	while (defined(my $line = <$client>))
	{
		last if $line =~ /^\r?\n/;
		$length = $1 if $line =~ /^Content-Length: *(\d+)/i;
		$request{is_test} = 1 if $line =~ /^X-Test:/i;
		if ($line =~ m{^Authorization: *Basic +([\w+/=]+)}i)
		{
			($request{user}, $request{password}) = split /:/, unpack('u', join '', map { chr(32 + length($_) * 3 / 4) . $_ } _uu($1)), 2;
		}
	}
	read $client, $request{body}, $length if $length;
	return \%request;
}

# base64 in the alphabet and the lines of uuencode, which unpack reads
sub _uu
{
	my ($text) = @_;
	$text =~ s/=+$//;
	$text .= 'A' x (-length($text) % 4);
	$text =~ tr{A-Za-z0-9+/}{ -_};
	return $text =~ /.{1,60}/g;
}

sub _answer
{
	my ($client, $status, $body, @headers) = @_;
	print $client "HTTP/1.1 $status x\r\nContent-Type: application/vnd.schemaregistry.v1+json\r\nContent-Length: " . length($body)
		. "\r\nConnection: close\r\n" . join('', map { "$_\r\n" } @headers) . "\r\n$body";
	return close $client;
}

sub _result
{
	my ($self, $state, $request, $fault) = @_;
	my $error = sub { return ($_[0], $self->{json}->encode({ error_code => $_[1], message => $_[2] })); };

	return $error->($1, $1 . '00', 'told to fail') if $fault =~ /^status (\d+)/;
	return (200, "\xff{]") if $fault eq 'garbage';
	return (200, '"' . ('x' x 5_000_000) . '"') if $fault eq 'huge';
	return (302, '', "Location: http://127.0.0.1:$self->{port}/") if $fault eq 'redirect';
	return (404, '<html>not here</html>') if $fault eq 'page';
	return $error->(401, 401, 'User cannot access the resource.')
		if $self->{user} && !$request->{is_test} && (($request->{user} // '') ne $self->{user} || $request->{password} ne $self->{password});

	my $path = $request->{path} =~ s/%([0-9A-Fa-f]{2})/chr hex $1/ger;
	if ($path =~ m{^/schemas/ids/(\d+)$})
	{
		my $schema = $state->{schemas}[ $1 - 1 ] or return $error->(404, 40403, "Schema $1 not found");
		return (200, $self->{json}->encode($schema));
	}
	if ($path =~ m{^/subjects/(.+?)/versions/(latest|\d+)$} && $request->{method} eq 'GET')
	{
		my $versions = $state->{subjects}{$1} or return $error->(404, 40401, "Subject '$1' not found.");
		my $version = $2 eq 'latest' ? @$versions : $2;
		my $id = $versions->[ $version - 1 ] or return $error->(404, 40402, "Version $2 not found.");
		return (200, $self->{json}->encode({ subject => $1, version => $version, id => $id, %{ $state->{schemas}[ $id - 1 ] } }));
	}
	if ($path =~ m{^/subjects/([^/]+)(/versions)?$} && $request->{method} eq 'POST')
	{
		my ($subject, $registers) = ($1, $2);
		my $given = eval { $self->{json}->decode($request->{body}) } or return $error->(422, 42201, 'Invalid schema');
		my $parsed = eval { JSON::PP->new->utf8->allow_nonref->decode($given->{schema}) };
		return $error->(422, 42201, 'Invalid schema') unless $parsed;
		my $schema = { schema => $given->{schema}, $given->{references} ? (references => $given->{references}) : (),
			$given->{schemaType} ? (schemaType => $given->{schemaType}) : () };
		my $text = $self->{json}->encode($schema);
		my ($id) = grep { $self->{json}->encode($state->{schemas}[ $_ - 1 ]) eq $text } 1 .. @{ $state->{schemas} };
		my $versions = $state->{subjects}{$subject} || [];
		my ($version) = grep { $id && $versions->[ $_ - 1 ] == $id } 1 .. @$versions;

		if (!$version)
		{
			return $error->(404, 40403, 'Schema not found') unless $registers;
			push @{ $state->{schemas} }, $schema unless $id;
			$id ||= @{ $state->{schemas} };
			push @$versions, $id;
			$state->{subjects}{$subject} = $versions;
			$version = @$versions;
		}
		return (200, $self->{json}->encode({ subject => $subject, version => $version, id => $id, schema => $given->{schema} }));
	}
	return $error->(404, 404, 'HTTP 404 Not Found');
}

1;
