/*
 * stop_point.c
 *	  Named places where tests make a process wait, fail or crash.
 */
#include "postgres.h"

#include <signal.h>

#include "miscadmin.h"
#include "pgstat.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/lock.h"
#include "utils/guc.h"
#include "utils/wait_event.h"

#include "compat/compat.h"
#include "util/stop_point.h"

static const struct
{
	PenstockStopPoint point;
	const char *name;
}			points[] =
{
#define PENSTOCK_STOP(number, name) {PENSTOCK_STOP_##name, #name},
#include "util/stop_points.h"
#undef PENSTOCK_STOP
};

bool		penstock_stop_points_active = false;

static char *stop_points = NULL;

static void
assign_stop_points(const char *newval, void *extra)
{
	penstock_stop_points_active = newval != NULL && newval[0] != '\0';
}

/*
 * penstock_stop_point_init defines penstock.stop_points.
 */
void
penstock_stop_point_init(void)
{
	DefineCustomStringVariable("penstock.stop_points",
							   "Places at which this process waits, fails or crashes, for tests.",
							   NULL,
							   &stop_points, "",
							   PGC_SUSET, GUC_NOT_IN_SAMPLE,
							   NULL, assign_stop_points, NULL);
}

/* What is asked for at the named point ("wait", ...), without leading blanks; NULL: nothing. */
static const char *
find_action(const char *name)
{
	size_t		length = strlen(name);

	for (const char *at = stop_points; at != NULL && *at; at = strchr(at, ','))
	{
		at += strspn(at, ", ");
		if (strncmp(at, name, length) == 0 && at[length] == ':')
			return at + length + 1;
	}
	return NULL;
}

/* Polls: a test that stops a process does not mind 10 ms, and no lock_timeout gets in the way. */
static void
wait_for_lock(PenstockStopPoint point)
{
	LOCKTAG		tag;

	/* the tag of pg_advisory_lock(int4, int4) */
	SET_LOCKTAG_ADVISORY(tag, MyDatabaseId, PENSTOCK_STOP_CLASS, point, 2);
	while (LockAcquire(&tag, ShareLock, true, true) == LOCKACQUIRE_NOT_AVAIL)
	{
		(void) WaitLatch(NULL, WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, 10, PG_WAIT_EXTENSION);
		CHECK_FOR_INTERRUPTS();
	}
	LockRelease(&tag, ShareLock, true);
}

/*
 * penstock_stop_point_reached does what penstock.stop_points asks for at this point, if anything.
 */
void
penstock_stop_point_reached(PenstockStopPoint point)
{
	for (int i = 0; i < lengthof(points); i++)
	{
		const char *action;

		if (points[i].point != point)
			continue;
		action = find_action(points[i].name);
		if (action == NULL)
			return;
		if (strncmp(action, "wait", 4) == 0)
			wait_for_lock(point);
		else if (strncmp(action, "crash", 5) == 0)
			kill(MyProcPid, SIGKILL);
		else if (strncmp(action, "error", 5) == 0)
			ereport(ERROR,
					(errcode(ERRCODE_DATA_EXCEPTION),
					 errmsg("stop point \"%s\"", points[i].name)));
		else if (strncmp(action, "transient", 9) == 0)
			ereport(ERROR,
					(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
					 errmsg("stop point \"%s\"", points[i].name)));
		return;
	}
}
