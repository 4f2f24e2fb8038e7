/*
 * tail.h
 *	  Where writers publish the chunks they wrote: a ring in shared memory.
 *
 * An entry is there before its writer's commit is visible, so a consumer that reads the
 * tail after taking its snapshot misses nothing.
 */
#ifndef PENSTOCK_TAIL_H
#define PENSTOCK_TAIL_H

#include "access/transam.h"
#include "storage/itemptr.h"

struct Latch;

typedef struct PenstockTailEntry
{
	Oid			dboid;
	Oid			relid;
	FullTransactionId xid;		/* writer's top-level transaction */
	ItemPointerData tid;		/* address of the directory tuple */
	int32		nrows;
} PenstockTailEntry;

extern void penstock_tail_init(void);		/* from _PG_init: asks for shared memory */

extern void penstock_tail_publish(Oid relid, FullTransactionId xid, ItemPointer tid, int32 nrows);

/* Number of the next entry to be written: where a new consumer starts. */
extern uint64 penstock_tail_head(void);

/*
 * Copies up to max entries of this database from *cursor on into entries and moves *cursor.
 * Returns how many were copied; *overrun is set when entries were overwritten before they were
 * read (then *cursor is at the head and the consumer must scan directories).
 */
extern int	penstock_tail_read(uint64 *cursor, PenstockTailEntry *entries, int max, bool *overrun);

/* Wakes those who listen in this database (any database); after the commit is visible. */
extern void penstock_tail_wake(Oid dboid);
/* Has this process been called since it asked last?  A latch alone forgets: waiting for a lock or a page resets it. */
extern bool penstock_tail_called(void);
/* This process listens in dboid from now on (NULL: no longer). */
extern void penstock_tail_listen(Oid dboid, struct Latch *latch);

#endif							/* PENSTOCK_TAIL_H */
