/*
 * amqp_consumer.c
 *	  Reading an address: credit lets messages come, and they are settled after their commit.
 *
 * The broker may send as many messages as there is credit.  A message takes its credit along when it is given to Penstock, and gives it back
 * when it is settled; so never more than option "credit" are under way, and a pipe that stands still stops the broker.  The socket is
 * read only when all that it brought has been given.
 */
#include "postgres.h"

#include <proton/connection.h>
#include <proton/codec.h>
#include <proton/disposition.h>
#include <proton/terminus.h>
#include <proton/transport.h>

#include "miscadmin.h"
#include "utils/memutils.h"

#include "connector/amqp/amqp.h"

/* The socket is looked at so often (ms) even while there is enough to give: heartbeats. */
#define LOOK_EVERY 1000
/* A receive buffer larger than this is not kept. */
#define KEEP_SIZE (1024 * 1024)
/*
 * Messages asked for at once when browsing.  Many: Artemis may overlook a second request to drain when the first has used
 * all of its credit.
 */
#define BROWSE_CREDIT 100000
/* Browsing: no message for so long (ms) means that there is no more, without drain and with it. */
#define QUIET_TIME 500
#define SILENT_TIME 5000
/* So many times in a row the broker must have nothing: Artemis says so after each thousand that it gave. */
#define EMPTY_ROUNDS 2

struct PenstockConsumer
{
	AmqpConnection *connection;
	AmqpDecoder *decoder;
	MemoryContext context;
	int			credit;
	int64		max_message_size;
	bool		settled_by_sender;	/* at most once: nothing to acknowledge */
	bool		keep_link;		/* a durable subscription */
	bool		browsing;
	bool		copies;			/* browsing, and the broker gives copies */
	bool		no_drain;		/* browsing, and the broker cannot say that there is no more */
	int64		last_message;	/* browsing: when the broker gave one, ms */
	int			drained;		/* browsing: messages of this round */
	int			empty_rounds;	/* browsing: rounds without any, in a row */
	bool		too_large;		/* the next message is */
	int64		delivered;		/* messages given so far */
	char	   *buffer;			/* of one message */
	size_t		buffer_size;
	pn_delivery_t **given;		/* given to Penstock and not settled */
	int			ngiven;
	int			given_room;
};

static const PenstockConnectorApi *
api(void)
{
	return penstock_connector_api();
}

/* ---- opening ---- */

static void
set_selector(pn_terminus_t *source, const char *selector)
{
	pn_data_t  *filter = pn_terminus_filter(source);
	static const char key[] = "jms-selector";
	static const char kind[] = "apache.org:selector-filter:string";

	/* a map: {jms-selector: described string} */
	(void) pn_data_put_map(filter);
	(void) pn_data_enter(filter);
	(void) pn_data_put_symbol(filter, pn_bytes(strlen(key), key));
	(void) pn_data_put_described(filter);
	(void) pn_data_enter(filter);
	(void) pn_data_put_symbol(filter, pn_bytes(strlen(kind), kind));
	(void) pn_data_put_string(filter, pn_bytes(strlen(selector), selector));
	(void) pn_data_exit(filter);
	(void) pn_data_exit(filter);
}

/* The receiving link, as the foreign table's options want it. */
static void
describe_link(PenstockConsumer *consumer, const PenstockQueue *queue, const char *address)
{
	const char *capability = api()->option(queue, "capability");
	const char *selector = api()->option(queue, "selector");
	pn_terminus_t *source;
	pn_link_t  *link;
	char		name[NAMEDATALEN * 2];

	/* the name of a durable subscription must be the same each time */
	if (queue->consumer != NULL)
		snprintf(name, sizeof(name), "penstock-%s", queue->consumer);
	else
		snprintf(name, sizeof(name), "penstock-%d-" INT64_FORMAT, MyProcPid, penstock_amqp_now());
	link = consumer->connection->link = pn_receiver(consumer->connection->session, name);
	source = pn_link_source(link);
	(void) pn_terminus_set_address(source, address);
	if (strcmp(capability, "none") != 0)
		(void) pn_data_put_symbol(pn_terminus_capabilities(source), pn_bytes(strlen(capability), capability));
	if (selector != NULL)
		set_selector(source, selector);
	if (consumer->browsing)
		(void) pn_terminus_set_distribution_mode(source, PN_DIST_MODE_COPY);
	if (consumer->keep_link)
	{
		(void) pn_terminus_set_durability(source, PN_DELIVERIES);
		(void) pn_terminus_set_expiry_policy(source, PN_EXPIRE_NEVER);
	}
	pn_link_set_snd_settle_mode(link, consumer->settled_by_sender ? PN_SND_SETTLED : PN_SND_UNSETTLED);
	pn_link_set_rcv_settle_mode(link, PN_RCV_FIRST);
	pn_link_set_max_message_size(link, consumer->max_message_size);
}

/* Lets the broker send as many more as are free. */
static void
give_credit(PenstockConsumer *consumer)
{
	pn_link_t  *link = consumer->connection->link;
	int			missing = consumer->credit - consumer->ngiven - pn_link_credit(link);

	/* not for every single message */
	if (missing > 0 && (missing >= consumer->credit / 4 || pn_link_credit(link) == 0))
		pn_link_flow(link, missing);
}

/* Browsing: asks for what there is, up to a number, and to be told when there is no more. */
static void
ask_for_more(PenstockConsumer *consumer)
{
	consumer->drained = 0;
	if (consumer->no_drain)
		pn_link_flow(consumer->connection->link, BROWSE_CREDIT);
	else
		pn_link_drain(consumer->connection->link, BROWSE_CREDIT);
}

/* RabbitMQ before 4.0 ends the session when a classic queue is to be drained. */
static bool
drain_is_broken(AmqpConnection *connection)
{
	static const char product[] = "product";
	static const char rabbitmq[] = "RabbitMQ";
	pn_data_t  *properties = pn_connection_remote_properties(connection->driver.connection);
	pn_bytes_t	value = {0, NULL};

	if (properties == NULL)
		return false;
	pn_data_rewind(properties);
	if (pn_data_next(properties) && pn_data_type(properties) == PN_MAP && pn_data_enter(properties))
		while (pn_data_next(properties))
		{
			bool		found = pn_data_type(properties) == PN_SYMBOL &&
				pn_data_get_symbol(properties).size == strlen(product) &&
				memcmp(pn_data_get_symbol(properties).start, product, strlen(product)) == 0;

			if (!pn_data_next(properties))
				break;
			if (found && pn_data_type(properties) == PN_STRING)
				value = pn_data_get_string(properties);
		}
	return value.size == strlen(rabbitmq) && memcmp(value.start, rabbitmq, value.size) == 0;
}

/*
 * penstock_amqp_consumer_open opens a consumer in the current context.
 */
PenstockConsumer *
penstock_amqp_consumer_open(const PenstockQueue *queue, const PenstockStart *start,
							PenstockOutcome *outcome, PenstockFault *fault)
{
	PenstockConsumer *consumer = palloc0(sizeof(PenstockConsumer));
	const char *container = api()->option(queue, "container_id");
	const char *address = api()->option(queue, "address");

	consumer->context = CurrentMemoryContext;
	consumer->browsing = start->browse != NULL;
	consumer->credit = (int) api()->option_int(queue, "credit");
	consumer->max_message_size = api()->option_int(queue, "max_message_size");
	consumer->settled_by_sender = !consumer->browsing && strcmp(api()->option(queue, "settle"), "when_sent") == 0;
	consumer->keep_link = !consumer->browsing && api()->option_bool(queue, "durable_subscription");
	consumer->decoder = penstock_amqp_decoder(queue);
	consumer->given_room = 256;
	consumer->given = palloc(consumer->given_room * sizeof(pn_delivery_t *));

	if (container == NULL || consumer->browsing)
		container = queue->consumer ? psprintf("penstock-%s", queue->consumer) :
			psprintf("penstock-%d-" INT64_FORMAT, MyProcPid, penstock_amqp_now());
	consumer->connection = penstock_amqp_connect(queue, container, outcome, fault);
	if (consumer->connection == NULL)
		return NULL;
	describe_link(consumer, queue, address);
	*outcome = penstock_amqp_attach(consumer->connection, address, fault);
	if (*outcome != PENSTOCK_OK)
	{
		penstock_amqp_close(consumer->connection, true, true);
		return NULL;
	}
	if (consumer->browsing)
	{
		consumer->copies = pn_terminus_get_distribution_mode(pn_link_remote_source(consumer->connection->link)) ==
			PN_DIST_MODE_COPY;
		consumer->no_drain = drain_is_broken(consumer->connection);
		consumer->last_message = penstock_amqp_now();
		ask_for_more(consumer);
	}
	else
		give_credit(consumer);
	penstock_amqp_push(consumer->connection);
	return consumer;
}

/* ---- giving messages ---- */

static void
remember(PenstockConsumer *consumer, pn_delivery_t *delivery)
{
	if (consumer->ngiven == consumer->given_room)
	{
		consumer->given_room *= 2;
		consumer->given = repalloc_huge(consumer->given, consumer->given_room * sizeof(pn_delivery_t *));
	}
	consumer->given[consumer->ngiven++] = delivery;
}

/* Takes a message's bytes out of Proton. */
static void
receive(PenstockConsumer *consumer, size_t size)
{
	if (size > consumer->buffer_size || (consumer->buffer_size > KEEP_SIZE && size < KEEP_SIZE))
	{
		if (consumer->buffer != NULL)
			pfree(consumer->buffer);
		consumer->buffer = NULL;
		consumer->buffer_size = 0;
		consumer->buffer = MemoryContextAllocHuge(consumer->context, Max(size, 16 * 1024));
		consumer->buffer_size = Max(size, 16 * 1024);
	}
	(void) pn_link_recv(consumer->connection->link, consumer->buffer, size);
}

/*
 * Gives the message at the link's head, if it is there whole.  Returns false if there is none, or the batch is full
 * after it (*full).
 */
static bool
give_one(PenstockConsumer *consumer, PenstockBatch *batch, bool *full)
{
	pn_link_t  *link = consumer->connection->link;
	pn_delivery_t *delivery = pn_link_current(link);
	PenstockMessage message;
	size_t		size;

	if (delivery == NULL || consumer->too_large)
		return false;
	if (pn_delivery_aborted(delivery))
	{
		(void) pn_link_advance(link);
		pn_delivery_settle(delivery);
		return true;
	}
	size = pn_delivery_pending(delivery);
	if (size > consumer->max_message_size)
	{
		consumer->too_large = true;
		return false;
	}
	if (pn_delivery_partial(delivery))
		return false;

	receive(consumer, size);
	penstock_amqp_decode(consumer->decoder, consumer->buffer, size, &message);
	message.offset = message.next_at = ++consumer->delivered;
	*full = !api()->batch_add(batch, &message);

	(void) pn_link_advance(link);
	consumer->drained++;
	if (consumer->browsing)
		consumer->last_message = penstock_amqp_now();
	if (pn_delivery_settled(delivery))
		pn_delivery_settle(delivery);
	else
		remember(consumer, delivery);
	return !*full;
}

/* Browsing: how long (ms) the broker may still be silent. */
static long
patience(PenstockConsumer *consumer)
{
	int64		until = consumer->last_message + (consumer->no_drain ? QUIET_TIME : SILENT_TIME);

	return (long) Max(until - penstock_amqp_now(), 0);
}

/* Browsing: whether the broker has nothing more; asks on when it may have. */
static bool
browsed_all(PenstockConsumer *consumer)
{
	pn_link_t  *link = consumer->connection->link;

	if (patience(consumer) == 0)
		return true;
	if ((consumer->no_drain ? pn_link_credit(link) > 0 : pn_link_draining(link)) || pn_link_current(link) != NULL)
		return false;
	consumer->empty_rounds = consumer->drained > 0 ? 0 : consumer->empty_rounds + 1;
	if (consumer->empty_rounds == EMPTY_ROUNDS)
		return true;
	ask_for_more(consumer);
	penstock_amqp_push(consumer->connection);
	return false;
}

static PenstockOutcome
too_large_fault(PenstockConsumer *consumer, PenstockFault *fault)
{
	(void) penstock_fault(fault, PENSTOCK_REFUSED, ERRCODE_PROGRAM_LIMIT_EXCEEDED,
						  "a message of AMQP address \"%s\" is larger than option \"max_message_size\" allows",
						  consumer->connection->address);
	snprintf(fault->detail, sizeof(fault->detail), "It has at least %zu bytes, " INT64_FORMAT " are allowed.",
			 pn_delivery_pending(pn_link_current(consumer->connection->link)), consumer->max_message_size);
	strlcpy(fault->hint, "Raise the option, or take the message out of the queue.", sizeof(fault->hint));
	return PENSTOCK_REFUSED;
}

/*
 * penstock_amqp_fetch gives what has come.
 */
PenstockOutcome
penstock_amqp_fetch(PenstockConsumer *consumer, PenstockBatch *batch, PenstockFault *fault)
{
	AmqpConnection *connection = consumer->connection;
	bool		full = false;

	if (penstock_amqp_now() - connection->last_read > LOOK_EVERY)
		(void) penstock_amqp_pump(connection);
	for (;;)
	{
		while (give_one(consumer, batch, &full))
			continue;
		if (consumer->settled_by_sender)
			give_credit(consumer);
		if (full)
		{
			penstock_amqp_push(connection);
			return PENSTOCK_OK;
		}
		/* what was given before it is committed first */
		if (consumer->too_large)
			return consumer->ngiven > 0 && !consumer->browsing ? PENSTOCK_OK : too_large_fault(consumer, fault);
		if (penstock_amqp_dead(connection))
			return penstock_amqp_why(connection, fault);
		if (penstock_amqp_pump(connection) || penstock_amqp_dead(connection))
			continue;
		return consumer->browsing && browsed_all(consumer) ? PENSTOCK_END : PENSTOCK_OK;
	}
}

void
penstock_amqp_consumer_wait_for(PenstockConsumer *consumer, PenstockWaitFor *wait)
{
	penstock_amqp_wait_for(consumer->connection, wait);
	if (consumer->browsing)
		wait->timeout = wait->timeout < 0 ? patience(consumer) : Min(wait->timeout, patience(consumer));
}

/*
 * penstock_amqp_acknowledge settles all messages given: they are the broker's no more.
 */
PenstockOutcome
penstock_amqp_acknowledge(PenstockConsumer *consumer, PenstockFault *fault)
{
	AmqpConnection *connection = consumer->connection;

	if (penstock_amqp_dead(connection))
		return penstock_amqp_why(connection, fault);
	for (int i = 0; i < consumer->ngiven; i++)
	{
		pn_delivery_update(consumer->given[i], PN_ACCEPTED);
		pn_delivery_settle(consumer->given[i]);
	}
	consumer->ngiven = 0;
	give_credit(consumer);
	penstock_amqp_push(connection);
	return penstock_amqp_dead(connection) ? penstock_amqp_why(connection, fault) : PENSTOCK_OK;
}

/*
 * penstock_amqp_consumer_close gives the messages back that were not acknowledged.  The broker would do so by itself, but count it as a failed
 * delivery, and give a message up after some of those.  The last first: each goes to the head of the queue.
 */
void
penstock_amqp_consumer_close(PenstockConsumer *consumer)
{
	if (!penstock_amqp_dead(consumer->connection))
		for (int i = consumer->ngiven - 1; i >= 0; i--)
		{
			pn_delivery_update(consumer->given[i], consumer->copies ? PN_ACCEPTED : PN_RELEASED);
			pn_delivery_settle(consumer->given[i]);
		}
	consumer->ngiven = 0;
	penstock_amqp_close(consumer->connection, true, consumer->keep_link);
}
