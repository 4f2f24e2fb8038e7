/*
 * stream_plan.c
 *	  Planning scans of streams: every plan that reads one uses the custom scan.
 */
#include "postgres.h"

#include <math.h>

#include "access/nbtree.h"
#include "access/stratnum.h"
#include "access/sysattr.h"
#include "access/table.h"
#include "nodes/extensible.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/clauses.h"
#include "optimizer/cost.h"
#include "optimizer/optimizer.h"
#include "optimizer/pathnode.h"
#include "optimizer/paths.h"
#include "optimizer/plancat.h"
#include "optimizer/restrictinfo.h"
#include "catalog/heap.h"
#include "parser/parse_relation.h"
#include "parser/parsetree.h"
#include "utils/lsyscache.h"
#include "utils/spccache.h"
#include "utils/typcache.h"

#include "stream/stream_internal.h"

/* Cost of a row against cpu_tuple_cost: it is taken from arrays, not from a page. */
#define ROW_COST_FACTOR		0.3
/* What a heap would need beyond the values themselves. */
#define HEAP_ROW_OVERHEAD	28

static set_rel_pathlist_hook_type next_pathlist_hook;
static get_relation_info_hook_type next_relation_info_hook;

static Plan *plan_custom_path(PlannerInfo *root, RelOptInfo *rel, CustomPath *path, List *tlist,
							  List *clauses, List *custom_plans);

static const CustomPathMethods path_methods = {
	.CustomName = "StreamScan",
	.PlanCustomPath = plan_custom_path,
};

static bool
is_stream_oid(Oid relid)
{
	Relation	rel = table_open(relid, NoLock);
	bool		result = penstock_relation_is_stream(rel);

	table_close(rel, NoLock);
	return result;
}

/* ---- paths ---- */

/*
 * Columns that expressions use, as attribute numbers; a whole row uses all of them.  Raises an error on
 * system columns that events do not have.
 */
static Bitmapset *
used_columns(List *expressions, Index relid, Oid reloid, bool *whole_row)
{
	Bitmapset  *attnos = NULL;
	Bitmapset  *columns = NULL;
	int			member = -1;

	*whole_row = false;
	pull_varattnos((Node *) expressions, relid, &attnos);
	while ((member = bms_next_member(attnos, member)) >= 0)
	{
		int			attno = member + FirstLowInvalidHeapAttributeNumber;

		if (attno > 0)
			columns = bms_add_member(columns, attno);
		else if (attno == 0)
			*whole_row = true;
		else if (attno != SelfItemPointerAttributeNumber && attno != TableOidAttributeNumber)
			ereport(ERROR,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("streams have no system column \"%s\"",
							NameStr(SystemAttributeDefinition(attno)->attname)),
					 errdetail("Events of stream \"%s\" are kept in chunks, not as tuples of their own.",
							   get_rel_name(reloid)),
					 errhint("ctid and tableoid are available.")));
	}
	return columns;
}

/* Share of the columns that a scan of rel must read. */
static double
column_share(PlannerInfo *root, RelOptInfo *rel, Oid reloid, int *ncolumns)
{
	List	   *expressions = list_copy(rel->reltarget->exprs);
	bool		whole_row;
	Bitmapset  *columns;
	ListCell   *lc;

	foreach(lc, rel->baserestrictinfo)
		expressions = lappend(expressions, lfirst_node(RestrictInfo, lc)->clause);
	columns = used_columns(expressions, rel->relid, reloid, &whole_row);
	*ncolumns = whole_row ? rel->max_attr : bms_num_members(columns);
	return (double) *ncolumns / Max(rel->max_attr, 1);
}

static void
cost_path(CustomPath *custom, PlannerInfo *root, RelOptInfo *rel, double share, int ncolumns,
		  double divisor)
{
	Path	   *path = &custom->path;
	double		page_cost;
	Cost		cpu;
	Cost		startup;

	get_tablespace_page_costs(rel->reltablespace, NULL, &page_cost);
	path->rows = path->param_info ? path->param_info->ppi_rows : rel->rows;

	startup = rel->baserestrictcost.startup + path->pathtarget->cost.startup;
	cpu = cpu_tuple_cost * ROW_COST_FACTOR + cpu_operator_cost * 0.2 * ncolumns +
		rel->baserestrictcost.per_tuple;
	cpu = cpu * rel->tuples + path->pathtarget->cost.per_tuple * path->rows;

	path->rows = clamp_row_est(path->rows / divisor);
	path->startup_cost = startup;
	/* the directory is a small part of the pages; a chunk costs at least one of them */
	path->total_cost = startup + page_cost * ceil(rel->pages * Max(share, 0.02)) + cpu / divisor;
}

static CustomPath *
make_path(PlannerInfo *root, RelOptInfo *rel, double share, int ncolumns, int workers)
{
	CustomPath *custom = makeNode(CustomPath);
	double		divisor = 1;

	custom->path.pathtype = T_CustomScan;
	custom->path.parent = rel;
	custom->path.pathtarget = rel->reltarget;
	custom->path.param_info = get_baserel_parampathinfo(root, rel, rel->lateral_relids);
	custom->path.parallel_safe = rel->consider_parallel;
	custom->path.parallel_aware = workers > 0;
	custom->path.parallel_workers = workers;
	custom->flags = CUSTOMPATH_SUPPORT_PROJECTION;
	custom->methods = &path_methods;

	if (workers > 0)
	{
		divisor = workers;
		if (parallel_leader_participation)
			divisor += Max(0.0, 1.0 - 0.3 * workers);
	}
	cost_path(custom, root, rel, share, ncolumns, divisor);
	return custom;
}

/* Workers for the stream, as for a heap of the same rows: decoding is what they share. */
static int
parallel_workers(RelOptInfo *rel)
{
	double		width = HEAP_ROW_OVERHEAD + 8.0 * rel->max_attr;

	return compute_parallel_worker(rel, Max(rel->pages, rel->tuples * width / BLCKSZ), -1,
								   max_parallel_workers_per_gather);
}

static void
refuse_row_locks(PlannerInfo *root, Index rti, Oid reloid)
{
	ListCell   *lc;

	foreach(lc, root->rowMarks)
	{
		PlanRowMark *mark = lfirst_node(PlanRowMark, lc);

		if (mark->rti == rti && RowMarkRequiresRowShareLock(mark->markType))
			ereport(ERROR,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("cannot lock rows of stream \"%s\"", get_rel_name(reloid)),
					 errdetail("Streams are append-only: events never change, so there is nothing to lock."),
					 errhint("Leave FOR UPDATE or FOR SHARE out, or name the other tables with FOR UPDATE OF.")));
	}
}

static void
set_stream_paths(PlannerInfo *root, RelOptInfo *rel, Index rti, RangeTblEntry *rte)
{
	double		share;
	int			ncolumns;
	int			workers;

	if (next_pathlist_hook)
		next_pathlist_hook(root, rel, rti, rte);

	if (rte->rtekind != RTE_RELATION || rte->relkind != RELKIND_RELATION || rte->inh ||
		!is_stream_oid(rte->relid))
		return;
	refuse_row_locks(root, rti, rte->relid);
	if (IS_DUMMY_REL(rel))
		return;

	share = column_share(root, rel, rte->relid, &ncolumns);
	if (rte->tablesample)
		return;

	rel->pathlist = NIL;
	rel->partial_pathlist = NIL;
	/* a worker process does not know of a delta or a fill: it must not run even a whole scan */
	if (penstock_delta_mode() != PENSTOCK_SCAN_FULL || penstock_delta_assumed_rows() > 0)
		rel->consider_parallel = false;
	add_path(rel, (Path *) make_path(root, rel, share, ncolumns, 0));

	if (rel->consider_parallel && bms_is_empty(rel->lateral_relids) &&
		(workers = parallel_workers(rel)) > 0)
		add_partial_path(rel, (Path *) make_path(root, rel, share, ncolumns, workers));
}

/* While a delta plan is made, streams have as many rows as the delta is assumed to have. */
static void
set_relation_info(PlannerInfo *root, Oid reloid, bool inhparent, RelOptInfo *rel)
{
	double		assumed = penstock_delta_assumed_rows();

	if (next_relation_info_hook)
		next_relation_info_hook(root, reloid, inhparent, rel);

	if (assumed > 0 && !inhparent && is_stream_oid(reloid))
	{
		rel->pages = (BlockNumber) Max(1.0, assumed * rel->max_attr * 4 / BLCKSZ);
		rel->tuples = assumed;
	}
}

/* ---- chunk filters ---- */

static Expr *
strip_relabel(Expr *expr)
{
	while (expr && IsA(expr, RelabelType))
		expr = ((RelabelType *) expr)->arg;
	return expr;
}

static bool
is_column(Expr *expr, Index relid)
{
	Var		   *var = (Var *) strip_relabel(expr);

	return var && IsA(var, Var) && var->varno == relid && var->varattno > 0 &&
		var->varlevelsup == 0 && get_typbyval(var->vartype);
}

/* Known before the scan starts, and the same for all of it. */
static bool
is_constant(PlannerInfo *root, Expr *expr, Index relid)
{
	return !contain_volatile_functions((Node *) expr) && !contain_subplans((Node *) expr) &&
		!bms_is_member(relid, pull_varnos(root, (Node *) expr));
}

/* Is "column op value" a comparison that the column's order can answer? */
static bool
is_comparison(Oid opno, Expr *column)
{
	TypeCacheEntry *type = lookup_type_cache(exprType((Node *) column), TYPECACHE_BTREE_OPFAMILY);
	int			strategy;
	Oid			left;
	Oid			right;

	if (!OidIsValid(type->btree_opf) || !op_in_opfamily(opno, type->btree_opf))
		return false;
	get_op_opfamily_properties(opno, type->btree_opf, false, &strategy, &left, &right);
	return OidIsValid(get_opfamily_proc(type->btree_opf, left, right, BTORDER_PROC));
}

/* The clause as "column op value" if chunks can be skipped by it, else NULL. */
static Expr *
chunk_filter(PlannerInfo *root, Index relid, Expr *clause)
{
	if (is_opclause(clause) && list_length(((OpExpr *) clause)->args) == 2)
	{
		OpExpr	   *op = copyObject((OpExpr *) clause);

		if (!is_column(linitial(op->args), relid))
		{
			if (!is_column(lsecond(op->args), relid) || !OidIsValid(get_commutator(op->opno)))
				return NULL;
			CommuteOpExpr(op);
		}
		if (is_constant(root, lsecond(op->args), relid) &&
			is_comparison(op->opno, linitial(op->args)))
			return (Expr *) op;
	}
	else if (IsA(clause, ScalarArrayOpExpr) && ((ScalarArrayOpExpr *) clause)->useOr)
	{
		ScalarArrayOpExpr *op = (ScalarArrayOpExpr *) clause;

		if (is_column(linitial(op->args), relid) &&
			is_constant(root, lsecond(op->args), relid) &&
			is_comparison(op->opno, linitial(op->args)))
			return copyObject(clause);
	}
	return NULL;
}

/* ---- plans ---- */

/*
 * plan_custom_path makes the plan node.  custom_private holds the list of columns to read and
 * that of columns that quals use, custom_exprs the chunk filters, each as "column op value".
 */
static Plan *
plan_custom_path(PlannerInfo *root, RelOptInfo *rel, CustomPath *path, List *tlist, List *clauses,
				 List *custom_plans)
{
	CustomScan *scan = makeNode(CustomScan);
	List	   *quals = extract_actual_clauses(clauses, false);
	RangeTblEntry *rte = planner_rt_fetch(rel->relid, root);
	List	   *columns = NIL;
	List	   *qual_columns = NIL;
	Bitmapset  *used;
	Bitmapset  *tested;
	bool		whole_row;
	bool		tests_row;
	ListCell   *lc;

	/* tlist is empty where the planner puts the one of a projection above into the node later */
	used = used_columns(list_concat(list_concat_copy(tlist, quals), rel->reltarget->exprs),
						rel->relid, rte->relid, &whole_row);
	tested = used_columns(quals, rel->relid, rte->relid, &tests_row);
	for (int attno = 1; attno <= rel->max_attr; attno++)
	{
		if (whole_row || bms_is_member(attno, used))
			columns = lappend_int(columns, attno);
		if (tests_row || bms_is_member(attno, tested))
			qual_columns = lappend_int(qual_columns, attno);
	}

	foreach(lc, quals)
	{
		Expr	   *filter = chunk_filter(root, rel->relid, lfirst(lc));

		if (filter)
			scan->custom_exprs = lappend(scan->custom_exprs, filter);
	}

	scan->scan.plan.targetlist = tlist;
	scan->scan.plan.qual = quals;
	scan->scan.scanrelid = rel->relid;
	scan->flags = path->flags;
	scan->custom_private = list_make2(columns, qual_columns);
	scan->methods = &penstock_customscan_methods;
	return &scan->scan.plan;
}

void
penstock_plan_init(void)
{
	next_pathlist_hook = set_rel_pathlist_hook;
	set_rel_pathlist_hook = set_stream_paths;
	next_relation_info_hook = get_relation_info_hook;
	get_relation_info_hook = set_relation_info;
}
