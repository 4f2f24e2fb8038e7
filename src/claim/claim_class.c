/*
 * claim_class.c
 *	  Classes of payloads that are alike, and their dictionaries.
 *
 * A dictionary is made from samples by zstd's trainer (ZDICT, the COVER method of libzstd) and never changed or removed: a new one gets the next
 * number, and what was stored with an older one names that.  A process keeps those it has used.
 */
#include "postgres.h"

#include <zdict.h>
#include <zstd.h>

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/indexing.h"
#include "catalog/pg_type.h"
#include "commands/sequence.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "catalogue/own_table.h"
#include "claim/claim_internal.h"
#include "compat/compat.h"

PG_FUNCTION_INFO_V1(penstock_claim_class_train);

/* Limits of what the trainer gets and makes. */
#define MIN_SAMPLES 8
#define MAX_SAMPLE_BYTES (64 * 1024 * 1024)
#define MIN_DICTIONARY 1024
#define MAX_DICTIONARY (1024 * 1024)

struct ClaimDictionary
{
	ClaimDictionary *next;
	Oid			table;			/* when the extension is made again, numbers begin again */
	int32		id;
	uint32		crc;
	bytea	   *bytes;
	ZSTD_CDict *compression;	/* for one level, mostly the only one */
	int			level;
	ZSTD_DDict *decompression;
};

/* Columns of penstock.claim_dictionary. */
enum
{
	A_ID = 1, A_CLASS, A_LEVEL, A_MADE_AT, A_SAMPLES, A_DICTIONARY,
	N_ATTRIBUTES = A_DICTIONARY
};

static ClaimDictionary *known;	/* of this process */

static ClaimDictionary *
remember(Oid table, int32 id, bytea *bytes)
{
	ClaimDictionary *dictionary = MemoryContextAllocZero(TopMemoryContext, sizeof(ClaimDictionary));

	dictionary->table = table;
	dictionary->id = id;
	dictionary->bytes = MemoryContextAlloc(TopMemoryContext, VARSIZE_ANY_EXHDR(bytes) + VARHDRSZ);
	SET_VARSIZE(dictionary->bytes, VARSIZE_ANY_EXHDR(bytes) + VARHDRSZ);
	memcpy(VARDATA(dictionary->bytes), VARDATA_ANY(bytes), VARSIZE_ANY_EXHDR(bytes));
	dictionary->crc = penstock_claim_crc(VARDATA(dictionary->bytes), VARSIZE(dictionary->bytes) - VARHDRSZ);
	dictionary->next = known;
	return known = dictionary;
}

static ClaimDictionary *
find_known(Oid table, int32 id)
{
	for (ClaimDictionary *d = known; d != NULL; d = d->next)
		if (d->table == table && d->id == id)
			return d;
	return NULL;
}

static void
no_memory(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_OUT_OF_MEMORY),
			 errmsg("out of memory"),
			 errdetail("Failed to prepare a dictionary of zstd.")));
}

uint32
penstock_claim_dictionary_crc(const ClaimDictionary *dictionary)
{
	return dictionary->crc;
}

void *
penstock_claim_dictionary_for_compression(ClaimDictionary *dictionary, int level)
{
	if (dictionary->compression == NULL || dictionary->level != level)
	{
		ZSTD_freeCDict(dictionary->compression);
		dictionary->compression = ZSTD_createCDict(VARDATA(dictionary->bytes), VARSIZE(dictionary->bytes) - VARHDRSZ, level);
		dictionary->level = level;
		if (dictionary->compression == NULL)
			no_memory();
	}
	return dictionary->compression;
}

void *
penstock_claim_dictionary_for_decompression(ClaimDictionary *dictionary)
{
	if (dictionary->decompression == NULL)
	{
		dictionary->decompression = ZSTD_createDDict(VARDATA(dictionary->bytes), VARSIZE(dictionary->bytes) - VARHDRSZ);
		if (dictionary->decompression == NULL)
			no_memory();
	}
	return dictionary->decompression;
}

/* The newest dictionary of a class, or the one of a number: its id, or 0; what else it has goes to where pointers are not NULL. */
static int32
find(const char *class_name, int32 id, ClaimDictionary **dictionary, int *level)
{
	Relation	rel = table_open(penstock_own_table_oid("claim_dictionary"), AccessShareLock);
	SysScanDesc scan = systable_beginscan(rel, InvalidOid, false, NULL, 0, NULL);
	HeapTuple	tuple;
	HeapTuple	best = NULL;
	int32		best_id = 0;

	/* there are a few of them */
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		bool		isnull;
		int32		this = DatumGetInt32(heap_getattr(tuple, A_ID, RelationGetDescr(rel), &isnull));
		char	   *name = TextDatumGetCString(heap_getattr(tuple, A_CLASS, RelationGetDescr(rel), &isnull));

		if (class_name ? strcmp(name, class_name) == 0 && this > best_id : this == id)
		{
			best_id = this;
			best = heap_copytuple(tuple);
		}
	}
	systable_endscan(scan);
	if (best != NULL)
	{
		bool		isnull;

		if (level)
			*level = DatumGetInt32(heap_getattr(best, A_LEVEL, RelationGetDescr(rel), &isnull));
		*dictionary = find_known(RelationGetRelid(rel), best_id);
		if (*dictionary == NULL)
			*dictionary = remember(RelationGetRelid(rel), best_id, DatumGetByteaPP(heap_getattr(best, A_DICTIONARY, RelationGetDescr(rel), &isnull)));
	}
	table_close(rel, AccessShareLock);
	return best_id;
}

ClaimDictionary *
penstock_claim_class_dictionary(const char *class_name, int32 *id, int *level)
{
	ClaimDictionary *dictionary = NULL;
	int			class_level;

	*id = find(class_name, 0, &dictionary, &class_level);
	if (*id == 0)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("class \"%s\" of claims has no dictionary", class_name),
				 errhint("Make one from samples with penstock.claim_class_train().")));
	if (*level == 0)
		*level = class_level;
	return dictionary;
}

ClaimDictionary *
penstock_claim_dictionary(const PenstockClaim *claim, int32 id)
{
	ClaimDictionary *dictionary = find_known(penstock_own_table_oid("claim_dictionary"), id);

	/* one that was made by a transaction that was rolled back is used by no object; numbers are not used again */
	if (dictionary == NULL && find(NULL, id, &dictionary, NULL) == 0)
		penstock_claim_damaged(claim, "Dictionary %d does not exist.", id);
	return dictionary;
}

/* ---- training ---- */

/* Trains; returns the dictionary's bytes. */
static bytea *
train(Datum *samples, bool *isnull, int n, int size)
{
	size_t	   *sizes = palloc(n * sizeof(size_t));
	Size		total = 0;
	int			count = 0;
	char	   *all;
	char	   *at;
	bytea	   *result;
	size_t		length;

	for (int i = 0; i < n; i++)
		if (!isnull[i])
			total += VARSIZE_ANY_EXHDR(DatumGetByteaPP(samples[i]));
	if (total > MAX_SAMPLE_BYTES)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("the samples have more than 64 MB"),
				 errhint("Some thousands of small payloads are enough.")));
	at = all = palloc(Max(total, 1));
	for (int i = 0; i < n; i++)
	{
		bytea	   *sample;

		if (isnull[i])
			continue;
		sample = DatumGetByteaPP(samples[i]);
		sizes[count] = VARSIZE_ANY_EXHDR(sample);
		memcpy(at, VARDATA_ANY(sample), sizes[count]);
		at += sizes[count++];
	}
	result = palloc(size + VARHDRSZ);
	if (count < MIN_SAMPLES)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("a dictionary needs at least %d samples", MIN_SAMPLES)));
	length = ZDICT_trainFromBuffer(VARDATA(result), size, all, sizes, count);
	if (ZDICT_isError(length))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("no dictionary could be made from the samples"),
				 errdetail("libzstd says: %s.", ZDICT_getErrorName(length)),
				 errhint("Give more samples, about a hundred times the dictionary's size in all, or a smaller size.")));
	SET_VARSIZE(result, length + VARHDRSZ);
	return result;
}

/*
 * penstock.claim_class_train(class text, samples bytea[], size int DEFAULT 65536, level int DEFAULT 3) → int: the dictionary's number.
 * ERRCODE_INVALID_PARAMETER_VALUE, ERRCODE_PROGRAM_LIMIT_EXCEEDED.
 */
Datum
penstock_claim_class_train(PG_FUNCTION_ARGS)
{
	text	   *class_name = PG_GETARG_TEXT_PP(0);
	ArrayType  *array = PG_GETARG_ARRAYTYPE_P(1);
	int			size = PG_GETARG_INT32(2);
	int			level = PG_GETARG_INT32(3);
	Datum	   *samples;
	bool	   *sample_null;
	int			n;
	Relation	rel;
	Datum		values[N_ATTRIBUTES];
	bool		isnull[N_ATTRIBUTES] = {false};
	int32		id;

	if (size < MIN_DICTIONARY || size > MAX_DICTIONARY)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("a dictionary has between 1 kB and 1 MB")));
	(void) penstock_claim_check_level(level);
	if (VARSIZE_ANY_EXHDR(class_name) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("a class of claims needs a name")));
	deconstruct_array(array, BYTEAOID, -1, false, TYPALIGN_INT, &samples, &sample_null, &n);

	rel = table_open(penstock_own_table_oid("claim_dictionary"), RowExclusiveLock);
	id = (int32) nextval_internal(penstock_own_table_oid("claim_dictionary_id_seq"), false);
	values[A_ID - 1] = Int32GetDatum(id);
	values[A_CLASS - 1] = PointerGetDatum(class_name);
	values[A_LEVEL - 1] = Int32GetDatum(level);
	values[A_MADE_AT - 1] = TimestampTzGetDatum(GetCurrentTimestamp());
	values[A_SAMPLES - 1] = Int32GetDatum(n);
	values[A_DICTIONARY - 1] = PointerGetDatum(train(samples, sample_null, n, size));
	CatalogTupleInsert(rel, heap_form_tuple(RelationGetDescr(rel), values, isnull));
	table_close(rel, RowExclusiveLock);
	CommandCounterIncrement();
	PG_RETURN_INT32(id);
}
