/*
 * claim_fetch.c
 *	  Reading stored payloads: all of one, or a range without the rest.
 *
 * The object is looked up as the statement sees the database, so that what a repeatable read transaction holds a ticket of is there as long as
 * its snapshot, and then as it is now.  Nothing that is read is believed before it was checked: sizes and offsets against those of the object,
 * bytes against their checksums, and a frame is never decompressed beyond the size it must have.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/snapmgr.h"

#include "claim/claim_frames.h"
#include "claim/claim_functions.h"
#include "claim/claim_internal.h"
#include "compat/compat.h"

struct ClaimReader
{
	MemoryContext context;
	ClaimObject object;
	Snapshot	snapshot;
	ResourceOwner owner;		/* of the snapshot; NULL: the current one */
	int64		size;
	ClaimFooter footer;
	ClaimDictionary *dictionary;
	ClaimBlock *blocks;
	ClaimEntry *entries;		/* of one block */
	int64		block;			/* which; -1: none */
	char	   *stored;			/* room for a stored frame */
	Size		stored_room;
	char	   *frame;			/* the payload of one frame */
	int64		frame_number;	/* which; -1: none */
};

static void
read_stored(ClaimReader *reader, int64 from, char *data, Size length)
{
	const ClaimObject *object = &reader->object;

	if (from < 0 || length > object->stored || from > object->stored - (int64) length)
		penstock_claim_damaged(&object->claim, "It is said to have something where its large object %u has ended.", object->loid);
	if (!penstock_claim_pages_read(object->loid, reader->snapshot, from, data, length))
		penstock_claim_damaged(&object->claim, "Bytes are missing in large object %u.", object->loid);
}

static bool
is_footer(const ClaimFooter *footer)
{
	return memcmp(footer->magic, CLAIM_MAGIC, sizeof(footer->magic)) == 0 &&
		footer->crc == penstock_claim_crc((const char *) footer, offsetof(ClaimFooter, crc));
}

/*
 * penstock_claim_object_is_ours: is the large object of a row what the row says?  Numbers of large objects mean nothing in another database, and
 * rows can come from there, as by replication of all tables.
 */
bool
penstock_claim_object_is_ours(const ClaimObject *object)
{
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	ClaimFooter footer;
	bool		ours = object->stored >= (int64) sizeof(footer) &&
		penstock_claim_pages_read(object->loid, snapshot, object->stored - sizeof(footer), (char *) &footer, sizeof(footer)) &&
		is_footer(&footer) && footer.size == penstock_claim_size(&object->claim);

	UnregisterSnapshot(snapshot);
	return ours;
}

/* The footer and the root of the table of frames. */
static void
read_footer(ClaimReader *reader)
{
	const PenstockClaim *claim = &reader->object.claim;
	ClaimFooter *footer = &reader->footer;
	uint64		nframes;

	if (reader->object.stored < (int64) sizeof(ClaimFooter))
		penstock_claim_damaged(claim, "Large object %u is too short.", reader->object.loid);
	read_stored(reader, reader->object.stored - sizeof(ClaimFooter), (char *) footer, sizeof(ClaimFooter));
	if (!is_footer(footer))
		penstock_claim_damaged(claim, "Large object %u has no valid footer.", reader->object.loid);
	nframes = footer->frame_size == 0 ? 0 : ((uint64) reader->size + footer->frame_size - 1) / footer->frame_size;
	if (footer->size != reader->size || footer->frame_size == 0 || footer->frame_size > CLAIM_MAX_FRAME ||
		footer->nframes != nframes || footer->nblocks != (nframes + CLAIM_BLOCK - 1) / CLAIM_BLOCK ||
		footer->dictionary != reader->object.dictionary ||
		footer->root != reader->object.stored - sizeof(ClaimFooter) - footer->nblocks * sizeof(ClaimBlock))
		penstock_claim_damaged(claim, "The footer of large object %u does not fit the claim.", reader->object.loid);
	reader->blocks = MemoryContextAllocHuge(reader->context, Max(footer->nblocks, 1) * sizeof(ClaimBlock));
	read_stored(reader, footer->root, (char *) reader->blocks, footer->nblocks * sizeof(ClaimBlock));
	if (footer->root_crc != penstock_claim_crc((char *) reader->blocks, footer->nblocks * sizeof(ClaimBlock)))
		penstock_claim_damaged(claim, "The table of frames of large object %u is damaged.", reader->object.loid);
}

/* Looks the object up and checks the rights; an error that does not tell why if it is not there or not for this role. */
static void
look_up(ClaimReader *reader, const PenstockClaim *claim, bool proof)
{
	Snapshot	snapshot = ActiveSnapshotSet() ? GetActiveSnapshot() : GetTransactionSnapshot();
	bool		found;

	reader->snapshot = RegisterSnapshot(snapshot);
	found = penstock_claim_object_find(claim, reader->snapshot, &reader->object);
	if (!found)
	{
		UnregisterSnapshot(reader->snapshot);
		reader->snapshot = RegisterSnapshot(GetLatestSnapshot());
		found = penstock_claim_object_find(claim, reader->snapshot, &reader->object);
	}
	if (!found || (reader->object.expires_at != 0 && reader->object.expires_at <= GetCurrentTimestamp()) ||
		(!proof && !penstock_claim_may_fetch(&reader->object)))
		penstock_claim_unknown(claim);
}

ClaimReader *
penstock_claim_reader_open(const PenstockClaim *claim, bool proof)
{
	ClaimReader *reader = palloc0(sizeof(ClaimReader));

	reader->context = CurrentMemoryContext;
	reader->block = reader->frame_number = -1;
	reader->size = penstock_claim_size(claim);
	look_up(reader, claim, proof);
	if (OidIsValid(reader->object.loid))
		read_footer(reader);
	else
		reader->footer.frame_size = Max(reader->size, 1);
	if (reader->footer.frame_size > CLAIM_MAX_FRAME)
		penstock_claim_damaged(claim, "A row is said to hold " INT64_FORMAT " bytes.", reader->size);
	if (reader->object.dictionary != 0)
		reader->dictionary = penstock_claim_dictionary(claim, reader->object.dictionary);
	return reader;
}

const ClaimObject *
penstock_claim_reader_object(ClaimReader *reader)
{
	return &reader->object;
}

int64
penstock_claim_reader_frames(ClaimReader *reader)
{
	return OidIsValid(reader->object.loid) ? reader->footer.nframes : reader->size > 0;
}

void
penstock_claim_reader_keep(ClaimReader *reader)
{
	Snapshot	kept = RegisterSnapshotOnOwner(reader->snapshot, TopTransactionResourceOwner);

	UnregisterSnapshot(reader->snapshot);
	reader->snapshot = kept;
	reader->owner = TopTransactionResourceOwner;
}

void
penstock_claim_reader_close(ClaimReader *reader)
{
	UnregisterSnapshotFromOwner(reader->snapshot, reader->owner ? reader->owner : CurrentResourceOwner);
	reader->snapshot = NULL;
}

/* ---- frames ---- */

static const ClaimEntry *
entry_of(ClaimReader *reader, int64 number)
{
	const PenstockClaim *claim = &reader->object.claim;
	int64		block = number / CLAIM_BLOCK;

	if (reader->block != block)
	{
		const ClaimBlock *b = &reader->blocks[block];
		uint32		count = Min(reader->footer.nframes - block * CLAIM_BLOCK, CLAIM_BLOCK);

		if (b->count != count)
			penstock_claim_damaged(claim, "The table of frames of large object %u is damaged.", reader->object.loid);
		if (reader->entries == NULL)
			reader->entries = MemoryContextAlloc(reader->context, Min(reader->footer.nframes, CLAIM_BLOCK) * sizeof(ClaimEntry));
		reader->block = -1;
		read_stored(reader, b->offset, (char *) reader->entries, count * sizeof(ClaimEntry));
		if (b->crc != penstock_claim_crc((char *) reader->entries, count * sizeof(ClaimEntry)))
			penstock_claim_damaged(claim, "The table of frames of large object %u is damaged.", reader->object.loid);
		reader->block = block;
	}
	return &reader->entries[number % CLAIM_BLOCK];
}

static uint32
frame_length(ClaimReader *reader, int64 number)
{
	return Min((int64) reader->footer.frame_size, reader->size - number * reader->footer.frame_size);
}

/* The frame as it is stored. */
static void
stored_frame(ClaimReader *reader, int64 number, ClaimFrame *frame)
{
	const ClaimObject *object = &reader->object;
	const ClaimEntry *entry;

	if (!OidIsValid(object->loid))
	{
		if (object->stored < CLAIM_INLINE_HEADER)
			penstock_claim_damaged(&object->claim, "Its row is too short.");
		frame->codec = (ClaimCodec) object->inline_data[0];
		memcpy(&frame->crc, object->inline_data + 1, sizeof(frame->crc));
		frame->data = object->inline_data + CLAIM_INLINE_HEADER;
		frame->length = object->stored - CLAIM_INLINE_HEADER;
		return;
	}
	entry = entry_of(reader, number);
	/* a frame that is longer than what it stands for was stored plain */
	if (entry->length > reader->footer.frame_size)
		penstock_claim_damaged(&object->claim, "A frame is said to have %u bytes.", entry->length);
	if (reader->stored_room < entry->length)
	{
		if (reader->stored)
			pfree(reader->stored);
		reader->stored_room = 0;
		reader->stored = MemoryContextAllocHuge(reader->context, entry->length);
		reader->stored_room = entry->length;
	}
	read_stored(reader, CLAIM_OFFSET(entry->place), reader->stored, entry->length);
	frame->codec = CLAIM_CODEC(entry->place);
	frame->data = reader->stored;
	frame->length = entry->length;
	frame->crc = entry->crc;
}

/* Decompresses a frame to where the caller wants it. */
static void
read_frame(ClaimReader *reader, int64 number, char *raw)
{
	ClaimFrame	frame;

	CHECK_FOR_INTERRUPTS();
	stored_frame(reader, number, &frame);
	penstock_claim_decompress(&reader->object.claim, &frame, reader->dictionary, raw, frame_length(reader, number));
}

Size
penstock_claim_reader_read(ClaimReader *reader, int64 from, char *data, Size length)
{
	Size		done = 0;

	if (from >= reader->size)
		return 0;
	length = Min(length, reader->size - from);
	while (done < length)
	{
		int64		number = (from + done) / reader->footer.frame_size;
		int64		begin = number * reader->footer.frame_size;
		uint32		there = frame_length(reader, number);
		Size		skip = from + done - begin;
		Size		n = Min(there - skip, length - done);

		if (n == there)
			read_frame(reader, number, data + done);
		else
		{
			if (reader->frame_number != number)
			{
				if (reader->frame == NULL)
					reader->frame = MemoryContextAllocHuge(reader->context, Min((int64) reader->footer.frame_size, reader->size));
				reader->frame_number = -1;
				read_frame(reader, number, reader->frame);
				reader->frame_number = number;
			}
			memcpy(data + done, reader->frame + skip, n);
		}
		done += n;
	}
	return done;
}

const char *
penstock_claim_reader_codec(ClaimReader *reader)
{
	ClaimFrame	frame;

	if (reader->object.dictionary != 0)
		return "zstd with dictionary";
	if (reader->size == 0)
		return "plain";
	stored_frame(reader, 0, &frame);
	return frame.codec == CLAIM_ZSTD ? "zstd" : "plain";
}

/* ---- whole payloads ---- */

static void
compare_digest(const PenstockClaim *claim, const uint8 *digest)
{
	if (memcmp(claim->digest, digest, PENSTOCK_CLAIM_DIGEST) != 0)
		penstock_claim_damaged(claim, "The payload's digest is another one.");
}

void
penstock_claim_reader_verify(ClaimReader *reader)
{
	pg_cryptohash_ctx *context = penstock_claim_digest_begin(CurrentResourceOwner);
	uint8		digest[PENSTOCK_CLAIM_DIGEST];
	char	   *raw = MemoryContextAllocHuge(reader->context, Max(Min((int64) reader->footer.frame_size, reader->size), 1));

	for (int64 i = 0; i < penstock_claim_reader_frames(reader); i++)
	{
		read_frame(reader, i, raw);
		penstock_claim_digest_add(context, raw, frame_length(reader, i));
	}
	penstock_claim_digest_end(context, digest);
	pfree(raw);
	compare_digest(&reader->object.claim, digest);
}

/*
 * penstock_claim_read_all returns the payload as a bytea; ERRCODE_PROGRAM_LIMIT_EXCEEDED if it is longer than one can be.
 */
bytea *
penstock_claim_read_all(const PenstockClaim *claim, bool proof, bool verify)
{
	ClaimReader *reader = penstock_claim_reader_open(claim, proof);
	uint8		digest[PENSTOCK_CLAIM_DIGEST];
	bytea	   *result;

	if (reader->size > MaxAllocSize - VARHDRSZ)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("the payload of " INT64_FORMAT " bytes is too long for one value", reader->size),
				 errhint("Use penstock.claim_fetch_range(), penstock.claim_export() or penstock.claim_reader().")));
	result = palloc(reader->size + VARHDRSZ);
	SET_VARSIZE(result, reader->size + VARHDRSZ);
	(void) penstock_claim_reader_read(reader, 0, VARDATA(result), reader->size);
	penstock_claim_reader_close(reader);
	if (verify)
	{
		pg_cryptohash_ctx *context = penstock_claim_digest_begin(CurrentResourceOwner);

		penstock_claim_digest_add(context, VARDATA(result), reader->size);
		penstock_claim_digest_end(context, digest);
		compare_digest(claim, digest);
	}
	return result;
}

bytea *
penstock_claim_fetch(const PenstockClaim *claim)
{
	return penstock_claim_read_all(claim, false, true);
}
