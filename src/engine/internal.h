/*
 * internal.h
 *	  What the files of the engine know of each other.
 */
#ifndef PENSTOCK_ENGINE_INTERNAL_H
#define PENSTOCK_ENGINE_INTERNAL_H

#include "catalogue/registry.h"
#include "nodes/pg_list.h"
#include "position/delta.h"
#include "view/view.h"

/* A view in the worker's memory; lives in a context of its own. */
typedef struct EngineView
{
	MemoryContext context;		/* holds everything below */
	Oid			relid;
	char		name[2 * NAMEDATALEN + 8];	/* qualified and quoted, for messages */
	PenstockViewStatus status;
	PenstockPosition position;	/* may be ahead of the stored one, when nothing came between */
	PenstockPosition stored;	/* as last read from or written to penstock.position */
	bool		streams_known;	/* false: relations changed since it was opened */
	List	   *streams;		/* OIDs, ascending */
	TimestampTz retry_at;		/* not before this time, after a lock or a transient error */
	int			pause;			/* ms, the next pause */
	char	   *failure;		/* failed, but not yet marked so: the error */

	/* this round */
	PenstockView *open;
	List	   *deltas;
	PenstockPosition next;		/* its position after the round, in the round's context */
	bool		skipped;		/* something it needs was locked */
	int64		rows;
	int64		events;
	double		ms;
	int64		left;			/* events of its backlog beyond this round */
	bool		backlog;		/* the log knows that it works off one */
} EngineView;

/* A stream in the worker's memory, for upkeep. */
typedef struct EngineStream
{
	Oid			relid;
	int64		retention;		/* microseconds, 0: none */
	TimestampTz retain_at;		/* when its oldest chunk will be due, 0: never, as things are */
	int64		cost;			/* us that retention took last */
	bool		force;			/* penstock.retention_force */
	int64		producer_retention; /* us */
	bool		blocked;		/* a chunk past its time waits for a view */
	TimestampTz not_before;		/* after an error in upkeep */
	int			pause;			/* ms */
} EngineStream;

/* The worker. */
typedef struct Engine
{
	MemoryContext context;		/* life of the process */
	MemoryContext round;		/* reset after each round */
	PenstockSources *sources;
	List	   *views;			/* EngineView *, in order of relid */
	List	   *streams;		/* EngineStream * */
	bool		moved;			/* positions have changed since retention looked at them */
	bool		streams_stale;
	TimestampTz streams_read_at;
	EngineView *current;		/* whose fault an error is now */
	uint64		ticket;			/* highest request to catch up noted before this round */
	uint64		ticket_done;	/* last one that was fulfilled */
	Datum		upto;			/* this round's S2, in the round's context */
	bool		behind;			/* some active view did not reach S2 */
	int			unsettled;		/* rounds in a row that could not be sure of their streams */
	bool		dropped;		/* the extension is gone */
	bool		unwanted;		/* a statement wants to be alone with the database */
} Engine;

/* What a round came to. */
typedef struct EngineRound
{
	bool		applied;		/* something was written: pause before the next */
	bool		again;			/* more is to be done at once */
	bool		blocked;		/* our own tables were locked: again after a moment */
	double		ms;
} EngineRound;

/* stats.c */
extern bool penstock_may_see_error(Oid view);
/* control.c */
extern void penstock_engine_wait(Oid relid, int timeout_ms);
/* launcher.c */
extern void penstock_launcher_register(void);
/* database.c */
extern void penstock_engine_database_init(void);
extern void penstock_engine_release(void);
/* engine.c */
extern void penstock_engine_look_at_commit(void);
/* batch.c */
extern void penstock_engine_round(Engine *engine, EngineRound *round);
extern void penstock_engine_watch_relations(void);
/* views.c */
extern bool penstock_engine_read_views(Engine *engine);
extern bool penstock_engine_views_known(Engine *engine);
extern void penstock_engine_name_view(EngineView *view);
extern void penstock_engine_view_failed(Engine *engine, EngineView *view, ErrorData *error);
extern void penstock_engine_mark_failures(Engine *engine);
/* report.c */
extern void penstock_engine_report_round(Engine *engine, EngineRound *round);
extern void penstock_engine_report_stopped(Oid relid);
extern void penstock_engine_report_error(ErrorData *error);
/* pipes.c */
extern void penstock_engine_watch_pipes(void);
extern void penstock_engine_pipes(void);
extern int	penstock_engine_pipe_positions(Oid stream, Datum **positions);
/* producers.c */
extern void penstock_engine_watch_producers(void);
extern void penstock_engine_look_at_producers(void);
extern TimestampTz penstock_engine_producers(Engine *engine);
/* upkeep.c */
extern List *penstock_engine_stream_oids(void);
extern bool penstock_engine_upkeep(Engine *engine, TimestampTz *next_due);

/* Wait events. */
typedef enum PenstockWait
{
	PENSTOCK_WAIT_LAUNCHER,
	PENSTOCK_WAIT_IDLE,
	PENSTOCK_WAIT_PAUSE,
	PENSTOCK_WAIT_CATCH_UP,
	PENSTOCK_WAIT_HOLD
} PenstockWait;

extern uint32 penstock_wait_event(PenstockWait wait);

/* Settings. */
extern int	penstock_batch_rows;
extern int	penstock_batch_pause;
extern int	penstock_engine_work_mem;

#endif							/* PENSTOCK_ENGINE_INTERNAL_H */
