/*
 * compat_json.h
 *	  The server's JSON parser, whose actions return a result since 16 and whose lexer takes a const text since 17.
 */
#ifndef PENSTOCK_COMPAT_JSON_H
#define PENSTOCK_COMPAT_JSON_H

#include "common/jsonapi.h"
#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"
#include "utils/json.h"
#include "utils/jsonfuncs.h"

/* An action's type, and its last statement. */
#if PG_VERSION_NUM >= 160000
#define PENSTOCK_JSON_ACTION JsonParseErrorType
#define PENSTOCK_JSON_DONE return JSON_SUCCESS
#else
#define PENSTOCK_JSON_ACTION void
#define PENSTOCK_JSON_DONE return
#endif

/* A lexer over a text in the server's encoding, in the current context. */
static inline JsonLexContext *
penstock_json_lex(const char *json, int length, bool need_escapes)
{
#if PG_VERSION_NUM >= 170000
	return makeJsonLexContextCstringLen(NULL, json, length, GetDatabaseEncoding(), need_escapes);
#else
	return makeJsonLexContextCstringLen(unconstify(char *, json), length, GetDatabaseEncoding(), need_escapes);
#endif
}

static inline void
penstock_json_lex_free(JsonLexContext *lex)
{
#if PG_VERSION_NUM >= 170000
	freeJsonLexContext(lex);
#else
	if (lex->strval != NULL)
	{
		pfree(lex->strval->data);
		pfree(lex->strval);
	}
	pfree(lex);
#endif
}

/* The error of a parse that did not succeed. */
static inline void
penstock_json_raise(JsonParseErrorType error, JsonLexContext *lex)
{
#if PG_VERSION_NUM >= 160000
	json_errsave_error(error, lex, NULL);
#else
	json_ereport_error(error, lex);
#endif
}

/* Appends a JSON string; str is zero-terminated. */
static inline void
penstock_json_escape(StringInfo out, const char *str, int length)
{
#if PG_VERSION_NUM >= 180000
	escape_json_with_len(out, str, length);
#else
	int			i = 0;

	/* most texts have nothing to escape, and the server looks at each character */
	while (i < length && (unsigned char) str[i] >= ' ' && str[i] != '"' && str[i] != '\\')
		i++;
	if (i < length)
	{
		escape_json(out, str);
		return;
	}
	enlargeStringInfo(out, length + 2);
	out->data[out->len++] = '"';
	memcpy(out->data + out->len, str, length);
	out->len += length;
	out->data[out->len++] = '"';
	out->data[out->len] = '\0';
#endif
}

#endif							/* PENSTOCK_COMPAT_JSON_H */
