/*
 * queue_claims.c
 *	  Claim checks at the edge: payloads that are checked in as they arrive, tickets that are redeemed as they leave.
 *
 * A column of type penstock.claim with the payload and OPTIONS (claim_threshold '64 kB') takes payloads of so many bytes and more: the payload is
 * stored, the column holds the ticket, and other columns with the payload are NULL.  Smaller payloads stay where they were, and the ticket is
 * NULL.  OPTIONS (redeem 'true') puts, when a row is sent, the payload in place of the ticket.
 */
#include "postgres.h"

#include <limits.h>

#include "commands/defrem.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/guc.h"

#include "claim/claim.h"
#include "compat/compat.h"
#include "queue/queue_internal.h"

PG_FUNCTION_INFO_V1(penstock_queue_redeem_out);

/*
 * penstock_queue_claim_column reads the column's options; ERRCODE_FDW_INVALID_DATA_TYPE, ERRCODE_FDW_INVALID_OPTION_NAME.
 */
void
penstock_queue_claim_column(PenstockQueueColumn *column)
{
	ListCell   *lc;

	column->threshold = -1;
	foreach(lc, column->info.options)
	{
		DefElem    *option = lfirst_node(DefElem, lc);
		bool		threshold = strcmp(option->defname, "claim_threshold") == 0;

		if (!threshold && strcmp(option->defname, "redeem") != 0)
			continue;
		if (column->info.type != penstock_claim_type())
			ereport(ERROR,
					(errcode(ERRCODE_FDW_INVALID_DATA_TYPE),
					 errmsg("column \"%s\" must be of type %s", column->info.name, "penstock.claim"),
					 errdetail("It has the option \"%s\".", option->defname)));
		if (threshold && column->kind != PENSTOCK_COLUMN_RAW)
			ereport(ERROR,
					(errcode(ERRCODE_FDW_INVALID_OPTION_NAME),
					 errmsg("column \"%s\" cannot have the option \"claim_threshold\"", column->info.name),
					 errhint("It is for the column with the whole payload, which has OPTIONS (metadata 'payload').")));
		if (threshold)
			(void) parse_int(defGetString(option), &column->threshold, GUC_UNIT_BYTE, NULL);
		else
			column->redeem = defGetBoolean(option);
	}
	/* formats see the payload as if it were the value's text */
	if (column->redeem)
	{
		column->info.is_redeemed = true;
		column->info.output.fn_addr = penstock_queue_redeem_out;
		column->info.output.fn_strict = true;
	}
}

/*
 * penstock_queue_check_in: does some column take this payload in?
 */
bool
penstock_queue_check_in(const PenstockQueueColumns *columns, const PenstockMessage *message)
{
	if (!columns->claims || message->payload == NULL)
		return false;
	for (int i = 0; i < columns->natts; i++)
		if (columns->columns[i].threshold >= 0 && message->length >= columns->columns[i].threshold)
			return true;
	return false;
}

/* The ticket of a payload that is stored now. */
Datum
penstock_queue_claim(const PenstockMessage *message)
{
	PenstockClaimOptions options = {0};
	PenstockClaim *claim = palloc(sizeof(PenstockClaim));

	PreventCommandIfReadOnly("penstock.claim_store()");
	penstock_claim_store(message->payload, message->length, &options, claim);
	return PointerGetDatum(claim);
}

/*
 * In place of the type's output function: the payload as text.  Errors as penstock.claim_text.
 */
Datum
penstock_queue_redeem_out(PG_FUNCTION_ARGS)
{
	bytea	   *payload = penstock_claim_fetch(PG_GETARG_CLAIM(0));

	(void) pg_verify_mbstr(GetDatabaseEncoding(), VARDATA(payload), VARSIZE(payload) - VARHDRSZ, false);
	PG_RETURN_CSTRING(text_to_cstring(payload));
}
