/*
 * pipe_saved.c
 *	  Pipes in a dump.
 *
 * pg_dump reads the table penstock.saved_pipe, whose registered condition adds what penstock.save_pipes() gives, in the dump's own
 * snapshot, as text.  What a restore inserts into it becomes pipes and what belongs to them.
 *
 * A restored pipe is paused, as a restored subscription is: nobody wants two servers to send the same alerts.  A queue is then read on from
 * where the dump's snapshot had it.  A stream's rows are restored as rows that the pipe has had; those that it had not had, as that
 * snapshot sees it, come as dead letters to be sent again.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/namespace.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/rls.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"
#include "utils/varlena.h"

#include "catalogue/registry.h"
#include "compat/compat.h"
#include "pipe/pipe_internal.h"
#include "stream/stream.h"
#include "util/run_as.h"

PG_FUNCTION_INFO_V1(penstock_save_pipes);
PG_FUNCTION_INFO_V1(penstock_restore_pipe);

/* So many rows at a time. */
#define SLICE 1000

/* columns of penstock.saved_pipe */
enum
{
	SAVED_KIND = 1,
	SAVED_PIPE,
	SAVED_COLUMNS,
	SAVED_NATTS = SAVED_COLUMNS
};

/* what stands in the columns of a pipe, of a message that it has seen, of a dead letter */
enum
{
	PIPE_OWNER,
	PIPE_SOURCE,
	PIPE_STATEMENTS,
	PIPE_SETTINGS,
	PIPE_ON_ERROR,
	PIPE_BATCH_ROWS,
	PIPE_BATCH_BYTES,
	PIPE_BATCH_TIME,
	PIPE_DEDUP_WINDOW,
	PIPE_DEDUP_KEY,
	PIPE_PARTITIONS,
	PIPE_OFFSETS,
	PIPE_ROWS,
	PIPE_COLUMNS
};

enum
{
	SEEN_ID,
	SEEN_AT,
	SEEN_COLUMNS
};

/* from the third on, they are those of penstock.dead_letter */
enum
{
	LETTER_OWNER,
	LETTER_SOURCE,
	LETTER_PARTITION,
	LETTER_PAYLOAD = LETTER_PARTITION + 4,
	LETTER_SQLSTATE = LETTER_PAYLOAD + 6,
	LETTER_MESSAGE,
	LETTER_DETAIL,
	LETTER_FAILED_AT,
	LETTER_REDRIVE,
	LETTER_COLUMNS
};

#define MOST_COLUMNS LETTER_COLUMNS

static const Oid pipe_types[PIPE_COLUMNS] = {
	TEXTOID, TEXTOID, TEXTOID, TEXTOID, CHAROID, INT4OID, INT8OID, INT4OID, INT8OID, TEXTOID, TEXTARRAYOID, INT8ARRAYOID, INT8ARRAYOID
};
static const Oid seen_types[SEEN_COLUMNS] = {BYTEAOID, TIMESTAMPTZOID};
static const Oid letter_types[LETTER_COLUMNS] = {
	TEXTOID, TEXTOID, TEXTOID, INT8OID, BYTEAOID, BYTEAOID, BYTEAOID, JSONBOID, JSONBOID, TIMESTAMPTZOID, INT4OID, TEXTOID, TEXTOID, TEXTOID,
	TEXTOID, TIMESTAMPTZOID, BOOLOID
};

typedef struct SavedKind
{
	char		kind;
	int			ncolumns;
	const Oid  *types;
	const char *optional;		/* '?': may be null */
} SavedKind;

static const SavedKind kinds[] = {
	{'p', PIPE_COLUMNS, pipe_types, "...?.....?..."},
	{'s', SEEN_COLUMNS, seen_types, ".."},
	{'d', LETTER_COLUMNS, letter_types, "." "???????????" "..?.."}
};

static const char pipes_query[] =
"SELECT 'p'::\"char\", p.name, ARRAY[pg_get_userbyid(p.owner)::text, format('%I.%I', n.nspname, c.relname), p.statements, p.settings, p.on_error::text,"
" p.batch_rows::text, p.batch_bytes::text, p.batch_time::text, p.dedup_window::text, p.dedup_key,"
" coalesce(s.partitions::text, '{}'), coalesce(s.offsets::text, '{}'), coalesce(s.rows::text, '{}')]"
" FROM penstock.pipe p JOIN pg_class c ON c.oid = p.source JOIN pg_namespace n ON n.oid = c.relnamespace,"
" LATERAL (SELECT array_agg(s.partition ORDER BY s.partition) AS partitions, array_agg(s.\"offset\" ORDER BY s.partition) AS offsets,"
" array_agg(s.row ORDER BY s.partition) AS rows FROM penstock.source_position s WHERE s.pipe = p.pipe) s ORDER BY p.name";

static const char seen_query[] =
"SELECT 's'::\"char\", p.name, ARRAY[s.id::text, s.seen_at::text] FROM penstock.seen_message s JOIN penstock.pipe p USING (pipe)";

static const char letters_query[] =
"SELECT 'd'::\"char\", d.pipe_name, ARRAY[pg_get_userbyid(d.owner)::text, CASE WHEN c.oid IS NOT NULL THEN format('%I.%I', n.nspname, c.relname) END,"
" d.partition, d.\"offset\"::text, d.message_id::text, d.key::text, d.payload::text, d.headers::text, d.properties::text,"
" d.event_timestamp::text, d.statement::text, d.column_name, d.sqlstate, d.message, d.detail, d.failed_at::text, d.redrive::text]"
" FROM penstock.dead_letter d LEFT JOIN pg_class c ON c.oid = d.source LEFT JOIN pg_namespace n ON n.oid = c.relnamespace ORDER BY d.id";

/* ---- saving ---- */

/* What a pipe says and has failed at is its owner's business, or that of one who dumps databases. */
static void
check_may_save(Oid owner, const char *what)
{
	if (!has_privs_of_role(GetUserId(), owner) && !has_privs_of_role(GetUserId(), ROLE_PG_READ_ALL_DATA))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied for %s", what),
				 errdetail("Only the owner and members of role pg_read_all_data can save it."),
				 errhint("Make the dump as a member of pg_read_all_data.")));
}

/* Raises an error unless the caller may save everything that the queries give.  Returns the pipes. */
static List *
pipes_to_save(void)
{
	List	   *rows = penstock_pipe_list(GetActiveSnapshot());
	ListCell   *lc;

	foreach(lc, rows)
	{
		PenstockPipeRow *row = lfirst(lc);

		check_may_save(row->owner, psprintf("pipe \"%s\"", row->name));
	}
	foreach(lc, penstock_dead_letter_owners())
		check_may_save(lfirst_oid(lc), "the dead letters of others");
	return rows;
}

/*
 * Adds what the query gives, in the caller's snapshot, to the function's result.  Our own tables are read as the server's first user.
 */
static void
save_rows(ReturnSetInfo *result, const char *query)
{
	Portal		portal;
	PenstockRunAs run;

	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	penstock_run_as_begin(&run, BOOTSTRAP_SUPERUSERID, NULL);
	portal = SPI_cursor_open_with_args(NULL, query, 0, NULL, NULL, NULL, true, CURSOR_OPT_NO_SCROLL);
	do
	{
		SPI_cursor_fetch(portal, true, SLICE);
		for (uint64 i = 0; i < SPI_processed; i++)
			tuplestore_puttuple(result->setResult, SPI_tuptable->vals[i]);
		SPI_freetuptable(SPI_tuptable);
	} while (SPI_processed > 0);
	SPI_cursor_close(portal);
	penstock_run_as_end(&run);
	SPI_finish();
}

/* Whoever saves a stream's events must be able to read them. */
static void
check_may_read(Oid relid)
{
	AclResult	result = pg_class_aclcheck(relid, GetUserId(), ACL_SELECT);

	if (result != ACLCHECK_OK)
		aclcheck_error(result, OBJECT_TABLE, get_rel_name(relid));
	if (check_enable_rls(relid, InvalidOid, true) == RLS_ENABLED)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("events of table \"%s\" that a pipe has not taken would be affected by row-level security policy", get_rel_name(relid)),
				 errhint("Make the dump as its owner, or as a role that bypasses row-level security.")));
}

/* An event as a dead letter that is to be sent again. */
static void
save_event(ReturnSetInfo *result, const PenstockPipeRow *pipe, Oid relid, const PenstockGivenRow *row)
{
	Datum		columns[LETTER_COLUMNS] = {0};
	bool		nulls[LETTER_COLUMNS];
	int			n = LETTER_COLUMNS;
	int			lower = 1;
	const char *json = penstock_pipe_row_json(relid, row);
	size_t		length = strlen(json);
	char	   *payload = MemoryContextAllocHuge(CurrentMemoryContext, length * 2 + 3);
	Datum		values[SAVED_NATTS];
	bool		isnull[SAVED_NATTS] = {false};

	memcpy(payload, "\\x", 2);
	payload[2 + hex_encode(json, length, payload + 2)] = '\0';
	memset(nulls, true, sizeof(nulls));
#define PUT(column, text) (columns[column] = CStringGetTextDatum(text), nulls[column] = false)
	PUT(LETTER_OWNER, GetUserNameFromId(pipe->owner, false));
	PUT(LETTER_SOURCE, quote_qualified_identifier(get_namespace_name(get_rel_namespace(pipe->source)), get_rel_name(pipe->source)));
	if (relid != pipe->source)
		PUT(LETTER_PARTITION, get_rel_name(relid));
	PUT(LETTER_PAYLOAD, payload);
	PUT(LETTER_SQLSTATE, "00000");
	PUT(LETTER_MESSAGE, "the pipe had not taken the event when the dump was made");
	PUT(LETTER_FAILED_AT, timestamptz_to_str(GetCurrentTimestamp()));
	PUT(LETTER_REDRIVE, "true");
#undef PUT
	values[SAVED_KIND - 1] = CharGetDatum('d');
	values[SAVED_PIPE - 1] = CStringGetTextDatum(pipe->name);
	values[SAVED_COLUMNS - 1] =
		PointerGetDatum(construct_md_array(columns, nulls, 1, &n, &lower, TEXTOID, -1, false, TYPALIGN_INT));
	tuplestore_putvalues(result->setResult, result->setDesc, values, isnull);
}

static void
save_delta(ReturnSetInfo *result, const PenstockPipeRow *pipe, const PenstockDelta *delta)
{
	Relation	rel = table_open(delta->relid, NoLock);
	PenstockGivenRow *rows = NULL;
	int			nrows = 0;
	int			room = 0;

	penstock_delta_rows(delta, rel, GetActiveSnapshot(), &rows, &nrows, &room);
	for (int i = 0; i < nrows; i++)
		save_event(result, pipe, delta->relid, &rows[i]);
	table_close(rel, NoLock);
}

/* The events between the position of a stream's pipe and the caller's snapshot. */
static void
save_events(ReturnSetInfo *result, const PenstockPipeRow *pipe)
{
	PenstockSources *sources = penstock_sources_create(CurrentMemoryContext);
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "penstock save events", ALLOCSET_DEFAULT_SIZES);
	List	   *streams = penstock_pipe_streams(pipe->source);
	Datum		upto = penstock_position_current();
	PenstockPosition from;
	ListCell   *lc;

	/* it was made after the snapshot, or restored and never run */
	if (!penstock_position_get(pipe->oid, GetActiveSnapshot(), &from))
		return;
	foreach(lc, streams)
		LockRelationOid(lfirst_oid(lc), AccessShareLock);
	for (;;)
	{
		PenstockPosition to;
		int64		left;
		List	   *deltas = penstock_sources_delta(sources, streams, &from, upto, SLICE, &to, &left);
		MemoryContext old;

		if (deltas == NIL && !from.slicing)
			break;
		if (deltas != NIL)
			check_may_read(pipe->source);
		old = MemoryContextSwitchTo(context);
		foreach(lc, deltas)
			save_delta(result, pipe, lfirst(lc));
		MemoryContextSwitchTo(old);
		MemoryContextReset(context);
		from = to;
	}
}

/*
 * penstock.save_pipes() → setof saved_pipe: for pg_dump.  Raises ERRCODE_INSUFFICIENT_PRIVILEGE if the user may not save one of the pipes or
 * dead letters.
 */
Datum
penstock_save_pipes(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	List	   *pipes = pipes_to_save();
	ListCell   *lc;

	InitMaterializedSRF(fcinfo, 0);
	save_rows(result, pipes_query);
	save_rows(result, seen_query);
	save_rows(result, letters_query);
	/* (what connector a queue has must not be asked: pg_dump does without foreign tables) */
	foreach(lc, pipes)
	{
		char		kind = get_rel_relkind(((PenstockPipeRow *) lfirst(lc))->source);

		if (kind == RELKIND_RELATION || kind == RELKIND_PARTITIONED_TABLE)
			save_events(result, lfirst(lc));
	}
	return (Datum) 0;
}

/* ---- restoring ---- */

pg_noreturn static void
cannot_restore(const char *pipe, const char *detail)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("a saved row of pipe \"%s\" cannot be restored", pipe),
			 errdetail("%s", detail)));
}

/* The values of a saved row's columns. */
static void
read_columns(const SavedKind *kind, const char *pipe, Datum columns, Datum *values, bool *isnull)
{
	Datum	   *texts;
	bool	   *nulls;
	int			n;

	deconstruct_array(DatumGetArrayTypeP(columns), TEXTOID, -1, false, TYPALIGN_INT, &texts, &nulls, &n);
	if (n != kind->ncolumns)
		cannot_restore(pipe, psprintf("It has %d columns instead of %d.", n, kind->ncolumns));
	for (int i = 0; i < n; i++)
	{
		Oid			input;
		Oid			param;

		isnull[i] = nulls[i];
		values[i] = (Datum) 0;
		if (nulls[i] && kind->optional[i] != '?')
			cannot_restore(pipe, psprintf("Its column %d is null.", i + 1));
		if (nulls[i])
			continue;
		getTypeInputInfo(kind->types[i], &input, &param);
		values[i] = OidInputFunctionCall(input, TextDatumGetCString(texts[i]), param, -1);
	}
}

static Oid
relation_of(Datum name)
{
	return RangeVarGetRelid(makeRangeVarFromNameList(textToQualifiedNameList(DatumGetTextPP(name))), NoLock, true);
}

/* The role, or who restores it. */
static Oid
owner_of(Datum name, const char *what, const char *pipe)
{
	char	   *owner = TextDatumGetCString(name);
	Oid			role = get_role_oid(owner, true);

	if (OidIsValid(role))
		return role;
	ereport(NOTICE,
			(errmsg("role \"%s\" does not exist: %s \"%s\" is owned by \"%s\"", owner, what, pipe, GetUserNameFromId(GetUserId(), false))));
	return GetUserId();
}

static void
restore_places(const PenstockPipeRow *row, const Datum *values)
{
	ArrayType  *arrays[3] = {
		DatumGetArrayTypeP(values[PIPE_PARTITIONS]), DatumGetArrayTypeP(values[PIPE_OFFSETS]), DatumGetArrayTypeP(values[PIPE_ROWS])
	};
	Datum	   *elements[3];
	int			n[3];
	PenstockPlace *places;

	for (int i = 0; i < lengthof(arrays); i++)
	{
		if (array_contains_nulls(arrays[i]))
			cannot_restore(row->name, "Its position has a null.");
		if (i == 0)
			deconstruct_array(arrays[i], TEXTOID, -1, false, TYPALIGN_INT, &elements[i], NULL, &n[i]);
		else
			deconstruct_array(arrays[i], INT8OID, sizeof(int64), FLOAT8PASSBYVAL, TYPALIGN_DOUBLE, &elements[i], NULL, &n[i]);
	}
	if (n[1] != n[0] || n[2] != n[0])
		cannot_restore(row->name, psprintf("Its position has %d partitions, %d offsets and %d rows.", n[0], n[1], n[2]));
	places = palloc0(Max(n[0], 1) * sizeof(PenstockPlace));
	for (int i = 0; i < n[0]; i++)
	{
		places[i].partition = TextDatumGetCString(elements[0][i]);
		places[i].at = DatumGetInt64(elements[1][i]);
		places[i].row = DatumGetInt64(elements[2][i]);
	}
	penstock_places_write(row->oid, places, n[0]);
}

/* What the trigger remembers from row to row. */
typedef struct Restore
{
	MemoryContext context;
	List	   *present;		/* names of pipes that were there before (char *) */
	Oid			last;			/* the last pipe looked for, since a dump has many rows of each */
	char		last_name[NAMEDATALEN];
} Restore;

/*
 * A pipe, which is paused.  One whose source was not restored is left out.  One that is there stays as it is: what the dump has besides for one of
 * that name is not for it.
 */
static void
restore_pipe(Restore *restore, char *name, const Datum *values, const bool *isnull)
{
	PenstockPipeRow row = {.name = name};

	penstock_pipe_lock_names();
	if (penstock_pipe_by_name(name) != NULL)
	{
		MemoryContext old = MemoryContextSwitchTo(restore->context);

		restore->present = lappend(restore->present, pstrdup(name));
		MemoryContextSwitchTo(old);
		ereport(NOTICE, (errmsg("pipe \"%s\" already exists, skipping", name)));
		return;
	}
	row.source = relation_of(values[PIPE_SOURCE]);
	if (!OidIsValid(row.source))
	{
		ereport(NOTICE, (errmsg("%s does not exist: pipe \"%s\" is left out", TextDatumGetCString(values[PIPE_SOURCE]), name)));
		return;
	}
	row.owner = owner_of(values[PIPE_OWNER], "pipe", name);
	row.statements = TextDatumGetCString(values[PIPE_STATEMENTS]);
	row.settings = isnull[PIPE_SETTINGS] ? NULL : TextDatumGetCString(values[PIPE_SETTINGS]);
	row.status = PENSTOCK_PIPE_PAUSED;
	row.on_error = (PenstockOnError) DatumGetChar(values[PIPE_ON_ERROR]);
	row.batch_rows = DatumGetInt32(values[PIPE_BATCH_ROWS]);
	row.batch_bytes = DatumGetInt64(values[PIPE_BATCH_BYTES]);
	row.batch_time = DatumGetInt32(values[PIPE_BATCH_TIME]);
	row.dedup_window = DatumGetInt64(values[PIPE_DEDUP_WINDOW]);
	row.dedup_key = isnull[PIPE_DEDUP_KEY] ? NULL : TextDatumGetCString(values[PIPE_DEDUP_KEY]);
	penstock_pipe_check_batch(&row);
	if (row.on_error != PENSTOCK_ON_ERROR_DEAD_LETTER && row.on_error != PENSTOCK_ON_ERROR_STOP && row.on_error != PENSTOCK_ON_ERROR_SKIP)
		cannot_restore(name, "Its on_error is none.");
	if (row.batch_time < 0 || row.dedup_window < 0)
		cannot_restore(name, "Its batch_time or its dedup_window is negative.");
	penstock_pipe_insert(&row);
	restore_places(&row, values);
}

static bool
is_present(const Restore *restore, const char *name)
{
	ListCell   *lc;

	foreach(lc, restore->present)
		if (strcmp(lfirst(lc), name) == 0)
			return true;
	return false;
}

/* The OID of a pipe, or InvalidOid. */
static Oid
pipe_of(Restore *restore, const char *name)
{
	if (!OidIsValid(restore->last) || strcmp(restore->last_name, name) != 0)
	{
		PenstockPipeRow *row = penstock_pipe_by_name(name);

		restore->last = row ? row->oid : InvalidOid;
		strlcpy(restore->last_name, name, sizeof(restore->last_name));
	}
	return restore->last;
}

/*
 * penstock.restore_pipe(): the trigger of penstock.saved_pipe, for a restore: a row that a dump has brought becomes a pipe, or what belongs to one.
 * A dead letter whose pipe is gone can be read, and not sent again.
 */
Datum
penstock_restore_pipe(PG_FUNCTION_ARGS)
{
	TriggerData *data = (TriggerData *) fcinfo->context;
	const SavedKind *kind = NULL;
	Datum		saved[SAVED_NATTS];
	bool		saved_null[SAVED_NATTS];
	Datum		values[MOST_COLUMNS];
	bool		isnull[MOST_COLUMNS];
	Restore    *restore = fcinfo->flinfo->fn_extra;
	char	   *name;
	Oid			pipe;

	if (!CALLED_AS_TRIGGER(fcinfo) || !TRIGGER_FIRED_BEFORE(data->tg_event) || !TRIGGER_FIRED_BY_INSERT(data->tg_event) ||
		RelationGetRelid(data->tg_relation) != get_relname_relid("saved_pipe", get_namespace_oid("penstock", false)))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("penstock.restore_pipe() was not called by the trigger of penstock.saved_pipe")));
	heap_deform_tuple(data->tg_trigtuple, RelationGetDescr(data->tg_relation), saved, saved_null);
	/* it will not come to the check of the columns */
	if (saved_null[SAVED_KIND - 1] || saved_null[SAVED_PIPE - 1] || saved_null[SAVED_COLUMNS - 1])
		cannot_restore(saved_null[SAVED_PIPE - 1] ? "" : TextDatumGetCString(saved[SAVED_PIPE - 1]), "It has a null.");
	name = TextDatumGetCString(saved[SAVED_PIPE - 1]);
	for (int i = 0; i < lengthof(kinds); i++)
		if (kinds[i].kind == DatumGetChar(saved[SAVED_KIND - 1]))
			kind = &kinds[i];
	if (kind == NULL)
		cannot_restore(name, "Its kind is none.");
	read_columns(kind, name, saved[SAVED_COLUMNS - 1], values, isnull);

	if (restore == NULL)
	{
		restore = fcinfo->flinfo->fn_extra = MemoryContextAllocZero(fcinfo->flinfo->fn_mcxt, sizeof(Restore));
		restore->context = fcinfo->flinfo->fn_mcxt;
	}
	if (is_present(restore, name))
		return PointerGetDatum(NULL);
	switch (kind->kind)
	{
		case 'p':
			restore_pipe(restore, name, values, isnull);
			break;
		case 's':
			pipe = pipe_of(restore, name);
			if (OidIsValid(pipe))
				(void) penstock_seen_add(pipe, VARDATA_ANY(DatumGetByteaPP(values[SEEN_ID])),
										 VARSIZE_ANY_EXHDR(DatumGetByteaPP(values[SEEN_ID])), DatumGetTimestampTz(values[SEEN_AT]));
			break;
		case 'd':
			penstock_dead_letter_restore(pipe_of(restore, name), name, owner_of(values[LETTER_OWNER], "a dead letter of pipe", name),
										 isnull[LETTER_SOURCE] ? InvalidOid : relation_of(values[LETTER_SOURCE]),
										 &values[LETTER_PARTITION], &isnull[LETTER_PARTITION]);
			break;
	}
	return PointerGetDatum(NULL);
}
