-- Streams: writing and reading.
CREATE SCHEMA stream_basic;
SET search_path = stream_basic;

CREATE TABLE clicks (ts timestamptz, visitor int, url text, latency float8) USING stream;
COMMENT ON TABLE clicks IS 'a stream';
SELECT amname FROM pg_class c JOIN pg_am a ON a.oid = c.relam WHERE c.oid = 'clicks'::regclass;

-- INSERT in its forms
INSERT INTO clicks VALUES ('2026-01-01 00:00+00', 1, '/a', 0.5), ('2026-01-01 00:01+00', 2, NULL, NULL);
INSERT INTO clicks (visitor) VALUES (3) RETURNING visitor, url, tableoid::regclass;
INSERT INTO clicks SELECT '2026-01-01 00:02+00', i, '/' || i, i FROM generate_series(4, 6) i;
WITH new AS (INSERT INTO clicks (visitor) VALUES (7), (8) RETURNING visitor)
SELECT sum(visitor) FROM new;
PREPARE put(int, text) AS INSERT INTO clicks (visitor, url) VALUES ($1, $2);
EXECUTE put(9, '/nine');
EXECUTE put(10, '/ten');
SELECT visitor, url, latency FROM clicks ORDER BY visitor;

-- COPY in and out
COPY clicks FROM stdin;
2026-01-01 00:03:00+00	11	/eleven	1.5
\N	12	\N	\N
\.
COPY clicks (visitor, url) FROM stdin (FORMAT csv);
13,"/thir,teen"
\.
COPY (SELECT visitor, url, latency FROM clicks WHERE visitor > 10 ORDER BY visitor) TO stdout;
CREATE TABLE two (a int, b text) USING stream;
COPY two FROM stdin;
1	one
2	two
\.
COPY two TO stdout;
COPY two TO stdout (FORMAT csv, HEADER);
TRUNCATE two;
BEGIN;
CREATE TABLE frozen (a int) USING stream;
COPY frozen FROM stdin (FREEZE);
1
2
\.
COMMIT;
SELECT * FROM frozen;

-- many rows, several chunks
CREATE TABLE many (id int, grp int, v text) USING stream;
INSERT INTO many SELECT i, i % 10, 'value ' || i FROM generate_series(1, 100000) i;
SELECT count(*), sum(id), count(DISTINCT v), min(v), max(v) FROM many;
SELECT sum(events), count(*) > 1 AS several, bool_or(merged) FROM penstock.stream_chunks('many');
SELECT grp, count(*), sum(id) FROM many GROUP BY grp ORDER BY grp;
SELECT * FROM many WHERE id IN (1, 50000, 100000) ORDER BY id;
-- a chunk's address and row are an event's ctid
SELECT count(DISTINCT ctid), count(*) FROM many;
SELECT id FROM many WHERE ctid = (SELECT ctid FROM many WHERE id = 77777);
SELECT m FROM many m WHERE id = 3;
SELECT count(*) FROM many a JOIN many b USING (id) WHERE a.grp = 1;

-- created from a query, into a query
CREATE TABLE copied USING stream AS SELECT * FROM many WHERE id <= 1000;
SELECT count(*), sum(id) FROM copied;
CREATE TABLE twin AS SELECT * FROM copied;
SELECT count(*) FROM (SELECT * FROM twin EXCEPT ALL SELECT * FROM copied) d;
SELECT count(*) FROM (SELECT * FROM copied EXCEPT ALL SELECT * FROM twin) d;
CREATE TABLE empty USING stream AS SELECT * FROM many WITH NO DATA;
SELECT * FROM empty;
SELECT count(*), sum(id) FROM empty;

-- a stream that reads itself
INSERT INTO copied SELECT id + 1000, grp, v FROM copied;
SELECT count(*), sum(id) FROM copied;

-- UPDATE and DELETE of tables that look into a stream; row marks need an event's ctid
CREATE TABLE account (visitor int PRIMARY KEY, clicks int);
INSERT INTO account SELECT i, 0 FROM generate_series(1, 20) i;
UPDATE account SET clicks = 1 FROM clicks c WHERE c.visitor = account.visitor;
DELETE FROM account USING clicks c WHERE c.visitor = account.visitor AND c.visitor < 10;
MERGE INTO account a USING clicks c ON a.visitor = c.visitor
  WHEN MATCHED THEN UPDATE SET clicks = a.clicks + 10
  WHEN NOT MATCHED THEN INSERT VALUES (c.visitor, -1);
SELECT sum(clicks), count(*) FROM account;

-- TRUNCATE
BEGIN;
INSERT INTO copied VALUES (0, 0, 'lost');
TRUNCATE copied;
INSERT INTO copied VALUES (1, 1, 'kept');
SELECT * FROM copied;
ROLLBACK;
SELECT count(*) FROM copied;
TRUNCATE copied;
SELECT count(*) FROM copied;

-- without columns
CREATE TABLE nothing () USING stream;
INSERT INTO nothing DEFAULT VALUES;
INSERT INTO nothing DEFAULT VALUES;
SELECT count(*) FROM nothing;

-- defaults, generated columns, identity, checks
CREATE TABLE rules (
  id int GENERATED ALWAYS AS IDENTITY,
  v int NOT NULL DEFAULT 7 CHECK (v > 0),
  double int GENERATED ALWAYS AS (v * 2) STORED) USING stream;
INSERT INTO rules DEFAULT VALUES;
INSERT INTO rules (v) VALUES (1);
INSERT INTO rules (v) VALUES (0);
INSERT INTO rules (v) VALUES (NULL);
ALTER TABLE rules ADD CONSTRAINT small CHECK (v < 5);
ALTER TABLE rules ADD CONSTRAINT small CHECK (v < 50);
ALTER TABLE rules ALTER v DROP NOT NULL;
SELECT v, double FROM rules ORDER BY v;

-- unlogged, temporary
CREATE UNLOGGED TABLE quick (a int) USING stream;
INSERT INTO quick SELECT generate_series(1, 1000);
SELECT sum(a) FROM quick;
CREATE TEMP TABLE mine (a int) USING stream ON COMMIT DELETE ROWS;
BEGIN;
INSERT INTO mine VALUES (1);
SELECT * FROM mine;
COMMIT;
SELECT * FROM mine;
CREATE TEMP TABLE mine2 (a int) USING stream;
INSERT INTO mine2 VALUES (1), (2);
SELECT sum(a) FROM mine2;

-- partitions, inheritance
CREATE TABLE part (day date, v int) PARTITION BY RANGE (day);
CREATE TABLE part1 PARTITION OF part FOR VALUES FROM ('2026-01-01') TO ('2026-02-01') USING stream;
CREATE TABLE part2 PARTITION OF part FOR VALUES FROM ('2026-02-01') TO ('2026-03-01') USING stream;
CREATE TABLE part3 PARTITION OF part FOR VALUES FROM ('2026-03-01') TO ('2026-04-01');
INSERT INTO part SELECT '2026-01-01'::date + i, i FROM generate_series(0, 89) i;
COPY part FROM stdin;
2026-01-15	1000
2026-02-15	2000
2026-03-15	3000
\.
SELECT tableoid::regclass, count(*), sum(v) FROM part GROUP BY 1 ORDER BY 1;
EXPLAIN (COSTS OFF) SELECT v FROM part WHERE day = '2026-02-10';
SELECT v FROM part WHERE day = '2026-02-10';
ALTER TABLE part DETACH PARTITION part1;
SELECT count(*) FROM part;
ALTER TABLE part ATTACH PARTITION part1 FOR VALUES FROM ('2026-01-01') TO ('2026-02-01');
SELECT count(*) FROM part;
INSERT INTO part3 VALUES ('2026-03-16', 4000);
UPDATE part3 SET v = 5000 WHERE v = 4000;
CREATE TABLE parent (a int) USING stream;
CREATE TABLE child (b int) INHERITS (parent) USING stream;
INSERT INTO parent VALUES (1);
INSERT INTO child VALUES (2, 3);
SELECT a, tableoid::regclass FROM parent ORDER BY a;
SELECT a FROM ONLY parent;

-- rights and row security
CREATE ROLE stream_reader;
GRANT USAGE ON SCHEMA stream_basic TO stream_reader;
SET ROLE stream_reader;
SELECT count(*) FROM many;
SELECT * FROM penstock.stream_chunks('many');
RESET ROLE;
GRANT SELECT (id) ON many TO stream_reader;
SET ROLE stream_reader;
SELECT sum(id) FROM many;
SELECT sum(grp) FROM many;
RESET ROLE;
GRANT SELECT ON many TO stream_reader;
ALTER TABLE many ENABLE ROW LEVEL SECURITY;
CREATE POLICY few ON many USING (id <= 10);
SET ROLE stream_reader;
SELECT count(*) FROM many;
RESET ROLE;

-- statistics count rows
CREATE TABLE counted (a int) USING stream;
INSERT INTO counted SELECT generate_series(1, 50000);
ANALYZE counted;
SELECT reltuples FROM pg_class WHERE oid = 'counted'::regclass;
SELECT n_distinct, correlation FROM pg_stats WHERE schemaname = 'stream_basic' AND tablename = 'counted';
VACUUM counted;
SELECT reltuples FROM pg_class WHERE oid = 'counted'::regclass;
SELECT pg_total_relation_size('counted') > 0 AS has_size;
SELECT * FROM penstock.stream_chunks('account');

SET client_min_messages = warning;
DROP OWNED BY stream_reader;
DROP ROLE stream_reader;
DROP SCHEMA stream_basic CASCADE;
