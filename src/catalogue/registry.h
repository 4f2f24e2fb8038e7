/*
 * registry.h
 *	  Rows of penstock.continuous_view and penstock.position.
 *
 * Both are materialized views that only this module writes (see docs/architecture.md).
 * Reads use the catalogue's own latest snapshot unless one is given.
 */
#ifndef PENSTOCK_REGISTRY_H
#define PENSTOCK_REGISTRY_H

#include "nodes/pg_list.h"
#include "position/position.h"
#include "utils/snapshot.h"

typedef enum PenstockViewStatus
{
	PENSTOCK_VIEW_ACTIVE = 'a',
	PENSTOCK_VIEW_PAUSED = 'p',
	PENSTOCK_VIEW_FAILED = 'f'
} PenstockViewStatus;

/* One row of penstock.continuous_view. */
typedef struct PenstockViewRow
{
	Oid			relid;
	Oid			state;			/* state table, InvalidOid if the strategy has none */
	char		strategy;		/* 'a' append, 'g' group */
	PenstockViewStatus status;
	Oid			filenode;		/* file of the view that the state's tids belong to */
	bool		complete;		/* covers all events since the streams were made */
	char	   *error;			/* why it failed, or NULL */
	char	   *settings;		/* "name=value" lines: settings the query runs under */
} PenstockViewRow;

/* OID of penstock.continuous_view, InvalidOid without the extension. */
extern Oid	penstock_registry_oid(void);
/* Before changing a row that exists: the right to do so, until the end of the transaction. */
extern bool penstock_registry_lock(Oid relid, bool wait);

extern void penstock_registry_insert(const PenstockViewRow *row);
extern void penstock_registry_update(const PenstockViewRow *row);
extern void penstock_registry_delete(Oid relid);
/* NULL if relid is not registered. */
extern PenstockViewRow *penstock_registry_get(Oid relid);
/* Has this transaction written the row, so that nobody else sees it yet? */
extern bool penstock_registry_is_new(Oid relid);
/* All rows, in order of relid (views are made after what they read: sources before dependents). */
extern List *penstock_registry_list(void);

/* Positions: one row for each consumer (a view's OID). */
extern void penstock_position_insert(Oid consumer, const PenstockPosition *position);
extern void penstock_position_update(Oid consumer, const PenstockPosition *position);
extern void penstock_position_delete(Oid consumer);
/* Raises ERRCODE_OBJECT_IN_USE if some consumer's slice ends at an address in the stream. */
extern void penstock_position_check_rewrite(Oid stream);
extern bool penstock_position_get(Oid consumer, Snapshot snapshot, PenstockPosition *position);

#endif							/* PENSTOCK_REGISTRY_H */
