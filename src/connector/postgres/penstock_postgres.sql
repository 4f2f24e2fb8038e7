-- penstock_postgres: foreign data wrapper "postgres_changes", changes of the tables of a PostgreSQL server.
\echo Use "CREATE EXTENSION penstock_postgres" to load this file. \quit

CREATE FUNCTION penstock.penstock_postgres_handler() RETURNS fdw_handler
	LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'penstock_postgres_handler';
COMMENT ON FUNCTION penstock.penstock_postgres_handler() IS 'handler of foreign data wrapper postgres_changes';

CREATE FUNCTION penstock.penstock_postgres_validator(options text[], catalog oid) RETURNS void
	LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'penstock_postgres_validator';
COMMENT ON FUNCTION penstock.penstock_postgres_validator(text[], oid) IS 'checks options of foreign data wrapper postgres_changes';

CREATE FOREIGN DATA WRAPPER postgres_changes
	HANDLER penstock.penstock_postgres_handler VALIDATOR penstock.penstock_postgres_validator;
COMMENT ON FOREIGN DATA WRAPPER postgres_changes IS 'changes of the tables of a PostgreSQL server, through a logical replication slot';
