-- Claim checks: storing, redeeming, what goes wrong, and who may.
SET search_path = public;
SET bytea_output = 'hex';

-- ---- the type ----
SELECT 'sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824:5'::penstock.claim AS c \gset
SELECT upper(substr(:'c', 8, 64))::penstock.claim;
SELECT ('sha256:' || upper(substr(:'c', 8, 64)) || ':5')::penstock.claim = :'c'::penstock.claim AS digits_of_any_case;
SELECT penstock.claim_size(:'c'), pg_column_size(:'c'::penstock.claim);
SELECT 'md5:00:5'::penstock.claim;
SELECT 'sha256:2cf2:5'::penstock.claim;
SELECT replace(:'c', ':5', ';5')::penstock.claim;
SELECT replace(:'c', ':5', ':05')::penstock.claim;
SELECT replace(:'c', ':5', ':')::penstock.claim;
SELECT replace(:'c', ':5', ':-5')::penstock.claim;
SELECT replace(:'c', ':5', ':5 ')::penstock.claim;
SELECT replace(:'c', ':5', ':4398046511105')::penstock.claim;
SELECT penstock.claim_size(replace(:'c', ':5', ':4398046511104')::penstock.claim);
SELECT :'c'::penstock.claim::text, :'c'::penstock.claim::json, :'c'::penstock.claim::jsonb;
SELECT (:'c'::penstock.claim::jsonb)::penstock.claim = :'c'::penstock.claim, to_jsonb(:'c'::text)::penstock.claim = :'c'::penstock.claim;
CREATE TYPE sent_ticket AS (c penstock.claim);
SELECT '{"clam": 1}'::jsonb::penstock.claim;
SELECT '{"clam": 1}'::penstock.claim;
SELECT (json_populate_record(NULL::sent_ticket, json_build_object('c', :'c'::penstock.claim))).c = :'c'::penstock.claim
  FROM (SELECT) s;
SELECT '[1]'::jsonb::penstock.claim;
SELECT '{"claim": 5}'::jsonb::penstock.claim;
SELECT row_to_json(t) FROM (SELECT :'c'::penstock.claim AS ticket) t;
SELECT a < b, a <= b, a > b, a >= b, a = b, a <> b FROM
  (SELECT :'c'::penstock.claim AS a, replace(:'c', ':5', ':6')::penstock.claim AS b) s;
SELECT NULL::penstock.claim_read IS NULL, 't.c'::penstock.claim_read;
-- binary, through a file of COPY
CREATE TABLE sent (c penstock.claim);
INSERT INTO sent VALUES (:'c');
\copy sent TO 'penstock_claim.bin' WITH (FORMAT binary)
\copy sent FROM 'penstock_claim.bin' WITH (FORMAT binary)
\! rm -f penstock_claim.bin
SELECT c, count(*) FROM sent GROUP BY c;
DROP TABLE sent; DROP TYPE sent_ticket;

-- ---- in and out ----
SELECT penstock.claim_store('hello') AS hello \gset
SELECT :'hello' = :'c' AS known_digest, penstock.claim_fetch(:'hello'), penstock.claim_text(:'hello');
SELECT penstock.claim_store('hello'::bytea) = :'hello', penstock.claim_store(NULL::bytea) IS NULL;
SELECT penstock.claim_store('') AS nothing \gset
SELECT penstock.claim_fetch(:'nothing'), penstock.claim_fetch_range(:'nothing', 0, 10);
CREATE TABLE big (id int, c penstock.claim, p bytea);
-- just under, at and over the borders of a row and of frames; one that does not compress
CREATE FUNCTION noise(n int, seed int) RETURNS bytea LANGUAGE sql IMMUTABLE AS
  $$ SELECT substr(string_agg(sha256((seed || ':' || i)::bytea), ''), 1, n) FROM generate_series(0, n / 32) i $$;
INSERT INTO big SELECT n, penstock.claim_store(p), p FROM (SELECT n, noise(n, 1) AS p
  FROM unnest(ARRAY[1, 1894, 1895, 1896, 1996, 1997, 3992, 127744, 127745, 1048575, 1048576, 1048577, 2097152, 3000000]) n) s;
INSERT INTO big SELECT -n, penstock.claim_store(p), p FROM (SELECT n, decode(repeat('feedc0de', n / 4), 'hex') AS p
  FROM unnest(ARRAY[4, 1996, 1048572, 1048576, 1048580, 3000000]) n) s;
SELECT id, penstock.claim_fetch(c) = p AS same, penstock.claim_fetch(c, false) = p AS same_unverified, penstock.claim_verify(c) FROM big ORDER BY id;
SELECT id, i.size = length(p) AS size, i.stored < i.size + 200 AS stored, i.codec, i.frames, i.large_object IS NOT NULL AS lo, i."references"
  FROM big, penstock.claim_info(c) i ORDER BY id;
-- ranges, over the borders of frames
SELECT id, bool_and(penstock.claim_fetch_range(c, f, l) = substr(p, f + 1, l)) AS ranges
  FROM big, unnest(ARRAY[0, 1, 1995, 1996, 1048575, 1048576, 2999999, 4000000]) f, unnest(ARRAY[0, 1, 5, 2000, 1048577]) l
  WHERE id > 1000000 GROUP BY id ORDER BY id;
SELECT penstock.claim_fetch_range(c, -1, 5) FROM big LIMIT 1;
SELECT penstock.claim_fetch_range(c, 1, -5) FROM big LIMIT 1;
SELECT penstock.claim_fetch_range(c, 0, 9223372036854775807) = p FROM big WHERE id = 3000000;
-- the same payload is there once
SELECT count(*), count(DISTINCT claim) FROM penstock.claim_object WHERE claim IN (SELECT c FROM big);
SELECT bool_and(penstock.claim_store(p, level => 9) = c) FROM big;
SELECT count(*), count(DISTINCT claim) FROM penstock.claim_object WHERE claim IN (SELECT c FROM big);
SELECT claims, deduplicated >= 20 AS deduplicated, ratio > 1 AS ratio FROM penstock.stat_claim;
-- text that is none
SELECT penstock.claim_store('\xff00'::bytea) AS bytes \gset
SELECT penstock.claim_text(:'bytes');

-- ---- large objects and pieces ----
SELECT lo_from_bytea(0, p) AS lo FROM big WHERE id = 3000000 \gset
SELECT penstock.claim_store(:lo::oid) = c, penstock.claim_import(:lo) = c FROM big WHERE id = 3000000;
SELECT penstock.claim_export(c) AS exported FROM big WHERE id = 3000000 \gset
SELECT lo_get(:exported) = p FROM big WHERE id = 3000000;
SELECT lo_unlink(:lo), lo_unlink(:exported);
SELECT penstock.claim_import(0);
BEGIN;
SELECT penstock.claim_open() AS w \gset
SELECT count(penstock.claim_append(:w, substr(p, 1 + i * 70000, 70000))) FROM big, generate_series(0, 42) i WHERE id = 3000000;
SELECT penstock.claim_close(:w) = c FROM big WHERE id = 3000000;
SELECT penstock.claim_open(level => 1) AS w \gset
SELECT penstock.claim_append(:w, 'a new payload '), penstock.claim_append(:w, 'in two pieces');
SELECT penstock.claim_close(:w) AS pieces \gset
SELECT penstock.claim_text(:'pieces');
SELECT penstock.claim_reader(c) AS r FROM big WHERE id = 3000000 \gset
SELECT penstock.claim_read(:r, 1000000) = substr(p, 1, 1000000), penstock.claim_read(:r, 1100000) = substr(p, 1000001, 1100000),
       penstock.claim_read(:r, 1000000) = substr(p, 2100001), length(penstock.claim_read(:r, 10)) FROM big WHERE id = 3000000;
SELECT penstock.claim_seek(:r, 2999998), length(penstock.claim_read(:r, 10));
SAVEPOINT s; SELECT penstock.claim_seek(:r, -1); ROLLBACK TO s;
SELECT penstock.claim_read(:r, -1); ROLLBACK TO s;
SELECT penstock.claim_append(:r, 'x'); ROLLBACK TO s;
SELECT penstock.claim_reader_close(:r);
SELECT penstock.claim_read(:r, 10); ROLLBACK TO s;
SELECT penstock.claim_close(77); ROLLBACK TO s;
-- a handle of a savepoint ends with it, and pieces do not come from another one
SELECT penstock.claim_open() AS w \gset
ROLLBACK TO s;
SELECT penstock.claim_append(:w, 'x'); ROLLBACK TO s;
SELECT penstock.claim_open() AS w \gset
SAVEPOINT s2;
SELECT penstock.claim_append(:w, 'x'); ROLLBACK TO s2;
RELEASE s2;
SELECT penstock.claim_append(:w, 'x');
COMMIT;
SELECT penstock.claim_append(:w, 'x');
SELECT count(penstock.claim_open()) FROM generate_series(1, 65);

-- ---- classes ----
SELECT penstock.claim_store('x', 'no such class');
SELECT penstock.claim_class_train('order', ARRAY['x'::bytea]);
SELECT penstock.claim_class_train('order', ARRAY['x'::bytea], 100);
SELECT penstock.claim_class_train('', ARRAY['x'::bytea]);
SELECT penstock.claim_class_train('order', ARRAY['x'::bytea], level => 20);
SELECT penstock.claim_class_train('order', array_fill(''::bytea, ARRAY[20]));
CREATE TABLE orders AS SELECT i AS id, format('{"order": %s, "customer": {"id": %s, "segment": "private"}, "carrier": "DHL", "lines": [%s]}', i, i % 97,
  (SELECT string_agg(format('{"article_number": %s, "description": "stainless steel water bottle", "quantity": %s}', i * l % 5000, l), ', ') FROM generate_series(1, 5) l)) AS doc
  FROM generate_series(1, 500) i;
SELECT penstock.claim_class_train('order', array_agg(convert_to(doc, 'UTF8')), 8192) > 0 FROM orders;
CREATE TABLE tickets AS SELECT id, penstock.claim_store(doc, 'order') AS c FROM orders;
SELECT count(*), bool_and(penstock.claim_text(c) = doc) AS same, sum(length(doc)) > 3 * sum((penstock.claim_info(c)).stored) AS smaller,
  count((penstock.claim_info(c)).dictionary) FROM tickets JOIN orders USING (id);
-- a new dictionary: what was stored with the old one is read for ever
SELECT penstock.claim_class_train('order', array_agg(convert_to(doc, 'UTF8')), 4096) > 0 FROM orders WHERE id > 250;
SELECT penstock.claim_store('{"order": 501, "customer": {"id": 16, "segment": "private"}}', 'order') AS newer \gset
SELECT (penstock.claim_info(:'newer')).dictionary > max((penstock.claim_info(c)).dictionary) FROM tickets;
SELECT bool_and(penstock.claim_text(c) = doc) FROM tickets JOIN orders USING (id);
SELECT class, versions, level FROM penstock.claim_class;

-- ---- collection ----
SELECT * FROM penstock.claim_collect(grace => '-1 s');
BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT penstock.claim_collect(); ROLLBACK;
SELECT collected, waiting FROM penstock.claim_collect(dry_run => true, grace => '0');
SELECT collected, waiting FROM penstock.claim_collect(grace => '1 hour');
SELECT collected, waiting FROM penstock.claim_collect(grace => '0');
SELECT penstock.claim_exists(:'hello'), bool_and(penstock.claim_exists(c)) FROM big;
\set VERBOSITY sqlstate
SELECT penstock.claim_fetch(:'hello');
\set VERBOSITY default
-- held in arrays, domains, streams, materialized views, partitions; by what is deleted no longer
CREATE DOMAIN ticket AS penstock.claim;
CREATE TABLE held_array (c penstock.claim[]);
CREATE TABLE held_domain (c ticket);
CREATE TABLE held_stream (at timestamptz, c penstock.claim) USING stream;
CREATE TABLE held_parts (k int, c penstock.claim) PARTITION BY LIST (k);
CREATE TABLE held_part PARTITION OF held_parts FOR VALUES IN (1);
INSERT INTO held_array VALUES (ARRAY[penstock.claim_store('in an array'), NULL]);
INSERT INTO held_domain VALUES (penstock.claim_store('in a domain'));
INSERT INTO held_stream SELECT now(), penstock.claim_store('in a stream ' || i) FROM generate_series(1, 3) i;
INSERT INTO held_parts VALUES (1, penstock.claim_store('in a partition'));
CREATE TABLE base AS SELECT penstock.claim_store('in a view') AS c;
CREATE MATERIALIZED VIEW held_view AS SELECT c FROM base;
DROP TABLE base CASCADE;
CREATE TABLE base AS SELECT penstock.claim_store('in a view') AS c;
CREATE MATERIALIZED VIEW held_view AS SELECT c FROM base;
DELETE FROM base;
SELECT collected, waiting FROM penstock.claim_collect(grace => '0');
SELECT penstock.claim_text(c[1]) FROM held_array UNION ALL SELECT penstock.claim_text(c) FROM held_domain
  UNION ALL SELECT penstock.claim_text(c) FROM held_stream UNION ALL SELECT penstock.claim_text(c) FROM held_parts UNION ALL SELECT penstock.claim_text(c) FROM held_view;
TRUNCATE held_stream; DROP TABLE held_array; DELETE FROM held_domain; DROP TABLE held_parts; REFRESH MATERIALIZED VIEW held_view;
SELECT collected, waiting FROM penstock.claim_collect(grace => '0');
-- within the grace time a payload comes back to life when it is stored, or held, again
SELECT penstock.claim_store('once more') AS again \gset
SELECT collected, waiting FROM penstock.claim_collect();
SELECT penstock.claim_store('once more') = :'again'::penstock.claim;
SELECT waiting FROM penstock.stat_claim;
SELECT collected, waiting FROM penstock.claim_collect();
INSERT INTO held_domain VALUES (:'again');
SELECT collected, waiting FROM penstock.claim_collect(grace => '0');
-- a rollback leaves nothing
SELECT count(*) AS objects FROM pg_largeobject_metadata \gset
BEGIN; INSERT INTO big SELECT 0, penstock.claim_store(noise(100000, 5)); ROLLBACK;
SELECT count(*) = :objects FROM pg_largeobject_metadata;
-- what expires is gone, held or not
SELECT penstock.claim_store('x', expires => now() - interval '1 s');
INSERT INTO held_domain VALUES (penstock.claim_store('for a while', expires => now() + interval '1 day'));
UPDATE penstock.claim_object SET expires_at = now() WHERE expires_at IS NOT NULL;
\set VERBOSITY sqlstate
SELECT penstock.claim_text(c) FROM held_domain;
\set VERBOSITY default
SELECT collected FROM penstock.claim_collect();
SELECT count(*), count(*) FILTER (WHERE penstock.claim_exists(c)) FROM held_domain;
SELECT count(*) FROM penstock.claim_missing();
-- large objects of claims are not anybody's to drop
\set VERBOSITY sqlstate
SELECT lo_unlink(loid) FROM penstock.claim_object WHERE claim = (SELECT c FROM big WHERE id = 3000000);
\set VERBOSITY default

-- ---- rights ----
CREATE ROLE claim_writer; CREATE ROLE claim_reader; CREATE ROLE claim_stranger;
GRANT CREATE ON SCHEMA public TO claim_writer;
SET ROLE claim_writer;
CREATE TABLE papers (id int, c penstock.claim);
INSERT INTO papers SELECT i, penstock.claim_store(noise(5000, i + 100)) FROM generate_series(1, 3) i;
CREATE VIEW paper AS SELECT id, c FROM papers WHERE id < 3;
GRANT SELECT ON paper TO claim_reader;
SELECT c AS paper FROM papers WHERE id = 1 \gset
SELECT c AS secret FROM papers WHERE id = 3 \gset
SELECT length(penstock.claim_fetch(:'paper')), (penstock.claim_info(:'paper')).owner;
SELECT penstock.claim_collect();
SELECT penstock.claim_missing();
SELECT penstock.claim_class_train('x', ARRAY['x'::bytea]);
SELECT * FROM penstock.claim_object;
RESET ROLE;
SELECT lomowner::regrole, count(*) FROM pg_largeobject_metadata WHERE lomowner = 'claim_writer'::regrole GROUP BY 1;
SET ROLE claim_stranger;
-- the ticket alone is not enough, and the error is that of an unknown one
SELECT penstock.claim_fetch(:'paper');
SELECT penstock.claim_exists(:'paper'), penstock.claim_exists(:'c');
SELECT penstock.claim_info(:'paper');
SELECT penstock.claim_fetch(:'paper', true, 'papers.c');
SELECT penstock.claim_fetch(c) FROM papers;
-- who has the payload may redeem its ticket
SELECT length(penstock.claim_fetch(penstock.claim_store(noise(5000, 101))));
RESET ROLE;
SET ROLE claim_reader;
EXPLAIN (VERBOSE, COSTS OFF) SELECT penstock.claim_fetch(c), penstock.claim_exists(c) FROM paper;
SELECT id, length(penstock.claim_fetch(c)), penstock.claim_exists(c) FROM paper ORDER BY id;
-- a constant is looked for in the columns that the role may read, and the view's are the writer's
SELECT penstock.claim_fetch(:'paper');
RESET ROLE;
GRANT SELECT (c) ON papers TO claim_reader;
SET ROLE claim_reader;
SELECT length(penstock.claim_fetch(:'paper')), length(penstock.claim_fetch(:'secret'));
SELECT (penstock.claim_info(:'paper'))."references";
RESET ROLE;
-- row level security counts
ALTER TABLE papers ENABLE ROW LEVEL SECURITY;
CREATE POLICY not_three ON papers FOR SELECT TO claim_reader USING (id <> 3);
GRANT SELECT ON papers TO claim_reader;
SET ROLE claim_reader;
SELECT length(penstock.claim_fetch(:'paper')), penstock.claim_exists(:'secret');
SELECT penstock.claim_fetch(:'secret');
RESET ROLE;
\set VERBOSITY sqlstate
DROP OWNED BY claim_writer CASCADE;
\set VERBOSITY default
REASSIGN OWNED BY claim_writer TO CURRENT_USER;
DROP TABLE papers CASCADE;
DROP OWNED BY claim_writer, claim_reader, claim_stranger;
SELECT collected FROM penstock.claim_collect(grace => '0');
DROP ROLE claim_writer, claim_reader, claim_stranger;

DROP TABLE big, orders, tickets, held_stream, held_domain; DROP MATERIALIZED VIEW held_view; DROP TABLE base; DROP DOMAIN ticket; DROP FUNCTION noise;
SELECT waiting FROM penstock.claim_collect(grace => '0');
SELECT claims, large_objects, bytes, stored, waiting FROM penstock.stat_claim;
SELECT count(*) FROM pg_largeobject;
