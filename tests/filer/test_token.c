#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <inttypes.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "filer/base/base.h"
#include "filer/token.h"

#define FILER_VARIABLE "WEED_JWT_FILER_SIGNING_READ_KEY"
#define VOLUME_VARIABLE "WEED_JWT_SIGNING_READ_KEY"
#define HS256 "{\"alg\":\"HS256\",\"typ\":\"JWT\"}"
#define KEY "volume-key"
#define PATH_BYTES 64

static const struct fid needle = { .volume_id = 3, .key = 0x16, .cookie = 0x37037d6a };
#define NEEDLE_TEXT "3,1637037d6a"

static const char both_keys[] = "[jwt.filer_signing.read]\nkey = \"filer-key\"\n"
				"[jwt.signing.read]\nkey = \"" KEY "\"\n";

static int clear_environment(void **state)
{
	(void)state;
	unsetenv(FILER_VARIABLE);
	unsetenv(VOLUME_VARIABLE);
	return 0;
}

static void write_file(const char *path, const char *text)
{
	FILE *f = fopen(path, "w");

	assert_non_null(f);
	assert_true(fputs(text, f) >= 0);
	assert_int_equal(fclose(f), 0);
}

/* A file that holds text; the caller unlinks it. */
static void make_file(char path[PATH_BYTES], const char *text)
{
	snprintf(path, PATH_BYTES, "/tmp/test_token.XXXXXX");
	int fd = mkstemp(path);

	assert_true(fd >= 0);
	close(fd);
	write_file(path, text);
}

static int new_from(const char *text, unsigned *ret_line, struct token_source **ret)
{
	char path[PATH_BYTES];

	make_file(path, text);
	int err = token_source_new(path, ret_line, ret);
	unlink(path);
	return err;
}

static struct token_source *source_from(const char *text)
{
	struct token_source *t = NULL;
	unsigned line = 0;

	assert_int_equal(new_from(text, &line, &t), 0);
	return t;
}

/* ---- An independent reading of tokens ---- */

/* Appends the base64url text of p. */
static void encode(const void *p, size_t len, char *text)
{
	text += strlen(text);
	EVP_EncodeBlock((unsigned char *)text, p, (int)len);
	for (; *text; text++) {
		if (*text == '+')
			*text = '-';
		else if (*text == '/')
			*text = '_';
		else if (*text == '=')
			*text = '\0';
	}
}

static void append_char(char *text, char c)
{
	size_t len = strlen(text);

	text[len] = c;
	text[len + 1] = '\0';
}

static void make_token(const char *key, const char *header, const char *claims, char *ret)
{
	unsigned char mac[EVP_MAX_MD_SIZE];
	unsigned len;

	ret[0] = '\0';
	encode(header, strlen(header), ret);
	append_char(ret, '.');
	encode(claims, strlen(claims), ret);
	HMAC(EVP_sha256(), key, (int)strlen(key), (unsigned char *)ret, strlen(ret), mac, &len);
	append_char(ret, '.');
	encode(mac, len, ret);
}

static int64_t expiry_of(const char *token)
{
	unsigned char claims[TOKEN_MAX + 1];
	char part[TOKEN_MAX + 4];
	const char *dot = strchr(token, '.');

	assert_non_null(dot);
	snprintf(part, TOKEN_MAX, "%s", dot + 1);
	*strchr(part, '.') = '\0';
	while (strlen(part) % 4)
		append_char(part, '=');
	int n = EVP_DecodeBlock(claims, (unsigned char *)part, (int)strlen(part));
	assert_true(n > 0);
	claims[n] = '\0';
	const char *exp = strstr((char *)claims, "\"exp\":");
	assert_non_null(exp);
	return strtoll(exp + strlen("\"exp\":"), NULL, 10);
}

static void assert_token(const char *token, const char *key, const char *claims_format)
{
	char claims[256], expected[TOKEN_MAX];

	snprintf(claims, sizeof(claims), claims_format, expiry_of(token));
	make_token(key, HS256, claims, expected);
	assert_string_equal(token, expected);
}

static int check(struct token_source *t, const char *key, const char *header, const char *claims)
{
	char token[2 * TOKEN_MAX];

	make_token(key, header, claims, token);
	return token_check_fid(t, token, strlen(token), &needle);
}

/* ---- Keys ---- */

static void gives_no_token_without_a_key(void **state)
{
	struct token_source *t = source_from("[jwt.signing]\nkey = \"write key\"\n");
	char token[TOKEN_MAX] = "x";

	(void)state;
	assert_false(token_has_filer_key(t));
	assert_false(token_has_volume_key(t));
	assert_int_equal(token_for_filer(t, token), 0);
	assert_string_equal(token, "");
	strcpy(token, "x");
	assert_int_equal(token_for_fid(t, &needle, token), 0);
	assert_string_equal(token, "");
	token_source_free(t);
}

static void needs_no_file(void **state)
{
	struct token_source *t = NULL;
	unsigned line = 0;

	(void)state;
	assert_int_equal(token_source_new(NULL, &line, &t), 0);
	assert_false(token_has_filer_key(t));
	token_source_free(t);
}

static void signs_with_the_keys_of_the_file(void **state)
{
	struct token_source *t = source_from(both_keys);
	char token[TOKEN_MAX];

	(void)state;
	assert_int_equal(token_for_filer(t, token), 0);
	assert_token(token, "filer-key", "{\"exp\":%" PRId64 "}");
	assert_int_equal(token_for_fid(t, &needle, token), 0);
	assert_token(token, KEY, "{\"exp\":%" PRId64 ",\"fid\":\"" NEEDLE_TEXT "\"}");
	token_source_free(t);
}

static void takes_keys_from_the_environment_first(void **state)
{
	char token[TOKEN_MAX];

	(void)state;
	setenv(FILER_VARIABLE, "other filer key", 1);
	setenv(VOLUME_VARIABLE, "other volume key", 1);
	struct token_source *t = source_from(both_keys);
	assert_int_equal(token_for_filer(t, token), 0);
	assert_token(token, "other filer key", "{\"exp\":%" PRId64 "}");
	assert_int_equal(token_for_fid(t, &needle, token), 0);
	assert_token(token, "other volume key",
		     "{\"exp\":%" PRId64 ",\"fid\":\"" NEEDLE_TEXT "\"}");
	token_source_free(t);
}

static void takes_an_empty_variable_for_none(void **state)
{
	char token[TOKEN_MAX];

	(void)state;
	setenv(FILER_VARIABLE, "", 1);
	struct token_source *t = source_from(both_keys);
	assert_int_equal(token_for_filer(t, token), 0);
	assert_token(token, "filer-key", "{\"exp\":%" PRId64 "}");
	token_source_free(t);
}

static void finds_keys_in_any_case_and_spelling(void **state)
{
	struct token_source *t = source_from(
		"JWT.Filer_Signing.READ.Key = 'a'\n[jwt]\nsigning.read.key = 'b'\n");

	(void)state;
	assert_true(token_has_filer_key(t));
	assert_true(token_has_volume_key(t));
	token_source_free(t);
}

static void assert_lifetime(const char *setting, int64_t seconds)
{
	char text[256], token[TOKEN_MAX];

	snprintf(text, sizeof(text), "[jwt.filer_signing.read]\nkey = \"k\"\n%s\n", setting);
	struct token_source *t = source_from(text);
	assert_int_equal(token_for_filer(t, token), 0);
	int64_t left = expiry_of(token) - (int64_t)time(NULL);
	assert_in_range(left, seconds - 2, seconds);
	token_source_free(t);
}

static void tokens_live_as_long_as_the_file_says(void **state)
{
	(void)state;
	assert_lifetime("", TOKEN_LIFETIME_S);
	assert_lifetime("expires_after_seconds = 600", 600);
	assert_lifetime("expires_after_seconds = 0", TOKEN_LIFETIME_S);
	assert_lifetime("expires_after_seconds = 9223372036854775807", 86400);
}

static void names_the_line_of_a_malformed_file(void **state)
{
	static const char *const bad[] = {
		"[jwt.signing.read]\nkey = 5\n",
		"[jwt.signing.read]\nkey = abc\n",
		"[jwt.signing.read]\nexpires_after_seconds = \"5\"\n",
		"[jwt.signing.read]\nexpires_after_seconds = -1\n",
		"\n[jwt.signing.read\nkey = 'a'\n",
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		struct token_source *t = NULL;
		unsigned line = 0;

		assert_int_equal(new_from(bad[i], &line, &t), -EINVAL);
		assert_int_equal(line, 2);
		assert_null(t);
	}
}

static void says_that_a_file_cannot_be_read(void **state)
{
	struct token_source *t = NULL;
	unsigned line = 99;

	(void)state;
	assert_int_equal(token_source_new("/nonexistent/security.toml", &line, &t), -ENOENT);
	assert_int_equal(line, 0);
	assert_int_equal(token_source_new("/", &line, &t), -EISDIR);
	assert_int_equal(token_source_new("/dev/zero", &line, &t), -EFBIG);
	assert_null(t);
}

static void reloads_the_file(void **state)
{
	struct token_source *t = NULL;
	char path[PATH_BYTES], token[TOKEN_MAX];
	unsigned line = 0;

	(void)state;
	make_file(path, both_keys);
	assert_int_equal(token_source_new(path, &line, &t), 0);
	assert_int_equal(token_for_filer(t, token), 0);
	write_file(path, "[jwt.filer_signing.read]\nkey = 'new'\n");
	assert_int_equal(token_source_reload(t, &line), 0);
	assert_int_equal(token_for_filer(t, token), 0);
	assert_token(token, "new", "{\"exp\":%" PRId64 "}");
	assert_false(token_has_volume_key(t));
	token_source_free(t);
	unlink(path);
}

static void keeps_the_old_keys_when_reloading_fails(void **state)
{
	struct token_source *t = NULL;
	char path[PATH_BYTES], token[TOKEN_MAX];
	unsigned line = 0;

	(void)state;
	make_file(path, both_keys);
	assert_int_equal(token_source_new(path, &line, &t), 0);
	write_file(path, "[jwt.filer_signing.read]\nkey = 'new'\n#\nnonsense\n");
	assert_int_equal(token_source_reload(t, &line), -EINVAL);
	assert_int_equal(line, 4);
	unlink(path);
	assert_int_equal(token_source_reload(t, &line), -ENOENT);
	assert_int_equal(line, 0);
	assert_int_equal(token_for_filer(t, token), 0);
	assert_token(token, "filer-key", "{\"exp\":%" PRId64 "}");
	token_source_free(t);
}

static void uses_a_filer_token_for_half_its_life(void **state)
{
	struct token_source *t = source_from(
		"[jwt.filer_signing.read]\nkey = 'k'\nexpires_after_seconds = 8\n");
	char first[TOKEN_MAX], second[TOKEN_MAX];

	(void)state;
	assert_int_equal(token_for_filer(t, first), 0);
	sleep_ms(1100, deadline_in_ms(5000));
	assert_int_equal(token_for_filer(t, second), 0);
	assert_string_equal(first, second);
	sleep_ms(3200, deadline_in_ms(5000));
	assert_int_equal(token_for_filer(t, second), 0);
	assert_string_not_equal(first, second);
	token_source_free(t);
}

static void *use_tokens(void *arg)
{
	struct token_source *t = arg;
	char token[TOKEN_MAX];

	for (int i = 0; i < 300; i++) {
		assert_int_equal(token_for_filer(t, token), 0);
		assert_int_equal(token_for_fid(t, &needle, token), 0);
		assert_int_equal(token_check_fid(t, token, strlen(token), &needle), 0);
	}
	return NULL;
}

static void reloads_while_others_sign(void **state)
{
	enum { THREADS = 4 };
	struct token_source *t = NULL;
	pthread_t threads[THREADS];
	char path[PATH_BYTES];
	unsigned line = 0;

	(void)state;
	make_file(path, both_keys);
	assert_int_equal(token_source_new(path, &line, &t), 0);
	for (int i = 0; i < THREADS; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, use_tokens, t), 0);
	for (int i = 0; i < 100; i++)
		assert_int_equal(token_source_reload(t, &line), 0);
	for (int i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
	token_source_free(t);
	unlink(path);
}

/* ---- Checking ---- */

static void accepts_its_own_tokens(void **state)
{
	struct token_source *t = source_from(both_keys);
	char token[TOKEN_MAX];

	(void)state;
	assert_int_equal(token_for_fid(t, &needle, token), 0);
	assert_int_equal(token_check_fid(t, token, strlen(token), &needle), 0);
	token_source_free(t);
}

static void a_token_for_agents_is_for_connections_only(void **state)
{
	struct token_source *t = source_from(both_keys);
	char token[TOKEN_MAX];

	(void)state;
	assert_int_equal(token_for_agent(t, token), 0);
	assert_token(token, KEY, "{\"exp\":%" PRId64 ",\"kelp\":\"agent\"}");
	assert_int_equal(token_check_agent(t, token, strlen(token)), 0);
	assert_int_equal(token_check_fid(t, token, strlen(token), &needle), -EACCES);
	assert_int_equal(token_for_fid(t, &needle, token), 0);
	assert_int_equal(token_check_agent(t, token, strlen(token)), -EACCES);
	assert_int_equal(token_check_agent(t, "", 0), -EACCES);
	token_source_free(t);
}

static void agents_without_a_key_ask_for_no_token(void **state)
{
	struct token_source *t = source_from("");
	char token[TOKEN_MAX] = "x";

	(void)state;
	assert_int_equal(token_for_agent(t, token), 0);
	assert_string_equal(token, "");
	assert_int_equal(token_check_agent(t, "", 0), 0);
	token_source_free(t);
}

static void accepts_anything_without_a_key(void **state)
{
	struct token_source *t = source_from("");

	(void)state;
	assert_int_equal(token_check_fid(t, "", 0, &needle), 0);
	token_source_free(t);
}

static void accepts_a_token_without_times_in_any_spelling(void **state)
{
	struct token_source *t = source_from(both_keys);

	(void)state;
	assert_int_equal(check(t, KEY, HS256, "{\"fid\":\"" NEEDLE_TEXT "\"}"), 0);
	assert_int_equal(check(t, KEY, "{\"typ\":\"JWT\",\"alg\":\"HS256\"}",
			       "{\"fid\":\"3,001637037D6A\"}"),
			 0);
	token_source_free(t);
}

static void refuses_a_token_for_another_needle(void **state)
{
	struct token_source *t = source_from(both_keys);

	(void)state;
	assert_int_equal(check(t, KEY, HS256, "{\"fid\":\"4,1637037d6a\"}"), -EACCES);
	assert_int_equal(check(t, KEY, HS256, "{\"fid\":\"3,1737037d6a\"}"), -EACCES);
	assert_int_equal(check(t, KEY, HS256, "{\"fid\":\"3,1637037d6b\"}"), -EACCES);
	assert_int_equal(check(t, KEY, HS256, "{\"fid\":\"\"}"), -EACCES);
	assert_int_equal(check(t, KEY, HS256, "{\"fid\":3}"), -EACCES);
	assert_int_equal(check(t, KEY, HS256, "{}"), -EACCES);
	assert_int_equal(check(t, KEY, HS256, "[]"), -EACCES);
	assert_int_equal(check(t, KEY, HS256, "no json"), -EACCES);
	token_source_free(t);
}

static void refuses_a_token_of_another_key(void **state)
{
	struct token_source *t = source_from(both_keys);
	const char *claims = "{\"fid\":\"" NEEDLE_TEXT "\"}";

	(void)state;
	assert_int_equal(check(t, "filer-key", HS256, claims), -EACCES);
	assert_int_equal(check(t, "", HS256, claims), -EACCES);
	token_source_free(t);
}

static void refuses_another_algorithm(void **state)
{
	struct token_source *t = source_from(both_keys);
	const char *claims = "{\"fid\":\"" NEEDLE_TEXT "\"}";

	(void)state;
	assert_int_equal(check(t, KEY, "{\"alg\":\"none\"}", claims), -EACCES);
	assert_int_equal(check(t, KEY, "{\"alg\":\"HS512\"}", claims), -EACCES);
	assert_int_equal(check(t, KEY, "{}", claims), -EACCES);
	assert_int_equal(check(t, KEY, "x", claims), -EACCES);
	token_source_free(t);
}

static int check_times(struct token_source *t, const char *claim, int64_t seconds_from_now)
{
	char claims[256];

	snprintf(claims, sizeof(claims), "{\"fid\":\"" NEEDLE_TEXT "\",\"%s\":%" PRId64 "}", claim,
		 (int64_t)time(NULL) + seconds_from_now);
	return check(t, KEY, HS256, claims);
}

static void refuses_a_token_out_of_its_time(void **state)
{
	struct token_source *t = source_from(both_keys);

	(void)state;
	assert_int_equal(check_times(t, "exp", 60), 0);
	assert_int_equal(check_times(t, "exp", 0), -EACCES);
	assert_int_equal(check_times(t, "exp", -1), -EACCES);
	assert_int_equal(check_times(t, "nbf", -1), 0);
	assert_int_equal(check_times(t, "nbf", 60), -EACCES);
	assert_int_equal(
		check(t, KEY, HS256, "{\"fid\":\"" NEEDLE_TEXT "\",\"exp\":\"9999999999\"}"),
		-EACCES);
	assert_int_equal(check(t, KEY, HS256, "{\"fid\":\"" NEEDLE_TEXT "\",\"nbf\":null}"),
			 -EACCES);
	token_source_free(t);
}

static void refuses_a_token_with_any_character_changed(void **state)
{
	struct token_source *t = source_from(both_keys);
	char token[TOKEN_MAX];

	(void)state;
	assert_int_equal(token_for_fid(t, &needle, token), 0);
	size_t len = strlen(token);
	for (size_t i = 0; i < len - 1; i++) {
		char old = token[i];

		token[i] = old == 'A' ? 'B' : 'A';
		assert_int_equal(token_check_fid(t, token, len, &needle), -EACCES);
		token[i] = old;
		assert_int_equal(token_check_fid(t, token, i, &needle), -EACCES);
	}
	assert_int_equal(token_check_fid(t, token, len - 1, &needle), -EACCES);
	token_source_free(t);
}

static void refuses_what_is_no_token(void **state)
{
	static const char *const bad[] = { "", ".", "..", "...", "a.b", "a.b.c", "....", " . . " };
	struct token_source *t = source_from(both_keys);
	char big[TOKEN_MAX + 1];

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(bad); i++)
		assert_int_equal(token_check_fid(t, bad[i], strlen(bad[i]), &needle), -EACCES);
	memset(big, '.', sizeof(big));
	assert_int_equal(token_check_fid(t, big, sizeof(big), &needle), -EACCES);
	token_source_free(t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(gives_no_token_without_a_key),
		cmocka_unit_test(needs_no_file),
		cmocka_unit_test(signs_with_the_keys_of_the_file),
		cmocka_unit_test_teardown(takes_keys_from_the_environment_first, clear_environment),
		cmocka_unit_test_teardown(takes_an_empty_variable_for_none, clear_environment),
		cmocka_unit_test(finds_keys_in_any_case_and_spelling),
		cmocka_unit_test(tokens_live_as_long_as_the_file_says),
		cmocka_unit_test(names_the_line_of_a_malformed_file),
		cmocka_unit_test(says_that_a_file_cannot_be_read),
		cmocka_unit_test(reloads_the_file),
		cmocka_unit_test(keeps_the_old_keys_when_reloading_fails),
		cmocka_unit_test(uses_a_filer_token_for_half_its_life),
		cmocka_unit_test(reloads_while_others_sign),
		cmocka_unit_test(accepts_its_own_tokens),
		cmocka_unit_test(a_token_for_agents_is_for_connections_only),
		cmocka_unit_test(agents_without_a_key_ask_for_no_token),
		cmocka_unit_test(accepts_anything_without_a_key),
		cmocka_unit_test(accepts_a_token_without_times_in_any_spelling),
		cmocka_unit_test(refuses_a_token_for_another_needle),
		cmocka_unit_test(refuses_a_token_of_another_key),
		cmocka_unit_test(refuses_another_algorithm),
		cmocka_unit_test(refuses_a_token_out_of_its_time),
		cmocka_unit_test(refuses_a_token_with_any_character_changed),
		cmocka_unit_test(refuses_what_is_no_token),
	};

	clear_environment(NULL);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
