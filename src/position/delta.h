/*
 * delta.h
 *	  What lies between a consumer's position and now: chunks, found at the cost of what is new.
 */
#ifndef PENSTOCK_DELTA_H
#define PENSTOCK_DELTA_H

#include "position/position.h"

/* What this process knows of the streams of its database.  One owner, in its own memory context. */
typedef struct PenstockSources PenstockSources;

extern PenstockSources *penstock_sources_create(MemoryContext parent);
/* Takes in what writers published since the last call; after taking the batch's snapshot. */
extern void penstock_sources_read_tail(PenstockSources *sources);
/*
 * Streams (OIDs) of which something was announced that "upto" may see and that nobody has vouched for yet; *all
 * when announcements were lost, so that it may be any stream.  Whoever knows that it has seen every change of
 * these relations that upto sees says so with penstock_sources_settled.
 */
extern List *penstock_sources_unsettled(PenstockSources *sources, Datum upto, bool *all);
extern void penstock_sources_settled(PenstockSources *sources, Datum upto);
/* False if certainly nothing of relid lies beyond the position. */
extern bool penstock_sources_maybe(PenstockSources *sources, Oid relid,
								   const PenstockPosition *from);
/*
 * The deltas (PenstockDelta *, none empty) of "streams" (ascending OIDs, locked by the caller) between
 * from and the active snapshot, which is upto as data; at most about max_rows rows.  *to is the position
 * after it, *left about how many rows are left beyond it.  All in the current memory context.
 */
extern List *penstock_sources_delta(PenstockSources *sources, List *streams,
									const PenstockPosition *from, Datum upto, int64 max_rows,
									PenstockPosition *to, int64 *left);
/* The stream that an error in penstock_sources_delta is about, InvalidOid if it is about none. */
extern Oid	penstock_sources_current(PenstockSources *sources);
/* Every consumer has seen what "seen" (a pg_snapshot) sees: forgets that. */
extern void penstock_sources_consumed(PenstockSources *sources, Datum seen);
/* Forgets a stream (InvalidOid: all), so that its directory is read when it is asked for again. */
extern void penstock_sources_forget(PenstockSources *sources, Oid relid);

/* Have chunks of the stream been announced since the last call? */
extern bool penstock_sources_news(PenstockSources *sources, Oid relid);
/* A stream that has so many small chunks that a merge pays, InvalidOid if there is none. */
extern Oid	penstock_sources_to_merge(PenstockSources *sources);
/* So many small chunks have been merged (0: none could be). */
extern void penstock_sources_merged(PenstockSources *sources, Oid relid, int chunks);

#endif							/* PENSTOCK_DELTA_H */
