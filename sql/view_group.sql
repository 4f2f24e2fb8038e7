-- Grouped continuous views against their own queries.
CREATE TABLE v_events (ts timestamptz, user_id int, url text, latency float8, amount numeric, ok boolean)
  USING stream;
CREATE TABLE v_users (id int PRIMARY KEY, name text, grp int);
INSERT INTO v_users SELECT i, 'user ' || i, i % 3 FROM generate_series(0, 20) i;

CREATE MATERIALIZED VIEW v_minute USING continuous AS
  SELECT date_bin('1 minute', ts, '2000-01-01') AS minute, url, count(*), avg(latency), sum(amount)
  FROM v_events GROUP BY 1, 2;
CREATE MATERIALIZED VIEW v_total USING continuous AS
  SELECT count(*), count(latency) AS n, sum(user_id), min(ts), max(latency), avg(amount) FROM v_events;
CREATE MATERIALIZED VIEW v_having USING continuous AS
  SELECT user_id % 5 AS k, count(*) * 2 AS twice, count(*) FILTER (WHERE ok) AS oks,
         bool_or(ok) AS any_ok, stddev_samp(user_id) AS dev
  FROM v_events WHERE url IS NOT NULL GROUP BY user_id % 5
  HAVING count(*) BETWEEN 3 AND 60;
CREATE MATERIALIZED VIEW v_hidden_key USING continuous AS
  SELECT count(*), max(length(url)) FROM v_events GROUP BY user_id;
CREATE MATERIALIZED VIEW v_lookup USING continuous AS
  SELECT u.grp, u.name || '!' AS name, sum(e.amount) AS amount
  FROM v_events e LEFT JOIN v_users u ON u.id = e.user_id GROUP BY u.grp, u.name;
CREATE MATERIALIZED VIEW v_dependent USING continuous AS
  SELECT u.id, u.name, count(*) FROM v_events e JOIN v_users u ON u.id = e.user_id GROUP BY u.id;
CREATE MATERIALIZED VIEW v_bool USING continuous AS
  SELECT ok, bool_and(ok), bit_or(user_id), every(user_id >= 0) FROM v_events GROUP BY ok;
CREATE MATERIALIZED VIEW v_only_keys USING continuous AS
  SELECT url, ok FROM v_events GROUP BY url, ok;

CREATE FUNCTION v_check() RETURNS TABLE (view text, wrong bigint) LANGUAGE sql AS $$
  SELECT v, differences(v) FROM unnest(ARRAY['v_minute', 'v_total', 'v_having', 'v_hidden_key',
    'v_lookup', 'v_dependent', 'v_bool', 'v_only_keys']) v
$$;

-- before any event: a view without keys has its one row
SELECT * FROM v_check() WHERE wrong > 0;
SELECT count, n, sum, min FROM v_total;

INSERT INTO v_events SELECT '2026-01-01'::timestamptz + i * interval '7 seconds', i % 23,
  CASE WHEN i % 11 = 0 THEN NULL ELSE 'page ' || i % 5 END, (i % 40) / 4.0, i / 100.0, i % 3 = 0
  FROM generate_series(1, 200) i;
SELECT penstock.catch_up();
SELECT * FROM v_check() WHERE wrong > 0;
SELECT count(*) > 0 AS some FROM v_having;

-- NULLs everywhere, groups that HAVING hides later, groups that appear
INSERT INTO v_events VALUES (NULL, NULL, NULL, NULL, NULL, NULL);
INSERT INTO v_events SELECT '2026-01-01', 1, 'page 1', NULL, 1, NULL FROM generate_series(1, 100);
INSERT INTO v_events SELECT '2026-01-02'::timestamptz + i * interval '1 second', NULL, 'new', 'infinity', 'NaN', true
  FROM generate_series(1, 10) i;
SELECT penstock.catch_up();
SELECT * FROM v_check() WHERE wrong > 0;

-- rolled back and partly rolled back events are not there
BEGIN;
INSERT INTO v_events SELECT now(), 1, 'gone', 1, 1, true FROM generate_series(1, 50);
ROLLBACK;
BEGIN;
INSERT INTO v_events VALUES ('2026-01-03', 1, 'stays', 1, 1, true);
SAVEPOINT a;
INSERT INTO v_events VALUES ('2026-01-03', 1, 'gone', 1, 1, true);
ROLLBACK TO a;
INSERT INTO v_events VALUES ('2026-01-03', 1, 'stays', 2, 1, true);
COMMIT;
SELECT penstock.catch_up();
SELECT * FROM v_check() WHERE wrong > 0;
SELECT url, count FROM v_minute WHERE url IN ('gone', 'stays');

-- a view made later starts from all there is
CREATE MATERIALIZED VIEW v_late USING continuous AS
  SELECT url, count(*), sum(latency) FROM v_events GROUP BY url;
SELECT differences('v_late');
INSERT INTO v_events SELECT '2026-01-04', i, 'page 1', 0.5, 1, true FROM generate_series(1, 5) i;
SELECT penstock.catch_up();
SELECT differences('v_late');

-- or from now
CREATE MATERIALIZED VIEW v_from_now USING continuous WITH (penstock.backfill = off) AS
  SELECT url, count(*) FROM v_events GROUP BY url;
SELECT * FROM v_from_now;
INSERT INTO v_events VALUES ('2026-01-05', 1, 'page 1', 0.5, 1, true);
SELECT penstock.catch_up();
SELECT * FROM v_from_now;
SELECT penstock.rebuild('v_from_now');
SELECT penstock.rebuild('v_from_now', force => true);
SELECT differences('v_from_now');

-- events of the transaction that makes the view are counted once
BEGIN;
INSERT INTO v_events VALUES ('2026-01-06', 1, 'own', 0.5, 1, true);
CREATE MATERIALIZED VIEW v_own USING continuous AS SELECT url, count(*) FROM v_events GROUP BY url;
INSERT INTO v_events VALUES ('2026-01-06', 1, 'own', 0.5, 1, true);
COMMIT;
SELECT penstock.catch_up();
SELECT count FROM v_own WHERE url = 'own';
SELECT differences('v_own');

-- WITH NO DATA, then REFRESH
CREATE MATERIALIZED VIEW v_nodata USING continuous AS SELECT ok, count(*) FROM v_events GROUP BY ok WITH NO DATA;
SELECT * FROM v_nodata;
REFRESH MATERIALIZED VIEW v_nodata;
SELECT differences('v_nodata');
INSERT INTO v_events VALUES ('2026-01-07', 1, 'x', 0.5, 1, true);
REFRESH MATERIALIZED VIEW v_nodata;
SELECT differences('v_nodata');

-- rows moved by VACUUM FULL and CLUSTER
VACUUM FULL v_minute;
INSERT INTO v_events SELECT '2026-01-01'::timestamptz + i * interval '30 seconds', i, 'page ' || i % 5, 1, 1, true
  FROM generate_series(1, 50) i;
SELECT penstock.catch_up();
SELECT * FROM v_check() WHERE wrong > 0;
SELECT penstock.rebuild('v_minute');
SELECT differences('v_minute');

-- indexes of the user's own
CREATE INDEX ON v_minute (count);
CREATE INDEX ON v_minute ((avg * 2)) WHERE count > 3;
INSERT INTO v_events SELECT '2026-01-01'::timestamptz + i * interval '30 seconds', i, 'page ' || i % 5, 1, 1, true
  FROM generate_series(1, 50) i;
SELECT penstock.catch_up();
SET enable_seqscan = off;
SELECT differences('v_minute');
RESET enable_seqscan;

-- a key longer than an index can hold
CREATE MATERIALIZED VIEW v_long USING continuous AS
  SELECT substr(url, 1, 1) AS first, count(*) FROM v_events GROUP BY url || repeat('x', 1), substr(url, 1, 1);
INSERT INTO v_events SELECT '2026-01-08', 1, string_agg(md5(i::text), ''), 1, 1, true FROM generate_series(1, 300) i;
SELECT penstock.catch_up('v_long');
SELECT differences('v_long');

SELECT regexp_replace(explain, 'state_[0-9]+', 'state_N') AS explain FROM penstock.explain('v_minute') WHERE explain !~ 'Key:|Columns:';
DROP TABLE v_users CASCADE;
DROP TABLE v_events CASCADE;
SELECT count(*) FROM penstock.continuous_view;
SELECT count(*) FROM penstock.position;
SELECT count(*) FROM pg_class WHERE relname LIKE 'state\_%';
