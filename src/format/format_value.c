/*
 * format_value.c
 *	  Texts to values and back without the type's input and output function, where the result is the same.
 *
 * A text in its usual form (digits, ISO 8601) is converted here in a few nanoseconds.  Anything else, be it wrong
 * or only unusual, is left to the input function, which then also finds the words for the error.
 */
#include "postgres.h"

#include <float.h>

#include "catalog/pg_type.h"
#include "commands/defrem.h"
#include "common/shortest_dec.h"
#include "datatype/timestamp.h"
#include "utils/builtins.h"
#include "utils/date.h"
#include "utils/datetime.h"
#include "utils/json.h"
#include "utils/timestamp.h"
#include "utils/uuid.h"

#include "compat/compat.h"
#include "format/format_internal.h"

#define SECONDS_PER_MINUTE	60
#define MAX_ZONE_HOURS		15

/* ---- options ---- */

static const char *
given(List *options, const char *name)
{
	const char *value = NULL;
	ListCell   *lc;

	/* what stands later is nearer to the queue */
	foreach(lc, options)
	{
		DefElem    *option = lfirst_node(DefElem, lc);

		if (strcmp(option->defname, name) == 0)
			value = defGetString(option);
	}
	return value;
}

const char *
penstock_format_option(const PenstockFormatInfo *info, const PenstockConnectorOption *options, const char *name)
{
	const char *value = info->queue ? given(info->queue->options, name) : NULL;

	for (; value == NULL && options->name != NULL; options++)
		if (strcmp(options->name, name) == 0)
			return options->fallback;
	return value;
}

/*
 * penstock_format_column_option(column, name): see format.h.
 */
const char *
penstock_format_column_option(const PenstockFormatColumn *column, const char *name)
{
	return given(column->options, name);
}

/* ---- kinds ---- */

PenstockValueKind
penstock_value_kind(Oid type, int32 typmod)
{
	/* a modifier may round, pad or refuse */
	if (typmod >= 0)
		return PENSTOCK_VALUE_OTHER;
	switch (type)
	{
		case TEXTOID:
		case VARCHAROID:
			return PENSTOCK_VALUE_TEXT;
		case BOOLOID:
			return PENSTOCK_VALUE_BOOL;
		case INT2OID:
			return PENSTOCK_VALUE_INT2;
		case INT4OID:
			return PENSTOCK_VALUE_INT4;
		case INT8OID:
			return PENSTOCK_VALUE_INT8;
		case FLOAT4OID:
			return PENSTOCK_VALUE_FLOAT4;
		case FLOAT8OID:
			return PENSTOCK_VALUE_FLOAT8;
		case DATEOID:
			return PENSTOCK_VALUE_DATE;
		case TIMEOID:
			return PENSTOCK_VALUE_TIME;
		case TIMESTAMPOID:
			return PENSTOCK_VALUE_TIMESTAMP;
		case TIMESTAMPTZOID:
			return PENSTOCK_VALUE_TIMESTAMPTZ;
		case UUIDOID:
			return PENSTOCK_VALUE_UUID;
		default:
			return PENSTOCK_VALUE_OTHER;
	}
}

/* ---- numbers ---- */

static inline bool
is_digit(char c)
{
	return c >= '0' && c <= '9';
}

/* A number of n digits. */
static inline bool
digits(const char *text, int n, int *result)
{
	int			value = 0;

	for (int i = 0; i < n; i++)
	{
		if (!is_digit(text[i]))
			return false;
		value = value * 10 + (text[i] - '0');
	}
	*result = value;
	return true;
}

static bool
parse_int(const char *text, int length, int64 min, int64 max, int64 *result)
{
	bool		negative = length > 0 && text[0] == '-';
	int64		value = 0;

	if (length - negative < 1 || length - negative > 18)
		return false;
	for (int i = negative; i < length; i++)
	{
		if (!is_digit(text[i]))
			return false;
		value = value * 10 + (text[i] - '0');
	}
	*result = negative ? -value : value;
	return *result >= min && *result <= max;
}

static const double powers[] = {
	1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19,
	1e20, 1e21, 1e22
};

/* A decimal number as mantissa * 10^exponent; false if it has another form, or more than 18 digits. */
static bool
parse_decimal(const char *text, int length, bool *negative, int64 *mantissa, int *exponent)
{
	const char *end = text + length;
	int			ndigits = 0;
	int			fraction = 0;
	uint64		value = 0;

	*negative = text < end && *text == '-';
	text += *negative;
	for (; text < end && is_digit(*text); text++, ndigits++)
		value = value * 10 + (*text - '0');
	if (ndigits > 0 && text < end && *text == '.')
		for (text++; text < end && is_digit(*text); text++, ndigits++, fraction++)
			value = value * 10 + (*text - '0');
	/* beyond that, value may have overflowed, and is not used */
	if (ndigits == 0 || ndigits > 18)
		return false;
	*mantissa = (int64) value;
	*exponent = -fraction;
	if (text < end && (*text == 'e' || *text == 'E'))
	{
		bool		minus;
		int			e;

		text++;
		minus = text < end && *text == '-';
		if (text < end && (*text == '-' || *text == '+'))
			text++;
		if (end - text < 1 || end - text > 3 || !digits(text, end - text, &e))
			return false;
		*exponent += minus ? -e : e;
		text = end;
	}
	return text == end;
}

/*
 * Both mantissa and power of ten are exact in the type, so their product or quotient is rounded once, which is
 * what strtod does (W. D. Clinger, How to Read Floating Point Numbers Accurately, 1990).
 */
static bool
parse_double(const char *text, int length, double *result)
{
	bool		negative;
	int64		mantissa;
	int			exponent;

	if (FLT_EVAL_METHOD != 0 || !parse_decimal(text, length, &negative, &mantissa, &exponent) ||
		mantissa > INT64CONST(9007199254740992) || exponent < -22 || exponent > 22)
		return false;
	*result = exponent < 0 ? (double) mantissa / powers[-exponent] : (double) mantissa * powers[exponent];
	if (negative)
		*result = -*result;
	return true;
}

static bool
parse_float(const char *text, int length, float *result)
{
	bool		negative;
	int64		mantissa;
	int			exponent;

	if (FLT_EVAL_METHOD != 0 || !parse_decimal(text, length, &negative, &mantissa, &exponent) ||
		mantissa > 16777216 || exponent < -10 || exponent > 10)
		return false;
	*result = exponent < 0 ? (float) mantissa / (float) powers[-exponent] : (float) mantissa * (float) powers[exponent];
	if (negative)
		*result = -*result;
	return true;
}

/* ---- times ---- */

/* YYYY-MM-DD, in days since 2000-01-01. */
static bool
parse_date(const char *text, int length, int32 *days)
{
	int			year;
	int			month;
	int			day;

	if (length != 10 || text[4] != '-' || text[7] != '-' || !digits(text, 4, &year) ||
		!digits(text + 5, 2, &month) || !digits(text + 8, 2, &day) ||
		year < 1 || month < 1 || month > 12 || day < 1 || day > day_tab[isleap(year)][month - 1])
		return false;
	*days = date2j(year, month, day) - POSTGRES_EPOCH_JDATE;
	return true;
}

/* HH:MM:SS[.ffffff], in microseconds; returns the length, 0 if it has another form. */
static int
parse_time(const char *text, int length, int64 *time)
{
	int			hour;
	int			minute;
	int			second;
	int			microseconds = 0;
	int			used = 8;

	if (length < 8 || text[2] != ':' || text[5] != ':' || !digits(text, 2, &hour) ||
		!digits(text + 3, 2, &minute) || !digits(text + 6, 2, &second) || hour > 23 || minute > 59 || second > 59)
		return 0;
	if (length > 8 && text[8] == '.')
	{
		int			scale = 100000;

		for (used = 9; used < length && is_digit(text[used]); used++, scale /= 10)
			microseconds += (text[used] - '0') * scale;
		/* more would have to be rounded */
		if (used == 9 || used > 15)
			return 0;
	}
	*time = ((hour * 60 + minute) * INT64CONST(60) + second) * USECS_PER_SEC + microseconds;
	return used;
}

/* Z, +HH, +HH:MM or +HHMM, in seconds east of Greenwich. */
static bool
parse_zone(const char *text, int length, int *seconds)
{
	int			hours;
	int			minutes = 0;

	if (length == 1 && (*text == 'Z' || *text == 'z'))
	{
		*seconds = 0;
		return true;
	}
	if (length < 3 || (*text != '+' && *text != '-') || !digits(text + 1, 2, &hours))
		return false;
	if (length == 6 && text[3] == ':')
	{
		if (!digits(text + 4, 2, &minutes))
			return false;
	}
	else if (length == 5)
	{
		if (!digits(text + 3, 2, &minutes))
			return false;
	}
	else if (length != 3)
		return false;
	if (hours > MAX_ZONE_HOURS || minutes > 59)
		return false;
	*seconds = (hours * 60 + minutes) * SECONDS_PER_MINUTE * (*text == '-' ? -1 : 1);
	return true;
}

static bool
parse_timestamp(const char *text, int length, bool has_zone, Timestamp *result)
{
	int32		days;
	int64		time;
	int			used;
	int			zone = 0;

	if (length < 19 || !parse_date(text, 10, &days) || (text[10] != 'T' && text[10] != ' '))
		return false;
	used = parse_time(text + 11, length - 11, &time);
	if (used == 0)
		return false;
	used += 11;
	if (has_zone ? !parse_zone(text + used, length - used, &zone) : used != length)
		return false;
	*result = days * USECS_PER_DAY + time - zone * USECS_PER_SEC;
	return true;
}

/* ---- others ---- */

static inline int
hex_value(char c)
{
	return is_digit(c) ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

static bool
parse_uuid(const char *text, int length, Datum *value)
{
	pg_uuid_t	uuid;

	if (length != 36 || text[8] != '-' || text[13] != '-' || text[18] != '-' || text[23] != '-')
		return false;
	for (int i = 0; i < UUID_LEN; i++)
	{
		int			high;
		int			low;

		if (*text == '-')
			text++;
		high = hex_value(text[0]);
		low = hex_value(text[1]);
		if (high < 0 || low < 0)
			return false;
		uuid.data[i] = (high << 4) | low;
		text += 2;
	}
	*value = PointerGetDatum(memcpy(palloc(sizeof(pg_uuid_t)), &uuid, sizeof(pg_uuid_t)));
	return true;
}

static bool
parse_bool_text(const char *text, int length, Datum *value)
{
	if ((length == 4 && memcmp(text, "true", 4) == 0) || (length == 1 && *text == 't'))
		*value = BoolGetDatum(true);
	else if ((length == 5 && memcmp(text, "false", 5) == 0) || (length == 1 && *text == 'f'))
		*value = BoolGetDatum(false);
	else
		return false;
	return true;
}

bool
penstock_value_parse(PenstockValueKind kind, const char *text, int length, Datum *value)
{
	int64		number = 0;
	int32		days = 0;
	double		d = 0;
	float		f = 0;
	bool		done;

	switch (kind)
	{
		case PENSTOCK_VALUE_TEXT:
			*value = PointerGetDatum(cstring_to_text_with_len(text, length));
			return true;
		case PENSTOCK_VALUE_BOOL:
			return parse_bool_text(text, length, value);
		case PENSTOCK_VALUE_INT2:
			done = parse_int(text, length, PG_INT16_MIN, PG_INT16_MAX, &number);
			*value = Int16GetDatum((int16) number);
			return done;
		case PENSTOCK_VALUE_INT4:
			done = parse_int(text, length, PG_INT32_MIN, PG_INT32_MAX, &number);
			*value = Int32GetDatum((int32) number);
			return done;
		case PENSTOCK_VALUE_INT8:
			done = parse_int(text, length, PG_INT64_MIN, PG_INT64_MAX, &number);
			*value = Int64GetDatum(number);
			return done;
		case PENSTOCK_VALUE_FLOAT4:
			done = parse_float(text, length, &f);
			*value = Float4GetDatum(f);
			return done;
		case PENSTOCK_VALUE_FLOAT8:
			done = parse_double(text, length, &d);
			*value = Float8GetDatum(d);
			return done;
		case PENSTOCK_VALUE_DATE:
			done = parse_date(text, length, &days);
			*value = DateADTGetDatum(days);
			return done;
		case PENSTOCK_VALUE_TIME:
			done = length > 0 && parse_time(text, length, &number) == length;
			*value = TimeADTGetDatum(number);
			return done;
		case PENSTOCK_VALUE_TIMESTAMP:
		case PENSTOCK_VALUE_TIMESTAMPTZ:
			done = parse_timestamp(text, length, kind == PENSTOCK_VALUE_TIMESTAMPTZ, &number);
			*value = TimestampGetDatum(number);
			return done;
		case PENSTOCK_VALUE_UUID:
			return parse_uuid(text, length, value);
		case PENSTOCK_VALUE_OTHER:
			break;
	}
	return false;
}

Datum
penstock_value_of_text(PenstockFormatColumn *column, PenstockValueKind kind, const char *text, int length)
{
	Datum		value;

	if (penstock_value_parse(kind, text, length, &value))
		return value;
	penstock_format_set_column(column->name);
	value = InputFunctionCall(&column->input, pnstrdup(text, length), column->input_param, column->typmod);
	penstock_format_set_column(NULL);
	return value;
}

/* ---- values to texts ---- */

const char *
penstock_value_to_text(PenstockFormatColumn *column, PenstockValueKind kind, Datum value, char *buffer, int *length)
{
	const char *result = buffer;

	switch (kind)
	{
		case PENSTOCK_VALUE_TEXT:
			result = TextDatumGetCString(value);
			*length = strlen(result);
			return result;
		case PENSTOCK_VALUE_BOOL:
			result = DatumGetBool(value) ? "t" : "f";
			*length = 1;
			return result;
		case PENSTOCK_VALUE_INT2:
			*length = pg_itoa(DatumGetInt16(value), buffer);
			return result;
		case PENSTOCK_VALUE_INT4:
			*length = pg_ltoa(DatumGetInt32(value), buffer);
			return result;
		case PENSTOCK_VALUE_INT8:
			*length = pg_lltoa(DatumGetInt64(value), buffer);
			return result;
		case PENSTOCK_VALUE_FLOAT4:
			*length = float_to_shortest_decimal_buf(DatumGetFloat4(value), buffer);
			return result;
		case PENSTOCK_VALUE_FLOAT8:
			*length = double_to_shortest_decimal_buf(DatumGetFloat8(value), buffer);
			return result;
		case PENSTOCK_VALUE_DATE:
			(void) JsonEncodeDateTime(buffer, value, DATEOID, NULL);
			break;
		case PENSTOCK_VALUE_TIME:
			(void) JsonEncodeDateTime(buffer, value, TIMEOID, NULL);
			break;
		case PENSTOCK_VALUE_TIMESTAMP:
			(void) JsonEncodeDateTime(buffer, value, TIMESTAMPOID, NULL);
			break;
		case PENSTOCK_VALUE_TIMESTAMPTZ:
			(void) JsonEncodeDateTime(buffer, value, TIMESTAMPTZOID, NULL);
			break;
		case PENSTOCK_VALUE_UUID:
		case PENSTOCK_VALUE_OTHER:
			result = OutputFunctionCall(&column->output, value);
			break;
	}
	*length = strlen(result);
	return result;
}

void
penstock_value_check_nulls(const PenstockFormatInfo *info, const bool *isnull)
{
	for (int i = 0; i < info->ncolumns; i++)
	{
		PenstockFormatColumn *column = &info->columns[i];

		if (column->input.fn_strict || !isnull[column->attno - 1])
			continue;
		penstock_format_set_column(column->name);
		(void) InputFunctionCall(&column->input, NULL, column->input_param, column->typmod);
		penstock_format_set_column(NULL);
	}
}
