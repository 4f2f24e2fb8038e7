/*
 * stream_functions.c
 *	  SQL functions that show what a stream is made of.
 */
#include "postgres.h"

#include "access/table.h"
#include "access/xact.h"
#include "catalog/pg_class.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "utils/xid8.h"

#include "stream/stream_internal.h"

PG_FUNCTION_INFO_V1(penstock_stream_chunks);

#define CHUNK_COLUMNS	7

/*
 * penstock_stream_chunks(regclass) → setof record (chunk tid, events int, stored_columns int, bytes int8,
 * writer xid8, written_at timestamptz, merged bool): the chunks that the caller's snapshot sees, in order of
 * address.  Needs SELECT on the stream; raises ERRCODE_WRONG_OBJECT_TYPE if it is none.
 */
Datum
penstock_stream_chunks(PG_FUNCTION_ARGS)
{
	Oid			relid = PG_GETARG_OID(0);
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	Relation	rel = table_open(relid, AccessShareLock);
	AclResult	acl = pg_class_aclcheck(relid, GetUserId(), ACL_SELECT);
	PenstockDirectoryScan *scan;
	HeapTuple	tuple;

	if (acl != ACLCHECK_OK)
		aclcheck_error(acl, OBJECT_TABLE, RelationGetRelationName(rel));
	if (!penstock_relation_is_stream(rel))
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("\"%s\" is not a stream", RelationGetRelationName(rel)),
				 errhint("Streams are made with CREATE TABLE ... USING stream.")));

	InitMaterializedSRF(fcinfo, 0);
	if (!IsInParallelMode())
		penstock_write_flush_for(relid, GetActiveSnapshot());
	scan = penstock_directory_begin(rel, GetActiveSnapshot(), NULL);
	while ((tuple = penstock_directory_next_tuple(scan)) != NULL)
	{
		Datum		values[CHUNK_COLUMNS];
		bool		nulls[CHUNK_COLUMNS] = {0};
		PenstockChunkInfo info;

		penstock_tuple_info(rel, tuple, &info);
		values[0] = PointerGetDatum(&tuple->t_self);
		values[1] = Int32GetDatum(info.nrows);
		values[2] = Int32GetDatum(info.natts);
		values[3] = Int64GetDatum((int64) tuple->t_len + info.body_len);
		values[4] = FullTransactionIdGetDatum(info.xid);
		values[5] = TimestampTzGetDatum(info.written_at);
		values[6] = BoolGetDatum((info.flags & PENSTOCK_CHUNK_MERGED) != 0);
		tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
	}
	penstock_directory_end(scan);
	table_close(rel, AccessShareLock);
	return (Datum) 0;
}
