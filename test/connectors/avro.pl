# The format avro with a schema registry: reading, evolution of schemas, writing, what the registry refuses, when it is away,
# credentials, TLS.  The queues are those of the test connector.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../connector", "$FindBin::RealBin/../brokers";
use Penstock::Test;
use Penstock::Session;
use IO::Socket::INET;
use SchemaRegistry;
use TestQueue;
use Time::HiRes qw(time);
use PostgreSQL::Test::Utils;
use Test::More;

my $SECRET = 'registry-s3cret';
my $registry = SchemaRegistry->start;
my $node = penstock_node('avro', 'log_statement = none');
my $q = TestQueue->new($node);
sub sql { return $q->sql($_[0]); }

my $servers = 0;

# server(url, option ...): a server of the test connector with a registry of its own.
sub server
{
	my ($url, @options) = @_;
	my $name = 's' . ++$servers;
	sql("CREATE SERVER $name FOREIGN DATA WRAPPER testqueue OPTIONS (" . join(', ', "directory '" . $q->dir . "'", "schema_registry '$url'", @options) . ')');
	return $name;
}

# put(queue, id, hex): a message of that schema.
sub put
{
	my ($queue, $id, $hex) = @_;
	return sql(sprintf(q{SELECT testqueue.append_bytes('tq', '%s', '\x00%08x%s')}, $queue, $id, $hex));
}

# ---- before the extension is there ----

like($q->fails(q{CREATE FOREIGN TABLE none (a int) SERVER tq OPTIONS (queue 'none', format 'avro', schema '"int"')}),
	qr/unknown format "avro".*penstock_avro/s, 'without the extension the format is not known');
sql('CREATE EXTENSION penstock_avro');
is(sql(q{SELECT penstock.avro_to_jsonb('\x0261', '"string"')}), '"a"', 'avro_to_jsonb');

# ---- options ----

like($q->fails(q{CREATE FOREIGN TABLE bad (a int) SERVER tq OPTIONS (queue 'bad', format 'avro')}),
	qr/needs option "schema_registry" or "schema"/, 'a schema or a registry is needed') or sql('DROP FOREIGN TABLE bad');
like($q->fails(q{CREATE FOREIGN TABLE bad (a int) SERVER tq OPTIONS (queue 'bad', format 'avro', schema '{"type": "x"}')}),
	qr/invalid Avro schema.*The type "x" is not known/s, 'a schema that is none') or sql('DROP FOREIGN TABLE bad');
like($q->fails(q{CREATE FOREIGN TABLE bad (a int) SERVER tq OPTIONS (queue 'bad', format 'json', schema '"int"')}),
	qr/invalid option "schema"/, 'json has no schemas');
like($q->fails(q{CREATE FOREIGN TABLE bad (a int OPTIONS (path '$.*')) SERVER tq OPTIONS (queue 'bad', format 'avro', schema '"int"')}),
	qr/invalid value for option "path"/, 'a path that is none') or sql('DROP FOREIGN TABLE bad');
like($q->fails("CREATE SERVER bad FOREIGN DATA WRAPPER testqueue OPTIONS (directory '/tmp', schema_registry_timeout '1 h')"),
	qr/schema_registry_timeout.*600000/s, 'a time-out out of range');
sql('CREATE ROLE somebody LOGIN; GRANT USAGE ON FOREIGN SERVER tq TO somebody; GRANT CREATE ON SCHEMA public TO somebody');
like($q->fails(q{CREATE FOREIGN TABLE bad (a int) SERVER tq OPTIONS (queue 'bad', format 'avro', schema_registry 'http://127.0.0.1:1')}, extra_params => [ '-U', 'somebody' ]),
	qr/permission denied to set option "schema_registry"/, 'a table\'s own registry is for superusers');

# ---- reading, and schemas that change ----

my $s = server($registry->url);
my @fields = ({ name => 'n', type => 'int' }, { name => 't', type => [ 'null', 'string' ] });
my $v1 = $registry->register('numbers-value', { type => 'record', name => 'number', fields => \@fields });
my $v2 = $registry->register('numbers-value', { type => 'record', name => 'number', fields => [ { name => 'new', type => 'double' }, @fields ] });
sql("CREATE FOREIGN TABLE numbers (n int, t text, new float8) SERVER $s OPTIONS (queue 'numbers', format 'avro')");
put('numbers', $v1, '02020261');
put('numbers', $v2, '000000000000f83f0400');
sql("SELECT testqueue.append('tq', 'numbers', NULL)");
is(sql('SELECT n, t, new FROM numbers'), "1|a|\n2||1.5\n||", 'messages of two schemas, and one without payload');
is(scalar($registry->requests('GET /schemas/ids/1')), 1, 'each schema is asked for once') or diag(join "\n", $registry->requests);
sql(q{ALTER FOREIGN TABLE numbers OPTIONS (schema '{"type": "record", "name": "number", "fields": [{"name": "n", "type": "long"}, {"name": "t", "type": ["string", "null"], "default": "none"}, {"name": "new", "type": "double", "default": 7}]}')});
is(sql('SELECT n, t, new FROM numbers'), "1|a|7\n2||1.5\n||", 'the reader\'s schema gives defaults');
sql('ALTER FOREIGN TABLE numbers OPTIONS (DROP schema)');

# one request for thousands of messages, in the same process also for the next statement
sql("CREATE FOREIGN TABLE many (n int, t text) SERVER $s OPTIONS (queue 'many', format 'avro')");
sql(sprintf(q{SELECT count(testqueue.append_bytes('tq', 'many', '\x00%08x0200')) FROM generate_series(1, 3000)}, $v1));
my $before = $registry->requests('GET /schemas');
is(sql('SELECT count(*), sum(n) FROM many; SELECT count(*), sum(n) FROM many'), "3000|3000\n3000|3000", 'many messages');
is($registry->requests('GET /schemas') - $before, 1, 'one request for all of them');

# schemas that refer to others
my $item = $registry->register('item', { type => 'record', name => 'shop.item', fields => [ { name => 'sku', type => 'string' } ] });
$registry->register('pair', { type => 'record', name => 'shop.pair', fields => [ { name => 'a', type => 'shop.item' }, { name => 'b', type => 'shop.item' } ] }, [ 'shop.item', 'item', 1 ]);
my $order = $registry->register('orders-value', { type => 'record', name => 'shop.order', fields => [ { name => 'first', type => 'item' }, { name => 'rest', type => 'pair' } ] },
	[ 'shop.item', 'item', 1 ], [ 'shop.pair', 'pair', 1 ]);
sql(qq{CREATE FOREIGN TABLE orders (first text OPTIONS (path '\$.first.sku'), rest jsonb) SERVER $s OPTIONS (queue 'orders', format 'avro')});
put('orders', $order, '02780279027a');
is(sql('SELECT * FROM orders'), 'x|{"a": {"sku": "y"}, "b": {"sku": "z"}}', 'references between schemas');

# ---- what does not fit, in a pipe ----

sql("CREATE FOREIGN TABLE mixed (n int, t text) SERVER $s OPTIONS (queue 'mixed', format 'avro'); CREATE TABLE arrived (n int, t text)");
my $text = $registry->register('other-value', { type => 'record', name => 'other', fields => [ { name => 'n', type => 'string' } ] });
my $protobuf = $registry->_request('POST', '/subjects/proto-value/versions', { schema => '{}', schemaType => 'PROTOBUF' })->{id};
put('mixed', $v1, '0200');
put('mixed', 4711, '0200');
put('mixed', $text, '0278');
put('mixed', $v1, '02');
put('mixed', $v1, '020202ff');
put('mixed', $protobuf, '00');
sql(q{SELECT testqueue.append('tq', 'mixed', '{"n": 1}')});
put('mixed', $v2, '000000000000f83f0400');
sql(q{CALL penstock.create_pipe('mixed', 'INSERT INTO arrived SELECT n, t FROM mixed')});
$q->true(q{(SELECT count(*) FROM arrived) = 2 AND (SELECT count(*) FROM penstock.dead_letter WHERE pipe_name = 'mixed') = 6});
is(sql(q{SELECT "offset", sqlstate, column_name FROM penstock.dead_letter WHERE pipe_name = 'mixed' ORDER BY 1}),
	"1|22P03|\n2|22P02|n\n3|22P03|\n4|22021|t\n5|2200G|\n6|22P03|", 'what does not fit is a dead letter, the rest arrives');
like(sql(q{SELECT message FROM penstock.dead_letter WHERE pipe_name = 'mixed' AND "offset" = 1}), qr/schema 4711 is not known to the schema registry/,
	'an unknown schema is named');

# ---- the registry is away ----

my $later = $registry->register('later-value', { type => 'record', name => 'number', fields => [ { name => 'n', type => 'long' }, { name => 't', type => [ 'null', 'int' ] } ] });
$registry->stop;
put('mixed', $later, '0600');
like($q->fails('SELECT * FROM numbers'), qr/schema registry at "http:[^"]+" does not answer/, 'a registry that is not there');
ok($q->true(q{EXISTS (SELECT FROM penstock.stat_pipe WHERE pipe = 'mixed' AND last_error ~ 'does not answer')}), 'the pipe says so');
is(sql(q{SELECT count(*) FROM penstock.dead_letter WHERE pipe_name = 'mixed'}), '6', 'and makes no dead letters of it');
$registry->restart;
ok($q->true('(SELECT count(*) FROM arrived WHERE n = 3) = 1'), 'when it is back, the pipe goes on') or diag($q->error('mixed'), sql('SELECT * FROM penstock.dead_letter'));
sql(q{CALL penstock.drop_pipe('mixed')});

for my $case ([ 'status 500', qr/refused a request with status 500.*told to fail/s ], [ 'garbage', qr/gave no sensible answer/ ],
	[ 'huge', qr/longer than \d+ bytes/ ], [ 'redirect', qr/refused a request with status 302/ ], [ 'page', qr/refused a request with status 404/ ])
{
	$registry->fault($case->[0]);
	like($q->fails('SELECT * FROM numbers', extra_params => [ '-v', 'VERBOSITY=verbose' ]), qr/08...: .*$case->[1]/s, "a registry with fault $case->[0]");
}
$registry->fault('silent');
my $slow = server($registry->url, "schema_registry_timeout '300ms'");
sql("CREATE FOREIGN TABLE slow (n int) SERVER $slow OPTIONS (queue 'numbers', format 'avro')");
my $start = time;
like($q->fails('SELECT * FROM slow'), qr/does not answer.*Timeout/s, 'a registry that is silent');
cmp_ok(time - $start, '<', 5, 'for no longer than it may be');
like($q->fails("SET statement_timeout = 300; SELECT * FROM numbers"), qr/canceling statement due to statement timeout/, 'the wait can be cancelled');
cmp_ok(time - $start, '<', 10, 'at once');
like($q->fails(q{DO $$ BEGIN PERFORM * FROM slow; EXCEPTION WHEN connection_failure THEN NULL; END $$; SELECT * FROM slow}),
	qr/did not a moment ago/, 'it is not asked again at once');
$registry->fault;

# ---- writing ----

sql("CREATE FOREIGN TABLE out (id bigint, name text, at timestamptz, price numeric(8, 2), tags text[]) SERVER $s OPTIONS (queue 'out', format 'avro', subject 'out-value')");
sql(q{INSERT INTO out VALUES (1, 'a', '2026-01-02 03:04:05.678901+00', 12.5, '{x,y}'), (2, NULL, NULL, NULL, NULL)});
is(sql(q{SET timezone = 'UTC'; SELECT * FROM out}), "1|a|2026-01-02 03:04:05.678901+00|12.50|{x,y}\n2||||", 'what is written is read');
my $made = SchemaRegistry::_request($registry, 'GET', '/subjects/out-value/versions/latest');
is($made->{version}, 1, 'a schema was made of the columns, once');
like($made->{schema}, qr/"name":"out_value".*"decimal","precision":8,"scale":2/, 'with their types');
sql("CREATE FOREIGN TABLE given (id int, t text) SERVER $s OPTIONS (queue 'given', format 'avro', subject 'given-value',"
	. q{ schema '{"type": "record", "name": "g", "fields": [{"name": "t", "type": "string", "default": "none"}, {"name": "id", "type": "long"}]}')});
sql(q{INSERT INTO given VALUES (1, 'x'); INSERT INTO given VALUES (2)});
is(sql('SELECT * FROM given'), "1|x\n2|none", 'a schema that is given');
is($registry->latest('given-value')->{version}, 1, 'is registered');
sql("CREATE FOREIGN TABLE strict (id int) SERVER $s OPTIONS (queue 'strict', format 'avro', subject 'strict-value', schema_register 'false',"
	. q{ schema '{"type": "record", "name": "strict", "fields": [{"name": "id", "type": "long"}]}')});
like($q->fails('INSERT INTO strict VALUES (1)'), qr/does not have this schema.*schema_register/s, 'or not, if it must not be');
$registry->register('strict-value', '{"type": "record", "name": "strict", "fields": [{"name": "id", "type": "long"}]}');
sql('INSERT INTO strict VALUES (1)');
is(sql('SELECT * FROM strict'), '1', 'then somebody else has to');
sql("CREATE FOREIGN TABLE newest (n int, t text) SERVER $s OPTIONS (queue 'newest', format 'avro', subject 'numbers-value')");
like($q->fails(q{INSERT INTO newest VALUES (1, 'x')}), qr/Avro field "new" needs a value/, 'the subject\'s newest schema is written with');
sql("CREATE FOREIGN TABLE nameless (n int) SERVER $s OPTIONS (queue 'nameless', format 'avro')");
like($q->fails('INSERT INTO nameless VALUES (1)'), qr/option "subject" is needed/, 'a subject is needed to write');

# ---- credentials ----

my $guarded = SchemaRegistry->start(user => 'me', password => $SECRET);
my $id = $guarded->register('x-value', { type => 'record', name => 'x', fields => [ { name => 'n', type => 'int' } ] });
my $g = server($guarded->url . '/');
put('guarded', $id, '04');
sql("CREATE FOREIGN TABLE guarded (n int) SERVER $g OPTIONS (queue 'guarded', format 'avro')");
like($q->fails('SELECT * FROM guarded'), qr/refused a request with status 401/, 'no name and password');
sql("CREATE USER MAPPING FOR CURRENT_USER SERVER $g OPTIONS (schema_registry_user 'me', schema_registry_password 'wrong-$SECRET')");
like($q->fails('SELECT * FROM guarded', extra_params => [ '-v', 'VERBOSITY=verbose' ]), qr/28000: .*refused a request with status 401/, 'a wrong one');
sql("ALTER USER MAPPING FOR CURRENT_USER SERVER $g OPTIONS (SET schema_registry_password '$SECRET')");
is(sql('SELECT * FROM guarded'), '2', 'the right one');
is(scalar($guarded->requests(' as me$')), 2, 'is sent with the request');
sql(qq{CREATE FOREIGN TABLE stolen (n int) SERVER $g OPTIONS (queue 'guarded', format 'avro')});
like($q->fails(qq{ALTER FOREIGN TABLE stolen OPTIONS (ADD schema_registry '@{[ $registry->url ]}'); SELECT * FROM stolen}),
	qr/not the one its server names/, 'and to no other registry');
sql("CREATE USER MAPPING FOR somebody SERVER $g; GRANT SELECT ON guarded TO somebody");
like($q->fails('SELECT * FROM guarded', extra_params => [ '-U', 'somebody' ]), qr/status 401/, 'nor for another user');
is(sql('SELECT * FROM guarded'), '2', 'whose failure is not mine');
$guarded->stop;
unlike(slurp_file($node->logfile), qr/\Q$SECRET\E/, 'the password is in no line of the log');
is(sql("SELECT count(*) FROM penstock.stat_pipe p WHERE p::text LIKE '%$SECRET%'"), '0', 'and in no view');

# ---- TLS ----

SKIP:
{
	my $dir = $node->basedir;
	skip 'no openssl', 3 if system("openssl version >/dev/null 2>&1");
	system("cd '$dir' && mkdir -p web/schemas/ids && openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=127.0.0.1 -addext subjectAltName=IP:127.0.0.1"
		. " -keyout key.pem -out cert.pem >/dev/null 2>&1") == 0 or die 'no certificate';
	append_to_file("$dir/web/schemas/ids/7", '{"schema": "\"string\""}');
	my $free = IO::Socket::INET->new(LocalAddr => '127.0.0.1', Listen => 1);
	my $port = $free->sockport;
	close $free;
	my $pid = fork() // die 'fork';
	if ($pid == 0)
	{
		open(STDOUT, '>', '/dev/null');
		open(STDERR, '>', '/dev/null');
		chdir "$dir/web";
		exec 'openssl', 's_server', '-accept', "127.0.0.1:$port", '-WWW', '-cert', "$dir/cert.pem", '-key', "$dir/key.pem";
	}
	wait_until(20, sub { IO::Socket::INET->new(PeerAddr => "127.0.0.1:$port") });
	my $trusting = server("https://127.0.0.1:$port", "schema_registry_ca '$dir/cert.pem'");
	my $careful = server("https://127.0.0.1:$port");
	my $misled = server("https://localhost:$port", "schema_registry_ca '$dir/cert.pem'");
	put('tls', 7, '0261');
	sql("CREATE FOREIGN TABLE tls_$_ (t text OPTIONS (path '\$')) SERVER $_ OPTIONS (queue 'tls', format 'avro')") for ($trusting, $careful, $misled);
	is(sql("SELECT * FROM tls_$trusting"), 'a', 'a registry at https');
	like($q->fails("SELECT * FROM tls_$careful"), qr/does not answer.*[Cc]ertificate|does not answer.*SSL/s, 'whose certificate nobody knows');
	like($q->fails("SELECT * FROM tls_$misled"), qr/does not answer.*(SSL|certificate|match)/s, 'or is another host\'s');
	kill 'KILL', $pid;
	waitpid $pid, 0;
}

$node->stop;
done_testing();
