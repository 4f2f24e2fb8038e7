/*
 * amqp_producer.c
 *	  Writing to an address: messages are sent unsettled, and flush waits for what the broker makes of each.
 *
 * A producer outlives its transactions, and nobody keeps up its heartbeats in between: a broker that has closed the connection
 * meanwhile is connected to anew by the next send.
 */
#include "postgres.h"

#include <proton/condition.h>
#include <proton/connection.h>
#include <proton/disposition.h>
#include <proton/session.h>
#include <proton/terminus.h>
#include <proton/transport.h>

#include "miscadmin.h"
#include "utils/memutils.h"

#include "connector/amqp/amqp.h"

/* Bytes that Proton may hold until the socket takes them. */
#define MOST_OUTGOING (256 * 1024)

struct PenstockProducer
{
	const PenstockQueue *queue;
	const char *address;
	MemoryContext context;
	MemoryContext connection_context;	/* of the connection at hand */
	AmqpConnection *connection; /* NULL: none now */
	AmqpEncoder *encoder;
	uint64		next_tag;
	uint64		first_tag;		/* of those since the last flush */
	int			unsettled;		/* sent, and no answer yet */
	bool		begun;			/* something was sent since the last flush */
	bool		refused;		/* the broker did not accept one */
	PenstockOutcome refusal_outcome;
	PenstockFault refusal;
};

static const PenstockConnectorApi *
api(void)
{
	return penstock_connector_api();
}

/*
 * Does the outcome say something of the broker, or of the address, rather than of the message?  Then the same message is sent again later.
 * "Rejected" is for invalid messages (AMQP 1.0, part 3.4), but brokers also reject what they have no room for or, for the moment, no rights.
 */
static bool
is_of_broker(uint64_t state, pn_disposition_t *disposition)
{
	static const char *const names[] = {
		"amqp:unauthorized-access", "amqp:resource-limit-exceeded", "amqp:not-found", "amqp:resource-deleted", "amqp:resource-locked",
		"amqp:internal-error", "amqp:illegal-state"
	};
	const char *name = pn_condition_get_name(pn_disposition_condition(disposition));

	if (state == PN_MODIFIED)
		return !pn_disposition_is_undeliverable(disposition);
	if (state != PN_REJECTED)
		return true;
	for (int i = 0; name != NULL && i < lengthof(names); i++)
		if (strcmp(name, names[i]) == 0)
			return true;
	return false;
}

/* The broker has decided on a message.  In the driver's event loop. */
static void
on_delivery(void *arg, pn_delivery_t *delivery)
{
	PenstockProducer *producer = arg;
	uint64_t	state = pn_delivery_remote_state(delivery);
	bool		settled = pn_delivery_settled(delivery);
	pn_condition_t *condition;
	uint64		number;

	if (!pn_delivery_updated(delivery) ||
		(!settled && state != PN_ACCEPTED && state != PN_REJECTED && state != PN_RELEASED && state != PN_MODIFIED))
		return;
	number = (uint64) (uintptr_t) pn_delivery_get_context(delivery);
	if (state != PN_ACCEPTED && !producer->refused)
	{
		producer->refused = true;
		condition = pn_disposition_condition(pn_delivery_remote(delivery));
		producer->refusal_outcome = is_of_broker(state, pn_delivery_remote(delivery)) ? PENSTOCK_AWAY : PENSTOCK_REFUSED;
		(void) penstock_fault(&producer->refusal, producer->refusal_outcome, ERRCODE_FDW_ERROR,
							  "the broker did not accept a message for AMQP address \"%s\": it was %s", producer->address,
							  state == PN_REJECTED ? "rejected" : state == PN_RELEASED ? "released" :
							  state == PN_MODIFIED ? "handed back" : "settled without an outcome");
		snprintf(producer->refusal.detail, sizeof(producer->refusal.detail), "It was message " UINT64_FORMAT " of those sent%s%s%s%s.",
				 number - producer->first_tag + 1,
				 pn_condition_is_set(condition) ? "; the broker says: " : "",
				 pn_condition_is_set(condition) ? pn_condition_get_name(condition) : "",
				 pn_condition_is_set(condition) && pn_condition_get_description(condition) ? ": " : "",
				 pn_condition_is_set(condition) && pn_condition_get_description(condition) ?
				 pn_condition_get_description(condition) : "");
		penstock_amqp_clean_text(producer->connection, producer->refusal.detail);
	}
	pn_delivery_settle(delivery);
	producer->unsettled--;
}

static void
disconnect(PenstockProducer *producer, bool orderly)
{
	if (producer->connection != NULL)
		penstock_amqp_close(producer->connection, orderly, false);
	producer->connection = NULL;
	MemoryContextReset(producer->connection_context);
	producer->unsettled = 0;
}

static PenstockOutcome
establish(PenstockProducer *producer, PenstockFault *fault)
{
	const PenstockQueue *queue = producer->queue;
	const char *capability = api()->option(queue, "capability");
	MemoryContext caller = MemoryContextSwitchTo(producer->connection_context);
	char	   *name = psprintf("penstock-%d-" INT64_FORMAT "-%p", MyProcPid, penstock_amqp_now(), (void *) producer);
	PenstockOutcome outcome;
	AmqpConnection *connection = penstock_amqp_connect(queue, name, &outcome, fault);

	MemoryContextSwitchTo(caller);
	if (connection == NULL)
		return outcome;
	producer->connection = connection;
	connection->on_delivery = on_delivery;
	connection->on_delivery_arg = producer;
	connection->link = pn_sender(connection->session, name);
	(void) pn_terminus_set_address(pn_link_target(connection->link), producer->address);
	if (strcmp(capability, "none") != 0)
		(void) pn_data_put_symbol(pn_terminus_capabilities(pn_link_target(connection->link)),
								  pn_bytes(strlen(capability), capability));
	/* some brokers want to know where a link comes from */
	(void) pn_terminus_set_address(pn_link_source(connection->link), name);
	pn_link_set_snd_settle_mode(connection->link, PN_SND_UNSETTLED);
	pn_link_set_rcv_settle_mode(connection->link, PN_RCV_FIRST);
	outcome = penstock_amqp_attach(connection, producer->address, fault);
	if (outcome != PENSTOCK_OK)
		disconnect(producer, true);
	return outcome;
}

/*
 * penstock_amqp_producer_open opens a producer in the current context.
 */
PenstockProducer *
penstock_amqp_producer_open(const PenstockQueue *queue, PenstockOutcome *outcome, PenstockFault *fault)
{
	PenstockProducer *producer = palloc0(sizeof(PenstockProducer));

	producer->queue = queue;
	producer->address = api()->option(queue, "address");
	producer->context = CurrentMemoryContext;
	producer->connection_context = AllocSetContextCreate(CurrentMemoryContext, "penstock amqp connection",
														 ALLOCSET_SMALL_SIZES);
	producer->encoder = penstock_amqp_encoder(queue);
	*outcome = establish(producer, fault);
	return *outcome == PENSTOCK_OK ? producer : NULL;
}

/*
 * Looks after the connection until the broker takes another message (for_room), or has answered for all.
 */
static PenstockOutcome
wait_for_broker(PenstockProducer *producer, bool for_room, int64 until, PenstockFault *fault)
{
	AmqpConnection *connection = producer->connection;

	for (;;)
	{
		bool		room = pn_link_credit(connection->link) > 0 &&
			pn_session_outgoing_bytes(connection->session) < MOST_OUTGOING;

		if (for_room ? room : producer->unsettled == 0)
			return PENSTOCK_OK;
		if (penstock_amqp_pump(connection))
			continue;
		if (penstock_amqp_dead(connection))
			return penstock_amqp_why(connection, fault);
		if (for_room && pn_link_credit(connection->link) > 0 &&
			pn_session_outgoing_bytes(connection->session) < MOST_OUTGOING)
			continue;
		if (penstock_amqp_now() >= until)
			return penstock_fault(fault, PENSTOCK_AWAY, ERRCODE_FDW_ERROR,
								  for_room ? "the broker takes no messages for AMQP address \"%s\" at the moment" :
								  "the broker has not confirmed all messages for AMQP address \"%s\" in time",
								  producer->address);
		penstock_amqp_sleep(connection, until - penstock_amqp_now());
	}
}

/* Gives one encoded message to Proton. */
static PenstockOutcome
transmit(PenstockProducer *producer, const char *bytes, size_t length, int64 until, PenstockFault *fault)
{
	PenstockOutcome outcome = wait_for_broker(producer, true, until, fault);
	pn_delivery_t *delivery;

	if (outcome != PENSTOCK_OK)
		return outcome;
	delivery = pn_delivery(producer->connection->link,
						   pn_dtag((const char *) &producer->next_tag, sizeof(producer->next_tag)));
	pn_delivery_set_context(delivery, (void *) (uintptr_t) producer->next_tag);
	producer->next_tag++;
	producer->unsettled++;
	(void) pn_link_send(producer->connection->link, bytes, length);
	(void) pn_link_advance(producer->connection->link);
	return PENSTOCK_OK;
}

/* Something failed: whatever was begun is over.  What the broker refused says more than what came of it. */
static PenstockOutcome
give_up(PenstockProducer *producer, PenstockOutcome outcome, PenstockFault *fault)
{
	if (producer->refused)
	{
		*fault = producer->refusal;
		outcome = producer->refusal_outcome;
	}
	penstock_amqp_abort(producer);
	return outcome;
}

/* Makes sure of a connection before the first message since the last flush. */
static PenstockOutcome
begin(PenstockProducer *producer, PenstockFault *fault)
{
	PenstockOutcome outcome;

	if (producer->connection != NULL)
	{
		while (penstock_amqp_pump(producer->connection))
			continue;
		if (penstock_amqp_dead(producer->connection))
			disconnect(producer, false);
	}
	if (producer->connection == NULL && (outcome = establish(producer, fault)) != PENSTOCK_OK)
		return outcome;
	producer->begun = true;
	producer->first_tag = producer->next_tag;
	producer->refused = false;
	return PENSTOCK_OK;
}

/*
 * penstock_amqp_send gives a message to Proton, when the broker has credit for it.
 */
PenstockOutcome
penstock_amqp_send(PenstockProducer *producer, const PenstockMessage *message, int timeout, PenstockFault *fault)
{
	PenstockOutcome outcome = PENSTOCK_OK;
	pn_bytes_t	encoded;

	if (!producer->begun)
		outcome = begin(producer, fault);
	if (outcome == PENSTOCK_OK && !penstock_amqp_encode(producer->encoder, message, &encoded, fault))
		outcome = PENSTOCK_REFUSED;
	if (outcome == PENSTOCK_OK)
		outcome = transmit(producer, encoded.start, encoded.size, penstock_amqp_now() + timeout, fault);
	return outcome == PENSTOCK_OK ? outcome : give_up(producer, outcome, fault);
}

/*
 * penstock_amqp_flush waits until the broker has accepted all.
 */
PenstockOutcome
penstock_amqp_flush(PenstockProducer *producer, int timeout, PenstockFault *fault)
{
	PenstockOutcome outcome;

	if (!producer->begun)
		return PENSTOCK_OK;
	outcome = wait_for_broker(producer, false, penstock_amqp_now() + timeout, fault);
	if (outcome != PENSTOCK_OK || producer->refused)
		return give_up(producer, outcome, fault);
	producer->begun = false;
	return PENSTOCK_OK;
}

/*
 * penstock_amqp_abort forgets what was not flushed.  What has reached the broker already stays there; what has not is dropped with the
 * connection.
 */
void
penstock_amqp_abort(PenstockProducer *producer)
{
	if (producer->unsettled > 0)
		disconnect(producer, false);
	producer->refused = false;
	producer->begun = false;
}

void
penstock_amqp_producer_close(PenstockProducer *producer)
{
	disconnect(producer, producer->unsettled == 0);
}
