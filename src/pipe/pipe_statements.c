/*
 * pipe_statements.c
 *	  A pipe's statements: prepared once, run for each batch as its owner.
 */
#include "postgres.h"

#include "access/xact.h"
#include "commands/trigger.h"
#include "nodes/makefuncs.h"
#include "tcop/dest.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/plancache.h"

#include "compat/compat.h"
#include "pipe/pipe_internal.h"
#include "stream/stream.h"
#include "util/run_as.h"

struct PenstockPipeStatements
{
	MemoryContext context;
	Oid			owner;
	char	   *settings;
	int			n;
	char	  **texts;
	SPIPlanPtr *plans;
	SPIPlanPtr *row_plans;		/* for given rows of a stream: not aggregated chunk by chunk */
};

static int	current;

int
penstock_statements_current(void)
{
	return current;
}

PenstockPipeStatements *
penstock_statements_create(MemoryContext parent, const PenstockPipeRow *row)
{
	MemoryContext context = AllocSetContextCreate(parent, "penstock statements", ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	PenstockPipeStatements *statements = palloc0(sizeof(PenstockPipeStatements));
	List	   *texts = penstock_pipe_split(row->statements);

	statements->context = context;
	statements->owner = row->owner;
	statements->settings = row->settings ? pstrdup(row->settings) : NULL;
	statements->n = list_length(texts);
	statements->texts = palloc(statements->n * sizeof(char *));
	statements->plans = palloc0(statements->n * sizeof(SPIPlanPtr));
	statements->row_plans = palloc0(statements->n * sizeof(SPIPlanPtr));
	for (int i = 0; i < statements->n; i++)
		statements->texts[i] = list_nth(texts, i);
	MemoryContextSwitchTo(old);
	return statements;
}

void
penstock_statements_free(PenstockPipeStatements *statements)
{
	for (int i = 0; i < statements->n; i++)
	{
		if (statements->plans[i])
			SPI_freeplan(statements->plans[i]);
		if (statements->row_plans[i])
			SPI_freeplan(statements->row_plans[i]);
	}
	MemoryContextDelete(statements->context);
}

static SPIPlanPtr
plan_of(PenstockPipeStatements *statements, int i, bool given)
{
	SPIPlanPtr *kept = given ? &statements->row_plans[i] : &statements->plans[i];

	if (*kept == NULL)
	{
		SPIPlanPtr	plan = SPI_prepare(statements->texts[i], 0, NULL);

		if (plan == NULL)
			ereport(ERROR,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("statement %d of the pipe cannot be prepared: %s", i + 1, SPI_result_code_string(SPI_result))));
		(void) SPI_keepplan(plan);
		*kept = plan;
	}
	return *kept;
}

static void
run(PenstockPipeStatements *statements, double expected, bool given)
{
	SPIExecuteOptions options = {0};

	options.dest = None_Receiver;
	penstock_delta_assume_rows(expected);
	for (int i = 0; i < statements->n; i++)
	{
		SPIPlanPtr	plan;
		int			result;

		current = i + 1;
		plan = plan_of(statements, i, given);
		/* the events are the statement's; a function in it reads the source as anybody does */
		penstock_scope_set(((CachedPlanSource *) linitial(SPI_plan_get_plan_sources(plan)))->query_string);
		result = SPI_execute_plan_extended(plan, &options);
		if (result < 0)
			ereport(ERROR,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("statement %d of the pipe cannot be run: %s", i + 1, SPI_result_code_string(result))));
	}
	penstock_scope_set(NULL);
	/* what is written to streams fails here, if it fails, and not at commit */
	penstock_stream_flush(InvalidOid);
	penstock_delta_assume_rows(0);
}

/* Deferred triggers and constraints run with the batch, as its owner, not at commit as somebody else. */
static void
constraints_immediate(void)
{
	ConstraintsSetStmt *statement = makeNode(ConstraintsSetStmt);

	statement->constraints = NIL;
	statement->deferred = false;
	AfterTriggerSetState(statement);
}

/*
 * penstock_statements_run, see pipe_internal.h.  What the events are must have been said before: given rows, or a delta.
 */
void
penstock_statements_run(PenstockPipeStatements *statements, double expected, bool given)
{
	PenstockRunAs saved;

	current = 0;
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	penstock_run_as_begin(&saved, statements->owner, statements->settings);
	if (given)
		(void) set_config_option("penstock.enable_stream_aggregate", "off", PGC_USERSET, PGC_S_SESSION,
								 GUC_ACTION_SAVE, true, 0, false);
	constraints_immediate();
	run(statements, expected, given);
	penstock_run_as_end(&saved);
	SPI_finish();
}
