/*
 * rabbitmq_stream.c
 *	  Streams over AMQP 0-9-1: reading from an offset, and finding out where a stream begins and ends.
 *
 * The protocol has no question for a stream's first or last offset.  But the broker sends a stream chunk by chunk,
 * a whole chunk in one go, and answers a channel's requests in order: a second consumer that begins with the last
 * chunk, followed by a request, has seen all of that chunk when the request is answered.
 */
#include "postgres.h"

#include "portability/instr_time.h"
#include "utils/memutils.h"

#include "connector/rabbitmq/rabbitmq.h"
#include "util/errors.h"

/* More than a chunk holds. */
#define PROBE_PREFETCH	65535

static amqp_field_value_t
start_value(RabbitStart start)
{
	amqp_field_value_t value = {.kind = AMQP_FIELD_KIND_UTF8};

	switch (start.kind)
	{
		case RABBITMQ_START_FIRST:
			value.value.bytes = amqp_cstring_bytes("first");
			break;
		case RABBITMQ_START_LAST:
			value.value.bytes = amqp_cstring_bytes("last");
			break;
		case RABBITMQ_START_NEXT:
			value.value.bytes = amqp_cstring_bytes("next");
			break;
		case RABBITMQ_START_OFFSET:
			value.kind = AMQP_FIELD_KIND_I64;
			value.value.i64 = start.value;
			break;
		case RABBITMQ_START_TIME:
			value.kind = AMQP_FIELD_KIND_TIMESTAMP;
			value.value.u64 = (uint64) start.value;
			break;
	}
	return value;
}

PenstockOutcome
penstock_rabbitmq_stream_consume(RabbitLink *link, amqp_channel_t channel, const char *tag, RabbitStart start,
								 int prefetch, PenstockFault *fault)
{
	const char *queue = penstock_connector_api()->option(link->queue, "queue");
	amqp_table_entry_t argument = {.key = amqp_cstring_bytes("x-stream-offset"),.value = start_value(start)};
	amqp_table_t arguments = {.num_entries = 1,.entries = &argument};

	if (amqp_basic_qos(link->state, channel, 0, (uint16_t) prefetch, 0) == NULL ||
		amqp_basic_consume(link->state, channel, amqp_cstring_bytes(queue), amqp_cstring_bytes(tag), 0, 0, 0,
						   arguments) == NULL)
		return penstock_rabbitmq_reply_fault(link, fault);
	return PENSTOCK_OK;
}

/* Reads the probe's messages that are there; *offset becomes the last one's, or with first that of the first. */
static PenstockOutcome
drain_probe(RabbitLink *link, RabbitDelivery *delivery, bool first, int64 *offset, PenstockFault *fault)
{
	amqp_frame_t frame;
	PenstockOutcome outcome;
	bool		complete;

	while ((outcome = penstock_rabbitmq_link_frame(link, &frame, fault)) == PENSTOCK_OK)
	{
		if (frame.frame_type == AMQP_FRAME_METHOD && frame.payload.method.id != AMQP_BASIC_DELIVER_METHOD)
			return penstock_rabbitmq_close_fault(link, &frame.payload.method, fault);
		outcome = penstock_rabbitmq_delivery_take(delivery, link, &frame, &complete, fault);
		if (outcome != PENSTOCK_OK)
			return outcome;
		if (!complete)
			continue;
		if (!first || *offset < 0)
			*offset = penstock_rabbitmq_delivery_offset(delivery);
		penstock_rabbitmq_delivery_done(delivery, link, RABBITMQ_PROBE_CHANNEL);
		if (first || *offset < 0)
			break;
	}
	return outcome == PENSTOCK_END ? PENSTOCK_OK : outcome;
}

static PenstockOutcome
probe(RabbitLink *link, RabbitDelivery *delivery, bool first, long timeout, int64 *offset, PenstockFault *fault)
{
	const char *queue = penstock_connector_api()->option(link->queue, "queue");
	RabbitStart start = {first ? RABBITMQ_START_FIRST : RABBITMQ_START_LAST, 0};
	PenstockOutcome outcome;
	instr_time	began;
	instr_time	now;
	int64		ignored;

	INSTR_TIME_SET_CURRENT(began);
	outcome = penstock_rabbitmq_stream_consume(link, RABBITMQ_PROBE_CHANNEL, "penstock-probe", start,
											   PROBE_PREFETCH, fault);
	while (outcome == PENSTOCK_OK && *offset < 0)
	{
		outcome = drain_probe(link, delivery, first, offset, fault);
		INSTR_TIME_SET_CURRENT(now);
		INSTR_TIME_SUBTRACT(now, began);
		if (outcome != PENSTOCK_OK || *offset >= 0 || INSTR_TIME_GET_MILLISEC(now) >= timeout)
			break;
		penstock_rabbitmq_link_wait(link, timeout - (long) INSTR_TIME_GET_MILLISEC(now), false);
	}
	if (outcome != PENSTOCK_OK || *offset < 0 || first)
		return outcome;
	outcome = penstock_rabbitmq_link_declared(link, RABBITMQ_PROBE_CHANNEL, queue, &ignored, fault);
	return outcome == PENSTOCK_OK ? drain_probe(link, delivery, false, offset, fault) : outcome;
}

/*
 * penstock_rabbitmq_stream_end finds the smallest (first) or the largest offset that the stream has; -1: no message came
 * within timeout ms, it is empty.
 */
PenstockOutcome
penstock_rabbitmq_stream_end(RabbitLink *link, bool first, long timeout, int64 *offset, PenstockFault *fault)
{
	RabbitDelivery delivery;
	PenstockOutcome outcome;

	*offset = -1;
	amqp_channel_open(link->state, RABBITMQ_PROBE_CHANNEL);
	outcome = penstock_rabbitmq_reply_fault(link, fault);
	if (outcome != PENSTOCK_OK)
		return outcome;
	penstock_rabbitmq_delivery_init(&delivery);
	outcome = probe(link, &delivery, first, timeout, offset, fault);
	MemoryContextDelete(delivery.context);
	if (outcome == PENSTOCK_OK)
	{
		(void) amqp_channel_close(link->state, RABBITMQ_PROBE_CHANNEL, AMQP_REPLY_SUCCESS);
		outcome = penstock_rabbitmq_reply_fault(link, fault);
	}
	return outcome;
}

/* ---- what has been lost ---- */

static bool
may_skip(RabbitLink *link)
{
	return strcmp(penstock_connector_api()->option(link->queue, "on_lost"), "first") == 0;
}

static PenstockOutcome
lost(PenstockFault *fault)
{
	strlcpy(fault->hint, "To go on with the first message there is: ALTER FOREIGN TABLE ... OPTIONS (ADD on_lost 'first').",
			sizeof(fault->hint));
	return PENSTOCK_REFUSED;
}

/*
 * penstock_rabbitmq_stream_check_place finds out that a stream was deleted and made anew: it is then shorter than what has
 * been read of it.  (One that has grown longer again looks like the old one.)  One without messages may be either:
 * retention can remove all.
 */
PenstockOutcome
penstock_rabbitmq_stream_check_place(RabbitLink *link, int64 *wanted, bool *empty, PenstockFault *fault)
{
	const char *queue = penstock_connector_api()->option(link->queue, "queue");
	PenstockOutcome outcome;
	int64		last;

	*empty = false;
	if (*wanted == 0)
		return PENSTOCK_OK;
	outcome = penstock_rabbitmq_stream_end(link, false, RABBITMQ_EMPTY_TIMEOUT, &last, fault);
	*empty = last < 0;
	if (outcome != PENSTOCK_OK || *empty || last + 1 >= *wanted)
		return outcome;
	if (may_skip(link))
	{
		ereport(LOG,
				(errmsg("stream \"%s\" has been made anew: reading it from its first message", queue)));
		*wanted = 0;
		return PENSTOCK_OK;
	}
	penstock_fault(fault, PENSTOCK_REFUSED, ERRCODE_PENSTOCK_HISTORY_GONE,
				   "stream \"%s\" is not the one that was read before: it ends before offset " INT64_FORMAT, queue, *wanted);
	strlcpy(fault->detail, "It has been deleted and made anew, or the broker has lost its end.", sizeof(fault->detail));
	return lost(fault);
}

/*
 * penstock_rabbitmq_stream_check_gap: the broker began with came instead of wanted.  Offsets may be missing (RabbitMQ's
 * own tracking takes some); but if the stream now begins later than wanted, its retention was faster than this consumer.
 */
PenstockOutcome
penstock_rabbitmq_stream_check_gap(RabbitLink *link, int64 wanted, int64 came, PenstockFault *fault)
{
	const char *queue = penstock_connector_api()->option(link->queue, "queue");
	PenstockOutcome outcome;
	RabbitLink *other = penstock_rabbitmq_link_open(link->queue, &outcome, fault);
	int64		first;

	if (other == NULL)
		return outcome;
	outcome = penstock_rabbitmq_stream_end(other, true, link->timeout, &first, fault);
	penstock_rabbitmq_link_close(other);
	if (outcome != PENSTOCK_OK || first <= wanted)
		return outcome;
	if (may_skip(link))
	{
		ereport(LOG,
				(errmsg("stream \"%s\" no longer has offsets " INT64_FORMAT " to " INT64_FORMAT ": going on after them",
						queue, wanted, came - 1)));
		return PENSTOCK_OK;
	}
	penstock_fault(fault, PENSTOCK_REFUSED, ERRCODE_PENSTOCK_HISTORY_GONE,
				   "stream \"%s\" no longer has offsets " INT64_FORMAT " to " INT64_FORMAT, queue, wanted, came - 1);
	strlcpy(fault->detail, "Its retention has removed them before they were read.", sizeof(fault->detail));
	return lost(fault);
}
