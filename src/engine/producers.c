/*
 * producers.c
 *	  The engine removes producers that have expired.
 */
#include "postgres.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "catalogue/producer_registry.h"
#include "engine/internal.h"
#include "producer/producer.h"

/* Producers that one step removes at most. */
#define EXPIRE_PRODUCERS 256
/* Limits (us) of the pause after a look at all of them. */
#define SHORTEST_PAUSE (INT64CONST(100) * 1000)
#define LONGEST_PAUSE (INT64CONST(60) * USECS_PER_SEC)
/* After an error. */
#define ERROR_PAUSE (INT64CONST(60) * USECS_PER_SEC)

static bool producers_stale = true;
static Oid	producer_registry;
static TimestampTz due;			/* when one will have expired, 0: there is none */
static TimestampTz not_before;	/* a look at them shall take 1% of the time */

static void
relation_changed(Datum arg, Oid relid)
{
	if (!OidIsValid(relid) || !OidIsValid(producer_registry) || relid == producer_registry)
		producers_stale = true;
}

/*
 * penstock_engine_watch_producers makes the engine notice when a producer is made.
 */
void
penstock_engine_watch_producers(void)
{
	CacheRegisterRelcacheCallback(relation_changed, (Datum) 0);
}

/*
 * penstock_engine_look_at_producers makes it look at all of them again: a stream keeps them for another time than before.
 */
void
penstock_engine_look_at_producers(void)
{
	producers_stale = true;
}

static void
expire(Engine *engine)
{
	TimestampTz start = GetCurrentTimestamp();
	int			removed = 0;

	producers_stale = false;
	pgstat_report_activity(STATE_RUNNING, "producers that have expired");
	PG_TRY();
	{
		StartTransactionCommand();
		PushActiveSnapshot(GetTransactionSnapshot());
		producer_registry = penstock_producer_registry_oid();
		due = 0;
		if (OidIsValid(producer_registry))
			removed = penstock_producers_expire(EXPIRE_PRODUCERS, &due);
		PopActiveSnapshot();
		CommitTransactionCommand();
		not_before = GetCurrentTimestamp();
		not_before += Min(Max(100 * (not_before - start), SHORTEST_PAUSE), LONGEST_PAUSE);
		if (removed > 0)
			ereport(LOG, (errmsg("%d producers were removed, which had made no batch for producer_retention", removed)));
	}
	PG_CATCH();
	{
		ErrorData  *error;

		MemoryContextSwitchTo(engine->round);
		error = CopyErrorData();
		FlushErrorState();
		AbortCurrentTransaction();
		ereport(LOG,
				(errcode(error->sqlerrcode),
				 errmsg("producers could not be looked at and will be again: %s", error->message)));
		due = not_before = start + ERROR_PAUSE;
	}
	PG_END_TRY();
}

/*
 * penstock_engine_producers removes producers that have expired, if it is time to.  Outside of a transaction.  Returns when it will have
 * something to do, 0: when it is called.
 */
TimestampTz
penstock_engine_producers(Engine *engine)
{
	TimestampTz now = GetCurrentTimestamp();

	if ((producers_stale || (due != 0 && due <= now)) && not_before <= now)
		expire(engine);
	if (producers_stale)
		return not_before;
	return due == 0 ? 0 : Max(due, not_before);
}
