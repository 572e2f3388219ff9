#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <arpa/inet.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "filer/base/base.h"
#include "filer/http.h"
#include "tests/support/scripted_server.h"

#define URL_BYTES 128
#define DEADLINE_MS 10000
#define OK_HELLO "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"

/* One pool, one server, and what the last request brought. */
struct fixture {
	struct http_pool *pool;
	struct scripted_server *server;
	struct http_head head;
	unsigned heads; /* calls of on_head */
	size_t body_at_head; /* bytes that came before on_head */
	int head_result; /* what on_head shall return */
	int body_result;
	char body[65536];
	size_t body_len;
	int64_t took_ms;
};

static int on_head(void *arg, const struct http_head *head)
{
	struct fixture *f = arg;

	f->heads++;
	f->body_at_head = f->body_len;
	f->head = *head;
	return f->head_result;
}

static int on_body(void *arg, const uint8_t *p, size_t n)
{
	struct fixture *f = arg;

	assert_true(f->heads == 1);
	assert_true(n < sizeof(f->body) - f->body_len);
	memcpy(f->body + f->body_len, p, n);
	f->body_len += n;
	f->body[f->body_len] = '\0';
	return f->body_result;
}

static void start_pool(struct fixture *f, const struct http_config *cfg)
{
	*f = (struct fixture){ 0 };
	assert_int_equal(http_pool_new(cfg, &f->pool), 0);
}

static void start(struct fixture *f, const struct script_step *const *scripts, size_t n)
{
	static const struct http_config cfg = { .stall_timeout_ms = 1000 };

	start_pool(f, &cfg);
	f->server = scripted_server_start(scripts, n);
}

static void start_one(struct fixture *f, const struct script_step *const *script)
{
	start(f, script, 1);
}

static void stop(struct fixture *f)
{
	http_pool_free(f->pool);
	if (f->server)
		scripted_server_stop(f->server);
}

/* Fills in what all requests here have in common. */
static int perform(struct fixture *f, struct http_request r)
{
	char url[URL_BYTES];
	struct http_head head = { .status = -7 };
	int64_t start_ms = now_ms();

	if (!r.url) {
		snprintf(url, sizeof(url), "%s/x", scripted_server_url(f->server));
		r.url = url;
	}
	if (r.deadline.at_ms == 0)
		r.deadline = deadline_in_ms(DEADLINE_MS);
	r.on_head = on_head;
	r.on_body = on_body;
	r.arg = f;
	f->heads = 0;
	f->body_len = 0;
	f->body[0] = '\0';
	int err = http_perform(f->pool, &r, &head);
	f->took_ms = now_ms() - start_ms;
	if (err)
		assert_int_equal(head.status, -7);
	else
		f->head = head;
	return err;
}

static int get(struct fixture *f)
{
	return perform(f, (struct http_request){ 0 });
}

static void assert_hello(struct fixture *f)
{
	assert_int_equal(get(f), 0);
	assert_int_equal(f->head.status, 200);
	assert_string_equal(f->body, "hello");
}

/* The result of one GET from a server that plays the script. */
static int get_once(const struct script_step *script, struct fixture *f)
{
	const struct script_step *scripts[] = { script };

	start_one(f, scripts);
	int err = get(f);
	stop(f);
	return err;
}

static const struct script_step hello[] = { RECEIVE(), SEND(OK_HELLO), AGAIN() };

/* ---- Connections ---- */

static void uses_a_connection_again(void **state)
{
	const struct script_step *scripts[] = { hello };
	struct http_stats stats;
	struct fixture f;

	(void)state;
	start(&f, scripts, 1);
	for (int i = 0; i < 5; i++)
		assert_hello(&f);
	assert_int_equal(scripted_server_connections(f.server), 1);
	http_pool_stats(f.pool, &stats);
	assert_int_equal(stats.requests, 5);
	assert_int_equal(stats.failures, 0);
	assert_int_equal(stats.connections, 1);
	assert_int_equal(stats.body_bytes, 25);
	stop(&f);
}

static void replaces_a_connection_that_was_closed_while_idle(void **state)
{
	static const struct script_step once[] = { RECEIVE(), SEND(OK_HELLO), CLOSE() };
	const struct script_step *scripts[] = { once, hello };
	struct fixture f;

	(void)state;
	start(&f, scripts, 2);
	assert_hello(&f);
	sleep_ms(50, deadline_in_ms(50));
	assert_hello(&f);
	assert_int_equal(scripted_server_connections(f.server), 2);
	stop(&f);
}

static void assert_stale_connection_is_replaced(const struct script_step *stale)
{
	const struct script_step *scripts[] = { stale, hello };
	struct fixture f;

	start(&f, scripts, 2);
	assert_hello(&f);
	assert_hello(&f);
	assert_int_equal(scripted_server_connections(f.server), 2);
	assert_int_equal(scripted_server_requests(f.server), 3);
	stop(&f);
}

static void replaces_a_connection_that_closes_instead_of_answering(void **state)
{
	static const struct script_step stale[] = { RECEIVE(), SEND(OK_HELLO), RECEIVE(), CLOSE() };

	(void)state;
	assert_stale_connection_is_replaced(stale);
}

static void replaces_a_connection_that_resets_instead_of_answering(void **state)
{
	static const struct script_step stale[] = { RECEIVE(), SEND(OK_HELLO), RECEIVE(), RESET() };

	(void)state;
	assert_stale_connection_is_replaced(stale);
}

static void sends_the_body_again_on_the_new_connection(void **state)
{
	static const struct script_step stale[] = { RECEIVE(), SEND(OK_HELLO), RECEIVE(), CLOSE() };
	const struct script_step *scripts[] = { stale, hello };
	struct fixture f;

	(void)state;
	start(&f, scripts, 2);
	assert_hello(&f);
	assert_int_equal(perform(&f, (struct http_request){ .body = "ask\0me", .body_len = 6 }), 0);
	assert_non_null(strstr(scripted_server_request(f.server, 2), "\r\n\r\nask"));
	assert_non_null(strstr(scripted_server_request(f.server, 2), "Content-Length: 6\r\n"));
	stop(&f);
}

static void replaces_a_connection_only_once(void **state)
{
	static const struct script_step stale[] = { RECEIVE(), SEND(OK_HELLO), RECEIVE(), CLOSE() };
	static const struct script_step dead[] = { RECEIVE(), CLOSE() };
	const struct script_step *scripts[] = { stale, dead };
	struct fixture f;

	(void)state;
	start(&f, scripts, 2);
	assert_hello(&f);
	assert_int_equal(get(&f), -ECONNRESET);
	assert_int_equal(scripted_server_connections(f.server), 2);
	assert_int_equal(scripted_server_requests(f.server), 3);
	stop(&f);
}

static void does_not_repeat_a_request_whose_answer_began(void **state)
{
	static const struct script_step begins[] = { RECEIVE(), SEND(OK_HELLO), RECEIVE(),
						     SEND("HTTP/1.1 200 OK\r\n"), CLOSE() };
	const struct script_step *scripts[] = { begins, hello };
	struct fixture f;

	(void)state;
	start(&f, scripts, 2);
	assert_hello(&f);
	assert_true(get(&f) < 0);
	assert_int_equal(scripted_server_requests(f.server), 2);
	stop(&f);
}

static void does_not_repeat_a_request_on_a_fresh_connection(void **state)
{
	static const struct script_step dead[] = { RECEIVE(), CLOSE() };
	const struct script_step *scripts[] = { dead };
	struct fixture f;

	(void)state;
	start(&f, scripts, 1);
	assert_int_equal(get(&f), -ECONNRESET);
	assert_int_equal(scripted_server_connections(f.server), 1);
	stop(&f);
}

static void does_not_use_a_connection_that_was_idle_for_too_long(void **state)
{
	static const struct http_config cfg = { .idle_max_ms = 1000 };
	const struct script_step *scripts[] = { hello };
	struct fixture f;

	(void)state;
	start_pool(&f, &cfg);
	f.server = scripted_server_start(scripts, 1);
	assert_hello(&f);
	assert_hello(&f);
	assert_int_equal(scripted_server_connections(f.server), 1);
	sleep_ms(1010, deadline_in_ms(2000));
	assert_hello(&f);
	assert_int_equal(scripted_server_connections(f.server), 2);
	stop(&f);
}

static uint64_t connections_for_two_servers_in_turn(unsigned handles_max)
{
	const struct http_config cfg = { .handles_max = handles_max };
	const struct script_step *scripts[] = { hello };
	struct scripted_server *other = scripted_server_start(scripts, 1);
	struct http_stats stats;
	struct fixture f;

	start_pool(&f, &cfg);
	f.server = scripted_server_start(scripts, 1);
	for (int i = 0; i < 3; i++) {
		assert_hello(&f);
		assert_int_equal(
			perform(&f, (struct http_request){ .url = scripted_server_url(other) }), 0);
	}
	http_pool_stats(f.pool, &stats);
	stop(&f);
	scripted_server_stop(other);
	return stats.connections;
}

static void keeps_a_connection_per_server_up_to_the_limit(void **state)
{
	(void)state;
	assert_int_equal(connections_for_two_servers_in_turn(2), 2);
	assert_int_equal(connections_for_two_servers_in_turn(1), 6);
}

#define THREADS 8
#define REQUESTS_PER_THREAD 100

/* NULL, if all went well: only the main thread can fail a test. */
static void *get_many(void *arg)
{
	struct fixture *shared = arg;
	struct fixture *f = calloc(1, sizeof(*f));
	bool good = true;

	f->pool = shared->pool;
	f->server = shared->server;
	for (int i = 0; i < REQUESTS_PER_THREAD && good; i++)
		good = get(f) == 0 && f->head.status == 200 && strcmp(f->body, "hello") == 0;
	free(f);
	return good ? NULL : arg;
}

static void serves_many_threads_over_a_connection_each(void **state)
{
	/* however long the other threads keep one, or the server, from running */
	const struct http_config cfg = { .connect_timeout_ms = DEADLINE_MS,
					 .stall_timeout_ms = DEADLINE_MS };
	const struct script_step *scripts[] = { hello };
	pthread_t threads[THREADS];
	struct http_stats stats;
	struct fixture f;
	void *bad;

	(void)state;
	start_pool(&f, &cfg);
	f.server = scripted_server_start(scripts, 1);
	for (int i = 0; i < THREADS; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, get_many, &f), 0);
	for (int i = 0; i < THREADS; i++) {
		pthread_join(threads[i], &bad);
		assert_null(bad);
	}
	http_pool_stats(f.pool, &stats);
	assert_int_equal(stats.requests, THREADS * REQUESTS_PER_THREAD);
	assert_int_equal(stats.body_bytes, 5 * THREADS * REQUESTS_PER_THREAD);
	assert_true(stats.connections <= THREADS);
	stop(&f);
}

/* ---- What goes out ---- */

static void sends_the_headers_that_were_asked_for(void **state)
{
	const struct script_step *scripts[] = { hello };
	struct fixture f;
	const char *text;

	(void)state;
	start(&f, scripts, 1);
	assert_int_equal(perform(&f, (struct http_request){ .accept = "application/json",
							    .bearer = "tok.en",
							    .if_match = "e-1",
							    .has_range = true,
							    .range_offset = 10,
							    .range_len = 5 }),
			 0);
	text = scripted_server_request(f.server, 0);
	assert_memory_equal(text, "GET /x HTTP/1.1\r\n", 17);
	assert_non_null(strstr(text, "\r\nAccept: application/json\r\n"));
	assert_non_null(strstr(text, "\r\nAuthorization: Bearer tok.en\r\n"));
	assert_non_null(strstr(text, "\r\nIf-Match: \"e-1\"\r\n"));
	assert_non_null(strstr(text, "\r\nRange: bytes=10-14\r\n"));
	assert_null(strstr(text, "Accept-Encoding"));
	stop(&f);
}

static void sends_nothing_of_the_request_before(void **state)
{
	const struct script_step *scripts[] = { hello };
	struct fixture f;

	(void)state;
	start(&f, scripts, 1);
	perform(&f, (struct http_request){ .bearer = "secret", .has_range = true, .range_len = 1 });
	perform(&f, (struct http_request){ .method = "HEAD" });
	perform(&f, (struct http_request){ .body = "b", .body_len = 1 });
	perform(&f, (struct http_request){ .accept_gzip = true });
	get(&f);
	assert_memory_equal(scripted_server_request(f.server, 1), "HEAD /x", 7);
	assert_memory_equal(scripted_server_request(f.server, 2), "POST /x", 7);
	assert_non_null(strstr(scripted_server_request(f.server, 3), "Accept-Encoding: gzip\r\n"));
	assert_memory_equal(scripted_server_request(f.server, 4), "GET /x", 6);
	for (size_t i = 1; i < 5; i++) {
		assert_null(strstr(scripted_server_request(f.server, i), "Authorization"));
		assert_null(strstr(scripted_server_request(f.server, i), "Range"));
	}
	assert_null(strstr(scripted_server_request(f.server, 4), "Content-"));
	assert_null(strstr(scripted_server_request(f.server, 4), "Accept-Encoding"));
	stop(&f);
}

static void keeps_dots_in_paths(void **state)
{
	const struct script_step *scripts[] = { hello };
	struct fixture f;
	char url[URL_BYTES];

	(void)state;
	start(&f, scripts, 1);
	snprintf(url, sizeof(url), "%s/a/../b/./c", scripted_server_url(f.server));
	assert_int_equal(perform(&f, (struct http_request){ .url = url }), 0);
	assert_memory_equal(scripted_server_request(f.server, 0), "GET /a/../b/./c ", 16);
	stop(&f);
}

static void refuses_what_would_break_the_header(void **state)
{
	const struct script_step *scripts[] = { hello };
	struct fixture f;
	char url[URL_BYTES];

	(void)state;
	start(&f, scripts, 1);
	snprintf(url, sizeof(url), "%s/x y\r\nX: y", scripted_server_url(f.server));
	const struct http_request bad[] = {
		{ .bearer = "a\r\nX: y" },
		{ .if_match = "a\nb" },
		{ .if_match = "a\"b" },
		{ .accept = "a\tb" },
		{ .has_range = true, .range_len = 0 },
		{ .has_range = true, .range_offset = UINT64_MAX, .range_len = 2 },
		{ .has_range = true, .range_len = 1, .accept_gzip = true },
		{ .method = "DELETE" },
		{ .url = "no url" },
		{ .url = "://" },
		{ .url = url },
	};
	for (size_t i = 0; i < ARRAY_LEN(bad); i++)
		assert_int_equal(perform(&f, bad[i]), -EINVAL);
	assert_int_equal(scripted_server_requests(f.server), 0);
	stop(&f);
}

static void speaks_nothing_but_http(void **state)
{
	struct fixture f;

	(void)state;
	start_pool(&f, &(struct http_config){ 0 });
	assert_true(perform(&f, (struct http_request){ .url = "file:///etc/passwd" }) < 0);
	assert_int_equal(f.heads, 0);
	stop(&f);
}

static void ignores_proxies_in_the_environment(void **state)
{
	const struct script_step *scripts[] = { hello };
	struct fixture f;

	(void)state;
	setenv("http_proxy", "http://127.0.0.1:1", 1);
	start(&f, scripts, 1);
	assert_hello(&f);
	stop(&f);
	unsetenv("http_proxy");
}

/* ---- The answer's header ---- */

static void parses_the_header(void **state)
{
	static const struct script_step script[] = {
		RECEIVE(),
		SEND("HTTP/1.1 206 Partial Content\r\n"
		     "content-length: 5\r\n"
		     "CONTENT-RANGE: bytes 10-14/9000000000000\r\n"
		     "Content-Encoding: gzip\r\n"
		     "Content-Type: application/json\r\n"
		     "Etag:\t \"abc-1\" \r\n"
		     "Authorization: Bearer x.y.z\r\n"
		     "Retry-After: 7\r\n"
		     "\r\nhello"),
		CLOSE()
	};
	struct fixture f;

	(void)state;
	assert_int_equal(get_once(script, &f), 0);
	assert_int_equal(f.head.status, 206);
	assert_int_equal(f.head.content_length, 5);
	assert_true(f.head.range_start == 10);
	assert_true(f.head.range_total == 9000000000000);
	assert_true(f.head.gzip);
	assert_string_equal(f.head.content_type, "application/json");
	assert_string_equal(f.head.etag, "abc-1");
	assert_string_equal(f.head.authorization, "Bearer x.y.z");
	assert_string_equal(f.head.retry_after, "7");
	assert_int_equal(f.head.grpc_status, -1);
	assert_string_equal(f.body, "hello");
}

static void says_what_is_absent(void **state)
{
	static const struct script_step script[] = { RECEIVE(),
						     SEND("HTTP/1.1 200 OK\r\n\r\nhello"),
						     CLOSE() };
	struct fixture f;

	(void)state;
	assert_int_equal(get_once(script, &f), 0);
	assert_int_equal(f.head.content_length, -1);
	assert_true(f.head.range_start == -1 && f.head.range_total == -1);
	assert_false(f.head.gzip);
	assert_string_equal(f.head.content_type, "");
	assert_string_equal(f.head.etag, "");
	assert_string_equal(f.head.authorization, "");
	assert_string_equal(f.head.retry_after, "");
	assert_string_equal(f.head.grpc_message, "");
}

static void reads_the_total_of_an_unsatisfied_range(void **state)
{
	static const struct script_step script[] = {
		RECEIVE(),
		SEND("HTTP/1.1 416 No\r\nContent-Range: bytes */42\r\nContent-Length: 0\r\n\r\n"),
		CLOSE()
	};
	struct fixture f;

	(void)state;
	assert_int_equal(get_once(script, &f), 0);
	assert_int_equal(f.head.status, 416);
	assert_true(f.head.range_start == -1);
	assert_true(f.head.range_total == 42);
}

#define RANGE_ANSWER(value)                                                                        \
	SEND("HTTP/1.1 206 OK\r\nContent-Length: 0\r\nContent-Range: " value "\r\n\r\n")

static void takes_a_malformed_content_range_as_absent(void **state)
{
	static const struct script_step script[] = {
		RECEIVE(), RANGE_ANSWER("bytes"),
		RECEIVE(), RANGE_ANSWER("bytes 1-2"),
		RECEIVE(), RANGE_ANSWER("bytes 2-1/9"),
		RECEIVE(), RANGE_ANSWER("bytes 1-9/9"),
		RECEIVE(), RANGE_ANSWER("bytes -1-2/9"),
		RECEIVE(), RANGE_ANSWER("bytes 1-2/9x"),
		RECEIVE(), RANGE_ANSWER("lines 1-2/9"),
		RECEIVE(), RANGE_ANSWER("bytes 1-2/99999999999999999999"),
		RECEIVE(), RANGE_ANSWER("bytes 1-/9"),
		RECEIVE(), RANGE_ANSWER("bytes "),
		RECEIVE(), CLOSE(),
	};
	const struct script_step *scripts[] = { script };
	struct fixture f;

	(void)state;
	start(&f, scripts, 1);
	for (size_t i = 0; i < ARRAY_LEN(script) / 2 - 1; i++) {
		assert_int_equal(get(&f), 0);
		assert_true(f.head.range_start == -1);
		assert_true(f.head.range_total == -1);
	}
	assert_int_equal(scripted_server_connections(f.server), 1);
	stop(&f);
}

#define C16 "0123456789abcdef"
#define C128 C16 C16 C16 C16 C16 C16 C16 C16

static void takes_a_value_that_is_too_long_as_absent(void **state)
{
	static const struct script_step script[] = {
		RECEIVE(),
		SEND("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nEtag: \"" C128 "\"\r\n"
		     "Authorization: " C128 C128 C128 C128 "\r\n\r\n"),
		CLOSE()
	};
	struct fixture f;

	(void)state;
	assert_int_equal(get_once(script, &f), 0);
	assert_string_equal(f.head.etag, "");
	assert_string_equal(f.head.authorization, "");
}

static void takes_a_weak_etag_as_absent(void **state)
{
	static const struct script_step script[] = {
		RECEIVE(), SEND("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nEtag: W/\"abc\"\r\n\r\n"),
		CLOSE()
	};
	struct fixture f;

	(void)state;
	assert_int_equal(get_once(script, &f), 0);
	assert_string_equal(f.head.etag, "");
}

static void calls_on_head_once_also_without_a_body(void **state)
{
	static const struct script_step script[] = { RECEIVE(), SEND(OK_EMPTY), CLOSE() };
	struct fixture f;

	(void)state;
	assert_int_equal(get_once(script, &f), 0);
	assert_int_equal(f.heads, 1);
	assert_int_equal(f.body_len, 0);
}

static void passes_over_interim_answers(void **state)
{
	static const struct script_step script[] = {
		RECEIVE(),
		SEND("HTTP/1.1 100 Continue\r\nEtag: \"interim\"\r\n\r\n"
		     "HTTP/1.1 103 Early Hints\r\n\r\n" OK_HELLO),
		CLOSE()
	};
	struct fixture f;

	(void)state;
	assert_int_equal(get_once(script, &f), 0);
	assert_int_equal(f.heads, 1);
	assert_int_equal(f.head.status, 200);
	assert_string_equal(f.head.etag, "");
	assert_string_equal(f.body, "hello");
}

static void returns_a_redirect_as_it_is(void **state)
{
	static const struct script_step script[] = {
		RECEIVE(),
		SEND("HTTP/1.1 301 Moved\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: "
		     "0\r\n\r\n"),
		CLOSE()
	};
	struct fixture f;

	(void)state;
	assert_int_equal(get_once(script, &f), 0);
	assert_int_equal(f.head.status, 301);
}

static void takes_the_grpc_status_from_trailers(void **state)
{
	static const struct script_step script[] = {
		RECEIVE(),
		SEND("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nEtag: \"a\"\r\n\r\n"
		     "5\r\nhello\r\n0\r\nGrpc-Status: 2\r\nGrpc-Message: no entry is found\r\n"
		     "Etag: \"b\"\r\n\r\n"),
		CLOSE()
	};
	struct fixture f;

	(void)state;
	assert_int_equal(get_once(script, &f), 0);
	assert_string_equal(f.body, "hello");
	assert_int_equal(f.head.grpc_status, 2);
	assert_string_equal(f.head.grpc_message, "no entry is found");
	assert_string_equal(f.head.etag, "a");
}

static void cuts_a_long_grpc_message(void **state)
{
	static const struct script_step script[] = {
		RECEIVE(),
		SEND("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nGrpc-Message: " C128 "\r\n"
		     "Grpc-Status: 99999999999\r\n\r\n"),
		CLOSE()
	};
	struct fixture f;

	(void)state;
	assert_int_equal(get_once(script, &f), 0);
	assert_int_equal(strlen(f.head.grpc_message), 127);
	assert_int_equal(f.head.grpc_status, -1);
}

/* ---- Callbacks ---- */

static void ends_with_what_on_head_returns(void **state)
{
	const struct script_step *scripts[] = { hello };
	struct fixture f;

	(void)state;
	start(&f, scripts, 1);
	f.head_result = -ESTALE;
	assert_int_equal(get(&f), -ESTALE);
	assert_int_equal(f.body_len, 0);
	f.head_result = 0;
	assert_hello(&f);
	stop(&f);
}

static void ends_with_what_on_body_returns(void **state)
{
	const struct script_step *scripts[] = { hello };
	struct fixture f;

	(void)state;
	start(&f, scripts, 1);
	f.body_result = -EMSGSIZE;
	assert_int_equal(get(&f), -EMSGSIZE);
	f.body_result = 0;
	assert_hello(&f);
	stop(&f);
}

/* ---- Servers that fail ---- */

static void a_body_shorter_than_promised_is_an_error(void **state)
{
	static const struct script_step script[] = {
		RECEIVE(), SEND("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nhello"), CLOSE()
	};
	struct fixture f;

	(void)state;
	assert_int_equal(get_once(script, &f), -EIO);
	assert_string_equal(f.body, "hello");
}

static void a_chunked_body_without_its_end_is_an_error(void **state)
{
	static const struct script_step script[] = {
		RECEIVE(),
		SEND("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"), CLOSE()
	};
	struct fixture f;

	(void)state;
	assert_int_equal(get_once(script, &f), -EIO);
}

static void a_reset_within_the_body_is_an_error(void **state)
{
	static const struct script_step script[] = {
		RECEIVE(), SEND("HTTP/1.1 200 OK\r\nContent-Length: 600\r\n\r\nhello"), PAUSE(100),
		RESET()
	};
	struct fixture f;

	(void)state;
	assert_int_equal(get_once(script, &f), -ECONNRESET);
}

static void assert_excess_is_dropped(const struct script_step *liar)
{
	const struct script_step *scripts[] = { liar, hello };
	struct fixture f;

	start(&f, scripts, 2);
	assert_hello(&f);
	sleep_ms(1000, deadline_in_ms(1000));
	assert_hello(&f);
	assert_hello(&f);
	assert_int_equal(scripted_server_connections(f.server), 2);
	stop(&f);
}

static void bytes_beyond_the_promised_length_never_show_up(void **state)
{
	static const struct script_step at_once[] = {
		RECEIVE(), SEND(OK_HELLO "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"),
		HANG(), CLOSE()
	};
	static const struct script_step later[] = {
		RECEIVE(), SEND(OK_HELLO),
		PAUSE(50), SEND("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"),
		HANG(),    CLOSE()
	};

	(void)state;
	assert_excess_is_dropped(at_once);
	assert_excess_is_dropped(later);
}

static void a_header_without_end_is_refused(void **state)
{
	static const struct script_step script[] = { RECEIVE(), SEND("HTTP/1.1 200 OK\r\n"),
						     SEND_TIMES("X: " C128 "\r\n", 1000000),
						     CLOSE() };
	struct fixture f;

	(void)state;
	assert_int_equal(get_once(script, &f), -EPROTO);
	assert_int_equal(f.heads, 0);
}

static void a_header_line_without_end_is_refused(void **state)
{
	static const struct script_step script[] = { RECEIVE(), SEND("HTTP/1.1 200 OK\r\nX: "),
						     SEND_TIMES(C128, 1000000), CLOSE() };
	struct fixture f;

	(void)state;
	assert_true(get_once(script, &f) < 0);
	assert_int_equal(f.heads, 0);
}

static void an_answer_that_is_not_http_is_refused(void **state)
{
	static const struct script_step script[] = { RECEIVE(), SEND("SSH-2.0-OpenSSH_9.2\r\n"),
						     HANG(), CLOSE() };
	struct fixture f;

	(void)state;
	assert_int_equal(get_once(script, &f), -EPROTO);
}

static void a_nonsensical_content_length_is_refused(void **state)
{
	static const struct script_step script[] = {
		RECEIVE(), SEND("HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\nhello"), CLOSE()
	};
	struct fixture f;

	(void)state;
	assert_int_equal(get_once(script, &f), -EPROTO);
}

/* ---- Time ---- */

static void a_server_that_never_answers_stalls(void **state)
{
	static const struct script_step script[] = { RECEIVE(), HANG(), CLOSE() };
	struct fixture f;

	(void)state;
	assert_int_equal(get_once(script, &f), -ETIMEDOUT);
	assert_in_range(f.took_ms, 950, DEADLINE_MS / 2);
}

static void a_fast_server_that_stops_stalls(void **state)
{
	static const struct script_step script[] = {
		RECEIVE(), SEND("HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n"),
		SEND_TIMES(C128, 400), HANG(), CLOSE()
	};
	struct fixture f;

	(void)state;
	assert_int_equal(get_once(script, &f), -ETIMEDOUT);
	assert_in_range(f.took_ms, 950, DEADLINE_MS / 2);
}

static void a_server_that_trickles_stalls(void **state)
{
	static const struct script_step script[] = { RECEIVE(), TRICKLE(OK_HELLO, 100), CLOSE() };
	struct fixture f;

	(void)state;
	assert_int_equal(get_once(script, &f), -ETIMEDOUT);
	assert_in_range(f.took_ms, 950, DEADLINE_MS / 2);
}

static void a_slow_server_that_makes_progress_does_not_stall(void **state)
{
	static const struct script_step script[] = {
		RECEIVE(),
		SEND("HTTP/1.1 200 OK\r\nContent-Length: 6144\r\n\r\n"),
		SEND_TIMES(C128, 16),
		PAUSE(400),
		SEND_TIMES(C128, 16),
		PAUSE(400),
		SEND_TIMES(C128, 8),
		PAUSE(400),
		SEND_TIMES(C128, 8),
		CLOSE(),
	};
	struct fixture f;

	(void)state;
	assert_int_equal(get_once(script, &f), 0);
	assert_int_equal(f.body_len, 6144);
}

static void the_deadline_ends_a_request(void **state)
{
	static const struct http_config patient = { .stall_timeout_ms = DEADLINE_MS };
	static const struct script_step script[] = { RECEIVE(), HANG(), CLOSE() };
	const struct script_step *scripts[] = { script };
	struct fixture f;

	(void)state;
	start_pool(&f, &patient);
	f.server = scripted_server_start(scripts, 1);
	assert_int_equal(perform(&f, (struct http_request){ .deadline = deadline_in_ms(300) }),
			 -ETIMEDOUT);
	assert_in_range(f.took_ms, 250, DEADLINE_MS / 2);
	stop(&f);
}

static void nothing_is_sent_after_the_deadline(void **state)
{
	const struct script_step *scripts[] = { hello };
	struct fixture f;

	(void)state;
	start(&f, scripts, 1);
	assert_int_equal(perform(&f, (struct http_request){ .deadline = { .at_ms = 1 } }),
			 -ETIMEDOUT);
	assert_int_equal(scripted_server_connections(f.server), 0);
	stop(&f);
}

static int listen_on(struct sockaddr_in *addr)
{
	socklen_t len = sizeof(*addr);
	int fd = socket(AF_INET, SOCK_STREAM, 0);

	*addr = (struct sockaddr_in){ .sin_family = AF_INET };
	addr->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	assert_int_equal(bind(fd, (struct sockaddr *)addr, len), 0);
	assert_int_equal(getsockname(fd, (struct sockaddr *)addr, &len), 0);
	return fd;
}

static int get_from(struct fixture *f, const struct sockaddr_in *addr)
{
	char url[URL_BYTES];

	snprintf(url, sizeof(url), "http://127.0.0.1:%u/", ntohs(addr->sin_port));
	return perform(f, (struct http_request){ .url = url });
}

struct stream_server {
	int fd; /* listens */
	ssize_t after; /* what reading gives behind the request; 0: the client has closed */
};

/* Says something that does not end, and waits for the client to go. */
static void *serve_stream(void *arg)
{
	static const char answer[] = "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello";
	const struct timeval patience = { .tv_sec = DEADLINE_MS / 1000 };
	struct stream_server *s = arg;
	char request[4096];
	int fd = accept(s->fd, NULL, NULL);

	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	if (recv(fd, request, sizeof(request), 0) > 0 &&
	    send(fd, answer, sizeof(answer) - 1, MSG_NOSIGNAL) > 0)
		s->after = recv(fd, request, sizeof(request), 0);
	close(fd);
	return NULL;
}

static void a_request_that_could_be_cancelled_leaves_no_connection_behind(void **state)
{
	struct stream_server server = { .after = -1 };
	struct http_cancel cancel;
	struct sockaddr_in addr;
	char url[URL_BYTES];
	struct fixture f;
	pthread_t thread;

	(void)state;
	server.fd = listen_on(&addr);
	assert_int_equal(listen(server.fd, 1), 0);
	assert_int_equal(pthread_create(&thread, NULL, serve_stream, &server), 0);
	assert_int_equal(http_cancel_init(&cancel), 0);
	start_pool(&f, &(struct http_config){ 0 });
	f.body_result = -ENODATA;
	snprintf(url, sizeof(url), "http://127.0.0.1:%u/", ntohs(addr.sin_port));
	assert_int_equal(perform(&f, (struct http_request){ .url = url, .cancel = &cancel }),
			 -ENODATA);
	pthread_join(thread, NULL);
	assert_int_equal(server.after, 0);
	http_cancel_destroy(&cancel);
	stop(&f);
	close(server.fd);
}

static void a_port_where_nobody_listens_refuses(void **state)
{
	struct sockaddr_in addr;
	struct fixture f;
	int fd = listen_on(&addr); /* bound, not listening */

	(void)state;
	start_pool(&f, &(struct http_config){ 0 });
	assert_int_equal(get_from(&f, &addr), -ECONNREFUSED);
	stop(&f);
	close(fd);
}

static void a_host_that_drops_connections_times_out(void **state)
{
	enum { FILLERS = 4 };
	struct sockaddr_in addr;
	struct fixture f;
	int fillers[FILLERS];
	int fd = listen_on(&addr);

	(void)state;
	/* A full backlog: further SYNs are dropped. */
	assert_int_equal(listen(fd, 0), 0);
	for (int i = 0; i < FILLERS; i++) {
		fillers[i] = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
		(void)connect(fillers[i], (struct sockaddr *)&addr, sizeof(addr));
	}
	start_pool(&f, &(struct http_config){ .connect_timeout_ms = 300 });
	assert_int_equal(get_from(&f, &addr), -ETIMEDOUT);
	assert_in_range(f.took_ms, 250, DEADLINE_MS / 2);
	stop(&f);
	for (int i = 0; i < FILLERS; i++)
		close(fillers[i]);
	close(fd);
}

/* ---- Helpers for callers ---- */

static void a_body_grows_up_to_its_limit(void **state)
{
	struct http_body b = { .max_bytes = 10000 };
	uint8_t piece[5000];

	(void)state;
	memset(piece, 'x', sizeof(piece));
	assert_int_equal(http_body_append(&b, piece, sizeof(piece)), 0);
	assert_int_equal(http_body_append(&b, piece, sizeof(piece)), 0);
	assert_int_equal(b.len, 10000);
	assert_int_equal(strlen((char *)b.data), 10000);
	assert_int_equal(http_body_append(&b, piece, 1), -EMSGSIZE);
	assert_int_equal(b.len, 10000);
	free(b.data);
}

static void assert_encoded(const char *path, const char *expected)
{
	char *got = http_encode_path(path);

	assert_string_equal(got, expected);
	free(got);
}

static void encodes_all_but_unreserved_bytes_and_slashes(void **state)
{
	(void)state;
	assert_encoded("/", "/");
	assert_encoded("", "");
	assert_encoded("/aZ09-._~/b", "/aZ09-._~/b");
	assert_encoded("/a b?c#d%e+f&g\"h\\i", "/a%20b%3Fc%23d%25e%2Bf%26g%22h%5Ci");
	assert_encoded("/\x01\x7f\x80\xff\n", "/%01%7F%80%FF%0A");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(uses_a_connection_again),
		cmocka_unit_test(replaces_a_connection_that_was_closed_while_idle),
		cmocka_unit_test(replaces_a_connection_that_closes_instead_of_answering),
		cmocka_unit_test(replaces_a_connection_that_resets_instead_of_answering),
		cmocka_unit_test(sends_the_body_again_on_the_new_connection),
		cmocka_unit_test(replaces_a_connection_only_once),
		cmocka_unit_test(does_not_repeat_a_request_whose_answer_began),
		cmocka_unit_test(does_not_repeat_a_request_on_a_fresh_connection),
		cmocka_unit_test(does_not_use_a_connection_that_was_idle_for_too_long),
		cmocka_unit_test(keeps_a_connection_per_server_up_to_the_limit),
		cmocka_unit_test(serves_many_threads_over_a_connection_each),
		cmocka_unit_test(sends_the_headers_that_were_asked_for),
		cmocka_unit_test(sends_nothing_of_the_request_before),
		cmocka_unit_test(keeps_dots_in_paths),
		cmocka_unit_test(refuses_what_would_break_the_header),
		cmocka_unit_test(speaks_nothing_but_http),
		cmocka_unit_test(ignores_proxies_in_the_environment),
		cmocka_unit_test(parses_the_header),
		cmocka_unit_test(says_what_is_absent),
		cmocka_unit_test(reads_the_total_of_an_unsatisfied_range),
		cmocka_unit_test(takes_a_malformed_content_range_as_absent),
		cmocka_unit_test(takes_a_value_that_is_too_long_as_absent),
		cmocka_unit_test(takes_a_weak_etag_as_absent),
		cmocka_unit_test(calls_on_head_once_also_without_a_body),
		cmocka_unit_test(passes_over_interim_answers),
		cmocka_unit_test(returns_a_redirect_as_it_is),
		cmocka_unit_test(takes_the_grpc_status_from_trailers),
		cmocka_unit_test(cuts_a_long_grpc_message),
		cmocka_unit_test(ends_with_what_on_head_returns),
		cmocka_unit_test(ends_with_what_on_body_returns),
		cmocka_unit_test(a_body_shorter_than_promised_is_an_error),
		cmocka_unit_test(a_chunked_body_without_its_end_is_an_error),
		cmocka_unit_test(a_reset_within_the_body_is_an_error),
		cmocka_unit_test(bytes_beyond_the_promised_length_never_show_up),
		cmocka_unit_test(a_header_without_end_is_refused),
		cmocka_unit_test(a_header_line_without_end_is_refused),
		cmocka_unit_test(an_answer_that_is_not_http_is_refused),
		cmocka_unit_test(a_nonsensical_content_length_is_refused),
		cmocka_unit_test(a_server_that_never_answers_stalls),
		cmocka_unit_test(a_fast_server_that_stops_stalls),
		cmocka_unit_test(a_server_that_trickles_stalls),
		cmocka_unit_test(a_slow_server_that_makes_progress_does_not_stall),
		cmocka_unit_test(the_deadline_ends_a_request),
		cmocka_unit_test(nothing_is_sent_after_the_deadline),
		cmocka_unit_test(a_request_that_could_be_cancelled_leaves_no_connection_behind),
		cmocka_unit_test(a_port_where_nobody_listens_refuses),
		cmocka_unit_test(a_host_that_drops_connections_times_out),
		cmocka_unit_test(a_body_grows_up_to_its_limit),
		cmocka_unit_test(encodes_all_but_unreserved_bytes_and_slashes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
