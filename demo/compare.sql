CREATE FUNCTION pg_temp.differences(view regclass) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
	query text := rtrim(pg_get_viewdef(view), ';');
	result bigint;
BEGIN
	EXECUTE format('SELECT (SELECT count(*) FROM (TABLE %1$s EXCEPT ALL (%2$s)) a)
						 + (SELECT count(*) FROM ((%2$s) EXCEPT ALL TABLE %1$s) b)', view, query)
	   INTO result;
	RETURN result;
END $$;

SELECT v AS view,
       (xpath('/row/c/text()', query_to_xml(format('SELECT count(*) AS c FROM %s', v), false, true, '')))[1] AS rows,
       pg_temp.differences(v) AS different_rows
  FROM unnest('{airport_delays,flights_hourly,routes_between_states,very_late}'::regclass[]) AS v;

DO $$
BEGIN
	IF (SELECT sum(pg_temp.differences(v)) FROM unnest('{airport_delays,flights_hourly,routes_between_states,very_late}'::regclass[]) AS v) <> 0 THEN
		RAISE EXCEPTION 'a view differs from its query';
	END IF;
END $$;
