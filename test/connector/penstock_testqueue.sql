-- penstock_testqueue: a message broker that is a directory, with every fault on demand, for tests.

CREATE FUNCTION penstock.testqueue_handler() RETURNS fdw_handler
  AS 'MODULE_PATHNAME', 'penstock_testqueue_handler' LANGUAGE C STRICT;
COMMENT ON FUNCTION penstock.testqueue_handler() IS 'handler of foreign data wrapper testqueue';
CREATE FUNCTION penstock.testqueue_validator(text[], oid) RETURNS void
  AS 'MODULE_PATHNAME', 'penstock_testqueue_validator' LANGUAGE C STRICT;
COMMENT ON FUNCTION penstock.testqueue_validator(text[], oid) IS 'validator of foreign data wrapper testqueue';
CREATE FOREIGN DATA WRAPPER testqueue HANDLER penstock.testqueue_handler VALIDATOR penstock.testqueue_validator;
COMMENT ON FOREIGN DATA WRAPPER testqueue IS 'queues with offsets that are files of a directory';

CREATE FUNCTION penstock.testqueue_ack_handler() RETURNS fdw_handler
  AS 'MODULE_PATHNAME', 'penstock_testqueue_ack_handler' LANGUAGE C STRICT;
COMMENT ON FUNCTION penstock.testqueue_ack_handler() IS 'handler of foreign data wrapper testqueue_ack';
CREATE FUNCTION penstock.testqueue_ack_validator(text[], oid) RETURNS void
  AS 'MODULE_PATHNAME', 'penstock_testqueue_ack_validator' LANGUAGE C STRICT;
COMMENT ON FUNCTION penstock.testqueue_ack_validator(text[], oid) IS 'validator of foreign data wrapper testqueue_ack';
CREATE FOREIGN DATA WRAPPER testqueue_ack HANDLER penstock.testqueue_ack_handler VALIDATOR penstock.testqueue_ack_validator;
COMMENT ON FOREIGN DATA WRAPPER testqueue_ack IS 'queues with acknowledgements that are files of a directory';

CREATE FUNCTION penstock.testqueue_rows_handler() RETURNS fdw_handler
  AS 'MODULE_PATHNAME', 'penstock_testqueue_rows_handler' LANGUAGE C STRICT;
COMMENT ON FUNCTION penstock.testqueue_rows_handler() IS 'handler of foreign data wrapper testqueue_rows';
CREATE FUNCTION penstock.testqueue_rows_validator(text[], oid) RETURNS void
  AS 'MODULE_PATHNAME', 'penstock_testqueue_rows_validator' LANGUAGE C STRICT;
COMMENT ON FUNCTION penstock.testqueue_rows_validator(text[], oid) IS 'validator of foreign data wrapper testqueue_rows';
CREATE FOREIGN DATA WRAPPER testqueue_rows HANDLER penstock.testqueue_rows_handler VALIDATOR penstock.testqueue_rows_validator;
COMMENT ON FOREIGN DATA WRAPPER testqueue_rows IS 'queues of transactions that are files of a directory; rows, not bytes';

CREATE SCHEMA testqueue;
GRANT USAGE ON SCHEMA testqueue TO PUBLIC;

CREATE FUNCTION testqueue.append(server text, queue text, payload text, partition text DEFAULT '0', key bytea DEFAULT NULL,
    id text DEFAULT NULL, "time" timestamptz DEFAULT NULL, headers text[] DEFAULT NULL) RETURNS bigint
  AS 'MODULE_PATHNAME', 'testqueue_sql_append' LANGUAGE C VOLATILE;
COMMENT ON FUNCTION testqueue.append(text, text, text, text, bytea, text, timestamptz, text[]) IS
  'puts a message into a queue, whatever becomes of the transaction; its offset';
CREATE FUNCTION testqueue.append_bytes(server text, queue text, payload bytea, partition text DEFAULT '0', key bytea DEFAULT NULL,
    id bytea DEFAULT NULL, "time" timestamptz DEFAULT NULL, headers text[] DEFAULT NULL) RETURNS bigint
  AS 'MODULE_PATHNAME', 'testqueue_sql_append' LANGUAGE C VOLATILE;
COMMENT ON FUNCTION testqueue.append_bytes(text, text, bytea, text, bytea, bytea, timestamptz, text[]) IS
  'the same with bytes that need not be text';

CREATE FUNCTION testqueue.messages(server text, queue text, OUT partition text, OUT "offset" bigint, OUT payload bytea,
    OUT key bytea, OUT id bytea, OUT "time" timestamptz, OUT headers text[], OUT state text) RETURNS SETOF record
  AS 'MODULE_PATHNAME', 'testqueue_sql_messages' LANGUAGE C VOLATILE STRICT;
COMMENT ON FUNCTION testqueue.messages(text, text) IS 'what is in a queue: state is new, delivered or acknowledged';

CREATE FUNCTION testqueue.set_faults(server text, faults text) RETURNS void
  AS 'MODULE_PATHNAME', 'testqueue_sql_set_faults' LANGUAGE C VOLATILE;
COMMENT ON FUNCTION testqueue.set_faults(text, text) IS 'these faults happen from now on; see fault.c';
