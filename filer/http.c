/* Thread model: the pool's lock protects the list of idle handles and the counters, and is never held
 * during a request or while a connection is closed. A handle that was taken from the list belongs to
 * the calling thread alone until it is given back; libcurl runs its callbacks on that thread. */
#include "filer/http.h"

#include <curl/curl.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/queue.h>
#include <sys/socket.h>
#include <unistd.h>

#include "filer/endpoint.h"

#define MS_PER_S 1000
#define RECEIVE_BUFFER_BYTES (512L << 10)
#define HEADERS_MAX 8
#define HEADER_TEXT_BYTES 4096

/* What part of an answer comes next. */
enum phase {
	PHASE_HEAD, /* also that of interim (1xx) answers */
	PHASE_BODY, /* and trailers */
};

enum method {
	METHOD_GET,
	METHOD_HEAD,
	METHOD_POST,
};

/* A libcurl handle and the one connection that it keeps. Protected by the pool's lock while idle,
 * else by its user alone. */
struct handle {
	TAILQ_ENTRY(handle) link; /* in the list of idle ones, or of those to be freed */
	CURL *curl;
	uint64_t origin_hash;
	char origin[ENDPOINT_STR_MAX]; /* scheme://host:port of the connection */
	bool grpc; /* HTTP/2 */
	enum method method; /* what curl is set to */
	int64_t idle_since_ms;

	/* Of the present request. */
	const struct http_request *req;
	struct http_head head;
	enum phase phase;
	int result; /* why we made curl give up; 0: we did not */
	size_t header_bytes;
	uint64_t body_bytes;
	/* A request stalls when stall_bytes do not come within stall_timeout_ms of the mark. */
	unsigned stall_timeout_ms;
	uint64_t stall_bytes;
	uint64_t mark_bytes;
	int64_t mark_ms; /* 0: not connected yet */

	/* Header lines to send: nodes that lead into text, so that none is allocated. */
	struct curl_slist headers[HEADERS_MAX];
	size_t n_headers;
	char text[HEADER_TEXT_BYTES];
	size_t text_len;
	char error[CURL_ERROR_SIZE];
};

TAILQ_HEAD(handle_list, handle);

struct http_pool {
	struct http_config cfg; /* immutable; its strings are owned */
	pthread_mutex_t lock; /* protects all below; innermost */
	struct handle_list idle; /* most recently used first */
	unsigned n_idle;
	struct http_stats stats;
};

static pthread_once_t curl_once = PTHREAD_ONCE_INIT;
static CURLcode curl_ready = CURLE_FAILED_INIT; /* written once, in curl_once */

static void init_curl(void)
{
	curl_ready = curl_global_init(CURL_GLOBAL_DEFAULT);
}

/* ---- Reading the answer's header ---- */

static bool is_blank(char c)
{
	return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

/* Trailers may say how a gRPC call went; the rest of the header is settled by then. */
static bool is_trailer(const char *name, size_t len)
{
	return http_name_is(name, len, "grpc-status") || http_name_is(name, len, "grpc-message");
}

static void take_header_line(struct handle *h, const char *line, size_t len)
{
	const char *colon = memchr(line, ':', len);

	if (!colon || strncmp(line, "HTTP/", min_u64(len, strlen("HTTP/"))) == 0)
		return;
	const char *value = colon + 1;
	const char *end = line + len;
	while (end > value && is_blank(end[-1]))
		end--;
	while (value < end && is_blank(*value))
		value++;
	size_t name_len = (size_t)(colon - line);
	if (h->phase == PHASE_HEAD || is_trailer(line, name_len))
		http_head_take(&h->head, line, name_len, value, (size_t)(end - value));
}

/* ---- What libcurl calls ---- */

static void finish_head(struct handle *h)
{
	long status = 0;
	curl_off_t length = -1;

	curl_easy_getinfo(h->curl, CURLINFO_RESPONSE_CODE, &status);
	if (status / 100 == 1) {
		http_head_reset(&h->head);
		return;
	}
	curl_easy_getinfo(h->curl, CURLINFO_CONTENT_LENGTH_DOWNLOAD_T, &length);
	h->head.status = (int)status;
	h->head.content_length = length;
	h->phase = PHASE_BODY;
	if (h->req->on_head)
		h->result = h->req->on_head(h->req->arg, &h->head);
}

static size_t on_header_line(char *line, size_t size, size_t n, void *arg)
{
	struct handle *h = arg;
	size_t len = size * n;

	h->header_bytes += len;
	if (h->header_bytes > HTTP_HEADER_BYTES_MAX)
		h->result = -EPROTO;
	else if (h->phase == PHASE_HEAD && (line[0] == '\r' || line[0] == '\n'))
		finish_head(h);
	else
		take_header_line(h, line, len);
	return h->result ? 0 : len;
}

static size_t on_body_bytes(char *p, size_t size, size_t n, void *arg)
{
	struct handle *h = arg;
	size_t len = size * n;

	h->body_bytes += len;
	if (h->phase != PHASE_BODY)
		h->result = -EPROTO;
	else if (h->req->on_body && len > 0)
		h->result = h->req->on_body(h->req->arg, (const uint8_t *)p, len);
	return h->result ? 0 : len;
}

/* There is no request where only a connection is wanted. */
static struct http_cancel *cancel_of(const struct handle *h)
{
	return h->req ? h->req->cancel : NULL;
}

static bool is_cancelled(struct http_cancel *c)
{
	LOCK_SCOPE(&c->lock);
	return c->cancelled;
}

/* The connection is there, the request goes out now: the stall clock starts. */
static int on_connected(void *arg, char *remote_ip, char *local_ip, int remote_port, int local_port)
{
	struct handle *h = arg;

	(void)remote_ip;
	(void)local_ip;
	(void)remote_port;
	(void)local_port;
	h->mark_ms = now_ms();
	return CURL_PREREQFUNC_OK;
}

/* libcurl's own low-speed limit looks at an average over seconds, so that a connection that was fast
 * and then stops is not noticed for long. Called after each piece and at least once a second. */
static int on_progress(void *arg, curl_off_t dl_total, curl_off_t dl_now, curl_off_t ul_total,
		       curl_off_t ul_now)
{
	struct handle *h = arg;
	struct http_cancel *cancel = cancel_of(h);
	uint64_t bytes = h->header_bytes + h->body_bytes + (uint64_t)ul_now;

	(void)dl_total;
	(void)dl_now;
	(void)ul_total;
	if (cancel && is_cancelled(cancel))
		h->result = -ECANCELED;
	if (h->mark_ms == 0)
		return h->result != 0;
	int64_t now = now_ms();
	if (bytes - h->mark_bytes >= h->stall_bytes) {
		h->mark_bytes = bytes;
		h->mark_ms = now;
	} else if (now - h->mark_ms >= h->stall_timeout_ms) {
		h->result = -ETIMEDOUT;
	}
	return h->result != 0;
}

/* ---- Handles ---- */

/* The duplicate goes with the request: it would keep the connection open that libcurl closes. */
static void cancel_detach(struct http_cancel *c)
{
	LOCK_SCOPE(&c->lock);
	if (c->fd >= 0)
		close(c->fd);
	c->fd = -1;
}

/* Connections may be tried side by side; the last is the most likely to be used, and the progress
 * callback ends the others within a second. */
static int on_socket(void *arg, curl_socket_t fd, curlsocktype purpose)
{
	struct http_cancel *c = cancel_of(arg);

	(void)purpose;
	if (!c)
		return CURL_SOCKOPT_OK;
	LOCK_SCOPE(&c->lock);
	if (c->fd >= 0)
		close(c->fd);
	c->fd = fcntl(fd, F_DUPFD_CLOEXEC, 0);
	return c->cancelled ? CURL_SOCKOPT_ERROR : CURL_SOCKOPT_OK;
}

static void set_tls(CURL *curl, const struct http_config *cfg)
{
	if (cfg->ca_file) {
		curl_easy_setopt(curl, CURLOPT_CAINFO, cfg->ca_file);
		curl_easy_setopt(curl, CURLOPT_CAPATH, NULL);
	}
	if (cfg->client_cert)
		curl_easy_setopt(curl, CURLOPT_SSLCERT, cfg->client_cert);
	if (cfg->client_key)
		curl_easy_setopt(curl, CURLOPT_SSLKEY, cfg->client_key);
	if (cfg->insecure) {
		curl_easy_setopt(curl, CURLOPT_SSL_VERIFYPEER, 0L);
		curl_easy_setopt(curl, CURLOPT_SSL_VERIFYHOST, 0L);
	}
}

/* libcurl compares whole seconds of idleness, rounded down, and keeps what is not greater. */
static long max_age_s(unsigned idle_max_ms)
{
	return idle_max_ms < MS_PER_S ? 0 : (long)(idle_max_ms / MS_PER_S) - 1;
}

static void set_options(struct handle *h, const struct http_config *cfg)
{
	CURL *curl = h->curl;

	curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
	curl_easy_setopt(curl, CURLOPT_QUICK_EXIT, 1L); /* no wait for a resolver that hangs */
	curl_easy_setopt(curl, CURLOPT_PROTOCOLS_STR, "http,https");
	curl_easy_setopt(curl, CURLOPT_PROXY, ""); /* whatever the environment says */
	curl_easy_setopt(curl, CURLOPT_FOLLOWLOCATION, 0L);
	curl_easy_setopt(curl, CURLOPT_DISALLOW_USERNAME_IN_URL, 1L);
	curl_easy_setopt(curl, CURLOPT_PATH_AS_IS, 1L);
	curl_easy_setopt(curl, CURLOPT_HTTP_CONTENT_DECODING, 0L);
	curl_easy_setopt(curl, CURLOPT_HTTP_VERSION,
			 h->grpc ? (long)CURL_HTTP_VERSION_2_PRIOR_KNOWLEDGE
				 : (long)CURL_HTTP_VERSION_1_1);
	/* libcurl 7.87 and 7.88 (Debian 12) break cleartext HTTP/2 connections that they reuse
	 * (curl pull request 10643). gRPC calls are rare: each gets a connection of its own. */
	curl_easy_setopt(curl, CURLOPT_FORBID_REUSE, h->grpc ? 1L : 0L);
	curl_easy_setopt(curl, CURLOPT_TCP_NODELAY, 1L);
	curl_easy_setopt(curl, CURLOPT_MAXCONNECTS, 1L);
	curl_easy_setopt(curl, CURLOPT_MAXAGE_CONN, max_age_s(cfg->idle_max_ms));
	curl_easy_setopt(curl, CURLOPT_BUFFERSIZE, RECEIVE_BUFFER_BYTES);
	curl_easy_setopt(curl, CURLOPT_CONNECTTIMEOUT_MS, (long)cfg->connect_timeout_ms);
	curl_easy_setopt(curl, CURLOPT_NOPROGRESS, 0L);
	curl_easy_setopt(curl, CURLOPT_XFERINFOFUNCTION, on_progress);
	curl_easy_setopt(curl, CURLOPT_XFERINFODATA, h);
	curl_easy_setopt(curl, CURLOPT_PREREQFUNCTION, on_connected);
	curl_easy_setopt(curl, CURLOPT_PREREQDATA, h);
	curl_easy_setopt(curl, CURLOPT_SOCKOPTFUNCTION, on_socket);
	curl_easy_setopt(curl, CURLOPT_SOCKOPTDATA, h);
	curl_easy_setopt(curl, CURLOPT_HEADERFUNCTION, on_header_line);
	curl_easy_setopt(curl, CURLOPT_HEADERDATA, h);
	curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, on_body_bytes);
	curl_easy_setopt(curl, CURLOPT_WRITEDATA, h);
	curl_easy_setopt(curl, CURLOPT_ERRORBUFFER, h->error);
	set_tls(curl, cfg);
}

static void handle_free(struct handle *h)
{
	curl_easy_cleanup(h->curl);
	free(h);
}

static struct handle *handle_new(const struct http_config *cfg, const char *origin,
				 size_t origin_len, uint64_t origin_hash, bool grpc)
{
	struct handle *h = calloc(1, sizeof(*h));

	if (!h)
		return NULL;
	h->curl = curl_easy_init();
	if (!h->curl) {
		free(h);
		return NULL;
	}
	memcpy(h->origin, origin, origin_len);
	h->origin_hash = origin_hash;
	h->grpc = grpc;
	h->method = METHOD_GET;
	set_options(h, cfg);
	return h;
}

/* Bytes of url up to its path; 0 where it is not one. */
static size_t origin_length(const char *url)
{
	const char *host = strstr(url, "://");

	if (!host)
		return 0;
	host += strlen("://");
	return (size_t)(host - url) + strcspn(host, "/?#");
}

static bool fits(const struct handle *h, const char *origin, size_t len, uint64_t hash, bool grpc)
{
	return h->origin_hash == hash && h->grpc == grpc && memcmp(h->origin, origin, len) == 0 &&
	       h->origin[len] == '\0';
}

/* The idle handle that was used last for that origin, or a new one. */
static int handle_get(struct http_pool *p, const struct http_request *r, struct handle **ret)
{
	size_t len = origin_length(r->url);
	uint64_t hash = hash_bytes(HASH_SEED, r->url, len);
	struct handle *h;

	if (len == 0 || len >= ENDPOINT_STR_MAX)
		return -EINVAL;
	{
		LOCK_SCOPE(&p->lock);
		h = TAILQ_FIRST(&p->idle);
		while (h && !fits(h, r->url, len, hash, r->grpc))
			h = TAILQ_NEXT(h, link);
		if (h) {
			TAILQ_REMOVE(&p->idle, h, link);
			p->n_idle--;
		}
	}
	if (!h)
		h = handle_new(&p->cfg, r->url, len, hash, r->grpc);
	if (!h)
		return -ENOMEM;
	*ret = h;
	return 0;
}

static void free_handles(struct handle_list *list)
{
	struct handle *h;

	while ((h = TAILQ_FIRST(list))) {
		TAILQ_REMOVE(list, h, link);
		handle_free(h);
	}
}

/* Takes the handle back. One whose request failed has lost its connection and goes; so do the least
 * recently used ones beyond the limit, or idle for so long that their connections are of no use. */
static void handle_put(struct http_pool *p, struct handle *h, bool failed, long connections)
{
	struct handle_list drop = TAILQ_HEAD_INITIALIZER(drop);
	int64_t now = now_ms();

	h->req = NULL;
	h->idle_since_ms = now;
	{
		LOCK_SCOPE(&p->lock);
		p->stats.requests++;
		p->stats.failures += failed;
		p->stats.connections += (uint64_t)connections;
		p->stats.body_bytes += h->body_bytes;
		if (failed) {
			TAILQ_INSERT_HEAD(&drop, h, link);
		} else {
			TAILQ_INSERT_HEAD(&p->idle, h, link);
			p->n_idle++;
		}
		while ((h = TAILQ_LAST(&p->idle, handle_list)) &&
		       (p->n_idle > p->cfg.handles_max ||
			now - h->idle_since_ms >= p->cfg.idle_max_ms)) {
			TAILQ_REMOVE(&p->idle, h, link);
			p->n_idle--;
			TAILQ_INSERT_TAIL(&drop, h, link);
		}
	}
	free_handles(&drop);
}

/* ---- Cancelling ---- */

int http_cancel_init(struct http_cancel *c)
{
	c->fd = -1;
	c->cancelled = false;
	return -pthread_mutex_init(&c->lock, NULL);
}

void http_cancel_destroy(struct http_cancel *c)
{
	pthread_mutex_destroy(&c->lock);
}

void http_cancel(struct http_cancel *c)
{
	LOCK_SCOPE(&c->lock);
	c->cancelled = true;
	if (c->fd >= 0)
		shutdown(c->fd, SHUT_RDWR);
}

/* ---- Requests ---- */

/* Adds "name: <before>value<after>". False: it does not fit or would break the header. */
static bool add_header(struct handle *h, const char *name, const char *before, const char *value,
		       const char *after)
{
	size_t room = sizeof(h->text) - h->text_len;

	for (const char *c = value; *c; c++)
		if ((unsigned char)*c < ' ' || *c == 0x7f)
			return false;
	int n = snprintf(h->text + h->text_len, room, "%s: %s%s%s", name, before, value, after);
	if (n < 0 || (size_t)n >= room || h->n_headers == HEADERS_MAX)
		return false;
	struct curl_slist *node = &h->headers[h->n_headers];
	*node = (struct curl_slist){ .data = h->text + h->text_len };
	if (h->n_headers > 0)
		node[-1].next = node;
	h->n_headers++;
	h->text_len += (size_t)n + 1;
	return true;
}

static bool add_range(struct handle *h, const struct http_request *r)
{
	char range[48];
	uint64_t last;

	if (r->range_len == 0 || r->accept_gzip ||
	    __builtin_add_overflow(r->range_offset, r->range_len - 1, &last))
		return false;
	snprintf(range, sizeof(range), "%" PRIu64 "-%" PRIu64, r->range_offset, last);
	return add_header(h, "Range", "bytes=", range, "");
}

static int set_headers(struct handle *h, const struct http_request *r)
{
	bool ok = true;

	h->n_headers = 0;
	h->text_len = 0;
	if (r->has_range)
		ok = add_range(h, r);
	if (ok && r->accept)
		ok = add_header(h, "Accept", "", r->accept, "");
	if (ok && r->bearer && r->bearer[0])
		ok = add_header(h, "Authorization", "Bearer ", r->bearer, "");
	if (ok && r->if_match)
		ok = !strchr(r->if_match, '"') &&
		     add_header(h, "If-Match", "\"", r->if_match, "\"");
	if (ok && r->accept_gzip)
		ok = add_header(h, "Accept-Encoding", "", "gzip", "");
	if (ok && r->grpc)
		ok = add_header(h, "Content-Type", "", "application/grpc", "") &&
		     add_header(h, "TE", "", "trailers", "");
	if (!ok)
		return -EINVAL;
	curl_easy_setopt(h->curl, CURLOPT_HTTPHEADER, h->n_headers ? h->headers : NULL);
	return 0;
}

static int set_method(struct handle *h, const struct http_request *r)
{
	enum method method = METHOD_GET;

	if (r->method ? strcmp(r->method, "POST") == 0 : r->body != NULL)
		method = METHOD_POST;
	else if (r->method && strcmp(r->method, "HEAD") == 0)
		method = METHOD_HEAD;
	else if (r->method && strcmp(r->method, "GET") != 0)
		return -EINVAL;
	if (method == METHOD_POST) {
		curl_easy_setopt(h->curl, CURLOPT_POST, 1L);
		curl_easy_setopt(h->curl, CURLOPT_POSTFIELDS, r->body ? r->body : "");
		curl_easy_setopt(h->curl, CURLOPT_POSTFIELDSIZE_LARGE,
				 (curl_off_t)(r->body ? r->body_len : 0));
	} else if (method != h->method) {
		curl_easy_setopt(h->curl, CURLOPT_HTTPGET, 1L); /* ends NOBODY too */
		curl_easy_setopt(h->curl, CURLOPT_NOBODY, method == METHOD_HEAD ? 1L : 0L);
	}
	h->method = method;
	return 0;
}

/* Bytes that lie there before anything was asked would be taken for the answer: libcurl looks only
 * for a connection that is closed. */
static bool must_reconnect(struct handle *h)
{
	curl_socket_t fd = CURL_SOCKET_BAD;
	char c;

	if (curl_easy_getinfo(h->curl, CURLINFO_ACTIVESOCKET, &fd) != CURLE_OK ||
	    fd == CURL_SOCKET_BAD)
		return false;
	return recv(fd, &c, 1, MSG_PEEK | MSG_DONTWAIT) > 0;
}

static void set_patience(struct handle *h, const struct http_config *cfg)
{
	unsigned silence_ms = h->req->silence_max_ms;

	h->stall_timeout_ms = silence_ms ? silence_ms : cfg->stall_timeout_ms;
	h->stall_bytes = silence_ms ? 1
				    : (uint64_t)HTTP_STALL_BYTES_PER_S * cfg->stall_timeout_ms /
					      MS_PER_S;
}

static int set_request(struct handle *h, const struct http_config *cfg,
		       const struct http_request *r, int64_t left_ms)
{
	h->req = r;
	h->phase = PHASE_HEAD;
	h->result = 0;
	h->header_bytes = 0;
	h->body_bytes = 0;
	h->mark_bytes = 0;
	h->mark_ms = 0;
	h->error[0] = '\0';
	http_head_reset(&h->head);
	set_patience(h, cfg);
	if (curl_easy_setopt(h->curl, CURLOPT_URL, r->url) != CURLE_OK)
		return -ENOMEM;
	curl_easy_setopt(h->curl, CURLOPT_FRESH_CONNECT, must_reconnect(h) ? 1L : 0L);
	curl_easy_setopt(h->curl, CURLOPT_TIMEOUT_MS, (long)min_u64((uint64_t)left_ms, INT32_MAX));
	int err = set_method(h, r);
	return err ? err : set_headers(h, r);
}

static int connect_error(CURL *curl)
{
	long os_errno = 0;

	curl_easy_getinfo(curl, CURLINFO_OS_ERRNO, &os_errno);
	switch (os_errno) {
	case EHOSTUNREACH:
	case ENETUNREACH:
		return -EHOSTUNREACH;
	case ETIMEDOUT:
		return -ETIMEDOUT;
	default:
		return -ECONNREFUSED;
	}
}

/* libcurl has no codes for these; only OpenSSL's text tells them from a connection that broke. A
 * server that misses our certificate says so after a TLS 1.3 handshake, as an alert in place of the
 * answer. */
static int tls_or_receive_error(const struct handle *h)
{
	if (strstr(h->error, " alert "))
		return -EKEYREJECTED;
	if (strstr(h->error, "wrong version number")) /* no TLS at all */
		return -EPROTO;
	return -ECONNRESET;
}

static int errno_of_curl(const struct handle *h, CURLcode code)
{
	switch (code) {
	case CURLE_OK:
		return h->phase == PHASE_BODY ? 0 : -EPROTO;
	case CURLE_OPERATION_TIMEDOUT:
		return -ETIMEDOUT;
	case CURLE_COULDNT_CONNECT:
		return connect_error(h->curl);
	case CURLE_COULDNT_RESOLVE_HOST:
		return -EHOSTUNREACH;
	case CURLE_RECV_ERROR:
	case CURLE_SSL_CONNECT_ERROR:
		return tls_or_receive_error(h);
	case CURLE_SEND_ERROR:
	case CURLE_GOT_NOTHING:
		return -ECONNRESET;
	case CURLE_SSL_CERTPROBLEM:
	case CURLE_SSL_CIPHER:
	case CURLE_SSL_CACERT_BADFILE:
	case CURLE_SSL_ISSUER_ERROR:
	case CURLE_SSL_CLIENTCERT:
	case CURLE_PEER_FAILED_VERIFICATION:
		return -EKEYREJECTED;
	case CURLE_URL_MALFORMAT:
		return -EINVAL;
	case CURLE_OUT_OF_MEMORY:
		return -ENOMEM;
	case CURLE_UNSUPPORTED_PROTOCOL: /* HTTP/0.9, that is: no HTTP at all */
	case CURLE_WEIRD_SERVER_REPLY:
	case CURLE_HTTP2:
		return -EPROTO;
	default:
		return -EIO;
	}
}

int http_perform(struct http_pool *p, const struct http_request *r, struct http_head *ret_head)
{
	int64_t left_ms = deadline_left_ms(r->deadline);
	long connections = 0;
	struct handle *h;

	if (left_ms == 0)
		return -ETIMEDOUT;
	int err = handle_get(p, r, &h);
	if (err)
		return err;
	err = set_request(h, &p->cfg, r, left_ms);
	if (!err) {
		/* A connection that turns out to be closed before a byte of the answer came is
		 * replaced by libcurl itself; as a handle keeps one connection, that is once. */
		CURLcode code = curl_easy_perform(h->curl);
		err = h->result ? h->result : errno_of_curl(h, code);
		if (r->cancel) {
			cancel_detach(r->cancel);
			if (is_cancelled(r->cancel))
				err = -ECANCELED;
		}
		curl_easy_getinfo(h->curl, CURLINFO_NUM_CONNECTS, &connections);
	}
	if (!err)
		*ret_head = h->head;
	handle_put(p, h, err != 0, connections);
	return err;
}

static int duplicate_socket(CURL *curl, int *ret_fd)
{
	curl_socket_t socket = CURL_SOCKET_BAD;

	curl_easy_getinfo(curl, CURLINFO_ACTIVESOCKET, &socket);
	int fd = fcntl(socket, F_DUPFD_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	*ret_fd = fd;
	return 0;
}

int http_connect(struct http_pool *p, const char *url, struct deadline d, int *ret_fd)
{
	int64_t left_ms = deadline_left_ms(d);
	size_t len = origin_length(url);

	if (len == 0 || len >= ENDPOINT_STR_MAX)
		return -EINVAL;
	if (left_ms == 0)
		return -ETIMEDOUT;
	struct handle *h = handle_new(&p->cfg, url, len, hash_bytes(HASH_SEED, url, len), false);
	if (!h)
		return -ENOMEM;
	curl_easy_setopt(h->curl, CURLOPT_CONNECT_ONLY, 1L);
	curl_easy_setopt(h->curl, CURLOPT_TIMEOUT_MS, (long)min_u64((uint64_t)left_ms, INT32_MAX));
	CURLcode code = curl_easy_setopt(h->curl, CURLOPT_URL, url);
	if (code == CURLE_OK)
		code = curl_easy_perform(h->curl);
	/* The handle closes its own descriptor when it goes. */
	h->phase = PHASE_BODY; /* no answer is missing */
	int err = errno_of_curl(h, code);
	if (!err)
		err = duplicate_socket(h->curl, ret_fd);
	handle_free(h);
	return err;
}

const struct http_config *http_pool_config(const struct http_pool *p)
{
	return &p->cfg;
}

/* ---- The pool ---- */

static bool copy_string(const char *s, const char **ret)
{
	*ret = s ? strdup(s) : NULL;
	return !s || *ret;
}

static bool copy_config(const struct http_config *cfg, struct http_config *ret)
{
	*ret = *cfg;
	if (!ret->connect_timeout_ms)
		ret->connect_timeout_ms = HTTP_CONNECT_TIMEOUT_MS;
	if (!ret->stall_timeout_ms)
		ret->stall_timeout_ms = HTTP_STALL_TIMEOUT_MS;
	if (!ret->idle_max_ms)
		ret->idle_max_ms = HTTP_IDLE_MAX_MS;
	if (!ret->handles_max)
		ret->handles_max = HTTP_HANDLES_MAX;
	ret->ca_file = ret->client_cert = ret->client_key = NULL;
	return copy_string(cfg->ca_file, &ret->ca_file) &&
	       copy_string(cfg->client_cert, &ret->client_cert) &&
	       copy_string(cfg->client_key, &ret->client_key);
}

int http_pool_new(const struct http_config *cfg, struct http_pool **ret)
{
	pthread_once(&curl_once, init_curl);
	if (curl_ready != CURLE_OK)
		return -EIO;
	struct http_pool *p = calloc(1, sizeof(*p));
	if (!p)
		return -ENOMEM;
	pthread_mutex_init(&p->lock, NULL);
	TAILQ_INIT(&p->idle);
	if (!copy_config(cfg, &p->cfg)) {
		http_pool_free(p);
		return -ENOMEM;
	}
	*ret = p;
	return 0;
}

void http_pool_free(struct http_pool *p)
{
	if (!p)
		return;
	free_handles(&p->idle);
	free((char *)p->cfg.ca_file);
	free((char *)p->cfg.client_cert);
	free((char *)p->cfg.client_key);
	pthread_mutex_destroy(&p->lock);
	free(p);
}

void http_pool_stats(struct http_pool *p, struct http_stats *ret)
{
	LOCK_SCOPE(&p->lock);
	*ret = p->stats;
}

/* ---- Helpers for callers ---- */

#define BODY_FIRST_BYTES 4096

int http_body_append(void *body, const uint8_t *p, size_t n)
{
	struct http_body *b = body;

	if (n > b->max_bytes || b->len > b->max_bytes - n)
		return -EMSGSIZE;
	size_t needed = b->len + n + 1;
	if (needed > b->cap) {
		size_t cap = b->cap ? b->cap : BODY_FIRST_BYTES;
		while (cap < needed)
			cap = cap > SIZE_MAX / 2 ? needed : cap * 2;
		uint8_t *data = realloc(b->data, cap);
		if (!data)
			return -ENOMEM;
		b->data = data;
		b->cap = cap;
	}
	memcpy(b->data + b->len, p, n);
	b->len += n;
	b->data[b->len] = '\0';
	return 0;
}

static bool is_plain_in_path(unsigned char c)
{
	return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
	       c == '-' || c == '.' || c == '_' || c == '~' || c == '/';
}

char *http_encode_path(const char *path)
{
	static const char hex[] = "0123456789ABCDEF";
	size_t len = strlen(path);
	size_t bytes;

	if (__builtin_mul_overflow(len, 3, &bytes) || __builtin_add_overflow(bytes, 1, &bytes))
		return NULL;
	char *ret = malloc(bytes);
	if (!ret)
		return NULL;
	char *out = ret;
	for (const char *in = path; *in; in++) {
		unsigned char c = (unsigned char)*in;
		if (is_plain_in_path(c)) {
			*out++ = *in;
		} else {
			*out++ = '%';
			*out++ = hex[c >> 4];
			*out++ = hex[c & 15];
		}
	}
	*out = '\0';
	return ret;
}
