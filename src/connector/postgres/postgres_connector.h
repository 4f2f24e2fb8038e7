/*
 * postgres_connector.h
 *	  What the files of the PostgreSQL connector share with each other.
 */
#ifndef PENSTOCK_POSTGRES_CONNECTOR_H
#define PENSTOCK_POSTGRES_CONNECTOR_H

#include "access/transam.h"
#include "access/xlogdefs.h"
#include "format/format.h"
#include "lib/stringinfo.h"
#include "libpq-fe.h"

/* ---- postgres_session.c: connections ---- */

/* A connection to the remote server. */
typedef struct PostgresSession
{
	PGconn	   *conn;
	const char *server;			/* its name here, for messages */
	const char *password;		/* to be kept out of messages, or NULL */
	bool		trusted;		/* belongs to a superuser */
	bool		counted;		/* among the server's open files */
	bool		heard;			/* something has come; whoever looks at it clears it */
	int			timeout;		/* ms for what should be quick */
} PostgresSession;

/* A copy of a result, in the context that was current. */
typedef struct PostgresRows
{
	int			n;
	int			ncolumns;
	const char **values;		/* NULL: null */
} PostgresRows;

#define penstock_postgres_value(rows, row, column) ((rows)->values[(row) * (rows)->ncolumns + (column)])

/* false: *outcome and fault say why. */
extern bool penstock_postgres_connect(PostgresSession *session, const PenstockQueue *queue, bool replication,
									  PenstockOutcome *outcome, PenstockFault *fault);
extern PostgresSession *penstock_postgres_new_session(const PenstockQueue *queue);
extern void penstock_postgres_disconnect(PostgresSession *session);
/* Sends a command and waits for its end; NULL after a fault. */
extern PostgresRows *penstock_postgres_query(PostgresSession *session, const char *sql,
											 PenstockOutcome *outcome, PenstockFault *fault);
/* Sends a command and waits until it has brought the connection into the state expected (PGRES_COPY_BOTH, ...). */
extern PenstockOutcome penstock_postgres_begin(PostgresSession *session, const char *sql, ExecStatusType expected,
											   PenstockFault *fault);
/* The fault of a result or, when it is NULL, of the connection. */
extern PenstockOutcome penstock_postgres_fault(PostgresSession *session, const PGresult *result,
											   const char *what, PenstockFault *fault);
/* Takes in what has arrived; false: the connection is gone. */
extern bool penstock_postgres_receive(PostgresSession *session);

/* ---- postgres_tables.c: what there is on the other side ---- */

typedef struct PostgresColumn
{
	const char *name;
	Oid			type;			/* there */
	bool		key;			/* of the replica identity */
} PostgresColumn;

/* A remote table, as it was at some point of the changes. */
typedef struct PostgresRelation
{
	uint32		id;				/* OID there */
	const char *schema;
	const char *name;
	int			ncolumns;
	PostgresColumn *columns;
	bool		wanted;			/* its changes are given */
	const char *missing;		/* a column of the foreign table that it does not have, or NULL */
	int		   *column_of;		/* by attribute of the foreign table: index of its column, -1: none */
	const char *message;		/* that described it */
	int			length;
} PostgresRelation;

/* A remote table to be copied. */
typedef struct PostgresTable
{
	PostgresRelation *relation;
	char	   *command;		/* COPY ... TO STDOUT */
} PostgresTable;

/* The options that say what is read. */
typedef struct PostgresSource
{
	const char *schema;			/* NULL: all tables of the publication */
	const char *table;
	List	   *publications;	/* of char * */
	bool		derived_publication;	/* its name was not given */
} PostgresSource;

extern void penstock_postgres_source(const PenstockQueue *queue, PostgresSource *source);	/* ereports */
/* 'a', 'b' */
extern char *penstock_postgres_publication_literals(const PostgresSource *source);
/* Makes the publication if that is wanted and it does not exist; looks whether it has the table. */
extern PenstockOutcome penstock_postgres_check_source(PostgresSession *session, const PenstockQueue *queue,
													  const PostgresSource *source, PenstockFault *fault);
/* The tables to be copied: List of PostgresTable *. */
extern List *penstock_postgres_tables(PostgresSession *session, const PostgresSource *source, bool published,
									  PenstockOutcome *outcome, PenstockFault *fault);
extern List *penstock_postgres_import(const PenstockQueue *server, ImportForeignSchemaStmt *stmt,
									  PenstockOutcome *outcome, PenstockFault *fault);

/* ---- postgres_message.c: pgoutput's messages ---- */

/* Reads from a message; bad: it was shorter than it had to be. */
typedef struct PostgresReader
{
	const char *at;
	const char *end;
	bool		bad;
} PostgresReader;

extern uint8 penstock_postgres_byte(PostgresReader *reader);
extern uint16 penstock_postgres_int16(PostgresReader *reader);
extern uint32 penstock_postgres_int32(PostgresReader *reader);
extern uint64 penstock_postgres_int64(PostgresReader *reader);
extern const char *penstock_postgres_string(PostgresReader *reader);
/* Skips a tuple that has so many columns. */
extern void penstock_postgres_skip_tuple(PostgresReader *reader, int ncolumns);
/* The relation that a message (from behind its type) describes, in the current context; NULL: it is malformed. */
extern PostgresRelation *penstock_postgres_relation(const char *message, int length);
/* And back: the message (with its type) that describes a relation. */
extern void penstock_postgres_put_relation(StringInfo message, const PostgresRelation *relation);
/* Turns a line of COPY's text format into an Insert message (with its type); false: it is malformed. */
extern bool penstock_postgres_put_line(StringInfo message, const PostgresRelation *relation,
									   const char *line, int length);

/* ---- postgres_row.c: from messages to rows ---- */

/* In the order of penstock_postgres_metadata. */
typedef enum PostgresProperty
{
	POSTGRES_OPERATION,
	POSTGRES_COMMIT_LSN,
	POSTGRES_COMMIT_TIMESTAMP,
	POSTGRES_XID,
	POSTGRES_SCHEMA,
	POSTGRES_TABLE,
	POSTGRES_NEW,
	POSTGRES_OLD,
	POSTGRES_OLD_COLUMN,		/* old:NAME */
	POSTGRES_UNCHANGED,
	POSTGRES_ORIGIN
} PostgresProperty;

/* A column of the foreign table. */
typedef struct PostgresTarget
{
	bool		used;
	bool		is_property;	/* filled with metadata, otherwise from a remote column */
	PostgresProperty property;
	const char *remote;			/* name of the remote column */
	PenstockFormatColumn column;
} PostgresTarget;

/* The columns of the foreign table, and room to take rows apart. */
typedef struct PostgresShape
{
	MemoryContext context;
	int			natts;
	PostgresTarget *targets;
	StringInfoData scratch;
	int		   *starts;			/* of the values of two tuples */
	int		   *lengths;		/* -1: null, -2: unchanged */
	int			room;			/* columns of each */
} PostgresShape;

/* The transaction a row belongs to. */
typedef struct PostgresTransaction
{
	bool		open;			/* its rows are being given */
	XLogRecPtr	commit_lsn;		/* Invalid: rows that are copied */
	TimestampTz timestamp;
	TransactionId xid;
	const char *origin;			/* NULL: that server itself */
	int64		rows;			/* that have come so far, wanted or not */
	int64		skip;			/* and how many of the first to leave out */
} PostgresTransaction;

/* PenstockMessage.row; the tuples lie in the message's payload. */
typedef struct PostgresRow
{
	const PostgresRelation *relation;
	const char *operation;
	const char *origin;
	XLogRecPtr	commit_lsn;
	TimestampTz timestamp;
	TransactionId xid;
	int			tuple;			/* where the new tuple (of a delete: the old one) begins, -1: none */
	int			old;			/* where the old tuple begins, -1: none */
	bool		old_is_key;		/* and has the replica identity's columns only */
} PostgresRow;

extern PostgresShape *penstock_postgres_shape(Oid relid);
extern void penstock_postgres_fit(const PostgresShape *shape, PostgresRelation *relation, bool must_fit);
extern const char *const penstock_postgres_metadata[];
/* Reads a change (from behind its type); false: it is malformed. */
extern bool penstock_postgres_read_row(char type, const char *message, int length, const PostgresRelation *relation,
									   const PostgresTransaction *transaction, PostgresRow *row);
/* PenstockConnector.decode and .describe */
extern void penstock_postgres_decode(PenstockConsumer *consumer, const PenstockMessage *message,
									 TupleDesc desc, Datum *values, bool *isnull);
extern void penstock_postgres_describe(PenstockConsumer *consumer, const PenstockMessage *message, StringInfo text);

/* ---- postgres_spill.c: transactions that are streamed before they commit ---- */

typedef struct PostgresSpill PostgresSpill;

extern PostgresSpill *penstock_postgres_spill_create(MemoryContext context);
extern void penstock_postgres_spill_close(PostgresSpill *spill);	/* closes the files; what is left goes with the context */
extern void penstock_postgres_spill_start(PostgresSpill *spill, TransactionId xid);
extern void penstock_postgres_spill_stop(PostgresSpill *spill);
extern bool penstock_postgres_spill_is_open(const PostgresSpill *spill);
/* A message of the transaction that was started, without its xid. */
extern void penstock_postgres_spill_add(PostgresSpill *spill, TransactionId xid, char type, const char *message, int length);
extern void penstock_postgres_spill_abort(PostgresSpill *spill, TransactionId xid, TransactionId subxid);
/* Starts to read a transaction back; false: nothing of it was spilled. */
extern bool penstock_postgres_spill_commit(PostgresSpill *spill, TransactionId xid);
/* Its next message (type first), which is good until the next call; NULL: that was all, and it is forgotten. */
extern const char *penstock_postgres_spill_next(PostgresSpill *spill, int *length);

/* ---- postgres_spool.c: the file of an initial copy ---- */

typedef struct PostgresSpool PostgresSpool;

/* What the file says of itself. */
typedef struct PostgresSpoolState
{
	bool		begun;			/* a copy to this file has begun, for this slot */
	bool		complete;		/* and is in the file from end to end */
	XLogRecPtr	lsn;			/* where the changes begin that are not in it */
} PostgresSpoolState;

extern PostgresSpool *penstock_postgres_spool_create(const char *consumer, const char *slot);
extern void penstock_postgres_spool_state(PostgresSpool *spool, PostgresSpoolState *state);
extern void penstock_postgres_spool_begin(PostgresSpool *spool);	/* before the slot is made */
extern void penstock_postgres_spool_lsn(PostgresSpool *spool, XLogRecPtr lsn);
extern void penstock_postgres_spool_add(PostgresSpool *spool, const char *message, int length);
extern void penstock_postgres_spool_complete(PostgresSpool *spool);
/* To read from a place on; place 0: from the start. */
extern void penstock_postgres_spool_open(PostgresSpool *spool, int64 place);
/* The next message and the place behind it, PG_INT64_MAX behind the last; NULL: no more. */
extern const char *penstock_postgres_spool_next(PostgresSpool *spool, int *length, int64 *place);
extern void penstock_postgres_spool_close(PostgresSpool *spool);
extern void penstock_postgres_spool_remove(PostgresSpool *spool);

/* ---- postgres_connector.c, postgres_copy.c, postgres_stream.c: the consumer ---- */

typedef enum PostgresState
{
	POSTGRES_CREATING,			/* the slot is being made, which waits for transactions that run there */
	POSTGRES_COPYING,			/* the tables are being copied into the spool file */
	POSTGRES_GIVING,			/* the spool file's rows are given */
	POSTGRES_STREAMING,			/* changes are given */
	POSTGRES_BROWSING,			/* an ad-hoc SELECT: the tables' rows are given */
	POSTGRES_ENDED
} PostgresState;

struct PenstockConsumer
{
	MemoryContext context;		/* the consumer stands in it itself: close comes when its children are gone */
	MemoryContextCallback callback;
	const PenstockQueue *queue;
	PostgresState state;
	PostgresSource source;
	PostgresShape *shape;
	PostgresSession main;		/* changes */
	PostgresSession copy;		/* the tables' rows; later, questions */
	const char *slot;
	char	   *data;			/* libpq's, that is being worked on */
	bool		more;			/* fetch stopped before there was nothing left */
	bool		outstanding;	/* messages were given that have not been acknowledged */
	bool		given;			/* any */

	/* copy */
	List	   *tables;
	int			table;			/* that is being copied */
	bool		has_begun;		/* the server has: its rows come */
	PostgresSpool *spool;		/* NULL: there is none any more */
	StringInfoData line;

	/* changes */
	struct HTAB *relations;		/* by id */
	PostgresTransaction transaction;
	PostgresSpill *spill;
	const char *last_origin;
	bool		replaying;		/* a streamed transaction has committed and is being read back */
	XLogRecPtr	replay_end;		/* the end of its commit record */
	XLogRecPtr	start_at;		/* the place of the start */
	int64		start_row;
	XLogRecPtr	received;
	XLogRecPtr	safe;			/* everything before it has been given */
	XLogRecPtr	flushed;		/* everything before it has been acknowledged */
	TimestampTz last_status;
	TimestampTz last_message;
	bool		status_wanted;	/* by the server */
	bool		asked;			/* for a sign of life, and when */
	TimestampTz asked_at;
	uint64		ticket;			/* of somebody who waits until the changes are given up to here: */
	XLogRecPtr	ticket_end;
	uint64		ticket_done;
	int			status_interval;	/* ms */
	int			receive_timeout;	/* ms, 0: none */
};

extern PenstockOutcome penstock_postgres_browse(PenstockConsumer *consumer, PenstockFault *fault);
/* Asks for the slot; then fetch goes on. */
extern PenstockOutcome penstock_postgres_create_slot(PenstockConsumer *consumer, bool export, PenstockFault *fault);
extern PenstockOutcome penstock_postgres_fetch_copy(PenstockConsumer *consumer, PenstockBatch *batch, PenstockFault *fault);

extern PenstockOutcome penstock_postgres_start(PenstockConsumer *consumer, PenstockFault *fault);
extern PenstockOutcome penstock_postgres_fetch_changes(PenstockConsumer *consumer, PenstockBatch *batch, PenstockFault *fault);
extern bool penstock_postgres_send_status(PenstockConsumer *consumer, bool ask);
extern uint64 penstock_postgres_caught_up(PenstockConsumer *consumer, uint64 ticket);
extern PenstockOutcome penstock_postgres_learn(PenstockConsumer *consumer, const char *message, int length, PenstockFault *fault);
/* Gives a change (message with its type); *full: the batch takes no more. */
extern PenstockOutcome penstock_postgres_give(PenstockConsumer *consumer, PenstockBatch *batch, const char *message, int length,
											  const char *partition, int64 offset, int64 next_at, int64 next_row,
											  bool *full, PenstockFault *fault);

/* The pipe is dropped: removes its slot and what is left of an unfinished copy. */
extern PenstockOutcome penstock_postgres_drop(const PenstockQueue *queue, PenstockFault *fault);

#endif							/* PENSTOCK_POSTGRES_CONNECTOR_H */
