/*
 * stream_options.c
 *	  Options of a stream: event time, retention, watermark, producers.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/relation.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/indexing.h"
#include "catalog/pg_attribute.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "nodes/makefuncs.h"
#include "nodes/value.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/fmgrprotos.h"
#include "utils/lsyscache.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "stream/stream_internal.h"
#include "util/engine_call.h"
#include "util/options.h"
#include "util/utility_hook.h"

static bool
is_time_type(Oid type)
{
	type = getBaseType(type);
	return type == TIMESTAMPTZOID || type == TIMESTAMPOID || type == DATEOID;
}

/* Microseconds of an interval given as text; a month counts as 30 days. */
static int64
parse_interval(const char *value)
{
	Interval   *interval = DatumGetIntervalP(DirectFunctionCall3(interval_in, CStringGetDatum(value),
																 ObjectIdGetDatum(InvalidOid),
																 Int32GetDatum(-1)));
	double		days = interval->month * (double) DAYS_PER_MONTH + interval->day;
	double		result = days * USECS_PER_DAY + interval->time;

	if (result > PG_INT64_MAX / 2 || result < PG_INT64_MIN / 2)
		ereport(ERROR,
				(errcode(ERRCODE_INTERVAL_FIELD_OVERFLOW),
				 errmsg("interval out of range: \"%s\"", value)));
	return (int64) result;
}

static void
check_event_time(Relation rel, const char *value)
{
	AttrNumber	attno = get_attnum(RelationGetRelid(rel), value);

	if (attno <= 0)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_COLUMN),
				 errmsg("column \"%s\" of stream \"%s\" does not exist", value,
						RelationGetRelationName(rel)),
				 errhint("penstock.event_time names the column that holds the time of the event.")));
	if (!is_time_type(TupleDescAttr(RelationGetDescr(rel), attno - 1)->atttypid))
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("column \"%s\" cannot be the event time", value),
				 errdetail("It has the type %s.",
						   format_type_be(TupleDescAttr(RelationGetDescr(rel), attno - 1)->atttypid)),
				 errhint("An event time has the type timestamptz, timestamp or date.")));
}

static void
check_retention(Relation rel, const char *value)
{
	if (parse_interval(value) <= 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("penstock.retention must be a positive interval"),
				 errhint("To keep events for ever, use ALTER TABLE ... RESET (penstock.retention).")));
	penstock_engine_notify_at_commit();
}

static void
check_retention_force(Relation rel, const char *value)
{
	bool		force;

	if (!parse_bool(value, &force))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("penstock.retention_force requires a Boolean value")));
}

static void
check_watermark_delay(Relation rel, const char *value)
{
	if (parse_interval(value) < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("penstock.watermark_delay must not be negative")));
}

static void
check_producer_retention(Relation rel, const char *value)
{
	if (parse_interval(value) <= 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("penstock.producer_retention must be a positive interval")));
	penstock_engine_notify_at_commit();
}

static const PenstockOption stream_options[] = {
	{"stream", "event_time", check_event_time, "column that holds the time of the event"},
	{"stream", "retention", check_retention, "events older than this are removed"},
	{"stream", "retention_force", check_retention_force,
	"remove events past their time even if a consumer has not read them"},
	{"stream", "watermark_delay", check_watermark_delay, "how late events may come"},
	{"stream", "producer_retention", check_producer_retention,
	"a producer without a batch for so long is forgotten"},
};

/*
 * penstock_stream_event_attno: the stream's event time column, or 0.
 */
AttrNumber
penstock_stream_event_attno(Relation rel)
{
	char	   *name = penstock_options_get(rel, "event_time");
	AttrNumber	attno = name ? get_attnum(RelationGetRelid(rel), name) : 0;

	return attno > 0 && is_time_type(TupleDescAttr(RelationGetDescr(rel), attno - 1)->atttypid) ?
		attno : 0;
}

void
penstock_stream_options(Relation rel, PenstockStreamOptions *options)
{
	char	   *value;

	memset(options, 0, sizeof(*options));
	/* rd_options stays NULL for options that the server does not know: ask the catalog row */
	options->event_attno = penstock_stream_event_attno(rel);
	if ((value = penstock_options_get(rel, "retention")) != NULL)
		options->retention = parse_interval(value);
	if ((value = penstock_options_get(rel, "retention_force")) != NULL)
		parse_bool(value, &options->retention_force);
	if ((value = penstock_options_get(rel, "watermark_delay")) != NULL)
		options->watermark_delay = parse_interval(value);
	options->producer_retention = PENSTOCK_PRODUCER_RETENTION;
	if ((value = penstock_options_get(rel, "producer_retention")) != NULL)
		options->producer_retention = parse_interval(value);
}

/* ---- columns come and go ---- */

static char *
event_time_name(Oid relid)
{
	Relation	rel = relation_open(relid, NoLock);
	char	   *name = penstock_relation_is_stream(rel) ?
		penstock_options_get(rel, "event_time") : NULL;

	relation_close(rel, NoLock);
	return name;
}

/* Name of a column as the command that is under way has made it. */
static char *
column_name_now(Oid relid, int attno)
{
	Relation	pg_attribute = table_open(AttributeRelationId, AccessShareLock);
	ScanKeyData key[2];
	SysScanDesc scan;
	HeapTuple	tuple;
	char	   *name = NULL;

	ScanKeyInit(&key[0], Anum_pg_attribute_attrelid, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(relid));
	ScanKeyInit(&key[1], Anum_pg_attribute_attnum, BTEqualStrategyNumber, F_INT2EQ,
				Int16GetDatum(attno));
	scan = systable_beginscan(pg_attribute, AttributeRelidNumIndexId, true, SnapshotSelf, 2, key);
	if ((tuple = systable_getnext(scan)) != NULL)
		name = pstrdup(NameStr(((Form_pg_attribute) GETSTRUCT(tuple))->attname));
	systable_endscan(scan);
	table_close(pg_attribute, AccessShareLock);
	return name;
}

/* The event time column may be renamed, and the option follows; it may not be dropped. */
static void
handle_column(ObjectAccessType access, Oid class_id, Oid relid, int attno, void *arg)
{
	char	   *event_time;

	if (attno <= 0 || (access != OAT_POST_ALTER && access != OAT_DROP) ||
		!penstock_is_stream(relid))
		return;
	event_time = event_time_name(relid);
	if (event_time == NULL || get_attnum(relid, event_time) != attno)
		return;

	if (access == OAT_DROP)
		ereport(ERROR,
				(errcode(ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST),
				 errmsg("cannot drop column \"%s\" of stream \"%s\"", event_time, get_rel_name(relid)),
				 errdetail("It is the stream's event time."),
				 errhint("Use ALTER TABLE ... RESET (penstock.event_time) first.")));
	else
	{
		char	   *name = column_name_now(relid, attno);

		if (name && strcmp(name, event_time) != 0)
		{
			CommandCounterIncrement();
			penstock_options_store(relid,
								   list_make1(makeDefElem("event_time", (Node *) makeString(name), -1)),
								   NIL);
		}
	}
}

void
penstock_stream_options_init(void)
{
	penstock_options_init();
	penstock_options_register(stream_options, lengthof(stream_options));
	penstock_object_register(RelationRelationId, handle_column);
}
