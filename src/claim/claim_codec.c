/*
 * claim_codec.c
 *	  One frame of a payload: compressed on its own, so that it is read on its own.
 *
 * zstd's contexts are made once for the process; a frame is compressed and decompressed in one call, so they hold nothing between calls
 * that an error could leave behind.
 */
#include "postgres.h"

#include <stdarg.h>
#include <zstd.h>

#include "port/pg_crc32c.h"
#include "utils/memutils.h"

#include "claim/claim_internal.h"

/* What does not save so much of a frame is stored plain. */
#define WORTH(length) ((length) - (length) / 32)
/* Of frames of at least 4 times so much, pieces are tried first. */
#define SAMPLE (16 * 1024)

static ZSTD_CCtx *compression;
static ZSTD_DCtx *decompression;
static char *output;			/* of the last penstock_claim_compress */
static Size output_room;

static void
out_of_memory(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_OUT_OF_MEMORY),
			 errmsg("out of memory"),
			 errdetail("Failed to make a context of zstd.")));
}

static void
begin(void)
{
	if (compression == NULL && (compression = ZSTD_createCCtx()) == NULL)
		out_of_memory();
	if (decompression == NULL && (decompression = ZSTD_createDCtx()) == NULL)
		out_of_memory();
}

static char *
room_for(Size length)
{
	if (output_room < length)
	{
		if (output != NULL)
			pfree(output);
		output = NULL;
		output_room = 0;
		output = MemoryContextAllocHuge(TopMemoryContext, length);
		output_room = length;
	}
	return output;
}

int
penstock_claim_check_level(int level)
{
	if (level < 1 || level > 19)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the level must be between 1 and 19")));
	return level;
}

uint32
penstock_claim_crc(const char *data, Size length)
{
	pg_crc32c	crc;

	INIT_CRC32C(crc);
	COMP_CRC32C(crc, data, length);
	FIN_CRC32C(crc);
	return crc;
}

/* With another dictionary the bytes would be others. */
static uint32
checksum(const ClaimFrame *frame, const ClaimDictionary *dictionary)
{
	uint32		crc = penstock_claim_crc(frame->data, frame->length);

	return dictionary != NULL && frame->codec == CLAIM_ZSTD ? crc ^ penstock_claim_dictionary_crc(dictionary) : crc;
}

/* Is it the kind of data that compresses? */
static bool
is_worth_trying(const char *raw, uint32 length)
{
	if (length < 4 * SAMPLE)
		return true;
	for (int i = 0; i < 2; i++)
	{
		const char *piece = raw + (length / 4) * (2 * i + 1);
		size_t		n = ZSTD_compressCCtx(compression, room_for(ZSTD_compressBound(length)), ZSTD_compressBound(SAMPLE), piece, SAMPLE, 1);

		if (!ZSTD_isError(n) && n < WORTH(SAMPLE))
			return true;
	}
	return false;
}

void
penstock_claim_compress(const char *raw, uint32 length, int level, ClaimDictionary *dictionary, ClaimFrame *frame)
{
	size_t		room = ZSTD_compressBound(length);
	size_t		n = 0;

	begin();
	Assert(length <= CLAIM_MAX_FRAME);
	if (length > 0 && is_worth_trying(raw, length))
	{
		if (dictionary != NULL)
			n = ZSTD_compress_usingCDict(compression, room_for(room), room, raw, length,
										 penstock_claim_dictionary_for_compression(dictionary, level));
		else
			n = ZSTD_compressCCtx(compression, room_for(room), room, raw, length, level);
	}
	if (n > 0 && !ZSTD_isError(n) && n < WORTH(length))
	{
		frame->codec = CLAIM_ZSTD;
		frame->data = output;
		frame->length = n;
	}
	else
	{
		frame->codec = CLAIM_PLAIN;
		frame->data = unconstify(char *, raw);
		frame->length = length;
	}
	frame->crc = checksum(frame, dictionary);
}

void
penstock_claim_decompress(const PenstockClaim *claim, const ClaimFrame *frame, ClaimDictionary *dictionary, char *raw,
						  uint32 raw_length)
{
	size_t		n;

	begin();
	if (checksum(frame, dictionary) != frame->crc)
		penstock_claim_damaged(claim, "A frame's checksum does not match.");
	switch (frame->codec)
	{
		case CLAIM_PLAIN:
			if (frame->length != raw_length)
				penstock_claim_damaged(claim, "A frame has %u bytes instead of %u.", frame->length, raw_length);
			memcpy(raw, frame->data, raw_length);
			return;
		case CLAIM_ZSTD:
			/* never more than there is room for, whatever the frame says of itself */
			n = dictionary == NULL ? ZSTD_decompressDCtx(decompression, raw, raw_length, frame->data, frame->length) :
				ZSTD_decompress_usingDDict(decompression, raw, raw_length, frame->data, frame->length,
										   penstock_claim_dictionary_for_decompression(dictionary));
			if (ZSTD_isError(n))
				penstock_claim_damaged(claim, "A frame does not decompress: %s.", ZSTD_getErrorName(n));
			if (n != raw_length)
				penstock_claim_damaged(claim, "A frame has %zu bytes instead of %u.", n, raw_length);
			return;
	}
	penstock_claim_damaged(claim, "A frame has the unknown codec %d.", (int) frame->codec);
}

void
penstock_claim_damaged(const PenstockClaim *claim, const char *detail,...)
{
	char		text[256];
	va_list		args;

	va_start(args, detail);
	vsnprintf(text, sizeof(text), detail, args);
	va_end(args);
	ereport(ERROR,
			(errcode(ERRCODE_DATA_CORRUPTED),
			 errmsg("claim \"%s\" is damaged", penstock_claim_text(claim)),
			 errdetail_internal("%s", text)));
}
