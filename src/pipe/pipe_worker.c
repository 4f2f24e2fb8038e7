/*
 * pipe_worker.c
 *	  The process of one pipe.
 *
 * It sleeps on its source, and on its latch.  An error that may go away has the batch done again after a growing pause; one
 * that would come for every event marks the pipe as failed and ends the process; the launcher starts it again after
 * any other.
 */
#include "postgres.h"

#include <limits.h>

#include "access/xact.h"
#include "commands/defrem.h"
#include "commands/extension.h"
#include "foreign/foreign.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/condition_variable.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "tcop/tcopprot.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"
#include "utils/wait_event.h"

#include "compat/compat.h"
#include "engine/process.h"
#include "pipe/pipe_internal.h"
#include "stream/tail.h"
#include "util/errors.h"
#include "util/stop_point.h"
#include "util/version.h"

PGDLLEXPORT void penstock_pipe_main(Datum arg);

/* Pauses (ms) after errors that may go away. */
#define FIRST_PAUSE 100
#define LONGEST_PAUSE 30000

/* The row of penstock.pipe, or what the source is, may have changed; the source has. */
static bool pipe_changed = true;
static bool source_changed = true;
static Oid	registry_oid;
static Oid	source_oid;			/* of a queue; a stream's changes are met batch by batch */
static uint32 server_hash;

static void
relation_changed(Datum arg, Oid relid)
{
	if (!OidIsValid(relid) || relid == registry_oid || relid == source_oid)
		pipe_changed = true;
	if (relid == source_oid && OidIsValid(relid))
		source_changed = true;
}

static void
options_changed(Datum arg, int cacheid, uint32 hashvalue)
{
	if (cacheid != FOREIGNSERVEROID || hashvalue == 0 || hashvalue == server_hash)
		pipe_changed = true;
}

/*
 * penstock_pipe_put_off sets the time of the next try, later each time.
 */
void
penstock_pipe_put_off(PenstockPipe *pipe, int shortest, int longest)
{
	pipe->pause = Min(Max(pipe->pause * 2, shortest), longest);
	pipe->retry_at = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), pipe->pause);
}

/*
 * penstock_pipe_begin begins a batch's transaction, with a snapshot: READ COMMITTED, so that what the statements look
 * up or update is what is there when they run.  The pipe cannot be changed meanwhile.
 */
bool
penstock_pipe_begin(PenstockPipe *pipe)
{
	StartTransactionCommand();
	XactIsoLevel = XACT_READ_COMMITTED;
	pgstat_report_activity(STATE_RUNNING, pipe->row->name);
	if (!penstock_pipe_lock(pipe->oid, false, true))
		pipe_changed = true;
	AcceptInvalidationMessages();
	if (pipe_changed)
	{
		CommitTransactionCommand();
		return false;
	}
	PushActiveSnapshot(GetTransactionSnapshot());
	MemoryContextSwitchTo(pipe->batch_context);
	return true;
}

static int
compare_failures(const ListCell *a, const ListCell *b)
{
	return ((PenstockFailure *) lfirst(a))->row - ((PenstockFailure *) lfirst(b))->row;
}

/* How a connector's rows read as text, for the dead letter. */
static void
describe(PenstockPipe *pipe, PenstockMessage *message)
{
	StringInfoData text;

	if (pipe->connector == NULL || pipe->connector->describe == NULL || message->row == NULL)
		return;
	initStringInfo(&text);
	pipe->connector->describe(pipe->consumer, message, &text);
	message->payload = text.data;
	message->length = text.len;
}

/*
 * penstock_pipe_bury stores the events that failed, unless they are to be skipped.
 */
int
penstock_pipe_bury(PenstockPipe *pipe, PenstockPipeBatch *batch, const PenstockMessage *messages)
{
	ListCell   *lc;

	if (pipe->row->on_error == PENSTOCK_ON_ERROR_SKIP)
		return 0;
	list_sort(batch->failures, compare_failures);
	foreach(lc, batch->failures)
	{
		PenstockFailure *failure = lfirst(lc);
		PenstockMessage message = messages[failure->row];
		PenstockDeadLetter letter = {0};

		describe(pipe, &message);
		letter.pipe = pipe->oid;
		letter.pipe_name = pipe->row->name;
		letter.owner = pipe->row->owner;
		letter.source = pipe->row->source;
		letter.message = &message;
		letter.headers = penstock_properties_to_jsonb(message.headers, message.nheaders);
		letter.properties = penstock_properties_to_jsonb(message.properties, message.nproperties);
		letter.sqlstate = failure->sqlstate;
		letter.text = failure->text;
		letter.detail = failure->detail;
		letter.column = failure->column;
		letter.statement = failure->statement;
		penstock_dead_letter_add(&letter);
	}
	return list_length(batch->failures);
}

/*
 * penstock_pipe_report counts a batch that is committed.
 */
void
penstock_pipe_report(PenstockPipe *pipe, int64 events, int64 known, PenstockPipeBatch *batch, int dead, TimestampTz start)
{
	PenstockPipeStat *stat = &pipe->slot->pipe_stat;
	TimestampTz now = GetCurrentTimestamp();
	int64		lag = pipe->connector && pipe->connector->lag && pipe->consumer ? pipe->connector->lag(pipe->consumer) : -1;

	LWLockAcquire(penstock_engine->lock, LW_EXCLUSIVE);
	stat->batches++;
	stat->events += events;
	stat->dead_letters += dead;
	stat->skipped += known + list_length(batch->failures) - dead;
	stat->divided += batch->divided ? 1 : 0;
	stat->last_batch_ms = (now - start) / 1000.0;
	stat->total_ms += stat->last_batch_ms;
	stat->last_batch_at = now;
	if (pipe->connector)
		stat->lag = lag;
	LWLockRelease(penstock_engine->lock);
}

static void
note_error(PenstockPipe *pipe, ErrorData *error, bool retry)
{
	LWLockAcquire(penstock_engine->lock, LW_EXCLUSIVE);
	snprintf(pipe->slot->last_error, sizeof(pipe->slot->last_error), "%s: %s",
			 unpack_sql_state(error->sqlerrcode), error->message ? error->message : "");
	pipe->slot->last_error_at = GetCurrentTimestamp();
	if (retry)
		pipe->slot->pipe_stat.retries++;
	LWLockRelease(penstock_engine->lock);
}

/* Marks the pipe as failed, in a transaction of its own. */
static void
mark_failed(PenstockPipe *pipe, ErrorData *error)
{
	PenstockPipeRow *row;
	StringInfoData text;

	initStringInfo(&text);
	appendStringInfo(&text, "%s: %s", unpack_sql_state(error->sqlerrcode), error->message ? error->message : "");
	if (error->detail)
		appendStringInfo(&text, " (%s)", error->detail);
	ereport(LOG,
			(errcode(ERRCODE_PENSTOCK_STOPPED),
			 errmsg("pipe \"%s\" has stopped: %s", pipe->row->name, text.data),
			 error->context ? errcontext("%s", error->context) : 0,
			 errhint("When the cause is removed, SELECT penstock.resume('%s') goes on where it stopped.", pipe->row->name)));

	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	(void) penstock_pipe_lock(pipe->oid, true, true);
	row = penstock_pipe_get(pipe->oid);
	if (row != NULL && row->status == PENSTOCK_PIPE_ACTIVE)
	{
		row->status = PENSTOCK_PIPE_FAILED;
		row->error = text.data;
		penstock_pipe_update(row);
	}
	PopActiveSnapshot();
	CommitTransactionCommand();
}

/* Forgets what is known of the pipe: source closed, plans dropped. */
static void
unload(PenstockPipe *pipe)
{
	if (pipe->connector != NULL)
	{
		penstock_pipe_queue_acknowledge(pipe);
		penstock_pipe_queue_close(pipe);
	}
	if (pipe->statements != NULL)
		penstock_statements_free(pipe->statements);
	pipe->statements = NULL;
	pipe->row = NULL;
	pipe->fingerprint = NULL;
	pipe->connector = NULL;
	pipe->queue = NULL;
	pipe->sources = NULL;
	pipe->position_known = false;
	pipe->retry_at = 0;
	pipe->pause = 0;
	MemoryContextReset(pipe->context);
}

/* Everything that a pipe's worker has made something of, as text. */
static char *
fingerprint_of(const PenstockPipeRow *row)
{
	StringInfoData text;
	ListCell   *lc;

	initStringInfo(&text);
	appendStringInfo(&text, "%s\n%u\n%u\n%s\n%c%c\n%d\n%lld\n%d\n%lld\n%s\n%s\n", row->name, row->owner, row->source, row->statements,
					 (char) row->status, (char) row->on_error, row->batch_rows, (long long) row->batch_bytes,
					 row->batch_time, (long long) row->dedup_window, row->dedup_key ? row->dedup_key : "", row->settings ? row->settings : "");
	if (penstock_queue_connector(row->source) != NULL)
		foreach(lc, penstock_queue_open(row->source, row->owner, NULL)->options)
			appendStringInfo(&text, "%s=%s\n", lfirst_node(DefElem, lc)->defname, defGetString(lfirst_node(DefElem, lc)));
	return text.data;
}

/* A pipe whose owner was dropped in another database runs as nobody. */
static void
check_owner(const PenstockPipeRow *row)
{
	if (!SearchSysCacheExists1(AUTHOID, ObjectIdGetDatum(row->owner)))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("the owner of pipe \"%s\" does not exist", row->name)));
}

/* Has nothing changed that matters?  Then the source stays open. */
static bool
is_same(PenstockPipe *pipe)
{
	PenstockPipeRow *row;

	if (pipe->row == NULL || source_changed || !OidIsValid(get_extension_oid("penstock", true)))
		return false;
	row = penstock_pipe_get(pipe->oid);
	return row != NULL && strcmp(fingerprint_of(row), pipe->fingerprint) == 0;
}

/* Has the pipe been dropped that this worker has loaded? */
static bool
is_dropped(PenstockPipe *pipe)
{
	return pipe->row != NULL && OidIsValid(get_extension_oid("penstock", true)) && penstock_pipe_get(pipe->oid) == NULL;
}

/* Reads the pipe anew, if it has changed.  False: it is gone, or is not to run. */
static bool
load(PenstockPipe *pipe)
{
	PenstockPipeRow *row = NULL;
	MemoryContext old;
	bool		same;
	bool		dropped;

	pipe_changed = false;
	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	same = is_same(pipe);
	dropped = is_dropped(pipe);
	PopActiveSnapshot();
	CommitTransactionCommand();
	if (same)
		return true;
	if (dropped && pipe->connector != NULL)
		penstock_pipe_queue_drop(pipe);

	unload(pipe);
	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	source_changed = false;
	old = MemoryContextSwitchTo(pipe->context);
	registry_oid = OidIsValid(get_extension_oid("penstock", true)) ? penstock_pipe_registry_oid() : InvalidOid;
	if (OidIsValid(registry_oid))
		row = penstock_pipe_get(pipe->oid);
	if (row != NULL && row->status == PENSTOCK_PIPE_ACTIVE)
	{
		pipe->row = row;
		check_owner(row);
		pipe->fingerprint = fingerprint_of(row);
		pipe->statements = penstock_statements_create(pipe->context, row);
		pipe->connector = penstock_queue_connector(row->source);
		pipe->step_context = AllocSetContextCreate(pipe->context, "penstock pipe's step", ALLOCSET_DEFAULT_SIZES);
		pipe->batch_context = AllocSetContextCreate(pipe->context, "penstock pipe's batch", ALLOCSET_DEFAULT_SIZES);
		source_oid = InvalidOid;
		if (pipe->connector == NULL)
			pipe->sources = penstock_sources_create(pipe->context);
		else
		{
			source_oid = row->source;
			server_hash = GetSysCacheHashValue1(FOREIGNSERVEROID, ObjectIdGetDatum(GetForeignTable(row->source)->serverid));
		}
	}
	MemoryContextSwitchTo(old);
	PopActiveSnapshot();
	CommitTransactionCommand();
	LWLockAcquire(penstock_engine->lock, LW_EXCLUSIVE);
	pipe->slot->pipe_stat.loaded = pipe->row != NULL;
	LWLockRelease(penstock_engine->lock);
	penstock_tail_listen(MyDatabaseId, NULL);
	if (pipe->row != NULL && pipe->connector == NULL)
		penstock_tail_listen(MyDatabaseId, MyLatch);
	return pipe->row != NULL;
}

/* An error of a step.  True: the pipe goes on, later. */
static bool
step_failed(PenstockPipe *pipe)
{
	ErrorData  *error;
	bool		retry;

	MemoryContextSwitchTo(pipe->context);
	error = CopyErrorData();
	FlushErrorState();
	/* outside of a transaction it was the connector */
	if (!IsTransactionState() && pipe->connector != NULL)
		penstock_pipe_queue_close(pipe);
	AbortCurrentTransaction();
	penstock_given_rows_clear();
	pgstat_report_activity(STATE_IDLE, NULL);
	if (pipe->row == NULL)
		ReThrowError(error);

	retry = penstock_pipe_blame(error->sqlerrcode) == PENSTOCK_BLAME_NOBODY;
	/* a broker refused something when the transaction was to commit: the next try finds out what */
	if (!retry && penstock_pipe_blame(error->sqlerrcode) == PENSTOCK_BLAME_EVENT &&
		pipe->row->on_error != PENSTOCK_ON_ERROR_STOP && !pipe->careful)
		retry = pipe->careful = true;
	note_error(pipe, error, retry);
	if (retry)
	{
		penstock_pipe_put_off(pipe, FIRST_PAUSE, LONGEST_PAUSE);
		ereport(LOG,
				(errcode(error->sqlerrcode),
				 errmsg("pipe \"%s\" will try its batch again in %d ms: %s", pipe->row->name, pipe->pause, error->message)));
	}
	else
		mark_failed(pipe, error);
	FreeErrorData(error);
	return retry;
}

static void
set_idle(PenstockPipe *pipe, uint64 ticket)
{
	LWLockAcquire(penstock_engine->lock, LW_EXCLUSIVE);
	if (pipe->slot->done < ticket)
	{
		pipe->slot->done = ticket;
		ConditionVariableBroadcast(&pipe->slot->caught_up);
	}
	LWLockRelease(penstock_engine->lock);
}

/* Which request to catch up is fulfilled, now that there was nothing to take; 0: none. */
static uint64
reached(PenstockPipe *pipe, uint64 ticket)
{
	if (pipe->connector == NULL || pipe->consumer == NULL)
		return ticket;
	if (pipe->connector->caught_up != NULL)
		return pipe->connector->caught_up(pipe->consumer, ticket);
	return pipe->connector->lag == NULL || pipe->connector->lag(pipe->consumer) <= 0 ? ticket : 0;
}

/* There was nothing to take: what the source still has, and whether somebody who waits is served. */
static void
look_at_rest(PenstockPipe *pipe, uint64 ticket)
{
	if (pipe->connector != NULL && pipe->connector->lag != NULL && pipe->consumer != NULL)
		pipe->slot->pipe_stat.lag = pipe->connector->lag(pipe->consumer);
	if (pipe->slot->done >= ticket)
		return;
	set_idle(pipe, reached(pipe, ticket));
	/* asking may have changed how long it may sleep */
	if (pipe->connector != NULL && pipe->consumer != NULL && pipe->slot->done < ticket)
		pipe->connector->wait_for(pipe->consumer, &pipe->wait);
}

/* Sleeps until somebody calls, the source has something, or it is time. */
static void
sleep_until(PenstockPipe *pipe, PenstockStep step, long stats_due)
{
	PenstockWaitFor *wait = &pipe->wait;
	long		timeout = -1;
	int			fd = -1;

	if (step == PENSTOCK_STEP_LATER || pipe->retry_at != 0)
		timeout = Max(1, (long) TimestampDifferenceMilliseconds(GetCurrentTimestamp(), pipe->retry_at));
	else if (pipe->connector != NULL)
	{
		fd = wait->fd;
		timeout = wait->timeout;
	}
	if (stats_due > 0 && (timeout < 0 || timeout > stats_due))
		timeout = stats_due;
	if (timeout == 0 || pipe->slot->called || pipe_changed || ConfigReloadPending ||
		(pipe->connector == NULL && penstock_tail_called()))
		return;
	(void) WaitLatchOrSocket(MyLatch,
							 WL_LATCH_SET | WL_EXIT_ON_PM_DEATH | (timeout >= 0 ? WL_TIMEOUT : 0) |
							 (fd >= 0 ? wait->events : 0),
							 fd >= 0 ? fd : PGINVALID_SOCKET, Min(timeout, INT_MAX), PG_WAIT_EXTENSION);
}

/* Looks at what others want of this worker; false: it is to leave. */
static bool
look_around(PenstockPipe *pipe, uint64 *ticket)
{
	PenstockDatabase *database;
	bool		away;

	LWLockAcquire(penstock_engine->lock, LW_EXCLUSIVE);
	database = penstock_database_find(MyDatabaseId, false);
	away = database != NULL && penstock_database_wanted_away(database);
	pipe->slot->called = false;
	*ticket = pipe->slot->requested;
	LWLockRelease(penstock_engine->lock);
	return !away;
}

static void
main_loop(PenstockPipe *pipe)
{
	volatile bool redrive = true;

	for (;;)
	{
		volatile PenstockStep step = PENSTOCK_STEP_LATER;
		volatile bool leave = false;
		uint64		ticket;
		long		stats_due;

		ResetLatch(MyLatch);
		(void) penstock_tail_called();
		if (ConfigReloadPending)
		{
			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
			penstock_process_settings("penstock pipe", false);
		}
		if (!look_around(pipe, &ticket))
			return;
		AcceptInvalidationMessages();

		PG_TRY();
		{
			CHECK_FOR_INTERRUPTS();
			if (pipe_changed || pipe->row == NULL)
			{
				leave = !load(pipe);
				redrive = true;
			}
			if (!leave && (pipe->retry_at == 0 || pipe->retry_at <= GetCurrentTimestamp()))
			{
				pipe->retry_at = 0;
				MemoryContextReset(pipe->step_context);
				MemoryContextSwitchTo(pipe->step_context);
				/* a connector that decodes by itself needs its consumer */
				if (redrive && (pipe->connector == NULL || pipe->connector->decode == NULL || pipe->consumer != NULL))
					redrive = penstock_pipe_redrive_step(pipe);
				if (!pipe_changed)
					step = pipe->connector ? penstock_pipe_queue_step(pipe) : penstock_pipe_stream_step(pipe);
				if (step == PENSTOCK_STEP_NOTHING && !redrive)
					look_at_rest(pipe, ticket);
			}
		}
		PG_CATCH();
		{
			leave = !step_failed(pipe);
		}
		PG_END_TRY();
		if (leave)
		{
			penstock_process_leave();
			return;
		}
		MemoryContextSwitchTo(pipe->context);
		stats_due = pgstat_report_stat(false);
		if (step == PENSTOCK_STEP_DONE || (redrive && pipe->retry_at == 0 && step != PENSTOCK_STEP_LATER))
			continue;
		pgstat_report_activity(STATE_IDLE, NULL);
		sleep_until(pipe, step, stats_due);
	}
}

/*
 * penstock_pipe_main is the worker of one pipe; arg is its slot.
 */
void
penstock_pipe_main(Datum arg)
{
	PenstockPipe pipe = {0};

	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGINT, StatementCancelHandler);
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();

	pipe.slot = penstock_process_attach(DatumGetInt32(arg));
	pipe.oid = pipe.slot->pipe;
	BackgroundWorkerInitializeConnectionByOid(pipe.slot->dboid, InvalidOid, 0);
	penstock_process_settings("penstock pipe", false);
	pipe.context = AllocSetContextCreate(TopMemoryContext, "penstock pipe", ALLOCSET_DEFAULT_SIZES);
	CacheRegisterRelcacheCallback(relation_changed, (Datum) 0);
	CacheRegisterSyscacheCallback(FOREIGNSERVEROID, options_changed, (Datum) 0);
	CacheRegisterSyscacheCallback(USERMAPPINGOID, options_changed, (Datum) 0);

	StartTransactionCommand();
	if (OidIsValid(get_extension_oid("penstock", true)))
		penstock_version_check();
	CommitTransactionCommand();
	main_loop(&pipe);
	proc_exit(0);
}
