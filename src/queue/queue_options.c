/*
 * queue_options.c
 *	  Options of servers, user mappings, queues and their columns: checks and values.
 */
#include "postgres.h"

#include <limits.h>

#include "access/htup_details.h"
#include "catalog/pg_attribute.h"
#include "catalog/pg_foreign_data_wrapper.h"
#include "catalog/pg_foreign_server.h"
#include "catalog/pg_foreign_table.h"
#include "catalog/pg_user_mapping.h"
#include "commands/defrem.h"
#include "foreign/foreign.h"
#include "funcapi.h"
#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"

#include "compat/compat.h"
#include "queue/queue_internal.h"

PG_FUNCTION_INFO_V1(penstock_connector_options);

/* Options that every queue has. */
static const PenstockConnectorOption common_options[] = {
	{.name = "format", .places = PENSTOCK_ON_QUEUE, .type = PENSTOCK_OPTION_TEXT, .fallback = "json",
		.description = "format of the payload: json, csv, text, binary, or avro with penstock_avro"},
	{.name = "encoding", .places = PENSTOCK_ON_QUEUE, .type = PENSTOCK_OPTION_TEXT, .fallback = "UTF8",
		.description = "encoding of the payload's text"},
	{.name = "flush_timeout", .places = PENSTOCK_ON_SERVER | PENSTOCK_ON_QUEUE, .type = PENSTOCK_OPTION_TIME,
		.fallback = "30s", .min = 1, .max = 3600000,
		.description = "how long a commit waits for the broker to take what was written"},
	{.name = "metadata", .places = PENSTOCK_ON_COLUMN, .type = PENSTOCK_OPTION_TEXT,
		.description = "the column is not part of the payload, but this of the message"},
	{.name = "claim_threshold", .places = PENSTOCK_ON_COLUMN, .type = PENSTOCK_OPTION_SIZE, .min = 0, .max = INT_MAX,
		.description = "of a column of type penstock.claim: payloads of this size and more are checked in, and the column has the ticket"},
	{.name = "redeem", .places = PENSTOCK_ON_COLUMN, .type = PENSTOCK_OPTION_BOOL,
		.description = "of a column of type penstock.claim: the payload is sent instead of the ticket"},
	{.name = NULL}
};

static const char *const formats[] = {"json", "csv", "text", "binary", "avro", NULL};

static const PenstockConnectorOption *
find_in(const PenstockConnectorOption *table, const char *name, int place)
{
	for (; table != NULL && table->name != NULL; table++)
		if (strcmp(table->name, name) == 0 && (table->places & place) != 0)
			return table;
	return NULL;
}

/* The option of that name in that place, among the connector's, every queue's and the format's (NULL: any format's). */
static const PenstockConnectorOption *
find_option(const PenstockConnector *connector, const PenstockFormat *format, const char *name, int place)
{
	const PenstockConnectorOption *option = find_in(connector->options, name, place);

	if (option == NULL)
		option = find_in(common_options, name, place);
	if (option == NULL && format != NULL)
		option = find_in(format->options, name, place);
	for (int i = 0; option == NULL && format == NULL && formats[i] != NULL; i++)
	{
		const PenstockFormat *each = penstock_format_find(formats[i]);

		if (each != NULL)
			option = find_in(each->options, name, place);
	}
	return option;
}

static void
list_names(StringInfo names, const PenstockConnectorOption *table, int place)
{
	for (; table != NULL && table->name != NULL; table++)
		if ((table->places & place) != 0)
			appendStringInfo(names, "%s%s", names->len ? ", " : "", table->name);
}

static const char *
allowed_values(const PenstockConnectorOption *option)
{
	StringInfoData text;

	initStringInfo(&text);
	for (int i = 0; option->values[i] != NULL; i++)
		appendStringInfo(&text, "%s%s", i ? ", " : "", option->values[i]);
	return text.data;
}

pg_noreturn static void
bad_value(const PenstockConnectorOption *option, const char *value, const char *allowed)
{
	/* a user mapping's values are secrets */
	ereport(ERROR,
			(errcode(ERRCODE_FDW_INVALID_ATTRIBUTE_VALUE),
			 (option->places & PENSTOCK_ON_USER) != 0 ?
			 errmsg("invalid value for option \"%s\"", option->name) :
			 errmsg("invalid value for option \"%s\": \"%s\"", option->name, value),
			 errdetail("Allowed is %s.", allowed)));
}

/* The number that the text means; raises an error if it is none that the option may have. */
static int64
number_of(const PenstockConnectorOption *option, const char *value)
{
	const char *hint = NULL;
	const char *unit = option->type == PENSTOCK_OPTION_TIME ? " ms" : option->type == PENSTOCK_OPTION_SIZE ? " bytes" : "";
	int			flags = option->type == PENSTOCK_OPTION_TIME ? GUC_UNIT_MS : option->type == PENSTOCK_OPTION_SIZE ? GUC_UNIT_BYTE : 0;
	int			small;
	int64		result;
	char	   *end;

	if (option->type == PENSTOCK_OPTION_INT)
	{
		errno = 0;
		result = strtoll(value, &end, 10);
		if (errno != 0 || end == value || *end != '\0')
			bad_value(option, value, "a whole number");
	}
	else
	{
		if (!parse_int(value, &small, flags, &hint))
			bad_value(option, value, option->type == PENSTOCK_OPTION_TIME ?
					  "a time such as '500 ms' or '10 s'" : "a size such as '64 kB' or '1 MB'");
		result = small;
	}
	if ((option->min != 0 || option->max != 0) && (result < option->min || result > option->max))
		bad_value(option, value, psprintf("%lld to %lld%s", (long long) option->min, (long long) option->max, unit));
	return result;
}

static void
check_value(const PenstockConnectorOption *option, const char *value)
{
	bool		truth;

	switch (option->type)
	{
		case PENSTOCK_OPTION_TEXT:
			break;
		case PENSTOCK_OPTION_BOOL:
			if (!parse_bool(value, &truth))
				bad_value(option, value, "true or false");
			break;
		case PENSTOCK_OPTION_ENUM:
			for (int i = 0; option->values[i] != NULL; i++)
				if (strcmp(option->values[i], value) == 0)
					return;
			bad_value(option, value, allowed_values(option));
		default:
			(void) number_of(option, value);
	}
}

static int
place_of(Oid catalog)
{
	switch (catalog)
	{
		case ForeignServerRelationId:
			return PENSTOCK_ON_SERVER;
		case UserMappingRelationId:
			return PENSTOCK_ON_USER;
		case ForeignTableRelationId:
			return PENSTOCK_ON_QUEUE;
		case AttributeRelationId:
			return PENSTOCK_ON_COLUMN;
		default:
			return 0;
	}
}

static const PenstockFormat *
format_named(const char *name)
{
	const PenstockFormat *format = penstock_format_find(name);

	if (format == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_FDW_INVALID_ATTRIBUTE_VALUE),
				 errmsg("unknown format \"%s\"", name),
				 errhint("Formats are json, csv, text and binary, and avro with the extension penstock_avro.")));
	return format;
}

static void
check_metadata(const PenstockConnector *connector, const char *value)
{
	PenstockColumnKind kind;
	const char *name;
	StringInfoData names;

	if (penstock_metadata_kind(connector, value, &kind, &name))
		return;
	initStringInfo(&names);
	for (int i = 0; connector->metadata != NULL && connector->metadata[i] != NULL; i++)
		appendStringInfo(&names, ", %s", connector->metadata[i]);
	ereport(ERROR,
			(errcode(ERRCODE_FDW_INVALID_ATTRIBUTE_VALUE),
			 errmsg("unknown metadata \"%s\"", value),
			 errhint("Of a %s message there are: payload, key, message_id, timestamp, partition, offset, headers, header:NAME, redelivered%s.",
					 connector->name, names.data)));
}

/* What can only be said of the server must be. */
static void
check_server_required(const PenstockConnector *connector, List *options)
{
	for (const PenstockConnectorOption *option = connector->options; option->name != NULL; option++)
	{
		bool		given = false;
		ListCell   *lc;

		if (!option->required || option->places != PENSTOCK_ON_SERVER)
			continue;
		foreach(lc, options)
			given = given || strcmp(lfirst_node(DefElem, lc)->defname, option->name) == 0;
		if (!given)
			penstock_option_missing(option, connector->name);
	}
}

/*
 * penstock_queue_validate checks the options of one object of the catalog.  Raises ERRCODE_FDW_INVALID_OPTION_NAME,
 * ERRCODE_FDW_INVALID_ATTRIBUTE_VALUE or ERRCODE_INSUFFICIENT_PRIVILEGE.
 */
void
penstock_queue_validate(const PenstockConnector *connector, List *options, Oid catalog)
{
	int			place = place_of(catalog);
	const PenstockFormat *format = NULL;
	ListCell   *lc;

	if (place == PENSTOCK_ON_QUEUE)
	{
		format = penstock_format_find("json");
		foreach(lc, options)
			if (strcmp(lfirst_node(DefElem, lc)->defname, "format") == 0)
				format = format_named(defGetString(lfirst_node(DefElem, lc)));
	}
	foreach(lc, options)
	{
		DefElem    *given = lfirst_node(DefElem, lc);
		const PenstockConnectorOption *option = find_option(connector, format, given->defname, place);
		StringInfoData names;

		if (option == NULL)
		{
			initStringInfo(&names);
			list_names(&names, connector->options, place);
			list_names(&names, common_options, place);
			if (format != NULL)
				list_names(&names, format->options, place);
			ereport(ERROR,
					(errcode(ERRCODE_FDW_INVALID_OPTION_NAME),
					 errmsg("invalid option \"%s\"", given->defname),
					 names.len ? errhint("Valid options here are: %s.", names.data) :
					 errhint("There are no valid options here.")));
		}
		if (option->superuser_only && !superuser())
			ereport(ERROR,
					(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
					 errmsg("permission denied to set option \"%s\"", given->defname),
					 errdetail("It reaches files of the server: only superusers may set it.")));
		check_value(option, defGetString(given));
		if (strcmp(given->defname, "metadata") == 0 && place == PENSTOCK_ON_COLUMN)
			check_metadata(connector, defGetString(given));
		if (strcmp(given->defname, "encoding") == 0 && place == PENSTOCK_ON_QUEUE &&
			pg_char_to_encoding(defGetString(given)) < 0)
			bad_value(option, defGetString(given), "the name of an encoding");
	}
	if (place == PENSTOCK_ON_SERVER)
		check_server_required(connector, options);
}

/* ---- values ---- */

static const char *
given_value(const PenstockQueue *queue, const char *name)
{
	const char *result = NULL;
	ListCell   *lc;

	/* what stands later is nearer to the queue */
	foreach(lc, queue->options)
		if (strcmp(lfirst_node(DefElem, lc)->defname, name) == 0)
			result = defGetString(lfirst_node(DefElem, lc));
	return result;
}

/* The option's definition, wherever it may stand. */
static const PenstockConnectorOption *
definition(const PenstockQueue *queue, const char *name)
{
	const char *format = given_value(queue, "format");

	return find_option(queue->connector, format ? penstock_format_find(format) : penstock_format_find("json"),
					   name, PENSTOCK_ON_SERVER | PENSTOCK_ON_USER | PENSTOCK_ON_QUEUE);
}

const char *
penstock_queue_option(const PenstockQueue *queue, const char *name)
{
	const char *value = given_value(queue, name);
	const PenstockConnectorOption *option;

	if (value != NULL)
		return value;
	option = definition(queue, name);
	return option ? option->fallback : NULL;
}

int64
penstock_queue_option_int(const PenstockQueue *queue, const char *name)
{
	const PenstockConnectorOption *option = definition(queue, name);
	const char *value = penstock_queue_option(queue, name);

	if (option == NULL)
		elog(ERROR, "connector \"%s\" has no option \"%s\"", queue->connector->name, name);
	return value ? number_of(option, value) : 0;
}

bool
penstock_queue_option_bool(const PenstockQueue *queue, const char *name)
{
	const char *value = penstock_queue_option(queue, name);
	bool		result = false;

	if (value != NULL)
		(void) parse_bool(value, &result);
	return result;
}

/* ---- penstock.connector_options ---- */

static const char *
places_text(int places)
{
	StringInfoData text;

	initStringInfo(&text);
	if (places & PENSTOCK_ON_SERVER)
		appendStringInfoString(&text, ", server");
	if (places & PENSTOCK_ON_USER)
		appendStringInfoString(&text, ", user mapping");
	if (places & PENSTOCK_ON_QUEUE)
		appendStringInfoString(&text, ", foreign table");
	if (places & PENSTOCK_ON_COLUMN)
		appendStringInfoString(&text, ", column");
	return text.len ? text.data + 2 : "";
}

static const char *
allowed_text(const PenstockConnectorOption *option)
{
	switch (option->type)
	{
		case PENSTOCK_OPTION_BOOL:
			return "true, false";
		case PENSTOCK_OPTION_ENUM:
			return allowed_values(option);
		case PENSTOCK_OPTION_INT:
			return option->max ? psprintf("%lld to %lld", (long long) option->min, (long long) option->max) : "a whole number";
		case PENSTOCK_OPTION_TIME:
			return "a time";
		case PENSTOCK_OPTION_SIZE:
			return "a size";
		default:
			return "text";
	}
}

static void
put_options(ReturnSetInfo *rsinfo, const PenstockConnectorOption *option)
{
	for (; option != NULL && option->name != NULL; option++)
	{
		Datum		values[6];
		bool		isnull[6] = {false};

		values[0] = CStringGetTextDatum(option->name);
		values[1] = CStringGetTextDatum(places_text(option->places));
		values[2] = CStringGetTextDatum(allowed_text(option));
		isnull[3] = option->fallback == NULL;
		values[3] = option->fallback ? CStringGetTextDatum(option->fallback) : (Datum) 0;
		values[4] = CStringGetTextDatum(option->description);
		values[5] = BoolGetDatum(option->superuser_only);
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, isnull);
	}
}

/*
 * penstock.connector_options(wrapper text) → setof record: the options that a connector's servers, user mappings and foreign
 * tables have, those of every queue last.
 */
Datum
penstock_connector_options(PG_FUNCTION_ARGS)
{
	ForeignDataWrapper *wrapper = GetForeignDataWrapperByName(text_to_cstring(PG_GETARG_TEXT_PP(0)), false);
	const PenstockConnector *connector = NULL;
	FdwRoutine *routine;

	if (OidIsValid(wrapper->fdwhandler))
	{
		routine = GetFdwRoutine(wrapper->fdwhandler);
		connector = penstock_routine_connector(routine);
	}
	if (connector == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("foreign-data wrapper \"%s\" is not a connector of penstock", wrapper->fdwname)));

	InitMaterializedSRF(fcinfo, 0);
	put_options((ReturnSetInfo *) fcinfo->resultinfo, connector->options);
	put_options((ReturnSetInfo *) fcinfo->resultinfo, common_options);
	return (Datum) 0;
}
