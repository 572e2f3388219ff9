/* Thread model: see rdma/session.c. Here is what the holder of the sender's role does. */
#include "rdma/session_impl.h"

#include <errno.h>
#include <string.h>

/* --- messages; by the sender, without the lock --- */

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

static int send_complete(struct client_session *s, struct deadline d)
{
	const struct wire_header h = { .version = WIRE_VERSION };
	struct wire_complete m = { .n = s->n_sending };
	size_t len;

	memcpy(m.leases, s->sending, s->n_sending * sizeof(m.leases[0]));
	int err = wire_encode_complete(s->tx, sizeof(s->tx), h, &m, &len);
	return err ? err : s->transport->send(s->connection, s->tx, len, d);
}

/* --- the role; with the lock --- */

void client_session_add_credits(struct client_session *s, unsigned credits)
{
	bool had_none = s->credits == 0;

	if (credits == 0)
		return;
	s->credits = (unsigned)min_u64((uint64_t)s->credits + credits, CLIENT_SESSION_SLOTS_MAX);
	if (had_none && !s->sender) {
		struct slot *next = client_session_oldest(s, REQUEST_QUEUED);
		if (next)
			pthread_cond_signal(&next->wake);
	}
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

void client_session_give_back(struct client_session *s, const struct pulling *p)
{
	for (size_t i = 0; i < p->n; i++)
		add_complete(s, p->leases[i].result.lease_id);
}

/* Nothing was sent: the next message may. */
static void untake(struct client_session *s, const struct slot *slot)
{
	if (slot->ping)
		return;
	client_session_add_credits(s, 1);
	for (size_t i = 0; i < s->n_sending; i++)
		add_complete(s, s->sending[i]);
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
			client_session_fail(s, err);
	}
	s->sender = NULL;
	struct slot *next = client_session_oldest(s, REQUEST_QUEUED);
	if (next)
		pthread_cond_signal(&next->wake);
}

void client_session_answer_ping(struct client_session *s, struct slot *self, uint64_t xid)
{
	s->pong_due = true;
	s->pong_xid = xid;
	if (s->sender)
		return; /* it will see to that */
	s->sender = self;
	leave_sending(s, self->deadline);
}

int client_session_send(struct client_session *s, struct slot *slot)
{
	s->sender = slot;
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
		client_session_fail(s, err);
	leave_sending(s, slot->deadline);
	return err;
}

bool client_session_owes_leases(struct client_session *s)
{
	if (!(s->transport->capabilities & WIRE_CAP_LEASE))
		return false;
	LOCK_SCOPE(&s->lock);
	return s->n_completes > 0;
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
		client_session_fail(s, err);
	leave_sending(s, d);
	return s->err;
}
