/*
 * rabbitmq_produce.c
 *	  Producers: publishing with confirms.
 *
 * Every message is numbered by the channel and confirmed by the broker once it is where it belongs: in its queues,
 * on disk if it is persistent.  What no queue takes comes back before it is confirmed (mandatory).  Flush waits
 * until everything is confirmed.
 *
 * librabbitmq waits inside a send until the socket has room, and nothing interrupts that.  A broker that is short
 * of memory or disk stops reading for as long as it is; so a message is sent frame by frame, and each only when
 * the socket's buffer has room for it.
 */
#include "postgres.h"

#include <linux/sockios.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "connector/rabbitmq/rabbitmq.h"

/* Messages that may be on their way without a confirm. */
#define WINDOW				4096

/* A frame's payload; and the bytes that may stand in the socket's buffer, which is larger. */
#define FRAME_SIZE			(32 * 1024)
#define SOCKET_ROOM			(128 * 1024)
#define SOCKET_BUFFER		(1024 * 1024)
#define FRAME_OVERHEAD		8

/* What is remembered of a message until it is confirmed. */
typedef struct Pending
{
	bool		waits;
	char	   *exchange;		/* NULL: the producer's own */
	char	   *routing_key;
} Pending;

struct PenstockProducer
{
	const PenstockQueue *queue;
	RabbitLink *link;			/* NULL: not connected */
	MemoryContext link_context; /* reset to connect anew */
	MemoryContext message_context;	/* while one message is sent */
	const char *exchange;
	const char *routing_key;
	bool		mandatory;
	bool		persistent;

	uint64		sent;			/* number of the last message sent */
	uint64		confirmed;		/* all up to this one are confirmed */
	int			waiting;		/* messages without a confirm */
	Pending		pending[WINDOW];	/* by number modulo WINDOW */
	bool		midway;			/* a message has been sent in part */
	bool		corked;
	bool		blocked;		/* the broker takes no messages at the moment */
	int			room;			/* bytes that the socket's buffer will take, as far as we know */

	PenstockOutcome failed;		/* not OK: a message was refused, and the fault says which */
	PenstockFault failure;
};

/* ---- connecting ---- */

static void
forget_pending(PenstockProducer *producer)
{
	for (int i = 0; i < WINDOW; i++)
	{
		if (producer->pending[i].exchange != NULL)
			pfree(producer->pending[i].exchange);
		if (producer->pending[i].routing_key != NULL)
			pfree(producer->pending[i].routing_key);
	}
	memset(producer->pending, 0, sizeof(producer->pending));
	producer->sent = producer->confirmed = 0;
	producer->waiting = 0;
}

static void
disconnect(PenstockProducer *producer)
{
	if (producer->link != NULL)
		penstock_rabbitmq_link_close(producer->link);
	producer->link = NULL;
	forget_pending(producer);
	producer->midway = producer->corked = producer->blocked = false;
	producer->failed = PENSTOCK_OK;
	producer->room = 0;
	MemoryContextReset(producer->link_context);
}

static PenstockOutcome
prepare_channel(PenstockProducer *producer, PenstockFault *fault)
{
	RabbitLink *link = producer->link;
	int			size = SOCKET_BUFFER;

	(void) setsockopt(amqp_get_sockfd(link->state), SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
	if (producer->exchange[0] != '\0' &&
		amqp_exchange_declare(link->state, RABBITMQ_CHANNEL, amqp_cstring_bytes(producer->exchange),
							  amqp_cstring_bytes("direct"), 1, 0, 0, 0, amqp_empty_table) == NULL)
		return penstock_rabbitmq_reply_fault(link, fault);
	if (amqp_confirm_select(link->state, RABBITMQ_CHANNEL) == NULL)
		return penstock_rabbitmq_reply_fault(link, fault);
	return PENSTOCK_OK;
}

static PenstockOutcome
connect_anew(PenstockProducer *producer, PenstockFault *fault)
{
	MemoryContext before;
	PenstockOutcome outcome;

	disconnect(producer);
	before = MemoryContextSwitchTo(producer->link_context);
	producer->link = penstock_rabbitmq_link_open(producer->queue, &outcome, fault);
	MemoryContextSwitchTo(before);
	if (outcome == PENSTOCK_OK)
		outcome = prepare_channel(producer, fault);
	if (outcome != PENSTOCK_OK)
		disconnect(producer);
	return outcome;
}

PenstockProducer *
penstock_rabbitmq_producer_open(const PenstockQueue *queue, PenstockOutcome *outcome, PenstockFault *fault)
{
	const PenstockConnectorApi *api = penstock_connector_api();
	PenstockProducer *producer = palloc0(sizeof(PenstockProducer));

	producer->queue = queue;
	producer->exchange = api->option(queue, "exchange");
	producer->routing_key = api->option(queue, "routing_key");
	if (producer->routing_key == NULL)
		producer->routing_key = producer->exchange[0] == '\0' ? api->option(queue, "queue") : "";
	producer->mandatory = api->option_bool(queue, "mandatory");
	producer->persistent = api->option_bool(queue, "persistent");
	producer->link_context = AllocSetContextCreate(CurrentMemoryContext, "penstock rabbitmq link", ALLOCSET_SMALL_SIZES);
	producer->message_context = AllocSetContextCreate(CurrentMemoryContext, "penstock rabbitmq message",
													  ALLOCSET_DEFAULT_SIZES);
	*outcome = connect_anew(producer, fault);
	return *outcome == PENSTOCK_OK ? producer : NULL;
}

/* ---- what the broker says ---- */

/*
 * Notes the first message that was refused.  When its way was not its own but the table's, it is not the message's fault:
 * the SQLSTATE then says so.
 */
static void
fail(PenstockProducer *producer, PenstockOutcome outcome, const char *what, const char *exchange, size_t exchange_length,
	 const char *key, size_t key_length)
{
	bool		own;

	if (producer->failed != PENSTOCK_OK)
		return;
	own = exchange_length != strlen(producer->exchange) || key_length != strlen(producer->routing_key) ||
		memcmp(exchange, producer->exchange, exchange_length) != 0 || memcmp(key, producer->routing_key, key_length) != 0;
	producer->failed = penstock_fault(&producer->failure, outcome, own ? ERRCODE_FDW_ERROR : ERRCODE_UNDEFINED_OBJECT,
									  "the broker %s a message for exchange \"%.*s\", routing key \"%.*s\"", what,
									  (int) Min(exchange_length, RABBITMQ_SHORT_STRING), exchange,
									  (int) Min(key_length, RABBITMQ_SHORT_STRING), key);
}

static void
confirm_one(PenstockProducer *producer, uint64 number, bool taken)
{
	Pending    *pending = &producer->pending[number % WINDOW];
	const char *exchange = pending->exchange ? pending->exchange : producer->exchange;
	const char *key = pending->routing_key ? pending->routing_key : producer->routing_key;

	if (!pending->waits)
		return;
	if (!taken)
	{
		bool		first = producer->failed == PENSTOCK_OK;

		fail(producer, PENSTOCK_AWAY, "did not take", exchange, strlen(exchange), key, strlen(key));
		if (first)
			strlcpy(producer->failure.detail, "It answered with basic.nack: a queue is full, or not available.",
					sizeof(producer->failure.detail));
	}
	if (pending->exchange != NULL)
		pfree(pending->exchange);
	if (pending->routing_key != NULL)
		pfree(pending->routing_key);
	memset(pending, 0, sizeof(Pending));
	producer->waiting--;
}

static void
confirm(PenstockProducer *producer, uint64 number, bool multiple, bool taken)
{
	/* numbers come from outside */
	if (number > producer->sent || number <= producer->confirmed)
		return;
	for (uint64 i = multiple ? producer->confirmed + 1 : number; i <= number; i++)
		confirm_one(producer, i, taken);
	while (producer->confirmed < producer->sent && !producer->pending[(producer->confirmed + 1) % WINDOW].waits)
		producer->confirmed++;
}

static void
take_return(PenstockProducer *producer, const amqp_basic_return_t *returned)
{
	bool		first = producer->failed == PENSTOCK_OK;

	fail(producer, PENSTOCK_REFUSED, "could not route", returned->exchange.bytes ? returned->exchange.bytes : "",
		 returned->exchange.len, returned->routing_key.bytes ? returned->routing_key.bytes : "", returned->routing_key.len);
	if (first)
	{
		snprintf(producer->failure.detail, sizeof(producer->failure.detail), "The broker says: %d %.*s",
				 returned->reply_code, (int) Min(returned->reply_text.len, 200), (const char *) returned->reply_text.bytes);
		strlcpy(producer->failure.hint, "Bind a queue to the exchange, or set OPTIONS (mandatory 'off').",
				sizeof(producer->failure.hint));
	}
}

/* Takes what the broker has sent, without waiting. */
static PenstockOutcome
take_frames(PenstockProducer *producer, PenstockFault *fault)
{
	RabbitLink *link = producer->link;
	amqp_frame_t frame;
	PenstockOutcome outcome;

	while ((outcome = penstock_rabbitmq_link_frame(link, &frame, fault)) == PENSTOCK_OK)
	{
		const amqp_method_t *method = &frame.payload.method;

		/* headers and bodies belong to messages that come back */
		if (frame.frame_type == AMQP_FRAME_METHOD)
			switch (method->id)
			{
				case AMQP_BASIC_ACK_METHOD:
					{
						const amqp_basic_ack_t *ack = method->decoded;

						confirm(producer, ack->delivery_tag, ack->multiple, true);
						break;
					}
				case AMQP_BASIC_NACK_METHOD:
					{
						const amqp_basic_nack_t *nack = method->decoded;

						confirm(producer, nack->delivery_tag, nack->multiple, false);
						break;
					}
				case AMQP_BASIC_RETURN_METHOD:
					take_return(producer, method->decoded);
					break;
				case AMQP_CONNECTION_BLOCKED_METHOD:
					producer->blocked = true;
					break;
				case AMQP_CONNECTION_UNBLOCKED_METHOD:
					producer->blocked = false;
					break;
				default:
					return penstock_rabbitmq_close_fault(link, method, fault);
			}
		amqp_maybe_release_buffers_on_channel(link->state, frame.channel);
	}
	return outcome == PENSTOCK_END ? PENSTOCK_OK : outcome;
}

/* ---- sending ---- */

/* While corked, the kernel collects small frames into full packets. */
static void
cork(PenstockProducer *producer, bool on)
{
	int			value = on;

	if (producer->corked == on)
		return;
	(void) setsockopt(amqp_get_sockfd(producer->link->state), IPPROTO_TCP, TCP_CORK, &value, sizeof(value));
	producer->corked = on;
}

/* Time is up: says for what.  The connection is of no use any more. */
static PenstockOutcome
too_late(PenstockProducer *producer, int timeout, PenstockFault *fault)
{
	penstock_fault(fault, PENSTOCK_AWAY, ERRCODE_CONNECTION_FAILURE,
				   "the broker at \"%s\" port %d did not take %d messages within %d ms", producer->link->host,
				   producer->link->port, producer->waiting, timeout);
	if (producer->blocked)
		strlcpy(fault->detail, "It is short of memory or disk and takes no messages at the moment.", sizeof(fault->detail));
	return PENSTOCK_AWAY;
}

/* Waits once for the broker; a fault when the deadline has passed. */
static PenstockOutcome
wait_once(PenstockProducer *producer, bool want_room, TimestampTz deadline, int timeout, PenstockFault *fault)
{
	long		left = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), deadline);

	if (left <= 0)
		return too_late(producer, timeout, fault);
	cork(producer, false);
	/* not longer than until the next heartbeat is due */
	if (producer->link->heartbeat > 0)
		left = Min(left, producer->link->heartbeat * 1000L / 4);
	penstock_rabbitmq_link_wait(producer->link, left, want_room);
	return take_frames(producer, fault);
}

/* Waits until so many bytes can be sent without waiting. */
static PenstockOutcome
need_room(PenstockProducer *producer, int size, TimestampTz deadline, int timeout, PenstockFault *fault)
{
	PenstockOutcome outcome = PENSTOCK_OK;
	int			queued = 0;

	while (outcome == PENSTOCK_OK && producer->room < size)
	{
		if (ioctl(amqp_get_sockfd(producer->link->state), SIOCOUTQ, &queued) < 0)
			return penstock_rabbitmq_status_fault(producer->link, AMQP_STATUS_SOCKET_ERROR, fault);
		producer->room = SOCKET_ROOM - queued;
		if (producer->room < size)
			outcome = wait_once(producer, true, deadline, timeout, fault);
	}
	producer->room -= size;
	return outcome;
}

static PenstockOutcome
send_frame(PenstockProducer *producer, const amqp_frame_t *frame, int size, TimestampTz deadline, int timeout,
		   PenstockFault *fault)
{
	PenstockOutcome outcome = need_room(producer, size + FRAME_OVERHEAD, deadline, timeout, fault);
	int			status;

	if (outcome != PENSTOCK_OK)
		return outcome;
	status = amqp_send_frame(producer->link->state, frame);
	if (status == AMQP_STATUS_TABLE_TOO_BIG)
		return penstock_fault(fault, PENSTOCK_REFUSED, ERRCODE_PROGRAM_LIMIT_EXCEEDED,
							  "the headers of a message do not fit into a frame of %d bytes",
							  amqp_get_frame_max(producer->link->state));
	if (status != AMQP_STATUS_OK)
		return penstock_rabbitmq_status_fault(producer->link, status, fault);
	return PENSTOCK_OK;
}

/* Room that a header frame may need: librabbitmq says only afterwards how large it was. */
static int
header_size(const PenstockMessage *message)
{
	int64		size = 1024;

	for (int i = 0; i < message->nheaders; i++)
		size += strlen(message->headers[i].name) + message->headers[i].length + 16;
	for (int i = 0; i < message->nproperties; i++)
		size += message->properties[i].length + 8;
	return (int) Min(size, SOCKET_ROOM - FRAME_OVERHEAD);
}

static PenstockOutcome
publish(PenstockProducer *producer, const PenstockMessage *message, const char *exchange, const char *routing_key,
		amqp_basic_properties_t *properties, TimestampTz deadline, int timeout, PenstockFault *fault)
{
	amqp_basic_publish_t method = {.exchange = amqp_cstring_bytes(exchange),
	.routing_key = amqp_cstring_bytes(routing_key),.mandatory = producer->mandatory};
	amqp_frame_t frame = {.frame_type = AMQP_FRAME_METHOD,.channel = RABBITMQ_CHANNEL};
	PenstockOutcome outcome;
	int			most = Min(FRAME_SIZE, amqp_get_frame_max(producer->link->state) - FRAME_OVERHEAD);

	frame.payload.method.id = AMQP_BASIC_PUBLISH_METHOD;
	frame.payload.method.decoded = &method;
	outcome = send_frame(producer, &frame, 2 * RABBITMQ_SHORT_STRING, deadline, timeout, fault);
	if (outcome != PENSTOCK_OK)
		return outcome;

	frame.frame_type = AMQP_FRAME_HEADER;
	memset(&frame.payload, 0, sizeof(frame.payload));
	frame.payload.properties.class_id = AMQP_BASIC_CLASS;
	frame.payload.properties.body_size = message->payload ? message->length : 0;
	frame.payload.properties.decoded = properties;
	outcome = send_frame(producer, &frame, header_size(message), deadline, timeout, fault);

	for (int at = 0; outcome == PENSTOCK_OK && message->payload != NULL && at < message->length; at += most)
	{
		int			length = Min(most, message->length - at);

		frame.frame_type = AMQP_FRAME_BODY;
		memset(&frame.payload, 0, sizeof(frame.payload));
		frame.payload.body_fragment.bytes = unconstify(char *, message->payload) + at;
		frame.payload.body_fragment.len = length;
		outcome = send_frame(producer, &frame, length, deadline, timeout, fault);
	}
	return outcome;
}

/* A connection that has been idle may have ended meanwhile; then nothing is lost by a new one. */
static PenstockOutcome
ready_to_send(PenstockProducer *producer, PenstockFault *fault)
{
	if (producer->link == NULL || producer->midway)
		return connect_anew(producer, fault);
	if (producer->waiting == 0 && take_frames(producer, fault) != PENSTOCK_OK)
		return connect_anew(producer, fault);
	return PENSTOCK_OK;
}

static void
remember(PenstockProducer *producer, const char *exchange, const char *routing_key)
{
	Pending    *pending = &producer->pending[++producer->sent % WINDOW];
	MemoryContext before = MemoryContextSwitchTo(GetMemoryChunkContext(producer));

	pending->waits = true;
	pending->exchange = exchange == producer->exchange ? NULL : pstrdup(exchange);
	pending->routing_key = routing_key == producer->routing_key ? NULL : pstrdup(routing_key);
	producer->waiting++;
	MemoryContextSwitchTo(before);
}

/* A fault ends what was begun: what has been sent is not known to be anywhere. */
static PenstockOutcome
give_up(PenstockProducer *producer, PenstockOutcome outcome)
{
	if (outcome != PENSTOCK_OK)
		disconnect(producer);
	return outcome;
}

PenstockOutcome
penstock_rabbitmq_producer_send(PenstockProducer *producer, const PenstockMessage *message, int timeout,
								PenstockFault *fault)
{
	TimestampTz deadline = GetCurrentTimestamp() + (int64) timeout * 1000;
	const char *exchange = producer->exchange;
	const char *routing_key = producer->routing_key;
	amqp_basic_properties_t properties;
	MemoryContext before;
	PenstockOutcome outcome = ready_to_send(producer, fault);

	while (outcome == PENSTOCK_OK && producer->sent - producer->confirmed >= WINDOW)
		outcome = wait_once(producer, false, deadline, timeout, fault);
	if (outcome != PENSTOCK_OK)
		return give_up(producer, outcome);

	before = MemoryContextSwitchTo(producer->message_context);
	outcome = penstock_rabbitmq_outgoing(message, &properties, &exchange, &routing_key, fault);
	MemoryContextSwitchTo(before);
	if (outcome != PENSTOCK_OK)
		return outcome;
	if ((properties._flags & AMQP_BASIC_DELIVERY_MODE_FLAG) == 0)
	{
		properties.delivery_mode = producer->persistent ? AMQP_DELIVERY_PERSISTENT : AMQP_DELIVERY_NONPERSISTENT;
		properties._flags |= AMQP_BASIC_DELIVERY_MODE_FLAG;
	}
	remember(producer, exchange, routing_key);
	cork(producer, true);
	producer->midway = true;
	outcome = publish(producer, message, exchange, routing_key, &properties, deadline, timeout, fault);
	producer->midway = outcome != PENSTOCK_OK;
	MemoryContextReset(producer->message_context);
	return give_up(producer, outcome);
}

PenstockOutcome
penstock_rabbitmq_producer_flush(PenstockProducer *producer, int timeout, PenstockFault *fault)
{
	TimestampTz deadline = GetCurrentTimestamp() + (int64) timeout * 1000;
	PenstockOutcome outcome = PENSTOCK_OK;

	if (producer->link == NULL)
		return PENSTOCK_OK;
	cork(producer, false);
	while (outcome == PENSTOCK_OK && producer->waiting > 0)
		outcome = wait_once(producer, false, deadline, timeout, fault);
	if (outcome != PENSTOCK_OK)
		return give_up(producer, outcome);
	if (producer->failed != PENSTOCK_OK)
	{
		*fault = producer->failure;
		outcome = producer->failed;
		producer->failed = PENSTOCK_OK;
	}
	return outcome;
}

/*
 * penstock_rabbitmq_producer_abort: what has been sent cannot be called back; the rest is dropped with the connection.
 */
void
penstock_rabbitmq_producer_abort(PenstockProducer *producer)
{
	if (producer->waiting > 0 || producer->midway)
		disconnect(producer);
	producer->failed = PENSTOCK_OK;
}

void
penstock_rabbitmq_producer_close(PenstockProducer *producer)
{
	disconnect(producer);
}
