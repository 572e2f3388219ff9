/* Taking a listing apart while it streams in. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "filer/base/base.h"
#include "filer/listscan.h"

#define ALL SIZE_MAX

/* What a scan gave: elements joined by '|', then the envelope. */
struct outcome {
	char elements[512];
	char envelope[512];
	size_t n;
	int stop_with; /* what the callback returns */
};

static int on_element(void *arg, const char *json, size_t len)
{
	struct outcome *o = arg;
	size_t at = strlen(o->elements);

	if (o->stop_with)
		return o->stop_with;
	assert_true(at + len + 2 < sizeof(o->elements));
	memcpy(o->elements + at, json, len);
	o->elements[at + len] = '|';
	o->elements[at + len + 1] = '\0';
	o->n++;
	return 0;
}

static int scan_limited(const char *text, size_t len, size_t piece, size_t element_max,
			size_t envelope_max, struct outcome *o)
{
	const struct listscan_config config = {
		.key = "Entries",
		.element_max_bytes = element_max,
		.envelope_max_bytes = envelope_max,
		.on_element = on_element,
		.arg = o,
	};
	struct listscan s;
	const char *envelope;
	size_t n;
	int err = 0;

	listscan_init(&s, &config);
	for (size_t at = 0; at < len && !err; at += piece) {
		size_t left = len - at;

		/* A copy of exact size, so that a sanitizer sees every byte beyond it. */
		size_t now = piece < left ? piece : left;
		char *copy = malloc(now);

		assert_non_null(copy);
		memcpy(copy, text + at, now);
		err = listscan_push(&s, copy, now);
		free(copy);
		if (now == left)
			break;
	}
	if (!err)
		err = listscan_finish(&s, &envelope, &n);
	if (!err) {
		assert_true(n < sizeof(o->envelope));
		memcpy(o->envelope, envelope, n);
		o->envelope[n] = '\0';
	}
	listscan_free(&s);
	return err;
}

static int scan(const char *text, size_t piece, struct outcome *o)
{
	return scan_limited(text, strlen(text), piece, 1000, 1000, o);
}

/* The same outcome whatever the pieces are. */
static void check(const char *text, const char *elements, const char *envelope)
{
	for (size_t piece = 1; piece <= strlen(text); piece++) {
		struct outcome o = { 0 };

		assert_int_equal(scan(text, piece, &o), 0);
		assert_string_equal(o.elements, elements);
		assert_string_equal(o.envelope, envelope);
	}
}

static void check_refused(const char *text)
{
	for (size_t piece = 1; piece <= strlen(text); piece++) {
		struct outcome o = { 0 };

		assert_int_equal(scan(text, piece, &o), -EPROTO);
	}
}

static void elements_and_envelope_come_apart(void **state)
{
	(void)state;
	check("{\"Path\":\"/d\",\"Entries\":[{\"a\":1},{\"b\":[2,3]}],\"Limit\":2}",
	      "{\"a\":1}|{\"b\":[2,3]}|", "{\"Path\":\"/d\",\"Entries\":[],\"Limit\":2}");
}

static void no_entries_are_no_elements(void **state)
{
	(void)state;
	check("{\"Entries\":null,\"a\":1}", "", "{\"Entries\":null,\"a\":1}");
	check("{\"Entries\":[ ]}", "", "{\"Entries\":[]}");
	check("{}", "", "{}");
}

static void white_space_is_allowed_everywhere(void **state)
{
	(void)state;
	check(" \n{ \"Entries\" : [ {\"a\": 1} ,\t{} ] } \r\n", "{\"a\": 1} |{} |",
	      "{ \"Entries\" : [] }");
}

static void strings_hide_braces_and_escapes(void **state)
{
	(void)state;
	check("{\"x\":\"[{\\\\\\\"]\",\"Entries\":[{\"n\":\"}],\\\"\\\\\"},\"]\\\\\"]}",
	      "{\"n\":\"}],\\\"\\\\\"}|\"]\\\\\"|", "{\"x\":\"[{\\\\\\\"]\",\"Entries\":[]}");
}

static void only_the_member_itself_counts(void **state)
{
	(void)state;
	/* The same name deeper down, as a value, and as part of a longer name. */
	check("{\"o\":{\"Entries\":[1]},\"v\":\"Entries\",\"w\":[2],\"EntriesX\":[3],\"xEntries\":["
	      "4]}",
	      "",
	      "{\"o\":{\"Entries\":[1]},\"v\":\"Entries\",\"w\":[2],\"EntriesX\":[3],\"xEntries\":["
	      "4]}");
}

static void scalars_may_be_elements(void **state)
{
	(void)state;
	check("{\"Entries\":[1,null,\"s\",[[]]]}", "1|null|\"s\"|[[]]|", "{\"Entries\":[]}");
}

static void what_is_no_object_is_refused_at_once(void **state)
{
	struct outcome o = { 0 };

	(void)state;
	check_refused("<html>");
	check_refused("[{\"Entries\":[]}]");
	check_refused("\"x\"");
	check_refused("{} {}");
	check_refused("{}]");
	assert_int_equal(scan("<", 1, &o), -EPROTO);
}

static void stray_commas_are_refused(void **state)
{
	(void)state;
	check_refused("{\"Entries\":[,1]}");
	check_refused("{\"Entries\":[1,]}");
	check_refused("{\"Entries\":[1,,2]}");
	check_refused("{\"Entries\":[1}}");
	check_refused("{\"Entries\":[}}");
}

static void an_early_end_is_refused(void **state)
{
	static const char text[] =
		"{\"Path\":\"/d\",\"Entries\":[{\"a\":\"x\\\"\"},{}],\"Limit\":2}";

	(void)state;
	for (size_t len = 0; len < sizeof(text) - 1; len++) {
		struct outcome o = { 0 };

		assert_int_equal(scan_limited(text, len, ALL, 100, 100, &o), -EPROTO);
	}
}

static void elements_have_a_limit(void **state)
{
	static const char text[] = "{\"Entries\":[\"12345678\"]}";
	struct outcome o = { 0 };

	(void)state;
	for (size_t piece = 1; piece < sizeof(text); piece++) {
		memset(&o, 0, sizeof(o));
		assert_int_equal(scan_limited(text, sizeof(text) - 1, piece, 10, 100, &o), 0);
		assert_int_equal(scan_limited(text, sizeof(text) - 1, piece, 9, 100, &o),
				 -EMSGSIZE);
	}
}

static void the_envelope_has_a_limit(void **state)
{
	static const char text[] =
		"{\"a\":\"12345678\",\"Entries\":[\"123456789012345678901234\"]}";
	struct outcome o = { 0 };

	(void)state;
	assert_int_equal(scan_limited(text, sizeof(text) - 1, 3, 100, 29, &o), 0);
	assert_int_equal(scan_limited(text, sizeof(text) - 1, 3, 100, 28, &o), -EMSGSIZE);
}

static void deep_nesting_is_refused(void **state)
{
	static const char *const starts[] = { "{\"a\":", "{\"Entries\":" };
	static char text[10000];

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(starts); i++) {
		struct outcome o = { 0 };
		int n = snprintf(text, sizeof(text), "%s", starts[i]);

		memset(text + n, '[', sizeof(text) - (size_t)n);
		assert_int_equal(scan_limited(text, sizeof(text), 100, 100000, 100000, &o),
				 -EPROTO);
	}
}

static void the_callback_can_stop_the_scan(void **state)
{
	struct outcome o = { .stop_with = -ECANCELED };

	(void)state;
	assert_int_equal(scan("{\"Entries\":[1,2]}", 4, &o), -ECANCELED);
	assert_int_equal(o.n, 0);
}

static void a_failure_lasts(void **state)
{
	struct outcome o = { 0 };
	const struct listscan_config config = { .key = "Entries",
						.on_element = on_element,
						.arg = &o };
	const char *envelope;
	struct listscan s;
	size_t n;

	(void)state;
	listscan_init(&s, &config);
	assert_int_equal(listscan_push(&s, "x", 1), -EPROTO);
	assert_int_equal(listscan_push(&s, "{}", 2), -EPROTO);
	assert_int_equal(listscan_finish(&s, &envelope, &n), -EPROTO);
	listscan_free(&s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(elements_and_envelope_come_apart),
		cmocka_unit_test(no_entries_are_no_elements),
		cmocka_unit_test(white_space_is_allowed_everywhere),
		cmocka_unit_test(strings_hide_braces_and_escapes),
		cmocka_unit_test(only_the_member_itself_counts),
		cmocka_unit_test(scalars_may_be_elements),
		cmocka_unit_test(what_is_no_object_is_refused_at_once),
		cmocka_unit_test(stray_commas_are_refused),
		cmocka_unit_test(an_early_end_is_refused),
		cmocka_unit_test(elements_have_a_limit),
		cmocka_unit_test(the_envelope_has_a_limit),
		cmocka_unit_test(deep_nesting_is_refused),
		cmocka_unit_test(the_callback_can_stop_the_scan),
		cmocka_unit_test(a_failure_lasts),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
