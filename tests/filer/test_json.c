/* Parsing JSON: 64-bit integers, types, limits, base64. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "filer/base/base.h"
#include "filer/json.h"

struct target {
	int64_t i64;
	uint64_t u64;
	uint32_t u32;
	bool flag;
	char *text;
	const cJSON *object;
};

static const struct json_field fields[] = {
	{ "i64", JSON_I64, false, offsetof(struct target, i64) },
	{ "u64", JSON_U64, false, offsetof(struct target, u64) },
	{ "u32", JSON_U32, false, offsetof(struct target, u32) },
	{ "flag", JSON_BOOL, false, offsetof(struct target, flag) },
	{ "text", JSON_TEXT, false, offsetof(struct target, text) },
	{ "object", JSON_OBJECT, false, offsetof(struct target, object) },
};

static int parse(const char *text, struct json *ret)
{
	return json_parse(text, strlen(text), ret);
}

/* Result of reading the text into t, whose pointers are dead afterwards. */
static int read_text(const char *text, struct target *t)
{
	struct json tree;
	int err = parse(text, &tree);

	if (err)
		return err;
	err = json_read(tree.root, fields, ARRAY_LEN(fields), t);
	json_free(&tree);
	return err;
}

static void integers_keep_all_64_bits(void **state)
{
	struct target t = { 0 };

	(void)state;
	assert_int_equal(
		read_text("{\"u64\":18446744073709551615,\"i64\":-9223372036854775808}", &t), 0);
	assert_true(t.u64 == UINT64_MAX);
	assert_true(t.i64 == INT64_MIN);
	assert_int_equal(read_text("{\"u64\":9007199254740993,\"i64\":1795315011021736524}", &t),
			 0);
	assert_true(t.u64 == UINT64_C(9007199254740993));
	assert_true(t.i64 == INT64_C(1795315011021736524));
}

static void short_integers_are_exact_too(void **state)
{
	struct target t = { 0 };

	(void)state;
	assert_int_equal(read_text("{\"u64\":999999999999999,\"i64\":-42,\"u32\":4294967295}", &t),
			 0);
	assert_true(t.u64 == UINT64_C(999999999999999));
	assert_true(t.i64 == -42);
	assert_true(t.u32 == UINT32_MAX);
}

static void integers_out_of_range_are_refused(void **state)
{
	static const char *const texts[] = {
		"{\"u64\":18446744073709551616}",
		"{\"u64\":-1}",
		"{\"u64\":-9000000000000000000}",
		"{\"i64\":9223372036854775808}",
		"{\"i64\":-9223372036854775809}",
		"{\"u32\":4294967296}",
		"{\"u32\":-1}",
		"{\"u64\":1e400}",
		"{\"i64\":99999999999999999999999999999999999999999999}",
	};
	struct target t = { 0 };

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(texts); i++)
		assert_int_equal(read_text(texts[i], &t), -EPROTO);
}

static void fractions_are_no_integers(void **state)
{
	struct target t = { 0 };

	(void)state;
	assert_int_equal(read_text("{\"i64\":1.5}", &t), -EPROTO);
	assert_int_equal(read_text("{\"i64\":1234567890123456.5}", &t), -EPROTO);
	assert_int_equal(read_text("{\"i64\":1e300}", &t), -EPROTO);
	assert_int_equal(read_text("{\"i64\":1e3}", &t), 0);
	assert_true(t.i64 == 1000);
}

static void values_of_another_type_are_refused(void **state)
{
	static const char *const texts[] = {
		"{\"i64\":\"1\"}",
		"{\"i64\":\"1234567890123456789\"}",
		"{\"u64\":true}",
		"{\"u32\":[1]}",
		"{\"flag\":1}",
		"{\"flag\":\"true\"}",
		"{\"text\":1}",
		"{\"text\":1234567890123456789}",
		"{\"text\":{}}",
		"{\"object\":[]}",
		"{\"object\":\"{}\"}",
		"[]",
		"1",
		"null",
	};
	struct target t = { 0 };

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(texts); i++)
		assert_int_equal(read_text(texts[i], &t), -EPROTO);
}

static void null_and_absent_leave_the_target(void **state)
{
	struct target t = { .i64 = 7, .flag = true };

	(void)state;
	assert_int_equal(read_text("{\"i64\":null,\"flag\":null,\"other\":[1,{}]}", &t), 0);
	assert_true(t.i64 == 7 && t.flag);
}

static void members_may_come_in_any_order(void **state)
{
	struct target t = { 0 };

	(void)state;
	assert_int_equal(read_text("{\"flag\":true,\"x\":0,\"u32\":3,\"u64\":2,\"i64\":1}", &t), 0);
	assert_true(t.i64 == 1 && t.u64 == 2 && t.u32 == 3 && t.flag);
}

static void required_members_must_be_there(void **state)
{
	static const struct json_field required[] = { { "a", JSON_I64, true, 0 } };
	int64_t a = 0;
	struct json tree;

	(void)state;
	assert_int_equal(parse("{\"b\":1}", &tree), 0);
	assert_int_equal(json_read(tree.root, required, 1, &a), -EPROTO);
	json_free(&tree);
	assert_int_equal(parse("{\"a\":null}", &tree), 0);
	assert_int_equal(json_read(tree.root, required, 1, &a), -EPROTO);
	json_free(&tree);
}

static void digits_within_strings_stay_as_they_are(void **state)
{
	struct target t = { 0 };
	struct json tree;

	(void)state;
	assert_int_equal(parse("{\"text\":\"a\\\"12345678901234567890, \\\\\"}", &tree), 0);
	assert_int_equal(json_read(tree.root, fields, ARRAY_LEN(fields), &t), 0);
	assert_string_equal(t.text, "a\"12345678901234567890, \\");
	json_free(&tree);
}

static void malformed_text_is_refused(void **state)
{
	static const char *const texts[] = {
		"",
		"{",
		"{\"a\":",
		"{\"a\":\"",
		"{\"a\":\"\\",
		"{} x",
		"{}{}",
		"[1,]",
		"{\"a\" 1}",
		"\"\\ud800\"",
		"-",
		"1234567890123456x",
		"{\"a\":--12345678901234567}",
	};
	struct json tree;

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(texts); i++)
		assert_int_equal(parse(texts[i], &tree), -EPROTO);
}

static void strings_with_nul_are_refused(void **state)
{
	static const char raw[] = "\"a\0b\"";
	struct json tree;

	(void)state;
	assert_int_equal(parse("{\"a\":\"x\\u0000y\"}", &tree), -EPROTO);
	assert_int_equal(json_parse(raw, sizeof(raw) - 1, &tree), -EPROTO);
	/* A backslash and the text u0000. */
	assert_int_equal(parse("{\"a\":\"x\\\\u0000y\"}", &tree), 0);
	json_free(&tree);
}

static void deep_nesting_is_refused(void **state)
{
	static char text[20000];
	const size_t depth = sizeof(text) / 2;
	struct json tree;

	(void)state;
	memset(text, '[', depth);
	memset(text + depth, ']', depth);
	assert_int_equal(json_parse(text, sizeof(text), &tree), -EPROTO);
}

/* The memory of a tree is reckoned before it is made: the texts that need most for their length. */
static void trees_of_many_small_values_are_parsed(void **state)
{
	static const char *const members[] = { "1,",    "[],",          "{},",
					       "\"\",", "{\"\":\"\"},", "{\"a\":{\"b\":null}}," };
	enum { COPIES = 1000 };

	(void)state;
	for (size_t m = 0; m < ARRAY_LEN(members); m++) {
		size_t len = strlen(members[m]);
		char *text = malloc(COPIES * len + 2);
		struct json tree;

		assert_non_null(text);
		text[0] = '[';
		for (size_t i = 0; i < COPIES; i++)
			memcpy(text + 1 + i * len, members[m], len);
		text[COPIES * len] = ']'; /* instead of the last comma */
		assert_int_equal(json_parse(text, COPIES * len + 1, &tree), 0);
		assert_int_equal(cJSON_GetArraySize(tree.root), COPIES);
		json_free(&tree);
		free(text);
	}
}

static void too_many_values_are_refused(void **state)
{
	const size_t len = 2 * (size_t)JSON_VALUES_MAX + 3;
	char *text = malloc(len);
	struct json tree;

	(void)state;
	assert_non_null(text);
	text[0] = '[';
	for (size_t i = 1; i + 2 < len; i += 2) {
		text[i] = '0';
		text[i + 1] = ',';
	}
	text[len - 2] = '0';
	text[len - 1] = ']';
	assert_int_equal(json_parse(text, len, &tree), -EPROTO);
	free(text);
}

static void base64_decodes_in_place(void **state)
{
	char text[] = "YmFyAP8=";
	char two[] = "YQ==";
	char none[] = "";
	size_t len;

	(void)state;
	assert_int_equal(json_base64(text, &len), 0);
	assert_int_equal(len, 5);
	assert_memory_equal(text, "bar\0\xff", 5);
	assert_int_equal(json_base64(two, &len), 0);
	assert_int_equal(len, 1);
	assert_int_equal(two[0], 'a');
	assert_int_equal(json_base64(none, &len), 0);
	assert_int_equal(len, 0);
}

static void what_is_no_base64_is_refused_and_left(void **state)
{
	static const char *const texts[] = {
		"YmF", "Y===", "YQ=a", "Ym_y", "====", "YmFy\n", "Y Fy"
	};
	size_t len;

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(texts); i++) {
		char copy[16];

		memcpy(copy, texts[i], strlen(texts[i]) + 1);
		assert_int_equal(json_base64(copy, &len), -EPROTO);
		assert_string_equal(copy, texts[i]);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(integers_keep_all_64_bits),
		cmocka_unit_test(short_integers_are_exact_too),
		cmocka_unit_test(integers_out_of_range_are_refused),
		cmocka_unit_test(fractions_are_no_integers),
		cmocka_unit_test(values_of_another_type_are_refused),
		cmocka_unit_test(null_and_absent_leave_the_target),
		cmocka_unit_test(members_may_come_in_any_order),
		cmocka_unit_test(required_members_must_be_there),
		cmocka_unit_test(digits_within_strings_stay_as_they_are),
		cmocka_unit_test(malformed_text_is_refused),
		cmocka_unit_test(strings_with_nul_are_refused),
		cmocka_unit_test(deep_nesting_is_refused),
		cmocka_unit_test(trees_of_many_small_values_are_parsed),
		cmocka_unit_test(too_many_values_are_refused),
		cmocka_unit_test(base64_decodes_in_place),
		cmocka_unit_test(what_is_no_base64_is_refused_and_left),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
