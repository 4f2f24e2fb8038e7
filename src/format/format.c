/*
 * format.c
 *	  The formats by name, the column that is being converted, and encodings.
 */
#include "postgres.h"

#include "access/xact.h"
#include "commands/extension.h"
#include "fmgr.h"
#include "mb/pg_wchar.h"
#include "utils/memutils.h"

#include "format/format_internal.h"

#define MAX_REGISTERED	16

static const PenstockFormat *const built_in[] = {
	&penstock_format_json,
	&penstock_format_csv,
	&penstock_format_text,
	&penstock_format_binary,
};

/* Formats of other libraries, and the column that is being converted. */
static struct
{
	int			nregistered;
	const PenstockFormat *registered[MAX_REGISTERED];
	const char *column;
}			state;

/* ---- by name ---- */

static const PenstockFormat *
find_loaded(const char *name)
{
	for (int i = 0; i < lengthof(built_in); i++)
		if (strcmp(built_in[i]->name, name) == 0)
			return built_in[i];
	for (int i = 0; i < state.nregistered; i++)
		if (strcmp(state.registered[i]->name, name) == 0)
			return state.registered[i];
	return NULL;
}

/* A name that can be part of a library's. */
static bool
is_plain_name(const char *name)
{
	return *name != '\0' && strlen(name) < NAMEDATALEN / 2 &&
		strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789_") == strlen(name);
}

/*
 * penstock_format_find(name) finds a format.  One that is not Penstock's own comes from the extension penstock_NAME: where
 * this database has it, its library is loaded, and registers the format.
 */
const PenstockFormat *
penstock_format_find(const char *name)
{
	const PenstockFormat *format = find_loaded(name);
	char	   *extension;

	/* outside of a transaction, only what is loaded can be found */
	if (format != NULL || !is_plain_name(name) || !IsTransactionState())
		return format;
	extension = psprintf("penstock_%s", name);
	if (!OidIsValid(get_extension_oid(extension, true)))
		return NULL;
	load_file(psprintf("$libdir/%s", extension), false);
	return find_loaded(name);
}

/*
 * penstock_format_register makes a format known.  It must stay where it is; from the library's _PG_init.
 */
void
penstock_format_register(const PenstockFormat *format)
{
	if (find_loaded(format->name) != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("format \"%s\" exists already", format->name)));
	if (state.nregistered == MAX_REGISTERED)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("more than %d formats of other libraries", MAX_REGISTERED)));
	state.registered[state.nregistered++] = format;
}

/* ---- the current column ---- */

void
penstock_format_set_column(const char *name)
{
	state.column = name;
}

const char *
penstock_format_current_column(void)
{
	return state.column;
}

static void
describe(void *format)
{
	if (state.column != NULL)
		errcontext("column \"%s\"", state.column);
	else if (format != NULL)
		errcontext("payload in format %s", (const char *) format);
}

void
penstock_format_enter(ErrorContextCallback *callback, const char *format)
{
	state.column = NULL;
	callback->callback = describe;
	callback->arg = unconstify(char *, format);
	callback->previous = error_context_stack;
	error_context_stack = callback;
}

void
penstock_format_leave(ErrorContextCallback *callback)
{
	error_context_stack = callback->previous;
}

/* ---- texts ---- */

const char *
penstock_format_to_server(const PenstockFormatInfo *info, const char *payload, int *length)
{
	const char *text = pg_any_to_server(payload, *length, info->encoding);

	if (text != payload)
		*length = strlen(text);
	return text;
}

void
penstock_format_from_server(const PenstockFormatInfo *info, StringInfo text, int from)
{
	char	   *start = text->data + from;
	char	   *converted = pg_server_to_any(start, text->len - from, info->encoding);

	if (converted == start)
		return;
	text->len = from;
	appendStringInfoString(text, converted);
	pfree(converted);
}

/*
 * penstock_format_value: see format.h.  The result is in the current context.  Raises what pg_any_to_server and the type's input
 * function raise.
 */
Datum
penstock_format_value(PenstockFormatColumn *column, const char *value, int length, int encoding)
{
	ErrorContextCallback callback;
	Datum		result;

	penstock_format_enter(&callback, NULL);
	penstock_format_set_column(column->name);
	if (value != NULL)
	{
		const char *text = pg_any_to_server(value, length, encoding);

		result = penstock_value_of_text(column, penstock_value_kind(column->type, column->typmod), text,
										text == value ? length : strlen(text));
	}
	else
		result = InputFunctionCall(&column->input, NULL, column->input_param, column->typmod);
	penstock_format_set_column(NULL);
	penstock_format_leave(&callback);
	return result;
}
