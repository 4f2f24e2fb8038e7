/*
 * broker.c
 *	  Files of the tests' broker; their layout stands in testqueue.h.
 */
#include "postgres.h"

#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "commands/defrem.h"
#include "foreign/foreign.h"
#include "storage/fd.h"

#include "testqueue.h"

#define SCAN_BUFFER		(256 * 1024)

/*
 * testqueue_directory returns the directory of a server.
 */
const char *
testqueue_directory(const char *server_name)
{
	ForeignServer *server = GetForeignServerByName(server_name, false);
	ListCell   *lc;

	foreach(lc, server->options)
	{
		DefElem    *option = lfirst_node(DefElem, lc);

		if (strcmp(option->defname, "directory") == 0)
			return defGetString(option);
	}
	ereport(ERROR,
			(errcode(ERRCODE_FDW_INVALID_OPTION_NAME),
			 errmsg("server \"%s\" has no directory", server_name)));
}

/*
 * testqueue_name_ok tells whether a queue can have this name: it becomes part of a file's.
 */
bool
testqueue_name_ok(const char *name)
{
	return name[0] != '\0' && strlen(name) < 64 &&
		strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-") == strlen(name);
}

char *
testqueue_path(const char *directory, const char *name, const char *partition)
{
	return psprintf("%s/%s.%s", directory, name, partition);
}

static int
compare_names(const ListCell *a, const ListCell *b)
{
	return strcmp(lfirst(a), lfirst(b));
}

/* The names of files QUEUE.PARTITION: partitions of a queue, or (NULL) queues. */
static List *
list_names(const char *directory, const char *queue)
{
	DIR		   *dir = AllocateDir(directory);
	struct dirent *entry;
	List	   *names = NIL;

	while ((entry = ReadDir(dir, directory)) != NULL)
	{
		char	   *name = pstrdup(entry->d_name);
		char	   *dot = strchr(name, '.');

		if (dot == NULL || dot == name || !testqueue_name_ok(dot + 1))
			continue;
		*dot = '\0';
		if (queue == NULL)
			names = lappend(names, name);
		else if (strcmp(name, queue) == 0)
			names = lappend(names, dot + 1);
	}
	FreeDir(dir);
	list_sort(names, compare_names);
	return names;
}

List *
testqueue_partitions(const char *directory, const char *queue)
{
	return list_names(directory, queue);
}

/*
 * testqueue_queues lists the queues of a directory, each once.
 */
List *
testqueue_queues(const char *directory)
{
	List	   *names = list_names(directory, NULL);
	List	   *queues = NIL;
	ListCell   *lc;

	foreach(lc, names)
	{
		if (queues == NIL || strcmp(llast(queues), lfirst(lc)) != 0)
			queues = lappend(queues, lfirst(lc));
	}
	return queues;
}

/*
 * testqueue_open_file opens a file for as long as the transaction lasts; -1 if there is none.
 */
int
testqueue_open_file(const char *path, int flags)
{
	int			fd = OpenTransientFile(path, flags | PG_BINARY);

	if (fd < 0 && errno != ENOENT)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not open file \"%s\": %m", path)));
	return fd;
}

/*
 * testqueue_lock waits for the file; its holders never keep it long.
 */
void
testqueue_lock(int fd)
{
	while (flock(fd, LOCK_EX) != 0)
	{
		if (errno != EINTR)
			ereport(ERROR,
					(errcode_for_file_access(),
					 errmsg("could not lock a file: %m")));
	}
}

static void
read_fully(int fd, char *buffer, int64 length, int64 at)
{
	while (length > 0)
	{
		ssize_t		n = pread(fd, buffer, length, at);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			ereport(ERROR,
					(errcode_for_file_access(),
					 errmsg("could not read a queue's file: %m")));
		buffer += n;
		length -= n;
		at += n;
	}
}

static void
write_fully(int fd, const char *buffer, int64 length, int64 at)
{
	while (length > 0)
	{
		ssize_t		n = pwrite(fd, buffer, length, at);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			ereport(ERROR,
					(errcode_for_file_access(),
					 errmsg("could not write a queue's file: %m")));
		buffer += n;
		length -= n;
		at += n;
	}
}

void
testqueue_read_end(int fd, TestQueueEnd *end)
{
	struct stat status;

	if (fstat(fd, &status) == 0 && status.st_size >= TESTQUEUE_HEADER)
		read_fully(fd, (char *) end, TESTQUEUE_HEADER, 0);
	else
		*end = (TestQueueEnd) {.bytes = TESTQUEUE_HEADER, .records = 0};
}

/*
 * testqueue_append puts packed records behind those of a queue's partition: all or, if the process dies meanwhile,
 * none of them.  Returns the number of the first.
 */
int64
testqueue_append(const char *directory, const char *queue, const char *partition,
				 const char *records, int64 length, int64 count)
{
	int			fd = testqueue_open_file(testqueue_path(directory, queue, partition), O_RDWR | O_CREAT);
	TestQueueEnd end;
	int64		first;

	testqueue_lock(fd);
	testqueue_read_end(fd, &end);
	first = end.records;
	write_fully(fd, records, length, end.bytes);
	end.bytes += length;
	end.records += count;
	write_fully(fd, (char *) &end, TESTQUEUE_HEADER, 0);
	CloseTransientFile(fd);
	return first;
}

/*
 * testqueue_find returns where a record begins, or (as for number = records) where the next one will.
 */
int64
testqueue_find(int fd, const TestQueueEnd *end, int64 number)
{
	char	   *buffer = palloc(SCAN_BUFFER);
	int64		at = TESTQUEUE_HEADER;
	int64		have_from = 0;
	int64		have_to = 0;

	for (; number > 0; number--)
	{
		int32		length;

		if (at + (int64) sizeof(length) > have_to)
		{
			have_from = at;
			have_to = Min(at + SCAN_BUFFER, end->bytes);
			if (have_to < at + (int64) sizeof(length))
				elog(ERROR, "a queue's file has fewer records than it says");
			read_fully(fd, buffer, have_to - have_from, have_from);
		}
		memcpy(&length, buffer + (at - have_from), sizeof(length));
		if (length <= 0)
			elog(ERROR, "a queue's file is damaged");
		at += length;
	}
	pfree(buffer);
	return at;
}

static void
pack_bytes(StringInfo record, const char *bytes, int32 length)
{
	if (bytes == NULL)
		length = -1;
	appendBinaryStringInfo(record, (char *) &length, sizeof(length));
	if (length > 0)
		appendBinaryStringInfo(record, bytes, length);
}

/*
 * testqueue_pack appends the record of a message.
 */
void
testqueue_pack(StringInfo record, const PenstockMessage *message)
{
	int			start = record->len;
	int32		length = 0;

	appendBinaryStringInfo(record, (char *) &length, sizeof(length));
	pack_bytes(record, message->payload, message->length);
	pack_bytes(record, message->key, message->key_length);
	pack_bytes(record, message->id, message->id_length);
	appendBinaryStringInfo(record, (char *) &message->timestamp, sizeof(TimestampTz));
	appendBinaryStringInfo(record, (char *) &message->nheaders, sizeof(int));
	for (int i = 0; i < message->nheaders; i++)
	{
		pack_bytes(record, message->headers[i].name, strlen(message->headers[i].name) + 1);
		pack_bytes(record, message->headers[i].value, message->headers[i].length);
	}
	length = record->len - start;
	memcpy(record->data + start, &length, sizeof(length));
}

static void
unpack(const char **at, const char *end, void *to, int length)
{
	if (end - *at < length)
		elog(ERROR, "a queue's record is damaged");
	memcpy(to, *at, length);
	*at += length;
}

static const char *
unpack_bytes(const char **at, const char *end, int *length)
{
	int32		n;
	const char *bytes;

	unpack(at, end, &n, sizeof(n));
	*length = Max(n, 0);
	if (n < 0)
		return NULL;
	if (end - *at < n)
		elog(ERROR, "a queue's record is damaged");
	bytes = *at;
	*at += n;
	return bytes;
}

/*
 * testqueue_unpack fills what a record says of a message; pointers go into the record.  There is room for
 * TESTQUEUE_MAX_HEADERS headers.
 */
void
testqueue_unpack(const char *record, int length, PenstockMessage *message, PenstockProperty *headers)
{
	const char *at = record + sizeof(int32);
	const char *end = record + length;

	memset(message, 0, sizeof(PenstockMessage));
	message->payload = unpack_bytes(&at, end, &message->length);
	message->key = unpack_bytes(&at, end, &message->key_length);
	message->id = unpack_bytes(&at, end, &message->id_length);
	unpack(&at, end, &message->timestamp, sizeof(TimestampTz));
	unpack(&at, end, &message->nheaders, sizeof(int));
	if (message->nheaders > TESTQUEUE_MAX_HEADERS)
		elog(ERROR, "a queue's record is damaged");
	for (int i = 0; i < message->nheaders; i++)
	{
		int			name_length;

		headers[i].name = unpack_bytes(&at, end, &name_length);
		headers[i].value = unpack_bytes(&at, end, &headers[i].length);
	}
	message->headers = headers;
}

/*
 * testqueue_open_state opens a file that nobody who watches the directory gets to know of.
 */
int
testqueue_open_state(const char *directory, const char *name, int flags)
{
	if ((flags & O_CREAT) && MakePGDirectory(psprintf("%s/state", directory)) != 0 && errno != EEXIST)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not make a directory in \"%s\": %m", directory)));
	return testqueue_open_file(psprintf("%s/state/%s", directory, name), flags);
}

/*
 * testqueue_read_states returns what has become of each record of a queue with acknowledgements, as far as
 * anything has.
 */
char *
testqueue_read_states(const char *directory, const char *queue, const char *partition, int64 *count)
{
	int			fd = testqueue_open_state(directory, psprintf("%s.%s", queue, partition), O_RDONLY);
	struct stat status;
	char	   *states;

	*count = 0;
	if (fd < 0)
		return NULL;
	if (fstat(fd, &status) != 0)
		elog(ERROR, "could not stat a queue's state: %m");
	states = palloc(status.st_size + 1);
	read_fully(fd, states, status.st_size, 0);
	CloseTransientFile(fd);
	*count = status.st_size;
	return states;
}

/*
 * testqueue_write_states keeps states[from .. from + count - 1].
 */
void
testqueue_write_states(const char *directory, const char *queue, const char *partition,
					   const char *states, int64 from, int64 count)
{
	int			fd;

	if (count <= 0)
		return;
	fd = testqueue_open_state(directory, psprintf("%s.%s", queue, partition), O_WRONLY | O_CREAT);
	write_fully(fd, states + from, count, from);
	CloseTransientFile(fd);
}
