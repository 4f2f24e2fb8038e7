/*
 * vector_kernel.c
 *	  Aggregate transitions over a chunk's rows.
 *
 * Common aggregates over numbers and times have loops of their own; every other one is advanced by its transition
 * function, as nodeAgg does it.  The states that come out are those of the aggregate's declared
 * transition type, serialised where that is internal.
 */
#include "postgres.h"

#include <math.h>

#include "access/htup_details.h"
#include "access/transam.h"
#include "catalog/pg_aggregate.h"
#include "catalog/pg_type.h"
#include "executor/nodeAgg.h"
#include "fmgr.h"
#include "nodes/execnodes.h"
#include "parser/parse_agg.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/expandeddatum.h"
#include "utils/float.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/syscache.h"

#include "vector/vector_internal.h"

typedef enum Kernel
{
	KERNEL_COUNT,				/* of rows, or of values that are not NULL */
	KERNEL_SUM_INT,				/* int8 */
	KERNEL_AVG_INT,				/* int8[2]: count, sum */
	KERNEL_AVG_FLOAT,			/* float8[3]: N, Sx, and Sxx which avg does not use */
	KERNEL_VAR_FLOAT,			/* float8[3]: N, Sx, Sxx */
	KERNEL_SUM_FLOAT,
	KERNEL_MIN_INT,
	KERNEL_MAX_INT,
	KERNEL_GENERIC
} Kernel;

typedef struct KernelState
{
	int64		n;				/* values so far; generic: 0 while there is no state */
	union
	{
		int64		i;
		double		f;
		Datum		d;
	}			v;
	double		sxx;
	bool		isnull;			/* generic: the state is NULL */
} KernelState;

struct VectorAggregate
{
	Kernel		kernel;
	MemoryContext context;		/* holds states and what they point to */
	MemoryContext row_context;	/* generic: reset for each row */
	Oid			argtype;
	KernelState *states;
	uint32		nstates;
	uint32		capacity;
	/* generic */
	int			nargs;
	FmgrInfo	transition;
	FmgrInfo	serialize;
	Oid			collation;
	bool		internal;
	int16		translen;
	bool		transbyval;
	Datum		initial;
	bool		initial_null;
	Node	   *agg_context;
};

/*
 * The loop for a transition function, with the final function telling avg from variance.  Aggregates that
 * somebody made of the same functions may start elsewhere: these are generic.  "shared": another
 * aggregate uses the same state, so a variance's must be complete in avg's too.
 */
static Kernel
choose_kernel(Form_pg_aggregate form, bool shared)
{
	if (form->aggfnoid >= FirstNormalObjectId)
		return KERNEL_GENERIC;
	switch (form->aggtransfn)
	{
		case F_INT8INC:
		case F_INT8INC_ANY:
			return KERNEL_COUNT;
		case F_INT2_SUM:
		case F_INT4_SUM:
			return KERNEL_SUM_INT;
		case F_INT2_AVG_ACCUM:
		case F_INT4_AVG_ACCUM:
			return KERNEL_AVG_INT;
		case F_FLOAT4_ACCUM:
		case F_FLOAT8_ACCUM:
			return form->aggfinalfn == F_FLOAT8_AVG && !shared ? KERNEL_AVG_FLOAT : KERNEL_VAR_FLOAT;
		case F_FLOAT8PL:
			return KERNEL_SUM_FLOAT;
		case F_INT2SMALLER:
		case F_INT4SMALLER:
		case F_INT8SMALLER:
		case F_DATE_SMALLER:
		case F_TIMESTAMP_SMALLER:
		case F_TIMESTAMPTZ_SMALLER:
			return KERNEL_MIN_INT;
		case F_INT2LARGER:
		case F_INT4LARGER:
		case F_INT8LARGER:
		case F_DATE_LARGER:
		case F_TIMESTAMP_LARGER:
		case F_TIMESTAMPTZ_LARGER:
			return KERNEL_MAX_INT;
		default:
			return KERNEL_GENERIC;
	}
}

static void
init_generic(VectorAggregate *agg, Aggref *ref, HeapTuple tuple, Form_pg_aggregate form)
{
	Oid			input_types[FUNC_MAX_ARGS];
	int			ninputs = get_aggregate_argtypes(ref, input_types);
	Expr	   *expr;
	Datum		initval;
	AggState   *state = makeNode(AggState);
	ExprContext *econtext = makeNode(ExprContext);

	econtext->ecxt_per_query_memory = agg->context;
	econtext->ecxt_per_tuple_memory = agg->context;
	state->curaggcontext = econtext;
	state->tmpcontext = econtext;
	/* for AggGetAggref */
	state->curpertrans = palloc0(sizeof(AggStatePerTransData));
	state->curpertrans->aggref = ref;
	state->curpertrans->aggshared = true;
	agg->agg_context = (Node *) state;

	agg->internal = ref->aggtranstype == INTERNALOID && OidIsValid(form->aggserialfn);
	get_typlenbyval(ref->aggtranstype, &agg->translen, &agg->transbyval);
	build_aggregate_transfn_expr(input_types, ninputs, 0, ref->aggvariadic, ref->aggtranstype,
								 ref->inputcollid, form->aggtransfn, InvalidOid, &expr, NULL);
	fmgr_info(form->aggtransfn, &agg->transition);
	fmgr_info_set_expr((Node *) expr, &agg->transition);
	if (agg->internal)
	{
		build_aggregate_serialfn_expr(form->aggserialfn, &expr);
		fmgr_info(form->aggserialfn, &agg->serialize);
		fmgr_info_set_expr((Node *) expr, &agg->serialize);
	}

	initval = SysCacheGetAttr(AGGFNOID, tuple, Anum_pg_aggregate_agginitval, &agg->initial_null);
	if (!agg->initial_null)
	{
		Oid			input;
		Oid			param;

		getTypeInputInfo(ref->aggtranstype, &input, &param);
		agg->initial = OidInputFunctionCall(input, TextDatumGetCString(initval), param, -1);
	}
}

/*
 * penstock_kernel_supports: can ref, an aggregate of a partial plan, be advanced here?
 */
bool
penstock_kernel_supports(Aggref *ref)
{
	return ref->aggkind == AGGKIND_NORMAL && ref->aggdistinct == NIL && ref->aggorder == NIL &&
		list_length(ref->args) < FUNC_MAX_ARGS;
}

/*
 * penstock_kernel_create: see vector_internal.h.
 */
VectorAggregate *
penstock_kernel_create(MemoryContext context, Aggref *ref, bool shared)
{
	MemoryContext old = MemoryContextSwitchTo(context);
	VectorAggregate *agg = palloc0(sizeof(VectorAggregate));
	HeapTuple	tuple = SearchSysCache1(AGGFNOID, ObjectIdGetDatum(ref->aggfnoid));
	Form_pg_aggregate form;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for aggregate %u", ref->aggfnoid);
	form = (Form_pg_aggregate) GETSTRUCT(tuple);
	agg->context = context;
	agg->kernel = choose_kernel(form, shared);
	agg->nargs = list_length(ref->args);
	agg->collation = ref->inputcollid;
	agg->argtype = agg->nargs > 0 ? getBaseType(linitial_oid(ref->aggargtypes)) : InvalidOid;
	agg->capacity = 64;
	agg->states = palloc(sizeof(KernelState) * agg->capacity);
	if (agg->kernel == KERNEL_GENERIC)
	{
		init_generic(agg, ref, tuple, form);
		agg->row_context = AllocSetContextCreate(context, "Penstock aggregate row",
												 ALLOCSET_DEFAULT_SIZES);
	}
	ReleaseSysCache(tuple);
	MemoryContextSwitchTo(old);
	return agg;
}

/*
 * penstock_kernel_grow gives groups nstates .. ngroups - 1 their initial states.
 */
void
penstock_kernel_grow(VectorAggregate *agg, uint32 ngroups)
{
	MemoryContext old;

	if (ngroups > agg->capacity)
	{
		while (ngroups > agg->capacity)
			agg->capacity *= 2;
		agg->states = repalloc_huge(agg->states, sizeof(KernelState) * (Size) agg->capacity);
	}
	if (ngroups <= agg->nstates)
		return;
	memset(&agg->states[agg->nstates], 0, sizeof(KernelState) * (Size) (ngroups - agg->nstates));
	if (agg->kernel == KERNEL_GENERIC)
	{
		old = MemoryContextSwitchTo(agg->context);
		for (uint32 i = agg->nstates; i < ngroups; i++)
		{
			KernelState *state = &agg->states[i];

			state->isnull = agg->initial_null;
			if (!agg->initial_null)
			{
				state->n = 1;
				state->v.d = datumCopy(agg->initial, agg->transbyval, agg->translen);
			}
		}
		MemoryContextSwitchTo(old);
	}
	agg->nstates = ngroups;
}

static inline int64
get_int(Oid type, Datum value)
{
	switch (type)
	{
		case INT2OID:
			return DatumGetInt16(value);
		case INT4OID:
		case DATEOID:
			return DatumGetInt32(value);
		default:
			return DatumGetInt64(value);
	}
}

static inline double
get_float(Oid type, Datum value)
{
	return type == FLOAT4OID ? (double) DatumGetFloat4(value) : DatumGetFloat8(value);
}

/* a sum that overflows is an error, unless infinity went in (float.c) */
static inline double
add_floats(double a, double b)
{
	double		result = a + b;

	if (unlikely(isinf(result)) && !isinf(a) && !isinf(b))
		float_overflow_error();
	return result;
}

/* Youngs and Cramer's update, as float8_accum */
static inline void
accumulate(KernelState *state, double value)
{
	double		old_sum = state->v.f;

	state->n++;
	state->v.f = old_sum + value;
	if (state->n > 1)
	{
		double		tmp = value * state->n - state->v.f;

		state->sxx += tmp * tmp / ((double) state->n * (state->n - 1));
		if (unlikely(isinf(state->v.f) || isinf(state->sxx)))
		{
			if (!isinf(old_sum) && !isinf(value))
				float_overflow_error();
			state->sxx = get_float8_nan();
		}
	}
	else if (isnan(value) || isinf(value))
		state->sxx = get_float8_nan();
}

/* One row of an aggregate without a loop of its own; args may hold NULLs. */
static void
advance_generic(VectorAggregate *agg, KernelState *state, PenstockVector *args, uint32 row)
{
	LOCAL_FCINFO(fcinfo, FUNC_MAX_ARGS);
	MemoryContext old;
	Datum		result;

	InitFunctionCallInfoData(*fcinfo, &agg->transition, agg->nargs + 1, agg->collation,
							 agg->agg_context, NULL);
	for (int i = 0; i < agg->nargs; i++)
	{
		fcinfo->args[i + 1].isnull = args[i].isnull && args[i].isnull[row];
		fcinfo->args[i + 1].value = args[i].values[row];
		if (agg->transition.fn_strict && fcinfo->args[i + 1].isnull)
			return;
	}
	if (agg->transition.fn_strict)
	{
		if (state->n == 0)
		{
			/* the first value is the state */
			old = MemoryContextSwitchTo(agg->context);
			state->v.d = datumCopy(fcinfo->args[1].value, agg->transbyval, agg->translen);
			state->n = 1;
			state->isnull = false;
			MemoryContextSwitchTo(old);
			return;
		}
		if (state->isnull)
			return;
	}
	fcinfo->args[0].value = state->v.d;
	fcinfo->args[0].isnull = state->isnull;

	old = MemoryContextSwitchTo(agg->row_context);
	result = FunctionCallInvoke(fcinfo);
	if (!agg->transbyval && DatumGetPointer(result) != DatumGetPointer(state->v.d))
	{
		bool		owned = false;

		if (!fcinfo->isnull)
		{
			owned = DatumIsReadWriteExpandedObject(result, false, agg->translen) &&
				MemoryContextGetParent(DatumGetEOHP(result)->eoh_context) == agg->context;
			if (!owned)
			{
				MemoryContextSwitchTo(agg->context);
				result = datumCopy(result, agg->transbyval, agg->translen);
			}
		}
		if (!state->isnull)
		{
			if (DatumIsReadWriteExpandedObject(state->v.d, false, agg->translen))
				DeleteExpandedObject(state->v.d);
			else
				pfree(DatumGetPointer(state->v.d));
		}
	}
	state->v.d = result;
	state->isnull = fcinfo->isnull;
	state->n = 1;
	MemoryContextSwitchTo(old);
	MemoryContextReset(agg->row_context);
}

/* Runs "statement" with "state" and "row" for each row that counts. */
#define FOR_ROWS(statement) \
	for (int i = 0; i < n; i++) \
	{ \
		uint32		row = vector_row(chunk, i); \
		KernelState *state = &states[group_of[i]]; \
		if (isnull && isnull[row]) \
			continue; \
		statement; \
	}

/*
 * penstock_kernel_advance: see vector_internal.h.
 */
void
penstock_kernel_advance(VectorAggregate *agg, VectorChunk *chunk, PenstockVector *args,
						const uint32 *group_of)
{
	KernelState *states = agg->states;
	int			n = chunk->nselected;
	Oid			type = agg->argtype;
	const bool *isnull = agg->nargs > 0 && agg->kernel != KERNEL_GENERIC ? args[0].isnull : NULL;
	const Datum *values = agg->nargs > 0 ? args[0].values : NULL;

	switch (agg->kernel)
	{
		case KERNEL_COUNT:
			if (isnull == NULL)
				for (int i = 0; i < n; i++)
					states[group_of[i]].n++;
			else
				FOR_ROWS(state->n++);
			break;
		case KERNEL_SUM_INT:
		case KERNEL_AVG_INT:
			FOR_ROWS((state->n++, state->v.i += get_int(type, values[row])));
			break;
		case KERNEL_AVG_FLOAT:
			FOR_ROWS((state->n++, state->v.f = add_floats(state->v.f, get_float(type, values[row]))));
			break;
		case KERNEL_SUM_FLOAT:
			/* the first value is the state, for -0 and 0 + -0 differ */
			FOR_ROWS((state->v.f = state->n++ == 0 ? get_float(type, values[row]) :
					  add_floats(state->v.f, get_float(type, values[row]))));
			break;
		case KERNEL_VAR_FLOAT:
			FOR_ROWS(accumulate(state, get_float(type, values[row])));
			break;
		case KERNEL_MIN_INT:
			FOR_ROWS(if (state->n++ == 0 || get_int(type, values[row]) < state->v.i)
					 state->v.i = get_int(type, values[row]));
			break;
		case KERNEL_MAX_INT:
			FOR_ROWS(if (state->n++ == 0 || get_int(type, values[row]) > state->v.i)
					 state->v.i = get_int(type, values[row]));
			break;
		case KERNEL_GENERIC:
			FOR_ROWS(advance_generic(agg, state, args, row));
			break;
	}
}

static Datum
int_datum(Oid type, int64 value)
{
	return type == INT2OID ? Int16GetDatum((int16) value) :
		type == INT4OID || type == DATEOID ? Int32GetDatum((int32) value) : Int64GetDatum(value);
}

static Datum
float_array(double n, double sx, double sxx)
{
	Datum		elems[3] = {Float8GetDatum(n), Float8GetDatum(sx), Float8GetDatum(sxx)};

	return PointerGetDatum(construct_array(elems, 3, FLOAT8OID, sizeof(float8), FLOAT8PASSBYVAL,
										   TYPALIGN_DOUBLE));
}

static Datum
int_array(int64 n, int64 sum)
{
	Datum		elems[2] = {Int64GetDatum(n), Int64GetDatum(sum)};

	return PointerGetDatum(construct_array(elems, 2, INT8OID, sizeof(int64), FLOAT8PASSBYVAL,
										   TYPALIGN_DOUBLE));
}

/*
 * penstock_kernel_state gives a group's state, allocated in the current context or the aggregate's.
 */
void
penstock_kernel_state(VectorAggregate *agg, uint32 group, Datum *value, bool *isnull)
{
	KernelState *state = &agg->states[group];

	*isnull = false;
	switch (agg->kernel)
	{
		case KERNEL_COUNT:
			*value = Int64GetDatum(state->n);
			break;
		case KERNEL_SUM_INT:
			*isnull = state->n == 0;
			*value = Int64GetDatum(state->v.i);
			break;
		case KERNEL_AVG_INT:
			*value = int_array(state->n, state->v.i);
			break;
		case KERNEL_AVG_FLOAT:
			*value = float_array((double) state->n, state->v.f, 0);
			break;
		case KERNEL_VAR_FLOAT:
			*value = float_array((double) state->n, state->v.f, state->sxx);
			break;
		case KERNEL_SUM_FLOAT:
			*isnull = state->n == 0;
			*value = Float8GetDatum(state->v.f);
			break;
		case KERNEL_MIN_INT:
		case KERNEL_MAX_INT:
			*isnull = state->n == 0;
			*value = int_datum(agg->argtype, state->v.i);
			break;
		case KERNEL_GENERIC:
			*isnull = state->isnull;
			*value = state->v.d;
			break;
	}
}

/*
 * penstock_kernel_result: see vector_internal.h.
 */
void
penstock_kernel_result(VectorAggregate *agg, uint32 group, Datum *value, bool *isnull)
{
	LOCAL_FCINFO(fcinfo, 1);

	penstock_kernel_state(agg, group, value, isnull);
	if (!agg->internal || (*isnull && agg->serialize.fn_strict))
		return;
	InitFunctionCallInfoData(*fcinfo, &agg->serialize, 1, InvalidOid, agg->agg_context, NULL);
	fcinfo->args[0].value = *value;
	fcinfo->args[0].isnull = *isnull;
	*value = FunctionCallInvoke(fcinfo);
	*isnull = fcinfo->isnull;
}
