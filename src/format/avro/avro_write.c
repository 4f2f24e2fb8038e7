/*
 * avro_write.c
 *	  SQL values as Avro.
 *
 * As in reading, the schema and the column's type decide together; where there is no direct way, the value goes through its text.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/date.h"
#include "utils/fmgrprotos.h"
#include "utils/lsyscache.h"
#include "utils/numeric.h"
#include "utils/timestamp.h"
#include "utils/uuid.h"

#include "format/avro/avro.h"

/* ---- unions ---- */

/* How well a type suits a branch; 0: not at all. */
static int
suits(const AvroSchema *schema, const AvroTarget *target)
{
	AvroType	type = schema->type;
	AvroLogical logical = schema->logical;
	bool		is_plain = logical == AVRO_PLAIN;
	int			as_text = type == AVRO_STRING ? 1 : 0;

	switch (target->shape)
	{
		case AVRO_TO_BYTEA:
			return type == AVRO_BYTES && is_plain ? 3 : type == AVRO_FIXED && is_plain ? 2 : 0;
		case AVRO_TO_NUMERIC:
			return logical == AVRO_DECIMAL ? 3 : type == AVRO_DOUBLE || type == AVRO_FLOAT ? 2 : as_text;
		case AVRO_TO_INTERVAL:
			return logical == AVRO_DURATION ? 3 : as_text;
		case AVRO_TO_ARRAY:
			return type == AVRO_ARRAY ? 3 : as_text;
		case AVRO_TO_COMPOSITE:
			return type == AVRO_RECORD ? 3 : as_text;
		default:
			break;
	}
	switch (target->kind)
	{
		case PENSTOCK_VALUE_BOOL:
			return type == AVRO_BOOLEAN ? 3 : as_text;
		case PENSTOCK_VALUE_INT2:
		case PENSTOCK_VALUE_INT4:
			if (is_plain && type == AVRO_INT)
				return 4;
			/* fall through */
		case PENSTOCK_VALUE_INT8:
			if (is_plain && (type == AVRO_LONG || type == AVRO_INT))
				return type == AVRO_LONG ? 3 : 2;
			return type == AVRO_DOUBLE || type == AVRO_FLOAT || logical == AVRO_DECIMAL ? 2 : as_text;
		case PENSTOCK_VALUE_FLOAT4:
			return type == AVRO_FLOAT ? 3 : type == AVRO_DOUBLE ? 2 : as_text;
		case PENSTOCK_VALUE_FLOAT8:
			return type == AVRO_DOUBLE ? 3 : type == AVRO_FLOAT ? 2 : as_text;
		case PENSTOCK_VALUE_DATE:
			return logical == AVRO_DATE ? 3 : as_text;
		case PENSTOCK_VALUE_TIME:
			return logical == AVRO_TIME_MICROS ? 3 : logical == AVRO_TIME_MILLIS ? 2 : as_text;
		case PENSTOCK_VALUE_TIMESTAMP:
			return logical == AVRO_LOCAL_MICROS ? 4 : logical == AVRO_LOCAL_MILLIS ? 3 :
				logical == AVRO_TIMESTAMP_MICROS || logical == AVRO_TIMESTAMP_MILLIS ? 2 : as_text;
		case PENSTOCK_VALUE_TIMESTAMPTZ:
			return logical == AVRO_TIMESTAMP_MICROS ? 4 : logical == AVRO_TIMESTAMP_MILLIS ? 3 : as_text;
		case PENSTOCK_VALUE_UUID:
			return logical == AVRO_UUID ? 3 : type == AVRO_FIXED && schema->size == UUID_LEN ? 2 : as_text;
		default:
			return type == AVRO_STRING ? 3 : type == AVRO_ENUM ? 2 : type == AVRO_BYTES && is_plain ? 1 : 0;
	}
}

static int
branch_for(const AvroSchema *schema, const AvroTarget *target)
{
	int			best = -1;
	int			best_score = 0;

	/* null and one other: whatever that is */
	if (schema->n == 2 && penstock_avro_null_branch(schema) >= 0)
		return 1 - penstock_avro_null_branch(schema);
	for (int i = 0; i < schema->n; i++)
	{
		int			score = suits(schema->branches[i], target);

		if (score > best_score)
		{
			best = i;
			best_score = score;
		}
	}
	if (best < 0)
		penstock_avro_unfit(schema, format_type_be(target->column.type));
	return best;
}

/* ---- scalars ---- */

static void
write_as_text(StringInfo out, AvroSchema *schema, AvroTarget *target, Datum value)
{
	char		buffer[PENSTOCK_VALUE_BUFFER];
	int			length;
	const char *text = penstock_value_to_text(&target->column, target->kind, value, buffer, &length);

	penstock_avro_write_text(out, schema, text, length, AVRO_TEXT_UTF8);
}

static bool
integer_of(const AvroTarget *target, Datum value, int64 *result)
{
	switch (target->kind)
	{
		case PENSTOCK_VALUE_INT2:
			*result = DatumGetInt16(value);
			return true;
		case PENSTOCK_VALUE_INT4:
			*result = DatumGetInt32(value);
			return true;
		case PENSTOCK_VALUE_INT8:
			*result = DatumGetInt64(value);
			return true;
		default:
			return false;
	}
}

static bool
write_time(StringInfo out, const AvroSchema *schema, const AvroTarget *target, Datum value)
{
	AvroLogical logical = schema->logical;
	bool		is_local = logical == AVRO_LOCAL_MILLIS || logical == AVRO_LOCAL_MICROS;

	if (logical == AVRO_DATE && target->kind == PENSTOCK_VALUE_DATE)
		penstock_avro_put_date(out, DatumGetDateADT(value));
	else if (logical == AVRO_TIME_MICROS && target->kind == PENSTOCK_VALUE_TIME)
		penstock_avro_put_long(out, DatumGetTimeADT(value));
	else if (logical == AVRO_TIME_MILLIS && target->kind == PENSTOCK_VALUE_TIME)
		penstock_avro_put_long(out, DatumGetTimeADT(value) / 1000);
	else if (logical >= AVRO_TIMESTAMP_MILLIS && logical <= AVRO_LOCAL_MICROS &&
			 (target->kind == PENSTOCK_VALUE_TIMESTAMP || (target->kind == PENSTOCK_VALUE_TIMESTAMPTZ && !is_local)))
		penstock_avro_put_long(out, penstock_avro_from_timestamp(DatumGetTimestamp(value), logical));
	else if (is_local && target->kind == PENSTOCK_VALUE_TIMESTAMPTZ)
		penstock_avro_put_long(out, penstock_avro_from_timestamp(DatumGetTimestamp(DirectFunctionCall1(timestamptz_timestamp, value)),
																 logical));
	else
		return false;
	return true;
}

static void
write_integer(StringInfo out, AvroSchema *schema, AvroTarget *target, Datum value)
{
	int64		number;

	if (integer_of(target, value, &number))
		penstock_avro_put_number(out, schema, number);
	else if (schema->logical == AVRO_PLAIN || !write_time(out, schema, target, value))
		write_as_text(out, schema, target, value);
}

static void
write_double(StringInfo out, AvroSchema *schema, AvroTarget *target, Datum value)
{
	int64		number;

	if (target->kind == PENSTOCK_VALUE_FLOAT4)
		penstock_avro_put_double(out, schema, DatumGetFloat4(value));
	else if (target->kind == PENSTOCK_VALUE_FLOAT8 && schema->type == AVRO_DOUBLE)
		penstock_avro_put_double(out, schema, DatumGetFloat8(value));
	else if (integer_of(target, value, &number))
		penstock_avro_put_double(out, schema, (double) number);
	else
		write_as_text(out, schema, target, value);
}

static void
write_binary(StringInfo out, AvroSchema *schema, AvroTarget *target, Datum value)
{
	int64		number;

	if (target->shape == AVRO_TO_BYTEA)
	{
		bytea	   *bytes = DatumGetByteaPP(value);

		if (schema->type == AVRO_FIXED)
			penstock_avro_put_fixed(out, schema, VARDATA_ANY(bytes), VARSIZE_ANY_EXHDR(bytes));
		else
			penstock_avro_put_bytes(out, VARDATA_ANY(bytes), VARSIZE_ANY_EXHDR(bytes));
	}
	else if (schema->logical == AVRO_DECIMAL && target->shape == AVRO_TO_NUMERIC)
		penstock_avro_put_decimal(out, DatumGetNumeric(value), schema);
	else if (schema->logical == AVRO_DECIMAL && integer_of(target, value, &number))
		penstock_avro_put_decimal(out, int64_to_numeric(number), schema);
	else if (schema->logical == AVRO_DURATION && target->shape == AVRO_TO_INTERVAL)
		penstock_avro_put_duration(out, DatumGetIntervalP(value));
	else if (schema->type == AVRO_FIXED && target->kind == PENSTOCK_VALUE_UUID)
		penstock_avro_put_fixed(out, schema, DatumGetPointer(value), UUID_LEN);
	else
		write_as_text(out, schema, target, value);
}

/* ---- values with parts ---- */

static void
write_array(StringInfo out, AvroSchema *schema, AvroTarget *target, Datum value)
{
	ArrayType  *array = DatumGetArrayTypeP(value);
	AvroTarget *element = target->element;
	AvroField	item = {.schema = schema->items};
	Datum	   *values;
	bool	   *nulls;
	int			n;

	if (ARR_NDIM(array) > 1)
		penstock_avro_unfit(schema, "an array of several dimensions");
	deconstruct_array(array, ARR_ELEMTYPE(array), element->length, element->byval, element->align, &values, &nulls, &n);
	if (n > 0)
		penstock_avro_put_long(out, n);
	for (int i = 0; i < n; i++)
	{
		if (!nulls[i])
			penstock_avro_write_value(out, schema->items, element, values[i]);
		else if (!penstock_avro_write_nothing(out, &item, true))
			penstock_avro_unfit(schema->items, "a null element");
	}
	penstock_avro_put_long(out, 0);
}

static int
attribute_named(const AvroTarget *target, const char *name)
{
	for (int i = 0; i < target->desc->natts; i++)
		if (!TupleDescAttr(target->desc, i)->attisdropped &&
			strcmp(NameStr(TupleDescAttr(target->desc, i)->attname), name) == 0)
			return i;
	return -1;
}

static void
write_record(StringInfo out, AvroSchema *schema, AvroTarget *target, Datum value)
{
	HeapTupleHeader header = DatumGetHeapTupleHeader(value);
	HeapTupleData tuple = {.t_len = HeapTupleHeaderGetDatumLength(header), .t_data = header};
	int			natts = Max(target->desc->natts, 1);
	Datum	   *values = palloc(natts * sizeof(Datum));
	bool	   *nulls = palloc(natts * sizeof(bool));

	heap_deform_tuple(&tuple, target->desc, values, nulls);
	for (int i = 0; i < schema->n; i++)
	{
		AvroField  *field = &schema->fields[i];
		int			at = attribute_named(target, field->name);

		if (at >= 0 && !nulls[at])
			penstock_avro_write_value(out, field->schema, &target->attributes[at], values[at]);
		else if (!penstock_avro_write_nothing(out, field, at >= 0))
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("field \"%s\" of Avro record \"%s\" needs a value", field->name, schema->name)));
	}
	pfree(values);
	pfree(nulls);
}

static void
write_json(StringInfo out, AvroSchema *schema, AvroTarget *target, Datum value)
{
	Jsonb	   *jsonb;
	JsonbValue	root;

	if (target->shape == AVRO_TO_JSON)
		value = DirectFunctionCall1(jsonb_in, CStringGetDatum(TextDatumGetCString(value)));
	jsonb = DatumGetJsonbP(value);
	if (JB_ROOT_IS_SCALAR(jsonb))
		root = *getIthJsonbValueFromContainer(&jsonb->root, 0);
	else
	{
		root.type = jbvBinary;
		root.val.binary.data = &jsonb->root;
		root.val.binary.len = VARSIZE(jsonb) - VARHDRSZ;
	}
	penstock_avro_write_jsonb(out, schema, &root, AVRO_TEXT_HEX);
}

/*
 * penstock_avro_write_value(out, schema, target, value): the value is not NULL.
 */
void
penstock_avro_write_value(StringInfo out, AvroSchema *schema, AvroTarget *target, Datum value)
{
	check_stack_depth();
	if (target->shape == AVRO_TO_JSON || target->shape == AVRO_TO_JSONB)
	{
		write_json(out, schema, target, value);
		return;
	}
	if (schema->type == AVRO_UNION)
	{
		int			branch = branch_for(schema, target);

		penstock_avro_put_long(out, branch);
		schema = schema->branches[branch];
	}
	switch (schema->type)
	{
		case AVRO_BOOLEAN:
			if (target->kind == PENSTOCK_VALUE_BOOL)
				appendStringInfoChar(out, DatumGetBool(value));
			else
				write_as_text(out, schema, target, value);
			break;
		case AVRO_INT:
		case AVRO_LONG:
			write_integer(out, schema, target, value);
			break;
		case AVRO_FLOAT:
		case AVRO_DOUBLE:
			write_double(out, schema, target, value);
			break;
		case AVRO_BYTES:
		case AVRO_FIXED:
			write_binary(out, schema, target, value);
			break;
		case AVRO_STRING:
		case AVRO_ENUM:
			write_as_text(out, schema, target, value);
			break;
		case AVRO_ARRAY:
			if (target->shape != AVRO_TO_ARRAY)
				penstock_avro_unfit(schema, format_type_be(target->column.type));
			write_array(out, schema, target, value);
			break;
		case AVRO_RECORD:
			if (target->shape != AVRO_TO_COMPOSITE)
				penstock_avro_unfit(schema, format_type_be(target->column.type));
			write_record(out, schema, target, value);
			break;
		default:
			penstock_avro_unfit(schema, format_type_be(target->column.type));
	}
}
