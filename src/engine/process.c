/*
 * process.c
 *	  Begin and end of a worker process, an engine's or a pipe's.
 */
#include "postgres.h"

#ifdef __GLIBC__
#include <malloc.h>
#endif

#include "miscadmin.h"
#include "postmaster/bgworker.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "utils/guc.h"
#include "utils/timestamp.h"

#include "compat/compat.h"
#include "engine/internal.h"
#include "engine/process.h"
#include "stream/tail.h"

/* A worker that ran so long (ms) before it failed is started again after a second. */
#define STABLE_AFTER 60000
#define LONGEST_PAUSE 60

/* So many bytes that were freed are kept for what comes next. */
#define KEPT_MEMORY (32 * 1024 * 1024)

static PenstockDatabase *mine;

/*
 * What one batch frees the next one needs again.  Left to itself, glibc gives it back to the system in between: with a backlog of json messages
 * page faults were 15% of a pipe's time.
 */
static void
keep_memory(void)
{
#ifdef __GLIBC__
	(void) mallopt(M_MMAP_THRESHOLD, KEPT_MEMORY);
	(void) mallopt(M_TRIM_THRESHOLD, KEPT_MEMORY);
#endif
}

/* The process ends: what comes next is decided here, for every way to end. */
static void
worker_exit(int code, Datum arg)
{
	TimestampTz now = GetCurrentTimestamp();

	if (OidIsValid(MyDatabaseId))
		penstock_tail_listen(MyDatabaseId, NULL);

	LWLockAcquire(penstock_engine->lock, LW_EXCLUSIVE);
	if (mine->state == PENSTOCK_WORKER_RUNNING && mine->pid == MyProcPid)
	{
		mine->pid = 0;
		mine->pipe_stat.loaded = false;
		if (TimestampDifferenceExceeds(mine->started_at, now, STABLE_AFTER))
			mine->pause = 0;
		mine->pause = Min(Max(mine->pause * 2, 1), LONGEST_PAUSE);
		mine->next_start = TimestampTzPlusMilliseconds(now, mine->pause * 1000L);
		mine->state = PENSTOCK_WORKER_WANTED;
		mine->restarts++;
		if (penstock_slot_held(mine))
		{
			mine->pause = 0;
			mine->next_start = 0;
		}
		else if (mine->no_extension)
		{
			mine->state = PENSTOCK_WORKER_FREE;
			mine->pause = 0;
			mine->next_start = 0;
			/* a pipe keeps its slot, and what it counted, until it is dropped */
			if (!OidIsValid(mine->pipe))
				mine->dboid = InvalidOid;
		}
		ConditionVariableBroadcast(&mine->caught_up);
	}
	penstock_launcher_call();
	LWLockRelease(penstock_engine->lock);
}

/*
 * penstock_process_attach takes the slot that the launcher prepared and returns it; ends the process if it is not wanted any more.
 */
PenstockDatabase *
penstock_process_attach(int slot)
{
	Oid			dboid = InvalidOid;

	if (slot < 0 || slot >= PENSTOCK_MAX_SLOTS)
		proc_exit(0);
	keep_memory();
	mine = &penstock_engine->slots[slot];

	LWLockAcquire(penstock_engine->lock, LW_EXCLUSIVE);
	if (mine->state == PENSTOCK_WORKER_STARTING)
	{
		dboid = mine->dboid;
		mine->state = PENSTOCK_WORKER_RUNNING;
		mine->pid = MyProcPid;
		mine->pipe_stat.loaded = false;
		mine->started_at = GetCurrentTimestamp();
		/* it may start the next one now */
		penstock_launcher_call();
	}
	LWLockRelease(penstock_engine->lock);

	/* somebody gave it up in between */
	if (!OidIsValid(dboid))
		proc_exit(0);
	before_shmem_exit(worker_exit, (Datum) 0);

	/* whoever wants the worker away may have missed the process */
	LWLockAcquire(penstock_engine->lock, LW_EXCLUSIVE);
	if (penstock_slot_held(mine))
		dboid = InvalidOid;
	LWLockRelease(penstock_engine->lock);
	if (!OidIsValid(dboid))
		proc_exit(0);
	return mine;
}

/*
 * penstock_process_settings makes the worker's own settings; what a view's query or a pipe's statements need is set when they run.
 */
void
penstock_process_settings(const char *name, bool engine)
{
	char		work_mem_text[32];

	snprintf(work_mem_text, sizeof(work_mem_text), "%d", penstock_engine_work_mem);
	SetConfigOption("work_mem", work_mem_text, PGC_USERSET, PGC_S_SESSION);
	SetConfigOption("hash_mem_multiplier", "2.5", PGC_USERSET, PGC_S_SESSION);
#ifdef USE_LZ4
	/* states of some 2 kB are compressed again with each batch */
	SetConfigOption("default_toast_compression", "lz4", PGC_USERSET, PGC_S_SESSION);
#endif
	/* what an engine does can be done again */
	if (engine)
		SetConfigOption("synchronous_commit", "off", PGC_USERSET, PGC_S_SESSION);
	SetConfigOption("jit", "off", PGC_USERSET, PGC_S_SESSION);
	SetConfigOption("max_parallel_workers_per_gather", "0", PGC_USERSET, PGC_S_SESSION);
	SetConfigOption("statement_timeout", "0", PGC_USERSET, PGC_S_SESSION);
	SetConfigOption("idle_in_transaction_session_timeout", "0", PGC_USERSET, PGC_S_SESSION);
	/* since 17 */
	if (GetConfigOption("transaction_timeout", true, false) != NULL)
		SetConfigOption("transaction_timeout", "0", PGC_USERSET, PGC_S_SESSION);
	/* locks are taken conditionally; should a view's query wait for one, not for long */
	SetConfigOption("lock_timeout", engine ? "1s" : "0", PGC_USERSET, PGC_S_SESSION);
	SetConfigOption("default_transaction_read_only", "off", PGC_USERSET, PGC_S_SESSION);
	SetConfigOption("default_transaction_deferrable", "off", PGC_USERSET, PGC_S_SESSION);
	SetConfigOption("search_path", "pg_catalog, pg_temp", PGC_USERSET, PGC_S_SESSION);
	SetConfigOption("application_name", name, PGC_USERSET, PGC_S_SESSION);
	SetConfigOption("row_security", "on", PGC_USERSET, PGC_S_SESSION);
}

/*
 * penstock_process_leave marks that this worker leaves because it has nothing to do, unless somebody called meanwhile.
 */
void
penstock_process_leave(void)
{
	LWLockAcquire(penstock_engine->lock, LW_EXCLUSIVE);
	mine->no_extension = true;
	LWLockRelease(penstock_engine->lock);
}
