/*
 * compat_am.h
 *	  Differences between server versions in the table access method interface.
 */
#ifndef PENSTOCK_COMPAT_AM_H
#define PENSTOCK_COMPAT_AM_H

#include "access/heapam.h"
#include "access/multixact.h"
#include "access/tableam.h"
#include "commands/vacuum.h"
#include "compat/compat.h"
#include "storage/bufmgr.h"
#if PG_VERSION_NUM >= 170000
#include "storage/read_stream.h"
#endif

/* 16 renamed RelFileNode, and tells more about which indexes an update needs */
#if PG_VERSION_NUM < 160000
typedef RelFileNode RelFileLocator;
typedef bool PenstockUpdateIndexes;
#define penstock_am_set_new_file	relation_set_new_filenode
#else
typedef TU_UpdateIndexes PenstockUpdateIndexes;
#define penstock_am_set_new_file	relation_set_new_filelocator
#endif

#define penstock_heap_set_new_file \
	(GetHeapamTableAmRoutine()->penstock_am_set_new_file)

/* 17 gives ANALYZE a stream of buffers instead of block numbers */
#if PG_VERSION_NUM < 170000
#define PENSTOCK_ANALYZE_BLOCK_ARGS \
	TableScanDesc scan, BlockNumber given_block, BufferAccessStrategy strategy
#define PENSTOCK_ANALYZE_BLOCK		given_block
#else
#define PENSTOCK_ANALYZE_BLOCK_ARGS	TableScanDesc scan, ReadStream *given_stream
#define PENSTOCK_ANALYZE_BLOCK		penstock_next_block(given_stream)

static inline BlockNumber
penstock_next_block(ReadStream *stream)
{
	Buffer		buffer = read_stream_next_buffer(stream, NULL);
	BlockNumber block;

	if (!BufferIsValid(buffer))
		return InvalidBlockNumber;
	block = BufferGetBlockNumber(buffer);
	ReleaseBuffer(buffer);
	return block;
}
#endif

/* 18 keeps the number of all-frozen pages in pg_class too */
#if PG_VERSION_NUM < 180000
#define penstock_update_relstats(rel, pages, tuples, visible) \
	vac_update_relstats(rel, pages, tuples, visible, false, InvalidTransactionId, \
						InvalidMultiXactId, NULL, NULL, false)
#else
#define penstock_update_relstats(rel, pages, tuples, visible) \
	vac_update_relstats(rel, pages, tuples, visible, (rel)->rd_rel->relallfrozen, false, \
						InvalidTransactionId, InvalidMultiXactId, NULL, NULL, false)
#endif

/* 16 renamed the counters of a relation */
#if PG_VERSION_NUM < 160000
#define penstock_add_live_tuples(rel, n) \
	((rel)->pgstat_info->t_counts.t_delta_live_tuples += (n))
#else
#define penstock_add_live_tuples(rel, n) \
	((rel)->pgstat_info->counts.delta_live_tuples += (n))
#endif

#endif							/* PENSTOCK_COMPAT_AM_H */
