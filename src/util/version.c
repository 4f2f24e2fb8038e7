/*
 * version.c
 *	  Library and installed SQL check each other's version: with CREATE and ALTER EXTENSION, and at
 *	  the first use by each process that writes events or changes views.  Reading goes always.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/indexing.h"
#include "catalog/pg_extension.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/rel.h"

#include "util/engine_call.h"
#include "util/errors.h"
#include "util/utility_hook.h"
#include "util/version.h"

/* the two agree, as far as this process knows */
static bool checked;

/* The installed version of extension "penstock", NULL without it. */
static char *
installed_version(void)
{
	Relation	rel = table_open(ExtensionRelationId, AccessShareLock);
	char	   *version = NULL;
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;

	ScanKeyInit(&key, Anum_pg_extension_extname, BTEqualStrategyNumber, F_NAMEEQ,
				CStringGetDatum("penstock"));
	scan = systable_beginscan(rel, ExtensionNameIndexId, true, NULL, 1, &key);
	tuple = systable_getnext(scan);
	if (HeapTupleIsValid(tuple))
	{
		bool		isnull;
		Datum		value = heap_getattr(tuple, Anum_pg_extension_extversion,
										 RelationGetDescr(rel), &isnull);

		if (!isnull)
			version = TextDatumGetCString(value);
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return version;
}

/*
 * penstock_version_check, see version.h.
 */
void
penstock_version_check(void)
{
	char	   *installed;

	if (checked)
		return;
	installed = installed_version();
	if (installed == NULL)
		return;
	if (strcmp(installed, PENSTOCK_VERSION) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_PENSTOCK_VERSION),
				 errmsg("penstock library %s does not belong to extension version %s",
						PENSTOCK_VERSION, installed),
				 errdetail("The server has loaded library version %s, this database has SQL objects of version %s.",
						   PENSTOCK_VERSION, installed),
				 errhint("Run ALTER EXTENSION penstock UPDATE if the library is the newer one, restart the server if it is the older one.")));
	pfree(installed);
	checked = true;
}

/* What is installed now must be what is loaded. */
static void
check_again(PenstockUtility *utility, const char *name)
{
	penstock_utility_continue(utility);
	if (strcmp(name, "penstock") == 0)
	{
		checked = false;
		penstock_version_check();
		penstock_engine_notify_at_commit();	/* it may have waited for this */
	}
}

static void
create_extension(PenstockUtility *utility, Node *statement)
{
	check_again(utility, ((CreateExtensionStmt *) statement)->extname);
}

static void
alter_extension(PenstockUtility *utility, Node *statement)
{
	check_again(utility, ((AlterExtensionStmt *) statement)->extname);
}

/*
 * penstock_version_init registers handlers; from _PG_init.
 */
void
penstock_version_init(void)
{
	penstock_utility_register(T_CreateExtensionStmt, create_extension);
	penstock_utility_register(T_AlterExtensionStmt, alter_extension);
}
