-- penstock_amqp: foreign data wrapper "amqp", queues and topics of AMQP 1.0 brokers.
\echo Use "CREATE EXTENSION penstock_amqp" to load this file. \quit

CREATE FUNCTION penstock.penstock_amqp_handler() RETURNS fdw_handler
	LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'penstock_amqp_handler';
COMMENT ON FUNCTION penstock.penstock_amqp_handler() IS 'handler of foreign data wrapper amqp';

CREATE FUNCTION penstock.penstock_amqp_validator(options text[], catalog oid) RETURNS void
	LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'penstock_amqp_validator';
COMMENT ON FUNCTION penstock.penstock_amqp_validator(text[], oid) IS 'checks options of foreign data wrapper amqp';

CREATE FOREIGN DATA WRAPPER amqp
	HANDLER penstock.penstock_amqp_handler VALIDATOR penstock.penstock_amqp_validator;
COMMENT ON FOREIGN DATA WRAPPER amqp IS 'queues and topics of AMQP 1.0 brokers';
