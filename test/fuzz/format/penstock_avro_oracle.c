/*
 * penstock_avro_oracle.c
 *	  Random values by libavro, the specification's own C library; its names are not those of format/avro/avro.h.
 */
#include "postgres.h"

#ifdef HAVE_LIBAVRO

#include <avro.h>
#include <math.h>

#include "common/shortest_dec.h"
#include "lib/stringinfo.h"
#include "utils/float.h"
#include "utils/json.h"

#include "penstock_avro_oracle.h"

struct AvroOracle
{
	pg_prng_state *random;
	avro_schema_t schema;
	avro_schema_t wider;
	avro_value_iface_t *class;
};

#define MUST(call) \
	do { \
		if ((call) != 0) \
			elog(ERROR, "libavro: %s", avro_strerror()); \
	} while (0)

static int
below(pg_prng_state *random, int n)
{
	return (int) pg_prng_uint64_range(random, 0, n - 1);
}

/* ---- values ---- */

static char *
random_text(pg_prng_state *random)
{
	static const char *const parts[] = {"a", "Z", " ", "\"", "\\", "\n", "ä", "€", "😀", "0"};
	StringInfoData out;
	int			n = below(random, 8);

	initStringInfo(&out);
	for (int i = 0; i < n; i++)
		appendStringInfoString(&out, parts[below(random, lengthof(parts))]);
	return out.data;
}

static int64
random_integer(pg_prng_state *random)
{
	return (int64) pg_prng_uint64(random) >> below(random, 64);
}

static double
random_double(pg_prng_state *random)
{
	int64		integer = random_integer(random);

	return below(random, 10) == 0 ? get_float8_nan() : below(random, 3) ? integer / 1000.0 : (double) integer;
}

static void
fill(pg_prng_state *random, avro_value_t *value)
{
	char		bytes[64];
	char	   *text;
	size_t		size;
	avro_value_t child;
	int			n;

	for (int i = 0; i < sizeof(bytes); i++)
		bytes[i] = (char) below(random, 256);
	switch (avro_value_get_type(value))
	{
		case AVRO_BOOLEAN:
			MUST(avro_value_set_boolean(value, below(random, 2)));
			break;
		case AVRO_BYTES:
			MUST(avro_value_set_bytes(value, bytes, below(random, sizeof(bytes))));
			break;
		case AVRO_DOUBLE:
			MUST(avro_value_set_double(value, random_double(random)));
			break;
		case AVRO_FLOAT:
			MUST(avro_value_set_float(value, (float) random_double(random)));
			break;
		case AVRO_INT32:
			MUST(avro_value_set_int(value, (int32) random_integer(random)));
			break;
		case AVRO_INT64:
			MUST(avro_value_set_long(value, random_integer(random)));
			break;
		case AVRO_NULL:
			MUST(avro_value_set_null(value));
			break;
		case AVRO_STRING:
			text = random_text(random);
			MUST(avro_value_set_string(value, text));
			break;
		case AVRO_ENUM:
			MUST(avro_value_set_enum(value, below(random, 3)));
			break;
		case AVRO_FIXED:
			MUST(avro_value_set_fixed(value, bytes, avro_schema_fixed_size(avro_value_get_schema(value))));
			break;
		case AVRO_ARRAY:
			for (n = below(random, 5); n > 0; n--)
			{
				MUST(avro_value_append(value, &child, NULL));
				fill(random, &child);
			}
			break;
		case AVRO_MAP:
			for (n = below(random, 5); n > 0; n--)
			{
				MUST(avro_value_add(value, psprintf("%s%d", random_text(random), n), &child, NULL, NULL));
				fill(random, &child);
			}
			break;
		case AVRO_RECORD:
			MUST(avro_value_get_size(value, &size));
			for (n = 0; n < size; n++)
			{
				MUST(avro_value_get_by_index(value, n, &child, NULL));
				fill(random, &child);
			}
			break;
		case AVRO_UNION:
			MUST(avro_value_set_branch(value, below(random, avro_schema_union_size(avro_value_get_schema(value))), &child));
			fill(random, &child);
			break;
		default:
			elog(ERROR, "libavro: unknown type");
	}
}

static void
put_double(StringInfo out, double value, bool is_float)
{
	char		text[DOUBLE_SHORTEST_DECIMAL_LEN];

	if (is_float)
		float_to_shortest_decimal_buf((float) value, text);
	else
		double_to_shortest_decimal_buf(value, text);
	appendStringInfo(out, isnan(value) || isinf(value) ? "\"%s\"" : "%s", text);
}

static void
put_hex(StringInfo out, const char *bytes, size_t size)
{
	appendStringInfoString(out, "\"\\\\x");
	for (size_t i = 0; i < size; i++)
		appendStringInfo(out, "%02x", (uint8) bytes[i]);
	appendStringInfoChar(out, '"');
}

static void
put_json(StringInfo out, const avro_value_t *value)
{
	avro_value_t child;
	const void *bytes;
	const char *name;
	size_t		size;
	int			number;
	int32_t		i32;
	int64_t		i64;
	float		f;
	double		d;
	bool		is_map = avro_value_get_type(value) != AVRO_ARRAY;

	switch (avro_value_get_type(value))
	{
		case AVRO_BOOLEAN:
			MUST(avro_value_get_boolean(value, &number));
			appendStringInfoString(out, number ? "true" : "false");
			break;
		case AVRO_BYTES:
			MUST(avro_value_get_bytes(value, &bytes, &size));
			put_hex(out, bytes, size);
			break;
		case AVRO_DOUBLE:
			MUST(avro_value_get_double(value, &d));
			put_double(out, d, false);
			break;
		case AVRO_FLOAT:
			MUST(avro_value_get_float(value, &f));
			put_double(out, f, true);
			break;
		case AVRO_INT32:
			MUST(avro_value_get_int(value, &i32));
			appendStringInfo(out, "%d", i32);
			break;
		case AVRO_INT64:
			MUST(avro_value_get_long(value, &i64));
			appendStringInfo(out, "%lld", (long long) i64);
			break;
		case AVRO_NULL:
			appendStringInfoString(out, "null");
			break;
		case AVRO_STRING:
			MUST(avro_value_get_string(value, &name, &size));
			escape_json(out, name);
			break;
		case AVRO_ENUM:
			MUST(avro_value_get_enum(value, &number));
			escape_json(out, avro_schema_enum_get(avro_value_get_schema(value), number));
			break;
		case AVRO_FIXED:
			MUST(avro_value_get_fixed(value, &bytes, &size));
			put_hex(out, bytes, size);
			break;
		case AVRO_UNION:
			MUST(avro_value_get_current_branch(value, &child));
			put_json(out, &child);
			break;
		default:
			MUST(avro_value_get_size(value, &size));
			appendStringInfoChar(out, is_map ? '{' : '[');
			for (size_t i = 0; i < size; i++)
			{
				MUST(avro_value_get_by_index(value, i, &child, &name));
				if (i > 0)
					appendStringInfoChar(out, ',');
				if (is_map)
				{
					escape_json(out, name);
					appendStringInfoChar(out, ':');
				}
				put_json(out, &child);
			}
			appendStringInfoChar(out, is_map ? '}' : ']');
	}
}

static char *
json_of(const avro_value_t *value)
{
	StringInfoData out;

	initStringInfo(&out);
	put_json(&out, value);
	return out.data;
}

/* ---- what the test calls ---- */

AvroOracle *
avro_oracle_open(pg_prng_state *random, const char *schema, const char *wider)
{
	AvroOracle *oracle = palloc(sizeof(AvroOracle));

	oracle->random = random;
	MUST(avro_schema_from_json_length(schema, strlen(schema), &oracle->schema));
	MUST(avro_schema_from_json_length(wider, strlen(wider), &oracle->wider));
	oracle->class = avro_generic_class_from_schema(oracle->schema);
	return oracle;
}

void
avro_oracle_close(AvroOracle *oracle)
{
	avro_value_iface_decref(oracle->class);
	avro_schema_decref(oracle->schema);
	avro_schema_decref(oracle->wider);
}

/* A random value, as bytes and as JSON. */
char *
avro_oracle_value(AvroOracle *oracle, const char **bytes, int *length)
{
	static char buffer[1024 * 1024];
	avro_writer_t writer = avro_writer_memory(buffer, sizeof(buffer));
	avro_value_t value;
	char	   *json;

	MUST(avro_generic_value_new(oracle->class, &value));
	fill(oracle->random, &value);
	MUST(avro_value_write(writer, &value));
	*bytes = buffer;
	*length = avro_writer_tell(writer);
	json = json_of(&value);
	avro_value_decref(&value);
	avro_writer_free(writer);
	return json;
}

/* The bytes' value. */
char *
avro_oracle_read(AvroOracle *oracle, const char *bytes, int length)
{
	avro_reader_t source = avro_reader_memory(bytes, length);
	avro_value_t value;
	char	   *json;

	MUST(avro_generic_value_new(oracle->class, &value));
	MUST(avro_value_read(source, &value));
	json = json_of(&value);
	avro_value_decref(&value);
	avro_reader_free(source);
	return json;
}

/* The same, read with the wider schema; not for unions, with which libavro's resolution does not always work. */
char *
avro_oracle_widen(AvroOracle *oracle, const char *bytes, int length)
{
	avro_value_iface_t *class = avro_generic_class_from_schema(oracle->wider);
	avro_value_iface_t *resolver = avro_resolved_writer_new(oracle->schema, oracle->wider);
	avro_reader_t source = avro_reader_memory(bytes, length);
	avro_value_t value;
	avro_value_t resolved;
	char	   *json;

	if (resolver == NULL)
		elog(ERROR, "libavro: %s", avro_strerror());
	MUST(avro_generic_value_new(class, &value));
	MUST(avro_resolved_writer_new_value(resolver, &resolved));
	avro_resolved_writer_set_dest(&resolved, &value);
	MUST(avro_value_read(source, &resolved));
	json = json_of(&value);
	avro_value_decref(&resolved);
	avro_value_decref(&value);
	avro_value_iface_decref(resolver);
	avro_value_iface_decref(class);
	avro_reader_free(source);
	return json;
}

#endif							/* HAVE_LIBAVRO */
