/*
 * pipe_dedup.c
 *	  Messages that come again within dedup_window: by their id, or by the value of a column, the dedup_key.
 *
 * What was seen is remembered in penstock.seen_message, in the transaction of the batch.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_attribute.h"
#include "fmgr.h"
#include "lib/stringinfo.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

#include "pipe/pipe_internal.h"

/* What was seen before the window, and is forgotten with each batch, at most, for each message that is new. */
#define FORGET_FACTOR 2
/* A longer key (bytes) is remembered by its SHA-256. */
#define LONGEST_KEY 32

/* "a, b, c": what a dedup_key can be. */
static char *
column_names(Oid relid)
{
	StringInfoData names;

	initStringInfo(&names);
	for (AttrNumber attno = 1;; attno++)
	{
		HeapTuple	tuple = SearchSysCache2(ATTNUM, ObjectIdGetDatum(relid), Int16GetDatum(attno));
		Form_pg_attribute att;

		if (!HeapTupleIsValid(tuple))
			break;
		att = (Form_pg_attribute) GETSTRUCT(tuple);
		if (!att->attisdropped && att->attgenerated == '\0')
			appendStringInfo(&names, "%s%s", names.len ? ", " : "", NameStr(att->attname));
		ReleaseSysCache(tuple);
	}
	return names.data;
}

/*
 * penstock_pipe_dedup_column, see pipe_internal.h.
 */
AttrNumber
penstock_pipe_dedup_column(const PenstockPipeRow *row)
{
	AttrNumber	attno = get_attnum(row->source, row->dedup_key);
	Oid			send;
	bool		varlena;

	if (attno <= 0 || get_attgenerated(row->source, attno) != '\0')
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_COLUMN),
				 errmsg("dedup_key names column \"%s\", which \"%s\" does not have", row->dedup_key, get_rel_name(row->source)),
				 errhint("It can be one of: %s.", column_names(row->source))));
	getTypeBinaryOutputInfo(get_atttype(row->source, attno), &send, &varlena);
	return attno;
}

/* A value as it is remembered: its binary form, or what is as good as that.  Lengths keep the two apart. */
static bytea *
key_of(FmgrInfo *send, Datum value)
{
	bytea	   *key = SendFunctionCall(send, value);
	bytea	   *digest;
	bytea	   *result;

	if (VARSIZE(key) - VARHDRSZ <= LONGEST_KEY)
		return key;
	digest = DatumGetByteaPP(DirectFunctionCall1(sha256_bytea, PointerGetDatum(key)));
	result = palloc(VARHDRSZ + LONGEST_KEY + 1);
	SET_VARSIZE(result, VARHDRSZ + LONGEST_KEY + 1);
	*VARDATA(result) = 'd';
	memcpy(VARDATA(result) + 1, VARDATA_ANY(digest), LONGEST_KEY);
	return result;
}

/*
 * penstock_pipe_leave_known_out, see pipe_internal.h.
 */
int
penstock_pipe_leave_known_out(PenstockPipe *pipe, PenstockPipeBatch *batch, Relation rel, const PenstockMessage *messages)
{
	const PenstockPipeRow *row = pipe->row;
	AttrNumber	attno = row->dedup_key != NULL ? penstock_pipe_dedup_column(row) : 0;
	TimestampTz now = GetCurrentTimestamp();
	FmgrInfo	send;
	int			known = 0;
	int			added = 0;

	if (row->dedup_window == 0)
		return 0;
	if (attno != 0)
	{
		Oid			function;
		bool		varlena;

		getTypeBinaryOutputInfo(TupleDescAttr(RelationGetDescr(rel), attno - 1)->atttypid, &function, &varlena);
		fmgr_info(function, &send);
	}
	for (int i = 0; i < batch->nrows; i++)
	{
		const char *id = messages[i].id;
		int			length = messages[i].id_length;

		if (batch->rows[i].left_out)
			continue;
		if (attno != 0)
		{
			bytea	   *key = batch->rows[i].isnull[attno - 1] ? NULL : key_of(&send, batch->rows[i].values[attno - 1]);

			id = key != NULL ? VARDATA(key) : NULL;
			length = key != NULL ? VARSIZE(key) - VARHDRSZ : 0;
		}
		if (id == NULL)
			continue;
		if (penstock_seen_add(pipe->oid, id, length, now))
			added++;
		else
		{
			batch->rows[i].left_out = true;
			known++;
		}
	}
	penstock_seen_forget(pipe->oid, TimestampTzPlusMilliseconds(now, -row->dedup_window), FORGET_FACTOR * added + 100);
	return known;
}
