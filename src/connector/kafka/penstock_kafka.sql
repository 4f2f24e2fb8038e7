-- The Kafka connector: topics as foreign tables.

CREATE FUNCTION penstock.kafka_handler() RETURNS fdw_handler
  AS 'MODULE_PATHNAME', 'penstock_kafka_handler' LANGUAGE C STRICT;
COMMENT ON FUNCTION penstock.kafka_handler() IS 'the handler of foreign data wrapper kafka';

CREATE FUNCTION penstock.kafka_validator(text[], oid) RETURNS void
  AS 'MODULE_PATHNAME', 'penstock_kafka_validator' LANGUAGE C STRICT;
COMMENT ON FUNCTION penstock.kafka_validator(text[], oid) IS 'the validator of foreign data wrapper kafka';

CREATE FOREIGN DATA WRAPPER kafka HANDLER penstock.kafka_handler VALIDATOR penstock.kafka_validator;
COMMENT ON FOREIGN DATA WRAPPER kafka IS 'topics of Apache Kafka, to read, to write and for pipes';
