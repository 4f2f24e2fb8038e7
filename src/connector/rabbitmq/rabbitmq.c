/*
 * rabbitmq.c
 *	  The connectors for RabbitMQ: their options, and what they can do.
 *
 * One library, two foreign data wrappers, since their promises differ: rabbitmq reads queues and acknowledges after
 * the commit, rabbitmq_stream reads streams, whose offsets are Penstock's.
 */
#include "postgres.h"

#include "fmgr.h"
#include "nodes/pg_list.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "connector/rabbitmq/rabbitmq.h"

PG_MODULE_MAGIC;

static const char *const verify_values[] = {"full", "ca", "none", NULL};
static const char *const lost_values[] = {"stop", "first", NULL};

#define SERVER_OPTIONS \
	{.name = "host", .places = PENSTOCK_ON_SERVER, .type = PENSTOCK_OPTION_TEXT, .fallback = "localhost", \
	.description = "name or address of the broker"}, \
	{.name = "port", .places = PENSTOCK_ON_SERVER, .type = PENSTOCK_OPTION_INT, .min = 1, .max = 65535, \
	.description = "its port; 5672 if it is not given, 5671 with ssl"}, \
	{.name = "virtual_host", .places = PENSTOCK_ON_SERVER, .type = PENSTOCK_OPTION_TEXT, .fallback = "/", \
	.description = "the broker's virtual host"}, \
	{.name = "heartbeat", .places = PENSTOCK_ON_SERVER, .type = PENSTOCK_OPTION_TIME, .fallback = "60 s", \
		.min = 0, .max = 65535000, \
	.description = "each side takes the other for gone when it has been silent for twice as long; 0: never"}, \
	{.name = "connect_timeout", .places = PENSTOCK_ON_SERVER, .type = PENSTOCK_OPTION_TIME, .fallback = "10 s", \
		.min = 100, .max = 600000, \
	.description = "how long to wait for the broker when connecting, and for its answers"}, \
	{.name = "ssl", .places = PENSTOCK_ON_SERVER, .type = PENSTOCK_OPTION_BOOL, .fallback = "off", \
	.description = "whether the connection is encrypted with TLS"}, \
	{.name = "ssl_verify", .places = PENSTOCK_ON_SERVER, .type = PENSTOCK_OPTION_ENUM, .fallback = "full", \
		.values = verify_values, \
	.description = "what is checked of the broker's certificate: signer and host name, the signer only, or nothing"}, \
	{.name = "ssl_ca_file", .places = PENSTOCK_ON_SERVER, .type = PENSTOCK_OPTION_TEXT, .superuser_only = true, \
	.description = "file with the certificates of those who may sign the broker's; the machine's own if it is not given"}, \
	{.name = "ssl_cert_file", .places = PENSTOCK_ON_SERVER, .type = PENSTOCK_OPTION_TEXT, .superuser_only = true, \
	.description = "file with the client's certificate"}, \
	{.name = "ssl_key_file", .places = PENSTOCK_ON_SERVER, .type = PENSTOCK_OPTION_TEXT, .superuser_only = true, \
	.description = "file with its private key"}, \
	{.name = "username", .places = PENSTOCK_ON_USER, .type = PENSTOCK_OPTION_TEXT, .fallback = "guest", \
	.description = "user name at the broker"}, \
	{.name = "password", .places = PENSTOCK_ON_USER, .type = PENSTOCK_OPTION_TEXT, .fallback = "guest", \
	.description = "password at the broker"}

#define PUBLISH_OPTIONS \
	{.name = "exchange", .places = PENSTOCK_ON_QUEUE, .type = PENSTOCK_OPTION_TEXT, .fallback = "", \
	.description = "exchange that written messages go to; empty: straight to the queue that the routing key names"}, \
	{.name = "routing_key", .places = PENSTOCK_ON_QUEUE, .type = PENSTOCK_OPTION_TEXT, \
	.description = "routing key of written messages that bring none; the queue's name if there is no exchange"}, \
	{.name = "mandatory", .places = PENSTOCK_ON_QUEUE, .type = PENSTOCK_OPTION_BOOL, .fallback = "on", \
	.description = "a written message that reaches no queue is an error; off: the broker drops it"}, \
	{.name = "persistent", .places = PENSTOCK_ON_QUEUE, .type = PENSTOCK_OPTION_BOOL, .fallback = "on", \
	.description = "whether the broker keeps written messages through a restart (delivery mode 2)"}

static const PenstockConnectorOption queue_options[] = {
	SERVER_OPTIONS,
	{.name = "queue", .places = PENSTOCK_ON_QUEUE, .type = PENSTOCK_OPTION_TEXT,
	.description = "queue that is read; it must exist"},
	{.name = "prefetch", .places = PENSTOCK_ON_QUEUE, .type = PENSTOCK_OPTION_INT, .fallback = "20000",
		.min = 1, .max = 65535,
	.description = "how many messages the broker may send ahead of their commit; a batch has at most as many"},
	PUBLISH_OPTIONS,
	{.name = NULL}
};

static const PenstockConnectorOption stream_options[] = {
	SERVER_OPTIONS,
	{.name = "queue", .places = PENSTOCK_ON_QUEUE, .type = PENSTOCK_OPTION_TEXT,
	.description = "stream that is read; it must exist"},
	{.name = "prefetch", .places = PENSTOCK_ON_QUEUE, .type = PENSTOCK_OPTION_INT, .fallback = "5000",
		.min = 1, .max = 65535,
	.description = "how many messages the broker may send ahead of what the pipe has taken"},
	{.name = "start", .places = PENSTOCK_ON_QUEUE, .type = PENSTOCK_OPTION_TEXT, .fallback = "first",
	.description = "where a new pipe begins: first, last (the last chunk), next (only what comes later), an offset, or a time"},
	{.name = "on_lost", .places = PENSTOCK_ON_QUEUE, .type = PENSTOCK_OPTION_ENUM, .fallback = "stop",
		.values = lost_values,
	.description = "when the stream no longer has what comes next (retention, or deleted and made anew): stop, or go on with the first message there is"},
	PUBLISH_OPTIONS,
	{.name = NULL}
};

/*
 * The option start: first, last, next, a number, or a time as PostgreSQL reads it.  Raises
 * ERRCODE_FDW_INVALID_ATTRIBUTE_VALUE, or the error of timestamptz's input.
 */
RabbitStart
penstock_rabbitmq_start_parse(const char *text)
{
	RabbitStart start = {RABBITMQ_START_FIRST, 0};
	TimestampTz time;
	char	   *end;

	if (strcmp(text, "first") == 0)
		return start;
	if (strcmp(text, "last") == 0)
		start.kind = RABBITMQ_START_LAST;
	else if (strcmp(text, "next") == 0)
		start.kind = RABBITMQ_START_NEXT;
	else if (text[0] != '\0' && strspn(text, "0123456789") == strlen(text))
	{
		start.kind = RABBITMQ_START_OFFSET;
		errno = 0;
		start.value = strtoll(text, &end, 10);
		if (errno != 0)
			ereport(ERROR,
					(errcode(ERRCODE_FDW_INVALID_ATTRIBUTE_VALUE),
					 errmsg("invalid value for option \"start\": \"%s\"", text),
					 errdetail("An offset is less than 2^63.")));
	}
	else
	{
		start.kind = RABBITMQ_START_TIME;
		time = DatumGetTimestampTz(DirectFunctionCall3(timestamptz_in, CStringGetDatum(text),
													   ObjectIdGetDatum(InvalidOid), Int32GetDatum(-1)));
		start.value = timestamptz_to_time_t(time);
		if (TIMESTAMP_NOT_FINITE(time) || start.value < 0)
			ereport(ERROR,
					(errcode(ERRCODE_FDW_INVALID_ATTRIBUTE_VALUE),
					 errmsg("invalid value for option \"start\": \"%s\"", text),
					 errdetail("Allowed is first, last, next, an offset, or a time since 1970.")));
	}
	return start;
}

static void
check_length(const PenstockQueue *queue, const char *name)
{
	const char *value = penstock_connector_api()->option(queue, name);

	if (value != NULL && strlen(value) > RABBITMQ_SHORT_STRING)
		ereport(ERROR,
				(errcode(ERRCODE_FDW_INVALID_ATTRIBUTE_VALUE),
				 errmsg("value of option \"%s\" is too long", name),
				 errdetail("RabbitMQ's names have at most %d bytes.", RABBITMQ_SHORT_STRING)));
}

static void
check(const PenstockQueue *queue)
{
	const PenstockConnectorApi *api = penstock_connector_api();
	const char *certificate = api->option(queue, "ssl_cert_file");
	const char *key = api->option(queue, "ssl_key_file");

	if ((certificate == NULL) != (key == NULL))
		ereport(ERROR,
				(errcode(ERRCODE_FDW_OPTION_NAME_NOT_FOUND),
				 errmsg("options \"ssl_cert_file\" and \"ssl_key_file\" go together")));
	check_length(queue, "virtual_host");
	if (!OidIsValid(queue->relid))
		return;
	if (api->option(queue, "queue") == NULL && api->option(queue, "exchange")[0] == '\0')
		ereport(ERROR,
				(errcode(ERRCODE_FDW_OPTION_NAME_NOT_FOUND),
				 errmsg("%s has neither an option \"queue\" nor an option \"exchange\"", queue->name),
				 errhint("Name the queue to read from, or the exchange to write to.")));
	check_length(queue, "queue");
	check_length(queue, "exchange");
	check_length(queue, "routing_key");
	if (queue->connector->has_offsets)
		(void) penstock_rabbitmq_start_parse(api->option(queue, "start"));
}

#define SHARED_FUNCTIONS \
	.abi = PENSTOCK_CONNECTOR_ABI, \
	.metadata = penstock_rabbitmq_metadata, \
	.check = check, \
	.open = penstock_rabbitmq_consumer_open, \
	.fetch = penstock_rabbitmq_consumer_fetch, \
	.wait_for = penstock_rabbitmq_consumer_wait_for, \
	.acknowledge = penstock_rabbitmq_consumer_acknowledge, \
	.first_places = penstock_rabbitmq_consumer_first_places, \
	.lag = penstock_rabbitmq_consumer_lag, \
	.caught_up = penstock_rabbitmq_consumer_caught_up, \
	.close = penstock_rabbitmq_consumer_close, \
	.open_producer = penstock_rabbitmq_producer_open, \
	.send = penstock_rabbitmq_producer_send, \
	.flush = penstock_rabbitmq_producer_flush, \
	.abort = penstock_rabbitmq_producer_abort, \
	.close_producer = penstock_rabbitmq_producer_close, \
	.import = penstock_rabbitmq_import

const PenstockConnector penstock_rabbitmq_connector = {
	SHARED_FUNCTIONS,
	.name = "rabbitmq",
	.options = queue_options,
	.has_offsets = false
};

const PenstockConnector penstock_rabbitmq_stream_connector = {
	SHARED_FUNCTIONS,
	.name = "rabbitmq_stream",
	.options = stream_options,
	.has_offsets = true
};

PENSTOCK_CONNECTOR(penstock_rabbitmq, penstock_rabbitmq_connector);
PENSTOCK_CONNECTOR(penstock_rabbitmq_stream, penstock_rabbitmq_stream_connector);
