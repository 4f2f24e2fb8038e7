# What becomes of claims in the course of sessions, settings and versions of the extension: unclosed handles, dictionaries, the background.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../perl";
use Penstock::Claims;
use Penstock::Session;
use Penstock::Test;
use Test::More;

my $node = penstock_node('claim_life', 'penstock.claim_collect_interval = 0', q{default_transaction_isolation = 'repeatable read'});
sub sql { return $node->safe_psql('postgres', $_[0]); }
my $s = Penstock::Session->new($node);
load_payloads($node, 1 .. 15);
sub objects { return sql('SELECT (SELECT count(*) FROM pg_largeobject_metadata), (SELECT count(DISTINCT loid) FROM pg_largeobject), (SELECT count(*) FROM penstock.claim_object)'); }

# ---- handles ----

my $append = 'SELECT penstock.claim_append(%s, data) FROM payloads WHERE n = 7';
my $half = sprintf($append, 'penstock.claim_open()');
$s->must("BEGIN; $half; COMMIT");
is(objects(), '0|0|0', 'what was not closed is not there after COMMIT');
$s->must($half);
is(objects(), '0|0|0', 'nor without a transaction block');
$s->must("BEGIN; $half; PREPARE TRANSACTION 'p'");
sql("COMMIT PREPARED 'p'");
is(objects(), '0|0|0', 'nor after PREPARE TRANSACTION');
$s->must("BEGIN; SAVEPOINT a; $half; ROLLBACK TO a; SAVEPOINT b; $half; RELEASE b; COMMIT");
is(objects(), '0|0|0', 'nor with savepoints');
for my $call ("penstock.claim_close(:h)", "penstock.claim_append(:h, 'x')")
{
	$s->must('BEGIN; SELECT penstock.claim_open() AS h \gset');
	$s->must(sprintf($append, ':h') . '; SAVEPOINT a');
	$s->query("SELECT $call");
	like($s->error, qr/handle 1 was opened outside of this savepoint/, "not in a newer savepoint: $call");
	$s->must('ROLLBACK TO a; RELEASE a');
	is($s->must('SELECT penstock.claim_size(penstock.claim_close(:h))'), '2590000', 'but after it');
	$s->must('ROLLBACK');
}
$s->must('BEGIN; SELECT penstock.claim_open() AS h \gset');
$s->must(sprintf($append, ':h') . '; SAVEPOINT a');
$s->must('RELEASE a; CREATE TABLE held AS SELECT penstock.claim_close(:h) AS c; COMMIT');
is(objects(), '1|1|1', 'one that was closed is');
$s->must("BEGIN; SELECT penstock.claim_open() AS h \\gset");
$s->must(sprintf($append, ':h') . '; SELECT penstock.claim_close(:h); COMMIT');
is(objects(), '1|1|1', 'the same payload once more leaves nothing');

# ---- columns of all forms hold ----

sql(q{BEGIN ISOLATION LEVEL READ COMMITTED; CREATE DOMAIN ticket AS penstock.claim; CREATE DOMAIN tickets AS penstock.claim[]; CREATE DOMAIN narrow AS ticket CHECK (penstock.claim_size(VALUE) > 2);
	CREATE TABLE forms (a ticket, b ticket[], c tickets, d narrow, e narrow[], f penstock.claim[][]);
	INSERT INTO forms SELECT penstock.claim_store('form 1'::text), ARRAY[penstock.claim_store('form 2'::text)]::ticket[], ARRAY[penstock.claim_store('form 3'::text)], penstock.claim_store('form 4'::text),
		ARRAY[NULL, penstock.claim_store('form 5'::text)]::narrow[], ARRAY[[penstock.claim_store('form 6'::text), NULL], [NULL, penstock.claim_store('form 7'::text)]];
	CREATE MATERIALIZED VIEW seen AS SELECT a AS c FROM forms; COMMIT});
my $collect = q{BEGIN ISOLATION LEVEL READ COMMITTED; SELECT collected FROM penstock.claim_collect(grace => '%s'); COMMIT};
is(sql(sprintf($collect, 0)), '0', 'columns of domains and arrays of them hold');
is(sql('SELECT count(*) FROM penstock.claim_missing()'), '0', 'nothing is missing');
sql('DELETE FROM forms');
is(sql(sprintf($collect, 0)), '6', 'and release, but for what a materialized view shows');
sql('REFRESH MATERIALIZED VIEW seen');
is(sql(sprintf($collect, 0)), '1', 'until it is refreshed');

# ---- grace ----

sql("SELECT penstock.claim_store('x'::text)");
is(sql(sprintf($collect, $_)), '0', "a grace of $_") for '1 hour', '178000000 years', '170000000 years 2000000000 days 2562047788 hours';
for my $grace ('-1 second', '-178000000 years')
{
	my ($out, $err);
	$node->psql('postgres', sprintf($collect, $grace), stdout => \$out, stderr => \$err);
	like($err, qr/the grace time cannot be negative/, "a grace of $grace");
}

# ---- the background, where transactions are repeatable read by default, and when the setting changes ----

$node->append_conf('postgresql.conf', "penstock.claim_grace = 0\npenstock.claim_collect_interval = 1s");
$node->reload;
ok($node->poll_query_until('postgres', 'SELECT claims = 1 FROM penstock.stat_claim'), 'the background begins when the setting says so');
sql("SELECT penstock.claim_store('y'::text)");
ok($node->poll_query_until('postgres', 'SELECT claims = 1 FROM penstock.stat_claim'), 'and goes on');
# somebody changes a table: the background does not wait for it
$s->must('BEGIN; LOCK TABLE forms');
sql("SELECT penstock.claim_store('z'::text)");
is($s->must('TRUNCATE held; TRUNCATE forms; COMMIT'), '', 'nor is in the way of who changes tables');
ok($node->poll_query_until('postgres', 'SELECT claims = 0 FROM penstock.stat_claim'), 'it takes the last');
is(objects(), '0|0|0', 'and its large object');
$node->append_conf('postgresql.conf', "penstock.claim_collect_interval = 0");
$node->reload;

# ---- the extension is made again: dictionaries are numbered from 1 again, in sessions that know the old ones, too ----

my $train = q{SELECT penstock.claim_class_train('%1$s', array_agg(convert_to(repeat(format('{"%1$s": %%s, "state": "open"}', i), 3), 'UTF8')), 1024) FROM generate_series(1, 500) i};
my $store = q{SELECT penstock.claim_store(convert_to(repeat(format('{"%s": %%s, "state": "open"}', 17), 3), 'UTF8'), '%1$s')};
is($s->must(sprintf($train, 'first')), '1', 'a dictionary');
my $claim = $s->must(sprintf($store, 'first'));
like($s->must("SELECT codec FROM penstock.claim_info('$claim')"), qr/dictionary/, 'is used');
sql('DROP EXTENSION penstock CASCADE; CREATE EXTENSION penstock');
is($s->must(sprintf($train, 'second')), '1', 'another one with its number');
$claim = $s->must(sprintf($store, 'second'));
is(sql("SELECT penstock.claim_text('$claim')"), '{"second": 17, "state": "open"}' x 3, 'other sessions read what this one wrote');
unlike(PostgreSQL::Test::Utils::slurp_file($node->logfile), qr/terminated by signal|PANIC|leak|could not be collected/, 'nothing else in the log');
$node->stop;
done_testing();
