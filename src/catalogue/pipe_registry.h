/*
 * pipe_registry.h
 *	  Rows of penstock.pipe, penstock.source_position, penstock.seen_message and penstock.dead_letter.
 *
 * A pipe that reads a stream has its position in penstock.position, see registry.h; its OID is the consumer.
 */
#ifndef PENSTOCK_PIPE_REGISTRY_H
#define PENSTOCK_PIPE_REGISTRY_H

#include "connector/connector.h"
#include "nodes/pg_list.h"
#include "utils/jsonb.h"
#include "utils/snapshot.h"

typedef enum PenstockPipeStatus
{
	PENSTOCK_PIPE_ACTIVE = 'a',
	PENSTOCK_PIPE_PAUSED = 'p',
	PENSTOCK_PIPE_FAILED = 'f'
} PenstockPipeStatus;

typedef enum PenstockOnError
{
	PENSTOCK_ON_ERROR_DEAD_LETTER = 'd',
	PENSTOCK_ON_ERROR_STOP = 's',
	PENSTOCK_ON_ERROR_SKIP = 'k'
} PenstockOnError;

/* One row of penstock.pipe. */
typedef struct PenstockPipeRow
{
	Oid			oid;
	char	   *name;
	Oid			owner;
	Oid			source;			/* stream, partitioned table, or foreign table of a queue */
	char	   *statements;
	PenstockPipeStatus status;
	char	   *error;			/* why it failed, or NULL */
	PenstockOnError on_error;
	int			batch_rows;
	int64		batch_bytes;
	int			batch_time;		/* ms */
	int64		dedup_window;	/* ms, 0: none */
	char	   *dedup_key;		/* column by which messages are recognised, NULL: by their id */
	char	   *settings;		/* "name=value" lines: settings the statements run under */
} PenstockPipeRow;

/* OID of penstock.pipe, InvalidOid without the extension; its relcache invalidation says that a pipe has changed. */
extern Oid	penstock_pipe_registry_oid(void);
/* The right to change a pipe (exclusive) or to run a batch of it, until the end of the transaction. */
extern bool penstock_pipe_lock(Oid pipe, bool exclusive, bool wait);

/* Inserts the row; gives it an OID if it has none. */
extern void penstock_pipe_insert(PenstockPipeRow *row);
extern void penstock_pipe_update(const PenstockPipeRow *row);
/* Deletes the row and every place and position of the pipe. */
extern void penstock_pipe_delete(Oid pipe);
/* NULL if there is none; in the current context. */
extern PenstockPipeRow *penstock_pipe_get(Oid pipe);
extern PenstockPipeRow *penstock_pipe_by_name(const char *name);
/* All of them (PenstockPipeRow *) that the snapshot (NULL: the latest) sees. */
extern List *penstock_pipe_list(Snapshot snapshot);

/* Places: how far a pipe has read each partition of its queue. */
extern PenstockPlace *penstock_places_read(Oid pipe, int *n);
extern void penstock_places_write(Oid pipe, const PenstockPlace *places, int n);

/*
 * Remembers a message id (or key), unless it is known; true: it is new.  Forgets ids that are older than "before" in
 * passing, a few with each call of the second.
 */
extern bool penstock_seen_add(Oid pipe, const char *id, int length, TimestampTz now);
extern void penstock_seen_forget(Oid pipe, TimestampTz before, int most);
extern void penstock_seen_clear(Oid pipe);

/* An event that could not be worked on. */
typedef struct PenstockDeadLetter
{
	Oid			pipe;
	const char *pipe_name;
	Oid			owner;
	Oid			source;
	const PenstockMessage *message; /* the payload of a stream's event is its row as JSON */
	Jsonb	   *headers;		/* its headers, or NULL */
	Jsonb	   *properties;		/* what the connector calls metadata, or NULL */
	int			sqlstate;
	const char *text;			/* the error's message */
	const char *detail;
	const char *column;			/* the column it is about, or NULL */
	int			statement;		/* number of the statement that failed, from 1; 0: none did */
} PenstockDeadLetter;

extern void penstock_dead_letter_add(const PenstockDeadLetter *letter);

/*
 * Stores one that a dump has: "columns" are those of penstock.dead_letter from partition on.  It gets an id of its own.
 */
extern void penstock_dead_letter_restore(Oid pipe, const char *pipe_name, Oid owner, Oid source, const Datum *columns, const bool *isnull);

/* Whose dead letters there are (Oid). */
extern List *penstock_dead_letter_owners(void);

/* One that is to be sent again.  Everything in the current context; the row is locked by being deleted. */
typedef struct PenstockRedriven
{
	int64		id;
	PenstockMessage message;
	Jsonb	   *headers;
	Jsonb	   *properties;
} PenstockRedriven;

/*
 * Takes (deletes) at most so many of a pipe's dead letters that are to be sent again, oldest first; those that fail once more
 * are added anew.
 */
extern List *penstock_dead_letters_take(Oid pipe, int most);

#endif							/* PENSTOCK_PIPE_REGISTRY_H */
