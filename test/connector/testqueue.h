/*
 * testqueue.h
 *	  The broker of the tests: a directory with a file for each queue and partition.
 *
 * A file DIRECTORY/QUEUE.PARTITION begins with two int64: where its last whole record ends, and how many records
 * there are.  What lies behind the end was torn by a crash and is written over.  A record is an int32 with its length
 * and what testqueue_pack puts there.  A record's offset is its number, from 0.  Writers hold an exclusive lock (flock) on the
 * file, so do readers of its first bytes.
 *
 * DIRECTORY/state/QUEUE.PARTITION has one byte for each record of a queue with acknowledgements: TESTQUEUE_NEW, ...
 */
#ifndef TESTQUEUE_H
#define TESTQUEUE_H

#include "connector/connector.h"
#include "lib/stringinfo.h"

#define TESTQUEUE_NEW			0	/* not yet given to anybody */
#define TESTQUEUE_DELIVERED		1
#define TESTQUEUE_ACKNOWLEDGED	2

#define TESTQUEUE_HEADER		16
#define TESTQUEUE_MAX_RECORD	(512 * 1024 * 1024)
#define TESTQUEUE_MAX_HEADERS	64

/* What the first bytes of a file say. */
typedef struct TestQueueEnd
{
	int64		bytes;
	int64		records;
} TestQueueEnd;

/* ---- broker.c ---- */

extern const char *testqueue_directory(const char *server_name);
extern char *testqueue_path(const char *directory, const char *name, const char *partition);
extern bool testqueue_name_ok(const char *name);
extern List *testqueue_partitions(const char *directory, const char *queue);	/* of char *, sorted */
extern List *testqueue_queues(const char *directory);

extern int	testqueue_open_file(const char *path, int flags);
extern void testqueue_lock(int fd);
extern void testqueue_read_end(int fd, TestQueueEnd *end);	/* of a locked file */
extern int64 testqueue_append(const char *directory, const char *queue, const char *partition,
							  const char *records, int64 length, int64 count);
extern int64 testqueue_find(int fd, const TestQueueEnd *end, int64 number);

extern void testqueue_pack(StringInfo record, const PenstockMessage *message);
extern void testqueue_unpack(const char *record, int length, PenstockMessage *message, PenstockProperty *headers);

extern int	testqueue_open_state(const char *directory, const char *name, int flags);
extern char *testqueue_read_states(const char *directory, const char *queue, const char *partition, int64 *count);
extern void testqueue_write_states(const char *directory, const char *queue, const char *partition,
								   const char *states, int64 from, int64 count);

/* ---- fault.c ---- */

typedef struct TestQueueFault
{
	char		action[32];		/* "" if there is none */
	int64		k;
} TestQueueFault;

/* What a test wants to happen at the beginning (end) of a callback; see fault.c. */
extern PenstockOutcome testqueue_fault(const PenstockQueue *queue, const char *callback, bool at_end,
									   int timeout, TestQueueFault *wanted, PenstockFault *fault);
extern void testqueue_fault_simple(const PenstockQueue *queue, const char *callback);

/* ---- consumer.c, producer.c: the callbacks ---- */

extern PenstockConsumer *testqueue_open(const PenstockQueue *queue, const PenstockStart *start,
										PenstockOutcome *outcome, PenstockFault *fault);
extern PenstockOutcome testqueue_fetch(PenstockConsumer *consumer, PenstockBatch *batch, PenstockFault *fault);
extern const PenstockPlace *testqueue_first_places(PenstockConsumer *consumer, int *n);
extern void testqueue_wait_for(PenstockConsumer *consumer, PenstockWaitFor *wait);
extern PenstockOutcome testqueue_acknowledge(PenstockConsumer *consumer, PenstockFault *fault);
extern int64 testqueue_lag(PenstockConsumer *consumer);
extern void testqueue_close(PenstockConsumer *consumer);
extern void testqueue_decode(PenstockConsumer *consumer, const PenstockMessage *message,
							 TupleDesc desc, Datum *values, bool *isnull);

extern PenstockProducer *testqueue_open_producer(const PenstockQueue *queue, PenstockOutcome *outcome, PenstockFault *fault);
extern PenstockOutcome testqueue_send(PenstockProducer *producer, const PenstockMessage *message, int timeout, PenstockFault *fault);
extern PenstockOutcome testqueue_flush(PenstockProducer *producer, int timeout, PenstockFault *fault);
extern void testqueue_abort(PenstockProducer *producer);
extern void testqueue_close_producer(PenstockProducer *producer);

extern bool testqueue_may_enter(const PenstockQueue *queue, PenstockOutcome *outcome, PenstockFault *fault);

#endif							/* TESTQUEUE_H */
