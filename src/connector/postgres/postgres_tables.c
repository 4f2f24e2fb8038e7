/*
 * postgres_tables.c
 *	  What there is on the other side: publications, tables, their columns.
 */
#include "postgres.h"

#include "commands/defrem.h"
#include "foreign/foreign.h"
#include "nodes/parsenodes.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/varlena.h"

#include "compat/compat.h"
#include "connector/postgres/postgres_connector.h"

/* ---- the options ---- */

static List *
split_names(const PenstockQueue *queue, const char *option, const char *text, char separator)
{
	List	   *names;

	if (!SplitIdentifierString(pstrdup(text), separator, &names) || names == NIL)
		ereport(ERROR,
				(errcode(ERRCODE_FDW_INVALID_ATTRIBUTE_VALUE),
				 errmsg("invalid value for option \"%s\": \"%s\"", option, text),
				 errdetail("Names are written as in SQL.")));
	return names;
}

/* A name made of the table's, of characters that need no quotes. */
static char *
derived_name(const PostgresSource *source)
{
	char	   *name = source->table ? psprintf("penstock_%s_%s", source->schema, source->table) : pstrdup("penstock");

	for (char *p = name; *p != '\0'; p++)
		if (!((*p >= 'a' && *p <= 'z') || (*p >= '0' && *p <= '9')))
			*p = '_';
	if (strlen(name) >= NAMEDATALEN)
		name[NAMEDATALEN - 1] = '\0';
	return name;
}

/*
 * penstock_postgres_source reads the options that say what is read, in the current context.  Raises an error if a name is malformed.
 */
void
penstock_postgres_source(const PenstockQueue *queue, PostgresSource *source)
{
	const PenstockConnectorApi *api = penstock_connector_api();
	const char *table = api->option(queue, "table");
	const char *publication = api->option(queue, "publication");

	memset(source, 0, sizeof(PostgresSource));
	if (table != NULL)
	{
		List	   *names = split_names(queue, "table", table, '.');

		if (list_length(names) > 2)
			ereport(ERROR,
					(errcode(ERRCODE_FDW_INVALID_ATTRIBUTE_VALUE),
					 errmsg("invalid value for option \"%s\": \"%s\"", "table", table),
					 errdetail("A table is schema.name.")));
		source->schema = list_length(names) == 2 ? linitial(names) : "public";
		source->table = llast(names);
	}
	source->derived_publication = publication == NULL;
	if (publication != NULL)
		source->publications = split_names(queue, "publication", publication, ',');
	else
		source->publications = list_make1(derived_name(source));
}

char *
penstock_postgres_publication_literals(const PostgresSource *source)
{
	StringInfoData text;
	ListCell   *lc;

	initStringInfo(&text);
	foreach(lc, source->publications)
		appendStringInfo(&text, "%s%s", text.len ? ", " : "", quote_literal_cstr(lfirst(lc)));
	return text.data;
}

/* ---- publication and table ---- */

static PenstockOutcome
make_publication(PostgresSession *session, const PostgresSource *source, PenstockFault *fault)
{
	PenstockOutcome outcome = PENSTOCK_OK;
	char	   *sql;

	if (source->table == NULL)
		sql = psprintf("CREATE PUBLICATION %s FOR ALL TABLES", quote_identifier(linitial(source->publications)));
	else
		sql = psprintf("CREATE PUBLICATION %s FOR TABLE %s%s", quote_identifier(linitial(source->publications)),
					   quote_qualified_identifier(source->schema, source->table),
					   PQserverVersion(session->conn) >= 130000 ? " WITH (publish_via_partition_root = true)" : "");
	(void) penstock_postgres_query(session, sql, &outcome, fault);
	return outcome;
}

/* A publication that does not exist. */
static PenstockOutcome
check_publications(PostgresSession *session, const PenstockQueue *queue, const PostgresSource *source, PenstockFault *fault)
{
	PenstockOutcome outcome = PENSTOCK_OK;
	ListCell   *lc;

	foreach(lc, source->publications)
	{
		PostgresRows *rows = penstock_postgres_query(session, psprintf("SELECT 1 FROM pg_catalog.pg_publication WHERE pubname = %s",
																	   quote_literal_cstr(lfirst(lc))), &outcome, fault);

		if (rows == NULL)
			return outcome;
		if (rows->n > 0)
			continue;
		if (penstock_connector_api()->option_bool(queue, "create_publication") && list_length(source->publications) == 1)
			return make_publication(session, source, fault);
		outcome = penstock_fault(fault, PENSTOCK_REFUSED, ERRCODE_UNDEFINED_OBJECT, "publication \"%s\" does not exist on server \"%s\"",
								 (char *) lfirst(lc), session->server);
		snprintf(fault->hint, sizeof(fault->hint), "CREATE PUBLICATION %s FOR TABLE %s there, or set option create_publication to 'true'.",
				 quote_identifier(lfirst(lc)), source->table ? quote_qualified_identifier(source->schema, source->table) : "...");
		return outcome;
	}
	return PENSTOCK_OK;
}

/*
 * penstock_postgres_check_source looks whether publication and table exist, and makes the publication if that is wanted.
 */
PenstockOutcome
penstock_postgres_check_source(PostgresSession *session, const PenstockQueue *queue, const PostgresSource *source, PenstockFault *fault)
{
	PenstockOutcome outcome = PENSTOCK_OK;
	PostgresRows *rows;

	if (source->table != NULL)
	{
		rows = penstock_postgres_query(session, psprintf("SELECT 1 FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace"
														 " WHERE n.nspname = %s AND c.relname = %s AND c.relkind IN ('r', 'p')",
														 quote_literal_cstr(source->schema), quote_literal_cstr(source->table)), &outcome, fault);
		if (rows == NULL)
			return outcome;
		if (rows->n == 0)
			return penstock_fault(fault, PENSTOCK_REFUSED, ERRCODE_UNDEFINED_TABLE, "table \"%s.%s\" does not exist on server \"%s\"",
								  source->schema, source->table, session->server);
	}
	outcome = check_publications(session, queue, source, fault);
	if (outcome != PENSTOCK_OK || source->table == NULL)
		return outcome;

	rows = penstock_postgres_query(session, psprintf("SELECT 1 FROM pg_catalog.pg_publication_tables WHERE pubname IN (%s)"
													 " AND schemaname = %s AND tablename = %s",
													 penstock_postgres_publication_literals(source),
													 quote_literal_cstr(source->schema), quote_literal_cstr(source->table)), &outcome, fault);
	if (rows == NULL)
		return outcome;
	if (rows->n == 0)
	{
		outcome = penstock_fault(fault, PENSTOCK_REFUSED, ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
								 "publication \"%s\" of server \"%s\" does not have table \"%s.%s\"",
								 (char *) linitial(source->publications), session->server, source->schema, source->table);
		snprintf(fault->hint, sizeof(fault->hint), "ALTER PUBLICATION %s ADD TABLE %s there.",
				 quote_identifier(linitial(source->publications)), quote_qualified_identifier(source->schema, source->table));
		return outcome;
	}
	return PENSTOCK_OK;
}

/* ---- tables to be copied ---- */

/*
 * A row for each column of each table: OID, schema, table, kind, filter; name, type and whether it is of the replica identity.
 */
static char *
tables_query(PostgresSession *session, const PostgresSource *source, bool published)
{
	int			version = PQserverVersion(session->conn);
	bool		has_lists = published && version >= 150000;
	StringInfoData sql;

	initStringInfo(&sql);
	appendStringInfo(&sql, "SELECT c.oid, n.nspname, c.relname, c.relkind, %s, a.attname, a.atttypid,"
					 " c.relreplident = 'f' OR EXISTS (SELECT FROM pg_catalog.pg_index i WHERE i.indrelid = c.oid AND a.attnum = ANY (i.indkey)"
					 " AND CASE c.relreplident WHEN 'd' THEN i.indisprimary WHEN 'i' THEN i.indisreplident ELSE false END)"
					 " FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace"
					 " JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped",
					 has_lists ? "p.filter" : "NULL");
	if (version >= 120000 && (published ? version < 180000 : false))
		appendStringInfoString(&sql, " AND a.attgenerated = ''");
	if (published)
	{
		if (has_lists)
			appendStringInfo(&sql, " JOIN (SELECT schemaname, tablename, pg_catalog.array_agg(DISTINCT u.attname) AS names,"
							 " CASE WHEN pg_catalog.bool_and(rowfilter IS NOT NULL) THEN pg_catalog.string_agg(DISTINCT '(' || rowfilter || ')', ' OR ') END AS filter"
							 " FROM pg_catalog.pg_publication_tables, pg_catalog.unnest(attnames) u (attname)"
							 " WHERE pubname IN (%s) GROUP BY schemaname, tablename) p"
							 " ON p.schemaname = n.nspname AND p.tablename = c.relname AND a.attname = ANY (p.names)",
							 penstock_postgres_publication_literals(source));
		else
			appendStringInfo(&sql, " JOIN (SELECT DISTINCT schemaname, tablename FROM pg_catalog.pg_publication_tables"
							 " WHERE pubname IN (%s)) p ON p.schemaname = n.nspname AND p.tablename = c.relname",
							 penstock_postgres_publication_literals(source));
	}
	appendStringInfoString(&sql, " WHERE true");
	if (source->table != NULL)
		appendStringInfo(&sql, " AND n.nspname = %s AND c.relname = %s",
						 quote_literal_cstr(source->schema), quote_literal_cstr(source->table));
	appendStringInfoString(&sql, " ORDER BY n.nspname, c.relname, a.attnum");
	return sql.data;
}

static char *
copy_command(const PostgresRelation *relation, char kind, const char *filter)
{
	StringInfoData names;

	initStringInfo(&names);
	for (int i = 0; i < relation->ncolumns; i++)
		appendStringInfo(&names, "%s%s", i ? ", " : "", quote_identifier(relation->columns[i].name));
	return psprintf("COPY (SELECT %s FROM %s%s%s%s) TO STDOUT", names.data, kind == 'p' ? "" : "ONLY ",
					quote_qualified_identifier(relation->schema, relation->name),
					filter ? " WHERE " : "", filter ? filter : "");
}

/*
 * penstock_postgres_tables lists the tables to be copied; published: those columns and rows that the publication has, otherwise all.
 * NIL after a fault (*outcome), or if there are none.
 */
List *
penstock_postgres_tables(PostgresSession *session, const PostgresSource *source, bool published,
						 PenstockOutcome *outcome, PenstockFault *fault)
{
	PostgresRows *rows;
	List	   *tables = NIL;
	int			next;

	*outcome = PENSTOCK_OK;
	rows = penstock_postgres_query(session, tables_query(session, source, published), outcome, fault);
	for (int first = 0; rows != NULL && first < rows->n; first = next)
	{
		PostgresTable *table = palloc0(sizeof(PostgresTable));
		PostgresRelation *relation = palloc0(sizeof(PostgresRelation));

		relation->id = atooid(penstock_postgres_value(rows, first, 0));
		relation->schema = penstock_postgres_value(rows, first, 1);
		relation->name = penstock_postgres_value(rows, first, 2);
		relation->columns = palloc0_array(PostgresColumn, rows->n - first);
		for (next = first; next < rows->n && atooid(penstock_postgres_value(rows, next, 0)) == relation->id; next++)
		{
			PostgresColumn *column = &relation->columns[relation->ncolumns++];

			column->name = penstock_postgres_value(rows, next, 5);
			column->type = atooid(penstock_postgres_value(rows, next, 6));
			column->key = *penstock_postgres_value(rows, next, 7) == 't';
		}
		table->relation = relation;
		table->command = copy_command(relation, *penstock_postgres_value(rows, first, 3), penstock_postgres_value(rows, first, 4));
		tables = lappend(tables, table);
	}
	return tables;
}

/* ---- IMPORT FOREIGN SCHEMA ---- */

/* The remote type if it exists here too, otherwise text.  What it says is only used after it has been read as a type's name. */
static const char *
local_type(const char *type)
{
	Datum		oid;
	FmgrInfo	to_regtype_info;
	LOCAL_FCINFO(call, 1);

	fmgr_info(F_TO_REGTYPE, &to_regtype_info);
	InitFunctionCallInfoData(*call, &to_regtype_info, 1, InvalidOid, NULL, NULL);
	call->args[0].value = CStringGetTextDatum(type);
	call->args[0].isnull = false;
	oid = FunctionCallInvoke(call);
	return call->isnull || !OidIsValid(DatumGetObjectId(oid)) ? "text" : type;
}

static bool
has_column(PostgresRows *rows, int first, int next, const char *name)
{
	for (int i = first; i < next; i++)
		if (strcmp(penstock_postgres_value(rows, i, 1), name) == 0)
			return true;
	return false;
}

static void
add_metadata_column(StringInfo sql, PostgresRows *rows, int first, int next, const char *name, const char *type)
{
	appendStringInfo(sql, ",\n\t%s%s %s OPTIONS (metadata '%s')",
					 has_column(rows, first, next, name) ? "change_" : "", name, type, name);
}

static char *
create_command(const PenstockQueue *server, const char *schema, PostgresRows *rows, int first, int next)
{
	const char *table = penstock_postgres_value(rows, first, 0);
	StringInfoData sql;

	initStringInfo(&sql);
	appendStringInfo(&sql, "CREATE FOREIGN TABLE %s (", quote_identifier(table));
	for (int i = first; i < next; i++)
		appendStringInfo(&sql, "%s\n\t%s %s", i > first ? "," : "", quote_identifier(penstock_postgres_value(rows, i, 1)),
						 local_type(penstock_postgres_value(rows, i, 2)));
	add_metadata_column(&sql, rows, first, next, "operation", "pg_catalog.text");
	add_metadata_column(&sql, rows, first, next, "commit_lsn", "pg_catalog.pg_lsn");
	add_metadata_column(&sql, rows, first, next, "commit_timestamp", "pg_catalog.timestamptz");
	appendStringInfo(&sql, "\n) SERVER %s OPTIONS (\"table\" %s)", server->server_name,
					 quote_literal_cstr(quote_qualified_identifier(schema, table)));
	return sql.data;
}

static char *
import_query(const ImportForeignSchemaStmt *stmt, int version)
{
	StringInfoData sql;
	ListCell   *lc;

	initStringInfo(&sql);
	appendStringInfo(&sql, "SELECT c.relname, a.attname, pg_catalog.format_type(a.atttypid, a.atttypmod)"
					 " FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace"
					 " JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped%s"
					 " WHERE n.nspname = %s AND c.relkind IN ('r', 'p')%s AND c.relpersistence = 'p'", version >= 120000 ? " AND a.attgenerated = ''" : "",
					 quote_literal_cstr(stmt->remote_schema), version >= 100000 ? " AND NOT c.relispartition" : "");
	if (stmt->list_type != FDW_IMPORT_SCHEMA_ALL)
	{
		appendStringInfo(&sql, " AND c.relname %s (", stmt->list_type == FDW_IMPORT_SCHEMA_LIMIT_TO ? "IN" : "NOT IN");
		foreach(lc, stmt->table_list)
			appendStringInfo(&sql, "%s%s", foreach_current_index(lc) ? ", " : "", quote_literal_cstr(lfirst_node(RangeVar, lc)->relname));
		appendStringInfoChar(&sql, ')');
	}
	appendStringInfoString(&sql, " ORDER BY c.relname, a.attnum");
	return sql.data;
}

/*
 * penstock_postgres_import makes a CREATE FOREIGN TABLE command for each table of the remote schema.
 */
List *
penstock_postgres_import(const PenstockQueue *server, ImportForeignSchemaStmt *stmt, PenstockOutcome *outcome, PenstockFault *fault)
{
	PostgresSession *session = penstock_postgres_new_session(server);
	PostgresRows *rows = NULL;
	List	   *commands = NIL;
	int			next;

	*outcome = PENSTOCK_OK;
	if (penstock_postgres_connect(session, server, false, outcome, fault))
		rows = penstock_postgres_query(session, psprintf("SELECT 1 FROM pg_catalog.pg_namespace WHERE nspname = %s",
														 quote_literal_cstr(stmt->remote_schema)), outcome, fault);
	if (rows != NULL && rows->n == 0)
	{
		*outcome = penstock_fault(fault, PENSTOCK_REFUSED, ERRCODE_FDW_SCHEMA_NOT_FOUND,
								  "schema \"%s\" does not exist on server \"%s\"", stmt->remote_schema, session->server);
		rows = NULL;
	}
	if (rows != NULL)
		rows = penstock_postgres_query(session, import_query(stmt, PQserverVersion(session->conn)), outcome, fault);
	penstock_postgres_disconnect(session);

	for (int first = 0; rows != NULL && first < rows->n; first = next)
	{
		const char *table = penstock_postgres_value(rows, first, 0);

		for (next = first; next < rows->n && strcmp(penstock_postgres_value(rows, next, 0), table) == 0; next++)
			;
		commands = lappend(commands, create_command(server, stmt->remote_schema, rows, first, next));
	}
	return commands;
}
