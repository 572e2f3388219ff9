/* HTTP requests over a pool of kept connections (libcurl underneath).
 *
 * A connection that the server closed while it lay idle is replaced within the same request, once.
 * Thread-safe: every request runs on the caller's thread with a handle of its own from the pool. */
#ifndef KELP_HTTP_H
#define KELP_HTTP_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "filer/base/base.h"
#include "filer/http_head.h"

struct http_pool;

struct http_config {
	const char *ca_file; /* PEM; NULL: the system's */
	const char *client_cert; /* PEM; NULL: none */
	const char *client_key;
	bool insecure; /* accept any certificate; never the default */
	/* 0 in any of these: the default below. */
	unsigned connect_timeout_ms;
	/* Progress under HTTP_STALL_BYTES_PER_S for so long ends a request. */
	unsigned stall_timeout_ms;
	unsigned idle_max_ms; /* a connection idle for so long is not used again; whole seconds */
	unsigned handles_max; /* most handles kept; more may be in use for a while */
};

#define HTTP_STALL_BYTES_PER_S 1024
#define HTTP_CONNECT_TIMEOUT_MS 2000
#define HTTP_STALL_TIMEOUT_MS 3000
#define HTTP_IDLE_MAX_MS 8000 /* filers close after 10 s */
#define HTTP_HANDLES_MAX 64
#define HTTP_HEADER_BYTES_MAX ((size_t)256 << 10) /* of one answer */

int http_pool_new(const struct http_config *cfg, struct http_pool **ret);
void http_pool_free(struct http_pool *p);

/* Lets another thread end a request that may take for ever. One request at a time. */
struct http_cancel {
	pthread_mutex_t lock; /* protects both below; innermost */
	int fd; /* a duplicate of the connection's; -1: no request that has one */
	bool cancelled;
};
int http_cancel_init(struct http_cancel *c);
void http_cancel_destroy(struct http_cancel *c);
/* Ends the request under way, and those to come, with -ECANCELED: at once, or within a second where the
 * request is on a connection that was there before it. */
void http_cancel(struct http_cancel *c);

struct http_request {
	const char *url;
	const char *method; /* GET, HEAD or POST; NULL: GET, or POST where there is a body */
	const char *accept; /* exact value of Accept, or NULL */
	const char *bearer; /* token for Authorization, or NULL; never logged */
	const char *if_match; /* ETag without quotes, or NULL */
	bool accept_gzip; /* never together with a range */
	bool has_range;
	bool grpc; /* HTTP/2 with prior knowledge (cleartext) and the gRPC headers */
	uint64_t range_offset;
	uint64_t range_len; /* > 0 */
	const void *body;
	size_t body_len;

	/* Called once when the header of the final answer is complete, whatever the status. Non-zero
	 * (a -errno) aborts the request and becomes its result. May be NULL. */
	int (*on_head)(void *arg, const struct http_head *head);
	/* Called for each piece of the body. Likewise. NULL drops the body. */
	int (*on_body)(void *arg, const uint8_t *p, size_t n);
	void *arg;
	struct deadline deadline;

	/* For streams. Silence for so long, but no slowness, ends the request; 0: as the pool says. */
	unsigned silence_max_ms;
	struct http_cancel *cancel; /* may be NULL */
};

/* Runs one request. 0: a complete answer came, of any status, its header in *ret_head; a body
 * shorter than Content-Length is -EIO. Else -ETIMEDOUT (deadline, stall), -ECONNREFUSED,
 * -ECONNRESET, -EHOSTUNREACH (name or route), -EKEYREJECTED (a certificate was refused, theirs or ours), -EPROTO (not HTTP), -EIO, or
 * -ECANCELED, or what a callback returned. *ret_head is untouched on failure. */
int http_perform(struct http_pool *p, const struct http_request *r, struct http_head *ret_head);

/* on_head is called before the trailers: grpc_status is right in *ret_head only. */

/* Connects to the host of url without asking anything, within the connect timeout and d; resolves
 * names in the time that is left, too. For connections that are not kept here: *ret_fd is the
 * caller's, non-blocking. Plain http only. Fails like http_perform(). */
int http_connect(struct http_pool *p, const char *url, struct deadline d, int *ret_fd);

/* With the defaults filled in. Lives as long as the pool. */
const struct http_config *http_pool_config(const struct http_pool *p);

/* A growing body with a limit, for answers that are wanted whole. Use http_body_append as on_body
 * with the struct as arg. Bytes are NUL-terminated. */
struct http_body {
	uint8_t *data; /* malloced; free() it */
	size_t len;
	size_t cap;
	size_t max_bytes; /* more: -EMSGSIZE */
};
int http_body_append(void *body, const uint8_t *p, size_t n);

/* Percent-encodes every byte outside unreserved, but '/'. Returns malloced text or NULL. */
char *http_encode_path(const char *path);

/* Counters since start. */
struct http_stats {
	uint64_t requests;
	uint64_t failures;
	uint64_t connections;
	uint64_t body_bytes;
};
void http_pool_stats(struct http_pool *p, struct http_stats *ret);

#endif
