/*
 * launcher.c
 *	  Starts a worker for each database that has the extension, and again when one ends.
 *
 * The launcher holds no connection to a database; it reads pg_database.  Whether a database has the
 * extension only a process inside it can tell: so at server start each database gets a worker, which
 * leaves at once if there is nothing to do.  Later CREATE EXTENSION asks for one.
 */
#include "postgres.h"

#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/pg_database.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/sinval.h"
#include "tcop/tcopprot.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

#include "compat/compat.h"
#include "engine/internal.h"
#include "engine/shared.h"

/* Workers that may be starting at a time, so that a server start leaves room for others' workers. */
#define MAX_STARTING 2
/* A worker that was registered but is not heard of for so long (ms) did not come up. */
#define START_TIMEOUT 60000
/* How long to wait for a free worker slot before trying again (ms). */
#define NO_SLOT_RETRY 5000

PGDLLEXPORT void penstock_launcher_main(Datum arg);

/* Local to the launcher: the handle of each slot's worker, to learn that it did not come up. */
static BackgroundWorkerHandle *handles[PENSTOCK_MAX_SLOTS];
static TimestampTz no_slot_logged;

/*
 * penstock_launcher_register asks the postmaster for the launcher; while the library is preloaded.
 */
void
penstock_launcher_register(void)
{
	BackgroundWorker worker = {0};

	worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = 5;
	strlcpy(worker.bgw_library_name, "penstock", sizeof(worker.bgw_library_name));
	strlcpy(worker.bgw_function_name, "penstock_launcher_main", sizeof(worker.bgw_function_name));
	strlcpy(worker.bgw_name, "penstock launcher", BGW_MAXLEN);
	strlcpy(worker.bgw_type, "penstock launcher", BGW_MAXLEN);
	RegisterBackgroundWorker(&worker);
}

static void
launcher_exit(int code, Datum arg)
{
	LWLockAcquire(penstock_engine->lock, LW_EXCLUSIVE);
	penstock_engine->launcher = NULL;
	LWLockRelease(penstock_engine->lock);
}

/* Asks for a worker for every database that accepts connections. */
static void
look_at_databases(void)
{
	Relation	rel;
	TableScanDesc scan;
	HeapTuple	tuple;

	StartTransactionCommand();
	(void) GetTransactionSnapshot();
	rel = table_open(DatabaseRelationId, AccessShareLock);
	scan = table_beginscan_catalog(rel, 0, NULL);
	while (HeapTupleIsValid(tuple = heap_getnext(scan, ForwardScanDirection)))
	{
		Form_pg_database form = (Form_pg_database) GETSTRUCT(tuple);

		if (form->datallowconn)
			penstock_engine_request(form->oid);
	}
	table_endscan(scan);
	table_close(rel, AccessShareLock);
	CommitTransactionCommand();
}

/* Does the database still exist and accept connections? */
static bool
database_is_there(Oid dboid)
{
	HeapTuple	tuple;
	bool		result;

	StartTransactionCommand();
	tuple = SearchSysCache1(DATABASEOID, ObjectIdGetDatum(dboid));
	result = HeapTupleIsValid(tuple) && ((Form_pg_database) GETSTRUCT(tuple))->datallowconn;
	if (HeapTupleIsValid(tuple))
		ReleaseSysCache(tuple);
	CommitTransactionCommand();
	return result;
}

/* Registers the worker of a slot whose state is WANTED. */
static void
start_worker(int slot, Oid dboid)
{
	PenstockDatabase *database = &penstock_engine->slots[slot];
	BackgroundWorker worker = {0};
	bool		registered;
	bool		pipe;

	LWLockAcquire(penstock_engine->lock, LW_EXCLUSIVE);
	if (database->dboid != dboid || database->state != PENSTOCK_WORKER_WANTED ||
		penstock_slot_held(database))
	{
		LWLockRelease(penstock_engine->lock);
		return;
	}
	pipe = OidIsValid(database->pipe);
	database->state = PENSTOCK_WORKER_STARTING;
	database->starting_since = GetCurrentTimestamp();
	database->no_extension = false;
	LWLockRelease(penstock_engine->lock);

	worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = BGW_NEVER_RESTART;
	strlcpy(worker.bgw_library_name, "penstock", sizeof(worker.bgw_library_name));
	strlcpy(worker.bgw_function_name, pipe ? "penstock_pipe_main" : "penstock_worker_main", sizeof(worker.bgw_function_name));
	strlcpy(worker.bgw_name, pipe ? "penstock pipe" : "penstock engine", BGW_MAXLEN);
	strlcpy(worker.bgw_type, worker.bgw_name, BGW_MAXLEN);
	worker.bgw_main_arg = Int32GetDatum(slot);
	worker.bgw_notify_pid = MyProcPid;

	if (handles[slot])
	{
		pfree(handles[slot]);
		handles[slot] = NULL;
	}
	registered = RegisterDynamicBackgroundWorker(&worker, &handles[slot]);

	LWLockAcquire(penstock_engine->lock, LW_EXCLUSIVE);
	database->no_slot = !registered;
	if (!registered)
	{
		database->state = PENSTOCK_WORKER_WANTED;
		database->next_start = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), NO_SLOT_RETRY);
	}
	LWLockRelease(penstock_engine->lock);

	if (!registered &&
		TimestampDifferenceExceeds(no_slot_logged, GetCurrentTimestamp(), 60 * 1000))
	{
		no_slot_logged = GetCurrentTimestamp();
		ereport(LOG,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("penstock has no free background worker for database %u", dboid),
				 errhint("Increase max_worker_processes.")));
	}
}

/* A worker that was registered and will not come up is wanted again, after a pause. */
static void
check_starting(int slot)
{
	PenstockDatabase *database = &penstock_engine->slots[slot];
	TimestampTz now = GetCurrentTimestamp();
	pid_t		pid;
	bool		dead;

	if (handles[slot])
		dead = GetBackgroundWorkerPid(handles[slot], &pid) == BGWH_STOPPED;
	else
		dead = TimestampDifferenceExceeds(database->starting_since, now, START_TIMEOUT);
	if (!dead)
		return;

	LWLockAcquire(penstock_engine->lock, LW_EXCLUSIVE);
	if (database->state == PENSTOCK_WORKER_STARTING)
	{
		database->pause = Min(Max(database->pause * 2, 1), 60);
		database->next_start = TimestampTzPlusMilliseconds(now, database->pause * 1000);
		database->state = PENSTOCK_WORKER_WANTED;
	}
	LWLockRelease(penstock_engine->lock);
}

/* Starts what is due.  Returns how long to sleep (ms), -1: until somebody calls. */
static long
start_workers(void)
{
	TimestampTz now = GetCurrentTimestamp();
	TimestampTz next = 0;
	int			starting = 0;

	for (int slot = 0; slot < PENSTOCK_MAX_SLOTS; slot++)
	{
		PenstockDatabase *database = &penstock_engine->slots[slot];

		/* a stale look does no harm: start_worker looks again under the lock */
		if (database->state == PENSTOCK_WORKER_STARTING)
			check_starting(slot);
		if (database->state == PENSTOCK_WORKER_STARTING)
			starting++;
	}

	for (int slot = 0; slot < PENSTOCK_MAX_SLOTS; slot++)
	{
		PenstockDatabase *database = &penstock_engine->slots[slot];
		TimestampTz due;
		Oid			dboid;
		bool		held;

		LWLockAcquire(penstock_engine->lock, LW_EXCLUSIVE);
		dboid = database->state == PENSTOCK_WORKER_WANTED ? database->dboid : InvalidOid;
		held = OidIsValid(dboid) && penstock_slot_held(database);
		due = Max(database->next_start, penstock_engine->start_after);
		LWLockRelease(penstock_engine->lock);

		if (!OidIsValid(dboid))
			continue;
		if (held)
			due = TimestampTzPlusMilliseconds(now, 1000);
		if (due <= now && starting < MAX_STARTING)
		{
			if (!database_is_there(dboid))
				penstock_engine_forget_database(dboid);
			else
			{
				start_worker(slot, dboid);
				if (database->state == PENSTOCK_WORKER_STARTING)
					starting++;
			}
			continue;
		}
		/* one that waits for others to start is looked at when they have */
		if (due > now && (next == 0 || due < next))
			next = due;
	}

	if (starting > 0 && (next == 0 || next > TimestampTzPlusMilliseconds(now, START_TIMEOUT)))
		next = TimestampTzPlusMilliseconds(now, START_TIMEOUT);
	return next == 0 ? -1 : Max(1, TimestampDifferenceMilliseconds(GetCurrentTimestamp(), next));
}

/*
 * penstock_launcher_main is the launcher process.
 */
void
penstock_launcher_main(Datum arg)
{
	MemoryContext context;

	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnectionByOid(InvalidOid, InvalidOid, 0);

	context = AllocSetContextCreate(TopMemoryContext, "penstock launcher", ALLOCSET_DEFAULT_SIZES);
	MemoryContextSwitchTo(context);

	before_shmem_exit(launcher_exit, (Datum) 0);
	LWLockAcquire(penstock_engine->lock, LW_EXCLUSIVE);
	penstock_engine->launcher = MyLatch;
	penstock_engine->look_at_databases = true;
	LWLockRelease(penstock_engine->lock);

	for (;;)
	{
		long		timeout;
		bool		look;
		bool		called;

		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
		if (catchupInterruptPending)
			ProcessCatchupInterrupt();
		if (ConfigReloadPending)
		{
			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
		}

		LWLockAcquire(penstock_engine->lock, LW_EXCLUSIVE);
		look = penstock_engine->look_at_databases;
		penstock_engine->look_at_databases = false;
		penstock_engine->launcher_called = false;
		LWLockRelease(penstock_engine->lock);
		if (look)
			look_at_databases();

		timeout = start_workers();
		LWLockAcquire(penstock_engine->lock, LW_SHARED);
		called = penstock_engine->launcher_called;
		LWLockRelease(penstock_engine->lock);
		if (called)
			continue;
		(void) WaitLatch(MyLatch,
						 WL_LATCH_SET | WL_EXIT_ON_PM_DEATH | (timeout >= 0 ? WL_TIMEOUT : 0),
						 timeout, penstock_wait_event(PENSTOCK_WAIT_LAUNCHER));
	}
}
