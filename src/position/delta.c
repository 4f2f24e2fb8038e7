/*
 * delta.c
 *	  Which chunks lie between a position and the batch's snapshot.
 *
 * For each stream that is asked for there is a list of pending chunks: every chunk that the snapshot
 * "base" does not see.  It begins with one walk of the stream's directory that also takes chunks of
 * running writers, and is kept up to date from the tail.  A chunk is announced after it was
 * inserted, so whatever the walk did not meet comes by the tail, and what comes twice is taken once.
 *
 * The list is a hint and never believed: an address may belong to a transaction that was rolled
 * back, or by now to another chunk.  What is delivered is what the batch's snapshot sees at that
 * address, if it carries the announced transaction and is no merged chunk.
 *
 * The lists of all streams together are bounded.  A walk that meets more than fits stops there: the
 * delta then ends with the last chunk in the list, as a slice, and the walk goes on from there.
 */
#include "postgres.h"

#include "access/heapam.h"
#include "access/table.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "compat/compat.h"
#include "position/delta.h"
#include "stream/tail.h"

/* Pending chunks of all streams, 16 bytes each; more is worked off in slices. */
#define MAX_PENDING (2 * 1024 * 1024)

/* A chunk with fewer rows is worth merging; so many chunks, or rows in some of them, are a merge. */
#define SMALL_CHUNK_ROWS 4096
#define MERGE_CHUNKS 4096
#define MERGE_LEAST_CHUNKS 256
#define MERGE_ROWS PENSTOCK_CHUNK_MAX_ROWS

typedef struct Pending
{
	FullTransactionId xid;
	BlockNumber block;
	OffsetNumber offset;
	uint16		rows;			/* an estimate, at most 65535 */
} Pending;

typedef struct Source
{
	Oid			relid;			/* hash key */
	FullTransactionId unsettled_from;	/* announced, not yet settled; invalid: none */
	FullTransactionId unsettled_to;
	bool		news;			/* chunks were announced since penstock_sources_news */
	int			small_chunks;	/* seen since the last merge */
	int64		small_rows;		/* in them */
	bool		covered;		/* the list holds what the fields below say */
	Datum		base;			/* pg_snapshot: chunks that it sees may be missing */
	Oid			filenode;		/* file that the addresses belong to */
	ItemPointerData after;		/* chunks at or below may be missing, if valid */
	bool		truncated;		/* chunks beyond the last one in the list are missing */
	bool		sorted;
	int			npending;
	int			maxpending;
	Pending    *pending;		/* in order of address if sorted */
} Source;

struct PenstockSources
{
	MemoryContext context;		/* holds everything; owner's child context */
	HTAB	   *sources;
	uint64		cursor;			/* in the tail */
	int64		total;			/* room for pending chunks, all streams */
	PenstockTailEntry *buffer;
	bool		lost;			/* announcements, since penstock_sources_settled */
	Oid			current;		/* stream being looked at by penstock_sources_delta */
};

#define TAIL_BUFFER 256

/*
 * penstock_sources_create makes an empty set of sources under "parent"; it starts to follow the tail.
 */
PenstockSources *
penstock_sources_create(MemoryContext parent)
{
	MemoryContext context = AllocSetContextCreate(parent, "penstock sources", ALLOCSET_DEFAULT_SIZES);
	PenstockSources *sources = MemoryContextAllocZero(context, sizeof(PenstockSources));
	HASHCTL		ctl = {0};

	ctl.keysize = sizeof(Oid);
	ctl.entrysize = sizeof(Source);
	ctl.hcxt = context;
	sources->context = context;
	sources->sources = hash_create("penstock sources", 64, &ctl, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	sources->buffer = MemoryContextAlloc(context, TAIL_BUFFER * sizeof(PenstockTailEntry));
	sources->cursor = penstock_tail_head();
	return sources;
}

/* Drops what is known of a stream's chunks. */
static void
uncover(PenstockSources *sources, Source *source)
{
	sources->total -= source->maxpending;
	source->covered = false;
	source->truncated = false;
	source->npending = 0;
	if (source->pending)
		pfree(source->pending);
	source->pending = NULL;
	source->maxpending = 0;
	if (DatumGetPointer(source->base))
		pfree(DatumGetPointer(source->base));
	source->base = (Datum) 0;
}

static Source *
get_source(PenstockSources *sources, Oid relid)
{
	bool		found;
	Source	   *source = hash_search(sources->sources, &relid, HASH_ENTER, &found);

	if (!found)
	{
		memset(source, 0, sizeof(Source));
		source->relid = relid;
	}
	return source;
}

static int
compare_address(BlockNumber block, OffsetNumber offset, const Pending *other)
{
	if (block != other->block)
		return block < other->block ? -1 : 1;
	return offset < other->offset ? -1 : offset > other->offset;
}

static int
compare_pending(const void *a, const void *b)
{
	const Pending *left = a;
	const Pending *right = b;
	int			result = compare_address(left->block, left->offset, right);

	if (result == 0 && !FullTransactionIdEquals(left->xid, right->xid))
		result = FullTransactionIdPrecedes(left->xid, right->xid) ? -1 : 1;
	return result;
}

/* Adds a chunk to the list; false if the list is full. */
static bool
add_pending(PenstockSources *sources, Source *source, ItemPointer tid, FullTransactionId xid,
			int32 nrows)
{
	Pending    *item;

	if (source->npending == source->maxpending)
	{
		int			more = Max(64, source->maxpending);

		/* a stream may always have a little, so that a slice gets on */
		if (sources->total + more > MAX_PENDING && source->maxpending > 0)
			return false;
		sources->total += more;
		source->maxpending += more;
		if (source->pending == NULL)
			source->pending = MemoryContextAlloc(sources->context,
												 source->maxpending * sizeof(Pending));
		else
			source->pending = repalloc(source->pending, source->maxpending * sizeof(Pending));
	}
	item = &source->pending[source->npending];
	item->xid = xid;
	item->block = ItemPointerGetBlockNumberNoCheck(tid);
	item->offset = ItemPointerGetOffsetNumberNoCheck(tid);
	item->rows = Min(nrows, PG_UINT16_MAX);
	if (source->npending == 0)
		source->sorted = true;
	else if (compare_pending(item - 1, item) >= 0)
		source->sorted = false;
	source->npending++;
	return true;
}

/* Puts the list in order of address and drops what was announced twice. */
static void
sort_pending(Source *source)
{
	int			kept = 0;

	if (source->sorted)
		return;
	qsort(source->pending, source->npending, sizeof(Pending), compare_pending);
	for (int i = 0; i < source->npending; i++)
	{
		if (kept > 0 && compare_pending(&source->pending[kept - 1], &source->pending[i]) == 0)
			continue;
		source->pending[kept++] = source->pending[i];
	}
	source->npending = kept;
	source->sorted = true;
}

static void
count_small(Source *source, int nrows)
{
	if (nrows < SMALL_CHUNK_ROWS)
	{
		source->small_chunks++;
		source->small_rows += nrows;
	}
}

/*
 * penstock_sources_read_tail takes in what was published.  Call it after taking the batch's snapshot:
 * what that snapshot sees has been published before.
 */
void
penstock_sources_read_tail(PenstockSources *sources)
{
	int			n;
	bool		overrun;

	do
	{
		n = penstock_tail_read(&sources->cursor, sources->buffer, TAIL_BUFFER, &overrun);
		if (overrun)
		{
			sources->lost = true;
			penstock_sources_forget(sources, InvalidOid);
		}

		for (int i = 0; i < n; i++)
		{
			PenstockTailEntry *entry = &sources->buffer[i];
			Source	   *source = get_source(sources, entry->relid);

			source->news = true;
			if (!FullTransactionIdIsValid(source->unsettled_from) ||
				FullTransactionIdPrecedes(entry->xid, source->unsettled_from))
				source->unsettled_from = entry->xid;
			if (!FullTransactionIdIsValid(source->unsettled_to) ||
				FullTransactionIdPrecedes(source->unsettled_to, entry->xid))
				source->unsettled_to = entry->xid;
			count_small(source, entry->nrows);
			if (source->covered && !source->truncated &&
				!add_pending(sources, source, &entry->tid, entry->xid, entry->nrows))
				uncover(sources, source);
		}
	} while (n > 0 || overrun);
}

/*
 * penstock_sources_unsettled, see delta.h.
 */
List *
penstock_sources_unsettled(PenstockSources *sources, Datum upto, bool *all)
{
	HASH_SEQ_STATUS status;
	Source	   *source;
	List	   *result = NIL;

	*all = sources->lost;
	hash_seq_init(&status, sources->sources);
	while ((source = hash_seq_search(&status)) != NULL)
		if (FullTransactionIdIsValid(source->unsettled_from) &&
			penstock_position_may_see(upto, source->unsettled_from))
			result = lappend_oid(result, source->relid);
	return result;
}

/*
 * penstock_sources_settled: whatever upto sees is settled.
 */
void
penstock_sources_settled(PenstockSources *sources, Datum upto)
{
	HASH_SEQ_STATUS status;
	Source	   *source;

	sources->lost = false;
	hash_seq_init(&status, sources->sources);
	while ((source = hash_seq_search(&status)) != NULL)
		if (FullTransactionIdIsValid(source->unsettled_to) &&
			penstock_position_sees_all(upto, source->unsettled_to))
			source->unsettled_from = source->unsettled_to = InvalidFullTransactionId;
}

/* Does the list serve a consumer at this position? */
static bool
serves(Source *source, const PenstockPosition *from)
{
	if (!source->covered || !penstock_position_within(source->base, from->lower))
		return false;
	if (!ItemPointerIsValid(&source->after))
		return true;
	return from->slicing && from->cursor_relid == source->relid &&
		ItemPointerCompare(&source->after, (ItemPointer) &from->cursor) <= 0;
}

/*
 * penstock_sources_maybe tells whether there may be something for a consumer at this position.
 */
bool
penstock_sources_maybe(PenstockSources *sources, Oid relid, const PenstockPosition *from)
{
	Source	   *source = hash_search(sources->sources, &relid, HASH_FIND, NULL);

	return from->slicing || source == NULL || !serves(source, from) || source->npending > 0;
}

/* Reads the directory anew, for a consumer at this position (and every younger one). */
static void
cover(PenstockSources *sources, Source *source, Relation rel, const PenstockPosition *from)
{
	PenstockDirectoryScan *scan;
	PenstockDirectoryEntry entry;
	SnapshotData dirty;
	MemoryContext old;

	uncover(sources, source);
	source->small_chunks = 0;
	source->small_rows = 0;
	old = MemoryContextSwitchTo(sources->context);
	source->base = penstock_position_copy(from->lower);
	MemoryContextSwitchTo(old);
	source->filenode = penstock_rel_filenumber(rel);
	ItemPointerSetInvalid(&source->after);
	if (from->slicing && from->cursor_relid == source->relid)
		source->after = from->cursor;

	InitDirtySnapshot(dirty);
	scan = penstock_directory_begin(rel, &dirty,
									ItemPointerIsValid(&source->after) ? &source->after : NULL);
	while (penstock_directory_next(scan, &entry))
	{
		CHECK_FOR_INTERRUPTS();
		count_small(source, entry.info.nrows);
		if ((entry.info.flags & PENSTOCK_CHUNK_MERGED) != 0 ||
			penstock_position_sees(from->lower, entry.info.xid))
			continue;
		if (!add_pending(sources, source, &entry.tid, entry.info.xid, entry.info.nrows))
		{
			source->truncated = true;
			break;
		}
	}
	penstock_directory_end(scan);
	source->covered = true;
}

/* What a delta is built from. */
typedef struct DeltaBuild
{
	const PenstockPosition *from;
	Datum		upto;			/* what the delta may see: the slice's upper, or the batch's */
	int64		max_rows;
	int64		rows;			/* delivered so far, all streams */
	bool		full;			/* no more chunks fit; the cursor says where it ended */
	int64		left;			/* rows beyond, an estimate */
	Oid			cursor_relid;
	ItemPointerData cursor;
} DeltaBuild;

/* Is this chunk beyond the position and within the batch? */
static bool
belongs(const DeltaBuild *build, Oid relid, const Pending *item)
{
	const PenstockPosition *from = build->from;

	if (penstock_position_sees(from->lower, item->xid) ||
		!penstock_position_sees(build->upto, item->xid))
		return false;
	if (!from->slicing || relid > from->cursor_relid)
		return true;
	return relid == from->cursor_relid &&
		compare_address(ItemPointerGetBlockNumberNoCheck(&from->cursor),
						ItemPointerGetOffsetNumberNoCheck(&from->cursor), item) < 0;
}

static PenstockDelta *
build_stream(PenstockSources *sources, DeltaBuild *build, Source *source, Relation rel)
{
	PenstockDelta *delta = palloc0(sizeof(PenstockDelta));
	Snapshot	snapshot = GetActiveSnapshot();
	int			max_chunks = 0;

	delta->relid = source->relid;
	delta->weight = 1;
	sort_pending(source);
	for (int i = 0; i < source->npending; i++)
	{
		Pending    *item = &source->pending[i];
		PenstockDirectoryEntry entry;
		ItemPointerData tid;

		if (!belongs(build, source->relid, item))
			continue;
		if (build->full)
		{
			build->left += item->rows;
			continue;
		}
		CHECK_FOR_INTERRUPTS();

		ItemPointerSet(&tid, item->block, item->offset);
		if (!penstock_directory_get(rel, &tid, snapshot, &entry) ||
			!FullTransactionIdEquals(entry.info.xid, item->xid) ||
			(entry.info.flags & PENSTOCK_CHUNK_MERGED) != 0)
			continue;

		if (delta->nchunks == max_chunks)
		{
			max_chunks = Max(16, max_chunks * 2);
			if (delta->chunks == NULL)
				delta->chunks = palloc(max_chunks * sizeof(PenstockDeltaChunk));
			else
				delta->chunks = repalloc(delta->chunks, max_chunks * sizeof(PenstockDeltaChunk));
		}
		delta->chunks[delta->nchunks].tid = tid;
		delta->chunks[delta->nchunks++].nrows = entry.info.nrows;
		delta->nrows += entry.info.nrows;
		build->rows += entry.info.nrows;
		if (build->rows >= build->max_rows)
		{
			build->full = true;
			build->cursor_relid = source->relid;
			build->cursor = tid;
		}
	}

	/* the directory was not read to its end: this slice ends where the list does */
	if (source->truncated && !build->full)
	{
		Pending    *last = &source->pending[source->npending - 1];

		build->full = true;
		build->left++;
		build->cursor_relid = source->relid;
		ItemPointerSet(&build->cursor, last->block, last->offset);
		uncover(sources, source);
	}
	return delta;
}

/*
 * penstock_sources_delta, see delta.h.  A delta that does not fit becomes the first slice: then *to
 * keeps the lower snapshot of from, has upto as its upper one and a cursor.
 */
List *
penstock_sources_delta(PenstockSources *sources, List *streams, const PenstockPosition *from,
					   Datum upto, int64 max_rows, PenstockPosition *to, int64 *left)
{
	DeltaBuild	build = {0};
	List	   *deltas = NIL;
	ListCell   *lc;

	sources->current = InvalidOid;
	build.from = from;
	build.upto = from->slicing ? from->upper : upto;
	build.max_rows = max_rows;

	foreach(lc, streams)
	{
		Oid			relid = lfirst_oid(lc);
		Source	   *source = get_source(sources, relid);
		Relation	rel;
		PenstockDelta *delta;

		if (from->slicing && relid < from->cursor_relid)
			continue;
		rel = try_table_open(relid, NoLock);
		if (rel == NULL)
			continue;
		sources->current = relid;
		if (!serves(source, from) || source->filenode != penstock_rel_filenumber(rel))
			cover(sources, source, rel, from);
		delta = build_stream(sources, &build, source, rel);
		if (delta->nchunks > 0)
			deltas = lappend(deltas, delta);
		table_close(rel, NoLock);
		sources->current = InvalidOid;
	}

	memset(to, 0, sizeof(PenstockPosition));
	ItemPointerSetInvalid(&to->cursor);
	*left = build.left;
	if (build.full && build.left > 0)
	{
		to->lower = penstock_position_copy(from->lower);
		to->slicing = true;
		to->upper = penstock_position_copy(build.upto);
		to->cursor_relid = build.cursor_relid;
		to->cursor = build.cursor;
	}
	else
		to->lower = penstock_position_copy(build.upto);
	return deltas;
}

/*
 * penstock_sources_current returns the stream whose directory or chunks raised the error that ended the
 * last penstock_sources_delta.  What is known of it must be forgotten then.
 */
Oid
penstock_sources_current(PenstockSources *sources)
{
	Oid			current = sources->current;

	sources->current = InvalidOid;
	return current;
}

/*
 * penstock_sources_consumed forgets chunks that the snapshot sees: no consumer will ask for them.
 */
void
penstock_sources_consumed(PenstockSources *sources, Datum seen)
{
	HASH_SEQ_STATUS status;
	Source	   *source;

	hash_seq_init(&status, sources->sources);
	while ((source = hash_seq_search(&status)) != NULL)
	{
		int			kept = 0;

		if (!source->covered || source->npending == 0 || source->truncated ||
			!penstock_position_within(source->base, seen))
			continue;
		for (int i = 0; i < source->npending; i++)
			if (!penstock_position_sees(seen, source->pending[i].xid))
				source->pending[kept++] = source->pending[i];
		if (kept == source->npending)
			continue;

		source->npending = kept;
		pfree(DatumGetPointer(source->base));
		{
			MemoryContext old = MemoryContextSwitchTo(sources->context);

			source->base = penstock_position_copy(seen);
			MemoryContextSwitchTo(old);
		}
		/* give back what a backlog took */
		if (kept == 0 && source->maxpending > 4096)
		{
			pfree(source->pending);
			source->pending = NULL;
			sources->total -= source->maxpending;
			source->maxpending = 0;
		}
	}
}

/*
 * penstock_sources_forget makes the next delta of a stream (InvalidOid: of all) read its directory.
 */
void
penstock_sources_forget(PenstockSources *sources, Oid relid)
{
	HASH_SEQ_STATUS status;
	Source	   *source;

	hash_seq_init(&status, sources->sources);
	while ((source = hash_seq_search(&status)) != NULL)
		if (!OidIsValid(relid) || source->relid == relid)
			uncover(sources, source);
}

/*
 * penstock_sources_news tells whether chunks of the stream were announced since the last call.
 */
bool
penstock_sources_news(PenstockSources *sources, Oid relid)
{
	Source	   *source = hash_search(sources->sources, &relid, HASH_FIND, NULL);
	bool		result = source != NULL && source->news;

	if (source != NULL)
		source->news = false;
	return result;
}

/*
 * penstock_sources_to_merge returns a stream whose small chunks make a chunk that need not be merged
 * again: so every event is written at most twice.
 */
Oid
penstock_sources_to_merge(PenstockSources *sources)
{
	HASH_SEQ_STATUS status;
	Source	   *source;
	Oid			result = InvalidOid;

	hash_seq_init(&status, sources->sources);
	while ((source = hash_seq_search(&status)) != NULL)
	{
		if (source->small_chunks >= MERGE_CHUNKS ||
			(source->small_chunks >= MERGE_LEAST_CHUNKS && source->small_rows >= MERGE_ROWS))
			result = source->relid;
	}
	return result;
}

/*
 * penstock_sources_merged notes the end of a merge.  What could not be merged is left until as many new
 * ones have come.
 */
void
penstock_sources_merged(PenstockSources *sources, Oid relid, int chunks)
{
	Source	   *source = get_source(sources, relid);

	source->small_chunks = chunks == 0 ? 0 : Max(0, source->small_chunks - chunks);
	source->small_rows = 0;
}
