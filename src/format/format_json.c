/*
 * format_json.c
 *	  JSON messages to columns, in one pass of the server's parser.
 *
 * The parser runs without unescaping and calls the actions below.  They keep track of which value of the path tree they are
 * in; everything else is passed over.  A text is taken from the message as it stands, and only one that has
 * a backslash goes through the lexer again.  Where a key occurs twice, the last one counts.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "funcapi.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"

#include "compat/compat.h"
#include "format/format_json.h"

static const PenstockConnectorOption json_options[] = {
	{.name = "path", .places = PENSTOCK_ON_COLUMN, .type = PENSTOCK_OPTION_TEXT,
		.description = "where the column stands in the message: keys and subscripts, as in $.a.b[0]; $ is the whole message"},
	{.name = NULL}
};

/* ---- columns ---- */

static bool
is_scalar_type(Oid type)
{
	Oid			base = getBaseType(type);

	return !type_is_rowtype(base) && base != JSONOID && base != JSONBOID && !OidIsValid(get_element_type(base));
}

static void
prepare_element(JsonColumn *column, Oid type)
{
	Oid			function;

	column->element = *column->column;
	column->element.type = type;
	column->element.options = NIL;
	getTypeInputInfo(type, &function, &column->element.input_param);
	fmgr_info(function, &column->element.input);
	column->element_kind = penstock_value_kind(type, column->element.typmod);
	get_typlenbyvalalign(type, &column->element_length, &column->element_byval, &column->element_align);
}

static void
prepare_column(JsonColumn *column, PenstockFormatColumn *info)
{
	Oid			base = getBaseType(info->type);
	Oid			element = get_element_type(info->type);

	column->column = info;
	column->kind = penstock_value_kind(info->type, info->typmod);
	if (info->type == JSONOID)
		column->shape = JSON_SHAPE_JSON;
	else if (info->type == JSONBOID)
		column->shape = JSON_SHAPE_JSONB;
	else if (OidIsValid(element) && is_scalar_type(element))
	{
		column->shape = JSON_SHAPE_ARRAY;
		prepare_element(column, element);
	}
	else if (type_is_rowtype(base) || OidIsValid(get_element_type(base)))
		column->shape = JSON_SHAPE_SERVER;
	if (column->shape == JSON_SHAPE_ARRAY || column->shape == JSON_SHAPE_SERVER)
	{
		fmgr_info(F_JSON_TO_RECORD, &column->to_record);
		column->wrapper = CreateTemplateTupleDesc(1);
		TupleDescInitEntry(column->wrapper, 1, info->name, info->type, info->typmod, 0);
		BlessTupleDesc(column->wrapper);
	}
}

/* ---- texts of the message ---- */

/* The text of a string token that has a backslash; the token includes its quotes. */
static const char *
unescape(const char *token, int *length)
{
	JsonLexContext *lex = penstock_json_lex(token, *length, true);
	JsonParseErrorType result = json_lex(lex);
	StringInfo	text = (StringInfo) lex->strval;
	char	   *copy;

	if (result != JSON_SUCCESS)
		penstock_json_raise(result, lex);
	/* a message may have many of them: keep no more than the text */
	*length = text->len;
	copy = pnstrdup(text->data, text->len);
	penstock_json_lex_free(lex);
	return copy;
}

/*
 * The key before a value.  Between them stand a colon and spaces, and before the key's first quote a
 * brace, a comma or a space, never a backslash; a quote within it has one.
 */
static const char *
key_before(const char *value, int *length)
{
	const char *end = value - 1;
	const char *start;
	bool		escapes = false;

	while (*end != '"')
		end--;
	for (start = end - 1; *start != '"' || start[-1] == '\\'; start--)
		escapes |= *start == '\\';
	*length = end - start - 1;
	if (!escapes)
		return start + 1;
	*length += 2;
	return unescape(start, length);
}

/* A column that the value goes to, for the error if it cannot be read. */
static const char *
column_of(const JsonState *state, const PenstockPath *path)
{
	if (path != NULL && path->ncolumns > 0)
		return state->columns[path->columns[0]].column->name;
	return state->ncaptures > 0 ? state->captures[state->ncaptures - 1].column->column->name : NULL;
}

static void
read_scalar(JsonState *state, const PenstockPath *path, JsonScalar *scalar, char *token, JsonTokenType type)
{
	scalar->type = type;
	scalar->token = token;
	scalar->raw = scalar->text = state->value_start;
	scalar->raw_length = scalar->length = state->lex->prev_token_terminator - state->value_start;
	if (type != JSON_TOKEN_STRING)
		return;
	if (memchr(scalar->raw, '\\', scalar->raw_length) == NULL)
	{
		scalar->text = scalar->raw + 1;
		scalar->length = scalar->raw_length - 2;
	}
	else
	{
		penstock_format_set_column(column_of(state, path));
		scalar->text = unescape(scalar->raw, &scalar->length);
		penstock_format_set_column(NULL);
	}
}

/* ---- where we are ---- */

static inline JsonFrame *
current_frame(JsonState *state)
{
	JsonFrame  *frame = &state->frames[state->nframes - 1];

	return state->nframes > 0 && frame->depth == state->depth ? frame : NULL;
}

/* A value begins that columns need: what an earlier one of the same key has left is gone. */
static inline void
expect(JsonState *state, PenstockPath *path)
{
	state->pending = path;
	if (path == NULL)
		return;
	for (int i = 0; i < path->nbelow; i++)
	{
		int			i_value = state->columns[path->below[i]].column->attno - 1;

		state->values[i_value] = (Datum) 0;
		state->isnull[i_value] = true;
	}
}

static void
take_scalar(JsonState *state, JsonColumn *column, const JsonScalar *scalar)
{
	MemoryContext old;
	JsonbValue	value;
	Datum		datum;

	if (scalar->type == JSON_TOKEN_NULL)
		return;
	old = MemoryContextSwitchTo(state->result);
	switch (column->shape)
	{
		case JSON_SHAPE_JSON:
			datum = PointerGetDatum(cstring_to_text_with_len(scalar->raw, scalar->raw_length));
			break;
		case JSON_SHAPE_JSONB:
			penstock_format_set_column(column->column->name);
			penstock_json_to_jsonb(scalar, &value);
			datum = JsonbPGetDatum(JsonbValueToJsonb(&value));
			penstock_format_set_column(NULL);
			break;
		default:
			datum = penstock_value_of_text(column->column, column->kind, scalar->text, scalar->length);
	}
	MemoryContextSwitchTo(old);
	penstock_json_set(state, column, datum);
}

/* ---- the parser's actions ---- */

static PENSTOCK_JSON_ACTION
field_start(void *arg, char *unused, bool isnull)
{
	JsonState  *state = arg;
	JsonFrame  *frame = current_frame(state);
	const char *key;
	int			length;

	state->value_start = state->lex->token_start;
	state->pending = NULL;
	/* at the message's end, the parser has yet to complain */
	if (state->value_start == NULL || (frame == NULL && state->nwatching == 0))
		PENSTOCK_JSON_DONE;
	key = key_before(state->value_start, &length);
	if (state->nwatching > 0)
		penstock_json_watch_key(state, key, length);
	if (frame != NULL)
		expect(state, penstock_path_key(frame->path, key, length));
	PENSTOCK_JSON_DONE;
}

static PENSTOCK_JSON_ACTION
element_start(void *arg, bool isnull)
{
	JsonState  *state = arg;
	JsonFrame  *frame = current_frame(state);

	state->value_start = state->lex->token_start;
	state->pending = NULL;
	if (frame != NULL)
		expect(state, penstock_path_element(frame->path, ++frame->index));
	PENSTOCK_JSON_DONE;
}

static PENSTOCK_JSON_ACTION
scalar(void *arg, char *token, JsonTokenType type)
{
	JsonState  *state = arg;
	PenstockPath *path = state->pending;
	JsonScalar	value;

	state->pending = NULL;
	if (state->depth == 0)
	{
		state->root_type = type;
		state->value_start += strspn(state->value_start, " \t\n\r");
	}
	if (path != NULL || state->nwatching > 0)
	{
		read_scalar(state, path, &value, token, type);
		if (state->nwatching > 0)
			penstock_json_watch_scalar(state, &value);
		for (int i = 0; path != NULL && i < path->ncolumns; i++)
			take_scalar(state, &state->columns[path->columns[i]], &value);
	}
	if (token != NULL)
		pfree(token);
	PENSTOCK_JSON_DONE;
}

static void
container_start(JsonState *state, bool is_object)
{
	PenstockPath *path = state->pending;

	state->pending = NULL;
	if (state->depth++ == 0)
		state->root_type = is_object ? JSON_TOKEN_OBJECT_START : JSON_TOKEN_ARRAY_START;
	if (path != NULL)
	{
		for (int i = 0; i < path->ncolumns; i++)
			penstock_json_capture_begin(state, &state->columns[path->columns[i]], is_object);
		if (is_object ? path->nkeys > 0 : path->nelements > 0)
		{
			state->frames[state->nframes].path = path;
			state->frames[state->nframes].depth = state->depth;
			state->frames[state->nframes++].index = -1;
		}
	}
	if (state->nwatching > 0)
		penstock_json_watch_begin(state, is_object);
}

static void
container_end(JsonState *state, bool is_object)
{
	if (state->nwatching > 0)
		penstock_json_watch_end(state, is_object);
	while (state->ncaptures > 0 && state->captures[state->ncaptures - 1].depth == state->depth)
		penstock_json_capture_end(state);
	if (current_frame(state) != NULL)
		state->nframes--;
	state->depth--;
}

static PENSTOCK_JSON_ACTION
object_start(void *state)
{
	container_start(state, true);
	PENSTOCK_JSON_DONE;
}

static PENSTOCK_JSON_ACTION
object_end(void *state)
{
	container_end(state, true);
	PENSTOCK_JSON_DONE;
}

static PENSTOCK_JSON_ACTION
array_start(void *state)
{
	container_start(state, false);
	PENSTOCK_JSON_DONE;
}

static PENSTOCK_JSON_ACTION
array_end(void *state)
{
	container_end(state, false);
	PENSTOCK_JSON_DONE;
}

/* ---- the format ---- */

static void
check_columns(const PenstockFormatInfo *info)
{
	(void) penstock_path_tree(info);
}

static void *
begin_messages(const PenstockFormatInfo *info)
{
	JsonState  *state = palloc0(sizeof(JsonState));

	state->info = info;
	state->root = penstock_path_tree(info);
	state->columns = palloc0(info->ncolumns * sizeof(JsonColumn));
	state->captures = palloc0(info->ncolumns * sizeof(JsonCapture));
	for (int i = 0; i < info->ncolumns; i++)
		prepare_column(&state->columns[i], &info->columns[i]);
	state->scratch = AllocSetContextCreate(CurrentMemoryContext, "penstock json message", ALLOCSET_DEFAULT_SIZES);
	state->actions.semstate = state;
	state->actions.object_start = object_start;
	state->actions.object_end = object_end;
	state->actions.array_start = array_start;
	state->actions.array_end = array_end;
	state->actions.object_field_start = field_start;
	state->actions.array_element_start = element_start;
	state->actions.scalar = scalar;
	penstock_json_write_begin(state);
	return state;
}

/* Columns that are fields need an object; without this, all of them would quietly be NULL. */
static void
check_root(JsonState *state)
{
	PenstockPath *root = state->root;

	if (state->root_type == JSON_TOKEN_OBJECT_START || state->root_type == JSON_TOKEN_NULL ||
		root->nkeys == 0 || root->ncolumns > 0 ||
		(state->root_type == JSON_TOKEN_ARRAY_START && root->nelements > 0))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_SQL_JSON_OBJECT_NOT_FOUND),
			 errmsg("message is not a JSON object"),
			 errdetail("It is %s.", state->root_type == JSON_TOKEN_ARRAY_START ? "an array" : "a single value")));
}

static void
parse(JsonState *state, const char *payload, int length, Datum *values, bool *isnull)
{
	JsonParseErrorType result;
	const char *text = penstock_format_to_server(state->info, payload, &length);

	state->values = values;
	state->isnull = isnull;
	state->depth = state->nframes = state->ncaptures = state->nwatching = 0;
	state->root->expected = 0;
	state->pending = state->root;
	state->value_start = text;
	state->lex = penstock_json_lex(text, length, false);
	result = pg_parse_json(state->lex, &state->actions);
	if (result != JSON_SUCCESS)
		penstock_json_raise(result, state->lex);
	check_root(state);
}

static void
decode_message(void *arg, const char *payload, int length, Datum *values, bool *isnull)
{
	JsonState  *state = arg;
	ErrorContextCallback callback;

	penstock_format_enter(&callback, "json");
	if (payload != NULL)
	{
		MemoryContextReset(state->scratch);
		state->result = MemoryContextSwitchTo(state->scratch);
		parse(state, payload, length, values, isnull);
		MemoryContextSwitchTo(state->result);
	}
	penstock_value_check_nulls(state->info, isnull);
	penstock_format_leave(&callback);
}

const PenstockFormat penstock_format_json = {
	.name = "json",
	.options = json_options,
	.check = check_columns,
	.begin = begin_messages,
	.decode = decode_message,
	.encode = penstock_json_encode,
};
