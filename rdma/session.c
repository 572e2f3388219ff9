/* Thread model: every request runs on its caller's thread. The lock protects the session's state and is
 * never held during a call of the transport, but for abort() and settle(), which do not wait. Two roles, each held by one request at a
 * time, let their holder call the transport without the lock:
 *
 *   sender   encodes into tx and sends it
 *   leader   receives messages for all. A message that answers another request is handed, with the role,
 *            to that one, which takes its data. Who is done hands the role on: to the oldest request
 *            that waits for its answer (which is probably the next to come), else to one that waits for
 *            credits, else to nobody; then the next that waits takes it.
 *
 * A request waits on the condition variable of its slot, and is woken by a change of its state, by being
 * given the role of the leader, by a chance to send, or by the end of the session. */
#include "rdma/session.h"

#include <errno.h>
#include <string.h>

#include "rdma/session_impl.h"

/* --- the session as a whole; with the lock --- */

static void wake_all(struct client_session *s)
{
	for (uint64_t left = s->used; left; left &= left - 1)
		pthread_cond_signal(&s->slots[__builtin_ctzll(left)].wake);
}

void client_session_fail(struct client_session *s, int err)
{
	if (s->err)
		return;
	s->err = err;
	s->transport->abort(s->connection);
	wake_all(s);
}

struct slot *client_session_oldest(struct client_session *s, enum request_state state)
{
	struct slot *found = NULL;

	for (uint64_t left = s->used; left; left &= left - 1) {
		struct slot *slot = &s->slots[__builtin_ctzll(left)];
		if (slot->state == state && slot != s->sender && (!found || slot->xid < found->xid))
			found = slot;
	}
	return found;
}

/* --- reads --- */

static bool range_is_sound(const struct client_extent *e)
{
	uint64_t bytes = 0, end;

	for (size_t i = 0; i < e->n_bufs; i++)
		if (__builtin_add_overflow(bytes, e->bufs[i].len, &bytes))
			return false;
	return bytes > 0 && bytes <= WIRE_EXTENT_BYTES_MAX &&
	       !__builtin_add_overflow(e->offset, bytes, &end) && end <= INT64_MAX;
}

int client_session_read(struct client_session *s, struct client_extent *extents, size_t n,
			struct deadline d)
{
	struct pulling pulling;
	const struct slot request = {
		.extents = extents, .n_extents = n, .pulling = &pulling, .deadline = d
	};
	CLEANUP_FREE uint8_t *sink_memory = NULL;
	struct read_buf sink_buf = { 0 };

	if (n == 0 || n > WIRE_EXTENTS_MAX)
		return -EINVAL;
	pulling.left = pulling.n = 0;
	for (size_t i = 0; i < n; i++) {
		struct client_extent *e = &extents[i];

		e->err = NOT_ANSWERED;
		e->begun = e->gzip = false;
		e->got = 0;
		e->needle_bytes = 0;
		if (!e->sink && !range_is_sound(e))
			return -EINVAL;
		if (e->sink && streams(s) && !sink_buf.ptr &&
		    client_session_find_sink_buf(e->sink, &sink_buf, &sink_memory))
			return -ENOMEM;
	}
	int err = client_session_run(s, &request, &sink_buf);
	for (size_t i = 0; i < pulling.n; i++)
		free(pulling.leases[i].own.ptr);
	for (size_t i = 0; i < n; i++)
		if (extents[i].err == NOT_ANSWERED)
			extents[i].err = err;
	return err;
}

int client_session_ping(struct client_session *s, struct deadline d)
{
	const struct slot request = { .ping = true, .deadline = d };
	struct read_buf none = { 0 };

	return client_session_run(s, &request, &none);
}

int client_session_error(struct client_session *s)
{
	LOCK_SCOPE(&s->lock);

	return s->err;
}

/* --- life --- */

/* By the transport, on any thread. */
static void connection_lost(void *arg)
{
	struct client_session *s = arg;

	pthread_mutex_lock(&s->lock);
	client_session_fail(s, -ECONNRESET);
	pthread_mutex_unlock(&s->lock);
	if (s->on_lost)
		s->on_lost(s->on_lost_arg);
}

static int slots_init(struct client_session *s)
{
	for (size_t i = 0; i < CLIENT_SESSION_SLOTS_MAX; i++) {
		int err = cond_init_monotonic(&s->slots[i].wake);

		if (!err)
			continue;
		while (i-- > 0)
			pthread_cond_destroy(&s->slots[i].wake);
		return err;
	}
	return 0;
}

static void slots_destroy(struct client_session *s)
{
	for (size_t i = 0; i < CLIENT_SESSION_SLOTS_MAX; i++)
		pthread_cond_destroy(&s->slots[i].wake);
}

static int send_hello(struct client_session *s, const char *token, struct deadline d)
{
	const struct wire_header h = { .version = WIRE_VERSION };
	const struct wire_hello hello = {
		.version_min = WIRE_VERSION,
		.version_max = WIRE_VERSION,
		.capabilities = s->transport->capabilities,
		.inline_bytes_max = s->transport->inline_bytes_max,
		.token = token,
		.token_len = token ? strlen(token) : 0,
	};
	size_t len;
	int err = wire_encode_hello(s->tx, sizeof(s->tx), h, &hello, &len);

	return err ? err : s->transport->send(s->connection, s->tx, len, d);
}

/* An agent that does not want us may say so with a goodbye instead. */
static int refused_by(const struct client_message *m, struct wire_hello_reply *ret)
{
	struct wire_goodbye bye;
	int err = wire_decode_goodbye(m->payload, m->header.length, &bye);

	if (err)
		return err;
	if (bye.reason == WIRE_OK)
		return -ECONNRESET;
	*ret = (struct wire_hello_reply){ .status = bye.reason };
	memcpy(ret->text, bye.text, sizeof(ret->text));
	return wire_status_errno(bye.reason);
}

static int receive_hello_reply(struct client_session *s, struct wire_hello_reply *ret,
			       struct deadline d)
{
	struct client_message m;
	int err = s->transport->receive(s->connection, NULL, &m, d);

	if (err)
		return err;
	if (m.header.type == WIRE_GOODBYE)
		return refused_by(&m, ret);
	if (m.header.type != WIRE_HELLO_REPLY)
		return -EPROTO;
	err = wire_decode_hello_reply(m.payload, m.header.length, ret);
	if (err)
		return err;
	if (ret->status != WIRE_OK)
		return wire_status_errno(ret->status);
	if (ret->version != WIRE_VERSION || m.header.version != WIRE_VERSION ||
	    !(ret->capabilities & s->transport->capabilities))
		return -EPROTO;
	s->credits = (unsigned)min_u64(m.header.credits, CLIENT_SESSION_SLOTS_MAX);
	s->staging_bytes_max = min_u64(ret->staging_bytes_max, WIRE_EXTENT_BYTES_MAX);
	return 0;
}

int client_session_open(const struct client_session_config *cfg, struct deadline d,
			struct client_session **ret, struct wire_hello_reply *ret_reply)
{
	struct client_session *s = calloc(1, sizeof(*s));

	*ret_reply = (struct wire_hello_reply){ 0 };
	if (!s)
		return -ENOMEM;
	s->transport = cfg->transport;
	s->answer_ms = cfg->answer_ms;
	s->on_lost = cfg->on_lost;
	s->on_lost_arg = cfg->on_lost_arg;
	s->on_answer = cfg->on_answer;
	s->on_answer_arg = cfg->on_answer_arg;
	s->serial = 1;
	int err = slots_init(s);
	if (err)
		goto free_session;
	err = s->transport->connect(&cfg->address, cfg->stall_ms, d, &s->connection);
	if (err)
		goto destroy_slots;
	err = send_hello(s, cfg->token, d);
	if (!err)
		err = receive_hello_reply(s, ret_reply, d);
	if (err)
		goto close_connection;
	pthread_mutex_init(&s->lock, NULL);
	if (s->transport->watch)
		s->transport->watch(s->connection, connection_lost, s);
	*ret = s;
	return 0;

close_connection:
	s->transport->close(s->connection);
destroy_slots:
	slots_destroy(s);
free_session:
	free(s);
	return err;
}

static void say_goodbye(struct client_session *s, enum wire_status reason)
{
	const struct wire_header h = { .version = WIRE_VERSION };
	const struct wire_goodbye bye = { .reason = (uint8_t)reason };
	size_t len;

	if (!s->err && wire_encode_goodbye(s->tx, sizeof(s->tx), h, &bye, &len) == 0)
		(void)s->transport->send(s->connection, s->tx, len, deadline_in_ms(0));
}

void client_session_close(struct client_session *s, enum wire_status reason)
{
	if (!s)
		return;
	say_goodbye(s, reason);
	s->transport->close(s->connection);
	slots_destroy(s);
	pthread_mutex_destroy(&s->lock);
	free(s);
}
