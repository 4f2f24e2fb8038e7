/*
 * compat.h
 *	  Every difference between PostgreSQL 15, 16, 17 and 18, in the newest spelling.
 */
#ifndef PENSTOCK_COMPAT_H
#define PENSTOCK_COMPAT_H

#include "access/genam.h"
#include "executor/tuptable.h"
#include "utils/relcache.h"

struct EState;
struct IndexStmt;
struct PlannedStmt;
struct Query;
struct QueryDesc;
struct ResultRelInfo;

#if PG_VERSION_NUM < 150000 || PG_VERSION_NUM >= 190000
#error "penstock supports PostgreSQL 15 to 18"
#endif

/* stands before the declaration since 18 */
#if PG_VERSION_NUM < 180000
#define pg_noreturn pg_attribute_noreturn()
#endif

/* the file of a relation (16 renamed relfilenode) */
#if PG_VERSION_NUM >= 160000
#define penstock_rel_filenumber(rel) ((rel)->rd_locator.relNumber)
#else
#define penstock_rel_filenumber(rel) ((rel)->rd_node.relNode)
#endif

/* ownership checks (16 has one for all classes) */
#if PG_VERSION_NUM < 160000
#define object_ownercheck(classid, objectid, roleid) \
	((classid) == RelationRelationId ? pg_class_ownercheck(objectid, roleid) : \
	 pg_database_ownercheck(objectid, roleid))
#endif

#if PG_VERSION_NUM < 160000
#define object_aclcheck(classid, objectid, roleid, mode) \
	pg_proc_aclcheck(objectid, roleid, mode)	/* functions only */
#endif

/* May the current user look into the schema? */
#if PG_VERSION_NUM < 160000
#define penstock_schema_usable(schema) (pg_namespace_aclcheck(schema, GetUserId(), ACL_USAGE) == ACLCHECK_OK)
#else
#define penstock_schema_usable(schema) (object_aclcheck(NamespaceRelationId, schema, GetUserId(), ACL_USAGE) == ACLCHECK_OK)
#endif

#if PG_VERSION_NUM < 160000
#define RelationSetNewRelfilenumber RelationSetNewRelfilenode
#endif

/* Which indexes an insert or update has to maintain. */
typedef enum PenstockIndexWork
{
	PENSTOCK_INDEXES_NONE,
	PENSTOCK_INDEXES_SUMMARIZING,
	PENSTOCK_INDEXES_UPDATE,
	PENSTOCK_INDEXES_INSERT
} PenstockIndexWork;

extern PenstockIndexWork penstock_table_update(Relation rel, ItemPointer tid,
												   TupleTableSlot *slot);
/* simple_heap_update; true: the new version needs entries in the indexes. */
extern bool penstock_heap_update(Relation rel, ItemPointer tid, HeapTuple tuple);
extern void penstock_insert_index_tuples(struct ResultRelInfo *result, TupleTableSlot *slot,
										 struct EState *estate, PenstockIndexWork which);
extern IndexScanDesc penstock_index_beginscan(Relation heap, Relation index, Snapshot snapshot,
											  int nkeys);
extern void penstock_define_index(Oid relid, struct IndexStmt *stmt);
extern void penstock_executor_run(struct QueryDesc *desc);

/* PG 18 puts GROUP BY expressions into a range table entry; this puts them back. */
extern void penstock_flatten_group_rte(struct Query *query);

/* Gives the relation an empty file, in this transaction, and its indexes too. */
extern void penstock_truncate(Relation rel);

/* Bytes a hash table may take. */
#define penstock_hash_memory_limit() get_hash_memory_limit()

/* Does an Append leave children out when it starts to run? */
#if PG_VERSION_NUM >= 180000
#define penstock_append_prunes(append) ((append)->part_prune_index >= 0)
#else
#define penstock_append_prunes(append) ((append)->part_prune_info != NULL)
#endif

/* EXPLAIN (VERBOSE off, COSTS off) of a plan, as text. */
extern char *penstock_explain_plan(struct PlannedStmt *plan);

/* A number under which pg_stat_activity shows a wait; before 17 it cannot show the name. */
extern uint32 penstock_new_wait_event(const char *name);

/*
 * Does a transaction that has ended, but has not yet released its locks, hold one on the relation that
 * conflicts with AccessShareLock?
 */
extern bool penstock_lock_is_ending(Oid relid);

/* A path of a foreign scan without ordering or parameters. */
struct PlannerInfo;
struct RelOptInfo;
struct ForeignPath;
struct ForeignScanState;
extern struct ForeignPath *penstock_foreign_path(struct PlannerInfo *root, struct RelOptInfo *rel, double rows,
												 double startup_cost, double total_cost);
/* As whom a foreign table is read or written. */
extern Oid	penstock_scan_user(struct ForeignScanState *node);
extern Oid	penstock_modify_user(struct ResultRelInfo *rinfo, struct EState *estate);

/* Raises an error if the current user may not do what the query does with its tables. */
extern void penstock_check_permissions(struct Query *query);

/* 16 took the varlena macros out of postgres.h */
#if PG_VERSION_NUM >= 160000
#include "varatt.h"
#endif

#endif							/* PENSTOCK_COMPAT_H */
