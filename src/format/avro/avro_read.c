/*
 * avro_read.c
 *	  Avro's binary encoding, with all bounds checked (Apache Avro 1.11 specification, "Binary Encoding").
 */
#include "postgres.h"

#include "mb/pg_wchar.h"
#include "miscadmin.h"

#include "format/avro/avro.h"

void
penstock_avro_malformed(const char *detail)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_BINARY_REPRESENTATION),
			 errmsg("malformed Avro message"),
			 errdetail("%s", detail)));
}

pg_noreturn static void
too_short(void)
{
	penstock_avro_malformed("It ends within a value.");
}

void
penstock_avro_start(AvroReader *reader, const char *bytes, int length, MemoryContext scratch)
{
	reader->at = (const uint8 *) bytes;
	reader->end = reader->at + length;
	reader->depth = 0;
	reader->budget = (int64) AVRO_MAX_EMPTY + length;
	reader->scratch = scratch;
}

/*
 * penstock_avro_spend counts values that take no bytes, of which a schema can make any number out of nothing.
 */
void
penstock_avro_spend(AvroReader *reader, int64 n)
{
	if (n > reader->budget)
		penstock_avro_malformed("It has too many values of no length.");
	reader->budget -= n;
}

/*
 * penstock_avro_long reads an integer: zigzag, seven bits a byte, the lowest first.
 */
int64
penstock_avro_long(AvroReader *reader)
{
	uint64		value = 0;

	for (int shift = 0; shift < 70; shift += 7)
	{
		uint8		byte;

		if (reader->at == reader->end)
			too_short();
		byte = *reader->at++;
		if (shift == 63 && byte > 1)
			break;
		value |= (uint64) (byte & 0x7f) << shift;
		if ((byte & 0x80) == 0)
			return (int64) (value >> 1) ^ -(int64) (value & 1);
	}
	penstock_avro_malformed("It has an integer of more than 64 bits.");
}

int32
penstock_avro_int(AvroReader *reader)
{
	int64		value = penstock_avro_long(reader);

	if (value < PG_INT32_MIN || value > PG_INT32_MAX)
		penstock_avro_malformed("It has an int of more than 32 bits.");
	return (int32) value;
}

const char *
penstock_avro_fixed(AvroReader *reader, int64 length)
{
	const char *bytes = (const char *) reader->at;

	if (length < 0)
		penstock_avro_malformed("It has a negative length.");
	if (length > reader->end - reader->at)
		too_short();
	reader->at += length;
	return bytes;
}

const char *
penstock_avro_bytes(AvroReader *reader, int *length)
{
	int64		n = penstock_avro_long(reader);
	const char *bytes = penstock_avro_fixed(reader, n);

	*length = (int) n;
	return bytes;
}

const char *
penstock_avro_string(AvroReader *reader, int *length)
{
	const char *bytes = penstock_avro_bytes(reader, length);
	const char *text = pg_any_to_server(bytes, *length, PG_UTF8);

	if (text != bytes)
		*length = strlen(text);
	return text;
}

bool
penstock_avro_bool(AvroReader *reader)
{
	uint8		byte = *(const uint8 *) penstock_avro_fixed(reader, 1);

	if (byte > 1)
		penstock_avro_malformed("It has a boolean that is neither 0 nor 1.");
	return byte == 1;
}

static uint64
little_endian(AvroReader *reader, int length)
{
	const uint8 *bytes = (const uint8 *) penstock_avro_fixed(reader, length);
	uint64		value = 0;

	for (int i = length - 1; i >= 0; i--)
		value = value << 8 | bytes[i];
	return value;
}

float
penstock_avro_float(AvroReader *reader)
{
	uint32		bits = (uint32) little_endian(reader, 4);
	float		value;

	memcpy(&value, &bits, sizeof(value));
	return value;
}

double
penstock_avro_double(AvroReader *reader)
{
	uint64		bits = little_endian(reader, 8);
	double		value;

	memcpy(&value, &bits, sizeof(value));
	return value;
}

/*
 * penstock_avro_index reads the number of a symbol or of a union's branch, of which there are n.
 */
int
penstock_avro_index(AvroReader *reader, int n)
{
	int64		index = penstock_avro_long(reader);

	if (index < 0 || index >= n)
		penstock_avro_malformed("It has a branch or symbol that its schema does not have.");
	return (int) index;
}

/* The number of items in a block, and its bytes if it says so; -1: it does not. */
static int64
block(AvroReader *reader, AvroSchema *items, bool is_map, int64 *bytes)
{
	int64		n = penstock_avro_long(reader);

	*bytes = -1;
	if (n < 0)
	{
		*bytes = penstock_avro_long(reader);
		if (*bytes < 0 || n == PG_INT64_MIN)
			penstock_avro_malformed("It has a negative length.");
		if (*bytes > reader->end - reader->at)
			too_short();
		n = -n;
	}
	/* a map's item has a key, of at least one byte */
	if (is_map || !penstock_avro_may_be_empty(items))
	{
		if (n > reader->end - reader->at)
			too_short();
	}
	else
		penstock_avro_spend(reader, n);
	return n;
}

bool
penstock_avro_next_item(AvroReader *reader, AvroSchema *container, int64 *left)
{
	int64		bytes;

	if (*left == 0)
		*left = block(reader, container->items, container->type == AVRO_MAP, &bytes);
	return *left > 0 && (*left)-- > 0;
}

/*
 * penstock_avro_enter is called at each value that has parts; the caller counts reader->depth down after it.
 */
void
penstock_avro_enter(AvroReader *reader)
{
	if (++reader->depth > AVRO_MAX_DEPTH)
		penstock_avro_malformed(psprintf("Its values are nested more than %d deep.", AVRO_MAX_DEPTH));
	penstock_avro_spend(reader, 1);
	check_stack_depth();
}

static void
skip_items(AvroReader *reader, AvroSchema *schema)
{
	bool		is_map = schema->type == AVRO_MAP;
	int64		bytes;
	int64		n;

	while ((n = block(reader, schema->items, is_map, &bytes)) > 0)
	{
		if (bytes >= 0)
		{
			reader->at += bytes;
			continue;
		}
		for (; n > 0; n--)
		{
			int			length;

			if (is_map)
				(void) penstock_avro_bytes(reader, &length);
			penstock_avro_skip(reader, schema->items);
		}
	}
}

/*
 * penstock_avro_skip passes over a value.
 */
void
penstock_avro_skip(AvroReader *reader, AvroSchema *schema)
{
	int			length;

	switch (schema->type)
	{
		case AVRO_NULL:
			penstock_avro_spend(reader, 1);
			break;
		case AVRO_BOOLEAN:
			(void) penstock_avro_fixed(reader, 1);
			break;
		case AVRO_INT:
		case AVRO_LONG:
		case AVRO_ENUM:
			(void) penstock_avro_long(reader);
			break;
		case AVRO_FLOAT:
			(void) penstock_avro_fixed(reader, 4);
			break;
		case AVRO_DOUBLE:
			(void) penstock_avro_fixed(reader, 8);
			break;
		case AVRO_BYTES:
		case AVRO_STRING:
			(void) penstock_avro_bytes(reader, &length);
			break;
		case AVRO_FIXED:
			(void) penstock_avro_fixed(reader, schema->size);
			break;
		case AVRO_UNION:
			penstock_avro_skip(reader, schema->branches[penstock_avro_index(reader, schema->n)]);
			break;
		case AVRO_RECORD:
			penstock_avro_enter(reader);
			for (int i = 0; i < schema->n; i++)
				penstock_avro_skip(reader, schema->fields[i].schema);
			reader->depth--;
			break;
		case AVRO_ARRAY:
		case AVRO_MAP:
			penstock_avro_enter(reader);
			skip_items(reader, schema);
			reader->depth--;
			break;
	}
}
