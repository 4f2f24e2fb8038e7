-- Streams: ALTER TABLE, VACUUM, and ways from and to a heap.
CREATE SCHEMA stream_alter;
SET search_path = stream_alter;
CREATE TABLE s (id int, v text, gone text) USING stream;
INSERT INTO s SELECT i, 'v' || i, 'g' || i FROM generate_series(1, 3) i;

-- columns without a rewrite
ALTER TABLE s ADD COLUMN plain int;
ALTER TABLE s ADD COLUMN filled text DEFAULT 'was not there';
ALTER TABLE s ADD COLUMN at timestamptz DEFAULT '2026-01-01 00:00+00';
INSERT INTO s (id, plain, filled) VALUES (4, 40, 'given');
SELECT id, v, gone, plain, filled FROM s ORDER BY id;
ALTER TABLE s DROP COLUMN gone;
SELECT * FROM s ORDER BY id;
INSERT INTO s VALUES (5, 'v5', 50, NULL, NULL);
ALTER TABLE s ADD COLUMN gone int DEFAULT 1;
SELECT id, plain, filled, gone FROM s ORDER BY id;
ALTER TABLE s RENAME COLUMN plain TO number;
ALTER TABLE s ALTER COLUMN v SET DEFAULT 'none';
INSERT INTO s (id) VALUES (6);
SELECT id, v, number FROM s WHERE id >= 5 ORDER BY id;
ALTER TABLE s ALTER COLUMN v TYPE varchar;
ALTER TABLE s ADD CONSTRAINT ids CHECK (id < 6);
ALTER TABLE s ADD CONSTRAINT ids CHECK (id < 60);
ALTER TABLE s ALTER COLUMN id SET NOT NULL;
ALTER TABLE s ALTER COLUMN number SET NOT NULL;

-- what would rewrite events is refused, unless there are none
ALTER TABLE s ALTER COLUMN id TYPE int8;
ALTER TABLE s ADD COLUMN r float8 DEFAULT random();
ALTER TABLE s ADD COLUMN doubled int GENERATED ALWAYS AS (id * 2) STORED;
ALTER TABLE s SET UNLOGGED;
SELECT count(*), sum(id) FROM s;
CREATE TABLE e (id int) USING stream;
ALTER TABLE e ALTER COLUMN id TYPE int8;
ALTER TABLE e ADD COLUMN r float8 DEFAULT random();
ALTER TABLE e SET UNLOGGED;
INSERT INTO e VALUES (5000000000);
SELECT id, r IS NOT NULL FROM e;

-- to a heap and back, with the rows
CREATE TABLE twin AS SELECT * FROM s;
ALTER TABLE s SET ACCESS METHOD heap, ALTER COLUMN id TYPE int8;
SELECT count(*) FROM (SELECT * FROM s EXCEPT ALL SELECT * FROM twin) d;
UPDATE s SET number = -1 WHERE number IS NULL;
ALTER TABLE s SET ACCESS METHOD stream;
SELECT id, number FROM s ORDER BY id;
SELECT sum(events) FROM penstock.stream_chunks('s');
-- a heap without TOAST table, with keys, with triggers
CREATE TABLE h (id int);
INSERT INTO h SELECT generate_series(1, 50000);
ALTER TABLE h SET ACCESS METHOD stream;
SELECT count(*), sum(id) FROM h;
INSERT INTO h SELECT generate_series(1, 50000);
SELECT count(*), sum(id) FROM h;
CREATE TABLE none (id int);
ALTER TABLE none SET ACCESS METHOD stream;
INSERT INTO none SELECT generate_series(1, 50000);
SELECT count(*), sum(id) FROM none;
CREATE TABLE keyed (id int PRIMARY KEY);
ALTER TABLE keyed SET ACCESS METHOD stream;
CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RETURN NEW; END$$;
CREATE TABLE triggered (id int);
CREATE TRIGGER each BEFORE INSERT ON triggered FOR EACH ROW EXECUTE FUNCTION nothing();
ALTER TABLE triggered SET ACCESS METHOD stream;
CREATE TABLE referring (id int REFERENCES keyed);
ALTER TABLE referring SET ACCESS METHOD stream;

-- VACUUM in its forms
CREATE TABLE v (id int, t text) USING stream;
INSERT INTO v SELECT i, md5(i::text) FROM generate_series(1, 40000) i;
BEGIN;
INSERT INTO v SELECT i, md5(i::text) FROM generate_series(1, 40000) i;
ROLLBACK;
VACUUM v;
VACUUM (FREEZE, ANALYZE) v;
SELECT reltuples FROM pg_class WHERE oid = 'v'::regclass;
VACUUM FULL v;
SELECT reltuples FROM pg_class WHERE oid = 'v'::regclass;
SELECT count(*), sum(id), count(DISTINCT t) FROM v;
-- a chunk's columns in the chunk itself and in TOAST, after another rewrite
INSERT INTO v VALUES (0, 'small');
VACUUM FULL v;
SELECT count(*), sum(id), min(t) FROM v WHERE id < 10;
INSERT INTO v SELECT * FROM v;
SELECT count(*), sum(id), count(DISTINCT t) FROM v;

SET client_min_messages = warning;
DROP SCHEMA stream_alter CASCADE;
