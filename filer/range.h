/* Ranges of needles over plain HTTP, received straight into their destination.
 *
 * The one request that the data path consists of, without what a general client spends on it: one
 * send, one receive for the header with what came along, and receives into the caller's memory.
 * Whatever is unusual (https, chunked answers, interim answers, odd headers) is not handled but told,
 * so that the caller asks again through filer/http.h. Connections are opened by the http pool, with
 * its time limits, and kept here.
 *
 * Thread-safe: every request runs on the caller's thread with a connection of its own. */
#ifndef KELP_RANGE_H
#define KELP_RANGE_H

#include "filer/http.h"
#include "filer/source.h"

struct range_pool;

/* Keeps the http pool, which must outlive it: for new connections, its timeouts and its limits. */
int range_pool_new(struct http_pool *http, struct range_pool **ret);
void range_pool_free(struct range_pool *p);

#define RANGE_HEAD_BYTES_MAX ((size_t)8 << 10) /* a longer header is unusual */
#define RANGE_DROP_BYTES_MAX ((size_t)64 << 10) /* of an answer that is no data */
#define RANGE_UNUSUAL_MS 60000 /* a server that gave an unusual answer is not asked for so long */

/* Not an error: nothing was delivered and no callback called; ask through http_perform(). */
#define RANGE_UNUSUAL 1

struct range_request {
	const char *url;
	size_t origin_len; /* bytes of url up to its path: scheme://host:port */
	const char *bearer; /* token for Authorization, or NULL; never logged */
	uint64_t offset;
	size_t len; /* > 0; of all bufs together */
	const struct read_buf *bufs;
	size_t n_bufs;

	/* Called once, with the header of an answer of any status. Non-zero (a -errno) ends the request
	 * and becomes its result. The body of 200 and 206 is then received into bufs, and must be of
	 * len bytes; that of others is dropped, so that the connection can be used again. */
	int (*on_head)(void *arg, const struct http_head *head);
	/* Called for each piece of data that has arrived in its place, in order. */
	void (*on_data)(void *arg, const uint8_t *p, size_t n);
	void *arg;
	struct deadline deadline;
};

/* Runs one request. 0: a complete answer came, of any status, its header in *ret_head. Else
 * RANGE_UNUSUAL, what on_head returned, or an error as of http_perform(). A connection that was
 * closed while it lay idle is replaced, once. *ret_head is untouched unless 0 is returned. */
int range_get(struct range_pool *p, const struct range_request *r, struct http_head *ret_head);

/* How one of several requests ended: head where err is 0, else NULL. */
typedef void (*range_answer)(void *arg, int err, const struct http_head *head);

/* Sends up to RANGE_MANY_MAX requests to one origin at once, on one connection, and takes the answers in
 * order: which costs the server half of what single ones do, or less. on_answer is called once for each,
 * with its arg, as soon as it is over. When one fails, so do those behind it. */
#define RANGE_MANY_MAX 32
void range_get_many(struct range_pool *p, const struct range_request *r, size_t n,
		    range_answer on_answer);

/* Reads the header that the len bytes at text begin with. 0: it is not all there yet. Else its
 * length, with *ret_head (always with a Content-Length) and whether the connection may be used again;
 * or -1: unusual. Pure; *ret_head is of no meaning unless a length is returned. */
ssize_t range_parse_head(const char *text, size_t len, struct http_head *ret_head, bool *ret_keep);

/* Counters since start. */
struct range_stats {
	uint64_t requests;
	uint64_t failures;
	uint64_t unusual;
	uint64_t connections;
	uint64_t body_bytes;
};
void range_pool_stats(struct range_pool *p, struct range_stats *ret);

#endif
