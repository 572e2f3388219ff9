/* Thread model: see rdma/session.c. Nothing here needs the lock: the leader takes its own answer, and once all
 * is pulled, whose request it is checks that. Nobody else touches the request's extents and leases. */
#include "rdma/session_impl.h"

#include <errno.h>
#include <string.h>

#include "filer/base/crc32c.h"

/* How much is read between two steps of a checksum, while it is still in the processor's cache. */
#define CRC_STEP_BYTES (256 * KIB)
#define SINK_BYTES (64 * KIB)
/* What a sink does not want any more is taken off the stream up to so much; more, and the connection is
 * given up instead. */
#define DRAIN_BYTES_MAX MIB

/* --- does the answer fit the question? --- */

static bool has_crc(const struct client_extent *e, const struct wire_result *r)
{
	if (r->flags & WIRE_RESULT_CRC_RANGE)
		return true;
	return (r->flags & WIRE_RESULT_CRC_WHOLE) &&
	       (e->sink || (e->offset == 0 && r->length == r->needle_length));
}

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

bool client_session_reply_fits(const struct client_session *s, const struct slot *slot,
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

/* --- data in the stream or in the message --- */

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

int client_session_find_sink_buf(const struct needle_sink *sink, struct read_buf *ret,
				 uint8_t **ret_own)
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

void client_session_use_lease(const struct landing *l)
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

/* --- a whole answer --- */

int client_session_take(struct client_session *s, struct slot *slot, uint8_t *sink_buf)
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
		if (s->on_answer)
			s->on_answer(s->on_answer_arg, r);
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
