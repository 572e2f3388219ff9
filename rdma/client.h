/* Reading from the agents beside volume servers: which agents there are, and connections to each.
 *
 * An agent that is not there costs nothing after the first try: that is waited for, connect_ms at
 * most; later ones are made in the background, after a pause that grows, when somebody would have used
 * the agent. Thread-safe. */
#ifndef KELP_RDMA_CLIENT_H
#define KELP_RDMA_CLIENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "filer/base/base.h"
#include "filer/endpoint.h"
#include "filer/source.h"
#include "rdma/session.h"
#include "rdma/transport.h"
#include "rdma/wire.h"

struct client;
struct token_source;

/* Known at once; beyond, the one that was asked for longest ago makes room. */
#define CLIENT_AGENTS_MAX 4096
#define CLIENT_CONNECTIONS_MAX 10 /* to one agent */
/* So many are as fast as that over RDMA, and take turns in moving large answers less. */
#define CLIENT_CONNECTIONS_FEW 4
#define CLIENT_READS_EACH 8 /* on each of them before there are more */
/* Likewise over TCP, where connections cost little, and readers that share one wake each other up. */
#define CLIENT_STREAMS_MAX 16
#define CLIENT_CONNECTIONS_LIMIT 64 /* ... at most */
#define CLIENT_IDLE_MS (5 * 60 * 1000)
#define CLIENT_REAP_MS (60 * 1000)
#define CLIENT_CONNECT_MS                                                                          \
	500 /* with the hello; nobody waits longer for a connection, unless required */
#define CLIENT_GROW_MS 2000 /* nor longer than that for one more, where there is one that works */
#define CLIENT_PROBERS                                                                             \
	4 /* threads that connect in place of the keeper, where that may take longer */
#define CLIENT_STALL_MS 2000 /* no byte for so long in the middle of an answer */
#define CLIENT_ANSWER_MS 1500 /* no message for so long while one is waited for */
#define CLIENT_PING_MS 1000
/* From a read to looking for leases that no other took along: of connections that were idle for half of
 * that. */
#define CLIENT_LEASES_MS 100
/* Pauses between two tries to reach an agent, jittered. */
#define CLIENT_ABSENT_MIN_MS 500
#define CLIENT_ABSENT_MAX_MS 60000
#define CLIENT_REQUIRED_MAX_MS 5000 /* where there is nobody else to ask */
#define CLIENT_REFUSED_MS 300000 /* it speaks another version, or does not want us */
#define CLIENT_EXHAUSTED_MS 5000 /* it has too many connections */

struct client_config {
	const struct client_transport *transport;
	uint16_t port; /* of agents; 0: WIRE_PORT */
	/* Whose agents say where they take connections of this transport, but for those that map knows;
	 * port is that one's then. Borrowed; freed after this one. NULL: they are at port. */
	struct client *directory;
	/* Where the agent of a volume server is, if elsewhere than on its host at port. True: *ret is
	 * set. NULL: there is none elsewhere. Must be quick: it is asked for every read. */
	bool (*map)(void *arg, const struct endpoint *server, struct endpoint *ret);
	void *map_arg;
	/* A token for one needle, where the agent asks for one and there is no volume read key. NULL:
	 * such agents cannot be used. */
	int (*extent_token)(void *arg, const struct fid *fid, struct deadline d, char *buf,
			    size_t buf_bytes);
	void *arg; /* of extent_token */
	struct token_source *tokens; /* borrowed; NULL: no keys */
	/* As of a session (rdma/session.h). */
	void (*on_answer)(void *arg, const struct wire_result *r);
	void *on_answer_arg;
	/* There is nobody else to ask: an agent that cannot be reached is a failure, not a source that
	 * has nothing to say. */
	bool required;
	/* Beyond so many to one agent there is another one only where each has CLIENT_READS_EACH reads. 0: there is
	 * one more whenever none is idle. */
	unsigned connections_few;
	/* 0 in any of these: the default above. */
	unsigned connections_max;
	unsigned idle_ms;
	unsigned reap_ms;
	unsigned connect_ms; /* how long readers wait for the first connection to an agent */
	unsigned probe_ms; /* what connecting to one of an agent's addresses may take at least */
	unsigned stall_ms;
	unsigned answer_ms;
	unsigned absent_min_ms;
};

int client_new(const struct client_config *cfg, struct client **ret);

/* Closes all connections; no read may be under way. Takes NULL. */
void client_free(struct client *c);

/* The agents as a source of needle bytes, per server, with server->agent as its breaker, or
 * server->rdma with a directory. Answers
 * -EOPNOTSUPP for what they cannot serve, at once where an agent is known not to be there. */
struct source client_source(struct client *c);

/* Reads up to WIRE_EXTENTS_MAX extents from one server's agent with one message. 0: every extent has
 * been answered, each with its own err. Else none may have been, each with its err: -EOPNOTSUPP (no
 * agent that could be asked now), -EUSERS (exhausted: every connection is in full use, or the agent
 * takes no more), or as client_session_read(). Tokens are filled in. */
int client_read(struct client *c, const struct endpoint *server, struct client_extent *extents,
		size_t n, struct deadline d);

/* What the agent said of itself when it was connected to last; connects if need be. *ret_rtt_ns: of a
 * ping. Returns 0 or as client_read(); *ret_hello is also set where the agent refused us. */
int client_ping(struct client *c, const struct endpoint *server, struct deadline d,
		struct wire_hello_reply *ret_hello, int64_t *ret_rtt_ns);

struct client_stats {
	size_t agents; /* known, of which: */
	size_t agents_up;
	size_t connections; /* now */
	uint64_t connects, connect_failures;
	uint64_t reads, failures; /* messages, not extents */
	uint64_t exhausted;
	uint64_t reaped;
};
void client_stats(struct client *c, struct client_stats *ret);

#endif
