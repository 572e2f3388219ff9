/* A small HTTP server for what a program says of itself: a thin layer over libmicrohttpd that listens, finds
 * the route, keeps limits, and answers errors as JSON ({"error": "..."}).
 *
 *	static void answer_health(struct httpd_request *r, void *arg)
 *	{
 *		const char *verbose = httpd_query(r, "verbose");	// NULL: not given
 *		...
 *		httpd_error(r, 503, "no filer answers");		// or
 *		httpd_reply(r, &(struct httpd_reply){ .status = 200, .type = HTTPD_JSON,
 *						      .body = text, .bytes = strlen(text) });
 *	}
 *
 *	static const struct httpd_route routes[] = {
 *		{ "/health", HTTPD_GET, answer_health },
 *	};
 *	struct httpd_config cfg = { .host = "127.0.0.1", .port = 9100, .routes = routes, .n_routes = 1 };
 *	err = httpd_start(&cfg, &httpd, message, sizeof(message));
 *	...
 *	httpd_stop(httpd);
 *
 * Paths match whole. An unknown one is answered with 404, a method that its route does not have with 405,
 * a header that is too large with 431. Bodies of requests are not wanted: they are thrown away.
 *
 * Start it after a daemon has forked: it has threads. Its socket listens when httpd_start() returns, so
 * that a port in use is reported in time. */
#ifndef KELP_HTTPD_H
#define KELP_HTTPD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "filer/base/base.h"
#include "filer/endpoint.h"

#define HTTPD_JSON "application/json"

/* Of one request; valid until the handler returns. */
struct httpd_request;
struct httpd;

enum httpd_methods {
	HTTPD_GET = 1, /* and HEAD, whose answer goes without its body */
	HTTPD_DELETE = 2,
};

struct httpd_route {
	const char *path;
	unsigned methods; /* of enum httpd_methods */
	/* Calls httpd_reply() or httpd_error() once. On the server's only thread, so that it must not block;
	 * with cfg.blocking on a thread of its own. */
	void (*answer)(struct httpd_request *r, void *arg);
};

struct httpd_config {
	const char *host; /* NULL or "": all addresses */
	uint16_t port; /* 0: any that is free */
	const struct httpd_route *routes; /* must outlive the server */
	size_t n_routes;
	void *arg; /* for every answer */
	bool blocking; /* a thread for each connection */
	unsigned connections_max; /* 0: HTTPD_CONNECTIONS. Further ones wait in the kernel,
				   * with blocking they are closed. */
	unsigned idle_ms; /* between requests, and for a request to come whole; 0: HTTPD_IDLE_MS */
	unsigned reply_ms; /* for an answer to be made and taken; 0: HTTPD_REPLY_MS */
};

#define HTTPD_CONNECTIONS 64
#define HTTPD_IDLE_MS 10000
#define HTTPD_REPLY_MS 30000

/* PORT (on 127.0.0.1), ADDR:PORT, [V6]:PORT, *:PORT or :PORT (all addresses): host becomes "" for all.
 * Returns 0 or -EINVAL; *ret untouched on failure. */
int httpd_parse_address(const char *text, struct endpoint *ret);

/* Returns 0, or -errno and a message that says what is wrong. */
int httpd_start(const struct httpd_config *cfg, struct httpd **ret, char *message, size_t bytes);

uint16_t httpd_port(const struct httpd *h);

/* Takes no more connections, ends those that wait for a request, and returns when all answers under way have
 * been taken or d has passed. To be called once, before httpd_stop(). */
void httpd_drain(struct httpd *h, struct deadline d);

/* Waits for answers under way. NULL is fine. */
void httpd_stop(struct httpd *h);

const char *httpd_method(const struct httpd_request *r);

/* A query argument, decoded, or a header (name in any case); NULL where there is none. */
const char *httpd_query(const struct httpd_request *r, const char *name);
const char *httpd_header(const struct httpd_request *r, const char *name);

struct httpd_field {
	const char *name, *value;
};

/* A body that comes piece by piece. read fills buf with up to max bytes from pos on, which only grows, and
 * returns how many, at least one, or -errno, which cuts the connection. With cfg.blocking it may block.
 * release is called once, when nothing more is wanted, also where the reply fails. */
struct httpd_stream {
	uint64_t bytes; /* all together */
	ssize_t (*read)(void *arg, uint64_t pos, uint8_t *buf, size_t max);
	void (*release)(void *arg);
	void *arg;
};

struct httpd_reply {
	unsigned status;
	const char *type; /* Content-Type */
	const void *body;
	size_t bytes;
	bool owned; /* body came from malloc() and is the server's now; else it is copied */
	const struct httpd_stream *stream; /* instead of body and bytes; copied. NULL: none */
	const struct httpd_field *fields; /* further headers */
	size_t n_fields;
};

void httpd_reply(struct httpd_request *r, const struct httpd_reply *reply);

/* text came from malloc() and is the server's now; NULL: out of memory, which is answered with 500. */
void httpd_reply_text(struct httpd_request *r, unsigned status, char *text, const char *type);

/* {"error": message} */
void httpd_error(struct httpd_request *r, unsigned status, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

#endif
