-- Streams: the custom scan.
CREATE SCHEMA stream_scan;
SET search_path = stream_scan;
SET max_parallel_workers_per_gather = 0;
CREATE TABLE s (id int, ts timestamptz, small int2, big int8, f float8, d date, flag bool, t text) USING stream;
SET TIME ZONE 'UTC';
-- chunks of known size: one for each transaction
INSERT INTO s SELECT i, '2026-01-01'::timestamptz + i * interval '1 minute', i % 100, i::int8 * 1000000000,
    i / 2.0, '2026-01-01'::date + i / 1440, i % 2 = 0, 'text ' || i FROM generate_series(1, 1000) i;
INSERT INTO s SELECT i, '2026-01-01'::timestamptz + i * interval '1 minute', i % 100, i::int8 * 1000000000,
    i / 2.0, '2026-01-01'::date + i / 1440, i % 2 = 0, 'text ' || i FROM generate_series(1001, 2000) i;
INSERT INTO s SELECT i, '2026-01-01'::timestamptz + i * interval '1 minute', i % 100, i::int8 * 1000000000,
    i / 2.0, '2026-01-01'::date + i / 1440, i % 2 = 0, 'text ' || i FROM generate_series(2001, 3000) i;
INSERT INTO s VALUES (NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL);

-- what it reads
EXPLAIN (COSTS OFF) SELECT id, t FROM s;
EXPLAIN (COSTS OFF) SELECT count(*) FROM s;
EXPLAIN (COSTS OFF) SELECT s FROM s WHERE flag;
EXPLAIN (COSTS OFF) SELECT ctid, tableoid::regclass FROM s WHERE t LIKE '%7';
EXPLAIN (COSTS OFF) SELECT max(f) FROM s WHERE ts < now() - interval '1 day' AND 5 > small;
EXPLAIN (VERBOSE, COSTS OFF) SELECT id + 1 FROM s x WHERE big BETWEEN 5 AND 10;

-- what it skips
CREATE FUNCTION chunks(query text) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE line text;
BEGIN
  FOR line IN EXECUTE 'EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF, SUMMARY OFF) ' || query LOOP
    IF line ~ 'Chunk' AND line !~ 'Filter.*(\$0|InitPlan)' THEN RETURN NEXT trim(line); END IF;
  END LOOP;
END $$;
SELECT chunks('SELECT t FROM s');
SELECT chunks('SELECT t FROM s WHERE id = 1500');
SELECT chunks('SELECT t FROM s WHERE 1500 = id');
SELECT chunks('SELECT t FROM s WHERE id > 2500');
SELECT chunks('SELECT t FROM s WHERE id >= 3001');
SELECT chunks('SELECT t FROM s WHERE id < 1001');
SELECT chunks('SELECT t FROM s WHERE id <= 1001');
SELECT chunks('SELECT t FROM s WHERE id BETWEEN 1500 AND 1600');
SELECT chunks('SELECT t FROM s WHERE id IN (5, 2500)');
SELECT chunks('SELECT t FROM s WHERE id = ANY (NULL::int[])');
SELECT chunks('SELECT t FROM s WHERE id = NULL');
SELECT chunks('SELECT t FROM s WHERE id = 5::int8');
SELECT chunks('SELECT t FROM s WHERE ts < ''2026-01-01 10:00''');
SELECT chunks('SELECT t FROM s WHERE ts < ''2026-01-01 10:00''::timestamp');
SELECT chunks('SELECT t FROM s WHERE ts >= ''2026-01-03''::date');
SELECT chunks('SELECT t FROM s WHERE d = ''2026-01-02''');
SELECT chunks('SELECT t FROM s WHERE f < 10');
SELECT chunks('SELECT t FROM s WHERE big > 2500000000000');
SELECT chunks('SELECT t FROM s WHERE id = (SELECT max(id) FROM s)');
SELECT chunks('SELECT t FROM s WHERE id <> 5');
SELECT chunks('SELECT t FROM s WHERE id = 5 OR id = 6');
SELECT chunks('SELECT t FROM s WHERE t = ''text 5''');
SELECT chunks('SELECT t FROM s WHERE id = random()');

-- and gives the same as reading everything
SELECT count(*), min(id), max(id) FROM s WHERE id BETWEEN 1500 AND 1600;
SELECT count(*), min(id), max(id) FROM s WHERE id IN (5, 2500);
SELECT count(*) FROM s WHERE id IS NULL;
SELECT count(*), count(id), count(t) FROM s;
SELECT count(*) FROM s WHERE f < 10;
PREPARE by_id(int) AS SELECT t FROM s WHERE id = $1;
EXECUTE by_id(5);
EXECUTE by_id(2500);
SET plan_cache_mode = force_generic_plan;
EXECUTE by_id(5);
EXECUTE by_id(2500);
EXECUTE by_id(NULL);
RESET plan_cache_mode;

-- as the inner side: started again and again, with other parameters
SET enable_hashjoin = off;
SET enable_mergejoin = off;
SET enable_material = off;
SELECT v.x, s.t FROM (VALUES (1), (1500), (2999)) v(x) JOIN s ON s.id = v.x ORDER BY 1;
SELECT v.x, q.t FROM (VALUES (1), (1500), (2999)) v(x),
  LATERAL (SELECT t FROM s WHERE id = v.x + 1) q ORDER BY 1;
SELECT v.x, (SELECT count(*) FROM s WHERE id < v.x) FROM (VALUES (1), (1500), (2999)) v(x) ORDER BY 1;
SELECT count(*) FROM s a WHERE id <= 3 AND EXISTS (SELECT 1 FROM s b WHERE b.id = a.id + 1);
RESET enable_hashjoin;
RESET enable_mergejoin;
RESET enable_material;
SELECT id FROM s WHERE id > 100 ORDER BY id LIMIT 3;
SELECT id FROM s ORDER BY id DESC NULLS LAST LIMIT 3 OFFSET 1;
SELECT count(*) FROM s TABLESAMPLE BERNOULLI (100);
SELECT count(*) FROM s TABLESAMPLE SYSTEM (100);
SELECT count(*) FROM s TABLESAMPLE SYSTEM (0);
SELECT count(*) BETWEEN 1 AND 2999 FROM s TABLESAMPLE BERNOULLI (50) REPEATABLE (1);
-- it has no other system columns, and nothing to lock
SELECT xmin FROM s;
SELECT id FROM s WHERE cmax = '0';
SELECT id FROM s FOR UPDATE;
SELECT id FROM s WHERE id = 1 FOR KEY SHARE;

-- in parallel
CREATE TABLE large (id int, v int) USING stream;
INSERT INTO large SELECT i, i % 7 FROM generate_series(1, 200000) i;
ANALYZE large;
SET max_parallel_workers_per_gather = 2;
SET min_parallel_table_scan_size = 0;
SET parallel_setup_cost = 0;
SET parallel_tuple_cost = 0;
EXPLAIN (COSTS OFF) SELECT count(*), sum(id), sum(v) FROM large WHERE v < 6;
SELECT count(*), sum(id), sum(v) FROM large WHERE v < 6;
SELECT v, count(*) FROM large GROUP BY v ORDER BY v;
BEGIN;
INSERT INTO large VALUES (200001, 0);
SELECT count(*), max(id) FROM large;
ROLLBACK;
SET parallel_leader_participation = off;
SELECT count(*), sum(id) FROM large WHERE id > 150000;
RESET parallel_leader_participation;

SET client_min_messages = warning;
DROP SCHEMA stream_scan CASCADE;
