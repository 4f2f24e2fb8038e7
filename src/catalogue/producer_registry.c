/*
 * producer_registry.c
 *	  Rows of penstock.producer to and from structs.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/indexing.h"
#include "catalog/namespace.h"
#include "common/hashfn.h"
#include "miscadmin.h"
#include "storage/lock.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

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
penstock_producer_lock(Oid stream, const char *producer, bool wait)
{
	uint64		hash = hash_bytes_extended((const unsigned char *) producer, strlen(producer), stream);
	LOCKTAG		tag;

	SET_LOCKTAG_OBJECT(tag, MyDatabaseId, penstock_own_table_oid("producer"), (uint32) hash, (uint16) (hash >> 32));
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

/*
 * penstock_producer_find, see producer_registry.h.  Newer versions of a row tend to stand at the end, so the index is read
 * from there: while an old snapshot keeps all of them, the first is the right one.
 */
bool
penstock_producer_find(PenstockOwnTable *table, Oid stream, const char *producer, PenstockProducerRow *row)
{
	Relation	index = index_open(table->index, AccessShareLock);
	Datum		name = CStringGetTextDatum(producer);
	ScanKeyData keys[2];
	SysScanDesc scan;
	HeapTuple	tuple;

	ScanKeyInit(&keys[0], PRODUCER_STREAM, BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(stream));
	ScanKeyInit(&keys[1], PRODUCER_NAME, BTEqualStrategyNumber, F_TEXTEQ, name);
	scan = systable_beginscan_ordered(table->rel, index, NULL, 2, keys);
	tuple = systable_getnext_ordered(scan, BackwardScanDirection);
	if (HeapTupleIsValid(tuple))
		read_row(tuple, RelationGetDescr(table->rel), row);
	systable_endscan_ordered(scan);
	index_close(index, AccessShareLock);
	pfree(DatumGetPointer(name));
	return HeapTupleIsValid(tuple);
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
		CatalogTupleUpdate(table->rel, &row->tid, tuple);
	else
		CatalogTupleInsert(table->rel, tuple);
	row->tid = tuple->t_self;
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
