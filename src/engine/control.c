/*
 * control.c
 *	  penstock.pause, penstock.resume and penstock.catch_up.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/pg_class.h"
#include "catalog/pg_database.h"
#include "commands/dbcommands.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "storage/condition_variable.h"
#include "storage/lmgr.h"
#include "storage/lock.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

#include "compat/compat.h"
#include "engine/internal.h"
#include "engine/shared.h"
#include "stream/tail.h"
#include "util/engine_call.h"
#include "util/errors.h"
#include "util/version.h"

PG_FUNCTION_INFO_V1(penstock_pause);
PG_FUNCTION_INFO_V1(penstock_resume);
PG_FUNCTION_INFO_V1(penstock_catch_up);

/* How often (ms) a waiting catch_up looks whether its view still runs. */
#define LOOK_AGAIN 200
/* How long (ms) it waits before it looks whether it waits for itself. */
#define DEADLOCK_AFTER 1000

static bool
has_continuous_am(Oid relid)
{
	HeapTuple	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(relid));
	bool		result = false;

	if (HeapTupleIsValid(tuple))
	{
		Oid			am = ((Form_pg_class) GETSTRUCT(tuple))->relam;

		result = OidIsValid(am) && am == penstock_continuous_am();
		ReleaseSysCache(tuple);
	}
	return result;
}

static void
not_registered(Oid relid)
{
	char	   *name = get_rel_name(relid);

	if (name == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("continuous view with OID %u does not exist", relid)));
	if (has_continuous_am(relid))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("continuous view \"%s\" has not been populated", name),
				 errhint("Use the REFRESH MATERIALIZED VIEW command.")));
	ereport(ERROR,
			(errcode(ERRCODE_WRONG_OBJECT_TYPE),
			 errmsg("\"%s\" is not a continuous view", name)));
}

/* Changes the status of one view, if it is another. */
static void
change_status(Oid relid, PenstockViewStatus status)
{
	PenstockViewRow *row;

	penstock_registry_lock(relid, true);
	row = penstock_registry_get(relid);
	if (row == NULL)
		not_registered(relid);
	if (row->status == status ||
		(status == PENSTOCK_VIEW_PAUSED && row->status == PENSTOCK_VIEW_FAILED))
		return;
	row->status = status;
	row->error = NULL;
	penstock_registry_update(row);
}

static bool
may_change(Oid relid)
{
	return object_ownercheck(RelationRelationId, relid, GetUserId()) ||
		object_ownercheck(DatabaseRelationId, MyDatabaseId, GetUserId());
}

/* Changes one view (InvalidOid: all of the database). */
static void
change_views(Oid relid, PenstockViewStatus status)
{
	ListCell   *lc;

	penstock_version_check();
	PreventCommandIfReadOnly(status == PENSTOCK_VIEW_PAUSED ? "penstock.pause()" : "penstock.resume()");
	PreventCommandDuringRecovery(status == PENSTOCK_VIEW_PAUSED ? "penstock.pause()" : "penstock.resume()");
	if (OidIsValid(relid))
	{
		if (penstock_registry_get(relid) == NULL)
			not_registered(relid);
		if (!may_change(relid))
			aclcheck_error(ACLCHECK_NOT_OWNER, OBJECT_MATVIEW, get_rel_name(relid));
		change_status(relid, status);
	}
	else
	{
		if (!object_ownercheck(DatabaseRelationId, MyDatabaseId, GetUserId()))
			aclcheck_error(ACLCHECK_NOT_OWNER, OBJECT_DATABASE, get_database_name(MyDatabaseId));
		foreach(lc, penstock_registry_list())
			change_status(((PenstockViewRow *) lfirst(lc))->relid, status);
	}
	penstock_engine_notify_at_commit();
}

/*
 * penstock.pause(view regclass default null): stops a view (null: all of the database) at its position,
 * from this transaction's commit on.  A batch that is under way is finished.
 */
Datum
penstock_pause(PG_FUNCTION_ARGS)
{
	change_views(PG_ARGISNULL(0) ? InvalidOid : PG_GETARG_OID(0), PENSTOCK_VIEW_PAUSED);
	PG_RETURN_VOID();
}

/*
 * penstock.resume(view regclass default null): lets a paused or failed view (null: all of the database)
 * go on from its own position.
 */
Datum
penstock_resume(PG_FUNCTION_ARGS)
{
	change_views(PG_ARGISNULL(0) ? InvalidOid : PG_GETARG_OID(0), PENSTOCK_VIEW_ACTIVE);
	PG_RETURN_VOID();
}

/* ---- catch_up ---- */

/* Raises an error if the view is not one that will ever catch up. */
static void
check_running(Oid relid)
{
	PenstockViewRow *row = penstock_registry_get(relid);
	PenstockPosition position;

	if (row == NULL)
		not_registered(relid);
	if (row->status == PENSTOCK_VIEW_FAILED)
		ereport(ERROR,
				(errcode(ERRCODE_PENSTOCK_STOPPED),
				 errmsg("continuous view \"%s\" has stopped with an error", get_rel_name(relid)),
				 row->error && penstock_may_see_error(relid) ? errdetail("The error was: %s", row->error) : 0,
				 errhint("Remove the cause, then call penstock.resume().")));
	if (row->status == PENSTOCK_VIEW_PAUSED)
		ereport(ERROR,
				(errcode(ERRCODE_PENSTOCK_STOPPED),
				 errmsg("continuous view \"%s\" is paused", get_rel_name(relid)),
				 errhint("Call penstock.resume() first.")));
	if (penstock_registry_is_new(relid))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("continuous view \"%s\" was created or changed in this transaction",
						get_rel_name(relid)),
				 errhint("Commit first.")));
	if (!penstock_position_get(relid, NULL, &position))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("continuous view \"%s\" has not been populated", get_rel_name(relid)),
				 errhint("Use the REFRESH MATERIALIZED VIEW command.")));
}

/* After catching up with all views: those that stand still are named. */
static void
warn_of_stopped(void)
{
	ListCell   *lc;

	foreach(lc, penstock_registry_list())
	{
		PenstockViewRow *row = lfirst(lc);

		if (row->status == PENSTOCK_VIEW_FAILED)
			ereport(WARNING,
					(errcode(ERRCODE_PENSTOCK_STOPPED),
					 errmsg("continuous view \"%s\" has stopped with an error", get_rel_name(row->relid)),
					 row->error && penstock_may_see_error(row->relid) ? errdetail("The error was: %s", row->error) : 0));
	}
}

/* Has the engine come as far as the ticket?  For one view, or for all (InvalidOid). */
static bool
is_done(Oid relid, uint64 ticket, bool *no_worker)
{
	PenstockDatabase *database;
	PenstockViewStat *stat = NULL;
	bool		done = false;

	LWLockAcquire(penstock_engine->lock, LW_SHARED);
	database = penstock_database_find(MyDatabaseId, false);
	*no_worker = database == NULL || database->no_slot;
	if (database != NULL)
		done = database->done >= ticket;
	if (!done && OidIsValid(relid))
	{
		PenstockStatKey key = {MyDatabaseId, relid};

		stat = hash_search(penstock_view_stats, &key, HASH_FIND, NULL);
		done = stat != NULL && stat->ticket >= ticket;
	}
	LWLockRelease(penstock_engine->lock);
	return done;
}

/* A function in a view's query would wait for the process that it runs in. */
static void
refuse_in_engine(void)
{
	PenstockDatabase *database;
	bool		in_engine;

	LWLockAcquire(penstock_engine->lock, LW_SHARED);
	database = penstock_database_find(MyDatabaseId, false);
	in_engine = database != NULL && database->pid == MyProcPid;
	LWLockRelease(penstock_engine->lock);
	if (in_engine)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cannot catch up within the query of a continuous view")));
}

/* Takes a ticket, and makes sure that somebody will serve it. */
static uint64
take_ticket(ConditionVariable **caught_up)
{
	PenstockDatabase *database;
	uint64		ticket = 0;

	penstock_engine_request(MyDatabaseId);
	LWLockAcquire(penstock_engine->lock, LW_EXCLUSIVE);
	database = penstock_database_find(MyDatabaseId, false);
	if (database != NULL)
	{
		ticket = ++database->requested;
		*caught_up = &database->caught_up;
	}
	LWLockRelease(penstock_engine->lock);
	if (ticket == 0)
		ereport(ERROR,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("penstock serves at most %d databases and pipes", PENSTOCK_MAX_SLOTS)));
	return ticket;
}

/* Does a lock in one of these modes keep the engine from the relation, for the view (InvalidOid: for any)? */
static bool
shuts_engine_out(Oid locked, LOCKMASK modes, Oid view)
{
	PenstockStatKey key = {MyDatabaseId, locked};
	bool		is_view;
	List	   *rows;
	ListCell   *lc;

	if ((modes & (LOCKBIT_ON(ShareLock) | LOCKBIT_ON(ShareRowExclusiveLock) |
				  LOCKBIT_ON(ExclusiveLock) | LOCKBIT_ON(AccessExclusiveLock))) == 0)
		return false;

	/* what the engine keeps, also if this transaction has dropped it */
	LWLockAcquire(penstock_engine->lock, LW_SHARED);
	is_view = hash_search(penstock_view_stats, &key, HASH_FIND, NULL) != NULL;
	LWLockRelease(penstock_engine->lock);
	if (is_view && (!OidIsValid(view) || view == locked))
	{
		PenstockViewRow *row = penstock_registry_get(locked);

		return row == NULL || row->status == PENSTOCK_VIEW_ACTIVE;
	}

	if ((modes & LOCKBIT_ON(AccessExclusiveLock)) == 0 || is_view)
		return false;
	rows = penstock_registry_list();
	foreach(lc, rows)
	{
		PenstockViewRow *row = lfirst(lc);

		if (row->status == PENSTOCK_VIEW_ACTIVE && (!OidIsValid(view) || view == row->relid) &&
			penstock_view_reads(row->relid, locked))
			return true;
	}
	return false;
}

/*
 * Raises an error if this transaction holds a lock on a relation that keeps the engine out, or for which somebody
 * waits: the engine does not overtake him, and he waits for this transaction, which waits for the engine.
 */
static void
check_deadlock(Oid relid)
{
	LockData   *locks = GetLockStatusData();

	for (int i = 0; i < locks->nelements; i++)
	{
		LockInstanceData *mine = &locks->locks[i];

		if (mine->pid != MyProcPid || mine->holdMask == 0 || mine->fastpath ||
			mine->locktag.locktag_type != LOCKTAG_RELATION ||
			mine->locktag.locktag_field1 != MyDatabaseId)
			continue;
		if (shuts_engine_out(mine->locktag.locktag_field2, mine->holdMask, relid))
			ereport(ERROR,
					(errcode(ERRCODE_T_R_DEADLOCK_DETECTED),
					 errmsg("cannot catch up while this transaction keeps the engine from \"%s\"",
							get_rel_name(mine->locktag.locktag_field2) ?
							get_rel_name(mine->locktag.locktag_field2) : "a view that it has dropped"),
					 errdetail("The engine leaves out views of which something is locked, until this transaction ends."),
					 errhint("Call penstock.catch_up() in a transaction of its own.")));
		for (int j = 0; j < locks->nelements; j++)
		{
			LockInstanceData *other = &locks->locks[j];

			if (other->waitLockMode != NoLock && other->pid != MyProcPid &&
				memcmp(&other->locktag, &mine->locktag, sizeof(LOCKTAG)) == 0)
				ereport(ERROR,
						(errcode(ERRCODE_T_R_DEADLOCK_DETECTED),
						 errmsg("cannot catch up while process %d waits for a lock on \"%s\" that this transaction holds",
								other->pid, get_rel_name(mine->locktag.locktag_field2)),
						 errdetail("The engine would wait behind that process, which waits for this transaction."),
						 errhint("Call penstock.catch_up() in a transaction of its own.")));
		}
	}
}

static void
no_worker_error(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
			 errmsg("the penstock engine of this database cannot start"),
			 errdetail("All background worker slots are in use."),
			 errhint("Increase max_worker_processes.")));
}

/*
 * penstock_engine_wait is penstock_engine_catch_up, see util/engine_call.h.
 */
void
penstock_engine_wait(Oid relid, int timeout_ms)
{
	ConditionVariable *caught_up = NULL;
	TimestampTz start = GetCurrentTimestamp();
	uint64		ticket;
	bool		no_worker;
	int			no_worker_seen = 0;

	if (RecoveryInProgress())
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cannot catch up during recovery"),
				 errhint("Continuous views of a standby follow those of its primary.")));
	penstock_version_check();
	refuse_in_engine();
	if (OidIsValid(relid))
		check_running(relid);

	ticket = take_ticket(&caught_up);
	penstock_tail_wake(MyDatabaseId);

	ConditionVariablePrepareToSleep(caught_up);
	while (!is_done(relid, ticket, &no_worker))
	{
		if (no_worker && ++no_worker_seen > 2)
			no_worker_error();
		if (timeout_ms > 0 && TimestampDifferenceExceeds(start, GetCurrentTimestamp(), timeout_ms))
			ereport(ERROR,
					(errcode(ERRCODE_QUERY_CANCELED),
					 errmsg("not caught up within %d ms", timeout_ms)));
		if (ConditionVariableTimedSleep(caught_up,
										timeout_ms > 0 ? Min(timeout_ms, LOOK_AGAIN) : LOOK_AGAIN,
										penstock_wait_event(PENSTOCK_WAIT_CATCH_UP)))
		{
			/* nothing for a while: does it still make sense to wait? */
			if (OidIsValid(relid))
				check_running(relid);
			if (TimestampDifferenceExceeds(start, GetCurrentTimestamp(), DEADLOCK_AFTER))
				check_deadlock(relid);
		}
	}
	ConditionVariableCancelSleep();

	/* a view that failed on the way is no longer among those that the engine has served */
	if (OidIsValid(relid))
		check_running(relid);
	else
		warn_of_stopped();
}

/*
 * penstock.catch_up(view regclass default null, timeout interval default null): returns when the view
 * (null: every running view of the database) shows everything that was committed before the call.
 * What the calling transaction itself wrote is not among it.
 */
Datum
penstock_catch_up(PG_FUNCTION_ARGS)
{
	Oid			relid = PG_ARGISNULL(0) ? InvalidOid : PG_GETARG_OID(0);
	int			timeout_ms = 0;

	if (!PG_ARGISNULL(1))
	{
		Interval   *timeout = PG_GETARG_INTERVAL_P(1);
		int64		ms = timeout->time / 1000 +
			((int64) timeout->month * DAYS_PER_MONTH + timeout->day) * (SECS_PER_DAY * INT64CONST(1000));

		if (ms <= 0 || ms > PG_INT32_MAX)
			ereport(ERROR,
					(errcode(ERRCODE_DATETIME_VALUE_OUT_OF_RANGE),
					 errmsg("timeout must be positive and less than 24 days")));
		timeout_ms = (int) ms;
	}
	penstock_engine_wait(relid, timeout_ms);
	PG_RETURN_VOID();
}
