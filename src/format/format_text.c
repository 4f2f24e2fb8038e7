/*
 * format_text.c
 *	  The whole message is the text of one column.
 */
#include "postgres.h"

#include "utils/lsyscache.h"

#include "format/format_internal.h"

static const PenstockConnectorOption text_options[] = {
	{.name = NULL}
};

typedef struct TextState
{
	const PenstockFormatInfo *info;
	PenstockFormatColumn *column;
	PenstockValueKind kind;
	PenstockValueKind base_kind;
} TextState;

static void
check_columns(const PenstockFormatInfo *info)
{
	if (info->ncolumns != 1)
		ereport(ERROR,
				(errcode(ERRCODE_FDW_INVALID_COLUMN_NUMBER),
				 errmsg("format text needs exactly one column for the payload, not %d", info->ncolumns),
				 errhint("Mark the other columns with OPTIONS (metadata ...), or choose another format.")));
}

static void *
begin_messages(const PenstockFormatInfo *info)
{
	TextState  *state = palloc0(sizeof(TextState));

	state->info = info;
	if (info->ncolumns > 0)
	{
		state->column = &info->columns[0];
		state->kind = penstock_value_kind(state->column->type, state->column->typmod);
		state->base_kind = penstock_value_kind(getBaseType(state->column->type), -1);
	}
	return state;
}

static void
decode_message(void *arg, const char *payload, int length, Datum *values, bool *isnull)
{
	TextState  *state = arg;
	PenstockFormatColumn *column = state->column;
	ErrorContextCallback callback;

	if (column == NULL)
		return;
	penstock_format_enter(&callback, "text");
	penstock_format_set_column(column->name);
	if (payload != NULL)
	{
		const char *text = penstock_format_to_server(state->info, payload, &length);

		values[column->attno - 1] = penstock_value_of_text(column, state->kind, text, length);
		isnull[column->attno - 1] = false;
	}
	penstock_value_check_nulls(state->info, isnull);
	penstock_format_set_column(NULL);
	penstock_format_leave(&callback);
}

static void
encode_message(void *arg, const Datum *values, const bool *isnull, StringInfo payload)
{
	TextState  *state = arg;
	PenstockFormatColumn *column = state->column;
	ErrorContextCallback callback;
	char		buffer[PENSTOCK_VALUE_BUFFER];
	const char *text;
	int			length;
	int			from = payload->len;

	if (column == NULL || isnull[column->attno - 1])
		return;
	penstock_format_enter(&callback, "text");
	penstock_format_set_column(column->name);
	text = penstock_value_to_text(column, state->base_kind, values[column->attno - 1], buffer, &length);
	appendBinaryStringInfo(payload, text, length);
	penstock_format_from_server(state->info, payload, from);
	penstock_format_set_column(NULL);
	penstock_format_leave(&callback);
}

const PenstockFormat penstock_format_text = {
	.name = "text",
	.options = text_options,
	.check = check_columns,
	.begin = begin_messages,
	.decode = decode_message,
	.encode = encode_message,
};
