# Damaged payloads and hostile tickets: whatever is changed, a fetch, a range, a reader and verify end in the right bytes or in
# ERRCODE_DATA_CORRUPTED naming the claim; no crash, and no more memory than there is payload.  CLAIM_SEED repeats a run, CLAIM_DAMAGE=n rounds.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../perl";
use Penstock::Claims;
use Penstock::Session;
use Penstock::Test;
use Test::More;

my $seed = $ENV{CLAIM_SEED} || int(rand(1_000_000));
my $rounds = $ENV{CLAIM_DAMAGE} || 2500;
diag("seed $seed");
my $node = penstock_node('claim_damage', 'penstock.claim_collect_interval = 0', 'allow_system_table_mods = on', 'autovacuum = off', 'fsync = off',
	'log_min_error_statement = panic');
sub sql { return $node->safe_psql('postgres', $_[0]); }

my @numbers = (0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 16);
load_payloads($node, @numbers);
sql(q{CREATE TABLE held (n int, c penstock.claim, data bytea);
	INSERT INTO held SELECT n, penstock.claim_store(data), data FROM payloads;
	SELECT penstock.claim_class_train('alike', array_agg(convert_to(repeat(format('{"order": %s, "state": "open", "city": "c%s"}', i, i % 7), 1 + i % 5), 'UTF8')), 2048) FROM generate_series(1, 300) i;
	INSERT INTO held SELECT i, penstock.claim_store(d, 'alike'), d FROM (SELECT i, convert_to(repeat(format('{"order": %s, "state": "open", "city": "c%s"}', i, i % 7), 40 * (i - 1000)), 'UTF8') AS d
		FROM generate_series(1001, 1003) i) q;
	INSERT INTO held SELECT 2000, penstock.claim_store(d, 'alike', 1), d FROM (SELECT convert_to(string_agg(format('{"order": %s, "state": "open"}', md5(i::text)), ','), 'UTF8') AS d
		FROM generate_series(1, 40000) i) q});

# A function that changes something of one claim, looks at it in every way, and undoes the change.
sql(<<'END');
CREATE FUNCTION change(data bytea) RETURNS bytea LANGUAGE plpgsql AS $$
DECLARE
	n int := length(data);
	a int := floor(random() * n);
	b int := floor(random() * n);
	k int := floor(random() * 9);
BEGIN
	IF n = 0 THEN RETURN '\x00'; END IF;
	RETURN CASE k
		WHEN 0 THEN set_byte(data, a, (get_byte(data, a) # (1 << floor(random() * 8)::int)))
		WHEN 1 THEN set_byte(data, a, floor(random() * 256)::int)
		WHEN 2 THEN set_byte(set_byte(data, a, get_byte(data, b)), b, get_byte(data, a))
		WHEN 3 THEN substr(data, 1, a)
		WHEN 4 THEN data || substr(data, a)
		WHEN 5 THEN substr(data, a + 1)
		WHEN 6 THEN overlay(data PLACING decode(repeat('ff', least(8, n)), 'hex') FROM greatest(least(a, n - 8), 0) + 1)
		WHEN 7 THEN overlay(data PLACING decode(repeat('00', least(4, n)), 'hex') FROM greatest(least(a, n - 4), 0) + 1)
		-- the ends, where footer and table are
		ELSE set_byte(data, greatest(n - 1 - floor(random() * 80)::int, 0), floor(random() * 256)::int) END;
END $$;

CREATE FUNCTION damage(o penstock.claim_object) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	k int := floor(random() * 12);
	page int;
	pages int := (SELECT max(pageno) FROM pg_largeobject WHERE loid = o.loid);
BEGIN
	IF o.loid IS NULL AND k < 9 THEN
		UPDATE penstock.claim_object SET payload = change(payload) WHERE claim = o.claim;
		RETURN 'row';
	END IF;
	page := CASE WHEN random() < 0.5 THEN pages ELSE floor(random() * (pages + 1)) END;
	CASE k
	WHEN 0, 1, 2, 3, 4, 5 THEN UPDATE pg_largeobject SET data = change(data) WHERE loid = o.loid AND pageno = page;
	WHEN 6 THEN DELETE FROM pg_largeobject WHERE loid = o.loid AND pageno = page;
	WHEN 7 THEN UPDATE pg_largeobject SET pageno = pageno + 1 + floor(random() * 100000)::int WHERE loid = o.loid AND pageno = page;
	WHEN 8 THEN UPDATE pg_largeobject a SET data = b.data FROM pg_largeobject b WHERE a.loid = o.loid AND b.loid = o.loid AND a.pageno = page AND b.pageno = floor(random() * (pages + 1))::int;
	WHEN 9 THEN UPDATE penstock.claim_object SET stored = (ARRAY[0, -1, stored - 1, stored + 1, 40, 1000000, 9223372036854775807, stored / 2])[1 + floor(random() * 8)::int] WHERE claim = o.claim;
	WHEN 10 THEN UPDATE penstock.claim_object SET dictionary = (ARRAY[0, -1, 1, 2, NULL])[1 + floor(random() * 5)::int] WHERE claim = o.claim;
	ELSE IF random() < 0.5 THEN UPDATE penstock.claim_dictionary SET dictionary = change(dictionary);
		-- another one's object, or none
		ELSE UPDATE penstock.claim_object SET loid = (SELECT loid FROM penstock.claim_object WHERE loid IS NOT NULL ORDER BY random() LIMIT 1), stored = coalesce(stored, 100) WHERE claim = o.claim; END IF;
	END CASE;
	RETURN 'object ' || k;
END $$;

CREATE TYPE outcome AS (how text, result text);
CREATE FUNCTION look(h held) RETURNS SETOF outcome LANGUAGE plpgsql AS $$
DECLARE
	size int := length(h.data);
	a int := floor(random() * (size + 2));
	n int := floor(random() * CASE WHEN random() < 0.5 THEN 100 ELSE size + 2 END);
	got bytea;
	reader int;
	exported oid;
	how text;
	why text;
BEGIN
	FOREACH how IN ARRAY ARRAY['fetch', 'unverified', 'range', 'verify', 'reader', 'info', 'export'] LOOP
		BEGIN
			CASE how
			WHEN 'fetch' THEN got := penstock.claim_fetch(h.c);
			WHEN 'unverified' THEN got := penstock.claim_fetch(h.c, false);
			WHEN 'range' THEN got := penstock.claim_fetch_range(h.c, a, n);
			WHEN 'verify' THEN got := CASE WHEN penstock.claim_verify(h.c) THEN h.data END;
			WHEN 'info' THEN got := CASE WHEN (penstock.claim_info(h.c)).size = size THEN h.data END;
			WHEN 'export' THEN exported := penstock.claim_export(h.c);
				got := lo_get(exported);
				RAISE SQLSTATE 'ZZ000';
			ELSE reader := penstock.claim_reader(h.c);
				PERFORM penstock.claim_seek(reader, size / 3);
				got := penstock.claim_read(reader, 1000) || penstock.claim_read(reader, size);
			END CASE;
			RETURN NEXT ROW(how, CASE WHEN got = CASE how WHEN 'range' THEN substr(h.data, a + 1, n) WHEN 'reader' THEN substr(h.data, size / 3 + 1) ELSE h.data END
				THEN 'right' ELSE 'WRONG' END)::outcome;
		EXCEPTION
			WHEN SQLSTATE 'ZZ000' THEN RETURN NEXT ROW(how, CASE WHEN got = h.data THEN 'right' ELSE 'WRONG' END)::outcome;
			WHEN data_corrupted THEN
				GET STACKED DIAGNOSTICS why = MESSAGE_TEXT;
				RETURN NEXT ROW(how, CASE WHEN why = format('claim "%s" is damaged', h.c) THEN 'damaged' ELSE 'WRONG: ' || why END)::outcome;
			WHEN OTHERS THEN RETURN NEXT ROW(how, format('WRONG: %s %s', SQLSTATE, SQLERRM))::outcome;
		END;
	END LOOP;
END $$;

CREATE TABLE outcomes (round int, what text, n int, how text, result text);
CREATE PROCEDURE fuzz(seed float8, rounds int) LANGUAGE plpgsql AS $$
DECLARE h held; what text; results outcome[];
BEGIN
	PERFORM setseed(seed);
	FOR i IN 1 .. rounds LOOP
		SELECT * INTO h FROM held ORDER BY random() LIMIT 1;
		BEGIN
			SELECT damage(o) INTO what FROM penstock.claim_object o WHERE o.claim = h.c;
			results := ARRAY(SELECT look(h));
			RAISE SQLSTATE 'ZZ001';
		EXCEPTION WHEN SQLSTATE 'ZZ001' THEN NULL;
		END;
		INSERT INTO outcomes SELECT i, what, h.n, (r).* FROM unnest(results) r;
		COMMIT;
	END LOOP;
END $$;
END

is(sql("SELECT string_agg(DISTINCT r.result, ',') FROM held h, look(h) r"), 'right', 'undamaged');
my $session = Penstock::Session->new($node);
my $pid = $session->must('SELECT pg_backend_pid()');
sub peak { return 0 unless -r "/proc/$pid/status"; my ($kb) = PostgreSQL::Test::Utils::slurp_file("/proc/$pid/status") =~ /VmHWM:\s+(\d+)/; return $kb; }
$session->must('SELECT count(*) FROM held h, look(h)');
my $before = peak();
my $said = $session->must('CALL fuzz(' . $seed / 1_000_000 . ", $rounds)", 600);
is($said, '', 'no warning') or diag(substr($said, 0, 1000));
is(sql("SELECT DISTINCT what, n, how, result FROM outcomes WHERE result LIKE 'WRONG%' LIMIT 20"), '', "$rounds damages: right, or an error that names the claim");
tell_user('# ' . sql("SELECT string_agg(r, ', ') FROM (SELECT result || ' ' || count(*) AS r FROM outcomes GROUP BY result ORDER BY result) q") . "\n");
cmp_ok(sql("SELECT count(*) FILTER (WHERE result = 'damaged') FROM outcomes"), '>', $rounds, 'most are found');
cmp_ok(peak() - $before, '<', 65536, 'memory stays (kB)') if -e "/proc/$pid/status";
is($session->must("SELECT string_agg(DISTINCT r.result, ',') FROM held h, look(h) r"), 'right', 'undamaged ones are as they were');

# a dictionary that has changed is known to be another one by who has not read it before
sql('CREATE TABLE dictionaries AS TABLE penstock.claim_dictionary');
for (1 .. 20)
{
	sql("SELECT setseed($seed / 1000000.0 / $_); UPDATE penstock.claim_dictionary SET dictionary = change(dictionary)");
	my $said = sql("SELECT string_agg(DISTINCT r.result, ',') FROM held h, look(h) r WHERE n > 1000 AND how <> 'info'");
	# (a change may be none)
	unlike($said, qr/WRONG/, 'a changed dictionary') if $said =~ /WRONG/ || $_ == 20;
	sql('UPDATE penstock.claim_dictionary c SET dictionary = d.dictionary FROM dictionaries d WHERE c.id = d.id');
}
sql('DELETE FROM penstock.claim_dictionary');
is(sql("SELECT string_agg(DISTINCT r.result, ',') FROM held h, look(h) r WHERE n > 1000"), 'damaged', 'none');
sql('INSERT INTO penstock.claim_dictionary TABLE dictionaries');

# what is dropped with a damaged object is not somebody else's
sql(q{SELECT lo_from_bytea(4242, 'mine'); UPDATE penstock.claim_object SET loid = 4242 WHERE claim = (SELECT c FROM held WHERE n = 7); DELETE FROM held WHERE n = 7;
	SELECT penstock.claim_collect(grace => '0')});
is(sql('SELECT lo_get(4242)'), '\x6d696e65', 'a large object that is not of the claim is not removed with it');

# ---- tickets ----

$session->must(<<'END');
CREATE FUNCTION input(t text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE c penstock.claim;
BEGIN
	c := t::penstock.claim;
	-- what is accepted is said again as it was, and is unknown or damaged or right
	IF c::text <> lower(t) OR penstock.claim_recv_test(c) <> c THEN RETURN 'WRONG ' || t; END IF;
	PERFORM penstock.claim_fetch(c);
	RETURN 'right';
EXCEPTION
	WHEN invalid_text_representation THEN RETURN 'refused';
	WHEN no_data_found THEN RETURN 'unknown';
	WHEN OTHERS THEN RETURN format('WRONG %s: %s %s', t, SQLSTATE, SQLERRM);
END $$
END
$session->must(q{CREATE FUNCTION penstock.claim_recv_test(c penstock.claim) RETURNS penstock.claim LANGUAGE sql AS 'SELECT (((c::jsonb)::text)::jsonb)::penstock.claim'});
$session->must("SELECT setseed($seed / 1000000.0)");
is($session->must(q{SELECT string_agg(DISTINCT r, ',') FROM (SELECT input(CASE WHEN i % 3 = 0 THEN left(t, (random() * length(t))::int) WHEN i % 3 = 1 THEN overlay(t PLACING chr(32 + (random() * 94)::int) FROM 1 + (random() * (length(t) - 1))::int FOR 1)
	ELSE t || (ARRAY['0', '9', ' ', ':', '99999999999999999999', '-'])[1 + floor(random() * 6)::int] END) AS r, i FROM held, LATERAL (SELECT c::text AS t) x, generate_series(1, 400) i) q WHERE r LIKE 'WRONG%'}),
	'', 'damaged text: refused, unknown or right');
# binary: COPY of 40 bytes, and of other lengths
my $file = $node->basedir . '/tickets';
$session->must('CREATE TABLE read (c penstock.claim)');
my %outcome;
srand($seed);
for my $i (1 .. 300)
{
	my $ticket = pack('H*', Digest::SHA::sha256_hex($i)) . chr(1) . "\0" x 5 . pack('n', $i);
	substr($ticket, int rand length $ticket, 1) = chr int rand 256 for 1 .. 1 + rand 2;
	$ticket = substr($ticket, 0, int rand 40) if $i % 5 == 0;
	$ticket .= 'x' x int rand 10 if $i % 5 == 1;
	open(my $out, '>:raw', $file) or die $!;
	print $out "PGCOPY\n\xff\r\n\0" . pack('NNnN', 0, 0, 1, length $ticket) . $ticket . pack('n', 0xffff);
	close $out;
	$session->query("COPY read FROM '$file' (FORMAT binary)");
	my $error = $session->error;
	$outcome{ $error =~ /invalid binary value for type penstock.claim|incorrect binary data format|insufficient data left/ ? 'refused' : $error eq '' ? 'taken' : $error }++;
}
is(join(',', sort keys %outcome), 'refused,taken', 'damaged binary tickets are refused, or are others');
is($session->must("SELECT count(*) FROM read WHERE c::text::penstock.claim <> c OR penstock.claim_size(c) > 4398046511104"), '0', 'and are what they say');
unlike(PostgreSQL::Test::Utils::slurp_file($node->logfile), qr/terminated by signal|PANIC|leak/, 'no crash');
$node->stop;
done_testing();
