-- The engine: its control, and what it does.

CREATE FUNCTION penstock.engine_start() RETURNS void
  AS 'MODULE_PATHNAME', 'penstock_engine_start' LANGUAGE C VOLATILE STRICT;
COMMENT ON FUNCTION penstock.engine_start() IS 'starts the engine of this database at commit, if it does not run';
REVOKE ALL ON FUNCTION penstock.engine_start() FROM PUBLIC;
SELECT penstock.engine_start();

CREATE FUNCTION penstock.pause(view regclass DEFAULT NULL) RETURNS void
  AS 'MODULE_PATHNAME', 'penstock_pause' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION penstock.pause(regclass) IS 'stops a continuous view (all of the database) where it stands';

CREATE FUNCTION penstock.resume(view regclass DEFAULT NULL) RETURNS void
  AS 'MODULE_PATHNAME', 'penstock_resume' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION penstock.resume(regclass) IS 'lets a paused or failed continuous view (all of the database) go on from where it stands';

CREATE FUNCTION penstock.catch_up(view regclass DEFAULT NULL, timeout interval DEFAULT NULL) RETURNS void
  AS 'MODULE_PATHNAME', 'penstock_catch_up' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION penstock.catch_up(regclass, interval) IS 'waits until the continuous view (all running ones) shows everything committed before the call';

CREATE FUNCTION penstock.stat_worker_rows(
    OUT datid oid, OUT pid integer, OUT state text, OUT started_at timestamptz, OUT restarts bigint,
    OUT views integer, OUT batches bigint, OUT last_batch_ms double precision,
    OUT total_ms double precision, OUT last_batch_at timestamptz, OUT last_error text,
    OUT last_error_at timestamptz)
  RETURNS SETOF record
  AS 'MODULE_PATHNAME', 'penstock_stat_worker_rows' LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED;
COMMENT ON FUNCTION penstock.stat_worker_rows() IS 'what penstock.stat_worker shows';

CREATE VIEW penstock.stat_worker AS
  SELECT d.datname AS database, w.pid, w.state, w.started_at, w.restarts, w.views, w.batches,
         w.last_batch_ms, w.total_ms, w.last_batch_at, w.last_error, w.last_error_at
  FROM penstock.stat_worker_rows() w JOIN pg_catalog.pg_database d ON d.oid = w.datid;
COMMENT ON VIEW penstock.stat_worker IS 'one row for each database whose engine runs or shall run';

CREATE FUNCTION penstock.stat_view_rows(
    OUT view oid, OUT batches bigint, OUT events bigint, OUT rows_changed bigint, OUT errors bigint,
    OUT skipped bigint, OUT last_batch_ms double precision, OUT total_ms double precision,
    OUT last_batch_at timestamptz, OUT lag_events bigint, OUT behind boolean, OUT current_at timestamptz,
    OUT backlog_done bigint, OUT backlog_total bigint, OUT last_error text,
    OUT last_error_at timestamptz)
  RETURNS SETOF record
  AS 'MODULE_PATHNAME', 'penstock_stat_view_rows' LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED;
COMMENT ON FUNCTION penstock.stat_view_rows() IS 'counters that penstock.stat_view shows';

CREATE VIEW penstock.stat_view AS
  SELECT v.view,
         CASE v.status WHEN 'a' THEN 'active' WHEN 'p' THEN 'paused' WHEN 'f' THEN 'failed' END AS status,
         CASE v.strategy WHEN 'a' THEN 'append' WHEN 'g' THEN 'group' END AS strategy,
         coalesce(s.batches, 0) AS batches, coalesce(s.events, 0) AS events,
         coalesce(s.rows_changed, 0) AS rows_changed, coalesce(s.errors, 0) AS errors,
         coalesce(s.skipped, 0) AS skipped, s.last_batch_ms, coalesce(s.total_ms, 0) AS total_ms,
         s.last_batch_at, s.current_at, s.lag_events,
         CASE WHEN v.status = 'a' AND NOT s.behind THEN 0
              ELSE extract(epoch FROM pg_catalog.clock_timestamp() - s.current_at)::double precision END AS lag_seconds,
         s.backlog_done, s.backlog_total,
         coalesce(CASE WHEN pg_catalog.pg_has_role('pg_read_all_stats', 'USAGE') OR
                            pg_catalog.pg_has_role((SELECT c.relowner FROM pg_catalog.pg_class c WHERE c.oid = v.view::oid), 'USAGE') OR
                            pg_catalog.pg_has_role((SELECT d.datdba FROM pg_catalog.pg_database d
                                                    WHERE d.datname = pg_catalog.current_database()), 'USAGE')
                       THEN v.error END, s.last_error) AS last_error, s.last_error_at, p.seen AS position
  FROM penstock.continuous_view v
       LEFT JOIN penstock.stat_view_rows() s ON s.view = v.view::oid
       LEFT JOIN penstock.position p ON p.consumer = v.view::oid;
COMMENT ON VIEW penstock.stat_view IS 'one row for each continuous view of this database: how it stands and what it took; counts since the server started or penstock.stat_reset()';

CREATE FUNCTION penstock.stat_stream_row(stream regclass,
    OUT chunks bigint, OUT rows bigint, OUT first_written_at timestamptz,
    OUT last_written_at timestamptz, OUT merges bigint, OUT merged_chunks bigint,
    OUT retained_chunks bigint, OUT retained_rows bigint, OUT lost_rows bigint,
    OUT last_error text, OUT last_error_at timestamptz)
  RETURNS record
  AS 'MODULE_PATHNAME', 'penstock_stat_stream_row' LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED;
COMMENT ON FUNCTION penstock.stat_stream_row(regclass) IS 'what penstock.stat_stream shows of a stream';

CREATE VIEW penstock.stat_stream AS
  SELECT c.oid::pg_catalog.regclass AS stream, s.chunks, s.rows, s.first_written_at, s.last_written_at,
         pg_catalog.pg_total_relation_size(c.oid) AS bytes, s.merges, s.merged_chunks,
         s.retained_chunks, s.retained_rows, s.lost_rows, s.last_error, s.last_error_at
  FROM pg_catalog.pg_class c JOIN pg_catalog.pg_am a ON a.oid = c.relam AND a.amname = 'stream',
       LATERAL penstock.stat_stream_row(c.oid::pg_catalog.regclass) s
  WHERE c.relkind = 'r';
COMMENT ON VIEW penstock.stat_stream IS 'one row for each stream of this database: what it holds (read from its directory) and what upkeep did since the server started or penstock.stat_reset(): chunks merged, chunks and rows past their retention, rows lost to consumers';

CREATE FUNCTION penstock.stat_reset() RETURNS void
  AS 'MODULE_PATHNAME', 'penstock_stat_reset' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION penstock.stat_reset() IS 'sets this database''s counters in stat_worker, stat_view, stat_stream and stat_producer to zero';
REVOKE ALL ON FUNCTION penstock.stat_reset() FROM PUBLIC;

GRANT SELECT ON penstock.stat_worker, penstock.stat_view, penstock.stat_stream TO PUBLIC;
