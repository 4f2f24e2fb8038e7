/*
 * postgres_message.c
 *	  The messages of pgoutput: read with every length checked, and made from the lines of a COPY.
 *
 * All numbers are in network order.  What is used here:
 *
 *	Relation	'R' id:4 schema:string name:string identity:1 ncolumns:2 { flags:1 (1: key) name:string type:4 typmod:4 } ...
 *	Insert		'I' id:4 'N' tuple
 *	Update		'U' id:4 [ 'K' tuple (the key) | 'O' tuple (all of the old row) ] 'N' tuple
 *	Delete		'D' id:4 ( 'K' | 'O' ) tuple
 *	Truncate	'T' nrelations:4 flags:1 id:4 ...
 *	tuple		ncolumns:2 { 'n' (null) | 'u' (unchanged TOAST) | 't' length:4 text } ...
 *
 * The initial copy is turned into the same messages, so that there is one way from a message to a row.
 */
#include "postgres.h"

#include "libpq/pqformat.h"
#include "mb/pg_wchar.h"
#include "port/pg_bswap.h"

#include "connector/postgres/postgres_connector.h"

/* ---- reading ---- */

static const char *
take(PostgresReader *reader, size_t length)
{
	const char *at = reader->at;

	if (reader->bad || (size_t) (reader->end - at) < length)
	{
		reader->bad = true;
		return NULL;
	}
	reader->at += length;
	return at;
}

uint8
penstock_postgres_byte(PostgresReader *reader)
{
	const char *at = take(reader, 1);

	return at ? (uint8) *at : 0;
}

uint16
penstock_postgres_int16(PostgresReader *reader)
{
	const char *at = take(reader, sizeof(uint16));
	uint16		value = 0;

	if (at != NULL)
		memcpy(&value, at, sizeof(value));
	return pg_ntoh16(value);
}

uint32
penstock_postgres_int32(PostgresReader *reader)
{
	const char *at = take(reader, sizeof(uint32));
	uint32		value = 0;

	if (at != NULL)
		memcpy(&value, at, sizeof(value));
	return pg_ntoh32(value);
}

uint64
penstock_postgres_int64(PostgresReader *reader)
{
	const char *at = take(reader, sizeof(uint64));
	uint64		value = 0;

	if (at != NULL)
		memcpy(&value, at, sizeof(value));
	return pg_ntoh64(value);
}

/* A zero-terminated string, where it stands; "" when it is bad. */
const char *
penstock_postgres_string(PostgresReader *reader)
{
	const char *end = reader->bad ? NULL : memchr(reader->at, '\0', reader->end - reader->at);

	if (end == NULL || !pg_verifymbstr(reader->at, end - reader->at, true))
	{
		reader->bad = true;
		return "";
	}
	return take(reader, end - reader->at + 1);
}

void
penstock_postgres_skip_tuple(PostgresReader *reader, int ncolumns)
{
	if (penstock_postgres_int16(reader) != ncolumns)
		reader->bad = true;
	for (int i = 0; i < ncolumns && !reader->bad; i++)
	{
		uint8		kind = penstock_postgres_byte(reader);

		if (kind == 't')
			(void) take(reader, penstock_postgres_int32(reader));
		else if (kind != 'n' && kind != 'u')
			reader->bad = true;
	}
}

PostgresRelation *
penstock_postgres_relation(const char *message, int length)
{
	PostgresReader reader = {.at = message, .end = message + length};
	PostgresRelation *relation = palloc0(sizeof(PostgresRelation));

	relation->id = penstock_postgres_int32(&reader);
	relation->schema = pstrdup(penstock_postgres_string(&reader));
	if (*relation->schema == '\0')
		relation->schema = "pg_catalog";	/* that is how pgoutput abbreviates it */
	relation->name = pstrdup(penstock_postgres_string(&reader));
	(void) penstock_postgres_byte(&reader); /* replica identity: the columns' flags say enough */
	relation->ncolumns = penstock_postgres_int16(&reader);
	if (relation->ncolumns > (reader.end - reader.at) / 10)
		return NULL;
	relation->columns = palloc0_array(PostgresColumn, relation->ncolumns + 1);
	for (int i = 0; i < relation->ncolumns; i++)
	{
		PostgresColumn *column = &relation->columns[i];

		column->key = (penstock_postgres_byte(&reader) & 1) != 0;
		column->name = pstrdup(penstock_postgres_string(&reader));
		column->type = penstock_postgres_int32(&reader);
		(void) penstock_postgres_int32(&reader);	/* typmod */
	}
	if (reader.bad)
		return NULL;
	relation->message = memcpy(palloc(length), message, length);
	relation->length = length;
	return relation;
}

/* ---- making ---- */

void
penstock_postgres_put_relation(StringInfo message, const PostgresRelation *relation)
{
	appendStringInfoChar(message, 'R');
	pq_sendint32(message, relation->id);
	appendBinaryStringInfo(message, relation->schema, strlen(relation->schema) + 1);
	appendBinaryStringInfo(message, relation->name, strlen(relation->name) + 1);
	appendStringInfoChar(message, 'd');
	pq_sendint16(message, relation->ncolumns);
	for (int i = 0; i < relation->ncolumns; i++)
	{
		const PostgresColumn *column = &relation->columns[i];

		appendStringInfoChar(message, column->key ? 1 : 0);
		appendBinaryStringInfo(message, column->name, strlen(column->name) + 1);
		pq_sendint32(message, column->type);
		pq_sendint32(message, 0);
	}
}

/* The character that follows a backslash in COPY's text format stands for this one. */
static char
unescape(char c)
{
	switch (c)
	{
		case 'b':
			return '\b';
		case 'f':
			return '\f';
		case 'n':
			return '\n';
		case 'r':
			return '\r';
		case 't':
			return '\t';
		case 'v':
			return '\v';
		default:
			return c;
	}
}

static void
put_field(StringInfo message, const char *field, int length)
{
	const char *end = field + length;
	int			header;
	uint32		size;

	if (length == 2 && memcmp(field, "\\N", 2) == 0)
	{
		appendStringInfoChar(message, 'n');
		return;
	}
	enlargeStringInfo(message, 1 + sizeof(uint32) + length);
	appendStringInfoCharMacro(message, 't');
	header = message->len;
	message->len += sizeof(uint32);
	while (field < end)
	{
		const char *backslash = memchr(field, '\\', end - field);
		int			plain = (backslash ? backslash : end) - field;

		memcpy(message->data + message->len, field, plain);
		message->len += plain;
		field += plain;
		if (backslash != NULL && backslash + 1 < end)
			message->data[message->len++] = unescape(backslash[1]);
		if (backslash != NULL)
			field += 2;
	}
	size = pg_hton32(message->len - header - sizeof(uint32));
	memcpy(message->data + header, &size, sizeof(size));
}

/*
 * penstock_postgres_put_line makes an Insert message of a line of COPY's text format.  It is false when the line does not have the
 * columns of the relation.
 */
bool
penstock_postgres_put_line(StringInfo message, const PostgresRelation *relation, const char *line, int length)
{
	const char *end = line + length;
	int			n = 0;

	if (line < end && end[-1] == '\n')
		end--;
	appendStringInfoChar(message, 'I');
	pq_sendint32(message, relation->id);
	appendStringInfoChar(message, 'N');
	pq_sendint16(message, relation->ncolumns);
	if (relation->ncolumns == 0)
		return true;
	for (;;)
	{
		const char *tab = memchr(line, '\t', end - line);

		put_field(message, line, (tab ? tab : end) - line);
		n++;
		if (tab == NULL)
			return n == relation->ncolumns;
		line = tab + 1;
	}
}
