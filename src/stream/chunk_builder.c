/*
 * chunk_builder.c
 *	  Takes rows and keeps them column by column until they are encoded.
 *
 * Values passed by value are kept as sign-extended 64-bit integers, floats as their bits.
 * Of the others the bytes are kept, without header or padding, in one arena per column;
 * from DICT_START rows on a hash table finds equal ones, so that a repeated value costs
 * four bytes, until a column turns out to repeat too little.
 */
#include "postgres.h"

#include "access/detoast.h"
#include "access/tupmacs.h"
#include "fmgr.h"
#include "utils/expandeddatum.h"
#include "utils/memutils.h"

#include "stream/chunk_private.h"

#define FIRST_ROWS			8			/* room made for the first row */
#define BYTE_LIMIT			(4 * 1024 * 1024)
#define KEEP_ARENA			(8 * 1024 * 1024)	/* a larger arena is not kept over a reset */
#define DICT_START			64			/* rows before equal values are looked for */
#define DICT_FIRST_SLOTS	512

/*
 * penstock_builder_create(parent, desc, event_attno): an empty builder for rows of desc, in a
 * context of its own under parent.  desc is not needed afterwards.
 */
PenstockBuilder *
penstock_builder_create(MemoryContext parent, TupleDesc desc, int event_attno)
{
	MemoryContext context = AllocSetContextCreate(parent, "penstock chunk builder",
												  ALLOCSET_START_SMALL_SIZES);
	PenstockBuilder *builder = MemoryContextAllocZero(context, sizeof(PenstockBuilder));

	builder->context = context;
	builder->natts = desc->natts;
	builder->event_attno = event_attno;
	builder->columns = MemoryContextAllocZero(context,
											  sizeof(PenstockBuilderColumn) * Max(desc->natts, 1));
	builder->memory = sizeof(PenstockBuilder) + sizeof(PenstockBuilderColumn) * desc->natts;

	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);
		PenstockBuilderColumn *col = &builder->columns[i];

		col->attlen = att->attlen;
		if (att->attisdropped)
			col->class = PENSTOCK_CLASS_DROPPED;
		else if (att->attbyval)
		{
			col->class = PENSTOCK_CLASS_INT;
			col->order = penstock_type_order(att->atttypid, &col->is_float);
		}
		else if (att->attlen > 0)
			col->class = PENSTOCK_CLASS_FIXED;
		else
			col->class = att->attlen == -1 ? PENSTOCK_CLASS_VARLENA : PENSTOCK_CLASS_CSTRING;
	}
	return builder;
}

/* Reallocates a builder's array, keeping the account of its memory. */
static void *
grow(PenstockBuilder *builder, void *old, Size old_size, Size new_size)
{
	builder->memory += new_size - old_size;
	if (old == NULL)
		return MemoryContextAllocExtended(builder->context, new_size, MCXT_ALLOC_HUGE);
	return repalloc_huge(old, new_size);
}

static void
grow_rows(PenstockBuilder *builder)
{
	int			old = builder->max_rows;
	int			rows = old == 0 ? FIRST_ROWS : Min(old * 4, PENSTOCK_CHUNK_MAX_ROWS);

	for (int i = 0; i < builder->natts; i++)
	{
		PenstockBuilderColumn *col = &builder->columns[i];

		if (col->class == PENSTOCK_CLASS_INT)
			col->ints = grow(builder, col->ints, sizeof(int64) * old, sizeof(int64) * rows);
		else if (col->class != PENSTOCK_CLASS_DROPPED)
			col->ids = grow(builder, col->ids, sizeof(uint32) * old, sizeof(uint32) * rows);
		if (col->isnull != NULL)
			col->isnull = grow(builder, col->isnull, old, rows);
	}
	builder->max_rows = rows;
}

static void
set_null(PenstockBuilder *builder, PenstockBuilderColumn *col, bool isnull)
{
	if (col->isnull == NULL)
	{
		col->isnull = grow(builder, NULL, 0, builder->max_rows);
		memset(col->isnull, false, builder->nrows);
	}
	col->isnull[builder->nrows] = isnull;
}

/* As the server would read the value from a row: sign-extended. */
static inline int64
canonical_int(Datum value, int attlen)
{
	switch (attlen)
	{
		case 1:
			return (int8) value;
		case 2:
			return (int16) value;
		case 4:
			return (int32) value;
		default:
			return (int64) value;
	}
}

/* ---- bytes ---- */

static inline uint32
hash_of(const char *p, uint32 len)
{
	const uint64 mult = UINT64CONST(0x9FB21C651E98DF25);
	uint64		h = len * mult;
	uint64		word;

	for (; len >= 8; len -= 8, p += 8)
	{
		memcpy(&word, p, 8);
		h = (h ^ word) * mult;
		h ^= h >> 29;
	}
	if (len > 0)
	{
		word = 0;
		memcpy(&word, p, len);
		h = (h ^ word) * mult;
		h ^= h >> 29;
	}
	return (uint32) (h ^ (h >> 32));
}

static uint32
add_entry(PenstockBuilder *builder, PenstockBuilderColumn *col,
		  const char *bytes, uint32 len, uint32 hash)
{
	PenstockBytesEntry *entry;

	if (col->nentries == col->max_entries)
	{
		int			entries = Max(col->max_entries * 2, FIRST_ROWS);

		col->entries = grow(builder, col->entries,
							sizeof(PenstockBytesEntry) * col->max_entries,
							sizeof(PenstockBytesEntry) * entries);
		col->max_entries = entries;
	}
	if (col->arena == NULL || len > col->arena_max - col->arena_len)
	{
		Size		size = Max(col->arena_len + len, Max(col->arena_max * 2, 64));

		/* no doubling of what one huge value needs */
		if (size > KEEP_ARENA)
			size = col->arena_len + len;
		if (size > PG_UINT32_MAX)
			penstock_too_large();
		col->arena = grow(builder, col->arena, col->arena_max, size);
		col->arena_max = size;
	}

	entry = &col->entries[col->nentries];
	entry->offset = (uint32) col->arena_len;
	entry->len = len;
	entry->hash = hash;
	if (len > 0)
		memcpy(col->arena + col->arena_len, bytes, len);
	col->arena_len += len;
	builder->raw += len + sizeof(PenstockBytesEntry);
	return col->nentries++;
}

static void
fill_slots(PenstockBuilderColumn *col)
{
	memset(col->slots, 0, sizeof(uint32) * col->nslots);
	for (int i = 0; i < col->nentries; i++)
	{
		uint32		slot = col->entries[i].hash & (col->nslots - 1);

		while (col->slots[slot] != 0)
			slot = (slot + 1) & (col->nslots - 1);
		col->slots[slot] = i + 1;
	}
}

/* Finds or adds the value. */
static uint32
dict_entry(PenstockBuilder *builder, PenstockBuilderColumn *col,
		   const char *bytes, uint32 len)
{
	uint32		hash = hash_of(bytes, len);
	uint32		slot = hash & (col->nslots - 1);
	uint32		id;

	while ((id = col->slots[slot]) != 0)
	{
		const PenstockBytesEntry *entry = &col->entries[id - 1];

		if (entry->hash == hash && entry->len == len &&
			memcmp(col->arena + entry->offset, bytes, len) == 0)
			return id - 1;
		slot = (slot + 1) & (col->nslots - 1);
	}

	id = add_entry(builder, col, bytes, len, hash);
	col->slots[slot] = id + 1;
	if (col->nentries * 2 > col->nslots)
	{
		col->slots = grow(builder, col->slots, sizeof(uint32) * col->nslots,
						  sizeof(uint32) * col->nslots * 4);
		col->nslots *= 4;
		fill_slots(col);
	}
	return id;
}

/*
 * Starts the dictionary: the rows so far get the ids that equal values share.
 */
static void
dict_start(PenstockBuilder *builder, PenstockBuilderColumn *col)
{
	PenstockBytesEntry *old = col->entries;
	int			nold = col->nentries;
	uint32	   *map = palloc(sizeof(uint32) * Max(nold, 1));
	int			kept = 0;

	if (col->slots == NULL)
	{
		col->slots = grow(builder, NULL, 0, sizeof(uint32) * DICT_FIRST_SLOTS);
		col->nslots = DICT_FIRST_SLOTS;
	}
	memset(col->slots, 0, sizeof(uint32) * col->nslots);

	/* an entry only moves towards the front, so this can be done in place */
	for (int i = 0; i < nold; i++)
	{
		PenstockBytesEntry entry = old[i];
		uint32		slot;
		uint32		id;

		entry.hash = hash_of(col->arena + entry.offset, entry.len);
		slot = entry.hash & (col->nslots - 1);
		while ((id = col->slots[slot]) != 0 &&
			   !(old[id - 1].hash == entry.hash && old[id - 1].len == entry.len &&
				 memcmp(col->arena + old[id - 1].offset, col->arena + entry.offset,
						entry.len) == 0))
			slot = (slot + 1) & (col->nslots - 1);
		if (id == 0)
		{
			old[kept] = entry;
			id = ++kept;
			col->slots[slot] = id;
		}
		map[i] = id - 1;
	}
	for (int row = 0; row < builder->nrows; row++)
		if (col->isnull == NULL || !col->isnull[row])
			col->ids[row] = map[col->ids[row]];
	col->nentries = kept;
	col->dict = true;
	pfree(map);
}

/* Ends it when nearly every value is new, because looking costs more than it finds. */
static bool
dict_useless(const PenstockBuilderColumn *col, int nrows)
{
	if (nrows == 4096)
		return col->nentries > 3700;
	return nrows == 16384 && col->nentries > 10000;
}

static void
append_bytes(PenstockBuilder *builder, PenstockBuilderColumn *col, Datum value)
{
	const char *bytes;
	Size		len;
	int			row = builder->nrows;

	if (col->class == PENSTOCK_CLASS_VARLENA)
	{
		struct varlena *plain = (struct varlena *) DatumGetPointer(value);

		if (VARATT_IS_EXTERNAL(plain) || VARATT_IS_COMPRESSED(plain))
		{
			MemoryContext old = MemoryContextSwitchTo(builder->scratch);

			plain = pg_detoast_datum_packed(plain);
			MemoryContextSwitchTo(old);
			builder->scratch_used = true;
		}
		bytes = VARDATA_ANY(plain);
		len = VARSIZE_ANY_EXHDR(plain);
	}
	else
	{
		bytes = DatumGetPointer(value);
		len = col->class == PENSTOCK_CLASS_FIXED ? col->attlen : strlen(bytes);
	}
	if (len > MAX_BLOCK)
		penstock_too_large();

	if (!col->dict && !col->dict_given_up && row >= DICT_START)
		dict_start(builder, col);
	else if (col->dict && dict_useless(col, row))
	{
		col->dict = false;
		col->dict_given_up = true;
	}

	if (col->dict)
		col->ids[row] = dict_entry(builder, col, bytes, (uint32) len);
	else
		col->ids[row] = add_entry(builder, col, bytes, (uint32) len, 0);
}

/*
 * penstock_builder_append(builder, values, isnull): adds a row.  Values are copied, toasted and
 * expanded ones as plain values.  An error leaves the builder as it was before the row.
 */
void
penstock_builder_append(PenstockBuilder *builder, const Datum *values, const bool *isnull)
{
	int			row = builder->nrows;

	if (row >= PENSTOCK_CHUNK_MAX_ROWS)
		elog(ERROR, "chunk builder is full");
	if (row == builder->max_rows)
		grow_rows(builder);
	if (builder->scratch == NULL)
		builder->scratch = AllocSetContextCreate(builder->context, "penstock chunk row",
												 ALLOCSET_SMALL_SIZES);

	for (int i = 0; i < builder->natts; i++)
	{
		PenstockBuilderColumn *col = &builder->columns[i];

		if (col->class == PENSTOCK_CLASS_DROPPED)
			continue;
		if (isnull[i])
		{
			set_null(builder, col, true);
			continue;
		}
		if (col->isnull != NULL)
			col->isnull[row] = false;
		if (col->class == PENSTOCK_CLASS_INT)
		{
			col->ints[row] = canonical_int(values[i], col->attlen);
			builder->raw += sizeof(int64);
		}
		else
		{
			append_bytes(builder, col, values[i]);
			builder->raw += sizeof(uint32);
		}
	}

	builder->nrows++;
	if (builder->scratch_used)
	{
		MemoryContextReset(builder->scratch);
		builder->scratch_used = false;
	}
}

int
penstock_builder_rows(const PenstockBuilder *builder)
{
	return builder->nrows;
}

/*
 * penstock_builder_size(builder): bytes of memory held.  A row's detoasted values, which are
 * held while it is appended, are not counted.
 */
Size
penstock_builder_size(const PenstockBuilder *builder)
{
	return builder->memory;
}

bool
penstock_builder_full(const PenstockBuilder *builder)
{
	return builder->nrows >= PENSTOCK_CHUNK_MAX_ROWS || builder->raw >= BYTE_LIMIT;
}

/*
 * penstock_builder_reset(builder): forgets the rows and keeps the memory, but for arenas that
 * a huge value made large.
 */
void
penstock_builder_reset(PenstockBuilder *builder)
{
	for (int i = 0; i < builder->natts; i++)
	{
		PenstockBuilderColumn *col = &builder->columns[i];

		if (col->isnull != NULL)
		{
			pfree(col->isnull);
			col->isnull = NULL;
			builder->memory -= builder->max_rows;
		}
		if (col->arena_max > KEEP_ARENA)
		{
			pfree(col->arena);
			builder->memory -= col->arena_max;
			col->arena = NULL;
			col->arena_max = 0;
		}
		col->arena_len = 0;
		col->nentries = 0;
		col->dict = false;
		col->dict_given_up = false;
	}
	builder->nrows = 0;
	builder->raw = 0;
}

/*
 * penstock_builder_free(builder): frees it and all its memory.
 */
void
penstock_builder_free(PenstockBuilder *builder)
{
	MemoryContextDelete(builder->context);
}
