/*
 * chunk_ints.c
 *	  Sequences of integers: constant, bit-packed, bit-packed differences, or a
 *	  dictionary with codes, whichever is shortest.
 */
#include "postgres.h"

#include "stream/chunk_private.h"

#define INTS_CONST		0
#define INTS_PACKED		1
#define INTS_DELTA		2
#define INTS_DICT		3

#define DICT_MAX		4096
#define DICT_MIN_VALUES	32		/* shorter sequences gain nothing */

/* ---- a dictionary of integers ---- */

typedef struct IntDict
{
	int			max;			/* more distinct values than this do not pay */
	int			ndict;
	int64	   *values;
	int		   *counts;
	uint32	   *codes;			/* one a value of the sequence */
	uint16	   *slots;			/* hash table: index + 1 */
	int			shift;			/* of a 64-bit hash down to a slot */
} IntDict;

static void
dict_init(IntDict *dict, int n)
{
	int			bits = 6;

	dict->max = Min(DICT_MAX, Max(n / 4, 16));
	while (1 << bits < dict->max * 4)
		bits++;
	dict->shift = 64 - bits;
	dict->ndict = 0;
	dict->values = palloc(sizeof(int64) * dict->max);
	dict->counts = palloc(sizeof(int) * dict->max);
	dict->codes = palloc(sizeof(uint32) * n);
	dict->slots = palloc0(sizeof(uint16) << bits);
}

static void
dict_free(IntDict *dict)
{
	pfree(dict->values);
	pfree(dict->counts);
	pfree(dict->codes);
	pfree(dict->slots);
}

/* Gives each value a code; false when there are too many distinct ones. */
static bool
dict_build(IntDict *dict, const int64 *values, int n)
{
	uint32		mask = (1 << (64 - dict->shift)) - 1;

	for (int i = 0; i < n; i++)
	{
		int64		v = values[i];
		uint32		slot = ((uint64) v * UINT64CONST(0x9E3779B97F4A7C15)) >> dict->shift;
		int			code;

		while ((code = dict->slots[slot]) != 0 && dict->values[code - 1] != v)
			slot = (slot + 1) & mask;
		if (code == 0)
		{
			if (dict->ndict == dict->max)
				return false;
			code = ++dict->ndict;
			dict->slots[slot] = code;
			dict->values[code - 1] = v;
			dict->counts[code - 1] = 0;
		}
		dict->counts[code - 1]++;
		dict->codes[i] = code - 1;
	}
	return true;
}

/* Bytes of the dictionary and of what the codes will be shortened to, about. */
static Size
dict_measure(const IntDict *dict, int n)
{
	PenstockMini stats[PENSTOCK_MAX_MINIS];

	return (Size) (penstock_entropy(dict->counts, dict->ndict, n) / 8 * 1.08) +
		penstock_minis_measure((const uint64 *) dict->values, dict->ndict, stats) + 64;
}

/* The dictionary is a sequence without a dictionary, so that reading cannot recurse. */
static void
dict_write(StringInfo out, IntDict *dict, int n)
{
	PenstockMini stats[PENSTOCK_MAX_MINIS];
	uint32	   *order = palloc(sizeof(uint32) * dict->ndict);
	uint64	   *values = palloc(sizeof(uint64) * dict->ndict);
	bool		ranked = penstock_codes_rank(dict->codes, n, dict->ndict, order);

	for (int i = 0; i < dict->ndict; i++)
		values[i] = (uint64) dict->values[ranked ? order[i] : i];
	penstock_put_byte(out, INTS_DICT);
	penstock_put_varint(out, dict->ndict);
	penstock_minis_measure(values, dict->ndict, stats);
	penstock_minis_write(out, values, dict->ndict, stats);
	penstock_codes_write(out, dict->codes, n, dict->ndict);
	pfree(order);
	pfree(values);
}

/* The dictionary's values, palloc'd; the codes follow in the cursor. */
static int64 *
dict_read(PenstockCursor *cursor, int *ndict)
{
	int64	   *values;

	*ndict = penstock_get_bounded(cursor, DICT_MAX);
	values = palloc(sizeof(int64) * Max(*ndict, 1));
	penstock_minis_read(cursor, (uint64 *) values, *ndict);
	return values;
}

/* ---- sequences ---- */

static bool
is_constant(const int64 *values, int n)
{
	for (int i = 1; i < n; i++)
		if (values[i] != values[0])
			return false;
	return true;
}

static void
constant_write(StringInfo out, int64 value)
{
	penstock_put_byte(out, INTS_CONST);
	penstock_put_varint(out, zigzag(value));
}

/* Writes a dictionary if it is shorter than other bytes. */
static bool
try_dict(StringInfo out, const int64 *values, int n, Size other)
{
	IntDict		dict;
	bool		result;

	if (n < DICT_MIN_VALUES)
		return false;
	dict_init(&dict, n);
	result = dict_build(&dict, values, n) && dict_measure(&dict, n) < other;
	if (result)
		dict_write(out, &dict, n);
	dict_free(&dict);
	return result;
}

/*
 * penstock_ints_write_dict(out, values, n): for values of which the difference means nothing.
 */
bool
penstock_ints_write_dict(StringInfo out, const int64 *values, int n)
{
	if (n > 1 && is_constant(values, n))
	{
		constant_write(out, values[0]);
		return true;
	}
	return try_dict(out, values, n, (Size) n * 4);
}

/*
 * penstock_ints_write(out, values, n): appends n integers, at most one chunk's rows.
 */
void
penstock_ints_write(StringInfo out, const int64 *values, int n)
{
	PenstockMini plain_stats[PENSTOCK_MAX_MINIS];
	PenstockMini delta_stats[PENSTOCK_MAX_MINIS];
	uint64	   *deltas;
	Size		plain;
	Size		delta;

	Assert(n <= PENSTOCK_CHUNK_MAX_ROWS);
	if (n == 0 || is_constant(values, n))
	{
		constant_write(out, n == 0 ? 0 : values[0]);
		return;
	}

	deltas = palloc(sizeof(uint64) * n);
	for (int i = 1; i < n; i++)
		deltas[i - 1] = (uint64) values[i] - (uint64) values[i - 1];
	plain = penstock_minis_measure((const uint64 *) values, n, plain_stats);
	delta = penstock_minis_measure(deltas, n - 1, delta_stats) + 5;

	if (try_dict(out, values, n, Min(plain, delta)))
		;						/* done */
	else if (plain <= delta)
	{
		penstock_put_byte(out, INTS_PACKED);
		penstock_minis_write(out, (const uint64 *) values, n, plain_stats);
	}
	else
	{
		penstock_put_byte(out, INTS_DELTA);
		penstock_put_varint(out, zigzag(values[0]));
		penstock_minis_write(out, deltas, n - 1, delta_stats);
	}
	pfree(deltas);
}

static void
delta_read(PenstockCursor *cursor, int64 *values, int n)
{
	uint64	   *sums = (uint64 *) values;

	if (n == 0)
		return;
	sums[0] = (uint64) unzigzag(penstock_get_varint(cursor));
	penstock_minis_read(cursor, sums + 1, n - 1);
	for (int i = 1; i < n; i++)
		sums[i] += sums[i - 1];
}

static void
dict_read_values(PenstockCursor *cursor, int64 *values, int n)
{
	int			ndict;
	int64	   *dict = dict_read(cursor, &ndict);
	uint32	   *codes = palloc(sizeof(uint32) * Max(n, 1));

	penstock_codes_read(cursor, codes, n, ndict);
	for (int i = 0; i < n; i++)
		values[i] = dict[codes[i]];
	pfree(codes);
	pfree(dict);
}

/*
 * penstock_ints_read(cursor, values, n): what penstock_ints_write wrote.
 */
void
penstock_ints_read(PenstockCursor *cursor, int64 *values, int n)
{
	switch (penstock_get_byte(cursor))
	{
		case INTS_CONST:
			{
				int64		v = unzigzag(penstock_get_varint(cursor));

				for (int i = 0; i < n; i++)
					values[i] = v;
				break;
			}
		case INTS_PACKED:
			penstock_minis_read(cursor, (uint64 *) values, n);
			break;
		case INTS_DELTA:
			delta_read(cursor, values, n);
			break;
		case INTS_DICT:
			dict_read_values(cursor, values, n);
			break;
		default:
			penstock_damaged(cursor, "its numbers are of an unknown kind");
	}
}

/*
 * penstock_ints_read_dict(cursor, n, codes, dict, ndict): the same as codes and
 * dictionary, where they were stored so.
 */
bool
penstock_ints_read_dict(PenstockCursor *cursor, int n, uint32 *codes,
						int64 **dict, int *ndict)
{
	const char *start = cursor->p;
	int			kind = penstock_get_byte(cursor);

	if (kind == INTS_CONST)
	{
		*dict = palloc(sizeof(int64));
		(*dict)[0] = unzigzag(penstock_get_varint(cursor));
		*ndict = 1;
		memset(codes, 0, sizeof(uint32) * n);
		return true;
	}
	if (kind == INTS_DICT)
	{
		*dict = dict_read(cursor, ndict);
		penstock_codes_read(cursor, codes, n, *ndict);
		return true;
	}
	cursor->p = start;
	return false;
}
