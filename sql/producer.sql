-- Idempotent producers.  Epochs come from a sequence that other tests may use: they are compared, not shown.
CREATE SCHEMA producer;
SET search_path = producer;
CREATE TABLE s (id int, batch bigint, note text DEFAULT 'none', at timestamptz DEFAULT '2026-01-01 00:00+00') USING stream;

-- an identity, its batches, repetitions
SELECT penstock.new_producer('s', 'a') AS epoch \gset
SELECT penstock.begin_produce('s', 'a', 1), penstock.begin_produce('s', 'a', 1);
SELECT penstock.begin_produce('s', 'a', 2, :epoch);
SELECT penstock.begin_produce('s', 'a', 2, :epoch), penstock.begin_produce('s', 'a', 1);
INSERT INTO s SELECT i, 3 FROM generate_series(1, 3) i WHERE (SELECT penstock.begin_produce('s', 'a', 3));
INSERT INTO s SELECT i, 3 FROM generate_series(1, 3) i WHERE (SELECT penstock.begin_produce('s', 'a', 3));
SELECT batch, count(*) FROM s GROUP BY batch;
SELECT stream, producer, owner = current_user::regrole AS mine, epoch = :epoch AS epoch, sequence,
  last_batch_at >= epoch_at AS at, duplicates, gaps, fenced FROM penstock.stat_producer;

-- a gap
SELECT penstock.begin_produce('s', 'a', 5);
\set VERBOSITY sqlstate
SELECT penstock.begin_produce('s', 'a', 5);
\set VERBOSITY default

-- the next epoch fences the older one; the sequence goes on
SELECT penstock.new_producer('s', 'a') AS next_epoch \gset
SELECT :next_epoch > :epoch AS later;
\set VERBOSITY sqlstate
SELECT penstock.begin_produce('s', 'a', 4, :epoch);
SELECT penstock.begin_produce('s', 'a', 3, :epoch);
SELECT penstock.begin_produce('s', 'a', 4, :next_epoch + 1000000);
\set VERBOSITY default
DO $$ BEGIN PERFORM penstock.begin_produce('s', 'a', 4, (SELECT epoch - 1 FROM penstock.producer));
EXCEPTION WHEN SQLSTATE 'PS011' THEN RAISE NOTICE '%', regexp_replace(sqlerrm, '\d+', 'N'); END $$;
DO $$ BEGIN PERFORM penstock.begin_produce('s', 'a', 4, (SELECT epoch + 1 FROM penstock.producer));
EXCEPTION WHEN invalid_parameter_value THEN RAISE NOTICE '%', regexp_replace(sqlerrm, '\d+', 'N'); END $$;
SELECT penstock.begin_produce('s', 'a', 4, :next_epoch);
SELECT sequence, duplicates, gaps, fenced FROM penstock.stat_producer;
SELECT penstock.stat_reset();
SELECT sequence, duplicates, gaps, fenced FROM penstock.stat_producer;

-- never made here
SELECT penstock.begin_produce('s', 'b', 1);
\set VERBOSITY sqlstate
SELECT penstock.begin_produce('s', 'b', 1);
\set VERBOSITY default
SELECT penstock.drop_producer('s', 'b');
SELECT penstock.drop_producer('s', 'b', if_exists => true);

-- rolled back: to a savepoint, and whole
BEGIN;
SELECT penstock.begin_produce('s', 'a', 5);
SAVEPOINT one;
SELECT penstock.begin_produce('s', 'a', 6), penstock.begin_produce('s', 'a', 6);
ROLLBACK TO one;
SELECT penstock.begin_produce('s', 'a', 6), penstock.begin_produce('s', 'a', 5);
COMMIT;
SELECT sequence FROM penstock.producer;
BEGIN;
SELECT penstock.begin_produce('s', 'a', 7);
ROLLBACK;
SELECT penstock.begin_produce('s', 'a', 7);
BEGIN;
SELECT penstock.new_producer('s', 'rolled back') > 0 AS made;
SELECT penstock.begin_produce('s', 'rolled back', 1);
ROLLBACK;
SELECT producer FROM penstock.producer;

-- every isolation level; what was committed last counts, not what the snapshot sees
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT penstock.begin_produce('s', 'a', 8), penstock.begin_produce('s', 'a', 8);
COMMIT;
BEGIN ISOLATION LEVEL SERIALIZABLE;
SELECT penstock.begin_produce('s', 'a', 9), penstock.begin_produce('s', 'a', 9);
COMMIT;
BEGIN READ ONLY;
SELECT penstock.begin_produce('s', 'a', 10);
ROLLBACK;
BEGIN READ ONLY;
SELECT penstock.new_producer('s', 'a');
ROLLBACK;
BEGIN READ ONLY;
SELECT penstock.drop_producer('s', 'a');
ROLLBACK;
BEGIN READ ONLY;
SELECT penstock.produce('s', 'a', 10, '[]');
ROLLBACK;

-- a prepared transaction is a batch under way
BEGIN;
SELECT penstock.begin_produce('s', 'a', 10);
PREPARE TRANSACTION 'batch 10';
SET lock_timeout = '10ms';
SELECT penstock.begin_produce('s', 'a', 10);
RESET lock_timeout;
COMMIT PREPARED 'batch 10';
SELECT penstock.begin_produce('s', 'a', 10);

-- produce: JSON
SELECT penstock.produce('s', 'a', 11, '[{"id": 1, "batch": 11}, {"id": 2, "batch": 11, "note": null}, {"id": 3, "note": "x", "other": 1}]');
SELECT penstock.produce('s', 'a', 11, '[{"id": 1, "batch": 11}]');
SELECT penstock.produce('s', 'a', 12, '[{"id": 4, "at": "2026-02-03 00:00+00"}]'::json, epoch => :next_epoch);
SELECT penstock.produce('s', 'a', 13, '[]');
SELECT id, batch, note, at AT TIME ZONE 'UTC' AS at FROM s WHERE batch IS DISTINCT FROM 3 ORDER BY id;
-- produce: rows
SELECT penstock.produce('s', 'a', 14, ARRAY[ROW(5, 14, NULL, NULL), ROW(6, 14, 'y', NULL)]::s[]);
SELECT penstock.produce('s', 'a', 14, ARRAY[ROW(5, 14, NULL, NULL)]::s[]);
SELECT penstock.produce('s', 'a', 15, (SELECT array_agg(s) FROM s WHERE id = 5), :next_epoch);
SELECT id, batch, note, at FROM s WHERE id >= 5 ORDER BY id;
-- a batch that fails is not accepted
SELECT penstock.produce('s', 'a', 16, '[{"id": 1}, {"id": "x"}]');
SELECT penstock.produce('s', 'a', 16, '{"id": 1}');
SELECT penstock.produce('s', 'a', 16, 'no JSON');
SELECT penstock.produce('s', 'a', 17, '[{"id": 1}]');
SELECT sequence FROM penstock.producer;
-- what is wrong
SELECT penstock.produce('s', 'a', 16, NULL::json);
SELECT penstock.produce('s', 'a', 16, ARRAY[1, 2]);
SELECT penstock.begin_produce('s', 'a', 0);
SELECT penstock.begin_produce('s', 'a', NULL);
SELECT penstock.begin_produce('s', 'a', 16, 0);
SELECT penstock.begin_produce(NULL, 'a', 16);
SELECT penstock.begin_produce('s', NULL, 16);
SELECT penstock.new_producer('s', '');
SELECT penstock.new_producer('s', repeat('x', 256));
SELECT penstock.new_producer('s', repeat('x', 255)) > 0 AS longest;
SELECT penstock.drop_producer('s', repeat('x', 255));
CREATE TABLE plain (id int);
SELECT penstock.new_producer('plain', 'a');
SELECT penstock.begin_produce('plain', 'a', 1);
SELECT penstock.new_producer(1::oid::regclass, 'a');
SELECT penstock.begin_produce(1::oid::regclass, 'a', 1);
SELECT penstock.drop_producer(1::oid::regclass, 'a');
CREATE TEMP TABLE passing (id int) USING stream;
SELECT penstock.new_producer('passing', 'a');
INSERT INTO penstock.producer VALUES (1);

-- the kept plan follows the stream
ALTER TABLE s ADD COLUMN added int DEFAULT 7, ALTER note SET DEFAULT 'some';
ALTER TABLE s RENAME TO t;
ALTER SCHEMA producer RENAME TO producer2;
SET search_path = producer2;
SELECT penstock.produce('t', 'a', 16, '[{"id": 100}, {"id": 101, "added": 8}]');
SELECT id, note, added FROM t WHERE id >= 100 ORDER BY id;
CREATE SEQUENCE numbers;
CREATE TABLE d (id bigint DEFAULT nextval('numbers'), always bigint GENERATED ALWAYS AS IDENTITY, name text,
  twice text GENERATED ALWAYS AS (name || name) STORED) USING stream;
SELECT penstock.new_producer('d', 'a') > 0 AS made;
SELECT penstock.produce('d', 'a', 1, '[{"name": "x"}, {"name": "y"}, {"id": 50, "always": 60, "name": "z", "twice": "no"}]');
SELECT * FROM d ORDER BY id;

-- partitions
CREATE TABLE parts (k int, v int) PARTITION BY LIST (k);
SELECT penstock.new_producer('parts', 'a');
CREATE TABLE parts_1 PARTITION OF parts FOR VALUES IN (1) USING stream;
CREATE TABLE parts_d PARTITION OF parts DEFAULT USING stream;
SELECT penstock.new_producer('parts', 'a') > 0 AS made;
SELECT penstock.produce('parts', 'a', 1, '[{"k": 1, "v": 1}, {"k": 2, "v": 2}]');
SELECT penstock.produce('parts', 'a', 1, '[{"k": 1, "v": 1}, {"k": 2, "v": 2}]');
SELECT tableoid::regclass, * FROM parts ORDER BY k;
DROP TABLE parts;
SELECT count(*) FROM penstock.producer WHERE stream::oid NOT IN (SELECT oid FROM pg_class);

-- who may
CREATE ROLE producer_one;
CREATE ROLE producer_two;
CREATE ROLE producer_member IN ROLE producer_one;
GRANT USAGE ON SCHEMA producer2 TO PUBLIC;
GRANT INSERT ON t TO producer_one, producer_two;
SET ROLE producer_one;
SELECT penstock.new_producer('t', 'one') > 0 AS made;
SELECT penstock.begin_produce('t', 'one', 1);
\set VERBOSITY terse
SELECT penstock.begin_produce('t', 'a', 17);
\set VERBOSITY default
SELECT penstock.new_producer('d', 'one');
SELECT penstock.begin_produce('d', 'a', 2);
SELECT producer, owner, sequence FROM penstock.stat_producer WHERE producer = 'one';
SET ROLE producer_two;
SELECT penstock.begin_produce('t', 'one', 2);
SELECT penstock.produce('t', 'one', 2, '[]');
SELECT penstock.new_producer('t', 'one');
SELECT penstock.drop_producer('t', 'one');
INSERT INTO penstock.saved_producer VALUES ('t', 'forged', 'producer_two', 1, 1, now());
SELECT nextval('penstock.producer_epoch');
SET ROLE producer_member;
SELECT penstock.begin_produce('t', 'one', 2);
SELECT penstock.new_producer('t', 'one') > 0 AS made;
RESET ROLE;
-- the stream's right is asked each time; a column's is enough
REVOKE INSERT ON t FROM producer_one;
SET ROLE producer_one;
SELECT penstock.begin_produce('t', 'one', 3);
RESET ROLE;
GRANT INSERT (id) ON t TO producer_one;
SET ROLE producer_one;
INSERT INTO t (id) SELECT 200 WHERE (SELECT penstock.begin_produce('t', 'one', 3));
RESET ROLE;

-- roles end
DROP OWNED BY producer_member;
DROP ROLE producer_member;
REVOKE ALL ON t FROM producer_one;
DROP ROLE producer_one;
REASSIGN OWNED BY producer_one TO producer_two;
SELECT producer, owner FROM penstock.producer WHERE producer = 'one';
DROP ROLE producer_one;
DROP OWNED BY producer_two;
SELECT producer, owner FROM penstock.producer WHERE producer = 'one';
DROP ROLE producer_two;

-- the option
ALTER TABLE t SET (penstock.producer_retention = '0');
ALTER TABLE t SET (penstock.producer_retention = 'soon');
ALTER TABLE t SET (penstock.producer_retention = '30 days');
SELECT reloptions FROM pg_class WHERE oid = 't'::regclass;

-- a restore: what is put into saved_producer arrives in producer
CREATE ROLE producer_admin SUPERUSER;
SET ROLE producer_admin;
INSERT INTO penstock.saved_producer VALUES
  ('producer2.t', 'restored', current_user, 5, 41, now(), now()), ('producer2.t', 'of nobody', 'gone', 5, 41, now(), NULL),
  ('producer2.gone', 'restored', current_user, 5, 41, now(), now());
SELECT count(*) FROM penstock.saved_producer;
SELECT producer, owner = current_user::regrole AS mine, epoch, sequence FROM penstock.producer WHERE stream = 't'::regclass AND epoch = 5 ORDER BY 1;
SELECT penstock.begin_produce('t', 'restored', 41, 5), penstock.begin_produce('t', 'restored', 42, 5);
\set VERBOSITY terse
INSERT INTO penstock.saved_producer VALUES ('producer2.t', 'restored', current_user, 5, 41, now(), now());
\set VERBOSITY default
-- an epoch grows whatever the sequence says
INSERT INTO penstock.saved_producer VALUES ('producer2.t', 'late', current_user, 1000000000, 1, now(), now());
SELECT penstock.new_producer('t', 'late');
RESET ROLE;

-- producers go with their stream
SELECT count(*) FROM penstock.producer WHERE stream = 't'::regclass;
BEGIN;
DROP TABLE t;
SELECT count(*) FROM penstock.producer WHERE stream::oid NOT IN (SELECT oid FROM pg_class);
ROLLBACK;
SELECT count(*) FROM penstock.producer WHERE stream = 't'::regclass;
DROP SCHEMA producer2 CASCADE;
SELECT count(*) FROM penstock.producer;
DROP ROLE producer_admin;
