/*
 * avro_write_text.c
 *	  Avro's binary encoding of numbers and bytes, and of anything that is given as text.
 */
#include "postgres.h"

#include "datatype/timestamp.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/date.h"
#include "utils/fmgrprotos.h"
#include "utils/numeric.h"
#include "utils/timestamp.h"
#include "utils/uuid.h"

#include "format/avro/avro.h"

#define EPOCH_DAYS	(POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE)

void
penstock_avro_unfit(const AvroSchema *schema, const char *what)
{
	ereport(ERROR,
			(errcode(ERRCODE_MOST_SPECIFIC_TYPE_MISMATCH),
			 errmsg("cannot write %s as Avro %s", what, penstock_avro_type_name(schema))));
}

/* ---- the encoding ---- */

void
penstock_avro_put_long(StringInfo out, int64 value)
{
	uint64		rest = ((uint64) value << 1) ^ (uint64) (value >> 63);

	while (rest >= 0x80)
	{
		appendStringInfoCharMacro(out, (char) (rest | 0x80));
		rest >>= 7;
	}
	appendStringInfoCharMacro(out, (char) rest);
}

void
penstock_avro_put_bytes(StringInfo out, const char *bytes, int length)
{
	penstock_avro_put_long(out, length);
	appendBinaryStringInfo(out, bytes, length);
}

void
penstock_avro_put_fixed(StringInfo out, const AvroSchema *schema, const char *bytes, int length)
{
	if (length != schema->size)
		ereport(ERROR,
				(errcode(ERRCODE_STRING_DATA_LENGTH_MISMATCH),
				 errmsg("cannot write %d bytes as Avro fixed of %d", length, schema->size)));
	appendBinaryStringInfo(out, bytes, length);
}

void
penstock_avro_put_number(StringInfo out, const AvroSchema *schema, int64 value)
{
	if (schema->type == AVRO_INT && (value < PG_INT32_MIN || value > PG_INT32_MAX))
		ereport(ERROR,
				(errcode(ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE),
				 errmsg("value %lld is out of range for Avro int", (long long) value)));
	penstock_avro_put_long(out, value);
}

static void
put_little_endian(StringInfo out, uint64 bits, int length)
{
	for (int i = 0; i < length; i++)
		appendStringInfoCharMacro(out, (char) (bits >> (i * 8)));
}

void
penstock_avro_put_double(StringInfo out, const AvroSchema *schema, double value)
{
	if (schema->type == AVRO_DOUBLE)
	{
		uint64		bits;

		memcpy(&bits, &value, sizeof(bits));
		put_little_endian(out, bits, 8);
	}
	else
	{
		float		single = (float) value;
		uint32		bits;

		memcpy(&bits, &single, sizeof(bits));
		put_little_endian(out, bits, 4);
	}
}

void
penstock_avro_put_date(StringInfo out, int32 date)
{
	if (DATE_NOT_FINITE(date))
		ereport(ERROR,
				(errcode(ERRCODE_DATETIME_VALUE_OUT_OF_RANGE),
				 errmsg("date out of range")));
	penstock_avro_put_long(out, (int64) date + EPOCH_DAYS);
}

int
penstock_avro_null_branch(const AvroSchema *schema)
{
	for (int i = 0; schema->type == AVRO_UNION && i < schema->n; i++)
		if (schema->branches[i]->type == AVRO_NULL)
			return i;
	return -1;
}

/* ---- texts ---- */

static Datum
input(PGFunction function, const char *text)
{
	return DirectFunctionCall3(function, CStringGetDatum(text), ObjectIdGetDatum(InvalidOid), Int32GetDatum(-1));
}

static void
write_integer(StringInfo out, const AvroSchema *schema, const char *text)
{
	switch (schema->logical)
	{
		case AVRO_DATE:
			penstock_avro_put_date(out, DatumGetDateADT(input(date_in, text)));
			break;
		case AVRO_TIME_MILLIS:
			penstock_avro_put_long(out, DatumGetTimeADT(input(time_in, text)) / 1000);
			break;
		case AVRO_TIME_MICROS:
			penstock_avro_put_long(out, DatumGetTimeADT(input(time_in, text)));
			break;
		case AVRO_TIMESTAMP_MILLIS:
		case AVRO_TIMESTAMP_MICROS:
			penstock_avro_put_long(out, penstock_avro_from_timestamp(DatumGetTimestampTz(input(timestamptz_in, text)),
																	 schema->logical));
			break;
		case AVRO_LOCAL_MILLIS:
		case AVRO_LOCAL_MICROS:
			penstock_avro_put_long(out, penstock_avro_from_timestamp(DatumGetTimestamp(input(timestamp_in, text)),
																	 schema->logical));
			break;
		default:
			penstock_avro_put_number(out, schema, DatumGetInt64(DirectFunctionCall1(int8in, CStringGetDatum(text))));
	}
}

/* A default's characters are its bytes. */
static char *
latin1_bytes(const char *text, int length, int *n)
{
	char	   *utf8 = pg_server_to_any(text, length, PG_UTF8);
	char	   *bytes = (char *) pg_do_encoding_conversion((unsigned char *) utf8, strlen(utf8), PG_UTF8, PG_LATIN1);

	*n = strlen(bytes);
	return bytes;
}

static void
write_bytes(StringInfo out, const AvroSchema *schema, const char *text, int length, AvroBytesText kind)
{
	const char *bytes = text;

	if (kind == AVRO_TEXT_HEX && length >= 2 && text[0] == '\\' && text[1] == 'x')
	{
		bytea	   *value = DatumGetByteaPP(DirectFunctionCall1(byteain, CStringGetDatum(text)));

		bytes = VARDATA_ANY(value);
		length = VARSIZE_ANY_EXHDR(value);
	}
	else if (kind == AVRO_TEXT_LATIN1)
		bytes = latin1_bytes(text, length, &length);
	else
	{
		bytes = pg_server_to_any(text, length, PG_UTF8);
		if (bytes != text)
			length = strlen(bytes);
	}
	if (schema->type == AVRO_FIXED)
		penstock_avro_put_fixed(out, schema, bytes, length);
	else
		penstock_avro_put_bytes(out, bytes, length);
}

static void
write_binary(StringInfo out, const AvroSchema *schema, const char *text, int length, AvroBytesText kind)
{
	AvroLogical logical = kind == AVRO_TEXT_LATIN1 ? AVRO_PLAIN : schema->logical;

	switch (logical)
	{
		case AVRO_DECIMAL:
			penstock_avro_put_decimal(out, DatumGetNumeric(input(numeric_in, text)), schema);
			break;
		case AVRO_DURATION:
			penstock_avro_put_duration(out, DatumGetIntervalP(input(interval_in, text)));
			break;
		case AVRO_UUID:
			appendBinaryStringInfo(out, DatumGetPointer(DirectFunctionCall1(uuid_in, CStringGetDatum(text))), UUID_LEN);
			break;
		default:
			write_bytes(out, schema, text, length, kind);
	}
}

static void
write_symbol(StringInfo out, const AvroSchema *schema, const char *text)
{
	for (int i = 0; i < schema->n; i++)
		if (strcmp(schema->symbols[i], text) == 0)
		{
			penstock_avro_put_long(out, i);
			return;
		}
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_TEXT_REPRESENTATION),
			 errmsg("Avro enum \"%s\" has no symbol \"%s\"", schema->name, text)));
}

void
penstock_avro_write_text(StringInfo out, AvroSchema *schema, const char *text, int length, AvroBytesText kind)
{
	AvroSchema	plain = {.type = AVRO_BYTES};
	bool		truth;

	switch (schema->type)
	{
		case AVRO_BOOLEAN:
			if (!parse_bool(text, &truth))
				penstock_avro_unfit(schema, psprintf("\"%s\"", text));
			appendStringInfoChar(out, truth);
			break;
		case AVRO_INT:
		case AVRO_LONG:
			write_integer(out, schema, text);
			break;
		case AVRO_FLOAT:
			penstock_avro_put_double(out, schema, DatumGetFloat4(DirectFunctionCall1(float4in, CStringGetDatum(text))));
			break;
		case AVRO_DOUBLE:
			penstock_avro_put_double(out, schema, DatumGetFloat8(DirectFunctionCall1(float8in, CStringGetDatum(text))));
			break;
		case AVRO_BYTES:
		case AVRO_FIXED:
			write_binary(out, schema, text, length, kind);
			break;
		case AVRO_STRING:
			write_bytes(out, &plain, text, length, AVRO_TEXT_UTF8);
			break;
		case AVRO_ENUM:
			write_symbol(out, schema, text);
			break;
		default:
			penstock_avro_unfit(schema, "a text");
	}
}
