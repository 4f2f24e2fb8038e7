/*
 * pipe_batch.c
 *	  One batch: the statements run over all of it; if that fails, it is divided until the events that fail are alone.
 *
 * Each part is a subtransaction, the parts in order.  What is not the events' fault is thrown on: the whole batch is done
 * again later, or the pipe stops.
 */
#include "postgres.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "utils/memutils.h"
#include "utils/resowner.h"

#include "compat/compat.h"
#include "pipe/pipe_internal.h"
#include "stream/stream.h"
#include "util/errors.h"

/* So many events in a row that fail as if by the pipe's fault, and none that does not: it is the pipe's. */
#define MAX_SUSPECTS 16

/*
 * penstock_pipe_blame tells what an error says about the events: data that a statement, a constraint or a function refuses is
 * a dead letter; what would fail for every event stops the pipe; what may go away is tried again.
 */
PenstockBlame
penstock_pipe_blame(int sqlstate)
{
	switch (sqlstate)
	{
		case ERRCODE_LOCK_NOT_AVAILABLE:
		case ERRCODE_OBJECT_IN_USE:
		case ERRCODE_FDW_UNABLE_TO_ESTABLISH_CONNECTION:
		case ERRCODE_PENSTOCK_STOPPED:	/* a view that a statement waits for */
			return PENSTOCK_BLAME_NOBODY;
		case ERRCODE_FDW_ERROR:
		case ERRCODE_UNTRANSLATABLE_CHARACTER:
		case ERRCODE_CHARACTER_NOT_IN_REPERTOIRE:
			return PENSTOCK_BLAME_EVENT;
	}
	switch (ERRCODE_TO_CATEGORY(sqlstate))
	{
		case ERRCODE_CONNECTION_EXCEPTION:
		case ERRCODE_TRANSACTION_ROLLBACK:
		case ERRCODE_INSUFFICIENT_RESOURCES:
		case ERRCODE_OPERATOR_INTERVENTION:
			return PENSTOCK_BLAME_NOBODY;
		case ERRCODE_DATA_EXCEPTION:
		case ERRCODE_CARDINALITY_VIOLATION:
		case ERRCODE_INTEGRITY_CONSTRAINT_VIOLATION:
		case ERRCODE_WITH_CHECK_OPTION_VIOLATION:
		case ERRCODE_PROGRAM_LIMIT_EXCEEDED:
		case ERRCODE_PLPGSQL_ERROR:
		case ERRCODE_CASE_NOT_FOUND:
		case ERRCODE_TRIGGERED_DATA_CHANGE_VIOLATION:
		case ERRCODE_EXTERNAL_ROUTINE_EXCEPTION:
			return PENSTOCK_BLAME_EVENT;
		case ERRCODE_FEATURE_NOT_SUPPORTED:
		case ERRCODE_SYNTAX_ERROR_OR_ACCESS_RULE_VIOLATION:
		case ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE:
		case ERRCODE_SYSTEM_ERROR:
		case ERRCODE_CONFIG_FILE_ERROR:
		case ERRCODE_FDW_ERROR:
		case ERRCODE_INTERNAL_ERROR:
		case ERRCODE_INVALID_TRANSACTION_STATE:
		case ERRCODE_INVALID_TRANSACTION_TERMINATION:
		case ERRCODE_INVALID_AUTHORIZATION_SPECIFICATION:
			return PENSTOCK_BLAME_PIPE;
		default:
			/* SQLSTATEs of the user's own are raised about data */
			return PENSTOCK_BLAME_EVENT;
	}
}

/*
 * penstock_pipe_note_failure notes that an event has failed; later scans pass it by.
 */
void
penstock_pipe_note_failure(PenstockPipeBatch *batch, int row, int statement, ErrorData *error, const char *column)
{
	MemoryContext old = MemoryContextSwitchTo(batch->context);
	PenstockFailure *failure = palloc0(sizeof(PenstockFailure));

	failure->row = row;
	failure->statement = statement;
	failure->sqlstate = error->sqlerrcode;
	failure->text = pstrdup(error->message ? error->message : "");
	failure->detail = error->detail ? pstrdup(error->detail) : NULL;
	failure->column = column ? pstrdup(column) : error->column_name ? pstrdup(error->column_name) : NULL;
	batch->failures = lappend(batch->failures, failure);
	batch->rows[row].left_out = true;
	MemoryContextSwitchTo(old);
}

/*
 * penstock_pipe_stop_at, see pipe_internal.h.  The batch is done again as a whole when the pipe is resumed.
 */
void
penstock_pipe_stop_at(PenstockPipeBatch *batch, int row, ErrorData *error)
{
	MemoryContext old = MemoryContextSwitchTo(batch->context);
	const char *where = NULL;

	if (batch->messages != NULL)
		where = psprintf("partition \"%s\", offset %lld", batch->messages[row].partition ? batch->messages[row].partition : "",
						 (long long) batch->messages[row].offset);
	else
		for (int i = 0; i < batch->nsets; i++)
			if (row >= batch->sets[i].from && row < batch->sets[i].to)
				where = psprintf("event %.200s", penstock_pipe_row_json(batch->sets[i].relid, &batch->rows[row]));
	if (where != NULL)
		error->detail = error->detail ? psprintf("%s; %s", where, error->detail) : pstrdup(where);
	MemoryContextSwitchTo(old);
	ReThrowError(error);
}

/* Gives the statements rows from .. to - 1; returns how many of them count. */
static int
give(PenstockPipeBatch *batch, int from, int to, PenstockGivenRows *sets)
{
	int			n = 0;

	for (int i = 0; i < batch->nsets; i++)
	{
		sets[i] = batch->sets[i];
		sets[i].rows = batch->rows;
		sets[i].from = Max(from, batch->sets[i].from);
		sets[i].to = Max(sets[i].from, Min(to, batch->sets[i].to));
	}
	penstock_given_rows_set(sets, batch->nsets);
	for (int i = from; i < to; i++)
		if (!batch->rows[i].left_out)
			n++;
	return n;
}

/* Runs the statements in a subtransaction.  NULL, or the error, in the batch's context. */
static ErrorData *
try_part(PenstockPipeBatch *batch, int from, int to)
{
	MemoryContext old = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	PenstockGivenRows *sets = palloc(Max(batch->nsets, 1) * sizeof(PenstockGivenRows));
	volatile int n = give(batch, from, to, sets);
	ErrorData  *volatile error = NULL;

	if (n == 0)
		return NULL;
	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(old);
	PG_TRY();
	{
		penstock_statements_run(batch->statements, n, true);
		if (batch->careful)
			penstock_outbox_flush();
		ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(batch->context);
		error = CopyErrorData();
		FlushErrorState();
		penstock_scope_set(NULL);
		penstock_delta_assume_rows(0);
		RollbackAndReleaseCurrentSubTransaction();
	}
	PG_END_TRY();
	MemoryContextSwitchTo(old);
	CurrentResourceOwner = owner;
	pfree(sets);
	return error;
}

/* Runs the statements over a part, which has failed as a whole if "known" says so. */
static void
run_part(PenstockPipeBatch *batch, int from, int to, ErrorData *known)
{
	ErrorData  *error = known ? known : try_part(batch, from, to);
	int			middle = from + (to - from) / 2;
	PenstockBlame blame;

	check_stack_depth();
	CHECK_FOR_INTERRUPTS();
	if (error == NULL)
	{
		batch->succeeded = true;
		return;
	}
	blame = penstock_pipe_blame(error->sqlerrcode);
	if (blame == PENSTOCK_BLAME_NOBODY)
		ReThrowError(error);
	/* what would stop the pipe may still be one event's doing, such as a table's name in it; but not if none gets through */
	if (blame == PENSTOCK_BLAME_PIPE && !batch->succeeded &&
		(batch->nrows == 1 || (to - from == 1 && ++batch->suspects >= MAX_SUSPECTS)))
		ReThrowError(error);
	if (to - from == 1)
	{
		if (batch->pipe->on_error == PENSTOCK_ON_ERROR_STOP)
			penstock_pipe_stop_at(batch, from, error);
		penstock_pipe_note_failure(batch, from, penstock_statements_current(), error, NULL);
		return;
	}
	batch->divided = true;
	run_part(batch, from, middle, NULL);
	run_part(batch, middle, to, NULL);
}

void
penstock_pipe_run(PenstockPipeBatch *batch)
{
	batch->succeeded = false;
	batch->suspects = 0;
	run_part(batch, 0, batch->nrows, NULL);
	penstock_given_rows_clear();
	if (batch->suspects > 0 && !batch->succeeded)
	{
		PenstockFailure *failure = llast(batch->failures);

		ereport(ERROR,
				(errcode(failure->sqlstate),
				 errmsg("every event of a batch failed: %s", failure->text)));
	}
}
