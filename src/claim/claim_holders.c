/*
 * claim_holders.c
 *	  Queries over the columns that hold claims.
 *
 * What the callers need is SPI, and to be who sees all rows.
 */
#include "postgres.h"

#include "catalog/pg_class.h"
#include "executor/spi.h"
#include "nodes/pg_list.h"
#include "storage/lmgr.h"
#include "utils/array.h"
#include "utils/lsyscache.h"

#include "claim/claim_internal.h"
#include "compat/compat.h"

void
penstock_claim_run(const char *query, int nargs, Oid *types, Datum *values, bool read_only, int expected)
{
	int			result = SPI_execute_with_args(query, nargs, types, values, NULL, read_only, 0);

	if (result != expected)
		elog(ERROR, "\"%s\" returned %d", query, result);
}

/* The claims that stand in columns, as column c of a subquery h; $1 are the ones asked for, if "some".  NULL: there are no columns. */
char *
penstock_claim_holders(bool some)
{
	StringInfoData query;
	ListCell   *lc;

	initStringInfo(&query);
	foreach(lc, penstock_claim_columns())
	{
		ClaimColumn *column = lfirst(lc);
		char	   *relation;
		char	   *name;

		if (column->relkind == RELKIND_PARTITIONED_TABLE || column->persistence == RELPERSISTENCE_TEMP)
			continue;
		/* one that is new since penstock_claim_lock_columns: rows are locked by now, so it is not waited for */
		if (some && !ConditionalLockRelationOid(column->relid, AccessShareLock))
			ereport(ERROR,
					(errcode(ERRCODE_LOCK_NOT_AVAILABLE),
					 errmsg("claims cannot be collected while a table that is new is being changed"),
					 errhint("Call penstock.claim_collect() again; the background does so by itself.")));
		if (!penstock_claim_column_lock(column))
			continue;
		relation = penstock_claim_column_relation(column);
		name = penstock_claim_column_name(column);
		if (query.len > 0)
			appendStringInfoString(&query, " UNION ALL ");
		if (column->is_array)
			appendStringInfo(&query, "SELECT u::penstock.claim AS c FROM ONLY %s, pg_catalog.unnest(%s) AS u WHERE ", relation, name);
		else
			appendStringInfo(&query, "SELECT %s::penstock.claim AS c FROM ONLY %s WHERE ", name, relation);
		if (some)
			appendStringInfo(&query, "%s OPERATOR(pg_catalog.=) ANY ($1)", column->is_array ? "u" : name);
		else
			appendStringInfo(&query, "%s IS NOT NULL", column->is_array ? "u" : name);
	}
	return query.len > 0 ? psprintf("(%s) AS h", query.data) : NULL;
}

/*
 * Locks all tables that have such columns before there are locks of rows, so that no deadlock comes of them: nothing is held while one is waited
 * for.  Returns false if not "wait" and somebody is changing one.
 */
bool
penstock_claim_lock_columns(bool wait)
{
	for (;;)
	{
		List	   *locked = NIL;
		Oid			busy = InvalidOid;
		ListCell   *lc;

		foreach(lc, penstock_claim_columns())
		{
			ClaimColumn *column = lfirst(lc);

			if (column->relkind == RELKIND_PARTITIONED_TABLE || column->persistence == RELPERSISTENCE_TEMP)
				continue;
			if (!ConditionalLockRelationOid(column->relid, AccessShareLock))
			{
				busy = column->relid;
				break;
			}
			locked = lappend_oid(locked, column->relid);
		}
		if (!OidIsValid(busy))
			return true;
		foreach(lc, locked)
			UnlockRelationOid(lfirst_oid(lc), AccessShareLock);
		if (!wait)
			return false;
		LockRelationOid(busy, AccessShareLock);
		UnlockRelationOid(busy, AccessShareLock);
	}
}

/* A condition on o: no column holds it. */
char *
penstock_claim_unheld(void)
{
	char	   *all = penstock_claim_holders(false);

	return all ? psprintf("NOT EXISTS (SELECT FROM %s WHERE h.c OPERATOR(pg_catalog.=) o.claim)", all) : "true";
}

int
penstock_claim_compare(const void *a, const void *b)
{
	return memcmp(*(PenstockClaim *const *) a, *(PenstockClaim *const *) b, sizeof(PenstockClaim));
}

/* Which of the claims do columns hold?  Sorted; *nheld of them. */
PenstockClaim **
penstock_claim_find_held(Datum *claims, int n, int *nheld)
{
	Oid			type = penstock_claim_type();
	Oid			types[1] = {get_array_type(type)};
	Datum		values[1] = {PointerGetDatum(construct_array(claims, n, type, sizeof(PenstockClaim), false, TYPALIGN_CHAR))};
	char	   *some = penstock_claim_holders(true);
	PenstockClaim **held;

	*nheld = 0;
	if (some == NULL)
		return NULL;
	penstock_claim_run(psprintf("SELECT DISTINCT h.c FROM %s", some), 1, types, values, false, SPI_OK_SELECT);
	held = palloc(Max(SPI_processed, 1) * sizeof(PenstockClaim *));
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		bool		isnull;

		held[i] = DatumGetClaim(SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1, &isnull));
	}
	*nheld = SPI_processed;
	qsort(held, *nheld, sizeof(PenstockClaim *), penstock_claim_compare);
	return held;
}
