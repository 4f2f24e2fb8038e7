/*
 * claim_functions.c
 *	  The functions of claims that SQL sees, but for handles (claim_handle.c).
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "funcapi.h"
#include "libpq/be-fsstubs.h"
#include "libpq/libpq-fs.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "claim/claim_functions.h"
#include "claim/claim_internal.h"
#include "compat/compat.h"

PG_FUNCTION_INFO_V1(penstock_claim_store_bytea);
PG_FUNCTION_INFO_V1(penstock_claim_store_lo);
PG_FUNCTION_INFO_V1(penstock_claim_fetch_bytea);
PG_FUNCTION_INFO_V1(penstock_claim_fetch_text);
PG_FUNCTION_INFO_V1(penstock_claim_fetch_range);
PG_FUNCTION_INFO_V1(penstock_claim_exists);
PG_FUNCTION_INFO_V1(penstock_claim_verify);
PG_FUNCTION_INFO_V1(penstock_claim_export);
PG_FUNCTION_INFO_V1(penstock_claim_info);

/* Pieces in which large objects are read and written. */
#define PIECE (256 * 1024)

/* Was the proof of claim_access.c given, as argument n? */
static bool
has_proof(FunctionCallInfo fcinfo, int n)
{
	return PG_NARGS() > n;
}

/*
 * penstock_claim_options reads the arguments class, level and expires, from argument n on.
 */
void
penstock_claim_options(FunctionCallInfo fcinfo, int n, PenstockClaimOptions *options)
{
	memset(options, 0, sizeof(PenstockClaimOptions));
	if (!PG_ARGISNULL(n))
		options->class_name = text_to_cstring(PG_GETARG_TEXT_PP(n));
	if (!PG_ARGISNULL(n + 1))
		options->level = penstock_claim_check_level(PG_GETARG_INT32(n + 1));
	if (!PG_ARGISNULL(n + 2))
		options->expires_at = PG_GETARG_TIMESTAMPTZ(n + 2);
}

/* Claims are stored by a transaction that may write. */
void
penstock_claim_prevent_read_only(const char *function)
{
	PreventCommandIfReadOnly(function);
	PreventCommandIfParallelMode(function);
}

/*
 * penstock.claim_store(payload bytea or text, class text, level int, expires timestamptz) → claim.  ERRCODE_UNDEFINED_OBJECT (no such
 * class), ERRCODE_INVALID_PARAMETER_VALUE.
 */
Datum
penstock_claim_store_bytea(PG_FUNCTION_ARGS)
{
	PenstockClaim *claim = palloc(sizeof(PenstockClaim));
	PenstockClaimOptions options;
	struct varlena *payload;

	if (PG_ARGISNULL(0))
		PG_RETURN_NULL();
	penstock_claim_prevent_read_only("penstock.claim_store()");
	penstock_claim_options(fcinfo, 1, &options);
	payload = PG_GETARG_VARLENA_PP(0);
	penstock_claim_store(VARDATA_ANY(payload), VARSIZE_ANY_EXHDR(payload), &options, claim);
	PG_FREE_IF_COPY(payload, 0);
	PG_RETURN_CLAIM(claim);
}

/*
 * penstock.claim_store(loid oid, ...) and penstock.claim_import(loid oid, ...) → claim: of the bytes of a large object.
 * ERRCODE_UNDEFINED_OBJECT, ERRCODE_INSUFFICIENT_PRIVILEGE (by the server).
 */
Datum
penstock_claim_store_lo(PG_FUNCTION_ARGS)
{
	PenstockClaim *claim = palloc(sizeof(PenstockClaim));
	PenstockClaimOptions options;
	int			from;
	ClaimWriter *writer;
	char	   *piece;
	int			n;

	if (PG_ARGISNULL(0))
		PG_RETURN_NULL();
	penstock_claim_prevent_read_only("penstock.claim_store()");
	penstock_claim_options(fcinfo, 1, &options);
	from = DatumGetInt32(DirectFunctionCall2(be_lo_open, PG_GETARG_DATUM(0), Int32GetDatum(INV_READ)));
	writer = penstock_claim_writer_create(CurrentMemoryContext, &options);
	piece = palloc(PIECE);
	while ((n = lo_read(from, piece, PIECE)) > 0)
		penstock_claim_writer_append(writer, piece, n);
	penstock_claim_writer_finish(writer, claim);
	(void) DirectFunctionCall1(be_lo_close, Int32GetDatum(from));
	PG_RETURN_CLAIM(claim);
}

/*
 * penstock.claim_fetch(claim, verify boolean) → bytea.  ERRCODE_NO_DATA_FOUND (unknown, or not for this role), ERRCODE_DATA_CORRUPTED,
 * ERRCODE_PROGRAM_LIMIT_EXCEEDED.
 */
Datum
penstock_claim_fetch_bytea(PG_FUNCTION_ARGS)
{
	PG_RETURN_BYTEA_P(penstock_claim_read_all(PG_GETARG_CLAIM(0), has_proof(fcinfo, 2), PG_GETARG_BOOL(1)));
}

/*
 * penstock.claim_text(claim) → text, of bytes in the database's encoding; also ERRCODE_CHARACTER_NOT_IN_REPERTOIRE.
 */
Datum
penstock_claim_fetch_text(PG_FUNCTION_ARGS)
{
	bytea	   *bytes = penstock_claim_read_all(PG_GETARG_CLAIM(0), has_proof(fcinfo, 1), true);

	(void) pg_verify_mbstr(GetDatabaseEncoding(), VARDATA(bytes), VARSIZE(bytes) - VARHDRSZ, false);
	PG_RETURN_TEXT_P(bytes);
}

/*
 * penstock.claim_fetch_range(claim, first bigint, length bigint) → bytea: bytes from "first" (0 is the first), as many as there are of
 * "length".  Also ERRCODE_INVALID_PARAMETER_VALUE.
 */
Datum
penstock_claim_fetch_range(PG_FUNCTION_ARGS)
{
	PenstockClaim *claim = PG_GETARG_CLAIM(0);
	int64		from = PG_GETARG_INT64(1);
	int64		length = PG_GETARG_INT64(2);
	ClaimReader *reader;
	bytea	   *result;
	Size		n;

	if (from < 0 || length < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("a range cannot begin before 0 or have less than 0 bytes")));
	length = Min(length, Max(penstock_claim_size(claim) - from, 0));
	if (length > MaxAllocSize - VARHDRSZ)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("a range of " INT64_FORMAT " bytes is too long for one value", length)));
	reader = penstock_claim_reader_open(claim, has_proof(fcinfo, 3));
	result = palloc(length + VARHDRSZ);
	n = penstock_claim_reader_read(reader, from, VARDATA(result), length);
	penstock_claim_reader_close(reader);
	SET_VARSIZE(result, n + VARHDRSZ);
	PG_RETURN_BYTEA_P(result);
}

/*
 * penstock.claim_exists(claim) → boolean: could the role fetch it?
 */
Datum
penstock_claim_exists(PG_FUNCTION_ARGS)
{
	PenstockClaim *claim = PG_GETARG_CLAIM(0);
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	ClaimObject object;
	bool		found = penstock_claim_object_find(claim, snapshot, &object);

	UnregisterSnapshot(snapshot);
	PG_RETURN_BOOL(found && (object.expires_at == 0 || object.expires_at > GetCurrentTimestamp()) &&
				   (has_proof(fcinfo, 1) || penstock_claim_may_fetch(&object)));
}

/*
 * penstock.claim_verify(claim) → boolean: true, or an error: as claim_fetch, of a payload of any size.
 */
Datum
penstock_claim_verify(PG_FUNCTION_ARGS)
{
	ClaimReader *reader = penstock_claim_reader_open(PG_GETARG_CLAIM(0), has_proof(fcinfo, 1));

	penstock_claim_reader_verify(reader);
	penstock_claim_reader_close(reader);
	PG_RETURN_BOOL(true);
}

/*
 * penstock.claim_export(claim) → oid: of a new large object with the payload's bytes, the current user's.  Errors as claim_fetch.
 */
Datum
penstock_claim_export(PG_FUNCTION_ARGS)
{
	ClaimReader *reader;
	int			to;
	char	   *piece;
	Oid			loid;
	int64		at = 0;
	Size		n;

	penstock_claim_prevent_read_only("penstock.claim_export()");
	reader = penstock_claim_reader_open(PG_GETARG_CLAIM(0), has_proof(fcinfo, 1));
	loid = DatumGetObjectId(DirectFunctionCall1(be_lo_create, ObjectIdGetDatum(InvalidOid)));
	to = DatumGetInt32(DirectFunctionCall2(be_lo_open, ObjectIdGetDatum(loid), Int32GetDatum(INV_WRITE)));
	piece = palloc(PIECE);
	while ((n = penstock_claim_reader_read(reader, at, piece, PIECE)) > 0)
	{
		(void) lo_write(to, piece, n);
		at += n;
	}
	(void) DirectFunctionCall1(be_lo_close, Int32GetDatum(to));
	penstock_claim_reader_close(reader);
	PG_RETURN_OID(loid);
}

/* In how many rows, that the role may read, does it stand? */
static int64
count_references(const PenstockClaim *claim)
{
	int64		count = 0;
	ListCell   *lc;

	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	foreach(lc, penstock_claim_columns())
		count += penstock_claim_count_in(lfirst(lc), claim);
	SPI_finish();
	return count;
}

/*
 * penstock.claim_info(claim) → record, of one row.  Errors as claim_fetch.
 */
Datum
penstock_claim_info(PG_FUNCTION_ARGS)
{
	PenstockClaim *claim = PG_GETARG_CLAIM(0);
	ClaimReader *reader = penstock_claim_reader_open(claim, has_proof(fcinfo, 1));
	const ClaimObject *object = penstock_claim_reader_object(reader);
	TupleDesc	desc;
	Datum		values[10];
	bool		isnull[10] = {false};
	Oid			owner = penstock_claim_owner_role(object->owner);

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE || desc->natts != lengthof(values))
		elog(ERROR, "penstock.claim_info() has other columns than expected");
	values[0] = Int64GetDatum(penstock_claim_size(claim));
	values[1] = Int64GetDatum(object->stored);
	values[2] = CStringGetTextDatum(penstock_claim_reader_codec(reader));
	values[3] = Int64GetDatum(penstock_claim_reader_frames(reader));
	values[4] = Int32GetDatum(object->dictionary);
	isnull[4] = object->dictionary == 0;
	values[5] = TimestampTzGetDatum(object->stored_at);
	values[6] = TimestampTzGetDatum(object->expires_at);
	isnull[6] = object->expires_at == 0;
	values[7] = ObjectIdGetDatum(object->loid);
	isnull[7] = !OidIsValid(object->loid);
	values[8] = ObjectIdGetDatum(owner);
	isnull[8] = !OidIsValid(owner);
	values[9] = Int64GetDatum(count_references(claim));
	penstock_claim_reader_close(reader);
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, isnull)));
}
