/*
 * queue_scan.c
 *	  Reading a queue: the rows of a pipe's batch, or, for anybody else, what is there now.
 */
#include "postgres.h"

#include "access/sysattr.h"
#include "access/table.h"
#include "catalog/pg_operator.h"
#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "foreign/fdwapi.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/clauses.h"
#include "optimizer/optimizer.h"
#include "optimizer/pathnode.h"
#include "optimizer/planmain.h"
#include "optimizer/restrictinfo.h"
#include "parser/parsetree.h"
#include "storage/latch.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/timestamp.h"
#include "utils/wait_event.h"

#include "compat/compat.h"
#include "commands/defrem.h"
#include "foreign/foreign.h"
#include "queue/queue_internal.h"

/* How many rows a queue is taken to give; nobody knows. */
#define ASSUMED_ROWS 1000
/* An ad-hoc read fetches so much at a time. */
#define BROWSE_ROWS 1000
#define BROWSE_BYTES (8 * 1024 * 1024)

typedef struct QueueScan
{
	const PenstockGivenRows *given; /* a pipe's batch, or NULL */
	int			next;

	/* ad hoc */
	PenstockQueue *queue;
	PenstockDecoder *decoder;
	PenstockConsumer *consumer;
	MemoryContext consumer_context;
	MemoryContextCallback close;
	PenstockBatch *batch;
	MemoryContext row_context;
	bool		ended;
	List	   *limits;			/* ExprStates of what the range is compared with */
	List	   *limit_kinds;
} QueueScan;

/* What a limit says of the range. */
typedef enum LimitKind
{
	LIMIT_PARTITION,
	LIMIT_OFFSET_FROM,
	LIMIT_OFFSET_AFTER,
	LIMIT_OFFSET_TO,
	LIMIT_OFFSET_BEFORE,
	LIMIT_TIME_FROM,
	LIMIT_TIME_TO
} LimitKind;

/* ---- planning ---- */

static void
get_rel_size(PlannerInfo *root, RelOptInfo *baserel, Oid relid)
{
	baserel->rows = ASSUMED_ROWS;
	baserel->tuples = ASSUMED_ROWS;
}

static void
get_paths(PlannerInfo *root, RelOptInfo *baserel, Oid relid)
{
	add_path(baserel, (Path *)
			 penstock_foreign_path(root, baserel, baserel->rows, 10, 10 + baserel->rows * 0.1));
}

/* The kind of metadata that column attno of the relation holds; PAYLOAD if none. */
static PenstockColumnKind
column_kind(Oid relid, AttrNumber attno)
{
	PenstockColumnKind kind = PENSTOCK_COLUMN_PAYLOAD;
	const PenstockConnector *connector = penstock_queue_connector(relid);
	const char *name;
	ListCell   *lc;

	if (attno <= 0)
		return kind;
	foreach(lc, GetForeignColumnOptions(relid, attno))
		if (strcmp(lfirst_node(DefElem, lc)->defname, "metadata") == 0)
			(void) penstock_metadata_kind(connector, defGetString(lfirst_node(DefElem, lc)), &kind, &name);
	return kind;
}

static int
limit_kind(PenstockColumnKind column, Oid type, const char *operator)
{
	if (column == PENSTOCK_COLUMN_PARTITION && strcmp(operator, "=") == 0)
		return LIMIT_PARTITION;
	if (column == PENSTOCK_COLUMN_OFFSET && (type == INT8OID || type == INT4OID || type == INT2OID))
	{
		if (strcmp(operator, ">=") == 0 || strcmp(operator, "=") == 0)
			return LIMIT_OFFSET_FROM;
		if (strcmp(operator, ">") == 0)
			return LIMIT_OFFSET_AFTER;
		if (strcmp(operator, "<=") == 0)
			return LIMIT_OFFSET_TO;
		if (strcmp(operator, "<") == 0)
			return LIMIT_OFFSET_BEFORE;
	}
	if (column == PENSTOCK_COLUMN_TIMESTAMP && type == TIMESTAMPTZOID)
	{
		if (strcmp(operator, ">=") == 0 || strcmp(operator, ">") == 0 || strcmp(operator, "=") == 0)
			return LIMIT_TIME_FROM;
		if (strcmp(operator, "<=") == 0 || strcmp(operator, "<") == 0)
			return LIMIT_TIME_TO;
	}
	return -1;
}

/*
 * Finds what a condition says of partition, offset or timestamp, compared with something that does not change during
 * the scan.  Conditions are checked on the rows all the same.
 */
static void
find_limits(PlannerInfo *root, Oid relid, Index rti, Expr *clause, List **exprs, List **kinds)
{
	OpExpr	   *op = (OpExpr *) clause;
	Node	   *left;
	Node	   *right;
	Oid			operator;
	char	   *name;
	int			kind;

	if (!IsA(clause, OpExpr) || list_length(op->args) != 2)
		return;
	left = linitial(op->args);
	right = lsecond(op->args);
	operator = op->opno;
	if (!IsA(left, Var))
	{
		Node	   *swap = left;

		left = right;
		right = swap;
		operator = get_commutator(operator);
	}
	while (left && IsA(left, RelabelType))
		left = (Node *) ((RelabelType *) left)->arg;
	if (!OidIsValid(operator) || left == NULL || !IsA(left, Var) || ((Var *) left)->varno != rti ||
		((Var *) left)->varlevelsup != 0 || operator >= FirstNormalObjectId)
		return;
	if (contain_var_clause(right) || contain_volatile_functions(right) || contain_subplans(right))
		return;
	name = get_opname(operator);
	if (name == NULL)
		return;
	kind = limit_kind(column_kind(relid, ((Var *) left)->varattno), exprType(right), name);
	if (kind < 0)
		return;
	*exprs = lappend(*exprs, right);
	*kinds = lappend_int(*kinds, kind);
	if (kind == LIMIT_OFFSET_FROM && strcmp(name, "=") == 0)
	{
		*exprs = lappend(*exprs, copyObject(right));
		*kinds = lappend_int(*kinds, LIMIT_OFFSET_TO);
	}
}

static ForeignScan *
get_plan(PlannerInfo *root, RelOptInfo *baserel, Oid relid, ForeignPath *best_path, List *tlist,
		 List *scan_clauses, Plan *outer_plan)
{
	List	   *clauses = extract_actual_clauses(scan_clauses, false);
	List	   *exprs = NIL;
	List	   *kinds = NIL;
	List	   *needed = NIL;
	Bitmapset  *used = NULL;
	int			attno = -1;
	ListCell   *lc;

	foreach(lc, clauses)
		find_limits(root, relid, baserel->relid, lfirst(lc), &exprs, &kinds);
	pull_varattnos((Node *) baserel->reltarget->exprs, baserel->relid, &used);
	pull_varattnos((Node *) clauses, baserel->relid, &used);
	while ((attno = bms_next_member(used, attno)) >= 0)
		needed = lappend_int(needed, attno + FirstLowInvalidHeapAttributeNumber);
	return make_foreignscan(tlist, clauses, baserel->relid, exprs, list_make2(kinds, needed), NIL, NIL, outer_plan);
}

/* ---- running ---- */

static Oid
scan_user(ForeignScanState *node)
{
	return penstock_scan_user(node);
}

static void
begin_scan(ForeignScanState *node, int eflags)
{
	ForeignScan *plan = (ForeignScan *) node->ss.ps.plan;
	Relation	rel = node->ss.ss_currentRelation;
	QueueScan  *scan;

	if (eflags & EXEC_FLAG_EXPLAIN_ONLY)
		return;
	scan = palloc0(sizeof(QueueScan));
	node->fdw_state = scan;
	scan->given = penstock_given_rows_find(RelationGetRelid(rel));
	if (scan->given != NULL)
	{
		scan->next = scan->given->from;
		return;
	}
	scan->queue = penstock_queue_open(RelationGetRelid(rel), scan_user(node), NULL);
	scan->decoder = penstock_decoder_create(rel, scan->queue);
	penstock_decoder_needs(scan->decoder, lsecond(plan->fdw_private));
	scan->batch = penstock_batch_create(CurrentMemoryContext, BROWSE_ROWS, BROWSE_BYTES);
	scan->row_context = AllocSetContextCreate(CurrentMemoryContext, "penstock row", ALLOCSET_DEFAULT_SIZES);
	scan->limits = ExecInitExprList(plan->fdw_exprs, &node->ss.ps);
	scan->limit_kinds = linitial(plan->fdw_private);
}

static TupleTableSlot *
next_given(QueueScan *scan, TupleTableSlot *slot)
{
	int			natts = slot->tts_tupleDescriptor->natts;

	ExecClearTuple(slot);
	while (scan->next < scan->given->to)
	{
		PenstockGivenRow *row = &scan->given->rows[scan->next++];

		if (row->left_out)
			continue;
		memcpy(slot->tts_values, row->values, natts * sizeof(Datum));
		memcpy(slot->tts_isnull, row->isnull, natts * sizeof(bool));
		return ExecStoreVirtualTuple(slot);
	}
	return slot;
}

static int64
as_int64(Datum value, Oid type)
{
	return type == INT2OID ? DatumGetInt16(value) : type == INT4OID ? DatumGetInt32(value) : DatumGetInt64(value);
}

/* What the conditions leave of the queue; false: nothing. */
static bool
compute_range(ForeignScanState *node, QueueScan *scan, PenstockRange *range)
{
	ExprContext *econtext = node->ss.ps.ps_ExprContext;
	ListCell   *lc;
	ListCell   *kc;

	range->partition = NULL;
	range->offset_from = PG_INT64_MIN;
	range->offset_to = PG_INT64_MAX;
	range->time_from = PG_INT64_MIN;
	range->time_to = PG_INT64_MAX;
	forboth(lc, scan->limits, kc, scan->limit_kinds)
	{
		ExprState  *expr = lfirst(lc);
		bool		isnull;
		Datum		value = ExecEvalExpr(expr, econtext, &isnull);
		Oid			type = exprType((Node *) expr->expr);
		Oid			output;
		bool		varlena;

		if (isnull)
			return false;
		switch ((LimitKind) lfirst_int(kc))
		{
			case LIMIT_PARTITION:
				getTypeOutputInfo(type, &output, &varlena);
				range->partition = OidOutputFunctionCall(output, value);
				break;
			case LIMIT_OFFSET_FROM:
				range->offset_from = Max(range->offset_from, as_int64(value, type));
				break;
			case LIMIT_OFFSET_AFTER:
				if (as_int64(value, type) == PG_INT64_MAX)
					return false;
				range->offset_from = Max(range->offset_from, as_int64(value, type) + 1);
				break;
			case LIMIT_OFFSET_TO:
				range->offset_to = Min(range->offset_to, as_int64(value, type));
				break;
			case LIMIT_OFFSET_BEFORE:
				if (as_int64(value, type) == PG_INT64_MIN)
					return false;
				range->offset_to = Min(range->offset_to, as_int64(value, type) - 1);
				break;
			case LIMIT_TIME_FROM:
				range->time_from = Max(range->time_from, DatumGetTimestampTz(value));
				break;
			case LIMIT_TIME_TO:
				range->time_to = Min(range->time_to, DatumGetTimestampTz(value));
				break;
		}
	}
	return range->offset_from <= range->offset_to && range->time_from <= range->time_to;
}

static void
close_consumer(void *arg)
{
	QueueScan  *scan = arg;
	PenstockConsumer *consumer = scan->consumer;

	scan->consumer = NULL;
	if (consumer != NULL)
		penstock_connector_quietly(scan->queue->connector->close, consumer);
}

static void
open_consumer(ForeignScanState *node, QueueScan *scan)
{
	PenstockOutcome outcome = PENSTOCK_OK;
	PenstockFault fault = {0};
	PenstockRange range;
	PenstockStart start = {0, NULL, &range};
	MemoryContext old;

	if (!compute_range(node, scan, &range))
	{
		scan->ended = true;
		return;
	}
	/* closed with its memory, whatever happens */
	scan->consumer_context = AllocSetContextCreate(node->ss.ps.state->es_query_cxt, "penstock consumer", ALLOCSET_DEFAULT_SIZES);
	scan->close.func = close_consumer;
	scan->close.arg = scan;
	MemoryContextRegisterResetCallback(scan->consumer_context, &scan->close);
	old = MemoryContextSwitchTo(scan->consumer_context);
	scan->consumer = scan->queue->connector->open(scan->queue, &start, &outcome, &fault);
	MemoryContextSwitchTo(old);
	if (scan->consumer == NULL)
		penstock_fault_raise(scan->queue, &fault, false);
}

/* Waits until fetch may give more. */
static void
wait_for_more(QueueScan *scan)
{
	PenstockWaitFor wait = {-1, 0, 100};

	scan->queue->connector->wait_for(scan->consumer, &wait);
	if (wait.timeout == 0)
		return;
	(void) WaitLatchOrSocket(MyLatch,
							 WL_LATCH_SET | WL_EXIT_ON_PM_DEATH | WL_TIMEOUT | (wait.fd >= 0 ? wait.events : 0),
							 wait.fd >= 0 ? wait.fd : PGINVALID_SOCKET,
							 wait.timeout < 0 ? 1000 : Min(wait.timeout, 1000), PG_WAIT_EXTENSION);
	ResetLatch(MyLatch);
}

/* Fetches the next messages; false at the end. */
static bool
fetch_more(ForeignScanState *node, QueueScan *scan)
{
	PenstockFault fault = {0};

	penstock_batch_reset(scan->batch);
	scan->next = 0;
	if (scan->consumer == NULL && !scan->ended)
		open_consumer(node, scan);
	while (!scan->ended && scan->batch->n == 0)
	{
		switch (scan->queue->connector->fetch(scan->consumer, scan->batch, &fault))
		{
			case PENSTOCK_OK:
				break;
			case PENSTOCK_END:
				scan->ended = true;
				break;
			default:
				penstock_fault_raise(scan->queue, &fault, false);
		}
		CHECK_FOR_INTERRUPTS();
		if (scan->batch->n == 0 && !scan->ended)
			wait_for_more(scan);
	}
	return scan->batch->n > 0;
}

static TupleTableSlot *
iterate(ForeignScanState *node)
{
	QueueScan  *scan = node->fdw_state;
	TupleTableSlot *slot = node->ss.ss_ScanTupleSlot;
	PenstockGivenRow row;
	MemoryContext old;
	int			natts = slot->tts_tupleDescriptor->natts;

	if (scan->given != NULL)
		return next_given(scan, slot);
	ExecClearTuple(slot);
	if (scan->next >= scan->batch->n && !fetch_more(node, scan))
		return slot;

	MemoryContextReset(scan->row_context);
	old = MemoryContextSwitchTo(scan->row_context);
	penstock_decoder_row(scan->decoder, scan->consumer, &scan->batch->messages[scan->next++], &row);
	MemoryContextSwitchTo(old);
	memcpy(slot->tts_values, row.values, natts * sizeof(Datum));
	memcpy(slot->tts_isnull, row.isnull, natts * sizeof(bool));
	return ExecStoreVirtualTuple(slot);
}

/* Ad hoc, the queue is read again from its beginning. */
static void
rescan(ForeignScanState *node)
{
	QueueScan  *scan = node->fdw_state;

	if (scan->given != NULL)
	{
		scan->next = scan->given->from;
		return;
	}
	if (scan->consumer_context != NULL)
		MemoryContextDelete(scan->consumer_context);
	scan->consumer_context = NULL;
	scan->ended = false;
	penstock_batch_reset(scan->batch);
	scan->next = 0;
}

static void
end_scan(ForeignScanState *node)
{
	QueueScan  *scan = node->fdw_state;

	if (scan == NULL || scan->consumer_context == NULL)
		return;
	MemoryContextDelete(scan->consumer_context);
	scan->consumer_context = NULL;
}

void
penstock_queue_scan_routine(FdwRoutine *routine)
{
	routine->GetForeignRelSize = get_rel_size;
	routine->GetForeignPaths = get_paths;
	routine->GetForeignPlan = get_plan;
	routine->BeginForeignScan = begin_scan;
	routine->IterateForeignScan = iterate;
	routine->ReScanForeignScan = rescan;
	routine->EndForeignScan = end_scan;
}
