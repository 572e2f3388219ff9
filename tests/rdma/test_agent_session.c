/* The agent's side of the protocol, over a socket pair in the place of a transport. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "filer/base/base.h"
#include "filer/base/crc32c.h"
#include "rdma/agent/agent.h"
#include "rdma/agent/disk.h"
#include "rdma/agent/session.h"
#include "rdma/agent/store.h"
#include "rdma/agent/transport.h"
#include "tests/support/volume_files.h"

#define KEY_VARIABLE "WEED_JWT_SIGNING_READ_KEY"
#define VOLUME 3
#define COOKIE 0xc00c1e00
#define SMALL_BYTES 5000
#define LARGE_BYTES (100 * 1000)
#define IDLE_MS 60000

/* Needles of the volume, by key. */
enum {
	SMALL = 1, /* SMALL_BYTES */
	LARGE, /* LARGE_BYTES */
	EMPTY,
	DELETED,
	LONG_TAIL, /* its record ends in more than is guessed */
	EXPIRED,
	COMPRESSED,
	FLEETING, /* put by its test */
};

struct connection {
	struct session *session;
	struct staging_share staging;
	int fds[2]; /* the session's end and the test's */
	bool hold; /* outputs stay under way */
	struct output *held;
	bool ended;
	unsigned n_staged;
};

struct world {
	char dir[64];
	char dat[80], idx[80];
	struct volume_files *volume;
	struct store *store;
	struct token_source *tokens;
	struct disk *disk;
	struct agent agent;
	struct connection connection;
	uint8_t large[LARGE_BYTES];
};

/* --- the transport --- */

static void write_all(int fd, const void *p, size_t n)
{
	assert_int_equal(write(fd, p, n), n);
}

static void deliver(struct connection *c, struct output *o)
{
	write_all(c->fds[0], o->message, o->message_bytes);
	for (size_t i = 0; i < o->n_pieces; i++) {
		const struct output_piece *p = &o->pieces[i];
		uint8_t *copy = malloc(p->bytes);

		if (p->mem)
			memcpy(copy, p->mem, p->bytes);
		else
			assert_int_equal(pread(p->fd, copy, p->bytes, (off_t)p->offset), p->bytes);
		write_all(c->fds[0], copy, p->bytes);
		free(copy);
	}
	c->ended |= o->last;
	o->done(o);
}

static void fake_send(struct connection *c, struct output *o)
{
	if (!c->hold) {
		deliver(c, o);
		return;
	}
	struct output **end = &c->held;
	while (*end)
		end = &(*end)->next;
	o->next = NULL;
	*end = o;
}

static void release_held(struct connection *c)
{
	c->hold = false;
	while (c->held) {
		struct output *o = c->held;

		c->held = o->next;
		deliver(c, o);
	}
}

static int fake_stage(struct connection *c, size_t bytes, struct staged *ret)
{
	if (bytes > c->staging.max_bytes)
		return -EMSGSIZE;
	if (!staging_take(&c->staging, bytes))
		return -ENOBUFS;
	c->n_staged++;
	*ret = (struct staged){ .ptr = malloc(bytes), .bytes = bytes };
	return 0;
}

static int fake_expose(struct connection *c, struct staged *s, const uint8_t *p, size_t bytes)
{
	(void)c;
	assert_true(p >= s->ptr && p + bytes <= s->ptr + s->bytes);
	s->remote_addr = (uintptr_t)p;
	s->rkey = 0x1234;
	return 0;
}

static void fake_unstage(struct connection *c, struct staged *s)
{
	c->n_staged--;
	staging_give(&c->staging, s->bytes);
	free(s->ptr);
}

static const struct transport streaming = {
	.capabilities = WIRE_CAP_STREAM,
	.send = fake_send,
	.stage = fake_stage,
	.unstage = fake_unstage,
};

static const struct transport leasing = {
	.capabilities = WIRE_CAP_INLINE | WIRE_CAP_LEASE,
	.send = fake_send,
	.stage = fake_stage,
	.expose = fake_expose,
	.unstage = fake_unstage,
};

/* --- the world --- */

static void write_volume(struct world *w)
{
	char *pairs = malloc(40000);
	struct record_shape shape = { .data = w->large,
				      .len = LARGE_BYTES,
				      .flags = RECORD_GZIP | RECORD_NAME | RECORD_MIME |
					       RECORD_LAST_MODIFIED | RECORD_PAIRS,
				      .name = "n",
				      .mime = "m",
				      .pairs = pairs,
				      .append_at_ns = 1 };

	memset(pairs, 'p', 39999);
	pairs[39999] = '\0';
	for (size_t i = 0; i < LARGE_BYTES; i++)
		w->large[i] = (uint8_t)(i * 2654435761u >> 13);
	snprintf(w->dat, sizeof(w->dat), "%s/%d.dat", w->dir, VOLUME);
	snprintf(w->idx, sizeof(w->idx), "%s/%d.idx", w->dir, VOLUME);
	w->volume = volume_files_new(w->dat, w->idx, &(struct volume_shape){ 0 });
	volume_files_put(w->volume, SMALL, COOKIE, w->large, SMALL_BYTES);
	volume_files_put(w->volume, LARGE, COOKIE, w->large, LARGE_BYTES);
	volume_files_put(w->volume, EMPTY, COOKIE, "", 0);
	volume_files_put(w->volume, DELETED, COOKIE, "gone", 4);
	volume_files_delete(w->volume, DELETED);
	volume_files_put_shaped(w->volume, LONG_TAIL, COOKIE, &shape);
	shape.flags = RECORD_LAST_MODIFIED | RECORD_TTL;
	shape.ttl_count = shape.ttl_unit = 1;
	volume_files_put_shaped(w->volume, EXPIRED, COOKIE, &shape);
	shape.flags = RECORD_GZIP;
	shape.len = 100;
	volume_files_put_shaped(w->volume, COMPRESSED, COOKIE, &shape);
	free(pairs);
}

static void make_world(struct world *w, const char *key)
{
	unsigned line;

	snprintf(w->dir, sizeof(w->dir), "/tmp/kelp-session-XXXXXX");
	assert_non_null(mkdtemp(w->dir));
	write_volume(w);
	const char *dirs[] = { w->dir };
	struct store_config store = { .dirs = dirs, .n_dirs = 1 };
	assert_int_equal(store_open(&store, &w->store), 0);
	if (key)
		setenv(KEY_VARIABLE, key, 1);
	else
		unsetenv(KEY_VARIABLE);
	assert_int_equal(token_source_new(NULL, &line, &w->tokens), 0);
	assert_int_equal(disk_new(&w->disk), 0);
	struct agent_config cfg = { .store = w->store,
				    .tokens = w->tokens,
				    .idle_ms = IDLE_MS,
				    .small_bytes_max = 64 * KIB,
				    .lease_ms = 1000,
				    .software = "test" };
	agent_init(&w->agent, &cfg);
}

static int make(void **state)
{
	struct world *w = calloc(1, sizeof(*w));

	make_world(w, NULL);
	*state = w;
	return 0;
}

static int make_guarded(void **state)
{
	struct world *w = calloc(1, sizeof(*w));

	make_world(w, "secret");
	*state = w;
	return 0;
}

static void lose(struct world *w)
{
	struct connection *c = &w->connection;

	if (!c->session)
		return;
	while (c->held) {
		struct output *o = c->held;

		c->held = o->next;
		o->done(o);
	}
	session_lost(c->session);
	assert_false(session_is_busy(c->session));
	session_free(c->session);
	close(c->fds[0]);
	close(c->fds[1]);
	assert_int_equal(c->n_staged, 0);
	assert_int_equal(atomic_load(&w->agent.staging.used_bytes), 0);
	*c = (struct connection){ 0 };
}

/* A needle that stays pinned keeps its volume open. */
static bool is_open(const char *path)
{
	char link[64], target[256];

	for (int fd = 0; fd < 1024; fd++) {
		snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
		ssize_t n = readlink(link, target, sizeof(target) - 1);
		target[n > 0 ? n : 0] = '\0';
		if (strcmp(target, path) == 0)
			return true;
	}
	return false;
}

static int drop(void **state)
{
	struct world *w = *state;

	lose(w);
	disk_free(w->disk);
	token_source_free(w->tokens);
	store_close(w->store);
	volume_files_free(w->volume);
	assert_false(is_open(w->dat));
	unlink(w->dat);
	unlink(w->idx);
	rmdir(w->dir);
	free(w);
	return 0;
}

static void open_session(struct world *w, const struct transport *t, bool refused)
{
	struct connection *c = &w->connection;
	struct session_config cfg = { .agent = &w->agent,
				      .disk = w->disk,
				      .transport = t,
				      .connection = c,
				      .refused = refused };
	int bytes = 4 << 20;

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, c->fds), 0);
	setsockopt(c->fds[0], SOL_SOCKET, SO_SNDBUF, &bytes, sizeof(bytes));
	c->staging.all = &w->agent.staging;
	c->staging.max_bytes = MIB;
	assert_int_equal(session_new(&cfg, &c->session), 0);
}

/* --- the test's side --- */

/* The volume may have left the page cache. */
static void reap_while_busy(struct world *w)
{
	for (int i = 0; i < 1000 && session_is_busy(w->connection.session); i++) {
		struct pollfd p = { .fd = disk_fd(w->disk), .events = POLLIN };

		disk_submit(w->disk);
		poll(&p, 1, 10);
		disk_reap(w->disk);
	}
}

/* Hands over what an encoder made. */
static void hand(struct world *w, const uint8_t *m, size_t len)
{
	struct wire_header h;

	assert_int_equal(wire_decode_header(m, len, &h), 0);
	assert_int_equal(len, WIRE_HEADER_BYTES + h.length);
	session_message(w->connection.session, &h, m + WIRE_HEADER_BYTES);
	if (!w->connection.hold)
		reap_while_busy(w);
}

static void send_hello(struct world *w, uint8_t version_min, uint8_t version_max, const char *token)
{
	struct wire_header h = { .version = WIRE_VERSION, .xid = 5 };
	struct wire_hello m = { .version_min = version_min,
				.version_max = version_max,
				.inline_bytes_max = 8192,
				.token = token,
				.token_len = strlen(token) };
	uint8_t buf[WIRE_MESSAGE_BYTES_MAX];
	size_t len;

	assert_int_equal(wire_encode_hello(buf, sizeof(buf), h, &m, &len), 0);
	hand(w, buf, len);
}

static void send_bare(struct world *w, enum wire_type type, uint64_t xid)
{
	struct wire_header h = { .type = (uint8_t)type, .version = WIRE_VERSION, .xid = xid };
	uint8_t buf[WIRE_HEADER_BYTES];
	size_t len;

	assert_int_equal(wire_encode_bare(buf, sizeof(buf), h, &len), 0);
	hand(w, buf, len);
}

static struct wire_extent extent(uint64_t key, uint64_t offset, uint64_t length)
{
	return (struct wire_extent){ .fid = { .volume_id = VOLUME, .key = key, .cookie = COOKIE },
				     .offset = offset,
				     .length = length,
				     .flags = length ? 0 : WIRE_EXTENT_WHOLE };
}

static void send_read(struct world *w, uint64_t xid, const struct wire_extent *extents, size_t n)
{
	struct wire_header h = { .version = WIRE_VERSION, .xid = xid };
	struct wire_read m = { .n_extents = n };
	uint8_t buf[WIRE_MESSAGE_BYTES_MAX];
	size_t len;

	memcpy(m.extents, extents, n * sizeof(*extents));
	assert_int_equal(wire_encode_read(buf, sizeof(buf), h, &m, &len), 0);
	hand(w, buf, len);
}

static void receive(struct world *w, void *p, size_t n)
{
	for (size_t got = 0; got < n;) {
		ssize_t k = recv(w->connection.fds[1], (uint8_t *)p + got, n - got, MSG_DONTWAIT);

		assert_true(k > 0);
		got += (size_t)k;
	}
}

static bool is_silent(struct world *w)
{
	char byte;

	return recv(w->connection.fds[1], &byte, 1, MSG_DONTWAIT | MSG_PEEK) < 0;
}

static struct wire_header receive_message(struct world *w, uint8_t payload[WIRE_MESSAGE_BYTES_MAX])
{
	uint8_t head[WIRE_HEADER_BYTES];
	struct wire_header h;

	receive(w, head, sizeof(head));
	assert_int_equal(wire_decode_header(head, sizeof(head), &h), 0);
	receive(w, payload, h.length);
	return h;
}

static struct wire_hello_reply receive_hello_reply(struct world *w)
{
	uint8_t payload[WIRE_MESSAGE_BYTES_MAX];
	struct wire_header h = receive_message(w, payload);
	struct wire_hello_reply m;

	assert_int_equal(h.type, WIRE_HELLO_REPLY);
	assert_int_equal(h.xid, 5);
	assert_int_equal(wire_decode_hello_reply(payload, h.length, &m), 0);
	assert_int_equal(h.credits, m.status == WIRE_OK ? AGENT_CREDITS : 0);
	return m;
}

/* The data that may be in the message goes to data. */
static struct wire_read_reply receive_reply(struct world *w, uint64_t xid, uint8_t *data)
{
	uint8_t payload[WIRE_MESSAGE_BYTES_MAX];
	struct wire_header h = receive_message(w, payload);
	struct wire_read_reply m;
	size_t at;

	assert_int_equal(h.type, WIRE_READ_REPLY);
	assert_int_equal(h.xid, xid);
	assert_int_equal(h.credits, 1);
	assert_int_equal(wire_decode_read_reply(payload, h.length, &m, &at), 0);
	if (data)
		memcpy(data, payload + at, h.length - at);
	else
		assert_int_equal(h.length, at);
	return m;
}

static void expect_goodbye(struct world *w, enum wire_status reason)
{
	uint8_t payload[WIRE_MESSAGE_BYTES_MAX];
	struct wire_header h = receive_message(w, payload);
	struct wire_goodbye m;

	assert_int_equal(h.type, WIRE_GOODBYE);
	assert_int_equal(wire_decode_goodbye(payload, h.length, &m), 0);
	assert_int_equal(m.reason, reason);
	assert_true(is_silent(w));
	assert_true(w->connection.ended);
	assert_false(session_wants(w->connection.session));
}

static void open_and_greet(struct world *w, const struct transport *t)
{
	open_session(w, t, false);
	send_hello(w, 1, 1, "");
	assert_int_equal(receive_hello_reply(w).status, WIRE_OK);
}

/* One extent over the stream: its result, and its data compared with the large needle from offset. */
static struct wire_result read_one(struct world *w, struct wire_extent e)
{
	static uint8_t data[LARGE_BYTES];

	send_read(w, 9, &e, 1);
	struct wire_read_reply m = receive_reply(w, 9, NULL);
	assert_int_equal(m.n_results, 1);
	if (m.results[0].status == WIRE_OK) {
		receive(w, data, m.results[0].length);
		if (e.fid.key != DELETED)
			assert_memory_equal(data, w->large + e.offset, m.results[0].length);
	}
	assert_true(is_silent(w));
	return m.results[0];
}

static void expect_status(struct world *w, struct wire_extent e, enum wire_status status)
{
	assert_int_equal(read_one(w, e).status, status);
}

/* --- hello --- */

static void test_hello_is_answered_with_limits_and_credits(void **state)
{
	struct world *w = *state;

	open_session(w, &streaming, false);
	send_hello(w, 1, 7, "");
	struct wire_hello_reply m = receive_hello_reply(w);
	assert_int_equal(m.status, WIRE_OK);
	assert_int_equal(m.version, 1);
	assert_int_equal(m.capabilities, WIRE_CAP_STREAM);
	assert_int_equal(m.transfer_bytes_max, WIRE_EXTENT_BYTES_MAX);
	assert_int_equal(m.sessions_max, AGENT_CONNECTIONS_MAX);
	assert_false(m.token_needed);
	assert_string_equal(m.software, "test");
}

static void test_first_message_must_be_a_hello(void **state)
{
	struct world *w = *state;

	open_session(w, &streaming, false);
	send_bare(w, WIRE_PING, 1);
	expect_goodbye(w, WIRE_MALFORMED);
}

static void test_second_hello_is_malformed(void **state)
{
	struct world *w = *state;

	open_and_greet(w, &streaming);
	send_hello(w, 1, 1, "");
	expect_goodbye(w, WIRE_MALFORMED);
}

static void test_other_version_is_refused_with_a_reason(void **state)
{
	struct world *w = *state;

	open_session(w, &streaming, false);
	send_hello(w, 2, 3, "");
	struct wire_hello_reply m = receive_hello_reply(w);
	assert_int_equal(m.status, WIRE_VERSION_REFUSED);
	assert_true(strlen(m.text) > 0);
	expect_goodbye(w, WIRE_VERSION_REFUSED);
}

static void test_hello_of_another_version_need_not_be_understood(void **state)
{
	struct wire_header h = { .type = WIRE_HELLO, .version = 2, .length = 3, .xid = 5 };
	struct world *w = *state;

	open_session(w, &streaming, false);
	session_message(w->connection.session, &h, (const uint8_t *)"abc");
	assert_int_equal(receive_hello_reply(w).status, WIRE_VERSION_REFUSED);
	expect_goodbye(w, WIRE_VERSION_REFUSED);
}

static void test_client_over_the_limit_is_told_so(void **state)
{
	struct world *w = *state;

	open_session(w, &streaming, true);
	send_hello(w, 1, 1, "");
	assert_int_equal(receive_hello_reply(w).status, WIRE_EXHAUSTED);
	expect_goodbye(w, WIRE_EXHAUSTED);
}

/* --- reads --- */

static void test_small_needle_comes_whole_with_its_checksum(void **state)
{
	struct world *w = *state;

	open_and_greet(w, &streaming);
	struct wire_result r = read_one(w, extent(SMALL, 0, 0));
	assert_int_equal(r.length, SMALL_BYTES);
	assert_int_equal(r.needle_length, SMALL_BYTES);
	assert_int_equal(r.flags, WIRE_RESULT_CRC_WHOLE);
	assert_int_equal(r.crc32c, crc32c(0, w->large, SMALL_BYTES));
	assert_int_equal(atomic_load(&w->agent.counters.bytes_memory), SMALL_BYTES);
}

static void test_large_needle_comes_from_the_file_with_its_checksum(void **state)
{
	struct world *w = *state;

	open_and_greet(w, &streaming);
	struct wire_result r = read_one(w, extent(LARGE, 0, 0));
	assert_int_equal(r.length, LARGE_BYTES);
	assert_int_equal(r.flags, WIRE_RESULT_CRC_WHOLE);
	assert_int_equal(r.crc32c, crc32c(0, w->large, LARGE_BYTES));
	assert_int_equal(atomic_load(&w->agent.counters.bytes_memory), 0);
	assert_int_equal(atomic_load(&w->agent.counters.bytes_file), LARGE_BYTES);
}

static void test_range_comes_with_a_checksum_of_its_own(void **state)
{
	static const struct {
		uint64_t key, offset, length;
	} ranges[] = {
		{ SMALL, 0, 1 },     { SMALL, 4999, 1 },   { SMALL, 17, 4096 },
		{ LARGE, 1, 60000 }, { LARGE, 99990, 10 },
	};
	struct world *w = *state;

	open_and_greet(w, &streaming);
	for (size_t i = 0; i < ARRAY_LEN(ranges); i++) {
		struct wire_result r = read_one(
			w, extent(ranges[i].key, ranges[i].offset, ranges[i].length));

		assert_int_equal(r.length, ranges[i].length);
		assert_int_equal(r.flags, WIRE_RESULT_CRC_RANGE);
		assert_int_equal(r.crc32c, crc32c(0, w->large + ranges[i].offset, r.length));
	}
}

static void test_empty_needle_is_no_error(void **state)
{
	struct world *w = *state;

	open_and_greet(w, &streaming);
	struct wire_result r = read_one(w, extent(EMPTY, 0, 0));
	assert_int_equal(r.status, WIRE_OK);
	assert_int_equal(r.length, 0);
}

static void test_compressed_needle_is_marked(void **state)
{
	struct world *w = *state;

	open_and_greet(w, &streaming);
	assert_true(read_one(w, extent(COMPRESSED, 0, 0)).flags & WIRE_RESULT_GZIP);
}

static void test_long_fields_behind_the_data_are_read_too(void **state)
{
	struct world *w = *state;

	open_and_greet(w, &streaming);
	struct wire_result r = read_one(w, extent(LONG_TAIL, 0, 0));
	assert_int_equal(r.status, WIRE_OK);
	assert_int_equal(r.crc32c, crc32c(0, w->large, LARGE_BYTES));
	assert_int_equal(r.flags, WIRE_RESULT_GZIP | WIRE_RESULT_CRC_WHOLE);
	assert_int_equal(read_one(w, extent(LONG_TAIL, 100, 200)).length, 200);
}

static void test_what_is_not_there_is_said_for_each_extent(void **state)
{
	struct wire_extent elsewhere = extent(SMALL, 0, 0), other_cookie = elsewhere;
	struct wire_extent deleted = extent(DELETED, 0, 0);
	struct world *w = *state;

	elsewhere.fid.volume_id = 77;
	other_cookie.fid.cookie++;
	open_and_greet(w, &streaming);
	expect_status(w, extent(99, 0, 0), WIRE_NOT_FOUND);
	expect_status(w, other_cookie, WIRE_NOT_FOUND);
	expect_status(w, extent(EXPIRED, 0, 0), WIRE_NOT_FOUND);
	expect_status(w, deleted, WIRE_NOT_FOUND);
	deleted.flags |= WIRE_EXTENT_READ_DELETED;
	expect_status(w, deleted, WIRE_OK);
	expect_status(w, elsewhere, WIRE_NOT_SERVED);
	expect_status(w, extent(SMALL, 0, SMALL_BYTES + 1), WIRE_RANGE);
	expect_status(w, extent(SMALL, SMALL_BYTES, 1), WIRE_RANGE);
	expect_status(w, extent(SMALL, INT64_MAX - 5, 5), WIRE_RANGE);
	expect_status(w, extent(LARGE, 0, LARGE_BYTES + 1), WIRE_RANGE);
	expect_status(w, extent(EMPTY, 0, 1), WIRE_RANGE);
}

static void test_extents_are_answered_in_order_in_one_message(void **state)
{
	struct wire_extent extents[WIRE_EXTENTS_MAX];
	static uint8_t data[LARGE_BYTES];
	struct world *w = *state;

	for (size_t i = 0; i < WIRE_EXTENTS_MAX; i++)
		extents[i] = i % 5 == 4 ? extent(99, 0, 0)
			     : i % 2    ? extent(SMALL, i, 1000 + i)
					: extent(LARGE, 0, 0);
	open_and_greet(w, &streaming);
	send_read(w, 1, extents, WIRE_EXTENTS_MAX);
	struct wire_read_reply m = receive_reply(w, 1, NULL);
	assert_int_equal(m.n_results, WIRE_EXTENTS_MAX);
	for (size_t i = 0; i < WIRE_EXTENTS_MAX; i++) {
		uint64_t length = i % 2 ? 1000 + i : LARGE_BYTES;

		assert_int_equal(m.results[i].status, i % 5 == 4 ? WIRE_NOT_FOUND : WIRE_OK);
		if (i % 5 == 4)
			continue;
		assert_int_equal(m.results[i].length, length);
		receive(w, data, length);
		assert_memory_equal(data, w->large + extents[i].offset, length);
	}
	assert_true(is_silent(w));
}

static void test_without_memory_small_answers_come_from_the_file(void **state)
{
	struct world *w = *state;

	open_and_greet(w, &streaming);
	w->connection.staging.max_bytes = 100;
	struct wire_result r = read_one(w, extent(SMALL, 10, 200));
	assert_int_equal(r.length, 200);
	assert_int_equal(r.flags & WIRE_RESULT_CRC_RANGE, 0);
	assert_int_equal(atomic_load(&w->agent.counters.unstaged), 1);
}

static void test_overwritten_record_is_an_error_and_not_its_bytes(void **state)
{
	struct world *w = *state;
	int fd = open(w->dat, O_WRONLY);

	/* The first record's key, behind the superblock and the cookie. */
	assert_int_equal(pwrite(fd, "XXXX", 4, 8 + 4), 4);
	close(fd);
	open_and_greet(w, &streaming);
	assert_int_not_equal(read_one(w, extent(SMALL, 0, 0)).status, WIRE_OK);
}

static off_t record_at(struct world *w, unsigned key)
{
	struct fid fid = extent(key, 0, 0).fid;
	struct needle_place place;

	assert_int_equal(store_find(w->store, &fid, false, &place), 0);
	store_unpin(&place);
	return (off_t)place.record_offset;
}

static void test_record_that_was_overwritten_between_two_parts_is_an_error(void **state)
{
	struct world *w = *state;

	open_and_greet(w, &streaming);
	expect_status(w, extent(LARGE, 5, 10), WIRE_OK);
	int fd = open(w->dat, O_WRONLY);
	assert_int_equal(pwrite(fd, "XXXX", 4, record_at(w, LARGE) + 4), 4);
	close(fd);
	expect_status(w, extent(LARGE, 5, 10), WIRE_IO);
	expect_status(w, extent(LARGE, 5, 70000), WIRE_IO);
}

static void test_later_parts_are_described_as_the_first(void **state)
{
	struct world *w = *state;

	open_and_greet(w, &streaming);
	for (uint64_t i = 0; i < 3; i++)
		assert_int_equal(read_one(w, extent(LONG_TAIL, i, 10)).flags,
				 WIRE_RESULT_GZIP | WIRE_RESULT_CRC_RANGE);
	for (uint64_t i = 0; i < 3; i++)
		assert_int_equal(read_one(w, extent(LONG_TAIL, i, 70000)).flags, WIRE_RESULT_GZIP);
	assert_int_equal(read_one(w, extent(LONG_TAIL, 0, 0)).flags,
			 WIRE_RESULT_GZIP | WIRE_RESULT_CRC_WHOLE);
	assert_int_equal(read_one(w, extent(LONG_TAIL, 0, LARGE_BYTES)).flags,
			 WIRE_RESULT_GZIP | WIRE_RESULT_CRC_WHOLE);
}

static void test_needle_expires_between_two_parts(void **state)
{
	struct timespec now;
	struct world *w = *state;
	struct record_shape shape = { .data = w->large,
				      .len = LARGE_BYTES,
				      .flags = RECORD_LAST_MODIFIED | RECORD_TTL,
				      .ttl_count = 1,
				      .ttl_unit = 1 };

	clock_gettime(CLOCK_REALTIME, &now);
	shape.append_at_ns = (uint64_t)(now.tv_sec - 54) * 1000000000 + (uint64_t)now.tv_nsec;
	volume_files_put_shaped(w->volume, FLEETING, COOKIE, &shape);
	open_and_greet(w, &streaming);
	expect_status(w, extent(FLEETING, 0, 10), WIRE_OK);
	expect_status(w, extent(FLEETING, 0, 70000), WIRE_OK);
	sleep_ms(6100, deadline_in_ms(10000));
	expect_status(w, extent(FLEETING, 0, 10), WIRE_NOT_FOUND);
	expect_status(w, extent(FLEETING, 0, 70000), WIRE_NOT_FOUND);
	expect_status(w, extent(FLEETING, 0, 0), WIRE_NOT_FOUND);
}

/* Flips the byte in the middle of a needle's data on disk. */
static void spoil(struct world *w, unsigned key)
{
	struct fid fid = extent(key, 0, 0).fid;
	struct needle_place place;
	struct needle_info info;
	uint8_t byte;

	assert_int_equal(store_find(w->store, &fid, false, &place), 0);
	assert_int_equal(store_read_info(&place, &fid, &info), 0);
	off_t at = (off_t)(info.data_offset + info.data_bytes / 2);
	store_unpin(&place);
	int fd = open(w->dat, O_RDWR);
	assert_int_equal(pread(fd, &byte, 1, at), 1);
	byte ^= 0xff;
	assert_int_equal(pwrite(fd, &byte, 1, at), 1);
	close(fd);
}

static void test_spoiled_needle_is_not_served_whole_or_in_part(void **state)
{
	struct world *w = *state;

	spoil(w, SMALL);
	open_and_greet(w, &streaming);
	expect_status(w, extent(SMALL, 0, 0), WIRE_CORRUPT);
	expect_status(w, extent(SMALL, 0, 10), WIRE_CORRUPT);
}

static void test_large_part_of_a_spoiled_needle_is_not_served(void **state)
{
	struct world *w = *state;

	spoil(w, LARGE);
	open_and_greet(w, &streaming);
	expect_status(w, extent(LARGE, 0, LARGE_BYTES - 1), WIRE_CORRUPT);
	expect_status(w, extent(LARGE, 0, 10), WIRE_CORRUPT); /* now that it is known */
	expect_status(w, extent(LARGE, 0, 0), WIRE_CORRUPT);
}

static void test_needle_that_was_put_right_is_served_again(void **state)
{
	struct world *w = *state;

	spoil(w, LARGE);
	open_and_greet(w, &streaming);
	expect_status(w, extent(LARGE, 0, LARGE_BYTES - 1), WIRE_CORRUPT);
	spoil(w, LARGE);
	expect_status(w, extent(LARGE, 0, LARGE_BYTES - 1), WIRE_OK);
	expect_status(w, extent(LARGE, 0, 10), WIRE_OK);
}

static void test_needle_is_compared_with_its_checksum_only_once(void **state)
{
	struct wire_extent e = extent(LARGE, 1, LARGE_BYTES - 1);
	struct world *w = *state;

	open_and_greet(w, &streaming);
	expect_status(w, e, WIRE_OK);
	spoil(w, LARGE);
	send_read(w, 1, &e, 1);
	assert_int_equal(receive_reply(w, 1, NULL).results[0].status, WIRE_OK);
}

static void test_parts_that_wait_for_the_same_check_are_all_answered(void **state)
{
	struct wire_extent e[3] = { extent(LARGE, 0, LARGE_BYTES - 1), extent(LARGE, 1, 70000),
				    extent(LARGE, 2, 80000) };
	struct world *w = *state;
	static uint8_t data[LARGE_BYTES];
	int fd = open(w->dat, O_RDONLY);

	fsync(fd);
	posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
	close(fd);
	open_and_greet(w, &streaming);
	send_read(w, 1, e, 3);
	struct wire_read_reply m = receive_reply(w, 1, NULL);
	for (size_t i = 0; i < 3; i++) {
		assert_int_equal(m.results[i].status, WIRE_OK);
		receive(w, data, m.results[i].length);
		assert_memory_equal(data, w->large + e[i].offset, m.results[i].length);
	}
}

static enum needle_check known_check(struct world *w, uint64_t key)
{
	const struct fid fid = { .volume_id = VOLUME, .key = key, .cookie = COOKIE };
	struct needle_place p;

	assert_int_equal(store_find(w->store, &fid, false, &p), 0);
	enum needle_check check = p.facts.check;
	store_unpin(&p);
	return check;
}

static void test_check_ends_when_its_client_is_gone(void **state)
{
	struct wire_extent e = extent(FLEETING, 0, 100 * KIB);
	const size_t bytes = 4 * CHECK_TURN_BYTES;
	struct world *w = *state;
	uint8_t *data = calloc(1, bytes);

	if (disk_fd(w->disk) < 0) {
		free(data);
		skip(); /* without a ring a check does not pause */
	}
	volume_files_put(w->volume, FLEETING, COOKIE, data, bytes);
	free(data);
	open_and_greet(w, &streaming);
	w->connection.hold = true;
	send_read(w, 1, &e, 1);
	assert_true(session_is_busy(w->connection.session));
	session_lost(w->connection.session);
	w->connection.hold = false;
	reap_while_busy(w);
	assert_false(session_is_busy(w->connection.session));
	assert_int_equal(known_check(w, FLEETING), NEEDLE_UNCHECKED);
	assert_int_equal(atomic_load(&w->agent.counters.by_status[WIRE_IO]), 0);
}

/* --- credits and control --- */

static void test_more_reads_than_credits_end_the_connection(void **state)
{
	struct wire_extent e = extent(SMALL, 0, 10);
	struct world *w = *state;
	uint8_t data[10];

	open_and_greet(w, &streaming);
	w->connection.hold = true;
	for (uint64_t i = 0; i < AGENT_CREDITS; i++)
		send_read(w, i, &e, 1);
	assert_true(session_wants(w->connection.session));
	send_read(w, 99, &e, 1);
	assert_false(session_wants(w->connection.session));
	release_held(&w->connection);
	for (uint64_t i = 0; i < AGENT_CREDITS; i++) {
		receive_reply(w, i, NULL);
		receive(w, data, sizeof(data));
	}
	expect_goodbye(w, WIRE_MALFORMED);
	assert_int_equal(atomic_load(&w->agent.counters.malformed), 1);
}

static void test_answers_give_credits_back(void **state)
{
	struct world *w = *state;

	open_and_greet(w, &streaming);
	for (unsigned i = 0; i < 5 * AGENT_CREDITS; i++)
		expect_status(w, extent(SMALL, 0, 10), WIRE_OK);
}

static void test_ping_is_answered_and_a_second_waits_for_it(void **state)
{
	uint8_t payload[WIRE_MESSAGE_BYTES_MAX];
	struct world *w = *state;

	open_and_greet(w, &streaming);
	w->connection.hold = true;
	send_bare(w, WIRE_PING, 42);
	assert_false(session_wants(w->connection.session));
	release_held(&w->connection);
	assert_true(session_wants(w->connection.session));
	struct wire_header h = receive_message(w, payload);
	assert_int_equal(h.type, WIRE_PONG);
	assert_int_equal(h.xid, 42);
}

static void test_agents_messages_from_a_client_are_malformed(void **state)
{
	struct world *w = *state;

	open_and_greet(w, &streaming);
	send_bare(w, WIRE_READ_REPLY, 1);
	expect_goodbye(w, WIRE_MALFORMED);
}

static void test_undecodable_read_is_malformed(void **state)
{
	struct wire_header h = { .type = WIRE_READ, .version = WIRE_VERSION, .length = 8 };
	struct world *w = *state;

	open_and_greet(w, &streaming);
	session_message(w->connection.session, &h, (const uint8_t *)"\1\0\0\0\0\0\0\0");
	expect_goodbye(w, WIRE_MALFORMED);
}

/* --- the end --- */

static void test_shutdown_finishes_answers_before_the_goodbye(void **state)
{
	struct wire_extent e = extent(SMALL, 0, 10);
	struct world *w = *state;
	uint8_t data[10];

	open_and_greet(w, &streaming);
	w->connection.hold = true;
	send_read(w, 1, &e, 1);
	session_shut_down(w->connection.session);
	assert_false(session_wants(w->connection.session));
	release_held(&w->connection);
	receive_reply(w, 1, NULL);
	receive(w, data, sizeof(data));
	expect_goodbye(w, WIRE_SHUTDOWN);
}

static void test_clients_goodbye_ends_the_connection(void **state)
{
	struct wire_header h = { .version = WIRE_VERSION };
	struct wire_goodbye m = { .reason = WIRE_OK };
	uint8_t buf[WIRE_MESSAGE_BYTES_MAX];
	struct world *w = *state;
	size_t len;

	open_and_greet(w, &streaming);
	assert_int_equal(wire_encode_goodbye(buf, sizeof(buf), h, &m, &len), 0);
	hand(w, buf, len);
	expect_goodbye(w, WIRE_OK);
}

static void test_idle_connection_is_ended(void **state)
{
	struct world *w = *state;

	open_and_greet(w, &streaming);
	session_tick(w->connection.session, now_ms() + IDLE_MS - 1000);
	assert_true(is_silent(w));
	session_tick(w->connection.session, now_ms() + IDLE_MS);
	expect_goodbye(w, WIRE_IDLE);
}

static void test_connection_that_waits_for_an_answer_is_not_idle(void **state)
{
	struct wire_extent e = extent(SMALL, 0, 10);
	struct world *w = *state;

	open_and_greet(w, &streaming);
	w->connection.hold = true;
	send_read(w, 1, &e, 1);
	session_tick(w->connection.session, now_ms() + 10 * IDLE_MS);
	assert_true(session_wants(w->connection.session));
	release_held(&w->connection);
	session_tick(w->connection.session, now_ms() + 10 * IDLE_MS + IDLE_MS / 2);
	assert_true(session_wants(w->connection.session));
}

static void test_connection_without_hello_is_ended(void **state)
{
	struct world *w = *state;

	open_session(w, &streaming, false);
	session_tick(w->connection.session, now_ms() + AGENT_HELLO_MS);
	expect_goodbye(w, WIRE_IDLE);
}

static void test_lost_connection_gives_everything_back(void **state)
{
	struct wire_extent e[2] = { extent(SMALL, 0, 10), extent(LARGE, 0, 0) };
	struct world *w = *state;

	open_and_greet(w, &streaming);
	w->connection.hold = true;
	for (uint64_t i = 0; i < AGENT_CREDITS; i++)
		send_read(w, i, e, 2);
	assert_true(w->connection.n_staged > 0);
	lose(w); /* which looks */
}

/* --- tokens --- */

static void test_extent_needs_its_own_token(void **state)
{
	char token[TOKEN_MAX];
	struct world *w = *state;
	struct wire_extent e = extent(SMALL, 0, 10), other = extent(LARGE, 0, 10);

	open_session(w, &streaming, false);
	send_hello(w, 1, 1, "");
	assert_true(receive_hello_reply(w).token_needed);
	expect_status(w, e, WIRE_DENIED);
	assert_int_equal(token_for_fid(w->tokens, &e.fid, token), 0);
	e.token = other.token = token;
	e.token_len = other.token_len = strlen(token);
	expect_status(w, e, WIRE_OK);
	expect_status(w, other, WIRE_DENIED);
}

static void test_token_of_the_hello_is_good_for_all_extents(void **state)
{
	char token[TOKEN_MAX];
	struct world *w = *state;

	assert_int_equal(token_for_agent(w->tokens, token), 0);
	open_session(w, &streaming, false);
	send_hello(w, 1, 1, token);
	assert_int_equal(receive_hello_reply(w).status, WIRE_OK);
	expect_status(w, extent(SMALL, 0, 10), WIRE_OK);
	expect_status(w, extent(LARGE, 0, 0), WIRE_OK);
}

static void test_wrong_token_in_the_hello_is_denied(void **state)
{
	char token[TOKEN_MAX];
	struct world *w = *state;

	assert_int_equal(token_for_agent(w->tokens, token), 0);
	token[strlen(token) - 3] ^= 1;
	open_session(w, &streaming, false);
	send_hello(w, 1, 1, token);
	assert_int_equal(receive_hello_reply(w).status, WIRE_DENIED);
	expect_goodbye(w, WIRE_DENIED);
}

/* --- inline answers and leases --- */

static void test_small_answers_are_inside_the_message(void **state)
{
	uint8_t data[WIRE_MESSAGE_BYTES_MAX];
	struct wire_extent e[2] = { extent(SMALL, 5, 1000), extent(SMALL, 7, 2000) };
	struct world *w = *state;

	open_and_greet(w, &leasing);
	send_read(w, 1, e, 2);
	struct wire_read_reply m = receive_reply(w, 1, data);
	assert_int_equal(m.results[0].length, 1000);
	assert_int_equal(m.results[1].length, 2000);
	assert_memory_equal(data, w->large + 5, 1000);
	assert_memory_equal(data + 1000, w->large + 7, 2000);
	assert_int_equal(w->connection.n_staged, 0);
}

static struct wire_result lease_one(struct world *w, struct wire_extent e)
{
	send_read(w, 1, &e, 1);
	return receive_reply(w, 1, NULL).results[0];
}

static void test_large_answer_is_leased_until_it_is_complete(void **state)
{
	struct wire_header h = { .version = WIRE_VERSION };
	struct wire_complete complete = { .n = 2, .leases = { 12345 } };
	uint8_t buf[WIRE_MESSAGE_BYTES_MAX];
	struct world *w = *state;
	size_t len;

	open_and_greet(w, &leasing);
	struct wire_result r = lease_one(w, extent(LARGE, 3, 90000));
	assert_int_equal(r.flags, WIRE_RESULT_LEASE | WIRE_RESULT_CRC_RANGE);
	assert_int_equal(r.crc32c, crc32c(0, w->large + 3, 90000));
	assert_int_equal(r.rkey, 0x1234);
	assert_memory_equal((const uint8_t *)(uintptr_t)r.remote_addr, w->large + 3, 90000);
	assert_int_equal(w->connection.n_staged, 1);
	complete.leases[1] = r.lease_id;
	assert_int_equal(wire_encode_complete(buf, sizeof(buf), h, &complete, &len), 0);
	hand(w, buf, len);
	assert_int_equal(w->connection.n_staged, 0);
}

static void test_whole_needle_is_leased_without_what_is_around_it(void **state)
{
	struct world *w = *state;

	open_and_greet(w, &leasing);
	struct wire_result r = lease_one(w, extent(LARGE, 0, 0));
	assert_int_equal(r.flags, WIRE_RESULT_LEASE | WIRE_RESULT_CRC_WHOLE);
	assert_int_equal(r.length, LARGE_BYTES);
	assert_memory_equal((const uint8_t *)(uintptr_t)r.remote_addr, w->large, LARGE_BYTES);
}

static void test_lease_ends_by_itself(void **state)
{
	struct world *w = *state;

	open_and_greet(w, &leasing);
	struct wire_result r = lease_one(w, extent(LARGE, 0, 50000));
	session_tick(w->connection.session, now_ms());
	assert_int_equal(w->connection.n_staged, 1);
	session_tick(w->connection.session, now_ms() + r.lease_ms);
	assert_int_equal(w->connection.n_staged, 0);
}

static void test_large_part_of_a_spoiled_needle_is_not_leased(void **state)
{
	struct world *w = *state;

	spoil(w, LARGE);
	open_and_greet(w, &leasing);
	assert_int_equal(lease_one(w, extent(LARGE, 0, LARGE_BYTES - 1)).status, WIRE_CORRUPT);
	assert_int_equal(w->connection.n_staged, 0);
}

static void test_lease_without_memory_is_refused_for_now(void **state)
{
	struct world *w = *state;

	open_and_greet(w, &leasing);
	w->connection.staging.max_bytes = 150000;
	assert_int_equal(lease_one(w, extent(LARGE, 0, 90000)).status, WIRE_OK);
	assert_int_equal(lease_one(w, extent(LARGE, 0, 90000)).status, WIRE_BUSY);
	assert_int_equal(w->connection.n_staged, 1);
	assert_int_equal(atomic_load(&w->agent.counters.unstaged), 1);
}

static void test_lease_that_can_never_be_is_left_to_others(void **state)
{
	struct world *w = *state;

	open_and_greet(w, &leasing);
	w->connection.staging.max_bytes = LARGE_BYTES;
	assert_int_equal(lease_one(w, extent(LARGE, 0, 0)).status, WIRE_NOT_SERVED);
	assert_int_equal(w->connection.n_staged, 0);
	assert_int_equal(lease_one(w, extent(LARGE, 0, 90000)).status, WIRE_OK);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, make, drop)
#define GUARDED_TEST(name) cmocka_unit_test_setup_teardown(name, make_guarded, drop)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_hello_is_answered_with_limits_and_credits),
		TEST(test_first_message_must_be_a_hello),
		TEST(test_second_hello_is_malformed),
		TEST(test_other_version_is_refused_with_a_reason),
		TEST(test_hello_of_another_version_need_not_be_understood),
		TEST(test_client_over_the_limit_is_told_so),
		TEST(test_small_needle_comes_whole_with_its_checksum),
		TEST(test_large_needle_comes_from_the_file_with_its_checksum),
		TEST(test_range_comes_with_a_checksum_of_its_own),
		TEST(test_empty_needle_is_no_error),
		TEST(test_compressed_needle_is_marked),
		TEST(test_long_fields_behind_the_data_are_read_too),
		TEST(test_what_is_not_there_is_said_for_each_extent),
		TEST(test_extents_are_answered_in_order_in_one_message),
		TEST(test_without_memory_small_answers_come_from_the_file),
		TEST(test_overwritten_record_is_an_error_and_not_its_bytes),
		TEST(test_record_that_was_overwritten_between_two_parts_is_an_error),
		TEST(test_later_parts_are_described_as_the_first),
		TEST(test_needle_expires_between_two_parts),
		TEST(test_spoiled_needle_is_not_served_whole_or_in_part),
		TEST(test_large_part_of_a_spoiled_needle_is_not_served),
		TEST(test_large_part_of_a_spoiled_needle_is_not_leased),
		TEST(test_needle_that_was_put_right_is_served_again),
		TEST(test_needle_is_compared_with_its_checksum_only_once),
		TEST(test_parts_that_wait_for_the_same_check_are_all_answered),
		TEST(test_check_ends_when_its_client_is_gone),
		TEST(test_more_reads_than_credits_end_the_connection),
		TEST(test_answers_give_credits_back),
		TEST(test_ping_is_answered_and_a_second_waits_for_it),
		TEST(test_agents_messages_from_a_client_are_malformed),
		TEST(test_undecodable_read_is_malformed),
		TEST(test_shutdown_finishes_answers_before_the_goodbye),
		TEST(test_clients_goodbye_ends_the_connection),
		TEST(test_idle_connection_is_ended),
		TEST(test_connection_that_waits_for_an_answer_is_not_idle),
		TEST(test_connection_without_hello_is_ended),
		TEST(test_lost_connection_gives_everything_back),
		GUARDED_TEST(test_extent_needs_its_own_token),
		GUARDED_TEST(test_token_of_the_hello_is_good_for_all_extents),
		GUARDED_TEST(test_wrong_token_in_the_hello_is_denied),
		TEST(test_small_answers_are_inside_the_message),
		TEST(test_large_answer_is_leased_until_it_is_complete),
		TEST(test_whole_needle_is_leased_without_what_is_around_it),
		TEST(test_lease_ends_by_itself),
		TEST(test_lease_without_memory_is_refused_for_now),
		TEST(test_lease_that_can_never_be_is_left_to_others),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
