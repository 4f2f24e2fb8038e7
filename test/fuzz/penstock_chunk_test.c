/*
 * penstock_chunk_test.c
 *	  Rows of any table through the chunk codec and back, damage, and time.
 */
#include "postgres.h"

#include "access/detoast.h"
#include "access/table.h"
#include "access/tableam.h"
#include "common/pg_prng.h"
#include "executor/tuptable.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "portability/instr_time.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/typcache.h"

#include "stream/chunk_private.h"

PG_MODULE_MAGIC;

PG_FUNCTION_INFO_V1(chunk_roundtrip);
PG_FUNCTION_INFO_V1(chunk_fuzz);
PG_FUNCTION_INFO_V1(chunk_time);
PG_FUNCTION_INFO_V1(chunk_store);
PG_FUNCTION_INFO_V1(chunk_rows);

#define MAX_FUZZ_MEMORY		(256 * 1024 * 1024)

/* ---- rows of a table ---- */

typedef struct Rows
{
	TupleDesc	desc;
	int			n;
	Datum	  **values;
	bool	  **isnull;
} Rows;

typedef struct RowReader
{
	Relation	rel;
	TableScanDesc scan;
	TupleTableSlot *slot;
	bool		done;
} RowReader;

static void
reader_open(RowReader *reader, Oid relid)
{
	reader->rel = table_open(relid, AccessShareLock);
	reader->slot = table_slot_create(reader->rel, NULL);
	reader->done = false;
	reader->scan = table_beginscan(reader->rel, GetActiveSnapshot(), 0, NULL);
}

static void
reader_close(RowReader *reader)
{
	table_endscan(reader->scan);
	ExecDropSingleTupleTableSlot(reader->slot);
	table_close(reader->rel, AccessShareLock);
}

/* Up to max rows, copied into the current context. */
static Rows *
read_rows(RowReader *reader, int max)
{
	Rows	   *rows = palloc0(sizeof(Rows));
	int			natts = reader->slot->tts_tupleDescriptor->natts;

	rows->desc = reader->slot->tts_tupleDescriptor;
	rows->values = palloc(sizeof(Datum *) * max);
	rows->isnull = palloc(sizeof(bool *) * max);
	while (rows->n < max && !reader->done)
	{
		Datum	   *values = palloc(sizeof(Datum) * Max(natts, 1));
		bool	   *isnull = palloc(sizeof(bool) * Max(natts, 1));

		/* asked again after its end, a scan would start over */
		if (!table_scan_getnextslot(reader->scan, ForwardScanDirection, reader->slot))
		{
			reader->done = true;
			break;
		}
		slot_getallattrs(reader->slot);
		for (int i = 0; i < natts; i++)
		{
			Form_pg_attribute att = TupleDescAttr(rows->desc, i);

			isnull[i] = reader->slot->tts_isnull[i];
			values[i] = isnull[i] ? (Datum) 0 :
				datumCopy(reader->slot->tts_values[i], att->attbyval, att->attlen);
		}
		rows->values[rows->n] = values;
		rows->isnull[rows->n] = isnull;
		rows->n++;
	}
	return rows;
}

/* ---- a stored chunk ---- */

typedef struct Stored
{
	const char *head;
	int			head_len;
	const char *body;
	uint32		body_len;
	char	  **slices;			/* malloc'd to size, so that sanitizers see each end */
	int			nslices;
	int			max_slices;
} Stored;

static const char *
fetch_body(void *arg, uint32 offset, uint32 length)
{
	Stored	   *stored = arg;
	char	   *slice;

	if ((uint64) offset + length > stored->body_len)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("slice behind the body")));
	if (stored->nslices == stored->max_slices)
	{
		stored->max_slices = stored->max_slices * 2 + 16;
		stored->slices = realloc(stored->slices, sizeof(char *) * stored->max_slices);
	}
	slice = malloc(Max(length, 1));
	memcpy(slice, stored->body + offset, length);
	stored->slices[stored->nslices++] = slice;
	return slice;
}

static void
free_slices(Stored *stored)
{
	for (int i = 0; i < stored->nslices; i++)
		free(stored->slices[i]);
	free(stored->slices);
	stored->slices = NULL;
	stored->nslices = stored->max_slices = 0;
}

static void
encode(PenstockBuilder *builder, int first, int count, Stored *stored)
{
	PenstockEncoded encoded;

	penstock_builder_encode(builder, first, count, &encoded);
	penstock_head_stamp(encoded.head, FullTransactionIdFromU64(UINT64CONST(0x123456789)),
						1234567, encoded.body != NULL ? 4711 : InvalidOid, 0);
	if (encoded.head_len > PENSTOCK_CHUNK_MAX_HEAD)
		elog(ERROR, "head of %d bytes", encoded.head_len);
	memset(stored, 0, sizeof(*stored));
	stored->head = encoded.head;
	stored->head_len = encoded.head_len;
	if (encoded.body != NULL)
	{
		stored->body = VARDATA(encoded.body);
		stored->body_len = VARSIZE(encoded.body) - VARHDRSZ;
	}
}

/* ---- round trip ---- */

static void
check_minmax(PenstockChunk *chunk, const Rows *rows, int attno, int first, int count, int event_attno)
{
	Form_pg_attribute att = TupleDescAttr(rows->desc, attno - 1);
	Datum		min;
	Datum		max;
	bool		has_nulls;
	bool		nulls = false;
	bool		values = false;
	bool		at_min = false;
	bool		at_max = false;
	bool		is_float;
	TypeCacheEntry *type;

	if (att->attisdropped)
		return;
	for (int i = first; i < first + count; i++)
		if (rows->isnull[i][attno - 1])
			nulls = true;
		else
			values = true;
	if (!penstock_chunk_minmax(chunk, attno, &min, &max, &has_nulls))
	{
		if (att->attbyval && values && (count >= 16 || attno == event_attno) &&
			penstock_type_order(att->atttypid, &is_float) != PENSTOCK_ORDER_NONE)
			elog(ERROR, "column %d has no minimum and maximum", attno);
		return;
	}
	if (nulls != has_nulls)
		elog(ERROR, "column %d: has_nulls is wrong", attno);
	type = lookup_type_cache(getBaseType(att->atttypid), TYPECACHE_CMP_PROC_FINFO);
	for (int i = first; i < first + count; i++)
	{
		Datum		v = rows->values[i][attno - 1];
		int			low;
		int			high;

		if (rows->isnull[i][attno - 1])
			continue;
		low = DatumGetInt32(FunctionCall2Coll(&type->cmp_proc_finfo, InvalidOid, v, min));
		high = DatumGetInt32(FunctionCall2Coll(&type->cmp_proc_finfo, InvalidOid, v, max));
		if (low < 0 || high > 0)
			elog(ERROR, "column %d: row %d is outside minimum and maximum", attno, i);
		at_min |= low == 0;
		at_max |= high == 0;
	}
	if (!at_min || !at_max)
		elog(ERROR, "column %d: minimum or maximum is no value", attno);
}

static void
check_value(const Rows *rows, int row, int attno, Datum value)
{
	Form_pg_attribute att = TupleDescAttr(rows->desc, attno - 1);

	if (!att->attbyval &&
		(char *) att_align_nominal((uintptr_t) DatumGetPointer(value), att->attalign) !=
		DatumGetPointer(value))
		elog(ERROR, "column %d: row %d is not aligned", attno, row);
	if (att->attlen == -1 && VARATT_IS_SHORT(DatumGetPointer(value)) && att->attstorage == TYPSTORAGE_PLAIN)
		elog(ERROR, "column %d: row %d has a short header", attno, row);
	if (!datum_image_eq(value, rows->values[row][attno - 1], att->attbyval, att->attlen))
		elog(ERROR, "column %d: row %d differs", attno, row);
}

static void
check_range(PenstockBuilder *builder, const Rows *rows, int first, int count, int event_attno)
{
	Stored		stored;
	PenstockChunk *chunk;
	PenstockChunkInfo info;

	encode(builder, first, count, &stored);
	penstock_chunk_info(stored.head, stored.head_len, "test", &info);
	if (info.nrows != count || info.natts != rows->desc->natts ||
		U64FromFullTransactionId(info.xid) != UINT64CONST(0x123456789) ||
		info.written_at != 1234567 || info.body_len != stored.body_len ||
		info.body_valueid != (stored.body ? 4711 : 0) || info.flags != 0)
		elog(ERROR, "header differs");
	chunk = penstock_chunk_open(stored.head, stored.head_len, rows->desc, "test",
								fetch_body, &stored);
	for (int attno = 1; attno <= rows->desc->natts; attno++)
	{
		if (TupleDescAttr(rows->desc, attno - 1)->attisdropped)
			continue;
		for (int pass = 0; pass < 2; pass++)
		{
			PenstockVector vector;

			penstock_chunk_column(chunk, attno, pass == 1, &vector);
			for (int i = 0; i < count; i++)
			{
				bool		isnull = vector.isnull != NULL && vector.isnull[i];

				if (isnull != rows->isnull[first + i][attno - 1])
					elog(ERROR, "column %d: NULL of row %d differs", attno, first + i);
				if (isnull)
					continue;
				if (vector.values != NULL)
					check_value(rows, first + i, attno, vector.values[i]);
				else if (pass == 0)
					elog(ERROR, "column %d has no values", attno);
				if (vector.codes != NULL)
				{
					if (vector.codes[i] >= vector.ndict)
						elog(ERROR, "column %d: code of row %d", attno, first + i);
					check_value(rows, first + i, attno, vector.dict[vector.codes[i]]);
				}
			}
		}
		check_minmax(chunk, rows, attno, first, count, event_attno);
	}
	free_slices(&stored);
}

/*
 * chunk_roundtrip(rel, seed, rows a chunk) → number of values compared
 */
Datum
chunk_roundtrip(PG_FUNCTION_ARGS)
{
	int			max = Min(PG_GETARG_INT32(2), PENSTOCK_CHUNK_MAX_ROWS);
	pg_prng_state prng;
	RowReader	reader;
	PenstockBuilder *builder = NULL;
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "chunk test",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext old;
	int64		compared = 0;
	int			event_attno;

	pg_prng_seed(&prng, PG_GETARG_INT32(1));
	reader_open(&reader, PG_GETARG_OID(0));
	event_attno = pg_prng_uint64_range(&prng, 0, reader.slot->tts_tupleDescriptor->natts);
	old = MemoryContextSwitchTo(context);
	for (;;)
	{
		Rows	   *rows;
		int			done = 0;

		MemoryContextReset(context);
		rows = read_rows(&reader, max);
		if (rows->n == 0)
			break;
		if (builder == NULL)
			builder = penstock_builder_create(old, rows->desc, event_attno);
		while (done < rows->n)
		{
			Rows		part = *rows;
			int			n;

			penstock_builder_reset(builder);
			part.values += done;
			part.isnull += done;
			while (done < rows->n && !penstock_builder_full(builder))
			{
				penstock_builder_append(builder, rows->values[done], rows->isnull[done]);
				done++;
			}
			n = penstock_builder_rows(builder);
			check_range(builder, &part, 0, n, event_attno);
			for (int i = 0; i < 3; i++)
			{
				int			first = pg_prng_uint64_range(&prng, 0, n - 1);
				int			limit = i == 2 ? Min(n - first, 20) : n - first;
				int			count = pg_prng_uint64_range(&prng, 1, limit);

				check_range(builder, &part, first, count, event_attno);
			}
			compared += (int64) n * rows->desc->natts;
		}
		CHECK_FOR_INTERRUPTS();
	}
	MemoryContextSwitchTo(old);
	reader_close(&reader);
	if (builder != NULL)
		penstock_builder_free(builder);
	PG_RETURN_INT64(compared);
}

/* ---- damage ---- */

static volatile uint64 touched;

static void
touch(Form_pg_attribute att, Datum value)
{
	if (att->attbyval)
		touched += (uint64) value;
	else
	{
		const char *p = DatumGetPointer(value);
		Size		len = att->attlen > 0 ? att->attlen :
			att->attlen == -1 ? VARSIZE_ANY(p) : strlen(p) + 1;

		for (Size i = 0; i < len; i++)
			touched += p[i];
	}
}

/* Reads all of a chunk; true if it could be read. */
static bool
read_damaged(Stored *stored, TupleDesc desc)
{
	volatile bool ok = true;
	MemoryContext context = CurrentMemoryContext;

	PG_TRY();
	{
		PenstockChunk *chunk = penstock_chunk_open(stored->head, stored->head_len, desc, "test",
												   fetch_body, stored);
		PenstockChunkInfo info;

		penstock_chunk_info(stored->head, stored->head_len, "test", &info);
		for (int attno = 1; attno <= desc->natts; attno++)
		{
			Form_pg_attribute att = TupleDescAttr(desc, attno - 1);
			Datum		min;
			Datum		max;
			bool		has_nulls;

			penstock_chunk_minmax(chunk, attno, &min, &max, &has_nulls);
			for (int pass = 0; pass < 2; pass++)
			{
				PenstockVector vector;

				penstock_chunk_column(chunk, attno, pass == 1, &vector);
				for (int i = 0; i < info.nrows; i++)
				{
					if (vector.isnull != NULL && vector.isnull[i])
						continue;
					if (vector.values != NULL)
						touch(att, vector.values[i]);
					if (vector.codes != NULL)
						touch(att, vector.dict[vector.codes[i]]);
				}
			}
		}
	}
	PG_CATCH();
	{
		ErrorData  *error;

		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		if (error->sqlerrcode != ERRCODE_DATA_CORRUPTED)
			PG_RE_THROW();
		FlushErrorState();
		ok = false;
	}
	PG_END_TRY();
	return ok;
}

static void
damage(pg_prng_state *prng, char *bytes, int len)
{
	int			hits = pg_prng_uint64_range(prng, 1, 4);

	for (int i = 0; i < hits; i++)
	{
		int			at = pg_prng_uint64_range(prng, 0, len - 1);

		/* half of them near the start, where the structure is */
		if (pg_prng_bool(prng))
			at %= 64;
		switch (pg_prng_uint64_range(prng, 0, 3))
		{
			case 0:
				bytes[at] ^= 1 << pg_prng_uint64_range(prng, 0, 7);
				break;
			case 1:
				bytes[at] = (char) 0xff;
				break;
			case 2:
				bytes[at]++;
				break;
			default:
				bytes[at] = (char) pg_prng_uint64(prng);
		}
	}
}

/*
 * chunk_fuzz(rel, seed, iterations, rows) → what came of it
 *
 * Each iteration damages an encoded chunk of up to that many rows and reads all of it.  Half of
 * them ignore checksums, so that the decoders see the damage.
 */
Datum
chunk_fuzz(PG_FUNCTION_ARGS)
{
	int			iterations = PG_GETARG_INT32(2);
	pg_prng_state prng;
	RowReader	reader;
	Rows	   *rows;
	PenstockBuilder *builder;
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "chunk fuzz",
												  ALLOCSET_DEFAULT_SIZES);
	int			nread = 0;
	int			nrefused = 0;

	pg_prng_seed(&prng, PG_GETARG_INT32(1));
	reader_open(&reader, PG_GETARG_OID(0));
	rows = read_rows(&reader, PG_GETARG_INT32(3));
	builder = penstock_builder_create(CurrentMemoryContext, rows->desc, 1);
	for (int i = 0; i < rows->n && !penstock_builder_full(builder); i++)
		penstock_builder_append(builder, rows->values[i], rows->isnull[i]);

	for (int i = 0; i < iterations; i++)
	{
		MemoryContext old = MemoryContextSwitchTo(context);
		Stored		stored;
		char	   *head;
		char	   *body;
		int			n = penstock_builder_rows(builder);
		int			first = i % 16 == 0 ? 0 : pg_prng_uint64_range(&prng, 0, n - 1);
		int			count = i % 16 == 0 ? n : pg_prng_uint64_range(&prng, 1, Min(n - first, 500));

		encode(builder, first, count, &stored);
		head = malloc(stored.head_len);
		memcpy(head, stored.head, stored.head_len);
		stored.head = head;
		body = malloc(stored.body_len + 1);
		if (stored.body_len > 0)
			memcpy(body, stored.body, stored.body_len);
		stored.body = body;

		if (stored.body_len == 0 || pg_prng_bool(&prng))
			damage(&prng, head, stored.head_len);
		else
			damage(&prng, body, stored.body_len);
		if (pg_prng_uint64_range(&prng, 0, 9) == 0)
		{
			stored.head_len = pg_prng_uint64_range(&prng, 0, stored.head_len);
			head = realloc(head, Max(stored.head_len, 1));
			stored.head = head;
		}
		if (stored.body_len > 0 && pg_prng_uint64_range(&prng, 0, 9) == 0)
			stored.body_len = pg_prng_uint64_range(&prng, 0, stored.body_len);

		penstock_chunk_ignore_checksums = pg_prng_uint64_range(&prng, 0, 3) > 0;
		if (read_damaged(&stored, rows->desc))
			nread++;
		else
			nrefused++;
		penstock_chunk_ignore_checksums = false;
		if (MemoryContextMemAllocated(context, true) > MAX_FUZZ_MEMORY)
			elog(ERROR, "reading a damaged chunk took %zu bytes",
				 MemoryContextMemAllocated(context, true));

		free_slices(&stored);
		free(head);
		free(body);
		MemoryContextSwitchTo(old);
		MemoryContextReset(context);
		CHECK_FOR_INTERRUPTS();
	}
	reader_close(&reader);
	penstock_builder_free(builder);
	PG_RETURN_TEXT_P(cstring_to_text(psprintf("%d read, %d refused", nread, nrefused)));
}

/* ---- time and size ---- */

static double
now_ns(void)
{
	instr_time	t;

	INSTR_TIME_SET_CURRENT(t);
	return INSTR_TIME_GET_DOUBLE(t) * 1e9;
}

/*
 * chunk_time(rel, rows a chunk) → sizes and times a row, as text
 */
Datum
chunk_time(PG_FUNCTION_ARGS)
{
	int			max = Min(PG_GETARG_INT32(1), PENSTOCK_CHUNK_MAX_ROWS);
	RowReader	reader;
	PenstockBuilder *builder = NULL;
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "chunk time",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext old;
	double		append = 0;
	double		encoding = 0;
	double	   *decode = NULL;
	uint64	   *sizes = NULL;
	int64		nrows = 0;
	int64		bytes = 0;
	Size		memory = 0;
	int			natts;
	StringInfoData text;

	reader_open(&reader, PG_GETARG_OID(0));
	natts = reader.slot->tts_tupleDescriptor->natts;
	decode = palloc0(sizeof(double) * natts);
	sizes = palloc0(sizeof(uint64) * natts);
	old = MemoryContextSwitchTo(context);
	for (;;)
	{
		Rows	   *rows;
		Stored		stored;
		PenstockChunk *chunk;
		double		start;
		int			n;

		MemoryContextReset(context);
		rows = read_rows(&reader, max);
		if (rows->n == 0)
			break;
		if (builder == NULL)
			builder = penstock_builder_create(old, rows->desc, 1);
		start = now_ns();
		for (int i = 0; i < rows->n && !penstock_builder_full(builder); i++)
			penstock_builder_append(builder, rows->values[i], rows->isnull[i]);
		append += now_ns() - start;
		n = penstock_builder_rows(builder);
		memory = Max(memory, penstock_builder_size(builder));
		start = now_ns();
		encode(builder, 0, n, &stored);
		encoding += now_ns() - start;
		nrows += n;
		bytes += stored.head_len + stored.body_len;
		chunk = penstock_chunk_open(stored.head, stored.head_len, rows->desc, "test",
									fetch_body, &stored);
		for (int attno = 1; attno <= natts; attno++)
		{
			PenstockVector vector;

			start = now_ns();
			penstock_chunk_column(chunk, attno, false, &vector);
			decode[attno - 1] += now_ns() - start;
			sizes[attno - 1] += penstock_chunk_column_size(chunk, attno);
		}
		free_slices(&stored);
		penstock_builder_reset(builder);
	}
	MemoryContextSwitchTo(old);
	initStringInfo(&text);
	appendStringInfo(&text, "%lld rows, %.2f bytes a row, append %.1f ns, encode %.1f ns, memory %zu\n",
					 (long long) nrows, (double) bytes / nrows, append / nrows, encoding / nrows, memory);
	for (int i = 0; i < natts; i++)
		appendStringInfo(&text, "  %-20s %6.2f bytes, decode %5.2f ns\n",
						 NameStr(TupleDescAttr(reader.slot->tts_tupleDescriptor, i)->attname),
						 (double) sizes[i] / nrows, decode[i] / nrows);
	reader_close(&reader);
	PG_RETURN_TEXT_P(cstring_to_text(text.data));
}

/* ---- chunks as SQL values: for tests of ALTER TABLE ---- */

static bytea *
to_bytea(const char *bytes, int len)
{
	bytea	   *result = palloc(len + VARHDRSZ);

	SET_VARSIZE(result, len + VARHDRSZ);
	memcpy(VARDATA(result), bytes, len);
	return result;
}

/*
 * chunk_store(rel) → (head, body) of a chunk of its first rows; body is NULL when inline
 */
Datum
chunk_store(PG_FUNCTION_ARGS)
{
	RowReader	reader;
	Rows	   *rows;
	PenstockBuilder *builder;
	Stored		stored;
	TupleDesc	desc;
	Datum		values[2];
	bool		nulls[2] = {false, false};

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	reader_open(&reader, PG_GETARG_OID(0));
	rows = read_rows(&reader, PENSTOCK_CHUNK_MAX_ROWS);
	builder = penstock_builder_create(CurrentMemoryContext, rows->desc, 1);
	for (int i = 0; i < rows->n && !penstock_builder_full(builder); i++)
		penstock_builder_append(builder, rows->values[i], rows->isnull[i]);
	encode(builder, 0, penstock_builder_rows(builder), &stored);
	values[0] = PointerGetDatum(to_bytea(stored.head, stored.head_len));
	nulls[1] = stored.body == NULL;
	if (!nulls[1])
		values[1] = PointerGetDatum(to_bytea(stored.body, stored.body_len));
	penstock_builder_free(builder);
	reader_close(&reader);
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, nulls)));
}

/*
 * chunk_rows(rel, head, body) → its rows as rel is now
 */
Datum
chunk_rows(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	Relation	rel = table_open(PG_GETARG_OID(0), AccessShareLock);
	TupleDesc	desc = RelationGetDescr(rel);
	bytea	   *head = PG_GETARG_BYTEA_PP(1);
	bytea	   *body = PG_ARGISNULL(2) ? NULL : PG_GETARG_BYTEA_PP(2);
	Stored		stored = {0};
	PenstockChunk *chunk;
	PenstockChunkInfo info;
	PenstockVector *vectors = palloc(sizeof(PenstockVector) * Max(desc->natts, 1));
	Datum	   *values = palloc(sizeof(Datum) * Max(desc->natts, 1));
	bool	   *isnull = palloc(sizeof(bool) * Max(desc->natts, 1));

	InitMaterializedSRF(fcinfo, MAT_SRF_USE_EXPECTED_DESC);
	stored.head = VARDATA_ANY(head);
	stored.head_len = VARSIZE_ANY_EXHDR(head);
	if (body != NULL)
	{
		stored.body = VARDATA_ANY(body);
		stored.body_len = VARSIZE_ANY_EXHDR(body);
	}
	chunk = penstock_chunk_open(stored.head, stored.head_len, desc,
								RelationGetRelationName(rel), fetch_body, &stored);
	penstock_chunk_info(stored.head, stored.head_len, RelationGetRelationName(rel), &info);
	for (int attno = 1; attno <= desc->natts; attno++)
		penstock_chunk_column(chunk, attno, false, &vectors[attno - 1]);
	for (int row = 0; row < info.nrows; row++)
	{
		int			n = 0;

		for (int i = 0; i < desc->natts; i++)
		{
			if (TupleDescAttr(desc, i)->attisdropped)
				continue;
			isnull[n] = vectors[i].isnull != NULL && vectors[i].isnull[row];
			values[n] = isnull[n] ? (Datum) 0 : vectors[i].values[row];
			n++;
		}
		if (n != rsinfo->setDesc->natts)
			elog(ERROR, "%d columns expected, %d found", rsinfo->setDesc->natts, n);
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, isnull);
	}
	free_slices(&stored);
	table_close(rel, AccessShareLock);
	return (Datum) 0;
}

/*
 * chunk_time_tiny(rel, times) → times of a chunk of one row: create, append, encode, free; open
 * and all columns; as text
 */
PG_FUNCTION_INFO_V1(chunk_time_tiny);
Datum
chunk_time_tiny(PG_FUNCTION_ARGS)
{
	int			times = PG_GETARG_INT32(1);
	RowReader	reader;
	Rows	   *rows;
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "chunk time",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext old;
	double		writing = 0;
	double		again = 0;
	double		reading = 0;
	PenstockBuilder *kept;
	int			head_len = 0;

	reader_open(&reader, PG_GETARG_OID(0));
	rows = read_rows(&reader, 1);
	kept = penstock_builder_create(CurrentMemoryContext, rows->desc, 1);
	old = MemoryContextSwitchTo(context);
	for (int i = 0; i < times; i++)
	{
		double		start = now_ns();
		PenstockBuilder *builder = penstock_builder_create(context, rows->desc, 1);
		PenstockChunk *chunk;
		Stored		stored;

		penstock_builder_append(builder, rows->values[0], rows->isnull[0]);
		encode(builder, 0, 1, &stored);
		penstock_builder_free(builder);
		writing += now_ns() - start;

		start = now_ns();
		penstock_builder_append(kept, rows->values[0], rows->isnull[0]);
		encode(kept, 0, 1, &stored);
		penstock_builder_reset(kept);
		again += now_ns() - start;

		start = now_ns();
		chunk = penstock_chunk_open(stored.head, stored.head_len, rows->desc, "test",
									fetch_body, &stored);
		for (int attno = 1; attno <= rows->desc->natts; attno++)
		{
			PenstockVector vector;

			penstock_chunk_column(chunk, attno, false, &vector);
		}
		reading += now_ns() - start;
		head_len = stored.head_len;
		free_slices(&stored);
		MemoryContextReset(context);
	}
	MemoryContextSwitchTo(old);
	penstock_builder_free(kept);
	reader_close(&reader);
	PG_RETURN_TEXT_P(cstring_to_text(psprintf("head %d bytes, write %.0f ns, with a kept builder %.0f ns, read %.0f ns",
											  head_len, writing / times, again / times, reading / times)));
}
