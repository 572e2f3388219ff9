/* What carries sessions (session.h): a listener and its connections.
 *
 * A transport takes connections, finds whole messages in what arrives, hands them to the session of
 * their connection while session_wants() says so, and sends what the session gives it. All calls for
 * one connection come from one thread; a transport may have several. */
#ifndef KELP_TRANSPORT_H
#define KELP_TRANSPORT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "filer/base/base.h"
#include "rdma/wire.h"

struct agent;

/* A reply with all its results, or a hello's answer with all its addresses. */
#define OUTPUT_MESSAGE_BYTES_MAX 2048

/* Data behind a message: memory, or a range of a file where mem is NULL. */
struct output_piece {
	const uint8_t *mem;
	int fd;
	uint64_t offset; /* in the file */
	uint64_t bytes;
};

/* One message on its way out, with its data. Belongs to the session; the transport has it from send()
 * until done(). */
struct output {
	size_t message_bytes;
	size_t n_pieces;
	bool last; /* the connection ends behind it */
	struct output_piece pieces[WIRE_EXTENTS_MAX];
	void (*done)(struct output *o); /* sent, or the connection is lost */
	struct output *next; /* the transport's */
	uint8_t message[OUTPUT_MESSAGE_BYTES_MAX];
};

/* Memory for an answer. */
struct staged {
	uint8_t *ptr; /* NULL: none */
	size_t bytes;
	uint64_t remote_addr; /* of what is leased */
	uint32_t rkey;
	void *handle; /* the transport's */
};

struct connection; /* each transport has its own */

struct listener_config {
	const char *host; /* numeric or a name; NULL: all addresses */
	uint16_t port;
	unsigned threads;
};

struct listener;

struct transport {
	const char *name;
	uint32_t capabilities; /* enum wire_capability */

	/* Binds, listens and starts threads. Returns 0 or -errno. */
	int (*listen)(struct agent *a, const struct listener_config *cfg, struct listener **ret);
	/* Takes no more connections, lets all sessions say goodbye once they have answered, and ends
	 * at the deadline whatever is left. Frees the listener. */
	void (*stop)(struct listener *l, struct deadline d);

	/* Sends, in the order of the calls. Cannot fail: done() is called either way, perhaps before
	 * this returns. */
	void (*send)(struct connection *c, struct output *o);
	/* Memory of at least so many bytes, within the connection's share and all connections' budget.
	 * Returns 0, -ENOBUFS (no more now) or -EMSGSIZE (never so much at once). */
	int (*stage)(struct connection *c, size_t bytes, struct staged *ret);
	/* Of a transport that leases: lets the client read these bytes of s and no others, until s is
	 * unstaged. Sets remote_addr and rkey. Returns 0 or -ENOBUFS. */
	int (*expose)(struct connection *c, struct staged *s, const uint8_t *p, size_t bytes);
	void (*unstage)(struct connection *c, struct staged *s);
};

extern const struct transport agent_tcp;

#endif
