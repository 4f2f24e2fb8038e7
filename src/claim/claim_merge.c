/*
 * claim_merge.c
 *	  Payloads that were written twice are put together.
 *
 * It happens when many store the same at a time and do not wait for each other, see claim_shared.c.  Whoever may have written one that
 * somebody else writes, too, has said so in its row.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"

#include "claim/claim_internal.h"
#include "compat/compat.h"
#include "util/stop_point.h"

/*
 * A row that says it may be a duplicate, and that this transaction has locked: removed if there is another one, which is locked, too, so that no
 * other collector removes that, and takes over what this one was promised; else it is none if nobody is about to make it one.
 */
static bool
merge_duplicate(const Datum *row, const bool *row_null)
{
	Oid			types[4] = {TIDOID, penstock_claim_type(), TIMESTAMPTZOID, TIMESTAMPTZOID};
	Datum		values[4] = {row[0], row[1], row[3], row[4]};
	char		nulls[5] = {' ', ' ', row_null[3] ? 'n' : ' ', row_null[4] ? 'n' : ' ', '\0'};
	const PenstockClaim *claim = DatumGetClaim(row[1]);
	bool		quiet = penstock_claim_begin_quiet(claim);
	bool		other;
	ItemPointerData tid;
	bool		isnull;

	/* (none if this one was changed when others were removed) */
	penstock_claim_run("SELECT p.ctid FROM penstock.claim_object AS o, penstock.claim_object AS p WHERE o.ctid OPERATOR(pg_catalog.=) $1"
		" AND p.claim OPERATOR(pg_catalog.=) $2 AND p.ctid OPERATOR(pg_catalog.<>) $1 LIMIT 1 FOR NO KEY UPDATE OF p SKIP LOCKED",
		2, types, values, false, SPI_OK_SELECT);
	other = SPI_processed > 0;
	if (other)
		tid = *(ItemPointer) DatumGetPointer(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull));
	SPI_freetuptable(SPI_tuptable);
	if (other)
	{
		ClaimObject object = {0};

		object.tid = *(ItemPointer) DatumGetPointer(row[0]);
		object.claim = *claim;
		object.loid = row_null[2] ? InvalidOid : DatumGetObjectId(row[2]);
		object.stored = row_null[5] ? 0 : DatumGetInt64(row[5]);
		penstock_claim_object_delete(&object);
		values[0] = PointerGetDatum(&tid);
		if (SPI_execute_with_args("UPDATE penstock.claim_object AS p SET"
								  " expires_at = CASE WHEN p.expires_at IS NOT NULL AND $3 IS NOT NULL THEN greatest(p.expires_at, $3) END,"
								  " unheld_since = CASE WHEN p.unheld_since IS NOT NULL AND $4 IS NOT NULL THEN greatest(p.unheld_since, $4) END"
								  " WHERE p.ctid OPERATOR(pg_catalog.=) $1 AND p.claim OPERATOR(pg_catalog.=) $2 AND"
								  " (p.expires_at OPERATOR(pg_catalog.<) $3 OR (p.expires_at IS NOT NULL AND $3 IS NULL) OR"
								  " p.unheld_since OPERATOR(pg_catalog.<) $4 OR (p.unheld_since IS NOT NULL AND $4 IS NULL))",
								  4, types, values, nulls, false, 0) != SPI_OK_UPDATE)
			elog(ERROR, "a duplicate could not be removed");
	}
	else if (quiet)
		/* another one may be there that somebody else has locked: next time */
		penstock_claim_run("UPDATE penstock.claim_object AS o SET duplicate = NULL WHERE o.ctid OPERATOR(pg_catalog.=) $1 AND NOT EXISTS (SELECT FROM"
			" penstock.claim_object AS p WHERE p.claim OPERATOR(pg_catalog.=) o.claim AND p.ctid OPERATOR(pg_catalog.<>) o.ctid)",
			1, types, values, false, SPI_OK_UPDATE);
	if (quiet)
		penstock_claim_end_quiet(claim);
	return other;
}

/* Puts together what was written twice.  Returns true if anything was. */
static bool
merge_pass(void)
{
	SPITupleTable *rows;
	uint64		n;
	bool		any = false;

	penstock_claim_run("SELECT o.ctid, o.claim, o.loid, o.expires_at, o.unheld_since, o.stored FROM penstock.claim_object AS o"
					   " WHERE o.duplicate FOR UPDATE SKIP LOCKED",
		0, NULL, NULL, false, SPI_OK_SELECT);
	rows = SPI_tuptable;
	n = SPI_processed;
	for (uint64 i = 0; i < n; i++)
	{
		Datum		values[6];
		bool		isnull[6];

		for (int j = 0; j < lengthof(values); j++)
			values[j] = SPI_getbinval(rows->vals[i], rows->tupdesc, j + 1, &isnull[j]);
		PENSTOCK_STOP_POINT(claim_before_merge);
		if (merge_duplicate(values, isnull))
			any = true;
		CHECK_FOR_INTERRUPTS();
	}
	return any;
}

void
penstock_claim_merge(void)
{
	while (merge_pass())
		CommandCounterIncrement();
}
