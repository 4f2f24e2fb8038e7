/*
 * producer_life.c
 *	  How producers end, or change hands: they expire, and go with their stream or their owner; and how a dump brings them back.
 */
#include "postgres.h"

#include "access/table.h"
#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/objectaccess.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_class.h"
#include "commands/trigger.h"
#include "commands/user.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/timestamp.h"
#include "utils/varlena.h"

#include "compat/compat.h"
#include "producer/producer.h"
#include "producer/producer_internal.h"
#include "stream/stream.h"
#include "util/utility_hook.h"

PG_FUNCTION_INFO_V1(penstock_restore_producer);

/* How long (us) until a producer is looked at again that was in use when its time had come. */
#define BUSY_PAUSE (INT64CONST(1) * USECS_PER_SEC)

/* ---- expiry ---- */

/* producer_retention of a stream (us), which gets locked; -1: it cannot be had now. */
static int64
retention_of(Oid stream)
{
	PenstockStreamOptions options = {0};
	Relation	rel;

	if (!ConditionalLockRelationOid(stream, AccessShareLock))
		return -1;
	rel = try_table_open(stream, NoLock);
	if (rel == NULL)
		return -1;
	options.producer_retention = PENSTOCK_PRODUCER_RETENTION;
	if (penstock_is_stream(stream))
		penstock_stream_options(rel, &options);
	table_close(rel, NoLock);
	return options.producer_retention;
}

/* When the producer will have expired. */
static TimestampTz
end_of(const PenstockProducerRow *row, int64 retention)
{
	return Max(row->epoch_at, row->last_batch_at) + retention;
}

/* Removes a producer whose time has come, unless it is in use, or a batch has come meanwhile. */
static bool
expire(PenstockOwnTable *table, PenstockProducerRow *row, int64 retention, TimestampTz now)
{
	if (!penstock_producer_lock(table, row->stream, row->producer, false) ||
		!penstock_producer_find(table, row->stream, row->producer, row) || end_of(row, retention) > now)
		return false;
	penstock_producer_delete(table, row);
	penstock_producer_uncount(row->stream, row->producer);
	return true;
}

/*
 * penstock_producers_expire, see producer.h.  It waits for nobody.
 */
int
penstock_producers_expire(int most, TimestampTz *next)
{
	PenstockOwnTable table = penstock_producer_open();
	TimestampTz now = GetCurrentTimestamp();
	Oid			stream = InvalidOid;
	int64		retention = -1;
	int			removed = 0;
	ListCell   *lc;

	*next = 0;
	foreach(lc, penstock_producer_list(&table, InvalidOid))
	{
		PenstockProducerRow *row = lfirst(lc);
		TimestampTz end;

		CHECK_FOR_INTERRUPTS();
		if (row->stream != stream)
			retention = retention_of(stream = row->stream);
		end = retention < 0 ? now + BUSY_PAUSE : end_of(row, retention);
		if (end <= now)
		{
			if (removed < most && expire(&table, row, retention, now))
			{
				removed++;
				continue;
			}
			end = now + BUSY_PAUSE;
		}
		if (*next == 0 || end < *next)
			*next = end;
	}
	table_close(table.rel, NoLock);
	return removed;
}

/* ---- streams and owners ---- */

static bool
has_registry(void)
{
	return OidIsValid(penstock_producer_registry_oid());
}

/* Producers go with their stream, which nobody else can use now. */
static void
relation_access(ObjectAccessType access, Oid class_id, Oid object_id, int sub_id, void *arg)
{
	PenstockOwnTable table;
	ListCell   *lc;

	if (access != OAT_DROP || sub_id != 0 || !has_registry() || object_id == penstock_producer_registry_oid())
		return;
	if (!penstock_is_stream(object_id) && get_rel_relkind(object_id) != RELKIND_PARTITIONED_TABLE)
		return;
	table = penstock_producer_open();
	foreach(lc, penstock_producer_list(&table, object_id))
	{
		PenstockProducerRow *row = lfirst(lc);

		penstock_producer_delete(&table, row);
		penstock_producer_uncount(row->stream, row->producer);
	}
	table_close(table.rel, NoLock);
}

/* A role that owns a producer stays, as one that owns anything else. */
static void
role_access(ObjectAccessType access, Oid class_id, Oid object_id, int sub_id, void *arg)
{
	PenstockOwnTable table;
	ListCell   *lc;

	if (access != OAT_DROP || !has_registry())
		return;
	table = penstock_producer_open();
	foreach(lc, penstock_producer_list(&table, InvalidOid))
	{
		PenstockProducerRow *row = lfirst(lc);

		if (row->owner == object_id)
			ereport(ERROR,
					(errcode(ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST),
					 errmsg("role \"%s\" cannot be dropped because some objects depend on it", GetUserNameFromId(object_id, false)),
					 errdetail("owner of producer \"%s\" of stream \"%s\"", row->producer, get_rel_name(row->stream)),
					 errhint("DROP OWNED BY or REASSIGN OWNED BY takes it along.")));
	}
	table_close(table.rel, NoLock);
}

/* Drops what these roles own, or gives it to another (InvalidOid: drops). */
static void
change_owned(List *roles, Oid new_owner)
{
	PenstockOwnTable table;
	ListCell   *lc;

	if (!has_registry())
		return;
	table = penstock_producer_open();
	foreach(lc, penstock_producer_list(&table, InvalidOid))
	{
		PenstockProducerRow *row = lfirst(lc);

		if (!list_member_oid(roles, row->owner))
			continue;
		(void) penstock_producer_lock(&table, row->stream, row->producer, true);
		if (!penstock_producer_find(&table, row->stream, row->producer, row))
			continue;
		if (OidIsValid(new_owner))
		{
			row->owner = new_owner;
			penstock_producer_write(&table, row);
		}
		else
			penstock_producer_delete(&table, row);
	}
	table_close(table.rel, NoLock);
}

static void
handle_drop_owned(PenstockUtility *utility, Node *statement)
{
	List	   *roles = roleSpecsToIds(((DropOwnedStmt *) statement)->roles);

	penstock_utility_continue(utility);
	change_owned(roles, InvalidOid);
}

static void
handle_reassign_owned(PenstockUtility *utility, Node *statement)
{
	ReassignOwnedStmt *reassign = (ReassignOwnedStmt *) statement;
	List	   *roles = roleSpecsToIds(reassign->roles);
	Oid			new_owner = get_rolespec_oid(reassign->newrole, false);

	penstock_utility_continue(utility);
	change_owned(roles, new_owner);
}

/* ---- restore ---- */

static Datum
column(TriggerData *data, const char *name, bool *isnull)
{
	int			attno = SPI_fnumber(data->tg_relation->rd_att, name);

	return SPI_getbinval(data->tg_trigtuple, data->tg_relation->rd_att, attno, isnull);
}

static char *
text_column(TriggerData *data, const char *name)
{
	bool		isnull;
	Datum		value = column(data, name, &isnull);

	return isnull ? pstrdup("") : TextDatumGetCString(value);
}

/*
 * penstock_restore_producer(): the trigger of penstock.saved_producer, for a restore: a row that a dump has brought becomes one of
 * penstock.producer.  One whose stream was not restored is left out.
 */
Datum
penstock_restore_producer(PG_FUNCTION_ARGS)
{
	TriggerData *data = (TriggerData *) fcinfo->context;
	PenstockProducerRow row = {0};
	PenstockOwnTable table;
	char	   *stream;
	char	   *owner;
	bool		isnull;

	if (!CALLED_AS_TRIGGER(fcinfo))
		elog(ERROR, "penstock.restore_producer() is a trigger");
	stream = text_column(data, "stream");
	owner = text_column(data, "owner");
	row.producer = text_column(data, "producer");
	row.epoch = DatumGetInt64(column(data, "epoch", &isnull));
	row.sequence = DatumGetInt64(column(data, "sequence", &isnull));
	row.epoch_at = DatumGetTimestampTz(column(data, "epoch_at", &isnull));
	row.last_batch_at = DatumGetTimestampTz(column(data, "last_batch_at", &isnull));
	if (isnull)
		row.last_batch_at = 0;

	row.stream = RangeVarGetRelid(makeRangeVarFromNameList(textToQualifiedNameList(cstring_to_text(stream))), RowExclusiveLock, true);
	if (!OidIsValid(row.stream))
	{
		ereport(NOTICE, (errmsg("stream %s does not exist: its producer \"%s\" is left out", stream, row.producer)));
		return PointerGetDatum(NULL);
	}
	row.owner = get_role_oid(owner, true);
	if (!OidIsValid(row.owner))
	{
		row.owner = GetUserId();
		ereport(NOTICE,
				(errmsg("role \"%s\" does not exist: producer \"%s\" of stream %s is owned by \"%s\"", owner, row.producer, stream,
						GetUserNameFromId(row.owner, false))));
	}
	table = penstock_producer_open();
	penstock_producer_write(&table, &row);
	table_close(table.rel, NoLock);
	penstock_producer_registry_announce();
	return PointerGetDatum(NULL);
}

/*
 * penstock_producer_life_init registers what a process needs to know of the ends of producers.
 */
void
penstock_producer_life_init(void)
{
	penstock_object_register(RelationRelationId, relation_access);
	penstock_object_register(AuthIdRelationId, role_access);
	penstock_utility_register(T_DropOwnedStmt, handle_drop_owned);
	penstock_utility_register(T_ReassignOwnedStmt, handle_reassign_owned);
}
