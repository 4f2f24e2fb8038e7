-- Queues: what connectors have in common.

CREATE FUNCTION penstock.connector_options(wrapper text, OUT option text, OUT place text, OUT allowed text,
    OUT "default" text, OUT description text, OUT superuser boolean) RETURNS SETOF record
  AS 'MODULE_PATHNAME', 'penstock_connector_options' LANGUAGE C STABLE STRICT;
COMMENT ON FUNCTION penstock.connector_options(text) IS
  'options that a connector''s servers, user mappings, foreign tables and columns have';
