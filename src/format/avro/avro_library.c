/*
 * avro_library.c
 *	  Entry of penstock_avro: the format is made known to Penstock, and Penstock's current column to the format.
 */
#include "postgres.h"

#include <curl/curl.h>

#include "fmgr.h"

#include "format/avro/avro_format.h"

PG_MODULE_MAGIC;

void		_PG_init(void);

/* The column that is being converted, for the errors' context. */
static const char *current_column;

void
penstock_format_set_column(const char *name)
{
	current_column = name;
	penstock_connector_api()->format_set_column(name);
}

static void
describe(void *format)
{
	if (current_column != NULL)
		errcontext("column \"%s\"", current_column);
	else
		errcontext("payload in format %s", (const char *) format);
}

void
penstock_format_enter(ErrorContextCallback *callback, const char *format)
{
	penstock_format_set_column(NULL);
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

void
_PG_init(void)
{
	if (curl_global_init(CURL_GLOBAL_DEFAULT) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_EXTERNAL_ROUTINE_EXCEPTION),
				 errmsg("could not initialize libcurl")));
	penstock_connector_api()->register_format(&penstock_format_avro);
}
