/*
 * postgres_spool.c
 *	  The file of an initial copy.
 *
 * The problem.  The rows of a table and the changes that follow fit together only if the rows are read under the snapshot that the slot
 * exported when it was made.  That snapshot dies with the connection.  A table does not fit into one batch, so batches with copied rows are
 * committed one after the other; if the pipe then dies half way, the rest can never be read under that snapshot again, and reading it under
 * another one would miss or repeat what changed in between.
 *
 * So nothing is given before everything is here: the tables are first copied, under the slot's snapshot, into this file, and given from it.
 *
 *	1.	NAME.part is written with a header that names the slot, and synced.  Then the slot is made, then the tables are copied into the file.
 *	2.	The file is synced and renamed to NAME.copy.  A crash before that: nothing has been given.  The slot is dropped and all starts over;
 *		that it was ours to drop is known by the header.
 *	3.	Rows are given from NAME.copy.  The place of a row is the offset in the file behind it (partition "copy"), that of the last
 *		one is the largest number.  A crash: the file is read on from the committed place.
 *	4.	When the last row is acknowledged, so durable, the file is removed.  The place "copy" at the largest number, or any place of the changes, says that
 *		there is nothing to copy any more.
 *
 * As long as nothing has been committed, the file also says that the slot belongs to it: copied rows, if any, and changes are then given from the start.
 *
 *	header	"PSCOPY01"  slot:64 (padded with zeros)  lsn:8 (host order, like the rest: the file does not travel)
 *	then	length:4  message ...		Relation messages of all tables first, then Insert messages
 */
#include "postgres.h"

#include <sys/stat.h>
#include <unistd.h>

#include "common/file_perm.h"
#include "storage/fd.h"
#include "utils/wait_event.h"

#include "compat/compat.h"
#include "connector/postgres/postgres_connector.h"

#define SPOOL_FOLDER	"penstock_copy"
#define MAGIC			"PSCOPY01"
#define BUFFER_SIZE		(128 * 1024)

typedef struct SpoolHeader
{
	char		magic[8];
	char		slot[NAMEDATALEN];
	XLogRecPtr	lsn;
} SpoolHeader;

struct PostgresSpool
{
	char		part[MAXPGPATH];
	char		copy[MAXPGPATH];
	SpoolHeader header;
	File		file;			/* -1: not open */
	off_t		at;				/* in the file: where the buffer goes to, or what follows it */
	off_t		size;			/* when reading */
	off_t		jump;			/* behind the descriptions of the tables, read on there; 0: no */
	StringInfoData buffer;
	int			used;			/* bytes of the buffer that have been read out */
};

PostgresSpool *
penstock_postgres_spool_create(const char *consumer, const char *slot)
{
	PostgresSpool *spool = palloc0(sizeof(PostgresSpool));

	snprintf(spool->part, sizeof(spool->part), SPOOL_FOLDER "/%s.part", consumer);
	snprintf(spool->copy, sizeof(spool->copy), SPOOL_FOLDER "/%s.copy", consumer);
	memcpy(spool->header.magic, MAGIC, sizeof(spool->header.magic));
	strlcpy(spool->header.slot, slot, sizeof(spool->header.slot));
	spool->file = -1;
	initStringInfo(&spool->buffer);
	return spool;
}

pg_noreturn static void
file_error(const char *what, const char *path)
{
	ereport(ERROR,
			(errcode_for_file_access(),
			 errmsg("could not %s file \"%s\": %m", what, path)));
}

static bool
open_file(PostgresSpool *spool, const char *path, int flags)
{
	penstock_postgres_spool_close(spool);
	spool->file = PathNameOpenFile(path, flags | PG_BINARY);
	if (spool->file < 0 && errno == ENOENT && (flags & O_CREAT) == 0)
		return false;
	if (spool->file < 0)
		file_error("open", path);
	return true;
}

/* Reads the header of a file, if it is one of this slot. */
static bool
read_header(PostgresSpool *spool, const char *path, SpoolHeader *header)
{
	bool		good;

	if (!open_file(spool, path, O_RDONLY))
		return false;
	good = FileRead(spool->file, (char *) header, sizeof(SpoolHeader), 0, WAIT_EVENT_BUFFILE_READ) == sizeof(SpoolHeader) &&
		memcmp(header->magic, spool->header.magic, sizeof(header->magic)) == 0 &&
		strncmp(header->slot, spool->header.slot, sizeof(header->slot)) == 0;
	penstock_postgres_spool_close(spool);
	return good;
}

void
penstock_postgres_spool_state(PostgresSpool *spool, PostgresSpoolState *state)
{
	SpoolHeader header = {.lsn = InvalidXLogRecPtr};

	memset(state, 0, sizeof(PostgresSpoolState));
	state->complete = read_header(spool, spool->copy, &header);
	state->begun = state->complete || read_header(spool, spool->part, &header);
	state->lsn = state->complete ? header.lsn : InvalidXLogRecPtr;
}

/* ---- writing ---- */

static void
write_bytes(PostgresSpool *spool, const void *bytes, int length, off_t at)
{
	errno = 0;
	if (FileWrite(spool->file, unconstify(void *, bytes), length, at, WAIT_EVENT_BUFFILE_WRITE) != length)
	{
		if (errno == 0)
			errno = ENOSPC;
		file_error("write", spool->part);
	}
}

static void
flush_buffer(PostgresSpool *spool)
{
	write_bytes(spool, spool->buffer.data, spool->buffer.len, spool->at);
	spool->at += spool->buffer.len;
	resetStringInfo(&spool->buffer);
}

static void
sync_file(PostgresSpool *spool)
{
	if (FileSync(spool->file, WAIT_EVENT_DATA_FILE_SYNC) != 0)
		file_error("fsync", spool->part);
}

/* Starts a new file; what there was is gone. */
void
penstock_postgres_spool_begin(PostgresSpool *spool)
{
	penstock_postgres_spool_remove(spool);
	if (MakePGDirectory(SPOOL_FOLDER) < 0 && errno != EEXIST)
		file_error("create", SPOOL_FOLDER);
	(void) open_file(spool, spool->part, O_RDWR | O_CREAT | O_TRUNC);
	spool->header.lsn = InvalidXLogRecPtr;
	write_bytes(spool, &spool->header, sizeof(SpoolHeader), 0);
	sync_file(spool);
	fsync_fname(SPOOL_FOLDER, true);
	spool->at = sizeof(SpoolHeader);
	resetStringInfo(&spool->buffer);
}

void
penstock_postgres_spool_lsn(PostgresSpool *spool, XLogRecPtr lsn)
{
	spool->header.lsn = lsn;
	write_bytes(spool, &spool->header, sizeof(SpoolHeader), 0);
}

void
penstock_postgres_spool_add(PostgresSpool *spool, const char *message, int length)
{
	uint32		size = length;

	appendBinaryStringInfo(&spool->buffer, (char *) &size, sizeof(size));
	appendBinaryStringInfo(&spool->buffer, message, length);
	if (spool->buffer.len >= BUFFER_SIZE)
		flush_buffer(spool);
}

/* Everything is in the file: from now on it counts. */
void
penstock_postgres_spool_complete(PostgresSpool *spool)
{
	flush_buffer(spool);
	sync_file(spool);
	penstock_postgres_spool_close(spool);
	(void) durable_rename(spool->part, spool->copy, ERROR);
}

/* ---- reading ---- */

void
penstock_postgres_spool_open(PostgresSpool *spool, int64 place)
{
	if (!open_file(spool, spool->copy, O_RDONLY))
		file_error("open", spool->copy);
	spool->size = FileSize(spool->file);
	spool->at = sizeof(SpoolHeader);
	spool->jump = place;
	resetStringInfo(&spool->buffer);
	spool->used = 0;
	if (place != 0 && (place < sizeof(SpoolHeader) || place > spool->size))
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("file \"%s\" does not reach to the place %lld", spool->copy, (long long) place)));
}

/* Makes so many bytes be in the buffer, behind what is used; false at the end of the file. */
static bool
fill_buffer(PostgresSpool *spool, int wanted)
{
	StringInfo	buffer = &spool->buffer;
	int			got;

	if (buffer->len - spool->used >= wanted)
		return true;
	memmove(buffer->data, buffer->data + spool->used, buffer->len - spool->used);
	buffer->len -= spool->used;
	spool->used = 0;
	enlargeStringInfo(buffer, Max(wanted, BUFFER_SIZE));
	while (buffer->len < wanted)
	{
		got = FileRead(spool->file, buffer->data + buffer->len, Max(wanted, BUFFER_SIZE) - buffer->len,
					   spool->at, WAIT_EVENT_BUFFILE_READ);
		if (got < 0)
			file_error("read", spool->copy);
		if (got == 0 && buffer->len == 0)
			return false;
		if (got == 0)
			ereport(ERROR,
					(errcode(ERRCODE_DATA_CORRUPTED),
					 errmsg("file \"%s\" ends in the middle of a row", spool->copy)));
		buffer->len += got;
		spool->at += got;
	}
	return true;
}

/* Where the buffer's first unused byte stands in the file. */
static int64
place_of_unused(const PostgresSpool *spool)
{
	return spool->at - (spool->buffer.len - spool->used);
}

const char *
penstock_postgres_spool_next(PostgresSpool *spool, int *length, int64 *place)
{
	uint32		size;
	const char *message;

	for (;;)
	{
		if (!fill_buffer(spool, sizeof(size)))
			return NULL;
		memcpy(&size, spool->buffer.data + spool->used, sizeof(size));
		if (size == 0 || size > spool->size)
			ereport(ERROR,
					(errcode(ERRCODE_DATA_CORRUPTED),
					 errmsg("file \"%s\" is damaged", spool->copy)));
		(void) fill_buffer(spool, sizeof(size) + size);
		message = spool->buffer.data + spool->used + sizeof(size);
		if (spool->jump == 0 || *message == 'R')
			break;
		spool->at = spool->jump;
		spool->jump = 0;
		spool->used = 0;
		resetStringInfo(&spool->buffer);
	}
	spool->used += sizeof(size) + size;
	*length = size;
	*place = place_of_unused(spool);
	if (*place >= spool->size)
		*place = PG_INT64_MAX;
	return message;
}

/* ---- the end ---- */

void
penstock_postgres_spool_close(PostgresSpool *spool)
{
	if (spool->file >= 0)
		FileClose(spool->file);
	spool->file = -1;
}

void
penstock_postgres_spool_remove(PostgresSpool *spool)
{
	penstock_postgres_spool_close(spool);
	if ((unlink(spool->part) != 0 && errno != ENOENT) ||
		(unlink(spool->copy) != 0 && errno != ENOENT))
		file_error("remove", spool->copy);
}
