/*
 * claim_internal.h
 *	  What the files of this folder share.
 */
#ifndef PENSTOCK_CLAIM_INTERNAL_H
#define PENSTOCK_CLAIM_INTERNAL_H

#include "access/htup.h"
#include "claim/claim.h"
#include "compat/compat.h"
#include "nodes/pg_list.h"
#include "storage/itemptr.h"
#include "utils/relcache.h"
#include "utils/snapshot.h"

/* Bytes of payload in a frame of a new object, and the most that a stored one may say. */
#define CLAIM_FRAME (1024 * 1024)
#define CLAIM_MAX_FRAME (64 * 1024 * 1024)
/* A payload of so many bytes when stored is kept in its row instead of a large object of its own. */
#define CLAIM_INLINE 1900

/* ---- claim_codec.c: a frame ---- */

typedef enum ClaimCodec
{
	CLAIM_PLAIN = 0,
	CLAIM_ZSTD = 1
} ClaimCodec;

typedef struct ClaimFrame
{
	ClaimCodec	codec;
	char	   *data;			/* may be the input itself */
	uint32		length;
	uint32		crc;			/* CRC-32C of data, XOR that of the dictionary if it was compressed with one */
} ClaimFrame;

/* A dictionary; NULL stands for none. */
typedef struct ClaimDictionary ClaimDictionary;

/* Compresses length bytes (at most CLAIM_MAX_FRAME); data is valid until the next call. */
extern void penstock_claim_compress(const char *raw, uint32 length, int level, ClaimDictionary *dictionary, ClaimFrame *frame);
/* Writes exactly raw_length bytes to raw; ERRCODE_DATA_CORRUPTED naming the claim. */
extern void penstock_claim_decompress(const PenstockClaim *claim, const ClaimFrame *frame, ClaimDictionary *dictionary,
									  char *raw, uint32 raw_length);
/* The level of zstd that a user has given; ERRCODE_INVALID_PARAMETER_VALUE. */
extern int	penstock_claim_check_level(int level);
extern uint32 penstock_claim_crc(const char *data, Size length);
pg_noreturn extern void penstock_claim_damaged(const PenstockClaim *claim, const char *detail,...) pg_attribute_printf(2, 3);

/* ---- claim_class.c: dictionaries ---- */

/* The newest dictionary of a class, NULL if it has none yet; ERRCODE_UNDEFINED_OBJECT without such a class. */
extern ClaimDictionary *penstock_claim_class_dictionary(const char *class_name, int32 *id, int *level);
/* One that an object was stored with; ERRCODE_DATA_CORRUPTED if it is gone. */
extern ClaimDictionary *penstock_claim_dictionary(const PenstockClaim *claim, int32 id);
extern uint32 penstock_claim_dictionary_crc(const ClaimDictionary *dictionary);
extern void *penstock_claim_dictionary_for_compression(ClaimDictionary *dictionary, int level);	/* ZSTD_CDict */
extern void *penstock_claim_dictionary_for_decompression(ClaimDictionary *dictionary);	/* ZSTD_DDict */

/* ---- claim_pages.c: bytes in a large object ---- */

typedef struct ClaimPages ClaimPages;

extern ClaimPages *penstock_claim_pages_create(MemoryContext context);
extern void penstock_claim_pages_append(ClaimPages *pages, const char *data, Size length);
/* What was appended; ends the writing. */
extern int64 penstock_claim_pages_finish(ClaimPages *pages, Oid *loid);
extern int64 penstock_claim_pages_length(const ClaimPages *pages);
/* Reads exactly length bytes; false if they are not there. */
extern bool penstock_claim_pages_read(Oid loid, Snapshot snapshot, int64 from, char *data, Size length);
/* Removes the large object, without a lock for each, see claim_collect.c. */
extern void penstock_claim_pages_drop(Oid loid);

/* ---- claim_object.c: rows of penstock.claim_object ---- */

typedef struct ClaimObject
{
	PenstockClaim claim;
	Oid			loid;			/* InvalidOid: inline */
	int32		owner;			/* of penstock.claim_owner */
	int32		dictionary;		/* 0: none */
	int64		stored;			/* bytes */
	TimestampTz stored_at;
	TimestampTz expires_at;		/* 0: never */
	TimestampTz unheld_since;	/* 0: held, or not looked at yet */
	bool		duplicate;		/* written beside another one that was not visible yet */
	char	   *inline_data;	/* stored bytes: codec, CRC, data */
	ItemPointerData tid;
} ClaimObject;

/* The object with that claim, that the snapshot sees; false: none. */
extern bool penstock_claim_object_find(const PenstockClaim *claim, Snapshot snapshot, ClaimObject *object);
extern void penstock_claim_object_insert(ClaimObject *object);
/* Removes the row tid; needs claim, loid and stored. */
extern void penstock_claim_object_delete(const ClaimObject *object);
/*
 * An object that exists is used once more: keeps it from being collected until this transaction ends, and later if it was
 * about to be; expires_at is extended.  false: another transaction is removing or changing it.
 */
extern bool penstock_claim_object_reuse(ClaimObject *object, TimestampTz expires_at);
/* The object that a large object belongs to; false: none. */
extern bool penstock_claim_object_of(Oid loid, ClaimObject *object);
/* Is the row's large object, as it says, the one with the payload? */
extern bool penstock_claim_object_is_ours(const ClaimObject *object);
/* Removes the large objects of all rows of the table, which is about to be dropped. */
extern void penstock_claim_object_drop_all(Oid relid);
extern int32 penstock_claim_owner_id(Oid role);
extern Oid	penstock_claim_owner_role(int32 id);	/* InvalidOid: gone */

/* ---- claim_store.c ---- */

typedef struct ClaimWriter ClaimWriter;

/* Lives in context; whoever makes it ends it in the same (sub)transaction, or that aborts. */
extern ClaimWriter *penstock_claim_writer_create(MemoryContext context, const PenstockClaimOptions *options);
extern void penstock_claim_writer_append(ClaimWriter *writer, const char *data, Size length);
extern void penstock_claim_writer_finish(ClaimWriter *writer, PenstockClaim *claim);
/* Removes what it has written so far; before the transaction commits. */
extern void penstock_claim_writer_undo(ClaimWriter *writer);
/* Gives up what is not in memory contexts. */
extern void penstock_claim_writer_abandon(ClaimWriter *writer);

/* ---- claim_fetch.c ---- */

typedef struct ClaimReader ClaimReader;

/* Opens the object, after the rights were checked; proof: see claim_access.c. */
extern ClaimReader *penstock_claim_reader_open(const PenstockClaim *claim, bool proof);
extern const ClaimObject *penstock_claim_reader_object(ClaimReader *reader);
extern int64 penstock_claim_reader_frames(ClaimReader *reader);
extern const char *penstock_claim_reader_codec(ClaimReader *reader);
/* Reads up to length bytes from an offset of the payload; returns how many there were. */
extern Size penstock_claim_reader_read(ClaimReader *reader, int64 from, char *data, Size length);
/* Reads all of it and compares the digest; ERRCODE_DATA_CORRUPTED. */
extern void penstock_claim_reader_verify(ClaimReader *reader);
extern void penstock_claim_reader_close(ClaimReader *reader);
/* Lets the reader, whose context does, live until the transaction ends. */
extern void penstock_claim_reader_keep(ClaimReader *reader);

/* ---- claim_access.c ---- */

/* This session has stored the payload, so that it may fetch it. */
extern void penstock_claim_note_stored(const PenstockClaim *claim);
extern bool penstock_claim_may_fetch(const ClaimObject *object);
pg_noreturn extern void penstock_claim_unknown(const PenstockClaim *claim);

/* A column that can hold claims. */
typedef struct ClaimColumn
{
	Oid			relid;
	AttrNumber	attnum;
	bool		is_array;
	char		relkind;
	char		persistence;
} ClaimColumn;

/* All of them, of tables, materialized views and partitioned tables; not our own. */
extern List *penstock_claim_columns(void);
/* Keeps the column from being dropped until the transaction ends; false: it has been.  To be called before its names are asked for. */
extern bool penstock_claim_column_lock(const ClaimColumn *column);
extern char *penstock_claim_column_relation(const ClaimColumn *column);	/* quoted */
extern char *penstock_claim_column_name(const ClaimColumn *column);	/* quoted */

/* ---- claim_holders.c: queries, with SPI ---- */

/* Runs a query that must end as expected (SPI_OK_...). */
extern void penstock_claim_run(const char *query, int nargs, Oid *types, Datum *values, bool read_only, int expected);
extern char *penstock_claim_holders(bool some);
extern char *penstock_claim_unheld(void);
extern bool penstock_claim_lock_columns(bool wait);
extern PenstockClaim **penstock_claim_find_held(Datum *claims, int n, int *nheld);
extern int	penstock_claim_compare(const void *a, const void *b);	/* of pointers to claims */

/* ---- claim_merge.c ---- */

/* Puts together what was written twice, with SPI. */
extern void penstock_claim_merge(void);

/* ---- claim_shared.c ---- */

/* A payload is being stored by this transaction; false: by another one, which is waited for a little. */
extern bool penstock_claim_begin_store(const PenstockClaim *claim);
/* Is nobody storing the payload just now, who would not mark it as a possible duplicate? */
extern bool penstock_claim_is_quiet(const PenstockClaim *claim);

extern void penstock_claim_shared_init(void);
extern void penstock_claim_handle_init(void);
extern void penstock_claim_collect_init(void);

extern int	penstock_claim_level;
extern int	penstock_claim_grace;	/* s */
extern int	penstock_claim_collect_interval;	/* s */

#endif							/* PENSTOCK_CLAIM_INTERNAL_H */
