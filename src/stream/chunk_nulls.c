/*
 * chunk_nulls.c
 *	  Which rows of a column are NULL: a bitmap, or runs where they are shorter.
 */
#include "postgres.h"

#include "stream/chunk_private.h"

#define NULLS_BITMAP	0
#define NULLS_RUNS		1

/*
 * penstock_nulls_write(out, isnull, n)
 *
 * Runs alternate, values first; the last one is implied.
 */
void
penstock_nulls_write(StringInfo out, const bool *isnull, int n)
{
	int			bitmap_len = (n + 7) / 8;
	int			runs = 0;

	for (int i = 1; i < n; i++)
		runs += isnull[i] != isnull[i - 1];

	if (runs * 2 <= bitmap_len)
	{
		bool		current = false;
		int			start = 0;

		penstock_put_byte(out, NULLS_RUNS);
		penstock_put_varint(out, runs + (isnull[0] ? 1 : 0));
		for (int i = 0; i < n; i++)
		{
			if (isnull[i] == current)
				continue;
			penstock_put_varint(out, i - start);
			start = i;
			current = !current;
		}
	}
	else
	{
		char	   *bitmap = palloc0(bitmap_len);

		for (int i = 0; i < n; i++)
			bitmap[i >> 3] |= isnull[i] << (i & 7);
		penstock_put_byte(out, NULLS_BITMAP);
		penstock_block_write(out, bitmap, bitmap_len);
		pfree(bitmap);
	}
}

static void
nulls_read_runs(PenstockCursor *cursor, bool *isnull, int n)
{
	int			nruns = penstock_get_bounded(cursor, n);
	int			row = 0;
	bool		current = false;

	for (int run = 0; run < nruns; run++)
	{
		int			len = penstock_get_bounded(cursor, n - row);

		memset(isnull + row, current, len);
		row += len;
		current = !current;
	}
	memset(isnull + row, current, n - row);
}

/*
 * penstock_nulls_read(cursor, isnull, n) → how many are not NULL
 */
int
penstock_nulls_read(PenstockCursor *cursor, bool *isnull, int n)
{
	int			kind = penstock_get_byte(cursor);
	int			nvalues = 0;

	if (kind == NULLS_RUNS)
		nulls_read_runs(cursor, isnull, n);
	else if (kind == NULLS_BITMAP)
	{
		const char *bitmap = penstock_block_read(cursor, (n + 7) / 8);

		for (int i = 0; i < n; i++)
			isnull[i] = (bitmap[i >> 3] >> (i & 7)) & 1;
	}
	else
		penstock_damaged(cursor, "its NULLs are of an unknown kind");

	for (int i = 0; i < n; i++)
		nvalues += !isnull[i];
	return nvalues;
}
