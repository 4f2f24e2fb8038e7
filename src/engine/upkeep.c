/*
 * upkeep.c
 *	  Between batches: merging of small chunks, retention, producers that have expired.
 *
 * Small steps, each a transaction of its own, so that a batch never waits long.  An error here is
 * logged and the stream left alone for a while; batches go on.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/pg_class.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/lmgr.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "compat/compat.h"
#include "engine/internal.h"
#include "engine/shared.h"
#include "util/stop_point.h"

/* Chunks that one step of retention removes at most. */
#define RETAIN_CHUNKS 256
/* Limits (us) of the pause after retention has looked at a stream. */
#define SHORTEST_RETAIN_PAUSE (INT64CONST(500) * 1000)
#define LONGEST_RETAIN_PAUSE (INT64CONST(60) * USECS_PER_SEC)
/* How long (us) until it looks again whether a pipe has come on. */
#define BLOCKED_PAUSE (INT64CONST(1) * USECS_PER_SEC)
/* pg_class is not read more often than this (ms) */
#define STREAMS_PAUSE 1000
/* Pauses (ms) of a stream after an error */
#define FIRST_PAUSE 1000
#define LONGEST_PAUSE 600000

/* Positions of the stream's consumers: nothing that one of them needs may go. */
static Datum *
all_positions(Engine *engine, Oid relid, int *n, bool *pipes)
{
	Datum	   *result;
	Datum	   *of_pipes;
	int			npipes = penstock_engine_pipe_positions(relid, &of_pipes);
	ListCell   *lc;

	result = palloc((list_length(engine->views) + npipes + 1) * sizeof(Datum));
	memcpy(result, of_pipes, npipes * sizeof(Datum));
	*n = npipes;
	*pipes = npipes > 0;
	foreach(lc, engine->views)
	{
		EngineView *view = lfirst(lc);

		if (penstock_view_reads(view->relid, relid))
			result[(*n)++] = view->position.lower;
	}
	return result;
}

static EngineStream *
find_stream(List *streams, Oid relid)
{
	ListCell   *lc;

	foreach(lc, streams)
		if (((EngineStream *) lfirst(lc))->relid == relid)
			return lfirst(lc);
	return NULL;
}

/*
 * penstock_engine_stream_oids returns the OIDs of all streams of this database.
 */
List *
penstock_engine_stream_oids(void)
{
	Oid			am = penstock_stream_am();
	List	   *result = NIL;
	Relation	rel;
	TableScanDesc scan;
	ScanKeyData key;
	HeapTuple	tuple;

	if (!OidIsValid(am))
		return NIL;
	ScanKeyInit(&key, Anum_pg_class_relam, BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(am));
	rel = table_open(RelationRelationId, AccessShareLock);
	scan = table_beginscan_catalog(rel, 1, &key);
	while (HeapTupleIsValid(tuple = heap_getnext(scan, ForwardScanDirection)))
	{
		Form_pg_class form = (Form_pg_class) GETSTRUCT(tuple);

		if (form->relkind == RELKIND_RELATION && form->relpersistence != RELPERSISTENCE_TEMP)
			result = lappend_oid(result, form->oid);
	}
	table_endscan(scan);
	table_close(rel, AccessShareLock);
	return result;
}

/* Reads which streams there are and how long they keep their events. */
static void
read_streams(Engine *engine)
{
	List	   *streams = NIL;
	ListCell   *lc;
	TimestampTz now = GetCurrentTimestamp();

	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	foreach(lc, penstock_engine_stream_oids())
	{
		Oid			relid = lfirst_oid(lc);
		EngineStream *known = find_stream(engine->streams, relid);
		EngineStream *stream = MemoryContextAllocZero(engine->context, sizeof(EngineStream));
		PenstockStreamOptions options = {0};
		Relation	rel;

		if (known)
			*stream = *known;
		stream->relid = relid;
		if (ConditionalLockRelationOid(relid, AccessShareLock))
		{
			rel = try_table_open(relid, NoLock);
			if (rel != NULL)
			{
				penstock_stream_options(rel, &options);
				table_close(rel, NoLock);
				if (options.retention != stream->retention ||
					options.retention_force != stream->force)
					stream->retain_at = options.retention > 0 ? now : 0;
				if (options.producer_retention != stream->producer_retention)
					penstock_engine_look_at_producers();
				stream->producer_retention = options.producer_retention;
				stream->retention = options.retention;
				stream->force = options.retention_force;
			}
		}
		MemoryContextSwitchTo(engine->context);
		streams = lappend(streams, stream);
		MemoryContextSwitchTo(CurTransactionContext);
	}
	PopActiveSnapshot();
	CommitTransactionCommand();

	list_free_deep(engine->streams);
	engine->streams = streams;
	engine->streams_stale = false;
	engine->streams_read_at = now;
}

/* How long (us) retention leaves a stream alone that it has looked at: it shall take 1% of the time. */
static int64
retain_pause(const EngineStream *stream)
{
	return Min(Max(100 * stream->cost, SHORTEST_RETAIN_PAUSE), LONGEST_RETAIN_PAUSE);
}

/* New chunks, or positions that have moved, may give retention something to do sooner. */
static void
look_for_news(Engine *engine, TimestampTz now)
{
	ListCell   *lc;

	foreach(lc, engine->streams)
	{
		EngineStream *stream = lfirst(lc);
		TimestampTz soon = now + retain_pause(stream);

		if (stream->retention <= 0)
			continue;
		if ((penstock_sources_news(engine->sources, stream->relid) ||
			 (stream->blocked && engine->moved)) &&
			(stream->retain_at == 0 || stream->retain_at > soon))
		{
			stream->blocked = false;
			stream->retain_at = Max(soon, stream->not_before);
		}
	}
	engine->moved = false;
}

/*
 * Ends the transaction of a step.  A view may have been made since the positions were gathered, with a
 * position that has not seen what was merged or removed: then the step is undone.
 */
static bool
finish_step(Engine *engine, bool changed)
{
	bool		valid = !changed || penstock_engine_views_known(engine);

	PopActiveSnapshot();
	if (valid)
		CommitTransactionCommand();
	else
		AbortCurrentTransaction();
	return valid;
}

/* One step of retention.  Returns true if there is more to remove. */
static bool
retain(Engine *engine, EngineStream *stream)
{
	int			npositions;
	Datum	   *positions;
	int			removed = 0;
	int64		rows = 0;
	int64		lost = 0;
	TimestampTz due = 0;
	TimestampTz start = GetCurrentTimestamp();
	TimestampTz soonest;
	bool		blocked = false;
	bool		pipes = false;
	Relation	rel = NULL;
	char	   *name = NULL;

	pgstat_report_activity(STATE_RUNNING, "retention of a stream");
	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	PENSTOCK_STOP_POINT(engine_before_retain);
	/* the lock that removing chunks takes */
	if (ConditionalLockRelationOid(stream->relid, ShareUpdateExclusiveLock) &&
		penstock_upkeep_try(stream->relid))
		rel = try_table_open(stream->relid, NoLock);
	if (rel != NULL)
	{
		positions = all_positions(engine, stream->relid, &npositions, &pipes);
		removed = penstock_stream_retain(stream->relid, positions, npositions, RETAIN_CHUNKS,
										 &rows, &lost, &due, &blocked);
		if (removed > 0)
			penstock_view_history_lost(stream->relid);
		name = MemoryContextStrdup(engine->round, RelationGetRelationName(rel));
		table_close(rel, NoLock);
	}
	else
		due = start;
	if (!finish_step(engine, removed > 0))
		return true;
	stream->cost = GetCurrentTimestamp() - start;
	soonest = start + stream->cost + retain_pause(stream);

	if (removed > 0)
	{
		PenstockStreamStat *stat;

		LWLockAcquire(penstock_engine->lock, LW_EXCLUSIVE);
		stat = penstock_stream_stat(stream->relid);
		if (stat)
		{
			stat->retained_chunks += removed;
			stat->retained_rows += rows;
			stat->lost_rows += lost;
		}
		LWLockRelease(penstock_engine->lock);
	}
	if (lost > 0)
		ereport(LOG,
				(errmsg("retention of stream \"%s\" removed %lld events that some continuous view had not consumed",
						name, (long long) lost)));
	if (removed >= RETAIN_CHUNKS)
		return true;
	stream->retain_at = due == 0 ? 0 : Max(due, soonest);
	/* a pipe's position moves without a word to the engine */
	if (blocked && pipes)
		stream->retain_at = soonest + BLOCKED_PAUSE;
	stream->blocked = blocked;
	return false;
}

/* One step of merging. */
static void
merge(Engine *engine, Oid relid)
{
	int			npositions;
	Datum	   *positions;
	int			replaced = 0;
	bool		pipes;

	pgstat_report_activity(STATE_RUNNING, "merging small chunks of a stream");
	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	PENSTOCK_STOP_POINT(engine_before_merge);
	if (ConditionalLockRelationOid(relid, RowExclusiveLock) && penstock_is_stream(relid) &&
		penstock_upkeep_try(relid))
	{
		positions = all_positions(engine, relid, &npositions, &pipes);
		replaced = penstock_stream_merge(relid, positions, npositions);
	}
	if (!finish_step(engine, replaced > 0))
		replaced = 0;

	penstock_sources_merged(engine->sources, relid, replaced);
	if (replaced > 0)
	{
		PenstockStreamStat *stat;

		LWLockAcquire(penstock_engine->lock, LW_EXCLUSIVE);
		stat = penstock_stream_stat(relid);
		if (stat)
		{
			stat->merges++;
			stat->merged_chunks += replaced;
		}
		LWLockRelease(penstock_engine->lock);
	}
}

/* An error in upkeep of a stream: said once, and the stream is left alone for a while. */
static void
upkeep_failed(Engine *engine, Oid relid, ErrorData *error)
{
	EngineStream *stream = find_stream(engine->streams, relid);
	PenstockStreamStat *stat;

	ereport(LOG,
			(errcode(error->sqlerrcode),
			 errmsg("upkeep of stream %u failed and will be tried again: %s", relid, error->message)));
	penstock_sources_merged(engine->sources, relid, 0);
	if (stream)
	{
		stream->pause = Min(Max(stream->pause * 2, FIRST_PAUSE), LONGEST_PAUSE);
		stream->not_before = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), stream->pause);
		if (stream->retain_at != 0)
			stream->retain_at = stream->not_before;
	}
	LWLockAcquire(penstock_engine->lock, LW_EXCLUSIVE);
	stat = penstock_stream_stat(relid);
	if (stat)
	{
		snprintf(stat->last_error, sizeof(stat->last_error), "%s: %s",
				 unpack_sql_state(error->sqlerrcode), error->message);
		stat->last_error_at = GetCurrentTimestamp();
	}
	LWLockRelease(penstock_engine->lock);
}

/* The stream whose retention is due, and when the next one is. */
static EngineStream *
due_stream(Engine *engine, TimestampTz now, TimestampTz *next_due)
{
	EngineStream *due = NULL;
	ListCell   *lc;

	*next_due = 0;
	foreach(lc, engine->streams)
	{
		EngineStream *stream = lfirst(lc);

		if (stream->retention <= 0 || stream->retain_at == 0)
			continue;
		if (stream->retain_at <= now && due == NULL)
			due = stream;
		else if (*next_due == 0 || stream->retain_at < *next_due)
			*next_due = stream->retain_at;
	}
	return due;
}

/*
 * penstock_engine_upkeep does one step of upkeep, if one is due.  Returns true if there may be more to
 * do at once; *next_due is when retention will have something to do (0: never).
 */
bool
penstock_engine_upkeep(Engine *engine, TimestampTz *next_due)
{
	TimestampTz now = GetCurrentTimestamp();
	EngineStream *stream;
	TimestampTz producers_due;
	volatile Oid relid = InvalidOid;
	volatile bool more = false;		/* of retention; merges come with new chunks */

	if (engine->streams_stale &&
		TimestampDifferenceExceeds(engine->streams_read_at, now, STREAMS_PAUSE))
		read_streams(engine);
	look_for_news(engine, now);
	stream = due_stream(engine, now, next_due);

	PG_TRY();
	{
		if (stream != NULL)
		{
			relid = stream->relid;
			more = retain(engine, stream) || more;
			stream->pause = 0;
		}
		relid = penstock_sources_to_merge(engine->sources);
		if (OidIsValid(relid))
			merge(engine, relid);
	}
	PG_CATCH();
	{
		ErrorData  *error;

		MemoryContextSwitchTo(engine->round);
		error = CopyErrorData();
		FlushErrorState();
		AbortCurrentTransaction();
		upkeep_failed(engine, relid, error);
	}
	PG_END_TRY();

	producers_due = penstock_engine_producers(engine);
	if (due_stream(engine, now, next_due) != NULL)
		more = true;			/* another one */
	if (producers_due != 0 && (*next_due == 0 || producers_due < *next_due))
		*next_due = producers_due;
	if (engine->streams_stale)
	{
		TimestampTz reread = TimestampTzPlusMilliseconds(engine->streams_read_at, STREAMS_PAUSE);

		if (*next_due == 0 || reread < *next_due)
			*next_due = reread;
	}
	return more;
}
