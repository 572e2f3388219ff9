/* The client's TCP transport.
 *
 * Thread model: none of its own; see rdma/transport.h. The socket is blocking, with a time limit of
 * TICK_MS for a single call: one system call then waits for an answer and reads it, and deadlines are
 * looked at in between. Only waits that are to end sooner go through poll(). (Against a try, a poll and
 * another recv, a 4 KiB answer needs one call instead of more than two; the time is the same.)
 *
 * Reading: bytes go where the hint says they belong, message and data in one call. What turns out to
 * be something else is put into rx, which is always read from first. */
#include "rdma/transport.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#define TICK_MS 100
#define US_PER_MS 1000

/* Most of a hint's data that is read along with the message: what a wrong guess would have to copy. */
#define AHEAD_BYTES_MAX (64 * KIB)
#define AHEAD_BUFS_MAX 8
/* Read at once where nothing is known of what comes. */
#define BLIND_BYTES 4096

#define RX_BYTES (AHEAD_BYTES_MAX + WIRE_MESSAGE_BYTES_MAX)

struct client_connection {
	int fd; /* immutable */
	int64_t stall_ms; /* immutable */

	/* All below belong to the receiving thread. */
	struct iovec ahead[AHEAD_BUFS_MAX]; /* the hint's data, as far as it was asked for */
	size_t ahead_at; /* bytes of it that were taken */
	size_t ahead_end; /* bytes of it that are there; >= ahead_at */
	size_t rx_at; /* bytes of rx that were used */
	size_t rx_end;
	uint8_t rx[RX_BYTES];
};

/* --- system calls with deadlines --- */

static int wait_ready(int fd, short events, struct deadline d)
{
	struct pollfd p = { .fd = fd, .events = events };

	for (;;) {
		int n = poll(&p, 1, (int)min_u64((uint64_t)deadline_left_ms(d), INT32_MAX));
		if (n > 0)
			return 0;
		if (n == 0 && deadline_passed(d))
			return -ETIMEDOUT;
		if (n < 0 && errno != EINTR)
			return -errno;
	}
}

/* recvmsg and sendmsg: as many bytes as one call moves, > 0; or -errno. */
static ssize_t move_bytes(int fd, short event, struct iovec *iov, size_t n_iov, struct deadline d)
{
	struct msghdr m = { .msg_iov = iov, .msg_iovlen = n_iov };

	for (;;) {
		int64_t left = deadline_left_ms(d);
		int flags = MSG_NOSIGNAL | (left < TICK_MS ? MSG_DONTWAIT : 0);

		if (left > 0 && left < TICK_MS) {
			int err = wait_ready(fd, event, d);
			if (err)
				return err;
		}
		ssize_t n = event == POLLIN ? recvmsg(fd, &m, flags) : sendmsg(fd, &m, flags);
		if (n > 0)
			return n;
		if (n == 0 || errno == EPIPE)
			return -ECONNRESET;
		if (errno != EAGAIN && errno != EINTR)
			return -errno;
		if (left == 0)
			return -ETIMEDOUT;
	}
}

/* --- connecting --- */

static int connect_by(int fd, const struct client_address *a, struct deadline d)
{
	socklen_t len = sizeof(int);
	int failed = 0;

	if (connect(fd, (const struct sockaddr *)&a->sockaddr, a->len) == 0)
		return 0;
	if (errno != EINPROGRESS && errno != EINTR)
		return -errno;
	int err = wait_ready(fd, POLLOUT, d);
	if (err)
		return err;
	if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &failed, &len) != 0)
		return -errno;
	return -failed;
}

static int set_up(int fd)
{
	const struct timeval tick = { .tv_usec = (suseconds_t)TICK_MS * US_PER_MS };
	const int on = 1;
	int flags = fcntl(fd, F_GETFL);

	if (flags < 0 || fcntl(fd, F_SETFL, flags & ~O_NONBLOCK) != 0 ||
	    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on)) != 0 ||
	    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &tick, sizeof(tick)) != 0 ||
	    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &tick, sizeof(tick)) != 0)
		return -errno;
	return 0;
}

static int tcp_connect(const struct client_address *a, int64_t stall_ms, struct deadline d,
		       struct client_connection **ret)
{
	struct client_connection *c = malloc(sizeof(*c));
	int err;

	if (!c)
		return -ENOMEM;
	c->stall_ms = stall_ms;
	c->ahead_at = c->ahead_end = 0;
	c->rx_at = c->rx_end = 0;
	c->fd = socket(a->sockaddr.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (c->fd < 0) {
		err = -errno;
		goto free_connection;
	}
	err = connect_by(c->fd, a, d);
	if (!err)
		err = set_up(c->fd);
	if (err)
		goto close_fd;
	*ret = c;
	return 0;

close_fd:
	close(c->fd);
free_connection:
	free(c);
	return err;
}

static void tcp_abort(struct client_connection *c)
{
	shutdown(c->fd, SHUT_RDWR);
}

static void tcp_close(struct client_connection *c)
{
	if (!c)
		return;
	close(c->fd);
	free(c);
}

/* --- sending --- */

static int tcp_send(struct client_connection *c, const uint8_t *message, size_t len,
		    struct deadline d)
{
	while (len > 0) {
		struct iovec iov = { .iov_base = (void *)message, .iov_len = len };
		ssize_t n = move_bytes(c->fd, POLLOUT, &iov, 1, d);

		if (n < 0)
			return (int)n;
		message += n;
		len -= (size_t)n;
	}
	return 0;
}

/* --- receiving --- */

static size_t rx_left(const struct client_connection *c)
{
	return c->rx_end - c->rx_at;
}

/* Makes room behind what is left in rx. */
static void rx_compact(struct client_connection *c)
{
	if (c->rx_at == 0)
		return;
	memmove(c->rx, c->rx + c->rx_at, rx_left(c));
	c->rx_end -= c->rx_at;
	c->rx_at = 0;
}

static void tcp_settle(struct client_connection *c)
{
	size_t at = 0;

	/* What is left in rx is at most the message to which the data does not belong. */
	if (c->ahead_at < c->ahead_end)
		rx_compact(c);
	for (size_t i = 0; c->ahead_at < c->ahead_end; at += c->ahead[i++].iov_len) {
		size_t to = min_u64(c->ahead_end, at + c->ahead[i].iov_len);

		if (c->ahead_at >= to)
			continue;
		memcpy(c->rx + c->rx_end, (uint8_t *)c->ahead[i].iov_base + (c->ahead_at - at),
		       to - c->ahead_at);
		c->rx_end += to - c->ahead_at;
		c->ahead_at = to;
	}
	c->ahead_at = c->ahead_end = 0;
}

/* Lists where the hint wants the data; returns how many places. */
static size_t list_ahead(struct client_connection *c, const struct client_hint *hint)
{
	size_t n = 0, bytes = 0;

	while (n < hint->n_bufs && n < AHEAD_BUFS_MAX && bytes < AHEAD_BYTES_MAX) {
		const struct read_buf *b = &hint->bufs[n];

		c->ahead[n] = (struct iovec){ .iov_base = b->ptr,
					      .iov_len = min_u64(b->len, AHEAD_BYTES_MAX - bytes) };
		bytes += c->ahead[n++].iov_len;
	}
	return n;
}

/* Reads what the hint says, or anything at all. rx is empty. */
static int fill_hinted(struct client_connection *c, const struct client_hint *hint,
		       struct deadline d)
{
	struct iovec iov[1 + AHEAD_BUFS_MAX];
	size_t n_ahead = list_ahead(c, hint);

	iov[0] = (struct iovec){ .iov_base = c->rx, .iov_len = hint->message_bytes };
	memcpy(iov + 1, c->ahead, n_ahead * sizeof(*iov));
	ssize_t n = move_bytes(c->fd, POLLIN, iov, 1 + n_ahead, d);
	if (n < 0)
		return (int)n;
	c->rx_at = 0;
	c->rx_end = min_u64((size_t)n, hint->message_bytes);
	c->ahead_end = (size_t)n - c->rx_end;
	return 0;
}

/* Reads until rx has at least `wanted` bytes. */
static int fill_blindly(struct client_connection *c, size_t wanted, struct deadline d)
{
	if (rx_left(c) >= wanted)
		return 0;
	rx_compact(c);
	while (c->rx_end < wanted) {
		size_t bytes = max_u64(wanted - c->rx_end,
				       min_u64(BLIND_BYTES, RX_BYTES - c->rx_end));
		struct iovec iov = { .iov_base = c->rx + c->rx_end, .iov_len = bytes };
		ssize_t n = move_bytes(c->fd, POLLIN, &iov, 1, d);

		if (n < 0)
			return (int)n;
		c->rx_end += (size_t)n;
	}
	return 0;
}

static bool hint_is_right(const struct client_hint *hint, const struct wire_header *h)
{
	return h->type == WIRE_READ_REPLY && h->xid == hint->xid &&
	       WIRE_HEADER_BYTES + h->length == hint->message_bytes;
}

static int tcp_receive(struct client_connection *c, const struct client_hint *hint,
		       struct client_message *ret, struct deadline d)
{
	struct wire_header h;
	int err = 0;

	tcp_settle(c);
	if (hint && rx_left(c) == 0)
		err = fill_hinted(c, hint, d);
	/* With data ahead all of the supposed message is there. */
	if (!err && c->ahead_end == 0)
		err = fill_blindly(c, WIRE_HEADER_BYTES, d);
	if (err)
		return err;
	err = wire_decode_header(c->rx + c->rx_at, WIRE_HEADER_BYTES, &h);
	if (err)
		return err;
	if (c->ahead_end > 0 && !(hint && hint_is_right(hint, &h)))
		tcp_settle(c);
	if (c->ahead_end == 0)
		err = fill_blindly(c, WIRE_HEADER_BYTES + h.length, d);
	if (err)
		return err;
	ret->pulled = false;
	ret->header = h;
	ret->payload = c->rx + c->rx_at + WIRE_HEADER_BYTES;
	c->rx_at += WIRE_HEADER_BYTES + h.length;
	return 0;
}

/* From rx. Returns how many bytes. */
static size_t take_kept(struct client_connection *c, uint8_t *p, size_t n)
{
	n = min_u64(n, rx_left(c));
	memcpy(p, c->rx + c->rx_at, n);
	c->rx_at += n;
	return n;
}

static int tcp_take(struct client_connection *c, uint8_t *p, size_t n, size_t *got,
		    struct deadline d)
{
	size_t done = min_u64(n, c->ahead_end - c->ahead_at);

	c->ahead_at += done;
	done += take_kept(c, p + done, n - done);
	*got += done;
	while (done < n) {
		struct iovec iov = { .iov_base = p + done, .iov_len = n - done };
		ssize_t moved = move_bytes(c->fd, POLLIN, &iov, 1, deadline_sooner(d, c->stall_ms));

		if (moved < 0)
			return (int)moved;
		done += (size_t)moved;
		*got += (size_t)moved;
	}
	return 0;
}

static int tcp_pull(struct client_connection *c, const struct client_lease *lease,
		    struct deadline d)
{
	(void)c;
	(void)lease;
	(void)d;
	return -EOPNOTSUPP;
}

const struct client_transport client_tcp = {
	.name = "tcp",
	.capabilities = WIRE_CAP_STREAM,
	.connect = tcp_connect,
	.send = tcp_send,
	.receive = tcp_receive,
	.take = tcp_take,
	.settle = tcp_settle,
	.pull = tcp_pull,
	.abort = tcp_abort,
	.close = tcp_close,
};
