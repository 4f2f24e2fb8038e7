/*
 * amqp_encode.c
 *	  From a PenstockMessage to an AMQP message's bytes.
 */
#include "postgres.h"

#include "port/pg_bswap.h"
#include "utils/builtins.h"
#include "utils/datetime.h"
#include "utils/timestamp.h"

#include "connector/amqp/amqp.h"

/* Properties that are written as what, in AMQP's order; message id, timestamp and key have places of their own. */
typedef enum FieldKind
{
	FIELD_MESSAGE_ID,
	FIELD_STRING,
	FIELD_SYMBOL,
	FIELD_BINARY,
	FIELD_TIME,
	FIELD_CREATION_TIME,
	FIELD_GROUP_ID,
	FIELD_NUMBER
} FieldKind;

static const struct
{
	const char *name;
	FieldKind	kind;
}			fields[] = {
	{"message_id", FIELD_MESSAGE_ID},
	{"user_id", FIELD_BINARY},
	{"to", FIELD_STRING},
	{"subject", FIELD_STRING},
	{"reply_to", FIELD_STRING},
	{"correlation_id", FIELD_STRING},
	{"content_type", FIELD_SYMBOL},
	{"content_encoding", FIELD_SYMBOL},
	{"expiry_time", FIELD_TIME},
	{"creation_time", FIELD_CREATION_TIME},
	{"group_id", FIELD_GROUP_ID},
	{"group_sequence", FIELD_NUMBER},
	{"reply_to_group_id", FIELD_STRING}
};

/* What only the broker says. */
static const char *const unwritable[] = {"first_acquirer", "delivery_count", "annotations"};

static const char annotation_prefix[] = "annotation:";

struct AmqpEncoder
{
	StringInfoData bytes;
	bool		durable;
	uint8		priority;
	int64		ttl;			/* ms, -1: none */
	const char *content_type;	/* NULL: none */
	bool		as_string;
};

/*
 * penstock_amqp_encoder makes an encoder in the current context.
 */
AmqpEncoder *
penstock_amqp_encoder(const PenstockQueue *queue)
{
	const PenstockConnectorApi *api = penstock_connector_api();
	AmqpEncoder *encoder = palloc0(sizeof(AmqpEncoder));

	initStringInfo(&encoder->bytes);
	encoder->durable = api->option_bool(queue, "durable");
	encoder->priority = (uint8) api->option_int(queue, "priority");
	encoder->ttl = api->option(queue, "ttl") ? api->option_int(queue, "ttl") : -1;
	encoder->content_type = api->option(queue, "content_type");
	encoder->as_string = strcmp(api->option(queue, "body"), "string") == 0;
	return encoder;
}

static void
put_byte(StringInfo bytes, unsigned char byte)
{
	appendStringInfoCharMacro(bytes, (char) byte);
}

static void
put_number(StringInfo bytes, unsigned char code, uint64 number, int width)
{
	put_byte(bytes, code);
	for (int i = width - 1; i >= 0; i--)
		put_byte(bytes, (unsigned char) (number >> (8 * i)));
}

/* A string (0xa1), binary (0xa0) or symbol (0xa3), given by the code of its short form. */
static void
put_variable(StringInfo bytes, unsigned char code, const char *value, int length)
{
	if (length <= 255)
		put_number(bytes, code, length, 1);
	else
		put_number(bytes, code + 0x10, length, 4);
	appendBinaryStringInfo(bytes, value, length);
}

static void
put_section(StringInfo bytes, unsigned char descriptor)
{
	put_byte(bytes, 0);
	put_number(bytes, 0x53, descriptor, 1);
}

/* A list (0xd0) or map (0xd1) of count elements that follow; its size is filled in by the end.  Returns where. */
static int
begin_compound(StringInfo bytes, unsigned char code, uint32 count)
{
	int			at;

	put_byte(bytes, code);
	at = bytes->len;
	for (int i = 0; i < 4; i++)
		put_byte(bytes, 0);
	for (int i = 3; i >= 0; i--)
		put_byte(bytes, (unsigned char) (count >> (8 * i)));
	return at;
}

static void
end_compound(StringInfo bytes, int at)
{
	uint32		size = pg_hton32((uint32) (bytes->len - at - 4));

	memcpy(bytes->data + at, &size, sizeof(size));
}

/* ms since 1970 */
static int64
to_ms(TimestampTz stamp)
{
	return stamp / 1000 + ((int64) (POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE)) * SECS_PER_DAY * 1000;
}

static const PenstockProperty *
find(const PenstockMessage *message, const char *name)
{
	for (int i = 0; i < message->nproperties; i++)
		if (strcmp(message->properties[i].name, name) == 0 && message->properties[i].value != NULL)
			return &message->properties[i];
	return NULL;
}

/* The property as a whole number within limits.  Returns false with a fault. */
static bool
to_number(const PenstockProperty *property, int64 most, int64 *number, PenstockFault *fault)
{
	char		digits[24];
	char	   *end;

	strlcpy(digits, property->value, Min(property->length + 1, sizeof(digits)));
	errno = 0;
	*number = strtoll(digits, &end, 10);
	if (property->length > 0 && property->length < sizeof(digits) && *end == '\0' && errno == 0 &&
		*number >= 0 && *number <= most)
		return true;
	(void) penstock_fault(fault, PENSTOCK_REFUSED, ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE,
						  "\"%s\" of an AMQP message must be a number from 0 to " INT64_FORMAT, property->name, most);
	return false;
}

/* Raises an error if it is no time. */
static int64
to_time(const PenstockProperty *property)
{
	char	   *text = pnstrdup(property->value, property->length);
	TimestampTz stamp = DatumGetTimestampTz(DirectFunctionCall3(timestamptz_in, CStringGetDatum(text),
																ObjectIdGetDatum(InvalidOid), Int32GetDatum(-1)));

	pfree(text);
	return to_ms(stamp);
}

static bool
put_header(AmqpEncoder *encoder, const PenstockMessage *message, PenstockFault *fault)
{
	StringInfo	bytes = &encoder->bytes;
	const PenstockProperty *property;
	bool		durable = encoder->durable;
	int64		priority = encoder->priority;
	int64		ttl = encoder->ttl;
	int			at;

	if ((property = find(message, "durable")) != NULL &&
		!parse_bool_with_len(property->value, property->length, &durable))
	{
		(void) penstock_fault(fault, PENSTOCK_REFUSED, ERRCODE_INVALID_PARAMETER_VALUE,
							  "\"durable\" of an AMQP message must be true or false");
		return false;
	}
	if ((property = find(message, "priority")) != NULL && !to_number(property, 255, &priority, fault))
		return false;
	if ((property = find(message, "ttl")) != NULL && !to_number(property, PG_UINT32_MAX, &ttl, fault))
		return false;

	put_section(bytes, 0x70);
	at = begin_compound(bytes, 0xD0, ttl >= 0 ? 3 : 2);
	put_byte(bytes, durable ? 0x41 : 0x42);
	put_number(bytes, 0x50, priority, 1);
	if (ttl >= 0)
		put_number(bytes, 0x70, ttl, 4);
	end_compound(bytes, at);
	return true;
}

static bool
is_annotation(const PenstockProperty *property)
{
	return property->value != NULL &&
		strncmp(property->name, annotation_prefix, strlen(annotation_prefix)) == 0;
}

/* Annotations: whole numbers as such, since brokers want delays and times so; everything else as strings. */
static void
put_annotations(StringInfo bytes, const PenstockMessage *message)
{
	int			n = 0;
	int			at;

	for (int i = 0; i < message->nproperties; i++)
		if (is_annotation(&message->properties[i]))
			n++;
	if (n == 0)
		return;
	put_section(bytes, 0x72);
	at = begin_compound(bytes, 0xD1, n * 2);
	for (int i = 0; i < message->nproperties; i++)
	{
		const PenstockProperty *property = &message->properties[i];
		const char *name = property->name + strlen(annotation_prefix);
		PenstockFault ignored;
		int64		number;

		if (!is_annotation(property))
			continue;
		put_variable(bytes, 0xA3, name, strlen(name));
		if (property->length > 0 && property->value[0] >= '0' && property->value[0] <= '9' &&
			to_number(property, PG_INT64_MAX, &number, &ignored))
			put_number(bytes, 0x81, number, 8);
		else
			put_variable(bytes, 0xA1, property->value, property->length);
	}
	end_compound(bytes, at);
}

static bool
put_field(AmqpEncoder *encoder, const PenstockMessage *message, int field, PenstockFault *fault)
{
	StringInfo	bytes = &encoder->bytes;
	const PenstockProperty *property = find(message, fields[field].name);
	int64		number;

	switch (fields[field].kind)
	{
		case FIELD_MESSAGE_ID:
			if (message->id != NULL)
			{
				put_variable(bytes, 0xA1, message->id, message->id_length);
				return true;
			}
			break;
		case FIELD_CREATION_TIME:
			if (property == NULL && message->timestamp != 0)
			{
				put_number(bytes, 0x83, to_ms(message->timestamp), 8);
				return true;
			}
			/* FALLTHROUGH */
		case FIELD_TIME:
			if (property != NULL)
			{
				put_number(bytes, 0x83, to_time(property), 8);
				return true;
			}
			break;
		case FIELD_GROUP_ID:
			if (property == NULL && message->key != NULL)
			{
				put_variable(bytes, 0xA1, message->key, message->key_length);
				return true;
			}
			/* FALLTHROUGH */
		case FIELD_STRING:
		case FIELD_BINARY:
		case FIELD_SYMBOL:
			if (property != NULL)
			{
				put_variable(bytes, fields[field].kind == FIELD_BINARY ? 0xA0 :
							 fields[field].kind == FIELD_SYMBOL ? 0xA3 : 0xA1, property->value, property->length);
				return true;
			}
			if (encoder->content_type != NULL && strcmp(fields[field].name, "content_type") == 0)
			{
				put_variable(bytes, 0xA3, encoder->content_type, strlen(encoder->content_type));
				return true;
			}
			break;
		case FIELD_NUMBER:
			if (property != NULL)
			{
				if (!to_number(property, PG_UINT32_MAX, &number, fault))
					return false;
				put_number(bytes, 0x70, number, 4);
				return true;
			}
			break;
	}
	put_byte(bytes, 0x40);
	return true;
}

static void
put_application_properties(StringInfo bytes, const PenstockMessage *message)
{
	int			at;

	if (message->nheaders == 0)
		return;
	put_section(bytes, 0x74);
	at = begin_compound(bytes, 0xD1, message->nheaders * 2);
	for (int i = 0; i < message->nheaders; i++)
	{
		const PenstockProperty *header = &message->headers[i];

		put_variable(bytes, 0xA1, header->name, strlen(header->name));
		if (header->value == NULL)
			put_byte(bytes, 0x40);
		else
			put_variable(bytes, 0xA1, header->value, header->length);
	}
	end_compound(bytes, at);
}

static void
put_body(AmqpEncoder *encoder, const PenstockMessage *message)
{
	StringInfo	bytes = &encoder->bytes;

	if (message->payload == NULL)
	{
		put_section(bytes, 0x77);
		put_byte(bytes, 0x40);
	}
	else
	{
		put_section(bytes, encoder->as_string ? 0x77 : 0x75);
		put_variable(bytes, encoder->as_string ? 0xA1 : 0xA0, message->payload, message->length);
	}
}

/*
 * penstock_amqp_encode makes the bytes of a message; they stay until the next call.  Returns false with a fault if a property
 * cannot be written so.
 */
bool
penstock_amqp_encode(AmqpEncoder *encoder, const PenstockMessage *message, pn_bytes_t *encoded, PenstockFault *fault)
{
	int			at;

	for (int i = 0; i < lengthof(unwritable); i++)
		if (find(message, unwritable[i]) != NULL)
		{
			(void) penstock_fault(fault, PENSTOCK_REFUSED, ERRCODE_FDW_ERROR,
								  "\"%s\" of an AMQP message cannot be written", unwritable[i]);
			return false;
		}
	resetStringInfo(&encoder->bytes);
	if (!put_header(encoder, message, fault))
		return false;
	put_annotations(&encoder->bytes, message);
	put_section(&encoder->bytes, 0x73);
	at = begin_compound(&encoder->bytes, 0xD0, lengthof(fields));
	for (int i = 0; i < lengthof(fields); i++)
		if (!put_field(encoder, message, i, fault))
			return false;
	end_compound(&encoder->bytes, at);
	put_application_properties(&encoder->bytes, message);
	put_body(encoder, message);
	*encoded = pn_bytes(encoder->bytes.len, encoder->bytes.data);
	return true;
}
