/*
 * stream_rewrite.c
 *	  New files for streams: VACUUM FULL, and tables that become streams.
 */
#include "postgres.h"

#include "access/heapam.h"
#include "access/rewriteheap.h"
#include "access/toast_internals.h"
#include "catalog/toasting.h"
#include "executor/tuptable.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "stream/stream_internal.h"

/* A heap of short columns has no TOAST table, nor has the new file it is rewritten into. */
void
penstock_ensure_toast(Relation rel)
{
	if (!OidIsValid(rel->rd_rel->reltoastrelid))
		NewRelationCreateToastTable(RelationGetRelid(rel), (Datum) 0);
}

PenstockRewriteCheck penstock_rewrite_check;

/* What happens to a chunk in VACUUM FULL. */
typedef struct RewriteScan
{
	Relation	new_table;
	RewriteState rewrite;
	PenstockReader *reader;
	MemoryContext context;		/* of the chunk; reset with the next */
	TransactionId oldest_xmin;
	double		rows;
	double		rows_vacuumed;
	double		rows_recently_dead;
} RewriteScan;

/* Copies a chunk; its body keeps its id, so its head stays as it is. */
static void
copy_chunk(RewriteScan *scan, HeapTuple tuple)
{
	MemoryContext caller = MemoryContextSwitchTo(scan->context);
	struct varlena *body;

	penstock_reader_open(scan->reader, tuple);
	body = penstock_reader_body(scan->reader);
	if (body)
	{
		Datum		old = penstock_body_pointer(scan->reader->rel->rd_rel->reltoastrelid,
												&scan->reader->info);

		(void) toast_save_datum(scan->new_table, PointerGetDatum(body),
								(struct varlena *) DatumGetPointer(old),
								HEAP_INSERT_SKIP_FSM | HEAP_INSERT_NO_LOGICAL);
	}
	rewrite_heap_tuple(scan->rewrite, tuple, heap_copytuple(tuple));
	scan->rows += scan->reader->info.nrows;
	penstock_reader_close(scan->reader);

	MemoryContextSwitchTo(caller);
	MemoryContextReset(scan->context);
}

static void
rewrite_chunk(RewriteScan *scan, HeapTuple tuple, Buffer buffer)
{
	PenstockChunkInfo info;
	HTSV_Result status;

	LockBuffer(buffer, BUFFER_LOCK_SHARE);
	status = HeapTupleSatisfiesVacuum(tuple, scan->oldest_xmin, buffer);
	LockBuffer(buffer, BUFFER_LOCK_UNLOCK);
	penstock_tuple_info(scan->reader->rel, tuple, &info);

	if (status == HEAPTUPLE_DEAD)
	{
		scan->rows_vacuumed += info.nrows;
		rewrite_heap_dead_tuple(scan->rewrite, tuple);
		return;
	}
	if (status == HEAPTUPLE_RECENTLY_DEAD)
		scan->rows_recently_dead += info.nrows;
	copy_chunk(scan, tuple);
}

/*
 * penstock_copy_for_cluster copies every chunk that some transaction may still see, with its visibility, in
 * the order of the old file.
 */
void
penstock_copy_for_cluster(Relation old_table, Relation new_table, Relation old_index, bool use_sort,
						  TransactionId oldest_xmin, TransactionId *xid_cutoff,
						  MultiXactId *multi_cutoff, double *num_tuples, double *tups_vacuumed,
						  double *tups_recently_dead)
{
	RewriteScan scan = {0};
	TableScanDesc heap;
	TupleTableSlot *slot;

	if (penstock_rewrite_check)
		penstock_rewrite_check(RelationGetRelid(old_table));

	scan.new_table = new_table;
	scan.oldest_xmin = oldest_xmin;
	scan.reader = penstock_reader_create(old_table, NULL);
	scan.context = AllocSetContextCreate(CurrentMemoryContext, "penstock rewrite",
										 ALLOCSET_DEFAULT_SIZES);
	scan.rewrite = begin_heap_rewrite(old_table, new_table, oldest_xmin, *xid_cutoff, *multi_cutoff);

	heap = heap_beginscan(old_table, SnapshotAny, 0, NULL, NULL, SO_TYPE_SEQSCAN);
	slot = MakeSingleTupleTableSlot(RelationGetDescr(old_table), &TTSOpsBufferHeapTuple);
	while (heap_getnextslot(heap, ForwardScanDirection, slot))
	{
		BufferHeapTupleTableSlot *bslot = (BufferHeapTupleTableSlot *) slot;

		CHECK_FOR_INTERRUPTS();
		rewrite_chunk(&scan, bslot->base.tuple, bslot->buffer);
	}
	ExecDropSingleTupleTableSlot(slot);
	heap_endscan(heap);

	end_heap_rewrite(scan.rewrite);
	penstock_reader_free(scan.reader);
	MemoryContextDelete(scan.context);
	*num_tuples = scan.rows;
	*tups_vacuumed = scan.rows_vacuumed;
	*tups_recently_dead = scan.rows_recently_dead;
}
