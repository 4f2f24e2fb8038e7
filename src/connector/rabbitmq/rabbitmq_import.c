/*
 * rabbitmq_import.c
 *	  IMPORT FOREIGN SCHEMA: foreign tables for the queues that are named.
 */
#include "postgres.h"

#include "nodes/parsenodes.h"
#include "nodes/pg_list.h"
#include "utils/builtins.h"

#include "connector/rabbitmq/rabbitmq.h"

static char *
create_command(const PenstockQueue *server, const char *name)
{
	return psprintf("CREATE FOREIGN TABLE %s (payload text OPTIONS (metadata 'payload'), "
					"message_id text OPTIONS (metadata 'message_id'), "
					"\"timestamp\" timestamptz OPTIONS (metadata 'timestamp'), "
					"routing_key text OPTIONS (metadata 'routing_key'), "
					"headers jsonb OPTIONS (metadata 'headers')%s) "
					"SERVER %s OPTIONS (queue %s)",
					quote_identifier(name),
					server->connector->has_offsets ? ", \"offset\" int8 OPTIONS (metadata 'offset')" : "",
					server->server_name, quote_literal_cstr(name));
}

/*
 * penstock_rabbitmq_import makes commands for the queues of LIMIT TO, after looking whether they exist: AMQP 0-9-1 cannot list
 * queues.
 */
List *
penstock_rabbitmq_import(const PenstockQueue *server, ImportForeignSchemaStmt *stmt, PenstockOutcome *outcome,
						 PenstockFault *fault)
{
	List	   *commands = NIL;
	RabbitLink *link;
	ListCell   *lc;
	int64		ignored;

	if (stmt->list_type != FDW_IMPORT_SCHEMA_LIMIT_TO)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("RabbitMQ's protocol cannot list queues"),
				 errhint("Name them: IMPORT FOREIGN SCHEMA ... LIMIT TO (queue, ...).")));
	link = penstock_rabbitmq_link_open(server, outcome, fault);
	if (link == NULL)
		return NIL;
	foreach(lc, stmt->table_list)
	{
		const char *name = lfirst_node(RangeVar, lc)->relname;

		*outcome = penstock_rabbitmq_link_declared(link, RABBITMQ_CHANNEL, name, &ignored, fault);
		if (*outcome != PENSTOCK_OK)
			break;
		commands = lappend(commands, create_command(server, name));
	}
	penstock_rabbitmq_link_close(link);
	return *outcome == PENSTOCK_OK ? commands : NIL;
}
