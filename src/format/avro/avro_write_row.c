/*
 * avro_write_row.c
 *	  The schema to write with, and rows as messages of it.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/json.h"
#include "utils/lsyscache.h"

#include "format/avro/avro_format.h"

typedef struct AvroRow
{
	AvroState  *state;
	const Datum *values;
	const bool *isnull;
	StringInfo	out;
} AvroRow;

/* ---- a schema made of the columns ---- */

static const char *
type_text(Oid type)
{
	switch (getBaseType(type))
	{
		case BOOLOID:
			return "\"boolean\"";
		case INT2OID:
		case INT4OID:
			return "\"int\"";
		case INT8OID:
			return "\"long\"";
		case FLOAT4OID:
			return "\"float\"";
		case FLOAT8OID:
			return "\"double\"";
		case BYTEAOID:
			return "\"bytes\"";
		case DATEOID:
			return "{\"type\":\"int\",\"logicalType\":\"date\"}";
		case TIMEOID:
			return "{\"type\":\"long\",\"logicalType\":\"time-micros\"}";
		case TIMESTAMPOID:
			return "{\"type\":\"long\",\"logicalType\":\"local-timestamp-micros\"}";
		case TIMESTAMPTZOID:
			return "{\"type\":\"long\",\"logicalType\":\"timestamp-micros\"}";
		case UUIDOID:
			return "{\"type\":\"string\",\"logicalType\":\"uuid\"}";
		default:
			return "\"string\"";
	}
}

/* An array of scalars is one, and a numeric with precision a decimal. */
static void
put_type(StringInfo out, Oid type, int32 typmod)
{
	Oid			element = get_element_type(getBaseType(type));

	if (OidIsValid(element))
		appendStringInfo(out, "{\"type\":\"array\",\"items\":[\"null\",%s]}", type_text(element));
	else if (getBaseType(type) == NUMERICOID && typmod >= (int32) VARHDRSZ &&
			 ((typmod - VARHDRSZ) & 0x7ff) <= (((typmod - VARHDRSZ) >> 16) & 0xffff))
		appendStringInfo(out, "{\"type\":\"bytes\",\"logicalType\":\"decimal\",\"precision\":%d,\"scale\":%d}",
						 ((typmod - VARHDRSZ) >> 16) & 0xffff, (typmod - VARHDRSZ) & 0x7ff);
	else
		appendStringInfoString(out, type_text(type));
}

/* A name that Avro allows: letters, digits and underscores. */
static const char *
record_name(const char *subject)
{
	char	   *name = psprintf("%s%s", *subject >= '0' && *subject <= '9' ? "_" : "", subject);

	for (char *c = name; *c != '\0'; c++)
		if (!((*c >= 'a' && *c <= 'z') || (*c >= 'A' && *c <= 'Z') || (*c >= '0' && *c <= '9')))
			*c = '_';
	return name;
}

/* A record with a field for each column, all of them nullable. */
static char *
schema_of_columns(AvroState *state)
{
	PenstockPath *root = state->root;
	StringInfoData text;

	initStringInfo(&text);
	appendStringInfo(&text, "{\"type\":\"record\",\"name\":\"%s\",\"fields\":[", record_name(state->subject));
	for (int i = 0; i < root->nkeys; i++)
	{
		PenstockPath *path = root->keys[i];
		PenstockFormatColumn *column;

		if (path->ncolumns != 1 || path->nbelow != 1)
			ereport(ERROR,
					(errcode(ERRCODE_FDW_DYNAMIC_PARAMETER_VALUE_NEEDED),
					 errmsg("subject \"%s\" has no schema, and none can be made of columns with paths", state->subject),
					 errhint("Give one in option \"schema\" of the foreign table.")));
		column = &state->info->columns[path->columns[0]];
		appendStringInfoString(&text, i > 0 ? ",{\"name\":" : "{\"name\":");
		escape_json(&text, path->key);
		appendStringInfoString(&text, ",\"type\":[\"null\",");
		put_type(&text, column->type, column->typmod);
		appendStringInfoString(&text, "],\"default\":null}");
	}
	appendStringInfoString(&text, "]}");
	return text.data;
}

/* ---- the schema to write with ---- */

static AvroSchema *
registered_schema(AvroState *state)
{
	const char *text = state->schema_text;
	List	   *latest;

	if (state->subject == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_FDW_DYNAMIC_PARAMETER_VALUE_NEEDED),
				 errmsg("option \"subject\" is needed to write to %s", state->info->queue->name)));
	if (text == NULL)
	{
		latest = penstock_avro_latest_schema(state->registry, state->subject, &state->writer_id);
		if (latest != NIL)
			return penstock_avro_schema(latest);
		text = schema_of_columns(state);
	}
	state->writer_id = penstock_avro_id_of_schema(state->registry, state->subject, text, state->may_register);
	return penstock_avro_schema(list_make1(unconstify(char *, text)));
}

void
penstock_avro_begin_writing(AvroState *state)
{
	MemoryContext old = MemoryContextSwitchTo(state->context);
	int			n = state->info->ncolumns;

	if (state->columns == NULL)
	{
		AvroTarget **columns = palloc(Max(n, 1) * sizeof(AvroTarget *));

		for (int i = 0; i < n; i++)
			columns[i] = penstock_avro_target(&state->info->columns[i]);
		state->columns = columns;
	}
	state->writer = state->registry != NULL ? registered_schema(state) : state->schema;
	MemoryContextSwitchTo(old);
}

/* ---- rows ---- */

static inline bool
is_given(const AvroRow *row, int column)
{
	return !row->isnull[row->state->info->columns[column].attno - 1];
}

static bool
any_given(const AvroRow *row, const PenstockPath *path)
{
	for (int i = 0; path != NULL && i < path->nbelow; i++)
		if (is_given(row, path->below[i]))
			return true;
	return false;
}

/* Writes the column that has the path's value; false if there is none. */
static bool
write_column(const AvroRow *row, AvroSchema *schema, PenstockPath *path)
{
	for (int i = 0; i < path->ncolumns; i++)
	{
		int			column = path->columns[i];
		PenstockFormatColumn *info = &row->state->info->columns[column];

		if (!is_given(row, column))
			continue;
		penstock_format_set_column(info->name);
		penstock_avro_write_value(row->out, schema, row->state->columns[column], row->values[info->attno - 1]);
		penstock_format_set_column(NULL);
		return true;
	}
	return false;
}

static void write_path(const AvroRow *row, AvroSchema *schema, PenstockPath *path);

static void
write_field(const AvroRow *row, AvroField *field, PenstockPath *path)
{
	if (any_given(row, path))
		write_path(row, field->schema, path);
	else if (!penstock_avro_write_nothing(row->out, field, path != NULL && path->ncolumns > 0))
	{
		if (path != NULL && path->nkeys > 0)
			write_path(row, field->schema, path);
		else
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("Avro field \"%s\" needs a value", field->name),
					 errdetail(path != NULL ? "Its column is NULL, and its schema allows no null and has no default." :
							   "It has no column, and its schema allows no null and has no default.")));
	}
}

/* A value that no column has itself: a record of the values below. */
static void
write_record(const AvroRow *row, AvroSchema *schema, PenstockPath *path)
{
	if (schema->type == AVRO_UNION)
		for (int i = 0; i < schema->n; i++)
			if (schema->branches[i]->type == AVRO_RECORD)
			{
				penstock_avro_put_long(row->out, i);
				schema = schema->branches[i];
				break;
			}
	if (schema->type != AVRO_RECORD || path->nelements > 0)
		penstock_avro_unfit(schema, "columns for its parts");
	for (int i = 0; i < schema->n; i++)
		write_field(row, &schema->fields[i],
					penstock_path_key(path, schema->fields[i].name, strlen(schema->fields[i].name)));
}

static void
write_path(const AvroRow *row, AvroSchema *schema, PenstockPath *path)
{
	check_stack_depth();
	if (!write_column(row, schema, path))
		write_record(row, schema, path);
}

void
penstock_avro_write_row(AvroState *state, const Datum *values, const bool *isnull, StringInfo out)
{
	AvroRow		row = {state, values, isnull, out};

	if (!state->is_checked)
	{
		penstock_avro_check_fields(state, state->writer, state->root);
		state->is_checked = true;
	}
	write_path(&row, state->writer, state->root);
}
