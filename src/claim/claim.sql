-- Claim checks.

CREATE TYPE penstock.claim;

CREATE FUNCTION penstock.claim_in(cstring) RETURNS penstock.claim
  AS 'MODULE_PATHNAME', 'penstock_claim_in' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION penstock.claim_in(cstring) IS 'I/O';

CREATE FUNCTION penstock.claim_out(penstock.claim) RETURNS cstring
  AS 'MODULE_PATHNAME', 'penstock_claim_out' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION penstock.claim_out(penstock.claim) IS 'I/O';

CREATE FUNCTION penstock.claim_recv(internal) RETURNS penstock.claim
  AS 'MODULE_PATHNAME', 'penstock_claim_recv' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION penstock.claim_recv(internal) IS 'I/O';

CREATE FUNCTION penstock.claim_send(penstock.claim) RETURNS bytea
  AS 'MODULE_PATHNAME', 'penstock_claim_send' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION penstock.claim_send(penstock.claim) IS 'I/O';

CREATE TYPE penstock.claim (
  INPUT = penstock.claim_in, OUTPUT = penstock.claim_out, RECEIVE = penstock.claim_recv, SEND = penstock.claim_send,
  INTERNALLENGTH = 40, ALIGNMENT = char, STORAGE = plain);
COMMENT ON TYPE penstock.claim IS
  'ticket for a payload: its SHA-256 and its size, such as sha256:e3b0...:0; the payload is kept while a row holds the ticket';

-- what the planner hands a function that redeems a ticket read from a column
CREATE TYPE penstock.claim_read;

CREATE FUNCTION penstock.claim_read_in(cstring) RETURNS penstock.claim_read
  AS 'MODULE_PATHNAME', 'penstock_claim_read_in' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION penstock.claim_read_in(cstring) IS 'I/O';

CREATE FUNCTION penstock.claim_read_out(penstock.claim_read) RETURNS cstring
  AS 'MODULE_PATHNAME', 'penstock_claim_read_out' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION penstock.claim_read_out(penstock.claim_read) IS 'I/O';

CREATE TYPE penstock.claim_read (INPUT = penstock.claim_read_in, OUTPUT = penstock.claim_read_out);
COMMENT ON TYPE penstock.claim_read IS 'the column that a ticket was read from; made by the planner only';

-- ---- order, hash, casts; the operators are where every search_path finds them ----

CREATE FUNCTION penstock.claim_eq(penstock.claim, penstock.claim) RETURNS boolean
  AS 'MODULE_PATHNAME', 'penstock_claim_eq' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE LEAKPROOF;
COMMENT ON FUNCTION penstock.claim_eq(penstock.claim, penstock.claim) IS 'implementation of = operator';

CREATE OPERATOR pg_catalog.= (
  LEFTARG = penstock.claim, RIGHTARG = penstock.claim, FUNCTION = penstock.claim_eq, COMMUTATOR = OPERATOR(pg_catalog.=),
  NEGATOR = OPERATOR(pg_catalog.<>), RESTRICT = eqsel, JOIN = eqjoinsel, HASHES, MERGES);
COMMENT ON OPERATOR pg_catalog.= (penstock.claim, penstock.claim) IS 'compares tickets as bytes';

CREATE FUNCTION penstock.claim_ne(penstock.claim, penstock.claim) RETURNS boolean
  AS 'MODULE_PATHNAME', 'penstock_claim_ne' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE LEAKPROOF;
COMMENT ON FUNCTION penstock.claim_ne(penstock.claim, penstock.claim) IS 'implementation of <> operator';

CREATE OPERATOR pg_catalog.<> (
  LEFTARG = penstock.claim, RIGHTARG = penstock.claim, FUNCTION = penstock.claim_ne, COMMUTATOR = OPERATOR(pg_catalog.<>),
  NEGATOR = OPERATOR(pg_catalog.=), RESTRICT = neqsel, JOIN = neqjoinsel);
COMMENT ON OPERATOR pg_catalog.<> (penstock.claim, penstock.claim) IS 'compares tickets as bytes';

CREATE FUNCTION penstock.claim_lt(penstock.claim, penstock.claim) RETURNS boolean
  AS 'MODULE_PATHNAME', 'penstock_claim_lt' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE LEAKPROOF;
COMMENT ON FUNCTION penstock.claim_lt(penstock.claim, penstock.claim) IS 'implementation of < operator';

CREATE OPERATOR pg_catalog.< (
  LEFTARG = penstock.claim, RIGHTARG = penstock.claim, FUNCTION = penstock.claim_lt, COMMUTATOR = OPERATOR(pg_catalog.>),
  NEGATOR = OPERATOR(pg_catalog.>=), RESTRICT = scalarltsel, JOIN = scalarltjoinsel);
COMMENT ON OPERATOR pg_catalog.< (penstock.claim, penstock.claim) IS 'compares tickets as bytes';

CREATE FUNCTION penstock.claim_le(penstock.claim, penstock.claim) RETURNS boolean
  AS 'MODULE_PATHNAME', 'penstock_claim_le' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE LEAKPROOF;
COMMENT ON FUNCTION penstock.claim_le(penstock.claim, penstock.claim) IS 'implementation of <= operator';

CREATE OPERATOR pg_catalog.<= (
  LEFTARG = penstock.claim, RIGHTARG = penstock.claim, FUNCTION = penstock.claim_le, COMMUTATOR = OPERATOR(pg_catalog.>=),
  NEGATOR = OPERATOR(pg_catalog.>), RESTRICT = scalarlesel, JOIN = scalarlejoinsel);
COMMENT ON OPERATOR pg_catalog.<= (penstock.claim, penstock.claim) IS 'compares tickets as bytes';

CREATE FUNCTION penstock.claim_gt(penstock.claim, penstock.claim) RETURNS boolean
  AS 'MODULE_PATHNAME', 'penstock_claim_gt' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE LEAKPROOF;
COMMENT ON FUNCTION penstock.claim_gt(penstock.claim, penstock.claim) IS 'implementation of > operator';

CREATE OPERATOR pg_catalog.> (
  LEFTARG = penstock.claim, RIGHTARG = penstock.claim, FUNCTION = penstock.claim_gt, COMMUTATOR = OPERATOR(pg_catalog.<),
  NEGATOR = OPERATOR(pg_catalog.<=), RESTRICT = scalargtsel, JOIN = scalargtjoinsel);
COMMENT ON OPERATOR pg_catalog.> (penstock.claim, penstock.claim) IS 'compares tickets as bytes';

CREATE FUNCTION penstock.claim_ge(penstock.claim, penstock.claim) RETURNS boolean
  AS 'MODULE_PATHNAME', 'penstock_claim_ge' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE LEAKPROOF;
COMMENT ON FUNCTION penstock.claim_ge(penstock.claim, penstock.claim) IS 'implementation of >= operator';

CREATE OPERATOR pg_catalog.>= (
  LEFTARG = penstock.claim, RIGHTARG = penstock.claim, FUNCTION = penstock.claim_ge, COMMUTATOR = OPERATOR(pg_catalog.<=),
  NEGATOR = OPERATOR(pg_catalog.<), RESTRICT = scalargesel, JOIN = scalargejoinsel);
COMMENT ON OPERATOR pg_catalog.>= (penstock.claim, penstock.claim) IS 'compares tickets as bytes';

CREATE FUNCTION penstock.claim_cmp(penstock.claim, penstock.claim) RETURNS integer
  AS 'MODULE_PATHNAME', 'penstock_claim_cmp' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE LEAKPROOF;
COMMENT ON FUNCTION penstock.claim_cmp(penstock.claim, penstock.claim) IS 'less-equal-greater';

CREATE FUNCTION penstock.claim_hash(penstock.claim) RETURNS integer
  AS 'MODULE_PATHNAME', 'penstock_claim_hash' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE LEAKPROOF;
COMMENT ON FUNCTION penstock.claim_hash(penstock.claim) IS 'hash';

CREATE FUNCTION penstock.claim_hash_extended(penstock.claim, bigint) RETURNS bigint
  AS 'MODULE_PATHNAME', 'penstock_claim_hash_extended' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE LEAKPROOF;
COMMENT ON FUNCTION penstock.claim_hash_extended(penstock.claim, bigint) IS 'hash';

CREATE OPERATOR CLASS penstock.claim_ops DEFAULT FOR TYPE penstock.claim USING btree AS
  OPERATOR 1 pg_catalog.<, OPERATOR 2 pg_catalog.<=, OPERATOR 3 pg_catalog.=, OPERATOR 4 pg_catalog.>=, OPERATOR 5 pg_catalog.>,
  FUNCTION 1 penstock.claim_cmp(penstock.claim, penstock.claim),
  FUNCTION 4 pg_catalog.btequalimage(oid);
CREATE OPERATOR CLASS penstock.claim_ops DEFAULT FOR TYPE penstock.claim USING hash AS
  OPERATOR 1 pg_catalog.=, FUNCTION 1 penstock.claim_hash(penstock.claim),
  FUNCTION 2 penstock.claim_hash_extended(penstock.claim, bigint);
COMMENT ON OPERATOR CLASS penstock.claim_ops USING btree IS 'tickets as bytes';
COMMENT ON OPERATOR CLASS penstock.claim_ops USING hash IS 'tickets as bytes';

CREATE FUNCTION penstock.claim_to_json(penstock.claim) RETURNS json
  AS 'MODULE_PATHNAME', 'penstock_claim_to_json' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION penstock.claim_to_json(penstock.claim) IS 'a ticket as {"claim": "sha256:...", "size": 123}';

CREATE FUNCTION penstock.claim_to_jsonb(penstock.claim) RETURNS jsonb
  AS 'MODULE_PATHNAME', 'penstock_claim_to_jsonb' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION penstock.claim_to_jsonb(penstock.claim) IS 'a ticket as {"claim": "sha256:...", "size": 123}';

CREATE FUNCTION penstock.claim_from_jsonb(jsonb) RETURNS penstock.claim
  AS 'MODULE_PATHNAME', 'penstock_claim_from_jsonb' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION penstock.claim_from_jsonb(jsonb) IS 'the ticket of {"claim": "sha256:..."} or of the string alone';

CREATE CAST (penstock.claim AS text) WITH INOUT AS ASSIGNMENT;
CREATE CAST (text AS penstock.claim) WITH INOUT;
CREATE CAST (penstock.claim AS json) WITH FUNCTION penstock.claim_to_json(penstock.claim);
CREATE CAST (penstock.claim AS jsonb) WITH FUNCTION penstock.claim_to_jsonb(penstock.claim);
CREATE CAST (jsonb AS penstock.claim) WITH FUNCTION penstock.claim_from_jsonb(jsonb);

CREATE FUNCTION penstock.claim_size(penstock.claim) RETURNS bigint
  AS 'MODULE_PATHNAME', 'penstock_claim_get_size' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION penstock.claim_size(penstock.claim) IS 'bytes of the payload, as the ticket says';

-- ---- tables ----

CREATE TABLE penstock.claim_object (
  claim penstock.claim NOT NULL,
  loid oid,
  owner integer,
  dictionary integer,
  stored bigint,
  stored_at timestamptz NOT NULL,
  expires_at timestamptz,
  unheld_since timestamptz,
  duplicate boolean,
  payload bytea
) WITH (fillfactor = 95);
ALTER TABLE penstock.claim_object ALTER payload SET STORAGE PLAIN;
CREATE INDEX claim_object_claim ON penstock.claim_object USING hash (claim);
CREATE INDEX claim_object_loid ON penstock.claim_object (loid);
COMMENT ON TABLE penstock.claim_object IS 'payloads that are checked in; read penstock.stat_claim and penstock.claim_info() instead';
COMMENT ON COLUMN penstock.claim_object.loid IS 'large object with the frames; NULL: a small payload, in column payload';
COMMENT ON COLUMN penstock.claim_object.owner IS 'who stored it first, in penstock.claim_owner';
COMMENT ON COLUMN penstock.claim_object.dictionary IS 'dictionary that its frames need, in penstock.claim_dictionary';
COMMENT ON COLUMN penstock.claim_object.stored IS 'bytes in the large object';
COMMENT ON COLUMN penstock.claim_object.unheld_since IS 'when the collector first found no row that holds it';
COMMENT ON COLUMN penstock.claim_object.duplicate IS 'was written while another transaction wrote the same payload; the collector puts them together';

CREATE TYPE penstock.claim_role;

CREATE FUNCTION penstock.claim_role_in(cstring) RETURNS penstock.claim_role
  AS 'MODULE_PATHNAME', 'penstock_claim_role_in' LANGUAGE C STABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION penstock.claim_role_in(cstring) IS 'I/O';

CREATE FUNCTION penstock.claim_role_out(penstock.claim_role) RETURNS cstring
  AS 'MODULE_PATHNAME', 'penstock_claim_role_out' LANGUAGE C STABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION penstock.claim_role_out(penstock.claim_role) IS 'I/O';

CREATE TYPE penstock.claim_role (
  INPUT = penstock.claim_role_in, OUTPUT = penstock.claim_role_out, LIKE = pg_catalog.regrole);
COMMENT ON TYPE penstock.claim_role IS 'a role by its name, or nobody: where a dump is restored it need not exist';

CREATE TABLE penstock.claim_owner (id integer NOT NULL, role penstock.claim_role NOT NULL);
CREATE SEQUENCE penstock.claim_owner_id_seq OWNED BY penstock.claim_owner.id;
COMMENT ON TABLE penstock.claim_owner IS 'roles that have stored payloads';

CREATE TABLE penstock.claim_dictionary (
  id integer NOT NULL,
  class text NOT NULL,
  level integer NOT NULL,
  made_at timestamptz NOT NULL,
  samples integer NOT NULL,
  dictionary bytea NOT NULL
);
CREATE SEQUENCE penstock.claim_dictionary_id_seq OWNED BY penstock.claim_dictionary.id;
COMMENT ON TABLE penstock.claim_dictionary IS
  'dictionaries of classes of payloads; the newest of a class is used for storing, all are needed for reading';

CREATE TRIGGER not_replicated BEFORE INSERT OR UPDATE OR DELETE ON penstock.claim_object
  FOR EACH ROW EXECUTE FUNCTION penstock.not_replicated();
ALTER TABLE penstock.claim_object ENABLE REPLICA TRIGGER not_replicated;
ALTER TABLE penstock.claim_object REPLICA IDENTITY FULL;
CREATE TRIGGER not_replicated BEFORE INSERT OR UPDATE OR DELETE ON penstock.claim_owner
  FOR EACH ROW EXECUTE FUNCTION penstock.not_replicated();
ALTER TABLE penstock.claim_owner ENABLE REPLICA TRIGGER not_replicated;
ALTER TABLE penstock.claim_owner REPLICA IDENTITY FULL;
CREATE TRIGGER not_replicated BEFORE INSERT OR UPDATE OR DELETE ON penstock.claim_dictionary
  FOR EACH ROW EXECUTE FUNCTION penstock.not_replicated();
ALTER TABLE penstock.claim_dictionary ENABLE REPLICA TRIGGER not_replicated;
ALTER TABLE penstock.claim_dictionary REPLICA IDENTITY FULL;

CREATE SEQUENCE penstock.claim_deduplicated;
CREATE SEQUENCE penstock.claim_collected;
COMMENT ON SEQUENCE penstock.claim_deduplicated IS 'counts payloads that were stored already when they came';
COMMENT ON SEQUENCE penstock.claim_collected IS 'counts payloads that were collected';

-- whoever may dump a database can read these; the other two have what is in payloads, and need a grant
GRANT SELECT ON penstock.claim_owner, penstock.claim_owner_id_seq, penstock.claim_dictionary_id_seq, penstock.claim_deduplicated,
  penstock.claim_collected TO PUBLIC;
SELECT pg_catalog.pg_extension_config_dump('penstock.claim_object', '');
SELECT pg_catalog.pg_extension_config_dump('penstock.claim_owner', '');
SELECT pg_catalog.pg_extension_config_dump('penstock.claim_owner_id_seq', '');
SELECT pg_catalog.pg_extension_config_dump('penstock.claim_dictionary', '');
SELECT pg_catalog.pg_extension_config_dump('penstock.claim_dictionary_id_seq', '');
SELECT pg_catalog.pg_extension_config_dump('penstock.claim_deduplicated', '');
SELECT pg_catalog.pg_extension_config_dump('penstock.claim_collected', '');

CREATE VIEW penstock.claim_class AS
  SELECT class, pg_catalog.max(id) AS dictionary, pg_catalog.count(*)::integer AS versions,
         (pg_catalog.array_agg(level ORDER BY id DESC))[1] AS level, pg_catalog.max(made_at) AS made_at
  FROM penstock.claim_dictionary GROUP BY class;
COMMENT ON VIEW penstock.claim_class IS 'classes of payloads, with the number of the newest dictionary of each';
GRANT SELECT ON penstock.claim_class TO PUBLIC;

-- ---- storing ----

CREATE FUNCTION penstock.claim_store(payload bytea, class text DEFAULT NULL, level integer DEFAULT NULL, expires timestamptz DEFAULT NULL) RETURNS penstock.claim
  AS 'MODULE_PATHNAME', 'penstock_claim_store_bytea' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION penstock.claim_store(bytea, text, integer, timestamptz) IS 'checks a payload in: stored once, compressed; class names a dictionary, level is zstd''s, after "expires" it is removed even if held';

CREATE FUNCTION penstock.claim_store(payload text, class text DEFAULT NULL, level integer DEFAULT NULL, expires timestamptz DEFAULT NULL) RETURNS penstock.claim
  AS 'MODULE_PATHNAME', 'penstock_claim_store_bytea' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION penstock.claim_store(text, text, integer, timestamptz) IS 'checks a text in, in the database''s encoding';

CREATE FUNCTION penstock.claim_store(loid oid, class text DEFAULT NULL, level integer DEFAULT NULL, expires timestamptz DEFAULT NULL) RETURNS penstock.claim
  AS 'MODULE_PATHNAME', 'penstock_claim_store_lo' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION penstock.claim_store(oid, text, integer, timestamptz) IS 'checks the bytes of a large object in';

CREATE FUNCTION penstock.claim_import(loid oid, class text DEFAULT NULL, level integer DEFAULT NULL, expires timestamptz DEFAULT NULL) RETURNS penstock.claim
  AS 'MODULE_PATHNAME', 'penstock_claim_store_lo' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION penstock.claim_import(oid, text, integer, timestamptz) IS 'checks the bytes of a large object in';

CREATE FUNCTION penstock.claim_open(class text DEFAULT NULL, level integer DEFAULT NULL, expires timestamptz DEFAULT NULL) RETURNS integer
  AS 'MODULE_PATHNAME', 'penstock_claim_open' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION penstock.claim_open(text, integer, timestamptz) IS 'begins a payload that comes piece by piece: a handle for claim_append, until the transaction ends';

CREATE FUNCTION penstock.claim_append(handle integer, piece bytea) RETURNS void
  AS 'MODULE_PATHNAME', 'penstock_claim_append' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION penstock.claim_append(integer, bytea) IS 'adds a piece to a payload';

CREATE FUNCTION penstock.claim_close(handle integer) RETURNS penstock.claim
  AS 'MODULE_PATHNAME', 'penstock_claim_close' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION penstock.claim_close(integer) IS 'ends a payload that came piece by piece';

-- ---- redeeming; the second form of each is what the planner makes of the first ----

CREATE FUNCTION penstock.claim_support(internal) RETURNS internal
  AS 'MODULE_PATHNAME', 'penstock_claim_support' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION penstock.claim_support(internal) IS 'planner support';

CREATE FUNCTION penstock.claim_fetch(claim penstock.claim, verify boolean DEFAULT true) RETURNS bytea
  AS 'MODULE_PATHNAME', 'penstock_claim_fetch_bytea' LANGUAGE C STABLE STRICT PARALLEL RESTRICTED COST 1000 SUPPORT penstock.claim_support;
COMMENT ON FUNCTION penstock.claim_fetch(penstock.claim, boolean) IS 'the payload; its digest is compared unless verify is false';

CREATE FUNCTION penstock.claim_fetch(claim penstock.claim, verify boolean, proof penstock.claim_read) RETURNS bytea
  AS 'MODULE_PATHNAME', 'penstock_claim_fetch_bytea' LANGUAGE C STABLE STRICT PARALLEL RESTRICTED COST 1000;
COMMENT ON FUNCTION penstock.claim_fetch(penstock.claim, boolean, penstock.claim_read) IS 'the payload; its digest is compared unless verify is false; as the planner calls it for a column';

CREATE FUNCTION penstock.claim_text(claim penstock.claim) RETURNS text
  AS 'MODULE_PATHNAME', 'penstock_claim_fetch_text' LANGUAGE C STABLE STRICT PARALLEL RESTRICTED COST 1000 SUPPORT penstock.claim_support;
COMMENT ON FUNCTION penstock.claim_text(penstock.claim) IS 'the payload as text in the database''s encoding';

CREATE FUNCTION penstock.claim_text(claim penstock.claim, proof penstock.claim_read) RETURNS text
  AS 'MODULE_PATHNAME', 'penstock_claim_fetch_text' LANGUAGE C STABLE STRICT PARALLEL RESTRICTED COST 1000;
COMMENT ON FUNCTION penstock.claim_text(penstock.claim, penstock.claim_read) IS 'the payload as text in the database''s encoding; as the planner calls it for a column';

CREATE FUNCTION penstock.claim_fetch_range(claim penstock.claim, first bigint, length bigint) RETURNS bytea
  AS 'MODULE_PATHNAME', 'penstock_claim_fetch_range' LANGUAGE C STABLE STRICT PARALLEL RESTRICTED COST 1000 SUPPORT penstock.claim_support;
COMMENT ON FUNCTION penstock.claim_fetch_range(penstock.claim, bigint, bigint) IS 'bytes of the payload from "first" (0 is the first), without reading the rest';

CREATE FUNCTION penstock.claim_fetch_range(claim penstock.claim, first bigint, length bigint, proof penstock.claim_read) RETURNS bytea
  AS 'MODULE_PATHNAME', 'penstock_claim_fetch_range' LANGUAGE C STABLE STRICT PARALLEL RESTRICTED COST 1000;
COMMENT ON FUNCTION penstock.claim_fetch_range(penstock.claim, bigint, bigint, penstock.claim_read) IS 'bytes of the payload from "first" (0 is the first), without reading the rest; as the planner calls it for a column';

CREATE FUNCTION penstock.claim_exists(claim penstock.claim) RETURNS boolean
  AS 'MODULE_PATHNAME', 'penstock_claim_exists' LANGUAGE C STABLE STRICT PARALLEL RESTRICTED COST 1000 SUPPORT penstock.claim_support;
COMMENT ON FUNCTION penstock.claim_exists(penstock.claim) IS 'is the payload here, and may the current role fetch it?';

CREATE FUNCTION penstock.claim_exists(claim penstock.claim, proof penstock.claim_read) RETURNS boolean
  AS 'MODULE_PATHNAME', 'penstock_claim_exists' LANGUAGE C STABLE STRICT PARALLEL RESTRICTED COST 1000;
COMMENT ON FUNCTION penstock.claim_exists(penstock.claim, penstock.claim_read) IS 'is the payload here, and may the current role fetch it?; as the planner calls it for a column';

CREATE FUNCTION penstock.claim_verify(claim penstock.claim) RETURNS boolean
  AS 'MODULE_PATHNAME', 'penstock_claim_verify' LANGUAGE C STABLE STRICT PARALLEL RESTRICTED COST 1000 SUPPORT penstock.claim_support;
COMMENT ON FUNCTION penstock.claim_verify(penstock.claim) IS 'reads the whole payload and compares its digest: true, or an error';

CREATE FUNCTION penstock.claim_verify(claim penstock.claim, proof penstock.claim_read) RETURNS boolean
  AS 'MODULE_PATHNAME', 'penstock_claim_verify' LANGUAGE C STABLE STRICT PARALLEL RESTRICTED COST 1000;
COMMENT ON FUNCTION penstock.claim_verify(penstock.claim, penstock.claim_read) IS 'reads the whole payload and compares its digest: true, or an error; as the planner calls it for a column';

CREATE FUNCTION penstock.claim_export(claim penstock.claim) RETURNS oid
  AS 'MODULE_PATHNAME', 'penstock_claim_export' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE COST 1000 SUPPORT penstock.claim_support;
COMMENT ON FUNCTION penstock.claim_export(penstock.claim) IS 'a new large object with the payload''s bytes';

CREATE FUNCTION penstock.claim_export(claim penstock.claim, proof penstock.claim_read) RETURNS oid
  AS 'MODULE_PATHNAME', 'penstock_claim_export' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE COST 1000;
COMMENT ON FUNCTION penstock.claim_export(penstock.claim, penstock.claim_read) IS 'a new large object with the payload''s bytes; as the planner calls it for a column';

CREATE FUNCTION penstock.claim_reader(claim penstock.claim) RETURNS integer
  AS 'MODULE_PATHNAME', 'penstock_claim_reader' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE COST 1000 SUPPORT penstock.claim_support;
COMMENT ON FUNCTION penstock.claim_reader(penstock.claim) IS 'begins reading a payload piece by piece: a handle for claim_read, until the transaction ends';

CREATE FUNCTION penstock.claim_reader(claim penstock.claim, proof penstock.claim_read) RETURNS integer
  AS 'MODULE_PATHNAME', 'penstock_claim_reader' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE COST 1000;
COMMENT ON FUNCTION penstock.claim_reader(penstock.claim, penstock.claim_read) IS 'begins reading a payload piece by piece: a handle for claim_read, until the transaction ends; as the planner calls it for a column';

CREATE FUNCTION penstock.claim_read(handle integer, length integer) RETURNS bytea
  AS 'MODULE_PATHNAME', 'penstock_claim_read' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION penstock.claim_read(integer, integer) IS 'the next bytes of a payload that is read piece by piece; empty at its end';

CREATE FUNCTION penstock.claim_seek(handle integer, "offset" bigint) RETURNS void
  AS 'MODULE_PATHNAME', 'penstock_claim_seek' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION penstock.claim_seek(integer, bigint) IS 'where claim_read goes on';

CREATE FUNCTION penstock.claim_reader_close(handle integer) RETURNS void
  AS 'MODULE_PATHNAME', 'penstock_claim_reader_end' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION penstock.claim_reader_close(integer) IS 'ends reading piece by piece';

CREATE FUNCTION penstock.claim_info(claim penstock.claim, OUT size bigint, OUT stored bigint, OUT codec text, OUT frames bigint, OUT dictionary integer, OUT stored_at timestamptz, OUT expires_at timestamptz, OUT large_object oid, OUT owner regrole, OUT "references" bigint)
  AS 'MODULE_PATHNAME', 'penstock_claim_info' LANGUAGE C STABLE STRICT PARALLEL RESTRICTED COST 1000 SUPPORT penstock.claim_support;
COMMENT ON FUNCTION penstock.claim_info(penstock.claim) IS
  'how a payload is stored: bytes, bytes stored, codec, frames, when, by whom; references are the rows, that the role may read, in which the ticket stands';

CREATE FUNCTION penstock.claim_info(claim penstock.claim, proof penstock.claim_read, OUT size bigint, OUT stored bigint, OUT codec text, OUT frames bigint, OUT dictionary integer, OUT stored_at timestamptz, OUT expires_at timestamptz, OUT large_object oid, OUT owner regrole, OUT "references" bigint)
  AS 'MODULE_PATHNAME', 'penstock_claim_info' LANGUAGE C STABLE STRICT PARALLEL RESTRICTED COST 1000;
COMMENT ON FUNCTION penstock.claim_info(penstock.claim, penstock.claim_read) IS
  'how a payload is stored: bytes, bytes stored, codec, frames, when, by whom; references are the rows, that the role may read, in which the ticket stands';

-- ---- keeping house ----

CREATE FUNCTION penstock.claim_class_train(class text, samples bytea[], size integer DEFAULT 65536, level integer DEFAULT 3) RETURNS integer
  AS 'MODULE_PATHNAME', 'penstock_claim_class_train' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION penstock.claim_class_train(text, bytea[], integer, integer) IS
  'makes a dictionary of at most "size" bytes from samples of a class of payloads, for claim_store(..., class); the newest is used';
REVOKE ALL ON FUNCTION penstock.claim_class_train(text, bytea[], integer, integer) FROM PUBLIC;

CREATE FUNCTION penstock.claim_collect(dry_run boolean DEFAULT false, grace interval DEFAULT NULL,
                                       OUT collected bigint, OUT bytes bigint, OUT waiting bigint)
  AS 'MODULE_PATHNAME', 'penstock_claim_collect' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION penstock.claim_collect(boolean, interval) IS
  'removes payloads that no row has held for the grace time (default penstock.claim_grace), as the background does; dry_run only counts; waiting are those still within it';
REVOKE ALL ON FUNCTION penstock.claim_collect(boolean, interval) FROM PUBLIC;

CREATE FUNCTION penstock.claim_missing() RETURNS SETOF penstock.claim
  AS 'MODULE_PATHNAME', 'penstock_claim_missing' LANGUAGE C STABLE PARALLEL UNSAFE;
COMMENT ON FUNCTION penstock.claim_missing() IS
  'tickets that stand in columns of this database while their payloads are not here, as on a logical subscriber';
REVOKE ALL ON FUNCTION penstock.claim_missing() FROM PUBLIC;

CREATE VIEW penstock.stat_claim AS
  SELECT pg_catalog.count(*) AS claims,
         pg_catalog.count(*) FILTER (WHERE loid IS NOT NULL) AS large_objects,
         coalesce(pg_catalog.sum(penstock.claim_size(claim)), 0)::bigint AS bytes,
         coalesce(pg_catalog.sum(coalesce(stored, pg_catalog.octet_length(payload))), 0)::bigint AS stored,
         pg_catalog.round(pg_catalog.sum(penstock.claim_size(claim)) OPERATOR(pg_catalog./)
                          nullif(pg_catalog.sum(coalesce(stored, pg_catalog.octet_length(payload))), 0), 2) AS ratio,
         (SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM penstock.claim_deduplicated) AS deduplicated,
         (SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM penstock.claim_collected) AS collected,
         pg_catalog.count(*) FILTER (WHERE unheld_since IS NOT NULL) AS waiting
  FROM penstock.claim_object;
COMMENT ON VIEW penstock.stat_claim IS
  'payloads of this database: how many, their bytes and those stored, how many came again and were not stored, were collected, or wait for the end of the grace time';
COMMENT ON COLUMN penstock.stat_claim.large_objects IS 'the others are small enough for a row';
COMMENT ON COLUMN penstock.stat_claim.ratio IS 'bytes by stored';
COMMENT ON COLUMN penstock.stat_claim.deduplicated IS 'since the extension was created; also of transactions that were rolled back';
GRANT SELECT ON penstock.stat_claim TO PUBLIC;
