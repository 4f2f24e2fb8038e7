/*
 * producer_insert.c
 *	  produce: the question and the insert in one statement.
 *
 * The insert is a plan that is kept for each stream and form of the rows; it is made anew when the server invalidates it.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "access/tupdesc.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/hsearch.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/ruleutils.h"

#include "compat/compat.h"
#include "producer/producer_internal.h"

PG_FUNCTION_INFO_V1(penstock_produce);

typedef struct PlanKey
{
	Oid			stream;
	Oid			rows;			/* type: json, text, or an array of the stream's rows */
} PlanKey;

typedef struct KeptPlan
{
	PlanKey		key;
	SPIPlanPtr	plan;			/* kept for the life of the process, or until it is not valid any more */
} KeptPlan;

static HTAB *plans;

/* The default of a column as text that means the same under any search_path, or NULL. */
static char *
default_of(Relation rel, AttrNumber attno)
{
	TupleConstr *constr = RelationGetDescr(rel)->constr;

	for (int i = 0; constr != NULL && i < constr->num_defval; i++)
		if (constr->defval[i].adnum == attno)
			return deparse_expression(stringToNode(constr->defval[i].adbin), NIL, false, false);
	return NULL;
}

/*
 * The INSERT of a stream.  Columns that a JSON object has no value for get their defaults: these are a row that
 * json_populate_record starts from, made for each object.
 */
static char *
insert_text(Relation rel, Oid rows)
{
	TupleDesc	desc = RelationGetDescr(rel);
	char	   *name = quote_qualified_identifier(get_namespace_name(RelationGetNamespace(rel)), RelationGetRelationName(rel));
	bool		json = rows == JSONOID || rows == TEXTOID;
	bool		defaults = false;
	StringInfoData columns;
	StringInfoData values;
	StringInfoData base;
	int			nest = NewGUCNestLevel();

	(void) set_config_option("search_path", "pg_catalog, pg_temp", PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
	initStringInfo(&columns);
	initStringInfo(&values);
	initStringInfo(&base);
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);
		const char *column = quote_identifier(NameStr(att->attname));
		char	   *text = NULL;

		if (att->attisdropped)
			continue;
		if (json && att->attgenerated == '\0' && att->attidentity == '\0')
			text = default_of(rel, att->attnum);
		defaults |= text != NULL;
		appendStringInfo(&base, "%s%s", base.len ? ", " : "", text ? text : "NULL");
		/* these are never given */
		if (att->attgenerated != '\0' || att->attidentity != '\0')
			continue;
		appendStringInfo(&columns, "%s%s", columns.len ? ", " : "", column);
		appendStringInfo(&values, "%sr.%s", values.len ? ", " : "", column);
	}
	AtEOXact_GUC(false, nest);

	if (!json)
		return psprintf("INSERT INTO %s (%s) SELECT %s FROM pg_catalog.unnest($1) r", name, columns.data, values.data);
	if (!defaults)
		return psprintf("INSERT INTO %s (%s) SELECT %s FROM pg_catalog.json_populate_recordset(NULL::%s, $1::pg_catalog.json) r",
						name, columns.data, values.data, name);
	return psprintf("INSERT INTO %s (%s) SELECT %s FROM pg_catalog.json_array_elements($1::pg_catalog.json) e, "
					"pg_catalog.json_populate_record(ROW(%s)::%s, e) r",
					name, columns.data, values.data, base.data, name);
}

/* The plan for rows of that type.  Inside of an SPI connection. */
static SPIPlanPtr
plan_of(Oid stream, Oid rows)
{
	PlanKey		key = {stream, rows};
	KeptPlan   *kept;
	bool		found;
	Relation	rel;

	if (plans == NULL)
	{
		HASHCTL		ctl = {0};

		ctl.keysize = sizeof(PlanKey);
		ctl.entrysize = sizeof(KeptPlan);
		plans = hash_create("penstock produce plans", 16, &ctl, HASH_ELEM | HASH_BLOBS);
	}
	kept = hash_search(plans, &key, HASH_ENTER, &found);
	if (!found)
		kept->plan = NULL;
	if (kept->plan != NULL && !SPI_plan_is_valid(kept->plan))
	{
		SPI_freeplan(kept->plan);
		kept->plan = NULL;
	}
	if (kept->plan == NULL)
	{
		SPIPlanPtr	plan;

		rel = table_open(stream, RowExclusiveLock);
		plan = SPI_prepare(insert_text(rel, rows), 1, &rows);
		table_close(rel, NoLock);
		if (plan == NULL)
			elog(ERROR, "SPI_prepare failed: %s", SPI_result_code_string(SPI_result));
		if (SPI_keepplan(plan) != 0)
			elog(ERROR, "SPI_keepplan failed");
		kept->plan = plan;
	}
	return kept->plan;
}

static void
check_rows(Oid stream, Oid rows)
{
	Oid			element = get_element_type(rows);

	if (rows == JSONOID || rows == TEXTOID || (OidIsValid(element) && element == get_rel_type_id(stream)))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_DATATYPE_MISMATCH),
			 errmsg("the rows of a batch of stream \"%s\" cannot be of type %s", get_rel_name(stream), format_type_be(rows)),
			 errdetail("They are a JSON array of objects, or an array of type %s[].", format_type_be(get_rel_type_id(stream)))));
}

/*
 * penstock.produce(stream regclass, producer text, sequence bigint, rows json | text | anyarray, epoch bigint) → bigint: inserts the rows,
 * if the batch is new, and returns how many there are; 0 if it is a repetition.  rows is a JSON array of objects, or an array of the
 * stream's row type.  Errors as of begin_produce, and ERRCODE_DATATYPE_MISMATCH or ERRCODE_NULL_VALUE_NOT_ALLOWED.
 */
Datum
penstock_produce(PG_FUNCTION_ARGS)
{
	Oid			rows = get_fn_expr_argtype(fcinfo->flinfo, 3);
	Oid			stream;
	char	   *producer;
	int64		sequence;
	int64		epoch;
	int64		accepted;
	Datum		value;

	penstock_producer_refuse_read_only("penstock.produce()");
	producer = penstock_producer_identity(fcinfo, &stream);
	penstock_producer_batch(fcinfo, 2, 4, &sequence, &epoch);
	if (PG_ARGISNULL(3))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("rows must not be null")));
	check_rows(stream, rows);
	if (!penstock_producer_accept(stream, producer, sequence, epoch))
		PG_RETURN_INT64(0);

	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	value = PG_GETARG_DATUM(3);
	if (SPI_execute_plan(plan_of(stream, rows), &value, NULL, false, 0) != SPI_OK_INSERT)
		elog(ERROR, "a batch was not inserted");
	accepted = SPI_processed;
	SPI_finish();
	PG_RETURN_INT64(accepted);
}
