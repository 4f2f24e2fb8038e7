/*
 * pipe_stats.c
 *	  What is to be seen of pipes, and waiting for one.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xlog.h"
#include "catalog/namespace.h"
#include "catalog/pg_authid.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "storage/condition_variable.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"
#include "utils/varlena.h"
#include "utils/wait_event.h"

#include "compat/compat.h"
#include "pipe/pipe_internal.h"
#include "util/engine_call.h"
#include "util/errors.h"

PG_FUNCTION_INFO_V1(penstock_stat_pipe_rows);
PG_FUNCTION_INFO_V1(penstock_pipe_text);
PG_FUNCTION_INFO_V1(penstock_catch_up_named);

/* How often (ms) a waiting catch_up looks whether its pipe still runs. */
#define LOOK_AGAIN 200

static const char *
worker_state(const PenstockDatabase *slot)
{
	TimestampTz now = GetCurrentTimestamp();

	if (slot->no_slot)
		return "waiting for a background worker slot";
	switch (slot->state)
	{
		case PENSTOCK_WORKER_RUNNING:
			return slot->pipe_stat.waiting ? "waiting for the source" : "running";
		case PENSTOCK_WORKER_STARTING:
			return "starting";
		case PENSTOCK_WORKER_WANTED:
			return slot->next_start > now ? "pausing after an error" : "starting";
		default:
			return "stopped";
	}
}

static bool
may_see(Oid owner)
{
	return has_privs_of_role(GetUserId(), owner) || has_privs_of_role(GetUserId(), ROLE_PG_READ_ALL_STATS);
}

/*
 * penstock_stat_pipe_rows(): the workers of this database's pipes.
 */
Datum
penstock_stat_pipe_rows(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;

	InitMaterializedSRF(fcinfo, 0);
	for (int i = 0; i < PENSTOCK_MAX_SLOTS; i++)
	{
		PenstockDatabase slot;
		PenstockPipeStat *stat = &slot.pipe_stat;
		PenstockPipeRow *row;
		Datum		values[17] = {0};
		bool		isnull[17] = {false};
		const char *error;

		LWLockAcquire(penstock_engine->lock, LW_SHARED);
		slot = penstock_engine->slots[i];
		LWLockRelease(penstock_engine->lock);
		if (slot.dboid != MyDatabaseId || !OidIsValid(slot.pipe))
			continue;
		row = penstock_pipe_get(slot.pipe);
		/* an error may quote data */
		error = row == NULL || !may_see(row->owner) ? "" : stat->waiting ? stat->source_error : slot.last_error;

		values[0] = ObjectIdGetDatum(slot.pipe);
		values[1] = Int32GetDatum(slot.pid);
		isnull[1] = slot.pid == 0;
		values[2] = CStringGetTextDatum(worker_state(&slot));
		values[3] = Int64GetDatum(stat->batches);
		values[4] = Int64GetDatum(stat->events);
		values[5] = Int64GetDatum(stat->dead_letters);
		values[6] = Int64GetDatum(stat->skipped);
		values[7] = Int64GetDatum(stat->retries);
		values[8] = Int64GetDatum(stat->divided);
		values[9] = Int64GetDatum(stat->lag);
		isnull[9] = stat->lag < 0;
		values[10] = Float8GetDatum(stat->last_batch_ms);
		isnull[10] = stat->batches == 0;
		values[11] = Float8GetDatum(stat->total_ms);
		values[12] = TimestampTzGetDatum(stat->last_batch_at);
		isnull[12] = stat->last_batch_at == 0;
		values[13] = Int64GetDatum(slot.restarts);
		values[14] = TimestampTzGetDatum(stat->retry_at);
		isnull[14] = stat->retry_at == 0;
		values[15] = error[0] ? CStringGetTextDatum(error) : (Datum) 0;
		isnull[15] = error[0] == '\0';
		values[16] = TimestampTzGetDatum(slot.last_error_at);
		isnull[16] = slot.last_error_at == 0;
		tuplestore_putvalues(result->setResult, result->setDesc, values, isnull);
	}
	return (Datum) 0;
}

/*
 * penstock_pipe_text(pipe): statements and error, NULL for those who may not see them.
 */
Datum
penstock_pipe_text(PG_FUNCTION_ARGS)
{
	PenstockPipeRow *row = penstock_pipe_get(PG_GETARG_OID(0));
	Datum		values[2] = {0};
	bool		isnull[2] = {true, true};
	TupleDesc	desc;

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	if (row != NULL && may_see(row->owner))
	{
		isnull[0] = false;
		values[0] = CStringGetTextDatum(row->statements);
		isnull[1] = row->error == NULL;
		values[1] = row->error ? CStringGetTextDatum(row->error) : (Datum) 0;
	}
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, isnull)));
}

/* ---- catch_up ---- */

static PenstockPipeRow *
running_pipe(Oid oid, const char *name)
{
	PenstockPipeRow *row = penstock_pipe_get(oid);

	if (row == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("pipe \"%s\" does not exist", name)));
	if (row->status != PENSTOCK_PIPE_ACTIVE)
		ereport(ERROR,
				(errcode(ERRCODE_PENSTOCK_STOPPED),
				 row->status == PENSTOCK_PIPE_PAUSED ? errmsg("pipe \"%s\" is paused", name) :
				 errmsg("pipe \"%s\" has stopped with an error", name),
				 row->error && may_see(row->owner) ? errdetail("The error was: %s", row->error) : 0,
				 errhint("Call penstock.resume() first.")));
	return row;
}

/* Takes a ticket of the pipe's worker. */
static uint64
take_ticket(Oid pipe, ConditionVariable **caught_up)
{
	PenstockDatabase *slot;
	uint64		ticket = 0;

	(void) penstock_pipe_request(MyDatabaseId, pipe);
	LWLockAcquire(penstock_engine->lock, LW_EXCLUSIVE);
	slot = penstock_slot_find(MyDatabaseId, pipe, false);
	if (slot != NULL)
	{
		ticket = ++slot->requested;
		*caught_up = &slot->caught_up;
	}
	LWLockRelease(penstock_engine->lock);
	if (ticket == 0)
		ereport(ERROR,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("penstock serves at most %d databases and pipes", PENSTOCK_MAX_SLOTS)));
	penstock_pipe_wake(MyDatabaseId, pipe);
	return ticket;
}

static bool
is_done(Oid pipe, uint64 ticket)
{
	PenstockDatabase *slot;
	bool		done;

	LWLockAcquire(penstock_engine->lock, LW_SHARED);
	slot = penstock_slot_find(MyDatabaseId, pipe, false);
	done = slot == NULL || slot->done >= ticket;
	LWLockRelease(penstock_engine->lock);
	return done;
}

static void
wait_for_pipe(PenstockPipeRow *row, int64 timeout_ms)
{
	ConditionVariable *caught_up = NULL;
	TimestampTz start = GetCurrentTimestamp();
	uint64		ticket;

	(void) running_pipe(row->oid, row->name);
	ticket = take_ticket(row->oid, &caught_up);
	ConditionVariablePrepareToSleep(caught_up);
	while (!is_done(row->oid, ticket))
	{
		if (timeout_ms > 0 && TimestampDifferenceExceeds(start, GetCurrentTimestamp(), (int) Min(timeout_ms, PG_INT32_MAX)))
			ereport(ERROR,
					(errcode(ERRCODE_QUERY_CANCELED),
					 errmsg("not caught up within %lld ms", (long long) timeout_ms)));
		if (ConditionVariableTimedSleep(caught_up, timeout_ms > 0 ? Min(timeout_ms, LOOK_AGAIN) : LOOK_AGAIN, PG_WAIT_EXTENSION))
			(void) running_pipe(row->oid, row->name);
	}
	ConditionVariableCancelSleep();
	(void) running_pipe(row->oid, row->name);
}

/*
 * penstock.catch_up(name text, timeout interval default null): of a pipe, or of a continuous view.
 */
Datum
penstock_catch_up_named(PG_FUNCTION_ARGS)
{
	char	   *name;
	PenstockPipeRow *row;
	int64		timeout_ms = 0;

	if (!PG_ARGISNULL(1))
	{
		Interval   *timeout = PG_GETARG_INTERVAL_P(1);

		timeout_ms = timeout->time / 1000 +
			((int64) timeout->month * DAYS_PER_MONTH + timeout->day) * (SECS_PER_DAY * INT64CONST(1000));
		if (timeout_ms <= 0 || timeout_ms > PG_INT32_MAX)
			ereport(ERROR,
					(errcode(ERRCODE_DATETIME_VALUE_OUT_OF_RANGE),
					 errmsg("timeout must be positive and less than 24 days")));
	}
	if (PG_ARGISNULL(0))
	{
		penstock_engine_catch_up(InvalidOid, (int) timeout_ms);
		PG_RETURN_VOID();
	}
	name = text_to_cstring(PG_GETARG_TEXT_PP(0));
	if (RecoveryInProgress() || (row = penstock_pipe_by_name(name)) == NULL)
		penstock_engine_catch_up(RangeVarGetRelid(makeRangeVarFromNameList(textToQualifiedNameList(cstring_to_text(name))), NoLock, false),
								 (int) timeout_ms);
	else
		wait_for_pipe(row, timeout_ms);
	PG_RETURN_VOID();
}
