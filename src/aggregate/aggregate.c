/*
 * aggregate.c
 *	  Combining and finishing aggregate states outside of an Agg node.
 *
 * Support functions are called as the executor calls them: in an aggregate context (an AggState whose
 * current aggregate context is the caller's), with the strictness rules of CREATE AGGREGATE.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/objectaccess.h"
#include "catalog/pg_aggregate.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "executor/nodeAgg.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "nodes/execnodes.h"
#include "nodes/nodeFuncs.h"
#include "parser/parse_agg.h"
#include "utils/acl.h"
#include "utils/datum.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"

#include "aggregate/aggregate.h"
#include "compat/compat.h"

/*
 * penstock_aggregate_context makes the call context the support functions expect.
 */
Node *
penstock_aggregate_context(MemoryContext context)
{
	AggState   *state = makeNode(AggState);
	ExprContext *econtext = makeNode(ExprContext);

	econtext->ecxt_per_query_memory = context;
	econtext->ecxt_per_tuple_memory = context;
	state->curaggcontext = econtext;
	state->tmpcontext = econtext;
	/* what AggStateIsShared looks at, for the one aggregate that is at work: yes, leave the state alone */
	state->pertrans = palloc0(sizeof(AggStatePerTransData));
	state->pertrans->aggshared = true;
	return (Node *) state;
}

static void
check_function(Oid function, Oid user, ObjectType type)
{
	AclResult	acl;

	if (!OidIsValid(function))
		return;
	acl = object_aclcheck(ProcedureRelationId, function, user, ACL_EXECUTE);
	if (acl != ACLCHECK_OK)
		aclcheck_error(acl, type, get_func_name(function));
	InvokeFunctionExecuteHook(function);
}

/*
 * penstock_aggregate_check_permission: see aggregate.h.
 */
void
penstock_aggregate_check_permission(Aggref *ref)
{
	HeapTuple	tuple;
	Form_pg_aggregate form;
	Oid			owner;

	check_function(ref->aggfnoid, GetUserId(), OBJECT_AGGREGATE);
	tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(ref->aggfnoid));
	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for function %u", ref->aggfnoid);
	owner = ((Form_pg_proc) GETSTRUCT(tuple))->proowner;
	ReleaseSysCache(tuple);

	tuple = SearchSysCache1(AGGFNOID, ObjectIdGetDatum(ref->aggfnoid));
	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for aggregate %u", ref->aggfnoid);
	form = (Form_pg_aggregate) GETSTRUCT(tuple);
	check_function(form->aggtransfn, owner, OBJECT_FUNCTION);
	check_function(form->aggfinalfn, owner, OBJECT_FUNCTION);
	check_function(form->aggcombinefn, owner, OBJECT_FUNCTION);
	check_function(form->aggserialfn, owner, OBJECT_FUNCTION);
	check_function(form->aggdeserialfn, owner, OBJECT_FUNCTION);
	ReleaseSysCache(tuple);
}

/*
 * penstock_aggregate_init looks up those support functions that ref's aggregate has; the result's memory is the
 * current context.
 */
void
penstock_aggregate_init(PenstockAggregate *agg, Aggref *ref)
{
	HeapTuple	tuple = SearchSysCache1(AGGFNOID, ObjectIdGetDatum(ref->aggfnoid));
	Form_pg_aggregate form;
	Oid			input_types[FUNC_MAX_ARGS];
	int			ninputs = get_aggregate_argtypes(ref, input_types);
	Expr	   *expr;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for aggregate %u", ref->aggfnoid);
	form = (Form_pg_aggregate) GETSTRUCT(tuple);

	memset(agg, 0, sizeof(*agg));
	agg->aggfnoid = ref->aggfnoid;
	agg->transtype = resolve_aggregate_transtype(ref->aggfnoid, form->aggtranstype,
												 input_types, ninputs);
	agg->internal = agg->transtype == INTERNALOID;
	agg->storetype = agg->internal ? BYTEAOID : agg->transtype;
	get_typlenbyvalalign(agg->storetype, &agg->store_len, &agg->store_byval, &agg->store_align);
	agg->resulttype = ref->aggtype;
	agg->collation = ref->inputcollid;

	if (OidIsValid(form->aggcombinefn))
	{
		build_aggregate_transfn_expr(&agg->transtype, 1, 0, false, agg->transtype,
									 agg->collation, form->aggcombinefn, InvalidOid, &expr, NULL);
		fmgr_info(form->aggcombinefn, &agg->combine);
		fmgr_info_set_expr((Node *) expr, &agg->combine);
	}
	if (agg->internal && OidIsValid(form->aggserialfn))
	{
		build_aggregate_serialfn_expr(form->aggserialfn, &expr);
		fmgr_info(form->aggserialfn, &agg->serialize);
		fmgr_info_set_expr((Node *) expr, &agg->serialize);
		build_aggregate_deserialfn_expr(form->aggdeserialfn, &expr);
		fmgr_info(form->aggdeserialfn, &agg->deserialize);
		fmgr_info_set_expr((Node *) expr, &agg->deserialize);
	}

	if (OidIsValid(form->aggfinalfn))
	{
		agg->has_final = true;
		agg->final_writes = form->aggfinalmodify != AGGMODIFY_READ_ONLY;
		agg->final_nargs = form->aggfinalextra ? ninputs + 1 : 1;
		build_aggregate_finalfn_expr(input_types, agg->final_nargs, agg->transtype,
									 agg->resulttype, agg->collation, form->aggfinalfn, &expr);
		fmgr_info(form->aggfinalfn, &agg->final);
		fmgr_info_set_expr((Node *) expr, &agg->final);
	}
	ReleaseSysCache(tuple);

	agg->peragg = palloc0(sizeof(AggStatePerAggData));
	agg->peragg->aggref = ref;
}

static Datum
call(FmgrInfo *fn, Node *context, Oid collation, int nargs, const NullableDatum *args, bool *isnull)
{
	LOCAL_FCINFO(fcinfo, FUNC_MAX_ARGS);
	Datum		result;

	InitFunctionCallInfoData(*fcinfo, fn, nargs, collation, context, NULL);
	memcpy(fcinfo->args, args, sizeof(NullableDatum) * nargs);
	result = FunctionCallInvoke(fcinfo);
	*isnull = fcinfo->isnull;
	return result;
}

/* From the stored form of a state to the one the functions work on. */
static Datum
load_state(PenstockAggregate *agg, Node *context, Datum state, bool *isnull)
{
	NullableDatum args[2] = {{state, *isnull}, {(Datum) 0, false}};

	if (*isnull && agg->deserialize.fn_strict)
		return (Datum) 0;
	/* functions that never met a stored value may read a plain one only */
	if (!*isnull)
		args[0].value = PointerGetDatum(PG_DETOAST_DATUM(state));
	return call(&agg->deserialize, context, InvalidOid, 2, args, isnull);
}

/*
 * penstock_aggregate_combine adds a partial state to *state, both in stored form.  "context" is an AggState
 * whose curaggcontext holds what is allocated, the result included.  *state may be changed in place.
 */
void
penstock_aggregate_combine(PenstockAggregate *agg, Node *context, Datum *state, bool *isnull,
						   Datum partial, bool partial_null)
{
	NullableDatum args[2];
	Datum		result;
	bool		result_null = *isnull;

	if (agg->internal)
	{
		bool		left_null = *isnull;

		args[0].value = load_state(agg, context, *state, &left_null);
		args[0].isnull = left_null;
		args[1].value = load_state(agg, context, partial, &partial_null);
		args[1].isnull = partial_null;
	}
	else
	{
		/* some functions work in place: never on a tuple in a buffer */
		args[0].value = *isnull || agg->store_byval ? *state :
			datumCopy(*state, false, agg->store_len);
		args[0].isnull = *isnull;
		args[1].value = partial;
		args[1].isnull = partial_null;
	}

	if (agg->combine.fn_strict && (args[0].isnull || args[1].isnull))
	{
		if (args[1].isnull)
			return;
		*state = partial;
		*isnull = false;
		return;
	}

	result = call(&agg->combine, context, agg->collation, 2, args, &result_null);
	/* two empty states combine to a null pointer that is not said to be NULL */
	if (agg->internal && DatumGetPointer(result) == NULL)
		result_null = true;
	if (agg->internal && !(result_null && agg->serialize.fn_strict))
	{
		NullableDatum arg = {result, result_null};

		result = call(&agg->serialize, context, InvalidOid, 1, &arg, &result_null);
	}
	*state = result;
	*isnull = result_null;
}

/*
 * penstock_aggregate_final computes the aggregate's value from a state.
 */
void
penstock_aggregate_final(PenstockAggregate *agg, Node *context, bool loaded, Datum state,
						 bool isnull, Datum *result, bool *result_null)
{
	NullableDatum args[FUNC_MAX_ARGS];

	*result = state;
	*result_null = isnull;
	if (agg->internal && !loaded)
		*result = load_state(agg, context, state, result_null);
	if (!agg->has_final)
		return;

	if (agg->final_writes && !agg->internal && !*result_null)
		*result = datumCopy(*result, agg->store_byval, agg->store_len);
	args[0].value = *result;
	args[0].isnull = *result_null;
	for (int i = 1; i < agg->final_nargs; i++)
	{
		args[i].value = (Datum) 0;
		args[i].isnull = true;
	}
	*result_null = true;
	*result = (Datum) 0;
	if (agg->final.fn_strict && (args[0].isnull || agg->final_nargs > 1))
		return;
	castNode(AggState, context)->curperagg = agg->peragg;
	*result = call(&agg->final, context, agg->collation, agg->final_nargs, args, result_null);
	castNode(AggState, context)->curperagg = NULL;
}
