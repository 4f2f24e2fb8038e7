/*
 * views.c
 *	  The worker's list of views, and what happens to one that fails.
 */
#include "postgres.h"

#include "access/xact.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "compat/compat.h"
#include "engine/internal.h"
#include "engine/shared.h"
#include "util/errors.h"

/* Pauses (ms) after errors that may go away by themselves; they double from the first to the second. */
#define FIRST_PAUSE 100
#define LONGEST_PAUSE 30000
/* When to try again to mark a failed view whose row was locked. */
#define MARK_PAUSE 500

static EngineView *
find_view(List *views, Oid relid)
{
	ListCell   *lc;

	foreach(lc, views)
		if (((EngineView *) lfirst(lc))->relid == relid)
			return lfirst(lc);
	return NULL;
}

/*
 * penstock_engine_name_view looks up what the view is called now; in a transaction.
 */
void
penstock_engine_name_view(EngineView *view)
{
	char	   *name = get_rel_name(view->relid);
	char	   *schema = name ? get_namespace_name(get_rel_namespace(view->relid)) : NULL;

	if (schema != NULL)
		strlcpy(view->name, quote_qualified_identifier(schema, name), sizeof(view->name));
	else
		snprintf(view->name, sizeof(view->name), "%u", view->relid);
}

/* A new EngineView with what the registry says. */
static EngineView *
make_view(Engine *engine, const PenstockViewRow *row, const PenstockPosition *position)
{
	MemoryContext context = AllocSetContextCreate(engine->context, "penstock engine view",
												  ALLOCSET_SMALL_SIZES);
	EngineView *view = MemoryContextAllocZero(context, sizeof(EngineView));
	MemoryContext old;

	view->context = context;
	view->relid = row->relid;
	view->status = row->status;
	penstock_engine_name_view(view);
	old = MemoryContextSwitchTo(context);
	penstock_position_assign(&view->position, position);
	penstock_position_assign(&view->stored, position);
	MemoryContextSwitchTo(old);
	return view;
}

/* Removes statistics of views of this database that are no more. */
static void
sweep_stats(List *views)
{
	HASH_SEQ_STATUS status;
	PenstockViewStat *stat;

	LWLockAcquire(penstock_engine->lock, LW_EXCLUSIVE);
	hash_seq_init(&status, penstock_view_stats);
	while ((stat = hash_seq_search(&status)) != NULL)
		if (stat->key.dboid == MyDatabaseId && find_view(views, stat->key.relid) == NULL)
			hash_search(penstock_view_stats, &stat->key, HASH_REMOVE, NULL);
	LWLockRelease(penstock_engine->lock);
}

/*
 * penstock_engine_read_views reads the registry and brings engine->views up to date; in a transaction.
 * A view that was known keeps its position in memory unless somebody else changed the stored one.  Returns false if some view is not yet to be
 * read as a whole.
 */
bool
penstock_engine_read_views(Engine *engine)
{
	List	   *rows = penstock_registry_list();
	List	   *views = NIL;
	ListCell   *lc;
	MemoryContext old;

	foreach(lc, rows)
	{
		PenstockViewRow *row = lfirst(lc);
		PenstockPosition position;
		EngineView *known = find_view(engine->views, row->relid);
		EngineView *view;

		/* registered, but not filled: WITH NO DATA */
		if (!penstock_position_get(row->relid, NULL, &position))
			continue;

		view = make_view(engine, row, &position);
		if (known != NULL)
			view->backlog = known->backlog;
		if (known != NULL && penstock_position_equal(&known->stored, &position))
		{
			old = MemoryContextSwitchTo(view->context);
			penstock_position_assign(&view->position, &known->position);
			MemoryContextSwitchTo(old);
		}
		if (view->status != PENSTOCK_VIEW_ACTIVE)
			penstock_engine_report_stopped(row->relid);
		if (known != NULL && known->status == row->status)
		{
			view->retry_at = known->retry_at;
			view->pause = known->pause;
			if (known->failure)
				view->failure = MemoryContextStrdup(view->context, known->failure);
		}
		old = MemoryContextSwitchTo(engine->context);
		views = lappend(views, view);
		MemoryContextSwitchTo(old);
	}

	foreach(lc, engine->views)
		MemoryContextDelete(((EngineView *) lfirst(lc))->context);
	list_free(engine->views);
	engine->views = views;
	engine->moved = true;
	sweep_stats(views);
	if (views == NIL)
		penstock_sources_forget(engine->sources, InvalidOid);
	return true;
}

/*
 * penstock_engine_views_known tells whether the worker knows every consumer and its position, as
 * committed by now.
 */
bool
penstock_engine_views_known(Engine *engine)
{
	ListCell   *lc;

	foreach(lc, penstock_registry_list())
	{
		PenstockViewRow *row = lfirst(lc);
		PenstockPosition position;
		EngineView *view;

		if (!penstock_position_get(row->relid, NULL, &position))
			continue;
		view = find_view(engine->views, row->relid);
		if (view == NULL || !penstock_position_equal(&view->stored, &position))
			return false;
	}
	return true;
}

/* May it succeed if it is done again later? */
static bool
is_transient(int sqlerrcode)
{
	switch (ERRCODE_TO_CATEGORY(sqlerrcode))
	{
		case ERRCODE_TRANSACTION_ROLLBACK:
		case ERRCODE_INSUFFICIENT_RESOURCES:
			return true;
	}
	return sqlerrcode == ERRCODE_LOCK_NOT_AVAILABLE ||
		sqlerrcode == ERRCODE_QUERY_CANCELED ||
		sqlerrcode == ERRCODE_OBJECT_IN_USE ||
		sqlerrcode == ERRCODE_ADMIN_SHUTDOWN ||
		sqlerrcode == ERRCODE_CRASH_SHUTDOWN ||
		sqlerrcode == ERRCODE_CANNOT_CONNECT_NOW;
}

static void
note_error(Oid relid, const char *text)
{
	PenstockViewStat *stat;

	LWLockAcquire(penstock_engine->lock, LW_EXCLUSIVE);
	stat = penstock_view_stat(relid);
	if (stat)
	{
		stat->errors++;
		if (!stat->behind)
			stat->current_at = GetCurrentTimestamp();
		stat->behind = true;
		strlcpy(stat->last_error, text, sizeof(stat->last_error));
		stat->last_error_at = GetCurrentTimestamp();
	}
	LWLockRelease(penstock_engine->lock);
}

/* One long key shall not stop a view because of an index that nobody asked for. */
static bool
goes_without_index(EngineView *view, ErrorData *error, bool *locked)
{
	bool		result;

	if (error->sqlerrcode != ERRCODE_PROGRAM_LIMIT_EXCEEDED)
		return false;
	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	result = penstock_view_drop_index(view->relid, error, locked);
	PopActiveSnapshot();
	CommitTransactionCommand();
	if (result)
		ereport(LOG,
				(errmsg("index over the keys of continuous view %s was dropped", view->name),
				 errdetail("A key is too long for it: %s", error->message)));
	return result;
}

/*
 * penstock_engine_view_failed deals with an error of a view, outside a transaction: an error that may go
 * away puts the view off, any other marks it as failed.
 */
void
penstock_engine_view_failed(Engine *engine, EngineView *view, ErrorData *error)
{
	StringInfoData text;
	bool		locked = true;

	initStringInfo(&text);
	appendStringInfo(&text, "%s: %s", unpack_sql_state(error->sqlerrcode),
					 error->message ? error->message : "");
	if (error->detail)
		appendStringInfo(&text, " (%s)", error->detail);
	note_error(view->relid, text.data);

	if (goes_without_index(view, error, &locked))
		return;
	if (is_transient(error->sqlerrcode) || !locked)
	{
		view->pause = Min(Max(view->pause * 2, FIRST_PAUSE), LONGEST_PAUSE);
		view->retry_at = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), view->pause);
		ereport(LOG,
				(errcode(error->sqlerrcode),
				 errmsg("continuous view %s will be tried again in %d ms: %s",
						view->name, view->pause, error->message)));
		return;
	}

	ereport(LOG,
			(errcode(ERRCODE_PENSTOCK_STOPPED),
			 errmsg("continuous view %s has stopped: %s", view->name, text.data),
			 error->context ? errcontext("%s", error->context) : 0,
			 errhint("When the cause is removed, SELECT penstock.resume('%s') goes on where it stopped.",
					 view->name)));
	view->failure = MemoryContextStrdup(view->context, text.data);
	view->retry_at = 0;
	penstock_engine_mark_failures(engine);
}

/*
 * penstock_engine_mark_failures stores, in transactions of its own, which views have failed.  A view
 * whose row somebody else is changing is tried again later; meanwhile it stands still.
 */
void
penstock_engine_mark_failures(Engine *engine)
{
	ListCell   *lc;
	TimestampTz now = 0;

	foreach(lc, engine->views)
	{
		EngineView *view = lfirst(lc);
		PenstockViewRow *row;
		Oid			registry;

		if (view->failure == NULL || view->status == PENSTOCK_VIEW_FAILED)
			continue;
		if (now == 0)
			now = GetCurrentTimestamp();
		if (view->retry_at > now)
			continue;

		StartTransactionCommand();
		PushActiveSnapshot(GetTransactionSnapshot());
		registry = penstock_registry_oid();
		if (!OidIsValid(registry) || !ConditionalLockRelationOid(registry, RowExclusiveLock) ||
			!penstock_registry_lock(view->relid, false))
			view->retry_at = TimestampTzPlusMilliseconds(now, MARK_PAUSE);
		else
		{
			row = penstock_registry_get(view->relid);
			if (row != NULL && row->status == PENSTOCK_VIEW_ACTIVE)
			{
				row->status = PENSTOCK_VIEW_FAILED;
				row->error = view->failure;
				penstock_registry_update(row);
			}
			view->status = PENSTOCK_VIEW_FAILED;
			view->failure = NULL;
		}
		PopActiveSnapshot();
		CommitTransactionCommand();
	}
}
