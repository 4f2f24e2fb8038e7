/*
 * rabbitmq_message.c
 *	  Messages: from frames, properties and headers of AMQP 0-9-1 to PenstockMessage, and back.
 *
 * A delivery comes as a method frame, a header frame with the properties, and as many body frames as it takes.
 * What librabbitmq decodes stays where it is until the channel's buffers are released, which is done once the
 * message has been given away: a body of one frame is not copied here.
 */
#include "postgres.h"

#include <math.h>

#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "connector/rabbitmq/rabbitmq.h"

/* A message takes part in PostgreSQL's own limit of 1 GB for a value. */
#define MAX_BODY	((uint64) MaxAllocSize - 1)

/* Nested headers beyond this depth are cut off. */
#define MAX_DEPTH	32

const char *const penstock_rabbitmq_metadata[] = {
	"exchange", "routing_key", "correlation_id", "reply_to", "type", "app_id", "user_id", "content_type",
	"content_encoding", "priority", "expiration", "delivery_mode", NULL
};

/* Short strings among the properties, where to find them, and which flag says that they are there. */
typedef struct ShortProperty
{
	const char *name;
	amqp_flags_t flag;
	size_t		offset;
} ShortProperty;

static const ShortProperty short_properties[] = {
	{"correlation_id", AMQP_BASIC_CORRELATION_ID_FLAG, offsetof(amqp_basic_properties_t, correlation_id)},
	{"reply_to", AMQP_BASIC_REPLY_TO_FLAG, offsetof(amqp_basic_properties_t, reply_to)},
	{"type", AMQP_BASIC_TYPE_FLAG, offsetof(amqp_basic_properties_t, type)},
	{"app_id", AMQP_BASIC_APP_ID_FLAG, offsetof(amqp_basic_properties_t, app_id)},
	{"user_id", AMQP_BASIC_USER_ID_FLAG, offsetof(amqp_basic_properties_t, user_id)},
	{"content_type", AMQP_BASIC_CONTENT_TYPE_FLAG, offsetof(amqp_basic_properties_t, content_type)},
	{"content_encoding", AMQP_BASIC_CONTENT_ENCODING_FLAG, offsetof(amqp_basic_properties_t, content_encoding)},
	{"expiration", AMQP_BASIC_EXPIRATION_FLAG, offsetof(amqp_basic_properties_t, expiration)}
};

/* exchange, routing key, the short strings, priority and delivery mode */
#define MAX_PROPERTIES	(lengthof(short_properties) + 4)

/* ---- coming in ---- */

void
penstock_rabbitmq_delivery_init(RabbitDelivery *delivery)
{
	memset(delivery, 0, sizeof(RabbitDelivery));
	delivery->context = AllocSetContextCreate(CurrentMemoryContext, "penstock rabbitmq message", ALLOCSET_DEFAULT_SIZES);
}

static PenstockOutcome
unexpected(RabbitLink *link, PenstockFault *fault)
{
	return penstock_fault(fault, PENSTOCK_AWAY, ERRCODE_PROTOCOL_VIOLATION,
						  "the broker at \"%s\" port %d sent frames in an order that AMQP 0-9-1 does not have",
						  link->host, link->port);
}

static PenstockOutcome
take_body(RabbitDelivery *delivery, RabbitLink *link, amqp_bytes_t part, PenstockFault *fault)
{
	MemoryContext before;

	if (!delivery->has_header || part.len > delivery->body_size - delivery->body_got)
		return unexpected(link, fault);
	if (delivery->body_got == 0 && part.len == delivery->body_size)
		delivery->body = part.bytes;
	else
	{
		if (delivery->parts.data == NULL)
		{
			before = MemoryContextSwitchTo(delivery->context);
			initStringInfo(&delivery->parts);
			MemoryContextSwitchTo(before);
		}
		appendBinaryStringInfo(&delivery->parts, part.bytes, (int) part.len);
		delivery->body = delivery->parts.data;
	}
	delivery->body_got += part.len;
	return PENSTOCK_OK;
}

PenstockOutcome
penstock_rabbitmq_delivery_take(RabbitDelivery *delivery, RabbitLink *link, const amqp_frame_t *frame, bool *complete,
								PenstockFault *fault)
{
	PenstockOutcome outcome = PENSTOCK_OK;

	*complete = false;
	if (frame->frame_type == AMQP_FRAME_METHOD)
	{
		if (delivery->begun)
			return unexpected(link, fault);
		delivery->begun = true;
		if (frame->payload.method.id == AMQP_BASIC_DELIVER_METHOD)
		{
			const amqp_basic_deliver_t *method = frame->payload.method.decoded;

			delivery->tag = method->delivery_tag;
			delivery->redelivered = method->redelivered != 0;
			delivery->exchange = method->exchange;
			delivery->routing_key = method->routing_key;
		}
		else if (frame->payload.method.id == AMQP_BASIC_GET_OK_METHOD)
		{
			const amqp_basic_get_ok_t *method = frame->payload.method.decoded;

			delivery->tag = method->delivery_tag;
			delivery->redelivered = method->redelivered != 0;
			delivery->exchange = method->exchange;
			delivery->routing_key = method->routing_key;
		}
		return PENSTOCK_OK;
	}
	if (!delivery->begun)
		return unexpected(link, fault);
	if (frame->frame_type == AMQP_FRAME_HEADER)
	{
		if (delivery->has_header || frame->payload.properties.class_id != AMQP_BASIC_CLASS)
			return unexpected(link, fault);
		delivery->has_header = true;
		delivery->properties = frame->payload.properties.decoded;
		delivery->body_size = frame->payload.properties.body_size;
		if (delivery->body_size > MAX_BODY)
			return penstock_fault(fault, PENSTOCK_REFUSED, ERRCODE_PROGRAM_LIMIT_EXCEEDED,
								  "a message of %llu bytes is too large", (unsigned long long) delivery->body_size);
	}
	else
		outcome = take_body(delivery, link, frame->payload.body_fragment, fault);
	*complete = outcome == PENSTOCK_OK && delivery->body_got == delivery->body_size;
	return outcome;
}

void
penstock_rabbitmq_delivery_done(RabbitDelivery *delivery, RabbitLink *link, amqp_channel_t channel)
{
	delivery->begun = false;
	delivery->has_header = false;
	delivery->properties = NULL;
	delivery->body_size = delivery->body_got = 0;
	delivery->body = NULL;
	delivery->parts.data = NULL;
	MemoryContextReset(delivery->context);
	amqp_maybe_release_buffers_on_channel(link->state, channel);
}

static char *
bytes_to_cstring(amqp_bytes_t bytes)
{
	return pnstrdup(bytes.bytes ? bytes.bytes : "", bytes.len);
}

/* A JSON string; what is not UTF-8 is found out where headers are used. */
static void
append_json_string(StringInfo text, amqp_bytes_t bytes)
{
	const unsigned char *c = bytes.bytes;

	appendStringInfoChar(text, '"');
	for (size_t i = 0; i < bytes.len; i++)
	{
		if (c[i] == '"' || c[i] == '\\')
			appendStringInfoChar(text, '\\');
		if (c[i] < ' ')
			appendStringInfo(text, "\\u%04x", c[i]);
		else
			appendStringInfoChar(text, (char) c[i]);
	}
	appendStringInfoChar(text, '"');
}

static void
append_decimal(StringInfo text, amqp_decimal_t decimal)
{
	char		digits[16];
	int			n = snprintf(digits, sizeof(digits), "%d", (int) (int32) decimal.value);
	int			scale = Min(decimal.decimals, 30);

	if (digits[0] == '-')
		appendStringInfoChar(text, '-');
	if (digits[0] == '-')
		memmove(digits, digits + 1, n--);
	if (n <= scale)
	{
		appendStringInfoString(text, "0.");
		for (int i = n; i < scale; i++)
			appendStringInfoChar(text, '0');
		appendStringInfoString(text, digits);
	}
	else
	{
		appendBinaryStringInfo(text, digits, n - scale);
		if (scale > 0)
			appendStringInfo(text, ".%s", digits + n - scale);
	}
}

static void
append_float(StringInfo text, double value, bool json)
{
	/* JSON has no such numbers */
	if (json && !isfinite(value))
		appendStringInfo(text, "\"%s\"", isnan(value) ? "NaN" : value > 0 ? "Infinity" : "-Infinity");
	else
		appendStringInfo(text, "%.17g", value);
}

static void
append_timestamp(StringInfo text, uint64 seconds)
{
	char		buffer[64];
	time_t		time = (time_t) Min(seconds, UINT64CONST(253402300799));	/* the end of 9999 */
	struct tm	parts;

	gmtime_r(&time, &parts);
	strftime(buffer, sizeof(buffer), "%Y-%m-%dT%H:%M:%SZ", &parts);
	appendStringInfoString(text, buffer);
}

/*
 * A header's value as text: strings and bytes as they are, tables and arrays as JSON, inside of which (json)
 * everything is.  Returns false for void.
 */
static bool
append_value(StringInfo text, const amqp_field_value_t *value, bool json, int depth)
{
	switch (value->kind)
	{
		case AMQP_FIELD_KIND_BOOLEAN:
			appendStringInfoString(text, value->value.boolean ? "true" : "false");
			break;
		case AMQP_FIELD_KIND_I8:
			appendStringInfo(text, "%d", value->value.i8);
			break;
		case AMQP_FIELD_KIND_U8:
			appendStringInfo(text, "%u", value->value.u8);
			break;
		case AMQP_FIELD_KIND_I16:
			appendStringInfo(text, "%d", value->value.i16);
			break;
		case AMQP_FIELD_KIND_U16:
			appendStringInfo(text, "%u", value->value.u16);
			break;
		case AMQP_FIELD_KIND_I32:
			appendStringInfo(text, "%d", value->value.i32);
			break;
		case AMQP_FIELD_KIND_U32:
			appendStringInfo(text, "%u", value->value.u32);
			break;
		case AMQP_FIELD_KIND_I64:
			appendStringInfo(text, INT64_FORMAT, (int64) value->value.i64);
			break;
		case AMQP_FIELD_KIND_U64:
			appendStringInfo(text, UINT64_FORMAT, (uint64) value->value.u64);
			break;
		case AMQP_FIELD_KIND_F32:
			append_float(text, value->value.f32, json);
			break;
		case AMQP_FIELD_KIND_F64:
			append_float(text, value->value.f64, json);
			break;
		case AMQP_FIELD_KIND_DECIMAL:
			append_decimal(text, value->value.decimal);
			break;
		case AMQP_FIELD_KIND_UTF8:
		case AMQP_FIELD_KIND_BYTES:
			if (json)
				append_json_string(text, value->value.bytes);
			else
				appendBinaryStringInfo(text, value->value.bytes.bytes, (int) value->value.bytes.len);
			break;
		case AMQP_FIELD_KIND_TIMESTAMP:
			if (json)
				appendStringInfoChar(text, '"');
			append_timestamp(text, value->value.u64);
			if (json)
				appendStringInfoChar(text, '"');
			break;
		case AMQP_FIELD_KIND_TABLE:
			appendStringInfoChar(text, '{');
			for (int i = 0; depth < MAX_DEPTH && i < value->value.table.num_entries; i++)
			{
				const amqp_table_entry_t *entry = &value->value.table.entries[i];

				if (i > 0)
					appendStringInfoChar(text, ',');
				append_json_string(text, entry->key);
				appendStringInfoChar(text, ':');
				if (!append_value(text, &entry->value, true, depth + 1))
					appendStringInfoString(text, "null");
			}
			appendStringInfoChar(text, '}');
			break;
		case AMQP_FIELD_KIND_ARRAY:
			appendStringInfoChar(text, '[');
			for (int i = 0; depth < MAX_DEPTH && i < value->value.array.num_entries; i++)
			{
				if (i > 0)
					appendStringInfoChar(text, ',');
				if (!append_value(text, &value->value.array.entries[i], true, depth + 1))
					appendStringInfoString(text, "null");
			}
			appendStringInfoChar(text, ']');
			break;
		default:
			return false;
	}
	return true;
}

static void
put_property(PenstockProperty *properties, int *n, const char *name, const char *value, size_t length)
{
	properties[*n].name = name;
	properties[*n].value = value;
	properties[*n].length = (int) length;
	(*n)++;
}

static void
put_number(PenstockProperty *properties, int *n, const char *name, int number)
{
	char	   *text = psprintf("%d", number);

	put_property(properties, n, name, text, strlen(text));
}

static void
put_headers(const amqp_table_t *table, PenstockMessage *message)
{
	PenstockProperty *headers = palloc(sizeof(PenstockProperty) * table->num_entries);

	for (int i = 0; i < table->num_entries; i++)
	{
		const amqp_table_entry_t *entry = &table->entries[i];

		headers[i].name = bytes_to_cstring(entry->key);
		headers[i].value = NULL;
		headers[i].length = 0;
		if (entry->value.kind == AMQP_FIELD_KIND_UTF8 || entry->value.kind == AMQP_FIELD_KIND_BYTES)
		{
			headers[i].value = entry->value.value.bytes.bytes ? entry->value.value.bytes.bytes : "";
			headers[i].length = (int) entry->value.value.bytes.len;
		}
		else
		{
			StringInfoData text;

			initStringInfo(&text);
			if (append_value(&text, &entry->value, false, 0))
			{
				headers[i].value = text.data;
				headers[i].length = text.len;
			}
		}
	}
	message->headers = headers;
	message->nheaders = table->num_entries;
}

static void
put_properties(const RabbitDelivery *delivery, PenstockMessage *message)
{
	const amqp_basic_properties_t *given = delivery->properties;
	PenstockProperty *properties = palloc(sizeof(PenstockProperty) * MAX_PROPERTIES);
	int			n = 0;

	put_property(properties, &n, "exchange", delivery->exchange.bytes ? delivery->exchange.bytes : "",
				 delivery->exchange.len);
	put_property(properties, &n, "routing_key", message->key, message->key_length);
	for (int i = 0; i < lengthof(short_properties); i++)
		if ((given->_flags & short_properties[i].flag) != 0)
		{
			amqp_bytes_t value = *(const amqp_bytes_t *) ((const char *) given + short_properties[i].offset);

			put_property(properties, &n, short_properties[i].name, value.bytes ? value.bytes : "", value.len);
		}
	if ((given->_flags & AMQP_BASIC_PRIORITY_FLAG) != 0)
		put_number(properties, &n, "priority", given->priority);
	if ((given->_flags & AMQP_BASIC_DELIVERY_MODE_FLAG) != 0)
		put_number(properties, &n, "delivery_mode", given->delivery_mode);
	message->properties = properties;
	message->nproperties = n;
}

/*
 * penstock_rabbitmq_delivery_message fills what the broker sent into the message; offset and next_at are the caller's.
 */
void
penstock_rabbitmq_delivery_message(RabbitDelivery *delivery, PenstockMessage *message)
{
	const amqp_basic_properties_t *given = delivery->properties;
	MemoryContext before = MemoryContextSwitchTo(delivery->context);

	memset(message, 0, sizeof(PenstockMessage));
	message->payload = delivery->body ? delivery->body : "";
	message->length = (int) delivery->body_size;
	message->key = delivery->routing_key.bytes ? delivery->routing_key.bytes : "";
	message->key_length = (int) delivery->routing_key.len;
	message->redelivered = delivery->redelivered;
	message->partition = "";
	if ((given->_flags & AMQP_BASIC_MESSAGE_ID_FLAG) != 0 && given->message_id.len > 0)
	{
		message->id = given->message_id.bytes;
		message->id_length = (int) given->message_id.len;
	}
	if ((given->_flags & AMQP_BASIC_TIMESTAMP_FLAG) != 0 && given->timestamp < UINT64CONST(253402300800))
		message->timestamp = time_t_to_timestamptz((pg_time_t) given->timestamp);
	if (delivery->wants_properties)
		put_properties(delivery, message);
	if (delivery->wants_headers && (given->_flags & AMQP_BASIC_HEADERS_FLAG) != 0 && given->headers.num_entries > 0)
		put_headers(&given->headers, message);
	MemoryContextSwitchTo(before);
}

int64
penstock_rabbitmq_delivery_offset(const RabbitDelivery *delivery)
{
	static const char name[] = "x-stream-offset";
	const amqp_table_t *headers = &delivery->properties->headers;

	if ((delivery->properties->_flags & AMQP_BASIC_HEADERS_FLAG) == 0)
		return -1;
	/* the broker adds it, so that it comes last or first, depending on its version */
	for (int i = 0; i < headers->num_entries; i++)
	{
		const amqp_table_entry_t *entry = &headers->entries[i];

		if (entry->key.len == sizeof(name) - 1 && memcmp(entry->key.bytes, name, sizeof(name) - 1) == 0 &&
			entry->value.kind == AMQP_FIELD_KIND_I64)
			return entry->value.value.i64;
	}
	return -1;
}

/* ---- going out ---- */

static amqp_bytes_t
outgoing_bytes(const char *value, int length)
{
	amqp_bytes_t result = {.len = length, .bytes = unconstify(char *, value)};

	return result;
}

static PenstockOutcome
too_long(const char *what, PenstockFault *fault)
{
	return penstock_fault(fault, PENSTOCK_REFUSED, ERRCODE_STRING_DATA_RIGHT_TRUNCATION,
						  "%s of a message is longer than %d bytes", what, RABBITMQ_SHORT_STRING);
}

static PenstockOutcome
outgoing_number(const PenstockProperty *property, int max, uint8_t *number, PenstockFault *fault)
{
	char	   *text = pnstrdup(property->value, property->length);
	char	   *end;
	long		value = strtol(text, &end, 10);

	if (end == text || *end != '\0' || value < 0 || value > max)
		return penstock_fault(fault, PENSTOCK_REFUSED, ERRCODE_INVALID_PARAMETER_VALUE,
							  "%s of a message is not a number from 0 to %d", property->name, max);
	*number = (uint8_t) value;
	return PENSTOCK_OK;
}

static PenstockOutcome
outgoing_property(const PenstockProperty *property, amqp_basic_properties_t *properties, const char **exchange,
				  const char **routing_key, PenstockFault *fault)
{
	if (strcmp(property->name, "priority") == 0)
	{
		properties->_flags |= AMQP_BASIC_PRIORITY_FLAG;
		return outgoing_number(property, 255, &properties->priority, fault);
	}
	if (strcmp(property->name, "delivery_mode") == 0)
	{
		properties->_flags |= AMQP_BASIC_DELIVERY_MODE_FLAG;
		return outgoing_number(property, 2, &properties->delivery_mode, fault);
	}
	if (property->length > RABBITMQ_SHORT_STRING)
		return too_long(property->name, fault);
	if (strcmp(property->name, "exchange") == 0)
		*exchange = pnstrdup(property->value, property->length);
	else if (strcmp(property->name, "routing_key") == 0)
		*routing_key = pnstrdup(property->value, property->length);
	for (int i = 0; i < lengthof(short_properties); i++)
		if (strcmp(property->name, short_properties[i].name) == 0)
		{
			*(amqp_bytes_t *) ((char *) properties + short_properties[i].offset) =
				outgoing_bytes(property->value, property->length);
			properties->_flags |= short_properties[i].flag;
		}
	return PENSTOCK_OK;
}

static PenstockOutcome
outgoing_headers(const PenstockMessage *message, amqp_basic_properties_t *properties, PenstockFault *fault)
{
	amqp_table_entry_t *entries = palloc0(sizeof(amqp_table_entry_t) * message->nheaders);

	for (int i = 0; i < message->nheaders; i++)
	{
		const PenstockProperty *header = &message->headers[i];

		if (strlen(header->name) > RABBITMQ_SHORT_STRING)
			return too_long("name of a header", fault);
		entries[i].key = amqp_cstring_bytes(header->name);
		entries[i].value.kind = header->value ? AMQP_FIELD_KIND_UTF8 : AMQP_FIELD_KIND_VOID;
		if (header->value != NULL)
			entries[i].value.value.bytes = outgoing_bytes(header->value, header->length);
	}
	properties->headers.num_entries = message->nheaders;
	properties->headers.entries = entries;
	properties->_flags |= AMQP_BASIC_HEADERS_FLAG;
	return PENSTOCK_OK;
}

/*
 * penstock_rabbitmq_outgoing: the properties of a message, and exchange and routing key if it brings its own (else they stay as
 * they are).  They point into the message.
 */
PenstockOutcome
penstock_rabbitmq_outgoing(const PenstockMessage *message, amqp_basic_properties_t *properties, const char **exchange,
						   const char **routing_key, PenstockFault *fault)
{
	memset(properties, 0, sizeof(amqp_basic_properties_t));
	if (message->id != NULL)
	{
		if (message->id_length > RABBITMQ_SHORT_STRING)
			return too_long("message_id", fault);
		properties->message_id = outgoing_bytes(message->id, message->id_length);
		properties->_flags |= AMQP_BASIC_MESSAGE_ID_FLAG;
	}
	if (message->timestamp != 0)
	{
		properties->timestamp = (uint64) Max(timestamptz_to_time_t(message->timestamp), 0);
		properties->_flags |= AMQP_BASIC_TIMESTAMP_FLAG;
	}
	if (message->key != NULL)
	{
		if (message->key_length > RABBITMQ_SHORT_STRING)
			return too_long("key", fault);
		*routing_key = pnstrdup(message->key, message->key_length);
	}
	for (int i = 0; i < message->nproperties; i++)
		if (message->properties[i].value != NULL &&
			outgoing_property(&message->properties[i], properties, exchange, routing_key, fault) != PENSTOCK_OK)
			return PENSTOCK_REFUSED;
	if (message->nheaders > 0)
		return outgoing_headers(message, properties, fault);
	return PENSTOCK_OK;
}
