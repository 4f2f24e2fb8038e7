/*
 * stats.c
 *	  The functions behind penstock.stat_worker, stat_view and stat_stream.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/table.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_class.h"
#include "catalog/pg_database.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"
#include "utils/syscache.h"

#include "compat/compat.h"
#include "engine/internal.h"
#include "engine/shared.h"
#include "producer/producer.h"

PG_FUNCTION_INFO_V1(penstock_stat_worker_rows);
PG_FUNCTION_INFO_V1(penstock_stat_view_rows);
PG_FUNCTION_INFO_V1(penstock_stat_stream_row);
PG_FUNCTION_INFO_V1(penstock_stat_reset);

#define MAX_COLUMNS 20

/* One row of a result, filled from left to right. */
typedef struct Row
{
	Datum		values[MAX_COLUMNS];
	bool		isnull[MAX_COLUMNS];
	int			n;
} Row;

static void
put(Row *row, Datum value, bool isnull)
{
	Assert(row->n < MAX_COLUMNS);
	row->values[row->n] = value;
	row->isnull[row->n++] = isnull;
}

static void
put_int64(Row *row, int64 value)
{
	put(row, Int64GetDatum(value), false);
}

static void
put_float8(Row *row, double value)
{
	put(row, Float8GetDatum(value), false);
}

static void
put_time(Row *row, TimestampTz value)
{
	put(row, TimestampTzGetDatum(value), value == 0);
}

static void
put_text(Row *row, const char *value)
{
	bool		isnull = value == NULL || value[0] == '\0';

	put(row, isnull ? (Datum) 0 : CStringGetTextDatum(value), isnull);
}

static const char *
worker_state(PenstockDatabase *database, TimestampTz now)
{
	switch (database->state)
	{
		case PENSTOCK_WORKER_FREE:
			return "stopped";
		case PENSTOCK_WORKER_WANTED:
			if (database->no_slot)
				return "waiting for a background worker slot";
			return database->next_start > now ? "pausing after an error" : "starting";
		case PENSTOCK_WORKER_STARTING:
			return "starting";
		case PENSTOCK_WORKER_RUNNING:
			return "running";
	}
	return NULL;
}

static bool
may_see_errors(Oid dboid)
{
	return has_privs_of_role(GetUserId(), ROLE_PG_READ_ALL_STATS) ||
		object_ownercheck(DatabaseRelationId, dboid, GetUserId());
}

/*
 * penstock_may_see_error: may this user read what stopped the view?  The message may quote events.
 */
bool
penstock_may_see_error(Oid view)
{
	return may_see_errors(MyDatabaseId) ||
		(SearchSysCacheExists1(RELOID, ObjectIdGetDatum(view)) &&
		 object_ownercheck(RelationRelationId, view, GetUserId()));
}

/*
 * penstock_stat_worker_rows(): one row for each database that has, or shall have, an engine.
 */
Datum
penstock_stat_worker_rows(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	TimestampTz now = GetCurrentTimestamp();

	InitMaterializedSRF(fcinfo, 0);
	for (int i = 0; i < PENSTOCK_MAX_SLOTS; i++)
	{
		PenstockDatabase database;
		Row			row = {0};

		LWLockAcquire(penstock_engine->lock, LW_SHARED);
		database = penstock_engine->slots[i];
		LWLockRelease(penstock_engine->lock);
		if (!OidIsValid(database.dboid) || OidIsValid(database.pipe))
			continue;

		put(&row, ObjectIdGetDatum(database.dboid), false);
		put(&row, Int32GetDatum(database.pid), database.pid == 0);
		put_text(&row, worker_state(&database, now));
		put_time(&row, database.pid != 0 ? database.started_at : 0);
		put_int64(&row, database.restarts);
		put(&row, Int32GetDatum(database.views), false);
		put_int64(&row, database.batches);
		put_float8(&row, database.last_batch_ms);
		put_float8(&row, database.total_ms);
		put_time(&row, database.last_batch_at);
		/* a message may quote data of that database */
		put_text(&row, may_see_errors(database.dboid) ? database.last_error : NULL);
		put_time(&row, database.last_error_at);
		tuplestore_putvalues(result->setResult, result->setDesc, row.values, row.isnull);
	}
	return (Datum) 0;
}

/*
 * penstock_stat_view_rows(): counters of the continuous views of this database.
 */
Datum
penstock_stat_view_rows(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	HASH_SEQ_STATUS status;
	PenstockViewStat *entry;
	PenstockViewStat *copies;
	int			n = 0;

	InitMaterializedSRF(fcinfo, 0);

	LWLockAcquire(penstock_engine->lock, LW_SHARED);
	copies = palloc_extended((hash_get_num_entries(penstock_view_stats) + 1) * sizeof(PenstockViewStat),
							 MCXT_ALLOC_HUGE);
	hash_seq_init(&status, penstock_view_stats);
	while ((entry = hash_seq_search(&status)) != NULL)
		if (entry->key.dboid == MyDatabaseId)
			copies[n++] = *entry;
	LWLockRelease(penstock_engine->lock);

	for (int i = 0; i < n; i++)
	{
		PenstockViewStat *stat = &copies[i];
		Row			row = {0};

		put(&row, ObjectIdGetDatum(stat->key.relid), false);
		put_int64(&row, stat->batches);
		put_int64(&row, stat->events);
		put_int64(&row, stat->rows);
		put_int64(&row, stat->errors);
		put_int64(&row, stat->skipped);
		put_float8(&row, stat->last_batch_ms);
		put_float8(&row, stat->total_ms);
		put_time(&row, stat->last_batch_at);
		put_int64(&row, stat->lag_events);
		put(&row, BoolGetDatum(stat->behind), false);
		put_time(&row, stat->current_at);
		put(&row, Int64GetDatum(stat->backlog_done), stat->backlog_slices == 0);
		put(&row, Int64GetDatum(stat->backlog_done + stat->lag_events), stat->backlog_slices == 0);
		put_text(&row, penstock_may_see_error(stat->key.relid) ? stat->last_error : NULL);
		put_time(&row, stat->last_error_at);
		tuplestore_putvalues(result->setResult, result->setDesc, row.values, row.isnull);
	}
	return (Datum) 0;
}

/*
 * penstock_stat_stream_row(stream regclass): what the stream's directory holds now, and counters of
 * its upkeep.  NULL while somebody has locked the stream.
 */
Datum
penstock_stat_stream_row(PG_FUNCTION_ARGS)
{
	Oid			relid = PG_GETARG_OID(0);
	TupleDesc	desc;
	Relation	rel;
	PenstockDirectoryScan *scan;
	PenstockDirectoryEntry entry;
	PenstockStreamStat stat = {0};
	PenstockStreamStat *found;
	PenstockStatKey key = {MyDatabaseId, relid};
	Row			row = {0};
	int64		chunks = 0;
	int64		rows = 0;
	TimestampTz first = 0;
	TimestampTz last = 0;

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	desc = BlessTupleDesc(desc);
	if (!penstock_is_stream(relid) || !ConditionalLockRelationOid(relid, AccessShareLock))
		PG_RETURN_NULL();
	rel = try_table_open(relid, NoLock);
	if (rel == NULL)
		PG_RETURN_NULL();

	scan = penstock_directory_begin(rel, GetActiveSnapshot(), NULL);
	while (penstock_directory_next(scan, &entry))
	{
		CHECK_FOR_INTERRUPTS();
		chunks++;
		rows += entry.info.nrows;
		if (first == 0 || entry.info.written_at < first)
			first = entry.info.written_at;
		if (entry.info.written_at > last)
			last = entry.info.written_at;
	}
	penstock_directory_end(scan);
	table_close(rel, AccessShareLock);

	LWLockAcquire(penstock_engine->lock, LW_SHARED);
	found = hash_search(penstock_stream_stats, &key, HASH_FIND, NULL);
	if (found)
		stat = *found;
	LWLockRelease(penstock_engine->lock);

	put_int64(&row, chunks);
	put_int64(&row, rows);
	put_time(&row, first);
	put_time(&row, last);
	put_int64(&row, stat.merges);
	put_int64(&row, stat.merged_chunks);
	put_int64(&row, stat.retained_chunks);
	put_int64(&row, stat.retained_rows);
	put_int64(&row, stat.lost_rows);
	put_text(&row, stat.last_error);
	put_time(&row, stat.last_error_at);
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(desc, row.values, row.isnull)));
}

/*
 * penstock.stat_reset(): sets the counters of this database to zero.
 */
Datum
penstock_stat_reset(PG_FUNCTION_ARGS)
{
	HASH_SEQ_STATUS status;
	PenstockViewStat *view;
	PenstockStreamStat *stream;
	PenstockDatabase *database;

	LWLockAcquire(penstock_engine->lock, LW_EXCLUSIVE);
	hash_seq_init(&status, penstock_view_stats);
	while ((view = hash_seq_search(&status)) != NULL)
	{
		if (view->key.dboid != MyDatabaseId)
			continue;
		view->batches = view->events = view->rows = view->errors = view->skipped = 0;
		view->last_batch_ms = view->total_ms = 0;
		view->last_error[0] = '\0';
		view->last_error_at = 0;
	}
	hash_seq_init(&status, penstock_stream_stats);
	while ((stream = hash_seq_search(&status)) != NULL)
		if (stream->key.dboid == MyDatabaseId)
			hash_search(penstock_stream_stats, &stream->key, HASH_REMOVE, NULL);
	database = penstock_database_find(MyDatabaseId, false);
	if (database != NULL)
	{
		database->batches = database->rounds = database->restarts = 0;
		database->last_batch_ms = database->total_ms = 0;
		database->last_error[0] = '\0';
		database->last_error_at = 0;
	}
	LWLockRelease(penstock_engine->lock);
	penstock_producer_stats_forget(MyDatabaseId);
	PG_RETURN_VOID();
}
