/*
 * chunk.h
 *	  The chunk: some thousand rows, stored column by column.
 *
 * A builder takes rows and encodes them; a chunk reads what a builder encoded.
 * Neither knows about relations, transactions or TOAST: the caller stores "head"
 * in a directory tuple and "body", if there is one, as a TOAST value.
 * The bytes are described in docs/storage-format.md.
 */
#ifndef PENSTOCK_CHUNK_H
#define PENSTOCK_CHUNK_H

#include "access/transam.h"
#include "access/tupdesc.h"
#include "datatype/timestamp.h"

#define PENSTOCK_CHUNK_VERSION		1
#define PENSTOCK_CHUNK_MAX_ROWS		32768	/* rows + 1 must fit 16 bits */
#define PENSTOCK_CHUNK_MAX_HEAD		1900	/* below TOAST_TUPLE_THRESHOLD */

/* chunk flags */
#define PENSTOCK_CHUNK_MERGED		0x01	/* made of chunks every consumer has seen */

/* ---- writing ---- */

typedef struct PenstockBuilder PenstockBuilder;

typedef struct PenstockEncoded
{
	char	   *head;			/* header, column directory, columns if inline */
	int			head_len;		/* <= PENSTOCK_CHUNK_MAX_HEAD */
	struct varlena *body;		/* plain 4-byte-header varlena, or NULL */
} PenstockEncoded;

/* Makes a builder for rows of desc, in a memory context of its own under parent;
 * event_attno is the event time column (its min and max are always kept) or 0. */
extern PenstockBuilder *penstock_builder_create(MemoryContext parent, TupleDesc desc,
												int event_attno);
/* Adds a row; copies (and detoasts) what it needs. */
extern void penstock_builder_append(PenstockBuilder *builder,
									const Datum *values, const bool *isnull);
extern int	penstock_builder_rows(const PenstockBuilder *builder);
/* Bytes of memory held: the caller's limit is on this. */
extern Size penstock_builder_size(const PenstockBuilder *builder);
/* True when it should be encoded now: row or byte limit reached. */
extern bool penstock_builder_full(const PenstockBuilder *builder);
/* Encodes rows first .. first + count - 1 into the current memory context. */
extern void penstock_builder_encode(PenstockBuilder *builder, int first, int count,
									PenstockEncoded *result);
/* Forgets its rows and keeps its memory for the next ones. */
extern void penstock_builder_reset(PenstockBuilder *builder);
/* Frees it. */
extern void penstock_builder_free(PenstockBuilder *builder);
/* Writer-side facts that the builder cannot know, put into an encoded head. */
extern void penstock_head_stamp(char *head, FullTransactionId xid, TimestampTz written_at,
								Oid body_valueid, int flags);

/* ---- reading ---- */

typedef struct PenstockChunk PenstockChunk;

/* Fetches bytes [offset, offset + length) of a chunk's body into the current context. */
typedef const char *(*PenstockFetchBody) (void *arg, uint32 offset, uint32 length);

typedef struct PenstockChunkInfo
{
	int			nrows;
	int			natts;			/* columns stored; later ones have their missing value */
	int			flags;
	FullTransactionId xid;		/* writer's top-level transaction */
	TimestampTz written_at;
	Oid			body_valueid;	/* InvalidOid: inline */
	uint32		body_len;		/* bytes of body, without varlena header; 0: inline */
} PenstockChunkInfo;

/* A decoded column.  values[i] is valid where isnull is NULL or !isnull[i].  Where the column
 * was stored with a dictionary, codes[i] < ndict indexes dict (codes of NULLs are undefined),
 * and values may be NULL if the caller asked for codes. */
typedef struct PenstockVector
{
	Datum	   *values;
	bool	   *isnull;			/* NULL: no NULLs */
	uint32	   *codes;			/* NULL: no dictionary */
	Datum	   *dict;
	int			ndict;
} PenstockVector;

/* Reads only the fixed header: cheap.  ERRCODE_DATA_CORRUPTED on anything unbelievable;
 * "where" (stream name and chunk address) is put into each message. */
extern void penstock_chunk_info(const char *head, int head_len, const char *where,
								PenstockChunkInfo *info);
/* Opens a chunk for reading columns as desc has them now (added columns give their missing
 * values, dropped ones NULL).  Lives in the current memory context; head must stay. */
extern PenstockChunk *penstock_chunk_open(const char *head, int head_len, TupleDesc desc,
										  const char *where,
										  PenstockFetchBody fetch, void *fetch_arg);
/* A memory context for what is decoded, to be reset after each chunk: keeps memory over a reset. */
extern MemoryContext penstock_chunk_context(MemoryContext parent);
/* Decodes one column into the current memory context. */
extern void penstock_chunk_column(PenstockChunk *chunk, int attno, bool want_codes,
								  PenstockVector *result);
/* Minimum and maximum of a column as Datums of its present type: false if not kept or if the
 * column's type orders differently from what was kept.  Only by-value types. */
extern bool penstock_chunk_minmax(PenstockChunk *chunk, int attno,
								  Datum *min, Datum *max, bool *has_nulls);

#endif							/* PENSTOCK_CHUNK_H */
