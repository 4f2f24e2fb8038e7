/*
 * view_shape.c
 *	  From the query of a view to the way it is kept.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_aggregate.h"
#include "catalog/pg_type.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "parser/parse_oper.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"

#include "compat/compat.h"
#include "util/errors.h"
#include "view/view_internal.h"


static int
position_of(ParseState *pstate, Node *node)
{
	return pstate ? parser_errposition(pstate, exprLocation(node)) : 0;
}

/* Index of node in list by equal(), or -1. */
static int
find_equal(List *list, Node *node)
{
	ListCell   *lc;

	foreach(lc, list)
		if (equal(lfirst(lc), node))
			return foreach_current_index(lc);
	return -1;
}

/*
 * Only aggregates whose partial states can be combined can be kept.
 */
static void
check_aggregate(Aggref *agg, ParseState *pstate)
{
	HeapTuple	tuple;
	Form_pg_aggregate form;
	const char *why = NULL;

	if (agg->aggkind != AGGKIND_NORMAL)
		why = "It is an ordered-set or hypothetical-set aggregate.";
	else if (agg->aggdistinct != NIL)
		why = "It is used with DISTINCT.";
	else if (agg->aggorder != NIL)
		why = "It is used with ORDER BY.";
	else
	{
		tuple = SearchSysCache1(AGGFNOID, ObjectIdGetDatum(agg->aggfnoid));
		if (!HeapTupleIsValid(tuple))
			elog(ERROR, "cache lookup failed for aggregate %u", agg->aggfnoid);
		form = (Form_pg_aggregate) GETSTRUCT(tuple);
		if (!OidIsValid(form->aggcombinefn))
			why = "It has no combine function.";
		else if (form->aggtranstype == INTERNALOID &&
				 (!OidIsValid(form->aggserialfn) || !OidIsValid(form->aggdeserialfn)))
			why = "It has no serialization functions.";
		ReleaseSysCache(tuple);
	}

	if (why != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_PENSTOCK_NOT_CONTINUOUS),
				 errmsg("a continuous view cannot keep aggregate function %s",
						get_func_name(agg->aggfnoid)),
				 errdetail("%s", why),
				 errhint("Use an aggregate with a combine function, without DISTINCT and ORDER BY; a sketch such as HyperLogLog or t-digest can stand for distinct counts and percentiles."),
				 position_of(pstate, (Node *) agg)));
}

static void
add_key(PenstockShape *shape, List **group, Node *expr, Oid eqop, Oid sortop, bool hashable)
{
	SortGroupClause *clause = makeNode(SortGroupClause);

	shape->keys = lappend(shape->keys, copyObject(expr));
	clause->tleSortGroupRef = list_length(shape->keys);
	clause->eqop = eqop;
	clause->sortop = sortop;
	clause->hashable = hashable;
	*group = lappend(*group, clause);
}

/*
 * Collects aggregates, and columns that stand beside the keys because they depend on them
 * (GROUP BY of a primary key): those become keys too, which groups the same.
 */
typedef struct CollectWalk
{
	PenstockShape *shape;
	ParseState *pstate;
	List	  **group;
} CollectWalk;

static bool
collect_walker(Node *node, void *arg)
{
	CollectWalk *walk = arg;

	if (node == NULL || find_equal(walk->shape->keys, node) >= 0)
		return false;
	if (IsA(node, Aggref))
	{
		check_aggregate((Aggref *) node, walk->pstate);
		if (find_equal(walk->shape->aggs, node) < 0)
			walk->shape->aggs = lappend(walk->shape->aggs, copyObject(node));
		return false;
	}
	if (IsA(node, SubLink))
		ereport(ERROR,
				(errcode(ERRCODE_PENSTOCK_NOT_CONTINUOUS),
				 errmsg("a continuous view cannot have a sub-select beside its aggregates"),
				 errdetail("It would have to be evaluated again for all groups whenever its tables change."),
				 errhint("Use the sub-select when reading the view."),
				 position_of(walk->pstate, node)));
	if (IsA(node, Var))
	{
		Oid			sortop,
					eqop;
		bool		hashable;

		get_sort_group_operators(exprType(node), false, true, false,
								 &sortop, &eqop, NULL, &hashable);
		add_key(walk->shape, walk->group, node, eqop, sortop, hashable);
		return false;
	}
	return expression_tree_walker(node, collect_walker, arg);
}

/* Keys and aggregates become columns of the (keys, aggregate results) row. */
static Node *
final_mutator(Node *node, void *arg)
{
	PenstockShape *shape = arg;
	int			at;

	if (node == NULL)
		return NULL;
	if ((at = find_equal(shape->keys, node)) >= 0 ||
		(IsA(node, Aggref) &&
		 (at = list_length(shape->keys) + find_equal(shape->aggs, node)) >= 0))
		return (Node *) makeVar(OUTER_VAR, at + 1, exprType(node), exprTypmod(node),
								exprCollation(node), 0);
	return expression_tree_mutator(node, final_mutator, arg);
}

static Aggref *
make_weight(void)
{
	Aggref	   *agg = makeNode(Aggref);

	agg->aggfnoid = F_COUNT_;
	agg->aggtype = INT8OID;
	agg->aggstar = true;
	agg->aggkind = AGGKIND_NORMAL;
	agg->aggsplit = AGGSPLIT_SIMPLE;
	agg->aggno = -1;
	agg->aggtransno = -1;
	agg->location = -1;
	return agg;
}

static void
describe_keys(PenstockShape *shape, List *group)
{
	ListCell   *lc;

	shape->nkeys = list_length(shape->keys);
	shape->key_types = palloc0(sizeof(Oid) * (shape->nkeys + 1));
	shape->key_typmods = palloc0(sizeof(int32) * (shape->nkeys + 1));
	shape->key_collations = palloc0(sizeof(Oid) * (shape->nkeys + 1));
	shape->key_eqops = palloc0(sizeof(Oid) * (shape->nkeys + 1));
	shape->key_columns = palloc0(sizeof(int) * (shape->nkeys + 1));
	foreach(lc, shape->keys)
	{
		int			i = foreach_current_index(lc);
		Node	   *key = lfirst(lc);
		ListCell   *lc2;

		shape->key_types[i] = exprType(key);
		shape->key_typmods[i] = exprTypmod(key);
		shape->key_collations[i] = exprCollation(key);
		shape->key_eqops[i] = ((SortGroupClause *) list_nth(group, i))->eqop;
		foreach(lc2, shape->finals)
		{
			TargetEntry *tle = lfirst_node(TargetEntry, lc2);

			if (IsA(tle->expr, Var) && ((Var *) tle->expr)->varattno == i + 1)
			{
				shape->key_columns[i] = tle->resno;
				break;
			}
		}
	}
}

static void
shape_group(PenstockShape *shape, Query *query, ParseState *pstate)
{
	List	   *group = NIL;
	List	   *tlist = NIL;
	CollectWalk walk = {shape, pstate, &group};
	ListCell   *lc;

	penstock_flatten_group_rte(query);

	foreach(lc, query->groupClause)
	{
		SortGroupClause *clause = lfirst_node(SortGroupClause, lc);
		Node	   *expr = get_sortgroupclause_expr(clause, query->targetList);

		if (find_equal(shape->keys, expr) < 0)
			add_key(shape, &group, expr, clause->eqop, clause->sortop, clause->hashable);
	}

	shape->aggs = list_make1(make_weight());
	foreach(lc, query->targetList)
		if (!lfirst_node(TargetEntry, lc)->resjunk)
			collect_walker((Node *) lfirst_node(TargetEntry, lc)->expr, &walk);
	collect_walker(query->havingQual, &walk);
	shape->naggs = list_length(shape->aggs);

	foreach(lc, query->targetList)
	{
		TargetEntry *tle = lfirst_node(TargetEntry, lc);

		if (!tle->resjunk)
		{
			TargetEntry *final = flatCopyTargetEntry(tle);

			final->expr = (Expr *) final_mutator((Node *) tle->expr, shape);
			final->ressortgroupref = 0;
			shape->finals = lappend(shape->finals, final);
		}
	}
	shape->having = final_mutator(query->havingQual, shape);
	describe_keys(shape, group);

	foreach(lc, shape->keys)
	{
		TargetEntry *tle = makeTargetEntry(copyObject(lfirst(lc)), list_length(tlist) + 1,
										   NULL, false);

		tle->ressortgroupref = foreach_current_index(lc) + 1;
		tlist = lappend(tlist, tle);
	}
	foreach(lc, shape->aggs)
		tlist = lappend(tlist, makeTargetEntry(copyObject(lfirst(lc)), list_length(tlist) + 1,
											   NULL, false));
	query->targetList = tlist;
	query->groupClause = group;
	query->sortClause = NIL;
	query->havingQual = NULL;
	query->hasAggs = true;
}

/*
 * penstock_view_shape works out how the query, which passed penstock_view_check, is kept.
 * Raises ERRCODE_PENSTOCK_NOT_CONTINUOUS for aggregates that cannot be.  The result stands in the
 * current memory context and shares nothing with query.
 */
PenstockShape *
penstock_view_shape(Query *query, ParseState *pstate)
{
	PenstockShape *shape = palloc0(sizeof(PenstockShape));

	shape->delta = copyObject(query);
	if (query->hasAggs || query->groupClause != NIL || query->havingQual)
	{
		shape->strategy = PENSTOCK_STRATEGY_GROUP;
		shape_group(shape, shape->delta, pstate);
	}
	else
	{
		shape->strategy = PENSTOCK_STRATEGY_APPEND;
		shape->delta->sortClause = NIL; /* the order of a view's rows means nothing */
	}
	return shape;
}
