/*
 * stream_retention.c
 *	  Removes chunks past penstock.retention.
 *
 * A chunk goes as a whole, when its youngest event is past its time: by event time if the stream has
 * one, else by the time of writing.  VACUUM makes the space usable again.
 */
#include "postgres.h"

#include "access/table.h"
#include "catalog/pg_type.h"
#include "common/int.h"
#include "storage/lmgr.h"
#include "utils/date.h"
#include "utils/fmgrprotos.h"
#include "utils/lsyscache.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "utils/xid8.h"

#include "stream/stream_internal.h"

typedef struct Retention
{
	PenstockReader *reader;
	PenstockStreamOptions options;
	TimestampTz limit;			/* older goes */
	TimestampTz oldest;			/* of what stays, 0: nothing */
	bool		blocked;		/* something older stays for a position */
	Oid			event_type;		/* base type of the event time column */
	Datum	   *positions;
	int			npositions;
} Retention;

/*
 * penstock_seen_by_all: has every position seen the chunk?  A merged one holds only what all had seen.
 */
bool
penstock_seen_by_all(const PenstockChunkInfo *info, Datum *positions, int npositions)
{
	if (info->flags & PENSTOCK_CHUNK_MERGED)
		return true;
	for (int i = 0; i < npositions; i++)
		if (!DatumGetBool(DirectFunctionCall2(pg_visible_in_snapshot,
											  FullTransactionIdGetDatum(info->xid), positions[i])))
			return false;
	return true;
}

/* The youngest event's time, or that of writing where no event has one. */
static TimestampTz
youngest(Retention *retention)
{
	PenstockReader *reader = retention->reader;
	AttrNumber	attno = retention->options.event_attno;
	Datum		min;
	Datum		max;
	bool		has_nulls;

	if (attno == 0 || !penstock_chunk_minmax(reader->chunk, attno, &min, &max, &has_nulls))
		return reader->info.written_at;
	switch (retention->event_type)
	{
		case TIMESTAMPOID:
			return DatumGetTimestampTz(DirectFunctionCall1(timestamp_timestamptz, max));
		case DATEOID:
			/* a day is over when the next begins */
			if (DATE_NOT_FINITE(DatumGetDateADT(max)) || DatumGetDateADT(max) == DATEVAL_NOEND - 1)
				return DT_NOEND;
			return DatumGetTimestampTz(DirectFunctionCall1(date_timestamptz,
														   DateADTGetDatum(DatumGetDateADT(max) + 1)));
		default:
			return DatumGetTimestampTz(max);
	}
}

/* Removes the chunk if its time has come; returns whether it did. */
static bool
retain_chunk(Retention *retention, HeapTuple tuple, int64 *rows, int64 *lost)
{
	PenstockReader *reader = retention->reader;
	bool		removed = false;
	TimestampTz time;

	penstock_reader_open(reader, tuple);
	time = youngest(retention);
	if (time >= retention->limit)
	{
		if (retention->oldest == 0 || time < retention->oldest)
			retention->oldest = time;
	}
	else
	{
		bool		seen = penstock_seen_by_all(&reader->info, retention->positions,
												retention->npositions);

		if (seen || retention->options.retention_force)
		{
			penstock_directory_delete(reader->rel, tuple, &reader->info);
			*rows += reader->info.nrows;
			if (!seen)
				*lost += reader->info.nrows;
			removed = true;
		}
		else
			retention->blocked = true;
	}
	penstock_reader_close(reader);
	return removed;
}

int
penstock_stream_retain(Oid relid, Datum *positions, int npositions, int max_chunks,
					   int64 *rows, int64 *lost, TimestampTz *next_due, bool *blocked)
{
	Retention	retention = {0};
	Relation	rel;
	int			removed = 0;

	*rows = *lost = 0;
	*next_due = 0;
	*blocked = false;
	if (!ConditionalLockRelationOid(relid, ShareUpdateExclusiveLock))
		return 0;
	rel = try_table_open(relid, NoLock);
	if (rel == NULL)
		return 0;

	penstock_stream_options(rel, &retention.options);
	if (retention.options.retention > 0)
	{
		PenstockDirectoryScan *scan;
		HeapTuple	tuple;

		retention.reader = penstock_reader_create(rel, NULL);
		retention.limit = GetCurrentTimestamp() - retention.options.retention;
		retention.positions = positions;
		retention.npositions = npositions;
		if (retention.options.event_attno > 0)
			retention.event_type =
				getBaseType(TupleDescAttr(RelationGetDescr(rel),
										  retention.options.event_attno - 1)->atttypid);

		/* younger than the lock, so that nobody has deleted what it sees */
		PushActiveSnapshot(GetLatestSnapshot());
		scan = penstock_directory_begin(rel, GetActiveSnapshot(), NULL);
		while (removed < max_chunks && (tuple = penstock_directory_next_tuple(scan)) != NULL)
			if (retain_chunk(&retention, tuple, rows, lost))
				removed++;
		penstock_directory_end(scan);
		PopActiveSnapshot();
		penstock_reader_free(retention.reader);
		*blocked = retention.blocked;
		if (retention.oldest != 0 && !TIMESTAMP_NOT_FINITE(retention.oldest) &&
			!pg_add_s64_overflow(retention.oldest, retention.options.retention, next_due))
			*next_due = Max(*next_due, 1);
		else
			*next_due = 0;
	}
	table_close(rel, NoLock);
	return removed;
}
