/* What the files of a client share; nobody else includes it. rdma/client.c has reads, pings and the client's life,
 * rdma/client_agents.c the table of agents, rdma/client_pool.c an agent's state and connections,
 * rdma/client_keeper.c the keeper, rdma/client_source.c what readers of needles see of it. */
#ifndef KELP_RDMA_CLIENT_IMPL_H
#define KELP_RDMA_CLIENT_IMPL_H

#include <pthread.h>
#include <stdatomic.h>
#include <sys/queue.h>
#include <uthash.h>

#include "rdma/client.h"

/*   NEW -> PROBING (somebody wants it; the keeper connects; readers wait for that)
 *       -> UP (there has been a connection, and no reason to doubt that there can be another)
 *       -> ABSENT (not there, not well, or not wanting us, until retry_at_ms)
 *   ABSENT -> REPROBING (somebody wants it after that; readers do not wait) -> UP or ABSENT
 *   UP -> ABSENT (no connection is left, and none could be made) */
enum agent_state {
	AGENT_NEW,
	AGENT_PROBING,
	AGENT_UP,
	AGENT_ABSENT,
	AGENT_REPROBING,
};

struct agent_key {
	uint16_t port;
	uint16_t mapped; /* 1: nobody has to be asked where it takes connections */
	char host[ENDPOINT_HOST_MAX]; /* last: looked for by its own length */
};

/* A connection in the pool. */
struct pooled {
	TAILQ_ENTRY(pooled) link;
	struct client_session *session; /* immutable */
	bool token_needed; /* immutable: with every extent */
	unsigned users;
	bool removed; /* from the pool; its last user closes it */
	int64_t idle_since_ms;
};

TAILQ_HEAD(pool, pooled);

/* Lives as long as the client, or until its place is needed: not while somebody uses it, or it was asked of the
 * keeper. */
struct agent {
	UT_hash_handle hh; /* the table's lock, as the next */
	uint64_t asked_for; /* when last; in calls */
	atomic_uint users; /* only grows with the table's lock */
	STAILQ_ENTRY(agent) queue_link; /* the keeper's lock */
	struct agent_key key; /* immutable */

	pthread_mutex_t lock; /* protects all below */
	pthread_cond_t changed; /* the state */
	enum agent_state state;
	struct client_address address; /* once UP */
	struct wire_hello_reply hello; /* of the last connect that was answered */
	int refusal; /* ABSENT: the errno of why */
	int64_t retry_at_ms; /* ABSENT */
	bool asked; /* of the keeper: it has it in its queue, or a prober at work on it */
	int64_t pause_ms; /* of the next rest */
	int64_t full_until_ms; /* it takes no more connections */
	struct pool pool; /* most recently used first */
	unsigned n_pooled;
	unsigned connecting;
};

STAILQ_HEAD(agent_queue, agent);

struct client {
	struct client_config cfg; /* immutable, with the defaults filled in */

	pthread_mutex_t table_lock; /* protects agents and asks */
	struct agent *agents;
	uint64_t asks; /* for agents, so far */

	pthread_mutex_t keeper_lock; /* protects all up to the atomics */
	pthread_cond_t keeper_wake;
	pthread_cond_t prober_wake; /* the queue, or the end */
	pthread_t keeper;
	pthread_t probers[CLIENT_PROBERS];
	unsigned n_probers;
	bool keeper_runs;
	bool stop;
	bool lost; /* some connection is of no more use */
	bool owing; /* some connection has leases to give back, at: */
	struct deadline return_at;
	struct agent_queue queue; /* to be probed */

	atomic_bool owing_is_known; /* to the keeper, until it looks */

	atomic_uint_fast64_t connects, connect_failures, reads, failures, exhausted, reaped;
};

/* What a try to connect came to. */
struct attempt {
	int err;
	struct client_session *session; /* NULL where err */
	struct wire_hello_reply hello;
	bool token_sent;
};

static inline void count(atomic_uint_fast64_t *counter)
{
	atomic_fetch_add_explicit(counter, 1, memory_order_relaxed);
}

static inline bool is_live(struct pooled *p)
{
	return client_session_error(p->session) == 0;
}

/* --- rdma/client_agents.c --- */

/* To be given back with client_agent_put(). NULL: no memory, or too many are in use. */
struct agent *client_agent_get(struct client *c, const struct endpoint *server);
void client_agent_put(struct agent *a);
/* Without locks. Who is looked after stays, and so does his place in the list. */
void client_for_each_agent(struct client *c, void (*look_after)(struct client *c, struct agent *a));
/* Closes all connections. Nothing else may be going on any more. */
void client_agents_free(struct client *c);

/* --- rdma/client_pool.c --- */

/* A connection to read on, to be given back with client_pool_release(); made if need be. Returns 0,
 * -EOPNOTSUPP (the agent is absent), -EUSERS (all are in full use, and there cannot be more) or -ENOMEM. Both
 * are called without locks. */
int client_pool_acquire(struct client *c, struct agent *a, struct deadline d, struct pooled **ret);
void client_pool_release(struct client *c, struct agent *a, struct pooled *p);
/* Closes the connections that nobody uses and that have been idle for so long, or were cut. Without locks. */
void client_pool_reap(struct client *c, struct agent *a, int64_t idle_ms);
/* With the agent's lock. The caller closes what it returns, without the lock: NULL, nothing. */
struct pooled *client_pool_remove(struct agent *a, struct pooled *p);
/* Without locks. Takes NULL. */
void client_pool_close(struct pooled *p, enum wire_status reason);
/* Tries to connect. Without locks; *ret is 0 before. */
void client_pool_connect(struct client *c, const struct client_address *address, struct deadline d,
			 struct attempt *ret);
/* With the agent's lock: adds the connection to the pool, and has the agent's state follow from the attempt.
 * Returns the connection, or NULL, where attempt->err says why. */
struct pooled *client_pool_note(struct client *c, struct agent *a, struct attempt *attempt);

/* --- rdma/client_keeper.c --- */

/* With the agent's lock; it is PROBING or REPROBING, and was not asked for: it is to be probed, before others where
 * somebody waits for that. Starts the keeper if need be. Returns 0, or why that was not possible. */
int client_keeper_ask(struct client *c, struct agent *a);
/* By any thread, with no lock but an agent's: a connection that nobody uses has leases to give back. */
void client_keeper_note_owing(struct client *c);
/* By any thread, at any time: the keeper is to close a connection that nobody may come to use again. arg: the
 * client. */
void client_keeper_note_lost(void *arg);
/* Stops and joins the keeper, if there is one, and its probers. */
void client_keeper_stop(struct client *c);

#endif
