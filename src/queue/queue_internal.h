/*
 * queue_internal.h
 *	  What the files of src/queue share with each other.
 */
#ifndef PENSTOCK_QUEUE_INTERNAL_H
#define PENSTOCK_QUEUE_INTERNAL_H

#include "queue/queue.h"

#include "format/format.h"
#include "nodes/execnodes.h"

/* ---- queue.c ---- */

/* The connector that a handler's routine belongs to, NULL if it is none of ours. */
extern const PenstockConnector *penstock_routine_connector(const FdwRoutine *routine);

/* ---- queue_options.c ---- */

extern void penstock_queue_validate(const PenstockConnector *connector, List *options, Oid catalog);
/* Raises ERRCODE_FDW_DYNAMIC_PARAMETER_VALUE_NEEDED. */
pg_noreturn extern void penstock_option_missing(const PenstockConnectorOption *option, const char *whose);
extern const char *penstock_queue_option(const PenstockQueue *queue, const char *name);
extern int64 penstock_queue_option_int(const PenstockQueue *queue, const char *name);
extern bool penstock_queue_option_bool(const PenstockQueue *queue, const char *name);

/* ---- queue_columns.c: which column is what ---- */

typedef enum PenstockColumnKind
{
	PENSTOCK_COLUMN_PAYLOAD,	/* the format's */
	PENSTOCK_COLUMN_UNUSED,		/* dropped or generated */
	PENSTOCK_COLUMN_RAW,		/* the payload as it is */
	PENSTOCK_COLUMN_KEY,
	PENSTOCK_COLUMN_ID,
	PENSTOCK_COLUMN_TIMESTAMP,
	PENSTOCK_COLUMN_PARTITION,
	PENSTOCK_COLUMN_OFFSET,
	PENSTOCK_COLUMN_HEADERS,
	PENSTOCK_COLUMN_HEADER,		/* one of them */
	PENSTOCK_COLUMN_REDELIVERED,
	PENSTOCK_COLUMN_PROPERTY	/* the connector's */
} PenstockColumnKind;

typedef struct PenstockQueueColumn
{
	PenstockColumnKind kind;
	const char *name;			/* of the header or property */
	PenstockFormatColumn info;
	int			threshold;		/* payloads of so many bytes are checked in here; -1: none */
	bool		redeem;			/* is sent as the payload that the ticket stands for */
} PenstockQueueColumn;

typedef struct PenstockQueueColumns
{
	PenstockQueueColumn *columns;	/* one for each attribute */
	int			natts;
	const PenstockFormat *format;
	PenstockFormatInfo info;	/* the payload's columns */
	bool		claims;			/* some column checks payloads in */
} PenstockQueueColumns;

/* What each column of a queue is, in the current context; checks what only the whole table can tell. */
extern PenstockQueueColumns *penstock_queue_columns(Relation rel, const PenstockQueue *queue);
/* Is this a name that OPTIONS (metadata ...) may have?  *name: what follows a prefix. */
extern bool penstock_metadata_kind(const PenstockConnector *connector, const char *metadata,
								   PenstockColumnKind *kind, const char **name);

/* ---- queue_claims.c ---- */

extern void penstock_queue_claim_column(PenstockQueueColumn *column);
extern bool penstock_queue_check_in(const PenstockQueueColumns *columns, const PenstockMessage *message);
extern Datum penstock_queue_claim(const PenstockMessage *message);

/* ---- queue_scan.c, queue_modify.c ---- */

extern void penstock_queue_scan_routine(FdwRoutine *routine);
extern void penstock_queue_modify_routine(FdwRoutine *routine);

/* ---- queue_outbox.c ---- */

/* Takes a copy of a message that is to be sent to the queue when this transaction commits. */
extern void penstock_outbox_add(Oid relid, Oid userid, const PenstockMessage *message);
extern void penstock_outbox_init(void);

/* ---- queue_encode.c ---- */

typedef struct PenstockEncoder PenstockEncoder;

extern PenstockEncoder *penstock_encoder_create(Relation rel, const PenstockQueue *queue);
/* The message of a row; it is good until the next call. */
extern const PenstockMessage *penstock_encoder_message(PenstockEncoder *encoder, TupleTableSlot *slot);

#endif							/* PENSTOCK_QUEUE_INTERNAL_H */
