/*
 * chunk_bytes.c
 *	  Values that are not passed by value: their bytes, or a dictionary and codes.
 */
#include "postgres.h"

#include "access/tupmacs.h"
#include "utils/memutils.h"

#include "stream/chunk_private.h"

/* lengths, then all bytes in one block */
static void
values_write(StringInfo out, const char *arena, const PenstockBytesEntry *entries,
			 const uint32 *ids, int n)
{
	int64	   *lens = palloc(sizeof(int64) * Max(n, 1));
	Size		total = 0;
	bool		contiguous = true;

	for (int i = 0; i < n; i++)
	{
		const PenstockBytesEntry *entry = &entries[ids[i]];

		if (i > 0 && entry->offset != entries[ids[i - 1]].offset + entries[ids[i - 1]].len)
			contiguous = false;
		lens[i] = entry->len;
		total += entry->len;
	}
	penstock_ints_write(out, lens, n);
	pfree(lens);

	if (total > MAX_BLOCK)
		penstock_too_large();
	if (contiguous)
		penstock_block_write(out, n > 0 ? arena + entries[ids[0]].offset : NULL, total);
	else
	{
		char	   *bytes = palloc(Max(total, 1));
		char	   *dst = bytes;

		for (int i = 0; i < n; i++)
		{
			const PenstockBytesEntry *entry = &entries[ids[i]];

			memcpy(dst, arena + entry->offset, entry->len);
			dst += entry->len;
		}
		penstock_block_write(out, bytes, total);
		pfree(bytes);
	}
}

/*
 * penstock_bytes_write(out, arena, entries, nentries, ids, n, distinct) → COLUMN_ encoding
 */
int
penstock_bytes_write(StringInfo out, const char *arena,
					 const PenstockBytesEntry *entries, int nentries,
					 const uint32 *ids, int n, bool distinct)
{
	uint32	   *map;			/* entry → code + 1 */
	uint32	   *used;			/* code → entry */
	uint32	   *codes;
	int			nused = 0;
	int			encoding = COLUMN_BYTES;

	if (!distinct)
	{
		values_write(out, arena, entries, ids, n);
		return COLUMN_BYTES;
	}

	map = palloc0(sizeof(uint32) * Max(nentries, 1));
	used = palloc(sizeof(uint32) * Max(n, 1));
	codes = palloc(sizeof(uint32) * Max(n, 1));
	for (int i = 0; i < n; i++)
	{
		uint32	   *code = &map[ids[i]];

		if (*code == 0)
		{
			used[nused++] = ids[i];
			*code = nused;
		}
		codes[i] = *code - 1;
	}

	if (nused * 2 <= n)
	{
		uint32	   *order = palloc(sizeof(uint32) * Max(nused, 1));

		if (penstock_codes_rank(codes, n, nused, order))
		{
			for (int i = 0; i < nused; i++)
				order[i] = used[order[i]];
			memcpy(used, order, sizeof(uint32) * nused);
		}
		pfree(order);
		encoding = COLUMN_BYTES_DICT;
		penstock_put_varint(out, nused);
		values_write(out, arena, entries, used, nused);
		penstock_codes_write(out, codes, n, nused);
	}
	else
		values_write(out, arena, entries, ids, n);

	pfree(map);
	pfree(used);
	pfree(codes);
	return encoding;
}

/* The size of one Datum's place in memory. */
static inline Size
datum_room(int64 len, int attlen, char attalign)
{
	if (attlen == -1)
		len += VARHDRSZ;
	else if (attlen == -2)
		len += 1;
	return att_align_nominal(len, attalign);
}

/*
 * penstock_bytes_read(cursor, values, n, attlen, attalign)
 *
 * Varlenas get 4-byte headers: types whose storage is plain have no others.
 */
void
penstock_bytes_read(PenstockCursor *cursor, Datum *values, int n,
					int attlen, char attalign)
{
	int64	   *lens = palloc(sizeof(int64) * Max(n, 1));
	Size		total = 0;
	Size		room = 0;
	const char *src;
	char	   *dst;

	penstock_ints_read(cursor, lens, n);
	for (int i = 0; i < n; i++)
	{
		if (lens[i] < 0 || lens[i] > MAX_BLOCK ||
			(attlen > 0 && lens[i] != attlen))
			penstock_damaged(cursor, "a value has the wrong length");
		total += lens[i];
		room += datum_room(lens[i], attlen, attalign);
	}
	if (total > MAX_BLOCK)
		penstock_damaged(cursor, "its values are too long");

	src = penstock_block_read(cursor, total);
	dst = MemoryContextAllocExtended(CurrentMemoryContext, Max(room, 1), MCXT_ALLOC_HUGE);
	for (int i = 0; i < n; i++)
	{
		char	   *bytes = dst;

		values[i] = PointerGetDatum(dst);
		if (attlen == -1)
		{
			SET_VARSIZE(dst, lens[i] + VARHDRSZ);
			bytes += VARHDRSZ;
		}
		memcpy(bytes, src, lens[i]);
		if (attlen == -2)
			bytes[lens[i]] = '\0';
		src += lens[i];
		dst += datum_room(lens[i], attlen, attalign);
	}
	pfree(lens);
}
