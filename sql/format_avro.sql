-- Format avro with a schema of its own (the schema registry is in test/connectors/avro.pl): types, resolution, errors, and back.
SET client_min_messages = warning;
CREATE SCHEMA format_avro;
SET search_path = format_avro, public;
SET timezone = 'UTC';
SET datestyle = 'ISO';
SET intervalstyle = 'postgres';
\getenv srcdir PG_ABS_SRCDIR
\set functions :srcdir '/test/fuzz/format/format.sql'
\set module '$libdir/penstock_format_test'
\i :functions
CREATE FUNCTION avro_to_jsonb(payload bytea, schema text, reader_schema text DEFAULT NULL) RETURNS jsonb
  AS :'module', 'penstock_avro_to_jsonb' LANGUAGE c;

-- the specification's own examples
SELECT s, avro_to_jsonb(b, s) FROM (VALUES ('"long"', '\x00'::bytea), ('"long"', '\x01'), ('"long"', '\x02'), ('"long"', '\x7f'),
  ('"long"', '\x8001'), ('"int"', '\x8101'), ('"string"', '\x06666f6f'), ('{"type": "array", "items": "long"}', '\x04063600'),
  ('{"type": "array", "items": "long"}', '\x0304063600'), ('["null", "string"]', '\x00'), ('["null", "string"]', '\x020261'),
  ('{"type": "record", "name": "test", "fields": [{"name": "a", "type": "long"}, {"name": "b", "type": "string"}]}', '\x3606666f6f'),
  ('"long"', '\xffffffffffffffffff01'), ('"long"', '\xfeffffffffffffffff01'), ('"int"', '\xfeffffff0f'), ('"int"', '\xffffffff0f'),
  ('"boolean"', '\x01'), ('"null"', ''), ('"float"', '\x0000c03f'), ('"double"', '\x000000000000f87f'), ('"double"', '\x9a9999999999b93f'),
  ('"bytes"', '\x0400ff'), ('{"type": "fixed", "name": "f", "size": 3}', '\x010203'),
  ('{"type": "enum", "name": "e", "symbols": ["A", "B"]}', '\x02'), ('{"type": "map", "values": "int"}', '\x0402610202620400')) v (s, b);
-- logical types
SELECT t, l, avro_to_jsonb(b, format('{"type": %s, "logicalType": "%s"%s}', t, l, more)) FROM (VALUES
  ('"int"', 'date', '', '\x0a'::bytea), ('"int"', 'date', '', '\x01'), ('"int"', 'time-millis', '', '\xd00f'), ('"long"', 'time-micros', '', '\xd00f'),
  ('"long"', 'timestamp-millis', '', '\x02'), ('"long"', 'timestamp-millis', '', '\x01'), ('"long"', 'timestamp-micros', '', '\x02'),
  ('"long"', 'local-timestamp-millis', '', '\x02'), ('"long"', 'local-timestamp-micros', '', '\x02'), ('"string"', 'date', '', '\x0261'),
  ('"bytes"', 'decimal', ', "precision": 5, "scale": 2', '\x043039'), ('"bytes"', 'decimal', ', "precision": 5, "scale": 2', '\x02ff'),
  ('"bytes"', 'decimal', ', "precision": 40, "scale": 10', '\x2080000000000000000000000000000000'), ('"bytes"', 'decimal', ', "precision": 2', '\x0400ff'),
  ('"bytes"', 'decimal', ', "precision": 2, "scale": 3', '\x0400ff'),
  ('"fixed"', 'uuid', ', "name": "u", "size": 16', '\x123e4567e89b12d3a456426614174000'), ('"fixed"', 'duration', ', "name": "d", "size": 12', '\x0100000002000000e8030000'),
  ('"fixed"', 'decimal', ', "name": "d", "size": 9, "precision": 20, "scale": 1', '\xfffffffffffffffff6')) v (t, l, more, b);

-- schemas that are none
SELECT avro_to_jsonb('', '{');
SELECT avro_to_jsonb('', '"unknown"');
SELECT avro_to_jsonb('', '{"type": "record", "name": "r"}');
SELECT avro_to_jsonb('', '{"type": "record", "fields": []}');
SELECT avro_to_jsonb('', '{"type": "record", "name": "r", "fields": [{"name": "a", "type": "int"}, {"name": "a", "type": "int"}]}');
SELECT avro_to_jsonb('', '{"type": "record", "name": "r", "fields": [{"name": "a"}]}');
SELECT avro_to_jsonb('', '{"type": "enum", "name": "e", "symbols": []}');
SELECT avro_to_jsonb('', '{"type": "fixed", "name": "f", "size": -1}');
SELECT avro_to_jsonb('', '{"type": "array"}');
SELECT avro_to_jsonb('', '[["int"]]');
SELECT avro_to_jsonb('', '[]');
SELECT avro_to_jsonb('', '12');
SELECT avro_to_jsonb('', '[{"type": "fixed", "name": "f", "size": 1}, {"type": "fixed", "name": "f", "size": 1}]');
SELECT avro_to_jsonb('', repeat('{"type": "array", "items": ', 200) || '"int"' || repeat('}', 200));
SELECT avro_to_jsonb('', repeat('[', 100000));
SELECT avro_to_jsonb('', '"' || repeat('x', 1100000) || '"');

-- messages that do not fit
SELECT avro_to_jsonb('', '"int"');
SELECT avro_to_jsonb('\x8080', '"int"');
SELECT avro_to_jsonb('\x808080808001', '"int"');
SELECT avro_to_jsonb('\x8080808080808080808001', '"long"');
SELECT avro_to_jsonb('\x0000', '"int"');
SELECT avro_to_jsonb('\x02', '"boolean"');
SELECT avro_to_jsonb('\x01', '"string"');
SELECT avro_to_jsonb('\x0461', '"string"');
SELECT avro_to_jsonb('\xfeffffffffffffffff01', '"string"');
SELECT avro_to_jsonb('\x02ff', '"string"');
SELECT avro_to_jsonb('\x0200', '"string"');
SELECT avro_to_jsonb('\x06', '["null", "int"]');
SELECT avro_to_jsonb('\x01', '{"type": "enum", "name": "e", "symbols": ["A"]}');
SELECT avro_to_jsonb('\xfeffffffffffffffff01', '{"type": "array", "items": "int"}');
SELECT avro_to_jsonb('\xffffffffffffffffff01', '{"type": "array", "items": "int"}');
SELECT avro_to_jsonb('\xfeffffffffffffffff01', '{"type": "array", "items": "null"}');
SELECT jsonb_array_length(avro_to_jsonb('\x80b51800', '{"type": "array", "items": "null"}'));
SELECT jsonb_array_length(avro_to_jsonb('\xa08d0600', '{"type": "array", "items": "null"}'));
SELECT avro_to_jsonb('\xfeffffffffffffffff01', '{"type": "long", "logicalType": "timestamp-millis"}');
SELECT avro_to_jsonb('\xfeffffff0f', '{"type": "int", "logicalType": "date"}');
SELECT avro_to_jsonb('\x01', '{"type": "int", "logicalType": "time-millis"}');
SELECT avro_to_jsonb('\x00', '{"type": "bytes", "logicalType": "decimal", "precision": 4}');
-- a list that never ends, a record within itself, and a schema that makes many values of nothing
\set list '{"type": "record", "name": "list", "fields": [{"name": "value", "type": "int"}, {"name": "next", "type": ["null", "list"]}]}'
SELECT avro_to_jsonb('\x0202040206020800', :'list');
SELECT avro_to_jsonb(decode(repeat('0202', 5000), 'hex'), :'list');
SELECT avro_to_jsonb('', '{"type": "record", "name": "r", "fields": [{"name": "a", "type": "r"}]}');
CREATE FUNCTION bomb(n int) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
  s text := '{"type": "record", "name": "r0", "fields": []}';
BEGIN
  FOR i IN 1 .. n LOOP
    s := format('{"type": "record", "name": "r%s", "fields": [{"name": "a", "type": %s}, {"name": "b", "type": "r%s"}]}', i, s, i - 1);
  END LOOP;
  RETURN s;
END $$;
SELECT avro_to_jsonb('', bomb(2));
SELECT avro_to_jsonb('', bomb(40));

-- columns
CREATE TYPE inner_pair AS (x int, y text);
CREATE TYPE mood AS ENUM ('sad', 'happy');
CREATE DOMAIN positive AS int CHECK (value > 0);
CREATE FOREIGN TABLE every_type (b boolean, i int, l bigint, f real, d float8, by bytea, s text, e mood, fx bytea, a int[], m jsonb, r inner_pair,
  ra inner_pair[], u text, dt date, tm time, tz timestamptz, ts timestamp, n numeric, uu uuid, iv interval, o positive)
  SERVER outside OPTIONS (format 'avro', schema '{"type": "record", "name": "t", "namespace": "n", "fields": [
  {"name": "b", "type": ["null", "boolean"]}, {"name": "i", "type": ["null", "int"]}, {"name": "l", "type": ["null", "long"]},
  {"name": "f", "type": ["null", "float"]}, {"name": "d", "type": ["null", "double"]}, {"name": "by", "type": ["null", "bytes"]},
  {"name": "s", "type": ["null", "string"]}, {"name": "e", "type": ["null", {"type": "enum", "name": "mood", "symbols": ["happy", "sad"]}]},
  {"name": "fx", "type": ["null", {"type": "fixed", "name": "fx", "size": 2}]}, {"name": "a", "type": ["null", {"type": "array", "items": ["int", "null"]}]},
  {"name": "m", "type": ["null", {"type": "map", "values": ["string", "double"]}]},
  {"name": "r", "type": ["null", {"type": "record", "name": "pair", "fields": [{"name": "y", "type": "string", "default": "d"}, {"name": "x", "type": ["null", "int"]}]}]},
  {"name": "ra", "type": ["null", {"type": "array", "items": "pair"}]}, {"name": "u", "type": ["int", "null", "n.pair", "string"]},
  {"name": "dt", "type": ["null", {"type": "int", "logicalType": "date"}]}, {"name": "tm", "type": ["null", {"type": "long", "logicalType": "time-micros"}]},
  {"name": "tz", "type": ["null", {"type": "long", "logicalType": "timestamp-millis"}]}, {"name": "ts", "type": ["null", {"type": "long", "logicalType": "local-timestamp-micros"}]},
  {"name": "n", "type": ["null", {"type": "bytes", "logicalType": "decimal", "precision": 30, "scale": 4}]},
  {"name": "uu", "type": ["null", {"type": "string", "logicalType": "uuid"}]}, {"name": "iv", "type": ["null", {"type": "fixed", "name": "dur", "size": 12, "logicalType": "duration"}]},
  {"name": "o", "type": ["null", "int"]}]}');
\x on
SELECT (format_decode(NULL::every_type, format_encode(r))).* FROM (VALUES
  (ROW (true, 1, -9007199254740993, 1.5, 'NaN', '\x00ff', 'ä', 'sad', '\x0102', '{1,NULL,-3}', '{"a": 1.5, "b": "x"}', '(1,y)', '{"(1,a)","(,b)"}', 'text',
   '1969-12-31', '12:34:56.789012', '1969-12-31 23:59:59.999+00', '2026-01-02 03:04:05.678901', '-12345678901234567890.12345', '123e4567-e89b-12d3-a456-426614174000',
   '1 mon 2 days 3 s', 7)::every_type)) v (r);
SELECT (format_decode(NULL::every_type, format_encode(r))).* FROM (VALUES
  (ROW (NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL)::every_type),
  (ROW (false, -2147483648, 9223372036854775807, '-0', '-Infinity', '', '', 'happy', '\x0000', '{}', '{}', '(,)', '{}', '', 'epoch', '24:00', 'epoch', 'epoch', '0',
   '00000000-0000-0000-0000-000000000000', '0', 1)::every_type)) v (r);
\x off

-- the same schema, other types of columns
CREATE FOREIGN TABLE as_text (b text, i text, l text, f text, d text, by text, s varchar(3), e text, fx text, a text, m text, r text, ra json, u text, dt text, tm text,
  tz text, ts text, n text, uu text, iv text, o text) SERVER outside OPTIONS (format 'avro');
CREATE FOREIGN TABLE as_other (l numeric, i float8, f numeric(4, 1), d int, s bytea, e jsonb, dt int, tz bigint, ts timestamptz, tm time(0), n int, b jsonb, fx uuid, a jsonb, r jsonb)
  SERVER outside OPTIONS (format 'avro');
SELECT option_value AS schema FROM pg_options_to_table((SELECT ftoptions FROM pg_foreign_table WHERE ftrelid = 'every_type'::regclass)) WHERE option_name = 'schema' \gset
ALTER FOREIGN TABLE as_text OPTIONS (schema :'schema');
ALTER FOREIGN TABLE as_other OPTIONS (schema :'schema');
CREATE TABLE message AS SELECT format_encode(ROW (true, 1, -5, 1.5, 2, 'bytes', 's', 'sad', '\x3132', '{1,NULL}', '{"a": 1.5}', '(1,y)', '{"(1,a)"}', 'text',
  '2026-01-02', '12:34:56.789', '2026-01-02 03:04:05.5+00', '2026-01-02 03:04:05', '12.5', '123e4567-e89b-12d3-a456-426614174000', '1 day', 7)::every_type) AS bytes;
\x on
SELECT (format_decode(NULL::as_text, bytes)).* FROM message;
ALTER FOREIGN TABLE as_other DROP n, DROP fx;
SELECT (format_decode(NULL::as_other, bytes)).* FROM message;
\x off
CREATE FOREIGN TABLE misfit (n int) SERVER outside OPTIONS (format 'avro');
ALTER FOREIGN TABLE misfit OPTIONS (schema :'schema');
SELECT format_check('misfit');
ALTER FOREIGN TABLE misfit RENAME n TO a;
SELECT format_decode(NULL::misfit, bytes) FROM message;
SELECT format_column('misfit', bytes) FROM message;
ALTER FOREIGN TABLE misfit RENAME a TO r;
SELECT format_decode(NULL::misfit, bytes) FROM message;
ALTER FOREIGN TABLE misfit RENAME r TO l;
ALTER FOREIGN TABLE misfit ALTER l TYPE positive;
SELECT format_decode(NULL::misfit, bytes) FROM message;
ALTER FOREIGN TABLE misfit ALTER l TYPE smallint;
SELECT format_decode(NULL::misfit, format_encode(ROW (NULL, NULL, 40000, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL)::every_type));
SELECT format_column('misfit', substr(bytes, 1, 20)) FROM message;
ALTER FOREIGN TABLE misfit RENAME l TO nothing;
SELECT format_check('misfit');
ALTER FOREIGN TABLE misfit RENAME nothing TO l;
SELECT format_column('misfit', bytes || '\x00') FROM message;

-- paths
CREATE FOREIGN TABLE paths (a int OPTIONS (path '$.r.x'), b text OPTIONS (path '$.ra[1].y'), c float8 OPTIONS (path '$.m.k'), d jsonb OPTIONS (path '$'), r inner_pair)
  SERVER outside OPTIONS (format 'avro');
ALTER FOREIGN TABLE paths OPTIONS (schema :'schema');
SELECT p.a, p.b, p.c, p.d ->> 's' AS s, p.r FROM format_decode(NULL::paths, format_encode(ROW (NULL, NULL, NULL, NULL, NULL, NULL, 's', NULL, NULL, NULL,
  '{"j": 1, "k": 2.5}', '(1,y)', '{"(1,a)","(2,b)"}', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL)::every_type)) p;
SELECT p.a, p.b, p.c, p.r FROM format_decode(NULL::paths, format_encode(ROW (NULL, NULL, NULL, NULL, NULL, NULL, 's', NULL, NULL, NULL,
  '{}', NULL, '{}', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL)::every_type)) p;

-- two schemas: promotions, order, aliases, defaults, fields that are gone, enums, unions
\set old '{"type": "record", "name": "old.R", "fields": [{"name": "gone", "type": {"type": "map", "values": "int"}}, {"name": "i", "type": "int"}, {"name": "before", "type": "string"}, {"name": "e", "type": {"type": "enum", "name": "E", "symbols": ["A", "B", "C"]}}, {"name": "u", "type": ["int", "string"]}, {"name": "f", "type": "float"}, {"name": "s", "type": "bytes"}, {"name": "sub", "type": {"type": "record", "name": "S", "fields": [{"name": "x", "type": "int"}]}}, {"name": "t", "type": {"type": "long", "logicalType": "timestamp-millis"}}]}'
\set new '{"type": "record", "name": "new.R", "fields": [{"name": "i", "type": "double"}, {"name": "after", "type": "string", "aliases": ["before"]}, {"name": "e", "type": {"type": "enum", "name": "E", "symbols": ["A", "D"], "default": "D"}}, {"name": "u", "type": ["null", "long", "string"]}, {"name": "f", "type": "double"}, {"name": "s", "type": "string"}, {"name": "sub", "type": {"type": "record", "name": "S", "fields": [{"name": "y", "type": {"type": "array", "items": "int"}, "default": [1, 2]}, {"name": "x", "type": "long"}]}}, {"name": "t", "type": {"type": "long", "logicalType": "timestamp-micros"}}, {"name": "n1", "type": ["null", "int"], "default": null}, {"name": "n2", "type": {"type": "record", "name": "N", "fields": [{"name": "a", "type": "bytes", "default": "\\u00ff\\u0001"}, {"name": "b", "type": {"type": "map", "values": "float"}}]}, "default": {"b": {"k": 1.5}}}, {"name": "n3", "type": {"type": "int", "logicalType": "date"}, "default": 1}]}'
CREATE FOREIGN TABLE writer (gone jsonb, i int, before text, e text, u jsonb, f real, s bytea, sub jsonb, t timestamptz) SERVER outside OPTIONS (format 'avro');
ALTER FOREIGN TABLE writer OPTIONS (schema :'old');
SELECT format_encode(ROW ('{"a": 1}', 3, 'b', 'C', '"x"', 1.5, 'bytes', '{"x": 5}', '2026-01-02 03:04:05+00')::writer) AS bytes \gset
SELECT jsonb_pretty(avro_to_jsonb(:'bytes', :'old', :'new'));
SELECT avro_to_jsonb('\x0461ff', '"bytes"', '"string"');
SELECT avro_to_jsonb('\x0261', '"string"', '"bytes"'), avro_to_jsonb('\x0261', '"bytes"', '"string"');
SELECT avro_to_jsonb(:'bytes', :'old', '{"type": "record", "name": "R", "fields": [{"name": "i", "type": "string"}]}');
SELECT avro_to_jsonb(:'bytes', :'old', '{"type": "record", "name": "Q", "fields": []}');
SELECT avro_to_jsonb(:'bytes', :'old', '{"type": "record", "name": "Q", "aliases": ["old.R"], "fields": []}');
SELECT avro_to_jsonb(:'bytes', :'old', '{"type": "record", "name": "R", "fields": [{"name": "new", "type": "int"}]}');
SELECT avro_to_jsonb(:'bytes', :'old', '{"type": "record", "name": "R", "fields": [{"name": "new", "type": "int", "default": "x"}]}');
SELECT avro_to_jsonb(:'bytes', :'old', '{"type": "record", "name": "R", "fields": [{"name": "e", "type": {"type": "enum", "name": "E", "symbols": ["A"]}}]}');
SELECT avro_to_jsonb('\x0206', '["int", "long"]', '"long"'), avro_to_jsonb('\x06', '"int"', '["null", "double"]');
SELECT avro_to_jsonb('\x00', '["null", "long"]', '"long"');

-- what cannot be written
CREATE FUNCTION try(given anyelement, schema text) RETURNS bytea LANGUAGE plpgsql AS $$
BEGIN
  EXECUTE format('ALTER FOREIGN TABLE %s OPTIONS (%s schema %L)', pg_typeof(given),
    CASE WHEN EXISTS (SELECT FROM pg_foreign_table WHERE ftrelid = pg_typeof(given)::text::regclass AND ftoptions::text LIKE '%schema=%') THEN 'SET' END, schema);
  RETURN format_encode(given);
END $$;
CREATE FOREIGN TABLE one (a text) SERVER outside OPTIONS (format 'avro');
SELECT t, try(ROW (v)::one, format('{"type": "record", "name": "r", "fields": [{"name": "a", "type": %s}]}', t))
FROM (VALUES ('12', '"int"'), ('12', '"double"'), ('t', '"boolean"'), ('12', '"bytes"'), ('2026-01-02', '{"type": "int", "logicalType": "date"}'),
  ('2026-01-02', '{"type": "long", "logicalType": "timestamp-micros"}'), ('-1.5', '{"type": "bytes", "logicalType": "decimal", "precision": 5, "scale": 2}'),
  ('-1.5', '{"type": "fixed", "name": "f", "size": 4, "logicalType": "decimal", "precision": 5, "scale": 2}'), ('12', '["int", "string"]'),
  ('B', '{"type": "enum", "name": "e", "symbols": ["A", "B"]}'), ('ab', '{"type": "fixed", "name": "f", "size": 2}')) v (v, t);
SELECT try(ROW ('x')::one, '{"type": "record", "name": "r", "fields": [{"name": "a", "type": "int"}]}');
SELECT try(ROW ('3000000000')::one, '{"type": "record", "name": "r", "fields": [{"name": "a", "type": "int"}]}');
SELECT try(ROW ('x')::one, '{"type": "record", "name": "r", "fields": [{"name": "a", "type": "boolean"}]}');
SELECT try(ROW ('x')::one, '{"type": "record", "name": "r", "fields": [{"name": "a", "type": {"type": "enum", "name": "e", "symbols": ["A"]}}]}');
SELECT try(ROW ('x')::one, '{"type": "record", "name": "r", "fields": [{"name": "a", "type": {"type": "fixed", "name": "f", "size": 2}}]}');
SELECT try(ROW ('1234.5')::one, '{"type": "record", "name": "r", "fields": [{"name": "a", "type": {"type": "bytes", "logicalType": "decimal", "precision": 5, "scale": 2}}]}');
SELECT try(ROW ('x')::one, '{"type": "record", "name": "r", "fields": [{"name": "a", "type": {"type": "array", "items": "int"}}]}');
SELECT try(ROW ('x')::one, '{"type": "record", "name": "r", "fields": [{"name": "a", "type": ["null", "int", "boolean"]}]}');
SELECT try(ROW (NULL)::one, '{"type": "record", "name": "r", "fields": [{"name": "a", "type": "int"}]}');
SELECT try(ROW (NULL)::one, '{"type": "record", "name": "r", "fields": [{"name": "a", "type": "int", "default": 3}]}');
SELECT try(ROW ('1')::one, '{"type": "record", "name": "r", "fields": [{"name": "a", "type": "int"}, {"name": "b", "type": "int"}]}');
SELECT try(ROW ('1')::one, '{"type": "record", "name": "r", "fields": [{"name": "a", "type": "int"}, {"name": "b", "type": ["int", "null"], "default": 3}, {"name": "c", "type": ["null", "int"]}]}');
SELECT try(ROW ('1')::one, '{"type": "record", "name": "r", "fields": [{"name": "b", "type": "int", "default": 1}]}');
SELECT try(ROW ('1')::one, '"int"');

-- nested fields by path, and the whole message in one column
CREATE FOREIGN TABLE deep (a int OPTIONS (path '$.x.y'), b text OPTIONS (path '$.x.z'), c int) SERVER outside OPTIONS (format 'avro',
  schema '{"type": "record", "name": "r", "fields": [{"name": "x", "type": ["null", {"type": "record", "name": "s", "fields": [{"name": "y", "type": ["null", "int"]}, {"name": "z", "type": "string"}]}]}, {"name": "c", "type": "int"}]}');
SELECT format_decode(NULL::deep, format_encode(r)), format_encode(r) FROM (VALUES (ROW (1, 'z', 3)::deep), (ROW (NULL, NULL, 3)::deep), (ROW (NULL, 'z', 3)::deep)) v (r);
SELECT format_encode(ROW (1, NULL, 3)::deep);
CREATE FOREIGN TABLE whole (j jsonb OPTIONS (path '$')) SERVER outside OPTIONS (format 'avro');
ALTER FOREIGN TABLE whole OPTIONS (schema :'schema');
SELECT format_decode(NULL::whole, format_encode((format_decode(NULL::whole, bytes))::whole)) = format_decode(NULL::whole, bytes) AS same FROM message;
SELECT format_encode(ROW ('{"i": "x"}')::whole);
SELECT format_encode(ROW ('[1]')::whole);
CREATE FOREIGN TABLE single (s text OPTIONS (path '$')) SERVER outside OPTIONS (format 'avro', schema '"string"');
SELECT format_decode(NULL::single, '\x0261'), format_encode(ROW ('a')::single);

-- options
CREATE FOREIGN TABLE options (a int) SERVER outside OPTIONS (format 'avro');
SELECT format_check('options');
ALTER FOREIGN TABLE options OPTIONS (schema '{"type": "nothing"}');
SELECT format_check('options');
ALTER FOREIGN TABLE options OPTIONS (DROP schema, schema_registry 'ftp://somewhere');
SELECT format_check('options');
ALTER FOREIGN TABLE options OPTIONS (SET schema_registry 'http://user:secret@somewhere');
SELECT format_check('options');
ALTER FOREIGN TABLE options OPTIONS (SET schema_registry 'http://somewhere', schema_registry_timeout 'soon');
SELECT format_check('options');
ALTER FOREIGN TABLE options OPTIONS (DROP schema_registry_timeout, schema_register 'perhaps');
SELECT format_check('options');
ALTER FOREIGN TABLE options OPTIONS (DROP schema_register);
CREATE USER MAPPING FOR CURRENT_USER SERVER outside OPTIONS (schema_registry_user 'me', schema_registry_password 'secret');
SELECT format_check('options');
DROP USER MAPPING FOR CURRENT_USER SERVER outside;
SELECT format_decode(NULL::options, '\x0100000001');
SELECT format_decode(NULL::options, '\x000000');

\set VERBOSITY terse
DROP SCHEMA format_avro CASCADE;
DROP FOREIGN DATA WRAPPER any_option CASCADE;
