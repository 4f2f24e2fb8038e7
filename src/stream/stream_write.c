/*
 * stream_write.c
 *	  Write buffers: rows of a transaction on their way into chunks.
 *
 * There is one buffer for each stream and subtransaction.  It is written out as a chunk when it is
 * full, when this transaction reads the stream, when the transaction's buffers together hold too
 * much, and before commit or prepare.
 *
 * Rows remember the command that inserted them.  Where rows of several commands go into one
 * chunk it carries the youngest of them; so rows that some running query tells apart
 * (penstock_live_commands) are never put into one chunk.
 *
 * heap_insert writes under the current subtransaction, but a scan in a subtransaction also needs the
 * rows of its parents.  They are then written by the child, and the parent keeps them until the
 * child has ended ("written_in"): if the child is rolled back, so is the chunk, and the rows are
 * written again; if it commits, they are where they belong.
 *
 * Everything lives in TopTransactionContext; a rollback forgets it.
 */
#include "postgres.h"

#include "access/relation.h"
#include "access/table.h"
#include "access/xact.h"
#include "miscadmin.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "stream/stream_internal.h"
#include "stream/tail.h"
#include "util/version.h"

/* What all buffers of a transaction may hold together. */
#define MAX_BUFFERED		((Size) 32 * 1024 * 1024)
/* A buffer smaller than this is not worth writing out to save memory. */
#define MIN_WORTHWHILE		((Size) 256 * 1024)
/* A new command starts a new chunk once the buffer holds this much. */
#define NEARLY_FULL_ROWS	(PENSTOCK_CHUNK_MAX_ROWS / 4 * 3)
#define MAX_LIVE_COMMANDS	32
/* Chunks of this size are encoded in memory that is kept for the next. */
#define KEEP_MEMORY_ROWS	8192

typedef struct CommandRun
{
	CommandId	cid;
	int			nrows;
} CommandRun;

typedef struct BufferKey
{
	Oid			relid;
	SubTransactionId subid;
} BufferKey;

typedef struct WriteBuffer
{
	BufferKey	key;
	MemoryContext context;		/* holds everything of this buffer */
	PenstockBuilder *builder;
	int			natts;			/* of the rows in it */
	CommandRun *runs;			/* in order of the rows */
	int			nruns;
	int			maxruns;
	Size		size;			/* as last added to buffered_size */
	SubTransactionId written_in;	/* rows are in the table if this commits */
} WriteBuffer;

typedef struct BufferEntry
{
	BufferKey	key;
	WriteBuffer *buffer;
} BufferEntry;

static HTAB *buffers;			/* NULL: none in this transaction */
static WriteBuffer *latest;		/* the one used last */
static MemoryContext kept_context;	/* where large chunks are encoded */
static Size buffered_size;
static bool wrote_chunks;		/* in this transaction */

static void flush_buffer(WriteBuffer *buffer);

/* ---- buffers ---- */

/* All buffers of relid (InvalidOid: of all streams) as a list in the current context. */
static List *
list_buffers(Oid relid)
{
	List	   *result = NIL;
	HASH_SEQ_STATUS status;
	BufferEntry *entry;

	if (buffers == NULL)
		return NIL;

	hash_seq_init(&status, buffers);
	while ((entry = hash_seq_search(&status)) != NULL)
		if (!OidIsValid(relid) || entry->key.relid == relid)
			result = lappend(result, entry->buffer);
	return result;
}

static WriteBuffer *
find_buffer(Oid relid, SubTransactionId subid)
{
	BufferKey	key = {relid, subid};
	BufferEntry *entry;

	if (buffers == NULL)
		return NULL;
	entry = hash_search(buffers, &key, HASH_FIND, NULL);
	return entry ? entry->buffer : NULL;
}

static void
enter_buffer(WriteBuffer *buffer)
{
	BufferEntry *entry = hash_search(buffers, &buffer->key, HASH_ENTER, NULL);

	entry->buffer = buffer;
}

static void
drop_buffer(WriteBuffer *buffer)
{
	hash_search(buffers, &buffer->key, HASH_REMOVE, NULL);
	buffered_size -= buffer->size;
	if (latest == buffer)
		latest = NULL;
	MemoryContextDelete(buffer->context);
}

/* A rewriting ALTER TABLE would have to decode and encode everything: it is refused. */
static void
refuse_rewrite(Relation rel)
{
	Oid			original = rel->rd_rel->relrewrite;

	if (OidIsValid(original) && penstock_is_stream(original))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("cannot rewrite a stream that holds events"),
				 errdetail("This change would have to rewrite every event of the stream, and events never change."),
				 errhint("Create a new stream and copy the events with INSERT ... SELECT, or make the change with ALTER TABLE ... SET ACCESS METHOD heap first and return to stream afterwards.")));
}

static WriteBuffer *
create_buffer(Relation rel, SubTransactionId subid)
{
	MemoryContext context;
	MemoryContext caller;
	WriteBuffer *buffer;

	penstock_version_check();
	refuse_rewrite(rel);
	penstock_ensure_toast(rel);

	if (buffers == NULL)
	{
		HASHCTL		ctl;

		ctl.keysize = sizeof(BufferKey);
		ctl.entrysize = sizeof(BufferEntry);
		ctl.hcxt = TopTransactionContext;
		buffers = hash_create("penstock write buffers", 16, &ctl,
							  HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	}

	context = AllocSetContextCreate(TopTransactionContext, "penstock write buffer",
									ALLOCSET_SMALL_SIZES);
	caller = MemoryContextSwitchTo(context);
	buffer = palloc0(sizeof(WriteBuffer));
	buffer->key.relid = RelationGetRelid(rel);
	buffer->key.subid = subid;
	buffer->context = context;
	buffer->natts = RelationGetNumberOfAttributes(rel);
	buffer->builder = penstock_builder_create(context, RelationGetDescr(rel),
											  penstock_stream_event_attno(rel));
	buffer->maxruns = 8;
	buffer->runs = palloc(sizeof(CommandRun) * buffer->maxruns);
	MemoryContextSwitchTo(caller);

	enter_buffer(buffer);
	return buffer;
}

/* The buffer for a row of rel inserted now, with a run for cid at its end. */
static WriteBuffer *
buffer_for(Relation rel, CommandId cid)
{
	SubTransactionId subid = GetCurrentSubTransactionId();
	WriteBuffer *buffer = latest;

	if (buffer == NULL || buffer->key.relid != RelationGetRelid(rel) || buffer->key.subid != subid)
		buffer = find_buffer(RelationGetRelid(rel), subid);

	if (buffer && buffer->nruns > 0 &&
		(buffer->natts != RelationGetNumberOfAttributes(rel) ||
		 (buffer->runs[buffer->nruns - 1].cid != cid &&
		  penstock_builder_rows(buffer->builder) >= NEARLY_FULL_ROWS)))
		flush_buffer(buffer);
	if (buffer && buffer->natts != RelationGetNumberOfAttributes(rel))
	{
		drop_buffer(buffer);
		buffer = NULL;
	}
	if (buffer == NULL)
		buffer = create_buffer(rel, subid);

	if (buffer->nruns == 0 || buffer->runs[buffer->nruns - 1].cid != cid)
	{
		if (buffer->nruns == buffer->maxruns)
		{
			buffer->maxruns *= 2;
			buffer->runs = repalloc(buffer->runs, sizeof(CommandRun) * buffer->maxruns);
		}
		buffer->runs[buffer->nruns].cid = cid;
		buffer->runs[buffer->nruns].nrows = 0;
		buffer->nruns++;
	}
	latest = buffer;
	return buffer;
}

static void
note_size(WriteBuffer *buffer)
{
	Size		size = penstock_builder_size(buffer->builder);

	buffered_size += size - buffer->size;
	buffer->size = size;
}

/* Keeps the transaction's buffers within their bound. */
static void
limit_memory(WriteBuffer *buffer)
{
	WriteBuffer *largest = NULL;
	ListCell   *lc;
	List	   *list;

	note_size(buffer);
	if (buffered_size <= MAX_BUFFERED)
		return;

	/* rows of parents can be written only for as long as this subtransaction lives */
	list = list_buffers(InvalidOid);
	foreach(lc, list)
	{
		WriteBuffer *candidate = lfirst(lc);

		if (candidate->key.subid == buffer->key.subid &&
			(largest == NULL || candidate->size > largest->size))
			largest = candidate;
	}
	list_free(list);
	if (largest->size >= MIN_WORTHWHILE || largest->key.subid == TopSubTransactionId)
	{
		flush_buffer(largest);
		drop_buffer(largest);
	}
}

static inline void
append_row(WriteBuffer *buffer, Oid relid, TupleTableSlot *slot)
{
	slot_getallattrs(slot);
	penstock_builder_append(buffer->builder, slot->tts_values, slot->tts_isnull);
	buffer->runs[buffer->nruns - 1].nrows++;
	slot->tts_tableOid = relid;
	ItemPointerSetInvalid(&slot->tts_tid);
}

/*
 * penstock_write_row buffers one row.  Its ctid is unknown until it is written out: it is invalid.
 */
void
penstock_write_row(Relation rel, TupleTableSlot *slot, CommandId cid)
{
	WriteBuffer *buffer = buffer_for(rel, cid);

	append_row(buffer, RelationGetRelid(rel), slot);
	if (penstock_builder_full(buffer->builder))
		flush_buffer(buffer);
	else if (penstock_builder_rows(buffer->builder) % 64 == 1)
		limit_memory(buffer);
}

void
penstock_write_rows(Relation rel, TupleTableSlot **slots, int nslots, CommandId cid)
{
	WriteBuffer *buffer = buffer_for(rel, cid);
	Oid			relid = RelationGetRelid(rel);

	for (int i = 0; i < nslots; i++)
	{
		append_row(buffer, relid, slots[i]);
		if (penstock_builder_full(buffer->builder))
		{
			flush_buffer(buffer);
			buffer = buffer_for(rel, cid);
		}
	}
	limit_memory(buffer);
}

/* ---- writing out ---- */

/* Number of running queries' snapshots that see rows of cid: rows with equal numbers look the same to all. */
static int
command_class(CommandId cid, const CommandId *live, int nlive)
{
	int			seen_by = 0;

	for (int i = 0; i < nlive; i++)
		if (cid < live[i])
			seen_by++;
	return seen_by;
}

static void
write_chunk(Relation rel, WriteBuffer *buffer, int first, int count, CommandId cid)
{
	PenstockEncoded encoded;

	penstock_builder_encode(buffer->builder, first, count, &encoded);
	penstock_directory_insert(rel, &encoded, count, cid, 0, GetCurrentTimestamp());
	wrote_chunks = true;
}

/* Where to encode so many rows: large chunks share a context that keeps its memory. */
static MemoryContext
flush_context(int nrows)
{
	if (nrows < KEEP_MEMORY_ROWS)
		return AllocSetContextCreate(CurrentMemoryContext, "penstock flush", ALLOCSET_DEFAULT_SIZES);
	if (kept_context == NULL)
		kept_context = penstock_chunk_context(TopTransactionContext);
	return kept_context;
}

/* Writes the buffer's rows, those that running queries tell apart as chunks of their own. */
static void
write_runs(Relation rel, WriteBuffer *buffer)
{
	MemoryContext context = flush_context(penstock_builder_rows(buffer->builder));
	MemoryContext caller = MemoryContextSwitchTo(context);
	CommandId	live[MAX_LIVE_COMMANDS];
	int			nlive = penstock_live_commands(live, MAX_LIVE_COMMANDS);
	int			first = 0;
	int			run = 0;

	while (run < buffer->nruns)
	{
		CommandId	youngest = buffer->runs[run].cid;
		int			class = command_class(youngest, live, nlive);
		int			count = 0;

		while (run < buffer->nruns &&
			   (nlive < 0 ? buffer->runs[run].cid == youngest :
				command_class(buffer->runs[run].cid, live, nlive) == class))
		{
			count += buffer->runs[run].nrows;
			youngest = Max(youngest, buffer->runs[run].cid);
			run++;
		}
		if (count > 0)
			write_chunk(rel, buffer, first, count, youngest);
		first += count;
		MemoryContextReset(context);
	}

	MemoryContextSwitchTo(caller);
	if (context != kept_context)
		MemoryContextDelete(context);
}

/*
 * Writes the buffer out, in the current subtransaction.  If that is not the one that inserted the rows,
 * they stay in the buffer until it has ended.
 */
static void
flush_buffer(WriteBuffer *buffer)
{
	SubTransactionId subid = GetCurrentSubTransactionId();
	Relation	rel;

	if (buffer->written_in != InvalidSubTransactionId || buffer->nruns == 0)
		return;

	/* a stream that this transaction has dropped takes its rows with it */
	rel = try_relation_open(buffer->key.relid, RowExclusiveLock);
	if (rel)
	{
		write_runs(rel, buffer);
		relation_close(rel, NoLock);
	}

	if (buffer->key.subid == subid)
	{
		penstock_builder_reset(buffer->builder);
		buffer->nruns = 0;
		note_size(buffer);
	}
	else
		buffer->written_in = subid;
}

void
penstock_stream_flush(Oid relid)
{
	List	   *list = list_buffers(relid);
	ListCell   *lc;

	foreach(lc, list)
		flush_buffer(lfirst(lc));
	list_free(list);
}

static bool
holds_rows_for(WriteBuffer *buffer, Snapshot snapshot)
{
	if (!IsMVCCSnapshot(snapshot))
		return buffer->nruns > 0;
	for (int i = 0; i < buffer->nruns; i++)
		if (buffer->runs[i].cid < snapshot->curcid)
			return true;
	return false;
}

void
penstock_write_flush_for(Oid relid, Snapshot snapshot)
{
	List	   *list = list_buffers(relid);
	ListCell   *lc;

	foreach(lc, list)
		if (holds_rows_for(lfirst(lc), snapshot))
			flush_buffer(lfirst(lc));
	list_free(list);
}

/*
 * penstock_write_forget: the file is being replaced (TRUNCATE).  Rows that this subtransaction inserted are
 * gone; rows of its parents are, unless it is rolled back.
 */
void
penstock_write_forget(Oid relid)
{
	SubTransactionId subid = GetCurrentSubTransactionId();
	List	   *list = list_buffers(relid);
	ListCell   *lc;

	foreach(lc, list)
	{
		WriteBuffer *buffer = lfirst(lc);

		if (buffer->key.subid == subid)
			drop_buffer(buffer);
		else if (buffer->written_in == InvalidSubTransactionId)
			buffer->written_in = subid;
	}
	list_free(list);
}

/* ---- end of transactions ---- */

/* Before commit and prepare; the current subtransaction is the top one. */
static void
flush_all(void)
{
	/* what writes a relation with a TOAST table must hold a snapshot */
	PushActiveSnapshot(GetTransactionSnapshot());
	penstock_stream_flush(InvalidOid);
	PopActiveSnapshot();
}

static void
forget_all(void)
{
	buffers = NULL;				/* the memory goes with TopTransactionContext */
	latest = NULL;
	kept_context = NULL;
	buffered_size = 0;
	wrote_chunks = false;
}

static void
transaction_callback(XactEvent event, void *arg)
{
	switch (event)
	{
		case XACT_EVENT_PRE_COMMIT:
		case XACT_EVENT_PRE_PREPARE:
			if (buffers)
				flush_all();
			break;
		case XACT_EVENT_COMMIT:
			if (wrote_chunks)
				penstock_tail_wake(MyDatabaseId);
			forget_all();
			break;
		case XACT_EVENT_ABORT:
		case XACT_EVENT_PREPARE:
			forget_all();
			break;
		default:
			break;
	}
}

/* The child commits: what it buffered and what it wrote for others becomes the parent's. */
static void
hand_over(SubTransactionId child, SubTransactionId parent)
{
	List	   *list = list_buffers(InvalidOid);
	ListCell   *lc;

	foreach(lc, list)
	{
		WriteBuffer *buffer = lfirst(lc);

		if (buffer->written_in != child)
			continue;
		if (buffer->key.subid == parent)
			drop_buffer(buffer);
		else
			buffer->written_in = parent;
		list = foreach_delete_current(list, lc);
	}
	foreach(lc, list)
	{
		WriteBuffer *buffer = lfirst(lc);

		if (buffer->key.subid != child)
			continue;
		hash_search(buffers, &buffer->key, HASH_REMOVE, NULL);
		buffer->key.subid = parent;
		enter_buffer(buffer);
	}
	list_free(list);
}

/* Before the child commits: where the parent has a buffer too, the child's is written out. */
static void
flush_child(SubTransactionId child, SubTransactionId parent)
{
	List	   *list = list_buffers(InvalidOid);
	ListCell   *lc;

	foreach(lc, list)
	{
		WriteBuffer *buffer = lfirst(lc);
		WriteBuffer *above;

		if (buffer->key.subid != child)
			continue;
		above = find_buffer(buffer->key.relid, parent);
		if (buffer->nruns == 0 || (above && above->written_in != child))
		{
			PushActiveSnapshot(GetTransactionSnapshot());
			flush_buffer(buffer);
			PopActiveSnapshot();
			drop_buffer(buffer);
		}
	}
	list_free(list);
}

static void
roll_back(SubTransactionId child)
{
	List	   *list = list_buffers(InvalidOid);
	ListCell   *lc;

	foreach(lc, list)
	{
		WriteBuffer *buffer = lfirst(lc);

		if (buffer->key.subid == child)
			drop_buffer(buffer);
		else if (buffer->written_in == child)
			buffer->written_in = InvalidSubTransactionId;
	}
	list_free(list);
}

static void
subtransaction_callback(SubXactEvent event, SubTransactionId child, SubTransactionId parent,
						void *arg)
{
	if (buffers == NULL)
		return;

	switch (event)
	{
		case SUBXACT_EVENT_PRE_COMMIT_SUB:
			flush_child(child, parent);
			break;
		case SUBXACT_EVENT_COMMIT_SUB:
			hand_over(child, parent);
			break;
		case SUBXACT_EVENT_ABORT_SUB:
			roll_back(child);
			break;
		default:
			break;
	}
}

void
penstock_write_init(void)
{
	RegisterXactCallback(transaction_callback, NULL);
	RegisterSubXactCallback(subtransaction_callback, NULL);
}
