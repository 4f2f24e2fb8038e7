/*
 * producer.c
 *	  Writes to a queue: everything at flush, and nothing before.
 */
#include "postgres.h"

#include "common/hashfn.h"
#include "lib/stringinfo.h"
#include "utils/memutils.h"

#include "testqueue.h"

/* What waits for the flush, of one partition. */
typedef struct Waiting
{
	char	   *partition;
	StringInfoData records;
	int64		count;
} Waiting;

struct PenstockProducer
{
	const PenstockQueue *queue;
	const char *directory;
	const char *name;
	MemoryContext context;		/* of what waits */
	List	   *waiting;		/* of Waiting */
	int64		sent;			/* since the last flush or abort */
};

PenstockProducer *
testqueue_open_producer(const PenstockQueue *queue, PenstockOutcome *outcome, PenstockFault *fault)
{
	const PenstockConnectorApi *api = penstock_connector_api();
	PenstockProducer *producer = palloc0(sizeof(PenstockProducer));

	producer->queue = queue;
	*outcome = testqueue_fault(queue, "open_producer", false, 10000, NULL, fault);
	if (*outcome != PENSTOCK_OK || !testqueue_may_enter(queue, outcome, fault))
		return NULL;
	producer->directory = api->option(queue, "directory");
	producer->name = api->option(queue, "queue");
	producer->context = AllocSetContextCreate(CurrentMemoryContext, "test queue producer", ALLOCSET_DEFAULT_SIZES);
	if (api->option_bool(queue, "must_exist") && testqueue_partitions(producer->directory, producer->name) == NIL)
	{
		*outcome = penstock_fault(fault, PENSTOCK_REFUSED, ERRCODE_FDW_TABLE_NOT_FOUND,
								  "queue \"%s\" does not exist", producer->name);
		return NULL;
	}
	return producer;
}

static Waiting *
waiting_for(PenstockProducer *producer, const char *partition)
{
	Waiting    *w;
	ListCell   *lc;

	foreach(lc, producer->waiting)
	{
		w = lfirst(lc);
		if (strcmp(w->partition, partition) == 0)
			return w;
	}
	w = palloc0(sizeof(Waiting));
	w->partition = pstrdup(partition);
	initStringInfo(&w->records);
	producer->waiting = lappend(producer->waiting, w);
	return w;
}

PenstockOutcome
testqueue_send(PenstockProducer *producer, const PenstockMessage *message, int timeout, PenstockFault *fault)
{
	const PenstockConnectorApi *api = penstock_connector_api();
	PenstockOutcome outcome = testqueue_fault(producer->queue, "send", false, timeout, NULL, fault);
	int64		partitions = api->option_int(producer->queue, "partitions");
	const char *partition = message->partition;
	char		chosen[32];
	MemoryContext old;
	Waiting    *w;

	if (outcome != PENSTOCK_OK)
		return outcome;
	if (message->length > api->option_int(producer->queue, "max_message"))
		return penstock_fault(fault, PENSTOCK_REFUSED, ERRCODE_PROGRAM_LIMIT_EXCEEDED,
							  "message of %d bytes is longer than the broker takes", message->length);
	if (message->nheaders > TESTQUEUE_MAX_HEADERS)
		return penstock_fault(fault, PENSTOCK_REFUSED, ERRCODE_PROGRAM_LIMIT_EXCEEDED,
							  "message has %d headers, more than the broker takes", message->nheaders);
	if (partition == NULL || partition[0] == '\0')
	{
		uint32		hash = message->key ? hash_bytes((const unsigned char *) message->key, message->key_length) : producer->sent;

		snprintf(chosen, sizeof(chosen), INT64_FORMAT, hash % partitions);
		partition = chosen;
	}
	else if (!testqueue_name_ok(partition))
		return penstock_fault(fault, PENSTOCK_REFUSED, ERRCODE_FDW_ERROR, "there is no partition \"%s\"", partition);

	old = MemoryContextSwitchTo(producer->context);
	w = waiting_for(producer, partition);
	testqueue_pack(&w->records, message);
	w->count++;
	producer->sent++;
	MemoryContextSwitchTo(old);
	return testqueue_fault(producer->queue, "send", true, timeout, NULL, fault);
}

static void
forget(PenstockProducer *producer)
{
	MemoryContextReset(producer->context);
	producer->waiting = NIL;
	producer->sent = 0;
}

/* Writes what waits, but for flush partial: then the first messages of the first partition only. */
static void
write_waiting(PenstockProducer *producer, int64 only)
{
	ListCell   *lc;

	foreach(lc, producer->waiting)
	{
		Waiting    *w = lfirst(lc);
		int64		length = 0;

		if (only >= w->count)
			only = w->count;
		for (int64 i = 0; i < only; i++)
		{
			int32		record;

			memcpy(&record, w->records.data + length, sizeof(record));
			length += record;
		}
		if (only < 0)
			testqueue_append(producer->directory, producer->name, w->partition, w->records.data, w->records.len, w->count);
		else if (only > 0)
			testqueue_append(producer->directory, producer->name, w->partition, w->records.data, length, only);
		if (only >= 0)
			break;
	}
}

PenstockOutcome
testqueue_flush(PenstockProducer *producer, int timeout, PenstockFault *fault)
{
	TestQueueFault wanted;
	PenstockOutcome outcome = testqueue_fault(producer->queue, "flush", false, timeout, &wanted, fault);

	if (outcome != PENSTOCK_OK)
		return outcome;
	if ((strcmp(wanted.action, "refuse") == 0 || strcmp(wanted.action, "partial") == 0) && producer->sent >= wanted.k)
	{
		if (strcmp(wanted.action, "partial") == 0)
			write_waiting(producer, wanted.k - 1);
		forget(producer);
		return penstock_fault(fault, PENSTOCK_REFUSED, ERRCODE_FDW_ERROR,
							  "broker refuses message " INT64_FORMAT " of queue \"%s\"", wanted.k, producer->name);
	}
	write_waiting(producer, -1);
	forget(producer);
	return testqueue_fault(producer->queue, "flush", true, timeout, NULL, fault);
}

void
testqueue_abort(PenstockProducer *producer)
{
	forget(producer);
	testqueue_fault_simple(producer->queue, "abort");
}

void
testqueue_close_producer(PenstockProducer *producer)
{
	testqueue_fault_simple(producer->queue, "close_producer");
}
