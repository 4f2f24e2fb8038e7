/*
 * kafka.c
 *	  The Kafka connector: its options, and the table of its functions.
 */
#include "postgres.h"

#include "fmgr.h"
#include "utils/builtins.h"

#include "connector/kafka/kafka.h"

PG_MODULE_MAGIC;

#define SERVER		PENSTOCK_ON_SERVER
#define QUEUE		PENSTOCK_ON_QUEUE
#define BOTH		(PENSTOCK_ON_SERVER | PENSTOCK_ON_QUEUE)

#define TEXT(name, places, description) \
	{name, places, PENSTOCK_OPTION_TEXT, description}
#define FILE_NAME(name, description) \
	{name, SERVER, PENSTOCK_OPTION_TEXT, description, .superuser_only = true}
#define NEEDED(name, places, description) \
	{name, places, PENSTOCK_OPTION_TEXT, description, .required = true}
#define ENUM(name, places, fallback, values, description) \
	{name, places, PENSTOCK_OPTION_ENUM, description, fallback, 0, 0, values}
#define NUMBER(name, places, type, fallback, min, max, description) \
	{name, places, PENSTOCK_OPTION_##type, description, fallback, min, max}

static const char *const protocols[] = {"plaintext", "ssl", "sasl_plaintext", "sasl_ssl", NULL};
static const char *const mechanisms[] = {"PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", NULL};
static const char *const identification[] = {"https", "none", NULL};
static const char *const isolation_levels[] = {"read_committed", "read_uncommitted", NULL};
static const char *const offset_lost[] = {"stop", "earliest", "latest", NULL};
static const char *const strategies[] = {"range", "roundrobin", "cooperative-sticky", NULL};
static const char *const acks[] = {"all", "1", "0", NULL};
static const char *const codecs[] = {"none", "gzip", "snappy", "lz4", "zstd", NULL};
static const char *const partitioners[] = {"murmur2_random", "murmur2", "consistent_random", "consistent",
	"fnv1a_random", "fnv1a", "random", NULL};

#define MINUTE (60 * INT64CONST(1000))
#define MB (1024 * INT64CONST(1024))

static const PenstockConnectorOption options[] = {
	NEEDED("bootstrap_servers", SERVER, "host:port of some brokers of the cluster, separated by commas"),
	ENUM("security_protocol", SERVER, "plaintext", protocols, "how brokers are spoken to"),
	ENUM("sasl_mechanism", SERVER, "PLAIN", mechanisms, "how user and password are sent, with sasl_plaintext and sasl_ssl"),
	FILE_NAME("ssl_ca_location", "file (PEM) or folder of the authorities that are trusted; without it, the system's"),
	FILE_NAME("ssl_certificate_location", "file (PEM) of the client's own certificate"),
	FILE_NAME("ssl_key_location", "file (PEM) of its private key"),
	ENUM("ssl_endpoint_identification_algorithm", SERVER, "https", identification,
		 "whether the broker's certificate must name the host that was connected to"),
	TEXT("client_id", SERVER, "name under which the brokers' logs and quotas know the client"),
	NUMBER("connect_timeout", SERVER, TIME, "10 s", 100, 5 * MINUTE, "longest wait for a broker to answer"),
	NUMBER("request_timeout", SERVER, TIME, "30 s", 1000, 5 * MINUTE, "a broker that does not answer a request for so long is taken for gone"),
	{"librdkafka", BOTH, PENSTOCK_OPTION_TEXT,
		"further settings of the client library, 'name=value, name=value'", .superuser_only = true},

	TEXT("username", PENSTOCK_ON_USER, "user name for SASL"),
	TEXT("password", PENSTOCK_ON_USER, "password for SASL"),
	TEXT("ssl_key_password", PENSTOCK_ON_USER, "password of the private key's file"),

	NEEDED("topic", QUEUE, "the topic"),
	TEXT("partitions", QUEUE, "numbers of the only partitions to read, separated by commas; without it, all"),
	TEXT("group", QUEUE, "consumer group that shares the partitions out; without it, this reader has them all"),
	{"start", QUEUE, PENSTOCK_OPTION_TEXT,
		"where a partition without a stored position begins: earliest, latest, a timestamp or an offset", "earliest"},
	ENUM("on_offset_lost", QUEUE, "stop", offset_lost, "what to do when the next message is no longer there: stop, or go on from there"),
	ENUM("isolation_level", BOTH, "read_committed", isolation_levels, "whether messages of open and aborted transactions are read"),
	NUMBER("prefetch", BOTH, SIZE, "32 MB", 1 * MB, 1024 * MB, "most bytes read ahead; fewer hold less memory"),
	NUMBER("fetch_max_bytes", BOTH, SIZE, "8 MB", 64 * 1024, 64 * MB, "most bytes asked for at once"),
	NUMBER("fetch_wait_max", BOTH, TIME, "500 ms", 0, 5 * MINUTE, "how long a broker waits for messages before it answers that there are none"),
	NUMBER("metadata_refresh", BOTH, TIME, "1 min", 1000, 60 * MINUTE, "how often new partitions are looked for"),
	NUMBER("session_timeout", QUEUE, TIME, "45 s", 1000, 60 * MINUTE, "how long a member of a group may be silent before others take over"),
	NUMBER("max_poll_interval", QUEUE, TIME, "5 min", 10 * 1000, 24 * 60 * MINUTE,
		   "how long a member of a group may be busy with one batch before others take over"),
	ENUM("assignment_strategy", QUEUE, "range", strategies, "how a group shares out partitions; the same for all members"),

	ENUM("acks", BOTH, "all", acks, "how many replicas must have a message before it counts as sent"),
	NUMBER("idempotence", BOTH, BOOL, "true", 0, 0, "whether the broker recognises a message that is sent again; needs acks = all"),
	ENUM("compression", BOTH, "none", codecs, "codec of what is sent"),
	NUMBER("linger", BOTH, TIME, "5 ms", 0, 1 * MINUTE, "how long messages are gathered before they are sent"),
	NUMBER("batch_size", BOTH, SIZE, "1000 kB", 1024, 64 * MB, "most bytes sent to a partition at once"),
	NUMBER("max_message_size", BOTH, SIZE, "1000 kB", 1024, 953 * MB, "largest message that is sent; the topic has its own limit (max.message.bytes)"),
	NUMBER("send_buffer", BOTH, SIZE, "32 MB", 1 * MB, 1024 * MB, "most bytes that wait to be sent"),
	NUMBER("delivery_timeout", BOTH, TIME, "2 min", 1000, 60 * MINUTE, "how long a message is tried before it counts as failed"),
	ENUM("partitioner", BOTH, "murmur2_random", partitioners, "how the partition follows from the key (murmur2_random: as Java clients do)"),
	TEXT("transactional_id", QUEUE, "sends each transaction's messages as a transaction of Kafka, under this name"),
	{NULL}
};

static const char *const metadata[] = {"topic", "timestamp_type", NULL};

static void
refuse(const char *option, const char *text)
{
	ereport(ERROR,
			(errcode(ERRCODE_FDW_INVALID_ATTRIBUTE_VALUE),
			 errmsg("option \"%s\" %s", option, text)));
}

static const char *
given(const PenstockQueue *queue, const char *name)
{
	return penstock_connector_api()->option(queue, name);
}

/* Numbers of partitions: digits, commas and blanks, no number of more digits than an int has. */
static void
check_partitions(const char *text)
{
	for (const char *at = text;; at++)
	{
		size_t		digits;

		at += strspn(at, " ");
		digits = strspn(at, "0123456789");
		if (digits == 0 || digits > 9)
			refuse("partitions", "must be numbers separated by commas");
		at += digits;
		at += strspn(at, " ");
		if (*at == '\0')
			return;
		if (*at != ',')
			refuse("partitions", "must be numbers separated by commas");
	}
}

/* Options that do not go together. */
static void
check(const PenstockQueue *queue)
{
	const PenstockConnectorApi *api = penstock_connector_api();
	const char *protocol = given(queue, "security_protocol");
	const char *partitions = given(queue, "partitions");
	const char *topic = given(queue, "topic");
	const char *start = given(queue, "start");

	if (topic && (strlen(topic) == 0 || strlen(topic) > 249 ||
				  strspn(topic, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-") != strlen(topic)))
		refuse("topic", "must be a topic's name: up to 249 letters, digits, dots, underscores and hyphens");
	if (partitions)
		check_partitions(partitions);
	if (partitions && given(queue, "group"))
		refuse("partitions", "cannot be combined with \"group\", which shares the partitions out itself");
	if (start)
		penstock_kafka_check_start(start);
	if (protocol && strncmp(protocol, "sasl", 4) != 0 && given(queue, "username"))
		refuse("security_protocol", "must be sasl_ssl or sasl_plaintext for a user mapping with a user name");
	if (given(queue, "ssl_key_location") && given(queue, "ssl_certificate_location") == NULL)
		refuse("ssl_key_location", "needs \"ssl_certificate_location\" too");
	if (api->option_bool(queue, "idempotence") && strcmp(given(queue, "acks"), "all") != 0)
		refuse("acks", "must be all for \"idempotence\"; set idempotence to false otherwise");
	if (given(queue, "transactional_id") && !api->option_bool(queue, "idempotence"))
		refuse("transactional_id", "needs \"idempotence\"");
}

static const PenstockConnector kafka = {
	.abi = PENSTOCK_CONNECTOR_ABI,
	.name = "kafka",
	.options = options,
	.metadata = metadata,
	.has_offsets = true,
	.check = check,
	.open = penstock_kafka_open,
	.fetch = penstock_kafka_fetch,
	.wait_for = penstock_kafka_wait_for,
	.first_places = penstock_kafka_first_places,
	.acknowledge = penstock_kafka_acknowledge,
	.lag = penstock_kafka_lag,
	.close = penstock_kafka_close,
	.open_producer = penstock_kafka_open_producer,
	.send = penstock_kafka_send,
	.flush = penstock_kafka_flush,
	.abort = penstock_kafka_abort,
	.close_producer = penstock_kafka_close_producer,
	.import = penstock_kafka_import,
};

PENSTOCK_CONNECTOR(penstock_kafka, kafka);
