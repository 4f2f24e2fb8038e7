/*
 * pipes.c
 *	  The engine sees to it that every active pipe of its database has a worker, and that upkeep leaves pipes their events.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/partition.h"
#include "catalog/pg_class.h"
#include "miscadmin.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/snapmgr.h"

#include "catalogue/pipe_registry.h"
#include "catalogue/registry.h"
#include "engine/internal.h"
#include "engine/shared.h"

static bool pipes_stale = true;
static Oid	pipe_registry;

static void
relation_changed(Datum arg, Oid relid)
{
	if (!OidIsValid(relid) || !OidIsValid(pipe_registry) || relid == pipe_registry)
		pipes_stale = true;
}

/*
 * penstock_engine_watch_pipes makes the engine notice when a pipe is made, changed or dropped.
 */
void
penstock_engine_watch_pipes(void)
{
	CacheRegisterRelcacheCallback(relation_changed, (Datum) 0);
}

/*
 * penstock_engine_pipes asks for the workers of pipes that are active and have none, and wakes those of pipes that have changed.  Outside
 * of a transaction; does nothing when no pipe has changed.
 */
void
penstock_engine_pipes(void)
{
	List	   *known = NIL;
	ListCell   *lc;

	if (!pipes_stale)
		return;
	pipes_stale = false;
	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	pipe_registry = penstock_pipe_registry_oid();
	if (OidIsValid(pipe_registry))
	{
		foreach(lc, penstock_pipe_list(NULL))
		{
			PenstockPipeRow *row = lfirst(lc);

			known = lappend_oid(known, row->oid);
			if (row->status == PENSTOCK_PIPE_ACTIVE)
				(void) penstock_pipe_request(MyDatabaseId, row->oid);
			penstock_pipe_wake(MyDatabaseId, row->oid);
		}
		penstock_pipe_slots_keep(MyDatabaseId, known);
	}
	PopActiveSnapshot();
	CommitTransactionCommand();
}

/* Does the pipe read the stream: itself, or as a partition? */
static bool
reads(const PenstockPipeRow *row, Oid stream)
{
	if (row->source == stream)
		return true;
	return get_rel_relkind(row->source) == RELKIND_PARTITIONED_TABLE && get_rel_relispartition(stream) &&
		list_member_oid(get_partition_ancestors(stream), row->source);
}

/*
 * penstock_engine_pipe_positions returns what pipes that read the stream have seen (pg_snapshot Datums), in the current context.
 */
int
penstock_engine_pipe_positions(Oid stream, Datum **positions)
{
	List	   *pipes = penstock_pipe_list(NULL);
	ListCell   *lc;
	int			n = 0;

	*positions = palloc((list_length(pipes) + 1) * sizeof(Datum));
	foreach(lc, pipes)
	{
		PenstockPosition position;

		if (reads(lfirst(lc), stream) &&
			penstock_position_get(((PenstockPipeRow *) lfirst(lc))->oid, NULL, &position))
			(*positions)[n++] = position.lower;
	}
	return n;
}
