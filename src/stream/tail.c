/*
 * tail.c
 *	  The ring through which writers tell the engine where they wrote.
 *
 * There is one ring for the whole cluster.  Writers append under an exclusive lock, for
 * the time of one 40-byte copy; readers copy entries under a shared lock.  Nobody waits for a
 * reader: a reader that falls behind by more than the ring's size learns so and scans the
 * directories of its streams instead.  The ring is empty after a restart; so is the memory
 * of every reader.
 */
#include "postgres.h"

#include <limits.h>

#include "miscadmin.h"
#include "port/atomics.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/lwlock.h"
#include "storage/shmem.h"
#include "utils/guc.h"

#include "stream/tail.h"

/* A worker that wants to be woken: an engine, a pipe that reads a stream.  Slots are never reused while dboid is set. */
typedef struct TailListener
{
	pg_atomic_uint32 dboid;		/* read by anybody; written by the listener, lock held */
	struct Latch *latch;		/* a PGPROC's latch; valid before dboid is set, under the lock */
	pg_atomic_uint32 called;	/* set by anybody who wakes it; cleared by the listener */
} TailListener;

typedef struct TailShared
{
	LWLock	   *lock;			/* set once, when shared memory is made */
	uint64		head;			/* next entry's number; written by writers, lock held exclusively */
	int			size;			/* entries in the ring, a power of two; set once */
	int			max_listeners;	/* set once */
	pg_atomic_uint32 used_listeners;	/* those beyond were never used; written with the lock held */
	TailListener *listeners;	/* behind the ring; set once */
	PenstockTailEntry ring[FLEXIBLE_ARRAY_MEMBER];	/* written by writers, lock held
													 * exclusively */
} TailShared;

static TailShared *tail;

/* This process's place among the listeners. */
static TailListener *listening;

static int	tail_size = 65536;

static shmem_request_hook_type next_shmem_request_hook;
static shmem_startup_hook_type next_shmem_startup_hook;

/* The ring's size: the next power of two, so that a position is a mask away. */
static int
ring_size(void)
{
	int			size = 1024;

	while (size < tail_size)
		size *= 2;
	return size;
}

/* No more engines can listen than there are background workers. */
static int
listener_count(void)
{
	return max_worker_processes + 1;
}

static Size
listeners_offset(void)
{
	return MAXALIGN(add_size(offsetof(TailShared, ring),
							 mul_size(ring_size(), sizeof(PenstockTailEntry))));
}

static Size
tail_shmem_size(void)
{
	return add_size(listeners_offset(), mul_size(listener_count(), sizeof(TailListener)));
}

static void
tail_shmem_request(void)
{
	if (next_shmem_request_hook)
		next_shmem_request_hook();

	RequestAddinShmemSpace(tail_shmem_size());
	RequestNamedLWLockTranche("penstock tail", 1);
}

static void
tail_shmem_startup(void)
{
	bool		found;

	if (next_shmem_startup_hook)
		next_shmem_startup_hook();

	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	tail = ShmemInitStruct("penstock tail", tail_shmem_size(), &found);
	if (!found)
	{
		tail->lock = &GetNamedLWLockTranche("penstock tail")->lock;
		tail->head = 0;
		tail->size = ring_size();
		tail->max_listeners = listener_count();
		pg_atomic_init_u32(&tail->used_listeners, 0);
		tail->listeners = (TailListener *) ((char *) tail + listeners_offset());
		for (int i = 0; i < tail->max_listeners; i++)
		{
			pg_atomic_init_u32(&tail->listeners[i].dboid, InvalidOid);
			pg_atomic_init_u32(&tail->listeners[i].called, 0);
			tail->listeners[i].latch = NULL;
		}
	}
	LWLockRelease(AddinShmemInitLock);
}

/*
 * penstock_tail_init asks for the ring's shared memory and defines its size setting.
 */
void
penstock_tail_init(void)
{
	DefineCustomIntVariable("penstock.tail_size",
							"Number of chunks that writers can be ahead of the engine before it has to scan directories.",
							"Rounded up to a power of two; each takes 40 bytes of shared memory.",
							&tail_size, 65536, 1024, 16 * 1024 * 1024,
							PGC_POSTMASTER, 0, NULL, NULL, NULL);

	next_shmem_request_hook = shmem_request_hook;
	shmem_request_hook = tail_shmem_request;
	next_shmem_startup_hook = shmem_startup_hook;
	shmem_startup_hook = tail_shmem_startup;
}

/*
 * penstock_tail_publish announces a chunk whose directory tuple has been inserted.  Must be called
 * before the transaction commits (or prepares).  That it rolls back later does no harm.
 */
void
penstock_tail_publish(Oid relid, FullTransactionId xid, ItemPointer tid, int32 nrows)
{
	PenstockTailEntry *entry;

	LWLockAcquire(tail->lock, LW_EXCLUSIVE);
	entry = &tail->ring[tail->head & (tail->size - 1)];
	entry->dboid = MyDatabaseId;
	entry->relid = relid;
	entry->xid = xid;
	entry->tid = *tid;
	entry->nrows = nrows;
	tail->head++;
	LWLockRelease(tail->lock);
}

/*
 * penstock_tail_head returns the number of the next entry to be written.
 */
uint64
penstock_tail_head(void)
{
	uint64		head;

	LWLockAcquire(tail->lock, LW_SHARED);
	head = tail->head;
	LWLockRelease(tail->lock);
	return head;
}

/*
 * penstock_tail_read copies up to max entries of this database, see tail.h.  Holds the lock for at
 * most a thousand entries at a time, so that writers are not held up by a long walk.
 */
int
penstock_tail_read(uint64 *cursor, PenstockTailEntry *entries, int max, bool *overrun)
{
	int			copied = 0;
	bool		more = true;

	*overrun = false;
	while (more && copied < max)
	{
		int			budget = 1024;

		LWLockAcquire(tail->lock, LW_SHARED);
		if (tail->head - *cursor > tail->size)
		{
			*cursor = tail->head;
			*overrun = true;
		}
		while (*cursor < tail->head && copied < max && budget-- > 0)
		{
			PenstockTailEntry *entry = &tail->ring[*cursor & (tail->size - 1)];

			if (entry->dboid == MyDatabaseId)
				entries[copied++] = *entry;
			(*cursor)++;
		}
		more = *cursor < tail->head;
		LWLockRelease(tail->lock);
	}
	return copied;
}

/*
 * penstock_tail_wake sets the latches of those who listen in dboid.  Takes no lock: a latch belongs to a
 * PGPROC and is there for ever, so at worst a stranger is woken in vain.
 */
void
penstock_tail_wake(Oid dboid)
{
	int			used = (int) pg_atomic_read_u32(&tail->used_listeners);

	/* pairs with the lock release after which a listener looks at the ring */
	pg_memory_barrier();

	for (int i = 0; i < used; i++)
	{
		TailListener *listener = &tail->listeners[i];
		struct Latch *latch;

		if (pg_atomic_read_u32(&listener->dboid) != dboid)
			continue;
		pg_read_barrier();
		latch = listener->latch;
		/* before the latch: the listener may be about to sleep */
		pg_atomic_write_u32(&listener->called, 1);
		if (latch)
			SetLatch(latch);
	}
}

/*
 * penstock_tail_called tells this process whether it was woken since it last asked.  Whoever sleeps on the
 * latch asks right before: in between, the server itself resets the latch whenever it waits for a lock or a page.
 */
bool
penstock_tail_called(void)
{
	/* a full barrier: what was committed before the call is visible after it */
	return listening != NULL && pg_atomic_exchange_u32(&listening->called, 0) != 0;
}

/*
 * penstock_tail_listen registers the latch of this process, which penstock_tail_wake(dboid) sets from now on; NULL
 * unregisters it.
 */
void
penstock_tail_listen(Oid dboid, struct Latch *latch)
{
	LWLockAcquire(tail->lock, LW_EXCLUSIVE);
	if (latch == NULL)
	{
		if (listening != NULL)
			pg_atomic_write_u32(&listening->dboid, InvalidOid);
		listening = NULL;
	}
	for (int i = 0; latch != NULL && listening == NULL && i < tail->max_listeners; i++)
	{
		TailListener *listener = &tail->listeners[i];

		if (pg_atomic_read_u32(&listener->dboid) != InvalidOid)
			continue;
		listening = listener;
		listener->latch = latch;
		pg_atomic_write_u32(&listener->called, 0);
		if (i >= (int) pg_atomic_read_u32(&tail->used_listeners))
			pg_atomic_write_u32(&tail->used_listeners, i + 1);
		pg_write_barrier();
		pg_atomic_write_u32(&listener->dboid, dboid);
	}
	LWLockRelease(tail->lock);

	if (latch != NULL && listening == NULL)
		elog(ERROR, "no room for another listener of the tail");
}
