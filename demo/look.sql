SELECT * FROM airport_delays ORDER BY flights DESC LIMIT 5;

SELECT * FROM very_late ORDER BY delay DESC LIMIT 5;

SELECT from_state, to_state, flights, miles, round(spread, 1) AS spread
  FROM routes_between_states WHERE from_state <> to_state ORDER BY flights DESC LIMIT 5;

SELECT count(*) AS events, pg_size_pretty(pg_total_relation_size('flights')) AS on_disk,
       round(pg_total_relation_size('flights')::numeric / count(*), 1) AS bytes_per_event
  FROM flights;
