/*
 * engine.c
 *	  Settings of the engine, its start, and the call to it at commit.
 */
#include "postgres.h"

#include <limits.h>

#include "access/xact.h"
#include "catalog/objectaccess.h"
#include "catalog/pg_extension.h"
#include "commands/extension.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/guc.h"
#include "utils/resowner.h"

#include "compat/compat.h"
#include "engine/engine.h"
#include "engine/internal.h"
#include "engine/shared.h"
#include "stream/tail.h"
#include "util/engine_call.h"
#include "util/stop_point.h"
#include "util/utility_hook.h"

int			penstock_batch_rows = 1000000;
int			penstock_batch_pause = 4;
int			penstock_engine_work_mem = 65536;

/* This transaction wants the engine to look around when it commits. */
static bool notify_at_commit;
/* ... or the launcher to look at the list of databases. */
static bool look_at_commit;

static void notify(void);

static const PenstockEngineCalls calls = {
	.notify_at_commit = notify,
	.catch_up = penstock_engine_wait,
};

PG_FUNCTION_INFO_V1(penstock_engine_start);

/*
 * penstock_wait_event returns the number under which pg_stat_activity shows a wait.
 */
uint32
penstock_wait_event(PenstockWait wait)
{
	static uint32 numbers[PENSTOCK_WAIT_HOLD + 1];
	static const char *const names[] = {
		"PenstockLauncher", "PenstockIdle", "PenstockPause", "PenstockCatchUp", "PenstockHold"
	};

	if (numbers[wait] == 0)
		numbers[wait] = penstock_new_wait_event(names[wait]);
	return numbers[wait];
}

static void
engine_xact_callback(XactEvent event, void *arg)
{
	if (event != XACT_EVENT_COMMIT && event != XACT_EVENT_ABORT)
		return;
	if (event == XACT_EVENT_COMMIT)
		PENSTOCK_STOP_POINT(engine_commit_visible);
	penstock_engine_release();
	if (event == XACT_EVENT_ABORT)
		notify_at_commit = look_at_commit = false;
}

/*
 * Engine and launcher are called last: when a transaction callback runs, its invalidations have not been
 * sent yet.  Whoever looks then sees the catalogs as they were, and is not called again.
 */
static void
engine_release_callback(ResourceReleasePhase phase, bool commit, bool top_level, void *arg)
{
	if (phase != RESOURCE_RELEASE_AFTER_LOCKS || !commit || !top_level ||
		(!notify_at_commit && !look_at_commit))
		return;
	if (notify_at_commit)
	{
		penstock_engine_request(MyDatabaseId);
		penstock_tail_wake(MyDatabaseId);
	}
	if (look_at_commit)
	{
		LWLockAcquire(penstock_engine->lock, LW_EXCLUSIVE);
		penstock_engine->look_at_databases = true;
		LWLockRelease(penstock_engine->lock);
		penstock_engine_wake_launcher();
	}
	notify_at_commit = look_at_commit = false;
}

/*
 * penstock_engine_look_at_commit makes the launcher read the list of databases when this transaction
 * commits.
 */
void
penstock_engine_look_at_commit(void)
{
	look_at_commit = true;
}

/* penstock_engine_notify_at_commit, see util/engine_call.h. */
static void
notify(void)
{
	notify_at_commit = true;
}

/*
 * penstock_engine_start(): the installation script calls it, so that the engine starts when CREATE
 * EXTENSION commits.
 */
Datum
penstock_engine_start(PG_FUNCTION_ARGS)
{
	notify();
	PG_RETURN_VOID();
}

/* DROP EXTENSION: the worker shall notice at once. */
static void
extension_access(ObjectAccessType access, Oid class_id, Oid object_id, int sub_id, void *arg)
{
	if (access == OAT_DROP && object_id == get_extension_oid("penstock", true))
		notify();
}

/*
 * penstock_engine_init registers the launcher, shared memory, settings and hooks.
 */
void
penstock_engine_init(void)
{
	DefineCustomIntVariable("penstock.batch_rows",
							"Events that one batch takes from a backlog at most, about.",
							"A larger backlog is worked off in slices of this size, each committed.",
							&penstock_batch_rows, 1000000, 1, INT_MAX,
							PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("penstock.batch_pause",
							"Longest pause after a batch, so that many small commits share the next one.",
							"The pause is twice as long as the batch took, at least 2 ms, within this limit.",
							&penstock_batch_pause, 4, 0, 10000,
							PGC_SIGHUP, GUC_UNIT_MS, NULL, NULL, NULL);
	DefineCustomIntVariable("penstock.engine_work_mem",
							"work_mem of the engine's workers.",
							NULL,
							&penstock_engine_work_mem, 65536, 64, MAX_KILOBYTES,
							PGC_SIGHUP, GUC_UNIT_KB, NULL, NULL, NULL);

	penstock_engine_calls_register(&calls);
	penstock_rewrite_check = penstock_position_check_rewrite;
	penstock_engine_shared_init();
	/* pg_upgrade: what is being carried over stays as it is, and what is half there is not run */
	if (!IsBinaryUpgrade)
		penstock_launcher_register();
	penstock_engine_database_init();
	penstock_object_register(ExtensionRelationId, extension_access);
	RegisterXactCallback(engine_xact_callback, NULL);
	RegisterResourceReleaseCallback(engine_release_callback, NULL);
}
