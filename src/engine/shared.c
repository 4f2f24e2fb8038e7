/*
 * shared.c
 *	  The engine's shared memory.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/proc.h"
#include "storage/procarray.h"
#include "storage/shmem.h"
#include "utils/timestamp.h"

#include "engine/shared.h"
#include "producer/producer.h"

/* Entries beyond these still work; they have no statistics. */
#define MAX_VIEW_STATS 2048
#define MAX_STREAM_STATS 2048

/* A server that crashes within so many ms after workers may start has crashed quickly. */
#define QUICK_CRASH 2000
/* Workers start 1 s after the first quick crash, then 2, 4 and 8 s. */
#define MAX_CRASHES 4

PenstockEngineShared *penstock_engine;
HTAB	   *penstock_view_stats;
HTAB	   *penstock_stream_stats;

static shmem_request_hook_type next_shmem_request_hook;
static shmem_startup_hook_type next_shmem_startup_hook;

static void
shared_request(void)
{
	if (next_shmem_request_hook)
		next_shmem_request_hook();

	RequestAddinShmemSpace(MAXALIGN(sizeof(PenstockEngineShared)));
	RequestAddinShmemSpace(hash_estimate_size(MAX_VIEW_STATS, sizeof(PenstockViewStat)));
	RequestAddinShmemSpace(hash_estimate_size(MAX_STREAM_STATS, sizeof(PenstockStreamStat)));
	RequestNamedLWLockTranche("penstock engine", 1);
}

/*
 * When workers may start.  A worker that crashes takes the server down with it; should one do so each
 * time it starts, the pauses leave the time to do something about it.  What is remembered here is
 * remembered by the postmaster, which makes shared memory anew after a crash.
 */
static TimestampTz
next_start(void)
{
	static TimestampTz last_start;
	static int	crashes;
	TimestampTz now = GetCurrentTimestamp();

	if (last_start != 0 &&
		!TimestampDifferenceExceeds(last_start, now, QUICK_CRASH))
		crashes = Min(crashes + 1, MAX_CRASHES);
	else
		crashes = 0;
	last_start = crashes == 0 ? now : TimestampTzPlusMilliseconds(now, 500L << crashes);
	return last_start;
}

static void
shared_startup(void)
{
	bool		found;
	HASHCTL		ctl = {0};

	if (next_shmem_startup_hook)
		next_shmem_startup_hook();

	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	penstock_engine = ShmemInitStruct("penstock engine", sizeof(PenstockEngineShared), &found);
	if (!found)
	{
		memset(penstock_engine, 0, sizeof(PenstockEngineShared));
		penstock_engine->lock = &GetNamedLWLockTranche("penstock engine")->lock;
		penstock_engine->stats_reset = GetCurrentTimestamp();
		penstock_engine->start_after = next_start();
		for (int i = 0; i < PENSTOCK_MAX_SLOTS; i++)
			ConditionVariableInit(&penstock_engine->slots[i].caught_up);
	}
	ctl.keysize = sizeof(PenstockStatKey);
	ctl.entrysize = sizeof(PenstockViewStat);
	penstock_view_stats = ShmemInitHash("penstock view statistics", MAX_VIEW_STATS, MAX_VIEW_STATS,
										&ctl, HASH_ELEM | HASH_BLOBS);
	ctl.entrysize = sizeof(PenstockStreamStat);
	penstock_stream_stats = ShmemInitHash("penstock stream statistics", MAX_STREAM_STATS,
										  MAX_STREAM_STATS, &ctl, HASH_ELEM | HASH_BLOBS);
	LWLockRelease(AddinShmemInitLock);
}

/*
 * penstock_engine_shared_init asks for the engine's shared memory.
 */
void
penstock_engine_shared_init(void)
{
	next_shmem_request_hook = shmem_request_hook;
	shmem_request_hook = shared_request;
	next_shmem_startup_hook = shmem_startup_hook;
	shmem_startup_hook = shared_startup;
}

/* Makes a free slot out of one, keeping its condition variable. */
static void
clear_slot(PenstockDatabase *database)
{
	ConditionVariable kept = database->caught_up;
	uint64		requested = database->requested;

	memset(database, 0, sizeof(PenstockDatabase));
	database->caught_up = kept;
	/* tickets are never given out twice */
	database->requested = database->done = requested;
}

/*
 * penstock_slot_find returns the slot of a pipe (InvalidOid: of the database's engine); if there is none, a new
 * one (create) or NULL.  NULL also when all slots are taken.  Caller holds the lock, exclusively to create.
 */
PenstockDatabase *
penstock_slot_find(Oid dboid, Oid pipe, bool create)
{
	PenstockDatabase *free_slot = NULL;

	for (int i = 0; i < PENSTOCK_MAX_SLOTS; i++)
	{
		PenstockDatabase *slot = &penstock_engine->slots[i];

		if (slot->dboid == dboid && slot->pipe == pipe)
			return slot;
		if (free_slot == NULL && !OidIsValid(slot->dboid))
			free_slot = slot;
	}
	if (!create || free_slot == NULL)
		return NULL;
	clear_slot(free_slot);
	free_slot->dboid = dboid;
	free_slot->pipe = pipe;
	return free_slot;
}

/*
 * penstock_database_find does so for the engine of a database.
 */
PenstockDatabase *
penstock_database_find(Oid dboid, bool create)
{
	return penstock_slot_find(dboid, InvalidOid, create);
}

/*
 * penstock_view_stat returns the statistics of a view of this database, made if need be; NULL if there
 * is no room.  Caller holds the lock exclusively.
 */
PenstockViewStat *
penstock_view_stat(Oid relid)
{
	PenstockStatKey key = {MyDatabaseId, relid};
	bool		found;
	PenstockViewStat *stat = hash_search(penstock_view_stats, &key, HASH_ENTER_NULL, &found);

	if (stat != NULL && !found)
	{
		memset(stat, 0, sizeof(PenstockViewStat));
		stat->key = key;
	}
	return stat;
}

/*
 * penstock_stream_stat does the same for a stream.
 */
PenstockStreamStat *
penstock_stream_stat(Oid relid)
{
	PenstockStatKey key = {MyDatabaseId, relid};
	bool		found;
	PenstockStreamStat *stat = hash_search(penstock_stream_stats, &key, HASH_ENTER_NULL, &found);

	if (stat != NULL && !found)
	{
		memset(stat, 0, sizeof(PenstockStreamStat));
		stat->key = key;
	}
	return stat;
}

/*
 * penstock_database_held tells whether somebody keeps the worker away.  A holder that is gone (its
 * backend died) holds no longer.  Caller holds the lock exclusively.
 */
bool
penstock_database_held(PenstockDatabase *database)
{
	bool		held = false;

	for (int i = 0; i < PENSTOCK_MAX_HOLDERS; i++)
	{
		if (database->holders[i] != 0 && BackendPidGetProc(database->holders[i]) == NULL)
			database->holders[i] = 0;
		if (database->holders[i] != 0)
			held = true;
	}
	return held;
}

/*
 * penstock_slot_held tells the same of the database of any slot: the engine's knows.
 */
bool
penstock_slot_held(PenstockDatabase *slot)
{
	PenstockDatabase *database = penstock_database_find(slot->dboid, false);

	return database != NULL && penstock_database_held(database);
}

/*
 * penstock_database_pids fills pids with the processes that serve a database.
 */
int
penstock_database_pids(Oid dboid, int *pids, int max)
{
	int			n = 0;

	for (int i = 0; i < PENSTOCK_MAX_SLOTS && n < max; i++)
		if (penstock_engine->slots[i].dboid == dboid && penstock_engine->slots[i].pid != 0)
			pids[n++] = penstock_engine->slots[i].pid;
	return n;
}

/*
 * penstock_database_wanted_away is the quick look of a worker whether it shall leave.  Caller holds the
 * lock.
 */
bool
penstock_database_wanted_away(const PenstockDatabase *database)
{
	for (int i = 0; i < PENSTOCK_MAX_HOLDERS; i++)
		if (database->holders[i] != 0)
			return true;
	return false;
}

/*
 * penstock_launcher_call wakes the launcher, and makes it look around once more if it is awake.  Caller
 * holds the lock exclusively.
 */
void
penstock_launcher_call(void)
{
	penstock_engine->launcher_called = true;
	if (penstock_engine->launcher)
		SetLatch(penstock_engine->launcher);
}

/*
 * penstock_engine_wake_launcher lets the launcher look around.
 */
void
penstock_engine_wake_launcher(void)
{
	LWLockAcquire(penstock_engine->lock, LW_EXCLUSIVE);
	penstock_launcher_call();
	LWLockRelease(penstock_engine->lock);
}

/*
 * penstock_engine_request asks for a worker for the database, now, whatever happened before.  If one
 * runs, nothing happens.
 */
void
penstock_engine_request(Oid dboid)
{
	PenstockDatabase *database;

	LWLockAcquire(penstock_engine->lock, LW_EXCLUSIVE);
	database = penstock_database_find(dboid, true);
	if (database != NULL)
	{
		if (database->state == PENSTOCK_WORKER_FREE)
			database->state = PENSTOCK_WORKER_WANTED;
		if (database->state == PENSTOCK_WORKER_WANTED)
			database->next_start = 0;
		/* it may have decided to go a moment ago */
		database->no_extension = false;
	}
	penstock_launcher_call();
	LWLockRelease(penstock_engine->lock);

	if (database == NULL)
		ereport(WARNING,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("penstock serves at most %d databases and pipes", PENSTOCK_MAX_SLOTS)));
}

bool
penstock_pipe_request(Oid dboid, Oid pipe)
{
	PenstockDatabase *slot;

	LWLockAcquire(penstock_engine->lock, LW_EXCLUSIVE);
	slot = penstock_slot_find(dboid, pipe, true);
	if (slot != NULL)
	{
		if (slot->state == PENSTOCK_WORKER_FREE)
			slot->state = PENSTOCK_WORKER_WANTED;
		/* it may have decided to go a moment ago */
		slot->no_extension = false;
	}
	penstock_launcher_call();
	LWLockRelease(penstock_engine->lock);
	return slot != NULL;
}

/* Wakes a pipe's worker; caller holds the lock. */
static void
wake_slot(PenstockDatabase *slot)
{
	PGPROC	   *proc = slot->pid != 0 ? BackendPidGetProc(slot->pid) : NULL;

	if (proc == NULL)
		return;
	slot->called = true;
	SetLatch(&proc->procLatch);
}

/*
 * penstock_pipe_slots_keep, see shared.h.
 */
void
penstock_pipe_slots_keep(Oid dboid, List *pipes)
{
	LWLockAcquire(penstock_engine->lock, LW_EXCLUSIVE);
	for (int i = 0; i < PENSTOCK_MAX_SLOTS; i++)
	{
		PenstockDatabase *slot = &penstock_engine->slots[i];

		if (slot->dboid == dboid && OidIsValid(slot->pipe) && slot->state <= PENSTOCK_WORKER_WANTED &&
			!list_member_oid(pipes, slot->pipe))
		{
			ConditionVariableBroadcast(&slot->caught_up);
			clear_slot(slot);
		}
		/* a worker whose pipe is gone finds out when it looks */
		else if (slot->dboid == dboid && OidIsValid(slot->pipe) && !list_member_oid(pipes, slot->pipe))
			wake_slot(slot);
	}
	LWLockRelease(penstock_engine->lock);
}

void
penstock_pipe_wake(Oid dboid, Oid pipe)
{
	PenstockDatabase *slot;

	LWLockAcquire(penstock_engine->lock, LW_EXCLUSIVE);
	slot = penstock_slot_find(dboid, pipe, false);
	if (slot != NULL)
		wake_slot(slot);
	LWLockRelease(penstock_engine->lock);
}

/* Removes the entries of a database from a hash whose entries begin with PenstockStatKey. */
static void
forget_stats(HTAB *stats, Oid dboid)
{
	HASH_SEQ_STATUS status;
	PenstockStatKey *key;

	hash_seq_init(&status, stats);
	while ((key = hash_seq_search(&status)) != NULL)
		if (key->dboid == dboid)
			hash_search(stats, key, HASH_REMOVE, NULL);
}

/*
 * penstock_engine_forget_database drops everything known of a database that is gone.
 */
void
penstock_engine_forget_database(Oid dboid)
{
	PenstockDatabase *database;

	LWLockAcquire(penstock_engine->lock, LW_EXCLUSIVE);
	for (int i = 0; i < PENSTOCK_MAX_SLOTS; i++)
	{
		database = &penstock_engine->slots[i];
		if (database->dboid != dboid || database->state > PENSTOCK_WORKER_WANTED)
			continue;
		ConditionVariableBroadcast(&database->caught_up);
		clear_slot(database);
	}
	forget_stats(penstock_view_stats, dboid);
	forget_stats(penstock_stream_stats, dboid);
	LWLockRelease(penstock_engine->lock);
	penstock_producer_stats_forget(dboid);
}
