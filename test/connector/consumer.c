/*
 * consumer.c
 *	  Reads a queue: all its partitions, from where they were left.
 *
 * Nothing is open between two calls but what inotify gives, so an error anywhere leaks nothing.
 */
#include "postgres.h"

#include <sys/inotify.h>
#include <unistd.h>

#include "foreign/foreign.h"
#include "lib/stringinfo.h"
#include "storage/fd.h"
#include "storage/latch.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"

#include "testqueue.h"

typedef struct Partition
{
	char	   *name;
	int64		at;				/* number of the next record to be given */
	int64		row;			/* and rows of it that were given */
	int64		bytes;			/* where it begins in the file; -1: to be looked up */
	int64		done;			/* what has been acknowledged: here a revoked partition begins again */
	int64		done_row;
	int64		limit;			/* browsing: number of the record to end before */
	int64		records;		/* in the file, when it was looked at last */
	char	   *states;			/* with acknowledgements: of the first nstates records, with room for room_states */
	int64		nstates;
	int64		room_states;
	int64		given_from;		/* given and not acknowledged lie between these */
	int64		given_to;
} Partition;

struct PenstockConsumer
{
	const PenstockQueue *queue;
	const PenstockConnectorApi *api;
	const char *directory;
	const char *name;
	MemoryContext context;
	bool		acknowledges;
	bool		by_rows;		/* a record is a transaction, its lines are the messages */
	bool		browse;
	PenstockRange range;		/* when browsing */
	int			inotify;		/* -1: none */
	MemoryContextCallback released;	/* an error in open: nobody can call close */
	List	   *partitions;		/* of Partition */
	List	   *start;			/* of Partition: places that have no file yet */
	char	   *buffer;
	int64		room;
	bool	   *is_payload;		/* of columns, for decode; NULL: not yet looked up */
};

/*
 * testqueue_may_enter checks the password: the first line of DIRECTORY/password, if there is such a file.
 */
bool
testqueue_may_enter(const PenstockQueue *queue, PenstockOutcome *outcome, PenstockFault *fault)
{
	const PenstockConnectorApi *api = penstock_connector_api();
	const char *given = api->option(queue, "password");
	const char *user = api->option(queue, "user");
	FILE	   *file = AllocateFile(psprintf("%s/password", api->option(queue, "directory")), "r");
	char		password[256] = "";

	if (file == NULL)
		return true;
	if (fgets(password, sizeof(password), file) == NULL)
		password[0] = '\0';
	FreeFile(file);
	password[strcspn(password, "\n")] = '\0';
	if (given != NULL && strcmp(given, password) == 0)
		return true;
	*outcome = penstock_fault(fault, PENSTOCK_REFUSED, ERRCODE_INVALID_PASSWORD,
							  "broker does not let user \"%s\" in", user ? user : "");
	strlcpy(fault->hint, "Check the options user and password of the user mapping.", sizeof(fault->hint));
	return false;
}

static Partition *
find_partition(List *list, const char *name)
{
	ListCell   *lc;

	foreach(lc, list)
	{
		Partition  *p = lfirst(lc);

		if (strcmp(p->name, name) == 0)
			return p;
	}
	return NULL;
}

static bool
in_range(const PenstockConsumer *consumer, const char *partition)
{
	return !consumer->browse || consumer->acknowledges || consumer->range.partition == NULL ||
		strcmp(consumer->range.partition, partition) == 0;
}

/* Opens a partition's file and says how far it goes. */
static int
open_partition(PenstockConsumer *consumer, Partition *p, TestQueueEnd *end)
{
	int			fd = testqueue_open_file(testqueue_path(consumer->directory, consumer->name, p->name), O_RDWR);

	if (fd < 0)
	{
		*end = (TestQueueEnd) {.bytes = TESTQUEUE_HEADER};
		return -1;
	}
	testqueue_lock(fd);
	testqueue_read_end(fd, end);
	p->records = end->records;
	return fd;
}

static Partition *
new_partition(PenstockConsumer *consumer, const char *name, bool at_end)
{
	Partition  *p = palloc0(sizeof(Partition));
	Partition  *place = find_partition(consumer->start, name);
	TestQueueEnd end;
	int			fd;

	p->name = pstrdup(name);
	p->bytes = -1;
	p->limit = PG_INT64_MAX;
	p->given_from = PG_INT64_MAX;
	p->given_to = -1;
	fd = open_partition(consumer, p, &end);
	if (fd >= 0)
		CloseTransientFile(fd);
	if (place)
	{
		p->at = place->at;
		p->row = place->row;
	}
	else if (consumer->browse)
	{
		p->limit = end.records;
		if (!consumer->acknowledges && consumer->range.offset_from > 0)
			p->at = Min(consumer->range.offset_from, end.records);
		if (!consumer->acknowledges && consumer->range.offset_to < p->limit)
			p->limit = consumer->range.offset_to + 1;
	}
	else if (at_end && !consumer->acknowledges)
		p->at = end.records;
	p->done = p->at;
	p->done_row = p->row;
	if (consumer->acknowledges)
	{
		p->states = testqueue_read_states(consumer->directory, consumer->name, name, &p->nstates);
		p->room_states = p->nstates;
	}
	return p;
}

/* Takes note of partitions that have appeared. */
static void
find_partitions(PenstockConsumer *consumer, bool at_end)
{
	MemoryContext old = MemoryContextSwitchTo(consumer->context);
	List	   *names = testqueue_partitions(consumer->directory, consumer->name);
	ListCell   *lc;

	foreach(lc, names)
	{
		if (in_range(consumer, lfirst(lc)) && find_partition(consumer->partitions, lfirst(lc)) == NULL)
			consumer->partitions = lappend(consumer->partitions, new_partition(consumer, lfirst(lc), at_end));
	}
	list_free(names);
	MemoryContextSwitchTo(old);
}

static bool
places_exist(PenstockConsumer *consumer, PenstockOutcome *outcome, PenstockFault *fault)
{
	ListCell   *lc;

	foreach(lc, consumer->partitions)
	{
		Partition  *p = lfirst(lc);

		if (p->at > p->records && !consumer->browse)
		{
			*outcome = penstock_fault(fault, PENSTOCK_REFUSED, ERRCODE_FDW_ERROR,
									  "partition %s of queue \"%s\" ends at " INT64_FORMAT ", before the position " INT64_FORMAT,
									  p->name, consumer->name, p->records, p->at);
			return false;
		}
	}
	return true;
}

static void
close_inotify(void *arg)
{
	PenstockConsumer *consumer = arg;

	if (consumer->inotify >= 0)
		close(consumer->inotify);
	consumer->inotify = -1;
}

PenstockConsumer *
testqueue_open(const PenstockQueue *queue, const PenstockStart *start, PenstockOutcome *outcome, PenstockFault *fault)
{
	PenstockConsumer *consumer = palloc0(sizeof(PenstockConsumer));

	consumer->queue = queue;
	consumer->api = penstock_connector_api();
	*outcome = testqueue_fault(queue, "open", false, 10000, NULL, fault);
	if (*outcome != PENSTOCK_OK || !testqueue_may_enter(queue, outcome, fault))
		return NULL;

	consumer->context = CurrentMemoryContext;
	consumer->directory = consumer->api->option(queue, "directory");
	consumer->name = consumer->api->option(queue, "queue");
	consumer->acknowledges = !queue->connector->has_offsets;
	consumer->by_rows = queue->connector->decode != NULL;
	consumer->room = consumer->api->option_int(queue, "read_size");
	consumer->buffer = palloc(consumer->room);
	consumer->inotify = -1;
	consumer->released.func = close_inotify;
	consumer->released.arg = consumer;
	MemoryContextRegisterResetCallback(consumer->context, &consumer->released);
	if (start->browse)
	{
		consumer->browse = true;
		consumer->range = *start->browse;
		if (start->browse->partition)
			consumer->range.partition = pstrdup(start->browse->partition);
	}
	for (int i = 0; i < start->nplaces; i++)
	{
		Partition  *p = palloc0(sizeof(Partition));

		p->name = pstrdup(start->places[i].partition);
		p->at = start->places[i].at;
		p->row = start->places[i].row;
		consumer->start = lappend(consumer->start, p);
	}
	find_partitions(consumer, strcmp(consumer->api->option(queue, "start"), "latest") == 0);
	if (consumer->api->option_bool(queue, "must_exist") && testqueue_partitions(consumer->directory, consumer->name) == NIL)
	{
		*outcome = penstock_fault(fault, PENSTOCK_REFUSED, ERRCODE_FDW_TABLE_NOT_FOUND,
								  "queue \"%s\" does not exist", consumer->name);
		return NULL;
	}
	if (!places_exist(consumer, outcome, fault))
		return NULL;
	if (!consumer->browse && consumer->api->option_bool(queue, "notify"))
	{
		consumer->inotify = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
		if (consumer->inotify < 0 ||
			inotify_add_watch(consumer->inotify, consumer->directory, IN_MODIFY | IN_CREATE | IN_MOVED_TO) < 0)
		{
			*outcome = penstock_fault(fault, PENSTOCK_AWAY, ERRCODE_FDW_UNABLE_TO_ESTABLISH_CONNECTION,
									  "could not watch directory \"%s\": %s", consumer->directory, strerror(errno));
			testqueue_close(consumer);
			return NULL;
		}
		/* what came between the two */
		find_partitions(consumer, false);
	}
	return consumer;
}

/*
 * testqueue_first_places tells where partitions that had no place begin: what is the end now is not the end later.
 */
const PenstockPlace *
testqueue_first_places(PenstockConsumer *consumer, int *n)
{
	PenstockPlace *places = MemoryContextAlloc(consumer->context, (list_length(consumer->partitions) + 1) * sizeof(PenstockPlace));
	ListCell   *lc;

	*n = 0;
	foreach(lc, consumer->partitions)
	{
		Partition  *p = lfirst(lc);

		if (find_partition(consumer->start, p->name) == NULL)
			places[(*n)++] = (PenstockPlace) {.partition = p->name, .at = p->at, .row = p->row};
	}
	return places;
}

static char
state_of(const Partition *p, int64 number)
{
	return number < p->nstates ? p->states[number] : TESTQUEUE_NEW;
}

static void
set_state(PenstockConsumer *consumer, Partition *p, int64 number, char state)
{
	if (number >= p->room_states)
	{
		int64		room = Max(number + 1, p->room_states * 2);

		p->states = p->states ? repalloc_huge(p->states, room) : MemoryContextAlloc(consumer->context, room);
		p->room_states = room;
	}
	if (number >= p->nstates)
	{
		memset(p->states + p->nstates, TESTQUEUE_NEW, number + 1 - p->nstates);
		p->nstates = number + 1;
	}
	p->states[number] = state;
}

/* Gives one message; false: the batch is full. */
static bool
give(PenstockConsumer *consumer, PenstockBatch *batch, Partition *p, PenstockMessage *message, int record_length)
{
	char		size[32];
	char	   *file = psprintf("%s.%s", consumer->name, p->name);
	PenstockProperty properties[2] = {
		{.name = "file", .value = file, .length = strlen(file)},
		{.name = "size", .value = size}
	};
	bool		more;

	properties[1].length = snprintf(size, sizeof(size), "%d", record_length);
	message->properties = properties;
	message->nproperties = lengthof(properties);
	message->partition = consumer->acknowledges ? "" : p->name;
	message->offset = p->at;
	more = consumer->api->batch_add(batch, message);
	pfree(file);
	return more;
}

/* Gives the lines of a record that have not been given yet, as rows; p->row is 0 when it is done with. */
static bool
give_rows(PenstockConsumer *consumer, PenstockBatch *batch, Partition *p, PenstockMessage *message, int length)
{
	const char *at = message->payload;
	const char *end = at + message->length;
	int64		skip = p->row;
	bool		more = true;

	p->row = 0;
	for (int64 row = 0; more && at != NULL && at < end; row++)
	{
		const char *line = at;
		const char *newline = memchr(at, '\n', end - at);

		at = newline ? newline + 1 : end;
		if (row < skip)
			continue;
		message->payload = line;
		message->length = (newline ? newline : end) - line;
		message->row = MemoryContextStrdup(consumer->api->batch_context(batch),
										   pnstrdup(line, message->length));
		message->next_at = at < end ? p->at : p->at + 1;
		message->next_row = at < end ? row + 1 : 0;
		more = give(consumer, batch, p, message, length);
		p->row = message->next_row;
	}
	return more;
}

/* Gives one record, if it is to be given; false: the batch is full. */
static bool
give_record(PenstockConsumer *consumer, PenstockBatch *batch, Partition *p, const char *record, int length)
{
	PenstockMessage message;
	PenstockProperty headers[TESTQUEUE_MAX_HEADERS];

	testqueue_unpack(record, length, &message, headers);
	if (consumer->acknowledges && state_of(p, p->at) == TESTQUEUE_ACKNOWLEDGED)
		return true;
	if (consumer->browse && (message.timestamp < consumer->range.time_from || message.timestamp > consumer->range.time_to))
		return true;
	if (consumer->acknowledges)
	{
		message.redelivered = state_of(p, p->at) == TESTQUEUE_DELIVERED;
		if (!consumer->browse)
		{
			set_state(consumer, p, p->at, TESTQUEUE_DELIVERED);
			p->given_from = Min(p->given_from, p->at);
			p->given_to = Max(p->given_to, p->at);
		}
	}
	if (consumer->by_rows)
		return give_rows(consumer, batch, p, &message, length);
	message.next_at = p->at + 1;
	return give(consumer, batch, p, &message, length);
}

/* Reads the next piece of the file and gives what is in it; *got says whether there was anything. */
static bool
give_piece(PenstockConsumer *consumer, PenstockBatch *batch, Partition *p, bool *got)
{
	TestQueueEnd end;
	int64		given_from = p->at;
	int64		have;
	int64		used = 0;
	bool		more = true;
	int			fd = open_partition(consumer, p, &end);

	if (fd < 0)
		return true;
	if (p->at >= Min(end.records, p->limit))
	{
		CloseTransientFile(fd);
		return true;
	}
	if (p->bytes < 0)
		p->bytes = testqueue_find(fd, &end, p->at);
	for (;;)
	{
		int32		length;

		have = Min(consumer->room, end.bytes - p->bytes);
		if (pread(fd, consumer->buffer, have, p->bytes) != have)
			elog(ERROR, "could not read a queue's file: %m");
		memcpy(&length, consumer->buffer, sizeof(length));
		if (length <= 0 || length > TESTQUEUE_MAX_RECORD)
			elog(ERROR, "a queue's file is damaged");
		if (length <= have)
			break;
		/* freed again when the consumer is closed */
		consumer->room = length;
		consumer->buffer = repalloc_huge(consumer->buffer, length);
	}
	CloseTransientFile(fd);

	while (more && p->at < Min(end.records, p->limit) && have - used >= (int64) sizeof(int32))
	{
		int32		length;
		int64		number = p->at;

		memcpy(&length, consumer->buffer + used, sizeof(length));
		if (length > have - used)
			break;
		*got = true;
		more = give_record(consumer, batch, p, consumer->buffer + used, length);
		if (p->row > 0)
			break;				/* the rest of its rows next time */
		used += length;
		p->at = number + 1;
		p->bytes += length;
	}
	if (consumer->acknowledges && !consumer->browse && p->given_to >= given_from)
		testqueue_write_states(consumer->directory, consumer->name, p->name, p->states, given_from, p->at - given_from);
	return more;
}

/* A partition is taken away and given back: what was not acknowledged is dropped and comes again. */
static void
take_away(PenstockConsumer *consumer, PenstockBatch *batch)
{
	Partition  *p = consumer->partitions ? linitial(consumer->partitions) : NULL;

	if (p == NULL)
		return;
	consumer->api->batch_drop(batch, consumer->acknowledges ? "" : p->name);
	p->at = consumer->acknowledges ? 0 : p->done;
	p->row = p->done_row;
	p->bytes = -1;
}

/* The last k messages of the first partition come again. */
static void
repeat(PenstockConsumer *consumer, int64 k)
{
	Partition  *p = consumer->partitions ? linitial(consumer->partitions) : NULL;

	if (p == NULL)
		return;
	p->at = Max(p->at - k, 0);
	p->row = 0;
	p->bytes = -1;
	for (int64 i = p->at; consumer->acknowledges && i < p->nstates && i < p->at + k; i++)
		p->states[i] = TESTQUEUE_DELIVERED;
}

PenstockOutcome
testqueue_fetch(PenstockConsumer *consumer, PenstockBatch *batch, PenstockFault *fault)
{
	TestQueueFault wanted;
	PenstockOutcome outcome = testqueue_fault(consumer->queue, "fetch", false, -1, &wanted, fault);
	bool		got = true;
	ListCell   *lc;

	if (outcome != PENSTOCK_OK)
		return outcome;
	if (consumer->inotify >= 0)
	{
		char		events[4096];

		while (read(consumer->inotify, events, sizeof(events)) > 0)
			;
	}
	if (!consumer->browse)
		find_partitions(consumer, false);
	if (strcmp(wanted.action, "duplicate") == 0)
		repeat(consumer, wanted.k);
	while (got)
	{
		got = false;
		foreach(lc, consumer->partitions)
		{
			if (!give_piece(consumer, batch, lfirst(lc), &got))
			{
				got = false;
				break;
			}
		}
	}
	if (strcmp(wanted.action, "revoke") == 0)
		take_away(consumer, batch);
	outcome = testqueue_fault(consumer->queue, "fetch", true, -1, NULL, fault);
	if (outcome != PENSTOCK_OK || !consumer->browse)
		return outcome;
	foreach(lc, consumer->partitions)
	{
		Partition  *p = lfirst(lc);

		if (p->at < Min(p->records, p->limit))
			return PENSTOCK_OK;
	}
	return PENSTOCK_END;
}

void
testqueue_wait_for(PenstockConsumer *consumer, PenstockWaitFor *wait)
{
	ListCell   *lc;

	testqueue_fault_simple(consumer->queue, "wait_for");
	wait->fd = consumer->inotify;
	wait->events = WL_SOCKET_READABLE;
	wait->timeout = consumer->inotify >= 0 ? -1 : consumer->api->option_int(consumer->queue, "poll_every");
	/* what is left, or comes again, was announced before */
	foreach(lc, consumer->partitions)
	{
		Partition  *p = lfirst(lc);

		if (p->at < p->records)
			wait->timeout = 0;
	}
}

PenstockOutcome
testqueue_acknowledge(PenstockConsumer *consumer, PenstockFault *fault)
{
	PenstockOutcome outcome = testqueue_fault(consumer->queue, "acknowledge", false, 10000, NULL, fault);
	ListCell   *lc;

	if (outcome != PENSTOCK_OK)
		return outcome;
	foreach(lc, consumer->partitions)
	{
		Partition  *p = lfirst(lc);

		p->done = p->at;
		p->done_row = p->row;
		if (p->given_to < p->given_from)
			continue;
		for (int64 i = p->given_from; i <= p->given_to; i++)
			p->states[i] = TESTQUEUE_ACKNOWLEDGED;
		testqueue_write_states(consumer->directory, consumer->name, p->name,
							   p->states, p->given_from, p->given_to - p->given_from + 1);
		p->given_from = PG_INT64_MAX;
		p->given_to = -1;
	}
	return testqueue_fault(consumer->queue, "acknowledge", true, 10000, NULL, fault);
}

int64
testqueue_lag(PenstockConsumer *consumer)
{
	TestQueueFault wanted;
	int64		lag = 0;
	ListCell   *lc;

	(void) testqueue_fault(consumer->queue, "lag", false, -1, &wanted, NULL);
	if (strcmp(wanted.action, "unknown") == 0)
		return -1;
	foreach(lc, consumer->partitions)
	{
		Partition  *p = lfirst(lc);
		TestQueueEnd end;
		int			fd = open_partition(consumer, p, &end);

		if (fd >= 0)
			CloseTransientFile(fd);
		lag += Max(end.records - p->at, 0);
	}
	return lag;
}

void
testqueue_close(PenstockConsumer *consumer)
{
	close_inotify(consumer);
	testqueue_fault_simple(consumer->queue, "close");
}

static void
find_payload_columns(PenstockConsumer *consumer, TupleDesc desc)
{
	consumer->is_payload = MemoryContextAllocZero(consumer->context, sizeof(bool) * desc->natts);
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute column = TupleDescAttr(desc, i);
		List	   *options = column->attisdropped ? NIL : GetForeignColumnOptions(consumer->queue->relid, i + 1);
		ListCell   *lc;

		consumer->is_payload[i] = !column->attisdropped && !column->attgenerated;
		foreach(lc, options)
		{
			if (strcmp(lfirst_node(DefElem, lc)->defname, "metadata") == 0)
				consumer->is_payload[i] = false;
		}
	}
}

/*
 * testqueue_decode takes a row's line apart: values with "|" between them, \N is null.
 */
void
testqueue_decode(PenstockConsumer *consumer, const PenstockMessage *message, TupleDesc desc, Datum *values, bool *isnull)
{
	/* a message that is sent again has its payload only */
	char	   *at = message->row ? pstrdup(message->row) : pnstrdup(message->payload, message->length);

	if (consumer == NULL)
		elog(ERROR, "rows cannot be decoded while the queue is closed");
	testqueue_fault_simple(consumer->queue, "decode");
	if (consumer->is_payload == NULL)
		find_payload_columns(consumer, desc);
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute column = TupleDescAttr(desc, i);
		char	   *value = at;
		Oid			input;
		Oid			param;

		if (!consumer->is_payload[i])
			continue;
		if (at)
		{
			at = strchr(at, '|');
			if (at)
				*at++ = '\0';
		}
		isnull[i] = value == NULL || strcmp(value, "\\N") == 0;
		if (isnull[i])
			continue;
		getTypeInputInfo(column->atttypid, &input, &param);
		consumer->api->format_set_column(NameStr(column->attname));
		values[i] = OidInputFunctionCall(input, value, param, column->atttypmod);
		consumer->api->format_set_column(NULL);
	}
}
