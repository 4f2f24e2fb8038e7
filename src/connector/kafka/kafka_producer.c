/*
 * kafka_producer.c
 *	  Writing to a topic.
 *
 * send hands messages to the library, which gathers and sends them in its own threads; flush waits until the brokers have all of them.
 * What has been sent cannot be taken back: after an abort some of a transaction's messages may be in the topic, unless it is a
 * transaction of Kafka too (option "transactional_id").
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/timestamp.h"

#include "connector/kafka/kafka.h"

struct PenstockProducer
{
	KafkaClient client;
	rd_kafka_topic_t *topic;
	const char *transactional_id;	/* NULL: none */
	bool		ready;			/* transactional: has registered with the coordinator */
	bool		in_transaction;
	bool		unsettled;		/* something was sent that has not been flushed */
	int64		failed;			/* messages the brokers did not take since the last flush */
	PenstockOutcome failure_outcome;
	PenstockFault failure;		/* why the first of them failed */
};

/* ---- delivery reports ---- */

/* Only failures are reported (delivery.report.only.error).  The first one is told. */
static void
delivered(rd_kafka_t *rk, const rd_kafka_message_t *message, void *opaque)
{
	/* the client is the producer's first member */
	PenstockProducer *producer = (PenstockProducer *) ((KafkaOpaque *) opaque)->client;

	/* what was purged is our own doing */
	if (producer == NULL || message->err == RD_KAFKA_RESP_ERR_NO_ERROR || message->err == RD_KAFKA_RESP_ERR__PURGE_QUEUE ||
		message->err == RD_KAFKA_RESP_ERR__PURGE_INFLIGHT || producer->failed++ > 0)
		return;
	producer->failure_outcome = penstock_kafka_fault(&producer->client, &producer->failure, message->err,
													 message->err == RD_KAFKA_RESP_ERR__MSG_TIMED_OUT ? producer->client.reason : NULL);
}

static void
producer_callbacks(rd_kafka_conf_t *conf)
{
	rd_kafka_conf_set_dr_msg_cb(conf, delivered);
}

/* ---- life ---- */

static bool
connect_producer(PenstockProducer *producer, PenstockFault *fault)
{
	const PenstockQueue *queue = producer->client.queue;
	const PenstockConnectorApi *api = penstock_connector_api();
	const char *kilobytes = psprintf(INT64_FORMAT, api->option_int(queue, "send_buffer") / 1024);
	const char *linger = psprintf(INT64_FORMAT, api->option_int(queue, "linger"));
	const char *batch = psprintf(INT64_FORMAT, api->option_int(queue, "batch_size"));
	const char *largest = psprintf(INT64_FORMAT, api->option_int(queue, "max_message_size"));
	const char *timeout = psprintf(INT64_FORMAT, api->option_int(queue, "delivery_timeout"));
	/* the library wants it to be no shorter than the message's, and longer than a request's */
	int64		longest = Max(api->option_int(queue, "delivery_timeout"), penstock_kafka_request_timeout(queue) + 1000);
	const char *transaction = psprintf(INT64_FORMAT, Max(longest, INT64CONST(60000)));
	const KafkaSetting settings[] = {
		{"acks", "acks"},
		{"enable.idempotence", NULL, api->option_bool(queue, "idempotence") ? "true" : "false"},
		{"transactional.id", NULL, producer->transactional_id},
		{"transaction.timeout.ms", NULL, producer->transactional_id ? transaction : NULL},
		{"compression.type", "compression"},
		{"partitioner", "partitioner"},
		{"linger.ms", NULL, linger},
		{"batch.size", NULL, batch},
		{"message.max.bytes", NULL, largest},
		{"queue.buffering.max.kbytes", NULL, kilobytes},
		{"queue.buffering.max.messages", NULL, "1000000"},
		{"message.timeout.ms", NULL, timeout},
		{"delivery.report.only.error", NULL, "true"},
		{"allow.auto.create.topics", NULL, "false"},
		{NULL}
	};

	return penstock_kafka_client_open(&producer->client, RD_KAFKA_PRODUCER, queue, settings, producer_callbacks, fault);
}

/* Is there such a topic?  The library would find out later, and try for long. */
static bool
find_topic(PenstockProducer *producer, PenstockOutcome *outcome, PenstockFault *fault)
{
	KafkaClient *client = &producer->client;
	rd_kafka_topic_t *topic = rd_kafka_topic_new(client->rk, client->topic, NULL);
	const struct rd_kafka_metadata *metadata = penstock_kafka_metadata(client, topic, fault);
	rd_kafka_resp_err_t error;

	rd_kafka_topic_destroy(topic);
	*outcome = client->outcome;
	if (metadata == NULL)
		return false;
	error = metadata->topic_cnt == 1 ? metadata->topics[0].err : RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART;
	rd_kafka_metadata_destroy(metadata);
	if (error == RD_KAFKA_RESP_ERR_NO_ERROR)
		return true;
	*outcome = penstock_kafka_fault(client, fault, error, NULL);
	return false;
}

static bool
open_client(PenstockProducer *producer, PenstockOutcome *outcome, PenstockFault *fault)
{
	*outcome = PENSTOCK_REFUSED;
	producer->client.survives_outage = false;
	if (!connect_producer(producer, fault))
		return false;
	if (find_topic(producer, outcome, fault))
	{
		/* from now on the library sends again what did not arrive */
		producer->client.survives_outage = true;
		return true;
	}
	penstock_kafka_client_close(&producer->client);
	return false;
}

/*
 * penstock_kafka_open_producer: see PenstockConnector.open_producer.
 */
PenstockProducer *
penstock_kafka_open_producer(const PenstockQueue *queue, PenstockOutcome *outcome, PenstockFault *fault)
{
	PenstockProducer *producer = palloc0(sizeof(PenstockProducer));
	const char *id = penstock_connector_api()->option(queue, "transactional_id");

	producer->client.queue = queue;
	penstock_kafka_client_end_with_context(&producer->client);
	/* the name's last owner is fenced off: a pipe's former worker shall be, another session shall not */
	if (id)
		producer->transactional_id = queue->consumer ? psprintf("%s-%s", id, queue->consumer) :
			psprintf("%s-%u-%d", id, MyDatabaseId, MyProcPid);
	return open_client(producer, outcome, fault) ? producer : NULL;
}

/*
 * penstock_kafka_close_producer: see PenstockConnector.close_producer.
 */
void
penstock_kafka_close_producer(PenstockProducer *producer)
{
	if (producer->client.rk)
		rd_kafka_purge(producer->client.rk, RD_KAFKA_PURGE_F_QUEUE | RD_KAFKA_PURGE_F_INFLIGHT | RD_KAFKA_PURGE_F_NON_BLOCKING);
	penstock_kafka_client_close(&producer->client);
}

/* ---- transactions of Kafka ---- */

/* The outcome of a call of the transactional interface; frees error.  A fatal one makes the client useless. */
static PenstockOutcome
transaction_fault(PenstockProducer *producer, rd_kafka_error_t *error, PenstockFault *fault)
{
	PenstockOutcome outcome = penstock_kafka_fault(&producer->client, fault, rd_kafka_error_code(error), rd_kafka_error_string(error));

	if (rd_kafka_error_is_fatal(error))
		penstock_kafka_close_producer(producer);
	rd_kafka_error_destroy(error);
	return outcome;
}

typedef rd_kafka_error_t *(*TransactionCall) (rd_kafka_t *rk, int timeout);

/* Calls until it is done or can not be, in steps short enough to be interrupted. */
static PenstockOutcome
transaction_call(PenstockProducer *producer, TransactionCall call, TimestampTz end, PenstockFault *fault)
{
	for (;;)
	{
		rd_kafka_error_t *error = call(producer->client.rk, 500);

		if (error == NULL)
			return PENSTOCK_OK;
		rd_kafka_poll(producer->client.rk, 0);
		if (!rd_kafka_error_is_retriable(error) || GetCurrentTimestamp() >= end)
			return transaction_fault(producer, error, fault);
		rd_kafka_error_destroy(error);
		CHECK_FOR_INTERRUPTS();
	}
}

static PenstockOutcome
begin_transaction(PenstockProducer *producer, TimestampTz end, PenstockFault *fault)
{
	rd_kafka_error_t *error;

	if (!producer->ready)
	{
		PenstockOutcome outcome = transaction_call(producer, rd_kafka_init_transactions, end, fault);

		if (outcome != PENSTOCK_OK)
			return outcome;
		producer->ready = true;
	}
	error = rd_kafka_begin_transaction(producer->client.rk);
	if (error)
		return transaction_fault(producer, error, fault);
	producer->in_transaction = true;
	return PENSTOCK_OK;
}

/* ---- sending ---- */

/* A client that was given up (abort, a fatal error) is made anew. */
static PenstockOutcome
make_ready(PenstockProducer *producer, TimestampTz end, PenstockFault *fault)
{
	PenstockOutcome outcome;

	if (producer->client.rk == NULL)
	{
		producer->ready = producer->in_transaction = false;
		if (!open_client(producer, &outcome, fault))
			return outcome;
	}
	if (producer->transactional_id && !producer->in_transaction)
		return begin_transaction(producer, end, fault);
	return PENSTOCK_OK;
}

/* What a message's partition says; -1: the partitioner's choice, -2: no number. */
static int32
partition_of(const PenstockMessage *message)
{
	size_t		digits;

	if (message->partition == NULL || message->partition[0] == '\0')
		return RD_KAFKA_PARTITION_UA;
	digits = strspn(message->partition, "0123456789");
	if (digits > 9 || message->partition[digits] != '\0')
		return -2;
	return atoi(message->partition);
}

static rd_kafka_headers_t *
headers_of(const PenstockMessage *message)
{
	rd_kafka_headers_t *headers;

	if (message->nheaders == 0)
		return NULL;
	headers = rd_kafka_headers_new(message->nheaders);
	for (int i = 0; i < message->nheaders; i++)
		rd_kafka_header_add(headers, message->headers[i].name, -1, message->headers[i].value, message->headers[i].length);
	return headers;
}

/* The library's copy of the message; headers are its own when it takes it. */
static rd_kafka_resp_err_t
produce(PenstockProducer *producer, const PenstockMessage *message, int32 partition)
{
	rd_kafka_headers_t *headers = headers_of(message);
	rd_kafka_resp_err_t error;

	error = rd_kafka_producev(producer->client.rk,
							  RD_KAFKA_V_TOPIC(producer->client.topic),
							  RD_KAFKA_V_PARTITION(partition),
							  RD_KAFKA_V_MSGFLAGS(RD_KAFKA_MSG_F_COPY),
							  RD_KAFKA_V_KEY(message->key, message->key ? message->key_length : 0),
							  RD_KAFKA_V_VALUE((void *) message->payload, message->payload ? message->length : 0),
							  RD_KAFKA_V_TIMESTAMP(message->timestamp ? Max(penstock_kafka_time(message->timestamp), 0) : 0),
							  RD_KAFKA_V_HEADERS(headers),
							  RD_KAFKA_V_END);
	if (error != RD_KAFKA_RESP_ERR_NO_ERROR && headers)
		rd_kafka_headers_destroy(headers);
	return error;
}

static PenstockOutcome
failure(PenstockProducer *producer, PenstockFault *fault)
{
	*fault = producer->failure;
	return producer->failure_outcome;
}

/*
 * penstock_kafka_send: see PenstockConnector.send.
 */
PenstockOutcome
penstock_kafka_send(PenstockProducer *producer, const PenstockMessage *message, int timeout, PenstockFault *fault)
{
	TimestampTz end = 0;
	int32		partition = partition_of(message);
	rd_kafka_resp_err_t error;

	if (partition == -2)
		return penstock_fault(fault, PENSTOCK_REFUSED, ERRCODE_INVALID_PARAMETER_VALUE,
							  "\"%.20s\" is not the number of a partition of topic \"%s\"", message->partition, producer->client.topic);
	if (producer->client.rk == NULL || (producer->transactional_id && !producer->in_transaction))
	{
		PenstockOutcome outcome = make_ready(producer, TimestampTzPlusMilliseconds(GetCurrentTimestamp(), timeout), fault);

		if (outcome != PENSTOCK_OK)
			return outcome;
	}

	while ((error = produce(producer, message, partition)) == RD_KAFKA_RESP_ERR__QUEUE_FULL)
	{
		if (end == 0)
			end = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), timeout);
		rd_kafka_poll(producer->client.rk, 10);
		CHECK_FOR_INTERRUPTS();
		if (producer->failed > 0)
			return failure(producer, fault);
		if (GetCurrentTimestamp() >= end)
		{
			penstock_fault(fault, PENSTOCK_AWAY, ERRCODE_SQLCLIENT_UNABLE_TO_ESTABLISH_SQLCONNECTION,
						   "Kafka does not take messages for topic \"%s\" fast enough", producer->client.topic);
			penstock_kafka_detail(fault, producer->client.reason);
			return PENSTOCK_AWAY;
		}
	}
	if (error != RD_KAFKA_RESP_ERR_NO_ERROR)
		return penstock_kafka_fault(&producer->client, fault, error, NULL);
	producer->unsettled = true;
	return PENSTOCK_OK;
}

/* Waits until nothing is on its way any more; AWAY when the time is up. */
static PenstockOutcome
drain(PenstockProducer *producer, TimestampTz end, PenstockFault *fault)
{
	rd_kafka_t *rk = producer->client.rk;

	while (rd_kafka_flush(rk, 100) == RD_KAFKA_RESP_ERR__TIMED_OUT)
	{
		CHECK_FOR_INTERRUPTS();
		if (producer->failed > 0)
			return PENSTOCK_OK;
		if (producer->client.outcome == PENSTOCK_REFUSED)
		{
			*fault = producer->client.fault;
			return PENSTOCK_REFUSED;
		}
		if (GetCurrentTimestamp() >= end)
		{
			penstock_fault(fault, PENSTOCK_AWAY, ERRCODE_SQLCLIENT_UNABLE_TO_ESTABLISH_SQLCONNECTION,
						   "Kafka did not confirm %d messages for topic \"%s\" in time", rd_kafka_outq_len(rk), producer->client.topic);
			penstock_kafka_detail(fault, producer->client.reason);
			return PENSTOCK_AWAY;
		}
	}
	return PENSTOCK_OK;
}

/*
 * penstock_kafka_flush: see PenstockConnector.flush.
 */
PenstockOutcome
penstock_kafka_flush(PenstockProducer *producer, int timeout, PenstockFault *fault)
{
	TimestampTz end = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), timeout);
	PenstockOutcome outcome;

	if (!producer->unsettled || producer->client.rk == NULL)
		return PENSTOCK_OK;
	outcome = drain(producer, end, fault);
	if (outcome == PENSTOCK_OK && producer->failed > 0)
		outcome = failure(producer, fault);
	if (outcome == PENSTOCK_OK && producer->in_transaction)
		outcome = transaction_call(producer, rd_kafka_commit_transaction, end, fault);
	if (outcome != PENSTOCK_OK)
	{
		penstock_kafka_abort(producer);
		return outcome;
	}
	producer->unsettled = producer->in_transaction = false;
	return PENSTOCK_OK;
}

/*
 * penstock_kafka_abort: see PenstockConnector.abort.  Messages that may or may not have arrived would stand between an idempotent producer
 * and its next ones: the client is given up, unless nothing is on its way.
 */
void
penstock_kafka_abort(PenstockProducer *producer)
{
	rd_kafka_t *rk = producer->client.rk;

	if (rk && producer->unsettled)
	{
		if (producer->in_transaction)
		{
			/* purges what is on its way itself */
			rd_kafka_error_t *error = rd_kafka_abort_transaction(rk, 5000);

			if (error)
			{
				rd_kafka_error_destroy(error);
				penstock_kafka_close_producer(producer);
			}
		}
		else
		{
			rd_kafka_purge(rk, RD_KAFKA_PURGE_F_QUEUE | RD_KAFKA_PURGE_F_NON_BLOCKING);
			rd_kafka_poll(rk, 0);
			if (rd_kafka_outq_len(rk) > 0)
				penstock_kafka_close_producer(producer);
		}
	}
	producer->unsettled = producer->in_transaction = false;
	producer->failed = 0;
}
