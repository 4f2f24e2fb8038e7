/*
 * vector_node.c
 *	  StreamAggregate: an Agg over scans of streams, by chunks.
 *
 * When the groups outgrow memory, they are divided into parts by the hash of their keys, and the scan is read once
 * for each part; a part that is still too large is divided again.  When the first of many parts is still too large,
 * the server's Agg, which writes to disk, takes over.  Scans that are shared with parallel
 * workers cannot be read twice: there, the groups so far are given out, for a group may leave
 * a partial aggregate more than once.
 */
#include "postgres.h"

#include "commands/explain.h"
#include "compat/compat_explain.h"
#include "executor/executor.h"
#include "executor/nodeAgg.h"
#include "miscadmin.h"
#include "nodes/extensible.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/ruleutils.h"

#include "aggregate/aggregate.h"
#include "compat/compat.h"
#include "stream/stream_internal.h"
#include "vector/vector_internal.h"

/* a part is divided into so many */
#define DIVIDE_BY 4
#define MAX_PARTITIONS 65536
/* more are left to the server's Agg, unless groups have been given out already */
#define MAX_FIRST_PARTITIONS 16

/* One aggregate over one scan. */
typedef struct ScanAggregate
{
	int			nargs;
	VectorExpr *args;
	ExprState  *filter;
} ScanAggregate;

/* One of the scans below. */
typedef struct ScanRun
{
	CustomScanState *css;
	VectorChunk chunk;
	VectorExpr *keys;
	ScanAggregate *aggs;
	ExprState  *qual;
} ScanRun;

/* Groups whose hash is "partition" modulo "partitions". */
typedef struct Part
{
	uint32		partitions;
	uint32		partition;
} Part;

typedef struct StreamAggregateState
{
	CustomScanState css;
	Agg		   *agg;			/* what this node stands for */
	PlanState  *spilling;		/* the Agg itself, once it has been needed */
	bool		use_spilling;
	bool		partial;
	bool		shared;			/* scans are shared with parallel workers */
	int			nkeys;
	int			naggs;
	List	   *aggrefs;
	int			nscans;
	ScanRun    *scans;
	MemoryContext group_context;	/* groups and states of the part */
	Size		empty_memory;	/* its size without groups */
	MemoryContext chunk_context;	/* reset with each chunk */
	MemoryContext row_context;	/* results of one group; reset for each */
	VectorGroups *groups;
	VectorAggregate **states;
	PenstockAggregate *finals;	/* unless partial */
	Node	   *final_context;
	List	   *parts;			/* Part *, to be done */
	bool		reading;		/* scans are in the middle (shared) */
	int			scan;			/* scan that is read */
	bool		filled;			/* groups hold a part */
	uint32		next_group;
	int64		most_partitions;
	bool		given_out;		/* groups have left the node */
} StreamAggregateState;

static Node *create_state(CustomScan *scan);
static void begin_node(CustomScanState *css, EState *estate, int eflags);
static TupleTableSlot *exec_node(CustomScanState *css);
static void end_node(CustomScanState *css);
static void rescan_node(CustomScanState *css);
static void explain_node(CustomScanState *css, List *ancestors, ExplainState *es);

const CustomScanMethods penstock_aggregate_node_methods = {
	.CustomName = "StreamAggregate",
	.CreateCustomScanState = create_state,
};

static const CustomExecMethods exec_methods = {
	.CustomName = "StreamAggregate",
	.BeginCustomScan = begin_node,
	.ExecCustomScan = exec_node,
	.EndCustomScan = end_node,
	.ReScanCustomScan = rescan_node,
	.ExplainCustomScan = explain_node,
};

static Node *
create_state(CustomScan *scan)
{
	StreamAggregateState *state = (StreamAggregateState *)
		newNode(sizeof(StreamAggregateState), T_CustomScanState);

	state->css.methods = &exec_methods;
	return (Node *) state;
}

/* References to a scan's output become the scan's expressions. */
static Node *
inline_scan_mutator(Node *node, void *context)
{
	if (node == NULL)
		return NULL;
	if (IsA(node, Var) && ((Var *) node)->varno == OUTER_VAR)
		return copyObject((Node *) ((TargetEntry *) list_nth((List *) context,
															 ((Var *) node)->varattno - 1))->expr);
	return expression_tree_mutator(node, inline_scan_mutator, context);
}

static Expr *
inline_scan(List *tlist, void *node)
{
	return (Expr *) inline_scan_mutator(node, tlist);
}

/* Columns that the expressions read, for the slot of those evaluated row by row. */
static void
collect_slot_columns(VectorChunk *chunk, Plan *scan, List *tlist)
{
	Bitmapset  *columns = NULL;
	List	   *all = pull_var_clause((Node *) inline_scan(scan->targetlist, tlist),
									  PVC_RECURSE_AGGREGATES);
	ListCell   *lc;
	int			attno = -1;

	all = list_concat(all, pull_var_clause((Node *) scan->qual, 0));
	foreach(lc, all)
		columns = bms_add_member(columns, ((Var *) lfirst(lc))->varattno);
	chunk->slot_columns = palloc(sizeof(AttrNumber) * (bms_num_members(columns) + 1));
	while ((attno = bms_next_member(columns, attno)) >= 0)
		chunk->slot_columns[chunk->nslot_columns++] = attno;
}

static void
init_scan(StreamAggregateState *state, ScanRun *run, CustomScanState *css)
{
	CustomScan *plan = (CustomScan *) css->ss.ps.plan;
	List	   *below = plan->scan.plan.targetlist;
	List	   *tlist = ((CustomScan *) state->css.ss.ps.plan)->custom_scan_tlist;
	TupleDesc	desc = RelationGetDescr(css->ss.ss_currentRelation);
	VectorChunk *chunk = &run->chunk;
	ListCell   *lc;

	run->css = css;
	chunk->natts = desc->natts;
	chunk->columns = palloc0(sizeof(PenstockVector) * (desc->natts + 1));
	chunk->decoded = palloc0(sizeof(bool) * (desc->natts + 1));
	chunk->slot = ExecInitExtraTupleSlot(state->css.ss.ps.state, desc, &TTSOpsVirtual);
	memset(chunk->slot->tts_isnull, true, desc->natts);
	chunk->econtext = CreateExprContext(state->css.ss.ps.state);
	chunk->econtext->ecxt_scantuple = chunk->slot;
	chunk->context = state->chunk_context;
	collect_slot_columns(chunk, (Plan *) plan, tlist);

	run->keys = palloc0(sizeof(VectorExpr) * (state->nkeys + 1));
	for (int i = 0; i < state->nkeys; i++)
		penstock_vector_expr_init(&run->keys[i],
								  inline_scan(below, lfirst_node(TargetEntry, list_nth_cell(tlist, i))->expr),
								  plan->scan.scanrelid, &css->ss.ps);
	run->aggs = palloc0(sizeof(ScanAggregate) * (state->naggs + 1));
	foreach(lc, state->aggrefs)
	{
		ScanAggregate *agg = &run->aggs[foreach_current_index(lc)];
		Aggref	   *ref = lfirst_node(Aggref, lc);
		ListCell   *lc2;

		agg->args = palloc0(sizeof(VectorExpr) * (list_length(ref->args) + 1));
		foreach(lc2, ref->args)
			penstock_vector_expr_init(&agg->args[agg->nargs++],
									  inline_scan(below, lfirst_node(TargetEntry, lc2)->expr),
									  plan->scan.scanrelid, &css->ss.ps);
		if (ref->aggfilter)
			agg->filter = ExecInitQual(list_make1(inline_scan(below, ref->aggfilter)), &css->ss.ps);
	}
	run->qual = ExecInitQual(plan->scan.plan.qual, &css->ss.ps);
}

static void
init_scans(StreamAggregateState *state)
{
	PlanState  *outer = outerPlanState(state);

	if (IsA(outer, AppendState))
	{
		AppendState *append = (AppendState *) outer;

		state->nscans = append->as_nplans;
		state->scans = palloc0(sizeof(ScanRun) * state->nscans);
		for (int i = 0; i < state->nscans; i++)
			init_scan(state, &state->scans[i], castNode(CustomScanState, append->appendplans[i]));
	}
	else
	{
		state->nscans = 1;
		state->scans = palloc0(sizeof(ScanRun));
		init_scan(state, state->scans, castNode(CustomScanState, outer));
	}
	for (int i = 0; i < state->nscans; i++)
		if (state->scans[i].css->ss.ps.plan->parallel_aware)
			state->shared = true;
}

static void
begin_node(CustomScanState *css, EState *estate, int eflags)
{
	StreamAggregateState *state = (StreamAggregateState *) css;
	CustomScan *plan = (CustomScan *) css->ss.ps.plan;
	ListCell   *lc;

	outerPlanState(css) = ExecInitNode(outerPlan(plan), estate, eflags);
	state->agg = linitial_node(Agg, plan->custom_private);
	state->partial = state->agg->aggsplit != AGGSPLIT_SIMPLE;
	state->nkeys = state->agg->numCols;
	foreach(lc, plan->custom_scan_tlist)
		if (foreach_current_index(lc) >= state->nkeys)
			state->aggrefs = lappend(state->aggrefs, lfirst_node(TargetEntry, lc)->expr);
	state->naggs = list_length(state->aggrefs);
	foreach(lc, state->aggrefs)
		penstock_aggregate_check_permission(lfirst_node(Aggref, lc));
	if (eflags & EXEC_FLAG_EXPLAIN_ONLY)
		return;

	state->group_context = AllocSetContextCreate(CurrentMemoryContext, "Penstock aggregate groups",
												 ALLOCSET_DEFAULT_SIZES);
	state->chunk_context = penstock_chunk_context(CurrentMemoryContext);
	state->row_context = AllocSetContextCreate(CurrentMemoryContext, "Penstock aggregate row",
											   ALLOCSET_DEFAULT_SIZES);
	init_scans(state);
	if (!state->partial)
	{
		state->finals = palloc0(sizeof(PenstockAggregate) * (state->naggs + 1));
		foreach(lc, state->aggrefs)
			penstock_aggregate_init(&state->finals[foreach_current_index(lc)],
									lfirst_node(Aggref, lc));
		state->final_context = penstock_aggregate_context(state->row_context);
	}
}

/* Has another aggregate the same transition state? */
static bool
shares_state(StreamAggregateState *state, Aggref *ref)
{
	ListCell   *lc;

	foreach(lc, state->aggrefs)
		if (lfirst(lc) != ref && lfirst_node(Aggref, lc)->aggtransno == ref->aggtransno)
			return true;
	return false;
}

/* Empty groups for the next part. */
static void
start_groups(StreamAggregateState *state)
{
	List	   *tlist = ((CustomScan *) state->css.ss.ps.plan)->custom_scan_tlist;
	Oid		   *types = palloc0(sizeof(Oid) * (state->nkeys + 1));
	ListCell   *lc;

	MemoryContextReset(state->group_context);
	for (int i = 0; i < state->nkeys; i++)
		types[i] = exprType((Node *) lfirst_node(TargetEntry, list_nth_cell(tlist, i))->expr);
	state->groups = penstock_groups_create(state->group_context, state->nkeys, types,
										   state->agg->grpCollations, state->agg->grpOperators);
	state->states = MemoryContextAlloc(state->group_context,
									   sizeof(VectorAggregate *) * (state->naggs + 1));
	foreach(lc, state->aggrefs)
		state->states[foreach_current_index(lc)] =
			penstock_kernel_create(state->group_context, lfirst_node(Aggref, lc),
								   shares_state(state, lfirst_node(Aggref, lc)));
	pfree(types);
	state->empty_memory = MemoryContextMemAllocated(state->group_context, true);
}

/* Selects the rows that pass an aggregate's filter; the groups of these. */
static uint32 *
filter_rows(ExprState *filter, VectorChunk *chunk, const uint32 *group_of)
{
	uint32	   *selected = MemoryContextAlloc(chunk->context, sizeof(uint32) * (chunk->nselected + 1));
	uint32	   *groups = MemoryContextAlloc(chunk->context, sizeof(uint32) * (chunk->nselected + 1));
	int			n = 0;

	for (int i = 0; i < chunk->nselected; i++)
	{
		uint32		row = vector_row(chunk, i);

		ResetExprContext(chunk->econtext);
		penstock_vector_store_row(chunk, row);
		if (!ExecQual(filter, chunk->econtext))
			continue;
		selected[n] = row;
		groups[n++] = group_of[i];
	}
	chunk->selected = selected;
	chunk->nselected = n;
	return groups;
}

/* Advances one aggregate by the chunk's rows.  Arguments are evaluated for rows that pass its filter only. */
static void
advance(VectorAggregate *state, ScanAggregate *agg, VectorChunk *chunk, uint32 *group_of,
		uint32 ngroups)
{
	PenstockVector args[FUNC_MAX_ARGS];
	uint32	   *selected = chunk->selected;
	int			nselected = chunk->nselected;

	if (agg->filter)
		group_of = filter_rows(agg->filter, chunk, group_of);
	for (int i = 0; i < agg->nargs; i++)
		penstock_vector_expr_eval(&agg->args[i], chunk, false, &args[i]);
	penstock_kernel_grow(state, ngroups);
	penstock_kernel_advance(state, chunk, args, group_of);
	chunk->selected = selected;
	chunk->nselected = nselected;
}

static void
run_chunk(StreamAggregateState *state, ScanRun *run, PenstockReader *reader, const Part *part)
{
	VectorChunk *chunk = &run->chunk;
	PenstockVector *keys;
	uint32	   *group_of;
	uint32		ngroups;

	MemoryContextReset(chunk->context);
	chunk->chunk = reader->chunk;
	chunk->nrows = reader->info.nrows;
	memset(chunk->decoded, 0, sizeof(bool) * chunk->natts);
	penstock_vector_filter(chunk, run->qual);

	group_of = MemoryContextAlloc(chunk->context, sizeof(uint32) * (chunk->nselected + 1));
	keys = MemoryContextAlloc(chunk->context, sizeof(PenstockVector) * (state->nkeys + 1));
	for (int i = 0; i < state->nkeys; i++)
		penstock_vector_expr_eval(&run->keys[i], chunk, true, &keys[i]);
	penstock_groups_assign(state->groups, chunk, keys, part->partitions, part->partition, group_of);
	ngroups = penstock_groups_count(state->groups);
	for (int i = 0; i < state->naggs; i++)
		advance(state->states[i], &run->aggs[i], chunk, group_of, ngroups);
	ResetExprContext(chunk->econtext);
}

/* Scans start again when something is left to do that has not been read. */
static void
rescan_inputs(StreamAggregateState *state)
{
	ExecReScan(outerPlanState(state));
	for (int i = 0; i < state->nscans; i++)
		if (state->scans[i].css->ss.ps.chgParam != NULL)
			ExecReScan(&state->scans[i].css->ss.ps);
	state->scan = 0;
}

static void
add_part(StreamAggregateState *state, uint32 partitions, uint32 partition)
{
	MemoryContext old = MemoryContextSwitchTo(state->css.ss.ps.state->es_query_cxt);
	Part	   *part = palloc(sizeof(Part));

	part->partitions = partitions;
	part->partition = partition;
	state->parts = lappend(state->parts, part);
	state->most_partitions = Max(state->most_partitions, partitions);
	MemoryContextSwitchTo(old);
}

/* Without keys there is a group even without rows. */
static void
ensure_only_group(StreamAggregateState *state)
{
	VectorChunk nothing = {0};
	uint32		group;

	if (state->nkeys > 0 || penstock_groups_count(state->groups) > 0)
		return;
	penstock_groups_assign(state->groups, &nothing, NULL, 1, 0, &group);
	for (int i = 0; i < state->naggs; i++)
		penstock_kernel_grow(state->states[i], 1);
}

/*
 * Reads the scans into the groups of one part.  False if they do not fit: then the part has been divided.
 */
static bool
fill_part(StreamAggregateState *state, Part part)
{
	Size		limit = penstock_hash_memory_limit();

	start_groups(state);
	state->reading = false;
	for (; state->scan < state->nscans; state->scan++)
	{
		ScanRun    *run = &state->scans[state->scan];
		PenstockReader *reader;

		while ((reader = penstock_customscan_next_chunk(run->css)) != NULL)
		{
			CHECK_FOR_INTERRUPTS();
			run_chunk(state, run, reader, &part);
			if (state->nkeys == 0 ||
				MemoryContextMemAllocated(state->group_context, true) - state->empty_memory < limit)
				continue;
			if (state->shared)
			{
				state->reading = true;
				return true;
			}
			if (part.partitions >= MAX_FIRST_PARTITIONS && !state->given_out)
			{
				state->use_spilling = true;
				return false;
			}
			if (part.partitions < MAX_PARTITIONS && penstock_groups_count(state->groups) > 1)
			{
				for (int i = 0; i < DIVIDE_BY; i++)
					add_part(state, part.partitions * DIVIDE_BY,
							 part.partition + i * part.partitions);
				rescan_inputs(state);
				return false;
			}
		}
	}
	ensure_only_group(state);
	return true;
}

/* Makes the next groups ready; false at the end. */
static bool
next_groups(StreamAggregateState *state)
{
	Part		part = {1, 0};

	if (state->parts == NIL && state->most_partitions == 0)
		add_part(state, 1, 0);
	else if (state->reading)
	{
		state->next_group = 0;
		return fill_part(state, part);
	}
	while (state->parts != NIL && !state->use_spilling)
	{
		part = *(Part *) linitial(state->parts);
		pfree(linitial(state->parts));
		state->parts = list_delete_first(state->parts);
		if (state->scan > 0)
			rescan_inputs(state);
		state->next_group = 0;
		if (fill_part(state, part))
			return true;
	}
	return false;
}

/* The next group as a row of custom_scan_tlist (ExecScanAccessMtd). */
static TupleTableSlot *
access_group(ScanState *node)
{
	StreamAggregateState *state = (StreamAggregateState *) node;
	TupleTableSlot *slot = node->ss_ScanTupleSlot;
	MemoryContext old;
	uint32		group;

	ExecClearTuple(slot);
	while (!state->filled || state->next_group >= penstock_groups_count(state->groups))
	{
		MemoryContext caller = MemoryContextSwitchTo(state->css.ss.ps.state->es_query_cxt);

		state->filled = next_groups(state);
		MemoryContextSwitchTo(caller);
		if (!state->filled)
			return slot;
	}

	group = state->next_group++;
	state->given_out = true;
	MemoryContextReset(state->row_context);
	old = MemoryContextSwitchTo(state->row_context);
	for (int i = 0; i < state->nkeys; i++)
		penstock_groups_key(state->groups, group, i, &slot->tts_values[i], &slot->tts_isnull[i]);
	for (int i = 0; i < state->naggs; i++)
	{
		Datum	   *value = &slot->tts_values[state->nkeys + i];
		bool	   *isnull = &slot->tts_isnull[state->nkeys + i];

		if (state->partial)
			penstock_kernel_result(state->states[i], group, value, isnull);
		else
		{
			penstock_kernel_state(state->states[i], group, value, isnull);
			penstock_aggregate_final(&state->finals[i], state->final_context, true,
									 *value, *isnull, value, isnull);
		}
	}
	MemoryContextSwitchTo(old);
	return ExecStoreVirtualTuple(slot);
}

static bool
recheck_group(ScanState *node, TupleTableSlot *slot)
{
	return true;
}

/* Makes the server's Agg, with a scan of its own; its rows are this node's. */
static void
start_spilling(StreamAggregateState *state)
{
	EState	   *estate = state->css.ss.ps.state;
	MemoryContext old = MemoryContextSwitchTo(estate->es_query_cxt);

	MemoryContextReset(state->group_context);
	state->groups = NULL;
	state->spilling = ExecInitNode(&state->agg->plan, estate, 0);
	MemoryContextSwitchTo(old);
}

static TupleTableSlot *
exec_node(CustomScanState *css)
{
	StreamAggregateState *state = (StreamAggregateState *) css;
	TupleTableSlot *slot = NULL;

	if (!state->use_spilling)
		slot = ExecScan(&css->ss, access_group, recheck_group);
	if (!state->use_spilling)
		return slot;
	if (state->spilling == NULL)
		start_spilling(state);
	return ExecProcNode(state->spilling);
}

static void
rescan_node(CustomScanState *css)
{
	StreamAggregateState *state = (StreamAggregateState *) css;

	ExecClearTuple(css->ss.ss_ScanTupleSlot);
	rescan_inputs(state);
	list_free_deep(state->parts);
	state->parts = NIL;
	state->most_partitions = 0;
	state->reading = state->filled = state->given_out = false;
	state->next_group = 0;
	if (state->spilling != NULL)
	{
		if (css->ss.ps.chgParam != NULL)
			UpdateChangedParamSet(state->spilling, css->ss.ps.chgParam);
		ExecReScan(state->spilling);
		state->use_spilling = false;
	}
	ExecScanReScan(&css->ss);
}

static void
end_node(CustomScanState *css)
{
	ExecClearTuple(css->ss.ss_ScanTupleSlot);
	ExecEndNode(outerPlanState(css));
	ExecEndNode(((StreamAggregateState *) css)->spilling);
}

static void
explain_node(CustomScanState *css, List *ancestors, ExplainState *es)
{
	StreamAggregateState *state = (StreamAggregateState *) css;
	CustomScan *plan = (CustomScan *) css->ss.ps.plan;
	List	   *keys = NIL;
	List	   *context;
	ListCell   *lc;

	context = set_deparse_context_plan(es->deparse_cxt, css->ss.ps.plan, ancestors);
	foreach(lc, plan->custom_scan_tlist)
		if (foreach_current_index(lc) < state->nkeys)
			keys = lappend(keys, deparse_expression((Node *) lfirst_node(TargetEntry, lc)->expr,
													context, list_length(es->rtable) > 1 || es->verbose,
													true));
	if (state->partial)
		ExplainPropertyText("Aggregate", "Partial", es);
	if (keys != NIL)
		ExplainPropertyList("Group Key", keys, es);
	if (es->analyze && state->most_partitions > 1)
		ExplainPropertyInteger("Partitions", NULL, state->most_partitions, es);
	if (es->analyze && state->spilling != NULL)
		ExplainPropertyText("Spilled", "HashAggregate", es);
}
