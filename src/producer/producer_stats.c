/*
 * producer_stats.c
 *	  Counters of producers, in shared memory: what is refused is rolled back, and is counted all the same.
 */
#include "postgres.h"

#include "common/hashfn.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/lwlock.h"
#include "storage/shmem.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"

#include "compat/compat.h"
#include "producer/producer.h"
#include "producer/producer_internal.h"

PG_FUNCTION_INFO_V1(penstock_stat_producer_row);

/* Producers beyond these still work; they have no counters. */
#define MAX_PRODUCER_STATS 4096

typedef struct StatKey
{
	Oid			dboid;
	Oid			stream;
	uint64		name;			/* hash */
} StatKey;

/* Of one producer that something was refused to; written by any backend, under the lock. */
typedef struct ProducerStat
{
	StatKey		key;
	int64		counts[PENSTOCK_PRODUCER_COUNTS];
} ProducerStat;

static HTAB *stats;
static LWLock *lock;			/* protects stats */

static shmem_request_hook_type next_shmem_request_hook;
static shmem_startup_hook_type next_shmem_startup_hook;

static void
stats_request(void)
{
	if (next_shmem_request_hook)
		next_shmem_request_hook();
	RequestAddinShmemSpace(hash_estimate_size(MAX_PRODUCER_STATS, sizeof(ProducerStat)));
	RequestNamedLWLockTranche("penstock producer", 1);
}

static void
stats_startup(void)
{
	HASHCTL		ctl = {0};

	if (next_shmem_startup_hook)
		next_shmem_startup_hook();
	ctl.keysize = sizeof(StatKey);
	ctl.entrysize = sizeof(ProducerStat);
	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	lock = &GetNamedLWLockTranche("penstock producer")->lock;
	stats = ShmemInitHash("penstock producer statistics", MAX_PRODUCER_STATS, MAX_PRODUCER_STATS, &ctl, HASH_ELEM | HASH_BLOBS);
	LWLockRelease(AddinShmemInitLock);
}

/*
 * penstock_producer_stats_init asks for the counters' shared memory.
 */
void
penstock_producer_stats_init(void)
{
	next_shmem_request_hook = shmem_request_hook;
	shmem_request_hook = stats_request;
	next_shmem_startup_hook = shmem_startup_hook;
	shmem_startup_hook = stats_startup;
}

static StatKey
key_of(Oid stream, const char *producer)
{
	StatKey		key;

	memset(&key, 0, sizeof(key));
	key.dboid = MyDatabaseId;
	key.stream = stream;
	key.name = hash_bytes_extended((const unsigned char *) producer, strlen(producer), 0);
	return key;
}

void
penstock_producer_count(Oid stream, const char *producer, PenstockProducerCount what)
{
	StatKey		key = key_of(stream, producer);
	ProducerStat *stat;
	bool		found;

	LWLockAcquire(lock, LW_EXCLUSIVE);
	stat = hash_search(stats, &key, HASH_ENTER_NULL, &found);
	if (stat != NULL && !found)
		memset(stat->counts, 0, sizeof(stat->counts));
	if (stat != NULL)
		stat->counts[what]++;
	LWLockRelease(lock);
}

void
penstock_producer_uncount(Oid stream, const char *producer)
{
	StatKey		key = key_of(stream, producer);

	LWLockAcquire(lock, LW_EXCLUSIVE);
	(void) hash_search(stats, &key, HASH_REMOVE, NULL);
	LWLockRelease(lock);
}

/*
 * penstock_producer_stats_forget, see producer.h.
 */
void
penstock_producer_stats_forget(Oid dboid)
{
	HASH_SEQ_STATUS status;
	ProducerStat *stat;

	LWLockAcquire(lock, LW_EXCLUSIVE);
	hash_seq_init(&status, stats);
	while ((stat = hash_seq_search(&status)) != NULL)
		if (stat->key.dboid == dboid)
			(void) hash_search(stats, &stat->key, HASH_REMOVE, NULL);
	LWLockRelease(lock);
}

/*
 * penstock_stat_producer_row(stream regclass, producer text) → (duplicates int8, gaps int8, fenced int8): what was refused to a
 * producer since the server started, or penstock.stat_reset().
 */
Datum
penstock_stat_producer_row(PG_FUNCTION_ARGS)
{
	StatKey		key = key_of(PG_GETARG_OID(0), text_to_cstring(PG_GETARG_TEXT_PP(1)));
	int64		counts[PENSTOCK_PRODUCER_COUNTS] = {0};
	Datum		values[PENSTOCK_PRODUCER_COUNTS];
	bool		isnull[PENSTOCK_PRODUCER_COUNTS] = {false};
	ProducerStat *stat;
	TupleDesc	desc;

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	LWLockAcquire(lock, LW_SHARED);
	stat = hash_search(stats, &key, HASH_FIND, NULL);
	if (stat != NULL)
		memcpy(counts, stat->counts, sizeof(counts));
	LWLockRelease(lock);
	for (int i = 0; i < PENSTOCK_PRODUCER_COUNTS; i++)
		values[i] = Int64GetDatum(counts[i]);
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, isnull)));
}
