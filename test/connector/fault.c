/*
 * fault.c
 *	  Faults on demand.
 *
 * DIRECTORY/faults has a line for each:
 *
 *		CALLBACK ACTION [NAME=VALUE ...]
 *
 * CALLBACK is a member of PenstockConnector (open, fetch, ...).  ACTION, of every callback: error (an ereport), crash (kill -9 of
 * the process), slow (takes ms=N, or until the callback's timeout is over, which is a fault; interrupts are served), hang (the same
 * until the line is gone).  Of callbacks that have an outcome: away, refused.  Of some: fetch duplicate (the last k=N messages come
 * again), fetch revoke (the batch's messages of the first partition are dropped, and come again), lag unknown, flush refuse (the
 * k-th message is refused and nothing is written), flush partial (likewise, but those before it are written).
 *
 * sqlstate=XXXXX: of an error, or of away and refused (00000: none is given).
 *
 * times=N: so many times, then the line goes.  after=N: not the first N times.  queue=NAME: only of this queue.  at=end: when the
 * callback's work is done.
 *
 * With the server's option log_calls each call is a line of DIRECTORY/state/calls: microseconds, process, callback, queue.
 */
#include "postgres.h"

#include <signal.h>
#include <unistd.h>

#include "miscadmin.h"
#include "pgstat.h"
#include "storage/fd.h"
#include "storage/latch.h"
#include "utils/timestamp.h"

#include "testqueue.h"

#define FAULTS_MAX		8192

typedef struct FaultLine
{
	char		callback[32];
	char		action[32];
	char		queue[64];
	char		sqlstate[6];
	bool		at_end;
	int64		times;			/* -1: always */
	int64		after;
	int64		ms;
	int64		k;
} FaultLine;

static void
parse_line(char *text, FaultLine *line)
{
	char	   *save = NULL;
	char	   *word = strtok_r(text, " ", &save);

	memset(line, 0, sizeof(FaultLine));
	line->times = -1;
	line->k = 1;
	if (word == NULL)
		return;
	strlcpy(line->callback, word, sizeof(line->callback));
	word = strtok_r(NULL, " ", &save);
	strlcpy(line->action, word ? word : "", sizeof(line->action));
	while ((word = strtok_r(NULL, " ", &save)) != NULL)
	{
		char	   *value = strchr(word, '=');

		if (value == NULL)
			elog(ERROR, "what is \"%s\" in the faults?", word);
		*value++ = '\0';
		if (strcmp(word, "times") == 0)
			line->times = atol(value);
		else if (strcmp(word, "after") == 0)
			line->after = atol(value);
		else if (strcmp(word, "ms") == 0)
			line->ms = atol(value);
		else if (strcmp(word, "k") == 0)
			line->k = atol(value);
		else if (strcmp(word, "queue") == 0)
			strlcpy(line->queue, value, sizeof(line->queue));
		else if (strcmp(word, "sqlstate") == 0)
			strlcpy(line->sqlstate, value, sizeof(line->sqlstate));
		else if (strcmp(word, "at") == 0)
			line->at_end = strcmp(value, "end") == 0;
		else
			elog(ERROR, "what is \"%s\" in the faults?", word);
	}
}

static void
append_line(StringInfo text, const FaultLine *line)
{
	appendStringInfo(text, "%s %s ms=" INT64_FORMAT " k=" INT64_FORMAT " after=" INT64_FORMAT,
					 line->callback, line->action, line->ms, line->k, line->after);
	if (line->sqlstate[0])
		appendStringInfo(text, " sqlstate=%s", line->sqlstate);
	if (line->times >= 0)
		appendStringInfo(text, " times=" INT64_FORMAT, line->times);
	if (line->queue[0])
		appendStringInfo(text, " queue=%s", line->queue);
	appendStringInfo(text, "%s\n", line->at_end ? " at=end" : "");
}

/* Finds the first line that counts now, and counts it. */
static bool
find_fault(const char *directory, const char *queue, const char *callback, bool at_end, FaultLine *found)
{
	char		buffer[FAULTS_MAX + 1];
	StringInfoData rest;
	char	   *save = NULL;
	bool		hit = false;
	bool		changed = false;
	ssize_t		length;
	int			fd = testqueue_open_file(psprintf("%s/faults", directory), O_RDWR);

	if (fd < 0)
		return false;
	testqueue_lock(fd);
	length = pread(fd, buffer, FAULTS_MAX, 0);
	buffer[Max(length, 0)] = '\0';
	initStringInfo(&rest);
	for (char *text = strtok_r(buffer, "\n", &save); text; text = strtok_r(NULL, "\n", &save))
	{
		FaultLine	line;

		parse_line(text, &line);
		if (!hit && strcmp(line.callback, callback) == 0 && line.at_end == at_end &&
			(line.queue[0] == '\0' || (queue != NULL && strcmp(line.queue, queue) == 0)))
		{
			if (line.after > 0)
			{
				line.after--;
				changed = true;
			}
			else
			{
				hit = true;
				*found = line;
				if (line.times > 0 && --line.times == 0)
				{
					changed = true;
					continue;
				}
				changed |= line.times > 0;
			}
		}
		append_line(&rest, &line);
	}
	if (changed && (ftruncate(fd, 0) != 0 || pwrite(fd, rest.data, rest.len, 0) != rest.len))
		elog(ERROR, "could not write the faults: %m");
	CloseTransientFile(fd);
	pfree(rest.data);
	return hit;
}

static bool
fault_is_there(const char *directory, const char *queue, const FaultLine *line)
{
	FaultLine	again;

	return find_fault(directory, queue, line->callback, line->at_end, &again) && strcmp(again.action, line->action) == 0;
}

/* Waits ms (-1: until the line is gone), but timeout at most (-1: no limit); false: that was over first. */
static bool
take_long(const char *directory, const char *queue, const FaultLine *line, int64 ms, int timeout)
{
	TimestampTz start = GetCurrentTimestamp();

	for (;;)
	{
		int64		passed = (GetCurrentTimestamp() - start) / 1000;

		if (ms >= 0 ? passed >= ms : !fault_is_there(directory, queue, line))
			return true;
		if (timeout >= 0 && passed >= timeout)
			return false;
		/* the latch is the caller's: it would be wrong to reset it here */
		(void) WaitLatch(NULL, WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, 10, PG_WAIT_EXTENSION);
		CHECK_FOR_INTERRUPTS();
	}
}

static int
sqlstate_of(const FaultLine *line, int otherwise)
{
	const char *s = line->sqlstate;

	if (strlen(s) != 5)
		return otherwise;
	/* none of the connector's own: 00000 */
	return strcmp(s, "00000") == 0 ? 0 : MAKE_SQLSTATE(s[0], s[1], s[2], s[3], s[4]);
}

static void
log_call(const char *directory, const char *queue, const char *callback)
{
	TimestampTz now = GetCurrentTimestamp();
	char	   *line = psprintf(INT64_FORMAT " %d %s %s\n", now, MyProcPid, callback, queue ? queue : "-");
	int			fd = testqueue_open_state(directory, "calls", O_WRONLY | O_CREAT | O_APPEND);

	if (write(fd, line, strlen(line)) != (ssize_t) strlen(line))
		elog(ERROR, "could not write the calls: %m");
	CloseTransientFile(fd);
	pfree(line);
}

/*
 * testqueue_fault does what the faults ask for at this call.  What only the callback itself can do is in wanted.
 */
PenstockOutcome
testqueue_fault(const PenstockQueue *queue, const char *callback, bool at_end, int timeout,
				TestQueueFault *wanted, PenstockFault *fault)
{
	const PenstockConnectorApi *api = penstock_connector_api();
	const char *directory = api->option(queue, "directory");
	const char *name = OidIsValid(queue->relid) ? api->option(queue, "queue") : NULL;
	FaultLine	line;

	if (wanted)
		wanted->action[0] = '\0';
	if (!at_end && api->option_bool(queue, "log_calls"))
		log_call(directory, name, callback);
	if (!find_fault(directory, name, callback, at_end, &line))
		return PENSTOCK_OK;

	if (strcmp(line.action, "error") == 0)
		ereport(ERROR,
				(errcode(sqlstate_of(&line, ERRCODE_INTERNAL_ERROR)),
				 errmsg("test fault in %s", callback)));
	if (strcmp(line.action, "crash") == 0)
		kill(MyProcPid, SIGKILL);
	if (strcmp(line.action, "slow") == 0 || strcmp(line.action, "hang") == 0)
	{
		if (!take_long(directory, name, &line, line.action[0] == 's' ? line.ms : -1, timeout))
			return penstock_fault(fault, PENSTOCK_AWAY, ERRCODE_FDW_UNABLE_TO_ESTABLISH_CONNECTION,
								  "broker does not answer to %s within %d ms", callback, timeout);
		return PENSTOCK_OK;
	}
	if (strcmp(line.action, "away") == 0 && fault)
		return penstock_fault(fault, PENSTOCK_AWAY, sqlstate_of(&line, ERRCODE_FDW_UNABLE_TO_ESTABLISH_CONNECTION),
							  "broker is away in %s", callback);
	if (strcmp(line.action, "refused") == 0 && fault)
		return penstock_fault(fault, PENSTOCK_REFUSED, sqlstate_of(&line, ERRCODE_INSUFFICIENT_PRIVILEGE),
							  "broker refuses %s", callback);
	if (wanted)
	{
		strlcpy(wanted->action, line.action, sizeof(wanted->action));
		wanted->k = line.k;
	}
	return PENSTOCK_OK;
}

/*
 * testqueue_fault_simple: the same in a callback that cannot fail but by an error.
 */
void
testqueue_fault_simple(const PenstockQueue *queue, const char *callback)
{
	(void) testqueue_fault(queue, callback, false, -1, NULL, NULL);
}
