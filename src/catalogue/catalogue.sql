-- Penstock's own tables.  They are materialized views over nothing, written by the library alone.

CREATE MATERIALIZED VIEW penstock.continuous_view AS
  SELECT NULL::pg_catalog.regclass AS view, NULL::pg_catalog.oid AS state, NULL::"char" AS strategy,
         NULL::"char" AS status, NULL::pg_catalog.oid AS filenode, NULL::boolean AS complete,
         NULL::pg_catalog.text AS error, NULL::pg_catalog.text AS settings
  WHERE false;
CREATE UNIQUE INDEX continuous_view_view ON penstock.continuous_view (view);
COMMENT ON MATERIALIZED VIEW penstock.continuous_view IS
  'continuous views of this database: strategy a (append) or g (group), status a (active), p (paused) or f (failed, with the error)';

CREATE MATERIALIZED VIEW penstock.position AS
  SELECT NULL::pg_catalog.oid AS consumer, NULL::pg_catalog.pg_snapshot AS seen,
         NULL::pg_catalog.pg_snapshot AS upto, NULL::pg_catalog.oid AS cursor_stream,
         NULL::pg_catalog.tid AS cursor
  WHERE false;
CREATE UNIQUE INDEX position_consumer ON penstock.position (consumer);
COMMENT ON MATERIALIZED VIEW penstock.position IS
  'how far each consumer has come: it has seen what snapshot "seen" sees and, while a long backlog is worked off, of what "upto" sees beyond that the chunks up to the cursor';

CREATE MATERIALIZED VIEW penstock.pipe AS
  SELECT NULL::pg_catalog.oid AS pipe, NULL::pg_catalog.text AS name, NULL::pg_catalog.regrole AS owner,
         NULL::pg_catalog.regclass AS source, NULL::pg_catalog.text AS statements, NULL::"char" AS status,
         NULL::pg_catalog.text AS error, NULL::"char" AS on_error, NULL::integer AS batch_rows,
         NULL::bigint AS batch_bytes, NULL::integer AS batch_time, NULL::bigint AS dedup_window,
         NULL::pg_catalog.text AS dedup_key, NULL::pg_catalog.text AS settings
  WHERE false;
CREATE UNIQUE INDEX pipe_pipe ON penstock.pipe (pipe);
COMMENT ON MATERIALIZED VIEW penstock.pipe IS
  'pipes of this database: status a (active), p (paused) or f (failed, with the error); on_error d (dead letter), s (stop) or k (skip); batch_time and dedup_window in ms; dedup_key: the column by which messages are recognised, null: by their id';

CREATE MATERIALIZED VIEW penstock.source_position AS
  SELECT NULL::pg_catalog.oid AS pipe, NULL::pg_catalog.text AS partition, NULL::bigint AS "offset", NULL::bigint AS row
  WHERE false;
CREATE INDEX source_position_pipe ON penstock.source_position (pipe);
COMMENT ON MATERIALIZED VIEW penstock.source_position IS
  'how far each pipe has read its queue: the offset (or LSN) at which each partition is read on, and rows to be left out there';

CREATE MATERIALIZED VIEW penstock.seen_message AS
  SELECT NULL::pg_catalog.oid AS pipe, NULL::bigint AS hash, NULL::bytea AS id, NULL::timestamptz AS seen_at
  WHERE false;
CREATE INDEX seen_message_id ON penstock.seen_message (pipe, hash);
CREATE INDEX seen_message_at ON penstock.seen_message (pipe, seen_at);
COMMENT ON MATERIALIZED VIEW penstock.seen_message IS
  'message ids, or values of the dedup_key, that pipes with a dedup_window have seen within it';

-- room in each page, so that a batch's update is a short one; names by byte
CREATE MATERIALIZED VIEW penstock.producer WITH (fillfactor = 25) AS
  SELECT NULL::pg_catalog.regclass AS stream, NULL::pg_catalog.text COLLATE pg_catalog."C" AS producer,
         NULL::pg_catalog.regrole AS owner, NULL::bigint AS epoch, NULL::bigint AS sequence,
         NULL::timestamptz AS epoch_at, NULL::timestamptz AS last_batch_at
  WHERE false;
CREATE UNIQUE INDEX producer_stream ON penstock.producer (stream, producer);
COMMENT ON MATERIALIZED VIEW penstock.producer IS
  'producers of this database: the newest epoch of each, when it began, and the sequence of the last batch accepted';

-- an error may quote events: penstock.stat_view shows it to those who may see it
GRANT SELECT (view, state, strategy, status, filenode, complete, settings) ON penstock.continuous_view TO PUBLIC;
GRANT SELECT ON penstock.position, penstock.source_position, penstock.producer TO PUBLIC;
GRANT SELECT (pipe, name, owner, source, status, on_error, batch_rows, batch_bytes, batch_time, dedup_window, dedup_key) ON penstock.pipe TO PUBLIC;

-- An ordinary table: whoever reads a dead letter may also delete it.
CREATE TABLE penstock.dead_letter (
  id bigint NOT NULL,
  pipe oid NOT NULL,
  pipe_name text NOT NULL,
  owner regrole NOT NULL,
  source oid NOT NULL,
  partition text,
  "offset" bigint,
  message_id bytea,
  key bytea,
  payload bytea,
  headers jsonb,
  properties jsonb,
  event_timestamp timestamptz,
  statement integer,
  column_name text,
  sqlstate text NOT NULL,
  message text NOT NULL,
  detail text,
  failed_at timestamptz NOT NULL,
  redrive boolean NOT NULL
);
CREATE UNIQUE INDEX dead_letter_id ON penstock.dead_letter (id);
CREATE INDEX dead_letter_pipe ON penstock.dead_letter (pipe, redrive);
CREATE SEQUENCE penstock.dead_letter_id_seq OWNED BY penstock.dead_letter.id;
COMMENT ON TABLE penstock.dead_letter IS
  'events that a pipe could not work on, with the reason; visible to the pipe''s owner; penstock.redrive() sends them again, DELETE drops them';
COMMENT ON COLUMN penstock.dead_letter.payload IS 'the message as it came; of a stream''s event, its row as JSON';
COMMENT ON COLUMN penstock.dead_letter.properties IS 'metadata that the connector gave';
COMMENT ON COLUMN penstock.dead_letter.event_timestamp IS 'the message''s own timestamp';
COMMENT ON COLUMN penstock.dead_letter.statement IS 'number of the statement that failed, from 1; 0: the message could not be decoded';
COMMENT ON COLUMN penstock.dead_letter.column_name IS 'the column that the value did not fit';
COMMENT ON COLUMN penstock.dead_letter.redrive IS 'to be sent again';
ALTER TABLE penstock.dead_letter ENABLE ROW LEVEL SECURITY;
CREATE POLICY owner ON penstock.dead_letter USING (pg_catalog.pg_has_role(owner::oid, 'MEMBER'));
GRANT SELECT, DELETE, UPDATE (redrive) ON penstock.dead_letter TO PUBLIC;

-- A publication FOR ALL TABLES has the ordinary tables among ours: their rows stay where they mean something, and have an identity, so that they can be
-- changed where they are published.
CREATE FUNCTION penstock.not_replicated() RETURNS trigger
  AS 'MODULE_PATHNAME', 'penstock_not_replicated' LANGUAGE C;
COMMENT ON FUNCTION penstock.not_replicated() IS 'leaves out what logical replication brings';
CREATE TRIGGER not_replicated BEFORE INSERT OR UPDATE OR DELETE ON penstock.dead_letter
  FOR EACH ROW EXECUTE FUNCTION penstock.not_replicated();
ALTER TABLE penstock.dead_letter ENABLE REPLICA TRIGGER not_replicated;
ALTER TABLE penstock.dead_letter REPLICA IDENTITY USING INDEX dead_letter_id;
