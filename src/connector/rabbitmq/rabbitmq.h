/*
 * rabbitmq.h
 *	  What the files of this folder share with each other.
 */
#ifndef PENSTOCK_RABBITMQ_H
#define PENSTOCK_RABBITMQ_H

#include "connector/connector.h"
#include "lib/stringinfo.h"

/* since 0.12 the library's headers have a folder of their own */
#if __has_include(<rabbitmq-c/amqp.h>)
#include <rabbitmq-c/amqp.h>
#include <rabbitmq-c/framing.h>
#include <rabbitmq-c/ssl_socket.h>
#include <rabbitmq-c/tcp_socket.h>
#else
#include <amqp.h>
#include <amqp_framing.h>
#include <amqp_ssl_socket.h>
#include <amqp_tcp_socket.h>
#endif

/* The broker refuses longer names and short properties: a length byte precedes them. */
#define RABBITMQ_SHORT_STRING	255

#define RABBITMQ_CHANNEL		1	/* where messages go */
#define RABBITMQ_LAG_CHANNEL	2	/* asks how far a stream reaches */
#define RABBITMQ_PROBE_CHANNEL	3	/* the same, while one waits */

/* ---- rabbitmq.c ---- */

extern const PenstockConnector penstock_rabbitmq_connector;
extern const PenstockConnector penstock_rabbitmq_stream_connector;

/* Where a stream is read from when no position is known. */
typedef enum RabbitStartKind
{
	RABBITMQ_START_FIRST,
	RABBITMQ_START_LAST,
	RABBITMQ_START_NEXT,
	RABBITMQ_START_OFFSET,
	RABBITMQ_START_TIME
} RabbitStartKind;

typedef struct RabbitStart
{
	RabbitStartKind kind;
	int64		value;			/* an offset, or seconds since 1970 */
} RabbitStart;

/* The option start; raises ERRCODE_FDW_INVALID_ATTRIBUTE_VALUE. */
extern RabbitStart penstock_rabbitmq_start_parse(const char *text);

/* ---- rabbitmq_link.c: a connection with one open channel ---- */

typedef struct RabbitLink
{
	amqp_connection_state_t state;	/* NULL: closed */
	const PenstockQueue *queue;
	const char *host;
	int			port;
	int			tls_error;		/* X509_V_ERR_..., 0: the certificate is good */
	int			heartbeat;		/* seconds, as agreed with the broker; 0: none */
	int			timeout;		/* ms that a request may take */
} RabbitLink;

/*
 * Connects and opens RABBITMQ_CHANNEL; allocated in the current context, and closed with it at the latest.  NULL: a fault.
 */
extern RabbitLink *penstock_rabbitmq_link_open(const PenstockQueue *queue, PenstockOutcome *outcome, PenstockFault *fault);
extern void penstock_rabbitmq_link_close(RabbitLink *link);

/* One frame, if it is there: PENSTOCK_OK; PENSTOCK_END: none has arrived. */
extern PenstockOutcome penstock_rabbitmq_link_frame(RabbitLink *link, amqp_frame_t *frame, PenstockFault *fault);
/*
 * Sleeps until something arrives (or, with want_room, can be sent) or the time is up, whichever is first.  May raise an
 * error for an interrupt.
 */
extern void penstock_rabbitmq_link_wait(RabbitLink *link, long timeout, bool want_room);
/* Makes sure that a small frame can be sent without waiting; if not, the broker is as good as away. */
extern PenstockOutcome penstock_rabbitmq_link_has_room(RabbitLink *link, PenstockFault *fault);

/* What went wrong: the library's status, the answer to a request, a channel or connection closed by the broker. */
extern PenstockOutcome penstock_rabbitmq_status_fault(RabbitLink *link, int status, PenstockFault *fault);
extern PenstockOutcome penstock_rabbitmq_reply_fault(RabbitLink *link, PenstockFault *fault);
extern PenstockOutcome penstock_rabbitmq_close_fault(RabbitLink *link, const amqp_method_t *method, PenstockFault *fault);

/* Is there such a queue?  *count: messages that wait in it. */
extern PenstockOutcome penstock_rabbitmq_link_declared(RabbitLink *link, amqp_channel_t channel, const char *name,
											  int64 *count, PenstockFault *fault);

/* ---- rabbitmq_tls.c ---- */

/* Sets up the socket of link->state from the options. */
extern PenstockOutcome penstock_rabbitmq_tls_setup(RabbitLink *link, amqp_socket_t *socket, PenstockFault *fault);
/* Why the other side's certificate was not accepted. */
extern const char *penstock_rabbitmq_tls_reason(const RabbitLink *link);

/* ---- rabbitmq_message.c: from the broker's properties to ours and back ---- */

extern const char *const penstock_rabbitmq_metadata[];

/* A message on its way in, frame by frame. */
typedef struct RabbitDelivery
{
	MemoryContext context;		/* what was converted for this message */
	bool		wants_headers;
	bool		wants_properties;
	bool		begun;			/* its method has arrived */
	bool		has_header;
	bool		redelivered;
	uint64		tag;
	amqp_bytes_t exchange;
	amqp_bytes_t routing_key;
	const amqp_basic_properties_t *properties;
	uint64		body_size;
	uint64		body_got;
	const char *body;			/* NULL if empty */
	StringInfoData parts;		/* a body of more than one frame */
} RabbitDelivery;

extern void penstock_rabbitmq_delivery_init(RabbitDelivery *delivery);
/* Takes a frame; *complete: the message is whole. */
extern PenstockOutcome penstock_rabbitmq_delivery_take(RabbitDelivery *delivery, RabbitLink *link, const amqp_frame_t *frame,
											  bool *complete, PenstockFault *fault);
/* The message, good until the next one begins. */
extern void penstock_rabbitmq_delivery_message(RabbitDelivery *delivery, PenstockMessage *message);
/* The stream's offset, -1: the message is not from a stream. */
extern int64 penstock_rabbitmq_delivery_offset(const RabbitDelivery *delivery);
/* Ready for the next one: frees what the library keeps for the channel. */
extern void penstock_rabbitmq_delivery_done(RabbitDelivery *delivery, RabbitLink *link, amqp_channel_t channel);

/* Properties of a message to be sent, in the current context. */
extern PenstockOutcome penstock_rabbitmq_outgoing(const PenstockMessage *message, amqp_basic_properties_t *properties,
										 const char **exchange, const char **routing_key, PenstockFault *fault);

/* ---- rabbitmq_stream.c ---- */

/* How long to wait for the first message before a stream is taken for empty, in ms. */
#define RABBITMQ_EMPTY_TIMEOUT	1000

/* Begins to read: basic.consume with an offset. */
extern PenstockOutcome penstock_rabbitmq_stream_consume(RabbitLink *link, amqp_channel_t channel, const char *tag, RabbitStart start,
											   int prefetch, PenstockFault *fault);
/*
 * The smallest (first) or largest offset of the stream, -1: no message came in time.  Not on a link that has begun to consume.
 */
extern PenstockOutcome penstock_rabbitmq_stream_end(RabbitLink *link, bool first, long timeout, int64 *offset,
													PenstockFault *fault);
/*
 * Is the stream still the one of which all before wanted has been read?  A fault if not, or *wanted is put to where it now
 * begins.  *empty: it has no message, so that only the next one can tell.
 */
extern PenstockOutcome penstock_rabbitmq_stream_check_place(RabbitLink *link, int64 *wanted, bool *empty,
															PenstockFault *fault);
/* The first message came after the one that is wanted: has it been removed? */
extern PenstockOutcome penstock_rabbitmq_stream_check_gap(RabbitLink *link, int64 wanted, int64 came, PenstockFault *fault);

/* ---- rabbitmq_consume.c ---- */

extern PenstockConsumer *penstock_rabbitmq_consumer_open(const PenstockQueue *queue, const PenstockStart *start,
												PenstockOutcome *outcome, PenstockFault *fault);
extern PenstockOutcome penstock_rabbitmq_consumer_fetch(PenstockConsumer *consumer, PenstockBatch *batch, PenstockFault *fault);
extern void penstock_rabbitmq_consumer_wait_for(PenstockConsumer *consumer, PenstockWaitFor *wait);
extern PenstockOutcome penstock_rabbitmq_consumer_acknowledge(PenstockConsumer *consumer, PenstockFault *fault);
extern const PenstockPlace *penstock_rabbitmq_consumer_first_places(PenstockConsumer *consumer, int *n);
extern int64 penstock_rabbitmq_consumer_lag(PenstockConsumer *consumer);
extern uint64 penstock_rabbitmq_consumer_caught_up(PenstockConsumer *consumer, uint64 ticket);
extern void penstock_rabbitmq_consumer_close(PenstockConsumer *consumer);

/* ---- rabbitmq_produce.c ---- */

extern PenstockProducer *penstock_rabbitmq_producer_open(const PenstockQueue *queue, PenstockOutcome *outcome, PenstockFault *fault);
extern PenstockOutcome penstock_rabbitmq_producer_send(PenstockProducer *producer, const PenstockMessage *message, int timeout,
											  PenstockFault *fault);
extern PenstockOutcome penstock_rabbitmq_producer_flush(PenstockProducer *producer, int timeout, PenstockFault *fault);
extern void penstock_rabbitmq_producer_abort(PenstockProducer *producer);
extern void penstock_rabbitmq_producer_close(PenstockProducer *producer);

/* ---- rabbitmq_import.c ---- */

extern List *penstock_rabbitmq_import(const PenstockQueue *server, ImportForeignSchemaStmt *stmt, PenstockOutcome *outcome,
							 PenstockFault *fault);

#endif							/* PENSTOCK_RABBITMQ_H */
