-- Pipes: statements that run for ever, batch by batch.

CREATE PROCEDURE penstock.create_pipe(name text, statements text, source regclass DEFAULT NULL,
    on_error text DEFAULT 'dead_letter', batch_rows integer DEFAULT 10000, batch_bytes bigint DEFAULT 16777216,
    batch_time interval DEFAULT '10 ms', dedup_window interval DEFAULT NULL, backfill boolean DEFAULT false,
    active boolean DEFAULT true, dedup_key text DEFAULT NULL)
  AS 'MODULE_PATHNAME', 'penstock_create_pipe' LANGUAGE C;
COMMENT ON PROCEDURE penstock.create_pipe(text, text, regclass, text, integer, bigint, interval, interval, boolean, boolean, text) IS
  'makes a pipe: runs the statements over each batch of events of one queue or stream, as the user who makes it; each event exactly once';

CREATE PROCEDURE penstock.alter_pipe(name text, statements text DEFAULT NULL, on_error text DEFAULT NULL,
    batch_rows integer DEFAULT NULL, batch_bytes bigint DEFAULT NULL, batch_time interval DEFAULT NULL,
    dedup_window interval DEFAULT NULL, rename_to text DEFAULT NULL, dedup_key text DEFAULT NULL)
  AS 'MODULE_PATHNAME', 'penstock_alter_pipe' LANGUAGE C;
COMMENT ON PROCEDURE penstock.alter_pipe(text, text, text, integer, bigint, interval, interval, text, text) IS
  'changes what is not null of a pipe; it goes on from its position';

CREATE PROCEDURE penstock.drop_pipe(name text, if_exists boolean DEFAULT false)
  AS 'MODULE_PATHNAME', 'penstock_drop_pipe' LANGUAGE C;
COMMENT ON PROCEDURE penstock.drop_pipe(text, boolean) IS
  'drops a pipe with its position; its dead letters stay';

CREATE FUNCTION penstock.pause(name text) RETURNS void
  AS 'MODULE_PATHNAME', 'penstock_pause_named' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION penstock.pause(text) IS 'stops a pipe, or a continuous view, where it stands';

CREATE FUNCTION penstock.resume(name text) RETURNS void
  AS 'MODULE_PATHNAME', 'penstock_resume_named' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION penstock.resume(text) IS 'lets a paused or failed pipe, or continuous view, go on from where it stands';

CREATE FUNCTION penstock.catch_up(name text, timeout interval DEFAULT NULL) RETURNS void
  AS 'MODULE_PATHNAME', 'penstock_catch_up_named' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION penstock.catch_up(text, interval) IS
  'waits until a pipe has worked on everything that was in its source before the call, or a continuous view shows it';

CREATE FUNCTION penstock.pipe_called(pipe oid) RETURNS void
  AS 'MODULE_PATHNAME', 'penstock_pipe_called' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION penstock.pipe_called(oid) IS 'lets a pipe look for dead letters to be sent again, when this transaction commits';

CREATE FUNCTION penstock.redrive(pipe text, ids bigint[] DEFAULT NULL) RETURNS bigint LANGUAGE sql VOLATILE
  SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
  WITH marked AS (
    UPDATE penstock.dead_letter d SET redrive = true
     WHERE d.pipe_name = redrive.pipe AND (redrive.ids IS NULL OR d.id = ANY (redrive.ids)) AND NOT d.redrive
     RETURNING d.pipe),
  called AS MATERIALIZED (SELECT penstock.pipe_called(p.pipe) FROM (SELECT DISTINCT m.pipe FROM marked m) p)
  SELECT count(*) FROM marked WHERE (SELECT count(*) FROM called) >= 0;
END;
COMMENT ON FUNCTION penstock.redrive(text, bigint[]) IS
  'sends dead letters of a pipe (all, or those with these ids) through it again; how many';

CREATE FUNCTION penstock.stat_pipe_rows(
    OUT pipe oid, OUT pid integer, OUT state text, OUT batches bigint, OUT events bigint,
    OUT dead_letters bigint, OUT skipped bigint, OUT retries bigint, OUT divided bigint, OUT lag bigint,
    OUT last_batch_ms double precision, OUT total_ms double precision, OUT last_batch_at timestamptz,
    OUT restarts bigint, OUT retry_at timestamptz, OUT last_error text, OUT last_error_at timestamptz)
  RETURNS SETOF record
  AS 'MODULE_PATHNAME', 'penstock_stat_pipe_rows' LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED;
COMMENT ON FUNCTION penstock.stat_pipe_rows() IS 'what penstock.stat_pipe shows of the pipes'' workers';

-- What pg_dump takes along: nothing is ever in this table.  What a dump finds in it the function gives, pipes first; its trigger makes pipes,
-- seen messages and dead letters of what a restore brings.  One table, because pg_restore keeps no order between several.
CREATE TABLE penstock.saved_pipe (kind "char" NOT NULL, pipe text NOT NULL, columns text[] NOT NULL);
COMMENT ON TABLE penstock.saved_pipe IS 'through it a dump brings pipes back, paused, with their positions and dead letters; always empty';
COMMENT ON COLUMN penstock.saved_pipe.kind IS 'p: a pipe, s: a message that it has seen, d: a dead letter';
CREATE FUNCTION penstock.save_pipes() RETURNS SETOF penstock.saved_pipe
  AS 'MODULE_PATHNAME', 'penstock_save_pipes' LANGUAGE C STABLE STRICT;
COMMENT ON FUNCTION penstock.save_pipes() IS
  'what pg_dump saves of this database''s pipes; events of streams that they have not taken yet are dead letters to be sent again';
CREATE FUNCTION penstock.restore_pipe() RETURNS trigger AS 'MODULE_PATHNAME', 'penstock_restore_pipe' LANGUAGE C;
COMMENT ON FUNCTION penstock.restore_pipe() IS 'makes a pipe, or what belongs to one, of a row of penstock.saved_pipe';
CREATE TRIGGER restore BEFORE INSERT ON penstock.saved_pipe FOR EACH ROW EXECUTE FUNCTION penstock.restore_pipe();
COMMENT ON TRIGGER restore ON penstock.saved_pipe IS 'makes a pipe, or what belongs to one, of each row instead';

-- whoever may dump the database may dump this
GRANT SELECT ON penstock.saved_pipe TO PUBLIC;
SELECT pg_catalog.pg_extension_config_dump('penstock.saved_pipe', 'WHERE true UNION ALL SELECT s.* FROM penstock.save_pipes() s');

CREATE FUNCTION penstock.pipe_text(pipe oid, OUT statements text, OUT error text) RETURNS record
  AS 'MODULE_PATHNAME', 'penstock_pipe_text' LANGUAGE C STABLE STRICT;
COMMENT ON FUNCTION penstock.pipe_text(oid) IS 'statements and error of a pipe, for its owner and members of pg_read_all_stats; others see NULL';

CREATE VIEW penstock.stat_pipe AS
  SELECT p.name AS pipe, p.owner, p.source,
         CASE WHEN p.status = 'p' THEN 'paused' WHEN p.status = 'f' THEN 'failed'
              ELSE coalesce(s.state, 'waiting for the engine') END AS state,
         s.pid, coalesce(s.batches, 0) AS batches, coalesce(s.events, 0) AS events,
         coalesce(s.dead_letters, 0) AS dead_letters, coalesce(s.skipped, 0) AS skipped,
         coalesce(s.retries, 0) AS retries, coalesce(s.divided, 0) AS divided, s.lag AS lag_events,
         s.last_batch_ms, coalesce(s.total_ms, 0) AS total_ms, s.last_batch_at,
         coalesce(s.restarts, 0) AS restarts, s.retry_at,
         coalesce(t.error, s.last_error) AS last_error, s.last_error_at, t.statements
  FROM penstock.pipe p
       LEFT JOIN penstock.stat_pipe_rows() s ON s.pipe = p.pipe
       CROSS JOIN LATERAL penstock.pipe_text(p.pipe) t;
COMMENT ON VIEW penstock.stat_pipe IS
  'one row for each pipe of this database: how it stands, what it took, and what its source says when it is away';
GRANT SELECT ON penstock.stat_pipe TO PUBLIC;
