/*
 * functions.c
 *	  SQL functions with which a test plays the broker.
 */
#include "postgres.h"

#include <unistd.h>

#include "catalog/pg_type.h"
#include "funcapi.h"
#include "storage/fd.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "testqueue.h"

#define MESSAGE_COLUMNS		8

PG_FUNCTION_INFO_V1(testqueue_sql_append);
PG_FUNCTION_INFO_V1(testqueue_sql_messages);
PG_FUNCTION_INFO_V1(testqueue_sql_set_faults);

/* An argument's bytes; NULL for null. */
static const char *
bytes_of(FunctionCallInfo fcinfo, int n, int *length)
{
	struct varlena *value;

	*length = 0;
	if (PG_ARGISNULL(n))
		return NULL;
	value = PG_GETARG_VARLENA_PP(n);
	*length = VARSIZE_ANY_EXHDR(value);
	return VARDATA_ANY(value);
}

static const char *
text_of(FunctionCallInfo fcinfo, int n, const char *if_null)
{
	if (!PG_ARGISNULL(n))
		return text_to_cstring(PG_GETARG_TEXT_PP(n));
	if (if_null == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("argument %d must not be null", n + 1)));
	return if_null;
}

/*
 * testqueue_sql_append(server text, queue text, payload text or bytea, partition text, key bytea, id text or bytea,
 * time timestamptz, headers text[] (name, value, name, value, ...)) → bigint: puts a message into a queue at once, whatever
 * becomes of the transaction; its offset.
 */
Datum
testqueue_sql_append(PG_FUNCTION_ARGS)
{
	const char *directory = testqueue_directory(text_of(fcinfo, 0, NULL));
	const char *queue = text_of(fcinfo, 1, NULL);
	const char *partition = text_of(fcinfo, 3, "0");
	PenstockMessage message = {0};
	PenstockProperty headers[TESTQUEUE_MAX_HEADERS];
	StringInfoData record;

	if (!testqueue_name_ok(queue) || !testqueue_name_ok(partition))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid name of a queue or partition")));
	message.payload = bytes_of(fcinfo, 2, &message.length);
	message.key = bytes_of(fcinfo, 4, &message.key_length);
	message.id = bytes_of(fcinfo, 5, &message.id_length);
	message.timestamp = PG_ARGISNULL(6) ? GetCurrentTimestamp() : PG_GETARG_TIMESTAMPTZ(6);
	message.headers = headers;
	if (!PG_ARGISNULL(7))
	{
		Datum	   *texts;
		bool	   *nulls;
		int			n;

		deconstruct_array(PG_GETARG_ARRAYTYPE_P(7), TEXTOID, -1, false, TYPALIGN_INT, &texts, &nulls, &n);
		for (int i = 0; i + 1 < n && message.nheaders < TESTQUEUE_MAX_HEADERS; i += 2)
		{
			PenstockProperty *header = &headers[message.nheaders++];

			header->name = TextDatumGetCString(texts[i]);
			header->value = nulls[i + 1] ? NULL : TextDatumGetCString(texts[i + 1]);
			header->length = header->value ? strlen(header->value) : 0;
		}
	}
	initStringInfo(&record);
	testqueue_pack(&record, &message);
	PG_RETURN_INT64(testqueue_append(directory, queue, partition, record.data, record.len, 1));
}

/* One partition's messages into the function's result. */
static void
put_messages(ReturnSetInfo *result, const char *directory, const char *queue, const char *partition)
{
	int			fd = testqueue_open_file(testqueue_path(directory, queue, partition), O_RDWR);
	int64		nstates;
	char	   *states = testqueue_read_states(directory, queue, partition, &nstates);
	TestQueueEnd end;
	char	   *file;
	char	   *at;

	testqueue_lock(fd);
	testqueue_read_end(fd, &end);
	file = palloc_extended(end.bytes, MCXT_ALLOC_HUGE);
	if (pread(fd, file, end.bytes, 0) != end.bytes)
		elog(ERROR, "could not read a queue's file: %m");
	CloseTransientFile(fd);
	at = file + TESTQUEUE_HEADER;
	for (int64 number = 0; number < end.records; number++)
	{
		Datum		values[MESSAGE_COLUMNS] = {0};
		bool		nulls[MESSAGE_COLUMNS] = {0};
		PenstockMessage message;
		PenstockProperty headers[TESTQUEUE_MAX_HEADERS];
		Datum		texts[2 * TESTQUEUE_MAX_HEADERS];
		bool		no_texts[2 * TESTQUEUE_MAX_HEADERS] = {0};
		int			dims[1];
		int			bounds[1] = {1};
		int32		length;

		memcpy(&length, at, sizeof(length));
		testqueue_unpack(at, length, &message, headers);
		at += length;
		values[0] = CStringGetTextDatum(partition);
		values[1] = Int64GetDatum(number);
		nulls[2] = message.payload == NULL;
		nulls[3] = message.key == NULL;
		nulls[4] = message.id == NULL;
		nulls[5] = message.timestamp == 0;
		/* a bytea is made like a text */
		if (message.payload)
			values[2] = PointerGetDatum(cstring_to_text_with_len(message.payload, message.length));
		if (message.key)
			values[3] = PointerGetDatum(cstring_to_text_with_len(message.key, message.key_length));
		if (message.id)
			values[4] = PointerGetDatum(cstring_to_text_with_len(message.id, message.id_length));
		values[5] = TimestampTzGetDatum(message.timestamp);
		for (int i = 0; i < message.nheaders; i++)
		{
			texts[2 * i] = CStringGetTextDatum(headers[i].name);
			no_texts[2 * i + 1] = headers[i].value == NULL;
			if (headers[i].value)
				texts[2 * i + 1] = PointerGetDatum(cstring_to_text_with_len(headers[i].value, headers[i].length));
		}
		dims[0] = 2 * message.nheaders;
		values[6] = PointerGetDatum(construct_md_array(texts, no_texts, 1, dims, bounds, TEXTOID, -1, false, TYPALIGN_INT));
		values[7] = CStringGetTextDatum(number >= nstates || states[number] == TESTQUEUE_NEW ? "new" :
										states[number] == TESTQUEUE_DELIVERED ? "delivered" : "acknowledged");
		tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
	}
	pfree(file);
}

/*
 * testqueue_sql_messages(server text, queue text) → setof record: what is in a queue, in order of partition and offset.
 */
Datum
testqueue_sql_messages(PG_FUNCTION_ARGS)
{
	const char *directory = testqueue_directory(text_of(fcinfo, 0, NULL));
	const char *queue = text_of(fcinfo, 1, NULL);
	ListCell   *lc;

	InitMaterializedSRF(fcinfo, 0);
	foreach(lc, testqueue_partitions(directory, queue))
		put_messages((ReturnSetInfo *) fcinfo->resultinfo, directory, queue, lfirst(lc));
	return (Datum) 0;
}

/*
 * testqueue_sql_set_faults(server text, faults text): these are the faults from now on; '' is none.
 */
Datum
testqueue_sql_set_faults(PG_FUNCTION_ARGS)
{
	const char *directory = testqueue_directory(text_of(fcinfo, 0, NULL));
	const char *faults = text_of(fcinfo, 1, "");
	int			fd = testqueue_open_file(psprintf("%s/faults", directory), O_RDWR | O_CREAT);

	testqueue_lock(fd);
	if (ftruncate(fd, 0) != 0 || pwrite(fd, faults, strlen(faults), 0) != (ssize_t) strlen(faults))
		elog(ERROR, "could not write the faults: %m");
	CloseTransientFile(fd);
	PG_RETURN_VOID();
}
