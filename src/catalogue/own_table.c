/*
 * own_table.c
 *	  Penstock's own tables: materialized views that only the library writes.
 *
 * They are written with the server's routines for catalogs, which take any heap with simple indexes.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/indexing.h"
#include "catalog/namespace.h"
#include "commands/trigger.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

#include "catalogue/own_table.h"
#include "compat/compat.h"
#include "util/errors.h"

PG_FUNCTION_INFO_V1(penstock_not_replicated);

Oid
penstock_own_table_oid(const char *name)
{
	Oid			namespace_oid = get_namespace_oid("penstock", true);
	Oid			relid = OidIsValid(namespace_oid) ? get_relname_relid(name, namespace_oid) : InvalidOid;

	if (!OidIsValid(relid))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("penstock.%s does not exist", name),
				 errhint("Create the extension in this database: CREATE EXTENSION penstock.")));
	return relid;
}

PenstockOwnTable
penstock_own_table_open(const char *name, LOCKMODE lockmode, int natts)
{
	PenstockOwnTable table;
	List	   *indexes;

	table.rel = table_open(penstock_own_table_oid(name), lockmode);
	if (RelationGetDescr(table.rel)->natts != natts)
		ereport(ERROR,
				(errcode(ERRCODE_PENSTOCK_VERSION),
				 errmsg("penstock.%s has %d columns where the library expects %d",
						name, RelationGetDescr(table.rel)->natts, natts),
				 errhint("Run ALTER EXTENSION penstock UPDATE, or restart the server if the extension was updated.")));
	indexes = RelationGetIndexList(table.rel);
	table.index = indexes == NIL ? InvalidOid : linitial_oid(indexes);
	list_free(indexes);
	return table;
}

HeapTuple
penstock_own_table_find(PenstockOwnTable *table, Oid key, Snapshot snapshot)
{
	ScanKeyData scankey;
	SysScanDesc scan;
	HeapTuple	tuple;

	ScanKeyInit(&scankey, 1, BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(key));
	scan = systable_beginscan(table->rel, table->index, OidIsValid(table->index), snapshot, 1, &scankey);
	tuple = systable_getnext(scan);
	if (HeapTupleIsValid(tuple))
		tuple = heap_copytuple(tuple);
	systable_endscan(scan);
	return tuple;
}

void
penstock_own_table_write(const char *name, int natts, Oid key, Datum *values, bool *isnull, bool insert)
{
	PenstockOwnTable table = penstock_own_table_open(name, RowExclusiveLock, natts);
	HeapTuple	tuple = heap_form_tuple(RelationGetDescr(table.rel), values, isnull);

	if (insert)
		CatalogTupleInsert(table.rel, tuple);
	else
	{
		HeapTuple	old = penstock_own_table_find(&table, key, NULL);

		if (!HeapTupleIsValid(old))
			elog(ERROR, "penstock.%s has no row for %u", name, key);
		CatalogTupleUpdate(table.rel, &old->t_self, tuple);
		heap_freetuple(old);
	}
	heap_freetuple(tuple);
	table_close(table.rel, NoLock);
	CommandCounterIncrement();
}

void
penstock_own_table_delete(const char *name, int natts, Oid key)
{
	PenstockOwnTable table = penstock_own_table_open(name, RowExclusiveLock, natts);
	HeapTuple	old = penstock_own_table_find(&table, key, NULL);

	if (HeapTupleIsValid(old))
	{
		CatalogTupleDelete(table.rel, &old->t_self);
		heap_freetuple(old);
	}
	table_close(table.rel, NoLock);
	CommandCounterIncrement();
}

/*
 * penstock_not_replicated() → trigger: the row is left out.  It is enabled where logical replication writes, and only there.
 */
Datum
penstock_not_replicated(PG_FUNCTION_ARGS)
{
	if (!CALLED_AS_TRIGGER(fcinfo))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("penstock.not_replicated() was not called by a trigger")));
	PG_RETURN_POINTER(NULL);
}
