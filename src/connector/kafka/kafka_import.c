/*
 * kafka_import.c
 *	  IMPORT FOREIGN SCHEMA: a foreign table for each topic.
 */
#include "postgres.h"

#include "commands/defrem.h"
#include "lib/stringinfo.h"
#include "utils/builtins.h"

#include "connector/kafka/kafka.h"

/* OPTIONS of IMPORT FOREIGN SCHEMA: what the message is read as. */
static const struct
{
	const char *format;
	const char *type;			/* of the column that has the whole payload */
}			payloads[] =
{
	{"text", "text"},
	{"json", "jsonb"},
	{"binary", "bytea"},
};

static int
payload_option(const ImportForeignSchemaStmt *stmt)
{
	const char *format = "text";
	ListCell   *lc;

	foreach(lc, stmt->options)
	{
		DefElem    *option = lfirst_node(DefElem, lc);

		if (strcmp(option->defname, "format") != 0)
			ereport(ERROR,
					(errcode(ERRCODE_FDW_INVALID_OPTION_NAME),
					 errmsg("invalid option \"%s\"", option->defname),
					 errhint("Valid options in this context are: format.")));
		format = defGetString(option);
	}
	for (int i = 0; i < lengthof(payloads); i++)
		if (strcmp(payloads[i].format, format) == 0)
			return i;
	ereport(ERROR,
			(errcode(ERRCODE_FDW_INVALID_ATTRIBUTE_VALUE),
			 errmsg("invalid value for option \"format\": \"%s\"", format),
			 errhint("Valid values are: text, json, binary.")));
	return 0;
}

static bool
is_named(const List *tables, const char *topic)
{
	ListCell   *lc;

	foreach(lc, tables)
		if (strcmp(lfirst_node(RangeVar, lc)->relname, topic) == 0)
			return true;
	return false;
}

/* Kafka's own topics are no one's business unless they are asked for by name. */
static bool
is_wanted(const ImportForeignSchemaStmt *stmt, const char *topic)
{
	switch (stmt->list_type)
	{
		case FDW_IMPORT_SCHEMA_LIMIT_TO:
			return is_named(stmt->table_list, topic);
		case FDW_IMPORT_SCHEMA_EXCEPT:
			return strncmp(topic, "__", 2) != 0 && !is_named(stmt->table_list, topic);
		default:
			return strncmp(topic, "__", 2) != 0;
	}
}

/* The payload is a metadata column, so that a message without one (a tombstone) is NULL; further columns can be added and are the format's. */
static char *
command(const char *topic, const char *server_name, int payload)
{
	return psprintf("CREATE FOREIGN TABLE %s ("
					"key text OPTIONS (metadata 'key'), value %s OPTIONS (metadata 'payload'), "
					"kafka_partition integer OPTIONS (metadata 'partition'), "
					"kafka_offset bigint OPTIONS (metadata 'offset'), "
					"kafka_timestamp timestamptz OPTIONS (metadata 'timestamp'), "
					"kafka_headers jsonb OPTIONS (metadata 'headers')) "
					"SERVER %s OPTIONS (topic %s, format '%s')",
					quote_identifier(topic), payloads[payload].type, server_name,
					quote_literal_cstr(topic), payloads[payload].format);
}

/*
 * penstock_kafka_import: see PenstockConnector.import.
 */
List *
penstock_kafka_import(const PenstockQueue *server, ImportForeignSchemaStmt *stmt, PenstockOutcome *outcome, PenstockFault *fault)
{
	static const KafkaSetting settings[] = {
		{"allow.auto.create.topics", NULL, "false"},
		{NULL}
	};
	KafkaClient *client = palloc0(sizeof(KafkaClient));
	int			payload = payload_option(stmt);
	const struct rd_kafka_metadata *metadata;
	List	   *commands = NIL;

	penstock_kafka_client_end_with_context(client);
	*outcome = PENSTOCK_REFUSED;
	/* any client can ask, a producer has no group */
	if (!penstock_kafka_client_open(client, RD_KAFKA_PRODUCER, server, settings, NULL, fault))
		return NIL;
	metadata = penstock_kafka_metadata(client, NULL, fault);
	*outcome = client->outcome;
	if (metadata)
	{
		for (int i = 0; i < metadata->topic_cnt; i++)
			if (metadata->topics[i].err == RD_KAFKA_RESP_ERR_NO_ERROR && is_wanted(stmt, metadata->topics[i].topic))
				commands = lappend(commands, command(metadata->topics[i].topic, server->server_name, payload));
		rd_kafka_metadata_destroy(metadata);
	}
	penstock_kafka_client_close(client);
	return commands;
}
