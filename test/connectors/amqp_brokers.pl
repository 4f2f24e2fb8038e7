# The same connector against other brokers' AMQP 1.0: ActiveMQ, RabbitMQ.
use strict;
use warnings;
use Penstock::Test;
use ActiveMQ;
use RabbitMQ;
use PostgreSQL::Test::Utils;
use Test::More;

my %broker = (activemq => ActiveMQ->start, rabbitmq => RabbitMQ->start);
plan skip_all => ActiveMQ->why . ', ' . RabbitMQ->why unless $broker{activemq} || $broker{rabbitmq};
my $node = penstock_node('amqp_brokers', 'log_statement = none');
my ($rc, $out, $err);

sub sql { return $node->safe_psql('postgres', $_[0]); }

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
	  || diag(sql($query), sql('SELECT pipe, state, last_error FROM penstock.stat_pipe'));
}

# What all brokers must do.  Addresses are what the broker calls the queues; prepare makes them.
sub common
{
	my ($name, $broker, $login, $prefix, $prepare) = @_;
	my $port = $broker->port;
	my ($user, $password) = @$login;

	$prepare->("$name-$_") for qw(in out);
	sql(qq{
		CREATE SCHEMA $name;
		CREATE SERVER $name FOREIGN DATA WRAPPER amqp OPTIONS (host '127.0.0.1', port '$port');
		CREATE USER MAPPING FOR CURRENT_USER SERVER $name OPTIONS (username '$user', password '$password');
		CREATE FOREIGN TABLE $name.source (n int, id text OPTIONS (metadata 'message_id'), colour text OPTIONS (metadata 'header:colour'),
			subject text OPTIONS (metadata 'subject'), correlation_id text OPTIONS (metadata 'correlation_id'),
			content_type text OPTIONS (metadata 'content_type'), durable bool OPTIONS (metadata 'durable'))
			SERVER $name OPTIONS (address '$prefix$name-in');
		CREATE FOREIGN TABLE $name.sink (n int, id text OPTIONS (metadata 'message_id')) SERVER $name OPTIONS (address '$prefix$name-out');
		CREATE TABLE $name.arrived (n int, id text, seq int GENERATED ALWAYS AS IDENTITY)});
	sql(qq{INSERT INTO $name.source VALUES (1, 'i1', 'red', 's', 'c', 'text/json', true), (2, 'i2', 'blue', null, null, null, false)});
	is(sql("SELECT n, id, colour, subject, correlation_id, content_type FROM $name.source ORDER BY n"), "1|i1|red|s|c|text/json\n2|i2|blue|||", "$name: written and read");
	is(sql("SELECT count(*) FROM $name.source"), '2', "$name: a SELECT takes nothing away");
	sql(qq{CALL penstock.create_pipe('$name', 'INSERT INTO $name.arrived (n, id) SELECT n, id FROM $name.source', dedup_window => '1 hour')});
	becomes("SELECT string_agg(n::text, ',' ORDER BY n) FROM $name.arrived", '1,2', "$name: a pipe");
	sql("TRUNCATE $name.arrived RESTART IDENTITY");
	sql("INSERT INTO $name.source (n, id) SELECT i, 'k' || i FROM generate_series(1, 5000) i");
	becomes("SELECT count(*) FROM $name.arrived", '5000', "$name: a pipe takes many");
	is(sql("SELECT count(*) FROM $name.arrived WHERE n <> seq"), '0', "$name: in order");

	$broker->kill;
	becomes("SELECT state FROM penstock.stat_pipe WHERE pipe = '$name'", 'waiting for the source', "$name: killed");
	$broker->can('come_back') ? $broker->come_back : $broker->restart;
	becomes("SELECT state FROM penstock.stat_pipe WHERE pipe = '$name'", 'running', "$name: back");
	sql("INSERT INTO $name.source (n, id) SELECT i, 'k' || i FROM generate_series(4000, 6000) i");
	becomes("SELECT count(*) FROM $name.arrived", '6000', "$name: goes on, and what had arrived before is left out");
	sql("INSERT INTO $name.sink SELECT i, 'o' || i FROM generate_series(1, 300) i");
	is(sql("SELECT count(*), sum(n) FROM $name.sink"), '300|45150', "$name: a queue after the restart");
	sql("SELECT penstock.pause('$name')");
	becomes('SELECT count(*) FROM penstock.stat_pipe WHERE pid IS NOT NULL', '0', "$name: paused");
	is(sql("SELECT count(*) FROM $name.source"), '0', "$name: what is committed is the broker's no more");

	sql("ALTER USER MAPPING FOR CURRENT_USER SERVER $name OPTIONS (SET password 'not-this-one')");
	fails("SELECT * FROM $name.sink", qr/does not accept the login/, "$name: wrong password");
	sql("ALTER USER MAPPING FOR CURRENT_USER SERVER $name OPTIONS (SET password '$password')");
	return;
}

sql('CREATE EXTENSION penstock_amqp');
SKIP:
{
	skip(ActiveMQ->why, 1) unless $broker{activemq};
	common('activemq', $broker{activemq}, [ $Artemis::user, $Artemis::password ], '', sub { });
	# it shows no more than 400 messages to who only looks (maxBrowsePageSize)
	sql("INSERT INTO activemq.sink SELECT i FROM generate_series(301, 900) i");
	is(sql('SELECT count(*) FROM activemq.sink'), '400', 'activemq: a SELECT sees the first 400');
}
SKIP:
{
	skip(RabbitMQ->why, 1) unless $broker{rabbitmq};
	common('rabbitmq', $broker{rabbitmq}, [ $RabbitMQ::user, $RabbitMQ::password ], '/amq/queue/',
		sub { $broker{rabbitmq}->tool('declare', $_[0], 'classic') });
	sql(q{SELECT penstock.resume('rabbitmq')});
	becomes(q{SELECT state FROM penstock.stat_pipe WHERE pipe = 'rabbitmq'}, 'running', 'rabbitmq: resumed');
	$broker{rabbitmq}->tool('delete', 'rabbitmq-in');
	ok($node->poll_query_until('postgres', q{SELECT state = 'waiting for the source' AND last_error ~ '"/amq/queue/rabbitmq-in" (does not exist|has been deleted)'
		FROM penstock.stat_pipe WHERE pipe = 'rabbitmq'}), 'rabbitmq: a queue that is deleted is missed')
	  || diag(sql('SELECT pipe, state, last_error FROM penstock.stat_pipe'));
	$broker{rabbitmq}->tool('declare', 'rabbitmq-in', 'classic');
	sql(q{INSERT INTO rabbitmq.source (n, id) VALUES (7000, 'again')});
	becomes('SELECT max(n) FROM rabbitmq.arrived', '7000', 'rabbitmq: made anew, it is found');
	sql(q{CREATE FOREIGN TABLE rabbitmq.unknown (n int) SERVER rabbitmq OPTIONS (address '/amq/queue/unknown')});
	fails('SELECT * FROM rabbitmq.unknown', qr/AMQP address "\/amq\/queue\/unknown" does not exist/, 'rabbitmq: an unknown queue');
}
$node->stop;
done_testing();
