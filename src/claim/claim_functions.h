/*
 * claim_functions.h
 *	  What the files with the functions that SQL sees share.
 */
#ifndef PENSTOCK_CLAIM_FUNCTIONS_H
#define PENSTOCK_CLAIM_FUNCTIONS_H

#include "claim/claim_internal.h"

extern void penstock_claim_options(FunctionCallInfo fcinfo, int n, PenstockClaimOptions *options);
extern void penstock_claim_prevent_read_only(const char *function);
extern bytea *penstock_claim_read_all(const PenstockClaim *claim, bool proof, bool verify);
/* In how many rows of the column does it stand, as far as the role sees them?  Within SPI. */
extern int64 penstock_claim_count_in(const ClaimColumn *column, const PenstockClaim *claim);

#endif							/* PENSTOCK_CLAIM_FUNCTIONS_H */
