/*
 * format_internal.h
 *	  What formats share with each other: options, texts to values without the type's input function, paths.
 *
 * format_value.c and format_path.c know nothing of the library they are in, so that a format with a library of its
 * own compiles them in.
 */
#ifndef PENSTOCK_FORMAT_INTERNAL_H
#define PENSTOCK_FORMAT_INTERNAL_H

#include "common/hashfn.h"
#include "format/format.h"

/* ---- format.c ---- */

/* Errors raised until "leave" carry the column's name, or say that they are about the payload. */
extern void penstock_format_enter(ErrorContextCallback *callback, const char *format);
extern void penstock_format_leave(ErrorContextCallback *callback);

/*
 * The payload in the server's encoding, checked; a copy only if it had to be converted.  Not
 * zero-terminated; *length changes with it.
 */
extern const char *penstock_format_to_server(const PenstockFormatInfo *info, const char *payload, int *length);
/* And back: what stands in text from "from" on is converted to the payload's encoding. */
extern void penstock_format_from_server(const PenstockFormatInfo *info, StringInfo text, int from);

/* ---- format_value.c ---- */

/* The table's option, or its fallback in options; NULL if there is neither. */
extern const char *penstock_format_option(const PenstockFormatInfo *info, const PenstockConnectorOption *options,
										  const char *name);

/* Types whose usual texts become values, and values texts, without their input and output function. */
typedef enum PenstockValueKind
{
	PENSTOCK_VALUE_OTHER,
	PENSTOCK_VALUE_TEXT,		/* text, varchar without length */
	PENSTOCK_VALUE_BOOL,
	PENSTOCK_VALUE_INT2,
	PENSTOCK_VALUE_INT4,
	PENSTOCK_VALUE_INT8,
	PENSTOCK_VALUE_FLOAT4,
	PENSTOCK_VALUE_FLOAT8,
	PENSTOCK_VALUE_DATE,
	PENSTOCK_VALUE_TIME,
	PENSTOCK_VALUE_TIMESTAMP,
	PENSTOCK_VALUE_TIMESTAMPTZ,
	PENSTOCK_VALUE_UUID
} PenstockValueKind;

extern PenstockValueKind penstock_value_kind(Oid type, int32 typmod);

/*
 * The text's value, if it has the usual form and the result is exactly the input function's; false: only that
 * function can tell.  The text is in the server's encoding, and need not be zero-terminated.  By-reference results
 * are in the current context.
 */
extern bool penstock_value_parse(PenstockValueKind kind, const char *text, int length, Datum *value);

/* The same, and otherwise calls the column's input function.  The column is the current one meanwhile. */
extern Datum penstock_value_of_text(PenstockFormatColumn *column, PenstockValueKind kind, const char *text, int length);

/*
 * The value as text, in the server's encoding: times in ISO 8601, everything else as its output function has it.
 * Zero-terminated; buffer has room for PENSTOCK_VALUE_BUFFER bytes and may hold the result.
 */
#define PENSTOCK_VALUE_BUFFER 160
extern const char *penstock_value_to_text(PenstockFormatColumn *column, PenstockValueKind kind, Datum value,
										  char *buffer, int *length);

/* Domains that do not take NULL raise their error for payload columns that have stayed NULL. */
extern void penstock_value_check_nulls(const PenstockFormatInfo *info, const bool *isnull);

/* ---- format_path.c ---- */

/*
 * Where in a message its columns stand: a tree of the keys and subscripts that lead to them.  A column's path is its option
 * "path", and without one the key of its name.
 */
typedef struct PenstockPath PenstockPath;
struct PenstockPath
{
	const char *key;			/* zero-terminated; NULL: an element of an array, or the root */
	int			key_length;
	uint32		hash;
	int			position;		/* among the keys of the value above */
	int			index;			/* of an element, from 0 */
	int			ncolumns;		/* columns that are this value, as indexes into PenstockFormatInfo.columns */
	int		   *columns;
	int			nbelow;			/* these, and those of all values below */
	int		   *below;
	int			nkeys;			/* values below by key, in the order of the columns */
	PenstockPath **keys;
	int			nslots;			/* hash table of them, a power of two */
	PenstockPath **slots;
	int			expected;		/* the key that probably comes next */
	int			nelements;		/* values below by subscript, growing */
	PenstockPath **elements;
	char	   *label;			/* for who writes the format: its own */
};

#define PENSTOCK_PATH_MAX_DEPTH 32
#define PENSTOCK_PATH_MAX_INDEX 9999

/* The tree of all columns, in the current context.  Raises an error if an option is no path of keys and subscripts. */
extern PenstockPath *penstock_path_tree(const PenstockFormatInfo *info);
extern PenstockPath *penstock_path_find_key(PenstockPath *path, const char *key, int length);

/*
 * The value of that key, or NULL if no column needs it.  Messages mostly have their keys in the same order: each key
 * is first compared with the one that came after the last one found.
 */
static inline PenstockPath *
penstock_path_key(PenstockPath *path, const char *key, int length)
{
	if (path->nkeys > 0)
	{
		PenstockPath *guess = path->keys[path->expected];

		if (guess->key_length == length && memcmp(guess->key, key, length) == 0)
		{
			if (++path->expected == path->nkeys)
				path->expected = 0;
			return guess;
		}
	}
	return path->nkeys > 0 ? penstock_path_find_key(path, key, length) : NULL;
}

static inline PenstockPath *
penstock_path_element(PenstockPath *path, int index)
{
	for (int i = 0; i < path->nelements && path->elements[i]->index <= index; i++)
		if (path->elements[i]->index == index)
			return path->elements[i];
	return NULL;
}

#endif							/* PENSTOCK_FORMAT_INTERNAL_H */
