/*
 * claim_handle.c
 *	  Payloads that do not fit in memory, piece by piece: handles for writing and reading.
 *
 * A handle is a small number and lives until it is closed or the (sub)transaction that made it ends, whichever comes first; a payload that
 * was not closed was not stored.
 */
#include "postgres.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "claim/claim_functions.h"
#include "claim/claim_internal.h"
#include "compat/compat.h"

PG_FUNCTION_INFO_V1(penstock_claim_open);
PG_FUNCTION_INFO_V1(penstock_claim_append);
PG_FUNCTION_INFO_V1(penstock_claim_close);
PG_FUNCTION_INFO_V1(penstock_claim_reader);
PG_FUNCTION_INFO_V1(penstock_claim_read);
PG_FUNCTION_INFO_V1(penstock_claim_seek);
PG_FUNCTION_INFO_V1(penstock_claim_reader_end);

#define MAX_HANDLES 64
#define LONGEST_READ (256 * 1024 * 1024)

typedef struct Handle
{
	MemoryContext context;		/* NULL: free */
	SubTransactionId subid;
	ClaimWriter *writer;
	ClaimReader *reader;
	int64		at;				/* of a reader */
} Handle;

static Handle handles[MAX_HANDLES];

static void
end(Handle *handle)
{
	if (handle->writer)
		penstock_claim_writer_abandon(handle->writer);
	if (handle->reader)
		penstock_claim_reader_close(handle->reader);
	MemoryContextDelete(handle->context);
	memset(handle, 0, sizeof(Handle));
}

static void
transaction_ends(XactEvent event, void *arg)
{
	switch (event)
	{
		case XACT_EVENT_PRE_COMMIT:
		case XACT_EVENT_PRE_PREPARE:
			for (int i = 0; i < MAX_HANDLES; i++)
			{
				if (handles[i].context == NULL)
					continue;
				/* what was written of a payload that was not closed would be committed with the rest */
				if (handles[i].writer)
					penstock_claim_writer_undo(handles[i].writer);
				end(&handles[i]);
			}
			break;
		case XACT_EVENT_ABORT:
			/* their memory and what they registered go with the transaction */
			memset(handles, 0, sizeof(handles));
			break;
		default:
			break;
	}
}

static void
subtransaction_ends(SubXactEvent event, SubTransactionId subid, SubTransactionId parent, void *arg)
{
	for (int i = 0; i < MAX_HANDLES; i++)
	{
		if (handles[i].context == NULL || handles[i].subid != subid)
			continue;
		if (event == SUBXACT_EVENT_COMMIT_SUB)
			handles[i].subid = parent;
		else if (event == SUBXACT_EVENT_ABORT_SUB)
			end(&handles[i]);
	}
}

static Handle *
new_handle(void)
{
	for (int i = 0; i < MAX_HANDLES; i++)
		if (handles[i].context == NULL)
		{
			handles[i].context = AllocSetContextCreate(TopTransactionContext, "penstock claim handle", ALLOCSET_DEFAULT_SIZES);
			handles[i].subid = GetCurrentSubTransactionId();
			return &handles[i];
		}
	ereport(ERROR,
			(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
			 errmsg("too many open handles of claims"),
			 errdetail("A transaction can have %d.", MAX_HANDLES)));
	return NULL;
}

static Handle *
handle_of(int number, bool writer)
{
	Handle	   *handle = number > 0 && number <= MAX_HANDLES ? &handles[number - 1] : NULL;

	if (handle == NULL || handle->context == NULL || (writer ? handle->writer == NULL : handle->reader == NULL))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("no open handle %d for %s a claim", number, writer ? "writing" : "reading"),
				 errhint("A handle lives until it is closed, or the transaction that made it ends.")));
	return handle;
}

/* What this subtransaction writes may be rolled back while the handle, and what was written before it, stay. */
static Handle *
writer_handle(int number)
{
	Handle	   *handle = handle_of(number, true);

	if (handle->subid != GetCurrentSubTransactionId())
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("handle %d was opened outside of this savepoint", number),
				 errhint("Release the savepoint first, or open the handle within it.")));
	return handle;
}

/*
 * penstock.claim_open(class text, level int, expires timestamptz) → int, a handle.  As claim_store; ERRCODE_PROGRAM_LIMIT_EXCEEDED.
 */
Datum
penstock_claim_open(PG_FUNCTION_ARGS)
{
	PenstockClaimOptions options;
	Handle	   *handle;
	MemoryContext old;

	penstock_claim_prevent_read_only("penstock.claim_open()");
	penstock_claim_options(fcinfo, 0, &options);
	handle = new_handle();
	old = MemoryContextSwitchTo(handle->context);
	if (options.class_name)
		options.class_name = pstrdup(options.class_name);
	handle->writer = penstock_claim_writer_create(handle->context, &options);
	MemoryContextSwitchTo(old);
	PG_RETURN_INT32(handle - handles + 1);
}

/*
 * penstock.claim_append(handle int, piece bytea) → void.  ERRCODE_UNDEFINED_OBJECT, ERRCODE_PROGRAM_LIMIT_EXCEEDED (4 TB),
 * ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE (in a savepoint that is newer than the handle).
 */
Datum
penstock_claim_append(PG_FUNCTION_ARGS)
{
	Handle	   *handle = writer_handle(PG_GETARG_INT32(0));
	bytea	   *piece = PG_GETARG_BYTEA_PP(1);
	MemoryContext old = MemoryContextSwitchTo(handle->context);

	penstock_claim_writer_append(handle->writer, VARDATA_ANY(piece), VARSIZE_ANY_EXHDR(piece));
	MemoryContextSwitchTo(old);
	PG_RETURN_VOID();
}

/*
 * penstock.claim_close(handle int) → claim.  ERRCODE_UNDEFINED_OBJECT, ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE.
 */
Datum
penstock_claim_close(PG_FUNCTION_ARGS)
{
	Handle	   *handle = writer_handle(PG_GETARG_INT32(0));
	PenstockClaim *claim = palloc(sizeof(PenstockClaim));
	MemoryContext old = MemoryContextSwitchTo(handle->context);

	penstock_claim_writer_finish(handle->writer, claim);
	MemoryContextSwitchTo(old);
	end(handle);
	PG_RETURN_CLAIM(claim);
}

/*
 * penstock.claim_reader(claim) → int, a handle.  As claim_fetch; ERRCODE_PROGRAM_LIMIT_EXCEEDED.
 */
Datum
penstock_claim_reader(PG_FUNCTION_ARGS)
{
	Handle	   *handle = new_handle();
	MemoryContext old = MemoryContextSwitchTo(handle->context);

	handle->reader = penstock_claim_reader_open(PG_GETARG_CLAIM(0), PG_NARGS() > 1);
	penstock_claim_reader_keep(handle->reader);
	MemoryContextSwitchTo(old);
	PG_RETURN_INT32(handle - handles + 1);
}

/*
 * penstock.claim_read(handle int, length int) → bytea: the next bytes, fewer at the end, and none behind it.
 */
Datum
penstock_claim_read(PG_FUNCTION_ARGS)
{
	Handle	   *handle = handle_of(PG_GETARG_INT32(0), false);
	int32		length = PG_GETARG_INT32(1);
	bytea	   *result;
	Size		n;

	if (length < 0 || length > LONGEST_READ)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("a piece has between 0 and %d bytes", LONGEST_READ)));
	length = Min(length, Max(penstock_claim_size(&penstock_claim_reader_object(handle->reader)->claim) - handle->at, 0));
	result = palloc((Size) length + VARHDRSZ);
	n = penstock_claim_reader_read(handle->reader, handle->at, VARDATA(result), length);
	handle->at += n;
	SET_VARSIZE(result, n + VARHDRSZ);
	PG_RETURN_BYTEA_P(result);
}

/*
 * penstock.claim_seek(handle int, offset bigint) → void: where claim_read goes on.  ERRCODE_INVALID_PARAMETER_VALUE.
 */
Datum
penstock_claim_seek(PG_FUNCTION_ARGS)
{
	Handle	   *handle = handle_of(PG_GETARG_INT32(0), false);

	if (PG_GETARG_INT64(1) < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("a range cannot begin before 0 or have less than 0 bytes")));
	handle->at = PG_GETARG_INT64(1);
	PG_RETURN_VOID();
}

/* penstock.claim_reader_close(handle int) → void */
Datum
penstock_claim_reader_end(PG_FUNCTION_ARGS)
{
	end(handle_of(PG_GETARG_INT32(0), false));
	PG_RETURN_VOID();
}

void
penstock_claim_handle_init(void)
{
	RegisterXactCallback(transaction_ends, NULL);
	RegisterSubXactCallback(subtransaction_ends, NULL);
}
