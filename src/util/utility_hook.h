/*
 * utility_hook.h
 *	  One ProcessUtility hook and one object access hook for all modules.
 *
 * Modules register handlers in their init; handlers are tried in that order.
 */
#ifndef PENSTOCK_UTILITY_HOOK_H
#define PENSTOCK_UTILITY_HOOK_H

#include "catalog/objectaccess.h"
#include "nodes/plannodes.h"
#include "tcop/utility.h"

/* Everything ProcessUtility was called with. */
typedef struct PenstockUtility
{
	PlannedStmt *pstmt;
	const char *query_string;
	bool		read_only_tree;
	ProcessUtilityContext context;
	ParamListInfo params;
	QueryEnvironment *query_env;
	DestReceiver *dest;
	QueryCompletion *qc;
	int			next;			/* private to the dispatcher */
} PenstockUtility;

/*
 * Handles statements whose node tag is "tag".  A handler must call penstock_utility_continue()
 * for the statement to be executed; what it does before and after that is its business.
 * To change the statement it must copy it first: utility->pstmt = copyObject(utility->pstmt).
 * Only called where the extension exists in the database (always for CREATE/DROP EXTENSION and
 * DATABASE statements).
 */
typedef void (*PenstockUtilityHandler) (PenstockUtility *utility, Node *statement);

extern void penstock_utility_register(NodeTag tag, PenstockUtilityHandler handler);
extern void penstock_utility_continue(PenstockUtility *utility);

/* Called for object access events of the given class (e.g. RelationRelationId). */
typedef void (*PenstockObjectHandler) (ObjectAccessType access, Oid class_id, Oid object_id,
									   int sub_id, void *arg);
extern void penstock_object_register(Oid class_id, PenstockObjectHandler handler);

extern void penstock_utility_init(void);	/* from _PG_init, last */

#endif							/* PENSTOCK_UTILITY_HOOK_H */
