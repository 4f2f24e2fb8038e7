/*
 * vector.h
 *	  Grouped aggregation over chunks, a column at a time.
 *
 * Where a finished plan has a hashed or plain Agg straight over a scan of a stream, a node StreamAggregate takes
 * the Agg's place and reads by chunks.  What it has no loop for it evaluates by the server's own
 * functions, so the result is the Agg's.
 */
#ifndef PENSTOCK_VECTOR_H
#define PENSTOCK_VECTOR_H

#include "nodes/plannodes.h"

extern void penstock_vector_init(void);		/* from _PG_init: planner hook, GUC, node methods */

/* Puts StreamAggregate nodes into a finished plan wherever they can stand. */
extern void penstock_vector_improve(PlannedStmt *plan);

#endif							/* PENSTOCK_VECTOR_H */
