/*
 * avro.c
 *	  The format avro: options, plans of schemas, messages.
 *
 * A message names its writer's schema (Confluent's framing: a zero byte and four bytes of id), or all messages have the
 * one of option "schema".  For each schema there is a plan, made when its first message comes: which fields become
 * which columns, and which are passed over.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "foreign/foreign.h"
#include "commands/defrem.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"

#include "format/avro/avro.h"
#include "format/avro/avro_format.h"

#define MAX_PLANS		200
#define MAX_PLAN_BYTES	(64 * 1024 * 1024)
#define FRAME			5		/* bytes before a message that names its schema */

#define AVRO_OPTION(option, where, kind, what, ...) \
	{.name = option, .places = where, .type = kind, .description = what, __VA_ARGS__}

static const PenstockConnectorOption avro_options[] = {
	AVRO_OPTION("schema", PENSTOCK_ON_QUEUE, PENSTOCK_OPTION_TEXT,
				"Avro schema of the messages; with a schema registry: the schema to read them with, and to write",.fallback = NULL),
	AVRO_OPTION("schema_registry", PENSTOCK_ON_SERVER, PENSTOCK_OPTION_TEXT,
				"URL of the schema registry that has the messages' schemas",.fallback = NULL),
	AVRO_OPTION("schema_registry", PENSTOCK_ON_QUEUE, PENSTOCK_OPTION_TEXT,
				"the same for one foreign table",.superuser_only = true),
	AVRO_OPTION("schema_registry_timeout", PENSTOCK_ON_SERVER | PENSTOCK_ON_QUEUE, PENSTOCK_OPTION_TIME,
				"how long to wait for the schema registry",.fallback = "5s",.min = 10,.max = 600000),
	AVRO_OPTION("schema_registry_ca", PENSTOCK_ON_SERVER, PENSTOCK_OPTION_TEXT,
				"file with the certificates to trust when the schema registry is at https",.superuser_only = true),
	AVRO_OPTION("schema_registry_user", PENSTOCK_ON_USER, PENSTOCK_OPTION_TEXT,
				"user name for the schema registry",.fallback = NULL),
	AVRO_OPTION("schema_registry_password", PENSTOCK_ON_USER, PENSTOCK_OPTION_TEXT,
				"password for the schema registry",.fallback = NULL),
	AVRO_OPTION("subject", PENSTOCK_ON_QUEUE, PENSTOCK_OPTION_TEXT,
				"subject of the schema registry to write for; TOPIC-value if not given",.fallback = NULL),
	AVRO_OPTION("schema_register", PENSTOCK_ON_QUEUE, PENSTOCK_OPTION_BOOL,
				"register a schema to write with if the subject does not have it",.fallback = "true"),
	AVRO_OPTION("path", PENSTOCK_ON_COLUMN, PENSTOCK_OPTION_TEXT,
				"where the column stands in the message: fields, keys and subscripts, as in $.a.b[0]; $ is the whole message",.fallback = NULL),
	{.name = NULL}
};

/* ---- options ---- */

static const char *
option(const PenstockFormatInfo *info, const char *name)
{
	return penstock_format_option(info, avro_options, name);
}

/* Credentials of a user mapping are for the registry of its server, not for one that a table names. */
static void
check_owner(const PenstockFormatInfo *info, const AvroRegistry *registry)
{
	ListCell   *lc;

	if (registry->user == NULL || !OidIsValid(info->queue->serverid))
		return;
	foreach(lc, GetForeignServer(info->queue->serverid)->options)
	{
		DefElem    *given = lfirst_node(DefElem, lc);

		if (strcmp(given->defname, "schema_registry") == 0 && strcmp(defGetString(given), option(info, "schema_registry")) == 0)
			return;
	}
	ereport(ERROR,
			(errcode(ERRCODE_FDW_INVALID_ATTRIBUTE_VALUE),
			 errmsg("schema registry of %s is not the one its server names", info->queue->name),
			 errdetail("The user mapping's name and password are sent to the server's schema registry only."),
			 errhint("Set option \"schema_registry\" of the server.")));
}

static void
check_url(const char *url)
{
	const char *host = strstr(url, "://");

	if ((strncmp(url, "http://", 7) != 0 && strncmp(url, "https://", 8) != 0) || host[3] == '\0')
		ereport(ERROR,
				(errcode(ERRCODE_FDW_INVALID_ATTRIBUTE_VALUE),
				 errmsg("invalid value for option \"schema_registry\""),
				 errdetail("It must be a URL that begins with http:// or https://.")));
	if (strpbrk(host + 3, "@?#") != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_FDW_INVALID_ATTRIBUTE_VALUE),
				 errmsg("invalid value for option \"schema_registry\""),
				 errdetail("It must not have a user name, a query or a fragment."),
				 errhint("Put name and password into the user mapping's options schema_registry_user and schema_registry_password.")));
}

/* The registry's address without a slash at its end; NULL: there is none. */
static AvroRegistry *
read_registry(const PenstockFormatInfo *info)
{
	const char *url = option(info, "schema_registry");
	AvroRegistry *registry;
	char	   *copy;

	if (url == NULL)
		return NULL;
	check_url(url);
	registry = palloc0(sizeof(AvroRegistry));
	copy = pstrdup(url);
	while (copy[strlen(copy) - 1] == '/')
		copy[strlen(copy) - 1] = '\0';
	registry->url = copy;
	registry->user = option(info, "schema_registry_user");
	registry->password = option(info, "schema_registry_password");
	registry->ca = option(info, "schema_registry_ca");
	registry->userid = info->queue->userid;
	if (!parse_int(option(info, "schema_registry_timeout"), &registry->timeout, GUC_UNIT_MS, NULL) || registry->timeout <= 0)
		ereport(ERROR,
				(errcode(ERRCODE_FDW_INVALID_ATTRIBUTE_VALUE),
				 errmsg("invalid value for option \"schema_registry_timeout\"")));
	check_owner(info, registry);
	return registry;
}

static void
read_options(AvroState *state, const PenstockFormatInfo *info)
{
	const char *subject = option(info, "subject");
	const char *topic = option(info, "topic");

	state->info = info;
	state->schema_text = option(info, "schema");
	state->registry = read_registry(info);
	if (state->schema_text == NULL && state->registry == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_FDW_DYNAMIC_PARAMETER_VALUE_NEEDED),
				 errmsg("format avro needs option \"schema_registry\" or \"schema\""),
				 errhint("Give the schema registry's URL to the server, or the messages' Avro schema to the foreign table.")));
	state->subject = subject ? subject : topic ? psprintf("%s-value", topic) : NULL;
	if (!parse_bool(option(info, "schema_register"), &state->may_register))
		ereport(ERROR,
				(errcode(ERRCODE_FDW_INVALID_ATTRIBUTE_VALUE),
				 errmsg("option \"schema_register\" requires a Boolean value")));
	if (state->schema_text != NULL)
		state->schema = penstock_avro_schema(list_make1(unconstify(char *, state->schema_text)));
}

static void
check_columns(const PenstockFormatInfo *info)
{
	AvroState	state = {0};
	PenstockPath *root;

	read_options(&state, info);
	root = penstock_path_tree(info);
	if (state.schema != NULL)
		penstock_avro_check_fields(&state, state.schema, root);
}

static void *
begin_messages(const PenstockFormatInfo *info)
{
	AvroState  *state = palloc0(sizeof(AvroState));

	state->context = CurrentMemoryContext;
	read_options(state, info);
	state->root = penstock_path_tree(info);
	state->scratch = AllocSetContextCreate(CurrentMemoryContext, "penstock avro message", ALLOCSET_DEFAULT_SIZES);
	state->plans_context = AllocSetContextCreate(CurrentMemoryContext, "penstock avro plans", ALLOCSET_DEFAULT_SIZES);
	return state;
}

/* ---- plans ---- */

static AvroPlan *
make_plan(AvroState *state, int id)
{
	MemoryContext context = AllocSetContextCreate(state->plans_context, "penstock avro plan", ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	AvroSchema *writer = state->schema;
	AvroSchema *reader = NULL;
	AvroPlan   *plan = palloc0(sizeof(AvroPlan));

	plan->context = context;
	plan->id = id;
	if (state->registry != NULL)
	{
		writer = penstock_avro_schema(penstock_avro_schema_of_id(state->registry, id));
		reader = state->schema;
	}
	plan->root = penstock_avro_plan_node(state, penstock_avro_resolve(writer, reader), state->root);
	MemoryContextSwitchTo(old);
	return plan;
}

static AvroPlan *
find_plan(AvroState *state, int id)
{
	AvroPlan   *plan;
	AvroPlan  **link = &state->plans;

	for (plan = state->plans; plan != NULL; link = &plan->next, plan = plan->next)
		if (plan->id == id)
		{
			/* to the front, where it is found at once */
			*link = plan->next;
			plan->next = state->plans;
			state->plans = plan;
			return plan;
		}
	if (state->nplans >= MAX_PLANS || MemoryContextMemAllocated(state->plans_context, true) > MAX_PLAN_BYTES)
	{
		state->plans = NULL;
		state->nplans = 0;
		MemoryContextReset(state->plans_context);
	}
	plan = make_plan(state, id);
	plan->next = state->plans;
	state->plans = plan;
	state->nplans++;
	return plan;
}

/* ---- messages ---- */

/* The schema's id, which stands before the message. */
static int
read_frame(const char **payload, int *length)
{
	const uint8 *frame = (const uint8 *) *payload;

	if (*length < FRAME || frame[0] != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_BINARY_REPRESENTATION),
				 errmsg("message does not begin with the id of an Avro schema"),
				 errdetail("A zero byte and four bytes of id were expected.")));
	*payload += FRAME;
	*length -= FRAME;
	return (int) ((uint32) frame[1] << 24 | (uint32) frame[2] << 16 | (uint32) frame[3] << 8 | frame[4]);
}

static void
read_message(AvroState *state, const char *payload, int length, Datum *values, bool *isnull)
{
	int			id = state->registry != NULL ? read_frame(&payload, &length) : 0;
	AvroPlan   *plan = state->plans;
	AvroReader	reader;

	MemoryContextReset(state->scratch);
	if (plan == NULL || plan->id != id)
	{
		/* what making it leaves behind is for this message only */
		MemoryContext result = MemoryContextSwitchTo(state->scratch);

		plan = find_plan(state, id);
		MemoryContextSwitchTo(result);
	}
	penstock_avro_start(&reader, payload, length, state->scratch);
	penstock_avro_run(&reader, plan->root, values, isnull);
	if (reader.at != reader.end)
		penstock_avro_malformed(psprintf("It goes on for %d bytes after its end.", (int) (reader.end - reader.at)));
}

static void
decode_message(void *arg, const char *payload, int length, Datum *values, bool *isnull)
{
	AvroState  *state = arg;
	ErrorContextCallback callback;

	penstock_format_enter(&callback, "avro");
	if (payload != NULL)
		read_message(state, payload, length, values, isnull);
	penstock_value_check_nulls(state->info, isnull);
	penstock_format_leave(&callback);
}

static void
encode_message(void *arg, const Datum *values, const bool *isnull, StringInfo payload)
{
	AvroState  *state = arg;
	ErrorContextCallback callback;
	MemoryContext old;

	penstock_format_enter(&callback, "avro");
	MemoryContextReset(state->scratch);
	old = MemoryContextSwitchTo(state->scratch);
	if (state->writer == NULL)
		penstock_avro_begin_writing(state);
	if (state->registry != NULL)
	{
		appendStringInfoChar(payload, '\0');
		for (int shift = 24; shift >= 0; shift -= 8)
			appendStringInfoChar(payload, (char) (state->writer_id >> shift));
	}
	penstock_avro_write_row(state, values, isnull, payload);
	MemoryContextSwitchTo(old);
	penstock_format_leave(&callback);
}

const PenstockFormat penstock_format_avro = {
	.name = "avro",
	.options = avro_options,
	.check = check_columns,
	.begin = begin_messages,
	.decode = decode_message,
	.encode = encode_message,
};
