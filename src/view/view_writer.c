/*
 * view_writer.c
 *	  Writes rows of a view or state table, indexes included.
 *
 * The tables belong to Penstock: there are no triggers, constraints or rules to obey, and only one
 * writer at a time.  Inserts are hidden from logical decoding, where a view has no business.
 */
#include "postgres.h"

#include "access/heapam.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "executor/executor.h"
#include "utils/rel.h"

#include "compat/compat.h"
#include "view/view_writer.h"

/*
 * penstock_writer_open opens relid, which is locked already, for writing; in the current memory context.
 */
PenstockWriter *
penstock_writer_open(Oid relid)
{
	PenstockWriter *writer = palloc0(sizeof(PenstockWriter));

	writer->rel = table_open(relid, NoLock);
	writer->estate = CreateExecutorState();
	writer->result = makeNode(ResultRelInfo);
	InitResultRelInfo(writer->result, writer->rel, 0, NULL, 0);
	ExecOpenIndices(writer->result, false);
	writer->slot = MakeSingleTupleTableSlot(RelationGetDescr(writer->rel), &TTSOpsVirtual);
	return writer;
}

static void
insert_index_entries(PenstockWriter *writer, TupleTableSlot *slot, PenstockIndexWork which)
{
	if (writer->result->ri_NumIndices > 0)
	{
		penstock_insert_index_tuples(writer->result, slot, writer->estate, which);
		ResetPerTupleExprContext(writer->estate);
	}
}

/*
 * penstock_writer_insert inserts the row in writer->slot and gives its address in *tid.
 */
void
penstock_writer_insert(PenstockWriter *writer, ItemPointer tid)
{
	table_tuple_insert(writer->rel, writer->slot, GetCurrentCommandId(true),
					   HEAP_INSERT_NO_LOGICAL, writer->bulk);
	insert_index_entries(writer, writer->slot, PENSTOCK_INDEXES_INSERT);
	*tid = writer->slot->tts_tid;
}

/*
 * penstock_writer_collect inserts a copy of row, sooner or later: penstock_writer_flush at the latest.
 */
void
penstock_writer_collect(PenstockWriter *writer, TupleTableSlot *row)
{
	if (writer->batch[writer->nbatch] == NULL)
		writer->batch[writer->nbatch] = table_slot_create(writer->rel, NULL);
	if (writer->bulk == NULL)
		writer->bulk = GetBulkInsertState();
	ExecCopySlot(writer->batch[writer->nbatch++], row);
	if (writer->nbatch == WRITER_BATCH)
		penstock_writer_flush(writer);
}

void
penstock_writer_flush(PenstockWriter *writer)
{
	MemoryContext old;

	if (writer->nbatch == 0)
		return;
	old = MemoryContextSwitchTo(GetPerTupleMemoryContext(writer->estate));
	/* the server's multi-insert has no HEAP_INSERT_NO_LOGICAL */
	table_multi_insert(writer->rel, writer->batch, writer->nbatch, GetCurrentCommandId(true),
					   0, writer->bulk);
	MemoryContextSwitchTo(old);
	for (int i = 0; i < writer->nbatch; i++)
	{
		insert_index_entries(writer, writer->batch[i], PENSTOCK_INDEXES_INSERT);
		ExecClearTuple(writer->batch[i]);
	}
	ResetPerTupleExprContext(writer->estate);
	writer->nbatch = 0;
}

/*
 * penstock_writer_update replaces the row at *tid by the one in writer->slot and gives the new address.
 */
void
penstock_writer_update(PenstockWriter *writer, ItemPointer tid)
{
	PenstockIndexWork which = penstock_table_update(writer->rel, tid, writer->slot);

	if (which != PENSTOCK_INDEXES_NONE)
		insert_index_entries(writer, writer->slot, which);
	*tid = writer->slot->tts_tid;
}

void
penstock_writer_delete(PenstockWriter *writer, ItemPointer tid)
{
	simple_heap_delete(writer->rel, tid);
}

void
penstock_writer_close(PenstockWriter *writer)
{
	penstock_writer_flush(writer);
	for (int i = 0; i < WRITER_BATCH && writer->batch[i] != NULL; i++)
		ExecDropSingleTupleTableSlot(writer->batch[i]);
	if (writer->bulk != NULL)
		FreeBulkInsertState(writer->bulk);
	ExecDropSingleTupleTableSlot(writer->slot);
	ExecCloseIndices(writer->result);
	FreeExecutorState(writer->estate);
	table_close(writer->rel, NoLock);
	pfree(writer);
}
