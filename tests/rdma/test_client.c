/* Agents as a source: found, used, missed, found again; how many connections, and with which tokens. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "filer/breaker.h"
#include "filer/locate.h"
#include "filer/token.h"
#include "rdma/client.h"
#include "tests/support/scripted_agent.h"

#define BUDGET_MS 10000
#define CONNECT_MS 1500
#define ANSWER_MS 1500
#define LATE_MS 3000 /* of a busy machine */
#define ABSENT_MS 200
#define NEEDLE_BYTES (100 * KIB)
#define THREADS CLIENT_READS_EACH /* as many as share a connection */
#define READS_EACH 100
#define KEY_VARIABLE "WEED_JWT_SIGNING_READ_KEY"
#define TEXT_BYTES 1025

static const struct fid needle = { .volume_id = 3, .key = 0x16, .cookie = 0x37037d6a };
static const struct agent_script good = { .credits = 16, .needle_bytes = NEEDLE_BYTES };

struct world {
	struct scripted_agent *agent;
	uint16_t port; /* of the agent, or where none is */
	struct client_config cfg;
	struct client *client;
	struct token_source *tokens;
	struct server server;
	uint8_t memory[NEEDLE_BYTES];
};

/* Where nobody listens: of an agent that has just ended. */
static uint16_t free_port(void)
{
	struct scripted_agent *a = scripted_agent_start(&good, 0);
	uint16_t port = scripted_agent_port(a);

	scripted_agent_stop(a);
	return port;
}

static int make(void **state)
{
	struct world *w = calloc(1, sizeof(*w));

	assert_non_null(w);
	w->cfg = (struct client_config){ .transport = &client_tcp,
					 .connect_ms = CONNECT_MS,
					 .answer_ms = ANSWER_MS,
					 .absent_min_ms = ABSENT_MS };
	strcpy(w->server.addr.host, "127.0.0.1");
	w->server.addr.port = 8080;
	breaker_init(&w->server.agent);
	*state = w;
	return 0;
}

static int drop(void **state)
{
	struct world *w = *state;

	client_free(w->client);
	scripted_agent_stop(w->agent);
	token_source_free(w->tokens);
	breaker_destroy(&w->server.agent);
	unsetenv(KEY_VARIABLE);
	free(w);
	return 0;
}

static void open_client(struct world *w)
{
	w->cfg.port = w->port;
	assert_int_equal(client_new(&w->cfg, &w->client), 0);
}

static void start(struct world *w, const struct agent_script *script)
{
	w->agent = scripted_agent_start(script, w->port);
	w->port = scripted_agent_port(w->agent);
	if (!w->client)
		open_client(w);
}

static void stop_agent(struct world *w)
{
	scripted_agent_stop(w->agent);
	w->agent = NULL;
}

static struct client_stats stats_of(struct world *w)
{
	struct client_stats s;

	client_stats(w->client, &s);
	return s;
}

/* Through the source. What arrives must be right. */
static int read_range(struct world *w, uint64_t offset, size_t len)
{
	struct source s = client_source(w->client);
	struct read_buf buf = { .ptr = w->memory, .len = len };
	struct needle_range r = { .fid = needle, .offset = offset, .bufs = &buf, .n_bufs = 1 };
	uint8_t expected[NEEDLE_BYTES];

	memset(w->memory, 0, len);
	int err = s.ops->read_range(s.self, &w->server, &r, deadline_in_ms(BUDGET_MS));
	if (!err)
		assert_int_equal(r.got, len);
	scripted_agent_bytes(&needle, offset, expected, len);
	assert_memory_equal(w->memory, expected, r.got);
	return err;
}

static int64_t timed_read(struct world *w, int expected)
{
	int64_t begun = now_ms();

	assert_int_equal(read_range(w, 0, 4096), expected);
	return now_ms() - begun;
}

static void read_until_it_works(struct world *w)
{
	struct deadline d = deadline_in_ms(BUDGET_MS);

	while (read_range(w, 0, 4096) != 0) {
		assert_false(deadline_passed(d));
		sleep_ms(20, d);
	}
}

static void await_connections(struct world *w, size_t n)
{
	struct deadline d = deadline_in_ms(BUDGET_MS);

	while (stats_of(w).connections != n) {
		assert_false(deadline_passed(d));
		sleep_ms(10, d);
	}
}

/* --- an agent that is there --- */

static void reads_ranges(void **state)
{
	struct world *w = *state;

	start(w, &good);
	assert_int_equal(read_range(w, 1, 4096), 0);
	assert_int_equal(read_range(w, 9, 90000), 0);
	assert_int_equal(scripted_agent_connections(w->agent), 1);
	struct client_stats s = stats_of(w);
	assert_int_equal(s.reads, 2);
	assert_int_equal(s.agents_up, 1);
}

struct seen {
	bool gzip;
	size_t len;
};

static int seen_begin(void *arg, bool gzip, int64_t stored_len)
{
	assert_int_equal(stored_len, NEEDLE_BYTES);
	((struct seen *)arg)->gzip = gzip;
	return 0;
}

static int seen_push(void *arg, const uint8_t *p, size_t n)
{
	struct seen *s = arg;
	uint8_t *expected = malloc(n);

	scripted_agent_bytes(&needle, s->len, expected, n);
	assert_memory_equal(p, expected, n);
	s->len += n;
	free(expected);
	return 0;
}

static void reads_whole_needles_as_they_are_stored(void **state)
{
	struct world *w = *state;
	struct agent_script script = good;
	struct seen seen = { 0 };
	const struct needle_sink sink = { .begin = seen_begin, .push = seen_push, .arg = &seen };

	script.gzip = true;
	start(w, &script);
	struct source s = client_source(w->client);
	assert_int_equal(
		s.ops->read_whole(s.self, &w->server, &needle, &sink, deadline_in_ms(BUDGET_MS)),
		0);
	assert_true(seen.gzip);
	assert_int_equal(seen.len, NEEDLE_BYTES);
}

static void says_that_a_needle_is_compressed_when_asked_for_a_range(void **state)
{
	struct world *w = *state;
	struct agent_script script = good;
	uint8_t byte;
	struct read_buf buf = { .ptr = &byte, .len = 1 };
	struct needle_range r = { .fid = needle, .bufs = &buf, .n_bufs = 1, .got = 99 };

	script.gzip = true;
	start(w, &script);
	struct source s = client_source(w->client);
	assert_int_equal(s.ops->read_range(s.self, &w->server, &r, deadline_in_ms(BUDGET_MS)),
			 -EMEDIUMTYPE);
	assert_int_equal(r.got, 0);
}

static void is_a_source_with_a_breaker_of_its_own(void **state)
{
	struct world *w = *state;

	open_client(w);
	struct source s = client_source(w->client);
	assert_string_equal(s.ops->name, "tcp");
	assert_true(s.per_server);
	assert_ptr_equal(s.ops->breaker(&w->server), &w->server.agent);
}

static void tells_what_the_agent_says_of_itself(void **state)
{
	struct world *w = *state;
	struct wire_hello_reply hello;
	int64_t rtt_ns = 0;

	start(w, &good);
	assert_int_equal(
		client_ping(w->client, &w->server.addr, deadline_in_ms(BUDGET_MS), &hello, &rtt_ns),
		0);
	assert_string_equal(hello.software, "scripted");
	assert_in_range(rtt_ns, 1, (int64_t)BUDGET_MS * 1000000);
}

/* --- an agent that is not there --- */

static void a_missing_agent_costs_nothing_after_the_first_try(void **state)
{
	struct world *w = *state;

	w->port = free_port();
	w->cfg.absent_min_ms = 60000;
	open_client(w);
	assert_int_equal(read_range(w, 0, 10), -EOPNOTSUPP);
	int64_t begun = now_ms();
	for (int i = 0; i < 1000; i++)
		assert_int_equal(read_range(w, 0, 10), -EOPNOTSUPP);
	assert_in_range(now_ms() - begun, 0, LATE_MS);
	assert_int_equal(stats_of(w).connect_failures, 1);
}

static void a_silent_agent_holds_up_only_the_first_read(void **state)
{
	struct world *w = *state;
	struct agent_script script = good;

	script.fault = AGENT_HELLO_STALLS;
	start(w, &script);
	assert_in_range(timed_read(w, -EOPNOTSUPP), 0, CONNECT_MS + LATE_MS);
	sleep_ms(CONNECT_MS + 2 * ABSENT_MS, deadline_in_ms(BUDGET_MS));
	/* Now it is tried again, but nobody waits for that. */
	assert_in_range(timed_read(w, -EOPNOTSUPP), 0, CONNECT_MS * 2 / 3);
	assert_in_range(timed_read(w, -EOPNOTSUPP), 0, CONNECT_MS * 2 / 3);
	assert_in_range(scripted_agent_connections(w->agent), 1, 2);
}

static bool map_to_two(void *arg, const struct endpoint *server, struct endpoint *ret)
{
	struct world *w = arg;

	strcpy(ret->host, "127.0.0.1");
	ret->port = server->port == 8080 ? w->port : scripted_agent_port(w->agent);
	return true;
}

static void *read_from_the_first(void *arg)
{
	struct world *w = arg;
	struct endpoint first = { .host = "127.0.0.1", .port = 8080 };
	uint8_t byte;
	struct read_buf buf = { .ptr = &byte, .len = 1 };
	struct client_extent e = { .fid = needle, .bufs = &buf, .n_bufs = 1 };

	client_read(w->client, &first, &e, 1, deadline_in_ms(BUDGET_MS));
	return NULL;
}

static void where_connecting_may_take_long_a_silent_agent_does_not_hold_up_others(void **state)
{
	struct world *w = *state;
	struct agent_script script = good;
	pthread_t reader;

	script.fault = AGENT_HELLO_STALLS;
	struct scripted_agent *silent = scripted_agent_start(&script, 0);
	w->port = scripted_agent_port(silent);
	w->agent = scripted_agent_start(&good, 0);
	w->cfg.connect_ms = 3 * LATE_MS;
	w->cfg.map = map_to_two;
	w->cfg.map_arg = w;
	open_client(w);
	pthread_create(&reader, NULL, read_from_the_first, w);
	for (struct deadline d = deadline_in_ms(BUDGET_MS);
	     scripted_agent_connections(silent) == 0 && !deadline_passed(d);)
		sleep_ms(10, d);
	w->server.addr.port = 8081;
	assert_in_range(timed_read(w, 0), 0, 2 * LATE_MS);
	scripted_agent_stop(silent);
	pthread_join(reader, NULL);
}

static void a_ping_tells_that_nothing_was_answered_in_time(void **state)
{
	struct world *w = *state;
	struct agent_script script = good;
	struct wire_hello_reply hello;
	int64_t rtt_ns;

	script.fault = AGENT_HELLO_STALLS;
	start(w, &script);
	assert_int_equal(client_ping(w->client, &w->server.addr, deadline_in_ms(CONNECT_MS / 3),
				     &hello, &rtt_ns),
			 -ETIMEDOUT);
}

static void finds_an_agent_that_comes_later(void **state)
{
	struct world *w = *state;

	w->port = free_port();
	open_client(w);
	assert_int_equal(read_range(w, 0, 10), -EOPNOTSUPP);
	start(w, &good);
	read_until_it_works(w);
}

static void remembers_longer_that_it_was_refused(void **state)
{
	struct world *w = *state;
	struct agent_script script = good;
	struct wire_hello_reply hello;
	int64_t rtt_ns;

	script.fault = AGENT_HELLO_REFUSED;
	script.hello_status = WIRE_VERSION_REFUSED;
	start(w, &script);
	for (int i = 0; i < 10; i++) {
		assert_int_equal(read_range(w, 0, 10), -EOPNOTSUPP);
		sleep_ms(ABSENT_MS / 2, deadline_in_ms(BUDGET_MS));
	}
	assert_int_equal(scripted_agent_connections(w->agent), 1);
	assert_int_equal(
		client_ping(w->client, &w->server.addr, deadline_in_ms(BUDGET_MS), &hello, &rtt_ns),
		-EOPNOTSUPP);
	assert_int_equal(hello.status, WIRE_VERSION_REFUSED);
}

static void says_clearly_that_an_agent_is_exhausted(void **state)
{
	struct world *w = *state;
	struct agent_script script = good;
	struct read_buf buf = { .ptr = w->memory, .len = 1 };
	struct client_extent e = { .fid = needle, .bufs = &buf, .n_bufs = 1 };

	script.fault = AGENT_HELLO_REFUSED;
	script.hello_status = WIRE_EXHAUSTED;
	w->cfg.absent_min_ms = 60000;
	start(w, &script);
	assert_int_equal(read_range(w, 0, 1), -EBUSY);
	assert_int_equal(client_read(w->client, &w->server.addr, &e, 1, deadline_in_ms(BUDGET_MS)),
			 -EUSERS);
	assert_int_equal(e.err, -EUSERS);
	assert_int_equal(scripted_agent_connections(w->agent), 1);
}

static void a_required_agent_that_is_missing_is_a_failure(void **state)
{
	struct world *w = *state;

	w->port = free_port();
	w->cfg.required = true;
	open_client(w);
	assert_int_equal(read_range(w, 0, 10), -EHOSTUNREACH);
}

static bool map_to_agent(void *arg, const struct endpoint *server, struct endpoint *ret)
{
	struct world *w = arg;

	assert_int_equal(server->port, 8080);
	strcpy(ret->host, "localhost");
	ret->port = scripted_agent_port(w->agent);
	return true;
}

static void asks_elsewhere_where_the_map_says_so(void **state)
{
	struct world *w = *state;

	w->agent = scripted_agent_start(&good, 0);
	w->port = 1;
	w->cfg.map = map_to_agent;
	w->cfg.map_arg = w;
	open_client(w);
	assert_int_equal(read_range(w, 0, 10), 0);
}

static void whom_the_map_knows_no_directory_is_asked_about(void **state)
{
	struct client_config nobody = { .transport = &client_tcp, .port = 1 };
	struct world *w = *state;

	assert_int_equal(client_new(&nobody, &w->cfg.directory), 0);
	breaker_init(&w->server.rdma);
	w->agent = scripted_agent_start(&good, 0);
	w->cfg.map = map_to_agent;
	w->cfg.map_arg = w;
	open_client(w);
	assert_int_equal(read_range(w, 0, 10), 0);
	client_free(w->client);
	w->client = NULL;
	client_free(w->cfg.directory);
	breaker_destroy(&w->server.rdma);
}

static void a_directory_that_is_slow_is_asked_again_soon(void **state)
{
	struct client_config directory = { .transport = &client_tcp,
					   .connect_ms = ABSENT_MS,
					   .probe_ms = CONNECT_MS,
					   .absent_min_ms = ABSENT_MS };
	struct agent_script script = good;
	struct world *w = *state;

	w->agent = scripted_agent_start(&good, 0);
	script.told_port = scripted_agent_port(w->agent);
	script.fault = AGENT_HELLO_STALLS;
	struct scripted_agent *slow = scripted_agent_start(&script, 0);
	w->port = directory.port = scripted_agent_port(slow);
	assert_int_equal(client_new(&directory, &w->cfg.directory), 0);
	breaker_init(&w->server.rdma);
	open_client(w);
	assert_int_equal(read_range(w, 0, 10), -EOPNOTSUPP);
	scripted_agent_set_fault(slow, AGENT_GOOD);
	read_until_it_works(w);
	client_free(w->client);
	w->client = NULL;
	client_free(w->cfg.directory);
	scripted_agent_stop(slow);
	breaker_destroy(&w->server.rdma);
}

/* --- an agent that fails --- */

static void a_restarted_agent_is_used_at_once(void **state)
{
	struct world *w = *state;

	start(w, &good);
	assert_int_equal(read_range(w, 0, 4096), 0);
	stop_agent(w);
	start(w, &good);
	assert_int_equal(read_range(w, 0, 4096), 0);
}

static void an_agent_that_died_is_missed_at_once(void **state)
{
	struct world *w = *state;

	start(w, &good);
	assert_int_equal(read_range(w, 0, 4096), 0);
	stop_agent(w);
	assert_in_range(timed_read(w, -EOPNOTSUPP), 0, CONNECT_MS);
	assert_int_equal(stats_of(w).connections, 0);
	start(w, &good);
	read_until_it_works(w);
}

static void an_agent_that_hangs_is_given_up_in_time(void **state)
{
	struct world *w = *state;

	start(w, &good);
	assert_int_equal(read_range(w, 0, 4096), 0);
	scripted_agent_set_fault(w->agent, AGENT_STALLS);
	assert_in_range(timed_read(w, -ETIMEDOUT), ANSWER_MS, ANSWER_MS + LATE_MS);
	scripted_agent_set_fault(w->agent, AGENT_GOOD);
	assert_int_equal(read_range(w, 0, 4096), 0);
}

static void a_liar_is_asked_again_on_a_fresh_connection_only(void **state)
{
	struct world *w = *state;
	struct agent_script script = good;

	script.fault = AGENT_WRONG_XID;
	start(w, &script);
	assert_int_equal(read_range(w, 0, 4096), -EPROTO);
	scripted_agent_set_fault(w->agent, AGENT_GOOD);
	assert_int_equal(read_range(w, 0, 4096), 0);
	assert_int_equal(scripted_agent_connections(w->agent), 2);
}

/* --- connections --- */

struct reader {
	struct world *w;
	pthread_t thread;
	unsigned reads;
	int err;
};

static void *read_many(void *arg)
{
	struct reader *r = arg;
	uint8_t memory[512], expected[512];

	for (unsigned i = 0; i < r->reads && !r->err; i++) {
		struct read_buf buf = { .ptr = memory, .len = sizeof(memory) };
		struct client_extent e = { .fid = needle, .offset = i, .bufs = &buf, .n_bufs = 1 };

		r->err = client_read(r->w->client, &r->w->server.addr, &e, 1,
				     deadline_in_ms(BUDGET_MS));
		scripted_agent_bytes(&needle, i, expected, sizeof(expected));
		if (!r->err && (e.err || memcmp(memory, expected, sizeof(memory)) != 0))
			r->err = -EBADMSG;
	}
	return NULL;
}

static void start_reader(struct reader *r, struct world *w, unsigned reads)
{
	*r = (struct reader){ .w = w, .reads = reads };
	assert_int_equal(pthread_create(&r->thread, NULL, read_many, r), 0);
}

static void assert_all_read(struct world *w, unsigned reads)
{
	struct reader readers[THREADS];

	for (size_t i = 0; i < THREADS; i++)
		start_reader(&readers[i], w, reads);
	for (size_t i = 0; i < THREADS; i++)
		pthread_join(readers[i].thread, NULL);
	for (size_t i = 0; i < THREADS; i++)
		assert_int_equal(readers[i].err, 0);
}

static void all_first_readers_wait_for_the_first_try(void **state)
{
	struct world *w = *state;

	start(w, &good);
	assert_all_read(w, 1);
}

static void makes_no_more_connections_than_allowed(void **state)
{
	struct world *w = *state;

	w->cfg.connections_max = 2;
	start(w, &good);
	assert_all_read(w, READS_EACH);
	assert_in_range(scripted_agent_connections(w->agent), 1, 2);
}

static void many_threads_use_several_connections(void **state)
{
	struct world *w = *state;

	start(w, &good);
	assert_all_read(w, READS_EACH);
	assert_in_range(scripted_agent_connections(w->agent), 1, CLIENT_STREAMS_MAX);
}

static void reads_share_few_connections(void **state)
{
	const struct agent_script once_all_have_asked = { .credits = CLIENT_READS_EACH,
							  .needle_bytes = NEEDLE_BYTES,
							  .hold = CLIENT_READS_EACH };
	struct world *w = *state;

	w->cfg.connections_few = 1;
	start(w, &once_all_have_asked);
	assert_all_read(w, 1);
	assert_int_equal(scripted_agent_connections(w->agent), 1);
}

static void where_each_has_many_reads_there_is_another_connection(void **state)
{
	const struct agent_script silent = { .credits = CLIENT_READS_EACH, .fault = AGENT_STALLS };
	struct reader readers[CLIENT_READS_EACH + 1];
	struct world *w = *state;
	struct deadline d = deadline_in_ms(BUDGET_MS);

	w->cfg.connections_few = 1;
	w->cfg.answer_ms = BUDGET_MS;
	start(w, &silent);
	for (size_t i = 0; i < ARRAY_LEN(readers); i++)
		start_reader(&readers[i], w, 1);
	while (scripted_agent_connections(w->agent) < 2) {
		assert_false(deadline_passed(d));
		sleep_ms(5, d);
	}
	stop_agent(w);
	for (size_t i = 0; i < ARRAY_LEN(readers); i++)
		pthread_join(readers[i].thread, NULL);
}

static void a_restart_costs_one_read_one_retry_however_many_connections(void **state)
{
	struct world *w = *state;
	struct deadline d = deadline_in_ms(BUDGET_MS);

	start(w, &good);
	while (stats_of(w).connections < 2) {
		assert_false(deadline_passed(d));
		assert_all_read(w, READS_EACH);
	}
	stop_agent(w);
	start(w, &good);
	assert_int_equal(read_range(w, 0, 4096), 0);
}

static void closes_what_has_been_idle(void **state)
{
	struct world *w = *state;

	w->cfg.idle_ms = 100;
	w->cfg.reap_ms = 20;
	start(w, &good);
	assert_int_equal(read_range(w, 0, 10), 0);
	await_connections(w, 0);
	assert_true(stats_of(w).reaped >= 1); /* one may be closed before a slow reader has it */
	assert_int_equal(read_range(w, 0, 10), 0);
}

static void pings_notice_that_an_idle_connection_is_dead(void **state)
{
	struct world *w = *state;

	w->cfg.reap_ms = 20;
	start(w, &good);
	/* on a busy machine an answer may come too late once, but not each time */
	int tries = 20;
	do {
		assert_true(tries-- > 0);
		assert_int_equal(read_range(w, 0, 10), 0);
		sleep_ms(100, deadline_in_ms(BUDGET_MS));
	} while (stats_of(w).connections != 1);
	stop_agent(w);
	await_connections(w, 0);
}

/* --- tokens --- */

static void add_key(struct world *w)
{
	unsigned line;

	setenv(KEY_VARIABLE, "key", 1);
	assert_int_equal(token_source_new(NULL, &line, &w->tokens), 0);
	w->cfg.tokens = w->tokens;
}

static void signs_the_connection_with_the_volume_key(void **state)
{
	struct world *w = *state;
	struct agent_script script = good;
	char hello[TEXT_BYTES], read[TEXT_BYTES];

	script.token_needed = true;
	add_key(w);
	start(w, &script);
	assert_int_equal(read_range(w, 0, 10), 0);
	scripted_agent_tokens(w->agent, hello, read);
	assert_true(hello[0] != '\0');
	assert_int_equal(token_check_agent(w->tokens, hello, strlen(hello)), 0);
	assert_string_equal(read, "");
}

static int give_token(void *arg, const struct fid *fid, struct deadline d, char *buf,
		      size_t buf_bytes)
{
	(void)arg;
	(void)d;
	snprintf(buf, buf_bytes, "token for %u", fid->volume_id);
	return 0;
}

static void sends_a_token_with_every_extent_without_the_key(void **state)
{
	struct world *w = *state;
	struct agent_script script = good;
	char hello[TEXT_BYTES], read[TEXT_BYTES];

	script.token_needed = true;
	w->cfg.extent_token = give_token;
	start(w, &script);
	assert_int_equal(read_range(w, 0, 10), 0);
	scripted_agent_tokens(w->agent, hello, read);
	assert_string_equal(hello, "");
	assert_string_equal(read, "token for 3");
}

static void does_not_ask_without_the_token_that_is_needed(void **state)
{
	struct world *w = *state;
	struct agent_script script = good;

	script.token_needed = true;
	start(w, &script);
	assert_int_equal(read_range(w, 0, 10), -EOPNOTSUPP);
	assert_int_equal(scripted_agent_reads(w->agent), 0);
}

static void asks_for_no_token_where_none_is_needed(void **state)
{
	struct world *w = *state;
	char hello[TEXT_BYTES], read[TEXT_BYTES];

	w->cfg.extent_token = give_token;
	start(w, &good);
	assert_int_equal(read_range(w, 0, 10), 0);
	scripted_agent_tokens(w->agent, hello, read);
	assert_string_equal(hello, "");
	assert_string_equal(read, "");
}

/* --- more agents than are remembered --- */

/* Where nobody listens; another place for each number. */
static int ask_nobody(struct world *w, unsigned number)
{
	struct endpoint server = { .port = 8080 };
	struct wire_hello_reply hello;
	int64_t rtt_ns;

	snprintf(server.host, sizeof(server.host), "127.1.%u.%u", number / 256, number % 256);
	return client_ping(w->client, &server, deadline_in_ms(BUDGET_MS), &hello, &rtt_ns);
}

static void who_was_asked_for_longest_ago_makes_room(void **state)
{
	struct world *w = *state;

	start(w, &good);
	assert_int_equal(read_range(w, 0, 10), 0);
	for (unsigned i = 0; i < CLIENT_AGENTS_MAX; i++)
		assert_int_not_equal(ask_nobody(w, i), 0);
	assert_int_equal(stats_of(w).agents, CLIENT_AGENTS_MAX);
	assert_int_equal(stats_of(w).connections, 0);
	assert_int_equal(read_range(w, 0, 10), 0);
	assert_int_equal(stats_of(w).agents, CLIENT_AGENTS_MAX);
	assert_int_equal(scripted_agent_connections(w->agent), 2);
}

struct asker {
	struct world *w;
	unsigned first, n;
	int err;
};

static void *ask_many(void *arg)
{
	struct asker *a = arg;
	struct wire_hello_reply hello;
	int64_t rtt_ns;

	for (unsigned i = 0; i < a->n && !a->err; i++) {
		if (ask_nobody(a->w, a->first + i) == 0)
			a->err = -ENOTRECOVERABLE;
		else if (i % 100 == 0)
			a->err = client_ping(a->w->client, &a->w->server.addr,
					     deadline_in_ms(BUDGET_MS), &hello, &rtt_ns);
	}
	return NULL;
}

static void who_is_asked_for_stays_while_others_come_and_go(void **state)
{
	enum { ASKERS = 4, EACH = CLIENT_AGENTS_MAX / 3 };
	struct world *w = *state;
	struct asker askers[ASKERS];
	pthread_t threads[ASKERS];

	start(w, &good);
	assert_int_equal(read_range(w, 0, 10), 0);
	for (unsigned i = 0; i < ASKERS; i++) {
		askers[i] = (struct asker){ .w = w, .first = i * EACH, .n = EACH };
		pthread_create(&threads[i], NULL, ask_many, &askers[i]);
	}
	for (unsigned i = 0; i < ASKERS; i++) {
		pthread_join(threads[i], NULL);
		assert_int_equal(askers[i].err, 0);
	}
	assert_int_equal(stats_of(w).agents, CLIENT_AGENTS_MAX);
	assert_in_range(scripted_agent_connections(w->agent), 1, ASKERS);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define TEST(name) cmocka_unit_test_setup_teardown(name, make, drop)
		TEST(reads_ranges),
		TEST(reads_whole_needles_as_they_are_stored),
		TEST(says_that_a_needle_is_compressed_when_asked_for_a_range),
		TEST(is_a_source_with_a_breaker_of_its_own),
		TEST(tells_what_the_agent_says_of_itself),
		TEST(a_missing_agent_costs_nothing_after_the_first_try),
		TEST(a_silent_agent_holds_up_only_the_first_read),
		TEST(where_connecting_may_take_long_a_silent_agent_does_not_hold_up_others),
		TEST(a_ping_tells_that_nothing_was_answered_in_time),
		TEST(finds_an_agent_that_comes_later),
		TEST(remembers_longer_that_it_was_refused),
		TEST(says_clearly_that_an_agent_is_exhausted),
		TEST(a_required_agent_that_is_missing_is_a_failure),
		TEST(asks_elsewhere_where_the_map_says_so),
		TEST(whom_the_map_knows_no_directory_is_asked_about),
		TEST(a_directory_that_is_slow_is_asked_again_soon),
		TEST(a_restarted_agent_is_used_at_once),
		TEST(an_agent_that_died_is_missed_at_once),
		TEST(an_agent_that_hangs_is_given_up_in_time),
		TEST(a_liar_is_asked_again_on_a_fresh_connection_only),
		TEST(all_first_readers_wait_for_the_first_try),
		TEST(makes_no_more_connections_than_allowed),
		TEST(many_threads_use_several_connections),
		TEST(reads_share_few_connections),
		TEST(where_each_has_many_reads_there_is_another_connection),
		TEST(a_restart_costs_one_read_one_retry_however_many_connections),
		TEST(closes_what_has_been_idle),
		TEST(pings_notice_that_an_idle_connection_is_dead),
		TEST(signs_the_connection_with_the_volume_key),
		TEST(sends_a_token_with_every_extent_without_the_key),
		TEST(does_not_ask_without_the_token_that_is_needed),
		TEST(asks_for_no_token_where_none_is_needed),
		TEST(who_was_asked_for_longest_ago_makes_room),
		TEST(who_is_asked_for_stays_while_others_come_and_go),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
