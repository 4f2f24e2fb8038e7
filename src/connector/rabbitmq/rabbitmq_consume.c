/*
 * rabbitmq_consume.c
 *	  Consumers: queues and streams for pipes, and what is there now for a SELECT.
 *
 * A pipe's queue is consumed with prefetch as back-pressure and acknowledged after the commit.  A stream is
 * acknowledged as soon as its messages are in the batch, since an acknowledgement there is only credit for more:
 * where to read on is Penstock's to know.  A SELECT takes messages of a queue with basic.get, and gives them
 * back by closing the channel.
 */
#include "postgres.h"

#include "portability/instr_time.h"
#include "storage/latch.h"
#include "utils/memutils.h"

#include "connector/rabbitmq/rabbitmq.h"

/* basic.get requests that are under way together */
#define GETS_AHEAD			64

/* How often the broker is asked how much is left, in ms; a stream's answer is a whole chunk. */
#define QUEUE_LAG_INTERVAL	1000
#define STREAM_LAG_INTERVAL	5000

/* How often it is asked whether a queue is empty while somebody waits for that, in ms. */
#define CAUGHT_UP_INTERVAL	50

/* How long close waits for a browsed queue to be as it was, in ms. */
#define CLOSE_TIMEOUT		2000

typedef enum RabbitMode
{
	RABBITMQ_QUEUE,
	RABBITMQ_STREAM,
	RABBITMQ_BROWSE_QUEUE,
	RABBITMQ_BROWSE_STREAM
} RabbitMode;

/* How far the question of caught_up has come. */
typedef enum RabbitCaughtUp
{
	RABBITMQ_NOBODY_WAITS,
	RABBITMQ_FIRST_ANSWER,
	RABBITMQ_SECOND_ANSWER,
	RABBITMQ_TARGET_KNOWN
} RabbitCaughtUp;

struct PenstockConsumer
{
	RabbitLink *link;
	const char *queue;			/* its name at the broker */
	RabbitMode	mode;
	RabbitDelivery delivery;
	RabbitDelivery lag_delivery;	/* on RABBITMQ_LAG_CHANNEL */
	int			prefetch;
	bool		more;			/* fetch stopped because the batch was full */
	uint64		given;			/* delivery tag of the last message given */
	uint64		acknowledged;	/* of the last one acknowledged */

	/* streams */
	int64		wanted;			/* offset that comes next */
	bool		placed;			/* and that is known, not only where the broker was asked to begin */
	bool		exact;			/* the first message must be that one: all before has been read */
	bool		was_empty;		/* there was no message when it was opened, though some have been read before */
	int64		last;			/* browsing: where to end */

	/* browsing a queue */
	int64		to_ask;
	int			asked;

	/* how much is left: questions and answers are counted */
	uint64		asked_lag;
	uint64		answered_lag;
	instr_time	lag_time;		/* when it was asked last */
	int64		waiting;		/* in the queue, -1: not known */
	uint64		waiting_given;	/* what had been given then */
	int64		stream_end;		/* largest offset seen in the stream, -1: not known */
	bool		end_seen;		/* the present question has brought a message */

	/* somebody waits for the end */
	RabbitCaughtUp caught_up;
	uint64		ticket;
	uint64		answer_needed;	/* its number */
	int64		first_waiting;	/* the first answer */
	int64		target;			/* delivery tag, or offset, up to which must have been given */

	PenstockPlace first_place;	/* where 'next' is */
	bool		has_first_place;
};

static const char *
consumer_tag(const PenstockQueue *queue)
{
	return psprintf("%.250s", queue->consumer ? queue->consumer : "penstock-select");
}

static PenstockOutcome
open_queue(PenstockConsumer *consumer, const PenstockQueue *queue, PenstockFault *fault)
{
	RabbitLink *link = consumer->link;

	if (amqp_basic_qos(link->state, RABBITMQ_CHANNEL, 0, (uint16_t) consumer->prefetch, 0) == NULL ||
		amqp_basic_consume(link->state, RABBITMQ_CHANNEL, amqp_cstring_bytes(consumer->queue),
						   amqp_cstring_bytes(consumer_tag(queue)), 0, 0, 0, amqp_empty_table) == NULL)
		return penstock_rabbitmq_reply_fault(link, fault);
	return PENSTOCK_OK;
}

static PenstockOutcome
open_stream(PenstockConsumer *consumer, const PenstockQueue *queue, const PenstockStart *start, PenstockFault *fault)
{
	RabbitStart from = penstock_rabbitmq_start_parse(penstock_connector_api()->option(queue, "start"));
	PenstockOutcome outcome;
	int64		ignored;

	outcome = penstock_rabbitmq_link_declared(consumer->link, RABBITMQ_CHANNEL, consumer->queue, &ignored, fault);
	if (outcome != PENSTOCK_OK)
		return outcome;
	if (start->nplaces > 0)
	{
		consumer->wanted = start->places[0].at;
		consumer->exact = true;
		outcome = penstock_rabbitmq_stream_check_place(consumer->link, &consumer->wanted, &consumer->was_empty, fault);
		if (outcome != PENSTOCK_OK)
			return outcome;
		/* from an offset the broker would leave out what is before it, also of another stream of that name */
		from.kind = consumer->was_empty ? RABBITMQ_START_FIRST : RABBITMQ_START_OFFSET;
		from.value = consumer->wanted;
	}
	else if (from.kind == RABBITMQ_START_NEXT)
	{
		outcome = penstock_rabbitmq_stream_end(consumer->link, false, RABBITMQ_EMPTY_TIMEOUT, &consumer->wanted, fault);
		if (outcome != PENSTOCK_OK)
			return outcome;
		consumer->wanted++;
		consumer->first_place = (PenstockPlace) {"", consumer->wanted, 0};
		consumer->has_first_place = true;
		from.kind = RABBITMQ_START_OFFSET;
		from.value = consumer->wanted;
	}
	else if (from.kind == RABBITMQ_START_OFFSET)
		consumer->wanted = from.value;
	consumer->placed = from.kind == RABBITMQ_START_OFFSET || from.kind == RABBITMQ_START_FIRST;
	penstock_rabbitmq_delivery_init(&consumer->lag_delivery);
	amqp_channel_open(consumer->link->state, RABBITMQ_LAG_CHANNEL);
	outcome = penstock_rabbitmq_reply_fault(consumer->link, fault);
	if (outcome != PENSTOCK_OK)
		return outcome;
	if (amqp_basic_qos(consumer->link->state, RABBITMQ_LAG_CHANNEL, 0, 1, 0) == NULL)
		return penstock_rabbitmq_reply_fault(consumer->link, fault);
	return penstock_rabbitmq_stream_consume(consumer->link, RABBITMQ_CHANNEL, consumer_tag(queue), from,
											consumer->prefetch, fault);
}

/* A SELECT of a stream: what is there when it begins, within its range. */
static PenstockOutcome
open_browse_stream(PenstockConsumer *consumer, const PenstockQueue *queue, const PenstockRange *range, PenstockFault *fault)
{
	RabbitStart from = {RABBITMQ_START_FIRST, 0};
	PenstockOutcome outcome;
	int64		ignored;

	consumer->wanted = Max(range->offset_from, 0);
	consumer->last = -1;
	if (range->partition != NULL && range->partition[0] != '\0')
		return PENSTOCK_OK;
	outcome = penstock_rabbitmq_link_declared(consumer->link, RABBITMQ_CHANNEL, consumer->queue, &ignored, fault);
	if (outcome == PENSTOCK_OK)
		outcome = penstock_rabbitmq_stream_end(consumer->link, false, RABBITMQ_EMPTY_TIMEOUT, &consumer->last, fault);
	if (outcome != PENSTOCK_OK)
		return outcome;
	consumer->last = Min(consumer->last, range->offset_to);
	if (consumer->wanted > consumer->last)
		return PENSTOCK_OK;
	if (consumer->wanted > 0)
	{
		from.kind = RABBITMQ_START_OFFSET;
		from.value = consumer->wanted;
	}
	return penstock_rabbitmq_stream_consume(consumer->link, RABBITMQ_CHANNEL, consumer_tag(queue), from,
											consumer->prefetch, fault);
}

static PenstockOutcome
begin(PenstockConsumer *consumer, const PenstockQueue *queue, const PenstockStart *start, PenstockFault *fault)
{
	switch (consumer->mode)
	{
		case RABBITMQ_QUEUE:
			return open_queue(consumer, queue, fault);
		case RABBITMQ_STREAM:
			return open_stream(consumer, queue, start, fault);
		case RABBITMQ_BROWSE_STREAM:
			return open_browse_stream(consumer, queue, start->browse, fault);
		case RABBITMQ_BROWSE_QUEUE:
			return penstock_rabbitmq_link_declared(consumer->link, RABBITMQ_CHANNEL, consumer->queue, &consumer->to_ask,
												   fault);
	}
	return PENSTOCK_REFUSED;
}

static void
close_with_context(void *arg)
{
	penstock_rabbitmq_consumer_close(arg);
}

PenstockConsumer *
penstock_rabbitmq_consumer_open(const PenstockQueue *queue, const PenstockStart *start, PenstockOutcome *outcome,
								PenstockFault *fault)
{
	const PenstockConnectorApi *api = penstock_connector_api();
	PenstockConsumer *consumer = palloc0(sizeof(PenstockConsumer));
	MemoryContextCallback *closer = palloc0(sizeof(MemoryContextCallback));

	consumer->queue = api->option(queue, "queue");
	consumer->prefetch = (int) api->option_int(queue, "prefetch");
	consumer->waiting = -1;
	consumer->stream_end = -1;
	if (queue->connector->has_offsets)
		consumer->mode = start->browse ? RABBITMQ_BROWSE_STREAM : RABBITMQ_STREAM;
	else
		consumer->mode = start->browse ? RABBITMQ_BROWSE_QUEUE : RABBITMQ_QUEUE;
	if (consumer->queue == NULL)
	{
		*outcome = penstock_fault(fault, PENSTOCK_REFUSED, ERRCODE_FDW_OPTION_NAME_NOT_FOUND,
								  "%s has no option \"queue\": it can only be written to", queue->name);
		return NULL;
	}
	penstock_rabbitmq_delivery_init(&consumer->delivery);
	consumer->delivery.wants_headers = queue->wants_headers;
	consumer->delivery.wants_properties = queue->wants_properties;
	consumer->link = penstock_rabbitmq_link_open(queue, outcome, fault);
	if (consumer->link == NULL)
		return NULL;
	/* before the link's own, since what is registered last is called first */
	closer->func = close_with_context;
	closer->arg = consumer;
	MemoryContextRegisterResetCallback(CurrentMemoryContext, closer);
	*outcome = begin(consumer, queue, start, fault);
	if (*outcome == PENSTOCK_OK)
		return consumer;
	penstock_rabbitmq_link_close(consumer->link);
	return NULL;
}

/* ---- fetching ---- */

/* Is this the offset that comes next?  Otherwise the fault says why not; *give: false for one that has been read before. */
static PenstockOutcome
check_offset(PenstockConsumer *consumer, int64 offset, bool *give, PenstockFault *fault)
{
	PenstockOutcome outcome = PENSTOCK_OK;

	if (offset < 0)
	{
		penstock_fault(fault, PENSTOCK_REFUSED, ERRCODE_WRONG_OBJECT_TYPE, "queue \"%s\" is not a stream", consumer->queue);
		strlcpy(fault->hint, "Queues are read through a server of foreign-data wrapper rabbitmq.", sizeof(fault->hint));
		return PENSTOCK_REFUSED;
	}
	if (consumer->was_empty && offset < consumer->wanted)
		return penstock_fault(fault, PENSTOCK_AWAY, ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
							  "stream \"%s\" was empty and has messages again: looking where it stands", consumer->queue);
	/* the broker may begin with the chunk that has the offset */
	*give = offset >= consumer->wanted && (consumer->mode != RABBITMQ_BROWSE_STREAM || offset <= consumer->last);
	if (consumer->exact && offset > consumer->wanted)
		outcome = penstock_rabbitmq_stream_check_gap(consumer->link, consumer->wanted, offset, fault);
	if (*give)
		consumer->exact = consumer->was_empty = false;
	return outcome;
}

/* Acknowledges up to the last message given. */
static PenstockOutcome
acknowledge(PenstockConsumer *consumer, PenstockFault *fault)
{
	int			status;

	if (consumer->acknowledged == consumer->given)
		return PENSTOCK_OK;
	if (penstock_rabbitmq_link_has_room(consumer->link, fault) != PENSTOCK_OK)
		return PENSTOCK_AWAY;
	status = amqp_basic_ack(consumer->link->state, RABBITMQ_CHANNEL, consumer->given, 1);
	if (status != AMQP_STATUS_OK)
		return penstock_rabbitmq_status_fault(consumer->link, status, fault);
	consumer->acknowledged = consumer->given;
	return PENSTOCK_OK;
}

/* A whole message is there: gives it to the batch.  *full: there is no room for more. */
static PenstockOutcome
give(PenstockConsumer *consumer, PenstockBatch *batch, bool *full, PenstockFault *fault)
{
	bool		stream = consumer->mode == RABBITMQ_STREAM || consumer->mode == RABBITMQ_BROWSE_STREAM;
	PenstockMessage message;
	PenstockOutcome outcome = PENSTOCK_OK;
	int64		offset = (int64) consumer->delivery.tag;
	bool		wanted = true;

	if (stream)
	{
		offset = penstock_rabbitmq_delivery_offset(&consumer->delivery);
		outcome = check_offset(consumer, offset, &wanted, fault);
	}
	if (outcome != PENSTOCK_OK)
		return outcome;
	if (wanted)
	{
		penstock_rabbitmq_delivery_message(&consumer->delivery, &message);
		message.offset = offset;
		message.next_at = offset + 1;
		*full = !penstock_connector_api()->batch_add(batch, &message);
	}
	if (stream && offset >= consumer->wanted)
		consumer->wanted = offset + 1;
	consumer->placed = true;
	consumer->given = consumer->delivery.tag;
	penstock_rabbitmq_delivery_done(&consumer->delivery, consumer->link, RABBITMQ_CHANNEL);
	if (stream && consumer->given - consumer->acknowledged >= (consumer->prefetch + 1) / 2)
		outcome = acknowledge(consumer, fault);
	return outcome;
}

/* Ends the question for a stream's end.  The answer to what is asked last comes after all of the chunk. */
static void
end_probe(PenstockConsumer *consumer)
{
	amqp_basic_cancel_t cancel = {.consumer_tag = amqp_cstring_bytes("penstock-lag"),.nowait = 1};
	amqp_queue_declare_t declare = {.queue = amqp_cstring_bytes(consumer->queue),.passive = 1};
	PenstockFault ignored;

	if (penstock_rabbitmq_link_has_room(consumer->link, &ignored) != PENSTOCK_OK)
		return;
	(void) amqp_send_method(consumer->link->state, RABBITMQ_LAG_CHANNEL, AMQP_BASIC_CANCEL_METHOD, &cancel);
	(void) amqp_send_method(consumer->link->state, RABBITMQ_LAG_CHANNEL, AMQP_QUEUE_DECLARE_METHOD, &declare);
}

/* A message of the stream's last chunk. */
static PenstockOutcome
take_lag(PenstockConsumer *consumer, const amqp_frame_t *frame, PenstockFault *fault)
{
	PenstockOutcome outcome;
	bool		complete;

	outcome = penstock_rabbitmq_delivery_take(&consumer->lag_delivery, consumer->link, frame, &complete, fault);
	if (outcome != PENSTOCK_OK || !complete)
		return outcome;
	consumer->stream_end = Max(consumer->stream_end, penstock_rabbitmq_delivery_offset(&consumer->lag_delivery));
	penstock_rabbitmq_delivery_done(&consumer->lag_delivery, consumer->link, RABBITMQ_LAG_CHANNEL);
	if (!consumer->end_seen)
		end_probe(consumer);
	consumer->end_seen = true;
	return PENSTOCK_OK;
}

/* A method that is not part of a message. */
static PenstockOutcome
take_method(PenstockConsumer *consumer, const amqp_method_t *method, PenstockFault *fault)
{
	switch (method->id)
	{
		case AMQP_BASIC_CANCEL_METHOD:
			return penstock_fault(fault, PENSTOCK_AWAY, ERRCODE_UNDEFINED_OBJECT,
								  "queue \"%s\" was deleted, or moved, while it was read", consumer->queue);
		case AMQP_BASIC_GET_EMPTY_METHOD:
			consumer->asked--;
			consumer->to_ask = 0;
			return PENSTOCK_OK;
		case AMQP_QUEUE_DECLARE_OK_METHOD:
			consumer->waiting = ((const amqp_queue_declare_ok_t *) method->decoded)->message_count;
			consumer->waiting_given = consumer->given;
			consumer->answered_lag++;
			return PENSTOCK_OK;
		case AMQP_BASIC_CONSUME_OK_METHOD:
		case AMQP_BASIC_CANCEL_OK_METHOD:
		case AMQP_CONNECTION_BLOCKED_METHOD:
		case AMQP_CONNECTION_UNBLOCKED_METHOD:
			return PENSTOCK_OK;
		default:
			return penstock_rabbitmq_close_fault(consumer->link, method, fault);
	}
}

static PenstockOutcome
take_frame(PenstockConsumer *consumer, const amqp_frame_t *frame, PenstockBatch *batch, bool *full, PenstockFault *fault)
{
	PenstockOutcome outcome;
	bool		complete;

	if (frame->frame_type == AMQP_FRAME_METHOD && frame->payload.method.id != AMQP_BASIC_DELIVER_METHOD &&
		frame->payload.method.id != AMQP_BASIC_GET_OK_METHOD)
	{
		outcome = take_method(consumer, &frame->payload.method, fault);
		amqp_maybe_release_buffers_on_channel(consumer->link->state, frame->channel);
		return outcome;
	}
	if (frame->channel == RABBITMQ_LAG_CHANNEL)
		return take_lag(consumer, frame, fault);
	if (frame->channel != RABBITMQ_CHANNEL)
	{
		/* what was left of a probe */
		amqp_maybe_release_buffers_on_channel(consumer->link->state, frame->channel);
		return PENSTOCK_OK;
	}
	outcome = penstock_rabbitmq_delivery_take(&consumer->delivery, consumer->link, frame, &complete, fault);
	if (outcome != PENSTOCK_OK || !complete)
		return outcome;
	if (consumer->mode == RABBITMQ_BROWSE_QUEUE)
		consumer->asked--;
	return give(consumer, batch, full, fault);
}

static PenstockOutcome
ask_for_messages(PenstockConsumer *consumer, PenstockFault *fault)
{
	amqp_basic_get_t get = {.queue = amqp_cstring_bytes(consumer->queue)};

	while (consumer->asked < GETS_AHEAD && consumer->to_ask > 0)
	{
		int			status;

		if (penstock_rabbitmq_link_has_room(consumer->link, fault) != PENSTOCK_OK)
			return PENSTOCK_AWAY;
		status = amqp_send_method(consumer->link->state, RABBITMQ_CHANNEL, AMQP_BASIC_GET_METHOD, &get);
		if (status != AMQP_STATUS_OK)
			return penstock_rabbitmq_status_fault(consumer->link, status, fault);
		consumer->asked++;
		consumer->to_ask--;
	}
	return PENSTOCK_OK;
}

static bool
browsed_all(const PenstockConsumer *consumer)
{
	return (consumer->mode == RABBITMQ_BROWSE_QUEUE && consumer->asked == 0 && consumer->to_ask == 0) ||
		(consumer->mode == RABBITMQ_BROWSE_STREAM && consumer->wanted > consumer->last);
}

PenstockOutcome
penstock_rabbitmq_consumer_fetch(PenstockConsumer *consumer, PenstockBatch *batch, PenstockFault *fault)
{
	PenstockOutcome outcome = PENSTOCK_OK;

	consumer->more = false;
	while (!consumer->more)
	{
		amqp_frame_t frame;

		if (consumer->mode == RABBITMQ_BROWSE_QUEUE && consumer->asked < GETS_AHEAD / 2)
			outcome = ask_for_messages(consumer, fault);
		if (outcome == PENSTOCK_OK && browsed_all(consumer))
			return PENSTOCK_END;
		if (outcome == PENSTOCK_OK)
			outcome = penstock_rabbitmq_link_frame(consumer->link, &frame, fault);
		if (outcome == PENSTOCK_OK)
			outcome = take_frame(consumer, &frame, batch, &consumer->more, fault);
		if (outcome != PENSTOCK_OK)
			break;
	}
	return outcome == PENSTOCK_END ? PENSTOCK_OK : outcome;
}

void
penstock_rabbitmq_consumer_wait_for(PenstockConsumer *consumer, PenstockWaitFor *wait)
{
	amqp_connection_state_t state = consumer->link->state;

	wait->fd = amqp_get_sockfd(state);
	wait->events = WL_SOCKET_READABLE;
	/* a broker that goes away is noticed, and one that waits for a sign of life gets it, inside fetch */
	wait->timeout = consumer->link->heartbeat > 0 ? consumer->link->heartbeat * 1000L / 4 : -1;
	if (consumer->more || wait->fd < 0 || amqp_frames_enqueued(state) || amqp_data_in_buffer(state))
		wait->timeout = 0;
}

PenstockOutcome
penstock_rabbitmq_consumer_acknowledge(PenstockConsumer *consumer, PenstockFault *fault)
{
	return consumer->mode == RABBITMQ_QUEUE ? acknowledge(consumer, fault) : PENSTOCK_OK;
}

/* ---- how much is left ---- */

/* Sends the question; the answer comes with other frames. */
static void
ask_for_lag(PenstockConsumer *consumer)
{
	amqp_table_entry_t argument = {.key = amqp_cstring_bytes("x-stream-offset"),
		.value = {.kind = AMQP_FIELD_KIND_UTF8,.value.bytes = amqp_cstring_bytes("last")}};
	amqp_basic_consume_t consume = {.queue = amqp_cstring_bytes(consumer->queue),
		.consumer_tag = amqp_cstring_bytes("penstock-lag"),.nowait = 1,
		.arguments = {.num_entries = 1,.entries = &argument}};
	amqp_queue_declare_t declare = {.queue = amqp_cstring_bytes(consumer->queue),.passive = 1};
	amqp_connection_state_t state = consumer->link->state;
	PenstockFault ignored;

	if (penstock_rabbitmq_link_has_room(consumer->link, &ignored) != PENSTOCK_OK)
		return;
	consumer->asked_lag++;
	INSTR_TIME_SET_CURRENT(consumer->lag_time);
	if (consumer->mode == RABBITMQ_QUEUE)
		(void) amqp_send_method(state, RABBITMQ_CHANNEL, AMQP_QUEUE_DECLARE_METHOD, &declare);
	else
	{
		consumer->end_seen = false;
		/* what came for the last question */
		(void) amqp_basic_ack(state, RABBITMQ_LAG_CHANNEL, 0, 1);
		(void) amqp_send_method(state, RABBITMQ_LAG_CHANNEL, AMQP_BASIC_CONSUME_METHOD, &consume);
	}
}

/* ms since the last question. */
static long
since_asked(const PenstockConsumer *consumer)
{
	instr_time	now;

	INSTR_TIME_SET_CURRENT(now);
	INSTR_TIME_SUBTRACT(now, consumer->lag_time);
	return (long) INSTR_TIME_GET_MILLISEC(now);
}

static bool
is_asking(PenstockConsumer *consumer)
{
	/* a stream without a message gives no answer by itself */
	if (consumer->mode == RABBITMQ_STREAM && consumer->asked_lag > consumer->answered_lag && !consumer->end_seen &&
		since_asked(consumer) >= RABBITMQ_EMPTY_TIMEOUT)
	{
		consumer->end_seen = true;
		end_probe(consumer);
	}
	return consumer->asked_lag > consumer->answered_lag;
}

/*
 * penstock_rabbitmq_consumer_lag tells what is known, and asks for news now and then.
 */
int64
penstock_rabbitmq_consumer_lag(PenstockConsumer *consumer)
{
	bool		queue = consumer->mode == RABBITMQ_QUEUE;

	if (!queue && consumer->mode != RABBITMQ_STREAM)
		return -1;
	if (!is_asking(consumer) &&
		(consumer->asked_lag == 0 || since_asked(consumer) >= (queue ? QUEUE_LAG_INTERVAL : STREAM_LAG_INTERVAL)))
		ask_for_lag(consumer);
	if (queue)
		return consumer->waiting < 0 ? -1 : Max(consumer->waiting - (int64) (consumer->given - consumer->waiting_given), 0);
	return consumer->stream_end < 0 || !consumer->placed ? -1 : Max(consumer->stream_end + 1 - consumer->wanted, 0);
}

static void
ask_for_ticket(PenstockConsumer *consumer, RabbitCaughtUp next)
{
	ask_for_lag(consumer);
	consumer->answer_needed = consumer->asked_lag;
	consumer->caught_up = next;
}

/*
 * Has all been given that the target says?  A queue: what waited in it, and what was on its way then, which has come when
 * a second question is answered.  A stream: its last offset.
 */
static bool
reached_target(PenstockConsumer *consumer)
{
	if (consumer->mode == RABBITMQ_STREAM)
		return !consumer->placed || consumer->wanted >= consumer->target;
	return consumer->waiting == 0 || (int64) consumer->given >= consumer->target;
}

/*
 * penstock_rabbitmq_consumer_caught_up asks the broker, without waiting for the answer: it wakes the caller, who asks again.
 */
uint64
penstock_rabbitmq_consumer_caught_up(PenstockConsumer *consumer, uint64 ticket)
{
	bool		queue = consumer->mode == RABBITMQ_QUEUE;
	bool		asking = is_asking(consumer);
	uint64		result = 0;

	if (consumer->caught_up == RABBITMQ_FIRST_ANSWER && consumer->answered_lag >= consumer->answer_needed)
	{
		consumer->first_waiting = consumer->waiting;
		consumer->target = consumer->stream_end + 1;
		if (queue)
			ask_for_ticket(consumer, RABBITMQ_SECOND_ANSWER);
		else
			consumer->caught_up = RABBITMQ_TARGET_KNOWN;
	}
	else if (consumer->caught_up == RABBITMQ_SECOND_ANSWER && consumer->answered_lag >= consumer->answer_needed)
	{
		consumer->target = (int64) consumer->given + consumer->first_waiting;
		consumer->caught_up = RABBITMQ_TARGET_KNOWN;
	}
	if (consumer->caught_up == RABBITMQ_TARGET_KNOWN && reached_target(consumer))
	{
		result = consumer->ticket;
		consumer->caught_up = RABBITMQ_NOBODY_WAITS;
	}
	/* others may read the queue too: is it empty now? */
	if (consumer->caught_up == RABBITMQ_TARGET_KNOWN && queue && !asking && since_asked(consumer) >= CAUGHT_UP_INTERVAL)
		ask_for_lag(consumer);
	if (consumer->caught_up == RABBITMQ_NOBODY_WAITS && result < ticket && (queue || !is_asking(consumer)))
	{
		consumer->ticket = ticket;
		ask_for_ticket(consumer, RABBITMQ_FIRST_ANSWER);
	}
	return result;
}

/*
 * penstock_rabbitmq_consumer_first_places: where 'next' is, which is a place only now.
 */
const PenstockPlace *
penstock_rabbitmq_consumer_first_places(PenstockConsumer *consumer, int *n)
{
	*n = consumer->has_first_place ? 1 : 0;
	return consumer->has_first_place ? &consumer->first_place : NULL;
}

/* ---- closing ---- */

/*
 * penstock_rabbitmq_consumer_close ends the connection.  A browsed queue gets its messages back when its channel is closed, and
 * the next SELECT should see them: that answer is waited for.
 */
void
penstock_rabbitmq_consumer_close(PenstockConsumer *consumer)
{
	struct timeval timeout = {.tv_sec = CLOSE_TIMEOUT / 1000};
	PenstockFault ignored;

	if (consumer->link->state != NULL && consumer->mode == RABBITMQ_BROWSE_QUEUE && consumer->given > 0 &&
		amqp_get_sockfd(consumer->link->state) >= 0 &&
		penstock_rabbitmq_link_has_room(consumer->link, &ignored) == PENSTOCK_OK)
	{
		amqp_set_rpc_timeout(consumer->link->state, &timeout);
		(void) amqp_channel_close(consumer->link->state, RABBITMQ_CHANNEL, AMQP_REPLY_SUCCESS);
	}
	penstock_rabbitmq_link_close(consumer->link);
}
