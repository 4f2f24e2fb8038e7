/*
 * chunk_types.c
 *	  What the codec knows of types: in which order their values are.
 */
#include "postgres.h"

#include "access/transam.h"
#include "catalog/pg_type.h"
#include "utils/float.h"
#include "utils/lsyscache.h"

#include "stream/chunk_private.h"

static PenstockOrder
known_order(Oid type, bool *is_float)
{
	*is_float = false;
	switch (type)
	{
		case INT2OID:
		case INT4OID:
		case INT8OID:
		case DATEOID:
		case TIMEOID:
		case TIMESTAMPOID:
		case TIMESTAMPTZOID:
		case CASHOID:
			return PENSTOCK_ORDER_SIGNED;
		case BOOLOID:
		case CHAROID:
		case OIDOID:
		case XID8OID:
		case PG_LSNOID:
		case REGPROCOID:
		case REGPROCEDUREOID:
		case REGOPEROID:
		case REGOPERATOROID:
		case REGCLASSOID:
		case REGCOLLATIONOID:
		case REGTYPEOID:
		case REGROLEOID:
		case REGNAMESPACEOID:
		case REGCONFIGOID:
		case REGDICTIONARYOID:
			return PENSTOCK_ORDER_UNSIGNED;
		case FLOAT4OID:
		case FLOAT8OID:
			*is_float = true;
			return PENSTOCK_ORDER_FLOAT;
		default:
			return PENSTOCK_ORDER_NONE;
	}
}

/*
 * penstock_type_order(type, is_float): how the type's default btree operator class orders
 * values that are passed by value; a domain as its base type.  NONE for types it does not know.
 */
PenstockOrder
penstock_type_order(Oid type, bool *is_float)
{
	PenstockOrder order = known_order(type, is_float);

	if (order == PENSTOCK_ORDER_NONE && type >= FirstGenbkiObjectId)
		order = known_order(getBaseType(type), is_float);
	return order;
}

static inline double
float_from(int64 bits, int width)
{
	if (width == 4)
	{
		int32		low = (int32) bits;
		float		f;

		memcpy(&f, &low, 4);
		return f;
	}
	else
	{
		double		d;

		memcpy(&d, &bits, 8);
		return d;
	}
}

/* as btree orders floats: NaN is greater than everything and equal to itself */
static void
float_minmax(const int64 *values, int n, int width, int64 *min, int64 *max)
{
	double		low = 0;
	double		high = 0;
	bool		any = false;
	bool		nan = false;

	for (int i = 0; i < n; i++)
	{
		double		v = float_from(values[i], width);

		if (v != v)
		{
			nan = true;
			continue;
		}
		if (!any || v < low)
			low = v;
		if (!any || v > high)
			high = v;
		any = true;
	}
	if (nan)
		high = get_float8_nan();
	if (!any)
		low = high;
	memcpy(min, &low, 8);
	memcpy(max, &high, 8);
}

/*
 * penstock_minmax_compute(values, n, order, width, min, max)
 *
 * Minimum and maximum of n > 0 sign-extended values.  Unsigned ones come out without the
 * extension, floats as the bits of a double.
 */
void
penstock_minmax_compute(const int64 *values, int n, PenstockOrder order, int width,
						int64 *min, int64 *max)
{
	if (order == PENSTOCK_ORDER_FLOAT)
		float_minmax(values, n, width, min, max);
	else if (order == PENSTOCK_ORDER_SIGNED)
	{
		int64		low = values[0];
		int64		high = values[0];

		for (int i = 1; i < n; i++)
		{
			low = Min(low, values[i]);
			high = Max(high, values[i]);
		}
		*min = low;
		*max = high;
	}
	else
	{
		uint64		mask = width == 8 ? PG_UINT64_MAX : (UINT64CONST(1) << (width * 8)) - 1;
		uint64		low = (uint64) values[0] & mask;
		uint64		high = low;

		for (int i = 1; i < n; i++)
		{
			uint64		v = (uint64) values[i] & mask;

			low = Min(low, v);
			high = Max(high, v);
		}
		*min = (int64) low;
		*max = (int64) high;
	}
}
