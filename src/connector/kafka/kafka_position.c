/*
 * kafka_position.c
 *	  Where a partition is read from: the stored position, or what the option "start" says, checked against what the
 *	  broker still has.
 *
 * All questions go out for all partitions at once (one request a broker).  They wait for the broker, connect_timeout at most.
 */
#include "postgres.h"

#include "datatype/timestamp.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "connector/kafka/kafka.h"
#include "util/errors.h"

/* What the protocol calls times that are none. */
#define TIME_OF_END			(-1)
#define TIME_OF_BEGINNING	(-2)

#define EPOCH_OFFSET ((POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * USECS_PER_DAY)

/*
 * penstock_kafka_time gives a timestamp as milliseconds since 1970, rounded down.
 */
int64
penstock_kafka_time(TimestampTz timestamp)
{
	int64		us = timestamp + EPOCH_OFFSET;

	return us / 1000 - (us % 1000 < 0 ? 1 : 0);
}

/*
 * penstock_kafka_timestamp: the other way.  0 (none) for times that the server cannot represent; the broker does not check them.
 */
TimestampTz
penstock_kafka_timestamp(int64 time)
{
	TimestampTz timestamp;

	if (time < 0 || time > PG_INT64_MAX / 1000)
		return 0;
	timestamp = time * 1000 - EPOCH_OFFSET;
	return IS_VALID_TIMESTAMP(timestamp) ? timestamp : 0;
}

/* "earliest", "latest", an offset: true and *time or *offset is set, the other -3.  A timestamp is one of those that timestamptz reads. */
static void
parse_start(const char *start, int64 *time, int64 *offset)
{
	*time = *offset = -3;
	if (pg_strcasecmp(start, "earliest") == 0)
		*time = TIME_OF_BEGINNING;
	else if (pg_strcasecmp(start, "latest") == 0)
		*time = TIME_OF_END;
	else if (*start && strspn(start, "0123456789") == strlen(start))
		*offset = DatumGetInt64(DirectFunctionCall1(int8in, CStringGetDatum(start)));
	else
	{
		TimestampTz timestamp = DatumGetTimestampTz(DirectFunctionCall3(timestamptz_in, CStringGetDatum(start),
																		ObjectIdGetDatum(InvalidOid), Int32GetDatum(-1)));

		*time = TIMESTAMP_NOT_FINITE(timestamp) ? (TIMESTAMP_IS_NOBEGIN(timestamp) ? TIME_OF_BEGINNING : TIME_OF_END) :
			Max(penstock_kafka_time(timestamp), 0);
	}
}

/*
 * penstock_kafka_check_start raises an error if the option "start" is none of its forms.
 */
void
penstock_kafka_check_start(const char *start)
{
	int64		time;
	int64		offset;

	parse_start(start, &time, &offset);
}

/* Waits a moment for the broker; false when the time is up or something is wrong by now. */
static bool
wait_on(KafkaClient *client, TimestampTz end)
{
	CHECK_FOR_INTERRUPTS();
	return client->outcome == PENSTOCK_OK && GetCurrentTimestamp() < end;
}

/*
 * penstock_kafka_list_offsets sets the offset of each partition in the list to that of the first message at or after time (ms since
 * 1970; -1: the end of the partition, -2: its first message).  Where all messages are older: to -1.  False and a fault if the
 * broker did not tell.
 */
bool
penstock_kafka_list_offsets(KafkaClient *client, rd_kafka_topic_partition_list_t *list, int64 time, PenstockFault *fault)
{
	int64		timeout = penstock_connector_api()->option_int(client->queue, "connect_timeout");
	TimestampTz end = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), timeout);
	rd_kafka_resp_err_t error;

	if (list->cnt == 0)
		return true;
	do
	{
		for (int i = 0; i < list->cnt; i++)
			list->elems[i].offset = time;
		error = rd_kafka_offsets_for_times(client->rk, list, 1000);
		for (int i = 0; i < list->cnt && error == RD_KAFKA_RESP_ERR_NO_ERROR; i++)
			error = list->elems[i].err;
		if (error == RD_KAFKA_RESP_ERR_NO_ERROR)
			return true;
		/* leaders move, and a new one needs a moment to know its end */
	} while (error != RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED &&
			 error != RD_KAFKA_RESP_ERR__UNKNOWN_PARTITION && wait_on(client, end));

	if (client->outcome != PENSTOCK_OK)
		*fault = client->fault;
	else
		client->outcome = penstock_kafka_fault(client, fault, error, client->reason);
	return false;
}

static rd_kafka_topic_partition_list_t *
ask(PenstockConsumer *consumer, const rd_kafka_topic_partition_list_t *list, int64 time,
	PenstockOutcome *outcome, PenstockFault *fault)
{
	rd_kafka_topic_partition_list_t *answer = rd_kafka_topic_partition_list_copy(list);

	if (penstock_kafka_list_offsets(&consumer->client, answer, time, fault))
		return answer;
	*outcome = consumer->client.outcome;
	rd_kafka_topic_partition_list_destroy(answer);
	return NULL;
}

/*
 * A position that the broker has no more (retention was faster than we), or does not have yet (the topic is another one than
 * before).  True: *at has been moved as on_offset_lost says.
 */
static bool
offset_lost(PenstockConsumer *consumer, int32 partition, int64 low, int64 high, int64 *at, PenstockFault *fault)
{
	const char *choice = penstock_connector_api()->option(consumer->client.queue, "on_offset_lost");
	const char *topic = consumer->client.topic;
	bool		before = *at < low;
	int64		from = *at;

	if (strcmp(choice, "stop") == 0)
	{
		penstock_fault(fault, PENSTOCK_REFUSED, ERRCODE_PENSTOCK_HISTORY_GONE,
					   before ? "topic \"%s\" no longer has offset " INT64_FORMAT " of partition %d, where reading would go on" :
					   "topic \"%s\" does not reach offset " INT64_FORMAT " of partition %d, where reading would go on",
					   topic, from, partition);
		snprintf(fault->detail, sizeof(fault->detail),
				 before ? "The broker has offsets " INT64_FORMAT " to " INT64_FORMAT " now: " INT64_FORMAT " messages were removed unread." :
				 "The broker has offsets " INT64_FORMAT " to " INT64_FORMAT " now: the topic was deleted and made anew, or the broker lost messages.",
				 low, high, low - from);
		penstock_kafka_hint(fault, "Set on_offset_lost to 'earliest' or 'latest' to go on.");
		return false;
	}

	*at = strcmp(choice, "earliest") == 0 ? low : high;
	ereport(WARNING,
			(errcode(ERRCODE_WARNING),
			 before ? errmsg("topic \"%s\" lost " INT64_FORMAT " messages of partition %d before they were read", topic, *at - from, partition) :
			 errmsg("topic \"%s\" does not reach offset " INT64_FORMAT " of partition %d", topic, from, partition),
			 errdetail("Reading went on from offset " INT64_FORMAT " to " INT64_FORMAT ".", from, *at)));
	return true;
}

/* Where partitions without a position begin: offsets in a list made here. */
static rd_kafka_topic_partition_list_t *
beginnings(PenstockConsumer *consumer, const rd_kafka_topic_partition_list_t *list, PenstockOutcome *outcome, PenstockFault *fault)
{
	rd_kafka_topic_partition_list_t *answer;
	int64		time;
	int64		offset;

	parse_start(penstock_connector_api()->option(consumer->client.queue, "start"), &time, &offset);
	/* a partition that was made since then: nothing of it is to be passed by */
	if (consumer->has_begun)
		return ask(consumer, list, TIME_OF_BEGINNING, outcome, fault);
	if (offset < 0)
		return ask(consumer, list, time, outcome, fault);
	answer = rd_kafka_topic_partition_list_copy(list);
	for (int i = 0; i < answer->cnt; i++)
		answer->elems[i].offset = offset;
	return answer;
}

static void
destroy(rd_kafka_topic_partition_list_t *list)
{
	if (list)
		rd_kafka_topic_partition_list_destroy(list);
}

/*
 * penstock_kafka_start decides where the partitions in the list are read from.  Those with an offset go on from there, the others
 * (offset below 0) begin as the option "start" says.  Sets the offsets, and what the consumer knows about the partitions.
 * False and a fault if that is not possible.
 */
bool
penstock_kafka_start(PenstockConsumer *consumer, rd_kafka_topic_partition_list_t *list,
					 PenstockOutcome *outcome, PenstockFault *fault)
{
	rd_kafka_topic_partition_list_t *low = NULL;
	rd_kafka_topic_partition_list_t *high = NULL;
	rd_kafka_topic_partition_list_t *first = NULL;
	bool		ok = false;

	if ((low = ask(consumer, list, TIME_OF_BEGINNING, outcome, fault)) == NULL ||
		(high = ask(consumer, list, TIME_OF_END, outcome, fault)) == NULL ||
		(first = beginnings(consumer, list, outcome, fault)) == NULL)
		goto done;

	for (int i = 0; i < list->cnt; i++)
	{
		KafkaPartition *p = &consumer->partitions[list->elems[i].partition];
		int64		at = list->elems[i].offset;

		if (at < 0)
		{
			at = first->elems[i].offset;
			/* all messages are older than the time asked for */
			if (at < 0)
				at = high->elems[i].offset;
		}
		if ((at < low->elems[i].offset || at > high->elems[i].offset) &&
			!offset_lost(consumer, list->elems[i].partition, low->elems[i].offset, high->elems[i].offset, &at, fault))
		{
			*outcome = PENSTOCK_REFUSED;
			goto done;
		}
		list->elems[i].offset = at;
		p->next = p->safe = p->durable = at;
		p->high = high->elems[i].offset;
	}
	ok = true;

done:
	destroy(low);
	destroy(high);
	destroy(first);
	return ok;
}

/*
 * penstock_kafka_browse sets where an ad-hoc SELECT begins and ends in each partition of the list.  What arrives from now on is not
 * read.  A limit on time ends nothing: timestamps do not grow with offsets, so fetch looks at each message.
 */
bool
penstock_kafka_browse(PenstockConsumer *consumer, rd_kafka_topic_partition_list_t *list,
					  PenstockOutcome *outcome, PenstockFault *fault)
{
	const PenstockRange *range = consumer->browse;
	bool		by_time = range->time_from != PG_INT64_MIN;
	rd_kafka_topic_partition_list_t *low = NULL;
	rd_kafka_topic_partition_list_t *high = NULL;
	rd_kafka_topic_partition_list_t *first = NULL;
	bool		ok = false;

	if ((low = ask(consumer, list, TIME_OF_BEGINNING, outcome, fault)) == NULL ||
		(high = ask(consumer, list, TIME_OF_END, outcome, fault)) == NULL)
		goto done;
	if (by_time &&
		(first = ask(consumer, list, Max(penstock_kafka_time(range->time_from), 0), outcome, fault)) == NULL)
		goto done;

	for (int i = 0; i < list->cnt; i++)
	{
		KafkaPartition *p = &consumer->partitions[list->elems[i].partition];

		p->next = Max(range->offset_from, low->elems[i].offset);
		p->end = high->elems[i].offset;
		if (range->offset_to < p->end)
			p->end = range->offset_to + 1;
		if (first)
			p->next = first->elems[i].offset < 0 ? p->end : Max(p->next, first->elems[i].offset);
		p->done = p->next >= p->end;
		list->elems[i].offset = p->next;
	}
	ok = true;

done:
	destroy(low);
	destroy(high);
	destroy(first);
	return ok;
}
