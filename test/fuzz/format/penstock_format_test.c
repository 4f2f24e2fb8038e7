/*
 * penstock_format_test.c
 *	  The formats, called from SQL with a payload and the options of a foreign table: decode, encode, damage, time.
 */
#include "postgres.h"

#include <time.h>

#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "commands/defrem.h"
#include "common/pg_prng.h"
#include "fmgr.h"
#include "foreign/foreign.h"
#include "funcapi.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/resowner.h"
#include "utils/syscache.h"
#include "utils/typcache.h"

#include "compat/compat.h"
#include "compat/compat_json.h"
#include "format/avro/avro_format.h"
#include "format/format_internal.h"

PG_MODULE_MAGIC;

PG_FUNCTION_INFO_V1(format_check);
PG_FUNCTION_INFO_V1(format_decode);
PG_FUNCTION_INFO_V1(format_encode);
PG_FUNCTION_INFO_V1(format_column);
PG_FUNCTION_INFO_V1(format_fuzz);
PG_FUNCTION_INFO_V1(format_value_fuzz);
PG_FUNCTION_INFO_V1(format_time);
PG_FUNCTION_INFO_V1(format_encode_time);
PG_FUNCTION_INFO_V1(format_json_time);

#define MAX_FUZZ_MEMORY		(64 * 1024 * 1024)

/* What _PG_init of the library penstock_avro does; here it is part of this one. */
void		_PG_init(void);

void
_PG_init(void)
{
	penstock_format_register(&penstock_format_avro);
}

/* ---- a foreign table as the formats see it ---- */

typedef struct Target
{
	const PenstockFormat *format;
	PenstockFormatInfo info;
	PenstockQueue queue;
	void	   *state;
	Datum	   *values;
	bool	   *isnull;
} Target;

static const char *
table_option(const PenstockQueue *queue, const char *name, const char *fallback)
{
	ListCell   *lc;

	foreach(lc, queue->options)
		if (strcmp(lfirst_node(DefElem, lc)->defname, name) == 0)
			fallback = defGetString(lfirst_node(DefElem, lc));
	return fallback;
}

static void
fill_column(PenstockFormatColumn *column, Form_pg_attribute att, List *options)
{
	Oid			function;
	bool		varlena;

	column->attno = att->attnum;
	column->name = pstrdup(NameStr(att->attname));
	column->type = att->atttypid;
	column->typmod = att->atttypmod;
	column->options = options;
	getTypeInputInfo(att->atttypid, &function, &column->input_param);
	fmgr_info(function, &column->input);
	getTypeOutputInfo(att->atttypid, &function, &varlena);
	fmgr_info(function, &column->output);
}

static void
open_queue(PenstockQueue *queue, Oid relid)
{
	ForeignTable *table = GetForeignTable(relid);
	Oid			user = GetUserId();

	queue->relid = relid;
	queue->serverid = table->serverid;
	queue->userid = user;
	queue->name = get_rel_name(relid);
	queue->server_name = GetForeignServer(table->serverid)->servername;
	queue->options = list_copy(GetForeignServer(table->serverid)->options);
	if (SearchSysCacheExists2(USERMAPPINGUSERSERVER, ObjectIdGetDatum(user), ObjectIdGetDatum(table->serverid)))
		queue->options = list_concat(queue->options, GetUserMapping(user, table->serverid)->options);
	queue->options = list_concat(queue->options, table->options);
}

/* In the current context. */
static Target *
open_target(Oid relid)
{
	Target	   *target = palloc0(sizeof(Target));
	Relation	rel = table_open(relid, AccessShareLock);
	TupleDesc	desc = CreateTupleDescCopy(RelationGetDescr(rel));

	open_queue(&target->queue, relid);
	target->info.queue = &target->queue;
	target->info.desc = desc;
	target->info.encoding = pg_char_to_encoding(table_option(&target->queue, "encoding", "UTF8"));
	target->info.columns = palloc0(Max(desc->natts, 1) * sizeof(PenstockFormatColumn));
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(RelationGetDescr(rel), i);

		if (!att->attisdropped && !att->attgenerated)
			fill_column(&target->info.columns[target->info.ncolumns++], att,
						GetForeignColumnOptions(relid, att->attnum));
	}
	table_close(rel, AccessShareLock);
	target->values = palloc0(Max(desc->natts, 1) * sizeof(Datum));
	target->isnull = palloc0(Max(desc->natts, 1) * sizeof(bool));
	target->format = penstock_format_find(table_option(&target->queue, "format", "json"));
	if (target->format == NULL)
		elog(ERROR, "unknown format");
	target->format->check(&target->info);
	target->state = target->format->begin(&target->info);
	return target;
}

static void
decode(Target *target, const char *payload, int length)
{
	memset(target->values, 0, target->info.desc->natts * sizeof(Datum));
	memset(target->isnull, true, target->info.desc->natts);
	target->format->decode(target->state, payload, length, target->values, target->isnull);
}

/* The relation whose row type an argument has. */
static Oid
relation_of(FunctionCallInfo fcinfo, int argument)
{
	Oid			relid = get_typ_typrelid(get_fn_expr_argtype(fcinfo->flinfo, argument));

	if (!OidIsValid(relid))
		elog(ERROR, "a row of a foreign table is needed");
	return relid;
}

static void
deform(Target *target, Datum row)
{
	HeapTupleHeader header = DatumGetHeapTupleHeader(row);
	HeapTupleData tuple = {.t_len = HeapTupleHeaderGetDatumLength(header), .t_data = header};

	heap_deform_tuple(&tuple, target->info.desc, target->values, target->isnull);
}

/* ---- functions for the regression tests ---- */

/* format_check(regclass): raises what the format has against the table's options and columns. */
Datum
format_check(PG_FUNCTION_ARGS)
{
	(void) open_target(PG_GETARG_OID(0));
	PG_RETURN_VOID();
}

/* format_decode(row anyelement, payload bytea) → anyelement: NULL::queue says which foreign table. */
Datum
format_decode(PG_FUNCTION_ARGS)
{
	Target	   *target = open_target(relation_of(fcinfo, 0));
	bytea	   *payload = PG_ARGISNULL(1) ? NULL : PG_GETARG_BYTEA_PP(1);

	decode(target, payload ? VARDATA_ANY(payload) : NULL, payload ? VARSIZE_ANY_EXHDR(payload) : 0);
	BlessTupleDesc(target->info.desc);
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(target->info.desc, target->values, target->isnull)));
}

/* format_encode(row anyelement) → bytea */
Datum
format_encode(PG_FUNCTION_ARGS)
{
	Target	   *target = open_target(relation_of(fcinfo, 0));
	StringInfoData payload;

	deform(target, PG_GETARG_DATUM(0));
	initStringInfo(&payload);
	target->format->encode(target->state, target->values, target->isnull, &payload);
	PG_RETURN_BYTEA_P(cstring_to_text_with_len(payload.data, payload.len));
}

/* format_column(regclass, payload bytea) → text: the column that the error is about, and the error; NULL if there is none. */
Datum
format_column(PG_FUNCTION_ARGS)
{
	Target	   *target = open_target(PG_GETARG_OID(0));
	bytea	   *payload = PG_GETARG_BYTEA_PP(1);
	MemoryContext context = CurrentMemoryContext;
	ErrorData  *volatile error = NULL;
	const char *volatile column = NULL;

	PG_TRY();
	{
		decode(target, VARDATA_ANY(payload), VARSIZE_ANY_EXHDR(payload));
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		column = penstock_format_current_column();
		FlushErrorState();
	}
	PG_END_TRY();
	if (error == NULL)
		PG_RETURN_NULL();
	PG_RETURN_TEXT_P(cstring_to_text(psprintf("%s, %s: %s", column ? column : "payload",
											  unpack_sql_state(error->sqlerrcode), error->message)));
}

/* ---- damage ---- */

static int
below(pg_prng_state *random, int n)
{
	return (int) pg_prng_uint64_range(random, 0, n - 1);
}

/* Pieces that mean something to one of the formats. */
static const char *const pieces[] = {
	"{", "}", "[", "]", "\"", "\\", ",", ":", "null", "true", "false", "0", "-", "1e308", "1e-400", "99999999999999999999",
	"\\u0000", "\\ud800", "\\udc00", "\\ud83d\\ude00", "\"a\":", "\n", "\r\n", "\t", "''", "\"\"", "{}", "[]", "[[", "{\"a\":{",
	"\xff", "\xc3", "\xf4\x90\x80\x80", "\xe2\x82\xac", "NaN", "Infinity", " ", "2026-01-01T00:00:00Z", "\x01\x02",
};

static void
put_noise(pg_prng_state *random, StringInfo out)
{
	int			n = 1 + below(random, 8);

	for (int i = 0; i < n; i++)
		appendStringInfoChar(out, (char) below(random, 256));
}

/* A byte of the same class, so that what it is in often stays whole. */
static char
another(pg_prng_state *random, char c)
{
	if (c >= '0' && c <= '9')
		return '0' + below(random, 10);
	if ((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'))
		return 'a' + below(random, 26);
	return below(random, 8) ? c : (char) (c + below(random, 3) - 1);
}

/* A copy of the payload with some damage, in exactly as many bytes as it has. */
static char *
damage(pg_prng_state *random, const char *payload, int length, int *result_length)
{
	StringInfoData out;
	int			n = 1 + below(random, 4);
	char	   *result;

	initStringInfo(&out);
	appendBinaryStringInfo(&out, payload, length);
	for (int i = 0; i < n; i++)
	{
		int			at = below(random, out.len + 1);
		int			kind = below(random, 12);
		char	   *tail = pnstrdup(out.data + at, out.len - at);
		int			tail_length = out.len - at;
		int			cut = tail_length > 0 ? below(random, Min(tail_length, 30) + 1) : 0;

		if (kind == 0 && tail_length > 0)
			out.data[at] ^= 1 << below(random, 8);
		else if (kind == 1 && below(random, 4) == 0)
			out.len = at;
		else if (kind >= 8 && tail_length > 0)
			out.data[at] = another(random, out.data[at]);
		else
		{
			out.len = at;
			if (kind == 2)
				put_noise(random, &out);
			else if (kind == 3)
				for (int j = below(random, 4) ? 3 : 3000; j > 0; j--)
					appendStringInfoString(&out, kind + j % 2 ? "[" : "{\"a\":");
			else if (kind <= 6)
				appendStringInfoString(&out, pieces[below(random, lengthof(pieces))]);
			else
				appendBinaryStringInfo(&out, payload + below(random, length + 1) / 2, length / 4);
			appendBinaryStringInfo(&out, tail + cut, tail_length - cut);
		}
		pfree(tail);
	}
	/* malloc'd to size, so that sanitizers see each end */
	result = malloc(Max(out.len, 1));
	memcpy(result, out.data, out.len);
	*result_length = out.len;
	pfree(out.data);
	return result;
}

/* What has been decoded must be a value of its type: write it, both ways. */
static void
check_values(Target *target)
{
	StringInfoData payload;

	for (int i = 0; i < target->info.ncolumns; i++)
	{
		PenstockFormatColumn *column = &target->info.columns[i];

		if (!target->isnull[column->attno - 1])
		{
			char	   *text = OutputFunctionCall(&column->output, target->values[column->attno - 1]);

			(void) pg_verifymbstr(text, strlen(text), false);
		}
	}
	initStringInfo(&payload);
	target->format->encode(target->state, target->values, target->isnull, &payload);
}

/* Errors that are no fault of the message. */
static bool
is_clean(int sqlstate)
{
	return sqlstate != ERRCODE_INTERNAL_ERROR && sqlstate != ERRCODE_OUT_OF_MEMORY &&
		sqlstate != ERRCODE_DATA_CORRUPTED;
}

/* Decodes in a context and a subtransaction of its own; returns whether it could be. */
static bool
try_decode(Target *target, const char *payload, int length, MemoryContext context)
{
	volatile bool done = false;
	ResourceOwner owner = CurrentResourceOwner;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(context);
	PG_TRY();
	{
		decode(target, payload, length);
		done = true;
		check_values(target);
		ReleaseCurrentSubTransaction();
		CurrentResourceOwner = owner;
	}
	PG_CATCH();
	{
		ErrorData  *error;

		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
		CurrentResourceOwner = owner;
		MemoryContextSwitchTo(context);
		if (!is_clean(error->sqlerrcode))
			elog(ERROR, "%s of %d bytes: %s", target->format->name, length, error->message);
	}
	PG_END_TRY();
	return done;
}

/*
 * format_fuzz(regclass, payload bytea, seed int, iterations int) → text: decodes damaged copies of the payload.  Says how
 * many were still good.
 */
Datum
format_fuzz(PG_FUNCTION_ARGS)
{
	Oid			relid = PG_GETARG_OID(0);
	bytea	   *payload = PG_GETARG_BYTEA_PP(1);
	int			iterations = PG_GETARG_INT32(3);
	MemoryContext target_context = AllocSetContextCreate(CurrentMemoryContext, "target", ALLOCSET_DEFAULT_SIZES);
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "message", ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(target_context);
	Target	   *target = open_target(relid);
	pg_prng_state random;
	int			good = 0;

	pg_prng_seed(&random, PG_GETARG_INT32(2));
	for (int i = 0; i < iterations; i++)
	{
		char	   *message;
		int			length;

		CHECK_FOR_INTERRUPTS();
		MemoryContextSwitchTo(context);
		message = damage(&random, VARDATA_ANY(payload), VARSIZE_ANY_EXHDR(payload), &length);
		if (try_decode(target, message, length, context))
			good++;
		if (MemoryContextMemAllocated(context, true) + MemoryContextMemAllocated(target_context, true) > MAX_FUZZ_MEMORY)
			elog(ERROR, "a message of %d bytes takes %zu bytes, the state %zu", length,
				 MemoryContextMemAllocated(context, true), MemoryContextMemAllocated(target_context, true));
		MemoryContextReset(context);
		free(message);
	}
	MemoryContextSwitchTo(old);
	PG_RETURN_TEXT_P(cstring_to_text(psprintf("%d of %d", good, iterations)));
}

/* ---- values without their input function ---- */

static const Oid fast_types[] = {
	TEXTOID, BOOLOID, INT2OID, INT4OID, INT8OID, FLOAT4OID, FLOAT8OID, DATEOID, TIMEOID, TIMESTAMPOID,
	TIMESTAMPTZOID, UUIDOID
};

static char *
random_number(pg_prng_state *random)
{
	switch (below(random, 6))
	{
		case 0:
			return psprintf("%lld", (long long) (int64) pg_prng_uint64(random) >> below(random, 64));
		case 1:
			return psprintf("%.*g", 1 + below(random, 18), pg_prng_double(random) * 1000);
		case 2:
			return psprintf("%d.%0*d", below(random, 100000), 1 + below(random, 9), below(random, 1000));
		case 3:
			return psprintf("%s%d%se%d", below(random, 2) ? "-" : "", below(random, 1000000),
							below(random, 2) ? ".25" : "", below(random, 60) - 30);
		case 4:
			return psprintf("%llu", (unsigned long long) pg_prng_uint64(random));
		default:
			return psprintf("%s0%d", below(random, 2) ? "-" : "", below(random, 3));
	}
}

static char *
random_time(pg_prng_state *random)
{
	char	   *date = psprintf("%04d-%02d-%02d", below(random, 8) ? 1900 + below(random, 200) : below(random, 10000),
								below(random, 14), below(random, 33));
	char	   *time = psprintf("%02d:%02d:%02d", below(random, 25), below(random, 61), below(random, 62));
	static const char *const zones[] = {"", "Z", "z", "+02", "-11:30", "+0530", "+15:59", "+16", "-00:00", " UTC"};

	if (below(random, 3))
		time = psprintf("%s.%0*d", time, 1 + below(random, 7), below(random, 10));
	switch (below(random, 4))
	{
		case 0:
			return date;
		case 1:
			return time;
		default:
			return psprintf("%s%s%s%s", date, below(random, 2) ? "T" : " ", time,
							zones[below(random, lengthof(zones))]);
	}
}

static char *
random_text(pg_prng_state *random)
{
	static const char *const others[] = {"true", "false", "t", "f", "yes", "", " ", "1 ", "+1", "0x10", "1_000", "-0",
		"-0.0", "1.", ".5", "1e5", "1e", "--1", "nan", "infinity", "NaN", "now", "12:30", "24:00:00",
	"123e4567-e89b-12d3-a456-426614174000", "123E4567-E89B-12D3-A456-42661417400G", "{123e4567-e89b-12d3-a456-426614174000}"};
	char	   *text;

	switch (below(random, 5))
	{
		case 0:
			return pstrdup(others[below(random, lengthof(others))]);
		case 1:
		case 2:
			return random_time(random);
		default:
			text = random_number(random);
	}
	if (below(random, 20) == 0 && *text != '\0')
		text[below(random, strlen(text))] = 32 + below(random, 90);
	return text;
}

/* What the short cut makes of the text must be what the input function makes of it. */
static int
compare_value(Oid type, char *text)
{
	PenstockValueKind kind = penstock_value_kind(type, -1);
	Oid			function;
	Oid			param;
	Datum		fast = (Datum) 0;
	Datum		slow;

	if (!penstock_value_parse(kind, text, strlen(text), &fast))
		return 0;
	getTypeInputInfo(type, &function, &param);
	slow = OidInputFunctionCall(function, text, param, -1);
	if (!datum_image_eq(fast, slow, get_typbyval(type), get_typlen(type)))
		elog(ERROR, "\"%s\" is another %s", text, format_type_be(type));
	return 1;
}

/* format_value_fuzz(seed int, iterations int) → text: how many texts took the short cut. */
Datum
format_value_fuzz(PG_FUNCTION_ARGS)
{
	pg_prng_state random;
	int			iterations = PG_GETARG_INT32(1);
	int			fast = 0;
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "values", ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);

	pg_prng_seed(&random, PG_GETARG_INT32(0));
	for (int i = 0; i < iterations; i++)
	{
		char	   *text = random_text(&random);

		for (int j = 0; j < lengthof(fast_types); j++)
			fast += compare_value(fast_types[j], text);
		MemoryContextReset(context);
	}
	MemoryContextSwitchTo(old);
	PG_RETURN_TEXT_P(cstring_to_text(psprintf("%d of %d", fast, iterations * (int) lengthof(fast_types))));
}

/* ---- time ---- */

static double
cpu_nanoseconds(void)
{
	struct timespec now;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
	return now.tv_sec * 1e9 + now.tv_nsec;
}

/* format_time(regclass, payload bytea, n int) → float8: nanoseconds of CPU time to decode a message. */
Datum
format_time(PG_FUNCTION_ARGS)
{
	Target	   *target = open_target(PG_GETARG_OID(0));
	bytea	   *payload = PG_GETARG_BYTEA_PP(1);
	int			n = PG_GETARG_INT32(2);
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "batch", ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	double		start = cpu_nanoseconds();

	for (int i = 0; i < n; i++)
	{
		decode(target, VARDATA_ANY(payload), VARSIZE_ANY_EXHDR(payload));
		if (i % 1000 == 999)
			MemoryContextReset(context);
	}
	MemoryContextSwitchTo(old);
	PG_RETURN_FLOAT8((cpu_nanoseconds() - start) / n);
}

/* format_encode_time(row anyelement, n int) → float8: likewise to encode it. */
Datum
format_encode_time(PG_FUNCTION_ARGS)
{
	Target	   *target = open_target(relation_of(fcinfo, 0));
	int			n = PG_GETARG_INT32(1);
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "batch", ALLOCSET_DEFAULT_SIZES);
	StringInfoData payload;
	MemoryContext old;
	double		start;

	deform(target, PG_GETARG_DATUM(0));
	initStringInfo(&payload);
	old = MemoryContextSwitchTo(context);
	start = cpu_nanoseconds();
	for (int i = 0; i < n; i++)
	{
		resetStringInfo(&payload);
		target->format->encode(target->state, target->values, target->isnull, &payload);
		if (i % 1000 == 999)
			MemoryContextReset(context);
	}
	MemoryContextSwitchTo(old);
	PG_RETURN_FLOAT8((cpu_nanoseconds() - start) / n);
}

/* format_json_time(payload bytea, n int) → float8: likewise the server's parser alone, without actions. */
Datum
format_json_time(PG_FUNCTION_ARGS)
{
	bytea	   *payload = PG_GETARG_BYTEA_PP(0);
	int			n = PG_GETARG_INT32(1);
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "parse", ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	double		start = cpu_nanoseconds();

	for (int i = 0; i < n; i++)
	{
		JsonLexContext *lex = penstock_json_lex(VARDATA_ANY(payload), VARSIZE_ANY_EXHDR(payload), false);
		JsonSemAction none = {0};

		if (pg_parse_json(lex, &none) != JSON_SUCCESS)
			elog(ERROR, "no JSON");
		if (i % 1000 == 999)
			MemoryContextReset(context);
	}
	MemoryContextSwitchTo(old);
	PG_RETURN_FLOAT8((cpu_nanoseconds() - start) / n);
}
