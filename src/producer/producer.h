/*
 * producer.h
 *	  Idempotent producers as other modules see them.
 */
#ifndef PENSTOCK_PRODUCER_H
#define PENSTOCK_PRODUCER_H

#include "datatype/timestamp.h"

extern void penstock_producer_init(void);	/* from _PG_init */

/*
 * Removes producers that have made no batch for the producer_retention of their stream, at most so many; in a transaction of the
 * caller.  Returns how many; *next is when the next one will be past its time (0: there is none).
 */
extern int	penstock_producers_expire(int most, TimestampTz *next);

/* Sets the counters of this database to zero; forgets a database that is gone. */
extern void penstock_producer_stats_forget(Oid dboid);

#endif							/* PENSTOCK_PRODUCER_H */
