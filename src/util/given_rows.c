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

/* ---- scope ---- */

static struct
{
	const char *text;			/* NULL: none is set */
	bool		open;			/* the plan of that text starts */
}			scope;

void
penstock_scope_set(const char *text)
{
	scope.text = text;
	scope.open = false;
}

bool
penstock_scope_is_open(void)
{
	return scope.text == NULL || scope.open;
}

bool
penstock_scope_enter(const char *text)
{
	bool		before = scope.open;

	scope.open = scope.text != NULL && scope.text == text;
	return before;
}

void
penstock_scope_leave(bool before)
{
	scope.open = before;
}

/*
 * penstock_given_rows_find is called when a scan begins; the result stays as long as the giver says.
 */
const PenstockGivenRows *
penstock_given_rows_find(Oid relid)
{
	if (!penstock_scope_is_open())
		return NULL;
	for (int i = 0; i < given.n; i++)
		if (given.rows[i].relid == relid)
			return &given.rows[i];
	return NULL;
}

static void
transaction_callback(XactEvent event, void *arg)
{
	if (event == XACT_EVENT_COMMIT || event == XACT_EVENT_ABORT || event == XACT_EVENT_PREPARE)
	{
		penstock_given_rows_clear();
		penstock_scope_set(NULL);
	}
}

void
penstock_given_rows_init(void)
{
	RegisterXactCallback(transaction_callback, NULL);
}
