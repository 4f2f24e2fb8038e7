/*
 * stream.h
 *	  The "stream" access method as other modules see it.
 */
#ifndef PENSTOCK_STREAM_H
#define PENSTOCK_STREAM_H

#include "nodes/bitmapset.h"
#include "stream/chunk.h"
#include "storage/itemptr.h"
#include "utils/relcache.h"
#include "utils/snapshot.h"

/* The batch's share of one stream: chunks in address order. */
typedef struct PenstockDeltaChunk
{
	ItemPointerData tid;
	int32		nrows;
} PenstockDeltaChunk;

typedef struct PenstockDelta
{
	Oid			relid;
	int			weight;			/* of each row: +1 added; streams only add */
	int			nchunks;
	PenstockDeltaChunk *chunks;
	int64		nrows;
} PenstockDelta;

extern void penstock_stream_init(void);		/* from _PG_init */

/* OID of the access method in this database, InvalidOid without the extension. */
extern Oid	penstock_stream_am(void);
extern bool penstock_is_stream(Oid relid);

/* Writes out what this transaction has buffered for relid (InvalidOid: everything). */
extern void penstock_stream_flush(Oid relid);

/* ---- directory ---- */

typedef struct PenstockDirectoryScan PenstockDirectoryScan;

typedef struct PenstockDirectoryEntry
{
	ItemPointerData tid;
	PenstockChunkInfo info;
} PenstockDirectoryEntry;

/*
 * Walks the chunks that snapshot sees, in address order, headers only.  The engine also gives a dirty
 * snapshot (InitDirtySnapshot) to learn of chunks whose writers still run, and a start address
 * (NULL: from the beginning) to go on where a slice ended: chunks at or below it may be left out.
 */
extern PenstockDirectoryScan *penstock_directory_begin(Relation rel, Snapshot snapshot,
													   ItemPointer after);
extern bool penstock_directory_next(PenstockDirectoryScan *scan, PenstockDirectoryEntry *entry);
extern void penstock_directory_end(PenstockDirectoryScan *scan);
/* The chunk at tid, if there is one that snapshot sees; false otherwise (also beyond the end). */
extern bool penstock_directory_get(Relation rel, ItemPointer tid, Snapshot snapshot,
								   PenstockDirectoryEntry *entry);

/*
 * Raises an error if chunks of relid must keep their addresses now; called with the stream locked, before
 * its chunks are moved.  Set by the engine: a backlog's slice remembers an address.
 */
typedef void (*PenstockRewriteCheck) (Oid relid);
extern PenstockRewriteCheck penstock_rewrite_check;

/* ---- reading ---- */

/*
 * What scans of streams read during a batch.  While set (by the engine, around ExecutorStart to
 * ExecutorEnd), a scan of a stream in the list reads just that delta; of a stream not in the list,
 * nothing.  NIL means "every stream has an empty delta".  Cleared with penstock_delta_clear and
 * by transaction abort.
 */
extern void penstock_delta_set(List *deltas);
/* The same, but only for streams in "consumed" (OIDs); the others are read whole, as by anybody. */
extern void penstock_delta_set_for(List *consumed, List *deltas);
extern void penstock_delta_clear(void);
/* The plan has begun its scans: what functions in it read from now on is not the plan's delta or fill. */
extern void penstock_delta_taken(void);

/*
 * A fill reads, instead, every chunk that the executor's snapshot sees and whose writer is visible
 * in position (a pg_snapshot Datum); so it leaves out this transaction's own events.
 */
extern void penstock_delta_set_fill(Datum position);
/* Called with the rows of each chunk that a fill reads, until penstock_delta_clear. */
extern void penstock_delta_on_fill(void (*count) (int nrows));

/*
 * While planning a delta plan: the number of rows a stream is assumed to give (0: its real size).
 */
extern void penstock_delta_assume_rows(double rows);

/* The events of a delta as rows, see stream_rows.c. */
struct PenstockGivenRow;
extern void penstock_delta_rows(const PenstockDelta *delta, Relation rel, Snapshot snapshot,
								struct PenstockGivenRow **rows, int *n, int *room);

/* ---- upkeep, called by the engine between batches ---- */

/* Lock of upkeep_lock.c: held shared while a consumer is made, tried exclusively by upkeep. */
extern void penstock_upkeep_hold(Oid relid);
extern bool penstock_upkeep_try(Oid relid);

/*
 * Merges small chunks that every position in "positions" (array of pg_snapshot Datums) and every
 * running transaction has seen into chunks of up to PENSTOCK_CHUNK_MAX_ROWS rows; at most one merged
 * chunk a call.  In a transaction of the caller.  Returns the number of chunks replaced.
 */
extern int	penstock_stream_merge(Oid relid, Datum *positions, int npositions);

/*
 * Removes chunks past penstock.retention.  Chunks that some position has not seen stay, unless
 * penstock.retention_force is on; then rows lost to consumers are counted in *lost.
 * At most max_chunks a call.  Returns chunks removed; *next_due is when the next one will be past its time (0:
 * there is none, or not all were looked at), *blocked whether one that is stays for some position.
 */
extern int	penstock_stream_retain(Oid relid, Datum *positions, int npositions,
								   int max_chunks, int64 *rows, int64 *lost,
								   TimestampTz *next_due, bool *blocked);

/* Options of a stream, from its reloptions; defaults where not given. */
typedef struct PenstockStreamOptions
{
	AttrNumber	event_attno;		/* penstock.event_time, or 0 */
	int64		retention;			/* microseconds, 0: keep for ever */
	bool		retention_force;
	int64		watermark_delay;	/* microseconds */
	int64		producer_retention; /* microseconds */
} PenstockStreamOptions;

/* penstock.producer_retention where it is not given: 7 days */
#define PENSTOCK_PRODUCER_RETENTION (7 * USECS_PER_DAY)

extern void penstock_stream_options(Relation rel, PenstockStreamOptions *options);

#endif							/* PENSTOCK_STREAM_H */
