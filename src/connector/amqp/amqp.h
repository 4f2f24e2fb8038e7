/*
 * amqp.h
 *	  What the files of the AMQP 1.0 connector share.
 */
#ifndef PENSTOCK_AMQP_H
#define PENSTOCK_AMQP_H

#include <proton/connection_driver.h>
#include <proton/delivery.h>
#include <proton/link.h>
#include <proton/ssl.h>
#include <proton/types.h>

#include "connector/connector.h"
#include "lib/stringinfo.h"

/* ---- a connection with its one link (amqp_connection.c, amqp_socket.c) ---- */

/* What is done with each delivery that the broker tells about; in the driver's event loop: no ereport. */
typedef void (*AmqpOnDelivery) (void *arg, pn_delivery_t *delivery);

typedef struct AmqpConnection
{
	const PenstockQueue *queue;
	char	   *host;
	int			port;
	const char *address;		/* of the link, for messages; NULL before there is one */
	const char *username;		/* to be kept out of texts; NULL: none */
	const char *password;
	int			fd;				/* -1: none */
	bool		fd_counted;		/* the server knows of fd */
	bool		driving;		/* driver is initialized */
	bool		tls;
	pn_connection_driver_t driver;
	pn_ssl_domain_t *ssl_domain;
	pn_session_t *session;
	pn_link_t  *link;
	AmqpOnDelivery on_delivery;
	void	   *on_delivery_arg;
	int64		last_read;		/* when the socket was last looked at, ms */
	int64		next_tick;		/* when the driver wants to be called again, ms; 0: never */
	MemoryContextCallback cleanup;
} AmqpConnection;

extern AmqpConnection *penstock_amqp_connect(const PenstockQueue *queue, const char *container,
											 PenstockOutcome *outcome, PenstockFault *fault);
extern PenstockOutcome penstock_amqp_attach(AmqpConnection *connection, const char *address, PenstockFault *fault);
extern bool penstock_amqp_dead(AmqpConnection *connection);
extern PenstockOutcome penstock_amqp_why(AmqpConnection *connection, PenstockFault *fault);
extern void penstock_amqp_wait_for(AmqpConnection *connection, PenstockWaitFor *wait);
extern void penstock_amqp_close(AmqpConnection *connection, bool orderly, bool keep_link);
extern PenstockOutcome penstock_amqp_condition(AmqpConnection *connection, pn_condition_t *condition,
											   PenstockFault *fault);
extern void penstock_amqp_clean_text(AmqpConnection *connection, char *text);

extern int64 penstock_amqp_now(void);
extern int	penstock_amqp_open_socket(AmqpConnection *connection, int timeout,
									  PenstockOutcome *outcome, PenstockFault *fault);
extern bool penstock_amqp_pump(AmqpConnection *connection);
extern void penstock_amqp_push(AmqpConnection *connection);
extern void penstock_amqp_sleep(AmqpConnection *connection, long timeout);
extern void penstock_amqp_drop(void *connection);

/* ---- values as AMQP encodes them (amqp_value.c, amqp_text.c) ---- */

typedef enum AmqpType
{
	AMQP_NULL,
	AMQP_BOOL,
	AMQP_UNSIGNED,
	AMQP_SIGNED,
	AMQP_FLOAT,
	AMQP_DOUBLE,
	AMQP_DECIMAL,
	AMQP_CHAR,
	AMQP_TIMESTAMP,
	AMQP_UUID,
	AMQP_BINARY,
	AMQP_STRING,
	AMQP_SYMBOL,
	AMQP_LIST,
	AMQP_MAP,
	AMQP_ARRAY
} AmqpType;

typedef struct AmqpReader
{
	const unsigned char *at;
	const unsigned char *end;
} AmqpReader;

typedef struct AmqpValue
{
	AmqpType	type;
	uint64		descriptor;		/* its code, if it is described by one; otherwise 0 */
	union
	{
		bool		truth;
		uint64		uns;
		int64		sig;
		double		real;
	}			u;
	const char *bytes;			/* BINARY, STRING, SYMBOL, UUID, DECIMAL */
	uint32		length;
	uint32		count;			/* LIST, MAP (keys and values), ARRAY: elements in inside */
	AmqpReader	inside;
	unsigned char element;		/* ARRAY: constructor of its elements */
} AmqpValue;

extern bool penstock_amqp_next(AmqpReader *reader, AmqpValue *value);
extern bool penstock_amqp_next_of(AmqpReader *reader, unsigned char code, AmqpValue *value);
extern bool penstock_amqp_append_text(StringInfo text, const AmqpValue *value);
extern bool penstock_amqp_append_elements(StringInfo json, const AmqpValue *value, int depth);
extern bool penstock_amqp_append_json(StringInfo json, const AmqpValue *value, int depth);

/* ---- messages (amqp_decode.c, amqp_encode.c) ---- */

extern const char *const penstock_amqp_metadata[];

typedef struct AmqpDecoder AmqpDecoder;

extern AmqpDecoder *penstock_amqp_decoder(const PenstockQueue *queue);
extern void penstock_amqp_decode(AmqpDecoder *decoder, const char *bytes, size_t length, PenstockMessage *message);

typedef struct AmqpEncoder AmqpEncoder;

extern AmqpEncoder *penstock_amqp_encoder(const PenstockQueue *queue);
extern bool penstock_amqp_encode(AmqpEncoder *encoder, const PenstockMessage *message, pn_bytes_t *encoded,
								 PenstockFault *fault);

/* ---- consumers, producers, import ---- */

extern PenstockConsumer *penstock_amqp_consumer_open(const PenstockQueue *queue, const PenstockStart *start,
													 PenstockOutcome *outcome, PenstockFault *fault);
extern PenstockOutcome penstock_amqp_fetch(PenstockConsumer *consumer, PenstockBatch *batch, PenstockFault *fault);
extern void penstock_amqp_consumer_wait_for(PenstockConsumer *consumer, PenstockWaitFor *wait);
extern PenstockOutcome penstock_amqp_acknowledge(PenstockConsumer *consumer, PenstockFault *fault);
extern void penstock_amqp_consumer_close(PenstockConsumer *consumer);

extern PenstockProducer *penstock_amqp_producer_open(const PenstockQueue *queue, PenstockOutcome *outcome,
													 PenstockFault *fault);
extern PenstockOutcome penstock_amqp_send(PenstockProducer *producer, const PenstockMessage *message, int timeout,
										  PenstockFault *fault);
extern PenstockOutcome penstock_amqp_flush(PenstockProducer *producer, int timeout, PenstockFault *fault);
extern void penstock_amqp_abort(PenstockProducer *producer);
extern void penstock_amqp_producer_close(PenstockProducer *producer);

extern List *penstock_amqp_import(const PenstockQueue *server, ImportForeignSchemaStmt *stmt,
								  PenstockOutcome *outcome, PenstockFault *fault);

#endif							/* PENSTOCK_AMQP_H */
