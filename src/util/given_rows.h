/*
 * given_rows.h
 *	  Rows that scans of a relation return instead of what the relation holds.
 *
 * A pipe's batch is given to its statements this way: events of a queue always, those of a stream when a batch is
 * divided or sent again.  The setting belongs to this process; the end of the transaction clears it.
 */
#ifndef PENSTOCK_GIVEN_ROWS_H
#define PENSTOCK_GIVEN_ROWS_H

#include "access/tupdesc.h"

/* One row: values and nulls of every attribute of the relation.  The giver's memory. */
typedef struct PenstockGivenRow
{
	Datum	   *values;
	bool	   *isnull;
	bool		left_out;		/* scans pass it by */
} PenstockGivenRow;

typedef struct PenstockGivenRows
{
	Oid			relid;
	int			from;			/* rows from .. to - 1 are given */
	int			to;
	PenstockGivenRow *rows;
} PenstockGivenRows;

/* Scans of these relations, which begin from now on, return these rows (an array of n, the caller's). */
extern void penstock_given_rows_set(const PenstockGivenRows *rows, int n);
extern void penstock_given_rows_clear(void);
/* What is given for a relation; NULL: nothing, read it. */
extern const PenstockGivenRows *penstock_given_rows_find(Oid relid);

/*
 * While a scope is set (the text of a plan, compared by address), what scans are to read instead - given rows, a delta, a
 * fill - holds only for scans that begin as that plan starts, and not for queries of functions in it.  NULL: no scope.
 */
extern void penstock_scope_set(const char *text);
extern bool penstock_scope_is_open(void);
/* Around the start of a plan; returns what to hand to leave. */
extern bool penstock_scope_enter(const char *text);
extern void penstock_scope_leave(bool before);
extern void penstock_given_rows_init(void);		/* from _PG_init */

#endif							/* PENSTOCK_GIVEN_ROWS_H */
