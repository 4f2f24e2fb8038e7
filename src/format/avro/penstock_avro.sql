-- The format avro: CREATE FOREIGN TABLE ... OPTIONS (format 'avro') finds the library by this extension.

CREATE FUNCTION penstock.avro_to_jsonb(payload bytea, schema text, reader_schema text DEFAULT NULL) RETURNS jsonb
  AS 'MODULE_PATHNAME', 'penstock_avro_to_jsonb' LANGUAGE C STABLE PARALLEL SAFE;
COMMENT ON FUNCTION penstock.avro_to_jsonb(bytea, text, text) IS
  'an Avro value without framing, written with a schema, perhaps read with another';
