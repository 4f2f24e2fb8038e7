/*
 * position.c
 *	  Snapshots as data.
 *
 * A pg_snapshot is what the server's type of that name keeps on disk, unchanged since 8.3:
 * its header, the number of running transactions, the first running and the first unassigned
 * transaction, and the running ones in ascending order.  It is read in place here, because one
 * batch asks many times.
 */
#include "postgres.h"

#include "access/xact.h"
#include "fmgr.h"
#include "lib/stringinfo.h"
#include "utils/builtins.h"
#include "utils/snapmgr.h"

#include "compat/compat.h"
#include "position/position.h"

typedef struct SnapshotData64
{
	int32		varsz;
	uint32		nxip;
	FullTransactionId xmin;
	FullTransactionId xmax;
	FullTransactionId xip[FLEXIBLE_ARRAY_MEMBER];
} SnapshotData64;

#define SNAPSHOT_SIZE(nxip) \
	(offsetof(SnapshotData64, xip) + sizeof(FullTransactionId) * (Size) (nxip))

static const SnapshotData64 *
as_snapshot(Datum datum)
{
	return (const SnapshotData64 *) DatumGetPointer(datum);
}

/* Adds the transaction's own id to the running ones of a snapshot that takes it for finished. */
static Datum
add_running(const SnapshotData64 *snapshot, FullTransactionId xid)
{
	StringInfoData text;
	bool		added = false;

	initStringInfo(&text);
	appendStringInfo(&text, UINT64_FORMAT ":" UINT64_FORMAT ":",
					 Min(U64FromFullTransactionId(snapshot->xmin), U64FromFullTransactionId(xid)),
					 U64FromFullTransactionId(snapshot->xmax));
	for (uint32 i = 0; i < snapshot->nxip; i++)
	{
		if (!added && FullTransactionIdPrecedes(xid, snapshot->xip[i]))
		{
			appendStringInfo(&text, UINT64_FORMAT ",", U64FromFullTransactionId(xid));
			added = true;
		}
		appendStringInfo(&text, UINT64_FORMAT ",", U64FromFullTransactionId(snapshot->xip[i]));
	}
	if (!added)
		appendStringInfo(&text, UINT64_FORMAT ",", U64FromFullTransactionId(xid));
	text.data[text.len - 1] = '\0';

	return DirectFunctionCall1(pg_snapshot_in, CStringGetDatum(text.data));
}

/*
 * penstock_position_current returns the active snapshot as a pg_snapshot, in the current memory
 * context.  The transaction's own events are not in it, although the transaction sees them: they
 * belong to the first batch after its commit.
 */
Datum
penstock_position_current(void)
{
	Datum		current = DirectFunctionCall1(pg_current_snapshot, (Datum) 0);
	FullTransactionId own = GetTopFullTransactionIdIfAny();

	if (FullTransactionIdIsValid(own) && penstock_position_sees(current, own))
		current = add_running(as_snapshot(current), own);
	return current;
}

/*
 * penstock_position_sees tells whether the snapshot sees what transaction xid did, if it committed.
 */
bool
penstock_position_sees(Datum snapshot, FullTransactionId xid)
{
	const SnapshotData64 *s = as_snapshot(snapshot);
	uint32		low = 0;
	uint32		high = s->nxip;

	if (FullTransactionIdPrecedes(xid, s->xmin))
		return true;
	if (!FullTransactionIdPrecedes(xid, s->xmax))
		return false;

	while (low < high)
	{
		uint32		middle = low + (high - low) / 2;

		if (FullTransactionIdEquals(s->xip[middle], xid))
			return false;
		if (FullTransactionIdPrecedes(s->xip[middle], xid))
			low = middle + 1;
		else
			high = middle;
	}
	return true;
}

/*
 * penstock_position_may_see tells whether the snapshot may see some transaction that is not older.
 */
bool
penstock_position_may_see(Datum snapshot, FullTransactionId oldest)
{
	return FullTransactionIdPrecedes(oldest, as_snapshot(snapshot)->xmax);
}

/*
 * penstock_position_sees_all tells whether the snapshot sees every transaction that is not younger.
 */
bool
penstock_position_sees_all(Datum snapshot, FullTransactionId newest)
{
	return FullTransactionIdPrecedes(newest, as_snapshot(snapshot)->xmin);
}

/*
 * penstock_position_copy copies a pg_snapshot, which may come from disk, into the current context.
 */
Datum
penstock_position_copy(Datum snapshot)
{
	SnapshotData64 *copy = (SnapshotData64 *) PG_DETOAST_DATUM_COPY(snapshot);
	bool		valid = VARSIZE(copy) >= SNAPSHOT_SIZE(0) &&
		VARSIZE(copy) == SNAPSHOT_SIZE(copy->nxip) &&
		FullTransactionIdPrecedesOrEquals(copy->xmin, copy->xmax);

	for (uint32 i = 0; valid && i < copy->nxip; i++)
		valid = FullTransactionIdPrecedesOrEquals(copy->xmin, copy->xip[i]) &&
			FullTransactionIdPrecedes(copy->xip[i], copy->xmax) &&
			(i == 0 || FullTransactionIdPrecedes(copy->xip[i - 1], copy->xip[i]));
	if (!valid)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("a stored position is damaged")));
	return PointerGetDatum(copy);
}

/*
 * penstock_position_same tells whether two snapshots are the same.
 */
bool
penstock_position_same(Datum a, Datum b)
{
	return VARSIZE(DatumGetPointer(a)) == VARSIZE(DatumGetPointer(b)) &&
		memcmp(DatumGetPointer(a), DatumGetPointer(b), VARSIZE(DatumGetPointer(a))) == 0;
}

/*
 * penstock_position_within tells whether "later" sees everything that "earlier" sees: nothing that runs
 * for the later one has finished for the earlier one.
 */
bool
penstock_position_within(Datum earlier, Datum later)
{
	const SnapshotData64 *l = as_snapshot(later);

	if (FullTransactionIdPrecedes(l->xmax, as_snapshot(earlier)->xmax))
		return false;
	for (uint32 i = 0; i < l->nxip; i++)
		if (penstock_position_sees(earlier, l->xip[i]))
			return false;
	return true;
}

/*
 * penstock_position_assign copies a position with its snapshots into the current memory context.
 */
void
penstock_position_assign(PenstockPosition *to, const PenstockPosition *from)
{
	*to = *from;
	to->lower = penstock_position_copy(from->lower);
	if (from->slicing)
		to->upper = penstock_position_copy(from->upper);
}

/*
 * penstock_position_equal tells whether two consumers have seen the same.
 */
bool
penstock_position_equal(const PenstockPosition *a, const PenstockPosition *b)
{
	if (a->slicing != b->slicing || !penstock_position_same(a->lower, b->lower))
		return false;
	return !a->slicing ||
		(a->cursor_relid == b->cursor_relid &&
		 ItemPointerEquals((ItemPointer) &a->cursor, (ItemPointer) &b->cursor) &&
		 penstock_position_same(a->upper, b->upper));
}
