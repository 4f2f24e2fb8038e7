/*
 * queue.c
 *	  What connectors reach Penstock by: the interface's functions, and one set of FDW routines for all of them.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "catalog/pg_foreign_server.h"
#include "catalog/pg_user_mapping.h"
#include "commands/defrem.h"
#include "foreign/fdwapi.h"
#include "foreign/foreign.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/syscache.h"

#include "catalogue/pipe_registry.h"
#include "compat/compat.h"
#include "queue/queue_internal.h"
#include "util/engine_call.h"
#include "util/utility_hook.h"

/* The routines, and whose they are: what a handler returns is this. */
typedef struct QueueRoutine
{
	FdwRoutine	base;
	uint32		magic;
	const PenstockConnector *connector;
} QueueRoutine;

#define QUEUE_ROUTINE_MAGIC 0x50535451

static List *import_schema(ImportForeignSchemaStmt *stmt, Oid serverid);

static FdwRoutine *
make_routine(const PenstockConnector *connector)
{
	QueueRoutine *routine = palloc0(sizeof(QueueRoutine));

	if (connector->abi != PENSTOCK_CONNECTOR_ABI)
		ereport(ERROR,
				(errcode(ERRCODE_FDW_ERROR),
				 errmsg("connector \"%s\" does not belong to this version of penstock", connector->name)));
	routine->base.type = T_FdwRoutine;
	routine->magic = QUEUE_ROUTINE_MAGIC;
	routine->connector = connector;
	penstock_queue_scan_routine(&routine->base);
	if (connector->open_producer != NULL)
		penstock_queue_modify_routine(&routine->base);
	if (connector->import != NULL)
		routine->base.ImportForeignSchema = import_schema;
	return &routine->base;
}

/* The connector that a handler's routine belongs to, NULL if it is none of ours. */
const PenstockConnector *
penstock_routine_connector(const FdwRoutine *routine)
{
	FdwRoutine	ours = {0};

	penstock_queue_scan_routine(&ours);
	if (routine->GetForeignRelSize != ours.GetForeignRelSize ||
		((const QueueRoutine *) routine)->magic != QUEUE_ROUTINE_MAGIC)
		return NULL;
	return ((const QueueRoutine *) routine)->connector;
}

const PenstockConnector *
penstock_server_connector(Oid serverid)
{
	ForeignDataWrapper *wrapper = GetForeignDataWrapper(GetForeignServer(serverid)->fdwid);

	if (!OidIsValid(wrapper->fdwhandler))
		return NULL;
	return penstock_routine_connector(GetFdwRoutine(wrapper->fdwhandler));
}

const PenstockConnector *
penstock_queue_connector(Oid relid)
{
	if (get_rel_relkind(relid) != RELKIND_FOREIGN_TABLE)
		return NULL;
	return penstock_server_connector(GetForeignTable(relid)->serverid);
}

void
penstock_option_missing(const PenstockConnectorOption *option, const char *whose)
{
	ereport(ERROR,
			(errcode(ERRCODE_FDW_DYNAMIC_PARAMETER_VALUE_NEEDED),
			 errmsg("option \"%s\" of %s is missing", option->name, whose),
			 errhint("It is the %s.", option->description)));
}

/* Options that must be given somewhere; the user mapping may come later. */
static void
check_required(const PenstockQueue *queue, bool mapped)
{
	const PenstockConnectorOption *option = queue->connector->options;

	for (; option->name != NULL; option++)
	{
		if (!option->required || penstock_queue_option(queue, option->name) != NULL ||
			(!OidIsValid(queue->relid) && (option->places & PENSTOCK_ON_SERVER) == 0) ||
			(!mapped && (option->places & PENSTOCK_ON_USER) != 0))
			continue;
		penstock_option_missing(option, queue->name);
	}
}

/* Which of a message's metadata anybody looks at. */
static void
look_at_columns(PenstockQueue *queue)
{
	HeapTuple	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(queue->relid));
	int			natts = HeapTupleIsValid(tuple) ? ((Form_pg_class) GETSTRUCT(tuple))->relnatts : 0;


	if (HeapTupleIsValid(tuple))
		ReleaseSysCache(tuple);
	for (int attno = 1; attno <= natts; attno++)
	{
		ListCell   *lc;

		foreach(lc, GetForeignColumnOptions(queue->relid, attno))
		{
			DefElem    *option = lfirst_node(DefElem, lc);
			PenstockColumnKind kind;
			const char *name;

			if (strcmp(option->defname, "metadata") != 0 ||
				!penstock_metadata_kind(queue->connector, defGetString(option), &kind, &name))
				continue;
			if (kind == PENSTOCK_COLUMN_HEADERS || kind == PENSTOCK_COLUMN_HEADER)
				queue->wants_headers = true;
			if (kind == PENSTOCK_COLUMN_PROPERTY)
				queue->wants_properties = true;
		}
	}
}

/*
 * penstock_queue_make_durable waits until everything that this process has committed is on disk, and where synchronous standbys are,
 * there too.  Outside of a transaction.
 */
void
penstock_queue_make_durable(void)
{
	MemoryContext old = CurrentMemoryContext;

	StartTransactionCommand();
	(void) GetCurrentTransactionId();
	ForceSyncCommit();
	CommitTransactionCommand();
	MemoryContextSwitchTo(old);
}

static PenstockQueue *
open_queue(Oid serverid, Oid relid, Oid userid, const char *consumer)
{
	PenstockQueue *queue = palloc0(sizeof(PenstockQueue));
	ForeignServer *server = GetForeignServer(serverid);
	bool		mapped = false;

	queue->relid = relid;
	queue->serverid = serverid;
	queue->userid = userid;
	queue->server_name = server->servername;
	queue->connector = penstock_server_connector(serverid);
	queue->consumer = consumer;
	if (queue->connector == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("server \"%s\" is not one of a penstock connector", server->servername)));
	queue->name = OidIsValid(relid) ?
		quote_qualified_identifier(get_namespace_name(get_rel_namespace(relid)), get_rel_name(relid)) :
		quote_identifier(server->servername);
	queue->options = list_copy(server->options);
	if (SearchSysCacheExists2(USERMAPPINGUSERSERVER, ObjectIdGetDatum(userid), ObjectIdGetDatum(serverid)) ||
		SearchSysCacheExists2(USERMAPPINGUSERSERVER, ObjectIdGetDatum(InvalidOid), ObjectIdGetDatum(serverid)))
	{
		queue->options = list_concat(queue->options, GetUserMapping(userid, serverid)->options);
		mapped = true;
	}
	if (OidIsValid(relid))
		queue->options = list_concat(queue->options, GetForeignTable(relid)->options);
	if (OidIsValid(relid))
		look_at_columns(queue);
	check_required(queue, mapped);
	if (queue->connector->check != NULL)
		queue->connector->check(queue);
	return queue;
}

PenstockQueue *
penstock_queue_open(Oid relid, Oid userid, const char *consumer)
{
	return open_queue(GetForeignTable(relid)->serverid, relid, userid, consumer);
}

PenstockQueue *
penstock_queue_open_server(Oid serverid, Oid userid)
{
	return open_queue(serverid, InvalidOid, userid, NULL);
}

/*
 * penstock_fault_raise raises a fault.  What is not the fault of one message has an SQLSTATE that makes a pipe try again: class 08,
 * or ERRCODE_FDW_UNABLE_TO_ESTABLISH_CONNECTION where the connector gave another, which only a session sees.
 */
void
penstock_fault_raise(const PenstockQueue *queue, const PenstockFault *fault, bool message)
{
	int			sqlstate = fault->sqlstate;

	if (message && sqlstate == 0)
		sqlstate = ERRCODE_FDW_ERROR;
	else if (!message && ERRCODE_TO_CATEGORY(sqlstate) != ERRCODE_CONNECTION_EXCEPTION &&
			 (sqlstate == 0 || MyBackendType == B_BG_WORKER))
		sqlstate = sqlstate == 0 ? ERRCODE_CONNECTION_FAILURE : ERRCODE_FDW_UNABLE_TO_ESTABLISH_CONNECTION;
	ereport(ERROR,
			(errcode(sqlstate),
			 errmsg("%s: %s", queue->name, fault->message[0] ? fault->message : "the connector failed"),
			 fault->detail[0] ? errdetail("%s", fault->detail) : 0,
			 fault->hint[0] ? errhint("%s", fault->hint) : 0));
}

/*
 * penstock_connector_quietly calls close or the like, also where an error would make matters worse: during an abort.
 */
void
penstock_connector_quietly(void (*function) (PenstockConsumer *), PenstockConsumer *consumer)
{
	MemoryContext old = CurrentMemoryContext;

	PG_TRY();
	{
		function(consumer);
	}
	PG_CATCH();
	{
		ErrorData  *error;

		MemoryContextSwitchTo(old);
		error = CopyErrorData();
		FlushErrorState();
		ereport(WARNING,
				(errcode(error->sqlerrcode),
				 errmsg("a connector failed where it must not: %s", error->message)));
		FreeErrorData(error);
	}
	PG_END_TRY();
}

/* When options have changed, pipes look at them anew, also those that sleep or wait for a refusal to be mended. */
static void
call_pipes(void)
{
	Oid			registry = penstock_pipe_registry_oid();

	if (!OidIsValid(registry))
		return;
	CacheInvalidateRelcacheByRelid(registry);
	penstock_engine_notify_at_commit();
}

static void
options_changed(PenstockUtility *utility, Node *statement)
{
	bool		other_table = IsA(statement, AlterTableStmt) &&
		((AlterTableStmt *) statement)->objtype != OBJECT_FOREIGN_TABLE;

	penstock_utility_continue(utility);
	if (!other_table)
		call_pipes();
}

/* CREATE FOREIGN TABLE: what only options and columns together can tell is said at once. */
static void
check_new_queue(PenstockUtility *utility, Node *statement)
{
	RangeVar   *name = ((CreateForeignTableStmt *) statement)->base.relation;
	Relation	rel;
	Oid			relid;

	penstock_utility_continue(utility);
	relid = RangeVarGetRelid(name, NoLock, true);
	if (!OidIsValid(relid) || penstock_queue_connector(relid) == NULL)
		return;
	rel = table_open(relid, AccessShareLock);
	(void) penstock_queue_columns(rel, penstock_queue_open(relid, GetUserId(), NULL));
	table_close(rel, NoLock);
}

static List *
import_schema(ImportForeignSchemaStmt *stmt, Oid serverid)
{
	PenstockQueue *queue = penstock_queue_open_server(serverid, GetUserId());
	PenstockOutcome outcome = PENSTOCK_OK;
	PenstockFault fault = {0};
	List	   *commands;

	queue->server_name = quote_identifier(queue->server_name);
	commands = queue->connector->import(queue, stmt, &outcome, &fault);
	if (outcome != PENSTOCK_OK)
		penstock_fault_raise(queue, &fault, false);
	return commands;
}

static const PenstockConnectorApi api = {
	.abi = PENSTOCK_CONNECTOR_ABI,
	.fdw_routine = make_routine,
	.validate = penstock_queue_validate,
	.option = penstock_queue_option,
	.option_int = penstock_queue_option_int,
	.option_bool = penstock_queue_option_bool,
	.batch_add = penstock_batch_add,
	.batch_drop = penstock_batch_drop,
	.batch_rows = penstock_batch_count,
	.make_durable = penstock_queue_make_durable,
	.batch_context = penstock_batch_context,
	.register_format = penstock_format_register,
	.format_value = penstock_format_value,
	.format_column_option = penstock_format_column_option,
	.format_set_column = penstock_format_set_column,
};

/*
 * penstock_queue_init publishes the interface for connectors.
 */
void
penstock_queue_init(void)
{
	*find_rendezvous_variable(PENSTOCK_CONNECTOR_API) = (void *) &api;
	penstock_given_rows_init();
	penstock_utility_register(T_CreateForeignTableStmt, check_new_queue);
	penstock_utility_register(T_AlterTableStmt, options_changed);
	penstock_utility_register(T_AlterForeignServerStmt, options_changed);
	penstock_utility_register(T_CreateUserMappingStmt, options_changed);
	penstock_utility_register(T_AlterUserMappingStmt, options_changed);
	penstock_utility_register(T_DropUserMappingStmt, options_changed);
	penstock_outbox_init();
}
