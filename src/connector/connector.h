/*
 * connector.h
 *	  What a connector is: the one interface between Penstock and the world outside.
 *
 * A connector is an extension and a library of its own: a foreign data wrapper whose handler and validator
 * are two calls into Penstock, and a PenstockConnector that says how messages come and go.  Everything else
 * is Penstock's: options and their checks, formats, batches, positions, dead letters, retries, scans and
 * INSERTs.  src/connector/README.md tells how to write one.
 *
 * Rules.  A connector's functions run in a server process.  They may ereport(ERROR), but never out of a
 * callback that the client library calls: there they set a PenstockFault and return.  They do not block longer
 * than they are told to, and call CHECK_FOR_INTERRUPTS() only where the client library is not on the stack.  What they
 * palloc lives until the next call, unless they say otherwise; the context of open lives as long as the consumer.
 * Threads of the client library are started with all signals blocked (penstock_connector_block_signals).
 * What comes from the broker is not trusted: lengths are checked before they are used.
 */
#ifndef PENSTOCK_CONNECTOR_H
#define PENSTOCK_CONNECTOR_H

#include "datatype/timestamp.h"
#include "fmgr.h"
#include "foreign/fdwapi.h"
#include "lib/stringinfo.h"
#include "nodes/pg_list.h"

/* Changes when anything here changes: library and connector must agree. */
#define PENSTOCK_CONNECTOR_ABI 1

/* ---- options ---- */

/* Where an option may stand (bits). */
#define PENSTOCK_ON_SERVER		1
#define PENSTOCK_ON_USER		2		/* USER MAPPING; values are secrets, never shown */
#define PENSTOCK_ON_QUEUE		4		/* FOREIGN TABLE */
#define PENSTOCK_ON_COLUMN		8

typedef enum PenstockOptionType
{
	PENSTOCK_OPTION_TEXT,
	PENSTOCK_OPTION_BOOL,
	PENSTOCK_OPTION_INT,		/* min .. max */
	PENSTOCK_OPTION_TIME,		/* like '10 s', kept in ms; min .. max */
	PENSTOCK_OPTION_SIZE,		/* like '64 kB', kept in bytes; min .. max */
	PENSTOCK_OPTION_ENUM		/* one of values */
} PenstockOptionType;

typedef struct PenstockConnectorOption
{
	const char *name;			/* NULL: end of the table */
	int			places;			/* PENSTOCK_ON_... */
	PenstockOptionType type;
	const char *description;	/* one line, for documentation and hints */
	const char *fallback;		/* value when it is not given, as text; NULL: none */
	int64		min;
	int64		max;
	const char *const *values;	/* NULL-terminated */
	bool		required;		/* must be given in one of its places */
	bool		superuser_only; /* reaches files or runs code on the server */
} PenstockConnectorOption;

/*
 * A queue as the connector sees it: the options of server, user mapping and foreign table together.  Without
 * a foreign table (IMPORT FOREIGN SCHEMA) relid is InvalidOid.
 */
typedef struct PenstockQueue
{
	Oid			relid;
	Oid			serverid;
	Oid			userid;			/* whose mapping it is */
	const char *name;			/* qualified and quoted, for messages */
	const char *server_name;
	const struct PenstockConnector *connector;
	List	   *options;		/* of DefElem; read with penstock_queue_... below */
	bool		wants_headers;	/* false: no column shows headers, they need not be given */
	bool		wants_properties;	/* the same of the connector's metadata */
	const char *consumer;		/* for a pipe: a name that is its own for ever, in any database of any server */
} PenstockQueue;

/* ---- messages ---- */

/* A named value of a message: a header, or a property that the connector knows. */
typedef struct PenstockProperty
{
	const char *name;			/* zero-terminated */
	const char *value;			/* NULL: null */
	int			length;
} PenstockProperty;

/*
 * One message, coming or going.  Pointers are the giver's: whoever keeps a message copies it (penstock_batch_add
 * does).
 */
typedef struct PenstockMessage
{
	const char *payload;		/* NULL: a message without payload (a tombstone) */
	int			length;
	const char *key;			/* NULL: none */
	int			key_length;
	const char *id;				/* message id; NULL: none */
	int			id_length;
	TimestampTz timestamp;		/* 0: none */
	const char *partition;		/* name of the partition, short ("0"); "" where there are none; sinks: NULL lets the broker choose */
	int64		offset;			/* in its partition; for sources with acknowledgements, a delivery number that grows */
	int64		next_at;		/* position after this message: where the partition is read on from, */
	int64		next_row;		/* and rows to be left out there (0, but for sources that resend whole transactions) */
	bool		redelivered;	/* the broker says that it has been delivered before */
	int			nheaders;
	const PenstockProperty *headers;
	int			nproperties;	/* what the connector calls metadata (PenstockConnector.metadata) */
	const PenstockProperty *properties;
	void	   *row;			/* for a connector with its own decode: its own, see there */
} PenstockMessage;

/* How far a partition has been read. */
typedef struct PenstockPlace
{
	const char *partition;
	int64		at;				/* as PenstockMessage.next_at */
	int64		row;			/* as PenstockMessage.next_row */
} PenstockPlace;

/* ---- what can go wrong ---- */

typedef enum PenstockOutcome
{
	PENSTOCK_OK,				/* as asked; of fetch: perhaps nothing, there may be more later */
	PENSTOCK_END,				/* of fetch when browsing: there is no more */
	PENSTOCK_AWAY,				/* may go away by itself (broker not reachable): tried again after a pause */
	PENSTOCK_REFUSED			/* needs a person (wrong password, unknown topic): tried again after long pauses, the text says so */
} PenstockOutcome;

typedef struct PenstockFault
{
	int			sqlstate;		/* 0: ERRCODE_FDW_ERROR */
	char		message[512];	/* in the style of errmsg, without secrets */
	char		detail[512];	/* "" if there is none */
	char		hint[256];
} PenstockFault;

/* Fills a fault; format as printf, clipped.  Returns outcome.  Safe in a library's callback, but not in its threads. */
extern PenstockOutcome penstock_fault(PenstockFault *fault, PenstockOutcome outcome, int sqlstate,
									  const char *format,...) pg_attribute_printf(4, 5);

/* ---- consuming ---- */

typedef struct PenstockConsumer PenstockConsumer;	/* the connector's */
typedef struct PenstockBatch PenstockBatch;		/* Penstock's: messages on their way into a transaction */

/* What an ad-hoc SELECT asks for; a side without a limit has INT64 extremes.  Inclusive. */
typedef struct PenstockRange
{
	const char *partition;		/* NULL: all */
	int64		offset_from;
	int64		offset_to;
	TimestampTz time_from;
	TimestampTz time_to;
} PenstockRange;

typedef struct PenstockStart
{
	int			nplaces;		/* partitions that were read before, and where to read on */
	const PenstockPlace *places;
	const PenstockRange *browse;	/* ad-hoc: read what is there and end; NULL: a pipe */
} PenstockStart;

/* What to sleep on until fetch may give more. */
typedef struct PenstockWaitFor
{
	int			fd;				/* -1: none (then the timeout counts) */
	int			events;			/* WL_SOCKET_READABLE, WL_SOCKET_WRITEABLE */
	long		timeout;		/* ms until fetch must be called again (heartbeats); -1: no need */
} PenstockWaitFor;

/* ---- producing ---- */

typedef struct PenstockProducer PenstockProducer;	/* the connector's */

/* ---- the connector ---- */

typedef struct PenstockConnector
{
	int			abi;			/* PENSTOCK_CONNECTOR_ABI */
	const char *name;			/* "kafka" */
	const PenstockConnectorOption *options;		/* ends with name NULL */
	const char *const *metadata;	/* names of its properties, NULL-terminated: OPTIONS (metadata 'name') */
	bool		has_offsets;	/* positions are Penstock's (exactly once); otherwise messages are acknowledged */

	/* Checks options together, after each was checked alone; NULL: nothing to check.  ereports. */
	void		(*check) (const PenstockQueue *queue);

	/*
	 * Consumers.  open allocates in the current context (which lives as long as the consumer) and may wait for the broker some seconds.
	 * Returns NULL after a fault; *outcome says of which kind.
	 */
	PenstockConsumer *(*open) (const PenstockQueue *queue, const PenstockStart *start,
							   PenstockOutcome *outcome, PenstockFault *fault);
	/*
	 * Gives what has arrived to penstock_batch_add, until that returns false or there is no more; does not wait.  After PENSTOCK_AWAY or
	 * PENSTOCK_REFUSED the consumer is closed and opened again, and messages that were not acknowledged come again.
	 */
	PenstockOutcome (*fetch) (PenstockConsumer *consumer, PenstockBatch *batch, PenstockFault *fault);
	void		(*wait_for) (PenstockConsumer *consumer, PenstockWaitFor *wait);
	/*
	 * Where a partition that PenstockStart.places did not name is read from ('latest' is a place only now): stored right after open, so that
	 * nothing is passed by when the pipe restarts before its first message.  NULL: from the beginning, or there are no offsets.
	 */
	const PenstockPlace *(*first_places) (PenstockConsumer *consumer, int *n);
	/*
	 * Everything given so far has been committed, durably: acknowledge it (commit offsets to the group, confirm the slot).
	 */
	PenstockOutcome (*acknowledge) (PenstockConsumer *consumer, PenstockFault *fault);
	/* Messages the broker still has beyond those given; -1: not known.  Cheap; NULL: never known. */
	int64		(*lag) (PenstockConsumer *consumer);
	/*
	 * Somebody waits (catch_up): has everything been given that was in the source when this was first called with this ticket?  Returns the
	 * highest ticket of which that is true, 0: none.  Called when fetch had nothing, and only while somebody waits; may ask the broker and
	 * wait a moment; does not raise errors.  NULL: true when lag is 0 or not known.
	 */
	uint64		(*caught_up) (PenstockConsumer *consumer, uint64 ticket);
	void		(*close) (PenstockConsumer *consumer);		/* never fails, never waits long */

	/*
	 * A connector whose messages are rows, not bytes (NULL: formats decode them).  Fills values and isnull of the
	 * foreign table's columns (by attribute number - 1) that are not metadata; ereports about a value that does
	 * not fit.  In a memory context that lives as long as the batch.  A message that is sent again has row NULL, see describe.
	 */
	void		(*decode) (PenstockConsumer *consumer, const PenstockMessage *message,
						   TupleDesc desc, Datum *values, bool *isnull);

	/* For such a connector: appends the message as JSON text, for its dead letter; NULL: payload as it is.  A message that is sent again has
	 * row NULL and this text as its payload. */
	void		(*describe) (PenstockConsumer *consumer, const PenstockMessage *message, StringInfo text);

	/* A pipe that read the queue has been dropped: removes what it has outside (a slot).  May wait some seconds; a fault becomes a warning. */
	PenstockOutcome (*drop) (const PenstockQueue *queue, PenstockFault *fault);

	/*
	 * Producers (NULL: the queue cannot be written to).  send may buffer; it waits at most timeout ms for room.  flush returns PENSTOCK_OK when the
	 * broker has everything that was sent since the last flush; a fault names the first message refused and why.  abort drops
	 * what has not been flushed, as far as that is possible.  Both end what send began.  PENSTOCK_REFUSED of send and flush
	 * means that a message was refused, the event's fault; with an SQLSTATE of class 08, 28 or 42, and from open_producer, that the
	 * producer was.  After a fault the producer is closed.  abort and close_producer never fail.
	 */
	PenstockProducer *(*open_producer) (const PenstockQueue *queue, PenstockOutcome *outcome, PenstockFault *fault);
	PenstockOutcome (*send) (PenstockProducer *producer, const PenstockMessage *message, int timeout, PenstockFault *fault);
	PenstockOutcome (*flush) (PenstockProducer *producer, int timeout, PenstockFault *fault);
	void		(*abort) (PenstockProducer *producer);
	void		(*close_producer) (PenstockProducer *producer);

	/*
	 * IMPORT FOREIGN SCHEMA: CREATE FOREIGN TABLE commands (char *), the server's name quoted in queue->server_name.  NULL: not supported.
	 */
	List	   *(*import) (const PenstockQueue *server, ImportForeignSchemaStmt *stmt, PenstockOutcome *outcome, PenstockFault *fault);
} PenstockConnector;

struct PenstockFormat;
struct PenstockFormatColumn;

/* ---- what Penstock does for connectors, reached without linking to it ---- */

typedef struct PenstockConnectorApi
{
	int			abi;
	FdwRoutine *(*fdw_routine) (const PenstockConnector *connector);
	void		(*validate) (const PenstockConnector *connector, List *options, Oid catalog);
	/* NULL if not given and without fallback */
	const char *(*option) (const PenstockQueue *queue, const char *name);
	int64		(*option_int) (const PenstockQueue *queue, const char *name);	/* INT, TIME (ms), SIZE (bytes) */
	bool		(*option_bool) (const PenstockQueue *queue, const char *name);
	/* Copies the message; false: it has been taken, and the batch is full now: give no more. */
	bool		(*batch_add) (PenstockBatch *batch, const PenstockMessage *message);
	/* Drops the messages of a partition from a batch: it was taken away from this consumer before they were committed. */
	void		(*batch_drop) (PenstockBatch *batch, const char *partition);
	/* Messages in it; 0: everything given before has been committed. */
	int			(*batch_rows) (PenstockBatch *batch);
	/* What this process has committed is on disk when it returns; from fetch or acknowledge only. */
	void		(*make_durable) (void);
	/* Memory that lives as long as the batch's messages, for PenstockMessage.row. */
	MemoryContext (*batch_context) (PenstockBatch *batch);

	/* for a format in a library of its own, see format/format.h */
	void		(*register_format) (const struct PenstockFormat *format);
	Datum		(*format_value) (struct PenstockFormatColumn *column, const char *value, int length, int encoding);
	const char *(*format_column_option) (const struct PenstockFormatColumn *column, const char *name);
	void		(*format_set_column) (const char *name);
} PenstockConnectorApi;

#define PENSTOCK_CONNECTOR_API "penstock_connector_api"	/* rendezvous variable */

/* In connector/client.c, which each connector compiles in. */
extern const PenstockConnectorApi *penstock_connector_api(void);	/* ereports if Penstock is not loaded */
extern void penstock_connector_block_signals(void *saved_sigset);	/* sigset_t *: around the start of threads */
extern void penstock_connector_restore_signals(const void *saved_sigset);

/*
 * The two functions of a connector's SQL:
 *	CREATE FUNCTION handler() RETURNS fdw_handler, CREATE FUNCTION validator(text[], oid) RETURNS void.
 */
#define PENSTOCK_CONNECTOR(prefix, connector) \
PG_FUNCTION_INFO_V1(prefix##_handler); \
PG_FUNCTION_INFO_V1(prefix##_validator); \
Datum \
prefix##_handler(PG_FUNCTION_ARGS) \
{ \
	PG_RETURN_POINTER(penstock_connector_api()->fdw_routine(&connector)); \
} \
Datum \
prefix##_validator(PG_FUNCTION_ARGS) \
{ \
	penstock_connector_validate(&connector, PG_GETARG_DATUM(0), PG_GETARG_OID(1)); \
	PG_RETURN_VOID(); \
} \
extern int	penstock_connector_no_semicolon

extern void penstock_connector_validate(const PenstockConnector *connector, Datum options, Oid catalog);

#endif							/* PENSTOCK_CONNECTOR_H */
