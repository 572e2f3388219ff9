/* Small files fetched ahead: what of it reaches the cache, and what is not worth it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cache/blockcache.h"
#include "cache/slab.h"
#include "filer/base/base.h"
#include "filer/entry.h"
#include "filer/http.h"
#include "filer/locate.h"
#include "filer/needle.h"
#include "fs/ahead.h"
#include "fs/fetch.h"
#include "fs/fill.h"
#include "tests/support/stage.h"

#define TIMEOUT_MS 8000
#define DATA "0123456789"
#define DATA_LEN (sizeof(DATA) - 1)
#define ANSWER "HTTP/1.1 206 X\r\nContent-Length: 10\r\nContent-Range: bytes 0-9/10\r\n\r\n" DATA
#define GONE "HTTP/1.1 404 X\r\nContent-Length: 0\r\n\r\n"

struct world {
	struct stage *stage;
	struct slab *slab;
	struct blockcache *cache;
	struct http_pool *http;
	struct locator *locator;
	struct needle_http *needles;
	struct fetcher *fetcher;
	struct ahead *ahead;
};

static int make(void **state)
{
	struct http_config cfg = { .stall_timeout_ms = 500 };
	struct world *w = calloc(1, sizeof(*w));

	w->stage = stage_new();
	assert_int_equal(slab_new(SLAB_BYTES_MIN, &w->slab), 0);
	assert_int_equal(blockcache_new(w->slab, &w->cache), 0);
	assert_int_equal(http_pool_new(&cfg, &w->http), 0);
	*state = w;
	return 0;
}

static int drop(void **state)
{
	struct world *w = *state;

	ahead_free(w->ahead);
	fetcher_free(w->fetcher);
	needle_http_free(w->needles);
	locator_free(w->locator);
	http_pool_free(w->http);
	blockcache_free(w->cache);
	slab_free(w->slab);
	stage_free(w->stage);
	free(w);
	return 0;
}

/* All volumes are at one server. */
static void open_cluster(struct world *w, const struct scripted_server *server)
{
	char body[128];
	struct endpoint master = { .host = "127.0.0.1" };
	struct locate_config locate = { .masters = &master, .n_masters = 1 };
	struct source source;
	struct fetch_config fetch = { .sources = &source, .n_sources = 1 };

	snprintf(body, sizeof(body), "{\"locations\":[{\"url\":\"127.0.0.1:%u\"}]}",
		 scripted_server_port(server));
	master.port = scripted_server_port(STAGE_SERVER(
		w->stage, { RECEIVE(), stage_text(w->stage, 200, "", body), AGAIN() }));
	assert_int_equal(locator_new(w->http, &locate, &w->locator), 0);
	assert_int_equal(needle_http_new(w->http, NULL, w->locator, NULL, &w->needles), 0);
	source = needle_http_source(w->needles);
	fetch.locator = w->locator;
	assert_int_equal(fetcher_new(&fetch, &w->fetcher), 0);
	assert_int_equal(ahead_new(&(struct ahead_config){ .cache = w->cache,
							   .fetcher = w->fetcher,
							   .threads = 1,
							   .timeout_ms = TIMEOUT_MS },
				   &w->ahead),
			 0);
}

/* A file of one chunk, whose volume and key are n. more: further fields of the chunk. */
static struct entry *file(unsigned n, unsigned bytes, const char *more)
{
	char json[512];
	struct entry *e;
	int len = snprintf(json, sizeof(json),
			   "{\"FullPath\":\"/x\",\"Mtime\":\"2026-01-02T03:04:05Z\",\"Mode\":420,"
			   "\"FileSize\":%u,\"chunks\":[{\"file_id\":\"%u,%02x0000000a\","
			   "\"size\":%u,\"modified_ts_ns\":1%s}]}",
			   bytes, n, n, bytes, more);

	assert_int_equal(entry_from_json(json, (size_t)len, &e, NULL), 0);
	return e;
}

/* Until the server was asked that often. */
static void wait_asked(struct scripted_server *s, size_t requests)
{
	struct deadline d = deadline_in_ms(TIMEOUT_MS);

	while (scripted_server_requests(s) < requests && !deadline_passed(d))
		sleep_ms(1, d);
	assert_int_equal(scripted_server_requests(s), requests);
}

/* Is the file's data in the cache, once it is not under way any more? */
static bool is_cached(struct world *w, const struct entry *e)
{
	struct block_place place;
	struct block *b;
	int err;

	assert_true(block_place_of(&e->chunks[0], 0, blockcache_block_bytes(w->cache), &place));
	switch (blockcache_peek(w->cache, &place.key, place.bytes, &b)) {
	case BLOCK_HIT:
		assert_memory_equal(b->data, DATA, DATA_LEN);
		block_unpin(w->cache, b);
		return true;
	case BLOCK_WAIT:
		err = block_wait(w->cache, b, deadline_in_ms(TIMEOUT_MS));
		if (!err)
			assert_memory_equal(b->data, DATA, DATA_LEN);
		block_unpin(w->cache, b);
		return !err;
	default:
		return false;
	}
}

#define FILES 3

static void fetch_three(struct world *w, struct scripted_server *s, struct entry *files[FILES])
{
	for (unsigned i = 0; i < FILES; i++) {
		files[i] = file(i + 1, DATA_LEN, "");
		assert_true(ahead_wants(files[i]));
		entry_get(files[i]);
	}
	ahead_fetch(w->ahead, files, FILES);
	wait_asked(s, FILES);
}

static void put_three(struct entry *files[FILES])
{
	for (unsigned i = 0; i < FILES; i++)
		entry_put(files[i]);
}

/* Fetches three files, of which the cache then has these. */
static void expect_cached(struct world *w, struct scripted_server *s, const bool cached[FILES])
{
	struct entry *files[FILES];

	open_cluster(w, s);
	fetch_three(w, s, files);
	for (unsigned i = 0; i < FILES; i++)
		assert_int_equal(is_cached(w, files[i]), cached[i]);
	put_three(files);
}

static void files_of_one_server_come_with_one_exchange(void **state)
{
	struct world *w = *state;
	struct scripted_server *s = STAGE_SERVER(
		w->stage, { RECEIVE(), RECEIVE(), RECEIVE(), SEND(ANSWER ANSWER ANSWER), AGAIN() });

	expect_cached(w, s, (bool[]){ true, true, true });
	assert_int_equal(scripted_server_connections(s), 1);
}

static void a_file_that_is_gone_does_not_keep_the_others(void **state)
{
	struct world *w = *state;
	struct scripted_server *s = STAGE_SERVER(
		w->stage, { RECEIVE(), RECEIVE(), RECEIVE(), SEND(ANSWER GONE ANSWER), AGAIN() });

	expect_cached(w, s, (bool[]){ true, false, true });
}

static void a_server_that_breaks_off_leaves_nothing_half_done(void **state)
{
	struct world *w = *state;
	struct scripted_server *s = STAGE_SERVER(
		w->stage,
		{ RECEIVE(), RECEIVE(), RECEIVE(), SEND(ANSWER "HTTP/1.1 206 X\r\n"), CLOSE() });

	expect_cached(w, s, (bool[]){ true, false, false });
}

static void what_is_in_the_cache_is_not_fetched_again(void **state)
{
	struct world *w = *state;
	struct entry *files[FILES];
	struct scripted_server *s = STAGE_SERVER(
		w->stage, { RECEIVE(), RECEIVE(), RECEIVE(), SEND(ANSWER ANSWER ANSWER), AGAIN() });

	open_cluster(w, s);
	fetch_three(w, s, files);
	for (unsigned i = 0; i < FILES; i++) {
		assert_true(is_cached(w, files[i]));
		entry_get(files[i]);
	}
	ahead_fetch(w->ahead, files, FILES);
	/* a file that is not there shows that the three before it are through */
	struct entry *other = file(FILES + 1, DATA_LEN, "");
	entry_get(other);
	ahead_fetch(w->ahead, &other, 1);
	wait_asked(s, FILES + 1);
	entry_put(other);
	put_three(files);
}

static void more_than_can_be_under_way_is_let_go(void **state)
{
	struct world *w = *state;
	struct entry *e = file(1, DATA_LEN, "");

	open_cluster(w, STAGE_SERVER(w->stage, { RECEIVE(), PAUSE(300), SEND(ANSWER), AGAIN() }));
	for (unsigned i = 0; i < 10 * AHEAD_JOBS_MAX; i++) {
		entry_get(e);
		ahead_fetch(w->ahead, &e, 1);
	}
	ahead_free(w->ahead);
	w->ahead = NULL;
	assert_int_equal(atomic_load(&e->refs), 1);
	entry_put(e);
}

static void only_small_files_of_one_chunk_are_wanted(void **state)
{
	struct entry *small = file(1, AHEAD_FILE_BYTES_MAX, "");
	struct entry *large = file(1, AHEAD_FILE_BYTES_MAX + 1, "");
	struct entry *manifest = file(1, 10, ",\"is_chunk_manifest\":true");
	struct entry *encrypted = file(1, 10, ",\"sse_type\":1");
	struct entry *two = file(1, 10, "},{\"file_id\":\"2,020000000a\",\"offset\":5,\"size\":5");
	struct entry *hole = file(1, 10, ",\"offset\":5");

	(void)state;
	assert_true(ahead_wants(small));
	assert_false(ahead_wants(large));
	assert_false(ahead_wants(manifest));
	assert_false(ahead_wants(encrypted));
	assert_false(ahead_wants(two));
	assert_false(ahead_wants(hole));
	entry_put(small);
	entry_put(large);
	entry_put(manifest);
	entry_put(encrypted);
	entry_put(two);
	entry_put(hole);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, make, drop)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(files_of_one_server_come_with_one_exchange),
		TEST(a_file_that_is_gone_does_not_keep_the_others),
		TEST(a_server_that_breaks_off_leaves_nothing_half_done),
		TEST(what_is_in_the_cache_is_not_fetched_again),
		TEST(more_than_can_be_under_way_is_let_go),
		cmocka_unit_test(only_small_files_of_one_chunk_are_wanted),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
