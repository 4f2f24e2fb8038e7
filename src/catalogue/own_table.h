/*
 * own_table.h
 *	  Penstock's own tables: materialized views that only the library writes.
 *
 * The first column of each is a key (oid), with an index that begins with it.
 */
#ifndef PENSTOCK_OWN_TABLE_H
#define PENSTOCK_OWN_TABLE_H

#include "access/htup.h"
#include "storage/lockdefs.h"
#include "utils/relcache.h"
#include "utils/snapshot.h"

/* One of them, open, with the index on its first column. */
typedef struct PenstockOwnTable
{
	Relation	rel;
	Oid			index;
} PenstockOwnTable;

/* penstock.NAME; ERRCODE_UNDEFINED_TABLE if it is not there. */
extern Oid	penstock_own_table_oid(const char *name);
/* ERRCODE_PENSTOCK_VERSION if it has not the columns that the library expects. */
extern PenstockOwnTable penstock_own_table_open(const char *name, LOCKMODE lockmode, int natts);
/* The (first) row of a key that the snapshot (NULL: the latest) sees: a copy in the current context, or NULL. */
extern HeapTuple penstock_own_table_find(PenstockOwnTable *table, Oid key, Snapshot snapshot);
/* Inserts a row, or replaces the one of the key, which must be there. */
extern void penstock_own_table_write(const char *name, int natts, Oid key, Datum *values, bool *isnull,
									 bool insert);
/* Deletes the (first) row of a key, if there is one. */
extern void penstock_own_table_delete(const char *name, int natts, Oid key);

#endif							/* PENSTOCK_OWN_TABLE_H */
