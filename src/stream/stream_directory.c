/*
 * stream_directory.c
 *	  The directory of a stream: one heap tuple without attributes for each chunk.
 *
 * The tuple's user data is the chunk's head.  The body, if there is one, is a TOAST value of the
 * stream's own TOAST table; the head knows its id and size.  Tuples are written and deleted with
 * the heap's own routines, so their visibility, WAL, vacuum and freezing are the heap's.
 */
#include "postgres.h"

#include "access/detoast.h"
#include "access/heaptoast.h"
#include "access/toast_internals.h"
#include "access/xact.h"
#include "catalog/pg_class.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "miscadmin.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "stream/stream_internal.h"
#include "stream/tail.h"
#include "util/stop_point.h"

struct PenstockDirectoryScan
{
	Relation	rel;
	TableScanDesc heap;			/* NULL: nothing to read */
	TupleTableSlot *slot;
	bool		skipping;		/* chunks at or below "after" are left out */
	ItemPointerData after;
};

char *
penstock_chunk_where(Relation rel, ItemPointer tid)
{
	return psprintf("stream \"%s\", chunk (%u,%u)", RelationGetRelationName(rel),
					ItemPointerGetBlockNumberNoCheck(tid),
					ItemPointerGetOffsetNumberNoCheck(tid));
}

/*
 * penstock_tuple_head gives the chunk head inside a directory tuple.  Raises
 * ERRCODE_DATA_CORRUPTED if the tuple cannot be one.
 */
char *
penstock_tuple_head(Relation rel, HeapTuple tuple, int *head_len)
{
	HeapTupleHeader header = tuple->t_data;

	if (HeapTupleHeaderGetNatts(header) != 0 || header->t_hoff > tuple->t_len)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("%s is damaged", penstock_chunk_where(rel, &tuple->t_self)),
				 errdetail("Its directory entry is not one that a stream writes.")));

	*head_len = tuple->t_len - header->t_hoff;
	return (char *) header + header->t_hoff;
}

void
penstock_tuple_info(Relation rel, HeapTuple tuple, PenstockChunkInfo *info)
{
	char		where[NAMEDATALEN + 64];
	int			head_len;
	char	   *head = penstock_tuple_head(rel, tuple, &head_len);

	snprintf(where, sizeof(where), "stream \"%s\", chunk (%u,%u)", RelationGetRelationName(rel),
			 ItemPointerGetBlockNumberNoCheck(&tuple->t_self),
			 ItemPointerGetOffsetNumberNoCheck(&tuple->t_self));
	penstock_chunk_info(head, head_len, where, info);
}

/* A tuple without attributes whose user data is head. */
static HeapTuple
form_tuple(Relation rel, const char *head, int head_len)
{
	int			hoff = MAXALIGN(SizeofHeapTupleHeader);
	HeapTuple	tuple = palloc0(HEAPTUPLESIZE + hoff + head_len);

	tuple->t_len = hoff + head_len;
	tuple->t_tableOid = RelationGetRelid(rel);
	ItemPointerSetInvalid(&tuple->t_self);
	tuple->t_data = (HeapTupleHeader) ((char *) tuple + HEAPTUPLESIZE);
	tuple->t_data->t_hoff = hoff;
	HeapTupleHeaderSetNatts(tuple->t_data, 0);
	memcpy((char *) tuple->t_data + hoff, head, head_len);
	return tuple;
}

/*
 * penstock_directory_insert writes a chunk that a builder encoded: body first, then its directory
 * entry, which is published to the engine.  Rows become visible to commands after cid.
 */
void
penstock_directory_insert(Relation rel, PenstockEncoded *encoded, int nrows, CommandId cid,
						  int flags, TimestampTz written_at)
{
	FullTransactionId xid = GetTopFullTransactionId();
	Oid			valueid = InvalidOid;
	HeapTuple	tuple;

	if (encoded->body)
	{
		struct varlena *external;
		struct varatt_external pointer;

		external = (struct varlena *)
			DatumGetPointer(toast_save_datum(rel, PointerGetDatum(encoded->body), NULL,
											 HEAP_INSERT_NO_LOGICAL));
		VARATT_EXTERNAL_GET_POINTER(pointer, external);
		valueid = pointer.va_valueid;
		pfree(external);
	}
	penstock_head_stamp(encoded->head, xid, written_at, valueid, flags);

	tuple = form_tuple(rel, encoded->head, encoded->head_len);
	heap_insert(rel, tuple, cid, HEAP_INSERT_NO_LOGICAL, NULL);
	penstock_count_inserted(rel, nrows);

	PENSTOCK_STOP_POINT(stream_after_flush);
	if (!RelationUsesLocalBuffers(rel) && (flags & PENSTOCK_CHUNK_MERGED) == 0)
		penstock_tail_publish(RelationGetRelid(rel), xid, &tuple->t_self, nrows);
	PENSTOCK_STOP_POINT(stream_after_publish);
	heap_freetuple(tuple);
}

Datum
penstock_body_pointer(Oid toastrelid, const PenstockChunkInfo *info)
{
	struct varatt_external pointer;
	struct varlena *result = palloc(TOAST_POINTER_SIZE);

	pointer.va_rawsize = info->body_len + VARHDRSZ;
	pointer.va_extinfo = info->body_len;
	pointer.va_valueid = info->body_valueid;
	pointer.va_toastrelid = toastrelid;
	SET_VARTAG_EXTERNAL(result, VARTAG_ONDISK);
	memcpy(VARDATA_EXTERNAL(result), &pointer, sizeof(pointer));
	return PointerGetDatum(result);
}

/*
 * penstock_directory_delete deletes a chunk, body and all.  The caller holds a lock that keeps
 * others from deleting it, and has counted nothing yet.
 */
void
penstock_directory_delete(Relation rel, HeapTuple tuple, const PenstockChunkInfo *info)
{
	ItemPointerData tid = tuple->t_self;
	char		identity = rel->rd_rel->relreplident;

	if (OidIsValid(info->body_valueid))
		toast_delete_datum(rel, penstock_body_pointer(rel->rd_rel->reltoastrelid, info), false);

	/* with REPLICA IDENTITY FULL the server would read the entry with the user's row type */
	rel->rd_rel->relreplident = REPLICA_IDENTITY_NOTHING;
	PG_TRY();
	{
		simple_heap_delete(rel, &tid);
	}
	PG_FINALLY();
	{
		rel->rd_rel->relreplident = identity;
	}
	PG_END_TRY();
	penstock_count_deleted(rel, info->nrows);
}

/* ---- scans ---- */

PenstockDirectoryScan *
penstock_directory_begin(Relation rel, Snapshot snapshot, ItemPointer after)
{
	PenstockDirectoryScan *scan = palloc0(sizeof(PenstockDirectoryScan));
	uint32		flags = SO_TYPE_SEQSCAN | SO_ALLOW_STRAT;

	if (IsMVCCSnapshot(snapshot))
		flags |= SO_ALLOW_PAGEMODE;

	scan->rel = rel;
	scan->slot = MakeSingleTupleTableSlot(RelationGetDescr(rel), &TTSOpsBufferHeapTuple);
	scan->heap = heap_beginscan(rel, snapshot, 0, NULL, NULL, flags);

	if (after && ItemPointerIsValid(after))
	{
		BlockNumber nblocks = RelationGetNumberOfBlocks(rel);
		BlockNumber start = ItemPointerGetBlockNumber(after);

		scan->skipping = true;
		scan->after = *after;
		if (start < nblocks)
			heap_setscanlimits(scan->heap, start, nblocks - start);
		else
		{
			heap_endscan(scan->heap);
			scan->heap = NULL;
		}
	}
	return scan;
}

HeapTuple
penstock_directory_next_tuple(PenstockDirectoryScan *scan)
{
	while (scan->heap && heap_getnextslot(scan->heap, ForwardScanDirection, scan->slot))
	{
		HeapTuple	tuple = ((BufferHeapTupleTableSlot *) scan->slot)->base.tuple;

		CHECK_FOR_INTERRUPTS();
		if (scan->skipping)
		{
			if (ItemPointerCompare(&tuple->t_self, &scan->after) <= 0)
				continue;
			scan->skipping = false;
		}
		return tuple;
	}
	return NULL;
}

bool
penstock_directory_next(PenstockDirectoryScan *scan, PenstockDirectoryEntry *entry)
{
	HeapTuple	tuple = penstock_directory_next_tuple(scan);

	if (tuple == NULL)
		return false;
	entry->tid = tuple->t_self;
	penstock_tuple_info(scan->rel, tuple, &entry->info);
	return true;
}

void
penstock_directory_end(PenstockDirectoryScan *scan)
{
	ExecDropSingleTupleTableSlot(scan->slot);
	if (scan->heap)
		heap_endscan(scan->heap);
	pfree(scan);
}

HeapTuple
penstock_directory_fetch(Relation rel, ItemPointer tid, Snapshot snapshot)
{
	HeapTupleData tuple;
	Buffer		buffer;
	HeapTuple	result = NULL;

	if (!ItemPointerIsValid(tid) ||
		ItemPointerGetBlockNumber(tid) >= RelationGetNumberOfBlocks(rel))
		return NULL;

	tuple.t_self = *tid;
	if (heap_fetch(rel, snapshot, &tuple, &buffer, false))
	{
		result = heap_copytuple(&tuple);
		ReleaseBuffer(buffer);
	}
	return result;
}

bool
penstock_directory_get(Relation rel, ItemPointer tid, Snapshot snapshot,
					   PenstockDirectoryEntry *entry)
{
	HeapTuple	tuple = penstock_directory_fetch(rel, tid, snapshot);

	if (tuple == NULL)
		return false;
	entry->tid = tuple->t_self;
	penstock_tuple_info(rel, tuple, &entry->info);
	heap_freetuple(tuple);
	return true;
}
