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
#include "utils/array.h"

#include "claim/claim_internal.h"
#include "compat/compat.h"
#include "util/stop_point.h"

/* Rows that may be duplicates, looked at at once. */
#define STEP 100000
#define ANOTHER "EXISTS (SELECT FROM penstock.claim_object AS p WHERE p.claim OPERATOR(pg_catalog.=) o.claim AND p.ctid OPERATOR(pg_catalog.<>) o.ctid)"

/*
 * A row that may be a duplicate, and that this transaction has locked, is removed if there is another one, which is locked, too, so that no other
 * collector removes that, and takes over what this one was promised.
 */
static bool
merge_duplicate(const Datum *row, const bool *row_null)
{
	Oid			types[4] = {TIDOID, penstock_claim_type(), TIMESTAMPTZOID, TIMESTAMPTZOID};
	Datum		values[4] = {row[0], row[1], row[3], row[4]};
	char		nulls[5] = {' ', ' ', row_null[3] ? 'n' : ' ', row_null[4] ? 'n' : ' ', '\0'};
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
		object.claim = *DatumGetClaim(row[1]);
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
	return other;
}

/*
 * Puts together what was written twice.  Returns true if anything was.  Of the rows that may be duplicates, those are none that nobody else
 * is writing the payload of, and that are, by a snapshot taken after that was seen, alone.
 */
static bool
merge_pass(void)
{
	Oid			types[1] = {TIDARRAYOID};
	Datum		values[1];
	SPITupleTable *rows;
	Datum	   *all;
	Datum	   *quiet;
	int			n;
	int			nquiet = 0;
	bool		any = false;

	penstock_claim_run(psprintf("SELECT o.ctid, o.claim FROM penstock.claim_object AS o WHERE o.duplicate LIMIT %d FOR UPDATE SKIP LOCKED", STEP),
					   0, NULL, NULL, false, SPI_OK_SELECT);
	rows = SPI_tuptable;
	n = SPI_processed;
	if (n == 0)
		return false;
	PENSTOCK_STOP_POINT(claim_before_merge);
	all = palloc(n * sizeof(Datum));
	quiet = palloc(n * sizeof(Datum));
	for (int i = 0; i < n; i++)
	{
		bool		isnull;

		all[i] = SPI_getbinval(rows->vals[i], rows->tupdesc, 1, &isnull);
		if (penstock_claim_is_quiet(DatumGetClaim(SPI_getbinval(rows->vals[i], rows->tupdesc, 2, &isnull))))
			quiet[nquiet++] = all[i];
	}
	values[0] = PointerGetDatum(construct_array(quiet, nquiet, TIDOID, sizeof(ItemPointerData), false, TYPALIGN_SHORT));
	penstock_claim_run("UPDATE penstock.claim_object AS o SET duplicate = NULL WHERE o.ctid OPERATOR(pg_catalog.=) ANY ($1) AND NOT " ANOTHER,
					   1, types, values, false, SPI_OK_UPDATE);
	values[0] = PointerGetDatum(construct_array(all, n, TIDOID, sizeof(ItemPointerData), false, TYPALIGN_SHORT));
	penstock_claim_run("SELECT o.ctid, o.claim, o.loid, o.expires_at, o.unheld_since, o.stored FROM penstock.claim_object AS o"
					   " WHERE o.ctid OPERATOR(pg_catalog.=) ANY ($1) AND o.duplicate AND " ANOTHER, 1, types, values, false, SPI_OK_SELECT);
	rows = SPI_tuptable;
	n = SPI_processed;
	for (int i = 0; i < n; i++)
	{
		Datum		row[6];
		bool		isnull[6];

		for (int j = 0; j < lengthof(row); j++)
			row[j] = SPI_getbinval(rows->vals[i], rows->tupdesc, j + 1, &isnull[j]);
		if (merge_duplicate(row, isnull))
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
