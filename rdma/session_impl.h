/* What the files of a client's session share; nobody else includes it. rdma/session.c says who may do what
 * when, and has the session's life and what callers ask for; rdma/session_run.c the states of requests and
 * the leader's role, rdma/session_send.c the sender's, rdma/session_take.c answers and their data.
 *
 * Calls are with the session's lock held where nothing else is said; those of rdma/session_take.c need
 * none. */
#ifndef KELP_RDMA_SESSION_IMPL_H
#define KELP_RDMA_SESSION_IMPL_H

#include <pthread.h>

#include "rdma/session.h"

/* The err of an extent until there is one. */
#define NOT_ANSWERED INT32_MIN

_Static_assert(CLIENT_SESSION_SLOTS_MAX == 64, "a bit for every slot");

/*   FREE -> QUEUED (wants to be sent; needs a credit and the sender's role)
 *        -> SENT (its answer is to come)
 *        -> ANSWERED (it leads, and its answer's data is next in the stream, or in the message)
 *        -> PULLING (what was leased is being read) -> PULLED (it is all there, to be checked)
 *        -> DONE, or FAILED from any -> FREE
 * Only rdma/session_run.c changes it. */
enum request_state {
	REQUEST_FREE,
	REQUEST_QUEUED,
	REQUEST_SENT,
	REQUEST_ANSWERED,
	REQUEST_PULLING,
	REQUEST_PULLED,
	REQUEST_DONE,
	REQUEST_FAILED,
};

/* Leases of one answer, and what they are to be checked against. On the stack of the caller. */
struct pulling {
	size_t left; /* pulls that are not over; the session's lock, once PULLING */
	size_t n;
	struct landing {
		struct client_extent *extent;
		struct wire_result result;
		/* Where its bytes go; NULL: nowhere, it is only given back. */
		const struct read_buf *bufs;
		size_t n_bufs;
		struct read_buf own; /* malloced, where its sink has no room */
	} leases[WIRE_EXTENTS_MAX];
};

/* One request. What its caller gave belongs to the caller's thread; the rest to the session's lock. */
struct slot {
	enum request_state state;
	uint64_t xid;
	int err; /* FAILED: why */
	bool ping;
	struct client_extent *extents;
	size_t n_extents;
	struct pulling *pulling; /* NULL for a ping */
	struct deadline deadline;
	pthread_cond_t wake; /* with the session's lock */
};

struct client_session {
	const struct client_transport *transport; /* immutable */
	struct client_connection *connection; /* immutable */
	int64_t answer_ms; /* immutable */
	void (*on_lost)(void *arg); /* immutable, as its argument */
	void *on_lost_arg;
	void (*on_answer)(void *arg, const struct wire_result *r); /* likewise */
	void *on_answer_arg;
	uint64_t staging_bytes_max; /* immutable: what the agent may lease at once */

	pthread_mutex_t lock; /* protects all below but where it says else; innermost */
	int err; /* the connection is of no more use: why */
	struct slot *leader; /* NULL: none */
	struct slot *sender; /* NULL: none */
	uint64_t serial; /* of the next request */
	unsigned credits; /* reads that may still be sent */
	bool pong_due; /* a ping is to be answered */
	uint64_t pong_xid;
	uint64_t used; /* bit i: slot i is not FREE */
	struct slot slots[CLIENT_SESSION_SLOTS_MAX];

	struct slot
		returner; /* the sender that gives leases back without a read; not one of slots */
	size_t n_completes; /* leases to be given back with the next read */
	uint64_t completes[WIRE_COMPLETES_MAX];

	size_t n_sending; /* the sender's: completes in its message */
	uint64_t sending[WIRE_COMPLETES_MAX];
	struct wire_read_reply reply; /* the leader's: of the last answer */
	const uint8_t *inline_at; /* likewise: where its data is in the message */
	uint8_t tx[WIRE_MESSAGE_BYTES_MAX]; /* the sender's */
};

static inline uint64_t extent_bytes(const struct client_extent *e)
{
	uint64_t bytes = 0;

	for (size_t i = 0; i < e->n_bufs; i++)
		bytes += e->bufs[i].len;
	return bytes;
}

static inline bool streams(const struct client_session *s)
{
	return s->transport->capabilities & WIRE_CAP_STREAM;
}

/* --- rdma/session.c --- */

/* The connection is of no more use, and whoever waits for anything on it learns so; the first err counts. */
void client_session_fail(struct client_session *s, int err);
/* The oldest in a state, but for the sender, which cannot do anything else now. NULL: none. */
struct slot *client_session_oldest(struct client_session *s, enum request_state state);

/* --- rdma/session_run.c --- */

/* Runs a request, of which the caller's fields are set, until it is over. sink_buf: as for
 * client_session_take(). Returns 0 or -errno, as client_session_read() says. Lets go of the lock for a
 * while; is called without it. */
int client_session_run(struct client_session *s, const struct slot *request,
		       struct read_buf *sink_buf);

/* --- rdma/session_send.c: the sender's role --- */

/* Takes the role, which must be free, and a credit, sends the request, and gives the role back. Returns 0,
 * -EMSGSIZE (nothing was sent), or why the session has failed now. Lets go of the lock for a while. */
int client_session_send(struct client_session *s, struct slot *slot);
/* Sends a pong, or leaves that to the present sender. Lets go of the lock for a while. */
void client_session_answer_ping(struct client_session *s, struct slot *self, uint64_t xid);
/* So many more reads may be sent. */
void client_session_add_credits(struct client_session *s, unsigned credits);
/* Nobody reads the leases any more: the next message gives them back. */
void client_session_give_back(struct client_session *s, const struct pulling *p);

/* --- rdma/session_take.c --- */

/* Does the answer fit the question? inline_bytes: what is in the message behind the results. */
bool client_session_reply_fits(const struct client_session *s, const struct slot *slot,
			       const struct wire_read_reply *reply, size_t inline_bytes);
/* By the leader whose answer s->reply is: takes its data, and begins to pull what was leased
 * (slot->pulling). sink_buf: of client_session_find_sink_buf(), where there is a sink and the transport
 * streams. Each extent has its result then, but for those that are pulled. Returns 0, or -errno: the
 * connection is of no more use. */
int client_session_take(struct client_session *s, struct slot *slot, uint8_t *sink_buf);
/* All is pulled: compares it with its checksum, and its extent has its result. */
void client_session_use_lease(const struct landing *l);
/* Where a stream's bytes for a sink go: into its room, or *ret_own, to be freed. Returns 0 or -ENOMEM. */
int client_session_find_sink_buf(const struct needle_sink *sink, struct read_buf *ret,
				 uint8_t **ret_own);

#endif
