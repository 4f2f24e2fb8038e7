-- Streams: options.
CREATE SCHEMA stream_options;
SET search_path = stream_options;
CREATE FUNCTION options(regclass) RETURNS text[] LANGUAGE sql
  AS $$SELECT array_agg(o ORDER BY o) FROM pg_class, unnest(reloptions) o WHERE oid = $1$$;

CREATE TABLE s (id int, ts timestamptz, local timestamp, d date) USING stream
  WITH (penstock.event_time = ts, penstock.retention = '7 days', autovacuum_enabled = true);
SELECT options('s');
-- as pg_dump writes them
CREATE TABLE dumped (ts timestamptz) USING stream
  WITH ("penstock.event_time"='ts', "penstock.retention"='1 day');
SELECT options('dumped');
CREATE TABLE IF NOT EXISTS dumped (ts timestamptz) USING stream WITH (penstock.retention = '2 days');
SELECT options('dumped');
CREATE TABLE queried USING stream WITH (penstock.watermark_delay = '5 seconds') AS SELECT 1 AS a;
SELECT options('queried');
CREATE TEMP TABLE passing (ts timestamptz) USING stream WITH (penstock.event_time = 'ts');
SELECT options('pg_temp.passing');
CREATE SCHEMA stream_options_sub
  CREATE TABLE inner_one (ts timestamptz) USING stream WITH (penstock.event_time = 'ts');
SELECT options('stream_options_sub.inner_one');
SET default_table_access_method = stream;
CREATE TABLE by_default (ts date) WITH (penstock.event_time = 'ts');
RESET default_table_access_method;
SELECT options('by_default');

-- changing them, beside the server's own
ALTER TABLE s SET (penstock.retention = '30 days', penstock.retention_force = on);
ALTER TABLE s SET (fillfactor = 70, penstock.event_time = 'local');
SELECT options('s');
ALTER TABLE s RESET (penstock.retention_force, fillfactor);
ALTER TABLE s SET (autovacuum_enabled = false);
SELECT options('s');
ALTER TABLE s RESET (penstock.retention_force);
ALTER TABLE s ADD COLUMN x int, SET (penstock.event_time = 'd');
SELECT options('s');
BEGIN;
ALTER TABLE s RESET (penstock.event_time, penstock.retention);
SELECT options('s');
ROLLBACK;
SELECT options('s');
ALTER TABLE IF EXISTS missing SET (penstock.retention = '1 day');
VACUUM FULL s;
SELECT options('s');

-- the event time's column is renamed, dropped
ALTER TABLE s RENAME d TO day;
SELECT options('s');
ALTER TABLE s RENAME id TO number;
ALTER TABLE s RENAME TO t;
ALTER TABLE t RENAME TO s;
SELECT options('s');
ALTER TABLE s DROP COLUMN day;
ALTER TABLE s RESET (penstock.event_time);
ALTER TABLE s DROP COLUMN day;
SELECT options('s');
CREATE TABLE parent (ts timestamptz) PARTITION BY RANGE (ts);
CREATE TABLE child PARTITION OF parent FOR VALUES FROM ('2026-01-01') TO ('2027-01-01')
  USING stream WITH (penstock.event_time = 'ts');
ALTER TABLE parent RENAME ts TO at;
SELECT options('child');
DROP TABLE dumped;

-- what is not accepted
ALTER TABLE s SET (penstock.retain = '1 day');
ALTER TABLE s RESET (penstock.retain);
ALTER TABLE s SET (other.retain = '1 day');
CREATE TABLE bad (a int) USING stream WITH (penstock.nothing = 1);
CREATE TABLE bad (a int) USING stream WITH (penstock.event_time = a);
CREATE TABLE bad (a int) USING stream WITH (penstock.event_time = b);
CREATE TABLE bad (a int) USING stream WITH (penstock.event_time = ctid);
CREATE TABLE bad (a int) USING stream WITH (penstock.event_time);
CREATE TABLE bad (a int) WITH (penstock.retention = '1 day');
CREATE TABLE bad (a int) PARTITION BY LIST (a) WITH (penstock.retention = '1 day');
ALTER TABLE s SET (penstock.retention = 'soon');
ALTER TABLE s SET (penstock.retention = '-1 day');
ALTER TABLE s SET (penstock.retention = '0');
ALTER TABLE s SET (penstock.retention = '400000 years');
ALTER TABLE s SET (penstock.retention_force = maybe);
ALTER TABLE s SET (penstock.watermark_delay = '-1 second');
SELECT options('s');
CREATE ROLE stream_other;
GRANT USAGE ON SCHEMA stream_options TO stream_other;
SET ROLE stream_other;
ALTER TABLE s SET (penstock.retention = '1 day');
RESET ROLE;
DROP OWNED BY stream_other;
DROP ROLE stream_other;

-- leaving and becoming a stream
ALTER TABLE s SET ACCESS METHOD heap;
SELECT options('s');
ALTER TABLE s SET (penstock.retention = '1 day');
ALTER TABLE s SET ACCESS METHOD stream;
ALTER TABLE s SET (penstock.retention = '1 day');
SELECT options('s');

SET client_min_messages = warning;
DROP SCHEMA stream_options, stream_options_sub CASCADE;
