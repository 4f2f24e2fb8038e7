/*
 * claim_access.c
 *	  Who may redeem a ticket: who has stored it, and who may read a column it stands in.
 *
 * A query that redeems what it reads from a column has been checked for the right to read it, by the server.  So the planner's support
 * function looks for calls whose argument is a column of a relation, and hands the function a proof, a value of a type that has no input. Other
 * calls look for the ticket in the columns that the role may read; an index on the column makes that quick.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/dependency.h"
#include "catalog/namespace.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_class.h"
#include "catalog/pg_depend.h"
#include "catalog/pg_namespace.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "nodes/pathnodes.h"
#include "nodes/supportnodes.h"
#include "parser/parse_func.h"
#include "parser/parsetree.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/syscache.h"

#include "catalogue/own_table.h"
#include "claim/claim_functions.h"
#include "claim/claim_internal.h"
#include "compat/compat.h"

PG_FUNCTION_INFO_V1(penstock_claim_support);

/* Tickets that this session remembers to have stored. */
#define REMEMBERED 1024

static struct
{
	PenstockClaim claim;
	Oid			role;
}			stored_here[REMEMBERED];
static int	next_stored;

void
penstock_claim_note_stored(const PenstockClaim *claim)
{
	int			last = (next_stored + REMEMBERED - 1) % REMEMBERED;

	if (memcmp(&stored_here[last].claim, claim, sizeof(PenstockClaim)) == 0 && stored_here[last].role == GetUserId())
		return;
	stored_here[next_stored].claim = *claim;
	stored_here[next_stored].role = GetUserId();
	next_stored = (next_stored + 1) % REMEMBERED;
}

static bool
has_stored(const PenstockClaim *claim)
{
	for (int i = 0; i < REMEMBERED; i++)
		if (stored_here[i].role == GetUserId() && memcmp(&stored_here[i].claim, claim, sizeof(PenstockClaim)) == 0)
			return true;
	return false;
}

void
penstock_claim_unknown(const PenstockClaim *claim)
{
	ereport(ERROR,
			(errcode(ERRCODE_NO_DATA_FOUND),
			 errmsg("there is no payload for claim \"%s\"", penstock_claim_text(claim)),
			 errhint("It was never stored here, has expired, was collected because no row held it, or stands in no column that role \"%s\" may read.",
					 GetUserNameFromId(GetUserId(), false))));
}

/* ---- columns that hold claims ---- */

/* Columns whose type is the given one, by their dependency on it; and of domains over it. */
static List *
add_columns(List *columns, Oid type, bool is_array)
{
	Relation	rel = table_open(DependRelationId, AccessShareLock);
	ScanKeyData keys[2];
	SysScanDesc scan;
	HeapTuple	tuple;

	ScanKeyInit(&keys[0], Anum_pg_depend_refclassid, BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(TypeRelationId));
	ScanKeyInit(&keys[1], Anum_pg_depend_refobjid, BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(type));
	scan = systable_beginscan(rel, DependReferenceIndexId, true, NULL, 2, keys);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		Form_pg_depend form = (Form_pg_depend) GETSTRUCT(tuple);

		if (form->classid == TypeRelationId && get_typtype(form->objid) == TYPTYPE_DOMAIN)
		{
			Oid			array = get_array_type(form->objid);

			columns = add_columns(columns, form->objid, is_array);
			if (OidIsValid(array) && !is_array)
				columns = add_columns(columns, array, true);
		}
		else if (form->classid == RelationRelationId && form->objsubid > 0 && get_atttype(form->objid, form->objsubid) == type)
		{
			HeapTuple	class = SearchSysCache1(RELOID, ObjectIdGetDatum(form->objid));
			ClaimColumn *column;

			if (!HeapTupleIsValid(class))
				continue;
			column = palloc(sizeof(ClaimColumn));
			column->relid = form->objid;
			column->attnum = form->objsubid;
			column->is_array = is_array;
			column->relkind = ((Form_pg_class) GETSTRUCT(class))->relkind;
			column->persistence = ((Form_pg_class) GETSTRUCT(class))->relpersistence;
			ReleaseSysCache(class);
			if (column->relkind == RELKIND_RELATION || column->relkind == RELKIND_MATVIEW || column->relkind == RELKIND_PARTITIONED_TABLE)
				columns = lappend(columns, column);
		}
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return columns;
}

List *
penstock_claim_columns(void)
{
	Oid			type = penstock_claim_type();
	Oid			objects = penstock_own_table_oid("claim_object");
	List	   *all;
	List	   *columns = NIL;
	ListCell   *lc;

	all = add_columns(NIL, type, false);
	if (OidIsValid(get_array_type(type)))
		all = add_columns(all, get_array_type(type), true);
	foreach(lc, all)
		if (((ClaimColumn *) lfirst(lc))->relid != objects)
			columns = lappend(columns, lfirst(lc));
	return columns;
}

bool
penstock_claim_column_lock(const ClaimColumn *column)
{
	Relation	rel = try_table_open(column->relid, AccessShareLock);
	bool		there;

	if (rel == NULL)
		return false;
	there = column->attnum <= RelationGetNumberOfAttributes(rel) && !TupleDescAttr(RelationGetDescr(rel), column->attnum - 1)->attisdropped;
	table_close(rel, NoLock);
	return there;
}

char *
penstock_claim_column_relation(const ClaimColumn *column)
{
	return quote_qualified_identifier(get_namespace_name(get_rel_namespace(column->relid)), get_rel_name(column->relid));
}

char *
penstock_claim_column_name(const ClaimColumn *column)
{
	return pstrdup(quote_identifier(get_attname(column->relid, column->attnum, false)));
}

/* ---- rights ---- */

static bool
may_read(const ClaimColumn *column)
{
	bool		missing = false;

	/* temporary tables of other sessions cannot be read */
	if (column->persistence == RELPERSISTENCE_TEMP && !isTempOrTempToastNamespace(get_rel_namespace(column->relid)))
		return false;
	/* nor one that has been dropped meanwhile */
	return pg_class_aclcheck_ext(column->relid, GetUserId(), ACL_SELECT, &missing) == ACLCHECK_OK ||
		pg_attribute_aclcheck_ext(column->relid, column->attnum, GetUserId(), ACL_SELECT, &missing) == ACLCHECK_OK;
}

/* The rows of the column with the ticket, up to a limit (0: none), as far as the role sees them. */
static int64
count_in(const ClaimColumn *column, const PenstockClaim *claim, int limit)
{
	Oid			types[1] = {penstock_claim_type()};
	Datum		values[1] = {PointerGetDatum(claim)};
	char	   *query;

	/* a schema that the role may not look into would be an error */
	if (!may_read(column))
		return 0;
	/* counting waits for nobody who is changing a table, and so takes part in no deadlock */
	if (limit == 0 && !ConditionalLockRelationOid(column->relid, AccessShareLock))
		return 0;
	if (!penstock_claim_column_lock(column) || !penstock_schema_usable(get_rel_namespace(column->relid)))
		return 0;
	query = psprintf("SELECT %s FROM %s%s WHERE $1 OPERATOR(pg_catalog.=) %s%s%s%s",
					 limit ? "" : "pg_catalog.count(*)", limit ? "" : "ONLY ", penstock_claim_column_relation(column),
					 column->is_array ? "ANY (" : "", penstock_claim_column_name(column), column->is_array ? ")" : "",
					 limit ? " LIMIT 1" : "");
	if (SPI_execute_with_args(query, 1, types, values, NULL, true, limit) != SPI_OK_SELECT)
		elog(ERROR, "a claim could not be looked for");
	if (limit == 0)
	{
		bool		isnull;

		return DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull));
	}
	return SPI_processed;
}

int64
penstock_claim_count_in(const ClaimColumn *column, const PenstockClaim *claim)
{
	/* a partition's rows are its parent's, too */
	return column->relkind == RELKIND_PARTITIONED_TABLE ? 0 : count_in(column, claim, 0);
}

bool
penstock_claim_may_fetch(const ClaimObject *object)
{
	Oid			role = GetUserId();
	Oid			owner;
	bool		found = false;
	ListCell   *lc;

	if (superuser() || has_stored(&object->claim) || has_privs_of_role(role, ROLE_PG_READ_ALL_DATA))
		return true;
	owner = penstock_claim_owner_role(object->owner);
	if (OidIsValid(owner) && SearchSysCacheExists1(AUTHOID, ObjectIdGetDatum(owner)) && has_privs_of_role(role, owner))
		return true;
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	foreach(lc, penstock_claim_columns())
	{
		ClaimColumn *column = lfirst(lc);

		if (count_in(column, &object->claim, 1) > 0)
		{
			found = true;
			break;
		}
	}
	SPI_finish();
	return found;
}

/* ---- the proof ---- */

/*
 * penstock_claim_support: claim_fetch(column, ...) becomes claim_fetch(column, ..., proof), where the column is of a relation whose rights the
 * executor checks.
 */
Datum
penstock_claim_support(PG_FUNCTION_ARGS)
{
	Node	   *request = (Node *) PG_GETARG_POINTER(0);
	SupportRequestSimplify *simplify;
	FuncExpr   *call;
	Var		   *var;
	RangeTblEntry *rte;
	Oid			types[FUNC_MAX_ARGS];
	Oid			proof_type;
	Oid			twin;
	int			n = 0;
	ListCell   *lc;
	Const	   *proof;

	if (!IsA(request, SupportRequestSimplify))
		PG_RETURN_POINTER(NULL);
	simplify = (SupportRequestSimplify *) request;
	call = simplify->fcall;
	if (simplify->root == NULL || call->args == NIL || !IsA(linitial(call->args), Var))
		PG_RETURN_POINTER(NULL);
	var = linitial(call->args);
	if (var->varlevelsup != 0 || var->varattno <= 0 || var->varno > list_length(simplify->root->parse->rtable))
		PG_RETURN_POINTER(NULL);
	rte = rt_fetch(var->varno, simplify->root->parse->rtable);
	if (rte->rtekind != RTE_RELATION)
		PG_RETURN_POINTER(NULL);

	foreach(lc, call->args)
		types[n++] = exprType(lfirst(lc));
	proof_type = GetSysCacheOid2(TYPENAMENSP, Anum_pg_type_oid, CStringGetDatum("claim_read"),
								 ObjectIdGetDatum(get_func_namespace(call->funcid)));
	types[n++] = proof_type;
	twin = LookupFuncName(list_make2(makeString("penstock"), makeString(get_func_name(call->funcid))), n, types, true);
	if (!OidIsValid(twin))
		PG_RETURN_POINTER(NULL);
	proof = makeConst(proof_type, -1, InvalidOid, -1,
					  PointerGetDatum(cstring_to_text(psprintf("%s.%s", get_rel_name(rte->relid),
															   get_attname(rte->relid, var->varattno, false)))),
					  false, false);
	PG_RETURN_POINTER(makeFuncExpr(twin, call->funcresulttype, lappend(list_copy(call->args), proof), call->funccollid,
								   call->inputcollid, COERCE_EXPLICIT_CALL));
}
