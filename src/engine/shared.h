/*
 * shared.h
 *	  What the engine keeps in shared memory: workers, requests to catch up, statistics.
 */
#ifndef PENSTOCK_ENGINE_SHARED_H
#define PENSTOCK_ENGINE_SHARED_H

#include "datatype/timestamp.h"
#include "storage/condition_variable.h"
#include "storage/lwlock.h"
#include "utils/hsearch.h"

#define PENSTOCK_MAX_DATABASES 256
#define PENSTOCK_MAX_HOLDERS 4
#define PENSTOCK_ERROR_LENGTH 256

/*
 * Life of a database's worker.
 *
 *	 state		| what may follow, and when
 *	 -----------+-------------------------------------------------------------------
 *	 FREE		| WANTED: extension created, server started, database seen
 *	 WANTED		| STARTING: launcher registers it (not while held, not before next_start);
 *				| FREE: the database is gone
 *	 STARTING	| RUNNING: the process attaches;  WANTED: it could not start
 *	 RUNNING	| WANTED: it ended, for whatever reason (next_start says when again);
 *				| FREE: it found no extension
 */
typedef enum PenstockWorkerState
{
	PENSTOCK_WORKER_FREE,
	PENSTOCK_WORKER_WANTED,
	PENSTOCK_WORKER_STARTING,
	PENSTOCK_WORKER_RUNNING
} PenstockWorkerState;

/*
 * One database.  Everything under PenstockEngineShared.lock; the last column says who writes
 * (L launcher, W the worker, B any backend).
 */
typedef struct PenstockDatabase
{
	Oid			dboid;			/* B, L; InvalidOid: slot is free */
	PenstockWorkerState state;	/* B, L, W */
	int			pid;			/* W: while it runs, else 0 */
	int			holders[PENSTOCK_MAX_HOLDERS];	/* B: pids that keep the worker away */
	bool		no_slot;		/* L: max_worker_processes is used up */
	bool		no_extension;	/* W: found none; the slot is freed at its exit */
	int			pause;			/* W, L: seconds to wait after the next failure */
	TimestampTz next_start;		/* W, L */
	TimestampTz started_at;		/* W */
	TimestampTz starting_since; /* L */
	int64		restarts;		/* W */
	int64		batches;		/* W */
	int64		rounds;			/* W */
	double		last_batch_ms;	/* W */
	double		total_ms;		/* W */
	TimestampTz last_batch_at;	/* W */
	int			views;			/* W: active views it keeps */
	char		last_error[PENSTOCK_ERROR_LENGTH];	/* W */
	TimestampTz last_error_at;	/* W */

	/* requests to catch up */
	uint64		requested;		/* B: tickets given out */
	uint64		done;			/* W: every active view has reached this ticket */
	ConditionVariable caught_up;	/* W broadcasts, B waits */
} PenstockDatabase;

typedef struct PenstockStatKey
{
	Oid			dboid;
	Oid			relid;
} PenstockStatKey;

/* Statistics of a view, written by its database's worker under the lock. */
typedef struct PenstockViewStat
{
	PenstockStatKey key;
	uint64		ticket;			/* it has reached this request to catch up */
	int64		batches;
	int64		events;
	int64		rows;
	int64		errors;
	int64		skipped;		/* rounds it missed because something was locked */
	double		last_batch_ms;
	double		total_ms;
	TimestampTz last_batch_at;
	TimestampTz current_at;		/* it had consumed everything committed before this */
	bool		behind;
	int64		lag_events;
	int64		backlog_done;	/* rows of the backlog under way that are done */
	int64		backlog_slices;
	char		last_error[PENSTOCK_ERROR_LENGTH];
	TimestampTz last_error_at;
} PenstockViewStat;

/* Statistics of a stream's upkeep, written by its database's worker under the lock. */
typedef struct PenstockStreamStat
{
	PenstockStatKey key;
	int64		merges;
	int64		merged_chunks;
	int64		retained_chunks;
	int64		retained_rows;
	int64		lost_rows;
	char		last_error[PENSTOCK_ERROR_LENGTH];
	TimestampTz last_error_at;
} PenstockStreamStat;

typedef struct PenstockEngineShared
{
	LWLock	   *lock;			/* protects everything here and both hashes */
	struct Latch *launcher;		/* the launcher's latch, or NULL; launcher writes */
	bool		launcher_called;	/* B: look around; launcher clears.  A latch alone forgets */
	TimestampTz stats_reset;
	TimestampTz start_after;	/* no worker before this time; set when shared memory is made */
	bool		look_at_databases;	/* B: launcher must read pg_database again */
	PenstockDatabase databases[PENSTOCK_MAX_DATABASES];
} PenstockEngineShared;

extern PenstockEngineShared *penstock_engine;
extern HTAB *penstock_view_stats;
extern HTAB *penstock_stream_stats;

extern void penstock_engine_shared_init(void);

/* All with the lock held. */
extern PenstockDatabase *penstock_database_find(Oid dboid, bool create);
extern PenstockViewStat *penstock_view_stat(Oid relid);
extern PenstockStreamStat *penstock_stream_stat(Oid relid);
extern bool penstock_database_held(PenstockDatabase *database);
extern bool penstock_database_wanted_away(const PenstockDatabase *database);
extern void penstock_launcher_call(void);

/* Take the lock themselves. */
extern void penstock_engine_request(Oid dboid);
extern void penstock_engine_wake_launcher(void);
extern void penstock_engine_forget_database(Oid dboid);

#endif							/* PENSTOCK_ENGINE_SHARED_H */
