/*
 * stream_internal.h
 *	  What the files of the access method share with each other.
 */
#ifndef PENSTOCK_STREAM_INTERNAL_H
#define PENSTOCK_STREAM_INTERNAL_H

#include "access/heapam.h"
#include "access/htup.h"
#include "access/tableam.h"
#include "compat/compat_am.h"
#include "executor/tuptable.h"
#include "nodes/plannodes.h"
#include "stream/stream.h"
#include "utils/rel.h"

struct ExprContext;
struct PlanState;
struct SampleScanState;

struct CustomScanState;

extern const TableAmRoutine penstock_stream_methods;

#define penstock_relation_is_stream(rel) ((rel)->rd_tableam == &penstock_stream_methods)

/* ---- stream_write.c: buffers ---- */

extern void penstock_write_row(Relation rel, TupleTableSlot *slot, CommandId cid);
extern void penstock_write_rows(Relation rel, TupleTableSlot **slots, int nslots, CommandId cid);
/* Writes out rows of relid that a scan under snapshot must find. */
extern void penstock_write_flush_for(Oid relid, Snapshot snapshot);
/* The relation's file is about to be replaced: its buffered rows go with the old one. */
extern void penstock_write_forget(Oid relid);
extern void penstock_write_init(void);

/* ---- stream_executor.c: what runs now ---- */

/* Command ids at which queries now running divide what they see from what they do not. */
extern int	penstock_live_commands(CommandId *result, int max);
extern void penstock_executor_init(void);

/* ---- stream_directory.c: directory tuples ---- */

/* Adds a chunk; its rows become visible to commands after cid. */
extern void penstock_directory_insert(Relation rel, PenstockEncoded *encoded, int nrows,
									  CommandId cid, int flags, TimestampTz written_at);
/* The TOAST pointer of a chunk's body, as a Datum in the current context. */
extern Datum penstock_body_pointer(Oid toastrelid, const PenstockChunkInfo *info);
/* Deletes a chunk, body and all. */
extern void penstock_directory_delete(Relation rel, HeapTuple tuple,
									  const PenstockChunkInfo *info);
/* As penstock_directory_next, but gives the directory tuple itself, valid until the next call. */
extern HeapTuple penstock_directory_next_tuple(PenstockDirectoryScan *scan);
/* The chunk at tid if snapshot sees it, copied into the current context, or NULL. */
extern HeapTuple penstock_directory_fetch(Relation rel, ItemPointer tid, Snapshot snapshot);
/* "stream "x", chunk (b,o)" for messages. */
extern char *penstock_chunk_where(Relation rel, ItemPointer tid);
/* The chunk's head inside its directory tuple. */
extern char *penstock_tuple_head(Relation rel, HeapTuple tuple, int *head_len);
extern void penstock_tuple_info(Relation rel, HeapTuple tuple, PenstockChunkInfo *info);

/* ---- stream_reader.c: chunk to rows ---- */

/*
 * Reads rows of one chunk at a time.  "columns" are the attribute numbers that are wanted; the
 * others read as NULL.
 */
typedef struct PenstockReader
{
	Relation	rel;
	TupleDesc	desc;			/* of the rows it gives */
	Relation	toastrel;		/* opened when first needed */
	MemoryContext context;		/* of the chunk that is open; reset with the next */
	int			ncolumns;
	AttrNumber *columns;
	PenstockVector *vectors;	/* one for each column, valid if decoded */
	PenstockChunk *chunk;		/* NULL: none open */
	PenstockChunkInfo info;
	ItemPointerData tid;
} PenstockReader;

/* A reader in the current memory context; columns NULL: all of them. */
extern PenstockReader *penstock_reader_create(Relation rel, const Bitmapset *columns);
/* The same for rows of desc, which may be the relation's of before the ALTER TABLE under way. */
extern PenstockReader *penstock_reader_create_as(Relation rel, TupleDesc desc,
												 const Bitmapset *columns);
/* The open chunk's whole body as a varlena in the current context; NULL if it has none. */
extern struct varlena *penstock_reader_body(PenstockReader *reader);
/* Opens the chunk of a directory tuple; nothing is decoded yet. */
extern void penstock_reader_open(PenstockReader *reader, HeapTuple tuple);
extern void penstock_reader_decode(PenstockReader *reader);
/* Decodes columns[from] .. columns[to - 1] only. */
extern void penstock_reader_decode_some(PenstockReader *reader, int from, int to);
/* Closes the chunk. */
extern void penstock_reader_close(PenstockReader *reader);
extern void penstock_reader_free(PenstockReader *reader);
/* Puts row (from 0) of the open chunk into a virtual slot. */
extern void penstock_reader_store(PenstockReader *reader, int row, TupleTableSlot *slot);

/* ctid of an event: its chunk and row; see docs/architecture.md */
extern void penstock_event_tid(ItemPointer chunk, int row, ItemPointer result);
extern bool penstock_event_tid_split(ItemPointer tid, ItemPointer chunk, int *row);

/* ---- stream_delta.c: what a batch's scans read ---- */

typedef enum PenstockScanMode
{
	PENSTOCK_SCAN_FULL,			/* everything the snapshot sees */
	PENSTOCK_SCAN_DELTA,		/* the chunks of a list */
	PENSTOCK_SCAN_FILL			/* everything but chunks a position has not seen */
} PenstockScanMode;

extern PenstockScanMode penstock_delta_mode(void);
extern double penstock_delta_assumed_rows(void);
extern void penstock_delta_init(void);

/* Next chunk of a scan under the mode that was in force when it began. */
typedef struct PenstockChunkSource
{
	Relation	rel;
	Snapshot	snapshot;
	PenstockScanMode mode;
	PenstockDirectoryScan *directory;
	const PenstockDelta *delta; /* NULL in delta mode: nothing */
	Datum		position;		/* in fill mode: pg_snapshot */
	int			next;			/* in delta mode */
	HeapTuple	fetched;		/* in delta mode: to be freed */
} PenstockChunkSource;

/* Takes over what the mode says now; nothing is opened before the first chunk is asked for. */
extern void penstock_source_begin(PenstockChunkSource *source, Relation rel, Snapshot snapshot,
									PenstockScanMode mode);
extern HeapTuple penstock_source_next(PenstockChunkSource *source);
extern void penstock_source_rewind(PenstockChunkSource *source);
extern void penstock_source_end(PenstockChunkSource *source);

/* ---- stream_scan.c: scans through the access method ---- */

typedef struct PenstockScan
{
	TableScanDescData base;
	PenstockReader *reader;
	PenstockChunkSource source;
	int			row;			/* next row of the reader's chunk */
	uint64		ordinal;		/* chunks that source gave; used by parallel scans */

	/* sampling: chunks take the place of blocks, rows that of line pointers */
	ItemPointerData *chunks;
	BlockNumber nchunks;
	BlockNumber sample_block;	/* the one that is open */

	struct PenstockAnalyze *analyze;	/* NULL unless for ANALYZE */
} PenstockScan;

extern TableScanDesc penstock_scan_begin(Relation rel, Snapshot snapshot, int nkeys,
										 struct ScanKeyData *key, ParallelTableScanDesc pscan,
										 uint32 flags);
extern void penstock_scan_end(TableScanDesc scan);
extern void penstock_scan_rescan(TableScanDesc scan, struct ScanKeyData *key, bool set_params,
								 bool allow_strat, bool allow_sync, bool allow_pagemode);
extern bool penstock_scan_next(TableScanDesc scan, ScanDirection direction, TupleTableSlot *slot);
extern bool penstock_fetch_row(Relation rel, ItemPointer tid, Snapshot snapshot,
							   TupleTableSlot *slot);
extern bool penstock_sample_next_block(TableScanDesc scan, struct SampleScanState *state);
extern bool penstock_sample_next_tuple(TableScanDesc scan, struct SampleScanState *state,
									   TupleTableSlot *slot);

/* ---- stream_analyze.c ---- */

extern void penstock_analyze_begin(PenstockScan *scan);
extern void penstock_analyze_end(PenstockScan *scan);
extern bool penstock_analyze_next_block(PENSTOCK_ANALYZE_BLOCK_ARGS);
extern bool penstock_analyze_row(TableScanDesc scan, TransactionId oldest_xmin, double *live,
								 double *dead, TupleTableSlot *slot);

/* ---- stream_filter.c: which chunks a scan skips ---- */

typedef struct PenstockFilter PenstockFilter;

extern PenstockFilter *penstock_filter_create(List *expressions, struct PlanState *parent);
extern void penstock_filter_compute(PenstockFilter *filters, int n, struct ExprContext *econtext);
extern bool penstock_filter_skips(PenstockFilter *filters, int n, PenstockChunk *chunk);

/* ---- stream_retention.c ---- */

extern bool penstock_seen_by_all(const PenstockChunkInfo *info, Datum *positions, int npositions);

/* ---- stream_rewrite.c: VACUUM FULL, SET ACCESS METHOD ---- */

/* Gives a table that has become a stream the TOAST table that it may never have needed before. */
extern void penstock_ensure_toast(Relation rel);
extern void penstock_copy_for_cluster(Relation old_table, Relation new_table, Relation old_index,
									  bool use_sort, TransactionId oldest_xmin,
									  TransactionId *xid_cutoff, MultiXactId *multi_cutoff,
									  double *num_tuples, double *tups_vacuumed,
									  double *tups_recently_dead);

/* ---- stream_customscan.c, stream_plan.c: the scan that plans use ---- */

extern void penstock_plan_init(void);
extern void penstock_customscan_init(void);
extern const struct CustomScanMethods penstock_customscan_methods;
/* For a node above that reads by chunks instead of rows: the reader with the next chunk open and nothing
 * decoded, or NULL at the end. */
extern PenstockReader *penstock_customscan_next_chunk(struct CustomScanState *css);

/* ---- stream_stats.c: sizes and statistics ---- */

extern void penstock_count_inserted(Relation rel, int rows);
extern void penstock_count_deleted(Relation rel, int rows);
/* After the heap's VACUUM, which counted chunks: puts rows in their place. */
extern void penstock_correct_vacuum(Relation rel);
extern void penstock_estimate_size(Relation rel, int32 *attr_widths, BlockNumber *pages,
								   double *tuples, double *allvisfrac);

/* ---- stream_refuse.c, stream_options.c ---- */

extern void penstock_refuse_init(void);
extern void penstock_refuse_statement(PlannedStmt *stmt);
extern void penstock_refuse_conversion(Relation rel);
extern AttrNumber penstock_stream_event_attno(Relation rel);
extern void penstock_stream_options_init(void);

#endif							/* PENSTOCK_STREAM_INTERNAL_H */
