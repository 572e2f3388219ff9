/* Volume locations: what masters answer, what is remembered, and who has to wait. */
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
#include "filer/http.h"
#include "filer/locate.h"
#include "tests/support/stage.h"

#define MASTERS_MAX 4
#define THREADS 8
#define BUDGET_MS 10000
#define STALL_MS 1500
#define ONE_SERVER "{\"locations\":[{\"url\":\"10.0.0.1:8080\",\"publicUrl\":\"pub.example:80\"}]}"
#define OTHER_SERVER "{\"locations\":[{\"url\":\"10.0.0.2:8080\"}]}"
#define UNKNOWN "{\"volumeOrFileId\":\"7\",\"error\":\"volume id 7 not found\"}"

struct world {
	struct stage *stage;
	struct http_pool *http;
	struct locator *locator;
	struct endpoint masters[MASTERS_MAX];
	struct locate_config cfg;
};

static int make(void **state)
{
	static const struct http_config cfg = { .connect_timeout_ms = STALL_MS,
						.stall_timeout_ms = STALL_MS };
	struct world *w = calloc(1, sizeof(*w));

	w->stage = stage_new();
	assert_int_equal(http_pool_new(&cfg, &w->http), 0);
	w->cfg.masters = w->masters;
	*state = w;
	return 0;
}

static int drop(void **state)
{
	struct world *w = *state;

	locator_free(w->locator);
	http_pool_free(w->http);
	stage_free(w->stage);
	free(w);
	return 0;
}

static void add_port(struct world *w, uint16_t port)
{
	assert_true(w->cfg.n_masters < MASTERS_MAX);
	w->masters[w->cfg.n_masters++] = (struct endpoint){ .host = "127.0.0.1", .port = port };
}

#define ADD_MASTER(w, ...) add_master((w), STAGE_SERVER((w)->stage, __VA_ARGS__))
static struct scripted_server *add_master(struct world *w, struct scripted_server *s)
{
	add_port(w, scripted_server_port(s));
	return s;
}

static struct scripted_server *add_steady_master(struct world *w, int status, const char *body)
{
	return ADD_MASTER(w, { RECEIVE(), stage_text(w->stage, status, "", body), AGAIN() });
}

static void start(struct world *w)
{
	assert_int_equal(locator_new(w->http, &w->cfg, &w->locator), 0);
}

static int look(struct world *w, uint32_t volume, bool refresh, struct location_set **ret)
{
	return locate_volume(w->locator, volume, refresh, deadline_in_ms(BUDGET_MS), ret);
}

static struct location_set *found(struct world *w, uint32_t volume, bool refresh)
{
	struct location_set *set = NULL;

	assert_int_equal(look(w, volume, refresh, &set), 0);
	return set;
}

static void wait_ms(int64_t ms)
{
	sleep_ms(ms, deadline_in_ms(2 * ms));
}

static void test_asks_by_volume_and_names_no_collection(void **state)
{
	struct world *w = *state;
	struct scripted_server *m = add_steady_master(w, 200, ONE_SERVER);

	start(w);
	struct location_set *set = found(w, 7, false);
	assert_int_equal(set->n, 1);
	assert_string_equal(set->servers[0]->url, "http://10.0.0.1:8080");
	location_set_put(set);
	assert_non_null(
		strstr(scripted_server_request(m, 0), "GET /dir/lookup?volumeId=7 HTTP/1.1\r\n"));
}

static void test_rows_of_shards_count_once(void **state)
{
	struct world *w = *state;

	add_steady_master(w, 200,
			  "{\"locations\":[{\"url\":\"a:1\"},{\"url\":\"b:1\"},{\"url\":\"a:1\"},"
			  "{\"url\":\"b:1\"},{\"url\":\"a:1\"}]}");
	start(w);
	struct location_set *set = found(w, 7, false);
	assert_int_equal(set->n, 2);
	assert_string_equal(set->servers[0]->url, "http://a:1");
	assert_string_equal(set->servers[1]->url, "http://b:1");
	location_set_put(set);
}

static void test_public_urls_and_https_as_configured(void **state)
{
	struct world *w = *state;

	w->cfg.use_public_url = true;
	w->cfg.volumes_https = true;
	add_steady_master(w, 200, ONE_SERVER);
	start(w);
	struct location_set *set = found(w, 7, false);
	assert_string_equal(set->servers[0]->url, "https://pub.example:80");
	location_set_put(set);
}

static void test_public_url_falls_back_to_url(void **state)
{
	struct world *w = *state;

	w->cfg.use_public_url = true;
	add_steady_master(w, 200, OTHER_SERVER);
	start(w);
	struct location_set *set = found(w, 7, false);
	assert_string_equal(set->servers[0]->url, "http://10.0.0.2:8080");
	location_set_put(set);
}

static void test_answers_are_remembered(void **state)
{
	struct world *w = *state;
	struct scripted_server *m = add_steady_master(w, 200, ONE_SERVER);

	start(w);
	struct location_set *first = found(w, 7, false);
	struct location_set *second = found(w, 7, false);
	assert_ptr_equal(first, second);
	location_set_put(first);
	location_set_put(second);
	assert_int_equal(scripted_server_requests(m), 1);
}

static void test_servers_are_shared_between_volumes(void **state)
{
	struct world *w = *state;

	add_steady_master(w, 200, ONE_SERVER);
	start(w);
	struct location_set *a = found(w, 7, false);
	struct location_set *b = found(w, 8, false);
	assert_ptr_equal(a->servers[0], b->servers[0]);
	location_set_put(a);
	location_set_put(b);
}

static void test_unknown_volume_is_remembered_for_a_moment(void **state)
{
	struct world *w = *state;
	struct scripted_server *m = add_steady_master(w, 404, UNKNOWN);
	struct location_set *set = NULL;

	start(w);
	assert_int_equal(look(w, 7, false, &set), -ENOENT);
	assert_int_equal(look(w, 7, false, &set), -ENOENT);
	assert_null(set);
	assert_int_equal(scripted_server_requests(m), 1);
	wait_ms(LOCATE_NEGATIVE_TTL_MS + 50);
	assert_int_equal(look(w, 7, false, &set), -ENOENT);
	assert_int_equal(scripted_server_requests(m), 2);
}

static void test_no_location_is_an_empty_set(void **state)
{
	struct world *w = *state;

	add_steady_master(w, 200, "{\"locations\":[]}");
	start(w);
	struct location_set *set = found(w, 7, false);
	assert_int_equal(set->n, 0);
	location_set_put(set);
}

static void test_refresh_is_limited_in_rate(void **state)
{
	struct world *w = *state;
	struct scripted_server *m = add_steady_master(w, 200, ONE_SERVER);

	start(w);
	for (int i = 0; i < 20; i++)
		location_set_put(found(w, 7, true));
	assert_int_equal(scripted_server_requests(m), 1);
	wait_ms(LOCATE_REFRESH_MIN_MS + 50);
	location_set_put(found(w, 7, true));
	assert_int_equal(scripted_server_requests(m), 2);
}

static void test_refresh_shows_whether_the_set_changed(void **state)
{
	struct world *w = *state;

	ADD_MASTER(w, { RECEIVE(), stage_text(w->stage, 200, "", ONE_SERVER), RECEIVE(),
			stage_text(w->stage, 200, "", ONE_SERVER), RECEIVE(),
			stage_text(w->stage, 200, "", OTHER_SERVER), CLOSE() });
	start(w);
	struct location_set *first = found(w, 7, false);
	wait_ms(LOCATE_REFRESH_MIN_MS + 50);
	struct location_set *same = found(w, 7, true);
	assert_ptr_equal(first, same);
	wait_ms(LOCATE_REFRESH_MIN_MS + 50);
	struct location_set *other = found(w, 7, true);
	assert_ptr_not_equal(first, other);
	assert_string_equal(first->servers[0]->url, "http://10.0.0.1:8080"); /* as it was */
	assert_string_equal(other->servers[0]->url, "http://10.0.0.2:8080");
	location_set_put(first);
	location_set_put(same);
	location_set_put(other);
}

static void test_known_set_outlives_the_master(void **state)
{
	struct world *w = *state;

	ADD_MASTER(w, { RECEIVE(), stage_text(w->stage, 200, "", ONE_SERVER), CLOSE() },
		   { RESET() });
	start(w);
	struct location_set *first = found(w, 7, false);
	wait_ms(LOCATE_REFRESH_MIN_MS + 50);
	struct location_set *again = found(w, 7, true);
	assert_ptr_equal(first, again);
	location_set_put(first);
	location_set_put(again);
}

static void test_next_master_is_asked_when_one_is_dead(void **state)
{
	struct world *w = *state;

	add_port(w, stage_dead_port());
	add_steady_master(w, 200, ONE_SERVER);
	start(w);
	location_set_put(found(w, 7, false));
}

static void test_next_master_is_asked_when_one_stalls(void **state)
{
	struct world *w = *state;
	int64_t start_ms = now_ms();

	ADD_MASTER(w, { RECEIVE(), HANG(), CLOSE() });
	add_steady_master(w, 200, ONE_SERVER);
	start(w);
	location_set_put(found(w, 7, false));
	assert_true(now_ms() - start_ms < STALL_MS + 3000);
}

static void test_master_that_answered_is_asked_first_next_time(void **state)
{
	struct world *w = *state;
	struct scripted_server *broken = add_steady_master(w, 500, "");

	add_steady_master(w, 200, ONE_SERVER);
	start(w);
	for (uint32_t volume = 1; volume < 5; volume++)
		location_set_put(found(w, volume, false));
	assert_int_equal(scripted_server_requests(broken), 1);
}

static void test_no_of_a_follower_does_not_count(void **state)
{
	struct world *w = *state;

	add_steady_master(w, 404, UNKNOWN);
	add_steady_master(w, 200, ONE_SERVER);
	start(w);
	location_set_put(found(w, 7, false));
}

static void test_no_counts_more_than_a_dead_master(void **state)
{
	struct world *w = *state;
	struct location_set *set = NULL;

	add_steady_master(w, 404, UNKNOWN);
	add_port(w, stage_dead_port());
	start(w);
	assert_int_equal(look(w, 7, false, &set), -ENOENT);
}

static void test_warming_up_is_waited_for(void **state)
{
	struct world *w = *state;
	struct scripted_server *m = ADD_MASTER(
		w, { RECEIVE(), stage_text(w->stage, 503, "Retry-After: 5\r\n", "warming up"),
		     RECEIVE(), stage_text(w->stage, 503, "", "warming up"), RECEIVE(),
		     stage_text(w->stage, 200, "", ONE_SERVER), CLOSE() });

	start(w);
	location_set_put(found(w, 7, false));
	assert_int_equal(scripted_server_requests(m), 3);
}

static void test_warming_up_is_waited_for_only_so_long(void **state)
{
	struct world *w = *state;
	struct location_set *set = NULL;
	int64_t start_ms = now_ms();

	add_steady_master(w, 503, "");
	start(w);
	assert_int_equal(locate_volume(w->locator, 7, false, deadline_in_ms(600), &set), -EBUSY);
	assert_true(now_ms() - start_ms <= 600 + 3000);
}

static void test_malformed_answers_are_refused(void **state)
{
	static const struct {
		int status;
		const char *body;
	} cases[] = {
		{ 200, "" },
		{ 200, "<html>" },
		{ 200, "{\"locations\":[{\"url\":\"10.0.0.1:80" },
		{ 200, "{\"locations\":7}" },
		{ 200, "{\"locations\":[7,null,[]]}" },
		{ 200, "{\"locations\":[{\"url\":7}]}" },
		{ 200, "{\"locations\":[{\"url\":\"\"}]}" },
		{ 200, "{\"locations\":[{\"url\":\"a:99999\"}]}" },
		{ 404, "404 page not found" },
		{ 302, "" },
	};

	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		void *inner;
		struct location_set *set = NULL;

		make(&inner);
		struct world *w = inner;
		add_steady_master(w, cases[i].status, cases[i].body);
		start(w);
		assert_int_equal(look(w, 7, false, &set), -EPROTO);
		assert_null(set);
		drop(&inner);
	}
	(void)state;
}

static void test_row_that_cannot_be_understood_is_left_out(void **state)
{
	struct world *w = *state;

	add_steady_master(w, 200, "{\"locations\":[{\"url\":\":::\"},{\"url\":\"b:1\"},{}]}");
	start(w);
	struct location_set *set = found(w, 7, false);
	assert_int_equal(set->n, 1);
	assert_string_equal(set->servers[0]->url, "http://b:1");
	location_set_put(set);
}

static void test_endless_answer_is_cut_off(void **state)
{
	struct world *w = *state;
	struct location_set *set = NULL;

	ADD_MASTER(w, { RECEIVE(), SEND("HTTP/1.1 200 OK\r\n\r\n"),
			SEND_TIMES("[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[", 1000000), CLOSE() });
	start(w);
	assert_int_equal(look(w, 7, false, &set), -EPROTO);
}

static void test_replicas_are_limited(void **state)
{
	struct world *w = *state;
	static char body[16384];
	size_t len = (size_t)snprintf(body, sizeof(body), "{\"locations\":[");

	for (int i = 0; i < 2 * LOCATE_REPLICAS_MAX; i++)
		len += (size_t)snprintf(body + len, sizeof(body) - len, "%s{\"url\":\"h%d:1\"}",
					i ? "," : "", i);
	snprintf(body + len, sizeof(body) - len, "]}");
	add_steady_master(w, 200, body);
	start(w);
	struct location_set *set = found(w, 7, false);
	assert_int_equal(set->n, LOCATE_REPLICAS_MAX);
	location_set_put(set);
}

static void test_no_master_is_said_at_once(void **state)
{
	struct world *w = *state;
	struct fid fid = { .volume_id = 7 };
	struct location_set *set = NULL;
	char token[64];

	start(w);
	assert_int_equal(look(w, 7, false, &set), -ENXIO);
	assert_int_equal(locate_read_token(w->locator, &fid, deadline_in_ms(BUDGET_MS), token,
					   sizeof(token)),
			 -ENXIO);
}

static void test_masters_at_rest_are_not_asked_but_for_a_refresh(void **state)
{
	struct world *w = *state;
	struct scripted_server *m = ADD_MASTER(w, { RESET() });
	struct location_set *set = NULL;

	start(w);
	for (uint32_t volume = 1; volume <= BREAKER_FAILURES_MAX; volume++)
		assert_int_not_equal(look(w, volume, false, &set), 0);
	size_t asked = scripted_server_connections(m);
	assert_int_equal(look(w, 8, false, &set), -EHOSTUNREACH);
	assert_int_equal(scripted_server_connections(m), asked);
	assert_int_not_equal(look(w, 9, true, &set), 0);
	assert_true(scripted_server_connections(m) > asked);
}

struct lookup {
	struct world *w;
	int err;
};

static void *look_in_thread(void *arg)
{
	struct lookup *l = arg;
	struct location_set *set = NULL;

	l->err = look(l->w, 7, false, &set);
	location_set_put(set);
	return NULL;
}

static void run_threads(struct world *w, struct lookup lookups[THREADS])
{
	pthread_t threads[THREADS];

	for (size_t i = 0; i < THREADS; i++) {
		lookups[i] = (struct lookup){ .w = w };
		assert_int_equal(pthread_create(&threads[i], NULL, look_in_thread, &lookups[i]), 0);
	}
	for (size_t i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
}

static void test_one_request_serves_all_who_wait(void **state)
{
	struct world *w = *state;
	struct lookup lookups[THREADS];
	struct scripted_server *m = ADD_MASTER(
		w, { RECEIVE(), PAUSE(200), stage_text(w->stage, 200, "", ONE_SERVER), AGAIN() });

	start(w);
	run_threads(w, lookups);
	for (size_t i = 0; i < THREADS; i++)
		assert_int_equal(lookups[i].err, 0);
	assert_int_equal(scripted_server_requests(m), 1);
}

static void test_one_failure_serves_all_who_wait(void **state)
{
	struct world *w = *state;
	struct lookup lookups[THREADS];
	struct scripted_server *m = ADD_MASTER(w, { RECEIVE(), PAUSE(1000), RESET() });

	start(w);
	run_threads(w, lookups);
	for (size_t i = 0; i < THREADS; i++)
		assert_int_not_equal(lookups[i].err, 0);
	assert_true(scripted_server_requests(m) <= 2);
}

static void test_masters_may_become_known_later(void **state)
{
	struct world *w = *state;
	struct location_set *set;

	start(w);
	assert_int_equal(look(w, 7, false, &set), -ENXIO);
	add_steady_master(w, 200, ONE_SERVER);
	assert_int_equal(locator_set_masters(w->locator, w->masters, w->cfg.n_masters), 0);
	location_set_put(found(w, 7, false));
	assert_int_equal(locator_set_masters(w->locator, w->masters, w->cfg.n_masters), -EALREADY);
}

static void test_who_waits_keeps_to_its_own_deadline(void **state)
{
	struct world *w = *state;
	struct lookup lookup = { .w = w };
	struct location_set *set = NULL;
	pthread_t thread;
	struct scripted_server *m = ADD_MASTER(
		w, { RECEIVE(), PAUSE(1300), stage_text(w->stage, 200, "", ONE_SERVER), AGAIN() });

	start(w);
	assert_int_equal(pthread_create(&thread, NULL, look_in_thread, &lookup), 0);
	while (scripted_server_requests(m) == 0)
		wait_ms(5);
	int64_t start_ms = now_ms();
	assert_int_equal(locate_volume(w->locator, 7, false, deadline_in_ms(50), &set), -ETIMEDOUT);
	assert_true(now_ms() - start_ms < 1200);
	pthread_join(thread, NULL);
	assert_int_equal(lookup.err, 0);
}

static int token_of(struct world *w, size_t room, char *buf)
{
	struct fid fid = { .volume_id = 3, .key = 0x16, .cookie = 0x37037d6a };

	return locate_read_token(w->locator, &fid, deadline_in_ms(BUDGET_MS), buf, room);
}

static void test_token_comes_from_the_header(void **state)
{
	struct world *w = *state;
	char token[64] = "";
	struct scripted_server *m = ADD_MASTER(
		w, { RECEIVE(),
		     stage_text(w->stage, 200, "Authorization: Bearer aa.bb.cc\r\n", ONE_SERVER),
		     AGAIN() });

	start(w);
	assert_int_equal(token_of(w, sizeof(token), token), 0);
	assert_string_equal(token, "aa.bb.cc");
	assert_non_null(strstr(scripted_server_request(m, 0),
			       "GET /dir/lookup?fileId=3,1637037d6a&read=yes HTTP/1.1\r\n"));
	assert_int_equal(token_of(w, strlen("aa.bb.cc"), token), -EPROTO);
}

static void test_master_without_tokens_is_no_access(void **state)
{
	struct world *w = *state;
	char token[64] = "unchanged";

	add_steady_master(w, 200, ONE_SERVER);
	start(w);
	assert_int_equal(token_of(w, sizeof(token), token), -EACCES);
	assert_string_equal(token, "unchanged");
}

static void count_server(void *arg, struct server *s)
{
	(void)s;
	++*(int *)arg;
}

static int name_server(struct world *w, unsigned i, struct location_set **ret)
{
	struct endpoint e = { .port = 8080 };

	snprintf(e.host, sizeof(e.host), "10.1.%u.%u", i / 256, i % 256);
	return locate_server(w->locator, &e, ret);
}

static void test_servers_that_nobody_uses_make_room_for_others(void **state)
{
	struct world *w = *state;
	struct location_set *used, *set;
	int n = 0;

	add_steady_master(w, 200, ONE_SERVER);
	start(w);
	struct location_set *named = found(w, 7, false);
	const struct server *server = named->servers[0];
	location_set_put(named);
	assert_int_equal(name_server(w, 0, &used), 0);
	for (unsigned i = 1; i < LOCATE_SERVERS_MAX + 200; i++) {
		assert_int_equal(name_server(w, i, &set), 0);
		location_set_put(set);
	}
	locator_each_server(w->locator, count_server, &n);
	assert_int_equal(n, LOCATE_SERVERS_MAX);
	assert_string_equal(used->servers[0]->url, "http://10.1.0.0:8080");
	location_set_put(used);
	named = found(w, 7, false);
	assert_ptr_equal(named->servers[0], server);
	assert_string_equal(server->url, "http://10.0.0.1:8080");
	location_set_put(named);
}

static void test_more_servers_than_there_is_room_for_are_refused_while_they_are_used(void **state)
{
	static struct location_set *sets[LOCATE_SERVERS_MAX];
	struct world *w = *state;
	struct location_set *set;

	start(w);
	for (unsigned i = 0; i < LOCATE_SERVERS_MAX; i++)
		assert_int_equal(name_server(w, i, &sets[i]), 0);
	assert_int_equal(name_server(w, LOCATE_SERVERS_MAX, &set), -EBUSY);
	for (unsigned i = 0; i < LOCATE_SERVERS_MAX; i++)
		location_set_put(sets[i]);
	assert_int_equal(name_server(w, LOCATE_SERVERS_MAX, &set), 0);
	location_set_put(set);
}

static void test_every_server_is_shown_once(void **state)
{
	struct world *w = *state;
	int n = 0;

	add_steady_master(w, 200, "{\"locations\":[{\"url\":\"a:1\"},{\"url\":\"b:1\"}]}");
	start(w);
	location_set_put(found(w, 7, false));
	location_set_put(found(w, 8, false));
	locator_each_server(w->locator, count_server, &n);
	assert_int_equal(n, 2);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, make, drop)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_asks_by_volume_and_names_no_collection),
		TEST(test_rows_of_shards_count_once),
		TEST(test_public_urls_and_https_as_configured),
		TEST(test_public_url_falls_back_to_url),
		TEST(test_answers_are_remembered),
		TEST(test_servers_are_shared_between_volumes),
		TEST(test_unknown_volume_is_remembered_for_a_moment),
		TEST(test_no_location_is_an_empty_set),
		TEST(test_refresh_is_limited_in_rate),
		TEST(test_refresh_shows_whether_the_set_changed),
		TEST(test_known_set_outlives_the_master),
		TEST(test_next_master_is_asked_when_one_is_dead),
		TEST(test_next_master_is_asked_when_one_stalls),
		TEST(test_master_that_answered_is_asked_first_next_time),
		TEST(test_no_of_a_follower_does_not_count),
		TEST(test_no_counts_more_than_a_dead_master),
		TEST(test_warming_up_is_waited_for),
		TEST(test_warming_up_is_waited_for_only_so_long),
		TEST(test_malformed_answers_are_refused),
		TEST(test_row_that_cannot_be_understood_is_left_out),
		TEST(test_endless_answer_is_cut_off),
		TEST(test_replicas_are_limited),
		TEST(test_no_master_is_said_at_once),
		TEST(test_masters_at_rest_are_not_asked_but_for_a_refresh),
		TEST(test_one_request_serves_all_who_wait),
		TEST(test_one_failure_serves_all_who_wait),
		TEST(test_masters_may_become_known_later),
		TEST(test_who_waits_keeps_to_its_own_deadline),
		TEST(test_token_comes_from_the_header),
		TEST(test_master_without_tokens_is_no_access),
		TEST(test_servers_that_nobody_uses_make_room_for_others),
		TEST(test_more_servers_than_there_is_room_for_are_refused_while_they_are_used),
		TEST(test_every_server_is_shown_once),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
