-- the other server, its table pgbench_history, and a user for it
CREATE SERVER bank FOREIGN DATA WRAPPER postgres_changes
    OPTIONS (host :'host', port :'port', dbname 'bank');
CREATE USER MAPPING FOR CURRENT_USER SERVER bank OPTIONS (user 'postgres');

CREATE FOREIGN TABLE history_changes (
    tid        integer,
    bid        integer,
    aid        integer,
    delta      integer,
    operation  text        OPTIONS (metadata 'operation'),
    committed  timestamptz OPTIONS (metadata 'commit_timestamp')
) SERVER bank OPTIONS ("table" 'public.pgbench_history', create_publication 'true');

-- its rows and changes become an append-only stream
CREATE TABLE history (
    tid integer, bid integer, aid integer, delta integer, committed timestamptz
) USING stream;

-- and the stream a view that is always current
CREATE MATERIALIZED VIEW branches USING continuous AS
    SELECT bid, count(*) AS transfers, sum(delta) AS balance, max(committed) AS latest
      FROM history GROUP BY bid;

CALL penstock.create_pipe('bank', $$
    INSERT INTO history
    SELECT tid, bid, aid, delta, committed FROM history_changes WHERE operation IN ('copy', 'insert')
$$);
