/*
 * view_plan.c
 *	  Views made ready to run: locks, shape and plans, kept until something they use changes.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/relation.h"
#include "access/xact.h"
#include "catalog/pg_language.h"
#include "catalog/pg_proc.h"
#include "executor/executor.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/planner.h"
#include "rewrite/rewriteHandler.h"
#include "storage/lmgr.h"
#include "utils/rel.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

#include "compat/compat.h"
#include "vector/vector.h"
#include "view/view_internal.h"

/* rows a delta plan is made for; deltas above SMALL_LIMIT run the large one */
#define SMALL_ROWS		100.0
#define SMALL_LIMIT		10000.0
#define LARGE_ROWS		1000000.0

static HTAB *views;

/* a view is being planned */
static bool planning;
static needs_fmgr_hook_type next_needs_fmgr_hook;

/* the view whose plan runs: it must not be built anew meanwhile */
static PenstockView *running;

static void
invalidate_relation(Datum arg, Oid relid)
{
	HASH_SEQ_STATUS seq;
	PenstockView *view;

	if (views == NULL)
		return;
	hash_seq_init(&seq, views);
	while ((view = hash_seq_search(&seq)) != NULL)
		if (!OidIsValid(relid) || view->relid == relid ||
			list_member_oid(view->relations, relid))
			view->valid = false;
}

static void
invalidate_all(Datum arg, int cacheid, uint32 hashvalue)
{
	invalidate_relation(arg, InvalidOid);
}

static void
end_of_transaction(XactEvent event, void *arg)
{
	if (event == XACT_EVENT_ABORT)
		running = NULL;
}

/*
 * A SQL function in FROM that reads a stream is looked up, and reads all of it.  Inlined into the view's plan, its scan
 * would be taken for one of the view's and read the delta.
 */
static bool
keep_function(Oid function)
{
	if (planning && get_func_retset(function))
	{
		HeapTuple	tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(function));
		bool		result = HeapTupleIsValid(tuple) &&
			((Form_pg_proc) GETSTRUCT(tuple))->prolang == SQLlanguageId;

		if (HeapTupleIsValid(tuple))
			ReleaseSysCache(tuple);
		if (result)
			return true;
	}
	return next_needs_fmgr_hook && next_needs_fmgr_hook(function);
}

/* Memory, and callbacks for invalidation, at first use in a process. */
static void
start(void)
{
	HASHCTL		ctl = {0};

	ctl.keysize = sizeof(Oid);
	ctl.entrysize = sizeof(PenstockView);
	ctl.hcxt = CacheMemoryContext;
	views = hash_create("Penstock views", 64, &ctl, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	next_needs_fmgr_hook = needs_fmgr_hook;
	needs_fmgr_hook = keep_function;
	CacheRegisterRelcacheCallback(invalidate_relation, (Datum) 0);
	RegisterXactCallback(end_of_transaction, NULL);
	CacheRegisterSyscacheCallback(PROCOID, invalidate_all, (Datum) 0);
	CacheRegisterSyscacheCallback(OPEROID, invalidate_all, (Datum) 0);
	CacheRegisterSyscacheCallback(TYPEOID, invalidate_all, (Datum) 0);
}

void
penstock_view_reset(void)
{
	running = NULL;
	if (views != NULL)
		invalidate_relation((Datum) 0, InvalidOid);
}

/*
 * penstock_view_query returns a copy of the view's query as it was analysed.
 */
Query *
penstock_view_query(Relation view)
{
	if (view->rd_rules == NULL || view->rd_rules->numLocks != 1 ||
		list_length(view->rd_rules->rules[0]->actions) != 1)
		elog(ERROR, "materialized view \"%s\" has no query", RelationGetRelationName(view));
	return copyObject(linitial_node(Query, view->rd_rules->rules[0]->actions));
}

static bool
lock_relation(Oid relid, LOCKMODE mode, bool conditional)
{
	if (conditional)
		return ConditionalLockRelationOid(relid, mode);
	LockRelationOid(relid, mode);
	return true;
}

static bool
lock_sources(PenstockView *view, LOCKMODE mode, bool conditional)
{
	ListCell   *lc;

	foreach(lc, view->relations)
		if (!lock_relation(lfirst_oid(lc), AccessShareLock, conditional))
			return false;
	if (OidIsValid(view->row.state) &&
		!lock_relation(view->row.state, mode, conditional))
		return false;
	return true;
}

/* Fills in everything but the plans; view->built is set when all of it has been. */
static bool
build(PenstockView *view, LOCKMODE mode, bool conditional)
{
	Relation	rel;
	Query	   *query;
	PenstockViewRow *row;
	MemoryContext old;
	ListCell   *lc;

	if (view == running)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_IN_USE),
				 errmsg("continuous view \"%s\" is being worked on by this session",
						get_rel_name(view->relid))));
	view->built = false;
	if (view->context == NULL)
		view->context = AllocSetContextCreate(CacheMemoryContext, "Penstock view",
											  ALLOCSET_DEFAULT_SIZES);
	MemoryContextReset(view->context);
	view->shape = NULL;
	view->relations = view->streams = NIL;
	view->small = view->large = NULL;

	row = penstock_registry_get(view->relid);
	rel = relation_open(view->relid, NoLock);
	query = penstock_view_query(rel);
	view->owner = rel->rd_rel->relowner;
	relation_close(rel, NoLock);

	/* what the query names itself, before views in it are opened up */
	foreach(lc, query->rtable)
	{
		RangeTblEntry *rte = lfirst_node(RangeTblEntry, lc);

		if (rte->rtekind == RTE_RELATION &&
			!lock_relation(rte->relid, AccessShareLock, conditional))
			return false;
	}

	view->valid = true;			/* an invalidation from here on counts */
	penstock_view_check(query, NULL);	/* what it uses may have changed since it was made */
	old = MemoryContextSwitchTo(view->context);
	if (row != NULL)
		view->row = *row;
	else
		memset(&view->row, 0, sizeof(view->row));
	view->row.error = view->row.error ? pstrdup(view->row.error) : NULL;
	view->row.settings = view->row.settings ? pstrdup(view->row.settings) : NULL;
	view->relations = penstock_view_relations(query, &view->streams);
	view->shape = penstock_view_shape(query, NULL);
	MemoryContextSwitchTo(old);
	view->built = true;
	return lock_sources(view, mode, conditional);
}

/*
 * penstock_view_prepare locks what the view reads and writes and returns it ready to run, or NULL when it is
 * gone or, if conditional, when a lock is held by somebody else.  mode is RowExclusiveLock to write the view, and
 * AccessShareLock to read it only (also during recovery).  Locks go with the transaction.
 */
PenstockView *
penstock_view_prepare(Oid relid, LOCKMODE mode, bool conditional)
{
	PenstockView *view;
	bool		found;

	if (views == NULL)
		start();
	if (!lock_relation(relid, mode, conditional) ||
		!SearchSysCacheExists1(RELOID, ObjectIdGetDatum(relid)))
		return NULL;

	view = hash_search(views, &relid, HASH_ENTER, &found);
	if (!found)
		memset((char *) view + sizeof(Oid), 0, sizeof(PenstockView) - sizeof(Oid));

	if (view->valid && view->built && !lock_sources(view, mode, conditional))
		return NULL;
	/* a lock just taken may have brought an invalidation */
	while (!view->valid || !view->built)
		if (!build(view, mode, conditional))
		{
			view->valid = false;
			return NULL;
		}
	return view;
}

PenstockView *
penstock_view_open(Oid relid)
{
	return penstock_view_prepare(relid, RowExclusiveLock, true);
}

List *
penstock_view_streams(PenstockView *view)
{
	return view->streams;
}

/*
 * The finished plan's Agg node yields states instead of results.
 */
static bool
mark_partial_walker(Node *node, void *arg)
{
	if (node == NULL)
		return false;
	if (IsA(node, Aggref))
	{
		mark_partial_aggref((Aggref *) node, AGGSPLIT_INITIAL_SERIAL);
		return false;
	}
	return expression_tree_walker(node, mark_partial_walker, arg);
}

static PlannedStmt *
make_plan(PenstockView *view, double rows)
{
	Query	   *query = copyObject(view->shape->delta);
	PlannedStmt *volatile plan = NULL;
	int			nest = NewGUCNestLevel();

	(void) set_config_option("enable_partitionwise_aggregate", "off", PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
	/* by chunks later, when the Agg has become a partial one */
	(void) set_config_option("penstock.enable_stream_aggregate", "off", PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
	AcquireRewriteLocks(query, true, false);
	query = linitial_node(Query, QueryRewrite(query));

	penstock_delta_assume_rows(rows);
	planning = true;
	PG_TRY();
	{
		plan = pg_plan_query(query, "", 0, NULL);
	}
	PG_FINALLY();
	{
		planning = false;
		penstock_delta_assume_rows(0);
	}
	PG_END_TRY();
	AtEOXact_GUC(true, nest);

	if (view->shape->strategy == PENSTOCK_STRATEGY_GROUP)
	{
		Agg		   *agg = (Agg *) plan->planTree;

		if (!IsA(agg, Agg) || agg->aggsplit != AGGSPLIT_SIMPLE)
			elog(ERROR, "unexpected plan for grouped continuous view: node %d",
				 (int) nodeTag(plan->planTree));
		agg->aggsplit = AGGSPLIT_INITIAL_SERIAL;
		mark_partial_walker((Node *) agg->plan.targetlist, NULL);
		penstock_vector_improve(plan);
	}
	return plan;
}

/*
 * penstock_view_plan returns the plan for a delta of so many rows (a fill: HUGE_VAL), which lives as long
 * as the view stays valid.
 */
PlannedStmt *
penstock_view_plan(PenstockView *view, double rows)
{
	bool		is_small = rows <= SMALL_LIMIT;
	PlannedStmt **kept = is_small ? &view->small : &view->large;

	if (*kept == NULL)
	{
		PlannedStmt *plan = make_plan(view, is_small ? SMALL_ROWS : LARGE_ROWS);
		MemoryContext old = MemoryContextSwitchTo(view->context);

		*kept = copyObject(plan);
		MemoryContextSwitchTo(old);
	}
	return *kept;
}

/*
 * penstock_view_run executes the plan for a delta of so many rows under the active snapshot and sends its rows
 * to dest.
 */
void
penstock_view_run(PenstockView *view, double rows, DestReceiver *dest)
{
	PlannedStmt *plan = penstock_view_plan(view, rows);
	QueryDesc  *desc = CreateQueryDesc(plan, "", GetActiveSnapshot(), InvalidSnapshot, dest,
									   NULL, NULL, 0);

	running = view;
	ExecutorStart(desc, 0);
	penstock_delta_taken();
	penstock_executor_run(desc);
	ExecutorFinish(desc);
	ExecutorEnd(desc);
	FreeQueryDesc(desc);
	running = NULL;
}

/* VACUUM FULL and CLUSTER give the view a new file, in which the state's addresses mean nothing. */
static void
renew_if_moved(PenstockView *view)
{
	Relation	rel = relation_open(view->relid, NoLock);
	Oid			filenode = penstock_rel_filenumber(rel);

	relation_close(rel, NoLock);
	if (view->row.filenode == filenode || view->shape->strategy != PENSTOCK_STRATEGY_GROUP)
		return;
	penstock_group_renew(view);
	view->row.filenode = filenode;
	penstock_registry_update(&view->row);
}

/*
 * penstock_view_apply: see view.h.
 */
int64
penstock_view_apply(PenstockView *view, List *deltas)
{
	PenstockRunAs run;
	DestReceiver *dest;
	int64		rows = 0;
	int64		changes;
	ListCell   *lc;

	foreach(lc, deltas)
	{
		PenstockDelta *delta = lfirst(lc);

		if (delta->weight != 1)
			elog(ERROR, "unexpected weight %d of a stream's delta", delta->weight);
		if (list_member_oid(view->streams, delta->relid))
			rows += delta->nrows;
	}
	if (rows == 0)
		return 0;

	penstock_run_as_begin(&run, view->owner, view->row.settings);
	renew_if_moved(view);
	dest = view->shape->strategy == PENSTOCK_STRATEGY_GROUP ?
		penstock_group_receiver(view, false) : penstock_append_receiver(view);
	penstock_delta_set(deltas);
	penstock_view_run(view, (double) rows, dest);
	penstock_delta_clear();
	penstock_run_as_end(&run);

	changes = ((PenstockReceiver *) dest)->changes;
	dest->rDestroy(dest);
	CommandCounterIncrement();
	return changes;
}
