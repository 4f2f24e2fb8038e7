/*
 * rabbitmq_tls.c
 *	  TLS: librabbitmq brings OpenSSL; here its context is told what to check, and what it found is kept.
 *
 * The library itself only says that a certificate was not accepted.  A verify callback in its context records
 * the reason ("certificate has expired"), and host names and addresses are checked by OpenSSL as well.
 */
#include "postgres.h"

#include <arpa/inet.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <unistd.h>

#include "connector/rabbitmq/rabbitmq.h"

/* Where distributions keep the certificates that the whole machine trusts. */
static const char *const machine_ca_files[] = {
	"/etc/ssl/certs/ca-certificates.crt",
	"/etc/pki/tls/certs/ca-bundle.crt",
	"/etc/ssl/ca-bundle.pem",
	"/etc/ssl/cert.pem"
};

/* Called by OpenSSL: keeps the reason and lets the handshake fail. */
static int
keep_reason(int good, X509_STORE_CTX *store)
{
	if (!good)
	{
		SSL		   *ssl = X509_STORE_CTX_get_ex_data(store, SSL_get_ex_data_X509_STORE_CTX_idx());
		RabbitLink *link = SSL_CTX_get_app_data(SSL_get_SSL_CTX(ssl));

		link->tls_error = X509_STORE_CTX_get_error(store);
	}
	return good;
}

/* OpenSSL would ask for the password of a key on the terminal. */
static int
no_password(char *buffer, int size, int writing, void *data)
{
	return -1;
}

static const char *
ca_file(const PenstockQueue *queue)
{
	const char *file = penstock_connector_api()->option(queue, "ssl_ca_file");

	for (int i = 0; file == NULL && i < lengthof(machine_ca_files); i++)
		if (access(machine_ca_files[i], R_OK) == 0)
			file = machine_ca_files[i];
	return file;
}

static PenstockOutcome
file_fault(const char *option, const char *file, PenstockFault *fault)
{
	unsigned long code = ERR_peek_last_error();
	const char *reason = code ? ERR_reason_error_string(code) : NULL;

	penstock_fault(fault, PENSTOCK_REFUSED, ERRCODE_CONFIG_FILE_ERROR, "could not use file \"%s\" of option \"%s\"",
				   file, option);
	if (reason != NULL)
		snprintf(fault->detail, sizeof(fault->detail), "OpenSSL says: %s.", reason);
	return PENSTOCK_REFUSED;
}

static void
check_host(SSL_CTX *context, const char *host)
{
	X509_VERIFY_PARAM *param = SSL_CTX_get0_param(context);
	struct in6_addr address;

	if (inet_pton(AF_INET, host, &address) == 1 || inet_pton(AF_INET6, host, &address) == 1)
		X509_VERIFY_PARAM_set1_ip_asc(param, host);
	else
		X509_VERIFY_PARAM_set1_host(param, host, 0);
}

PenstockOutcome
penstock_rabbitmq_tls_setup(RabbitLink *link, amqp_socket_t *socket, PenstockFault *fault)
{
	const PenstockConnectorApi *api = penstock_connector_api();
	SSL_CTX    *context = amqp_ssl_socket_get_context(socket);
	const char *verify = api->option(link->queue, "ssl_verify");
	const char *certificate = api->option(link->queue, "ssl_cert_file");
	const char *key = api->option(link->queue, "ssl_key_file");
	const char *ca = ca_file(link->queue);

	/* what is checked is checked by the context, before the password is sent */
	amqp_ssl_socket_set_verify_peer(socket, 0);
	amqp_ssl_socket_set_verify_hostname(socket, 0);
	SSL_CTX_set_app_data(context, link);
	SSL_CTX_set_default_passwd_cb(context, no_password);
	SSL_CTX_set_min_proto_version(context, TLS1_2_VERSION);
	ERR_clear_error();
	if (strcmp(verify, "none") != 0)
	{
		if (ca == NULL)
			return penstock_fault(fault, PENSTOCK_REFUSED, ERRCODE_FDW_OPTION_NAME_NOT_FOUND,
								  "no file of certificates that the broker's may be signed with: set the option \"ssl_ca_file\"");
		if (amqp_ssl_socket_set_cacert(socket, ca) != AMQP_STATUS_OK)
			return file_fault("ssl_ca_file", ca, fault);
		SSL_CTX_set_verify(context, SSL_VERIFY_PEER, keep_reason);
		if (strcmp(verify, "full") == 0)
			check_host(context, link->host);
	}
	if (certificate != NULL && key != NULL)
	{
		if (SSL_CTX_use_certificate_chain_file(context, certificate) != 1)
			return file_fault("ssl_cert_file", certificate, fault);
		if (SSL_CTX_use_PrivateKey_file(context, key, SSL_FILETYPE_PEM) != 1 ||
			SSL_CTX_check_private_key(context) != 1)
			return file_fault("ssl_key_file", key, fault);
	}
	return PENSTOCK_OK;
}

const char *
penstock_rabbitmq_tls_reason(const RabbitLink *link)
{
	return X509_verify_cert_error_string(link->tls_error);
}
