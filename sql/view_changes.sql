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

DROP SCHEMA view_changes CASCADE;
