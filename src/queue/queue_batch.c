/*
 * queue_batch.c
 *	  Messages on their way into a transaction.
 */
#include "postgres.h"

#include "utils/memutils.h"

#include "queue/queue.h"

PenstockBatch *
penstock_batch_create(MemoryContext parent, int max_rows, int64 max_bytes)
{
	PenstockBatch *batch = MemoryContextAllocZero(parent, sizeof(PenstockBatch));

	batch->context = AllocSetContextCreate(parent, "penstock batch", ALLOCSET_DEFAULT_SIZES);
	batch->max_rows = max_rows;
	batch->max_bytes = max_bytes;
	return batch;
}

void
penstock_batch_reset(PenstockBatch *batch)
{
	MemoryContextReset(batch->context);
	batch->messages = NULL;
	batch->n = batch->room = 0;
	batch->bytes = 0;
}

MemoryContext
penstock_batch_context(PenstockBatch *batch)
{
	return batch->context;
}

int
penstock_batch_count(PenstockBatch *batch)
{
	return batch->n;
}

bool
penstock_batch_is_full(const PenstockBatch *batch)
{
	return batch->n >= batch->max_rows || batch->bytes >= batch->max_bytes;
}

static const char *
copy_bytes(const char *bytes, int length)
{
	char	   *copy;

	if (bytes == NULL)
		return NULL;
	copy = palloc((Size) length + 1);
	memcpy(copy, bytes, length);
	copy[length] = '\0';
	return copy;
}

static const PenstockProperty *
copy_properties(const PenstockProperty *from, int n)
{
	PenstockProperty *to;

	if (n == 0)
		return NULL;
	to = palloc(n * sizeof(PenstockProperty));
	for (int i = 0; i < n; i++)
	{
		to[i].name = pstrdup(from[i].name);
		to[i].value = copy_bytes(from[i].value, from[i].length);
		to[i].length = from[i].length;
	}
	return to;
}

static int64
size_of(const PenstockMessage *message)
{
	int64		size = sizeof(PenstockMessage) + message->length + message->key_length + message->id_length;

	for (int i = 0; i < message->nheaders; i++)
		size += message->headers[i].length + 64;
	for (int i = 0; i < message->nproperties; i++)
		size += message->properties[i].length + 64;
	return size;
}

static void
copy_message(PenstockMessage *to, const PenstockMessage *from)
{
	*to = *from;
	to->payload = copy_bytes(from->payload, from->length);
	to->key = copy_bytes(from->key, from->key_length);
	to->id = copy_bytes(from->id, from->id_length);
	to->headers = copy_properties(from->headers, from->nheaders);
	to->properties = copy_properties(from->properties, from->nproperties);
}

/*
 * penstock_batch_add appends a copy of the message; false: the batch is full now.
 */
bool
penstock_batch_add(PenstockBatch *batch, const PenstockMessage *message)
{
	MemoryContext old = MemoryContextSwitchTo(batch->context);
	PenstockMessage *copy;

	if (batch->n == batch->room)
	{
		int			room = Max(64, batch->room * 2);

		batch->messages = batch->messages ?
			repalloc_huge(batch->messages, room * sizeof(PenstockMessage)) :
			palloc(room * sizeof(PenstockMessage));
		batch->room = room;
	}
	copy = &batch->messages[batch->n];
	copy_message(copy, message);
	/* messages of one partition come in runs */
	if (message->partition != NULL && batch->n > 0 &&
		strcmp(copy[-1].partition, message->partition) == 0)
		copy->partition = copy[-1].partition;
	else
		copy->partition = pstrdup(message->partition ? message->partition : "");
	batch->n++;
	batch->bytes += size_of(message);
	MemoryContextSwitchTo(old);
	return !penstock_batch_is_full(batch);
}

/*
 * penstock_batch_drop takes the messages of a partition out again; what is left keeps its order.
 */
void
penstock_batch_drop(PenstockBatch *batch, const char *partition)
{
	int			kept = 0;

	for (int i = 0; i < batch->n; i++)
		if (strcmp(batch->messages[i].partition, partition) != 0)
			batch->messages[kept++] = batch->messages[i];
	batch->n = kept;
	batch->bytes = 0;
	for (int i = 0; i < kept; i++)
		batch->bytes += size_of(&batch->messages[i]);
}

/*
 * penstock_batch_places returns where each partition is read on after the batch.
 */
PenstockPlace *
penstock_batch_places(PenstockBatch *batch, int *n)
{
	MemoryContext old = MemoryContextSwitchTo(batch->context);
	PenstockPlace *places = NULL;
	int			room = 0;
	int			at = 0;

	*n = 0;
	for (int i = 0; i < batch->n; i++)
	{
		PenstockMessage *message = &batch->messages[i];

		/* mostly the one of the message before */
		if (at >= *n || strcmp(places[at].partition, message->partition) != 0)
			for (at = 0; at < *n; at++)
				if (strcmp(places[at].partition, message->partition) == 0)
					break;
		if (at == *n)
		{
			if (*n == room)
			{
				room = Max(8, room * 2);
				places = places ? repalloc(places, room * sizeof(PenstockPlace)) : palloc(room * sizeof(PenstockPlace));
			}
			(*n)++;
		}
		places[at].partition = message->partition;
		places[at].at = message->next_at;
		places[at].row = message->next_row;
	}
	MemoryContextSwitchTo(old);
	return places;
}
