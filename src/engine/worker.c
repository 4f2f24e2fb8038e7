/*
 * worker.c
 *	  The engine of one database: a process that sleeps until somebody commits.
 *
 * It sleeps on its latch without a timeout when nothing is due, so an idle database is never
 * woken.  What goes wrong in a view is dealt with in batch.c; any other error ends the process, and
 * the launcher starts another after a pause.
 */
#include "postgres.h"

#include "access/xact.h"
#include "commands/dbcommands.h"
#include "commands/extension.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "compat/compat.h"
#include "engine/internal.h"
#include "engine/shared.h"
#include "stream/tail.h"
#include "util/version.h"

PGDLLEXPORT void penstock_worker_main(Datum arg);

/* A worker that ran so long (ms) before it failed is started again after a second. */
#define STABLE_AFTER 60000
#define LONGEST_PAUSE 60
/* Least pause (ms) after a batch: what a batch costs however small it is shall not matter. */
#define SHORTEST_PAUSE 2
/* How long (ms) to wait when DDL holds the extension's own tables. */
#define BLOCKED_PAUSE 20

static PenstockDatabase *mine;

/* The process ends: what comes next is decided here, for every way to end. */
static void
worker_exit(int code, Datum arg)
{
	TimestampTz now = GetCurrentTimestamp();

	if (OidIsValid(MyDatabaseId))
		penstock_tail_listen(MyDatabaseId, NULL);

	LWLockAcquire(penstock_engine->lock, LW_EXCLUSIVE);
	if (mine->state == PENSTOCK_WORKER_RUNNING && mine->pid == MyProcPid)
	{
		mine->pid = 0;
		if (TimestampDifferenceExceeds(mine->started_at, now, STABLE_AFTER))
			mine->pause = 0;
		mine->pause = Min(Max(mine->pause * 2, 1), LONGEST_PAUSE);
		mine->next_start = TimestampTzPlusMilliseconds(now, mine->pause * 1000L);
		mine->state = PENSTOCK_WORKER_WANTED;
		mine->restarts++;
		if (penstock_database_held(mine))
		{
			mine->pause = 0;
			mine->next_start = 0;
		}
		else if (mine->no_extension)
		{
			mine->state = PENSTOCK_WORKER_FREE;
			mine->dboid = InvalidOid;
		}
		ConditionVariableBroadcast(&mine->caught_up);
	}
	penstock_launcher_call();
	LWLockRelease(penstock_engine->lock);
}

/* Takes the slot that the launcher prepared.  Returns the database to serve. */
static Oid
attach(int slot)
{
	Oid			dboid = InvalidOid;

	if (slot < 0 || slot >= PENSTOCK_MAX_DATABASES)
		proc_exit(0);
	mine = &penstock_engine->databases[slot];

	LWLockAcquire(penstock_engine->lock, LW_EXCLUSIVE);
	if (mine->state == PENSTOCK_WORKER_STARTING)
	{
		dboid = mine->dboid;
		mine->state = PENSTOCK_WORKER_RUNNING;
		mine->pid = MyProcPid;
		mine->started_at = GetCurrentTimestamp();
		/* it may start the next one now */
		penstock_launcher_call();
	}
	LWLockRelease(penstock_engine->lock);

	/* somebody gave it up in between */
	if (!OidIsValid(dboid))
		proc_exit(0);
	before_shmem_exit(worker_exit, (Datum) 0);

	/* whoever wants the worker away may have missed the process */
	LWLockAcquire(penstock_engine->lock, LW_EXCLUSIVE);
	if (penstock_database_held(mine))
		dboid = InvalidOid;
	LWLockRelease(penstock_engine->lock);
	if (!OidIsValid(dboid))
		proc_exit(0);
	return dboid;
}

/* The worker's own settings; what a view's query needs is set when it runs. */
static void
apply_settings(void)
{
	char		work_mem_text[32];

	snprintf(work_mem_text, sizeof(work_mem_text), "%d", penstock_engine_work_mem);
	SetConfigOption("work_mem", work_mem_text, PGC_USERSET, PGC_S_SESSION);
	SetConfigOption("hash_mem_multiplier", "2.5", PGC_USERSET, PGC_S_SESSION);
#ifdef USE_LZ4
	/* states of some 2 kB are compressed again with each batch */
	SetConfigOption("default_toast_compression", "lz4", PGC_USERSET, PGC_S_SESSION);
#endif
	SetConfigOption("synchronous_commit", "off", PGC_USERSET, PGC_S_SESSION);
	SetConfigOption("jit", "off", PGC_USERSET, PGC_S_SESSION);
	SetConfigOption("max_parallel_workers_per_gather", "0", PGC_USERSET, PGC_S_SESSION);
	SetConfigOption("statement_timeout", "0", PGC_USERSET, PGC_S_SESSION);
	SetConfigOption("idle_in_transaction_session_timeout", "0", PGC_USERSET, PGC_S_SESSION);
	/* since 17 */
	if (GetConfigOption("transaction_timeout", true, false) != NULL)
		SetConfigOption("transaction_timeout", "0", PGC_USERSET, PGC_S_SESSION);
	/* locks are taken conditionally; should a view's query wait for one, not for long */
	SetConfigOption("lock_timeout", "1s", PGC_USERSET, PGC_S_SESSION);
	SetConfigOption("default_transaction_read_only", "off", PGC_USERSET, PGC_S_SESSION);
	SetConfigOption("default_transaction_deferrable", "off", PGC_USERSET, PGC_S_SESSION);
	SetConfigOption("search_path", "pg_catalog, pg_temp", PGC_USERSET, PGC_S_SESSION);
	SetConfigOption("application_name", "penstock engine", PGC_USERSET, PGC_S_SESSION);
	SetConfigOption("row_security", "on", PGC_USERSET, PGC_S_SESSION);
}

/* The database's name, for ever; NULL if it has no extension. */
static pg_noinline char *
name_if_extension(void)
{
	char	   *result = NULL;

	StartTransactionCommand();
	if (OidIsValid(get_extension_oid("penstock", true)))
		result = MemoryContextStrdup(TopMemoryContext, get_database_name(MyDatabaseId));
	CommitTransactionCommand();
	return result;
}

/* Marks that this worker leaves because it has nothing to do, unless somebody called meanwhile. */
static void
leave(void)
{
	LWLockAcquire(penstock_engine->lock, LW_EXCLUSIVE);
	mine->no_extension = true;
	LWLockRelease(penstock_engine->lock);
}

/* ms until the earliest of some times (0: none), at least 0, within what a latch takes; -1 if there is none. */
static long
until(TimestampTz a, TimestampTz b)
{
	TimestampTz first = a == 0 || (b != 0 && b < a) ? b : a;

	if (first == 0)
		return -1;
	return Max(0, Min(TimestampDifferenceMilliseconds(GetCurrentTimestamp(), first), INT_MAX));
}

/* The earliest time at which a view that was put off is due; 0 if none was. */
static TimestampTz
next_retry(Engine *engine)
{
	TimestampTz next = 0;
	ListCell   *lc;

	foreach(lc, engine->views)
	{
		EngineView *view = lfirst(lc);

		if (view->status == PENSTOCK_VIEW_ACTIVE && view->retry_at != 0 &&
			(next == 0 || view->retry_at < next))
			next = view->retry_at;
	}
	return next;
}

/* The pause after a batch; not interrupted by commits, which is its point. */
static void
pace(EngineRound *round)
{
	long		pause = Min(Max((long) (2 * round->ms + 0.5), SHORTEST_PAUSE), penstock_batch_pause);

	if (pause > 0)
		(void) WaitLatch(NULL, WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, pause,
						 penstock_wait_event(PENSTOCK_WAIT_PAUSE));
}

static void
main_loop(Engine *engine)
{
	for (;;)
	{
		EngineRound round = {0};
		TimestampTz upkeep_due = 0;
		bool		more;
		long		timeout;
		long		stats_due;

		ResetLatch(MyLatch);
		(void) penstock_tail_called(MyDatabaseId);
		CHECK_FOR_INTERRUPTS();
		if (ConfigReloadPending)
		{
			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
			apply_settings();
		}

		penstock_engine_round(engine, &round);
		if (engine->dropped || engine->unwanted)
			return;
		if (round.blocked)
		{
			/* whoever holds our own tables is in a hurry to change them */
			(void) WaitLatch(NULL, WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, BLOCKED_PAUSE,
							 penstock_wait_event(PENSTOCK_WAIT_PAUSE));
			continue;
		}
		more = penstock_engine_upkeep(engine, &upkeep_due);
		stats_due = pgstat_report_stat(false);
		if (round.again)
			continue;
		if (round.applied)
			pace(&round);

		if (penstock_tail_called(MyDatabaseId) || ConfigReloadPending)
			continue;

		pgstat_report_activity(STATE_IDLE, NULL);
		timeout = more ? 0 : until(next_retry(engine), upkeep_due);
		if (stats_due > 0 && (timeout < 0 || timeout > stats_due))
			timeout = stats_due;
		(void) WaitLatch(MyLatch,
						 WL_LATCH_SET | WL_EXIT_ON_PM_DEATH | (timeout >= 0 ? WL_TIMEOUT : 0),
						 timeout, penstock_wait_event(PENSTOCK_WAIT_IDLE));
	}
}

/*
 * penstock_worker_main is the engine of one database; arg is its slot.
 */
void
penstock_worker_main(Datum arg)
{
	Engine		engine = {0};
	Oid			dboid;
	char	   *database_name;

	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();

	dboid = attach(DatumGetInt32(arg));
	BackgroundWorkerInitializeConnectionByOid(dboid, InvalidOid, 0);
	apply_settings();

	database_name = name_if_extension();
	if (database_name == NULL)
	{
		leave();
		proc_exit(0);
	}

	ereport(LOG,
			(errmsg("penstock engine of database \"%s\" started", database_name)));

	engine.context = AllocSetContextCreate(TopMemoryContext, "penstock engine", ALLOCSET_DEFAULT_SIZES);
	engine.round = AllocSetContextCreate(TopMemoryContext, "penstock round", ALLOCSET_DEFAULT_SIZES);
	engine.sources = penstock_sources_create(engine.context);
	engine.streams_stale = true;
	penstock_engine_watch_relations();
	penstock_tail_listen(MyDatabaseId, MyLatch);

	PG_TRY();
	{
		StartTransactionCommand();
		penstock_version_check();
		CommitTransactionCommand();
		main_loop(&engine);
	}
	PG_CATCH();
	{
		ErrorData  *error;

		MemoryContextSwitchTo(engine.context);
		error = CopyErrorData();
		penstock_engine_report_error(error);
		PG_RE_THROW();
	}
	PG_END_TRY();

	if (engine.dropped)
		leave();
	ereport(LOG,
			(errmsg("penstock engine of database \"%s\" ended", database_name),
			 errdetail(engine.dropped ? "The extension is gone." :
					   "A statement needs the database for itself.")));
	proc_exit(0);
}
