/*
 * view_fill.c
 *	  From a materialized view without data to one the engine keeps.
 *
 * The fill runs over everything its snapshot sees, and that snapshot becomes the view's position: the engine
 * goes on from exactly there.  What the transaction itself has inserted counts as not seen.
 */
#include "postgres.h"

#include <math.h>

#include "access/table.h"
#include "access/xact.h"
#include "commands/matview.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "compat/compat.h"
#include "util/engine_call.h"
#include "view/view_internal.h"

/* Settings that the meaning of a query depends on; the view keeps those of its making. */
static const char *const query_settings[] = {
	"TimeZone", "DateStyle", "IntervalStyle", "extra_float_digits", "bytea_output",
	"default_text_search_config", "lc_monetary", "lc_numeric", "lc_time", "xmloption", "xmlbinary",
	"timezone_abbreviations", "array_nulls"
};

static char *
current_settings(void)
{
	StringInfoData buf;

	initStringInfo(&buf);
	for (int i = 0; i < lengthof(query_settings); i++)
		appendStringInfo(&buf, "%s=%s\n", query_settings[i],
						 GetConfigOption(query_settings[i], false, false));
	return buf.data;
}

/* Runs the whole query, or with no events, into an empty view and state. */
static void
run_fill(PenstockView *view, Datum position, bool backfill)
{
	bool		grouped = view->shape->strategy == PENSTOCK_STRATEGY_GROUP;
	DestReceiver *dest;
	PenstockRunAs run;

	if (!backfill && !(grouped && view->shape->nkeys == 0))
		return;					/* without keys there is a row even without events */

	penstock_run_as_begin(&run, view->owner, view->row.settings);
	dest = grouped ? penstock_group_receiver(view, false) : penstock_append_receiver(view);
	if (backfill)
	{
		penstock_view_progress_begin(view->relid, view->streams);
		penstock_delta_set_fill(position);
	}
	else
		penstock_delta_set(NIL);
	penstock_view_run(view, HUGE_VAL, dest);
	penstock_delta_clear();
	penstock_view_progress_end();
	penstock_run_as_end(&run);
	dest->rDestroy(dest);
}

/* A crash empties an unlogged stream, and nobody would know that a rebuild loses what was in it. */
static bool
all_logged(List *streams)
{
	ListCell   *lc;

	foreach(lc, streams)
		if (get_rel_persistence(lfirst_oid(lc)) != RELPERSISTENCE_PERMANENT)
			return false;
	return true;
}

/*
 * Makes the state and fills it and the view, which is empty and locked; gives the new position.
 */
static void
fill(PenstockViewRow *row, PenstockPosition *position, bool backfill)
{
	PenstockView *view = penstock_view_prepare(row->relid, RowExclusiveLock, false);
	ListCell   *lc;
	Snapshot	snapshot;

	foreach(lc, view->streams)
	{
		penstock_upkeep_hold(lfirst_oid(lc));
		penstock_stream_flush(lfirst_oid(lc));
	}

	(void) GetTopTransactionId();	/* so that the position does not include it */
	snapshot = GetLatestSnapshot();
	PushActiveSnapshot(snapshot);
	memset(position, 0, sizeof(*position));
	position->lower = penstock_position_current();
	if (OidIsValid(row->state))
		penstock_state_index(row->state);
	view = penstock_view_prepare(row->relid, RowExclusiveLock, false);
	row->complete = backfill && all_logged(view->streams);
	if (penstock_view_is_saved(row->relid))
	{
		row->complete = false;
		if (!penstock_view_adopt(view))
		{
			row->status = PENSTOCK_VIEW_FAILED;
			row->error = "PS002: events that it could not compute when it was dumped are missing";
		}
	}
	else
		run_fill(view, position->lower, backfill);
	PopActiveSnapshot();
	CommandCounterIncrement();
}

/*
 * penstock_view_activate makes a continuous view, whose relation exists and is empty, known to the engine.
 * With backfill it starts from all events there are, else from now.  Takes AccessExclusiveLock on it.
 */
void
penstock_view_activate(Oid relid, bool backfill)
{
	Relation	rel = table_open(relid, AccessExclusiveLock);
	Query	   *query = penstock_view_query(rel);
	PenstockShape *shape;
	PenstockViewRow row = {0};
	PenstockPosition position;

	if (penstock_registry_get(relid) != NULL)
	{
		table_close(rel, NoLock);	/* another session was first */
		return;
	}

	/* what a view made WITH NO DATA reads may have changed, or come only now */
	penstock_view_check(query, NULL);
	shape = penstock_view_shape(query, NULL);
	row.relid = relid;
	row.strategy = shape->strategy;
	row.status = PENSTOCK_VIEW_ACTIVE;
	row.filenode = penstock_rel_filenumber(rel);
	row.settings = current_settings();
	if (shape->strategy == PENSTOCK_STRATEGY_GROUP)
	{
		row.state = penstock_state_create(relid, shape);
		penstock_state_types_to_view(rel, row.state);
	}
	penstock_registry_insert(&row);
	CommandCounterIncrement();

	fill(&row, &position, backfill);
	penstock_registry_update(&row);
	penstock_position_insert(relid, &position);
	SetMatViewPopulatedState(rel, true);
	CommandCounterIncrement();
	penstock_view_create_index(penstock_view_prepare(relid, RowExclusiveLock, false), rel);
	table_close(rel, NoLock);
	penstock_engine_notify_at_commit();
}

/*
 * penstock_view_refill empties an active view and fills it anew from all events there are.
 */
void
penstock_view_refill(Oid relid)
{
	Relation	rel = table_open(relid, AccessExclusiveLock);
	PenstockShape *shape = penstock_view_shape(penstock_view_query(rel), NULL);
	PenstockViewRow *row;
	PenstockPosition position;

	penstock_registry_lock(relid, true);
	row = penstock_registry_get(relid);
	penstock_state_drop(row->state);
	row->state = shape->strategy == PENSTOCK_STRATEGY_GROUP ? penstock_state_create(relid, shape) : InvalidOid;
	row->status = PENSTOCK_VIEW_ACTIVE;
	row->error = NULL;
	penstock_truncate(rel);
	CommandCounterIncrement();
	row->filenode = penstock_rel_filenumber(rel);
	penstock_registry_update(row);
	CommandCounterIncrement();

	fill(row, &position, true);
	penstock_registry_update(row);
	penstock_position_update(relid, &position);
	table_close(rel, NoLock);
	penstock_engine_notify_at_commit();
}
