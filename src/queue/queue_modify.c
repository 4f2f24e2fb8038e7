/*
 * queue_modify.c
 *	  Writing to a queue: INSERT, and COPY FROM.
 *
 * Rows become messages at once and go to the outbox; the broker gets them before the transaction commits.
 */
#include "postgres.h"

#include "access/table.h"
#include "executor/executor.h"
#include "foreign/fdwapi.h"
#include "nodes/makefuncs.h"
#include "utils/rel.h"

#include "compat/compat.h"
#include "queue/queue_internal.h"

typedef struct QueueModify
{
	Oid			userid;
	PenstockEncoder *encoder;
} QueueModify;

static List *
plan_modify(PlannerInfo *root, ModifyTable *plan, Index rti, int subplan_index)
{
	if (plan->onConflictAction != ONCONFLICT_NONE)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("ON CONFLICT is not supported by queues")));
	return NIL;
}

static void
begin(ResultRelInfo *rinfo, EState *estate)
{
	QueueModify *modify = palloc0(sizeof(QueueModify));
	Relation	rel = rinfo->ri_RelationDesc;

	modify->userid = penstock_modify_user(rinfo, estate);
	modify->encoder = penstock_encoder_create(rel, penstock_queue_open(RelationGetRelid(rel), modify->userid, NULL));
	rinfo->ri_FdwState = modify;
}

static void
begin_modify(ModifyTableState *mtstate, ResultRelInfo *rinfo, List *fdw_private, int subplan_index, int eflags)
{
	if ((eflags & EXEC_FLAG_EXPLAIN_ONLY) == 0)
		begin(rinfo, mtstate->ps.state);
}

/* COPY, and rows routed to a partition */
static void
begin_insert(ModifyTableState *mtstate, ResultRelInfo *rinfo)
{
	begin(rinfo, mtstate->ps.state);
}

static TupleTableSlot *
exec_insert(EState *estate, ResultRelInfo *rinfo, TupleTableSlot *slot, TupleTableSlot *plan_slot)
{
	QueueModify *modify = rinfo->ri_FdwState;

	/* nobody on the other side checks them */
	if (rinfo->ri_RelationDesc->rd_att->constr)
		ExecConstraints(rinfo, slot, estate);
	penstock_outbox_add(RelationGetRelid(rinfo->ri_RelationDesc), modify->userid,
						penstock_encoder_message(modify->encoder, slot));
	return slot;
}

static void
end_insert(EState *estate, ResultRelInfo *rinfo)
{
}

static int
is_updatable(Relation rel)
{
	return 1 << CMD_INSERT;
}

void
penstock_queue_modify_routine(FdwRoutine *routine)
{
	routine->PlanForeignModify = plan_modify;
	routine->BeginForeignModify = begin_modify;
	routine->ExecForeignInsert = exec_insert;
	routine->EndForeignModify = end_insert;
	routine->BeginForeignInsert = begin_insert;
	routine->EndForeignInsert = end_insert;
	routine->IsForeignRelUpdatable = is_updatable;
}
