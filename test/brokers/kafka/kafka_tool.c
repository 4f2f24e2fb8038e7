/*
 * kafka_tool.c
 *	  What the tests need of a Kafka that no client program of Debian's does: topics made, deleted and cut off,
 *	  numbered messages, bare consuming and producing as a yardstick, and a look at a group's offsets.
 *
 *	kafka_tool SERVERS[,NAME=VALUE...] COMMAND ARGUMENTS
 *	  create TOPIC PARTITIONS [REPLICAS [NAME=VALUE...]]
 *	  delete TOPIC
 *	  partitions TOPIC PARTITIONS				more partitions
 *	  cut TOPIC PARTITION OFFSET				deletes what is before the offset
 *	  produce TOPIC FIRST LAST [SIZE [RATE [FILE]]]	{"n": ...}, padded to SIZE, key n, any partition; RATE: so many a second;
 *						FILE gets number, partition and offset of what is confirmed
 *	  lines TOPIC PARTITION [KEY]				each line of the input a message; KEY \t before
 *	  consume TOPIC PARTITIONS COUNT			batches to nowhere; prints messages and seconds
 *	  dump TOPIC PARTITIONS						partition, offset and payload of all messages there are, one a line
 *	  ping MILLISECONDS							does a broker answer?
 *	  group GROUP TOPIC PARTITIONS				committed offsets, one a line
 */
#include <librdkafka/rdkafka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static int	failed;
static FILE *receipts;
static char errstr[512];

static void
fail(const char *what, const char *why)
{
	fprintf(stderr, "kafka_tool: %s: %s\n", what, why);
	exit(1);
}

static double
now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

static void
delivered(rd_kafka_t *rk, const rd_kafka_message_t *message, void *opaque)
{
	if (message->err && failed++ == 0)
		fprintf(stderr, "kafka_tool: %s\n", rd_kafka_err2str(message->err));
	if (receipts)
		fprintf(receipts, "%.*s\t%d\t%lld\n", (int) message->key_len, (char *) message->key, message->partition, (long long) message->offset);
}

static rd_kafka_t *
make(rd_kafka_type_t type, char *servers)
{
	rd_kafka_conf_t *conf = rd_kafka_conf_new();
	rd_kafka_t *rk;
	char	   *at = strchr(servers, ',');

	if (at)
		*at++ = '\0';
	rd_kafka_conf_set(conf, "bootstrap.servers", servers, NULL, 0);
	if (type == RD_KAFKA_CONSUMER)
	{
		rd_kafka_conf_set(conf, "group.id", "kafka_tool", NULL, 0);
		rd_kafka_conf_set(conf, "enable.auto.commit", "false", NULL, 0);
		rd_kafka_conf_set(conf, "enable.auto.offset.store", "false", NULL, 0);
	}
	else
	{
		rd_kafka_conf_set(conf, "linger.ms", "5", NULL, 0);
		rd_kafka_conf_set(conf, "enable.idempotence", "true", NULL, 0);
		rd_kafka_conf_set_dr_msg_cb(conf, delivered);
	}
	for (; at && *at; at = strtok(NULL, ","))
	{
		char	   *name = strtok(at, "=");
		char	   *value = strtok(NULL, ",");

		if (rd_kafka_conf_set(conf, name, value, errstr, sizeof(errstr)) != RD_KAFKA_CONF_OK)
			fail("option", errstr);
	}
	rk = rd_kafka_new(type, conf, errstr, sizeof(errstr));
	if (rk == NULL)
		fail("client", errstr);
	return rk;
}

/* Waits for an admin request; every topic's or partition's result must be good. */
static void
admin_result(rd_kafka_queue_t *queue, const char *what)
{
	rd_kafka_event_t *event = rd_kafka_queue_poll(queue, 30000);
	const rd_kafka_topic_result_t **topics = NULL;
	size_t		n = 0;

	if (event == NULL)
		fail(what, "no answer");
	if (rd_kafka_event_error(event))
		fail(what, rd_kafka_event_error_string(event));
	if (rd_kafka_event_type(event) == RD_KAFKA_EVENT_CREATETOPICS_RESULT)
		topics = rd_kafka_CreateTopics_result_topics(rd_kafka_event_CreateTopics_result(event), &n);
	else if (rd_kafka_event_type(event) == RD_KAFKA_EVENT_DELETETOPICS_RESULT)
		topics = rd_kafka_DeleteTopics_result_topics(rd_kafka_event_DeleteTopics_result(event), &n);
	else if (rd_kafka_event_type(event) == RD_KAFKA_EVENT_CREATEPARTITIONS_RESULT)
		topics = rd_kafka_CreatePartitions_result_topics(rd_kafka_event_CreatePartitions_result(event), &n);
	else if (rd_kafka_event_type(event) == RD_KAFKA_EVENT_DELETERECORDS_RESULT)
	{
		const rd_kafka_topic_partition_list_t *list =
			rd_kafka_DeleteRecords_result_offsets(rd_kafka_event_DeleteRecords_result(event));

		for (int i = 0; i < list->cnt; i++)
			if (list->elems[i].err)
				fail(what, rd_kafka_err2str(list->elems[i].err));
	}
	for (size_t i = 0; i < n; i++)
		if (rd_kafka_topic_result_error(topics[i]))
			fail(what, rd_kafka_topic_result_error_string(topics[i]));
	rd_kafka_event_destroy(event);
}

static void
admin(rd_kafka_t *rk, int argc, char **argv)
{
	rd_kafka_queue_t *queue = rd_kafka_queue_new(rk);
	const char *command = argv[0];

	if (strcmp(command, "create") == 0)
	{
		rd_kafka_NewTopic_t *topic = rd_kafka_NewTopic_new(argv[1], atoi(argv[2]), argc > 3 ? atoi(argv[3]) : 1,
														   errstr, sizeof(errstr));

		if (topic == NULL)
			fail(command, errstr);
		for (int i = 4; i < argc; i++)
		{
			char	   *name = strtok(argv[i], "=");

			rd_kafka_NewTopic_set_config(topic, name, strtok(NULL, ""));
		}
		rd_kafka_CreateTopics(rk, &topic, 1, NULL, queue);
	}
	else if (strcmp(command, "delete") == 0)
	{
		rd_kafka_DeleteTopic_t *topic = rd_kafka_DeleteTopic_new(argv[1]);

		rd_kafka_DeleteTopics(rk, &topic, 1, NULL, queue);
	}
	else if (strcmp(command, "partitions") == 0)
	{
		rd_kafka_NewPartitions_t *parts = rd_kafka_NewPartitions_new(argv[1], atoi(argv[2]), errstr, sizeof(errstr));

		rd_kafka_CreatePartitions(rk, &parts, 1, NULL, queue);
	}
	else
	{
		rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(1);
		rd_kafka_DeleteRecords_t *records;

		rd_kafka_topic_partition_list_add(list, argv[1], atoi(argv[2]))->offset = atoll(argv[3]);
		records = rd_kafka_DeleteRecords_new(list);
		rd_kafka_DeleteRecords(rk, &records, 1, NULL, queue);
	}
	admin_result(queue, command);
}

static void
send_one(rd_kafka_t *rk, const char *topic, int partition, const char *key, size_t key_size,
		 const char *value, size_t size)
{
	rd_kafka_resp_err_t err;

	for (;;)
	{
		err = rd_kafka_producev(rk, RD_KAFKA_V_TOPIC(topic), RD_KAFKA_V_PARTITION(partition),
								RD_KAFKA_V_KEY(key, key_size), RD_KAFKA_V_VALUE((void *) value, size),
								RD_KAFKA_V_MSGFLAGS(RD_KAFKA_MSG_F_COPY), RD_KAFKA_V_END);
		if (err != RD_KAFKA_RESP_ERR__QUEUE_FULL)
			break;
		rd_kafka_poll(rk, 100);
	}
	if (err)
		fail("produce", rd_kafka_err2str(err));
	rd_kafka_poll(rk, 0);
}

static void
produce(rd_kafka_t *rk, int argc, char **argv)
{
	long long	first = atoll(argv[2]);
	long long	last = atoll(argv[3]);
	int			size = argc > 4 ? atoi(argv[4]) : 0;
	double		rate = argc > 5 ? atof(argv[5]) : 0;
	char		key[32];
	char	   *value = malloc(size + 64);
	double		start = now();

	if (argc > 6)
		receipts = fopen(argv[6], "w");
	for (long long n = first; n <= last; n++)
	{
		int			key_size = snprintf(key, sizeof(key), "%lld", n);
		int			length;

		if (size > 250)
			length = sprintf(value, "{\"n\": %lld, \"user_id\": %lld, \"url\": \"https://example.com/page/%lld\", \"latency\": %lld.25, "
							 "\"status\": %d, \"ok\": true, \"at\": \"2024-01-01T00:%02lld:%02lldZ\", \"note\": \"", n, n % 100000,
							 n * 7 % 1000, n * 31 % 500, n % 10 ? 200 : 404, n / 60 % 60, n % 60);
		else
			length = sprintf(value, "{\"n\": %lld, \"pad\": \"", n);
		while (length < size - 2)
			value[length] = 'a' + (n + length) * 31 % 26, length++;
		length += sprintf(value + length, "\"}");
		send_one(rk, argv[1], RD_KAFKA_PARTITION_UA, key, key_size, value, length);
		while (rate > 0 && (n - first) / rate > now() - start)
			rd_kafka_poll(rk, 5);
	}
	rd_kafka_flush(rk, 120000);
	printf("%lld %.3f\n", last - first + 1, now() - start);
}

static void
lines(rd_kafka_t *rk, int argc, char **argv)
{
	char	   *line = NULL;
	size_t		room = 0;
	ssize_t		length;

	while ((length = getline(&line, &room, stdin)) >= 0)
	{
		char	   *value = line;
		char	   *key = NULL;

		if (length > 0 && line[length - 1] == '\n')
			line[--length] = '\0';
		if (argc > 3 && (value = memchr(line, '\t', length)) != NULL)
		{
			key = line;
			*value++ = '\0';
		}
		send_one(rk, argv[1], atoi(argv[2]), key, key ? strlen(key) : 0, value, line + length - value);
	}
	rd_kafka_flush(rk, 60000);
}

static void
consume(rd_kafka_t *rk, int argc, char **argv)
{
	rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(1);
	long long	count = atoll(argv[3]);
	long long	seen = 0;
	rd_kafka_message_t *messages[1000];
	rd_kafka_queue_t *queue = rd_kafka_queue_get_consumer(rk);
	double		start = 0;

	for (int i = 0; i < atoi(argv[2]); i++)
		rd_kafka_topic_partition_list_add(list, argv[1], i)->offset = RD_KAFKA_OFFSET_BEGINNING;
	rd_kafka_poll_set_consumer(rk);
	rd_kafka_assign(rk, list);
	start = now();
	while (seen < count && now() - start < 120)
	{
		int			n = rd_kafka_consume_batch_queue(queue, 1000, messages, 1000);

		for (int i = 0; i < n; i++)
		{
			if (messages[i]->err == 0)
				seen++;
			rd_kafka_message_destroy(messages[i]);
		}
	}
	printf("%lld %.3f\n", seen, now() - start);
}

/* To the ends as they are when it begins. */
static void
dump(rd_kafka_t *rk, char **argv)
{
	for (int i = 0; i < atoi(argv[2]); i++)
	{
		rd_kafka_topic_t *topic = rd_kafka_topic_new(rk, argv[1], NULL);
		int64_t		low;
		int64_t		high;
		int64_t		next;

		if (rd_kafka_query_watermark_offsets(rk, argv[1], i, &low, &high, 30000))
			fail("dump", "no answer");
		rd_kafka_consume_start(topic, i, RD_KAFKA_OFFSET_BEGINNING);
		for (next = low; next < high;)
		{
			rd_kafka_message_t *message = rd_kafka_consume(topic, i, 30000);

			if (message == NULL)
				fail("dump", "no message");
			if (message->err)
				fail("dump", rd_kafka_message_errstr(message));
			next = message->offset + 1;
			printf("%d\t%lld\t%.*s\n", i, (long long) message->offset, (int) message->len, (char *) message->payload);
			rd_kafka_message_destroy(message);
		}
		rd_kafka_consume_stop(topic, i);
	}
}

static void
group(int argc, char **argv, char *servers)
{
	rd_kafka_conf_t *conf = rd_kafka_conf_new();
	rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(1);
	rd_kafka_t *rk;

	rd_kafka_conf_set(conf, "bootstrap.servers", servers, NULL, 0);
	rd_kafka_conf_set(conf, "group.id", argv[1], NULL, 0);
	rk = rd_kafka_new(RD_KAFKA_CONSUMER, conf, errstr, sizeof(errstr));
	for (int i = 0; i < atoi(argv[3]); i++)
		rd_kafka_topic_partition_list_add(list, argv[2], i);
	if (rd_kafka_committed(rk, list, 20000))
		fail("group", "no answer");
	for (int i = 0; i < list->cnt; i++)
		printf("%d %lld\n", list->elems[i].partition, (long long) list->elems[i].offset);
}

static void
ping(rd_kafka_t *rk, int timeout)
{
	const struct rd_kafka_metadata *metadata;
	rd_kafka_resp_err_t err = rd_kafka_metadata(rk, 0, NULL, &metadata, timeout);

	if (err || metadata->broker_cnt == 0)
		exit(1);
}

int
main(int argc, char **argv)
{
	const char *command = argc > 3 ? argv[2] : "";

	if (strcmp(command, "consume") == 0)
		consume(make(RD_KAFKA_CONSUMER, argv[1]), argc - 2, argv + 2);
	else if (strcmp(command, "dump") == 0)
		dump(make(RD_KAFKA_CONSUMER, argv[1]), argv + 2);
	else if (strcmp(command, "group") == 0)
		group(argc - 2, argv + 2, argv[1]);
	else if (strcmp(command, "produce") == 0)
		produce(make(RD_KAFKA_PRODUCER, argv[1]), argc - 2, argv + 2);
	else if (strcmp(command, "lines") == 0)
		lines(make(RD_KAFKA_PRODUCER, argv[1]), argc - 2, argv + 2);
	else if (strcmp(command, "ping") == 0)
		ping(make(RD_KAFKA_PRODUCER, argv[1]), atoi(argv[3]));
	else if (*command)
		admin(make(RD_KAFKA_PRODUCER, argv[1]), argc - 2, argv + 2);
	else
		fail("usage", "see the top of kafka_tool.c");
	return failed ? 1 : 0;
}
