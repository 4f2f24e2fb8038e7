/*
 * postgres_stream.c
 *	  Changes: the replication protocol, places, and what is confirmed to the server.
 *
 * Places.  A slot gives whole transactions, in the order of their commits, and begins with the first whose commit record is at the place asked for or behind
 * it.  So the place of the k-th change of a transaction is (LSN of its commit record, k): whoever starts there is sent that transaction
 * again, and leaves out its first k changes.  All changes are counted, also those of tables that are not asked for, so that the count does not depend on anything
 * here; those of subtransactions that rolled back are never counted, whether they were streamed or not.  If the first transaction that comes is another one, then ours
 * has nothing left, and nothing is left out.
 *
 * What is confirmed.  When everything given has been acknowledged: the commit record of the transaction that is being given or, between two
 * transactions, whatever the server says it has sent.  So an idle pipe holds no WAL.  The slot may thereby stand behind the stored place; what lies between is nothing
 * that would ever be given.
 *
 * A transaction that is streamed while it runs is kept in a file (postgres_spill.c) and given from it when its commit arrives; until it has been given, nothing more
 * is read from the connection.
 */
#include "postgres.h"

#include "libpq/pqformat.h"
#include "miscadmin.h"
#include "storage/latch.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"
#include "utils/pg_lsn.h"
#include "utils/timestamp.h"

#include "connector/postgres/postgres_connector.h"

/* how many messages are read before somebody looks for interrupts */
#define MESSAGES_AT_ONCE 1000

static PenstockOutcome
malformed(PenstockConsumer *consumer, char type, PenstockFault *fault)
{
	return penstock_fault(fault, PENSTOCK_REFUSED, ERRCODE_PROTOCOL_VIOLATION, "server \"%s\" sent a malformed message of type \"%c\"",
						  consumer->main.server, type >= ' ' && type <= '~' ? type : '?');
}

/* ---- starting ---- */

/* The newest version of pgoutput's protocol that the server speaks. */
static int
protocol_version(int server_version)
{
	return server_version >= 160000 ? 4 : server_version >= 150000 ? 3 : server_version >= 140000 ? 2 : 1;
}

static char *
publication_list(const PostgresSource *source)
{
	StringInfoData names;
	ListCell   *lc;

	initStringInfo(&names);
	foreach(lc, source->publications)
	{
		appendStringInfoString(&names, names.len ? ",\"" : "\"");
		for (const char *p = lfirst(lc); *p != '\0'; p++)
		{
			if (*p == '"')
				appendStringInfoChar(&names, '"');
			appendStringInfoChar(&names, *p);
		}
		appendStringInfoChar(&names, '"');
	}
	return names.data;
}

/*
 * penstock_postgres_start starts the changes from the place in start_at on; 0: where the slot stands.
 */
PenstockOutcome
penstock_postgres_start(PenstockConsumer *consumer, PenstockFault *fault)
{
	int			version = PQserverVersion(consumer->main.conn);
	bool		streaming = version >= 140000 && penstock_connector_api()->option_bool(consumer->queue, "streaming");
	char	   *names = publication_list(&consumer->source);
	StringInfoData command;

	initStringInfo(&command);
	appendStringInfo(&command, "START_REPLICATION SLOT %s LOGICAL %X/%X (proto_version '%d', publication_names '",
					 quote_identifier(consumer->slot), LSN_FORMAT_ARGS(consumer->start_at), protocol_version(version));
	for (const char *p = names; *p != '\0'; p++)
	{
		if (*p == '\'')
			appendStringInfoChar(&command, '\'');
		appendStringInfoChar(&command, *p);
	}
	appendStringInfo(&command, "'%s)", streaming ? ", streaming 'on'" : "");

	memset(&consumer->transaction, 0, sizeof(consumer->transaction));
	consumer->state = POSTGRES_STREAMING;
	consumer->safe = consumer->flushed = consumer->start_at;
	consumer->last_status = consumer->last_message = GetCurrentTimestamp();
	return penstock_postgres_begin(&consumer->main, command.data, PGRES_COPY_BOTH, fault);
}

/* ---- confirming ---- */

/*
 * penstock_postgres_send_status tells the server how far the changes have been read and acknowledged; ask: and wants a sign of life.  false: the
 * connection is gone.
 */
bool
penstock_postgres_send_status(PenstockConsumer *consumer, bool ask)
{
	TimestampTz now = GetCurrentTimestamp();
	StringInfoData message;
	bool		sent;

	if (!consumer->outstanding)
		consumer->flushed = Max(consumer->flushed, consumer->transaction.open ? consumer->transaction.commit_lsn : consumer->safe);
	consumer->received = Max(consumer->received, consumer->flushed);
	initStringInfo(&message);
	pq_sendbyte(&message, 'r');
	pq_sendint64(&message, consumer->received);
	pq_sendint64(&message, consumer->flushed);
	pq_sendint64(&message, consumer->flushed);
	pq_sendint64(&message, now);
	pq_sendbyte(&message, ask ? 1 : 0);
	sent = PQputCopyData(consumer->main.conn, message.data, message.len) >= 0 && PQflush(consumer->main.conn) >= 0;
	pfree(message.data);
	consumer->last_status = now;
	return sent;
}

/* ---- tables ---- */

typedef struct RelationEntry
{
	uint32		id;
	PostgresRelation *relation;
} RelationEntry;

/*
 * penstock_postgres_learn takes in the description of a table (a Relation message from behind its type).
 */
PenstockOutcome
penstock_postgres_learn(PenstockConsumer *consumer, const char *message, int length, PenstockFault *fault)
{
	const PostgresSource *source = &consumer->source;
	PostgresReader reader = {.at = message, .end = message + length};
	uint32		id = penstock_postgres_int32(&reader);
	RelationEntry *entry;
	PostgresRelation *relation;
	MemoryContext old;
	bool		found;

	if (reader.bad)
		return malformed(consumer, 'R', fault);
	entry = hash_search(consumer->relations, &id, HASH_FIND, NULL);
	if (entry != NULL && entry->relation->length == length && memcmp(entry->relation->message, message, length) == 0)
		return PENSTOCK_OK;

	/* rows that are still in a batch point to the old one: it stays */
	old = MemoryContextSwitchTo(consumer->context);
	relation = penstock_postgres_relation(message, length);
	if (relation != NULL)
	{
		relation->wanted = source->table == NULL ||
			(strcmp(relation->schema, source->schema) == 0 && strcmp(relation->name, source->table) == 0);
		penstock_postgres_fit(consumer->shape, relation, source->table != NULL && relation->wanted);
	}
	MemoryContextSwitchTo(old);
	if (relation == NULL)
		return malformed(consumer, 'R', fault);
	entry = hash_search(consumer->relations, &id, HASH_ENTER, &found);
	entry->relation = relation;
	return PENSTOCK_OK;
}

static PenstockOutcome
column_is_missing(PenstockConsumer *consumer, const PostgresRelation *relation, PenstockFault *fault)
{
	PenstockOutcome outcome;

	outcome = penstock_fault(fault, PENSTOCK_REFUSED, ERRCODE_FDW_COLUMN_NAME_NOT_FOUND,
							 "column \"%s\" does not exist in table \"%s.%s\" of server \"%s\"",
							 relation->missing, relation->schema, relation->name, consumer->queue->server_name);
	snprintf(fault->detail, sizeof(fault->detail), "Foreign table %s has it; the changes that come now do not.", consumer->queue->name);
	strlcpy(fault->hint, "Drop the column of the foreign table, or name another one with its option column_name; then the pipe goes on.", sizeof(fault->hint));
	return outcome;
}

/* ---- giving ---- */

/*
 * penstock_postgres_give adds a change to the batch.  Changes of tables that are not wanted are passed over.
 */
PenstockOutcome
penstock_postgres_give(PenstockConsumer *consumer, PenstockBatch *batch, const char *message, int length,
					   const char *partition, int64 offset, int64 next_at, int64 next_row, bool *full, PenstockFault *fault)
{
	const PenstockConnectorApi *api = penstock_connector_api();
	PostgresReader reader = {.at = message + 1, .end = message + length};
	uint32		id = penstock_postgres_int32(&reader);
	RelationEntry *entry;
	PenstockMessage given = {0};
	PostgresRow *row;

	/* a truncation tells its tables further on */
	if (*message == 'T')
	{
		(void) penstock_postgres_byte(&reader);
		id = penstock_postgres_int32(&reader);
	}
	entry = hash_search(consumer->relations, &id, HASH_FIND, NULL);
	if (reader.bad || entry == NULL)
		return malformed(consumer, *message, fault);
	if (!entry->relation->wanted)
		return PENSTOCK_OK;
	if (entry->relation->missing != NULL && *message != 'T')
		return column_is_missing(consumer, entry->relation, fault);

	row = MemoryContextAlloc(api->batch_context(batch), sizeof(PostgresRow));
	if (!penstock_postgres_read_row(*message, message + 1, length - 1, entry->relation, &consumer->transaction, row))
		return malformed(consumer, *message, fault);
	given.payload = message;
	given.length = length;
	given.timestamp = consumer->transaction.timestamp;
	given.partition = partition;
	given.offset = offset;
	given.next_at = next_at;
	given.next_row = next_row;
	given.row = row;
	consumer->outstanding = consumer->given = true;
	if (!api->batch_add(batch, &given))
		*full = true;
	return PENSTOCK_OK;
}

/* A change of the transaction that is being given. */
static PenstockOutcome
give_change(PenstockConsumer *consumer, PenstockBatch *batch, const char *message, int length, bool *full, PenstockFault *fault)
{
	PostgresTransaction *transaction = &consumer->transaction;

	if (!transaction->open)
		return malformed(consumer, *message, fault);
	if (++transaction->rows <= transaction->skip)
		return PENSTOCK_OK;
	return penstock_postgres_give(consumer, batch, message, length, "", (int64) transaction->commit_lsn,
								  (int64) transaction->commit_lsn, transaction->rows, full, fault);
}

/* A truncation is one change for each of its tables: it is taken apart. */
static PenstockOutcome
give_truncate(PenstockConsumer *consumer, PenstockBatch *batch, const char *message, int length, bool *full, PenstockFault *fault)
{
	PostgresReader reader = {.at = message + 1, .end = message + length};
	uint32		n = penstock_postgres_int32(&reader);
	uint8		flags = penstock_postgres_byte(&reader);
	PenstockOutcome outcome = PENSTOCK_OK;

	for (uint32 i = 0; i < n && outcome == PENSTOCK_OK; i++)
	{
		uint32		id = penstock_postgres_int32(&reader);

		if (reader.bad)
			return malformed(consumer, 'T', fault);
		resetStringInfo(&consumer->line);
		appendStringInfoChar(&consumer->line, 'T');
		pq_sendint32(&consumer->line, 1);
		pq_sendbyte(&consumer->line, flags);
		pq_sendint32(&consumer->line, id);
		outcome = give_change(consumer, batch, consumer->line.data, consumer->line.len, full, fault);
	}
	return outcome;
}

/* ---- transactions ---- */

static void
begin_transaction(PenstockConsumer *consumer, XLogRecPtr commit_lsn, TimestampTz timestamp, TransactionId xid)
{
	PostgresTransaction *transaction = &consumer->transaction;

	memset(transaction, 0, sizeof(PostgresTransaction));
	transaction->open = true;
	transaction->commit_lsn = commit_lsn;
	transaction->timestamp = timestamp;
	transaction->xid = xid;
	if (commit_lsn == consumer->start_at)
		transaction->skip = consumer->start_row;
	else if (commit_lsn < consumer->start_at)
		transaction->skip = PG_INT64_MAX;
}

static void
end_transaction(PenstockConsumer *consumer, XLogRecPtr end_lsn)
{
	consumer->transaction.open = false;
	consumer->safe = Max(consumer->safe, end_lsn);
}

/* The name stays as long as the consumer; there are few. */
static void
set_origin(PenstockConsumer *consumer, PostgresReader *reader)
{
	const char *last = consumer->transaction.origin;
	const char *name;

	(void) penstock_postgres_int64(reader);
	name = penstock_postgres_string(reader);
	if (consumer->last_origin == NULL || strcmp(consumer->last_origin, name) != 0)
		consumer->last_origin = MemoryContextStrdup(consumer->context, name);
	consumer->transaction.origin = last ? last : consumer->last_origin;
}

/* A message outside of a streamed transaction, or one of a streamed transaction that is read back. */
static PenstockOutcome
handle_message(PenstockConsumer *consumer, PenstockBatch *batch, const char *message, int length, bool *full, PenstockFault *fault)
{
	PostgresReader reader = {.at = message + 1, .end = message + length};
	XLogRecPtr	lsn;
	TimestampTz timestamp;
	TransactionId xid;
	TransactionId subxid;

	switch (*message)
	{
		case 'B':
			lsn = penstock_postgres_int64(&reader);
			timestamp = penstock_postgres_int64(&reader);
			begin_transaction(consumer, lsn, timestamp, penstock_postgres_int32(&reader));
			break;
		case 'C':
			(void) penstock_postgres_byte(&reader);
			(void) penstock_postgres_int64(&reader);
			end_transaction(consumer, penstock_postgres_int64(&reader));
			break;
		case 'O':
			set_origin(consumer, &reader);
			break;
		case 'R':
			return penstock_postgres_learn(consumer, message + 1, length - 1, fault);
		case 'I':
		case 'U':
		case 'D':
			return give_change(consumer, batch, message, length, full, fault);
		case 'T':
			return give_truncate(consumer, batch, message, length, full, fault);
		case 'Y':				/* a type's name: not needed */
		case 'M':				/* a message: not asked for */
			break;
		case 'S':
			penstock_postgres_spill_start(consumer->spill, penstock_postgres_int32(&reader));
			break;
		case 'c':
			xid = penstock_postgres_int32(&reader);
			(void) penstock_postgres_byte(&reader);
			lsn = penstock_postgres_int64(&reader);
			consumer->replay_end = penstock_postgres_int64(&reader);
			timestamp = penstock_postgres_int64(&reader);
			if (reader.bad)
				break;
			begin_transaction(consumer, lsn, timestamp, xid);
			consumer->replaying = penstock_postgres_spill_commit(consumer->spill, xid);
			if (!consumer->replaying)
				end_transaction(consumer, consumer->replay_end);
			break;
		case 'A':
			xid = penstock_postgres_int32(&reader);
			subxid = penstock_postgres_int32(&reader);
			if (!reader.bad)
				penstock_postgres_spill_abort(consumer->spill, xid, subxid);
			break;
		default:
			reader.bad = true;
	}
	return reader.bad ? malformed(consumer, *message, fault) : PENSTOCK_OK;
}

/* A message of a transaction that is being streamed: most begin with an xid. */
static PenstockOutcome
spill_message(PenstockConsumer *consumer, const char *message, int length, PenstockFault *fault)
{
	PostgresReader reader = {.at = message + 1, .end = message + length};
	TransactionId xid = InvalidTransactionId;

	if (*message == 'E')
	{
		penstock_postgres_spill_stop(consumer->spill);
		return PENSTOCK_OK;
	}
	if (strchr("RYIUDTM", *message) != NULL)
		xid = penstock_postgres_int32(&reader);
	else if (*message != 'O')
		reader.bad = true;
	if (reader.bad)
		return malformed(consumer, *message, fault);
	penstock_postgres_spill_add(consumer->spill, xid, *message, reader.at, reader.end - reader.at);
	return PENSTOCK_OK;
}

/* Gives a streamed transaction that has committed. */
static PenstockOutcome
replay(PenstockConsumer *consumer, PenstockBatch *batch, bool *full, PenstockFault *fault)
{
	const char *message;
	int			length;

	while (!*full && (message = penstock_postgres_spill_next(consumer->spill, &length)) != NULL)
	{
		PenstockOutcome outcome = handle_message(consumer, batch, message, length, full, fault);

		if (outcome != PENSTOCK_OK)
			return outcome;
	}
	if (*full)
		return PENSTOCK_OK;
	consumer->replaying = false;
	end_transaction(consumer, consumer->replay_end);
	return PENSTOCK_OK;
}

/* ---- receiving ---- */

static PenstockOutcome
handle_copy_data(PenstockConsumer *consumer, PenstockBatch *batch, const char *data, int length, bool *full, PenstockFault *fault)
{
	PostgresReader reader = {.at = data, .end = data + length};
	XLogRecPtr	lsn;

	switch (penstock_postgres_byte(&reader))
	{
		case 'w':
			lsn = penstock_postgres_int64(&reader);
			(void) penstock_postgres_int64(&reader);
			(void) penstock_postgres_int64(&reader);
			if (reader.bad || reader.at == reader.end)
				return malformed(consumer, 'w', fault);
			consumer->received = Max(consumer->received, lsn);
			if (penstock_postgres_spill_is_open(consumer->spill))
				return spill_message(consumer, reader.at, reader.end - reader.at, fault);
			return handle_message(consumer, batch, reader.at, reader.end - reader.at, full, fault);
		case 'k':
			lsn = penstock_postgres_int64(&reader);
			(void) penstock_postgres_int64(&reader);
			if (!consumer->transaction.open)
				consumer->safe = Max(consumer->safe, lsn);
			if (penstock_postgres_byte(&reader) != 0)
				consumer->status_wanted = true;
			return reader.bad ? malformed(consumer, 'k', fault) : PENSTOCK_OK;
		default:
			return malformed(consumer, length > 0 ? *data : '?', fault);
	}
}

/* The server has ended the changes: it says why in a result. */
static PenstockOutcome
ended(PenstockConsumer *consumer, int length, PenstockFault *fault)
{
	PGresult   *result = length == -1 ? PQgetResult(consumer->main.conn) : NULL;
	PenstockOutcome outcome;

	if (PQresultStatus(result) == PGRES_FATAL_ERROR || result == NULL)
		outcome = penstock_postgres_fault(&consumer->main, result, "replication was ended by the server", fault);
	else
		outcome = penstock_fault(fault, PENSTOCK_AWAY, ERRCODE_CONNECTION_FAILURE, "server \"%s\" has ended the replication", consumer->main.server);
	PQclear(result);
	return outcome;
}

/* Has the server been silent for too long?  It is asked for a sign of life half way.  heard: no, or nobody listened. */
static PenstockOutcome
check_silence(PenstockConsumer *consumer, bool heard, PenstockFault *fault)
{
	TimestampTz now = GetCurrentTimestamp();
	long		silent;

	if (heard)
	{
		consumer->last_message = now;
		consumer->asked = false;
	}
	silent = TimestampDifferenceMilliseconds(consumer->last_message, now);
	if (consumer->asked && TimestampDifferenceExceeds(consumer->asked_at, now, consumer->receive_timeout / 2))
		return penstock_fault(fault, PENSTOCK_AWAY, ERRCODE_CONNECTION_FAILURE, "server \"%s\" has been silent for %ld s", consumer->main.server, silent / 1000);
	if (consumer->status_wanted || TimestampDifferenceMilliseconds(consumer->last_status, now) >= consumer->status_interval)
	{
		bool		ask = consumer->receive_timeout > 0 && silent > consumer->receive_timeout / 2;

		if (ask && !consumer->asked)
			consumer->asked_at = now;
		consumer->status_wanted = false;
		if (!penstock_postgres_send_status(consumer, ask))
			return penstock_postgres_fault(&consumer->main, NULL, "lost the connection", fault);
		consumer->asked = consumer->asked || ask;
	}
	return PENSTOCK_OK;
}

/* Takes one piece of data; its length as PQgetCopyData says it. */
static int
next_copy_data(PenstockConsumer *consumer, char **data)
{
	int			length = PQgetCopyData(consumer->main.conn, data, 1);

	if (length != 0)
		return length;
	if (!penstock_postgres_receive(&consumer->main))
		return -2;
	return PQgetCopyData(consumer->main.conn, data, 1);
}

/*
 * penstock_postgres_fetch_changes gives what has arrived.
 */
PenstockOutcome
penstock_postgres_fetch_changes(PenstockConsumer *consumer, PenstockBatch *batch, PenstockFault *fault)
{
	PenstockOutcome outcome = PENSTOCK_OK;
	bool		full = false;
	bool		heard = false;
	int			length = 0;

	for (int n = 0; outcome == PENSTOCK_OK && !full; n++)
	{
		if (consumer->replaying)
		{
			outcome = replay(consumer, batch, &full, fault);
			continue;
		}
		if (n >= MESSAGES_AT_ONCE)
		{
			consumer->more = true;
			break;
		}
		length = next_copy_data(consumer, &consumer->data);
		if (length == 0)
			break;
		if (length < 0)
			return ended(consumer, length, fault);
		heard = true;
		outcome = handle_copy_data(consumer, batch, consumer->data, length, &full, fault);
		PQfreemem(consumer->data);
		consumer->data = NULL;
	}
	if (full)
		consumer->more = true;
	if (outcome == PENSTOCK_OK)
		outcome = check_silence(consumer, heard || full || consumer->main.heard, fault);
	consumer->main.heard = false;
	return outcome;
}

/* ---- catching up ---- */

/* Where the server's WAL ends now, asked over a connection of its own; Invalid if it does not say. */
static XLogRecPtr
end_of_wal(PenstockConsumer *consumer)
{
	PostgresSession *session = &consumer->copy;
	PenstockOutcome outcome;
	PenstockFault fault;
	PostgresRows *rows = NULL;
	XLogRecPtr	result = InvalidXLogRecPtr;

	if (session->conn != NULL || penstock_postgres_connect(session, consumer->queue, false, &outcome, &fault))
		rows = penstock_postgres_query(session, "SELECT CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_last_wal_replay_lsn()"
									   " ELSE pg_catalog.pg_current_wal_flush_lsn() END", &outcome, &fault);
	if (rows != NULL && rows->n == 1 && penstock_postgres_value(rows, 0, 0) != NULL)
		result = DatumGetLSN(DirectFunctionCall1(pg_lsn_in, CStringGetDatum(penstock_postgres_value(rows, 0, 0))));
	else
		penstock_postgres_disconnect(session);
	return result;
}

/*
 * penstock_postgres_caught_up returns the highest ticket of which everything has been given that was committed there when it was first shown
 * here.
 */
uint64
penstock_postgres_caught_up(PenstockConsumer *consumer, uint64 ticket)
{
	if (consumer->state != POSTGRES_STREAMING || consumer->transaction.open)
		return consumer->ticket_done;
	if (consumer->ticket <= consumer->ticket_done && ticket > consumer->ticket_done)
	{
		consumer->ticket_end = end_of_wal(consumer);
		if (!XLogRecPtrIsInvalid(consumer->ticket_end))
			consumer->ticket = ticket;
	}
	if (consumer->ticket > consumer->ticket_done && consumer->safe >= consumer->ticket_end)
		consumer->ticket_done = consumer->ticket;
	return consumer->ticket_done;
}
