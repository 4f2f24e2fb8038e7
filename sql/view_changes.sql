-- Continuous views when what they use changes.
CREATE SCHEMA view_changes;
SET search_path = view_changes, public;
SET client_min_messages = warning;

-- below a partitioned table that a view reads there are streams only
CREATE TABLE p (id int, k text) PARTITION BY RANGE (id);
CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (100) USING stream;
CREATE MATERIALIZED VIEW pv USING continuous AS SELECT k, count(*) AS n FROM p GROUP BY k;
CREATE TABLE p2 PARTITION OF p FOR VALUES FROM (100) TO (200);
CREATE TABLE p2 (id int, k text);
ALTER TABLE p ATTACH PARTITION p2 FOR VALUES FROM (100) TO (200);
DROP TABLE p2;
CREATE TABLE p2 PARTITION OF p FOR VALUES FROM (100) TO (200) PARTITION BY LIST (k);
CREATE TABLE p2a PARTITION OF p2 FOR VALUES IN ('a');
CREATE TABLE p2a PARTITION OF p2 FOR VALUES IN ('a') USING stream;
CREATE TABLE p3 (id int, k text) PARTITION BY LIST (k);
CREATE TABLE p3a PARTITION OF p3 FOR VALUES IN ('a') USING stream;
INSERT INTO p3 VALUES (250, 'a');
ALTER TABLE p ATTACH PARTITION p3 FOR VALUES FROM (200) TO (300);
TRUNCATE p3;
ALTER TABLE p ATTACH PARTITION p3 FOR VALUES FROM (200) TO (300);
INSERT INTO p VALUES (1, 'a'), (101, 'a'), (201, 'a');
SELECT penstock.catch_up('pv');
TABLE pv;
CREATE TABLE s (id int, k text) USING stream;
CREATE MATERIALIZED VIEW sv USING continuous AS SELECT count(*) FROM s;
CREATE TABLE child () INHERITS (s);
CREATE TABLE child (id int, k text);
ALTER TABLE child INHERIT s;
-- looked-up tables may have children
CREATE TABLE l (k text, z int);
CREATE MATERIALIZED VIEW lv USING continuous AS SELECT id, z FROM s JOIN l USING (k);
CREATE TABLE l1 () INHERITS (l);
INSERT INTO l1 VALUES ('a', 1);
INSERT INTO s VALUES (1, 'a');
SELECT penstock.catch_up('lv');
TABLE lv;

-- a stream that leaves or goes takes its events along: the view cannot be rebuilt without loss
CREATE SCHEMA part;
CREATE TABLE c1 (LIKE s) USING stream;
CREATE TABLE c2 () INHERITS (s) USING stream;
CREATE TABLE part.c3 () INHERITS (s) USING stream;
ALTER TABLE c1 INHERIT s;
CREATE VIEW complete AS SELECT complete FROM penstock.continuous_view WHERE view = 'sv'::regclass;
INSERT INTO c1 VALUES (10, 'c');
INSERT INTO c2 VALUES (11, 'c');
INSERT INTO part.c3 VALUES (12, 'c');
SELECT penstock.catch_up('sv');
BEGIN; ALTER TABLE c1 NO INHERIT s; TABLE complete; ROLLBACK;
BEGIN; DROP TABLE c2; TABLE complete; ROLLBACK;
BEGIN; DROP SCHEMA part CASCADE; TABLE complete; ROLLBACK;
BEGIN; DROP TABLE l, s CASCADE; ROLLBACK;
TABLE complete;
DROP SCHEMA part CASCADE;
SELECT penstock.rebuild('sv');

-- a stream cannot become a table and a stream again below a view: its events would count twice
ALTER TABLE c1 SET ACCESS METHOD heap;
ALTER TABLE s SET ACCESS METHOD heap, ALTER COLUMN k TYPE int USING 1;
ALTER TABLE s SET ACCESS METHOD stream;
DROP TABLE c1, c2;

-- a function that is volatile from now on
CREATE FUNCTION f(int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN $1 * 2; END';
CREATE MATERIALIZED VIEW fv USING continuous AS SELECT f(id) AS f FROM s;
CREATE OR REPLACE FUNCTION f(int) RETURNS int LANGUAGE plpgsql AS 'BEGIN RETURN $1 * 3; END';
INSERT INTO s VALUES (2, 'b');
SELECT penstock.catch_up('fv');
ALTER FUNCTION f(int) STABLE;
SELECT penstock.resume('fv');
SELECT penstock.catch_up('fv');
SELECT * FROM fv ORDER BY f;

-- a key that is too long for an index stops no view
CREATE TABLE long (k text, v int) USING stream;
CREATE MATERIALIZED VIEW long_keys USING continuous AS SELECT k, count(*) AS n FROM long GROUP BY k;
CREATE VIEW indexes AS SELECT indexrelid::regclass AS index FROM pg_index WHERE indrelid = 'long_keys'::regclass;
INSERT INTO long VALUES ('short', 1);
TABLE indexes;
INSERT INTO long SELECT string_agg(md5(i::text), ''), 1 FROM generate_series(1, 150) i;
INSERT INTO long SELECT string_agg(md5(i::text), ''), 1 FROM generate_series(1, 500) i;
SELECT penstock.catch_up('long_keys');
SELECT length(k), n FROM long_keys ORDER BY 1;
TABLE indexes;
SET client_min_messages = notice;
CREATE MATERIALIZED VIEW long_later USING continuous AS SELECT k, count(*) AS n FROM long GROUP BY k;
SET client_min_messages = warning;
SELECT length(k), n FROM long_later ORDER BY 1;
-- one's own index is one's own care
CREATE MATERIALIZED VIEW long_own USING continuous AS SELECT k, count(*) AS n FROM long WHERE v = 2 GROUP BY k;
CREATE INDEX own ON long_own (lower(k));
INSERT INTO long SELECT k, 2 FROM long;
SELECT penstock.catch_up('long_own');
DROP INDEX own;
SELECT penstock.resume('long_own');
SELECT penstock.catch_up('long_own');
SELECT length(k), n FROM long_own ORDER BY 1;

-- rebuild() makes nobody wait who has nothing to do with it
CREATE ROLE regress_penstock_changes;
GRANT USAGE ON SCHEMA view_changes TO regress_penstock_changes;
SET ROLE regress_penstock_changes;
BEGIN;
SAVEPOINT a;
SELECT penstock.rebuild('l');
ROLLBACK TO a;
SELECT penstock.rebuild('sv');
ROLLBACK TO a;
SELECT penstock.rebuild(0);
ROLLBACK;
RESET ROLE;
DROP OWNED BY regress_penstock_changes;
DROP ROLE regress_penstock_changes;

-- rows as keys stay what they are when their type gets a column
CREATE TYPE point2 AS (x int, y text);
CREATE TABLE rows (a int) USING stream;
CREATE TABLE points (p point2) USING stream;
CREATE MATERIALIZED VIEW by_rows USING continuous AS SELECT rows AS row, count(*) AS n FROM rows GROUP BY rows;
CREATE MATERIALIZED VIEW by_points USING continuous AS SELECT p, count(*) AS n FROM points GROUP BY p;
INSERT INTO rows VALUES (1), (NULL), (2);
INSERT INTO points VALUES ((1, NULL)), ((1, 'a')), (NULL), ((NULL, NULL));
SELECT penstock.catch_up();
ALTER TABLE rows ADD COLUMN b int;
ALTER TYPE point2 ADD ATTRIBUTE z int;
INSERT INTO rows VALUES (1, NULL), (1, 2), (NULL, NULL), (NULL, 1);
INSERT INTO points VALUES ((1, NULL, NULL)), ((1, 'a', NULL)), ((1, 'a', 1)), (NULL);
SELECT penstock.catch_up();
SELECT row::text, n FROM by_rows ORDER BY 1;
SELECT p::text, n FROM by_points ORDER BY 1, 2;
SELECT penstock.verify('by_rows'), penstock.verify('by_points');
DROP TABLE rows, points CASCADE;
DROP TYPE point2;

-- DROP ... CASCADE of a type in a view's state takes the view along, and nothing else
CREATE TYPE mood AS ENUM ('sad', 'ok');
CREATE TYPE pair AS (a int, b int);
CREATE DOMAIN kind AS text COLLATE "C";
CREATE TABLE moods (m mood, k kind, v int) USING stream;
CREATE TABLE names (k text PRIMARY KEY, name text);
INSERT INTO names VALUES ('a', 'first');
CREATE MATERIALIZED VIEW by_mood USING continuous AS SELECT m, count(*) AS n FROM moods GROUP BY m;
CREATE MATERIALIZED VIEW by_kind USING continuous AS SELECT k, count(*) AS n FROM moods GROUP BY k;
CREATE MATERIALIZED VIEW by_row USING continuous AS SELECT moods, max(m) AS m FROM moods GROUP BY moods;
CREATE MATERIALIZED VIEW by_pair USING continuous AS SELECT count(*) AS n FROM moods GROUP BY row(v, v)::pair;
CREATE MATERIALIZED VIEW by_name USING continuous AS
  SELECT count(*) AS n FROM moods JOIN names USING (k) GROUP BY names;
INSERT INTO moods VALUES ('sad', 'a', 1), ('ok', 'a', 2);
SELECT penstock.catch_up();
ALTER TYPE pair ADD ATTRIBUTE c int;
ALTER TABLE names ALTER COLUMN name TYPE int USING 1;
DROP TYPE mood;
DROP TABLE names CASCADE;
DROP TYPE pair CASCADE;
SELECT penstock.rebuild('by_mood');
DROP TYPE mood CASCADE;
DROP DOMAIN kind CASCADE;
SELECT view FROM penstock.continuous_view WHERE view::text LIKE 'by%' ORDER BY 1;
SELECT c.relname FROM pg_class c WHERE c.relnamespace = 'penstock'::regnamespace AND c.relkind = 'm' AND
  c.relname LIKE 'state%' AND c.oid NOT IN (SELECT state FROM penstock.continuous_view);
SELECT extname FROM pg_extension WHERE extname = 'penstock';
SELECT v FROM moods ORDER BY v;

DROP SCHEMA view_changes CASCADE;
