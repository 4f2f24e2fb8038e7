/*
 * stream_rows.c
 *	  A delta's events as rows in memory: when a batch has to be divided.
 */
#include "postgres.h"

#include "utils/datum.h"
#include "utils/rel.h"

#include "stream/stream_internal.h"
#include "util/given_rows.h"

/*
 * penstock_delta_rows appends every event of the delta to *rows (*n of *room), copied into the current context.  The caller
 * has the stream locked and a snapshot that sees the delta.
 */
void
penstock_delta_rows(const PenstockDelta *delta, Relation rel, Snapshot snapshot,
					PenstockGivenRow **rows, int *n, int *room)
{
	PenstockReader *reader = penstock_reader_create(rel, NULL);
	TupleDesc	desc = RelationGetDescr(rel);

	for (int c = 0; c < delta->nchunks; c++)
	{
		ItemPointerData tid = delta->chunks[c].tid;
		HeapTuple	tuple = penstock_directory_fetch(rel, &tid, snapshot);

		if (tuple == NULL)
			ereport(ERROR,
					(errcode(ERRCODE_DATA_CORRUPTED),
					 errmsg("%s is missing", penstock_chunk_where(rel, &tid))));
		penstock_reader_open(reader, tuple);
		penstock_reader_decode(reader);
		for (int r = 0; r < reader->info.nrows; r++)
		{
			PenstockGivenRow *row;

			if (*n == *room)
			{
				*room = Max(1024, *room * 2);
				*rows = *rows ? repalloc_huge(*rows, *room * sizeof(PenstockGivenRow)) :
					palloc(*room * sizeof(PenstockGivenRow));
			}
			row = &(*rows)[(*n)++];
			row->left_out = false;
			row->values = palloc0(desc->natts * sizeof(Datum));
			row->isnull = palloc(desc->natts * sizeof(bool));
			memset(row->isnull, true, desc->natts * sizeof(bool));
			for (int i = 0; i < reader->ncolumns; i++)
			{
				PenstockVector *vector = &reader->vectors[i];
				int			att = reader->columns[i] - 1;
				Form_pg_attribute form = TupleDescAttr(desc, att);

				if (vector->isnull && vector->isnull[r])
					continue;
				row->isnull[att] = false;
				row->values[att] = datumCopy(vector->values[r], form->attbyval, form->attlen);
			}
		}
		heap_freetuple(tuple);
	}
	penstock_reader_free(reader);
}
