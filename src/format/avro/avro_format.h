/*
 * avro_format.h
 *	  The format's state, and what makes rows of messages and messages of rows.
 */
#ifndef PENSTOCK_AVRO_FORMAT_H
#define PENSTOCK_AVRO_FORMAT_H

#include "format/avro/avro.h"

/* What is done with a value: it goes to columns, is taken apart, or both, one after the other. */
typedef struct AvroPlanNode AvroPlanNode;
struct AvroPlanNode
{
	const AvroNode *node;
	int			ntargets;
	AvroTarget **targets;
	int		   *attnos;			/* of the targets' columns, from 0 */
	bool		has_parts;
	int			nmembers;		/* of a record's fields or a union's branches; NULL: passed over */
	AvroPlanNode **members;
	AvroPlanNode **missing;		/* of AvroNode.missing */
	PenstockPath *path;			/* of an array or map: which items */
	AvroPlanNode **items;		/* for each of the path's elements, or keys */
};

/* For the messages of one schema. */
typedef struct AvroPlan
{
	struct AvroPlan *next;
	int			id;
	MemoryContext context;		/* in which it is, with its schema */
	AvroPlanNode *root;
} AvroPlan;

typedef struct AvroState
{
	const PenstockFormatInfo *info;
	MemoryContext context;
	MemoryContext scratch;		/* reset with each message */
	const char *schema_text;	/* options */
	AvroSchema *schema;
	AvroRegistry *registry;
	const char *subject;
	bool		may_register;
	PenstockPath *root;
	MemoryContext plans_context;
	AvroPlan   *plans;			/* the one used last first */
	int			nplans;
	AvroSchema *writer;			/* what is written, NULL until there is something to write */
	int			writer_id;
	bool		is_checked;		/* every column has its field in it */
	AvroTarget **columns;		/* by index into info->columns */
} AvroState;

extern const PenstockFormat penstock_format_avro;

/* ---- avro_row.c ---- */

extern void penstock_avro_check_fields(AvroState *state, AvroSchema *schema, PenstockPath *path);
/* In the current context. */
extern AvroPlanNode *penstock_avro_plan_node(AvroState *state, const AvroNode *node, PenstockPath *path);
extern void penstock_avro_run(AvroReader *reader, AvroPlanNode *plan, Datum *values, bool *isnull);

/* ---- avro_write_row.c ---- */

extern void penstock_avro_begin_writing(AvroState *state);
extern void penstock_avro_write_row(AvroState *state, const Datum *values, const bool *isnull, StringInfo out);

#endif							/* PENSTOCK_AVRO_FORMAT_H */
