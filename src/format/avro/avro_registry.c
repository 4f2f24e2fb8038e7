/*
 * avro_registry.c
 *	  A schema registry's answers, kept for the whole process.
 *
 * A schema never changes under its id, so it is kept until there are too many.  What may change is asked for again
 * after a while: that an id is not known, and which schema of a subject is the newest.  After a registry
 * did not answer, the same is said for a second without asking it.
 */
#include "postgres.h"

#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/json.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"
#include "utils/numeric.h"
#include "utils/timestamp.h"

#include "compat/compat_json.h"
#include "format/avro/avro.h"

#define MAX_ENTRIES		500
#define MAX_BYTES		(32 * 1024 * 1024)
#define MAX_REFERENCES	100
#define UNKNOWN_FOR		10000	/* ms that "not found" is believed */
#define LATEST_FOR		60000	/* ms that a subject's newest schema is */
#define SILENT_FOR		1000	/* ms after a registry has not answered */
#define MAX_REASON		200		/* bytes of its own error message */

/* An answer that is kept. */
typedef struct AvroEntry
{
	struct AvroEntry *next;
	const char *question;		/* registry, user and request */
	TimestampTz asked_at;
	int			keep;			/* ms; 0: for good */
	int			id;
	List	   *texts;			/* NIL: not found */
} AvroEntry;

/* All in one context, which is emptied when there is too much in it. */
static struct
{
	MemoryContext context;
	AvroEntry  *entries;
	int			n;
}			cache;

/* ---- the cache ---- */

static const char *
question_of(const AvroRegistry *registry, const char *request)
{
	return psprintf("%u %s %s", registry->userid, registry->url, request);
}

static AvroEntry *
find(const char *question)
{
	for (AvroEntry *entry = cache.entries; entry != NULL; entry = entry->next)
		if (strcmp(entry->question, question) == 0 &&
			(entry->keep == 0 || !TimestampDifferenceExceeds(entry->asked_at, GetCurrentTimestamp(), entry->keep)))
			return entry;
	return NULL;
}

static List *
copy_texts(List *texts)
{
	List	   *copy = NIL;
	ListCell   *lc;

	foreach(lc, texts)
		copy = lappend(copy, pstrdup(lfirst(lc)));
	return copy;
}

static void
keep(const char *question, List *texts, int id, int ms)
{
	MemoryContext old;
	AvroEntry  *entry = cache.entries;

	if (cache.context == NULL)
		cache.context = AllocSetContextCreate(TopMemoryContext, "penstock avro schemas", ALLOCSET_DEFAULT_SIZES);
	while (entry != NULL && strcmp(entry->question, question) != 0)
		entry = entry->next;
	if (entry == NULL && (cache.n >= MAX_ENTRIES || MemoryContextMemAllocated(cache.context, true) > MAX_BYTES))
	{
		MemoryContextReset(cache.context);
		cache.entries = NULL;
		cache.n = 0;
	}
	old = MemoryContextSwitchTo(cache.context);
	texts = copy_texts(texts);
	if (entry == NULL)
	{
		entry = palloc0(sizeof(AvroEntry));
		entry->question = pstrdup(question);
		entry->next = cache.entries;
		cache.entries = entry;
		cache.n++;
	}
	else
		list_free_deep(entry->texts);
	entry->texts = texts;
	entry->id = id;
	entry->keep = ms;
	entry->asked_at = GetCurrentTimestamp();
	MemoryContextSwitchTo(old);
}

/* ---- questions and answers ---- */

static JsonbValue *
attribute(const Jsonb *answer, const char *name)
{
	return answer && JB_ROOT_IS_OBJECT(answer) ?
		getKeyJsonValueFromContainer(unconstify(JsonbContainer *, &answer->root), name, strlen(name), NULL) : NULL;
}

static char *
text_attribute(const Jsonb *answer, const char *name)
{
	JsonbValue *value = attribute(answer, name);

	return value != NULL && value->type == jbvString ? pnstrdup(value->val.string.val, value->val.string.len) : NULL;
}

static bool
number_attribute(const Jsonb *answer, const char *name, int *result)
{
	JsonbValue *value = attribute(answer, name);
	Datum		number;

	if (value == NULL || value->type != jbvNumeric)
		return false;
	number = NumericGetDatum(value->val.numeric);
	if (!DatumGetBool(DirectFunctionCall2(numeric_ge, number, NumericGetDatum(int64_to_numeric(0)))) ||
		!DatumGetBool(DirectFunctionCall2(numeric_le, number, NumericGetDatum(int64_to_numeric(PG_INT32_MAX)))))
		return false;
	*result = DatumGetInt32(DirectFunctionCall1(numeric_int4, number));
	return true;
}

pg_noreturn static void
nonsense(const AvroRegistry *registry, const char *request)
{
	ereport(ERROR,
			(errcode(ERRCODE_PROTOCOL_VIOLATION),
			 errmsg("schema registry at \"%s\" gave no sensible answer", registry->url),
			 errdetail("The request was %s.", request)));
}

/* The answer as jsonb, NULL if it is none. */
static Jsonb *
parse_answer(const AvroAnswer *answer)
{
	int			length = strlen(answer->body);
	const char *text;
	JsonSemAction none = {0};

	if (pg_encoding_verifymbstr(PG_UTF8, answer->body, length) != length)
		return NULL;
	text = pg_any_to_server(answer->body, length, PG_UTF8);
	if (pg_parse_json(penstock_json_lex(text, strlen(text), true), &none) != JSON_SUCCESS)
		return NULL;
	return DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(text)));
}

pg_noreturn static void
refused(const AvroRegistry *registry, const AvroAnswer *answer, const Jsonb *parsed, const char *request)
{
	char	   *reason = text_attribute(parsed, "message");
	int			sqlstate = ERRCODE_PROTOCOL_VIOLATION;

	if (answer->status == 401 || answer->status == 403)
		sqlstate = ERRCODE_INVALID_AUTHORIZATION_SPECIFICATION;
	else if (answer->status == 409 || answer->status == 422)
		sqlstate = ERRCODE_FDW_ERROR;	/* a schema that it does not want */
	if (reason != NULL && strlen(reason) > MAX_REASON)
		reason[pg_mbcliplen(reason, strlen(reason), MAX_REASON)] = '\0';
	ereport(ERROR,
			(errcode(sqlstate),
			 errmsg("schema registry at \"%s\" refused a request with status %d", registry->url, answer->status),
			 reason ? errdetail("%s: %s", request, reason) : errdetail("The request was %s.", request)));
}

/* Is it the registry that does not find a subject, version or schema?  Any other server's 404 means that the URL is wrong. */
static bool
is_not_found(const Jsonb *answer)
{
	int			code;

	return number_attribute(answer, "error_code", &code) && code >= 40401 && code <= 40403;
}

/* Asks the registry; the answer as jsonb, NULL if what is asked for does not exist.  Anything else is an error. */
static Jsonb *
ask(const AvroRegistry *registry, const char *path, const char *body)
{
	const char *silent = question_of(registry, "silent");
	const char *request = psprintf("%s %s", body ? "POST" : "GET", path);
	AvroAnswer	answer;
	Jsonb	   *parsed;

	if (find(silent) != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_CONNECTION_FAILURE),
				 errmsg("schema registry at \"%s\" does not answer", registry->url),
				 errdetail("It did not a moment ago.")));
	PG_TRY();
	{
		penstock_avro_http(registry, path, body, &answer);
	}
	PG_CATCH();
	{
		if (geterrcode() == ERRCODE_CONNECTION_FAILURE)
			keep(silent, NIL, 0, SILENT_FOR);
		PG_RE_THROW();
	}
	PG_END_TRY();
	parsed = parse_answer(&answer);
	if (answer.status == 404 && is_not_found(parsed))
		return NULL;
	if (answer.status < 200 || answer.status >= 300)
		refused(registry, &answer, parsed, request);
	if (parsed == NULL || !JB_ROOT_IS_OBJECT(parsed))
		nonsense(registry, request);
	return parsed;
}

/* ---- schemas ---- */

static List *texts_of(const AvroRegistry *registry, const Jsonb *answer, const char *request, int *room);

/* Texts of a schema that another refers to, after those it refers to itself. */
static List *
texts_of_reference(const AvroRegistry *registry, JsonbValue *reference, const char *request, int *room)
{
	Jsonb	   *given;
	const char *subject;
	JsonbValue *version;
	const char *path;
	Jsonb	   *answer;

	if (reference->type != jbvBinary || --(*room) < 0)
		nonsense(registry, request);
	given = JsonbValueToJsonb(reference);
	subject = text_attribute(given, "subject");
	version = attribute(given, "version");
	if (subject == NULL || version == NULL || version->type != jbvNumeric)
		nonsense(registry, request);
	path = psprintf("/subjects/%s/versions/%s", penstock_avro_url_escape(subject),
					DatumGetCString(DirectFunctionCall1(numeric_out, NumericGetDatum(version->val.numeric))));
	answer = ask(registry, path, NULL);
	if (answer == NULL)
		nonsense(registry, psprintf("GET %s", path));
	return texts_of(registry, answer, psprintf("GET %s", path), room);
}

static List *
texts_of(const AvroRegistry *registry, const Jsonb *answer, const char *request, int *room)
{
	char	   *text = text_attribute(answer, "schema");
	char	   *type = text_attribute(answer, "schemaType");
	JsonbValue *references = attribute(answer, "references");
	List	   *texts = NIL;

	if (text == NULL)
		nonsense(registry, request);
	if (type != NULL && strcmp(type, "AVRO") != 0)
		ereport(ERROR,
				(errcode(ERRCODE_MOST_SPECIFIC_TYPE_MISMATCH),
				 errmsg("the schema registry's schema is not of type AVRO, but %s", type)));
	if (references != NULL && references->type == jbvBinary && JsonContainerIsArray(references->val.binary.data))
		for (int i = 0; i < JsonContainerSize(references->val.binary.data); i++)
		{
			JsonbValue *reference = getIthJsonbValueFromContainer(references->val.binary.data, i);
			List	   *more = texts_of_reference(registry, reference, request, room);
			ListCell   *lc;

			/* two of them may refer to the same */
			foreach(lc, more)
			{
				bool		known = false;
				ListCell   *other;

				foreach(other, texts)
					known |= strcmp(lfirst(other), lfirst(lc)) == 0;
				if (!known)
					texts = lappend(texts, lfirst(lc));
			}
		}
	return lappend(texts, text);
}

List *
penstock_avro_schema_of_id(const AvroRegistry *registry, int id)
{
	const char *path = psprintf("/schemas/ids/%d", id);
	const char *question = question_of(registry, path);
	AvroEntry  *entry = find(question);
	int			room = MAX_REFERENCES;
	List	   *texts = NIL;

	if (entry == NULL)
	{
		Jsonb	   *answer = ask(registry, path, NULL);

		if (answer != NULL)
			texts = texts_of(registry, answer, path, &room);
		keep(question, texts, id, answer ? 0 : UNKNOWN_FOR);
	}
	else
		texts = copy_texts(entry->texts);
	/* the message's fault, which names it */
	if (texts == NIL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_BINARY_REPRESENTATION),
				 errmsg("schema %d is not known to the schema registry at \"%s\"", id, registry->url)));
	return texts;
}

List *
penstock_avro_latest_schema(const AvroRegistry *registry, const char *subject, int *id)
{
	const char *path = psprintf("/subjects/%s/versions/latest", penstock_avro_url_escape(subject));
	const char *question = question_of(registry, path);
	AvroEntry  *entry = find(question);
	int			room = MAX_REFERENCES;
	List	   *texts;
	Jsonb	   *answer;

	if (entry != NULL)
	{
		*id = entry->id;
		return copy_texts(entry->texts);
	}
	answer = ask(registry, path, NULL);
	if (answer == NULL)
		return NIL;
	if (!number_attribute(answer, "id", id))
		nonsense(registry, path);
	texts = texts_of(registry, answer, path, &room);
	keep(question, texts, *id, LATEST_FOR);
	return texts;
}

int
penstock_avro_id_of_schema(const AvroRegistry *registry, const char *subject, const char *text, bool is_register)
{
	const char *path = psprintf("/subjects/%s%s", penstock_avro_url_escape(subject), is_register ? "/versions" : "");
	const char *question = question_of(registry, psprintf("%s %s", path, text));
	AvroEntry  *entry = find(question);
	StringInfoData body;
	char	   *utf8;
	Jsonb	   *answer;
	int			id;

	if (entry != NULL)
		return entry->id;
	initStringInfo(&body);
	appendStringInfoString(&body, "{\"schema\":");
	escape_json(&body, text);
	appendStringInfoChar(&body, '}');
	utf8 = pg_server_to_any(body.data, body.len, PG_UTF8);
	answer = ask(registry, path, utf8);
	if (answer == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("subject \"%s\" of the schema registry at \"%s\" does not have this schema", subject, registry->url),
				 is_register ? 0 : errhint("Register it, or set option \"schema_register\".")));
	if (!number_attribute(answer, "id", &id))
		nonsense(registry, path);
	keep(question, NIL, id, 0);
	return id;
}
