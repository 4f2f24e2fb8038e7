# Claim checks at the edge: payloads checked in as they arrive, tickets or payloads sent on.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../connector";
use Penstock::Test;
use TestQueue;
use Test::More;

my $node = penstock_node('claim_queue', 'fsync = off');
my $q = TestQueue->new($node);
sub sql { return $q->sql($_[0]); }

# ---- what cannot be ----

like($q->fails(q{CREATE FOREIGN TABLE bad (b bytea OPTIONS (metadata 'payload', claim_threshold '64 kB')) SERVER tq OPTIONS (queue 'a')}),
	qr/column "b" must be of type penstock.claim.*claim_threshold/s, 'a threshold is for a column of claims') or sql('DROP FOREIGN TABLE bad');
like($q->fails(q{CREATE FOREIGN TABLE bad (b text OPTIONS (redeem 'true')) SERVER tq OPTIONS (queue 'a')}),
	qr/column "b" must be of type penstock.claim.*redeem/s, 'so is redeeming') or sql('DROP FOREIGN TABLE bad');
like($q->fails(q{CREATE FOREIGN TABLE bad (b penstock.claim OPTIONS (claim_threshold '64 kB')) SERVER tq OPTIONS (queue 'a')}),
	qr/cannot have the option "claim_threshold".*metadata 'payload'/s, 'a threshold is for the payload') or sql('DROP FOREIGN TABLE bad');
like($q->fails(q{CREATE FOREIGN TABLE bad (b penstock.claim OPTIONS (metadata 'payload', claim_threshold 'big')) SERVER tq OPTIONS (queue 'a')}),
	qr/invalid value for option "claim_threshold": "big"/, 'a threshold is a size');

# ---- in: small payloads as they are, large ones as tickets ----

sql(q{
	CREATE FOREIGN TABLE documents (id int, body bytea OPTIONS (metadata 'payload'), ticket penstock.claim OPTIONS (metadata 'payload', claim_threshold '1 kB'))
		SERVER tq OPTIONS (queue 'documents');
	CREATE TABLE document (id int, body bytea, ticket penstock.claim) USING stream;
	CALL penstock.create_pipe('store', 'INSERT INTO document SELECT * FROM documents', active => false)});
sql(q{SELECT testqueue.append('tq', 'documents', format('{"id": %s, "text": "%s"}', i, repeat(i::text || ' a line of text ', CASE WHEN i % 2 = 0 THEN 1 ELSE 5000 END)), '0')
	FROM generate_series(1, 10) i});
sql(q{SELECT penstock.resume('store')});
$q->true(q{SELECT count(*) = 10 FROM document});
is(sql('SELECT string_agg(id::text, \' \' ORDER BY id) FROM document WHERE body IS NULL AND penstock.claim_size(ticket) > 50000'), '1 3 5 7 9', 'large payloads are tickets');
is(sql('SELECT string_agg(id::text, \' \' ORDER BY id) FROM document WHERE ticket IS NULL AND length(body) < 100'), '2 4 6 8 10', 'small ones are as they were');
is(sql(q{SELECT count(*) FROM document WHERE penstock.claim_text(ticket)::jsonb ->> 'text' = repeat(id || ' a line of text ', 5000)}), '5', 'and redeemed they are what came');
is(sql(q{SELECT collected FROM penstock.claim_collect(grace => '0')}), '0', 'rows of a stream hold them');

# ---- a batch that fails leaves nothing, and what fails alone is a dead letter with its payload ----

sql(q{CALL penstock.drop_pipe('store'); TRUNCATE document; SELECT penstock.claim_collect(grace => '0');
	CREATE TABLE checked (id int CHECK (id <> 3), ticket penstock.claim);
	CALL penstock.create_pipe('check', 'INSERT INTO checked SELECT id, ticket FROM documents')});
$q->true(q{SELECT count(*) = 9 FROM checked});
is(sql('SELECT count(*), max(length(payload)) > 50000 FROM penstock.dead_letter'), '1|t', 'the message that failed is a dead letter, with all of its payload');
is(sql(q{SELECT collected + waiting, (SELECT count(*) FROM checked WHERE penstock.claim_exists(ticket)) FROM penstock.claim_collect(grace => '0')}), '1|4',
	'its payload in the store is removed, the others stay');
is(sql('SELECT claims FROM penstock.stat_claim'), '4', 'and there is nothing else');

# ---- out: the ticket, or what it stands for ----

sql(q{
	CREATE FOREIGN TABLE tickets (id int, ticket penstock.claim) SERVER tq OPTIONS (queue 'tickets');
	CREATE FOREIGN TABLE redeemed (id int, ticket penstock.claim OPTIONS (redeem 'true')) SERVER tq OPTIONS (queue 'redeemed');
	CREATE FOREIGN TABLE whole (ticket penstock.claim OPTIONS (metadata 'payload', redeem 'true')) SERVER tq OPTIONS (queue 'whole');
	CREATE FOREIGN TABLE whole_text (t text OPTIONS (metadata 'payload')) SERVER tq OPTIONS (queue 'whole');
	CREATE FOREIGN TABLE redeemed_text (t text OPTIONS (metadata 'payload')) SERVER tq OPTIONS (queue 'redeemed')});
sql(q{INSERT INTO tickets SELECT id, ticket FROM checked WHERE id < 8; INSERT INTO redeemed SELECT id, ticket FROM checked WHERE id = 5;
	INSERT INTO whole SELECT ticket FROM checked WHERE id = 7});
is(sql(q{SELECT count(*), count(ticket) FROM tickets t JOIN checked c USING (id, ticket)}), '3|3', 'a ticket is sent and read as its text');
is(sql(q{SELECT (t::jsonb ->> 'ticket') = (SELECT penstock.claim_text(ticket) FROM checked WHERE id = 5) FROM redeemed_text}), 't', 'a field with the payload in its place');
is(sql(q{SELECT t = (SELECT penstock.claim_text(ticket) FROM checked WHERE id = 7) FROM whole_text}), 't', 'a message that is the payload');
like($q->fails(q{INSERT INTO whole VALUES ('sha256:0000000000000000000000000000000000000000000000000000000000000000:1')}), qr/there is no payload for claim/,
	'a ticket for nothing is an error of who sends it');

done_testing();
