-- Format json: fields, paths, nested values, errors, and back.
SET client_min_messages = warning;
CREATE SCHEMA format_json;
SET search_path = format_json, public;
SET timezone = 'UTC';
\getenv srcdir PG_ABS_SRCDIR
\set functions :srcdir '/test/fuzz/format/format.sql'
\set module '$libdir/penstock_format_test'
\i :functions
\x auto
CREATE FUNCTION read(queue anyelement, message text) RETURNS anyelement LANGUAGE sql AS
  $$ SELECT format_decode(queue, convert_to(message, 'UTF8')) $$;
CREATE FUNCTION write(given anyelement) RETURNS text LANGUAGE sql AS
  $$ SELECT convert_from(format_encode(given), 'UTF8') $$;

-- scalars
CREATE FOREIGN TABLE plain (i2 smallint, i4 int, i8 bigint, f4 real, f8 float8, n numeric, b bool, t text, v varchar(4), c char(3),
  d date, tm time, ts timestamp, tz timestamptz, u uuid, iv interval, by bytea) SERVER outside;
SELECT * FROM read(NULL::plain, '{"i2": 1, "i4": -2, "i8": 9007199254740993, "f4": 1.5, "f8": 0.1, "n": 1.10, "b": true, "t": "x",
  "v": "abcd", "c": "a", "d": "2026-01-02", "tm": "03:04:05.5", "ts": "2026-01-02T03:04:05", "tz": "2026-01-02T03:04:05+02:00",
  "u": "123e4567-e89b-12d3-a456-426614174000", "iv": "1 day", "by": "\\x0102"}');
-- unusual forms go through the input function
SELECT * FROM read(NULL::plain, '{"i2": "1", "i4": " 2 ", "i8": "9223372036854775807", "f4": 1e-3, "f8": 123456789012345678901234567890, "n": 1e3,
  "b": "yes", "t": 1.50, "d": "Jan 2, 2026", "tm": "3:04 PM", "ts": "2026-01-02 03:04", "tz": "2026-01-02", "u": "{123e4567e89b12d3a456426614174000}"}');
SELECT * FROM read(NULL::plain, '{"t": true, "f8": "NaN", "f4": "-Infinity", "b": 0}');
-- missing fields and null give NULL; unknown fields are passed over
SELECT i4, t, b FROM read(NULL::plain, '{}');
SELECT i4, t, b FROM read(NULL::plain, ' {"t": null, "other": {"i4": 1, "more": [1, {"i4": 2}, "]"]}, "i4": 3} ');
SELECT i4, t FROM read(NULL::plain, NULL);
SELECT i4, t FROM read(NULL::plain, 'null');
-- the last of equal keys counts
SELECT i4, t FROM read(NULL::plain, '{"t": "a", "i4": 1, "t": "b", "i4": null}');
-- escapes
SELECT t FROM read(NULL::plain, '{"t": "a\"\\\/\b\f\n\r\t\u00e4\ud83d\ude00"}');
SELECT t FROM read(NULL::plain, '{"\u0074": "key with an escape", "\"t": 1, "t\\": 2}');

-- what does not fit
SELECT read(NULL::plain, '{"i4": 1, "i2": 40000}');
SELECT read(NULL::plain, '{"i4": 1.5}');
SELECT read(NULL::plain, '{"i4": {"a": 1}}');
SELECT read(NULL::plain, '{"v": "abcde"}');
SELECT read(NULL::plain, '{"i8": 9223372036854775808}');
SELECT read(NULL::plain, '{"f8": 1e400}');
SELECT read(NULL::plain, '{"b": "perhaps"}');
SELECT read(NULL::plain, '{"tz": "2026-02-30T00:00:00Z"}');
SELECT read(NULL::plain, '{"t": "\u0000"}');
SELECT read(NULL::plain, '{"t": "\ud83d"}');
-- and what is no JSON object
SELECT read(NULL::plain, '');
SELECT read(NULL::plain, '{"i4": 1');
SELECT read(NULL::plain, '{"i4":');
SELECT read(NULL::plain, '{"i4":}');
SELECT read(NULL::plain, '{"i4"');
SELECT read(NULL::plain, '{"i4": 1} {"i4": 2}');
SELECT read(NULL::plain, '[{"i4": 1}]');
SELECT read(NULL::plain, '"i4"');
SELECT read(NULL::plain, repeat('[', 100000));
SELECT read(NULL::plain, '{"x": ' || repeat('[', 100000));
SELECT format_decode(NULL::plain, '\x7b2274223a22ff227d');
SELECT format_decode(NULL::plain, '\x7b2274223a2200227d');
SELECT format_column('plain', '{"i4": 1, "i2": "x"}'), format_column('plain', '{"i4": 1, "i2": 1'), format_column('plain', '{}');

-- paths
CREATE FOREIGN TABLE paths (a int OPTIONS (path '$.a.b'), b int OPTIONS (path '$.a.c[1]'), c text OPTIONS (path '$.a.c[0].d'),
  "D e" text, e text OPTIONS (path '$."x y"."z.""\"'), f int OPTIONS (path '$[0]'), f2 int OPTIONS (path '$.a.b')) SERVER outside;
ALTER FOREIGN TABLE paths ALTER e OPTIONS (SET path '$."x y"."z.\""'), DROP f;
SELECT * FROM read(NULL::paths, '{"a": {"c": [{"d": "deep"}, 2, 3], "b": 1}, "D e": "name", "x y": {"z.\"": "quoted"}}');
SELECT * FROM read(NULL::paths, '{"a": {"b": {"b": 5}, "c": {"1": 5}}}');
SELECT * FROM read(NULL::paths, '{"a": {"b": 1}, "x y": "z"}');
-- a later value replaces all of an earlier one
SELECT * FROM read(NULL::paths, '{"a": {"b": 1, "c": [{"d": "gone"}, 1]}, "a": {"c": [{}, 2]}}');
CREATE FOREIGN TABLE element (a int OPTIONS (path '$[0]'), b text OPTIONS (path '$[2].x')) SERVER outside;
SELECT * FROM read(NULL::element, '[1, 2, {"x": "y"}]');
SELECT * FROM read(NULL::element, '[[7], 2]');
SELECT * FROM read(NULL::element, '{"a": 1}');

-- paths that are none
CREATE FOREIGN TABLE bad_path (a int OPTIONS (path 'a')) SERVER outside;
SELECT format_check('bad_path');
ALTER FOREIGN TABLE bad_path ALTER a OPTIONS (SET path '$.a.*');
SELECT format_check('bad_path');
ALTER FOREIGN TABLE bad_path ALTER a OPTIONS (SET path '$.a[0 to 2]');
SELECT format_check('bad_path');
ALTER FOREIGN TABLE bad_path ALTER a OPTIONS (SET path '$.a[99999999999]');
SELECT format_check('bad_path');
ALTER FOREIGN TABLE bad_path ALTER a OPTIONS (SET path '$.a[last]');
SELECT format_check('bad_path');
ALTER FOREIGN TABLE bad_path ALTER a OPTIONS (SET path '$.a ? (@ > 1)');
SELECT format_check('bad_path');
ALTER FOREIGN TABLE bad_path ALTER a OPTIONS (SET path '$.a + 1');
SELECT format_check('bad_path');
ALTER FOREIGN TABLE bad_path ALTER a OPTIONS (SET path '$.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a');
SELECT format_check('bad_path');

-- nested values
CREATE TYPE pair AS (x int, y text);
CREATE DOMAIN positive AS int CHECK (value > 0);
CREATE DOMAIN given AS text NOT NULL;
CREATE DOMAIN document AS jsonb CHECK (jsonb_typeof(value) = 'object');
CREATE FOREIGN TABLE nested (j json, jb jsonb, t text, ia int[], ta text[], na positive[], p pair, pa pair[], m int[], ja jsonb[], doc document)
  SERVER outside;
SELECT * FROM read(NULL::nested, '{"j": { "b": 1, "a":[1 , 2]}, "jb": {"b": [1, 2.50, null, true, "\u00e4", {}], "a": {"c": []}, "b": 3}, "t": {"a": [1]},
  "ia": [1, null, 3], "ta": ["a", "b c", 1, true, null, "\"q\""], "na": [1, 2], "p": {"x": 1, "y": "z"}, "pa": [{"x": 1}, null, {"y": "q"}],
  "m": [[1, 2], [3, 4]], "ja": [1, {"a": 2}, "x"], "doc": {"k": 1}}');
SELECT * FROM read(NULL::nested, '{"j": "s", "jb": "s", "t": [], "ia": [], "ta": "{x,y}", "p": "(1,a)", "pa": [], "m": [], "ja": []}');
SELECT * FROM read(NULL::nested, '{"j": 1.50, "jb": 1.50, "t": 1.50}');
SELECT * FROM read(NULL::nested, '{"j": true, "jb": false}');
SELECT * FROM read(NULL::nested, '{"j": null, "jb": null, "ia": null, "p": null}');
SELECT read(NULL::nested, '{"ia": [1, "x"]}');
SELECT read(NULL::nested, '{"ia": {"a": 1}}');
SELECT read(NULL::nested, '{"ia": [1, {"a": 1}]}');
SELECT read(NULL::nested, '{"na": [0]}');
SELECT read(NULL::nested, '{"p": [1]}');
SELECT read(NULL::nested, '{"m": [[1], [2, 3]]}');
SELECT read(NULL::nested, '{"doc": [1]}');
SELECT read(NULL::nested, '{"jb": "\u0000"}');
SELECT read(NULL::nested, '{"jb": {"\u0000": 1}}');
-- json keeps the escape, as it does everywhere
SELECT j FROM read(NULL::nested, '{"j": ["\u0000"]}');

-- domains
CREATE FOREIGN TABLE domains (a positive, b given) SERVER outside;
SELECT * FROM read(NULL::domains, '{"a": 1, "b": ""}');
SELECT read(NULL::domains, '{"a": 0, "b": ""}');
SELECT read(NULL::domains, '{"a": 1}');
SELECT read(NULL::domains, NULL);

-- the whole message, beside parts of it
CREATE FOREIGN TABLE whole (message jsonb OPTIONS (path '$'), raw json OPTIONS (path '$'), a int, b jsonb, c int OPTIONS (path '$.b.c'))
  SERVER outside;
SELECT * FROM read(NULL::whole, '{"a": 1, "b": {"d": [1, "x"], "c": 2}, "e": "\n"}');
SELECT * FROM read(NULL::whole, '[1, {"a": 2}]');
SELECT * FROM read(NULL::whole, ' "text" ');
SELECT * FROM read(NULL::whole, ' 12 ');

-- the same as jsonb's own input, whatever it is
CREATE FOREIGN TABLE just_jsonb (message jsonb OPTIONS (path '$')) SERVER outside;
SELECT count(*), bool_and((read(NULL::just_jsonb, j)).message = j::jsonb)
FROM (VALUES ('1'), ('"x"'), ('[]'), ('{}'), ('[[[]]]'), ('{"a":{"a":{"a":[{"a":1},2]}}}'), ('{"b":1,"a":2,"b":{"c":null}}'),
  ('[1e5,-0,0.10,123456789012345678901234567890]'), ('{"":"","\u0041\"":"\\"}'), (' [ true , false , null ] ')) v (j);

-- other encodings
CREATE FOREIGN TABLE latin (t text, "ö" text, j jsonb OPTIONS (path '$')) SERVER outside OPTIONS (encoding 'LATIN1');
SELECT * FROM format_decode(NULL::latin, convert_to('{"t": "äöü", "ö": "ß"}', 'LATIN1'));
SELECT encode(format_encode(ROW ('ä', 'ß', NULL)::latin), 'escape');
SELECT format_encode(ROW ('€', 'ß', NULL)::latin);
ALTER FOREIGN TABLE latin OPTIONS (SET encoding 'EUC_JP');
SELECT format_decode(NULL::latin, '\x7b2274223a22ff227d');

-- and back
SELECT write(ROW (1, -2, 9007199254740993, 1.5, 0.1, 1.10, true, E'x"\\\n\x01ä', 'abcd', 'a', '2026-01-02', '03:04:05.5', '2026-01-02 03:04:05',
  '2026-01-02 03:04:05.25+02', '123e4567-e89b-12d3-a456-426614174000', '1 day', '\x0102')::plain);
SET timezone = 'Asia/Kathmandu';
SET datestyle = 'German';
SELECT write(ROW (NULL, NULL, NULL, 'NaN', '-Infinity', 'NaN', false, '', NULL, NULL, 'infinity', NULL, '-infinity',
  '2026-01-02 03:04:05+00', NULL, NULL, NULL)::plain);
RESET datestyle;
SET timezone = 'UTC';
SELECT write(ROW ('{"a" :1}', '{"a": 1}', 't', '{1,NULL}', '{a,"b c"}', '{1}', '(1,y)', '{"(1,y)"}', '{{1,2},{3,4}}', '{1,"{\"a\":2}"}', '{}')::nested);
SELECT write(ROW (1, 'b')::domains);
SELECT write(ROW (1, 2, 'deep', 'name', 'quoted', NULL)::paths);
SELECT write(ROW (NULL, NULL, NULL, NULL, NULL, NULL)::paths);
SELECT write(ROW (1, 'y')::element);
SELECT write(ROW ('{"m": 1}', NULL, NULL, NULL, NULL)::whole), write(ROW (NULL, NULL, 1, NULL, 2)::whole), write(ROW (NULL, NULL, 1, '[2]', NULL)::whole);
SELECT write(ROW ('{}', '{}', NULL, NULL, NULL)::whole);
SELECT write(ROW ('{}', NULL, 1, NULL, NULL)::whole);
SELECT write(ROW (NULL, NULL, 1, '[2]', 2)::whole);
SELECT write(ROW (1, 2, 'deep', 'name', 'quoted', 2)::paths);
CREATE FOREIGN TABLE both_kinds (a int OPTIONS (path '$.x[0]'), b int OPTIONS (path '$.x.y')) SERVER outside;
SELECT write(ROW (1, NULL)::both_kinds), write(ROW (NULL, 2)::both_kinds), write(ROW (NULL, NULL)::both_kinds);
SELECT write(ROW (1, 2)::both_kinds);
-- what is written is read as the same
CREATE TYPE mood AS ENUM ('sad', 'happy');
CREATE FOREIGN TABLE round (i int, f float8, n numeric, b bool, t text, ts timestamptz, d date, m mood, r int4range, p pair, j jsonb, ia int[], pa pair[],
  x text OPTIONS (path '$.deep[2].x')) SERVER outside;
SELECT bool_and(read(NULL::round, write(r)) = r)
FROM (SELECT ROW (i, i / 7.0, i / 7.0, i % 2 = 0, chr(i) || '"', '2026-01-01'::timestamptz + i * '1.000001 hour'::interval, '2026-01-01'::date + i,
  (ARRAY['sad', 'happy'])[1 + i % 2], int4range(i, i + 1), ROW (i, chr(i)), jsonb_build_object(chr(i), i), ARRAY[i, NULL],
  ARRAY[ROW (i, 'x')::pair], chr(i))::round AS r FROM generate_series(1, 1000) i) s;

\set VERBOSITY terse
DROP SCHEMA format_json CASCADE;
DROP FOREIGN DATA WRAPPER any_option CASCADE;
