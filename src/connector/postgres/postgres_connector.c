/*
 * postgres_connector.c
 *	  The PostgreSQL connector: its options, and the life of a consumer.
 *
 * A consumer goes through these states.  Which one it starts in depends on the places that are stored (partition "copy": the initial copy, see
 * postgres_spool.c; partition "": the changes, see postgres_stream.c) and on what is found there:
 *
 *	places					slot		file			state
 *	none					none		any				CREATING, then COPYING or, without copy, STREAMING
 *	none					there		complete		GIVING
 *	none, copy wanted		there		not complete	the slot is dropped if it is ours, then CREATING
 *	none, no copy wanted	there						STREAMING
 *	copy, not its end		there		complete		GIVING
 *	copy at its end, or ""	there						STREAMING
 *	any						none						refused: the changes since are lost
 *
 * COPYING leads to GIVING, GIVING to STREAMING.
 */
#include "postgres.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "storage/latch.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/pg_lsn.h"
#include "utils/timestamp.h"

#include "connector/postgres/postgres_connector.h"

PG_MODULE_MAGIC;

#define TEXT_OPTION(option, where, text) \
	{.name = option, .places = where, .type = PENSTOCK_OPTION_TEXT, .description = text}
#define FILE_OPTION(option, text) \
	{.name = option, .places = PENSTOCK_ON_SERVER, .type = PENSTOCK_OPTION_TEXT, .superuser_only = true, .description = text}
#define NUMBER_OPTION(option, text) \
	{.name = option, .places = PENSTOCK_ON_SERVER, .type = PENSTOCK_OPTION_INT, .min = 0, .max = INT_MAX, .description = text}
#define BOOL_OPTION(option, value, text) \
	{.name = option, .places = PENSTOCK_ON_QUEUE, .type = PENSTOCK_OPTION_BOOL, .fallback = value, .description = text}

static const char *const sslmode_values[] = {"disable", "allow", "prefer", "require", "verify-ca", "verify-full", NULL};
static const char *const binding_values[] = {"disable", "prefer", "require", NULL};
static const char *const session_values[] = {"any", "read-write", "read-only", "primary", "standby", "prefer-standby", NULL};

static const PenstockConnectorOption options[] = {
	TEXT_OPTION("host", PENSTOCK_ON_SERVER, "name of the server's host, or the folder of its socket"),
	TEXT_OPTION("hostaddr", PENSTOCK_ON_SERVER, "numeric address of the host"),
	TEXT_OPTION("port", PENSTOCK_ON_SERVER, "its port"),
	TEXT_OPTION("dbname", PENSTOCK_ON_SERVER, "database"),
	{.name = "target_session_attrs", .places = PENSTOCK_ON_SERVER, .type = PENSTOCK_OPTION_ENUM, .values = session_values,
	.description = "of several hosts, which one will do"},
	{.name = "sslmode", .places = PENSTOCK_ON_SERVER, .type = PENSTOCK_OPTION_ENUM, .values = sslmode_values,
	.description = "whether TLS is used, and what is checked"},
	FILE_OPTION("sslrootcert", "file with the certificates of those who may sign the server's"),
	FILE_OPTION("sslcert", "file with the client's certificate"),
	FILE_OPTION("sslkey", "file with the client's key"),
	FILE_OPTION("sslcrl", "file with revoked certificates"),
	{.name = "channel_binding", .places = PENSTOCK_ON_SERVER, .type = PENSTOCK_OPTION_ENUM, .values = binding_values,
	.description = "whether the password's exchange is bound to the TLS connection"},
	{.name = "gssencmode", .places = PENSTOCK_ON_SERVER, .type = PENSTOCK_OPTION_ENUM, .values = binding_values,
	.description = "whether GSSAPI encryption is used"},
	{.name = "connect_timeout", .places = PENSTOCK_ON_SERVER, .type = PENSTOCK_OPTION_INT, .fallback = "10", .min = 1, .max = 3600,
	.description = "seconds to wait for the server when connecting, and for answers that should be quick"},
	NUMBER_OPTION("keepalives_idle", "seconds of silence after which TCP looks whether the server is still there"),
	NUMBER_OPTION("keepalives_interval", "seconds between two such looks"),
	NUMBER_OPTION("keepalives_count", "looks without an answer after which the connection is given up"),
	NUMBER_OPTION("tcp_user_timeout", "milliseconds that sent data may stay unacknowledged"),
	TEXT_OPTION("application_name", PENSTOCK_ON_SERVER, "name in the server's pg_stat_replication; penstock if it is not given"),
	TEXT_OPTION("options", PENSTOCK_ON_SERVER, "command-line options for the server's process"),
	{.name = "status_interval", .places = PENSTOCK_ON_SERVER, .type = PENSTOCK_OPTION_TIME, .fallback = "10 s", .min = 100, .max = 3600000,
	.description = "how often the server is told how far the changes have been read, at least"},
	{.name = "receive_timeout", .places = PENSTOCK_ON_SERVER, .type = PENSTOCK_OPTION_TIME, .fallback = "2 min", .min = 0, .max = 3600000,
	.description = "a server that has been silent for so long is taken for gone, at least sender_timeout; 0: never"},
	{.name = "sender_timeout", .places = PENSTOCK_ON_SERVER, .type = PENSTOCK_OPTION_TIME, .fallback = "2 min", .min = 0, .max = INT_MAX,
	.description = "wal_sender_timeout of the connection: a batch that takes longer costs a new connection; 0: none"},

	TEXT_OPTION("user", PENSTOCK_ON_USER, "user there; needs REPLICATION, and SELECT on the tables for the copy"),
	TEXT_OPTION("password", PENSTOCK_ON_USER, "the user's password"),
	TEXT_OPTION("sslpassword", PENSTOCK_ON_USER, "password of the client's key"),

	TEXT_OPTION("table", PENSTOCK_ON_QUEUE, "table whose changes are read, as schema.name; if it is not given, all of the publication"),
	TEXT_OPTION("publication", PENSTOCK_ON_QUEUE, "publication, or several with commas; penstock_SCHEMA_TABLE if it is not given"),
	BOOL_OPTION("create_publication", "false", "makes the publication when the pipe starts first and it does not exist"),
	TEXT_OPTION("slot", PENSTOCK_ON_QUEUE, "replication slot; if it is not given, each pipe has one of its own"),
	BOOL_OPTION("create_slot", "true", "makes the slot when the pipe starts first; false: it must exist, and there is no copy"),
	BOOL_OPTION("copy", "true", "gives the rows that are there before the changes"),
	BOOL_OPTION("streaming", "true", "has big transactions sent while they run; they wait in temporary files here until they commit"),
	{.name = "column_name", .places = PENSTOCK_ON_COLUMN, .type = PENSTOCK_OPTION_TEXT, .description = "the column's name there"},
	{.name = NULL}
};

static void
check(const PenstockQueue *queue)
{
	PostgresSource source;
	const char *slot = penstock_connector_api()->option(queue, "slot");
	int64		receive_timeout = penstock_connector_api()->option_int(queue, "receive_timeout");
	int64		sender_timeout = penstock_connector_api()->option_int(queue, "sender_timeout");

	if (slot != NULL && (*slot == '\0' || strlen(slot) >= NAMEDATALEN ||
						 strspn(slot, "abcdefghijklmnopqrstuvwxyz0123456789_") != strlen(slot)))
		ereport(ERROR,
				(errcode(ERRCODE_FDW_INVALID_ATTRIBUTE_VALUE),
				 errmsg("invalid value for option \"%s\": \"%s\"", "slot", slot),
				 errdetail("A slot's name has lower case letters, digits and underscores.")));
	/* a server that works on something long gives signs of life as its own timeout asks for */
	if (receive_timeout > 0 && (sender_timeout == 0 || sender_timeout > receive_timeout))
		ereport(ERROR,
				(errcode(ERRCODE_FDW_INVALID_ATTRIBUTE_VALUE),
				 errmsg("option \"receive_timeout\" must be 0 or at least \"sender_timeout\"")));
	if (slot == NULL && !penstock_connector_api()->option_bool(queue, "create_slot"))
		ereport(ERROR,
				(errcode(ERRCODE_FDW_OPTION_NAME_NOT_FOUND),
				 errmsg("option \"slot\" is required when create_slot is false")));
	penstock_postgres_source(queue, &source);
}

/* ---- the slot ---- */

typedef struct SlotState
{
	bool		exists;
	XLogRecPtr	confirmed;
} SlotState;

/* The slot's name; by default the pipe's, in characters that a slot's may have. */
static const char *
slot_name(const PenstockQueue *queue)
{
	const char *given = penstock_connector_api()->option(queue, "slot");
	char	   *name;

	if (given != NULL)
		return given;
	name = pnstrdup(queue->consumer, NAMEDATALEN - 1);
	for (char *p = name; *p != '\0'; p++)
		if (!((*p >= 'a' && *p <= 'z') || (*p >= '0' && *p <= '9')))
			*p = '_';
	return name;
}

static XLogRecPtr
parse_lsn(const char *text)
{
	return text ? DatumGetLSN(DirectFunctionCall1(pg_lsn_in, CStringGetDatum(text))) : InvalidXLogRecPtr;
}

/* Looks at the slot; a fault if it is one that cannot be used. */
static PenstockOutcome
look_at_slot(PostgresSession *session, const char *slot, SlotState *state, PenstockFault *fault)
{
	PenstockOutcome outcome = PENSTOCK_OK;
	PostgresRows *rows;

	rows = penstock_postgres_query(session, psprintf("SELECT slot_type, plugin, database = pg_catalog.current_database(), active_pid, confirmed_flush_lsn, %s"
													 " FROM pg_catalog.pg_replication_slots WHERE slot_name = %s",
													 PQserverVersion(session->conn) >= 130000 ? "wal_status" : "NULL",
													 quote_literal_cstr(slot)), &outcome, fault);
	if (rows == NULL)
		return outcome;
	if (rows->n == 0)
		return PENSTOCK_OK;
	state->confirmed = parse_lsn(penstock_postgres_value(rows, 0, 4));
	if (strcmp(penstock_postgres_value(rows, 0, 0), "logical") != 0 || strcmp(penstock_postgres_value(rows, 0, 1), "pgoutput") != 0 ||
		*penstock_postgres_value(rows, 0, 2) != 't')
		return penstock_fault(fault, PENSTOCK_REFUSED, ERRCODE_WRONG_OBJECT_TYPE,
							  "replication slot \"%s\" of server \"%s\" is not one of this database for pgoutput", slot, session->server);
	state->exists = true;
	if (penstock_postgres_value(rows, 0, 5) != NULL && strcmp(penstock_postgres_value(rows, 0, 5), "lost") == 0)
	{
		outcome = penstock_fault(fault, PENSTOCK_REFUSED, ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
								 "replication slot \"%s\" of server \"%s\" has been invalidated: changes are lost", slot, session->server);
		strlcpy(fault->detail, "The server has removed WAL that the slot needed, probably because of its max_slot_wal_keep_size.", sizeof(fault->detail));
		strlcpy(fault->hint, "Drop the slot and the pipe, empty the target, and create the pipe again.", sizeof(fault->hint));
		return outcome;
	}
	if (penstock_postgres_value(rows, 0, 3) != NULL)
		return penstock_fault(fault, PENSTOCK_AWAY, ERRCODE_OBJECT_IN_USE,
							  "replication slot \"%s\" of server \"%s\" is in use by its process %s", slot, session->server, penstock_postgres_value(rows, 0, 3));
	return PENSTOCK_OK;
}

static PenstockOutcome
drop_slot(PostgresSession *session, const char *slot, PenstockFault *fault)
{
	PenstockOutcome outcome = PENSTOCK_OK;

	(void) penstock_postgres_query(session, psprintf("DROP_REPLICATION_SLOT %s WAIT", quote_identifier(slot)), &outcome, fault);
	return outcome;
}

static PenstockOutcome
slot_is_gone(PenstockConsumer *consumer, bool never_there, PenstockFault *fault)
{
	PenstockOutcome outcome;

	outcome = penstock_fault(fault, PENSTOCK_REFUSED, ERRCODE_UNDEFINED_OBJECT, "replication slot \"%s\" does not exist on server \"%s\"",
							 consumer->slot, consumer->main.server);
	if (never_there)
		strlcpy(fault->hint, "Create it there for pgoutput, or set option create_slot to 'true'.", sizeof(fault->hint));
	else
	{
		strlcpy(fault->detail, "It has been dropped: changes since the last batch are lost.", sizeof(fault->detail));
		strlcpy(fault->hint, "Drop the pipe, empty the target, and create the pipe again.", sizeof(fault->hint));
	}
	return outcome;
}

/* ---- opening ---- */

static const PenstockPlace *
find_place(const PenstockStart *start, const char *partition)
{
	for (int i = 0; i < start->nplaces; i++)
		if (strcmp(start->places[i].partition, partition) == 0)
			return &start->places[i];
	return NULL;
}

/* Nothing has been read yet. */
static PenstockOutcome
begin(PenstockConsumer *consumer, const SlotState *slot, PenstockFault *fault)
{
	const PenstockConnectorApi *api = penstock_connector_api();
	bool		create = api->option_bool(consumer->queue, "create_slot");
	bool		copy = create && api->option_bool(consumer->queue, "copy");
	PostgresSpoolState spool;
	PenstockOutcome outcome;

	penstock_postgres_spool_state(consumer->spool, &spool);
	outcome = penstock_postgres_check_source(&consumer->main, consumer->queue, &consumer->source, fault);
	if (outcome != PENSTOCK_OK)
		return outcome;
	if (!slot->exists && !create)
		return slot_is_gone(consumer, true, fault);
	if (!slot->exists)
		return penstock_postgres_create_slot(consumer, copy, fault);
	if (!copy)
	{
		consumer->start_at = slot->confirmed;
		return penstock_postgres_start(consumer, fault);
	}
	if (spool.complete && spool.lsn <= slot->confirmed)
	{
		penstock_postgres_spool_open(consumer->spool, 0);
		consumer->state = POSTGRES_GIVING;
		return PENSTOCK_OK;
	}
	/* a copy that was interrupted before anything was given: was it ours? */
	if (api->option(consumer->queue, "slot") != NULL && !spool.begun)
	{
		outcome = penstock_fault(fault, PENSTOCK_REFUSED, ERRCODE_DUPLICATE_OBJECT, "replication slot \"%s\" exists already on server \"%s\"",
								 consumer->slot, consumer->main.server);
		strlcpy(fault->hint, "A copy needs a new slot: drop that one, choose another name, or set option copy to 'false' to read on from it.", sizeof(fault->hint));
		return outcome;
	}
	outcome = drop_slot(&consumer->main, consumer->slot, fault);
	if (outcome != PENSTOCK_OK)
		return outcome;
	return penstock_postgres_create_slot(consumer, copy, fault);
}

/* Goes on with an initial copy that has been given in part. */
static PenstockOutcome
go_on_copying(PenstockConsumer *consumer, const PenstockPlace *place, PenstockFault *fault)
{
	PostgresSpoolState spool;
	PenstockOutcome outcome;

	penstock_postgres_spool_state(consumer->spool, &spool);
	if (!spool.complete)
	{
		outcome = penstock_fault(fault, PENSTOCK_REFUSED, ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
								 "the rest of the initial copy of %s is lost", consumer->queue->name);
		strlcpy(fault->detail, "Its file in folder penstock_copy of the data directory, which no standby or dump has, is gone.", sizeof(fault->detail));
		strlcpy(fault->hint, "Drop the pipe, empty the target, and create the pipe again.", sizeof(fault->hint));
		return outcome;
	}
	penstock_postgres_spool_open(consumer->spool, place->at);
	consumer->state = POSTGRES_GIVING;
	return PENSTOCK_OK;
}

static PenstockOutcome
open_pipe(PenstockConsumer *consumer, const PenstockStart *start, PenstockFault *fault)
{
	const PenstockPlace *copy = find_place(start, "copy");
	const PenstockPlace *changes = find_place(start, "");
	SlotState	slot = {0};
	PenstockOutcome outcome = PENSTOCK_OK;

	consumer->slot = slot_name(consumer->queue);
	consumer->spool = penstock_postgres_spool_create(consumer->queue->consumer, consumer->slot);
	consumer->spill = penstock_postgres_spill_create(CurrentMemoryContext);
	if (!penstock_postgres_connect(&consumer->main, consumer->queue, true, &outcome, fault))
		return outcome;
	outcome = look_at_slot(&consumer->main, consumer->slot, &slot, fault);
	if (outcome != PENSTOCK_OK)
		return outcome;
	if (copy == NULL && changes == NULL)
		return begin(consumer, &slot, fault);
	if (!slot.exists)
		return slot_is_gone(consumer, false, fault);
	if (changes == NULL && copy->at != PG_INT64_MAX)
		return go_on_copying(consumer, copy, fault);
	if (changes != NULL)
	{
		consumer->start_at = (XLogRecPtr) changes->at;
		consumer->start_row = changes->row;
	}
	penstock_postgres_spool_remove(consumer->spool);
	return penstock_postgres_start(consumer, fault);
}

/* Whatever happens, nothing stays open when the memory goes. */
static void
release(void *arg)
{
	PenstockConsumer *consumer = arg;

	PQfreemem(consumer->data);
	consumer->data = NULL;
	penstock_postgres_disconnect(&consumer->copy);
	penstock_postgres_disconnect(&consumer->main);
	if (consumer->spool != NULL)
		penstock_postgres_spool_close(consumer->spool);
	if (consumer->spill != NULL)
		penstock_postgres_spill_close(consumer->spill);
}

/* What is looked up here, in a transaction. */
static void
read_catalog(PenstockConsumer *consumer)
{
	bool		own = !IsTransactionState();

	if (own)
		StartTransactionCommand();
	MemoryContextSwitchTo(consumer->context);
	consumer->shape = penstock_postgres_shape(consumer->queue->relid);
	consumer->main.trusted = consumer->copy.trusted = superuser_arg(consumer->queue->userid);
	if (own)
		CommitTransactionCommand();
	MemoryContextSwitchTo(consumer->context);
}

static PenstockConsumer *
open_consumer(const PenstockQueue *queue, const PenstockStart *start, PenstockOutcome *outcome, PenstockFault *fault)
{
	const PenstockConnectorApi *api = penstock_connector_api();
	PenstockConsumer *consumer = palloc0(sizeof(PenstockConsumer));
	HASHCTL		info = {.keysize = sizeof(uint32), .entrysize = 2 * sizeof(void *), .hcxt = CurrentMemoryContext};

	consumer->context = CurrentMemoryContext;
	consumer->callback.func = release;
	consumer->callback.arg = consumer;
	MemoryContextRegisterResetCallback(CurrentMemoryContext, &consumer->callback);
	consumer->queue = queue;
	read_catalog(consumer);
	consumer->status_interval = (int) api->option_int(queue, "status_interval");
	consumer->receive_timeout = (int) api->option_int(queue, "receive_timeout");
	consumer->relations = hash_create("penstock remote tables", 64, &info, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	initStringInfo(&consumer->line);
	penstock_postgres_source(queue, &consumer->source);

	*outcome = start->browse ? penstock_postgres_browse(consumer, fault) : open_pipe(consumer, start, fault);
	if (*outcome == PENSTOCK_OK)
		return consumer;
	release(consumer);
	return NULL;
}

/* A slot that is read on from where it stands: from now on it must be there. */
static const PenstockPlace *
first_places(PenstockConsumer *consumer, int *n)
{
	static PenstockPlace place = {.partition = ""};

	*n = consumer->state == POSTGRES_STREAMING && !XLogRecPtrIsInvalid(consumer->start_at) ? 1 : 0;
	place.at = (int64) consumer->start_at;
	return &place;
}

/* ---- fetching ---- */

static PenstockOutcome
fetch(PenstockConsumer *consumer, PenstockBatch *batch, PenstockFault *fault)
{
	consumer->more = false;
	if (consumer->state == POSTGRES_STREAMING)
		return penstock_postgres_fetch_changes(consumer, batch, fault);
	return penstock_postgres_fetch_copy(consumer, batch, fault);
}

static void
wait_for(PenstockConsumer *consumer, PenstockWaitFor *wait)
{
	PGconn	   *conn = consumer->state == POSTGRES_COPYING || consumer->state == POSTGRES_BROWSING ? consumer->copy.conn : consumer->main.conn;

	wait->fd = -1;
	wait->events = 0;
	wait->timeout = -1;
	if (consumer->more || consumer->state == POSTGRES_GIVING || consumer->state == POSTGRES_ENDED || conn == NULL)
		wait->timeout = 0;
	else
	{
		wait->fd = PQsocket(conn);
		wait->events = WL_SOCKET_READABLE;
		if (consumer->state == POSTGRES_STREAMING)
			wait->timeout = Max(0, consumer->status_interval -
								TimestampDifferenceMilliseconds(consumer->last_status, GetCurrentTimestamp()));
		else if (consumer->receive_timeout > 0)
			wait->timeout = Max(0, consumer->receive_timeout + 1 -
								TimestampDifferenceMilliseconds(consumer->last_message, GetCurrentTimestamp()));
	}
}

static PenstockOutcome
acknowledge(PenstockConsumer *consumer, PenstockFault *fault)
{
	consumer->outstanding = false;
	if (consumer->state != POSTGRES_STREAMING)
		return PENSTOCK_OK;
	if (consumer->spool != NULL && consumer->given)
	{
		penstock_postgres_spool_remove(consumer->spool);
		consumer->spool = NULL;
	}
	return penstock_postgres_send_status(consumer, false) ? PENSTOCK_OK :
		penstock_postgres_fault(&consumer->main, NULL, "lost the connection", fault);
}

static void
close_consumer(PenstockConsumer *consumer)
{
	release(consumer);
}

/*
 * penstock_postgres_drop removes the slot of a pipe that has been dropped, and what is left of an unfinished copy.  A slot that was there
 * before stays.
 */
PenstockOutcome
penstock_postgres_drop(const PenstockQueue *queue, PenstockFault *fault)
{
	PostgresSession *session;
	SlotState	slot = {0};
	PenstockOutcome outcome = PENSTOCK_OK;
	const char *name = slot_name(queue);

	penstock_postgres_spool_remove(penstock_postgres_spool_create(queue->consumer, name));
	if (!penstock_connector_api()->option_bool(queue, "create_slot"))
		return PENSTOCK_OK;
	session = penstock_postgres_new_session(queue);
	if (penstock_postgres_connect(session, queue, true, &outcome, fault))
	{
		outcome = look_at_slot(session, name, &slot, fault);
		/* one that is invalidated can be dropped; the pipe's worker may have it still, or again */
		if (slot.exists && outcome == PENSTOCK_AWAY &&
			penstock_postgres_query(session, psprintf("SELECT pg_catalog.pg_terminate_backend(active_pid) FROM pg_catalog.pg_replication_slots"
													  " WHERE slot_name = %s AND active", quote_literal_cstr(name)), &outcome, fault) == NULL)
			slot.exists = false;
		if (slot.exists)
			outcome = drop_slot(session, name, fault);
	}
	penstock_postgres_disconnect(session);
	if (outcome != PENSTOCK_OK)
		snprintf(fault->hint, sizeof(fault->hint), "If the slot is still there, it holds WAL: SELECT pg_drop_replication_slot('%s') there.", name);
	return outcome;
}

static const PenstockConnector connector = {
	.abi = PENSTOCK_CONNECTOR_ABI,
	.name = "postgres_changes",
	.options = options,
	.metadata = penstock_postgres_metadata,
	.has_offsets = true,
	.check = check,
	.open = open_consumer,
	.fetch = fetch,
	.wait_for = wait_for,
	.first_places = first_places,
	.acknowledge = acknowledge,
	.close = close_consumer,
	.decode = penstock_postgres_decode,
	.describe = penstock_postgres_describe,
	.drop = penstock_postgres_drop,
	.caught_up = penstock_postgres_caught_up,
	.import = penstock_postgres_import,
};

PENSTOCK_CONNECTOR(penstock_postgres, connector);
