/*
 * view_saved.c
 *	  Views in a dump: states and not yet consumed events go out and come back as text.
 *
 * pg_dump reads penstock.saved_state, whose registered condition adds the rows of penstock.save_state(): in the
 * dump's own snapshot, for each view, its states (or rows), and the partial states (or rows) of events
 * that it has not consumed.  REFRESH in the restored database adopts them: everything
 * that was restored into the streams counts as consumed.
 */
#include "postgres.h"

#include <math.h>

#include "access/genam.h"
#include "access/heapam.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/tuplestore.h"

#include "compat/compat.h"
#include "position/delta.h"
#include "util/errors.h"
#include "view/view_internal.h"
#include "view/view_writer.h"

#define SAVED_VIEW		1
#define SAVED_COLUMNS	2

PG_FUNCTION_INFO_V1(penstock_save_state);

/* Sends rows, as text arrays, to the function's result. */
typedef struct SaveReceiver
{
	DestReceiver dest;
	Oid			relid;
	ReturnSetInfo *result;
	FmgrInfo   *output;
	Datum	   *texts;
	bool	   *nulls;
	MemoryContext context;
} SaveReceiver;

static void
save_startup(DestReceiver *self, int operation, TupleDesc desc)
{
	SaveReceiver *r = (SaveReceiver *) self;

	r->output = palloc0(sizeof(FmgrInfo) * desc->natts);
	r->texts = palloc(sizeof(Datum) * desc->natts);
	r->nulls = palloc(sizeof(bool) * desc->natts);
	for (int i = 0; i < desc->natts; i++)
	{
		Oid			function;
		bool		is_varlena;

		getTypeOutputInfo(TupleDescAttr(desc, i)->atttypid, &function, &is_varlena);
		fmgr_info(function, &r->output[i]);
	}
	r->context = AllocSetContextCreate(CurrentMemoryContext, "Penstock save row",
									   ALLOCSET_DEFAULT_SIZES);
}

static void
save_values(SaveReceiver *r, int natts, Datum *values, bool *isnull)
{
	MemoryContext old = MemoryContextSwitchTo(r->context);
	int			lower = 1;
	Datum		row[2];
	bool		row_nulls[2] = {false, false};

	for (int i = 0; i < natts; i++)
	{
		r->nulls[i] = isnull[i];
		if (!isnull[i])
			r->texts[i] = CStringGetTextDatum(OutputFunctionCall(&r->output[i], values[i]));
	}
	row[SAVED_VIEW - 1] = ObjectIdGetDatum(r->relid);
	row[SAVED_COLUMNS - 1] =
		PointerGetDatum(construct_md_array(r->texts, r->nulls, 1, &natts, &lower, TEXTOID, -1,
										   false, TYPALIGN_INT));
	tuplestore_putvalues(r->result->setResult, r->result->setDesc, row, row_nulls);
	MemoryContextSwitchTo(old);
	MemoryContextReset(r->context);
}

static bool
save_receive(TupleTableSlot *slot, DestReceiver *self)
{
	slot_getallattrs(slot);
	save_values((SaveReceiver *) self, slot->tts_tupleDescriptor->natts,
				slot->tts_values, slot->tts_isnull);
	return true;
}

static void
save_shutdown(DestReceiver *self)
{
}

/* The stored states of a grouped view, or the rows of another. */
static void
save_stored(PenstockView *view, SaveReceiver *r)
{
	bool		grouped = OidIsValid(view->row.state);
	Relation	rel = table_open(grouped ? view->row.state : view->relid, AccessShareLock);
	TupleTableSlot *slot = table_slot_create(rel, NULL);
	TableScanDesc scan = table_beginscan(rel, GetActiveSnapshot(), 0, NULL);
	int			skip = grouped ? STATE_FIRST_KEY - 1 : 0;

	save_startup((DestReceiver *) r, 0, RelationGetDescr(rel));
	r->output += skip;
	while (table_scan_getnextslot(scan, ForwardScanDirection, slot))
	{
		slot_getallattrs(slot);
		save_values(r, slot->tts_tupleDescriptor->natts - skip,
					slot->tts_values + skip, slot->tts_isnull + skip);
	}
	table_endscan(scan);
	ExecDropSingleTupleTableSlot(slot);
	table_close(rel, AccessShareLock);
}

/* What the events between the view's position, as this snapshot sees it, and the snapshot would add. */
static void
save_pending(PenstockView *view, SaveReceiver *r)
{
	PenstockSources *sources = penstock_sources_create(CurrentMemoryContext);
	List	   *streams = list_copy(view->streams);
	Datum		upto = penstock_position_current();
	PenstockPosition from;
	PenstockRunAs run;

	if (!penstock_position_get(view->relid, GetActiveSnapshot(), &from))
		return;
	list_sort(streams, list_oid_cmp);
	penstock_run_as_begin(&run, view->owner, view->row.settings);
	for (;;)
	{
		PenstockPosition to;
		int64		left;
		List	   *deltas = penstock_sources_delta(sources, streams, &from, upto, PG_INT64_MAX,
													&to, &left);

		if (deltas == NIL && !from.slicing)
			break;
		penstock_delta_set(deltas);
		penstock_view_run(view, HUGE_VAL, (DestReceiver *) r);
		penstock_delta_clear();
		from = to;
	}
	penstock_run_as_end(&run);
}

/* Errors that say something about the dump's session or the server, and nothing about the view. */
static bool
is_of_server(int sqlerrcode)
{
	int			category = ERRCODE_TO_CATEGORY(sqlerrcode);

	return category == ERRCODE_OPERATOR_INTERVENTION || category == ERRCODE_INSUFFICIENT_RESOURCES ||
		category == ERRCODE_INTERNAL_ERROR;
}

/*
 * save_pending into a tuplestore of its own.  A view may have stopped because it cannot compute these events: then
 * they are left out, the dump says so, and a row without columns makes the restored view say so.
 */
static void
save_pending_if_possible(PenstockView *view, SaveReceiver *r)
{
	ReturnSetInfo *result = r->result;
	ReturnSetInfo pending = *result;
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	TupleTableSlot *slot = MakeSingleTupleTableSlot(result->setDesc, &TTSOpsMinimalTuple);
	char	   *name = get_rel_name(view->relid);
	Oid			relid = view->relid;
	volatile bool saved = false;

	pending.setResult = tuplestore_begin_heap(false, false, work_mem);
	r->result = &pending;
	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(context);
	PG_TRY();
	{
		save_pending(view, r);
		ReleaseCurrentSubTransaction();
		saved = true;
	}
	PG_CATCH();
	{
		Datum		values[2] = {ObjectIdGetDatum(relid), (Datum) 0};
		bool		nulls[2] = {false, true};
		ErrorData  *error;

		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		if (is_of_server(error->sqlerrcode))
			PG_RE_THROW();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
		MemoryContextSwitchTo(context);
		penstock_delta_clear();
		penstock_view_reset();
		tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
		ereport(WARNING,
				(errcode(ERRCODE_PENSTOCK_STOPPED),
				 errmsg("events that continuous view \"%s\" could not compute are missing in its saved state", name),
				 errdetail("The error was: %s", error->message),
				 errhint("Remove the cause and call penstock.resume(), then make the dump again.")));
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
	CurrentResourceOwner = owner;
	while (saved && tuplestore_gettupleslot(pending.setResult, true, false, slot))
		tuplestore_puttupleslot(result->setResult, slot);
	ExecDropSingleTupleTableSlot(slot);
	tuplestore_end(pending.setResult);
	r->result = result;
}

/*
 * States tell more than the view shows: who reads them must own it, or be one who dumps databases.  An error, because a
 * dump without them is not whole and pg_dump shows warnings to nobody.
 */
static void
check_may_save(Oid relid)
{
	if (!object_ownercheck(RelationRelationId, relid, GetUserId()) &&
		!has_privs_of_role(GetUserId(), ROLE_PG_READ_ALL_DATA))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied for the state of continuous view \"%s\"", get_rel_name(relid)),
				 errdetail("Only its owner and members of role pg_read_all_data can save it."),
				 errhint("Make the dump as a member of pg_read_all_data.")));
}

/*
 * penstock.save_state() → setof (view regclass, columns text[]): for pg_dump.  Raises
 * ERRCODE_INSUFFICIENT_PRIVILEGE if the user may not save the state of one of the views.
 */
Datum
penstock_save_state(PG_FUNCTION_ARGS)
{
	ListCell   *lc;

	InitMaterializedSRF(fcinfo, 0);
	foreach(lc, penstock_registry_list())
	{
		PenstockViewRow *row = lfirst(lc);
		PenstockView *view;
		SaveReceiver r = {0};

		check_may_save(row->relid);
		view = penstock_view_prepare(row->relid, AccessShareLock, false);
		if (view == NULL)
			continue;
		r.dest.receiveSlot = save_receive;
		r.dest.rStartup = save_startup;
		r.dest.rShutdown = save_shutdown;
		r.dest.rDestroy = save_shutdown;
		r.relid = row->relid;
		r.result = (ReturnSetInfo *) fcinfo->resultinfo;
		save_stored(view, &r);
		save_pending_if_possible(view, &r);
	}
	return (Datum) 0;
}

/* ---- adopting ---- */

static Oid
saved_state_relid(void)
{
	return get_relname_relid("saved_state", get_namespace_oid("penstock", false));
}

/* Begins a scan of the saved rows of one view. */
static SysScanDesc
begin_saved(Relation saved, Oid relid)
{
	ScanKeyData key;

	ScanKeyInit(&key, SAVED_VIEW, BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(relid));
	return systable_beginscan(saved, InvalidOid, false, GetActiveSnapshot(), 1, &key);
}

/*
 * penstock_view_is_saved: did a dump bring states for this view?
 */
bool
penstock_view_is_saved(Oid relid)
{
	Relation	saved = table_open(saved_state_relid(), AccessShareLock);
	SysScanDesc scan = begin_saved(saved, relid);
	bool		result = HeapTupleIsValid(systable_getnext(scan));

	systable_endscan(scan);
	table_close(saved, AccessShareLock);
	return result;
}

/* Turns saved texts back into values of desc's columns from first on. */
static void
load_values(Datum columns, TupleDesc desc, int first, Datum *values, bool *isnull)
{
	Datum	   *texts;
	bool	   *nulls;
	int			n;

	deconstruct_array(DatumGetArrayTypeP(columns), TEXTOID, -1, false, TYPALIGN_INT,
					  &texts, &nulls, &n);
	if (n != desc->natts - first)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("saved state has %d columns where %d are expected", n, desc->natts - first),
				 errdetail("The view's query in this database differs from the one that was dumped.")));
	for (int i = 0; i < n; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, first + i);
		Oid			function;
		Oid			param;

		isnull[i] = nulls[i];
		if (nulls[i])
			continue;
		getTypeInputInfo(att->atttypid, &function, &param);
		values[i] = OidInputFunctionCall(function, TextDatumGetCString(texts[i]), param,
										 att->atttypmod);
	}
}

/*
 * penstock_view_adopt fills an empty view (and its state, indexed already) from saved rows and removes those.  Returns
 * false if the dump lacks events that the view could not compute.
 */
bool
penstock_view_adopt(PenstockView *view)
{
	bool		grouped = OidIsValid(view->row.state);
	Relation	saved = table_open(saved_state_relid(), RowExclusiveLock);
	Relation	target = table_open(grouped ? view->row.state : view->relid, NoLock);
	TupleDesc	desc = RelationGetDescr(target);
	int			first = grouped ? STATE_FIRST_KEY - 1 : 0;
	Datum	   *values = palloc0(sizeof(Datum) * desc->natts);
	bool	   *isnull = palloc0(sizeof(bool) * desc->natts);
	DestReceiver *dest = grouped ? penstock_group_receiver(view, false) :
		penstock_append_receiver(view);
	TupleTableSlot *slot = MakeSingleTupleTableSlot(desc, &TTSOpsVirtual);
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "Penstock adopt row",
												  ALLOCSET_DEFAULT_SIZES);
	SysScanDesc scan = begin_saved(saved, view->relid);
	PenstockRunAs run;
	HeapTuple	tuple;
	bool		whole = true;

	penstock_run_as_begin(&run, view->owner, view->row.settings);
	dest->rStartup(dest, 0, NULL);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		MemoryContext old = MemoryContextSwitchTo(context);
		bool		null;
		Datum		columns = heap_getattr(tuple, SAVED_COLUMNS, RelationGetDescr(saved), &null);

		if (null)
			whole = false;
		else
			load_values(columns, desc, first, values, isnull);
		if (null)
			;					/* a mark, not a row */
		else if (grouped)
			penstock_group_add(dest, values, isnull);
		else
		{
			ExecClearTuple(slot);
			memcpy(slot->tts_values, values, sizeof(Datum) * desc->natts);
			memcpy(slot->tts_isnull, isnull, sizeof(bool) * desc->natts);
			ExecStoreVirtualTuple(slot);
			MemoryContextSwitchTo(old); /* what the receiver keeps */
			dest->receiveSlot(slot, dest);
			MemoryContextSwitchTo(context);
			ExecClearTuple(slot);
		}
		simple_heap_delete(saved, &tuple->t_self);
		if (grouped)
			CommandCounterIncrement();	/* a group may come twice: state and pending part */
		MemoryContextSwitchTo(old);
		MemoryContextReset(context);
	}
	dest->rShutdown(dest);
	penstock_run_as_end(&run);

	systable_endscan(scan);
	dest->rDestroy(dest);
	ExecDropSingleTupleTableSlot(slot);
	MemoryContextDelete(context);
	table_close(target, NoLock);
	table_close(saved, RowExclusiveLock);
	return whole;
}
