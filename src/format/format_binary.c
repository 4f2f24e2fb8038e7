/*
 * format_binary.c
 *	  The whole message is one column: bytes as they are, or a number, time or the like in network byte order.
 *
 * The latter are read and written by the type's receive and send functions, as binary COPY does; brokers' own
 * serializers of integers and floats give the same bytes.  Types that hold text stay out: those functions would take
 * it in the encoding of whatever client the session has.
 */
#include "postgres.h"

#include "access/transam.h"
#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

#include "compat/compat.h"
#include "format/format_internal.h"

static const PenstockConnectorOption binary_options[] = {
	{.name = NULL}
};

typedef struct BinaryState
{
	const PenstockFormatInfo *info;
	PenstockFormatColumn *column;
	bool		is_bytea;
	int			length;			/* in bytes, where the type says so; otherwise 0 */
	FmgrInfo	receive;
	Oid			receive_param;
	FmgrInfo	send;
} BinaryState;

static bool
is_binary_type(Oid type)
{
	Oid			base = getBaseType(type);

	return base == BYTEAOID || (get_typlen(base) > 0 && base != NAMEOID && get_typtype(base) == TYPTYPE_BASE);
}

static void
check_columns(const PenstockFormatInfo *info)
{
	if (info->ncolumns != 1)
		ereport(ERROR,
				(errcode(ERRCODE_FDW_INVALID_COLUMN_NUMBER),
				 errmsg("format binary needs exactly one column for the payload, not %d", info->ncolumns),
				 errhint("Mark the other columns with OPTIONS (metadata ...), or choose another format.")));
	if (!is_binary_type(info->columns[0].type))
		ereport(ERROR,
				(errcode(ERRCODE_FDW_INVALID_DATA_TYPE),
				 errmsg("format binary cannot fill column \"%s\" of type %s", info->columns[0].name,
						format_type_be(info->columns[0].type)),
				 errhint("Use bytea, a type of fixed length such as bigint, or another format.")));
}

static void *
begin_messages(const PenstockFormatInfo *info)
{
	BinaryState *state = palloc0(sizeof(BinaryState));
	Oid			function;
	Oid			base;
	bool		varlena;

	state->info = info;
	if (info->ncolumns > 0)
	{
		state->column = &info->columns[0];
		state->is_bytea = state->column->type == BYTEAOID;
		/* the server's own types of fixed length are sent in as many bytes; their functions call less a protocol violation */
		base = getBaseType(state->column->type);
		state->length = base < FirstNormalObjectId ? Max(get_typlen(base), 0) : 0;
		getTypeBinaryInputInfo(state->column->type, &function, &state->receive_param);
		fmgr_info(function, &state->receive);
		getTypeBinaryOutputInfo(state->column->type, &function, &varlena);
		fmgr_info(function, &state->send);
	}
	return state;
}

pg_noreturn static void
refuse_length(const BinaryState *state, int length)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_BINARY_REPRESENTATION),
			 errmsg("message of %d bytes is no value of type %s", length, format_type_be(state->column->type))));
}

static Datum
receive(BinaryState *state, const char *payload, int length)
{
	StringInfoData bytes;
	Datum		value;

	if (state->is_bytea)
		return PointerGetDatum(cstring_to_text_with_len(payload, length));
	if (state->length > 0 && length != state->length)
		refuse_length(state, length);
	initStringInfo(&bytes);
	appendBinaryStringInfo(&bytes, payload, length);
	value = ReceiveFunctionCall(&state->receive, &bytes, state->receive_param, state->column->typmod);
	if (bytes.cursor != bytes.len)
		refuse_length(state, length);
	pfree(bytes.data);
	return value;
}

static void
decode_message(void *arg, const char *payload, int length, Datum *values, bool *isnull)
{
	BinaryState *state = arg;
	ErrorContextCallback callback;

	if (state->column == NULL)
		return;
	penstock_format_enter(&callback, "binary");
	penstock_format_set_column(state->column->name);
	if (payload != NULL)
	{
		values[state->column->attno - 1] = receive(state, payload, length);
		isnull[state->column->attno - 1] = false;
	}
	penstock_value_check_nulls(state->info, isnull);
	penstock_format_set_column(NULL);
	penstock_format_leave(&callback);
}

static void
encode_message(void *arg, const Datum *values, const bool *isnull, StringInfo payload)
{
	BinaryState *state = arg;
	bytea	   *bytes;

	if (state->column == NULL || isnull[state->column->attno - 1])
		return;
	penstock_format_set_column(state->column->name);
	bytes = state->is_bytea ? DatumGetByteaPP(values[state->column->attno - 1]) :
		SendFunctionCall(&state->send, values[state->column->attno - 1]);
	appendBinaryStringInfo(payload, VARDATA_ANY(bytes), VARSIZE_ANY_EXHDR(bytes));
	penstock_format_set_column(NULL);
}

const PenstockFormat penstock_format_binary = {
	.name = "binary",
	.options = binary_options,
	.check = check_columns,
	.begin = begin_messages,
	.decode = decode_message,
	.encode = encode_message,
};
