/*
 * batch.c
 *	  One round: every view gets what was committed since its position.
 *
 * A round is one REPEATABLE READ transaction; its snapshot is S2.  Views that stand at the same position
 * form a group and share one delta.  Normally there is one group.  Views that lag behind (new,
 * resumed, left out because something was locked) form others and join when they reach the same S2.
 * Changes of views and their positions commit together; the worker's memory follows after the
 * commit.
 *
 * No lock is waited for.  An error while a view is being worked on is that view's: the transaction
 * is aborted, the view is marked or put off (views.c), and the caller comes again.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/namespace.h"
#include "executor/instrument.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "portability/instr_time.h"
#include "storage/lmgr.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "compat/compat.h"
#include "engine/internal.h"
#include "engine/shared.h"
#include "util/stop_point.h"

/* How long (ms) a view is left alone that could not be locked; doubles up to the second value. */
#define LOCK_PAUSE 20
#define LONGEST_LOCK_PAUSE 200
/* Rounds that are given up for a lock that is about to be released. */
#define MAX_UNSETTLED 1000

/* Views at one position, and what lies between it and S2. */
typedef struct Group
{
	const PenstockPosition *from;
	List	   *views;
	List	   *streams;		/* OIDs, ascending */
	List	   *deltas;
	PenstockPosition to;
	int64		left;
} Group;

static bool registry_stale = true;
static bool relations_changed = true;
static Oid	registry_oid;

/* Anything that changes a relation may change what a view reads. */
static void
relation_changed(Datum arg, Oid relid)
{
	if (!OidIsValid(relid) || relid == registry_oid || !OidIsValid(registry_oid))
		registry_stale = true;
	if (!OidIsValid(relid) || relid >= FirstNormalObjectId)
		relations_changed = true;
}

/*
 * penstock_engine_watch_relations makes rounds notice changes of the registry and of relations.
 */
void
penstock_engine_watch_relations(void)
{
	CacheRegisterRelcacheCallback(relation_changed, (Datum) 0);
}

static bool
is_due(EngineView *view, TimestampTz now)
{
	return view->status == PENSTOCK_VIEW_ACTIVE && view->failure == NULL && view->retry_at <= now;
}

/* Leaves the view out of this round; it comes again after a pause. */
static void
skip(Engine *engine, EngineView *view)
{
	view->skipped = true;
	view->pause = Min(Max(view->pause * 2, LOCK_PAUSE), LONGEST_LOCK_PAUSE);
	view->retry_at = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), view->pause);
	engine->behind = true;
}

/* Opens a view, if that has not been done in this round; false: it was left out. */
static bool
open_view(Engine *engine, EngineView *view)
{
	MemoryContext old;

	if (view->skipped)
		return false;
	if (view->open != NULL)
		return true;

	engine->current = view;
	view->open = penstock_view_open(view->relid);
	if (view->open == NULL)
	{
		engine->current = NULL;
		skip(engine, view);
		return false;
	}

	list_free(view->streams);
	view->streams = NIL;
	old = MemoryContextSwitchTo(view->context);
	view->streams = list_copy(penstock_view_streams(view->open));
	list_sort(view->streams, list_oid_cmp);
	view->streams_known = true;
	MemoryContextSwitchTo(old);
	penstock_engine_name_view(view);
	engine->current = NULL;
	return true;
}

static bool
maybe_something(Engine *engine, EngineView *view)
{
	ListCell   *lc;

	if (view->position.slicing)
		return true;
	foreach(lc, view->streams)
		if (penstock_sources_maybe(engine->sources, lfirst_oid(lc), &view->position))
			return true;
	return false;
}

/* Puts a view into the group of its position; groups are in order of age, oldest first. */
static List *
add_to_group(List *groups, EngineView *view)
{
	Group	   *group = NULL;
	ListCell   *lc;
	int			place = 0;

	foreach(lc, groups)
	{
		group = lfirst(lc);
		if (penstock_position_equal(group->from, &view->position))
			break;
		if (penstock_position_within(group->from->lower, view->position.lower))
			place = foreach_current_index(lc) + 1;
		group = NULL;
	}
	if (group == NULL)
	{
		group = palloc0(sizeof(Group));
		group->from = &view->position;
		groups = list_insert_nth(groups, place, group);
	}
	group->views = lappend(group->views, view);
	group->streams = list_concat_unique_oid(group->streams, view->streams);
	return groups;
}

/* Locks the group's streams without waiting; views that read one that is locked are left out. */
static void
lock_streams(Engine *engine, Group *group)
{
	List	   *locked = NIL;
	ListCell   *lc;

	list_sort(group->streams, list_oid_cmp);
	foreach(lc, group->streams)
	{
		if (ConditionalLockRelationOid(lfirst_oid(lc), AccessShareLock))
			locked = lappend_oid(locked, lfirst_oid(lc));
	}
	if (list_length(locked) == list_length(group->streams))
		return;

	foreach(lc, group->views)
	{
		EngineView *view = lfirst(lc);

		if (list_difference_oid(view->streams, locked) != NIL)
			skip(engine, view);
	}
	group->streams = locked;
}

/* Finds the group's deltas and gives each view its share. */
static void
build_deltas(Engine *engine, Group *group)
{
	ListCell   *lc;

	lock_streams(engine, group);
	group->deltas = penstock_sources_delta(engine->sources, group->streams, group->from, engine->upto,
										   penstock_batch_rows, &group->to, &group->left);
	foreach(lc, group->views)
	{
		EngineView *view = lfirst(lc);
		ListCell   *dc;

		if (view->skipped)
			continue;
		view->next = group->to;
		view->left = group->left;
		foreach(dc, group->deltas)
		{
			PenstockDelta *delta = lfirst(dc);

			if (list_member_oid(view->streams, delta->relid))
			{
				view->deltas = lappend(view->deltas, delta);
				view->events += delta->nrows;
			}
		}
	}
}

/*
 * Takes locks on our own tables without waiting: DROP EXTENSION may hold them and wait for a view
 * that this worker has locked.
 */
static bool
lock_tables(void)
{
	Oid			position_oid = get_relname_relid("position", get_namespace_oid("penstock", true));

	return OidIsValid(position_oid) &&
		ConditionalLockRelationOid(registry_oid, RowExclusiveLock) &&
		ConditionalLockRelationOid(position_oid, RowExclusiveLock);
}

/* Brings the worker's list of views up to date.  False: not possible now. */
static bool
refresh_views(Engine *engine)
{
	ListCell   *lc;

	if (registry_stale)
	{
		registry_oid = penstock_registry_oid();
		if (!OidIsValid(registry_oid))
		{
			engine->dropped = true;
			return false;
		}
		if (!ConditionalLockRelationOid(registry_oid, AccessShareLock))
			return false;
		registry_stale = false;
		if (!penstock_engine_read_views(engine))
		{
			registry_stale = true;
			return false;
		}
	}
	if (relations_changed)
	{
		relations_changed = false;
		engine->streams_stale = true;
		foreach(lc, engine->views)
			((EngineView *) lfirst(lc))->streams_known = false;
	}
	return true;
}

/* Forgets the last round. */
static void
reset_views(Engine *engine)
{
	ListCell   *lc;

	foreach(lc, engine->views)
	{
		EngineView *view = lfirst(lc);

		view->open = NULL;
		view->deltas = NIL;
		view->skipped = false;
		view->rows = view->events = view->left = 0;
		view->ms = 0;
		memset(&view->next, 0, sizeof(PenstockPosition));
	}
}

/* Opens the views that have something to do; false if the registry changed meanwhile. */
static bool
open_views(Engine *engine)
{
	ListCell   *lc;

	foreach(lc, engine->views)
	{
		EngineView *view = lfirst(lc);

		if (view->deltas != NIL && !open_view(engine, view))
			view->deltas = NIL;
	}
	/* with the locks held, what we know is now true, unless we were just told otherwise */
	return !registry_stale;
}

/* Applies each view's deltas and saves its position.  Returns the number of views changed. */
static int
apply_deltas(Engine *engine)
{
	ListCell   *lc;
	int			applied = 0;

	foreach(lc, engine->views)
	{
		EngineView *view = lfirst(lc);
		instr_time	start;
		instr_time	end;

		if (view->deltas == NIL || view->skipped)
			continue;
		INSTR_TIME_SET_CURRENT(start);
		engine->current = view;
		/* opening another view may have taken in news about this one */
		view->open = penstock_view_open(view->relid);
		if (view->open == NULL)
		{
			engine->current = NULL;
			skip(engine, view);
			continue;
		}
		view->rows = penstock_view_apply(view->open, view->deltas);
		PENSTOCK_STOP_POINT(engine_after_apply);
		penstock_position_update(view->relid, &view->next);
		engine->current = NULL;
		applied++;
		INSTR_TIME_SET_CURRENT(end);
		INSTR_TIME_SUBTRACT(end, start);
		view->ms = INSTR_TIME_GET_MILLISEC(end);
	}
	return applied;
}

static void
free_position(PenstockPosition *position)
{
	pfree(DatumGetPointer(position->lower));
	if (position->slicing)
		pfree(DatumGetPointer(position->upper));
}

/* After the commit: the worker's memory follows.  Chunks that everybody has seen are forgotten. */
static void
advance_views(Engine *engine, EngineRound *round, TimestampTz now)
{
	Datum		oldest = engine->upto;
	ListCell   *lc;

	foreach(lc, engine->views)
	{
		EngineView *view = lfirst(lc);

		if (view->status != PENSTOCK_VIEW_ACTIVE)
			continue;
		if (!view->skipped && DatumGetPointer(view->next.lower) != NULL)
		{
			MemoryContext old = MemoryContextSwitchTo(view->context);
			PenstockPosition last = view->position;

			penstock_position_assign(&view->position, &view->next);
			if (view->deltas != NIL)
			{
				free_position(&view->stored);
				penstock_position_assign(&view->stored, &view->next);
			}
			MemoryContextSwitchTo(old);
			free_position(&last);
			view->retry_at = 0;
			view->pause = 0;
		}
		if (view->position.slicing || !penstock_position_same(view->position.lower, engine->upto))
		{
			engine->behind = true;
			/* a finished slice goes on at once; who was put off waits */
			if (view->retry_at <= now)
				round->again = true;
		}
		if (penstock_position_within(view->position.lower, oldest))
			oldest = view->position.lower;
	}
	penstock_sources_consumed(engine->sources, oldest);
}

/* What is to be done: deltas of every view that is due.  Returns false if there is nothing. */
static bool
find_work(Engine *engine, TimestampTz now)
{
	List	   *groups = NIL;
	ListCell   *lc;
	bool		found = false;

	foreach(lc, engine->views)
	{
		EngineView *view = lfirst(lc);

		if (view->status != PENSTOCK_VIEW_ACTIVE)
			continue;
		if (!is_due(view, now))
		{
			engine->behind = true;
			view->skipped = true;
			continue;
		}
		if (!view->streams_known && !open_view(engine, view))
			continue;
		if (maybe_something(engine, view))
			groups = add_to_group(groups, view);
		else
			view->next.lower = engine->upto;
	}

	foreach(lc, groups)
	{
		Group	   *group = lfirst(lc);

		build_deltas(engine, group);
		if (group->deltas != NIL)
			found = true;
	}
	return found;
}

/*
 * Is it certain which streams each view reads, as of S2?  A commit is visible before its invalidations are sent:
 * events in a partition that was made in the same transaction could be passed by, as if no view read them. But
 * who makes or attaches a partition has it locked until they are sent; so whoever gets the lock has them.
 */
static bool
streams_are_settled(Engine *engine)
{
	bool		all;
	List	   *unsettled = penstock_sources_unsettled(engine->sources, engine->upto, &all);
	ListCell   *lc;

	if (all)
		unsettled = penstock_engine_stream_oids();
	foreach(lc, unsettled)
	{
		/* somebody may hold it for long: then what he does is not visible yet */
		if (!ConditionalLockRelationOid(lfirst_oid(lc), AccessShareLock) &&
			penstock_lock_is_ending(lfirst_oid(lc)) &&
			++engine->unsettled <= MAX_UNSETTLED)
			return false;
	}
	if (registry_stale || relations_changed)
		return false;
	engine->unsettled = 0;
	penstock_sources_settled(engine->sources, engine->upto);
	return true;
}

/* The transaction of a round.  Errors are the caller's. */
static void
run_round(Engine *engine, EngineRound *round)
{
	TimestampTz now = GetCurrentTimestamp();
	bool		stale;

	StartTransactionCommand();
	XactIsoLevel = XACT_REPEATABLE_READ;
	MemoryContextSwitchTo(engine->round);

	if (!refresh_views(engine))
	{
		engine->behind = true;
		round->blocked = !engine->dropped;
		CommitTransactionCommand();
		return;
	}
	PENSTOCK_STOP_POINT(engine_before_snapshot);
	PushActiveSnapshot(GetTransactionSnapshot());
	engine->upto = penstock_position_current();
	PENSTOCK_STOP_POINT(engine_after_snapshot);

	/* what changed before S2 was taken must be known */
	AcceptInvalidationMessages();
	stale = registry_stale || relations_changed;
	if (!stale)
	{
		penstock_sources_read_tail(engine->sources);
		stale = !streams_are_settled(engine);
	}
	if (!stale)
	{
		if (find_work(engine, now))
		{
			pgstat_report_activity(STATE_RUNNING, "batch");
			if (!lock_tables())
				round->blocked = true;
			else if (!open_views(engine))
				stale = true;
			else if (apply_deltas(engine) > 0)
				round->applied = true;
			PENSTOCK_STOP_POINT(engine_before_commit);
		}
	}
	PopActiveSnapshot();
	CommitTransactionCommand();
	PENSTOCK_STOP_POINT(engine_after_commit);

	MemoryContextSwitchTo(engine->round);
	if (round->applied)
		engine->moved = true;
	if (stale || round->blocked)
	{
		engine->behind = true;
		round->again = stale;
		if (engine->unsettled > 0)
			pg_usleep(Min(100L * engine->unsettled, 10000L));
	}
	else
		advance_views(engine, round, now);
}

/* An error in a stream, a damaged chunk say, is an error of every view that reads it. */
static void
stream_failed(Engine *engine, Oid relid, ErrorData *error)
{
	ListCell   *lc;

	penstock_sources_forget(engine->sources, relid);
	foreach(lc, engine->views)
	{
		EngineView *view = lfirst(lc);

		if (view->status == PENSTOCK_VIEW_ACTIVE && view->failure == NULL &&
			list_member_oid(view->streams, relid))
			penstock_engine_view_failed(engine, view, error);
	}
}

/*
 * penstock_engine_round does one round.  After it, every active view has consumed everything that was
 * committed before, unless round->again or engine->behind says otherwise.  Errors that are a view's
 * fault are dealt with; others are raised.
 */
void
penstock_engine_round(Engine *engine, EngineRound *round)
{
	instr_time	start;
	instr_time	end;
	PenstockDatabase *database;

	MemoryContextReset(engine->round);
	reset_views(engine);
	engine->behind = false;
	engine->current = NULL;
	INSTR_TIME_SET_CURRENT(start);

	/* what is requested before S2 is taken is fulfilled by reaching it */
	LWLockAcquire(penstock_engine->lock, LW_SHARED);
	database = penstock_database_find(MyDatabaseId, false);
	engine->ticket = database ? database->requested : 0;
	engine->unwanted = database == NULL || penstock_database_wanted_away(database);
	LWLockRelease(penstock_engine->lock);

	if (engine->unwanted)
		return;

	penstock_engine_mark_failures(engine);

	PG_TRY();
	{
		run_round(engine, round);
	}
	PG_CATCH();
	{
		ErrorData  *error;
		EngineView *view = engine->current;
		Oid			stream = penstock_sources_current(engine->sources);

		/* nobody's fault: the process ends and is started again */
		if (view == NULL && !OidIsValid(stream))
			PG_RE_THROW();

		MemoryContextSwitchTo(engine->round);
		error = CopyErrorData();
		FlushErrorState();
		AbortCurrentTransaction();
		penstock_view_reset();
		engine->current = NULL;
		engine->behind = true;
		/* nothing of the round has happened */
		reset_views(engine);
		engine->upto = (Datum) 0;
		if (view != NULL)
			penstock_engine_view_failed(engine, view, error);
		else
			stream_failed(engine, stream, error);
		round->again = true;
		round->applied = false;
	}
	PG_END_TRY();

	INSTR_TIME_SET_CURRENT(end);
	INSTR_TIME_SUBTRACT(end, start);
	round->ms = INSTR_TIME_GET_MILLISEC(end);
	penstock_engine_report_round(engine, round);
}
