/*
 * pipe_ddl.c
 *	  Making, changing and dropping pipes.
 */
#include "postgres.h"

#include <signal.h>

#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/namespace.h"
#include "catalog/objectaccess.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_class.h"
#include "catalog/pg_database.h"
#include "commands/user.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "storage/latch.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "utils/varlena.h"
#include "utils/wait_event.h"

#include "catalogue/registry.h"
#include "compat/compat.h"
#include "pipe/pipe_internal.h"
#include "util/engine_call.h"
#include "util/errors.h"
#include "util/utility_hook.h"
#include "util/version.h"

extern Datum penstock_pause(PG_FUNCTION_ARGS);
extern Datum penstock_resume(PG_FUNCTION_ARGS);

PG_FUNCTION_INFO_V1(penstock_create_pipe);
PG_FUNCTION_INFO_V1(penstock_alter_pipe);
PG_FUNCTION_INFO_V1(penstock_drop_pipe);
PG_FUNCTION_INFO_V1(penstock_pause_named);
PG_FUNCTION_INFO_V1(penstock_resume_named);
PG_FUNCTION_INFO_V1(penstock_pipe_called);

/* How long (ms) a batch may go on before whoever changes its pipe has it cancelled. */
#define POLITE_WAIT 2000

/* What a statement's meaning depends on is kept as it is when the pipe is made. */
static const char *const kept_settings[] = {
	"search_path", "TimeZone", "DateStyle", "IntervalStyle", "extra_float_digits", "bytea_output", "default_text_search_config"
};

static char *
current_settings(void)
{
	StringInfoData text;

	initStringInfo(&text);
	for (int i = 0; i < lengthof(kept_settings); i++)
		appendStringInfo(&text, "%s=%s\n", kept_settings[i], GetConfigOption(kept_settings[i], false, false));
	return text.data;
}

/* ---- arguments ---- */

static char *
text_argument(FunctionCallInfo fcinfo, int i)
{
	return PG_ARGISNULL(i) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(i));
}

static int64
interval_ms(Interval *interval, const char *name)
{
	int64		ms = interval->time / 1000 +
		((int64) interval->month * DAYS_PER_MONTH + interval->day) * (SECS_PER_DAY * INT64CONST(1000));

	if (ms < 0 || ms > INT64CONST(1000) * 365 * SECS_PER_DAY * 1000)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s must not be negative, nor longer than a thousand years", name)));
	return ms;
}

static PenstockOnError
on_error_argument(const char *text)
{
	if (strcmp(text, "dead_letter") == 0)
		return PENSTOCK_ON_ERROR_DEAD_LETTER;
	if (strcmp(text, "stop") == 0)
		return PENSTOCK_ON_ERROR_STOP;
	if (strcmp(text, "skip") == 0)
		return PENSTOCK_ON_ERROR_SKIP;
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("invalid value for on_error: \"%s\"", text),
			 errhint("It is 'dead_letter', 'stop' or 'skip'.")));
}

/* Arguments that create_pipe and alter_pipe have in common, from the index of batch_rows on. */
static void
batch_arguments(FunctionCallInfo fcinfo, int i, PenstockPipeRow *row)
{
	if (!PG_ARGISNULL(i))
		row->batch_rows = PG_GETARG_INT32(i);
	if (!PG_ARGISNULL(i + 1))
		row->batch_bytes = PG_GETARG_INT64(i + 1);
	if (!PG_ARGISNULL(i + 2))
		row->batch_time = (int) Min(interval_ms(PG_GETARG_INTERVAL_P(i + 2), "batch_time"), PG_INT32_MAX);
	if (!PG_ARGISNULL(i + 3))
		row->dedup_window = interval_ms(PG_GETARG_INTERVAL_P(i + 3), "dedup_window");
	penstock_pipe_check_batch(row);
}

/*
 * penstock_pipe_check_batch raises ERRCODE_INVALID_PARAMETER_VALUE if a batch cannot be closed by these.
 */
void
penstock_pipe_check_batch(const PenstockPipeRow *row)
{
	if (row->batch_rows < 1 || row->batch_rows > 10000000)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("batch_rows must be between 1 and 10000000")));
	if (row->batch_bytes < 1 || row->batch_bytes > INT64CONST(1024) * 1024 * 1024)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("batch_bytes must be between 1 and 1073741824")));
	if (row->batch_time > 3600000)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("batch_time must not be longer than an hour")));
}

/* "" takes a key away. */
static char *
key_argument(FunctionCallInfo fcinfo, int i)
{
	char	   *key = text_argument(fcinfo, i);

	return key != NULL && key[0] != '\0' ? key : NULL;
}

/* A dedup_key is a column of the queue, and needs a window. */
static void
check_dedup_key(const PenstockPipeRow *row)
{
	if (row->dedup_key == NULL)
		return;
	if (penstock_queue_connector(row->source) == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("dedup_key is for queues"),
				 errdetail("\"%s\" is a stream: each event comes once.", get_rel_name(row->source))));
	if (row->dedup_window == 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("dedup_key needs a dedup_window"),
				 errhint("dedup_window says for how long the values of the key are remembered.")));
	(void) penstock_pipe_dedup_column(row);
}

static void
check_name(const char *name)
{
	if (name[0] == '\0' || strlen(name) >= NAMEDATALEN)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_NAME),
				 errmsg("the name of a pipe has 1 to %d bytes", NAMEDATALEN - 1)));
	if (penstock_pipe_by_name(name) != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("pipe \"%s\" already exists", name)));
}

/*
 * penstock_pipe_lock_names: two who make a pipe of one name at once; the second waits and then sees the first.
 */
void
penstock_pipe_lock_names(void)
{
	(void) penstock_pipe_lock(InvalidOid, true, true);
}

pg_noreturn static void
no_such_pipe(const char *name)
{
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_OBJECT),
			 errmsg("pipe \"%s\" does not exist", name)));
}

/* The database's owner may stop, resume and drop any pipe; what it runs is its own owner's business. */
static void
check_owner(const PenstockPipeRow *row, bool change)
{
	if (!has_privs_of_role(GetUserId(), row->owner) &&
		(change || !object_ownercheck(DatabaseRelationId, MyDatabaseId, GetUserId())))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("must be owner of pipe \"%s\"", row->name)));
}


/* Cancels the batch that is under way. */
static void
cancel_batch(Oid pipe)
{
	PenstockDatabase *slot;

	LWLockAcquire(penstock_engine->lock, LW_SHARED);
	slot = penstock_slot_find(MyDatabaseId, pipe, false);
	if (slot != NULL && slot->pid != 0)
		(void) kill(slot->pid, SIGINT);
	LWLockRelease(penstock_engine->lock);
}

/*
 * Takes the right to change a pipe: waits for the batch that is under way, or, when that takes long, has it cancelled; it is
 * done again.  Returns the pipe's row as it is then.
 */
static PenstockPipeRow *
lock_pipe(const char *name, bool change)
{
	PenstockPipeRow *row = penstock_pipe_by_name(name);
	TimestampTz start = GetCurrentTimestamp();
	Oid			oid;

	if (row == NULL)
		no_such_pipe(name);
	check_owner(row, change);
	oid = row->oid;
	while (!penstock_pipe_lock(oid, true, false))
	{
		if (TimestampDifferenceExceeds(start, GetCurrentTimestamp(), POLITE_WAIT))
		{
			cancel_batch(oid);
			start = GetCurrentTimestamp();
		}
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, 10, PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
	row = penstock_pipe_get(oid);
	if (row == NULL)
		no_such_pipe(name);
	return row;
}

static void
refuse_in_recovery(const char *what)
{
	PreventCommandIfReadOnly(what);
	PreventCommandDuringRecovery(what);
	penstock_version_check();
}

/* ---- statements ---- */

/*
 * penstock.create_pipe(name, statements, source, on_error, batch_rows, batch_bytes, batch_time, dedup_window, backfill, active, dedup_key): see
 * docs/pipes.md.
 */
Datum
penstock_create_pipe(PG_FUNCTION_ARGS)
{
	PenstockPipeRow row = {0};
	bool		backfill = !PG_ARGISNULL(8) && PG_GETARG_BOOL(8);
	const PenstockConnector *connector;

	refuse_in_recovery("penstock.create_pipe()");
	row.name = text_argument(fcinfo, 0);
	row.statements = text_argument(fcinfo, 1);
	if (row.name == NULL || row.statements == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("a pipe needs a name and statements")));
	penstock_pipe_lock_names();
	check_name(row.name);
	row.owner = GetUserId();
	row.source = penstock_pipe_source(row.statements, PG_ARGISNULL(2) ? InvalidOid : PG_GETARG_OID(2));
	row.on_error = on_error_argument(PG_ARGISNULL(3) ? "dead_letter" : text_argument(fcinfo, 3));
	row.batch_rows = 10000;
	row.batch_bytes = 16 * 1024 * 1024;
	row.batch_time = 10;
	batch_arguments(fcinfo, 4, &row);
	row.status = PG_ARGISNULL(9) || PG_GETARG_BOOL(9) ? PENSTOCK_PIPE_ACTIVE : PENSTOCK_PIPE_PAUSED;
	row.settings = current_settings();

	connector = penstock_queue_connector(row.source);
	if (connector == NULL && row.dedup_window != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("dedup_window is for queues"),
				 errdetail("\"%s\" is a stream: each event comes once.", get_rel_name(row.source))));
	if (connector != NULL && backfill)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("backfill is for streams"),
				 errhint("Where a queue is read from first is an option of its foreign table.")));
	row.dedup_key = key_argument(fcinfo, 10);
	check_dedup_key(&row);
	/* what is wrong with its options is said now, and not by the worker */
	if (connector != NULL)
		(void) penstock_queue_open(row.source, row.owner, NULL);

	penstock_pipe_insert(&row);
	if (connector == NULL)
		penstock_pipe_stream_start(&row, backfill);
	penstock_engine_notify_at_commit();
	PG_RETURN_VOID();
}

/*
 * penstock.alter_pipe(name, statements, on_error, batch_rows, batch_bytes, batch_time, dedup_window, rename_to, dedup_key): changes
 * what is not null.
 */
Datum
penstock_alter_pipe(PG_FUNCTION_ARGS)
{
	char	   *name = text_argument(fcinfo, 0);
	char	   *new_name = text_argument(fcinfo, 7);
	PenstockPipeRow *row;

	refuse_in_recovery("penstock.alter_pipe()");
	if (name == NULL)
		no_such_pipe("");
	if (new_name != NULL)
		penstock_pipe_lock_names();
	row = lock_pipe(name, true);
	if (!PG_ARGISNULL(1))
	{
		row->statements = text_argument(fcinfo, 1);
		(void) penstock_pipe_source(row->statements, row->source);
		row->settings = current_settings();
	}
	if (!PG_ARGISNULL(2))
		row->on_error = on_error_argument(text_argument(fcinfo, 2));
	batch_arguments(fcinfo, 3, row);
	if (!PG_ARGISNULL(8))
	{
		row->dedup_key = key_argument(fcinfo, 8);
		/* what was remembered is of another kind */
		penstock_seen_clear(row->oid);
	}
	check_dedup_key(row);
	if (new_name != NULL && strcmp(new_name, name) != 0)
	{
		check_name(new_name);
		row->name = new_name;
	}
	penstock_pipe_update(row);
	penstock_engine_notify_at_commit();
	PG_RETURN_VOID();
}

char *
penstock_pipe_consumer_name(Oid pipe)
{
	return psprintf("penstock-%016llx-%u-%u", (unsigned long long) GetSystemIdentifier(), MyDatabaseId, pipe);
}

/* Does a worker serve the pipe now, and knows it?  One that has just started would only find it gone. */
static bool
has_worker(Oid pipe)
{
	PenstockDatabase *slot;
	bool		result;

	LWLockAcquire(penstock_engine->lock, LW_SHARED);
	slot = penstock_slot_find(MyDatabaseId, pipe, false);
	result = slot != NULL && slot->pid != 0 && slot->pipe_stat.loaded;
	LWLockRelease(penstock_engine->lock);
	return result;
}

/* What a connector has outside for a pipe goes with it; a worker that uses it now sees to that when it finds the pipe gone. */
static void
drop_outside(const PenstockPipeRow *row)
{
	const PenstockConnector *connector = penstock_queue_connector(row->source);
	PenstockFault fault = {0};
	char	   *consumer;

	if (connector == NULL || connector->drop == NULL || has_worker(row->oid))
		return;
	consumer = penstock_pipe_consumer_name(row->oid);
	if (connector->drop(penstock_queue_open(row->source, row->owner, consumer), &fault) != PENSTOCK_OK)
		ereport(WARNING,
				(errcode(fault.sqlstate ? fault.sqlstate : ERRCODE_FDW_ERROR),
				 errmsg("what pipe \"%s\" has outside could not be removed: %s", row->name, fault.message),
				 fault.hint[0] ? errhint("%s", fault.hint) : 0));
}

/*
 * penstock.drop_pipe(name, if_exists): the batch under way is finished, or done again by nobody.
 */
Datum
penstock_drop_pipe(PG_FUNCTION_ARGS)
{
	char	   *name = text_argument(fcinfo, 0);
	PenstockPipeRow *row;

	refuse_in_recovery("penstock.drop_pipe()");
	if (!PG_ARGISNULL(1) && PG_GETARG_BOOL(1) && name != NULL && penstock_pipe_by_name(name) == NULL)
	{
		ereport(NOTICE, (errmsg("pipe \"%s\" does not exist, skipping", name)));
		PG_RETURN_VOID();
	}
	if (name == NULL)
		no_such_pipe("");
	row = lock_pipe(name, false);
	penstock_pipe_delete(row->oid);
	drop_outside(row);
	penstock_engine_notify_at_commit();
	PG_RETURN_VOID();
}

/* Calls a function of views with the view of that name. */
static Datum
with_view(PGFunction function, const char *name)
{
	Oid			relid = RangeVarGetRelid(makeRangeVarFromNameList(textToQualifiedNameList(cstring_to_text(name))), NoLock, false);

	return DirectFunctionCall1(function, ObjectIdGetDatum(relid));
}

static bool
is_restored(const PenstockPipeRow *row)
{
	PenstockPosition position;

	return get_rel_relkind(row->source) != RELKIND_FOREIGN_TABLE && !penstock_position_get(row->oid, NULL, &position);
}

/*
 * Pipes over streams that a dump has brought have no position until the first pipe is resumed: what stands in the streams then was there
 * before.  From then on events count for all of them, also for those that are resumed later.
 */
static void
start_restored(void)
{
	bool		any = false;
	ListCell   *lc;

	foreach(lc, penstock_pipe_list(NULL))
		any |= is_restored(lfirst(lc));
	if (!any)
		return;
	/* another session may be doing the same */
	penstock_pipe_lock_names();
	foreach(lc, penstock_pipe_list(NULL))
		if (is_restored(lfirst(lc)))
			penstock_pipe_stream_start(lfirst(lc), false);
}

static Datum
set_status(const char *name, PenstockPipeStatus status)
{
	PenstockPipeRow *row;

	refuse_in_recovery(status == PENSTOCK_PIPE_PAUSED ? "penstock.pause()" : "penstock.resume()");
	if (status == PENSTOCK_PIPE_ACTIVE)
		start_restored();
	row = lock_pipe(name, false);
	if (row->status != status && !(status == PENSTOCK_PIPE_PAUSED && row->status == PENSTOCK_PIPE_FAILED))
	{
		row->status = status;
		row->error = NULL;
		penstock_pipe_update(row);
		penstock_engine_notify_at_commit();
	}
	return (Datum) 0;
}

/*
 * penstock.pause(name): a pipe, or a continuous view.
 */
Datum
penstock_pause_named(PG_FUNCTION_ARGS)
{
	char	   *name = text_to_cstring(PG_GETARG_TEXT_PP(0));

	if (penstock_pipe_by_name(name) == NULL)
		return with_view(penstock_pause, name);
	return set_status(name, PENSTOCK_PIPE_PAUSED);
}

/*
 * penstock.resume(name): a pipe, or a continuous view.
 */
Datum
penstock_resume_named(PG_FUNCTION_ARGS)
{
	char	   *name = text_to_cstring(PG_GETARG_TEXT_PP(0));

	if (penstock_pipe_by_name(name) == NULL)
		return with_view(penstock_resume, name);
	return set_status(name, PENSTOCK_PIPE_ACTIVE);
}

/*
 * penstock.pipe_called(pipe): at commit, its worker looks for dead letters that are to be sent again.
 */
Datum
penstock_pipe_called(PG_FUNCTION_ARGS)
{
	Oid			registry = penstock_pipe_registry_oid();

	if (OidIsValid(registry))
		CacheInvalidateRelcacheByRelid(registry);
	penstock_engine_notify_at_commit();
	PG_RETURN_VOID();
}

static void
drop_row(const PenstockPipeRow *row)
{
	(void) penstock_pipe_lock(row->oid, true, true);
	penstock_pipe_delete(row->oid);
	penstock_engine_notify_at_commit();
}

/* A role that owns a pipe stays, as one that owns anything else. */
static void
role_access(ObjectAccessType access, Oid class_id, Oid object_id, int sub_id, void *arg)
{
	ListCell   *lc;

	if (access != OAT_DROP || !OidIsValid(penstock_pipe_registry_oid()))
		return;
	foreach(lc, penstock_pipe_list(NULL))
	{
		PenstockPipeRow *row = lfirst(lc);

		if (row->owner == object_id)
			ereport(ERROR,
					(errcode(ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST),
					 errmsg("role \"%s\" cannot be dropped because some objects depend on it", GetUserNameFromId(object_id, false)),
					 errdetail("owner of pipe \"%s\"", row->name),
					 errhint("DROP OWNED BY or REASSIGN OWNED BY takes it along.")));
	}
}

static void
handle_drop_owned(PenstockUtility *utility, Node *statement)
{
	List	   *roles = roleSpecsToIds(((DropOwnedStmt *) statement)->roles);
	ListCell   *lc;

	penstock_utility_continue(utility);
	if (!OidIsValid(penstock_pipe_registry_oid()))
		return;
	foreach(lc, penstock_pipe_list(NULL))
		if (list_member_oid(roles, ((PenstockPipeRow *) lfirst(lc))->owner))
			drop_row(lfirst(lc));
}

static void
handle_reassign_owned(PenstockUtility *utility, Node *statement)
{
	ReassignOwnedStmt *reassign = (ReassignOwnedStmt *) statement;
	List	   *roles = roleSpecsToIds(reassign->roles);
	Oid			new_owner = get_rolespec_oid(reassign->newrole, false);
	ListCell   *lc;

	penstock_utility_continue(utility);
	if (!OidIsValid(penstock_pipe_registry_oid()))
		return;
	foreach(lc, penstock_pipe_list(NULL))
	{
		PenstockPipeRow *row = lfirst(lc);

		if (!list_member_oid(roles, row->owner))
			continue;
		(void) penstock_pipe_lock(row->oid, true, true);
		row->owner = new_owner;
		penstock_pipe_update(row);
		penstock_engine_notify_at_commit();
	}
}

/* A pipe goes with its source. */
static void
relation_access(ObjectAccessType access, Oid class_id, Oid object_id, int sub_id, void *arg)
{
	ListCell   *lc;

	if (access != OAT_DROP || sub_id != 0 || !OidIsValid(penstock_pipe_registry_oid()) ||
		object_id == penstock_pipe_registry_oid())
		return;
	foreach(lc, penstock_pipe_list(NULL))
	{
		PenstockPipeRow *row = lfirst(lc);

		if (row->source != object_id)
			continue;
		ereport(NOTICE, (errmsg("drop cascades to pipe \"%s\"", row->name)));
		drop_row(row);
	}
}

/*
 * penstock_pipe_init registers what a process needs to know of pipes.
 */
void
penstock_pipe_init(void)
{
	penstock_object_register(RelationRelationId, relation_access);
	penstock_object_register(AuthIdRelationId, role_access);
	penstock_utility_register(T_DropOwnedStmt, handle_drop_owned);
	penstock_utility_register(T_ReassignOwnedStmt, handle_reassign_owned);
}
