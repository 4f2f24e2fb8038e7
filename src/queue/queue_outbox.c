/*
 * queue_outbox.c
 *	  What a transaction writes to queues, until the brokers have it.
 *
 * Messages wait here and are sent before the transaction commits: an error of a broker is an error of the transaction, and
 * what is rolled back, also to a savepoint, is never sent.  When more waits than fits, the oldest are sent early; should the
 * transaction fail then, the producer drops what it can and the broker may have some of them.  If the transaction fails
 * after the brokers have everything, they have it all the same: the guarantee is at least once.
 *
 * Producers are kept for the life of the process and opened anew when their options change or after a fault.
 */
#include "postgres.h"

#include "access/xact.h"
#include "lib/ilist.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/syscache.h"

#include "compat/compat.h"
#include "queue/queue_internal.h"

/* What waits at most before some is sent early. */
#define OUTBOX_BYTES (16 * 1024 * 1024)
/* What a savepoint may hold back. */
#define OUTBOX_MOST_BYTES (512 * 1024 * 1024)
/* How long (ms) one send may wait for room in the client library. */
#define SEND_TIMEOUT 30000

/* A producer, open or to be opened. */
typedef struct Outlet
{
	slist_node	node;
	Oid			relid;
	Oid			userid;
	MemoryContext context;		/* queue and producer; NULL: not open */
	PenstockQueue *queue;
	PenstockProducer *producer;
	bool		stale;			/* options have changed */
	bool		used;			/* by this transaction: it has been given messages */
} Outlet;

typedef struct OutMessage
{
	Outlet	   *outlet;
	SubTransactionId subid;
	PenstockMessage message;
	dlist_node	node;
} OutMessage;

static struct
{
	slist_head	outlets;
	MemoryContext context;		/* of the messages that wait; dies with the transaction */
	dlist_head	messages;
	int64		bytes;
	bool		used;			/* some outlet is used by this transaction */
} outbox;

static Outlet *
find_outlet(Oid relid, Oid userid)
{
	slist_iter	iter;
	Outlet	   *outlet;

	slist_foreach(iter, &outbox.outlets)
	{
		outlet = slist_container(Outlet, node, iter.cur);
		if (outlet->relid == relid && outlet->userid == userid)
			return outlet;
	}
	outlet = MemoryContextAllocZero(TopMemoryContext, sizeof(Outlet));
	outlet->relid = relid;
	outlet->userid = userid;
	slist_push_head(&outbox.outlets, &outlet->node);
	return outlet;
}

static void
close_outlet(Outlet *outlet)
{
	PenstockProducer *producer = outlet->producer;

	outlet->producer = NULL;
	if (producer != NULL)
		penstock_connector_quietly((void (*) (PenstockConsumer *)) outlet->queue->connector->close_producer,
								   (PenstockConsumer *) producer);
	if (outlet->context != NULL)
		MemoryContextDelete(outlet->context);
	outlet->context = NULL;
	outlet->stale = false;
}

static void
open_outlet(Outlet *outlet)
{
	PenstockOutcome outcome = PENSTOCK_OK;
	PenstockFault fault = {0};
	MemoryContext old;

	if (outlet->stale && !outlet->used)
		close_outlet(outlet);
	if (outlet->producer != NULL)
		return;
	if (outlet->context == NULL)
		outlet->context = AllocSetContextCreate(TopMemoryContext, "penstock producer", ALLOCSET_DEFAULT_SIZES);
	MemoryContextReset(outlet->context);
	old = MemoryContextSwitchTo(outlet->context);
	outlet->queue = penstock_queue_open(outlet->relid, outlet->userid, NULL);
	outlet->producer = outlet->queue->connector->open_producer(outlet->queue, &outcome, &fault);
	MemoryContextSwitchTo(old);
	outlet->stale = false;
	if (outlet->producer == NULL)
		penstock_fault_raise(outlet->queue, &fault, false);
}

static void
forget_messages(void)
{
	if (outbox.context != NULL)
		MemoryContextReset(outbox.context);
	dlist_init(&outbox.messages);
	outbox.bytes = 0;
}

static int64
size_of(const PenstockMessage *message)
{
	int64		size = sizeof(OutMessage) + message->length + message->key_length + message->id_length;

	for (int i = 0; i < message->nheaders; i++)
		size += message->headers[i].length + 64;
	return size;
}

/* The broker refused a message, or the producer: which of them, the SQLSTATE says. */
pg_noreturn static void
give_up(Outlet *outlet, PenstockOutcome outcome, const PenstockFault *fault)
{
	int			category = ERRCODE_TO_CATEGORY(fault->sqlstate);

	penstock_fault_raise(outlet->queue, fault,
						 outcome == PENSTOCK_REFUSED && category != ERRCODE_CONNECTION_EXCEPTION &&
						 category != ERRCODE_INVALID_AUTHORIZATION_SPECIFICATION &&
						 category != ERRCODE_SYNTAX_ERROR_OR_ACCESS_RULE_VIOLATION);
}

/* Hands what waits to the producers; only what no savepoint can take back, unless all. */
static void
send_waiting(bool all)
{
	while (!dlist_is_empty(&outbox.messages))
	{
		OutMessage *m = dlist_head_element(OutMessage, node, &outbox.messages);
		Outlet	   *outlet = m->outlet;
		PenstockFault fault = {0};
		PenstockOutcome outcome;

		if (!all && m->subid != TopSubTransactionId)
			return;
		open_outlet(outlet);
		outlet->used = outbox.used = true;
		/* a producer after a fault or an error is not used again */
		outlet->stale = true;
		outcome = outlet->queue->connector->send(outlet->producer, &m->message, SEND_TIMEOUT, &fault);
		if (outcome != PENSTOCK_OK)
			give_up(outlet, outcome, &fault);
		outlet->stale = false;
		outbox.bytes -= size_of(&m->message);
		dlist_delete(&m->node);
		pfree(m);
	}
	forget_messages();
}

void
penstock_outbox_flush(void)
{
	slist_iter	iter;

	send_waiting(true);
	slist_foreach(iter, &outbox.outlets)
	{
		Outlet	   *outlet = slist_container(Outlet, node, iter.cur);
		PenstockFault fault = {0};
		PenstockOutcome outcome;

		if (!outlet->used)
			continue;
		outlet->stale = true;
		outcome = outlet->queue->connector->flush(outlet->producer,
												  (int) penstock_queue_option_int(outlet->queue, "flush_timeout"), &fault);
		if (outcome != PENSTOCK_OK)
			give_up(outlet, outcome, &fault);
		outlet->stale = false;
		outlet->used = false;
	}
	outbox.used = false;
}

/* Puts bytes behind what a copy holds already. */
static const char *
put_bytes(char **at, const char *bytes, int length)
{
	char	   *copy = *at;

	if (bytes == NULL)
		return NULL;
	memcpy(copy, bytes, length);
	copy[length] = '\0';
	*at += (Size) length + 1;
	return copy;
}

static Size
properties_size(const PenstockProperty *properties, int n)
{
	Size		size = 0;

	for (int i = 0; i < n; i++)
		size += strlen(properties[i].name) + 1 + properties[i].length + 1;
	return size;
}

static const PenstockProperty *
put_properties(PenstockProperty **room, char **at, const PenstockProperty *from, int n)
{
	PenstockProperty *to = *room;

	for (int i = 0; i < n; i++)
	{
		to[i].name = put_bytes(at, from[i].name, strlen(from[i].name));
		to[i].value = put_bytes(at, from[i].value, from[i].length);
		to[i].length = from[i].length;
	}
	*room += n;
	return to;
}

/* A copy of the message in one piece. */
static OutMessage *
copy_out(const PenstockMessage *message)
{
	int			n = message->nheaders + message->nproperties;
	Size		size = MAXALIGN(sizeof(OutMessage)) + n * sizeof(PenstockProperty) +
		(Size) message->length + message->key_length + message->id_length + 4 +
		(message->partition ? strlen(message->partition) : 0) +
		properties_size(message->headers, message->nheaders) +
		properties_size(message->properties, message->nproperties);
	OutMessage *m = MemoryContextAllocHuge(outbox.context, size);
	PenstockProperty *room = (PenstockProperty *) ((char *) m + MAXALIGN(sizeof(OutMessage)));
	char	   *at = (char *) (room + n);

	m->message = *message;
	m->message.payload = put_bytes(&at, message->payload, message->length);
	m->message.key = put_bytes(&at, message->key, message->key_length);
	m->message.id = put_bytes(&at, message->id, message->id_length);
	m->message.partition = message->partition ? put_bytes(&at, message->partition, strlen(message->partition)) : NULL;
	m->message.headers = put_properties(&room, &at, message->headers, message->nheaders);
	m->message.properties = put_properties(&room, &at, message->properties, message->nproperties);
	return m;
}

/*
 * penstock_outbox_add, see queue_internal.h.  Opens the producer, so that a broker that cannot be reached is noticed at once.
 */
void
penstock_outbox_add(Oid relid, Oid userid, const PenstockMessage *message)
{
	Outlet	   *outlet = find_outlet(relid, userid);
	OutMessage *m;

	open_outlet(outlet);
	if (outbox.context == NULL)
		outbox.context = AllocSetContextCreate(TopMemoryContext, "penstock outbox", ALLOCSET_DEFAULT_SIZES);
	m = copy_out(message);
	m->outlet = outlet;
	m->subid = GetCurrentSubTransactionId();
	dlist_push_tail(&outbox.messages, &m->node);
	outbox.bytes += size_of(&m->message);
	if (outbox.bytes >= OUTBOX_BYTES)
		send_waiting(false);
	if (outbox.bytes >= OUTBOX_MOST_BYTES)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("too much is written to queues within a savepoint"),
				 errdetail("At most %d MB can wait until it is released.", OUTBOX_MOST_BYTES / (1024 * 1024))));
}

/* After a rollback: what producers were given and the brokers have not. */
static void
abort_outlets(void)
{
	slist_mutable_iter iter;

	slist_foreach_modify(iter, &outbox.outlets)
	{
		Outlet	   *outlet = slist_container(Outlet, node, iter.cur);

		if (outlet->used && outlet->producer != NULL && outlet->queue->connector->abort != NULL)
			penstock_connector_quietly((void (*) (PenstockConsumer *)) outlet->queue->connector->abort,
									   (PenstockConsumer *) outlet->producer);
		outlet->used = false;
		if (outlet->stale)
			close_outlet(outlet);
	}
	outbox.used = false;
}

static void
transaction_callback(XactEvent event, void *arg)
{
	switch (event)
	{
		case XACT_EVENT_PRE_COMMIT:
			if (!dlist_is_empty(&outbox.messages) || outbox.used)
				penstock_outbox_flush();
			break;
		case XACT_EVENT_PRE_PREPARE:
			if (!dlist_is_empty(&outbox.messages) || outbox.used)
				ereport(ERROR,
						(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
						 errmsg("cannot PREPARE a transaction that has written to a queue")));
			break;
		case XACT_EVENT_ABORT:
			if (!dlist_is_empty(&outbox.messages) || outbox.bytes > 0)
				forget_messages();
			abort_outlets();
			break;
		default:
			break;
	}
}

static void
subtransaction_callback(SubXactEvent event, SubTransactionId child, SubTransactionId parent, void *arg)
{
	dlist_iter	iter;

	if (event != SUBXACT_EVENT_ABORT_SUB && event != SUBXACT_EVENT_COMMIT_SUB)
		return;
	if (event == SUBXACT_EVENT_COMMIT_SUB)
	{
		/* those of the subtransaction stand at the end */
		dlist_reverse_foreach(iter, &outbox.messages)
		{
			OutMessage *m = dlist_container(OutMessage, node, iter.cur);

			if (m->subid != child)
				break;
			m->subid = parent;
		}
		return;
	}
	while (!dlist_is_empty(&outbox.messages))
	{
		OutMessage *m = dlist_tail_element(OutMessage, node, &outbox.messages);

		if (m->subid != child)
			return;
		outbox.bytes -= size_of(&m->message);
		dlist_delete(&m->node);
		pfree(m);
	}
	if (outbox.bytes > 0)
		forget_messages();
}

static void
options_changed(Datum arg, int cacheid, uint32 hashvalue)
{
	slist_iter	iter;

	slist_foreach(iter, &outbox.outlets)
		slist_container(Outlet, node, iter.cur)->stale = true;
}

static void
relation_changed(Datum arg, Oid relid)
{
	slist_iter	iter;

	slist_foreach(iter, &outbox.outlets)
	{
		Outlet	   *outlet = slist_container(Outlet, node, iter.cur);

		if (!OidIsValid(relid) || outlet->relid == relid)
			outlet->stale = true;
	}
}

/*
 * penstock_outbox_init registers what a process needs before it writes to a queue.
 */
void
penstock_outbox_init(void)
{
	slist_init(&outbox.outlets);
	dlist_init(&outbox.messages);
	RegisterXactCallback(transaction_callback, NULL);
	RegisterSubXactCallback(subtransaction_callback, NULL);
	CacheRegisterSyscacheCallback(FOREIGNSERVEROID, options_changed, (Datum) 0);
	CacheRegisterSyscacheCallback(USERMAPPINGOID, options_changed, (Datum) 0);
	CacheRegisterRelcacheCallback(relation_changed, (Datum) 0);
}
