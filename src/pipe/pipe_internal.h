/*
 * pipe_internal.h
 *	  What the files of src/pipe share with each other.
 */
#ifndef PENSTOCK_PIPE_INTERNAL_H
#define PENSTOCK_PIPE_INTERNAL_H

#include "catalogue/pipe_registry.h"
#include "compat/compat.h"
#include "engine/shared.h"
#include "executor/spi.h"
#include "pipe/pipe.h"
#include "position/delta.h"
#include "queue/queue.h"
#include "util/given_rows.h"

/* ---- pipe_analyze.c: what statements mean ---- */

/* The statements of a text, each a C string; raises a syntax error. */
extern List *penstock_pipe_split(const char *text);
/* Checks the statements and returns the relation whose events they consume; wanted: the one that the user names, or InvalidOid. */
extern Oid	penstock_pipe_source(const char *text, Oid wanted);
/* The streams of a source: itself, or the leaves of a partitioned table that are streams; ascending. */
extern List *penstock_pipe_streams(Oid source);

/* ---- pipe_ddl.c ---- */

/* ERRCODE_INVALID_PARAMETER_VALUE if a batch cannot be closed by these. */
extern void penstock_pipe_check_batch(const PenstockPipeRow *row);
/* Before a name is taken: nobody else takes one until the end of the transaction. */
extern void penstock_pipe_lock_names(void);

/* ---- pipe_statements.c: running them ---- */

typedef struct PenstockPipeStatements PenstockPipeStatements;

extern PenstockPipeStatements *penstock_statements_create(MemoryContext parent, const PenstockPipeRow *row);
extern void penstock_statements_free(PenstockPipeStatements *statements);
/* Runs all of them once, as the owner; in a transaction.  expected: about how many events. */
extern void penstock_statements_run(PenstockPipeStatements *statements, double expected, bool given);
/* Number of the statement that runs or raised the last error, from 1. */
extern int	penstock_statements_current(void);

/* ---- pipe_batch.c: one batch, divided if need be ---- */

/* What became of an event. */
typedef struct PenstockFailure
{
	int			row;
	int			statement;		/* 0: it could not be decoded */
	int			sqlstate;
	char	   *text;
	char	   *detail;
	char	   *column;
} PenstockFailure;

typedef struct PenstockPipeBatch
{
	const PenstockPipeRow *pipe;
	PenstockPipeStatements *statements;
	MemoryContext context;		/* rows and failures; the caller resets it */
	const PenstockMessage *messages;	/* of a queue's events; NULL for a stream's */
	PenstockGivenRow *rows;
	int			nrows;
	PenstockGivenRows *sets;	/* the rows of each relation: from .. to - 1 of rows, one after the other */
	int			nsets;
	List	   *failures;		/* PenstockFailure *, in order of row */
	bool		careful;		/* have sinks flush within each part, so that what a broker refuses is found */
	bool		divided;
	bool		succeeded;		/* some part */
	int			suspects;		/* events that failed with what looks like the pipe's fault */
} PenstockPipeBatch;

/* How an error is to be taken. */
typedef enum PenstockBlame
{
	PENSTOCK_BLAME_EVENT,		/* a dead letter */
	PENSTOCK_BLAME_PIPE,		/* the pipe stops */
	PENSTOCK_BLAME_NOBODY		/* it may go away: the batch is done again */
} PenstockBlame;

extern PenstockBlame penstock_pipe_blame(int sqlstate);
/* Runs the statements over the given rows; events that fail alone are noted as failures.  Rethrows what is not their fault. */
extern void penstock_pipe_run(PenstockPipeBatch *batch);
/* on_error 'stop': rethrows the error, which says at which event. */
pg_noreturn extern void penstock_pipe_stop_at(PenstockPipeBatch *batch, int row, ErrorData *error);
extern void penstock_pipe_note_failure(PenstockPipeBatch *batch, int row, int statement, ErrorData *error, const char *column);

/* ---- pipe_worker.c and the two kinds of source ---- */

/* A pipe in the memory of its worker. */
typedef struct PenstockPipe
{
	Oid			oid;
	PenstockDatabase *slot;
	MemoryContext context;		/* everything below; reset when the pipe has changed */
	PenstockPipeRow *row;
	PenstockPipeStatements *statements;
	char	   *fingerprint;	/* the row and the source's options: what a change is compared with */
	MemoryContext step_context; /* reset with each step; connectors' functions run in it */
	MemoryContext batch_context;	/* reset for each batch */
	bool		careful;		/* a broker refused something of the last try */
	TimestampTz retry_at;		/* not before this time, 0: at once */
	int			pause;			/* ms, the last one */

	/* a queue */
	const PenstockConnector *connector; /* NULL: the source is a stream */
	MemoryContext consumer_context;
	PenstockQueue *queue;
	PenstockConsumer *consumer; /* NULL: not open */
	PenstockBatch *batch;
	bool		unacknowledged; /* something was committed since it last acknowledged */
	TimestampTz acknowledged_at;
	PenstockWaitFor wait;
	double		batch_ms;		/* the last batch took so long */

	/* a stream */
	PenstockSources *sources;
	PenstockPosition position;
	bool		position_known;
} PenstockPipe;

/* What a step came to. */
typedef enum PenstockStep
{
	PENSTOCK_STEP_DONE,			/* a batch: look again at once */
	PENSTOCK_STEP_NOTHING,		/* there was nothing */
	PENSTOCK_STEP_LATER			/* the source is away: at retry_at */
} PenstockStep;

/* Begins the batch's transaction; false: the pipe has changed, nothing is begun. */
extern bool penstock_pipe_begin(PenstockPipe *pipe);
/* Dead letters of the batch, in its transaction; returns how many. */
extern int	penstock_pipe_bury(PenstockPipe *pipe, PenstockPipeBatch *batch, const PenstockMessage *messages);
extern void penstock_pipe_report(PenstockPipe *pipe, int64 events, int64 known, PenstockPipeBatch *batch, int dead, TimestampTz start);
/* The next try only after a growing pause. */
extern void penstock_pipe_put_off(PenstockPipe *pipe, int shortest, int longest);

/* pipe_queue.c */
extern PenstockStep penstock_pipe_queue_step(PenstockPipe *pipe);
extern void penstock_pipe_queue_close(PenstockPipe *pipe);
extern void penstock_pipe_queue_acknowledge(PenstockPipe *pipe);
extern void penstock_pipe_queue_drop(PenstockPipe *pipe);
extern void penstock_pipe_queue_redrive(PenstockPipe *pipe, PenstockPipeBatch *batch, List *letters);

/* pipe_dedup.c */
/* The column that dedup_key names; ERRCODE_UNDEFINED_COLUMN, with those that it may name. */
extern AttrNumber penstock_pipe_dedup_column(const PenstockPipeRow *row);
/* Leaves rows of the batch out whose messages were seen before, and remembers the others; returns how many. */
extern int	penstock_pipe_leave_known_out(PenstockPipe *pipe, PenstockPipeBatch *batch, Relation rel,
										  const PenstockMessage *messages);

/* pipe_stream.c */
extern PenstockStep penstock_pipe_stream_step(PenstockPipe *pipe);
extern void penstock_pipe_stream_redrive(PenstockPipe *pipe, PenstockPipeBatch *batch, List *letters);
extern void penstock_pipe_stream_start(const PenstockPipeRow *row, bool backfill);
/* Rows of relid as JSON, for dead letters. */
extern char *penstock_pipe_row_json(Oid relid, const PenstockGivenRow *row);

/* pipe_redrive.c */
extern bool penstock_pipe_redrive_step(PenstockPipe *pipe);

/* pipe_ddl.c */
/* A name of this pipe that no other has, in any database of any server. */
extern char *penstock_pipe_consumer_name(Oid pipe);

#endif							/* PENSTOCK_PIPE_INTERNAL_H */
