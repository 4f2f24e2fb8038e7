/*
 * claim_store.c
 *	  Checking payloads in.
 *
 * A payload goes into a large object frame by frame, as it comes; what is in memory is one frame.  Behind the frames is their table, see
 * claim_frames.h.  A payload that is stored already is not written again, and one that has only been found to be stored when its last byte
 * was read is removed again, in the same transaction.
 */
#include "postgres.h"

#include "access/xact.h"
#include "commands/sequence.h"
#include "common/cryptohash.h"
#include "common/sha2.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/snapmgr.h"

#include "catalogue/own_table.h"
#include "claim/claim_frames.h"
#include "claim/claim_internal.h"
#include "compat/compat.h"
#include "util/stop_point.h"

struct ClaimWriter
{
	MemoryContext context;
	PenstockClaimOptions options;
	pg_cryptohash_ctx *digest;
	int64		size;
	char	   *frame;			/* CLAIM_FRAME bytes, if more than one call comes */
	uint32		filled;
	ClaimPages *pages;			/* NULL: nothing written yet */
	ClaimDictionary *dictionary;
	int32		dictionary_id;
	int			level;
	int64		nframes;
	int			nblock;			/* entries of the block that is being filled */
	ClaimEntry	block[CLAIM_BLOCK];
	ClaimBlock *blocks;
	int			nblocks;
	ClaimFrame	only;			/* the frame of a payload that has just one, not yet written */
	bool		has_only;
};

/* ---- digests ---- */

static void
digest_failed(pg_cryptohash_ctx *digest)
{
	ereport(ERROR,
			(errcode(ERRCODE_INTERNAL_ERROR),
			 errmsg("could not compute SHA-256: %s", pg_cryptohash_error(digest))));
}

pg_cryptohash_ctx *
penstock_claim_digest_begin(ResourceOwner owner)
{
	ResourceOwner current = CurrentResourceOwner;
	pg_cryptohash_ctx *digest;

	CurrentResourceOwner = owner;
	digest = pg_cryptohash_create(PG_SHA256);
	CurrentResourceOwner = current;
	if (digest == NULL)
		ereport(ERROR, (errcode(ERRCODE_OUT_OF_MEMORY), errmsg("out of memory")));
	if (pg_cryptohash_init(digest) < 0)
		digest_failed(digest);
	return digest;
}

void
penstock_claim_digest_add(pg_cryptohash_ctx *digest, const char *data, Size length)
{
	if (pg_cryptohash_update(digest, (const uint8 *) data, length) < 0)
		digest_failed(digest);
}

void
penstock_claim_digest_end(pg_cryptohash_ctx *digest, uint8 *result)
{
	if (pg_cryptohash_final(digest, result, PENSTOCK_CLAIM_DIGEST) < 0)
		digest_failed(digest);
	pg_cryptohash_free(digest);
}

/* ---- writing ---- */

static void
prepare(ClaimWriter *writer, const PenstockClaimOptions *options)
{
	memset(writer, 0, offsetof(ClaimWriter, block));
	writer->blocks = NULL;
	writer->nblocks = 0;
	writer->has_only = false;
	writer->context = CurrentMemoryContext;
	writer->options = *options;
	writer->level = options->level;
	if (options->class_name)
		writer->dictionary = penstock_claim_class_dictionary(options->class_name, &writer->dictionary_id, &writer->level);
	if (writer->level == 0)
		writer->level = penstock_claim_level;
	if (options->expires_at != 0 && options->expires_at <= GetCurrentTimestamp())
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("a claim cannot expire in the past")));
}

ClaimWriter *
penstock_claim_writer_create(MemoryContext context, const PenstockClaimOptions *options)
{
	MemoryContext old = MemoryContextSwitchTo(context);
	ClaimWriter *writer = palloc(sizeof(ClaimWriter));

	prepare(writer, options);
	/* a writer may be open over several statements */
	writer->digest = penstock_claim_digest_begin(TopTransactionResourceOwner);
	writer->frame = palloc(CLAIM_FRAME);
	MemoryContextSwitchTo(old);
	return writer;
}

/* A full block of entries goes behind the frames it is about. */
static void
write_block(ClaimWriter *writer)
{
	MemoryContext old = MemoryContextSwitchTo(writer->context);
	ClaimBlock *block;

	if (writer->nblock == 0)
	{
		MemoryContextSwitchTo(old);
		return;
	}
	writer->blocks = writer->blocks ? repalloc(writer->blocks, (writer->nblocks + 1) * sizeof(ClaimBlock)) : palloc(sizeof(ClaimBlock));
	block = &writer->blocks[writer->nblocks++];
	block->offset = penstock_claim_pages_length(writer->pages);
	block->count = writer->nblock;
	block->crc = penstock_claim_crc((char *) writer->block, writer->nblock * sizeof(ClaimEntry));
	penstock_claim_pages_append(writer->pages, (char *) writer->block, writer->nblock * sizeof(ClaimEntry));
	writer->nblock = 0;
	MemoryContextSwitchTo(old);
}

static void
write_frame(ClaimWriter *writer, const ClaimFrame *frame)
{
	ClaimEntry *entry;

	if (writer->pages == NULL)
		writer->pages = penstock_claim_pages_create(writer->context);
	entry = &writer->block[writer->nblock++];
	entry->place = CLAIM_PLACE(penstock_claim_pages_length(writer->pages), frame->codec);
	entry->length = frame->length;
	entry->crc = frame->crc;
	penstock_claim_pages_append(writer->pages, frame->data, frame->length);
	writer->nframes++;
	if (writer->nblock == CLAIM_BLOCK)
		write_block(writer);
}

static void
write_raw(ClaimWriter *writer, const char *raw, uint32 length)
{
	ClaimFrame	frame;

	penstock_claim_compress(raw, length, writer->level, writer->dictionary, &frame);
	write_frame(writer, &frame);
	CHECK_FOR_INTERRUPTS();
}

/* Table and footer; returns how many bytes the object has. */
static int64
write_end(ClaimWriter *writer, Oid *loid)
{
	ClaimFooter footer = {0};

	write_block(writer);
	memcpy(footer.magic, CLAIM_MAGIC, sizeof(footer.magic));
	footer.size = writer->size;
	footer.root = penstock_claim_pages_length(writer->pages);
	footer.nframes = writer->nframes;
	footer.frame_size = CLAIM_FRAME;
	footer.dictionary = writer->dictionary_id;
	footer.nblocks = writer->nblocks;
	footer.root_crc = penstock_claim_crc((char *) writer->blocks, writer->nblocks * sizeof(ClaimBlock));
	footer.crc = penstock_claim_crc((char *) &footer, offsetof(ClaimFooter, crc));
	penstock_claim_pages_append(writer->pages, (char *) writer->blocks, writer->nblocks * sizeof(ClaimBlock));
	penstock_claim_pages_append(writer->pages, (char *) &footer, sizeof(footer));
	return penstock_claim_pages_finish(writer->pages, loid);
}

static void
check_size(int64 size, Size more)
{
	if (more > (uint64) (PENSTOCK_CLAIM_MAX_SIZE - size))
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("a payload has more than 4 TB")));
}

void
penstock_claim_writer_append(ClaimWriter *writer, const char *data, Size length)
{
	check_size(writer->size, length);
	penstock_claim_digest_add(writer->digest, data, length);
	writer->size += length;
	while (length > 0)
	{
		Size		n = Min(length, CLAIM_FRAME - writer->filled);

		/* a full frame waits for one more byte: a payload of one frame may be kept in its row */
		if (n == 0)
		{
			write_raw(writer, writer->frame, CLAIM_FRAME);
			writer->filled = 0;
			continue;
		}
		memcpy(writer->frame + writer->filled, data, n);
		writer->filled += n;
		data += n;
		length -= n;
	}
}

/* Is the payload stored already?  Then it is used once more. */
static bool
use_stored(const PenstockClaim *claim, TimestampTz expires_at, bool *locked_out)
{
	ClaimObject object;
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	bool		found = penstock_claim_object_find(claim, snapshot, &object);

	UnregisterSnapshot(snapshot);
	*locked_out = found && !penstock_claim_object_reuse(&object, expires_at);
	if (!found || *locked_out)
		return false;
	(void) nextval_internal(penstock_own_table_oid("claim_deduplicated"), false);
	return true;
}

/* Writes the row, and the one frame that is not written yet (raw, length). */
static void
write_object(ClaimWriter *writer, const PenstockClaim *claim, const char *raw, uint32 length, bool duplicate)
{
	ClaimObject object = {0};

	object.claim = *claim;
	object.owner = penstock_claim_owner_id(GetUserId());
	object.stored_at = GetCurrentTimestamp();
	object.expires_at = writer->options.expires_at;
	object.duplicate = duplicate;
	if (writer->pages == NULL)
	{
		ClaimFrame	frame;

		penstock_claim_compress(raw, length, writer->level, writer->dictionary, &frame);
		if (frame.length + CLAIM_INLINE_HEADER <= CLAIM_INLINE)
		{
			object.dictionary = frame.codec == CLAIM_PLAIN ? 0 : writer->dictionary_id;
			object.stored = frame.length + CLAIM_INLINE_HEADER;
			object.inline_data = palloc(object.stored);
			object.inline_data[0] = frame.codec;
			memcpy(object.inline_data + 1, &frame.crc, sizeof(frame.crc));
			memcpy(object.inline_data + CLAIM_INLINE_HEADER, frame.data, frame.length);
		}
		else
			write_frame(writer, &frame);
	}
	else if (length > 0)
		write_raw(writer, raw, length);
	if (object.inline_data == NULL)
	{
		object.dictionary = writer->dictionary_id;
		object.stored = write_end(writer, &object.loid);
	}
	PENSTOCK_STOP_POINT(claim_after_pages);
	penstock_claim_object_insert(&object);
}

void
penstock_claim_writer_finish(ClaimWriter *writer, PenstockClaim *claim)
{
	uint8		digest[PENSTOCK_CLAIM_DIGEST];
	bool		locked_out = false;
	bool		alone;

	penstock_claim_digest_end(writer->digest, digest);
	writer->digest = NULL;
	penstock_claim_make(claim, digest, writer->size);
	alone = penstock_claim_begin_store(claim);
	if (!use_stored(claim, writer->options.expires_at, &locked_out))
		write_object(writer, claim, writer->frame, writer->filled, !alone || locked_out);
	else
		penstock_claim_writer_undo(writer);	/* it was written for nothing */
	penstock_claim_note_stored(claim);
}

void
penstock_claim_writer_undo(ClaimWriter *writer)
{
	Oid			loid;

	if (writer->pages == NULL)
		return;
	(void) penstock_claim_pages_finish(writer->pages, &loid);
	CommandCounterIncrement();
	if (OidIsValid(loid))
		penstock_claim_pages_drop(loid);
}

void
penstock_claim_writer_abandon(ClaimWriter *writer)
{
	if (writer->digest != NULL)
		pg_cryptohash_free(writer->digest);
	writer->digest = NULL;
}

void
penstock_claim_store(const char *payload, int64 length, const PenstockClaimOptions *options, PenstockClaim *claim)
{
	uint8		digest[PENSTOCK_CLAIM_DIGEST];
	pg_cryptohash_ctx *context;
	bool		locked_out = false;
	bool		alone;

	check_size(0, length);
	context = penstock_claim_digest_begin(CurrentResourceOwner);
	penstock_claim_digest_add(context, payload, length);
	penstock_claim_digest_end(context, digest);
	penstock_claim_make(claim, digest, length);
	/* mostly there is no need to know who else is storing it */
	if (!use_stored(claim, options->expires_at, &locked_out))
	{
		alone = penstock_claim_begin_store(claim);
		if (locked_out || !use_stored(claim, options->expires_at, &locked_out))
		{
			MemoryContext work = AllocSetContextCreate(CurrentMemoryContext, "penstock claim", ALLOCSET_DEFAULT_SIZES);
			MemoryContext old = MemoryContextSwitchTo(work);
			ClaimWriter *writer = palloc(sizeof(ClaimWriter));

			prepare(writer, options);
			writer->size = length;
			while (length > CLAIM_FRAME)
			{
				write_raw(writer, payload, CLAIM_FRAME);
				payload += CLAIM_FRAME;
				length -= CLAIM_FRAME;
			}
			write_object(writer, claim, payload, length, !alone || locked_out);
			MemoryContextSwitchTo(old);
			MemoryContextDelete(work);
		}
	}
	penstock_claim_note_stored(claim);
}
