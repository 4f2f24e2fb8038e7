-- Streams: random nested transactions, against a heap that gets the same.
CREATE SCHEMA stream_oracle;
SET search_path = stream_oracle;
CREATE TABLE s (a int, b text) USING stream;
CREATE TABLE h (a int, b text);

-- the same rows in both, as the next command sees them
CREATE FUNCTION compare() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  IF EXISTS ((TABLE s EXCEPT ALL TABLE h) UNION ALL (TABLE h EXCEPT ALL TABLE s)) THEN
    RAISE 'stream and heap differ' USING ERRCODE = 'XX000';
  END IF;
END $$;
-- a stable function sees what its caller's statement sees
CREATE FUNCTION same_count() RETURNS boolean STABLE LANGUAGE plpgsql AS $$
BEGIN
  RETURN (SELECT count(*) FROM s) = (SELECT count(*) FROM h);
END $$;

CREATE FUNCTION put(n int, start int) RETURNS int LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO h SELECT i, md5(i::text) FROM generate_series(start, start + n - 1) i;
  INSERT INTO s SELECT i, md5(i::text) FROM generate_series(start, start + n - 1) i;
  RETURN n;
END $$;

CREATE FUNCTION step(depth int, n int) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  what int;
  cur refcursor;
  x int;
  y int;
BEGIN
  FOR i IN 1..n LOOP
    what := (random() * 100)::int;
    CASE
      WHEN what < 30 THEN PERFORM put(1, (random() * 1000)::int);
      WHEN what < 45 THEN PERFORM put((random() * 500)::int, 0);
      WHEN what < 47 THEN PERFORM put(35000, 0);
      WHEN what < 55 THEN PERFORM compare();
      WHEN what < 60 THEN
        IF EXISTS (SELECT 1 FROM generate_series(1, 3) g WHERE put(g, 7) > 0 AND NOT same_count()) THEN
          RAISE 'a stable function saw something else' USING ERRCODE = 'XX000';
        END IF;
      WHEN what < 64 THEN
        INSERT INTO h SELECT a + 1, b FROM h WHERE a < 20;
        INSERT INTO s SELECT a + 1, b FROM s WHERE a < 20;
      WHEN what < 66 THEN TRUNCATE s; TRUNCATE h;
      WHEN what < 72 THEN
        -- a cursor opened before sees nothing of what comes after
        SELECT count(*) INTO x FROM h;
        OPEN cur FOR SELECT count(*) FROM s;
        PERFORM put(3, 5);
        FETCH cur INTO y;
        CLOSE cur;
        IF x <> y THEN RAISE 'a cursor saw what came later' USING ERRCODE = 'XX000'; END IF;
      ELSE
        IF depth < 4 THEN
          BEGIN
            PERFORM step(depth + 1, 1 + (random() * 6)::int);
            IF random() < 0.4 THEN RAISE division_by_zero; END IF;
          EXCEPTION WHEN division_by_zero THEN NULL;
          END;
        END IF;
    END CASE;
  END LOOP;
END $$;

CREATE PROCEDURE run(seed float8) LANGUAGE plpgsql AS $$
BEGIN
  PERFORM setseed(seed);
  FOR i IN 1..8 LOOP
    PERFORM step(0, 6);
    IF random() < 0.3 THEN ROLLBACK; ELSE COMMIT; END IF;
    PERFORM compare();
    IF random() < 0.3 THEN TRUNCATE s, h; END IF;
  END LOOP;
END $$;
CALL run(0.1);
CALL run(0.2);
CALL run(0.3);

SET client_min_messages = warning;
DROP SCHEMA stream_oracle CASCADE;
