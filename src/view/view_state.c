/*
 * view_state.c
 *	  The table of a grouped view's aggregate states.
 *
 * It is a materialized view over nothing in schema penstock, and a member of the extension: pg_dump leaves it
 * to penstock.saved_state, pg_upgrade carries its file, a publication does not see it.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/relation.h"
#include "access/xact.h"
#include "catalog/dependency.h"
#include "catalog/namespace.h"
#include "catalog/objectaddress.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_class.h"
#include "catalog/pg_collation.h"
#include "catalog/pg_extension.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_rewrite.h"
#include "catalog/pg_type.h"
#include "commands/createas.h"
#include "commands/defrem.h"
#include "commands/extension.h"
#include "commands/matview.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "parser/analyze.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

#include "compat/compat.h"
#include "view/view_internal.h"

/* leaves room for updates beside the old version of a row, without touching the index */
#define STATE_FILLFACTOR 45

static Node *
null_column(const char *name, Oid type, int32 typmod)
{
	A_Const    *null = makeNode(A_Const);
	TypeCast   *cast = makeNode(TypeCast);
	ResTarget  *target = makeNode(ResTarget);

	null->isnull = true;
	null->location = -1;
	cast->arg = (Node *) null;
	cast->typeName = makeTypeNameFromOid(type, typmod);
	cast->location = -1;
	target->name = pstrdup(name);
	target->val = (Node *) cast;
	target->location = -1;
	return (Node *) target;
}

/*
 * penstock_state_create makes the state table for view, without index, and returns its OID.
 */
static Oid
create_table(PenstockShape *shape, const char *name)
{
	SelectStmt *select = makeNode(SelectStmt);
	IntoClause *into = makeNode(IntoClause);
	CreateTableAsStmt *stmt = makeNode(CreateTableAsStmt);
	RawStmt    *raw = makeNode(RawStmt);
	ListCell   *lc;
	Query	   *query;
	QueryCompletion qc;
	ObjectAddress address;

	select->targetList = list_make2(null_column("hash", INT8OID, -1),
									null_column("row", TIDOID, -1));
	for (int i = 0; i < shape->nkeys; i++)
		select->targetList = lappend(select->targetList,
									 null_column(psprintf("key%d", i + 1), shape->key_types[i],
												 shape->key_typmods[i]));
	foreach(lc, shape->aggs)
	{
		PenstockAggregate agg;

		penstock_aggregate_init(&agg, lfirst_node(Aggref, lc));
		select->targetList = lappend(select->targetList,
									 null_column(psprintf("state%d", foreach_current_index(lc) + 1),
												 agg.storetype, -1));
	}
	into->rel = makeRangeVar("penstock", pstrdup(name), -1);
	into->accessMethod = "heap";
	into->options = list_make1(makeDefElem("fillfactor", (Node *) makeInteger(STATE_FILLFACTOR), -1));
	into->onCommit = ONCOMMIT_NOOP;
	into->skipData = true;
	stmt->query = (Node *) select;
	stmt->into = into;
	stmt->objtype = OBJECT_MATVIEW;
	raw->stmt = (Node *) stmt;
	raw->stmt_location = -1;

	query = parse_analyze_fixedparams(raw, "", NULL, 0, NULL);
	address = ExecCreateTableAs(make_parsestate(NULL),
								castNode(CreateTableAsStmt, query->utilityStmt),
								NULL, NULL, &qc);
	return address.objectId;
}

/*
 * What DROP ... CASCADE reaches in a member of the extension is the extension, with every stream of the
 * database.  So the state depends on no type; the view's query does, and takes the state along when it goes.
 */
static void
leave_types(Relation state)
{
	static const Oid used[] = {TypeRelationId, ProcedureRelationId, CollationRelationId};

	for (int i = 0; i < lengthof(used); i++)
	{
		deleteDependencyRecordsForClass(RelationRelationId, RelationGetRelid(state), used[i],
										DEPENDENCY_NORMAL);
		deleteDependencyRecordsForClass(RewriteRelationId, state->rd_rules->rules[0]->ruleId, used[i],
										DEPENDENCY_NORMAL);
	}
}

/*
 * penstock_state_types_to_view makes the view depend on the types of its state's columns, as if it showed them:
 * ALTER TYPE and ALTER TABLE look there for stored values of a composite type.
 */
void
penstock_state_types_to_view(Relation view, Oid state)
{
	Relation	rel;
	TupleDesc	desc;
	ObjectAddress column;
	ObjectAddress type;

	if (RelationGetNumberOfAttributes(view) == 0)
		return;					/* no column to say it for */
	ObjectAddressSubSet(column, RelationRelationId, RelationGetRelid(view), 1);
	rel = relation_open(state, NoLock);
	desc = RelationGetDescr(rel);
	for (int i = STATE_FIRST_KEY - 1; i < desc->natts; i++)
	{
		ObjectAddressSet(type, TypeRelationId, TupleDescAttr(desc, i)->atttypid);
		recordDependencyOn(&column, &type, DEPENDENCY_NORMAL);
	}
	relation_close(rel, NoLock);
}

/*
 * penstock_state_restored does what making a state table did, when pg_upgrade makes it anew.
 */
void
penstock_state_restored(Oid relid)
{
	Relation	rel = relation_open(relid, AccessExclusiveLock);

	leave_types(rel);
	relation_close(rel, NoLock);
}

Oid
penstock_state_create(Oid view, PenstockShape *shape)
{
	PenstockRunAs run;
	ObjectAddress state;
	ObjectAddress extension;
	Relation	rel;
	Oid			nsp = get_namespace_oid("penstock", false);
	char		name[NAMEDATALEN];

	/* by the view's number: transactions that make states at the same time must not meet */
	snprintf(name, sizeof(name), "state_%u", view);
	for (int i = 2; OidIsValid(get_relname_relid(name, nsp)); i++)
		snprintf(name, sizeof(name), "state_%u_%d", view, i);

	penstock_run_as_begin(&run, BOOTSTRAP_SUPERUSERID, NULL);
	ObjectAddressSet(state, RelationRelationId, create_table(shape, name));
	CommandCounterIncrement();
	ObjectAddressSet(extension, ExtensionRelationId, get_extension_oid("penstock", false));
	recordDependencyOn(&state, &extension, DEPENDENCY_EXTENSION);
	rel = relation_open(state.objectId, AccessExclusiveLock);
	SetMatViewPopulatedState(rel, true);
	leave_types(rel);
	relation_close(rel, NoLock);
	CommandCounterIncrement();
	penstock_run_as_end(&run);
	return state.objectId;
}

/*
 * penstock_state_index makes the state table's only index, after it has been filled.
 */
void
penstock_state_index(Oid state)
{
	IndexStmt  *stmt = makeNode(IndexStmt);
	IndexElem  *elem = makeNode(IndexElem);
	PenstockRunAs run;

	elem->name = "hash";
	elem->ordering = SORTBY_DEFAULT;
	elem->nulls_ordering = SORTBY_NULLS_DEFAULT;
	stmt->relation = makeRangeVar("penstock", get_rel_name(state), -1);
	stmt->accessMethod = "btree";
	stmt->indexParams = list_make1(elem);
	stmt->transformed = true;

	penstock_run_as_begin(&run, BOOTSTRAP_SUPERUSERID, NULL);
	penstock_define_index(state, stmt);
	CommandCounterIncrement();
	penstock_run_as_end(&run);
}

static void
leave_extension(Oid class_id, Oid object_id)
{
	deleteDependencyRecordsForClass(class_id, object_id, ExtensionRelationId, DEPENDENCY_EXTENSION);
}

/*
 * penstock_state_drop removes the state table of a view that is gone or made anew.
 */
void
penstock_state_drop(Oid state)
{
	ObjectAddress address;
	Oid			row_type;

	if (!OidIsValid(state) || get_rel_relkind(state) != RELKIND_MATVIEW)
		return;
	ObjectAddressSet(address, RelationRelationId, state);
	leave_extension(RelationRelationId, state);
	/* pg_upgrade to 17 and later makes members of its types, too */
	row_type = get_rel_type_id(state);
	leave_extension(TypeRelationId, row_type);
	leave_extension(TypeRelationId, get_array_type(row_type));
	CommandCounterIncrement();
	performDeletion(&address, DROP_RESTRICT, PERFORM_DELETION_INTERNAL | PERFORM_DELETION_QUIETLY);
}
