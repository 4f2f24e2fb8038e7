/*
 * report.c
 *	  After each round: statistics, and those who wait to catch up.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "pgstat.h"
#include "storage/condition_variable.h"
#include "utils/timestamp.h"

#include "engine/internal.h"
#include "engine/shared.h"

/* Did the view reach the round's S2? */
static bool
is_current(Engine *engine, EngineView *view)
{
	return DatumGetPointer(engine->upto) != NULL && !view->skipped && view->failure == NULL &&
		!view->position.slicing && penstock_position_same(view->position.lower, engine->upto);
}

static void
report_view(Engine *engine, EngineView *view, TimestampTz now)
{
	PenstockViewStat *stat = penstock_view_stat(view->relid);
	bool		behind;

	if (stat == NULL)
		return;
	if (view->deltas != NIL && !view->skipped)
	{
		stat->batches++;
		stat->events += view->events;
		stat->rows += view->rows;
		stat->last_batch_ms = view->ms;
		stat->total_ms += view->ms;
		stat->last_batch_at = now;
		if (view->position.slicing)
		{
			stat->backlog_done += view->events;
			stat->backlog_slices++;
		}
	}
	if (view->skipped)
		stat->skipped++;
	stat->lag_events = view->left;
	behind = !is_current(engine, view);
	/* until now it showed everything, though no round has said so while nothing came */
	if (behind && !stat->behind)
		stat->current_at = now;
	stat->behind = behind;
	if (!behind)
	{
		stat->current_at = now;
		stat->ticket = engine->ticket;
		stat->backlog_done = stat->backlog_slices = 0;
	}
}

/* The log says when a view begins to work off a backlog in slices, and when it is done. */
static void
log_backlog(EngineView *view)
{
	if (view->skipped || view->backlog == view->position.slicing)
		return;
	view->backlog = view->position.slicing;
	if (view->backlog)
		ereport(LOG,
				(errmsg("continuous view %s works off a backlog of about %lld events in slices",
						view->name, (long long) (view->events + view->left))));
	else
		ereport(LOG,
				(errmsg("continuous view %s has worked off its backlog", view->name)));
}

/*
 * penstock_engine_report_stopped notes that a view stands still from now on: paused, or failed.
 */
void
penstock_engine_report_stopped(Oid relid)
{
	PenstockViewStat *stat;

	LWLockAcquire(penstock_engine->lock, LW_EXCLUSIVE);
	stat = penstock_view_stat(relid);
	if (stat != NULL && !stat->behind)
	{
		stat->current_at = GetCurrentTimestamp();
		stat->behind = true;
	}
	LWLockRelease(penstock_engine->lock);
}

/*
 * penstock_engine_report_round publishes what a round did, and wakes those who wait for it.  A round
 * without work that nobody waits for costs nothing.
 */
void
penstock_engine_report_round(Engine *engine, EngineRound *round)
{
	TimestampTz now;
	PenstockDatabase *database;
	ListCell   *lc;
	bool		waited_for;

	if (!round->applied && !round->again && !engine->behind && engine->ticket == engine->ticket_done)
		return;

	now = GetCurrentTimestamp();
	LWLockAcquire(penstock_engine->lock, LW_EXCLUSIVE);
	database = penstock_database_find(MyDatabaseId, false);
	if (database != NULL)
	{
		waited_for = database->requested > database->done;
		database->rounds++;
		database->views = 0;
		if (round->applied)
		{
			database->batches++;
			database->last_batch_ms = round->ms;
			database->total_ms += round->ms;
			database->last_batch_at = now;
		}
		foreach(lc, engine->views)
		{
			EngineView *view = lfirst(lc);

			if (view->status != PENSTOCK_VIEW_ACTIVE)
				continue;
			database->views++;
			report_view(engine, view, now);
		}
		if (!engine->behind && !round->again && !round->blocked)
			database->done = engine->ticket_done = engine->ticket;
		if (waited_for)
			ConditionVariableBroadcast(&database->caught_up);
	}
	LWLockRelease(penstock_engine->lock);

	foreach(lc, engine->views)
		log_backlog(lfirst(lc));
}

/*
 * penstock_engine_report_error keeps the error that ends the worker, for stat_worker.
 */
void
penstock_engine_report_error(ErrorData *error)
{
	PenstockDatabase *database;

	LWLockAcquire(penstock_engine->lock, LW_EXCLUSIVE);
	database = penstock_database_find(MyDatabaseId, false);
	if (database != NULL)
	{
		snprintf(database->last_error, sizeof(database->last_error), "%s: %s",
				 unpack_sql_state(error->sqlerrcode), error->message ? error->message : "");
		database->last_error_at = GetCurrentTimestamp();
	}
	LWLockRelease(penstock_engine->lock);
}
