/*
 * avro_functions.c
 *	  Functions to look at messages with, dead letters for example.
 */
#include "postgres.h"

#include "fmgr.h"
#include "miscadmin.h"
#include "utils/builtins.h"

#include "format/avro/avro.h"

PG_FUNCTION_INFO_V1(penstock_avro_to_jsonb);

static AvroSchema *
schema_argument(text *argument)
{
	return penstock_avro_schema(list_make1(text_to_cstring(argument)));
}

/*
 * penstock.avro_to_jsonb(payload bytea, schema text, reader_schema text) → jsonb: NULL if payload or schema are.  Raises what the
 * format raises.
 */
Datum
penstock_avro_to_jsonb(PG_FUNCTION_ARGS)
{
	AvroReader	reader;
	AvroSchema *writer;
	AvroSchema *own = NULL;
	bytea	   *payload;
	Jsonb	   *result;

	if (PG_ARGISNULL(0) || PG_ARGISNULL(1))
		PG_RETURN_NULL();
	payload = PG_GETARG_BYTEA_PP(0);
	writer = schema_argument(PG_GETARG_TEXT_PP(1));
	if (!PG_ARGISNULL(2))
		own = schema_argument(PG_GETARG_TEXT_PP(2));
	penstock_avro_start(&reader, VARDATA_ANY(payload), VARSIZE_ANY_EXHDR(payload), CurrentMemoryContext);
	result = penstock_avro_jsonb(&reader, penstock_avro_resolve(writer, own));
	if (reader.at != reader.end)
		penstock_avro_malformed("It goes on after its end.");
	PG_RETURN_JSONB_P(result);
}
