-- Formats csv, text and binary: values, options, errors, and back.
SET client_min_messages = warning;
CREATE SCHEMA format_others;
SET search_path = format_others, public;
SET timezone = 'UTC';
\getenv srcdir PG_ABS_SRCDIR
\set functions :srcdir '/test/fuzz/format/format.sql'
\set module '$libdir/penstock_format_test'
\i :functions
CREATE FUNCTION read(queue anyelement, message text) RETURNS anyelement LANGUAGE sql AS
  $$ SELECT format_decode(queue, convert_to(message, 'UTF8')) $$;
CREATE FUNCTION write(given anyelement) RETURNS text LANGUAGE sql AS
  $$ SELECT convert_from(format_encode(given), 'UTF8') $$;

-- csv
CREATE FOREIGN TABLE csv (i int, t text, f float8, ts timestamptz, b bool) SERVER outside OPTIONS (format 'csv');
SELECT * FROM read(NULL::csv, '1,abc,2.5,2026-01-02T03:04:05Z,true');
SELECT * FROM read(NULL::csv, '1,"a,""b""' || E'\nc",,,f\r\n');
SELECT * FROM read(NULL::csv, ',,,,'), read(NULL::csv, ',"",,,') e (i2, t2, f2, ts2, b2);
SELECT * FROM read(NULL::csv, '"12",a"b,c"d,"1"e1,,' || E'\n');
SELECT * FROM read(NULL::csv, ' 7 , x ,1, 2026-01-02 ,on');
SELECT * FROM read(NULL::csv, NULL);
SELECT read(NULL::csv, '1,2,3');
SELECT read(NULL::csv, '1,a,3,,t,6,7');
SELECT read(NULL::csv, '');
SELECT read(NULL::csv, '1,"a,3,,t');
SELECT read(NULL::csv, E'1,a,3,,t\n2,b,3,,t');
SELECT read(NULL::csv, 'x,a,3,,t');
SELECT format_decode(NULL::csv, '\x312cff2c322c2c');
SELECT format_column('csv', '1,a,x,,'), format_column('csv', '1,a,1');
SELECT write(ROW (1, 'a', 2.5, '2026-01-02 03:04:05', true)::csv), write(ROW (NULL, '', NULL, NULL, NULL)::csv),
  write(ROW (-1, 'a,"b"', 'NaN', NULL, false)::csv);
SELECT replace(write(ROW (1, E'a\nb', 1, NULL, NULL)::csv), E'\n', '<newline>');

-- its options
CREATE FOREIGN TABLE csv_options (a text, b text, c text) SERVER outside
  OPTIONS (format 'csv', delimiter ';', quote '''', escape '\', "null" 'NULL');
SELECT * FROM read(NULL::csv_options, 'NULL;''NULL'';''it\''s \\ 1;2''');
SELECT write(ROW (NULL, 'NULL', 'it''s \ 1;2')::csv_options), write(ROW ('', 'a\b', 'a"b')::csv_options);
SELECT read(NULL::csv_options, write(r)) = r FROM (VALUES (ROW (NULL, 'NULL', E'\\''\\\\"";\n\r,')::csv_options)) v (r);
CREATE FOREIGN TABLE tabs (a text, b text) SERVER outside OPTIONS (format 'csv', delimiter E'\t');
SELECT * FROM read(NULL::tabs, E'a\tb,c');
ALTER FOREIGN TABLE csv_options OPTIONS (SET delimiter ';;');
SELECT format_check('csv_options');
ALTER FOREIGN TABLE csv_options OPTIONS (SET delimiter '€');
SELECT format_check('csv_options');
ALTER FOREIGN TABLE csv_options OPTIONS (SET delimiter E'\n');
SELECT format_check('csv_options');
ALTER FOREIGN TABLE csv_options OPTIONS (SET delimiter '''');
SELECT format_check('csv_options');
ALTER FOREIGN TABLE csv_options OPTIONS (SET delimiter '\');
SELECT format_check('csv_options');
ALTER FOREIGN TABLE csv_options OPTIONS (SET delimiter 'U');
SELECT format_check('csv_options');

-- any encoding, converted before the line is taken apart
CREATE FOREIGN TABLE sjis (a text, b text) SERVER outside OPTIONS (format 'csv', encoding 'SJIS', delimiter '|');
SELECT * FROM format_decode(NULL::sjis, '\x837c7c62');
SELECT format_encode(ROW ('ポ', 'b')::sjis);

-- domains and arrays
CREATE DOMAIN given AS text NOT NULL;
CREATE FOREIGN TABLE csv_types (g given, a int[], j jsonb, n numeric(5, 2)) SERVER outside OPTIONS (format 'csv');
SELECT * FROM read(NULL::csv_types, '"","{1,2}","{""a"": 1}",3.456');
SELECT read(NULL::csv_types, ',"{1,2}","{""a"": 1}",3.456');
SELECT write(ROW ('g', '{1,NULL}', '{"a": "b"}', 1.5)::csv_types);

-- text
CREATE FOREIGN TABLE lines (t text) SERVER outside OPTIONS (format 'text');
SELECT t, t IS NULL AS none FROM (SELECT (read(NULL::lines, m)).t FROM (VALUES ('a "b"' || E'\n'), (''), (NULL)) v (m)) s;
SELECT format_decode(NULL::lines, '\xff');
SELECT format_decode(NULL::lines, '\x610062');
SELECT write(ROW ('a')::lines), format_encode(ROW (NULL)::lines);
CREATE FOREIGN TABLE number (n int) SERVER outside OPTIONS (format 'text');
SELECT read(NULL::number, '12'), write(ROW (12)::number);
SELECT read(NULL::number, '12x');
SELECT format_column('number', '12x');
CREATE FOREIGN TABLE latin (t text) SERVER outside OPTIONS (format 'text', encoding 'LATIN1');
SELECT format_decode(NULL::latin, '\xe4'), format_encode(ROW ('ä')::latin);
CREATE FOREIGN TABLE must (g given) SERVER outside OPTIONS (format 'text');
SELECT read(NULL::must, NULL);
CREATE FOREIGN TABLE two_texts (a text, b text) SERVER outside OPTIONS (format 'text');
SELECT format_check('two_texts');

-- binary
CREATE FOREIGN TABLE bytes (b bytea) SERVER outside OPTIONS (format 'binary');
SELECT b, b IS NULL AS none FROM (SELECT (format_decode(NULL::bytes, m)).b FROM (VALUES ('\x00ff'::bytea), (''), (NULL)) v (m)) s;
SELECT format_encode(ROW ('\x00ff')::bytes), format_encode(ROW (NULL)::bytes);
CREATE FOREIGN TABLE big (n bigint) SERVER outside OPTIONS (format 'binary');
SELECT format_decode(NULL::big, '\x0000000000000102'), format_encode(ROW (-1)::big);
SELECT format_decode(NULL::big, '\x00000000000001');
SELECT format_decode(NULL::big, '\x000000000000010203');
SELECT format_column('big', '\x00');
CREATE FOREIGN TABLE floating (n float8) SERVER outside OPTIONS (format 'binary');
SELECT format_decode(NULL::floating, format_encode(ROW ('1.5')::floating));
CREATE DOMAIN digest AS bytea CHECK (length(value) = 2);
CREATE FOREIGN TABLE digests (d digest) SERVER outside OPTIONS (format 'binary');
SELECT format_decode(NULL::digests, '\x0102'), format_encode(ROW ('\x0304')::digests);
SELECT format_decode(NULL::digests, '\x01');
CREATE FOREIGN TABLE no_binary (t text) SERVER outside OPTIONS (format 'binary');
SELECT format_check('no_binary');
ALTER FOREIGN TABLE no_binary ALTER t TYPE name;
SELECT format_check('no_binary');
ALTER FOREIGN TABLE no_binary ALTER t TYPE bytea, ADD u bytea;
SELECT format_check('no_binary');

-- what the short cuts of all formats make of a text is what the input functions make of it
SELECT split_part(format_value_fuzz(1, 20000), ' ', 1)::int > 10000 AS compared;
SET datestyle = 'German';
SET timezone = 'America/St_Johns';
SELECT split_part(format_value_fuzz(2, 20000), ' ', 1)::int > 10000 AS compared;

\set VERBOSITY terse
DROP SCHEMA format_others CASCADE;
DROP FOREIGN DATA WRAPPER any_option CASCADE;
