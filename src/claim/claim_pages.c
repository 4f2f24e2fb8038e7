/*
 * claim_pages.c
 *	  Bytes in a large object, written and read as rows of pg_largeobject.
 *
 * A page of a large object has room for 2,048 bytes; we use the first 1,996 of each.  A row is then 2,032 bytes, of which four fill a page of
 * the table where three would leave a quarter of it empty, and which the server does not try to compress once more.  Functions of large
 * objects see the rest of each page as zeros; so do pg_dump and pg_restore, after which the rows are longer and all bytes where they were.
 *
 * Rows are written many at a time, and no row is looked for before it is written, as nobody else knows the object yet.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/dependency.h"
#include "catalog/indexing.h"
#include "catalog/pg_largeobject.h"
#include "catalog/pg_largeobject_metadata.h"
#include "catalog/pg_shdepend.h"
#include "executor/tuptable.h"
#include "storage/large_object.h"
#include "utils/fmgroids.h"
#include "utils/rel.h"

#include "claim/claim_internal.h"
#include "compat/compat.h"

/* Bytes of a page that are used: a row of MaximumBytesPerTuple(4) bytes without its header and the other columns. */
#define PAGE_BYTES 1996
/* Rows that are written at once. */
#define MANY 64

StaticAssertDecl(PAGE_BYTES <= LOBLKSIZE, "a page of a large object has LOBLKSIZE bytes");

struct ClaimPages
{
	MemoryContext context;
	Oid			loid;
	int64		length;
	int32		pageno;			/* of the page that is being filled */
	int			npages;			/* full ones */
	int			filled;			/* bytes in the one after them */
	char		data[MANY][PAGE_BYTES + VARHDRSZ];
};

ClaimPages *
penstock_claim_pages_create(MemoryContext context)
{
	ClaimPages *pages = MemoryContextAlloc(context, sizeof(ClaimPages));

	pages->context = context;
	pages->loid = InvalidOid;
	pages->length = 0;
	pages->pageno = 0;
	pages->npages = pages->filled = 0;
	return pages;
}

int64
penstock_claim_pages_length(const ClaimPages *pages)
{
	return pages->length;
}

/* Writes the full pages; the large object is made with the first. */
static void
write_pages(ClaimPages *pages)
{
	Relation	rel;
	CatalogIndexState indexes;
	TupleTableSlot *slots[MANY];
	HeapTuple	tuples[MANY];

	if (pages->npages == 0)
		return;
	if (!OidIsValid(pages->loid))
		pages->loid = inv_create(InvalidOid);
	rel = table_open(LargeObjectRelationId, RowExclusiveLock);
	indexes = CatalogOpenIndexes(rel);
	for (int i = 0; i < pages->npages; i++)
	{
		Datum		values[Natts_pg_largeobject];
		bool		isnull[Natts_pg_largeobject] = {false};

		values[Anum_pg_largeobject_loid - 1] = ObjectIdGetDatum(pages->loid);
		values[Anum_pg_largeobject_pageno - 1] = Int32GetDatum(pages->pageno + i);
		values[Anum_pg_largeobject_data - 1] = PointerGetDatum(pages->data[i]);
		tuples[i] = heap_form_tuple(RelationGetDescr(rel), values, isnull);
		slots[i] = MakeSingleTupleTableSlot(RelationGetDescr(rel), &TTSOpsHeapTuple);
		ExecStoreHeapTuple(tuples[i], slots[i], false);
	}
	CatalogTuplesMultiInsertWithInfo(rel, slots, pages->npages, indexes);
	for (int i = 0; i < pages->npages; i++)
	{
		ExecDropSingleTupleTableSlot(slots[i]);
		heap_freetuple(tuples[i]);
	}
	CatalogCloseIndexes(indexes);
	table_close(rel, RowExclusiveLock);
	pages->pageno += pages->npages;
	pages->npages = 0;
}

void
penstock_claim_pages_append(ClaimPages *pages, const char *data, Size length)
{
	pages->length += length;
	while (length > 0)
	{
		Size		n = Min(length, PAGE_BYTES - pages->filled);
		char	   *page = pages->data[pages->npages];

		memcpy(VARDATA(page) + pages->filled, data, n);
		pages->filled += n;
		data += n;
		length -= n;
		if (pages->filled < PAGE_BYTES)
			break;
		SET_VARSIZE(page, PAGE_BYTES + VARHDRSZ);
		pages->filled = 0;
		if (++pages->npages == MANY)
			write_pages(pages);
	}
}

int64
penstock_claim_pages_finish(ClaimPages *pages, Oid *loid)
{
	if (pages->filled > 0)
	{
		SET_VARSIZE(pages->data[pages->npages], pages->filled + VARHDRSZ);
		pages->npages++;
		pages->filled = 0;
	}
	write_pages(pages);
	*loid = pages->loid;
	return pages->length;
}

/* Copies what a row has of the bytes from .. from + length - 1; returns how many, which are the next ones after "done". */
static Size
take(TupleDesc desc, HeapTuple tuple, int64 from, char *data, Size length, Size done)
{
	Form_pg_largeobject form = (Form_pg_largeobject) GETSTRUCT(tuple);
	bool		isnull;
	struct varlena *bytes = PG_DETOAST_DATUM(heap_getattr(tuple, Anum_pg_largeobject_data, desc, &isnull));
	int64		begin = (int64) form->pageno * PAGE_BYTES;
	int64		at = from + done - begin;
	Size		there = Min(VARSIZE(bytes) - VARHDRSZ, PAGE_BYTES);
	Size		n = 0;

	if (at >= 0 && at < (int64) there)
	{
		n = Min(there - at, length - done);
		memcpy(data + done, VARDATA(bytes) + at, n);
	}
	if ((Pointer) bytes != DatumGetPointer(heap_getattr(tuple, Anum_pg_largeobject_data, desc, &isnull)))
		pfree(bytes);
	return n;
}

bool
penstock_claim_pages_read(Oid loid, Snapshot snapshot, int64 from, char *data, Size length)
{
	Relation	rel;
	Relation	index;
	SysScanDesc scan;
	ScanKeyData keys[3];
	HeapTuple	tuple;
	Size		done = 0;

	if (length == 0)
		return true;
	if (from < 0 || (from + (int64) length - 1) / PAGE_BYTES > PG_INT32_MAX)
		return false;
	rel = table_open(LargeObjectRelationId, AccessShareLock);
	index = index_open(LargeObjectLOidPNIndexId, AccessShareLock);
	ScanKeyInit(&keys[0], Anum_pg_largeobject_loid, BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(loid));
	ScanKeyInit(&keys[1], Anum_pg_largeobject_pageno, BTGreaterEqualStrategyNumber, F_INT4GE, Int32GetDatum(from / PAGE_BYTES));
	ScanKeyInit(&keys[2], Anum_pg_largeobject_pageno, BTLessEqualStrategyNumber, F_INT4LE,
				Int32GetDatum((from + length - 1) / PAGE_BYTES));
	scan = systable_beginscan_ordered(rel, index, snapshot, 3, keys);
	while (done < length && (tuple = systable_getnext_ordered(scan, ForwardScanDirection)) != NULL)
	{
		Size		n = HeapTupleHasNulls(tuple) ? 0 : take(RelationGetDescr(rel), tuple, from, data, length, done);

		if (n == 0)
			break;				/* a page is missing, or too short */
		done += n;
	}
	systable_endscan_ordered(scan);
	index_close(index, AccessShareLock);
	table_close(rel, AccessShareLock);
	return done == length;
}

void
penstock_claim_pages_drop(Oid loid)
{
	if (!LargeObjectExists(loid))
		return;
	LargeObjectDrop(loid);
	deleteSharedDependencyRecordsFor(LargeObjectRelationId, loid, 0);
}
