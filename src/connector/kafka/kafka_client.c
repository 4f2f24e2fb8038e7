/*
 * kafka_client.c
 *	  Clients of librdkafka: made from a queue's options, ended with their memory context.
 *
 * The library's callbacks are served by the thread that polls, which is the server's, except the one that looks at
 * certificates.  None of them raises an error or allocates the server's memory: they leave values in KafkaClient.
 */
#include "postgres.h"

#include <ctype.h>
#include <pthread.h>
#include <time.h>

#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "connector/kafka/kafka.h"

/* ---- callbacks ---- */

/* Notes what is wrong, unless something worse is known already. */
static void
note(KafkaClient *client, rd_kafka_resp_err_t error, const char *reason)
{
	PenstockFault fault;
	PenstockOutcome outcome = penstock_kafka_fault(client, &fault, error, reason);

	if (client->outcome == PENSTOCK_REFUSED)
		return;
	client->outcome = outcome;
	client->fault = fault;
}

/* A partition's errors come here too, without its number: that is how the library gives batches. */
static void
error_cb(rd_kafka_t *rk, int code, const char *reason, void *opaque)
{
	KafkaClient *client = ((KafkaOpaque *) opaque)->client;
	rd_kafka_resp_err_t error = code;
	char		text[400];

	if (client == NULL)
		return;
	switch (error)
	{
		case RD_KAFKA_RESP_ERR__FATAL:
			error = rd_kafka_fatal_error(rk, text, sizeof(text));
			note(client, error, text);
			client->outcome = PENSTOCK_REFUSED;
			break;
		case RD_KAFKA_RESP_ERR__SSL:
			note(client, error, reason);
			if (client->opaque->certificate_error)
				strlcpy(client->fault.detail, penstock_kafka_certificate_error(client->opaque->certificate_error),
						sizeof(client->fault.detail));
			break;
		case RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN:
			if (!client->survives_outage)
				note(client, error, client->reason);
			break;
		case RD_KAFKA_RESP_ERR__AUTO_OFFSET_RESET:
			client->offset_lost = true;
			break;
		case RD_KAFKA_RESP_ERR__UNKNOWN_PARTITION:
			/* partitions do not go away, topics do */
			note(client, RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART, reason);
			break;
		case RD_KAFKA_RESP_ERR_GROUP_AUTHORIZATION_FAILED:
			/* without a group, the library's interest in one is its own affair */
			if (!client->groupless)
				note(client, error, NULL);
			break;
		default:
			/* one connection of several, or one that is made again, is told when all are gone */
			if (penstock_kafka_is_lasting(error))
				note(client, error, reason);
			else
				strlcpy(client->reason, reason, sizeof(client->reason));
			break;
	}
}

/* The log comes through the queue that we poll; the error callback tells what matters, this helps where it has no reason. */
static void
log_cb(const rd_kafka_t *rk, int level, const char *facility, const char *text)
{
	KafkaOpaque *opaque = rd_kafka_opaque(rk);

	/* while the library is being ended, its threads log directly */
	if (opaque && opaque->client && opaque->client->reason[0] == '\0' && level <= 4)
		strlcpy(opaque->client->reason, text, sizeof(opaque->client->reason));
}

/* Called in the library's threads. */
static int
certificate_cb(rd_kafka_t *rk, const char *broker_name, int32_t broker_id, int *x509_error, int depth,
			   const char *buf, size_t size, char *errstr, size_t errstr_size, void *opaque)
{
	if (*x509_error == 0)
		return 1;
	((KafkaOpaque *) opaque)->certificate_error = *x509_error;
	snprintf(errstr, errstr_size, "%s", penstock_kafka_certificate_error(*x509_error));
	return 0;
}

/* ---- configuration ---- */

/* How errors of the configuration are told: the text of the library names the setting, and no secret is ever invalid. */
static bool
set(rd_kafka_conf_t *conf, const char *name, const char *value, PenstockFault *fault)
{
	char		text[256];

	if (value == NULL || rd_kafka_conf_set(conf, name, value, text, sizeof(text)) == RD_KAFKA_CONF_OK)
		return true;
	penstock_fault(fault, PENSTOCK_REFUSED, ERRCODE_FDW_INVALID_ATTRIBUTE_VALUE, "the Kafka library does not accept setting \"%s\"", name);
	penstock_kafka_detail(fault, text);
	return false;
}

static char *
trim(char *text)
{
	char	   *end;

	while (isspace((unsigned char) *text))
		text++;
	end = text + strlen(text);
	while (end > text && isspace((unsigned char) end[-1]))
		*--end = '\0';
	return text;
}

/* 'name=value, name=value' */
static bool
set_further(rd_kafka_conf_t *conf, const char *text, PenstockFault *fault)
{
	char	   *at = pstrdup(text);

	while (at)
	{
		char	   *next = strchr(at, ',');
		char	   *value;

		if (next)
			*next++ = '\0';
		value = strchr(at, '=');
		if (value)
			*value++ = '\0';
		if (*trim(at) && !set(conf, trim(at), value ? trim(value) : "", fault))
			return false;
		at = next;
	}
	return true;
}

/*
 * penstock_kafka_request_timeout returns how long (ms) an answer may take.  Answers come in order, so what is asked behind a fetch waits as
 * long as that.
 */
int64
penstock_kafka_request_timeout(const PenstockQueue *queue)
{
	const PenstockConnectorApi *api = penstock_connector_api();

	return Max(api->option_int(queue, "request_timeout"), api->option_int(queue, "fetch_wait_max") + 1000);
}

static bool
set_connection(rd_kafka_conf_t *conf, const PenstockQueue *queue, PenstockFault *fault)
{
	static const KafkaSetting plain[] = {
		{"bootstrap.servers", "bootstrap_servers"},
		{"security.protocol", "security_protocol"},
		{"client.id", "client_id"},
		/* quiet: what goes wrong is told once, in stat_pipe */
		{"log.connection.close", NULL, "false"},
		{"log.queue", NULL, "true"},
		{"log_level", NULL, "4"},
		{"reconnect.backoff.ms", NULL, "100"},
		{"reconnect.backoff.max.ms", NULL, "10000"},
		{"socket.keepalive.enable", NULL, "true"},
		{"topic.metadata.propagation.max.ms", NULL, "5000"},
		{NULL}
	};
	static const KafkaSetting ssl[] = {
		{"ssl.ca.location", "ssl_ca_location"},
		{"ssl.certificate.location", "ssl_certificate_location"},
		{"ssl.key.location", "ssl_key_location"},
		{"ssl.key.password", "ssl_key_password"},
		{"ssl.endpoint.identification.algorithm", "ssl_endpoint_identification_algorithm"},
		{NULL}
	};
	static const KafkaSetting sasl[] = {
		{"sasl.mechanism", "sasl_mechanism"},
		{"sasl.username", "username"},
		{"sasl.password", "password"},
		{NULL}
	};
	const PenstockConnectorApi *api = penstock_connector_api();
	const char *protocol = api->option(queue, "security_protocol");
	const char *timeout = psprintf(INT64_FORMAT, penstock_kafka_request_timeout(queue));
	const KafkaSetting *tables[3] = {plain,
		strstr(protocol, "ssl") ? ssl : NULL,
		strncmp(protocol, "sasl", 4) == 0 ? sasl : NULL};

	for (int t = 0; t < lengthof(tables); t++)
		for (const KafkaSetting *s = tables[t]; s && s->name; s++)
			if (!set(conf, s->name, s->option ? api->option(queue, s->option) : s->value, fault))
				return false;
	return set(conf, "socket.timeout.ms", timeout, fault);
}

static bool
configure(KafkaClient *client, rd_kafka_conf_t *conf, const KafkaSetting *settings, PenstockFault *fault)
{
	const PenstockConnectorApi *api = penstock_connector_api();
	const char *further = api->option(client->queue, "librdkafka");

	if (!set_connection(conf, client->queue, fault))
		return false;
	if (api->option(client->queue, "client_id") == NULL && !set(conf, "client.id", "penstock", fault))
		return false;
	if (further && !set_further(conf, further, fault))
		return false;
	/* last: what the connector stands on is not for anybody to change */
	for (const KafkaSetting *s = settings; s->name; s++)
		if (!set(conf, s->name, s->option ? api->option(client->queue, s->option) : s->value, fault))
			return false;
	rd_kafka_conf_set_opaque(conf, client->opaque);
	rd_kafka_conf_set_error_cb(conf, error_cb);
	rd_kafka_conf_set_log_cb(conf, log_cb);
	rd_kafka_conf_set_ssl_cert_verify_cb(conf, certificate_cb);
	return true;
}

/* ---- life ---- */

/*
 * penstock_kafka_client_open makes a client of the library, which connects in the background.  settings: what the kind of client
 * needs, ending with name NULL; callbacks adds its callbacks, NULL: none.  Who calls sees to it that the client is closed.  Returns
 * false and a fault if the settings do not work.
 */
bool
penstock_kafka_client_open(KafkaClient *client, rd_kafka_type_t type, const PenstockQueue *queue,
						   const KafkaSetting *settings, void (*callbacks) (rd_kafka_conf_t *),
						   PenstockFault *fault)
{
	rd_kafka_conf_t *conf = rd_kafka_conf_new();
	sigset_t	signals;
	char		text[512];

	client->queue = queue;
	client->topic = penstock_connector_api()->option(queue, "topic");
	client->outcome = PENSTOCK_OK;
	client->offset_lost = false;
	client->reason[0] = '\0';
	client->opaque = calloc(1, sizeof(KafkaOpaque));
	if (client->opaque == NULL || !configure(client, conf, settings, fault))
	{
		if (client->opaque == NULL)
			penstock_fault(fault, PENSTOCK_AWAY, ERRCODE_OUT_OF_MEMORY, "out of memory");
		rd_kafka_conf_destroy(conf);
		free(client->opaque);
		client->opaque = NULL;
		return false;
	}
	client->opaque->client = client;
	if (callbacks)
		callbacks(conf);

	penstock_connector_block_signals(&signals);
	client->rk = rd_kafka_new(type, conf, text, sizeof(text));
	penstock_connector_restore_signals(&signals);
	if (client->rk == NULL)
	{
		rd_kafka_conf_destroy(conf);
		free(client->opaque);
		client->opaque = NULL;
		penstock_fault(fault, PENSTOCK_REFUSED, ERRCODE_SQLCLIENT_UNABLE_TO_ESTABLISH_SQLCONNECTION,
					   "the Kafka library cannot be set up for server \"%s\"", queue->server_name);
		penstock_kafka_detail(fault, text);
		return false;
	}
	rd_kafka_set_log_queue(client->rk, NULL);
	return true;
}

static void
cleanup(void *arg)
{
	penstock_kafka_client_close(arg);
}

/*
 * penstock_kafka_client_end_with_context closes the client with the current memory context, if it was not closed before.
 */
void
penstock_kafka_client_end_with_context(KafkaClient *client)
{
	client->cleanup.func = cleanup;
	client->cleanup.arg = client;
	MemoryContextRegisterResetCallback(CurrentMemoryContext, &client->cleanup);
}

/*
 * penstock_kafka_metadata waits for the broker, connect_timeout at most, and returns what it says about the topic (NULL: all
 * topics); rd_kafka_metadata_destroy frees it.  NULL and a fault, with client->outcome set, if it does not answer or refuses.
 */
const struct rd_kafka_metadata *
penstock_kafka_metadata(KafkaClient *client, rd_kafka_topic_t *topic, PenstockFault *fault)
{
	int64		timeout = penstock_connector_api()->option_int(client->queue, "connect_timeout");
	TimestampTz end = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), timeout);
	rd_kafka_resp_err_t error;

	do
	{
		const struct rd_kafka_metadata *metadata = NULL;

		error = rd_kafka_metadata(client->rk, topic == NULL, topic, &metadata, 200);
		if (error == RD_KAFKA_RESP_ERR_NO_ERROR)
			return metadata;
		rd_kafka_poll(client->rk, 0);
		CHECK_FOR_INTERRUPTS();
		if (client->outcome != PENSTOCK_OK)
		{
			*fault = client->fault;
			return NULL;
		}
	} while ((error == RD_KAFKA_RESP_ERR__TRANSPORT || error == RD_KAFKA_RESP_ERR__TIMED_OUT) &&
			 GetCurrentTimestamp() < end);
	client->outcome = penstock_kafka_fault(client, fault, error, client->reason);
	return NULL;
}

/* ---- end ---- */

/* How long (ms) the end of a client is waited for. */
#define END_TIMEOUT 3000

/*
 * A client that is being ended, by a thread of its own: the library waits for its threads without limit, and some versions for ever when
 * the topic was deleted.  Who is last frees it.
 */
typedef struct KafkaEnd
{
	pthread_mutex_t mutex;
	pthread_cond_t changed;
	rd_kafka_t *rk;
	KafkaOpaque *opaque;
	bool		done;			/* the thread has finished */
	bool		left;			/* nobody waits for it any more */
} KafkaEnd;

static void
free_end(KafkaEnd *end)
{
	pthread_mutex_destroy(&end->mutex);
	pthread_cond_destroy(&end->changed);
	free(end);
}

/* The thread: none of the server's functions is called here. */
static void *
end_client(void *arg)
{
	KafkaEnd   *end = arg;
	bool		left;

	rd_kafka_destroy_flags(end->rk, RD_KAFKA_DESTROY_F_NO_CONSUMER_CLOSE);
	free(end->opaque);
	pthread_mutex_lock(&end->mutex);
	end->done = true;
	left = end->left;
	pthread_cond_signal(&end->changed);
	pthread_mutex_unlock(&end->mutex);
	if (left)
		free_end(end);
	return NULL;
}

static bool
start_end(KafkaEnd *end)
{
	pthread_t	thread;
	sigset_t	signals;
	int			error;

	penstock_connector_block_signals(&signals);
	error = pthread_create(&thread, NULL, end_client, end);
	penstock_connector_restore_signals(&signals);
	if (error == 0)
		pthread_detach(thread);
	return error == 0;
}

static void
await_end(KafkaEnd *end)
{
	struct timespec until;
	bool		done;

	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += END_TIMEOUT / 1000;
	pthread_mutex_lock(&end->mutex);
	while (!end->done && pthread_cond_timedwait(&end->changed, &end->mutex, &until) == 0)
		;
	done = end->done;
	end->left = true;
	pthread_mutex_unlock(&end->mutex);
	if (done)
		free_end(end);
	else
		ereport(LOG, (errmsg("a client of the Kafka library does not end and is left behind")));
}

/*
 * penstock_kafka_client_close ends the client and its threads.  Does not wait for the broker.
 */
void
penstock_kafka_client_close(KafkaClient *client)
{
	KafkaEnd   *end;

	if (client->rk == NULL)
		return;
	client->opaque->client = NULL;
	end = calloc(1, sizeof(KafkaEnd));
	if (end)
	{
		pthread_mutex_init(&end->mutex, NULL);
		pthread_cond_init(&end->changed, NULL);
		end->rk = client->rk;
		end->opaque = client->opaque;
	}
	if (end && start_end(end))
		await_end(end);
	else
	{
		rd_kafka_destroy_flags(client->rk, RD_KAFKA_DESTROY_F_NO_CONSUMER_CLOSE);
		free(client->opaque);
		if (end)
			free_end(end);
	}
	client->rk = NULL;
	client->opaque = NULL;
}
