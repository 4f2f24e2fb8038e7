\echo Use "CREATE EXTENSION penstock" to load this file. \quit

CREATE FUNCTION penstock.library_version() RETURNS pg_catalog.text
  AS 'MODULE_PATHNAME', 'penstock_library_version' LANGUAGE C STABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION penstock.library_version() IS 'version of the library this server has loaded';

GRANT USAGE ON SCHEMA penstock TO PUBLIC;

