/*
 * vector_internal.h
 *	  What the files of src/vector share with each other.
 */
#ifndef PENSTOCK_VECTOR_INTERNAL_H
#define PENSTOCK_VECTOR_INTERNAL_H

#include "executor/tuptable.h"
#include "nodes/execnodes.h"
#include "stream/chunk.h"
#include "vector/vector.h"

/* ---- vector_node.c: the executor's node ---- */

extern const struct CustomScanMethods penstock_aggregate_node_methods;

/* ---- vector_expr.c: an expression over a chunk's columns ---- */

typedef enum VectorExprKind
{
	VECTOR_COLUMN,
	VECTOR_DATE_BIN,
	VECTOR_GENERIC
} VectorExprKind;

typedef struct VectorExpr
{
	VectorExprKind kind;
	AttrNumber	attno;			/* column, of date_bin too */
	int64		stride;			/* date_bin, microseconds */
	Datum		stride_datum;
	Datum		origin_datum;
	FmgrInfo	date_bin;
	ExprState  *state;			/* generic */
	bool		byval;
} VectorExpr;

/* The chunk that is being worked on: its columns, decoded when first asked for. */
typedef struct VectorChunk
{
	PenstockChunk *chunk;
	int			nrows;
	int			nselected;
	uint32	   *selected;		/* rows that pass the filter; NULL: all */
	int			natts;
	PenstockVector *columns;	/* decoded with values */
	bool	   *decoded;
	TupleTableSlot *slot;		/* for generic expressions */
	AttrNumber *slot_columns;	/* those that generic expressions read */
	int			nslot_columns;
	ExprContext *econtext;
	MemoryContext context;		/* reset with each chunk */
} VectorChunk;

extern void penstock_vector_expr_init(VectorExpr *expr, Expr *node, Index varno, PlanState *parent);
extern void penstock_vector_expr_eval(VectorExpr *expr, VectorChunk *chunk, bool want_codes,
									  PenstockVector *result);
extern void penstock_vector_filter(VectorChunk *chunk, ExprState *qual);
extern void penstock_vector_store_row(VectorChunk *chunk, uint32 row);
extern PenstockVector *penstock_vector_column(VectorChunk *chunk, AttrNumber attno);

/* the row that the i-th selected one is */
#define vector_row(chunk, i) ((chunk)->selected ? (chunk)->selected[i] : (uint32) (i))

/* ---- vector_group.c: from key values to group numbers ---- */

typedef struct VectorGroups VectorGroups;

extern VectorGroups *penstock_groups_create(MemoryContext context, int nkeys, Oid *types,
											Oid *collations, Oid *eqops);
/* Group numbers of the selected rows, new groups being made; keys are expressions evaluated.  Of "partitions" (a
 * power of two) parts of all groups only one is taken: rows of others are no longer selected. */
extern void penstock_groups_assign(VectorGroups *groups, VectorChunk *chunk, PenstockVector *keys,
								   uint32 partitions, uint32 partition, uint32 *group_of);
extern uint32 penstock_groups_count(VectorGroups *groups);
extern void penstock_groups_key(VectorGroups *groups, uint32 group, int key,
								Datum *value, bool *isnull);

/* ---- vector_kernel.c: aggregate transitions ---- */

typedef struct VectorAggregate VectorAggregate;

/* An aggregate without states yet, all its memory in context.  "shared": another one of the plan has the same
 * transition state, and the plan above may take either for both. */
extern VectorAggregate *penstock_kernel_create(MemoryContext context, Aggref *ref, bool shared);
extern bool penstock_kernel_supports(Aggref *ref);
extern void penstock_kernel_grow(VectorAggregate *agg, uint32 ngroups);
/* Advances the states of group_of[i] by the argument vectors' selected rows. */
extern void penstock_kernel_advance(VectorAggregate *agg, VectorChunk *chunk,
									PenstockVector *args, const uint32 *group_of);
/* The state as it leaves a partial aggregate: serialised if its type is internal. */
extern void penstock_kernel_result(VectorAggregate *agg, uint32 group, Datum *value, bool *isnull);
/* The state as the final function takes it. */
extern void penstock_kernel_state(VectorAggregate *agg, uint32 group, Datum *value, bool *isnull);

#endif							/* PENSTOCK_VECTOR_INTERNAL_H */
