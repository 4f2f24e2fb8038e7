/*
 * view_writer.h
 *	  Writes rows of a view or state table, indexes included.
 */
#ifndef PENSTOCK_VIEW_WRITER_H
#define PENSTOCK_VIEW_WRITER_H

#include "nodes/execnodes.h"

/* rows that are collected before they are inserted together */
#define WRITER_BATCH 256

typedef struct PenstockWriter
{
	Relation	rel;
	EState	   *estate;
	ResultRelInfo *result;
	TupleTableSlot *slot;		/* virtual: the row to insert or to update to */
	struct BulkInsertStateData *bulk;
	TupleTableSlot *batch[WRITER_BATCH];
	int			nbatch;
} PenstockWriter;

extern PenstockWriter *penstock_writer_open(Oid relid);
extern void penstock_writer_insert(PenstockWriter *writer, ItemPointer tid);
extern void penstock_writer_collect(PenstockWriter *writer, TupleTableSlot *row);
extern void penstock_writer_flush(PenstockWriter *writer);
extern void penstock_writer_update(PenstockWriter *writer, ItemPointer tid);
extern void penstock_writer_delete(PenstockWriter *writer, ItemPointer tid);
extern void penstock_writer_close(PenstockWriter *writer);

#endif							/* PENSTOCK_VIEW_WRITER_H */
