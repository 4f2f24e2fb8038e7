/*
 * vector_group.c
 *	  From key values to group numbers.
 *
 * Each key becomes a 64-bit word: the value itself where equality is equality of bits, otherwise its number in a
 * table of the distinct values seen (one look-up per dictionary entry of a chunk, not per row).  Groups are
 * found by their words in one open-addressing table.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "fmgr.h"
#include "utils/datum.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/typcache.h"

#include "vector/vector_internal.h"

#define NO_ENTRY	0xFFFFFFFF
/* of new tables; a power of two */
#define FIRST_SIZE	128

/* The distinct values of one key. */
typedef struct Interned
{
	bool		bits;			/* words are the values themselves: no table */
	int16		typlen;
	bool		typbyval;
	Oid			collation;
	FmgrInfo	hash;
	bool		narrow;			/* hash gives 32 bits and takes no seed */
	FmgrInfo	equal;
	uint32	   *slots;			/* size is a power of two; NO_ENTRY: free */
	uint32		size;
	uint32		count;
	uint32		capacity;
	Datum	   *values;
	uint64	   *hashes;
} Interned;

struct VectorGroups
{
	MemoryContext context;
	int			nkeys;
	Interned   *keys;
	uint32	   *slots;			/* group numbers; size is a power of two */
	uint32		size;
	uint32		count;
	uint32		capacity;
	uint64	   *words;			/* nkeys words of each group, then its NULLs as bits */
	uint64	   *scratch;
};

/* Types whose equality, if it is the default one, is equality of their Datums. */
static bool
equality_is_bits(Oid type, Oid eqop)
{
	if (lookup_type_cache(type, TYPECACHE_EQ_OPR)->eq_opr != eqop)
		return false;
	switch (getBaseType(type))
	{
		case BOOLOID:
		case CHAROID:
		case INT2OID:
		case INT4OID:
		case INT8OID:
		case OIDOID:
		case DATEOID:
		case TIMEOID:
		case TIMESTAMPOID:
		case TIMESTAMPTZOID:
			return true;
		default:
			return false;
	}
}

static uint32 *
new_slots(MemoryContext context, uint32 size)
{
	uint32	   *slots = MemoryContextAllocHuge(context, sizeof(uint32) * (Size) size);

	memset(slots, 0xFF, sizeof(uint32) * (Size) size);
	return slots;
}

/* The functions of a key's type, which has a hash if it is grouped by hash at all, and an empty table. */
static void
open_interned(Interned *key, Oid typeid, Oid eqop, MemoryContext context)
{
	TypeCacheEntry *type = lookup_type_cache(typeid, TYPECACHE_EQ_OPR |
											 TYPECACHE_HASH_EXTENDED_PROC);
	Oid			hash = type->hash_extended_proc;
	Oid			right;

	if (!OidIsValid(hash) || type->eq_opr != eqop)
	{
		key->narrow = true;
		if (!get_op_hash_functions(eqop, &hash, &right))
			elog(ERROR, "could not find hash function for equality operator %u", eqop);
	}
	fmgr_info(hash, &key->hash);
	fmgr_info(get_opcode(eqop), &key->equal);
	key->size = FIRST_SIZE;
	key->slots = new_slots(context, key->size);
	key->capacity = FIRST_SIZE / 2;
	key->values = palloc(sizeof(Datum) * key->capacity);
	key->hashes = palloc(sizeof(uint64) * key->capacity);
}

/*
 * penstock_groups_create makes an empty table of groups of up to 63 keys in the given context.
 */
VectorGroups *
penstock_groups_create(MemoryContext context, int nkeys, Oid *types, Oid *collations, Oid *eqops)
{
	MemoryContext old = MemoryContextSwitchTo(context);
	VectorGroups *groups = palloc0(sizeof(VectorGroups));

	groups->context = context;
	groups->nkeys = nkeys;
	groups->keys = palloc0(sizeof(Interned) * (nkeys + 1));
	groups->size = FIRST_SIZE;
	groups->slots = new_slots(context, groups->size);
	groups->capacity = FIRST_SIZE / 2;
	groups->words = palloc(sizeof(uint64) * (nkeys + 1) * groups->capacity);
	groups->scratch = palloc0(sizeof(uint64) * (nkeys + 1));
	for (int i = 0; i < nkeys; i++)
	{
		Interned   *key = &groups->keys[i];

		key->bits = equality_is_bits(types[i], eqops[i]);
		get_typlenbyval(types[i], &key->typlen, &key->typbyval);
		key->collation = collations[i];
		if (!key->bits)
			open_interned(key, types[i], eqops[i], context);
	}
	MemoryContextSwitchTo(old);
	return groups;
}

static void
grow_interned(Interned *key, MemoryContext context)
{
	if (key->count == key->capacity)
	{
		key->capacity *= 2;
		key->values = repalloc_huge(key->values, sizeof(Datum) * (Size) key->capacity);
		key->hashes = repalloc_huge(key->hashes, sizeof(uint64) * (Size) key->capacity);
	}
	if (key->count * 2 < key->size)
		return;
	pfree(key->slots);
	key->size *= 2;
	key->slots = new_slots(context, key->size);
	for (uint32 i = 0; i < key->count; i++)
	{
		uint32		at = key->hashes[i] & (key->size - 1);

		while (key->slots[at] != NO_ENTRY)
			at = (at + 1) & (key->size - 1);
		key->slots[at] = i;
	}
}

/* Spreads the bits of a word over the whole of it (the finaliser of MurmurHash3). */
static inline uint64
mix64(uint64 word)
{
	word = (word ^ (word >> 33)) * UINT64CONST(0xff51afd7ed558ccd);
	word = (word ^ (word >> 33)) * UINT64CONST(0xc4ceb9fe1a85ec53);
	return word ^ (word >> 33);
}

static uint64
hash_value(Interned *key, Datum value)
{
	if (key->bits)
		return mix64((uint64) value);
	if (key->narrow)
		return mix64(DatumGetUInt32(FunctionCall1Coll(&key->hash, key->collation, value)));
	return DatumGetUInt64(FunctionCall2Coll(&key->hash, key->collation, value, UInt64GetDatum(0)));
}

/* The number of a value, which is not NULL. */
static uint32
intern(VectorGroups *groups, Interned *key, Datum value)
{
	uint64		hash = hash_value(key, value);
	uint32		at;
	MemoryContext old;

	for (at = hash & (key->size - 1); key->slots[at] != NO_ENTRY; at = (at + 1) & (key->size - 1))
	{
		uint32		entry = key->slots[at];

		if (key->hashes[entry] == hash &&
			DatumGetBool(FunctionCall2Coll(&key->equal, key->collation, key->values[entry], value)))
			return entry;
	}

	key->slots[at] = key->count;
	key->hashes[key->count] = hash;
	old = MemoryContextSwitchTo(groups->context);
	key->values[key->count] = datumCopy(value, key->typbyval, key->typlen);
	MemoryContextSwitchTo(old);
	key->count++;
	grow_interned(key, groups->context);
	return key->count - 1;
}

/* The words of one key for the selected rows. */
static void
make_words(VectorGroups *groups, Interned *key, VectorChunk *chunk, PenstockVector *vector,
		   uint64 *words)
{
	if (vector->codes != NULL && !key->bits)
	{
		uint32	   *numbers = MemoryContextAlloc(chunk->context, sizeof(uint32) * (vector->ndict + 1));

		memset(numbers, 0xFF, sizeof(uint32) * (vector->ndict + 1));
		for (int i = 0; i < chunk->nselected; i++)
		{
			uint32		row = vector_row(chunk, i);
			uint32		code = vector->codes[row];

			if (vector->isnull && vector->isnull[row])
			{
				words[i] = 0;
				continue;
			}
			if (numbers[code] == NO_ENTRY)
				numbers[code] = intern(groups, key, vector->dict[code]);
			words[i] = numbers[code];
		}
		pfree(numbers);
		return;
	}
	for (int i = 0; i < chunk->nselected; i++)
	{
		uint32		row = vector_row(chunk, i);

		if (vector->isnull && vector->isnull[row])
			words[i] = 0;
		else
		{
			Datum		value = vector->values ? vector->values[row] :
				vector->dict[vector->codes[row]];

			words[i] = key->bits ? (uint64) value : intern(groups, key, value);
		}
	}
}

static inline uint64
hash_words(const uint64 *words, int n)
{
	uint64		hash = 0;

	for (int i = 0; i < n; i++)
	{
		hash = (hash ^ words[i]) * UINT64CONST(0x9E3779B97F4A7C15);
		hash ^= hash >> 29;
	}
	return hash;
}

static void
grow_groups(VectorGroups *groups)
{
	int			width = groups->nkeys + 1;

	if (groups->count == groups->capacity)
	{
		groups->capacity *= 2;
		groups->words = repalloc_huge(groups->words,
									  sizeof(uint64) * width * (Size) groups->capacity);
	}
	if (groups->count * 2 < groups->size)
		return;
	pfree(groups->slots);
	groups->size *= 2;
	groups->slots = new_slots(groups->context, groups->size);
	for (uint32 i = 0; i < groups->count; i++)
	{
		uint32		at = hash_words(&groups->words[(Size) i * width], width) & (groups->size - 1);

		while (groups->slots[at] != NO_ENTRY)
			at = (at + 1) & (groups->size - 1);
		groups->slots[at] = i;
	}
}

static inline uint32
find_group(VectorGroups *groups, const uint64 *words, uint64 hash)
{
	int			width = groups->nkeys + 1;
	uint32		at = hash & (groups->size - 1);

	for (; groups->slots[at] != NO_ENTRY; at = (at + 1) & (groups->size - 1))
	{
		const uint64 *other = &groups->words[(Size) groups->slots[at] * width];
		int			i = 0;

		while (i < width && other[i] == words[i])
			i++;
		if (i == width)
			return groups->slots[at];
	}
	groups->slots[at] = groups->count;
	memcpy(&groups->words[(Size) groups->count * width], words, sizeof(uint64) * width);
	groups->count++;
	grow_groups(groups);
	return groups->count - 1;
}

/* Without keys all rows are of group 0. */
static void
assign_only_group(VectorGroups *groups, VectorChunk *chunk, uint32 *group_of)
{
	uint64		words[1] = {0};

	if (groups->count == 0)
		(void) find_group(groups, words, hash_words(words, 1));
	memset(group_of, 0, sizeof(uint32) * chunk->nselected);
}

/* Adds the hashes of a key's values, one for each selected row, to those of the keys before. */
static void
add_hashes(Interned *key, VectorChunk *chunk, PenstockVector *vector, uint64 *hashes)
{
	uint64	   *of_code = NULL;
	bool	   *known = NULL;

	if (vector->codes != NULL)
	{
		of_code = palloc(sizeof(uint64) * (vector->ndict + 1));
		known = palloc0(sizeof(bool) * (vector->ndict + 1));
	}
	for (int i = 0; i < chunk->nselected; i++)
	{
		uint32		row = vector_row(chunk, i);
		uint64		hash = 0;

		if (vector->isnull && vector->isnull[row])
			hash = 1;
		else if (vector->codes != NULL)
		{
			uint32		code = vector->codes[row];

			if (!known[code])
			{
				of_code[code] = hash_value(key, vector->dict[code]);
				known[code] = true;
			}
			hash = of_code[code];
		}
		else
			hash = hash_value(key, vector->values[row]);
		hashes[i] = hash_combine64(hashes[i], hash);
	}
}

/* Selects the rows of one part, by their keys' values, before any of the others' is interned. */
static void
select_part(VectorGroups *groups, VectorChunk *chunk, PenstockVector *keys,
			uint32 partitions, uint32 partition)
{
	uint64	   *hashes = palloc0(sizeof(uint64) * (chunk->nselected + 1));
	uint32	   *selected = palloc(sizeof(uint32) * (chunk->nselected + 1));
	int			n = 0;

	for (int k = 0; k < groups->nkeys; k++)
		add_hashes(&groups->keys[k], chunk, &keys[k], hashes);
	for (int i = 0; i < chunk->nselected; i++)
		if ((mix64(hashes[i]) & (partitions - 1)) == partition)
			selected[n++] = vector_row(chunk, i);
	chunk->selected = selected;
	chunk->nselected = n;
}

/*
 * penstock_groups_assign: see vector_internal.h.  group_of[i] belongs to the i-th row selected afterwards.
 */
void
penstock_groups_assign(VectorGroups *groups, VectorChunk *chunk, PenstockVector *keys,
					   uint32 partitions, uint32 partition, uint32 *group_of)
{
	uint64	  **words;
	uint64	   *row_words = groups->scratch;
	bool		any_null = false;
	MemoryContext old;

	if (groups->nkeys == 0)
	{
		assign_only_group(groups, chunk, group_of);
		return;
	}
	/* hash and equality functions may leave something behind */
	old = MemoryContextSwitchTo(chunk->context);
	if (partitions > 1)
		select_part(groups, chunk, keys, partitions, partition);
	words = palloc(sizeof(uint64 *) * groups->nkeys);
	for (int k = 0; k < groups->nkeys; k++)
	{
		words[k] = palloc(sizeof(uint64) * (chunk->nselected + 1));
		make_words(groups, &groups->keys[k], chunk, &keys[k], words[k]);
		any_null = any_null || keys[k].isnull != NULL;
	}
	for (int i = 0; i < chunk->nselected; i++)
	{
		uint32		row = vector_row(chunk, i);
		uint64		nulls = 0;

		for (int k = 0; k < groups->nkeys; k++)
		{
			row_words[k] = words[k][i];
			if (any_null && keys[k].isnull && keys[k].isnull[row])
				nulls |= UINT64CONST(1) << k;
		}
		row_words[groups->nkeys] = nulls;
		group_of[i] = find_group(groups, row_words, hash_words(row_words, groups->nkeys + 1));
	}
	MemoryContextSwitchTo(old);
}

uint32
penstock_groups_count(VectorGroups *groups)
{
	return groups->count;
}

/*
 * penstock_groups_key gives a key of a group; the value belongs to the table.
 */
void
penstock_groups_key(VectorGroups *groups, uint32 group, int key, Datum *value, bool *isnull)
{
	uint64	   *words = &groups->words[(Size) group * (groups->nkeys + 1)];

	*isnull = (words[groups->nkeys] >> key) & 1;
	*value = *isnull ? (Datum) 0 :
		groups->keys[key].bits ? (Datum) words[key] : groups->keys[key].values[words[key]];
}
