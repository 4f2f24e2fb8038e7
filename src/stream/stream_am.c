/*
 * stream_am.c
 *	  The "stream" table access method: its routine table, and what needs no file of its own.
 */
#include "postgres.h"

#include "access/heapam.h"
#include "access/multixact.h"
#include "access/table.h"
#include "access/tableam.h"
#include "catalog/pg_am.h"
#include "catalog/pg_class.h"
#include "commands/defrem.h"
#include "executor/tuptable.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"

#include "stream/stream_internal.h"

PG_FUNCTION_INFO_V1(penstock_stream_handler);

/*
 * penstock_stream_handler(internal) → table_am_handler: the access method's routines.
 */
Datum
penstock_stream_handler(PG_FUNCTION_ARGS)
{
	PG_RETURN_POINTER(&penstock_stream_methods);
}

Oid
penstock_stream_am(void)
{
	return get_table_am_oid("stream", true);
}

bool
penstock_is_stream(Oid relid)
{
	HeapTuple	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(relid));
	Form_pg_class form;
	bool		result;

	if (!HeapTupleIsValid(tuple))
		return false;
	form = (Form_pg_class) GETSTRUCT(tuple);
	result = form->relkind == RELKIND_RELATION && OidIsValid(form->relam) &&
		form->relam != HEAP_TABLE_AM_OID && form->relam == penstock_stream_am();
	ReleaseSysCache(tuple);
	return result;
}

static void
refuse(const char *what)
{
	ereport(ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("cannot %s a stream", what),
			 errdetail("Streams are append-only: events never change.")));
}

static const TupleTableSlotOps *
stream_slot_callbacks(Relation rel)
{
	return &TTSOpsVirtual;
}

/* ---- indexes: there are none ---- */

static struct IndexFetchTableData *
stream_index_fetch_begin(Relation rel)
{
	refuse("use an index on");
	return NULL;
}

static void
stream_index_fetch_reset(struct IndexFetchTableData *data)
{
}

static void
stream_index_fetch_end(struct IndexFetchTableData *data)
{
}

static bool
stream_index_fetch_tuple(struct IndexFetchTableData *scan, ItemPointer tid, Snapshot snapshot,
						 TupleTableSlot *slot, bool *call_again, bool *all_dead)
{
	return false;
}

static TransactionId
stream_index_delete_tuples(Relation rel, TM_IndexDeleteOp *delstate)
{
	refuse("use an index on");
	return InvalidTransactionId;
}

static double
stream_index_build_range_scan(Relation table_rel, Relation index_rel,
							  struct IndexInfo *index_info, bool allow_sync, bool anyvisible,
							  bool progress, BlockNumber start_blockno, BlockNumber numblocks,
							  IndexBuildCallback callback, void *callback_state,
							  TableScanDesc scan)
{
	refuse("create an index on");
	return 0;
}

static void
stream_index_validate_scan(Relation table_rel, Relation index_rel, struct IndexInfo *index_info,
						   Snapshot snapshot, struct ValidateIndexState *state)
{
	refuse("create an index on");
}

/* ---- single rows ---- */

static bool
stream_tuple_tid_valid(TableScanDesc scan, ItemPointer tid)
{
	ItemPointerData chunk;
	int			row;

	return ItemPointerIsValid(tid) && penstock_event_tid_split(tid, &chunk, &row);
}

static void
stream_tuple_get_latest_tid(TableScanDesc scan, ItemPointer tid)
{
	/* an event has one version */
}

static bool
stream_tuple_satisfies_snapshot(Relation rel, TupleTableSlot *slot, Snapshot snapshot)
{
	ItemPointerData chunk;
	HeapTuple	tuple;
	int			row;

	if (!ItemPointerIsValid(&slot->tts_tid) ||
		!penstock_event_tid_split(&slot->tts_tid, &chunk, &row))
		return false;
	tuple = penstock_directory_fetch(rel, &chunk, snapshot);
	if (tuple)
		heap_freetuple(tuple);
	return tuple != NULL;
}

/* ---- writing ---- */

static void
stream_tuple_insert(Relation rel, TupleTableSlot *slot, CommandId cid, int options,
					struct BulkInsertStateData *bistate)
{
	penstock_write_row(rel, slot, cid);
}

static void
stream_multi_insert(Relation rel, TupleTableSlot **slots, int nslots, CommandId cid, int options,
					struct BulkInsertStateData *bistate)
{
	penstock_write_rows(rel, slots, nslots, cid);
}

static void
stream_tuple_insert_speculative(Relation rel, TupleTableSlot *slot, CommandId cid, int options,
								struct BulkInsertStateData *bistate, uint32 specToken)
{
	refuse("use ON CONFLICT on");
}

static void
stream_tuple_complete_speculative(Relation rel, TupleTableSlot *slot, uint32 specToken,
								  bool succeeded)
{
	refuse("use ON CONFLICT on");
}

static TM_Result
stream_tuple_delete(Relation rel, ItemPointer tid, CommandId cid, Snapshot snapshot,
					Snapshot crosscheck, bool wait, TM_FailureData *tmfd, bool changingPart)
{
	refuse("delete from");
	return TM_Invisible;
}

static TM_Result
stream_tuple_update(Relation rel, ItemPointer otid, TupleTableSlot *slot, CommandId cid,
					Snapshot snapshot, Snapshot crosscheck, bool wait, TM_FailureData *tmfd,
					LockTupleMode *lockmode, PenstockUpdateIndexes *update_indexes)
{
	refuse("update");
	return TM_Invisible;
}

static TM_Result
stream_tuple_lock(Relation rel, ItemPointer tid, Snapshot snapshot, TupleTableSlot *slot,
				  CommandId cid, LockTupleMode mode, LockWaitPolicy wait_policy, uint8 flags,
				  TM_FailureData *tmfd)
{
	refuse("lock rows of");
	return TM_Invisible;
}

/*
 * A rewrite swaps files when it has inserted all rows: they must be there by then.  Otherwise the rows
 * can wait for more to come.  It is also the first moment at which SET ACCESS METHOD shows which
 * table becomes a stream.
 */
static void
stream_finish_bulk_insert(Relation rel, int options)
{
	Oid			original = rel->rd_rel->relrewrite;

	if (!OidIsValid(original))
		return;
	penstock_stream_flush(RelationGetRelid(rel));
	penstock_ensure_toast(rel);
	if (!penstock_is_stream(original))
	{
		Relation	table = table_open(original, NoLock);

		penstock_refuse_conversion(table);
		table_close(table, NoLock);
	}
}

/* ---- files ---- */

static void
stream_set_new_file(Relation rel, const RelFileLocator *file, char persistence,
					TransactionId *freeze_xid, MultiXactId *min_multi)
{
	if (rel->rd_rel->relkind != RELKIND_RELATION)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("\"%s\" cannot be a stream", RelationGetRelationName(rel)),
				 errdetail("Only tables can use the access method stream."),
				 errhint("Use CREATE TABLE ... USING stream; for a view that is always current, CREATE MATERIALIZED VIEW ... USING continuous.")));

	penstock_write_forget(RelationGetRelid(rel));
	penstock_heap_set_new_file(rel, file, persistence, freeze_xid, min_multi);
}

static void
stream_nontransactional_truncate(Relation rel)
{
	penstock_write_forget(RelationGetRelid(rel));
	GetHeapamTableAmRoutine()->relation_nontransactional_truncate(rel);
}

static void
stream_copy_data(Relation rel, const RelFileLocator *file)
{
	penstock_stream_flush(RelationGetRelid(rel));
	GetHeapamTableAmRoutine()->relation_copy_data(rel, file);
}

static void
stream_vacuum(Relation rel, struct VacuumParams *params, BufferAccessStrategy strategy)
{
	GetHeapamTableAmRoutine()->relation_vacuum(rel, params, strategy);
	penstock_correct_vacuum(rel);
}

static bool
stream_needs_toast_table(Relation rel)
{
	return true;
}

static Oid
stream_toast_am(Relation rel)
{
	return HEAP_TABLE_AM_OID;
}

static void
stream_fetch_toast_slice(Relation toastrel, Oid valueid, int32 attrsize, int32 offset,
						 int32 length, struct varlena *result)
{
	elog(ERROR, "a TOAST table cannot be a stream");
}

const TableAmRoutine penstock_stream_methods = {
	.type = T_TableAmRoutine,

	.slot_callbacks = stream_slot_callbacks,

	.scan_begin = penstock_scan_begin,
	.scan_end = penstock_scan_end,
	.scan_rescan = penstock_scan_rescan,
	.scan_getnextslot = penstock_scan_next,

	.parallelscan_estimate = table_block_parallelscan_estimate,
	.parallelscan_initialize = table_block_parallelscan_initialize,
	.parallelscan_reinitialize = table_block_parallelscan_reinitialize,

	.index_fetch_begin = stream_index_fetch_begin,
	.index_fetch_reset = stream_index_fetch_reset,
	.index_fetch_end = stream_index_fetch_end,
	.index_fetch_tuple = stream_index_fetch_tuple,

	.tuple_fetch_row_version = penstock_fetch_row,
	.tuple_tid_valid = stream_tuple_tid_valid,
	.tuple_get_latest_tid = stream_tuple_get_latest_tid,
	.tuple_satisfies_snapshot = stream_tuple_satisfies_snapshot,
	.index_delete_tuples = stream_index_delete_tuples,

	.tuple_insert = stream_tuple_insert,
	.tuple_insert_speculative = stream_tuple_insert_speculative,
	.tuple_complete_speculative = stream_tuple_complete_speculative,
	.multi_insert = stream_multi_insert,
	.tuple_delete = stream_tuple_delete,
	.tuple_update = stream_tuple_update,
	.tuple_lock = stream_tuple_lock,
	.finish_bulk_insert = stream_finish_bulk_insert,

	.penstock_am_set_new_file = stream_set_new_file,
	.relation_nontransactional_truncate = stream_nontransactional_truncate,
	.relation_copy_data = stream_copy_data,
	.relation_copy_for_cluster = penstock_copy_for_cluster,
	.relation_vacuum = stream_vacuum,
	.scan_analyze_next_block = penstock_analyze_next_block,
	.scan_analyze_next_tuple = penstock_analyze_row,
	.index_build_range_scan = stream_index_build_range_scan,
	.index_validate_scan = stream_index_validate_scan,

	.relation_size = table_block_relation_size,
	.relation_needs_toast_table = stream_needs_toast_table,
	.relation_toast_am = stream_toast_am,
	.relation_fetch_toast_slice = stream_fetch_toast_slice,

	.relation_estimate_size = penstock_estimate_size,

	.scan_sample_next_block = penstock_sample_next_block,
	.scan_sample_next_tuple = penstock_sample_next_tuple,
};

void
penstock_stream_init(void)
{
	penstock_write_init();
	penstock_executor_init();
	penstock_delta_init();
	penstock_stream_options_init();
	penstock_refuse_init();
	penstock_customscan_init();
	penstock_plan_init();
}
