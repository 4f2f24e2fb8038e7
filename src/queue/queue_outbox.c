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
	struct OutMessage *next;
} OutMessage;

static struct
{
	slist_head	outlets;
	MemoryContext context;		/* of the messages that wait; dies with the transaction */
	OutMessage *first;
	OutMessage *last;
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
	if (outlet->producer != NULL)
		outlet->queue->connector->close_producer(outlet->producer);
	outlet->producer = NULL;
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
		penstock_fault_raise(outlet->queue, &fault);
}

static void
forget_messages(void)
{
	if (outbox.context != NULL)
		MemoryContextReset(outbox.context);
	outbox.first = outbox.last = NULL;
	outbox.bytes = 0;
}

/* A producer after a fault is not used again. */
pg_noreturn static void
give_up(Outlet *outlet, const PenstockFault *fault)
{
	outlet->stale = true;
	penstock_fault_raise(outlet->queue, fault);
}

/* Hands what waits to the producers. */
static void
send_all(void)
{
	for (OutMessage *m = outbox.first; m != NULL; m = m->next)
	{
		Outlet	   *outlet = m->outlet;
		PenstockFault fault = {0};

		open_outlet(outlet);
		outlet->used = outbox.used = true;
		if (outlet->queue->connector->send(outlet->producer, &m->message, SEND_TIMEOUT, &fault) != PENSTOCK_OK)
			give_up(outlet, &fault);
	}
	forget_messages();
}

void
penstock_outbox_flush(void)
{
	slist_iter	iter;

	send_all();
	slist_foreach(iter, &outbox.outlets)
	{
		Outlet	   *outlet = slist_container(Outlet, node, iter.cur);
		PenstockFault fault = {0};

		if (!outlet->used)
			continue;
		if (outlet->queue->connector->flush(outlet->producer, (int) penstock_queue_option_int(outlet->queue, "flush_timeout"),
											&fault) != PENSTOCK_OK)
			give_up(outlet, &fault);
		outlet->used = false;
	}
	outbox.used = false;
}

static const char *
copy_bytes(const char *bytes, int length)
{
	char	   *copy;

	if (bytes == NULL)
		return NULL;
	copy = palloc((Size) length + 1);
	memcpy(copy, bytes, length);
	copy[length] = '\0';
	return copy;
}

static const PenstockProperty *
copy_properties(const PenstockProperty *from, int n)
{
	PenstockProperty *to = n ? palloc(n * sizeof(PenstockProperty)) : NULL;

	for (int i = 0; i < n; i++)
	{
		to[i].name = pstrdup(from[i].name);
		to[i].value = copy_bytes(from[i].value, from[i].length);
		to[i].length = from[i].length;
	}
	return to;
}

/*
 * penstock_outbox_add, see queue_internal.h.  Opens the producer, so that a broker that cannot be reached is noticed at once.
 */
void
penstock_outbox_add(Oid relid, Oid userid, const PenstockMessage *message)
{
	Outlet	   *outlet = find_outlet(relid, userid);
	MemoryContext old;
	OutMessage *m;

	open_outlet(outlet);
	if (outbox.context == NULL)
		outbox.context = AllocSetContextCreate(TopMemoryContext, "penstock outbox", ALLOCSET_DEFAULT_SIZES);
	old = MemoryContextSwitchTo(outbox.context);
	m = palloc0(sizeof(OutMessage));
	m->outlet = outlet;
	m->subid = GetCurrentSubTransactionId();
	m->message = *message;
	m->message.payload = copy_bytes(message->payload, message->length);
	m->message.key = copy_bytes(message->key, message->key_length);
	m->message.id = copy_bytes(message->id, message->id_length);
	m->message.partition = message->partition ? pstrdup(message->partition) : NULL;
	m->message.headers = copy_properties(message->headers, message->nheaders);
	m->message.properties = copy_properties(message->properties, message->nproperties);
	MemoryContextSwitchTo(old);

	if (outbox.last)
		outbox.last->next = m;
	else
		outbox.first = m;
	outbox.last = m;
	outbox.bytes += sizeof(OutMessage) + message->length + message->key_length;
	if (outbox.bytes >= OUTBOX_BYTES)
		send_all();
}

/* After a rollback: what producers were given and the brokers have not. */
static void
abort_outlets(void)
{
	slist_mutable_iter iter;

	slist_foreach_modify(iter, &outbox.outlets)
	{
		Outlet	   *outlet = slist_container(Outlet, node, iter.cur);

		if (outlet->used && outlet->producer != NULL)
			outlet->queue->connector->abort(outlet->producer);
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
			if (outbox.first != NULL || outbox.used)
				penstock_outbox_flush();
			break;
		case XACT_EVENT_PRE_PREPARE:
			if (outbox.first != NULL || outbox.used)
				ereport(ERROR,
						(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
						 errmsg("cannot PREPARE a transaction that has written to a queue")));
			break;
		case XACT_EVENT_ABORT:
			if (outbox.first != NULL || outbox.used || outbox.bytes > 0)
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
	OutMessage **link = &outbox.first;

	if (outbox.first == NULL || (event != SUBXACT_EVENT_ABORT_SUB && event != SUBXACT_EVENT_COMMIT_SUB))
		return;
	outbox.last = NULL;
	while (*link != NULL)
	{
		OutMessage *m = *link;

		if (m->subid == child && event == SUBXACT_EVENT_ABORT_SUB)
		{
			*link = m->next;
			continue;
		}
		if (m->subid == child)
			m->subid = parent;
		outbox.last = m;
		link = &m->next;
	}
	if (outbox.first == NULL)
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
	RegisterXactCallback(transaction_callback, NULL);
	RegisterSubXactCallback(subtransaction_callback, NULL);
	CacheRegisterSyscacheCallback(FOREIGNSERVEROID, options_changed, (Datum) 0);
	CacheRegisterSyscacheCallback(USERMAPPINGOID, options_changed, (Datum) 0);
	CacheRegisterRelcacheCallback(relation_changed, (Datum) 0);
}
