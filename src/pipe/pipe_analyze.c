/*
 * pipe_analyze.c
 *	  What a pipe's statements mean: how many there are, and whose events they consume.
 *
 * The source is the one queue that the statements read, or, if they read none, the one stream; views are looked through.
 * Everything else that they read is looked up.
 */
#include "postgres.h"

#include "access/table.h"
#include "catalog/partition.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "nodes/nodeFuncs.h"
#include "parser/parser.h"
#include "rewrite/rewriteHandler.h"
#include "storage/lmgr.h"
#include "tcop/tcopprot.h"
#include "tcop/utility.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

#include "compat/compat.h"
#include "pipe/pipe_internal.h"
#include "stream/stream.h"

/* Bounds a user's mistake, such as a dump in a pipe. */
#define MAX_STATEMENTS 100

/* What the statements read. */
typedef struct Read
{
	List	   *queues;
	List	   *streams;		/* also partitioned tables that have one */
	List	   *targets;		/* what they write to */
} Read;

List *
penstock_pipe_split(const char *text)
{
	List	   *result = NIL;
	ListCell   *lc;

	foreach(lc, raw_parser(text, RAW_PARSE_DEFAULT))
	{
		RawStmt    *raw = lfirst_node(RawStmt, lc);

		result = lappend(result, raw->stmt_len > 0 ? pnstrdup(text + raw->stmt_location, raw->stmt_len) :
						 pstrdup(text + raw->stmt_location));
	}
	if (result == NIL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("a pipe needs at least one statement")));
	if (list_length(result) > MAX_STATEMENTS)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("a pipe has at most %d statements", MAX_STATEMENTS)));
	return result;
}

List *
penstock_pipe_streams(Oid source)
{
	List	   *result = NIL;
	ListCell   *lc;

	if (get_rel_relkind(source) != RELKIND_PARTITIONED_TABLE)
		return penstock_is_stream(source) ? list_make1_oid(source) : NIL;
	foreach(lc, find_all_inheritors(source, NoLock, NULL))
		if (penstock_is_stream(lfirst_oid(lc)))
			result = lappend_oid(result, lfirst_oid(lc));
	list_sort(result, list_oid_cmp);
	return result;
}

static bool
collect(Node *node, Read *read)
{
	if (node == NULL)
		return false;
	if (IsA(node, Query))
	{
		Query	   *query = (Query *) node;
		int			rti = 0;
		ListCell   *lc;

		penstock_check_permissions(query);
		foreach(lc, query->rtable)
		{
			RangeTblEntry *rte = lfirst_node(RangeTblEntry, lc);

			rti++;
			if (rti == query->resultRelation)
				read->targets = list_append_unique_oid(read->targets, rte->relid);
			if (rte->rtekind != RTE_RELATION || rti == query->resultRelation)
				continue;
			if (rte->relkind == RELKIND_FOREIGN_TABLE && penstock_queue_connector(rte->relid) != NULL)
				read->queues = list_append_unique_oid(read->queues, rte->relid);
			else if ((rte->relkind == RELKIND_RELATION || rte->relkind == RELKIND_PARTITIONED_TABLE) &&
					 penstock_pipe_streams(rte->relid) != NIL)
				read->streams = list_append_unique_oid(read->streams, rte->relid);
		}
		return query_tree_walker(query, collect, read, 0);
	}
	return expression_tree_walker(node, collect, read);
}

static const char *
names_of(List *relids)
{
	StringInfoData names;
	ListCell   *lc;

	initStringInfo(&names);
	foreach(lc, relids)
		appendStringInfo(&names, "%s%s", names.len ? ", " : "", get_rel_name(lfirst_oid(lc)));
	return names.data;
}

pg_noreturn static void
feeds_itself(Oid relid)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_OBJECT_DEFINITION),
			 errmsg("a pipe cannot write to \"%s\", which it reads", get_rel_name(relid)),
			 errdetail("It would feed itself for ever.")));
}

/*
 * penstock_pipe_source, see pipe_internal.h.  Raises ERRCODE_FEATURE_NOT_SUPPORTED, ERRCODE_AMBIGUOUS_PARAMETER or
 * ERRCODE_INVALID_PARAMETER_VALUE, and whatever the parser does.
 */
Oid
penstock_pipe_source(const char *text, Oid wanted)
{
	Read		read = {NIL, NIL, NIL};
	List	   *candidates;
	ListCell   *lc;

	foreach(lc, penstock_pipe_split(text))
	{
		const char *statement = lfirst(lc);
		ListCell   *rc;

		foreach(rc, raw_parser(statement, RAW_PARSE_DEFAULT))
		{
			RawStmt    *raw = lfirst_node(RawStmt, rc);
			ListCell   *qc;

			if (IsA(raw->stmt, TransactionStmt))
				ereport(ERROR,
						(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
						 errmsg("a pipe's statements cannot control transactions"),
						 errdetail("All of them run in one transaction for each batch.")));
			foreach(qc, pg_analyze_and_rewrite_fixedparams(raw, statement, NULL, 0, NULL))
			{
				Query	   *query = lfirst_node(Query, qc);

				if (query->commandType != CMD_UTILITY)
					(void) collect((Node *) query, &read);
				else if (!IsA(query->utilityStmt, CallStmt) && !IsA(query->utilityStmt, NotifyStmt))
					ereport(ERROR,
							(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
							 errmsg("%s is not allowed in a pipe", GetCommandTagName(CreateCommandTag(query->utilityStmt))),
							 errdetail("A pipe's statements are INSERT, UPDATE, DELETE, MERGE, SELECT, CALL and NOTIFY.")));
			}
		}
	}

	if (OidIsValid(wanted) && list_member_oid(read.targets, wanted))
		feeds_itself(wanted);
	candidates = read.queues != NIL ? read.queues : read.streams;
	if (OidIsValid(wanted))
	{
		if (list_member_oid(read.queues, wanted) || list_member_oid(read.streams, wanted))
			return wanted;
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("no statement of the pipe reads \"%s\" as a queue or stream", get_rel_name(wanted)),
				 candidates != NIL ? errdetail("They read %s.", names_of(candidates)) : 0));
	}
	if (candidates == NIL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the pipe has no source"),
				 errdetail("None of its statements reads a queue or a stream."),
				 errhint("Name a foreign table of a connector, or a table made USING stream, in FROM.")));
	if (list_length(candidates) > 1)
		ereport(ERROR,
				(errcode(ERRCODE_AMBIGUOUS_PARAMETER),
				 errmsg("the pipe has more than one source"),
				 errdetail("Its statements read %s.", names_of(candidates)),
				 errhint("Say whose events it consumes, source => '%s'; the others are then looked up.",
						 get_rel_name(linitial_oid(candidates)))));
	if (list_member_oid(read.targets, linitial_oid(candidates)))
		feeds_itself(linitial_oid(candidates));
	return linitial_oid(candidates);
}
