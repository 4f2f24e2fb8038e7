CREATE EXTENSION penstock;

-- an append-only, compressed event table
CREATE TABLE flights (
    departed     timestamp,
    origin       text,
    destination  text,
    distance     int,
    delay        int
) USING stream WITH (penstock.event_time = 'departed');

-- an ordinary table to look things up in
CREATE TABLE airports (code text PRIMARY KEY, city text, state text);
\copy airports FROM airports.csv WITH (FORMAT csv, HEADER)

-- four questions whose answers are always up to date
CREATE MATERIALIZED VIEW airport_delays USING continuous AS
    SELECT origin, count(*) AS flights, round(avg(delay), 1) AS average_delay,
           max(delay) AS worst, count(*) FILTER (WHERE delay > 60) AS over_an_hour
      FROM flights
     GROUP BY origin;

CREATE MATERIALIZED VIEW flights_hourly USING continuous AS
    SELECT date_bin('1 hour', departed, '2001-01-01') AS hour,
           count(*) AS flights, avg(delay) AS average_delay
      FROM flights
     GROUP BY hour;

CREATE MATERIALIZED VIEW routes_between_states USING continuous AS
    SELECT a.state AS from_state, b.state AS to_state, count(*) AS flights,
           sum(distance) AS miles, stddev_samp(delay) AS spread
      FROM flights
      JOIN airports a ON a.code = flights.origin
      JOIN airports b ON b.code = flights.destination
     GROUP BY a.state, b.state;

CREATE MATERIALIZED VIEW very_late USING continuous AS
    SELECT departed, origin, destination, delay
      FROM flights
     WHERE delay > 600;
