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

GRANT SELECT ON penstock.continuous_view, penstock.position TO PUBLIC;
