CREATE FUNCTION penstock.stream_handler(pg_catalog.internal) RETURNS pg_catalog.table_am_handler
  AS 'MODULE_PATHNAME', 'penstock_stream_handler' LANGUAGE C STRICT;
COMMENT ON FUNCTION penstock.stream_handler(pg_catalog.internal) IS 'handler of the access method stream';

CREATE ACCESS METHOD stream TYPE TABLE HANDLER penstock.stream_handler;
COMMENT ON ACCESS METHOD stream IS 'append-only event tables: compressed, retained, replayable';

CREATE FUNCTION penstock.stream_chunks(stream pg_catalog.regclass, OUT chunk pg_catalog.tid,
    OUT events pg_catalog.int4, OUT stored_columns pg_catalog.int4, OUT bytes pg_catalog.int8,
    OUT writer pg_catalog.xid8, OUT written_at pg_catalog.timestamptz, OUT merged pg_catalog.bool)
  RETURNS SETOF pg_catalog.record
  AS 'MODULE_PATHNAME', 'penstock_stream_chunks' LANGUAGE C STABLE STRICT PARALLEL RESTRICTED ROWS 1000;
COMMENT ON FUNCTION penstock.stream_chunks(pg_catalog.regclass) IS
  'chunks of a stream in the order of their addresses: events, size, the transaction that wrote them and when';

