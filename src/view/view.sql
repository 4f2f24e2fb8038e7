-- Continuous views.

CREATE FUNCTION penstock.continuous_handler(internal) RETURNS table_am_handler
  AS 'MODULE_PATHNAME', 'penstock_continuous_handler' LANGUAGE C STRICT;
COMMENT ON FUNCTION penstock.continuous_handler(internal) IS 'handler of access method continuous';

CREATE ACCESS METHOD continuous TYPE TABLE HANDLER penstock.continuous_handler;
COMMENT ON ACCESS METHOD continuous IS 'materialized views that are always current';

CREATE FUNCTION penstock.rebuild(view regclass, force boolean DEFAULT false) RETURNS void
  AS 'MODULE_PATHNAME', 'penstock_rebuild' LANGUAGE C STRICT;
COMMENT ON FUNCTION penstock.rebuild(regclass, boolean) IS
  'computes a continuous view anew from all events its streams hold; refuses, unless forced, when events it has counted are gone';

CREATE FUNCTION penstock.explain(view regclass, events bigint DEFAULT 1000) RETURNS SETOF text
  AS 'MODULE_PATHNAME', 'penstock_explain' LANGUAGE C STRICT;
COMMENT ON FUNCTION penstock.explain(regclass, bigint) IS
  'how a continuous view is kept: strategy, state, streams, and the plan that runs for so many new events';

-- What pg_dump takes along: the condition adds the states of all views, as of the dump's snapshot.
CREATE TABLE penstock.saved_state (view regclass NOT NULL, columns text[]);
COMMENT ON TABLE penstock.saved_state IS
  'states of continuous views that a dump has brought and REFRESH has not adopted yet';

CREATE FUNCTION penstock.save_state(OUT view regclass, OUT columns text[]) RETURNS SETOF record
  AS 'MODULE_PATHNAME', 'penstock_save_state' LANGUAGE C STABLE STRICT;
COMMENT ON FUNCTION penstock.save_state() IS
  'states and not yet consumed events of all continuous views, for pg_dump; for their owner and members of pg_read_all_data';

SELECT pg_catalog.pg_extension_config_dump('penstock.saved_state',
  'WHERE true UNION ALL SELECT s.view, s.columns FROM penstock.save_state() s');

CREATE FUNCTION penstock.verify(view regclass) RETURNS bigint
  AS 'MODULE_PATHNAME', 'penstock_verify' LANGUAGE C STABLE STRICT;
COMMENT ON FUNCTION penstock.verify(regclass) IS
  'compares a continuous view with its query over the events it has consumed: how many rows only one of the two has; NULL while it works off a backlog';

CREATE FUNCTION penstock.stat_fill_rows(OUT pid integer, OUT view oid, OUT started_at timestamptz,
    OUT events_total bigint, OUT events_done bigint) RETURNS SETOF record
  AS 'MODULE_PATHNAME', 'penstock_stat_fill_rows' LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED;
COMMENT ON FUNCTION penstock.stat_fill_rows() IS 'what penstock.stat_fill shows';

CREATE VIEW penstock.stat_fill AS
  SELECT pid, view::regclass AS view, started_at, events_total, events_done FROM penstock.stat_fill_rows();
COMMENT ON VIEW penstock.stat_fill IS
  'fills and rebuilds of continuous views under way in this database: events to be read, and read so far';
GRANT SELECT ON penstock.stat_fill TO PUBLIC;

