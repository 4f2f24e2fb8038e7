/*
 * pipe_stream.c
 *	  A pipe whose source is a stream.
 *
 * Its position is a snapshot, as that of a continuous view; a batch is what the transaction's first snapshot sees beyond it. The
 * statements run over the chunks; only if they fail are the events made rows, so that the batch can be divided.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/fmgrprotos.h"
#include "utils/guc.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/resowner.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "utils/typcache.h"

#include "catalogue/registry.h"
#include "compat/compat.h"
#include "pipe/pipe_internal.h"
#include "stream/stream.h"
#include "util/errors.h"
#include "util/stop_point.h"

/*
 * penstock_pipe_row_json returns a row of the relation as JSON, in the current context.
 */
char *
penstock_pipe_row_json(Oid relid, const PenstockGivenRow *row)
{
	Relation	rel = table_open(relid, AccessShareLock);
	HeapTuple	tuple = heap_form_tuple(RelationGetDescr(rel), row->values, row->isnull);
	Datum		record = heap_copy_tuple_as_datum(tuple, RelationGetDescr(rel));
	char	   *json;

	record = DirectFunctionCall1(row_to_json, record);
	json = TextDatumGetCString(record);
	table_close(rel, AccessShareLock);
	return json;
}

/* Runs the statements over the chunks of the deltas.  False: they failed, by the fault of some event perhaps. */
static bool
run_whole(PenstockPipe *pipe, List *streams, List *deltas, int64 rows)
{
	MemoryContext old = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	volatile bool done = false;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(old);
	PG_TRY();
	{
		penstock_delta_set_for(streams, deltas);
		penstock_statements_run(pipe->statements, (double) rows, false);
		penstock_delta_clear();
		if (pipe->careful)
			penstock_outbox_flush();
		ReleaseCurrentSubTransaction();
		done = true;
	}
	PG_CATCH();
	{
		ErrorData  *error;

		MemoryContextSwitchTo(old);
		error = CopyErrorData();
		FlushErrorState();
		penstock_delta_clear();
		penstock_delta_assume_rows(0);
		penstock_scope_set(NULL);
		RollbackAndReleaseCurrentSubTransaction();
		if (penstock_pipe_blame(error->sqlerrcode) == PENSTOCK_BLAME_NOBODY)
			ReThrowError(error);
	}
	PG_END_TRY();
	MemoryContextSwitchTo(old);
	CurrentResourceOwner = owner;
	return done;
}

/* The events of the deltas as rows of the batch. */
static void
make_rows(PenstockPipe *pipe, PenstockPipeBatch *batch, List *streams, List *deltas)
{
	MemoryContext old = MemoryContextSwitchTo(pipe->batch_context);
	int			room = 0;
	ListCell   *lc;

	batch->sets = palloc0(list_length(streams) * sizeof(PenstockGivenRows));
	foreach(lc, streams)
	{
		PenstockGivenRows *set = &batch->sets[batch->nsets++];
		Relation	rel = table_open(lfirst_oid(lc), NoLock);
		ListCell   *dc;

		set->relid = lfirst_oid(lc);
		set->from = batch->nrows;
		foreach(dc, deltas)
		{
			PenstockDelta *delta = lfirst(dc);

			if (delta->relid == set->relid)
				penstock_delta_rows(delta, rel, GetActiveSnapshot(), &batch->rows, &batch->nrows, &room);
		}
		set->to = batch->nrows;
		table_close(rel, NoLock);
	}
	MemoryContextSwitchTo(old);
}

static Oid
relation_of_row(const PenstockPipeBatch *batch, int row)
{
	for (int i = 0; i < batch->nsets; i++)
		if (row >= batch->sets[i].from && row < batch->sets[i].to)
			return batch->sets[i].relid;
	return InvalidOid;
}

/* What dead letters say of the events that failed: their rows as JSON. */
static PenstockMessage *
describe_failures(PenstockPipe *pipe, PenstockPipeBatch *batch)
{
	MemoryContext old = MemoryContextSwitchTo(pipe->batch_context);
	PenstockMessage *messages = palloc0(Max(batch->nrows, 1) * sizeof(PenstockMessage));
	ListCell   *lc;

	foreach(lc, batch->failures)
	{
		PenstockFailure *failure = lfirst(lc);
		Oid			relid = relation_of_row(batch, failure->row);
		PenstockMessage *message = &messages[failure->row];

		message->payload = penstock_pipe_row_json(relid, &batch->rows[failure->row]);
		message->length = strlen(message->payload);
		message->partition = relid == pipe->row->source ? NULL : get_rel_name(relid);
	}
	MemoryContextSwitchTo(old);
	return messages;
}

/*
 * penstock_pipe_stream_step takes one batch, if there is one.
 */
PenstockStep
penstock_pipe_stream_step(PenstockPipe *pipe)
{
	TimestampTz start = GetCurrentTimestamp();
	PenstockPipeBatch batch = {0};
	PenstockPosition next;
	List	   *streams;
	List	   *deltas;
	Datum		upto;
	int64		rows = 0;
	int64		left;
	int			dead = 0;
	MemoryContext old;
	ListCell   *lc;

	MemoryContextReset(pipe->batch_context);
	if (!penstock_pipe_begin(pipe))
		return PENSTOCK_STEP_DONE;
	old = MemoryContextSwitchTo(pipe->batch_context);
	if (!pipe->position_known)
	{
		PenstockPosition stored;

		if (!penstock_position_get(pipe->oid, NULL, &stored))
			ereport(ERROR,
					(errcode(ERRCODE_PENSTOCK_STOPPED),
					 errmsg("pipe \"%s\" has no position", pipe->row->name)));
		MemoryContextSwitchTo(pipe->context);
		penstock_position_assign(&pipe->position, &stored);
		MemoryContextSwitchTo(pipe->batch_context);
		pipe->position_known = true;
	}
	upto = penstock_position_current();
	penstock_sources_read_tail(pipe->sources);

	/* partitions as of a catalog snapshot that is not older */
	InvalidateCatalogSnapshot();
	streams = penstock_pipe_streams(pipe->row->source);
	foreach(lc, streams)
		LockRelationOid(lfirst_oid(lc), AccessShareLock);
	deltas = penstock_sources_delta(pipe->sources, streams, &pipe->position, upto, pipe->row->batch_rows, &next, &left);
	foreach(lc, deltas)
		rows += ((PenstockDelta *) lfirst(lc))->nrows;

	if (deltas != NIL)
	{
		PENSTOCK_STOP_POINT(pipe_after_collect);
		batch.pipe = pipe->row;
		batch.statements = pipe->statements;
		batch.context = pipe->batch_context;
		batch.careful = pipe->careful;
		(void) set_config_option("synchronous_commit", "off", PGC_USERSET, PGC_S_SESSION, GUC_ACTION_LOCAL, true, 0, false);
		if (!run_whole(pipe, streams, deltas, rows))
		{
			batch.divided = true;
			make_rows(pipe, &batch, streams, deltas);
			penstock_pipe_run(&batch);
			dead = penstock_pipe_bury(pipe, &batch, describe_failures(pipe, &batch));
		}
		PENSTOCK_STOP_POINT(pipe_after_run);
		penstock_position_update(pipe->oid, &next);
		PENSTOCK_STOP_POINT(pipe_before_commit);
	}
	PopActiveSnapshot();
	CommitTransactionCommand();
	if (deltas != NIL)
		PENSTOCK_STOP_POINT(pipe_after_commit);

	MemoryContextSwitchTo(pipe->context);
	{
		PenstockPosition last = pipe->position;

		penstock_position_assign(&pipe->position, &next);
		pfree(DatumGetPointer(last.lower));
		if (last.slicing)
			pfree(DatumGetPointer(last.upper));
	}
	MemoryContextSwitchTo(old);
	penstock_sources_consumed(pipe->sources, pipe->position.lower);
	if (deltas == NIL && !pipe->position.slicing)
		return PENSTOCK_STEP_NOTHING;
	if (deltas != NIL)
	{
		pipe->slot->pipe_stat.lag = left;
		penstock_pipe_report(pipe, rows, 0, &batch, dead, start);
	}
	pipe->pause = 0;
	pipe->careful = false;
	return PENSTOCK_STEP_DONE;
}

/* The row that a dead letter's JSON means. */
static void
row_from_json(Relation rel, const char *json, int length, PenstockGivenRow *row)
{
	TupleDesc	desc = RelationGetDescr(rel);
	LOCAL_FCINFO(fcinfo, 2);
	FmgrInfo	function;
	HeapTupleHeader record;
	HeapTupleData tuple = {0};
	Datum		jsonb = DirectFunctionCall1(jsonb_in, CStringGetDatum(pnstrdup(json, length)));
	bool	   *isnull = palloc(desc->natts * sizeof(bool));
	Datum	   *values = palloc0(desc->natts * sizeof(Datum));
	Datum		empty;

	memset(isnull, true, desc->natts * sizeof(bool));
	empty = heap_copy_tuple_as_datum(heap_form_tuple(desc, values, isnull), desc);
	fmgr_info(F_JSONB_POPULATE_RECORD, &function);
	/* it looks there for the type of its first argument */
	fmgr_info_set_expr((Node *) makeFuncExpr(F_JSONB_POPULATE_RECORD, desc->tdtypeid,
											 list_make2(makeNullConst(desc->tdtypeid, -1, InvalidOid),
														makeNullConst(JSONBOID, -1, InvalidOid)),
											 InvalidOid, InvalidOid, COERCE_EXPLICIT_CALL), &function);
	InitFunctionCallInfoData(*fcinfo, &function, 2, InvalidOid, NULL, NULL);
	fcinfo->args[0].value = empty;
	fcinfo->args[0].isnull = false;
	fcinfo->args[1].value = jsonb;
	fcinfo->args[1].isnull = false;
	record = DatumGetHeapTupleHeader(FunctionCallInvoke(fcinfo));
	tuple.t_len = HeapTupleHeaderGetDatumLength(record);
	tuple.t_data = record;
	row->values = palloc0(desc->natts * sizeof(Datum));
	row->isnull = palloc(desc->natts * sizeof(bool));
	heap_deform_tuple(&tuple, desc, row->values, row->isnull);
}

/*
 * penstock_pipe_stream_redrive makes a batch of dead letters; in the batch's transaction.
 */
void
penstock_pipe_stream_redrive(PenstockPipe *pipe, PenstockPipeBatch *batch, List *letters)
{
	MemoryContext old = MemoryContextSwitchTo(pipe->batch_context);
	List	   *streams = penstock_pipe_streams(pipe->row->source);
	PenstockMessage *messages = palloc(list_length(letters) * sizeof(PenstockMessage));
	int			n = 0;
	ListCell   *lc;

	batch->pipe = pipe->row;
	batch->statements = pipe->statements;
	batch->context = pipe->batch_context;
	batch->careful = pipe->careful;
	batch->rows = palloc0(list_length(letters) * sizeof(PenstockGivenRow));
	batch->sets = palloc0(list_length(streams) * sizeof(PenstockGivenRows));
	foreach(lc, streams)
	{
		PenstockGivenRows *set = &batch->sets[batch->nsets++];
		Relation	rel = table_open(lfirst_oid(lc), AccessShareLock);
		ListCell   *rc;

		set->relid = lfirst_oid(lc);
		set->from = n;
		foreach(rc, letters)
		{
			PenstockRedriven *letter = lfirst(rc);

			/* an event of a partition that is gone is given as one of the first */
			if (strcmp(letter->message.partition, RelationGetRelationName(rel)) != 0 &&
				!(lc == list_head(streams) && (letter->message.partition[0] == '\0' ||
											   !list_member_oid(streams, get_relname_relid(letter->message.partition, RelationGetNamespace(rel))))))
				continue;
			messages[n] = letter->message;
			row_from_json(rel, letter->message.payload, letter->message.length, &batch->rows[n++]);
		}
		set->to = n;
		table_close(rel, NoLock);
	}
	batch->nrows = n;
	MemoryContextSwitchTo(old);
	penstock_delta_set_for(streams, NIL);
	penstock_pipe_run(batch);
	penstock_delta_clear();
	(void) penstock_pipe_bury(pipe, batch, messages);
}

/*
 * penstock_pipe_stream_start gives a new pipe its first position: now; with backfill, after the statements have run, as the
 * owner, over everything that the stream holds.
 */
void
penstock_pipe_stream_start(const PenstockPipeRow *row, bool backfill)
{
	PenstockPosition position = {0};
	List	   *streams = penstock_pipe_streams(row->source);
	ListCell   *lc;

	ItemPointerSetInvalid(&position.cursor);
	foreach(lc, streams)
		penstock_upkeep_hold(lfirst_oid(lc));
	PushActiveSnapshot(GetLatestSnapshot());
	position.lower = penstock_position_current();
	if (backfill)
	{
		PenstockPipeStatements *statements = penstock_statements_create(CurrentMemoryContext, row);

		penstock_delta_set_fill(position.lower);
		penstock_statements_run(statements, 0, false);
		penstock_delta_clear();
		penstock_statements_free(statements);
	}
	PopActiveSnapshot();
	penstock_position_insert(row->oid, &position);
}
