/*
 * stream_customscan.c
 *	  The scan that plans use: reads the columns that are needed of chunks that may hold a match.
 *
 * In a parallel scan every process walks the same directory with the same snapshot and reads the chunks
 * whose ordinals it drew from a shared counter.
 */
#include "postgres.h"

#include "access/parallel.h"
#include "access/table.h"
#include "access/xact.h"
#include "commands/explain.h"
#include "compat/compat_explain.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "nodes/extensible.h"
#include "nodes/makefuncs.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/ruleutils.h"

#include "stream/stream_internal.h"
#include "util/given_rows.h"

/* In dynamic shared memory; any participant may change it. */
typedef struct SharedScan
{
	pg_atomic_uint64 next;		/* ordinal to be drawn next */
	pg_atomic_uint64 chunks_read;
	pg_atomic_uint64 chunks_skipped;
} SharedScan;

typedef struct StreamScanState
{
	CustomScanState css;
	PenstockReader *reader;
	PenstockChunkSource source;
	PenstockFilter *filters;
	int			nfilters;
	MemoryContext filter_context;	/* values of the filters */
	bool		started;		/* filters are computed */
	int			nqual;			/* the reader's first columns are those that quals use */
	bool		rest_decoded;	/* the others of the open chunk are decoded too */
	int			row;			/* next row of the chunk */
	int			nrows;			/* of the chunk that is open */
	const PenstockGivenRows *given; /* rows to return instead of chunks, or NULL */
	int			next_given;
	uint64		ordinal;		/* chunks that source gave */
	SharedScan *shared;			/* NULL: not parallel */
	uint64		chunks_read;
	uint64		chunks_skipped;
} StreamScanState;

static Node *create_state(CustomScan *scan);
static void begin_scan(CustomScanState *css, EState *estate, int eflags);
static TupleTableSlot *exec_scan(CustomScanState *css);
static void end_scan(CustomScanState *css);
static void rescan(CustomScanState *css);
static Size estimate_dsm(CustomScanState *css, ParallelContext *pcxt);
static void initialize_dsm(CustomScanState *css, ParallelContext *pcxt, void *coordinate);
static void reinitialize_dsm(CustomScanState *css, ParallelContext *pcxt, void *coordinate);
static void initialize_worker(CustomScanState *css, shm_toc *toc, void *coordinate);
static void shutdown_scan(CustomScanState *css);
static void explain_scan(CustomScanState *css, List *ancestors, ExplainState *es);

const CustomScanMethods penstock_customscan_methods = {
	.CustomName = "StreamScan",
	.CreateCustomScanState = create_state,
};

static const CustomExecMethods exec_methods = {
	.CustomName = "StreamScan",
	.BeginCustomScan = begin_scan,
	.ExecCustomScan = exec_scan,
	.EndCustomScan = end_scan,
	.ReScanCustomScan = rescan,
	.EstimateDSMCustomScan = estimate_dsm,
	.InitializeDSMCustomScan = initialize_dsm,
	.ReInitializeDSMCustomScan = reinitialize_dsm,
	.InitializeWorkerCustomScan = initialize_worker,
	.ShutdownCustomScan = shutdown_scan,
	.ExplainCustomScan = explain_scan,
};

static Node *
create_state(CustomScan *scan)
{
	StreamScanState *state = (StreamScanState *) newNode(sizeof(StreamScanState),
														 T_CustomScanState);

	state->css.methods = &exec_methods;
	return (Node *) state;
}

static List *
plan_columns(CustomScanState *css)
{
	return linitial(((CustomScan *) css->ss.ps.plan)->custom_private);
}

/* Moves the columns that quals use to the front: only they are decoded if no row of a chunk passes. */
static void
order_columns(StreamScanState *state, List *qual_columns)
{
	PenstockReader *reader = state->reader;

	for (int i = 0; i < reader->ncolumns; i++)
	{
		AttrNumber	column = reader->columns[i];

		if (!list_member_int(qual_columns, column))
			continue;
		memmove(&reader->columns[state->nqual + 1], &reader->columns[state->nqual],
				sizeof(AttrNumber) * (i - state->nqual));
		reader->columns[state->nqual++] = column;
	}
}

static void
begin_scan(CustomScanState *css, EState *estate, int eflags)
{
	StreamScanState *state = (StreamScanState *) css;
	CustomScan *plan = (CustomScan *) css->ss.ps.plan;
	Relation	rel = css->ss.ss_currentRelation;
	TupleTableSlot *slot = css->ss.ss_ScanTupleSlot;
	Bitmapset  *columns = NULL;
	ListCell   *lc;

	if (eflags & EXEC_FLAG_EXPLAIN_ONLY)
		return;

	state->given = penstock_given_rows_find(RelationGetRelid(rel));
	state->next_given = state->given ? state->given->from : 0;
	penstock_source_begin(&state->source, rel, estate->es_snapshot, penstock_delta_mode());
	/* a delta and a fill leave this transaction's own events out */
	if (state->source.mode == PENSTOCK_SCAN_FULL && !IsInParallelMode())
		penstock_write_flush_for(RelationGetRelid(rel), estate->es_snapshot);

	columns = bms_make_singleton(0);
	foreach(lc, plan_columns(css))
		columns = bms_add_member(columns, lfirst_int(lc));
	state->reader = penstock_reader_create(rel, columns);
	order_columns(state, lsecond(plan->custom_private));
	state->filters = penstock_filter_create(plan->custom_exprs, &css->ss.ps);
	state->nfilters = list_length(plan->custom_exprs);
	state->filter_context = AllocSetContextCreate(CurrentMemoryContext, "penstock chunk filters",
												  ALLOCSET_SMALL_SIZES);

	slot->tts_tableOid = RelationGetRelid(rel);
	memset(slot->tts_isnull, true, slot->tts_tupleDescriptor->natts);
}

static void
count_chunk(StreamScanState *state, bool skipped)
{
	if (skipped)
		state->chunks_skipped++;
	else
		state->chunks_read++;
	if (state->shared)
		pg_atomic_fetch_add_u64(skipped ? &state->shared->chunks_skipped :
								&state->shared->chunks_read, 1);
}

/* Computes what filters compare with, once for each (re)start. */
static void
start(StreamScanState *state)
{
	MemoryContext caller;

	MemoryContextReset(state->filter_context);
	caller = MemoryContextSwitchTo(state->filter_context);
	penstock_filter_compute(state->filters, state->nfilters, state->css.ss.ps.ps_ExprContext);
	MemoryContextSwitchTo(caller);
	state->started = true;
}

/* The next directory tuple that is this process's to read, or NULL. */
static HeapTuple
next_tuple(StreamScanState *state)
{
	uint64		wanted = state->ordinal;
	HeapTuple	tuple;

	if (state->shared)
		wanted = pg_atomic_fetch_add_u64(&state->shared->next, 1);
	do
	{
		tuple = penstock_source_next(&state->source);
	} while (tuple && state->ordinal++ < wanted);
	return tuple;
}

/* Opens the next chunk that may hold a match, and decodes what the plan reads; false at the end. */
static bool
next_chunk(StreamScanState *state, bool decode)
{
	MemoryContext caller = MemoryContextSwitchTo(state->css.ss.ps.state->es_query_cxt);
	HeapTuple	tuple;

	if (!state->started)
		start(state);
	state->row = state->nrows = 0;

	while ((tuple = next_tuple(state)) != NULL)
	{
		penstock_reader_open(state->reader, tuple);
		if (!penstock_filter_skips(state->filters, state->nfilters, state->reader->chunk))
			break;
		count_chunk(state, true);
	}
	if (tuple)
	{
		if (decode)
			penstock_reader_decode_some(state->reader, 0, state->nqual);
		state->rest_decoded = false;
		state->nrows = state->reader->info.nrows;
		count_chunk(state, false);
	}
	MemoryContextSwitchTo(caller);
	return tuple != NULL;
}

/* Puts columns from .. to - 1 of the reader's row into the slot. */
static inline void
fill_slot(PenstockReader *reader, TupleTableSlot *slot, int row, int from, int to)
{
	for (int i = from; i < to; i++)
	{
		PenstockVector *vector = &reader->vectors[i];
		int			att = reader->columns[i] - 1;

		slot->tts_values[att] = vector->values[row];
		slot->tts_isnull[att] = vector->isnull && vector->isnull[row];
	}
}

/* Goes to the next row and fills the columns that quals use; false at the end. */
static inline bool
advance(StreamScanState *state, TupleTableSlot *slot)
{
	if (state->row == state->nrows || TTS_SHOULDFREE(slot))
		ExecClearTuple(slot);
	while (state->row == state->nrows)
		if (!next_chunk(state, true))
			return false;

	fill_slot(state->reader, slot, state->row, 0, state->nqual);
	slot->tts_flags &= ~TTS_FLAG_EMPTY;
	slot->tts_nvalid = slot->tts_tupleDescriptor->natts;
	penstock_event_tid(&state->reader->tid, state->row, &slot->tts_tid);
	state->row++;
	return true;
}

/* Fills the other columns of the row that advance went to. */
static inline void
complete(StreamScanState *state, TupleTableSlot *slot)
{
	PenstockReader *reader = state->reader;

	if (!state->rest_decoded)
	{
		penstock_reader_decode_some(reader, state->nqual, reader->ncolumns);
		state->rest_decoded = true;
	}
	fill_slot(reader, slot, state->row - 1, state->nqual, reader->ncolumns);
}

/* The next row in the scan slot, whose unread columns stay NULL (ExecScanAccessMtd). */
static TupleTableSlot *
access_next(ScanState *node)
{
	StreamScanState *state = (StreamScanState *) node;
	TupleTableSlot *slot = node->ss_ScanTupleSlot;

	if (advance(state, slot))
		complete(state, slot);
	return slot;
}

/* The next of the rows that are given (ExecScanAccessMtd). */
static TupleTableSlot *
access_given(ScanState *node)
{
	StreamScanState *state = (StreamScanState *) node;
	TupleTableSlot *slot = node->ss_ScanTupleSlot;
	int			natts = slot->tts_tupleDescriptor->natts;

	ExecClearTuple(slot);
	while (state->next_given < state->given->to)
	{
		PenstockGivenRow *row = &state->given->rows[state->next_given++];

		if (row->left_out)
			continue;
		memcpy(slot->tts_values, row->values, natts * sizeof(Datum));
		memcpy(slot->tts_isnull, row->isnull, natts * sizeof(bool));
		return ExecStoreVirtualTuple(slot);
	}
	return slot;
}

static bool
recheck(ScanState *node, TupleTableSlot *slot)
{
	return true;				/* the plan's quals are checked by ExecScan */
}

/*
 * exec_scan does what ExecScan does, but decodes columns that only the result needs when a row of the chunk has
 * passed the quals.
 */
static TupleTableSlot *
exec_scan(CustomScanState *css)
{
	StreamScanState *state = (StreamScanState *) css;
	ExprContext *econtext = css->ss.ps.ps_ExprContext;
	ProjectionInfo *projection = css->ss.ps.ps_ProjInfo;
	ExprState  *qual = css->ss.ps.qual;
	TupleTableSlot *slot = css->ss.ss_ScanTupleSlot;

	if (state->given)
		return ExecScan(&css->ss, access_given, recheck);
	if (css->ss.ps.state->es_epq_active)
		return ExecScan(&css->ss, access_next, recheck);

	ResetExprContext(econtext);
	while (advance(state, slot))
	{
		CHECK_FOR_INTERRUPTS();
		econtext->ecxt_scantuple = slot;
		if (qual && !ExecQual(qual, econtext))
		{
			InstrCountFiltered1(css, 1);
			ResetExprContext(econtext);
			continue;
		}
		complete(state, slot);
		return projection ? ExecProject(projection) : slot;
	}
	return projection ? ExecClearTuple(projection->pi_state.resultslot) : slot;
}

/*
 * penstock_customscan_next_chunk: see stream_internal.h.
 */
PenstockReader *
penstock_customscan_next_chunk(CustomScanState *css)
{
	StreamScanState *state = (StreamScanState *) css;

	return next_chunk(state, false) ? state->reader : NULL;
}

static void
rescan(CustomScanState *css)
{
	StreamScanState *state = (StreamScanState *) css;

	ExecClearTuple(css->ss.ss_ScanTupleSlot);
	penstock_reader_close(state->reader);
	penstock_source_rewind(&state->source);
	state->started = false;
	state->row = state->nrows = 0;
	state->ordinal = 0;
	state->next_given = state->given ? state->given->from : 0;
	ExecScanReScan(&css->ss);
}

static void
end_scan(CustomScanState *css)
{
	StreamScanState *state = (StreamScanState *) css;

	if (state->reader == NULL)
		return;					/* EXPLAIN only */
	ExecClearTuple(css->ss.ss_ScanTupleSlot);
	penstock_source_end(&state->source);
	penstock_reader_free(state->reader);
}

/* ---- parallel scans ---- */

static Size
estimate_dsm(CustomScanState *css, ParallelContext *pcxt)
{
	return sizeof(SharedScan);
}

static void
reinitialize_dsm(CustomScanState *css, ParallelContext *pcxt, void *coordinate)
{
	SharedScan *shared = coordinate;

	pg_atomic_write_u64(&shared->next, 0);
}

static void
initialize_dsm(CustomScanState *css, ParallelContext *pcxt, void *coordinate)
{
	StreamScanState *state = (StreamScanState *) css;
	SharedScan *shared = coordinate;

	pg_atomic_init_u64(&shared->next, 0);
	pg_atomic_init_u64(&shared->chunks_read, 0);
	pg_atomic_init_u64(&shared->chunks_skipped, 0);
	state->shared = shared;

	/* workers know nothing of a delta: the leader reads all of it, they find the counter at its end */
	if (state->source.mode != PENSTOCK_SCAN_FULL || state->given)
	{
		pg_atomic_write_u64(&shared->next, PG_INT64_MAX);
		state->shared = NULL;
	}
}

static void
initialize_worker(CustomScanState *css, shm_toc *toc, void *coordinate)
{
	((StreamScanState *) css)->shared = coordinate;
}

/* The shared counters go with the shared memory: keep them for EXPLAIN. */
static void
shutdown_scan(CustomScanState *css)
{
	StreamScanState *state = (StreamScanState *) css;

	if (state->shared == NULL)
		return;
	state->chunks_read = pg_atomic_read_u64(&state->shared->chunks_read);
	state->chunks_skipped = pg_atomic_read_u64(&state->shared->chunks_skipped);
}

/* ---- EXPLAIN ---- */

static void
explain_columns(CustomScanState *css, ExplainState *es)
{
	Oid			relid = RelationGetRelid(css->ss.ss_currentRelation);
	StringInfoData names;
	ListCell   *lc;

	initStringInfo(&names);
	foreach(lc, plan_columns(css))
	{
		char	   *name = get_attname(relid, lfirst_int(lc), true);

		if (name)
			appendStringInfo(&names, "%s%s", names.len ? ", " : "", quote_identifier(name));
	}
	ExplainPropertyText("Columns", names.len ? names.data : "(none)", es);
}

static void
explain_scan(CustomScanState *css, List *ancestors, ExplainState *es)
{
	StreamScanState *state = (StreamScanState *) css;
	CustomScan *plan = (CustomScan *) css->ss.ps.plan;

	explain_columns(css, es);
	if (plan->custom_exprs != NIL)
	{
		List	   *context = set_deparse_context_plan(es->deparse_cxt, css->ss.ps.plan, ancestors);

		ExplainPropertyText("Chunk Filter",
							deparse_expression((Node *) make_ands_explicit(plan->custom_exprs), context,
											   es->verbose, false),
							es);
	}
	if (es->analyze)
	{
		ExplainPropertyInteger("Chunks Read", NULL, state->chunks_read, es);
		ExplainPropertyInteger("Chunks Skipped", NULL, state->chunks_skipped, es);
	}
}

void
penstock_customscan_init(void)
{
	RegisterCustomScanMethods(&penstock_customscan_methods);
}
