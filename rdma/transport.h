/* What carries a client's sessions (rdma/session.h) to an agent: one const vtable for each transport.
 *
 * A connection is used by several threads, but each callback by one at a time: send() by one thread,
 * and receive(), take() and settle() together by one thread (which may be another than send()'s).
 * abort() may come from any thread at any time before close(). Nothing of it may be called while or
 * after close() runs. */
#ifndef KELP_RDMA_TRANSPORT_H
#define KELP_RDMA_TRANSPORT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

#include "filer/base/base.h"
#include "filer/source.h"
#include "rdma/wire.h"

struct client_connection; /* each transport has its own */

struct client_address {
	struct sockaddr_storage sockaddr;
	socklen_t len;
};

/* What probably comes next: the answer to xid, message_bytes long with its header, and behind it data
 * for bufs in order. All of it is only a guess: being wrong costs a copy. */
struct client_hint {
	uint64_t xid;
	size_t message_bytes;
	const struct read_buf *bufs;
	size_t n_bufs;
};

/* A message that came, or a pull that is over. */
struct client_message {
	bool pulled; /* then only the cookie is set */
	uint64_t cookie; /* of the lease */
	struct wire_header header;
	const uint8_t
		*payload; /* header.length bytes, until the next receive(), take() or settle() */
};

/* A lease to be read by RDMA. */
struct client_lease {
	uint64_t remote_addr;
	uint32_t rkey;
	const struct read_buf *bufs; /* where its bytes go, in order */
	size_t n_bufs;
	uint64_t cookie; /* comes back when all of them are there */
};

struct client_transport {
	/* Label of the source. */
	const char *name;
	uint32_t capabilities; /* enum wire_capability, for the hello */
	uint32_t inline_bytes_max; /* of an answer's data in its message, likewise */

	/* Connects by d. take() will fail with -ETIMEDOUT when no byte comes for stall_ms. Returns 0,
	 * -ETIMEDOUT, -ECONNREFUSED, -EHOSTUNREACH or what else the network says. */
	int (*connect)(const struct client_address *a, int64_t stall_ms, struct deadline d,
		       struct client_connection **ret);

	/* Sends one whole message by d. -EMSGSIZE: it is too long for this connection, and nothing has
	 * happened. On any other failure the connection is of no more use. */
	int (*send)(struct client_connection *c, const uint8_t *message, size_t len,
		    struct deadline d);

	/* Waits for the next message until d; after that still takes what is there already. hint may
	 * be NULL; its bufs must stay until settle(). Returns 0, -ETIMEDOUT (nothing is lost, the next
	 * call goes on), -EPROTO (what came is no message), -ECONNRESET ... */
	int (*receive)(struct client_connection *c, const struct client_hint *hint,
		       struct client_message *ret, struct deadline d);

	/* The next n bytes of the data behind the message, into p. Where the hint was right, the calls
	 * must ask for its bufs in order (in pieces of any length): parts of them may be filled already.
	 * Adds what came to *got, also on failure. */
	int (*take)(struct client_connection *c, uint8_t *p, size_t n, size_t *got,
		    struct deadline d);

	/* The hint's bufs will not be asked for any further: what was read into them ahead is kept
	 * aside, to come with the next take() or receive(). To be called before the bufs go away. */
	void (*settle)(struct client_connection *c);

	/* Starts to read a lease; the end of it will be told by receive(), whose thread this one must be.
	 * Its destination must stay until then, or until abort() has returned. It may wait until d for
	 * others to end. On failure the connection is of no more use. -EOPNOTSUPP: this transport has no
	 * leases. */
	int (*pull)(struct client_connection *c, const struct client_lease *lease,
		    struct deadline d);

	/* Calls on_lost(arg), once or more and perhaps before this returns, when the connection is of no
	 * more use, also while no other call is under way; the thread holds no lock that abort() takes. It
	 * is called no more once close() has returned. NULL: this transport does not notice by itself. */
	void (*watch)(struct client_connection *c, void (*on_lost)(void *arg), void *arg);

	/* Cuts the connection: calls under way, and all later ones, fail soon. When it has returned,
	 * no destination of a pull is written to any more. */
	void (*abort)(struct client_connection *c);

	/* Frees everything; no other call may be under way. Takes NULL. */
	void (*close)(struct client_connection *c);
};

extern const struct client_transport client_tcp;

#endif
