/*
 * view_analyze.c
 *	  Which queries can be kept: everything that reads a stream must be linear in it.
 *
 * A query is linear in its stream when the result of more events is the result so far plus the
 * result of the new events alone.  Selection, projection, set-returning functions, UNION ALL and joins
 * that keep the stream's rows are; one GROUP BY above them all is kept by its partial states.
 */
#include "postgres.h"

#include "access/table.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_proc.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "parser/parsetree.h"
#include "rewrite/rewriteHandler.h"
#include "rewrite/rewriteManip.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

#include "compat/compat.h"
#include "util/errors.h"
#include "view/view_internal.h"

typedef struct Analysis
{
	ParseState *pstate;			/* for error positions; may be NULL */
	List	   *queries;		/* enclosing queries, innermost first */
	bool		opened;			/* views and policies are expanded: positions mean nothing */
} Analysis;

typedef struct RelationWalk
{
	List	   *relations;
	List	   *streams;
} RelationWalk;

static void check_query(Analysis *a, Query *query, bool top);
static bool reads_stream(Analysis *a, Node *node);

/* The one place where a construct is refused.  Without a location it is the SELECT list's. */
static void
refuse(Analysis *a, int location, const char *what, const char *detail, const char *hint)
{
	if (location < 0 && a->queries != NIL)
		location = exprLocation((Node *) ((Query *) linitial(a->queries))->targetList);
	ereport(ERROR,
			(errcode(ERRCODE_PENSTOCK_NOT_CONTINUOUS),
			 errmsg("a continuous view cannot have %s", what),
			 detail ? errdetail("%s", detail) : 0,
			 hint ? errhint("%s", hint) : 0,
			 a->pstate ? parser_errposition(a->pstate, location) : 0));
}

/*
 * Is relid a stream, or a partitioned table or inheritance parent of streams?  A mixture
 * of streams and tables is refused: the tables' share would be counted again in each batch.
 */
static bool
is_stream_tree(Analysis *a, RangeTblEntry *rte)
{
	List	   *children;
	ListCell   *lc;
	int			streams = 0;
	int			others = 0;

	if (rte->relkind != RELKIND_RELATION && rte->relkind != RELKIND_PARTITIONED_TABLE)
		return false;
	if (!rte->inh || !has_subclass(rte->relid))
		return penstock_is_stream(rte->relid);

	children = find_all_inheritors(rte->relid, NoLock, NULL);
	foreach(lc, children)
	{
		Oid			child = lfirst_oid(lc);

		if (get_rel_relkind(child) == RELKIND_PARTITIONED_TABLE)
			continue;
		if (penstock_is_stream(child))
			streams++;
		else
			others++;
	}
	if (streams > 0 && others > 0)
		ereport(ERROR,
				(errcode(ERRCODE_PENSTOCK_NOT_CONTINUOUS),
				 errmsg("a continuous view cannot read \"%s\"", get_rel_name(rte->relid)),
				 errdetail("Some of its partitions are streams and some are not."),
				 errhint("Make every partition a stream.")));
	return streams > 0;
}

static CommonTableExpr *
find_cte(Analysis *a, RangeTblEntry *rte)
{
	int			level = (int) rte->ctelevelsup;
	ListCell   *lc;

	if (level >= list_length(a->queries))
		return NULL;
	foreach(lc, ((Query *) list_nth(a->queries, level))->cteList)
	{
		CommonTableExpr *cte = lfirst_node(CommonTableExpr, lc);

		if (strcmp(cte->ctename, rte->ctename) == 0)
			return cte;
	}
	return NULL;
}

static bool
rte_reads_stream(Analysis *a, RangeTblEntry *rte)
{
	switch (rte->rtekind)
	{
		case RTE_RELATION:
			return is_stream_tree(a, rte);
		case RTE_SUBQUERY:
			return reads_stream(a, (Node *) rte->subquery);
		case RTE_CTE:
			{
				CommonTableExpr *cte = rte->self_reference ? NULL : find_cte(a, rte);
				List	   *saved = a->queries;
				bool		result;

				if (cte == NULL)
					return false;
				/* the body sees the queries from the one that defines it on */
				a->queries = list_copy_tail(saved, (int) rte->ctelevelsup);
				result = reads_stream(a, cte->ctequery);
				a->queries = saved;
				return result;
			}
		case RTE_FUNCTION:
			return reads_stream(a, (Node *) rte->functions);
		case RTE_TABLEFUNC:
			return reads_stream(a, (Node *) rte->tablefunc);
		case RTE_VALUES:
			return reads_stream(a, (Node *) rte->values_lists);
		default:
			return false;
	}
}

static bool
reads_stream_walker(Node *node, void *arg)
{
	Analysis   *a = arg;

	if (node == NULL)
		return false;
	if (IsA(node, RangeTblEntry))
		return rte_reads_stream(a, (RangeTblEntry *) node);
	if (IsA(node, Query))
	{
		List	   *saved = a->queries;
		bool		result;

		a->queries = lcons(node, list_copy(saved));
		/* range table entries are visited by the case above; unused CTEs read nothing */
		result = query_tree_walker((Query *) node, reads_stream_walker, arg,
								   QTW_EXAMINE_RTES_BEFORE | QTW_IGNORE_RT_SUBQUERIES |
								   QTW_IGNORE_CTE_SUBQUERIES);
		a->queries = saved;
		return result;
	}
	return expression_tree_walker(node, reads_stream_walker, arg);
}

static bool
reads_stream(Analysis *a, Node *node)
{
	return reads_stream_walker(node, a);
}

/* A sub-select in an expression may look things up, but not read a stream. */
static bool
check_sublinks_walker(Node *node, void *arg)
{
	Analysis   *a = arg;

	if (node == NULL)
		return false;
	if (IsA(node, SubLink))
	{
		SubLink    *link = (SubLink *) node;

		if (reads_stream(a, link->subselect))
			refuse(a, link->location, "a sub-select over a stream in an expression",
				   "New events would change the result for rows that are already in the view.",
				   "Put the stream into FROM; look up tables in sub-selects.");
	}
	return expression_tree_walker(node, check_sublinks_walker, arg);
}

static RangeTblEntry *
get_rte(Query *query, int rtindex)
{
	return rt_fetch(rtindex, query->rtable);
}

/*
 * Checks a FROM item and returns whether it reads a stream.
 */
static bool
check_from_item(Analysis *a, Query *query, Node *node)
{
	if (IsA(node, RangeTblRef))
	{
		RangeTblEntry *rte = get_rte(query, ((RangeTblRef *) node)->rtindex);

		if (!rte_reads_stream(a, rte))
			return false;
		if (rte->tablesample)
			refuse(a, exprLocation((Node *) rte->tablesample), "TABLESAMPLE on a stream", NULL,
				   "Filter by a hash of a column instead.");
		if (rte->rtekind == RTE_SUBQUERY)
			check_query(a, rte->subquery, false);
		else if (rte->rtekind == RTE_CTE)
		{
			CommonTableExpr *cte = find_cte(a, rte);
			List	   *saved = a->queries;

			a->queries = list_copy_tail(saved, (int) rte->ctelevelsup);
			check_query(a, castNode(Query, cte->ctequery), false);
			a->queries = saved;
		}
		else if (rte->rtekind != RTE_RELATION)
			refuse(a, -1, "a stream inside a function call or VALUES", NULL,
				   "Put the stream into FROM.");
		return true;
	}
	else if (IsA(node, FromExpr))
	{
		FromExpr   *from = (FromExpr *) node;
		int			streams = 0;
		ListCell   *lc;

		foreach(lc, from->fromlist)
			if (check_from_item(a, query, lfirst(lc)) && ++streams > 1)
				refuse(a, -1, "a join of streams",
					   "A FROM list names more than one stream.",
					   "Join the stream with tables, or combine streams with UNION ALL.");
		return streams > 0;
	}
	else
	{
		JoinExpr   *join = castNode(JoinExpr, node);
		bool		left = check_from_item(a, query, join->larg);
		bool		right = check_from_item(a, query, join->rarg);

		if (left && right)
			refuse(a, exprLocation(join->quals), "a join of streams",
				   "Both sides of a join read a stream.",
				   "Join the stream with tables, or combine streams with UNION ALL.");
		if ((left || right) && join->jointype == JOIN_FULL)
			refuse(a, -1, "a FULL JOIN with a stream",
				   "Later events would take back rows that had no match.",
				   "Use LEFT JOIN with the stream on the left.");
		if ((left && join->jointype == JOIN_RIGHT) || (right && join->jointype == JOIN_LEFT))
			refuse(a, -1, "a stream on the nullable side of an outer join",
				   "Later events would take back rows that had no match.",
				   "Put the stream on the preserved side.");
		return left || right;
	}
}

static void
check_union(Analysis *a, Query *query, Node *node)
{
	if (IsA(node, SetOperationStmt))
	{
		SetOperationStmt *set = (SetOperationStmt *) node;

		if (set->op != SETOP_UNION || !set->all)
			refuse(a, -1, set->op == SETOP_UNION ? "UNION without ALL" :
				   set->op == SETOP_INTERSECT ? "INTERSECT" : "EXCEPT", NULL,
				   "UNION ALL of streams is possible.");
		check_union(a, query, set->larg);
		check_union(a, query, set->rarg);
	}
	else if (!check_from_item(a, query, node))
		refuse(a, -1, "a UNION ALL branch that reads no stream",
			   "Its rows would be added again with each batch.",
			   "Each branch must read a stream.");
}

/* Where a query groups: its first aggregate, or else its first key. */
static int
group_location(Query *query)
{
	int			location = query->hasAggs ?
		locate_agg_of_level((Node *) query->targetList, 0) : -1;

	if (location < 0 && query->groupClause != NIL)
		location = exprLocation((Node *) get_sortgroupclause_expr(linitial(query->groupClause),
																  query->targetList));
	return location;
}

/* Puts the place of the first set-returning function into *(int *) arg. */
static bool
srf_location_walker(Node *node, void *arg)
{
	if (node == NULL)
		return false;
	if ((IsA(node, FuncExpr) && ((FuncExpr *) node)->funcretset) ||
		(IsA(node, OpExpr) && ((OpExpr *) node)->opretset))
	{
		*(int *) arg = exprLocation(node);
		return true;
	}
	return expression_tree_walker(node, srf_location_walker, arg);
}

static bool
refuse_grouping_walker(Node *node, void *arg)
{
	if (node == NULL)
		return false;
	if (IsA(node, GroupingFunc))
		refuse(arg, exprLocation(node), "GROUPING()", NULL,
			   "Without grouping sets it is always 0: leave it out.");
	return expression_tree_walker(node, refuse_grouping_walker, arg);
}

/*
 * Checks a query that reads a stream; only the top one may group.
 */
static void
check_query(Analysis *a, Query *query, bool top)
{
	List	   *saved = a->queries;
	ListCell   *lc;

	a->queries = lcons(query, list_copy(saved));

	if (query->commandType != CMD_SELECT || query->hasModifyingCTE)
		refuse(a, -1, "a data-modifying statement", NULL, NULL);
	if (query->hasRecursive)
		refuse(a, -1, "WITH RECURSIVE over a stream", NULL, NULL);
	if (query->rowMarks != NIL)
		refuse(a, -1, "FOR UPDATE or FOR SHARE", NULL, NULL);
	if (query->limitCount || query->limitOffset)
		refuse(a, exprLocation(query->limitCount ? query->limitCount : query->limitOffset),
			   "LIMIT or OFFSET", "Which rows are first changes with each event.",
			   "Leave it out, and use ORDER BY ... LIMIT when reading the view.");
	if (query->hasWindowFuncs)
		refuse(a, -1, "window functions", NULL,
			   "Use the window function when reading the view.");
	if (query->distinctClause != NIL)
		refuse(a, -1, query->hasDistinctOn ? "DISTINCT ON" : "DISTINCT", NULL,
			   query->hasDistinctOn ? NULL : "Use GROUP BY with the same columns.");
	if (query->groupingSets != NIL)
		refuse(a, exprLocation((Node *) query->groupingSets), "GROUPING SETS, CUBE or ROLLUP", NULL,
			   "Make one continuous view for each grouping.");
	refuse_grouping_walker((Node *) query->targetList, a);
	refuse_grouping_walker(query->havingQual, a);
	if (!top && (query->hasAggs || query->groupClause != NIL || query->havingQual))
		refuse(a, group_location(query), "aggregation below the top of its query",
			   "Only the outermost SELECT may group.",
			   "Group in the outermost SELECT, and compute from the groups when reading the view.");
	if (query->hasTargetSRFs && (query->hasAggs || query->groupClause != NIL))
	{
		int			location = -1;

		srf_location_walker((Node *) query->targetList, &location);
		refuse(a, location, "set-returning functions in a grouped SELECT list", NULL,
			   "Put the function into FROM.");
	}

	check_sublinks_walker((Node *) query->targetList, a);
	check_sublinks_walker((Node *) query->jointree, a);
	check_sublinks_walker(query->havingQual, a);
	foreach(lc, query->rtable)	/* policies */
		check_sublinks_walker((Node *) lfirst_node(RangeTblEntry, lc)->securityQuals, a);

	if (query->setOperations)
		check_union(a, query, query->setOperations);
	else if (!check_from_item(a, query, (Node *) query->jointree))
		ereport(ERROR,
				(errcode(ERRCODE_PENSTOCK_NOT_CONTINUOUS),
				 errmsg("a continuous view must read a stream"),
				 errdetail("No relation in FROM is a stream."),
				 errhint("Make the event table with CREATE TABLE ... USING stream.")));

	a->queries = saved;
}

/*
 * Functions whose result differs between a batch now and the same query later.
 */
static bool
is_unstable_function(Oid funcid, void *context)
{
	if (func_volatile(funcid) == PROVOLATILE_VOLATILE)
		return true;
	switch (funcid)
	{
		case F_NOW:
		case F_TRANSACTION_TIMESTAMP:
		case F_STATEMENT_TIMESTAMP:
		case F_PG_CURRENT_SNAPSHOT:
		case F_PG_CURRENT_XACT_ID:
		case F_PG_CURRENT_XACT_ID_IF_ASSIGNED:
		case F_TXID_CURRENT:
		case F_TXID_CURRENT_IF_ASSIGNED:
		case F_TXID_CURRENT_SNAPSHOT:
		case F_AGE_TIMESTAMP:
		case F_AGE_TIMESTAMPTZ:
			return true;
		default:
			return false;
	}
}

/* The engine has settings of its own. */
static bool
reads_setting(Oid funcid, void *context)
{
	return funcid == F_CURRENT_SETTING_TEXT || funcid == F_CURRENT_SETTING_TEXT_BOOL;
}

static bool
check_stable_walker(Node *node, void *arg)
{
	Analysis   *a = arg;

	if (node == NULL)
		return false;
	/* a view or a policy may ask who reads: always the owner */
	if (IsA(node, SQLValueFunction) &&
		!(a->opened && (((SQLValueFunction *) node)->op == SVFOP_CURRENT_USER ||
						((SQLValueFunction *) node)->op == SVFOP_CURRENT_ROLE ||
						((SQLValueFunction *) node)->op == SVFOP_USER)))
		refuse(a, exprLocation(node), "the current time or user in its query",
			   "Its value when an event arrives differs from its value when the view is compared or rebuilt.",
			   "Store the time with the event, or filter when reading the view.");
	if (check_functions_in_node(node, is_unstable_function, NULL))
		refuse(a, exprLocation(node), "volatile functions or the current time in its query",
			   "Its value when an event arrives differs from its value when the view is compared or rebuilt.",
			   "Store the value with the event, or compute it when reading the view.");
	if (check_functions_in_node(node, reads_setting, NULL))
		refuse(a, exprLocation(node), "current_setting() in its query",
			   "The engine does not know the settings of your session.",
			   "Write the value into the query, or filter when reading the view.");
	if (IsA(node, Query))
		return query_tree_walker((Query *) node, check_stable_walker, arg, 0);
	return expression_tree_walker(node, check_stable_walker, arg);
}

/* The query with views and row security expanded, as the planner will see it. */
static Query *
rewritten(Query *query)
{
	List	   *list;
	Query	   *copy = copyObject(query);

	AcquireRewriteLocks(copy, true, false);
	list = QueryRewrite(copy);
	if (list_length(list) != 1)
		elog(ERROR, "unexpected rewrite result for continuous view");
	return linitial_node(Query, list);
}

/*
 * penstock_view_check raises ERRCODE_PENSTOCK_NOT_CONTINUOUS, with the construct, its position in the
 * query where known, and a hint, unless the query can be kept.  query is analysed, not rewritten.
 */
void
penstock_view_check(Query *query, ParseState *pstate)
{
	Analysis	a = {pstate, NIL, false};
	Analysis	opened = {NULL, NIL, true};

	check_stable_walker((Node *) query, &a);
	query = rewritten(query);
	check_stable_walker((Node *) query, &opened);
	check_query(&a, query, true);
}

static bool
relations_walker(Node *node, void *arg)
{
	RelationWalk *walk = arg;

	if (node == NULL)
		return false;
	if (IsA(node, RangeTblEntry))
	{
		RangeTblEntry *rte = (RangeTblEntry *) node;

		if (OidIsValid(rte->relid) && (rte->rtekind == RTE_RELATION || rte->rtekind == RTE_SUBQUERY))
		{
			List	   *all = list_make1_oid(rte->relid);
			ListCell   *lc;

			if (rte->inh && has_subclass(rte->relid))
				all = find_all_inheritors(rte->relid, NoLock, NULL);
			foreach(lc, all)
			{
				walk->relations = list_append_unique_oid(walk->relations, lfirst_oid(lc));
				if (penstock_is_stream(lfirst_oid(lc)))
					walk->streams = list_append_unique_oid(walk->streams, lfirst_oid(lc));
			}
		}
		return false;
	}
	if (IsA(node, Query))
		return query_tree_walker((Query *) node, relations_walker, arg, QTW_EXAMINE_RTES_BEFORE);
	return expression_tree_walker(node, relations_walker, arg);
}

/*
 * penstock_view_relations returns the OIDs of all relations the query reads, through views and
 * down to partitions, and in *streams those that are streams.
 */
List *
penstock_view_relations(Query *query, List **streams)
{
	RelationWalk walk = {NIL, NIL};

	relations_walker((Node *) query, &walk);
	relations_walker((Node *) rewritten(query), &walk);
	*streams = walk.streams;
	return walk.relations;
}

static bool
bare_partitioned_walker(Node *node, void *arg)
{
	if (node == NULL)
		return false;
	if (IsA(node, RangeTblEntry))
	{
		RangeTblEntry *rte = (RangeTblEntry *) node;

		return rte->rtekind == RTE_RELATION && rte->relkind == RELKIND_PARTITIONED_TABLE &&
			find_inheritance_children(rte->relid, NoLock) == NIL;
	}
	if (IsA(node, Query))
		return query_tree_walker((Query *) node, bare_partitioned_walker, arg,
								 QTW_EXAMINE_RTES_BEFORE);
	return expression_tree_walker(node, bare_partitioned_walker, arg);
}

/*
 * penstock_view_awaits_partitions tells whether the query reads a partitioned table that has no
 * partitions yet, as when pg_dump's output is restored: whether that is a stream nobody can say.
 */
bool
penstock_view_awaits_partitions(Query *query)
{
	return bare_partitioned_walker((Node *) rewritten(query), NULL);
}
