/*
 * registry.c
 *	  Rows of penstock.continuous_view and penstock.position to and from structs.
 *
 * Both are materialized views written with the server's routines for catalogs, which take any heap
 * with simple indexes.  Every change of the registry, and every change of a position by anybody but
 * the engine, sends a relcache invalidation of penstock.continuous_view: by that the engine of the
 * database, which keeps everything in memory, knows that it must read again.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/indexing.h"
#include "catalog/namespace.h"
#include "catalog/pg_namespace.h"
#include "miscadmin.h"
#include "storage/lock.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

#include "catalogue/own_table.h"
#include "catalogue/registry.h"
#include "compat/compat.h"
#include "util/errors.h"

/* columns of penstock.continuous_view */
enum
{
	VIEW_RELID = 1,
	VIEW_STATE,
	VIEW_STRATEGY,
	VIEW_STATUS,
	VIEW_FILENODE,
	VIEW_COMPLETE,
	VIEW_ERROR,
	VIEW_SETTINGS,
	VIEW_NATTS = VIEW_SETTINGS
};

/* columns of penstock.position */
enum
{
	POSITION_CONSUMER = 1,
	POSITION_SEEN,
	POSITION_UPTO,
	POSITION_CURSOR_STREAM,
	POSITION_CURSOR,
	POSITION_NATTS = POSITION_CURSOR
};

/* Tells the engine of this database, when this transaction commits, to read the registry again. */
static void
announce_change(void)
{
	CacheInvalidateRelcacheByRelid(penstock_own_table_oid("continuous_view"));
}

/* ---- penstock.continuous_view ---- */

static void
write_view(const PenstockViewRow *row, bool insert)
{
	Datum		values[VIEW_NATTS];
	bool		isnull[VIEW_NATTS] = {false};

	values[VIEW_RELID - 1] = ObjectIdGetDatum(row->relid);
	values[VIEW_STATE - 1] = ObjectIdGetDatum(row->state);
	values[VIEW_STRATEGY - 1] = CharGetDatum(row->strategy);
	values[VIEW_STATUS - 1] = CharGetDatum((char) row->status);
	values[VIEW_FILENODE - 1] = ObjectIdGetDatum(row->filenode);
	values[VIEW_COMPLETE - 1] = BoolGetDatum(row->complete);
	values[VIEW_ERROR - 1] = (Datum) 0;
	values[VIEW_SETTINGS - 1] = (Datum) 0;
	if (row->error)
		values[VIEW_ERROR - 1] = CStringGetTextDatum(row->error);
	else
		isnull[VIEW_ERROR - 1] = true;
	if (row->settings)
		values[VIEW_SETTINGS - 1] = CStringGetTextDatum(row->settings);
	else
		isnull[VIEW_SETTINGS - 1] = true;

	penstock_own_table_write("continuous_view", VIEW_NATTS, row->relid, values, isnull, insert);
	announce_change();
}

static PenstockViewRow *
read_view(HeapTuple tuple, TupleDesc desc)
{
	PenstockViewRow *row = palloc0(sizeof(PenstockViewRow));
	Datum		values[VIEW_NATTS];
	bool		isnull[VIEW_NATTS];

	heap_deform_tuple(tuple, desc, values, isnull);
	row->relid = DatumGetObjectId(values[VIEW_RELID - 1]);
	row->state = DatumGetObjectId(values[VIEW_STATE - 1]);
	row->strategy = DatumGetChar(values[VIEW_STRATEGY - 1]);
	row->status = (PenstockViewStatus) DatumGetChar(values[VIEW_STATUS - 1]);
	row->filenode = DatumGetObjectId(values[VIEW_FILENODE - 1]);
	row->complete = DatumGetBool(values[VIEW_COMPLETE - 1]);
	if (!isnull[VIEW_ERROR - 1])
		row->error = TextDatumGetCString(values[VIEW_ERROR - 1]);
	if (!isnull[VIEW_SETTINGS - 1])
		row->settings = TextDatumGetCString(values[VIEW_SETTINGS - 1]);
	return row;
}

/*
 * penstock_registry_oid returns the OID of penstock.continuous_view, or InvalidOid where the
 * extension does not exist.  Its relcache invalidation says that the registry has changed.
 */
Oid
penstock_registry_oid(void)
{
	Oid			namespace_oid = get_namespace_oid("penstock", true);

	return OidIsValid(namespace_oid) ? get_relname_relid("continuous_view", namespace_oid) : InvalidOid;
}

/*
 * penstock_registry_lock takes, until the end of the transaction, the right to change the row of a
 * view (or wait for whoever is changing it, if wait).  Returns false if it is not to be had now.  Read
 * the row after that.
 */
bool
penstock_registry_lock(Oid relid, bool wait)
{
	LOCKTAG		tag;

	SET_LOCKTAG_OBJECT(tag, MyDatabaseId, penstock_own_table_oid("continuous_view"), relid, 0);
	return LockAcquire(&tag, ExclusiveLock, false, !wait) != LOCKACQUIRE_NOT_AVAIL;
}

void
penstock_registry_insert(const PenstockViewRow *row)
{
	write_view(row, true);
}

void
penstock_registry_update(const PenstockViewRow *row)
{
	write_view(row, false);
}

/*
 * penstock_registry_delete forgets a view; no error if it is not there.
 */
void
penstock_registry_delete(Oid relid)
{
	penstock_own_table_delete("continuous_view", VIEW_NATTS, relid);
	announce_change();
}

/*
 * penstock_registry_get returns the row of a view, in the current context, or NULL.
 */
PenstockViewRow *
penstock_registry_get(Oid relid)
{
	PenstockOwnTable table = penstock_own_table_open("continuous_view", AccessShareLock, VIEW_NATTS);
	HeapTuple	tuple = penstock_own_table_find(&table, relid, NULL);
	PenstockViewRow *row = NULL;

	if (HeapTupleIsValid(tuple))
	{
		row = read_view(tuple, RelationGetDescr(table.rel));
		heap_freetuple(tuple);
	}
	table_close(table.rel, AccessShareLock);
	return row;
}

/*
 * penstock_registry_is_new tells whether the present row of a view is this transaction's own.
 */
bool
penstock_registry_is_new(Oid relid)
{
	PenstockOwnTable table = penstock_own_table_open("continuous_view", AccessShareLock, VIEW_NATTS);
	HeapTuple	tuple = penstock_own_table_find(&table, relid, NULL);
	bool		result = HeapTupleIsValid(tuple) &&
		TransactionIdIsCurrentTransactionId(HeapTupleHeaderGetXmin(tuple->t_data));

	if (HeapTupleIsValid(tuple))
		heap_freetuple(tuple);
	table_close(table.rel, AccessShareLock);
	return result;
}

static int
compare_rows(const ListCell *a, const ListCell *b)
{
	Oid			left = ((PenstockViewRow *) lfirst(a))->relid;
	Oid			right = ((PenstockViewRow *) lfirst(b))->relid;

	return left < right ? -1 : left > right;
}

/*
 * penstock_registry_list returns all rows (PenstockViewRow *) in order of relid, in the current
 * context.
 */
List *
penstock_registry_list(void)
{
	PenstockOwnTable table = penstock_own_table_open("continuous_view", AccessShareLock, VIEW_NATTS);
	SysScanDesc scan = systable_beginscan(table.rel, InvalidOid, false, NULL, 0, NULL);
	List	   *rows = NIL;
	HeapTuple	tuple;

	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
		rows = lappend(rows, read_view(tuple, RelationGetDescr(table.rel)));
	systable_endscan(scan);
	table_close(table.rel, AccessShareLock);

	list_sort(rows, compare_rows);
	return rows;
}

/* ---- penstock.position ---- */

static void
write_position(Oid consumer, const PenstockPosition *position, bool insert)
{
	Datum		values[POSITION_NATTS];
	bool		isnull[POSITION_NATTS] = {false};

	values[POSITION_CONSUMER - 1] = ObjectIdGetDatum(consumer);
	values[POSITION_SEEN - 1] = position->lower;
	values[POSITION_UPTO - 1] = position->slicing ? position->upper : (Datum) 0;
	values[POSITION_CURSOR_STREAM - 1] = ObjectIdGetDatum(position->cursor_relid);
	values[POSITION_CURSOR - 1] = PointerGetDatum(&position->cursor);
	isnull[POSITION_UPTO - 1] = isnull[POSITION_CURSOR_STREAM - 1] =
		isnull[POSITION_CURSOR - 1] = !position->slicing;

	penstock_own_table_write("position", POSITION_NATTS, consumer, values, isnull, insert);

	/* the engine itself knows */
	if (insert || MyBackendType != B_BG_WORKER)
		announce_change();
}

/*
 * penstock_position_insert makes a consumer known, with the position it starts from.
 */
void
penstock_position_insert(Oid consumer, const PenstockPosition *position)
{
	write_position(consumer, position, true);
}

/*
 * penstock_position_update moves a consumer, which must be known.
 */
void
penstock_position_update(Oid consumer, const PenstockPosition *position)
{
	write_position(consumer, position, false);
}

/*
 * penstock_position_delete forgets a consumer; no error if it is not there.
 */
void
penstock_position_delete(Oid consumer)
{
	penstock_own_table_delete("position", POSITION_NATTS, consumer);
	announce_change();
}

/*
 * penstock_position_get reads a consumer's position, as the snapshot (NULL: the latest) sees it, into *position, whose own
 * snapshots are in the current context; false if there is none.
 */
bool
penstock_position_get(Oid consumer, Snapshot snapshot, PenstockPosition *position)
{
	PenstockOwnTable table = penstock_own_table_open("position", AccessShareLock, POSITION_NATTS);
	HeapTuple	tuple = penstock_own_table_find(&table, consumer, snapshot);
	Datum		values[POSITION_NATTS];
	bool		isnull[POSITION_NATTS];

	memset(position, 0, sizeof(PenstockPosition));
	ItemPointerSetInvalid(&position->cursor);
	if (!HeapTupleIsValid(tuple))
	{
		table_close(table.rel, AccessShareLock);
		return false;
	}

	heap_deform_tuple(tuple, RelationGetDescr(table.rel), values, isnull);
	if (isnull[POSITION_SEEN - 1])
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("the position of consumer %u is damaged", consumer)));
	position->lower = penstock_position_copy(values[POSITION_SEEN - 1]);
	if (!isnull[POSITION_UPTO - 1])
	{
		if (isnull[POSITION_CURSOR_STREAM - 1] || isnull[POSITION_CURSOR - 1])
			ereport(ERROR,
					(errcode(ERRCODE_DATA_CORRUPTED),
					 errmsg("the position of consumer %u is damaged", consumer)));
		position->slicing = true;
		position->upper = penstock_position_copy(values[POSITION_UPTO - 1]);
		position->cursor_relid = DatumGetObjectId(values[POSITION_CURSOR_STREAM - 1]);
		position->cursor = *(ItemPointer) DatumGetPointer(values[POSITION_CURSOR - 1]);
	}
	heap_freetuple(tuple);
	table_close(table.rel, AccessShareLock);
	return true;
}

/*
 * penstock_position_check_rewrite raises ERRCODE_OBJECT_IN_USE if a consumer works off a backlog in slices
 * and the last slice ended within this stream: its address would lose its meaning.
 */
void
penstock_position_check_rewrite(Oid stream)
{
	PenstockOwnTable table = penstock_own_table_open("position", AccessShareLock, POSITION_NATTS);
	SysScanDesc scan = systable_beginscan(table.rel, InvalidOid, false, NULL, 0, NULL);
	HeapTuple	tuple;

	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		bool		isnull;
		Datum		cursor = heap_getattr(tuple, POSITION_CURSOR_STREAM,
										  RelationGetDescr(table.rel), &isnull);

		if (!isnull && DatumGetObjectId(cursor) == stream)
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_IN_USE),
					 errmsg("stream \"%s\" cannot be rewritten now", get_rel_name(stream)),
					 errdetail("A continuous view works off a backlog of its events in slices."),
					 errhint("Wait until it has caught up: penstock.catch_up().")));
	}
	systable_endscan(scan);
	table_close(table.rel, AccessShareLock);
}
