/*
 * stream_filter.c
 *	  Chunk filters: which chunks cannot hold a row that the query wants.
 *
 * A filter is "column op value" with an operator of the column's btree order.  The value is computed
 * when a scan starts, and compared with each chunk's smallest and largest.
 */
#include "postgres.h"

#include "access/nbtree.h"
#include "access/stratnum.h"
#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "nodes/nodeFuncs.h"
#include "utils/array.h"
#include "utils/lsyscache.h"
#include "utils/typcache.h"

#include "stream/stream_internal.h"

struct PenstockFilter
{
	AttrNumber	attno;
	StrategyNumber strategy;
	FmgrInfo	compare;		/* column's type with value's type */
	Oid			collation;
	ExprState  *value;
	Oid			element_type;	/* of an array of values, or InvalidOid */

	int			nvalues;		/* known once computed; NULLs are left out: they match nothing */
	Datum	   *values;
};

static void
init_filter(PenstockFilter *filter, Expr *expr, PlanState *parent)
{
	bool		is_array = IsA(expr, ScalarArrayOpExpr);
	List	   *args = is_array ? ((ScalarArrayOpExpr *) expr)->args : ((OpExpr *) expr)->args;
	Oid			opno = is_array ? ((ScalarArrayOpExpr *) expr)->opno : ((OpExpr *) expr)->opno;
	Node	   *column = linitial(args);
	TypeCacheEntry *type = lookup_type_cache(exprType(column), TYPECACHE_BTREE_OPFAMILY);
	int			strategy;
	Oid			left;
	Oid			right;

	get_op_opfamily_properties(opno, type->btree_opf, false, &strategy, &left, &right);
	filter->strategy = strategy;
	filter->collation = is_array ? ((ScalarArrayOpExpr *) expr)->inputcollid :
		((OpExpr *) expr)->inputcollid;
	fmgr_info(get_opfamily_proc(type->btree_opf, left, right, BTORDER_PROC), &filter->compare);
	filter->value = ExecInitExpr(lsecond(args), parent);
	if (is_array)
		filter->element_type = get_element_type(getBaseType(exprType(lsecond(args))));

	while (IsA(column, RelabelType))
		column = (Node *) ((RelabelType *) column)->arg;
	filter->attno = castNode(Var, column)->varattno;
}

/* Filters of a scan from their expressions, in the current memory context. */
PenstockFilter *
penstock_filter_create(List *expressions, PlanState *parent)
{
	PenstockFilter *filters = palloc0(sizeof(PenstockFilter) * Max(list_length(expressions), 1));

	for (int i = 0; i < list_length(expressions); i++)
		init_filter(&filters[i], list_nth(expressions, i), parent);
	return filters;
}

/*
 * penstock_filter_compute finds the values that filters compare with, in the current memory context, which
 * must outlive the scan.
 */
void
penstock_filter_compute(PenstockFilter *filters, int n, ExprContext *econtext)
{
	for (int i = 0; i < n; i++)
	{
		PenstockFilter *filter = &filters[i];
		bool		isnull;
		Datum		value = ExecEvalExpr(filter->value, econtext, &isnull);

		filter->nvalues = 0;
		if (isnull)
			continue;
		if (!OidIsValid(filter->element_type))
		{
			filter->values = palloc(sizeof(Datum));
			filter->values[filter->nvalues++] = value;
		}
		else
		{
			int16		len;
			bool		byval;
			char		align;
			bool	   *nulls;
			int			nelements;

			get_typlenbyvalalign(filter->element_type, &len, &byval, &align);
			deconstruct_array(DatumGetArrayTypeP(value), filter->element_type, len, byval, align,
							  &filter->values, &nulls, &nelements);
			for (int j = 0; j < nelements; j++)
				if (!nulls[j])
					filter->values[filter->nvalues++] = filter->values[j];
		}
	}
}

/* May some value between min and max satisfy the filter for this value? */
static bool
may_match(PenstockFilter *filter, Datum min, Datum max, Datum value)
{
	int			low = DatumGetInt32(FunctionCall2Coll(&filter->compare, filter->collation, min, value));
	int			high = DatumGetInt32(FunctionCall2Coll(&filter->compare, filter->collation, max, value));

	switch (filter->strategy)
	{
		case BTLessStrategyNumber:
			return low < 0;
		case BTLessEqualStrategyNumber:
			return low <= 0;
		case BTEqualStrategyNumber:
			return low <= 0 && high >= 0;
		case BTGreaterEqualStrategyNumber:
			return high >= 0;
		case BTGreaterStrategyNumber:
			return high > 0;
		default:
			return true;
	}
}

bool
penstock_filter_skips(PenstockFilter *filters, int n, PenstockChunk *chunk)
{
	for (int i = 0; i < n; i++)
	{
		PenstockFilter *filter = &filters[i];
		Datum		min;
		Datum		max;
		bool		has_nulls;
		bool		matches = false;

		if (filter->nvalues > 0)
		{
			if (!penstock_chunk_minmax(chunk, filter->attno, &min, &max, &has_nulls))
				continue;
			for (int j = 0; j < filter->nvalues && !matches; j++)
				matches = may_match(filter, min, max, filter->values[j]);
		}
		if (!matches)
			return true;
	}
	return false;
}
