/*
 * view_history.c
 *	  When events that views have counted go away.
 *
 * Results outlive their events: nothing happens to the view, but it can no longer be rebuilt without loss, and
 * its row in the registry says so from then on.
 */
#include "postgres.h"

#include "access/relation.h"
#include "access/table.h"
#include "access/tableam.h"
#include "catalog/namespace.h"
#include "catalog/objectaccess.h"
#include "catalog/partition.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "commands/defrem.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

#include "util/utility_hook.h"
#include "view/view_internal.h"

/* Does the view's query read relid?  Without "wait" yes, too, if that cannot be found out without waiting. */
static bool
view_reads(Oid view, Oid relid, bool wait)
{
	Relation	rel;
	Query	   *query;
	List	   *streams;
	bool		result;

	if (wait)
		LockRelationOid(view, AccessShareLock);
	else if (!ConditionalLockRelationOid(view, AccessShareLock))
		return true;
	if (!SearchSysCacheExists1(RELOID, ObjectIdGetDatum(view)))
		return false;
	rel = relation_open(view, NoLock);
	if (rel->rd_rules == NULL)
	{
		relation_close(rel, NoLock);	/* it is being dropped, and its query went first */
		return false;
	}
	query = penstock_view_query(rel);
	relation_close(rel, NoLock);
	result = list_member_oid(penstock_view_relations(query, &streams), relid);
	return result;
}

/*
 * penstock_view_reads: does the view's query read relid, as far as is known without waiting?  In doubt, yes.
 */
bool
penstock_view_reads(Oid view, Oid relid)
{
	return view_reads(view, relid, false);
}

/*
 * penstock_view_history_lost notes, for each view that reads the stream, that events it may have counted are gone.
 * In a transaction of the caller, the one that removes them.
 */
void
penstock_view_history_lost(Oid stream)
{
	ListCell   *lc;

	foreach(lc, penstock_registry_list())
	{
		PenstockViewRow *row = lfirst(lc);

		if (!row->complete || !view_reads(row->relid, stream, false))
			continue;
		/* who pauses or rebuilds it may have changed the row meanwhile, and what was in doubt is no longer */
		penstock_registry_lock(row->relid, true);
		row = penstock_registry_get(row->relid);
		if (row != NULL && row->complete && view_reads(row->relid, stream, false))
		{
			row->complete = false;
			penstock_registry_update(row);
		}
	}
}

static void
lost_in_tree(Oid relid)
{
	ListCell   *lc;

	if (!OidIsValid(relid) || (get_rel_relkind(relid) != RELKIND_RELATION &&
							   get_rel_relkind(relid) != RELKIND_PARTITIONED_TABLE))
		return;
	foreach(lc, find_all_inheritors(relid, NoLock, NULL))
		if (penstock_is_stream(lfirst_oid(lc)))
			penstock_view_history_lost(lfirst_oid(lc));
}

static void
truncate_tables(PenstockUtility *utility, Node *statement)
{
	ListCell   *lc;

	penstock_utility_continue(utility);
	foreach(lc, ((TruncateStmt *) statement)->relations)
		lost_in_tree(RangeVarGetRelid(lfirst_node(RangeVar, lc), NoLock, true));
}

/* A partition or child that goes, by whatever statement, takes its events from its parent's views. */
static void
child_dropped(ObjectAccessType access, Oid class_id, Oid object_id, int sub_id, void *arg)
{
	if (access == OAT_DROP && sub_id == 0 && !IsBinaryUpgrade && penstock_is_stream(object_id) &&
		has_superclass(object_id) && OidIsValid(penstock_registry_oid()))
		penstock_view_history_lost(object_id);
}

static bool
has_events(Oid relid)
{
	Relation	rel = table_open(relid, AccessShareLock);
	PenstockDirectoryScan *scan;
	PenstockDirectoryEntry entry;
	bool		result;

	penstock_stream_flush(relid);
	PushActiveSnapshot(GetLatestSnapshot());
	scan = penstock_directory_begin(rel, GetActiveSnapshot(), NULL);
	result = penstock_directory_next(scan, &entry);
	penstock_directory_end(scan);
	PopActiveSnapshot();
	table_close(rel, NoLock);
	return result;
}

/* Is parent, or a partitioned table above it, one with streams below? */
static bool
stands_over_streams(Oid parent)
{
	Oid			top = parent;
	ListCell   *lc;

	while (get_rel_relispartition(top) && OidIsValid(get_partition_parent(top, true)))
		top = get_partition_parent(top, true);
	foreach(lc, find_all_inheritors(top, NoLock, NULL))
		if (penstock_is_stream(lfirst_oid(lc)))
			return true;
	return false;
}

/* Does the view read parent, or a partitioned table above it, as a stream?  Otherwise it looks it up. */
static bool
reads_as_stream(Oid view, Oid parent)
{
	for (Oid top = parent; OidIsValid(top);
		 top = get_rel_relispartition(top) ? get_partition_parent(top, true) : InvalidOid)
	{
		ListCell   *lc;

		if (!view_reads(view, top, true))
			return false;
		foreach(lc, find_all_inheritors(top, AccessShareLock, NULL))
			if (penstock_is_stream(lfirst_oid(lc)))
				return true;
	}
	return false;
}

/*
 * Tables below what a view reads must be streams, or each batch would read them whole; and events that a stream brings
 * along were committed before the views' positions: the views would never count them.
 */
static void
check_child(Oid parent, Oid child)
{
	bool		stream = penstock_is_stream(child);
	ListCell   *lc;

	if (get_rel_relkind(child) == RELKIND_PARTITIONED_TABLE || (stream && !has_events(child)))
		return;
	/* tables below tables are no view's business, and must not wait for one that is being rebuilt */
	if (!stream && !stands_over_streams(parent))
		return;
	foreach(lc, penstock_registry_list())
	{
		PenstockViewRow *row = lfirst(lc);

		if (!view_reads(row->relid, parent, true))
			continue;
		if (stream)
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("stream \"%s\" holds events and cannot be attached", get_rel_name(child)),
					 errdetail("Continuous view \"%s\" reads \"%s\" and would never count them.",
							   get_rel_name(row->relid), get_rel_name(parent)),
					 errhint("Attach an empty stream and insert the events then.")));
		if (reads_as_stream(row->relid, parent))
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("\"%s\" is not a stream and cannot stand below \"%s\"",
							get_rel_name(child), get_rel_name(parent)),
					 errdetail("Continuous view \"%s\" reads \"%s\" as a stream.",
							   get_rel_name(row->relid), get_rel_name(parent)),
					 errhint("Create it with USING stream, or set default_table_access_method to stream.")));
	}
}

/* The same for a partition with everything below it. */
static void
check_children(Oid parent, Oid child)
{
	ListCell   *lc;

	if (!OidIsValid(child) || (get_rel_relkind(child) != RELKIND_RELATION &&
							   get_rel_relkind(child) != RELKIND_FOREIGN_TABLE &&
							   get_rel_relkind(child) != RELKIND_PARTITIONED_TABLE))
		return;
	foreach(lc, find_all_inheritors(child, AccessShareLock, NULL))
		check_child(parent, lfirst_oid(lc));
}

/* CREATE TABLE ... PARTITION OF, INHERITS: the new table is empty, but is it a stream? */
static void
create_child(PenstockUtility *utility, Node *statement)
{
	CreateStmt *stmt = (CreateStmt *) copyObject(statement);
	ListCell   *lc;

	penstock_utility_continue(utility);
	foreach(lc, stmt->inhRelations)
	{
		Oid			parent = RangeVarGetRelid(lfirst_node(RangeVar, lc), NoLock, true);
		Oid			child = RangeVarGetRelid(stmt->relation, NoLock, true);

		if (OidIsValid(parent))
			check_children(parent, child);
	}
}

/* In another access method, and back, its events would be new ones to the views that have counted them. */
static void
check_access_method(Oid relid, const char *name)
{
	ListCell   *lc;

	if (!OidIsValid(relid) || !penstock_is_stream(relid) ||
		get_table_am_oid(name ? name : default_table_access_method, true) == penstock_stream_am() ||
		!has_events(relid))
		return;
	foreach(lc, penstock_registry_list())
	{
		PenstockViewRow *row = lfirst(lc);

		if (view_reads(row->relid, relid, true))
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("access method of stream \"%s\" cannot be changed", get_rel_name(relid)),
					 errdetail("Continuous view \"%s\" reads it, and would count its events again if it became a stream again.",
							   get_rel_name(row->relid)),
					 errhint("Drop the view first, or copy the events into another table.")));
	}
}

static void
alter_partitions(PenstockUtility *utility, Node *statement)
{
	AlterTableStmt *stmt = (AlterTableStmt *) statement;
	ListCell   *lc;

	foreach(lc, stmt->cmds)
	{
		AlterTableCmd *cmd = lfirst_node(AlterTableCmd, lc);
		Oid			parent;
		Oid			partition;

		if (cmd->subtype == AT_AddInherit)
		{
			parent = RangeVarGetRelid(castNode(RangeVar, cmd->def), NoLock, true);
			if (OidIsValid(parent))
				check_children(parent, RangeVarGetRelid(stmt->relation, NoLock, true));
		}
		if (cmd->subtype == AT_DropInherit)
			lost_in_tree(RangeVarGetRelid(stmt->relation, NoLock, true));
		if (cmd->subtype == AT_SetAccessMethod)
			check_access_method(RangeVarGetRelid(stmt->relation, NoLock, true), cmd->name);
		if (cmd->subtype != AT_AttachPartition && cmd->subtype != AT_DetachPartition)
			continue;
		parent = RangeVarGetRelid(stmt->relation, NoLock, true);
		partition = RangeVarGetRelid(castNode(PartitionCmd, cmd->def)->name, NoLock, true);
		if (cmd->subtype == AT_AttachPartition && OidIsValid(parent))
			check_children(parent, partition);
		else if (cmd->subtype == AT_DetachPartition)
			lost_in_tree(partition);
	}
	penstock_utility_continue(utility);
}

/*
 * penstock_view_history_init registers handlers; from penstock_view_init.
 */
void
penstock_view_history_init(void)
{
	penstock_utility_register(T_TruncateStmt, truncate_tables);
	penstock_object_register(RelationRelationId, child_dropped);
	penstock_utility_register(T_AlterTableStmt, alter_partitions);
	penstock_utility_register(T_CreateStmt, create_child);
	penstock_utility_register(T_CreateForeignTableStmt, create_child);
}
