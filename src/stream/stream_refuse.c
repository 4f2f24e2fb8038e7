/*
 * stream_refuse.c
 *	  What a stream cannot do, and how it says so.
 *
 * Statements that change rows are refused when their plan starts (EXPLAIN too); objects that a
 * stream cannot have, when their catalog row is there: that also catches what a partition inherits from
 * its parent.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/indexing.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "catalog/pg_constraint.h"
#include "catalog/pg_index.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_publication.h"
#include "catalog/pg_trigger.h"
#include "commands/trigger.h"
#include "parser/parsetree.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/snapmgr.h"

#include "stream/stream_internal.h"
#include "util/utility_hook.h"

#define APPEND_ONLY		"Streams are append-only: events never change."

/* ---- statements ---- */

static void
refuse_change(CmdType operation, Oid relid)
{
	char	   *name = get_rel_name(relid);

	switch (operation)
	{
		case CMD_UPDATE:
			ereport(ERROR,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("cannot update stream \"%s\"", name),
					 errdetail(APPEND_ONLY),
					 errhint("Insert another event that says what has changed.")));
			break;
		case CMD_DELETE:
			ereport(ERROR,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("cannot delete from stream \"%s\"", name),
					 errdetail(APPEND_ONLY),
					 errhint("Set penstock.retention to remove old events, or TRUNCATE to remove all.")));
			break;
		default:
			ereport(ERROR,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("cannot merge into stream \"%s\"", name),
					 errdetail(APPEND_ONLY),
					 errhint("Use INSERT ... SELECT.")));
	}
}

static void
refuse_on_conflict(Oid relid, Oid stream)
{
	ereport(ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("cannot use ON CONFLICT on \"%s\"", get_rel_name(relid)),
			 errdetail("\"%s\" is a stream and has no unique keys, so nothing can conflict.",
					   get_rel_name(stream)),
			 errhint("Leave ON CONFLICT out.")));
}

static void
check_on_conflict(ModifyTable *node, RangeTblEntry *rte)
{
	ListCell   *lc;

	if (penstock_is_stream(rte->relid))
		refuse_on_conflict(rte->relid, rte->relid);

	/* a conflict target needs a unique index, which a table with a stream below cannot have */
	if (rte->relkind != RELKIND_PARTITIONED_TABLE || node->arbiterIndexes != NIL)
		return;
	foreach(lc, find_all_inheritors(rte->relid, NoLock, NULL))
		if (penstock_is_stream(lfirst_oid(lc)))
			refuse_on_conflict(rte->relid, lfirst_oid(lc));
}

static void
check_plan(PlannedStmt *stmt, Plan *plan)
{
	ModifyTable *node = (ModifyTable *) plan;
	ListCell   *lc;

	if (plan == NULL || !IsA(plan, ModifyTable))
		return;
	if (node->operation == CMD_INSERT)
	{
		if (node->onConflictAction != ONCONFLICT_NONE)
			check_on_conflict(node, rt_fetch(linitial_int(node->resultRelations), stmt->rtable));
		return;
	}
	foreach(lc, node->resultRelations)
	{
		RangeTblEntry *rte = rt_fetch(lfirst_int(lc), stmt->rtable);

		if (rte->relkind == RELKIND_RELATION && penstock_is_stream(rte->relid))
			refuse_change(node->operation, rte->relid);
	}
}

/*
 * penstock_refuse_statement raises an error if the plan would change or lock events.
 */
void
penstock_refuse_statement(PlannedStmt *stmt)
{
	ListCell   *lc;

	check_plan(stmt, stmt->planTree);
	if (stmt->hasModifyingCTE)
		foreach(lc, stmt->subplans)
			check_plan(stmt, lfirst(lc));
}

static void
handle_cluster(PenstockUtility *utility, Node *statement)
{
	ClusterStmt *stmt = (ClusterStmt *) statement;
	Oid			relid = stmt->relation ? RangeVarGetRelid(stmt->relation, NoLock, true) : InvalidOid;

	if (OidIsValid(relid) && penstock_is_stream(relid))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("cannot cluster stream \"%s\"", stmt->relation->relname),
				 errdetail("Events stay in the order in which they came."),
				 errhint("VACUUM FULL makes a stream smaller.")));
	penstock_utility_continue(utility);
}

/* ---- objects ---- */

/*
 * The row of a catalog with that OID as the command under way has made it, copied into the current
 * memory context; NULL if there is none.
 */
static HeapTuple
new_row(Oid catalog, Oid index, AttrNumber oid_attno, Oid oid)
{
	Relation	rel = table_open(catalog, AccessShareLock);
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;

	ScanKeyInit(&key, oid_attno, BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(oid));
	scan = systable_beginscan(rel, index, true, SnapshotSelf, 1, &key);
	tuple = systable_getnext(scan);
	if (tuple)
		tuple = heap_copytuple(tuple);
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return tuple;
}

/* Is the relation a stream, also when the command under way has just made it? */
static bool
is_stream_now(Oid relid)
{
	HeapTuple	tuple;
	bool		result;

	if (!OidIsValid(relid) || !OidIsValid(penstock_stream_am()))
		return false;
	tuple = new_row(RelationRelationId, ClassOidIndexId, Anum_pg_class_oid, relid);
	result = tuple && ((Form_pg_class) GETSTRUCT(tuple))->relam == penstock_stream_am();
	if (tuple)
		heap_freetuple(tuple);
	return result;
}

static void
refuse_object(const char *what, const char *hint)
{
	ereport(ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("streams cannot have %s", what),
			 errdetail(APPEND_ONLY " They are kept in compressed chunks and found by scanning."),
			 errhint("%s", hint)));
}

static const char *const key_hint =
"Declare keys on a table or a continuous view that is made from the stream.";
static const char *const index_hint =
"Chunks are skipped by each column's smallest and largest value; for look-ups, index a continuous view over the stream.";
static const char *const trigger_hint =
"Use a trigger FOR EACH STATEMENT, or a continuous view.";

static void
refuse_constraint(char type)
{
	switch (type)
	{
		case CONSTRAINT_PRIMARY:
			refuse_object("primary keys", key_hint);
			break;
		case CONSTRAINT_UNIQUE:
			refuse_object("unique constraints", key_hint);
			break;
		case CONSTRAINT_EXCLUSION:
			refuse_object("exclusion constraints", key_hint);
			break;
		case CONSTRAINT_FOREIGN:
			refuse_object("foreign keys", key_hint);
			break;
		default:
			break;
	}
}

static void
handle_constraint(ObjectAccessType access, Oid class_id, Oid object_id, int sub_id, void *arg)
{
	Form_pg_constraint form;
	HeapTuple	tuple;

	if (access != OAT_POST_CREATE)
		return;
	tuple = new_row(ConstraintRelationId, ConstraintOidIndexId, Anum_pg_constraint_oid, object_id);
	if (tuple == NULL)
		return;
	form = (Form_pg_constraint) GETSTRUCT(tuple);
	if (form->contype != CONSTRAINT_CHECK && is_stream_now(form->conrelid))
		refuse_constraint(form->contype);
	heap_freetuple(tuple);
}

static void
handle_trigger(ObjectAccessType access, Oid class_id, Oid object_id, int sub_id, void *arg)
{
	Form_pg_trigger form;
	HeapTuple	tuple;

	if (access != OAT_POST_CREATE)
		return;
	tuple = new_row(TriggerRelationId, TriggerOidIndexId, Anum_pg_trigger_oid, object_id);
	if (tuple == NULL)
		return;
	form = (Form_pg_trigger) GETSTRUCT(tuple);
	if (TRIGGER_FOR_ROW(form->tgtype) && is_stream_now(form->tgrelid))
		refuse_object("row triggers", trigger_hint);
	heap_freetuple(tuple);
}

static void
handle_relation(ObjectAccessType access, Oid class_id, Oid object_id, int sub_id, void *arg)
{
	HeapTuple	tuple;

	if (access != OAT_POST_CREATE || sub_id != 0)
		return;
	tuple = new_row(IndexRelationId, IndexRelidIndexId, Anum_pg_index_indexrelid, object_id);
	if (tuple == NULL)
		return;
	if (is_stream_now(((Form_pg_index) GETSTRUCT(tuple))->indrelid))
		refuse_object("indexes", index_hint);
	heap_freetuple(tuple);
}

/* CREATE and ALTER PUBLICATION: only afterwards is it known which tables it names. */
static void
handle_publication(PenstockUtility *utility, Node *statement)
{
	char	   *name = IsA(statement, CreatePublicationStmt) ?
		((CreatePublicationStmt *) statement)->pubname : ((AlterPublicationStmt *) statement)->pubname;
	ListCell   *lc;

	penstock_utility_continue(utility);
	CommandCounterIncrement();
	foreach(lc, GetPublicationRelations(get_publication_oid(name, false), PUBLICATION_PART_ROOT))
	{
		Oid			relid = lfirst_oid(lc);

		if (penstock_is_stream(relid))
			ereport(ERROR,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("cannot publish stream \"%s\"", get_rel_name(relid)),
					 errdetail("Events are not written in a form that logical replication could send."),
					 errhint("Publish a continuous view or a table instead; FOR ALL TABLES leaves streams out.")));
	}
}

/*
 * penstock_refuse_conversion raises an error if the table, about to become a stream, has something that streams
 * cannot have.
 */
void
penstock_refuse_conversion(Relation rel)
{
	List	   *indexes = RelationGetIndexList(rel);
	TriggerDesc *triggers = rel->trigdesc;

	if (indexes != NIL)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("cannot make table \"%s\" a stream", RelationGetRelationName(rel)),
				 errdetail("It has the index \"%s\", and streams cannot have indexes.",
						   get_rel_name(linitial_oid(indexes))),
				 errhint("Drop its indexes and keys first.")));
	for (int i = 0; triggers && i < triggers->numtriggers; i++)
	{
		Trigger    *trigger = &triggers->triggers[i];

		if (TRIGGER_FOR_ROW(trigger->tgtype))
			ereport(ERROR,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("cannot make table \"%s\" a stream", RelationGetRelationName(rel)),
					 trigger->tgisinternal ?
					 errdetail("It has a foreign key, and streams cannot have foreign keys.") :
					 errdetail("It has the trigger \"%s\", and streams cannot have row triggers.",
							   trigger->tgname),
					 errhint("Drop its foreign keys and row triggers first.")));
	}
}

void
penstock_refuse_init(void)
{
	penstock_utility_register(T_ClusterStmt, handle_cluster);
	penstock_utility_register(T_CreatePublicationStmt, handle_publication);
	penstock_utility_register(T_AlterPublicationStmt, handle_publication);
	penstock_object_register(ConstraintRelationId, handle_constraint);
	penstock_object_register(TriggerRelationId, handle_trigger);
	penstock_object_register(RelationRelationId, handle_relation);
}
