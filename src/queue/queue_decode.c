/*
 * queue_decode.c
 *	  From a message to a row of the foreign table.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/numeric.h"
#include "utils/rel.h"
#include "utils/timestamp.h"

#include "compat/compat.h"
#include "queue/queue_internal.h"

struct PenstockDecoder
{
	PenstockQueueColumns *columns;
	const PenstockConnector *connector;
	TupleDesc	desc;
	void	   *format_state;
	bool		metadata_only;	/* nobody looks at the payload's columns */
};

PenstockDecoder *
penstock_decoder_create(Relation rel, const PenstockQueue *queue)
{
	PenstockDecoder *decoder = palloc0(sizeof(PenstockDecoder));

	decoder->columns = penstock_queue_columns(rel, queue);
	decoder->connector = queue->connector;
	decoder->desc = RelationGetDescr(rel);
	if (decoder->columns->info.ncolumns > 0 && queue->connector->decode == NULL)
		decoder->format_state = decoder->columns->format->begin(&decoder->columns->info);
	return decoder;
}

/*
 * penstock_decoder_needs says which columns (attribute numbers) are looked at: if none is the payload's, it is not decoded, and a
 * message that cannot be decoded can be looked at.
 */
void
penstock_decoder_needs(PenstockDecoder *decoder, List *attnos)
{
	ListCell   *lc;

	decoder->metadata_only = true;
	foreach(lc, attnos)
		if (lfirst_int(lc) <= 0 ||
			decoder->columns->columns[lfirst_int(lc) - 1].kind == PENSTOCK_COLUMN_PAYLOAD)
			decoder->metadata_only = false;
}

/* ---- headers ---- */

/* Bytes that are no text are written as a bytea's. */
static void
push_text(JsonbParseState **state, JsonbIteratorToken token, const char *text, int length)
{
	JsonbValue	value;

	value.type = jbvString;
	if (pg_verify_mbstr(PG_UTF8, text, length, true) && memchr(text, 0, length) == NULL)
	{
		value.val.string.val = pg_any_to_server(text, length, PG_UTF8);
		value.val.string.len = value.val.string.val == text ? length : strlen(value.val.string.val);
	}
	else
	{
		value.val.string.val = palloc((Size) length * 2 + 3);
		memcpy(value.val.string.val, "\\x", 2);
		value.val.string.len = 2 + hex_encode(text, length, value.val.string.val + 2);
	}
	(void) pushJsonbValue(state, token, &value);
}

/*
 * penstock_properties_to_jsonb returns properties as an object, NULL if there are none.
 */
Jsonb *
penstock_properties_to_jsonb(const PenstockProperty *properties, int n)
{
	JsonbParseState *state = NULL;
	JsonbValue	null = {.type = jbvNull};

	if (n == 0)
		return NULL;
	(void) pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	for (int i = 0; i < n; i++)
	{
		const PenstockProperty *header = &properties[i];

		push_text(&state, WJB_KEY, header->name, strlen(header->name));
		if (header->value != NULL)
			push_text(&state, WJB_VALUE, header->value, header->length);
		else
			(void) pushJsonbValue(&state, WJB_VALUE, &null);
	}
	return JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_OBJECT, NULL));
}

/* The value as a header's text; nested ones as JSON. */
static void
header_value(JsonbValue *value, PenstockProperty *header)
{
	switch (value->type)
	{
		case jbvNull:
			return;
		case jbvString:
			header->value = pnstrdup(value->val.string.val, value->val.string.len);
			break;
		case jbvBool:
			header->value = value->val.boolean ? "true" : "false";
			break;
		case jbvNumeric:
			header->value = DatumGetCString(DirectFunctionCall1(numeric_out, NumericGetDatum(value->val.numeric)));
			break;
		default:
			header->value = JsonbToCString(NULL, value->val.binary.data, value->val.binary.len);
			break;
	}
	header->length = strlen(header->value);
}

void
penstock_properties_from_jsonb(Jsonb *headers, const PenstockProperty **properties, int *count)
{
	JsonbIterator *it;
	JsonbIteratorToken token;
	JsonbValue	value;
	PenstockProperty *list;
	int			n = 0;

	if (!JB_ROOT_IS_OBJECT(headers))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("headers must be a JSON object")));
	list = palloc0((JB_ROOT_COUNT(headers) + 1) * sizeof(PenstockProperty));
	it = JsonbIteratorInit(&headers->root);
	while ((token = JsonbIteratorNext(&it, &value, true)) != WJB_DONE)
	{
		if (token == WJB_KEY)
			list[n].name = pnstrdup(value.val.string.val, value.val.string.len);
		else if (token == WJB_VALUE)
			header_value(&value, &list[n++]);
	}
	*properties = list;
	*count = n;
}

/* ---- columns ---- */

/* Bytes as a value of the column's type: as they are for bytea, otherwise as text. */
static void
put_bytes(PenstockQueueColumn *column, const char *bytes, int length, int encoding, PenstockGivenRow *row)
{
	int			i = column->info.attno - 1;

	if (bytes == NULL)
		return;
	row->isnull[i] = false;
	if (column->info.type == BYTEAOID)
		row->values[i] = PointerGetDatum(cstring_to_text_with_len(bytes, length));
	else
		row->values[i] = penstock_format_value(&column->info, bytes, length, encoding);
}

static const PenstockProperty *
find_property(const PenstockProperty *list, int n, const char *name)
{
	/* the last of several */
	for (int i = n - 1; i >= 0; i--)
		if (strcmp(list[i].name, name) == 0)
			return &list[i];
	return NULL;
}

static void
put_property(PenstockQueueColumn *column, const PenstockProperty *property, int encoding, PenstockGivenRow *row)
{
	if (property != NULL)
		put_bytes(column, property->value, property->length, encoding, row);
}

/* A value of its own type, or as text where the column is one. */
static void
put_datum(PenstockQueueColumn *column, Datum value, Oid type, PGFunction output, PenstockGivenRow *row)
{
	int			i = column->info.attno - 1;

	row->isnull[i] = false;
	if (column->info.type == type)
		row->values[i] = value;
	else
		row->values[i] = CStringGetTextDatum(DatumGetCString(DirectFunctionCall1(output, value)));
}

static void
put_column(PenstockDecoder *decoder, PenstockQueueColumn *column, const PenstockMessage *message, PenstockGivenRow *row)
{
	int			encoding = decoder->columns->info.encoding;
	Jsonb	   *headers;

	switch (column->kind)
	{
		case PENSTOCK_COLUMN_PAYLOAD:
		case PENSTOCK_COLUMN_UNUSED:
			return;
		case PENSTOCK_COLUMN_RAW:
			put_bytes(column, message->payload, message->length, encoding, row);
			break;
		case PENSTOCK_COLUMN_KEY:
			put_bytes(column, message->key, message->key_length, encoding, row);
			break;
		case PENSTOCK_COLUMN_ID:
			put_bytes(column, message->id, message->id_length, encoding, row);
			break;
		case PENSTOCK_COLUMN_PARTITION:
			put_bytes(column, message->partition, strlen(message->partition), PG_UTF8, row);
			break;
		case PENSTOCK_COLUMN_TIMESTAMP:
			if (message->timestamp != 0)
				put_datum(column, TimestampTzGetDatum(message->timestamp), TIMESTAMPTZOID, timestamptz_out, row);
			break;
		case PENSTOCK_COLUMN_OFFSET:
			put_datum(column, Int64GetDatum(message->offset), INT8OID, int8out, row);
			break;
		case PENSTOCK_COLUMN_REDELIVERED:
			put_datum(column, BoolGetDatum(message->redelivered), BOOLOID, boolout, row);
			break;
		case PENSTOCK_COLUMN_HEADERS:
			headers = penstock_properties_to_jsonb(message->headers, message->nheaders);
			if (headers != NULL)
				put_datum(column, JsonbPGetDatum(headers), JSONBOID, jsonb_out, row);
			break;
		case PENSTOCK_COLUMN_HEADER:
			put_property(column, find_property(message->headers, message->nheaders, column->name), encoding, row);
			break;
		case PENSTOCK_COLUMN_PROPERTY:
			put_property(column, find_property(message->properties, message->nproperties, column->name), encoding, row);
			break;
	}
}

/* A stored, generated column is computed by nobody: a foreign table's are the remote side's.  NOT NULL is checked here. */
static void
check_not_null(PenstockDecoder *decoder, PenstockGivenRow *row)
{
	for (int i = 0; i < decoder->desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(decoder->desc, i);

		if (att->attnotnull && row->isnull[i] && !att->attisdropped)
		{
			penstock_format_set_column(NameStr(att->attname));
			ereport(ERROR,
					(errcode(ERRCODE_NOT_NULL_VIOLATION),
					 errmsg("null value in column \"%s\" violates not-null constraint", NameStr(att->attname)),
					 errdetail("The message has no value for it.")));
		}
	}
}

/*
 * penstock_decoder_row, see queue.h.
 */
void
penstock_decoder_row(PenstockDecoder *decoder, PenstockConsumer *consumer, const PenstockMessage *message,
					 PenstockGivenRow *row)
{
	int			natts = decoder->desc->natts;
	bool		checked_in = penstock_queue_check_in(decoder->columns, message);

	penstock_format_set_column(NULL);
	row->left_out = false;
	row->values = palloc0(natts * sizeof(Datum));
	row->isnull = palloc(natts * sizeof(bool));
	memset(row->isnull, true, natts * sizeof(bool));

	for (int i = 0; i < natts; i++)
	{
		PenstockQueueColumn *column = &decoder->columns->columns[i];

		if (column->kind == PENSTOCK_COLUMN_PAYLOAD || column->kind == PENSTOCK_COLUMN_UNUSED)
			continue;
		penstock_format_set_column(column->info.name);
		if (column->kind == PENSTOCK_COLUMN_RAW && (column->threshold >= 0 || checked_in))
		{
			/* a payload is in the ticket's column or in the others */
			if (column->threshold >= 0 && message->payload != NULL && message->length >= column->threshold)
			{
				row->values[i] = penstock_queue_claim(message);
				row->isnull[i] = false;
			}
			continue;
		}
		put_column(decoder, column, message, row);
	}
	penstock_format_set_column(NULL);
	if (decoder->connector->decode != NULL)
		decoder->connector->decode(consumer, message, decoder->desc, row->values, row->isnull);
	else if (decoder->columns->info.ncolumns > 0 && !decoder->metadata_only)
		decoder->columns->format->decode(decoder->format_state, message->payload, message->length,
										 row->values, row->isnull);
	if (!decoder->metadata_only)
		check_not_null(decoder, row);
	penstock_format_set_column(NULL);
}

const char *
penstock_decoder_column(void)
{
	return penstock_format_current_column();
}
