/*
 * aggregate.h
 *	  Combining and finishing aggregate states outside of an Agg node.
 */
#ifndef PENSTOCK_AGGREGATE_H
#define PENSTOCK_AGGREGATE_H

#include "fmgr.h"
#include "nodes/primnodes.h"

/* One aggregate's support functions. */
typedef struct PenstockAggregate
{
	Oid			aggfnoid;
	Oid			transtype;
	Oid			storetype;		/* type of the stored state: transtype, or bytea if that is internal */
	int16		store_len;
	bool		store_byval;
	char		store_align;
	Oid			resulttype;
	Oid			collation;
	bool		internal;
	bool		has_final;
	bool		final_writes;	/* the final function may change the state */
	int			final_nargs;
	FmgrInfo	combine;
	FmgrInfo	serialize;
	FmgrInfo	deserialize;
	FmgrInfo	final;
	struct AggStatePerAggData *peragg;	/* for AggGetAggref */
} PenstockAggregate;

/* An AggState for the two functions below: what they allocate goes into context. */
extern Node *penstock_aggregate_context(MemoryContext context);
/* The current user may run the aggregate, and its owner its functions; an error if not. */
extern void penstock_aggregate_check_permission(Aggref *ref);
extern void penstock_aggregate_init(PenstockAggregate *agg, Aggref *ref);
extern void penstock_aggregate_combine(PenstockAggregate *agg, Node *context,
									   Datum *state, bool *isnull, Datum partial, bool partial_null);
/* "loaded": the state is not in stored form, but as the final function takes it. */
extern void penstock_aggregate_final(PenstockAggregate *agg, Node *context, bool loaded,
									 Datum state, bool isnull,
									 Datum *result, bool *result_null);

#endif							/* PENSTOCK_AGGREGATE_H */
