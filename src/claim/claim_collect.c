/*
 * claim_collect.c
 *	  Payloads that no ticket stands for any more are removed.
 *
 * Which tickets there are, the columns themselves tell: every column of type claim (or of an array of them, or of a domain over it) holds what
 * stands in it, in tables and in streams.  So a writer pays nothing for it, and there is nothing that could go wrong with a count:
 * after TRUNCATE, DROP, retention or a restore the columns say what they say.
 *
 * A pass marks what no column holds with the time.  What was marked the grace time ago, and is looked for once more and not found, is removed;
 * before that its row is locked, so that nobody can use the object in between, see claim_object.c.  All of it happens in queries that the server
 * plans, and in one transaction for each step.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "common/int.h"
#include "catalog/namespace.h"
#include "catalog/objectaccess.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_class.h"
#include "catalog/pg_largeobject.h"
#include "catalog/pg_type.h"
#include "commands/sequence.h"
#include "executor/spi.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/bufmgr.h"
#include "storage/lmgr.h"
#include "storage/procarray.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "catalogue/own_table.h"
#include "claim/claim_internal.h"
#include "compat/compat.h"
#include "util/run_as.h"
#include "util/stop_point.h"
#include "util/utility_hook.h"

PG_FUNCTION_INFO_V1(penstock_claim_collect);
PG_FUNCTION_INFO_V1(penstock_claim_missing);

/* Objects that one step looks for and removes at most. */
#define STEP 10000
/* Rows that may be duplicates, looked at at once. */
#define MERGE_STEP 100000
/* A pass may take one part in so many of the time. */
#define SHARE 20
/* (many short queries, that are not worth compiling) */
#define COLLECTOR_SETTINGS "row_security=off\njit=off"

typedef struct Collected
{
	int64		objects;
	int64		bytes;
	int64		waiting;
} Collected;

/* ---- queries ---- */

/* The claims that stand in columns, as column c of a subquery h; $1 are the ones asked for, if "some".  NULL: there are no columns. */
static char *
holders(bool some)
{
	StringInfoData query;
	ListCell   *lc;

	initStringInfo(&query);
	foreach(lc, penstock_claim_columns())
	{
		ClaimColumn *column = lfirst(lc);
		char	   *relation;
		char	   *name;

		if (column->relkind == RELKIND_PARTITIONED_TABLE || column->persistence == RELPERSISTENCE_TEMP || !penstock_claim_column_lock(column))
			continue;
		relation = penstock_claim_column_relation(column);
		name = penstock_claim_column_name(column);
		if (query.len > 0)
			appendStringInfoString(&query, " UNION ALL ");
		if (column->is_array)
			appendStringInfo(&query, "SELECT u::penstock.claim AS c FROM ONLY %s, pg_catalog.unnest(%s) AS u WHERE ", relation, name);
		else
			appendStringInfo(&query, "SELECT %s::penstock.claim AS c FROM ONLY %s WHERE ", name, relation);
		if (some)
			appendStringInfo(&query, "%s OPERATOR(pg_catalog.=) ANY ($1)", column->is_array ? "u" : name);
		else
			appendStringInfo(&query, "%s IS NOT NULL", column->is_array ? "u" : name);
	}
	return query.len > 0 ? psprintf("(%s) AS h", query.data) : NULL;
}

/*
 * Locks all tables that have such columns before there are locks of rows, so that no deadlock comes of them: nothing is held while one is waited
 * for.  Returns false if not "wait" and somebody is changing one.
 */
static bool
lock_columns(bool wait)
{
	for (;;)
	{
		List	   *locked = NIL;
		Oid			busy = InvalidOid;
		ListCell   *lc;

		foreach(lc, penstock_claim_columns())
		{
			ClaimColumn *column = lfirst(lc);

			if (column->relkind == RELKIND_PARTITIONED_TABLE || column->persistence == RELPERSISTENCE_TEMP)
				continue;
			if (!ConditionalLockRelationOid(column->relid, AccessShareLock))
			{
				busy = column->relid;
				break;
			}
			locked = lappend_oid(locked, column->relid);
		}
		if (!OidIsValid(busy))
			return true;
		foreach(lc, locked)
			UnlockRelationOid(lfirst_oid(lc), AccessShareLock);
		if (!wait)
			return false;
		LockRelationOid(busy, AccessShareLock);
		UnlockRelationOid(busy, AccessShareLock);
	}
}

/* A condition on o: no column holds it. */
static char *
unheld(void)
{
	char	   *all = holders(false);

	return all ? psprintf("NOT EXISTS (SELECT FROM %s WHERE h.c OPERATOR(pg_catalog.=) o.claim)", all) : "true";
}

static void
run(const char *query, int nargs, Oid *types, Datum *values, bool read_only, int expected)
{
	int			result = SPI_execute_with_args(query, nargs, types, values, NULL, read_only, 0);

	if (result != expected)
		elog(ERROR, "\"%s\" returned %d", query, result);
}

/* All objects are looked for in all columns: with estimates as they are before an ANALYZE, a nested loop might never end. */
static void
run_over_all(const char *query, int nargs, Oid *types, Datum *values, bool read_only, int expected)
{
	int			level = NewGUCNestLevel();

	(void) set_config_option("enable_nestloop", "off", PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
	run(query, nargs, types, values, read_only, expected);
	AtEOXact_GUC(true, level);
}

/* ---- steps ---- */

/* Marks what no column holds. */
static void
mark(void)
{
	/* (a time after that of the snapshot, see oldest_start) */
	run_over_all(psprintf("UPDATE penstock.claim_object AS t SET unheld_since = pg_catalog.clock_timestamp() FROM"
				 " (SELECT o.ctid FROM penstock.claim_object AS o WHERE o.unheld_since IS NULL AND %s FOR NO KEY UPDATE OF o SKIP LOCKED) AS n"
				 " WHERE t.ctid OPERATOR(pg_catalog.=) n.ctid", unheld()), 0, NULL, NULL, false, SPI_OK_UPDATE);
}

/*
 * A row that may be a duplicate, and that this transaction has locked, is removed if there is another one, which is locked, too, so that no other
 * collector removes that, and takes over what this one was promised.
 */
static bool
merge_duplicate(const Datum *row, const bool *row_null)
{
	Oid			types[4] = {TIDOID, penstock_claim_type(), TIMESTAMPTZOID, TIMESTAMPTZOID};
	Datum		values[4] = {row[0], row[1], row[3], row[4]};
	char		nulls[5] = {' ', ' ', row_null[3] ? 'n' : ' ', row_null[4] ? 'n' : ' ', '\0'};
	bool		other;
	ItemPointerData tid;
	bool		isnull;

	/* (none if this one was changed when others were removed) */
	run("SELECT p.ctid FROM penstock.claim_object AS o, penstock.claim_object AS p WHERE o.ctid OPERATOR(pg_catalog.=) $1"
		" AND p.claim OPERATOR(pg_catalog.=) $2 AND p.ctid OPERATOR(pg_catalog.<>) $1 LIMIT 1 FOR NO KEY UPDATE OF p SKIP LOCKED", 2, types, values, false, SPI_OK_SELECT);
	other = SPI_processed > 0;
	if (other)
		tid = *(ItemPointer) DatumGetPointer(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull));
	SPI_freetuptable(SPI_tuptable);
	if (other)
	{
		ClaimObject object = {0};

		object.tid = *(ItemPointer) DatumGetPointer(row[0]);
		object.claim = *DatumGetClaim(row[1]);
		object.loid = row_null[2] ? InvalidOid : DatumGetObjectId(row[2]);
		object.stored = row_null[5] ? 0 : DatumGetInt64(row[5]);
		penstock_claim_object_delete(&object);
		values[0] = PointerGetDatum(&tid);
		if (SPI_execute_with_args("UPDATE penstock.claim_object AS p SET"
								  " expires_at = CASE WHEN p.expires_at IS NOT NULL AND $3 IS NOT NULL THEN greatest(p.expires_at, $3) END,"
								  " unheld_since = CASE WHEN p.unheld_since IS NOT NULL AND $4 IS NOT NULL THEN greatest(p.unheld_since, $4) END"
								  " WHERE p.ctid OPERATOR(pg_catalog.=) $1 AND p.claim OPERATOR(pg_catalog.=) $2 AND"
								  " (p.expires_at OPERATOR(pg_catalog.<) $3 OR (p.expires_at IS NOT NULL AND $3 IS NULL) OR"
								  " p.unheld_since OPERATOR(pg_catalog.<) $4 OR (p.unheld_since IS NOT NULL AND $4 IS NULL))",
								  4, types, values, nulls, false, 0) != SPI_OK_UPDATE)
			elog(ERROR, "a duplicate could not be removed");
	}
	return other;
}

#define ANOTHER "EXISTS (SELECT FROM penstock.claim_object AS p WHERE p.claim OPERATOR(pg_catalog.=) o.claim AND p.ctid OPERATOR(pg_catalog.<>) o.ctid)"

/*
 * Puts together what was written twice.  Returns true if anything was.  Of the rows that may be duplicates, those are none that nobody else
 * is writing the payload of, and that are, by a snapshot taken after that was seen, alone.
 */
static bool
merge_pass(void)
{
	Oid			types[1] = {TIDARRAYOID};
	Datum		values[1];
	SPITupleTable *rows;
	Datum	   *all;
	Datum	   *quiet;
	int			n;
	int			nquiet = 0;
	bool		any = false;

	run(psprintf("SELECT o.ctid, o.claim FROM penstock.claim_object AS o WHERE o.duplicate LIMIT %d FOR UPDATE SKIP LOCKED", MERGE_STEP),
		0, NULL, NULL, false, SPI_OK_SELECT);
	rows = SPI_tuptable;
	n = SPI_processed;
	if (n == 0)
		return false;
	PENSTOCK_STOP_POINT(claim_before_merge);
	all = palloc(n * sizeof(Datum));
	quiet = palloc(n * sizeof(Datum));
	for (int i = 0; i < n; i++)
	{
		bool		isnull;

		all[i] = SPI_getbinval(rows->vals[i], rows->tupdesc, 1, &isnull);
		if (penstock_claim_is_quiet(DatumGetClaim(SPI_getbinval(rows->vals[i], rows->tupdesc, 2, &isnull))))
			quiet[nquiet++] = all[i];
	}
	values[0] = PointerGetDatum(construct_array(quiet, nquiet, TIDOID, sizeof(ItemPointerData), false, TYPALIGN_SHORT));
	run("UPDATE penstock.claim_object AS o SET duplicate = NULL WHERE o.ctid OPERATOR(pg_catalog.=) ANY ($1) AND NOT " ANOTHER, 1, types, values,
		false, SPI_OK_UPDATE);
	values[0] = PointerGetDatum(construct_array(all, n, TIDOID, sizeof(ItemPointerData), false, TYPALIGN_SHORT));
	run("SELECT o.ctid, o.claim, o.loid, o.expires_at, o.unheld_since, o.stored FROM penstock.claim_object AS o"
		" WHERE o.ctid OPERATOR(pg_catalog.=) ANY ($1) AND o.duplicate AND " ANOTHER, 1, types, values, false, SPI_OK_SELECT);
	rows = SPI_tuptable;
	n = SPI_processed;
	for (int i = 0; i < n; i++)
	{
		Datum		row[6];
		bool		isnull[6];

		for (int j = 0; j < lengthof(row); j++)
			row[j] = SPI_getbinval(rows->vals[i], rows->tupdesc, j + 1, &isnull[j]);
		if (merge_duplicate(row, isnull))
			any = true;
		CHECK_FOR_INTERRUPTS();
	}
	return any;
}

static void
merge_duplicates(void)
{
	while (merge_pass())
		CommandCounterIncrement();
}

static int
compare_claims(const void *a, const void *b)
{
	return memcmp(*(PenstockClaim *const *) a, *(PenstockClaim *const *) b, sizeof(PenstockClaim));
}

/* Which of the claims do columns hold?  Sorted; *nheld of them. */
static PenstockClaim **
find_held(Datum *claims, int n, int *nheld)
{
	Oid			type = penstock_claim_type();
	Oid			types[1] = {get_array_type(type)};
	Datum		values[1] = {PointerGetDatum(construct_array(claims, n, type, sizeof(PenstockClaim), false, TYPALIGN_CHAR))};
	char	   *some = holders(true);
	PenstockClaim **held;

	*nheld = 0;
	if (some == NULL)
		return NULL;
	run(psprintf("SELECT DISTINCT h.c FROM %s", some), 1, types, values, false, SPI_OK_SELECT);
	held = palloc(Max(SPI_processed, 1) * sizeof(PenstockClaim *));
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		bool		isnull;

		held[i] = DatumGetClaim(SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1, &isnull));
	}
	*nheld = SPI_processed;
	qsort(held, *nheld, sizeof(PenstockClaim *), compare_claims);
	return held;
}

/*
 * An open transaction may have copied a ticket from a row that has been deleted since, so what was marked after it began stays.  There are two
 * looks at it: by its start, as a stream's writer has no transaction number before it commits, and by numbers and snapshots, which are of
 * prepared transactions, too.  Vacuum could not give back the pages of what is removed earlier anyhow.
 */
static TimestampTz
oldest_start(void)
{
	Oid			types[1] = {OIDOID};
	Datum		values[1] = {ObjectIdGetDatum(MyDatabaseId)};
	Datum		start;
	bool		isnull;

	run("SELECT pg_catalog.min(a.xact_start) FROM pg_catalog.pg_stat_get_activity(NULL) AS a WHERE a.datid OPERATOR(pg_catalog.=) $1"
		" AND a.pid OPERATOR(pg_catalog.<>) pg_catalog.pg_backend_pid() AND a.backend_type OPERATOR(pg_catalog.<>) 'autovacuum worker'",
		1, types, values, false, SPI_OK_SELECT);
	start = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull);
	return isnull ? PG_INT64_MAX : DatumGetTimestampTz(start);
}

static TransactionId
oldest_number(void)
{
	Relation	rel = table_open(penstock_own_table_oid("claim_object"), AccessShareLock);
	TransactionId oldest = GetOldestNonRemovableTransactionId(rel);

	table_close(rel, AccessShareLock);
	return oldest;
}

/* Removes up to STEP of what was marked before the time, and is still not held.  Returns true if there may be more. */
static bool
collect_step(TimestampTz before, bool at_once, Collected *collected)
{
	Oid			types[4] = {TIMESTAMPTZOID, INT4OID, BOOLOID, XIDOID};
	Datum		values[4] = {TimestampTzGetDatum(at_once ? before : Min(before, oldest_start() - 1)), Int32GetDatum(STEP), BoolGetDatum(at_once),
	TransactionIdGetDatum(oldest_number())};
	SPITupleTable *rows;
	int			n;
	Datum	   *claims;
	PenstockClaim **held;
	int			nheld;
	Oid			counter = penstock_own_table_oid("claim_collected");

	run("SELECT o.claim, o.loid, o.ctid, o.stored, o.expires_at <= pg_catalog.clock_timestamp(), pg_catalog.octet_length(o.payload)"
		" FROM penstock.claim_object AS o"
		" WHERE (o.unheld_since <= $1 AND ($3 OR pg_catalog.age(o.xmin) OPERATOR(pg_catalog.>) pg_catalog.age($4)))"
		" OR o.expires_at <= pg_catalog.clock_timestamp() LIMIT $2 FOR UPDATE SKIP LOCKED",
		4, types, values, false, SPI_OK_SELECT);
	rows = SPI_tuptable;
	n = SPI_processed;
	if (n == 0)
		return false;
	PENSTOCK_STOP_POINT(claim_after_lock);
	claims = palloc(n * sizeof(Datum));
	for (int i = 0; i < n; i++)
	{
		bool		isnull;

		claims[i] = SPI_getbinval(rows->vals[i], rows->tupdesc, 1, &isnull);
	}
	/* with a snapshot that is newer than the locks */
	held = find_held(claims, n, &nheld);
	for (int i = 0; i < n; i++)
	{
		bool		isnull;
		bool		no_size;
		bool		no_expiry;
		Oid			loid = DatumGetObjectId(SPI_getbinval(rows->vals[i], rows->tupdesc, 2, &isnull));
		ItemPointer tid = (ItemPointer) DatumGetPointer(SPI_getbinval(rows->vals[i], rows->tupdesc, 3, &no_size));
		bool		expired = DatumGetBool(SPI_getbinval(rows->vals[i], rows->tupdesc, 5, &no_expiry)) && !no_expiry;
		PenstockClaim *claim = DatumGetClaim(claims[i]);

		if (expired || nheld == 0 || bsearch(&claim, held, nheld, sizeof(PenstockClaim *), compare_claims) == NULL)
		{
			ClaimObject object = {0};
			Datum		stored = SPI_getbinval(rows->vals[i], rows->tupdesc, 4, &no_size);

			object.claim = *claim;
			object.stored = !no_size ? DatumGetInt64(stored) : DatumGetInt32(SPI_getbinval(rows->vals[i], rows->tupdesc, 6, &no_size));
			collected->bytes += object.stored;
			object.tid = *tid;
			object.loid = isnull ? InvalidOid : loid;
			penstock_claim_object_delete(&object);
			collected->objects++;
			(void) nextval_internal(counter, false);
			CHECK_FOR_INTERRUPTS();
		}
		else
		{
			Oid			tid_type[1] = {TIDOID};
			Datum		value[1] = {PointerGetDatum(tid)};

			run("UPDATE penstock.claim_object AS o SET unheld_since = NULL WHERE o.ctid OPERATOR(pg_catalog.=) $1", 1, tid_type, value, false,
				SPI_OK_UPDATE);
		}
	}
	CommandCounterIncrement();
	PENSTOCK_STOP_POINT(claim_after_delete);
	return n == STEP;
}

static int64
count(const char *query, int64 *sum, int nargs, Oid *types, Datum *values)
{
	bool		isnull;
	int64		n;

	run(query, nargs, types, values, false, SPI_OK_SELECT);
	n = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull));
	if (sum)
	{
		*sum = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 2, &isnull));
		if (isnull)
			*sum = 0;
	}
	return n;
}

/* What a collection would remove. */
static void
look(TimestampTz before, bool at_once, Collected *collected)
{
	Oid			types[2] = {TIMESTAMPTZOID, BOOLOID};
	Datum		values[2] = {TimestampTzGetDatum(before), BoolGetDatum(at_once)};
	char	   *condition = unheld();

	collected->objects = count(psprintf("SELECT pg_catalog.count(*), pg_catalog.sum(coalesce(o.stored, pg_catalog.octet_length(o.payload)))::bigint"
										" FROM penstock.claim_object AS o WHERE o.expires_at <= pg_catalog.clock_timestamp()"
										" OR ((o.unheld_since <= $1 OR $2) AND %s)", condition), &collected->bytes, 2, types, values);
	collected->waiting = count(psprintf("SELECT pg_catalog.count(*) FROM penstock.claim_object AS o WHERE %s", condition), NULL, 0, NULL, NULL)
		- collected->objects;
	collected->waiting = Max(collected->waiting, 0);
}

/*
 * penstock.claim_collect(dry_run boolean, grace interval) → (collected, bytes, waiting): as the background does, at once and in this
 * transaction.  ERRCODE_FEATURE_NOT_SUPPORTED unless it is read committed.
 */
Datum
penstock_claim_collect(PG_FUNCTION_ARGS)
{
	bool		dry_run = PG_GETARG_BOOL(0);
	TimestampTz now = GetCurrentTimestamp();
	int64		grace = (int64) penstock_claim_grace * USECS_PER_SEC;
	Collected	collected = {0};
	PenstockRunAs saved;
	TupleDesc	desc;
	Datum		values[3];
	bool		isnull[3] = {false};

	if (IsolationUsesXactSnapshot())
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("claims can only be collected in a read committed transaction"),
				 errdetail("It must see tickets that were stored a moment ago.")));
	if (!PG_ARGISNULL(1))
	{
		Interval   *interval = PG_GETARG_INTERVAL_P(1);

		int64		days = interval->day + interval->month * (int64) DAYS_PER_MONTH;

		/* of what is longer than there are timestamps, nothing is collected */
		if (pg_mul_s64_overflow(days, USECS_PER_DAY, &grace) || pg_add_s64_overflow(grace, interval->time, &grace))
			grace = days < 0 ? -1 : PG_INT64_MAX;
		if (grace < 0)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("the grace time cannot be negative")));
	}
	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "penstock.claim_collect() has other columns than expected");
	if (!dry_run)
		PreventCommandIfReadOnly("penstock.claim_collect()");
	penstock_run_as_begin(&saved, BOOTSTRAP_SUPERUSERID, COLLECTOR_SETTINGS);
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	if (dry_run)
		look(now - grace, grace == 0, &collected);
	else
	{
		(void) lock_columns(true);
		mark();
		merge_duplicates();
		/* what was marked just now, by this transaction, counts if there is no grace */
		while (collect_step(grace == 0 ? PG_INT64_MAX : now - grace, grace == 0, &collected))
			;
		collected.waiting = count("SELECT pg_catalog.count(*) FROM penstock.claim_object AS o WHERE o.unheld_since IS NOT NULL", NULL, 0, NULL,
								  NULL);
	}
	SPI_finish();
	penstock_run_as_end(&saved);
	values[0] = Int64GetDatum(collected.objects);
	values[1] = Int64GetDatum(collected.bytes);
	values[2] = Int64GetDatum(collected.waiting);
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, isnull)));
}

/*
 * penstock.claim_missing() → setof claim: tickets that stand in columns, but whose payloads are not here.
 */
Datum
penstock_claim_missing(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	PenstockRunAs saved;
	char	   *all;

	InitMaterializedSRF(fcinfo, MAT_SRF_USE_EXPECTED_DESC);
	penstock_run_as_begin(&saved, BOOTSTRAP_SUPERUSERID, COLLECTOR_SETTINGS);
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	all = holders(false);
	if (all != NULL)
	{
		run(psprintf("SELECT DISTINCT h.c FROM %s WHERE NOT EXISTS (SELECT FROM penstock.claim_object AS o"
					 " WHERE o.claim OPERATOR(pg_catalog.=) h.c)", all), 0, NULL, NULL, true, SPI_OK_SELECT);
		for (uint64 i = 0; i < SPI_processed; i++)
		{
			bool		isnull;
			Datum		value = SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1, &isnull);

			tuplestore_putvalues(result->setResult, result->setDesc, &value, &isnull);
		}
	}
	SPI_finish();
	penstock_run_as_end(&saved);
	return (Datum) 0;
}

/* ---- in the background ---- */

static bool
has_objects(void)
{
	Oid			namespace_oid = get_namespace_oid("penstock", true);
	Oid			relid = OidIsValid(namespace_oid) ? get_relname_relid("claim_object", namespace_oid) : InvalidOid;
	Relation	rel = OidIsValid(relid) ? try_table_open(relid, AccessShareLock) : NULL;
	bool		result;

	/* the extension may be about to go */
	if (rel == NULL)
		return false;
	result = RelationGetNumberOfBlocks(rel) > 0;
	table_close(rel, AccessShareLock);
	return result;
}

bool
penstock_claim_upkeep(TimestampTz *due)
{
	static TimestampTz rested;	/* since when there was nothing to do */
	static TimestampTz pause;
	static bool marked;
	TimestampTz start = GetCurrentTimestamp();
	MemoryContext old = CurrentMemoryContext;
	volatile bool more = false;

	*due = 0;
	if (penstock_claim_collect_interval == 0)
		return false;
	/* (the setting may have changed) */
	*due = rested + Max((int64) penstock_claim_collect_interval * USECS_PER_SEC, pause);
	if (rested != 0 && *due > start)
		return false;
	pgstat_report_activity(STATE_RUNNING, "collecting claims");
	PG_TRY();
	{
		PenstockRunAs saved;
		Collected	collected = {0};

		StartTransactionCommand();
		/* it must see tickets that were stored after it has locked what may go */
		XactIsoLevel = XACT_READ_COMMITTED;
		PushActiveSnapshot(GetTransactionSnapshot());
		if (has_objects() && lock_columns(false))
		{
			/* DDL goes first */
			penstock_run_as_begin(&saved, BOOTSTRAP_SUPERUSERID, COLLECTOR_SETTINGS "\nlock_timeout=1s");
			if (SPI_connect() != SPI_OK_CONNECT)
				elog(ERROR, "SPI_connect failed");
			if (!marked)
			{
				mark();
				merge_duplicates();
			}
			more = collect_step(start - (int64) penstock_claim_grace * USECS_PER_SEC, false, &collected);
			SPI_finish();
			penstock_run_as_end(&saved);
		}
		PopActiveSnapshot();
		CommitTransactionCommand();
	}
	PG_CATCH();
	{
		ErrorData  *error;

		MemoryContextSwitchTo(old);
		error = CopyErrorData();
		FlushErrorState();
		AbortCurrentTransaction();
		more = false;
		ereport(LOG,
				(errcode(error->sqlerrcode),
				 errmsg("claims could not be collected and will be later: %s", error->message)));
		FreeErrorData(error);
	}
	PG_END_TRY();
	MemoryContextSwitchTo(old);
	marked = more;
	rested = *due = 0;
	if (!more)
	{
		rested = GetCurrentTimestamp();
		pause = SHARE * (rested - start);
		*due = rested + Max((int64) penstock_claim_collect_interval * USECS_PER_SEC, pause);
	}
	return more;
}

/* ---- drops ---- */

/* The large object of a claim is nobody's to drop but ours. */
static void
large_object_dropped(ObjectAccessType access, Oid class_id, Oid object_id, int sub_id, void *arg)
{
	ClaimObject object;

	if (access == OAT_DROP && penstock_claim_object_of(object_id, &object))
		ereport(ERROR,
				(errcode(ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST),
				 errmsg("large object %u holds the payload of a claim", object_id),
				 errhint("It is removed when no row holds the claim. To drop the role that owns it, use REASSIGN OWNED first.")));
}

/* The table goes with the extension, and the large objects with it. */
static void
table_dropped(ObjectAccessType access, Oid class_id, Oid object_id, int sub_id, void *arg)
{
	char	   *name;

	if (access != OAT_DROP || sub_id != 0)
		return;
	name = get_rel_name(object_id);
	if (name != NULL && strcmp(name, "claim_object") == 0 && strcmp(get_namespace_name(get_rel_namespace(object_id)), "penstock") == 0)
		penstock_claim_object_drop_all(object_id);
}

void
penstock_claim_collect_init(void)
{
	penstock_object_register(LargeObjectRelationId, large_object_dropped);
	penstock_object_register(RelationRelationId, table_dropped);
}
