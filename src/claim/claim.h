/*
 * claim.h
 *	  Claim checks: a large payload is kept once, and tickets to it are passed around.
 */
#ifndef PENSTOCK_CLAIM_H
#define PENSTOCK_CLAIM_H

#include "fmgr.h"
#include "utils/timestamp.h"

#define PENSTOCK_CLAIM_DIGEST 32	/* bytes of SHA-256 */
#define PENSTOCK_CLAIM_VERSION 1
/* A large object has 2^31 pages, see claim_pages.c. */
#define PENSTOCK_CLAIM_MAX_SIZE (INT64CONST(4) * 1024 * 1024 * 1024 * 1024)

/*
 * A value of type penstock.claim, 40 bytes: the digest, a version, and the payload's size as seven bytes with the
 * highest first.  Compared as bytes.
 */
typedef struct PenstockClaim
{
	uint8		digest[PENSTOCK_CLAIM_DIGEST];
	uint8		version;
	uint8		size[7];
} PenstockClaim;

#define DatumGetClaim(d) ((PenstockClaim *) DatumGetPointer(d))
#define PG_GETARG_CLAIM(n) DatumGetClaim(PG_GETARG_DATUM(n))
#define PG_RETURN_CLAIM(c) PG_RETURN_POINTER(c)

extern int64 penstock_claim_size(const PenstockClaim *claim);
extern void penstock_claim_make(PenstockClaim *claim, const uint8 *digest, int64 size);
/* "sha256:" and the digest in hexadecimal digits, ":" and the size; in the current context. */
extern char *penstock_claim_text(const PenstockClaim *claim);
/* OID of the type; InvalidOid where the extension is not. */
extern Oid	penstock_claim_type(void);

/* How a payload is stored; zeros are the defaults. */
typedef struct PenstockClaimOptions
{
	const char *class_name;		/* NULL: no dictionary */
	int			level;			/* of zstd; 0: penstock.claim_level */
	TimestampTz expires_at;		/* 0: never */
} PenstockClaimOptions;

/* Stores a payload that is in memory. */
extern void penstock_claim_store(const char *payload, int64 length, const PenstockClaimOptions *options, PenstockClaim *claim);
/* The whole payload as a bytea; raises as penstock.claim_fetch does. */
extern bytea *penstock_claim_fetch(const PenstockClaim *claim);

/*
 * One step of collection, in a transaction of its own.  Returns true if there is more to do at once; *due is when to
 * look again (0: never).
 */
extern bool penstock_claim_upkeep(TimestampTz *due);

extern void penstock_claim_init(void);	/* from _PG_init */

#endif							/* PENSTOCK_CLAIM_H */
