# Claims on a physical standby, after its promotion, and on a logical subscriber, to which the payloads are carried.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../perl";
use Penstock::Claims;
use Penstock::Test;
use PostgreSQL::Test::Cluster;
use Test::More;

my @numbers = (0 .. 15);
my $primary = penstock_node('claim_primary', 'wal_level = logical', 'penstock.claim_collect_interval = 0', 'autovacuum = off');
sub sql { my ($node, $sql) = @_; return $node->safe_psql('postgres', $sql); }
my $payloads = load_payloads($primary, @numbers);
sql($primary, q{CREATE ROLE reader; CREATE TABLE held (n int PRIMARY KEY, c penstock.claim); CREATE TABLE events (n int, c penstock.claim) USING stream; CREATE TABLE closed (c penstock.claim);
	GRANT SELECT ON held TO reader});
$primary->backup('base');
my $standby = PostgreSQL::Test::Cluster->new('claim_standby');
$standby->init_from_backup($primary, 'base', has_streaming => 1);
$standby->start;
sql($primary, 'INSERT INTO held SELECT n, penstock.claim_store(data) FROM payloads WHERE n < 8; INSERT INTO events SELECT n, penstock.claim_store(data) FROM payloads WHERE n >= 8');
$primary->wait_for_catchup($standby, 'replay', $primary->lsn('insert'));

# ---- the standby ----

my $all = q{(SELECT n, c FROM held UNION ALL SELECT n, c FROM events) AS h};
is(sql($standby, "SELECT count(*) FROM $all JOIN payloads USING (n) WHERE penstock.claim_fetch(c) = data AND penstock.claim_verify(c)
	AND penstock.claim_fetch_range(c, 1000, 500) = substr(data, 1001, 500)"), scalar @numbers, 'a standby redeems');
is(sql($standby, 'BEGIN; SELECT penstock.claim_reader(c) AS h FROM held WHERE n = 7 \gset
	SELECT length(penstock.claim_read(:h, 100000))'), '100000', 'piece by piece, too');
is(sql($standby, "SET ROLE reader; SELECT penstock.claim_exists('" . ticket(payload(5)) . "'), penstock.claim_exists('" . ticket(payload(9)) . "')"), 't|f', 'with the same rights');
is(sql($standby, 'SELECT claims FROM penstock.stat_claim'), scalar @numbers, 'and shows figures');
is(sql($standby, q{SELECT collected FROM penstock.claim_collect(dry_run => true, grace => '0')}), '0', 'what would be collected');
for my $statement (q{penstock.claim_store('x'::text)}, 'penstock.claim_open()', q{penstock.claim_collect(grace => '0')}, 'penstock.claim_export((SELECT c FROM held LIMIT 1))')
{
	my ($out, $err);
	$standby->psql('postgres', "SELECT $statement", stdout => \$out, stderr => \$err);
	like($err, qr/cannot execute .* in a read-only transaction|cannot execute .* during recovery/, "refused on a standby: $statement");
}
$standby->command_ok([ 'pg_dump', '-f', $standby->basedir . '/dump.sql', $standby->connstr('postgres') ], 'a standby is dumped');

# ---- a logical subscriber ----

my $subscriber = penstock_node('claim_subscriber', 'wal_level = logical', 'penstock.claim_collect_interval = 0');
sql($subscriber, 'CREATE TABLE held (n int PRIMARY KEY, c penstock.claim)');
sql($primary, 'CREATE PUBLICATION documents FOR TABLE held');
my $publisher = $primary->connstr('postgres') =~ tr{'}{}dr;
sql($subscriber, "CREATE SUBSCRIPTION documents CONNECTION '$publisher' PUBLICATION documents");
$subscriber->poll_query_until('postgres', 'SELECT count(*) = 8 FROM held') or die 'nothing arrives';
is(sql($subscriber, 'SELECT count(*) FROM penstock.claim_missing()'), '8', 'tickets arrive, payloads do not');
{
	my ($out, $err);
	$subscriber->psql('postgres', 'SELECT penstock.claim_fetch(c) FROM held', stdout => \$out, stderr => \$err);
	like($err, qr/there is no payload for claim/, 'and are unknown');
}
# a collection changes nothing about that
is(sql($subscriber, q{SELECT collected FROM penstock.claim_collect(grace => '0')}), '0', 'nothing to collect');
if (sql($subscriber, "SELECT count(*) FROM pg_available_extensions WHERE name = 'dblink'"))
{
	sql($subscriber, 'CREATE EXTENSION dblink');
	is(sql($subscriber, "SELECT bool_and(penstock.claim_store(payload) = c) FROM penstock.claim_missing() AS c,
		LATERAL dblink('$publisher', format('SELECT penstock.claim_fetch(%L)', c)) AS d(payload bytea)"), 't', 'carried with dblink');
}
else
{
	for my $ticket (split /\n/, sql($subscriber, 'SELECT * FROM penstock.claim_missing()'))
	{
		my $hex = sql($primary, "SELECT encode(penstock.claim_fetch('$ticket'), 'hex')");
		is(sql($subscriber, "SELECT penstock.claim_store('\\x$hex'::bytea)"), $ticket, "carried: $ticket");
	}
}
is(sql($subscriber, 'SELECT count(*) FROM penstock.claim_missing()'), '0', 'nothing is missing');
is(check_claims($subscriber, 'postgres', $payloads, 'on the subscriber', 'held.c'), 8, 'all of them');
sql($primary, 'DELETE FROM held WHERE n = 7');
$primary->wait_for_catchup('documents');
is(sql($subscriber, q{SELECT collected FROM penstock.claim_collect(grace => '0')}), '1', 'what is deleted there is collected here');

# a publication FOR ALL TABLES has our ordinary tables, too: their rows can be changed there, and do not come here
sql($primary, q{CREATE PUBLICATION everything FOR TABLE held, penstock.claim_object, penstock.claim_owner, penstock.claim_dictionary, penstock.dead_letter; INSERT INTO held VALUES (9, penstock.claim_store('published with all tables'))});
sql($subscriber, "ALTER SUBSCRIPTION documents SET PUBLICATION everything");
sql($primary, q{INSERT INTO held VALUES (10, penstock.claim_store(repeat(md5('x'), 1000) || random())); SELECT penstock.claim_collect()});
$subscriber->poll_query_until('postgres', 'SELECT count(*) = 1 FROM held WHERE n = 10') or die 'nothing arrives';
is(sql($subscriber, 'SELECT count(*) FROM held JOIN penstock.claim_object ON c = claim WHERE n > 8'), '0',
	'rows of objects are not replicated');
is(sql($subscriber, 'SELECT count(*) FROM penstock.claim_missing() m JOIN held ON c = m WHERE n = 10'), '1', 'so the payload is missing, as it should be');
sql($primary, 'DROP PUBLICATION everything; DELETE FROM held WHERE n > 8');

# a row whose large object is another one, or none
{
	my $row = sql($primary, q{SELECT format('%L, %s, %s', claim, loid, stored) FROM penstock.claim_object WHERE loid IS NOT NULL ORDER BY stored LIMIT 1});
	my ($loid) = $row =~ /, (\d+),/;
	sql($subscriber, "DELETE FROM penstock.claim_object WHERE loid = $loid; SELECT lo_from_bytea(424242, 'mine');
		INSERT INTO penstock.claim_object (claim, loid, stored, stored_at) SELECT claim, 424242, stored, now() FROM (VALUES ($row)) AS v (claim, loid, stored)" =~ s/SELECT claim, 424242/SELECT claim::penstock.claim, 424242/r);
	my ($out, $err);
	$subscriber->psql('postgres', "SELECT penstock.claim_fetch(" . ($row =~ s/,.*//r) . ')', stdout => \$out, stderr => \$err);
	like($err, qr/claim "sha256:\w+:\d+" is damaged/, 'a row without its large object is told');
	sql($subscriber, q{DELETE FROM held; SELECT penstock.claim_collect(grace => '0')});
	is(sql($subscriber, 'SELECT lo_get(424242)'), '\x6d696e65', 'and no other one is removed for it');
}
$subscriber->stop;

# ---- the standby is promoted ----

sql($primary, 'DELETE FROM held WHERE n = 6');
$primary->wait_for_catchup($standby, 'replay', $primary->lsn('insert'));
$primary->stop('immediate');
$standby->promote;
is(sql($standby, q{SELECT collected FROM penstock.claim_collect(grace => '0')}), '4', 'a promoted one collects');
sql($standby, 'INSERT INTO held SELECT 100 + n, penstock.claim_store(data || data) FROM payloads; INSERT INTO held SELECT 200 + n, penstock.claim_store(data) FROM payloads');
is(sql($standby, 'SELECT count(*) FROM held JOIN payloads p ON held.n - 100 = p.n WHERE penstock.claim_fetch(c) = data || data'), scalar @numbers, 'and stores');
$payloads->{ ticket($_ . $_) } = $_ . $_ for map { payload($_) } @numbers;
check_claims($standby, 'postgres', $payloads, 'promoted', 'held.c', 'events.c');
$standby->stop;
done_testing();
