/*
 * claim_shared.c
 *	  One payload that many store at the same time is written once.
 *
 * Whoever writes a payload holds a lock on its digest until the transaction ends; others that come with the same payload wait until
 * then, and use what it has written.  They wait on a condition variable and not for the lock, and only for a while in each transaction:
 * a wait that somebody else's wait depends on ends by itself, and no deadlock can come of it.  Then the payload is
 * written twice: whoever writes one without having the lock says so in its row, and the collector puts the two together.
 */
#include "postgres.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "storage/condition_variable.h"
#include "storage/ipc.h"
#include "storage/lock.h"
#include "storage/shmem.h"
#include "utils/resowner.h"
#include "utils/timestamp.h"
#include "utils/wait_event.h"

#include "claim/claim_internal.h"
#include "compat/compat.h"

/* Longest time (ms) that a transaction waits for others, in all. */
#define PATIENCE 1000
/* Digests that a transaction locks; what it writes beyond them may be a duplicate. */
#define MAX_LOCKS 64
/* pg_locks shows these locks as advisory ones with this objsubid, which no user's have. */
#define LOCK_KIND 0x5043

typedef struct ClaimShared
{
	ConditionVariable ended;	/* a transaction that held locks has */
} ClaimShared;

static ClaimShared *shared;
static int	locks;				/* of this transaction */
static double patience;			/* left, ms */
static shmem_request_hook_type previous_request;
static shmem_startup_hook_type previous_startup;

static void
request(void)
{
	if (previous_request)
		previous_request();
	RequestAddinShmemSpace(MAXALIGN(sizeof(ClaimShared)));
}

static void
startup(void)
{
	bool		found;

	if (previous_startup)
		previous_startup();
	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	shared = ShmemInitStruct("penstock claims", sizeof(ClaimShared), &found);
	if (!found)
		ConditionVariableInit(&shared->ended);
	LWLockRelease(AddinShmemInitLock);
}

/* Locks are gone when this is called last, so that who is woken finds them so. */
static void
transaction_ended(ResourceReleasePhase phase, bool is_commit, bool is_top_level, void *arg)
{
	if (phase != RESOURCE_RELEASE_AFTER_LOCKS || !is_top_level)
		return;
	if (locks > 0)
		ConditionVariableBroadcast(&shared->ended);
	locks = 0;
	patience = PATIENCE;
}

static LOCKTAG
tag_of(const PenstockClaim *claim)
{
	LOCKTAG		tag;
	uint32		high;
	uint32		low;

	memcpy(&high, claim->digest, sizeof(high));
	memcpy(&low, claim->digest + sizeof(high), sizeof(low));
	SET_LOCKTAG_ADVISORY(tag, MyDatabaseId, high, low, LOCK_KIND);
	return tag;
}

bool
penstock_claim_begin_store(const PenstockClaim *claim)
{
	LOCKTAG		tag = tag_of(claim);
	TimestampTz start = 0;
	bool		got;

	/* somebody else may be writing it */
	if (locks >= MAX_LOCKS)
		return false;
	got = LockAcquire(&tag, ExclusiveLock, false, true) != LOCKACQUIRE_NOT_AVAIL;
	if (got)
	{
		locks++;
		return true;
	}
	if (patience <= 0)
		return false;
	ConditionVariablePrepareToSleep(&shared->ended);
	start = GetCurrentTimestamp();
	while (!(got = LockAcquire(&tag, ExclusiveLock, false, true) != LOCKACQUIRE_NOT_AVAIL))
	{
		double		waited = (GetCurrentTimestamp() - start) / 1000.0;

		if (waited >= patience ||
			ConditionVariableTimedSleep(&shared->ended, Max((long) (patience - waited), 1), PG_WAIT_EXTENSION))
			break;
	}
	ConditionVariableCancelSleep();
	patience -= (GetCurrentTimestamp() - start) / 1000.0;
	if (got)
		locks++;
	return got;
}

bool
penstock_claim_is_quiet(const PenstockClaim *claim)
{
	LOCKTAG		tag = tag_of(claim);

	if (LockAcquire(&tag, ExclusiveLock, false, true) == LOCKACQUIRE_NOT_AVAIL)
		return false;
	LockRelease(&tag, ExclusiveLock, false);
	return true;
}

void
penstock_claim_shared_init(void)
{
	patience = PATIENCE;
	previous_request = shmem_request_hook;
	shmem_request_hook = request;
	previous_startup = shmem_startup_hook;
	shmem_startup_hook = startup;
	RegisterResourceReleaseCallback(transaction_ended, NULL);
}
