/*
 * amqp_tool.c
 *	  A small AMQP 1.0 client for tests and benchmarks: amqp_tool HOST PORT USER PASSWORD COMMAND ADDRESS ...
 *
 *	send ADDRESS FROM TO [id] [pad=BYTES] [rate=N]	messages {"n": FROM} ... {"n": TO}; id: their numbers are their message ids.
 *							Comes back after a lost connection and sends again what was not accepted.
 *	raw ADDRESS [COUNT]		encoded messages, one a line in hex digits, from standard input
 *	receive ADDRESS COUNT	accepts messages and prints payloads that are data or strings (COUNT 0: until there are no more)
 *	accept ADDRESS COUNT	accepts messages and prints nothing but how many, the seconds from connecting to the last, and those
 *							of CPU time
 *	drop ADDRESS			accepts all there are
 * Addresses that begin with "topic." are topics, all others queues.  USER "" logs in as ANONYMOUS.  Exits with 1 and a line on standard error when something fails.
 */
#include <errno.h>
#include <netinet/in.h>
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <proton/condition.h>
#include <proton/connection.h>
#include <proton/connection_driver.h>
#include <proton/delivery.h>
#include <proton/disposition.h>
#include <proton/link.h>
#include <proton/message.h>
#include <proton/sasl.h>
#include <proton/session.h>
#include <proton/terminus.h>
#include <proton/transport.h>

#define CREDIT 10000
#define WINDOW 2000

static const char *host, *port, *user, *password, *address;
static pn_connection_driver_t driver;
static pn_session_t *session;
static pn_link_t *link_;
static int	fd = -1;
static int64_t outstanding;
static int64_t accepted;
static char *done;				/* by number: the broker has it */
static int64_t base;

static double
now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

static void
fail(const char *what, const char *why)
{
	fprintf(stderr, "amqp_tool: %s: %s\n", what, why ? why : "");
	exit(1);
}

/* Connects; false if nobody is there. */
static bool
connect_to(void)
{
	struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(atoi(port))};
	pn_sasl_t  *sasl;
	int			on = 1;

	inet_pton(AF_INET, host, &to.sin_addr);
	fd = socket(AF_INET, SOCK_STREAM, 0);
	if (connect(fd, (struct sockaddr *) &to, sizeof(to)) != 0)
	{
		close(fd);
		return false;
	}
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	if (pn_connection_driver_init(&driver, NULL, NULL) != 0)
		fail("driver", "no memory");
	sasl = pn_sasl(driver.transport);
	pn_sasl_set_allow_insecure_mechs(sasl, true);
	pn_sasl_allowed_mechs(sasl, *user ? "PLAIN" : "ANONYMOUS");
	if (*user)
	{
		pn_connection_set_user(driver.connection, user);
		pn_connection_set_password(driver.connection, password);
	}
	pn_connection_set_container(driver.connection, "amqp_tool");
	pn_connection_set_hostname(driver.connection, host);
	pn_connection_open(driver.connection);
	session = pn_session(driver.connection);
	pn_session_open(session);
	return true;
}

static void
disconnect(void)
{
	pn_connection_driver_destroy(&driver);
	close(fd);
	fd = -1;
}

/*
 * Artemis that has just been started, or is about to end, may refuse messages because it cannot validate the user: what is sent by number is
 * then sent again, after a pause.
 */
#define MOST_REFUSALS 100000
static int	refusals;
static bool refused;

static void
on_delivery(pn_delivery_t *delivery)
{
	if (!pn_link_is_sender(pn_delivery_link(delivery)) || !pn_delivery_updated(delivery))
		return;
	if (pn_delivery_remote_state(delivery) == PN_ACCEPTED)
	{
		accepted++;
		if (done)
			done[(int64_t) (intptr_t) pn_delivery_get_context(delivery) - base] = 1;
	}
	else if (done == NULL || ++refusals > MOST_REFUSALS)
		fail("the broker did not accept a message",
			 pn_condition_get_description(pn_disposition_condition(pn_delivery_remote(delivery))));
	else
		refused = true;
	pn_delivery_settle(delivery);
	outstanding--;
}

static void
events(void)
{
	pn_event_t *event;

	while ((event = pn_connection_driver_next_event(&driver)) != NULL)
	{
		pn_condition_t *condition = NULL;

		if (pn_event_type(event) == PN_DELIVERY)
			on_delivery(pn_event_delivery(event));
		if (pn_event_type(event) == PN_LINK_REMOTE_CLOSE)
			condition = pn_link_remote_condition(pn_event_link(event));
		if (condition != NULL && pn_condition_is_set(condition))
			fail(pn_condition_get_name(condition), pn_condition_get_description(condition));
	}
}

/* Moves bytes; waits for the broker if wait.  False: the connection is gone. */
static bool
pump(bool wait)
{
	pn_bytes_t	out;
	struct pollfd p = {.fd = fd, .events = POLLIN};

	events();
	while ((out = pn_connection_driver_write_buffer(&driver)).size > 0)
	{
		ssize_t		n = send(fd, out.start, out.size, MSG_NOSIGNAL);

		if (n <= 0)
			return false;
		pn_connection_driver_write_done(&driver, n);
		events();
	}
	if (poll(&p, 1, wait ? 10000 : 0) > 0)
	{
		pn_rwbytes_t in = pn_connection_driver_read_buffer_sized(&driver, 65536);
		ssize_t		n;

		if (in.size == 0)
			in = pn_connection_driver_read_buffer(&driver);
		n = recv(fd, in.start, in.size, 0);

		if (n <= 0)
			return false;
		pn_connection_driver_read_done(&driver, n);
		events();
	}
	if (pn_condition_is_set(pn_transport_condition(driver.transport)))
		fail("connection", pn_condition_get_description(pn_transport_condition(driver.transport)));
	pn_transport_tick(driver.transport, (int64_t) (now() * 1000));
	return !pn_transport_closed(driver.transport);
}

static void
goodbye(void)
{
	pn_connection_close(driver.connection);
	while (pump(true) && !(pn_connection_state(driver.connection) & PN_REMOTE_CLOSED))
		;
	disconnect();
}

/* Some brokers take an address for a topic if they are not told. */
static void
set_capability(pn_terminus_t *terminus)
{
	const char *capability = strncmp(address, "topic.", 6) == 0 ? "topic" : "queue";

	pn_data_put_symbol(pn_terminus_capabilities(terminus), pn_bytes(strlen(capability), capability));
}

static void
open_sender(void)
{
	link_ = pn_sender(session, "amqp_tool_sender");
	pn_terminus_set_address(pn_link_target(link_), address);
	set_capability(pn_link_target(link_));
	pn_link_open(link_);
}

static void
open_receiver(void)
{
	link_ = pn_receiver(session, "amqp_tool_receiver");
	pn_terminus_set_address(pn_link_source(link_), address);
	set_capability(pn_link_source(link_));
	pn_link_open(link_);
}

static void
transmit(const char *bytes, size_t size, int64_t number)
{
	pn_delivery_t *delivery = pn_delivery(link_, pn_dtag((char *) &number, sizeof(number)));

	pn_delivery_set_context(delivery, (void *) (intptr_t) number);
	pn_link_send(link_, bytes, size);
	pn_link_advance(link_);
	outstanding++;
}

static size_t
encode(char *buffer, size_t room, int64_t number, bool id, int pad)
{
	static pn_message_t *message;
	static char body[1 << 20];
	char		name[32];
	int			n;

	if (message == NULL)
		message = pn_message();
	pn_message_clear(message);
	pn_message_set_durable(message, true);
	n = snprintf(body, sizeof(body), "{\"n\": %lld, \"pad\": \"", (long long) number);
	memset(body + n, 'x', pad);
	n += pad;
	memcpy(body + n, "\"}", 2);
	n += 2;
	pn_message_set_inferred(message, true);
	pn_data_put_binary(pn_message_body(message), pn_bytes(n, body));
	if (id)
	{
		pn_msgid_t	value = {.type = PN_STRING};

		value.u.as_bytes = pn_bytes(snprintf(name, sizeof(name), "%lld", (long long) number), name);
		pn_message_set_id(message, value);
	}
	if (pn_message_encode(message, buffer, &room) != 0)
		fail("encode", "");
	return room;
}

static void
send_numbers(int64_t from, int64_t to, bool id, int pad, double rate)
{
	static char buffer[(1 << 20) + 1000];
	double		start = now();

	base = from;
	done = calloc(to - from + 1, 1);
	while (accepted < to - from + 1)
	{
		bool		alive;

		if (refused)
			poll(NULL, 0, 200);
		outstanding = 0;
		refused = false;
		alive = connect_to();
		if (!alive)
		{
			poll(NULL, 0, 50);
			continue;
		}
		open_sender();
		for (int64_t i = from; alive && !refused && i <= to;)
		{
			if (done[i - from])
				i++;
			else if (rate > 0 && (i - from) > (now() - start) * rate)
			{
				alive = pump(false);
				poll(NULL, 0, 5);
			}
			else if (pn_link_credit(link_) > 0 && outstanding < WINDOW)
			{
				transmit(buffer, encode(buffer, sizeof(buffer), i, id, pad), i);
				i++;
				if (i % 100 == 0)
					alive = pump(false);
			}
			else
				alive = pump(true);
		}
		while (alive && outstanding > 0)
			alive = pump(true);
		if (alive)
			goodbye();
		else
			disconnect();
	}
}

static void
send_raw(int64_t count)
{
	char	   *line = NULL;
	size_t		room = 0;
	ssize_t		length;

	if (!connect_to())
		fail("connect", strerror(errno));
	open_sender();
	while ((length = getline(&line, &room, stdin)) > 0)
	{
		size_t		size = 0;

		for (ssize_t i = 0; i + 1 < length; i += 2)
		{
			char		byte[3] = {line[i], line[i + 1], 0};

			line[size++] = (char) strtol(byte, NULL, 16);
		}
		for (int64_t i = 0; i < count; i++)
		{
			while (pn_link_credit(link_) <= 0)
				if (!pump(true))
					fail("connection", "lost");
			transmit(line, size, i);
		}
	}
	while (outstanding > 0)
		if (!pump(true))
			fail("connection", "lost");
	goodbye();
}

static void
print_body(const char *bytes, size_t size)
{
	static pn_message_t *message;
	pn_data_t  *body;

	if (message == NULL)
		message = pn_message();
	pn_message_decode(message, bytes, size);
	body = pn_message_body(message);
	pn_data_rewind(body);
	if (pn_data_next(body) && (pn_data_type(body) == PN_BINARY || pn_data_type(body) == PN_STRING))
	{
		pn_bytes_t	text = pn_data_get_bytes(body);

		printf("%.*s\n", (int) text.size, text.start);
	}
	else
		printf("\n");
}

/* Returns how many. */
static int64_t
receive(int64_t count, bool print, bool timing)
{
	static char buffer[16 << 20];
	int64_t		got = 0;
	bool		drain = count == 0;
	int			empty = 0;
	double		start = now();

	if (!connect_to())
		fail("connect", strerror(errno));
	open_receiver();
	if (drain)
		pn_link_drain(link_, CREDIT);
	else
		pn_link_flow(link_, CREDIT);
	for (int64_t in_round = 0;;)
	{
		pn_delivery_t *delivery;

		while ((delivery = pn_link_current(link_)) != NULL && !pn_delivery_partial(delivery))
		{
			size_t		size = pn_delivery_pending(delivery);

			if (size > sizeof(buffer))
				fail("receive", "too large");
			pn_link_recv(link_, buffer, size);
			pn_link_advance(link_);
			if (print)
				print_body(buffer, size);
			pn_delivery_update(delivery, PN_ACCEPTED);
			pn_delivery_settle(delivery);
			got++;
			in_round++;
			if (got == count)
				break;
		}
		if (got == count && !drain)
			break;
		if (!drain && pn_link_credit(link_) < CREDIT / 2)
			pn_link_flow(link_, CREDIT - pn_link_credit(link_));
		if (drain && (pn_link_state(link_) & PN_REMOTE_ACTIVE) && !pn_link_draining(link_))
		{
			/* Artemis says that it is drained after a thousand or so */
			empty = in_round > 0 ? 0 : empty + 1;
			if (empty == 2)
				break;
			in_round = 0;
			pn_link_drain(link_, CREDIT);
		}
		if (!pump(true))
			fail("connection", "lost");
	}
	if (timing)
		printf("%lld %.6f %.6f\n", (long long) got, now() - start, (double) clock() / CLOCKS_PER_SEC);
	goodbye();
	return got;
}

int
main(int argc, char **argv)
{
	const char *command;

	if (argc < 7)
		fail("usage", "amqp_tool HOST PORT USER PASSWORD COMMAND ADDRESS ...");
	host = argv[1];
	port = argv[2];
	user = argv[3];
	password = argv[4];
	command = argv[5];
	address = argv[6];
	if (strcmp(command, "send") == 0 && argc >= 9)
	{
		bool		id = false;
		int			pad = 0;
		double		rate = 0;

		for (int i = 9; i < argc; i++)
		{
			id = id || strcmp(argv[i], "id") == 0;
			sscanf(argv[i], "pad=%d", &pad);
			sscanf(argv[i], "rate=%lf", &rate);
		}
		send_numbers(atoll(argv[7]), atoll(argv[8]), id, pad, rate);
	}
	else if (strcmp(command, "raw") == 0)
		send_raw(argc > 7 ? atoll(argv[7]) : 1);
	else if (strcmp(command, "receive") == 0 && argc == 8)
		receive(atoll(argv[7]), true, false);
	else if (strcmp(command, "accept") == 0 && argc == 8)
		receive(atoll(argv[7]), false, true);
	else if (strcmp(command, "drop") == 0)
		printf("%lld\n", (long long) receive(0, false, false));
	else
		fail("usage", command);
	return 0;
}
