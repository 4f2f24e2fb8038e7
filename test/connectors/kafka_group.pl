# Three servers that share a topic of 12 partitions as one consumer group: nothing lost and nothing doubled in the union, while
# one is killed and started again, joins late and leaves.  Three brokers, of which one is killed too.
use strict;
use warnings;
use Penstock::Test;
use Penstock::Session;
use PostgreSQL::Test::Utils;
use Test::More;
use Kafka;

my $kafka = Kafka->start(nodes => 3) or plan skip_all => Kafka->why;
my $each = $ENV{KAFKA_EVENTS} || 30000;
my (%node, $sent);

# member(name): a server with a pipe in the group.
sub member
{
	my ($name) = @_;
	my $node = $node{$name} = penstock_node("kafka_group_$name", 'log_statement = none', 'log_min_messages = warning');

	$node->safe_psql('postgres', 'CREATE EXTENSION penstock_kafka');
	$node->safe_psql('postgres', "CREATE SERVER k FOREIGN DATA WRAPPER kafka OPTIONS (bootstrap_servers '" . $kafka->servers . "')");
	$node->safe_psql('postgres', q{
		CREATE FOREIGN TABLE shared (n bigint, p int OPTIONS (metadata 'partition'), o bigint OPTIONS (metadata 'offset'))
			SERVER k OPTIONS (topic 'shared', "group" 'tests', session_timeout '20 s');
		CREATE TABLE got (id bigserial, n bigint, p int, o bigint);
		CALL penstock.create_pipe('shared', 'INSERT INTO got (n, p, o) SELECT n, p, o FROM shared')});
	return;
}

sub got { return $_[0]->safe_psql('postgres', 'SELECT count(*) FROM got'); }

# produce(): more messages, in the background; its producer outlives the brokers' failures.
sub produce
{
	my $from = $sent || 0;
	$sent = $from + $each;
	return IPC::Run::start([ $kafka->folder . '/kafka_tool', $kafka->servers(undef, 1), 'produce', 'shared', $from + 1, $sent, 100 ], '>', \my $out);
}

# Has everything that was sent arrived somewhere?
sub all_here
{
	my ($what) = @_;
	my $end = time + 120;
	my $count = 0;

	while (time < $end && $count < $sent)
	{
		$count = 0;
		$count += got($_) for values %node;
		select(undef, undef, undef, 0.2) if $count < $sent;
	}
	diag(map { $_->name . ': ' . $_->safe_psql('postgres', 'SELECT state, events, last_error FROM penstock.stat_pipe') . "\n" } values %node)
	  if $count != $sent;
	return is($count, $sent, $what);
}

$kafka->tool('create', 'shared', 12, 3);
member('a');
member('b');
# until the group has settled, one member may have it all
my $end = time + 60;
$sent = 0;
while (time < $end && !(got($node{a}) && got($node{b})))
{
	$kafka->tool('produce', 'shared', $sent + 1, $sent + 1000, 100);
	$sent += 1000;
}
cmp_ok(got($node{$_}), '>', 0, "$_ has some") for qw(a b);
my $producer = produce();
$producer->finish;
all_here('two members share the topic');

$producer = produce();
member('c');
$producer->finish;
all_here('a third joins while messages come');

$producer = produce();
$node{b}->poll_query_until('postgres', 'SELECT count(*) > 0 FROM got');
$node{b}->stop('immediate');
$producer->finish;
$node{b}->start;
all_here('one is killed and started again');

$producer = produce();
$kafka->kill(3);
$producer->finish;
all_here('a broker is killed');
$kafka->restart(3);

$producer = produce();
$node{c}->safe_psql('postgres', q{SELECT penstock.pause('shared')});
$producer->finish;
# its partitions move when its time is up
all_here('a member stops: the others take over');
$node{c}->safe_psql('postgres', q{SELECT penstock.resume('shared')});
$producer = produce();
$producer->finish;
all_here('and comes back');

# the union
my @all;
for my $name (sort keys %node)
{
	push @all, split /\n/, $node{$name}->safe_psql('postgres', 'SELECT n FROM got');
	is($node{$name}->safe_psql('postgres', q{SELECT count(*) FROM (SELECT o <= lag(o) OVER (PARTITION BY p ORDER BY id) AS wrong FROM got) x WHERE wrong}),
		'0', "$name has each partition in order");
}
my %count;
$count{$_}++ for @all;
is(scalar(keys %count), $sent, 'nothing is lost in the union');
is(scalar(grep { $_ > 1 } values %count), 0, 'and nothing doubled');

done_testing();
