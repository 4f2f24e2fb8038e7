/*
 * rabbitmq_tool.c
 *	  A small client of RabbitMQ for tests and for the bench, that knows nothing of Penstock.
 *
 *	rabbitmq_tool PORT USER PASSWORD COMMAND ...
 *		declare QUEUE classic|quorum|stream [ARGUMENT=VALUE ...]
 *		delete QUEUE
 *		count QUEUE							messages that wait in it
 *		exchange NAME TYPE [QUEUE KEY]		declares it, and binds the queue
 *		publish EXCHANGE KEY FROM TO [BYTES [id]]	numbered messages, until all are confirmed; comes back after failures
 *		sample EXCHANGE KEY					one message with all properties
 *		deep EXCHANGE KEY DEPTH				one message with a header of nested arrays
 *		get QUEUE							takes all messages, and prints them
 *		dump STREAM LAST					prints offset and number of all messages up to the number LAST
 *		consume QUEUE COUNT PREFETCH		acknowledges, as fast as it goes; prints messages and CPU seconds
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/time.h>
#include <unistd.h>

#if __has_include(<rabbitmq-c/amqp.h>)
#include <rabbitmq-c/amqp.h>
#include <rabbitmq-c/framing.h>
#include <rabbitmq-c/tcp_socket.h>
#else
#include <amqp.h>
#include <amqp_framing.h>
#include <amqp_tcp_socket.h>
#endif

#define WINDOW 2000

static const char *port, *user, *password;
static amqp_connection_state_t conn;

static int
connected(void)
{
	struct timeval timeout = {10, 0};
	amqp_socket_t *socket;

	if (conn != NULL)
		amqp_destroy_connection(conn);
	conn = amqp_new_connection();
	socket = amqp_tcp_socket_new(conn);
	if (amqp_socket_open_noblock(socket, "127.0.0.1", atoi(port), &timeout) != 0)
		return 0;
	amqp_set_handshake_timeout(conn, &timeout);
	amqp_set_rpc_timeout(conn, &timeout);
	if (amqp_login(conn, "/", 0, 131072, 0, AMQP_SASL_METHOD_PLAIN, user, password).reply_type != AMQP_RESPONSE_NORMAL)
		return 0;
	amqp_channel_open(conn, 1);
	return amqp_get_rpc_reply(conn).reply_type == AMQP_RESPONSE_NORMAL;
}

static void
check(const char *what)
{
	amqp_rpc_reply_t reply = amqp_get_rpc_reply(conn);

	if (reply.reply_type == AMQP_RESPONSE_NORMAL)
		return;
	if (reply.reply_type == AMQP_RESPONSE_SERVER_EXCEPTION && reply.reply.id == AMQP_CHANNEL_CLOSE_METHOD)
	{
		amqp_channel_close_t *close = reply.reply.decoded;

		fprintf(stderr, "%s: %d %.*s\n", what, close->reply_code, (int) close->reply_text.len, (char *) close->reply_text.bytes);
	}
	else
		fprintf(stderr, "%s: %s\n", what, amqp_error_string2(reply.library_error));
	exit(1);
}

static amqp_bytes_t
text(const char *s)
{
	return amqp_cstring_bytes(s);
}

static void
declare(int argc, char **argv)
{
	amqp_table_entry_t entries[16];
	amqp_table_t arguments = {1, entries};

	entries[0].key = text("x-queue-type");
	entries[0].value.kind = AMQP_FIELD_KIND_UTF8;
	entries[0].value.value.bytes = text(argv[1]);
	for (int i = 2; i < argc && i < 16; i++)
	{
		char	   *value = strchr(argv[i], '=');
		amqp_table_entry_t *entry = &entries[arguments.num_entries++];

		*value++ = '\0';
		entry->key = text(argv[i]);
		entry->value.kind = strspn(value, "0123456789") == strlen(value) ? AMQP_FIELD_KIND_I64 : AMQP_FIELD_KIND_UTF8;
		if (entry->value.kind == AMQP_FIELD_KIND_I64)
			entry->value.value.i64 = atoll(value);
		else
			entry->value.value.bytes = text(value);
	}
	amqp_queue_declare(conn, 1, text(argv[0]), 0, 1, 0, 0, arguments);
	check("declare");
}

/* Numbered messages; after a failure those without a confirm are sent again. */
static void
publish(int argc, char **argv)
{
	long		first = atol(argv[2]), last = atol(argv[3]), confirmed = first - 1;
	int			bytes = argc > 4 ? atoi(argv[4]) : 0, with_id = argc > 5;
	char	   *body = malloc(bytes + 100), id[32];
	int			tries = 0;

	while (confirmed < last)
	{
		long		base = confirmed, next = confirmed + 1, at;
		static char done[WINDOW];

		if (tries++ > 0 && !connected())
		{
			if (tries > 1200)
				exit(1);
			usleep(100000);
			continue;
		}
		/* the limit is for one absence of the broker */
		tries = 1;
		amqp_confirm_select(conn, 1);
		if (amqp_get_rpc_reply(conn).reply_type != AMQP_RESPONSE_NORMAL)
			continue;
		memset(done, 0, sizeof(done));
		while (confirmed < last)
		{
			amqp_frame_t frame;
			amqp_basic_properties_t properties = {0};
			int			length;

			if (next <= last && next - confirmed < WINDOW)
			{
				length = sprintf(body, "{\"n\": %ld, \"pad\": \"", next);
				while (length < bytes - 2)
					body[length++] = 'x';
				length += sprintf(body + length, "\"}");
				properties._flags = AMQP_BASIC_DELIVERY_MODE_FLAG;
				properties.delivery_mode = 2;
				if (with_id)
				{
					sprintf(id, "m%ld", next);
					properties._flags |= AMQP_BASIC_MESSAGE_ID_FLAG;
					properties.message_id = text(id);
				}
				if (amqp_basic_publish(conn, 1, text(argv[0]), text(argv[1]), 1, 0, &properties,
									   (amqp_bytes_t) {length, body}) != 0)
					break;
				next++;
				continue;
			}
			if (amqp_simple_wait_frame(conn, &frame) != 0)
				break;
			if (frame.frame_type == AMQP_FRAME_METHOD && frame.payload.method.id == AMQP_BASIC_ACK_METHOD)
			{
				amqp_basic_ack_t *ack = frame.payload.method.decoded;

				at = base + (long) ack->delivery_tag;
				for (long i = ack->multiple ? confirmed + 1 : at; i <= at; i++)
					done[i % WINDOW] = 1;
				while (confirmed < next - 1 && done[(confirmed + 1) % WINDOW])
					done[++confirmed % WINDOW] = 0;
			}
			else
			{
				/* also what came back: a queue that is not there yet after a restart */
				usleep(50000);
				break;
			}
			amqp_maybe_release_buffers(conn);
		}
	}
}

static void
sample(char **argv)
{
	amqp_basic_properties_t p = {0};
	amqp_table_entry_t inner[2], headers[6];
	amqp_field_value_t list[2];

	inner[0] = (amqp_table_entry_t) {text("a\"b"), {AMQP_FIELD_KIND_I32, .value.i32 = -7}};
	inner[1] = (amqp_table_entry_t) {text("list"), {AMQP_FIELD_KIND_ARRAY, .value.array = {2, list}}};
	list[0] = (amqp_field_value_t) {AMQP_FIELD_KIND_BOOLEAN, .value.boolean = 1};
	list[1] = (amqp_field_value_t) {AMQP_FIELD_KIND_VOID, .value.boolean = 0};
	headers[0] = (amqp_table_entry_t) {text("word"), {AMQP_FIELD_KIND_UTF8, .value.bytes = text("gr\303\274n")}};
	headers[1] = (amqp_table_entry_t) {text("nested"), {AMQP_FIELD_KIND_TABLE, .value.table = {2, inner}}};
	headers[2] = (amqp_table_entry_t) {text("number"), {AMQP_FIELD_KIND_I64, .value.i64 = 12345678901}};
	headers[3] = (amqp_table_entry_t) {text("none"), {AMQP_FIELD_KIND_VOID, .value.boolean = 0}};
	headers[4] = (amqp_table_entry_t) {text("when"), {AMQP_FIELD_KIND_TIMESTAMP, .value.u64 = 1700000000}};
	headers[5] = (amqp_table_entry_t) {text("price"), {AMQP_FIELD_KIND_DECIMAL, .value.decimal = {2, 1999}}};
	p._flags = AMQP_BASIC_CONTENT_TYPE_FLAG | AMQP_BASIC_CONTENT_ENCODING_FLAG | AMQP_BASIC_HEADERS_FLAG |
		AMQP_BASIC_DELIVERY_MODE_FLAG | AMQP_BASIC_PRIORITY_FLAG | AMQP_BASIC_CORRELATION_ID_FLAG |
		AMQP_BASIC_REPLY_TO_FLAG | AMQP_BASIC_EXPIRATION_FLAG | AMQP_BASIC_MESSAGE_ID_FLAG |
		AMQP_BASIC_TIMESTAMP_FLAG | AMQP_BASIC_TYPE_FLAG | AMQP_BASIC_USER_ID_FLAG | AMQP_BASIC_APP_ID_FLAG;
	p.content_type = text("application/json");
	p.content_encoding = text("identity");
	p.headers = (amqp_table_t) {6, headers};
	p.delivery_mode = 1;
	p.priority = 3;
	p.correlation_id = text("corr-1");
	p.reply_to = text("answers");
	p.expiration = text("3600000");
	p.message_id = text("id-1");
	p.timestamp = 1700000000;
	p.type = text("order");
	p.user_id = text(user);
	p.app_id = text("shop");
	amqp_basic_publish(conn, 1, text(argv[0]), text(argv[1]), 0, 0, &p, text("{\"n\": 1}"));
}

static void
deep(char **argv)
{
	int			depth = atoi(argv[2]);
	amqp_field_value_t *levels = calloc(depth + 1, sizeof(*levels));
	amqp_table_entry_t header;
	amqp_basic_properties_t p = {0};

	for (int i = 0; i < depth; i++)
	{
		levels[i].kind = AMQP_FIELD_KIND_ARRAY;
		levels[i].value.array.num_entries = i + 1 < depth;
		levels[i].value.array.entries = &levels[i + 1];
	}
	header = (amqp_table_entry_t) {text("deep"), levels[0]};
	p._flags = AMQP_BASIC_HEADERS_FLAG;
	p.headers = (amqp_table_t) {1, &header};
	if (amqp_basic_publish(conn, 1, text(argv[0]), text(argv[1]), 0, 0, &p, text("{\"n\": 1}")) != 0)
		exit(1);
}

static void
put(const char *name, amqp_bytes_t value, int given)
{
	if (given)
		printf(" %s=%.*s", name, (int) value.len, (char *) value.bytes);
}

static void
get(char **argv)
{
	for (;;)
	{
		amqp_rpc_reply_t reply = amqp_basic_get(conn, 1, text(argv[0]), 1);
		amqp_basic_get_ok_t *ok = reply.reply.decoded;
		amqp_message_t message;
		amqp_basic_properties_t *p = &message.properties;

		if (reply.reply_type != AMQP_RESPONSE_NORMAL)
			exit(1);
		if (reply.reply.id != AMQP_BASIC_GET_OK_METHOD)
			return;
		printf("%.*s", (int) ok->routing_key.len, (char *) ok->routing_key.bytes);
		amqp_read_message(conn, 1, &message, 0);
		put("id", p->message_id, p->_flags & AMQP_BASIC_MESSAGE_ID_FLAG);
		put("type", p->type, p->_flags & AMQP_BASIC_TYPE_FLAG);
		put("content_type", p->content_type, p->_flags & AMQP_BASIC_CONTENT_TYPE_FLAG);
		put("correlation_id", p->correlation_id, p->_flags & AMQP_BASIC_CORRELATION_ID_FLAG);
		if (p->_flags & AMQP_BASIC_PRIORITY_FLAG)
			printf(" priority=%d", p->priority);
		if (p->_flags & AMQP_BASIC_DELIVERY_MODE_FLAG)
			printf(" delivery_mode=%d", p->delivery_mode);
		if (p->_flags & AMQP_BASIC_TIMESTAMP_FLAG)
			printf(" timestamp=%ld", (long) p->timestamp);
		for (int i = 0; (p->_flags & AMQP_BASIC_HEADERS_FLAG) && i < p->headers.num_entries; i++)
			printf(" %.*s:%.*s", (int) p->headers.entries[i].key.len, (char *) p->headers.entries[i].key.bytes,
				   p->headers.entries[i].value.kind == AMQP_FIELD_KIND_UTF8 ? (int) p->headers.entries[i].value.value.bytes.len : 0,
				   (char *) p->headers.entries[i].value.value.bytes.bytes);
		printf(" %.*s\n", (int) message.body.len, (char *) message.body.bytes);
		amqp_destroy_message(&message);
		amqp_maybe_release_buffers(conn);
	}
}

static void
dump(char **argv)
{
	long		last = atol(argv[1]), n = -1;
	amqp_table_entry_t entry = {text("x-stream-offset"), {AMQP_FIELD_KIND_UTF8, .value.bytes = text("first")}};
	struct timeval patience = {30, 0};

	amqp_basic_qos(conn, 1, 0, 1000, 0);
	amqp_basic_consume(conn, 1, text(argv[0]), text("dump"), 0, 0, 0, (amqp_table_t) {1, &entry});
	check("consume");
	while (n != last)
	{
		amqp_envelope_t envelope;
		long long	offset = -1;

		if (amqp_consume_message(conn, &envelope, &patience, 0).reply_type != AMQP_RESPONSE_NORMAL)
			exit(1);
		for (int i = 0; i < envelope.message.properties.headers.num_entries; i++)
			if (envelope.message.properties.headers.entries[i].value.kind == AMQP_FIELD_KIND_I64)
				offset = envelope.message.properties.headers.entries[i].value.value.i64;
		sscanf(envelope.message.body.bytes, "{\"n\": %ld", &n);
		printf("%lld|%ld\n", offset, n);
		amqp_basic_ack(conn, 1, envelope.delivery_tag, 0);
		amqp_destroy_envelope(&envelope);
		amqp_maybe_release_buffers(conn);
	}
}

static void
consume(char **argv)
{
	long		count = atol(argv[1]), n = 0;
	int			prefetch = atoi(argv[2]);
	struct timeval begin, end;
	struct rusage usage;

	amqp_basic_qos(conn, 1, 0, prefetch, 0);
	gettimeofday(&begin, NULL);
	amqp_basic_consume(conn, 1, text(argv[0]), text("bare"), 0, 0, 0, amqp_empty_table);
	check("consume");
	while (n < count)
	{
		amqp_envelope_t envelope;

		if (amqp_consume_message(conn, &envelope, NULL, 0).reply_type != AMQP_RESPONSE_NORMAL)
			exit(1);
		if (++n % (prefetch > 1 ? prefetch / 2 : 1) == 0 || n == count)
			amqp_basic_ack(conn, 1, envelope.delivery_tag, 1);
		amqp_destroy_envelope(&envelope);
		amqp_maybe_release_buffers(conn);
	}
	gettimeofday(&end, NULL);
	getrusage(RUSAGE_SELF, &usage);
	printf("%ld %.3f %.3f\n", n, (end.tv_sec - begin.tv_sec) + (end.tv_usec - begin.tv_usec) / 1e6,
		   usage.ru_utime.tv_sec + usage.ru_stime.tv_sec + (usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6);
}

int
main(int argc, char **argv)
{
	const char *command;

	if (argc < 5)
		return 2;
	port = argv[1], user = argv[2], password = argv[3], command = argv[4];
	argc -= 5, argv += 5;
	if (!connected() && strcmp(command, "publish") != 0)
	{
		fprintf(stderr, "no connection to port %s\n", port);
		return 1;
	}
	if (strcmp(command, "declare") == 0)
		declare(argc, argv);
	else if (strcmp(command, "delete") == 0)
	{
		amqp_queue_delete(conn, 1, text(argv[0]), 0, 0);
		check("delete");
	}
	else if (strcmp(command, "count") == 0)
	{
		amqp_queue_declare_ok_t *ok = amqp_queue_declare(conn, 1, text(argv[0]), 1, 0, 0, 0, amqp_empty_table);

		check("count");
		printf("%u\n", ok->message_count);
	}
	else if (strcmp(command, "exchange") == 0)
	{
		amqp_exchange_declare(conn, 1, text(argv[0]), text(argv[1]), 0, 1, 0, 0, amqp_empty_table);
		check("exchange");
		if (argc > 3)
			amqp_queue_bind(conn, 1, text(argv[2]), text(argv[0]), text(argv[3]), amqp_empty_table);
		check("bind");
	}
	else if (strcmp(command, "publish") == 0)
		publish(argc, argv);
	else if (strcmp(command, "sample") == 0)
		sample(argv);
	else if (strcmp(command, "deep") == 0)
		deep(argv);
	else if (strcmp(command, "get") == 0)
		get(argv);
	else if (strcmp(command, "dump") == 0)
		dump(argv);
	else if (strcmp(command, "consume") == 0)
		consume(argv);
	else
		return 2;
	amqp_channel_close(conn, 1, AMQP_REPLY_SUCCESS);
	amqp_connection_close(conn, AMQP_REPLY_SUCCESS);
	amqp_destroy_connection(conn);
	return 0;
}
