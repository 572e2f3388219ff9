/* The HTTP server that programs tell of themselves with, asked over real sockets: what it answers, and that slow
 * or broken clients cannot keep it. */
#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "filer/base/base.h"
#include "fs/httpd.h"

#define WAIT_MS 20000
#define BIG_BYTES (64 * MIB)

static void answer_name(struct httpd_request *r, void *arg)
{
	const char *name = httpd_query(r, "name");
	struct httpd_field field = { "X-Name", name ? name : "none" };
	struct httpd_reply reply = { .status = 200,
				     .type = "text/plain",
				     .body = arg,
				     .bytes = strlen(arg),
				     .fields = &field,
				     .n_fields = 1 };

	httpd_reply(r, &reply);
}

static void answer_big(struct httpd_request *r, void *arg)
{
	struct httpd_reply reply = {
		.status = 200, .body = calloc(1, BIG_BYTES), .bytes = BIG_BYTES, .owned = true
	};

	(void)arg;
	httpd_reply(r, &reply);
}

static void answer_error(struct httpd_request *r, void *arg)
{
	(void)arg;
	httpd_error(r, 503, "\"%s\" is down", "it");
}

static void answer_nothing(struct httpd_request *r, void *arg)
{
	(void)r;
	(void)arg;
}

static const struct httpd_route routes[] = {
	{ "/name", HTTPD_GET, answer_name },
	{ "/big", HTTPD_GET, answer_big },
	{ "/error", HTTPD_GET, answer_error },
	{ "/nothing", HTTPD_GET | HTTPD_DELETE, answer_nothing },
};

static struct httpd *start_with(struct httpd_config cfg)
{
	static char content[] = "content";
	char message[256];
	struct httpd *h;

	cfg.host = "127.0.0.1";
	cfg.routes = routes;
	cfg.n_routes = ARRAY_LEN(routes);
	cfg.arg = content;
	assert_int_equal(httpd_start(&cfg, &h, message, sizeof(message)), 0);
	return h;
}

static int start(void **state)
{
	*state = start_with((struct httpd_config){ 0 });
	return 0;
}

static int stop(void **state)
{
	httpd_stop(*state);
	return 0;
}

static int connect_to(const struct httpd *h)
{
	struct sockaddr_in a = { .sin_family = AF_INET,
				 .sin_port = htons(httpd_port(h)),
				 .sin_addr = { htonl(INADDR_LOOPBACK) } };
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	assert_true(fd >= 0);
	assert_int_equal(connect(fd, (struct sockaddr *)&a, sizeof(a)), 0);
	return fd;
}

static void send_text(int fd, const char *text)
{
	assert_int_equal(send(fd, text, strlen(text), MSG_NOSIGNAL), (ssize_t)strlen(text));
}

/* All that comes until the server closes; how many bytes. Fails when it does not close in time. */
static size_t receive_all(int fd, char *buf, size_t bytes)
{
	struct deadline d = deadline_in_ms(WAIT_MS);
	size_t total = 0, n = 0;

	for (;;) {
		struct pollfd p = { .fd = fd, .events = POLLIN };
		char piece[4096];

		assert_int_equal(poll(&p, 1, (int)deadline_left_ms(d)), 1);
		ssize_t got = recv(fd, piece, sizeof(piece), 0);
		if (got <= 0)
			break;
		total += (size_t)got;
		size_t take = min_u64((uint64_t)got, bytes - 1 - n);
		memcpy(buf + n, piece, take);
		n += take;
	}
	buf[n] = '\0';
	close(fd);
	return total;
}

static void ask(const struct httpd *h, const char *line, char *answer, size_t bytes)
{
	char request[512];
	int fd = connect_to(h);

	snprintf(request, sizeof(request), "%s HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n",
		 line);
	send_text(fd, request);
	receive_all(fd, answer, bytes);
}

static void assert_answers(const struct httpd *h, const char *line, const char *status,
			   const char *part)
{
	char answer[2048];

	ask(h, line, answer, sizeof(answer));
	assert_memory_equal(answer, status, strlen(status));
	assert_non_null(strstr(answer, part));
}

static void a_route_is_answered_with_headers_and_body(void **state)
{
	assert_answers(*state, "GET /name", "HTTP/1.1 200", "\r\n\r\ncontent");
	assert_answers(*state, "GET /name?name=a%20b", "HTTP/1.1 200", "X-Name: a b\r\n");
}

static void head_is_answered_without_body(void **state)
{
	char answer[2048];

	ask(*state, "HEAD /name", answer, sizeof(answer));
	assert_non_null(strstr(answer, "Content-Length: 7\r\n"));
	assert_string_equal(strstr(answer, "\r\n\r\n"), "\r\n\r\n");
}

static void errors_are_json(void **state)
{
	assert_answers(*state, "GET /error", "HTTP/1.1 503", "{\"error\":\"\\\"it\\\" is down\"}");
}

static void an_unknown_path_is_404(void **state)
{
	assert_answers(*state, "GET /name/", "HTTP/1.1 404", "{\"error\":");
}

static void another_method_is_405_and_told_what_is_allowed(void **state)
{
	assert_answers(*state, "DELETE /name", "HTTP/1.1 405", "Allow: GET, HEAD\r\n");
	assert_answers(*state, "BREW /nothing", "HTTP/1.1 405", "Allow: GET, HEAD, DELETE\r\n");
}

static void a_handler_that_does_not_answer_ends_the_connection(void **state)
{
	char answer[64];

	ask(*state, "GET /nothing", answer, sizeof(answer));
	assert_string_equal(answer, "");
}

static void a_body_is_thrown_away(void **state)
{
	char answer[2048];
	int fd = connect_to(*state);

	send_text(
		fd,
		"POST /name HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Length: 5\r\n\r\n");
	send_text(fd, "hello");
	receive_all(fd, answer, sizeof(answer));
	assert_memory_equal(answer, "HTTP/1.1 405", 12);
}

static void what_is_not_http_is_cut_off(void **state)
{
	char answer[2048];
	int fd = connect_to(*state);

	send_text(fd, "\x16\x03\x01 hello\r\n\r\n\r\n");
	receive_all(fd, answer, sizeof(answer));
	assert_null(strstr(answer, "200"));
	assert_answers(*state, "GET /name", "HTTP/1.1 200", "content");
}

static void a_header_without_end_is_refused(void **state)
{
	static char line[4096];
	char answer[2048];
	int fd = connect_to(*state);

	memset(line, 'a', sizeof(line) - 1);
	memcpy(line, "X: ", 3);
	send_text(fd, "GET /name HTTP/1.1\r\nHost: h\r\n");
	for (int i = 0; i < 64; i++)
		if (send(fd, line, sizeof(line) - 1, MSG_NOSIGNAL) < 0)
			break;
	receive_all(fd, answer, sizeof(answer));
	assert_null(strstr(answer, "200"));
	assert_answers(*state, "GET /name", "HTTP/1.1 200", "content");
}

/* libmicrohttpd's own limit starts again with every byte. */
static void a_client_that_sends_a_byte_at_a_time_is_cut_off(void **state)
{
	struct httpd *h = start_with((struct httpd_config){ .idle_ms = 300 });
	int fd = connect_to(h);
	struct deadline d = deadline_in_ms(WAIT_MS);

	(void)state;
	send_text(fd, "GET /name HTTP/1.1\r\nX-Slow: ");
	for (;;) {
		struct pollfd p = { .fd = fd, .events = POLLIN };

		if (poll(&p, 1, 50) == 1)
			break;
		assert_false(deadline_passed(d));
		(void)!send(fd, "a", 1, MSG_NOSIGNAL);
	}
	close(fd);
	httpd_stop(h);
}

/* The end shows only behind what the kernel had taken by then, so that the client reads, but too slowly:
 * all would take it longer than ten seconds. */
static void a_client_that_takes_its_answer_too_slowly_is_cut_off(void **state)
{
	struct httpd *h = start_with((struct httpd_config){ .reply_ms = 300 });
	static char piece[256 * 1024];
	int fd = connect_to(h);
	size_t total = 0;
	ssize_t n;

	(void)state;
	send_text(fd, "GET /big HTTP/1.1\r\nHost: h\r\n\r\n");
	while ((n = recv(fd, piece, sizeof(piece), 0)) > 0) {
		total += (size_t)n;
		sleep_ms(50, deadline_in_ms(WAIT_MS));
	}
	assert_true(total < BIG_BYTES);
	close(fd);
	httpd_stop(h);
}

static void idle_connections_make_room_for_others(void **state)
{
	struct httpd *h = start_with((struct httpd_config){ .connections_max = 2, .idle_ms = 300 });
	int idle[4];

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(idle); i++)
		idle[i] = connect_to(h);
	assert_answers(h, "GET /name", "HTTP/1.1 200", "content");
	for (size_t i = 0; i < ARRAY_LEN(idle); i++)
		close(idle[i]);
	httpd_stop(h);
}

static void a_server_with_a_thread_for_each_connection_answers_as_well(void **state)
{
	struct httpd *h = start_with((struct httpd_config){ .blocking = true, .idle_ms = 300 });
	char answer[64];
	int slow = connect_to(h);

	(void)state;
	send_text(slow, "GET /na");
	assert_answers(h, "GET /name", "HTTP/1.1 200", "content");
	receive_all(slow, answer, sizeof(answer));
	httpd_stop(h);
}

static void a_port_in_use_is_reported(void **state)
{
	struct httpd_config cfg = { .host = "127.0.0.1", .port = httpd_port(*state) };
	char message[256], port[8];
	struct httpd *h;

	assert_int_equal(httpd_start(&cfg, &h, message, sizeof(message)), -EADDRINUSE);
	snprintf(port, sizeof(port), "%u", httpd_port(*state));
	assert_non_null(strstr(message, port));
	assert_non_null(strstr(message, strerror(EADDRINUSE)));
}

static void an_address_is_loopback_unless_it_says_otherwise(void **state)
{
	static const struct {
		const char *text, *host;
		uint16_t port;
	} good[] = {
		{ "9100", "127.0.0.1", 9100 }, { ":9100", "", 9100 },
		{ "*:9100", "", 9100 },        { "10.0.0.1:80", "10.0.0.1", 80 },
		{ "[::1]:80", "::1", 80 },     { "h:80", "h", 80 },
	};
	static const char *const bad[] = { "",      "h",        ":",     "*",   "0",
					   "65536", "h:0",      "h:x",   "::1", "http://h:80",
					   "[::1]", "1.2.3.4.", "h:80/x" };
	struct endpoint e;

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(good); i++) {
		assert_int_equal(httpd_parse_address(good[i].text, &e), 0);
		assert_string_equal(e.host, good[i].host);
		assert_int_equal(e.port, good[i].port);
	}
	for (size_t i = 0; i < ARRAY_LEN(bad); i++)
		assert_int_equal(httpd_parse_address(bad[i], &e), -EINVAL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(a_route_is_answered_with_headers_and_body, start,
						stop),
		cmocka_unit_test_setup_teardown(head_is_answered_without_body, start, stop),
		cmocka_unit_test_setup_teardown(errors_are_json, start, stop),
		cmocka_unit_test_setup_teardown(an_unknown_path_is_404, start, stop),
		cmocka_unit_test_setup_teardown(another_method_is_405_and_told_what_is_allowed,
						start, stop),
		cmocka_unit_test_setup_teardown(a_handler_that_does_not_answer_ends_the_connection,
						start, stop),
		cmocka_unit_test_setup_teardown(a_body_is_thrown_away, start, stop),
		cmocka_unit_test_setup_teardown(what_is_not_http_is_cut_off, start, stop),
		cmocka_unit_test_setup_teardown(a_header_without_end_is_refused, start, stop),
		cmocka_unit_test(a_client_that_sends_a_byte_at_a_time_is_cut_off),
		cmocka_unit_test(a_client_that_takes_its_answer_too_slowly_is_cut_off),
		cmocka_unit_test(idle_connections_make_room_for_others),
		cmocka_unit_test(a_server_with_a_thread_for_each_connection_answers_as_well),
		cmocka_unit_test_setup_teardown(a_port_in_use_is_reported, start, stop),
		cmocka_unit_test(an_address_is_loopback_unless_it_says_otherwise),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
