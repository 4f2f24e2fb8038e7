-- A helper of the view tests: the rows that a view has and its query has not, and the other way round.
CREATE EXTENSION IF NOT EXISTS penstock;
CREATE FUNCTION differences(view text) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
  query text := rtrim(pg_get_viewdef(view::regclass), ';');
  result bigint;
BEGIN
  EXECUTE format('SELECT count(*) FROM ((SELECT * FROM %1$s EXCEPT ALL (%2$s)) UNION ALL ((%2$s) EXCEPT ALL SELECT * FROM %1$s)) d',
                 view, query) INTO result;
  RETURN result;
END $$;
