/*
 * chunk_floats.c
 *	  Floats: as integers where they are decimals in disguise, else as byte planes.
 *
 * A latency of 12.345 is not that number in binary, but it is what 12345 / 1000.0
 * rounds to, bit for bit.  Where nearly all values of a chunk are such quotients of one
 * power of ten, the integers are stored, and the few others (NaN, infinity,
 * minus zero) as exceptions.
 */
#include "postgres.h"

#include <math.h>

#include "stream/chunk_private.h"

#define DECIMAL_MAX_SCALE	15
#define DECIMAL_MAX_INT		9007199254740992.0	/* 2^53 */
#define DECIMAL_SAMPLE		64
#define DECIMAL_MIN_VALUES	4	/* fewer gain nothing */

static const double powers[DECIMAL_MAX_SCALE + 1] = {
	1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15
};

static inline double
float_of(int64 bits, int width)
{
	if (width == 8)
	{
		double		d;

		memcpy(&d, &bits, 8);
		return d;
	}
	else
	{
		int32		low = (int32) bits;
		float		f;

		memcpy(&f, &low, 4);
		return f;
	}
}

static inline int64
bits_of(double value, int width)
{
	if (width == 8)
	{
		int64		bits;

		memcpy(&bits, &value, 8);
		return bits;
	}
	else
	{
		float		f = (float) value;
		int32		low;

		memcpy(&low, &f, 4);
		return low;
	}
}

/* The value's integer at this scale, if it gives the value back exactly. */
static inline bool
decimal_of(int64 bits, int width, double power, int64 *result)
{
	double		scaled = float_of(bits, width) * power;

	/* NaN fails this, too */
	if (!(scaled > -DECIMAL_MAX_INT && scaled < DECIMAL_MAX_INT))
		return false;
	*result = (int64) (scaled + (scaled < 0 ? -0.5 : 0.5));
	return bits_of((double) *result / power, width) == bits;
}

/* The smallest scale that suits most of a sample; -1 if none does. */
static int
decimal_scale(const int64 *bits, int n, int width)
{
	int			step = Max(n / DECIMAL_SAMPLE, 1);
	int			scale = 0;
	int			bad = 0;
	int			seen = 0;

	for (int i = 0; i < n; i += step)
	{
		int			s = scale;
		int64		ignored;

		seen++;
		while (s <= DECIMAL_MAX_SCALE && !decimal_of(bits[i], width, powers[s], &ignored))
			s++;
		if (s > DECIMAL_MAX_SCALE)
			bad++;
		else
			scale = s;
	}
	return bad * 8 > seen ? -1 : scale;
}

static bool
decimal_write(StringInfo out, const int64 *bits, int n, int width)
{
	int			scale = decimal_scale(bits, n, width);
	int			max_exceptions = n / 32 + 2;
	int			nexceptions = 0;
	int			previous = 0;
	int64	   *ints;
	int		   *exceptions;

	if (scale < 0)
		return false;

	ints = palloc(sizeof(int64) * n);
	exceptions = palloc(sizeof(int) * max_exceptions);
	for (int i = 0; i < n; i++)
	{
		if (decimal_of(bits[i], width, powers[scale], &ints[i]))
			continue;
		if (nexceptions == max_exceptions)
		{
			pfree(ints);
			pfree(exceptions);
			return false;
		}
		exceptions[nexceptions++] = i;
		ints[i] = i > 0 ? ints[i - 1] : 0;
	}

	penstock_put_byte(out, scale);
	penstock_put_varint(out, nexceptions);
	for (int i = 0; i < nexceptions; i++)
	{
		penstock_put_varint(out, exceptions[i] - previous);
		previous = exceptions[i];
		penstock_put_room(out, 8);
		put_u64(out->data + out->len, (uint64) bits[previous]);
		out->len += 8;
	}
	penstock_ints_write(out, ints, n);
	pfree(ints);
	pfree(exceptions);
	return true;
}

/*
 * penstock_decimal_read(cursor, bits, n, width): floats of 4 or 8 bytes as bit patterns.
 */
void
penstock_decimal_read(PenstockCursor *cursor, int64 *bits, int n, int width)
{
	int			scale = penstock_get_byte(cursor);
	int			nexceptions = penstock_get_bounded(cursor, n);
	PenstockCursor exceptions = *cursor;
	int			row = 0;
	double		power;

	if (scale > DECIMAL_MAX_SCALE)
		penstock_damaged(cursor, "its decimal scale is out of range");
	power = powers[scale];

	for (int i = 0; i < nexceptions; i++)
	{
		(void) penstock_get_varint(cursor);
		(void) penstock_get_bytes(cursor, 8);
	}
	penstock_ints_read(cursor, bits, n);

	if (width == 8)
		for (int i = 0; i < n; i++)
			bits[i] = bits_of((double) bits[i] / power, 8);
	else
		for (int i = 0; i < n; i++)
			bits[i] = bits_of((double) bits[i] / power, 4);

	for (int i = 0; i < nexceptions; i++)
	{
		row += penstock_get_bounded(&exceptions, n - 1 - row);
		bits[row] = (int64) get_u64(penstock_get_bytes(&exceptions, 8));
	}
}

/* Bytes of equal weight stand together: exponents compress, mantissas do not. */
static void
shuffle_write(StringInfo out, const int64 *bits, int n, int width)
{
	char	   *planes = palloc((Size) n * width + 1);

	for (int plane = 0; plane < width; plane++)
	{
		char	   *dst = planes + (Size) plane * n;
		int			shift = plane * 8;

		for (int i = 0; i < n; i++)
			dst[i] = (char) ((uint64) bits[i] >> shift);
	}
	penstock_block_write(out, planes, (Size) n * width);
	pfree(planes);
}

/*
 * penstock_shuffle_read(cursor, bits, n, width): floats of 4 or 8 bytes as bit patterns.
 */
void
penstock_shuffle_read(PenstockCursor *cursor, int64 *bits, int n, int width)
{
	const uint8 *planes = (const uint8 *) penstock_block_read(cursor, (Size) n * width);

	memset(bits, 0, sizeof(int64) * n);
	for (int plane = 0; plane < width; plane++)
	{
		const uint8 *src = planes + (Size) plane * n;
		int			shift = plane * 8;

		for (int i = 0; i < n; i++)
			bits[i] |= (int64) ((uint64) src[i] << shift);
	}
	if (width == 4)
		for (int i = 0; i < n; i++)
			bits[i] = (int32) bits[i];
}

/*
 * penstock_floats_write(out, bits, n, width) → COLUMN_ encoding
 */
int
penstock_floats_write(StringInfo out, const int64 *bits, int n, int width)
{
	if (n >= DECIMAL_MIN_VALUES && decimal_write(out, bits, n, width))
		return COLUMN_DECIMAL;
	if (penstock_ints_write_dict(out, bits, n))
		return COLUMN_INTS;
	shuffle_write(out, bits, n, width);
	return COLUMN_SHUFFLE;
}
