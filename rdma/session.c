/* Thread model: every request runs on its caller's thread. The lock protects the session's state and is
 * never held during a call of the transport, but for abort(). Two roles, each held by one request at a
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

#include "filer/base/crc32c.h"

/* How much is read between two steps of a checksum, while it is still in the processor's cache. */
#define CRC_STEP_BYTES (256 * KIB)
#define SINK_BYTES (64 * KIB)
/* What a sink does not want any more is taken off the stream up to so much; more, and the connection is
 * given up instead. */
#define DRAIN_BYTES_MAX MIB

#define NOT_ANSWERED INT32_MIN

/* An xid is a serial number with the slot's number below it. */
#define XID_SLOT_BITS 8
_Static_assert(CLIENT_SESSION_SLOTS_MAX == 64, "a bit for every slot");

/*   FREE -> QUEUED (wants to be sent; needs a credit and the sender's role)
 *        -> SENT (its answer is to come)
 *        -> ANSWERED (it leads, and its answer's data is next in the stream, or in the message)
 *        -> PULLING (what was leased is being read) -> PULLED (it is all there, to be checked)
 *        -> DONE, or FAILED from any -> FREE */
enum request_state {
	REQUEST_FREE,
	REQUEST_QUEUED,
	REQUEST_SENT,
	REQUEST_ANSWERED,
	REQUEST_PULLING,
	REQUEST_PULLED,
	REQUEST_DONE,
	REQUEST_FAILED,
};

/* Leases of one answer, and what they are to be checked against. On the stack of the caller. */
struct pulling {
	size_t left; /* pulls that are not over; the session's lock, once PULLING */
	size_t n;
	struct landing {
		struct client_extent *extent;
		struct wire_result result;
		/* Where its bytes go; NULL: nowhere, it is only given back. */
		const struct read_buf *bufs;
		size_t n_bufs;
		struct read_buf own; /* malloced, where its sink has no room */
	} leases[WIRE_EXTENTS_MAX];
};

/* One request. What its caller gave belongs to the caller's thread; the rest to the session's lock. */
struct slot {
	enum request_state state;
	uint64_t xid;
	int err; /* FAILED: why */
	bool ping;
	struct client_extent *extents;
	size_t n_extents;
	struct pulling *pulling; /* NULL for a ping */
	struct deadline deadline;
	pthread_cond_t wake; /* with the session's lock */
};

struct client_session {
	const struct client_transport *transport; /* immutable */
	struct client_connection *connection; /* immutable */
	int64_t answer_ms; /* immutable */
	void (*on_lost)(void *arg); /* immutable, as its argument */
	void *on_lost_arg;
	uint64_t staging_bytes_max; /* immutable: what the agent may lease at once */

	pthread_mutex_t lock; /* protects all below but where it says else; innermost */
	int err; /* the connection is of no more use: why */
	struct slot *leader; /* NULL: none */
	struct slot *sender; /* NULL: none */
	uint64_t serial; /* of the next request */
	unsigned credits; /* reads that may still be sent */
	bool pong_due; /* a ping is to be answered */
	uint64_t pong_xid;
	uint64_t used; /* bit i: slot i is not FREE */
	struct slot slots[CLIENT_SESSION_SLOTS_MAX];

	struct slot
		returner; /* the sender that gives leases back without a read; not one of slots */
	size_t n_completes; /* leases to be given back with the next read */
	uint64_t completes[WIRE_COMPLETES_MAX];

	size_t n_sending; /* the sender's: completes in its message */
	uint64_t sending[WIRE_COMPLETES_MAX];
	struct wire_read_reply reply; /* the leader's: of the last answer */
	const uint8_t *inline_at; /* likewise: where its data is in the message */
	uint8_t tx[WIRE_MESSAGE_BYTES_MAX]; /* the sender's */
};

/* --- the session as a whole; with the lock --- */

static void wake_all(struct client_session *s)
{
	for (uint64_t left = s->used; left; left &= left - 1)
		pthread_cond_signal(&s->slots[__builtin_ctzll(left)].wake);
}

static void fail_session(struct client_session *s, int err)
{
	if (s->err)
		return;
	s->err = err;
	s->transport->abort(s->connection);
	wake_all(s);
}

/* What the other requests of a session get that one of them brought down: nothing speaks against the
 * server because of them. */
static int others_error(const struct client_session *s)
{
	return s->err ? -ECONNRESET : 0;
}

/* The oldest in a state, but for the sender, which cannot do anything else now. */
static struct slot *oldest(struct client_session *s, enum request_state state)
{
	struct slot *found = NULL;

	for (uint64_t left = s->used; left; left &= left - 1) {
		struct slot *slot = &s->slots[__builtin_ctzll(left)];
		if (slot->state == state && slot != s->sender && (!found || slot->xid < found->xid))
			found = slot;
	}
	return found;
}

static void give_lead(struct client_session *s, struct slot *slot)
{
	s->leader = slot;
	if (slot)
		pthread_cond_signal(&slot->wake);
}

static void pass_lead_on(struct client_session *s)
{
	struct slot *next = oldest(s, REQUEST_PULLING);

	if (!next)
		next = oldest(s, REQUEST_SENT);
	give_lead(s, next ? next : oldest(s, REQUEST_QUEUED));
}

static void add_credits(struct client_session *s, unsigned credits)
{
	bool had_none = s->credits == 0;

	if (credits == 0)
		return;
	s->credits = (unsigned)min_u64((uint64_t)s->credits + credits, CLIENT_SESSION_SLOTS_MAX);
	if (had_none && !s->sender) {
		struct slot *next = oldest(s, REQUEST_QUEUED);
		if (next)
			pthread_cond_signal(&next->wake);
	}
}

static void request_finish(struct client_session *s, struct slot *slot, int err)
{
	slot->state = err ? REQUEST_FAILED : REQUEST_DONE;
	slot->err = err;
	if (s->leader == slot)
		pass_lead_on(s);
}

/* --- sending --- */

static uint64_t extent_bytes(const struct client_extent *e)
{
	uint64_t bytes = 0;

	for (size_t i = 0; i < e->n_bufs; i++)
		bytes += e->bufs[i].len;
	return bytes;
}

static int send_read(struct client_session *s, const struct slot *slot)
{
	const struct wire_header h = { .version = WIRE_VERSION, .xid = slot->xid };
	struct wire_read m;
	size_t len;

	m.n_extents = slot->n_extents;
	m.n_completes = s->n_sending;
	memcpy(m.completes, s->sending, s->n_sending * sizeof(m.completes[0]));
	for (size_t i = 0; i < slot->n_extents; i++) {
		const struct client_extent *e = &slot->extents[i];

		m.extents[i] = (struct wire_extent){
			.fid = e->fid,
			.offset = e->sink ? 0 : e->offset,
			.length = e->sink ? 0 : extent_bytes(e),
			.flags = (e->sink ? WIRE_EXTENT_WHOLE : 0u) |
				 (e->read_deleted ? WIRE_EXTENT_READ_DELETED : 0u),
			.token = e->token,
			.token_len = e->token_len,
		};
	}
	int err = wire_encode_read(s->tx, sizeof(s->tx), h, &m, &len);
	return err ? err : s->transport->send(s->connection, s->tx, len, slot->deadline);
}

static int send_bare(struct client_session *s, enum wire_type type, uint64_t xid, struct deadline d)
{
	const struct wire_header h = { .type = (uint8_t)type, .version = WIRE_VERSION, .xid = xid };
	size_t len;
	int err = wire_encode_bare(s->tx, sizeof(s->tx), h, &len);

	return err ? err : s->transport->send(s->connection, s->tx, len, d);
}

/* Gives the sender's role back; a ping that came meanwhile is answered first. */
static void leave_sending(struct client_session *s, struct deadline d)
{
	while (s->pong_due && !s->err) {
		uint64_t xid = s->pong_xid;

		s->pong_due = false;
		pthread_mutex_unlock(&s->lock);
		int err = send_bare(s, WIRE_PONG, xid, d);
		pthread_mutex_lock(&s->lock);
		if (err)
			fail_session(s, err);
	}
	s->sender = NULL;
	struct slot *next = oldest(s, REQUEST_QUEUED);
	if (next)
		pthread_cond_signal(&next->wake);
}

static bool may_send(const struct client_session *s, const struct slot *slot)
{
	return !s->sender && (slot->ping || s->credits > 0);
}

static void take_completes(struct client_session *s)
{
	s->n_sending = s->n_completes;
	memcpy(s->sending, s->completes, s->n_completes * sizeof(s->sending[0]));
	s->n_completes = 0;
}

/* As many as go into one message; those beyond expire. */
static void add_complete(struct client_session *s, uint64_t lease)
{
	if (s->n_completes < WIRE_COMPLETES_MAX)
		s->completes[s->n_completes++] = lease;
}

/* Nothing was sent: the next message may. */
static void untake(struct client_session *s, const struct slot *slot)
{
	if (slot->ping)
		return;
	add_credits(s, 1);
	for (size_t i = 0; i < s->n_sending; i++)
		add_complete(s, s->sending[i]);
}

/* QUEUED -> SENT or FAILED. Lets go of the lock for a while. */
static void request_send(struct client_session *s, struct slot *slot)
{
	s->sender = slot;
	slot->state = REQUEST_SENT;
	if (!slot->ping) {
		s->credits--;
		take_completes(s);
	}
	pthread_mutex_unlock(&s->lock);
	int err = slot->ping ? send_bare(s, WIRE_PING, slot->xid, slot->deadline)
			     : send_read(s, slot);
	pthread_mutex_lock(&s->lock);
	if (err == -EMSGSIZE)
		untake(s, slot);
	else if (err)
		fail_session(s, err);
	leave_sending(s, slot->deadline);
	if (err)
		request_finish(s, slot, err);
}

/* --- what the agent sent; by the leader, without the lock --- */

static bool has_crc(const struct client_extent *e, const struct wire_result *r)
{
	if (r->flags & WIRE_RESULT_CRC_RANGE)
		return true;
	return (r->flags & WIRE_RESULT_CRC_WHOLE) &&
	       (e->sink || (e->offset == 0 && r->length == r->needle_length));
}

static bool streams(const struct client_session *s)
{
	return s->transport->capabilities & WIRE_CAP_STREAM;
}

/* Does the answer fit the question? */
static bool result_fits(const struct client_session *s, const struct client_extent *e,
			const struct wire_result *r)
{
	uint64_t bytes = extent_bytes(e);

	if (r->status != WIRE_OK)
		return r->status != WIRE_MALFORMED;
	/* Nothing but a checksum tells that a device has read what it says it has. */
	if (!streams(s) && r->length > 0 && !has_crc(e, r))
		return false;
	if ((r->flags & WIRE_RESULT_LEASE) && (!(s->transport->capabilities & WIRE_CAP_LEASE) ||
					       r->length == 0 || r->length > s->staging_bytes_max))
		return false;
	if (e->sink)
		return r->length == r->needle_length;
	return r->length == bytes && e->offset <= r->needle_length &&
	       bytes <= r->needle_length - e->offset;
}

/* inline_bytes: what is in the message behind the results. */
static bool reply_fits(const struct client_session *s, const struct slot *slot,
		       const struct wire_read_reply *reply, size_t inline_bytes)
{
	uint64_t expected = 0;

	if (reply->n_results != slot->n_extents)
		return false;
	for (size_t i = 0; i < reply->n_results; i++) {
		const struct wire_result *r = &reply->results[i];

		if (!result_fits(s, &slot->extents[i], r))
			return false;
		if (!streams(s) && !(r->flags & WIRE_RESULT_LEASE))
			expected += r->length;
	}
	return inline_bytes == expected;
}

static int take_bytes(struct client_session *s, uint8_t *p, size_t n, size_t *got,
		      struct deadline d)
{
	if (streams(s))
		return s->transport->take(s->connection, p, n, got, d);
	memcpy(p, s->inline_at, n);
	s->inline_at += n;
	*got += n;
	return 0;
}

static int take_range(struct client_session *s, struct client_extent *e,
		      const struct wire_result *r, struct deadline d)
{
	bool check = has_crc(e, r);
	uint32_t crc = 0;
	int err = 0;

	for (size_t i = 0; i < e->n_bufs && !err; i++) {
		const struct read_buf *b = &e->bufs[i];
		size_t step = check ? CRC_STEP_BYTES : b->len;

		for (size_t at = 0; at < b->len && !err; at += step) {
			size_t n = min_u64(step, b->len - at);
			err = take_bytes(s, b->ptr + at, n, &e->got, d);
			if (!err && check)
				crc = crc32c(crc, b->ptr + at, n);
		}
	}
	if (!check)
		return err;
	if (!err && !crc32c_matches(r->crc32c, crc))
		e->err = -EBADMSG;
	if (err || e->err)
		e->got = 0; /* nothing of it can be built upon */
	return err;
}

/* The same n bytes for a sink: *ret is buf, or where they are already. */
static int next_bytes(struct client_session *s, uint8_t *buf, size_t n, const uint8_t **ret,
		      struct deadline d)
{
	size_t got = 0;

	*ret = buf;
	if (streams(s))
		return s->transport->take(s->connection, buf, n, &got, d);
	*ret = s->inline_at;
	s->inline_at += n;
	return 0;
}

/* What the sink returns ends the delivery, but the rest of the data has to be taken off the stream. */
static int take_whole(struct client_session *s, struct client_extent *e,
		      const struct wire_result *r, uint8_t *buf, struct deadline d)
{
	bool check = has_crc(e, r);
	uint32_t crc = 0;

	e->err = e->sink->begin(e->sink->arg, e->gzip, (int64_t)r->length);
	for (uint64_t left = r->length; left > 0;) {
		size_t n = min_u64(left, SINK_BYTES);
		const uint8_t *p;

		if (e->err && left > DRAIN_BYTES_MAX)
			return -ECONNABORTED;
		int err = next_bytes(s, buf, n, &p, d);
		if (err)
			return err;
		left -= n;
		if (check && !e->err)
			crc = crc32c(crc, p, n);
		if (!e->err)
			e->err = e->sink->push(e->sink->arg, p, n);
		if (!e->err)
			e->got += n;
	}
	if (check && !e->err && !crc32c_matches(r->crc32c, crc))
		e->err = -EBADMSG;
	return 0;
}

/* --- leases --- */

static size_t sink_room(const struct needle_sink *sink, size_t bytes, const struct read_buf **ret)
{
	return sink->room ? sink->room(sink->arg, bytes, ret) : 0;
}

/* Where a lease's bytes go: the extent's own bufs, or what its sink has. Memory of the heap has to be
 * registered for this one pull. */
static int find_bufs(struct landing *l)
{
	const struct client_extent *e = l->extent;

	l->bufs = e->bufs;
	l->n_bufs = e->n_bufs;
	if (!e->sink)
		return 0;
	l->bufs = NULL;
	l->n_bufs = sink_room(e->sink, l->result.length, &l->bufs);
	if (l->n_bufs)
		return 0;
	l->own.ptr = malloc(l->result.length);
	if (!l->own.ptr)
		return -ENOMEM;
	l->own.len = l->result.length;
	l->bufs = &l->own;
	l->n_bufs = 1;
	return 0;
}

static int start_pull(struct client_session *s, struct slot *slot, struct client_extent *e,
		      const struct wire_result *r)
{
	struct pulling *p = slot->pulling;
	struct landing *l = &p->leases[p->n++];

	*l = (struct landing){ .extent = e, .result = *r };
	if (find_bufs(l)) {
		e->err = -ENOMEM;
		return 0;
	}
	const struct client_lease lease = { .remote_addr = r->remote_addr,
					    .rkey = r->rkey,
					    .bufs = l->bufs,
					    .n_bufs = l->n_bufs,
					    .cookie = slot->xid };
	e->err = NOT_ANSWERED; /* until it was pulled and checked */
	p->left++;
	return s->transport->pull(s->connection, &lease, slot->deadline);
}

static uint32_t crc_of(const struct read_buf *bufs, size_t n)
{
	uint32_t crc = 0;

	for (size_t i = 0; i < n; i++)
		crc = crc32c(crc, bufs[i].ptr, bufs[i].len);
	return crc;
}

static int push_all(const struct landing *l)
{
	const struct needle_sink *sink = l->extent->sink;
	int err = sink->begin(sink->arg, l->extent->gzip, (int64_t)l->result.length);

	for (size_t i = 0; i < l->n_bufs && !err; i++)
		err = sink->push(sink->arg, l->bufs[i].ptr, l->bufs[i].len);
	return err;
}

static void use_lease(const struct landing *l)
{
	struct client_extent *e = l->extent;

	if (!l->bufs)
		return;
	e->begun = true;
	e->err = 0;
	if (!crc32c_matches(l->result.crc32c, crc_of(l->bufs, l->n_bufs)))
		e->err = -EBADMSG;
	if (!e->err && e->sink)
		e->err = push_all(l);
	if (!e->err)
		e->got = l->result.length;
}

/* Nobody reads the leases any more. */
static void give_back(struct client_session *s, const struct pulling *p)
{
	for (size_t i = 0; i < p->n; i++)
		add_complete(s, p->leases[i].result.lease_id);
}

/* PULLED -> DONE. Lets go of the lock for a while. */
static void request_check(struct client_session *s, struct slot *slot)
{
	const struct pulling *p = slot->pulling;

	if (s->leader == slot)
		pass_lead_on(s);
	give_back(s, p);
	pthread_mutex_unlock(&s->lock);
	for (size_t i = 0; i < p->n; i++)
		use_lease(&p->leases[i]);
	pthread_mutex_lock(&s->lock);
	request_finish(s, slot, 0);
}

/* --- answers --- */

/* sink_buf: SINK_BYTES, where there is a sink and the transport streams. */
static int take_answer(struct client_session *s, struct slot *slot, uint8_t *sink_buf)
{
	const struct wire_read_reply *reply = &s->reply;
	int err = 0;

	for (size_t i = 0; i < slot->n_extents && !err; i++) {
		struct client_extent *e = &slot->extents[i];
		const struct wire_result *r = &reply->results[i];

		e->err = wire_status_errno(r->status);
		if (e->err)
			continue;
		e->gzip = r->flags & WIRE_RESULT_GZIP;
		e->needle_bytes = r->needle_length;
		if (r->flags & WIRE_RESULT_LEASE) {
			err = start_pull(s, slot, e, r);
			continue;
		}
		e->begun = true;
		err = e->sink ? take_whole(s, e, r, sink_buf, slot->deadline)
			      : take_range(s, e, r, slot->deadline);
		if (err && !e->err)
			e->err = err;
	}
	s->transport->settle(s->connection);
	return err;
}

/* --- messages; by the leader, with the lock --- */

static struct slot *slot_of(struct client_session *s, uint64_t xid, enum request_state state)
{
	struct slot *slot = &s->slots[xid % (1 << XID_SLOT_BITS) % CLIENT_SESSION_SLOTS_MAX];

	return slot->state == state && slot->xid == xid ? slot : NULL;
}

/* The answer of a request: makes that request the leader. */
static int on_reply(struct client_session *s, const struct client_message *m)
{
	struct slot *slot = slot_of(s, m->header.xid, REQUEST_SENT);
	size_t data_at;

	if (!slot || slot->ping)
		return -EPROTO;
	int err = wire_decode_read_reply(m->payload, m->header.length, &s->reply, &data_at);
	if (err)
		return err;
	if (!reply_fits(s, slot, &s->reply, m->header.length - data_at))
		return -EPROTO;
	s->inline_at = m->payload + data_at;
	slot->state = REQUEST_ANSWERED;
	if (s->leader != slot)
		give_lead(s, slot);
	return 0;
}

static int on_ping(struct client_session *s, struct slot *self, uint64_t xid)
{
	s->pong_due = true;
	s->pong_xid = xid;
	if (s->sender)
		return 0; /* it will see to that */
	s->sender = self;
	leave_sending(s, self->deadline);
	return 0;
}

static int on_pong(struct client_session *s, uint64_t xid)
{
	struct slot *slot = slot_of(s, xid, REQUEST_SENT);

	if (!slot || !slot->ping)
		return -EPROTO;
	slot->state = REQUEST_DONE;
	pthread_cond_signal(&slot->wake);
	return 0;
}

static int on_goodbye(const struct client_message *m)
{
	struct wire_goodbye bye;
	int err = wire_decode_goodbye(m->payload, m->header.length, &bye);

	if (err)
		return err;
	/* Whatever the reason, it speaks of the connection; another may be welcome. */
	return -ECONNRESET;
}

static int on_pulled(struct client_session *s, uint64_t xid)
{
	struct slot *slot = slot_of(s, xid, REQUEST_PULLING);

	if (!slot)
		return -EIO;
	if (--slot->pulling->left > 0)
		return 0;
	slot->state = REQUEST_PULLED;
	pthread_cond_signal(&slot->wake);
	return 0;
}

static int on_message(struct client_session *s, struct slot *self, const struct client_message *m)
{
	bool bare = m->header.length == 0;

	if (m->pulled)
		return on_pulled(s, m->cookie);
	if (m->header.version != WIRE_VERSION)
		return -EPROTO;
	add_credits(s, m->header.credits);
	switch (m->header.type) {
	case WIRE_READ_REPLY:
		return on_reply(s, m);
	case WIRE_PING:
		return bare ? on_ping(s, self, m->header.xid) : -EPROTO;
	case WIRE_PONG:
		return bare ? on_pong(s, m->header.xid) : -EPROTO;
	case WIRE_CREDIT:
		return bare ? 0 : -EPROTO;
	case WIRE_GOODBYE:
		return on_goodbye(m);
	default:
		return -EPROTO;
	}
}

/* --- requests --- */

/* Where the next answer probably belongs: to the leader itself, if it is the oldest. Only then can its
 * buffers be used, for nobody else's may. */
static bool make_hint(struct client_session *s, struct slot *slot, struct read_buf *sink_buf,
		      struct client_hint *ret)
{
	const struct client_extent *e = slot->extents;

	if (slot->state != REQUEST_SENT || slot->ping || oldest(s, REQUEST_SENT) != slot)
		return false;
	*ret = (struct client_hint){
		.xid = slot->xid,
		.message_bytes = WIRE_HEADER_BYTES + WIRE_REPLY_BYTES +
				 slot->n_extents * WIRE_RESULT_BYTES,
	};
	/* With several, one that is refused would move the data of those behind it. */
	if (slot->n_extents == 1) {
		ret->bufs = e->sink ? sink_buf : e->bufs;
		ret->n_bufs = e->sink ? 1 : e->n_bufs;
	}
	return true;
}

/* Receives one message. Lets go of the lock for a while. */
static void request_lead(struct client_session *s, struct slot *slot, struct read_buf *sink_buf)
{
	struct client_message m;
	struct client_hint hint;
	bool hinted = make_hint(s, slot, sink_buf, &hint);

	s->leader = slot;
	pthread_mutex_unlock(&s->lock);
	int err = s->transport->receive(s->connection, hinted ? &hint : NULL, &m,
					deadline_sooner(slot->deadline, s->answer_ms));
	pthread_mutex_lock(&s->lock);
	if (!err && !s->err)
		err = on_message(s, slot, &m);
	if (slot->state == REQUEST_ANSWERED && s->leader == slot)
		return; /* the data ahead is its own */
	if (hinted && s->leader == slot)
		s->transport->settle(s->connection);
	if (err == -ETIMEDOUT && slot->state == REQUEST_QUEUED) {
		request_finish(s, slot, err);
	} else if (err) {
		fail_session(s, err);
		request_finish(s, slot, err);
	} else if (slot->state == REQUEST_PULLED) {
		return;
	} else if (slot->state == REQUEST_DONE) {
		request_finish(s, slot, 0); /* a ping */
	} else if (deadline_passed(slot->deadline) && s->leader == slot) {
		/* Messages come, but not the one. */
		if (slot->state != REQUEST_QUEUED)
			fail_session(s, -ETIMEDOUT);
		request_finish(s, slot, -ETIMEDOUT);
	}
}

/* ANSWERED -> DONE, PULLING or FAILED. Lets go of the lock for a while. */
static void request_take(struct client_session *s, struct slot *slot, uint8_t *sink_buf)
{
	pthread_mutex_unlock(&s->lock);
	int err = take_answer(s, slot, sink_buf);
	pthread_mutex_lock(&s->lock);
	if (err)
		fail_session(s, err);
	/* It goes on leading: what comes next may be its own. */
	if (!err && slot->pulling->left > 0) {
		slot->state = REQUEST_PULLING;
		return;
	}
	give_back(s, slot->pulling);
	request_finish(s, slot, err);
}

static void request_wait(struct client_session *s, struct slot *slot)
{
	int err = cond_wait_until(&slot->wake, &s->lock, slot->deadline);

	if (err != -ETIMEDOUT)
		return;
	if (slot->state == REQUEST_QUEUED) {
		request_finish(s, slot, -ETIMEDOUT);
	} else if ((slot->state == REQUEST_SENT || slot->state == REQUEST_PULLING) &&
		   s->leader != slot) {
		fail_session(s, -ETIMEDOUT);
		request_finish(s, slot, -ETIMEDOUT);
	}
}

/* Who can send as soon as the sender is done must not sit in a call of the transport. */
static bool may_lead(const struct client_session *s, const struct slot *slot)
{
	return slot->state == REQUEST_SENT || slot->state == REQUEST_PULLING ||
	       (!slot->ping && s->credits == 0);
}

/* The one place where requests change their state on their own behalf: one step. */
static void request_advance(struct client_session *s, struct slot *slot, struct read_buf *sink_buf)
{
	bool leads = s->leader == slot;

	if (slot->state == REQUEST_ANSWERED) {
		if (leads)
			request_take(s, slot, sink_buf->ptr);
	} else if (slot->state == REQUEST_PULLED) {
		request_check(s, slot);
	} else if (s->err) {
		request_finish(s, slot, others_error(s));
	} else if (slot->state == REQUEST_QUEUED && may_send(s, slot)) {
		request_send(s, slot);
	} else if ((leads || !s->leader) && may_lead(s, slot)) {
		request_lead(s, slot, sink_buf);
	} else {
		request_wait(s, slot);
	}
}

static struct slot *slot_take(struct client_session *s)
{
	if (s->used == UINT64_MAX)
		return NULL;
	size_t i = (size_t)__builtin_ctzll(~s->used);
	struct slot *slot = &s->slots[i];

	s->used |= UINT64_C(1) << i;
	slot->state = REQUEST_QUEUED;
	slot->xid = s->serial++ << XID_SLOT_BITS | i;
	slot->err = 0;
	return slot;
}

static void slot_put(struct client_session *s, struct slot *slot)
{
	slot->state = REQUEST_FREE;
	s->used &= ~(UINT64_C(1) << (slot - s->slots));
}

static int run(struct client_session *s, const struct slot *request, struct read_buf *sink_buf)
{
	LOCK_SCOPE(&s->lock);

	if (s->err)
		return others_error(s);
	struct slot *slot = slot_take(s);
	if (!slot)
		return -EUSERS;
	slot->ping = request->ping;
	slot->extents = request->extents;
	slot->n_extents = request->n_extents;
	slot->pulling = request->pulling;
	slot->deadline = request->deadline;
	while (slot->state != REQUEST_DONE && slot->state != REQUEST_FAILED)
		request_advance(s, slot, sink_buf);
	slot_put(s, slot);
	return slot->err;
}

static bool range_is_sound(const struct client_extent *e)
{
	uint64_t bytes = 0, end;

	for (size_t i = 0; i < e->n_bufs; i++)
		if (__builtin_add_overflow(bytes, e->bufs[i].len, &bytes))
			return false;
	return bytes > 0 && bytes <= WIRE_EXTENT_BYTES_MAX &&
	       !__builtin_add_overflow(e->offset, bytes, &end) && end <= INT64_MAX;
}

/* Where a stream's bytes for a sink go: into its room, or *ret_own, to be freed. */
static int find_sink_buf(const struct needle_sink *sink, struct read_buf *ret, uint8_t **ret_own)
{
	const struct read_buf *room;

	if (sink_room(sink, SINK_BYTES, &room) == 1) {
		*ret = room[0];
		return 0;
	}
	*ret_own = malloc(SINK_BYTES);
	*ret = (struct read_buf){ .ptr = *ret_own, .len = SINK_BYTES };
	return *ret_own ? 0 : -ENOMEM;
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
		    find_sink_buf(e->sink, &sink_buf, &sink_memory))
			return -ENOMEM;
	}
	int err = run(s, &request, &sink_buf);
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

	return run(s, &request, &none);
}

bool client_session_owes_leases(struct client_session *s)
{
	if (!(s->transport->capabilities & WIRE_CAP_LEASE))
		return false;
	LOCK_SCOPE(&s->lock);
	return s->n_completes > 0;
}

static int send_complete(struct client_session *s, struct deadline d)
{
	const struct wire_header h = { .version = WIRE_VERSION };
	struct wire_complete m = { .n = s->n_sending };
	size_t len;

	memcpy(m.leases, s->sending, s->n_sending * sizeof(m.leases[0]));
	int err = wire_encode_complete(s->tx, sizeof(s->tx), h, &m, &len);
	return err ? err : s->transport->send(s->connection, s->tx, len, d);
}

int client_session_return_leases(struct client_session *s, struct deadline d)
{
	LOCK_SCOPE(&s->lock);

	/* Who sends now may take them along, and if not, they are asked for again. */
	if (s->err || s->sender || s->n_completes == 0)
		return s->err;
	s->sender = &s->returner;
	take_completes(s);
	pthread_mutex_unlock(&s->lock);
	int err = send_complete(s, d);
	pthread_mutex_lock(&s->lock);
	if (err)
		fail_session(s, err);
	leave_sending(s, d);
	return s->err;
}

/* By the transport, on any thread. */
static void connection_lost(void *arg)
{
	struct client_session *s = arg;

	pthread_mutex_lock(&s->lock);
	fail_session(s, -ECONNRESET);
	pthread_mutex_unlock(&s->lock);
	if (s->on_lost)
		s->on_lost(s->on_lost_arg);
}

int client_session_error(struct client_session *s)
{
	LOCK_SCOPE(&s->lock);

	return s->err;
}

/* --- life --- */

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
