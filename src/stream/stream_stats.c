/*
 * stream_stats.c
 *	  Sizes and statistics of streams, in rows.
 *
 * The heap's routines count directory entries, that is chunks; what pg_class and pg_stat show
 * is corrected here.
 */
#include "postgres.h"

#include <math.h>

#include "access/genam.h"
#include "access/table.h"
#include "access/visibilitymap.h"
#include "catalog/indexing.h"
#include "catalog/pg_class.h"
#include "pgstat.h"
#include "storage/bufmgr.h"
#include "utils/fmgroids.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "stream/stream_internal.h"

/* Directory blocks that an estimate of the number of rows looks into. */
#define ESTIMATE_BLOCKS		4

/* The heap has counted one row for the chunk. */
void
penstock_count_inserted(Relation rel, int rows)
{
	if (rows > 1)
		pgstat_count_heap_insert(rel, rows - 1);
}

void
penstock_count_deleted(Relation rel, int rows)
{
	if (pgstat_should_count_relation(rel) && rel->pgstat_info->trans)
		rel->pgstat_info->trans->tuples_deleted += rows - 1;
}

/* Rows in the chunks of one directory block, without regard to who may see them. */
static double
rows_of_block(Relation rel, BlockNumber block)
{
	Buffer		buffer = ReadBuffer(rel, block);
	double		rows = 0;
	Page		page;

	LockBuffer(buffer, BUFFER_LOCK_SHARE);
	page = BufferGetPage(buffer);
	if (!PageIsNew(page))
	{
		for (OffsetNumber off = FirstOffsetNumber; off <= PageGetMaxOffsetNumber(page); off++)
		{
			ItemId		item = PageGetItemId(page, off);
			HeapTupleData tuple;
			PenstockChunkInfo info;

			if (!ItemIdIsNormal(item))
				continue;
			tuple.t_data = (HeapTupleHeader) PageGetItem(page, item);
			tuple.t_len = ItemIdGetLength(item);
			ItemPointerSet(&tuple.t_self, block, off);
			if (HeapTupleHeaderXminInvalid(tuple.t_data) ||
				!(tuple.t_data->t_infomask & HEAP_XMAX_INVALID))
				continue;
			penstock_tuple_info(rel, &tuple, &info);
			rows += info.nrows;
		}
	}
	UnlockReleaseBuffer(buffer);
	return rows;
}

/* The number that pg_class holds now, as the heap's VACUUM has just written it. */
static double
reltuples_now(Oid relid)
{
	Relation	pg_class = table_open(RelationRelationId, AccessShareLock);
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;
	double		result = 0;

	ScanKeyInit(&key, Anum_pg_class_oid, BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(relid));
	scan = systable_beginscan(pg_class, ClassOidIndexId, true, NULL, 1, &key);
	if ((tuple = systable_getnext(scan)) != NULL)
		result = ((Form_pg_class) GETSTRUCT(tuple))->reltuples;
	systable_endscan(scan);
	table_close(pg_class, AccessShareLock);
	return result;
}

void
penstock_correct_vacuum(Relation rel)
{
	double		chunks = Max(reltuples_now(RelationGetRelid(rel)), 0);
	double		rows = 0;
	BlockNumber visible;
	PenstockDirectoryScan *scan;
	PenstockDirectoryEntry entry;

	scan = penstock_directory_begin(rel, GetActiveSnapshot(), NULL);
	while (penstock_directory_next(scan, &entry))
		rows += entry.info.nrows;
	penstock_directory_end(scan);

	visibilitymap_count(rel, &visible, NULL);
	penstock_update_relstats(rel, RelationGetNumberOfBlocks(rel), rows, visible);
	if (pgstat_should_count_relation(rel))
		penstock_add_live_tuples(rel, (int64) rows - (int64) chunks);
}

void
penstock_estimate_size(Relation rel, int32 *attr_widths, BlockNumber *pages, double *tuples,
					   double *allvisfrac)
{
	BlockNumber directory = RelationGetNumberOfBlocks(rel);
	BlockNumber looked = Min(directory, ESTIMATE_BLOCKS);
	double		rows = 0;

	*pages = directory;
	*tuples = 0;
	*allvisfrac = 0;
	if (directory == 0)
		return;

	if (OidIsValid(rel->rd_rel->reltoastrelid))
	{
		Relation	toast = table_open(rel->rd_rel->reltoastrelid, AccessShareLock);

		*pages += RelationGetNumberOfBlocks(toast);
		table_close(toast, AccessShareLock);
	}

	if (rel->rd_rel->reltuples >= 0 && rel->rd_rel->relpages == directory && directory > ESTIMATE_BLOCKS)
	{
		*tuples = rel->rd_rel->reltuples;
		return;
	}

	/* evenly spread, the last one included */
	for (BlockNumber i = 0; i < looked; i++)
		rows += rows_of_block(rel, directory - 1 - (uint64) directory * i / looked);
	*tuples = rint(rows / looked * directory);
}
