/* The client against the real agent, over TCP and made-up volume files. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "filer/breaker.h"
#include "filer/locate.h"
#include "filer/token.h"
#include "rdma/agent/agent.h"
#include "rdma/agent/store.h"
#include "rdma/agent/transport.h"
#include "rdma/client.h"
#include "tests/support/scripted_agent.h"
#include "tests/support/volume_files.h"

#define BUDGET_MS 10000
#define VOLUME 3
#define COOKIE 0xc00c1e00
#define THREADS 16
#define READS_EACH 100
#define KEY_VARIABLE "WEED_JWT_SIGNING_READ_KEY"

/* Needles by key. */
enum {
	SMALL = 1,
	LARGE,
	EMPTY,
	DELETED,
	COMPRESSED,
	N_NEEDLES,
};

static const size_t needle_bytes[N_NEEDLES] = {
	[SMALL] = 5000, [LARGE] = 3 * MIB + 17, [EMPTY] = 0, [DELETED] = 4000, [COMPRESSED] = 70000,
};

struct world {
	char dir[64], dat[80], idx[80];
	struct volume_files *volume;
	uint64_t large_at; /* where its record is */
	struct store *store;
	struct token_source *tokens; /* of the agent, and of the client where it has them */
	struct agent agent;
	struct agent_config agent_cfg;
	struct listener *listener;
	uint16_t port;
	struct client *client;
	struct client_config cfg;
	struct server server;
};

static struct fid fid_of(uint64_t key)
{
	return (struct fid){ .volume_id = VOLUME, .key = key, .cookie = COOKIE };
}

/* To be freed. */
static uint8_t *bytes_of(uint64_t key, uint64_t offset, size_t n)
{
	struct fid fid = fid_of(key);
	uint8_t *p = malloc(n ? n : 1);

	assert_non_null(p);
	scripted_agent_bytes(&fid, offset, p, n);
	return p;
}

static void put_needle(struct world *w, uint64_t key)
{
	uint8_t *data = bytes_of(key, 0, needle_bytes[key]);
	struct record_shape shape = { .data = data, .len = needle_bytes[key] };

	if (key == COMPRESSED)
		shape.flags = RECORD_GZIP;
	uint64_t at = volume_files_put_shaped(w->volume, key, COOKIE, &shape);
	if (key == LARGE)
		w->large_at = at;
	free(data);
}

static int make(void **state)
{
	struct world *w = calloc(1, sizeof(*w));
	const char *dirs[1];

	assert_non_null(w);
	strcpy(w->dir, "/tmp/test_client_agent.XXXXXX");
	assert_non_null(mkdtemp(w->dir));
	snprintf(w->dat, sizeof(w->dat), "%s/%d.dat", w->dir, VOLUME);
	snprintf(w->idx, sizeof(w->idx), "%s/%d.idx", w->dir, VOLUME);
	w->volume = volume_files_new(w->dat, w->idx, &(struct volume_shape){ 0 });
	for (uint64_t key = 1; key < N_NEEDLES; key++)
		put_needle(w, key);
	volume_files_delete(w->volume, DELETED);
	dirs[0] = w->dir;
	struct store_config cfg = { .dirs = dirs, .n_dirs = 1 };
	assert_int_equal(store_open(&cfg, &w->store), 0);
	w->cfg = (struct client_config){ .transport = &client_tcp };
	strcpy(w->server.addr.host, "127.0.0.1");
	breaker_init(&w->server.agent);
	/* A port that is free now. */
	struct scripted_agent *a = scripted_agent_start(&(struct agent_script){ 0 }, 0);
	w->port = w->cfg.port = scripted_agent_port(a);
	scripted_agent_stop(a);
	*state = w;
	return 0;
}

static void stop_agent(struct world *w)
{
	if (w->listener)
		agent_tcp.stop(w->listener, deadline_in_ms(1000));
	w->listener = NULL;
}

static int drop(void **state)
{
	struct world *w = *state;

	client_free(w->client);
	stop_agent(w);
	store_close(w->store);
	token_source_free(w->tokens);
	unsetenv(KEY_VARIABLE);
	volume_files_free(w->volume);
	breaker_destroy(&w->server.agent);
	unlink(w->dat);
	unlink(w->idx);
	rmdir(w->dir);
	free(w);
	return 0;
}

static void start_agent(struct world *w)
{
	struct listener_config listen = { .host = "127.0.0.1", .port = w->port, .threads = 2 };

	w->agent_cfg.store = w->store;
	w->agent_cfg.tokens = w->tokens;
	w->agent_cfg.software = "test";
	agent_init(&w->agent, &w->agent_cfg);
	assert_int_equal(agent_tcp.listen(&w->agent, &listen, &w->listener), 0);
}

static void open_client(struct world *w)
{
	assert_int_equal(client_new(&w->cfg, &w->client), 0);
}

/* The agent, which needs no tokens, and a client. */
static void start(struct world *w)
{
	unsigned line;

	if (!w->tokens)
		assert_int_equal(token_source_new(NULL, &line, &w->tokens), 0);
	start_agent(w);
	open_client(w);
}

/* Through the source; what is delivered must be right. */
static int read_range(struct world *w, uint64_t key, uint64_t offset, size_t len)
{
	struct source s = client_source(w->client);
	uint8_t *memory = malloc(len);
	uint8_t *expected = bytes_of(key, offset, len);
	struct read_buf buf = { .ptr = memory, .len = len };
	struct needle_range r = { .fid = fid_of(key), .offset = offset, .bufs = &buf, .n_bufs = 1 };

	assert_non_null(memory);
	int err = s.ops->read_range(s.self, &w->server, &r, deadline_in_ms(BUDGET_MS));
	if ((!err && r.got != len) || memcmp(memory, expected, r.got) != 0)
		err = -ENOTRECOVERABLE;
	free(memory);
	free(expected);
	return err;
}

struct seen {
	uint64_t key;
	bool begun, gzip, wrong;
	size_t len;
};

static int seen_begin(void *arg, bool gzip, int64_t stored_len)
{
	struct seen *s = arg;

	s->begun = true;
	s->gzip = gzip;
	s->wrong |= (size_t)stored_len != needle_bytes[s->key];
	return 0;
}

static int seen_push(void *arg, const uint8_t *p, size_t n)
{
	struct seen *s = arg;
	uint8_t *expected = bytes_of(s->key, s->len, n);

	s->wrong |= memcmp(p, expected, n) != 0;
	s->len += n;
	free(expected);
	return 0;
}

static int read_whole(struct world *w, uint64_t key, struct seen *seen)
{
	struct source s = client_source(w->client);
	struct fid fid = fid_of(key);
	const struct needle_sink sink = { .begin = seen_begin, .push = seen_push, .arg = seen };

	*seen = (struct seen){ .key = key };
	return s.ops->read_whole(s.self, &w->server, &fid, &sink, deadline_in_ms(BUDGET_MS));
}

static void reads_ranges_of_every_size(void **state)
{
	static const size_t lengths[] = { 1, 4096, 65536, 65537, MIB, 3 * MIB };
	struct world *w = *state;

	start(w);
	for (size_t i = 0; i < ARRAY_LEN(lengths); i++) {
		assert_int_equal(read_range(w, LARGE, 0, lengths[i]), 0);
		assert_int_equal(read_range(w, LARGE, needle_bytes[LARGE] - lengths[i], lengths[i]),
				 0);
	}
	assert_int_equal(read_range(w, SMALL, 0, needle_bytes[SMALL]), 0);
	assert_int_equal(read_range(w, SMALL, 1, needle_bytes[SMALL] - 1), 0);
}

static void reads_whole_needles(void **state)
{
	static const uint64_t keys[] = { SMALL, LARGE, EMPTY, COMPRESSED };
	struct world *w = *state;

	start(w);
	for (size_t i = 0; i < ARRAY_LEN(keys); i++) {
		struct seen seen;

		assert_int_equal(read_whole(w, keys[i], &seen), 0);
		assert_true(seen.begun);
		assert_false(seen.wrong);
		assert_int_equal(seen.len, needle_bytes[keys[i]]);
		assert_int_equal(seen.gzip, keys[i] == COMPRESSED);
	}
}

struct roomy {
	struct seen seen; /* first */
	unsigned asked;
	struct read_buf buf;
};

static size_t roomy_room(void *arg, size_t bytes, const struct read_buf **ret)
{
	struct roomy *r = arg;

	r->asked++;
	assert_null(r->buf.ptr);
	r->buf = (struct read_buf){ .ptr = malloc(bytes), .len = bytes };
	*ret = &r->buf;
	return 1;
}

static int roomy_push(void *arg, const uint8_t *p, size_t n)
{
	struct roomy *r = arg;

	r->seen.wrong |= p < r->buf.ptr || p + n > r->buf.ptr + r->buf.len;
	return seen_push(&r->seen, p, n);
}

static void whole_needles_come_through_memory_of_their_reader(void **state)
{
	struct world *w = *state;
	struct roomy r = { .seen.key = LARGE };
	const struct needle_sink sink = {
		.begin = seen_begin, .push = roomy_push, .arg = &r, .room = roomy_room
	};
	struct fid fid = fid_of(LARGE);

	start(w);
	struct source s = client_source(w->client);
	assert_int_equal(
		s.ops->read_whole(s.self, &w->server, &fid, &sink, deadline_in_ms(BUDGET_MS)), 0);
	assert_int_equal(r.asked, 1);
	assert_int_equal(r.seen.len, needle_bytes[LARGE]);
	assert_false(r.seen.wrong);
	free(r.buf.ptr);
}

static void says_what_is_not_there(void **state)
{
	struct world *w = *state;
	struct fid elsewhere = fid_of(SMALL);
	struct source s;
	uint8_t byte;
	struct read_buf buf = { .ptr = &byte, .len = 1 };
	struct needle_range r = { .bufs = &buf, .n_bufs = 1 };

	start(w);
	s = client_source(w->client);
	assert_int_equal(read_range(w, 99, 0, 1), -ENOENT);
	assert_int_equal(read_range(w, SMALL, needle_bytes[SMALL], 1), -ENODATA);
	assert_int_equal(read_range(w, COMPRESSED, 0, 1), -EMEDIUMTYPE);
	elsewhere.cookie++;
	r.fid = elsewhere;
	assert_int_equal(s.ops->read_range(s.self, &w->server, &r, deadline_in_ms(BUDGET_MS)),
			 -ENOENT);
	r.fid.volume_id++;
	assert_int_equal(s.ops->read_range(s.self, &w->server, &r, deadline_in_ms(BUDGET_MS)),
			 -EOPNOTSUPP);
	/* All that over one connection, which is well. */
	assert_int_equal(read_range(w, SMALL, 0, 1), 0);
	assert_int_equal(atomic_load(&w->agent.counters.connections), 1);
}

static void reads_deleted_needles_while_they_last(void **state)
{
	struct world *w = *state;

	start(w);
	assert_int_equal(read_range(w, DELETED, 5, 1000), 0);
}

static void reads_several_extents_with_one_message(void **state)
{
	struct world *w = *state;
	uint8_t memory[3][4096];
	struct read_buf bufs[3];
	struct client_extent e[3];

	start(w);
	for (size_t i = 0; i < 3; i++) {
		bufs[i] = (struct read_buf){ .ptr = memory[i], .len = sizeof(memory[i]) };
		e[i] = (struct client_extent){ .fid = fid_of(i == 1 ? 99 : LARGE),
					       .offset = i * 1000,
					       .bufs = &bufs[i],
					       .n_bufs = 1 };
	}
	assert_int_equal(client_read(w->client, &w->server.addr, e, 3, deadline_in_ms(BUDGET_MS)),
			 0);
	assert_int_equal(e[0].err, 0);
	assert_int_equal(e[1].err, -ENOENT);
	assert_int_equal(e[2].err, 0);
	uint8_t *expected = bytes_of(LARGE, 2000, sizeof(memory[2]));
	assert_memory_equal(memory[2], expected, sizeof(memory[2]));
	free(expected);
}

static void a_flipped_byte_in_the_volume_is_noticed(void **state)
{
	struct world *w = *state;
	int fd = open(w->dat, O_RDWR | O_CLOEXEC);
	off_t at = (off_t)(w->large_at + STORE_HEADER_BYTES + MIB);
	uint8_t byte;
	struct seen seen;

	start(w);
	assert_int_equal(pread(fd, &byte, 1, at), 1);
	byte ^= 1;
	assert_int_equal(pwrite(fd, &byte, 1, at), 1);
	close(fd);
	assert_int_equal(read_whole(w, LARGE, &seen), -EBADMSG);
}

struct reader {
	struct world *w;
	pthread_t thread;
	unsigned seed;
	int err;
};

static void *read_at_random(void *arg)
{
	struct reader *r = arg;

	for (unsigned i = 0; i < READS_EACH && !r->err; i++) {
		uint64_t key = rand_r(&r->seed) % 2 ? SMALL : LARGE;
		size_t max = rand_r(&r->seed) % 8 ? 4096 : needle_bytes[key];
		size_t len = 1 + (size_t)rand_r(&r->seed) % max;
		uint64_t offset = (uint64_t)rand_r(&r->seed) % (needle_bytes[key] - len + 1);

		r->err = read_range(r->w, key, offset, len);
	}
	return NULL;
}

static void assert_all_read(struct world *w)
{
	struct reader readers[THREADS];

	for (unsigned i = 0; i < THREADS; i++) {
		readers[i] = (struct reader){ .w = w, .seed = i };
		assert_int_equal(
			pthread_create(&readers[i].thread, NULL, read_at_random, &readers[i]), 0);
	}
	for (size_t i = 0; i < THREADS; i++)
		pthread_join(readers[i].thread, NULL);
	for (size_t i = 0; i < THREADS; i++)
		assert_int_equal(readers[i].err, 0);
}

/* Those that it has now. A busy machine may have taken some for dead and made others before. */
static size_t connections_kept(struct world *w)
{
	struct client_stats st;

	client_stats(w->client, &st);
	return st.connections;
}

static void many_threads_read_at_random(void **state)
{
	struct world *w = *state;

	start(w);
	assert_all_read(w);
	assert_in_range(connections_kept(w), 1, CLIENT_STREAMS_MAX);
}

static void many_threads_share_one_connection(void **state)
{
	struct world *w = *state;

	w->cfg.connections_max = 1;
	start(w);
	assert_all_read(w);
	assert_int_equal(connections_kept(w), 1);
}

/* --- limits and ends --- */

static void a_client_too_many_is_told_so(void **state)
{
	struct world *w = *state;
	struct client *second = NULL;
	struct wire_hello_reply hello;
	int64_t rtt_ns;

	w->agent_cfg.connections_max = 1;
	start(w);
	assert_int_equal(read_range(w, SMALL, 0, 1), 0);
	assert_int_equal(client_new(&w->cfg, &second), 0);
	assert_int_equal(
		client_ping(second, &w->server.addr, deadline_in_ms(BUDGET_MS), &hello, &rtt_ns),
		-EUSERS);
	assert_int_equal(hello.status, WIRE_EXHAUSTED);
	client_free(second);
	assert_int_equal(read_range(w, SMALL, 0, 1), 0);
}

static void a_connection_that_the_agent_closed_is_replaced(void **state)
{
	struct world *w = *state;

	w->agent_cfg.idle_ms = 100;
	start(w);
	assert_int_equal(read_range(w, SMALL, 0, 100), 0);
	struct deadline d = deadline_in_ms(BUDGET_MS);
	while (atomic_load(&w->agent.active) > 0) {
		assert_false(deadline_passed(d));
		sleep_ms(20, d);
	}
	assert_int_equal(read_range(w, SMALL, 0, 100), 0);
	assert_int_equal(atomic_load(&w->agent.counters.connections), 2);
}

static void an_agent_that_stops_is_missed_and_found_again(void **state)
{
	struct world *w = *state;
	struct deadline d;

	start(w);
	assert_int_equal(read_range(w, SMALL, 0, 100), 0);
	stop_agent(w);
	assert_int_equal(read_range(w, SMALL, 0, 100), -EOPNOTSUPP);
	start_agent(w);
	d = deadline_in_ms(BUDGET_MS);
	while (read_range(w, SMALL, 0, 100) != 0) {
		assert_false(deadline_passed(d));
		sleep_ms(20, d);
	}
}

/* --- tokens --- */

static void add_key(struct world *w)
{
	unsigned line;

	setenv(KEY_VARIABLE, "key", 1);
	assert_int_equal(token_source_new(NULL, &line, &w->tokens), 0);
}

static void the_volume_key_opens_the_agent(void **state)
{
	struct world *w = *state;

	add_key(w);
	w->cfg.tokens = w->tokens;
	start(w);
	assert_int_equal(read_range(w, SMALL, 0, 100), 0);
}

static int sign_extent(void *arg, const struct fid *fid, struct deadline d, char *buf,
		       size_t buf_bytes)
{
	struct world *w = arg;

	(void)d;
	assert_true(buf_bytes >= TOKEN_MAX);
	return token_for_fid(w->tokens, fid, buf);
}

static void a_token_for_each_extent_opens_the_agent(void **state)
{
	struct world *w = *state;

	add_key(w);
	w->cfg.extent_token = sign_extent;
	w->cfg.arg = w;
	start(w);
	assert_int_equal(read_range(w, SMALL, 0, 100), 0);
	assert_int_equal(read_range(w, LARGE, 7, MIB), 0);
}

static int sign_another(void *arg, const struct fid *fid, struct deadline d, char *buf,
			size_t buf_bytes)
{
	struct fid other = *fid;

	other.key++;
	return sign_extent(arg, &other, d, buf, buf_bytes);
}

static void a_token_for_another_needle_does_not(void **state)
{
	struct world *w = *state;

	add_key(w);
	w->cfg.extent_token = sign_another;
	w->cfg.arg = w;
	start(w);
	assert_int_equal(read_range(w, SMALL, 0, 100), -EACCES);
}

static void nothing_is_read_without_a_token_or_with_a_wrong_key(void **state)
{
	struct world *w = *state;
	struct token_source *other = NULL;
	unsigned line;

	add_key(w);
	start(w);
	assert_int_equal(read_range(w, SMALL, 0, 100), -EOPNOTSUPP);
	client_free(w->client);
	setenv(KEY_VARIABLE, "another key", 1);
	assert_int_equal(token_source_new(NULL, &line, &other), 0);
	w->cfg.tokens = other;
	open_client(w);
	int err = read_range(w, SMALL, 0, 100);
	assert_true(err == -EOPNOTSUPP || err == -EACCES);
	client_free(w->client);
	w->client = NULL;
	token_source_free(other);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define TEST(name) cmocka_unit_test_setup_teardown(name, make, drop)
		TEST(reads_ranges_of_every_size),
		TEST(reads_whole_needles),
		TEST(whole_needles_come_through_memory_of_their_reader),
		TEST(says_what_is_not_there),
		TEST(reads_deleted_needles_while_they_last),
		TEST(reads_several_extents_with_one_message),
		TEST(a_flipped_byte_in_the_volume_is_noticed),
		TEST(many_threads_read_at_random),
		TEST(many_threads_share_one_connection),
		TEST(a_client_too_many_is_told_so),
		TEST(a_connection_that_the_agent_closed_is_replaced),
		TEST(an_agent_that_stops_is_missed_and_found_again),
		TEST(the_volume_key_opens_the_agent),
		TEST(a_token_for_each_extent_opens_the_agent),
		TEST(a_token_for_another_needle_does_not),
		TEST(nothing_is_read_without_a_token_or_with_a_wrong_key),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
