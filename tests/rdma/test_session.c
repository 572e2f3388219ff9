/* One connection to an agent: what is believed of its answers, and what becomes of the others' reads
 * when one goes wrong. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <arpa/inet.h>
#include <errno.h>
#include <pthread.h>
#include <string.h>

#include "rdma/session.h"
#include "tests/support/scripted_agent.h"

#define BUDGET_MS 10000
#define SHORT_MS 300
#define LATE_MS 3000 /* of a busy machine */
#define STALL_MS 1000
#define ANSWER_MS 2000
#define NEEDLE_BYTES (300 * KIB)
#define MEMORY_BYTES (NEEDLE_BYTES + 64)
#define CANARY 0x5a
#define THREADS 8
#define READS_EACH 200

static const struct fid needle = { .volume_id = 3, .key = 0x16, .cookie = 0x37037d6a };

struct world {
	struct scripted_agent *agent;
	struct client_session *session;
	struct wire_hello_reply reply;
	uint8_t *memory;
};

static const struct agent_script good = { .credits = 16, .needle_bytes = NEEDLE_BYTES };

static int make(void **state)
{
	struct world *w = calloc(1, sizeof(*w));

	assert_non_null(w);
	w->memory = malloc(MEMORY_BYTES);
	assert_non_null(w->memory);
	memset(w->memory, CANARY, MEMORY_BYTES);
	*state = w;
	return 0;
}

static int drop(void **state)
{
	struct world *w = *state;

	client_session_close(w->session, WIRE_SHUTDOWN);
	scripted_agent_stop(w->agent);
	free(w->memory);
	free(w);
	return 0;
}

static int try_open(struct world *w, const struct agent_script *script, int64_t ms)
{
	struct client_session_config cfg = { .transport = &client_tcp,
					     .stall_ms = STALL_MS,
					     .answer_ms = ANSWER_MS };
	struct sockaddr_in *addr = (struct sockaddr_in *)&cfg.address.sockaddr;

	w->agent = scripted_agent_start(script, 0);
	addr->sin_family = AF_INET;
	addr->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	addr->sin_port = htons(scripted_agent_port(w->agent));
	cfg.address.len = sizeof(*addr);
	return client_session_open(&cfg, deadline_in_ms(ms), &w->session, &w->reply);
}

static void open_session(struct world *w, const struct agent_script *script)
{
	assert_int_equal(try_open(w, script, BUDGET_MS), 0);
}

static void open_faulty(struct world *w, enum agent_fault fault)
{
	struct agent_script script = good;

	script.fault = fault;
	open_session(w, &script);
}

static void assert_bytes(const struct fid *fid, uint64_t offset, const uint8_t *p, size_t n)
{
	uint8_t *expected = malloc(n);

	assert_non_null(expected);
	scripted_agent_bytes(fid, offset, expected, n);
	assert_memory_equal(p, expected, n);
	free(expected);
}

/* Reads a range of `needle` into w->memory; nothing behind it may change. */
static int read_within(struct world *w, uint64_t offset, size_t len, int64_t ms,
		       struct client_extent *ret)
{
	struct read_buf buf = { .ptr = w->memory, .len = len };
	struct client_extent e = { .fid = needle, .offset = offset, .bufs = &buf, .n_bufs = 1 };
	int err = client_session_read(w->session, &e, 1, deadline_in_ms(ms));

	for (size_t i = len; i < MEMORY_BYTES; i++)
		assert_int_equal(w->memory[i], CANARY);
	if (ret)
		*ret = e;
	return err;
}

static int read_range(struct world *w, uint64_t offset, size_t len)
{
	return read_within(w, offset, len, BUDGET_MS, NULL);
}

struct seen {
	int begins, begin_result, push_result;
	bool gzip;
	int64_t stored_len;
	size_t len;
	uint8_t *bytes;
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
	assert_true(s->len + n <= NEEDLE_BYTES);
	memcpy(s->bytes + s->len, p, n);
	s->len += n;
	return s->push_result;
}

static int read_whole(struct world *w, struct seen *seen, struct client_extent *ret)
{
	const struct needle_sink sink = { .begin = seen_begin, .push = seen_push, .arg = seen };
	struct client_extent e = { .fid = needle, .sink = &sink };

	seen->bytes = w->memory;
	int err = client_session_read(w->session, &e, 1, deadline_in_ms(BUDGET_MS));
	if (ret)
		*ret = e;
	return err;
}

/* --- good answers --- */

static void reads_ranges(void **state)
{
	static const size_t lengths[] = { 1, 4096, 65536, 65537, 200 * KIB };
	struct world *w = *state;
	struct client_extent e;

	open_session(w, &good);
	for (size_t i = 0; i < ARRAY_LEN(lengths); i++) {
		memset(w->memory, CANARY, MEMORY_BYTES);
		assert_int_equal(read_within(w, 1000 + i, lengths[i], BUDGET_MS, &e), 0);
		assert_int_equal(e.err, 0);
		assert_int_equal(e.got, lengths[i]);
		assert_int_equal(e.needle_bytes, NEEDLE_BYTES);
		assert_bytes(&needle, 1000 + i, w->memory, lengths[i]);
	}
}

static void scatters_a_range_over_buffers(void **state)
{
	static const size_t lengths[] = { 10, 70000, 1, 5000 };
	struct world *w = *state;
	struct read_buf bufs[ARRAY_LEN(lengths)];
	size_t at = 0;

	open_session(w, &good);
	for (size_t i = 0; i < ARRAY_LEN(lengths); i++) {
		bufs[i] = (struct read_buf){ .ptr = w->memory + at, .len = lengths[i] };
		at += lengths[i];
	}
	struct client_extent e = { .fid = needle, .offset = 5, .bufs = bufs, .n_bufs = 4 };
	assert_int_equal(client_session_read(w->session, &e, 1, deadline_in_ms(BUDGET_MS)), 0);
	assert_int_equal(e.got, at);
	assert_bytes(&needle, 5, w->memory, at);
	assert_int_equal(w->memory[at], CANARY);
}

static void reads_several_extents_at_once(void **state)
{
	struct world *w = *state;
	struct client_extent e[WIRE_EXTENTS_MAX];
	struct read_buf bufs[WIRE_EXTENTS_MAX];

	open_session(w, &good);
	for (size_t i = 0; i < WIRE_EXTENTS_MAX; i++) {
		bufs[i] = (struct read_buf){ .ptr = w->memory + i * 5000, .len = 5000 };
		e[i] = (struct client_extent){
			.fid = needle, .offset = i * 7, .bufs = &bufs[i], .n_bufs = 1
		};
		e[i].fid.key += i;
	}
	assert_int_equal(
		client_session_read(w->session, e, WIRE_EXTENTS_MAX, deadline_in_ms(BUDGET_MS)), 0);
	for (size_t i = 0; i < WIRE_EXTENTS_MAX; i++) {
		assert_int_equal(e[i].err, 0);
		assert_bytes(&e[i].fid, i * 7, bufs[i].ptr, 5000);
	}
	assert_int_equal(scripted_agent_reads(w->agent), 1);
}

/* No data is sent for the missing one. */
static void assert_only_missing(struct world *w, size_t missing)
{
	struct client_extent e[3];
	struct read_buf bufs[3];

	memset(w->memory, CANARY, MEMORY_BYTES);
	for (size_t i = 0; i < 3; i++) {
		bufs[i] = (struct read_buf){ .ptr = w->memory + i * 100, .len = 100 };
		e[i] = (struct client_extent){
			.fid = needle, .offset = i, .bufs = &bufs[i], .n_bufs = 1
		};
	}
	assert_int_equal(client_session_read(w->session, e, 3, deadline_in_ms(BUDGET_MS)), 0);
	for (size_t i = 0; i < 3; i++) {
		assert_int_equal(e[i].err, i == missing ? -ENOENT : 0);
		assert_int_equal(e[i].got, i == missing ? 0 : 100);
		if (i == missing)
			assert_int_equal(bufs[i].ptr[0], CANARY);
		else
			assert_bytes(&needle, i, bufs[i].ptr, 100);
	}
}

static void a_missing_extent_does_not_touch_the_others(void **state)
{
	struct world *w = *state;

	open_faulty(w, AGENT_NOT_FOUND); /* the first */
	assert_only_missing(w, 0);
	scripted_agent_set_fault(w->agent, AGENT_SECOND_NOT_FOUND);
	assert_only_missing(w, 1);
}

static void reads_a_whole_needle_of_unknown_length(void **state)
{
	struct world *w = *state;
	struct seen seen = { 0 };
	struct client_extent e;

	open_session(w, &good);
	assert_int_equal(read_whole(w, &seen, &e), 0);
	assert_int_equal(e.err, 0);
	assert_int_equal(seen.stored_len, NEEDLE_BYTES);
	assert_false(seen.gzip);
	assert_int_equal(seen.len, NEEDLE_BYTES);
	assert_bytes(&needle, 0, w->memory, NEEDLE_BYTES);
}

static void says_that_a_needle_is_compressed(void **state)
{
	struct world *w = *state;
	struct agent_script script = good;
	struct seen seen = { 0 };

	script.gzip = true;
	open_session(w, &script);
	assert_int_equal(read_whole(w, &seen, NULL), 0);
	assert_true(seen.gzip);
}

static void an_empty_needle_begins_and_ends(void **state)
{
	struct world *w = *state;
	struct agent_script script = good;
	struct seen seen = { 0 };
	struct client_extent e;

	script.needle_bytes = 0;
	open_session(w, &script);
	assert_int_equal(read_whole(w, &seen, &e), 0);
	assert_int_equal(e.err, 0);
	assert_int_equal(seen.begins, 1);
	assert_int_equal(seen.len, 0);
}

static void a_sink_that_gives_up_does_not_disturb_the_next_read(void **state)
{
	struct world *w = *state;
	struct seen refuses = { .begin_result = -ENOSPC };
	struct client_extent e;

	open_session(w, &good);
	assert_int_equal(read_whole(w, &refuses, &e), 0);
	assert_int_equal(e.err, -ENOSPC);
	assert_int_equal(refuses.len, 0);
	assert_int_equal(read_range(w, 7, 4096), 0);
	assert_bytes(&needle, 7, w->memory, 4096);
}

static void statuses_of_an_extent_keep_the_connection(void **state)
{
	struct world *w = *state;
	struct client_extent e;

	open_faulty(w, AGENT_NOT_FOUND);
	assert_int_equal(read_within(w, 0, 4096, BUDGET_MS, &e), 0);
	assert_int_equal(e.err, -ENOENT);
	assert_false(e.begun);
	scripted_agent_set_fault(w->agent, AGENT_BUSY);
	assert_int_equal(read_within(w, 0, 4096, BUDGET_MS, &e), 0);
	assert_int_equal(e.err, -EBUSY);
	scripted_agent_set_fault(w->agent, AGENT_GOOD);
	assert_int_equal(read_within(w, NEEDLE_BYTES - 1, 2, BUDGET_MS, &e), 0);
	assert_int_equal(e.err, -ENODATA);
	assert_int_equal(read_range(w, 3, 4096), 0);
	assert_bytes(&needle, 3, w->memory, 4096);
	assert_int_equal(scripted_agent_connections(w->agent), 1);
}

/* --- checksums --- */

static void a_flipped_bit_of_a_whole_needle_is_noticed(void **state)
{
	struct world *w = *state;
	struct seen seen = { 0 };
	struct client_extent e;

	open_faulty(w, AGENT_FLIPS_A_BIT);
	assert_int_equal(read_whole(w, &seen, &e), 0);
	assert_int_equal(e.err, -EBADMSG);
}

static void a_flipped_bit_of_a_range_with_a_checksum_is_noticed(void **state)
{
	struct world *w = *state;
	struct agent_script script = good;
	struct client_extent e;

	script.crc = true;
	open_session(w, &script);
	assert_int_equal(read_within(w, 1, 280000, BUDGET_MS, &e), 0);
	assert_int_equal(e.err, 0);
	scripted_agent_set_fault(w->agent, AGENT_FLIPS_A_BIT);
	assert_int_equal(read_within(w, 1, 280000, BUDGET_MS, &e), 0);
	assert_int_equal(e.err, -EBADMSG);
	assert_int_equal(e.got, 0);
}

/* --- lies and faults --- */

/* The read fails so, and the session with it. */
static void assert_cut(struct world *w, enum agent_fault fault, int expected)
{
	int64_t limit_ms = expected == -ETIMEDOUT ? SHORT_MS : BUDGET_MS;
	struct client_extent e;

	open_faulty(w, fault);
	int64_t start = now_ms();
	assert_int_equal(read_within(w, 0, 4096, limit_ms, &e), expected);
	assert_int_equal(e.err, expected);
	assert_in_range(now_ms() - start, 0, SHORT_MS + LATE_MS);
	assert_int_equal(client_session_error(w->session), expected);
	assert_int_equal(read_within(w, 0, 4096, SHORT_MS, &e), -ECONNRESET);
}

#define CUTS(name, fault, expected)                                                                \
	static void name(void **state)                                                             \
	{                                                                                          \
		assert_cut(*state, (fault), (expected));                                           \
	}
CUTS(cuts_off_who_answers_another_request, AGENT_WRONG_XID, -EPROTO)
CUTS(cuts_off_who_sends_more_results, AGENT_MORE_RESULTS, -EPROTO)
CUTS(cuts_off_who_sends_more_bytes, AGENT_LONGER, -EPROTO)
CUTS(cuts_off_who_sends_fewer_bytes, AGENT_SHORTER, -EPROTO)
CUTS(cuts_off_who_lies_about_the_needle, AGENT_NEEDLE_TOO_SHORT, -EPROTO)
CUTS(cuts_off_who_invents_a_status, AGENT_BAD_STATUS, -EPROTO)
CUTS(cuts_off_who_calls_us_malformed, AGENT_SAYS_MALFORMED, -EPROTO)
CUTS(cuts_off_who_leases_over_a_stream, AGENT_LEASES, -EPROTO)
CUTS(cuts_off_who_sends_noise, AGENT_NOISE, -EPROTO)
CUTS(cuts_off_who_sends_too_long_a_message, AGENT_HUGE_MESSAGE, -EPROTO)
CUTS(cuts_off_who_sends_a_clients_message, AGENT_READS_TO_US, -EPROTO)
CUTS(cuts_off_who_does_not_answer, AGENT_STALLS, -ETIMEDOUT)
CUTS(cuts_off_who_only_pings, AGENT_PINGS_ALWAYS, -ETIMEDOUT)
CUTS(notices_an_end_instead_of_an_answer, AGENT_CLOSES, -ECONNRESET)
CUTS(notices_a_goodbye, AGENT_GOODBYE, -ECONNRESET)

static void a_second_answer_cuts_the_connection(void **state)
{
	struct world *w = *state;

	open_faulty(w, AGENT_ANSWERS_TWICE);
	assert_int_equal(read_range(w, 0, 4096), 0);
	assert_bytes(&needle, 0, w->memory, 4096);
	assert_int_equal(read_range(w, 0, 4096), -EPROTO);
}

static void keeps_what_came_before_the_end(void **state)
{
	struct world *w = *state;
	struct client_extent e;

	open_faulty(w, AGENT_BREAKS_OFF);
	assert_int_equal(read_within(w, 9, 100000, BUDGET_MS, &e), -ECONNRESET);
	assert_int_equal(e.got, 50000);
	assert_bytes(&needle, 9, w->memory, e.got);
}

static void data_that_stops_ends_the_read_before_its_deadline(void **state)
{
	struct world *w = *state;
	struct client_extent e;
	int64_t start = now_ms();

	open_faulty(w, AGENT_STALLS_IN_DATA);
	assert_int_equal(read_within(w, 0, 100000, BUDGET_MS, &e), -ETIMEDOUT);
	assert_in_range(now_ms() - start, STALL_MS, BUDGET_MS / 2);
	assert_int_equal(e.got, 50000);
}

static void an_agent_that_says_nothing_ends_the_read_before_its_deadline(void **state)
{
	struct world *w = *state;
	int64_t start = now_ms();

	open_faulty(w, AGENT_STALLS);
	assert_int_equal(read_range(w, 0, 100), -ETIMEDOUT);
	assert_in_range(now_ms() - start, ANSWER_MS, BUDGET_MS / 2);
}

static void answers_pings_while_it_waits(void **state)
{
	struct world *w = *state;

	open_faulty(w, AGENT_PINGS_FIRST);
	assert_int_equal(read_range(w, 0, 4096), 0);
	assert_bytes(&needle, 0, w->memory, 4096);
	assert_int_equal(scripted_agent_pongs(w->agent), 1);
}

static void pings(void **state)
{
	struct world *w = *state;

	open_session(w, &good);
	assert_int_equal(client_session_ping(w->session, deadline_in_ms(BUDGET_MS)), 0);
	assert_int_equal(read_range(w, 0, 4096), 0);
}

static void refuses_what_cannot_be_asked_for(void **state)
{
	struct world *w = *state;
	struct client_extent many[WIRE_EXTENTS_MAX + 1] = { 0 };

	open_session(w, &good);
	assert_int_equal(read_range(w, 0, 0), -EINVAL);
	assert_int_equal(read_range(w, INT64_MAX, 10), -EINVAL);
	assert_int_equal(client_session_read(w->session, many, 0, deadline_in_ms(BUDGET_MS)),
			 -EINVAL);
	assert_int_equal(client_session_read(w->session, many, WIRE_EXTENTS_MAX + 1,
					     deadline_in_ms(BUDGET_MS)),
			 -EINVAL);
	assert_int_equal(read_range(w, 0, 10), 0);
}

/* --- hello --- */

static void assert_no_session(struct world *w, enum agent_fault fault, uint8_t status, int expected)
{
	struct agent_script script = good;
	int64_t start = now_ms();

	script.fault = fault;
	script.hello_status = status;
	int64_t limit_ms = expected == -ETIMEDOUT ? SHORT_MS : BUDGET_MS;
	assert_int_equal(try_open(w, &script, limit_ms), expected);
	assert_in_range(now_ms() - start, 0, SHORT_MS + LATE_MS);
	scripted_agent_stop(w->agent);
	w->agent = NULL;
}

static void an_agent_may_refuse_with_a_reason(void **state)
{
	struct world *w = *state;

	assert_no_session(w, AGENT_HELLO_REFUSED, WIRE_DENIED, -EACCES);
	assert_int_equal(w->reply.status, WIRE_DENIED);
	assert_string_equal(w->reply.text, "so it is written");
	assert_no_session(w, AGENT_HELLO_REFUSED, WIRE_EXHAUSTED, -EUSERS);
	assert_no_session(w, AGENT_HELLO_REFUSED, WIRE_VERSION_REFUSED, -EOPNOTSUPP);
	assert_no_session(w, AGENT_HELLO_GOODBYE, WIRE_EXHAUSTED, -EUSERS);
	assert_int_equal(w->reply.status, WIRE_EXHAUSTED);
	assert_string_equal(w->reply.text, "so it is written");
}

static void an_agent_must_say_hello_properly(void **state)
{
	struct world *w = *state;

	assert_no_session(w, AGENT_HELLO_STALLS, 0, -ETIMEDOUT);
	assert_no_session(w, AGENT_HELLO_NOISE, 0, -EPROTO);
	assert_no_session(w, AGENT_HELLO_CLOSES, 0, -ECONNRESET);
	assert_no_session(w, AGENT_HELLO_OTHER_VERSION, 0, -EPROTO);
	assert_no_session(w, AGENT_HELLO_GOODBYE, WIRE_OK, -ECONNRESET);
}

/* --- several at once --- */

struct reader {
	struct world *w;
	pthread_t thread;
	uint64_t key;
	unsigned reads;
	int64_t ms;
	int err; /* of the last */
};

static void *read_many(void *arg)
{
	struct reader *r = arg;
	struct fid fid = { .volume_id = 3, .key = r->key, .cookie = 1 };
	uint8_t *memory = malloc(20000);
	uint8_t *expected = malloc(20000);
	unsigned seed = (unsigned)r->key;

	for (unsigned i = 0; i < r->reads && !r->err; i++) {
		uint64_t offset = (uint64_t)rand_r(&seed) % 100000;
		size_t len = 1 + (size_t)rand_r(&seed) % 20000;
		struct read_buf buf = { .ptr = memory, .len = len };
		struct client_extent e = {
			.fid = fid, .offset = offset, .bufs = &buf, .n_bufs = 1
		};

		r->err = client_session_read(r->w->session, &e, 1, deadline_in_ms(r->ms));
		scripted_agent_bytes(&fid, offset, expected, len);
		if (!r->err && (e.err || memcmp(expected, memory, len) != 0))
			r->err = -EBADMSG;
	}
	free(memory);
	free(expected);
	return NULL;
}

static void run_readers(struct world *w, struct reader *readers, size_t n, unsigned reads,
			int64_t ms)
{
	for (size_t i = 0; i < n; i++) {
		readers[i] = (struct reader){ .w = w, .key = i + 1, .reads = reads, .ms = ms };
		assert_int_equal(pthread_create(&readers[i].thread, NULL, read_many, &readers[i]),
				 0);
	}
	for (size_t i = 0; i < n; i++)
		pthread_join(readers[i].thread, NULL);
}

static void assert_all_read(struct world *w, unsigned reads)
{
	struct reader readers[THREADS];

	run_readers(w, readers, THREADS, reads, BUDGET_MS);
	for (size_t i = 0; i < THREADS; i++)
		assert_int_equal(readers[i].err, 0);
	assert_int_equal(scripted_agent_reads(w->agent), THREADS * reads);
	assert_int_equal(scripted_agent_connections(w->agent), 1);
}

static void many_threads_share_one_connection(void **state)
{
	struct world *w = *state;

	open_session(w, &good);
	assert_all_read(w, READS_EACH);
}

static void answers_may_come_in_any_order(void **state)
{
	struct world *w = *state;
	struct agent_script script = good;

	script.hold = THREADS;
	open_session(w, &script);
	assert_all_read(w, READS_EACH);
}

static void credits_bound_what_is_under_way(void **state)
{
	struct world *w = *state;
	struct agent_script script = good;

	script.credits = 1;
	open_session(w, &script);
	assert_all_read(w, READS_EACH / 4);
}

static void waits_for_credits_that_come_late(void **state)
{
	struct world *w = *state;
	struct agent_script script = good;

	script.credits = 0;
	script.late_credits_ms = 50;
	open_session(w, &script);
	assert_all_read(w, 2);
}

static void a_credit_that_comes_while_another_waits_lets_the_next_go(void **state)
{
	struct world *w = *state;
	struct agent_script script = good;
	struct reader readers[2];

	script.credits = 1;
	script.late_credits_ms = 100;
	script.hold = 2;
	open_session(w, &script);
	run_readers(w, readers, 2, 1, ANSWER_MS);
	assert_int_equal(readers[0].err, 0);
	assert_int_equal(readers[1].err, 0);
}

static void a_message_that_is_too_long_costs_no_credit(void **state)
{
	static const char token[WIRE_TOKEN_BYTES_MAX];
	struct world *w = *state;
	struct agent_script script = good;
	struct client_extent e[WIRE_EXTENTS_MAX];
	struct read_buf buf = { .ptr = w->memory, .len = 1 };

	script.credits = 1;
	open_session(w, &script);
	for (size_t i = 0; i < WIRE_EXTENTS_MAX; i++)
		e[i] = (struct client_extent){ .fid = needle,
					       .bufs = &buf,
					       .n_bufs = 1,
					       .token = token,
					       .token_len = sizeof(token) };
	assert_int_equal(
		client_session_read(w->session, e, WIRE_EXTENTS_MAX, deadline_in_ms(BUDGET_MS)),
		-EMSGSIZE);
	assert_int_equal(e[0].err, -EMSGSIZE);
	assert_int_equal(read_range(w, 0, 100), 0);
}

static void gives_up_waiting_for_credits_and_stays_well(void **state)
{
	struct world *w = *state;
	struct agent_script script = good;
	struct reader readers[THREADS];

	script.credits = 0;
	open_session(w, &script);
	run_readers(w, readers, THREADS, 1, SHORT_MS);
	for (size_t i = 0; i < THREADS; i++)
		assert_int_equal(readers[i].err, -ETIMEDOUT);
	assert_int_equal(client_session_error(w->session), 0);
	assert_int_equal(client_session_ping(w->session, deadline_in_ms(BUDGET_MS)), 0);
}

static void a_dying_agent_fails_all_reads_at_once(void **state)
{
	struct world *w = *state;
	struct agent_script script = good;
	struct reader readers[THREADS];

	script.hold = 64; /* never reached: all wait */
	open_session(w, &script);
	int64_t start = now_ms();
	run_readers(w, readers, THREADS, 1, SHORT_MS);
	assert_in_range(now_ms() - start, SHORT_MS, SHORT_MS + LATE_MS);
	for (size_t i = 0; i < THREADS; i++)
		assert_true(readers[i].err == -ETIMEDOUT || readers[i].err == -ECONNRESET);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define TEST(name) cmocka_unit_test_setup_teardown(name, make, drop)
		TEST(reads_ranges),
		TEST(scatters_a_range_over_buffers),
		TEST(reads_several_extents_at_once),
		TEST(a_missing_extent_does_not_touch_the_others),
		TEST(reads_a_whole_needle_of_unknown_length),
		TEST(says_that_a_needle_is_compressed),
		TEST(an_empty_needle_begins_and_ends),
		TEST(a_sink_that_gives_up_does_not_disturb_the_next_read),
		TEST(statuses_of_an_extent_keep_the_connection),
		TEST(a_flipped_bit_of_a_whole_needle_is_noticed),
		TEST(a_flipped_bit_of_a_range_with_a_checksum_is_noticed),
		TEST(cuts_off_who_answers_another_request),
		TEST(cuts_off_who_sends_more_results),
		TEST(cuts_off_who_sends_more_bytes),
		TEST(cuts_off_who_sends_fewer_bytes),
		TEST(cuts_off_who_lies_about_the_needle),
		TEST(cuts_off_who_invents_a_status),
		TEST(cuts_off_who_calls_us_malformed),
		TEST(cuts_off_who_leases_over_a_stream),
		TEST(cuts_off_who_sends_noise),
		TEST(cuts_off_who_sends_too_long_a_message),
		TEST(cuts_off_who_sends_a_clients_message),
		TEST(cuts_off_who_does_not_answer),
		TEST(cuts_off_who_only_pings),
		TEST(notices_an_end_instead_of_an_answer),
		TEST(notices_a_goodbye),
		TEST(a_second_answer_cuts_the_connection),
		TEST(keeps_what_came_before_the_end),
		TEST(data_that_stops_ends_the_read_before_its_deadline),
		TEST(an_agent_that_says_nothing_ends_the_read_before_its_deadline),
		TEST(answers_pings_while_it_waits),
		TEST(pings),
		TEST(refuses_what_cannot_be_asked_for),
		TEST(an_agent_may_refuse_with_a_reason),
		TEST(an_agent_must_say_hello_properly),
		TEST(many_threads_share_one_connection),
		TEST(answers_may_come_in_any_order),
		TEST(credits_bound_what_is_under_way),
		TEST(waits_for_credits_that_come_late),
		TEST(a_credit_that_comes_while_another_waits_lets_the_next_go),
		TEST(a_message_that_is_too_long_costs_no_credit),
		TEST(gives_up_waiting_for_credits_and_stays_well),
		TEST(a_dying_agent_fails_all_reads_at_once),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
