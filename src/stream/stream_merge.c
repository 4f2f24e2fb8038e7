/*
 * stream_merge.c
 *	  Merges small chunks of small transactions into large ones.
 *
 * A merged chunk is flagged, and deltas skip it: only chunks are merged that every position and every
 * running transaction sees, so nobody will ever ask for them as something new.  Scans whose snapshots are
 * older than the merge read the parts, younger ones the whole.
 */
#include "postgres.h"

#include "access/table.h"
#include "access/transam.h"
#include "access/xact.h"
#include "storage/lmgr.h"
#include "storage/procarray.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "stream/stream_internal.h"

/* Chunks with fewer rows are small; fewer small ones than this are left as they are. */
#define SMALL_ROWS		4096
#define LEAST_CHUNKS	64

typedef struct Merge
{
	Relation	rel;
	PenstockReader *reader;
	PenstockBuilder *builder;
	FullTransactionId horizon;	/* everybody sees what is older */
	Datum	   *positions;
	int			npositions;
	List	   *parts;			/* HeapTuple */
	int			rows;
} Merge;

/* The oldest transaction that some snapshot may not see, with its epoch. */
static FullTransactionId
oldest_unseen(Relation rel)
{
	FullTransactionId next = ReadNextFullTransactionId();
	TransactionId oldest = GetOldestNonRemovableTransactionId(rel);
	uint32		epoch = EpochFromFullTransactionId(next);

	if (oldest > XidFromFullTransactionId(next))
		epoch--;
	return FullTransactionIdFromEpochAndXid(epoch, oldest);
}

/* Collects the small chunks for one merged one, in address order. */
static void
collect_parts(Merge *merge)
{
	PenstockDirectoryScan *scan = penstock_directory_begin(merge->rel, GetActiveSnapshot(), NULL);
	HeapTuple	tuple;

	while ((tuple = penstock_directory_next_tuple(scan)) != NULL)
	{
		PenstockChunkInfo info;

		penstock_tuple_info(merge->rel, tuple, &info);
		if (info.nrows >= SMALL_ROWS ||
			!FullTransactionIdPrecedes(info.xid, merge->horizon) ||
			!penstock_seen_by_all(&info, merge->positions, merge->npositions))
			continue;
		if (merge->rows + info.nrows > PENSTOCK_CHUNK_MAX_ROWS)
			break;
		merge->parts = lappend(merge->parts, heap_copytuple(tuple));
		merge->rows += info.nrows;
	}
	penstock_directory_end(scan);
}

/* Adds a chunk's rows to the builder. */
static void
add_part(Merge *merge, HeapTuple tuple, Datum *values, bool *isnull)
{
	PenstockReader *reader = merge->reader;

	penstock_reader_open(reader, tuple);
	penstock_reader_decode(reader);
	for (int row = 0; row < reader->info.nrows; row++)
	{
		for (int i = 0; i < reader->ncolumns; i++)
		{
			PenstockVector *vector = &reader->vectors[i];
			int			att = reader->columns[i] - 1;

			isnull[att] = vector->isnull && vector->isnull[row];
			values[att] = isnull[att] ? (Datum) 0 : vector->values[row];
		}
		penstock_builder_append(merge->builder, values, isnull);
	}
}

/* Puts one chunk in the place of the parts; returns how many of them fitted. */
static int
replace_parts(Merge *merge)
{
	int			natts = RelationGetNumberOfAttributes(merge->rel);
	Datum	   *values = palloc0(sizeof(Datum) * (natts + 1));
	bool	   *isnull = palloc(sizeof(bool) * (natts + 1));
	TimestampTz written_at = DT_NOBEGIN;
	PenstockEncoded encoded;
	int			used = 0;

	memset(isnull, true, sizeof(bool) * (natts + 1));
	while (used < list_length(merge->parts) && !penstock_builder_full(merge->builder))
	{
		HeapTuple	tuple = list_nth(merge->parts, used++);

		add_part(merge, tuple, values, isnull);
		written_at = Max(written_at, merge->reader->info.written_at);
		penstock_directory_delete(merge->rel, tuple, &merge->reader->info);
	}
	penstock_reader_close(merge->reader);

	penstock_builder_encode(merge->builder, 0, penstock_builder_rows(merge->builder), &encoded);
	penstock_directory_insert(merge->rel, &encoded, penstock_builder_rows(merge->builder),
							  GetCurrentCommandId(true), PENSTOCK_CHUNK_MERGED, written_at);
	return used;
}

int
penstock_stream_merge(Oid relid, Datum *positions, int npositions)
{
	Merge		merge = {0};
	MemoryContext context;
	MemoryContext caller;
	int			replaced = 0;

	if (!ConditionalLockRelationOid(relid, ShareUpdateExclusiveLock))
		return 0;
	merge.rel = try_table_open(relid, NoLock);
	if (merge.rel == NULL)
		return 0;

	context = AllocSetContextCreate(CurrentMemoryContext, "penstock merge", ALLOCSET_DEFAULT_SIZES);
	caller = MemoryContextSwitchTo(context);
	merge.positions = positions;
	merge.npositions = npositions;
	merge.horizon = oldest_unseen(merge.rel);

	/* younger than the lock, so that nobody has deleted what it sees */
	PushActiveSnapshot(GetLatestSnapshot());
	collect_parts(&merge);
	if (list_length(merge.parts) >= LEAST_CHUNKS)
	{
		merge.reader = penstock_reader_create(merge.rel, NULL);
		merge.builder = penstock_builder_create(context, RelationGetDescr(merge.rel),
												penstock_stream_event_attno(merge.rel));
		replaced = replace_parts(&merge);
		penstock_reader_free(merge.reader);
	}
	PopActiveSnapshot();

	table_close(merge.rel, NoLock);
	MemoryContextSwitchTo(caller);
	MemoryContextDelete(context);
	return replaced;
}
