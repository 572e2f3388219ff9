/* What kelpctl serve makes of a query. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "fs/ctl_serve_request.h"

/* name, value, ..., NULL */
static const char *find(void *arg, const char *name)
{
	for (const char *const *p = arg; *p; p += 2)
		if (strcmp(p[0], name) == 0)
			return p[1];
	return NULL;
}

static int parse(const char **query, struct serve_request *ret, char message[128])
{
	message[0] = '\0';
	return serve_request_parse(find, query, ret, message, 128);
}

#define QUERY(...) ((const char *[]){ __VA_ARGS__, NULL })

static void check(const char **query, uint32_t volume, uint64_t key, uint32_t cookie)
{
	struct serve_request r;
	char message[128];

	assert_int_equal(parse(query, &r, message), 0);
	assert_int_equal(r.fid.volume_id, volume);
	assert_int_equal(r.fid.key, key);
	assert_int_equal(r.fid.cookie, cookie);
}

static void check_refused(const char **query, const char *parameter)
{
	struct serve_request r, before;
	char message[128];

	memset(&r, 0x5a, sizeof(r));
	before = r;
	assert_int_equal(parse(query, &r, message), -EINVAL);
	assert_memory_equal(&r, &before, sizeof(r));
	assert_int_equal(strncmp(message, parameter, strlen(parameter)), 0);
}

static void takes_a_file_id(void **state)
{
	(void)state;
	check(QUERY("file_id", "3,01637037d6"), 3, 1, 0x637037d6);
	check(QUERY("file_id", "3,01637037d6_2"), 3, 3, 0x637037d6);
}

static void takes_numbers_in_decimal_and_hexadecimal(void **state)
{
	(void)state;
	check(QUERY("volume", "3", "needle", "1", "cookie", "1668298710"), 3, 1, 1668298710);
	check(QUERY("volume", "0x3", "needle", "0XfF", "cookie", "0x0"), 3, 255, 0);
	check(QUERY("volume", "4294967295", "needle", "18446744073709551615", "cookie",
		    "4294967295"),
	      UINT32_MAX, UINT64_MAX, UINT32_MAX);
}

static void an_empty_parameter_is_none(void **state)
{
	struct serve_request r;
	char message[128];
	const char **query = QUERY("file_id", "", "volume", "1", "needle", "2", "cookie", "3",
				   "offset", "", "size", "", "volume_server", "");

	(void)state;
	assert_int_equal(parse(query, &r, message), 0);
	assert_int_equal(r.fid.key, 2);
	assert_true(r.offset == 0 && r.size == 0 && !r.has_server);
}

static void takes_a_range_and_a_server(void **state)
{
	struct serve_request r;
	char message[128];
	const char **query = QUERY("file_id", "3,01637037d6", "offset", "18446744073709551615",
				   "size", "0x10", "volume_server", "http://host:81/");

	(void)state;
	assert_int_equal(parse(query, &r, message), 0);
	assert_int_equal(r.offset, UINT64_MAX);
	assert_int_equal(r.size, 16);
	assert_true(r.has_server);
	assert_string_equal(r.server.host, "host");
	assert_int_equal(r.server.port, 81);
}

static void names_what_it_does_not_understand(void **state)
{
	(void)state;
	check_refused(QUERY("x", "y"), "volume");
	check_refused(QUERY("volume", "1", "needle", "1"), "cookie");
	check_refused(QUERY("volume", "0", "needle", "1", "cookie", "1"), "volume");
	check_refused(QUERY("volume", "1", "needle", "0", "cookie", "1"), "needle");
	check_refused(QUERY("volume", "4294967296", "needle", "1", "cookie", "1"), "volume");
	check_refused(QUERY("volume", "1", "needle", "18446744073709551616", "cookie", "1"),
		      "needle");
	check_refused(QUERY("volume", "1", "needle", "1", "cookie", "0x100000000"), "cookie");
	check_refused(QUERY("volume", " 1", "needle", "1", "cookie", "1"), "volume");
	check_refused(QUERY("volume", "1", "needle", "-1", "cookie", "1"), "needle");
	check_refused(QUERY("volume", "1", "needle", "1", "cookie", "0x"), "cookie");
	check_refused(QUERY("volume", "1", "needle", "1", "cookie", "ab"), "cookie");
	check_refused(QUERY("file_id", "3,", "volume", "1"), "file_id");
	check_refused(QUERY("file_id", "3,01637037d6", "offset", "+1"), "offset");
	check_refused(QUERY("file_id", "3,01637037d6", "size", "1K"), "size");
	check_refused(QUERY("file_id", "3,01637037d6", "volume_server", "/"), "volume_server");
	check_refused(QUERY("file_id", "3,01637037d6", "volume_server", "http://a:1/b"),
		      "volume_server");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(takes_a_file_id),
		cmocka_unit_test(takes_numbers_in_decimal_and_hexadecimal),
		cmocka_unit_test(an_empty_parameter_is_none),
		cmocka_unit_test(takes_a_range_and_a_server),
		cmocka_unit_test(names_what_it_does_not_understand),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
