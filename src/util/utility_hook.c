/*
 * utility_hook.c
 *	  One ProcessUtility hook and one object access hook for all modules.
 */
#include "postgres.h"

#include "access/xact.h"
#include "commands/extension.h"
#include "miscadmin.h"

#include "util/utility_hook.h"

#define MAX_HANDLERS 48

typedef struct UtilityEntry
{
	NodeTag		tag;
	PenstockUtilityHandler handler;
} UtilityEntry;

typedef struct ObjectEntry
{
	Oid			class_id;
	PenstockObjectHandler handler;
} ObjectEntry;

static UtilityEntry utility_handlers[MAX_HANDLERS];
static int	n_utility_handlers;
static ObjectEntry object_handlers[MAX_HANDLERS];
static int	n_object_handlers;

static ProcessUtility_hook_type next_utility_hook;
static object_access_hook_type next_object_hook;

void
penstock_utility_register(NodeTag tag, PenstockUtilityHandler handler)
{
	if (n_utility_handlers == MAX_HANDLERS)
		elog(ERROR, "too many utility handlers");
	utility_handlers[n_utility_handlers].tag = tag;
	utility_handlers[n_utility_handlers++].handler = handler;
}

void
penstock_object_register(Oid class_id, PenstockObjectHandler handler)
{
	if (n_object_handlers == MAX_HANDLERS)
		elog(ERROR, "too many object handlers");
	object_handlers[n_object_handlers].class_id = class_id;
	object_handlers[n_object_handlers++].handler = handler;
}

void
penstock_utility_continue(PenstockUtility *utility)
{
	Node	   *statement = utility->pstmt->utilityStmt;

	while (utility->next < n_utility_handlers)
	{
		UtilityEntry *entry = &utility_handlers[utility->next++];

		if (entry->tag == nodeTag(statement))
		{
			entry->handler(utility, statement);
			return;
		}
	}

	(next_utility_hook ? next_utility_hook : standard_ProcessUtility)
		(utility->pstmt, utility->query_string, utility->read_only_tree, utility->context,
		 utility->params, utility->query_env, utility->dest, utility->qc);
}

/* Statements that handlers see in every database. */
static bool
is_global(NodeTag tag)
{
	return tag == T_CreateExtensionStmt || tag == T_CreatedbStmt || tag == T_DropdbStmt ||
		tag == T_AlterDatabaseStmt || tag == T_RenameStmt;
}

static bool
is_handled(NodeTag tag)
{
	for (int i = 0; i < n_utility_handlers; i++)
		if (utility_handlers[i].tag == tag)
			return true;
	return false;
}

static void
penstock_process_utility(PlannedStmt *pstmt, const char *query_string, bool read_only_tree,
						 ProcessUtilityContext context, ParamListInfo params,
						 QueryEnvironment *query_env, DestReceiver *dest, QueryCompletion *qc)
{
	PenstockUtility utility = {pstmt, query_string, read_only_tree, context, params, query_env,
	dest, qc, 0};
	NodeTag		tag = nodeTag(pstmt->utilityStmt);

	/* the common case must cost nothing, and COMMIT in an aborted transaction reads no catalog */
	if (!is_handled(tag) ||
		(!is_global(tag) && tag != T_TransactionStmt &&
		 (!IsTransactionState() || !OidIsValid(get_extension_oid("penstock", true)))))
		utility.next = n_utility_handlers;

	penstock_utility_continue(&utility);
}

static void
penstock_object_access(ObjectAccessType access, Oid class_id, Oid object_id, int sub_id, void *arg)
{
	if (next_object_hook)
		next_object_hook(access, class_id, object_id, sub_id, arg);

	for (int i = 0; i < n_object_handlers; i++)
		if (object_handlers[i].class_id == class_id)
			object_handlers[i].handler(access, class_id, object_id, sub_id, arg);
}

void
penstock_utility_init(void)
{
	next_utility_hook = ProcessUtility_hook;
	ProcessUtility_hook = penstock_process_utility;
	next_object_hook = object_access_hook;
	object_access_hook = penstock_object_access;
}
