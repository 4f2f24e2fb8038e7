/*
 * chunk_block.c
 *	  Blocks: runs of bytes that are zstd-compressed where that pays.
 *
 * A block is a varint (stored length * 2 + compressed), then the bytes.  The reader
 * knows how many bytes it wants, and a frame that promises anything else is damage,
 * so nothing is allocated on the frame's word.
 */
#include "postgres.h"

#include <zstd.h>

#include "utils/memutils.h"

#include "stream/chunk_private.h"

#define BLOCK_LEVEL			1
#define BLOCK_MIN_COMPRESS	64	/* below, no frame pays for its header */
/* zstd yields at most 128 kB for 4 bytes */
#define BLOCK_MAX_RATIO		32768
#define BLOCK_RATIO_SLACK	(128 * 1024)

/* kept for the life of the backend: making them costs more than using them */
static struct
{
	ZSTD_CCtx  *compress;
	ZSTD_DCtx  *decompress;
}			zstd;

static void
zstd_out_of_memory(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_OUT_OF_MEMORY),
			 errmsg("out of memory"),
			 errdetail("Failed while creating a zstd context.")));
}

/*
 * Compresses into dst, which is shorter than the data by what compression must
 * gain to be worth it.  Returns 0 if it does not fit.
 */
static Size
block_compress(char *dst, Size dst_len, const char *data, Size len)
{
	Size		result;

	if (zstd.compress == NULL && (zstd.compress = ZSTD_createCCtx()) == NULL)
		zstd_out_of_memory();

	result = ZSTD_compressCCtx(zstd.compress, dst, dst_len, data, len, BLOCK_LEVEL);
	return ZSTD_isError(result) ? 0 : result;
}

/*
 * penstock_block_write(out, data, len): appends a block.
 */
void
penstock_block_write(StringInfo out, const char *data, Size len)
{
	if (len >= BLOCK_MIN_COMPRESS)
	{
		Size		limit = len - len / 20;
		int			start = out->len;
		Size		done;

		/* the length in front needs at most 5 bytes: compress behind them */
		penstock_put_room(out, limit + 10);
		done = block_compress(out->data + start + 5, limit, data, len);
		if (done > 0)
		{
			penstock_put_varint(out, (uint64) done << 1 | 1);
			memmove(out->data + out->len, out->data + start + 5, done);
			out->len += done;
			out->data[out->len] = '\0';
			return;
		}
	}

	penstock_put_varint(out, (uint64) len << 1);
	penstock_put_room(out, len);
	if (len > 0)
		memcpy(out->data + out->len, data, len);
	out->len += len;
	out->data[out->len] = '\0';
}

/*
 * penstock_block_read(cursor, len): the block's bytes, of which there must be len.
 * The result points into the chunk or is palloc'd in the current context.
 */
const char *
penstock_block_read(PenstockCursor *cursor, Size len)
{
	uint64		head = penstock_get_varint(cursor);
	Size		stored;
	const char *bytes;
	char	   *result;

	if (head >> 1 > MAX_BLOCK)
		penstock_damaged(cursor, "a block is too long");
	stored = head >> 1;
	bytes = penstock_get_bytes(cursor, stored);
	if ((head & 1) == 0)
	{
		if (stored != len)
			penstock_damaged(cursor, "a block has the wrong length");
		return bytes;
	}

	if (len > MAX_BLOCK ||
		len > (uint64) stored * BLOCK_MAX_RATIO + BLOCK_RATIO_SLACK ||
		ZSTD_getFrameContentSize(bytes, stored) != len)
		penstock_damaged(cursor, "a compressed block has the wrong length");

	if (zstd.decompress == NULL && (zstd.decompress = ZSTD_createDCtx()) == NULL)
		zstd_out_of_memory();
	result = palloc(Max(len, 1));
	if (ZSTD_decompressDCtx(zstd.decompress, result, len, bytes, stored) != len)
		penstock_damaged(cursor, "a compressed block cannot be read");
	return result;
}
