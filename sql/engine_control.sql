-- pause, resume, catch_up: what they do and whom they obey
CREATE SCHEMA engine_control;
SET search_path = engine_control;
CREATE ROLE regress_penstock_owner;
CREATE ROLE regress_penstock_other;
GRANT USAGE, CREATE ON SCHEMA engine_control TO regress_penstock_owner, regress_penstock_other;

SET ROLE regress_penstock_owner;
CREATE TABLE s (k int, v int) USING stream;
CREATE MATERIALIZED VIEW a USING continuous AS SELECT count(*) AS n FROM s;
CREATE MATERIALIZED VIEW b USING continuous AS SELECT k, 10 / v AS x FROM s;
INSERT INTO s VALUES (1, 1), (2, 2);
SELECT penstock.catch_up();
TABLE a;
TABLE b ORDER BY k;

-- a paused view stands still
SELECT penstock.pause('a');
SELECT view, status FROM penstock.stat_view WHERE view IN ('a'::regclass, 'b'::regclass) ORDER BY view::text;
INSERT INTO s VALUES (3, 3);
SELECT penstock.catch_up();
TABLE a;
SELECT count(*) FROM b;
SELECT penstock.catch_up('a');
SELECT penstock.resume('a');
SELECT penstock.catch_up('a');
TABLE a;

-- a failed one as well
INSERT INTO s VALUES (4, 0);
SELECT penstock.catch_up();
SELECT penstock.catch_up('a');
SELECT penstock.catch_up('b');
SELECT view, status, last_error FROM penstock.stat_view WHERE view IN ('a'::regclass, 'b'::regclass) ORDER BY view::text;
SELECT penstock.pause('b');		-- stays failed
SELECT status FROM penstock.stat_view WHERE view = 'b'::regclass;
DROP MATERIALIZED VIEW b;

-- what is done in a transaction counts from its commit on
BEGIN;
SELECT penstock.pause('a');
ROLLBACK;
INSERT INTO s VALUES (5, 5);
SELECT penstock.catch_up('a');
TABLE a;
BEGIN;
SELECT penstock.pause('a');
SELECT penstock.resume('a');
COMMIT;
INSERT INTO s VALUES (6, 6);
SELECT penstock.catch_up('a');
TABLE a;
BEGIN;
CREATE MATERIALIZED VIEW c USING continuous AS SELECT k FROM s;
SELECT penstock.catch_up('c');
ROLLBACK;
CREATE MATERIALIZED VIEW c USING continuous AS SELECT k FROM s WITH NO DATA;
SELECT penstock.catch_up('c');
DROP MATERIALIZED VIEW c;

-- wrong arguments
SELECT penstock.catch_up('s');
SELECT penstock.pause('s');
SELECT penstock.resume('pg_class');
SELECT penstock.catch_up('a', '0');
SELECT penstock.catch_up('a', '-1 second');
SELECT penstock.catch_up('a', '1 year');
SELECT penstock.catch_up(timeout => '1 minute');

-- who may
RESET ROLE;
SET ROLE regress_penstock_other;
SELECT penstock.pause('engine_control.a');
SELECT penstock.resume('engine_control.a');
SELECT penstock.pause();
SELECT penstock.resume();
SELECT penstock.stat_reset();
SELECT penstock.engine_start();
SELECT penstock.catch_up('engine_control.a');
RESET ROLE;
SELECT penstock.pause();
SELECT DISTINCT status FROM penstock.stat_view;
SELECT penstock.resume();
SELECT DISTINCT status FROM penstock.stat_view;
SELECT penstock.catch_up();

-- an error may quote events, and is shown to those only who may see it
CREATE TABLE secrets (v text) USING stream;
CREATE MATERIALIZED VIEW numbers USING continuous AS SELECT v::int FROM secrets;
INSERT INTO secrets VALUES ('secret');
SELECT penstock.catch_up();
SET ROLE regress_penstock_other;
SELECT status, last_error FROM penstock.stat_view WHERE view = 'engine_control.numbers'::regclass;
SELECT status FROM penstock.continuous_view WHERE view = 'engine_control.numbers'::regclass;
SELECT error FROM penstock.continuous_view;
SELECT penstock.catch_up();
SELECT penstock.catch_up('engine_control.numbers');
RESET ROLE;
ALTER MATERIALIZED VIEW numbers OWNER TO regress_penstock_other;
SET ROLE regress_penstock_other;
SELECT status, last_error FROM penstock.stat_view WHERE view = 'engine_control.numbers'::regclass;
SELECT penstock.catch_up('engine_control.numbers');
RESET ROLE;
DROP TABLE secrets CASCADE;

-- Penstock's own tables cannot be written
UPDATE penstock.position SET cursor = NULL;
DELETE FROM penstock.continuous_view;
REFRESH MATERIALIZED VIEW penstock.position;

-- statistics
SELECT state, pid IS NOT NULL AS has_pid, views > 0 AS has_views FROM penstock.stat_worker WHERE database = current_database();
SELECT stream, chunks > 0 AS has_chunks, rows, bytes > 0 AS has_bytes, lost_rows FROM penstock.stat_stream WHERE stream = 'engine_control.s'::regclass;
SELECT view, status, strategy, batches > 0 AS has_batches, events, errors, lag_seconds FROM penstock.stat_view WHERE view = 'engine_control.a'::regclass;
SELECT penstock.stat_reset();
SELECT batches, events FROM penstock.stat_view WHERE view = 'engine_control.a'::regclass;

SET client_min_messages = warning;
DROP SCHEMA engine_control CASCADE;
DROP ROLE regress_penstock_owner, regress_penstock_other;
