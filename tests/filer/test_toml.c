#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "filer/base/base.h"
#include "filer/toml.h"

/* What was parsed, as text: one "key=type:value" a line. */
struct log {
	char text[4096];
	size_t len;
};

static int log_value(void *arg, const char *key, const struct toml_value *v)
{
	struct log *log = arg;
	char *out = log->text + log->len;
	size_t room = sizeof(log->text) - log->len;

	if (strcmp(key, "stop.here") == 0)
		return -EXDEV;
	switch (v->type) {
	case TOML_STRING:
		assert_int_equal(v->string_len, strlen(v->string));
		log->len += (size_t)snprintf(out, room, "%s=s:%s\n", key, v->string);
		break;
	case TOML_INTEGER:
		log->len += (size_t)snprintf(out, room, "%s=i:%" PRId64 "\n", key, v->integer);
		break;
	case TOML_BOOLEAN:
		log->len += (size_t)snprintf(out, room, "%s=b:%d\n", key, v->boolean);
		break;
	}
	return 0;
}

static int parse(const char *text, struct log *log, unsigned *ret_line)
{
	*log = (struct log){ .len = 0 };
	return toml_parse(text, strlen(text), log_value, log, ret_line);
}

static void assert_parsed(const char *text, const char *expected)
{
	struct log log;
	unsigned line = 0;

	if (parse(text, &log, &line) != 0)
		fail_msg("line %u of '%s' was refused", line, text);
	assert_string_equal(log.text, expected);
}

static void assert_refused(const char *text, unsigned expected_line)
{
	struct log log;
	unsigned line = 0;

	if (parse(text, &log, &line) != -EINVAL)
		fail_msg("'%s' was accepted", text);
	assert_int_equal(line, expected_line);
}

static void reads_what_a_security_toml_has(void **state)
{
	(void)state;
	assert_parsed("# comment\n"
		      "\n"
		      "[jwt.signing.read]\n"
		      "key = \"abc\"   # a comment\n"
		      "expires_after_seconds = 10\n"
		      "[access]\n"
		      "ui = false\n"
		      "[https.client]\r\n"
		      "\tenabled=true\r\n",
		      "jwt.signing.read.key=s:abc\n"
		      "jwt.signing.read.expires_after_seconds=i:10\n"
		      "access.ui=b:0\n"
		      "https.client.enabled=b:1\n");
}

static void accepts_text_without_a_last_newline(void **state)
{
	(void)state;
	assert_parsed("a = 1", "a=i:1\n");
	assert_parsed("", "");
	assert_parsed("# only", "");
}

static void joins_sections_and_dotted_keys(void **state)
{
	(void)state;
	assert_parsed("a.b = 1\n[ c . d ]\ne . f = 2\n[g]\nh = 3\n",
		      "a.b=i:1\nc.d.e.f=i:2\ng.h=i:3\n");
}

static void understands_escapes_in_basic_strings_only(void **state)
{
	(void)state;
	assert_parsed("a = \"q\\\" b\\\\ t\\t u\\u00e9 U\\U0001F600 # no comment\"",
		      "a=s:q\" b\\ t\t u\xc3\xa9 U\xf0\x9f\x98\x80 # no comment\n");
	assert_parsed("a = 'q\\\" b\\\\'", "a=s:q\\\" b\\\\\n");
	assert_parsed("a = ''\nb = \"\"", "a=s:\nb=s:\n");
}

static void reads_integers_of_64_bits(void **state)
{
	(void)state;
	assert_parsed("a = -9223372036854775808\nb = +9223372036854775807\nc = 1_000",
		      "a=i:-9223372036854775808\nb=i:9223372036854775807\nc=i:1000\n");
	assert_refused("a = 9223372036854775808", 1);
	assert_refused("a = -9223372036854775809", 1);
}

static void names_the_line_of_an_error(void **state)
{
	static const char *const bad[] = {
		"x",
		"= 1",
		"x =",
		"x = y",
		"x = 1 2",
		"x = 1.5",
		"x = -",
		"x = 1_",
		"x = 1__0",
		"x = _1",
		"x = truer",
		"x = \"",
		"x = 'a",
		"x = \"\\x\"",
		"x = \"\\\"",
		"x = \"\\u12",
		"x = [1]",
		"x = \"a\" b",
		"[",
		"[]",
		"[a",
		"[a]]",
		"[[a]]",
		"[a.]",
		"[.a]",
		"[a..b]",
		"[a] b = 1",
		"\"x\" = 1",
		"x y = 1",
		"x. = 1",
		"x = \"\\u0000\"",
		"x = \"\\ud800\"",
		"x = \"\\U00110000\"",
		"x = \"\"\"a\"\"\"",
		"x = \"a\x01\"",
		"x = 2026-01-01",
	};
	char text[128];

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		snprintf(text, sizeof(text), "[s]\n\n%s\ny = 1\n", bad[i]);
		assert_refused(text, 3);
	}
}

static void a_string_does_not_run_into_the_next_line(void **state)
{
	(void)state;
	assert_refused("a = \"x\ny\"", 1);
}

static void limits_the_length_of_keys_and_strings(void **state)
{
	char text[TOML_STRING_MAX + 16];
	struct log log;
	unsigned line = 0;

	(void)state;
	memset(text, 'k', sizeof(text));
	memcpy(text + TOML_KEY_MAX - 1, " = 1", 5);
	assert_int_equal(parse(text, &log, &line), 0);
	memset(text, 'k', sizeof(text));
	memcpy(text + TOML_KEY_MAX, " = 1", 5);
	assert_refused(text, 1);

	memset(text, 's', sizeof(text));
	text[0] = 'k';
	text[1] = '=';
	text[2] = '\'';
	text[3 + TOML_STRING_MAX] = '\'';
	text[4 + TOML_STRING_MAX] = '\0';
	assert_refused(text, 1);
}

static void a_nul_byte_is_refused(void **state)
{
	struct log log = { .len = 0 };
	unsigned line = 0;

	(void)state;
	assert_int_equal(toml_parse("a = 'x\0y'", 9, log_value, &log, &line), -EINVAL);
	assert_int_equal(toml_parse("a\0 = 1", 6, log_value, &log, &line), -EINVAL);
	assert_int_equal(line, 1);
}

static void ends_with_what_the_callback_returns(void **state)
{
	struct log log;
	unsigned line = 0;

	(void)state;
	assert_int_equal(parse("a = 1\n[stop]\nhere = 2\nb = 3", &log, &line), -EXDEV);
	assert_int_equal(line, 3);
	assert_string_equal(log.text, "a=i:1\n");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(reads_what_a_security_toml_has),
		cmocka_unit_test(accepts_text_without_a_last_newline),
		cmocka_unit_test(joins_sections_and_dotted_keys),
		cmocka_unit_test(understands_escapes_in_basic_strings_only),
		cmocka_unit_test(reads_integers_of_64_bits),
		cmocka_unit_test(names_the_line_of_an_error),
		cmocka_unit_test(a_string_does_not_run_into_the_next_line),
		cmocka_unit_test(limits_the_length_of_keys_and_strings),
		cmocka_unit_test(a_nul_byte_is_refused),
		cmocka_unit_test(ends_with_what_the_callback_returns),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
