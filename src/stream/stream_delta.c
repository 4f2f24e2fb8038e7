/*
 * stream_delta.c
 *	  What scans of streams read: everything, a batch's delta, or what a fill may see.
 *
 * The setting belongs to this process and is in force only around a plan of the engine's or of a
 * fill; a scan takes it over when it begins.  The end of the transaction clears it.
 */
#include "postgres.h"

#include "access/xact.h"
#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/xid8.h"

#include "stream/stream_internal.h"
#include "util/given_rows.h"

static struct
{
	PenstockScanMode mode;
	List	   *deltas;			/* of PenstockDelta *, the caller's */
	bool		some;			/* the mode is for the streams in consumed only */
	List	   *consumed;		/* OIDs, the caller's */
	Datum		position;		/* pg_snapshot, the caller's */
	double		assumed_rows;
	void		(*on_fill) (int nrows);
}			setting;

void
penstock_delta_set(List *deltas)
{
	setting.mode = PENSTOCK_SCAN_DELTA;
	setting.deltas = deltas;
	setting.some = false;
}

void
penstock_delta_set_for(List *consumed, List *deltas)
{
	penstock_delta_set(deltas);
	setting.some = true;
	setting.consumed = consumed;
}

void
penstock_delta_set_fill(Datum position)
{
	setting.mode = PENSTOCK_SCAN_FILL;
	setting.position = position;
}

void
penstock_delta_on_fill(void (*count) (int nrows))
{
	setting.on_fill = count;
}

void
penstock_delta_clear(void)
{
	setting.on_fill = NULL;
	setting.mode = PENSTOCK_SCAN_FULL;
	setting.deltas = NIL;
	setting.some = false;
}

void
penstock_delta_taken(void)
{
	setting.mode = PENSTOCK_SCAN_FULL;
}

void
penstock_delta_assume_rows(double rows)
{
	setting.assumed_rows = rows;
}

PenstockScanMode
penstock_delta_mode(void)
{
	return penstock_scope_is_open() ? setting.mode : PENSTOCK_SCAN_FULL;
}

double
penstock_delta_assumed_rows(void)
{
	return setting.assumed_rows;
}

static const PenstockDelta *
delta_of(Oid relid)
{
	ListCell   *lc;

	foreach(lc, setting.deltas)
	{
		PenstockDelta *delta = lfirst(lc);

		if (delta->relid == relid)
			return delta;
	}
	return NULL;
}

/* ---- the chunks of one scan ---- */

void
penstock_source_begin(PenstockChunkSource *source, Relation rel, Snapshot snapshot,
						PenstockScanMode mode)
{
	memset(source, 0, sizeof(*source));
	source->rel = rel;
	source->snapshot = snapshot;
	if (mode == PENSTOCK_SCAN_DELTA && setting.some &&
		!list_member_oid(setting.consumed, RelationGetRelid(rel)))
		mode = PENSTOCK_SCAN_FULL;
	source->mode = mode;
	if (mode == PENSTOCK_SCAN_DELTA)
		source->delta = delta_of(RelationGetRelid(rel));
	else if (mode == PENSTOCK_SCAN_FILL)
		source->position = setting.position;
}

static bool
position_sees(Datum position, FullTransactionId xid)
{
	return DatumGetBool(DirectFunctionCall2(pg_visible_in_snapshot,
											FullTransactionIdGetDatum(xid), position));
}

static HeapTuple
next_of_delta(PenstockChunkSource *source)
{
	ItemPointer tid;

	if (source->fetched)
		heap_freetuple(source->fetched);
	source->fetched = NULL;
	if (source->delta == NULL || source->next == source->delta->nchunks)
		return NULL;

	tid = &source->delta->chunks[source->next++].tid;
	source->fetched = penstock_directory_fetch(source->rel, tid, source->snapshot);
	if (source->fetched == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("%s is missing", penstock_chunk_where(source->rel, tid)),
				 errdetail("A batch lists it, but its snapshot does not see it.")));
	return source->fetched;
}

HeapTuple
penstock_source_next(PenstockChunkSource *source)
{
	HeapTuple	tuple;

	if (source->mode == PENSTOCK_SCAN_DELTA)
		return next_of_delta(source);

	if (source->directory == NULL)
		source->directory = penstock_directory_begin(source->rel, source->snapshot, NULL);
	while ((tuple = penstock_directory_next_tuple(source->directory)) != NULL)
	{
		PenstockChunkInfo info;

		if (source->mode == PENSTOCK_SCAN_FULL)
			break;
		penstock_tuple_info(source->rel, tuple, &info);
		if (position_sees(source->position, info.xid))
		{
			if (setting.on_fill)
				setting.on_fill(info.nrows);
			break;
		}
	}
	return tuple;
}

void
penstock_source_rewind(PenstockChunkSource *source)
{
	source->next = 0;
	if (source->directory)
		penstock_directory_end(source->directory);
	source->directory = NULL;
}

void
penstock_source_end(PenstockChunkSource *source)
{
	if (source->fetched)
		heap_freetuple(source->fetched);
	source->fetched = NULL;
	if (source->directory)
		penstock_directory_end(source->directory);
	source->directory = NULL;
}

static void
transaction_callback(XactEvent event, void *arg)
{
	if (event == XACT_EVENT_COMMIT || event == XACT_EVENT_ABORT || event == XACT_EVENT_PREPARE)
		memset(&setting, 0, sizeof(setting));
}

void
penstock_delta_init(void)
{
	RegisterXactCallback(transaction_callback, NULL);
}
