/*
 * avro_jsonb.c
 *	  Avro values as jsonb: without the names of union branches, bytes as '\x...', times in ISO 8601.
 */
#include "postgres.h"

#include <math.h>

#include "catalog/pg_type.h"
#include "common/shortest_dec.h"
#include "utils/builtins.h"
#include "utils/date.h"
#include "utils/datetime.h"
#include "utils/fmgrprotos.h"
#include "utils/json.h"
#include "utils/numeric.h"
#include "utils/timestamp.h"

#include "format/avro/avro.h"

static JsonbValue *put_value(AvroReader *reader, const AvroNode *node, JsonbParseState **parse, JsonbIteratorToken token);

/* ---- scalars ---- */

static void
set_text(JsonbValue *value, const char *text, int length)
{
	if (length > JENTRY_OFFLENMASK)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("string too long to represent as jsonb string")));
	value->type = jbvString;
	value->val.string.val = unconstify(char *, text);
	value->val.string.len = length;
}

static void
set_numeric(JsonbValue *value, Numeric number)
{
	value->type = jbvNumeric;
	value->val.numeric = number;
}

/* As to_jsonb has it: the shortest number that is this one, and a string for what JSON has no number for. */
static void
set_double(JsonbValue *value, double number, bool is_float)
{
	char	   *text = palloc(DOUBLE_SHORTEST_DECIMAL_LEN);

	if (is_float)
		float_to_shortest_decimal_buf((float) number, text);
	else
		double_to_shortest_decimal_buf(number, text);
	if (isnan(number) || isinf(number))
		set_text(value, text, strlen(text));
	else
		set_numeric(value, DatumGetNumeric(DirectFunctionCall3(numeric_in, CStringGetDatum(text),
															   ObjectIdGetDatum(InvalidOid), Int32GetDatum(-1))));
}

static void
set_bytes(JsonbValue *value, const char *bytes, int length)
{
	char	   *text = palloc((Size) length * 2 + 3);

	text[0] = '\\';
	text[1] = 'x';
	hex_encode(bytes, length, text + 2);
	set_text(value, text, length * 2 + 2);
}

static void
set_time(JsonbValue *value, Datum datum, Oid type)
{
	char	   *text = palloc(MAXDATELEN + 1);

	(void) JsonEncodeDateTime(text, datum, type, NULL);
	set_text(value, text, strlen(text));
}

static void
set_output(JsonbValue *value, PGFunction output, Datum datum)
{
	char	   *text = DatumGetCString(DirectFunctionCall1(output, datum));

	set_text(value, text, strlen(text));
}

static void
set_integer(JsonbValue *value, int64 number, AvroLogical logical)
{
	switch (logical)
	{
		case AVRO_DATE:
			set_time(value, DateADTGetDatum(penstock_avro_date(number)), DATEOID);
			break;
		case AVRO_TIME_MILLIS:
		case AVRO_TIME_MICROS:
			set_time(value, TimeADTGetDatum(penstock_avro_time(number, logical)), TIMEOID);
			break;
		case AVRO_TIMESTAMP_MILLIS:
		case AVRO_TIMESTAMP_MICROS:
			set_time(value, TimestampTzGetDatum(penstock_avro_timestamp(number, logical)), TIMESTAMPTZOID);
			break;
		case AVRO_LOCAL_MILLIS:
		case AVRO_LOCAL_MICROS:
			set_time(value, TimestampGetDatum(penstock_avro_timestamp(number, logical)), TIMESTAMPOID);
			break;
		default:
			set_numeric(value, int64_to_numeric(number));
	}
}

/* An integer may be promoted. */
static void
set_number(JsonbValue *value, const AvroNode *node, int64 number)
{
	if (node->reader->type == AVRO_FLOAT || node->reader->type == AVRO_DOUBLE)
		set_double(value, (double) number, node->reader->type == AVRO_FLOAT);
	else
		set_integer(value, number, node->logical);
}

static void
set_binary(JsonbValue *value, const AvroNode *node, const char *bytes, int length)
{
	AvroSchema *writer = node->writer;

	if (node->logical == AVRO_DECIMAL)
		set_numeric(value, penstock_avro_decimal(bytes, length, writer->logical == AVRO_DECIMAL ? writer->scale : node->reader->scale));
	else if (node->logical == AVRO_UUID)
		set_output(value, uuid_out, PointerGetDatum(bytes));
	else if (node->logical == AVRO_DURATION)
		set_output(value, interval_out, IntervalPGetDatum(penstock_avro_duration(bytes)));
	else
		set_bytes(value, bytes, length);
}

static void
read_scalar(AvroReader *reader, const AvroNode *node, JsonbValue *value)
{
	const char *bytes;
	int			length;

	switch (node->writer->type)
	{
		case AVRO_BOOLEAN:
			value->type = jbvBool;
			value->val.boolean = penstock_avro_bool(reader);
			break;
		case AVRO_INT:
			set_number(value, node, penstock_avro_int(reader));
			break;
		case AVRO_LONG:
			set_number(value, node, penstock_avro_long(reader));
			break;
		case AVRO_FLOAT:
			set_double(value, penstock_avro_float(reader), node->reader->type == AVRO_FLOAT);
			break;
		case AVRO_DOUBLE:
			set_double(value, penstock_avro_double(reader), false);
			break;
		case AVRO_STRING:
		case AVRO_BYTES:
			/* each may be read as the other */
			if (node->reader->type == AVRO_STRING)
			{
				bytes = penstock_avro_string(reader, &length);
				set_text(value, bytes, length);
			}
			else
			{
				bytes = penstock_avro_bytes(reader, &length);
				set_binary(value, node, bytes, length);
			}
			break;
		case AVRO_FIXED:
			bytes = penstock_avro_fixed(reader, node->writer->size);
			set_binary(value, node, bytes, node->writer->size);
			break;
		case AVRO_ENUM:
			bytes = node->symbols[penstock_avro_index(reader, node->writer->n)];
			if (bytes == NULL)
				penstock_avro_malformed("It has a symbol that the reader's schema does not have.");
			set_text(value, bytes, strlen(bytes));
			break;
		default:
			penstock_avro_spend(reader, 1);
			value->type = jbvNull;
	}
}

/* ---- containers ---- */

static void
put_key(const char *name, int length, JsonbParseState **parse)
{
	JsonbValue	key;

	set_text(&key, name, length);
	(void) pushJsonbValue(parse, WJB_KEY, &key);
}

static void
put_missing(AvroReader *reader, const AvroMissing *missing, JsonbParseState **parse)
{
	AvroReader	bytes;

	penstock_avro_start(&bytes, VARDATA(missing->bytes), VARSIZE(missing->bytes) - VARHDRSZ, reader->scratch);
	bytes.depth = reader->depth;
	put_key(missing->name, strlen(missing->name), parse);
	(void) put_value(&bytes, missing->node, parse, WJB_VALUE);
}

static JsonbValue *
put_record(AvroReader *reader, const AvroNode *node, JsonbParseState **parse)
{
	(void) pushJsonbValue(parse, WJB_BEGIN_OBJECT, NULL);
	for (int i = 0; i < node->writer->n; i++)
	{
		if (node->members[i] == NULL)
		{
			penstock_avro_skip(reader, node->writer->fields[i].schema);
			continue;
		}
		put_key(node->names[i], strlen(node->names[i]), parse);
		(void) put_value(reader, node->members[i], parse, WJB_VALUE);
	}
	for (int i = 0; i < node->nmissing; i++)
		put_missing(reader, &node->missing[i], parse);
	return pushJsonbValue(parse, WJB_END_OBJECT, NULL);
}

static JsonbValue *
put_items(AvroReader *reader, const AvroNode *node, JsonbParseState **parse)
{
	bool		is_map = node->writer->type == AVRO_MAP;
	int64		left = 0;

	(void) pushJsonbValue(parse, is_map ? WJB_BEGIN_OBJECT : WJB_BEGIN_ARRAY, NULL);
	while (penstock_avro_next_item(reader, node->writer, &left))
	{
		int			length;
		const char *key;

		if (is_map)
		{
			key = penstock_avro_string(reader, &length);
			put_key(key, length, parse);
		}
		(void) put_value(reader, node->items, parse, is_map ? WJB_VALUE : WJB_ELEM);
	}
	return pushJsonbValue(parse, is_map ? WJB_END_OBJECT : WJB_END_ARRAY, NULL);
}

/* Reads a value and adds it to what is under way; WJB_DONE: it is all there is. */
static JsonbValue *
put_value(AvroReader *reader, const AvroNode *node, JsonbParseState **parse, JsonbIteratorToken token)
{
	JsonbValue *result;

	while (node->writer->type == AVRO_UNION)
		node = node->members[penstock_avro_index(reader, node->writer->n)];
	if (node->mismatch)
		penstock_avro_mismatch(node);
	if (node->writer->type != AVRO_RECORD && node->writer->type != AVRO_ARRAY && node->writer->type != AVRO_MAP)
	{
		JsonbValue	value;

		read_scalar(reader, node, &value);
		if (token != WJB_DONE)
			return pushJsonbValue(parse, token, &value);
		result = palloc(sizeof(JsonbValue));
		*result = value;
		return result;
	}
	penstock_avro_enter(reader);
	result = node->writer->type == AVRO_RECORD ? put_record(reader, node, parse) : put_items(reader, node, parse);
	reader->depth--;
	return result;
}

Jsonb *
penstock_avro_jsonb(AvroReader *reader, const AvroNode *node)
{
	MemoryContext caller = MemoryContextSwitchTo(reader->scratch);
	JsonbParseState *parse = NULL;
	JsonbValue *value = put_value(reader, node, &parse, WJB_DONE);
	Jsonb	   *result;

	MemoryContextSwitchTo(caller);
	result = JsonbValueToJsonb(value);
	return result;
}
