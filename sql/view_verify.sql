-- penstock.verify: a view against its query over the events it has consumed.
CREATE TABLE f_events (ts timestamptz, k int, v int) USING stream;
CREATE MATERIALIZED VIEW f_sums USING continuous AS SELECT k, count(*), sum(v) FROM f_events GROUP BY k;
CREATE MATERIALIZED VIEW "f rows" USING continuous AS SELECT ts, k FROM f_events WHERE v > 10;
INSERT INTO f_events SELECT '2026-01-01', i % 5, i FROM generate_series(1, 100) i;
SELECT penstock.catch_up();
SELECT penstock.verify('f_sums'), penstock.verify('"f rows"');

-- events that it has not consumed yet are no difference
SELECT penstock.pause('f_sums');
INSERT INTO f_events SELECT '2026-01-01', i % 7, i FROM generate_series(1, 100) i;
SELECT sum(count) FROM f_sums;
SELECT penstock.verify('f_sums');
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT count(*) FROM f_events;
SELECT penstock.verify('f_sums');
COMMIT;
SELECT penstock.resume('f_sums');
SELECT penstock.catch_up();
SELECT sum(count) FROM f_sums;
SELECT penstock.verify('f_sums');

-- it finds what differs: rows looked up in a table that has changed since
CREATE ROLE f_user;
CREATE TABLE f_names (k int, name text);
INSERT INTO f_names SELECT i, 'name ' || i FROM generate_series(0, 9) i;
CREATE MATERIALIZED VIEW f_named USING continuous AS
  SELECT n.name, count(*) FROM f_events e JOIN f_names n USING (k) GROUP BY n.name;
SELECT penstock.verify('f_named');
UPDATE f_names SET name = 'new' WHERE k = 3;
SELECT penstock.verify('f_named');
SELECT penstock.rebuild('f_named');
SELECT penstock.verify('f_named');

SET ROLE f_user;
SELECT penstock.verify('f_sums');
RESET ROLE;
SELECT penstock.verify('f_events');
TRUNCATE f_events;
SELECT penstock.verify('f_sums');
DROP ROLE f_user;
DROP TABLE f_events, f_names CASCADE;

-- a fill shows how far it is: from a query that reads what is being filled
CREATE TABLE g_events (v int) USING stream;
INSERT INTO g_events SELECT i FROM generate_series(1, 1000) i;
CREATE FUNCTION g_progress(v int) RETURNS text LANGUAGE sql STABLE AS
  $$ SELECT string_agg(format('%s of %s', events_done, events_total), ',') FROM penstock.stat_fill $$;
CREATE MATERIALIZED VIEW g_view USING continuous AS SELECT g_progress(v) AS progress, count(*) FROM g_events GROUP BY 1;
SELECT * FROM g_view;
SELECT count(*) FROM penstock.stat_fill;
DROP TABLE g_events CASCADE;

-- parallel workers know of no position: they do not read streams when a view is compared
CREATE TABLE h_events (k int, v int) PARTITION BY LIST (k);
CREATE TABLE h_events_0 PARTITION OF h_events FOR VALUES IN (0) USING stream;
CREATE TABLE h_events_1 PARTITION OF h_events FOR VALUES IN (1) USING stream;
CREATE TABLE h_names AS SELECT i AS v FROM generate_series(1, 2000) i;
ANALYZE h_names;
CREATE MATERIALIZED VIEW h_view USING continuous AS
  SELECT e.k, e.v FROM h_events e WHERE e.v IN (SELECT v FROM h_names);
INSERT INTO h_events SELECT i % 2, i FROM generate_series(1, 1000) i;
SELECT penstock.catch_up();
SELECT penstock.pause('h_view');
INSERT INTO h_events SELECT i % 2, i FROM generate_series(1001, 2000) i;
SET parallel_setup_cost = 0;
SET parallel_tuple_cost = 0;
SET min_parallel_table_scan_size = 0;
SET parallel_leader_participation = off;
SELECT penstock.verify('h_view');
RESET parallel_setup_cost;
RESET parallel_tuple_cost;
RESET min_parallel_table_scan_size;
RESET parallel_leader_participation;
DROP TABLE h_events, h_names CASCADE;
