/*
 * view_explain.c
 *	  penstock.explain(view): how a view is kept.
 */
#include "postgres.h"

#include "commands/explain.h"
#include "executor/executor.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/snapmgr.h"
#include "utils/tuplestore.h"

#include "compat/compat.h"
#include "view/view_internal.h"

PG_FUNCTION_INFO_V1(penstock_explain);

static void
put_line(ReturnSetInfo *result, const char *line)
{
	Datum		value = CStringGetTextDatum(line);
	bool		isnull = false;

	tuplestore_putvalues(result->setResult, result->setDesc, &value, &isnull);
}

static void
put_plan(ReturnSetInfo *result, PenstockView *view, double rows)
{
	char	   *text = penstock_explain_plan(penstock_view_plan(view, rows));
	char	   *line;

	while ((line = strsep(&text, "\n")) != NULL)
		if (*line)
			put_line(result, psprintf("  %s", line));
}

/*
 * penstock.explain(view regclass, events bigint) → setof text: strategy, state, streams, and the plan that runs
 * for a delta of so many events.  Requires SELECT on the view.
 */
Datum
penstock_explain(PG_FUNCTION_ARGS)
{
	Oid			relid = PG_GETARG_OID(0);
	double		rows = (double) PG_GETARG_INT64(1);
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	AclResult	acl = pg_class_aclcheck(relid, GetUserId(), ACL_SELECT);
	PenstockView *view;
	PenstockRunAs run;
	ListCell   *lc;

	if (rows < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("number of events must not be negative")));
	if (acl != ACLCHECK_OK)
		aclcheck_error(acl, OBJECT_MATVIEW, get_rel_name(relid));
	if (penstock_registry_get(relid) == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("\"%s\" is not an active continuous view", get_rel_name(relid)),
				 errhint("A view made WITH NO DATA is started by REFRESH MATERIALIZED VIEW.")));
	InitMaterializedSRF(fcinfo, MAT_SRF_USE_EXPECTED_DESC);
	view = penstock_view_prepare(relid, AccessShareLock, false);
	if (view->shape->strategy == PENSTOCK_STRATEGY_GROUP)
	{
		put_line(result, psprintf("Strategy: group, %d keys, %d aggregate states",
								  view->shape->nkeys, view->shape->naggs));
		put_line(result, psprintf("State: penstock.%s", get_rel_name(view->row.state)));
	}
	else
		put_line(result, "Strategy: append");
	foreach(lc, view->streams)
		put_line(result, psprintf("Stream: %s", get_rel_name(lfirst_oid(lc))));
	put_line(result, psprintf("Plan for %.0f events:", rows));

	penstock_run_as_begin(&run, view->owner, view->row.settings);
	put_plan(result, view, rows);
	penstock_run_as_end(&run);
	return (Datum) 0;
}
