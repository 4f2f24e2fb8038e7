/*
 * rabbitmq_link.c
 *	  A connection to the broker: opening and closing it, frames, waiting, and what its errors mean.
 *
 * librabbitmq sends and reads on one socket that does not block, has no threads and calls nothing back.  Its
 * requests (login, declare, consume) wait for their answers, at most connect_timeout; everything else here asks
 * for frames that have already arrived.  It keeps a part of a frame until the rest comes.
 */
#include "postgres.h"

#include <poll.h>
#include <unistd.h>

#include "miscadmin.h"
#include "pgstat.h"
#include "storage/latch.h"
#include "utils/memutils.h"
#include "utils/wait_event.h"

#include "connector/rabbitmq/rabbitmq.h"

#define CONNECTION_FORCED	320
#define ACCESS_REFUSED		403
#define NOT_FOUND			404
#define RESOURCE_LOCKED		405
#define FRAME_ERROR			501
#define RESOURCE_ERROR		506
#define NOT_ALLOWED			530
#define INTERNAL_ERROR		541

/* The broker's text of an error without what precedes it, clipped. */
static const char *
reply_text(amqp_bytes_t text, char *buffer, size_t size)
{
	size_t		length = Min(text.len, size - 1);

	memcpy(buffer, text.bytes, length);
	buffer[length] = '\0';
	/* it goes into messages: keep them one line of ASCII */
	for (char *c = buffer; *c != '\0'; c++)
		if (*c < ' ' || *c > '~')
			*c = '?';
	return buffer;
}

/*
 * What the broker says is not always what it means: a queue of a node that has just started is not found, but will be.
 */
static bool
will_pass(const char *text)
{
	static const char *const signs[] = {"is down", "inaccessible", "not available", "no_local_stream_replica",
		"timed out", "timeout", "in minority", "noproc", "stopped"};

	for (int i = 0; i < lengthof(signs); i++)
		if (strstr(text, signs[i]) != NULL)
			return true;
	return false;
}

/* The name in a text like "NOT_FOUND - no queue 'x' in vhost '/'"; false if there is none. */
static bool
missing_name(const char *text, const char *before, char *name, size_t size)
{
	const char *begin = strstr(text, before);
	const char *end = begin ? strstr(begin, "' in vhost") : NULL;

	if (end == NULL)
		return false;
	begin += strlen(before);
	snprintf(name, size, "%.*s", (int) (end - begin), begin);
	return true;
}

static PenstockOutcome
code_fault(RabbitLink *link, int code, amqp_bytes_t reply, bool login, PenstockFault *fault)
{
	char		text[384];
	char		name[256];
	PenstockOutcome outcome;
	const char *virtual_host = penstock_connector_api()->option(link->queue, "virtual_host");

	reply_text(reply, text, sizeof(text));
	if (code == CONNECTION_FORCED || code == INTERNAL_ERROR || will_pass(text))
		outcome = penstock_fault(fault, PENSTOCK_AWAY, ERRCODE_CONNECTION_FAILURE,
								 "the broker at \"%s\" port %d is not ready: %s", link->host, link->port, text);
	else if (code == ACCESS_REFUSED && login)
		outcome = penstock_fault(fault, PENSTOCK_REFUSED, ERRCODE_INVALID_PASSWORD,
								 "the broker at \"%s\" port %d refused the user name or password", link->host, link->port);
	else if (code == ACCESS_REFUSED || code == RESOURCE_LOCKED)
		outcome = penstock_fault(fault, PENSTOCK_REFUSED, ERRCODE_INSUFFICIENT_PRIVILEGE, "the broker refused access");
	else if (code == NOT_FOUND && missing_name(text, "no queue '", name, sizeof(name)))
		outcome = penstock_fault(fault, PENSTOCK_REFUSED, ERRCODE_UNDEFINED_OBJECT,
								 "queue \"%s\" does not exist in virtual host \"%s\" of the broker", name, virtual_host);
	else if (code == NOT_FOUND && missing_name(text, "no exchange '", name, sizeof(name)))
		outcome = penstock_fault(fault, PENSTOCK_REFUSED, ERRCODE_UNDEFINED_OBJECT,
								 "exchange \"%s\" does not exist in virtual host \"%s\" of the broker", name, virtual_host);
	else if (code == NOT_ALLOWED && login)
		outcome = penstock_fault(fault, PENSTOCK_REFUSED, ERRCODE_UNDEFINED_OBJECT,
								 "the broker does not let this user into virtual host \"%s\"", virtual_host);
	else if (code >= FRAME_ERROR && code <= RESOURCE_ERROR)
		outcome = penstock_fault(fault, PENSTOCK_AWAY, ERRCODE_PROTOCOL_VIOLATION, "the broker closed the connection: %s", text);
	else
		outcome = penstock_fault(fault, PENSTOCK_REFUSED, ERRCODE_FDW_ERROR, "the broker refused: %s", text);
	if (strstr(fault->message, text) == NULL)
		snprintf(fault->detail, sizeof(fault->detail), "The broker says: %s", text);
	return outcome;
}

/*
 * penstock_rabbitmq_close_fault tells what a channel.close or connection.close means.
 */
PenstockOutcome
penstock_rabbitmq_close_fault(RabbitLink *link, const amqp_method_t *method, PenstockFault *fault)
{
	if (method->id == AMQP_CHANNEL_CLOSE_METHOD)
	{
		const amqp_channel_close_t *close = method->decoded;

		return code_fault(link, close->reply_code, close->reply_text, false, fault);
	}
	if (method->id == AMQP_CONNECTION_CLOSE_METHOD)
	{
		const amqp_connection_close_t *close = method->decoded;

		return code_fault(link, close->reply_code, close->reply_text, false, fault);
	}
	return penstock_fault(fault, PENSTOCK_AWAY, ERRCODE_PROTOCOL_VIOLATION, "the broker sent an unexpected method 0x%08x",
						  (unsigned int) method->id);
}

PenstockOutcome
penstock_rabbitmq_status_fault(RabbitLink *link, int status, PenstockFault *fault)
{
	switch (status)
	{
		case AMQP_STATUS_NO_MEMORY:
			return penstock_fault(fault, PENSTOCK_AWAY, ERRCODE_OUT_OF_MEMORY, "out of memory in librabbitmq");
		case AMQP_STATUS_HOSTNAME_RESOLUTION_FAILED:
			return penstock_fault(fault, PENSTOCK_AWAY, ERRCODE_CONNECTION_FAILURE,
								  "the name of host \"%s\" has no address", link->host);
		case AMQP_STATUS_CONNECTION_CLOSED:
		case AMQP_STATUS_SOCKET_CLOSED:
			return penstock_fault(fault, PENSTOCK_AWAY, ERRCODE_CONNECTION_FAILURE,
								  "the connection to the broker at \"%s\" port %d was closed", link->host, link->port);
		case AMQP_STATUS_HEARTBEAT_TIMEOUT:
			return penstock_fault(fault, PENSTOCK_AWAY, ERRCODE_CONNECTION_FAILURE,
								  "the broker at \"%s\" port %d has been silent for longer than two heartbeats", link->host, link->port);
		case AMQP_STATUS_TIMEOUT:
			return penstock_fault(fault, PENSTOCK_AWAY, ERRCODE_CONNECTION_FAILURE,
								  "the broker at \"%s\" port %d did not answer within %d ms", link->host, link->port, link->timeout);
		case AMQP_STATUS_SSL_HOSTNAME_VERIFY_FAILED:
		case AMQP_STATUS_SSL_PEER_VERIFY_FAILED:
		case AMQP_STATUS_SSL_CONNECTION_FAILED:
			if (link->tls_error != 0)
				return penstock_fault(fault, PENSTOCK_REFUSED, ERRCODE_CONNECTION_FAILURE,
									  "the certificate of the broker at \"%s\" port %d is not accepted: %s",
									  link->host, link->port, penstock_rabbitmq_tls_reason(link));
			return penstock_fault(fault, PENSTOCK_REFUSED, ERRCODE_CONNECTION_FAILURE,
								  "no TLS connection to the broker at \"%s\" port %d", link->host, link->port);
		case AMQP_STATUS_BAD_AMQP_DATA:
		case AMQP_STATUS_INCOMPATIBLE_AMQP_VERSION:
			return penstock_fault(fault, PENSTOCK_REFUSED, ERRCODE_PROTOCOL_VIOLATION,
								  "the other side at \"%s\" port %d does not speak AMQP 0-9-1 as it should", link->host, link->port);
		case AMQP_STATUS_BROKER_UNSUPPORTED_SASL_METHOD:
			return penstock_fault(fault, PENSTOCK_REFUSED, ERRCODE_FEATURE_NOT_SUPPORTED,
								  "the broker at \"%s\" port %d does not take user name and password (SASL PLAIN)", link->host, link->port);
		default:
			penstock_fault(fault, PENSTOCK_AWAY, ERRCODE_CONNECTION_FAILURE,
						   "no connection to the broker at \"%s\" port %d: %s", link->host, link->port,
						   amqp_error_string2(status));
			strlcpy(fault->hint, "Does it run, and listen there?", sizeof(fault->hint));
			return PENSTOCK_AWAY;
	}
}

static PenstockOutcome
answer_fault(RabbitLink *link, amqp_rpc_reply_t reply, bool login, PenstockFault *fault)
{
	switch (reply.reply_type)
	{
		case AMQP_RESPONSE_NORMAL:
			return PENSTOCK_OK;
		case AMQP_RESPONSE_SERVER_EXCEPTION:
			if (login && reply.reply.id == AMQP_CONNECTION_CLOSE_METHOD)
			{
				const amqp_connection_close_t *close = reply.reply.decoded;

				return code_fault(link, close->reply_code, close->reply_text, true, fault);
			}
			return penstock_rabbitmq_close_fault(link, &reply.reply, fault);
		case AMQP_RESPONSE_LIBRARY_EXCEPTION:
			return penstock_rabbitmq_status_fault(link, reply.library_error, fault);
		default:
			return penstock_rabbitmq_status_fault(link, AMQP_STATUS_CONNECTION_CLOSED, fault);
	}
}

/*
 * penstock_rabbitmq_reply_fault: how the last request ended.
 */
PenstockOutcome
penstock_rabbitmq_reply_fault(RabbitLink *link, PenstockFault *fault)
{
	return answer_fault(link, amqp_get_rpc_reply(link->state), false, fault);
}

/* ---- opening and closing ---- */

static void
destroy(void *arg)
{
	RabbitLink *link = arg;

	if (link->state != NULL)
		amqp_destroy_connection(link->state);
	link->state = NULL;
}

/*
 * penstock_rabbitmq_link_close says good-bye and does not wait for an answer: the broker gives what was not acknowledged to
 * somebody else.
 */
void
penstock_rabbitmq_link_close(RabbitLink *link)
{
	amqp_connection_close_t goodbye = {.reply_code = AMQP_REPLY_SUCCESS};
	PenstockFault ignored;

	if (link->state != NULL && amqp_get_sockfd(link->state) >= 0 &&
		penstock_rabbitmq_link_has_room(link, &ignored) == PENSTOCK_OK)
		(void) amqp_send_method(link->state, 0, AMQP_CONNECTION_CLOSE_METHOD, &goodbye);
	destroy(link);
}

/* What this client can deal with; the broker then tells it. */
static amqp_table_t
client_properties(const char *name, amqp_table_entry_t *entries, amqp_table_entry_t *capabilities)
{
	static const char *const can[] = {"consumer_cancel_notify", "connection.blocked", "basic.nack",
		"publisher_confirms", "authentication_failure_close"};
	amqp_table_t result = {.num_entries = 2, .entries = entries};

	for (int i = 0; i < lengthof(can); i++)
		capabilities[i] = (amqp_table_entry_t) {.key = amqp_cstring_bytes(can[i]),
			.value = {.kind = AMQP_FIELD_KIND_BOOLEAN, .value.boolean = 1}};
	entries[0] = (amqp_table_entry_t) {.key = amqp_cstring_bytes("capabilities"),
		.value = {.kind = AMQP_FIELD_KIND_TABLE, .value.table = {.num_entries = lengthof(can), .entries = capabilities}}};
	entries[1] = (amqp_table_entry_t) {.key = amqp_cstring_bytes("connection_name"),
		.value = {.kind = AMQP_FIELD_KIND_UTF8, .value.bytes = amqp_cstring_bytes(name)}};
	return result;
}

static PenstockOutcome
log_in(RabbitLink *link, PenstockFault *fault)
{
	const PenstockConnectorApi *api = penstock_connector_api();
	amqp_table_entry_t entries[2];
	amqp_table_entry_t capabilities[5];
	amqp_table_t properties = client_properties(psprintf("penstock %s", link->queue->name ? link->queue->name : ""),
												entries, capabilities);
	PenstockOutcome outcome;

	outcome = answer_fault(link, amqp_login_with_properties(link->state, api->option(link->queue, "virtual_host"),
															0, AMQP_DEFAULT_FRAME_SIZE, link->heartbeat, &properties,
															AMQP_SASL_METHOD_PLAIN,
															api->option(link->queue, "username"),
															api->option(link->queue, "password")), true, fault);
	if (outcome != PENSTOCK_OK)
		return outcome;
	link->heartbeat = amqp_get_heartbeat(link->state);
	amqp_channel_open(link->state, RABBITMQ_CHANNEL);
	return penstock_rabbitmq_reply_fault(link, fault);
}

static PenstockOutcome
connect_socket(RabbitLink *link, PenstockFault *fault)
{
	struct timeval timeout = {.tv_sec = link->timeout / 1000,.tv_usec = link->timeout % 1000 * 1000};
	bool		ssl = penstock_connector_api()->option_bool(link->queue, "ssl");
	amqp_socket_t *socket = ssl ? amqp_ssl_socket_new(link->state) : amqp_tcp_socket_new(link->state);
	int			status;

	if (socket == NULL)
		return penstock_rabbitmq_status_fault(link, AMQP_STATUS_NO_MEMORY, fault);
	if (ssl && penstock_rabbitmq_tls_setup(link, socket, fault) != PENSTOCK_OK)
		return PENSTOCK_REFUSED;
	status = amqp_socket_open_noblock(socket, link->host, link->port, &timeout);
	if (status != AMQP_STATUS_OK)
		return penstock_rabbitmq_status_fault(link, status, fault);
	amqp_set_handshake_timeout(link->state, &timeout);
	amqp_set_rpc_timeout(link->state, &timeout);
	return PENSTOCK_OK;
}

RabbitLink *
penstock_rabbitmq_link_open(const PenstockQueue *queue, PenstockOutcome *outcome, PenstockFault *fault)
{
	const PenstockConnectorApi *api = penstock_connector_api();
	RabbitLink *link = palloc0(sizeof(RabbitLink));
	MemoryContextCallback *callback = palloc0(sizeof(MemoryContextCallback));

	link->queue = queue;
	link->host = api->option(queue, "host");
	link->port = (int) api->option_int(queue, "port");
	if (link->port == 0)
		link->port = api->option_bool(queue, "ssl") ? 5671 : 5672;
	link->timeout = (int) api->option_int(queue, "connect_timeout");
	link->heartbeat = (int) ((api->option_int(queue, "heartbeat") + 999) / 1000);
	link->state = amqp_new_connection();
	if (link->state == NULL)
	{
		*outcome = penstock_rabbitmq_status_fault(link, AMQP_STATUS_NO_MEMORY, fault);
		return NULL;
	}
	/* librabbitmq's memory and socket are not PostgreSQL's: an error must not leave them behind */
	callback->func = destroy;
	callback->arg = link;
	MemoryContextRegisterResetCallback(CurrentMemoryContext, callback);

	*outcome = connect_socket(link, fault);
	if (*outcome == PENSTOCK_OK)
		*outcome = log_in(link, fault);
	if (*outcome == PENSTOCK_OK)
		return link;
	destroy(link);
	return NULL;
}

/* ---- frames and waiting ---- */

PenstockOutcome
penstock_rabbitmq_link_frame(RabbitLink *link, amqp_frame_t *frame, PenstockFault *fault)
{
	struct timeval now = {0, 0};
	int			status = amqp_simple_wait_frame_noblock(link->state, frame, &now);

	if (status == AMQP_STATUS_OK)
		return PENSTOCK_OK;
	if (status == AMQP_STATUS_TIMEOUT)
		return PENSTOCK_END;
	return penstock_rabbitmq_status_fault(link, status, fault);
}

void
penstock_rabbitmq_link_wait(RabbitLink *link, long timeout, bool want_room)
{
	int			events = WL_LATCH_SET | WL_EXIT_ON_PM_DEATH | WL_SOCKET_READABLE | WL_TIMEOUT;

	if (want_room)
		events |= WL_SOCKET_WRITEABLE;
	(void) WaitLatchOrSocket(MyLatch, events, amqp_get_sockfd(link->state), Max(timeout, 0), PG_WAIT_EXTENSION);
	ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();
}

PenstockOutcome
penstock_rabbitmq_link_has_room(RabbitLink *link, PenstockFault *fault)
{
	struct pollfd socket = {.fd = amqp_get_sockfd(link->state),.events = POLLOUT};

	if (poll(&socket, 1, 0) == 1 && (socket.revents & POLLOUT) != 0)
		return PENSTOCK_OK;
	return penstock_fault(fault, PENSTOCK_AWAY, ERRCODE_CONNECTION_FAILURE,
						  "the broker at \"%s\" port %d does not take what is sent to it", link->host, link->port);
}

PenstockOutcome
penstock_rabbitmq_link_declared(RabbitLink *link, amqp_channel_t channel, const char *name, int64 *count, PenstockFault *fault)
{
	amqp_queue_declare_ok_t *declared = amqp_queue_declare(link->state, channel, amqp_cstring_bytes(name), 1, 0, 0, 0,
														   amqp_empty_table);

	if (declared == NULL)
		return penstock_rabbitmq_reply_fault(link, fault);
	*count = declared->message_count;
	return PENSTOCK_OK;
}
