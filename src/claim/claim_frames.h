/*
 * claim_frames.h
 *	  What a stored payload looks like.
 *
 * In a large object: the frames, each of frame_size bytes of payload but the last; after every CLAIM_BLOCK of them, and after the last, the
 * entries of these frames; then the root, which says where the blocks of entries are; and at the very end the footer.  So a
 * frame is found with three reads however long the payload is, and a writer holds one block of entries.  Numbers are in the machine's order.
 *
 * In a row: a byte for the codec, the CRC-32C, and the one frame there is.
 */
#ifndef PENSTOCK_CLAIM_FRAMES_H
#define PENSTOCK_CLAIM_FRAMES_H

#include "common/cryptohash.h"
#include "utils/resowner.h"

#define CLAIM_MAGIC "PNSTKCL1"
#define CLAIM_BLOCK 4096		/* entries */
#define CLAIM_INLINE_HEADER 5

typedef struct ClaimEntry
{
	uint64		place;			/* offset in the object, codec in the two highest bits */
	uint32		length;
	uint32		crc;
} ClaimEntry;

#define CLAIM_PLACE(offset, codec) ((uint64) (offset) | (uint64) (codec) << 62)
#define CLAIM_OFFSET(place) ((int64) ((place) & ((UINT64CONST(1) << 62) - 1)))
#define CLAIM_CODEC(place) ((ClaimCodec) ((place) >> 62))

typedef struct ClaimBlock
{
	uint64		offset;
	uint32		count;
	uint32		crc;
} ClaimBlock;

typedef struct ClaimFooter
{
	char		magic[8];
	uint64		size;			/* of the payload */
	uint64		root;			/* offset */
	uint64		nframes;
	uint32		frame_size;
	int32		dictionary;
	uint32		nblocks;
	uint32		root_crc;
	uint32		reserved;
	uint32		crc;			/* of what is before it */
} ClaimFooter;

/* SHA-256 over pieces; lives as long as the resource owner. */
extern pg_cryptohash_ctx *penstock_claim_digest_begin(ResourceOwner owner);
extern void penstock_claim_digest_add(pg_cryptohash_ctx *digest, const char *data, Size length);
extern void penstock_claim_digest_end(pg_cryptohash_ctx *digest, uint8 *result);

#endif							/* PENSTOCK_CLAIM_FRAMES_H */
