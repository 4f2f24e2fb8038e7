/*
 * database.c
 *	  Statements about whole databases, which nobody may be connected to meanwhile.
 *
 * DROP DATABASE, ALTER DATABASE ... RENAME and SET TABLESPACE, and CREATE DATABASE with the
 * database as template: the worker is sent away before, kept away during the statement, and may come
 * back when its transaction ends, however that ends.
 */
#include "postgres.h"

#include <signal.h>

#include "access/xact.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_class.h"
#include "catalog/pg_database.h"
#include "commands/dbcommands.h"
#include "commands/defrem.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/procarray.h"
#include "utils/acl.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

#include "compat/compat.h"
#include "engine/internal.h"
#include "engine/shared.h"
#include "stream/tail.h"
#include "util/utility_hook.h"

/* How long (ms) to wait for a worker to leave; the statement itself then says who is connected. */
#define LONGEST_WAIT 10000
/* How long (ms) it may take to leave by itself. */
#define POLITE_WAIT 100

/* The database that this transaction holds, until it ends. */
static Oid	held_database;

/*
 * Keeps the worker of a database away until this transaction ends, and waits until it is gone.  It is
 * asked first, so that it can finish its batch, and soon terminated.
 */
static void
hold(Oid dboid)
{
	PenstockDatabase *database;
	TimestampTz start = GetCurrentTimestamp();
	int			pids[PENSTOCK_MAX_SLOTS];
	int			n;

	held_database = dboid;

	LWLockAcquire(penstock_engine->lock, LW_EXCLUSIVE);
	database = penstock_database_find(dboid, true);
	if (database != NULL)
	{
		(void) penstock_database_held(database);	/* clears holders that are gone */
		for (int i = 0; i < PENSTOCK_MAX_HOLDERS; i++)
		{
			if (database->holders[i] == 0)
			{
				database->holders[i] = MyProcPid;
				break;
			}
		}
	}
	LWLockRelease(penstock_engine->lock);
	if (database == NULL)
		return;

	for (;;)
	{
		LWLockAcquire(penstock_engine->lock, LW_SHARED);
		n = penstock_database_pids(dboid, pids, lengthof(pids));
		LWLockRelease(penstock_engine->lock);
		if (n == 0 || TimestampDifferenceExceeds(start, GetCurrentTimestamp(), LONGEST_WAIT))
			break;
		penstock_tail_wake(dboid);
		if (TimestampDifferenceExceeds(start, GetCurrentTimestamp(), POLITE_WAIT))
			for (int i = 0; i < n; i++)
				(void) kill(pids[i], SIGTERM);
		(void) WaitLatch(MyLatch, WL_TIMEOUT | WL_LATCH_SET | WL_EXIT_ON_PM_DEATH, 5,
						 penstock_wait_event(PENSTOCK_WAIT_HOLD));
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
}

/*
 * penstock_engine_release lets the worker come back that this transaction kept away; at its end.
 */
void
penstock_engine_release(void)
{
	PenstockDatabase *database;
	Oid			dboid = held_database;

	if (!OidIsValid(dboid))
		return;
	held_database = InvalidOid;

	LWLockAcquire(penstock_engine->lock, LW_EXCLUSIVE);
	database = penstock_database_find(dboid, false);
	if (database != NULL)
	{
		for (int i = 0; i < PENSTOCK_MAX_HOLDERS; i++)
			if (database->holders[i] == MyProcPid)
				database->holders[i] = 0;
	}
	LWLockRelease(penstock_engine->lock);
	/* the launcher looks whether the database is still there */
	penstock_engine_request(dboid);
}

/* Runs the statement while the database's worker is away. */
static void
continue_alone(PenstockUtility *utility, Oid dboid)
{
	if (OidIsValid(dboid))
		hold(dboid);
	penstock_utility_continue(utility);
}

/* The database, if the user may do such things to it; otherwise the statement will say no. */
static Oid
own_database(const char *name)
{
	Oid			dboid = get_database_oid(name, true);

	if (dboid == MyDatabaseId || !OidIsValid(dboid) ||
		!object_ownercheck(DatabaseRelationId, dboid, GetUserId()))
		return InvalidOid;
	return dboid;
}

static void
handle_dropdb(PenstockUtility *utility, Node *statement)
{
	continue_alone(utility, own_database(((DropdbStmt *) statement)->dbname));
}

static void
handle_rename(PenstockUtility *utility, Node *statement)
{
	RenameStmt *rename = (RenameStmt *) statement;

	if (rename->renameType == OBJECT_DATABASE)
		continue_alone(utility, own_database(rename->subname));
	else
		penstock_utility_continue(utility);
}

static void
handle_alterdb(PenstockUtility *utility, Node *statement)
{
	AlterDatabaseStmt *alter = (AlterDatabaseStmt *) statement;
	ListCell   *lc;

	foreach(lc, alter->options)
	{
		DefElem    *option = lfirst(lc);

		if (strcmp(option->defname, "tablespace") == 0)
		{
			continue_alone(utility, own_database(alter->dbname));
			return;
		}
	}
	penstock_utility_continue(utility);

	/* ALLOW_CONNECTIONS may have been turned on */
	penstock_engine_look_at_commit();
}

/* The database to copy, if the user may create databases at all. */
static Oid
template_database(const char *name)
{
	bool		allowed = superuser();
	HeapTuple	role;

	if (!allowed)
	{
		role = SearchSysCache1(AUTHOID, ObjectIdGetDatum(GetUserId()));
		if (HeapTupleIsValid(role))
		{
			allowed = ((Form_pg_authid) GETSTRUCT(role))->rolcreatedb;
			ReleaseSysCache(role);
		}
	}
	return allowed ? get_database_oid(name, true) : InvalidOid;
}

static void
handle_createdb(PenstockUtility *utility, Node *statement)
{
	CreatedbStmt *create = (CreatedbStmt *) statement;
	const char *source = "template1";
	ListCell   *lc;

	foreach(lc, create->options)
	{
		DefElem    *option = lfirst(lc);

		if (strcmp(option->defname, "template") == 0 && option->arg != NULL)
			source = defGetString(option);
	}
	continue_alone(utility, template_database(source));

	/* the copy may have the extension */
	penstock_engine_look_at_commit();
}

/* COMMIT PREPARED makes events visible that no backend's commit announces. */
static void
handle_transaction(PenstockUtility *utility, Node *statement)
{
	TransactionStmtKind kind = ((TransactionStmt *) statement)->kind;

	penstock_utility_continue(utility);
	if (kind == TRANS_STMT_COMMIT_PREPARED)
		penstock_tail_wake(MyDatabaseId);
}

/*
 * penstock_engine_database_init registers the handlers.
 */
void
penstock_engine_database_init(void)
{
	penstock_utility_register(T_DropdbStmt, handle_dropdb);
	penstock_utility_register(T_RenameStmt, handle_rename);
	penstock_utility_register(T_AlterDatabaseStmt, handle_alterdb);
	penstock_utility_register(T_CreatedbStmt, handle_createdb);
	penstock_utility_register(T_TransactionStmt, handle_transaction);
}
