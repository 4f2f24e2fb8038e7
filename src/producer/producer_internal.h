/*
 * producer_internal.h
 *	  What the files of this module know of each other.
 */
#ifndef PENSTOCK_PRODUCER_INTERNAL_H
#define PENSTOCK_PRODUCER_INTERNAL_H

#include "catalogue/producer_registry.h"
#include "fmgr.h"

/* ---- producer.c ---- */

/* Raises an error on a standby and in a read-only transaction. */
extern void penstock_producer_refuse_read_only(const char *what);
/* Arguments that functions have in common; checked. */
extern char *penstock_producer_identity(FunctionCallInfo fcinfo, Oid *stream);
extern void penstock_producer_batch(FunctionCallInfo fcinfo, int sequence_argument, int epoch_argument, int64 *sequence,
									int64 *epoch);

/*
 * The heart of it: takes the producer's lock and accepts the batch (true), or finds that it is a repetition (false).  Raises
 * ERRCODE_PENSTOCK_UNKNOWN_PRODUCER, ERRCODE_PENSTOCK_FENCED, ERRCODE_PENSTOCK_SEQUENCE_GAP, ERRCODE_INVALID_PARAMETER_VALUE or
 * ERRCODE_INSUFFICIENT_PRIVILEGE.  epoch 0: the newest, whatever it is.
 */
extern bool penstock_producer_accept(Oid stream, const char *producer, int64 sequence, int64 epoch);

/* ---- producer_stats.c ---- */

/* What is counted of a producer, beside what its row says. */
typedef enum PenstockProducerCount
{
	PENSTOCK_PRODUCER_DUPLICATE,
	PENSTOCK_PRODUCER_GAP,
	PENSTOCK_PRODUCER_FENCED,
	PENSTOCK_PRODUCER_COUNTS
} PenstockProducerCount;

extern void penstock_producer_count(Oid stream, const char *producer, PenstockProducerCount what);
/* The producer is gone, and its counters with it. */
extern void penstock_producer_uncount(Oid stream, const char *producer);
extern void penstock_producer_stats_init(void);

/* ---- producer_life.c ---- */

extern void penstock_producer_life_init(void);

#endif							/* PENSTOCK_PRODUCER_INTERNAL_H */
