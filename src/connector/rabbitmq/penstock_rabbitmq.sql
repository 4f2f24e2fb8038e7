-- penstock_rabbitmq: foreign data wrappers "rabbitmq" (queues) and "rabbitmq_stream" (streams) of RabbitMQ brokers.
\echo Use "CREATE EXTENSION penstock_rabbitmq" to load this file. \quit

CREATE FUNCTION penstock.penstock_rabbitmq_handler() RETURNS fdw_handler
	LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'penstock_rabbitmq_handler';
COMMENT ON FUNCTION penstock.penstock_rabbitmq_handler() IS 'handler of foreign data wrapper rabbitmq';

CREATE FUNCTION penstock.penstock_rabbitmq_validator(options text[], catalog oid) RETURNS void
	LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'penstock_rabbitmq_validator';
COMMENT ON FUNCTION penstock.penstock_rabbitmq_validator(text[], oid) IS 'checks options of foreign data wrapper rabbitmq';

CREATE FOREIGN DATA WRAPPER rabbitmq
	HANDLER penstock.penstock_rabbitmq_handler VALIDATOR penstock.penstock_rabbitmq_validator;
COMMENT ON FOREIGN DATA WRAPPER rabbitmq IS 'queues of RabbitMQ brokers: acknowledged after commit';

CREATE FUNCTION penstock.penstock_rabbitmq_stream_handler() RETURNS fdw_handler
	LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'penstock_rabbitmq_stream_handler';
COMMENT ON FUNCTION penstock.penstock_rabbitmq_stream_handler() IS 'handler of foreign data wrapper rabbitmq_stream';

CREATE FUNCTION penstock.penstock_rabbitmq_stream_validator(options text[], catalog oid) RETURNS void
	LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'penstock_rabbitmq_stream_validator';
COMMENT ON FUNCTION penstock.penstock_rabbitmq_stream_validator(text[], oid) IS 'checks options of foreign data wrapper rabbitmq_stream';

CREATE FOREIGN DATA WRAPPER rabbitmq_stream
	HANDLER penstock.penstock_rabbitmq_stream_handler VALIDATOR penstock.penstock_rabbitmq_stream_validator;
COMMENT ON FOREIGN DATA WRAPPER rabbitmq_stream IS 'streams of RabbitMQ brokers: read by offset, exactly once';
