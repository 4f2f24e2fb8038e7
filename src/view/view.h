/*
 * view.h
 *	  Continuous views as the engine sees them.
 */
#ifndef PENSTOCK_VIEW_H
#define PENSTOCK_VIEW_H

#include "nodes/pg_list.h"
#include "stream/stream.h"

typedef struct PenstockView PenstockView;

extern void penstock_view_init(void);		/* from _PG_init */
extern Oid	penstock_continuous_am(void);

/*
 * Opens a view for a batch: takes its locks conditionally (view, state, everything its
 * plan reads) and makes or takes its kept plans.  Returns NULL if a lock is not to be had now
 * or the view is gone.  The result belongs to a cache and lives until the view is
 * invalidated; locks go with the transaction.
 */
extern PenstockView *penstock_view_open(Oid relid);

/* OIDs of the streams (leaf partitions) the view consumes; valid after open. */
extern List *penstock_view_streams(PenstockView *view);

/*
 * Applies the deltas (list of PenstockDelta *) to the view, as its owner.  The caller has a
 * REPEATABLE READ transaction with an active snapshot.  Raises whatever the view's query raises.
 * Returns the number of view rows inserted, updated or deleted.
 */
extern int64 penstock_view_apply(PenstockView *view, List *deltas);

/* Does the view's query read relid (a stream, also as a partition)?  In doubt, yes. */
extern bool penstock_view_reads(Oid view, Oid relid);

/* Events of the stream were removed: its views can no longer be rebuilt without loss. */
extern void penstock_view_history_lost(Oid stream);

/*
 * If error says that a key is too long for the index that the view has got by itself, drops that index and returns
 * true.  In a transaction of its own; *locked is false if that had to wait for somebody.
 */
extern bool penstock_view_drop_index(Oid relid, ErrorData *error, bool *locked);

/* Forgets all kept plans (after an error in a batch). */
extern void penstock_view_reset(void);

#endif							/* PENSTOCK_VIEW_H */
