/*
 * view_internal.h
 *	  What the files of src/view share with each other.
 */
#ifndef PENSTOCK_VIEW_INTERNAL_H
#define PENSTOCK_VIEW_INTERNAL_H

#include "aggregate/aggregate.h"
#include "catalogue/registry.h"
#include "executor/execdesc.h"
#include "executor/tuptable.h"
#include "nodes/execnodes.h"
#include "nodes/parsenodes.h"
#include "nodes/plannodes.h"
#include "parser/parse_node.h"
#include "storage/lockdefs.h"
#include "tcop/dest.h"
#include "util/run_as.h"
#include "utils/relcache.h"
#include "view/view.h"

#define PENSTOCK_STRATEGY_APPEND	'a'
#define PENSTOCK_STRATEGY_GROUP		'g'

/*
 * How a view is kept, worked out from its query.
 *
 * The delta query yields the rows to append, or, for groups, per group: the keys, then one
 * partial state for each of aggs, of which the first is always count(*), the group's weight.
 * finals and having compute the view's row from (keys, aggregate results): their Vars are OUTER_VAR with
 * attribute numbers 1 .. nkeys + naggs.
 */
typedef struct PenstockShape
{
	char		strategy;
	Query	   *delta;			/* not rewritten, not planned */
	int			nkeys;
	List	   *keys;			/* expressions */
	Oid		   *key_types;
	int32	   *key_typmods;
	Oid		   *key_collations;
	Oid		   *key_eqops;
	int		   *key_columns;	/* column of the view that shows the key, or 0 */
	int			naggs;
	List	   *aggs;			/* Aggrefs */
	List	   *finals;			/* TargetEntry, without junk */
	Node	   *having;			/* or NULL */
} PenstockShape;

/* view_analyze.c */
extern void penstock_view_check(Query *query, ParseState *pstate);
extern bool penstock_view_awaits_partitions(Query *query);
extern List *penstock_view_relations(Query *query, List **streams);

/* view_shape.c */
extern PenstockShape *penstock_view_shape(Query *query, ParseState *pstate);

/* view_plan.c: a view made ready to run, kept until something it uses changes */
struct PenstockView
{
	Oid			relid;			/* hash key */
	bool		valid;			/* nothing it uses has changed since it was built */
	bool		built;
	MemoryContext context;		/* everything below lives here */
	PenstockViewRow row;
	Oid			owner;
	PenstockShape *shape;
	List	   *relations;		/* all relations the query reads, for locks */
	List	   *streams;		/* of these, the streams (leaves) */
	PlannedStmt *small;			/* plan for a small delta, made when first needed */
	PlannedStmt *large;			/* plan for a large one */
};

extern Query *penstock_view_query(Relation view);
extern void penstock_view_create_index(PenstockView *view, Relation rel);
extern PenstockView *penstock_view_prepare(Oid relid, LOCKMODE mode, bool conditional);
extern PlannedStmt *penstock_view_plan(PenstockView *view, double rows);
extern void penstock_view_run(PenstockView *view, double rows, DestReceiver *dest);
extern void penstock_view_plan_init(void);

/* view_state.c: the table of aggregate states */
extern Oid	penstock_state_create(Oid view, PenstockShape *shape);
extern void penstock_state_types_to_view(Relation view, Oid state);
extern void penstock_state_restored(Oid relid);
extern void penstock_state_index(Oid state);
extern void penstock_state_drop(Oid state);

/* attributes of a state table */
#define STATE_HASH			1
#define STATE_ROW			2
#define STATE_FIRST_KEY		3

/* view_group.c, view_append.c: receivers of the delta plan's rows */
typedef struct PenstockReceiver
{
	DestReceiver dest;
	int64		changes;		/* rows of the view inserted, updated or deleted */
} PenstockReceiver;

extern DestReceiver *penstock_group_receiver(PenstockView *view, bool fresh);
extern DestReceiver *penstock_append_receiver(PenstockView *view);
extern void penstock_group_add(DestReceiver *dest, Datum *values, bool *isnull);
extern void penstock_group_renew(PenstockView *view);

/* view_fill.c */
extern void penstock_view_activate(Oid relid, bool backfill);
extern void penstock_view_refill(Oid relid);

/* view_saved.c */
extern bool penstock_view_is_saved(Oid relid);
extern bool penstock_view_adopt(PenstockView *view);

/* view_progress.c */
extern void penstock_view_progress_init(void);
extern void penstock_view_progress_begin(Oid relid, List *streams);
extern void penstock_view_progress_end(void);

/* view_history.c */
extern void penstock_view_history_init(void);

/* view_ddl.c */
extern void penstock_view_forget(Oid relid);

#endif							/* PENSTOCK_VIEW_INTERNAL_H */
