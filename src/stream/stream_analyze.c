/*
 * stream_analyze.c
 *	  ANALYZE: counts every row, decodes a sample.
 *
 * The server offers directory blocks and takes rows.  A block of the directory stands for a hundred
 * thousand rows and more, so only some rows of some chunks are given; the others are just counted.
 */
#include "postgres.h"

#include "access/heapam.h"
#include "access/xact.h"
#include "commands/vacuum.h"
#include "common/pg_prng.h"
#include "storage/bufmgr.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "stream/stream_internal.h"

/* Bounds of the work: rows offered for each row that the server wants, rows and chunks decoded. */
#define OFFERED_PER_WANTED	3
#define MAX_DECODED_ROWS	(8.0 * 1024 * 1024)
#define MAX_DECODED_CHUNKS	20000.0

typedef struct PenstockAnalyze
{
	MemoryContext context;		/* of the block; reset with the next */
	double		chunk_share;	/* of the chunks are decoded */
	double		row_share;		/* of the rows of a decoded chunk are given */

	BlockNumber block;
	bool		block_read;
	List	   *chunks;			/* of the block: HeapTuple */
	int			next_chunk;

	int			nsample;		/* rows to give of the open chunk */
	int			next_sample;
	double		stride;
} PenstockAnalyze;

void
penstock_analyze_begin(PenstockScan *scan)
{
	PenstockAnalyze *analyze = palloc0(sizeof(PenstockAnalyze));
	PenstockDirectoryScan *directory;
	PenstockDirectoryEntry entry;
	double		rows = 0;
	double		chunks = 0;
	double		wanted = 300.0 * default_statistics_target * OFFERED_PER_WANTED;

	analyze->context = AllocSetContextCreate(CurrentMemoryContext, "penstock analyze",
											 ALLOCSET_DEFAULT_SIZES);
	scan->analyze = analyze;

	directory = penstock_directory_begin(scan->base.rs_rd, GetActiveSnapshot(), NULL);
	while (penstock_directory_next(directory, &entry))
	{
		rows += entry.info.nrows;
		chunks++;
	}
	penstock_directory_end(directory);

	analyze->chunk_share = Min(1.0, Min(MAX_DECODED_ROWS / Max(rows, 1.0),
										MAX_DECODED_CHUNKS / Max(chunks, 1.0)));
	analyze->row_share = Min(1.0, wanted / Max(rows * analyze->chunk_share, 1.0));
}

void
penstock_analyze_end(PenstockScan *scan)
{
	MemoryContextDelete(scan->analyze->context);
	pfree(scan->analyze);
}

bool
penstock_analyze_next_block(PENSTOCK_ANALYZE_BLOCK_ARGS)
{
	PenstockAnalyze *analyze = ((PenstockScan *) scan)->analyze;
	BlockNumber block = PENSTOCK_ANALYZE_BLOCK;

	if (!BlockNumberIsValid(block))
		return false;

	MemoryContextReset(analyze->context);
	analyze->block = block;
	analyze->block_read = false;
	analyze->chunks = NIL;
	analyze->next_chunk = 0;
	analyze->nsample = analyze->next_sample = 0;
	return true;
}

/* Whether the rows of a directory tuple count as live, as the heap's own ANALYZE decides. */
static bool
is_live(HeapTuple tuple, TransactionId oldest_xmin, Buffer buffer, bool *counts_as_dead)
{
	*counts_as_dead = false;
	switch (HeapTupleSatisfiesVacuum(tuple, oldest_xmin, buffer))
	{
		case HEAPTUPLE_LIVE:
			return true;
		case HEAPTUPLE_DEAD:
		case HEAPTUPLE_RECENTLY_DEAD:
			*counts_as_dead = true;
			return false;
		case HEAPTUPLE_INSERT_IN_PROGRESS:
			return TransactionIdIsCurrentTransactionId(HeapTupleHeaderGetXmin(tuple->t_data));
		case HEAPTUPLE_DELETE_IN_PROGRESS:
			*counts_as_dead =
				TransactionIdIsCurrentTransactionId(HeapTupleHeaderGetUpdateXid(tuple->t_data));
			return !*counts_as_dead;
	}
	return false;
}

/* Copies the live directory tuples of the block and counts the dead ones' rows. */
static void
read_block(PenstockScan *scan, TransactionId oldest_xmin, double *dead)
{
	PenstockAnalyze *analyze = scan->analyze;
	Relation	rel = scan->base.rs_rd;
	MemoryContext caller = MemoryContextSwitchTo(analyze->context);
	Buffer		buffer = ReadBuffer(rel, analyze->block);
	Page		page;
	OffsetNumber last;

	LockBuffer(buffer, BUFFER_LOCK_SHARE);
	page = BufferGetPage(buffer);
	last = PageIsNew(page) ? InvalidOffsetNumber : PageGetMaxOffsetNumber(page);
	for (OffsetNumber off = FirstOffsetNumber; off <= last; off++)
	{
		ItemId		item = PageGetItemId(page, off);
		HeapTupleData tuple;
		bool		counts_as_dead;

		if (!ItemIdIsNormal(item))
			continue;
		tuple.t_tableOid = RelationGetRelid(rel);
		tuple.t_data = (HeapTupleHeader) PageGetItem(page, item);
		tuple.t_len = ItemIdGetLength(item);
		ItemPointerSet(&tuple.t_self, analyze->block, off);

		if (is_live(&tuple, oldest_xmin, buffer, &counts_as_dead))
			analyze->chunks = lappend(analyze->chunks, heap_copytuple(&tuple));
		else if (counts_as_dead)
		{
			PenstockChunkInfo info;

			penstock_tuple_info(rel, &tuple, &info);
			*dead += info.nrows;
		}
	}
	UnlockReleaseBuffer(buffer);
	MemoryContextSwitchTo(caller);
	analyze->block_read = true;
}

/* Counts the block's next chunk and opens it if it is in the sample; false at the block's end. */
static bool
next_chunk(PenstockScan *scan, double *live)
{
	PenstockAnalyze *analyze = scan->analyze;
	HeapTuple	tuple;
	PenstockChunkInfo info;
	double		share;

	if (analyze->next_chunk == list_length(analyze->chunks))
		return false;
	tuple = list_nth(analyze->chunks, analyze->next_chunk++);
	penstock_tuple_info(scan->base.rs_rd, tuple, &info);
	*live += info.nrows;

	analyze->nsample = analyze->next_sample = 0;
	if (pg_prng_double(&pg_global_prng_state) >= analyze->chunk_share)
		return true;
	share = info.nrows * analyze->row_share;
	analyze->nsample = (int) share;
	if (pg_prng_double(&pg_global_prng_state) < share - analyze->nsample)
		analyze->nsample++;
	if (analyze->nsample > 0)
	{
		analyze->stride = (double) info.nrows / analyze->nsample;
		penstock_reader_open(scan->reader, tuple);
		penstock_reader_decode(scan->reader);
	}
	return true;
}

/*
 * The server sorts its sample by the tuples' addresses, which a copy made from a virtual slot does not
 * have.  So the slot that it gives becomes one that is virtual in all but that.
 */
static HeapTuple
copy_with_address(TupleTableSlot *slot)
{
	HeapTuple	tuple = TTSOpsVirtual.copy_heap_tuple(slot);

	tuple->t_self = slot->tts_tid;
	tuple->t_tableOid = slot->tts_tableOid;
	return tuple;
}

static void
make_addressed(TupleTableSlot *slot)
{
	static TupleTableSlotOps ops;

	if (slot->tts_ops != &TTSOpsVirtual)
		return;
	ops = TTSOpsVirtual;
	ops.copy_heap_tuple = copy_with_address;
	*((const TupleTableSlotOps **) &slot->tts_ops) = &ops;
}

bool
penstock_analyze_row(TableScanDesc base, TransactionId oldest_xmin, double *live, double *dead,
					 TupleTableSlot *slot)
{
	PenstockScan *scan = (PenstockScan *) base;
	PenstockAnalyze *analyze = scan->analyze;
	int			row;

	make_addressed(slot);
	if (!analyze->block_read)
		read_block(scan, oldest_xmin, dead);
	while (analyze->next_sample == analyze->nsample)
	{
		ExecClearTuple(slot);
		if (!next_chunk(scan, live))
			return false;
	}

	/* one row at random out of each stride */
	row = (int) ((analyze->next_sample + pg_prng_double(&pg_global_prng_state)) * analyze->stride);
	analyze->next_sample++;
	penstock_reader_store(scan->reader, Min(row, scan->reader->info.nrows - 1), slot);
	return true;
}
