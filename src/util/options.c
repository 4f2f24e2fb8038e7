/*
 * options.c
 *	  Options penstock.* of relations, in pg_class.reloptions.
 *
 * The server validates the whole array whenever any option of a relation is set.  So ALTER TABLE takes
 * ours off the catalog row first and puts them back after; an error in between rolls both back.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/relation.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/indexing.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "commands/defrem.h"
#include "commands/tablecmds.h"
#include "lib/stringinfo.h"
#include "nodes/makefuncs.h"
#include "nodes/value.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/syscache.h"

#include "util/engine_call.h"
#include "util/options.h"
#include "util/utility_hook.h"

#define PREFIX			"penstock."
#define PREFIX_LEN		(sizeof(PREFIX) - 1)
#define MAX_TABLES		8

static struct
{
	const PenstockOption *options;
	int			n;
}			tables[MAX_TABLES];
static int	ntables;

void
penstock_options_register(const PenstockOption *options, int n)
{
	if (ntables == MAX_TABLES)
		elog(ERROR, "too many option tables");
	tables[ntables].options = options;
	tables[ntables++].n = n;
}

/* ---- known options ---- */

static const PenstockOption *
find_option(const char *access_method, const char *name)
{
	for (int t = 0; t < ntables; t++)
		for (int i = 0; i < tables[t].n; i++)
			if (strcmp(tables[t].options[i].access_method, access_method) == 0 &&
				strcmp(tables[t].options[i].name, name) == 0)
				return &tables[t].options[i];
	return NULL;
}

/* "penstock.a, penstock.b" or NULL if relations of that access method have none */
static char *
valid_names(const char *access_method)
{
	StringInfoData names;

	initStringInfo(&names);
	for (int t = 0; t < ntables; t++)
		for (int i = 0; i < tables[t].n; i++)
			if (strcmp(tables[t].options[i].access_method, access_method) == 0)
				appendStringInfo(&names, "%s" PREFIX "%s", names.len ? ", " : "",
								 tables[t].options[i].name);
	return names.len ? names.data : NULL;
}

void
penstock_options_check_names(const char *access_method, List *options)
{
	ListCell   *lc;

	foreach(lc, options)
	{
		DefElem    *option = lfirst_node(DefElem, lc);

		if (find_option(access_method, option->defname) == NULL)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("unrecognized parameter \"" PREFIX "%s\"", option->defname),
					 errhint("Valid parameters are: %s.", valid_names(access_method))));
	}
}

/* Name of the relation's access method; an error if its relations have no options of ours. */
static const char *
access_method_of(Relation rel)
{
	char	   *name = OidIsValid(rel->rd_rel->relam) ? get_am_name(rel->rd_rel->relam) : NULL;

	if (rel->rd_rel->relkind == RELKIND_PARTITIONED_TABLE)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("partitioned table \"%s\" cannot have penstock parameters",
						RelationGetRelationName(rel)),
				 errdetail("It holds no events itself."),
				 errhint("Set them on its partitions.")));
	if (name == NULL || valid_names(name) == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("\"%s\" cannot have penstock parameters", RelationGetRelationName(rel)),
				 errdetail("Only streams and continuous views have them."),
				 errhint("Streams are made with CREATE TABLE ... USING stream, continuous views with CREATE MATERIALIZED VIEW ... USING continuous.")));
	return name;
}

static const char *
option_value(DefElem *option)
{
	return option->arg ? defGetString(option) : "true";
}

/* ---- the catalog row ---- */

static bool
is_ours(DefElem *option)
{
	return (option->defnamespace && strcmp(option->defnamespace, "penstock") == 0) ||
		(option->defnamespace == NULL && strncmp(option->defname, PREFIX, PREFIX_LEN) == 0);
}

List *
penstock_options_take(List **with_list)
{
	List	   *taken = NIL;
	List	   *rest = NIL;
	ListCell   *lc;

	foreach(lc, *with_list)
	{
		DefElem    *option = lfirst_node(DefElem, lc);
		char	   *name = option->defname;

		if (!is_ours(option))
		{
			rest = lappend(rest, option);
			continue;
		}
		if (option->defnamespace == NULL)
			name += PREFIX_LEN;
		taken = lappend(taken, makeDefElem(pstrdup(name),
										   option->arg ? (Node *) makeString(defGetString(option)) : NULL,
										   option->location));
	}
	*with_list = rest;
	return taken;
}

static bool
have_ours(List *with_list)
{
	ListCell   *lc;

	foreach(lc, with_list)
		if (is_ours(lfirst_node(DefElem, lc)))
			return true;
	return false;
}

/* The relation's options as C strings "name=value". */
static List *
read_options(Oid relid)
{
	HeapTuple	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(relid));
	List	   *result = NIL;
	bool		isnull;
	Datum		array;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for relation %u", relid);
	array = SysCacheGetAttr(RELOID, tuple, Anum_pg_class_reloptions, &isnull);
	if (!isnull)
	{
		Datum	   *elements;
		int			n;

		deconstruct_array(DatumGetArrayTypeP(array), TEXTOID, -1, false, TYPALIGN_INT,
						  &elements, NULL, &n);
		for (int i = 0; i < n; i++)
			result = lappend(result, TextDatumGetCString(elements[i]));
	}
	ReleaseSysCache(tuple);
	return result;
}

/* Writes the relation's options back and makes the change visible. */
static void
write_options(Oid relid, List *options)
{
	Relation	pg_class = table_open(RelationRelationId, RowExclusiveLock);
	HeapTuple	tuple = SearchSysCacheCopy1(RELOID, ObjectIdGetDatum(relid));
	Datum		values[Natts_pg_class] = {0};
	bool		nulls[Natts_pg_class] = {0};
	bool		replace[Natts_pg_class] = {0};
	HeapTuple	changed;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for relation %u", relid);

	replace[Anum_pg_class_reloptions - 1] = true;
	if (options == NIL)
		nulls[Anum_pg_class_reloptions - 1] = true;
	else
	{
		Datum	   *elements = palloc(sizeof(Datum) * list_length(options));

		for (int i = 0; i < list_length(options); i++)
			elements[i] = CStringGetTextDatum(list_nth(options, i));
		values[Anum_pg_class_reloptions - 1] =
			PointerGetDatum(construct_array(elements, list_length(options), TEXTOID, -1, false,
											TYPALIGN_INT));
	}
	changed = heap_modify_tuple(tuple, RelationGetDescr(pg_class), values, nulls, replace);
	CatalogTupleUpdate(pg_class, &tuple->t_self, changed);

	/* a retention may have become shorter */
	penstock_engine_notify_at_commit();
	heap_freetuple(changed);
	heap_freetuple(tuple);
	table_close(pg_class, RowExclusiveLock);
	CommandCounterIncrement();
}

/* Is "penstock.name=value" the option of that name? */
static bool
is_entry(const char *entry, const char *name)
{
	size_t		len = strlen(name);

	return strncmp(entry, PREFIX, PREFIX_LEN) == 0 &&
		strncmp(entry + PREFIX_LEN, name, len) == 0 && entry[PREFIX_LEN + len] == '=';
}

static List *
without_entry(List *entries, const char *name)
{
	ListCell   *lc;

	foreach(lc, entries)
		if (is_entry(lfirst(lc), name))
			entries = foreach_delete_current(entries, lc);
	return entries;
}

void
penstock_options_store(Oid relid, List *set, List *reset)
{
	Relation	rel = relation_open(relid, NoLock);
	const char *access_method = access_method_of(rel);
	List	   *entries = read_options(relid);
	ListCell   *lc;

	penstock_options_check_names(access_method, set);
	penstock_options_check_names(access_method, reset);

	foreach(lc, set)
	{
		DefElem    *option = lfirst_node(DefElem, lc);
		const PenstockOption *known = find_option(access_method, option->defname);

		if (known->check)
			known->check(rel, option_value(option));
		entries = without_entry(entries, option->defname);
		entries = lappend(entries, psprintf(PREFIX "%s=%s", option->defname, option_value(option)));
	}
	foreach(lc, reset)
		entries = without_entry(entries, lfirst_node(DefElem, lc)->defname);

	relation_close(rel, NoLock);
	write_options(relid, entries);
}

char *
penstock_options_get(Relation rel, const char *name)
{
	ListCell   *lc;

	foreach(lc, read_options(RelationGetRelid(rel)))
		if (is_entry(lfirst(lc), name))
			return (char *) lfirst(lc) + PREFIX_LEN + strlen(name) + 1;
	return NULL;
}

/* ---- statements ---- */

/* Runs a statement that makes the table "name" and gives it the options. */
static void
create_with_options(PenstockUtility *utility, RangeVar *name, bool if_not_exists, List *options)
{
	Oid			namespace = RangeVarGetCreationNamespace(name);

	if (if_not_exists && OidIsValid(get_relname_relid(name->relname, namespace)))
		options = NIL;
	penstock_utility_continue(utility);
	if (options != NIL)
		penstock_options_store(get_relname_relid(name->relname, namespace), options, NIL);
}

static void
handle_create_table(PenstockUtility *utility, Node *statement)
{
	CreateStmt *stmt = (CreateStmt *) statement;
	List	   *options;

	if (!have_ours(stmt->options))
	{
		penstock_utility_continue(utility);
		return;
	}
	utility->pstmt = copyObject(utility->pstmt);
	stmt = (CreateStmt *) utility->pstmt->utilityStmt;
	options = penstock_options_take(&stmt->options);
	create_with_options(utility, stmt->relation, stmt->if_not_exists, options);
}

static void
handle_create_table_as(PenstockUtility *utility, Node *statement)
{
	CreateTableAsStmt *stmt = (CreateTableAsStmt *) statement;
	List	   *options;

	if (stmt->objtype != OBJECT_TABLE || !have_ours(stmt->into->options))
	{
		penstock_utility_continue(utility);
		return;
	}
	utility->pstmt = copyObject(utility->pstmt);
	stmt = (CreateTableAsStmt *) utility->pstmt->utilityStmt;
	options = penstock_options_take(&stmt->into->options);
	create_with_options(utility, stmt->into->rel, stmt->if_not_exists, options);
}

static bool
touches_options(AlterTableStmt *stmt)
{
	ListCell   *lc;

	foreach(lc, stmt->cmds)
	{
		AlterTableType type = lfirst_node(AlterTableCmd, lc)->subtype;

		if (type == AT_SetRelOptions || type == AT_ResetRelOptions ||
			type == AT_ReplaceRelOptions || type == AT_SetAccessMethod)
			return true;
	}
	return false;
}

/* Takes our options out of the commands, and commands that have nothing else. */
static void
take_from_commands(AlterTableStmt *stmt, List **set, List **reset)
{
	ListCell   *lc;

	foreach(lc, stmt->cmds)
	{
		AlterTableCmd *cmd = lfirst_node(AlterTableCmd, lc);
		List	   *options = (List *) cmd->def;
		List	   *taken;

		if (cmd->subtype != AT_SetRelOptions && cmd->subtype != AT_ResetRelOptions)
			continue;
		taken = penstock_options_take(&options);
		if (cmd->subtype == AT_SetRelOptions)
			*set = list_concat(*set, taken);
		else
			*reset = list_concat(*reset, taken);
		cmd->def = (Node *) options;
		if (taken != NIL && options == NIL)
			stmt->cmds = foreach_delete_current(stmt->cmds, lc);
	}
}

/* Puts entries back that the relation's present access method knows. */
static void
put_back(Oid relid, List *entries)
{
	Relation	rel = relation_open(relid, NoLock);
	char	   *access_method = OidIsValid(rel->rd_rel->relam) ? get_am_name(rel->rd_rel->relam) : NULL;
	List	   *options = read_options(relid);
	ListCell   *lc;

	relation_close(rel, NoLock);
	foreach(lc, entries)
	{
		char	   *entry = lfirst(lc);
		char	   *name = pnstrdup(entry + PREFIX_LEN, strchr(entry, '=') - entry - PREFIX_LEN);

		if (access_method && find_option(access_method, name))
			options = lappend(options, entry);
	}
	write_options(relid, options);
}

static void
handle_alter_table(PenstockUtility *utility, Node *statement)
{
	AlterTableStmt *stmt = (AlterTableStmt *) statement;
	List	   *set = NIL;
	List	   *reset = NIL;
	List	   *ours = NIL;
	List	   *others = NIL;
	ListCell   *lc;
	Oid			relid = InvalidOid;

	/* the lookup also checks that the user owns it, and takes the lock that the statement needs */
	if (touches_options(stmt))
		relid = AlterTableLookupRelation(stmt, AlterTableGetLockLevel(stmt->cmds));
	if (!OidIsValid(relid))
	{
		penstock_utility_continue(utility);
		return;
	}

	utility->pstmt = copyObject(utility->pstmt);
	stmt = (AlterTableStmt *) utility->pstmt->utilityStmt;
	take_from_commands(stmt, &set, &reset);
	foreach(lc, read_options(relid))
	{
		char	   *entry = lfirst(lc);

		if (strncmp(entry, PREFIX, PREFIX_LEN) == 0 && strchr(entry, '='))
			ours = lappend(ours, entry);
		else
			others = lappend(others, entry);
	}

	if (stmt->cmds != NIL)
	{
		if (ours != NIL)
			write_options(relid, others);
		penstock_utility_continue(utility);
		if (ours != NIL)
			put_back(relid, ours);
	}
	if (set != NIL || reset != NIL)
		penstock_options_store(relid, set, reset);
}

void
penstock_options_init(void)
{
	penstock_utility_register(T_CreateStmt, handle_create_table);
	penstock_utility_register(T_CreateTableAsStmt, handle_create_table_as);
	penstock_utility_register(T_AlterTableStmt, handle_alter_table);
}
