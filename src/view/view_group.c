/*
 * view_group.c
 *	  Strategy "group": partial states are combined into the state table, and the view's rows follow.
 *
 * A group's state row is found by the hash of its keys and compared by the equality operators of
 * GROUP BY.  It carries the address of the view's row, which is invalid while HAVING hides the group.
 * Rows are read with SnapshotSelf: the engine, or whoever holds the view locked, is the only writer.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/relscan.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "common/hashfn.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "optimizer/optimizer.h"
#include "tcop/dest.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/typcache.h"

#include "compat/compat.h"
#include "view/view_internal.h"
#include "view/view_writer.h"

typedef struct GroupReceiver
{
	PenstockReceiver pub;
	PenstockView *view;
	bool		fresh;			/* the state was empty: every row is a new group */
	int			nkeys;
	int			naggs;
	MemoryContext context;		/* the receiver's */
	MemoryContext row_context;	/* reset for each row */
	PenstockWriter *view_writer;
	PenstockWriter *state_writer;
	PenstockAggregate *aggs;
	FmgrInfo   *key_hash;		/* fn_oid invalid: type has no hash, keys are only compared */
	FmgrInfo   *key_equal;
	Node	   *agg_context;	/* AggState for support functions */
	Relation	index;
	IndexScanDesc scan;
	TupleTableSlot *found;		/* state row found */
	TupleTableSlot *final_slot; /* keys and aggregate results */
	ExprContext *econtext;
	ProjectionInfo *projection;
	ExprState  *having;
} GroupReceiver;

static void
open_functions(GroupReceiver *r)
{
	PenstockShape *shape = r->view->shape;
	ListCell   *lc;

	r->aggs = palloc0(sizeof(PenstockAggregate) * r->naggs);
	foreach(lc, shape->aggs)
		penstock_aggregate_init(&r->aggs[foreach_current_index(lc)], lfirst_node(Aggref, lc));

	r->key_hash = palloc0(sizeof(FmgrInfo) * (r->nkeys + 1));
	r->key_equal = palloc0(sizeof(FmgrInfo) * (r->nkeys + 1));
	for (int i = 0; i < r->nkeys; i++)
	{
		TypeCacheEntry *type = lookup_type_cache(shape->key_types[i], TYPECACHE_HASH_EXTENDED_PROC);

		if (OidIsValid(type->hash_extended_proc))
			fmgr_info(type->hash_extended_proc, &r->key_hash[i]);
		fmgr_info(get_opcode(shape->key_eqops[i]), &r->key_equal[i]);
	}
}

/* The expressions from (keys, aggregate results) to the view's row. */
static void
open_projection(GroupReceiver *r)
{
	PenstockShape *shape = r->view->shape;
	EState	   *estate = r->view_writer->estate;
	TupleDesc	desc = CreateTemplateTupleDesc(r->nkeys + r->naggs);
	ListCell   *lc;
	List	   *finals = NIL;

	for (int i = 0; i < r->nkeys; i++)
	{
		TupleDescInitEntry(desc, i + 1, NULL, shape->key_types[i], shape->key_typmods[i], 0);
		TupleDescInitEntryCollation(desc, i + 1, shape->key_collations[i]);
	}
	for (int i = 0; i < r->naggs; i++)
		TupleDescInitEntry(desc, r->nkeys + i + 1, NULL, r->aggs[i].resulttype, -1, 0);

	r->final_slot = MakeSingleTupleTableSlot(desc, &TTSOpsVirtual);
	r->econtext = CreateExprContext(estate);
	r->econtext->ecxt_outertuple = r->final_slot;

	foreach(lc, shape->finals)
	{
		TargetEntry *tle = flatCopyTargetEntry(lfirst_node(TargetEntry, lc));

		tle->expr = expression_planner(copyObject(tle->expr));
		finals = lappend(finals, tle);
	}
	r->projection = ExecBuildProjectionInfo(finals, r->econtext, r->view_writer->slot, NULL, NULL);
	if (shape->having)
		r->having = ExecInitQual(make_ands_implicit(expression_planner((Expr *) copyObject(shape->having))),
								 NULL);
}

static void
group_startup(DestReceiver *self, int operation, TupleDesc desc)
{
	GroupReceiver *r = (GroupReceiver *) self;
	MemoryContext old;

	r->context = AllocSetContextCreate(CurrentMemoryContext, "Penstock group merge",
									   ALLOCSET_DEFAULT_SIZES);
	r->row_context = AllocSetContextCreate(r->context, "Penstock group merge row",
										   ALLOCSET_DEFAULT_SIZES);
	old = MemoryContextSwitchTo(r->context);
	r->view_writer = penstock_writer_open(r->view->relid);
	r->state_writer = penstock_writer_open(r->view->row.state);
	open_functions(r);
	open_projection(r);
	r->agg_context = penstock_aggregate_context(r->row_context);
	if (!r->fresh)
	{
		r->found = table_slot_create(r->state_writer->rel, NULL);
		r->index = r->state_writer->result->ri_IndexRelationDescs[0];
		r->scan = penstock_index_beginscan(r->state_writer->rel, r->index, SnapshotSelf, 1);
	}
	MemoryContextSwitchTo(old);
}

/*
 * A row's hash: of its attributes that are not NULL.  The server's own counts the NULLs, too, and would change when the
 * row's type gets another column, while the old rows stay equal to new ones.
 */
static uint64
hash_row(Datum value)
{
	HeapTupleHeader header = DatumGetHeapTupleHeader(value);
	TupleDesc	desc = lookup_rowtype_tupdesc(HeapTupleHeaderGetTypeId(header),
											  HeapTupleHeaderGetTypMod(header));
	HeapTupleData tuple = {0};
	Datum	   *values = palloc(sizeof(Datum) * desc->natts);
	bool	   *isnull = palloc(sizeof(bool) * desc->natts);
	uint64		hash = 0;

	check_stack_depth();
	tuple.t_len = HeapTupleHeaderGetDatumLength(header);
	ItemPointerSetInvalid(&tuple.t_self);
	tuple.t_data = header;
	heap_deform_tuple(&tuple, desc, values, isnull);
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);
		TypeCacheEntry *type;

		if (isnull[i] || att->attisdropped)
			continue;
		hash = hash_combine64(hash, (uint64) i);
		type = lookup_type_cache(att->atttypid, TYPECACHE_HASH_EXTENDED_PROC_FINFO);
		if (type_is_rowtype(att->atttypid))
			hash = hash_combine64(hash, hash_row(values[i]));
		else if (OidIsValid(type->hash_extended_proc_finfo.fn_oid))
			hash = hash_combine64(hash,
								  DatumGetUInt64(FunctionCall2Coll(&type->hash_extended_proc_finfo,
																   att->attcollation, values[i],
																   UInt64GetDatum(0))));
	}
	ReleaseTupleDesc(desc);
	return hash;
}

static int64
hash_keys(GroupReceiver *r, Datum *values, bool *isnull)
{
	uint64		hash = 0;

	for (int i = 0; i < r->nkeys; i++)
	{
		uint64		h = 1;

		if (!isnull[i] && type_is_rowtype(r->view->shape->key_types[i]))
			h = hash_row(values[i]);
		else if (!isnull[i] && OidIsValid(r->key_hash[i].fn_oid))
			h = DatumGetUInt64(FunctionCall2Coll(&r->key_hash[i],
												 r->view->shape->key_collations[i],
												 values[i], UInt64GetDatum(0)));
		hash = hash_combine64(hash, h);
	}
	return (int64) hash;
}

static bool
keys_equal(GroupReceiver *r, Datum *values, bool *isnull)
{
	for (int i = 0; i < r->nkeys; i++)
	{
		int			at = STATE_FIRST_KEY - 1 + i;

		if (isnull[i] != r->found->tts_isnull[at])
			return false;
		if (!isnull[i] &&
			!DatumGetBool(FunctionCall2Coll(&r->key_equal[i], r->view->shape->key_collations[i],
											values[i], r->found->tts_values[at])))
			return false;
	}
	return true;
}

/* Puts the state row of the group into r->found. */
static bool
find_state(GroupReceiver *r, int64 hash, Datum *values, bool *isnull)
{
	ScanKeyData key;
	/* what the index scan allocates now, it frees at its end */
	MemoryContext old = MemoryContextSwitchTo(r->context);
	bool		found = false;

	ScanKeyInit(&key, STATE_HASH, BTEqualStrategyNumber, F_INT8EQ, Int64GetDatum(hash));
	index_rescan(r->scan, &key, 1, NULL, 0);
	while (!found && index_getnext_slot(r->scan, ForwardScanDirection, r->found))
	{
		slot_getallattrs(r->found);
		MemoryContextSwitchTo(old);
		found = keys_equal(r, values, isnull);
		MemoryContextSwitchTo(r->context);
	}
	MemoryContextSwitchTo(old);
	return found;
}

/*
 * Makes the view's row from the state row in state_writer->slot, into view_writer->slot; false if
 * HAVING hides it.
 */
static bool
make_view_row(GroupReceiver *r)
{
	TupleTableSlot *state = r->state_writer->slot;
	TupleTableSlot *final = r->final_slot;
	int			offset = STATE_FIRST_KEY - 1;

	ExecClearTuple(final);
	for (int i = 0; i < r->nkeys; i++)
	{
		final->tts_values[i] = state->tts_values[offset + i];
		final->tts_isnull[i] = state->tts_isnull[offset + i];
	}
	for (int i = r->nkeys; i < r->nkeys + r->naggs; i++)
		penstock_aggregate_final(&r->aggs[i - r->nkeys], r->agg_context, false,
								 state->tts_values[offset + i], state->tts_isnull[offset + i],
								 &final->tts_values[i], &final->tts_isnull[i]);
	ExecStoreVirtualTuple(final);

	ResetExprContext(r->econtext);
	if (r->having && !ExecQual(r->having, r->econtext))
		return false;
	ExecProject(r->projection);
	return true;
}

/* The group's row in the view, after its state; *tid is where it is, and will be. */
static void
write_view_row(GroupReceiver *r, ItemPointer tid)
{
	bool		shown = ItemPointerIsValid(tid);

	if (make_view_row(r))
	{
		if (shown)
			penstock_writer_update(r->view_writer, tid);
		else
			penstock_writer_insert(r->view_writer, tid);
		r->pub.changes++;
	}
	else if (shown)
	{
		penstock_writer_delete(r->view_writer, tid);
		ItemPointerSetInvalid(tid);
		r->pub.changes++;
	}
}

/*
 * Adds one group: values are its keys and partial states.
 */
static void
add_group(GroupReceiver *r, Datum *values, bool *isnull)
{
	TupleTableSlot *state = r->state_writer->slot;
	int			offset = STATE_FIRST_KEY - 1;
	int64		hash = hash_keys(r, values, isnull);
	bool		known = !r->fresh && find_state(r, hash, values, isnull);
	ItemPointerData view_tid;
	ItemPointerData state_tid;

	ExecClearTuple(state);
	ItemPointerSetInvalid(&view_tid);
	state->tts_values[STATE_HASH - 1] = Int64GetDatum(hash);
	state->tts_isnull[STATE_HASH - 1] = false;
	memcpy(&state->tts_values[offset], values, sizeof(Datum) * (r->nkeys + r->naggs));
	memcpy(&state->tts_isnull[offset], isnull, sizeof(bool) * (r->nkeys + r->naggs));
	if (known)
	{
		state_tid = r->found->tts_tid;
		if (!r->found->tts_isnull[STATE_ROW - 1])
			view_tid = *(ItemPointer) DatumGetPointer(r->found->tts_values[STATE_ROW - 1]);
		for (int i = 0; i < r->nkeys; i++)
			state->tts_values[offset + i] = r->found->tts_values[offset + i];
		for (int i = r->nkeys; i < r->nkeys + r->naggs; i++)
		{
			state->tts_values[offset + i] = r->found->tts_values[offset + i];
			state->tts_isnull[offset + i] = r->found->tts_isnull[offset + i];
			penstock_aggregate_combine(&r->aggs[i - r->nkeys], r->agg_context,
									   &state->tts_values[offset + i],
									   &state->tts_isnull[offset + i], values[i], isnull[i]);
		}
	}

	write_view_row(r, &view_tid);

	state->tts_values[STATE_ROW - 1] = PointerGetDatum(&view_tid);
	state->tts_isnull[STATE_ROW - 1] = !ItemPointerIsValid(&view_tid);
	ExecStoreVirtualTuple(state);
	if (known)
		penstock_writer_update(r->state_writer, &state_tid);
	else
		penstock_writer_insert(r->state_writer, &state_tid);
	ExecClearTuple(state);
}

static bool
group_receive(TupleTableSlot *slot, DestReceiver *self)
{
	GroupReceiver *r = (GroupReceiver *) self;
	MemoryContext old = MemoryContextSwitchTo(r->row_context);

	slot_getallattrs(slot);
	add_group(r, slot->tts_values, slot->tts_isnull);
	MemoryContextSwitchTo(old);
	MemoryContextReset(r->row_context);
	return true;
}

static void
group_shutdown(DestReceiver *self)
{
	GroupReceiver *r = (GroupReceiver *) self;

	if (r->scan)
	{
		index_endscan(r->scan);
		ExecDropSingleTupleTableSlot(r->found);
	}
	ExecDropSingleTupleTableSlot(r->final_slot);
	penstock_writer_close(r->view_writer);
	penstock_writer_close(r->state_writer);
	MemoryContextDelete(r->context);
}

static void
group_destroy(DestReceiver *self)
{
	pfree(self);
}

/*
 * penstock_group_receiver takes rows of the delta plan (keys, partial states) and merges them into state and
 * view; fresh when the state table is known to be empty and has no index yet.
 */
DestReceiver *
penstock_group_receiver(PenstockView *view, bool fresh)
{
	GroupReceiver *r = palloc0(sizeof(GroupReceiver));

	r->pub.dest.receiveSlot = group_receive;
	r->pub.dest.rStartup = group_startup;
	r->pub.dest.rShutdown = group_shutdown;
	r->pub.dest.rDestroy = group_destroy;
	r->pub.dest.mydest = DestNone;
	r->view = view;
	r->fresh = fresh;
	r->nkeys = view->shape->nkeys;
	r->naggs = view->shape->naggs;
	return (DestReceiver *) r;
}

/*
 * penstock_group_add merges one group's keys and states, as the delta plan would give them; between the
 * receiver's startup and shutdown.
 */
void
penstock_group_add(DestReceiver *dest, Datum *values, bool *isnull)
{
	GroupReceiver *r = (GroupReceiver *) dest;
	MemoryContext old = MemoryContextSwitchTo(r->row_context);

	add_group(r, values, isnull);
	MemoryContextSwitchTo(old);
	MemoryContextReset(r->row_context);
}

static void
delete_view_rows(GroupReceiver *r, Snapshot snapshot)
{
	TupleTableSlot *row = table_slot_create(r->view_writer->rel, NULL);
	TableScanDesc scan = table_beginscan(r->view_writer->rel, snapshot, 0, NULL);

	while (table_scan_getnextslot(scan, ForwardScanDirection, row))
		penstock_writer_delete(r->view_writer, &row->tts_tid);
	table_endscan(scan);
	ExecDropSingleTupleTableSlot(row);
}

/*
 * penstock_group_renew writes the view's rows anew from the states, after VACUUM FULL or CLUSTER has moved them.
 */
void
penstock_group_renew(PenstockView *view)
{
	GroupReceiver *r = (GroupReceiver *) penstock_group_receiver(view, true);
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	TupleTableSlot *row;
	TableScanDesc scan;

	group_startup((DestReceiver *) r, 0, NULL);
	delete_view_rows(r, snapshot);
	CommandCounterIncrement();

	row = table_slot_create(r->state_writer->rel, NULL);
	scan = table_beginscan(r->state_writer->rel, snapshot, 0, NULL);
	while (table_scan_getnextslot(scan, ForwardScanDirection, row))
	{
		TupleTableSlot *state = r->state_writer->slot;
		ItemPointerData state_tid = row->tts_tid;
		ItemPointerData view_tid;
		int			natts = row->tts_tupleDescriptor->natts;
		MemoryContext old = MemoryContextSwitchTo(r->row_context);

		slot_getallattrs(row);
		ExecClearTuple(state);
		memcpy(state->tts_values, row->tts_values, sizeof(Datum) * natts);
		memcpy(state->tts_isnull, row->tts_isnull, sizeof(bool) * natts);
		ItemPointerSetInvalid(&view_tid);
		write_view_row(r, &view_tid);
		state->tts_values[STATE_ROW - 1] = PointerGetDatum(&view_tid);
		state->tts_isnull[STATE_ROW - 1] = !ItemPointerIsValid(&view_tid);
		ExecStoreVirtualTuple(state);
		penstock_writer_update(r->state_writer, &state_tid);
		ExecClearTuple(state);
		MemoryContextSwitchTo(old);
		MemoryContextReset(r->row_context);
	}
	table_endscan(scan);
	ExecDropSingleTupleTableSlot(row);
	group_shutdown((DestReceiver *) r);
	group_destroy((DestReceiver *) r);
	UnregisterSnapshot(snapshot);
	CommandCounterIncrement();
}
