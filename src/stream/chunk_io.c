/*
 * chunk_io.c
 *	  Numbers and bytes to and from a chunk, with every end watched.
 */
#include "postgres.h"

#include "port/pg_crc32c.h"

#include "stream/chunk_private.h"

/*
 * penstock_too_large(): a chunk is one TOAST value, so what does not fit 1 GB cannot be stored.
 */
void
penstock_too_large(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
			 errmsg("row is too large for a stream"),
			 errdetail("A row of a stream can hold up to 1 GB after compression.")));
}

/*
 * penstock_put_room(out, need): makes room for need more bytes.
 */
void
penstock_put_room(StringInfo out, Size need)
{
	if (need > MAX_BLOCK || (Size) out->len + need > MAX_BLOCK)
		penstock_too_large();
	enlargeStringInfo(out, (int) need);
}

void
penstock_put_byte(StringInfo out, int v)
{
	penstock_put_room(out, 1);
	out->data[out->len++] = (char) v;
}

void
penstock_put_varint(StringInfo out, uint64 v)
{
	penstock_put_room(out, 10);
	while (v >= 0x80)
	{
		out->data[out->len++] = (char) (v | 0x80);
		v >>= 7;
	}
	out->data[out->len++] = (char) v;
}

/*
 * penstock_damaged(cursor, detail): reports that the bytes cannot be what was
 * written.  detail is the end of a sentence without its full stop.
 */
void
penstock_damaged(const PenstockCursor *cursor, const char *detail)
{
	if (cursor->attno > 0)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("%s is damaged", cursor->where),
				 errdetail("Column %d: %s.", cursor->attno, detail)));
	ereport(ERROR,
			(errcode(ERRCODE_DATA_CORRUPTED),
			 errmsg("%s is damaged", cursor->where),
			 errdetail("Header: %s.", detail)));
}

int
penstock_get_byte(PenstockCursor *cursor)
{
	if (cursor->p >= cursor->end)
		penstock_damaged(cursor, "it ends too early");
	return (unsigned char) *cursor->p++;
}

uint64
penstock_get_varint(PenstockCursor *cursor)
{
	uint64		v = 0;

	for (int shift = 0; shift < 64; shift += 7)
	{
		int			byte = penstock_get_byte(cursor);

		if (shift == 63 && byte > 1)
			break;
		v |= (uint64) (byte & 0x7f) << shift;
		if (byte < 0x80)
			return v;
	}
	penstock_damaged(cursor, "a number is too long");
}

uint64
penstock_get_bounded(PenstockCursor *cursor, uint64 max)
{
	uint64		v = penstock_get_varint(cursor);

	if (v > max)
		penstock_damaged(cursor, "a number is out of range");
	return v;
}

const char *
penstock_get_bytes(PenstockCursor *cursor, Size len)
{
	const char *p = cursor->p;

	if (len > cursor_left(cursor))
		penstock_damaged(cursor, "it ends too early");
	cursor->p += len;
	return p;
}

/* ---- checksums ---- */

uint32
penstock_crc(const char *data, Size len)
{
	pg_crc32c	crc;

	INIT_CRC32C(crc);
	COMP_CRC32C(crc, data, len);
	FIN_CRC32C(crc);
	return crc;
}

uint32
penstock_head_crc(const char *head)
{
	pg_crc32c	crc;

	INIT_CRC32C(crc);
	COMP_CRC32C(crc, head, HEAD_CRC);
	if (head[HEAD_LAYOUT] != LAYOUT_INLINE)
		COMP_CRC32C(crc, head + HEAD_VALUEID, HEAD_BODY_SIZE - HEAD_VALUEID);
	FIN_CRC32C(crc);
	return crc;
}

#ifdef PENSTOCK_CHUNK_FUZZ
bool		penstock_chunk_ignore_checksums = false;
#endif

void
penstock_check_crc(const PenstockCursor *cursor, uint32 computed, uint32 stored)
{
#ifdef PENSTOCK_CHUNK_FUZZ
	if (penstock_chunk_ignore_checksums)
		return;
#endif
	if (computed != stored)
		penstock_damaged(cursor, "the checksum does not match");
}
