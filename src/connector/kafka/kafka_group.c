/*
 * kafka_group.c
 *	  Consumer groups: what happens when partitions come and go.
 *
 * The group's committed offsets only matter between members; each database's own positions are what counts for it.
 * A partition is read from the further of the two: after a crash the database may be ahead of the group, after another member
 * has had the partition the group is ahead of the database.
 *
 * The library asks for a rebalance in a callback and waits for the answer.  The callback copies the request; the answer is given
 * when the library is no longer on the stack, from the same fetch.
 */
#include "postgres.h"

#include "lib/stringinfo.h"

#include "connector/kafka/kafka.h"

/* ms that a commit or a question about commits may take while the group waits */
#define GROUP_TIMEOUT 5000

/*
 * penstock_kafka_rebalance_cb: the library's rebalance callback.
 */
void
penstock_kafka_rebalance_cb(rd_kafka_t *rk, rd_kafka_resp_err_t error, rd_kafka_topic_partition_list_t *list, void *opaque)
{
	/* the client is the consumer's first member */
	PenstockConsumer *consumer = (PenstockConsumer *) ((KafkaOpaque *) opaque)->client;

	if (consumer == NULL)
		return;
	if (consumer->rebalance)
		rd_kafka_topic_partition_list_destroy(consumer->rebalance);
	consumer->rebalance = rd_kafka_topic_partition_list_copy(list);
	consumer->rebalance_kind = error;
}

static bool
is_cooperative(PenstockConsumer *consumer)
{
	const char *protocol = rd_kafka_rebalance_protocol(consumer->client.rk);

	return protocol && strcmp(protocol, "COOPERATIVE") == 0;
}

/* Hands the list to the library as added to, or taken from, what it reads. */
static void
answer(PenstockConsumer *consumer, rd_kafka_topic_partition_list_t *list, bool assign)
{
	rd_kafka_t *rk = consumer->client.rk;

	if (is_cooperative(consumer))
	{
		rd_kafka_error_t *error = assign ? rd_kafka_incremental_assign(rk, list) : rd_kafka_incremental_unassign(rk, list);

		if (error)
			rd_kafka_error_destroy(error);
	}
	else
		rd_kafka_assign(rk, assign ? list : NULL);
}

/* For who watches a rebalance. */
static void
report(PenstockConsumer *consumer, const char *what, const rd_kafka_topic_partition_list_t *list)
{
	StringInfoData text;

	initStringInfo(&text);
	for (int i = 0; i < list->cnt; i++)
		appendStringInfo(&text, "%s%d at " INT64_FORMAT, i ? ", " : "", list->elems[i].partition,
						 list->elems[i].partition < consumer->npartitions ? consumer->partitions[list->elems[i].partition].next : -1);
	ereport(DEBUG1, (errmsg_internal("consumer group \"%s\" %s partitions %s of topic \"%s\"",
									 consumer->group, what, text.data, consumer->client.topic)));
	pfree(text.data);
}

/* The further of the group's offset and our own, for each partition; below 0 if there is neither. */
static bool
group_positions(PenstockConsumer *consumer, rd_kafka_topic_partition_list_t *list, PenstockOutcome *outcome, PenstockFault *fault)
{
	rd_kafka_resp_err_t error = rd_kafka_committed(consumer->client.rk, list, GROUP_TIMEOUT);

	for (int i = 0; i < list->cnt && error == RD_KAFKA_RESP_ERR_NO_ERROR; i++)
		error = list->elems[i].err;
	if (error != RD_KAFKA_RESP_ERR_NO_ERROR)
	{
		*outcome = penstock_kafka_fault(&consumer->client, fault, error, NULL);
		return false;
	}
	for (int i = 0; i < list->cnt; i++)
	{
		KafkaPartition *p = &consumer->partitions[list->elems[i].partition];

		p->committed = list->elems[i].offset;
		if (p->committed >= 0)
			consumer->has_begun = true;
		list->elems[i].offset = Max(list->elems[i].offset, p->durable);
	}
	return true;
}

static bool
take_over(PenstockConsumer *consumer, rd_kafka_topic_partition_list_t *list, PenstockOutcome *outcome, PenstockFault *fault)
{
	bool		ok;

	for (int i = 0; i < list->cnt; i++)
		penstock_kafka_partitions(consumer, list->elems[i].partition + 1);
	ok = group_positions(consumer, list, outcome, fault) &&
		penstock_kafka_start(consumer, list, outcome, fault);
	for (int i = 0; i < list->cnt && ok; i++)
		consumer->partitions[list->elems[i].partition].ours = true;
	/* after a fault nothing of it is given, and the consumer is closed soon */
	answer(consumer, list, true);
	report(consumer, "gives", list);
	/* where partitions begin is fixed now, for whoever reads them */
	if (ok)
		penstock_kafka_commit(consumer, false);
	return ok;
}

/*
 * What the database has committed is made durable and told to the group; what was read beyond that is dropped: whoever gets the partition reads
 * it again.  When the group has given the partition to somebody else already (we were silent for too long), there is nobody left to tell.
 */
static void
give_up(PenstockConsumer *consumer, rd_kafka_topic_partition_list_t *list, PenstockBatch *batch)
{
	penstock_connector_api()->make_durable();
	for (int i = 0; i < consumer->npartitions; i++)
		if (consumer->partitions[i].ours)
			consumer->partitions[i].durable = consumer->partitions[i].safe;
	if (!rd_kafka_assignment_lost(consumer->client.rk))
		penstock_kafka_commit(consumer, true);
	else
		report(consumer, "has given away", list);

	for (int i = 0; i < list->cnt; i++)
	{
		KafkaPartition *p;

		if (list->elems[i].partition >= consumer->npartitions)
			continue;
		p = &consumer->partitions[list->elems[i].partition];
		if (p->ours)
			penstock_connector_api()->batch_drop(batch, p->name);
		p->ours = false;
		p->next = p->durable;
	}
	report(consumer, "takes", list);
	answer(consumer, list, false);
}

/*
 * penstock_kafka_rebalance does what the library's last rebalance callback asked for, if it did.  batch: what has been read and is not
 * committed.  False and a fault if partitions cannot be taken over.
 */
bool
penstock_kafka_rebalance(PenstockConsumer *consumer, PenstockBatch *batch, PenstockOutcome *outcome, PenstockFault *fault)
{
	rd_kafka_topic_partition_list_t *list = consumer->rebalance;
	bool		ok = true;

	if (list == NULL)
		return true;
	consumer->rebalance = NULL;
	if (consumer->rebalance_kind == RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS)
		ok = take_over(consumer, list, outcome, fault);
	else
		give_up(consumer, list, batch);
	rd_kafka_topic_partition_list_destroy(list);
	return ok;
}

/* Commits and waits for the answer, but not for long. */
static void
commit_now(PenstockConsumer *consumer, rd_kafka_topic_partition_list_t *list)
{
	rd_kafka_queue_t *queue = rd_kafka_queue_new(consumer->client.rk);
	rd_kafka_event_t *event = NULL;

	if (rd_kafka_commit_queue(consumer->client.rk, list, queue, NULL, NULL) == RD_KAFKA_RESP_ERR_NO_ERROR)
		event = rd_kafka_queue_poll(queue, GROUP_TIMEOUT);
	if (event)
		rd_kafka_event_destroy(event);
	rd_kafka_queue_destroy(queue);
}

/*
 * penstock_kafka_commit tells the group how far our partitions are durable.  An offset that the group does not take is not lost: it is told
 * again with the next, and the database knows it.
 */
void
penstock_kafka_commit(PenstockConsumer *consumer, bool wait)
{
	rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(consumer->npartitions);

	for (int i = 0; i < consumer->npartitions; i++)
	{
		KafkaPartition *p = &consumer->partitions[i];

		/* who waits repeats what may not have arrived */
		if (p->ours && (wait ? p->durable >= 0 : p->durable > p->committed))
		{
			rd_kafka_topic_partition_list_add(list, consumer->client.topic, i)->offset = p->durable;
			p->committed = p->durable;
		}
	}
	if (list->cnt > 0 && wait)
		commit_now(consumer, list);
	else if (list->cnt > 0)
		(void) rd_kafka_commit(consumer->client.rk, list, true);
	rd_kafka_topic_partition_list_destroy(list);
}

/*
 * penstock_kafka_leave ends reading, in two seconds at most; without it, the library can hang when it is destroyed.  A group's member with a
 * name of its own (all of ours) does not really leave: it keeps its partitions until session_timeout, so that a restart moves nothing.
 */
void
penstock_kafka_leave(PenstockConsumer *consumer)
{
	rd_kafka_t *rk = consumer->client.rk;
	rd_kafka_error_t *error = rd_kafka_consumer_close_queue(rk, consumer->queue);

	if (error)
	{
		rd_kafka_error_destroy(error);
		return;
	}
	for (int i = 0; i < 200 && !rd_kafka_consumer_closed(rk); i++)
	{
		rd_kafka_message_t *message;

		if (rd_kafka_consume_batch_queue(consumer->queue, 10, &message, 1) == 1)
			rd_kafka_message_destroy(message);
		if (consumer->rebalance)
		{
			answer(consumer, consumer->rebalance, consumer->rebalance_kind == RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS);
			rd_kafka_topic_partition_list_destroy(consumer->rebalance);
			consumer->rebalance = NULL;
		}
	}
}
