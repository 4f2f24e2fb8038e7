/*
 * producer_registry.c
 *	  Rows of penstock.producer to and from structs.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/index.h"
#include "catalog/indexing.h"
#include "catalog/namespace.h"
#include "common/hashfn.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "storage/lock.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "catalogue/producer_registry.h"
#include "compat/compat.h"

/* columns of penstock.producer */
enum
{
	PRODUCER_STREAM = 1,
	PRODUCER_NAME,
	PRODUCER_OWNER,
	PRODUCER_EPOCH,
	PRODUCER_SEQUENCE,
	PRODUCER_EPOCH_AT,
	PRODUCER_LAST_BATCH_AT,
	PRODUCER_NATTS = PRODUCER_LAST_BATCH_AT
};

/* Where this process has seen rows last; what stands there is looked at before it is believed. */
#define RECENT_ROWS 64
static struct
{
	uint64		hash;
	ItemPointerData tid;
}			recent[RECENT_ROWS];

static uint64
hash_of(Oid stream, const char *producer)
{
	return hash_bytes_extended((const unsigned char *) producer, strlen(producer), stream);
}

Oid
penstock_producer_registry_oid(void)
{
	Oid			namespace_oid = get_namespace_oid("penstock", true);

	return OidIsValid(namespace_oid) ? get_relname_relid("producer", namespace_oid) : InvalidOid;
}

void
penstock_producer_registry_announce(void)
{
	CacheInvalidateRelcacheByRelid(penstock_own_table_oid("producer"));
}

/*
 * penstock_producer_lock, see producer_registry.h.  The lock is one of an object of penstock.producer, named by 48 bits of a hash: two
 * producers that share them wait for each other, and nothing worse.
 */
bool
penstock_producer_lock(const PenstockOwnTable *table, Oid stream, const char *producer, bool wait)
{
	uint64		hash = hash_of(stream, producer);
	LOCKTAG		tag;

	SET_LOCKTAG_OBJECT(tag, MyDatabaseId, RelationGetRelid(table->rel), (uint32) hash, (uint16) (hash >> 32));
	return LockAcquire(&tag, ExclusiveLock, false, !wait) != LOCKACQUIRE_NOT_AVAIL;
}

PenstockOwnTable
penstock_producer_open(void)
{
	return penstock_own_table_open("producer", RowExclusiveLock, PRODUCER_NATTS);
}

static void
read_row(HeapTuple tuple, TupleDesc desc, PenstockProducerRow *row)
{
	Datum		values[PRODUCER_NATTS];
	bool		isnull[PRODUCER_NATTS];

	heap_deform_tuple(tuple, desc, values, isnull);
	row->tid = tuple->t_self;
	row->stream = DatumGetObjectId(values[PRODUCER_STREAM - 1]);
	row->producer = TextDatumGetCString(values[PRODUCER_NAME - 1]);
	row->owner = DatumGetObjectId(values[PRODUCER_OWNER - 1]);
	row->epoch = DatumGetInt64(values[PRODUCER_EPOCH - 1]);
	row->sequence = DatumGetInt64(values[PRODUCER_SEQUENCE - 1]);
	row->epoch_at = DatumGetTimestampTz(values[PRODUCER_EPOCH_AT - 1]);
	row->last_batch_at = isnull[PRODUCER_LAST_BATCH_AT - 1] ? 0 : DatumGetTimestampTz(values[PRODUCER_LAST_BATCH_AT - 1]);
}

static void
remember(const PenstockProducerRow *row)
{
	uint64		hash = hash_of(row->stream, row->producer);

	recent[hash % RECENT_ROWS].hash = hash;
	recent[hash % RECENT_ROWS].tid = row->tid;
}

/*
 * Looks at where this process has seen the row last.  It is the right one if it is visible now: there is one such row of a name.  Room for
 * the update to come is made as an index scan would make it.
 */
static bool
find_recent(PenstockOwnTable *table, Oid stream, const char *producer, PenstockProducerRow *row)
{
	uint64		hash = hash_of(stream, producer);
	Relation	rel = table->rel;
	PenstockProducerRow there;
	HeapTupleData tuple;
	Snapshot	snapshot;
	Buffer		buffer;
	bool		found;

	tuple.t_self = recent[hash % RECENT_ROWS].tid;
	if (recent[hash % RECENT_ROWS].hash != hash || !ItemPointerIsValid(&tuple.t_self) ||
		ItemPointerGetBlockNumber(&tuple.t_self) >= RelationGetNumberOfBlocks(rel))
		return false;
	snapshot = RegisterSnapshot(GetCatalogSnapshot(RelationGetRelid(rel)));
	found = heap_fetch(rel, snapshot, &tuple, &buffer, false);
	if (found)
	{
		read_row(&tuple, RelationGetDescr(rel), &there);
		found = there.stream == stream && strcmp(there.producer, producer) == 0;
		if (found)
			*row = there;
		heap_page_prune_opt(rel, buffer);
		ReleaseBuffer(buffer);
	}
	UnregisterSnapshot(snapshot);
	return found;
}

/*
 * penstock_producer_find, see producer_registry.h.  Newer versions of a row tend to stand at the end, so the index is read
 * from there: while an old snapshot keeps all of them, the first is the right one.
 */
bool
penstock_producer_find(PenstockOwnTable *table, Oid stream, const char *producer, PenstockProducerRow *row)
{
	Relation	index;
	Datum		name;
	ScanKeyData keys[2];
	SysScanDesc scan;
	HeapTuple	tuple;
	bool		found;

	if (find_recent(table, stream, producer, row))
		return true;
	index = index_open(table->index, AccessShareLock);
	name = CStringGetTextDatum(producer);
	ScanKeyInit(&keys[0], PRODUCER_STREAM, BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(stream));
	ScanKeyInit(&keys[1], PRODUCER_NAME, BTEqualStrategyNumber, F_TEXTEQ, name);
	scan = systable_beginscan_ordered(table->rel, index, NULL, 2, keys);
	tuple = systable_getnext_ordered(scan, BackwardScanDirection);
	found = HeapTupleIsValid(tuple);
	if (found)
	{
		read_row(tuple, RelationGetDescr(table->rel), row);
		remember(row);
	}
	systable_endscan_ordered(scan);
	index_close(index, AccessShareLock);
	pfree(DatumGetPointer(name));
	return found;
}

/*
 * What CatalogTupleUpdate does; but the index is opened only where it needs an entry, which is where the page has no room for the new version.
 */
static void
update_row(PenstockOwnTable *table, ItemPointer tid, HeapTuple tuple)
{
	Relation	index;
	Datum		values[2];
	bool		isnull[2];

	if (!penstock_heap_update(table->rel, tid, tuple))
		return;
	values[0] = heap_getattr(tuple, PRODUCER_STREAM, RelationGetDescr(table->rel), &isnull[0]);
	values[1] = heap_getattr(tuple, PRODUCER_NAME, RelationGetDescr(table->rel), &isnull[1]);
	index = index_open(table->index, RowExclusiveLock);
	(void) index_insert(index, values, isnull, &tuple->t_self, table->rel, UNIQUE_CHECK_YES, true, BuildIndexInfo(index));
	index_close(index, RowExclusiveLock);
}

void
penstock_producer_write(PenstockOwnTable *table, PenstockProducerRow *row)
{
	Datum		values[PRODUCER_NATTS];
	bool		isnull[PRODUCER_NATTS] = {false};
	HeapTuple	tuple;

	values[PRODUCER_STREAM - 1] = ObjectIdGetDatum(row->stream);
	values[PRODUCER_NAME - 1] = CStringGetTextDatum(row->producer);
	values[PRODUCER_OWNER - 1] = ObjectIdGetDatum(row->owner);
	values[PRODUCER_EPOCH - 1] = Int64GetDatum(row->epoch);
	values[PRODUCER_SEQUENCE - 1] = Int64GetDatum(row->sequence);
	values[PRODUCER_EPOCH_AT - 1] = TimestampTzGetDatum(row->epoch_at);
	values[PRODUCER_LAST_BATCH_AT - 1] = TimestampTzGetDatum(row->last_batch_at);
	isnull[PRODUCER_LAST_BATCH_AT - 1] = row->last_batch_at == 0;

	tuple = heap_form_tuple(RelationGetDescr(table->rel), values, isnull);
	if (ItemPointerIsValid(&row->tid))
		update_row(table, &row->tid, tuple);
	else
		CatalogTupleInsert(table->rel, tuple);
	row->tid = tuple->t_self;
	remember(row);
	heap_freetuple(tuple);
	CommandCounterIncrement();
}

void
penstock_producer_delete(PenstockOwnTable *table, const PenstockProducerRow *row)
{
	ItemPointerData tid = row->tid;

	CatalogTupleDelete(table->rel, &tid);
	CommandCounterIncrement();
}

List *
penstock_producer_list(PenstockOwnTable *table, Oid stream)
{
	ScanKeyData key;
	SysScanDesc scan;
	List	   *rows = NIL;
	HeapTuple	tuple;

	ScanKeyInit(&key, PRODUCER_STREAM, BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(stream));
	scan = systable_beginscan(table->rel, table->index, OidIsValid(stream) && OidIsValid(table->index), NULL,
							  OidIsValid(stream) ? 1 : 0, &key);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		PenstockProducerRow *row = palloc0(sizeof(PenstockProducerRow));

		read_row(tuple, RelationGetDescr(table->rel), row);
		rows = lappend(rows, row);
	}
	systable_endscan(scan);
	return rows;
}
