/*
 * avro_schema.c
 *	  Schema texts to schemas (Apache Avro 1.11 specification, "Schema Declaration").
 *
 * The text is the server's jsonb first, which bounds its depth and checks its encoding.  Attributes that are not
 * known are passed over, and a logical type that does not suit its type is none, as the specification wants it.
 */
#include "postgres.h"

#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/hsearch.h"
#include "utils/numeric.h"

#include "format/avro/avro.h"

typedef struct AvroParser
{
	HTAB	   *names;			/* of AvroName */
	int			ntypes;
} AvroParser;

typedef struct AvroName
{
	char		name[256];		/* key */
	AvroSchema *schema;
} AvroName;

static AvroSchema *parse(AvroParser *parser, JsonbValue *value, const char *namespace, int depth);

static const struct
{
	const char *name;
	AvroType	type;
}			primitives[] =
{
	{"null", AVRO_NULL},
	{"boolean", AVRO_BOOLEAN},
	{"int", AVRO_INT},
	{"long", AVRO_LONG},
	{"float", AVRO_FLOAT},
	{"double", AVRO_DOUBLE},
	{"bytes", AVRO_BYTES},
	{"string", AVRO_STRING},
};

pg_noreturn static void
invalid(const char *detail)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("invalid Avro schema"),
			 errdetail("%s", detail)));
}

/* ---- jsonb ---- */

static JsonbValue *
attribute(JsonbContainer *object, const char *name)
{
	return getKeyJsonValueFromContainer(object, name, strlen(name), NULL);
}

static char *
text_of(const JsonbValue *value)
{
	return value != NULL && value->type == jbvString ? pnstrdup(value->val.string.val, value->val.string.len) : NULL;
}

static bool
is_array(const JsonbValue *value)
{
	return value != NULL && value->type == jbvBinary && JsonContainerIsArray(value->val.binary.data);
}

static bool
is_object(const JsonbValue *value)
{
	return value != NULL && value->type == jbvBinary && JsonContainerIsObject(value->val.binary.data);
}

static int
size_of(const JsonbValue *array, const char *what)
{
	int			n = JsonContainerSize(array->val.binary.data);

	if (n > AVRO_MAX_MEMBERS)
		invalid(psprintf("There are more than %d %s.", AVRO_MAX_MEMBERS, what));
	return n;
}

static bool
number_of(const JsonbValue *value, int max, int *result)
{
	if (value == NULL || value->type != jbvNumeric ||
		!DatumGetBool(DirectFunctionCall2(numeric_le, NumericGetDatum(value->val.numeric),
										  DirectFunctionCall1(int4_numeric, Int32GetDatum(max)))) ||
		!DatumGetBool(DirectFunctionCall2(numeric_ge, NumericGetDatum(value->val.numeric),
										  DirectFunctionCall1(int4_numeric, Int32GetDatum(0)))))
		return false;
	*result = DatumGetInt32(DirectFunctionCall1(numeric_int4, NumericGetDatum(value->val.numeric)));
	return true;
}

/* An array of strings; they stay as they are. */
static const char **
texts_of(const JsonbValue *array, const char *what, int *n)
{
	const char **texts;

	if (!is_array(array))
		invalid(psprintf("\"%s\" must be an array of strings.", what));
	*n = size_of(array, what);
	texts = palloc(Max(*n, 1) * sizeof(char *));
	for (int i = 0; i < *n; i++)
	{
		texts[i] = text_of(getIthJsonbValueFromContainer(array->val.binary.data, i));
		if (texts[i] == NULL)
			invalid(psprintf("\"%s\" must be an array of strings.", what));
	}
	return texts;
}

/* ---- names ---- */

static char *
full_name(const char *name, const char *namespace)
{
	if (strchr(name, '.') != NULL || namespace == NULL || *namespace == '\0')
		return pstrdup(*name == '.' ? name + 1 : name);
	return psprintf("%s.%s", namespace, name);
}

static const char *
namespace_of(const char *full)
{
	const char *dot = strrchr(full, '.');

	return dot ? pnstrdup(full, dot - full) : "";
}

static AvroSchema *
find_named(AvroParser *parser, const char *name)
{
	AvroName   *entry;

	if (strlen(name) >= sizeof(entry->name))
		return NULL;
	entry = hash_search(parser->names, name, HASH_FIND, NULL);
	return entry ? entry->schema : NULL;
}

/* Gives a record, enum or fixed its name; returns the namespace in which its own parts are. */
static const char *
give_name(AvroParser *parser, AvroSchema *schema, JsonbContainer *object, const char *namespace)
{
	const char *name = text_of(attribute(object, "name"));
	const char *own = text_of(attribute(object, "namespace"));
	JsonbValue *aliases = attribute(object, "aliases");
	AvroName   *entry;
	bool		found;

	if (name == NULL || *name == '\0')
		invalid(psprintf("A type of kind \"%s\" has no name.", penstock_avro_type_name(schema)));
	schema->name = full_name(name, own ? own : namespace);
	if (strlen(schema->name) >= sizeof(entry->name))
		invalid(psprintf("The name \"%.40s...\" is too long.", schema->name));
	entry = hash_search(parser->names, schema->name, HASH_ENTER, &found);
	if (found)
		invalid(psprintf("The name \"%s\" is given twice.", schema->name));
	entry->schema = schema;
	if (aliases != NULL && aliases->type != jbvNull)
	{
		schema->aliases = texts_of(aliases, "aliases", &schema->naliases);
		for (int i = 0; i < schema->naliases; i++)
			schema->aliases[i] = full_name(schema->aliases[i], namespace_of(schema->name));
	}
	return namespace_of(schema->name);
}

/* ---- types ---- */

static AvroSchema *
new_schema(AvroParser *parser, AvroType type)
{
	AvroSchema *schema = palloc0(sizeof(AvroSchema));

	if (++parser->ntypes > AVRO_MAX_TYPES)
		invalid(psprintf("It has more than %d types.", AVRO_MAX_TYPES));
	schema->type = type;
	return schema;
}

static bool
is_logical(const char *given, const char *name, AvroType type, AvroType wanted)
{
	return type == wanted && strcmp(given, name) == 0;
}

static void
set_logical(AvroSchema *schema, JsonbContainer *object)
{
	const char *name = text_of(attribute(object, "logicalType"));
	AvroType	type = schema->type;

	if (name == NULL)
		return;
	if (is_logical(name, "date", type, AVRO_INT))
		schema->logical = AVRO_DATE;
	else if (is_logical(name, "time-millis", type, AVRO_INT))
		schema->logical = AVRO_TIME_MILLIS;
	else if (is_logical(name, "time-micros", type, AVRO_LONG))
		schema->logical = AVRO_TIME_MICROS;
	else if (is_logical(name, "timestamp-millis", type, AVRO_LONG))
		schema->logical = AVRO_TIMESTAMP_MILLIS;
	else if (is_logical(name, "timestamp-micros", type, AVRO_LONG))
		schema->logical = AVRO_TIMESTAMP_MICROS;
	else if (is_logical(name, "local-timestamp-millis", type, AVRO_LONG))
		schema->logical = AVRO_LOCAL_MILLIS;
	else if (is_logical(name, "local-timestamp-micros", type, AVRO_LONG))
		schema->logical = AVRO_LOCAL_MICROS;
	else if (is_logical(name, "uuid", type, AVRO_STRING) || (is_logical(name, "uuid", type, AVRO_FIXED) && schema->size == 16))
		schema->logical = AVRO_UUID;
	else if (is_logical(name, "duration", type, AVRO_FIXED) && schema->size == 12)
		schema->logical = AVRO_DURATION;
	else if ((type == AVRO_BYTES || type == AVRO_FIXED) && strcmp(name, "decimal") == 0 &&
			 number_of(attribute(object, "precision"), 1000, &schema->precision) && schema->precision > 0 &&
			 (attribute(object, "scale") == NULL || number_of(attribute(object, "scale"), schema->precision, &schema->scale)))
		schema->logical = AVRO_DECIMAL;
}

static Jsonb *
copy_default(JsonbValue *value)
{
	Jsonb	   *jsonb = JsonbValueToJsonb(value);
	Jsonb	   *copy = palloc(VARSIZE(jsonb));

	memcpy(copy, jsonb, VARSIZE(jsonb));
	return copy;
}

static void
parse_field(AvroParser *parser, AvroField *field, JsonbValue *value, const char *namespace, int depth)
{
	JsonbContainer *object;
	JsonbValue *part;

	if (!is_object(value))
		invalid("A field of a record must be an object.");
	object = value->val.binary.data;
	field->name = text_of(attribute(object, "name"));
	if (field->name == NULL || *field->name == '\0')
		invalid("A field of a record has no name.");
	part = attribute(object, "type");
	if (part == NULL)
		invalid(psprintf("The field \"%s\" has no type.", field->name));
	field->schema = parse(parser, part, namespace, depth);
	part = attribute(object, "default");
	if (part != NULL)
		field->fallback = copy_default(part);
	part = attribute(object, "aliases");
	if (part != NULL && part->type != jbvNull)
		field->aliases = texts_of(part, "aliases", &field->naliases);
}

static void
parse_record(AvroParser *parser, AvroSchema *schema, JsonbContainer *object, const char *namespace, int depth)
{
	JsonbValue *fields = attribute(object, "fields");

	namespace = give_name(parser, schema, object, namespace);
	if (!is_array(fields))
		invalid(psprintf("The record \"%s\" has no fields.", schema->name));
	schema->n = size_of(fields, "fields in a record");
	schema->fields = palloc0(Max(schema->n, 1) * sizeof(AvroField));
	for (int i = 0; i < schema->n; i++)
	{
		parse_field(parser, &schema->fields[i], getIthJsonbValueFromContainer(fields->val.binary.data, i),
					namespace, depth);
		for (int j = 0; j < i; j++)
			if (strcmp(schema->fields[i].name, schema->fields[j].name) == 0)
				invalid(psprintf("The record \"%s\" has the field \"%s\" twice.", schema->name, schema->fields[i].name));
	}
}

static void
parse_enum(AvroParser *parser, AvroSchema *schema, JsonbContainer *object, const char *namespace)
{
	give_name(parser, schema, object, namespace);
	schema->symbols = texts_of(attribute(object, "symbols"), "symbols", &schema->n);
	schema->default_symbol = text_of(attribute(object, "default"));
	if (schema->n == 0)
		invalid(psprintf("The enum \"%s\" has no symbols.", schema->name));
}

static AvroSchema *
parse_union(AvroParser *parser, JsonbValue *array, const char *namespace, int depth)
{
	AvroSchema *schema = new_schema(parser, AVRO_UNION);

	schema->n = size_of(array, "branches in a union");
	if (schema->n == 0)
		invalid("A union has no branches.");
	schema->branches = palloc(schema->n * sizeof(AvroSchema *));
	for (int i = 0; i < schema->n; i++)
	{
		schema->branches[i] = parse(parser, getIthJsonbValueFromContainer(array->val.binary.data, i), namespace, depth);
		if (schema->branches[i]->type == AVRO_UNION)
			invalid("A union has a union as its branch.");
	}
	return schema;
}

static AvroSchema *
parse_name(AvroParser *parser, const char *name, const char *namespace)
{
	AvroSchema *schema;

	for (int i = 0; i < lengthof(primitives); i++)
		if (strcmp(primitives[i].name, name) == 0)
			return new_schema(parser, primitives[i].type);
	schema = find_named(parser, full_name(name, namespace));
	if (schema == NULL)
		schema = find_named(parser, name);
	if (schema == NULL)
		invalid(psprintf("The type \"%s\" is not known.", name));
	return schema;
}

static AvroSchema *
parse_items(AvroParser *parser, JsonbContainer *object, const char *key, const char *namespace, int depth)
{
	JsonbValue *items = attribute(object, key);

	if (items == NULL)
		invalid(psprintf("A type of kind \"%s\" has no \"%s\".", strcmp(key, "items") == 0 ? "array" : "map", key));
	return parse(parser, items, namespace, depth);
}

static AvroSchema *
parse_object(AvroParser *parser, JsonbContainer *object, const char *namespace, int depth)
{
	JsonbValue *type = attribute(object, "type");
	const char *name = text_of(type);
	AvroSchema *schema;

	if (type == NULL)
		invalid("A type has no \"type\".");
	if (name == NULL)
		return parse(parser, type, namespace, depth);
	if (strcmp(name, "record") == 0 || strcmp(name, "error") == 0)
	{
		schema = new_schema(parser, AVRO_RECORD);
		parse_record(parser, schema, object, namespace, depth);
	}
	else if (strcmp(name, "enum") == 0)
	{
		schema = new_schema(parser, AVRO_ENUM);
		parse_enum(parser, schema, object, namespace);
	}
	else if (strcmp(name, "fixed") == 0)
	{
		schema = new_schema(parser, AVRO_FIXED);
		give_name(parser, schema, object, namespace);
		if (!number_of(attribute(object, "size"), PG_INT32_MAX / 2, &schema->size))
			invalid(psprintf("The fixed \"%s\" has no size.", schema->name));
		set_logical(schema, object);
	}
	else if (strcmp(name, "array") == 0)
	{
		schema = new_schema(parser, AVRO_ARRAY);
		schema->items = parse_items(parser, object, "items", namespace, depth);
	}
	else if (strcmp(name, "map") == 0)
	{
		schema = new_schema(parser, AVRO_MAP);
		schema->items = parse_items(parser, object, "values", namespace, depth);
	}
	else
	{
		schema = parse_name(parser, name, namespace);
		if (schema->name == NULL)
			set_logical(schema, object);
	}
	return schema;
}

static AvroSchema *
parse(AvroParser *parser, JsonbValue *value, const char *namespace, int depth)
{
	if (depth > AVRO_MAX_SCHEMA_DEPTH)
		invalid(psprintf("Its types are nested more than %d deep.", AVRO_MAX_SCHEMA_DEPTH));
	check_stack_depth();
	CHECK_FOR_INTERRUPTS();
	if (value->type == jbvString)
		return parse_name(parser, text_of(value), namespace);
	if (is_array(value))
		return parse_union(parser, value, namespace, depth + 1);
	if (is_object(value))
		return parse_object(parser, value->val.binary.data, namespace, depth + 1);
	invalid("A type must be a string, an object or an array.");
}

static AvroSchema *
parse_text(AvroParser *parser, const char *text)
{
	Jsonb	   *jsonb;
	JsonbValue	root;

	if (strlen(text) > AVRO_MAX_SCHEMA_TEXT)
		invalid(psprintf("It is longer than %d bytes.", AVRO_MAX_SCHEMA_TEXT));
	jsonb = DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(text)));
	if (JB_ROOT_IS_SCALAR(jsonb))
		root = *getIthJsonbValueFromContainer(&jsonb->root, 0);
	else
	{
		root.type = jbvBinary;
		root.val.binary.data = &jsonb->root;
		root.val.binary.len = VARSIZE(jsonb) - VARHDRSZ;
	}
	return parse(parser, &root, "", 0);
}

AvroSchema *
penstock_avro_schema(List *texts)
{
	AvroParser	parser = {0};
	HASHCTL		control = {.keysize = sizeof(((AvroName *) NULL)->name), .entrysize = sizeof(AvroName),
		.hcxt = CurrentMemoryContext};
	AvroSchema *schema = NULL;
	ListCell   *lc;

	parser.names = hash_create("penstock avro names", 32, &control, HASH_ELEM | HASH_STRINGS | HASH_CONTEXT);
	foreach(lc, texts)
		schema = parse_text(&parser, lfirst(lc));
	hash_destroy(parser.names);
	return schema;
}

/* ---- about a schema ---- */

const char *
penstock_avro_type_name(const AvroSchema *schema)
{
	static const char *const names[] = {
		"null", "boolean", "int", "long", "float", "double", "bytes", "string", "record", "enum", "array", "map",
		"union", "fixed"
	};

	return names[schema->type];
}

/*
 * penstock_avro_may_be_empty: can a value of the schema take no bytes at all?  How many of them a message has
 * says nothing about its length then.
 */
bool
penstock_avro_may_be_empty(AvroSchema *schema)
{
	if (schema->empty == 0)
	{
		check_stack_depth();
		schema->empty = -1;		/* also what a record within itself is taken for: it would never end */
		if (schema->type == AVRO_RECORD)
		{
			int			n = 0;

			while (n < schema->n && penstock_avro_may_be_empty(schema->fields[n].schema))
				n++;
			schema->empty = n == schema->n ? 1 : -1;
		}
		else if (schema->type == AVRO_NULL || (schema->type == AVRO_FIXED && schema->size == 0))
			schema->empty = 1;
	}
	return schema->empty > 0;
}
