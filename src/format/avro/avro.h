/*
 * avro.h
 *	  What the files of penstock_avro share: schemas, their resolution, readers and targets.
 *
 * Bytes and schemas come from outside.  Every length and count is compared with what is left of the message before
 * anything is allocated for it.
 */
#ifndef PENSTOCK_AVRO_H
#define PENSTOCK_AVRO_H

#include "compat/compat.h"
#include "format/format_internal.h"
#include "utils/jsonb.h"

#define AVRO_MAX_SCHEMA_TEXT	(1024 * 1024)	/* bytes */
#define AVRO_MAX_SCHEMA_DEPTH	100
#define AVRO_MAX_TYPES			20000	/* in a schema; also records, enums and fixed of all that it refers to */
#define AVRO_MAX_MEMBERS		5000	/* fields, symbols or branches of one type */
#define AVRO_MAX_DEPTH			200		/* of a message's values */
#define AVRO_MAX_EMPTY			100000	/* values of a message, beyond one for each of its bytes */
#define AVRO_MAX_DECIMAL		420		/* bytes, some 1,000 digits */

/* ---- schemas: avro_schema.c ---- */

typedef enum AvroType
{
	AVRO_NULL,
	AVRO_BOOLEAN,
	AVRO_INT,
	AVRO_LONG,
	AVRO_FLOAT,
	AVRO_DOUBLE,
	AVRO_BYTES,
	AVRO_STRING,
	AVRO_RECORD,
	AVRO_ENUM,
	AVRO_ARRAY,
	AVRO_MAP,
	AVRO_UNION,
	AVRO_FIXED
} AvroType;

typedef enum AvroLogical
{
	AVRO_PLAIN,
	AVRO_DECIMAL,
	AVRO_UUID,
	AVRO_DATE,
	AVRO_TIME_MILLIS,
	AVRO_TIME_MICROS,
	AVRO_TIMESTAMP_MILLIS,
	AVRO_TIMESTAMP_MICROS,
	AVRO_LOCAL_MILLIS,
	AVRO_LOCAL_MICROS,
	AVRO_DURATION
} AvroLogical;

typedef struct AvroSchema AvroSchema;

typedef struct AvroField
{
	const char *name;
	int			naliases;
	const char **aliases;
	AvroSchema *schema;
	Jsonb	   *fallback;		/* its default; NULL: none */
	bytea	   *fallback_bytes; /* the same as Avro; made when it is first needed */
} AvroField;

struct AvroSchema
{
	AvroType	type;
	AvroLogical logical;
	int			precision;		/* AVRO_DECIMAL */
	int			scale;
	const char *name;			/* of a record, enum or fixed, with namespace */
	int			naliases;
	const char **aliases;
	int			n;				/* fields, symbols or branches */
	AvroField  *fields;
	const char **symbols;
	const char *default_symbol;
	AvroSchema **branches;
	AvroSchema *items;			/* of an array or map */
	int			size;			/* of a fixed */
	int			empty;			/* can a value take no bytes?  0: not known yet, 1: yes, -1: no */
};

/*
 * Parses schemas, in the current context; each may use the names of those before it.  Returns the last.  Raises an
 * error if one is not valid.
 */
extern AvroSchema *penstock_avro_schema(List *texts);
extern const char *penstock_avro_type_name(const AvroSchema *schema);
extern bool penstock_avro_may_be_empty(AvroSchema *schema);

/* ---- resolution: avro_resolve.c ---- */

typedef struct AvroNode AvroNode;

/* A field of the reader's record that the writer does not have. */
typedef struct AvroMissing
{
	const char *name;
	AvroNode   *node;
	bytea	   *bytes;			/* its default as Avro */
} AvroMissing;

/* How values of the writer's schema are read as values of the reader's. */
struct AvroNode
{
	AvroSchema *writer;
	AvroSchema *reader;			/* the writer's own if there is no other */
	AvroLogical logical;
	bool		mismatch;		/* no value of the writer's fits */
	const char **names;			/* of a record, for each of the writer's fields: the reader's name; NULL: skipped */
	AvroNode  **members;		/* of its fields or a union's branches */
	int			nmissing;
	AvroMissing *missing;
	const char **symbols;		/* of an enum, for each of the writer's: the reader's; NULL: it has none */
	AvroNode   *items;
};

extern AvroNode *penstock_avro_resolve(AvroSchema *writer, AvroSchema *reader);
pg_noreturn extern void penstock_avro_mismatch(const AvroNode *node);

/* ---- reading: avro_read.c ---- */

typedef struct AvroReader
{
	const uint8 *at;
	const uint8 *end;
	int			depth;
	int64		budget;			/* values that may still come without a byte of their own */
	MemoryContext scratch;		/* for what the result does not keep */
} AvroReader;

pg_noreturn extern void penstock_avro_malformed(const char *detail);
extern int64 penstock_avro_long(AvroReader *reader);
extern int32 penstock_avro_int(AvroReader *reader);
extern bool penstock_avro_bool(AvroReader *reader);
extern float penstock_avro_float(AvroReader *reader);
extern double penstock_avro_double(AvroReader *reader);
extern const char *penstock_avro_fixed(AvroReader *reader, int64 length);
extern const char *penstock_avro_bytes(AvroReader *reader, int *length);
/* A string, in the server's encoding. */
extern const char *penstock_avro_string(AvroReader *reader, int *length);
extern int	penstock_avro_index(AvroReader *reader, int n);
/* The next item of an array or map; *left is 0 at first. */
extern bool penstock_avro_next_item(AvroReader *reader, AvroSchema *items, int64 *left);
extern void penstock_avro_start(AvroReader *reader, const char *bytes, int length, MemoryContext scratch);
extern void penstock_avro_spend(AvroReader *reader, int64 n);
extern void penstock_avro_enter(AvroReader *reader);
extern void penstock_avro_skip(AvroReader *reader, AvroSchema *schema);

/* ---- values: avro_value.c ---- */

typedef enum AvroShape
{
	AVRO_TO_SCALAR,
	AVRO_TO_BYTEA,
	AVRO_TO_NUMERIC,
	AVRO_TO_INTERVAL,
	AVRO_TO_JSON,
	AVRO_TO_JSONB,
	AVRO_TO_ARRAY,
	AVRO_TO_COMPOSITE
} AvroShape;

/* An SQL type that values are converted to and from: a column's, an array's elements', a composite's attribute's. */
typedef struct AvroTarget AvroTarget;
struct AvroTarget
{
	PenstockFormatColumn column;	/* named as the column it is in; type and functions are below its domains */
	PenstockValueKind kind;
	AvroShape	shape;
	Oid			domain;			/* InvalidOid: none */
	void	   *domain_state;
	MemoryContext context;		/* that it lives in */
	int16		length;
	bool		byval;
	char		align;
	AvroTarget *element;
	TupleDesc	desc;			/* of a composite */
	AvroTarget *attributes;
	const AvroNode *mapped;		/* the record that "map" is about: which attribute each field is, -1: none */
	int		   *map;
	int		   *map_missing;	/* the same for AvroNode.missing */
};

extern AvroTarget *penstock_avro_target(const PenstockFormatColumn *column);
extern Datum penstock_avro_value(AvroReader *reader, const AvroNode *node, AvroTarget *target, bool *isnull);

/* ---- logical types: avro_logical.c ---- */

extern Numeric penstock_avro_decimal(const char *bytes, int length, int scale);
/* The number's bytes as decimal of that precision and scale; rounded, and an error if it is too large. */
extern void penstock_avro_put_decimal(StringInfo out, Numeric number, const AvroSchema *schema);
/* Microseconds since 2000 of a timestamp, in either direction. */
extern Timestamp penstock_avro_timestamp(int64 value, AvroLogical logical);
extern int64 penstock_avro_from_timestamp(Timestamp value, AvroLogical logical);
extern int64 penstock_avro_time(int64 value, AvroLogical logical);
extern int32 penstock_avro_date(int64 value);
extern Interval *penstock_avro_duration(const char *bytes);
extern void penstock_avro_put_duration(StringInfo out, const Interval *interval);

/* ---- jsonb: avro_jsonb.c ---- */

/* Reads a value; in the current context. */
extern Jsonb *penstock_avro_jsonb(AvroReader *reader, const AvroNode *node);

/* ---- writing: avro_write.c, avro_write_text.c, avro_write_jsonb.c ---- */

/* What a text stands for where the schema has bytes. */
typedef enum AvroBytesText
{
	AVRO_TEXT_UTF8,				/* its UTF-8 */
	AVRO_TEXT_HEX,				/* bytea's \x..., as jsonb has it here */
	AVRO_TEXT_LATIN1			/* one character a byte, as defaults have it */
} AvroBytesText;

extern void penstock_avro_put_long(StringInfo out, int64 value);
extern void penstock_avro_put_bytes(StringInfo out, const char *bytes, int length);
extern void penstock_avro_put_fixed(StringInfo out, const AvroSchema *schema, const char *bytes, int length);
extern void penstock_avro_put_number(StringInfo out, const AvroSchema *schema, int64 value);
extern void penstock_avro_put_double(StringInfo out, const AvroSchema *schema, double value);
extern void penstock_avro_put_date(StringInfo out, int32 date);
extern int	penstock_avro_null_branch(const AvroSchema *schema);	/* -1: there is none, or it is no union */
pg_noreturn extern void penstock_avro_unfit(const AvroSchema *schema, const char *what);
/* The text is zero-terminated and in the server's encoding; the schema is no union. */
extern void penstock_avro_write_text(StringInfo out, AvroSchema *schema, const char *text, int length,
									 AvroBytesText bytes);
extern void penstock_avro_write_jsonb(StringInfo out, AvroSchema *schema, JsonbValue *value, AvroBytesText bytes);
extern void penstock_avro_write_value(StringInfo out, AvroSchema *schema, AvroTarget *target, Datum value);
/* What stands for a field that is NULL, or that nothing is given for: null or its default.  False: there is neither. */
extern bool penstock_avro_write_nothing(StringInfo out, AvroField *field, bool is_null);
/* The field's default as Avro, or NULL if it has none. */
extern bytea *penstock_avro_fallback(AvroField *field);

/* ---- the schema registry: avro_registry.c, avro_http.c ---- */

typedef struct AvroRegistry
{
	const char *url;
	const char *user;
	const char *password;
	const char *ca;
	int			timeout;		/* ms */
	Oid			userid;			/* whose credentials they are */
} AvroRegistry;

/* Texts of the schema with that id, after those it refers to; in the current context. */
extern List *penstock_avro_schema_of_id(const AvroRegistry *registry, int id);
/* The newest schema of the subject and its id; NIL if it has none. */
extern List *penstock_avro_latest_schema(const AvroRegistry *registry, const char *subject, int *id);
/* The id of a schema; is_register: it is registered with the subject if it is not there yet. */
extern int	penstock_avro_id_of_schema(const AvroRegistry *registry, const char *subject, const char *text,
									   bool is_register);

/* An answer, in the current context; raises an error if there is none within the time. */
typedef struct AvroAnswer
{
	int			status;
	const char *body;
} AvroAnswer;

extern void penstock_avro_http(const AvroRegistry *registry, const char *path, const char *body, AvroAnswer *answer);
extern char *penstock_avro_url_escape(const char *text);

#endif							/* PENSTOCK_AVRO_H */
