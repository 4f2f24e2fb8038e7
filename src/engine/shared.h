/*
 * shared.h
 *	  What the engine keeps in shared memory: workers, requests to catch up, statistics.
 */
#ifndef PENSTOCK_ENGINE_SHARED_H
#define PENSTOCK_ENGINE_SHARED_H

#include "datatype/timestamp.h"
#include "nodes/pg_list.h"
#include "storage/condition_variable.h"
#include "storage/lwlock.h"
#include "utils/hsearch.h"

/* Slots: an engine for each database, and one for each pipe. */
#define PENSTOCK_MAX_SLOTS 512
#define PENSTOCK_MAX_HOLDERS 4
#define PENSTOCK_ERROR_LENGTH 256

/*
 * Life of a worker: a database's engine, or a pipe.
 *
 *	 state		| what may follow, and when
 *	 -----------+-------------------------------------------------------------------
 *	 FREE		| WANTED: extension created, server started, database seen; pipe made
 *	 WANTED		| STARTING: launcher registers it (not while held, not before next_start);
 *				| FREE: the database is gone
 *	 STARTING	| RUNNING: the process attaches;  WANTED: it could not start
 *	 RUNNING	| WANTED: it ended, for whatever reason (next_start says when again);
 *				| FREE: it found no extension, or no pipe that is to run
 */
typedef enum PenstockWorkerState
{
	PENSTOCK_WORKER_FREE,
	PENSTOCK_WORKER_WANTED,
	PENSTOCK_WORKER_STARTING,
	PENSTOCK_WORKER_RUNNING
} PenstockWorkerState;

/* What a pipe's worker says of itself; written by it, under the lock. */
typedef struct PenstockPipeStat
{
	int64		batches;
	int64		events;
	int64		dead_letters;
	int64		skipped;		/* with on_error 'skip', and known messages of the dedup window */
	int64		retries;		/* batches done again after an error that may go away */
	int64		divided;		/* batches that had to be divided */
	int64		lag;			/* events its source still has, -1: not known */
	double		last_batch_ms;
	double		total_ms;
	TimestampTz last_batch_at;
	bool		loaded;			/* its worker knows it, and removes what it has outside when it is dropped */
	bool		waiting;		/* the source is away, or refuses: source_error says why */
	TimestampTz retry_at;
	char		source_error[PENSTOCK_ERROR_LENGTH];
} PenstockPipeStat;

/*
 * One database's engine, or one pipe.  Everything under PenstockEngineShared.lock; the last column says who writes
 * (L launcher, W the worker, B any backend).
 */
typedef struct PenstockDatabase
{
	Oid			dboid;			/* B, L; InvalidOid: slot is free */
	Oid			pipe;			/* B; InvalidOid: the engine */
	PenstockWorkerState state;	/* B, L, W */
	int			pid;			/* W: while it runs, else 0 */
	int			holders[PENSTOCK_MAX_HOLDERS];	/* B: pids that keep the worker away */
	bool		no_slot;		/* L: max_worker_processes is used up */
	bool		no_extension;	/* W: found none, or no pipe to run; the slot is freed at its exit */
	bool		called;			/* B: a pipe's worker is to look around; W clears */
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
	PenstockPipeStat pipe_stat; /* W */
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
	PenstockDatabase slots[PENSTOCK_MAX_SLOTS];
} PenstockEngineShared;

extern PenstockEngineShared *penstock_engine;
extern HTAB *penstock_view_stats;
extern HTAB *penstock_stream_stats;

extern void penstock_engine_shared_init(void);

/* All with the lock held. */
extern PenstockDatabase *penstock_database_find(Oid dboid, bool create);
extern PenstockDatabase *penstock_slot_find(Oid dboid, Oid pipe, bool create);
/* Has somebody the right to have the database of this slot for himself? */
extern bool penstock_slot_held(PenstockDatabase *slot);
/* Pids of every worker of the database; returns how many. */
extern int	penstock_database_pids(Oid dboid, int *pids, int max);
extern PenstockViewStat *penstock_view_stat(Oid relid);
extern PenstockStreamStat *penstock_stream_stat(Oid relid);
extern bool penstock_database_held(PenstockDatabase *database);
extern bool penstock_database_wanted_away(const PenstockDatabase *database);
extern void penstock_launcher_call(void);

/* Take the lock themselves. */
extern void penstock_engine_request(Oid dboid);
/* The same for a pipe of the database; false: all slots are taken. */
extern bool penstock_pipe_request(Oid dboid, Oid pipe);
/* Frees the slots of pipes of the database that are not in the list, and whose workers have ended. */
extern void penstock_pipe_slots_keep(Oid dboid, List *pipes);
/* Wakes the pipe's worker, if it has one. */
extern void penstock_pipe_wake(Oid dboid, Oid pipe);
extern void penstock_engine_wake_launcher(void);
extern void penstock_engine_forget_database(Oid dboid);

#endif							/* PENSTOCK_ENGINE_SHARED_H */
