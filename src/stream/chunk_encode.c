/*
 * chunk_encode.c
 *	  From the builder's rows to a head and, where they need one, a body.
 */
#include "postgres.h"

#include "stream/chunk_private.h"

#define TINY_ROWS	16			/* below, only the event time has minimum and maximum */

/* what the directory will say of a column */
typedef struct EncodedColumn
{
	uint8		encoding;		/* and flags */
	uint8		order;
	uint32		start;			/* in the buffer of columns */
	uint32		len;
	int64		min;
	int64		max;
} EncodedColumn;

/* ---- columns ---- */

static void
encode_ints(StringInfo out, const PenstockBuilderColumn *col, const int64 *values, int n,
			bool minmax, EncodedColumn *result)
{
	if (minmax && col->order != PENSTOCK_ORDER_NONE)
	{
		penstock_minmax_compute(values, n, col->order, col->attlen, &result->min, &result->max);
		result->order = col->order;
		result->encoding |= COLUMN_HAS_MINMAX;
	}

	if ((result->encoding & COLUMN_HAS_MINMAX) && !col->is_float && result->min == result->max)
		result->encoding |= COLUMN_MINIMUM;
	else if (col->is_float)
		result->encoding |= penstock_floats_write(out, values, n, col->attlen);
	else
	{
		penstock_ints_write(out, values, n);
		result->encoding |= COLUMN_INTS;
	}
}

/* Appends the column's rows first .. first + count - 1 to out. */
static void
encode_column(StringInfo out, const PenstockBuilderColumn *col, int first, int count,
			  bool minmax, EncodedColumn *result)
{
	int			nnulls = 0;
	const int64 *ints = col->ints == NULL ? NULL : col->ints + first;
	const uint32 *ids = col->ids == NULL ? NULL : col->ids + first;
	void	   *dense = NULL;

	memset(result, 0, sizeof(*result));
	result->start = out->len;
	if (col->class == PENSTOCK_CLASS_DROPPED)
		return;					/* COLUMN_NULL */

	if (col->isnull != NULL)
		for (int i = first; i < first + count; i++)
			nnulls += col->isnull[i];
	if (nnulls == count)
	{
		result->encoding = COLUMN_NULL | COLUMN_HAS_NULLS;
		return;
	}
	if (nnulls > 0)
	{
		const bool *isnull = col->isnull + first;
		int			n = 0;

		result->encoding |= COLUMN_HAS_NULLS;
		penstock_nulls_write(out, isnull, count);
		dense = palloc(sizeof(int64) * count);
		for (int i = 0; i < count; i++)
		{
			if (isnull[i])
				continue;
			if (ints != NULL)
				((int64 *) dense)[n++] = ints[i];
			else
				((uint32 *) dense)[n++] = ids[i];
		}
		if (ints != NULL)
			ints = dense;
		else
			ids = dense;
		count = n;
	}

	if (col->class == PENSTOCK_CLASS_INT)
		encode_ints(out, col, ints, count, minmax, result);
	else
		result->encoding |= penstock_bytes_write(out, col->arena, col->entries, col->nentries,
												 ids, count, col->dict);
	result->len = out->len - result->start;
	if (dense != NULL)
		pfree(dense);
}

/* ---- directory ---- */

static void
write_minmax(StringInfo dir, const EncodedColumn *col)
{
	penstock_put_byte(dir, col->order);
	if (col->order == PENSTOCK_ORDER_FLOAT)
	{
		penstock_put_room(dir, 16);
		put_u64(dir->data + dir->len, (uint64) col->min);
		put_u64(dir->data + dir->len + 8, (uint64) col->max);
		dir->len += 16;
	}
	else
	{
		penstock_put_varint(dir, zigzag(col->min));
		penstock_put_varint(dir, (uint64) col->max - (uint64) col->min);
	}
}

static void
write_directory(StringInfo dir, const EncodedColumn *cols, int natts,
				const char *columns, bool checksums)
{
	for (int i = 0; i < natts; i++)
	{
		const EncodedColumn *col = &cols[i];

		penstock_put_byte(dir, col->encoding);
		if ((col->encoding & COLUMN_ENCODING) == COLUMN_NULL)
			continue;
		penstock_put_varint(dir, col->len);
		if (checksums)
		{
			penstock_put_room(dir, 4);
			put_u32(dir->data + dir->len, penstock_crc(columns + col->start, col->len));
			dir->len += 4;
		}
		if (col->encoding & COLUMN_HAS_MINMAX)
			write_minmax(dir, col);
	}
}

/* ---- head ---- */

static void
write_head(PenstockEncoded *result, int layout, int nrows, int natts,
		   const StringInfo dir, const StringInfo columns)
{
	int			fixed = layout == LAYOUT_INLINE ? HEAD_INLINE_SIZE : HEAD_BODY_SIZE;
	char	   *p;

	result->head_len = fixed;
	if (layout != LAYOUT_BODY_DIR)
		result->head_len += dir->len;
	if (layout == LAYOUT_INLINE)
		result->head_len += columns->len - VARHDRSZ;
	result->head = palloc0(result->head_len);
	Assert(result->head_len <= PENSTOCK_CHUNK_MAX_HEAD);

	result->head[HEAD_VERSION] = PENSTOCK_CHUNK_VERSION;
	result->head[HEAD_LAYOUT] = layout;
	put_u16(result->head + HEAD_NROWS, nrows);
	put_u16(result->head + HEAD_NATTS, natts);
	p = result->head + fixed;
	if (layout != LAYOUT_BODY_DIR)
	{
		memcpy(p, dir->data, dir->len);
		p += dir->len;
	}
	if (layout == LAYOUT_INLINE)
		memcpy(p, columns->data + VARHDRSZ, columns->len - VARHDRSZ);
	else
	{
		put_u32(result->head + HEAD_BODY_LEN, columns->len - VARHDRSZ);
		put_u32(result->head + HEAD_DIR_LEN, dir->len);
	}

	/* a directory in the body is checked by the same checksum */
	if (layout == LAYOUT_BODY_DIR)
		put_u32(result->head + HEAD_REST_CRC, penstock_crc(dir->data, dir->len));
	else
		put_u32(result->head + HEAD_REST_CRC,
				penstock_crc(result->head + fixed, result->head_len - fixed));
	put_u32(result->head + HEAD_CRC, penstock_head_crc(result->head));
}

/*
 * penstock_builder_encode(builder, first, count, result)
 *
 * Encodes count > 0 rows into the current memory context.  The head needs
 * penstock_head_stamp before it is stored.  PROGRAM_LIMIT_EXCEEDED if the body would
 * not fit a TOAST value.
 */
void
penstock_builder_encode(PenstockBuilder *builder, int first, int count,
						PenstockEncoded *result)
{
	StringInfoData columns;
	StringInfoData dir;
	EncodedColumn *cols;

	if (first < 0 || count <= 0 || first + count > builder->nrows)
		elog(ERROR, "rows %d to %d are not in the chunk builder", first, first + count - 1);

	cols = palloc(sizeof(EncodedColumn) * Max(builder->natts, 1));
	initStringInfo(&columns);
	columns.len = VARHDRSZ;		/* so that it can become the body as it is */
	for (int i = 0; i < builder->natts; i++)
		encode_column(&columns, &builder->columns[i], first, count,
					  count >= TINY_ROWS || i + 1 == builder->event_attno, &cols[i]);

	initStringInfo(&dir);
	result->body = NULL;
	if (columns.len <= PENSTOCK_CHUNK_MAX_HEAD)
	{
		write_directory(&dir, cols, builder->natts, columns.data, false);
		if (HEAD_INLINE_SIZE + dir.len + columns.len - VARHDRSZ <= PENSTOCK_CHUNK_MAX_HEAD)
		{
			write_head(result, LAYOUT_INLINE, count, builder->natts, &dir, &columns);
			pfree(columns.data);
			pfree(dir.data);
			pfree(cols);
			return;
		}
		resetStringInfo(&dir);
	}

	write_directory(&dir, cols, builder->natts, columns.data, true);
	if (HEAD_BODY_SIZE + dir.len <= PENSTOCK_CHUNK_MAX_HEAD)
		write_head(result, LAYOUT_BODY, count, builder->natts, &dir, &columns);
	else
	{
		penstock_put_room(&columns, dir.len);
		memcpy(columns.data + columns.len, dir.data, dir.len);
		columns.len += dir.len;
		write_head(result, LAYOUT_BODY_DIR, count, builder->natts, &dir, &columns);
	}
	SET_VARSIZE(columns.data, columns.len);
	result->body = (struct varlena *) columns.data;
	pfree(dir.data);
	pfree(cols);
}

/*
 * penstock_head_stamp(head, xid, written_at, body_valueid, flags): completes an encoded head.
 * An inline chunk has no body_valueid.
 */
void
penstock_head_stamp(char *head, FullTransactionId xid, TimestampTz written_at,
					Oid body_valueid, int flags)
{
	head[HEAD_FLAGS] = (char) flags;
	put_u64(head + HEAD_XID, U64FromFullTransactionId(xid));
	put_u64(head + HEAD_WRITTEN_AT, (uint64) written_at);
	if (head[HEAD_LAYOUT] != LAYOUT_INLINE)
		put_u32(head + HEAD_VALUEID, body_valueid);
	else if (OidIsValid(body_valueid))
		elog(ERROR, "inline chunk has no body");
	put_u32(head + HEAD_CRC, penstock_head_crc(head));
}
