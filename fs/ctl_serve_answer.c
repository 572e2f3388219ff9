/* /read and /cleanup of kelpctl serve.
 *
 * Threads: each request is handled, and its answer sent, by the thread of its connection. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "filer/token.h"
#include "fs/ctl_serve.h"
#include "fs/ctl_serve_temp.h"

/* Smaller ones are not worth a file. */
#define TEMP_BYTES_MIN (64 * KIB)

#define NS_PER_US 1000

#define HTTP_OK 200
#define HTTP_BAD_REQUEST 400
#define HTTP_UNAUTHORIZED 401
#define HTTP_NOT_FOUND 404
#define HTTP_TOO_LARGE 413
#define HTTP_RANGE 416
#define HTTP_BUSY 429
#define HTTP_INTERNAL 500
#define HTTP_BAD_GATEWAY 502
#define HTTP_UNAVAILABLE 503
#define HTTP_GATEWAY_TIMEOUT 504

/* An answer on its way: it holds one of the places for reads. */
struct answer {
	struct serve *serve;
	struct serve_read read;
	enum serve_source source;
	bool broken_off;
};

static void count(atomic_uint_fast64_t *counter, uint64_t n)
{
	atomic_fetch_add_explicit(counter, n, memory_order_relaxed);
}

const char *serve_source_name(enum serve_source s)
{
	static const char *const names[] = { "rdma", "tcp", "http" };

	return names[s];
}

/* A filer that stands in for a volume server is asked over HTTP, too. */
static enum serve_source source_of(const char *name)
{
	for (int s = 0; name && s < SERVE_SOURCES; s++)
		if (strcmp(serve_source_name((enum serve_source)s), name) == 0)
			return (enum serve_source)s;
	return SERVE_HTTP;
}

/* --- refusals --- */

static void refuse(struct serve *s, struct httpd_request *r, unsigned status, const char *text)
{
	count(&s->counters.by_status[status], 1);
	httpd_error(r, status, "%s", text);
}

static void refuse_read(struct serve *s, struct httpd_request *r, int err)
{
	static const struct {
		int err;
		unsigned status;
		const char *text;
	} rows[] = {
		{ -EINVAL, HTTP_BAD_REQUEST,
		  "volume_server: no volume server that has this volume (as the master names it)" },
		{ -ENOENT, HTTP_NOT_FOUND, "no such needle" },
		{ -ERANGE, HTTP_RANGE, "the needle ends before that range" },
		{ -EFBIG, HTTP_TOO_LARGE, "stored compressed, and larger than is decoded here" },
		{ -EBUSY, HTTP_BUSY, "no memory, or no place among the servers, for it now" },
		{ -ENOMEM, HTTP_UNAVAILABLE, "no memory" },
		{ -ETIMEDOUT, HTTP_GATEWAY_TIMEOUT, "the cluster gave no answer in time" },
		{ -EACCES, HTTP_BAD_GATEWAY, "the cluster wants a token that is not known here" },
	};

	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		if (rows[i].err == err) {
			refuse(s, r, rows[i].status, rows[i].text);
			return;
		}
	}
	refuse(s, r, HTTP_BAD_GATEWAY, "no server of the cluster could give it");
}

/* --- who may read --- */

static const char *token_of(const struct httpd_request *r)
{
	static const char scheme[] = "Bearer ";
	const char *field = httpd_header(r, "Authorization");

	if (field && strncasecmp(field, scheme, strlen(scheme)) == 0)
		return field + strlen(scheme);
	const char *jwt = httpd_query(r, "jwt");
	return jwt ? jwt : "";
}

static bool is_permitted(struct serve *s, const struct httpd_request *r, const struct fid *fid)
{
	const char *token = token_of(r);

	return s->options->no_token ||
	       token_check_fid(s->cluster.tokens, token, strlen(token), fid) == 0;
}

/* --- reads --- */

static bool take_place(struct serve *s)
{
	if (atomic_fetch_add(&s->active, 1) < s->options->reads_max)
		return true;
	atomic_fetch_sub(&s->active, 1);
	return false;
}

static ssize_t next_piece(void *arg, uint64_t pos, uint8_t *buf, size_t max)
{
	struct answer *a = arg;
	ssize_t n = serve_read_next(&a->read, pos, buf, max);

	if (n > 0)
		count(&a->serve->counters.by_source[a->source].bytes, (uint64_t)n);
	else if (!a->broken_off)
		count(&a->serve->counters.broken_off, 1);
	a->broken_off |= n < 0;
	return n;
}

static void end_answer(void *arg)
{
	struct answer *a = arg;

	serve_read_close(&a->read);
	atomic_fetch_sub(&a->serve->active, 1);
	free(a);
}

/* The file holds the same bytes as the body, for a client that cannot open it. */
static bool offer_file(struct serve *s, const struct serve_read *read, char path[TEMP_PATH_MAX])
{
	return s->temp && read->complete && read->len >= TEMP_BYTES_MIN &&
	       temp_files_add(s->temp, read->data + read->data_offset, read->len, path) == 0;
}

static void send_answer(struct answer *a, struct httpd_request *r, int64_t elapsed_ns)
{
	struct serve *s = a->serve;
	bool claims = a->source == SERVE_RDMA || s->options->claim_rdma;
	char path[TEMP_PATH_MAX], elapsed_us[24];
	struct httpd_field fields[5] = {
		{ "X-Source", serve_source_name(a->source) },
		{ "X-RDMA-Used", claims ? "true" : "false" },
		{ "X-Transfer-Time-Us", elapsed_us },
	};
	const struct httpd_stream stream = {
		.bytes = a->read.len, .read = next_piece, .release = end_answer, .arg = a
	};
	struct httpd_reply reply = { .status = HTTP_OK,
				     .type = "application/octet-stream",
				     .stream = &stream,
				     .fields = fields,
				     .n_fields = 3 };

	snprintf(elapsed_us, sizeof(elapsed_us), "%" PRId64, elapsed_ns / NS_PER_US);
	if (strcmp(httpd_method(r), "HEAD") != 0 && offer_file(s, &a->read, path)) {
		fields[reply.n_fields++] = (struct httpd_field){ "X-Use-Temp-File", "true" };
		fields[reply.n_fields++] = (struct httpd_field){ "X-Temp-File", path };
	}
	count(&s->counters.by_status[HTTP_OK], 1);
	count(&s->counters.by_source[a->source].reads, 1);
	latency_add(&s->counters.by_source[a->source].latency, elapsed_ns);
	httpd_reply(r, &reply);
}

static void read_and_answer(struct serve *s, struct httpd_request *r, const struct serve_request *q)
{
	struct answer *a = calloc(1, sizeof(*a));
	int64_t start_ns = now_ns();

	if (!a) {
		atomic_fetch_sub(&s->active, 1);
		refuse_read(s, r, -ENOMEM);
		return;
	}
	a->serve = s;
	int err = serve_read_open(&s->reader, q, &a->read);
	if (err) {
		atomic_fetch_sub(&s->active, 1);
		free(a);
		refuse_read(s, r, err);
		return;
	}
	a->source = source_of(a->read.needle.source);
	send_answer(a, r, now_ns() - start_ns);
}

static const char *query_value(void *arg, const char *name)
{
	return httpd_query(arg, name);
}

void serve_answer_read(struct httpd_request *r, void *arg)
{
	struct serve *s = arg;
	struct serve_request q;
	char message[256];

	if (serve_request_parse(query_value, r, &q, message, sizeof(message)))
		refuse(s, r, HTTP_BAD_REQUEST, message);
	else if (!is_permitted(s, r, &q.fid))
		refuse(s, r, HTTP_UNAUTHORIZED, "a token for this needle is needed");
	else if (!take_place(s))
		refuse(s, r, HTTP_BUSY, "as many reads are under way as may be");
	else
		read_and_answer(s, r, &q);
}

/* --- files that were handed over --- */

void serve_answer_cleanup(struct httpd_request *r, void *arg)
{
	static const char done[] = "{\"success\": true}";
	struct serve *s = arg;
	const char *path = httpd_query(r, "temp_file");
	const struct httpd_reply reply = {
		.status = HTTP_OK, .type = HTTPD_JSON, .body = done, .bytes = strlen(done)
	};

	if (!path || !*path)
		httpd_error(r, HTTP_BAD_REQUEST, "temp_file is missing");
	else if (!s->temp || temp_files_remove(s->temp, path))
		httpd_error(r, HTTP_NOT_FOUND, "no such file was handed over");
	else
		httpd_reply(r, &reply);
}
