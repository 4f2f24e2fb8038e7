-- Idempotent producers.

-- one for all: an epoch is never given out twice
CREATE SEQUENCE penstock.producer_epoch;
COMMENT ON SEQUENCE penstock.producer_epoch IS 'epochs that penstock.new_producer() gives out';

CREATE FUNCTION penstock.new_producer(stream regclass, producer text) RETURNS bigint
  AS 'MODULE_PATHNAME', 'penstock_new_producer' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION penstock.new_producer(regclass, text) IS
  'begins the next epoch of a producer, which is made if it is not known; batches of older epochs are refused from then on';

CREATE FUNCTION penstock.begin_produce(stream regclass, producer text, sequence bigint, epoch bigint DEFAULT NULL) RETURNS boolean
  AS 'MODULE_PATHNAME', 'penstock_begin_produce' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION penstock.begin_produce(regclass, text, bigint, bigint) IS
  'in the transaction that inserts: true if the batch is new, false if it is a repetition and is to be left out';

CREATE FUNCTION penstock.produce(stream regclass, producer text, sequence bigint, rows json, epoch bigint DEFAULT NULL) RETURNS bigint
  AS 'MODULE_PATHNAME', 'penstock_produce' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION penstock.produce(regclass, text, bigint, json, bigint) IS
  'inserts a batch, a JSON array of objects, unless it is a repetition; how many rows were accepted';

-- for a value without a type
CREATE FUNCTION penstock.produce(stream regclass, producer text, sequence bigint, rows text, epoch bigint DEFAULT NULL) RETURNS bigint
  AS 'MODULE_PATHNAME', 'penstock_produce' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION penstock.produce(regclass, text, bigint, text, bigint) IS
  'inserts a batch, a JSON array of objects, unless it is a repetition; how many rows were accepted';

CREATE FUNCTION penstock.produce(stream regclass, producer text, sequence bigint, rows anyarray, epoch bigint DEFAULT NULL) RETURNS bigint
  AS 'MODULE_PATHNAME', 'penstock_produce' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION penstock.produce(regclass, text, bigint, anyarray, bigint) IS
  'inserts a batch, an array of the stream''s row type, unless it is a repetition; how many rows were accepted';

CREATE FUNCTION penstock.drop_producer(stream regclass, producer text, if_exists boolean DEFAULT false) RETURNS void
  AS 'MODULE_PATHNAME', 'penstock_drop_producer' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION penstock.drop_producer(regclass, text, boolean) IS 'forgets a producer and its sequence';

CREATE FUNCTION penstock.stat_producer_row(stream regclass, producer text, OUT duplicates bigint, OUT gaps bigint, OUT fenced bigint)
  RETURNS record
  AS 'MODULE_PATHNAME', 'penstock_stat_producer_row' LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED;
COMMENT ON FUNCTION penstock.stat_producer_row(regclass, text) IS 'counters that penstock.stat_producer shows';

CREATE VIEW penstock.stat_producer AS
  SELECT p.stream, p.producer, p.owner, p.epoch, p.epoch_at, p.sequence, p.last_batch_at, s.duplicates, s.gaps, s.fenced
  FROM penstock.producer p, LATERAL penstock.stat_producer_row(p.stream, p.producer) s;
COMMENT ON VIEW penstock.stat_producer IS
  'one row for each producer of this database: its newest epoch, its last batch and, since the server started or penstock.stat_reset(), repetitions left out, and batches refused for a gap or an older epoch';
GRANT SELECT ON penstock.stat_producer TO PUBLIC;

-- What pg_dump takes along: nothing is ever in it, its trigger puts what a restore brings into penstock.producer.
CREATE TABLE penstock.saved_producer (stream text NOT NULL, producer text NOT NULL, owner text NOT NULL, epoch bigint NOT NULL,
  sequence bigint NOT NULL, epoch_at timestamptz NOT NULL, last_batch_at timestamptz);
COMMENT ON TABLE penstock.saved_producer IS 'through it a dump brings producers back; always empty';
CREATE FUNCTION penstock.restore_producer() RETURNS trigger AS 'MODULE_PATHNAME', 'penstock_restore_producer' LANGUAGE C;
COMMENT ON FUNCTION penstock.restore_producer() IS 'puts a row of penstock.saved_producer into penstock.producer';
CREATE TRIGGER restore BEFORE INSERT ON penstock.saved_producer FOR EACH ROW EXECUTE FUNCTION penstock.restore_producer();
COMMENT ON TRIGGER restore ON penstock.saved_producer IS 'puts each row into penstock.producer instead';

-- whoever may dump the database may dump these
GRANT SELECT ON penstock.saved_producer TO PUBLIC;
GRANT SELECT ON SEQUENCE penstock.producer_epoch TO PUBLIC;
SELECT pg_catalog.pg_extension_config_dump('penstock.producer_epoch', '');
SELECT pg_catalog.pg_extension_config_dump('penstock.saved_producer',
  $$WHERE true UNION ALL
    SELECT pg_catalog.format('%I.%I', n.nspname, c.relname), p.producer, pg_catalog.pg_get_userbyid(p.owner), p.epoch, p.sequence,
           p.epoch_at, p.last_batch_at
    FROM penstock.producer p JOIN pg_catalog.pg_class c ON c.oid = p.stream::pg_catalog.oid
         JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace$$);
