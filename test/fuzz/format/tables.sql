-- Tables and messages of every format for run.sh.
CREATE TYPE pair AS (x int, y text);
CREATE TYPE mood AS ENUM ('sad', 'happy');
CREATE DOMAIN positive AS int CHECK (value > 0);
CREATE TABLE messages (queue text PRIMARY KEY, payload bytea);

CREATE FOREIGN TABLE json_fields (id bigint, ts timestamptz, user_id int, url text, referrer text, latency float8, status smallint, mobile bool)
  SERVER outside;
INSERT INTO messages VALUES ('json_fields', convert_to('{"id": 123456789, "ts": "2026-01-02T03:04:05.678901Z", "user_id": 4711, '
  '"url": "https://example.com/shop/articles/12345/reviews?page=3&sort=newest", '
  '"referrer": "https://www.example.org/search?q=garden+chairs+with+cushions&lang=en", "latency": 12.345, "status": 200, "mobile": true}', 'UTF8'));

CREATE FOREIGN TABLE csv_fields (id bigint, ts timestamptz, user_id int, url text, referrer text, latency float8, status smallint, mobile bool)
  SERVER outside OPTIONS (format 'csv');

CREATE FOREIGN TABLE json_nested (a text, b jsonb OPTIONS (path '$.a.b'), c text[] OPTIONS (path '$.a.c'), d date OPTIONS (path '$.a.c[1]'),
  p pair, pa pair[], n numeric, t text, j json, o positive, m mood, u uuid, deep int OPTIONS (path '$.d.e.f[1][0].g')) SERVER outside;
INSERT INTO messages VALUES ('json_nested', convert_to('{"a": {"b": [1, "x\u00e4", null, {"a": 1e5, "a": [[]]}], "c": [1, "2026-01-02", 3]}, "p": {"x": 1, "y": "\"z"}, '
  '"pa": [{"x": 1}, null], "n": 1.5, "t": "ü", "j": [{}, "\ud83d\ude00"], "o": 3, "m": "sad", "u": "123e4567-e89b-12d3-a456-426614174000", '
  '"d": {"e": {"f": [0, [{"g": 7}]]}}, "unknown": [[[1]], {}]}', 'UTF8'));

CREATE FOREIGN TABLE json_whole (message jsonb OPTIONS (path '$')) SERVER outside;
INSERT INTO messages SELECT 'json_whole', payload FROM messages WHERE queue = 'json_nested';

CREATE FOREIGN TABLE csv_line (a text, b int, c timestamptz, d int[], e jsonb, f float4) SERVER outside OPTIONS (format 'csv');
INSERT INTO messages VALUES ('csv_line', convert_to('abc,12,2026-01-01T00:00:00Z,"{1,2}","{""a"":""ä""}",1.5' || E'\n', 'UTF8'));

CREATE FOREIGN TABLE text_line (t varchar(20)) SERVER outside OPTIONS (format 'text');
INSERT INTO messages VALUES ('text_line', convert_to('a text, äöü', 'UTF8'));

CREATE FOREIGN TABLE binary_number (n float8) SERVER outside OPTIONS (format 'binary');
INSERT INTO messages VALUES ('binary_number', '\x3ff8000000000000');

CREATE FOREIGN TABLE avro_record (id bigint, ts timestamptz, user_id int, url text, referrer text, latency float8, status int, mobile bool)
  SERVER outside OPTIONS (format 'avro', schema '{"type": "record", "name": "click", "fields": [{"name": "id", "type": "long"},
  {"name": "ts", "type": {"type": "long", "logicalType": "timestamp-micros"}}, {"name": "user_id", "type": "int"},
  {"name": "url", "type": ["null", "string"]}, {"name": "referrer", "type": ["null", "string"]}, {"name": "latency", "type": "double"},
  {"name": "status", "type": "int"}, {"name": "mobile", "type": "boolean"}]}');
INSERT INTO messages SELECT 'avro_record', format_encode(format_decode(NULL::json_fields, payload)::text::avro_record)
  FROM messages WHERE queue = 'json_fields';

CREATE FOREIGN TABLE avro_nested (r pair, ra pair[], a int[], m jsonb, e mood, fx bytea, n numeric, dt date, iv interval, u text, whole jsonb OPTIONS (path '$'),
  x int OPTIONS (path '$.r.x'), y text OPTIONS (path '$.ra[1].y'), z float8 OPTIONS (path '$.m.k'), list json) SERVER outside OPTIONS (format 'avro',
  schema '{"type": "record", "name": "t", "fields": [
  {"name": "r", "type": ["null", {"type": "record", "name": "pair", "fields": [{"name": "y", "type": "string"}, {"name": "x", "type": ["null", "int"]}]}]},
  {"name": "ra", "type": {"type": "array", "items": "pair"}}, {"name": "a", "type": {"type": "array", "items": ["int", "null"]}},
  {"name": "m", "type": {"type": "map", "values": ["string", "double"]}}, {"name": "skipped", "type": {"type": "array", "items": {"type": "map", "values": "pair"}}},
  {"name": "e", "type": {"type": "enum", "name": "mood", "symbols": ["happy", "sad"]}}, {"name": "fx", "type": {"type": "fixed", "name": "fx", "size": 5}},
  {"name": "n", "type": {"type": "bytes", "logicalType": "decimal", "precision": 40, "scale": 4}}, {"name": "dt", "type": {"type": "int", "logicalType": "date"}},
  {"name": "iv", "type": {"type": "fixed", "name": "dur", "size": 12, "logicalType": "duration"}}, {"name": "u", "type": ["int", "null", "pair", "string"]},
  {"name": "list", "type": {"type": "record", "name": "list", "fields": [{"name": "v", "type": "null"}, {"name": "next", "type": ["null", "list"]}]}}]}');
CREATE FOREIGN TABLE avro_maker (whole jsonb OPTIONS (path '$')) SERVER outside OPTIONS (format 'avro');
DO $$
BEGIN
  EXECUTE format('ALTER FOREIGN TABLE avro_maker OPTIONS (ADD schema %L)', (SELECT option_value FROM pg_options_to_table(
    (SELECT ftoptions FROM pg_foreign_table WHERE ftrelid = 'avro_nested'::regclass)) WHERE option_name = 'schema'));
END $$;
INSERT INTO messages SELECT 'avro_nested', format_encode(ROW ('{"r": {"x": 1, "y": "a"}, "ra": [{"x": null, "y": "b"}, {"x": 2, "y": "ä"}],
  "a": [1, null, -3], "m": {"j": "s", "k": 2.5}, "skipped": [{"k": {"x": 1, "y": ""}}, {}], "e": "sad", "fx": "\\x0102030405", "n": -12345678901234567890.5,
  "dt": "2026-01-02", "iv": "1 day", "u": "text", "list": {"v": null, "next": {"v": null, "next": null}}}')::avro_maker);

-- large_messages(): messages of megabytes, and nested ones, are read or refused, and take memory in proportion
CREATE FUNCTION large_messages() RETURNS TABLE (what text, result text) LANGUAGE plpgsql AS $$
DECLARE
  message text;
BEGIN
  FOR what, message IN VALUES
    ('json array', '{"a": [' || repeat('1,', 2000000) || '1]}'), ('json strings', '{"a": [' || repeat('"\n",', 1000000) || '1]}'),
    ('json objects', '{"a": ' || repeat('{"a":', 3000) || '1' || repeat('}', 3000) || '}'), ('json depth', repeat('[', 1000000)),
    ('json keys', '{' || (SELECT string_agg(format('"k%s": %s', i, i), ',') FROM generate_series(1, 200000) i) || '}'),
    ('json text', '{"t": "' || repeat('ä', 4000000) || '"}')
  LOOP
    BEGIN
      result := octet_length((format_decode(NULL::json_whole, convert_to(message, 'UTF8'))).message::text) ||
        coalesce(octet_length((format_decode(NULL::json_nested, convert_to(message, 'UTF8'))).t)::text, '');
    EXCEPTION WHEN statement_too_complex OR program_limit_exceeded THEN
      result := sqlerrm;
    END;
    RETURN NEXT;
  END LOOP;
  what := 'csv field';
  result := octet_length((format_decode(NULL::csv_line, convert_to('"' || repeat('""', 2000000) || '",,,,,', 'UTF8'))).a);
  RETURN NEXT;
END $$;

-- times(n): nanoseconds of CPU time a message
CREATE FUNCTION times(n int) RETURNS SETOF numeric[] LANGUAGE sql AS $$
  SELECT ARRAY[format_json_time(j.payload, n)::numeric(9, 0), format_time('json_fields', j.payload, n)::numeric(9, 0), format_time('csv_fields', c.line, n)::numeric(9, 0),
    format_time('avro_record', a.payload, n)::numeric(9, 0), format_encode_time(format_decode(NULL::json_fields, j.payload), n)::numeric(9, 0),
    format_encode_time(format_decode(NULL::csv_fields, c.line), n)::numeric(9, 0), format_encode_time(format_decode(NULL::avro_record, a.payload), n)::numeric(9, 0)]
  FROM messages j, messages a, LATERAL (SELECT format_encode(format_decode(NULL::json_fields, j.payload)::text::csv_fields)) c (line)
  WHERE j.queue = 'json_fields' AND a.queue = 'avro_record'
$$;
