-- Streams: every type, against a heap with the same rows.
CREATE SCHEMA stream_types;
SET search_path = stream_types;
SET TIME ZONE 'UTC';
CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy');
CREATE TYPE pair AS (a int, b text);
CREATE DOMAIN positive AS int CHECK (VALUE > 0);
CREATE DOMAIN short_text AS text CHECK (length(VALUE) < 100);
CREATE TYPE span AS RANGE (subtype = int8);

CREATE TABLE h (
  c_bool bool, c_char "char", c_int2 int2, c_int4 int4, c_int8 int8, c_float4 float4, c_float8 float8,
  c_numeric numeric, c_numeric2 numeric(12, 3), c_money money, c_oid oid, c_text text, c_varchar varchar(40),
  c_bpchar char(10), c_name name, c_bytea bytea, c_date date, c_time time, c_timetz timetz,
  c_timestamp timestamp, c_timestamptz timestamptz, c_interval interval, c_uuid uuid, c_inet inet, c_cidr cidr,
  c_macaddr macaddr, c_macaddr8 macaddr8, c_bit bit(5), c_varbit varbit, c_json json, c_jsonb jsonb,
  c_xid8 xid8, c_lsn pg_lsn, c_tid tid, c_point point, c_box box, c_circle circle, c_path path,
  c_tsvector tsvector, c_mood mood, c_pair pair, c_positive positive, c_short short_text, c_range int4range,
  c_tsrange tstzrange, c_multi int4multirange, c_span span, c_ints int[], c_texts text[], c_pairs pair[],
  c_moods mood[], c_domains positive[], c_class regclass, c_big text);

SELECT setseed(0.25);
-- a NULL now and then
CREATE FUNCTION r(v anyelement) RETURNS anyelement LANGUAGE sql VOLATILE
  AS $$SELECT CASE WHEN random() < 0.1 THEN NULL ELSE v END$$;
CREATE FUNCTION fill(n int) RETURNS void LANGUAGE sql AS $$
  INSERT INTO h
  SELECT r(i % 2 = 0), r((65 + i % 26)::"char"), r((i * 7 % 60000 - 30000)::int2), r((random() * 4e9 - 2e9)::int4),
    r((random() * 1e18)::int8), r((random() * 1e6)::float4), r(CASE i % 50 WHEN 0 THEN 'NaN' WHEN 1 THEN '-Infinity'
      WHEN 2 THEN -0.0 ELSE random() END::float8),
    r((random() * 1e20)::numeric ^ (i % 3)), r((random() * 1e6)::numeric(12, 3)), r((random() * 1e6)::numeric::money),
    r(i::oid), r(repeat('ab' || i % 20, i % 30)), r(left(md5(i::text), 40)::varchar(40)), r(('x' || i)::char(10)),
    r(('n' || i)::name), r(decode(md5(i::text), 'hex')), r('2000-01-01'::date + (random() * 10000)::int),
    r('00:00'::time + random() * interval '1 day'), r(('0' || i % 10 || ':00:00+0' || i % 7)::timetz),
    r(CASE i % 40 WHEN 0 THEN 'infinity' WHEN 1 THEN '-infinity' ELSE '2000-01-01'::timestamp + random() * interval '30 years' END),
    r('2026-01-01'::timestamptz + i * interval '1 second'), r(random() * interval '1000 days'),
    r(md5(i::text)::uuid), r(('10.' || i % 250 || '.0.' || i % 9)::inet), r(('10.' || i % 250 || '.0.0/16')::cidr),
    r('08:00:2b:01:02:03'::macaddr), r('08:00:2b:01:02:03:04:05'::macaddr8), r((i % 32)::bit(5)), r((i % 32)::bit(5)::varbit),
    r(json_build_object('i', i)), r(jsonb_build_object('i', i % 10, 'a', jsonb_build_array(i, 'x', null))),
    r((i * 10)::text::xid8), r(('0/' || i)::pg_lsn), r(('(' || i || ',1)')::tid), r(point(i, -i)),
    r(box(point(0, 0), point(i, i))), r(circle(point(i, 0), 2)), r('((1,1),(2,2))'::path),
    r(to_tsvector('simple', 'word' || i % 5 || ' other')), r((enum_range(NULL::mood))[1 + i % 3]),
    r(ROW(i, 'p' || i)::pair), r((i % 100 + 1)::positive), r(('s' || i)::short_text), r(int4range(i, i + i % 5)),
    r(tstzrange('2026-01-01', '2026-01-01'::timestamptz + i * interval '1 hour')), r(int4multirange(int4range(i, i + 3), int4range(i + 5, i + 9))),
    r(span(i, i + 1)), r(ARRAY[i, NULL, -i]), r(ARRAY['a', NULL, repeat('b', i % 7)]), r(ARRAY[ROW(i, NULL)::pair]),
    r(ARRAY['ok', 'sad']::mood[]), r(ARRAY[1, i % 9 + 1]::positive[]), r('pg_class'::regclass), NULL
  FROM generate_series(1, n) i
$$;
SELECT fill(2000);
UPDATE h SET c_big = (SELECT string_agg(md5(x::text || coalesce(c_int4, 0)::text), '') FROM generate_series(1, 1000) x)
  WHERE ctid IN (SELECT ctid FROM h LIMIT 20);

CREATE TABLE s (LIKE h) USING stream;
-- as a row, so that types without equality are compared too
CREATE FUNCTION difference() RETURNS TABLE (missing bigint, extra bigint) LANGUAGE sql AS $$
  SELECT (SELECT count(*) FROM (SELECT h::text FROM h EXCEPT ALL SELECT s::text FROM s) d),
         (SELECT count(*) FROM (SELECT s::text FROM s EXCEPT ALL SELECT h::text FROM h) d)
$$;
INSERT INTO s SELECT * FROM h;
SELECT * FROM difference();
SELECT count(*), count(c_big), max(length(c_big)) FROM s;
-- in many small chunks, some of one row
TRUNCATE s;
DO $$
DECLARE x h;
BEGIN
  FOR x IN SELECT * FROM h LIMIT 300 LOOP
    INSERT INTO s SELECT x.*;
    IF random() < 0.5 THEN COMMIT; END IF;
  END LOOP;
END $$;
INSERT INTO s SELECT * FROM h OFFSET 300;
SELECT * FROM difference();
-- all NULL, all the same
TRUNCATE s, h;
INSERT INTO h SELECT FROM generate_series(1, 1000);
INSERT INTO s SELECT * FROM h;
SELECT * FROM difference();
TRUNCATE h;
SELECT fill(1);
INSERT INTO h SELECT h.* FROM h, generate_series(1, 3000);
TRUNCATE s;
INSERT INTO s SELECT * FROM h;
SELECT * FROM difference();
-- rewritten by VACUUM FULL
VACUUM FULL s;
SELECT * FROM difference();
-- copied out and in again
CREATE TABLE s2 (LIKE h) USING stream;
INSERT INTO s2 SELECT * FROM s;
SELECT count(*) FROM (SELECT s::text FROM s EXCEPT ALL SELECT s2::text FROM s2) d;

-- comparison of by-value types by their own columns
CREATE TABLE v (i2 int2, i4 int4, i8 int8, f4 float4, f8 float8, d date, ts timestamptz) USING stream;
INSERT INTO v SELECT (random() * 60000 - 30000)::int2, (random() * 4e9 - 2e9)::int4, (random() * 1.8e19 - 9e18)::int8,
    (random() * 1e30)::float4, random() * 1e300, '4713-01-01 BC'::date + (random() * 2000000)::int,
    '2026-01-01'::timestamptz + (random() * 1e9)::int * interval '1 microsecond' FROM generate_series(1, 5000);
INSERT INTO v VALUES (-32768, -2147483648, -9223372036854775808, '-Infinity', '-Infinity', '-infinity', '-infinity'),
    (32767, 2147483647, 9223372036854775807, 'NaN', 'NaN', 'infinity', 'infinity'), (0, 0, 0, -0.0, -0.0, NULL, NULL);
CREATE TABLE vh AS SELECT * FROM v;
SELECT count(*) FROM (SELECT * FROM v EXCEPT ALL SELECT * FROM vh) d;
SELECT min(i2), max(i2), min(i4), max(i4), min(i8), max(i8) FROM v;
SELECT count(*) FROM v WHERE i8 = -9223372036854775808;
SELECT count(*) FROM v WHERE f8 = 'NaN';
SELECT count(*) FROM v WHERE f8 > 1e300;
SELECT count(*) FROM v WHERE d = 'infinity';
SELECT count(*) FROM v WHERE ts < '4001-01-01 BC';

-- values larger than a page, in one row and in many
CREATE TABLE wide (id int, v text) USING stream;
INSERT INTO wide VALUES (1, (SELECT string_agg(md5(i::text), '') FROM generate_series(1, 200000) i));
INSERT INTO wide SELECT i, repeat(md5(i::text), 1000) FROM generate_series(2, 300) i;
SELECT count(*), sum(length(v)) FROM wide;
SELECT md5(v) = md5((SELECT string_agg(md5(i::text), '') FROM generate_series(1, 200000) i)) AS same FROM wide WHERE id = 1;
SELECT bool_and(v = repeat(md5(id::text), 1000)) FROM wide WHERE id > 1;
SELECT pg_total_relation_size('wide') < 12000000 AS compressed;
-- many columns
DO $$
BEGIN
  EXECUTE 'CREATE TABLE broad (' || (SELECT string_agg('c' || i || ' int', ', ') FROM generate_series(1, 1000) i) || ') USING stream';
  EXECUTE 'INSERT INTO broad SELECT ' || (SELECT string_agg(i || ' * g', ', ') FROM generate_series(1, 1000) i)
    || ' FROM generate_series(1, 100) g';
END $$;
SELECT sum(c1), sum(c500), sum(c1000) FROM broad;

SET client_min_messages = warning;
DROP SCHEMA stream_types CASCADE;
