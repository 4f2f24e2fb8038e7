# The Kafka connector against a real broker: reading and writing topics with SELECT and INSERT, options, what
# the broker refuses, TLS and passwords.  Pipes are in kafka_pipes.pl, groups in kafka_group.pl.
use strict;
use warnings;
use Penstock::Test;
use Penstock::Session;
use PostgreSQL::Test::Utils;
use Test::More;
use Kafka;

my $kafka = Kafka->start or plan skip_all => Kafka->why;
my $node = penstock_node('kafka', 'log_statement = none');

sub sql { return $node->safe_psql('postgres', $_[0]); }

# refused(sql, pattern, what): the statement fails, and says so.
sub refused
{
	my ($statement, $pattern, $what) = @_;
	my ($rc, $out, $err) = $node->psql('postgres', "\\set VERBOSITY verbose\n$statement");
	return like($err, $pattern, $what);
}

sub server
{
	my ($name, $listener, @more) = @_;
	my $servers = $kafka->servers($listener);
	return "CREATE SERVER $name FOREIGN DATA WRAPPER kafka OPTIONS (" . join(', ', "bootstrap_servers '$servers'", @more) . ')';
}

$kafka->tool('create', 'plain', 3);
$kafka->tool('create', 'small', 1, 1, 'max.message.bytes=2000');
$kafka->tool('create', 'compacted', 1, 1, 'cleanup.policy=compact');
sql('CREATE EXTENSION penstock_kafka');
sql(server('k'));

# ---- options ----

for my $case (
	[ "CREATE SERVER x FOREIGN DATA WRAPPER kafka OPTIONS (bootstrap_server 'a')", qr/HV00D.*invalid option "bootstrap_server"/s ],
	[ "CREATE SERVER x FOREIGN DATA WRAPPER kafka OPTIONS (security_protocol 'tls')", qr/security_protocol.*plaintext, ssl, sasl_plaintext, sasl_ssl/s ],
	[ "CREATE SERVER x FOREIGN DATA WRAPPER kafka OPTIONS (password 'x')", qr/invalid option "password"/ ],
	[ "CREATE FOREIGN TABLE x (a int) SERVER k OPTIONS (topic 'plain', prefetch 'much')", qr/prefetch/ ],
	[ "CREATE FOREIGN TABLE x (a int) SERVER k OPTIONS (topic 'plain', on_offset_lost 'go')", qr/stop, earliest, latest/ ],
	[ "CREATE FOREIGN TABLE x (a int OPTIONS (metadata 'colour')) SERVER k OPTIONS (topic 'plain')", qr/topic, timestamp_type/ ])
{
	refused($case->[0], $case->[1], "refused: $case->[0]");
}
for my $case (
	[ "start 'soon'", qr/invalid input syntax for type timestamp/ ],
	[ "partitions '1,x'", qr/option "partitions" must be numbers/ ],
	[ "partitions '1', \"group\" 'g'", qr/cannot be combined with "group"/ ],
	[ "acks '1'", qr/option "acks" must be all for "idempotence"/ ],
	[ "idempotence 'false', transactional_id 'x'", qr/needs "idempotence"/ ],
	[ "librdkafka 'no.such=1'", qr/does not accept setting "no.such"/ ])
{
	sql("DROP FOREIGN TABLE IF EXISTS wrong");
	my ($rc, $out, $err) = $node->psql('postgres',
		"CREATE FOREIGN TABLE wrong (v text) SERVER k OPTIONS (topic 'plain', format 'text', $case->[0]); SELECT * FROM wrong; INSERT INTO wrong VALUES ('x')");
	like($err, $case->[1], "refused: $case->[0]");
}
sql(q{CREATE ROLE plain_user; GRANT USAGE ON FOREIGN DATA WRAPPER kafka TO plain_user});
refused(q{SET ROLE plain_user; CREATE SERVER y FOREIGN DATA WRAPPER kafka OPTIONS (ssl_ca_location '/etc/passwd')},
	qr/42501.*permission denied to set option "ssl_ca_location"/s, 'files are for superusers');
refused(q{SET ROLE plain_user; CREATE SERVER y FOREIGN DATA WRAPPER kafka OPTIONS (librdkafka 'plugin.library.paths=x')},
	qr/permission denied to set option "librdkafka"/, 'the library\'s settings are for superusers');
is(sql(q{SELECT count(*) FROM penstock.connector_options('kafka') WHERE option IN ('topic', 'password', 'start')}), '3',
	'the options can be looked up');

# ---- IMPORT FOREIGN SCHEMA ----

sql('CREATE SCHEMA topics; IMPORT FOREIGN SCHEMA x LIMIT TO (plain, small) FROM SERVER k INTO topics');
is(sql(q{SELECT string_agg(relname, ',' ORDER BY relname) FROM pg_class WHERE relnamespace = 'topics'::regnamespace}),
	'plain,small', 'LIMIT TO');
sql(q{CREATE SCHEMA others; IMPORT FOREIGN SCHEMA x EXCEPT (small) FROM SERVER k INTO others OPTIONS (format 'json')});
is(sql(q{SELECT string_agg(relname, ',' ORDER BY relname) FROM pg_class WHERE relnamespace = 'others'::regnamespace}),
	'compacted,plain', 'EXCEPT');
is(sql(q{SELECT atttypid::regtype FROM pg_attribute WHERE attrelid = 'others.plain'::regclass AND attname = 'value'}), 'jsonb',
	'as json');
refused(q{IMPORT FOREIGN SCHEMA x FROM SERVER k INTO others OPTIONS (format 'xml')}, qr/text, json, binary/, 'another format');

# ---- out and in ----

sql(q{INSERT INTO topics.plain (key, value, kafka_partition, kafka_timestamp, kafka_headers) VALUES
	('a', '{"n": 1}', 0, '2024-05-01 12:00:00.123+00', '{"h1": "v1", "h2": null}'),
	('b', '{"n": 2}', 1, '2024-05-02 12:00:00+00', NULL),
	(NULL, '{"n": 3}', 0, '2024-05-03 12:00:00+00', NULL),
	('d', NULL, 0, '2024-05-04 12:00:00+00', NULL)});
is(sql(q{SELECT key, value, kafka_partition, kafka_offset, extract(epoch FROM kafka_timestamp)::numeric(20,3), kafka_headers
	FROM topics.plain ORDER BY kafka_partition, kafka_offset}),
	"a|{\"n\": 1}|0|0|1714564800.123|{\"h1\": \"v1\", \"h2\": null}\n|{\"n\": 3}|0|1|1714737600.000|\nd||0|2|1714824000.000|\nb|{\"n\": 2}|1|0|1714651200.000|",
	'key, payload, partition, offset, timestamp and headers, there and back');
sql(q{CREATE FOREIGN TABLE typed (n int, topic text OPTIONS (metadata 'topic'), kind text OPTIONS (metadata 'timestamp_type'),
	h1 text OPTIONS (metadata 'header:h1'), p int OPTIONS (metadata 'partition'), o bigint OPTIONS (metadata 'offset'))
	SERVER k OPTIONS (topic 'plain', format 'json')});
is(sql('SELECT n, topic, kind, h1 FROM typed WHERE p = 0 AND o = 0'), '1|plain|create|v1', 'the connector\'s own metadata');
is(sql('SELECT n FROM typed WHERE p = 1'), '2', 'one partition');
is(sql('SELECT n FROM typed WHERE p = 0 AND o BETWEEN 1 AND 1'), '3', 'one offset');
is(sql('SELECT count(*) FROM typed WHERE p = 77'), '0', 'a partition that is not there');
is(sql('SELECT count(*) FROM typed WHERE o > 1000'), '0', 'offsets that are not there');
is(sql(q{SELECT string_agg(coalesce(value, 'none'), ' ' ORDER BY kafka_timestamp) FROM topics.plain
	WHERE kafka_timestamp >= '2024-05-02' AND kafka_timestamp < '2024-05-04'}), '{"n": 2} {"n": 3}', 'a span of time');

# reading just what is asked for: a topic of 20,000 messages, ten of them
$kafka->tool('create', 'many', 1);
$kafka->tool('produce', 'many', 1, 20000, 100);
sql(q{IMPORT FOREIGN SCHEMA x LIMIT TO (many) FROM SERVER k INTO topics});
is(sql(q{SELECT count(*), min((value::jsonb ->> 'n')::int), max((value::jsonb ->> 'n')::int) FROM topics.many
	WHERE kafka_partition = 0 AND kafka_offset BETWEEN 15000 AND 15009}), '10|15001|15010', 'ten of many');
is(sql('SELECT count(*), count(DISTINCT value), max(kafka_offset) FROM topics.many'), '20000|20000|19999', 'all of many');
is(sql('SELECT count(*) FROM (SELECT 1 FROM topics.many LIMIT 5) x'), '5', 'a few, and the consumer is closed');

$kafka->tool('create', 'broken', 1);
$kafka->lines('broken', 0, 'no json', '{"n": 1}', 'no json either');
sql(q{CREATE FOREIGN TABLE broken (n int, o bigint OPTIONS (metadata 'offset')) SERVER k OPTIONS (topic 'broken')});
is(sql('SELECT n FROM broken WHERE o = 1'), '1', 'and nothing else is looked at');

# what was rolled back is not sent
sql(q{BEGIN; INSERT INTO topics.many (value) VALUES ('never'); ROLLBACK});
is(sql(q{SELECT count(*) FROM topics.many WHERE kafka_offset >= 20000}), '0', 'nothing of a transaction rolled back');

# codecs
$kafka->tool('create', 'codecs', 1);
for my $codec (qw(none gzip snappy lz4 zstd))
{
	sql(qq{CREATE FOREIGN TABLE c_$codec (v text) SERVER k OPTIONS (topic 'codecs', format 'text', compression '$codec');
		INSERT INTO c_$codec SELECT repeat('$codec ', 1000) FROM generate_series(1, 20)});
}
is(sql('SELECT count(*), count(DISTINCT v), sum(length(v)) FROM c_zstd'), '100|5|' . 20 * 1000 * (5 + 5 + 7 + 4 + 5), 'every codec');

# transactions of Kafka
$kafka->tool('create', 'transactions', 1);
sql(q{CREATE FOREIGN TABLE sure (v text) SERVER k OPTIONS (topic 'transactions', format 'text', transactional_id 'tests')});
sql(q{CREATE FOREIGN TABLE unsure (v text) SERVER k OPTIONS (topic 'transactions', format 'text', isolation_level 'read_uncommitted')});
my $session = Penstock::Session->new($node);
$session->must(q{INSERT INTO sure VALUES ('one')});
$session->must(q{BEGIN; INSERT INTO sure VALUES ('two'); INSERT INTO sure VALUES ('three'); COMMIT});
# more than waits for the commit: some is sent before the transaction fails
$session->query(q{BEGIN; INSERT INTO sure SELECT repeat('x', 100000) FROM generate_series(1, 200); SELECT 1/0; COMMIT});
$session->must('ROLLBACK');
$session->must(q{INSERT INTO sure VALUES ('four')});
is(sql(q{SELECT string_agg(v, ' ') FROM sure}), 'one two three four', 'committed transactions are read, aborted ones are not');
# how much of it was on its way when the transaction failed is a matter of time
cmp_ok(sql('SELECT count(*) FROM unsure'), '>=', 4, 'read_uncommitted shows at least those');
$session->quit;

# ---- what the broker refuses ----

sql(q{CREATE FOREIGN TABLE missing (v text) SERVER k OPTIONS (topic 'no-such-topic', format 'text')});
refused('SELECT * FROM missing', qr/Kafka has no topic "no-such-topic"/s, 'a topic that is not there, read');
refused(q{INSERT INTO missing VALUES ('x')}, qr/Kafka has no topic "no-such-topic"/s, 'and written');
refused(q{INSERT INTO topics.small (value) VALUES (repeat('x', 5000))}, qr/54000.*a message is too large for topic "small"/s,
	'too large for the topic');
refused(q{INSERT INTO topics.plain (value) VALUES (repeat('x', 2000000))}, qr/54000.*a message is too large.*max_message_size/s,
	'too large for max_message_size');
refused(q{INSERT INTO others.compacted (value) VALUES ('{}')}, qr/topic "compacted" does not accept a message.*needs a key/s,
	'a compacted topic without a key');
refused(q{INSERT INTO topics.plain (value, kafka_partition) VALUES ('x', 9)}, qr/topic "plain" has no such partition/,
	'a partition that is not there, written');
sql(q{INSERT INTO topics.small (value) VALUES ('fits')});
is(sql('SELECT string_agg(value, \' \') FROM topics.small'), 'fits', 'what was refused is not there, what fits is');

# ---- away ----

sql(q{CREATE SERVER nobody FOREIGN DATA WRAPPER kafka OPTIONS (bootstrap_servers '127.0.0.1:1')});
sql(q{CREATE FOREIGN TABLE gone (v text) SERVER nobody OPTIONS (topic 't', format 'text')});
refused('SELECT * FROM gone', qr/no Kafka broker of server "nobody" can be reached.*Connection refused/s, 'no broker, read');
refused(q{INSERT INTO gone VALUES ('x')}, qr/no Kafka broker of server "nobody" can be reached/s, 'no broker, written');
refused('IMPORT FOREIGN SCHEMA x FROM SERVER nobody INTO topics', qr/no Kafka broker of server "?nobody"? can be reached/, 'no broker, imported');
sql(q{CREATE SERVER unknown FOREIGN DATA WRAPPER kafka OPTIONS (bootstrap_servers 'no-such-host.invalid:9092')});
sql(q{CREATE FOREIGN TABLE nowhere (v text) SERVER unknown OPTIONS (topic 't', format 'text')});
refused('SELECT * FROM nowhere', qr/no-such-host.invalid/s, 'a host that is not known');

# ---- TLS, SASL ----

my ($ca, $other) = ($kafka->tls('ca.pem'), $kafka->tls('other.pem'));
sql(server('tls', 'SSL', "security_protocol 'ssl'", "ssl_ca_location '$ca'"));
sql(server('own', 'SSL', "security_protocol 'ssl'", "ssl_ca_location '$ca'",
	"ssl_certificate_location '" . $kafka->tls('client.pem') . "'", "ssl_key_location '" . $kafka->tls('client.key') . "'"));
sql(server('expired', 'EXPIRED', "security_protocol 'ssl'", "ssl_ca_location '$ca'"));
sql(server('stranger', 'SSL', "security_protocol 'ssl'", "ssl_ca_location '$other'"));
sql(server('nofile', 'SSL', "security_protocol 'ssl'", "ssl_ca_location '/no/such/file'"));
sql(server('mixed', 'PLAIN', "security_protocol 'ssl'", "ssl_ca_location '$ca'"));
sql(server('sasl', 'SASLSSL', "security_protocol 'sasl_ssl'", "ssl_ca_location '$ca'"));
sql(server('bare', 'SASL', "security_protocol 'sasl_plaintext'"));
sql("CREATE FOREIGN TABLE t_$_ (v text) SERVER $_ OPTIONS (topic 'small', format 'text')")
  for qw(tls own expired stranger nofile mixed sasl bare);
is(sql('SELECT v FROM t_tls'), 'fits', 'TLS');
is(sql('SELECT v FROM t_own'), 'fits', 'TLS with a certificate of our own');
refused('SELECT v FROM t_expired', qr/TLS with a broker of Kafka server "expired" fails.*has expired/s, 'an expired certificate');
refused('SELECT v FROM t_stranger', qr/TLS with a broker.*authority that is not trusted/s, 'a stranger\'s certificate');
refused('SELECT v FROM t_nofile', qr/the Kafka library cannot be set up for server "nofile".*ssl\.ca\.location/s, 'no such file');
refused('SELECT v FROM t_mixed', qr/"mixed".*SSL/s, 'TLS where there is none');
refused('SELECT v FROM t_bare', qr/bare/, 'a password is needed and not given');

my $wrong = 'wrong-secret-0815';
sql("CREATE USER MAPPING FOR PUBLIC SERVER $_ OPTIONS (username 'alice', password '$Kafka::password')") for qw(sasl bare);
is(sql("SELECT v FROM t_$_"), 'fits', "a password over $_") for qw(sasl bare);
sql("ALTER USER MAPPING FOR PUBLIC SERVER $_ OPTIONS (SET password '$wrong')") for qw(sasl bare);
refused("SELECT v FROM t_$_", qr/Kafka server "$_" refuses the user name or password/s, "a wrong password over $_") for qw(sasl bare);
refused("INSERT INTO t_bare VALUES ('x')", qr/refuses the user name or password/s, 'a wrong password, written');

# ---- the broker goes and comes ----

$session = Penstock::Session->new($node);
$session->must(q{INSERT INTO topics.small (value) VALUES ('before')});
sql(q{ALTER SERVER k OPTIONS (flush_timeout '2s')});
$session->must(q{INSERT INTO topics.small (value) VALUES ('before too')});
$kafka->kill;
$session->query(q{INSERT INTO topics.small (value) VALUES ('lost')});
like($session->error, qr/did not confirm 1 messages|can be reached/, 'an INSERT while the broker is dead fails');
refused('SELECT * FROM topics.small', qr/no Kafka broker of server "k"/, 'and so does a SELECT');
$kafka->restart;
$session->must(q{INSERT INTO topics.small (value) VALUES ('after')});
is(sql(q{SELECT string_agg(value, ' ' ORDER BY kafka_offset) FROM topics.small}), 'fits before before too after',
	'the same session goes on when it is back, and what failed is not there');
$session->quit;

# ---- secrets ----

my $log = slurp_file($node->logfile);
ok($log !~ /\Q$Kafka::password\E|\Q$wrong\E/, 'no password in the log');
is(sql(q{SELECT count(*) FROM pg_stat_activity a WHERE a::text ~ 'secret-' AND pid <> pg_backend_pid()}), '0', 'nor in pg_stat_activity');
is($node->safe_psql('postgres', q{SET ROLE plain_user; SELECT count(*) FROM pg_user_mappings u WHERE u::text ~ 'secret-'}), '0',
	'nor in a view that all can read');

done_testing();
