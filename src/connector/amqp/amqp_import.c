/*
 * amqp_import.c
 *	  IMPORT FOREIGN SCHEMA: AMQP 1.0 has no way to list addresses, so those that are named are looked at.
 */
#include "postgres.h"

#include <proton/session.h>
#include <proton/terminus.h>

#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "utils/builtins.h"

#include "connector/amqp/amqp.h"

static char *
create_table(const PenstockQueue *server, const ImportForeignSchemaStmt *stmt, const char *address)
{
	return psprintf("CREATE FOREIGN TABLE %s ("
					"message_id text OPTIONS (metadata 'message_id'), "
					"sent_at timestamptz OPTIONS (metadata 'timestamp'), "
					"redelivered bool OPTIONS (metadata 'redelivered'), "
					"content_type text OPTIONS (metadata 'content_type'), "
					"headers jsonb OPTIONS (metadata 'headers'), "
					"payload bytea OPTIONS (metadata 'payload')"
					") SERVER %s OPTIONS (address %s)",
					quote_qualified_identifier(stmt->local_schema, address),
					server->server_name, quote_literal_cstr(address));
}

/*
 * penstock_amqp_import returns the commands for the addresses of LIMIT TO, each of which must let a reader attach.
 */
List *
penstock_amqp_import(const PenstockQueue *server, ImportForeignSchemaStmt *stmt,
					 PenstockOutcome *outcome, PenstockFault *fault)
{
	char	   *name = psprintf("penstock-%d-" INT64_FORMAT, MyProcPid, penstock_amqp_now());
	AmqpConnection *connection;
	List	   *commands = NIL;
	ListCell   *lc;

	if (stmt->list_type != FDW_IMPORT_SCHEMA_LIMIT_TO)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("an AMQP 1.0 broker cannot list its addresses"),
				 errhint("Name them: IMPORT FOREIGN SCHEMA ... LIMIT TO (address, ...).")));
	*outcome = PENSTOCK_OK;
	connection = penstock_amqp_connect(server, name, outcome, fault);
	if (connection == NULL)
		return NIL;
	foreach(lc, stmt->table_list)
	{
		char	   *address = lfirst_node(RangeVar, lc)->relname;

		connection->link = pn_receiver(connection->session, psprintf("%s-%s", name, address));
		(void) pn_terminus_set_address(pn_link_source(connection->link), address);
		*outcome = penstock_amqp_attach(connection, address, fault);
		if (*outcome != PENSTOCK_OK)
			break;
		/* it has no credit: nothing was taken */
		pn_link_close(connection->link);
		connection->link = NULL;
		commands = lappend(commands, create_table(server, stmt, address));
	}
	penstock_amqp_close(connection, *outcome == PENSTOCK_OK, false);
	return *outcome == PENSTOCK_OK ? commands : NIL;
}
