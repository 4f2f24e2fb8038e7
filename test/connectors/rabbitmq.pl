# RabbitMQ's queues: into tables and back, with a real broker.
use strict;
use warnings;
use FindBin;
use Penstock::Test;
use Penstock::Session;
use RabbitMQ;
use PostgreSQL::Test::Utils;
use Test::More;

my $broker = RabbitMQ->start or plan skip_all => RabbitMQ->why;
my $node = penstock_node('rabbitmq', 'log_statement = none');
my ($rc, $out, $err);

sub sql { return $node->safe_psql('postgres', $_[0]); }

# fails(sql, pattern, what)
sub fails
{
	my ($sql, $pattern, $what) = @_;
	($rc, $out, $err) = $node->psql('postgres', $sql);
	return like($err, $pattern, $what);
}

sub becomes
{
	my ($query, $wanted, $what) = @_;
	return ok($node->poll_query_until('postgres', "SELECT ($query)::text = '$wanted'"), $what);
}

# waits(pipe, pattern, what): the pipe says that it waits for its source, and why.
sub waits
{
	my ($pipe, $pattern, $what) = @_;
	return ok($node->poll_query_until('postgres',
		qq{SELECT coalesce(last_error, '') ~ \$\$$pattern\$\$ FROM penstock.stat_pipe WHERE pipe = '$pipe'}), $what)
	  || diag(sql(qq{SELECT state, last_error FROM penstock.stat_pipe WHERE pipe = '$pipe'}));
}

sub declare { return map { $broker->tool('declare', $_, 'classic') } @_; }

my $port = $broker->port;
my ($user, $password) = ($RabbitMQ::user, $RabbitMQ::password);
my $file = $broker->file('ca.pem');
declare(qw(orders samples out gone locked import_me big));
sql(qq{
	CREATE EXTENSION penstock_rabbitmq;
	CREATE SERVER rabbit FOREIGN DATA WRAPPER rabbitmq OPTIONS (host '127.0.0.1', port '$port');
	CREATE USER MAPPING FOR CURRENT_USER SERVER rabbit OPTIONS (username '$user', password '$password');
	CREATE FOREIGN TABLE orders (n int, message_id text OPTIONS (metadata 'message_id'),
		redelivered bool OPTIONS (metadata 'redelivered'), "offset" int8 OPTIONS (metadata 'offset'))
		SERVER rabbit OPTIONS (queue 'orders')});

# ---- SELECT ----

is(sql('SELECT count(*) FROM orders'), '0', 'an empty queue');
$broker->tool('publish', '', 'orders', 1, 2500, 100, 'id');
is(sql('SELECT count(*), min(n), max(n), min(message_id), bool_or(redelivered) FROM orders'), '2500|1|2500|m1|f', 'a SELECT reads what is there');
is(sql('SELECT count(*), min(n), max(n), bool_and(redelivered) FROM orders'), '2500|1|2500|t', 'and leaves it in the queue');
is(sql('SELECT n FROM orders LIMIT 3'), "1\n2\n3", 'in order, also after it was put back');
is($broker->tool('count', 'orders'), "2500\n", 'the broker still has all');

# ---- a pipe ----

sql(q{
	CREATE TABLE got (seq bigserial, n int, id text);
	CALL penstock.create_pipe('orders', 'INSERT INTO got (n, id) SELECT n, message_id FROM orders')});
becomes('SELECT count(*) FROM got', 2500, 'a pipe takes what is there');
is(sql('SELECT count(*) FROM (SELECT n, lag(n) OVER (ORDER BY seq) AS before FROM got) t WHERE n <> before + 1'), '0', 'in order');
$broker->tool('publish', '', 'orders', 2501, 4000, 0, 'id');
becomes('SELECT count(*) FROM got', 4000, 'and what comes');
becomes(q{SELECT lag_events FROM penstock.stat_pipe WHERE pipe = 'orders'}, 0, 'it knows that nothing is left');
is($broker->tool('count', 'orders'), "0\n", 'the broker has nothing any more');
sql(q{SELECT pg_terminate_backend(pid) FROM penstock.stat_pipe WHERE pipe = 'orders'});
$broker->tool('publish', '', 'orders', 4001, 4100, 0, 'id');
becomes('SELECT count(*) FROM got', 4100, 'a new worker goes on');
is(sql('SELECT count(DISTINCT n) FROM got'), '4100', 'nothing came twice');

# ---- everything of a message ----

sql(q{
	CREATE FOREIGN TABLE samples (body text OPTIONS (metadata 'payload'), key text OPTIONS (metadata 'key'),
		message_id text OPTIONS (metadata 'message_id'), at timestamptz OPTIONS (metadata 'timestamp'),
		headers jsonb OPTIONS (metadata 'headers'), nested jsonb OPTIONS (metadata 'header:nested'),
		number int8 OPTIONS (metadata 'header:number'), word text OPTIONS (metadata 'header:word'),
		exchange text OPTIONS (metadata 'exchange'), routing_key text OPTIONS (metadata 'routing_key'),
		correlation_id text OPTIONS (metadata 'correlation_id'), reply_to text OPTIONS (metadata 'reply_to'),
		type text OPTIONS (metadata 'type'), app_id text OPTIONS (metadata 'app_id'), user_id text OPTIONS (metadata 'user_id'),
		content_type text OPTIONS (metadata 'content_type'), content_encoding text OPTIONS (metadata 'content_encoding'),
		priority int OPTIONS (metadata 'priority'), expiration int8 OPTIONS (metadata 'expiration'),
		delivery_mode int OPTIONS (metadata 'delivery_mode'), n int)
		SERVER rabbit OPTIONS (queue 'samples')});
$broker->tool('exchange', 'shop', 'topic', 'samples', 'new.*');
$broker->tool('sample', 'shop', 'new.order');
becomes('SELECT count(*) FROM samples', 1, 'a message with everything');
is(sql(q{SELECT body, key, message_id, at AT TIME ZONE 'UTC', nested, number, word, n FROM samples}),
	qq({"n": 1}|new.order|id-1|2023-11-14 22:13:20|{"a\\"b": -7, "list": [true, null]}|12345678901|gr\xc3\xbcn|1), 'payload, metadata and headers');
is(sql('SELECT exchange, routing_key, correlation_id, reply_to, type, app_id, user_id, content_type, content_encoding, priority, expiration, delivery_mode FROM samples'),
	"shop|new.order|corr-1|answers|order|shop|$user|application/json|identity|3|3600000|1", 'properties');
is(sql(q{SELECT headers->>'price', headers->>'when', headers->'none', headers ? 'none' FROM samples}), '19.99|2023-11-14T22:13:20Z|null|t', 'other headers');

# ---- INSERT ----

sql(q{
	CREATE FOREIGN TABLE out_queue (n int, what text, message_id text OPTIONS (metadata 'message_id'),
		at timestamptz OPTIONS (metadata 'timestamp'), headers jsonb OPTIONS (metadata 'headers'),
		source text OPTIONS (metadata 'header:source'), type text OPTIONS (metadata 'type'),
		priority int OPTIONS (metadata 'priority'), correlation_id text OPTIONS (metadata 'correlation_id'))
		SERVER rabbit OPTIONS (queue 'out');
	CREATE FOREIGN TABLE shop (n int, routing_key text OPTIONS (metadata 'routing_key')) SERVER rabbit OPTIONS (exchange 'shop', routing_key 'new.default');
	CREATE FOREIGN TABLE careless (n int) SERVER rabbit OPTIONS (exchange 'shop', routing_key 'nobody', mandatory 'off', persistent 'off');
	CREATE FOREIGN TABLE nowhere (n int) SERVER rabbit OPTIONS (exchange 'nowhere');
	INSERT INTO out_queue (n, what, message_id, at, source, type, priority, correlation_id)
		VALUES (1, 'one', 'a1', '2023-11-14 22:13:20+00', 'test', 'greeting', 7, 'c')});
is($broker->tool('get', 'out'), qq(out id=a1 type=greeting correlation_id=c priority=7 delivery_mode=2 timestamp=1700000000 source:test {"n":1,"what":"one"}\n), 'INSERT sends a message with its properties');
sql('INSERT INTO out_queue (n) SELECT generate_series(1, 10000)');
my @lines = split /\n/, $broker->tool('get', 'out');
is(scalar(@lines), 10000, 'many messages');
is(join(',', map { /"n":(\d+)/ } @lines), join(',', 1 .. 10000), 'in order');
sql('BEGIN; INSERT INTO out_queue (n) VALUES (1); SAVEPOINT a; INSERT INTO out_queue (n) VALUES (2); ROLLBACK TO a; COMMIT');
sql('BEGIN; INSERT INTO out_queue (n) VALUES (3); ROLLBACK');
like($broker->tool('get', 'out'), qr/\A[^\n]*"n":1[^\n]*\n\z/, 'what is rolled back is not sent');
sql(q{INSERT INTO out_queue (n, what) SELECT 1, repeat('x', 3000000)});
ok(index($broker->tool('get', 'out'), 'x' x 3000000 . '"}') > 0, 'a message of many frames');
sql('INSERT INTO shop (n) VALUES (1)');
sql(q{INSERT INTO shop VALUES (2, 'new.special')});
is(sql('SELECT routing_key, n FROM samples ORDER BY n, routing_key'), "new.default|1\nnew.order|1\nnew.special|2", 'through an exchange');
fails(q{INSERT INTO shop VALUES (1, 'old.one'), (2, 'old.two')}, qr/could not route a message for exchange "shop", routing key "old.one".*312 NO_ROUTE.*mandatory/s, 'what nobody takes is an error');
sql(q{INSERT INTO shop VALUES (4, 'new.again')});
sql('INSERT INTO careless VALUES (1)');
pass('unless that is wanted');
fails('INSERT INTO nowhere VALUES (1)', qr/exchange "nowhere" does not exist in virtual host "\/"/, 'an exchange that does not exist');
fails(q{INSERT INTO out_queue (type) VALUES (repeat('x', 300))}, qr/type of a message is longer than 255 bytes/, 'a property that is too long');
fails(q{INSERT INTO out_queue (priority) VALUES (300)}, qr/priority of a message is not a number from 0 to 255/, 'a priority out of range');
fails(q{INSERT INTO out_queue (source) VALUES (repeat('x', 200000))}, qr/headers of a message do not fit into a frame/, 'headers that are too large');
sql('INSERT INTO out_queue (n) VALUES (5)');
like($broker->tool('get', 'out'), qr/\A[^\n]*"n":5[^\n]*\n\z/, 'and goes on after each of them');
$broker->tool('declare', 'full', 'classic', 'x-max-length=2', 'x-overflow=reject-publish');
sql(q{CREATE FOREIGN TABLE full_queue (n int) SERVER rabbit OPTIONS (queue 'full')});
fails('INSERT INTO full_queue SELECT generate_series(1, 10)', qr/did not take a message for exchange "", routing key "full".*basic.nack/s, 'a queue that is full');
fails('SELECT * FROM shop', qr/has no option "queue": it can only be written to/, 'an exchange cannot be read');

# ---- a pipe that writes ----

sql(q{
	CREATE TABLE to_shop (n int, key text) USING stream;
	CALL penstock.create_pipe('to_shop', 'INSERT INTO shop (n, routing_key) SELECT n, key FROM to_shop');
	INSERT INTO to_shop SELECT i, CASE WHEN i = 1050 THEN 'old.way' ELSE 'new.way' END FROM generate_series(1001, 1100) i});
becomes('SELECT count(*) FROM penstock.dead_letter', 1, 'a message that nobody takes is a dead letter');
like(sql('SELECT message FROM penstock.dead_letter'), qr/could not route a message for exchange "shop", routing key "old.way"/, 'that says why');
is(sql('SELECT count(DISTINCT n) FROM samples WHERE n > 1000'), '99', 'the others arrive');
sql(q{CALL penstock.drop_pipe('to_shop')});

# ---- what is refused ----

sql(qq{
	CREATE SERVER wrong FOREIGN DATA WRAPPER rabbitmq OPTIONS (host '127.0.0.1', port '$port');
	CREATE USER MAPPING FOR CURRENT_USER SERVER wrong OPTIONS (username '$user', password 'wrong-$password');
	CREATE SERVER nothing FOREIGN DATA WRAPPER rabbitmq OPTIONS (host '127.0.0.1', port '1');
	CREATE SERVER elsewhere FOREIGN DATA WRAPPER rabbitmq OPTIONS (host '127.0.0.1', port '$port', virtual_host 'elsewhere');
	CREATE USER MAPPING FOR CURRENT_USER SERVER elsewhere OPTIONS (username '$user', password '$password');
	CREATE FOREIGN TABLE wrong_password (n int) SERVER wrong OPTIONS (queue 'orders');
	CREATE FOREIGN TABLE no_broker (n int) SERVER nothing OPTIONS (queue 'orders');
	CREATE FOREIGN TABLE no_host (n int) SERVER elsewhere OPTIONS (queue 'orders');
	CREATE FOREIGN TABLE no_queue (n int) SERVER rabbit OPTIONS (queue 'does-not-exist')});
fails('SELECT * FROM wrong_password', qr/refused the user name or password/, 'a wrong password');
fails('SELECT * FROM no_broker', qr/port 1/, 'no broker');
fails('SELECT * FROM no_host', qr/does not let this user into virtual host "elsewhere"/, 'a virtual host that does not exist');
fails('SELECT * FROM no_queue', qr/queue "does-not-exist" does not exist in virtual host "\/"/, 'a queue that does not exist');
fails('CREATE FOREIGN TABLE nothing_named (n int) SERVER rabbit', qr/neither an option "queue" nor an option "exchange"/, 'neither queue nor exchange');
fails(q{CREATE FOREIGN TABLE bad (n int) SERVER rabbit OPTIONS (prefetch '0', queue 'q')}, qr/invalid value for option "prefetch".*1 to 65535/s, 'an option out of range');
fails(q{CREATE FOREIGN TABLE bad (n int OPTIONS (metadata 'nonsense')) SERVER rabbit}, qr/unknown metadata "nonsense".*correlation_id/s, 'unknown metadata');
sql(q{CREATE TABLE t (n int)});
sql(qq{CALL penstock.create_pipe('$_', 'INSERT INTO t SELECT n FROM $_')}) for qw(wrong_password no_broker no_queue);
waits('wrong_password', 'refused the user name or password', 'a pipe with a wrong password');
waits('no_broker', 'port 1', 'a pipe without a broker');
waits('no_queue', 'queue "does-not-exist" does not exist', 'a pipe without a queue');
sql(qq{ALTER USER MAPPING FOR CURRENT_USER SERVER wrong OPTIONS (SET password '$password')});
becomes(q{SELECT state ~ 'waiting|refused' FROM penstock.stat_pipe WHERE pipe = 'wrong_password'}, 'false', 'a password that is put right');
declare('does-not-exist');
$broker->tool('publish', '', 'does-not-exist', 1, 3);
becomes('SELECT count(*) FROM t', 3, 'a queue that comes to exist');
sql(qq{CALL penstock.drop_pipe('$_')}) for qw(wrong_password no_broker no_queue);

# ---- TLS ----

my $expired = RabbitMQ::free_port();
my $fake = $broker->spawn('openssl', 's_server', '-accept', "127.0.0.1:$expired", '-cert', $broker->file('expired.pem'),
	'-key', $broker->file('expired.key'), '-quiet');
RabbitMQ::answers($expired, 20);
sub tls
{
	my ($name, $tls_port, $host, $options) = @_;
	sql(qq{
		CREATE SERVER tls_$name FOREIGN DATA WRAPPER rabbitmq OPTIONS (host '$host', port '$tls_port', ssl 'on'$options);
		CREATE USER MAPPING FOR CURRENT_USER SERVER tls_$name OPTIONS (username '$user', password '$password');
		CREATE FOREIGN TABLE tls_$name (n int) SERVER tls_$name OPTIONS (queue 'big')});
	return "SELECT count(*) FROM tls_$name";
}
my $tls = $broker->port('tls');
is(sql(tls('good', $tls, 'localhost', qq{, ssl_ca_file '$file'})), '0', 'TLS');
is(sql(tls('client', $tls, 'localhost', qq{, ssl_ca_file '$file', ssl_cert_file '@{[ $broker->file('client.pem') ]}', ssl_key_file '@{[ $broker->file('client.key') ]}'})), '0', 'TLS with a certificate of the client');
is(sql(tls('none', $tls, '127.0.0.1', q{, ssl_verify 'none'})), '0', 'TLS without a check');
is(sql(tls('ca', $tls, '127.0.0.1', qq{, ssl_verify 'ca', ssl_ca_file '$file'})), '0', 'TLS with a check of the signer');
fails(tls('host', $tls, '127.0.0.1', qq{, ssl_ca_file '$file'}), qr/is not accepted: .*mismatch/, 'TLS with a name that is not the certificate\'s');
fails(tls('other', $tls, 'localhost', qq{, ssl_ca_file '@{[ $broker->file('other.pem') ]}'}), qr/is not accepted: .*issuer|is not accepted: .*self-signed/, 'TLS with a stranger\'s certificate');
fails(tls('expired', $expired, 'localhost', qq{, ssl_ca_file '$file'}), qr/is not accepted: certificate has expired/, 'TLS with a certificate that has expired');
fails(tls('file', $tls, 'localhost', q{, ssl_ca_file '/does/not/exist'}), qr{could not use file "/does/not/exist" of option "ssl_ca_file"}, 'TLS with a file that does not exist');
fails(tls('plain', $port, 'localhost', qq{, ssl_ca_file '$file'}), qr/no TLS connection/, 'TLS to a port that has none');
fails(qq{CREATE SERVER half FOREIGN DATA WRAPPER rabbitmq OPTIONS (ssl_cert_file '$file'); CREATE FOREIGN TABLE half (n int) SERVER half OPTIONS (queue 'q')}, qr/"ssl_cert_file" and "ssl_key_file" go together/, 'half a certificate');
CORE::kill('KILL', $fake);
waitpid($fake, 0);
sql('INSERT INTO tls_good SELECT generate_series(1, 3000)');
is(sql('SELECT count(*), sum(n) FROM tls_good'), '3000|4501500', 'TLS both ways');
sql(q{CREATE TABLE over_tls (n int); CALL penstock.create_pipe('over_tls', 'INSERT INTO over_tls SELECT n FROM tls_good')});
becomes('SELECT count(*) FROM over_tls', 3000, 'a pipe over TLS');
sql(q{CREATE ROLE simple LOGIN; GRANT USAGE ON FOREIGN DATA WRAPPER rabbitmq TO simple});
fails(q{SET ROLE simple; CREATE SERVER s FOREIGN DATA WRAPPER rabbitmq OPTIONS (ssl_ca_file '/etc/passwd')}, qr/permission denied to set option "ssl_ca_file"/, 'files are for superusers');

# ---- a queue that is deleted and made anew ----

sql(q{CREATE FOREIGN TABLE gone (n int) SERVER rabbit OPTIONS (queue 'gone'); CREATE TABLE from_gone (n int);
	CALL penstock.create_pipe('gone', 'INSERT INTO from_gone SELECT n FROM gone')});
$broker->tool('publish', '', 'gone', 1, 10);
becomes('SELECT count(*) FROM from_gone', 10, 'a queue is read');
$broker->tool('delete', 'gone');
waits('gone', 'queue "gone" (was deleted|does not exist)', 'and deleted');
declare('gone');
$broker->tool('publish', '', 'gone', 11, 20);
becomes('SELECT count(*) FROM from_gone', 20, 'and made anew');

# ---- back-pressure ----

sql(q{CREATE FOREIGN TABLE locked (n int) SERVER rabbit OPTIONS (queue 'locked', prefetch '100'); CREATE TABLE from_locked (n int);
	CALL penstock.create_pipe('locked', 'INSERT INTO from_locked SELECT n FROM locked')});
my $holder = Penstock::Session->new($node);
$holder->must('BEGIN; LOCK from_locked');
$broker->tool('publish', '', 'locked', 1, 20000, 1000);
is($broker->tool('count', 'locked'), "19900\n", 'a target that is locked: the broker keeps what is more than prefetch');
$holder->must('COMMIT');
becomes('SELECT count(*) FROM from_locked', 20000, 'and then goes on');
is(sql('SELECT count(DISTINCT n) FROM from_locked'), '20000', 'each once');

# ---- a batch that takes longer than the broker waits for a sign of life ----

declare('slow');
sql(qq{
	CREATE SERVER impatient FOREIGN DATA WRAPPER rabbitmq OPTIONS (host '127.0.0.1', port '$port', heartbeat '1 s');
	CREATE USER MAPPING FOR CURRENT_USER SERVER impatient OPTIONS (username '$user', password '$password');
	CREATE FOREIGN TABLE slow (n int) SERVER impatient OPTIONS (queue 'slow');
	CREATE TABLE from_slow (n int);
	CALL penstock.create_pipe('slow', 'INSERT INTO from_slow SELECT n FROM slow', dedup_window => '1 hour')});
$holder->must('BEGIN; LOCK from_slow');
$broker->tool('publish', '', 'slow', 1, 100, 0, 'id');
# count_becomes(queue, n): polls the broker.
sub count_becomes
{
	my ($queue, $n) = @_;
	for my $try (1 .. 600)
	{
		return 1 if $broker->tool('count', $queue) == $n;
		select(undef, undef, undef, 0.1);
	}
	return 0;
}
ok(count_becomes('slow', 0), 'the pipe has taken all');
ok(count_becomes('slow', 100), 'the broker takes the pipe for gone');
$holder->must('COMMIT');
becomes('SELECT count(*) FROM from_slow', 100, 'the batch is committed');
becomes(q{SELECT count(*) FROM penstock.stat_pipe WHERE pipe = 'slow' AND skipped > 0}, 1, 'its messages come again, and are recognised')
  or diag(sql(q{SELECT * FROM penstock.stat_pipe WHERE pipe = 'slow'}));
is(sql('SELECT count(*) FROM from_slow'), '100', 'each is there once');

# ---- a broker that is short of memory ----

$broker->ctl('set_vm_memory_high_watermark', '0.00000001');
fails(q{SET statement_timeout = '2s'; INSERT INTO out_queue (n, what) SELECT i, repeat('x', 1000000) FROM generate_series(1, 30) i},
	qr/canceling statement due to statement timeout/, 'a commit that waits for a broker without memory can be cancelled');
sql(q{ALTER SERVER rabbit OPTIONS (ADD flush_timeout '1s')});
fails('INSERT INTO out_queue (n) VALUES (7)', qr/did not take 1 messages within 1000 ms/, 'and does not wait for ever');
$broker->ctl('set_vm_memory_high_watermark', '0.4');
sql('ALTER SERVER rabbit OPTIONS (DROP flush_timeout)');
sql('INSERT INTO out_queue (n) VALUES (8)');
like($broker->tool('get', 'out'), qr/"n":8[^\n]*\n\z/, 'and goes on');

# ---- unusual messages ----

sql(q{CREATE FOREIGN TABLE big (n int, pad text, h jsonb OPTIONS (metadata 'headers')) SERVER rabbit OPTIONS (queue 'big'); CREATE TABLE from_big (n int, length int);
	CALL penstock.drop_pipe('over_tls'); CALL penstock.create_pipe('big', 'INSERT INTO from_big SELECT n, length(pad) FROM big')});
$broker->tool('publish', '', 'big', 1, 3, 5000000);
$broker->tool('deep', '', 'big', 26000);
$broker->tool('publish', '', 'big', 4, 4, 10);
becomes('SELECT max(n) FROM from_big', 4, 'large messages and deep headers pass');
is(sql('SELECT count(*) FROM from_big WHERE length > 4999900'), '3', 'whole');

# ---- IMPORT FOREIGN SCHEMA ----

sql(q{CREATE SCHEMA imported; IMPORT FOREIGN SCHEMA "/" LIMIT TO (import_me, samples) FROM SERVER rabbit INTO imported});
is(sql(q{SELECT routing_key FROM imported.samples WHERE message_id = 'id-1'}), 'new.order', 'IMPORT FOREIGN SCHEMA');
fails(q{IMPORT FOREIGN SCHEMA "/" FROM SERVER rabbit INTO imported}, qr/cannot list queues.*LIMIT TO/s, 'needs names');
fails(q{IMPORT FOREIGN SCHEMA "/" LIMIT TO (nothing_here) FROM SERVER rabbit INTO imported}, qr/queue "nothing_here" does not exist/, 'that exist');

# ---- the broker goes and comes ----

$broker->kill;
waits('orders', 'connection|broker', 'a broker that is killed');
$broker->come_back;
$broker->tool('publish', '', 'orders', 4101, 4200, 0, 'id');
becomes('SELECT count(*) FROM got', 4200, 'and comes back');
sql('INSERT INTO out_queue (n) VALUES (6)');
pass('producers connect again');

# ---- the page's options ----

my $page = slurp_file("$FindBin::RealBin/../../docs/rabbitmq.md");
my $lines = sql(q{
	SELECT DISTINCT '| `' || option || '` | ' || place || ' | ' || allowed || ' | ' || coalesce(nullif('`' || "default" || '`', '``'), '')
		|| ' | ' || description || CASE WHEN superuser THEN ' (superusers only)' ELSE '' END || ' |'
	FROM (SELECT * FROM penstock.connector_options('rabbitmq') UNION ALL SELECT * FROM penstock.connector_options('rabbitmq_stream')) o
	WHERE option NOT IN ('format', 'encoding', 'flush_timeout', 'claim_threshold', 'redeem', 'metadata')});
is(join("\n", grep { index($page, $_) < 0 } split /\n/, $lines), '', 'docs/rabbitmq.md has the options as they are');

# ---- secrets ----

my $log = slurp_file($node->logfile);
unlike($log, qr/\Q$password\E/, 'the password is not in the log') or diag(grep { /\Q$password\E/ } split /^/, $log);
is(sql(qq{SELECT count(*) FROM penstock.stat_pipe s WHERE s::text LIKE '%$password%'}), '0', 'nor in a view');
is(sql(qq{SELECT count(*) FROM penstock.dead_letter d WHERE d::text LIKE '%$password%'}), '0', 'nor in a dead letter');

$holder->quit;
$node->stop;
done_testing();
