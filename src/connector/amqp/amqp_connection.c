/*
 * amqp_connection.c
 *	  A connection to an AMQP 1.0 broker, with one session and one link, and what it says when it fails.
 *
 * Proton's connection driver turns bytes into events and back and runs no threads and no callbacks of its own; the bytes are moved by
 * amqp_socket.c.  So no frame of Proton is ever on the stack when the server may raise an error.
 */
#include "postgres.h"

#include <poll.h>
#include <unistd.h>

#include <proton/condition.h>
#include <proton/connection.h>
#include <proton/logger.h>
#include <proton/sasl.h>
#include <proton/session.h>
#include <proton/ssl.h>
#include <proton/transport.h>

#include "miscadmin.h"
#include "storage/latch.h"
#include "utils/memutils.h"

#include "connector/amqp/amqp.h"

/* Largest frame taken from the broker. */
#define MAX_FRAME (256 * 1024)
/* How long (ms) an orderly goodbye may take. */
#define GOODBYE_TIME 1000

static const PenstockConnectorApi *
api(void)
{
	return penstock_connector_api();
}

/* ---- what went wrong ---- */

/* Conditions that somebody has to do something about.  NULL names end the table. */
static const struct
{
	const char *name;
	int			sqlstate;
	const char *message;		/* %s: the address */
}			refusals[] = {
	{"amqp:not-found", ERRCODE_FDW_TABLE_NOT_FOUND, "AMQP address \"%s\" does not exist"},
	{"amqp:unauthorized-access", ERRCODE_INSUFFICIENT_PRIVILEGE, "the broker does not permit the use of AMQP address \"%s\""},
	{"amqp:resource-deleted", ERRCODE_FDW_TABLE_NOT_FOUND, "AMQP address \"%s\" has been deleted"},
	{"amqp:resource-limit-exceeded", ERRCODE_INSUFFICIENT_RESOURCES, "AMQP address \"%s\" has reached a limit of the broker"},
	{"amqp:link:message-size-exceeded", ERRCODE_PROGRAM_LIMIT_EXCEEDED, "a message for AMQP address \"%s\" is too large for the broker"},
	{"amqp:not-allowed", ERRCODE_FDW_ERROR, "the broker does not allow what was asked of AMQP address \"%s\""},
	{"amqp:not-implemented", ERRCODE_FEATURE_NOT_SUPPORTED, "the broker cannot do what was asked of AMQP address \"%s\""},
	{"amqp:invalid-field", ERRCODE_FDW_ERROR, "the broker does not accept an option of AMQP address \"%s\""},
	{"amqp:precondition-failed", ERRCODE_FDW_ERROR, "AMQP address \"%s\" is not as the broker was asked for"},
	{NULL, 0, NULL}
};

/* Blots out every occurrence of a secret. */
static void
blot(char *text, const char *secret)
{
	size_t		length = secret ? strlen(secret) : 0;
	char	   *at = text;

	if (length == 0)
		return;
	while ((at = strstr(at, secret)) != NULL)
	{
		memset(at, '*', length);
		at += length;
	}
}

/*
 * penstock_amqp_clean_text takes the credentials out of what a broker said.
 */
void
penstock_amqp_clean_text(AmqpConnection *connection, char *text)
{
	blot(text, connection->password);
	blot(text, connection->username);
}

/* The broker's own words as detail. */
static void
quote_broker(AmqpConnection *connection, pn_condition_t *condition, PenstockFault *fault)
{
	const char *name = pn_condition_get_name(condition);
	const char *description = pn_condition_get_description(condition);

	snprintf(fault->detail, sizeof(fault->detail), "The broker says: %s%s%s", name ? name : "",
			 description && description[0] ? ": " : "", description ? description : "");
	penstock_amqp_clean_text(connection, fault->detail);
}

/*
 * penstock_amqp_condition makes a fault of a condition that the broker gave for the link, its session or the connection.
 */
PenstockOutcome
penstock_amqp_condition(AmqpConnection *connection, pn_condition_t *condition, PenstockFault *fault)
{
	const char *name = pn_condition_get_name(condition);
	const char *address = connection->address ? connection->address : "";

	for (int i = 0; refusals[i].name != NULL; i++)
		if (name != NULL && strcmp(name, refusals[i].name) == 0)
		{
			char		message[sizeof(fault->message)];

			if (connection->address != NULL)
				snprintf(message, sizeof(message), refusals[i].message, address);
			else
				snprintf(message, sizeof(message), "AMQP broker \"%s:%d\" refused the connection",
						 connection->host, connection->port);
			(void) penstock_fault(fault, PENSTOCK_REFUSED, refusals[i].sqlstate, "%s", message);
			quote_broker(connection, condition, fault);
			return PENSTOCK_REFUSED;
		}
	(void) penstock_fault(fault, PENSTOCK_AWAY, ERRCODE_CONNECTION_FAILURE,
						  "AMQP broker \"%s:%d\" ended the connection", connection->host, connection->port);
	quote_broker(connection, condition, fault);
	return PENSTOCK_AWAY;
}

/* Of the transport: the network, TLS, SASL, and the protocol itself. */
static PenstockOutcome
transport_fault(AmqpConnection *connection, pn_condition_t *condition, PenstockFault *fault)
{
	const char *name = pn_condition_get_name(condition);
	const char *description = pn_condition_get_description(condition);
	PenstockOutcome outcome;

	name = name ? name : "";
	description = description ? description : "";
	if (strcmp(name, "amqp:unauthorized-access") == 0)
	{
		outcome = penstock_fault(fault, PENSTOCK_REFUSED, ERRCODE_INVALID_AUTHORIZATION_SPECIFICATION,
								 "AMQP broker \"%s:%d\" does not accept the login", connection->host, connection->port);
		strlcpy(fault->hint, "Check username and password of the user mapping, and option \"sasl_mechanism\".",
				sizeof(fault->hint));
	}
	else if (connection->tls && strstr(description, "certificate verify failed") != NULL)
	{
		outcome = penstock_fault(fault, PENSTOCK_REFUSED, ERRCODE_FDW_UNABLE_TO_ESTABLISH_CONNECTION,
								 "the TLS certificate of AMQP broker \"%s:%d\" is not accepted",
								 connection->host, connection->port);
		strlcpy(fault->hint, "It has expired, has another host name, or is signed by none of those in \"ssl_ca_file\".",
				sizeof(fault->hint));
	}
	else if (connection->tls && strstr(description, "SSL") != NULL)
		outcome = penstock_fault(fault, PENSTOCK_REFUSED, ERRCODE_FDW_UNABLE_TO_ESTABLISH_CONNECTION,
								 "no TLS connection to AMQP broker \"%s:%d\"", connection->host, connection->port);
	else if (strstr(description, "local-idle-timeout") != NULL)
		return penstock_fault(fault, PENSTOCK_AWAY, ERRCODE_CONNECTION_FAILURE,
							  "AMQP broker \"%s:%d\" has been silent for too long", connection->host, connection->port);
	else if (strstr(description, "mismatch") != NULL)
		outcome = penstock_fault(fault, PENSTOCK_REFUSED, ERRCODE_FDW_UNABLE_TO_ESTABLISH_CONNECTION,
								 "\"%s:%d\" does not speak AMQP 1.0", connection->host, connection->port);
	else
		outcome = penstock_fault(fault, PENSTOCK_AWAY, ERRCODE_CONNECTION_FAILURE,
								 "lost the connection to AMQP broker \"%s:%d\"", connection->host, connection->port);
	strlcpy(fault->detail, description, sizeof(fault->detail));
	penstock_amqp_clean_text(connection, fault->detail);
	return outcome;
}

/*
 * penstock_amqp_dead returns whether nothing more can come or go over the link.
 */
bool
penstock_amqp_dead(AmqpConnection *connection)
{
	if (!connection->driving)
		return true;
	return pn_transport_tail_closed(connection->driver.transport) ||
		pn_transport_head_closed(connection->driver.transport) ||
		pn_condition_is_set(pn_transport_condition(connection->driver.transport)) ||
		(pn_connection_state(connection->driver.connection) & PN_REMOTE_CLOSED) != 0 ||
		(connection->session != NULL && (pn_session_state(connection->session) & PN_REMOTE_CLOSED) != 0) ||
		(connection->link != NULL && (pn_link_state(connection->link) & PN_REMOTE_CLOSED) != 0);
}

/*
 * penstock_amqp_why fills the fault of a dead connection.
 */
PenstockOutcome
penstock_amqp_why(AmqpConnection *connection, PenstockFault *fault)
{
	pn_condition_t *condition;

	if (connection->driving)
	{
		/* what is nearest to the link is the reason, the rest its consequence */
		if (connection->link != NULL && (pn_link_state(connection->link) & PN_REMOTE_CLOSED) != 0)
		{
			condition = pn_link_remote_condition(connection->link);
			if (pn_condition_is_set(condition))
				return penstock_amqp_condition(connection, condition, fault);
			return penstock_fault(fault, PENSTOCK_REFUSED, ERRCODE_FDW_ERROR,
								  "the broker has detached AMQP address \"%s\"", connection->address);
		}
		if (connection->session != NULL &&
			pn_condition_is_set(condition = pn_session_remote_condition(connection->session)))
			return penstock_amqp_condition(connection, condition, fault);
		if (pn_condition_is_set(condition = pn_connection_remote_condition(connection->driver.connection)))
			return penstock_amqp_condition(connection, condition, fault);
		if (pn_condition_is_set(condition = pn_transport_condition(connection->driver.transport)))
			return transport_fault(connection, condition, fault);
	}
	return penstock_fault(fault, PENSTOCK_AWAY, ERRCODE_CONNECTION_FAILURE,
						  "AMQP broker \"%s:%d\" closed the connection", connection->host, connection->port);
}

/* ---- connecting ---- */

/* TLS between socket and AMQP.  Returns false with a fault. */
static bool
set_up_tls(AmqpConnection *connection, PenstockOutcome *outcome, PenstockFault *fault)
{
	const char *ca_file = api()->option(connection->queue, "ssl_ca_file");
	const char *certificate = api()->option(connection->queue, "ssl_cert_file");
	const char *key = api()->option(connection->queue, "ssl_key_file");
	const char *verify = api()->option(connection->queue, "ssl_verify");
	const char *bad = NULL;
	pn_ssl_verify_mode_t mode = strcmp(verify, "full") == 0 ? PN_SSL_VERIFY_PEER_NAME :
		strcmp(verify, "ca") == 0 ? PN_SSL_VERIFY_PEER : PN_SSL_ANONYMOUS_PEER;
	pn_ssl_t   *ssl = pn_ssl(connection->driver.transport);

	connection->tls = true;
	connection->ssl_domain = pn_ssl_domain(PN_SSL_MODE_CLIENT);
	if (connection->ssl_domain == NULL || ssl == NULL)
	{
		*outcome = penstock_fault(fault, PENSTOCK_REFUSED, ERRCODE_FEATURE_NOT_SUPPORTED,
								  "the Proton library was built without TLS");
		return false;
	}
	if (ca_file != NULL && pn_ssl_domain_set_trusted_ca_db(connection->ssl_domain, ca_file) != 0)
		bad = "ssl_ca_file";
	else if (certificate != NULL && key != NULL &&
			 pn_ssl_domain_set_credentials(connection->ssl_domain, certificate, key, NULL) != 0)
		bad = "ssl_cert_file";
	else if (pn_ssl_domain_set_peer_authentication(connection->ssl_domain, mode, NULL) != 0)
		bad = "ssl_verify";
	if (bad != NULL)
	{
		*outcome = penstock_fault(fault, PENSTOCK_REFUSED, ERRCODE_FDW_UNABLE_TO_ESTABLISH_CONNECTION,
								  "could not use option \"%s\" of server \"%s\"", bad, connection->queue->server_name);
		strlcpy(fault->hint, "The files must exist, be readable for the server and hold PEM.", sizeof(fault->hint));
		return false;
	}
	(void) pn_ssl_init(ssl, connection->ssl_domain, NULL);
	(void) pn_ssl_set_peer_hostname(ssl, connection->host);
	return true;
}

static void
set_up_login(AmqpConnection *connection)
{
	const char *mechanism = api()->option(connection->queue, "sasl_mechanism");
	pn_sasl_t  *sasl = pn_sasl(connection->driver.transport);

	if (mechanism == NULL)
		mechanism = connection->username ? "PLAIN" : "ANONYMOUS";
	pn_sasl_allowed_mechs(sasl, mechanism);
	/* PLAIN without TLS: whether that will do is decided by who made the server */
	pn_sasl_set_allow_insecure_mechs(sasl, true);
	if (connection->username != NULL && strcmp(mechanism, "ANONYMOUS") != 0)
		pn_connection_set_user(connection->driver.connection, connection->username);
	if (connection->password != NULL && strcmp(mechanism, "PLAIN") == 0)
		pn_connection_set_password(connection->driver.connection, connection->password);
}

/* Starts the driver over an open socket.  Returns false with a fault. */
static bool
start_driver(AmqpConnection *connection, const char *container, PenstockOutcome *outcome, PenstockFault *fault)
{
	const char *virtual_host = api()->option(connection->queue, "virtual_host");
	pn_connection_driver_t *driver = &connection->driver;

	if (pn_connection_driver_init(driver, NULL, NULL) != 0)
	{
		*outcome = penstock_fault(fault, PENSTOCK_AWAY, ERRCODE_OUT_OF_MEMORY, "out of memory");
		return false;
	}
	connection->driving = true;
	/* what its environment variables would let it write could hold the password */
	pn_transport_trace(driver->transport, PN_TRACE_OFF);
	pn_logger_reset_mask(pn_transport_logger(driver->transport), PN_SUBSYSTEM_ALL, PN_LEVEL_ALL);
	pn_transport_set_max_frame(driver->transport, MAX_FRAME);
	pn_transport_set_idle_timeout(driver->transport, (pn_millis_t) api()->option_int(connection->queue, "idle_timeout"));
	pn_connection_set_container(driver->connection, container);
	pn_connection_set_hostname(driver->connection, virtual_host ? virtual_host : connection->host);
	if (api()->option_bool(connection->queue, "ssl") && !set_up_tls(connection, outcome, fault))
		return false;
	set_up_login(connection);
	pn_connection_open(driver->connection);
	connection->session = pn_session(driver->connection);
	pn_session_open(connection->session);
	return true;
}

/* Waits until the broker has opened its side. */
static bool
wait_until_open(AmqpConnection *connection, int64 until, PenstockOutcome *outcome, PenstockFault *fault)
{
	for (;;)
	{
		while (penstock_amqp_pump(connection))
			continue;
		if (penstock_amqp_dead(connection))
		{
			*outcome = penstock_amqp_why(connection, fault);
			return false;
		}
		if ((pn_connection_state(connection->driver.connection) & PN_REMOTE_ACTIVE) != 0)
			return true;
		if (penstock_amqp_now() >= until)
		{
			*outcome = penstock_fault(fault, PENSTOCK_AWAY, ERRCODE_FDW_UNABLE_TO_ESTABLISH_CONNECTION,
									  "AMQP broker \"%s:%d\" does not answer", connection->host, connection->port);
			return false;
		}
		penstock_amqp_sleep(connection, until - penstock_amqp_now());
	}
}

/*
 * penstock_amqp_connect connects and logs in, within option connect_timeout.  The connection lives in the current context, which drops it
 * when it goes, whatever happens.  Returns NULL with a fault.
 */
AmqpConnection *
penstock_amqp_connect(const PenstockQueue *queue, const char *container, PenstockOutcome *outcome, PenstockFault *fault)
{
	AmqpConnection *connection = palloc0(sizeof(AmqpConnection));
	int			timeout = (int) api()->option_int(queue, "connect_timeout");
	int64		until = penstock_amqp_now() + timeout;

	connection->queue = queue;
	connection->fd = -1;
	connection->host = pstrdup(api()->option(queue, "host"));
	connection->username = api()->option(queue, "username");
	connection->password = api()->option(queue, "password");
	if (api()->option(queue, "port") != NULL)
		connection->port = (int) api()->option_int(queue, "port");
	else
		connection->port = api()->option_bool(queue, "ssl") ? 5671 : 5672;
	connection->cleanup.func = penstock_amqp_drop;
	connection->cleanup.arg = connection;
	MemoryContextRegisterResetCallback(CurrentMemoryContext, &connection->cleanup);

	if (penstock_amqp_open_socket(connection, timeout, outcome, fault) == 0 &&
		start_driver(connection, container, outcome, fault) &&
		wait_until_open(connection, until, outcome, fault))
		return connection;
	penstock_amqp_drop(connection);
	return NULL;
}

/*
 * penstock_amqp_attach opens connection->link, which the caller has made and described, and waits for the broker's answer.
 */
PenstockOutcome
penstock_amqp_attach(AmqpConnection *connection, const char *address, PenstockFault *fault)
{
	pn_link_t  *link = connection->link;
	int64		until = penstock_amqp_now() + api()->option_int(connection->queue, "connect_timeout");

	connection->address = address;
	pn_link_open(link);
	for (;;)
	{
		while (penstock_amqp_pump(connection))
			continue;
		if (penstock_amqp_dead(connection))
			return penstock_amqp_why(connection, fault);
		/* a broker that refuses attaches to nothing, and then detaches with the reason */
		if ((pn_link_state(link) & PN_REMOTE_ACTIVE) != 0 &&
			pn_terminus_get_type(pn_link_is_receiver(link) ? pn_link_remote_source(link) : pn_link_remote_target(link)) !=
			PN_UNSPECIFIED)
			return PENSTOCK_OK;
		if (penstock_amqp_now() >= until)
			return penstock_fault(fault, PENSTOCK_AWAY, ERRCODE_FDW_UNABLE_TO_ESTABLISH_CONNECTION,
								  "AMQP broker \"%s:%d\" does not answer", connection->host, connection->port);
		penstock_amqp_sleep(connection, until - penstock_amqp_now());
	}
}

/*
 * penstock_amqp_wait_for tells what to sleep on until the driver has to be called.
 */
void
penstock_amqp_wait_for(AmqpConnection *connection, PenstockWaitFor *wait)
{
	wait->fd = connection->fd;
	wait->events = WL_SOCKET_READABLE;
	wait->timeout = -1;
	if (!connection->driving)
		return;
	if (pn_connection_driver_write_buffer(&connection->driver).size > 0)
		wait->events |= WL_SOCKET_WRITEABLE;
	if (connection->next_tick > 0)
		wait->timeout = (long) Max(connection->next_tick - penstock_amqp_now(), 0);
}

/*
 * penstock_amqp_close ends the connection.  Orderly: what was settled reaches the broker first, if it takes it within a second.  keep_link:
 * the link is only detached, and what it stands for at the broker (a durable subscription) stays.  Raises no error.
 */
void
penstock_amqp_close(AmqpConnection *connection, bool orderly, bool keep_link)
{
	if (orderly && !penstock_amqp_dead(connection))
	{
		int64		until = penstock_amqp_now() + GOODBYE_TIME;

		if (connection->link != NULL)
		{
			if (keep_link)
				pn_link_detach(connection->link);
			else
				pn_link_close(connection->link);
		}
		pn_session_close(connection->session);
		pn_connection_close(connection->driver.connection);
		/* until the broker closes too: unread bytes would make the kernel drop what is on its way to the broker */
		while (!pn_transport_tail_closed(connection->driver.transport) &&
			   (pn_connection_state(connection->driver.connection) & PN_REMOTE_CLOSED) == 0 &&
			   penstock_amqp_now() < until)
		{
			struct pollfd waiting = {.fd = connection->fd, .events = POLLIN};

			if (penstock_amqp_pump(connection))
				continue;
			if (pn_connection_driver_write_buffer(&connection->driver).size > 0)
				waiting.events |= POLLOUT;
			(void) poll(&waiting, 1, (int) Max(until - penstock_amqp_now(), 1));
		}
	}
	penstock_amqp_drop(connection);
}
