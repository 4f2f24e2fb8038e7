/*
 * view_index.c
 *	  The unique index over a grouped view's keys, which it gets by itself.
 *
 * It is for those who read the view; the engine finds rows by their address.  Keys may be longer than an
 * index can hold: then the view goes without it.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/dependency.h"
#include "catalog/objectaddress.h"
#include "catalog/pg_am.h"
#include "catalog/pg_class.h"
#include "commands/defrem.h"
#include "nodes/makefuncs.h"
#include "storage/lmgr.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/resowner.h"
#include "utils/syscache.h"

#include "compat/compat.h"
#include "view/view_internal.h"

/* Did an index refuse a row because it is too long? */
static bool
is_too_long(ErrorData *error)
{
	return error->sqlerrcode == ERRCODE_PROGRAM_LIMIT_EXCEEDED &&
		(error->constraint_name != NULL ||
		 (error->filename != NULL && strcmp(error->filename, "indextuple.c") == 0));
}

/* The statement that makes the index; NULL if the view cannot have it. */
static IndexStmt *
make_statement(PenstockShape *shape, Relation rel)
{
	IndexStmt  *stmt = makeNode(IndexStmt);

	for (int i = 0; i < shape->nkeys; i++)
	{
		IndexElem  *elem = makeNode(IndexElem);

		if (shape->key_columns[i] == 0 ||
			!OidIsValid(GetDefaultOpClass(shape->key_types[i], BTREE_AM_OID)))
			return NULL;
		elem->name = pstrdup(NameStr(TupleDescAttr(RelationGetDescr(rel),
												   shape->key_columns[i] - 1)->attname));
		elem->ordering = SORTBY_DEFAULT;
		elem->nulls_ordering = SORTBY_NULLS_DEFAULT;
		stmt->indexParams = lappend(stmt->indexParams, elem);
	}
	stmt->relation = makeRangeVar(get_namespace_name(RelationGetNamespace(rel)),
								  pstrdup(RelationGetRelationName(rel)), -1);
	stmt->accessMethod = "btree";
	stmt->unique = true;
	stmt->nulls_not_distinct = true;
	stmt->transformed = true;
	return stmt;
}

/*
 * penstock_view_create_index gives a grouped view that shows all its keys, and has no index yet, a unique one
 * over them, unless a key is too long for it.
 */
void
penstock_view_create_index(PenstockView *view, Relation rel)
{
	PenstockShape *shape = view->shape;
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	IndexStmt  *stmt;
	PenstockRunAs run;

	if (shape->strategy != PENSTOCK_STRATEGY_GROUP || shape->nkeys == 0 ||
		shape->nkeys > INDEX_MAX_KEYS || RelationGetIndexList(rel) != NIL ||
		(stmt = make_statement(shape, rel)) == NULL)
		return;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(context);
	PG_TRY();
	{
		penstock_run_as_begin(&run, view->owner, NULL);
		penstock_define_index(RelationGetRelid(rel), stmt);
		penstock_run_as_end(&run);
		ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		ErrorData  *error;

		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		if (!is_too_long(error))
			PG_RE_THROW();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
		ereport(NOTICE,
				(errmsg("continuous view \"%s\" has no index over its keys", RelationGetRelationName(rel)),
				 errdetail("A key is too long: %s.", error->message)));
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
	CurrentResourceOwner = owner;
	CommandCounterIncrement();
}

/* Is this the index that penstock_view_create_index makes? */
static bool
is_key_index(PenstockShape *shape, Oid index)
{
	HeapTuple	tuple = SearchSysCache1(INDEXRELID, ObjectIdGetDatum(index));
	Form_pg_index form;
	bool		result;

	if (!HeapTupleIsValid(tuple))
		return false;
	form = (Form_pg_index) GETSTRUCT(tuple);
	result = form->indisunique && form->indnullsnotdistinct && form->indnatts == shape->nkeys &&
		heap_attisnull(tuple, Anum_pg_index_indpred, NULL);
	for (int i = 0; result && i < shape->nkeys; i++)
		result = form->indkey.values[i] == shape->key_columns[i];
	ReleaseSysCache(tuple);
	return result;
}

/*
 * penstock_view_drop_index: see view.h.
 */
bool
penstock_view_drop_index(Oid relid, ErrorData *error, bool *locked)
{
	PenstockView *view;
	Relation	rel;
	List	   *indexes;
	ListCell   *lc;
	bool		result = false;

	*locked = true;
	if (!is_too_long(error))
		return false;
	view = penstock_view_prepare(relid, AccessExclusiveLock, true);
	if (view == NULL)
	{
		*locked = false;
		return false;
	}
	if (view->shape->strategy != PENSTOCK_STRATEGY_GROUP)
		return false;
	rel = table_open(relid, NoLock);
	indexes = RelationGetIndexList(rel);
	table_close(rel, NoLock);
	foreach(lc, indexes)
		if (is_key_index(view->shape, lfirst_oid(lc)))
		{
			ObjectAddress address;

			ObjectAddressSet(address, RelationRelationId, lfirst_oid(lc));
			performDeletion(&address, DROP_RESTRICT, PERFORM_DELETION_INTERNAL);
			result = true;
		}
	return result;
}
