/* Thread model: a filer's fields are immutable but for two atomics; nothing here takes a lock. */
#include "filer/filer.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "filer/filer_client.h"
#include "filer/token.h"

/* Between rounds over all filers. */
#define PAUSE_MIN_MS 50
#define PAUSE_MAX_MS 1000

int filer_new(struct http_pool *http, struct token_source *tokens, const struct filer_config *cfg,
	      struct filer **ret)
{
	struct filer *f;

	if (cfg->n_filers == 0 || cfg->n_filers > FILERS_MAX)
		return -EINVAL;
	f = calloc(1, sizeof(*f) + cfg->n_filers * sizeof(f->servers[0]));
	if (!f)
		return -ENOMEM;
	f->http = http;
	f->tokens = tokens;
	atomic_init(&f->moves, 0);
	atomic_init(&f->names_refused, 0);
	f->n_servers = cfg->n_filers;
	for (size_t i = 0; i < f->n_servers; i++) {
		struct filer_server *s = &f->servers[i];

		s->addr = cfg->filers[i];
		endpoint_url(&s->addr, s->url);
		endpoint_grpc_url(&s->addr, s->grpc_url);
	}
	*ret = f;
	return 0;
}

void filer_free(struct filer *f)
{
	free(f);
}

size_t filer_moves(struct filer *f)
{
	return atomic_load_explicit(&f->moves, memory_order_relaxed);
}

size_t filer_current(struct filer *f)
{
	return filer_moves(f) % f->n_servers;
}

const char *filer_current_url(struct filer *f)
{
	return f->servers[filer_current(f)].url;
}

void filer_failed(struct filer *f, size_t index)
{
	size_t moves = filer_moves(f);

	/* Only who saw the current one fail moves on, so that many failures at once move one step. */
	if (f->n_servers > 1 && moves % f->n_servers == index)
		atomic_compare_exchange_strong_explicit(&f->moves, &moves, moves + 1,
							memory_order_relaxed, memory_order_relaxed);
}

uint64_t filer_names_refused(struct filer *f)
{
	return atomic_load_explicit(&f->names_refused, memory_order_relaxed);
}

/* May pass by itself. */
static bool is_transient(int err)
{
	switch (err) {
	case -ETIMEDOUT:
	case -ECONNREFUSED:
	case -ECONNRESET:
	case -EHOSTUNREACH:
	case -EIO:
	case -EBUSY:
		return true;
	default:
		return false;
	}
}

/* Another filer may do better. */
static bool is_filers_fault(int err)
{
	return is_transient(err) || err == -EPROTO;
}

int filer_on_any(struct filer *f, struct deadline d, filer_try try, void *arg)
{
	int64_t pause_ms = PAUSE_MIN_MS;
	int err = -ETIMEDOUT;

	for (;;) {
		bool transient = false;

		for (size_t i = 0; i < f->n_servers && !deadline_passed(d); i++) {
			size_t at = filer_current(f);

			err = try(f, &f->servers[at], arg);
			if (!is_filers_fault(err))
				return err;
			transient |= is_transient(err);
			filer_failed(f, at);
		}
		if (!transient || deadline_left_ms(d) <= pause_ms)
			return err;
		sleep_ms(jitter_ms(pause_ms), d);
		pause_ms = pause_ms * 2 < PAUSE_MAX_MS ? pause_ms * 2 : PAUSE_MAX_MS;
	}
}

static int errno_of_status(int status)
{
	switch (status) {
	case 200:
	case 206:
		return 0;
	case 401:
	case 403:
		return -EACCES;
	case 404:
		return -ENOENT;
	case 412:
		return -ESTALE;
	case 414:
		return -ENAMETOOLONG;
	case 429:
		return -EBUSY;
	default:
		return status >= 500 ? -EIO : -EPROTO;
	}
}

int filer_get(struct filer *f, struct http_request *r, struct http_head *ret_head)
{
	char token[TOKEN_MAX] = "";
	struct http_head head;
	int err = f->tokens ? token_for_filer(f->tokens, token) : 0;

	if (err)
		return err;
	r->bearer = token[0] ? token : NULL;
	err = http_perform(f->http, r, &head);
	r->bearer = NULL;
	if (err)
		return err;
	*ret_head = head;
	return errno_of_status(head.status);
}

bool filer_head_is_json(const struct http_head *head)
{
	static const char type[] = "application/json";

	return head->status == 200 && strncmp(head->content_type, type, strlen(type)) == 0;
}

bool filer_head_is_blank(const struct http_head *head)
{
	return head->status == 200 && head->content_length == 0 && !head->content_type[0] &&
	       !head->etag[0];
}

struct lookup {
	const char *path;
	const char *encoded;
	struct deadline deadline;
	struct http_body body;
	bool take_body;
	struct entry *entry; /* result */
};

static int lookup_head(void *arg, const struct http_head *head)
{
	struct lookup *l = arg;

	l->take_body = filer_head_is_json(head);
	/* Of an error the body is let pass, as the connection is of use again after it; a file's
	 * data, which no filer sends here, is not. */
	return head->status == 200 && !l->take_body && !filer_head_is_blank(head) ? -EPROTO : 0;
}

static int lookup_body(void *arg, const uint8_t *p, size_t n)
{
	struct lookup *l = arg;

	return l->take_body ? http_body_append(&l->body, p, n) : 0;
}

static int try_lookup(struct filer *f, const struct filer_server *s, void *arg)
{
	CLEANUP_FREE char *url = NULL;
	struct lookup *l = arg;
	struct http_request r = {
		.on_head = lookup_head,
		.on_body = lookup_body,
		.arg = l,
		.deadline = l->deadline,
	};
	struct http_head head;
	int err;

	if (asprintf(&url, "%s%s?metadata=true", s->url, l->encoded) < 0) {
		url = NULL;
		return -ENOMEM;
	}
	r.url = url;
	l->body.len = 0;
	err = filer_get(f, &r, &head);
	if (err)
		return err == -EMSGSIZE ? -EPROTO : err;
	if (l->body.len == 0)
		return filer_grpc_lookup(f, s, l->path, l->deadline, &l->entry);
	return entry_from_json((const char *)l->body.data, l->body.len, &l->entry, NULL);
}

int filer_lookup(struct filer *f, const char *path, struct deadline d, struct entry **ret)
{
	CLEANUP_FREE char *encoded = http_encode_path(path);
	struct lookup l = {
		.path = path, .encoded = encoded, .deadline = d, .body.max_bytes = ENTRY_JSON_MAX
	};
	int err;

	if (!encoded)
		return -ENOMEM;
	err = filer_on_any(f, d, try_lookup, &l);
	free(l.body.data);
	if (!err)
		*ret = l.entry;
	return err;
}

struct range_read {
	const char *encoded;
	const char *if_match;
	uint64_t offset;
	uint8_t *buf;
	size_t len;
	struct deadline deadline;
	size_t got;
	bool take_body;
};

static int read_head(void *arg, const struct http_head *head)
{
	struct range_read *r = arg;

	r->take_body = head->status == 206;
	if (head->status == 200)
		return -EPROTO;
	return r->take_body && head->range_start != (int64_t)r->offset ? -EPROTO : 0;
}

static int read_body(void *arg, const uint8_t *p, size_t n)
{
	struct range_read *r = arg;

	if (!r->take_body)
		return 0;
	if (n > r->len - r->got)
		return -EPROTO;
	memcpy(r->buf + r->got, p, n);
	r->got += n;
	return 0;
}

static int try_read(struct filer *f, const struct filer_server *s, void *arg)
{
	CLEANUP_FREE char *url = NULL;
	struct range_read *r = arg;
	struct http_request req = {
		.if_match = r->if_match,
		.has_range = true,
		.range_offset = r->offset,
		.range_len = r->len,
		.on_head = read_head,
		.on_body = read_body,
		.arg = r,
		.deadline = r->deadline,
	};
	struct http_head head = { 0 };
	int err;

	if (asprintf(&url, "%s%s", s->url, r->encoded) < 0) {
		url = NULL;
		return -ENOMEM;
	}
	req.url = url;
	r->got = 0;
	err = filer_get(f, &req, &head);
	/* Nothing there: the range begins at the end of the file, or behind it. */
	if (head.status == 416)
		return 0;
	if (err)
		return err;
	if (r->got < r->len && head.range_total != (int64_t)(r->offset + r->got))
		return -EIO;
	return 0;
}

int filer_read(struct filer *f, const char *path, const char *if_match, uint64_t offset, void *buf,
	       size_t len, struct deadline d, size_t *ret_got)
{
	CLEANUP_FREE char *encoded = http_encode_path(path);
	struct range_read r = { .encoded = encoded,
				.if_match = if_match,
				.offset = offset,
				.buf = buf,
				.len = len,
				.deadline = d };
	int err;

	if (!encoded)
		return -ENOMEM;
	if (offset > INT64_MAX || len > INT64_MAX - offset)
		return -EINVAL;
	err = len > 0 ? filer_on_any(f, d, try_read, &r) : 0;
	if (!err)
		*ret_got = r.got;
	return err;
}
