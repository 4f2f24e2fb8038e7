/*
 * upkeep_lock.c
 *	  Keeps merge and retention away from a stream while a new consumer is being made.
 *
 * A fill's position becomes known to others when it commits; until then nobody could tell that it has not
 * seen a chunk.  So whoever makes a position holds the lock shared to the end of its transaction, and upkeep
 * takes it exclusively before it reads positions.
 */
#include "postgres.h"

#include "catalog/pg_class.h"
#include "miscadmin.h"
#include "storage/lock.h"

#include "stream/stream.h"

/* objsubid that no column has */
#define UPKEEP_SUBID 0xFFFE

static LockAcquireResult
acquire(Oid relid, LOCKMODE mode, bool dont_wait)
{
	LOCKTAG		tag;

	SET_LOCKTAG_OBJECT(tag, MyDatabaseId, RelationRelationId, relid, UPKEEP_SUBID);
	return LockAcquire(&tag, mode, false, dont_wait);
}

/*
 * penstock_upkeep_hold waits for a merge or retention step under way (they are short) and keeps others from
 * starting until the end of the transaction.  Take it before the snapshot of the new position.
 */
void
penstock_upkeep_hold(Oid relid)
{
	(void) acquire(relid, ShareLock, false);
}

/*
 * penstock_upkeep_try takes the right to merge or remove chunks until the end of the transaction; false if a
 * consumer is being made.  Take it before reading positions.
 */
bool
penstock_upkeep_try(Oid relid)
{
	return acquire(relid, ExclusiveLock, true) != LOCKACQUIRE_NOT_AVAIL;
}
