/*
 * chunk_read.c
 *	  From a head and, where there is one, a body back to columns.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/tupmacs.h"
#include "utils/datum.h"

#include "stream/chunk_private.h"

#define KEPT_MEMORY		(2 * 1024 * 1024)	/* for a few columns of a chunk */

/* a directory entry */
typedef struct ChunkColumn
{
	uint8		encoding;
	bool		has_nulls;
	uint8		order;			/* NONE: no minimum and maximum */
	uint32		start;			/* in the body, or in the head after its directory */
	uint32		len;
	uint32		crc;
	int64		min;
	int64		max;
} ChunkColumn;

struct PenstockChunk
{
	PenstockChunkInfo info;
	TupleDesc	desc;
	const char *where;
	const char *inlined;		/* columns, where they are in the head */
	PenstockFetchBody fetch;
	void	   *fetch_arg;
	ChunkColumn *columns;		/* info.natts of them */
};

/* ---- head ---- */

/*
 * penstock_chunk_info(head, head_len, where, info): reads and checks the fixed header.
 */
void
penstock_chunk_info(const char *head, int head_len, const char *where,
					PenstockChunkInfo *info)
{
	PenstockCursor cursor = {head, head + Max(head_len, 0), where, 0};
	int			layout;

	if (head_len < HEAD_INLINE_SIZE)
		penstock_damaged(&cursor, "it is too short");
	if (head[HEAD_VERSION] != PENSTOCK_CHUNK_VERSION)
		penstock_damaged(&cursor, psprintf("format version %d is not known to this library",
											(unsigned char) head[HEAD_VERSION]));
	layout = head[HEAD_LAYOUT];
	if (layout < LAYOUT_INLINE || layout > LAYOUT_BODY_DIR)
		penstock_damaged(&cursor, "its layout is unknown");
	if (layout != LAYOUT_INLINE && head_len < HEAD_BODY_SIZE)
		penstock_damaged(&cursor, "it is too short");
	penstock_check_crc(&cursor, penstock_head_crc(head), get_u32(head + HEAD_CRC));

	info->nrows = get_u16(head + HEAD_NROWS);
	info->natts = get_u16(head + HEAD_NATTS);
	info->flags = (unsigned char) head[HEAD_FLAGS];
	info->xid = FullTransactionIdFromU64(get_u64(head + HEAD_XID));
	info->written_at = (TimestampTz) get_u64(head + HEAD_WRITTEN_AT);
	info->body_valueid = InvalidOid;
	info->body_len = 0;
	if (layout != LAYOUT_INLINE)
	{
		info->body_valueid = get_u32(head + HEAD_VALUEID);
		info->body_len = get_u32(head + HEAD_BODY_LEN);
	}
	if (info->nrows == 0 || info->nrows > PENSTOCK_CHUNK_MAX_ROWS ||
		info->natts > MaxTupleAttributeNumber)
		penstock_damaged(&cursor, "its row or column count is out of range");
	if (info->body_len > MAX_BLOCK)
		penstock_damaged(&cursor, "its body is too long");
}

/* ---- directory ---- */

static void
read_minmax(PenstockCursor *cursor, ChunkColumn *col)
{
	col->order = penstock_get_byte(cursor);
	if (col->order == PENSTOCK_ORDER_FLOAT)
	{
		const char *p = penstock_get_bytes(cursor, 16);

		col->min = (int64) get_u64(p);
		col->max = (int64) get_u64(p + 8);
	}
	else if (col->order == PENSTOCK_ORDER_SIGNED || col->order == PENSTOCK_ORDER_UNSIGNED)
	{
		col->min = unzigzag(penstock_get_varint(cursor));
		col->max = (int64) ((uint64) col->min + penstock_get_varint(cursor));
	}
	else
		penstock_damaged(cursor, "its order is unknown");
}

/* Reads all entries and checks that they lie in room bytes. */
static void
read_directory(PenstockChunk *chunk, PenstockCursor *cursor, bool checksums, uint32 room)
{
	uint64		start = 0;

	for (int i = 0; i < chunk->info.natts; i++)
	{
		ChunkColumn *col = &chunk->columns[i];
		int			byte;

		cursor->attno = i + 1;
		byte = penstock_get_byte(cursor);
		col->encoding = byte & COLUMN_ENCODING;
		col->has_nulls = (byte & COLUMN_HAS_NULLS) != 0;
		col->order = PENSTOCK_ORDER_NONE;
		col->start = (uint32) start;
		col->len = 0;
		if (col->encoding > COLUMN_MINIMUM || (byte & ~(COLUMN_ENCODING | COLUMN_FLAGS)) != 0)
			penstock_damaged(cursor, "its encoding is unknown");
		if (col->encoding == COLUMN_NULL)
		{
			col->has_nulls = true;
			continue;
		}
		col->len = (uint32) penstock_get_bounded(cursor, MAX_BLOCK);
		start += col->len;
		if (start > MAX_BLOCK)
			penstock_damaged(cursor, "it ends behind the body");
		if (checksums)
			col->crc = get_u32(penstock_get_bytes(cursor, 4));
		if (byte & COLUMN_HAS_MINMAX)
			read_minmax(cursor, col);
		if (col->encoding == COLUMN_MINIMUM &&
			col->order != PENSTOCK_ORDER_SIGNED && col->order != PENSTOCK_ORDER_UNSIGNED)
			penstock_damaged(cursor, "its minimum is missing");
	}
	cursor->attno = 0;
	if (chunk->inlined == NULL && start != room)
		penstock_damaged(cursor, "its columns do not fill the body");
}

/*
 * penstock_chunk_open(head, head_len, desc, where, fetch, fetch_arg)
 *
 * Opens a chunk for reading columns of desc, in the current memory context; head, desc and where
 * must stay.  Fetches nothing, but for a directory that did not fit the head.
 */
PenstockChunk *
penstock_chunk_open(const char *head, int head_len, TupleDesc desc, const char *where,
					PenstockFetchBody fetch, void *fetch_arg)
{
	PenstockChunk *chunk = palloc0(sizeof(PenstockChunk));
	PenstockCursor cursor = {head, head + head_len, where, 0};
	int			layout;
	int			fixed;

	penstock_chunk_info(head, head_len, where, &chunk->info);
	layout = head[HEAD_LAYOUT];
	fixed = layout == LAYOUT_INLINE ? HEAD_INLINE_SIZE : HEAD_BODY_SIZE;
	chunk->desc = desc;
	chunk->where = where;
	chunk->fetch = fetch;
	chunk->fetch_arg = fetch_arg;
	chunk->columns = palloc(sizeof(ChunkColumn) * Max(chunk->info.natts, 1));

	cursor.p += fixed;
	if (layout == LAYOUT_BODY_DIR)
	{
		uint32		dir_len = get_u32(head + HEAD_DIR_LEN);
		uint32		room = chunk->info.body_len - dir_len;

		if (dir_len > chunk->info.body_len)
			penstock_damaged(&cursor, "its directory is longer than the body");
		cursor.p = fetch(fetch_arg, room, dir_len);
		cursor.end = cursor.p + dir_len;
		penstock_check_crc(&cursor, penstock_crc(cursor.p, dir_len), get_u32(head + HEAD_REST_CRC));
		read_directory(chunk, &cursor, true, room);
	}
	else
	{
		penstock_check_crc(&cursor, penstock_crc(cursor.p, cursor_left(&cursor)),
						   get_u32(head + HEAD_REST_CRC));
		if (layout == LAYOUT_INLINE)
		{
			chunk->inlined = cursor.p;	/* for now: any but NULL */
			read_directory(chunk, &cursor, false, 0);
			chunk->inlined = cursor.p;
			for (int i = 0; i < chunk->info.natts; i++)
				if (chunk->columns[i].len > 0 &&
					(uint64) chunk->columns[i].start + chunk->columns[i].len > cursor_left(&cursor))
					penstock_damaged(&cursor, "its columns end behind the head");
		}
		else
			read_directory(chunk, &cursor, true, chunk->info.body_len);
	}
	return chunk;
}

/* ---- columns ---- */

/*
 * penstock_chunk_context(parent): a memory context for the columns of one chunk after the other.
 *
 * A column's arrays are so large that malloc would give them back to the system at every reset, and
 * the page faults would cost as much as the decoding.  This kind of context keeps its first block.
 */
MemoryContext
penstock_chunk_context(MemoryContext parent)
{
	return GenerationContextCreate(parent, "penstock chunk",
								   KEPT_MEMORY, KEPT_MEMORY, 2 * KEPT_MEMORY);
}

/* Every row has the same value, or none. */
static void
fill_constant(int nrows, Datum value, bool isnull, bool want_codes, PenstockVector *result)
{
	if (isnull)
	{
		result->isnull = palloc(sizeof(bool) * nrows);
		memset(result->isnull, true, nrows);
	}
	if (want_codes && !isnull)
	{
		result->codes = palloc0(sizeof(uint32) * nrows);
		result->dict = palloc(sizeof(Datum));
		result->dict[0] = value;
		result->ndict = 1;
		return;
	}
	result->values = palloc(sizeof(Datum) * nrows);
	for (int i = 0; i < nrows; i++)
		result->values[i] = value;
}

/* A column that was added after the chunk was written. */
static void
fill_missing(PenstockChunk *chunk, int attno, bool want_codes, PenstockVector *result)
{
	Form_pg_attribute att = TupleDescAttr(chunk->desc, attno - 1);
	bool		isnull = true;
	Datum		value = (Datum) 0;

	if (!att->attisdropped)
		value = getmissingattr(chunk->desc, attno, &isnull);
	if (!isnull)
		value = datumCopy(value, att->attbyval, att->attlen);
	fill_constant(chunk->info.nrows, value, isnull, want_codes, result);
}

/* From the integers that are stored to what fetch_att would have yielded. */
static Datum *
ints_to_datums(int64 *ints, int n, int attlen)
{
	Datum	   *values = (Datum *) ints;

	switch (attlen)
	{
		case 1:
			for (int i = 0; i < n; i++)
				values[i] = CharGetDatum((char) ints[i]);
			break;
		case 2:
			for (int i = 0; i < n; i++)
				values[i] = Int16GetDatum((int16) ints[i]);
			break;
		case 4:
			for (int i = 0; i < n; i++)
				values[i] = Int32GetDatum((int32) ints[i]);
			break;
		default:
			for (int i = 0; i < n; i++)
				values[i] = (Datum) ints[i];
			break;
	}
	return values;
}

/* The first n values; the arrays have room for all rows. */
static void
read_ints(PenstockCursor *cursor, int encoding, Form_pg_attribute att, int n, int nrows,
		  bool want_codes, PenstockVector *result)
{
	int64	   *ints;

	if (encoding == COLUMN_INTS && want_codes)
	{
		int64	   *dict;

		result->codes = palloc(sizeof(uint32) * nrows);
		if (penstock_ints_read_dict(cursor, n, result->codes, &dict, &result->ndict))
		{
			result->dict = ints_to_datums(dict, result->ndict, att->attlen);
			return;
		}
		pfree(result->codes);
		result->codes = NULL;
	}

	ints = palloc(sizeof(int64) * nrows);
	if (encoding == COLUMN_INTS)
		penstock_ints_read(cursor, ints, n);
	else if (att->attlen != 4 && att->attlen != 8)
		penstock_damaged(cursor, "its encoding does not suit its type");
	else if (encoding == COLUMN_DECIMAL)
		penstock_decimal_read(cursor, ints, n, att->attlen);
	else
		penstock_shuffle_read(cursor, ints, n, att->attlen);
	result->values = ints_to_datums(ints, n, att->attlen);
}

static void
read_minimum(const ChunkColumn *col, Form_pg_attribute att, int n, int nrows,
			 bool want_codes, PenstockVector *result)
{
	int64	   *ints = palloc(sizeof(int64) * (want_codes ? 1 : nrows));

	for (int i = 0; i < (want_codes ? 1 : n); i++)
		ints[i] = col->min;
	if (want_codes)
	{
		result->dict = ints_to_datums(ints, 1, att->attlen);
		result->ndict = 1;
		result->codes = palloc0(sizeof(uint32) * nrows);
	}
	else
		result->values = ints_to_datums(ints, n, att->attlen);
}

static void
read_bytes(PenstockCursor *cursor, int encoding, Form_pg_attribute att, int n, int nrows,
		   bool want_codes, PenstockVector *result)
{
	if (encoding == COLUMN_BYTES)
	{
		result->values = palloc(sizeof(Datum) * nrows);
		penstock_bytes_read(cursor, result->values, n, att->attlen, att->attalign);
		return;
	}

	result->ndict = penstock_get_bounded(cursor, n);
	result->dict = palloc(sizeof(Datum) * Max(result->ndict, 1));
	penstock_bytes_read(cursor, result->dict, result->ndict, att->attlen, att->attalign);
	result->codes = palloc(sizeof(uint32) * nrows);
	penstock_codes_read(cursor, result->codes, n, result->ndict);
	if (!want_codes)
	{
		result->values = palloc(sizeof(Datum) * nrows);
		for (int i = 0; i < n; i++)
			result->values[i] = result->dict[result->codes[i]];
	}
}

/* Moves the n values that were stored to the rows that are not NULL. */
static void
spread(PenstockVector *result, int n, int nrows)
{
	for (int row = nrows - 1; row >= 0; row--)
	{
		bool		null = result->isnull[row];

		if (!null)
			n--;
		if (result->values != NULL)
			result->values[row] = null ? (Datum) 0 : result->values[n];
		if (result->codes != NULL)
			result->codes[row] = null ? 0 : result->codes[n];
	}
}

/*
 * penstock_chunk_column(chunk, attno, want_codes, result): decodes a column into the current
 * memory context.  DATA_CORRUPTED if it is not what was written.
 */
void
penstock_chunk_column(PenstockChunk *chunk, int attno, bool want_codes,
					  PenstockVector *result)
{
	int			nrows = chunk->info.nrows;
	int			n = nrows;
	Form_pg_attribute att;
	ChunkColumn *col;
	PenstockCursor cursor;

	memset(result, 0, sizeof(*result));
	if (attno <= 0 || attno > chunk->desc->natts)
		elog(ERROR, "stream has no column %d", attno);
	att = TupleDescAttr(chunk->desc, attno - 1);
	if (attno > chunk->info.natts)
	{
		fill_missing(chunk, attno, want_codes, result);
		return;
	}
	col = &chunk->columns[attno - 1];
	if (att->attisdropped || col->encoding == COLUMN_NULL)
	{
		fill_constant(nrows, (Datum) 0, true, want_codes, result);
		return;
	}

	cursor.where = chunk->where;
	cursor.attno = attno;
	if (att->attbyval != (col->encoding != COLUMN_BYTES && col->encoding != COLUMN_BYTES_DICT))
		penstock_damaged(&cursor, "its encoding does not suit its type");
	if (chunk->inlined != NULL)
		cursor.p = chunk->inlined + col->start;
	else if (col->len == 0)
		cursor.p = "";
	else
	{
		cursor.p = chunk->fetch(chunk->fetch_arg, col->start, col->len);
		penstock_check_crc(&cursor, penstock_crc(cursor.p, col->len), col->crc);
	}
	cursor.end = cursor.p + col->len;

	if (col->has_nulls)
	{
		result->isnull = palloc(sizeof(bool) * nrows);
		n = penstock_nulls_read(&cursor, result->isnull, nrows);
	}
	if (col->encoding == COLUMN_MINIMUM)
		read_minimum(col, att, n, nrows, want_codes, result);
	else if (att->attbyval)
		read_ints(&cursor, col->encoding, att, n, nrows, want_codes, result);
	else
		read_bytes(&cursor, col->encoding, att, n, nrows, want_codes, result);
	if (cursor_left(&cursor) != 0)
		penstock_damaged(&cursor, "there are bytes behind its end");
	if (n < nrows)
		spread(result, n, nrows);
}

#ifdef PENSTOCK_CHUNK_FUZZ
uint32
penstock_chunk_column_size(const PenstockChunk *chunk, int attno)
{
	return attno > chunk->info.natts ? 0 : chunk->columns[attno - 1].len;
}
#endif

/* ---- minimum and maximum ---- */

static Datum
bound_to_datum(int64 bound, PenstockOrder order, int attlen)
{
	if (order == PENSTOCK_ORDER_FLOAT && attlen == 4)
	{
		double		d;

		memcpy(&d, &bound, 8);
		return Float4GetDatum((float4) d);
	}
	return ints_to_datums(&bound, 1, attlen)[0];
}

/*
 * penstock_chunk_minmax(chunk, attno, min, max, has_nulls): the column's smallest and largest
 * value, as its type is ordered now.  *has_nulls is set in any case.
 */
bool
penstock_chunk_minmax(PenstockChunk *chunk, int attno,
					  Datum *min, Datum *max, bool *has_nulls)
{
	Form_pg_attribute att;
	ChunkColumn *col;
	bool		is_float;

	*has_nulls = true;
	if (attno <= 0 || attno > chunk->desc->natts)
		return false;
	att = TupleDescAttr(chunk->desc, attno - 1);
	if (att->attisdropped || attno > chunk->info.natts)
		return false;
	col = &chunk->columns[attno - 1];
	*has_nulls = col->has_nulls;
	if (col->order == PENSTOCK_ORDER_NONE || !att->attbyval ||
		penstock_type_order(att->atttypid, &is_float) != col->order)
		return false;
	*min = bound_to_datum(col->min, col->order, att->attlen);
	*max = bound_to_datum(col->max, col->order, att->attlen);
	return true;
}
