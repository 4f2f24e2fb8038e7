/*
 * view_ddl.c
 *	  CREATE, REFRESH, ALTER and DROP of continuous views.
 */
#include "postgres.h"

#include "access/table.h"
#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/objectaccess.h"
#include "catalog/pg_am.h"
#include "catalog/pg_class.h"
#include "commands/defrem.h"
#include "commands/extension.h"
#include "catalog/dependency.h"
#include "catalog/pg_extension.h"
#include "access/tableam.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/snapmgr.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

#include "compat/compat.h"
#include "util/engine_call.h"
#include "util/errors.h"
#include "util/options.h"
#include "util/utility_hook.h"
#include "util/version.h"
#include "view/view_internal.h"

PG_FUNCTION_INFO_V1(penstock_continuous_handler);
PG_FUNCTION_INFO_V1(penstock_rebuild);

/* of grouped views, unless given */
#define VIEW_FILLFACTOR 45

/* state tables whose views were dropped in this transaction; in TopTransactionContext */
static List *dropped_states;

/*
 * The access method "continuous" is the heap under a second name.
 */
Datum
penstock_continuous_handler(PG_FUNCTION_ARGS)
{
	PG_RETURN_POINTER(GetHeapamTableAmRoutine());
}

/*
 * penstock_continuous_am returns the OID of the access method, InvalidOid without the extension.
 */
Oid
penstock_continuous_am(void)
{
	return get_table_am_oid("continuous", true);
}

static Oid
relation_am(Oid relid)
{
	HeapTuple	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(relid));
	Oid			am = InvalidOid;

	if (HeapTupleIsValid(tuple))
	{
		am = ((Form_pg_class) GETSTRUCT(tuple))->relam;
		ReleaseSysCache(tuple);
	}
	return am;
}

static bool
is_continuous(Oid relid)
{
	Oid			am = penstock_continuous_am();

	return OidIsValid(am) && relation_am(relid) == am;
}

static bool
names_continuous(const char *access_method)
{
	Oid			am = penstock_continuous_am();

	return OidIsValid(am) &&
		get_table_am_oid(access_method ? access_method : default_table_access_method, true) == am;
}

static bool
option_is_off(List *options, const char *name)
{
	ListCell   *lc;

	foreach(lc, options)
		if (strcmp(lfirst_node(DefElem, lc)->defname, name) == 0)
			return !defGetBoolean(lfirst_node(DefElem, lc));
	return false;
}

static void
refuse_table(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("access method \"continuous\" is for materialized views only"),
			 errhint("Use CREATE MATERIALIZED VIEW ... USING continuous AS SELECT ...")));
}

/* Room for the next version of every row beside it, so that updates do not touch the indexes. */
static void
leave_room(IntoClause *into)
{
	ListCell   *lc;

	foreach(lc, into->options)
		if (strcmp(lfirst_node(DefElem, lc)->defname, "fillfactor") == 0)
			return;
	into->options = lappend(into->options,
							makeDefElem("fillfactor", (Node *) makeInteger(VIEW_FILLFACTOR), -1));
}

/*
 * CREATE MATERIALIZED VIEW ... USING continuous, and the CREATE TABLE AS that is not meant.
 */
static void
create_view(PenstockUtility *utility, Node *statement)
{
	CreateTableAsStmt *stmt = (CreateTableAsStmt *) statement;
	ParseState *pstate;
	List	   *options;
	bool		skip_data;
	bool		grouped;
	Oid			relid;
	Query	   *query;

	if (!names_continuous(stmt->into->accessMethod) || IsBinaryUpgrade)
	{
		penstock_utility_continue(utility);
		if (IsBinaryUpgrade && stmt->into->rel->schemaname != NULL &&
			strcmp(stmt->into->rel->schemaname, "penstock") == 0 &&
			strncmp(stmt->into->rel->relname, "state_", 6) == 0)
			penstock_state_restored(RangeVarGetRelid(stmt->into->rel, NoLock, false));
		return;
	}
	if (stmt->objtype != OBJECT_MATVIEW)
		refuse_table();
	penstock_version_check();
	if (stmt->if_not_exists &&
		OidIsValid(get_relname_relid(stmt->into->rel->relname,
									 RangeVarGetCreationNamespace(stmt->into->rel))))
	{
		penstock_utility_continue(utility); /* says that it exists */
		return;
	}

	query = castNode(Query, stmt->query);
	if (stmt->into->skipData && penstock_view_awaits_partitions(query))
		grouped = query->hasAggs || query->groupClause != NIL;
	else
	{
		pstate = make_parsestate(NULL);
		pstate->p_sourcetext = utility->query_string;
		penstock_view_check(query, pstate);
		grouped = penstock_view_shape(query, pstate)->strategy == PENSTOCK_STRATEGY_GROUP;
		free_parsestate(pstate);
	}

	utility->pstmt = copyObject(utility->pstmt);
	stmt = (CreateTableAsStmt *) utility->pstmt->utilityStmt;
	skip_data = stmt->into->skipData;
	stmt->into->skipData = true;
	options = penstock_options_take(&stmt->into->options);
	penstock_options_check_names("continuous", options);
	if (grouped)
		leave_room(stmt->into);
	penstock_utility_continue(utility);
	CommandCounterIncrement();

	relid = get_relname_relid(stmt->into->rel->relname,
							  RangeVarGetCreationNamespace(stmt->into->rel));
	if (options != NIL)
		penstock_options_store(relid, options, NIL);
	if (!skip_data)
		penstock_view_activate(relid, !option_is_off(options, "backfill"));
}

/* EXPLAIN ANALYZE would make the view past create_view: with rows, but nobody to keep it. */
static void
explain_view(PenstockUtility *utility, Node *statement)
{
	Query	   *query = castNode(Query, ((ExplainStmt *) statement)->query);
	ListCell   *lc;

	if (query->commandType == CMD_UTILITY && IsA(query->utilityStmt, CreateTableAsStmt) &&
		names_continuous(((CreateTableAsStmt *) query->utilityStmt)->into->accessMethod))
		foreach(lc, ((ExplainStmt *) statement)->options)
			if (strcmp(lfirst_node(DefElem, lc)->defname, "analyze") == 0 &&
				defGetBoolean(lfirst_node(DefElem, lc)))
				ereport(ERROR,
						(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
						 errmsg("EXPLAIN ANALYZE cannot make a continuous view"),
						 errhint("Use EXPLAIN ANALYZE with its query, or penstock.explain() when the view is made.")));
	penstock_utility_continue(utility);
}

static void
create_table(PenstockUtility *utility, Node *statement)
{
	CreateStmt *stmt = (CreateStmt *) statement;

	if (stmt->partspec == NULL && names_continuous(stmt->accessMethod))
		refuse_table();
	penstock_utility_continue(utility);
}

static void
check_owner(Oid relid)
{
	if (!object_ownercheck(RelationRelationId, relid, GetUserId()))
		aclcheck_error(ACLCHECK_NOT_OWNER, OBJECT_MATVIEW, get_rel_name(relid));
}

static bool
backfill_wanted(Oid relid)
{
	Relation	rel = table_open(relid, AccessShareLock);
	char	   *value = penstock_options_get(rel, "backfill");
	bool		result = true;

	if (value != NULL)
		(void) parse_bool(value, &result);
	table_close(rel, AccessShareLock);
	return result;
}

/*
 * REFRESH never destroys: it starts a view made WITH NO DATA, and otherwise waits until it is current.
 */
static void
refresh_view(PenstockUtility *utility, Node *statement)
{
	RefreshMatViewStmt *stmt = (RefreshMatViewStmt *) statement;
	Oid			relid = RangeVarGetRelid(stmt->relation, NoLock, true);

	if (OidIsValid(relid) && get_rel_relkind(relid) == RELKIND_MATVIEW &&
		getExtensionOfObject(RelationRelationId, relid) == get_extension_oid("penstock", true))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("\"%s\" is kept by Penstock and cannot be refreshed", get_rel_name(relid))));
	if (!OidIsValid(relid) || !is_continuous(relid))
	{
		penstock_utility_continue(utility);
		return;
	}

	penstock_version_check();
	check_owner(relid);
	if (stmt->skipData)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("REFRESH of a continuous view cannot remove its data"),
				 errhint("Drop the view, or use penstock.pause().")));
	/* no lock here: one to be made stronger would deadlock, and waiting under one would hold up the engine */
	if (penstock_registry_get(relid) == NULL)
		penstock_view_activate(relid, backfill_wanted(relid));
	else
		penstock_engine_catch_up(relid, 0);
}

/*
 * ALTER MATERIALIZED VIEW: options, and changes of the access method.
 */
static void
alter_view(PenstockUtility *utility, Node *statement)
{
	AlterTableStmt *stmt = (AlterTableStmt *) statement;
	Oid			relid = RangeVarGetRelid(stmt->relation, NoLock, true);
	bool		was = OidIsValid(relid) && is_continuous(relid);
	ListCell   *lc;

	foreach(lc, stmt->cmds)
	{
		AlterTableCmd *cmd = lfirst_node(AlterTableCmd, lc);

		if (cmd->subtype == AT_SetAccessMethod && OidIsValid(relid) && !was &&
			names_continuous(cmd->name))
			ereport(ERROR,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("access method of \"%s\" cannot be changed to \"continuous\"",
							get_rel_name(relid)),
					 errhint("Create it with CREATE MATERIALIZED VIEW ... USING continuous.")));
	}
	penstock_utility_continue(utility);
	if (was && !is_continuous(relid))
		penstock_view_forget(relid);
}

/*
 * penstock_view_forget takes a view out of the registry; its state goes before commit.
 */
void
penstock_view_forget(Oid relid)
{
	PenstockViewRow *row;
	MemoryContext old;

	penstock_registry_lock(relid, true);
	row = penstock_registry_get(relid);
	if (row == NULL)
		return;
	penstock_registry_delete(relid);
	penstock_position_delete(relid);
	if (OidIsValid(row->state))
	{
		old = MemoryContextSwitchTo(TopTransactionContext);
		dropped_states = lappend_oid(dropped_states, row->state);
		MemoryContextSwitchTo(old);
	}
	penstock_engine_notify_at_commit();
}

static void
relation_dropped(ObjectAccessType access, Oid class_id, Oid object_id, int sub_id, void *arg)
{
	if (access == OAT_DROP && sub_id == 0 && !IsBinaryUpgrade && is_continuous(object_id) &&
		OidIsValid(get_relname_relid("continuous_view", get_namespace_oid("penstock", true))))
		penstock_view_forget(object_id);
}

static bool
state_is_used(Oid state)
{
	ListCell   *lc;

	foreach(lc, penstock_registry_list())
		if (((PenstockViewRow *) lfirst(lc))->state == state)
			return true;
	return false;
}

/*
 * A state table is dropped last thing before commit, outside of the deletion its view went in; only
 * if no view has it any more (the drop may have been rolled back).
 */
static void
drop_states(XactEvent event, void *arg)
{
	if (event == XACT_EVENT_PRE_COMMIT || event == XACT_EVENT_PRE_PREPARE)
	{
		List	   *states = dropped_states;
		ListCell   *lc;

		dropped_states = NIL;
		if (states == NIL || !OidIsValid(get_extension_oid("penstock", true)))
			return;
		PushActiveSnapshot(GetTransactionSnapshot());
		foreach(lc, states)
			if (!state_is_used(lfirst_oid(lc)))
				penstock_state_drop(lfirst_oid(lc));
		PopActiveSnapshot();
	}
	else if (event == XACT_EVENT_COMMIT || event == XACT_EVENT_ABORT || event == XACT_EVENT_PREPARE)
	{
		dropped_states = NIL;
		penstock_view_progress_end();
	}
}

/*
 * penstock.rebuild(view regclass, force boolean) → void: computes the view anew from all events there are.
 * Raises ERRCODE_PENSTOCK_HISTORY_GONE when events it has counted are gone, unless forced.
 */
Datum
penstock_rebuild(PG_FUNCTION_ARGS)
{
	Oid			relid = PG_GETARG_OID(0);
	bool		force = PG_GETARG_BOOL(1);
	PenstockViewRow *row;

	penstock_version_check();
	if (is_continuous(relid))
	{
		check_owner(relid);		/* before others are made to wait for nothing */
		LockRelationOid(relid, AccessExclusiveLock);
	}
	row = is_continuous(relid) ? penstock_registry_get(relid) : NULL;
	if (row == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("\"%s\" is not an active continuous view",
						get_rel_name(relid) ? get_rel_name(relid) : psprintf("%u", relid)),
				 errhint("A view made WITH NO DATA is started by REFRESH MATERIALIZED VIEW.")));
	check_owner(relid);
	if (!row->complete && !force)
		ereport(ERROR,
				(errcode(ERRCODE_PENSTOCK_HISTORY_GONE),
				 errmsg("continuous view \"%s\" cannot be rebuilt without loss", get_rel_name(relid)),
				 errdetail("Events that it has counted were removed since, or it was made with penstock.backfill = off."),
				 errhint("penstock.rebuild(view, force => true) rebuilds it from the events that are left.")));
	penstock_view_refill(relid);
	PG_RETURN_VOID();
}

static void
check_backfill(Relation rel, const char *value)
{
	bool		result;

	if (value != NULL && !parse_bool(value, &result))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid value for option \"penstock.backfill\": \"%s\"", value),
				 errdetail("It is on or off.")));
}

static const PenstockOption view_options[] = {
	{"continuous", "backfill", check_backfill,
	"off: the view starts from now instead of from all events there are"},
};

/*
 * penstock_view_init registers hooks and options; from _PG_init.
 */
void
penstock_view_init(void)
{
	penstock_utility_register(T_CreateTableAsStmt, create_view);
	penstock_utility_register(T_CreateStmt, create_table);
	penstock_utility_register(T_ExplainStmt, explain_view);
	penstock_utility_register(T_RefreshMatViewStmt, refresh_view);
	penstock_utility_register(T_AlterTableStmt, alter_view);
	penstock_object_register(RelationRelationId, relation_dropped);
	penstock_view_history_init();
	penstock_view_progress_init();
	penstock_options_register(view_options, lengthof(view_options));
	RegisterXactCallback(drop_states, NULL);
}
