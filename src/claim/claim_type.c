/*
 * claim_type.c
 *	  The type penstock.claim: text, binary and JSON forms, order, hash.
 */
#include "postgres.h"

#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "libpq/pqformat.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/numeric.h"
#include "utils/syscache.h"

#include "claim/claim.h"
#include "compat/compat.h"

PG_FUNCTION_INFO_V1(penstock_claim_in);
PG_FUNCTION_INFO_V1(penstock_claim_out);
PG_FUNCTION_INFO_V1(penstock_claim_recv);
PG_FUNCTION_INFO_V1(penstock_claim_send);
PG_FUNCTION_INFO_V1(penstock_claim_to_json);
PG_FUNCTION_INFO_V1(penstock_claim_to_jsonb);
PG_FUNCTION_INFO_V1(penstock_claim_from_jsonb);
PG_FUNCTION_INFO_V1(penstock_claim_get_size);
PG_FUNCTION_INFO_V1(penstock_claim_eq);
PG_FUNCTION_INFO_V1(penstock_claim_ne);
PG_FUNCTION_INFO_V1(penstock_claim_lt);
PG_FUNCTION_INFO_V1(penstock_claim_le);
PG_FUNCTION_INFO_V1(penstock_claim_gt);
PG_FUNCTION_INFO_V1(penstock_claim_ge);
PG_FUNCTION_INFO_V1(penstock_claim_cmp);
PG_FUNCTION_INFO_V1(penstock_claim_hash);
PG_FUNCTION_INFO_V1(penstock_claim_hash_extended);
PG_FUNCTION_INFO_V1(penstock_claim_read_in);
PG_FUNCTION_INFO_V1(penstock_claim_read_out);
PG_FUNCTION_INFO_V1(penstock_claim_role_in);
PG_FUNCTION_INFO_V1(penstock_claim_role_out);

#define ALGORITHM "sha256:"
#define ALGORITHM_LENGTH ((int) sizeof(ALGORITHM) - 1)

StaticAssertDecl(sizeof(PenstockClaim) == 40, "a claim has 40 bytes");

int64
penstock_claim_size(const PenstockClaim *claim)
{
	int64		size = 0;

	for (int i = 0; i < lengthof(claim->size); i++)
		size = size << 8 | claim->size[i];
	return size;
}

void
penstock_claim_make(PenstockClaim *claim, const uint8 *digest, int64 size)
{
	memcpy(claim->digest, digest, PENSTOCK_CLAIM_DIGEST);
	claim->version = PENSTOCK_CLAIM_VERSION;
	for (int i = lengthof(claim->size) - 1; i >= 0; i--, size >>= 8)
		claim->size[i] = size & 0xff;
}

char *
penstock_claim_text(const PenstockClaim *claim)
{
	char		digits[2 * PENSTOCK_CLAIM_DIGEST + 1];

	digits[hex_encode((const char *) claim->digest, PENSTOCK_CLAIM_DIGEST, digits)] = '\0';
	return psprintf(ALGORITHM "%s:" INT64_FORMAT, digits, penstock_claim_size(claim));
}

Oid
penstock_claim_type(void)
{
	Oid			namespace_oid = get_namespace_oid("penstock", true);

	if (!OidIsValid(namespace_oid))
		return InvalidOid;
	return GetSysCacheOid2(TYPENAMENSP, Anum_pg_type_oid, CStringGetDatum("claim"), ObjectIdGetDatum(namespace_oid));
}

pg_noreturn static void
refuse(const char *text, const char *why)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_TEXT_REPRESENTATION),
			 errmsg("invalid input syntax for type %s: \"%s\"", "penstock.claim", text),
			 errdetail("%s", why),
			 errhint("A claim is \"sha256:\", 64 hexadecimal digits, \":\" and the payload's size.")));
}

static int
hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	if (c >= 'A' && c <= 'F')
		return c - 'A' + 10;
	return -1;
}

static PenstockClaim *
parse(const char *text)
{
	PenstockClaim *claim = palloc(sizeof(PenstockClaim));
	uint8		digest[PENSTOCK_CLAIM_DIGEST];
	const char *at = text + ALGORITHM_LENGTH;
	int64		size = 0;

	if (strncmp(text, ALGORITHM, ALGORITHM_LENGTH) != 0)
		refuse(text, "It does not begin with the name of the digest.");
	for (int i = 0; i < PENSTOCK_CLAIM_DIGEST; i++, at += 2)
	{
		int			high = hex_digit(at[0]);
		int			low = high < 0 ? -1 : hex_digit(at[1]);

		if (low < 0)
			refuse(text, "The digest has something else than 64 hexadecimal digits.");
		digest[i] = high << 4 | low;
	}
	if (*at++ != ':')
		refuse(text, "The digest is not followed by \":\".");
	if (*at < '0' || *at > '9' || (*at == '0' && at[1] != '\0'))
		refuse(text, "The size is not a number.");
	for (; *at >= '0' && *at <= '9'; at++)
	{
		size = size * 10 + (*at - '0');
		if (size > PENSTOCK_CLAIM_MAX_SIZE)
			refuse(text, "The size is more than 4 TB.");
	}
	if (*at != '\0')
		refuse(text, "The size is followed by something else.");
	penstock_claim_make(claim, digest, size);
	return claim;
}

/*
 * penstock_claim_in(cstring) → claim; also takes the JSON form, which is what a ticket in a JSON document is.
 * ERRCODE_INVALID_TEXT_REPRESENTATION.
 */
Datum
penstock_claim_in(PG_FUNCTION_ARGS)
{
	char	   *text = PG_GETARG_CSTRING(0);

	if (text[0] == '{')
		PG_RETURN_DATUM(DirectFunctionCall1(penstock_claim_from_jsonb, DirectFunctionCall1(jsonb_in, CStringGetDatum(text))));
	PG_RETURN_CLAIM(parse(text));
}

Datum
penstock_claim_out(PG_FUNCTION_ARGS)
{
	PG_RETURN_CSTRING(penstock_claim_text(PG_GETARG_CLAIM(0)));
}

/*
 * penstock_claim_recv: 32 bytes of digest, the version, 7 bytes of size.  ERRCODE_INVALID_BINARY_REPRESENTATION.
 */
Datum
penstock_claim_recv(PG_FUNCTION_ARGS)
{
	StringInfo	buf = (StringInfo) PG_GETARG_POINTER(0);
	PenstockClaim *claim = palloc(sizeof(PenstockClaim));

	memcpy(claim, pq_getmsgbytes(buf, sizeof(PenstockClaim)), sizeof(PenstockClaim));
	if (claim->version != PENSTOCK_CLAIM_VERSION || penstock_claim_size(claim) > PENSTOCK_CLAIM_MAX_SIZE)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_BINARY_REPRESENTATION),
				 errmsg("invalid binary value for type %s", "penstock.claim"),
				 errdetail("Its version is %d and its size " INT64_FORMAT ".", claim->version, penstock_claim_size(claim))));
	PG_RETURN_CLAIM(claim);
}

Datum
penstock_claim_send(PG_FUNCTION_ARGS)
{
	StringInfoData buf;

	pq_begintypsend(&buf);
	pq_sendbytes(&buf, (const char *) PG_GETARG_CLAIM(0), sizeof(PenstockClaim));
	PG_RETURN_BYTEA_P(pq_endtypsend(&buf));
}

/* ---- JSON: {"claim": "sha256:...", "size": 123} ---- */

/* json_build_object and row_to_json come here by the cast. */
Datum
penstock_claim_to_json(PG_FUNCTION_ARGS)
{
	PenstockClaim *claim = PG_GETARG_CLAIM(0);

	PG_RETURN_TEXT_P(cstring_to_text(psprintf("{\"claim\": \"%s\", \"size\": " INT64_FORMAT "}", penstock_claim_text(claim),
											  penstock_claim_size(claim))));
}

Datum
penstock_claim_to_jsonb(PG_FUNCTION_ARGS)
{
	PG_RETURN_DATUM(DirectFunctionCall1(jsonb_in, CStringGetDatum(text_to_cstring(DatumGetTextPP(
																						DirectFunctionCall1(penstock_claim_to_json, PG_GETARG_DATUM(0)))))));
}

/*
 * penstock_claim_from_jsonb(jsonb) → claim: of the object above, or of the text alone.  ERRCODE_INVALID_TEXT_REPRESENTATION.
 */
Datum
penstock_claim_from_jsonb(PG_FUNCTION_ARGS)
{
	Jsonb	   *json = PG_GETARG_JSONB_P(0);
	JsonbValue	scalar;
	JsonbValue *value = NULL;

	if (JB_ROOT_IS_OBJECT(json))
		value = getKeyJsonValueFromContainer(&json->root, "claim", 5, &scalar);
	else if (JB_ROOT_IS_SCALAR(json) && JsonbExtractScalar(&json->root, &scalar))
		value = &scalar;
	if (value == NULL || value->type != jbvString)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_TEXT_REPRESENTATION),
				 errmsg("invalid JSON form of a claim"),
				 errhint("A claim is an object with the key \"claim\", or a string.")));
	PG_RETURN_CLAIM(parse(pnstrdup(value->val.string.val, value->val.string.len)));
}

/* penstock.claim_size(claim) → bigint */
Datum
penstock_claim_get_size(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT64(penstock_claim_size(PG_GETARG_CLAIM(0)));
}

/* ---- order and hash ---- */

static int
compare(FunctionCallInfo fcinfo)
{
	return memcmp(PG_GETARG_CLAIM(0), PG_GETARG_CLAIM(1), sizeof(PenstockClaim));
}

#define COMPARISON(name, op) \
Datum \
penstock_claim_##name(PG_FUNCTION_ARGS) \
{ \
	PG_RETURN_BOOL(compare(fcinfo) op 0); \
}

COMPARISON(eq, ==)
COMPARISON(ne, !=)
COMPARISON(lt, <)
COMPARISON(le, <=)
COMPARISON(gt, >)
COMPARISON(ge, >=)

Datum
penstock_claim_cmp(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT32(compare(fcinfo));
}

Datum
penstock_claim_hash(PG_FUNCTION_ARGS)
{
	return hash_any((unsigned char *) PG_GETARG_CLAIM(0), sizeof(PenstockClaim));
}

Datum
penstock_claim_hash_extended(PG_FUNCTION_ARGS)
{
	return hash_any_extended((unsigned char *) PG_GETARG_CLAIM(0), sizeof(PenstockClaim), PG_GETARG_INT64(1));
}

/* ---- claim_read, see claim_access.c: has no values that a user could give ---- */

Datum
penstock_claim_read_in(PG_FUNCTION_ARGS)
{
	ereport(ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("cannot accept a value of type %s", "penstock.claim_read")));
	PG_RETURN_NULL();
}

Datum
penstock_claim_read_out(PG_FUNCTION_ARGS)
{
	PG_RETURN_CSTRING(text_to_cstring(PG_GETARG_TEXT_PP(0)));
}

/* ---- claim_role: the column of penstock.claim_owner; regrole, but a role that is not there is nobody instead of an error ---- */

Datum
penstock_claim_role_in(PG_FUNCTION_ARGS)
{
	PG_RETURN_OID(get_role_oid(PG_GETARG_CSTRING(0), true));
}

Datum
penstock_claim_role_out(PG_FUNCTION_ARGS)
{
	char	   *name = OidIsValid(PG_GETARG_OID(0)) ? GetUserNameFromId(PG_GETARG_OID(0), true) : NULL;

	PG_RETURN_CSTRING(name ? name : pstrdup(""));
}
