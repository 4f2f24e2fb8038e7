/*
 * amqp_socket.c
 *	  The socket under Proton's connection driver: opened, read, written and waited for without ever blocking.
 */
#include "postgres.h"

#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <proton/condition.h>
#include <proton/ssl.h>
#include <proton/transport.h>

#include "miscadmin.h"
#include "pgstat.h"
#include "storage/fd.h"
#include "storage/latch.h"

#include "connector/amqp/amqp.h"

/* What is read at once, and so what Proton holds beyond one message. */
#define READ_SIZE (64 * 1024)

/*
 * penstock_amqp_now returns ms of a clock that only goes forward.
 */
int64
penstock_amqp_now(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64) now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* Sleeps until the socket is ready, something interrupts the process, or ms have passed.  Interrupts end it by an error. */
static void
sleep_on(int fd, int events, long ms)
{
	int			got = WaitLatchOrSocket(MyLatch, events | WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
										fd, Max(ms, 0), PG_WAIT_EXTENSION);

	/*
	 * The latch is the worker's and stays set for it; so that this does not spin meanwhile, a set latch counts as
	 * one look at the socket in a while.
	 */
	CHECK_FOR_INTERRUPTS();
	if ((got & WL_LATCH_SET) && !(got & (WL_SOCKET_READABLE | WL_SOCKET_WRITEABLE)))
		(void) WaitLatchOrSocket(NULL, events | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, fd, Min(Max(ms, 0), 50),
								 PG_WAIT_EXTENSION);
}

/* Connects a new socket to one address.  Returns 0 or an errno. */
static int
try_address(AmqpConnection *connection, const struct addrinfo *address, int64 until)
{
	int			on = 1;
	int			error = 0;
	socklen_t	length = sizeof(error);

	connection->fd = socket(address->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (connection->fd < 0)
		return errno;
	(void) setsockopt(connection->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	(void) setsockopt(connection->fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));

	if (connect(connection->fd, address->ai_addr, address->ai_addrlen) == 0)
		return 0;
	if (errno != EINPROGRESS)
		return errno;
	for (;;)
	{
		struct sockaddr_storage peer;
		socklen_t	peer_length = sizeof(peer);

		if (penstock_amqp_now() >= until)
			return ETIMEDOUT;
		sleep_on(connection->fd, WL_SOCKET_WRITEABLE, until - penstock_amqp_now());
		if (getsockopt(connection->fd, SOL_SOCKET, SO_ERROR, &error, &length) != 0)
			return errno;
		if (error != 0)
			return error;
		if (getpeername(connection->fd, (struct sockaddr *) &peer, &peer_length) == 0)
			return 0;
	}
}

/*
 * penstock_amqp_open_socket connects connection->fd to host and port.  Returns 0, or -1 with a fault.
 */
int
penstock_amqp_open_socket(AmqpConnection *connection, int timeout, PenstockOutcome *outcome, PenstockFault *fault)
{
	struct addrinfo hints = {.ai_socktype = SOCK_STREAM};
	struct addrinfo *found;
	struct addrinfo copies[8];
	struct sockaddr_storage addresses[8];
	char		port[16];
	int			ncopies = 0;
	int			error;
	int64		until = penstock_amqp_now() + timeout;

	snprintf(port, sizeof(port), "%d", connection->port);
	error = getaddrinfo(connection->host, port, &hints, &found);
	if (error != 0)
	{
		*outcome = penstock_fault(fault, PENSTOCK_AWAY, ERRCODE_FDW_UNABLE_TO_ESTABLISH_CONNECTION,
								  "could not find AMQP broker \"%s\": %s", connection->host, gai_strerror(error));
		return -1;
	}
	/* waiting may end in an error: keep what is needed on the stack */
	for (struct addrinfo *one = found; one != NULL && ncopies < lengthof(copies); one = one->ai_next)
	{
		if (one->ai_addrlen > sizeof(addresses[0]))
			continue;
		copies[ncopies] = *one;
		memcpy(&addresses[ncopies], one->ai_addr, one->ai_addrlen);
		copies[ncopies].ai_addr = (struct sockaddr *) &addresses[ncopies];
		ncopies++;
	}
	freeaddrinfo(found);

	if (!AcquireExternalFD())
	{
		*outcome = penstock_fault(fault, PENSTOCK_AWAY, ERRCODE_INSUFFICIENT_RESOURCES,
								  "could not connect to AMQP broker \"%s:%d\": too many open files",
								  connection->host, connection->port);
		return -1;
	}
	connection->fd_counted = true;

	error = EADDRNOTAVAIL;
	for (int i = 0; i < ncopies; i++)
	{
		error = try_address(connection, &copies[i], until);
		if (error == 0)
			return 0;
		if (connection->fd >= 0)
			close(connection->fd);
		connection->fd = -1;
	}
	errno = error;
	*outcome = penstock_fault(fault, PENSTOCK_AWAY, ERRCODE_FDW_UNABLE_TO_ESTABLISH_CONNECTION,
							  "could not connect to AMQP broker \"%s:%d\": %s",
							  connection->host, connection->port, strerror(error));
	return -1;
}

/*
 * penstock_amqp_push writes what the driver has for the broker, as much as the socket takes.
 */
void
penstock_amqp_push(AmqpConnection *connection)
{
	pn_connection_driver_t *driver = &connection->driver;

	for (;;)
	{
		pn_bytes_t	bytes = pn_connection_driver_write_buffer(driver);
		ssize_t		sent;

		if (bytes.size == 0)
			return;
		sent = send(connection->fd, bytes.start, bytes.size, MSG_NOSIGNAL);
		if (sent > 0)
			(void) pn_connection_driver_write_done(driver, sent);
		else if (sent < 0 && errno == EINTR)
			continue;
		else if (sent < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
			return;
		else
		{
			pn_connection_driver_errorf(driver, "proton:io", "%s", strerror(errno));
			pn_connection_driver_close(driver);
			return;
		}
	}
}

/* Reads once what the socket has.  Returns whether there was something. */
static bool
pull(AmqpConnection *connection)
{
	pn_connection_driver_t *driver = &connection->driver;
	pn_rwbytes_t buffer = pn_connection_driver_read_buffer_sized(driver, READ_SIZE);
	ssize_t		got;

	connection->last_read = penstock_amqp_now();
	/* full of a frame that is not whole yet: the sized call does not look beyond the size, this one makes room */
	if (buffer.size == 0)
		buffer = pn_connection_driver_read_buffer(driver);
	if (buffer.size == 0)
		return false;
	do
		got = recv(connection->fd, buffer.start, buffer.size, 0);
	while (got < 0 && errno == EINTR);
	if (got > 0)
	{
		pn_connection_driver_read_done(driver, got);
		return true;
	}
	if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
		return false;
	if (got < 0)
		pn_connection_driver_errorf(driver, "proton:io", "%s", strerror(errno));
	pn_connection_driver_read_close(driver);
	return false;
}

static void
handle_events(AmqpConnection *connection)
{
	pn_event_t *event;

	while ((event = pn_connection_driver_next_event(&connection->driver)) != NULL)
		if (pn_event_type(event) == PN_DELIVERY && connection->on_delivery != NULL)
			connection->on_delivery(connection->on_delivery_arg, pn_event_delivery(event));
}

/*
 * penstock_amqp_pump reads once, lets the driver think and keep its heartbeats, and writes.  Does not wait.  Returns whether there was
 * something to read.
 */
bool
penstock_amqp_pump(AmqpConnection *connection)
{
	bool		got;

	handle_events(connection);
	got = pull(connection);
	handle_events(connection);
	/* after reading: a process that was busy has not missed what is in the socket */
	connection->next_tick = pn_transport_tick(connection->driver.transport, connection->last_read);
	handle_events(connection);
	penstock_amqp_push(connection);
	handle_events(connection);
	return got;
}

/*
 * penstock_amqp_sleep sleeps until the broker has something to say, takes output, or timeout ms have passed.  Raises an error
 * when the process is interrupted.
 */
void
penstock_amqp_sleep(AmqpConnection *connection, long timeout)
{
	PenstockWaitFor wait;

	penstock_amqp_wait_for(connection, &wait);
	if (wait.timeout >= 0 && wait.timeout < timeout)
		timeout = wait.timeout;
	sleep_on(wait.fd, wait.events, timeout);
}

/*
 * penstock_amqp_drop gives back all that the connection holds, at once: callback of its memory context.
 */
void
penstock_amqp_drop(void *arg)
{
	AmqpConnection *connection = arg;

	if (connection->driving)
		pn_connection_driver_destroy(&connection->driver);
	connection->driving = false;
	connection->session = NULL;
	connection->link = NULL;
	if (connection->ssl_domain != NULL)
		pn_ssl_domain_free(connection->ssl_domain);
	connection->ssl_domain = NULL;
	if (connection->fd >= 0)
		close(connection->fd);
	connection->fd = -1;
	if (connection->fd_counted)
		ReleaseExternalFD();
	connection->fd_counted = false;
}
