/*
 * amqp.c
 *	  The AMQP 1.0 connector: its options, and what it can do.
 */
#include "postgres.h"

#include "fmgr.h"

#include "connector/amqp/amqp.h"

PG_MODULE_MAGIC;

static const char *const verify_values[] = {"full", "ca", "none", NULL};
static const char *const mechanism_values[] = {"PLAIN", "ANONYMOUS", "EXTERNAL", NULL};
static const char *const capability_values[] = {"queue", "topic", "none", NULL};
static const char *const settle_values[] = {"after_commit", "when_sent", NULL};
static const char *const body_values[] = {"data", "string", NULL};

static const PenstockConnectorOption options[] = {
	{.name = "host", .places = PENSTOCK_ON_SERVER, .type = PENSTOCK_OPTION_TEXT, .fallback = "localhost",
	.description = "name or address of the broker"},
	{.name = "port", .places = PENSTOCK_ON_SERVER, .type = PENSTOCK_OPTION_INT, .min = 1, .max = 65535,
	.description = "its port; 5672 if it is not given, 5671 with ssl"},
	{.name = "virtual_host", .places = PENSTOCK_ON_SERVER, .type = PENSTOCK_OPTION_TEXT,
	.description = "host name that is told to the broker, if it is not the name of the host (RabbitMQ: 'vhost:NAME')"},
	{.name = "container_id", .places = PENSTOCK_ON_SERVER, .type = PENSTOCK_OPTION_TEXT,
	.description = "name of this client at the broker; if it is not given, each pipe has a stable one of its own"},
	{.name = "ssl", .places = PENSTOCK_ON_SERVER, .type = PENSTOCK_OPTION_BOOL, .fallback = "off",
	.description = "whether the connection is encrypted with TLS"},
	{.name = "ssl_verify", .places = PENSTOCK_ON_SERVER, .type = PENSTOCK_OPTION_ENUM, .fallback = "full",
		.values = verify_values,
	.description = "what is checked of the broker's certificate: signer and host name, the signer only, or nothing"},
	{.name = "ssl_ca_file", .places = PENSTOCK_ON_SERVER, .type = PENSTOCK_OPTION_TEXT, .superuser_only = true,
	.description = "file with the certificates of those who may sign the broker's; the machine's own if it is not given"},
	{.name = "ssl_cert_file", .places = PENSTOCK_ON_SERVER, .type = PENSTOCK_OPTION_TEXT, .superuser_only = true,
	.description = "file with the client's certificate"},
	{.name = "ssl_key_file", .places = PENSTOCK_ON_SERVER, .type = PENSTOCK_OPTION_TEXT, .superuser_only = true,
	.description = "file with its private key"},
	{.name = "sasl_mechanism", .places = PENSTOCK_ON_SERVER, .type = PENSTOCK_OPTION_ENUM, .values = mechanism_values,
	.description = "how to log in; if it is not given, PLAIN with a user name and ANONYMOUS without"},
	{.name = "connect_timeout", .places = PENSTOCK_ON_SERVER, .type = PENSTOCK_OPTION_TIME, .fallback = "10 s",
		.min = 100, .max = 600000,
	.description = "how long to wait for the broker when connecting"},
	{.name = "idle_timeout", .places = PENSTOCK_ON_SERVER, .type = PENSTOCK_OPTION_TIME, .fallback = "30 s",
		.min = 1000, .max = 3600000,
	.description = "a broker that has been silent for so long is taken for gone"},

	{.name = "username", .places = PENSTOCK_ON_USER, .type = PENSTOCK_OPTION_TEXT,
	.description = "user name at the broker"},
	{.name = "password", .places = PENSTOCK_ON_USER, .type = PENSTOCK_OPTION_TEXT,
	.description = "password at the broker"},

	{.name = "address", .places = PENSTOCK_ON_QUEUE, .type = PENSTOCK_OPTION_TEXT, .required = true,
	.description = "queue or topic, as the broker calls it"},
	{.name = "capability", .places = PENSTOCK_ON_QUEUE, .type = PENSTOCK_OPTION_ENUM, .fallback = "queue",
		.values = capability_values,
	.description = "asks the broker for a queue (each message to one reader) or a topic (each message to every subscriber); none: the broker decides"},
	{.name = "durable_subscription", .places = PENSTOCK_ON_QUEUE, .type = PENSTOCK_OPTION_BOOL, .fallback = "off",
	.description = "the broker keeps the messages of a topic while the pipe is not connected"},
	{.name = "selector", .places = PENSTOCK_ON_QUEUE, .type = PENSTOCK_OPTION_TEXT,
	.description = "JMS selector: only messages that fit it are read"},
	{.name = "credit", .places = PENSTOCK_ON_QUEUE, .type = PENSTOCK_OPTION_INT, .fallback = "20000",
		.min = 1, .max = 1000000,
	.description = "how many messages the broker may send ahead of their commit"},
	{.name = "max_message_size", .places = PENSTOCK_ON_QUEUE, .type = PENSTOCK_OPTION_SIZE, .fallback = "64 MB",
		.min = 1024, .max = 512 * 1024 * 1024,
	.description = "larger messages are not read: the pipe stops at them and says so"},
	{.name = "settle", .places = PENSTOCK_ON_QUEUE, .type = PENSTOCK_OPTION_ENUM, .fallback = "after_commit",
		.values = settle_values,
	.description = "when the broker may forget a message: after it is committed here, or (at most once) when it has sent it"},

	{.name = "durable", .places = PENSTOCK_ON_QUEUE, .type = PENSTOCK_OPTION_BOOL, .fallback = "on",
	.description = "whether the broker keeps written messages through a restart"},
	{.name = "priority", .places = PENSTOCK_ON_QUEUE, .type = PENSTOCK_OPTION_INT, .fallback = "4", .min = 0, .max = 9,
	.description = "priority of written messages"},
	{.name = "ttl", .places = PENSTOCK_ON_QUEUE, .type = PENSTOCK_OPTION_TIME, .min = 1, .max = PG_INT32_MAX,
	.description = "how long the broker keeps written messages that nobody reads; for ever if it is not given"},
	{.name = "content_type", .places = PENSTOCK_ON_QUEUE, .type = PENSTOCK_OPTION_TEXT,
	.description = "content type of written messages"},
	{.name = "body", .places = PENSTOCK_ON_QUEUE, .type = PENSTOCK_OPTION_ENUM, .fallback = "data",
		.values = body_values,
	.description = "written payloads are bytes, or a string (what JMS calls a text message)"},
	{.name = NULL}
};

/* The option's value, NULL if it does not stand anywhere (a fallback does not count). */
static const char *
given(const PenstockQueue *queue, const char *name)
{
	ListCell   *lc;

	foreach(lc, queue->options)
	{
		DefElem    *def = lfirst(lc);

		if (strcmp(def->defname, name) == 0)
			return penstock_connector_api()->option(queue, name);
	}
	return NULL;
}

static void
check(const PenstockQueue *queue)
{
	const char *certificate = given(queue, "ssl_cert_file");
	const char *key = given(queue, "ssl_key_file");
	const char *capability = given(queue, "capability");

	if ((certificate == NULL) != (key == NULL))
		ereport(ERROR,
				(errcode(ERRCODE_FDW_OPTION_NAME_NOT_FOUND),
				 errmsg("options \"ssl_cert_file\" and \"ssl_key_file\" go together")));
	if (given(queue, "durable_subscription") != NULL &&
		penstock_connector_api()->option_bool(queue, "durable_subscription") &&
		(capability == NULL || strcmp(capability, "topic") != 0))
		ereport(ERROR,
				(errcode(ERRCODE_FDW_INVALID_ATTRIBUTE_VALUE),
				 errmsg("option \"durable_subscription\" needs a topic"),
				 errhint("Add OPTIONS (capability 'topic').")));
}

static const PenstockConnector connector = {
	.abi = PENSTOCK_CONNECTOR_ABI,
	.name = "amqp",
	.options = options,
	.metadata = penstock_amqp_metadata,
	.has_offsets = false,
	.check = check,
	.open = penstock_amqp_consumer_open,
	.fetch = penstock_amqp_fetch,
	.wait_for = penstock_amqp_consumer_wait_for,
	.acknowledge = penstock_amqp_acknowledge,
	.lag = NULL,
	.close = penstock_amqp_consumer_close,
	.decode = NULL,
	.open_producer = penstock_amqp_producer_open,
	.send = penstock_amqp_send,
	.flush = penstock_amqp_flush,
	.abort = penstock_amqp_abort,
	.close_producer = penstock_amqp_producer_close,
	.import = penstock_amqp_import
};

PENSTOCK_CONNECTOR(penstock_amqp, connector);
