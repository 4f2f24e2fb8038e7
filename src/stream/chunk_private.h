/*
 * chunk_private.h
 *	  The parts of the chunk codec as they see each other.
 *
 * docs/storage-format.md has the bytes.  Every number that comes from disk passes
 * through a cursor, which reports damage instead of reading past an end.
 */
#ifndef PENSTOCK_CHUNK_PRIVATE_H
#define PENSTOCK_CHUNK_PRIVATE_H

#include "compat/compat.h"
#include "lib/stringinfo.h"
#include "port/pg_bswap.h"
#include "stream/chunk.h"
#include "utils/memutils.h"

/* ---- layout of the head ---- */

#define HEAD_VERSION		0	/* u8 */
#define HEAD_LAYOUT			1	/* u8 */
#define HEAD_NROWS			2	/* u16 */
#define HEAD_NATTS			4	/* u16 */
#define HEAD_FLAGS			6	/* u8 */
#define HEAD_XID			8	/* u64 */
#define HEAD_WRITTEN_AT		16	/* i64 */
#define HEAD_CRC			24	/* u32 over the fixed header without the CRCs */
#define HEAD_REST_CRC		28	/* u32 over what follows the fixed header */
#define HEAD_INLINE_SIZE	32
#define HEAD_VALUEID		32	/* u32, from here on not in inline chunks */
#define HEAD_BODY_LEN		36	/* u32 */
#define HEAD_DIR_LEN		40	/* u32 */
#define HEAD_BODY_SIZE		44

#define LAYOUT_INLINE		0	/* directory and columns in the head */
#define LAYOUT_BODY			1	/* directory in the head, columns in the body */
#define LAYOUT_BODY_DIR		2	/* columns, then directory in the body */

/* ---- column directory entry ---- */

#define COLUMN_NULL			0	/* every row is NULL */
#define COLUMN_INTS			1	/* integer sequence */
#define COLUMN_DECIMAL		2	/* floats as scaled integers */
#define COLUMN_SHUFFLE		3	/* floats as byte planes */
#define COLUMN_BYTES		4	/* lengths, bytes */
#define COLUMN_BYTES_DICT	5	/* distinct values, codes */
#define COLUMN_MINIMUM		6	/* integers, each the minimum in the directory */
#define COLUMN_ENCODING		0x0f
#define COLUMN_HAS_NULLS	0x10
#define COLUMN_HAS_MINMAX	0x20
#define COLUMN_FLAGS		0x30

/* how a column's values are ordered */
typedef enum PenstockOrder
{
	PENSTOCK_ORDER_NONE = 0,
	PENSTOCK_ORDER_SIGNED = 1,
	PENSTOCK_ORDER_UNSIGNED = 2,
	PENSTOCK_ORDER_FLOAT = 3
} PenstockOrder;

/* No value or block may be longer than this. */
#define MAX_BLOCK			(MaxAllocSize - VARHDRSZ)

/* ---- writing ---- */

static inline void
put_u16(char *p, uint16 v)
{
#ifdef WORDS_BIGENDIAN
	v = pg_bswap16(v);
#endif
	memcpy(p, &v, 2);
}

static inline void
put_u32(char *p, uint32 v)
{
#ifdef WORDS_BIGENDIAN
	v = pg_bswap32(v);
#endif
	memcpy(p, &v, 4);
}

static inline void
put_u64(char *p, uint64 v)
{
#ifdef WORDS_BIGENDIAN
	v = pg_bswap64(v);
#endif
	memcpy(p, &v, 8);
}

static inline uint64
zigzag(int64 v)
{
	return ((uint64) v << 1) ^ (uint64) (v >> 63);
}

static inline int64
unzigzag(uint64 v)
{
	return (int64) ((v >> 1) ^ -(v & 1));
}

extern void penstock_put_varint(StringInfo out, uint64 v);
extern void penstock_put_byte(StringInfo out, int v);
pg_noreturn extern void penstock_too_large(void);
/* Makes room for need more bytes; PROGRAM_LIMIT_EXCEEDED where a chunk cannot be that long. */
extern void penstock_put_room(StringInfo out, Size need);

/* CRC-32C */
extern uint32 penstock_crc(const char *data, Size len);
/* That of the fixed header, without its CRCs. */
extern uint32 penstock_head_crc(const char *head);

/* ---- reading ---- */

typedef struct PenstockCursor
{
	const char *p;
	const char *end;
	const char *where;			/* stream and chunk, for messages */
	int			attno;			/* column, for messages; 0: none */
} PenstockCursor;

pg_noreturn extern void penstock_damaged(const PenstockCursor *cursor, const char *detail);

static inline uint16
get_u16(const char *p)
{
	uint16		v;

	memcpy(&v, p, 2);
#ifdef WORDS_BIGENDIAN
	v = pg_bswap16(v);
#endif
	return v;
}

static inline uint32
get_u32(const char *p)
{
	uint32		v;

	memcpy(&v, p, 4);
#ifdef WORDS_BIGENDIAN
	v = pg_bswap32(v);
#endif
	return v;
}

static inline uint64
get_u64(const char *p)
{
	uint64		v;

	memcpy(&v, p, 8);
#ifdef WORDS_BIGENDIAN
	v = pg_bswap64(v);
#endif
	return v;
}

static inline Size
cursor_left(const PenstockCursor *cursor)
{
	return cursor->end - cursor->p;
}

#ifdef PENSTOCK_CHUNK_FUZZ
/* lets the fuzzer's damage through to the decoders */
extern bool penstock_chunk_ignore_checksums;
/* stored bytes of a column */
extern uint32 penstock_chunk_column_size(const PenstockChunk *chunk, int attno);
#endif
/* Damage, unless they are equal. */
extern void penstock_check_crc(const PenstockCursor *cursor, uint32 computed, uint32 stored);

extern int	penstock_get_byte(PenstockCursor *cursor);
extern uint64 penstock_get_varint(PenstockCursor *cursor);
/* A varint of at most max. */
extern uint64 penstock_get_bounded(PenstockCursor *cursor, uint64 max);
/* The next len bytes. */
extern const char *penstock_get_bytes(PenstockCursor *cursor, Size len);

/* ---- blocks: bytes that may be zstd-compressed (chunk_block.c) ---- */

extern void penstock_block_write(StringInfo out, const char *data, Size len);
/* len is what the reader expects: anything else is damage. */
extern const char *penstock_block_read(PenstockCursor *cursor, Size len);

/* ---- bit-packing (chunk_minis.c) ---- */

#define PENSTOCK_MAX_MINIS	(PENSTOCK_CHUNK_MAX_ROWS / 128)

typedef struct PenstockMini
{
	uint64		min;
	uint8		width;
} PenstockMini;

extern Size penstock_minis_measure(const uint64 *values, int n, PenstockMini *stats);
extern void penstock_minis_write(StringInfo out, const uint64 *values, int n,
								 const PenstockMini *stats);
extern void penstock_minis_read(PenstockCursor *cursor, uint64 *values, int n);

/* ---- codes into a dictionary (chunk_codes.c) ---- */

extern double penstock_entropy(const int *counts, int ncounts, int n);
extern bool penstock_codes_rank(uint32 *codes, int n, int ncodes, uint32 *order);
extern void penstock_codes_write(StringInfo out, const uint32 *codes, int n, int ncodes);
/* Every code is checked to be below ncodes. */
extern void penstock_codes_read(PenstockCursor *cursor, uint32 *codes, int n, int ncodes);

/* ---- sequences of integers (chunk_ints.c) ---- */

extern void penstock_ints_write(StringInfo out, const int64 *values, int n);
/* Only if a constant or a dictionary suits them; else false and nothing is written. */
extern bool penstock_ints_write_dict(StringInfo out, const int64 *values, int n);
extern void penstock_ints_read(PenstockCursor *cursor, int64 *values, int n);
/* Reads a sequence as codes into a dictionary if it was written so, else returns false
 * and leaves the cursor where it was.  *dict is palloc'd. */
extern bool penstock_ints_read_dict(PenstockCursor *cursor, int n, uint32 *codes,
									int64 **dict, int *ndict);

/* ---- floats (chunk_floats.c); values are bit patterns ---- */

/* Writes what suits best and returns the COLUMN_ encoding. */
extern int	penstock_floats_write(StringInfo out, const int64 *bits, int n, int width);
extern void penstock_decimal_read(PenstockCursor *cursor, int64 *bits, int n, int width);
extern void penstock_shuffle_read(PenstockCursor *cursor, int64 *bits, int n, int width);

/* ---- NULLs (chunk_nulls.c) ---- */

extern void penstock_nulls_write(StringInfo out, const bool *isnull, int n);
/* Returns the number of values that are not NULL. */
extern int	penstock_nulls_read(PenstockCursor *cursor, bool *isnull, int n);

/* ---- values of any length (chunk_bytes.c) ---- */

typedef struct PenstockBytesEntry
{
	uint32		offset;			/* into the arena */
	uint32		len;
	uint32		hash;			/* once there is a dictionary */
} PenstockBytesEntry;

/* Writes entries[ids[0]] .. entries[ids[n - 1]] and returns the COLUMN_ encoding; distinct
 * says that equal values have equal ids. */
extern int	penstock_bytes_write(StringInfo out, const char *arena,
								 const PenstockBytesEntry *entries, int nentries,
								 const uint32 *ids, int n, bool distinct);
/* Reads n values as Datums of a type of attlen and attalign, palloc'd together. */
extern void penstock_bytes_read(PenstockCursor *cursor, Datum *values, int n,
								int attlen, char attalign);

/* ---- types (chunk_types.c) ---- */

extern PenstockOrder penstock_type_order(Oid type, bool *is_float);
/* Minimum and maximum as a directory entry keeps them. */
extern void penstock_minmax_compute(const int64 *values, int n, PenstockOrder order, int width,
									int64 *min, int64 *max);

/* ---- the builder (chunk_builder.c) ---- */

typedef enum PenstockColumnClass
{
	PENSTOCK_CLASS_DROPPED,
	PENSTOCK_CLASS_INT,			/* passed by value */
	PENSTOCK_CLASS_FIXED,		/* by reference, one length */
	PENSTOCK_CLASS_VARLENA,
	PENSTOCK_CLASS_CSTRING
} PenstockColumnClass;

typedef struct PenstockBuilderColumn
{
	PenstockColumnClass class;
	int			attlen;
	PenstockOrder order;
	bool		is_float;
	bool		dict;			/* equal values share an entry */
	bool		dict_given_up;
	bool	   *isnull;			/* per row; NULL: no NULL so far */
	int64	   *ints;			/* per row: CLASS_INT */
	uint32	   *ids;			/* per row: the others, index of entries */
	PenstockBytesEntry *entries;
	int			nentries;
	int			max_entries;
	char	   *arena;			/* bytes of the entries */
	Size		arena_len;
	Size		arena_max;
	uint32	   *slots;			/* hash table: entry index + 1 */
	uint32		nslots;			/* power of two */
} PenstockBuilderColumn;

struct PenstockBuilder
{
	MemoryContext context;
	MemoryContext scratch;		/* detoasted values of one row */
	int			natts;
	int			event_attno;
	int			nrows;
	int			max_rows;		/* room in the per-row arrays */
	Size		raw;			/* bytes of values, for the byte limit */
	Size		memory;
	bool		scratch_used;
	PenstockBuilderColumn *columns;
};

#endif							/* PENSTOCK_CHUNK_PRIVATE_H */
