-- Streams: what a transaction sees of its own events, and what is left of them.
CREATE SCHEMA stream_transactions;
SET search_path = stream_transactions;
CREATE TABLE s (a int) USING stream;
CREATE FUNCTION content() RETURNS text VOLATILE LANGUAGE sql
  AS $$SELECT string_agg(a::text, ' ' ORDER BY a) FROM s$$;

-- a transaction reads what it wrote
BEGIN;
INSERT INTO s VALUES (1);
SELECT content();
INSERT INTO s VALUES (2);
SELECT content();
ROLLBACK;
SELECT content();

-- subtransactions: committed and rolled back, read and not read in between
BEGIN;
INSERT INTO s VALUES (1);
SAVEPOINT a;
INSERT INTO s VALUES (2);
SAVEPOINT b;
INSERT INTO s VALUES (3);
ROLLBACK TO b;
INSERT INTO s VALUES (4);
RELEASE a;
INSERT INTO s VALUES (5);
COMMIT;
SELECT content();
TRUNCATE s;

BEGIN;
INSERT INTO s VALUES (1);
SAVEPOINT a;
INSERT INTO s VALUES (2);
SELECT content();
SAVEPOINT b;
INSERT INTO s VALUES (3);
SELECT content();
ROLLBACK TO b;
SELECT content();
ROLLBACK TO a;
SELECT content();
INSERT INTO s VALUES (6);
SELECT content();
COMMIT;
SELECT content();
TRUNCATE s;

-- a child that is rolled back has written the parent's rows
BEGIN;
INSERT INTO s SELECT generate_series(1, 5);
SAVEPOINT a;
SELECT content();
SAVEPOINT b;
SELECT content();
RELEASE b;
SELECT content();
ROLLBACK TO a;
SELECT content();
COMMIT;
SELECT content();
TRUNCATE s;

-- a child that commits has written them for good
BEGIN;
INSERT INTO s SELECT generate_series(1, 5);
SAVEPOINT a;
SAVEPOINT b;
SELECT content();
RELEASE b;
RELEASE a;
INSERT INTO s VALUES (6);
SELECT content();
COMMIT;
SELECT content();
TRUNCATE s;

-- every row in a subtransaction of its own, half of them rolled back
DO $$
BEGIN
  FOR i IN 1..20 LOOP
    BEGIN
      INSERT INTO s VALUES (i);
      IF i % 2 = 0 THEN RAISE EXCEPTION 'no'; END IF;
    EXCEPTION WHEN raise_exception THEN NULL;
    END;
  END LOOP;
END $$;
SELECT content();
TRUNCATE s;

-- TRUNCATE in a subtransaction
BEGIN;
INSERT INTO s VALUES (1);
SAVEPOINT a;
TRUNCATE s;
INSERT INTO s VALUES (2);
SELECT content();
ROLLBACK TO a;
SELECT content();
COMMIT;
SELECT content();
BEGIN;
INSERT INTO s VALUES (3);
SAVEPOINT a;
TRUNCATE s;
INSERT INTO s VALUES (4);
RELEASE a;
COMMIT;
SELECT content();
TRUNCATE s;

-- a stream that goes away with its rows
BEGIN;
CREATE TABLE gone (a int) USING stream;
INSERT INTO gone VALUES (1);
DROP TABLE gone;
COMMIT;
BEGIN;
INSERT INTO s VALUES (1);
SAVEPOINT a;
DROP TABLE s CASCADE;
ROLLBACK TO a;
COMMIT;
SELECT content();
TRUNCATE s;

-- prepared transactions
BEGIN;
INSERT INTO s VALUES (1), (2);
SAVEPOINT a;
INSERT INTO s VALUES (3);
PREPARE TRANSACTION 'penstock_stream_1';
SELECT content();
COMMIT PREPARED 'penstock_stream_1';
SELECT content();
BEGIN;
INSERT INTO s VALUES (4);
PREPARE TRANSACTION 'penstock_stream_2';
ROLLBACK PREPARED 'penstock_stream_2';
SELECT content();
TRUNCATE s;

-- a statement does not see its own rows
INSERT INTO s VALUES (1), (2);
INSERT INTO s SELECT a + 10 FROM s;
SELECT content();
BEGIN;
INSERT INTO s SELECT a + 100 FROM s;
INSERT INTO s SELECT a + 1000 FROM s WHERE a > 100;
SELECT count(*), max(a) FROM s;
ROLLBACK;
TRUNCATE s;

-- a cursor sees what was there when it was opened
BEGIN;
INSERT INTO s SELECT generate_series(1, 3);
DECLARE c CURSOR FOR SELECT a FROM s ORDER BY a;
INSERT INTO s VALUES (4);
FETCH 1 FROM c;
INSERT INTO s VALUES (5);
DECLARE d SCROLL CURSOR FOR SELECT a FROM s;
INSERT INTO s VALUES (6);
FETCH ALL FROM c;
FETCH ALL FROM d;
FETCH BACKWARD 2 FROM d;
FETCH FIRST FROM d;
FETCH LAST FROM d;
COMMIT;
SELECT content();
BEGIN;
DECLARE h CURSOR WITH HOLD FOR SELECT a FROM s;
INSERT INTO s VALUES (7);
COMMIT;
FETCH ALL FROM h;
CLOSE h;
TRUNCATE s;

-- functions: a stable one sees what its caller's statement sees, a volatile one what is there now
CREATE FUNCTION stable_count() RETURNS bigint STABLE LANGUAGE plpgsql
  AS $$BEGIN RETURN (SELECT count(*) FROM s); END$$;
CREATE FUNCTION volatile_count() RETURNS bigint VOLATILE LANGUAGE plpgsql
  AS $$BEGIN RETURN (SELECT count(*) FROM s); END$$;
CREATE FUNCTION put(int) RETURNS int VOLATILE LANGUAGE plpgsql
  AS $$BEGIN INSERT INTO s VALUES ($1); RETURN $1; END$$;
BEGIN;
INSERT INTO s VALUES (0);
SELECT put(i), stable_count(), volatile_count() FROM generate_series(1, 3) i;
INSERT INTO s SELECT stable_count() FROM generate_series(1, 3);
SELECT content();
INSERT INTO s SELECT put(i + 10) FROM generate_series(1, 3) i;
SELECT content();
COMMIT;
SELECT content();
TRUNCATE s;

-- a buffer that runs full with rows of two commands keeps them apart for the one that still runs
BEGIN;
INSERT INTO s SELECT generate_series(1, 10);
INSERT INTO s SELECT CASE WHEN i > 70000 AND i % 10000 = 0 THEN -stable_count() ELSE i END
  FROM generate_series(1, 100000) i;
SELECT count(*), min(a), count(*) FILTER (WHERE a < 0) FROM s;
ROLLBACK;

-- row by row in one transaction: few chunks, not one a row
DO $$
BEGIN
  FOR i IN 1..40000 LOOP
    INSERT INTO s VALUES (i);
  END LOOP;
END $$;
SELECT count(*), sum(a) FROM s;
SELECT count(*) < 5 AS few FROM penstock.stream_chunks('s');
TRUNCATE s;

-- SERIALIZABLE: a write that another has read past
BEGIN ISOLATION LEVEL SERIALIZABLE;
SELECT count(*) FROM s;
INSERT INTO s VALUES (1);
SELECT count(*) FROM s;
COMMIT;
SELECT count(*) FROM s;

-- columns that come while rows are held back
BEGIN;
INSERT INTO s VALUES (2);
ALTER TABLE s ADD COLUMN b int DEFAULT 5;
INSERT INTO s VALUES (3, 6);
SAVEPOINT x;
ALTER TABLE s ADD COLUMN c text DEFAULT 'c';
INSERT INTO s VALUES (4, 7, 'd');
ROLLBACK TO x;
INSERT INTO s VALUES (5, 8);
COMMIT;
SELECT * FROM s ORDER BY a;

SET client_min_messages = warning;
DROP SCHEMA stream_transactions CASCADE;
