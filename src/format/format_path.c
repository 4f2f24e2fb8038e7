/*
 * format_path.c
 *	  Where in a message the columns stand: paths, and a tree of all of them.
 *
 * A path is SQL/JSON's ($.order.lines[0]."unit price"), read by the server's own parser, and
 * restricted to keys and single subscripts.
 */
#include "postgres.h"

#include "common/hashfn.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/jsonpath.h"
#include "utils/numeric.h"

#include "compat/compat.h"
#include "format/format_internal.h"

/* ---- growing the tree ---- */

static PenstockPath *
new_path(void)
{
	return palloc0(sizeof(PenstockPath));
}

static PenstockPath *
add_key(PenstockPath *parent, const char *key, int length)
{
	PenstockPath *child;

	for (int i = 0; i < parent->nkeys; i++)
		if (parent->keys[i]->key_length == length && memcmp(parent->keys[i]->key, key, length) == 0)
			return parent->keys[i];
	child = new_path();
	child->key = pnstrdup(key, length);
	child->key_length = length;
	child->hash = hash_bytes((const unsigned char *) key, length);
	parent->keys = parent->keys ? repalloc(parent->keys, (parent->nkeys + 1) * sizeof(PenstockPath *)) :
		palloc(sizeof(PenstockPath *));
	child->position = parent->nkeys;
	parent->keys[parent->nkeys++] = child;
	return child;
}

static PenstockPath *
add_element(PenstockPath *parent, int index)
{
	PenstockPath *child;
	int			at = 0;

	while (at < parent->nelements && parent->elements[at]->index < index)
		at++;
	if (at < parent->nelements && parent->elements[at]->index == index)
		return parent->elements[at];
	child = new_path();
	child->index = index;
	parent->elements = parent->elements ?
		repalloc(parent->elements, (parent->nelements + 1) * sizeof(PenstockPath *)) :
		palloc(sizeof(PenstockPath *));
	memmove(parent->elements + at + 1, parent->elements + at, (parent->nelements - at) * sizeof(PenstockPath *));
	parent->elements[at] = child;
	parent->nelements++;
	return child;
}

/* ---- reading an option ---- */

pg_noreturn static void
refuse(const PenstockFormatColumn *column, const char *option, const char *detail)
{
	ereport(ERROR,
			(errcode(ERRCODE_FDW_INVALID_ATTRIBUTE_VALUE),
			 errmsg("invalid value for option \"path\" of column \"%s\": \"%s\"", column->name, option),
			 errdetail("%s", detail),
			 errhint("A path is made of keys and subscripts, such as $.order.lines[0].\"unit price\".")));
}

static int
subscript(JsonPathItem *item, const PenstockFormatColumn *column, const char *option)
{
	JsonPathItem from;
	JsonPathItem to;
	int			index = -1;

	if (item->content.array.nelems != 1 || jspGetArraySubscript(item, &from, &to, 0))
		refuse(column, option, "Each subscript must be one number.");
	if (from.type == jpiNumeric && !jspHasNext(&from))
	{
		Numeric		number = jspGetNumeric(&from);
		Datum		limit = DirectFunctionCall1(int4_numeric, Int32GetDatum(PENSTOCK_PATH_MAX_INDEX));

		if (DatumGetBool(DirectFunctionCall2(numeric_le, NumericGetDatum(number), limit)))
			index = DatumGetInt32(DirectFunctionCall1(numeric_int4,
													  DirectFunctionCall2(numeric_trunc, NumericGetDatum(number),
																		  Int32GetDatum(0))));
	}
	if (index < 0)
		refuse(column, option, psprintf("A subscript must be a number from 0 to %d.", PENSTOCK_PATH_MAX_INDEX));
	return index;
}

static void
describe(void *column)
{
	errcontext("option \"path\" of column \"%s\"", ((const PenstockFormatColumn *) column)->name);
}

static PenstockPath *
add_option(PenstockPath *root, PenstockFormatColumn *column, const char *option)
{
	ErrorContextCallback callback = {.callback = describe, .arg = column, .previous = error_context_stack};
	PenstockPath *path = root;
	JsonPathItem item;
	JsonPathItem next;
	int			depth = 0;

	error_context_stack = &callback;
	jspInit(&item, DatumGetJsonPathP(DirectFunctionCall1(jsonpath_in, CStringGetDatum(option))));
	error_context_stack = callback.previous;
	if (item.type != jpiRoot)
		refuse(column, option, "It must begin with $.");
	while (jspGetNext(&item, &next))
	{
		item = next;
		if (++depth > PENSTOCK_PATH_MAX_DEPTH)
			refuse(column, option, psprintf("It has more than %d steps.", PENSTOCK_PATH_MAX_DEPTH));
		if (item.type == jpiKey)
		{
			int32		length;
			const char *key = jspGetString(&item, &length);

			path = add_key(path, key, length);
		}
		else if (item.type == jpiIndexArray)
			path = add_element(path, subscript(&item, column, option));
		else
			refuse(column, option, "It has a step of another kind.");
	}
	return path;
}

/* ---- the finished tree ---- */

static void
make_slots(PenstockPath *path)
{
	path->nslots = 4;
	while (path->nslots < path->nkeys * 2)
		path->nslots *= 2;
	path->slots = palloc0(path->nslots * sizeof(PenstockPath *));
	for (int i = 0; i < path->nkeys; i++)
	{
		uint32		slot = path->keys[i]->hash & (path->nslots - 1);

		while (path->slots[slot] != NULL)
			slot = (slot + 1) & (path->nslots - 1);
		path->slots[slot] = path->keys[i];
	}
}

static int
count_below(const PenstockPath *path)
{
	int			n = path->ncolumns;

	for (int i = 0; i < path->nkeys; i++)
		n += count_below(path->keys[i]);
	for (int i = 0; i < path->nelements; i++)
		n += count_below(path->elements[i]);
	return n;
}

static void
add_below(PenstockPath *path, const int *columns, int n)
{
	for (int i = 0; i < n; i++)
		path->below[path->nbelow++] = columns[i];
}

static void
finish(PenstockPath *path)
{
	path->below = palloc(count_below(path) * sizeof(int));
	add_below(path, path->columns, path->ncolumns);
	make_slots(path);
	for (int i = 0; i < path->nkeys; i++)
	{
		finish(path->keys[i]);
		add_below(path, path->keys[i]->below, path->keys[i]->nbelow);
	}
	for (int i = 0; i < path->nelements; i++)
	{
		finish(path->elements[i]);
		add_below(path, path->elements[i]->below, path->elements[i]->nbelow);
	}
}

PenstockPath *
penstock_path_tree(const PenstockFormatInfo *info)
{
	PenstockPath *root = new_path();

	for (int i = 0; i < info->ncolumns; i++)
	{
		PenstockFormatColumn *column = &info->columns[i];
		const char *option = penstock_format_column_option(column, "path");
		PenstockPath *path = option ? add_option(root, column, option) :
			add_key(root, column->name, strlen(column->name));

		if (path->columns == NULL)
			path->columns = palloc(info->ncolumns * sizeof(int));
		path->columns[path->ncolumns++] = i;
	}
	finish(root);
	return root;
}

PenstockPath *
penstock_path_find_key(PenstockPath *path, const char *key, int length)
{
	uint32		hash = hash_bytes((const unsigned char *) key, length);
	uint32		slot = hash & (path->nslots - 1);

	for (; path->slots[slot] != NULL; slot = (slot + 1) & (path->nslots - 1))
	{
		PenstockPath *found = path->slots[slot];

		if (found->hash != hash || found->key_length != length || memcmp(found->key, key, length) != 0)
			continue;
		path->expected = found->position + 1 == path->nkeys ? 0 : found->position + 1;
		return found;
	}
	return NULL;
}
