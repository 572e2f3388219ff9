/* Agent and client over RDMA, in one process, on whatever device there is: soft-RoCE in a VM. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <arpa/inet.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "filer/base/base.h"
#include "rdma/client.h"
#include "rdma/verbs.h"
#include "tests/support/verbs_world.h"

#define THREADS 8
#define READS_EACH 40
#define BRIEF_LEASE_MS 700

/* --- reads --- */

static void small_answers_come_in_the_message(void **state)
{
	struct world *w = *state;
	struct client_session *s = open_session(w);
	struct read_buf b = { .ptr = w->region, .len = 4096, .region = 1 };

	for (int i = 0; i < 200; i++)
		assert_reads(w, s, i % 2 ? SMALL : LARGE, (uint64_t)i, b);
	client_session_close(s, WIRE_SHUTDOWN);
}

static void large_answers_are_pulled_into_registered_memory(void **state)
{
	struct world *w = *state;
	struct client_session *s = open_session(w);

	for (size_t i = 0; i < 40; i++) {
		struct read_buf b = { .ptr = w->region + i * 4096,
				      .len = 20000 + i * 37777,
				      .region = 1 };
		assert_reads(w, s, LARGE, i * 1003, b);
	}
	client_session_close(s, WIRE_SHUTDOWN);
}

static void any_memory_will_do(void **state)
{
	struct world *w = *state;
	struct client_session *s = open_session(w);
	uint8_t *memory = malloc(MIB + 3);

	for (size_t i = 0; i < 10; i++)
		assert_reads(w, s, LARGE, i,
			     (struct read_buf){ .ptr = memory + 3, .len = MIB, .region = 0 });
	free(memory);
	client_session_close(s, WIRE_SHUTDOWN);
}

static void a_range_is_scattered_over_many_buffers(void **state)
{
	enum { PIECES = 300 };
	struct world *w = *state;
	struct client_session *s = open_session(w);
	struct read_buf bufs[PIECES];
	uint64_t at = 777;

	for (size_t i = 0; i < PIECES; i++)
		bufs[i] = (struct read_buf){ .ptr = w->region + i * 8192,
					     .len = 1000 + i,
					     .region = 1 };
	struct client_extent e = range_of(LARGE, at, bufs, PIECES);
	assert_int_equal(client_session_read(s, &e, 1, budget()), 0);
	assert_int_equal(e.err, 0);
	for (size_t i = 0; i < PIECES; at += bufs[i++].len)
		assert_memory_equal(bufs[i].ptr, w->large + at, bufs[i].len);
	client_session_close(s, WIRE_SHUTDOWN);
}

static void several_extents_of_all_kinds_are_read_with_one_message(void **state)
{
	struct world *w = *state;
	struct client_session *s = open_session(w);
	struct client_extent e[5];
	struct read_buf bufs[5];

	for (size_t i = 0; i < 5; i++) {
		bufs[i] = (struct read_buf){ .ptr = w->region + i * MIB,
					     .len = i % 2 ? 300000 : 3000,
					     .region = 1 };
		e[i] = range_of(LARGE, i * 5000, &bufs[i], 1);
	}
	e[2].fid.key = 99; /* not there */
	assert_int_equal(client_session_read(s, e, 5, budget()), 0);
	for (size_t i = 0; i < 5; i++) {
		assert_int_equal(e[i].err, i == 2 ? -ENOENT : 0);
		if (i != 2)
			assert_memory_equal(bufs[i].ptr, w->large + i * 5000, bufs[i].len);
	}
	client_session_close(s, WIRE_SHUTDOWN);
}

struct whole {
	uint8_t *p;
	size_t len;
	bool gzip;
};

static int whole_begin(void *arg, bool gzip, int64_t len)
{
	struct whole *whole = arg;

	whole->gzip = gzip;
	whole->p = malloc((size_t)len + 1);
	return 0;
}

static int whole_push(void *arg, const uint8_t *p, size_t n)
{
	struct whole *whole = arg;

	memcpy(whole->p + whole->len, p, n);
	whole->len += n;
	return 0;
}

static void whole_needles_come_as_they_are_stored(void **state)
{
	static const struct {
		uint64_t key;
		size_t bytes;
		bool gzip;
	} needles[] = { { SMALL, SMALL_BYTES, false },
			{ LARGE, LARGE_BYTES, false },
			{ EMPTY, 0, false },
			{ COMPRESSED, 100000, true } };
	struct world *w = *state;
	struct client_session *s = open_session(w);

	for (size_t i = 0; i < ARRAY_LEN(needles); i++) {
		struct whole whole = { 0 };
		struct needle_sink sink = { .begin = whole_begin,
					    .push = whole_push,
					    .arg = &whole };
		struct client_extent e = range_of(needles[i].key, 0, NULL, 0);

		e.sink = &sink;
		assert_int_equal(client_session_read(s, &e, 1, budget()), 0);
		assert_int_equal(e.err, 0);
		assert_int_equal(whole.len, needles[i].bytes);
		assert_int_equal(whole.gzip, needles[i].gzip);
		assert_memory_equal(whole.p, w->large, whole.len);
		free(whole.p);
	}
	client_session_close(s, WIRE_SHUTDOWN);
}

/* Memory of its own for a needle, in registered pieces. */
struct roomy {
	struct whole whole; /* first */
	uint8_t *memory;
	struct read_buf bufs[16];
};

static size_t roomy_room(void *arg, size_t bytes, const struct read_buf **ret)
{
	const size_t piece = 700 * KIB;
	struct roomy *r = arg;
	size_t n = 0;

	for (size_t at = 0; at < bytes; at += piece)
		r->bufs[n++] = (struct read_buf){ .ptr = r->memory + at,
						  .len = min_u64(piece, bytes - at),
						  .region = 1 };
	*ret = r->bufs;
	return n;
}

static uint64_t registrations_of_whole(struct world *w, struct client_session *s, uint64_t key,
				       size_t bytes, bool room)
{
	struct roomy r = { .memory = w->region };
	struct needle_sink sink = { .begin = whole_begin,
				    .push = whole_push,
				    .arg = &r,
				    .room = room ? roomy_room : NULL };
	struct client_extent e = range_of(key, 0, NULL, 0);
	uint64_t before = verbs_registrations();

	e.sink = &sink;
	assert_int_equal(client_session_read(s, &e, 1, budget()), 0);
	assert_int_equal(e.err, 0);
	assert_int_equal(r.whole.len, bytes);
	assert_memory_equal(r.whole.p, w->large, bytes);
	free(r.whole.p);
	return verbs_registrations() - before;
}

static void whole_needles_register_nothing_where_there_is_room(void **state)
{
	struct world *w = *state;
	struct client_session *s = open_session(w);

	assert_int_equal(registrations_of_whole(w, s, LARGE, LARGE_BYTES, true), 0);
	assert_int_equal(registrations_of_whole(w, s, COMPRESSED, 100000, true), 0);
	assert_int_equal(registrations_of_whole(w, s, SMALL, SMALL_BYTES, true), 0);
	client_session_close(s, WIRE_SHUTDOWN);
}

static void whole_needles_without_room_are_pulled_into_the_heap(void **state)
{
	struct world *w = *state;
	struct client_session *s = open_session(w);

	assert_int_equal(registrations_of_whole(w, s, LARGE, LARGE_BYTES, false), 1);
	assert_int_equal(registrations_of_whole(w, s, COMPRESSED, 100000, false), 1);
	client_session_close(s, WIRE_SHUTDOWN);
}

struct reader {
	struct world *w;
	struct client_session *s;
	unsigned number;
};

static void *read_often(void *arg)
{
	struct reader *r = arg;
	struct read_buf b = { .ptr = r->w->region + r->number * MIB, .region = 1 };

	/* Failing would have to end the thread it fails in. */
	for (unsigned i = 0; i < READS_EACH; i++) {
		uint64_t offset = r->number * 1000 + i;

		b.len = i % 3 ? 4096 : 100000 + i * 1000;
		struct client_extent e = range_of(LARGE, offset, &b, 1);
		if (client_session_read(r->s, &e, 1, budget()) || e.err ||
		    memcmp(b.ptr, r->w->large + offset, b.len) != 0)
			return r;
	}
	return NULL;
}

static void many_threads_share_a_connection(void **state)
{
	struct world *w = *state;
	struct client_session *s = open_session(w);
	struct reader readers[THREADS];
	pthread_t threads[THREADS];

	for (unsigned i = 0; i < THREADS; i++) {
		readers[i] = (struct reader){ .w = w, .s = s, .number = i };
		pthread_create(&threads[i], NULL, read_often, &readers[i]);
	}
	for (unsigned i = 0; i < THREADS; i++) {
		void *failed;

		pthread_join(threads[i], &failed);
		assert_null(failed);
	}
	assert_int_equal(client_session_error(s), 0);
	client_session_close(s, WIRE_SHUTDOWN);
}

/* --- leases, by a client that does as it likes --- */

struct raw {
	struct client_connection *c;
	uint8_t tx[WIRE_MESSAGE_BYTES_MAX];
};

static void raw_send(struct raw *r, size_t len)
{
	assert_int_equal(client_verbs.send(r->c, r->tx, len, budget()), 0);
}

static void raw_open(struct world *w, struct raw *r)
{
	const struct wire_header h = { .version = WIRE_VERSION };
	const struct wire_hello hello = { .version_min = 1, .version_max = 1 };
	struct client_message m;
	size_t len;

	assert_int_equal(client_verbs.connect(&w->address, 1000, budget(), &r->c), 0);
	assert_int_equal(wire_encode_hello(r->tx, sizeof(r->tx), h, &hello, &len), 0);
	raw_send(r, len);
	assert_int_equal(client_verbs.receive(r->c, NULL, &m, budget()), 0);
	assert_int_equal(m.header.type, WIRE_HELLO_REPLY);
}

static struct wire_result raw_lease(struct raw *r, uint64_t offset, uint64_t length)
{
	const struct wire_header h = { .version = WIRE_VERSION, .xid = 7 };
	struct wire_read read = { .n_extents = 1 };
	struct wire_read_reply reply;
	struct client_message m;
	size_t len, data;

	read.extents[0] = (struct wire_extent){
		.fid = { .volume_id = VOLUME, .key = LARGE, .cookie = COOKIE },
		.offset = offset,
		.length = length
	};
	assert_int_equal(wire_encode_read(r->tx, sizeof(r->tx), h, &read, &len), 0);
	raw_send(r, len);
	assert_int_equal(client_verbs.receive(r->c, NULL, &m, budget()), 0);
	assert_int_equal(wire_decode_read_reply(m.payload, m.header.length, &reply, &data), 0);
	assert_int_equal(reply.results[0].status, WIRE_OK);
	assert_true(reply.results[0].flags & WIRE_RESULT_LEASE);
	return reply.results[0];
}

/* 0: the bytes came; else what became of the connection. */
static int raw_pull(struct world *w, struct raw *r, uint64_t addr, uint32_t rkey, size_t len)
{
	struct read_buf b = { .ptr = w->region, .len = len, .region = 1 };
	struct client_lease lease = {
		.remote_addr = addr, .rkey = rkey, .bufs = &b, .n_bufs = 1, .cookie = 5
	};
	struct client_message m;

	memset(w->region, 0xee, len + 64);
	assert_int_equal(client_verbs.pull(r->c, &lease, budget()), 0);
	int err = client_verbs.receive(r->c, NULL, &m, budget());
	if (!err)
		assert_true(m.pulled && m.cookie == 5);
	return err;
}

static void assert_nothing_came(struct world *w, size_t len)
{
	for (size_t i = 0; i < len; i++)
		assert_int_equal(w->region[i], 0xee);
}

static void exactly_what_was_leased_can_be_read(void **state)
{
	struct world *w = *state;
	struct raw r;

	raw_open(w, &r);
	struct wire_result l = raw_lease(&r, 4321, 50001);
	assert_int_equal(raw_pull(w, &r, l.remote_addr, l.rkey, 50001), 0);
	assert_memory_equal(w->region, w->large + 4321, 50001);
	assert_int_equal(raw_pull(w, &r, l.remote_addr + 50000, l.rkey, 1), 0);
	assert_int_equal(w->region[0], w->large[4321 + 50000]);
	client_verbs.close(r.c);
}

static void assert_refused(struct world *w, int64_t shift, size_t len)
{
	struct raw r;

	raw_open(w, &r);
	struct wire_result l = raw_lease(&r, 4321, 50001);
	assert_int_not_equal(raw_pull(w, &r, l.remote_addr + (uint64_t)shift, l.rkey, len), 0);
	assert_nothing_came(w, len);
	client_verbs.close(r.c);
}

static void a_byte_before_a_lease_is_refused(void **state)
{
	assert_refused(*state, -1, 1);
}

static void a_byte_behind_a_lease_is_refused(void **state)
{
	assert_refused(*state, 50001, 1);
	assert_refused(*state, 1, 50001);
}

static void another_connections_lease_is_refused(void **state)
{
	struct world *w = *state;
	struct raw mine, others;

	raw_open(w, &mine);
	raw_open(w, &others);
	struct wire_result l = raw_lease(&others, 0, 50000);
	assert_int_not_equal(raw_pull(w, &mine, l.remote_addr, l.rkey, 4096), 0);
	assert_nothing_came(w, 4096);
	assert_int_equal(raw_pull(w, &others, l.remote_addr, l.rkey, 50000), 0);
	client_verbs.close(mine.c);
	client_verbs.close(others.c);
}

static void a_lease_ends_with_its_time(void **state)
{
	struct world *w = *state;
	struct raw r;

	stop_agent(w);
	start_agent(w, BRIEF_LEASE_MS);
	raw_open(w, &r);
	struct wire_result l = raw_lease(&r, 0, 50000);
	assert_int_equal(l.lease_ms, BRIEF_LEASE_MS);
	while (atomic_load(&w->agent.staging.used_bytes) > 0)
		sleep_ms(20, budget());
	assert_int_not_equal(raw_pull(w, &r, l.remote_addr, l.rkey, 4096), 0);
	assert_nothing_came(w, 4096);
	client_verbs.close(r.c);
}

static void a_lease_ends_when_it_is_given_back(void **state)
{
	const struct wire_header h = { .version = WIRE_VERSION };
	struct world *w = *state;
	struct wire_complete complete = { .n = 1 };
	struct raw r;
	size_t len;

	raw_open(w, &r);
	struct wire_result l = raw_lease(&r, 0, 50000);
	complete.leases[0] = l.lease_id;
	assert_int_equal(wire_encode_complete(r.tx, sizeof(r.tx), h, &complete, &len), 0);
	raw_send(&r, len);
	struct wire_result after = raw_lease(&r, 0, 20000);
	assert_int_not_equal(after.rkey, l.rkey);
	assert_int_not_equal(raw_pull(w, &r, l.remote_addr, l.rkey, 4096), 0);
	client_verbs.close(r.c);
}

static bool is_our_agent(void *arg, const struct endpoint *server, struct endpoint *ret)
{
	const struct world *w = arg;
	const struct sockaddr_in *v4 = (const struct sockaddr_in *)&w->address.sockaddr;

	*ret = *server;
	inet_ntop(AF_INET, &v4->sin_addr, ret->host, sizeof(ret->host));
	ret->port = PORT;
	return true;
}

static void leases_are_given_back_when_no_other_read_comes(void **state)
{
	const struct endpoint server = { .host = "volume" };
	struct world *w = *state;
	struct client_config cfg = { .transport = &client_verbs,
				     .map = is_our_agent,
				     .map_arg = w,
				     .connect_ms = BUDGET_MS };
	struct read_buf b = { .ptr = w->region, .len = MIB, .region = 1 };
	struct client_extent e = range_of(LARGE, 0, &b, 1);
	struct deadline d = deadline_in_ms(LEASE_MS / 2);
	struct client *client;

	assert_int_equal(client_new(&cfg, &client), 0);
	assert_int_equal(client_read(client, &server, &e, 1, budget()), 0);
	assert_int_equal(e.err, 0);
	while (atomic_load(&w->agent.staging.used_bytes) > 0 && !deadline_passed(d))
		sleep_ms(20, d);
	assert_int_equal(atomic_load(&w->agent.staging.used_bytes), 0);
	assert_int_equal(atomic_load(&w->agent.counters.leases_returned), 1);
	client_free(client);
}

static void leases_outlast_a_message_that_is_too_long(void **state)
{
	static const char token[WIRE_TOKEN_BYTES_MAX];
	struct world *w = *state;
	struct client_session *s = open_session(w);
	struct read_buf b = { .ptr = w->region, .len = MIB, .region = 1 };
	struct client_extent e[WIRE_EXTENTS_MAX];

	assert_reads(w, s, LARGE, 0, b);
	assert_true(client_session_owes_leases(s));
	for (size_t i = 0; i < WIRE_EXTENTS_MAX; i++) {
		e[i] = range_of(LARGE, 0, &b, 1);
		e[i].token = token;
		e[i].token_len = sizeof(token);
	}
	assert_int_equal(client_session_read(s, e, WIRE_EXTENTS_MAX, budget()), -EMSGSIZE);
	assert_true(client_session_owes_leases(s));
	assert_reads(w, s, SMALL, 0, (struct read_buf){ .ptr = w->region, .len = 10, .region = 1 });
	assert_int_equal(atomic_load(&w->agent.counters.leases_returned), 1);
	client_session_close(s, WIRE_SHUTDOWN);
}

/* --- faults --- */

static void sends_of_any_number_never_overrun_the_receiver(void **state)
{
	const struct wire_header h = { .type = WIRE_PING, .version = WIRE_VERSION, .xid = 9 };
	struct world *w = *state;
	struct client_message m;
	struct raw r;
	size_t len;

	raw_open(w, &r);
	for (int i = 0; i < 500; i++) {
		assert_int_equal(wire_encode_bare(r.tx, sizeof(r.tx), h, &len), 0);
		raw_send(&r, len);
		if (i < 10)
			continue;
		assert_int_equal(client_verbs.receive(r.c, NULL, &m, budget()), 0);
		assert_int_equal(m.header.type, WIRE_PONG);
	}
	client_verbs.close(r.c);
}

static void noise_ends_the_connection_with_a_reason(void **state)
{
	struct world *w = *state;
	struct client_message m;
	struct raw r;

	raw_open(w, &r);
	memset(r.tx, 'x', 100);
	raw_send(&r, 100);
	assert_int_equal(client_verbs.receive(r.c, NULL, &m, budget()), 0);
	assert_int_equal(m.header.type, WIRE_GOODBYE);
	assert_int_not_equal(client_verbs.receive(r.c, NULL, &m, budget()), 0);
	client_verbs.close(r.c);
}

static void a_hundred_connections_leave_nothing_behind(void **state)
{
	struct world *w = *state;
	struct client_session *s[CONNECTIONS_MAX];
	struct read_buf b = { .ptr = w->region, .len = 100000, .region = 1 };

	for (size_t i = 0; i < CONNECTIONS_MAX; i++) {
		s[i] = open_session(w);
		assert_reads(w, s[i], LARGE, i, b);
	}
	for (size_t i = 100; i < CONNECTIONS_MAX; i++)
		client_session_close(s[i], WIRE_SHUTDOWN);
	stop_agent(w);
	for (size_t i = 0; i < 100; i++)
		client_session_close(s[i], WIRE_SHUTDOWN);
}

static void the_connection_limit_is_told(void **state)
{
	struct world *w = *state;
	struct client_session *s[CONNECTIONS_MAX], *more;
	struct wire_hello_reply hello;

	for (size_t i = 0; i < CONNECTIONS_MAX; i++)
		s[i] = open_session(w);
	assert_int_equal(try_open(w, &more, &hello), -EUSERS);
	assert_int_equal(hello.status, WIRE_EXHAUSTED);
	assert_non_null(strstr(hello.text, "limit"));
	for (size_t i = 0; i < CONNECTIONS_MAX; i++)
		client_session_close(s[i], WIRE_SHUTDOWN);
}

static void *stop_in_thread(void *arg)
{
	sleep_ms(50, budget());
	stop_agent(arg);
	return NULL;
}

static void reads_end_when_the_agent_does(void **state)
{
	struct world *w = *state;
	struct client_session *s = open_session(w);
	struct read_buf b = { .ptr = w->region, .len = MIB, .region = 1 };
	int64_t start = now_ms();
	pthread_t stopper;
	int err = 0;

	pthread_create(&stopper, NULL, stop_in_thread, w);
	while (!err) {
		struct client_extent e = range_of(LARGE, 0, &b, 1);

		err = client_session_read(s, &e, 1, budget());
		if (!err && !e.err)
			assert_memory_equal(b.ptr, w->large, b.len);
	}
	pthread_join(stopper, NULL);
	assert_in_range(now_ms() - start, 0, BUDGET_MS / 2);
	client_session_close(s, WIRE_SHUTDOWN);
}

static void a_port_where_nobody_listens_is_told_at_once(void **state)
{
	struct world *w = *state;
	struct client_session *s;
	struct wire_hello_reply hello;

	stop_agent(w);
	int64_t start = now_ms();
	assert_int_equal(try_open(w, &s, &hello), -ECONNREFUSED);
	assert_in_range(now_ms() - start, 0, BUDGET_MS / 2);
}

static void a_silent_peer_costs_no_more_than_the_time_limit(void **state)
{
	struct world *w = *state;
	struct client_address silent = w->address;
	struct sockaddr_in *v4 = (struct sockaddr_in *)&silent.sockaddr;
	struct client_connection *c;
	int64_t start = now_ms();

	v4->sin_addr.s_addr ^= htonl(0x7e);
	assert_int_not_equal(client_verbs.connect(&silent, 1000, deadline_in_ms(500), &c), 0);
	assert_in_range(now_ms() - start, 0, BUDGET_MS / 2);
}

int main(void)
{
	if (!verbs_world_possible())
		return 77;
	const struct CMUnitTest tests[] = {
		VERBS_TEST(small_answers_come_in_the_message),
		VERBS_TEST(large_answers_are_pulled_into_registered_memory),
		VERBS_TEST(any_memory_will_do),
		VERBS_TEST(a_range_is_scattered_over_many_buffers),
		VERBS_TEST(several_extents_of_all_kinds_are_read_with_one_message),
		VERBS_TEST(whole_needles_come_as_they_are_stored),
		VERBS_TEST(whole_needles_register_nothing_where_there_is_room),
		VERBS_TEST(whole_needles_without_room_are_pulled_into_the_heap),
		VERBS_TEST(many_threads_share_a_connection),
		VERBS_TEST(exactly_what_was_leased_can_be_read),
		VERBS_TEST(a_byte_before_a_lease_is_refused),
		VERBS_TEST(a_byte_behind_a_lease_is_refused),
		VERBS_TEST(another_connections_lease_is_refused),
		VERBS_TEST(a_lease_ends_with_its_time),
		VERBS_TEST(a_lease_ends_when_it_is_given_back),
		VERBS_TEST(leases_are_given_back_when_no_other_read_comes),
		VERBS_TEST(leases_outlast_a_message_that_is_too_long),
		VERBS_TEST(sends_of_any_number_never_overrun_the_receiver),
		VERBS_TEST(noise_ends_the_connection_with_a_reason),
		VERBS_TEST(a_hundred_connections_leave_nothing_behind),
		VERBS_TEST(the_connection_limit_is_told),
		VERBS_TEST(reads_end_when_the_agent_does),
		VERBS_TEST(a_port_where_nobody_listens_is_told_at_once),
		VERBS_TEST(a_silent_peer_costs_no_more_than_the_time_limit),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
