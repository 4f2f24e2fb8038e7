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

#include "claim/claim.h"
#include "compat/compat.h"
#include "engine/internal.h"
#include "engine/process.h"
#include "engine/shared.h"
#include "stream/tail.h"
#include "util/version.h"

PGDLLEXPORT void penstock_worker_main(Datum arg);

/* Least pause (ms) after a batch: what a batch costs however small it is shall not matter. */
#define SHORTEST_PAUSE 2
/* How long (ms) to wait when DDL holds the extension's own tables. */
#define BLOCKED_PAUSE 20

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
		TimestampTz claims_due;
		bool		more;
		long		timeout;
		long		stats_due;

		ResetLatch(MyLatch);
		(void) penstock_tail_called();
		CHECK_FOR_INTERRUPTS();
		if (ConfigReloadPending)
		{
			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
			penstock_process_settings("penstock engine", true);
		}

		penstock_engine_round(engine, &round);
		if (engine->dropped)
			penstock_pipe_slots_keep(MyDatabaseId, NIL);	/* their workers find out, too */
		if (engine->dropped || engine->unwanted)
			return;
		if (round.blocked)
		{
			/* whoever holds our own tables is in a hurry to change them */
			(void) WaitLatch(NULL, WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, BLOCKED_PAUSE,
							 penstock_wait_event(PENSTOCK_WAIT_PAUSE));
			continue;
		}
		penstock_engine_pipes();
		more = penstock_engine_upkeep(engine, &upkeep_due);
		more = penstock_claim_upkeep(&claims_due) || more;
		if (upkeep_due == 0 || (claims_due != 0 && claims_due < upkeep_due))
			upkeep_due = claims_due;
		stats_due = pgstat_report_stat(false);
		if (round.again)
			continue;
		if (round.applied)
			pace(&round);

		if (penstock_tail_called() || ConfigReloadPending)
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

	dboid = penstock_process_attach(DatumGetInt32(arg))->dboid;
	BackgroundWorkerInitializeConnectionByOid(dboid, InvalidOid, 0);
	penstock_process_settings("penstock engine", true);

	database_name = name_if_extension();
	if (database_name == NULL)
	{
		penstock_process_leave();
		proc_exit(0);
	}

	ereport(LOG,
			(errmsg("penstock engine of database \"%s\" started", database_name)));

	engine.context = AllocSetContextCreate(TopMemoryContext, "penstock engine", ALLOCSET_DEFAULT_SIZES);
	engine.round = AllocSetContextCreate(TopMemoryContext, "penstock round", ALLOCSET_DEFAULT_SIZES);
	engine.sources = penstock_sources_create(engine.context);
	engine.streams_stale = true;
	penstock_engine_watch_relations();
	penstock_engine_watch_pipes();
	penstock_engine_watch_producers();
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
		penstock_process_leave();
	ereport(LOG,
			(errmsg("penstock engine of database \"%s\" ended", database_name),
			 errdetail(engine.dropped ? "The extension is gone." :
					   "A statement needs the database for itself.")));
	proc_exit(0);
}
