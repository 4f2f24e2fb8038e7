/*
 * avro_value.c
 *	  Avro values as SQL values.
 *
 * A value's own type and the column's decide together.  Where there is no direct way, the value goes through its text and the
 * type's input function, which has the words for what does not fit.
 */
#include "postgres.h"

#include <math.h>

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "common/shortest_dec.h"
#include "fmgr.h"
#include "funcapi.h"
#include "mb/pg_wchar.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/date.h"
#include "utils/datetime.h"
#include "utils/fmgrprotos.h"
#include "utils/json.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/numeric.h"
#include "utils/timestamp.h"
#include "utils/typcache.h"

#include "format/avro/avro.h"

/* ---- targets ---- */

static AvroShape
shape_of(Oid type)
{
	switch (type)
	{
		case BYTEAOID:
			return AVRO_TO_BYTEA;
		case NUMERICOID:
			return AVRO_TO_NUMERIC;
		case INTERVALOID:
			return AVRO_TO_INTERVAL;
		case JSONOID:
			return AVRO_TO_JSON;
		case JSONBOID:
			return AVRO_TO_JSONB;
		default:
			return OidIsValid(get_element_type(type)) ? AVRO_TO_ARRAY :
				type_is_rowtype(type) ? AVRO_TO_COMPOSITE : AVRO_TO_SCALAR;
	}
}

static void
fill_target(AvroTarget *target, const char *name, Oid type, int32 typmod)
{
	Oid			function;
	bool		varlena;

	target->context = CurrentMemoryContext;
	target->column.name = name;
	target->column.typmod = typmod;
	target->column.type = getBaseTypeAndTypmod(type, &target->column.typmod);
	if (target->column.type != type)
		target->domain = type;
	getTypeInputInfo(target->column.type, &function, &target->column.input_param);
	fmgr_info(function, &target->column.input);
	getTypeOutputInfo(target->column.type, &function, &varlena);
	fmgr_info(function, &target->column.output);
	target->kind = penstock_value_kind(target->column.type, target->column.typmod);
	target->shape = shape_of(target->column.type);
	get_typlenbyvalalign(target->column.type, &target->length, &target->byval, &target->align);
	if (target->shape == AVRO_TO_ARRAY)
	{
		target->element = palloc0(sizeof(AvroTarget));
		fill_target(target->element, name, get_element_type(target->column.type), target->column.typmod);
	}
	else if (target->shape == AVRO_TO_COMPOSITE)
	{
		target->desc = lookup_rowtype_tupdesc_copy(target->column.type, target->column.typmod);
		target->attributes = palloc0(Max(target->desc->natts, 1) * sizeof(AvroTarget));
		for (int i = 0; i < target->desc->natts; i++)
			if (!TupleDescAttr(target->desc, i)->attisdropped)
				fill_target(&target->attributes[i], name, TupleDescAttr(target->desc, i)->atttypid,
							TupleDescAttr(target->desc, i)->atttypmod);
	}
}

/*
 * penstock_avro_target(column): what the column's values are converted to, in the current context.
 */
AvroTarget *
penstock_avro_target(const PenstockFormatColumn *column)
{
	AvroTarget *target = palloc0(sizeof(AvroTarget));

	fill_target(target, column->name, column->type, column->typmod);
	return target;
}

pg_noreturn static void
unfit(const AvroNode *node, const AvroTarget *target)
{
	ereport(ERROR,
			(errcode(ERRCODE_MOST_SPECIFIC_TYPE_MISMATCH),
			 errmsg("cannot convert Avro %s to type %s", penstock_avro_type_name(node->writer),
					format_type_be(target->column.type))));
}

/* ---- scalars ---- */

static Datum
of_text(AvroTarget *target, const char *text, int length)
{
	/* its domain is checked later, and the name stays the column's */
	Datum		value = penstock_value_of_text(&target->column, target->kind, text, length);

	penstock_format_set_column(target->column.name);
	return value;
}

static Datum
of_string(AvroTarget *target, const char *text)
{
	return of_text(target, text, strlen(text));
}

static Datum
of_datetime(AvroTarget *target, Datum value, Oid type)
{
	char		text[MAXDATELEN + 1];

	(void) JsonEncodeDateTime(text, value, type, NULL);
	return of_string(target, text);
}

static Datum
of_date(AvroTarget *target, int64 value)
{
	DateADT		date = penstock_avro_date(value);

	return target->kind == PENSTOCK_VALUE_DATE ? DateADTGetDatum(date) : of_datetime(target, DateADTGetDatum(date), DATEOID);
}

static Datum
of_time(AvroTarget *target, int64 value, AvroLogical logical)
{
	TimeADT		time = penstock_avro_time(value, logical);

	return target->kind == PENSTOCK_VALUE_TIME ? TimeADTGetDatum(time) : of_datetime(target, TimeADTGetDatum(time), TIMEOID);
}

/* An instant in a column without time zone is the time in UTC. */
static Datum
of_timestamp(AvroTarget *target, int64 value, AvroLogical logical)
{
	Timestamp	timestamp = penstock_avro_timestamp(value, logical);
	bool		is_local = logical == AVRO_LOCAL_MILLIS || logical == AVRO_LOCAL_MICROS;

	if (target->kind == PENSTOCK_VALUE_TIMESTAMP || (target->kind == PENSTOCK_VALUE_TIMESTAMPTZ && !is_local))
		return TimestampGetDatum(timestamp);
	return of_datetime(target, TimestampGetDatum(timestamp), is_local ? TIMESTAMPOID : TIMESTAMPTZOID);
}

static Datum
of_integer(AvroTarget *target, int64 value)
{
	char		text[32];

	switch (target->kind)
	{
		case PENSTOCK_VALUE_INT8:
			return Int64GetDatum(value);
		case PENSTOCK_VALUE_INT4:
			if (value >= PG_INT32_MIN && value <= PG_INT32_MAX)
				return Int32GetDatum((int32) value);
			break;
		case PENSTOCK_VALUE_INT2:
			if (value >= PG_INT16_MIN && value <= PG_INT16_MAX)
				return Int16GetDatum((int16) value);
			break;
		case PENSTOCK_VALUE_FLOAT8:
			return Float8GetDatum((double) value);
		case PENSTOCK_VALUE_FLOAT4:
			return Float4GetDatum((float) value);
		default:
			if (target->shape == AVRO_TO_NUMERIC && target->column.typmod < 0)
				return NumericGetDatum(int64_to_numeric(value));
	}
	pg_lltoa(value, text);
	return of_string(target, text);
}

static Datum
of_double(AvroTarget *target, double value, bool is_float)
{
	char		text[DOUBLE_SHORTEST_DECIMAL_LEN];

	if (target->kind == PENSTOCK_VALUE_FLOAT8)
		return Float8GetDatum(value);
	if (target->kind == PENSTOCK_VALUE_FLOAT4 && (is_float || isnan(value) || isinf(value)))
		return Float4GetDatum((float) value);
	if (is_float)
		float_to_shortest_decimal_buf((float) value, text);
	else
		double_to_shortest_decimal_buf(value, text);
	return of_string(target, text);
}

static Datum
of_number(AvroTarget *target, const AvroNode *node, int64 value)
{
	AvroLogical logical = node->logical;
	bool		is_number = (target->kind >= PENSTOCK_VALUE_INT2 && target->kind <= PENSTOCK_VALUE_FLOAT8) ||
		target->shape == AVRO_TO_NUMERIC;

	/* the reader's schema may promote it; a column for numbers takes it as it is */
	if (node->reader->type == AVRO_FLOAT || node->reader->type == AVRO_DOUBLE)
		return of_double(target, (double) value, node->reader->type == AVRO_FLOAT);
	if (is_number)
		logical = AVRO_PLAIN;
	switch (logical)
	{
		case AVRO_DATE:
			return of_date(target, value);
		case AVRO_TIME_MILLIS:
		case AVRO_TIME_MICROS:
			return of_time(target, value, logical);
		case AVRO_TIMESTAMP_MILLIS:
		case AVRO_TIMESTAMP_MICROS:
		case AVRO_LOCAL_MILLIS:
		case AVRO_LOCAL_MICROS:
			return of_timestamp(target, value, logical);
		default:
			return of_integer(target, value);
	}
}

static Datum
of_decimal(AvroTarget *target, const AvroNode *node, const char *bytes, int length)
{
	int			scale = node->writer->logical == AVRO_DECIMAL ? node->writer->scale : node->reader->scale;
	Numeric		number = penstock_avro_decimal(bytes, length, scale);

	if (target->shape == AVRO_TO_NUMERIC && target->column.typmod < 0)
		return NumericGetDatum(number);
	return of_string(target, DatumGetCString(DirectFunctionCall1(numeric_out, NumericGetDatum(number))));
}

/* Bytes for a column that is not bytea are the UTF-8 of a text. */
static Datum
of_binary(AvroTarget *target, const AvroNode *node, const char *bytes, int length)
{
	const char *text;

	if (target->shape == AVRO_TO_BYTEA)
		return PointerGetDatum(cstring_to_text_with_len(bytes, length));
	if (node->logical == AVRO_DECIMAL)
		return of_decimal(target, node, bytes, length);
	if (node->logical == AVRO_DURATION)
	{
		Interval   *interval = penstock_avro_duration(bytes);

		if (target->shape == AVRO_TO_INTERVAL && target->column.typmod < 0)
			return IntervalPGetDatum(interval);
		return of_string(target, DatumGetCString(DirectFunctionCall1(interval_out, IntervalPGetDatum(interval))));
	}
	if (length == 16 && node->writer->type == AVRO_FIXED &&
		(node->logical == AVRO_UUID || target->kind == PENSTOCK_VALUE_UUID))
		return of_string(target, DatumGetCString(DirectFunctionCall1(uuid_out, PointerGetDatum(bytes))));
	text = pg_any_to_server(bytes, length, PG_UTF8);
	return of_text(target, text, text == bytes ? length : strlen(text));
}

static Datum
of_characters(AvroTarget *target, AvroReader *reader)
{
	int			length;
	const char *text;

	if (target->shape == AVRO_TO_BYTEA)
	{
		text = penstock_avro_bytes(reader, &length);
		return PointerGetDatum(cstring_to_text_with_len(text, length));
	}
	text = penstock_avro_string(reader, &length);
	return of_text(target, text, length);
}

static Datum
of_symbol(AvroTarget *target, AvroReader *reader, const AvroNode *node)
{
	const char *symbol = node->symbols[penstock_avro_index(reader, node->writer->n)];

	if (symbol == NULL)
		penstock_avro_malformed("It has a symbol that the reader's schema does not have.");
	return of_string(target, symbol);
}

/* ---- arrays and composites ---- */

static Datum
of_array(AvroTarget *target, AvroReader *reader, const AvroNode *node)
{
	AvroTarget *element = target->element;
	MemoryContext caller = MemoryContextSwitchTo(reader->scratch);
	Datum	   *values = palloc(16 * sizeof(Datum));
	bool	   *nulls = palloc(16 * sizeof(bool));
	int			room = 16;
	int			n = 0;
	int			lower = 1;
	int64		left = 0;
	Datum		result;

	penstock_avro_enter(reader);
	while (penstock_avro_next_item(reader, node->writer, &left))
	{
		if (n == room)
		{
			room *= 2;
			values = repalloc_huge(values, room * sizeof(Datum));
			nulls = repalloc_huge(nulls, room * sizeof(bool));
		}
		values[n] = penstock_avro_value(reader, node->items, element, &nulls[n]);
		n++;
	}
	reader->depth--;
	MemoryContextSwitchTo(caller);
	result = n == 0 ? PointerGetDatum(construct_empty_array(element->domain ? element->domain : element->column.type)) :
		PointerGetDatum(construct_md_array(values, nulls, 1, &n, &lower,
										   element->domain ? element->domain : element->column.type,
										   element->length, element->byval, element->align));
	pfree(values);
	pfree(nulls);
	return result;
}

static int
attribute_named(const AvroTarget *target, const char *name)
{
	for (int i = 0; name != NULL && i < target->desc->natts; i++)
		if (!TupleDescAttr(target->desc, i)->attisdropped &&
			strcmp(NameStr(TupleDescAttr(target->desc, i)->attname), name) == 0)
			return i;
	return -1;
}

/* Which attribute each field of the record is. */
static void
map_fields(AvroTarget *target, const AvroNode *node)
{
	MemoryContext old = MemoryContextSwitchTo(target->context);

	if (target->map != NULL)
	{
		pfree(target->map);
		pfree(target->map_missing);
		target->map = NULL;
	}
	target->map_missing = palloc(Max(node->nmissing, 1) * sizeof(int));
	target->map = palloc(Max(node->writer->n, 1) * sizeof(int));
	for (int i = 0; i < node->writer->n; i++)
		target->map[i] = attribute_named(target, node->names[i]);
	for (int i = 0; i < node->nmissing; i++)
		target->map_missing[i] = attribute_named(target, node->missing[i].name);
	target->mapped = node;
	MemoryContextSwitchTo(old);
}

static Datum
of_missing(AvroReader *reader, const AvroMissing *missing, AvroTarget *target, bool *isnull)
{
	AvroReader	bytes;

	penstock_avro_start(&bytes, VARDATA(missing->bytes), VARSIZE(missing->bytes) - VARHDRSZ, reader->scratch);
	bytes.depth = reader->depth;
	return penstock_avro_value(&bytes, missing->node, target, isnull);
}

static Datum
of_record(AvroTarget *target, AvroReader *reader, const AvroNode *node)
{
	MemoryContext caller = MemoryContextSwitchTo(reader->scratch);
	int			natts = target->desc->natts;
	Datum	   *values = palloc0(Max(natts, 1) * sizeof(Datum));
	bool	   *nulls = palloc(Max(natts, 1) * sizeof(bool));
	HeapTuple	tuple;

	memset(nulls, true, natts);
	if (target->mapped != node)
		map_fields(target, node);
	penstock_avro_enter(reader);
	for (int i = 0; i < node->writer->n; i++)
	{
		int			at = target->map[i];

		if (at < 0)
			penstock_avro_skip(reader, node->writer->fields[i].schema);
		else
			values[at] = penstock_avro_value(reader, node->members[i], &target->attributes[at], &nulls[at]);
	}
	for (int i = 0; i < node->nmissing; i++)
		if (target->map_missing[i] >= 0)
			values[target->map_missing[i]] = of_missing(reader, &node->missing[i],
														&target->attributes[target->map_missing[i]],
														&nulls[target->map_missing[i]]);
	reader->depth--;
	MemoryContextSwitchTo(caller);
	tuple = heap_form_tuple(target->desc, values, nulls);
	return HeapTupleGetDatum(tuple);
}

static Datum
of_json(AvroTarget *target, AvroReader *reader, const AvroNode *node)
{
	MemoryContext caller;
	Jsonb	   *jsonb;
	char	   *text;

	if (target->shape == AVRO_TO_JSONB)
		return JsonbPGetDatum(penstock_avro_jsonb(reader, node));
	caller = MemoryContextSwitchTo(reader->scratch);
	jsonb = penstock_avro_jsonb(reader, node);
	text = JsonbToCString(NULL, &jsonb->root, VARSIZE(jsonb));
	MemoryContextSwitchTo(caller);
	return of_string(target, text);
}

/* ---- any value ---- */

static Datum
read_value(AvroReader *reader, const AvroNode *node, AvroTarget *target)
{
	const char *bytes;
	int			length;

	switch (node->writer->type)
	{
		case AVRO_BOOLEAN:
			if (target->kind == PENSTOCK_VALUE_BOOL)
				return BoolGetDatum(penstock_avro_bool(reader));
			return of_string(target, penstock_avro_bool(reader) ? "true" : "false");
		case AVRO_INT:
			return of_number(target, node, penstock_avro_int(reader));
		case AVRO_LONG:
			return of_number(target, node, penstock_avro_long(reader));
		case AVRO_FLOAT:
			return of_double(target, penstock_avro_float(reader), node->reader->type == AVRO_FLOAT);
		case AVRO_DOUBLE:
			return of_double(target, penstock_avro_double(reader), false);
		case AVRO_STRING:
			return of_characters(target, reader);
		case AVRO_BYTES:
			bytes = penstock_avro_bytes(reader, &length);
			return of_binary(target, node, bytes, length);
		case AVRO_FIXED:
			bytes = penstock_avro_fixed(reader, node->writer->size);
			return of_binary(target, node, bytes, node->writer->size);
		case AVRO_ENUM:
			return of_symbol(target, reader, node);
		case AVRO_ARRAY:
			if (target->shape == AVRO_TO_ARRAY)
				return of_array(target, reader, node);
			break;
		case AVRO_RECORD:
			if (target->shape == AVRO_TO_COMPOSITE)
				return of_record(target, reader, node);
			break;
		default:
			break;
	}
	if (target->kind != PENSTOCK_VALUE_TEXT)
		unfit(node, target);
	return of_json(target, reader, node);
}

/*
 * penstock_avro_value(reader, node, target, isnull): the next value, converted; in the current context.
 */
Datum
penstock_avro_value(AvroReader *reader, const AvroNode *node, AvroTarget *target, bool *isnull)
{
	Datum		value = (Datum) 0;

	while (node->writer->type == AVRO_UNION)
		node = node->members[penstock_avro_index(reader, node->writer->n)];
	if (node->mismatch)
		penstock_avro_mismatch(node);
	*isnull = node->writer->type == AVRO_NULL;
	if (*isnull)
		penstock_avro_spend(reader, 1);
	else if (target->shape == AVRO_TO_JSON || target->shape == AVRO_TO_JSONB)
		value = of_json(target, reader, node);
	else
		value = read_value(reader, node, target);
	if (OidIsValid(target->domain))
		domain_check(value, *isnull, target->domain, &target->domain_state, target->context);
	return value;
}
