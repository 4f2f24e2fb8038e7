/*
 * claim_object.c
 *	  Rows of penstock.claim_object: which payload is where.
 *
 * The table is an ordinary one, so that pg_dump carries it.  Tickets lock the row of their object like a foreign key locks what it refers to:
 * whoever uses an object once more takes a KEY SHARE lock of its row, and the collector removes no row that is locked.  Nobody ever
 * waits for such a lock: who does not get it stores the payload once more, and the collector puts the two together.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/indexing.h"
#include "catalog/namespace.h"
#include "catalog/pg_am.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "commands/sequence.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/typcache.h"

#include "catalogue/own_table.h"
#include "claim/claim_internal.h"
#include "compat/compat.h"
#include "util/engine_call.h"

/* Columns of penstock.claim_object. */
enum
{
	A_CLAIM = 1, A_LOID, A_OWNER, A_DICTIONARY, A_STORED, A_STORED_AT, A_EXPIRES_AT, A_UNHELD_SINCE, A_DUPLICATE, A_PAYLOAD,
	N_ATTRIBUTES = A_PAYLOAD
};

/* Opens the table and, if asked for, the index of the access method (on claim a hash index, on loid a B-tree). */
static Relation
open_objects(LOCKMODE lockmode, Oid access_method, Relation *index)
{
	PenstockOwnTable table = penstock_own_table_open("claim_object", lockmode, N_ATTRIBUTES);
	List	   *indexes;
	ListCell   *lc;

	if (!OidIsValid(access_method))
		return table.rel;
	*index = NULL;
	indexes = RelationGetIndexList(table.rel);
	foreach(lc, indexes)
	{
		*index = index_open(lfirst_oid(lc), AccessShareLock);
		if ((*index)->rd_rel->relam == access_method)
			break;
		index_close(*index, AccessShareLock);
		*index = NULL;
	}
	list_free(indexes);
	if (*index == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("penstock.claim_object has lost an index"),
				 errhint("Create the extension again in a new database, and restore a dump of this one there.")));
	return table.rel;
}

static int64
int64_or(Datum *values, bool *isnull, int attribute, int64 other)
{
	return isnull[attribute - 1] ? other : DatumGetInt64(values[attribute - 1]);
}

/* Reads a row; false if it is not what a row should be. */
static bool
deform(TupleDesc desc, HeapTuple tuple, ClaimObject *object)
{
	Datum		values[N_ATTRIBUTES];
	bool		isnull[N_ATTRIBUTES];

	heap_deform_tuple(tuple, desc, values, isnull);
	memset(object, 0, sizeof(ClaimObject));
	if (isnull[A_CLAIM - 1])
		return false;
	memcpy(&object->claim, DatumGetClaim(values[A_CLAIM - 1]), sizeof(PenstockClaim));
	object->loid = isnull[A_LOID - 1] ? InvalidOid : DatumGetObjectId(values[A_LOID - 1]);
	object->owner = isnull[A_OWNER - 1] ? 0 : DatumGetInt32(values[A_OWNER - 1]);
	object->dictionary = isnull[A_DICTIONARY - 1] ? 0 : DatumGetInt32(values[A_DICTIONARY - 1]);
	object->stored_at = int64_or(values, isnull, A_STORED_AT, 0);
	object->expires_at = int64_or(values, isnull, A_EXPIRES_AT, 0);
	object->unheld_since = int64_or(values, isnull, A_UNHELD_SINCE, 0);
	object->duplicate = !isnull[A_DUPLICATE - 1] && DatumGetBool(values[A_DUPLICATE - 1]);
	object->stored = int64_or(values, isnull, A_STORED, 0);
	object->tid = tuple->t_self;
	if (!OidIsValid(object->loid))
	{
		struct varlena *bytes;

		if (isnull[A_PAYLOAD - 1])
			return false;
		bytes = PG_DETOAST_DATUM_COPY(values[A_PAYLOAD - 1]);
		object->inline_data = VARDATA(bytes);
		object->stored = VARSIZE(bytes) - VARHDRSZ;
	}
	return true;
}

bool
penstock_claim_object_find(const PenstockClaim *claim, Snapshot snapshot, ClaimObject *object)
{
	TypeCacheEntry *type = lookup_type_cache(penstock_claim_type(), TYPECACHE_EQ_OPR);
	Relation	index;
	Relation	rel = open_objects(AccessShareLock, HASH_AM_OID, &index);
	TupleTableSlot *slot = table_slot_create(rel, NULL);
	IndexScanDesc scan = penstock_index_beginscan(rel, index, snapshot, 1);
	ScanKeyData key;
	bool		found = false;

	ScanKeyInit(&key, 1, HTEqualStrategyNumber, get_opcode(type->eq_opr), PointerGetDatum(claim));
	index_rescan(scan, &key, 1, NULL, 0);
	while (!found && index_getnext_slot(scan, ForwardScanDirection, slot))
	{
		bool		should_free;
		HeapTuple	tuple = ExecFetchSlotHeapTuple(slot, false, &should_free);

		/* the index knows hashes only */
		found = deform(RelationGetDescr(rel), tuple, object) && memcmp(&object->claim, claim, sizeof(PenstockClaim)) == 0;
		if (should_free)
			heap_freetuple(tuple);
	}
	index_endscan(scan);
	ExecDropSingleTupleTableSlot(slot);
	index_close(index, AccessShareLock);
	/* so that the row stays where it is */
	table_close(rel, NoLock);
	return found;
}

static HeapTuple
form(Relation rel, const ClaimObject *object)
{
	Datum		values[N_ATTRIBUTES] = {0};
	bool		isnull[N_ATTRIBUTES] = {false};

	values[A_CLAIM - 1] = PointerGetDatum(&object->claim);
	values[A_LOID - 1] = ObjectIdGetDatum(object->loid);
	isnull[A_LOID - 1] = isnull[A_STORED - 1] = !OidIsValid(object->loid);
	values[A_OWNER - 1] = Int32GetDatum(object->owner);
	values[A_DICTIONARY - 1] = Int32GetDatum(object->dictionary);
	isnull[A_DICTIONARY - 1] = object->dictionary == 0;
	values[A_STORED - 1] = Int64GetDatum(object->stored);
	values[A_STORED_AT - 1] = TimestampTzGetDatum(object->stored_at);
	values[A_EXPIRES_AT - 1] = TimestampTzGetDatum(object->expires_at);
	isnull[A_EXPIRES_AT - 1] = object->expires_at == 0;
	values[A_UNHELD_SINCE - 1] = TimestampTzGetDatum(object->unheld_since);
	isnull[A_UNHELD_SINCE - 1] = object->unheld_since == 0;
	values[A_DUPLICATE - 1] = BoolGetDatum(object->duplicate);
	isnull[A_DUPLICATE - 1] = !object->duplicate;
	isnull[A_PAYLOAD - 1] = OidIsValid(object->loid);
	if (!OidIsValid(object->loid))
		values[A_PAYLOAD - 1] = PointerGetDatum(cstring_to_text_with_len(object->inline_data, object->stored));
	return heap_form_tuple(RelationGetDescr(rel), values, isnull);
}

void
penstock_claim_object_insert(ClaimObject *object)
{
	Relation	rel = open_objects(RowExclusiveLock, InvalidOid, NULL);
	HeapTuple	tuple = form(rel, object);

	CatalogTupleInsert(rel, tuple);
	object->tid = tuple->t_self;
	heap_freetuple(tuple);
	/* the table, and its large objects with it, are not to be dropped before this one can be seen in it */
	table_close(rel, NoLock);
	CommandCounterIncrement();
	/* the first row: from now on there is something to collect */
	if (ItemPointerGetBlockNumber(&object->tid) == 0 && ItemPointerGetOffsetNumber(&object->tid) == FirstOffsetNumber)
		penstock_engine_notify_at_commit();
}

bool
penstock_claim_object_of(Oid loid, ClaimObject *object)
{
	Relation	index;
	Relation	rel;
	SysScanDesc scan;
	ScanKeyData key;
	HeapTuple	tuple;
	bool		found;

	/* the extension may be half gone */
	if (!OidIsValid(penstock_claim_type()) || !OidIsValid(get_relname_relid("claim_object", get_namespace_oid("penstock", false))))
		return false;
	rel = open_objects(AccessShareLock, BTREE_AM_OID, &index);
	ScanKeyInit(&key, A_LOID, BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(loid));
	scan = systable_beginscan(rel, RelationGetRelid(index), true, NULL, 1, &key);
	tuple = systable_getnext(scan);
	found = HeapTupleIsValid(tuple) && deform(RelationGetDescr(rel), tuple, object);
	systable_endscan(scan);
	index_close(index, AccessShareLock);
	table_close(rel, AccessShareLock);
	return found;
}

static void
drop_pages(const ClaimObject *object)
{
	if (!OidIsValid(object->loid))
		return;
	if (penstock_claim_object_is_ours(object))
		penstock_claim_pages_drop(object->loid);
	else
		ereport(WARNING,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("large object %u is left, as it is not what claim \"%s\" was stored in", object->loid,
						penstock_claim_text(&object->claim)),
				 errhint("If nobody else needs it, remove it with lo_unlink().")));
}

void
penstock_claim_object_drop_all(Oid relid)
{
	Relation	rel = table_open(relid, AccessShareLock);
	SysScanDesc scan = systable_beginscan(rel, InvalidOid, false, NULL, 0, NULL);
	HeapTuple	tuple;

	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		ClaimObject object;

		if (deform(RelationGetDescr(rel), tuple, &object))
			drop_pages(&object);
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
}

void
penstock_claim_object_delete(const ClaimObject *object)
{
	Relation	rel = open_objects(RowExclusiveLock, InvalidOid, NULL);
	ItemPointerData tid = object->tid;

	CatalogTupleDelete(rel, &tid);
	drop_pages(object);
	table_close(rel, RowExclusiveLock);
}

bool
penstock_claim_object_reuse(ClaimObject *object, TimestampTz expires_at)
{
	/* never collected before the later of the two times */
	TimestampTz expires = object->expires_at == 0 || expires_at == 0 ? 0 : Max(object->expires_at, expires_at);
	bool		change = object->unheld_since != 0 || expires != object->expires_at;
	Relation	rel = open_objects(RowExclusiveLock, InvalidOid, NULL);
	HeapTupleData tuple;
	TM_FailureData failure;
	Buffer		buffer;
	TM_Result	result;

	tuple.t_self = object->tid;
	result = heap_lock_tuple(rel, &tuple, GetCurrentCommandId(true), change ? LockTupleNoKeyExclusive : LockTupleKeyShare, LockWaitSkip,
							 false, &buffer, &failure);
	/* the collector is marking it, and may be about to remove the newer row; to lock that would be to wait for it */
	if (result == TM_Ok && !HEAP_XMAX_IS_LOCKED_ONLY(tuple.t_data->t_infomask))
		result = TM_BeingModified;
	ReleaseBuffer(buffer);
	if (result == TM_Ok && change)
	{
		HeapTuple	newer;

		object->unheld_since = 0;
		object->expires_at = expires;
		newer = form(rel, object);
		CatalogTupleUpdate(rel, &object->tid, newer);
		object->tid = newer->t_self;
		heap_freetuple(newer);
		CommandCounterIncrement();
	}
	table_close(rel, RowExclusiveLock);
	return result == TM_Ok;
}

/* ---- who stored it ---- */

/* Owners are few, and kept by number: a dump can be restored where one of the roles does not exist. */
static int32
find_owner(Relation rel, Oid role, int32 id, Oid *found_role)
{
	SysScanDesc scan = systable_beginscan(rel, InvalidOid, false, NULL, 0, NULL);
	HeapTuple	tuple;
	int32		found = 0;

	while (found == 0 && HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		bool		isnull[2];
		Datum		values[2];

		heap_deform_tuple(tuple, RelationGetDescr(rel), values, isnull);
		if (isnull[0] || isnull[1])
			continue;
		if (OidIsValid(role) ? DatumGetObjectId(values[1]) == role : DatumGetInt32(values[0]) == id)
		{
			found = DatumGetInt32(values[0]);
			*found_role = DatumGetObjectId(values[1]);
		}
	}
	systable_endscan(scan);
	return found;
}

int32
penstock_claim_owner_id(Oid role)
{
	Relation	rel = table_open(penstock_own_table_oid("claim_owner"), RowExclusiveLock);
	Oid			found;
	int32		id = find_owner(rel, role, 0, &found);

	if (id == 0)
	{
		Datum		values[2];
		bool		isnull[2] = {false};
		HeapTuple	tuple;

		/* two of the same role, made at the same time, do no harm */
		id = (int32) nextval_internal(penstock_own_table_oid("claim_owner_id_seq"), false);
		values[0] = Int32GetDatum(id);
		values[1] = ObjectIdGetDatum(role);
		tuple = heap_form_tuple(RelationGetDescr(rel), values, isnull);
		CatalogTupleInsert(rel, tuple);
		heap_freetuple(tuple);
		CommandCounterIncrement();
	}
	table_close(rel, RowExclusiveLock);
	return id;
}

Oid
penstock_claim_owner_role(int32 id)
{
	Relation	rel = table_open(penstock_own_table_oid("claim_owner"), AccessShareLock);
	Oid			role = InvalidOid;

	(void) find_owner(rel, InvalidOid, id, &role);
	table_close(rel, AccessShareLock);
	return role;
}
