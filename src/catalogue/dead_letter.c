/*
 * dead_letter.c
 *	  Events that a pipe could not work on: penstock.dead_letter.
 *
 * An ordinary table with row level security; the library writes it below that, as itself.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/indexing.h"
#include "commands/sequence.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/jsonb.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "catalogue/own_table.h"
#include "catalogue/pipe_registry.h"
#include "compat/compat.h"

enum
{
	LETTER_ID = 1,
	LETTER_PIPE,
	LETTER_PIPE_NAME,
	LETTER_OWNER,
	LETTER_SOURCE,
	LETTER_PARTITION,
	LETTER_OFFSET,
	LETTER_MESSAGE_ID,
	LETTER_KEY,
	LETTER_PAYLOAD,
	LETTER_HEADERS,
	LETTER_PROPERTIES,
	LETTER_TIMESTAMP,
	LETTER_STATEMENT,
	LETTER_COLUMN,
	LETTER_SQLSTATE,
	LETTER_MESSAGE,
	LETTER_DETAIL,
	LETTER_FAILED_AT,
	LETTER_REDRIVE,
	LETTER_NATTS = LETTER_REDRIVE
};

static void
put_text(Datum *values, bool *isnull, int column, const char *text)
{
	isnull[column - 1] = text == NULL;
	values[column - 1] = text ? CStringGetTextDatum(text) : (Datum) 0;
}

static void
put_bytes(Datum *values, bool *isnull, int column, const char *bytes, int length)
{
	isnull[column - 1] = bytes == NULL;
	values[column - 1] = bytes ? PointerGetDatum(cstring_to_text_with_len(bytes, length)) : (Datum) 0;
}

/* Writes a row, with the next id. */
static void
write_letter(Datum *values, const bool *isnull)
{
	PenstockOwnTable table = penstock_own_table_open("dead_letter", RowExclusiveLock, LETTER_NATTS);

	values[LETTER_ID - 1] = Int64GetDatum(nextval_internal(penstock_own_table_oid("dead_letter_id_seq"), false));
	CatalogTupleInsert(table.rel, heap_form_tuple(RelationGetDescr(table.rel), values, unconstify(bool *, isnull)));
	table_close(table.rel, NoLock);
	CommandCounterIncrement();
}

/*
 * penstock_dead_letter_add stores an event that could not be worked on, in the current transaction.
 */
void
penstock_dead_letter_add(const PenstockDeadLetter *letter)
{
	const PenstockMessage *message = letter->message;
	Datum		values[LETTER_NATTS] = {0};
	bool		isnull[LETTER_NATTS] = {false};

	values[LETTER_PIPE - 1] = ObjectIdGetDatum(letter->pipe);
	put_text(values, isnull, LETTER_PIPE_NAME, letter->pipe_name);
	values[LETTER_OWNER - 1] = ObjectIdGetDatum(letter->owner);
	values[LETTER_SOURCE - 1] = ObjectIdGetDatum(letter->source);
	put_text(values, isnull, LETTER_PARTITION, message->partition);
	values[LETTER_OFFSET - 1] = Int64GetDatum(message->offset);
	put_bytes(values, isnull, LETTER_MESSAGE_ID, message->id, message->id_length);
	put_bytes(values, isnull, LETTER_KEY, message->key, message->key_length);
	put_bytes(values, isnull, LETTER_PAYLOAD, message->payload, message->length);
	isnull[LETTER_HEADERS - 1] = letter->headers == NULL;
	if (letter->headers)
		values[LETTER_HEADERS - 1] = JsonbPGetDatum(letter->headers);
	isnull[LETTER_PROPERTIES - 1] = letter->properties == NULL;
	if (letter->properties)
		values[LETTER_PROPERTIES - 1] = JsonbPGetDatum(letter->properties);
	isnull[LETTER_TIMESTAMP - 1] = message->timestamp == 0;
	values[LETTER_TIMESTAMP - 1] = TimestampTzGetDatum(message->timestamp);
	values[LETTER_STATEMENT - 1] = Int32GetDatum(letter->statement);
	put_text(values, isnull, LETTER_COLUMN, letter->column);
	put_text(values, isnull, LETTER_SQLSTATE, unpack_sql_state(letter->sqlstate));
	put_text(values, isnull, LETTER_MESSAGE, letter->text ? letter->text : "");
	put_text(values, isnull, LETTER_DETAIL, letter->detail);
	values[LETTER_FAILED_AT - 1] = TimestampTzGetDatum(GetCurrentTimestamp());
	values[LETTER_REDRIVE - 1] = BoolGetDatum(false);
	write_letter(values, isnull);
}

void
penstock_dead_letter_restore(Oid pipe, const char *pipe_name, Oid owner, Oid source, const Datum *columns, const bool *isnull)
{
	Datum		values[LETTER_NATTS] = {0};
	bool		nulls[LETTER_NATTS] = {false};

	values[LETTER_PIPE - 1] = ObjectIdGetDatum(pipe);
	put_text(values, nulls, LETTER_PIPE_NAME, pipe_name);
	values[LETTER_OWNER - 1] = ObjectIdGetDatum(owner);
	values[LETTER_SOURCE - 1] = ObjectIdGetDatum(source);
	memcpy(&values[LETTER_PARTITION - 1], columns, (LETTER_NATTS - LETTER_PARTITION + 1) * sizeof(Datum));
	memcpy(&nulls[LETTER_PARTITION - 1], isnull, (LETTER_NATTS - LETTER_PARTITION + 1) * sizeof(bool));
	write_letter(values, nulls);
}

List *
penstock_dead_letter_owners(void)
{
	PenstockOwnTable table = penstock_own_table_open("dead_letter", AccessShareLock, LETTER_NATTS);
	SysScanDesc scan = systable_beginscan(table.rel, InvalidOid, false, GetActiveSnapshot(), 0, NULL);
	List	   *owners = NIL;
	HeapTuple	tuple;

	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		bool		isnull;

		owners = list_append_unique_oid(owners, DatumGetObjectId(heap_getattr(tuple, LETTER_OWNER, RelationGetDescr(table.rel), &isnull)));
	}
	systable_endscan(scan);
	table_close(table.rel, AccessShareLock);
	return owners;
}

/* A bytea or text column as bytes of our own; NULL if it is null. */
static const char *
get_bytes(Datum *values, bool *isnull, int column, int *length)
{
	struct varlena *value;

	*length = 0;
	if (isnull[column - 1])
		return NULL;
	value = PG_DETOAST_DATUM_COPY(values[column - 1]);
	*length = VARSIZE(value) - VARHDRSZ;
	return VARDATA(value);
}

static PenstockRedriven *
read_letter(HeapTuple tuple, TupleDesc desc)
{
	PenstockRedriven *letter = palloc0(sizeof(PenstockRedriven));
	PenstockMessage *message = &letter->message;
	Datum		values[LETTER_NATTS];
	bool		isnull[LETTER_NATTS];

	heap_deform_tuple(tuple, desc, values, isnull);
	letter->id = DatumGetInt64(values[LETTER_ID - 1]);
	message->partition = isnull[LETTER_PARTITION - 1] ? "" : TextDatumGetCString(values[LETTER_PARTITION - 1]);
	message->offset = isnull[LETTER_OFFSET - 1] ? 0 : DatumGetInt64(values[LETTER_OFFSET - 1]);
	message->id = get_bytes(values, isnull, LETTER_MESSAGE_ID, &message->id_length);
	message->key = get_bytes(values, isnull, LETTER_KEY, &message->key_length);
	message->payload = get_bytes(values, isnull, LETTER_PAYLOAD, &message->length);
	if (!isnull[LETTER_HEADERS - 1])
		letter->headers = (Jsonb *) PG_DETOAST_DATUM_COPY(values[LETTER_HEADERS - 1]);
	if (!isnull[LETTER_PROPERTIES - 1])
		letter->properties = (Jsonb *) PG_DETOAST_DATUM_COPY(values[LETTER_PROPERTIES - 1]);
	if (!isnull[LETTER_TIMESTAMP - 1])
		message->timestamp = DatumGetTimestampTz(values[LETTER_TIMESTAMP - 1]);
	return letter;
}

static int
compare_letters(const ListCell *a, const ListCell *b)
{
	int64		left = ((PenstockRedriven *) lfirst(a))->id;
	int64		right = ((PenstockRedriven *) lfirst(b))->id;

	return left < right ? -1 : left > right;
}

/*
 * penstock_dead_letters_take, see pipe_registry.h.
 */
List *
penstock_dead_letters_take(Oid pipe, int most)
{
	PenstockOwnTable table = penstock_own_table_open("dead_letter", RowExclusiveLock, LETTER_NATTS);
	List	   *indexes = RelationGetIndexList(table.rel);
	List	   *letters = NIL;
	ScanKeyData keys[2];
	SysScanDesc scan;
	HeapTuple	tuple;

	ScanKeyInit(&keys[0], LETTER_PIPE, BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(pipe));
	ScanKeyInit(&keys[1], LETTER_REDRIVE, BTEqualStrategyNumber, F_BOOLEQ, BoolGetDatum(true));
	/* the second index is over (pipe, redrive) */
	scan = systable_beginscan(table.rel, llast_oid(indexes), list_length(indexes) == 2, NULL, 2, keys);
	while (list_length(letters) < most && HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		letters = lappend(letters, read_letter(tuple, RelationGetDescr(table.rel)));
		CatalogTupleDelete(table.rel, &tuple->t_self);
	}
	systable_endscan(scan);
	list_free(indexes);
	table_close(table.rel, NoLock);
	CommandCounterIncrement();
	list_sort(letters, compare_letters);
	return letters;
}
