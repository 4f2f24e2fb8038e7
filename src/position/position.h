/*
 * position.h
 *	  Positions of consumers: snapshots as data.  What lies between two: delta.h
 */
#ifndef PENSTOCK_POSITION_H
#define PENSTOCK_POSITION_H

#include "access/transam.h"
#include "nodes/pg_list.h"
#include "stream/stream.h"

/*
 * Seen: everything visible in "lower"; and, when a slice is under way, of what "upper" sees beyond it,
 * chunks up to (relid, cursor) in order of (relid, address).
 */
typedef struct PenstockPosition
{
	Datum		lower;			/* pg_snapshot */
	bool		slicing;
	Datum		upper;			/* pg_snapshot, only when slicing */
	Oid			cursor_relid;
	ItemPointerData cursor;
} PenstockPosition;

/* The active snapshot as a pg_snapshot Datum, in the current context. */
extern Datum penstock_position_current(void);
/* Is xid visible in the pg_snapshot? */
extern bool penstock_position_sees(Datum snapshot, FullTransactionId xid);
/* A copy in the current context, detoasted and checked: ERRCODE_DATA_CORRUPTED if it is no snapshot. */
extern Datum penstock_position_copy(Datum snapshot);
/* May the snapshot see some transaction from "oldest" on; does it see all up to "newest"? */
extern bool penstock_position_may_see(Datum snapshot, FullTransactionId oldest);
extern bool penstock_position_sees_all(Datum snapshot, FullTransactionId newest);
/* Do both see the same? */
extern bool penstock_position_same(Datum a, Datum b);
/* Does "later" see everything that "earlier" sees? */
extern bool penstock_position_within(Datum earlier, Datum later);
/* The position itself, copied into the current context. */
extern void penstock_position_assign(PenstockPosition *to, const PenstockPosition *from);
extern bool penstock_position_equal(const PenstockPosition *a, const PenstockPosition *b);

#endif							/* PENSTOCK_POSITION_H */
