#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <string.h>

#include "filer/base/base.h"
#include "filer/endpoint.h"

#define DEFAULT_PORT 8888

static int parse(const char *s, struct endpoint *ret)
{
	return endpoint_parse(s, strlen(s), DEFAULT_PORT, ret);
}

static void assert_endpoint(const char *s, const char *url, uint16_t grpc_port)
{
	struct endpoint e;
	char buf[ENDPOINT_STR_MAX];

	if (parse(s, &e) != 0)
		fail_msg("refused '%s'", s);
	assert_int_equal(endpoint_url(&e, buf), strlen(url));
	assert_string_equal(buf, url);
	assert_int_equal(e.grpc_port, grpc_port);
}

static void fills_in_the_default_port(void **state)
{
	(void)state;
	assert_endpoint("filer-1.example_net", "http://filer-1.example_net:8888", 18888);
	assert_endpoint("[::1]", "http://[::1]:8888", 18888);
}

static void refuses_to_guess_when_there_is_no_default_port(void **state)
{
	struct endpoint e;

	(void)state;
	assert_int_equal(endpoint_parse("host", 4, 0, &e), -EINVAL);
	assert_int_equal(endpoint_parse("host:1", 6, 0, &e), 0);
}

static void takes_a_port(void **state)
{
	(void)state;
	assert_endpoint("10.0.0.1:80", "http://10.0.0.1:80", 10080);
	assert_endpoint("[fe80::1:2]:80", "http://[fe80::1:2]:80", 10080);
}

static void takes_a_scheme(void **state)
{
	(void)state;
	assert_endpoint("http://h:80", "http://h:80", 10080);
	assert_endpoint("HTTPS://h:80", "https://h:80", 10080);
	assert_endpoint("https://[::1]", "https://[::1]:8888", 18888);
}

static void takes_the_grpc_port_behind_a_dot(void **state)
{
	struct endpoint e;
	char buf[ENDPOINT_STR_MAX];

	(void)state;
	assert_endpoint("127.0.0.1:19033.19133", "http://127.0.0.1:19033", 19133);
	assert_int_equal(parse("https://[::1]:19033.19133", &e), 0);
	endpoint_grpc_url(&e, buf);
	assert_string_equal(buf, "http://[::1]:19133");
}

static void has_no_grpc_port_where_the_usual_one_is_out_of_range(void **state)
{
	(void)state;
	assert_endpoint("h:55535", "http://h:55535", 65535);
	assert_endpoint("h:55536", "http://h:55536", 0);
}

static void reads_no_more_than_len_bytes(void **state)
{
	struct endpoint e;

	(void)state;
	assert_int_equal(endpoint_parse("host:80,other", 7, DEFAULT_PORT, &e), 0);
	assert_int_equal(e.port, 80);
}

static void limits_the_length_of_a_host(void **state)
{
	char name[ENDPOINT_HOST_MAX + 1];
	struct endpoint e;

	(void)state;
	memset(name, 'a', sizeof(name));
	assert_int_equal(endpoint_parse(name, ENDPOINT_HOST_MAX - 1, DEFAULT_PORT, &e), 0);
	assert_int_equal(strlen(e.host), ENDPOINT_HOST_MAX - 1);
	assert_int_equal(endpoint_parse(name, ENDPOINT_HOST_MAX, DEFAULT_PORT, &e), -EINVAL);
}

static void formats_the_longest_endpoint(void **state)
{
	char name[ENDPOINT_HOST_MAX];
	char buf[ENDPOINT_STR_MAX];
	struct endpoint e = { .https = true, .port = UINT16_MAX };

	(void)state;
	memset(name, 'a', sizeof(name) - 1);
	name[sizeof(name) - 1] = '\0';
	memcpy(e.host, name, sizeof(name));
	assert_int_equal(endpoint_url(&e, buf), strlen("https://:65535") + ENDPOINT_HOST_MAX - 1);
	assert_int_equal(strlen(buf), strlen("https://:65535") + ENDPOINT_HOST_MAX - 1);
}

static void refuses_malformed_text_and_leaves_the_result_alone(void **state)
{
	static const char *const bad[] = {
		"",
		":",
		"http://",
		"ftp://h",
		":80",
		"h:",
		"h:0",
		"h:65536",
		"h:999999",
		"h:-1",
		"h:+1",
		"h: 1",
		"h:80.",
		"h:80.0",
		"h:.80",
		"h:1.2.3",
		"h:80/",
		"h/path",
		"h h",
		"u@h",
		"::1",
		"1:2:3",
		"[::1",
		"[]",
		"[::1]80",
		"[::1]:",
		"[h]:80",
		"[::1]x:80",
		"[::g]",
		"h\n",
		"[fe80::1%eth0]",
		"[1:2:3:4:5:6:7:8:9:a:b:c:d:e:f:1:2:3:4:5:6:7:8:9]",
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		struct endpoint e = { .port = 42 };

		if (parse(bad[i], &e) != -EINVAL)
			fail_msg("accepted '%s'", bad[i]);
		assert_int_equal(e.port, 42);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(fills_in_the_default_port),
		cmocka_unit_test(refuses_to_guess_when_there_is_no_default_port),
		cmocka_unit_test(takes_a_port),
		cmocka_unit_test(takes_a_scheme),
		cmocka_unit_test(takes_the_grpc_port_behind_a_dot),
		cmocka_unit_test(has_no_grpc_port_where_the_usual_one_is_out_of_range),
		cmocka_unit_test(reads_no_more_than_len_bytes),
		cmocka_unit_test(limits_the_length_of_a_host),
		cmocka_unit_test(formats_the_longest_endpoint),
		cmocka_unit_test(refuses_malformed_text_and_leaves_the_result_alone),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
