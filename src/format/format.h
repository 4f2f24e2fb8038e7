/*
 * format.h
 *	  Formats: from a message's bytes to columns and back.
 *
 * A format is asked for by OPTIONS (format 'json') of the foreign table.  It sees only the columns that are the
 * payload's: not dropped, not generated, not marked as metadata.  What does not fit is an ereport(ERROR) of a data
 * exception; penstock_format_column names the column for its context.  Input is not trusted.
 */
#ifndef PENSTOCK_FORMAT_H
#define PENSTOCK_FORMAT_H

#include "access/tupdesc.h"
#include "connector/connector.h"
#include "lib/stringinfo.h"

/* A column that is part of the payload. */
typedef struct PenstockFormatColumn
{
	int			attno;			/* from 1 */
	const char *name;
	Oid			type;
	int32		typmod;
	FmgrInfo	input;			/* the type's input function, text to value */
	Oid			input_param;
	FmgrInfo	output;			/* and output */
	bool		is_redeemed;	/* output gives what is to be written in the value's place, as text */
	List	   *options;		/* of DefElem: the column's own options */
} PenstockFormatColumn;

typedef struct PenstockFormatInfo
{
	const PenstockQueue *queue;
	TupleDesc	desc;
	int			ncolumns;
	PenstockFormatColumn *columns;
	int			encoding;		/* of the payload, PG_UTF8 unless OPTIONS (encoding ...) says otherwise */
} PenstockFormatInfo;

typedef struct PenstockFormat
{
	const char *name;
	const PenstockConnectorOption *options;	/* of foreign table and columns; ends with name NULL */
	/* Checks options and column types together; ereports. */
	void		(*check) (const PenstockFormatInfo *info);
	/* State for many messages, in the current context; info lives as long. */
	void	   *(*begin) (const PenstockFormatInfo *info);
	/*
	 * Fills values[attno - 1] and isnull[attno - 1] of every payload column (they come as NULL).  payload is
	 * not zero-terminated and may be NULL.  Allocates in the current context.
	 */
	void		(*decode) (void *state, const char *payload, int length, Datum *values, bool *isnull);
	/* Appends the payload of a row. */
	void		(*encode) (void *state, const Datum *values, const bool *isnull, StringInfo payload);
} PenstockFormat;

extern const PenstockFormat penstock_format_json;
extern const PenstockFormat penstock_format_csv;
extern const PenstockFormat penstock_format_text;
extern const PenstockFormat penstock_format_binary;

/* A format that lives in a library of its own (avro) registers itself; that library is loaded when it is asked for. */
extern const PenstockFormat *penstock_format_find(const char *name);	/* NULL: unknown */
extern void penstock_format_register(const PenstockFormat *format);

/*
 * The text's value in the column's type: checks encoding, calls the input function.  value is not zero-terminated;
 * NULL gives NULL.  Errors carry the column's name in their context.
 */
extern Datum penstock_format_value(PenstockFormatColumn *column, const char *value, int length, int encoding);
/* An option of the column, or NULL. */
extern const char *penstock_format_column_option(const PenstockFormatColumn *column, const char *name);

/* The column that is being decoded, for the dead letter and the error's context; NULL: none. */
extern const char *penstock_format_current_column(void);
extern void penstock_format_set_column(const char *name);

#endif							/* PENSTOCK_FORMAT_H */
