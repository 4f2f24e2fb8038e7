/*
 * queue_columns.c
 *	  What each column of a queue is: part of the payload, or metadata of the message.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "commands/defrem.h"
#include "foreign/foreign.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

#include "queue/queue_internal.h"

static const struct
{
	const char *name;
	PenstockColumnKind kind;
}			common[] =
{
	{"payload", PENSTOCK_COLUMN_RAW},
	{"key", PENSTOCK_COLUMN_KEY},
	{"message_id", PENSTOCK_COLUMN_ID},
	{"timestamp", PENSTOCK_COLUMN_TIMESTAMP},
	{"partition", PENSTOCK_COLUMN_PARTITION},
	{"offset", PENSTOCK_COLUMN_OFFSET},
	{"headers", PENSTOCK_COLUMN_HEADERS},
	{"redelivered", PENSTOCK_COLUMN_REDELIVERED},
};

#define HEADER_PREFIX "header:"

bool
penstock_metadata_kind(const PenstockConnector *connector, const char *metadata,
					   PenstockColumnKind *kind, const char **name)
{
	*name = metadata;
	for (int i = 0; i < lengthof(common); i++)
		if (strcmp(common[i].name, metadata) == 0)
		{
			*kind = common[i].kind;
			return true;
		}
	if (strncmp(metadata, HEADER_PREFIX, strlen(HEADER_PREFIX)) == 0)
	{
		*kind = PENSTOCK_COLUMN_HEADER;
		*name = metadata + strlen(HEADER_PREFIX);
		return **name != '\0';
	}
	*kind = PENSTOCK_COLUMN_PROPERTY;
	for (int i = 0; connector->metadata != NULL && connector->metadata[i] != NULL; i++)
	{
		const char *known = connector->metadata[i];
		size_t		length = strlen(known);

		/* one that ends with a colon is a prefix of names */
		if (strcmp(known, metadata) == 0 ||
			(length > 0 && known[length - 1] == ':' && strncmp(known, metadata, length) == 0))
			return true;
	}
	return false;
}

static void
fill_info(PenstockFormatColumn *info, Form_pg_attribute att, List *options)
{
	Oid			function;
	bool		varlena;

	info->attno = att->attnum;
	info->name = pstrdup(NameStr(att->attname));
	info->type = att->atttypid;
	info->typmod = att->atttypmod;
	info->options = options;
	getTypeInputInfo(att->atttypid, &function, &info->input_param);
	fmgr_info(function, &info->input);
	getTypeOutputInfo(att->atttypid, &function, &varlena);
	fmgr_info(function, &info->output);
}

/* Metadata whose value is not a text must stand in a column of its type, or in one of text. */
static void
check_type(const PenstockQueueColumn *column, Oid wanted)
{
	if (column->info.type == wanted || column->info.type == TEXTOID)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_FDW_INVALID_DATA_TYPE),
			 errmsg("column \"%s\" must be of type %s", column->info.name, format_type_be(wanted)),
			 errdetail("Its metadata is of that type.")));
}

/*
 * penstock_queue_columns, see queue_internal.h.
 */
PenstockQueueColumns *
penstock_queue_columns(Relation rel, const PenstockQueue *queue)
{
	PenstockQueueColumns *result = palloc0(sizeof(PenstockQueueColumns));
	TupleDesc	desc = RelationGetDescr(rel);
	const char *format = penstock_queue_option(queue, "format");

	result->natts = desc->natts;
	result->columns = palloc0(desc->natts * sizeof(PenstockQueueColumn));
	result->format = penstock_format_find(format);
	if (result->format == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_FDW_INVALID_ATTRIBUTE_VALUE),
				 errmsg("unknown format \"%s\"", format)));
	result->info.queue = queue;
	result->info.desc = desc;
	result->info.encoding = pg_char_to_encoding(penstock_queue_option(queue, "encoding"));
	result->info.columns = palloc0(desc->natts * sizeof(PenstockFormatColumn));

	for (int i = 0; i < desc->natts; i++)
	{
		PenstockQueueColumn *column = &result->columns[i];
		Form_pg_attribute att = TupleDescAttr(desc, i);
		List	   *options;
		ListCell   *lc;

		column->kind = PENSTOCK_COLUMN_UNUSED;
		column->threshold = -1;
		if (att->attisdropped || att->attgenerated)
			continue;
		options = GetForeignColumnOptions(RelationGetRelid(rel), att->attnum);
		fill_info(&column->info, att, options);
		column->kind = PENSTOCK_COLUMN_PAYLOAD;
		foreach(lc, options)
		{
			DefElem    *option = lfirst_node(DefElem, lc);

			if (strcmp(option->defname, "metadata") == 0)
				(void) penstock_metadata_kind(queue->connector, defGetString(option), &column->kind, &column->name);
		}
		penstock_queue_claim_column(column);
		result->claims = result->claims || column->threshold >= 0;
		switch (column->kind)
		{
			case PENSTOCK_COLUMN_PAYLOAD:
				result->info.columns[result->info.ncolumns++] = column->info;
				break;
			case PENSTOCK_COLUMN_TIMESTAMP:
				check_type(column, TIMESTAMPTZOID);
				break;
			case PENSTOCK_COLUMN_HEADERS:
				check_type(column, JSONBOID);
				break;
			case PENSTOCK_COLUMN_REDELIVERED:
				check_type(column, BOOLOID);
				break;
			case PENSTOCK_COLUMN_OFFSET:
				check_type(column, INT8OID);
				break;
			default:
				break;
		}
	}
	if (result->info.ncolumns > 0 && queue->connector->decode == NULL && result->format->check != NULL)
		result->format->check(&result->info);
	return result;
}
