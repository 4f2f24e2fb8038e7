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

/* ---- steps ---- */

/* Marks what no column holds. */
static void
mark(void)
{
	int			level = NewGUCNestLevel();

	/* with estimates as they are before an ANALYZE, a nested loop over all objects and columns might never end */
	(void) set_config_option("enable_nestloop", "off", PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
	/* (a time after that of the snapshot, see oldest_start) */
	penstock_claim_run(psprintf("UPDATE penstock.claim_object AS t SET unheld_since = pg_catalog.clock_timestamp() FROM"
				 " (SELECT o.ctid FROM penstock.claim_object AS o WHERE o.unheld_since IS NULL AND %s FOR NO KEY UPDATE OF o SKIP LOCKED) AS n"
				 " WHERE t.ctid OPERATOR(pg_catalog.=) n.ctid", penstock_claim_unheld()), 0, NULL, NULL, false, SPI_OK_UPDATE);
	AtEOXact_GUC(true, level);
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

	penstock_claim_run("SELECT pg_catalog.min(a.xact_start) FROM pg_catalog.pg_stat_get_activity(NULL) AS a WHERE a.datid OPERATOR(pg_catalog.=) $1"
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

	penstock_claim_run("SELECT o.claim, o.loid, o.ctid, o.stored, o.expires_at <= pg_catalog.clock_timestamp(), pg_catalog.octet_length(o.payload)"
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
	held = penstock_claim_find_held(claims, n, &nheld);
	for (int i = 0; i < n; i++)
	{
		bool		isnull;
		bool		no_size;
		bool		no_expiry;
		Oid			loid = DatumGetObjectId(SPI_getbinval(rows->vals[i], rows->tupdesc, 2, &isnull));
		ItemPointer tid = (ItemPointer) DatumGetPointer(SPI_getbinval(rows->vals[i], rows->tupdesc, 3, &no_size));
		bool		expired = DatumGetBool(SPI_getbinval(rows->vals[i], rows->tupdesc, 5, &no_expiry)) && !no_expiry;
		PenstockClaim *claim = DatumGetClaim(claims[i]);

		if (expired || nheld == 0 || bsearch(&claim, held, nheld, sizeof(PenstockClaim *), penstock_claim_compare) == NULL)
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

			penstock_claim_run("UPDATE penstock.claim_object AS o SET unheld_since = NULL WHERE o.ctid OPERATOR(pg_catalog.=) $1", 1, tid_type, value, false,
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

	penstock_claim_run(query, nargs, types, values, false, SPI_OK_SELECT);
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
	char	   *condition = penstock_claim_unheld();

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
		(void) penstock_claim_lock_columns(true);
		mark();
		penstock_claim_merge();
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
	all = penstock_claim_holders(false);
	if (all != NULL)
	{
		penstock_claim_run(psprintf("SELECT DISTINCT h.c FROM %s WHERE NOT EXISTS (SELECT FROM penstock.claim_object AS o"
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
		if (has_objects() && penstock_claim_lock_columns(false))
		{
			/* DDL goes first */
			penstock_run_as_begin(&saved, BOOTSTRAP_SUPERUSERID, COLLECTOR_SETTINGS "\nlock_timeout=1s");
			if (SPI_connect() != SPI_OK_CONNECT)
				elog(ERROR, "SPI_connect failed");
			if (!marked)
			{
				mark();
				penstock_claim_merge();
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
