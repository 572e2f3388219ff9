/* One connection to an agent, and the reads that are under way on it.
 *
 * Any number of threads (up to CLIENT_SESSION_SLOTS_MAX) read at the same time. One of those that wait
 * for an answer drives the transport for all: an answer comes with one system call and no change of
 * threads when there is one reader. Every reader takes its answer's data itself, straight into its own
 * destination; nobody writes into a buffer of another thread.
 *
 * A read that times out, or an agent that breaks the protocol, makes the connection unusable: it is cut,
 * and all its reads fail. Thread-safe but for open and close. */
#ifndef KELP_RDMA_SESSION_H
#define KELP_RDMA_SESSION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "filer/base/base.h"
#include "filer/fid.h"
#include "filer/source.h"
#include "rdma/transport.h"
#include "rdma/wire.h"

struct client_session;

/* Reads at once, whatever credits the agent gives. */
#define CLIENT_SESSION_SLOTS_MAX 64

/* One extent to be read: a range into bufs, or, where sink is set, the whole needle. */
struct client_extent {
	struct fid fid;
	const char *token; /* NULL: none */
	size_t token_len;
	uint64_t offset;
	const struct read_buf *bufs;
	size_t n_bufs;
	const struct needle_sink *sink;
	bool read_deleted; /* also if deleted, while it is there */

	/* Out. err: as of filer/source.h, or that of the connection where no answer came. */
	bool begun; /* data may have come */
	bool gzip; /* the needle is stored compressed */
	int err;
	size_t got; /* bytes delivered in order; 0 where they do not match the checksum */
	uint64_t needle_bytes; /* of the whole needle as stored */
};

struct client_session_config {
	const struct client_transport *transport;
	struct client_address address;
	const char *token; /* of the connection; NULL: none */
	int64_t stall_ms; /* no byte for so long in the middle of an answer: -ETIMEDOUT */
	int64_t answer_ms; /* no message for so long while one is waited for: likewise */
	/* The connection has become of no more use, perhaps while nobody read: called by any thread,
	 * until close() returns; must not call the session. NULL: nobody wants to know. */
	void (*on_lost)(void *arg);
	void *on_lost_arg;
	/* What the agent answered, for each extent that it serves, before its data is taken: called on the
	 * reader's thread. NULL: nobody wants to know. */
	void (*on_answer)(void *arg, const struct wire_result *r);
	void *on_answer_arg;
};

/* Connects and says hello, all by d. *ret_reply is what the agent answered, also when that is why it
 * failed; its status is WIRE_OK and all else 0 where no answer came. Returns 0, the errno of a status
 * (wire_status_errno), -EPROTO, or as the network says. */
int client_session_open(const struct client_session_config *cfg, struct deadline d,
			struct client_session **ret, struct wire_hello_reply *ret_reply);

/* Says goodbye where it still can, without waiting, and closes. Nothing may be under way. Takes NULL. */
void client_session_close(struct client_session *s, enum wire_status reason);

/* Why the connection is of no more use; 0: it is. */
int client_session_error(struct client_session *s);

/* Reads up to WIRE_EXTENTS_MAX extents with one message. 0: every extent has been answered, each with
 * its own err. Else the connection is of no more use: -ETIMEDOUT, -EPROTO (the agent lied), -ECONNRESET
 * ...; extents that were done by then have their own result. Exceptions, after which it is: -ETIMEDOUT
 * for want of credits, -EUSERS (too many reads at once), -EMSGSIZE, -EINVAL (no such range). */
int client_session_read(struct client_session *s, struct client_extent *extents, size_t n,
			struct deadline d);

/* Asks for a sign of life, and takes in whatever came since the last read. Returns 0 or as
 * client_session_read(). */
int client_session_ping(struct client_session *s, struct deadline d);

/* Are there leases that nobody reads any more, to be given back with the next read? */
bool client_session_owes_leases(struct client_session *s);
/* Gives them back without one. Returns 0, also where there are none, or why the connection has become of
 * no more use. */
int client_session_return_leases(struct client_session *s, struct deadline d);

#endif
