/*
 * format_json.h
 *	  What reader and writer of JSON share.
 */
#ifndef PENSTOCK_FORMAT_JSON_H
#define PENSTOCK_FORMAT_JSON_H

#include "compat/compat_json.h"
#include "format/format_internal.h"
#include "utils/jsonb.h"

/* How a column takes a value that is no string, number or bool, and how it is written. */
typedef enum JsonShape
{
	JSON_SHAPE_SCALAR,			/* nested values as their JSON text, through the type's input function */
	JSON_SHAPE_JSON,			/* json */
	JSON_SHAPE_JSONB,
	JSON_SHAPE_ARRAY,			/* an array of scalars */
	JSON_SHAPE_SERVER			/* composites, arrays of them, domains over both: json_to_record */
} JsonShape;

typedef struct JsonColumn
{
	PenstockFormatColumn *column;
	PenstockValueKind kind;
	JsonShape shape;
	PenstockFormatColumn element;	/* JSON_SHAPE_ARRAY: an element, as if it were a column */
	PenstockValueKind element_kind;
	int16		element_length;
	bool		element_byval;
	char		element_align;
	FmgrInfo	to_record;		/* JSON_SHAPE_ARRAY, JSON_SHAPE_SERVER */
	TupleDesc	wrapper;		/* a row of this column alone */
	PenstockValueKind base_kind;	/* of the type below its domains, for writing */
	bool		is_number;		/* written without quotes */
	bool		is_json;		/* written as it is */
	FmgrInfo	to_json;		/* JSON_SHAPE_ARRAY, JSON_SHAPE_SERVER, types of extensions */
	bool		has_to_json;
} JsonColumn;

/* A string, number, bool or null of a message. */
typedef struct JsonScalar
{
	JsonTokenType type;
	const char *raw;			/* as it stands in the message */
	int			raw_length;
	const char *text;			/* without quotes and escapes */
	int			length;
	char	   *token;			/* of a number: zero-terminated */
} JsonScalar;

/* An object or array that becomes the value of a column, while it is being read. */
typedef struct JsonCapture
{
	JsonColumn *column;
	int			depth;			/* of its members */
	const char *start;
	JsonbParseState *parse;		/* JSON_SHAPE_JSONB */
	JsonbValue *jsonb;
	bool		is_nested;		/* JSON_SHAPE_ARRAY: not just scalars, the server must look at it */
	int			nelements;
	int			room;
	Datum	   *elements;
	bool	   *nulls;
} JsonCapture;

/* An object or array that a path leads through. */
typedef struct JsonFrame
{
	PenstockPath *path;
	int			depth;
	int			index;			/* of the element that is being read */
} JsonFrame;

typedef struct JsonState
{
	const PenstockFormatInfo *info;
	PenstockPath *root;
	JsonColumn *columns;
	MemoryContext scratch;		/* reset with each message */
	JsonSemAction actions;

	/* the message that is being read */
	MemoryContext result;
	JsonLexContext *lex;
	Datum	   *values;
	bool	   *isnull;
	JsonTokenType root_type;
	int			depth;			/* objects and arrays that are open */
	const char *value_start;
	PenstockPath *pending;		/* what the value that begins now is, if a column needs it */
	int			nframes;
	JsonFrame	frames[PENSTOCK_PATH_MAX_DEPTH + 1];
	int			ncaptures;
	JsonCapture *captures;
	int			nwatching;		/* captures that look at each event */
} JsonState;

/* ---- format_json_nested.c ---- */

extern void penstock_json_capture_begin(JsonState *state, JsonColumn *column, bool is_object);
extern void penstock_json_capture_end(JsonState *state);
extern void penstock_json_watch_begin(JsonState *state, bool is_object);
extern void penstock_json_watch_end(JsonState *state, bool is_object);
extern void penstock_json_watch_key(JsonState *state, const char *key, int length);
extern void penstock_json_watch_scalar(JsonState *state, const JsonScalar *scalar);
/* A scalar as jsonb value; it points into what the scalar points to. */
extern void penstock_json_to_jsonb(const JsonScalar *scalar, JsonbValue *value);
extern void penstock_json_set(JsonState *state, JsonColumn *column, Datum value);

/* ---- format_json_write.c ---- */

extern void penstock_json_write_begin(JsonState *state);
extern void penstock_json_encode(void *state, const Datum *values, const bool *isnull, StringInfo payload);

#endif							/* PENSTOCK_FORMAT_JSON_H */
