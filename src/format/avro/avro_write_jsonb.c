/*
 * avro_write_jsonb.c
 *	  jsonb, and the defaults of schemas, as Avro.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/memutils.h"
#include "utils/numeric.h"

#include "format/avro/avro.h"

static const char *
kind_of(const JsonbValue *value)
{
	switch (value->type)
	{
		case jbvNull:
			return "a JSON null";
		case jbvString:
			return "a JSON string";
		case jbvNumeric:
			return "a JSON number";
		case jbvBool:
			return "a JSON boolean";
		default:
			return JsonContainerIsArray(value->val.binary.data) ? "a JSON array" : "a JSON object";
	}
}

/* How well a value suits a branch of a union; 0: not at all. */
static int
suits(const AvroSchema *schema, const JsonbValue *value)
{
	bool		is_number = schema->type == AVRO_INT || schema->type == AVRO_LONG || schema->type == AVRO_FLOAT ||
		schema->type == AVRO_DOUBLE || schema->logical == AVRO_DECIMAL;

	switch (value->type)
	{
		case jbvNull:
			return schema->type == AVRO_NULL ? 2 : 0;
		case jbvBool:
			return schema->type == AVRO_BOOLEAN ? 2 : 0;
		case jbvNumeric:
			if (schema->type == AVRO_INT || schema->type == AVRO_LONG)
				return DatumGetInt32(DirectFunctionCall1(numeric_scale, NumericGetDatum(value->val.numeric))) == 0 &&
					schema->logical == AVRO_PLAIN ? 2 : 0;
			return is_number ? 1 : 0;
		case jbvString:
			if (schema->type == AVRO_STRING || schema->type == AVRO_ENUM)
				return 2;
			return schema->type == AVRO_BYTES || schema->type == AVRO_FIXED || schema->logical != AVRO_PLAIN ? 1 : 0;
		default:
			if (JsonContainerIsArray(value->val.binary.data))
				return schema->type == AVRO_ARRAY ? 2 : 0;
			return schema->type == AVRO_RECORD ? 2 : schema->type == AVRO_MAP ? 1 : 0;
	}
}

static int
branch_for(const AvroSchema *schema, const JsonbValue *value)
{
	int			null_branch = penstock_avro_null_branch(schema);
	int			best = -1;
	int			best_score = 0;

	/* null and one other: whatever that is */
	if (schema->n == 2 && null_branch >= 0 && value->type != jbvNull)
		return 1 - null_branch;
	for (int i = 0; i < schema->n; i++)
	{
		int			score = suits(schema->branches[i], value);

		if (score > best_score)
		{
			best = i;
			best_score = score;
		}
	}
	if (best < 0)
		penstock_avro_unfit(schema, kind_of(value));
	return best;
}

/* ---- values with parts ---- */

static void
write_array(StringInfo out, AvroSchema *schema, JsonbContainer *array, AvroBytesText bytes)
{
	int			n = JsonContainerSize(array);

	if (n > 0)
		penstock_avro_put_long(out, n);
	for (int i = 0; i < n; i++)
		penstock_avro_write_jsonb(out, schema->items, getIthJsonbValueFromContainer(array, i), bytes);
	penstock_avro_put_long(out, 0);
}

static void
write_map(StringInfo out, AvroSchema *schema, JsonbContainer *object, AvroBytesText bytes)
{
	JsonbIterator *iterator = JsonbIteratorInit(object);
	AvroSchema	key_schema = {.type = AVRO_STRING};
	JsonbIteratorToken token;
	JsonbValue	value;

	if (JsonContainerSize(object) > 0)
		penstock_avro_put_long(out, JsonContainerSize(object));
	while ((token = JsonbIteratorNext(&iterator, &value, true)) != WJB_DONE)
	{
		if (token == WJB_KEY)
			penstock_avro_write_jsonb(out, &key_schema, &value, bytes);
		else if (token == WJB_VALUE)
			penstock_avro_write_jsonb(out, schema->items, &value, bytes);
	}
	penstock_avro_put_long(out, 0);
}

static void
write_record(StringInfo out, AvroSchema *schema, JsonbContainer *object, AvroBytesText bytes)
{
	for (int i = 0; i < schema->n; i++)
	{
		AvroField  *field = &schema->fields[i];
		JsonbValue *value = getKeyJsonValueFromContainer(object, field->name, strlen(field->name), NULL);

		if (value != NULL)
			penstock_avro_write_jsonb(out, field->schema, value, bytes);
		else if (!penstock_avro_write_nothing(out, field, false))
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("field \"%s\" of Avro record \"%s\" needs a value", field->name, schema->name)));
	}
}

/* ---- any value ---- */

static void
write_container(StringInfo out, AvroSchema *schema, JsonbValue *value, AvroBytesText bytes)
{
	JsonbContainer *container = value->val.binary.data;
	bool		is_array = JsonContainerIsArray(container);

	check_stack_depth();
	if (is_array && schema->type == AVRO_ARRAY)
		write_array(out, schema, container, bytes);
	else if (!is_array && schema->type == AVRO_MAP)
		write_map(out, schema, container, bytes);
	else if (!is_array && schema->type == AVRO_RECORD)
		write_record(out, schema, container, bytes);
	else if (schema->type == AVRO_STRING)
	{
		char	   *text = JsonbToCString(NULL, container, value->val.binary.len);

		penstock_avro_write_text(out, schema, text, strlen(text), bytes);
	}
	else
		penstock_avro_unfit(schema, kind_of(value));
}

void
penstock_avro_write_jsonb(StringInfo out, AvroSchema *schema, JsonbValue *value, AvroBytesText bytes)
{
	char	   *text;

	if (schema->type == AVRO_UNION)
	{
		int			branch = branch_for(schema, value);

		penstock_avro_put_long(out, branch);
		schema = schema->branches[branch];
	}
	switch (value->type)
	{
		case jbvNull:
			if (schema->type != AVRO_NULL)
				penstock_avro_unfit(schema, kind_of(value));
			break;
		case jbvBool:
			if (schema->type == AVRO_BOOLEAN)
				appendStringInfoChar(out, value->val.boolean);
			else if (schema->type == AVRO_STRING)
				penstock_avro_write_text(out, schema, value->val.boolean ? "true" : "false", value->val.boolean ? 4 : 5, bytes);
			else
				penstock_avro_unfit(schema, kind_of(value));
			break;
		case jbvNumeric:
			text = DatumGetCString(DirectFunctionCall1(numeric_out, NumericGetDatum(value->val.numeric)));
			/* a logical type's own number, as in a default */
			if (schema->type == AVRO_INT || schema->type == AVRO_LONG)
				penstock_avro_put_number(out, schema, DatumGetInt64(DirectFunctionCall1(int8in, CStringGetDatum(text))));
			else if (schema->type == AVRO_BOOLEAN || schema->type == AVRO_ENUM ||
					 ((schema->type == AVRO_BYTES || schema->type == AVRO_FIXED) && schema->logical != AVRO_DECIMAL))
				penstock_avro_unfit(schema, kind_of(value));
			else
				penstock_avro_write_text(out, schema, text, strlen(text), bytes);
			break;
		case jbvString:
			text = pnstrdup(value->val.string.val, value->val.string.len);
			penstock_avro_write_text(out, schema, text, value->val.string.len, bytes);
			break;
		default:
			write_container(out, schema, value, bytes);
	}
}

/* ---- what is not given ---- */

static void
describe(void *field)
{
	errcontext("default of Avro field \"%s\"", ((const AvroField *) field)->name);
}

bytea *
penstock_avro_fallback(AvroField *field)
{
	ErrorContextCallback callback = {.callback = describe, .arg = field, .previous = error_context_stack};
	StringInfoData bytes;
	JsonbValue	value;

	if (field->fallback == NULL || field->fallback_bytes != NULL)
		return field->fallback_bytes;
	if (JB_ROOT_IS_SCALAR(field->fallback))
		value = *getIthJsonbValueFromContainer(&field->fallback->root, 0);
	else
	{
		value.type = jbvBinary;
		value.val.binary.data = &field->fallback->root;
		value.val.binary.len = VARSIZE(field->fallback) - VARHDRSZ;
	}
	initStringInfo(&bytes);
	error_context_stack = &callback;
	penstock_avro_write_jsonb(&bytes, field->schema, &value, AVRO_TEXT_LATIN1);
	error_context_stack = callback.previous;
	field->fallback_bytes = MemoryContextAlloc(GetMemoryChunkContext(field->fallback), VARHDRSZ + bytes.len);
	SET_VARSIZE(field->fallback_bytes, VARHDRSZ + bytes.len);
	memcpy(VARDATA(field->fallback_bytes), bytes.data, bytes.len);
	return field->fallback_bytes;
}

bool
penstock_avro_write_nothing(StringInfo out, AvroField *field, bool is_null)
{
	int			branch = penstock_avro_null_branch(field->schema);
	bytea	   *fallback = penstock_avro_fallback(field);

	if (branch >= 0 && (is_null || fallback == NULL))
		penstock_avro_put_long(out, branch);
	else if (fallback != NULL)
		appendBinaryStringInfo(out, VARDATA(fallback), VARSIZE(fallback) - VARHDRSZ);
	else
		return field->schema->type == AVRO_NULL;
	return true;
}
