/*
 * avro_logical.c
 *	  Logical types: decimal, dates and times, duration (Apache Avro 1.11 specification, "Logical Types").
 */
#include "postgres.h"

#include "common/int.h"
#include "datatype/timestamp.h"
#include "utils/builtins.h"
#include "utils/date.h"
#include "utils/fmgrprotos.h"
#include "utils/numeric.h"
#include "utils/timestamp.h"

#include "format/avro/avro.h"

#define EPOCH_DAYS		(POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE)
#define EPOCH_MICROS	(EPOCH_DAYS * USECS_PER_DAY)
#define DIGITS_MAX		(AVRO_MAX_DECIMAL * 3)

/* ---- decimal ---- */

/* Divides a big-endian number by 10; returns the remainder.  *first skips its leading zeros. */
static int
divide(uint8 *bytes, int length, int *first)
{
	int			rest = 0;

	for (int i = *first; i < length; i++)
	{
		int			part = rest << 8 | bytes[i];

		bytes[i] = part / 10;
		rest = part % 10;
	}
	while (*first < length && bytes[*first] == 0)
		(*first)++;
	return rest;
}

static void
negate(uint8 *bytes, int length)
{
	int			carry = 1;

	for (int i = length - 1; i >= 0; i--)
	{
		int			sum = (uint8) ~bytes[i] + carry;

		bytes[i] = (uint8) sum;
		carry = sum >> 8;
	}
}

static Numeric
big_decimal(const char *bytes, int length, int scale)
{
	uint8		number[AVRO_MAX_DECIMAL];
	char		text[DIGITS_MAX + 16];
	char	   *end = text + sizeof(text);
	char	   *at = end;
	bool		negative = (bytes[0] & 0x80) != 0;
	int			first = 0;
	StringInfoData result;

	memcpy(number, bytes, length);
	if (negative)
		negate(number, length);
	while (first < length && number[first] == 0)
		first++;
	while (first < length)
		*--at = '0' + divide(number, length, &first);

	initStringInfo(&result);
	appendStringInfo(&result, "%s%.*se-%d", negative ? "-" : "", (int) (end - at), at, scale);
	return DatumGetNumeric(DirectFunctionCall3(numeric_in, CStringGetDatum(result.data),
											   ObjectIdGetDatum(InvalidOid), Int32GetDatum(-1)));
}

/*
 * penstock_avro_decimal(bytes, length, scale): a two's complement integer of any length, divided by 10^scale.
 */
Numeric
penstock_avro_decimal(const char *bytes, int length, int scale)
{
	int64		value;

	if (length == 0)
		penstock_avro_malformed("It has a decimal without digits.");
	if (length > AVRO_MAX_DECIMAL)
		penstock_avro_malformed(psprintf("It has a decimal of more than %d bytes.", AVRO_MAX_DECIMAL));
	if (length > 8)
		return big_decimal(bytes, length, scale);
	value = (int8) bytes[0];
	for (int i = 1; i < length; i++)
		value = (int64) ((uint64) value << 8) | (uint8) bytes[i];
	return int64_div_fast_to_numeric(value, scale);
}

/* Multiplies a big-endian number by 10 and adds a digit. */
static void
multiply(uint8 *bytes, int length, int digit)
{
	for (int i = length - 1; i >= 0; i--)
	{
		int			part = bytes[i] * 10 + digit;

		bytes[i] = (uint8) part;
		digit = part >> 8;
	}
}

/*
 * penstock_avro_put_decimal(out, number, schema): appends the bytes, with their length before them if they are not a fixed.
 */
void
penstock_avro_put_decimal(StringInfo out, Numeric number, const AvroSchema *schema)
{
	uint8		bytes[AVRO_MAX_DECIMAL + 4] = {0};
	int			length = sizeof(bytes);
	int			first = 0;
	bool		negative;
	char	   *text;
	int			ndigits = 0;

	if (numeric_is_nan(number) || numeric_is_inf(number))
		penstock_avro_unfit(schema, "NaN or infinity");
	number = DatumGetNumeric(DirectFunctionCall2(numeric_round, NumericGetDatum(number), Int32GetDatum(schema->scale)));
	text = DatumGetCString(DirectFunctionCall1(numeric_out, NumericGetDatum(number)));
	negative = *text == '-';
	for (const char *c = text; *c != '\0'; c++)
	{
		if (*c < '0' || *c > '9')
			continue;
		ndigits += ndigits > 0 || *c != '0';
		if (ndigits > schema->precision)
			ereport(ERROR,
					(errcode(ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE),
					 errmsg("number is too large for an Avro decimal of precision %d and scale %d",
							schema->precision, schema->scale)));
		multiply(bytes, length, *c - '0');
	}
	if (negative)
		negate(bytes, length);
	/* as few bytes as keep the sign, or as many as the fixed has */
	while (first < length - 1 && bytes[first] == (negative ? 0xff : 0) && ((bytes[first + 1] & 0x80) != 0) == negative)
		first++;
	if (schema->type == AVRO_BYTES)
		penstock_avro_put_bytes(out, (char *) bytes + first, length - first);
	else if (length - first > schema->size)
		penstock_avro_unfit(schema, "a number of so many digits");
	else
	{
		for (int i = length - first; i < schema->size; i++)
			appendStringInfoChar(out, negative ? '\xff' : '\0');
		appendBinaryStringInfo(out, (char *) bytes + first, length - first);
	}
}

/* ---- dates and times ---- */

pg_noreturn static void
out_of_range(const char *what)
{
	ereport(ERROR,
			(errcode(ERRCODE_DATETIME_VALUE_OUT_OF_RANGE),
			 errmsg("%s out of range", what)));
}

static bool
is_millis(AvroLogical logical)
{
	return logical == AVRO_TIMESTAMP_MILLIS || logical == AVRO_LOCAL_MILLIS || logical == AVRO_TIME_MILLIS;
}

Timestamp
penstock_avro_timestamp(int64 value, AvroLogical logical)
{
	if ((is_millis(logical) && pg_mul_s64_overflow(value, 1000, &value)) ||
		pg_sub_s64_overflow(value, EPOCH_MICROS, &value) || !IS_VALID_TIMESTAMP(value))
		out_of_range("timestamp");
	return value;
}

int64
penstock_avro_from_timestamp(Timestamp value, AvroLogical logical)
{
	if (TIMESTAMP_NOT_FINITE(value) || pg_add_s64_overflow(value, EPOCH_MICROS, &value))
		out_of_range("timestamp");
	if (!is_millis(logical))
		return value;
	/* towards the past, as the whole milliseconds that have passed */
	return value / 1000 - (value % 1000 < 0);
}

int64
penstock_avro_time(int64 value, AvroLogical logical)
{
	if ((is_millis(logical) && pg_mul_s64_overflow(value, 1000, &value)) || value < 0 || value > USECS_PER_DAY)
		out_of_range("time");
	return value;
}

int32
penstock_avro_date(int64 value)
{
	value -= EPOCH_DAYS;
	if (value < DATETIME_MIN_JULIAN - POSTGRES_EPOCH_JDATE || value >= DATE_END_JULIAN - POSTGRES_EPOCH_JDATE)
		out_of_range("date");
	return (int32) value;
}

/* ---- duration: months, days and milliseconds, each four bytes, lowest first ---- */

static uint32
get_number(const char *bytes)
{
	const uint8 *b = (const uint8 *) bytes;

	return (uint32) b[0] | (uint32) b[1] << 8 | (uint32) b[2] << 16 | (uint32) b[3] << 24;
}

static void
put_number(StringInfo out, int64 value)
{
	if (value < 0 || value > PG_UINT32_MAX)
		out_of_range("interval");
	for (int i = 0; i < 4; i++)
		appendStringInfoChar(out, (char) (value >> (i * 8)));
}

Interval *
penstock_avro_duration(const char *bytes)
{
	Interval   *interval = palloc(sizeof(Interval));
	uint32		months = get_number(bytes);
	uint32		days = get_number(bytes + 4);

	if (months > PG_INT32_MAX || days > PG_INT32_MAX)
		out_of_range("interval");
	interval->month = months;
	interval->day = days;
	interval->time = (int64) get_number(bytes + 8) * 1000;
	return interval;
}

void
penstock_avro_put_duration(StringInfo out, const Interval *interval)
{
	put_number(out, interval->month);
	put_number(out, interval->day);
	put_number(out, interval->time < 0 ? -1 : interval->time / 1000);
}
