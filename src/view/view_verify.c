/*
 * view_verify.c
 *	  penstock.verify(view): is the view what its query says?
 *
 * The view's rows and its position commit together, so under one snapshot they belong together: the query is run
 * over the events that the position has seen, however many have come since, and compared both ways.
 */
#include "postgres.h"

#include "access/table.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "compat/compat.h"
#include "util/errors.h"
#include "view/view_internal.h"

PG_FUNCTION_INFO_V1(penstock_verify);

static void
not_active(Oid relid)
{
	char	   *name = get_rel_name(relid);

	ereport(ERROR,
			(errcode(ERRCODE_WRONG_OBJECT_TYPE),
			 errmsg("\"%s\" is not an active continuous view", name ? name : "?"),
			 errhint("A view made WITH NO DATA is started by REFRESH MATERIALIZED VIEW.")));
}

/* The position as the active snapshot sees it, in the SPI's memory; false while a backlog is worked off in slices. */
static bool
visible_position(Oid relid, Datum *seen)
{
	Oid			types[1] = {OIDOID};
	Datum		args[1] = {ObjectIdGetDatum(relid)};
	bool		isnull;

	if (SPI_execute_with_args("SELECT seen, upto FROM penstock.position WHERE consumer = $1",
							  1, types, args, NULL, true, 1) != SPI_OK_SELECT || SPI_processed != 1)
		not_active(relid);
	*seen = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull);
	(void) SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 2, &isnull);
	return isnull;
}

static Oid
owner_of(Oid relid)
{
	Relation	rel = table_open(relid, NoLock);
	Oid			owner = rel->rd_rel->relowner;

	table_close(rel, NoLock);
	return owner;
}

/* Counts the rows that only one of view and query has. */
static char *
comparison(Oid relid)
{
	char	   *view = quote_qualified_identifier(get_namespace_name(get_rel_namespace(relid)),
												  get_rel_name(relid));
	char	   *query = TextDatumGetCString(DirectFunctionCall1(pg_get_viewdef, ObjectIdGetDatum(relid)));
	int			len = strlen(query);

	if (len > 0 && query[len - 1] == ';')
		query[len - 1] = '\0';
	return psprintf("SELECT (SELECT count(*) FROM (SELECT * FROM %s EXCEPT ALL (%s)) d) +"
					" (SELECT count(*) FROM ((%s) EXCEPT ALL SELECT * FROM %s) d)",
					view, query, query, view);
}

static int64
count_differences(Oid relid, Datum seen)
{
	bool		isnull;
	volatile int rc = 0;

	penstock_delta_set_fill(seen);
	PG_TRY();
	{
		rc = SPI_execute(comparison(relid), true, 0);
	}
	PG_FINALLY();
	{
		penstock_delta_clear();
	}
	PG_END_TRY();
	if (rc != SPI_OK_SELECT || SPI_processed != 1)
		elog(ERROR, "comparison of a continuous view failed: %s", SPI_result_code_string(rc));
	return DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull));
}

/*
 * penstock.verify(view regclass) → bigint: rows that the view has and its query over the events up to the view's
 * position has not, plus the other way round; NULL while the view works off a backlog in slices.  Requires
 * ownership.  Raises ERRCODE_PENSTOCK_HISTORY_GONE if events the view has counted are gone.
 */
Datum
penstock_verify(PG_FUNCTION_ARGS)
{
	Oid			relid = PG_GETARG_OID(0);
	PenstockViewRow *row;
	PenstockRunAs run;
	Datum		seen;
	int64		result = 0;
	bool		whole;

	LockRelationOid(relid, AccessShareLock);
	row = penstock_registry_get(relid);
	if (row == NULL)
		not_active(relid);
	if (!object_ownercheck(RelationRelationId, relid, GetUserId()))
		aclcheck_error(ACLCHECK_NOT_OWNER, OBJECT_MATVIEW, get_rel_name(relid));
	if (!row->complete)
		ereport(ERROR,
				(errcode(ERRCODE_PENSTOCK_HISTORY_GONE),
				 errmsg("continuous view \"%s\" cannot be compared with its query",
						get_rel_name(relid)),
				 errdetail("Events that it has counted were removed since, or it was made with penstock.backfill = off.")));

	penstock_run_as_begin(&run, owner_of(relid), row->settings);
	SPI_connect();
	whole = visible_position(relid, &seen);
	if (whole)
		result = count_differences(relid, seen);
	SPI_finish();
	penstock_run_as_end(&run);
	if (!whole)
		PG_RETURN_NULL();
	PG_RETURN_INT64(result);
}
