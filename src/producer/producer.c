/*
 * producer.c
 *	  Identities, and the question whether a batch is new: new_producer, begin_produce, drop_producer.
 *
 * A producer's row is changed in the transaction of its batch, under a lock of its own that is held to the end of it.  So whoever has the
 * lock sees what was committed last, whatever snapshot the transaction has, as the server's own foreign keys do.
 */
#include "postgres.h"

#include "access/table.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "commands/sequence.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/timestamp.h"

#include "compat/compat.h"
#include "producer/producer.h"
#include "producer/producer_internal.h"
#include "stream/stream.h"
#include "util/engine_call.h"
#include "util/errors.h"
#include "util/version.h"

PG_FUNCTION_INFO_V1(penstock_new_producer);
PG_FUNCTION_INFO_V1(penstock_begin_produce);
PG_FUNCTION_INFO_V1(penstock_drop_producer);

/* bytes */
#define LONGEST_NAME 255

void
penstock_producer_refuse_read_only(const char *what)
{
	PreventCommandIfReadOnly(what);
	PreventCommandDuringRecovery(what);
}

/* ---- arguments ---- */

static void
check_stream(Oid relid)
{
	char		relkind = get_rel_relkind(relid);

	if (relkind == '\0')
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("stream %u does not exist", relid)));
	if (get_rel_persistence(relid) == RELPERSISTENCE_TEMP)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("temporary stream \"%s\" cannot have producers", get_rel_name(relid)),
				 errdetail("A producer outlives its session.")));
	if (penstock_is_stream(relid))
		return;
	if (relkind == RELKIND_PARTITIONED_TABLE)
	{
		ListCell   *lc;

		foreach(lc, find_all_inheritors(relid, NoLock, NULL))
			if (penstock_is_stream(lfirst_oid(lc)))
				return;
	}
	ereport(ERROR,
			(errcode(ERRCODE_WRONG_OBJECT_TYPE),
			 errmsg("\"%s\" is not a stream", get_rel_name(relid)),
			 errhint("Streams are made with CREATE TABLE ... USING stream.")));
}

/*
 * Whoever produces inserts; some columns are enough.  With that right the stream is locked as by INSERT, until the end of the
 * transaction: while somebody produces it is not dropped, and with it the row.
 */
static void
lock_stream(Oid relid)
{
	AclResult	acl = pg_class_aclcheck(relid, GetUserId(), ACL_INSERT);

	if (acl != ACLCHECK_OK)
		acl = pg_attribute_aclcheck_all(relid, GetUserId(), ACL_INSERT, ACLMASK_ANY);
	if (acl != ACLCHECK_OK)
		aclcheck_error(acl, OBJECT_TABLE, get_rel_name(relid));
	LockRelationOid(relid, RowExclusiveLock);
}

static void
check_owner(const PenstockProducerRow *row)
{
	if (!has_privs_of_role(GetUserId(), row->owner))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied for producer \"%s\" of stream \"%s\"", row->producer, get_rel_name(row->stream)),
				 errdetail("It belongs to role \"%s\".", GetUserNameFromId(row->owner, true))));
}

/*
 * penstock_producer_identity reads the first two arguments of every function.
 */
char *
penstock_producer_identity(FunctionCallInfo fcinfo, Oid *stream)
{
	char	   *producer;

	if (PG_ARGISNULL(0) || PG_ARGISNULL(1))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("stream and producer must not be null")));
	*stream = PG_GETARG_OID(0);
	producer = text_to_cstring(PG_GETARG_TEXT_PP(1));
	if (producer[0] == '\0' || strlen(producer) > LONGEST_NAME)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_NAME),
				 errmsg("the name of a producer has 1 to %d bytes", LONGEST_NAME)));
	return producer;
}

/*
 * penstock_producer_batch reads the sequence and the epoch (null: 0) of a batch.
 */
void
penstock_producer_batch(FunctionCallInfo fcinfo, int sequence_argument, int epoch_argument, int64 *sequence, int64 *epoch)
{
	if (PG_ARGISNULL(sequence_argument) || PG_GETARG_INT64(sequence_argument) < 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the sequence of a batch is a number from 1 on")));
	if (!PG_ARGISNULL(epoch_argument) && PG_GETARG_INT64(epoch_argument) < 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("an epoch is a number that penstock.new_producer() has given")));
	*sequence = PG_GETARG_INT64(sequence_argument);
	*epoch = PG_ARGISNULL(epoch_argument) ? 0 : PG_GETARG_INT64(epoch_argument);
}

/* ---- identities ---- */

/*
 * penstock.new_producer(stream regclass, producer text) → bigint: the next epoch of the producer, which is made if it is
 * not known; the caller's role owns it then.  From the commit on, batches of older epochs are refused.  The sequence goes on where it was.
 * Waits for a batch of the producer that is under way.  Raises ERRCODE_WRONG_OBJECT_TYPE, ERRCODE_INVALID_NAME,
 * ERRCODE_FEATURE_NOT_SUPPORTED or ERRCODE_INSUFFICIENT_PRIVILEGE.
 */
Datum
penstock_new_producer(PG_FUNCTION_ARGS)
{
	PenstockProducerRow row = {0};
	PenstockOwnTable table;
	int64		epoch;

	penstock_producer_refuse_read_only("penstock.new_producer()");
	penstock_version_check();
	row.producer = penstock_producer_identity(fcinfo, &row.stream);
	check_stream(row.stream);
	lock_stream(row.stream);

	table = penstock_producer_open();
	(void) penstock_producer_lock(&table, row.stream, row.producer, true);
	if (penstock_producer_find(&table, row.stream, row.producer, &row))
		check_owner(&row);
	else
		row.owner = GetUserId();
	/* epochs are never given out twice, so that one from before the producer expired stays an old one */
	epoch = nextval_internal(penstock_own_table_oid("producer_epoch"), false);
	row.epoch = Max(epoch, row.epoch + 1);
	row.epoch_at = GetCurrentTimestamp();
	penstock_producer_write(&table, &row);
	table_close(table.rel, NoLock);

	penstock_producer_registry_announce();
	penstock_engine_notify_at_commit();
	PG_RETURN_INT64(row.epoch);
}

/*
 * penstock.drop_producer(stream regclass, producer text, if_exists boolean): forgets a producer.  For its owner and the stream's.
 * Raises ERRCODE_UNDEFINED_OBJECT or ERRCODE_INSUFFICIENT_PRIVILEGE.
 */
Datum
penstock_drop_producer(PG_FUNCTION_ARGS)
{
	PenstockProducerRow row = {0};
	PenstockOwnTable table;

	penstock_producer_refuse_read_only("penstock.drop_producer()");
	penstock_version_check();
	row.producer = penstock_producer_identity(fcinfo, &row.stream);
	if (get_rel_relkind(row.stream) == '\0')
		check_stream(row.stream);

	table = penstock_producer_open();
	/* with the right to it, it is locked, and may be gone then */
	if (penstock_producer_find(&table, row.stream, row.producer, &row))
	{
		if (!object_ownercheck(RelationRelationId, row.stream, GetUserId()))
			check_owner(&row);
		LockRelationOid(row.stream, AccessShareLock);
		(void) penstock_producer_lock(&table, row.stream, row.producer, true);
	}
	if (!penstock_producer_find(&table, row.stream, row.producer, &row))
	{
		if (PG_ARGISNULL(2) || !PG_GETARG_BOOL(2))
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_OBJECT),
					 errmsg("producer \"%s\" of stream \"%s\" does not exist", row.producer, get_rel_name(row.stream))));
		ereport(NOTICE,
				(errmsg("producer \"%s\" of stream \"%s\" does not exist, skipping", row.producer, get_rel_name(row.stream))));
	}
	else
	{
		penstock_producer_delete(&table, &row);
		penstock_producer_uncount(row.stream, row.producer);
	}
	table_close(table.rel, NoLock);
	PG_RETURN_VOID();
}

/* ---- batches ---- */

pg_noreturn static void
unknown(Oid stream, const char *producer)
{
	check_stream(stream);
	ereport(ERROR,
			(errcode(ERRCODE_PENSTOCK_UNKNOWN_PRODUCER),
			 errmsg("producer \"%s\" of stream \"%s\" is not known", producer, get_rel_name(stream)),
			 errdetail("It was never made, or has expired: it made no batch for the stream's penstock.producer_retention."),
			 errhint("penstock.new_producer() makes it; its sequence begins at 1.")));
}

static void
check_epoch(const PenstockProducerRow *row, int64 epoch)
{
	if (epoch == 0 || epoch == row->epoch)
		return;
	if (epoch > row->epoch)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("epoch %lld of producer \"%s\" was not given out here", (long long) epoch, row->producer),
				 errdetail("The newest epoch is %lld.", (long long) row->epoch),
				 errhint("If the database was restored from a backup, ask penstock.new_producer() for a new epoch.")));
	penstock_producer_count(row->stream, row->producer, PENSTOCK_PRODUCER_FENCED);
	ereport(ERROR,
			(errcode(ERRCODE_PENSTOCK_FENCED),
			 errmsg("epoch %lld of producer \"%s\" is fenced", (long long) epoch, row->producer),
			 errdetail("The newest epoch is %lld.", (long long) row->epoch),
			 errhint("Somebody else goes on under this name; this one must stop.")));
}

/*
 * penstock_producer_accept, see producer_internal.h.
 */
bool
penstock_producer_accept(Oid stream, const char *producer, int64 sequence, int64 epoch)
{
	PenstockProducerRow row = {0};
	PenstockOwnTable table;
	bool		accepted;

	lock_stream(stream);
	table = penstock_producer_open();
	(void) penstock_producer_lock(&table, stream, producer, true);
	if (!penstock_producer_find(&table, stream, producer, &row))
		unknown(stream, producer);
	check_owner(&row);
	check_epoch(&row, epoch);
	accepted = sequence == row.sequence + 1;
	if (accepted)
	{
		row.sequence = sequence;
		row.last_batch_at = GetCurrentTimestamp();
		penstock_producer_write(&table, &row);
	}
	else if (sequence > row.sequence)
	{
		penstock_producer_count(stream, producer, PENSTOCK_PRODUCER_GAP);
		ereport(ERROR,
				(errcode(ERRCODE_PENSTOCK_SEQUENCE_GAP),
				 errmsg("batch %lld of producer \"%s\" leaves a gap", (long long) sequence, producer),
				 errdetail("Expected sequence %lld.", (long long) row.sequence + 1)));
	}
	else
		penstock_producer_count(stream, producer, PENSTOCK_PRODUCER_DUPLICATE);
	table_close(table.rel, NoLock);
	return accepted;
}

/*
 * penstock.begin_produce(stream regclass, producer text, sequence bigint, epoch bigint) → boolean: in the transaction that
 * inserts.  True: the batch is new, and accepted if the transaction commits.  False: it is a repetition of one that was committed (or
 * of one of this transaction), and nothing must be inserted.  Errors as of penstock_producer_accept.
 */
Datum
penstock_begin_produce(PG_FUNCTION_ARGS)
{
	Oid			stream;
	char	   *producer;
	int64		sequence;
	int64		epoch;

	penstock_producer_refuse_read_only("penstock.begin_produce()");
	producer = penstock_producer_identity(fcinfo, &stream);
	penstock_producer_batch(fcinfo, 2, 3, &sequence, &epoch);
	PG_RETURN_BOOL(penstock_producer_accept(stream, producer, sequence, epoch));
}

/*
 * penstock_producer_init registers what the module needs.
 */
void
penstock_producer_init(void)
{
	penstock_producer_stats_init();
	penstock_producer_life_init();
}
