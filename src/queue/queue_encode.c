/*
 * queue_encode.c
 *	  From a row of the foreign table to a message.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"
#include "utils/rel.h"

#include "claim/claim.h"
#include "compat/compat.h"
#include "queue/queue_internal.h"

struct PenstockEncoder
{
	PenstockQueueColumns *columns;
	void	   *format_state;
	MemoryContext context;		/* of the last message */
	PenstockMessage message;
	StringInfoData payload;
};

PenstockEncoder *
penstock_encoder_create(Relation rel, const PenstockQueue *queue)
{
	PenstockEncoder *encoder = palloc0(sizeof(PenstockEncoder));

	encoder->columns = penstock_queue_columns(rel, queue);
	encoder->context = AllocSetContextCreate(CurrentMemoryContext, "penstock message", ALLOCSET_DEFAULT_SIZES);
	if (encoder->columns->info.ncolumns > 0)
	{
		if (encoder->columns->format->encode == NULL)
			ereport(ERROR,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("format \"%s\" cannot be written", encoder->columns->format->name)));
		encoder->format_state = encoder->columns->format->begin(&encoder->columns->info);
	}
	return encoder;
}

/* A value's bytes: a bytea's as they are, of other types the text in the payload's encoding. */
static const char *
bytes_of(PenstockEncoder *encoder, PenstockQueueColumn *column, Datum value, int *length)
{
	char	   *text;
	char	   *converted;

	if (column->info.type == BYTEAOID)
	{
		bytea	   *bytes = DatumGetByteaPP(value);

		*length = VARSIZE_ANY_EXHDR(bytes);
		return VARDATA_ANY(bytes);
	}
	if (column->redeem)
	{
		bytea	   *payload = penstock_claim_fetch(DatumGetClaim(value));

		*length = VARSIZE(payload) - VARHDRSZ;
		return VARDATA(payload);
	}
	text = OutputFunctionCall(&column->info.output, value);
	converted = pg_server_to_any(text, strlen(text), encoder->columns->info.encoding);
	*length = strlen(converted);
	return converted;
}

static TimestampTz
timestamp_of(PenstockQueueColumn *column, Datum value)
{
	if (column->info.type == TIMESTAMPTZOID)
		return DatumGetTimestampTz(value);
	return DatumGetTimestampTz(DirectFunctionCall3(timestamptz_in, CStringGetDatum(TextDatumGetCString(value)),
												   ObjectIdGetDatum(InvalidOid), Int32GetDatum(-1)));
}

static void
add_property(const PenstockProperty **list, int *n, const char *name, const char *value, int length)
{
	PenstockProperty *copy = palloc((*n + 1) * sizeof(PenstockProperty));

	if (*n > 0)
		memcpy(copy, *list, *n * sizeof(PenstockProperty));
	copy[*n].name = name;
	copy[*n].value = value;
	copy[*n].length = length;
	*list = copy;
	(*n)++;
}

static void
take_column(PenstockEncoder *encoder, PenstockQueueColumn *column, Datum value)
{
	PenstockMessage *message = &encoder->message;
	const char *bytes;
	int			length;

	switch (column->kind)
	{
		case PENSTOCK_COLUMN_PAYLOAD:
		case PENSTOCK_COLUMN_UNUSED:
		case PENSTOCK_COLUMN_OFFSET:
		case PENSTOCK_COLUMN_REDELIVERED:
			return;
		case PENSTOCK_COLUMN_RAW:
			message->payload = bytes_of(encoder, column, value, &message->length);
			break;
		case PENSTOCK_COLUMN_KEY:
			message->key = bytes_of(encoder, column, value, &message->key_length);
			break;
		case PENSTOCK_COLUMN_ID:
			message->id = bytes_of(encoder, column, value, &message->id_length);
			break;
		case PENSTOCK_COLUMN_TIMESTAMP:
			message->timestamp = timestamp_of(column, value);
			break;
		case PENSTOCK_COLUMN_PARTITION:
			message->partition = OutputFunctionCall(&column->info.output, value);
			break;
		case PENSTOCK_COLUMN_HEADERS:
			if (column->info.type == JSONBOID)
				penstock_properties_from_jsonb(DatumGetJsonbP(value), &message->headers, &message->nheaders);
			else
				penstock_properties_from_jsonb(DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(TextDatumGetCString(value)))),
											   &message->headers, &message->nheaders);
			break;
		case PENSTOCK_COLUMN_HEADER:
			bytes = bytes_of(encoder, column, value, &length);
			add_property(&message->headers, &message->nheaders, column->name, bytes, length);
			break;
		case PENSTOCK_COLUMN_PROPERTY:
			bytes = bytes_of(encoder, column, value, &length);
			add_property(&message->properties, &message->nproperties, column->name, bytes, length);
			break;
	}
}

/*
 * penstock_encoder_message returns the message that a row means.  A row whose payload columns are all NULL is a message
 * without payload only if there is a payload column with metadata 'payload'; otherwise the format says.
 */
const PenstockMessage *
penstock_encoder_message(PenstockEncoder *encoder, TupleTableSlot *slot)
{
	PenstockQueueColumns *columns = encoder->columns;
	MemoryContext old;

	MemoryContextReset(encoder->context);
	old = MemoryContextSwitchTo(encoder->context);
	memset(&encoder->message, 0, sizeof(PenstockMessage));
	slot_getallattrs(slot);

	/* headers first: single ones are added to them */
	for (int pass = 0; pass < 2; pass++)
		for (int i = 0; i < columns->natts; i++)
			if (!slot->tts_isnull[i] && (columns->columns[i].kind == PENSTOCK_COLUMN_HEADERS) == (pass == 0))
				take_column(encoder, &columns->columns[i], slot->tts_values[i]);
	if (columns->info.ncolumns > 0)
	{
		initStringInfo(&encoder->payload);
		columns->format->encode(encoder->format_state, slot->tts_values, slot->tts_isnull, &encoder->payload);
		encoder->message.payload = encoder->payload.data;
		encoder->message.length = encoder->payload.len;
	}
	MemoryContextSwitchTo(old);
	return &encoder->message;
}
