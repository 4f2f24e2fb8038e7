/*
 * format_csv.c
 *	  A line of CSV a message, as COPY has it: fields in the order of the payload's columns, no header.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"

#include "compat/compat.h"
#include "format/format_internal.h"

/* an option of the foreign table */
#define CSV_OPTION(option, what, value) \
	{.name = option, .places = PENSTOCK_ON_QUEUE, .type = PENSTOCK_OPTION_TEXT, .description = what, .fallback = value}

static const PenstockConnectorOption csv_options[] = {
	CSV_OPTION("delimiter", "character between two fields", ","),
	CSV_OPTION("quote", "character around a field that needs it", "\""),
	CSV_OPTION("escape", "character before a quote within a quoted field; the quote itself if not given", NULL),
	CSV_OPTION("null", "unquoted text that means NULL", ""),
	{.name = NULL}
};

typedef struct CsvState
{
	const PenstockFormatInfo *info;
	char		delimiter;
	char		quote;
	char		escape;
	const char *null;
	int			null_length;
	bool		is_special[256];	/* ends a plain run of a field: delimiter, quote, line end */
	PenstockValueKind *kinds;
	PenstockValueKind *base_kinds;	/* for writing */
	MemoryContext scratch;		/* reset with each message */
	StringInfoData field;		/* a field that had quotes */
} CsvState;

/* ---- options ---- */

static char
one_character(const PenstockFormatInfo *info, const char *name, char fallback)
{
	const char *value = penstock_format_option(info, csv_options, name);

	if (value == NULL)
		return fallback;
	if (strlen(value) != 1 || (unsigned char) *value >= 0x80 || *value == '\n' || *value == '\r')
		ereport(ERROR,
				(errcode(ERRCODE_FDW_INVALID_ATTRIBUTE_VALUE),
				 errmsg("invalid value for option \"%s\": \"%s\"", name, value),
				 errdetail("It must be one ASCII character that does not end a line.")));
	return *value;
}

static void
read_options(CsvState *state, const PenstockFormatInfo *info)
{
	state->info = info;
	state->delimiter = one_character(info, "delimiter", ',');
	state->quote = one_character(info, "quote", '"');
	state->escape = one_character(info, "escape", state->quote);
	state->null = penstock_format_option(info, csv_options, "null");
	state->null_length = strlen(state->null);
	if (state->delimiter == state->quote || state->delimiter == state->escape)
		ereport(ERROR,
				(errcode(ERRCODE_FDW_INVALID_ATTRIBUTE_VALUE),
				 errmsg("options \"delimiter\" and \"%s\" must differ",
						state->delimiter == state->quote ? "quote" : "escape")));
	for (const char *c = state->null; *c != '\0'; c++)
		if (*c == state->delimiter || *c == state->quote || *c == '\n' || *c == '\r')
			ereport(ERROR,
					(errcode(ERRCODE_FDW_INVALID_ATTRIBUTE_VALUE),
					 errmsg("invalid value for option \"null\": \"%s\"", state->null),
					 errdetail("It must not contain a delimiter, a quote or a line end.")));
}

static void
check_columns(const PenstockFormatInfo *info)
{
	CsvState	state;

	read_options(&state, info);
}

static void *
begin_messages(const PenstockFormatInfo *info)
{
	CsvState   *state = palloc0(sizeof(CsvState));

	read_options(state, info);
	state->is_special[(unsigned char) state->delimiter] = true;
	state->is_special[(unsigned char) state->quote] = true;
	state->is_special['\n'] = state->is_special['\r'] = true;
	state->kinds = palloc(info->ncolumns * sizeof(PenstockValueKind));
	state->base_kinds = palloc(info->ncolumns * sizeof(PenstockValueKind));
	for (int i = 0; i < info->ncolumns; i++)
	{
		state->kinds[i] = penstock_value_kind(info->columns[i].type, info->columns[i].typmod);
		state->base_kinds[i] = penstock_value_kind(getBaseType(info->columns[i].type), -1);
	}
	state->scratch = AllocSetContextCreate(CurrentMemoryContext, "penstock csv message", ALLOCSET_SMALL_SIZES);
	return state;
}

/* ---- reading ---- */

typedef struct CsvField
{
	const char *text;
	int			length;
	bool		was_quoted;
} CsvField;

pg_noreturn static void
refuse(const char *detail)
{
	ereport(ERROR,
			(errcode(ERRCODE_BAD_COPY_FILE_FORMAT),
			 errmsg("malformed CSV message"),
			 errdetail("%s", detail)));
}

/* The rest of a field from its first quote on; what stood before it has been put into state->field. */
static const char *
read_quoted(CsvState *state, const char *at, const char *end)
{
	StringInfo	field = &state->field;
	bool		in_quotes = false;

	for (; at < end; at++)
	{
		if (in_quotes && *at == state->escape && at + 1 < end && (at[1] == state->quote || at[1] == state->escape))
			at++;
		else if (*at == state->quote)
		{
			in_quotes = !in_quotes;
			continue;
		}
		else if (!in_quotes && state->is_special[(unsigned char) *at])
			return at;
		appendStringInfoCharMacro(field, *at);
	}
	if (in_quotes)
		refuse("A quoted field does not end.");
	return at;
}

/* Reads a field and returns where it ends: at a delimiter, a line end, or the message's end. */
static const char *
read_field(CsvState *state, const char *at, const char *end, CsvField *field)
{
	const char *start = at;

	while (at < end && !state->is_special[(unsigned char) *at])
		at++;
	field->was_quoted = at < end && *at == state->quote;
	if (field->was_quoted)
	{
		resetStringInfo(&state->field);
		appendBinaryStringInfo(&state->field, start, at - start);
		at = read_quoted(state, at, end);
		field->text = state->field.data;
		field->length = state->field.len;
	}
	else
	{
		field->text = start;
		field->length = at - start;
	}
	return at;
}

static void
set_value(CsvState *state, int i, const CsvField *field, MemoryContext result, Datum *values, bool *isnull)
{
	PenstockFormatColumn *column = &state->info->columns[i];
	MemoryContext old;

	if (!field->was_quoted && field->length == state->null_length &&
		memcmp(field->text, state->null, field->length) == 0)
		return;
	old = MemoryContextSwitchTo(result);
	values[column->attno - 1] = penstock_value_of_text(column, state->kinds[i], field->text, field->length);
	isnull[column->attno - 1] = false;
	MemoryContextSwitchTo(old);
}

static void
read_line(CsvState *state, const char *at, const char *end, MemoryContext result, Datum *values, bool *isnull)
{
	int			ncolumns = state->info->ncolumns;
	int			n = 0;

	for (;;)
	{
		CsvField	field;

		at = read_field(state, at, end, &field);
		if (n < ncolumns)
			set_value(state, n, &field, result, values, isnull);
		n++;
		if (at == end || *at != state->delimiter)
			break;
		at++;
	}
	if (at < end && *at == '\r')
		at++;
	if (at < end && *at == '\n')
		at++;
	if (at < end)
		refuse("It has more than one line.");
	if (n != ncolumns)
		refuse(psprintf("It has %d fields, and the queue %d columns for them.", n, ncolumns));
}

static void
decode_message(void *arg, const char *payload, int length, Datum *values, bool *isnull)
{
	CsvState   *state = arg;
	ErrorContextCallback callback;

	penstock_format_enter(&callback, "csv");
	if (payload != NULL)
	{
		MemoryContext result;
		const char *text;

		MemoryContextReset(state->scratch);
		result = MemoryContextSwitchTo(state->scratch);
		text = penstock_format_to_server(state->info, payload, &length);
		initStringInfo(&state->field);
		read_line(state, text, text + length, result, values, isnull);
		MemoryContextSwitchTo(result);
	}
	penstock_value_check_nulls(state->info, isnull);
	penstock_format_leave(&callback);
}

/* ---- writing ---- */

static void
write_quoted(const CsvState *state, const char *text, int length, StringInfo out)
{
	appendStringInfoChar(out, state->quote);
	for (int i = 0; i < length; i++)
	{
		if (text[i] == state->quote || text[i] == state->escape)
			appendStringInfoCharMacro(out, state->escape);
		appendStringInfoCharMacro(out, text[i]);
	}
	appendStringInfoChar(out, state->quote);
}

static void
write_field(const CsvState *state, const char *text, int length, StringInfo out)
{
	bool		is_plain = length != state->null_length || memcmp(text, state->null, length) != 0;

	for (int i = 0; is_plain && i < length; i++)
		is_plain = !state->is_special[(unsigned char) text[i]];
	if (is_plain)
		appendBinaryStringInfo(out, text, length);
	else
		write_quoted(state, text, length, out);
}

static void
encode_message(void *arg, const Datum *values, const bool *isnull, StringInfo payload)
{
	CsvState   *state = arg;
	ErrorContextCallback callback;
	char		buffer[PENSTOCK_VALUE_BUFFER];
	int			from = payload->len;

	penstock_format_enter(&callback, "csv");
	for (int i = 0; i < state->info->ncolumns; i++)
	{
		PenstockFormatColumn *column = &state->info->columns[i];
		const char *text;
		int			length;

		if (i > 0)
			appendStringInfoChar(payload, state->delimiter);
		if (isnull[column->attno - 1])
		{
			appendStringInfoString(payload, state->null);
			continue;
		}
		penstock_format_set_column(column->name);
		text = penstock_value_to_text(column, state->base_kinds[i], values[column->attno - 1], buffer, &length);
		penstock_format_set_column(NULL);
		write_field(state, text, length, payload);
	}
	penstock_format_from_server(state->info, payload, from);
	penstock_format_leave(&callback);
}

const PenstockFormat penstock_format_csv = {
	.name = "csv",
	.options = csv_options,
	.check = check_columns,
	.begin = begin_messages,
	.decode = decode_message,
	.encode = encode_message,
};
