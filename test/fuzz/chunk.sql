-- The functions of the test module, tables of every type and shape, and a maker of random tables.
CREATE FUNCTION chunk_roundtrip(regclass, int, int) RETURNS bigint AS :'module' LANGUAGE c STRICT;
CREATE FUNCTION chunk_fuzz(regclass, int, int, int) RETURNS text AS :'module' LANGUAGE c STRICT;
CREATE FUNCTION chunk_time(regclass, int) RETURNS text AS :'module' LANGUAGE c STRICT;
CREATE FUNCTION chunk_time_tiny(regclass, int) RETURNS text AS :'module' LANGUAGE c STRICT;
CREATE FUNCTION chunk_store(regclass, OUT head bytea, OUT body bytea) AS :'module' LANGUAGE c STRICT;
CREATE FUNCTION chunk_rows(regclass, bytea, bytea) RETURNS SETOF record AS :'module' LANGUAGE c;

SELECT setseed(0.25);

CREATE TABLE events AS
SELECT '2026-01-01'::timestamptz + i * interval '1 ms' + (random() * 1000)::int * interval '1 us' AS ts,
	(random() * 100000)::int AS user_id,
	'https://example.com/page/' || (random() * 1000)::int || '/index' AS url,
	round((random() * 200)::numeric, 3)::float8 AS latency,
	(ARRAY[200, 200, 200, 200, 200, 200, 200, 304, 304, 404, 500, 301])[1 + (random() * 11)::int] AS status
FROM generate_series(1, 70000) i;

CREATE TABLE one_event AS SELECT * FROM events LIMIT 1;

CREATE TYPE pair AS (a int, b text, c numeric);
CREATE DOMAIN positive AS int CHECK (value > 0);
CREATE DOMAIN ratio AS float8;
CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy');

CREATE TABLE every_type AS
SELECT CASE WHEN random() < 0.1 THEN NULL ELSE i::smallint END AS i2,
	(random() * 1e18)::bigint AS i8, (i % 7 = 0) AS b, i::oid AS o, (-i)::int::oid AS o_high,
	'x'::"char" AS c_one, chr(65 + i % 26)::"char" AS c,
	random()::float4 AS f4, random() AS f8, round(random()::numeric * 100, 2)::float4 AS f4_decimal,
	CASE i % 50 WHEN 0 THEN 'NaN' WHEN 1 THEN '-0' WHEN 2 THEN 'Infinity' ELSE (i % 1000) / 100.0 END::float8 AS f8_odd,
	CASE i % 3 WHEN 0 THEN NULL WHEN 1 THEN 'NaN' ELSE '-Infinity' END::float4 AS f4_odd,
	(i % 100 / 8.0)::ratio AS dom_float,
	md5(i::text) AS t, CASE WHEN random() < 0.9 THEN NULL ELSE md5((i % 10)::text) END AS t_sparse,
	repeat('abc', (random() * 500)::int) AS t_long, NULL::text AS t_null, ''::text AS t_empty,
	CASE WHEN i > 4000 THEN i END AS added_late,
	i::char(10) AS padded, i::varchar(10) AS vc, decode(md5(i::text), 'hex') AS bin,
	md5(i::text)::uuid AS u, ('name' || i % 100)::name AS nm, point(i, random()) AS p,
	box(point(i, i), point(0, random())) AS bx, ('(1,' || i || '),(2,3)')::path AS pa,
	(i || ' seconds')::interval AS iv, (i * random())::numeric AS num, 'NaN'::numeric AS num_nan,
	ARRAY[i, NULL, i * 2] AS arr, ARRAY['a', md5(i::text)] AS tarr, ARRAY[random(), i] AS farr,
	ROW (i, repeat('z', i % 300), i / 3.0)::pair AS co, ARRAY[ROW (i, 'x', 1)::pair] AS co_arr,
	int4range(i, i + 10) AS rng, nummultirange(numrange(i, i + 1.5)) AS mrng,
	i::positive AS dom, (ARRAY['sad', 'ok', 'happy'])[1 + i % 3]::mood AS en,
	jsonb_build_object('a', i, 'b', md5(i::text)) AS js, json_build_object('a', i) AS jst,
	'1 2 3'::int2vector AS i2v, (i || ' 20')::oidvector AS ov,
	'12:00'::timetz + (i || ' seconds')::interval AS ttz, '2020-01-01'::date + i % 1000 AS d,
	CASE WHEN i % 100 = 0 THEN 'infinity' ELSE '2020-01-01'::date + i END::date AS d_inf,
	'12:00'::time + (i || ' us')::interval AS tm, '2020-01-01'::timestamp + (i || ' s')::interval AS tsp,
	i::money AS mo, ('0/' || to_hex(i))::pg_lsn AS lsn, i::text::xid8 AS x8, i::text::xid AS x,
	'::1'::inet + i AS ip, '08:00:2b:01:02:03'::macaddr AS mac, (i % 256)::bit(8) AS bt, repeat('01', i % 20)::varbit AS vb,
	('(0,' || i % 100 || ')')::tid AS tid, to_tsvector('simple', md5(i::text)) AS tsv, 'pg_class'::regclass AS rc,
	-9223372036854775808 AS i8_min,
	CASE i % 2 WHEN 0 THEN -9223372036854775808 ELSE 9223372036854775807 END AS i8_ends
FROM generate_series(1, 8000) i;

-- values as storage changes them: compressed in the row, external, external and compressed
CREATE TABLE toasted (id int, plain text, external text, main text, bin bytea);
ALTER TABLE toasted ALTER plain SET STORAGE plain, ALTER external SET STORAGE external, ALTER main SET STORAGE main;
INSERT INTO toasted
SELECT i, 'x' || i, repeat(md5(i::text), 500), repeat('main', 1000 + i), decode(repeat(md5(i::text), 5000), 'hex')
FROM generate_series(1, 60) i;

CREATE TABLE no_columns ();
INSERT INTO no_columns SELECT FROM generate_series(1, 100);

CREATE TABLE dropped (a int, b text, c int);
INSERT INTO dropped SELECT i, 'b' || i, -i FROM generate_series(1, 500) i;
ALTER TABLE dropped DROP b;

CREATE TABLE large_row AS
SELECT i, repeat(md5(i::text), 40000 * i) AS t, (SELECT string_agg(md5(j::text), '') FROM generate_series(1, 20000 * i) j) AS r
FROM generate_series(1, 8) i;

-- wide_table(name, type, rows): 1,600 columns
CREATE FUNCTION wide_table(name text, type text, nrows int) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE format('CREATE TABLE %I (%s)', name,
		(SELECT string_agg(format('c%s %s', i, type), ', ') FROM generate_series(1, 1600) i));
	EXECUTE format('INSERT INTO %I SELECT %s FROM generate_series(1, %s) g', name,
		(SELECT string_agg(format('(g * %s %% 1000)::%s', i, type), ', ') FROM generate_series(1, 1600) i), nrows);
END $$;

-- random_table(seed): a table "random_rows" of random columns, distributions, NULLs and length
CREATE FUNCTION random_table(seed int) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	shapes text[] := ARRAY[
		'(random() * 10 ^ (random() * 18))::bigint', '(random() * 5)::int', 'i', 'i * 1000 + (random() * 30)::int',
		'(i / 100)::smallint', '(random() * 300)::int', '-i::bigint', '(random() < 0.01)', 'i % 3 = 0',
		'(random() ^ 4 * 3000)::int', '''s'' || (random() ^ 4 * 3000)::int', '(random() ^ 3 * 900)::int * 1e15::bigint',
		'random()', '(random() * 1000)::int / 100.0::float8', '(random() * 1000)::int / 10.0::float4', 'random()::float4',
		'CASE WHEN random() < 0.001 THEN ''NaN'' ELSE (i % 977) / 1000.0 END::float8', '((random() * 4)::int)::float8',
		'exp(random() * 1400 - 700)', 'i::float8', '(i * 1e15)::float8',
		'md5(random()::text)', '''v'' || (random() * 20)::int', '''w'' || (random() * 5000)::int', 'repeat(''ab'', (random() * 40)::int)',
		'''same''::text', '''t'' || i / 50', 'CASE WHEN i < 3000 THEN md5(i::text) ELSE ''late'' END',
		'now() + i * interval ''1 s''', 'current_date + (random() * 10)::int', 'md5((i % 9)::text)::uuid',
		'(random() * 1e6)::numeric(12, 3)', 'ARRAY[i, (random() * 9)::int]', 'ROW ((random() * 9)::int, ''p'', 1.5)::pair',
		'(''n'' || i % 7)::name', '((random() * 4294967295)::bigint)::oid', 'jsonb_build_object(''k'', i % 11)',
		'decode(md5((random() * 100)::int::text), ''hex'')', '(random() * 1e5 || '' ms'')::interval'];
	nulls text[] := ARRAY['1.1', '1.1', '1.1', '0.5', '0.01', '0.99', 'i % 1000 / 1000.0'];
	columns text := '';
	nrows int;
BEGIN
	PERFORM setseed(1.0 / (seed + 1));
	FOR c IN 1 .. 1 + (random() * 5)::int LOOP
		columns := columns || format(', CASE WHEN random() < %s THEN %s END AS c%s',
			nulls[1 + floor(random() * array_length(nulls, 1))], shapes[1 + floor(random() * array_length(shapes, 1))], c);
	END LOOP;
	nrows := ceil(10 ^ (random() * 4.6));
	DROP TABLE IF EXISTS random_rows;
	EXECUTE format('CREATE TABLE random_rows AS SELECT %s FROM generate_series(1, %s) i', substr(columns, 3), nrows);
	RETURN substr(columns, 3);
END $$;
