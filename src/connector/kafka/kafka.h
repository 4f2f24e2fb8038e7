/*
 * kafka.h
 *	  What the files of the Kafka connector share.
 */
#ifndef PENSTOCK_KAFKA_H
#define PENSTOCK_KAFKA_H

#include <librdkafka/rdkafka.h>

#include "connector/connector.h"

struct KafkaClient;

/*
 * The opaque of the library's configuration.  Allocated with malloc: the library's threads may outlive the server's memory context.
 */
typedef struct KafkaOpaque
{
	struct KafkaClient *client; /* NULL while the library is being ended */
	int			certificate_error;	/* X509_V_ERR_... of the broker's certificate; written by the library's threads */
} KafkaOpaque;

/*
 * A client of librdkafka and what is known about its state.  The callbacks that the library calls when it is polled write here and nowhere
 * else: values, no errors.
 */
typedef struct KafkaClient
{
	rd_kafka_t *rk;
	KafkaOpaque *opaque;
	const PenstockQueue *queue;
	const char *topic;			/* NULL for IMPORT FOREIGN SCHEMA */
	bool		survives_outage;	/* a producer: the library sends again by itself, so nothing is wrong yet */
	bool		groupless;		/* errors about a consumer group do not matter */
	bool		offset_lost;	/* the broker does not have the offset of some partition */
	PenstockOutcome outcome;	/* PENSTOCK_OK: nothing is wrong */
	PenstockFault fault;		/* what is */
	char		reason[400];	/* what the library last said about a connection */
	MemoryContextCallback cleanup;	/* destroys rk when the context goes */
} KafkaClient;

typedef struct KafkaSetting
{
	const char *name;			/* as the library calls it */
	const char *option;			/* ours; NULL: value is given */
	const char *value;
} KafkaSetting;

/* kafka_client.c: making and ending a client, waiting for the broker */
extern bool penstock_kafka_client_open(KafkaClient *client, rd_kafka_type_t type, const PenstockQueue *queue,
									   const KafkaSetting *settings, void (*callbacks) (rd_kafka_conf_t *),
									   PenstockFault *fault);
extern const struct rd_kafka_metadata *penstock_kafka_metadata(KafkaClient *client, rd_kafka_topic_t *topic,
															   PenstockFault *fault);
extern int64 penstock_kafka_request_timeout(const PenstockQueue *queue);
extern void penstock_kafka_client_end_with_context(KafkaClient *client);
extern void penstock_kafka_client_close(KafkaClient *client);

/* kafka_fault.c: what the library's error codes mean */
extern PenstockOutcome penstock_kafka_fault(const KafkaClient *client, PenstockFault *fault,
											rd_kafka_resp_err_t error, const char *reason);
extern bool penstock_kafka_is_lasting(rd_kafka_resp_err_t error);
extern const char *penstock_kafka_certificate_error(int code);
extern void penstock_kafka_detail(PenstockFault *fault, const char *detail);
extern void penstock_kafka_hint(PenstockFault *fault, const char *hint);

/* kafka_consumer.c */

typedef struct KafkaPartition
{
	char		name[12];
	bool		ours;			/* assigned to this consumer */
	int64		next;			/* offset of the next message to give; -1: not known */
	int64		safe;			/* next as of the last batch that the database has committed */
	int64		durable;		/* the same, known to be on disk, or stored before; -1: none */
	int64		committed;		/* what the group was told last; -1: nothing */
	int64		high;			/* end of the partition as last seen; -1: not known */
	int64		end;			/* when browsing: where to end */
	bool		done;			/* when browsing: has got there */
} KafkaPartition;

#define KAFKA_FETCH 500			/* messages taken from the library at once */

struct PenstockConsumer
{
	KafkaClient client;
	MemoryContext context;
	const PenstockConnectorApi *api;	/* looked up once */
	const char *group;			/* NULL: partitions are chosen here */
	const PenstockRange *browse;	/* NULL: a pipe; else */
	PenstockRange range;		/* this */
	rd_kafka_topic_t *topic;
	rd_kafka_queue_t *queue;	/* where the library puts messages */
	int			wake[2];		/* pipe: the library writes a byte when the queue is no longer empty */
	int			fds_reserved;
	int			npartitions;
	KafkaPartition *partitions; /* by number */
	rd_kafka_message_t *messages[KAFKA_FETCH];	/* taken from the library, */
	int			nmessages;		/* so many, */
	size_t		most_held;		/* most messages that waited in the library since the last nudge, */
	double		nudged_at;		/* and its time, ms */
	int			given;			/* of which so many have been dealt with */
	bool		has_begun;		/* was read before: a partition without a position is a new one */
	bool		more;			/* fetch ended because the batch is full */
	TimestampTz refreshed_at;	/* when partitions were last counted */
	int			refresh;		/* ms between that */
	PenstockProperty *headers;	/* room for a message's */
	int			max_headers;
	PenstockProperty properties[2][2];	/* by kind of timestamp */
	/* a rebalance that the library asks for: copied by its callback, done outside of it */
	rd_kafka_topic_partition_list_t *rebalance;
	rd_kafka_resp_err_t rebalance_kind;
};

extern void penstock_kafka_partitions(PenstockConsumer *consumer, int npartitions);

/* kafka_position.c: where to read from */
extern bool penstock_kafka_list_offsets(KafkaClient *client, rd_kafka_topic_partition_list_t *list, int64 time,
										PenstockFault *fault);
extern bool penstock_kafka_start(PenstockConsumer *consumer, rd_kafka_topic_partition_list_t *list,
								 PenstockOutcome *outcome, PenstockFault *fault);
extern bool penstock_kafka_browse(PenstockConsumer *consumer, rd_kafka_topic_partition_list_t *list,
								  PenstockOutcome *outcome, PenstockFault *fault);
extern void penstock_kafka_check_start(const char *start);
extern int64 penstock_kafka_time(TimestampTz timestamp);
extern TimestampTz penstock_kafka_timestamp(int64 time);

/* kafka_group.c: consumer groups */
extern void penstock_kafka_rebalance_cb(rd_kafka_t *rk, rd_kafka_resp_err_t error,
										rd_kafka_topic_partition_list_t *list, void *opaque);
extern bool penstock_kafka_rebalance(PenstockConsumer *consumer, PenstockBatch *batch,
									 PenstockOutcome *outcome, PenstockFault *fault);
extern void penstock_kafka_commit(PenstockConsumer *consumer, bool wait);
extern void penstock_kafka_leave(PenstockConsumer *consumer);

/* the connector's functions */
extern PenstockConsumer *penstock_kafka_open(const PenstockQueue *queue, const PenstockStart *start,
											 PenstockOutcome *outcome, PenstockFault *fault);
extern PenstockOutcome penstock_kafka_fetch(PenstockConsumer *consumer, PenstockBatch *batch, PenstockFault *fault);
extern void penstock_kafka_wait_for(PenstockConsumer *consumer, PenstockWaitFor *wait);
extern const PenstockPlace *penstock_kafka_first_places(PenstockConsumer *consumer, int *n);
extern PenstockOutcome penstock_kafka_acknowledge(PenstockConsumer *consumer, PenstockFault *fault);
extern int64 penstock_kafka_lag(PenstockConsumer *consumer);
extern void penstock_kafka_close(PenstockConsumer *consumer);

extern PenstockProducer *penstock_kafka_open_producer(const PenstockQueue *queue, PenstockOutcome *outcome,
													  PenstockFault *fault);
extern PenstockOutcome penstock_kafka_send(PenstockProducer *producer, const PenstockMessage *message, int timeout,
										   PenstockFault *fault);
extern PenstockOutcome penstock_kafka_flush(PenstockProducer *producer, int timeout, PenstockFault *fault);
extern void penstock_kafka_abort(PenstockProducer *producer);
extern void penstock_kafka_close_producer(PenstockProducer *producer);

extern List *penstock_kafka_import(const PenstockQueue *server, ImportForeignSchemaStmt *stmt,
								   PenstockOutcome *outcome, PenstockFault *fault);

#endif							/* PENSTOCK_KAFKA_H */
