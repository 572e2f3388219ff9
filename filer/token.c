/* Thread model: the lock protects the keys and the cached token. A caller signs with a copy of the
 * key, which it wipes, so that HMACs are computed side by side. */
#include "filer/token.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <inttypes.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <time.h>

#include "filer/base/base.h"
#include "filer/toml.h"

#define KEY_MAX 1024
#define LIFETIME_MAX_S 86400
#define MAC_BYTES 32
#define MS_PER_S 1000
#define ALGORITHM "HS256"
#define AGENT_CLAIM "kelp"
#define AGENT_VALUE "agent"
/* base64url of {"alg":"HS256","typ":"JWT"} */
#define HEADER_TEXT "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9"
/* base64url of n bytes, without padding */
#define BASE64_LEN(n) (((n)*4 + 2) / 3)

struct key {
	size_t len; /* 0: none */
	unsigned lifetime_s;
	unsigned char bytes[KEY_MAX];
};

struct keys {
	struct key filer;
	struct key volume;
};

struct token_source {
	char *path; /* immutable */
	/* Copies of "is there a key" that need no lock. */
	atomic_bool has_filer_key;
	atomic_bool has_volume_key;
	pthread_mutex_t lock; /* protects all below; innermost */
	struct keys keys;
	char filer_token[TOKEN_MAX]; /* "": none */
	int64_t filer_token_until_ms; /* CLOCK_MONOTONIC */
};

/* ---- Keys ---- */

static int set_key(struct key *key, const char *s, size_t len)
{
	if (len > sizeof(key->bytes))
		return -EINVAL;
	memcpy(key->bytes, s, len);
	key->len = len;
	return 0;
}

static int set_lifetime(struct key *key, int64_t seconds)
{
	if (seconds < 0)
		return -EINVAL;
	/* SeaweedFS takes 0 for "for ever"; a token that ends is as good for a reader. */
	if (seconds > 0)
		key->lifetime_s = (unsigned)min_u64((uint64_t)seconds, LIFETIME_MAX_S);
	return 0;
}

/* Keys of the file are not case-sensitive for SeaweedFS. */
static int take_setting(void *arg, const char *key, const struct toml_value *v)
{
	static const char key_name[] = "key";
	static const char lifetime_name[] = "expires_after_seconds";
	static const char filer_section[] = "jwt.filer_signing.read.";
	static const char volume_section[] = "jwt.signing.read.";
	struct keys *keys = arg;
	struct key *of;

	if (strncasecmp(key, filer_section, sizeof(filer_section) - 1) == 0) {
		of = &keys->filer;
		key += sizeof(filer_section) - 1;
	} else if (strncasecmp(key, volume_section, sizeof(volume_section) - 1) == 0) {
		of = &keys->volume;
		key += sizeof(volume_section) - 1;
	} else {
		return 0;
	}
	if (strcasecmp(key, key_name) == 0)
		return v->type == TOML_STRING ? set_key(of, v->string, v->string_len) : -EINVAL;
	if (strcasecmp(key, lifetime_name) == 0)
		return v->type == TOML_INTEGER ? set_lifetime(of, v->integer) : -EINVAL;
	return 0;
}

/* SeaweedFS takes an empty variable for one that is not set. */
static int read_variable(const char *name, struct key *key)
{
	const char *value = getenv(name);

	return value && value[0] ? set_key(key, value, strlen(value)) : 0;
}

static int read_keys(const char *path, struct keys *keys, unsigned *ret_line)
{
	keys->filer.lifetime_s = TOKEN_LIFETIME_S;
	keys->volume.lifetime_s = TOKEN_LIFETIME_S;
	int err = path ? toml_parse_file(path, take_setting, keys, ret_line) : 0;
	if (!err)
		err = read_variable("WEED_JWT_FILER_SIGNING_READ_KEY", &keys->filer);
	if (!err)
		err = read_variable("WEED_JWT_SIGNING_READ_KEY", &keys->volume);
	return err;
}

/* ---- Tokens ---- */

static void to_base64url(const unsigned char *p, size_t len, char *ret)
{
	EVP_EncodeBlock((unsigned char *)ret, p, (int)len);
	for (; *ret && *ret != '='; ret++) {
		if (*ret == '+')
			*ret = '-';
		else if (*ret == '/')
			*ret = '_';
	}
	*ret = '\0';
}

static int base64url_value(char c)
{
	static const char digits[] =
		"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
	const char *found = memchr(digits, c, sizeof(digits) - 1);

	return found ? (int)(found - digits) : -1;
}

/* ret has room for len bytes. Returns how many there are, or -EINVAL. */
static ssize_t from_base64url(const char *s, size_t len, unsigned char *ret)
{
	uint32_t bits = 0;
	unsigned n_bits = 0;
	size_t n = 0;

	if (len % 4 == 1)
		return -EINVAL;
	for (size_t i = 0; i < len; i++) {
		int value = base64url_value(s[i]);
		if (value < 0)
			return -EINVAL;
		bits = bits << 6 | (unsigned)value;
		n_bits += 6;
		if (n_bits >= 8) {
			n_bits -= 8;
			ret[n++] = (unsigned char)(bits >> n_bits);
		}
	}
	return (ssize_t)n;
}

static int hmac(const struct key *key, const char *text, size_t len, unsigned char mac[MAC_BYTES])
{
	unsigned mac_len = 0;

	if (!HMAC(EVP_sha256(), key->bytes, (int)key->len, (const unsigned char *)text, len, mac,
		  &mac_len) ||
	    mac_len != MAC_BYTES)
		return -EIO;
	return 0;
}

/* Writes header.claims.signature; claims are short. */
static int sign(const struct key *key, const char *claims, char buf[TOKEN_MAX])
{
	unsigned char mac[MAC_BYTES];
	size_t claims_len = strlen(claims);
	size_t text_len = strlen(HEADER_TEXT) + 1 + BASE64_LEN(claims_len);

	/* Padding and a NUL are written for a while. */
	if (text_len + 1 + BASE64_LEN(MAC_BYTES) + 4 > TOKEN_MAX)
		return -EINVAL;
	memcpy(buf, HEADER_TEXT ".", sizeof(HEADER_TEXT "."));
	to_base64url((const unsigned char *)claims, claims_len, buf + strlen(buf));
	int err = hmac(key, buf, text_len, mac);
	if (err) {
		buf[0] = '\0';
		return err;
	}
	buf[text_len] = '.';
	to_base64url(mac, MAC_BYTES, buf + text_len + 1);
	return 0;
}

/* False: there is none. */
static bool copy_volume_key(struct token_source *t, struct key *ret)
{
	const struct key *key = &t->keys.volume;

	if (!token_has_volume_key(t))
		return false;
	LOCK_SCOPE(&t->lock);
	ret->len = key->len;
	ret->lifetime_s = key->lifetime_s;
	memcpy(ret->bytes, key->bytes, key->len);
	return ret->len > 0;
}

static void wipe_key(struct key *key)
{
	OPENSSL_cleanse(key->bytes, key->len);
}

int token_for_filer(struct token_source *t, char buf[TOKEN_MAX])
{
	const struct key *key = &t->keys.filer;
	int64_t now = now_ms();

	LOCK_SCOPE(&t->lock);
	if (key->len > 0 && (!t->filer_token[0] || now >= t->filer_token_until_ms)) {
		char claims[64];
		snprintf(claims, sizeof(claims), "{\"exp\":%" PRId64 "}",
			 (int64_t)time(NULL) + key->lifetime_s);
		int err = sign(key, claims, t->filer_token);
		if (err)
			return err;
		t->filer_token_until_ms = now + (int64_t)key->lifetime_s * MS_PER_S / 2;
	}
	memcpy(buf, t->filer_token, strlen(t->filer_token) + 1);
	return 0;
}

/* A token with one claim besides its end. */
static int sign_for_volumes(struct token_source *t, const char *claim, const char *value,
			    char buf[TOKEN_MAX])
{
	char claims[64 + FID_STR_MAX];
	struct key key;

	if (!copy_volume_key(t, &key)) {
		buf[0] = '\0';
		return 0;
	}
	snprintf(claims, sizeof(claims), "{\"exp\":%" PRId64 ",\"%s\":\"%s\"}",
		 (int64_t)time(NULL) + key.lifetime_s, claim, value);
	int err = sign(&key, claims, buf);
	wipe_key(&key);
	return err;
}

int token_for_fid(struct token_source *t, const struct fid *fid, char buf[TOKEN_MAX])
{
	char text[FID_STR_MAX];

	fid_format(fid, text);
	return sign_for_volumes(t, "fid", text, buf);
}

int token_for_agent(struct token_source *t, char buf[TOKEN_MAX])
{
	return sign_for_volumes(t, AGENT_CLAIM, AGENT_VALUE, buf);
}

/* ---- Checking ---- */

static cJSON *parse_part(const char *s, size_t len)
{
	unsigned char json[TOKEN_MAX];
	ssize_t n = from_base64url(s, len, json);

	return n < 0 ? NULL : cJSON_ParseWithLength((const char *)json, (size_t)n);
}

static bool header_names_our_algorithm(const char *s, size_t len)
{
	cJSON *header = parse_part(s, len);
	const char *alg = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(header, "alg"));
	bool ret = alg && strcmp(alg, ALGORITHM) == 0;

	cJSON_Delete(header);
	return ret;
}

/* Both claims are optional, and may have fractions. */
static bool is_in_time(const cJSON *claims)
{
	const cJSON *exp = cJSON_GetObjectItemCaseSensitive(claims, "exp");
	const cJSON *nbf = cJSON_GetObjectItemCaseSensitive(claims, "nbf");
	double now = (double)time(NULL);

	if (exp && !(cJSON_IsNumber(exp) && now < exp->valuedouble))
		return false;
	return !nbf || (cJSON_IsNumber(nbf) && now >= nbf->valuedouble);
}

static bool is_for_fid(const cJSON *claims, const struct fid *fid)
{
	const char *text = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(claims, "fid"));
	struct fid claimed;

	return text && fid_parse(text, strlen(text), &claimed) == 0 &&
	       claimed.volume_id == fid->volume_id && claimed.key == fid->key &&
	       claimed.cookie == fid->cookie;
}

static bool is_for_agents(const cJSON *claims)
{
	const char *text = cJSON_GetStringValue(
		cJSON_GetObjectItemCaseSensitive(claims, AGENT_CLAIM));

	return text && strcmp(text, AGENT_VALUE) == 0;
}

/* fid NULL: of a connection to an agent. */
static bool claims_allow(const char *s, size_t len, const struct fid *fid)
{
	cJSON *claims = parse_part(s, len);
	bool ret = claims && is_in_time(claims) &&
		   (fid ? is_for_fid(claims, fid) : is_for_agents(claims));

	cJSON_Delete(claims);
	return ret;
}

static bool is_signed(const struct key *key, const char *token, size_t signed_len, size_t len)
{
	const char *signature = token + signed_len + 1;
	size_t signature_len = len - signed_len - 1;
	unsigned char claimed[BASE64_LEN(MAC_BYTES)];
	unsigned char mac[MAC_BYTES];

	return signature_len == BASE64_LEN(MAC_BYTES) &&
	       from_base64url(signature, signature_len, claimed) == MAC_BYTES &&
	       hmac(key, token, signed_len, mac) == 0 &&
	       CRYPTO_memcmp(claimed, mac, MAC_BYTES) == 0;
}

/* Looks into the token only once the signature is known to be ours. */
static int check_token(const struct key *key, const char *token, size_t len, const struct fid *fid)
{
	if (len > TOKEN_MAX)
		return -EACCES;
	const char *first_dot = memchr(token, '.', len);
	const char *last_dot = memrchr(token, '.', len);
	if (!first_dot || first_dot == last_dot)
		return -EACCES;
	const char *claims = first_dot + 1;
	if (!is_signed(key, token, (size_t)(last_dot - token), len) ||
	    !header_names_our_algorithm(token, (size_t)(first_dot - token)) ||
	    !claims_allow(claims, (size_t)(last_dot - claims), fid))
		return -EACCES;
	return 0;
}

static int check_for_volumes(struct token_source *t, const char *token, size_t len,
			     const struct fid *fid)
{
	struct key key;

	if (!copy_volume_key(t, &key))
		return 0;
	int err = check_token(&key, token, len, fid);
	wipe_key(&key);
	return err;
}

int token_check_fid(struct token_source *t, const char *token, size_t len, const struct fid *fid)
{
	return check_for_volumes(t, token, len, fid);
}

int token_check_agent(struct token_source *t, const char *token, size_t len)
{
	return check_for_volumes(t, token, len, NULL);
}

/* ---- Life ---- */

bool token_has_filer_key(const struct token_source *t)
{
	return atomic_load(&t->has_filer_key);
}

bool token_has_volume_key(const struct token_source *t)
{
	return atomic_load(&t->has_volume_key);
}

int token_source_reload(struct token_source *t, unsigned *ret_line)
{
	struct keys keys = { .filer.len = 0 };
	unsigned line = 0;

	int err = read_keys(t->path, &keys, &line);
	if (err) {
		*ret_line = line;
	} else {
		LOCK_SCOPE(&t->lock);
		OPENSSL_cleanse(&t->keys, sizeof(t->keys));
		t->keys = keys;
		t->filer_token[0] = '\0';
		atomic_store(&t->has_filer_key, keys.filer.len > 0);
		atomic_store(&t->has_volume_key, keys.volume.len > 0);
	}
	OPENSSL_cleanse(&keys, sizeof(keys));
	return err;
}

int token_source_new(const char *security_toml, unsigned *ret_line, struct token_source **ret)
{
	struct token_source *t = calloc(1, sizeof(*t));
	int err = -ENOMEM;

	if (!t)
		return -ENOMEM;
	pthread_mutex_init(&t->lock, NULL);
	if (security_toml) {
		t->path = strdup(security_toml);
		if (!t->path)
			goto free_source;
	}
	err = token_source_reload(t, ret_line);
	if (err)
		goto free_source;
	*ret = t;
	return 0;

free_source:
	token_source_free(t);
	return err;
}

void token_source_free(struct token_source *t)
{
	if (!t)
		return;
	OPENSSL_cleanse(&t->keys, sizeof(t->keys));
	pthread_mutex_destroy(&t->lock);
	free(t->path);
	free(t);
}
