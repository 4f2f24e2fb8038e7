/*
 * amqp_text.c
 *	  AMQP values as text and as JSON.
 */
#include "postgres.h"

#include <math.h>

#include "common/shortest_dec.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/datetime.h"
#include "utils/timestamp.h"

#include "connector/amqp/amqp.h"

/* Lists and maps within each other, at most. */
#define DEEPEST 64
/* A timestamp beyond these (ms since 1970) is not one of the server's. */
#define FIRST_MS (-INT64CONST(62135596800000))
#define LAST_MS INT64CONST(253402300799999)

static void
append_hex(StringInfo text, const char *bytes, size_t length)
{
	enlargeStringInfo(text, length * 2 + 1);
	text->len += hex_encode(bytes, length, text->data + text->len);
	text->data[text->len] = '\0';
}

static void
append_uuid(StringInfo text, const char *bytes)
{
	append_hex(text, bytes, 4);
	for (int i = 4; i < 10; i += 2)
	{
		appendStringInfoChar(text, '-');
		append_hex(text, bytes + i, 2);
	}
	appendStringInfoChar(text, '-');
	append_hex(text, bytes + 10, 6);
}

/* As ISO 8601 in UTC, milliseconds; the number itself if no calendar has it. */
static void
append_time(StringInfo text, int64 ms)
{
	Timestamp	stamp;
	struct pg_tm tm;
	fsec_t		fsec;

	if (ms < FIRST_MS || ms > LAST_MS)
	{
		appendStringInfo(text, INT64_FORMAT, ms);
		return;
	}
	stamp = (ms - ((int64) (POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE)) * SECS_PER_DAY * 1000) * 1000;
	if (timestamp2tm(stamp, NULL, &tm, &fsec, NULL, NULL) != 0)
		appendStringInfo(text, INT64_FORMAT, ms);
	else
		appendStringInfo(text, "%04d-%02d-%02dT%02d:%02d:%02d.%03dZ", tm.tm_year, tm.tm_mon, tm.tm_mday,
						 tm.tm_hour, tm.tm_min, tm.tm_sec, (int) (fsec / 1000));
}

static void
append_real(StringInfo text, const AmqpValue *value)
{
	char		digits[DOUBLE_SHORTEST_DECIMAL_LEN];

	if (isnan(value->u.real))
		appendStringInfoString(text, "NaN");
	else if (isinf(value->u.real))
		appendStringInfoString(text, value->u.real < 0 ? "-Infinity" : "Infinity");
	else
	{
		if (value->type == AMQP_FLOAT)
			float_to_shortest_decimal_buf((float) value->u.real, digits);
		else
			double_to_shortest_decimal_buf(value->u.real, digits);
		appendStringInfoString(text, digits);
	}
}

static void
append_char(StringInfo text, uint64 code)
{
	unsigned char utf8[8] = {0};

	if (code == 0 || code > 0x10FFFF || (code >= 0xD800 && code <= 0xDFFF))
		return;
	unicode_to_utf8((pg_wchar) code, utf8);
	appendStringInfoString(text, (char *) utf8);
}

/*
 * penstock_amqp_append_text appends the value as a column's input function takes it: strings as they are, binary as hex digits,
 * lists and maps as JSON.  Returns false for null, and for what is nested too deep or broken; text may have grown then.
 */
bool
penstock_amqp_append_text(StringInfo text, const AmqpValue *value)
{
	switch (value->type)
	{
		case AMQP_NULL:
			return false;
		case AMQP_BOOL:
			appendStringInfoString(text, value->u.truth ? "true" : "false");
			return true;
		case AMQP_UNSIGNED:
			appendStringInfo(text, UINT64_FORMAT, value->u.uns);
			return true;
		case AMQP_SIGNED:
			appendStringInfo(text, INT64_FORMAT, value->u.sig);
			return true;
		case AMQP_FLOAT:
		case AMQP_DOUBLE:
			append_real(text, value);
			return true;
		case AMQP_CHAR:
			append_char(text, value->u.uns);
			return true;
		case AMQP_TIMESTAMP:
			append_time(text, value->u.sig);
			return true;
		case AMQP_UUID:
			append_uuid(text, value->bytes);
			return true;
		case AMQP_BINARY:
		case AMQP_DECIMAL:
			append_hex(text, value->bytes, value->length);
			return true;
		case AMQP_STRING:
		case AMQP_SYMBOL:
			appendBinaryStringInfo(text, value->bytes, value->length);
			return true;
		case AMQP_LIST:
		case AMQP_MAP:
		case AMQP_ARRAY:
			return penstock_amqp_append_json(text, value, 0);
	}
	return false;
}

static void
append_quoted(StringInfo json, const char *bytes, size_t length)
{
	appendStringInfoCharMacro(json, '"');
	for (size_t i = 0; i < length; i++)
	{
		unsigned char c = (unsigned char) bytes[i];

		if (c == '"' || c == '\\')
		{
			appendStringInfoCharMacro(json, '\\');
			appendStringInfoCharMacro(json, c);
		}
		else if (c < ' ')
			appendStringInfo(json, "\\u%04x", c);
		else
			appendStringInfoCharMacro(json, c);
	}
	appendStringInfoCharMacro(json, '"');
}

/*
 * penstock_amqp_append_elements appends what is in a list, array or map, with commas and colons, without brackets.
 */
bool
penstock_amqp_append_elements(StringInfo json, const AmqpValue *value, int depth)
{
	AmqpReader	inside = value->inside;
	bool		map = value->type == AMQP_MAP;

	if (depth == DEEPEST)
		return false;
	for (uint32 i = 0; i < value->count; i++)
	{
		AmqpValue	element;

		if (!(value->type == AMQP_ARRAY ?
			  penstock_amqp_next_of(&inside, value->element, &element) : penstock_amqp_next(&inside, &element)))
			return false;
		if (i > 0)
			appendStringInfoChar(json, map && i % 2 == 1 ? ':' : ',');
		if (map && i % 2 == 0)
		{
			StringInfoData key;

			/* keys of JSON are strings */
			initStringInfo(&key);
			if (element.type >= AMQP_LIST || !penstock_amqp_append_text(&key, &element))
				return false;
			append_quoted(json, key.data, key.len);
			pfree(key.data);
		}
		else if (!penstock_amqp_append_json(json, &element, depth + 1))
			return false;
	}
	return true;
}

/*
 * penstock_amqp_append_json appends the value as JSON; binary as hex digits.  Returns false for what is nested too deep or broken;
 * json may have grown then.
 */
bool
penstock_amqp_append_json(StringInfo json, const AmqpValue *value, int depth)
{
	switch (value->type)
	{
		case AMQP_NULL:
			appendStringInfoString(json, "null");
			return true;
		case AMQP_BOOL:
		case AMQP_UNSIGNED:
		case AMQP_SIGNED:
			return penstock_amqp_append_text(json, value);
		case AMQP_FLOAT:
		case AMQP_DOUBLE:
			if (!isnan(value->u.real) && !isinf(value->u.real))
				return penstock_amqp_append_text(json, value);
			break;
		case AMQP_STRING:
		case AMQP_SYMBOL:
			append_quoted(json, value->bytes, value->length);
			return true;
		case AMQP_LIST:
		case AMQP_MAP:
		case AMQP_ARRAY:
			{
				bool		map = value->type == AMQP_MAP;
				bool		whole;

				appendStringInfoChar(json, map ? '{' : '[');
				whole = penstock_amqp_append_elements(json, value, depth);
				appendStringInfoChar(json, map ? '}' : ']');
				return whole;
			}
		default:
			break;
	}

	if (value->type == AMQP_CHAR && (value->u.uns < '0' || value->u.uns == '\\'))
	{
		char		sign = (char) value->u.uns;

		append_quoted(json, &sign, 1);
		return true;
	}
	/* nothing in it needs an escape */
	appendStringInfoChar(json, '"');
	(void) penstock_amqp_append_text(json, value);
	appendStringInfoChar(json, '"');
	return true;
}
