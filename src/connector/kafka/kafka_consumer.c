/*
 * kafka_consumer.c
 *	  Reading a topic, for a pipe or an ad-hoc SELECT.
 *
 * The library fetches ahead into one queue, "prefetch" bytes at most; fetch takes from there without waiting.  When the queue is no longer
 * empty, the library writes a byte into a pipe, which is what the server sleeps on.
 *
 * Of each partition it is known which offset comes next.  Smaller ones are left out, whatever the reason they come again.
 */
#include "postgres.h"

#include <fcntl.h>
#include <unistd.h>

#include "miscadmin.h"
#include "portability/instr_time.h"
#include "storage/fd.h"
#include "storage/latch.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "connector/kafka/kafka.h"

/* Longest time without a call of the library, which counts for max_poll_interval. */
#define POLL_INTERVAL 3000

/* Shortest time (ms) between two calls of nudge. */
#define NUDGE_PAUSE 10

static const char wake_byte[1] = {'k'};

/* ---- opening ---- */

/*
 * penstock_kafka_partitions makes room for partitions up to the number.
 */
void
penstock_kafka_partitions(PenstockConsumer *consumer, int npartitions)
{
	if (npartitions <= consumer->npartitions)
		return;
	if (consumer->partitions == NULL)
		consumer->partitions = MemoryContextAlloc(consumer->context, npartitions * sizeof(KafkaPartition));
	else
		consumer->partitions = repalloc(consumer->partitions, npartitions * sizeof(KafkaPartition));
	for (int i = consumer->npartitions; i < npartitions; i++)
	{
		KafkaPartition *p = &consumer->partitions[i];

		memset(p, 0, sizeof(KafkaPartition));
		snprintf(p->name, sizeof(p->name), "%d", i);
		p->next = p->safe = p->durable = p->committed = p->high = -1;
	}
	consumer->npartitions = npartitions;
}

/* The number of a partition's name as we gave it; -1 for other names. */
static int
partition_number(const char *name)
{
	size_t		digits = strspn(name, "0123456789");

	if (digits == 0 || digits > 9 || name[digits] != '\0')
		return -1;
	return atoi(name);
}

/* Is the partition among those that the option "partitions" or the SELECT ask for? */
static bool
is_asked_for(PenstockConsumer *consumer, int number)
{
	const char *at = penstock_connector_api()->option(consumer->client.queue, "partitions");

	if (consumer->browse && consumer->browse->partition &&
		partition_number(consumer->browse->partition) != number)
		return false;
	if (at == NULL)
		return true;
	for (; *at; at += strcspn(at, ","), at += (*at == ','))
		if (atoi(at) == number)
			return true;
	return false;
}

static bool
make_wake_pipe(PenstockConsumer *consumer, PenstockFault *fault)
{
	while (consumer->fds_reserved < 2)
	{
		if (!AcquireExternalFD())
		{
			penstock_fault(fault, PENSTOCK_AWAY, ERRCODE_INSUFFICIENT_RESOURCES, "too many open files");
			return false;
		}
		consumer->fds_reserved++;
	}
	if (pipe(consumer->wake) != 0)
	{
		penstock_fault(fault, PENSTOCK_AWAY, ERRCODE_INSUFFICIENT_RESOURCES, "could not make a pipe: %s", strerror(errno));
		return false;
	}
	for (int i = 0; i < 2; i++)
		if (fcntl(consumer->wake[i], F_SETFL, O_NONBLOCK) != 0 || fcntl(consumer->wake[i], F_SETFD, FD_CLOEXEC) != 0)
		{
			penstock_fault(fault, PENSTOCK_AWAY, ERRCODE_INSUFFICIENT_RESOURCES, "could not set up a pipe: %s", strerror(errno));
			return false;
		}
	return true;
}

static void
consumer_callbacks(rd_kafka_conf_t *conf)
{
	rd_kafka_conf_set_rebalance_cb(conf, penstock_kafka_rebalance_cb);
}

static bool
make_client(PenstockConsumer *consumer, const PenstockQueue *queue, PenstockFault *fault)
{
	const PenstockConnectorApi *api = penstock_connector_api();
	const char *name = psprintf("penstock-%s", queue->consumer ? queue->consumer : "select");
	const char *prefetch = psprintf(INT64_FORMAT, api->option_int(queue, "prefetch") / 1024);
	const char *fetch = psprintf(INT64_FORMAT, api->option_int(queue, "fetch_max_bytes"));
	const char *wait = psprintf(INT64_FORMAT, api->option_int(queue, "fetch_wait_max"));
	const char *session = psprintf(INT64_FORMAT, api->option_int(queue, "session_timeout"));
	const char *refresh = psprintf(INT64_FORMAT, api->option_int(queue, "metadata_refresh"));
	const char *poll = psprintf(INT64_FORMAT, consumer->group ? Max(api->option_int(queue, "max_poll_interval"),
																	api->option_int(queue, "session_timeout")) :
								INT64CONST(86400000));
	const KafkaSetting settings[] = {
		{"group.id", NULL, consumer->group ? consumer->group : name},
		{"group.instance.id", NULL, consumer->group && queue->consumer ? name : NULL},
		{"partition.assignment.strategy", NULL, consumer->group ? api->option(queue, "assignment_strategy") : NULL},
		{"session.timeout.ms", NULL, session},
		{"max.poll.interval.ms", NULL, poll},
		{"topic.metadata.refresh.interval.ms", NULL, refresh},
		{"enable.auto.commit", NULL, "false"},
		{"enable.auto.offset.store", NULL, "false"},
		{"auto.offset.reset", NULL, "error"},
		{"allow.auto.create.topics", NULL, "false"},
		{"enable.partition.eof", NULL, consumer->browse ? "true" : "false"},
		{"isolation.level", "isolation_level"},
		{"queued.max.messages.kbytes", NULL, prefetch},
		{"fetch.max.bytes", NULL, fetch},
		{"fetch.wait.max.ms", NULL, wait},
		{"fetch.error.backoff.ms", NULL, "500"},
		{NULL}
	};

	return penstock_kafka_client_open(&consumer->client, RD_KAFKA_CONSUMER, queue, settings, consumer_callbacks, fault);
}

/* How many partitions the topic has; -1 and a fault if there is no such topic or the broker is away. */
static int
count_partitions(PenstockConsumer *consumer, PenstockFault *fault)
{
	KafkaClient *client = &consumer->client;
	const struct rd_kafka_metadata *metadata = penstock_kafka_metadata(client, consumer->topic, fault);
	int			count = -1;

	if (metadata == NULL)
		return -1;
	if (metadata->topic_cnt != 1)
		client->outcome = penstock_kafka_fault(client, fault, RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART, NULL);
	else if (metadata->topics[0].err != RD_KAFKA_RESP_ERR_NO_ERROR)
		client->outcome = penstock_kafka_fault(client, fault, metadata->topics[0].err, NULL);
	else
		count = metadata->topics[0].partition_cnt;
	rd_kafka_metadata_destroy(metadata);
	consumer->refreshed_at = GetCurrentTimestamp();
	return count;
}

/* Begins to read the partitions first .. last that are asked for. */
static bool
assign(PenstockConsumer *consumer, int first, int last, PenstockOutcome *outcome, PenstockFault *fault)
{
	rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(last + 1);
	rd_kafka_resp_err_t error = RD_KAFKA_RESP_ERR_NO_ERROR;
	bool		ok;

	for (int i = first; i <= last; i++)
		if (is_asked_for(consumer, i))
			rd_kafka_topic_partition_list_add(list, consumer->client.topic, i)->offset = consumer->partitions[i].durable;

	ok = consumer->browse ? penstock_kafka_browse(consumer, list, outcome, fault) :
		penstock_kafka_start(consumer, list, outcome, fault);
	if (ok)
	{
		for (int i = list->cnt - 1; i >= 0; i--)
		{
			KafkaPartition *p = &consumer->partitions[list->elems[i].partition];

			p->ours = true;
			if (p->done)
				rd_kafka_topic_partition_list_del_by_idx(list, i);
		}
		/* the library wants the whole list: what it reads already goes on from where it is */
		for (int i = 0; i < first; i++)
			if (consumer->partitions[i].ours)
				rd_kafka_topic_partition_list_add(list, consumer->client.topic, i)->offset = consumer->partitions[i].next;
		error = rd_kafka_assign(consumer->client.rk, list);
		if (error != RD_KAFKA_RESP_ERR_NO_ERROR)
		{
			*outcome = penstock_kafka_fault(&consumer->client, fault, error, NULL);
			ok = false;
		}
	}
	rd_kafka_topic_partition_list_destroy(list);
	return ok;
}

static bool
subscribe(PenstockConsumer *consumer, PenstockOutcome *outcome, PenstockFault *fault)
{
	rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(1);
	rd_kafka_resp_err_t error;

	rd_kafka_topic_partition_list_add(list, consumer->client.topic, RD_KAFKA_PARTITION_UA);
	error = rd_kafka_subscribe(consumer->client.rk, list);
	rd_kafka_topic_partition_list_destroy(list);
	if (error == RD_KAFKA_RESP_ERR_NO_ERROR)
		return true;
	*outcome = penstock_kafka_fault(&consumer->client, fault, error, NULL);
	return false;
}

static bool
begin(PenstockConsumer *consumer, const PenstockStart *start, PenstockOutcome *outcome, PenstockFault *fault)
{
	int			count;

	/* what fails now is about settings */
	*outcome = PENSTOCK_REFUSED;
	if (!make_client(consumer, consumer->client.queue, fault))
		return false;
	*outcome = PENSTOCK_AWAY;
	if (!make_wake_pipe(consumer, fault))
		return false;

	consumer->topic = rd_kafka_topic_new(consumer->client.rk, consumer->client.topic, NULL);
	count = count_partitions(consumer, fault);
	if (count < 0)
	{
		*outcome = consumer->client.outcome;
		return false;
	}
	penstock_kafka_partitions(consumer, count);
	for (int i = 0; i < start->nplaces; i++)
	{
		int			number = partition_number(start->places[i].partition);

		if (number < 0)
			continue;
		penstock_kafka_partitions(consumer, number + 1);
		consumer->partitions[number].durable = start->places[i].at;
	}
	consumer->has_begun = start->nplaces > 0;

	rd_kafka_poll_set_consumer(consumer->client.rk);
	consumer->queue = rd_kafka_queue_get_consumer(consumer->client.rk);
	rd_kafka_queue_io_event_enable(consumer->queue, consumer->wake[1], wake_byte, 1);
	return consumer->group ? subscribe(consumer, outcome, fault) :
		assign(consumer, 0, count - 1, outcome, fault);
}

static void
cleanup(void *arg)
{
	penstock_kafka_close(arg);
}

/*
 * penstock_kafka_open: see PenstockConnector.open.
 */
PenstockConsumer *
penstock_kafka_open(const PenstockQueue *queue, const PenstockStart *start, PenstockOutcome *outcome, PenstockFault *fault)
{
	static const char *const kinds[2] = {"create", "append"};
	const PenstockConnectorApi *api = penstock_connector_api();
	PenstockConsumer *consumer = palloc0(sizeof(PenstockConsumer));
	MemoryContextCallback *callback = palloc(sizeof(MemoryContextCallback));

	consumer->context = CurrentMemoryContext;
	consumer->api = api;
	consumer->client.queue = queue;
	if (start->browse)
	{
		consumer->range = *start->browse;
		consumer->range.partition = start->browse->partition ? pstrdup(start->browse->partition) : NULL;
		consumer->browse = &consumer->range;
	}
	consumer->client.groupless = start->browse || api->option(queue, "group") == NULL;
	consumer->group = start->browse ? NULL : api->option(queue, "group");
	consumer->refresh = api->option_int(queue, "metadata_refresh");
	consumer->wake[0] = consumer->wake[1] = -1;
	for (int i = 0; i < 2; i++)
	{
		const char *topic = api->option(queue, "topic");

		consumer->properties[i][0] = (PenstockProperty) {"topic", topic, strlen(topic)};
		consumer->properties[i][1] = (PenstockProperty) {"timestamp_type", kinds[i], strlen(kinds[i])};
	}
	/* for errors that are raised past us */
	callback->func = cleanup;
	callback->arg = consumer;
	MemoryContextRegisterResetCallback(CurrentMemoryContext, callback);

	if (begin(consumer, start, outcome, fault))
		return consumer;
	penstock_kafka_close(consumer);
	return NULL;
}

/*
 * penstock_kafka_close: see PenstockConnector.close.
 */
void
penstock_kafka_close(PenstockConsumer *consumer)
{
	while (consumer->given < consumer->nmessages)
		rd_kafka_message_destroy(consumer->messages[consumer->given++]);
	consumer->given = consumer->nmessages = 0;
	if (consumer->queue)
	{
		rd_kafka_queue_io_event_enable(consumer->queue, -1, NULL, 0);
		penstock_kafka_leave(consumer);
		rd_kafka_queue_destroy(consumer->queue);
		consumer->queue = NULL;
	}
	if (consumer->rebalance)
		rd_kafka_topic_partition_list_destroy(consumer->rebalance);
	consumer->rebalance = NULL;
	if (consumer->topic)
		rd_kafka_topic_destroy(consumer->topic);
	consumer->topic = NULL;
	penstock_kafka_client_close(&consumer->client);
	for (int i = 0; i < 2; i++)
	{
		if (consumer->wake[i] >= 0)
			close(consumer->wake[i]);
		consumer->wake[i] = -1;
	}
	while (consumer->fds_reserved > 0)
	{
		ReleaseExternalFD();
		consumer->fds_reserved--;
	}
}

/* ---- reading ---- */

/* The message's headers into consumer->headers. */
static int
take_headers(PenstockConsumer *consumer, const rd_kafka_message_t *message)
{
	rd_kafka_headers_t *headers;
	int			n;

	if (rd_kafka_message_headers(message, &headers) != RD_KAFKA_RESP_ERR_NO_ERROR)
		return 0;
	n = rd_kafka_header_cnt(headers);
	if (n > consumer->max_headers)
	{
		consumer->max_headers = Max(n, 16);
		consumer->headers = MemoryContextAlloc(consumer->context, mul_size(consumer->max_headers, sizeof(PenstockProperty)));
	}
	for (int i = 0; i < n; i++)
	{
		PenstockProperty *header = &consumer->headers[i];
		const void *value;
		size_t		size;

		if (rd_kafka_header_get_all(headers, i, &header->name, &value, &size) != RD_KAFKA_RESP_ERR_NO_ERROR)
			return i;
		header->value = value;
		header->length = size;
	}
	return n;
}

/* Is the message within the times that a SELECT asks for?  Such limits end nothing, see kafka_position.c. */
static bool
is_in_time(const PenstockRange *range, TimestampTz timestamp)
{
	return timestamp == 0 || (timestamp <= range->time_to && timestamp >= range->time_from);
}

/* Gives a message; false: the batch is full. */
static bool
give(PenstockConsumer *consumer, PenstockBatch *batch, const rd_kafka_message_t *m)
{
	rd_kafka_timestamp_type_t kind;
	PenstockMessage message = {0};
	KafkaPartition *p;

	if (m->partition < 0 || m->partition >= consumer->npartitions)
		return true;
	p = &consumer->partitions[m->partition];
	if (!p->ours || p->done || m->offset < p->next)
		return true;
	if (consumer->browse && m->offset >= p->end)
	{
		p->done = true;
		return true;
	}

	message.timestamp = penstock_kafka_timestamp(rd_kafka_message_timestamp(m, &kind));
	p->next = m->offset + 1;
	if (consumer->browse)
	{
		p->done = p->next >= p->end;
		if (!is_in_time(consumer->browse, message.timestamp))
			return true;
	}
	message.payload = m->payload;
	message.length = m->len;
	message.key = m->key;
	message.key_length = m->key_len;
	message.partition = p->name;
	message.offset = m->offset;
	message.next_at = m->offset + 1;
	if (consumer->client.queue->wants_headers)
	{
		message.nheaders = take_headers(consumer, m);
		message.headers = consumer->headers;
	}
	if (consumer->client.queue->wants_properties)
	{
		message.nproperties = 2;
		message.properties = consumer->properties[kind == RD_KAFKA_TIMESTAMP_LOG_APPEND_TIME];
	}
	return consumer->api->batch_add(batch, &message);
}

/* The library says that an offset is out of range, not which: look again where the partitions begin and end, and go there. */
static PenstockOutcome
seek_again(PenstockConsumer *consumer, PenstockFault *fault)
{
	rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(consumer->npartitions);
	PenstockOutcome outcome = PENSTOCK_OK;
	int64	   *before = palloc(Max(consumer->npartitions, 1) * sizeof(int64));

	consumer->client.offset_lost = false;
	for (int i = 0; i < consumer->npartitions; i++)
	{
		before[i] = consumer->partitions[i].next;
		if (consumer->partitions[i].ours)
			rd_kafka_topic_partition_list_add(list, consumer->client.topic, i)->offset = before[i];
	}
	if (penstock_kafka_start(consumer, list, &outcome, fault))
	{
		for (int i = list->cnt - 1; i >= 0; i--)
			if (list->elems[i].offset == before[list->elems[i].partition])
				rd_kafka_topic_partition_list_del_by_idx(list, i);
		if (list->cnt > 0)
		{
			rd_kafka_error_t *error = rd_kafka_seek_partitions(consumer->client.rk, list, 1000);

			if (error)
			{
				outcome = penstock_kafka_fault(&consumer->client, fault, rd_kafka_error_code(error), NULL);
				rd_kafka_error_destroy(error);
			}
		}
	}
	rd_kafka_topic_partition_list_destroy(list);
	pfree(before);
	return outcome;
}

/* What the library says in a message's place: the end of a partition. */
static void
take_event(PenstockConsumer *consumer, const rd_kafka_message_t *m)
{
	if (m->err == RD_KAFKA_RESP_ERR__PARTITION_EOF && m->partition >= 0 && m->partition < consumer->npartitions && consumer->browse)
		consumer->partitions[m->partition].done = true;
}

/* Once in a while: are there new partitions, and is the topic still there?  Nothing happens while the broker does not answer. */
static PenstockOutcome
refresh(PenstockConsumer *consumer, PenstockFault *fault)
{
	const struct rd_kafka_metadata *metadata = NULL;
	PenstockOutcome outcome = PENSTOCK_OK;
	TimestampTz now = GetCurrentTimestamp();
	rd_kafka_resp_err_t error = RD_KAFKA_RESP_ERR_NO_ERROR;
	int			before = consumer->npartitions;
	int			count = 0;

	if (consumer->browse || !TimestampDifferenceExceeds(consumer->refreshed_at, now, consumer->refresh))
		return PENSTOCK_OK;
	consumer->refreshed_at = now;
	if (rd_kafka_metadata(consumer->client.rk, 0, consumer->topic, &metadata, 500) != RD_KAFKA_RESP_ERR_NO_ERROR)
		return PENSTOCK_OK;
	if (metadata->topic_cnt == 1)
	{
		error = metadata->topics[0].err;
		count = metadata->topics[0].partition_cnt;
	}
	rd_kafka_metadata_destroy(metadata);

	if (error == RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART || error == RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED)
		return penstock_kafka_fault(&consumer->client, fault, error, NULL);
	/* a group shares new partitions out by itself */
	if (error == RD_KAFKA_RESP_ERR_NO_ERROR && count > before && consumer->group == NULL)
	{
		penstock_kafka_partitions(consumer, count);
		consumer->has_begun = true;
		(void) assign(consumer, before, count - 1, &outcome, fault);
	}
	return outcome;
}

static bool
is_done(PenstockConsumer *consumer)
{
	for (int i = 0; i < consumer->npartitions; i++)
		if (consumer->partitions[i].ours && !consumer->partitions[i].done)
			return false;
	return true;
}

/* Takes messages from the library; false: there are none, or the library wants something done first. */
static bool
take(PenstockConsumer *consumer)
{
	ssize_t		n = rd_kafka_consume_batch_queue(consumer->queue, 0, consumer->messages, KAFKA_FETCH);

	consumer->given = 0;
	consumer->nmessages = Max(n, 0);
	return n > 0;
}

/*
 * The library stops fetching while it holds "prefetch" bytes, and looks again whether it may go on when its thread for the broker wakes up,
 * which is after a second; versions from 2.2 on have a setting for that (fetch.queue.backoff.ms), older ones not.  Any request wakes that
 * thread, so when what was fetched is half used up and there is more to come, the leaders of our partitions are asked for an offset, and nobody
 * waits for the answer.  With 2.0.2 this took a backlog of json
 * from a quarter of a bare consumer's rate to half of it.
 */
static void
nudge(PenstockConsumer *consumer)
{
	size_t		held = rd_kafka_queue_length(consumer->queue);
	rd_kafka_topic_partition_list_t *list;
	instr_time	now;

	consumer->most_held = Max(consumer->most_held, held);
	if (consumer->browse || held > consumer->most_held / 2)
		return;
	INSTR_TIME_SET_CURRENT(now);
	if (INSTR_TIME_GET_MILLISEC(now) < consumer->nudged_at + NUDGE_PAUSE || penstock_kafka_lag(consumer) <= (int64) held)
		return;
	consumer->nudged_at = INSTR_TIME_GET_MILLISEC(now);
	consumer->most_held = held;
	list = rd_kafka_topic_partition_list_new(consumer->npartitions);
	for (int i = 0; i < consumer->npartitions; i++)
		if (consumer->partitions[i].ours)
			rd_kafka_topic_partition_list_add(list, consumer->client.topic, i)->offset = RD_KAFKA_OFFSET_END;
	(void) rd_kafka_offsets_for_times(consumer->client.rk, list, 0);
	rd_kafka_topic_partition_list_destroy(list);
}

static void
give_taken(PenstockConsumer *consumer, PenstockBatch *batch)
{
	while (consumer->given < consumer->nmessages && !consumer->more)
	{
		rd_kafka_message_t *m = consumer->messages[consumer->given];

		if (m->err)
			take_event(consumer, m);
		else
			consumer->more = !give(consumer, batch, m);
		consumer->given++;
		rd_kafka_message_destroy(m);
	}
}

/*
 * penstock_kafka_fetch: see PenstockConnector.fetch.
 */
PenstockOutcome
penstock_kafka_fetch(PenstockConsumer *consumer, PenstockBatch *batch, PenstockFault *fault)
{
	PenstockOutcome outcome = PENSTOCK_OK;
	char		bytes[64];

	consumer->more = false;
	/* before the queue is looked at: what comes after that writes again */
	while (read(consumer->wake[0], bytes, sizeof(bytes)) == sizeof(bytes))
		;
	if (consumer->api->batch_rows(batch) == 0)
		for (int i = 0; i < consumer->npartitions; i++)
			consumer->partitions[i].safe = consumer->partitions[i].next;
	do
	{
		if (!penstock_kafka_rebalance(consumer, batch, &outcome, fault))
			return outcome;
		give_taken(consumer, batch);
		nudge(consumer);
		if (consumer->more)
			return PENSTOCK_OK;
		if (consumer->browse && is_done(consumer))
			return PENSTOCK_END;
	} while (take(consumer) || consumer->rebalance);

	if (consumer->client.outcome != PENSTOCK_OK)
	{
		*fault = consumer->client.fault;
		return consumer->client.outcome;
	}
	if (consumer->client.offset_lost)
		return seek_again(consumer, fault);
	return refresh(consumer, fault);
}

/*
 * penstock_kafka_wait_for: see PenstockConnector.wait_for.
 */
void
penstock_kafka_wait_for(PenstockConsumer *consumer, PenstockWaitFor *wait)
{
	wait->fd = consumer->wake[0];
	wait->events = WL_SOCKET_READABLE;
	if (consumer->more || consumer->given < consumer->nmessages)
		wait->timeout = 0;
	else if (consumer->browse)
		wait->timeout = -1;
	else
		wait->timeout = consumer->group ? Min(consumer->refresh, POLL_INTERVAL) : consumer->refresh;
}

/*
 * penstock_kafka_first_places: see PenstockConnector.first_places.  What a group shares out is not known yet, and the group keeps it.
 */
const PenstockPlace *
penstock_kafka_first_places(PenstockConsumer *consumer, int *n)
{
	PenstockPlace *places;

	*n = 0;
	if (consumer->group)
		return NULL;
	places = MemoryContextAllocZero(consumer->context, Max(consumer->npartitions, 1) * sizeof(PenstockPlace));
	for (int i = 0; i < consumer->npartitions; i++)
	{
		if (!consumer->partitions[i].ours)
			continue;
		places[*n].partition = consumer->partitions[i].name;
		places[*n].at = consumer->partitions[i].durable;
		(*n)++;
	}
	return places;
}

/*
 * penstock_kafka_acknowledge: see PenstockConnector.acknowledge.  Only a group is told; the positions are the database's.
 */
PenstockOutcome
penstock_kafka_acknowledge(PenstockConsumer *consumer, PenstockFault *fault)
{
	for (int i = 0; i < consumer->npartitions; i++)
		if (consumer->partitions[i].ours)
			consumer->partitions[i].durable = consumer->partitions[i].next;
	if (consumer->group)
		penstock_kafka_commit(consumer, false);
	return PENSTOCK_OK;
}

/*
 * penstock_kafka_lag: see PenstockConnector.lag.  The ends of the partitions are those of the last answers to fetch requests.
 */
int64
penstock_kafka_lag(PenstockConsumer *consumer)
{
	int64		lag = 0;

	for (int i = 0; i < consumer->npartitions; i++)
	{
		KafkaPartition *p = &consumer->partitions[i];
		int64		low;
		int64		high;

		if (!p->ours)
			continue;
		if (rd_kafka_get_watermark_offsets(consumer->client.rk, consumer->client.topic, i, &low, &high) == RD_KAFKA_RESP_ERR_NO_ERROR &&
			high >= 0)
			p->high = high;
		if (p->high > p->next)
			lag += p->high - p->next;
	}
	return lag;
}
