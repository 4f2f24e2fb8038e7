/*
 * chunk_codes.c
 *	  Codes into a dictionary.
 *
 * Where some codes are much more frequent than others they go into blocks, where zstd's
 * Huffman coder gains from it: several small ones to a byte, so that it can go below one bit
 * each; of those above 256 the low and the high bits apart.  Otherwise they are bit-packed.
 */
#include "postgres.h"

#include <math.h>

#include "stream/chunk_private.h"

#define CODES_PACKED	0		/* mini-blocks */
#define CODES_SMALL		1		/* up to 256: 1, 2, 4 or 8 bits each, in a block */
#define CODES_SPLIT		2		/* low bytes in a block, then the codes of the rest */

#define SMALL_MAX		256
#define SPLIT_GAIN		0.93	/* of the packed size, at most */

/* The logarithm of the bits a small code takes. */
static inline int
small_log(int ncodes)
{
	return ncodes <= 2 ? 0 : ncodes <= 4 ? 1 : ncodes <= 16 ? 2 : 3;
}

static inline int
packed_width(int ncodes)
{
	return ncodes <= 1 ? 0 : 32 - __builtin_clz(ncodes - 1);
}

/*
 * penstock_entropy(counts, ncounts, n) → bits that n symbols with these counts take at least
 */
double
penstock_entropy(const int *counts, int ncounts, int n)
{
	double		bits = 0;

	for (int i = 0; i < ncounts; i++)
		if (counts[i] > 0)
			bits += counts[i] * log2((double) n / counts[i]);
	return bits;
}

/* ---- ranks ---- */

typedef struct Rank
{
	int			count;
	uint32		code;
} Rank;

static int
compare_ranks(const void *a, const void *b)
{
	const Rank *left = a;
	const Rank *right = b;

	if (left->count != right->count)
		return left->count > right->count ? -1 : 1;
	return left->code < right->code ? -1 : 1;
}

/*
 * penstock_codes_rank(codes, n, ncodes, order)
 *
 * Renumbers codes by falling frequency if that will shorten them; then order[new code] is the old
 * one.  Otherwise returns false and leaves them.
 */
bool
penstock_codes_rank(uint32 *codes, int n, int ncodes, uint32 *order)
{
	int		   *counts;
	bool		result = false;

	if (ncodes <= SMALL_MAX)
		return false;

	counts = palloc0(sizeof(int) * ncodes);
	for (int i = 0; i < n; i++)
		counts[codes[i]]++;
	if (penstock_entropy(counts, ncodes, n) < SPLIT_GAIN * n * packed_width(ncodes))
	{
		Rank	   *ranks = palloc(sizeof(Rank) * ncodes);
		uint32	   *map = (uint32 *) counts;

		for (int i = 0; i < ncodes; i++)
		{
			ranks[i].count = counts[i];
			ranks[i].code = i;
		}
		qsort(ranks, ncodes, sizeof(Rank), compare_ranks);
		for (int i = 0; i < ncodes; i++)
		{
			order[i] = ranks[i].code;
			map[ranks[i].code] = i;
		}
		for (int i = 0; i < n; i++)
			codes[i] = map[codes[i]];
		pfree(ranks);
		result = true;
	}
	pfree(counts);
	return result;
}

/* ---- writing ---- */

static void
small_write(StringInfo out, const uint32 *codes, int n, int ncodes)
{
	int			log = small_log(ncodes);
	int			per_byte = 8 >> log;
	Size		len = (n + per_byte - 1) / per_byte;
	uint8	   *bytes = palloc0(Max(len, 1));

	for (int i = 0; i < n; i++)
		bytes[i >> (3 - log)] |= codes[i] << ((i & (per_byte - 1)) << log);
	penstock_put_byte(out, CODES_SMALL);
	penstock_block_write(out, (char *) bytes, len);
	pfree(bytes);
}

/* Tells whether Huffman codes of low and high bits would be shorter than bit-packing. */
static bool
split_pays(const uint32 *codes, int n, int ncodes)
{
	int			low[256] = {0};
	int			high[PENSTOCK_CHUNK_MAX_ROWS / 256 + 1] = {0};

	for (int i = 0; i < n; i++)
	{
		low[codes[i] & 0xff]++;
		high[codes[i] >> 8]++;
	}
	return penstock_entropy(low, lengthof(low), n) + penstock_entropy(high, lengthof(high), n) <
		SPLIT_GAIN * n * packed_width(ncodes);
}

static void
split_write(StringInfo out, const uint32 *codes, int n, int ncodes)
{
	char	   *low = palloc(n);
	uint32	   *high = palloc(sizeof(uint32) * n);

	for (int i = 0; i < n; i++)
	{
		low[i] = (char) codes[i];
		high[i] = codes[i] >> 8;
	}
	penstock_put_byte(out, CODES_SPLIT);
	penstock_block_write(out, low, n);
	small_write(out, high, n, ((ncodes - 1) >> 8) + 1);
	pfree(low);
	pfree(high);
}

/*
 * penstock_codes_write(out, codes, n, ncodes): n codes below ncodes
 */
void
penstock_codes_write(StringInfo out, const uint32 *codes, int n, int ncodes)
{
	if (ncodes <= SMALL_MAX)
		small_write(out, codes, n, ncodes);
	else if (split_pays(codes, n, ncodes))
		split_write(out, codes, n, ncodes);
	else
	{
		PenstockMini stats[PENSTOCK_MAX_MINIS];
		uint64	   *wide = palloc(sizeof(uint64) * n);

		for (int i = 0; i < n; i++)
			wide[i] = codes[i];
		penstock_minis_measure(wide, n, stats);
		penstock_put_byte(out, CODES_PACKED);
		penstock_minis_write(out, wide, n, stats);
		pfree(wide);
	}
}

/* ---- reading ---- */

static void
small_read(PenstockCursor *cursor, uint32 *codes, int n, int ncodes)
{
	int			log = small_log(ncodes);
	int			per_byte = 8 >> log;
	const uint8 *bytes;

	bytes = (const uint8 *) penstock_block_read(cursor, (n + per_byte - 1) / per_byte);
	switch (log)
	{
		case 0:
			for (int i = 0; i < n; i++)
				codes[i] = (bytes[i >> 3] >> (i & 7)) & 1;
			break;
		case 1:
			for (int i = 0; i < n; i++)
				codes[i] = (bytes[i >> 2] >> ((i & 3) << 1)) & 3;
			break;
		case 2:
			for (int i = 0; i < n; i++)
				codes[i] = (bytes[i >> 1] >> ((i & 1) << 2)) & 15;
			break;
		default:
			for (int i = 0; i < n; i++)
				codes[i] = bytes[i];
			break;
	}
}

static void
split_read(PenstockCursor *cursor, uint32 *codes, int n, int ncodes)
{
	const uint8 *low = (const uint8 *) penstock_block_read(cursor, n);

	if (penstock_get_byte(cursor) != CODES_SMALL)
		penstock_damaged(cursor, "its codes are of an unknown kind");
	small_read(cursor, codes, n, ((ncodes - 1) >> 8) + 1);
	for (int i = 0; i < n; i++)
		codes[i] = codes[i] << 8 | low[i];
}

static void
packed_read(PenstockCursor *cursor, uint32 *codes, int n)
{
	uint64	   *wide = palloc(sizeof(uint64) * Max(n, 1));

	penstock_minis_read(cursor, wide, n);
	for (int i = 0; i < n; i++)
		codes[i] = wide[i] > PENSTOCK_CHUNK_MAX_ROWS ? PG_UINT32_MAX : (uint32) wide[i];
	pfree(wide);
}

/*
 * penstock_codes_read(cursor, codes, n, ncodes): what penstock_codes_write wrote
 */
void
penstock_codes_read(PenstockCursor *cursor, uint32 *codes, int n, int ncodes)
{
	int			kind = penstock_get_byte(cursor);
	uint32		max = 0;

	if (kind == CODES_SMALL && ncodes <= SMALL_MAX)
		small_read(cursor, codes, n, ncodes);
	else if (kind == CODES_SPLIT && ncodes > SMALL_MAX)
		split_read(cursor, codes, n, ncodes);
	else if (kind == CODES_PACKED)
		packed_read(cursor, codes, n);
	else
		penstock_damaged(cursor, "its codes are of an unknown kind");

	for (int i = 0; i < n; i++)
		max = Max(max, codes[i]);
	if (n > 0 && max >= ncodes)
		penstock_damaged(cursor, "a code points behind the dictionary");
}
