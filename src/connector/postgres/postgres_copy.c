/*
 * postgres_copy.c
 *	  The rows that are there: the initial copy of a pipe, and what an ad-hoc SELECT reads.
 *
 * The copy of a pipe goes through a file; postgres_spool.c says why.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "portability/instr_time.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/pg_lsn.h"

#include "connector/postgres/postgres_connector.h"

/* fetch does not stay longer than that where nothing is given */
#define SLICE 100				/* ms */
#define ROWS_AT_ONCE 1000		/* until it looks at the time */

/* ---- the slot ---- */

/*
 * penstock_postgres_create_slot asks for the slot.  The server makes it when all transactions that run there have ended, which may be long:
 * fetch looks for the answer.
 */
PenstockOutcome
penstock_postgres_create_slot(PenstockConsumer *consumer, bool export, PenstockFault *fault)
{
	PenstockOutcome outcome = PENSTOCK_OK;

	if (export)
	{
		if (!penstock_postgres_connect(&consumer->copy, consumer->queue, false, &outcome, fault))
			return outcome;
		penstock_postgres_spool_begin(consumer->spool);
	}
	else
		consumer->spool = NULL;
	if (!PQsendQuery(consumer->main.conn, psprintf("CREATE_REPLICATION_SLOT %s LOGICAL pgoutput %s", quote_identifier(consumer->slot),
												   export ? "EXPORT_SNAPSHOT" : "NOEXPORT_SNAPSHOT")))
		return penstock_postgres_fault(&consumer->main, NULL, "lost the connection", fault);
	consumer->state = POSTGRES_CREATING;
	consumer->last_message = GetCurrentTimestamp();
	return PENSTOCK_OK;
}

/* Asks for a table.  The server says that it has begun with its first rows, which may be long: fetch looks for that. */
static PenstockOutcome
start_table(PenstockConsumer *consumer, PenstockFault *fault)
{
	PostgresTable *table = list_nth(consumer->tables, consumer->table);

	consumer->has_begun = false;
	consumer->last_message = GetCurrentTimestamp();
	if (PQsendQuery(consumer->copy.conn, table->command))
		return PENSTOCK_OK;
	return penstock_postgres_fault(&consumer->copy, NULL, "lost the connection", fault);
}

/* Makes the tables known, as if pgoutput had described them. */
static PenstockOutcome
describe_tables(PenstockConsumer *consumer, PenstockFault *fault)
{
	ListCell   *lc;
	PenstockOutcome outcome = PENSTOCK_OK;

	foreach(lc, consumer->tables)
	{
		PostgresTable *table = lfirst(lc);

		resetStringInfo(&consumer->line);
		penstock_postgres_put_relation(&consumer->line, table->relation);
		if (consumer->state == POSTGRES_BROWSING)
			outcome = penstock_postgres_learn(consumer, consumer->line.data + 1, consumer->line.len - 1, fault);
		else
			penstock_postgres_spool_add(consumer->spool, consumer->line.data, consumer->line.len);
		if (outcome != PENSTOCK_OK)
			return outcome;
	}
	return PENSTOCK_OK;
}

/* The slot is there: starts to copy under its snapshot. */
static PenstockOutcome
start_copy(PenstockConsumer *consumer, const char *lsn, const char *snapshot, PenstockFault *fault)
{
	PenstockOutcome outcome = PENSTOCK_OK;
	MemoryContext old = MemoryContextSwitchTo(consumer->context);

	penstock_postgres_spool_lsn(consumer->spool, DatumGetLSN(DirectFunctionCall1(pg_lsn_in, CStringGetDatum(lsn))));
	if (penstock_postgres_query(&consumer->copy, psprintf("BEGIN TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY; SET TRANSACTION SNAPSHOT %s",
														  quote_literal_cstr(snapshot)), &outcome, fault) != NULL)
		consumer->tables = penstock_postgres_tables(&consumer->copy, &consumer->source, true, &outcome, fault);
	MemoryContextSwitchTo(old);
	if (outcome == PENSTOCK_OK)
		outcome = describe_tables(consumer, fault);
	consumer->state = POSTGRES_COPYING;
	consumer->table = 0;
	if (outcome == PENSTOCK_OK && consumer->tables != NIL)
		outcome = start_table(consumer, fault);
	consumer->more = true;
	return outcome;
}

static PenstockOutcome
create_slot_answer(PenstockConsumer *consumer, PenstockFault *fault)
{
	PenstockOutcome outcome;
	PGresult   *result;
	char	   *lsn;
	char	   *snapshot;

	if (!penstock_postgres_receive(&consumer->main))
		return penstock_postgres_fault(&consumer->main, NULL, "lost the connection", fault);
	if (PQisBusy(consumer->main.conn))
		return PENSTOCK_OK;
	result = PQgetResult(consumer->main.conn);
	if (PQresultStatus(result) != PGRES_TUPLES_OK || PQntuples(result) != 1 || PQnfields(result) < 3)
	{
		outcome = penstock_postgres_fault(&consumer->main, result, "could not create the replication slot", fault);
		PQclear(result);
		return outcome;
	}
	lsn = pstrdup(PQgetvalue(result, 0, 1));
	snapshot = PQgetisnull(result, 0, 2) ? NULL : pstrdup(PQgetvalue(result, 0, 2));
	PQclear(result);
	/* the answer has ended */
	while ((result = PQgetResult(consumer->main.conn)) != NULL)
		PQclear(result);
	if (consumer->spool != NULL)
		return start_copy(consumer, lsn, snapshot ? snapshot : "", fault);
	return penstock_postgres_start(consumer, fault);
}

/* ---- copying ---- */

/* Is the time up that fetch may stay? */
static bool
time_is_up(instr_time start)
{
	instr_time	now;

	INSTR_TIME_SET_CURRENT(now);
	INSTR_TIME_SUBTRACT(now, start);
	return INSTR_TIME_GET_MILLISEC(now) > SLICE;
}

/* Does the table's copy come already?  An outcome that is not OK: it will not. */
static bool
copy_comes(PenstockConsumer *consumer, PenstockOutcome *outcome, PenstockFault *fault)
{
	PGresult   *result;

	*outcome = PENSTOCK_OK;
	if (consumer->has_begun)
		return true;
	if (PQflush(consumer->copy.conn) < 0 || !penstock_postgres_receive(&consumer->copy))
	{
		*outcome = penstock_postgres_fault(&consumer->copy, NULL, "lost the connection", fault);
		return false;
	}
	if (PQisBusy(consumer->copy.conn))
		return false;
	result = PQgetResult(consumer->copy.conn);
	consumer->has_begun = PQresultStatus(result) == PGRES_COPY_OUT;
	if (!consumer->has_begun)
		*outcome = penstock_postgres_fault(&consumer->copy, result, "could not copy the table", fault);
	PQclear(result);
	return consumer->has_begun;
}

/*
 * Takes the next row of the table being copied, as a message in consumer->line; false: there is none now.  *done: nor will there be.
 */
static bool
next_line(PenstockConsumer *consumer, bool *done, PenstockOutcome *outcome, PenstockFault *fault)
{
	PostgresTable *table = list_nth(consumer->tables, consumer->table);
	PGresult   *result;
	int			length;
	bool		good;

	*done = false;
	if (!copy_comes(consumer, outcome, fault))
		return false;
	length = PQgetCopyData(consumer->copy.conn, &consumer->data, 1);
	if (length == 0)
	{
		if (!penstock_postgres_receive(&consumer->copy))
			*outcome = penstock_postgres_fault(&consumer->copy, NULL, "lost the connection", fault);
		else
			length = PQgetCopyData(consumer->copy.conn, &consumer->data, 1);
	}
	if (length > 0)
	{
		resetStringInfo(&consumer->line);
		good = penstock_postgres_put_line(&consumer->line, table->relation, consumer->data, length);
		PQfreemem(consumer->data);
		consumer->data = NULL;
		if (!good)
			*outcome = penstock_fault(fault, PENSTOCK_REFUSED, ERRCODE_FDW_ERROR, "malformed row of table \"%s.%s\"",
									  table->relation->schema, table->relation->name);
		return good;
	}
	if (length == 0 || *outcome != PENSTOCK_OK)
		return false;

	result = length == -1 ? PQgetResult(consumer->copy.conn) : NULL;
	if (PQresultStatus(result) == PGRES_COMMAND_OK)
		*done = true;
	else
		*outcome = penstock_postgres_fault(&consumer->copy, result, "could not copy the table", fault);
	PQclear(result);
	while (*done && (result = PQgetResult(consumer->copy.conn)) != NULL)
		PQclear(result);
	return false;
}

/* Goes to the next table; false: that was the last. */
static bool
next_table(PenstockConsumer *consumer, PenstockOutcome *outcome, PenstockFault *fault)
{
	*outcome = PENSTOCK_OK;
	if (++consumer->table >= list_length(consumer->tables))
		return false;
	*outcome = start_table(consumer, fault);
	return true;
}

/* Copies what has arrived into the file. */
static PenstockOutcome
copy_to_spool(PenstockConsumer *consumer, PenstockFault *fault)
{
	PenstockOutcome outcome;
	instr_time	start;
	bool		done = consumer->tables == NIL;

	INSTR_TIME_SET_CURRENT(start);
	while (!done)
	{
		int			rows = 0;

		for (; rows < ROWS_AT_ONCE && next_line(consumer, &done, &outcome, fault); rows++)
			penstock_postgres_spool_add(consumer->spool, consumer->line.data, consumer->line.len);
		if (outcome != PENSTOCK_OK)
			return outcome;
		if (done && next_table(consumer, &outcome, fault))
			done = false;
		if (outcome != PENSTOCK_OK)
			return outcome;
		CHECK_FOR_INTERRUPTS();
		if (!done && time_is_up(start))
		{
			consumer->more = true;
			return PENSTOCK_OK;
		}
		/* the next one has not come yet */
		if (!done && rows < ROWS_AT_ONCE)
			return PENSTOCK_OK;
	}
	penstock_postgres_disconnect(&consumer->copy);
	penstock_postgres_spool_complete(consumer->spool);
	penstock_postgres_spool_open(consumer->spool, 0);
	consumer->state = POSTGRES_GIVING;
	return PENSTOCK_OK;
}

/* ---- silence ---- */

/* Asks over another connection: is the server at work for that one, or wants to send and cannot? */
static PenstockOutcome
ask_about(PenstockConsumer *consumer, PostgresSession *session, bool *works, PenstockFault *fault)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "penstock question", ALLOCSET_SMALL_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	PostgresSession *other = penstock_postgres_new_session(consumer->queue);
	PenstockOutcome outcome = PENSTOCK_OK;
	PostgresRows *rows = NULL;
	const char *value = NULL;

	if (penstock_postgres_connect(other, consumer->queue, false, &outcome, fault))
		rows = penstock_postgres_query(other, psprintf("SELECT state IN ('active', 'disabled') AND wait_event IS DISTINCT FROM 'ClientWrite'"
													   " FROM pg_catalog.pg_stat_activity WHERE pid = %d", PQbackendPID(session->conn)),
									   &outcome, fault);
	if (rows != NULL && rows->n == 1)
		value = penstock_postgres_value(rows, 0, 0);
	*works = value != NULL && *value == 't';
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
	return outcome;
}

/*
 * Has nothing come for too long from a server that was asked to do something?  It cannot say that it is still at work, so somebody else is
 * asked.
 */
static PenstockOutcome
check_silence(PenstockConsumer *consumer, PostgresSession *session, PenstockFault *fault)
{
	TimestampTz now = GetCurrentTimestamp();
	PenstockOutcome outcome;
	bool		works;

	if (session->heard)
		consumer->last_message = now;
	session->heard = false;
	if (consumer->receive_timeout == 0 || !TimestampDifferenceExceeds(consumer->last_message, now, consumer->receive_timeout))
		return PENSTOCK_OK;
	outcome = ask_about(consumer, session, &works, fault);
	if (outcome != PENSTOCK_OK)
		return outcome;
	if (!works)
		return penstock_fault(fault, PENSTOCK_AWAY, ERRCODE_CONNECTION_FAILURE, "server \"%s\" has been silent for %ld s", session->server,
							  TimestampDifferenceMilliseconds(consumer->last_message, now) / 1000);
	consumer->last_message = GetCurrentTimestamp();
	return PENSTOCK_OK;
}

/* ---- giving ---- */

/* Gives rows from the file; behind the last one the changes begin. */
static PenstockOutcome
give_spool(PenstockConsumer *consumer, PenstockBatch *batch, PenstockFault *fault)
{
	const char *message;
	int			length;
	int64		place;
	bool		full = false;
	PenstockOutcome outcome;

	memset(&consumer->transaction, 0, sizeof(consumer->transaction));
	while ((message = penstock_postgres_spool_next(consumer->spool, &length, &place)) != NULL)
	{
		if (*message == 'R')
			outcome = penstock_postgres_learn(consumer, message + 1, length - 1, fault);
		else
			outcome = penstock_postgres_give(consumer, batch, message, length, "copy", place, place, 0, &full, fault);
		if (outcome != PENSTOCK_OK)
			return outcome;
		if (full)
		{
			consumer->more = true;
			return PENSTOCK_OK;
		}
	}
	consumer->more = true;
	return penstock_postgres_start(consumer, fault);
}

/*
 * penstock_postgres_browse starts to read the rows that are there, of the table or of all of the publication, under one snapshot.
 */
PenstockOutcome
penstock_postgres_browse(PenstockConsumer *consumer, PenstockFault *fault)
{
	PenstockOutcome outcome = PENSTOCK_OK;

	consumer->state = POSTGRES_BROWSING;
	if (!penstock_postgres_connect(&consumer->copy, consumer->queue, false, &outcome, fault) ||
		penstock_postgres_query(&consumer->copy, "BEGIN TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY", &outcome, fault) == NULL)
		return outcome;
	consumer->tables = penstock_postgres_tables(&consumer->copy, &consumer->source, consumer->source.table == NULL, &outcome, fault);
	if (outcome != PENSTOCK_OK)
		return outcome;
	if (consumer->tables == NIL)
		return consumer->source.table != NULL ?
			penstock_fault(fault, PENSTOCK_REFUSED, ERRCODE_UNDEFINED_TABLE, "table \"%s.%s\" does not exist on server \"%s\"",
						   consumer->source.schema, consumer->source.table, consumer->copy.server) :
			penstock_fault(fault, PENSTOCK_REFUSED, ERRCODE_UNDEFINED_OBJECT, "publication \"%s\" of server \"%s\" has no tables",
						   (char *) linitial(consumer->source.publications), consumer->copy.server);
	outcome = describe_tables(consumer, fault);
	if (outcome == PENSTOCK_OK)
		outcome = start_table(consumer, fault);
	return outcome;
}

static PenstockOutcome
give_rows(PenstockConsumer *consumer, PenstockBatch *batch, PenstockFault *fault)
{
	PenstockOutcome outcome;
	bool		full = false;
	bool		done;

	for (;;)
	{
		while (!full && next_line(consumer, &done, &outcome, fault))
		{
			outcome = penstock_postgres_give(consumer, batch, consumer->line.data, consumer->line.len, "copy", 0, 0, 0, &full, fault);
			if (outcome != PENSTOCK_OK)
				return outcome;
		}
		if (full)
			consumer->more = true;
		if (full || outcome != PENSTOCK_OK || !done)
			return outcome;
		if (!next_table(consumer, &outcome, fault))
		{
			consumer->state = POSTGRES_ENDED;
			return PENSTOCK_END;
		}
		if (outcome != PENSTOCK_OK)
			return outcome;
	}
}

PenstockOutcome
penstock_postgres_fetch_copy(PenstockConsumer *consumer, PenstockBatch *batch, PenstockFault *fault)
{
	PostgresSession *session = consumer->state == POSTGRES_CREATING ? &consumer->main : &consumer->copy;
	PostgresState state = consumer->state;
	PenstockOutcome outcome;

	switch (state)
	{
		case POSTGRES_CREATING:
			outcome = create_slot_answer(consumer, fault);
			break;
		case POSTGRES_COPYING:
			outcome = copy_to_spool(consumer, fault);
			break;
		case POSTGRES_GIVING:
			return give_spool(consumer, batch, fault);
		case POSTGRES_BROWSING:
			outcome = give_rows(consumer, batch, fault);
			break;
		default:
			return PENSTOCK_END;
	}
	if (outcome == PENSTOCK_OK && consumer->state == state && !consumer->more)
		outcome = check_silence(consumer, session, fault);
	return outcome;
}
