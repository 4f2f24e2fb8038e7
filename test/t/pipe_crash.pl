# kill -9 of pipe workers and of the postmaster, at every stop point and at random under load: each event is there exactly once.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../connector";
use Penstock::Test;
use Penstock::Session;
use TestQueue;
use Test::More;
use Time::HiRes qw(time);

my $seed = $ENV{PIPE_SEED} || time ^ $$;
srand($seed);
diag("seed $seed");
my $node = penstock_node('pipe_crash', 'fsync = off', 'restart_after_crash = on', 'checkpoint_timeout = 30s');
my $q = TestQueue->new($node);
sub sql { return $q->sql($_[0]); }

# the statement, again until the server is there
sub patient
{
	my ($sql) = @_;
	my $result;
	wait_until(90, sub { $result = sql($sql); 1 }) or die "the server does not come back\n";
	return $result;
}

# The old server's last processes may still be going.
sub start_again
{
	wait_until(60, sub { $node->start(fail_ok => 1) or do { $node->{_pid} = undef; 0 } }) or die "the server does not start\n";
	return;
}

sql(q{
	CREATE FOREIGN TABLE src (n int, off bigint OPTIONS (metadata 'offset'), part text OPTIONS (metadata 'partition')) SERVER tq OPTIONS (queue 'src');
	CREATE FOREIGN TABLE asrc (n int) SERVER tqa OPTIONS (queue 'asrc');
	CREATE FOREIGN TABLE rsrc (n int) SERVER tqr OPTIONS (queue 'rsrc');
	CREATE FOREIGN TABLE sink (n int) SERVER tq OPTIONS (queue 'sink');
	CREATE TABLE from_offsets (n int CHECK (n % 1000 <> 0), off bigint, part text, id bigint GENERATED ALWAYS AS IDENTITY);
	CREATE TABLE from_acks (n int);
	CREATE TABLE from_rows (n int);
	CREATE TABLE st (n int) USING stream;
	CREATE TABLE from_stream (n int);
	CREATE TABLE split (n int);
	CREATE MATERIALIZED VIEW counted USING continuous AS SELECT n % 7 AS k, count(*) AS c, sum(n) AS s FROM st GROUP BY 1;
	CALL penstock.create_pipe('offsets', $$INSERT INTO from_offsets (n, off, part) SELECT n, off, part FROM src; INSERT INTO st SELECT n FROM src; INSERT INTO split SELECT n FROM src WHERE n % 10 = 0$$, batch_rows => 200);
	CALL penstock.create_pipe('acks', $$INSERT INTO from_acks SELECT n FROM asrc$$, batch_rows => 150, dedup_window => '1 day');
	CALL penstock.create_pipe('rows', $$INSERT INTO from_rows SELECT n FROM rsrc$$, batch_rows => 70);
	CALL penstock.create_pipe('stream', $$INSERT INTO from_stream SELECT n FROM st$$, batch_rows => 300);
	CALL penstock.create_pipe('sink', $$INSERT INTO sink SELECT n FROM src$$, batch_rows => 250)});

# ---- load: numbered messages, each once in its queue, however often appending was cut off ----

my %next = (src => 1, asrc => 1, rsrc => 1);
my %payload = (
	src => q{format('{"n": %s}', i)},
	asrc => q{format('{"n": %s}', i)},
	rsrc => q{(SELECT string_agg(j::text, E'\n' ORDER BY j) FROM generate_series(i * 10, i * 10 + 9) j)});
my %more = (src => ', (i % 3)::text', asrc => ', id => i::text', rsrc => '');

sub append_more
{
	my ($count) = @_;
	for my $queue (sort keys %next)
	{
		my ($from, $to) = ($next{$queue}, $next{$queue} + $count - 1);
		if ($queue eq 'src')
		{
			# what a session appended before it was cut off may reach further
			my $last = patient(q{SELECT coalesce(max((convert_from(payload, 'UTF8')::jsonb ->> 'n')::int), 0) FROM testqueue.messages('tq', 'src')});
			$to = $last if $last > $to;
		}
		patient("WITH there AS MATERIALIZED (SELECT convert_from(payload, 'UTF8') AS payload FROM testqueue.messages('tq', '$queue'))
			SELECT testqueue.append('tq', '$queue', p$more{$queue}) FROM generate_series($from, $to) i, LATERAL (SELECT $payload{$queue} AS p) p
			WHERE NOT EXISTS (SELECT FROM there t WHERE t.payload = p.p)");
		$next{$queue} = $to + 1;
	}
	return;
}

# look(what): everything has arrived, once.
sub look
{
	my ($what) = @_;
	my ($src, $asrc, $rsrc) = map { $next{$_} - 1 } qw(src asrc rsrc);
	my $good = $src - int($src / 1000);
	my $want = join('|', $good, $good, $asrc, $asrc, $rsrc * 10, $rsrc * 10, $good, $good);
	my $got;
	my $there = wait_until(90, sub {
		$got = sql('SELECT (SELECT count(*) FROM from_offsets), (SELECT count(DISTINCT n) FROM from_offsets), (SELECT count(*) FROM from_acks),
			(SELECT count(DISTINCT n) FROM from_acks), (SELECT count(*) FROM from_rows), (SELECT count(DISTINCT n) FROM from_rows),
			(SELECT count(*) FROM from_stream), (SELECT count(DISTINCT n) FROM from_stream)');
		$got eq $want });
	ok($there, "$what: offsets, acknowledgements, rows, stream") or diag("$got instead of $want\n", sql('SELECT pipe, state, last_error FROM penstock.stat_pipe'));
	is(sql('SELECT count(*) FROM split'), int($src / 10) - int($src / 1000), "$what: the statements of a batch agree");
	is(sql('SELECT count(*) FROM penstock.dead_letter WHERE pipe_name = \'offsets\''), int($src / 1000), "$what: dead letters, each once");
	is(sql(q{SELECT count(*) FROM (SELECT off, lag(off) OVER (PARTITION BY part ORDER BY id) AS l FROM from_offsets) a WHERE off < l}), '0', "$what: order");
	ok(wait_until(60, sub { sql(q{SELECT count(DISTINCT payload) FROM testqueue.messages('tq', 'sink')}) == $src }), "$what: the sink misses nothing");
	sql('SELECT penstock.catch_up()');
	is(sql(differences('counted', 'SELECT n % 7 AS k, count(*) AS c, sum(n) AS s FROM st GROUP BY 1')), '0', "$what: the view");
	return;
}

append_more(1000);
look('load');

# ---- every stop point ----

my @points;
open(my $list, '<', "$FindBin::RealBin/../../src/util/stop_points.h") or die $!;
while (<$list>) { push @points, $1 if /^PENSTOCK_STOP\(\d+, (pipe_\w+)\)/; }
cmp_ok(@points, '>=', 3, 'there are stop points');
for my $point (@points)
{
	sql("ALTER SYSTEM SET penstock.stop_points = '$point:crash'");
	my $started = sql('SELECT pg_postmaster_start_time()');
	my @pids = split ' ', sql(q{SELECT string_agg(pid::text, ' ') FROM pg_stat_activity WHERE backend_type = 'penstock pipe'});
	eval { sql('SELECT pg_reload_conf()') };
	# what comes now is done by somebody else: the server may be gone before the answer
	eval { $q->append('src', $next{src}, $next{src} + 9, '{"n": %s}', ', (i % 3)::text') };
	my $hit = wait_until(10, sub { grep { !kill 0, $_ } @pids });
	$node->append_conf('postgresql.auto.conf', q{penstock.stop_points = ''});
	$node->stop('immediate', fail_ok => 1);
	start_again();
	ok($hit, "killed at $point") or note('nothing came by');
	append_more(100);
	look("after $point");
}

# ---- at random ----

my %count;
for my $round (1 .. ($ENV{PIPE_KILLS} || 12))
{
	my $writer = Penstock::Session->new($node);
	my $from = $next{src};
	$writer->send("SELECT count(testqueue.append('tq', 'src', format('{\"n\": %s}', i), (i % 3)::text)) FROM generate_series($from, " . ($from + 2000) . ') i');
	my $until = time + 0.02 + rand 0.4;
	select(undef, undef, undef, 0.005) while time < $until;
	my $kind = (qw(pipe pipe pipe postmaster immediate terminate))[ int rand 6 ];
	$count{$kind}++;
	if ($kind eq 'postmaster') { $node->kill9; }
	elsif ($kind eq 'immediate') { $node->stop('immediate'); }
	else
	{
		my $pid = eval { sql(q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'penstock pipe' ORDER BY random() LIMIT 1}) };
		kill $kind eq 'pipe' ? 'KILL' : 'TERM', $pid if $pid;
	}
	if ($kind eq 'postmaster' || $kind eq 'immediate')
	{
		start_again();
	}
	$writer->quit;
	patient('SELECT 1');
	append_more(50 + int rand 100);
	look("kill $round ($kind)") if $round % 3 == 0;
}
look('in the end');
note(join(', ', map { "$count{$_} $_" } sort keys %count));
$node->stop;
done_testing();
