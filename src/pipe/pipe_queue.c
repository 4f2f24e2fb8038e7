/*
 * pipe_queue.c
 *	  A pipe whose source is a queue.
 *
 * The batch's effect and the places it has read to are one transaction; the broker is told afterwards, and only of what is on
 * disk: a connector with offsets commits asynchronously and acknowledges now and then after a commit that was waited for, one without
 * commits each batch durably and acknowledges it.
 */
#include "postgres.h"

#include "access/table.h"
#include "access/xact.h"
#include "miscadmin.h"
#include "storage/latch.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/resowner.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"
#include "utils/wait_event.h"

#include "compat/compat.h"
#include "pipe/pipe_internal.h"
#include "util/errors.h"
#include "util/stop_point.h"

/* Pauses (ms) while the source is away, and while it refuses. */
#define AWAY_SHORTEST 100
#define AWAY_LONGEST 30000
#define REFUSED_SHORTEST 1000
#define REFUSED_LONGEST 60000
/* So many messages from the batch's first on that cannot be decoded, as if by the pipe's fault: it is the pipe's. */
#define MAX_UNDECODED 16
/* How often (ms) a source with offsets is told how far its events are safe. */
#define ACKNOWLEDGE_PAUSE 200

/*
 * penstock_pipe_queue_close closes the consumer; what was not acknowledged will come again.
 */
void
penstock_pipe_queue_close(PenstockPipe *pipe)
{
	PenstockConsumer *consumer = pipe->consumer;

	pipe->consumer = NULL;
	if (consumer != NULL)
		penstock_connector_quietly(pipe->connector->close, consumer);
	pipe->batch = NULL;
	pipe->unacknowledged = false;
	if (pipe->consumer_context != NULL)
		MemoryContextDelete(pipe->consumer_context);
	pipe->consumer_context = NULL;
}

/* Makes the queue, with the options of now; none if the foreign table is gone. */
static void
open_queue(PenstockPipe *pipe)
{
	MemoryContext old;

	pipe->queue = NULL;
	pipe->consumer_context = AllocSetContextCreate(pipe->context, "penstock consumer", ALLOCSET_DEFAULT_SIZES);
	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	old = MemoryContextSwitchTo(pipe->consumer_context);
	if (SearchSysCacheExists1(RELOID, ObjectIdGetDatum(pipe->row->source)))
		pipe->queue = penstock_queue_open(pipe->row->source, pipe->row->owner, penstock_pipe_consumer_name(pipe->oid));
	MemoryContextSwitchTo(old);
	PopActiveSnapshot();
	CommitTransactionCommand();
}

/*
 * penstock_pipe_queue_drop removes, after the pipe was dropped, what its connector has outside, such as a replication slot.
 */
void
penstock_pipe_queue_drop(PenstockPipe *pipe)
{
	PenstockConsumer *consumer = pipe->consumer;
	PenstockFault fault = {0};

	if (pipe->connector->drop == NULL)
		return;
	/* the source is away, or refuses */
	if (pipe->queue == NULL || pipe->consumer_context == NULL)
		open_queue(pipe);
	if (pipe->queue == NULL)
		return;
	/* the queue's memory is needed a little longer than the consumer */
	pipe->consumer = NULL;
	if (consumer != NULL)
		penstock_connector_quietly(pipe->connector->close, consumer);
	if (pipe->connector->drop(pipe->queue, &fault) != PENSTOCK_OK)
		ereport(LOG,
				(errcode(fault.sqlstate ? fault.sqlstate : ERRCODE_FDW_ERROR),
				 errmsg("what pipe \"%s\" has outside could not be removed: %s", pipe->row->name, fault.message),
				 fault.hint[0] ? errhint("%s", fault.hint) : 0));
}

/* The source is away, or refuses: closed, and said in stat_pipe. */
static PenstockStep
source_failed(PenstockPipe *pipe, PenstockOutcome outcome, const PenstockFault *fault)
{
	bool		refused = outcome == PENSTOCK_REFUSED;
	bool		news;
	char		text[PENSTOCK_ERROR_LENGTH];

	snprintf(text, sizeof(text), "%s: %s%s%s%s", unpack_sql_state(fault->sqlstate ? fault->sqlstate : ERRCODE_FDW_ERROR),
			 fault->message, fault->detail[0] ? " (" : "", fault->detail, fault->detail[0] ? ")" : "");
	penstock_pipe_queue_close(pipe);
	penstock_pipe_put_off(pipe, refused ? REFUSED_SHORTEST : AWAY_SHORTEST, refused ? REFUSED_LONGEST : AWAY_LONGEST);

	LWLockAcquire(penstock_engine->lock, LW_EXCLUSIVE);
	news = !pipe->slot->pipe_stat.waiting || strcmp(pipe->slot->pipe_stat.source_error, text) != 0;
	pipe->slot->pipe_stat.waiting = true;
	pipe->slot->pipe_stat.retry_at = pipe->retry_at;
	strlcpy(pipe->slot->pipe_stat.source_error, text, sizeof(pipe->slot->pipe_stat.source_error));
	LWLockRelease(penstock_engine->lock);

	if (news)
		ereport(LOG,
				(errcode(fault->sqlstate ? fault->sqlstate : ERRCODE_FDW_ERROR),
				 errmsg("pipe \"%s\" waits for its source: %s", pipe->row->name, text),
				 fault->hint[0] ? errhint("%s", fault->hint) : 0));
	return PENSTOCK_STEP_LATER;
}

static void
source_is_back(PenstockPipe *pipe)
{
	if (!pipe->slot->pipe_stat.waiting)
		return;
	LWLockAcquire(penstock_engine->lock, LW_EXCLUSIVE);
	pipe->slot->pipe_stat.waiting = false;
	pipe->slot->pipe_stat.retry_at = 0;
	LWLockRelease(penstock_engine->lock);
	ereport(LOG, (errmsg("pipe \"%s\" has its source again", pipe->row->name)));
}

/*
 * A partition that is read for the first time: where, is stored before its first message comes.  False: not now, the pipe
 * has changed.
 */
static bool
store_first_places(PenstockPipe *pipe, const PenstockStart *start)
{
	const PenstockPlace *places;
	PenstockPlace *missing;
	int			nplaces = 0;
	int			nmissing = 0;

	if (!pipe->connector->has_offsets || pipe->connector->first_places == NULL)
		return true;
	places = pipe->connector->first_places(pipe->consumer, &nplaces);
	missing = palloc(Max(nplaces, 1) * sizeof(PenstockPlace));
	for (int i = 0; i < nplaces; i++)
	{
		bool		known = false;

		for (int j = 0; j < start->nplaces && !known; j++)
			known = strcmp(places[i].partition, start->places[j].partition) == 0;
		if (!known)
			missing[nmissing++] = places[i];
	}
	if (nmissing == 0)
		return true;
	if (!penstock_pipe_begin(pipe))
		return false;
	penstock_places_write(pipe->oid, missing, nmissing);
	PopActiveSnapshot();
	CommitTransactionCommand();
	MemoryContextSwitchTo(pipe->step_context);
	return true;
}

/* Opens the source where the pipe left it. */
static PenstockOutcome
open_source(PenstockPipe *pipe, PenstockFault *fault)
{
	PenstockOutcome outcome = PENSTOCK_OK;
	PenstockStart start = {0};
	PenstockPlace *places;
	MemoryContext old;

	open_queue(pipe);
	if (pipe->queue == NULL)
	{
		fault->sqlstate = ERRCODE_UNDEFINED_TABLE;
		strlcpy(fault->message, "the foreign table does not exist", sizeof(fault->message));
		return PENSTOCK_REFUSED;
	}
	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	old = MemoryContextSwitchTo(pipe->consumer_context);
	places = penstock_places_read(pipe->oid, &start.nplaces);
	MemoryContextSwitchTo(old);
	PopActiveSnapshot();
	CommitTransactionCommand();

	pipe->connector = pipe->queue->connector;
	start.places = places;
	pipe->batch = penstock_batch_create(pipe->consumer_context, pipe->row->batch_rows, pipe->row->batch_bytes);
	MemoryContextSwitchTo(pipe->consumer_context);
	pipe->consumer = pipe->connector->open(pipe->queue, &start, &outcome, fault);
	MemoryContextSwitchTo(pipe->step_context);
	if (pipe->consumer == NULL)
		return outcome == PENSTOCK_OK ? PENSTOCK_AWAY : outcome;
	if (!store_first_places(pipe, &start))
		penstock_pipe_queue_close(pipe);	/* and opened again */
	return PENSTOCK_OK;
}

/* Sleeps until the source or somebody calls, at most so long (ms). */
static void
sleep_on_source(PenstockPipe *pipe, long timeout)
{
	PenstockWaitFor *wait = &pipe->wait;

	if (wait->timeout >= 0)
		timeout = Min(timeout, wait->timeout);
	if (timeout <= 0)
		return;
	(void) WaitLatchOrSocket(MyLatch,
							 WL_LATCH_SET | WL_EXIT_ON_PM_DEATH | WL_TIMEOUT | (wait->fd >= 0 ? wait->events : 0),
							 wait->fd >= 0 ? wait->fd : PGINVALID_SOCKET, timeout, PG_WAIT_EXTENSION);
	ResetLatch(MyLatch);
}

/*
 * Collects a batch: until it is full, or its first event has waited long enough.  While batches are quick, an event waits
 * no longer than a few of them take.
 */
static PenstockOutcome
collect(PenstockPipe *pipe, PenstockFault *fault)
{
	TimestampTz first = 0;
	long		most = Min((long) pipe->row->batch_time, (long) (2 * pipe->batch_ms + 1));
	PenstockOutcome outcome;

	for (;;)
	{
		long		left;

		outcome = pipe->connector->fetch(pipe->consumer, pipe->batch, fault);
		if (outcome != PENSTOCK_OK || pipe->batch->n == 0 || penstock_batch_is_full(pipe->batch))
			break;
		if (first == 0)
			first = GetCurrentTimestamp();
		left = most - (GetCurrentTimestamp() - first) / 1000;
		if (left <= 0)
			break;
		pipe->wait.fd = -1;
		pipe->wait.timeout = -1;
		pipe->connector->wait_for(pipe->consumer, &pipe->wait);
		if (pipe->wait.timeout == 0)
			continue;
		sleep_on_source(pipe, left);
		CHECK_FOR_INTERRUPTS();
	}
	return outcome;
}

/* ---- one batch ---- */

/* Decodes row i and those after it until one fails; returns the row that failed, or n. */
static int
decode_from(PenstockPipe *pipe, PenstockPipeBatch *batch, PenstockDecoder *decoder, PenstockMessage *messages, int i)
{
	volatile int at = i;
	MemoryContext old = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(batch->context);
	PG_TRY();
	{
		for (; at < batch->nrows; at++)
			if (!batch->rows[at].left_out)
				penstock_decoder_row(decoder, pipe->consumer, &messages[at], &batch->rows[at]);
		ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		ErrorData  *error;
		PenstockBlame blame;
		const char *column = penstock_decoder_column();

		MemoryContextSwitchTo(batch->context);
		error = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
		blame = penstock_pipe_blame(error->sqlerrcode);
		/* an input function may call anything an error of its own; but not if no message gets through */
		if (blame == PENSTOCK_BLAME_NOBODY ||
			(blame == PENSTOCK_BLAME_PIPE && at == list_length(batch->failures) && ++batch->suspects >= MAX_UNDECODED))
			ReThrowError(error);
		if (pipe->row->on_error == PENSTOCK_ON_ERROR_STOP)
			penstock_pipe_stop_at(batch, at, error);
		penstock_pipe_note_failure(batch, at, 0, error, column);
	}
	PG_END_TRY();
	MemoryContextSwitchTo(old);
	CurrentResourceOwner = owner;
	return at;
}

static void
decode_all(PenstockPipe *pipe, PenstockPipeBatch *batch, Relation rel, PenstockMessage *messages)
{
	PenstockDecoder *decoder;
	MemoryContext old = MemoryContextSwitchTo(batch->context);

	decoder = penstock_decoder_create(rel, pipe->queue);
	MemoryContextSwitchTo(old);
	for (int i = 0; i < batch->nrows; i++)
		i = decode_from(pipe, batch, decoder, messages, i);
}

static void
init_batch(PenstockPipe *pipe, PenstockPipeBatch *batch, const PenstockMessage *messages, int nrows)
{
	memset(batch, 0, sizeof(PenstockPipeBatch));
	batch->pipe = pipe->row;
	batch->statements = pipe->statements;
	batch->context = pipe->batch_context;
	batch->careful = pipe->careful;
	batch->messages = messages;
	batch->nrows = nrows;
	batch->rows = MemoryContextAllocExtended(batch->context, nrows * sizeof(PenstockGivenRow), MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO);
	batch->nsets = 1;
	batch->sets = MemoryContextAllocZero(batch->context, sizeof(PenstockGivenRows));
	batch->sets->relid = pipe->row->source;
	batch->sets->to = nrows;
}

static bool
apply(PenstockPipe *pipe)
{
	TimestampTz start = GetCurrentTimestamp();
	PenstockMessage *messages = pipe->batch->messages;
	PenstockPipeBatch batch;
	PenstockPlace *places;
	Relation	rel;
	int			nplaces;
	int			known;
	int			dead;

	MemoryContextReset(pipe->batch_context);
	init_batch(pipe, &batch, messages, pipe->batch->n);
	if (!penstock_pipe_begin(pipe))
		return false;
	if (pipe->connector->has_offsets)
		(void) set_config_option("synchronous_commit", "off", PGC_USERSET, PGC_S_SESSION, GUC_ACTION_LOCAL, true, 0, false);
	else
		ForceSyncCommit();
	rel = table_open(pipe->row->source, AccessShareLock);
	/* a message's id is known before it is decoded, a key after that */
	known = pipe->row->dedup_key == NULL ? penstock_pipe_leave_known_out(pipe, &batch, rel, messages) : 0;
	decode_all(pipe, &batch, rel, messages);
	if (pipe->row->dedup_key != NULL)
		known = penstock_pipe_leave_known_out(pipe, &batch, rel, messages);
	penstock_pipe_run(&batch);
	PENSTOCK_STOP_POINT(pipe_after_run);
	if (pipe->connector->has_offsets)
	{
		places = penstock_batch_places(pipe->batch, &nplaces);
		penstock_places_write(pipe->oid, places, nplaces);
	}
	dead = penstock_pipe_bury(pipe, &batch, messages);
	table_close(rel, NoLock);
	PopActiveSnapshot();
	PENSTOCK_STOP_POINT(pipe_before_commit);
	CommitTransactionCommand();

	/* before anything can go wrong: it must not be done again */
	penstock_batch_reset(pipe->batch);
	MemoryContextSwitchTo(pipe->step_context);
	PENSTOCK_STOP_POINT(pipe_after_commit);
	pipe->unacknowledged = true;
	pipe->batch_ms = (GetCurrentTimestamp() - start) / 1000.0;
	penstock_pipe_report(pipe, batch.nrows - known, known, &batch, dead, start);
	return true;
}

/* Tells the broker, if it is time to. */
static PenstockOutcome
acknowledge(PenstockPipe *pipe, bool now, PenstockFault *fault)
{
	PenstockOutcome outcome;

	if (!pipe->unacknowledged || pipe->connector->acknowledge == NULL)
		return PENSTOCK_OK;
	if (pipe->connector->has_offsets)
	{
		if (!now && !TimestampDifferenceExceeds(pipe->acknowledged_at, GetCurrentTimestamp(), ACKNOWLEDGE_PAUSE))
			return PENSTOCK_OK;
		penstock_queue_make_durable();
	}
	pipe->unacknowledged = false;
	pipe->acknowledged_at = GetCurrentTimestamp();
	outcome = pipe->connector->acknowledge(pipe->consumer, fault);
	PENSTOCK_STOP_POINT(pipe_after_acknowledge);
	return outcome;
}

/*
 * penstock_pipe_queue_acknowledge tells the broker of everything that was committed, before the consumer is closed in order.
 */
void
penstock_pipe_queue_acknowledge(PenstockPipe *pipe)
{
	PenstockFault fault = {0};

	if (pipe->consumer != NULL)
		(void) acknowledge(pipe, true, &fault);
}

/*
 * penstock_pipe_queue_step takes one batch, if there is one.  What the pipe may sleep on is in pipe->wait.
 */
PenstockStep
penstock_pipe_queue_step(PenstockPipe *pipe)
{
	PenstockFault fault = {0};
	PenstockOutcome outcome;

	if (pipe->consumer == NULL)
	{
		outcome = open_source(pipe, &fault);
		if (outcome != PENSTOCK_OK)
			return source_failed(pipe, outcome, &fault);
		if (pipe->consumer == NULL)
			return PENSTOCK_STEP_DONE;
	}
	outcome = PENSTOCK_OK;
	/* what is left of a batch that failed is done first */
	if (pipe->batch->n == 0)
		outcome = collect(pipe, &fault);
	if (pipe->batch->n == 0)
	{
		if (outcome == PENSTOCK_OK)
			outcome = acknowledge(pipe, true, &fault);
		if (outcome != PENSTOCK_OK)
			return source_failed(pipe, outcome, &fault);
		source_is_back(pipe);
		pipe->wait.fd = -1;
		pipe->wait.timeout = -1;
		pipe->connector->wait_for(pipe->consumer, &pipe->wait);
		pipe->pause = 0;
		return PENSTOCK_STEP_NOTHING;
	}
	source_is_back(pipe);
	PENSTOCK_STOP_POINT(pipe_after_collect);
	if (!apply(pipe))
		return PENSTOCK_STEP_DONE;
	pipe->pause = 0;
	pipe->careful = false;
	if (outcome == PENSTOCK_OK)
		outcome = acknowledge(pipe, false, &fault);
	if (outcome != PENSTOCK_OK)
		return source_failed(pipe, outcome, &fault);
	return PENSTOCK_STEP_DONE;
}

/*
 * penstock_pipe_queue_redrive makes a batch of dead letters; in the batch's transaction.
 */
void
penstock_pipe_queue_redrive(PenstockPipe *pipe, PenstockPipeBatch *batch, List *letters)
{
	PenstockMessage *messages = MemoryContextAlloc(pipe->batch_context, list_length(letters) * sizeof(PenstockMessage));
	Relation	rel = table_open(pipe->row->source, AccessShareLock);
	MemoryContext old;

	init_batch(pipe, batch, messages, list_length(letters));
	old = MemoryContextSwitchTo(pipe->batch_context);
	for (int i = 0; i < batch->nrows; i++)
	{
		PenstockRedriven *letter = list_nth(letters, i);

		if (letter->headers != NULL)
			penstock_properties_from_jsonb(letter->headers, &letter->message.headers, &letter->message.nheaders);
		if (letter->properties != NULL)
			penstock_properties_from_jsonb(letter->properties, &letter->message.properties, &letter->message.nproperties);
		messages[i] = letter->message;
	}
	MemoryContextSwitchTo(old);
	if (pipe->queue == NULL || pipe->consumer_context == NULL)
	{
		/* the source is away: what is needed of it is its options */
		PenstockQueue *queue = penstock_queue_open(pipe->row->source, pipe->row->owner, NULL);

		pipe->queue = queue;
		decode_all(pipe, batch, rel, messages);
		pipe->queue = NULL;
	}
	else
		decode_all(pipe, batch, rel, messages);
	penstock_pipe_run(batch);
	(void) penstock_pipe_bury(pipe, batch, messages);
	table_close(rel, NoLock);
}
