/*
 * stream_executor.c
 *	  Which queries run now, as far as streams must know.
 *
 * Each query that runs divides the rows of its own transaction by command id into those it sees and
 * those it does not.  The write buffer must not mix the two in one chunk, so it asks here.
 */
#include "postgres.h"

#include "access/xact.h"
#include "executor/executor.h"
#include "utils/memutils.h"
#include "utils/snapshot.h"

#include "stream/stream_internal.h"
#include "util/given_rows.h"

typedef struct LiveQuery
{
	QueryDesc  *query;
	CommandId	curcid;
	SubTransactionId subid;
} LiveQuery;

static LiveQuery *live;
static int	nlive;
static int	maxlive;

static ExecutorStart_hook_type next_start_hook;
static ExecutorEnd_hook_type next_end_hook;

/*
 * penstock_live_commands gives the different command ids of running queries, in no order.  Returns their
 * number, or -1 if there are more than max: then every command is to be kept apart.
 */
int
penstock_live_commands(CommandId *result, int max)
{
	int			n = 0;

	for (int i = 0; i < nlive; i++)
	{
		int			j = 0;

		while (j < n && result[j] != live[i].curcid)
			j++;
		if (j < n)
			continue;
		if (n == max)
			return -1;
		result[n++] = live[i].curcid;
	}
	return n;
}

static void
add_live(QueryDesc *query)
{
	if (nlive == maxlive)
	{
		int			size = maxlive ? maxlive * 2 : 16;

		live = live ? repalloc(live, sizeof(LiveQuery) * size) :
			MemoryContextAlloc(TopMemoryContext, sizeof(LiveQuery) * size);
		maxlive = size;
	}
	live[nlive].query = query;
	live[nlive].curcid = query->snapshot->curcid;
	live[nlive].subid = GetCurrentSubTransactionId();
	nlive++;
}

static void
executor_start(QueryDesc *query, int eflags)
{
	PlannedStmt *stmt = query->plannedstmt;
	bool		scope;

	if (stmt->resultRelations != NIL)
		penstock_refuse_statement(stmt);
	/* parallel workers do not see what this process holds back */
	if (stmt->parallelModeNeeded)
		penstock_stream_flush(InvalidOid);

	scope = penstock_scope_enter(query->sourceText);
	(next_start_hook ? next_start_hook : standard_ExecutorStart) (query, eflags);
	penstock_scope_leave(scope);

	if (query->snapshot && IsMVCCSnapshot(query->snapshot))
		add_live(query);
}

static void
executor_end(QueryDesc *query)
{
	for (int i = nlive - 1; i >= 0; i--)
	{
		if (live[i].query == query)
		{
			memmove(&live[i], &live[i + 1], sizeof(LiveQuery) * (nlive - i - 1));
			nlive--;
			break;
		}
	}

	(next_end_hook ? next_end_hook : standard_ExecutorEnd) (query);
}

static void
transaction_callback(XactEvent event, void *arg)
{
	if (event == XACT_EVENT_COMMIT || event == XACT_EVENT_ABORT || event == XACT_EVENT_PREPARE)
		nlive = 0;
}

static void
subtransaction_callback(SubXactEvent event, SubTransactionId child, SubTransactionId parent,
						void *arg)
{
	int			kept = 0;

	if (event != SUBXACT_EVENT_ABORT_SUB && event != SUBXACT_EVENT_COMMIT_SUB)
		return;
	for (int i = 0; i < nlive; i++)
	{
		if (live[i].subid == child && event == SUBXACT_EVENT_ABORT_SUB)
			continue;
		if (live[i].subid == child)
			live[i].subid = parent;
		live[kept++] = live[i];
	}
	nlive = kept;
}

void
penstock_executor_init(void)
{
	next_start_hook = ExecutorStart_hook;
	ExecutorStart_hook = executor_start;
	next_end_hook = ExecutorEnd_hook;
	ExecutorEnd_hook = executor_end;
	RegisterXactCallback(transaction_callback, NULL);
	RegisterSubXactCallback(subtransaction_callback, NULL);
}
