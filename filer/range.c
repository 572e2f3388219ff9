/* Thread model: the pool's lock protects the list of idle connections, what is known of servers and
 * the counters, and is never held while a connection is opened, used or closed. A connection that was
 * taken from the list belongs to the calling thread alone until it is given back. */
#include "filer/range.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <sys/queue.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include "filer/endpoint.h"

#define MS_PER_S 1000
#define REQUEST_BYTES_MAX 4096
#define IOVEC_MAX 64
/* Receives block, which saves a poll() each; but no longer than this, to look at the clock. */
#define RECEIVE_MS 100
#define STRANGERS 64

#define HTTP_OK 200
#define HTTP_NO_CONTENT 204
#define HTTP_RESET_CONTENT 205
#define HTTP_PARTIAL 206
#define HTTP_NOT_MODIFIED 304
#define HTTP_STATUS_LAST 599

/* A kept connection. Protected by the pool's lock while idle, else by its user alone. */
struct conn {
	TAILQ_ENTRY(conn) link; /* in the list of idle ones, or of those to be freed */
	int fd;
	uint64_t origin_hash;
	char origin[ENDPOINT_STR_MAX]; /* scheme://host:port */
	int64_t idle_since_ms;
};

TAILQ_HEAD(conn_list, conn);

/* A server that gave an unusual answer. Two that share a slot only cost time. */
struct stranger {
	uint64_t origin_hash;
	int64_t until_ms;
};

struct range_pool {
	struct http_pool *http; /* immutable, as are the limits */
	unsigned stall_timeout_ms;
	unsigned idle_max_ms;
	unsigned conns_max;
	uint64_t stall_bytes;
	pthread_mutex_t lock; /* protects all below; innermost */
	struct conn_list idle; /* most recently used first */
	unsigned n_idle;
	struct stranger strangers[STRANGERS];
	struct range_stats stats;
};

/* Requests on one connection. */
struct exchange {
	const struct range_pool *pool;
	const struct range_request *reqs; /* sent together, answered in order */
	size_t n_reqs;
	size_t n_done;
	range_answer on_answer; /* may be NULL */
	const struct range_request *req; /* whose answer comes now */
	int fd;
	/* It stalls when stall_bytes do not come within stall_timeout_ms of the mark. */
	uint64_t bytes; /* of the answer, so far */
	uint64_t mark_bytes;
	int64_t mark_ms;

	struct http_head head;
	bool keep; /* the connection can be used again */
	size_t buf; /* where the next byte of data goes */
	size_t buf_pos;
	size_t left; /* bytes of data that are still to come */
	size_t text_len;
	char text
		[RANGE_HEAD_BYTES_MAX]; /* the header, and what came with it: also of the next answers */
};

/* ---- The header ---- */

static const char version[] = "HTTP/1.1 ";
#define VERSION_LEN (sizeof(version) - 1)

/* Does an answer of that status have the body that its length says? */
static bool is_usual_status(int64_t status)
{
	return status >= HTTP_OK && status <= HTTP_STATUS_LAST && status != HTTP_NO_CONTENT &&
	       status != HTTP_RESET_CONTENT && status != HTTP_NOT_MODIFIED;
}

static bool parse_status_line(const char *line, const char *end, struct http_head *head)
{
	const char *digits = line + VERSION_LEN;
	const char *p = digits;
	int64_t status;

	if (!http_parse_number(&p, end, &status) || p - digits != 3 || (p < end && *p != ' '))
		return false;
	head->status = (int)status;
	return is_usual_status(status);
}

static bool is_clean(const char *s, const char *end)
{
	for (; s < end; s++)
		if (((unsigned char)*s < ' ' && *s != '\t') || *s == 0x7f)
			return false;
	return true;
}

static bool is_blank(char c)
{
	return c == ' ' || c == '\t';
}

static bool parse_length(const char *s, const char *end, struct http_head *head)
{
	int64_t length;

	if (head->content_length >= 0 || !http_parse_number(&s, end, &length) || s != end)
		return false;
	head->content_length = length;
	return true;
}

/* False: unusual. */
static bool parse_field(const char *line, const char *end, struct http_head *head, bool *keep)
{
	const char *colon = memchr(line, ':', (size_t)(end - line));

	/* A name without blanks: neither before the colon, nor as the continuation of a line. */
	if (!colon || colon == line || memchr(line, ' ', (size_t)(colon - line)) ||
	    memchr(line, '\t', (size_t)(colon - line)))
		return false;
	const char *value = colon + 1;
	while (value < end && is_blank(*value))
		value++;
	while (end > value && is_blank(end[-1]))
		end--;
	size_t name_len = (size_t)(colon - line);
	size_t len = (size_t)(end - value);
	if (http_name_is(line, name_len, "Content-Length"))
		return parse_length(value, end, head);
	if (http_name_is(line, name_len, "Transfer-Encoding") ||
	    http_name_is(line, name_len, "Upgrade"))
		return false;
	if (http_name_is(line, name_len, "Connection"))
		*keep = http_name_is(value, len, "keep-alive");
	else
		http_head_take(head, line, name_len, value, len);
	return true;
}

ssize_t range_parse_head(const char *text, size_t len, struct http_head *ret_head, bool *ret_keep)
{
	if (memcmp(text, version, min_u64(len, VERSION_LEN)) != 0)
		return -1;
	const char *end = memmem(text, len, "\r\n\r\n", 4);
	if (!end)
		return 0;
	const char *line = text;
	http_head_reset(ret_head);
	*ret_keep = true;
	for (bool first = true; line < end; first = false) {
		const char *eol = memmem(line, (size_t)(end + 2 - line), "\r\n", 2);

		if (!is_clean(line, eol))
			return -1;
		if (first ? !parse_status_line(line, eol, ret_head)
			  : !parse_field(line, eol, ret_head, ret_keep))
			return -1;
		line = eol + 2;
	}
	return ret_head->content_length < 0 ? -1 : end + 4 - text;
}

/* ---- The request ---- */

static int format_request(const struct range_request *r, char text[REQUEST_BYTES_MAX],
			  size_t *ret_len)
{
	const char *host = r->url + strlen("http://");
	int host_len = (int)(r->origin_len - strlen("http://"));
	bool token = r->bearer && r->bearer[0];
	uint64_t last;

	if (r->len == 0 || __builtin_add_overflow(r->offset, r->len - 1, &last))
		return -EINVAL;
	if (!is_clean(r->url, r->url + strlen(r->url)) ||
	    (token && !is_clean(r->bearer, r->bearer + strlen(r->bearer))))
		return -EINVAL;
	int n = snprintf(text, REQUEST_BYTES_MAX,
			 "GET %s HTTP/1.1\r\nHost: %.*s\r\nRange: bytes=%" PRIu64 "-%" PRIu64
			 "\r\n%s%s%s\r\n",
			 r->url + r->origin_len, host_len, host, r->offset, last,
			 token ? "Authorization: Bearer " : "", token ? r->bearer : "",
			 token ? "\r\n" : "");
	if (n < 0 || n >= REQUEST_BYTES_MAX)
		return -EINVAL;
	*ret_len = (size_t)n;
	return 0;
}

/* ---- Connections ---- */

static void conn_free(struct conn *c)
{
	close(c->fd);
	free(c);
}

static void free_conns(struct conn_list *list)
{
	struct conn *c;

	while ((c = TAILQ_FIRST(list))) {
		TAILQ_REMOVE(list, c, link);
		conn_free(c);
	}
}

static int make_blocking(int fd)
{
	const struct timeval wait = { .tv_usec = (suseconds_t)RECEIVE_MS * 1000 };
	int flags = fcntl(fd, F_GETFL);

	if (flags < 0 || fcntl(fd, F_SETFL, flags & ~O_NONBLOCK) < 0 ||
	    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof(wait)) < 0)
		return -errno;
	return 0;
}

static int conn_new(struct range_pool *p, const struct range_request *r, uint64_t hash,
		    struct conn **ret)
{
	struct conn *c = calloc(1, sizeof(*c));

	if (!c)
		return -ENOMEM;
	int err = http_connect(p->http, r->url, r->deadline, &c->fd);
	if (err)
		goto conn;
	err = make_blocking(c->fd);
	if (err)
		goto socket;
	memcpy(c->origin, r->url, r->origin_len);
	c->origin_hash = hash;
	*ret = c;
	return 0;
socket:
	close(c->fd);
conn:
	free(c);
	return err;
}

static bool fits(const struct conn *c, const struct range_request *r, uint64_t hash)
{
	return c->origin_hash == hash && memcmp(c->origin, r->url, r->origin_len) == 0 &&
	       c->origin[r->origin_len] == '\0';
}

/* Nothing may have come before anything was asked: neither an end, nor bytes that would be taken for
 * the answer. */
static bool is_quiet(const struct conn *c)
{
	char byte;

	return recv(c->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) < 0 &&
	       (errno == EAGAIN || errno == EWOULDBLOCK);
}

/* The idle connection that was used last for that origin, if it is still good, or NULL. False: the
 * server is a stranger. */
static bool conn_take(struct range_pool *p, const struct range_request *r, uint64_t hash,
		      struct conn **ret)
{
	int64_t now = now_ms();
	struct conn *c;

	{
		LOCK_SCOPE(&p->lock);
		const struct stranger *s = &p->strangers[hash % STRANGERS];
		if (s->origin_hash == hash && now < s->until_ms)
			return false;
		c = TAILQ_FIRST(&p->idle);
		while (c && !fits(c, r, hash))
			c = TAILQ_NEXT(c, link);
		if (c) {
			TAILQ_REMOVE(&p->idle, c, link);
			p->n_idle--;
		}
	}
	if (c && (now - c->idle_since_ms >= p->idle_max_ms || !is_quiet(c))) {
		conn_free(c);
		c = NULL;
	}
	*ret = c;
	return true;
}

/* Takes the connection back, or drops it; so too the least recently used ones beyond the limit, or
 * idle for too long. Counts the request. */
static void conn_put(struct range_pool *p, struct conn *c, bool keep,
		     const struct range_stats *count)
{
	struct conn_list drop = TAILQ_HEAD_INITIALIZER(drop);
	int64_t now = now_ms();

	{
		LOCK_SCOPE(&p->lock);
		p->stats.requests += count->requests;
		p->stats.failures += count->failures;
		p->stats.unusual += count->unusual;
		p->stats.connections += count->connections;
		p->stats.body_bytes += count->body_bytes;
		if (c && keep) {
			c->idle_since_ms = now;
			TAILQ_INSERT_HEAD(&p->idle, c, link);
			p->n_idle++;
		} else if (c) {
			TAILQ_INSERT_HEAD(&drop, c, link);
		}
		while ((c = TAILQ_LAST(&p->idle, conn_list)) &&
		       (p->n_idle > p->conns_max || now - c->idle_since_ms >= p->idle_max_ms)) {
			TAILQ_REMOVE(&p->idle, c, link);
			p->n_idle--;
			TAILQ_INSERT_TAIL(&drop, c, link);
		}
	}
	free_conns(&drop);
}

static void note_stranger(struct range_pool *p, uint64_t hash)
{
	LOCK_SCOPE(&p->lock);
	p->strangers[hash % STRANGERS] = (struct stranger){
		.origin_hash = hash, .until_ms = now_ms() + RANGE_UNUSUAL_MS
	};
}

/* ---- Receiving ---- */

/* How long the next receive may take; 0: the time is over. */
static int64_t wait_ms(struct exchange *x)
{
	int64_t now = now_ms();
	int64_t stall_ms = x->pool->stall_timeout_ms;

	if (x->bytes - x->mark_bytes >= x->pool->stall_bytes) {
		x->mark_bytes = x->bytes;
		x->mark_ms = now;
	}
	int64_t left = x->mark_ms + stall_ms - now;
	if (left > x->req->deadline.at_ms - now)
		left = x->req->deadline.at_ms - now;
	return left > 0 ? left : 0;
}

/* Returns the number of bytes, 0 at the end of the connection, or -errno. flags: MSG_WAITALL where
 * more than a piece is wanted. */
static ssize_t receive(struct exchange *x, struct iovec *iov, size_t n_iov, int flags)
{
	struct msghdr msg = { .msg_iov = iov, .msg_iovlen = n_iov };

	for (;;) {
		int64_t wait = wait_ms(x);
		if (wait == 0)
			return -ETIMEDOUT;
		if (wait < RECEIVE_MS) {
			struct pollfd ready = { .fd = x->fd, .events = POLLIN };

			if (poll(&ready, 1, (int)wait) <= 0)
				continue;
			flags = MSG_DONTWAIT;
		}
		ssize_t n = recvmsg(x->fd, &msg, flags);
		if (n >= 0) {
			x->bytes += (uint64_t)n;
			return n;
		}
		if (errno != EINTR && errno != EAGAIN && errno != EWOULDBLOCK)
			return -ECONNRESET;
	}
}

/* Returns the length of the header, which text then begins with, RANGE_UNUSUAL or -errno. */
static int receive_head(struct exchange *x, size_t *ret_len)
{
	for (;;) {
		ssize_t len = x->text_len
				      ? range_parse_head(x->text, x->text_len, &x->head, &x->keep)
				      : 0;
		if (len > 0) {
			*ret_len = (size_t)len;
			return 0;
		}
		if (len < 0 || x->text_len == sizeof(x->text))
			return RANGE_UNUSUAL;
		struct iovec iov = { .iov_base = x->text + x->text_len,
				     .iov_len = sizeof(x->text) - x->text_len };
		ssize_t n = receive(x, &iov, 1, 0);

		if (n < 0)
			return (int)n;
		if (n == 0)
			return x->text_len > 0 ? -EPROTO : -ECONNRESET;
		x->text_len += (size_t)n;
	}
}

/* Moves on to a buffer that has room, as there is while data is to come. */
static void skip_full(struct exchange *x)
{
	while (x->buf < x->req->n_bufs && x->buf_pos == x->req->bufs[x->buf].len) {
		x->buf++;
		x->buf_pos = 0;
	}
}

/* n bytes of data are in their place. */
static void advance(struct exchange *x, size_t n)
{
	x->left -= n;
	while (n > 0) {
		uint8_t *at = x->req->bufs[x->buf].ptr + x->buf_pos;
		size_t step = min_u64(n, x->req->bufs[x->buf].len - x->buf_pos);

		x->req->on_data(x->req->arg, at, step);
		n -= step;
		x->buf_pos += step;
		skip_full(x);
	}
}

/* Where the next bytes of data go. */
static size_t fill_iovec(const struct exchange *x, struct iovec iov[IOVEC_MAX])
{
	size_t pos = x->buf_pos;
	size_t n = 0;

	for (size_t i = x->buf; i < x->req->n_bufs && n < IOVEC_MAX; i++, pos = 0)
		iov[n++] = (struct iovec){ .iov_base = x->req->bufs[i].ptr + pos,
					   .iov_len = x->req->bufs[i].len - pos };
	return n;
}

/* What came with the header. */
static void place(struct exchange *x, const char *from, size_t n)
{
	while (n > 0) {
		const struct read_buf *b = &x->req->bufs[x->buf];
		size_t step = min_u64(n, b->len - x->buf_pos);

		memcpy(b->ptr + x->buf_pos, from, step);
		advance(x, step);
		from += step;
		n -= step;
	}
}

/* came: bytes of it that came with the header. */
static int receive_data(struct exchange *x, const char *from, size_t came)
{
	if (x->head.content_length != (int64_t)x->req->len)
		return -EPROTO;
	x->left = x->req->len;
	skip_full(x);
	place(x, from, came);
	while (x->left > 0) {
		struct iovec iov[IOVEC_MAX];
		/* Waking up for each segment costs more than waiting for all. */
		ssize_t n = receive(x, iov, fill_iovec(x, iov), MSG_WAITALL);

		if (n < 0)
			return (int)n;
		if (n == 0)
			return -EIO;
		advance(x, (size_t)n);
	}
	return 0;
}

static int drop_body(struct exchange *x, uint64_t came)
{
	uint64_t length = (uint64_t)x->head.content_length;

	if (length > RANGE_DROP_BYTES_MAX)
		return -EPROTO;
	while (came < length) {
		struct iovec iov = { .iov_base = x->text,
				     .iov_len = min_u64(sizeof(x->text), length - came) };
		ssize_t n = receive(x, &iov, 1, 0);

		if (n < 0)
			return (int)n;
		if (n == 0)
			return -EIO;
		came += (uint64_t)n;
	}
	return 0;
}

static int receive_answer(struct exchange *x)
{
	size_t head_len = 0;

	int err = receive_head(x, &head_len);
	if (!err)
		err = x->req->on_head(x->req->arg, &x->head);
	if (err)
		return err;
	size_t came = min_u64(x->text_len - head_len, (uint64_t)x->head.content_length);
	size_t rest = x->text_len - head_len - came;
	if (x->head.status == HTTP_OK || x->head.status == HTTP_PARTIAL)
		err = receive_data(x, x->text + head_len, came);
	else
		err = drop_body(x, came);
	/* More than was announced is the next answer, or else dropped, with the connection. */
	x->text_len = 0;
	if (!err && rest > 0 && x->n_done + 1 < x->n_reqs) {
		memmove(x->text, x->text + head_len + came, rest);
		x->text_len = rest;
	} else if (rest > 0) {
		x->keep = false;
	}
	return err;
}

static int receive_answers(struct exchange *x)
{
	for (; x->n_done < x->n_reqs; x->n_done++) {
		x->req = &x->reqs[x->n_done];
		x->buf = 0;
		x->buf_pos = 0;
		int err = receive_answer(x);
		if (err)
			return err;
		if (x->on_answer)
			x->on_answer(x->req->arg, 0, &x->head);
		if (!x->keep && x->n_done + 1 < x->n_reqs) {
			x->n_done++;
			return -ECONNRESET;
		}
	}
	return 0;
}

static int exchange_run(struct exchange *x, int fd, const char *text, size_t len)
{
	x->fd = fd;
	x->mark_bytes = 0;
	x->mark_ms = now_ms();
	x->keep = false;
	x->text_len = 0;
	x->req = x->reqs;
	/* A connection on which nothing is under way has room for a request. */
	ssize_t n = send(fd, text, len, MSG_NOSIGNAL | MSG_DONTWAIT);
	if (n < 0)
		return -ECONNRESET;
	return (size_t)n == len ? receive_answers(x) : -EIO;
}

/* ---- Requests ---- */

/* Sends the requests, which text consists of, and takes the answers. */
static int perform(struct range_pool *p, struct exchange *x, const char *text, size_t len)
{
	const struct range_request *r = x->reqs;
	struct range_stats count = { .requests = x->n_reqs };
	uint64_t hash = hash_bytes(HASH_SEED, r->url, r->origin_len);
	struct conn *c;

	if (deadline_passed(r->deadline))
		return -ETIMEDOUT;
	if (!conn_take(p, r, hash, &c))
		return RANGE_UNUSUAL;
	x->pool = p;
	x->n_done = 0;
	x->bytes = 0;
	int err = c ? exchange_run(x, c->fd, text, len) : -ECONNRESET;
	if (err == -ECONNRESET && x->bytes == 0) {
		if (c)
			conn_free(c);
		c = NULL;
		err = conn_new(p, r, hash, &c);
		if (!err) {
			count.connections++;
			err = exchange_run(x, c->fd, text, len);
		}
	}
	count.unusual = err == RANGE_UNUSUAL;
	count.failures = err < 0;
	count.body_bytes = x->bytes;
	conn_put(p, c, !err && x->keep, &count);
	if (err == RANGE_UNUSUAL)
		note_stranger(p, hash);
	return err;
}

/* Is that what this way is for? */
static int check_url(const struct range_request *r)
{
	if (strncmp(r->url, "http://", strlen("http://")) != 0)
		return RANGE_UNUSUAL;
	return r->origin_len < ENDPOINT_STR_MAX ? 0 : -EINVAL;
}

int range_get(struct range_pool *p, const struct range_request *r, struct http_head *ret_head)
{
	struct exchange x; /* not cleared: it is large */
	char text[REQUEST_BYTES_MAX];
	size_t len;

	int err = check_url(r);
	if (!err)
		err = format_request(r, text, &len);
	if (err)
		return err;
	x.reqs = r;
	x.n_reqs = 1;
	x.on_answer = NULL;
	err = perform(p, &x, text, len);
	if (!err)
		*ret_head = x.head;
	return err;
}

static int perform_many(struct range_pool *p, struct exchange *x)
{
	CLEANUP_FREE char *text = malloc(x->n_reqs * REQUEST_BYTES_MAX);
	size_t len = 0;

	if (!text)
		return -ENOMEM;
	for (size_t i = 0; i < x->n_reqs; i++) {
		size_t more;
		int err = check_url(&x->reqs[i]);

		if (!err)
			err = format_request(&x->reqs[i], text + len, &more);
		if (err)
			return err;
		len += more;
	}
	return perform(p, x, text, len);
}

void range_get_many(struct range_pool *p, const struct range_request *r, size_t n,
		    range_answer on_answer)
{
	struct exchange x; /* not cleared: it is large */

	x.reqs = r;
	x.n_reqs = n;
	x.n_done = 0;
	x.on_answer = on_answer;
	int err = n <= RANGE_MANY_MAX ? perform_many(p, &x) : -EINVAL;
	for (size_t i = x.n_done; i < n; i++)
		on_answer(r[i].arg, err, NULL);
}

/* ---- The pool ---- */

int range_pool_new(struct http_pool *http, struct range_pool **ret)
{
	const struct http_config *cfg = http_pool_config(http);
	struct range_pool *p = calloc(1, sizeof(*p));

	if (!p)
		return -ENOMEM;
	p->http = http;
	p->stall_timeout_ms = cfg->stall_timeout_ms;
	p->idle_max_ms = cfg->idle_max_ms;
	p->conns_max = cfg->handles_max;
	p->stall_bytes = (uint64_t)HTTP_STALL_BYTES_PER_S * cfg->stall_timeout_ms / MS_PER_S;
	TAILQ_INIT(&p->idle);
	int err = -pthread_mutex_init(&p->lock, NULL);
	if (err) {
		free(p);
		return err;
	}
	*ret = p;
	return 0;
}

void range_pool_free(struct range_pool *p)
{
	if (!p)
		return;
	free_conns(&p->idle);
	pthread_mutex_destroy(&p->lock);
	free(p);
}

void range_pool_stats(struct range_pool *p, struct range_stats *ret)
{
	LOCK_SCOPE(&p->lock);
	*ret = p->stats;
}
