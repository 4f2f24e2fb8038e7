/*
 * testqueue.c
 *	  penstock_testqueue: a message broker that is a directory, with every fault on demand.
 *
 * Three foreign data wrappers: testqueue with offsets, testqueue_ack with acknowledgements, testqueue_rows with messages that are rows
 * (a record is a transaction, each of its lines a row).
 */
#include "postgres.h"

#include "commands/defrem.h"
#include "utils/builtins.h"

#include "testqueue.h"

PG_MODULE_MAGIC;

static const char *const starts[] = {"earliest", "latest", NULL};
static const char *const metadata[] = {"file", "size", NULL};

static const PenstockConnectorOption options[] = {
	{"directory", PENSTOCK_ON_SERVER, PENSTOCK_OPTION_TEXT, "absolute path of the broker's directory",
	.required = true, .superuser_only = true},
	{"log_calls", PENSTOCK_ON_SERVER, PENSTOCK_OPTION_BOOL, "note each call in the directory",
	.fallback = "false"},
	{"notify", PENSTOCK_ON_SERVER | PENSTOCK_ON_QUEUE, PENSTOCK_OPTION_BOOL, "wait for new messages with inotify, instead of looking now and then",
	.fallback = "true"},
	{"poll_every", PENSTOCK_ON_SERVER | PENSTOCK_ON_QUEUE, PENSTOCK_OPTION_TIME, "how often to look without inotify",
	.fallback = "20 ms",.min = 1,.max = 60000},
	{"user", PENSTOCK_ON_USER, PENSTOCK_OPTION_TEXT, "name to log in with",
	.fallback = NULL},
	{"password", PENSTOCK_ON_USER, PENSTOCK_OPTION_TEXT, "its password",
	.fallback = NULL},
	{"queue", PENSTOCK_ON_QUEUE, PENSTOCK_OPTION_TEXT, "name of the queue: letters, digits, \"_\" and \"-\"",
	.required = true},
	{"start", PENSTOCK_ON_QUEUE, PENSTOCK_OPTION_ENUM, "where to start in partitions that were not read before",
	.fallback = "earliest",.values = starts},
	{"must_exist", PENSTOCK_ON_QUEUE, PENSTOCK_OPTION_BOOL, "refuse a queue without a message",
	.fallback = "false"},
	{"partitions", PENSTOCK_ON_QUEUE, PENSTOCK_OPTION_INT, "how many partitions to write to",
	.fallback = "1",.min = 1,.max = 64},
	{"read_size", PENSTOCK_ON_QUEUE, PENSTOCK_OPTION_SIZE, "how much of a file to read at once",
	.fallback = "64 kB",.min = 1024,.max = 16 * 1024 * 1024},
	{"max_message", PENSTOCK_ON_QUEUE, PENSTOCK_OPTION_SIZE, "the longest message that may be sent",
	.fallback = "16 MB",.min = 1,.max = 256 * 1024 * 1024},
	{NULL}
};

static void
check(const PenstockQueue *queue)
{
	const PenstockConnectorApi *api = penstock_connector_api();
	const char *directory = api->option(queue, "directory");
	const char *name = OidIsValid(queue->relid) ? api->option(queue, "queue") : NULL;

	if (directory && !is_absolute_path(directory))
		ereport(ERROR,
				(errcode(ERRCODE_FDW_INVALID_ATTRIBUTE_VALUE),
				 errmsg("invalid value for option \"directory\": \"%s\"", directory),
				 errhint("It must be an absolute path.")));
	if (name && !testqueue_name_ok(name))
		ereport(ERROR,
				(errcode(ERRCODE_FDW_INVALID_ATTRIBUTE_VALUE),
				 errmsg("invalid value for option \"queue\": \"%s\"", name),
				 errhint("Names are made of letters, digits, \"_\" and \"-\".")));
}

static List *
import(const PenstockQueue *server, ImportForeignSchemaStmt *stmt, PenstockOutcome *outcome, PenstockFault *fault)
{
	List	   *commands = NIL;
	List	   *queues;
	ListCell   *lc;

	*outcome = testqueue_fault(server, "import", false, 10000, NULL, fault);
	if (*outcome != PENSTOCK_OK || !testqueue_may_enter(server, outcome, fault))
		return NIL;
	queues = testqueue_queues(penstock_connector_api()->option(server, "directory"));
	foreach(lc, queues)
		commands = lappend(commands,
						   psprintf("CREATE FOREIGN TABLE %s (payload bytea OPTIONS (metadata 'payload'), "
									"partition text OPTIONS (metadata 'partition'), "
									"\"offset\" bigint OPTIONS (metadata 'offset')) SERVER %s OPTIONS (queue %s)",
									quote_identifier(lfirst(lc)), server->server_name, quote_literal_cstr(lfirst(lc))));
	return commands;
}

#define TESTQUEUE_COMMON \
	.abi = PENSTOCK_CONNECTOR_ABI, \
	.options = options, \
	.metadata = metadata, \
	.check = check, \
	.open = testqueue_open, \
	.fetch = testqueue_fetch, \
	.wait_for = testqueue_wait_for, \
	.acknowledge = testqueue_acknowledge, \
	.lag = testqueue_lag, \
	.close = testqueue_close, \
	.import = import

static const PenstockConnector testqueue = {
	TESTQUEUE_COMMON,
	.name = "testqueue",
	.has_offsets = true,
	.first_places = testqueue_first_places,
	.open_producer = testqueue_open_producer,
	.send = testqueue_send,
	.flush = testqueue_flush,
	.abort = testqueue_abort,
	.close_producer = testqueue_close_producer
};

static const PenstockConnector testqueue_ack = {
	TESTQUEUE_COMMON,
	.name = "testqueue_ack",
	.open_producer = testqueue_open_producer,
	.send = testqueue_send,
	.flush = testqueue_flush,
	.abort = testqueue_abort,
	.close_producer = testqueue_close_producer
};

static const PenstockConnector testqueue_rows = {
	TESTQUEUE_COMMON,
	.name = "testqueue_rows",
	.has_offsets = true,
	.first_places = testqueue_first_places,
	.decode = testqueue_decode
};

PENSTOCK_CONNECTOR(penstock_testqueue, testqueue);
PENSTOCK_CONNECTOR(penstock_testqueue_ack, testqueue_ack);
PENSTOCK_CONNECTOR(penstock_testqueue_rows, testqueue_rows);
