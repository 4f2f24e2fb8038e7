/*
 * chunk_minis.c
 *	  Bit-packing in mini-blocks of 128 integers.
 *
 * Each block stores its minimum and the width of what is above it, so an outlier
 * widens its neighbours only.
 */
#include "postgres.h"

#include "stream/chunk_private.h"

#define MINI			128
#define MAX_WIDTH		56		/* wider is stored as 64 bits */

static inline int
width_of(uint64 range)
{
	int			width = range == 0 ? 0 : 64 - __builtin_clzll(range);

	return width > MAX_WIDTH ? 64 : width;
}

static inline Size
packed_size(int n, int width)
{
	return ((Size) n * width + 7) / 8;
}

static void
pack(char *dst, const uint64 *values, uint64 base, int n, int width)
{
	uint64		acc = 0;
	int			fill = 0;

	if (width == 0)
		return;
	if (width == 64)
	{
		for (int i = 0; i < n; i++)
			put_u64(dst + 8 * i, values[i] - base);
		return;
	}
	for (int i = 0; i < n; i++)
	{
		uint64		v = values[i] - base;

		acc |= v << fill;
		fill += width;
		if (fill >= 64)
		{
			put_u64(dst, acc);
			dst += 8;
			fill -= 64;
			acc = v >> (width - fill);
		}
	}
	for (; fill > 0; fill -= 8, acc >>= 8)
		*dst++ = (char) acc;
}

/* src must be readable for 8 bytes after the packed ones */
static void
unpack(const char *src, uint64 *values, uint64 base, int n, int width)
{
	uint64		mask;

	if (width == 0)
	{
		for (int i = 0; i < n; i++)
			values[i] = base;
		return;
	}
	if (width == 64)
	{
		for (int i = 0; i < n; i++)
			values[i] = base + get_u64(src + 8 * i);
		return;
	}
	mask = (UINT64CONST(1) << width) - 1;
	for (int i = 0, bit = 0; i < n; i++, bit += width)
		values[i] = base + ((get_u64(src + (bit >> 3)) >> (bit & 7)) & mask);
}

/*
 * penstock_minis_write(out, values, n, stats): with the stats that penstock_minis_measure made
 */
void
penstock_minis_write(StringInfo out, const uint64 *values, int n, const PenstockMini *stats)
{
	uint64		previous = 0;

	for (int i = 0, mini = 0; i < n; i += MINI, mini++)
	{
		int			count = Min(MINI, n - i);
		int			width = stats[mini].width;

		penstock_put_room(out, 32 + packed_size(count, width));
		out->data[out->len++] = (char) width;
		penstock_put_varint(out, zigzag((int64) (stats[mini].min - previous)));
		previous = stats[mini].min;
		pack(out->data + out->len, values + i, previous, count, width);
		out->len += packed_size(count, width);
	}
}

/*
 * penstock_minis_read(cursor, values, n): what penstock_minis_write wrote
 */
void
penstock_minis_read(PenstockCursor *cursor, uint64 *values, int n)
{
	uint64		base = 0;

	for (int i = 0; i < n; i += MINI)
	{
		int			count = Min(MINI, n - i);
		int			width = penstock_get_byte(cursor);
		const char *src;

		if (width > MAX_WIDTH && width != 64)
			penstock_damaged(cursor, "a bit width is out of range");
		base += (uint64) unzigzag(penstock_get_varint(cursor));
		src = penstock_get_bytes(cursor, packed_size(count, width));
		if (cursor_left(cursor) >= 8)
			unpack(src, values + i, base, count, width);
		else
		{
			char		copy[MINI * 8 + 8];

			memcpy(copy, src, packed_size(count, width));
			memset(copy + packed_size(count, width), 0, 8);
			unpack(copy, values + i, base, count, width);
		}
	}
}

/*
 * penstock_minis_measure(values, n, stats) → the bytes that they would take, about
 */
Size
penstock_minis_measure(const uint64 *values, int n, PenstockMini *stats)
{
	Size		size = 0;

	for (int i = 0, mini = 0; i < n; i += MINI, mini++)
	{
		int			count = Min(MINI, n - i);
		int64		min = (int64) values[i];
		int64		max = min;

		for (int j = i + 1; j < i + count; j++)
		{
			int64		v = (int64) values[j];

			min = Min(min, v);
			max = Max(max, v);
		}
		stats[mini].min = (uint64) min;
		stats[mini].width = width_of((uint64) max - (uint64) min);
		size += packed_size(count, stats[mini].width) + 3;
	}
	return size;
}
