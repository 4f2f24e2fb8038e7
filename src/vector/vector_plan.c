/*
 * vector_plan.c
 *	  Puts StreamAggregate in the place of Agg nodes of finished plans.
 *
 * It is done after planning: costs have been compared by then, and Agg over a stream's scan is what the planner
 * makes of a grouped query anyway.  The node keeps the Agg in custom_private, for its
 * keys and for more groups than fit into memory; its targetlist and qual refer to custom_scan_tlist, which is the keys, then the Aggrefs.
 */
#include "postgres.h"

#include "nodes/extensible.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "miscadmin.h"
#include "optimizer/optimizer.h"
#include "optimizer/planner.h"
#include "utils/guc.h"

#include "compat/compat.h"
#include "stream/stream_internal.h"
#include "vector/vector_internal.h"

/* NULLs of keys are bits of one word */
#define MAX_KEYS 63

static bool vector_enabled = true;
static planner_hook_type next_planner_hook;

static bool
is_stream_scan(Plan *plan)
{
	return plan != NULL && IsA(plan, CustomScan) &&
		((CustomScan *) plan)->methods == &penstock_customscan_methods &&
		((CustomScan *) plan)->custom_scan_tlist == NIL;
}

/* A scan, or an Append of scans that is not cut down or shared out while it runs. */
static bool
is_supported_input(Plan *plan)
{
	ListCell   *lc;

	if (is_stream_scan(plan))
		return true;
	if (plan == NULL || !IsA(plan, Append) || plan->parallel_aware ||
		penstock_append_prunes((Append *) plan) || ((Append *) plan)->appendplans == NIL)
		return false;
	foreach(lc, ((Append *) plan)->appendplans)
		if (!is_stream_scan(lfirst(lc)))
			return false;
	return true;
}

/* Expressions that need more of the executor than a row. */
static bool
needs_executor_walker(Node *node, void *context)
{
	if (node == NULL)
		return false;
	if (IsA(node, SubPlan) || IsA(node, AlternativeSubPlan) ||
		(IsA(node, Var) && ((Var *) node)->varattno <= 0) ||
		(IsA(node, FuncExpr) && ((FuncExpr *) node)->funcretset) ||
		(IsA(node, OpExpr) && ((OpExpr *) node)->opretset))
		return true;
	return expression_tree_walker(node, needs_executor_walker, context);
}

static bool
scan_is_simple(Plan *plan)
{
	ListCell   *lc;

	if (IsA(plan, Append))
	{
		if (plan->qual != NIL)
			return false;
		foreach(lc, ((Append *) plan)->appendplans)
			if (!scan_is_simple(lfirst(lc)))
				return false;
		return true;
	}
	/* a value may be computed for each use and each part: it must always be the same */
	return plan->initPlan == NIL && !needs_executor_walker((Node *) plan->targetlist, NULL) &&
		!needs_executor_walker((Node *) plan->qual, NULL) &&
		!contain_volatile_functions((Node *) plan->targetlist) &&
		!contain_volatile_functions((Node *) plan->qual);
}

/* Collects the aggregates; fails on columns that are no keys and aggregates that cannot be run. */
typedef struct Outputs
{
	Agg		   *agg;
	List	   *aggrefs;
	bool		failed;
} Outputs;

static int
key_of(Agg *agg, AttrNumber attno)
{
	for (int i = 0; i < agg->numCols; i++)
		if (agg->grpColIdx[i] == attno)
			return i;
	return -1;
}

static bool
outputs_walker(Node *node, void *context)
{
	Outputs    *outputs = context;

	if (node == NULL)
		return false;
	if (IsA(node, Aggref))
	{
		ListCell   *lc;

		if (!penstock_kernel_supports((Aggref *) node) || needs_executor_walker(node, NULL) ||
			contain_volatile_functions((Node *) ((Aggref *) node)->args) ||
			contain_volatile_functions((Node *) ((Aggref *) node)->aggfilter))
			outputs->failed = true;
		foreach(lc, outputs->aggrefs)
			if (equal(lfirst(lc), node))
				return false;
		outputs->aggrefs = lappend(outputs->aggrefs, node);
		return false;
	}
	if (IsA(node, Var) && key_of(outputs->agg, ((Var *) node)->varattno) < 0)
		outputs->failed = true;
	if (IsA(node, SubPlan) || IsA(node, AlternativeSubPlan) || IsA(node, GroupingFunc))
		outputs->failed = true;
	return expression_tree_walker(node, outputs_walker, context);
}

/* References to the scan below and aggregates become columns of custom_scan_tlist. */
static Node *
outputs_mutator(Node *node, void *context)
{
	Outputs    *outputs = context;
	int			column = 0;

	if (node == NULL)
		return NULL;
	if (IsA(node, Aggref))
	{
		ListCell   *lc;

		foreach(lc, outputs->aggrefs)
			if (equal(lfirst(lc), node))
				column = outputs->agg->numCols + foreach_current_index(lc) + 1;
	}
	else if (IsA(node, Var))
		column = key_of(outputs->agg, ((Var *) node)->varattno) + 1;
	else
		return expression_tree_mutator(node, outputs_mutator, context);
	return (Node *) makeVar(INDEX_VAR, column, exprType(node), exprTypmod(node),
							exprCollation(node), 0);
}

static List *
make_tlist(Outputs *outputs)
{
	Agg		   *agg = outputs->agg;
	List	   *result = NIL;
	ListCell   *lc;

	for (int i = 0; i < agg->numCols; i++)
	{
		TargetEntry *below = list_nth(agg->plan.lefttree->targetlist, agg->grpColIdx[i] - 1);
		Var		   *var = makeVar(OUTER_VAR, agg->grpColIdx[i], exprType((Node *) below->expr),
								  exprTypmod((Node *) below->expr),
								  exprCollation((Node *) below->expr), 0);

		result = lappend(result, makeTargetEntry((Expr *) var, i + 1, NULL, false));
	}
	foreach(lc, outputs->aggrefs)
		result = lappend(result, makeTargetEntry(copyObject(lfirst(lc)), list_length(result) + 1,
												 NULL, false));
	return result;
}

/* The node in the Agg's place, or the Agg itself. */
static Plan *
improve_agg(Agg *agg)
{
	Outputs		outputs = {agg, NIL, false};
	CustomScan *scan;
	Agg		   *same;

	if ((agg->aggstrategy != AGG_HASHED && agg->aggstrategy != AGG_PLAIN) ||
		(agg->aggsplit != AGGSPLIT_SIMPLE && agg->aggsplit != AGGSPLIT_INITIAL_SERIAL) ||
		agg->groupingSets != NIL || agg->chain != NIL || agg->numCols > MAX_KEYS ||
		!is_supported_input(agg->plan.lefttree) || !scan_is_simple(agg->plan.lefttree))
		return &agg->plan;
	outputs_walker((Node *) agg->plan.targetlist, &outputs);
	outputs_walker((Node *) agg->plan.qual, &outputs);
	if (outputs.failed)
		return &agg->plan;

	scan = makeNode(CustomScan);
	scan->scan.plan = agg->plan;
	scan->scan.plan.type = T_CustomScan;
	scan->scan.plan.targetlist = (List *) outputs_mutator((Node *) agg->plan.targetlist, &outputs);
	scan->scan.plan.qual = (List *) outputs_mutator((Node *) agg->plan.qual, &outputs);
	scan->custom_scan_tlist = make_tlist(&outputs);
	scan->methods = &penstock_aggregate_node_methods;

	same = makeNode(Agg);
	*same = *agg;
	same->plan.initPlan = NIL;	/* the node's own */
	scan->custom_private = list_make1(same);
	return &scan->scan.plan;
}

static Plan *
improve(Plan *plan)
{
	List	   *children = NIL;
	ListCell   *lc;

	if (plan == NULL)
		return NULL;
	check_stack_depth();
	plan->lefttree = improve(plan->lefttree);
	plan->righttree = improve(plan->righttree);
	switch (nodeTag(plan))
	{
		case T_Append:
			children = ((Append *) plan)->appendplans;
			break;
		case T_MergeAppend:
			children = ((MergeAppend *) plan)->mergeplans;
			break;
		case T_SubqueryScan:
			((SubqueryScan *) plan)->subplan = improve(((SubqueryScan *) plan)->subplan);
			break;
		case T_Agg:
			return improve_agg((Agg *) plan);
		default:
			break;
	}
	foreach(lc, children)
		lfirst(lc) = improve(lfirst(lc));
	return plan;
}

/*
 * penstock_vector_improve: see vector.h.
 */
void
penstock_vector_improve(PlannedStmt *plan)
{
	ListCell   *lc;

	plan->planTree = improve(plan->planTree);
	foreach(lc, plan->subplans)
		lfirst(lc) = improve(lfirst(lc));
}

static PlannedStmt *
plan_query(Query *parse, const char *query_string, int cursor_options, ParamListInfo params)
{
	PlannedStmt *plan = next_planner_hook ?
		next_planner_hook(parse, query_string, cursor_options, params) :
		standard_planner(parse, query_string, cursor_options, params);

	if (vector_enabled && plan->commandType != CMD_UTILITY)
		penstock_vector_improve(plan);
	return plan;
}

/*
 * penstock_vector_init: see vector.h.
 */
void
penstock_vector_init(void)
{
	DefineCustomBoolVariable("penstock.enable_stream_aggregate",
							 "Lets plans aggregate streams by chunks.", NULL,
							 &vector_enabled, true, PGC_USERSET, GUC_EXPLAIN, NULL, NULL, NULL);
	RegisterCustomScanMethods(&penstock_aggregate_node_methods);
	next_planner_hook = planner_hook;
	planner_hook = plan_query;
}
