/* Fetching chunks: the order of sources, replicas that fail in all ways, and how long it may take. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <openssl/evp.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <zlib.h>

#include "filer/base/base.h"
#include "filer/filer.h"
#include "filer/http.h"
#include "filer/locate.h"
#include "filer/needle.h"
#include "fs/fetch.h"
#include "tests/support/stage.h"

#define BUDGET_MS 10000
#define STALL_MS 1500
#define LATE_MS 3000 /* of a busy machine */
#define DATA "0123456789abcdefghij"
#define DATA_LEN (sizeof(DATA) - 1)
#define ALL "Content-Range: bytes 0-19/20\r\n"
#define CANARY 0x5a
#define REPLICAS_MAX 4
#define THREADS 4
#define READS 50
#define PACKED_MAX 256
#define NONCE_BYTES 12
#define TAG_BYTES 16

struct world {
	struct stage *stage;
	struct http_pool *http;
	struct locator *locator;
	struct filer *filer;
	struct needle_http *needles;
	struct fetcher *fetcher;
	struct scripted_server *master;
	uint16_t replicas[REPLICAS_MAX];
	size_t n_replicas;
	bool verify_md5;
	struct chunk chunk;
	uint8_t memory[DATA_LEN + 16];
};

static int make(void **state)
{
	struct http_config cfg = { .connect_timeout_ms = STALL_MS, .stall_timeout_ms = STALL_MS };
	struct world *w = calloc(1, sizeof(*w));

	w->stage = stage_new();
	assert_int_equal(http_pool_new(&cfg, &w->http), 0);
	w->chunk = (struct chunk){ .fid = { .volume_id = 3, .key = 0x16, .cookie = 0x37037d6a },
				   .size = DATA_LEN };
	memset(w->memory, CANARY, sizeof(w->memory));
	*state = w;
	return 0;
}

static int drop(void **state)
{
	struct world *w = *state;

	fetcher_free(w->fetcher);
	needle_http_free(w->needles);
	filer_free(w->filer);
	locator_free(w->locator);
	http_pool_free(w->http);
	stage_free(w->stage);
	free(w);
	return 0;
}

/* --- the cluster --- */

#define REPLICA(w, ...) add_replica((w), STAGE_SERVER((w)->stage, __VA_ARGS__))
static struct scripted_server *add_replica(struct world *w, struct scripted_server *s)
{
	w->replicas[w->n_replicas++] = scripted_server_port(s);
	return s;
}

static struct script_step good(struct world *w)
{
	return stage_text(w->stage, 206, ALL, DATA);
}

static struct scripted_server *add_good_replica(struct world *w)
{
	return REPLICA(w, { RECEIVE(), good(w), AGAIN() });
}

static struct scripted_server *add_bad_replica(struct world *w, int status)
{
	return REPLICA(w, { RECEIVE(), stage_text(w->stage, status, "", ""), AGAIN() });
}

static struct script_step locations(struct world *w, const uint16_t *ports, size_t n)
{
	char body[512] = "{\"locations\":[";

	for (size_t i = 0; i < n; i++)
		snprintf(body + strlen(body), sizeof(body) - strlen(body),
			 "%s{\"url\":\"127.0.0.1:%u\"}", i ? "," : "", ports[i]);
	snprintf(body + strlen(body), sizeof(body) - strlen(body), "]}");
	return stage_text(w->stage, 200, "", body);
}

static void open_filer(struct world *w, uint16_t port)
{
	struct endpoint addr = { .host = "127.0.0.1", .port = port };
	struct filer_config cfg = { .filers = &addr, .n_filers = 1 };

	assert_int_equal(filer_new(w->http, NULL, &cfg, &w->filer), 0);
}

/* master 0: none is known. proxy 0: no proxy source. */
static void open_cluster(struct world *w, uint16_t master, uint16_t proxy)
{
	struct endpoint addr = { .host = "127.0.0.1", .port = master };
	struct locate_config locate = { .masters = &addr, .n_masters = master ? 1 : 0 };
	struct source sources[2];
	struct fetch_config cfg = { .sources = sources, .verify_md5 = w->verify_md5 };

	if (proxy)
		open_filer(w, proxy);
	assert_int_equal(locator_new(w->http, &locate, &w->locator), 0);
	assert_int_equal(needle_http_new(w->http, NULL, w->locator, w->filer, &w->needles), 0);
	sources[cfg.n_sources++] = needle_http_source(w->needles);
	if (proxy)
		sources[cfg.n_sources++] = needle_proxy_source(w->needles);
	cfg.locator = w->locator;
	assert_int_equal(fetcher_new(&cfg, &w->fetcher), 0);
}

/* A master that knows all replicas so far. */
static void open_all(struct world *w, struct scripted_server *proxy)
{
	w->master = STAGE_SERVER(w->stage,
				 { RECEIVE(), locations(w, w->replicas, w->n_replicas), AGAIN() });
	open_cluster(w, scripted_server_port(w->master), proxy ? scripted_server_port(proxy) : 0);
}

/* Nothing beyond the buffer may have been touched. */
static int fetch_range(struct world *w, uint64_t offset, size_t len, int64_t budget_ms)
{
	struct read_buf buf = { .ptr = w->memory, .len = len };

	memset(w->memory, CANARY, sizeof(w->memory));
	int err = fetch_chunk(w->fetcher, &w->chunk, offset, &buf, 1, deadline_in_ms(budget_ms));
	assert_ptr_equal(buf.ptr, w->memory);
	assert_int_equal(buf.len, len);
	for (size_t i = len; i < sizeof(w->memory); i++)
		assert_int_equal(w->memory[i], CANARY);
	return err;
}

static int fetch_all(struct world *w)
{
	return fetch_range(w, 0, DATA_LEN, BUDGET_MS);
}

static void assert_fetched(struct world *w)
{
	assert_int_equal(fetch_all(w), 0);
	assert_memory_equal(w->memory, DATA, DATA_LEN);
}

static struct server *server_at(struct world *w, size_t i)
{
	struct location_set *set = NULL;

	assert_int_equal(locate_volume(w->locator, w->chunk.fid.volume_id, false,
				       deadline_in_ms(BUDGET_MS), &set),
			 0);
	assert_true(i < set->n);
	struct server *server = set->servers[i];
	location_set_put(set);
	return server;
}

static void wait_ms(int64_t ms)
{
	sleep_ms(ms, deadline_in_ms(2 * ms));
}

/* --- replicas --- */

static void test_reads_take_turns_between_replicas(void **state)
{
	struct world *w = *state;
	struct scripted_server *a = add_good_replica(w);
	struct scripted_server *b = add_good_replica(w);

	open_all(w, NULL);
	for (int i = 0; i < 6; i++)
		assert_fetched(w);
	assert_int_equal(scripted_server_requests(a), 3);
	assert_int_equal(scripted_server_requests(b), 3);
	assert_int_equal(scripted_server_requests(w->master), 1);
}

/* The second replica serves what the first, which is tried first, does not. */
static void serves_instead_of_the_first(struct world *w)
{
	int64_t start_ms = now_ms();

	add_good_replica(w);
	open_all(w, NULL);
	assert_fetched(w);
	assert_true(now_ms() - start_ms < STALL_MS + LATE_MS);
}

static void test_dead_replica_gives_way(void **state)
{
	struct world *w = *state;

	w->replicas[w->n_replicas++] = stage_dead_port();
	serves_instead_of_the_first(w);
}

static void test_reset_gives_way(void **state)
{
	struct world *w = *state;

	REPLICA(w, { RECEIVE(), RESET() });
	serves_instead_of_the_first(w);
}

static void test_stall_gives_way(void **state)
{
	struct world *w = *state;

	REPLICA(w, { RECEIVE(), HANG(), CLOSE() });
	serves_instead_of_the_first(w);
}

static void test_trickle_is_continued_elsewhere(void **state)
{
	struct world *w = *state;
	int64_t start_ms = now_ms();

	REPLICA(w, { RECEIVE(), SEND("HTTP/1.1 206 X\r\n" ALL "Content-Length: 20\r\n\r\n"),
		     TRICKLE(DATA, 1200), CLOSE() });
	/* Whatever is still missing, by the time the stall is noticed, this one says "not me". */
	struct scripted_server *b = add_bad_replica(w, 404);
	open_all(w, NULL);
	assert_int_not_equal(fetch_range(w, 0, DATA_LEN, 4000), 0);
	assert_true(now_ms() - start_ms < 4000 + LATE_MS);
	assert_non_null(strstr(scripted_server_request(b, 0), "-19\r\n"));
	assert_null(strstr(scripted_server_request(b, 0), "Range: bytes=0-"));
}

static void test_status_gives_way(void **state)
{
	static const int statuses[] = { 200, 206, 301, 400, 401, 403, 404, 416, 429, 500, 503 };

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(statuses); i++) {
		void *inner;

		make(&inner);
		add_bad_replica(inner, statuses[i]);
		serves_instead_of_the_first(inner);
		drop(&inner);
	}
}

static void test_wrong_range_gives_way(void **state)
{
	struct world *w = *state;

	REPLICA(w, { RECEIVE(), stage_text(w->stage, 206, "Content-Range: bytes 1-20/21\r\n", DATA),
		     AGAIN() });
	serves_instead_of_the_first(w);
}

static void test_too_many_bytes_give_way(void **state)
{
	struct world *w = *state;

	REPLICA(w, { RECEIVE(), stage_text(w->stage, 206, ALL, DATA DATA), AGAIN() });
	serves_instead_of_the_first(w);
}

static void test_wrong_checksum_gives_way(void **state)
{
	struct world *w = *state;

	REPLICA(w,
		{ RECEIVE(),
		  stage_text(w->stage, 206, ALL "ETag: \"12345678\"\r\n", "garbagegarbagegarbag"),
		  RECEIVE(),
		  stage_text(w->stage, 200, "ETag: \"12345678\"\r\n", "garbagegarbagegarbag"),
		  AGAIN() });
	serves_instead_of_the_first(w);
}

static void test_truncated_answer_is_continued_elsewhere(void **state)
{
	struct world *w = *state;

	REPLICA(w, { RECEIVE(), SEND("HTTP/1.1 206 X\r\n" ALL "Content-Length: 20\r\n\r\n0123456"),
		     CLOSE() });
	struct scripted_server *b = REPLICA(
		w, { RECEIVE(),
		     stage_text(w->stage, 206, "Content-Range: bytes 7-19/20\r\n", "789abcdefghij"),
		     AGAIN() });
	open_all(w, NULL);
	assert_fetched(w);
	assert_non_null(strstr(scripted_server_request(b, 0), "Range: bytes=7-19\r\n"));
}

static void test_buffers_are_handed_back_as_they_were(void **state)
{
	struct world *w = *state;
	uint8_t a[5], b[10], c[5];
	const struct read_buf before[] = { { .ptr = a, .len = 5, .region = 1 },
					   { .ptr = b, .len = 10, .region = 2 },
					   { .ptr = c, .len = 5, .region = 3 } };
	struct read_buf bufs[3];

	memcpy(bufs, before, sizeof(bufs));
	REPLICA(w,
		{ RECEIVE(), SEND("HTTP/1.1 206 X\r\n" ALL "Content-Length: 20\r\n\r\n0123456"),
		  CLOSE() },
		{ RECEIVE(),
		  stage_text(w->stage, 206, "Content-Range: bytes 7-19/20\r\n", "789abcdefghij"),
		  CLOSE() },
		{ RECEIVE(), SEND("HTTP/1.1 206 X\r\n" ALL "Content-Length: 20\r\n\r\n0123456"),
		  CLOSE() },
		{ RESET() });
	open_all(w, NULL);
	assert_int_equal(fetch_chunk(w->fetcher, &w->chunk, 0, bufs, 3, deadline_in_ms(BUDGET_MS)),
			 0);
	assert_memory_equal(a, "01234", 5);
	assert_memory_equal(b, "56789abcde", 10);
	assert_memory_equal(c, "fghij", 5);
	assert_memory_equal(bufs, before, sizeof(bufs));
	assert_int_not_equal(fetch_chunk(w->fetcher, &w->chunk, 0, bufs, 3, deadline_in_ms(200)),
			     0);
	assert_memory_equal(bufs, before, sizeof(bufs));
}

/* --- what is gone, or refused --- */

static void test_needle_that_is_nowhere_is_said_to_be_gone_at_once(void **state)
{
	struct world *w = *state;
	int64_t start_ms = now_ms();

	add_bad_replica(w, 404);
	add_bad_replica(w, 404);
	open_all(w,
		 STAGE_SERVER(w->stage, { RECEIVE(), stage_text(w->stage, 404, "", ""), AGAIN() }));
	assert_int_equal(fetch_all(w), -ENOENT);
	assert_true(now_ms() - start_ms < BUDGET_MS / 3);
}

static void test_short_needle_is_an_error_at_once(void **state)
{
	struct world *w = *state;
	int64_t start_ms = now_ms();

	add_bad_replica(w, 416);
	open_all(w, NULL);
	assert_int_equal(fetch_all(w), -EIO);
	assert_true(now_ms() - start_ms < BUDGET_MS / 3);
}

static void test_no_access_is_said_at_once(void **state)
{
	struct world *w = *state;
	int64_t start_ms = now_ms();

	add_bad_replica(w, 403);
	open_all(w, NULL);
	assert_int_equal(fetch_all(w), -EACCES);
	assert_true(now_ms() - start_ms < BUDGET_MS / 3);
}

static void test_range_that_cannot_exist_is_refused(void **state)
{
	struct world *w = *state;
	struct scripted_server *a = add_good_replica(w);

	open_all(w, NULL);
	assert_int_equal(fetch_range(w, UINT64_MAX - 3, DATA_LEN, BUDGET_MS), -EIO);
	assert_int_equal(fetch_range(w, INT64_MAX - 3, DATA_LEN, BUDGET_MS), -EIO);
	assert_int_equal(scripted_server_requests(a), 0);
}

/* --- time --- */

static void test_servers_that_stay_dead_fail_within_the_budget(void **state)
{
	struct world *w = *state;
	int64_t start_ms = now_ms();

	w->replicas[w->n_replicas++] = stage_dead_port();
	open_all(w, NULL);
	assert_int_equal(fetch_range(w, 0, DATA_LEN, 700), -EIO);
	int64_t took_ms = now_ms() - start_ms;
	assert_true(took_ms >= 400 && took_ms <= 700 + LATE_MS);
}

static void test_one_stalled_server_leaves_time_for_another(void **state)
{
	struct world *w = *state;
	const struct http_config patient = { .stall_timeout_ms = 20000 };
	int64_t start_ms = now_ms();

	http_pool_free(w->http);
	assert_int_equal(http_pool_new(&patient, &w->http), 0);
	REPLICA(w, { RECEIVE(), HANG(), CLOSE() });
	add_good_replica(w);
	open_all(w, NULL);
	/* Who waited for it to the end would have nothing left. */
	assert_int_equal(fetch_range(w, 0, DATA_LEN, 4000), 0);
	assert_true(now_ms() - start_ms < 4000);
}

static void test_stall_everywhere_is_a_timeout_within_the_budget(void **state)
{
	struct world *w = *state;
	int64_t start_ms = now_ms();

	REPLICA(w, { RECEIVE(), HANG(), CLOSE() });
	REPLICA(w, { RECEIVE(), HANG(), CLOSE() });
	open_all(w, NULL);
	assert_int_equal(fetch_range(w, 0, DATA_LEN, 1500), -ETIMEDOUT);
	assert_true(now_ms() - start_ms < 1500 + LATE_MS);
}

static void test_server_that_comes_back_is_waited_for(void **state)
{
	struct world *w = *state;

	REPLICA(w, { RESET() }, { RESET() }, { RESET() }, { RESET() }, { RESET() }, { RESET() },
		{ RECEIVE(), good(w), AGAIN() });
	open_all(w, NULL);
	assert_fetched(w);
}

static void test_busy_server_is_asked_again(void **state)
{
	struct world *w = *state;

	REPLICA(w, { RECEIVE(), stage_text(w->stage, 429, "", ""), RECEIVE(),
		     stage_text(w->stage, 429, "", ""), RECEIVE(), good(w), CLOSE() });
	open_all(w, NULL);
	assert_fetched(w);
	assert_int_equal(server_at(w, 0)->http.opened, 0); /* it is no fault of the server */
}

/* --- breakers --- */

/* Until the first replica, which fails, is at rest. */
static struct breaker *rest_the_first(struct world *w)
{
	struct breaker *b;
	int fetches = 0;

	do {
		assert_true(fetches++ < 2 * BREAKER_FAILURES_MAX);
		assert_fetched(w);
		b = &server_at(w, 0)->http;
	} while (breaker_state(b) == BREAKER_CLOSED);
	assert_int_equal(breaker_state(b), BREAKER_OPEN);
	return b;
}

static void test_failing_server_is_rested(void **state)
{
	struct world *w = *state;
	struct scripted_server *a = add_bad_replica(w, 500);

	add_good_replica(w);
	open_all(w, NULL);
	struct breaker *b = rest_the_first(w);
	b->retry_at_ms = INT64_MAX; /* however slow the machine is */
	for (int i = 0; i < 20; i++)
		assert_fetched(w);
	assert_int_equal(breaker_state(b), BREAKER_OPEN);
	assert_int_equal(scripted_server_requests(a), BREAKER_FAILURES_MAX);
}

static void test_rested_server_is_probed_and_used_again(void **state)
{
	struct world *w = *state;
	struct scripted_server *a = REPLICA(
		w, { RECEIVE(), stage_text(w->stage, 500, "", ""), CLOSE() },
		{ RECEIVE(), stage_text(w->stage, 500, "", ""), CLOSE() },
		{ RECEIVE(), good(w), AGAIN() });

	add_good_replica(w);
	open_all(w, NULL);
	rest_the_first(w);
	wait_ms(BREAKER_PAUSE_MIN_MS * 3 / 2);
	for (int i = 0; i < 4; i++)
		assert_fetched(w);
	assert_int_equal(breaker_state(&server_at(w, 0)->http), BREAKER_CLOSED);
	assert_true(scripted_server_requests(a) >= BREAKER_FAILURES_MAX + 2);
}

static void test_probe_does_not_hold_up_the_read(void **state)
{
	struct world *w = *state;
	const struct http_config patient = { .stall_timeout_ms = 20000 };

	http_pool_free(w->http);
	assert_int_equal(http_pool_new(&patient, &w->http), 0);
	REPLICA(w, { RECEIVE(), stage_text(w->stage, 500, "", ""), CLOSE() },
		{ RECEIVE(), stage_text(w->stage, 500, "", ""), CLOSE() },
		{ RECEIVE(), HANG(), CLOSE() });
	add_good_replica(w);
	open_all(w, NULL);
	rest_the_first(w);
	wait_ms(BREAKER_PAUSE_MIN_MS * 3 / 2);
	int64_t start_ms = now_ms();
	for (int i = 0; i < 2; i++)
		assert_fetched(w);
	assert_true(now_ms() - start_ms < BUDGET_MS / 3); /* a stall would take half of the time */
}

static void test_rested_server_is_asked_when_there_is_nothing_else(void **state)
{
	struct world *w = *state;

	add_good_replica(w);
	open_all(w, NULL);
	struct server *server = server_at(w, 0);
	for (int i = 0; i < BREAKER_FAILURES_MAX; i++)
		breaker_failure(&server->http);
	server->http.retry_at_ms = INT64_MAX;
	assert_fetched(w);
	assert_int_equal(breaker_state(&server->http), BREAKER_CLOSED);
}

static void test_missing_needle_is_no_fault_of_the_server(void **state)
{
	struct world *w = *state;

	add_bad_replica(w, 404);
	open_all(w, NULL);
	for (int i = 0; i < 5; i++)
		assert_int_equal(fetch_all(w), -ENOENT);
	assert_int_equal(server_at(w, 0)->http.opened, 0);
}

/* --- locations and the proxy --- */

static void test_volume_that_moved_is_found(void **state)
{
	struct world *w = *state;
	const uint16_t dead = stage_dead_port();
	int64_t start_ms = now_ms();

	add_good_replica(w);
	struct scripted_server *m = STAGE_SERVER(w->stage,
						 { RECEIVE(), locations(w, &dead, 1), RECEIVE(),
						   locations(w, w->replicas, 1), AGAIN() });
	open_cluster(w, scripted_server_port(m), 0);
	assert_fetched(w);
	assert_true(now_ms() - start_ms < BUDGET_MS / 3);
}

static void test_volume_that_no_server_has_is_waited_for(void **state)
{
	struct world *w = *state;

	add_good_replica(w);
	struct script_step unknown = stage_text(w->stage, 404, "", "{\"error\":\"not found\"}");
	struct scripted_server *m = STAGE_SERVER(
		w->stage, { RECEIVE(), unknown, RECEIVE(), unknown, RECEIVE(),
			    locations(w, w->replicas, 1), AGAIN() });
	open_cluster(w, scripted_server_port(m), 0);
	assert_fetched(w);
}

static struct scripted_server *good_proxy(struct world *w)
{
	return STAGE_SERVER(w->stage, { RECEIVE(), good(w), AGAIN() });
}

static void test_proxy_serves_when_replicas_do_not(void **state)
{
	struct world *w = *state;
	struct scripted_server *proxy = good_proxy(w);

	add_bad_replica(w, 500);
	open_all(w, proxy);
	assert_fetched(w);
	assert_non_null(strstr(scripted_server_request(proxy, 0), "proxyChunkId=3,1637037d6a"));
}

static void test_proxy_is_left_alone_while_replicas_serve(void **state)
{
	struct world *w = *state;
	struct scripted_server *proxy = good_proxy(w);

	add_good_replica(w);
	open_all(w, proxy);
	assert_fetched(w);
	assert_int_equal(scripted_server_connections(proxy), 0);
}

static void test_proxy_serves_without_any_master(void **state)
{
	struct world *w = *state;

	open_cluster(w, 0, scripted_server_port(good_proxy(w)));
	int64_t start_ms = now_ms();
	assert_fetched(w);
	assert_true(now_ms() - start_ms < BUDGET_MS / 3);
}

static void test_proxy_serves_while_the_master_is_dead(void **state)
{
	struct world *w = *state;

	open_cluster(w, stage_dead_port(), scripted_server_port(good_proxy(w)));
	assert_fetched(w);
}

static void test_proxy_serves_while_the_master_stalls(void **state)
{
	struct world *w = *state;
	struct scripted_server *m = STAGE_SERVER(w->stage, { RECEIVE(), HANG(), CLOSE() });

	open_cluster(w, scripted_server_port(m), scripted_server_port(good_proxy(w)));
	assert_fetched(w);
}

/* Stands for an agent on servers that have none. */
static int refuse_range(void *self, struct server *server, struct needle_range *r,
			struct deadline d)
{
	(void)server;
	(void)r;
	(void)d;
	++*(int *)self;
	return -EOPNOTSUPP;
}

static void test_source_that_cannot_serve_costs_nothing(void **state)
{
	static const struct source_ops refusing = { .name = "agent", .read_range = refuse_range };
	struct world *w = *state;
	int asked = 0;

	add_good_replica(w);
	open_all(w, NULL);
	fetcher_free(w->fetcher);
	struct source sources[] = { { .ops = &refusing, .self = &asked, .per_server = true },
				    needle_http_source(w->needles) };
	struct fetch_config cfg = { .sources = sources, .n_sources = 2, .locator = w->locator };
	assert_int_equal(fetcher_new(&cfg, &w->fetcher), 0);
	assert_fetched(w);
	assert_int_equal(asked, 1);

	struct fetch_stats stats;
	fetcher_stats(w->fetcher, &stats);
	assert_int_equal(stats.n_sources, 2);
	assert_int_equal(stats.source[0].failures, 0);
	assert_string_equal(stats.source[1].name, "http");
	assert_int_equal(stats.source[1].reads, 1);
	assert_int_equal(stats.source[1].bytes, DATA_LEN);
	assert_int_equal(stats.failed, 0);
}

/* Stands for agents: what each replica's says, by its place among them. */
struct agents {
	struct world *w;
	int says[REPLICAS_MAX];
};

static int say(void *self, struct server *server, struct needle_range *r, struct deadline d)
{
	const struct agents *a = self;

	(void)r;
	(void)d;
	for (size_t i = 0; i < a->w->n_replicas; i++)
		if (a->w->replicas[i] == server->addr.port)
			return a->says[i];
	return -EOPNOTSUPP;
}

/* A master, agents, volume servers, and a proxy. */
static void open_with_agents(struct world *w, struct agents *agents, struct scripted_server *proxy)
{
	static const struct source_ops ops = { .name = "agent", .read_range = say };

	open_all(w, proxy);
	fetcher_free(w->fetcher);
	struct source sources[] = { { .ops = &ops, .self = agents, .per_server = true },
				    needle_http_source(w->needles),
				    needle_proxy_source(w->needles) };
	struct fetch_config cfg = { .sources = sources, .n_sources = 3, .locator = w->locator };
	assert_int_equal(fetcher_new(&cfg, &w->fetcher), 0);
}

static void test_replica_that_its_agent_found_corrupt_is_not_read_in_another_way(void **state)
{
	struct world *w = *state;
	struct agents agents = { .w = w, .says = { -EUCLEAN, -EOPNOTSUPP } };
	struct scripted_server *corrupt = add_good_replica(w);

	add_good_replica(w);
	open_with_agents(w, &agents, good_proxy(w));
	for (int i = 0; i < 4; i++)
		assert_fetched(w);
	assert_int_equal(scripted_server_requests(corrupt), 0);
}

static void test_proxy_is_not_asked_while_a_replica_is_corrupt(void **state)
{
	struct world *w = *state;
	struct agents agents = { .w = w, .says = { -EUCLEAN, -EOPNOTSUPP } };
	struct scripted_server *proxy = good_proxy(w);

	add_good_replica(w);
	w->replicas[w->n_replicas++] = stage_dead_port();
	open_with_agents(w, &agents, proxy);
	assert_int_equal(fetch_range(w, 0, DATA_LEN, 500), -EIO);
	assert_int_equal(scripted_server_requests(proxy), 0);
}

static void test_needle_that_is_corrupt_on_every_replica_is_an_error_at_once(void **state)
{
	struct world *w = *state;
	struct agents agents = { .w = w, .says = { -EUCLEAN, -EBADMSG } };
	int64_t start_ms = now_ms();

	add_good_replica(w);
	add_bad_replica(w, 500); /* as a volume server says it */
	open_with_agents(w, &agents, good_proxy(w));
	assert_int_equal(fetch_all(w), -EIO);
	assert_true(now_ms() - start_ms < BUDGET_MS / 3);
}

static void test_bytes_spoiled_on_their_way_are_asked_for_again(void **state)
{
	struct world *w = *state;
	struct agents agents = { .w = w, .says = { -EBADMSG } };

	struct scripted_server *proxy = STAGE_SERVER(w->stage, { RECEIVE(), RESET() });

	w->replicas[w->n_replicas++] = stage_dead_port();
	open_with_agents(w, &agents, proxy);
	assert_int_equal(fetch_range(w, 0, DATA_LEN, 1000), -EIO);
	assert_true(scripted_server_requests(proxy) > 2);
}

/* --- encoded chunks --- */

static size_t gzip_of(const char *s, size_t len, uint8_t packed[PACKED_MAX])
{
	z_stream z = { 0 };

	assert_int_equal(deflateInit2(&z, 9, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY), Z_OK);
	z.next_in = (Bytef *)s;
	z.avail_in = (uInt)len;
	z.next_out = packed;
	z.avail_out = PACKED_MAX;
	assert_int_equal(deflate(&z, Z_FINISH), Z_STREAM_END);
	deflateEnd(&z);
	return PACKED_MAX - z.avail_out;
}

static size_t sealed_of(const uint8_t key[CIPHER_KEY_BYTES], const uint8_t *s, size_t len,
			uint8_t sealed[PACKED_MAX])
{
	EVP_CIPHER_CTX *c = EVP_CIPHER_CTX_new();
	int n;

	memset(sealed, 7, NONCE_BYTES);
	assert_int_equal(EVP_EncryptInit_ex(c, EVP_aes_256_gcm(), NULL, key, sealed), 1);
	assert_int_equal(EVP_EncryptUpdate(c, sealed + NONCE_BYTES, &n, s, (int)len), 1);
	assert_int_equal(EVP_EncryptFinal_ex(c, sealed + NONCE_BYTES + n, &n), 1);
	assert_int_equal(EVP_CIPHER_CTX_ctrl(c, EVP_CTRL_AEAD_GET_TAG, TAG_BYTES,
					     sealed + NONCE_BYTES + len),
			 1);
	EVP_CIPHER_CTX_free(c);
	return NONCE_BYTES + len + TAG_BYTES;
}

#define GZIP "Content-Encoding: gzip\r\n"

static struct script_step zipped(struct world *w)
{
	uint8_t packed[PACKED_MAX];
	size_t len = gzip_of(DATA, DATA_LEN, packed);

	w->chunk.flags |= CHUNK_GZIP;
	return stage_answer(w->stage, 200, GZIP, packed, len);
}

/* The gzip trailer does not fit. */
static struct script_step zipped_wrong(struct world *w)
{
	uint8_t packed[PACKED_MAX];
	size_t len = gzip_of(DATA, DATA_LEN, packed);

	w->chunk.flags |= CHUNK_GZIP;
	packed[len - 8] ^= 1;
	return stage_answer(w->stage, 200, GZIP, packed, len);
}

static void test_compressed_chunk_is_inflated(void **state)
{
	struct world *w = *state;
	struct scripted_server *a = REPLICA(w, { RECEIVE(), zipped(w), AGAIN() });

	open_all(w, NULL);
	assert_int_equal(fetch_range(w, 5, 10, BUDGET_MS), 0);
	assert_memory_equal(w->memory, "56789abcde", 10);
	assert_null(strstr(scripted_server_request(a, 0), "Range:"));
}

static void test_compressed_chunk_that_comes_plain_is_taken_as_it_is(void **state)
{
	struct world *w = *state;

	w->chunk.flags |= CHUNK_GZIP;
	REPLICA(w, { RECEIVE(), stage_text(w->stage, 200, "", DATA), AGAIN() });
	open_all(w, NULL);
	assert_fetched(w);
}

static void test_encrypted_chunk_is_decrypted(void **state)
{
	static const uint8_t key[CIPHER_KEY_BYTES] = { 1, 2, 3 };
	struct world *w = *state;
	uint8_t sealed[PACKED_MAX];
	size_t len = sealed_of(key, (const uint8_t *)DATA, DATA_LEN, sealed);

	w->chunk.cipher_key = key;
	REPLICA(w, { RECEIVE(), stage_answer(w->stage, 200, "", sealed, len), AGAIN() });
	open_all(w, NULL);
	assert_fetched(w);
}

static void test_compressed_and_encrypted_chunk_is_decoded(void **state)
{
	static const uint8_t key[CIPHER_KEY_BYTES] = { 1, 2, 3 };
	struct world *w = *state;
	uint8_t packed[PACKED_MAX], sealed[PACKED_MAX];
	size_t len = sealed_of(key, packed, gzip_of(DATA, DATA_LEN, packed), sealed);

	w->chunk.cipher_key = key;
	w->chunk.flags |= CHUNK_GZIP;
	REPLICA(w, { RECEIVE(), stage_answer(w->stage, 200, "", sealed, len), AGAIN() });
	open_all(w, NULL);
	assert_fetched(w);
}

static void test_chunk_that_does_not_decode_is_read_elsewhere(void **state)
{
	struct world *w = *state;

	REPLICA(w, { RECEIVE(), zipped_wrong(w), AGAIN() });
	REPLICA(w, { RECEIVE(), zipped(w), AGAIN() });
	open_all(w, NULL);
	for (int i = 0; i < 6; i++)
		assert_fetched(w);
	/* bad data says nothing about the server */
	assert_int_equal(server_at(w, 0)->http.opened, 0);
}

static void test_chunk_that_decodes_nowhere_is_an_error_at_once(void **state)
{
	struct world *w = *state;
	int64_t start_ms = now_ms();

	REPLICA(w, { RECEIVE(), zipped_wrong(w), AGAIN() });
	REPLICA(w, { RECEIVE(), zipped_wrong(w), AGAIN() });
	open_all(w, NULL);
	assert_int_equal(fetch_all(w), -EIO);
	assert_true(now_ms() - start_ms < BUDGET_MS / 3);
}

static void test_decoded_chunk_that_is_short_is_an_error(void **state)
{
	struct world *w = *state;

	REPLICA(w, { RECEIVE(), zipped(w), AGAIN() });
	open_all(w, NULL);
	assert_int_equal(fetch_range(w, 1, DATA_LEN, BUDGET_MS), -EIO);
}

static void open_with_md5(struct world *w, bool verify, uint8_t flip)
{
	unsigned len = sizeof(w->chunk.md5);

	assert_int_equal(EVP_Digest(DATA, DATA_LEN, w->chunk.md5, &len, EVP_md5(), NULL), 1);
	w->chunk.md5[0] ^= flip;
	w->chunk.flags |= CHUNK_HAS_MD5;
	w->verify_md5 = verify;
	REPLICA(w, { RECEIVE(), zipped(w), AGAIN() });
	open_all(w, NULL);
}

static void test_right_md5_is_accepted(void **state)
{
	open_with_md5(*state, true, 0);
	assert_fetched(*state);
}

static void test_wrong_md5_is_an_error(void **state)
{
	open_with_md5(*state, true, 1);
	assert_int_equal(fetch_all(*state), -EIO);
}

static void test_wrong_md5_is_ignored_where_it_is_not_asked_for(void **state)
{
	open_with_md5(*state, false, 1);
	assert_fetched(*state);
}

/* --- manifests --- */

static int manifest_of(struct world *w, size_t max_bytes, uint8_t **ret, size_t *ret_len)
{
	w->chunk.flags |= CHUNK_MANIFEST;
	w->chunk.size = UINT64_C(1) << 40; /* of what it describes */
	return fetch_manifest(w->fetcher, &w->chunk, max_bytes, deadline_in_ms(BUDGET_MS), ret,
			      ret_len);
}

static void assert_manifest(struct world *w)
{
	uint8_t *bytes;
	size_t len;

	open_all(w, NULL);
	assert_int_equal(manifest_of(w, 1000, &bytes, &len), 0);
	assert_int_equal(len, DATA_LEN);
	assert_memory_equal(bytes, DATA, DATA_LEN);
	free(bytes);
}

static void test_manifest_is_read_whole(void **state)
{
	struct world *w = *state;

	REPLICA(w, { RECEIVE(), stage_text(w->stage, 200, "", DATA), AGAIN() });
	assert_manifest(w);
}

static void test_compressed_manifest_is_inflated(void **state)
{
	struct world *w = *state;

	REPLICA(w, { RECEIVE(), zipped(w), AGAIN() });
	assert_manifest(w);
}

static void test_manifest_is_compressed_if_its_answer_says_so(void **state)
{
	struct world *w = *state;

	REPLICA(w, { RECEIVE(), zipped(w), AGAIN() });
	w->chunk.flags = 0;
	assert_manifest(w);
}

static void test_manifest_is_read_again_after_a_failure(void **state)
{
	struct world *w = *state;

	REPLICA(w, { RECEIVE(), SEND("HTTP/1.1 200 X\r\nContent-Length: 20\r\n\r\n999"), CLOSE() });
	REPLICA(w, { RECEIVE(), stage_text(w->stage, 200, "", DATA), AGAIN() });
	assert_manifest(w);
}

static void test_manifest_beyond_the_limit_is_refused(void **state)
{
	struct world *w = *state;
	uint8_t *bytes = NULL;
	size_t len;

	REPLICA(w, { RECEIVE(), stage_text(w->stage, 200, "", DATA), AGAIN() });
	open_all(w, NULL);
	assert_int_equal(manifest_of(w, DATA_LEN - 1, &bytes, &len), -EIO);
	assert_null(bytes);
}

/* --- threads --- */

static void *fetch_many(void *arg)
{
	struct world *w = arg;
	uint8_t memory[DATA_LEN];
	struct read_buf buf = { .ptr = memory, .len = DATA_LEN };

	for (int i = 0; i < READS; i++) {
		memset(memory, 0, sizeof(memory));
		if (fetch_chunk(w->fetcher, &w->chunk, 0, &buf, 1, deadline_in_ms(BUDGET_MS)) ||
		    memcmp(memory, DATA, DATA_LEN) != 0)
			return NULL;
	}
	return w;
}

static void test_many_readers_get_by_with_one_good_replica(void **state)
{
	struct world *w = *state;
	pthread_t threads[THREADS];

	add_bad_replica(w, 500);
	add_good_replica(w);
	REPLICA(w, { RECEIVE(), RESET() });
	open_all(w, NULL);
	for (size_t i = 0; i < THREADS; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, fetch_many, w), 0);
	for (size_t i = 0; i < THREADS; i++) {
		void *ret;
		pthread_join(threads[i], &ret);
		assert_ptr_equal(ret, w);
	}
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, make, drop)

/* --- needles that no entry describes --- */

static int fetch_needle(struct world *w, struct fetch_needle *n, uint64_t offset, size_t len)
{
	struct read_buf buf = { .ptr = w->memory, .len = len };

	n->fid = w->chunk.fid;
	return fetch_needle_range(w->fetcher, n, offset, &buf, 1, deadline_in_ms(BUDGET_MS));
}

static void test_range_tells_how_long_the_needle_is_and_who_gave_it(void **state)
{
	struct world *w = *state;
	struct fetch_needle n = { 0 };

	REPLICA(w, { RECEIVE(), stage_text(w->stage, 206, "Content-Range: bytes 2-4/20\r\n", "234"),
		     AGAIN() });
	open_all(w, NULL);
	assert_int_equal(fetch_needle(w, &n, 2, 3), 0);
	assert_memory_equal(w->memory, "234", 3);
	assert_int_equal(n.plain_bytes, DATA_LEN);
	assert_string_equal(n.source, "http");
	assert_false(n.ended);
}

static void test_range_behind_the_end_of_a_needle_is_told(void **state)
{
	struct world *w = *state;
	struct fetch_needle n = { 0 };

	add_bad_replica(w, 416);
	open_all(w, NULL);
	assert_int_equal(fetch_needle(w, &n, 100, 3), -EIO);
	assert_true(n.ended);
}

static void test_needle_that_fails_is_not_said_to_end(void **state)
{
	struct world *w = *state;
	struct fetch_needle n = { 0 };
	struct read_buf buf = { .ptr = w->memory, .len = 3 };

	add_bad_replica(w, 500);
	add_bad_replica(w, 416);
	open_all(w, NULL);
	n.fid = w->chunk.fid;
	assert_int_equal(fetch_needle_range(w->fetcher, &n, 0, &buf, 1, deadline_in_ms(STALL_MS)),
			 -EIO);
	assert_false(n.ended);
}

static void test_needle_is_read_first_from_the_server_that_is_named(void **state)
{
	struct world *w = *state;
	struct fetch_needle n = { 0 };

	struct scripted_server *a = add_good_replica(w);
	struct scripted_server *b = add_good_replica(w);
	open_all(w, NULL);
	for (int i = 0; i < 4; i++) {
		n.first = server_at(w, 1);
		assert_int_equal(fetch_needle(w, &n, 0, DATA_LEN), 0);
	}
	assert_int_equal(scripted_server_requests(a), 0);
	assert_int_equal(scripted_server_requests(b), 4);
}

static void test_needle_is_read_from_given_servers_whatever_the_master_says(void **state)
{
	struct world *w = *state;
	struct endpoint elsewhere = { .host = "127.0.0.1" };
	struct fetch_needle n = { 0 };

	add_good_replica(w);
	open_all(w, NULL);
	struct scripted_server *other = STAGE_SERVER(w->stage, { RECEIVE(), good(w), AGAIN() });
	elsewhere.port = scripted_server_port(other);
	assert_int_equal(locate_server(w->locator, &elsewhere, &n.places), 0);
	assert_int_equal(fetch_needle(w, &n, 0, DATA_LEN), 0);
	location_set_put(n.places);
	assert_int_equal(scripted_server_requests(other), 1);
	assert_int_equal(scripted_server_requests(w->master), 0);
}

static void test_whole_needle_is_inflated_and_not_larger_than_may_be(void **state)
{
	struct world *w = *state;
	struct fetch_needle n = { .fid = w->chunk.fid };
	struct deadline d = deadline_in_ms(BUDGET_MS);
	uint8_t *data = NULL;
	size_t len = 0;

	REPLICA(w, { RECEIVE(), zipped(w), AGAIN() });
	open_all(w, NULL);
	assert_int_equal(fetch_needle_whole(w->fetcher, &n, DATA_LEN - 1, d, &data, &len), -EFBIG);
	assert_null(data);
	assert_int_equal(fetch_needle_whole(w->fetcher, &n, DATA_LEN, d, &data, &len), 0);
	assert_int_equal(len, DATA_LEN);
	assert_memory_equal(data, DATA, DATA_LEN);
	assert_true(n.gzip);
	free(data);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_reads_take_turns_between_replicas),
		TEST(test_dead_replica_gives_way),
		TEST(test_reset_gives_way),
		TEST(test_stall_gives_way),
		TEST(test_trickle_is_continued_elsewhere),
		TEST(test_status_gives_way),
		TEST(test_wrong_range_gives_way),
		TEST(test_too_many_bytes_give_way),
		TEST(test_wrong_checksum_gives_way),
		TEST(test_truncated_answer_is_continued_elsewhere),
		TEST(test_buffers_are_handed_back_as_they_were),
		TEST(test_needle_that_is_nowhere_is_said_to_be_gone_at_once),
		TEST(test_short_needle_is_an_error_at_once),
		TEST(test_no_access_is_said_at_once),
		TEST(test_range_that_cannot_exist_is_refused),
		TEST(test_servers_that_stay_dead_fail_within_the_budget),
		TEST(test_one_stalled_server_leaves_time_for_another),
		TEST(test_stall_everywhere_is_a_timeout_within_the_budget),
		TEST(test_server_that_comes_back_is_waited_for),
		TEST(test_busy_server_is_asked_again),
		TEST(test_failing_server_is_rested),
		TEST(test_rested_server_is_probed_and_used_again),
		TEST(test_probe_does_not_hold_up_the_read),
		TEST(test_rested_server_is_asked_when_there_is_nothing_else),
		TEST(test_missing_needle_is_no_fault_of_the_server),
		TEST(test_volume_that_moved_is_found),
		TEST(test_volume_that_no_server_has_is_waited_for),
		TEST(test_proxy_serves_when_replicas_do_not),
		TEST(test_proxy_is_left_alone_while_replicas_serve),
		TEST(test_proxy_serves_without_any_master),
		TEST(test_proxy_serves_while_the_master_is_dead),
		TEST(test_proxy_serves_while_the_master_stalls),
		TEST(test_source_that_cannot_serve_costs_nothing),
		TEST(test_replica_that_its_agent_found_corrupt_is_not_read_in_another_way),
		TEST(test_proxy_is_not_asked_while_a_replica_is_corrupt),
		TEST(test_needle_that_is_corrupt_on_every_replica_is_an_error_at_once),
		TEST(test_bytes_spoiled_on_their_way_are_asked_for_again),
		TEST(test_compressed_chunk_is_inflated),
		TEST(test_compressed_chunk_that_comes_plain_is_taken_as_it_is),
		TEST(test_encrypted_chunk_is_decrypted),
		TEST(test_compressed_and_encrypted_chunk_is_decoded),
		TEST(test_chunk_that_does_not_decode_is_read_elsewhere),
		TEST(test_chunk_that_decodes_nowhere_is_an_error_at_once),
		TEST(test_decoded_chunk_that_is_short_is_an_error),
		TEST(test_right_md5_is_accepted),
		TEST(test_wrong_md5_is_an_error),
		TEST(test_wrong_md5_is_ignored_where_it_is_not_asked_for),
		TEST(test_manifest_is_read_whole),
		TEST(test_compressed_manifest_is_inflated),
		TEST(test_manifest_is_compressed_if_its_answer_says_so),
		TEST(test_manifest_is_read_again_after_a_failure),
		TEST(test_manifest_beyond_the_limit_is_refused),
		TEST(test_many_readers_get_by_with_one_good_replica),
		TEST(test_range_tells_how_long_the_needle_is_and_who_gave_it),
		TEST(test_range_behind_the_end_of_a_needle_is_told),
		TEST(test_needle_that_fails_is_not_said_to_end),
		TEST(test_needle_is_read_first_from_the_server_that_is_named),
		TEST(test_needle_is_read_from_given_servers_whatever_the_master_says),
		TEST(test_whole_needle_is_inflated_and_not_larger_than_may_be),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
