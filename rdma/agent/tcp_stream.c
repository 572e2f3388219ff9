#include <errno.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "rdma/agent/tcp.h"
#include "rdma/wire.h"

/* After so much it is another connection's turn. */
#define TURN_BYTES_MAX ((uint64_t)2 << 20)

/* --- out --- */

static struct output *take_first(struct connection *c)
{
	struct output *o = c->out_first;

	c->out_first = o->next;
	c->message_sent = 0;
	c->pieces_sent = 0;
	c->piece_sent = 0;
	c->warm_end = 0;
	return o;
}

static bool is_sent(const struct connection *c)
{
	const struct output *o = c->out_first;

	return c->message_sent == o->message_bytes && c->pieces_sent == o->n_pieces;
}

/* So many bytes more of the first output are out. */
static void account(struct connection *c, uint64_t n)
{
	const struct output *o = c->out_first;
	uint64_t of_message = min_u64(n, o->message_bytes - c->message_sent);

	c->progress_ms = now_ms();
	c->message_sent += of_message;
	n -= of_message;
	while (n > 0) {
		uint64_t of_piece = min_u64(n, o->pieces[c->pieces_sent].bytes - c->piece_sent);

		c->piece_sent += of_piece;
		n -= of_piece;
		if (c->piece_sent == o->pieces[c->pieces_sent].bytes) {
			c->pieces_sent++;
			c->piece_sent = 0;
			c->warm_end = 0;
		}
	}
}

/* The message and what lies in memory behind it, in one call. Returns bytes or -errno. */
static ssize_t send_memory(struct connection *c)
{
	const struct output *o = c->out_first;
	struct iovec iov[1 + WIRE_EXTENTS_MAX];
	struct msghdr msg = { .msg_iov = iov };
	size_t i = c->pieces_sent;

	if (c->message_sent < o->message_bytes)
		iov[msg.msg_iovlen++] = (struct iovec){ (uint8_t *)o->message + c->message_sent,
							o->message_bytes - c->message_sent };
	for (; i < o->n_pieces && o->pieces[i].mem; i++) {
		uint64_t sent = i == c->pieces_sent ? c->piece_sent : 0;

		iov[msg.msg_iovlen++] = (struct iovec){ (uint8_t *)o->pieces[i].mem + sent,
							o->pieces[i].bytes - sent };
	}
	ssize_t n = sendmsg(c->fd, &msg, MSG_NOSIGNAL | (i < o->n_pieces ? MSG_MORE : 0));
	return n < 0 ? -errno : n;
}

static void warmed(struct disk_read *r)
{
	struct connection *c = r->arg;

	c->warming = false;
	tcp_mark_changed(c);
}

/* Sends from the page cache, after making sure that it is there: sendfile() would wait for the disk,
 * and all connections of this thread with it. Returns bytes, -EAGAIN, -EINPROGRESS (see warming) or
 * -errno. */
static ssize_t send_file(struct connection *c)
{
	const struct output_piece *p = &c->out_first->pieces[c->pieces_sent];
	off_t offset = (off_t)(p->offset + c->piece_sent);
	uint64_t left = p->bytes - c->piece_sent;

	if ((uint64_t)offset >= c->warm_end) {
		c->warm = (struct disk_read){ .fd = p->fd,
					      .offset = (uint64_t)offset,
					      .bytes = min_u64(left, DISK_WARM_BYTES_MAX),
					      .done = warmed,
					      .arg = c };
		c->warm_end = c->warm.offset + c->warm.bytes;
		c->warming = !disk_warm(c->thread->disk, &c->warm);
		if (c->warming)
			return -EINPROGRESS;
	}
	ssize_t n = sendfile(c->fd, p->fd, &offset, min_u64(left, c->warm_end - (uint64_t)offset));
	/* The server took back an append that failed: what was promised is not there any more. */
	if (n == 0)
		return -EIO;
	return n < 0 ? -errno : n;
}

static ssize_t send_some(struct connection *c)
{
	const struct output *o = c->out_first;

	if (c->message_sent < o->message_bytes || o->pieces[c->pieces_sent].mem)
		return send_memory(c);
	return send_file(c);
}

static void start_lingering(struct connection *c)
{
	shutdown(c->fd, SHUT_WR);
	c->state = CONNECTION_LINGERING;
	c->progress_ms = now_ms();
}

static void finish_first(struct connection *c)
{
	struct output *o = take_first(c);

	if (o->last) {
		tcp_stream_abandon(c);
		start_lingering(c);
	}
	o->done(o);
}

void tcp_stream_flush(struct connection *c)
{
	uint64_t turn_bytes = 0;

	if (c->flushing)
		return;
	c->flushing = true;
	c->write_blocked = false;
	while (c->out_first && c->state == CONNECTION_OPEN && !c->warming) {
		ssize_t n = send_some(c);

		if (n >= 0) {
			account(c, (uint64_t)n);
			turn_bytes += (uint64_t)n;
			if (is_sent(c))
				finish_first(c);
			if (turn_bytes < TURN_BYTES_MAX)
				continue;
		} else if (n == -EINTR || n == -EINPROGRESS) {
			continue;
		} else if (n != -EAGAIN) {
			tcp_drop(c);
			break;
		}
		c->write_blocked = c->out_first != NULL;
		break;
	}
	c->flushing = false;
}

void tcp_stream_send(struct connection *c, struct output *o)
{
	if (c->state != CONNECTION_OPEN) {
		o->done(o);
		return;
	}
	bool first = !c->out_first;
	o->next = NULL;
	if (first)
		c->out_first = o;
	else
		c->out_last->next = o;
	c->out_last = o;
	if (first) {
		c->progress_ms = now_ms();
		tcp_stream_flush(c);
	}
	/* From a disk read or a time limit. */
	if (!c->advancing)
		tcp_mark_changed(c);
}

void tcp_stream_abandon(struct connection *c)
{
	while (c->out_first) {
		struct output *o = take_first(c);

		o->done(o);
	}
}

/* --- in --- */

bool tcp_stream_wants_input(const struct connection *c)
{
	switch (c->state) {
	case CONNECTION_OPEN:
		return session_wants(c->session);
	case CONNECTION_LINGERING:
		return true;
	default:
		return false;
	}
}

/* Returns false where more has to arrive first. */
static bool deliver_one(struct connection *c)
{
	const uint8_t *p = c->in + c->in_start;
	size_t have = c->in_end - c->in_start;
	struct wire_header h;

	if (have < WIRE_HEADER_BYTES)
		return false;
	if (wire_decode_header(p, have, &h)) {
		session_malformed(c->session);
		return false;
	}
	if (have - WIRE_HEADER_BYTES < h.length)
		return false;
	c->in_start += WIRE_HEADER_BYTES + h.length;
	session_message(c->session, &h, p + WIRE_HEADER_BYTES);
	return true;
}

void tcp_stream_deliver(struct connection *c)
{
	while (c->state == CONNECTION_OPEN && tcp_stream_wants_input(c) && deliver_one(c))
		;
	if (c->in_start == c->in_end)
		c->in_start = c->in_end = 0;
}

void tcp_stream_receive(struct connection *c)
{
	if (c->state == CONNECTION_LINGERING)
		c->in_start = c->in_end = 0;
	if (c->in_end == WIRE_MESSAGE_BYTES_MAX) {
		memmove(c->in, c->in + c->in_start, c->in_end - c->in_start);
		c->in_end -= c->in_start;
		c->in_start = 0;
	}
	/* Full of what is not to be delivered yet. */
	if (c->in_end == WIRE_MESSAGE_BYTES_MAX)
		return;
	ssize_t n = recv(c->fd, c->in + c->in_end, WIRE_MESSAGE_BYTES_MAX - c->in_end, 0);
	if (n > 0)
		c->in_end += (size_t)n;
	else if (n == 0 || (errno != EAGAIN && errno != EINTR))
		tcp_drop(c);
}
