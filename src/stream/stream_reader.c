/*
 * stream_reader.c
 *	  From a directory tuple to rows: fetches and decodes the columns that are wanted.
 */
#include "postgres.h"

#include "access/table.h"
#include "access/tableam.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "stream/stream_internal.h"

/* ctid of an event: 9 bits of line pointer below 23 bits of block, as block number */
#define TID_OFFSET_BITS		9
#define TID_OFFSET_MASK		((1 << TID_OFFSET_BITS) - 1)
#define TID_MAX_BLOCK		((((BlockNumber) 1) << (32 - TID_OFFSET_BITS)) - 1)

PenstockReader *
penstock_reader_create(Relation rel, const Bitmapset *columns)
{
	return penstock_reader_create_as(rel, RelationGetDescr(rel), columns);
}

PenstockReader *
penstock_reader_create_as(Relation rel, TupleDesc desc, const Bitmapset *columns)
{
	PenstockReader *reader = palloc0(sizeof(PenstockReader));

	reader->rel = rel;
	reader->desc = desc;
	reader->context = penstock_chunk_context(CurrentMemoryContext);
	reader->columns = palloc(sizeof(AttrNumber) * (desc->natts + 1));
	for (int attno = 1; attno <= desc->natts; attno++)
		if (!TupleDescAttr(desc, attno - 1)->attisdropped &&
			(columns == NULL || bms_is_member(attno, columns)))
			reader->columns[reader->ncolumns++] = attno;
	reader->vectors = palloc0(sizeof(PenstockVector) * (reader->ncolumns + 1));
	return reader;
}

/* Fetches a part of the open chunk's body (PenstockFetchBody). */
static const char *
fetch_body(void *arg, uint32 offset, uint32 length)
{
	PenstockReader *reader = arg;
	struct varlena *result;

	if ((uint64) offset + length > reader->info.body_len ||
		!OidIsValid(reader->rel->rd_rel->reltoastrelid))
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("%s is damaged", penstock_chunk_where(reader->rel, &reader->tid)),
				 errdetail("A column lies outside of the chunk's body.")));

	if (reader->toastrel == NULL)
		reader->toastrel = table_open(reader->rel->rd_rel->reltoastrelid, AccessShareLock);

	result = palloc((Size) length + VARHDRSZ);
	SET_VARSIZE(result, length + VARHDRSZ);
	if (length > 0)
		table_relation_fetch_toast_slice(reader->toastrel, reader->info.body_valueid,
										 reader->info.body_len, offset, length, result);
	return VARDATA(result);
}

struct varlena *
penstock_reader_body(PenstockReader *reader)
{
	if (!OidIsValid(reader->info.body_valueid))
		return NULL;
	return (struct varlena *) (fetch_body(reader, 0, reader->info.body_len) - VARHDRSZ);
}

void
penstock_reader_close(PenstockReader *reader)
{
	reader->chunk = NULL;
	MemoryContextReset(reader->context);
}

void
penstock_reader_open(PenstockReader *reader, HeapTuple tuple)
{
	MemoryContext caller;
	char	   *where;
	char	   *head;
	char	   *copy;
	int			head_len;

	penstock_reader_close(reader);
	caller = MemoryContextSwitchTo(reader->context);

	reader->tid = tuple->t_self;
	where = penstock_chunk_where(reader->rel, &reader->tid);
	head = penstock_tuple_head(reader->rel, tuple, &head_len);
	copy = palloc(head_len);
	memcpy(copy, head, head_len);
	penstock_chunk_info(copy, head_len, where, &reader->info);
	reader->chunk = penstock_chunk_open(copy, head_len, reader->desc, where, fetch_body, reader);

	MemoryContextSwitchTo(caller);
}

void
penstock_reader_decode_some(PenstockReader *reader, int from, int to)
{
	MemoryContext caller = MemoryContextSwitchTo(reader->context);

	for (int i = from; i < to; i++)
		penstock_chunk_column(reader->chunk, reader->columns[i], false, &reader->vectors[i]);
	MemoryContextSwitchTo(caller);
}

void
penstock_reader_decode(PenstockReader *reader)
{
	penstock_reader_decode_some(reader, 0, reader->ncolumns);
}

void
penstock_reader_free(PenstockReader *reader)
{
	if (reader->toastrel)
		table_close(reader->toastrel, AccessShareLock);
	MemoryContextDelete(reader->context);
	pfree(reader->columns);
	pfree(reader->vectors);
	pfree(reader);
}

void
penstock_reader_store(PenstockReader *reader, int row, TupleTableSlot *slot)
{
	ExecClearTuple(slot);
	memset(slot->tts_isnull, true, slot->tts_tupleDescriptor->natts);

	for (int i = 0; i < reader->ncolumns; i++)
	{
		PenstockVector *vector = &reader->vectors[i];
		int			att = reader->columns[i] - 1;

		if (vector->isnull && vector->isnull[row])
			continue;
		slot->tts_isnull[att] = false;
		slot->tts_values[att] = vector->values[row];
	}

	ExecStoreVirtualTuple(slot);
	slot->tts_tableOid = RelationGetRelid(reader->rel);
	penstock_event_tid(&reader->tid, row, &slot->tts_tid);
}

void
penstock_event_tid(ItemPointer chunk, int row, ItemPointer result)
{
	BlockNumber block = ItemPointerGetBlockNumberNoCheck(chunk);

	if (block > TID_MAX_BLOCK)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("the stream's directory is too large"),
				 errdetail("A stream's directory has at most %u blocks.", TID_MAX_BLOCK + 1)));

	ItemPointerSet(result,
				   (block << TID_OFFSET_BITS) | ItemPointerGetOffsetNumberNoCheck(chunk),
				   row + 1);
}

/* penstock_event_tid_split is false for what cannot be an event's ctid. */
bool
penstock_event_tid_split(ItemPointer tid, ItemPointer chunk, int *row)
{
	BlockNumber block = ItemPointerGetBlockNumberNoCheck(tid);
	OffsetNumber offset = block & TID_OFFSET_MASK;

	*row = ItemPointerGetOffsetNumberNoCheck(tid) - 1;
	if (*row < 0 || *row >= PENSTOCK_CHUNK_MAX_ROWS || offset == InvalidOffsetNumber ||
		offset > MaxOffsetNumber)
		return false;
	ItemPointerSet(chunk, block >> TID_OFFSET_BITS, offset);
	return true;
}
