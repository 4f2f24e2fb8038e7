/*
 * producer_registry.h
 *	  Rows of penstock.producer.
 */
#ifndef PENSTOCK_PRODUCER_REGISTRY_H
#define PENSTOCK_PRODUCER_REGISTRY_H

#include "catalogue/own_table.h"
#include "datatype/timestamp.h"
#include "nodes/pg_list.h"
#include "storage/itemptr.h"

/* One row of penstock.producer. */
typedef struct PenstockProducerRow
{
	ItemPointerData tid;		/* invalid: not stored yet */
	Oid			stream;
	char	   *producer;
	Oid			owner;
	int64		epoch;			/* the newest one given out */
	int64		sequence;		/* of the last batch accepted, 0: none yet */
	TimestampTz epoch_at;		/* when the epoch was given out */
	TimestampTz last_batch_at;	/* 0: no batch yet */
} PenstockProducerRow;

/* OID of penstock.producer, InvalidOid without the extension. */
extern Oid	penstock_producer_registry_oid(void);
/* At commit, its relcache invalidation tells the engine that producers, or how long they are kept, have changed. */
extern void penstock_producer_registry_announce(void);

extern PenstockOwnTable penstock_producer_open(void);
/* The right to change a producer, made or not, until the end of the (sub)transaction.  False: not to be had now (only without wait). */
extern bool penstock_producer_lock(const PenstockOwnTable *table, Oid stream, const char *producer, bool wait);

/*
 * Finds a producer among what is committed now, whatever the transaction's snapshot, and what this transaction has
 * written; strings in the current context.
 */
extern bool penstock_producer_find(PenstockOwnTable *table, Oid stream, const char *producer, PenstockProducerRow *row);
/* Inserts the row, or replaces the one at its tid; and deletes that.  With the lock held, or the stream locked for itself. */
extern void penstock_producer_write(PenstockOwnTable *table, PenstockProducerRow *row);
extern void penstock_producer_delete(PenstockOwnTable *table, const PenstockProducerRow *row);
/* All of them, or those of one stream (PenstockProducerRow *); in the current context. */
extern List *penstock_producer_list(PenstockOwnTable *table, Oid stream);

#endif							/* PENSTOCK_PRODUCER_REGISTRY_H */
