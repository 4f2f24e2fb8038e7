/*
 * avro_row.c
 *	  A message's values to the columns of a row.
 */
#include "postgres.h"

#include "miscadmin.h"

#include "format/avro/avro_format.h"

/*
 * penstock_avro_check_fields(state, schema, path): raises an error if a column has no field in the schema.
 */
void
penstock_avro_check_fields(AvroState *state, AvroSchema *schema, PenstockPath *path)
{
	AvroSchema *record = schema;

	check_stack_depth();
	for (int i = 0; schema->type == AVRO_UNION && i < schema->n; i++)
		if (schema->branches[i]->type == AVRO_RECORD)
			record = schema->branches[i];
	for (int i = 0; record->type == AVRO_RECORD && i < path->nkeys; i++)
	{
		int			field = 0;

		while (field < record->n && strcmp(record->fields[field].name, path->keys[i]->key) != 0)
			field++;
		if (field == record->n)
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_COLUMN),
					 errmsg("column \"%s\" has no field in the Avro schema",
							state->info->columns[path->keys[i]->below[0]].name),
					 errdetail("Record \"%s\" has no field \"%s\".", record->name, path->keys[i]->key)));
		penstock_avro_check_fields(state, record->fields[field].schema, path->keys[i]);
	}
}

/* ---- plans ---- */

static void
plan_targets(AvroState *state, AvroPlanNode *plan, PenstockPath *path)
{
	plan->ntargets = path->ncolumns;
	plan->targets = palloc(Max(path->ncolumns, 1) * sizeof(AvroTarget *));
	plan->attnos = palloc(Max(path->ncolumns, 1) * sizeof(int));
	for (int i = 0; i < path->ncolumns; i++)
	{
		PenstockFormatColumn *column = &state->info->columns[path->columns[i]];

		plan->targets[i] = penstock_avro_target(column);
		plan->attnos[i] = column->attno - 1;
	}
}

/* The plan of a part, NULL if no column needs it. */
static AvroPlanNode *
plan_part(AvroState *state, const AvroNode *node, PenstockPath *path)
{
	return path != NULL && node != NULL ? penstock_avro_plan_node(state, node, path) : NULL;
}

static void
plan_record(AvroState *state, AvroPlanNode *plan, PenstockPath *path)
{
	const AvroNode *node = plan->node;

	plan->nmembers = node->writer->n;
	plan->members = palloc0(Max(plan->nmembers, 1) * sizeof(AvroPlanNode *));
	plan->missing = palloc0(Max(node->nmissing, 1) * sizeof(AvroPlanNode *));
	for (int i = 0; i < plan->nmembers; i++)
		if (node->names[i] != NULL)
			plan->members[i] = plan_part(state, node->members[i],
										 penstock_path_key(path, node->names[i], strlen(node->names[i])));
	for (int i = 0; i < node->nmissing; i++)
		plan->missing[i] = plan_part(state, node->missing[i].node,
									 penstock_path_key(path, node->missing[i].name, strlen(node->missing[i].name)));
	plan->has_parts = path->nkeys > 0;
}

static void
plan_items(AvroState *state, AvroPlanNode *plan, PenstockPath **paths, int n)
{
	plan->items = palloc(Max(n, 1) * sizeof(AvroPlanNode *));
	for (int i = 0; i < n; i++)
		plan->items[i] = penstock_avro_plan_node(state, plan->node->items, paths[i]);
	plan->has_parts = n > 0;
}

AvroPlanNode *
penstock_avro_plan_node(AvroState *state, const AvroNode *node, PenstockPath *path)
{
	AvroPlanNode *plan = palloc0(sizeof(AvroPlanNode));

	plan->node = node;
	plan->path = path;
	if (node->mismatch || node->writer->type != AVRO_UNION)
		plan_targets(state, plan, path);
	if (node->mismatch)
		return plan;
	switch (node->writer->type)
	{
		case AVRO_UNION:
			/* the branch decides what becomes of the value */
			plan->nmembers = node->writer->n;
			plan->members = palloc(plan->nmembers * sizeof(AvroPlanNode *));
			for (int i = 0; i < plan->nmembers; i++)
				plan->members[i] = penstock_avro_plan_node(state, node->members[i], path);
			break;
		case AVRO_RECORD:
			plan_record(state, plan, path);
			break;
		case AVRO_ARRAY:
			plan_items(state, plan, path->elements, path->nelements);
			break;
		case AVRO_MAP:
			plan_items(state, plan, path->keys, path->nkeys);
			break;
		default:
			break;
	}
	return plan;
}

/* ---- a message ---- */

static void
run_record(AvroReader *reader, AvroPlanNode *plan, Datum *values, bool *isnull)
{
	const AvroNode *node = plan->node;

	for (int i = 0; i < plan->nmembers; i++)
	{
		if (plan->members[i] != NULL)
			penstock_avro_run(reader, plan->members[i], values, isnull);
		else
			penstock_avro_skip(reader, node->writer->fields[i].schema);
	}
	for (int i = 0; i < node->nmissing; i++)
	{
		bytea	   *fallback = node->missing[i].bytes;
		AvroReader	bytes;

		if (plan->missing[i] == NULL)
			continue;
		penstock_avro_start(&bytes, VARDATA(fallback), VARSIZE(fallback) - VARHDRSZ, reader->scratch);
		penstock_avro_run(&bytes, plan->missing[i], values, isnull);
	}
}

/* The index of the item's plan, -1: no column needs it. */
static int
item_of(AvroReader *reader, AvroPlanNode *plan, int index)
{
	PenstockPath *path;

	if (plan->node->writer->type == AVRO_MAP)
	{
		int			length;
		const char *key = penstock_avro_string(reader, &length);

		path = penstock_path_key(plan->path, key, length);
		return path ? path->position : -1;
	}
	for (int i = 0; i < plan->path->nelements; i++)
		if (plan->path->elements[i]->index == index)
			return i;
	return -1;
}

static void
run_items(AvroReader *reader, AvroPlanNode *plan, Datum *values, bool *isnull)
{
	AvroSchema *schema = plan->node->writer;
	int64		left = 0;

	for (int index = 0; penstock_avro_next_item(reader, schema, &left); index++)
	{
		int			item = item_of(reader, plan, index);

		if (item >= 0)
			penstock_avro_run(reader, plan->items[item], values, isnull);
		else
			penstock_avro_skip(reader, schema->items);
	}
}

static void
run_parts(AvroReader *reader, AvroPlanNode *plan, Datum *values, bool *isnull)
{
	penstock_avro_enter(reader);
	if (plan->node->writer->type == AVRO_RECORD)
		run_record(reader, plan, values, isnull);
	else
		run_items(reader, plan, values, isnull);
	reader->depth--;
}

/*
 * penstock_avro_run(reader, plan, values, isnull): reads a value into the columns that need it or a part of it.
 */
void
penstock_avro_run(AvroReader *reader, AvroPlanNode *plan, Datum *values, bool *isnull)
{
	const uint8 *start;
	int64		budget;

	while (plan->node->writer->type == AVRO_UNION && !plan->node->mismatch)
		plan = plan->members[penstock_avro_index(reader, plan->nmembers)];
	start = reader->at;
	budget = reader->budget;
	for (int i = 0; i < plan->ntargets; i++)
	{
		int			attno = plan->attnos[i];

		reader->at = start;
		reader->budget = budget;
		penstock_format_set_column(plan->targets[i]->column.name);
		values[attno] = penstock_avro_value(reader, plan->node, plan->targets[i], &isnull[attno]);
		penstock_format_set_column(NULL);
	}
	if (plan->has_parts)
	{
		reader->at = start;
		reader->budget = budget;
		run_parts(reader, plan, values, isnull);
	}
	else if (plan->ntargets == 0)
		penstock_avro_skip(reader, plan->node->writer);
}
