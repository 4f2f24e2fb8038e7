/*
 * view_progress.c
 *	  How far a fill or rebuild has come: penstock.stat_fill.
 *
 * One slot for each of at most MAX_FILLS fills under way, in shared memory.  A slot is taken and given back under the
 * lock; in between only its owner writes "done".  A fill that finds no slot is not shown.
 */
#include "postgres.h"

#include "access/table.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "port/atomics.h"
#include "storage/ipc.h"
#include "storage/lwlock.h"
#include "storage/shmem.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

#include "view/view_internal.h"

#define MAX_FILLS 64

typedef struct FillSlot
{
	int			pid;			/* 0: free; lock */
	Oid			dboid;			/* lock */
	Oid			relid;			/* lock */
	TimestampTz started;		/* lock */
	int64		total;			/* events to be read; lock */
	pg_atomic_uint64 done;		/* events read; written by the owner */
} FillSlot;

typedef struct FillTable
{
	LWLock	   *lock;			/* set at startup */
	FillSlot	slots[MAX_FILLS];
} FillTable;

PG_FUNCTION_INFO_V1(penstock_stat_fill_rows);

static FillTable *fills;
static FillSlot *mine;
static shmem_request_hook_type next_shmem_request_hook;
static shmem_startup_hook_type next_shmem_startup_hook;

static void
request_memory(void)
{
	if (next_shmem_request_hook)
		next_shmem_request_hook();
	RequestAddinShmemSpace(sizeof(FillTable));
	RequestNamedLWLockTranche("penstock fills", 1);
}

static void
start_memory(void)
{
	bool		found;

	if (next_shmem_startup_hook)
		next_shmem_startup_hook();
	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	fills = ShmemInitStruct("penstock fills", sizeof(FillTable), &found);
	if (!found)
	{
		memset(fills, 0, sizeof(FillTable));
		fills->lock = &GetNamedLWLockTranche("penstock fills")->lock;
		for (int i = 0; i < MAX_FILLS; i++)
			pg_atomic_init_u64(&fills->slots[i].done, 0);
	}
	LWLockRelease(AddinShmemInitLock);
}

/*
 * penstock_view_progress_init asks for shared memory; from penstock_view_init.
 */
void
penstock_view_progress_init(void)
{
	next_shmem_request_hook = shmem_request_hook;
	shmem_request_hook = request_memory;
	next_shmem_startup_hook = shmem_startup_hook;
	shmem_startup_hook = start_memory;
}

static void
count_events(int nrows)
{
	if (mine)
		pg_atomic_fetch_add_u64(&mine->done, nrows);
}

static int64
events_of(List *streams)
{
	int64		result = 0;
	ListCell   *lc;

	foreach(lc, streams)
	{
		Relation	rel = table_open(lfirst_oid(lc), NoLock);
		PenstockDirectoryScan *scan = penstock_directory_begin(rel, GetActiveSnapshot(), NULL);
		PenstockDirectoryEntry entry;

		while (penstock_directory_next(scan, &entry))
			result += entry.info.nrows;
		penstock_directory_end(scan);
		table_close(rel, NoLock);
	}
	return result;
}

static void
release(int code, Datum arg)
{
	penstock_view_progress_end();
}

/*
 * penstock_view_progress_begin shows a fill of the view until penstock_view_progress_end, the end of the transaction
 * or of the process.
 */
void
penstock_view_progress_begin(Oid relid, List *streams)
{
	static bool registered = false;
	int64		total = events_of(streams);

	penstock_view_progress_end();
	if (!registered)
	{
		before_shmem_exit(release, (Datum) 0);
		registered = true;
	}
	LWLockAcquire(fills->lock, LW_EXCLUSIVE);
	for (int i = 0; i < MAX_FILLS && mine == NULL; i++)
		if (fills->slots[i].pid == 0)
			mine = &fills->slots[i];
	if (mine)
	{
		mine->pid = MyProcPid;
		mine->dboid = MyDatabaseId;
		mine->relid = relid;
		mine->started = GetCurrentTimestamp();
		mine->total = total;
		pg_atomic_write_u64(&mine->done, 0);
	}
	LWLockRelease(fills->lock);
	penstock_delta_on_fill(count_events);
}

void
penstock_view_progress_end(void)
{
	if (mine == NULL)
		return;
	LWLockAcquire(fills->lock, LW_EXCLUSIVE);
	mine->pid = 0;
	LWLockRelease(fills->lock);
	mine = NULL;
}

/*
 * penstock.stat_fill_rows() → setof (pid, view oid, started_at, events_total, events_done): fills and rebuilds under
 * way in this database.
 */
Datum
penstock_stat_fill_rows(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;

	InitMaterializedSRF(fcinfo, 0);
	LWLockAcquire(fills->lock, LW_SHARED);
	for (int i = 0; i < MAX_FILLS; i++)
	{
		FillSlot   *slot = &fills->slots[i];
		bool		nulls[5] = {false};
		Datum		values[5] = {
			Int32GetDatum(slot->pid), ObjectIdGetDatum(slot->relid),
			TimestampTzGetDatum(slot->started), Int64GetDatum(slot->total),
			Int64GetDatum((int64) pg_atomic_read_u64(&slot->done))
		};

		if (slot->pid != 0 && slot->dboid == MyDatabaseId)
			tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
	}
	LWLockRelease(fills->lock);
	return (Datum) 0;
}
