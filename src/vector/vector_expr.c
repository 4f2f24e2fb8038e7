/*
 * vector_expr.c
 *	  Expressions over the columns of a chunk.
 *
 * A plain column is the decoded vector itself; date_bin with constant stride and origin is a loop; all else is
 * evaluated row by row by the server's expression interpreter.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "nodes/nodeFuncs.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "vector/vector_internal.h"

static bool
is_column(Node *node, Index varno)
{
	return IsA(node, Var) && ((Var *) node)->varno == varno && ((Var *) node)->varattno > 0;
}

static bool
is_value(Node *node)
{
	return IsA(node, Const) && !((Const *) node)->constisnull;
}

/* date_bin(stride, column, origin) with a stride of days and less */
static bool
init_date_bin(VectorExpr *expr, Expr *node, Index varno)
{
	FuncExpr   *func = (FuncExpr *) node;
	Interval   *stride;

	if (!IsA(node, FuncExpr) || (func->funcid != F_DATE_BIN_INTERVAL_TIMESTAMPTZ_TIMESTAMPTZ &&
								 func->funcid != F_DATE_BIN_INTERVAL_TIMESTAMP_TIMESTAMP))
		return false;
	if (!is_value(linitial(func->args)) || !is_column(lsecond(func->args), varno) ||
		!is_value(lthird(func->args)))
		return false;

	stride = DatumGetIntervalP(((Const *) linitial(func->args))->constvalue);
	if (stride->month != 0 || stride->day < 0 || stride->day > 100000 || stride->time < 0)
		return false;
	expr->stride = stride->day * USECS_PER_DAY + stride->time;
	if (expr->stride <= 0)
		return false;
	fmgr_info(func->funcid, &expr->date_bin);
	expr->stride_datum = ((Const *) linitial(func->args))->constvalue;
	expr->origin_datum = ((Const *) lthird(func->args))->constvalue;
	expr->kind = VECTOR_DATE_BIN;
	expr->attno = ((Var *) lsecond(func->args))->varattno;
	return true;
}

/*
 * penstock_vector_expr_init prepares an expression whose Vars are columns of varno; in the current memory context.
 */
void
penstock_vector_expr_init(VectorExpr *expr, Expr *node, Index varno, PlanState *parent)
{
	memset(expr, 0, sizeof(*expr));
	expr->byval = get_typbyval(exprType((Node *) node));
	if (is_column((Node *) node, varno))
	{
		expr->kind = VECTOR_COLUMN;
		expr->attno = ((Var *) node)->varattno;
	}
	else if (!init_date_bin(expr, node, varno))
	{
		expr->kind = VECTOR_GENERIC;
		expr->state = ExecInitExpr(node, parent);
	}
}

/*
 * penstock_vector_column returns a column of the chunk with its values.
 */
PenstockVector *
penstock_vector_column(VectorChunk *chunk, AttrNumber attno)
{
	PenstockVector *vector = &chunk->columns[attno - 1];

	if (!chunk->decoded[attno - 1])
	{
		MemoryContext old = MemoryContextSwitchTo(chunk->context);

		penstock_chunk_column(chunk->chunk, attno, false, vector);
		chunk->decoded[attno - 1] = true;
		MemoryContextSwitchTo(old);
	}
	return vector;
}

/*
 * penstock_vector_store_row puts the columns that generic expressions read into the chunk's slot.
 */
void
penstock_vector_store_row(VectorChunk *chunk, uint32 row)
{
	TupleTableSlot *slot = chunk->slot;

	ExecClearTuple(slot);
	for (int i = 0; i < chunk->nslot_columns; i++)
	{
		AttrNumber	attno = chunk->slot_columns[i];
		PenstockVector *vector = penstock_vector_column(chunk, attno);

		slot->tts_isnull[attno - 1] = vector->isnull && vector->isnull[row];
		slot->tts_values[attno - 1] = vector->values[row];
	}
	ExecStoreVirtualTuple(slot);
}

/* The bin of each time; events come nearly in order, so the last one found mostly fits. */
static void
eval_date_bin(VectorExpr *expr, VectorChunk *chunk, PenstockVector *result)
{
	PenstockVector *column = penstock_vector_column(chunk, expr->attno);
	int64		stride = expr->stride;
	int64		bin = 0;
	bool		known = false;

	for (int i = 0; i < chunk->nselected; i++)
	{
		uint32		row = vector_row(chunk, i);
		int64		ts = DatumGetInt64(column->values[row]);

		if (column->isnull && column->isnull[row])
			continue;
		if (!known || ts < bin || (uint64) ts - (uint64) bin >= (uint64) stride)
		{
			result->values[row] = FunctionCall3(&expr->date_bin, expr->stride_datum,
												column->values[row], expr->origin_datum);
			bin = DatumGetInt64(result->values[row]);
			known = ts >= bin && (uint64) ts - (uint64) bin < (uint64) stride;
			continue;
		}
		result->values[row] = Int64GetDatum(bin);
	}
}

/*
 * penstock_vector_expr_eval evaluates for the selected rows; result->values is indexed by row of the chunk.
 * With want_codes a dictionary column may come as codes without values.
 */
void
penstock_vector_expr_eval(VectorExpr *expr, VectorChunk *chunk, bool want_codes,
						  PenstockVector *result)
{
	MemoryContext old = MemoryContextSwitchTo(chunk->context);

	switch (expr->kind)
	{
		case VECTOR_COLUMN:
			if (want_codes && !chunk->decoded[expr->attno - 1])
				penstock_chunk_column(chunk->chunk, expr->attno, true, result);
			else
				*result = *penstock_vector_column(chunk, expr->attno);
			break;
		case VECTOR_DATE_BIN:
			memset(result, 0, sizeof(*result));
			result->values = palloc(sizeof(Datum) * chunk->nrows);
			result->isnull = penstock_vector_column(chunk, expr->attno)->isnull;
			eval_date_bin(expr, chunk, result);
			break;
		case VECTOR_GENERIC:
			memset(result, 0, sizeof(*result));
			result->values = palloc(sizeof(Datum) * chunk->nrows);
			result->isnull = palloc(sizeof(bool) * chunk->nrows);
			for (int i = 0; i < chunk->nselected; i++)
			{
				uint32		row = vector_row(chunk, i);

				/* results live as long as the chunk */
				penstock_vector_store_row(chunk, row);
				result->values[row] = ExecEvalExpr(expr->state, chunk->econtext,
												   &result->isnull[row]);
			}
			break;
	}
	MemoryContextSwitchTo(old);
}

/*
 * penstock_vector_filter selects the rows for which qual is true.
 */
void
penstock_vector_filter(VectorChunk *chunk, ExprState *qual)
{
	int			n = 0;

	chunk->selected = NULL;
	chunk->nselected = chunk->nrows;
	if (qual == NULL)
		return;
	chunk->selected = MemoryContextAlloc(chunk->context, sizeof(uint32) * chunk->nrows);
	for (int row = 0; row < chunk->nrows; row++)
	{
		ResetExprContext(chunk->econtext);
		penstock_vector_store_row(chunk, row);
		if (ExecQual(qual, chunk->econtext))
			chunk->selected[n++] = row;
	}
	chunk->nselected = n;
}
