/*
 * avro_resolve.c
 *	  Writer's and reader's schema together (Apache Avro 1.11 specification, "Schema Resolution").
 *
 * What only the values can tell (which branch of a union, which symbol) is left to them: a pair that does not match is
 * an error when a value of it is met.  Promotions need nothing here, the column's type is what counts in the end.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"

#include "format/avro/avro.h"

#define MAX_NODES 200000

typedef struct AvroPair
{
	AvroSchema *writer;
	AvroSchema *reader;
} AvroPair;

typedef struct AvroPairEntry
{
	AvroPair	pair;			/* key */
	AvroNode   *node;
} AvroPairEntry;

static AvroNode *resolve(HTAB *done, AvroSchema *writer, AvroSchema *reader);

/* ---- do two types match? ---- */

static const char *
unqualified(const char *name)
{
	const char *dot = strrchr(name, '.');

	return dot ? dot + 1 : name;
}

static bool
names_match(const AvroSchema *writer, const AvroSchema *reader)
{
	if (strcmp(unqualified(writer->name), unqualified(reader->name)) == 0)
		return true;
	for (int i = 0; i < reader->naliases; i++)
		if (strcmp(reader->aliases[i], writer->name) == 0)
			return true;
	return false;
}

static bool
types_match(const AvroSchema *writer, const AvroSchema *reader)
{
	if (writer->type == reader->type)
	{
		if (writer->type == AVRO_FIXED && writer->size != reader->size)
			return false;
		return writer->name == NULL || names_match(writer, reader);
	}
	switch (writer->type)
	{
		case AVRO_INT:
			return reader->type == AVRO_LONG || reader->type == AVRO_FLOAT || reader->type == AVRO_DOUBLE;
		case AVRO_LONG:
			return reader->type == AVRO_FLOAT || reader->type == AVRO_DOUBLE;
		case AVRO_FLOAT:
			return reader->type == AVRO_DOUBLE;
		case AVRO_STRING:
			return reader->type == AVRO_BYTES;
		case AVRO_BYTES:
			return reader->type == AVRO_STRING;
		default:
			return false;
	}
}

/* The reader's type for a writer's that is no union: of a union the first branch of the same type, or else the first that matches. */
static AvroSchema *
reader_for(const AvroSchema *writer, AvroSchema *reader)
{
	if (reader->type != AVRO_UNION)
		return types_match(writer, reader) ? reader : NULL;
	for (int i = 0; i < reader->n; i++)
		if (reader->branches[i]->type == writer->type && types_match(writer, reader->branches[i]))
			return reader->branches[i];
	for (int i = 0; i < reader->n; i++)
		if (types_match(writer, reader->branches[i]))
			return reader->branches[i];
	return NULL;
}

/* ---- records and enums ---- */

static AvroField *
reader_field(AvroSchema *reader, const char *name)
{
	for (int i = 0; i < reader->n; i++)
		if (strcmp(reader->fields[i].name, name) == 0)
			return &reader->fields[i];
	for (int i = 0; i < reader->n; i++)
		for (int j = 0; j < reader->fields[i].naliases; j++)
			if (strcmp(reader->fields[i].aliases[j], name) == 0)
				return &reader->fields[i];
	return NULL;
}

static void
add_missing(HTAB *done, AvroNode *node, AvroField *field)
{
	AvroMissing *missing = &node->missing[node->nmissing++];

	missing->name = field->name;
	missing->bytes = penstock_avro_fallback(field);
	if (missing->bytes == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_MOST_SPECIFIC_TYPE_MISMATCH),
				 errmsg("Avro schemas do not match"),
				 errdetail("The message has no field \"%s\", and the reader's schema no default for it.", field->name)));
	missing->node = resolve(done, field->schema, field->schema);
}

static void
resolve_record(HTAB *done, AvroNode *node)
{
	AvroSchema *writer = node->writer;
	AvroSchema *reader = node->reader;
	bool	   *found = palloc0(Max(reader->n, 1) * sizeof(bool));

	node->members = palloc0(Max(writer->n, 1) * sizeof(AvroNode *));
	node->names = palloc0(Max(writer->n, 1) * sizeof(char *));
	for (int i = 0; i < writer->n; i++)
	{
		AvroField  *field = writer == reader ? &reader->fields[i] : reader_field(reader, writer->fields[i].name);

		if (field == NULL || found[field - reader->fields])
			continue;
		found[field - reader->fields] = true;
		node->names[i] = field->name;
		node->members[i] = resolve(done, writer->fields[i].schema, field->schema);
	}
	node->missing = palloc0(Max(reader->n, 1) * sizeof(AvroMissing));
	for (int i = 0; i < reader->n; i++)
		if (!found[i])
			add_missing(done, node, &reader->fields[i]);
	pfree(found);
}

static void
resolve_enum(AvroNode *node)
{
	AvroSchema *reader = node->reader;

	node->symbols = palloc0(node->writer->n * sizeof(char *));
	for (int i = 0; i < node->writer->n; i++)
	{
		node->symbols[i] = reader->default_symbol;
		for (int j = 0; j < reader->n; j++)
			if (strcmp(node->writer->symbols[i], reader->symbols[j]) == 0)
				node->symbols[i] = reader->symbols[j];
	}
}

/* ---- any pair ---- */

static AvroNode *
resolve(HTAB *done, AvroSchema *writer, AvroSchema *reader)
{
	AvroPair	pair = {writer, reader};
	AvroPairEntry *entry;
	AvroNode   *node;
	bool		found;

	check_stack_depth();
	CHECK_FOR_INTERRUPTS();
	entry = hash_search(done, &pair, HASH_ENTER, &found);
	if (found)
		return entry->node;
	if (hash_get_num_entries(done) > MAX_NODES)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("Avro schemas are too large to be compared")));
	/* known before its parts, which may be of the same type again */
	entry->node = node = palloc0(sizeof(AvroNode));
	node->writer = writer;
	node->reader = reader;
	if (writer->type == AVRO_UNION)
	{
		node->members = palloc(writer->n * sizeof(AvroNode *));
		for (int i = 0; i < writer->n; i++)
			node->members[i] = resolve(done, writer->branches[i], writer == reader ? writer->branches[i] : reader);
		return node;
	}
	if (writer != reader)
		node->reader = reader_for(writer, reader);
	if (node->reader == NULL)
	{
		node->reader = reader;
		node->mismatch = true;
		return node;
	}
	/* what a number means is the reader's to say, in which unit it is, the writer's */
	if (node->reader->type == writer->type)
		node->logical = node->reader->logical != AVRO_PLAIN && writer->logical != AVRO_PLAIN ?
			writer->logical : node->reader->logical;
	if (writer->type == AVRO_RECORD)
		resolve_record(done, node);
	else if (writer->type == AVRO_ENUM)
		resolve_enum(node);
	else if (writer->type == AVRO_ARRAY || writer->type == AVRO_MAP)
		node->items = resolve(done, writer->items, node->reader->items);
	return node;
}

static const char *
describe(const AvroSchema *schema)
{
	const char *type = penstock_avro_type_name(schema);

	return schema->name ? psprintf("%s \"%s\"", type, schema->name) : type;
}

/*
 * penstock_avro_mismatch: a value was met that the reader's schema has no place for.
 */
void
penstock_avro_mismatch(const AvroNode *node)
{
	ereport(ERROR,
			(errcode(ERRCODE_MOST_SPECIFIC_TYPE_MISMATCH),
			 errmsg("Avro schemas do not match"),
			 errdetail("The message has a value of type %s, and the reader's schema %s.",
					   describe(node->writer), describe(node->reader))));
}

/*
 * penstock_avro_resolve(writer, reader): in the current context, as are the schemas.  reader NULL: the writer's.
 */
AvroNode *
penstock_avro_resolve(AvroSchema *writer, AvroSchema *reader)
{
	HASHCTL		control = {.keysize = sizeof(AvroPair), .entrysize = sizeof(AvroPairEntry), .hcxt = CurrentMemoryContext};
	HTAB	   *done = hash_create("penstock avro pairs", 64, &control, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	AvroNode   *node = resolve(done, writer, reader ? reader : writer);

	hash_destroy(done);
	return node;
}
