/*
 * amqp_decode.c
 *	  From an AMQP message's bytes to a PenstockMessage.
 *
 * A message is a row of sections, each a described value: header, delivery annotations, message annotations, properties,
 * application properties, body (any number of data or sequence sections, or one value), footer.
 */
#include "postgres.h"

#include "utils/datetime.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "connector/amqp/amqp.h"

#define SECTION_HEADER 0x70
#define SECTION_DELIVERY_ANNOTATIONS 0x71
#define SECTION_ANNOTATIONS 0x72
#define SECTION_PROPERTIES 0x73
#define SECTION_APPLICATION 0x74
#define SECTION_DATA 0x75
#define SECTION_SEQUENCE 0x76
#define SECTION_VALUE 0x77
#define SECTION_FOOTER 0x78

/* Headers and properties of one message, each; nobody has so many in good faith. */
#define MOST_PROPERTIES 10000
/* What is kept of a message's memory for the next one. */
#define KEEP_SIZE (64 * 1024)

/* The names of all that a column may ask for with OPTIONS (metadata ...); "annotation:" stands for annotation:NAME. */
const char *const penstock_amqp_metadata[] = {
	"durable", "priority", "ttl", "first_acquirer", "delivery_count",
	"user_id", "to", "subject", "reply_to", "correlation_id", "content_type", "content_encoding",
	"expiry_time", "creation_time", "group_id", "group_sequence", "reply_to_group_id",
	"annotations", "annotation:", NULL
};

/* Fields of the header and of the properties, in AMQP's order; NULL: not one of ours, or looked at below. */
static const char *const header_fields[] = {"durable", "priority", "ttl", "first_acquirer", "delivery_count"};
static const char *const property_fields[] = {
	NULL, "user_id", "to", "subject", "reply_to", "correlation_id", "content_type", "content_encoding",
	"expiry_time", "creation_time", "group_id", "group_sequence", "reply_to_group_id"
};

#define FIELD_DELIVERY_COUNT 4
#define FIELD_MESSAGE_ID 0
#define FIELD_CREATION_TIME 9
#define FIELD_GROUP_ID 10

typedef struct PropertyList
{
	PenstockProperty *items;
	int			n;
	int			room;
} PropertyList;

struct AmqpDecoder
{
	MemoryContext context;		/* the decoder's own */
	MemoryContext scratch;		/* of the message at hand */
	PropertyList headers;
	PropertyList properties;
	StringInfoData body;		/* a payload that is not one piece of the message */
	int			nbodies;
	unsigned char body_section;
	bool		wants_headers;	/* what no column shows is not taken out */
	bool		wants_properties;
	bool		broken;
};

/*
 * penstock_amqp_decoder makes a decoder in the current context.
 */
AmqpDecoder *
penstock_amqp_decoder(const PenstockQueue *queue)
{
	AmqpDecoder *decoder = palloc0(sizeof(AmqpDecoder));

	decoder->context = CurrentMemoryContext;
	decoder->wants_headers = queue->wants_headers;
	decoder->wants_properties = queue->wants_properties;
	decoder->scratch = AllocSetContextCreate(CurrentMemoryContext, "penstock amqp message", ALLOCSET_DEFAULT_SIZES);
	decoder->headers.room = decoder->properties.room = 32;
	decoder->headers.items = palloc(decoder->headers.room * sizeof(PenstockProperty));
	decoder->properties.items = palloc(decoder->properties.room * sizeof(PenstockProperty));
	initStringInfo(&decoder->body);
	return decoder;
}

/* A value's text, which lives as long as the message; NULL for null. */
static void
to_text(AmqpDecoder *decoder, const AmqpValue *value, const char **text, int *length)
{
	*text = NULL;
	*length = 0;
	if (value->type == AMQP_NULL)
		return;
	if (value->type == AMQP_STRING || value->type == AMQP_SYMBOL)
	{
		*text = value->bytes;
		*length = value->length;
	}
	else
	{
		StringInfoData buffer;

		initStringInfo(&buffer);
		if (!penstock_amqp_append_text(&buffer, value))
			decoder->broken = true;
		*text = buffer.data;
		*length = buffer.len;
	}
}

static void
add(AmqpDecoder *decoder, PropertyList *list, const char *name, const AmqpValue *value)
{
	PenstockProperty *item;

	if (list->n == MOST_PROPERTIES)
	{
		decoder->broken = true;
		return;
	}
	if (list->n == list->room)
	{
		list->room *= 2;
		list->items = repalloc(list->items, list->room * sizeof(PenstockProperty));
	}
	item = &list->items[list->n++];
	item->name = name;
	to_text(decoder, value, &item->value, &item->length);
}

/* The fields of a section that is a list, as properties; those that are null are left out. */
static void
read_fields(AmqpDecoder *decoder, const AmqpValue *section, const char *const *names, int nnames,
			PenstockMessage *message)
{
	AmqpReader	inside = section->inside;
	bool		header = names == header_fields;

	if (section->type != AMQP_LIST)
	{
		decoder->broken = true;
		return;
	}
	for (uint32 i = 0; i < section->count; i++)
	{
		AmqpValue	value;

		if (!penstock_amqp_next(&inside, &value))
		{
			decoder->broken = true;
			return;
		}
		if (value.type == AMQP_NULL || i >= nnames)
			continue;
		if (header && i == FIELD_DELIVERY_COUNT)
			message->redelivered = value.type == AMQP_UNSIGNED && value.u.uns > 0;
		if (!header && i == FIELD_MESSAGE_ID)
		{
			to_text(decoder, &value, &message->id, &message->id_length);
			continue;
		}
		if (decoder->wants_properties)
			add(decoder, &decoder->properties, names[i], &value);
		if (!header && i == FIELD_CREATION_TIME && value.type == AMQP_TIMESTAMP &&
			value.u.sig > 0 && value.u.sig < PG_INT64_MAX / 2000)
			message->timestamp = (value.u.sig -
								  ((int64) (POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE)) * SECS_PER_DAY * 1000) * 1000;
		if (!header && i == FIELD_GROUP_ID && value.type == AMQP_STRING)
		{
			message->key = value.bytes;
			message->key_length = value.length;
		}
	}
}

/* The entries of a section that is a map, as name and text; the names get a prefix. */
static void
read_map(AmqpDecoder *decoder, const AmqpValue *section, const char *prefix, PropertyList *list)
{
	AmqpReader	inside = section->inside;

	if (section->type != AMQP_MAP)
	{
		decoder->broken = true;
		return;
	}
	for (uint32 i = 0; i + 1 < section->count; i += 2)
	{
		AmqpValue	key;
		AmqpValue	value;
		StringInfoData name;

		if (!penstock_amqp_next(&inside, &key) || !penstock_amqp_next(&inside, &value))
		{
			decoder->broken = true;
			return;
		}
		initStringInfo(&name);
		appendStringInfoString(&name, prefix);
		if (key.type >= AMQP_LIST || !penstock_amqp_append_text(&name, &key))
			decoder->broken = true;
		else
			add(decoder, list, name.data, &value);
	}
}

static void
read_annotations(AmqpDecoder *decoder, const AmqpValue *section)
{
	StringInfoData json;
	AmqpValue	whole = {.type = AMQP_STRING};

	read_map(decoder, section, "annotation:", &decoder->properties);
	if (decoder->broken || section->count == 0)
		return;
	initStringInfo(&json);
	if (!penstock_amqp_append_json(&json, section, 0))
	{
		decoder->broken = true;
		return;
	}
	whole.bytes = json.data;
	whole.length = json.len;
	add(decoder, &decoder->properties, "annotations", &whole);
}

/* Pieces of data are one payload in the end. */
static void
read_data(AmqpDecoder *decoder, const AmqpValue *value, PenstockMessage *message)
{
	if (value->type != AMQP_BINARY)
	{
		decoder->broken = true;
		return;
	}
	if (decoder->nbodies == 1)
		appendBinaryStringInfo(&decoder->body, message->payload, message->length);
	if (decoder->nbodies >= 1)
		appendBinaryStringInfo(&decoder->body, value->bytes, value->length);
	message->payload = decoder->nbodies == 0 ? value->bytes : decoder->body.data;
	message->length = decoder->nbodies == 0 ? value->length : decoder->body.len;
}

/* The lists of a body are one array of JSON, closed at the message's end. */
static void
read_sequence(AmqpDecoder *decoder, const AmqpValue *value, PenstockMessage *message)
{
	StringInfo	body = &decoder->body;

	if (value->type != AMQP_LIST)
	{
		decoder->broken = true;
		return;
	}
	if (body->len == 0)
		appendStringInfoChar(body, '[');
	else if (body->len > 1 && value->count > 0)
		appendStringInfoChar(body, ',');
	if (!penstock_amqp_append_elements(body, value, 0))
		decoder->broken = true;
}

/* After the last section. */
static void
finish_body(AmqpDecoder *decoder, PenstockMessage *message)
{
	if (decoder->nbodies > 0 && decoder->body_section == SECTION_SEQUENCE)
	{
		appendStringInfoChar(&decoder->body, ']');
		message->payload = decoder->body.data;
		message->length = decoder->body.len;
	}
}

static void
read_value(AmqpDecoder *decoder, const AmqpValue *value, PenstockMessage *message)
{
	if (value->type == AMQP_NULL)
		return;
	if (value->type == AMQP_STRING || value->type == AMQP_BINARY || value->type == AMQP_SYMBOL)
	{
		message->payload = value->bytes;
		message->length = value->length;
		return;
	}
	if (!penstock_amqp_append_text(&decoder->body, value))
		decoder->broken = true;
	message->payload = decoder->body.data;
	message->length = decoder->body.len;
}

static void
read_body(AmqpDecoder *decoder, unsigned char section, const AmqpValue *value, PenstockMessage *message)
{
	/* sections of one kind, and a value alone */
	if (decoder->nbodies > 0 && (section == SECTION_VALUE || section != decoder->body_section))
		decoder->broken = true;
	else if (section == SECTION_DATA)
		read_data(decoder, value, message);
	else if (section == SECTION_SEQUENCE)
		read_sequence(decoder, value, message);
	else
		read_value(decoder, value, message);
	decoder->body_section = section;
	decoder->nbodies++;
}

static void
read_section(AmqpDecoder *decoder, const AmqpValue *section, PenstockMessage *message)
{
	switch (section->descriptor)
	{
		case SECTION_HEADER:
			read_fields(decoder, section, header_fields, lengthof(header_fields), message);
			break;
		case SECTION_ANNOTATIONS:
			if (decoder->wants_properties)
				read_annotations(decoder, section);
			break;
		case SECTION_PROPERTIES:
			read_fields(decoder, section, property_fields, lengthof(property_fields), message);
			break;
		case SECTION_APPLICATION:
			if (decoder->wants_headers)
				read_map(decoder, section, "", &decoder->headers);
			break;
		case SECTION_DATA:
		case SECTION_SEQUENCE:
		case SECTION_VALUE:
			read_body(decoder, (unsigned char) section->descriptor, section, message);
			break;
		case SECTION_DELIVERY_ANNOTATIONS:
		case SECTION_FOOTER:
			break;
		default:
			decoder->broken = true;
			break;
	}
}

/*
 * penstock_amqp_decode fills message with what the bytes hold; all of it points into the bytes and into the decoder, and stays until
 * the next call.  Bytes that are no AMQP message, or none at all, become the payload as they are: a format will find fault with them, and
 * they are that message's dead letter.
 */
void
penstock_amqp_decode(AmqpDecoder *decoder, const char *bytes, size_t length, PenstockMessage *message)
{
	AmqpReader	reader = {(const unsigned char *) bytes, (const unsigned char *) bytes + length};
	MemoryContext caller = MemoryContextSwitchTo(decoder->context);

	MemoryContextReset(decoder->scratch);
	if (decoder->body.maxlen > KEEP_SIZE)
	{
		pfree(decoder->body.data);
		initStringInfo(&decoder->body);
	}
	MemoryContextSwitchTo(decoder->scratch);
	resetStringInfo(&decoder->body);
	decoder->headers.n = decoder->properties.n = decoder->nbodies = 0;
	/* a message has a body, if only a null */
	decoder->broken = length == 0;
	memset(message, 0, sizeof(PenstockMessage));
	message->partition = "";

	while (reader.at < reader.end && !decoder->broken)
	{
		AmqpValue	section;

		if (penstock_amqp_next(&reader, &section))
			read_section(decoder, &section, message);
		else
			decoder->broken = true;
	}
	finish_body(decoder, message);
	if (decoder->broken)
	{
		memset(message, 0, sizeof(PenstockMessage));
		message->partition = "";
		message->payload = length > 0 ? bytes : "";
		message->length = (int) length;
		decoder->headers.n = decoder->properties.n = 0;
	}
	message->nheaders = decoder->headers.n;
	message->headers = decoder->headers.items;
	message->nproperties = decoder->properties.n;
	message->properties = decoder->properties.items;
	MemoryContextSwitchTo(caller);
}
