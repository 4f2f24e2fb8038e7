/*
 * queue.h
 *	  Queues: foreign tables of any connector, as pipes see them.
 */
#ifndef PENSTOCK_QUEUE_H
#define PENSTOCK_QUEUE_H

#include "compat/compat.h"
#include "connector/connector.h"
#include "util/given_rows.h"
#include "utils/jsonb.h"
#include "utils/relcache.h"

extern void penstock_queue_init(void);		/* from _PG_init */

/* The connector of a foreign table, NULL if relid is not a queue. */
extern const PenstockConnector *penstock_queue_connector(Oid relid);
/* The same for a server. */
extern const PenstockConnector *penstock_server_connector(Oid serverid);

/*
 * The queue with the options of server, user mapping of userid and foreign table, checked together; in the
 * current context.  consumer: see PenstockQueue, may be NULL.
 */
extern PenstockQueue *penstock_queue_open(Oid relid, Oid userid, const char *consumer);
/* The same without a foreign table. */
extern PenstockQueue *penstock_queue_open_server(Oid serverid, Oid userid);

/* ---- batches ---- */

struct PenstockBatch
{
	MemoryContext context;		/* messages, and what belongs to them; reset with the batch */
	PenstockMessage *messages;
	int			n;
	int			room;			/* of the array */
	int64		bytes;
	int			max_rows;		/* the batch is full with one of these */
	int64		max_bytes;
};

extern PenstockBatch *penstock_batch_create(MemoryContext parent, int max_rows, int64 max_bytes);
extern void penstock_batch_reset(PenstockBatch *batch);
extern bool penstock_batch_add(PenstockBatch *batch, const PenstockMessage *message);
extern void penstock_batch_drop(PenstockBatch *batch, const char *partition);
extern MemoryContext penstock_batch_context(PenstockBatch *batch);
extern int	penstock_batch_count(PenstockBatch *batch);
extern bool penstock_batch_is_full(const PenstockBatch *batch);
/* How far the batch reads each partition; in its context. */
extern PenstockPlace *penstock_batch_places(PenstockBatch *batch, int *n);

/* ---- messages to rows ---- */

typedef struct PenstockDecoder PenstockDecoder;

/* In the current context; rel stays open as long. */
extern PenstockDecoder *penstock_decoder_create(Relation rel, const PenstockQueue *queue);
/*
 * Fills row with the message's values, allocated in the current context; ereports when a value does not fit.
 * consumer: for a connector that decodes by itself.
 */
extern void penstock_decoder_row(PenstockDecoder *decoder, PenstockConsumer *consumer,
								 const PenstockMessage *message, PenstockGivenRow *row);
extern void penstock_decoder_needs(PenstockDecoder *decoder, List *attnos);
/* The column that the error just raised is about, or NULL. */
extern const char *penstock_decoder_column(void);

/* Headers or properties as a JSON object, NULL if there are none, and back; in the current context. */
extern Jsonb *penstock_properties_to_jsonb(const PenstockProperty *properties, int n);
extern void penstock_properties_from_jsonb(Jsonb *object, const PenstockProperty **properties, int *n);

/* Calls a function that must not fail, such as close; an error of it becomes a warning. */
extern void penstock_connector_quietly(void (*function) (PenstockConsumer *), PenstockConsumer *consumer);

extern void penstock_queue_make_durable(void);

/* ---- outgoing ---- */

/* Sends what this transaction has written to queues so far and waits until the brokers have it; ereports if they have not. */
extern void penstock_outbox_flush(void);

/* The error of a fault: of a message (refused by the broker), otherwise of the connection, class 08. */
pg_noreturn extern void penstock_fault_raise(const PenstockQueue *queue, const PenstockFault *fault, bool message);

#endif							/* PENSTOCK_QUEUE_H */
