/* Needles over HTTP: what is asked, what is believed of the answer, and where the bytes go. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "filer/base/base.h"
#include "filer/filer.h"
#include "filer/http.h"
#include "filer/locate.h"
#include "filer/needle.h"
#include "tests/support/stage.h"

#define BUDGET_MS 10000
#define STALL_MS 1500
#define DATA "0123456789abcdefghij"
#define DATA_LEN (sizeof(DATA) - 1)
#define CANARY 0x5a

static const struct fid fid = { .volume_id = 3, .key = 0x16, .cookie = 0x37037d6a };

struct world {
	struct stage *stage;
	struct http_pool *http;
	struct locator *locator;
	struct filer *filer;
	struct needle_http *needles;
	struct server server;
	uint8_t memory[DATA_LEN + 16];
};

static int make(void **state)
{
	static const struct http_config cfg = { .connect_timeout_ms = STALL_MS,
						.stall_timeout_ms = STALL_MS };
	struct world *w = calloc(1, sizeof(*w));

	w->stage = stage_new();
	assert_int_equal(http_pool_new(&cfg, &w->http), 0);
	breaker_init(&w->server.http);
	memset(w->memory, CANARY, sizeof(w->memory));
	*state = w;
	return 0;
}

static int drop(void **state)
{
	struct world *w = *state;

	needle_http_free(w->needles);
	filer_free(w->filer);
	locator_free(w->locator);
	breaker_destroy(&w->server.http);
	http_pool_free(w->http);
	stage_free(w->stage);
	free(w);
	return 0;
}

#define SERVE(w, ...) serve((w), STAGE_SERVER((w)->stage, __VA_ARGS__))
static struct scripted_server *serve(struct world *w, struct scripted_server *s)
{
	snprintf(w->server.url, sizeof(w->server.url), "%s", scripted_server_url(s));
	return s;
}

/* One answer, again and again. */
static struct scripted_server *serve_answer(struct world *w, int status, const char *header,
					    const char *body)
{
	return SERVE(w, { RECEIVE(), stage_text(w->stage, status, header, body), AGAIN() });
}

static void open_needles(struct world *w)
{
	if (!w->needles)
		assert_int_equal(needle_http_new(w->http, NULL, w->locator, w->filer, &w->needles),
				 0);
}

static int read_bufs(struct world *w, struct source s, uint64_t offset, struct read_buf *bufs,
		     size_t n_bufs, size_t *ret_got)
{
	struct needle_range r = { .fid = fid, .offset = offset, .bufs = bufs, .n_bufs = n_bufs };
	int err = s.ops->read_range(s.self, s.per_server ? &w->server : NULL, &r,
				    deadline_in_ms(BUDGET_MS));

	if (ret_got)
		*ret_got = r.got;
	return err;
}

static int read_range(struct world *w, uint64_t offset, size_t len, size_t *ret_got)
{
	struct read_buf buf = { .ptr = w->memory, .len = len };

	open_needles(w);
	int err = read_bufs(w, needle_http_source(w->needles), offset, &buf, 1, ret_got);
	for (size_t i = len; i < sizeof(w->memory); i++)
		assert_int_equal(w->memory[i], CANARY);
	return err;
}

/* What a sink saw. */
struct seen {
	int begins, begin_result;
	bool gzip;
	int64_t stored_len;
	size_t len;
	uint8_t bytes[256];
};

static int seen_begin(void *arg, bool gzip, int64_t stored_len)
{
	struct seen *s = arg;

	s->begins++;
	s->gzip = gzip;
	s->stored_len = stored_len;
	return s->begin_result;
}

static int seen_push(void *arg, const uint8_t *p, size_t n)
{
	struct seen *s = arg;

	assert_int_equal(s->begins, 1);
	assert_true(n <= sizeof(s->bytes) - s->len);
	memcpy(s->bytes + s->len, p, n);
	s->len += n;
	return 0;
}

static int read_whole_from(struct world *w, struct source s, struct seen *seen)
{
	struct needle_sink sink = { .begin = seen_begin, .push = seen_push, .arg = seen };

	return s.ops->read_whole(s.self, s.per_server ? &w->server : NULL, &fid, &sink,
				 deadline_in_ms(BUDGET_MS));
}

static int read_whole(struct world *w, struct seen *seen)
{
	open_needles(w);
	return read_whole_from(w, needle_http_source(w->needles), seen);
}

/* CRC-32C, bit by bit. */
static uint32_t crc32c(const char *s, size_t len)
{
	uint32_t crc = UINT32_MAX;

	for (size_t i = 0; i < len; i++) {
		crc ^= (uint8_t)s[i];
		for (int bit = 0; bit < 8; bit++)
			crc = crc & 1 ? (crc >> 1) ^ UINT32_C(0x82f63b78) : crc >> 1;
	}
	return ~crc;
}

static const char *etag(uint32_t crc)
{
	static char line[64];

	snprintf(line, sizeof(line), "ETag: \"%08x\"\r\n", crc);
	return line;
}

static void assert_asked(struct scripted_server *s, size_t i, const char *text)
{
	if (!strcasestr(scripted_server_request(s, i), text))
		fail_msg("no '%s' in: %s", text, scripted_server_request(s, i));
}

static void assert_not_asked(struct scripted_server *s, size_t i, const char *text)
{
	if (strcasestr(scripted_server_request(s, i), text))
		fail_msg("'%s' in: %s", text, scripted_server_request(s, i));
}

/* --- ranges --- */

static void test_range_asks_for_deleted_needles_too_and_never_for_gzip(void **state)
{
	struct world *w = *state;
	struct scripted_server *s = serve_answer(w, 206, "Content-Range: bytes 5-9/20\r\n",
						 "56789");
	size_t got;

	assert_int_equal(read_range(w, 5, 5, &got), 0);
	assert_int_equal(got, 5);
	assert_memory_equal(w->memory, "56789", 5);
	assert_asked(s, 0, "GET /3,1637037d6a?readDeleted=true HTTP/1.1\r\n");
	assert_asked(s, 0, "\r\nRange: bytes=5-9\r\n");
	assert_not_asked(s, 0, "Accept-Encoding");
	assert_not_asked(s, 0, "Authorization");
}

static void test_range_is_scattered_in_order(void **state)
{
	struct world *w = *state;
	uint8_t a[1], b[6], c[3];
	struct read_buf bufs[] = { { .ptr = a, .len = 1 },
				   { .ptr = b, .len = 6 },
				   { .ptr = a, .len = 0 },
				   { .ptr = c, .len = 3 } };
	size_t got;

	serve_answer(w, 206, "Content-Range: bytes 5-14/20\r\n", "56789abcde");
	open_needles(w);
	assert_int_equal(read_bufs(w, needle_http_source(w->needles), 5, bufs, 4, &got), 0);
	assert_int_equal(got, 10);
	assert_memory_equal(a, "5", 1);
	assert_memory_equal(b, "6789ab", 6);
	assert_memory_equal(c, "cde", 3);
}

static void test_empty_range_asks_nobody(void **state)
{
	struct world *w = *state;
	struct scripted_server *s = serve_answer(w, 404, "", "");

	assert_int_equal(read_range(w, 5, 0, NULL), 0);
	assert_int_equal(scripted_server_connections(s), 0);
}

static void test_answers_to_a_range(void **state)
{
	static const struct {
		int status;
		const char *header, *body;
		int err;
	} cases[] = {
		{ 404, "", "", -ENOENT },
		{ 301, "Location: http://10.0.0.1/\r\n", "", -ENOENT },
		{ 403, "", "", -EACCES },
		{ 416, "Content-Range: bytes */4\r\n", "", -ENODATA },
		{ 429, "", "{\"error\":\"too many\"}", -EBUSY },
		{ 500, "", "oh", -EIO },
		{ 503, "", "", -EIO },
		{ 400, "", "", -EPROTO },
		{ 200, "", "", -EPROTO },
		{ 200, "", "01234", -EPROTO },
		{ 206, "", "56789", -EPROTO },
		{ 206, "Content-Range: bytes 4-8/20\r\n", "56789", -EPROTO },
		{ 206, "Content-Range: bytes 5-10/20\r\n", "56789a", -EPROTO },
		{ 206, "Content-Range: bytes 5-9/20\r\nContent-Encoding: gzip\r\n", "56789",
		  -EPROTO },
		{ 206, "Content-Range: bytes 5-7/8\r\n", "567", -ENODATA },
		{ 206, "", "", -ENODATA },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		void *inner;

		make(&inner);
		struct world *w = inner;
		serve_answer(w, cases[i].status, cases[i].header, cases[i].body);
		int err = read_range(w, 5, 5, NULL);
		if (err != cases[i].err)
			fail_msg("case %zu: %d", i, err);
		drop(&inner);
	}
}

static void test_connection_survives_an_error_answer(void **state)
{
	struct world *w = *state;
	struct scripted_server *s = serve_answer(w, 404, "", "not here");

	for (int i = 0; i < 3; i++)
		assert_int_equal(read_range(w, 5, 5, NULL), -ENOENT);
	assert_int_equal(scripted_server_connections(s), 1);
}

static void test_endless_error_answer_is_cut_off(void **state)
{
	struct world *w = *state;

	SERVE(w, { RECEIVE(), SEND("HTTP/1.1 500 Oh\r\n\r\n"),
		   SEND_TIMES("oh oh oh oh oh oh", 1000000), CLOSE() });
	assert_int_equal(read_range(w, 5, 5, NULL), -EPROTO);
}

static void test_whole_file_answer_is_fine_where_the_range_is_all(void **state)
{
	struct world *w = *state;

	serve_answer(w, 200, "", DATA);
	assert_int_equal(read_range(w, 0, DATA_LEN, NULL), 0);
	assert_memory_equal(w->memory, DATA, DATA_LEN);
}

static void test_bytes_beyond_the_range_are_refused(void **state)
{
	struct world *w = *state;

	SERVE(w, { RECEIVE(),
		   SEND("HTTP/1.1 206 X\r\nContent-Range: bytes 5-9/20\r\n"
			"Transfer-Encoding: chunked\r\n\r\n10\r\n56789abcdefghijk\r\n0\r\n\r\n"),
		   AGAIN() });
	assert_int_equal(read_range(w, 5, 5, NULL), -EPROTO);
}

static void test_truncated_range_tells_how_far_it_came(void **state)
{
	struct world *w = *state;
	size_t got;

	SERVE(w, { RECEIVE(),
		   SEND("HTTP/1.1 206 X\r\nContent-Range: bytes 5-9/20\r\n"
			"Content-Length: 5\r\n\r\n567"),
		   CLOSE() });
	assert_int_equal(read_range(w, 5, 5, &got), -EIO);
	assert_int_equal(got, 3);
	assert_memory_equal(w->memory, "567", 3);
}

static void test_truncated_chunked_range_is_an_error(void **state)
{
	struct world *w = *state;
	size_t got;

	SERVE(w, { RECEIVE(),
		   SEND("HTTP/1.1 206 X\r\nContent-Range: bytes 5-9/20\r\n"
			"Transfer-Encoding: chunked\r\n\r\n3\r\n567\r\n0\r\n\r\n"),
		   AGAIN() });
	assert_int_equal(read_range(w, 5, 5, &got), -EIO);
	assert_int_equal(got, 3);
}

static void test_stalled_range_tells_how_far_it_came(void **state)
{
	struct world *w = *state;
	int64_t start_ms = now_ms();
	size_t got;

	SERVE(w, { RECEIVE(),
		   SEND("HTTP/1.1 206 X\r\nContent-Range: bytes 5-9/20\r\n"
			"Content-Length: 5\r\n\r\n567"),
		   HANG(), CLOSE() });
	assert_int_equal(read_range(w, 5, 5, &got), -ETIMEDOUT);
	assert_int_equal(got, 3);
	assert_true(now_ms() - start_ms < STALL_MS + 3000);
}

static void test_trickle_is_a_stall(void **state)
{
	struct world *w = *state;
	int64_t start_ms = now_ms();

	SERVE(w, { RECEIVE(),
		   SEND("HTTP/1.1 206 X\r\nContent-Range: bytes 5-24/30\r\n"
			"Content-Length: 20\r\n\r\n"),
		   TRICKLE(DATA, 400), CLOSE() });
	assert_int_equal(read_range(w, 5, 20, NULL), -ETIMEDOUT);
	assert_true(now_ms() - start_ms < STALL_MS + 3000);
}

static void test_reset_is_reported_as_the_network_says(void **state)
{
	struct world *w = *state;

	SERVE(w, { RECEIVE(), RESET() });
	assert_int_equal(read_range(w, 5, 5, NULL), -ECONNRESET);
}

static void test_dead_server_refuses(void **state)
{
	struct world *w = *state;

	snprintf(w->server.url, sizeof(w->server.url), "http://127.0.0.1:%u", stage_dead_port());
	assert_int_equal(read_range(w, 5, 5, NULL), -ECONNREFUSED);
}

/* --- checksums --- */

#define ALL_OF_IT "Content-Range: bytes 0-19/20\r\n"

static int read_all_with_crc(struct world *w, uint32_t crc, size_t *ret_got)
{
	char header[128];

	snprintf(header, sizeof(header), ALL_OF_IT "%s", etag(crc));
	serve_answer(w, 206, header, DATA);
	return read_range(w, 0, DATA_LEN, ret_got);
}

static void test_right_checksum_of_all_bytes_is_accepted(void **state)
{
	assert_int_equal(read_all_with_crc(*state, crc32c(DATA, DATA_LEN), NULL), 0);
}

static void test_old_form_of_the_checksum_is_accepted(void **state)
{
	uint32_t crc = crc32c(DATA, DATA_LEN);
	uint32_t masked = ((crc >> 15) | (crc << 17)) + 0xa282ead8u;

	assert_int_equal(read_all_with_crc(*state, masked, NULL), 0);
}

static void test_wrong_checksum_delivers_nothing(void **state)
{
	struct world *w = *state;
	size_t got = 1;

	SERVE(w,
	      { RECEIVE(), stage_text(w->stage, 206, "ETag: \"00000001\"\r\n" ALL_OF_IT, DATA),
		AGAIN() },
	      { RECEIVE(), stage_text(w->stage, 200, "ETag: \"00000001\"\r\n", DATA), AGAIN() });
	assert_int_equal(read_range(w, 0, DATA_LEN, &got), -EBADMSG);
	assert_int_equal(got, 0);
}

static void test_part_of_a_needle_has_no_checksum(void **state)
{
	struct world *w = *state;

	serve_answer(w, 206, "ETag: \"00000001\"\r\nContent-Range: bytes 0-18/20\r\n",
		     "0123456789abcdefghi");
	assert_int_equal(read_range(w, 0, DATA_LEN - 1, NULL), 0);
}

static void test_etag_that_is_no_checksum_is_ignored(void **state)
{
	struct world *w = *state;

	serve_answer(w, 206, "ETag: \"0000000g\"\r\n" ALL_OF_IT, DATA);
	assert_int_equal(read_range(w, 0, DATA_LEN, NULL), 0);
}

/* The server inflates for a range, but the checksum is of what it stores. */
static void test_range_of_a_compressed_needle_is_checked_by_its_stored_bytes(void **state)
{
	static const char stored[] = "gzip bytes";
	struct world *w = *state;
	char header[256];

	const char *tag = etag(crc32c(stored, strlen(stored)));
	snprintf(header, sizeof(header), ALL_OF_IT "%s", tag);
	struct script_step plain = stage_text(w->stage, 206, header, DATA);
	snprintf(header, sizeof(header), "Content-Encoding: gzip\r\n%s", tag);
	struct scripted_server *s = SERVE(
		w, { RECEIVE(), plain, AGAIN() },
		{ RECEIVE(), stage_text(w->stage, 200, header, stored), AGAIN() });
	assert_int_equal(read_range(w, 0, DATA_LEN, NULL), 0);
	assert_memory_equal(w->memory, DATA, DATA_LEN);
	assert_asked(s, 1, "Accept-Encoding: gzip");
}

/* --- whole needles --- */

static void test_whole_needle_may_come_compressed(void **state)
{
	struct world *w = *state;
	struct seen seen = { 0 };
	struct scripted_server *s = serve_answer(w, 200, "Content-Encoding: gzip\r\n",
						 "gzip bytes");

	assert_int_equal(read_whole(w, &seen), 0);
	assert_true(seen.gzip);
	assert_int_equal(seen.stored_len, 10);
	assert_int_equal(seen.len, 10);
	assert_memory_equal(seen.bytes, "gzip bytes", 10);
	assert_asked(s, 0, "GET /3,1637037d6a?readDeleted=true HTTP/1.1\r\n");
	assert_asked(s, 0, "\r\nAccept-Encoding: gzip\r\n");
	assert_not_asked(s, 0, "\r\nRange:");
}

static void test_whole_needle_may_come_plain(void **state)
{
	struct world *w = *state;
	struct seen seen = { 0 };

	serve_answer(w, 200, etag(crc32c(DATA, DATA_LEN)), DATA);
	assert_int_equal(read_whole(w, &seen), 0);
	assert_false(seen.gzip);
	assert_memory_equal(seen.bytes, DATA, DATA_LEN);
}

static void test_whole_needle_with_a_wrong_checksum_is_refused(void **state)
{
	struct world *w = *state;
	struct seen seen = { 0 };

	serve_answer(w, 200, etag(crc32c(DATA, DATA_LEN) ^ 1), DATA);
	assert_int_equal(read_whole(w, &seen), -EBADMSG);
}

static void test_error_answer_never_reaches_the_sink(void **state)
{
	struct world *w = *state;
	struct seen seen = { 0 };

	serve_answer(w, 500, "", "oh");
	assert_int_equal(read_whole(w, &seen), -EIO);
	assert_int_equal(seen.begins, 0);
}

static void test_sink_can_end_the_read(void **state)
{
	struct world *w = *state;
	struct seen seen = { .begin_result = -EXDEV };

	serve_answer(w, 200, "", DATA);
	assert_int_equal(read_whole(w, &seen), -EXDEV);
	assert_int_equal(seen.len, 0);
}

static void test_part_is_no_answer_to_the_whole(void **state)
{
	struct world *w = *state;
	struct seen seen = { 0 };

	serve_answer(w, 206, "Content-Range: bytes 0-4/20\r\n", "01234");
	assert_int_equal(read_whole(w, &seen), -EPROTO);
}

static void test_truncated_whole_needle_is_an_error(void **state)
{
	struct world *w = *state;
	struct seen seen = { 0 };

	SERVE(w, { RECEIVE(), SEND("HTTP/1.1 200 X\r\nContent-Length: 20\r\n\r\n01234"), CLOSE() });
	assert_int_equal(read_whole(w, &seen), -EIO);
}

/* --- the filer's proxy --- */

static void open_filer(struct world *w, const uint16_t *ports, size_t n)
{
	struct endpoint filers[2] = { 0 };
	struct filer_config cfg = { .filers = filers, .n_filers = n };

	for (size_t i = 0; i < n; i++)
		filers[i] = (struct endpoint){ .host = "127.0.0.1", .port = ports[i] };
	assert_int_equal(filer_new(w->http, NULL, &cfg, &w->filer), 0);
	open_needles(w);
}

static void test_proxy_is_asked_by_file_id(void **state)
{
	struct world *w = *state;
	struct scripted_server *s = STAGE_SERVER(
		w->stage,
		{ RECEIVE(), stage_text(w->stage, 206, "Content-Range: bytes 5-9/20\r\n", "56789"),
		  AGAIN() },
		{ RECEIVE(), stage_text(w->stage, 200, "", DATA), AGAIN() });
	struct read_buf buf = { .ptr = w->memory, .len = 5 };
	struct seen seen = { 0 };
	const uint16_t port = scripted_server_port(s);

	open_filer(w, &port, 1);
	struct source proxy = needle_proxy_source(w->needles);
	assert_false(proxy.per_server);
	assert_int_equal(read_bufs(w, proxy, 5, &buf, 1, NULL), 0);
	assert_memory_equal(w->memory, "56789", 5);
	assert_int_equal(read_whole_from(w, proxy, &seen), 0);
	assert_asked(s, 0, "GET /?proxyChunkId=3,1637037d6a&readDeleted=true HTTP/1.1\r\n");
	assert_asked(s, 0, "\r\nRange: bytes=5-9\r\n");
	assert_asked(s, 1, "GET /?proxyChunkId=3,1637037d6a&readDeleted=true HTTP/1.1\r\n");
}

static void test_dead_filer_gives_way_to_the_next(void **state)
{
	struct world *w = *state;
	struct scripted_server *s = STAGE_SERVER(
		w->stage, { RECEIVE(), stage_text(w->stage, 404, "", ""), AGAIN() });
	const uint16_t ports[] = { stage_dead_port(), scripted_server_port(s) };
	struct read_buf buf = { .ptr = w->memory, .len = 5 };

	open_filer(w, ports, 2);
	struct source proxy = needle_proxy_source(w->needles);
	assert_int_equal(read_bufs(w, proxy, 5, &buf, 1, NULL), -ECONNREFUSED);
	assert_int_equal(read_bufs(w, proxy, 5, &buf, 1, NULL), -ENOENT);
	assert_int_equal(filer_current(w->filer), 1);
}

/* --- tokens --- */

static struct scripted_server *open_master(struct world *w)
{
	struct scripted_server *m = STAGE_SERVER(
		w->stage,
		{ RECEIVE(), stage_text(w->stage, 200, "Authorization: Bearer aa.bb.cc\r\n", "{}"),
		  AGAIN() });
	struct endpoint addr = { .host = "127.0.0.1", .port = scripted_server_port(m) };
	struct locate_config cfg = { .masters = &addr, .n_masters = 1 };

	assert_int_equal(locator_new(w->http, &cfg, &w->locator), 0);
	return m;
}

static void test_server_that_wants_a_token_gets_the_masters(void **state)
{
	struct world *w = *state;
	struct scripted_server *m = open_master(w);
	struct script_step good = stage_text(w->stage, 206, "Content-Range: bytes 5-9/20\r\n",
					     "56789");
	struct scripted_server *s = SERVE(
		w, { RECEIVE(), stage_text(w->stage, 401, "", "{\"error\":\"wrong jwt\"}"),
		     RECEIVE(), good, RECEIVE(), good, CLOSE() });

	assert_int_equal(read_range(w, 5, 5, NULL), 0);
	assert_memory_equal(w->memory, "56789", 5);
	assert_not_asked(s, 0, "Authorization");
	assert_asked(s, 1, "\r\nAuthorization: Bearer aa.bb.cc\r\n");
	/* and is shown it at once the next time */
	assert_int_equal(read_range(w, 5, 5, NULL), 0);
	assert_asked(s, 2, "\r\nAuthorization: Bearer aa.bb.cc\r\n");
	assert_int_equal(scripted_server_requests(m), 1);
}

static void test_token_that_is_refused_is_asked_for_once_more_only(void **state)
{
	struct world *w = *state;
	struct scripted_server *m = open_master(w);
	struct scripted_server *s = serve_answer(w, 401, "", "");

	assert_int_equal(read_range(w, 5, 5, NULL), -EACCES);
	assert_int_equal(scripted_server_requests(s), 2);
	assert_int_equal(scripted_server_requests(m), 1);
}

static void test_no_master_to_ask_for_a_token_is_no_access(void **state)
{
	struct world *w = *state;
	struct scripted_server *s = serve_answer(w, 401, "", "");

	assert_int_equal(read_range(w, 5, 5, NULL), -EACCES);
	assert_int_equal(scripted_server_requests(s), 1);
}

static void test_masters_token_is_given_to_others_too(void **state)
{
	struct world *w = *state;
	struct scripted_server *m = open_master(w);
	char token[64];

	open_needles(w);
	for (int i = 0; i < 2; i++) {
		memset(token, 0, sizeof(token));
		assert_int_equal(needle_http_token(w->needles, &fid, deadline_in_ms(BUDGET_MS),
						   token, sizeof(token)),
				 0);
		assert_string_equal(token, "aa.bb.cc");
	}
	assert_int_equal(scripted_server_requests(m), 1);
	assert_int_equal(needle_http_token(w->needles, &fid, deadline_in_ms(BUDGET_MS), token,
					   sizeof("aa.bb.c")),
			 -EMSGSIZE);
}

static void test_no_master_gives_no_token_to_others(void **state)
{
	struct world *w = *state;
	char token[64];

	open_needles(w);
	assert_int_equal(needle_http_token(w->needles, &fid, deadline_in_ms(BUDGET_MS), token,
					   sizeof(token)),
			 -EACCES);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, make, drop)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_range_asks_for_deleted_needles_too_and_never_for_gzip),
		TEST(test_range_is_scattered_in_order),
		TEST(test_empty_range_asks_nobody),
		TEST(test_answers_to_a_range),
		TEST(test_connection_survives_an_error_answer),
		TEST(test_endless_error_answer_is_cut_off),
		TEST(test_whole_file_answer_is_fine_where_the_range_is_all),
		TEST(test_bytes_beyond_the_range_are_refused),
		TEST(test_truncated_range_tells_how_far_it_came),
		TEST(test_truncated_chunked_range_is_an_error),
		TEST(test_stalled_range_tells_how_far_it_came),
		TEST(test_trickle_is_a_stall),
		TEST(test_reset_is_reported_as_the_network_says),
		TEST(test_dead_server_refuses),
		TEST(test_right_checksum_of_all_bytes_is_accepted),
		TEST(test_old_form_of_the_checksum_is_accepted),
		TEST(test_wrong_checksum_delivers_nothing),
		TEST(test_part_of_a_needle_has_no_checksum),
		TEST(test_etag_that_is_no_checksum_is_ignored),
		TEST(test_range_of_a_compressed_needle_is_checked_by_its_stored_bytes),
		TEST(test_whole_needle_may_come_compressed),
		TEST(test_whole_needle_may_come_plain),
		TEST(test_whole_needle_with_a_wrong_checksum_is_refused),
		TEST(test_error_answer_never_reaches_the_sink),
		TEST(test_sink_can_end_the_read),
		TEST(test_part_is_no_answer_to_the_whole),
		TEST(test_truncated_whole_needle_is_an_error),
		TEST(test_proxy_is_asked_by_file_id),
		TEST(test_dead_filer_gives_way_to_the_next),
		TEST(test_server_that_wants_a_token_gets_the_masters),
		TEST(test_token_that_is_refused_is_asked_for_once_more_only),
		TEST(test_no_master_to_ask_for_a_token_is_no_access),
		TEST(test_masters_token_is_given_to_others_too),
		TEST(test_no_master_gives_no_token_to_others),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
