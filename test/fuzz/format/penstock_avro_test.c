/*
 * penstock_avro_test.c
 *	  Avro schemas and messages: random and damaged ones, and against libavro.
 *
 * libavro, the specification's own C library, writes values of random schemas that are read here and reads what is written
 * here.  It is not used by the format itself: it knows neither defaults nor logical types, and allocates by
 * the lengths and counts of the message before it has seen the bytes.
 */
#include "postgres.h"

#include "common/pg_prng.h"
#include "fmgr.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/memutils.h"

#include "format/avro/avro.h"
#include "penstock_avro_oracle.h"

PG_FUNCTION_INFO_V1(avro_schema_fuzz);
PG_FUNCTION_INFO_V1(avro_oracle);

static int
below(pg_prng_state *random, int n)
{
	return (int) pg_prng_uint64_range(random, 0, n - 1);
}

/* ---- random schemas ---- */

static const char *const scalars[] = {"null", "boolean", "int", "long", "float", "double", "bytes", "string"};

typedef struct SchemaMaker
{
	pg_prng_state *random;
	int			nnames;
	bool		logical;
} SchemaMaker;

static void
put_logical(SchemaMaker *maker, StringInfo out)
{
	static const char *const types[] = {
		"{\"type\":\"int\",\"logicalType\":\"date\"}", "{\"type\":\"int\",\"logicalType\":\"time-millis\"}",
		"{\"type\":\"long\",\"logicalType\":\"time-micros\"}", "{\"type\":\"long\",\"logicalType\":\"timestamp-millis\"}",
		"{\"type\":\"long\",\"logicalType\":\"local-timestamp-micros\"}", "{\"type\":\"string\",\"logicalType\":\"uuid\"}",
		"{\"type\":\"bytes\",\"logicalType\":\"decimal\",\"precision\":50,\"scale\":7}",
	};

	appendStringInfoString(out, types[below(maker->random, lengthof(types))]);
}

static void
put_schema(SchemaMaker *maker, StringInfo out, int depth, bool in_union)
{
	int			kind = below(maker->random, depth > 0 ? 14 : 8);
	int			n;

	if (kind < 8)
	{
		if (maker->logical && below(maker->random, 3) == 0)
			put_logical(maker, out);
		else
			/* a union has no branch twice */
			appendStringInfo(out, "\"%s\"", scalars[in_union + below(maker->random, lengthof(scalars) - in_union)]);
		return;
	}
	if (in_union && kind == 13)
		kind = 10;
	switch (kind)
	{
		case 8:
			appendStringInfo(out, "{\"type\":\"fixed\",\"name\":\"f%d\",\"size\":%d}", maker->nnames++, 1 + below(maker->random, 20));
			break;
		case 9:
			appendStringInfo(out, "{\"type\":\"enum\",\"name\":\"e%d\",\"symbols\":[\"A\",\"B\",\"C_%d\"]}", maker->nnames, maker->nnames);
			maker->nnames++;
			break;
		case 10:
			appendStringInfoString(out, "{\"type\":\"array\",\"items\":");
			put_schema(maker, out, depth - 1, false);
			appendStringInfoChar(out, '}');
			break;
		case 11:
			appendStringInfoString(out, "{\"type\":\"map\",\"values\":");
			put_schema(maker, out, depth - 1, false);
			appendStringInfoChar(out, '}');
			break;
		case 12:
			n = 1 + below(maker->random, 5);
			appendStringInfo(out, "{\"type\":\"record\",\"name\":\"r%d\",\"fields\":[", maker->nnames++);
			for (int i = 0; i < n; i++)
			{
				appendStringInfo(out, "%s{\"name\":\"f%d\",\"type\":", i ? "," : "", i);
				put_schema(maker, out, depth - 1, false);
				appendStringInfoChar(out, '}');
			}
			appendStringInfoString(out, "]}");
			break;
		default:
			/* branches of different kinds, as the specification wants them */
			appendStringInfoString(out, "[\"null\",");
			put_schema(maker, out, depth - 1, true);
			appendStringInfoString(out, "]");
	}
}

static char *
random_schema(pg_prng_state *random, bool logical)
{
	SchemaMaker maker = {random, 0, logical};
	StringInfoData out;

	initStringInfo(&out);
	put_schema(&maker, &out, 1 + below(random, 4), false);
	return out.data;
}

/* ---- damaged schemas, random bytes ---- */

static char *
damaged_schema(pg_prng_state *random)
{
	static const char *const pieces[] = {
		"{", "}", "[", "]", "\"", ",", "\"null\"", "\"r0\"", "\"type\":", "\"name\":\"r0\"", "\"fields\":[", "\"items\":", "null", "-1", "1e99",
		"\"default\":1,", "\"default\":{},", "\"aliases\":[\"x\"],", "\"size\":2000000000", "\"namespace\":\"a.b\",", "{\"type\":{\"type\":",
	};
	char	   *schema = random_schema(random, true);
	int			n = below(random, 3);

	for (int i = 0; i < n; i++)
	{
		int			at = below(random, strlen(schema) + 1);
		int			cut = below(random, Min(strlen(schema) - at, 20) + 1);

		schema = psprintf("%.*s%s%s", at, schema, pieces[below(random, lengthof(pieces))], schema + at + cut);
	}
	return schema;
}

static void
read_noise(pg_prng_state *random, AvroNode *node)
{
	int			length = below(random, 60);
	char	   *bytes = malloc(Max(length, 1));
	AvroReader	reader;

	for (int i = 0; i < length; i++)
		bytes[i] = (char) (below(random, 3) ? below(random, 8) : below(random, 256));
	PG_TRY();
	{
		penstock_avro_start(&reader, bytes, length, CurrentMemoryContext);
		if (below(random, 2))
			penstock_avro_skip(&reader, node->writer);
		else
			(void) penstock_avro_jsonb(&reader, node);
	}
	PG_FINALLY();
	{
		free(bytes);
	}
	PG_END_TRY();
}

/*
 * avro_schema_fuzz(seed int, iterations int) → text: damaged schemas, alone and in pairs, with random bytes as messages.
 */
Datum
avro_schema_fuzz(PG_FUNCTION_ARGS)
{
	int			iterations = PG_GETARG_INT32(1);
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "avro fuzz", ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	pg_prng_state random;
	volatile int valid = 0;
	volatile int read = 0;

	pg_prng_seed(&random, PG_GETARG_INT32(0));
	for (volatile int i = 0; i < iterations; i++)
	{
		CHECK_FOR_INTERRUPTS();
		PG_TRY();
		{
			AvroSchema *writer = penstock_avro_schema(list_make1(damaged_schema(&random)));
			AvroSchema *reader = below(&random, 2) ? penstock_avro_schema(list_make1(damaged_schema(&random))) : NULL;
			AvroNode   *node = penstock_avro_resolve(writer, reader);

			valid++;
			for (int j = 0; j < 20; j++)
			{
				read_noise(&random, node);
				read++;
			}
		}
		PG_CATCH();
		{
			int			sqlstate = geterrcode();

			if (sqlstate == ERRCODE_INTERNAL_ERROR || sqlstate == ERRCODE_OUT_OF_MEMORY || sqlstate == ERRCODE_QUERY_CANCELED)
				PG_RE_THROW();
			MemoryContextSwitchTo(context);
			FlushErrorState();
		}
		PG_END_TRY();
		MemoryContextReset(context);
	}
	MemoryContextSwitchTo(old);
	PG_RETURN_TEXT_P(cstring_to_text(psprintf("%d schemas, %d values", valid, read)));
}

/* ---- against libavro ---- */

#ifdef HAVE_LIBAVRO

static Jsonb *
jsonb_of(const char *json)
{
	return DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(json)));
}

static void
compare(Jsonb *a, Jsonb *b, const char *what, const char *schema)
{
	if (compareJsonbContainers(&a->root, &b->root) != 0)
		elog(ERROR, "%s differs: %s, not %s, of schema %s", what, JsonbToCString(NULL, &a->root, VARSIZE(a)),
			 JsonbToCString(NULL, &b->root, VARSIZE(b)), schema);
}

static Jsonb *
read_all(const char *bytes, int length, AvroNode *node, const char *schema)
{
	AvroReader	reader;
	Jsonb	   *result;

	penstock_avro_start(&reader, bytes, length, CurrentMemoryContext);
	penstock_avro_skip(&reader, node->writer);
	if (reader.at != reader.end)
		elog(ERROR, "skipping ends elsewhere, schema %s", schema);
	penstock_avro_start(&reader, bytes, length, CurrentMemoryContext);
	result = penstock_avro_jsonb(&reader, node);
	if (reader.at != reader.end)
		elog(ERROR, "reading ends elsewhere, schema %s", schema);
	return result;
}

static void
write_all(StringInfo out, AvroSchema *schema, Jsonb *jsonb)
{
	JsonbValue	root;

	if (JB_ROOT_IS_SCALAR(jsonb))
		root = *getIthJsonbValueFromContainer(&jsonb->root, 0);
	else
	{
		root.type = jbvBinary;
		root.val.binary.data = &jsonb->root;
		root.val.binary.len = VARSIZE(jsonb) - VARHDRSZ;
	}
	initStringInfo(out);
	penstock_avro_write_jsonb(out, schema, &root, AVRO_TEXT_HEX);
}

static void
replace_all(char **text, const char *from, const char *to)
{
	StringInfoData out;
	char	   *rest = *text;
	char	   *at;

	initStringInfo(&out);
	while ((at = strstr(rest, from)) != NULL)
	{
		appendBinaryStringInfo(&out, rest, at - rest);
		appendStringInfoString(&out, to);
		rest = at + strlen(from);
	}
	appendStringInfoString(&out, rest);
	*text = out.data;
}

static void
check_schema(pg_prng_state *random, char *schema)
{
	char	   *wider = pstrdup(schema);
	AvroSchema *ours = penstock_avro_schema(list_make1(schema));
	AvroNode   *node = penstock_avro_resolve(ours, NULL);
	AvroNode   *wider_node;
	AvroOracle *oracle;

	replace_all(&wider, "\"int\"", "\"long\"");
	replace_all(&wider, "\"float\"", "\"double\"");
	wider_node = penstock_avro_resolve(ours, penstock_avro_schema(list_make1(wider)));
	oracle = avro_oracle_open(random, schema, wider);
	for (int i = 0; i < 10; i++)
	{
		const char *bytes;
		int			length;
		StringInfoData written;
		Jsonb	   *expected = jsonb_of(avro_oracle_value(oracle, &bytes, &length));

		compare(read_all(bytes, length, node, schema), expected, "what is read", schema);
		if (strstr(schema, "[\"null\",") == NULL)
			compare(read_all(bytes, length, wider_node, schema), jsonb_of(avro_oracle_widen(oracle, bytes, length)),
					"what is promoted", schema);
		write_all(&written, ours, expected);
		compare(jsonb_of(avro_oracle_read(oracle, written.data, written.len)), expected, "what is written", schema);
	}
	avro_oracle_close(oracle);
}

#endif							/* HAVE_LIBAVRO */

/*
 * avro_oracle(seed int, iterations int) → text: values of random schemas, written by libavro and read here, with the same schema and
 * with a wider one, and the other way round.
 */
Datum
avro_oracle(PG_FUNCTION_ARGS)
{
#ifdef HAVE_LIBAVRO
	int			iterations = PG_GETARG_INT32(1);
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "avro oracle", ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	pg_prng_state random;

	pg_prng_seed(&random, PG_GETARG_INT32(0));
	for (int i = 0; i < iterations; i++)
	{
		CHECK_FOR_INTERRUPTS();
		check_schema(&random, random_schema(&random, false));
		MemoryContextReset(context);
	}
	MemoryContextSwitchTo(old);
	PG_RETURN_TEXT_P(cstring_to_text(psprintf("%d values", iterations * 10)));
#else
	PG_RETURN_TEXT_P(cstring_to_text("no libavro"));
#endif
}
