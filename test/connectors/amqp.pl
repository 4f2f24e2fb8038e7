# AMQP 1.0 queues and topics: into tables and back, with a real ActiveMQ Artemis.
use strict;
use warnings;
use Penstock::Test;
use Penstock::Session;
use Artemis;
use FindBin;
use PostgreSQL::Test::Utils;
use Test::More;

my $broker = Artemis->start or plan skip_all => Artemis->why;
my $node = penstock_node('amqp', 'log_statement = none');
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
	return ok($node->poll_query_until('postgres', "SELECT ($query)::text = '$wanted'"), $what)
	  || diag(sql($query));
}

# waits(pipe, pattern, what): the pipe says that it waits for its source, and why.
sub waits
{
	my ($pipe, $pattern, $what) = @_;
	return ok($node->poll_query_until('postgres',
		qq{SELECT state = 'waiting for the source' AND last_error ~ \$\$$pattern\$\$ FROM penstock.stat_pipe WHERE pipe = '$pipe'}), $what)
	  || diag(sql(qq{SELECT state, last_error FROM penstock.stat_pipe WHERE pipe = '$pipe'}));
}

# Encoded sections of messages, in hex digits.
sub bytes { return unpack('H*', $_[0]); }
sub string { return 'a1' . sprintf('%02x', length $_[0]) . bytes($_[0]); }
sub symbol { return 'a3' . sprintf('%02x', length $_[0]) . bytes($_[0]); }
sub data { return '005375b0' . sprintf('%08x', length $_[0]) . bytes($_[0]); }
sub value { return '005377' . $_[0]; }
sub compound { my ($code, @items) = @_; my $in = join '', @items; return $code . sprintf('%08x%08x', length($in) / 2 + 4, scalar @items) . $in; }
sub list { return compound('d0', @_); }
sub map_of { return compound('d1', @_); }

sub raw
{
	my ($address, @messages) = @_;
	open(my $in, '|-', $broker->command('raw', $address)) or die $!;
	print $in map { "$_\n" } @messages;
	close($in) or die "amqp_tool raw failed\n";
	return;
}

my ($user, $password) = ($Artemis::user, $Artemis::password);
my ($port, $tls, $expired) = map { $broker->port($_) } qw(plain tls expired);
sql(qq{
	CREATE EXTENSION penstock_amqp;
	CREATE SERVER artemis FOREIGN DATA WRAPPER amqp OPTIONS (host '127.0.0.1', port '$port');
	CREATE USER MAPPING FOR CURRENT_USER SERVER artemis OPTIONS (username '$user', password '$password');
	CREATE FOREIGN TABLE orders (n int, message_id text OPTIONS (metadata 'message_id'),
		redelivered bool OPTIONS (metadata 'redelivered'))
		SERVER artemis OPTIONS (address 'orders')});

# ---- SELECT ----

is(sql('SELECT count(*) FROM orders'), '0', 'an empty queue');
$broker->tool('send', 'orders', 1, 12000, 'id');
is(sql('SELECT count(*), sum(n), min(message_id) FROM orders'), '12000|72006000|1', 'a SELECT reads what is there');
is(sql('SELECT count(*), sum(n), bool_or(redelivered) FROM orders'), '12000|72006000|f', 'and leaves it in the queue');
is(sql('SELECT n FROM orders LIMIT 3'), "1\n2\n3", 'in order');
is($broker->tool('drop', 'orders'), "12000\n", 'the broker still has all');

# ---- what a message holds ----

sql(q{
	CREATE FOREIGN TABLE all_there_is (
		payload text OPTIONS (metadata 'payload'), key text OPTIONS (metadata 'key'), id text OPTIONS (metadata 'message_id'),
		at timestamptz OPTIONS (metadata 'timestamp'), headers jsonb OPTIONS (metadata 'headers'),
		colour text OPTIONS (metadata 'header:colour'), durable bool OPTIONS (metadata 'durable'),
		priority int OPTIONS (metadata 'priority'), ttl int8 OPTIONS (metadata 'ttl'),
		delivery_count int OPTIONS (metadata 'delivery_count'),
		subject text OPTIONS (metadata 'subject'), reply_to text OPTIONS (metadata 'reply_to'),
		correlation_id text OPTIONS (metadata 'correlation_id'), content_type text OPTIONS (metadata 'content_type'),
		content_encoding text OPTIONS (metadata 'content_encoding'), to_address text OPTIONS (metadata 'to'),
		expiry_time timestamptz OPTIONS (metadata 'expiry_time'),
		group_id text OPTIONS (metadata 'group_id'), group_sequence int8 OPTIONS (metadata 'group_sequence'),
		reply_to_group_id text OPTIONS (metadata 'reply_to_group_id'),
		annotations jsonb OPTIONS (metadata 'annotations'), note text OPTIONS (metadata 'annotation:x-opt-note'),
		number int8 OPTIONS (metadata 'annotation:x-opt-number')
	) SERVER artemis OPTIONS (address 'all', format 'text')});
sql(q{
	INSERT INTO all_there_is (payload, key, id, at, headers, priority, ttl, durable, subject, reply_to, correlation_id, content_type,
			content_encoding, expiry_time, group_sequence, reply_to_group_id, note, number)
	VALUES ('hello', 'k1', 'id-1', '2024-02-29 12:00:00.123+00', '{"colour": "red", "size": null}', 7, 3600000, false, 'sub', 'back', 'corr',
			'text/plain', 'none', '2100-01-01 00:00:00+00', 4000000000, 'g2', 'a note', 12345678901)});
is(sql(q{SELECT payload, key, id, at AT TIME ZONE 'UTC', headers, colour, priority, ttl, durable, subject, reply_to, correlation_id,
	content_type, content_encoding, expiry_time AT TIME ZONE 'UTC', group_id, group_sequence, reply_to_group_id, note, number,
	annotations - 'x-opt-ingress-time', to_address IS NULL, delivery_count FROM all_there_is}),
	'hello|k1|id-1|2024-02-29 12:00:00.123|{"size": null, "colour": "red"}|red|7|3600000|f|sub|back|corr|text/plain|none|2100-01-01 00:00:00|k1|'
	. '4000000000|g2|a note|12345678901|{"x-opt-note": "a note", "x-opt-number": 12345678901}|t|', 'what was written is read');
$broker->tool('drop', 'all');

# ids of each type
raw('all', map { '005373' . list($_) . data('x') } string('text'), '800000000000000007', '98' . '00112233445566778899aabbccddeeff', 'a003' . '00ff10');
is(sql('SELECT id FROM all_there_is'), "text\n7\n00112233-4455-6677-8899-aabbccddeeff\n00ff10", 'message ids of each type');
$broker->tool('drop', 'all');

# bodies of each kind
my @bodies = (
	[ data('one') . data(' and ') . data('two'), 'one and two', 'several pieces of data' ],
	[ value(string('a string')), 'a string', 'a string' ],
	[ value('41'), 'true', 'a boolean' ],
	[ value('55fe'), '-2', 'a number' ],
	[ value('824004000000000000'), '2.5', 'a double' ],
	[ value('8300000192f0000000'), '2024-11-03T03:09:44.832Z', 'a timestamp' ],
	[ value(map_of(string('a'), list('5401', string("q\"\n")), string('b'), '40')), '{"a":[1,"q\\"\\u000a"],"b":null}', 'a map' ],
	[ '005376' . list('5401') . '005376' . '45' . '005376' . list('5402', '5403'), '[1,2,3]', 'sequences' ],
	[ value('e0' . '05' . '03' . '54' . '010203'), '[1,2,3]', 'an array' ],
	[ value('40'), undef, 'null' ],
	[ '', '', 'not there, nor anything else' ],
	[ value(join('', map { 'd0' . sprintf('%08x%08x', 4 + 9 * (99 - $_), 1) } 0 .. 98) . '45'), undef, 'a list too deep' ],
);
$bodies[-1][1] = pack('H*', $bodies[-1][0]);
raw('all', map { $_->[0] } @bodies);
sql(q{CREATE FOREIGN TABLE bodies (payload bytea OPTIONS (metadata 'payload')) SERVER artemis OPTIONS (address 'all')});
my @got = split /\n/, sql(q{SELECT coalesce(encode(payload, 'hex'), '(null)') FROM bodies});
for my $i (0 .. $#bodies)
{
	is($got[$i], defined $bodies[$i][1] ? bytes($bodies[$i][1]) : '(null)', "a body that is $bodies[$i][2]");
}
$broker->tool('drop', 'all');

# application properties of each type
raw('all', '005374' . map_of(string('s'), string('v'), string('n'), '71fffffff0', string('b'), '42', string('u'), '80ffffffffffffffff',
	string('z'), '40', string('d'), '724048f5c3', string('x'), 'a0020102') . data('p'));
is(sql('SELECT headers FROM all_there_is'),
	'{"b": "false", "d": "3.14", "n": "-16", "s": "v", "u": "18446744073709551615", "x": "0102", "z": null}', 'application properties of each type');
$broker->tool('drop', 'all');

# ---- a pipe ----

sql(q{
	CREATE TABLE arrived (n int, message_id text, seq int GENERATED ALWAYS AS IDENTITY);
	CALL penstock.create_pipe('orders', 'INSERT INTO arrived (n, message_id) SELECT n, message_id FROM orders')});
$broker->tool('send', 'orders', 1, 20000, 'id');
becomes('SELECT count(*) FROM arrived', '20000', 'a pipe takes everything');
is(sql('SELECT count(*) FROM arrived WHERE n <> seq'), '0', 'in order');
sql('SELECT penstock.pause($$orders$$)');
becomes(q{SELECT count(*) FROM penstock.stat_pipe WHERE pid IS NOT NULL}, '0', 'paused');
is($broker->tool('drop', 'orders'), "0\n", 'what is committed is the broker\'s no more');
sql('TRUNCATE arrived');

# poison
raw('orders', data('{"n": 1}'), data('{"n": "one"}'), data('{"n": 2}'), data("{\"n\": 3, \"s\": \"\xff\"}"),
	data('[' x 5000), data('{"n": 4, "s": "' . ('x' x 6_000_000) . '"}'), data('{"n": 5}'));
sql('SELECT penstock.resume($$orders$$)');
becomes(q{SELECT count(*) FROM penstock.dead_letter}, '3', 'what cannot be read is a dead letter')
  || diag(sql(q{SELECT sqlstate, message, left(d::text, 300) FROM penstock.dead_letter d}));
becomes(q{SELECT string_agg(n::text, ',' ORDER BY seq) FROM arrived}, '1,2,4,5', 'the others arrive');
$broker->tool('send', 'orders', 6, 6);
becomes(q{SELECT max(n) FROM arrived}, '6', 'and it goes on');

# a worker that is killed
sql('TRUNCATE arrived');
sql(q{SELECT pg_terminate_backend(pid) FROM penstock.stat_pipe WHERE pid IS NOT NULL});
$broker->tool('send', 'orders', 1, 1000);
becomes('SELECT count(DISTINCT n) FROM arrived', '1000', 'a new worker takes over');

# ---- the broker goes and comes ----

my $cpu = sub { my $pid = sql(q{SELECT pid FROM penstock.stat_pipe WHERE pipe = 'orders'}); my @stat = split ' ', slurp_file("/proc/$pid/stat"); return $stat[13] + $stat[14]; };
$broker->kill;
waits('orders', 'could not connect to AMQP broker "127.0.0.1:\d+": Connection refused', 'a broker that is away is named');
my $before = $cpu->();
fails('SELECT count(*) FROM orders', qr/ERROR:  .*could not connect to AMQP broker/, 'a SELECT says so too');
fails('INSERT INTO orders (n) VALUES (1)', qr/ERROR:  .*could not connect to AMQP broker/, 'and an INSERT');
cmp_ok($cpu->() - $before, '<', 20, 'waiting burns no CPU');
$broker->restart;
$broker->tool('send', 'orders', 2000, 2100);
becomes('SELECT count(DISTINCT n) FROM arrived WHERE n >= 2000', '101', 'and is found again');

# ---- writing ----

sql(q{CREATE FOREIGN TABLE out (n int, id text OPTIONS (metadata 'message_id')) SERVER artemis OPTIONS (address 'out', body 'string', content_type 'text/json')});
sql(q{INSERT INTO out SELECT i, 'o' || i FROM generate_series(1, 5000) i});
sql(q{BEGIN; INSERT INTO out VALUES (-1); ROLLBACK});
sql(q{BEGIN; INSERT INTO out VALUES (5001); SAVEPOINT a; INSERT INTO out VALUES (-2); ROLLBACK TO a; COMMIT});
is(sql('SELECT count(*), min(n), max(n) FROM out'), '5001|1|5001', 'a transaction that rolls back writes nothing');
is(scalar(() = $broker->tool('receive', 'out', 5001) =~ /^\{"n":\d+\}$/mg), 5001, 'others read it as strings');

my $session = Penstock::Session->new($node);
$session->must('INSERT INTO out VALUES (1)');
$broker->kill;
$session->query('INSERT INTO out VALUES (2)');
like($session->error, qr/could not connect to AMQP broker|AMQP broker/, 'a session notices that the broker is gone');
$broker->restart;
$session->must('INSERT INTO out VALUES (3)');
is(sql('SELECT n FROM out'), "1\n3", 'and comes back to it');
$broker->tool('drop', 'out');

sql(q{CREATE FOREIGN TABLE filled (t text) SERVER artemis OPTIONS (address 'full.up', format 'text')});
fails(q{INSERT INTO filled SELECT repeat('x', 3000) FROM generate_series(1, 100)}, qr/ERROR:  .*"full.up"/, 'what the broker refuses is an error');
# that an address is full is no message's fault: a pipe waits for room
sql(q{
	CREATE TABLE to_be_sent (t text) USING stream;
	CREATE FOREIGN TABLE filling (t text) SERVER artemis OPTIONS (address 'full.later', format 'text');
	CALL penstock.create_pipe('filling', 'INSERT INTO filling SELECT t FROM to_be_sent')});
fails(q{INSERT INTO filling SELECT repeat('x', 3000) FROM generate_series(1, 100)}, qr/ERROR:  .*"full.later"/, 'a full address');
sql(q{INSERT INTO to_be_sent VALUES ('y')});
becomes(q{SELECT state ~ 'waiting|running' AND last_error ~ 'full.later' FROM penstock.stat_pipe WHERE pipe = 'filling'}, 'true', 'a pipe waits for room in it');
$broker->tool('drop', 'full.later');
sql(q{SELECT penstock.catch_up('filling')});
is(scalar(() = $broker->tool('receive', 'full.later', 1) =~ /^y$/mg), 1, 'and goes on when there is some');
is(sql(q{SELECT count(*) FROM penstock.dead_letter WHERE pipe_name = 'filling'}), '0', 'without a dead letter');
sql(q{CALL penstock.drop_pipe('filling')});
fails(q{INSERT INTO all_there_is (payload, delivery_count) VALUES ('x', 3)}, qr/"delivery_count" of an AMQP message cannot be written/, 'what only the broker says cannot be written');
fails(q{INSERT INTO all_there_is (payload, priority) VALUES ('x', 1000)}, qr/"priority" of an AMQP message must be a number from 0 to 255/, 'nor what does not fit');

# a pipe from queue to queue
sql(q{CALL penstock.create_pipe('sink', 'INSERT INTO out SELECT n * 2, message_id FROM orders2')}) if sql(q{
	CREATE FOREIGN TABLE orders2 (n int, message_id text OPTIONS (metadata 'message_id')) SERVER artemis OPTIONS (address 'orders2');
	SELECT true});
$broker->tool('send', 'orders2', 1, 1000, 'id');
is(scalar(() = $broker->tool('receive', 'out', 1000) =~ /^\{"n":\d*[02468]\}$/mg), 1000, 'a pipe writes to another queue');
sql(q{CALL penstock.drop_pipe('sink')});

# ---- topics, selectors ----

sql(q{
	CREATE TABLE news_arrived (n int);
	CREATE FOREIGN TABLE news (n int) SERVER artemis OPTIONS (address 'topic.news', capability 'topic', durable_subscription 'on');
	CALL penstock.create_pipe('news', 'INSERT INTO news_arrived SELECT n FROM news')});
# what is sent before somebody subscribes is nobody's
for (1 .. 100)
{
	$broker->tool('send', 'topic.news', 0, 0);
	last if sql('SELECT count(*) FROM news_arrived') > 0;
}
$broker->tool('send', 'topic.news', 1, 10);
becomes('SELECT count(*) FROM news_arrived WHERE n > 0', '10', 'a topic');
sql(q{SELECT penstock.pause('news')});
becomes(q{SELECT count(*) FROM penstock.stat_pipe WHERE pid IS NOT NULL AND pipe = 'news'}, '0', 'paused');
$broker->tool('send', 'topic.news', 11, 20);
sql(q{SELECT penstock.resume('news')});
becomes('SELECT count(*) FROM news_arrived WHERE n > 0', '20', 'a durable subscription keeps what comes meanwhile');
sql(q{CALL penstock.drop_pipe('news')});

sql(q{
	CREATE FOREIGN TABLE to_select (t text, colour text OPTIONS (metadata 'header:colour')) SERVER artemis OPTIONS (address 'selected', format 'text');
	CREATE FOREIGN TABLE reds (t text) SERVER artemis OPTIONS (address 'selected', format 'text', selector $$colour = 'red'$$);
	INSERT INTO to_select VALUES ('a', 'red'), ('b', 'blue'), ('c', 'red')});
is(sql('SELECT t FROM reds'), "a\nc", 'a selector');

# ---- other ways to settle and to log in ----

sql(qq{
	CREATE SERVER guests FOREIGN DATA WRAPPER amqp OPTIONS (host '127.0.0.1', port '$port');
	CREATE TABLE guests_arrived (n int);
	CREATE FOREIGN TABLE guests_orders (n int) SERVER guests OPTIONS (address 'guests', settle 'when_sent', credit '100');
	CALL penstock.create_pipe('guests', 'INSERT INTO guests_arrived SELECT n FROM guests_orders')});
$broker->tool('send', 'guests', 1, 2000);
becomes('SELECT count(DISTINCT n) FROM guests_arrived', '2000', 'ANONYMOUS, settled when sent');
sql(q{CALL penstock.drop_pipe('guests')});

# ---- back-pressure ----

sql(q{
	CREATE TABLE slow (n int);
	CREATE FOREIGN TABLE slowly (n int) SERVER artemis OPTIONS (address 'slow', credit '500');
	CALL penstock.create_pipe('slow', 'INSERT INTO slow SELECT n FROM slowly')});
becomes(q{SELECT state FROM penstock.stat_pipe WHERE pipe = 'slow'}, 'running', 'a pipe with little credit');
$session->must('BEGIN; LOCK TABLE slow IN SHARE MODE');
$broker->tool('send', 'slow', 1, 20000, 'pad=2000');
ok($node->poll_query_until('postgres', q{SELECT count(*) > 0 FROM pg_locks WHERE NOT granted}), 'its target is locked');
my $worker = sql(q{SELECT pid FROM penstock.stat_pipe WHERE pipe = 'slow'});
my ($memory) = slurp_file("/proc/$worker/status") =~ /^RssAnon:\s+(\d+) kB/m;
cmp_ok($memory, '<', 50_000, "its memory stays small ($memory kB)");
like($broker->tool('drop', 'slow'), qr/^(19[5-9]|20000)/, 'the broker keeps all but what there is credit for');
$session->must('COMMIT');
becomes('SELECT count(*) BETWEEN 1 AND 500 FROM slow', 'true', 'which arrive in the end');

# ---- messages that are too large ----

sql(q{
	CREATE TABLE small (n int);
	CREATE FOREIGN TABLE smalls (n int) SERVER artemis OPTIONS (address 'small', max_message_size '1 MB');
	CALL penstock.create_pipe('small', 'INSERT INTO small SELECT n FROM smalls')});
raw('small', data('{"n": 1}'), data('{"n": 2, "s": "' . ('x' x 2_000_000) . '"}'), data('{"n": 3}'));
waits('small', 'a message of AMQP address "small" is larger than option "max_message_size" allows', 'a message that is too large stops the pipe');
is(sql('SELECT DISTINCT n FROM small'), '1', 'what came before it is in');
sql(q{ALTER FOREIGN TABLE smalls OPTIONS (SET max_message_size '4 MB')});
becomes('SELECT string_agg(DISTINCT n::text, $$,$$) FROM small', '1,2,3', 'a larger option lets it through');

# ---- who may not ----

sql(qq{
	CREATE SERVER wrong FOREIGN DATA WRAPPER amqp OPTIONS (host '127.0.0.1', port '$port');
	CREATE USER MAPPING FOR CURRENT_USER SERVER wrong OPTIONS (username '$user', password 'not-$password');
	CREATE FOREIGN TABLE wrong_orders (n int) SERVER wrong OPTIONS (address 'wrong');
	CREATE TABLE wrong_arrived (n int);
	CALL penstock.create_pipe('wrong', 'INSERT INTO wrong_arrived SELECT n FROM wrong_orders');
	CREATE SERVER readers FOREIGN DATA WRAPPER amqp OPTIONS (host '127.0.0.1', port '$port');
	CREATE USER MAPPING FOR CURRENT_USER SERVER readers OPTIONS (username 'reader', password '$password');
	CREATE FOREIGN TABLE read_only (n int) SERVER readers OPTIONS (address 'out')});
waits('wrong', 'does not accept the login', 'a wrong password');
fails('SELECT * FROM wrong_orders', qr/does not accept the login.*HINT:  Check username and password/s, 'with a hint');
sql(qq{ALTER USER MAPPING FOR CURRENT_USER SERVER wrong OPTIONS (SET password '$password')});
$broker->tool('send', 'wrong', 1, 1);
becomes('SELECT count(*) FROM wrong_arrived', '1', 'mended, it goes on by itself');
fails('INSERT INTO read_only VALUES (1)', qr/the broker does not permit the use of AMQP address "out"/, 'no permission');

sql(q{
	CREATE FOREIGN TABLE unknown (n int) SERVER artemis OPTIONS (address 'strict.unknown');
	CREATE TABLE unknown_arrived (n int);
	CALL penstock.create_pipe('unknown', 'INSERT INTO unknown_arrived SELECT n FROM unknown')});
waits('unknown', '"strict.unknown" does not exist', 'an unknown address');
fails('SELECT * FROM unknown', qr/ERROR:  .*AMQP address "strict.unknown" does not exist.*DETAIL:  The broker says: amqp:not-found/s, 'of a SELECT');
fails('INSERT INTO unknown VALUES (1)', qr/ERROR:  .*AMQP address "strict.unknown" does not exist/, 'of an INSERT');

# ---- TLS ----

my ($ca, $other) = map { $broker->file($_) } qw(ca.pem other.pem);
for my $case ([ good => $tls, "ssl_ca_file '$ca'" ], [ expired => $expired, "ssl_ca_file '$ca'" ], [ stranger => $tls, "ssl_ca_file '$other'" ],
	[ careless => $expired, "ssl_verify 'none'" ], [ otherhost => $tls, "ssl_ca_file '$ca'", '127.0.0.1' ],
	[ anyhost => $tls, "ssl_ca_file '$ca', ssl_verify 'ca'", '127.0.0.1' ], [ missing => $tls, "ssl_ca_file '/nonexistent'" ], [ plain => $port, "ssl_ca_file '$ca'" ])
{
	my ($name, $at, $options, $host) = @$case;
	$host ||= 'localhost';
	sql(qq{
		CREATE SERVER $name FOREIGN DATA WRAPPER amqp OPTIONS (host '$host', port '$at', ssl 'on', connect_timeout '5 s', $options);
		CREATE USER MAPPING FOR CURRENT_USER SERVER $name OPTIONS (username '$user', password '$password');
		CREATE FOREIGN TABLE tls_$name (t text) SERVER $name OPTIONS (address 'tls', format 'text')});
}
sql(q{INSERT INTO tls_good VALUES ('encrypted')});
is(sql('SELECT t FROM tls_good'), 'encrypted', 'TLS');
is(sql('SELECT t FROM tls_careless'), 'encrypted', 'TLS without checks');
is(sql('SELECT t FROM tls_anyhost'), 'encrypted', 'TLS without the check of the host');
for my $name (qw(expired stranger otherhost))
{
	fails("SELECT t FROM tls_$name", qr/the TLS certificate of AMQP broker .* is not accepted/, "a certificate that does not do: $name");
}
fails('SELECT t FROM tls_missing', qr/could not use option "ssl_ca_file"/, 'a file that is not there');
fails('SELECT t FROM tls_plain', qr/no TLS connection to AMQP broker|lost the connection|closed the connection|does not answer/, 'a broker without TLS');
sql(q{CREATE TABLE tls_arrived (t text); CALL penstock.create_pipe('tls', 'INSERT INTO tls_arrived SELECT t FROM tls_good')});
becomes('SELECT t FROM tls_arrived', 'encrypted', 'a pipe over TLS');
sql(qq{ALTER SERVER good OPTIONS (SET port '$expired')});
sql(q{SELECT pg_terminate_backend(pid) FROM penstock.stat_pipe WHERE pipe = 'tls'});
waits('tls', 'certificate of AMQP broker "localhost:\d+" is not accepted', 'a pipe says that the certificate has expired');
sql(qq{ALTER SERVER good OPTIONS (SET port '$tls')});

# ---- import, options ----

sql('CREATE SCHEMA imported');
sql(q{IMPORT FOREIGN SCHEMA amqp LIMIT TO ("tls", "to be.imported") FROM SERVER artemis INTO imported});
is(sql(q{SELECT string_agg(relname, ',' ORDER BY relname) FROM pg_class WHERE relnamespace = 'imported'::regnamespace}), 'tls,to be.imported', 'addresses that are named are imported');
fails(q{IMPORT FOREIGN SCHEMA amqp FROM SERVER artemis INTO imported}, qr/cannot list its addresses.*HINT/s, 'others cannot be');
fails(q{IMPORT FOREIGN SCHEMA amqp LIMIT TO ("strict.no") FROM SERVER artemis INTO imported}, qr/"strict.no" does not exist/, 'nor what does not exist');

fails(q{CREATE FOREIGN TABLE bad (n int) SERVER artemis OPTIONS (format 'json')}, qr/address/, 'an address is needed');
fails(q{CREATE FOREIGN TABLE bad (n int) SERVER artemis OPTIONS (address 'x', credit '0')}, qr/credit/, 'credit out of range');
fails(q{CREATE FOREIGN TABLE bad (n int) SERVER artemis OPTIONS (address 'x', durable_subscription 'on')}, qr/needs a topic/, 'a subscription to a queue');
fails(q{CREATE FOREIGN TABLE bad (n int OPTIONS (metadata 'colour')) SERVER artemis OPTIONS (address 'x')}, qr/unknown metadata "colour"/, 'unknown metadata');
sql(q{CREATE SERVER half FOREIGN DATA WRAPPER amqp OPTIONS (ssl_cert_file '/x')});
fails(q{CREATE FOREIGN TABLE half_t (n int) SERVER half OPTIONS (address 'x')}, qr/go together/, 'a certificate without its key');

# ---- the page's options ----

my $page = slurp_file("$FindBin::RealBin/../../docs/amqp.md");
my $lines = sql(q{
	SELECT '| `' || option || '` | ' || place || ' | ' || allowed || ' | ' || coalesce(nullif('`' || "default" || '`', '``'), '')
		|| ' | ' || description || CASE WHEN superuser THEN ' (superusers only)' ELSE '' END || ' |'
	FROM penstock.connector_options('amqp') WHERE option NOT IN ('format', 'encoding', 'flush_timeout', 'claim_threshold', 'redeem')});
is(join("\n", grep { index($page, $_) < 0 } split /\n/, $lines), '', 'docs/amqp.md has the options as they are');

# ---- secrets ----

my $log = slurp_file($node->logfile);
my $shown = sql(q{SELECT string_agg(s::text, '') FROM penstock.stat_pipe s}) . sql(q{SELECT string_agg(s::text, '') FROM pg_stat_activity s WHERE pid <> pg_backend_pid()})
  . sql(q{SELECT string_agg(d::text, '') FROM penstock.dead_letter d});
unlike($log, qr/\Q$password\E/, 'no password in the log');
unlike($shown, qr/\Q$password\E/, 'nor in a view');
unlike($log . $shown, qr/\Q$user\E/, 'nor the user name');
unlike($log, qr/PANIC|was terminated by signal/, 'nothing crashed');

$session->quit;
$node->stop;
done_testing();
