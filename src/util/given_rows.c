/*
 * given_rows.c
 *	  Rows that scans of a relation return instead of what the relation holds.
 */
#include "postgres.h"

#include "access/xact.h"

#include "util/given_rows.h"

static struct
{
	const PenstockGivenRows *rows;
	int			n;
}			given;

void
penstock_given_rows_set(const PenstockGivenRows *rows, int n)
{
	given.rows = rows;
	given.n = n;
}

void
penstock_given_rows_clear(void)
{
	given.n = 0;
}

/*
 * penstock_given_rows_find is called when a scan begins; the result stays as long as the giver says.
 */
const PenstockGivenRows *
penstock_given_rows_find(Oid relid)
{
	for (int i = 0; i < given.n; i++)
		if (given.rows[i].relid == relid)
			return &given.rows[i];
	return NULL;
}

static void
transaction_callback(XactEvent event, void *arg)
{
	if (event == XACT_EVENT_COMMIT || event == XACT_EVENT_ABORT || event == XACT_EVENT_PREPARE)
		penstock_given_rows_clear();
}

void
penstock_given_rows_init(void)
{
	RegisterXactCallback(transaction_callback, NULL);
}
