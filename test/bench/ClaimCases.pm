# ClaimCases: the measurements of claims, as Cases.
package ClaimCases;

use strict;
use warnings;
use Server;

sub all
{
	return (
		[ 'claim_json', 'payloads of 1 MB json', \&json ],
		[ 'claim_plain', 'incompressible payloads', \&plain ],
		[ 'claim_again', 'duplicate payloads', \&again ],
		[ 'claim_range', 'a range of a large payload', \&range ],
		[ 'claim_small', 'small payloads with a dictionary', \&small ]);
}

# payloads(self): json and random payloads of 1 MB, as they would come from outside.
sub payloads
{
	my ($self) = @_;
	my $n = $self->{o}{quick} ? 8 : 64;
	return $n if $self->{payloads}++;
	$self->{db}->must(qq{
		CREATE TABLE agents AS SELECT i, 'Mozilla/5.0 (' || (array['X11; Linux x86_64', 'Windows NT 10.0; Win64; x64', 'Macintosh; Intel Mac OS X 10_15_7'])[1 + i % 3]
			|| ') AppleWebKit/537.36 (KHTML, like Gecko) Chrome/' || 100 + i || '.0.0.0 Safari/537.36' AS agent FROM generate_series(0, 19) i;
		SELECT setseed(0.5);
		CREATE TABLE json_payload (id int, p bytea); ALTER TABLE json_payload ALTER p SET STORAGE EXTERNAL;
		CREATE TABLE random_payload (id int, p bytea); ALTER TABLE random_payload ALTER p SET STORAGE EXTERNAL}, 600);
	$self->{db}->must(qq{INSERT INTO json_payload SELECT k, convert_to(string_agg(format(
			'{"ts": "%s", "level": "%s", "service": "%s", "host": "web-%s.eu-west-1.example.com", "request": {"method": "%s", "path": "/api/v2/%s/%s", "agent": "%s"}, "status": %s, "bytes": %s, "duration_ms": %s, "user_id": %s}',
			timestamptz '2026-11-25' + (k * 4000 + i) * interval '7 milliseconds', (array['INFO', 'INFO', 'INFO', 'WARN', 'ERROR'])[1 + floor(random() * 5)],
			(array['checkout', 'catalogue', 'search'])[1 + floor(random() * 3)], floor(random() * 16), (array['GET', 'GET', 'POST'])[1 + floor(random() * 3)],
			(array['orders', 'items', 'carts', 'users'])[1 + floor(random() * 4)], floor(random() * random() * 5000), agents[1 + floor(random() * random() * 20)],
			(array[200, 200, 200, 201, 304, 404, 500])[1 + floor(random() * 7)], floor(random() * random() * 4000), round((random() * random() * 500)::numeric, 1),
			floor(random() * random() * 20000)), E'\\n'), 'UTF8')
		FROM generate_series(1, $n) k, generate_series(1, 3000) i, (SELECT array_agg(agent) AS agents FROM agents) a
		GROUP BY k}, 1800);
	$self->{db}->must("INSERT INTO random_payload SELECT k, string_agg(sha256((k * 100000 + i)::text::bytea), '') FROM generate_series(1, $n) k, generate_series(1, 32768) i GROUP BY k", 1800);
	$self->{db}->must('VACUUM ANALYZE json_payload; VACUUM ANALYZE random_payload; CHECKPOINT', 600);
	return $n;
}

# empty(self): no large objects and no claims.
sub empty
{
	my ($self) = @_;
	$self->{db}->must(q{DROP TABLE IF EXISTS objects, tickets; SELECT count(lo_unlink(oid)) FROM pg_largeobject_metadata m
		WHERE NOT EXISTS (SELECT FROM penstock.claim_object o WHERE o.loid = m.oid)}, 600);
	$self->{db}->must(q{SELECT penstock.claim_collect(grace => '0')}, 600);
	$self->{db}->must('VACUUM FULL pg_largeobject; VACUUM FULL pg_largeobject_metadata; VACUUM FULL penstock.claim_object; CHECKPOINT', 600);
	return;
}

sub stored_bytes
{
	my ($self) = @_;
	return $self->{db}->must(q{SELECT pg_total_relation_size('pg_largeobject') + pg_total_relation_size('pg_largeobject_metadata')
		+ pg_total_relation_size('penstock.claim_object')});
}

# storing(self, table): large objects against claims of the same bytes: the ratio of times, of bytes, and both sides' figures.
sub storing
{
	my ($self, $table, $level) = @_;
	my %bytes;
	my $side = sub {
		my ($name, $sql) = @_;
		return sub {
			empty($self);
			my $before = stored_bytes($self);
			my @figures = $self->timed($sql);
			$bytes{$name} = stored_bytes($self) - $before;
			return @figures;
		};
	};
	my ($ratio, $objects, $claims) = $self->paired($side->('objects', "CREATE TABLE objects AS SELECT id, lo_from_bytea(0, p) AS l FROM $table"),
		$side->('claims', "CREATE TABLE tickets AS SELECT id, penstock.claim_store(p" . ($level ? ", level => $level" : '') . ") AS c FROM $table"));
	return ($ratio, $bytes{objects} / $bytes{claims}, Cases::figures('large objects', @$objects) . ', ' . Cases::figures('claims', @$claims),
		sprintf('%.1f and %.1f MB', $bytes{objects} / 1e6, $bytes{claims} / 1e6));
}

sub fetching
{
	my ($self, $table, $what, $target) = @_;
	empty($self);
	$self->{db}->must("CREATE TABLE objects AS SELECT id, lo_from_bytea(0, p) AS l FROM $table; CREATE TABLE tickets AS SELECT id, penstock.claim_store(p) AS c FROM $table; VACUUM pg_largeobject", 600);
	my ($ratio, $objects, $claims) = $self->paired(sub { $self->timed('SELECT sum(length(lo_get(l))) FROM objects') },
		sub { $self->timed('SELECT sum(length(penstock.claim_fetch(c))) FROM tickets') });
	return [ "$what: lo_get / claim_fetch", $ratio, $target, Cases::figures('large objects', @$objects) . ', ' . Cases::figures('claims', @$claims) ];
}

sub json
{
	my ($self) = @_;
	my $n = payloads($self);
	my ($ratio, $bytes, $figures, $sizes) = storing($self, 'json_payload');
	return ([ "$n json payloads of 1 MB: lo_from_bytea / claim_store", $ratio, '>= 2', $figures ],
		[ 'disk: large objects / claims', $bytes, '>= 5', $sizes ], smaller($self, $n), fetching($self, 'json_payload', 'json', '>= 1'));
}

sub smaller
{
	my ($self, $n) = @_;
	my ($ratio, $bytes, $figures, $sizes) = storing($self, 'json_payload', 6);
	return ([ 'the same at level 6', $ratio, '>= 0.7', $figures ], [ 'disk: large objects / claims at level 6', $bytes, '>= 5', $sizes ]);
}

sub plain
{
	my ($self) = @_;
	my $n = payloads($self);
	my ($ratio, $bytes, $figures, $sizes) = storing($self, 'random_payload');
	return ([ "$n random payloads of 1 MB: lo_from_bytea / claim_store", $ratio, '>= 0.8', $figures ],
		[ 'disk: large objects / claims', $bytes, '>= 1', $sizes ], fetching($self, 'random_payload', 'random', '>= 0.3'));
}

sub again
{
	my ($self) = @_;
	payloads($self);
	empty($self);
	$self->{db}->must('CREATE TABLE tickets AS SELECT id, penstock.claim_store(p) AS c FROM random_payload', 600);
	my $before = stored_bytes($self);
	my ($ratio, $objects, $claims) = $self->paired(
		sub { $self->{db}->must('DROP TABLE IF EXISTS objects'); $self->timed('CREATE TABLE objects AS SELECT id, lo_from_bytea(0, p) AS l FROM random_payload') },
		sub { $self->timed('CREATE TEMP TABLE again AS SELECT penstock.claim_store(p) AS c FROM random_payload; DROP TABLE again') });
	my $claims_now = $self->{db}->must("SELECT count(*) - (SELECT count(*) FROM tickets) FROM penstock.claim_object");
	return ([ 'payloads that are there: lo_from_bytea / claim_store', $ratio, '>= 5', Cases::figures('large objects', @$objects) . ', ' . Cases::figures('claims', @$claims) ],
		[ 'objects written for them', $claims_now, '<= 0', '' ]);
}

sub range
{
	my ($self) = @_;
	my $n = $self->{o}{quick} ? 64 : 1000;
	payloads($self);
	empty($self);
	$self->{db}->must(qq{BEGIN; SELECT penstock.claim_open();
		SELECT count(penstock.claim_append(1, substr(p, 1, 1000000))) FROM generate_series(1, $n) i JOIN json_payload ON id = 1 + i % 8;
		CREATE TABLE tickets AS SELECT penstock.claim_close(1) AS c; COMMIT}, 1800);
	my $at = 0;
	my ($ratio, $part, $whole) = $self->paired(sub { $at += 777_777; my ($s, $c) = $self->timed("SELECT sum(length(penstock.claim_fetch_range(c, ($at + i * 31000000) % " . ($n - 1) . "000000, 65536))) FROM tickets, generate_series(1, 10) i"); return ($s / 10, $c / 10); },
		sub { $self->timed('SELECT length(penstock.claim_fetch(c)) FROM tickets') });
	return [ "64 kB out of $n MB, time by that of all", $ratio, '<= 0.01', sprintf('%.2f ms and %.2f s', $part->[0] * 1000, $whole->[0]) ];
}

sub small
{
	my ($self) = @_;
	my $n = $self->{o}{quick} ? 2000 : 20000;
	my $db = $self->{db};
	payloads($self);
	empty($self);
	$db->must(qq{DROP TABLE IF EXISTS small, small_lz4; CREATE TABLE small AS SELECT i AS id, convert_to(jsonb_build_object(
			'order', i, 'created_at', timestamptz '2026-11-25' + i * interval '1 second', 'currency', 'EUR', 'customer', jsonb_build_object('id', i % 997,
			'segment', (array['private', 'business'])[1 + i % 2], 'address', jsonb_build_object('street', 'Hauptstrasse ' || i % 120, 'postal_code', 10000 + i % 89, 'city', (array['Berlin', 'Hamburg', 'Köln'])[1 + i % 3], 'country', 'DE')),
			'shipping', jsonb_build_object('carrier', (array['DHL', 'UPS'])[1 + i % 2], 'tracking_number', 'JD0146' || i * 7919, 'estimated_delivery_days', 1 + i % 4, 'insurance_included', i % 2 = 0),
			'payment', jsonb_build_object('method', (array['card', 'invoice', 'wallet'])[1 + i % 3], 'authorization_code', hashint4(i) & 1048575, 'installments', 1, 'fraud_check', 'passed'),
			'lines', (SELECT jsonb_agg(jsonb_build_object('article_number', 100000 + (i * l * 37) % 5000, 'description', (array['stainless steel water bottle', 'wireless ergonomic keyboard', 'adjustable standing desk', 'noise cancelling headphones'])[1 + (i + l) % 4],
				'quantity', 1 + (i + l) % 3, 'unit_price', round((((i * l * 7919) % 10000) / 100.0)::numeric, 2), 'tax_rate', 0.19, 'warehouse_location', (array['north', 'south'])[1 + (i * l) % 2])) FROM generate_series(1, 8) l))::text, 'UTF8') AS p
		FROM generate_series(1, $n) i;
		SELECT penstock.claim_class_train('order', array_agg(p), 65536) FROM small WHERE id % 20 = 0;
		CREATE TABLE small_lz4 (id int, p bytea COMPRESSION lz4); INSERT INTO small_lz4 SELECT * FROM small}, 600);
	my $average = $db->must('SELECT avg(length(p))::int FROM small');
	my $before = stored_bytes($self) + $db->must(q{SELECT pg_total_relation_size('penstock.claim_dictionary')});
	$db->must(q{CREATE TABLE tickets AS SELECT id, penstock.claim_store(p, 'order') AS c FROM small}, 600);
	die "not the same\n" if $db->must('SELECT count(*) FROM small JOIN tickets USING (id) WHERE penstock.claim_fetch(c) <> p');
	my $bytes = stored_bytes($self) - $before + $db->must(q{SELECT pg_total_relation_size('penstock.claim_dictionary')});
	my $tickets = $db->must(q{SELECT pg_total_relation_size('tickets')});
	my $lz4 = $db->must(q{SELECT pg_total_relation_size('small_lz4')});
	return [ "$n json payloads of $average bytes, disk: claims / lz4", $bytes / $lz4, '<= 0.25',
		sprintf('%.1f MB (and tickets of %.1f MB) against %.1f MB', $bytes / 1e6, $tickets / 1e6, $lz4 / 1e6) ];
}

1;
