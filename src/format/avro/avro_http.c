/*
 * avro_http.c
 *	  One HTTP request to a schema registry, bounded in time and length.
 *
 * libcurl's multi interface is driven in short steps, so that the request can be cancelled between them; its callback puts
 * bytes into memory of malloc's and never raises an error.  The thread that it may start to resolve a name has all
 * signals blocked.  The answer is not trusted, and no error has a credential in it.
 */
#include "postgres.h"

#include <curl/curl.h>

#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "portability/instr_time.h"

#include "format/avro/avro.h"

#define MAX_ANSWER		(4 * AVRO_MAX_SCHEMA_TEXT)
#define STEP			100		/* ms */
#define MEDIA_TYPE		"application/vnd.schemaregistry.v1+json"

typedef struct AvroTransfer
{
	CURL	   *easy;
	CURLM	   *multi;
	struct curl_slist *headers;
	char	   *answer;			/* malloc'd */
	size_t		length;
	size_t		room;
} AvroTransfer;

/* libcurl's callback: whatever it does not take ends the transfer with an error. */
static size_t
take(char *bytes, size_t size, size_t n, void *arg)
{
	AvroTransfer *transfer = arg;
	size_t		length = size * n;

	if (length > MAX_ANSWER - transfer->length)
		return 0;
	if (transfer->length + length + 1 > transfer->room)
	{
		size_t		room = Max(transfer->room * 2, transfer->length + length + 1);
		char	   *larger = realloc(transfer->answer, room);

		if (larger == NULL)
			return 0;
		transfer->answer = larger;
		transfer->room = room;
	}
	memcpy(transfer->answer + transfer->length, bytes, length);
	transfer->length += length;
	transfer->answer[transfer->length] = '\0';
	return length;
}

pg_noreturn static void
no_answer(const AvroRegistry *registry, const char *detail)
{
	ereport(ERROR,
			(errcode(ERRCODE_CONNECTION_FAILURE),
			 errmsg("schema registry at \"%s\" does not answer", registry->url),
			 errdetail("%s.", detail)));
}

static void
set_options(AvroTransfer *transfer, const AvroRegistry *registry, const char *url, const char *body)
{
	CURL	   *easy = transfer->easy;

	transfer->headers = curl_slist_append(NULL, "Accept: " MEDIA_TYPE);
	transfer->headers = curl_slist_append(transfer->headers, "Content-Type: " MEDIA_TYPE);
	curl_easy_setopt(easy, CURLOPT_HTTPHEADER, transfer->headers);
	curl_easy_setopt(easy, CURLOPT_URL, url);
	curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, "http,https");
	curl_easy_setopt(easy, CURLOPT_PROXY, "");
	curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
	curl_easy_setopt(easy, CURLOPT_TIMEOUT_MS, (long) registry->timeout);
	curl_easy_setopt(easy, CURLOPT_CONNECTTIMEOUT_MS, (long) registry->timeout);
	curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, take);
	curl_easy_setopt(easy, CURLOPT_WRITEDATA, transfer);
	curl_easy_setopt(easy, CURLOPT_USERAGENT, "penstock/" PENSTOCK_VERSION);
	if (registry->ca != NULL)
		curl_easy_setopt(easy, CURLOPT_CAINFO, registry->ca);
	if (registry->user != NULL)
	{
		curl_easy_setopt(easy, CURLOPT_HTTPAUTH, (long) CURLAUTH_BASIC);
		curl_easy_setopt(easy, CURLOPT_USERNAME, registry->user);
		curl_easy_setopt(easy, CURLOPT_PASSWORD, registry->password ? registry->password : "");
	}
	if (body != NULL)
		curl_easy_setopt(easy, CURLOPT_POSTFIELDS, body);
}

/* Lets the transfer go on until it is done; returns libcurl's verdict. */
static CURLcode
perform(AvroTransfer *transfer)
{
	for (;;)
	{
		CURLMsg    *message;
		sigset_t	signals;
		int			running;
		int			left;

		CHECK_FOR_INTERRUPTS();
		penstock_connector_block_signals(&signals);
		(void) curl_multi_perform(transfer->multi, &running);
		penstock_connector_restore_signals(&signals);
		while ((message = curl_multi_info_read(transfer->multi, &left)) != NULL)
			if (message->msg == CURLMSG_DONE)
				return message->data.result;
		if (running == 0)
			return CURLE_FAILED_INIT;
		(void) curl_multi_poll(transfer->multi, NULL, 0, STEP, NULL);
	}
}

static void
transfer_open(AvroTransfer *transfer)
{
	memset(transfer, 0, sizeof(*transfer));
	transfer->easy = curl_easy_init();
	transfer->multi = curl_multi_init();
	if (transfer->easy == NULL || transfer->multi == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OUT_OF_MEMORY),
				 errmsg("out of memory")));
}

static void
transfer_close(AvroTransfer *transfer)
{
	if (transfer->multi != NULL && transfer->easy != NULL)
		curl_multi_remove_handle(transfer->multi, transfer->easy);
	curl_easy_cleanup(transfer->easy);
	curl_multi_cleanup(transfer->multi);
	curl_slist_free_all(transfer->headers);
	free(transfer->answer);
}

/*
 * penstock_avro_http(registry, path, body, answer): GET, or POST if there is a body.  Raises ERRCODE_CONNECTION_FAILURE if there is no
 * answer, and what a user cancels.
 */
void
penstock_avro_http(const AvroRegistry *registry, const char *path, const char *body, AvroAnswer *answer)
{
	AvroTransfer transfer;
	const char *url = psprintf("%s%s", registry->url, path);
	CURLcode	code = CURLE_OK;
	long		status = 0;

	PG_TRY();
	{
		transfer_open(&transfer);
		set_options(&transfer, registry, url, body);
		curl_multi_add_handle(transfer.multi, transfer.easy);
		code = perform(&transfer);
		curl_easy_getinfo(transfer.easy, CURLINFO_RESPONSE_CODE, &status);
		answer->body = transfer.answer ? pstrdup(transfer.answer) : "";
	}
	PG_FINALLY();
	{
		transfer_close(&transfer);
	}
	PG_END_TRY();
	answer->status = (int) status;
	if (code == CURLE_WRITE_ERROR)
		no_answer(registry, psprintf("Its answer is longer than %d bytes", MAX_ANSWER));
	if (code != CURLE_OK)
		no_answer(registry, curl_easy_strerror(code));
}

/*
 * penstock_avro_url_escape(text): as a part of a path; in the current context.
 */
char *
penstock_avro_url_escape(const char *text)
{
	StringInfoData out;

	initStringInfo(&out);
	for (; *text != '\0'; text++)
	{
		unsigned char c = (unsigned char) *text;

		if ((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || strchr("-_.~", c) != NULL)
			appendStringInfoChar(&out, c);
		else
			appendStringInfo(&out, "%%%02X", c);
	}
	return out.data;
}
