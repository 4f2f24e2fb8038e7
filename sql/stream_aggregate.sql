-- StreamAggregate gives what the server's Agg gives, also where it would be easy not to.
CREATE SCHEMA stream_aggregate;
SET search_path = stream_aggregate, public;
SET max_parallel_workers_per_gather = 0;
CREATE TABLE s (id int, x int, f float8, t text) USING stream;
INSERT INTO s SELECT i, i % 5, (i % 7)::float8, 't' || i % 11 FROM generate_series(1, 50000) i;

-- the server's answer beside ours; NULL: the same
CREATE FUNCTION compare(query text) RETURNS TABLE (by_chunks text, by_server text) LANGUAGE plpgsql AS $$
BEGIN
  SET LOCAL penstock.enable_stream_aggregate = on;
  EXECUTE format('SELECT string_agg(q::text, '' '' ORDER BY q::text) FROM (%s) q', query) INTO by_chunks;
  SET LOCAL penstock.enable_stream_aggregate = off;
  EXECUTE format('SELECT string_agg(q::text, '' '' ORDER BY q::text) FROM (%s) q', query) INTO by_server;
  RETURN NEXT;
END $$;
CREATE FUNCTION node(query text) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE line text;
BEGIN
  FOR line IN EXECUTE 'EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF, SUMMARY OFF) ' || query LOOP
    IF line ~ 'Aggregate|Agg |Spilled' THEN RETURN NEXT regexp_replace(line, '^[ >-]*| *\(actual.*', '', 'g'); END IF;
  END LOOP;
END $$;

-- a filter is there to keep rows from the argument
SELECT compare('SELECT sum(1 / x) FILTER (WHERE x <> 0), count(1 / nullif(x, 0)) FROM s');
SELECT compare('SELECT t, sum(1 / x) FILTER (WHERE x <> 0) FROM s GROUP BY t HAVING t < ''t2''');
SELECT sum(1 / x) FROM s;

-- avg and stddev share a state when a parallel plan puts it together
SET parallel_setup_cost = 0;
SET parallel_tuple_cost = 0;
SET min_parallel_table_scan_size = 0;
SET max_parallel_workers_per_gather = 2;
EXPLAIN (COSTS OFF) SELECT avg(f), stddev(f), var_pop(f) FROM s;
SELECT compare('SELECT avg(f), stddev(f)::numeric(20,10), var_pop(f)::numeric(20,10) FROM s');
SET max_parallel_workers_per_gather = 0;

-- aggregates that somebody made of the server's functions
CREATE AGGREGATE my_max(int) (SFUNC = int4larger, STYPE = int4, INITCOND = '100000');
CREATE AGGREGATE my_count(*) (SFUNC = int8inc, STYPE = int8, INITCOND = '5');
CREATE AGGREGATE my_sum(float8) (SFUNC = float8pl, STYPE = float8, INITCOND = '10');
CREATE AGGREGATE my_avg(int) (SFUNC = int4_avg_accum, STYPE = int8[], FINALFUNC = int8_avg, INITCOND = '{10,20}');
SELECT compare('SELECT my_max(x), my_count(*), my_sum(f), my_avg(x) FROM s');

-- volatile expressions are computed once
SELECT node('SELECT random(), max(random()) FROM s GROUP BY random()') LIMIT 1;
SELECT bool_and(a = b) FROM (SELECT random() a, max(random()) b FROM s GROUP BY random() OFFSET 0) q;

-- the right to run an aggregate, and of its owner to run what it consists of
CREATE ROLE regress_penstock_aggregate;
GRANT USAGE ON SCHEMA stream_aggregate TO regress_penstock_aggregate;
GRANT SELECT ON s TO regress_penstock_aggregate;
REVOKE EXECUTE ON FUNCTION my_max(int) FROM public;
SET ROLE regress_penstock_aggregate;
SELECT my_max(x) FROM s;
SELECT max(x) FROM s;
RESET ROLE;
DROP OWNED BY regress_penstock_aggregate;
DROP ROLE regress_penstock_aggregate;

-- numbers that are equal and look different
CREATE TABLE z (f float8) USING stream;
INSERT INTO z VALUES ('-0');
SELECT compare('SELECT sum(f), avg(f), min(f), max(f) FROM z');

-- little memory: few groups are not divided, many go to the server's Agg, again and again when scanned again
SET work_mem = '64kB';
SET enable_sort = off;
SELECT node('SELECT t, count(*), sum(x), avg(f), sum(f), min(x), max(x), avg(x), sum(id), stddev(f) FROM s GROUP BY t');
SELECT node('SELECT id % 5000, count(*), sum(x), avg(f), sum(f), min(x), max(x), avg(x), sum(id) FROM s GROUP BY 1');
SELECT node('SELECT t || id % 5000, count(*) FROM s GROUP BY 1');
CREATE VIEW many AS SELECT g, l.* FROM generate_series(0, 3) g,
  LATERAL (SELECT t || id % (g * 2000 + 3) AS k, count(*) AS n, sum(x) AS x FROM s WHERE id > g * 1000 GROUP BY 1 OFFSET 0) l;
SELECT compare('SELECT g, count(*), sum(n), sum(x), count(DISTINCT k), md5(string_agg(k, '' '' ORDER BY k)) FROM many GROUP BY g');
RESET work_mem;
RESET enable_sort;

\set VERBOSITY terse
DROP SCHEMA stream_aggregate CASCADE;
