/* Thread model: any thread reads, on its own stack; the lock protects the tokens that masters gave. */
#include "filer/needle.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include "filer/base/crc32c.h"
#include "filer/filer.h"
#include "filer/http.h"
#include "filer/locate.h"
#include "filer/range.h"
#include "filer/token.h"

#define NEEDLE_URL_MAX (ENDPOINT_STR_MAX + FID_STR_MAX + 64)

/* Tokens from a master: they last 60 s there, and most reads of a chunk follow each other closely. */
#define TOKEN_SLOTS 64
#define TOKEN_REUSE_MS 20000

#define CRC_TEXT_LEN 8

#define HTTP_OK 200
#define HTTP_PARTIAL 206
#define HTTP_REDIRECT 300
#define HTTP_BAD_REQUEST 400
#define HTTP_UNAUTHORIZED 401
#define HTTP_FORBIDDEN 403
#define HTTP_NOT_FOUND 404
#define HTTP_RANGE_REFUSED 416
#define HTTP_BUSY 429
#define HTTP_SERVER_ERROR 500

struct token_slot {
	struct fid fid;
	int64_t until_ms;
	char token[TOKEN_MAX];
};

struct needle_http {
	struct http_pool *http;
	struct range_pool *ranges;
	struct token_source *tokens;
	struct locator *locator;
	struct filer *filer;
	/* Some server answered 401: ask for a token first. Only ever set. */
	atomic_bool tokens_wanted;
	pthread_mutex_t lock; /* protects slots */
	struct token_slot slots[TOKEN_SLOTS];
};

/* One read, of either kind. */
struct job {
	const struct fid *fid;
	struct needle_range *range; /* NULL: the whole needle */
	size_t range_len;
	const struct needle_sink *sink;

	int status; /* 0: no header came */
	bool data; /* the body is what was asked for */
	bool gzip; /* ... as a gzip stream */
	bool crc_known; /* ... and all of the needle, with a checksum */
	uint32_t crc_wanted;
	uint32_t crc; /* of what has come so far */
	size_t dropped; /* bytes of a body that is no data */
	size_t buf; /* where the next byte of a range goes */
	size_t buf_pos;
};

/* Where and as whom to ask. */
struct target {
	char url[NEEDLE_URL_MAX];
	size_t origin_len; /* of url, up to the path */
	char token[TOKEN_MAX]; /* "": none */
};

int needle_http_new(struct http_pool *http, struct token_source *tokens, struct locator *locator,
		    struct filer *filer, struct needle_http **ret)
{
	struct needle_http *n = calloc(1, sizeof(*n));

	if (!n)
		return -ENOMEM;
	int err = -pthread_mutex_init(&n->lock, NULL);
	if (err)
		goto needles;
	err = range_pool_new(http, &n->ranges);
	if (err)
		goto lock;
	n->http = http;
	n->tokens = tokens;
	n->locator = locator;
	n->filer = filer;
	*ret = n;
	return 0;
lock:
	pthread_mutex_destroy(&n->lock);
needles:
	free(n);
	return err;
}

void needle_http_free(struct needle_http *n)
{
	if (!n)
		return;
	range_pool_free(n->ranges);
	pthread_mutex_destroy(&n->lock);
	free(n);
}

/* --- checksums --- */

/* The ETag of a needle is the CRC32C of its stored bytes in hexadecimal. */
static bool crc_from_etag(const char *etag, uint32_t *ret)
{
	char *end;

	if (strlen(etag) != CRC_TEXT_LEN || strspn(etag, "0123456789abcdefABCDEF") != CRC_TEXT_LEN)
		return false;
	*ret = (uint32_t)strtoul(etag, &end, 16);
	return true;
}

static bool crc_matches(const struct job *j)
{
	return !j->crc_known || crc32c_matches(j->crc_wanted, j->crc);
}

static void crc_start(struct job *j, const struct http_head *head)
{
	j->crc = 0;
	j->crc_known = crc_from_etag(head->etag, &j->crc_wanted);
}

/* --- what comes in --- */

static int begin_range(struct job *j, const struct http_head *head)
{
	if (head->gzip)
		return -EPROTO; /* parts of a gzip stream are of no use */
	if (head->status == HTTP_PARTIAL && head->range_total > 0)
		j->range->plain_bytes = (uint64_t)head->range_total;
	if (head->content_length == 0) /* some servers answer a range at the end like that */
		return head->status == HTTP_PARTIAL ? -ENODATA : -EPROTO;
	if (head->status == HTTP_OK) {
		/* Without regard to the range: right only where the range is all there is. */
		if (j->range->offset != 0 || head->content_length != (int64_t)j->range_len)
			return -EPROTO;
		crc_start(j, head);
		return 0;
	}
	if (head->range_start < 0 || (uint64_t)head->range_start != j->range->offset)
		return -EPROTO;
	if (head->content_length >= 0 && (uint64_t)head->content_length < j->range_len)
		return -ENODATA;
	if (head->content_length > (int64_t)j->range_len)
		return -EPROTO;
	if (j->range->offset == 0 && head->range_total == (int64_t)j->range_len)
		crc_start(j, head);
	return 0;
}

static int begin_whole(struct job *j, const struct http_head *head)
{
	if (head->status != HTTP_OK)
		return -EPROTO;
	crc_start(j, head);
	j->gzip = head->gzip;
	return j->sink->begin(j->sink->arg, head->gzip, head->content_length);
}

static int on_head(void *arg, const struct http_head *head)
{
	struct job *j = arg;

	j->status = head->status;
	if (head->status != HTTP_OK && head->status != HTTP_PARTIAL)
		return 0; /* its body is drained, so that the connection can be used again */
	j->data = true;
	return j->range ? begin_range(j, head) : begin_whole(j, head);
}

static int push_range(struct job *j, const uint8_t *p, size_t n)
{
	struct needle_range *r = j->range;

	if (n > j->range_len - r->got)
		return -EPROTO;
	while (n > 0) {
		const struct read_buf *b = &r->bufs[j->buf];
		size_t step = min_u64(n, b->len - j->buf_pos);

		memcpy(b->ptr + j->buf_pos, p, step);
		p += step;
		n -= step;
		r->got += step;
		j->buf_pos += step;
		if (j->buf_pos == b->len) {
			j->buf++;
			j->buf_pos = 0;
		}
	}
	return 0;
}

static int on_body(void *arg, const uint8_t *p, size_t n)
{
	struct job *j = arg;

	if (!j->data) {
		j->dropped += n;
		return j->dropped > RANGE_DROP_BYTES_MAX ? -EPROTO : 0;
	}
	if (j->crc_known)
		j->crc = crc32c(j->crc, p, n);
	return j->range ? push_range(j, p, n) : j->sink->push(j->sink->arg, p, n);
}

static int status_err(int status)
{
	if (status == HTTP_OK || status == HTTP_PARTIAL)
		return 0;
	if (status == HTTP_NOT_FOUND)
		return -ENOENT;
	if (status == HTTP_UNAUTHORIZED || status == HTTP_FORBIDDEN)
		return -EACCES;
	if (status == HTTP_RANGE_REFUSED)
		return -ENODATA;
	if (status == HTTP_BUSY)
		return -EBUSY;
	if (status >= HTTP_SERVER_ERROR)
		return -EIO;
	/* A redirect says that the volume is not here, but elsewhere: so do fresh locations. */
	return status >= HTTP_REDIRECT && status < HTTP_BAD_REQUEST ? -ENOENT : -EPROTO;
}

/* Data that was received into its place. */
static void on_data(void *arg, const uint8_t *p, size_t n)
{
	struct job *j = arg;

	if (j->crc_known)
		j->crc = crc32c(j->crc, p, n);
	j->range->got += n;
}

static struct range_request range_request_of(const struct target *t, struct job *j,
					     struct deadline d)
{
	return (struct range_request){
		.url = t->url,
		.origin_len = t->origin_len,
		.bearer = t->token,
		.offset = j->range->offset,
		.len = j->range_len,
		.bufs = j->range->bufs,
		.n_bufs = j->range->n_bufs,
		.on_head = on_head,
		.on_data = on_data,
		.arg = j,
		.deadline = d,
	};
}

/* The short way, for ranges over plain http. RANGE_UNUSUAL: go the other one. */
static int get_range(struct needle_http *n, const struct target *t, struct job *j,
		     struct deadline d, struct http_head *ret_head)
{
	const struct range_request r = range_request_of(t, j, d);

	return range_get(n->ranges, &r, ret_head);
}

static int get(struct needle_http *n, const struct target *t, struct job *j, struct deadline d,
	       struct http_head *ret_head)
{
	struct http_request r = {
		.url = t->url,
		.bearer = t->token[0] ? t->token : NULL,
		.accept_gzip = !j->range,
		.has_range = j->range != NULL,
		.on_head = on_head,
		.on_body = on_body,
		.arg = j,
		.deadline = d,
	};

	if (j->range) {
		int err = get_range(n, t, j, d, ret_head);
		if (err != RANGE_UNUSUAL)
			return err;
		r.range_offset = j->range->offset;
		r.range_len = j->range_len;
	}
	return http_perform(n->http, &r, ret_head);
}

/* What a complete answer comes to. */
static int result_of(const struct job *j, const struct http_head *head)
{
	int err = status_err(head->status);

	if (!err && j->range && j->range->got < j->range_len)
		err = -EIO;
	if (!err && !crc_matches(j))
		err = -EBADMSG;
	return err;
}

static int perform(struct needle_http *n, const struct target *t, struct job *j, struct deadline d)
{
	struct http_head head;
	int err = get(n, t, j, d, &head);

	return err ? err : result_of(j, &head);
}

/* --- a needle that the checksum does not fit --- */

static int drop_begin(void *arg, bool gzip, int64_t stored_len)
{
	(void)arg;
	(void)gzip;
	(void)stored_len;
	return 0;
}

static int drop_push(void *arg, const uint8_t *p, size_t n)
{
	(void)arg;
	(void)p;
	(void)n;
	return 0;
}

/* A range of a needle that is stored compressed comes as plain bytes, with the checksum of the
 * compressed ones, and nothing in the answer says so. Chunks whose entry does not tell are rare
 * enough to ask for the stored bytes and look at those. */
static int check_stored(struct needle_http *n, const struct target *t, const struct job *range,
			struct deadline d)
{
	const struct needle_sink sink = { .begin = drop_begin, .push = drop_push };
	struct job j = { .fid = range->fid, .sink = &sink };

	return perform(n, t, &j, d) == 0 && j.gzip ? 0 : -EBADMSG;
}

static int perform_checked(struct needle_http *n, const struct target *t, struct job *j,
			   struct deadline d)
{
	int err = perform(n, t, j, d);

	if (err == -EBADMSG && j->range) {
		err = check_stored(n, t, j, d);
		if (err)
			j->range->got = 0; /* nothing of it can be built upon */
	}
	return err;
}

/* --- tokens that masters give --- */

static struct token_slot *slot_of(struct needle_http *n, const struct fid *fid)
{
	return &n->slots[hash_bytes(HASH_SEED, &fid->key, sizeof(fid->key)) % TOKEN_SLOTS];
}

static bool same_fid(const struct fid *a, const struct fid *b)
{
	return a->key == b->key && a->volume_id == b->volume_id && a->cookie == b->cookie;
}

static bool token_recall(struct needle_http *n, const struct fid *fid, char token[TOKEN_MAX])
{
	struct token_slot *slot = slot_of(n, fid);
	LOCK_SCOPE(&n->lock);

	if (!same_fid(&slot->fid, fid) || now_ms() >= slot->until_ms)
		return false;
	memcpy(token, slot->token, TOKEN_MAX);
	return true;
}

/* Asks a master, whatever was remembered. */
static int token_fetch(struct needle_http *n, const struct fid *fid, struct deadline d,
		       char token[TOKEN_MAX])
{
	struct token_slot *slot = slot_of(n, fid);
	int err = n->locator ? locate_read_token(n->locator, fid, d, token, TOKEN_MAX) : -EACCES;

	if (err)
		return err;
	LOCK_SCOPE(&n->lock);
	slot->fid = *fid;
	slot->until_ms = now_ms() + TOKEN_REUSE_MS;
	memcpy(slot->token, token, TOKEN_MAX);
	return 0;
}

/* --- from a volume server --- */

static bool has_volume_key(const struct needle_http *n)
{
	return n->tokens && token_has_volume_key(n->tokens);
}

int needle_http_token(struct needle_http *n, const struct fid *fid, struct deadline d, char *buf,
		      size_t buf_bytes)
{
	char token[TOKEN_MAX] = "";
	int err = 0;

	if (has_volume_key(n))
		err = token_for_fid(n->tokens, fid, token);
	else if (!token_recall(n, fid, token))
		err = token_fetch(n, fid, d, token);
	if (err)
		return err;
	size_t len = strlen(token);
	if (len >= buf_bytes)
		return -EMSGSIZE;
	memcpy(buf, token, len + 1);
	return 0;
}

/* "" where nothing is known that asks for one. */
static int first_token(struct needle_http *n, const struct fid *fid, struct deadline d,
		       char token[TOKEN_MAX])
{
	token[0] = '\0';
	if (has_volume_key(n))
		return token_for_fid(n->tokens, fid, token);
	if (atomic_load_explicit(&n->tokens_wanted, memory_order_relaxed) &&
	    !token_recall(n, fid, token) && token_fetch(n, fid, d, token) != 0)
		token[0] = '\0';
	return 0;
}

static int target_at_server(struct needle_http *n, const struct server *server,
			    const struct fid *fid, struct deadline d, struct target *ret)
{
	char text[FID_STR_MAX];

	fid_format(fid, text);
	snprintf(ret->url, sizeof(ret->url), "%s/%s?readDeleted=true", server->url, text);
	ret->origin_len = strlen(server->url);
	return first_token(n, fid, d, ret->token);
}

static int read_from_server(struct needle_http *n, struct server *server, struct job *j,
			    struct deadline d)
{
	struct target t;
	int err = target_at_server(n, server, j->fid, d, &t);

	if (err)
		return err;
	err = perform_checked(n, &t, j, d);
	if (err != -EACCES || j->status != HTTP_UNAUTHORIZED || has_volume_key(n))
		return err;
	atomic_store_explicit(&n->tokens_wanted, true, memory_order_relaxed);
	if (token_fetch(n, j->fid, d, t.token) != 0)
		return -EACCES;
	j->dropped = 0;
	return perform_checked(n, &t, j, d);
}

/* --- through the filer --- */

static bool is_filer_away(int err)
{
	return err == -ECONNREFUSED || err == -ECONNRESET || err == -EHOSTUNREACH ||
	       err == -ETIMEDOUT;
}

static int read_from_filer(struct needle_http *n, struct job *j, struct deadline d)
{
	struct target t = { .token = "" };
	char fid[FID_STR_MAX];
	size_t index = filer_current(n->filer);

	fid_format(j->fid, fid);
	const char *filer = filer_current_url(n->filer);
	snprintf(t.url, sizeof(t.url), "%s/?proxyChunkId=%s&readDeleted=true", filer, fid);
	t.origin_len = strlen(filer);
	int err = n->tokens ? token_for_filer(n->tokens, t.token) : 0;
	if (err)
		return err;
	err = perform_checked(n, &t, j, d);
	if (j->status == 0 && is_filer_away(err))
		filer_failed(n->filer, index);
	return err;
}

/* --- the two sources --- */

static bool range_is_empty(struct needle_range *r, struct job *j)
{
	r->got = 0;
	j->fid = &r->fid;
	j->range = r;
	j->range_len = 0;
	for (size_t i = 0; i < r->n_bufs; i++)
		j->range_len += r->bufs[i].len;
	return j->range_len == 0;
}

static int server_read_range(void *self, struct server *server, struct needle_range *r,
			     struct deadline d)
{
	struct job j = { 0 };

	return range_is_empty(r, &j) ? 0 : read_from_server(self, server, &j, d);
}

static int server_read_whole(void *self, struct server *server, const struct fid *fid,
			     const struct needle_sink *sink, struct deadline d)
{
	struct job j = { .fid = fid, .sink = sink };

	return read_from_server(self, server, &j, d);
}

/* Several reads from one server. */
struct many {
	struct target targets[NEEDLE_ITEMS_MAX];
	struct range_request requests[NEEDLE_ITEMS_MAX];
	struct many_job {
		struct job job; /* first: what the requests' callbacks get */
		struct needle_item *item;
		void (*done)(void *arg, struct needle_item *item);
		void *arg;
	} jobs[NEEDLE_ITEMS_MAX];
};

static void on_answer(void *arg, int err, const struct http_head *head)
{
	struct many_job *m = arg;

	if (err)
		m->item->err = err == RANGE_UNUSUAL ? -EOPNOTSUPP : err;
	else
		m->item->err = result_of(&m->job, head);
	m->done(m->arg, m->item);
}

static void server_read_many(void *self, struct server *server, struct needle_item *const *items,
			     size_t n, void (*done)(void *arg, struct needle_item *item), void *arg,
			     struct deadline d)
{
	CLEANUP_FREE struct many *m = calloc(1, sizeof(*m));
	struct needle_http *needles = self;
	int err = m ? 0 : -ENOMEM;

	for (size_t i = 0; !err && i < n; i++) {
		struct many_job *j = &m->jobs[i];

		*j = (struct many_job){ .item = items[i], .done = done, .arg = arg };
		err = range_is_empty(&items[i]->range, &j->job)
			      ? -EINVAL
			      : target_at_server(needles, server, j->job.fid, d, &m->targets[i]);
		m->requests[i] = range_request_of(&m->targets[i], &j->job, d);
	}
	if (!err) {
		range_get_many(needles->ranges, m->requests, n, on_answer);
		return;
	}
	for (size_t i = 0; i < n; i++) {
		items[i]->err = err;
		done(arg, items[i]);
	}
}

static int proxy_read_range(void *self, struct server *server, struct needle_range *r,
			    struct deadline d)
{
	struct job j = { 0 };

	(void)server;
	return range_is_empty(r, &j) ? 0 : read_from_filer(self, &j, d);
}

static int proxy_read_whole(void *self, struct server *server, const struct fid *fid,
			    const struct needle_sink *sink, struct deadline d)
{
	struct job j = { .fid = fid, .sink = sink };

	(void)server;
	return read_from_filer(self, &j, d);
}

static struct breaker *server_breaker(struct server *server)
{
	return &server->http;
}

static const struct source_ops server_ops = {
	.name = "http",
	.read_range = server_read_range,
	.read_whole = server_read_whole,
	.read_many = server_read_many,
	.breaker = server_breaker,
};

static const struct source_ops proxy_ops = {
	.name = "filer",
	.read_range = proxy_read_range,
	.read_whole = proxy_read_whole,
};

struct source needle_http_source(struct needle_http *n)
{
	return (struct source){ .ops = &server_ops, .self = n, .per_server = true };
}

struct source needle_proxy_source(struct needle_http *n)
{
	return (struct source){ .ops = &proxy_ops, .self = n };
}
