/*
 * postgres_spill.c
 *	  Transactions that are streamed while they run there: kept in temporary files until they commit.
 *
 * Each transaction has a file of its own, records one after the other: length:4 xid:4 message (type first, without the
 * xid).  A subtransaction that rolls back is noted, and left out when the file is read.  Descriptions of tables are read even then:
 * they say what the table looked like for whatever came after them, and they are sent once.
 */
#include "postgres.h"

#include "nodes/pg_list.h"
#include "storage/buffile.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"

#include "connector/postgres/postgres_connector.h"

typedef struct Streamed
{
	TransactionId xid;
	BufFile    *file;
	HTAB	   *aborted;		/* of TransactionId, NULL: none */
} Streamed;

struct PostgresSpill
{
	MemoryContext context;
	List	   *streamed;		/* all: few run at a time */
	Streamed   *current;		/* that is being received */
	Streamed   *reading;		/* that is being read back */
	StringInfoData record;
};

typedef struct RecordHeader
{
	uint32		length;			/* of the message */
	TransactionId xid;
} RecordHeader;

PostgresSpill *
penstock_postgres_spill_create(MemoryContext context)
{
	MemoryContext old = MemoryContextSwitchTo(context);
	PostgresSpill *spill = palloc0(sizeof(PostgresSpill));

	spill->context = context;
	initStringInfo(&spill->record);
	MemoryContextSwitchTo(old);
	return spill;
}

static Streamed *
find(const PostgresSpill *spill, TransactionId xid)
{
	ListCell   *lc;

	foreach(lc, spill->streamed)
		if (((Streamed *) lfirst(lc))->xid == xid)
			return lfirst(lc);
	return NULL;
}

static void
forget(PostgresSpill *spill, Streamed *streamed)
{
	spill->streamed = list_delete_ptr(spill->streamed, streamed);
	BufFileClose(streamed->file);
	if (streamed->aborted != NULL)
		hash_destroy(streamed->aborted);
	if (spill->current == streamed)
		spill->current = NULL;
	if (spill->reading == streamed)
		spill->reading = NULL;
	pfree(streamed);
}

void
penstock_postgres_spill_close(PostgresSpill *spill)
{
	ListCell   *lc;

	foreach(lc, spill->streamed)
		BufFileClose(((Streamed *) lfirst(lc))->file);
	spill->streamed = NIL;
	spill->current = spill->reading = NULL;
}

/* ---- writing ---- */

void
penstock_postgres_spill_start(PostgresSpill *spill, TransactionId xid)
{
	spill->current = find(spill, xid);
	if (spill->current == NULL)
	{
		MemoryContext old = MemoryContextSwitchTo(spill->context);
		Streamed   *streamed = palloc0(sizeof(Streamed));

		streamed->xid = xid;
		streamed->file = BufFileCreateTemp(true);
		spill->streamed = lappend(spill->streamed, streamed);
		spill->current = streamed;
		MemoryContextSwitchTo(old);
	}
}

void
penstock_postgres_spill_stop(PostgresSpill *spill)
{
	spill->current = NULL;
}

bool
penstock_postgres_spill_is_open(const PostgresSpill *spill)
{
	return spill->current != NULL;
}

void
penstock_postgres_spill_add(PostgresSpill *spill, TransactionId xid, char type, const char *message, int length)
{
	RecordHeader header = {length + 1, xid};
	MemoryContext old = MemoryContextSwitchTo(spill->context);	/* the file grows there */

	BufFileWrite(spill->current->file, &header, sizeof(header));
	BufFileWrite(spill->current->file, &type, 1);
	BufFileWrite(spill->current->file, unconstify(char *, message), length);
	MemoryContextSwitchTo(old);
}

void
penstock_postgres_spill_abort(PostgresSpill *spill, TransactionId xid, TransactionId subxid)
{
	Streamed   *streamed = find(spill, xid);

	if (streamed == NULL)
		return;
	if (xid == subxid)
		forget(spill, streamed);
	else
	{
		if (streamed->aborted == NULL)
		{
			HASHCTL		info = {.keysize = sizeof(TransactionId), .entrysize = sizeof(TransactionId), .hcxt = spill->context};

			streamed->aborted = hash_create("penstock aborted subtransactions", 16, &info, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
		}
		(void) hash_search(streamed->aborted, &subxid, HASH_ENTER, NULL);
	}
}

/* ---- reading ---- */

bool
penstock_postgres_spill_commit(PostgresSpill *spill, TransactionId xid)
{
	spill->reading = find(spill, xid);
	spill->current = NULL;
	if (spill->reading == NULL)
		return false;
	if (BufFileSeek(spill->reading->file, 0, 0, SEEK_SET) != 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not seek in the temporary file of a streamed transaction: %m")));
	return true;
}

/* Reads exactly that much; at the end of the file it is false, if that may be. */
static bool
read_bytes(PostgresSpill *spill, void *bytes, size_t length, bool may_end)
{
	size_t		got = BufFileRead(spill->reading->file, bytes, length);

	if (got == 0 && may_end)
		return false;
	if (got != length)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not read the temporary file of a streamed transaction: read %zu of %zu bytes", got, length)));
	return true;
}

/* Was it rolled back? */
static bool
was_aborted(const Streamed *streamed, TransactionId xid, char type)
{
	return streamed->aborted != NULL && type != 'R' && type != 'Y' &&
		hash_search(streamed->aborted, &xid, HASH_FIND, NULL) != NULL;
}

const char *
penstock_postgres_spill_next(PostgresSpill *spill, int *length)
{
	RecordHeader header;

	while (spill->reading != NULL)
	{
		if (!read_bytes(spill, &header, sizeof(header), true))
		{
			forget(spill, spill->reading);
			break;
		}
		resetStringInfo(&spill->record);
		enlargeStringInfo(&spill->record, header.length);
		(void) read_bytes(spill, spill->record.data, header.length, false);
		if (was_aborted(spill->reading, header.xid, spill->record.data[0]))
			continue;
		*length = header.length;
		return spill->record.data;
	}
	return NULL;
}
