/*
 * format_json_nested.c
 *	  Objects and arrays of a JSON message that become one value: json, jsonb, SQL arrays, composites.
 *
 * A capture lasts from an opening bracket to its closing one.  json takes the text between; jsonb and arrays watch the
 * parser's events on the way; composites, and arrays of more than scalars, are the server's own json_to_record's.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "executor/executor.h"
#include "nodes/execnodes.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/fmgrprotos.h"
#include "utils/memutils.h"

#include "compat/compat.h"
#include "format/format_json.h"

void
penstock_json_set(JsonState *state, JsonColumn *column, Datum value)
{
	int			i = column->column->attno - 1;

	state->values[i] = value;
	state->isnull[i] = false;
}

static inline bool
is_watching(const JsonCapture *capture)
{
	return capture->column->shape == JSON_SHAPE_JSONB || capture->column->shape == JSON_SHAPE_ARRAY;
}

/* ---- jsonb ---- */

/* The server's limit for strings in jsonb, which its own input function checks. */
static void
check_length(int length)
{
	if (length > JENTRY_OFFLENMASK)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("string too long to represent as jsonb string"),
				 errdetail("Due to an implementation restriction, jsonb strings cannot exceed %d bytes.",
						   JENTRY_OFFLENMASK)));
}

static void
set_string(JsonbValue *value, const char *text, int length)
{
	check_length(length);
	value->type = jbvString;
	value->val.string.val = unconstify(char *, text);
	value->val.string.len = length;
}

void
penstock_json_to_jsonb(const JsonScalar *scalar, JsonbValue *value)
{
	switch (scalar->type)
	{
		case JSON_TOKEN_STRING:
			set_string(value, scalar->text, scalar->length);
			break;
		case JSON_TOKEN_NUMBER:
			value->type = jbvNumeric;
			value->val.numeric = DatumGetNumeric(DirectFunctionCall3(numeric_in, CStringGetDatum(scalar->token),
																	 ObjectIdGetDatum(InvalidOid),
																	 Int32GetDatum(-1)));
			break;
		case JSON_TOKEN_TRUE:
		case JSON_TOKEN_FALSE:
			value->type = jbvBool;
			value->val.boolean = scalar->type == JSON_TOKEN_TRUE;
			break;
		default:
			value->type = jbvNull;
	}
}

/* ---- arrays ---- */

static void
add_element(JsonCapture *capture, const JsonScalar *scalar)
{
	JsonColumn *column = capture->column;

	if (capture->nelements == capture->room)
	{
		capture->room = Max(16, capture->room * 2);
		capture->elements = capture->elements ?
			repalloc_huge(capture->elements, capture->room * sizeof(Datum)) :
			palloc(capture->room * sizeof(Datum));
		capture->nulls = capture->nulls ?
			repalloc_huge(capture->nulls, capture->room * sizeof(bool)) : palloc(capture->room * sizeof(bool));
	}
	capture->nulls[capture->nelements] = scalar->type == JSON_TOKEN_NULL;
	capture->elements[capture->nelements++] = scalar->type == JSON_TOKEN_NULL ? (Datum) 0 :
		penstock_value_of_text(&column->element, column->element_kind, scalar->text, scalar->length);
}

static Datum
make_array(const JsonCapture *capture)
{
	const JsonColumn *column = capture->column;
	int			lower = 1;
	int			n = capture->nelements;

	if (n == 0)
		return PointerGetDatum(construct_empty_array(column->element.type));
	return PointerGetDatum(construct_md_array(capture->elements, capture->nulls, 1, &n, &lower, column->element.type,
											  column->element_length, column->element_byval,
											  column->element_align));
}

/* ---- what the server converts ---- */

/* The value of JSON text by json_to_record, as a row of this column alone; in the result's context. */
static Datum
convert_by_server(JsonState *state, JsonColumn *column, const char *json, int length)
{
	LOCAL_FCINFO(fcinfo, 1);
	ReturnSetInfo rsinfo = {.type = T_ReturnSetInfo, .expectedDesc = column->wrapper};
	Form_pg_attribute att = TupleDescAttr(column->wrapper, 0);
	StringInfoData text;
	HeapTupleHeader row;
	HeapTupleData tuple = {0};
	MemoryContext old;
	Datum		value;
	bool		isnull;

	initStringInfo(&text);
	appendStringInfoChar(&text, '{');
	escape_json(&text, column->column->name);
	appendStringInfoChar(&text, ':');
	appendBinaryStringInfo(&text, json, length);
	appendStringInfoChar(&text, '}');

	InitFunctionCallInfoData(*fcinfo, &column->to_record, 1, InvalidOid, NULL, (fmNodePtr) &rsinfo);
	fcinfo->args[0].value = PointerGetDatum(cstring_to_text_with_len(text.data, text.len));
	fcinfo->args[0].isnull = false;
	row = DatumGetHeapTupleHeader(FunctionCallInvoke(fcinfo));

	tuple.t_len = HeapTupleHeaderGetDatumLength(row);
	tuple.t_data = row;
	value = heap_getattr(&tuple, 1, column->wrapper, &isnull);
	if (isnull)
		elog(ERROR, "json_to_record gave no value");
	old = MemoryContextSwitchTo(state->result);
	value = datumCopy(value, att->attbyval, att->attlen);
	MemoryContextSwitchTo(old);
	return value;
}

/* ---- captures ---- */

/*
 * penstock_json_capture_begin: the object or array that opens is a value of the column.
 */
void
penstock_json_capture_begin(JsonState *state, JsonColumn *column, bool is_object)
{
	JsonCapture *capture = &state->captures[state->ncaptures++];

	memset(capture, 0, sizeof(*capture));
	capture->column = column;
	capture->depth = state->depth;
	capture->start = state->lex->token_start;
	capture->is_nested = is_object;
	if (is_watching(capture))
		state->nwatching++;
}

/*
 * penstock_json_capture_end: the last capture is complete.
 */
void
penstock_json_capture_end(JsonState *state)
{
	JsonCapture *capture = &state->captures[--state->ncaptures];
	JsonColumn *column = capture->column;
	int			length = state->lex->prev_token_terminator - capture->start;
	MemoryContext old;
	Datum		value;

	if (is_watching(capture))
		state->nwatching--;
	penstock_format_set_column(column->column->name);
	if (column->shape == JSON_SHAPE_SERVER || (column->shape == JSON_SHAPE_ARRAY && capture->is_nested))
		value = convert_by_server(state, column, capture->start, length);
	else
	{
		old = MemoryContextSwitchTo(state->result);
		if (column->shape == JSON_SHAPE_JSONB)
			value = JsonbPGetDatum(JsonbValueToJsonb(capture->jsonb));
		else if (column->shape == JSON_SHAPE_ARRAY)
			value = make_array(capture);
		else if (column->shape == JSON_SHAPE_JSON)
			value = PointerGetDatum(cstring_to_text_with_len(capture->start, length));
		else
			value = penstock_value_of_text(column->column, column->kind, capture->start, length);
		MemoryContextSwitchTo(old);
	}
	penstock_format_set_column(NULL);
	penstock_json_set(state, column, value);
}

/* ---- events ---- */

static void
watch_bracket(JsonState *state, JsonbIteratorToken token)
{
	for (int i = 0; i < state->ncaptures; i++)
	{
		JsonCapture *capture = &state->captures[i];

		if (capture->column->shape == JSON_SHAPE_JSONB)
		{
			penstock_format_set_column(capture->column->column->name);
			capture->jsonb = pushJsonbValue(&capture->parse, token, NULL);
			penstock_format_set_column(NULL);
		}
		else if (capture->depth < state->depth)
			capture->is_nested = true;
	}
}

void
penstock_json_watch_begin(JsonState *state, bool is_object)
{
	watch_bracket(state, is_object ? WJB_BEGIN_OBJECT : WJB_BEGIN_ARRAY);
}

void
penstock_json_watch_end(JsonState *state, bool is_object)
{
	watch_bracket(state, is_object ? WJB_END_OBJECT : WJB_END_ARRAY);
}

void
penstock_json_watch_key(JsonState *state, const char *key, int length)
{
	JsonbValue	value;

	for (int i = 0; i < state->ncaptures; i++)
	{
		JsonCapture *capture = &state->captures[i];

		if (capture->column->shape != JSON_SHAPE_JSONB)
			continue;
		penstock_format_set_column(capture->column->column->name);
		set_string(&value, key, length);
		(void) pushJsonbValue(&capture->parse, WJB_KEY, &value);
		penstock_format_set_column(NULL);
	}
}

void
penstock_json_watch_scalar(JsonState *state, const JsonScalar *scalar)
{
	JsonbValue	value;

	for (int i = 0; i < state->ncaptures; i++)
	{
		JsonCapture *capture = &state->captures[i];

		if (capture->column->shape == JSON_SHAPE_JSONB)
		{
			penstock_format_set_column(capture->column->column->name);
			penstock_json_to_jsonb(scalar, &value);
			(void) pushJsonbValue(&capture->parse,
								  capture->parse->contVal.type == jbvArray ? WJB_ELEM : WJB_VALUE, &value);
			penstock_format_set_column(NULL);
		}
		else if (capture->column->shape == JSON_SHAPE_ARRAY && !capture->is_nested)
			add_element(capture, scalar);
	}
}
