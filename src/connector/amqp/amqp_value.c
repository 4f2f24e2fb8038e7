/*
 * amqp_value.c
 *	  Reads AMQP 1.0 encoded values out of a message's bytes, without copying them.
 *
 * Proton's pn_message_decode is not used: it keeps only the last of several data sections, and calls a message
 * that is cut off or garbage an empty one.  Here nothing is read beyond the end, no length is believed before it is compared
 * with what is left, and reading one value never recurses.
 *
 * A value is a constructor (one byte, its high half says how wide what follows is) and its bytes.  0x00 before it: a
 * descriptor, which is a value itself, comes first.
 */
#include "postgres.h"

#include "port/pg_bswap.h"

#include "connector/amqp/amqp.h"

/* A described value may be described again; more than this nobody does. */
#define MOST_DESCRIPTORS 4

static size_t
left(const AmqpReader *reader)
{
	return reader->end - reader->at;
}

/* The next width bytes as a number; they are there. */
static uint64
take(AmqpReader *reader, int width)
{
	uint64		number = 0;

	for (int i = 0; i < width; i++)
		number = number << 8 | *reader->at++;
	return number;
}

static int64
sign_extended(uint64 number, int width)
{
	int			unused = 64 - width * 8;

	return (int64) (number << unused) >> unused;
}

static double
to_real(uint64 bits, int width)
{
	if (width == 4)
	{
		uint32		half = (uint32) bits;
		float		real;

		memcpy(&real, &half, sizeof(real));
		return real;
	}
	else
	{
		double		real;

		memcpy(&real, &bits, sizeof(real));
		return real;
	}
}

/* Values whose width the constructor gives. */
static bool
read_fixed(AmqpReader *reader, unsigned char code, int width, AmqpValue *value)
{
	uint64		number;

	if (left(reader) < width)
		return false;
	value->bytes = (const char *) reader->at;
	value->length = width;
	if (width == 16)
	{
		reader->at += width;
		value->type = code == 0x98 ? AMQP_UUID : AMQP_DECIMAL;
		return code == 0x98 || code == 0x94;
	}

	number = take(reader, width);
	value->u.uns = number;
	switch (code)
	{
		case 0x40:				/* null */
			value->type = AMQP_NULL;
			return true;
		case 0x41:				/* true */
		case 0x42:				/* false */
		case 0x56:				/* boolean */
			value->type = AMQP_BOOL;
			value->u.truth = code == 0x41 || (code == 0x56 && number != 0);
			return true;
		case 0x43:				/* uint 0 */
		case 0x44:				/* ulong 0 */
		case 0x50:				/* ubyte */
		case 0x52:				/* small uint */
		case 0x53:				/* small ulong */
		case 0x60:				/* ushort */
		case 0x70:				/* uint */
		case 0x80:				/* ulong */
			value->type = AMQP_UNSIGNED;
			return true;
		case 0x51:				/* byte */
		case 0x54:				/* small int */
		case 0x55:				/* small long */
		case 0x61:				/* short */
		case 0x71:				/* int */
		case 0x81:				/* long */
			value->type = AMQP_SIGNED;
			value->u.sig = sign_extended(number, width);
			return true;
		case 0x83:				/* timestamp, ms since 1970 */
			value->type = AMQP_TIMESTAMP;
			value->u.sig = (int64) number;
			return true;
		case 0x72:				/* float */
		case 0x82:				/* double */
			value->type = width == 4 ? AMQP_FLOAT : AMQP_DOUBLE;
			value->u.real = to_real(number, width);
			return true;
		case 0x73:				/* char */
			value->type = AMQP_CHAR;
			return true;
		case 0x74:				/* decimal32 */
		case 0x84:				/* decimal64 */
			value->type = AMQP_DECIMAL;
			return true;
		default:
			return false;
	}
}

static bool
read_variable(AmqpReader *reader, unsigned char code, int width, AmqpValue *value)
{
	uint64		length;

	if (left(reader) < width)
		return false;
	length = take(reader, width);
	if (length > left(reader))
		return false;
	switch (code & 0x0F)
	{
		case 0x0:
			value->type = AMQP_BINARY;
			break;
		case 0x1:
			value->type = AMQP_STRING;
			break;
		case 0x3:
			value->type = AMQP_SYMBOL;
			break;
		default:
			return false;
	}
	value->bytes = (const char *) reader->at;
	value->length = (uint32) length;
	reader->at += length;
	return true;
}

/* Lists, maps and arrays: what is in them is read from value->inside. */
static bool
read_compound(AmqpReader *reader, unsigned char code, int width, AmqpValue *value)
{
	uint64		size;

	if (code == 0x45)
	{
		value->type = AMQP_LIST;
		value->count = 0;
		value->inside.at = value->inside.end = reader->at;
		return true;
	}
	if (left(reader) < width)
		return false;
	size = take(reader, width);
	if (size > left(reader) || size < width)
		return false;
	value->inside.at = reader->at;
	value->inside.end = reader->at + size;
	reader->at += size;
	value->count = (uint32) take(&value->inside, width);
	/* an element takes a byte at least */
	if (value->count > left(&value->inside))
		return false;
	if ((code & 0xF0) >= 0xE0)
	{
		value->type = AMQP_ARRAY;
		/* elements that are described arrays are not read */
		if (left(&value->inside) == 0)
			return value->count == 0;
		value->element = (unsigned char) take(&value->inside, 1);
		return (code & 0x0F) == 0;
	}
	value->type = (code & 0x0F) == 0 ? AMQP_LIST : AMQP_MAP;
	return (code & 0x0F) <= 1 && (value->type == AMQP_LIST || value->count % 2 == 0);
}

/*
 * penstock_amqp_next_of reads a value whose constructor is known (an element of an array).  Returns false if it is not one.
 */
bool
penstock_amqp_next_of(AmqpReader *reader, unsigned char code, AmqpValue *value)
{
	static const signed char width[16] = {-1, -1, -1, -1, 0, 1, 2, 4, 8, 16, 1, 4, 1, 4, 1, 4};
	int			kind = code >> 4;

	if (width[kind] < 0)
		return false;
	if (kind >= 0xC || code == 0x45)
		return read_compound(reader, code, width[kind], value);
	if (kind >= 0xA)
		return read_variable(reader, code, width[kind], value);
	return read_fixed(reader, code, width[kind], value);
}

/*
 * penstock_amqp_next reads the next value and moves the reader behind it.  Returns false at the end, and if there is no value.
 */
bool
penstock_amqp_next(AmqpReader *reader, AmqpValue *value)
{
	uint64		descriptor = 0;

	for (int i = 0;; i++)
	{
		unsigned char code;

		if (left(reader) < 1)
			return false;
		code = (unsigned char) take(reader, 1);
		if (code != 0)
		{
			value->descriptor = descriptor;
			return penstock_amqp_next_of(reader, code, value);
		}
		if (i == MOST_DESCRIPTORS || left(reader) < 1 ||
			!penstock_amqp_next_of(reader, (unsigned char) take(reader, 1), value))
			return false;
		descriptor = value->type == AMQP_UNSIGNED ? value->u.uns : 0;
	}
}
