# A producer that retries each batch until it knows of its commit: connections are killed at any point, the server is killed, a standby
# takes over; each batch is in the stream exactly once, and in order.  Then: who waits for whom, dump and restore, expiry.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../perl";
use lib "$FindBin::RealBin/../connector";
use Penstock::Session;
use Penstock::Test;
use PostgreSQL::Test::Cluster;
use TestQueue qw(wait_until);
use Test::More;

my $batches = $ENV{PENSTOCK_BATCHES} || ($ENV{PENSTOCK_LIGHT} ? 1500 : 10000);
my $primary = penstock_node('producer', 'synchronous_commit = on', "autovacuum_naptime = '1s'");
my $standby = PostgreSQL::Test::Cluster->new('producer_standby');

$primary->safe_psql('postgres', 'CREATE TABLE events (batch bigint, i int, writer xid8 DEFAULT pg_current_xact_id()) USING stream');
$primary->backup('base');
$standby->init_from_backup($primary, 'base', has_streaming => 1);
$standby->append_conf('postgresql.conf', "wal_retrieve_retry_interval = '50ms'");
$standby->start;
$primary->append_conf('postgresql.conf', "synchronous_standby_names = '*'");
$primary->reload;
$primary->poll_query_until('postgres', "SELECT count(*) = 1 FROM pg_stat_replication WHERE sync_state = 'sync'") or die 'no standby';

my $server = $primary;
sub sql { return $server->safe_psql('postgres', $_[0]); }

# said(sql): what it says, errors included.
sub said
{
	my ($sql) = @_;
	my ($out, $err);
	$server->psql('postgres', $sql, stdout => \$out, stderr => \$err, extra_params => [ '-v', 'VERBOSITY=verbose' ]);
	return $out . $err;
}

# ---- a client ----

# What it sends for a batch of three rows, in each of the forms.
sub statements
{
	my ($batch, $epoch) = @_;
	my $rows = "SELECT $batch, i FROM generate_series(1, 3) i";

	return "BEGIN; SELECT penstock.begin_produce('events', 'client', $batch, $epoch) AS new \\gset\n"
		. "\\if :new\nINSERT INTO events (batch, i) $rows;\n\\endif\nCOMMIT" if $batch % 3 == 0;
	return "INSERT INTO events (batch, i) $rows WHERE (SELECT penstock.begin_produce('events', 'client', $batch, $epoch))" if $batch % 3 == 1;
	return "SELECT penstock.produce('events', 'client', $batch, '[" . join(',', map { "{\"batch\": $batch, \"i\": $_}" } 1 .. 3) . "]', $epoch)";
}

my ($session, $backend, $lost, $unsure) = (undef, 0, 0, 0);
sub connect_again
{
	return wait_until(60, sub {
		$session = Penstock::Session->new($server);
		$backend = $session->query('SELECT pg_backend_pid()', 10);
		return defined $backend && $backend =~ /^\d+$/;
	}) || die 'no server';
}

# try_batch(batch, epoch, trouble): true if the client knows that it is committed.
sub try_batch
{
	my ($batch, $epoch, $trouble) = @_;

	$session->send(statements($batch, $epoch)) or return 0;
	my $answer;
	if ($trouble)
	{
		$answer = $session->receive(rand 0.002);
		$trouble->();
	}
	$answer //= $session->receive(60);
	die "batch $batch: " . $session->error . "\n" if $session->error =~ /PS01|gap|fenced|not known/;
	return defined $answer && !$session->error;
}

my $epoch = sql(q{SELECT penstock.new_producer('events', 'client')});
my %special = (
	int($batches / 3) => sub {
		$primary->kill9;
		# until its last processes are gone it does not start, and its pid file is a stale one
		wait_until(60, sub { $primary->{_pid} = undef; $primary->start(fail_ok => 1) }) or die 'the server does not start';
	},
	int($batches * 2 / 3) => sub {
		$primary->kill9;
		$standby->promote;
		$server = $standby;
	});
my $refused;
$standby->psql('postgres', q{SELECT penstock.begin_produce('events', 'client', 1)}, stderr => \$refused);
like($refused, qr/cannot execute penstock\.begin_produce\(\)/, 'a standby takes no batches');
my $done = 0;
connect_again();
for my $batch (1 .. $batches)
{
	my $trouble = delete $special{$batch} || (rand 20 < 1 ? sub { kill 'TERM', $backend; $lost++ } : undef);

	until (try_batch($batch, $epoch, $trouble))
	{
		$unsure++;
		undef $trouble;
		connect_again();
	}
	$done++;
}
is($done, $batches, "every batch was acknowledged; $lost connections were killed, $unsure batches sent again");
is($server->name, 'producer_standby', 'by two servers');
is(sql('SELECT count(*), count(DISTINCT batch), min(batch), max(batch) FROM events'), 3 * $batches . "|$batches|1|$batches", 'each batch is there once');
is(sql('SELECT count(*) FROM (SELECT batch FROM events GROUP BY batch HAVING count(DISTINCT i) <> 3 OR count(DISTINCT writer) <> 1) x'), '0', 'and whole');
is(sql('SELECT count(*) FROM (SELECT batch, lag(batch, 1, 0::bigint) OVER (ORDER BY writer) AS before FROM (SELECT DISTINCT batch, writer FROM events) e) x
	WHERE batch <> before + 1'), '0', 'and in order');
is(sql('SELECT epoch, sequence FROM penstock.stat_producer'), "$epoch|$batches", 'the producer stands at the last');
cmp_ok(sql(q{SELECT pg_relation_size('penstock.producer')}), '<', 1000000, 'its row has not spread');
$session->quit;

# ---- a connection that is lost at a certain point ----

my $next = $batches;
for my $case ([ 8, 'stream_after_flush', 't' ], [ 9, 'stream_after_publish', 't' ], [ 12, 'engine_commit_visible', 'f' ])
{
	my ($number, $point, $new) = @$case;
	my ($holder, $client) = map { Penstock::Session->new($server) } 1 .. 2;
	my $statement = "INSERT INTO events (batch) SELECT " . ++$next . " WHERE (SELECT penstock.begin_produce('events', 'client', $next))";

	$holder->must("SELECT pg_advisory_lock(20563, $number)");
	my $of = $client->must('SELECT pg_backend_pid()');
	$client->send("BEGIN; $statement; SET LOCAL penstock.stop_points = '$point:wait'; COMMIT");
	$server->poll_query_until('postgres', "SELECT count(*) = 1 FROM pg_stat_activity WHERE pid = $of AND wait_event_type = 'Extension'") or die "not at $point";
	# after the commit nothing takes it back: there only the client goes
	kill 'TERM', $new eq 't' ? $of : $client->pid;
	$holder->must("SELECT pg_advisory_unlock(20563, $number)");
	$server->poll_query_until('postgres', "SELECT count(*) = 0 FROM pg_stat_activity WHERE pid = $of");
	is(sql("SELECT penstock.begin_produce('events', 'client', $next)"), $new, "lost at $point: " . ($new eq 't' ? 'a new batch' : 'a repetition'));
	is(sql("SELECT count(*) FROM events WHERE batch = $next"), $new eq 't' ? '0' : '1', 'and so it is in the stream');
}

# ---- who waits for whom ----

my ($one, $two, $three) = map { Penstock::Session->new($server) } 1 .. 3;
my $pid = $two->must('SELECT pg_backend_pid()');
sub is_waiting { return $server->poll_query_until('postgres', "SELECT count(*) = 1 FROM pg_locks WHERE pid = $pid AND NOT granted"); }
$next++;

sql(q{SELECT penstock.new_producer('events', 'other')});
$one->must("BEGIN; SELECT penstock.begin_produce('events', 'client', $next)");
$two->send("SELECT penstock.begin_produce('events', 'client', $next)");
ok(is_waiting(), 'a repetition waits for the batch under way');
is($three->must(q{SELECT penstock.begin_produce('events', 'other', 1)}), 't', 'another producer does not');
$one->must('COMMIT');
is($two->receive, 'f', 'and is one when that commits');
$next++;
$one->must("BEGIN; SELECT penstock.begin_produce('events', 'client', $next)");
$two->send("SELECT penstock.begin_produce('events', 'client', $next)");
ok(is_waiting(), 'the same');
$one->must('ROLLBACK');
is($two->receive, 't', 'and is new when that is rolled back');
$next++;
$one->must("BEGIN; SAVEPOINT s; SELECT penstock.begin_produce('events', 'client', $next)");
$two->send("SELECT penstock.begin_produce('events', 'client', $next)");
ok(is_waiting(), 'the same with a savepoint');
$one->must('ROLLBACK TO s');
is($two->receive, 't', 'and is new when that is rolled back to');
$one->must('COMMIT');

# what came after the snapshot counts
for my $level ('REPEATABLE READ', 'SERIALIZABLE')
{
	my $after = ++$next + 1;
	$two->must("BEGIN ISOLATION LEVEL $level; SELECT count(*) FROM penstock.producer");
	$one->must("BEGIN; SELECT penstock.begin_produce('events', 'client', $next); INSERT INTO events VALUES ($next)");
	$two->send("SELECT penstock.begin_produce('events', 'client', $next), penstock.begin_produce('events', 'client', $after)");
	ok(is_waiting(), "$level: the second waits");
	$one->must('COMMIT');
	is($two->receive, 'f|t', 'and sees what the first has committed since');
	$two->must("INSERT INTO events VALUES ($after); COMMIT");
	is(sql("SELECT count(*) FROM events WHERE batch IN ($next, $after)"), '2', 'both are there');
	$next = $after;
}

# a new epoch waits for the batch under way, and refuses what comes after it
$next++;
$one->must("BEGIN; SELECT penstock.begin_produce('events', 'client', $next, $epoch)");
$two->send(q{SELECT penstock.new_producer('events', 'client')});
ok(is_waiting(), 'a new epoch waits');
$one->must('COMMIT');
cmp_ok($two->receive, '>', $epoch, 'and is a later one');
$next++;
like(said("SELECT penstock.begin_produce('events', 'client', $next, $epoch)"), qr/ERROR:  PS011: epoch $epoch of producer "client" is fenced/, 'the older one is fenced');
$epoch = sql(q{SELECT epoch FROM penstock.producer WHERE producer = 'client'});

# an old snapshot keeps every version of the row: the newest is found all the same, also by who has not seen it yet
sql('CREATE TABLE kept (batch int) USING stream');
sql(q{SELECT penstock.new_producer('kept', 'kept')});
$three->must('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM kept');
my $loop = 'DO $$ BEGIN FOR b IN %d .. %d LOOP INSERT INTO kept SELECT b WHERE penstock.begin_produce(\'kept\', \'kept\', b); COMMIT; END LOOP; END $$';
$one->must(sprintf $loop, 1, 1500);
$two->must(sprintf $loop, 1401, 1600);
$one->must(sprintf $loop, 1501, 1700);
is($three->must('SELECT count(*) FROM kept; COMMIT'), '0', 'a snapshot of before is still there');
is(sql('SELECT count(*), count(DISTINCT batch), max(batch) FROM kept'), '1700|1700|1700', 'batches under an old snapshot');
is(sql(q{SELECT penstock.begin_produce('kept', 'kept', 1700), penstock.begin_produce('kept', 'kept', 1701)}), 'f|t', 'and a new session finds the last');
is(sql(q{SET enable_seqscan = off; SELECT sequence FROM penstock.producer WHERE stream = 'kept'::regclass AND producer = 'kept'}), '1701', 'so does the index');

# four at once, each with every batch
sql('CREATE TABLE many (batch int) USING stream');
sql(q{SELECT penstock.new_producer('many', 'many')});
my @sessions = map { Penstock::Session->new($server) } 1 .. 4;
$_->send(q{DO $$ DECLARE b int := 1; BEGIN
	WHILE b <= 300 LOOP
		BEGIN
			INSERT INTO many SELECT b WHERE (SELECT penstock.begin_produce('many', 'many', b));
			b := b + 1;
		EXCEPTION WHEN SQLSTATE 'PS012' THEN b := b - 1;
		END;
		COMMIT;
	END LOOP; END $$}) for @sessions;
$_->receive for @sessions;
is(join('', map { $_->error } @sessions), '', 'four clients of one name end');
is(sql('SELECT count(*), count(DISTINCT batch) FROM many'), '300|300', 'and no batch is there twice');
ok(sql(q{SELECT duplicates = 900 FROM penstock.stat_producer WHERE producer = 'many'}) eq 't', 'repetitions are counted') or diag(sql(q{SELECT * FROM penstock.stat_producer}));
$_->quit for @sessions;

is(sql('SELECT count(*) FROM penstock.saved_producer'), '0', 'nothing stays where a dump takes it from');

# ---- dump and restore ----

my $path = $server->basedir;
my $sequence = sql(q{SELECT sequence FROM penstock.producer WHERE producer = 'client'});
sql('CREATE ROLE maker; GRANT INSERT ON events TO maker; CREATE SCHEMA "odd "" name"; CREATE TABLE "odd "" name"."a.b" (i int) USING stream');
sql(q{SET ROLE maker; SELECT penstock.new_producer('events', 'of maker')});
sql(q{SELECT penstock.new_producer('"odd "" name"."a.b"', E'a\tb\\\\c'); SELECT penstock.begin_produce('"odd "" name"."a.b"', E'a\tb\\\\c', 1)});
my $all = q{SELECT stream::text, producer, owner, epoch, sequence, epoch_at, last_batch_at FROM penstock.producer ORDER BY 1, 2};
my $before = sql($all);
$server->command_ok([ 'pg_dump', '--no-sync', '-f', "$path/plain.sql", $server->connstr('postgres') ], 'plain dump');
$server->command_ok([ 'pg_dump', '--no-sync', '-Fc', '-f', "$path/custom.dump", $server->connstr('postgres') ], 'custom dump');
for my $how (qw(plain custom))
{
	my $name = "copy_$how";
	sql("CREATE DATABASE $name");
	$server->command_ok($how eq 'plain'
		? [ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-f', "$path/plain.sql", $server->connstr($name) ]
		: [ 'pg_restore', '--exit-on-error', '-j', '2', '-d', $server->connstr($name), "$path/custom.dump" ], "$how restore");
	is($server->safe_psql($name, $all), $before, "$how: producers are as they were");
	my ($again, $new) = ($sequence, $sequence + 1);
	is($server->safe_psql($name, "SELECT penstock.begin_produce('events', 'client', $again, $epoch), penstock.begin_produce('events', 'client', $new, $epoch)"),
		'f|t', "$how: and go on");
	cmp_ok($server->safe_psql($name, q{SELECT penstock.new_producer('events', 'client')}), '>', sql('SELECT max(epoch) FROM penstock.producer'), "$how: epochs too");
}

# ---- expiry ----

sql(q{CREATE TABLE short (i int) USING stream WITH (penstock.producer_retention = '1 ms')});
my $first = sql(q{SELECT penstock.new_producer('short', 'client')});
ok($server->poll_query_until('postgres', q{SELECT count(*) = 0 FROM penstock.producer WHERE stream = 'short'::regclass}), 'a producer expires, though nothing else happens');
like(said(q{SELECT penstock.begin_produce('short', 'client', 1)}), qr/ERROR:  PS013: producer "client" of stream "short" is not known/, 'and is told so when it comes back');
sql(q{ALTER TABLE short SET (penstock.producer_retention = '1 day')});
my $second = sql(q{SELECT penstock.new_producer('short', 'client')});
cmp_ok($second, '>', $first, 'it can begin anew');
like(said("SELECT penstock.begin_produce('short', 'client', 1, $first)"), qr/ERROR:  PS011: epoch $first/, 'but not as who it was');
sql(q{SELECT penstock.begin_produce('short', 'client', 1)});
$one->must(q{SELECT penstock.new_producer('short', 'busy'); BEGIN; SELECT penstock.begin_produce('short', 'busy', 1)});
$one->must('COMMIT');
sql(q{ALTER TABLE short SET (penstock.producer_retention = '1 s')});
ok($server->poll_query_until('postgres', q{SELECT count(*) = 0 FROM penstock.producer WHERE stream = 'short'::regclass}), 'so do others when their stream says so');
is(sql(q{SELECT count(*) > 0 FROM penstock.producer WHERE stream = 'events'::regclass}), 't', 'those of other streams stay');
sql(q{SELECT penstock.new_producer('short', 'busy')});
$one->must(q{BEGIN; SELECT penstock.begin_produce('short', 'busy', 1)});
ok($server->poll_query_until('postgres', q{SELECT clock_timestamp() > epoch_at + interval '1.5 s' FROM penstock.producer WHERE producer = 'busy'}), 'its time passes');
is($one->must(q{SELECT penstock.begin_produce('short', 'busy', 2); COMMIT}), 't', 'one that is in use does not expire');

$_->quit for $one, $two, $three;
$server->stop;
done_testing();
