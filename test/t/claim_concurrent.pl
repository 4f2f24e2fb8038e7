# Many who store the same payloads, copy tickets, and collect at the same time: one object for each payload, nobody deadlocks or is
# surprised, and nothing goes that somebody holds.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../perl";
use Penstock::Claims;
use Penstock::Session;
use Penstock::Test;
use Test::More;

my $node = penstock_node('claim_concurrent', 'penstock.claim_collect_interval = 0', 'deadlock_timeout = 100ms', 'autovacuum = off');
sub sql { return $node->safe_psql('postgres', $_[0]); }
sub session { return Penstock::Session->new($node); }

my @numbers = (0 .. 23);
my $payloads = load_payloads($node, @numbers);
my %ticket = map { $_ => ticket(payload($_)) } @numbers;
my @columns = ('held.c', 'other.c');
sql('CREATE TABLE held (w int, c penstock.claim); CREATE TABLE other (c penstock.claim) USING stream');
sub clean { my ($what) = @_; return check_claims($node, 'postgres', $payloads, $what, @columns); }
sub count_of { my ($n) = @_; return sql("SELECT count(*) FROM penstock.claim_object WHERE claim = '$ticket{$n}'"); }
sub collect { my ($grace) = @_; return sql(q{SELECT collected, waiting FROM penstock.claim_collect(grace => '} . ($grace || '0') . q{')}); }
# stop(session, point, sql): starts what will wait at the point, and sees to it that it does; go() lets it go on.
my $holder = session();
my %number = (claim_after_lock => 18, claim_after_delete => 19, claim_after_pages => 20, claim_before_merge => 21);
sub stop
{
	my ($session, $point, $sql) = @_;
	$holder->must("SELECT pg_advisory_lock(20563, $number{$point})");
	$session->must("SET penstock.stop_points = '$point:wait'; SET application_name = 'stopped'");
	$session->send($sql);
	$node->poll_query_until('postgres', "SELECT count(*) = 1 FROM pg_stat_activity WHERE application_name = 'stopped' AND wait_event = 'Extension'")
		or die "nobody waits at $point\n";
	return;
}
sub go
{
	my ($session, $point) = @_;
	$holder->must("SELECT pg_advisory_unlock(20563, $number{$point})");
	my $result = $session->receive // die "no answer\n";
	$session->must("SET penstock.stop_points = ''; SET application_name = 'gone on'");
	return $session->error || $result;
}

# ---- many writers, each with the payloads in an order of its own, in transactions of all of them ----

for my $how ('claim_store(data)', 'claim_store(data, level => 9)', 'handle')
{
	my @writers = map { session() } 1 .. 8;
	my $store = $how eq 'handle' ? 'by_handle(data)' : "penstock.$how";
	sql(q{CREATE OR REPLACE FUNCTION by_handle(data bytea) RETURNS penstock.claim LANGUAGE plpgsql AS $$ DECLARE h int := penstock.claim_open();
		BEGIN PERFORM penstock.claim_append(h, data); RETURN penstock.claim_close(h); END $$}) if $how eq 'handle';
	for my $w (0 .. $#writers)
	{
		$writers[$w]->send(join(";\n", map { "BEGIN; INSERT INTO held SELECT $w, $store FROM (SELECT data FROM payloads ORDER BY hashint4(n + $w * $_) OFFSET 0) p; COMMIT" } 1 .. 3));
	}
	my @errors = grep { $_ } map { defined $_->receive(120) ? $_->error : 'no answer' } @writers;
	is("@errors", '', "$how: eight writers, no error");
	is(sql('SELECT count(*) FROM held'), 8 * 3 * @numbers, "$how: all tickets are there");
	clean($how);
	sql('TRUNCATE held');
	collect();
	is(sql('SELECT count(*) FROM penstock.claim_object'), '0', "$how: and go");
}

# transactions of more payloads than one locks
{
	my @writers = map { session() } 1 .. 3;
	my @orders = ('g', '-g', 'g % 7, g');
	$writers[$_]->must('BEGIN') for 0 .. 2;
	$writers[$_]->send("INSERT INTO held SELECT $_, penstock.claim_store('many ' || g) FROM generate_series(1, 300) g ORDER BY $orders[$_]") for 0 .. 2;
	is(join('', map { defined $_->receive(120) ? $_->error : 'no answer' } @writers), '', 'many payloads in transactions: no error');
	$writers[0]->must('COMMIT');
	collect();
	$writers[$_]->must('COMMIT') for 1 .. 2;
	collect();
	is(sql('SELECT count(*), count(DISTINCT claim) FROM penstock.claim_object'), '300|300', 'each is there once after a collection');
	sql('TRUNCATE held');
	collect();
}

# ---- who comes while another stores waits a little, then writes a duplicate, which a collection merges when the first has ended ----

{
	my ($first, $second) = (session(), session());
	$first->must("BEGIN; INSERT INTO held SELECT 1, penstock.claim_store(data) FROM payloads WHERE n = 7");
	$second->must("INSERT INTO held SELECT 2, penstock.claim_store(data, expires => 'infinity') FROM payloads WHERE n = 7");
	is(count_of(7), '1', 'the second did not wait for ever');
	collect();
	$first->must('COMMIT');
	is(count_of(7), '2', 'there are two for a moment');
	collect();
	is(count_of(7), '1', 'and one after a collection, though another collection was between');
	clean('duplicate');
	$first->must("BEGIN; SELECT penstock.claim_store(data, expires => now() + interval '1 hour') FROM payloads WHERE n = 6");
	$second->must('SELECT penstock.claim_store(data) FROM payloads WHERE n = 6');
	$first->must('COMMIT');
	collect('1 day');
	is(sql("SELECT count(*), count(expires_at) FROM penstock.claim_object WHERE claim = '$ticket{6}'"), '1|0', 'one that never expires wins');
	sql('TRUNCATE held');
	collect();
}

# two collectors at the same pair
{
	my ($first, $second, $a, $b) = map { session() } 1 .. 4;
	$first->must("BEGIN; INSERT INTO held SELECT 1, penstock.claim_store(data) FROM payloads WHERE n = 5");
	$second->must("BEGIN; INSERT INTO held SELECT 2, penstock.claim_store(data) FROM payloads WHERE n = 5");
	$_->must('COMMIT') for $first, $second;
	is(count_of(5), '2', 'a pair');
	# both may be duplicates
	sql('UPDATE penstock.claim_object SET duplicate = true');
	stop($a, 'claim_before_merge', q{SELECT collected FROM penstock.claim_collect(grace => '0')});
	is($b->must(q{SELECT collected FROM penstock.claim_collect(grace => '0')}), '0', 'a second collector does not wait for the first');
	is(go($a, 'claim_before_merge'), '0', 'nor is it disturbed');
	clean('two collectors');

	# the first has one of the pair in its hands to remove it, as no row held it when it looked; the second merges
	sql('TRUNCATE held');
	sql("UPDATE penstock.claim_object SET unheld_since = '2020-01-01'");
	stop($a, 'claim_after_delete', q{SELECT collected FROM penstock.claim_collect(grace => '0')});
	$second->must("INSERT INTO held SELECT 2, penstock.claim_store(data) FROM payloads WHERE n = 5");
	$b->must(q{SELECT penstock.claim_collect(grace => '0')});
	is(go($a, 'claim_after_delete'), '1', 'the first removes what it has locked');
	is(count_of(5), '1', 'what was stored meanwhile stays');
	clean('collector and merger');
	sql('TRUNCATE held');
	collect();
}

# ---- a collector between lock and delete ----

for my $what ('stores', 'copies', 'stores in a transaction')
{
	my ($collector, $writer) = (session(), session());
	sql("INSERT INTO held SELECT 1, penstock.claim_store(data) FROM payloads WHERE n = 4; DELETE FROM held WHERE w = 1");
	stop($collector, 'claim_after_lock', q{SELECT collected FROM penstock.claim_collect(grace => '0')});
	$writer->must('BEGIN') if $what =~ /transaction/;
	$writer->must("INSERT INTO held SELECT 2, " . ($what eq 'copies' ? "'$ticket{4}'" : "penstock.claim_store(data) FROM payloads WHERE n = 4"));
	is(go($collector, 'claim_after_lock'), $what =~ /transaction/ ? '1' : '0', "a writer that $what while the collector is about to delete");
	$writer->must('COMMIT') if $what =~ /transaction/;
	is(sql("SELECT penstock.claim_verify(c) FROM held"), 't', 'the payload is there');
	clean($what);
	sql('TRUNCATE held');
	collect();
}

# ---- open transactions ----

{
	my ($writer, $old) = (session(), session());
	$writer->must("BEGIN; SELECT penstock.claim_store(data) FROM payloads WHERE n IN (3, 4)");
	is(collect(), '0|0', 'what an open transaction stored is not collected');
	sql('SELECT penstock.claim_store(data) FROM payloads WHERE n = 2');
	$writer->must("SELECT penstock.claim_store(data) FROM payloads WHERE n = 2");
	is(collect(), '0|1', 'nor what it stored once more');
	$writer->must("INSERT INTO held SELECT 1, penstock.claim_store(data) FROM payloads WHERE n IN (2, 3, 4); SAVEPOINT s; DELETE FROM held; ROLLBACK TO s; COMMIT");
	is(collect(), '0|0', 'nor when it has committed and holds it');
	clean('open transaction');

	# prepared
	$writer->must("BEGIN; INSERT INTO held SELECT 2, penstock.claim_store(data) FROM payloads WHERE n IN (1, 2, 7); PREPARE TRANSACTION 'p'");
	sql('DELETE FROM held');
	like(collect(), qr/^2\|/, 'a prepared transaction keeps what it stored');
	$node->restart;
	$holder = session();
	is(collect(), '0|1', 'over a restart');
	sql("COMMIT PREPARED 'p'");
	is(sql('SELECT bool_and(penstock.claim_verify(c)) FROM held'), 't', 'and has it');
	clean('prepared');

	# a copy of a ticket in a transaction that outlives the row it was copied from, and the grace time
	$writer = session();
	$writer->must('BEGIN; INSERT INTO other SELECT c FROM held');
	sql('DELETE FROM held');
	is(collect('1 microsecond'), '0|3', 'marked');
	is(collect('1 microsecond'), '0|3', 'what a transaction may have copied before stays as long as it is open');
	$writer->must('COMMIT');
	is(sql('SELECT bool_and(penstock.claim_verify(c)) FROM other'), 't', 'it has what it copied');
	is(collect('1 microsecond'), '0|0', 'which is held now');
	sql('TRUNCATE other');
	collect('1 microsecond');
	is(collect('1 microsecond'), '3|0', 'and is collected when it is not');
}

# ---- readers with old snapshots ----

{
	sql('INSERT INTO held SELECT n, penstock.claim_store(data) FROM payloads');
	my ($reader, $cursor) = (session(), session());
	my $digest = q{SELECT md5(string_agg(encode(penstock.claim_fetch(c), 'hex'), '' ORDER BY w)) FROM held};
	my $expected = sql(q{SELECT md5(string_agg(encode(data, 'hex'), '' ORDER BY n)) FROM payloads});
	is($reader->must("BEGIN ISOLATION LEVEL REPEATABLE READ; $digest"), $expected, 'a repeatable read transaction');
	$cursor->must('BEGIN; DECLARE k CURSOR FOR SELECT penstock.claim_fetch(c) = data FROM held JOIN payloads ON n = w; FETCH 1 FROM k');
	my $handle = $cursor->must("SELECT penstock.claim_reader(c) FROM held WHERE w = 7");
	$cursor->must("SELECT length(penstock.claim_read($handle, 100000))");
	sql('DELETE FROM held');
	is(collect(), scalar(@numbers) . '|0', 'everything is collected');
	sql('VACUUM pg_largeobject; VACUUM penstock.claim_object; VACUUM held');
	is($reader->must($digest), $expected, 'reads what was collected meanwhile');
	is($reader->must("SELECT md5(penstock.claim_fetch_range('$ticket{7}', 1500000, 100000)) = md5(substr(data, 1500001, 100000)) FROM payloads WHERE n = 7"),
		't', 'also a range of it');
	is($cursor->must('FETCH ALL FROM k') =~ tr/t//, @numbers - 1, 'so does a cursor');
	is($cursor->must("SELECT penstock.claim_read($handle, 100000) = substr(data, 100001, 100000) FROM payloads WHERE n = 7"), 't', 'and a handle');
	$reader->query("SELECT penstock.claim_collect()");
	like($reader->error, qr/can only be collected in a read committed transaction/, 'which cannot collect');
	$_->must('ROLLBACK') for $reader, $cursor;
	is(sql("SELECT penstock.claim_exists('$ticket{7}')"), 'f', 'others do not see it');
	# stores it again, from a snapshot that sees the one of before
	sql('INSERT INTO held SELECT n, penstock.claim_store(data) FROM payloads');
	$reader->must("BEGIN ISOLATION LEVEL REPEATABLE READ; $digest");
	sql('DELETE FROM held');
	collect();
	$reader->must('INSERT INTO held SELECT -n, penstock.claim_store(data) FROM payloads; COMMIT');
	clean('stored again with an old snapshot');
}

# ---- tables come and go while others look for tickets ----

{
	sql('CREATE ROLE nobody; GRANT SELECT ON held TO nobody');
	my @makers = map { session() } 1 .. 2;
	my @others = map { session() } 1 .. 3;
	$makers[$_]->send(join(';', map { "CREATE TABLE made_$_ (c penstock.claim); INSERT INTO made_$_ SELECT c FROM held; GRANT SELECT ON made_$_ TO nobody; DROP TABLE made_$_" }
		map { "${_}" } map { my $m = $_; map { "${m}_$_" } 1 .. 150 } $_)) for 0 .. 1;
	$others[0]->send(join(';', (q{SELECT penstock.claim_collect(grace => '0')}) x 60));
	$others[1]->send('SET ROLE nobody; ' . join(';', ("SELECT penstock.claim_exists('$ticket{5}')", "SELECT sum(\"references\") > 0 FROM penstock.claim_info('$ticket{5}')") x 150));
	$others[2]->send(join(';', ('SELECT count(*) FROM penstock.claim_missing()') x 60));
	my @results = map { my $r = $_->receive(120); defined $r ? $_->error : 'no answer' } @makers, @others;
	is(join("\n", grep { $_ } @results), '', 'tables are made and dropped while tickets are looked for');
	clean('tables come and go');
}

# ---- the extension goes: its large objects with it, whatever is under way ----

{
	my ($writer, $dropper, $handle) = map { session() } 1 .. 3;
	$writer->must('BEGIN; SELECT count(penstock.claim_store(data || data)) FROM payloads');
	$handle->must('BEGIN; SELECT penstock.claim_append(penstock.claim_open(), data) FROM payloads WHERE n IN (7, 15, 23)');
	$dropper->send('DROP EXTENSION penstock CASCADE');
	$node->poll_query_until('postgres', "SELECT count(*) > 0 FROM pg_locks WHERE NOT granted AND mode = 'AccessExclusiveLock'") or die 'does not wait';
	$writer->must('COMMIT');
	$dropper->receive // die 'no answer';
	$handle->must('COMMIT');
	is($dropper->error . $handle->error, '', 'the extension is dropped while payloads are stored');
	is(sql('SELECT count(*) FROM pg_largeobject_metadata'), '0', 'no large object is left');
	is(sql('SELECT count(*) FROM pg_largeobject'), '0', 'and no page');
}
unlike(PostgreSQL::Test::Utils::slurp_file($node->logfile), qr/deadlock|duplicate key|leak|PANIC|TRAP|terminated by signal/, 'nothing else in the log');
$node->stop;
done_testing();
