/*
 * compat.c
 *	  Functions of the server whose arguments differ between versions.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "catalog/index.h"
#include "commands/defrem.h"
#include "commands/explain.h"
#if PG_VERSION_NUM >= 180000
#include "commands/explain_format.h"
#include "commands/explain_state.h"
#endif
#include "executor/executor.h"
#include "foreign/fdwapi.h"
#include "optimizer/optimizer.h"
#include "optimizer/pathnode.h"
#include "miscadmin.h"
#include "storage/lock.h"
#include "storage/proc.h"
#include "storage/procarray.h"
#include "storage/sinvaladt.h"
#include "tcop/dest.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/wait_event.h"

#include "compat/compat.h"

PenstockIndexWork
penstock_table_update(Relation rel, ItemPointer tid, TupleTableSlot *slot)
{
#if PG_VERSION_NUM >= 160000
	TU_UpdateIndexes which;

	simple_table_tuple_update(rel, tid, slot, SnapshotSelf, &which);
	return which == TU_None ? PENSTOCK_INDEXES_NONE :
		which == TU_Summarizing ? PENSTOCK_INDEXES_SUMMARIZING : PENSTOCK_INDEXES_UPDATE;
#else
	bool		which;

	simple_table_tuple_update(rel, tid, slot, SnapshotSelf, &which);
	return which ? PENSTOCK_INDEXES_UPDATE : PENSTOCK_INDEXES_NONE;
#endif
}

bool
penstock_heap_update(Relation rel, ItemPointer tid, HeapTuple tuple)
{
#if PG_VERSION_NUM >= 160000
	TU_UpdateIndexes which;

	simple_heap_update(rel, tid, tuple, &which);
	return which != TU_None;
#else
	simple_heap_update(rel, tid, tuple);
	return !HeapTupleIsHeapOnly(tuple);
#endif
}

void
penstock_insert_index_tuples(ResultRelInfo *result, TupleTableSlot *slot, EState *estate,
							 PenstockIndexWork which)
{
	/* "update" is only a hint that the key may be unchanged */
#if PG_VERSION_NUM >= 160000
	ExecInsertIndexTuples(result, slot, estate, false, false, NULL, NIL,
						  which == PENSTOCK_INDEXES_SUMMARIZING);
#else
	ExecInsertIndexTuples(result, slot, estate, false, false, NULL, NIL);
#endif
}

IndexScanDesc
penstock_index_beginscan(Relation heap, Relation index, Snapshot snapshot, int nkeys)
{
#if PG_VERSION_NUM >= 180000
	return index_beginscan(heap, index, snapshot, NULL, nkeys, 0);
#else
	return index_beginscan(heap, index, snapshot, nkeys, 0);
#endif
}

void
penstock_define_index(Oid relid, IndexStmt *stmt)
{
	DefineIndex(relid, stmt, InvalidOid, InvalidOid, InvalidOid,
#if PG_VERSION_NUM >= 160000
				-1,
#endif
				false, false, false, false, true);
}

void
penstock_executor_run(QueryDesc *desc)
{
#if PG_VERSION_NUM >= 180000
	ExecutorRun(desc, ForwardScanDirection, 0);
#else
	ExecutorRun(desc, ForwardScanDirection, 0, true);
#endif
}

void
penstock_flatten_group_rte(Query *query)
{
#if PG_VERSION_NUM >= 180000
	if (query->hasGroupRTE)
	{
		query->targetList = (List *) flatten_group_exprs(NULL, query, (Node *) query->targetList);
		query->havingQual = flatten_group_exprs(NULL, query, query->havingQual);
		query->hasGroupRTE = false;
	}
#endif
}

void
penstock_truncate(Relation rel)
{
	ReindexParams params = {0};
	Oid			relid = RelationGetRelid(rel);

	RelationSetNewRelfilenumber(rel, rel->rd_rel->relpersistence);
	if (OidIsValid(rel->rd_rel->reltoastrelid))
	{
		Relation	toast = table_open(rel->rd_rel->reltoastrelid, AccessExclusiveLock);

		RelationSetNewRelfilenumber(toast, toast->rd_rel->relpersistence);
		table_close(toast, NoLock);
	}
#if PG_VERSION_NUM >= 170000
	reindex_relation(NULL, relid, REINDEX_REL_PROCESS_TOAST, &params);
#else
	reindex_relation(relid, REINDEX_REL_PROCESS_TOAST, &params);
#endif
}

char *
penstock_explain_plan(PlannedStmt *plan)
{
	ExplainState *es = NewExplainState();
	QueryDesc  *desc = CreateQueryDesc(plan, "", GetActiveSnapshot(), InvalidSnapshot,
									   None_Receiver, NULL, NULL, 0);

	es->costs = false;
	ExecutorStart(desc, EXEC_FLAG_EXPLAIN_ONLY);
	ExplainPrintPlan(es, desc);
	ExecutorEnd(desc);
	FreeQueryDesc(desc);
	return es->str->data;
}

uint32
penstock_new_wait_event(const char *name)
{
#if PG_VERSION_NUM >= 170000
	return WaitEventExtensionNew(name);
#else
	return PG_WAIT_EXTENSION;
#endif
}

bool
penstock_lock_is_ending(Oid relid)
{
	LOCKTAG		tag;
	VirtualTransactionId *holders;

	SET_LOCKTAG_RELATION(tag, MyDatabaseId, relid);
	holders = GetLockConflicts(&tag, AccessShareLock, NULL);
	for (; VirtualTransactionIdIsValid(*holders); holders++)
	{
#if PG_VERSION_NUM >= 170000
		PGPROC	   *proc = ProcNumberGetProc(holders->procNumber);
#else
		PGPROC	   *proc = BackendIdGetProc(holders->backendId);
#endif

		if (proc != NULL && !TransactionIdIsValid(proc->xid))
			return true;
	}
	return false;
}

ForeignPath *
penstock_foreign_path(PlannerInfo *root, RelOptInfo *rel, double rows, double startup_cost, double total_cost)
{
#if PG_VERSION_NUM >= 180000
	return create_foreignscan_path(root, rel, NULL, rows, 0, startup_cost, total_cost, NIL,
								   rel->lateral_relids, NULL, NIL, NIL);
#elif PG_VERSION_NUM >= 170000
	return create_foreignscan_path(root, rel, NULL, rows, startup_cost, total_cost, NIL,
								   rel->lateral_relids, NULL, NIL, NIL);
#else
	return create_foreignscan_path(root, rel, NULL, rows, startup_cost, total_cost, NIL,
								   rel->lateral_relids, NULL, NIL);
#endif
}

Oid
penstock_scan_user(ForeignScanState *node)
{
	ForeignScan *plan = (ForeignScan *) node->ss.ps.plan;
#if PG_VERSION_NUM >= 160000
	Oid			user = plan->checkAsUser;
#else
	Oid			user = exec_rt_fetch(plan->scan.scanrelid, node->ss.ps.state)->checkAsUser;
#endif

	return OidIsValid(user) ? user : GetUserId();
}

Oid
penstock_modify_user(ResultRelInfo *rinfo, EState *estate)
{
#if PG_VERSION_NUM >= 160000
	Oid			user = ExecGetResultRelCheckAsUser(rinfo, estate);
#else
	RangeTblEntry *rte = rinfo->ri_RangeTableIndex > 0 ? exec_rt_fetch(rinfo->ri_RangeTableIndex, estate) : NULL;
	Oid			user = rte ? rte->checkAsUser : InvalidOid;
#endif

	return OidIsValid(user) ? user : GetUserId();
}

void
penstock_check_permissions(Query *query)
{
#if PG_VERSION_NUM >= 160000
	(void) ExecCheckPermissions(query->rtable, query->rteperminfos, true);
#else
	(void) ExecCheckRTPerms(query->rtable, true);
#endif
}
