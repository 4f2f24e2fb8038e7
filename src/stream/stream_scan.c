/*
 * stream_scan.c
 *	  Scans through the access method: COPY TO, constraint checks, rewrites, TABLESAMPLE and single
 *	  rows by ctid.  SELECT uses the custom scan, which reads only the columns it needs.
 */
#include "postgres.h"

#include "access/relscan.h"
#include "access/table.h"
#include "access/tsmapi.h"
#include "access/xact.h"
#include "nodes/execnodes.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "stream/stream_internal.h"

TableScanDesc
penstock_scan_begin(Relation rel, Snapshot snapshot, int nkeys, struct ScanKeyData *key,
					ParallelTableScanDesc pscan, uint32 flags)
{
	PenstockScan *scan;

	if (!IsInParallelMode())
	{
		if (snapshot)
			penstock_write_flush_for(RelationGetRelid(rel), snapshot);
		else
			penstock_stream_flush(RelationGetRelid(rel));
	}

	RelationIncrementReferenceCount(rel);
	scan = palloc0(sizeof(PenstockScan));
	scan->base.rs_rd = rel;
	scan->base.rs_snapshot = snapshot;
	scan->base.rs_nkeys = nkeys;
	scan->base.rs_flags = flags;
	scan->base.rs_parallel = pscan;
	penstock_source_begin(&scan->source, rel, snapshot, PENSTOCK_SCAN_FULL);
	/* a rewrite reads with the descriptor of before, which only its slot knows */
	if (flags & (SO_TYPE_ANALYZE | SO_TYPE_SAMPLESCAN))
		scan->reader = penstock_reader_create(rel, NULL);
	if (flags & SO_TYPE_ANALYZE)
		penstock_analyze_begin(scan);
	return &scan->base;
}

void
penstock_scan_end(TableScanDesc base)
{
	PenstockScan *scan = (PenstockScan *) base;

	if (scan->analyze)
		penstock_analyze_end(scan);
	penstock_source_end(&scan->source);
	if (scan->reader)
		penstock_reader_free(scan->reader);
	if (scan->chunks)
		pfree(scan->chunks);
	RelationDecrementReferenceCount(scan->base.rs_rd);
	if (scan->base.rs_flags & SO_TEMP_SNAPSHOT)
		UnregisterSnapshot(scan->base.rs_snapshot);
	pfree(scan);
}

void
penstock_scan_rescan(TableScanDesc base, struct ScanKeyData *key, bool set_params,
					 bool allow_strat, bool allow_sync, bool allow_pagemode)
{
	PenstockScan *scan = (PenstockScan *) base;

	if (scan->reader)
		penstock_reader_close(scan->reader);
	penstock_source_rewind(&scan->source);
	scan->ordinal = 0;
	scan->row = 0;
	scan->sample_block = 0;
}

/* Opens the next chunk that is this process's to read; false at the end. */
static bool
next_chunk(PenstockScan *scan, TupleDesc desc)
{
	ParallelBlockTableScanDesc parallel = (ParallelBlockTableScanDesc) scan->base.rs_parallel;
	uint64		wanted = scan->ordinal;
	MemoryContext caller = MemoryContextSwitchTo(GetMemoryChunkContext(scan));
	HeapTuple	tuple;

	if (parallel)
		wanted = pg_atomic_fetch_add_u64(&parallel->phs_nallocated, 1);

	do
	{
		tuple = penstock_source_next(&scan->source);
	} while (tuple && scan->ordinal++ < wanted);
	if (scan->reader == NULL)
		scan->reader = penstock_reader_create_as(scan->base.rs_rd, desc, NULL);
	if (tuple)
	{
		penstock_reader_open(scan->reader, tuple);
		penstock_reader_decode(scan->reader);
		scan->row = 0;
	}
	MemoryContextSwitchTo(caller);
	return tuple != NULL;
}

bool
penstock_scan_next(TableScanDesc base, ScanDirection direction, TupleTableSlot *slot)
{
	PenstockScan *scan = (PenstockScan *) base;

	if (!ScanDirectionIsForward(direction))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("cannot scan a stream backward")));

	while (scan->reader == NULL || scan->reader->chunk == NULL ||
		   scan->row >= scan->reader->info.nrows)
	{
		ExecClearTuple(slot);
		if (!next_chunk(scan, slot->tts_tupleDescriptor))
		{
			penstock_reader_close(scan->reader);
			return false;
		}
	}
	penstock_reader_store(scan->reader, scan->row++, slot);
	return true;
}

/* ---- one row by its ctid ---- */

/* The chunk that was read last, decoded, so that a loop over its rows decodes it once. */
static struct
{
	MemoryContext context;		/* NULL: nothing kept */
	Oid			relid;
	int			natts;
	ItemPointerData chunk;
	TransactionId xmin;
	PenstockReader *reader;
}			kept;

static void
forget_kept(XactEvent event, void *arg)
{
	if (event == XACT_EVENT_COMMIT || event == XACT_EVENT_ABORT || event == XACT_EVENT_PREPARE)
		kept.context = NULL;	/* gone with the transaction's memory */
}

/* Makes tuple the chunk that is kept. */
static void
keep_chunk(Relation rel, HeapTuple tuple)
{
	static bool registered = false;
	MemoryContext caller;

	if (!registered)
	{
		RegisterXactCallback(forget_kept, NULL);
		registered = true;
	}
	if (kept.context)
		MemoryContextDelete(kept.context);
	kept.context = NULL;

	caller = MemoryContextSwitchTo(AllocSetContextCreate(TopTransactionContext, "penstock kept chunk",
														 ALLOCSET_DEFAULT_SIZES));
	kept.reader = penstock_reader_create(rel, NULL);
	penstock_reader_open(kept.reader, tuple);
	penstock_reader_decode(kept.reader);
	if (kept.reader->toastrel)
		table_close(kept.reader->toastrel, AccessShareLock);
	kept.reader->toastrel = NULL;

	kept.relid = RelationGetRelid(rel);
	kept.natts = RelationGetNumberOfAttributes(rel);
	kept.chunk = tuple->t_self;
	kept.xmin = HeapTupleHeaderGetRawXmin(tuple->t_data);
	kept.context = CurrentMemoryContext;
	MemoryContextSwitchTo(caller);
}

/*
 * penstock_fetch_row stores the event of that ctid in slot, which owns what it holds.  False if there is
 * none that snapshot sees.
 */
bool
penstock_fetch_row(Relation rel, ItemPointer tid, Snapshot snapshot, TupleTableSlot *slot)
{
	ItemPointerData chunk;
	HeapTuple	tuple;
	int			row;

	ExecClearTuple(slot);
	if (!ItemPointerIsValid(tid) || !penstock_event_tid_split(tid, &chunk, &row))
		return false;
	tuple = penstock_directory_fetch(rel, &chunk, snapshot);
	if (tuple == NULL)
		return false;

	if (kept.context == NULL || kept.relid != RelationGetRelid(rel) ||
		kept.natts != RelationGetNumberOfAttributes(rel) ||
		!ItemPointerEquals(&kept.chunk, &chunk) ||
		kept.xmin != HeapTupleHeaderGetRawXmin(tuple->t_data))
		keep_chunk(rel, tuple);
	heap_freetuple(tuple);

	kept.reader->rel = rel;
	if (row >= kept.reader->info.nrows)
		return false;
	penstock_reader_store(kept.reader, row, slot);
	ExecMaterializeSlot(slot);
	return true;
}

/* ---- TABLESAMPLE ---- */

static void
collect_chunks(PenstockScan *scan)
{
	MemoryContext caller = MemoryContextSwitchTo(GetMemoryChunkContext(scan));
	PenstockDirectoryScan *directory;
	HeapTuple	tuple;
	Size		max = 64;

	scan->chunks = palloc(sizeof(ItemPointerData) * max);
	directory = penstock_directory_begin(scan->base.rs_rd, scan->base.rs_snapshot, NULL);
	while ((tuple = penstock_directory_next_tuple(directory)) != NULL)
	{
		if (scan->nchunks == max)
		{
			max *= 2;
			scan->chunks = repalloc_huge(scan->chunks, sizeof(ItemPointerData) * max);
		}
		scan->chunks[scan->nchunks++] = tuple->t_self;
	}
	penstock_directory_end(directory);
	MemoryContextSwitchTo(caller);
}

bool
penstock_sample_next_block(TableScanDesc base, struct SampleScanState *state)
{
	PenstockScan *scan = (PenstockScan *) base;
	TsmRoutine *tsm = state->tsmroutine;
	BlockNumber block;
	HeapTuple	tuple;

	if (scan->chunks == NULL)
		collect_chunks(scan);
	if (scan->nchunks == 0)
		return false;

	if (tsm->NextSampleBlock)
		block = tsm->NextSampleBlock(state, scan->nchunks);
	else
		block = scan->ordinal < scan->nchunks ? scan->ordinal++ : InvalidBlockNumber;
	if (!BlockNumberIsValid(block))
		return false;

	tuple = penstock_directory_fetch(base->rs_rd, &scan->chunks[block], base->rs_snapshot);
	if (tuple == NULL)
		elog(ERROR, "a chunk vanished during a sample scan");
	penstock_reader_open(scan->reader, tuple);
	penstock_reader_decode(scan->reader);
	heap_freetuple(tuple);
	scan->sample_block = block;
	return true;
}

bool
penstock_sample_next_tuple(TableScanDesc base, struct SampleScanState *state, TupleTableSlot *slot)
{
	PenstockScan *scan = (PenstockScan *) base;
	OffsetNumber offset;

	offset = state->tsmroutine->NextSampleTuple(state, scan->sample_block,
												scan->reader->info.nrows);
	if (!OffsetNumberIsValid(offset))
	{
		ExecClearTuple(slot);
		return false;
	}
	penstock_reader_store(scan->reader, offset - 1, slot);
	return true;
}
