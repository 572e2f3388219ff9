/* Agents and clients over RDMA that lie, made of the project's own queue pairs (rdma/verbs_link.h): the
 * other side believes nothing, waits for nothing without a limit, and goes on serving others. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "filer/base/base.h"
#include "filer/base/crc32c.h"
#include "rdma/verbs.h"
#include "rdma/verbs_link.h"
#include "tests/support/verbs_world.h"

#define LIAR_PORT 28600
#define ANSWER_MS 3000
#define BOUND_MS 10000
#define LENGTH 50000
#define OFFSET 1000
#define GUARD 4096
#define RAW_BYTES_MAX 8192

/* --- one end of a connection, without any manners --- */

struct peer {
	struct rdma_event_channel *channel;
	struct rdma_cm_id *id;
	struct ibv_pd *pd;
	struct link link;
	uint8_t *raw; /* RAW_BYTES_MAX to send from */
	struct ibv_mr *raw_mr;
};

static bool next_event(struct peer *p, enum rdma_cm_event_type wanted, struct rdma_cm_id **ret_id,
		       struct link_hello *hello)
{
	struct rdma_cm_event *e;

	if (rdma_get_cm_event(p->channel, &e))
		return false;
	bool right = e->event == wanted;
	if (right && hello)
		right = link_hello_decode(e->param.conn.private_data,
					  e->param.conn.private_data_len, hello) == 0;
	if (ret_id)
		*ret_id = e->id;
	rdma_ack_cm_event(e);
	return right;
}

static void peer_prepare(struct peer *p, struct rdma_cm_id *id)
{
	p->id = id;
	p->pd = ibv_alloc_pd(id->verbs);
	p->raw = calloc(1, RAW_BYTES_MAX);
	p->raw_mr = ibv_reg_mr(p->pd, p->raw, RAW_BYTES_MAX, IBV_ACCESS_LOCAL_WRITE);
	struct link_config cfg = { .id = id,
				   .pd = p->pd,
				   .receive_bytes_max = WIRE_MESSAGE_BYTES_MAX,
				   .send_bytes_max = WIRE_MESSAGE_BYTES_MAX };
	if (link_open(&p->link, &cfg))
		abort();
}

static struct rdma_conn_param connect_parameters(uint8_t data[LINK_HELLO_BYTES])
{
	const struct link_hello mine = { .window = LINK_RECEIVES,
					 .message_bytes = WIRE_MESSAGE_BYTES_MAX };

	link_hello_encode(&mine, data);
	return (struct rdma_conn_param){ .private_data = data,
					 .private_data_len = LINK_HELLO_BYTES,
					 .responder_resources = 16,
					 .initiator_depth = 16,
					 .retry_count = 3 };
}

static void peer_close(struct peer *p)
{
	rdma_disconnect(p->id);
	link_close(&p->link);
	ibv_dereg_mr(p->raw_mr);
	ibv_dealloc_pd(p->pd);
	rdma_destroy_id(p->id);
	rdma_destroy_event_channel(p->channel);
	free(p->raw);
}

/* Whatever the window and the prefix ought to be. */
/* From there in the memory to send from: the device reads it after this has returned. */
static void send_raw_at(struct peer *p, size_t at, const void *bytes, size_t len)
{
	assert_true(at + len <= RAW_BYTES_MAX);
	memcpy(p->raw + at, bytes, len);
	struct ibv_sge sge = { .addr = (uintptr_t)(p->raw + at),
			       .length = (uint32_t)len,
			       .lkey = p->raw_mr->lkey };
	struct ibv_send_wr wr = { .opcode = IBV_WR_SEND, .sg_list = &sge, .num_sge = 1 };
	struct ibv_send_wr *bad;

	ibv_post_send(p->id->qp, &wr, &bad);
}

static void send_raw(struct peer *p, const void *bytes, size_t len)
{
	send_raw_at(p, 0, bytes, len);
}

static void send_message(struct peer *p, const uint8_t *message, size_t len)
{
	const struct link_part part = { message, len };

	if (link_send(&p->link, &part, 1))
		abort();
}

/* The next message; false: the connection is over, or nothing came. */
static bool await_message(struct peer *p, struct link_event *ret, const atomic_bool *stop)
{
	struct deadline d = deadline_in_ms(BOUND_MS);

	while (!deadline_passed(d) && !atomic_load(stop)) {
		int err = link_poll(&p->link, ret);

		if (!err && ret->type == LINK_MESSAGE)
			return true;
		if (err)
			return false;
		sleep_ms(1, d);
	}
	return false;
}

/* --- an agent that lies --- */

struct lie {
	/* NULL in any of these: as it should be. */
	void (*hello)(struct wire_header *h, struct wire_hello_reply *m);
	/* May change all that the answer says, and what it leases. */
	void (*reply)(struct peer *p, struct wire_header *h, struct wire_result *r,
		      uint8_t *memory);
	/* May change the bytes of the answer, and how many of them there are. */
	void (*bytes)(uint8_t *message, size_t *len);
	/* Answers in the place of the above; false: ends the connection. */
	bool (*instead)(struct peer *p, struct wire_header *h);
};

struct liar {
	const struct lie *lie;
	struct rdma_cm_id *listening;
	struct peer peer;
	struct ibv_mr *mr; /* of what is leased */
	uint8_t *memory;
	pthread_t thread;
	atomic_bool stop;
};

static void say_hello(struct liar *l, uint64_t xid)
{
	struct wire_header h = { .version = WIRE_VERSION, .credits = 16, .xid = xid };
	struct wire_hello_reply m = { .version = WIRE_VERSION,
				      .capabilities = WIRE_CAP_INLINE | WIRE_CAP_LEASE,
				      .inline_bytes_max = WIRE_MESSAGE_BYTES_MAX,
				      .lease_ms = 5000,
				      .sessions_max = 10,
				      .sessions_active = 1,
				      .transfer_bytes_max = WIRE_EXTENT_BYTES_MAX,
				      .staging_bytes_max = LARGE_BYTES };
	uint8_t message[WIRE_MESSAGE_BYTES_MAX];
	size_t len;

	if (l->lie->hello)
		l->lie->hello(&h, &m);
	if (wire_encode_hello_reply(message, sizeof(message), h, &m, &len))
		abort();
	send_message(&l->peer, message, len);
}

static void answer(struct liar *l, struct wire_header *h, const struct wire_read *read)
{
	const struct wire_extent *e = &read->extents[0];
	struct wire_read_reply reply = { .n_results = 1 };
	struct wire_result *r = &reply.results[0];
	uint8_t message[WIRE_MESSAGE_BYTES_MAX];
	size_t len;

	*r = (struct wire_result){ .flags = WIRE_RESULT_CRC_RANGE | WIRE_RESULT_LEASE,
				   .length = e->length,
				   .needle_length = LARGE_BYTES,
				   .lease_id = 1,
				   .remote_addr = (uintptr_t)l->memory,
				   .rkey = l->mr->rkey,
				   .lease_ms = 5000 };
	r->crc32c = crc32c(0, l->memory, e->length);
	h->credits = 1;
	if (l->lie->reply)
		l->lie->reply(&l->peer, h, r, l->memory);
	h->length = 0;
	if (wire_encode_read_reply(message, sizeof(message), *h, &reply, &len))
		abort();
	if (l->lie->bytes)
		l->lie->bytes(message, &len);
	send_message(&l->peer, message, len);
}

static bool take_message(struct liar *l, const struct link_event *e)
{
	struct wire_header h = e->header;
	struct wire_read read;

	if (h.type == WIRE_HELLO) {
		say_hello(l, h.xid);
	} else if (h.type == WIRE_READ) {
		if (wire_decode_read(e->payload, h.length, &read))
			abort();
		if (l->lie->instead)
			return l->lie->instead(&l->peer, &h);
		answer(l, &h, &read);
	}
	return h.type != WIRE_GOODBYE;
}

static void *lie_in_thread(void *arg)
{
	struct liar *l = arg;
	struct rdma_cm_id *id;
	struct link_hello hello;
	struct link_event e;
	uint8_t data[LINK_HELLO_BYTES];

	if (!next_event(&l->peer, RDMA_CM_EVENT_CONNECT_REQUEST, &id, &hello))
		abort();
	peer_prepare(&l->peer, id);
	l->mr = ibv_reg_mr(l->peer.pd, l->memory, LARGE_BYTES, IBV_ACCESS_REMOTE_READ);
	link_set_peer(&l->peer.link, &hello);
	struct rdma_conn_param param = connect_parameters(data);
	if (rdma_accept(id, &param) || !next_event(&l->peer, RDMA_CM_EVENT_ESTABLISHED, NULL, NULL))
		abort();
	while (await_message(&l->peer, &e, &l->stop) && take_message(l, &e))
		link_release(&l->peer.link, e.receive);
	if (l->mr)
		ibv_dereg_mr(l->mr);
	return NULL;
}

static void liar_start(struct world *w, struct liar *l, const struct lie *lie)
{
	struct sockaddr_storage a = w->address.sockaddr;

	*l = (struct liar){ .lie = lie, .memory = malloc(LARGE_BYTES) };
	memcpy(l->memory, w->large + OFFSET, LARGE_BYTES - OFFSET);
	((struct sockaddr_in *)&a)->sin_port = htons(LIAR_PORT);
	l->peer.channel = rdma_create_event_channel();
	assert_int_equal(rdma_create_id(l->peer.channel, &l->listening, NULL, RDMA_PS_TCP), 0);
	assert_int_equal(rdma_bind_addr(l->listening, (struct sockaddr *)&a), 0);
	assert_int_equal(rdma_listen(l->listening, 1), 0);
	pthread_create(&l->thread, NULL, lie_in_thread, l);
}

static void liar_end(struct liar *l)
{
	atomic_store(&l->stop, true);
	pthread_join(l->thread, NULL);
	rdma_destroy_id(l->listening);
	peer_close(&l->peer);
	free(l->memory);
}

static int open_to_liar(struct world *w, struct client_session **ret,
			struct wire_hello_reply *hello)
{
	struct client_session_config cfg = { .transport = &client_verbs,
					     .address = w->address,
					     .answer_ms = ANSWER_MS };

	((struct sockaddr_in *)&cfg.address.sockaddr)->sin_port = htons(LIAR_PORT);
	return client_session_open(&cfg, budget(), ret, hello);
}

/* What becomes of a read, which in any case touches nothing but its destination and ends in time.
 * Returns the extent's error; *ret_session_error: what became of the connection. */
static int read_from_liar(struct world *w, const struct lie *lie, int *ret_session_error)
{
	struct read_buf b = { .ptr = w->region + GUARD, .len = LENGTH, .region = 1 };
	struct client_extent e = range_of(LARGE, OFFSET, &b, 1);
	struct wire_hello_reply hello;
	struct client_session *s;
	struct liar l;

	liar_start(w, &l, lie);
	assert_int_equal(open_to_liar(w, &s, &hello), 0);
	memset(w->region, 0xee, LENGTH + 2 * (size_t)GUARD);
	int64_t begun = now_ms();
	client_session_read(s, &e, 1, budget());
	assert_in_range(now_ms() - begun, 0, BOUND_MS);
	*ret_session_error = client_session_error(s);
	client_session_close(s, WIRE_SHUTDOWN);
	liar_end(&l);
	for (size_t i = 0; i < GUARD; i++) {
		assert_int_equal(w->region[i], 0xee);
		assert_int_equal(w->region[GUARD + LENGTH + i], 0xee);
	}
	assert_int_equal(e.got, e.err ? 0 : LENGTH);
	if (!e.err)
		assert_memory_equal(b.ptr, w->large + OFFSET, LENGTH);
	return e.err;
}

/* The agent broke the protocol, or its words were worth nothing: the connection is given up. */
static void assert_given_up(void **state, const struct lie *lie, int err)
{
	int session_error;

	assert_int_equal(read_from_liar(*state, lie, &session_error), err);
	assert_int_not_equal(session_error, 0);
}

static void the_liar_can_tell_the_truth(void **state)
{
	const struct lie none = { 0 };
	int session_error;

	assert_int_equal(read_from_liar(*state, &none, &session_error), 0);
	assert_int_equal(session_error, 0);
}

static void hello_of_another_version(struct wire_header *h, struct wire_hello_reply *m)
{
	h->version = WIRE_VERSION + 1;
	*m = (struct wire_hello_reply){ .status = WIRE_VERSION_REFUSED,
					.version = WIRE_VERSION + 1 };
	snprintf(m->text, sizeof(m->text), "version 2 only");
}

static void an_agent_of_another_version_is_told_apart(void **state)
{
	const struct lie lie = { .hello = hello_of_another_version };
	struct wire_hello_reply hello;
	struct client_session *s;
	struct liar l;

	liar_start(*state, &l, &lie);
	assert_int_equal(open_to_liar(*state, &s, &hello), -EOPNOTSUPP);
	assert_int_equal(hello.status, WIRE_VERSION_REFUSED);
	liar_end(&l);
}

static void spoil_memory(struct peer *p, struct wire_header *h, struct wire_result *r,
			 uint8_t *memory)
{
	(void)p;
	(void)h;
	memory[r->length / 2] ^= 1;
}

static void bytes_that_do_not_match_their_checksum_are_not_delivered(void **state)
{
	const struct lie lie = { .reply = spoil_memory };
	int session_error;

	assert_int_equal(read_from_liar(*state, &lie, &session_error), -EBADMSG);
	assert_int_equal(session_error, 0);
}

/* As a device does that says it has read, and has not: what was there before stays there. */
static void leave_old_bytes(struct peer *p, struct wire_header *h, struct wire_result *r,
			    uint8_t *memory)
{
	(void)p;
	(void)h;
	memset(memory, 0xee, r->length);
}

static void a_read_that_brings_no_data_is_not_taken_for_one_that_does(void **state)
{
	const struct lie lie = { .reply = leave_old_bytes };
	int session_error;

	assert_int_equal(read_from_liar(*state, &lie, &session_error), -EBADMSG);
}

static void claim_more(struct peer *p, struct wire_header *h, struct wire_result *r,
		       uint8_t *memory)
{
	(void)p;
	(void)h;
	r->length++;
	r->crc32c = crc32c(0, memory, r->length);
}

static void claim_less(struct peer *p, struct wire_header *h, struct wire_result *r,
		       uint8_t *memory)
{
	(void)p;
	(void)h;
	r->length--;
	r->crc32c = crc32c(0, memory, r->length);
}

static void an_answer_of_another_length_is_refused(void **state)
{
	const struct lie more = { .reply = claim_more }, less = { .reply = claim_less };

	assert_given_up(state, &more, -EPROTO);
	assert_given_up(state, &less, -EPROTO);
}

static void claim_short_needle(struct peer *p, struct wire_header *h, struct wire_result *r,
			       uint8_t *memory)
{
	(void)p;
	(void)h;
	(void)memory;
	r->needle_length = OFFSET + LENGTH - 1;
}

static void an_answer_from_behind_the_needles_end_is_refused(void **state)
{
	const struct lie lie = { .reply = claim_short_needle };

	assert_given_up(state, &lie, -EPROTO);
}

static void leave_out_checksum(struct peer *p, struct wire_header *h, struct wire_result *r,
			       uint8_t *memory)
{
	(void)p;
	(void)h;
	(void)memory;
	r->flags &= ~(uint32_t)WIRE_RESULT_CRC_RANGE;
	r->crc32c = 0;
}

static void an_answer_without_a_checksum_is_refused(void **state)
{
	const struct lie lie = { .reply = leave_out_checksum };

	assert_given_up(state, &lie, -EPROTO);
}

static void change_xid(struct peer *p, struct wire_header *h, struct wire_result *r,
		       uint8_t *memory)
{
	(void)p;
	(void)r;
	(void)memory;
	h->xid += UINT64_C(1) << 32;
}

static void an_answer_to_no_question_is_refused(void **state)
{
	const struct lie lie = { .reply = change_xid };

	assert_given_up(state, &lie, -EPROTO);
}

static void change_key(struct peer *p, struct wire_header *h, struct wire_result *r,
		       uint8_t *memory)
{
	(void)p;
	(void)h;
	(void)memory;
	r->rkey ^= 0x5a00;
}

static void a_key_of_nothing_ends_the_connection_and_not_more(void **state)
{
	const struct lie lie = { .reply = change_key };

	assert_given_up(state, &lie, -ECONNRESET);
}

static void change_address(struct peer *p, struct wire_header *h, struct wire_result *r,
			   uint8_t *memory)
{
	(void)p;
	(void)h;
	(void)memory;
	r->remote_addr += LARGE_BYTES - LENGTH + 1;
}

static void an_address_behind_the_leased_memory_is_refused_by_the_device(void **state)
{
	const struct lie lie = { .reply = change_address };

	assert_given_up(state, &lie, -ECONNRESET);
}

static struct ibv_mr *ended_early;

static void end_lease(struct peer *p, struct wire_header *h, struct wire_result *r, uint8_t *memory)
{
	(void)h;
	ended_early = ibv_reg_mr(p->pd, memory, LENGTH, IBV_ACCESS_REMOTE_READ);
	r->rkey = ended_early->rkey;
	ibv_dereg_mr(ended_early);
}

static void a_lease_that_has_ended_before_it_is_pulled_brings_nothing(void **state)
{
	const struct lie lie = { .reply = end_lease };

	assert_given_up(state, &lie, -ECONNRESET);
}

static void no_lease_id(uint8_t *message, size_t *len)
{
	(void)len;
	memset(message + WIRE_HEADER_BYTES + WIRE_REPLY_BYTES + 32, 0, 8);
}

static void a_lease_without_a_number_is_refused(void **state)
{
	const struct lie lie = { .bytes = no_lease_id };

	assert_given_up(state, &lie, -EPROTO);
}

static void cut_short(uint8_t *message, size_t *len)
{
	(void)message;
	*len -= 8;
}

static void a_message_that_is_cut_short_is_refused(void **state)
{
	const struct lie lie = { .bytes = cut_short };

	assert_given_up(state, &lie, -EPROTO);
}

static void add_bytes(uint8_t *message, size_t *len)
{
	struct wire_header h;

	if (wire_decode_header(message, *len, &h))
		abort();
	memset(message + *len, 0, 100);
	*len += 100;
	h.length += 100;
	wire_encode_header(message, &h);
}

static void inline_data_beside_a_lease_is_refused(void **state)
{
	const struct lie lie = { .bytes = add_bytes };

	assert_given_up(state, &lie, -EPROTO);
}

static bool send_noise(struct peer *p, struct wire_header *h)
{
	uint8_t noise[200];

	(void)h;
	memset(noise, 'x', sizeof(noise));
	send_raw(p, noise, sizeof(noise));
	return true;
}

static void noise_from_an_agent_ends_the_connection(void **state)
{
	const struct lie lie = { .instead = send_noise };

	assert_given_up(state, &lie, -EPROTO);
}

static bool send_hello_again(struct peer *p, struct wire_header *h)
{
	struct wire_hello_reply m = { .version = WIRE_VERSION };
	uint8_t message[WIRE_MESSAGE_BYTES_MAX];
	size_t len;

	if (wire_encode_hello_reply(message, sizeof(message), *h, &m, &len))
		abort();
	send_message(p, message, len);
	return true;
}

static void a_message_out_of_order_ends_the_connection(void **state)
{
	const struct lie lie = { .instead = send_hello_again };

	assert_given_up(state, &lie, -EPROTO);
}

static bool flood(struct peer *p, struct wire_header *h)
{
	const uint8_t nothing[LINK_PREFIX_BYTES] = { 0 };

	(void)h;
	for (int i = 0; i < LINK_SENDS; i++)
		send_raw(p, nothing, sizeof(nothing));
	return true;
}

static void messages_that_say_nothing_are_not_waited_on_for_ever(void **state)
{
	const struct lie lie = { .instead = flood };

	assert_given_up(state, &lie, -ETIMEDOUT);
}

static bool stay_silent(struct peer *p, struct wire_header *h)
{
	(void)p;
	(void)h;
	return true;
}

static void an_agent_that_falls_silent_is_given_up(void **state)
{
	const struct lie lie = { .instead = stay_silent };

	assert_given_up(state, &lie, -ETIMEDOUT);
}

static bool hang_up(struct peer *p, struct wire_header *h)
{
	(void)h;
	rdma_disconnect(p->id);
	return false;
}

static void an_agent_that_hangs_up_is_noticed_at_once(void **state)
{
	const struct lie lie = { .instead = hang_up };

	assert_given_up(state, &lie, -ECONNRESET);
}

/* --- clients that lie --- */

static void client_open(struct world *w, struct peer *p)
{
	struct sockaddr_storage a = w->address.sockaddr;
	struct link_hello hello;
	uint8_t data[LINK_HELLO_BYTES];
	struct rdma_cm_id *id;

	*p = (struct peer){ .channel = rdma_create_event_channel() };
	assert_int_equal(rdma_create_id(p->channel, &id, NULL, RDMA_PS_TCP), 0);
	assert_int_equal(rdma_resolve_addr(id, NULL, (struct sockaddr *)&a, 2000), 0);
	assert_true(next_event(p, RDMA_CM_EVENT_ADDR_RESOLVED, NULL, NULL));
	assert_int_equal(rdma_resolve_route(id, 2000), 0);
	assert_true(next_event(p, RDMA_CM_EVENT_ROUTE_RESOLVED, NULL, NULL));
	peer_prepare(p, id);
	struct rdma_conn_param param = connect_parameters(data);
	assert_int_equal(rdma_connect(id, &param), 0);
	assert_true(next_event(p, RDMA_CM_EVENT_ESTABLISHED, NULL, &hello));
	link_set_peer(&p->link, &hello);
}

static void client_hello(struct peer *p)
{
	const atomic_bool never = false;
	const struct wire_header h = { .version = WIRE_VERSION };
	const struct wire_hello hello = { .version_min = WIRE_VERSION,
					  .version_max = WIRE_VERSION };
	uint8_t message[WIRE_MESSAGE_BYTES_MAX];
	struct link_event e;
	size_t len;

	assert_int_equal(wire_encode_hello(message, sizeof(message), h, &hello, &len), 0);
	send_message(p, message, len);
	assert_true(await_message(p, &e, &never));
	assert_int_equal(e.header.type, WIRE_HELLO_REPLY);
	link_release(&p->link, e.receive);
}

static bool is_cut_off(struct peer *p)
{
	struct pollfd fd = { .fd = p->channel->fd, .events = POLLIN };

	return p->link.failed ||
	       (poll(&fd, 1, 0) == 1 && next_event(p, RDMA_CM_EVENT_DISCONNECTED, NULL, NULL));
}

static void assert_cut_off(struct peer *p)
{
	struct deadline d = deadline_in_ms(BOUND_MS);
	struct link_event e;

	while (!is_cut_off(p)) {
		assert_false(deadline_passed(d));
		if (link_poll(&p->link, &e) == 0 && e.type == LINK_MESSAGE)
			link_release(&p->link, e.receive);
		else
			sleep_ms(1, d);
	}
}

/* Others are served, and nothing of the liar is left. */
static void assert_serves_others(struct world *w)
{
	struct read_buf b = { .ptr = w->region, .len = MIB, .region = 1 };
	struct client_session *s = open_session(w);

	assert_reads(w, s, LARGE, 5, b);
	client_session_close(s, WIRE_SHUTDOWN);
}

static void assert_survives(void **state, const void *bytes, size_t len)
{
	struct world *w = *state;
	struct peer p;

	client_open(w, &p);
	client_hello(&p);
	send_raw(&p, bytes, len);
	assert_cut_off(&p);
	assert_serves_others(w);
	peer_close(&p);
}

static void a_message_shorter_than_its_prefix_is_cut_off(void **state)
{
	assert_survives(state, "1234", 4);
}

static void a_prefix_that_lies_about_the_length_is_cut_off(void **state)
{
	const uint8_t more[LINK_PREFIX_BYTES + 8] = { 0, 0, 0, 0, 9 };
	const uint8_t less[LINK_PREFIX_BYTES + 8] = { 0, 0, 0, 0, 1 };

	assert_survives(state, more, sizeof(more));
	assert_survives(state, less, sizeof(less));
}

static void a_prefix_with_an_absurd_number_of_places_is_cut_off(void **state)
{
	const uint8_t bytes[LINK_PREFIX_BYTES] = { 0xff, 0xff, 0xff, 0xff };

	assert_survives(state, bytes, sizeof(bytes));
}

static void a_message_longer_than_the_agent_takes_is_refused_by_the_device(void **state)
{
	static const uint8_t bytes[RAW_BYTES_MAX];

	assert_survives(state, bytes, sizeof(bytes));
}

static void random_messages_do_no_harm(void **state)
{
	enum { CONNECTIONS = 20, MESSAGES = 10 };
	struct world *w = *state;
	uint8_t bytes[300];
	uint64_t x = 88172645463325252;

	for (int c = 0; c < CONNECTIONS; c++) {
		struct peer p;

		client_open(w, &p);
		if (c % 2)
			client_hello(&p);
		for (int m = 0; m < MESSAGES; m++) {
			for (size_t i = 0; i < sizeof(bytes); i++) {
				x ^= x << 13;
				x ^= x >> 7;
				x ^= x << 17;
				bytes[i] = (uint8_t)x;
			}
			size_t len = LINK_PREFIX_BYTES + x % (sizeof(bytes) - LINK_PREFIX_BYTES);
			/* Most have a prefix that fits, and every other one a header that does. */
			const uint32_t prefix[2] = { 0, (uint32_t)(len - LINK_PREFIX_BYTES) };
			if (m % 4)
				memcpy(bytes, prefix, sizeof(prefix));
			if (m % 2 && len > LINK_PREFIX_BYTES + WIRE_HEADER_BYTES) {
				const struct wire_header h = {
					.version = WIRE_VERSION,
					.type = (uint8_t)(x % 10),
					.length = (uint32_t)(len - LINK_PREFIX_BYTES -
							     WIRE_HEADER_BYTES),
				};
				wire_encode_header(bytes + LINK_PREFIX_BYTES, &h);
			}
			send_raw(&p, bytes, len);
		}
		assert_cut_off(&p);
		peer_close(&p);
	}
	assert_serves_others(w);
}

static void reads_without_credit_are_cut_off(void **state)
{
	/* Fit the window, and no credits. All at once, and of a needle that has to be compared with its
	 * checksum first, so that none is answered before the last has come. */
	enum { READS = 22, EACH_BYTES = 256 };
	struct world *w = *state;
	struct wire_read read = { .n_extents = 1 };
	uint8_t message[WIRE_MESSAGE_BYTES_MAX];
	struct peer p;

	client_open(w, &p);
	client_hello(&p);
	read.extents[0] = (struct wire_extent){
		.fid = { .volume_id = VOLUME, .key = LARGE, .cookie = COOKIE },
		.length = LARGE_BYTES / 2
	};
	for (int i = 0; i < READS; i++) {
		const struct wire_header h = { .version = WIRE_VERSION, .xid = (uint64_t)i };
		uint8_t *at = message + LINK_PREFIX_BYTES;
		size_t len;

		assert_int_equal(
			wire_encode_read(at, sizeof(message) - LINK_PREFIX_BYTES, h, &read, &len),
			0);
		const uint32_t prefix[2] = { 0, (uint32_t)len };
		memcpy(message, prefix, sizeof(prefix));
		assert_true(LINK_PREFIX_BYTES + len <= EACH_BYTES);
		send_raw_at(&p, (size_t)i * EACH_BYTES, message, LINK_PREFIX_BYTES + len);
	}
	assert_cut_off(&p);
	assert_serves_others(w);
	peer_close(&p);
}

static void sends_without_a_place_hurt_only_their_sender(void **state)
{
	enum { SENDS = LINK_SENDS };
	const uint8_t nothing[LINK_PREFIX_BYTES] = { 0 };
	struct world *w = *state;
	struct peer p;

	client_open(w, &p);
	client_hello(&p);
	for (int round = 0; round < 20 && !p.link.failed; round++) {
		struct link_event e;

		for (int i = 0; i < SENDS; i++)
			send_raw(&p, nothing, sizeof(nothing));
		sleep_ms(10, budget());
		link_poll(&p.link, &e);
	}
	assert_serves_others(w);
	peer_close(&p);
}

static void a_client_that_reads_where_nothing_was_leased_is_cut_off(void **state)
{
	struct world *w = *state;
	struct peer p;

	client_open(w, &p);
	client_hello(&p);
	struct ibv_sge sge = { .addr = (uintptr_t)p.raw, .length = 64, .lkey = p.raw_mr->lkey };
	struct ibv_send_wr wr = { .opcode = IBV_WR_RDMA_READ,
				  .sg_list = &sge,
				  .num_sge = 1,
				  .send_flags = IBV_SEND_SIGNALED };
	struct ibv_send_wr *bad;
	memset(p.raw, 0xee, 64);
	wr.wr.rdma.remote_addr = (uintptr_t)w->large;
	wr.wr.rdma.rkey = 0x1234;
	assert_int_equal(ibv_post_send(p.id->qp, &wr, &bad), 0);
	assert_cut_off(&p);
	for (size_t i = 0; i < 64; i++)
		assert_int_equal(p.raw[i], 0xee);
	assert_serves_others(w);
	peer_close(&p);
}

int main(void)
{
	if (!verbs_world_possible())
		return 77;
	const struct CMUnitTest tests[] = {
		VERBS_TEST(the_liar_can_tell_the_truth),
		VERBS_TEST(an_agent_of_another_version_is_told_apart),
		VERBS_TEST(bytes_that_do_not_match_their_checksum_are_not_delivered),
		VERBS_TEST(a_read_that_brings_no_data_is_not_taken_for_one_that_does),
		VERBS_TEST(an_answer_of_another_length_is_refused),
		VERBS_TEST(an_answer_from_behind_the_needles_end_is_refused),
		VERBS_TEST(an_answer_without_a_checksum_is_refused),
		VERBS_TEST(an_answer_to_no_question_is_refused),
		VERBS_TEST(a_key_of_nothing_ends_the_connection_and_not_more),
		VERBS_TEST(an_address_behind_the_leased_memory_is_refused_by_the_device),
		VERBS_TEST(a_lease_that_has_ended_before_it_is_pulled_brings_nothing),
		VERBS_TEST(a_lease_without_a_number_is_refused),
		VERBS_TEST(a_message_that_is_cut_short_is_refused),
		VERBS_TEST(inline_data_beside_a_lease_is_refused),
		VERBS_TEST(noise_from_an_agent_ends_the_connection),
		VERBS_TEST(a_message_out_of_order_ends_the_connection),
		VERBS_TEST(messages_that_say_nothing_are_not_waited_on_for_ever),
		VERBS_TEST(an_agent_that_falls_silent_is_given_up),
		VERBS_TEST(an_agent_that_hangs_up_is_noticed_at_once),
		VERBS_TEST(a_message_shorter_than_its_prefix_is_cut_off),
		VERBS_TEST(a_prefix_that_lies_about_the_length_is_cut_off),
		VERBS_TEST(a_prefix_with_an_absurd_number_of_places_is_cut_off),
		VERBS_TEST(a_message_longer_than_the_agent_takes_is_refused_by_the_device),
		VERBS_TEST(random_messages_do_no_harm),
		VERBS_TEST(reads_without_credit_are_cut_off),
		VERBS_TEST(sends_without_a_place_hurt_only_their_sender),
		VERBS_TEST(a_client_that_reads_where_nothing_was_leased_is_cut_off),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
