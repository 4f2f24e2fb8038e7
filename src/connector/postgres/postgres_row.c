/*
 * postgres_row.c
 *	  From pgoutput's messages to the rows and metadata of a foreign table.
 *
 * What stays in a batch is the message as it came (PenstockMessage.payload) and a PostgresRow that says where its tuples begin.  The
 * values are taken apart when the row is asked for.  A column that pgoutput did not send because it is stored out of line and was not changed
 * is taken from the old row, if that came along (REPLICA IDENTITY FULL); otherwise it is NULL, and named in the metadata "unchanged".
 */
#include "postgres.h"

#include "access/relation.h"
#include "catalog/pg_type.h"
#include "commands/defrem.h"
#include "foreign/foreign.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/json.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/numeric.h"
#include "utils/pg_lsn.h"
#include "utils/rel.h"
#include "utils/timestamp.h"

#include "connector/postgres/postgres_connector.h"

#define VALUE_NULL		(-1)
#define VALUE_UNCHANGED (-2)

const char *const penstock_postgres_metadata[] = {
	"operation", "commit_lsn", "commit_timestamp", "xid", "schema", "table", "new", "old", "old:", "unchanged", "origin", NULL
};

/* ---- the foreign table ---- */

static const char *
column_option(List *options, const char *name)
{
	ListCell   *lc;

	foreach(lc, options)
		if (strcmp(lfirst_node(DefElem, lc)->defname, name) == 0)
			return defGetString(lfirst_node(DefElem, lc));
	return NULL;
}

/* The property of that name; false: it is not one of ours.  The names are in the order of the enum. */
static bool
find_property(const char *name, PostgresProperty *property)
{
	for (int i = 0; penstock_postgres_metadata[i] != NULL; i++)
	{
		const char *known = penstock_postgres_metadata[i];

		*property = (PostgresProperty) i;
		if (i == POSTGRES_OLD_COLUMN ? strncmp(name, known, strlen(known)) == 0 : strcmp(name, known) == 0)
			return true;
	}
	return false;
}

static void
fill_target(PostgresTarget *target, Form_pg_attribute attribute, List *options)
{
	const char *metadata = column_option(options, "metadata");
	const char *remote = column_option(options, "column_name");
	Oid			input;

	target->is_property = metadata != NULL;
	if (metadata != NULL && !find_property(metadata, &target->property))
		return;
	target->used = true;
	if (metadata != NULL)
		target->remote = target->property == POSTGRES_OLD_COLUMN ? pstrdup(metadata + strlen("old:")) : NULL;
	else
		target->remote = pstrdup(remote ? remote : NameStr(attribute->attname));
	target->column.attno = attribute->attnum;
	target->column.name = pstrdup(NameStr(attribute->attname));
	target->column.type = attribute->atttypid;
	target->column.typmod = attribute->atttypmod;
	getTypeInputInfo(attribute->atttypid, &input, &target->column.input_param);
	fmgr_info_cxt(input, &target->column.input, CurrentMemoryContext);
}

/*
 * penstock_postgres_shape reads what the columns of a foreign table ask for, in the current context.
 */
PostgresShape *
penstock_postgres_shape(Oid relid)
{
	PostgresShape *shape = palloc0(sizeof(PostgresShape));
	Relation	rel = relation_open(relid, AccessShareLock);
	TupleDesc	desc = RelationGetDescr(rel);

	shape->context = CurrentMemoryContext;
	shape->natts = desc->natts;
	shape->targets = palloc0_array(PostgresTarget, desc->natts + 1);
	initStringInfo(&shape->scratch);
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute attribute = TupleDescAttr(desc, i);

		if (!attribute->attisdropped && attribute->attgenerated == '\0')
			fill_target(&shape->targets[i], attribute, GetForeignColumnOptions(relid, attribute->attnum));
	}
	relation_close(rel, AccessShareLock);
	return shape;
}

static int
find_column(const PostgresRelation *relation, const char *name)
{
	for (int i = 0; i < relation->ncolumns; i++)
		if (strcmp(relation->columns[i].name, name) == 0)
			return i;
	return -1;
}

/*
 * penstock_postgres_fit finds out which column of the relation goes into which of the foreign table, in the current context.  must_fit: the foreign table
 * may have no others (relation->missing).
 */
void
penstock_postgres_fit(const PostgresShape *shape, PostgresRelation *relation, bool must_fit)
{
	relation->column_of = palloc_array(int, shape->natts + 1);
	relation->missing = NULL;
	for (int i = 0; i < shape->natts; i++)
	{
		const PostgresTarget *target = &shape->targets[i];

		relation->column_of[i] = target->used && target->remote != NULL ? find_column(relation, target->remote) : -1;
		if (must_fit && target->used && !target->is_property && relation->column_of[i] < 0 && relation->missing == NULL)
			relation->missing = target->remote;
	}
}

/* ---- messages ---- */

/*
 * penstock_postgres_read_row reads a change: message is what follows its type, the places noted are those in the message with its type.
 */
bool
penstock_postgres_read_row(char type, const char *message, int length, const PostgresRelation *relation,
						   const PostgresTransaction *transaction, PostgresRow *row)
{
	PostgresReader reader = {.at = message, .end = message + length};
	uint8		kind;

	row->relation = relation;
	row->origin = transaction->origin;
	row->commit_lsn = transaction->commit_lsn;
	row->timestamp = transaction->timestamp;
	row->xid = transaction->xid;
	row->tuple = row->old = -1;
	row->old_is_key = false;
	row->operation = type == 'T' ? "truncate" : type == 'U' ? "update" : type == 'D' ? "delete" :
		XLogRecPtrIsInvalid(transaction->commit_lsn) ? "copy" : "insert";
	if (type == 'T')
		return true;

	(void) penstock_postgres_int32(&reader);
	kind = penstock_postgres_byte(&reader);
	if ((type == 'U' || type == 'D') && (kind == 'K' || kind == 'O'))
	{
		row->old = reader.at - message + 1;
		row->old_is_key = kind == 'K';
		penstock_postgres_skip_tuple(&reader, relation->ncolumns);
		if (type == 'U')
			kind = penstock_postgres_byte(&reader);
	}
	row->tuple = type == 'D' ? row->old : reader.at - message + 1;
	if (type != 'D')
		penstock_postgres_skip_tuple(&reader, relation->ncolumns);
	return !reader.bad && (type == 'D' ? row->old >= 0 : kind == 'N');
}

/* Where the values of a tuple that has been checked stand in the message.  which: 0 or 1, there is room for two. */
static void
split_tuple(PostgresShape *shape, const char *message, int at, const PostgresRelation *relation, int which, int **starts, int **lengths)
{
	PostgresReader reader = {.at = message + at + sizeof(uint16), .end = message + PG_INT32_MAX};

	if (relation->ncolumns > shape->room)
	{
		MemoryContext old = MemoryContextSwitchTo(shape->context);

		shape->room = relation->ncolumns;
		shape->starts = palloc_array(int, 2 * shape->room);
		shape->lengths = palloc_array(int, 2 * shape->room);
		MemoryContextSwitchTo(old);
	}
	*starts = shape->starts + which * shape->room;
	*lengths = shape->lengths + which * shape->room;
	for (int i = 0; i < relation->ncolumns; i++)
	{
		uint8		kind = penstock_postgres_byte(&reader);

		(*lengths)[i] = kind == 't' ? (int) penstock_postgres_int32(&reader) : kind == 'u' ? VALUE_UNCHANGED : VALUE_NULL;
		(*starts)[i] = reader.at - message;
		if (kind == 't')
			reader.at += (*lengths)[i];
	}
}

/* The row's tuple, with what was not changed filled in from the old one as far as that is here. */
static void
split_row(PostgresShape *shape, const PostgresRow *row, const char *message, int **starts, int **lengths)
{
	int		   *old_starts;
	int		   *old_lengths;

	split_tuple(shape, message, row->tuple, row->relation, 0, starts, lengths);
	if (row->old < 0 || row->old == row->tuple)
		return;
	for (int i = 0; i < row->relation->ncolumns; i++)
	{
		if ((*lengths)[i] != VALUE_UNCHANGED)
			continue;
		split_tuple(shape, message, row->old, row->relation, 1, &old_starts, &old_lengths);
		for (; i < row->relation->ncolumns; i++)
		{
			if ((*lengths)[i] != VALUE_UNCHANGED || old_lengths[i] < 0)
				continue;
			(*starts)[i] = old_starts[i];
			(*lengths)[i] = old_lengths[i];
		}
	}
}

/* ---- JSON ---- */

static bool
is_number(const char *text, int length)
{
	if (length > 0 && *text == '-')
		text++, length--;
	return length > 0 && *text >= '0' && *text <= '9';
}

static void
append_json_value(PostgresShape *shape, StringInfo json, Oid type, const char *text, int length)
{
	switch (type)
	{
		case BOOLOID:
			appendStringInfoString(json, length > 0 && *text == 't' ? "true" : "false");
			return;
		case INT2OID:
		case INT4OID:
		case INT8OID:
		case FLOAT4OID:
		case FLOAT8OID:
		case NUMERICOID:
			if (!is_number(text, length))
				break;
			/* FALLTHROUGH */
		case JSONOID:
		case JSONBOID:
			appendBinaryStringInfo(json, text, length);
			return;
	}
	resetStringInfo(&shape->scratch);
	appendBinaryStringInfo(&shape->scratch, text, length);
	escape_json(json, shape->scratch.data);
}

/* The values of a tuple as a JSON object; key: those of the replica identity only.  What is not there because it was not changed is left out. */
static void
append_json(PostgresShape *shape, StringInfo json, const PostgresRelation *relation, const char *message,
			const int *starts, const int *lengths, bool key)
{
	bool		first = true;

	appendStringInfoChar(json, '{');
	for (int i = 0; i < relation->ncolumns; i++)
	{
		if (lengths[i] == VALUE_UNCHANGED || (key && !relation->columns[i].key))
			continue;
		if (!first)
			appendStringInfoChar(json, ',');
		first = false;
		escape_json(json, relation->columns[i].name);
		appendStringInfoChar(json, ':');
		if (lengths[i] == VALUE_NULL)
			appendStringInfoString(json, "null");
		else
			append_json_value(shape, json, relation->columns[i].type, message + starts[i], lengths[i]);
	}
	appendStringInfoChar(json, '}');
}

static void
append_json_old(PostgresShape *shape, StringInfo json, const PostgresRow *row, const char *message)
{
	int		   *starts;
	int		   *lengths;

	split_tuple(shape, message, row->old, row->relation, 1, &starts, &lengths);
	append_json(shape, json, row->relation, message, starts, lengths, row->old_is_key);
}

static void
append_json_new(PostgresShape *shape, StringInfo json, const PostgresRow *row, const char *message)
{
	int		   *starts;
	int		   *lengths;

	split_row(shape, row, message, &starts, &lengths);
	append_json(shape, json, row->relation, message, starts, lengths, false);
}

/* ---- metadata ---- */

/* Names of the columns whose value did not come, as an array literal; nothing if there are none. */
static void
append_unchanged(PostgresShape *shape, StringInfo text, const PostgresRow *row, const char *message)
{
	int		   *starts;
	int		   *lengths;

	split_row(shape, row, message, &starts, &lengths);
	for (int i = 0; i < row->relation->ncolumns; i++)
	{
		if (lengths[i] != VALUE_UNCHANGED)
			continue;
		appendStringInfoString(text, text->len ? ",\"" : "{\"");
		for (const char *p = row->relation->columns[i].name; *p != '\0'; p++)
		{
			if (*p == '"' || *p == '\\')
				appendStringInfoChar(text, '\\');
			appendStringInfoChar(text, *p);
		}
		appendStringInfoChar(text, '"');
	}
	if (text->len > 0)
		appendStringInfoChar(text, '}');
}

static void
put_text(PostgresTarget *target, const char *text, int length, Datum *values, bool *isnull)
{
	int			i = target->column.attno - 1;

	values[i] = penstock_connector_api()->format_value(&target->column, text, length, GetDatabaseEncoding());
	isnull[i] = false;
}

static void
put_string(PostgresTarget *target, const char *text, Datum *values, bool *isnull)
{
	if (text != NULL)
		put_text(target, text, strlen(text), values, isnull);
}

/* A value whose own type is that of the column, otherwise as text. */
static void
put_datum(PostgresTarget *target, Datum value, Oid type, PGFunction output, Datum *values, bool *isnull)
{
	int			i = target->column.attno - 1;

	if (target->column.type != type)
		put_string(target, DatumGetCString(DirectFunctionCall1(output, value)), values, isnull);
	else
	{
		values[i] = value;
		isnull[i] = false;
	}
}

/* A value of the old row, if that came along. */
static void
put_old_column(PostgresShape *shape, PostgresTarget *target, const PostgresRow *row, const char *message, Datum *values, bool *isnull)
{
	int			column = row->relation->column_of[target->column.attno - 1];
	int		   *starts;
	int		   *lengths;

	if (column < 0 || row->old < 0 || (row->old_is_key && !row->relation->columns[column].key))
		return;
	split_tuple(shape, message, row->old, row->relation, 1, &starts, &lengths);
	if (lengths[column] >= 0)
		put_text(target, message + starts[column], lengths[column], values, isnull);
}

static void
put_composed(PostgresShape *shape, PostgresTarget *target, const PostgresRow *row, const char *message, Datum *values, bool *isnull)
{
	StringInfoData text;

	if (row->tuple < 0)
		return;
	initStringInfo(&text);
	if (target->property == POSTGRES_NEW && row->tuple != row->old)
		append_json_new(shape, &text, row, message);
	else if (target->property == POSTGRES_OLD && row->old >= 0)
		append_json_old(shape, &text, row, message);
	else if (target->property == POSTGRES_UNCHANGED)
		append_unchanged(shape, &text, row, message);
	if (text.len > 0)
		put_text(target, text.data, text.len, values, isnull);
	pfree(text.data);
}

static void
put_property(PostgresShape *shape, PostgresTarget *target, const PostgresRow *row, const char *message, Datum *values, bool *isnull)
{
	bool		copied = XLogRecPtrIsInvalid(row->commit_lsn);

	switch (target->property)
	{
		case POSTGRES_OPERATION:
			put_string(target, row->operation, values, isnull);
			break;
		case POSTGRES_COMMIT_LSN:
			if (!copied)
				put_datum(target, LSNGetDatum(row->commit_lsn), PG_LSNOID, pg_lsn_out, values, isnull);
			break;
		case POSTGRES_COMMIT_TIMESTAMP:
			if (!copied)
				put_datum(target, TimestampTzGetDatum(row->timestamp), TIMESTAMPTZOID, timestamptz_out, values, isnull);
			break;
		case POSTGRES_XID:
			if (!copied)
				put_datum(target, TransactionIdGetDatum(row->xid), XIDOID, xidout, values, isnull);
			break;
		case POSTGRES_SCHEMA:
			put_string(target, row->relation->schema, values, isnull);
			break;
		case POSTGRES_TABLE:
			put_string(target, row->relation->name, values, isnull);
			break;
		case POSTGRES_ORIGIN:
			put_string(target, row->origin, values, isnull);
			break;
		case POSTGRES_OLD_COLUMN:
			put_old_column(shape, target, row, message, values, isnull);
			break;
		case POSTGRES_NEW:
		case POSTGRES_OLD:
		case POSTGRES_UNCHANGED:
			put_composed(shape, target, row, message, values, isnull);
			break;
	}
}

/* ---- dead letters that come again ---- */

/* The value under a key, as text; NULL: none, or null. */
static char *
text_of_key(JsonbContainer *object, const char *key)
{
	JsonbValue	value;

	if (getKeyJsonValueFromContainer(object, key, strlen(key), &value) == NULL)
		return NULL;
	switch (value.type)
	{
		case jbvString:
			return pnstrdup(value.val.string.val, value.val.string.len);
		case jbvNumeric:
			return DatumGetCString(DirectFunctionCall1(numeric_out, NumericGetDatum(value.val.numeric)));
		case jbvBool:
			return value.val.boolean ? "true" : "false";
		case jbvBinary:
			return JsonbToCString(NULL, value.val.binary.data, value.val.binary.len);
		default:
			return NULL;
	}
}

static JsonbContainer *
object_of_key(JsonbContainer *object, const char *key)
{
	JsonbValue	value;

	if (getKeyJsonValueFromContainer(object, key, strlen(key), &value) == NULL || value.type != jbvBinary ||
		!JsonContainerIsObject(value.val.binary.data))
		return NULL;
	return value.val.binary.data;
}

/* The values of a message that is what penstock_postgres_describe wrote. */
static void
put_described(PostgresShape *shape, const PenstockMessage *message, Datum *values, bool *isnull)
{
	Datum		json = DirectFunctionCall1(jsonb_in, CStringGetDatum(pnstrdup(message->payload, message->length)));
	JsonbContainer *root = &DatumGetJsonbP(json)->root;
	JsonbContainer *new;
	JsonbContainer *old;

	if (!JsonContainerIsObject(root))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_TEXT_REPRESENTATION),
				 errmsg("a change must be a JSON object")));
	new = object_of_key(root, "new");
	old = object_of_key(root, "old");
	for (int i = 0; i < shape->natts; i++)
	{
		PostgresTarget *target = &shape->targets[i];
		JsonbContainer *row = new ? new : old;

		if (!target->used)
			continue;
		if (!target->is_property)
			put_string(target, row ? text_of_key(row, target->remote) : NULL, values, isnull);
		else if (target->property == POSTGRES_OLD_COLUMN)
			put_string(target, old ? text_of_key(old, target->remote) : NULL, values, isnull);
		else
			put_string(target, text_of_key(root, penstock_postgres_metadata[target->property]), values, isnull);
	}
}

/* ---- rows ---- */

/*
 * penstock_postgres_decode fills the columns of the foreign table that are the row's or our metadata, in the current context.  Raises the
 * type's error if a value does not fit.
 */
void
penstock_postgres_decode(PenstockConsumer *consumer, const PenstockMessage *message, TupleDesc desc, Datum *values, bool *isnull)
{
	PostgresShape *shape;
	const PostgresRow *row = message->row;
	int		   *starts = NULL;
	int		   *lengths = NULL;

	if (desc->natts == 0)
		return;
	/* a dead letter may come again while the source is away */
	shape = consumer ? consumer->shape : penstock_postgres_shape(TupleDescAttr(desc, 0)->attrelid);
	if (desc->natts != shape->natts)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("foreign table has changed")));
	if (row == NULL)
	{
		put_described(shape, message, values, isnull);
		return;
	}
	for (int i = 0; i < shape->natts; i++)
		if (shape->targets[i].used && shape->targets[i].is_property)
			put_property(shape, &shape->targets[i], row, message->payload, values, isnull);
	if (row->tuple < 0)
		return;
	split_row(shape, row, message->payload, &starts, &lengths);
	for (int i = 0; i < shape->natts; i++)
	{
		PostgresTarget *target = &shape->targets[i];
		int			column = row->relation->column_of[i];

		if (target->is_property || column < 0 || lengths[column] < 0)
			continue;
		if (row->old_is_key && row->tuple == row->old && !row->relation->columns[column].key)
			continue;
		put_text(target, message->payload + starts[column], lengths[column], values, isnull);
	}
}

/*
 * penstock_postgres_describe writes a row as JSON text whose keys are the metadata's names.
 */
void
penstock_postgres_describe(PenstockConsumer *consumer, const PenstockMessage *message, StringInfo text)
{
	const PostgresRow *row = message->row;
	StringInfoData unchanged;

	if (row == NULL)
	{
		appendBinaryStringInfo(text, message->payload, message->length);
		return;
	}
	appendStringInfo(text, "{\"operation\":\"%s\",\"schema\":", row->operation);
	escape_json(text, row->relation->schema);
	appendStringInfoString(text, ",\"table\":");
	escape_json(text, row->relation->name);
	if (!XLogRecPtrIsInvalid(row->commit_lsn))
	{
		appendStringInfo(text, ",\"commit_lsn\":\"%X/%X\",\"xid\":%u,\"commit_timestamp\":", LSN_FORMAT_ARGS(row->commit_lsn), row->xid);
		escape_json(text, DatumGetCString(DirectFunctionCall1(timestamptz_out, TimestampTzGetDatum(row->timestamp))));
	}
	if (row->origin != NULL)
	{
		appendStringInfoString(text, ",\"origin\":");
		escape_json(text, row->origin);
	}
	if (row->tuple >= 0 && row->tuple != row->old)
	{
		appendStringInfoString(text, ",\"new\":");
		append_json_new(consumer->shape, text, row, message->payload);
		initStringInfo(&unchanged);
		append_unchanged(consumer->shape, &unchanged, row, message->payload);
		if (unchanged.len > 0)
		{
			appendStringInfoString(text, ",\"unchanged\":");
			escape_json(text, unchanged.data);
		}
	}
	if (row->old >= 0)
	{
		appendStringInfoString(text, ",\"old\":");
		append_json_old(consumer->shape, text, row, message->payload);
	}
	appendStringInfoChar(text, '}');
}
