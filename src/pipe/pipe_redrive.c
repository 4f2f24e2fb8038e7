/*
 * pipe_redrive.c
 *	  Dead letters that are sent again: a batch of their own, between those of the source.
 */
#include "postgres.h"

#include "access/xact.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "compat/compat.h"
#include "pipe/pipe_internal.h"

/* So many at a time. */
#define REDRIVE_ROWS 1000

/*
 * penstock_pipe_redrive_step takes some dead letters that are to be sent again: those that succeed are gone, those that fail are
 * dead letters anew, in one transaction.  Returns whether there may be more.
 */
bool
penstock_pipe_redrive_step(PenstockPipe *pipe)
{
	TimestampTz start = GetCurrentTimestamp();
	PenstockPipeBatch batch = {0};
	List	   *letters;

	MemoryContextReset(pipe->batch_context);
	if (!penstock_pipe_begin(pipe))
		return true;
	letters = penstock_dead_letters_take(pipe->oid, REDRIVE_ROWS);
	if (letters != NIL)
	{
		if (pipe->connector != NULL)
			penstock_pipe_queue_redrive(pipe, &batch, letters);
		else
			penstock_pipe_stream_redrive(pipe, &batch, letters);
	}
	PopActiveSnapshot();
	CommitTransactionCommand();
	MemoryContextSwitchTo(pipe->context);
	if (letters != NIL)
		penstock_pipe_report(pipe, batch.nrows, 0, &batch, list_length(batch.failures), start);
	return list_length(letters) == REDRIVE_ROWS;
}
