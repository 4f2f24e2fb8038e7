/*
 * pipe_registry.c
 *	  Rows of penstock.pipe, penstock.source_position and penstock.seen_message to and from structs.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/transam.h"
#include "access/xact.h"
#include "catalog/indexing.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "common/hashfn.h"
#include "miscadmin.h"
#include "storage/lock.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/syscache.h"

#include "catalogue/own_table.h"
#include "catalogue/pipe_registry.h"
#include "catalogue/registry.h"
#include "compat/compat.h"

/* columns of penstock.pipe */
enum
{
	PIPE_OID = 1,
	PIPE_NAME,
	PIPE_OWNER,
	PIPE_SOURCE,
	PIPE_STATEMENTS,
	PIPE_STATUS,
	PIPE_ERROR,
	PIPE_ON_ERROR,
	PIPE_BATCH_ROWS,
	PIPE_BATCH_BYTES,
	PIPE_BATCH_TIME,
	PIPE_DEDUP_WINDOW,
	PIPE_DEDUP_KEY,
	PIPE_SETTINGS,
	PIPE_NATTS = PIPE_SETTINGS
};

/* columns of penstock.source_position */
enum
{
	PLACE_PIPE = 1,
	PLACE_PARTITION,
	PLACE_AT,
	PLACE_ROW,
	PLACE_NATTS = PLACE_ROW
};

/* columns of penstock.seen_message */
enum
{
	SEEN_PIPE = 1,
	SEEN_HASH,
	SEEN_ID,
	SEEN_AT,
	SEEN_NATTS = SEEN_AT
};

/* ---- penstock.pipe ---- */

Oid
penstock_pipe_registry_oid(void)
{
	Oid			namespace_oid = get_namespace_oid("penstock", true);

	return OidIsValid(namespace_oid) ? get_relname_relid("pipe", namespace_oid) : InvalidOid;
}

/*
 * penstock_pipe_lock takes the lock of a pipe until the end of the transaction: shared for whoever runs a
 * batch of it, exclusive for whoever changes it.  False if it is not to be had now (only without wait).
 */
bool
penstock_pipe_lock(Oid pipe, bool exclusive, bool wait)
{
	LOCKTAG		tag;

	SET_LOCKTAG_OBJECT(tag, MyDatabaseId, penstock_own_table_oid("pipe"), pipe, 0);
	return LockAcquire(&tag, exclusive ? ExclusiveLock : ShareLock, false, !wait) != LOCKACQUIRE_NOT_AVAIL;
}

static void
announce_change(void)
{
	CacheInvalidateRelcacheByRelid(penstock_own_table_oid("pipe"));
}

static void
text_value(Datum *values, bool *isnull, int column, const char *text)
{
	isnull[column - 1] = text == NULL;
	values[column - 1] = text ? CStringGetTextDatum(text) : (Datum) 0;
}

static void
write_pipe(const PenstockPipeRow *row, bool insert)
{
	Datum		values[PIPE_NATTS];
	bool		isnull[PIPE_NATTS] = {false};

	values[PIPE_OID - 1] = ObjectIdGetDatum(row->oid);
	text_value(values, isnull, PIPE_NAME, row->name);
	values[PIPE_OWNER - 1] = ObjectIdGetDatum(row->owner);
	values[PIPE_SOURCE - 1] = ObjectIdGetDatum(row->source);
	text_value(values, isnull, PIPE_STATEMENTS, row->statements);
	values[PIPE_STATUS - 1] = CharGetDatum((char) row->status);
	text_value(values, isnull, PIPE_ERROR, row->error);
	values[PIPE_ON_ERROR - 1] = CharGetDatum((char) row->on_error);
	values[PIPE_BATCH_ROWS - 1] = Int32GetDatum(row->batch_rows);
	values[PIPE_BATCH_BYTES - 1] = Int64GetDatum(row->batch_bytes);
	values[PIPE_BATCH_TIME - 1] = Int32GetDatum(row->batch_time);
	values[PIPE_DEDUP_WINDOW - 1] = Int64GetDatum(row->dedup_window);
	text_value(values, isnull, PIPE_DEDUP_KEY, row->dedup_key);
	text_value(values, isnull, PIPE_SETTINGS, row->settings);

	penstock_own_table_write("pipe", PIPE_NATTS, row->oid, values, isnull, insert);
	announce_change();
}

static char *
read_text(Datum *values, bool *isnull, int column)
{
	return isnull[column - 1] ? NULL : TextDatumGetCString(values[column - 1]);
}

static PenstockPipeRow *
read_pipe(HeapTuple tuple, TupleDesc desc)
{
	PenstockPipeRow *row = palloc0(sizeof(PenstockPipeRow));
	Datum		values[PIPE_NATTS];
	bool		isnull[PIPE_NATTS];

	heap_deform_tuple(tuple, desc, values, isnull);
	row->oid = DatumGetObjectId(values[PIPE_OID - 1]);
	row->name = read_text(values, isnull, PIPE_NAME);
	row->owner = DatumGetObjectId(values[PIPE_OWNER - 1]);
	row->source = DatumGetObjectId(values[PIPE_SOURCE - 1]);
	row->statements = read_text(values, isnull, PIPE_STATEMENTS);
	row->status = (PenstockPipeStatus) DatumGetChar(values[PIPE_STATUS - 1]);
	row->error = read_text(values, isnull, PIPE_ERROR);
	row->on_error = (PenstockOnError) DatumGetChar(values[PIPE_ON_ERROR - 1]);
	row->batch_rows = DatumGetInt32(values[PIPE_BATCH_ROWS - 1]);
	row->batch_bytes = DatumGetInt64(values[PIPE_BATCH_BYTES - 1]);
	row->batch_time = DatumGetInt32(values[PIPE_BATCH_TIME - 1]);
	row->dedup_window = DatumGetInt64(values[PIPE_DEDUP_WINDOW - 1]);
	row->dedup_key = read_text(values, isnull, PIPE_DEDUP_KEY);
	row->settings = read_text(values, isnull, PIPE_SETTINGS);
	return row;
}

/* An OID that is no pipe's and no relation's: relations and pipes are consumers in one table. */
static Oid
new_oid(void)
{
	Oid			oid;

	do
	{
		CHECK_FOR_INTERRUPTS();
		oid = GetNewObjectId();
	} while (SearchSysCacheExists1(RELOID, ObjectIdGetDatum(oid)) || penstock_pipe_get(oid) != NULL);
	return oid;
}

void
penstock_pipe_insert(PenstockPipeRow *row)
{
	if (!OidIsValid(row->oid))
		row->oid = new_oid();
	write_pipe(row, true);
}

void
penstock_pipe_update(const PenstockPipeRow *row)
{
	write_pipe(row, false);
}

/* Deletes every row of a pipe in a table whose first column is the pipe. */
static void
delete_all(const char *name, int natts, Oid pipe)
{
	PenstockOwnTable table = penstock_own_table_open(name, RowExclusiveLock, natts);
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;

	ScanKeyInit(&key, 1, BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(pipe));
	scan = systable_beginscan(table.rel, table.index, true, NULL, 1, &key);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
		CatalogTupleDelete(table.rel, &tuple->t_self);
	systable_endscan(scan);
	table_close(table.rel, NoLock);
	CommandCounterIncrement();
}

void
penstock_pipe_delete(Oid pipe)
{
	penstock_own_table_delete("pipe", PIPE_NATTS, pipe);
	delete_all("source_position", PLACE_NATTS, pipe);
	delete_all("seen_message", SEEN_NATTS, pipe);
	penstock_position_delete(pipe);
	announce_change();
}

PenstockPipeRow *
penstock_pipe_get(Oid pipe)
{
	PenstockOwnTable table = penstock_own_table_open("pipe", AccessShareLock, PIPE_NATTS);
	HeapTuple	tuple = penstock_own_table_find(&table, pipe, NULL);
	PenstockPipeRow *row = NULL;

	if (HeapTupleIsValid(tuple))
	{
		row = read_pipe(tuple, RelationGetDescr(table.rel));
		heap_freetuple(tuple);
	}
	table_close(table.rel, AccessShareLock);
	return row;
}

List *
penstock_pipe_list(Snapshot snapshot)
{
	PenstockOwnTable table = penstock_own_table_open("pipe", AccessShareLock, PIPE_NATTS);
	SysScanDesc scan = systable_beginscan(table.rel, InvalidOid, false, snapshot, 0, NULL);
	List	   *rows = NIL;
	HeapTuple	tuple;

	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
		rows = lappend(rows, read_pipe(tuple, RelationGetDescr(table.rel)));
	systable_endscan(scan);
	table_close(table.rel, AccessShareLock);
	return rows;
}

PenstockPipeRow *
penstock_pipe_by_name(const char *name)
{
	ListCell   *lc;

	foreach(lc, penstock_pipe_list(NULL))
		if (strcmp(((PenstockPipeRow *) lfirst(lc))->name, name) == 0)
			return lfirst(lc);
	return NULL;
}

/* ---- penstock.source_position ---- */

/*
 * penstock_places_read returns the places of a pipe, in the current context.
 */
PenstockPlace *
penstock_places_read(Oid pipe, int *n)
{
	PenstockOwnTable table = penstock_own_table_open("source_position", AccessShareLock, PLACE_NATTS);
	PenstockPlace *places = NULL;
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;
	int			max = 0;

	*n = 0;
	ScanKeyInit(&key, 1, BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(pipe));
	scan = systable_beginscan(table.rel, table.index, true, NULL, 1, &key);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		Datum		values[PLACE_NATTS];
		bool		isnull[PLACE_NATTS];

		heap_deform_tuple(tuple, RelationGetDescr(table.rel), values, isnull);
		if (*n == max)
		{
			max = Max(8, max * 2);
			places = places ? repalloc(places, max * sizeof(PenstockPlace)) : palloc(max * sizeof(PenstockPlace));
		}
		places[*n].partition = TextDatumGetCString(values[PLACE_PARTITION - 1]);
		places[*n].at = DatumGetInt64(values[PLACE_AT - 1]);
		places[*n].row = DatumGetInt64(values[PLACE_ROW - 1]);
		(*n)++;
	}
	systable_endscan(scan);
	table_close(table.rel, AccessShareLock);
	return places;
}

/* The row of a partition: a copy, or NULL. */
static HeapTuple
find_place(PenstockOwnTable *table, Oid pipe, const char *partition)
{
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;

	ScanKeyInit(&key, 1, BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(pipe));
	scan = systable_beginscan(table->rel, table->index, true, NULL, 1, &key);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		bool		isnull;
		Datum		name = heap_getattr(tuple, PLACE_PARTITION, RelationGetDescr(table->rel), &isnull);

		if (!isnull && strcmp(TextDatumGetCString(name), partition) == 0)
			break;
	}
	if (HeapTupleIsValid(tuple))
		tuple = heap_copytuple(tuple);
	systable_endscan(scan);
	return tuple;
}

/*
 * penstock_places_write stores how far these partitions have been read.
 */
void
penstock_places_write(Oid pipe, const PenstockPlace *places, int n)
{
	PenstockOwnTable table = penstock_own_table_open("source_position", RowExclusiveLock, PLACE_NATTS);

	for (int i = 0; i < n; i++)
	{
		Datum		values[PLACE_NATTS];
		bool		isnull[PLACE_NATTS] = {false};
		HeapTuple	old = find_place(&table, pipe, places[i].partition);
		HeapTuple	tuple;

		values[PLACE_PIPE - 1] = ObjectIdGetDatum(pipe);
		values[PLACE_PARTITION - 1] = CStringGetTextDatum(places[i].partition);
		values[PLACE_AT - 1] = Int64GetDatum(places[i].at);
		values[PLACE_ROW - 1] = Int64GetDatum(places[i].row);
		tuple = heap_form_tuple(RelationGetDescr(table.rel), values, isnull);
		if (HeapTupleIsValid(old))
			CatalogTupleUpdate(table.rel, &old->t_self, tuple);
		else
			CatalogTupleInsert(table.rel, tuple);
	}
	table_close(table.rel, NoLock);
	CommandCounterIncrement();
}

/* ---- penstock.seen_message ---- */

bool
penstock_seen_add(Oid pipe, const char *id, int length, TimestampTz now)
{
	PenstockOwnTable table = penstock_own_table_open("seen_message", RowExclusiveLock, SEEN_NATTS);
	int64		hash = (int64) hash_bytes_extended((const unsigned char *) id, length, 0);
	bool		found = false;
	ScanKeyData keys[2];
	SysScanDesc scan;
	HeapTuple	tuple;

	ScanKeyInit(&keys[0], SEEN_PIPE, BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(pipe));
	ScanKeyInit(&keys[1], SEEN_HASH, BTEqualStrategyNumber, F_INT8EQ, Int64GetDatum(hash));
	scan = systable_beginscan(table.rel, table.index, true, NULL, 2, keys);
	while (!found && HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		bool		isnull;
		bytea	   *known = DatumGetByteaPP(heap_getattr(tuple, SEEN_ID, RelationGetDescr(table.rel), &isnull));

		found = VARSIZE_ANY_EXHDR(known) == length && memcmp(VARDATA_ANY(known), id, length) == 0;
	}
	systable_endscan(scan);

	if (!found)
	{
		Datum		values[SEEN_NATTS];
		bool		isnull[SEEN_NATTS] = {false};

		values[SEEN_PIPE - 1] = ObjectIdGetDatum(pipe);
		values[SEEN_HASH - 1] = Int64GetDatum(hash);
		values[SEEN_ID - 1] = PointerGetDatum(cstring_to_text_with_len(id, length));
		values[SEEN_AT - 1] = TimestampTzGetDatum(now);
		CatalogTupleInsert(table.rel, heap_form_tuple(RelationGetDescr(table.rel), values, isnull));
		CommandCounterIncrement();
	}
	table_close(table.rel, NoLock);
	return !found;
}

void
penstock_seen_clear(Oid pipe)
{
	delete_all("seen_message", SEEN_NATTS, pipe);
}

/*
 * penstock_seen_forget deletes at most so many ids of a pipe that were seen before a time.
 */
void
penstock_seen_forget(Oid pipe, TimestampTz before, int most)
{
	PenstockOwnTable table = penstock_own_table_open("seen_message", RowExclusiveLock, SEEN_NATTS);
	List	   *indexes = RelationGetIndexList(table.rel);
	ScanKeyData keys[2];
	SysScanDesc scan;
	HeapTuple	tuple;

	ScanKeyInit(&keys[0], SEEN_PIPE, BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(pipe));
	ScanKeyInit(&keys[1], SEEN_AT, BTLessStrategyNumber, F_TIMESTAMPTZ_LT, TimestampTzGetDatum(before));
	/* the second index is over (pipe, seen_at) */
	scan = systable_beginscan(table.rel, llast_oid(indexes), list_length(indexes) == 2, NULL, 2, keys);
	while (most-- > 0 && HeapTupleIsValid(tuple = systable_getnext(scan)))
		CatalogTupleDelete(table.rel, &tuple->t_self);
	systable_endscan(scan);
	list_free(indexes);
	table_close(table.rel, NoLock);
	CommandCounterIncrement();
}
