/*
 * postgres_session.c
 *	  Connections to the remote server: made and asked without ever blocking, and faults in words.
 *
 * libpq gives no SQLSTATE when a connection fails.  So the connection is made with verbose messages, which hold it, and
 * the message is taken apart again: the words may be in any language, the SQLSTATE is not.
 */
#include "postgres.h"

#include <poll.h>

#include "access/xact.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "portability/instr_time.h"
#include "storage/fd.h"
#include "storage/latch.h"
#include "utils/elog.h"
#include "utils/wait_event.h"

#include "connector/postgres/postgres_connector.h"

/* Options that are libpq's, by the same name. */
static const char *const libpq_options[] = {
	"host", "hostaddr", "port", "dbname", "target_session_attrs", "sslmode", "sslrootcert", "sslcert", "sslkey", "sslcrl",
	"channel_binding", "gssencmode", "keepalives_idle", "keepalives_interval", "keepalives_count", "tcp_user_timeout",
	"application_name", "user", "password", "sslpassword"
};

/*
 * Values must come in a form that does not depend on settings there.  A batch may take longer than wal_sender_timeout usually
 * allows; a connection that is really gone is noticed by keepalives of TCP.
 */
#define SETTINGS "-c datestyle=ISO -c intervalstyle=postgres -c extra_float_digits=3 -c bytea_output=hex -c search_path=pg_catalog " \
	"-c statement_timeout=0 -c lock_timeout=0 -c idle_in_transaction_session_timeout=0 -c wal_sender_timeout=%d"

/* Notices are of no use to anybody here, and may hold data. */
static void
ignore_notice(void *arg, const PGresult *result)
{
}

/* Sleeps until the socket is ready or the time is up (false).  The latch keeps what others have set. */
static bool
wait_for_socket(PGconn *conn, int events, instr_time start, int timeout)
{
	bool		was_set = false;
	int			happened;

	for (;;)
	{
		instr_time	now;
		long		left;

		CHECK_FOR_INTERRUPTS();
		INSTR_TIME_SET_CURRENT(now);
		INSTR_TIME_SUBTRACT(now, start);
		left = timeout - (long) INSTR_TIME_GET_MILLISEC(now);
		if (left <= 0)
			happened = WL_TIMEOUT;
		else
			happened = WaitLatchOrSocket(MyLatch, WL_LATCH_SET | WL_EXIT_ON_PM_DEATH | WL_TIMEOUT | events,
										 PQsocket(conn), left, PG_WAIT_EXTENSION);
		if ((happened & WL_LATCH_SET) != 0)
		{
			ResetLatch(MyLatch);
			was_set = true;
		}
		if ((happened & (events | WL_TIMEOUT)) != 0)
			break;
	}
	if (was_set)
		SetLatch(MyLatch);
	return (happened & events) != 0;
}

/* ---- faults ---- */

/* The SQLSTATE in a verbose message, and where its words begin. */
static int
find_sqlstate(const char *message, const char **words)
{
	for (const char *p = strstr(message, ":  "); p != NULL; p = strstr(p + 1, ":  "))
	{
		const char *code = p + 3;

		if (strspn(code, "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ") == 5 && code[5] == ':' && code[6] == ' ')
		{
			*words = code + 7;
			return MAKE_SQLSTATE(code[0], code[1], code[2], code[3], code[4]);
		}
	}
	*words = message;
	return 0;
}

/* May it go away by itself? */
static PenstockOutcome
outcome_of(int sqlstate)
{
	switch (ERRCODE_TO_CATEGORY(sqlstate))
	{
		case MAKE_SQLSTATE('0', '0', '0', '0', '0'):	/* none known: the network */
		case ERRCODE_CONNECTION_EXCEPTION:
		case ERRCODE_INSUFFICIENT_RESOURCES:
		case ERRCODE_OPERATOR_INTERVENTION:
		case ERRCODE_TRANSACTION_ROLLBACK:
		case ERRCODE_SYSTEM_ERROR:
			/* but not WAL that has been removed */
			return sqlstate == ERRCODE_UNDEFINED_FILE ? PENSTOCK_REFUSED : PENSTOCK_AWAY;
		default:
			return sqlstate == ERRCODE_OBJECT_IN_USE || sqlstate == ERRCODE_LOCK_NOT_AVAILABLE ? PENSTOCK_AWAY : PENSTOCK_REFUSED;
	}
}

/* One line of a message, without secrets. */
static void
copy_line(PostgresSession *session, const char *text, char *line, int size)
{
	int			length = strcspn(text, "\r\n");
	char	   *found;

	snprintf(line, size, "%.*s", pg_mbcliplen(text, length, Min(length, size - 1)), text);
	if (session->password != NULL && *session->password != '\0')
		while ((found = strstr(line, session->password)) != NULL)
			memset(found, '*', strlen(session->password));
}

/*
 * penstock_postgres_fault fills the fault of a result or, when it is NULL, of the connection; what: what was tried ("could not ...").
 */
PenstockOutcome
penstock_postgres_fault(PostgresSession *session, const PGresult *result, const char *what, PenstockFault *fault)
{
	const char *code = result ? PQresultErrorField(result, PG_DIAG_SQLSTATE) : NULL;
	const char *words = result ? PQresultErrorField(result, PG_DIAG_MESSAGE_PRIMARY) : NULL;
	const char *detail = result ? PQresultErrorField(result, PG_DIAG_MESSAGE_DETAIL) : NULL;
	const char *hint = result ? PQresultErrorField(result, PG_DIAG_MESSAGE_HINT) : NULL;
	char		line[400];
	int			sqlstate;

	if (code != NULL && strlen(code) == 5)
		sqlstate = MAKE_SQLSTATE(code[0], code[1], code[2], code[3], code[4]);
	else if (words == NULL)
		sqlstate = find_sqlstate(result && *PQresultErrorMessage(result) ? PQresultErrorMessage(result) : PQerrorMessage(session->conn), &words);
	else
		sqlstate = 0;
	copy_line(session, words && *words ? words : "the connection was closed", line, sizeof(line));
	(void) penstock_fault(fault, PENSTOCK_AWAY, sqlstate ? sqlstate : ERRCODE_CONNECTION_FAILURE, "%s: %s", what, line);
	if (detail != NULL)
		copy_line(session, detail, fault->detail, sizeof(fault->detail));
	if (hint != NULL)
		copy_line(session, hint, fault->hint, sizeof(fault->hint));
	return outcome_of(sqlstate);
}

static PenstockOutcome
too_slow(PostgresSession *session, PenstockFault *fault)
{
	return penstock_fault(fault, PENSTOCK_AWAY, ERRCODE_CONNECTION_FAILURE,
						  "server \"%s\" did not answer within %d s", session->server, session->timeout / 1000);
}

/* ---- connecting ---- */

/* Only superusers may use what the server process itself could log in with. */
static bool
may_connect(PostgresSession *session, bool connected, PenstockFault *fault)
{
	if (session->trusted)
		return true;
	if (connected ? PQconnectionUsedPassword(session->conn) : session->password != NULL && *session->password != '\0')
		return true;
	(void) penstock_fault(fault, PENSTOCK_REFUSED, ERRCODE_S_R_E_PROHIBITED_SQL_STATEMENT_ATTEMPTED,
						  "a password is required to connect to server \"%s\"", session->server);
	strlcpy(fault->detail, connected ? "The server did not ask for the password." : "The user mapping has none.", sizeof(fault->detail));
	strlcpy(fault->hint, "Who is not a superuser needs a user mapping with a password, and a server that asks for it.", sizeof(fault->hint));
	return false;
}

static PenstockOutcome
finish_connecting(PostgresSession *session, PenstockFault *fault)
{
	PostgresPollingStatusType status = PGRES_POLLING_WRITING;
	char		what[200];
	instr_time	start;

	snprintf(what, sizeof(what), "could not connect to server \"%.100s\"", session->server);
	INSTR_TIME_SET_CURRENT(start);
	if (PQstatus(session->conn) == CONNECTION_BAD)
		return penstock_postgres_fault(session, NULL, what, fault);
	while (status != PGRES_POLLING_OK)
	{
		int			events = status == PGRES_POLLING_READING ? WL_SOCKET_READABLE : WL_SOCKET_WRITEABLE;

		if (!wait_for_socket(session->conn, events, start, session->timeout))
			return too_slow(session, fault);
		status = PQconnectPoll(session->conn);
		if (status == PGRES_POLLING_FAILED)
			return penstock_postgres_fault(session, NULL, what, fault);
	}
	return PENSTOCK_OK;
}

/*
 * penstock_postgres_connect connects as the queue's options say; replication: for the replication protocol, which also takes SQL.
 * The session is filled; penstock_postgres_disconnect is due even after a fault.
 */
bool
penstock_postgres_connect(PostgresSession *session, const PenstockQueue *queue, bool replication,
						  PenstockOutcome *outcome, PenstockFault *fault)
{
	const PenstockConnectorApi *api = penstock_connector_api();
	const char *keywords[lengthof(libpq_options) + 6];
	const char *values[lengthof(libpq_options) + 6];
	const char *more = api->option(queue, "options");
	char	   *settings = psprintf(SETTINGS, (int) api->option_int(queue, "sender_timeout"));
	int			n = 0;

	session->server = queue->server_name;
	session->password = api->option(queue, "password");
	session->timeout = 1000 * (int) api->option_int(queue, "connect_timeout");
	*outcome = PENSTOCK_REFUSED;
	if (!may_connect(session, false, fault))
		return false;

	for (int i = 0; i < lengthof(libpq_options); i++)
	{
		keywords[n] = libpq_options[i];
		values[n] = api->option(queue, libpq_options[i]);
		if (values[n] != NULL)
			n++;
	}
	keywords[n] = "options";
	values[n++] = more ? psprintf("%s %s", more, settings) : settings;
	keywords[n] = "client_encoding";
	values[n++] = GetDatabaseEncodingName();
	keywords[n] = "fallback_application_name";
	values[n++] = "penstock";
	if (replication)
	{
		keywords[n] = "replication";
		values[n++] = "database";
	}
	keywords[n] = values[n] = NULL;

	session->counted = AcquireExternalFD();
	session->conn = PQconnectStartParams(keywords, values, false);
	if (session->conn == NULL)
		ereport(ERROR, (errcode(ERRCODE_OUT_OF_MEMORY), errmsg("out of memory")));
	(void) PQsetNoticeReceiver(session->conn, ignore_notice, NULL);
	(void) PQsetErrorVerbosity(session->conn, PQERRORS_VERBOSE);
	*outcome = finish_connecting(session, fault);
	if (*outcome != PENSTOCK_OK)
		return false;
	if (!may_connect(session, true, fault))
	{
		*outcome = PENSTOCK_REFUSED;
		return false;
	}
	(void) PQsetnonblocking(session->conn, 1);
	return true;
}

static void
disconnect(void *session)
{
	penstock_postgres_disconnect(session);
}

/*
 * penstock_postgres_new_session returns a session that is not connected yet, and will not be when the current memory context goes.
 */
PostgresSession *
penstock_postgres_new_session(const PenstockQueue *queue)
{
	PostgresSession *session = palloc0(sizeof(PostgresSession));
	MemoryContextCallback *callback = palloc0(sizeof(MemoryContextCallback));
	MemoryContext old = CurrentMemoryContext;
	bool		own = !IsTransactionState();

	if (own)
		StartTransactionCommand();
	session->trusted = superuser_arg(queue->userid);
	if (own)
		CommitTransactionCommand();
	MemoryContextSwitchTo(old);
	callback->func = disconnect;
	callback->arg = session;
	MemoryContextRegisterResetCallback(CurrentMemoryContext, callback);
	return session;
}

void
penstock_postgres_disconnect(PostgresSession *session)
{
	if (session->conn != NULL)
		PQfinish(session->conn);
	if (session->counted)
		ReleaseExternalFD();
	session->conn = NULL;
	session->counted = false;
}

/* ---- asking ---- */

/*
 * penstock_postgres_receive takes what has arrived, and notes whether anything has: a large message takes long to be whole.
 */
bool
penstock_postgres_receive(PostgresSession *session)
{
	struct pollfd socket = {.fd = PQsocket(session->conn), .events = POLLIN};

	if (poll(&socket, 1, 0) == 1)
		session->heard = true;
	return PQconsumeInput(session->conn) != 0;
}

/* Waits for the next result; false after a fault.  *result is NULL when there is none any more. */
static bool
next_result(PostgresSession *session, instr_time start, PGresult **result, PenstockOutcome *outcome, PenstockFault *fault)
{
	while (PQflush(session->conn) == 1 || PQisBusy(session->conn))
	{
		if (!wait_for_socket(session->conn, WL_SOCKET_READABLE, start, session->timeout))
		{
			*outcome = too_slow(session, fault);
			return false;
		}
		if (!penstock_postgres_receive(session))
		{
			*outcome = penstock_postgres_fault(session, NULL, "lost the connection", fault);
			return false;
		}
	}
	*result = PQgetResult(session->conn);
	return true;
}

static bool
send_query(PostgresSession *session, const char *sql, PenstockOutcome *outcome, PenstockFault *fault)
{
	if (PQsendQuery(session->conn, sql))
		return true;
	*outcome = penstock_postgres_fault(session, NULL, "lost the connection", fault);
	return false;
}

/* The result's rows, in the current context. */
static PostgresRows *
copy_rows(const PGresult *result)
{
	PostgresRows *rows = palloc(sizeof(PostgresRows));

	rows->n = PQntuples(result);
	rows->ncolumns = PQnfields(result);
	rows->values = palloc0_array(const char *, rows->n * rows->ncolumns + 1);
	for (int i = 0; i < rows->n; i++)
		for (int j = 0; j < rows->ncolumns; j++)
			if (!PQgetisnull(result, i, j))
				rows->values[i * rows->ncolumns + j] = pstrdup(PQgetvalue(result, i, j));
	return rows;
}

/*
 * penstock_postgres_query sends SQL (or a replication command) that ends quickly and waits for it.  Of several statements the last
 * one's rows are returned, in the current context; NULL after a fault.
 */
PostgresRows *
penstock_postgres_query(PostgresSession *session, const char *sql, PenstockOutcome *outcome, PenstockFault *fault)
{
	PostgresRows *volatile rows = NULL;
	PGresult   *volatile result = NULL;
	volatile bool failed = false;
	instr_time	start;

	INSTR_TIME_SET_CURRENT(start);
	if (!send_query(session, sql, outcome, fault))
		return NULL;
	PG_TRY();
	{
		for (;;)
		{
			PGresult   *next;

			if (!next_result(session, start, &next, outcome, fault))
				failed = true;
			if (failed || (result = next) == NULL)
				break;
			if (PQresultStatus(result) == PGRES_TUPLES_OK || PQresultStatus(result) == PGRES_COMMAND_OK)
				rows = copy_rows(result);
			else
			{
				*outcome = penstock_postgres_fault(session, result, psprintf("server \"%s\"", session->server), fault);
				failed = true;
			}
			PQclear(result);
			result = NULL;
			if (failed)
				break;
		}
	}
	PG_FINALLY();
	{
		PQclear(result);
	}
	PG_END_TRY();
	if (!failed && rows == NULL)
		elog(ERROR, "no result");
	return failed ? NULL : rows;
}

/*
 * penstock_postgres_begin sends a command and waits until the connection is in the state that the command leads to (PGRES_COPY_OUT or
 * PGRES_COPY_BOTH).
 */
PenstockOutcome
penstock_postgres_begin(PostgresSession *session, const char *sql, ExecStatusType expected, PenstockFault *fault)
{
	PenstockOutcome outcome = PENSTOCK_OK;
	PGresult   *result;
	instr_time	start;

	INSTR_TIME_SET_CURRENT(start);
	if (!send_query(session, sql, &outcome, fault) || !next_result(session, start, &result, &outcome, fault))
		return outcome;
	if (PQresultStatus(result) != expected)
	{
		char		what[200];

		snprintf(what, sizeof(what), "server \"%.100s\"", session->server);
		outcome = penstock_postgres_fault(session, result, what, fault);
	}
	PQclear(result);
	return outcome;
}
