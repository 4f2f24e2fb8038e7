/*
 * kafka_fault.c
 *	  What the library's error codes mean to a person, and whether they go away by themselves.
 */
#include "postgres.h"

#include "connector/kafka/kafka.h"

#define REFUSED PENSTOCK_REFUSED
#define AWAY PENSTOCK_AWAY

/* Classes 08, 28 and 42 are about the connection or the topic, all others about one message. */
#define UNREACHABLE ERRCODE_SQLCLIENT_UNABLE_TO_ESTABLISH_SQLCONNECTION
#define REJECTED ERRCODE_SQLSERVER_REJECTED_ESTABLISHMENT_OF_SQLCONNECTION

/* message has %s for the topic, or for the server; NULL reason: the message says it all */
static const struct
{
	rd_kafka_resp_err_t error;
	PenstockOutcome outcome;
	int			sqlstate;
	bool		about_topic;
	const char *message;
	const char *hint;
}			meanings[] =
{
	{RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN, AWAY, UNREACHABLE, false,
	"no Kafka broker of server \"%s\" can be reached"},
	{RD_KAFKA_RESP_ERR__TRANSPORT, AWAY, UNREACHABLE, false,
	"no Kafka broker of server \"%s\" can be reached"},
	{RD_KAFKA_RESP_ERR__TIMED_OUT, AWAY, UNREACHABLE, false,
	"no Kafka broker of server \"%s\" answers in time"},
	{RD_KAFKA_RESP_ERR__RESOLVE, AWAY, UNREACHABLE, false,
	"the host name of a Kafka broker of server \"%s\" is not known"},
	{RD_KAFKA_RESP_ERR__MSG_TIMED_OUT, AWAY, UNREACHABLE, true,
	"topic \"%s\" did not take a message in time"},
	{RD_KAFKA_RESP_ERR__AUTHENTICATION, REFUSED, ERRCODE_INVALID_PASSWORD, false,
		"Kafka server \"%s\" refuses the user name or password",
	"Check username and password of the user mapping, and security_protocol and sasl_mechanism of the server."},
	{RD_KAFKA_RESP_ERR_SASL_AUTHENTICATION_FAILED, REFUSED, ERRCODE_INVALID_PASSWORD, false,
		"Kafka server \"%s\" refuses the user name or password",
	"Check username and password of the user mapping, and security_protocol and sasl_mechanism of the server."},
	{RD_KAFKA_RESP_ERR_UNSUPPORTED_SASL_MECHANISM, REFUSED, ERRCODE_INVALID_AUTHORIZATION_SPECIFICATION, false,
	"Kafka server \"%s\" does not offer that sasl_mechanism"},
	{RD_KAFKA_RESP_ERR__SSL, REFUSED, UNREACHABLE, false,
		"TLS with a broker of Kafka server \"%s\" fails",
	"Check security_protocol and the ssl_ options of the server."},
	{RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART, REFUSED, ERRCODE_UNDEFINED_OBJECT, true,
	"Kafka has no topic \"%s\""},
	{RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC, REFUSED, ERRCODE_UNDEFINED_OBJECT, true,
	"Kafka has no topic \"%s\""},
	{RD_KAFKA_RESP_ERR__UNKNOWN_PARTITION, REFUSED, ERRCODE_INVALID_PARAMETER_VALUE, true,
	"topic \"%s\" has no such partition"},
	{RD_KAFKA_RESP_ERR_TOPIC_EXCEPTION, REFUSED, ERRCODE_UNDEFINED_OBJECT, true,
	"Kafka does not accept the topic name \"%s\""},
	{RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED, REFUSED, ERRCODE_INSUFFICIENT_PRIVILEGE, true,
	"Kafka denies access to topic \"%s\""},
	{RD_KAFKA_RESP_ERR_GROUP_AUTHORIZATION_FAILED, REFUSED, ERRCODE_INSUFFICIENT_PRIVILEGE, true,
	"Kafka denies access to the consumer group for topic \"%s\""},
	{RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED, REFUSED, ERRCODE_INSUFFICIENT_PRIVILEGE, false,
	"Kafka server \"%s\" denies an operation on the cluster"},
	{RD_KAFKA_RESP_ERR_TRANSACTIONAL_ID_AUTHORIZATION_FAILED, REFUSED, ERRCODE_INSUFFICIENT_PRIVILEGE, true,
	"Kafka denies the use of the transactional_id for topic \"%s\""},
	{RD_KAFKA_RESP_ERR_FENCED_INSTANCE_ID, REFUSED, REJECTED, true,
		"another reader of topic \"%s\" has joined the consumer group under the name of this one",
	"Is a copy of this database running elsewhere?"},
	{RD_KAFKA_RESP_ERR_INCONSISTENT_GROUP_PROTOCOL, REFUSED, REJECTED, true,
		"the other members of the consumer group of topic \"%s\" share partitions out in another way",
	"Set assignment_strategy to what the others have."},
	{RD_KAFKA_RESP_ERR_INVALID_SESSION_TIMEOUT, REFUSED, REJECTED, true,
	"the session_timeout for topic \"%s\" is not one that the broker allows"},
	{RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE, REFUSED, ERRCODE_PROGRAM_LIMIT_EXCEEDED, true,
		"a message is too large for topic \"%s\"",
	"See max_message_size, and the topic's own max.message.bytes."},
	{RD_KAFKA_RESP_ERR_RECORD_LIST_TOO_LARGE, REFUSED, ERRCODE_PROGRAM_LIMIT_EXCEEDED, true,
		"a batch of messages is too large for topic \"%s\"",
	"See batch_size, and the topic's own max.message.bytes."},
	{RD_KAFKA_RESP_ERR_INVALID_RECORD, REFUSED, ERRCODE_FDW_ERROR, true,
		"topic \"%s\" does not accept a message",
	"A compacted topic needs a key in each message."},
	{RD_KAFKA_RESP_ERR_POLICY_VIOLATION, REFUSED, ERRCODE_FDW_ERROR, true,
	"a policy of the brokers forbids a message to topic \"%s\""},
	{RD_KAFKA_RESP_ERR__FENCED, REFUSED, REJECTED, true,
	"another producer for topic \"%s\" has taken over the transactional_id"},
	{RD_KAFKA_RESP_ERR_PRODUCER_FENCED, REFUSED, REJECTED, true,
	"another producer for topic \"%s\" has taken over the transactional_id"},
	{RD_KAFKA_RESP_ERR__BAD_MSG, REFUSED, ERRCODE_DATA_CORRUPTED, true,
	"a message of topic \"%s\" is damaged"},
	{RD_KAFKA_RESP_ERR__BAD_COMPRESSION, REFUSED, ERRCODE_DATA_CORRUPTED, true,
	"a message of topic \"%s\" cannot be decompressed"},
};

/* Codes of OpenSSL's x509_vfy.h, which is not included: the connector does not use OpenSSL itself. */
static const struct
{
	int			code;
	const char *text;
}			certificate_errors[] =
{
	{9, "The broker's certificate is not yet valid."},
	{10, "The broker's certificate has expired."},
	{18, "The broker's certificate is signed by itself and not trusted."},
	{19, "The broker's certificate is signed by an authority that is not trusted."},
	{20, "The broker's certificate is signed by an authority that is not trusted."},
	{21, "The broker's certificate is signed by an authority that is not trusted."},
	{23, "The broker's certificate has been revoked."},
	{62, "The broker's certificate is for another host."},
	{64, "The broker's certificate is for another host."},
};

/*
 * penstock_kafka_is_lasting: is the code about more than one connection or request?
 */
bool
penstock_kafka_is_lasting(rd_kafka_resp_err_t error)
{
	for (int i = 0; i < lengthof(meanings); i++)
		if (meanings[i].error == error)
			return meanings[i].outcome == PENSTOCK_REFUSED;
	return false;
}

/*
 * penstock_kafka_certificate_error tells what is wrong with a certificate, as a sentence; code is one of OpenSSL's X509_V_ERR_
 * numbers, not 0.
 */
const char *
penstock_kafka_certificate_error(int code)
{
	for (int i = 0; i < lengthof(certificate_errors); i++)
		if (certificate_errors[i].code == code)
			return certificate_errors[i].text;
	return "The broker's certificate cannot be verified.";
}

/*
 * penstock_kafka_detail sets a fault's detail to what the library says; NULL or "": nothing.
 */
void
penstock_kafka_detail(PenstockFault *fault, const char *reason)
{
	if (reason && *reason)
		snprintf(fault->detail, sizeof(fault->detail), "The Kafka library says: %s", reason);
}

void
penstock_kafka_hint(PenstockFault *fault, const char *hint)
{
	strlcpy(fault->hint, hint, sizeof(fault->hint));
}

/*
 * penstock_kafka_fault fills fault with what an error code of the library means and returns whether that goes away.  reason is
 * the library's own text and becomes the detail; NULL: none.
 */
PenstockOutcome
penstock_kafka_fault(const KafkaClient *client, PenstockFault *fault, rd_kafka_resp_err_t error, const char *reason)
{
	const char *server = client->queue->server_name ? client->queue->server_name : "kafka";
	const char *topic = client->topic ? client->topic : "";

	for (int i = 0; i < lengthof(meanings); i++)
	{
		const char *name = meanings[i].about_topic ? topic : server;
		char		message[sizeof(fault->message)];
		const char *at = strstr(meanings[i].message, "%s");

		if (meanings[i].error != error)
			continue;
		snprintf(message, sizeof(message), "%.*s%s%s", (int) (at - meanings[i].message), meanings[i].message, name, at + 2);
		penstock_fault(fault, meanings[i].outcome, meanings[i].sqlstate, "%s", message);
		penstock_kafka_detail(fault, reason);
		if (meanings[i].hint)
			penstock_kafka_hint(fault, meanings[i].hint);
		return meanings[i].outcome;
	}
	penstock_fault(fault, PENSTOCK_AWAY, ERRCODE_FDW_ERROR, "Kafka reports for %s \"%s\": %s",
				   client->topic ? "topic" : "server", client->topic ? topic : server, rd_kafka_err2str(error));
	penstock_kafka_detail(fault, reason);
	return PENSTOCK_AWAY;
}
