/* Thread model: see rdma/session.c. Here are the states of requests and the leader's role, with the lock. */
#include "rdma/session_impl.h"

#include <errno.h>

/* An xid is a serial number with the slot's number below it. */
#define XID_SLOT_BITS 8

/* What the other requests of a session get that one of them brought down: nothing speaks against the
 * server because of them. */
static int others_error(const struct client_session *s)
{
	return s->err ? -ECONNRESET : 0;
}

/* --- the role of the leader --- */

static void give_lead(struct client_session *s, struct slot *slot)
{
	s->leader = slot;
	if (slot)
		pthread_cond_signal(&slot->wake);
}

static void pass_lead_on(struct client_session *s)
{
	struct slot *next = client_session_oldest(s, REQUEST_PULLING);

	if (!next)
		next = client_session_oldest(s, REQUEST_SENT);
	give_lead(s, next ? next : client_session_oldest(s, REQUEST_QUEUED));
}

static void request_finish(struct client_session *s, struct slot *slot, int err)
{
	slot->state = err ? REQUEST_FAILED : REQUEST_DONE;
	slot->err = err;
	if (s->leader == slot)
		pass_lead_on(s);
}

/* --- messages; by the leader --- */

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
	if (!client_session_reply_fits(s, slot, &s->reply, m->header.length - data_at))
		return -EPROTO;
	s->inline_at = m->payload + data_at;
	slot->state = REQUEST_ANSWERED;
	if (s->leader != slot)
		give_lead(s, slot);
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
	client_session_add_credits(s, m->header.credits);
	switch (m->header.type) {
	case WIRE_READ_REPLY:
		return on_reply(s, m);
	case WIRE_PING:
		if (!bare)
			return -EPROTO;
		client_session_answer_ping(s, self, m->header.xid);
		return 0;
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

/* QUEUED -> SENT or FAILED. Lets go of the lock for a while. */
static void request_send(struct client_session *s, struct slot *slot)
{
	slot->state = REQUEST_SENT;
	int err = client_session_send(s, slot);
	if (err)
		request_finish(s, slot, err);
}

/* Where the next answer probably belongs: to the leader itself, if it is the oldest. Only then can its
 * buffers be used, for nobody else's may. */
static bool make_hint(struct client_session *s, struct slot *slot, struct read_buf *sink_buf,
		      struct client_hint *ret)
{
	const struct client_extent *e = slot->extents;

	if (slot->state != REQUEST_SENT || slot->ping ||
	    client_session_oldest(s, REQUEST_SENT) != slot)
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
		client_session_fail(s, err);
		request_finish(s, slot, err);
	} else if (slot->state == REQUEST_PULLED) {
		return;
	} else if (slot->state == REQUEST_DONE) {
		request_finish(s, slot, 0); /* a ping */
	} else if (deadline_passed(slot->deadline) && s->leader == slot) {
		/* Messages come, but not the one. */
		if (slot->state != REQUEST_QUEUED)
			client_session_fail(s, -ETIMEDOUT);
		request_finish(s, slot, -ETIMEDOUT);
	}
}

/* ANSWERED -> DONE, PULLING or FAILED. Lets go of the lock for a while. */
static void request_take(struct client_session *s, struct slot *slot, uint8_t *sink_buf)
{
	pthread_mutex_unlock(&s->lock);
	int err = client_session_take(s, slot, sink_buf);
	pthread_mutex_lock(&s->lock);
	if (err)
		client_session_fail(s, err);
	/* It goes on leading: what comes next may be its own. */
	if (!err && slot->pulling->left > 0) {
		slot->state = REQUEST_PULLING;
		return;
	}
	client_session_give_back(s, slot->pulling);
	request_finish(s, slot, err);
}

/* PULLED -> DONE. Lets go of the lock for a while. */
static void request_check(struct client_session *s, struct slot *slot)
{
	const struct pulling *p = slot->pulling;

	if (s->leader == slot)
		pass_lead_on(s);
	client_session_give_back(s, p);
	pthread_mutex_unlock(&s->lock);
	for (size_t i = 0; i < p->n; i++)
		client_session_use_lease(&p->leases[i]);
	pthread_mutex_lock(&s->lock);
	request_finish(s, slot, 0);
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
		client_session_fail(s, -ETIMEDOUT);
		request_finish(s, slot, -ETIMEDOUT);
	}
}

static bool may_send(const struct client_session *s, const struct slot *slot)
{
	return !s->sender && (slot->ping || s->credits > 0);
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

int client_session_run(struct client_session *s, const struct slot *request,
		       struct read_buf *sink_buf)
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
