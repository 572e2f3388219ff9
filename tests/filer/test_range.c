/* Ranges over the project's own HTTP client: what is asked, what of the answer is believed, which
 * connections are used again, and what is left to the general client. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "filer/base/base.h"
#include "filer/endpoint.h"
#include "filer/range.h"
#include "tests/support/stage.h"

#define BUDGET_MS 10000
#define STALL_MS 1500
#define LATE_MS 3000 /* of a busy machine */
#define IDLE_MAX_MS 1000
#define CANARY 0x5a
#define RANGE_5_9 "Content-Range: bytes 5-9/20\r\n"
#define GOOD SEND("HTTP/1.1 206 X\r\nContent-Length: 5\r\n" RANGE_5_9 "ETag: \"abc\"\r\n\r\n56789")

struct world {
	struct stage *stage;
	struct http_pool *http;
	struct range_pool *ranges;
	char url[ENDPOINT_STR_MAX + 8];
	size_t origin_len;
	const char *bearer;
	unsigned budget_ms;
	int head_result;
	int heads; /* calls of on_head */
	size_t got; /* bytes told to on_data */
	struct http_head head;
	uint8_t memory[64];
};

static int make(void **state)
{
	static const struct http_config cfg = { .connect_timeout_ms = STALL_MS,
						.stall_timeout_ms = STALL_MS,
						.idle_max_ms = IDLE_MAX_MS,
						.handles_max = 2 };
	struct world *w = calloc(1, sizeof(*w));

	w->stage = stage_new();
	w->budget_ms = BUDGET_MS;
	assert_int_equal(http_pool_new(&cfg, &w->http), 0);
	assert_int_equal(range_pool_new(w->http, &w->ranges), 0);
	*state = w;
	return 0;
}

static int drop(void **state)
{
	struct world *w = *state;

	range_pool_free(w->ranges);
	http_pool_free(w->http);
	stage_free(w->stage);
	free(w);
	return 0;
}

static void set_origin(struct world *w, const char *origin)
{
	snprintf(w->url, sizeof(w->url), "%s/3,16?x", origin);
	w->origin_len = strlen(origin);
}

#define SERVE(w, ...) serve((w), STAGE_SERVER((w)->stage, __VA_ARGS__))
static struct scripted_server *serve(struct world *w, struct scripted_server *s)
{
	set_origin(w, scripted_server_url(s));
	return s;
}

static int on_head(void *arg, const struct http_head *head)
{
	struct world *w = arg;

	w->heads++;
	w->head = *head;
	return w->head_result;
}

static void on_data(void *arg, const uint8_t *p, size_t n)
{
	struct world *w = arg;

	assert_true(n > 0);
	(void)p;
	w->got += n;
}

static int get_bufs(struct world *w, const struct read_buf *bufs, size_t n_bufs, size_t len)
{
	const struct range_request r = {
		.url = w->url,
		.origin_len = w->origin_len,
		.bearer = w->bearer,
		.offset = 5,
		.len = len,
		.bufs = bufs,
		.n_bufs = n_bufs,
		.on_head = on_head,
		.on_data = on_data,
		.arg = w,
		.deadline = deadline_in_ms(w->budget_ms),
	};
	struct http_head head;

	w->heads = 0;
	w->got = 0;
	return range_get(w->ranges, &r, &head);
}

/* Five bytes from the fifth on. */
static int get(struct world *w)
{
	const struct read_buf buf = { .ptr = w->memory, .len = 5 };

	memset(w->memory, CANARY, sizeof(w->memory));
	int err = get_bufs(w, &buf, 1, 5);
	for (size_t i = 5; i < sizeof(w->memory); i++)
		assert_int_equal(w->memory[i], CANARY);
	return err;
}

static void assert_got(const struct world *w)
{
	assert_int_equal(w->heads, 1);
	assert_int_equal(w->got, 5);
	assert_memory_equal(w->memory, "56789", 5);
}

static void assert_good(struct world *w)
{
	assert_int_equal(get(w), 0);
	assert_got(w);
}

static struct range_stats stats(struct world *w)
{
	struct range_stats s;

	range_pool_stats(w->ranges, &s);
	return s;
}

/* --- what is asked, and what is told --- */

static void test_request_is_as_plain_as_can_be(void **state)
{
	struct world *w = *state;
	struct scripted_server *s = SERVE(w, { RECEIVE(), GOOD, AGAIN() });
	char wanted[128];

	assert_good(w);
	snprintf(wanted, sizeof(wanted),
		 "GET /3,16?x HTTP/1.1\r\nHost: 127.0.0.1:%u\r\nRange: bytes=5-9\r\n\r\n",
		 scripted_server_port(s));
	assert_string_equal(scripted_server_request(s, 0), wanted);
	assert_int_equal(w->head.status, 206);
	assert_int_equal(w->head.range_start, 5);
	assert_int_equal(w->head.range_total, 20);
	assert_string_equal(w->head.etag, "abc");
}

static void test_token_is_shown(void **state)
{
	struct world *w = *state;
	struct scripted_server *s = SERVE(w, { RECEIVE(), GOOD, AGAIN() });

	w->bearer = "aa.bb";
	assert_good(w);
	assert_non_null(
		strstr(scripted_server_request(s, 0), "\r\nAuthorization: Bearer aa.bb\r\n"));
}

static void test_token_that_would_break_the_header_is_not_sent(void **state)
{
	struct world *w = *state;
	struct scripted_server *s = SERVE(w, { RECEIVE(), GOOD, AGAIN() });

	w->bearer = "aa\r\nX: y";
	assert_int_equal(get(w), -EINVAL);
	assert_int_equal(scripted_server_connections(s), 0);
}

static void test_answer_may_come_byte_by_byte(void **state)
{
	struct world *w = *state;

	SERVE(w, { RECEIVE(),
		   TRICKLE("HTTP/1.1 206 X\r\nContent-Length: 5\r\n" RANGE_5_9 "\r\n56789", 2),
		   AGAIN() });
	/* a busy machine may keep the server from sending for as long as is taken for a stall, but not each time */
	for (int tries = 0; get(w) != 0; tries++)
		assert_true(tries < 5);
	assert_got(w);
}

/* More buffers than one receive takes, some of them empty, a few bytes of them with the header. */
static void test_many_buffers_are_filled_in_order(void **state)
{
	struct world *w = *state;
	static uint8_t data[20000], memory[20000];
	struct read_buf bufs[400];

	for (size_t i = 0; i < sizeof(data); i++)
		data[i] = (uint8_t)(i * 7 + i / 251);
	for (size_t i = 0; i < 400; i++)
		bufs[i] = (struct read_buf){ .ptr = memory + i / 2 * 100, .len = i % 2 ? 100 : 0 };
	SERVE(w, { RECEIVE(), stage_answer(w->stage, 206, "", data, sizeof(data)), AGAIN() });
	assert_int_equal(get_bufs(w, bufs, 400, sizeof(memory)), 0);
	assert_int_equal(w->got, sizeof(memory));
	assert_memory_equal(memory, data, sizeof(memory));
}

static void test_length_that_was_not_asked_for_writes_nothing(void **state)
{
	struct world *w = *state;

	SERVE(w, { RECEIVE(), stage_text(w->stage, 206, RANGE_5_9, "567890"), AGAIN() });
	assert_int_equal(get(w), -EPROTO);
	assert_int_equal(w->memory[0], CANARY);
	SERVE(w, { RECEIVE(), stage_text(w->stage, 206, RANGE_5_9, "5678"), AGAIN() });
	assert_int_equal(get(w), -EPROTO);
	assert_int_equal(w->memory[0], CANARY);
}

static void test_refusal_of_the_header_ends_the_request(void **state)
{
	struct world *w = *state;

	SERVE(w, { RECEIVE(), GOOD, AGAIN() });
	w->head_result = -EXDEV;
	assert_int_equal(get(w), -EXDEV);
	assert_int_equal(w->got, 0);
	assert_int_equal(w->memory[0], CANARY);
}

/* --- connections --- */

static void test_connection_is_used_again(void **state)
{
	struct world *w = *state;
	struct scripted_server *s = SERVE(w, { RECEIVE(), GOOD, AGAIN() });

	for (int i = 0; i < 5; i++)
		assert_good(w);
	assert_int_equal(scripted_server_connections(s), 1);
	assert_int_equal(stats(w).requests, 5);
	assert_int_equal(stats(w).connections, 1);
	assert_int_equal(stats(w).failures, 0);
}

static void test_error_answers_keep_the_connection(void **state)
{
	struct world *w = *state;
	struct scripted_server *s = SERVE(w, { RECEIVE(), stage_text(w->stage, 404, "", "not here"),
					       RECEIVE(), GOOD, AGAIN() });

	assert_int_equal(get(w), 0);
	assert_int_equal(w->head.status, 404);
	assert_int_equal(w->got, 0);
	assert_good(w);
	assert_int_equal(scripted_server_connections(s), 1);
}

static void test_long_error_answer_is_not_waited_for(void **state)
{
	struct world *w = *state;

	SERVE(w, { RECEIVE(), SEND("HTTP/1.1 500 Oh\r\nContent-Length: 65537\r\n\r\n"), HANG(),
		   CLOSE() });
	assert_int_equal(get(w), -EPROTO);
}

static void test_connection_that_is_to_close_is_not_used_again(void **state)
{
	struct world *w = *state;
	struct scripted_server *s = SERVE(
		w,
		{ RECEIVE(), stage_text(w->stage, 206, "connection: Close\r\n" RANGE_5_9, "56789"),
		  AGAIN() });

	assert_good(w);
	assert_good(w);
	assert_int_equal(scripted_server_connections(s), 2);
}

static void test_connection_with_bytes_beyond_the_answer_is_not_used_again(void **state)
{
	struct world *w = *state;
	struct scripted_server *s = SERVE(
		w, { RECEIVE(),
		     SEND("HTTP/1.1 206 X\r\nContent-Length: 5\r\n" RANGE_5_9 "\r\n56789HTTP/1.1"),
		     AGAIN() });

	assert_good(w);
	assert_good(w);
	assert_int_equal(scripted_server_connections(s), 2);
}

static void test_bytes_that_nobody_asked_for_are_no_answer(void **state)
{
	struct world *w = *state;
	struct scripted_server *s = SERVE(
		w,
		{ RECEIVE(), GOOD, PAUSE(20),
		  SEND("HTTP/1.1 206 X\r\nContent-Length: 5\r\n" RANGE_5_9 "\r\nwrong"), AGAIN() });

	assert_good(w);
	sleep_ms(IDLE_MAX_MS * 3 / 4, deadline_in_ms(BUDGET_MS));
	assert_good(w);
	assert_int_equal(scripted_server_connections(s), 2);
}

static void test_connection_closed_while_idle_is_replaced(void **state)
{
	struct world *w = *state;
	struct scripted_server *s = SERVE(w, { RECEIVE(), GOOD, CLOSE() });

	assert_good(w);
	sleep_ms(50, deadline_in_ms(BUDGET_MS));
	assert_good(w);
	assert_int_equal(scripted_server_requests(s), 2);
}

static void test_connection_closed_at_the_request_is_replaced_once(void **state)
{
	struct world *w = *state;
	struct scripted_server *s = SERVE(w, { RECEIVE(), GOOD, RECEIVE(), CLOSE() },
					  { RECEIVE(), GOOD, RECEIVE(), RESET() },
					  { RECEIVE(), RESET() });

	assert_good(w);
	assert_good(w);
	assert_int_equal(scripted_server_requests(s), 3);
	assert_int_equal(get(w), -ECONNRESET);
	assert_int_equal(scripted_server_requests(s), 5);
}

static void test_request_whose_answer_began_is_not_repeated(void **state)
{
	struct world *w = *state;
	struct scripted_server *s = SERVE(w, { RECEIVE(), GOOD, RECEIVE(), SEND("HTTP"), CLOSE() });

	assert_good(w);
	assert_int_equal(get(w), -EPROTO);
	assert_int_equal(scripted_server_requests(s), 2);
}

static void test_connection_that_was_idle_for_long_is_not_used_again(void **state)
{
	struct world *w = *state;
	struct scripted_server *s = SERVE(w, { RECEIVE(), GOOD, AGAIN() });

	assert_good(w);
	sleep_ms(IDLE_MAX_MS + 50, deadline_in_ms(BUDGET_MS));
	assert_good(w);
	assert_int_equal(scripted_server_connections(s), 2);
}

static void test_connections_are_kept_per_server_up_to_the_limit(void **state)
{
	struct world *w = *state;
	struct scripted_server *s[3];

	for (size_t i = 0; i < 3; i++) {
		s[i] = SERVE(w, { RECEIVE(), GOOD, AGAIN() });
		assert_good(w);
	}
	set_origin(w, scripted_server_url(s[1]));
	assert_good(w);
	assert_int_equal(scripted_server_connections(s[1]), 1);
	set_origin(w, scripted_server_url(s[0])); /* was used least recently */
	assert_good(w);
	assert_int_equal(scripted_server_connections(s[0]), 2);
}

static void test_name_is_resolved(void **state)
{
	struct world *w = *state;
	struct scripted_server *s = SERVE(w, { RECEIVE(), GOOD, AGAIN() });
	char origin[64];

	snprintf(origin, sizeof(origin), "http://localhost:%u", scripted_server_port(s));
	set_origin(w, origin);
	assert_good(w);
}

static void test_server_that_cannot_be_reached_is_told(void **state)
{
	struct world *w = *state;
	char origin[64];

	snprintf(origin, sizeof(origin), "http://127.0.0.1:%u", stage_dead_port());
	set_origin(w, origin);
	assert_int_equal(get(w), -ECONNREFUSED);
	set_origin(w, "http://no-such-host.invalid:80");
	assert_int_equal(get(w), -EHOSTUNREACH);
	assert_int_equal(stats(w).failures, 2);
}

/* --- time --- */

static void assert_times_out(struct world *w, int64_t ms)
{
	int64_t start_ms = now_ms();

	assert_int_equal(get(w), -ETIMEDOUT);
	assert_true(now_ms() - start_ms >= ms - 5);
	assert_true(now_ms() - start_ms < ms + LATE_MS);
}

static void test_silent_server_stalls(void **state)
{
	struct world *w = *state;

	SERVE(w, { RECEIVE(), HANG(), CLOSE() });
	assert_times_out(w, STALL_MS);
}

static void test_trickled_header_stalls(void **state)
{
	struct world *w = *state;

	SERVE(w, { RECEIVE(), TRICKLE("HTTP/1.1 206 Oh so slow\r\nContent-Length: 5\r\n", 90),
		   CLOSE() });
	assert_times_out(w, STALL_MS);
	assert_int_equal(w->heads, 0);
}

static void test_silence_on_a_kept_connection_is_not_repeated(void **state)
{
	struct world *w = *state;
	struct scripted_server *s = SERVE(w, { RECEIVE(), GOOD, RECEIVE(), HANG(), CLOSE() });

	assert_good(w);
	assert_times_out(w, STALL_MS);
	assert_int_equal(scripted_server_requests(s), 2);
}

static void test_silence_after_a_fast_start_stalls(void **state)
{
	struct world *w = *state;
	static uint8_t memory[20000];
	const struct read_buf buf = { .ptr = memory, .len = sizeof(memory) };
	int64_t start_ms = now_ms();

	SERVE(w, { RECEIVE(), SEND("HTTP/1.1 206 X\r\nContent-Length: 20000\r\n\r\n"),
		   SEND_TIMES("0123456789", 1500), HANG(), CLOSE() });
	assert_int_equal(get_bufs(w, &buf, 1, sizeof(memory)), -ETIMEDOUT);
	assert_int_equal(w->got, 15000);
	assert_true(now_ms() - start_ms < STALL_MS + LATE_MS);
}

static void test_deadline_ends_a_request_sooner(void **state)
{
	struct world *w = *state;
	const struct http_config patient = { .stall_timeout_ms = 4 * LATE_MS };

	range_pool_free(w->ranges);
	http_pool_free(w->http);
	assert_int_equal(http_pool_new(&patient, &w->http), 0);
	assert_int_equal(range_pool_new(w->http, &w->ranges), 0);
	SERVE(w, { RECEIVE(), HANG(), CLOSE() });
	w->budget_ms = 40;
	assert_times_out(w, 40);
	w->budget_ms = 150;
	assert_times_out(w, 150);
}

static void test_past_deadline_asks_nobody(void **state)
{
	struct world *w = *state;
	struct scripted_server *s = SERVE(w, { RECEIVE(), GOOD, AGAIN() });

	assert_good(w);
	w->budget_ms = 0;
	assert_int_equal(get(w), -ETIMEDOUT);
	w->budget_ms = BUDGET_MS;
	assert_good(w);
	assert_int_equal(scripted_server_requests(s), 2);
}

/* --- what is left to others --- */

static void assert_unusual(struct world *w)
{
	assert_int_equal(get(w), RANGE_UNUSUAL);
	assert_int_equal(w->heads, 0);
	assert_int_equal(w->memory[0], CANARY);
}

static void test_https_is_left_to_others(void **state)
{
	struct world *w = *state;

	set_origin(w, "https://127.0.0.1:1");
	assert_unusual(w);
}

static void test_server_of_unusual_answers_is_not_asked_again(void **state)
{
	struct world *w = *state;
	struct scripted_server *s = SERVE(
		w,
		{ RECEIVE(), SEND("HTTP/1.1 206 X\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
		  AGAIN() });

	assert_unusual(w);
	assert_unusual(w);
	assert_int_equal(scripted_server_requests(s), 1);
	assert_int_equal(stats(w).unusual, 1);
}

static void test_endless_header_is_left_to_others(void **state)
{
	struct world *w = *state;

	SERVE(w, { RECEIVE(), SEND("HTTP/1.1 206 X\r\n"), SEND_TIMES("X-Y: zzzzzzzzz\r\n", 1000),
		   HANG(), CLOSE() });
	assert_unusual(w);
}

static void test_server_that_speaks_no_http_is_left_to_others(void **state)
{
	struct world *w = *state;

	SERVE(w, { RECEIVE(), SEND("SSH-2.0-x\r\n"), HANG(), CLOSE() });
	assert_unusual(w);
}

/* --- the header --- */

#define LINE "HTTP/1.1 200 OK\r\n"
#define LENGTH "Content-Length: 7\r\n"

static ssize_t parse(const char *text, struct http_head *head, bool *keep)
{
	return range_parse_head(text, strlen(text), head, keep);
}

static void test_header_is_read(void **state)
{
	static const char text[] = LINE "content-LENGTH:7 \r\nX:\r\nEtag: \"e\"\r\n\r\nbody";
	struct http_head head;
	bool keep;

	(void)state;
	assert_int_equal(parse(text, &head, &keep), strlen(text) - 4);
	assert_int_equal(head.status, 200);
	assert_int_equal(head.content_length, 7);
	assert_int_equal(head.range_start, -1);
	assert_string_equal(head.etag, "e");
	assert_true(keep);
	for (size_t len = 0; len < strlen(text) - 4; len++)
		assert_int_equal(range_parse_head(text, len, &head, &keep), 0);
}

static void test_only_keep_alive_keeps(void **state)
{
	struct http_head head;
	bool keep;

	(void)state;
	assert_true(parse(LINE LENGTH "Connection: Keep-Alive\r\n\r\n", &head, &keep) > 0);
	assert_true(keep);
	assert_true(parse(LINE LENGTH "Connection: close, te\r\n\r\n", &head, &keep) > 0);
	assert_false(keep);
}

static void test_unusual_headers(void **state)
{
	static const char *const texts[] = {
		"HTTP/1.0 200 OK\r\n" LENGTH "\r\n",
		"HTTP/2 200\r\n" LENGTH "\r\n",
		"http/1.1 200 OK\r\n" LENGTH "\r\n",
		"HTTP/1.1 100 Continue\r\n" LENGTH "\r\n",
		"HTTP/1.1 204 No\r\n" LENGTH "\r\n",
		"HTTP/1.1 205 No\r\n" LENGTH "\r\n",
		"HTTP/1.1 304 No\r\n" LENGTH "\r\n",
		"HTTP/1.1 600 No\r\n" LENGTH "\r\n",
		"HTTP/1.1 20 No\r\n" LENGTH "\r\n",
		"HTTP/1.1 0200 No\r\n" LENGTH "\r\n",
		"HTTP/1.1 200OK\r\n" LENGTH "\r\n",
		"HTTP/1.1 -20 OK\r\n" LENGTH "\r\n",
		LINE "\r\n",
		LINE LENGTH LENGTH "\r\n",
		LINE LENGTH "Transfer-Encoding: identity\r\n\r\n",
		LINE LENGTH "Upgrade: h2c\r\n\r\n",
		LINE "Content-Length: 7,7\r\n\r\n",
		LINE "Content-Length: +7\r\n\r\n",
		LINE "Content-Length: -7\r\n\r\n",
		LINE "Content-Length: 0x7\r\n\r\n",
		LINE "Content-Length:\r\n\r\n",
		LINE "Content-Length: 9223372036854775808\r\n\r\n",
		LINE "Content-Length : 7\r\n\r\n",
		LINE " " LENGTH "\r\n",
		LINE LENGTH "\tfolded: x\r\n\r\n",
		LINE LENGTH "no colon\r\n\r\n",
		LINE LENGTH ": no name\r\n\r\n",
		LINE LENGTH "X: a\nY: b\r\n\r\n",
		LINE LENGTH "X: a\rY: b\r\n\r\n",
		LINE LENGTH "X: \x01\r\n\r\n",
	};
	static const char nul[] = LINE LENGTH "X: a\0b\r\n\r\n";
	struct http_head head;
	bool keep;

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(texts); i++)
		if (parse(texts[i], &head, &keep) != -1)
			fail_msg("taken: %s", texts[i]);
	assert_int_equal(range_parse_head(nul, sizeof(nul) - 1, &head, &keep), -1);
}

/* --- many at once --- */

static void *get_often(void *arg)
{
	struct world w = *(struct world *)arg;

	for (int i = 0; i < 100; i++)
		if (get(&w) != 0 || memcmp(w.memory, "56789", 5) != 0)
			return arg;
	return NULL;
}

static void test_threads_share_the_pool(void **state)
{
	struct world *w = *state;
	pthread_t threads[4];
	void *failed;

	SERVE(w, { RECEIVE(), GOOD, AGAIN() });
	for (size_t i = 0; i < ARRAY_LEN(threads); i++)
		assert_int_equal(pthread_create(&threads[i], NULL, get_often, w), 0);
	for (size_t i = 0; i < ARRAY_LEN(threads); i++) {
		pthread_join(threads[i], &failed);
		assert_null(failed);
	}
	assert_int_equal(stats(w).requests, 400);
}

/* --- several at once --- */

#define MANY 3
#define NOT_YET 1

struct many {
	struct world *w;
	struct range_request requests[MANY];
	struct one {
		struct many *m;
		struct read_buf buf;
		uint8_t memory[8];
		int err;
		int status;
	} ones[MANY];
	size_t answered;
};

static int on_one_head(void *arg, const struct http_head *head)
{
	struct one *o = arg;

	o->status = head->status;
	return o->m->w->head_result;
}

static void on_one_data(void *arg, const uint8_t *p, size_t n)
{
	(void)arg;
	(void)p;
	(void)n;
}

static void on_one_answer(void *arg, int err, const struct http_head *head)
{
	struct one *o = arg;

	assert_int_equal(err == 0, head != NULL);
	assert_int_equal(o->err, NOT_YET);
	assert_ptr_equal(o, &o->m->ones[o->m->answered++]);
	o->err = err;
}

/* Three times five bytes from the fifth on. */
static void get_many(struct world *w, struct many *m)
{
	*m = (struct many){ .w = w };
	for (size_t i = 0; i < MANY; i++) {
		struct one *o = &m->ones[i];

		*o = (struct one){ .m = m, .err = NOT_YET };
		o->buf = (struct read_buf){ .ptr = o->memory, .len = 5 };
		m->requests[i] = (struct range_request){ .url = w->url,
							 .origin_len = w->origin_len,
							 .offset = 5,
							 .len = 5,
							 .bufs = &o->buf,
							 .n_bufs = 1,
							 .on_head = on_one_head,
							 .on_data = on_one_data,
							 .arg = o,
							 .deadline = deadline_in_ms(w->budget_ms) };
	}
	range_get_many(w->ranges, m->requests, MANY, on_one_answer);
	assert_int_equal(m->answered, MANY);
}

static void assert_one(const struct many *m, size_t i)
{
	assert_int_equal(m->ones[i].err, 0);
	assert_memory_equal(m->ones[i].memory, "56789", 5);
}

#define ANSWER "HTTP/1.1 206 X\r\nContent-Length: 5\r\n" RANGE_5_9 "\r\n56789"

static void test_many_are_sent_together(void **state)
{
	struct world *w = *state;
	struct scripted_server *s = SERVE(
		w, { RECEIVE(), RECEIVE(), RECEIVE(), SEND(ANSWER ANSWER ANSWER), AGAIN() });
	struct many m;

	for (size_t round = 0; round < 2; round++) {
		get_many(w, &m);
		for (size_t i = 0; i < MANY; i++)
			assert_one(&m, i);
	}
	assert_int_equal(scripted_server_connections(s), 1);
}

static void test_many_answers_may_come_in_any_pieces(void **state)
{
	struct world *w = *state;
	struct many m;

	SERVE(w, { RECEIVE(), TRICKLE(ANSWER ANSWER ANSWER, 1), AGAIN() });
	get_many(w, &m);
	for (size_t i = 0; i < MANY; i++)
		assert_one(&m, i);
}

static void test_an_error_among_many_is_that_ones_only(void **state)
{
	struct world *w = *state;
	struct many m;

	SERVE(w, { RECEIVE(), SEND(ANSWER "HTTP/1.1 404 X\r\nContent-Length: 4\r\n\r\ngone" ANSWER),
		   AGAIN() });
	get_many(w, &m);
	assert_one(&m, 0);
	assert_int_equal(m.ones[1].err, 0);
	assert_int_equal(m.ones[1].status, 404);
	assert_one(&m, 2);
}

static void test_connection_that_ends_among_many_fails_the_rest(void **state)
{
	struct world *w = *state;
	struct many m;

	SERVE(w, { RECEIVE(), SEND(ANSWER), CLOSE() });
	get_many(w, &m);
	assert_one(&m, 0);
	assert_true(m.ones[1].err < 0);
	assert_true(m.ones[2].err < 0);
}

static void test_connection_to_be_closed_among_many_fails_the_rest(void **state)
{
	struct world *w = *state;
	struct many m;

	SERVE(w, { RECEIVE(),
		   SEND("HTTP/1.1 206 X\r\nContent-Length: 5\r\nConnection: close\r\n" RANGE_5_9
			"\r\n56789"),
		   HANG() });
	get_many(w, &m);
	assert_one(&m, 0);
	assert_int_equal(m.ones[1].err, -ECONNRESET);
	assert_int_equal(m.ones[2].err, -ECONNRESET);
}

static void test_many_are_sent_again_on_a_connection_that_was_closed_while_idle(void **state)
{
	struct world *w = *state;
	struct many m;

	SERVE(w, { RECEIVE(), GOOD, RECEIVE(), CLOSE() },
	      { RECEIVE(), SEND(ANSWER ANSWER ANSWER), AGAIN() });
	assert_good(w);
	get_many(w, &m);
	for (size_t i = 0; i < MANY; i++)
		assert_one(&m, i);
}

static void test_bytes_after_the_last_of_many_lose_the_connection(void **state)
{
	struct world *w = *state;
	struct scripted_server *s = SERVE(w,
					  { RECEIVE(), SEND(ANSWER ANSWER ANSWER "more"), HANG() },
					  { RECEIVE(), GOOD, AGAIN() });
	struct many m;

	get_many(w, &m);
	assert_one(&m, 2);
	assert_good(w);
	assert_int_equal(scripted_server_connections(s), 2);
}

static void test_unusual_answer_among_many_leaves_the_rest_to_others(void **state)
{
	struct world *w = *state;
	struct many m;

	SERVE(w, { RECEIVE(),
		   SEND(ANSWER "HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
		   HANG() });
	get_many(w, &m);
	assert_one(&m, 0);
	assert_int_equal(m.ones[1].err, RANGE_UNUSUAL);
	assert_int_equal(m.ones[2].err, RANGE_UNUSUAL);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, make, drop)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_request_is_as_plain_as_can_be),
		TEST(test_token_is_shown),
		TEST(test_token_that_would_break_the_header_is_not_sent),
		TEST(test_answer_may_come_byte_by_byte),
		TEST(test_many_buffers_are_filled_in_order),
		TEST(test_length_that_was_not_asked_for_writes_nothing),
		TEST(test_refusal_of_the_header_ends_the_request),
		TEST(test_connection_is_used_again),
		TEST(test_error_answers_keep_the_connection),
		TEST(test_long_error_answer_is_not_waited_for),
		TEST(test_connection_that_is_to_close_is_not_used_again),
		TEST(test_connection_with_bytes_beyond_the_answer_is_not_used_again),
		TEST(test_bytes_that_nobody_asked_for_are_no_answer),
		TEST(test_connection_closed_while_idle_is_replaced),
		TEST(test_connection_closed_at_the_request_is_replaced_once),
		TEST(test_request_whose_answer_began_is_not_repeated),
		TEST(test_connection_that_was_idle_for_long_is_not_used_again),
		TEST(test_connections_are_kept_per_server_up_to_the_limit),
		TEST(test_name_is_resolved),
		TEST(test_server_that_cannot_be_reached_is_told),
		TEST(test_silent_server_stalls),
		TEST(test_trickled_header_stalls),
		TEST(test_silence_on_a_kept_connection_is_not_repeated),
		TEST(test_silence_after_a_fast_start_stalls),
		TEST(test_deadline_ends_a_request_sooner),
		TEST(test_past_deadline_asks_nobody),
		TEST(test_https_is_left_to_others),
		TEST(test_server_of_unusual_answers_is_not_asked_again),
		TEST(test_endless_header_is_left_to_others),
		TEST(test_server_that_speaks_no_http_is_left_to_others),
		TEST(test_header_is_read),
		TEST(test_only_keep_alive_keeps),
		TEST(test_unusual_headers),
		TEST(test_threads_share_the_pool),
		TEST(test_many_are_sent_together),
		TEST(test_many_answers_may_come_in_any_pieces),
		TEST(test_an_error_among_many_is_that_ones_only),
		TEST(test_connection_that_ends_among_many_fails_the_rest),
		TEST(test_connection_to_be_closed_among_many_fails_the_rest),
		TEST(test_many_are_sent_again_on_a_connection_that_was_closed_while_idle),
		TEST(test_bytes_after_the_last_of_many_lose_the_connection),
		TEST(test_unusual_answer_among_many_leaves_the_rest_to_others),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
