-- Continuous views without GROUP BY, and several streams.
CREATE TABLE a_one (ts timestamptz, k int, v jsonb) USING stream;
CREATE TABLE a_two (ts timestamptz, k int, note text) USING stream;
CREATE TABLE a_names (k int PRIMARY KEY, name text);
INSERT INTO a_names SELECT i, 'name ' || i FROM generate_series(1, 5) i;

CREATE MATERIALIZED VIEW a_filter USING continuous AS
  SELECT ts, k * 2 AS twice, v ->> 'a' AS a FROM a_one WHERE k > 2;
CREATE MATERIALIZED VIEW a_split USING continuous AS
  SELECT k, e.value FROM a_one, jsonb_each(v) e;
CREATE MATERIALIZED VIEW a_srf USING continuous AS
  SELECT k, generate_series(1, k) AS n FROM a_one WHERE k < 4;
CREATE MATERIALIZED VIEW a_union USING continuous AS
  SELECT ts, k, 'one' AS source FROM a_one UNION ALL SELECT ts, k, note FROM a_two WHERE k > 1;
CREATE MATERIALIZED VIEW a_union_group USING continuous AS
  SELECT k, count(*), max(ts) FROM (SELECT ts, k FROM a_one UNION ALL SELECT ts, k FROM a_two) u GROUP BY k;
CREATE MATERIALIZED VIEW a_with USING continuous AS
  WITH big AS (SELECT * FROM a_one WHERE k > 2), named AS (SELECT b.k, n.name FROM big b JOIN a_names n USING (k))
  SELECT name, count(*) FROM named GROUP BY name;
CREATE MATERIALIZED VIEW a_sub USING continuous AS
  SELECT k, (SELECT name FROM a_names n WHERE n.k = a_one.k) AS name,
         EXISTS (SELECT FROM a_names n WHERE n.k = a_one.k) AS known FROM a_one;
CREATE VIEW a_plain AS SELECT k, ts FROM a_one WHERE k IS NOT NULL;
CREATE MATERIALIZED VIEW a_over_view USING continuous AS SELECT k, count(*) FROM a_plain GROUP BY k;

CREATE FUNCTION a_check() RETURNS TABLE (view text, wrong bigint) LANGUAGE sql AS $$
  SELECT v, differences(v) FROM unnest(ARRAY['a_filter', 'a_split', 'a_srf', 'a_union', 'a_union_group',
    'a_with', 'a_sub', 'a_over_view']) v
$$;
INSERT INTO a_one SELECT '2026-01-01'::timestamptz + i * interval '1 min', i % 8, jsonb_build_object('a', i, 'b', i % 2)
  FROM generate_series(1, 60) i;
INSERT INTO a_two SELECT '2026-01-01', i % 4, 'note ' || i FROM generate_series(1, 20) i;
INSERT INTO a_one VALUES (NULL, NULL, NULL);
SELECT penstock.catch_up();
SELECT * FROM a_check() WHERE wrong > 0;
SELECT count(*) FROM a_split;
BEGIN;
INSERT INTO a_two VALUES ('2026-01-01', 3, 'both');
INSERT INTO a_one VALUES ('2026-01-01', 3, '{"x": [1]}');
COMMIT;
SELECT penstock.catch_up();
SELECT * FROM a_check() WHERE wrong > 0;
SELECT count(*) FROM a_union;

-- partitions
CREATE TABLE a_parts (ts timestamptz, k int) PARTITION BY RANGE (ts);
CREATE TABLE a_part_1 PARTITION OF a_parts FOR VALUES FROM ('2026-01-01') TO ('2026-02-01') USING stream;
CREATE TABLE a_part_2 PARTITION OF a_parts FOR VALUES FROM ('2026-02-01') TO ('2026-03-01') USING stream;
INSERT INTO a_parts SELECT '2026-01-20'::timestamptz + i * interval '1 hour', i % 3 FROM generate_series(1, 500) i;
CREATE MATERIALIZED VIEW a_parted USING continuous AS SELECT k, count(*), min(ts) FROM a_parts GROUP BY k;
CREATE MATERIALIZED VIEW a_parted_rows USING continuous AS SELECT * FROM a_parts WHERE k = 1;
SELECT differences('a_parted'), differences('a_parted_rows');
INSERT INTO a_parts SELECT '2026-01-20'::timestamptz + i * interval '1 hour', i % 4 FROM generate_series(1, 500) i;
SELECT penstock.catch_up();
SELECT differences('a_parted'), differences('a_parted_rows');
CREATE TABLE a_part_3 PARTITION OF a_parts FOR VALUES FROM ('2026-03-01') TO ('2026-04-01') USING stream;
INSERT INTO a_parts SELECT '2026-03-20'::timestamptz + i * interval '1 hour', i % 4 FROM generate_series(1, 50) i;
SELECT penstock.catch_up();
SELECT differences('a_parted'), differences('a_parted_rows');
CREATE TABLE a_part_heap PARTITION OF a_parts FOR VALUES FROM ('2026-04-01') TO ('2026-05-01') USING heap;
DROP MATERIALIZED VIEW a_parted, a_parted_rows;
CREATE TABLE a_part_heap PARTITION OF a_parts FOR VALUES FROM ('2026-04-01') TO ('2026-05-01') USING heap;
CREATE MATERIALIZED VIEW a_mixed USING continuous AS SELECT k, count(*) FROM a_parts GROUP BY k;
DROP TABLE a_part_heap;

DROP TABLE a_one, a_two, a_parts, a_names CASCADE;
SELECT count(*) FROM penstock.continuous_view;

-- what removes counted events takes the way back
CREATE TABLE a_history (ts timestamptz, k int) USING stream;
CREATE MATERIALIZED VIEW a_counts USING continuous AS SELECT k, count(*) FROM a_history GROUP BY k;
INSERT INTO a_history SELECT '2026-01-01', i % 2 FROM generate_series(1, 10) i;
SELECT penstock.catch_up();
SELECT complete FROM penstock.continuous_view WHERE view = 'a_counts'::regclass;
TRUNCATE a_history;
INSERT INTO a_history VALUES ('2026-01-02', 1);
SELECT penstock.catch_up();
SELECT * FROM a_counts ORDER BY k;
SELECT complete FROM penstock.continuous_view WHERE view = 'a_counts'::regclass;
SELECT penstock.rebuild('a_counts');
SELECT penstock.rebuild('a_counts', force => true);
SELECT * FROM a_counts ORDER BY k;
DROP TABLE a_history CASCADE;

CREATE TABLE a_tree (ts timestamptz, k int) PARTITION BY RANGE (ts);
CREATE TABLE a_tree_1 PARTITION OF a_tree FOR VALUES FROM ('2026-01-01') TO ('2026-02-01') USING stream;
CREATE TABLE a_tree_2 (ts timestamptz, k int) USING stream;
INSERT INTO a_tree VALUES ('2026-01-02', 1);
CREATE MATERIALIZED VIEW a_tree_counts USING continuous AS SELECT k, count(*) FROM a_tree GROUP BY k;
INSERT INTO a_tree_2 VALUES ('2026-02-02', 1);
ALTER TABLE a_tree ATTACH PARTITION a_tree_2 FOR VALUES FROM ('2026-02-01') TO ('2026-03-01');
TRUNCATE a_tree_2;
ALTER TABLE a_tree ATTACH PARTITION a_tree_2 FOR VALUES FROM ('2026-02-01') TO ('2026-03-01');
INSERT INTO a_tree VALUES ('2026-02-02', 1);
SELECT penstock.catch_up();
SELECT differences('a_tree_counts');
ALTER TABLE a_tree DETACH PARTITION a_tree_1;
SELECT complete FROM penstock.continuous_view WHERE view = 'a_tree_counts'::regclass;
INSERT INTO a_tree VALUES ('2026-02-03', 1);
SELECT penstock.catch_up();
SELECT * FROM a_tree_counts;
DROP TABLE a_tree, a_tree_1 CASCADE;

-- an unlogged stream can lose its events in a crash
CREATE UNLOGGED TABLE a_unlogged (k int) USING stream;
CREATE MATERIALIZED VIEW a_unlogged_counts USING continuous AS SELECT k, count(*) FROM a_unlogged GROUP BY k;
SELECT complete FROM penstock.continuous_view WHERE view = 'a_unlogged_counts'::regclass;
DROP TABLE a_unlogged CASCADE;

-- a function that reads a stream is looked up: it reads all of it, not the batch
CREATE TABLE a_read (k int) USING stream;
CREATE FUNCTION a_count() RETURNS bigint LANGUAGE plpgsql STABLE AS 'BEGIN RETURN (SELECT count(*) FROM public.a_read); END';
CREATE FUNCTION a_all() RETURNS SETOF public.a_read LANGUAGE sql STABLE AS 'SELECT * FROM public.a_read';
INSERT INTO a_read VALUES (1), (2);
CREATE MATERIALIZED VIEW a_counts USING continuous AS SELECT k, a_count() AS n FROM a_read;
CREATE MATERIALIZED VIEW a_pairs USING continuous AS SELECT a.k, b.k AS k2 FROM a_read a, a_all() b;
INSERT INTO a_read VALUES (3);
SELECT penstock.catch_up();
SELECT * FROM a_counts ORDER BY k;
SELECT k, array_agg(k2 ORDER BY k2) FROM a_pairs GROUP BY k ORDER BY k;
DROP TABLE a_read CASCADE;
DROP FUNCTION a_count();

-- a view keeps the settings that its query depends on
CREATE TABLE a_settings (v text) USING stream;
SET timezone_abbreviations = 'Australia';
SET array_nulls = off;
CREATE MATERIALIZED VIEW a_set USING continuous AS
  SELECT ('2020-01-01 00:00 ' || v)::timestamptz AT TIME ZONE 'UTC' AS utc, ('{NULL,' || v || '}')::text[] AS list FROM a_settings;
INSERT INTO a_settings VALUES ('EST');
RESET timezone_abbreviations;
RESET array_nulls;
SELECT penstock.catch_up();
SELECT to_char(utc, 'YYYY-MM-DD HH24:MI') AS utc, list FROM a_set;
DROP TABLE a_settings CASCADE;
