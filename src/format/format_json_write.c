/*
 * format_json_write.c
 *	  Columns to JSON messages.
 *
 * The path tree is written from the root.  A value that a column holds is that column's; what no column holds is an object
 * or array of the values below, with null for those that are NULL.
 */
#include "postgres.h"

#include "access/transam.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"

#include "compat/compat.h"
#include "format/format_json.h"

/* ---- once ---- */

static void
prepare_column(JsonColumn *column)
{
	PenstockFormatColumn *info = column->column;
	Oid			base = getBaseType(info->type);

	column->base_kind = penstock_value_kind(base, -1);
	column->is_json = base == JSONOID || base == JSONBOID;
	column->is_number = base == NUMERICOID ||
		(column->base_kind >= PENSTOCK_VALUE_INT2 && column->base_kind <= PENSTOCK_VALUE_FLOAT8);

	/* these need the server's conversion; types of extensions may have a cast to json, which that knows */
	column->has_to_json = !info->is_redeemed && (OidIsValid(get_element_type(base)) || type_is_rowtype(base) ||
		(base >= FirstNormalObjectId && !type_is_enum(base)));
	if (column->has_to_json)
	{
		List	   *args = list_make1(makeNullConst(info->type, info->typmod, InvalidOid));

		fmgr_info(F_TO_JSON, &column->to_json);
		fmgr_info_set_expr((Node *) makeFuncExpr(F_TO_JSON, JSONOID, args, InvalidOid, InvalidOid,
												 COERCE_EXPLICIT_CALL), &column->to_json);
	}
}

static void
prepare_labels(PenstockPath *path)
{
	for (int i = 0; i < path->nkeys; i++)
	{
		StringInfoData label;

		initStringInfo(&label);
		penstock_json_escape(&label, path->keys[i]->key, path->keys[i]->key_length);
		appendStringInfoChar(&label, ':');
		path->keys[i]->label = label.data;
		prepare_labels(path->keys[i]);
	}
	for (int i = 0; i < path->nelements; i++)
		prepare_labels(path->elements[i]);
}

void
penstock_json_write_begin(JsonState *state)
{
	for (int i = 0; i < state->info->ncolumns; i++)
		prepare_column(&state->columns[i]);
	prepare_labels(state->root);
}

/* ---- a value ---- */

static inline bool
is_number(const char *text)
{
	if (*text == '-')
		text++;
	return *text >= '0' && *text <= '9';
}

static void
write_value(JsonColumn *column, Datum value, StringInfo out)
{
	char		buffer[PENSTOCK_VALUE_BUFFER];
	const char *written;
	int			length;

	penstock_format_set_column(column->column->name);
	if (column->has_to_json)
	{
		text	   *json = DatumGetTextPP(FunctionCall1(&column->to_json, value));

		appendBinaryStringInfo(out, VARDATA_ANY(json), VARSIZE_ANY_EXHDR(json));
	}
	else if (column->base_kind == PENSTOCK_VALUE_BOOL)
		appendStringInfoString(out, DatumGetBool(value) ? "true" : "false");
	else
	{
		written = penstock_value_to_text(column->column, column->base_kind, value, buffer, &length);
		/* JSON has no NaN and no infinity */
		if (column->is_json || (column->is_number && is_number(written)))
			appendBinaryStringInfo(out, written, length);
		else
			penstock_json_escape(out, written, length);
	}
	penstock_format_set_column(NULL);
}

/* ---- the tree ---- */

typedef struct JsonRow
{
	JsonState  *state;
	const Datum *values;
	const bool *isnull;
	StringInfo	out;
} JsonRow;

static inline bool
is_given(const JsonRow *row, int column)
{
	return !row->isnull[row->state->columns[column].column->attno - 1];
}

/* A column below the path, other than "but", that has a value; NULL if there is none. */
static const char *
given_below(const JsonRow *row, const PenstockPath *path, int but)
{
	for (int i = 0; i < path->nbelow; i++)
		if (path->below[i] != but && is_given(row, path->below[i]))
			return row->state->columns[path->below[i]].column->name;
	return NULL;
}

static bool
any_given(const JsonRow *row, PenstockPath *const *paths, int n)
{
	for (int i = 0; i < n; i++)
		if (given_below(row, paths[i], -1) != NULL)
			return true;
	return false;
}

/* Writes the column that holds the path's value, if one does; two of them, or one and a part of it, contradict. */
static bool
write_column(const JsonRow *row, PenstockPath *path)
{
	for (int i = 0; i < path->ncolumns; i++)
	{
		JsonColumn *column = &row->state->columns[path->columns[i]];
		const char *other;

		if (!is_given(row, path->columns[i]))
			continue;
		other = path->nbelow > 1 ? given_below(row, path, path->columns[i]) : NULL;
		if (other != NULL)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("columns \"%s\" and \"%s\" stand for the same part of the message",
							column->column->name, other),
					 errhint("Give only one of them a value.")));
		write_value(column, row->values[column->column->attno - 1], row->out);
		return true;
	}
	return false;
}

static void write_path(const JsonRow *row, PenstockPath *path);

static void
write_object(const JsonRow *row, PenstockPath *path)
{
	appendStringInfoChar(row->out, '{');
	for (int i = 0; i < path->nkeys; i++)
	{
		if (i > 0)
			appendStringInfoChar(row->out, ',');
		appendStringInfoString(row->out, path->keys[i]->label);
		write_path(row, path->keys[i]);
	}
	appendStringInfoChar(row->out, '}');
}

static void
write_array(const JsonRow *row, PenstockPath *path)
{
	int			next = 0;

	appendStringInfoChar(row->out, '[');
	for (int i = 0; i <= path->elements[path->nelements - 1]->index; i++)
	{
		if (i > 0)
			appendStringInfoChar(row->out, ',');
		if (path->elements[next]->index == i)
			write_path(row, path->elements[next++]);
		else
			appendStringInfoString(row->out, "null");
	}
	appendStringInfoChar(row->out, ']');
}

static void
write_path(const JsonRow *row, PenstockPath *path)
{
	bool		is_array;

	check_stack_depth();
	if (write_column(row, path))
		return;
	if (path->nkeys == 0 && path->nelements == 0)
	{
		appendStringInfoString(row->out, "null");
		return;
	}
	is_array = path->nkeys == 0 || (path->nelements > 0 && any_given(row, path->elements, path->nelements));
	if (is_array && any_given(row, path->keys, path->nkeys))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("a part of the message cannot have both keys and subscripts"),
				 errhint("Give a value only to columns with one of them.")));
	if (is_array)
		write_array(row, path);
	else
		write_object(row, path);
}

void
penstock_json_encode(void *arg, const Datum *values, const bool *isnull, StringInfo payload)
{
	JsonState  *state = arg;
	JsonRow		row = {state, values, isnull, payload};
	ErrorContextCallback callback;
	int			from = payload->len;

	penstock_format_enter(&callback, "json");
	write_path(&row, state->root);
	penstock_format_from_server(state->info, payload, from);
	penstock_format_leave(&callback);
}
