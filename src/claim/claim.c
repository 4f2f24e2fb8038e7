/*
 * claim.c
 *	  Settings of claims, and their start.
 */
#include "postgres.h"

#include <limits.h>

#include "utils/guc.h"

#include "claim/claim_internal.h"

int			penstock_claim_level = 2;
int			penstock_claim_grace = 3600;
int			penstock_claim_collect_interval = 600;

void
penstock_claim_init(void)
{
	DefineCustomIntVariable("penstock.claim_level",
							"Level of zstd at which payloads of claims are compressed.",
							"More compress better and take longer.",
							&penstock_claim_level, 2, 1, 19, PGC_USERSET, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("penstock.claim_grace",
							"How long a payload is kept that no row holds.",
							"A ticket in a client's hands must be in a row within this time.",
							&penstock_claim_grace, 3600, 0, INT_MAX / 1000, PGC_SIGHUP, GUC_UNIT_S, NULL, NULL, NULL);
	DefineCustomIntVariable("penstock.claim_collect_interval",
							"How often payloads that no row holds are looked for; 0: never.",
							NULL,
							&penstock_claim_collect_interval, 600, 0, INT_MAX / 1000, PGC_SIGHUP, GUC_UNIT_S, NULL, NULL, NULL);
	penstock_claim_shared_init();
	penstock_claim_handle_init();
	penstock_claim_collect_init();
}
