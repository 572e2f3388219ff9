/* Thread model: reads run on their callers' threads. One thread, the keeper, is started with the first
 * agent: it makes the first connection to an agent (looking up a name may take long), tries again those
 * that were not there, once in CLIENT_REAP_MS pings idle connections and closes those that nobody wants,
 * and gives back the leases of those that have become idle. Further connections to an agent that is up
 * are made by the read that wants one.
 *
 * Lock order: the table's lock, an agent's lock, the keeper's. None is held during a call that may wait for
 * the network. */
#include "rdma/client.h"

#include <errno.h>
#include <netdb.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/queue.h>
#include <uthash.h>

#include "filer/breaker.h"
#include "filer/locate.h"
#include "filer/token.h"

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
	char host[ENDPOINT_HOST_MAX];
	uint16_t port;
	uint16_t mapped; /* 1: nobody has to be asked where it takes connections */
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

/* Lives as long as the client, or until its place is needed: not while somebody uses it, or the keeper has it. */
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
	pthread_t keeper;
	bool keeper_runs;
	bool stop;
	bool lost; /* some connection is of no more use */
	bool owing; /* some connection has leases to give back, at: */
	struct deadline return_at;
	struct agent_queue queue; /* to be probed */

	atomic_bool owing_is_known; /* to the keeper, until it looks */

	atomic_uint_fast64_t connects, connect_failures, reads, failures, exhausted, reaped;
};

static void count(atomic_uint_fast64_t *counter)
{
	atomic_fetch_add_explicit(counter, 1, memory_order_relaxed);
}

static uint64_t read_counter(atomic_uint_fast64_t *counter)
{
	return atomic_load_explicit(counter, memory_order_relaxed);
}

/* --- agents --- */

static struct agent *agent_new(const struct agent_key *key)
{
	struct agent *a = calloc(1, sizeof(*a));

	if (!a)
		return NULL;
	if (cond_init_monotonic(&a->changed)) {
		free(a);
		return NULL;
	}
	pthread_mutex_init(&a->lock, NULL);
	a->key = *key;
	TAILQ_INIT(&a->pool);
	return a;
}

/* Takes NULL. */
static void agent_free(struct agent *a)
{
	struct pooled *p;

	if (!a)
		return;
	while ((p = TAILQ_FIRST(&a->pool))) {
		TAILQ_REMOVE(&a->pool, p, link);
		client_session_close(p->session, WIRE_SHUTDOWN);
		free(p);
	}
	pthread_cond_destroy(&a->changed);
	pthread_mutex_destroy(&a->lock);
	free(a);
}

static struct agent_key key_of(const struct client *c, const struct endpoint *server)
{
	struct agent_key key = { .port = c->cfg.directory ? server->port : c->cfg.port };
	struct endpoint mapped;
	const char *host = server->host;

	if (c->cfg.map && c->cfg.map(c->cfg.map_arg, server, &mapped)) {
		host = mapped.host;
		key.port = mapped.port;
		key.mapped = 1;
	}
	/* All of the key is hashed: zeros follow the name. */
	memcpy(key.host, host, strnlen(host, sizeof(key.host) - 1));
	return key;
}

/* NOLINTBEGIN(readability-function-size): uthash's macros */
static struct agent *table_find(struct client *c, const struct agent_key *key)
{
	struct agent *a;

	HASH_FIND(hh, c->agents, key, sizeof(*key), a);
	return a;
}

static void table_add(struct client *c, struct agent *a)
{
	HASH_ADD(hh, c->agents, key, sizeof(a->key), a);
}

static void table_remove(struct client *c, struct agent *a)
{
	HASH_DEL(c->agents, a);
}
/* NOLINTEND(readability-function-size) */

/* With the table's lock. */
static bool may_go(struct agent *a)
{
	if (atomic_load_explicit(&a->users, memory_order_acquire) > 0)
		return false;
	LOCK_SCOPE(&a->lock);
	return a->state != AGENT_PROBING && a->state != AGENT_REPROBING;
}

/* With the table's lock: takes the one out that nobody has asked for the longest; NULL: none may go. */
static struct agent *table_evict(struct client *c)
{
	struct agent *oldest = NULL;

	for (struct agent *a = c->agents; a; a = a->hh.next)
		if ((!oldest || a->asked_for < oldest->asked_for) && may_go(a))
			oldest = a;
	if (oldest)
		table_remove(c, oldest);
	return oldest;
}

/* With the table's lock. *ret_evicted: to be freed without it, or NULL. */
static struct agent *table_get(struct client *c, const struct agent_key *key,
			       struct agent **ret_evicted)
{
	struct agent *a = table_find(c, key);

	if (a)
		return a;
	if (HASH_COUNT(c->agents) >= CLIENT_AGENTS_MAX) {
		*ret_evicted = table_evict(c);
		if (!*ret_evicted)
			return NULL;
	}
	a = agent_new(key);
	if (a)
		table_add(c, a);
	return a;
}

/* To be given back with agent_put(). NULL: no memory, or too many are in use. */
static struct agent *agent_of(struct client *c, const struct endpoint *server)
{
	struct agent_key key = key_of(c, server);
	struct agent *evicted = NULL;

	pthread_mutex_lock(&c->table_lock);
	struct agent *a = table_get(c, &key, &evicted);
	if (a) {
		a->asked_for = c->asks++;
		atomic_fetch_add_explicit(&a->users, 1, memory_order_relaxed);
	}
	pthread_mutex_unlock(&c->table_lock);
	agent_free(evicted);
	return a;
}

static void agent_put(struct agent *a)
{
	atomic_fetch_sub_explicit(&a->users, 1, memory_order_release);
}

static void set_state(struct agent *a, enum agent_state state)
{
	a->state = state;
	pthread_cond_broadcast(&a->changed);
}

/* Rests an agent that could not be connected to. */
static void agent_rest(const struct client *c, struct agent *a, int err)
{
	int64_t pause_ms = a->pause_ms;
	uint64_t max_ms = c->cfg.required ? CLIENT_REQUIRED_MAX_MS : CLIENT_ABSENT_MAX_MS;

	if (err == -EOPNOTSUPP || err == -EACCES || err == -EPROTO) {
		pause_ms = CLIENT_REFUSED_MS;
	} else if (err == -EUSERS) {
		pause_ms = CLIENT_EXHAUSTED_MS;
	} else {
		pause_ms = (int64_t)max_u64((uint64_t)pause_ms, c->cfg.absent_min_ms);
		a->pause_ms = (int64_t)min_u64((uint64_t)pause_ms * 2, max_ms);
	}
	a->retry_at_ms = now_ms() + jitter_ms(pause_ms);
	a->refusal = err;
	set_state(a, AGENT_ABSENT);
}

/* --- connecting --- */

/* What a try to connect came to. */
struct attempt {
	int err;
	struct client_session *session; /* NULL where err */
	struct wire_hello_reply hello;
	bool token_sent;
};

/* With the agent's lock. Takes the session over, but for want of memory (NULL). */
static struct pooled *pool_add(struct agent *a, const struct attempt *attempt)
{
	struct pooled *p = calloc(1, sizeof(*p));

	if (!p)
		return NULL;
	p->session = attempt->session;
	p->token_needed = attempt->hello.token_needed && !attempt->token_sent;
	p->idle_since_ms = now_ms();
	TAILQ_INSERT_HEAD(&a->pool, p, link);
	a->n_pooled++;
	return p;
}

/* With the agent's lock. The caller closes what it returns, without the lock: NULL, nothing. */
static struct pooled *pool_remove(struct agent *a, struct pooled *p)
{
	if (!p->removed) {
		TAILQ_REMOVE(&a->pool, p, link);
		a->n_pooled--;
		p->removed = true;
	}
	return p->users == 0 ? p : NULL;
}

static void pooled_close(struct pooled *p, enum wire_status reason)
{
	if (!p)
		return;
	client_session_close(p->session, reason);
	free(p);
}

/* By any thread, at any time: the keeper is to close a connection that nobody may come to use again. */
static void on_lost(void *arg)
{
	struct client *c = arg;

	LOCK_SCOPE(&c->keeper_lock);
	c->lost = true;
	pthread_cond_signal(&c->keeper_wake);
}

/* Without locks. */
static void connect_once(struct client *c, const struct client_address *address, struct deadline d,
			 struct attempt *ret)
{
	char token[TOKEN_MAX] = "";
	struct client_session_config cfg = {
		.transport = c->cfg.transport,
		.address = *address,
		.token = token,
		.stall_ms = c->cfg.stall_ms,
		.answer_ms = c->cfg.answer_ms,
		.on_lost = on_lost,
		.on_lost_arg = c,
	};

	ret->err = c->cfg.tokens ? token_for_agent(c->cfg.tokens, token) : 0;
	ret->token_sent = token[0] != '\0';
	if (!ret->err)
		ret->err = client_session_open(&cfg, d, &ret->session, &ret->hello);
	count(ret->err ? &c->connect_failures : &c->connects);
}

static bool is_live(struct pooled *p)
{
	return client_session_error(p->session) == 0;
}

static bool pool_has_live(struct agent *a)
{
	for (struct pooled *p = TAILQ_FIRST(&a->pool); p; p = TAILQ_NEXT(p, link))
		if (is_live(p))
			return true;
	return false;
}

/* With the agent's lock. The new connection, or NULL. */
static struct pooled *note_attempt(struct client *c, struct agent *a, struct attempt *attempt)
{
	if (!attempt->err || attempt->hello.status != WIRE_OK)
		a->hello = attempt->hello;
	if (!attempt->err) {
		struct pooled *p = pool_add(a, attempt);
		if (p) {
			a->pause_ms = 0;
			set_state(a, AGENT_UP);
			return p;
		}
		attempt->err = -ENOMEM;
		client_session_close(attempt->session, WIRE_SHUTDOWN);
	}
	if (attempt->err == -EUSERS)
		a->full_until_ms = now_ms() + jitter_ms(CLIENT_EXHAUSTED_MS);
	if (!pool_has_live(a))
		agent_rest(c, a, attempt->err);
	return NULL;
}

static int resolve(const struct agent_key *key, struct client_address *ret)
{
	const struct addrinfo hints = { .ai_socktype = SOCK_STREAM,
					.ai_flags = AI_NUMERICSERV | AI_ADDRCONFIG };
	struct addrinfo *found;
	char port[8];

	snprintf(port, sizeof(port), "%u", key->port);
	if (getaddrinfo(key->host, port, &hints, &found) != 0)
		return -EHOSTUNREACH;
	memcpy(&ret->sockaddr, found->ai_addr, found->ai_addrlen);
	ret->len = found->ai_addrlen;
	freeaddrinfo(found);
	return 0;
}

static void try_to_connect(struct client *c, const struct agent_key *key,
			   struct client_address *ret_address, struct attempt *ret)
{
	ret->err = resolve(key, ret_address);
	if (!ret->err)
		connect_once(c, ret_address, deadline_in_ms(c->cfg.probe_ms), ret);
}

/* Where the directory's agent says that it can be reached. */
static void try_told_addresses(struct client *c, const struct agent_key *server,
			       struct client_address *ret_address, struct attempt *ret)
{
	struct endpoint e = { .port = server->port };
	struct wire_hello_reply hello;
	int64_t rtt_ns;

	memcpy(e.host, server->host, sizeof(e.host));
	ret->err = client_ping(c->cfg.directory, &e, deadline_in_ms(c->cfg.connect_ms), &hello,
			       &rtt_ns);
	if (ret->err)
		return;
	ret->err = -EOPNOTSUPP;
	for (size_t i = 0; i < hello.n_addresses && ret->err; i++) {
		struct agent_key told = { .port = hello.addresses[i].port };

		strncpy(told.host, hello.addresses[i].host, sizeof(told.host) - 1);
		try_to_connect(c, &told, ret_address, ret);
	}
}

/* PROBING or REPROBING -> UP or ABSENT; by the keeper. */
static void probe(struct client *c, struct agent *a)
{
	struct client_address address = { 0 };
	struct attempt attempt = { 0 };

	if (c->cfg.directory && !a->key.mapped)
		try_told_addresses(c, &a->key, &address, &attempt);
	else
		try_to_connect(c, &a->key, &address, &attempt);
	LOCK_SCOPE(&a->lock);
	a->address = address;
	note_attempt(c, a, &attempt);
}

/* --- the keeper --- */

/* With the agent's lock: a connection that nobody uses and that has been idle for so long, or was cut. */
static struct pooled *next_stale(struct agent *a, int64_t now, int64_t idle_ms)
{
	for (struct pooled *p = TAILQ_FIRST(&a->pool); p; p = TAILQ_NEXT(p, link))
		if (p->users == 0 && (now - p->idle_since_ms >= idle_ms || !is_live(p)))
			return p;
	return NULL;
}

static void reap_idle(struct client *c, struct agent *a, int64_t idle_ms)
{
	int64_t now = now_ms();

	for (;;) {
		pthread_mutex_lock(&a->lock);
		struct pooled *p = next_stale(a, now, idle_ms);
		if (p) {
			pool_remove(a, p);
			count(&c->reaped); /* before anybody can see that it is gone */
		}
		pthread_mutex_unlock(&a->lock);
		if (!p)
			return;
		pooled_close(p, WIRE_IDLE);
	}
}

static bool is_stopping(struct client *c)
{
	LOCK_SCOPE(&c->keeper_lock);
	return c->stop;
}

/* By any thread, with no lock but an agent's. */
static void note_owing(struct client *c)
{
	if (atomic_exchange(&c->owing_is_known, true))
		return;
	LOCK_SCOPE(&c->keeper_lock);
	c->owing = true;
	c->return_at = deadline_in_ms(CLIENT_LEASES_MS);
	pthread_cond_signal(&c->keeper_wake);
}

/* Does something with each connection that nobody uses and that has been idle for so long. */
static void visit_idle(struct client *c, struct agent *a, int64_t idle_ms,
		       int (*visit)(struct client_session *s, struct deadline d))
{
	int64_t now = now_ms();
	struct pooled *idle[CLIENT_CONNECTIONS_LIMIT];
	size_t n = 0;

	pthread_mutex_lock(&a->lock);
	for (struct pooled *p = TAILQ_FIRST(&a->pool); p; p = TAILQ_NEXT(p, link)) {
		if (p->users == 0 && now - p->idle_since_ms >= idle_ms && n < ARRAY_LEN(idle)) {
			p->users++;
			idle[n++] = p;
		}
	}
	pthread_mutex_unlock(&a->lock);
	for (size_t i = 0; i < n; i++) {
		struct pooled *dead = NULL;
		int err = is_stopping(c) ? 0
					 : visit(idle[i]->session, deadline_in_ms(CLIENT_PING_MS));

		pthread_mutex_lock(&a->lock);
		idle[i]->users--;
		if (err || idle[i]->removed)
			dead = pool_remove(a, idle[i]);
		pthread_mutex_unlock(&a->lock);
		pooled_close(dead, WIRE_SHUTDOWN);
	}
}

static void bury_dead(struct client *c, struct agent *a)
{
	reap_idle(c, a, INT64_MAX);
}

/* A ping takes in what the agent sent meanwhile, and answers it. */
static void reap_and_ping(struct client *c, struct agent *a)
{
	reap_idle(c, a, c->cfg.idle_ms);
	visit_idle(c, a, 0, client_session_ping);
}

/* Those that are in use, or were until now, will send another read, or tell of it when they are not. */
static void return_leases(struct client *c, struct agent *a)
{
	bool owing = false;

	visit_idle(c, a, CLIENT_LEASES_MS / 2, client_session_return_leases);
	pthread_mutex_lock(&a->lock);
	for (struct pooled *p = TAILQ_FIRST(&a->pool); p; p = TAILQ_NEXT(p, link))
		owing |= p->users == 0 && is_live(p) && client_session_owes_leases(p->session);
	pthread_mutex_unlock(&a->lock);
	if (owing)
		note_owing(c);
}

/* Who is looked after stays, and so does his place in the list. */
static void for_each_agent(struct client *c, void (*look_after)(struct client *c, struct agent *a))
{
	pthread_mutex_lock(&c->table_lock);
	for (struct agent *a = c->agents; a;) {
		struct agent *this = a;

		atomic_fetch_add_explicit(&this->users, 1, memory_order_relaxed);
		pthread_mutex_unlock(&c->table_lock);
		look_after(c, this);
		pthread_mutex_lock(&c->table_lock);
		a = this->hh.next;
		agent_put(this);
	}
	pthread_mutex_unlock(&c->table_lock);
}

/* With the keeper's lock: until there is something to do. */
static struct deadline next_look(const struct client *c, struct deadline reap)
{
	return c->owing && c->return_at.at_ms < reap.at_ms ? c->return_at : reap;
}

static void *keep(void *arg)
{
	struct client *c = arg;
	struct deadline reap = deadline_in_ms(c->cfg.reap_ms);

	pthread_mutex_lock(&c->keeper_lock);
	while (!c->stop) {
		struct agent *a = STAILQ_FIRST(&c->queue);
		struct deadline next = next_look(c, reap);

		if (!a && !c->lost && !deadline_passed(next)) {
			cond_wait_until(&c->keeper_wake, &c->keeper_lock, next);
			continue;
		}
		if (a)
			STAILQ_REMOVE_HEAD(&c->queue, queue_link);
		bool lost = c->lost;
		bool owing = c->owing && deadline_passed(c->return_at);
		c->lost = false;
		c->owing &= !owing;
		pthread_mutex_unlock(&c->keeper_lock);
		if (lost)
			for_each_agent(c, bury_dead);
		if (owing) {
			atomic_store(&c->owing_is_known, false);
			for_each_agent(c, return_leases);
		}
		if (a)
			probe(c, a);
		if (deadline_passed(reap)) {
			for_each_agent(c, reap_and_ping);
			reap = deadline_in_ms(c->cfg.reap_ms);
		}
		pthread_mutex_lock(&c->keeper_lock);
	}
	pthread_mutex_unlock(&c->keeper_lock);
	return NULL;
}

/* With the agent's lock; it is in the state PROBING or REPROBING, and so in no queue. */
static int ask_keeper(struct client *c, struct agent *a)
{
	LOCK_SCOPE(&c->keeper_lock);

	if (!c->keeper_runs) {
		int err = -pthread_create(&c->keeper, NULL, keep, c);
		if (err)
			return err;
		c->keeper_runs = true;
	}
	STAILQ_INSERT_TAIL(&c->queue, a, queue_link);
	pthread_cond_signal(&c->keeper_wake);
	return 0;
}

/* --- the pool --- */

/* With the agent's lock. 0: it is UP. */
static int agent_ready(struct client *c, struct agent *a, struct deadline d)
{
	if (a->state == AGENT_NEW) {
		set_state(a, AGENT_PROBING);
		int err = ask_keeper(c, a);
		if (err)
			agent_rest(c, a, err);
	}
	d = deadline_sooner(d, c->cfg.connect_ms);
	while (a->state == AGENT_PROBING)
		if (cond_wait_until(&a->changed, &a->lock, d) == -ETIMEDOUT)
			break;
	if (a->state == AGENT_UP)
		return 0;
	if (a->state != AGENT_ABSENT)
		return -EOPNOTSUPP;
	int refusal = a->refusal;
	if (now_ms() >= a->retry_at_ms) {
		set_state(a, AGENT_REPROBING);
		int err = ask_keeper(c, a);
		if (err)
			agent_rest(c, a, err);
	}
	return refusal == -EUSERS ? -EUSERS : -EOPNOTSUPP;
}

/* With the agent's lock: an idle connection, or, if another cannot be made, the one with the fewest
 * reads. NULL: none. */
static struct pooled *pool_pick(struct agent *a, bool idle_only)
{
	struct pooled *best = NULL;
	for (struct pooled *p = TAILQ_FIRST(&a->pool); p; p = TAILQ_NEXT(p, link)) {
		if (p->users == 0)
			return p;
		if (!idle_only && p->users < CLIENT_SESSION_SLOTS_MAX &&
		    (!best || p->users < best->users) && is_live(p))
			best = p;
	}
	return best;
}

/* With the agent's lock, which it lets go of for a while. */
static int pool_grow(struct client *c, struct agent *a, struct deadline d, struct pooled **ret)
{
	struct client_address address = a->address;
	struct attempt attempt = { 0 };

	a->connecting++;
	pthread_mutex_unlock(&a->lock);
	connect_once(c, &address, deadline_sooner(d, c->cfg.connect_ms), &attempt);
	pthread_mutex_lock(&a->lock);
	a->connecting--;
	*ret = note_attempt(c, a, &attempt);
	return attempt.err;
}

static bool may_grow(const struct client *c, const struct agent *a)
{
	return a->n_pooled + a->connecting < c->cfg.connections_max &&
	       (a->full_until_ms == 0 || now_ms() >= a->full_until_ms);
}

/* A connection to read on, to be given back with pool_release(). */
static int pool_acquire(struct client *c, struct agent *a, struct deadline d, struct pooled **ret)
{
	LOCK_SCOPE(&a->lock);

	int err = agent_ready(c, a, d);
	if (err)
		return err;
	struct pooled *p = pool_pick(a, true);
	if (!p && may_grow(c, a)) {
		err = pool_grow(c, a, d, &p);
		if (err == -ENOMEM)
			return err;
	}
	if (!p)
		p = pool_pick(a, false);
	if (!p && err && err != -EUSERS)
		return -EOPNOTSUPP;
	if (!p) {
		count(&c->exhausted);
		return -EUSERS;
	}
	p->users++;
	*ret = p;
	return 0;
}

static void pool_release(struct client *c, struct agent *a, struct pooled *p)
{
	bool dead = client_session_error(p->session) != 0;
	bool owing = !dead && client_session_owes_leases(p->session);
	struct pooled *to_close = NULL;

	pthread_mutex_lock(&a->lock);
	p->users--;
	p->idle_since_ms = now_ms();
	if (dead || p->removed) {
		to_close = pool_remove(a, p);
	} else {
		TAILQ_REMOVE(&a->pool, p, link);
		TAILQ_INSERT_HEAD(&a->pool, p, link);
	}
	pthread_mutex_unlock(&a->lock);
	pooled_close(to_close, WIRE_SHUTDOWN);
	if (owing)
		note_owing(c);
}

/* --- reading --- */

/* tokens: TOKEN_MAX bytes for each extent. */
static int fill_tokens(struct client *c, struct client_extent *extents, size_t n, char *tokens,
		       struct deadline d)
{
	for (size_t i = 0; i < n; i++) {
		char *token = tokens + i * TOKEN_MAX;
		int err = -EOPNOTSUPP;

		if (c->cfg.tokens && token_has_volume_key(c->cfg.tokens))
			err = token_for_fid(c->cfg.tokens, &extents[i].fid, token);
		else if (c->cfg.extent_token)
			err = c->cfg.extent_token(c->cfg.arg, &extents[i].fid, d, token, TOKEN_MAX);
		if (err)
			return err;
		extents[i].token = token;
		extents[i].token_len = strlen(token);
	}
	return 0;
}

static bool has_begun(const struct client_extent *extents, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (extents[i].begun)
			return true;
	return false;
}

static int read_once(struct client *c, struct agent *a, struct client_extent *extents, size_t n,
		     struct deadline d)
{
	CLEANUP_FREE char *tokens = NULL;
	struct pooled *p = NULL;
	int err = pool_acquire(c, a, d, &p);

	if (err)
		return err;
	if (p->token_needed) {
		tokens = malloc(n * TOKEN_MAX);
		err = tokens ? fill_tokens(c, extents, n, tokens, d) : -ENOMEM;
	}
	if (!err)
		err = client_session_read(p->session, extents, n, d);
	for (size_t i = 0; i < n; i++)
		extents[i].token = NULL;
	pool_release(c, a, p);
	return err;
}

static int read_from(struct client *c, struct agent *a, struct client_extent *extents, size_t n,
		     struct deadline d)
{
	int err = read_once(c, a, extents, n, d);
	if (err == -ECONNRESET && !has_begun(extents, n)) {
		/* The agent closes what was idle, and may have been restarted: what else lies idle
		 * has probably been cut as well. */
		reap_idle(c, a, 0);
		err = read_once(c, a, extents, n, d);
	}
	return err;
}

int client_read(struct client *c, const struct endpoint *server, struct client_extent *extents,
		size_t n, struct deadline d)
{
	struct agent *a = agent_of(c, server);

	for (size_t i = 0; i < n; i++) {
		extents[i].begun = extents[i].gzip = false;
		extents[i].got = 0;
		extents[i].err = -EOPNOTSUPP;
	}
	if (!a)
		return -EOPNOTSUPP;
	int err = read_from(c, a, extents, n, d);
	agent_put(a);
	if (err && !has_begun(extents, n))
		for (size_t i = 0; i < n; i++)
			extents[i].err = err;
	if (err != -EOPNOTSUPP)
		count(err ? &c->failures : &c->reads);
	return err;
}

static int ping(struct client *c, struct agent *a, struct deadline d,
		struct wire_hello_reply *ret_hello, int64_t *ret_rtt_ns)
{
	struct pooled *p = NULL;
	int err = pool_acquire(c, a, d, &p);
	pthread_mutex_lock(&a->lock);
	*ret_hello = a->hello;
	if (err == -EOPNOTSUPP)
		err = a->refusal ? a->refusal : -ETIMEDOUT; /* who asks wants to know */
	pthread_mutex_unlock(&a->lock);
	if (err)
		return err;
	int64_t start = now_ns();
	err = client_session_ping(p->session, d);
	if (!err)
		*ret_rtt_ns = now_ns() - start;
	pool_release(c, a, p);
	return err;
}

int client_ping(struct client *c, const struct endpoint *server, struct deadline d,
		struct wire_hello_reply *ret_hello, int64_t *ret_rtt_ns)
{
	struct agent *a = agent_of(c, server);

	if (!a)
		return -EOPNOTSUPP;
	int err = ping(c, a, d, ret_hello, ret_rtt_ns);
	agent_put(a);
	return err;
}

/* --- the source --- */

/* In the terms of filer/source.h. */
static int source_error(const struct client *c, const struct client_extent *e)
{
	if (e->err == -EUSERS)
		return -EBUSY;
	if (e->err == -EOPNOTSUPP && c->cfg.required)
		return -EHOSTUNREACH;
	return e->err;
}

/* A range beyond the stored bytes may lie within the plain ones. */
static bool is_compressed(struct client *c, const struct endpoint *server, const struct fid *fid,
			  struct deadline d)
{
	uint8_t first;
	struct read_buf buf = { .ptr = &first, .len = 1 };
	struct client_extent e = { .fid = *fid, .bufs = &buf, .n_bufs = 1, .read_deleted = true };

	client_read(c, server, &e, 1, d);
	return e.gzip;
}

static int source_read_range(void *self, struct server *server, struct needle_range *r,
			     struct deadline d)
{
	struct client *c = self;
	struct client_extent e = { .fid = r->fid,
				   .offset = r->offset,
				   .bufs = r->bufs,
				   .n_bufs = r->n_bufs,
				   .read_deleted = true };
	size_t bytes = 0;

	r->got = 0;
	for (size_t i = 0; i < r->n_bufs; i++)
		bytes += r->bufs[i].len;
	if (bytes == 0)
		return 0;
	client_read(c, &server->addr, &e, 1, d);
	if (e.gzip || (e.err == -ENODATA && is_compressed(c, &server->addr, &r->fid, d))) {
		r->gzip = true;
		return -EMEDIUMTYPE;
	}
	if (!e.err)
		r->plain_bytes = e.needle_bytes;
	r->got = e.got;
	return source_error(c, &e);
}

static int source_read_whole(void *self, struct server *server, const struct fid *fid,
			     const struct needle_sink *sink, struct deadline d)
{
	struct client *c = self;
	struct client_extent e = { .fid = *fid, .sink = sink, .read_deleted = true };

	client_read(c, &server->addr, &e, 1, d);
	return source_error(c, &e);
}

static void source_read_many(void *self, struct server *server, struct needle_item *const *items,
			     size_t n, void (*done)(void *arg, struct needle_item *item), void *arg,
			     struct deadline d)
{
	struct client_extent extents[NEEDLE_ITEMS_MAX];
	struct client *c = self;

	_Static_assert(NEEDLE_ITEMS_MAX <= WIRE_EXTENTS_MAX, "one message is enough");
	if (n == 0)
		return;
	for (size_t i = 0; i < n; i++)
		extents[i] = (struct client_extent){ .fid = items[i]->range.fid,
						     .offset = items[i]->range.offset,
						     .bufs = items[i]->range.bufs,
						     .n_bufs = items[i]->range.n_bufs,
						     .read_deleted = true };
	client_read(c, &server->addr, extents, n, d);
	for (size_t i = 0; i < n; i++) {
		items[i]->range.got = extents[i].got;
		items[i]->err = extents[i].gzip ? -EMEDIUMTYPE : source_error(c, &extents[i]);
		done(arg, items[i]);
	}
}

static struct breaker *source_breaker(struct server *server)
{
	return &server->agent;
}

static struct breaker *rdma_breaker(struct server *server)
{
	return &server->rdma;
}

static const struct source_ops rdma_ops = {
	.name = "rdma",
	.read_range = source_read_range,
	.read_whole = source_read_whole,
	.read_many = source_read_many,
	.breaker = rdma_breaker,
};

static const struct source_ops tcp_ops = {
	.name = "tcp",
	.read_range = source_read_range,
	.read_whole = source_read_whole,
	.read_many = source_read_many,
	.breaker = source_breaker,
};

struct source client_source(struct client *c)
{
	return (struct source){ .ops = c->cfg.directory ? &rdma_ops : &tcp_ops,
				.self = c,
				.per_server = true };
}

/* --- life --- */

static unsigned or_default(unsigned value, unsigned preset)
{
	return value ? value : preset;
}

int client_new(const struct client_config *cfg, struct client **ret)
{
	struct client *c = calloc(1, sizeof(*c));

	if (!c)
		return -ENOMEM;
	int err = cond_init_monotonic(&c->keeper_wake);
	if (err) {
		free(c);
		return err;
	}
	c->cfg = *cfg;
	c->cfg.port = cfg->port ? cfg->port : WIRE_PORT;
	bool stream = cfg->transport->capabilities & WIRE_CAP_STREAM;
	unsigned preset = stream ? CLIENT_STREAMS_MAX : CLIENT_CONNECTIONS_MAX;
	c->cfg.connections_max = (unsigned)min_u64(or_default(cfg->connections_max, preset),
						   CLIENT_CONNECTIONS_LIMIT);
	c->cfg.idle_ms = or_default(cfg->idle_ms, CLIENT_IDLE_MS);
	c->cfg.reap_ms = or_default(cfg->reap_ms, CLIENT_REAP_MS);
	c->cfg.connect_ms = or_default(cfg->connect_ms, CLIENT_CONNECT_MS);
	c->cfg.probe_ms = or_default(cfg->probe_ms, c->cfg.connect_ms);
	c->cfg.answer_ms = or_default(cfg->answer_ms, CLIENT_ANSWER_MS);
	c->cfg.stall_ms = or_default(cfg->stall_ms, CLIENT_STALL_MS);
	c->cfg.absent_min_ms = or_default(cfg->absent_min_ms, CLIENT_ABSENT_MIN_MS);
	pthread_mutex_init(&c->table_lock, NULL);
	pthread_mutex_init(&c->keeper_lock, NULL);
	STAILQ_INIT(&c->queue);
	*ret = c;
	return 0;
}

static void stop_keeper(struct client *c)
{
	pthread_mutex_lock(&c->keeper_lock);
	c->stop = true;
	pthread_cond_signal(&c->keeper_wake);
	pthread_mutex_unlock(&c->keeper_lock);
	if (c->keeper_runs)
		pthread_join(c->keeper, NULL);
}

void client_free(struct client *c)
{
	if (!c)
		return;
	stop_keeper(c);
	/* The chain through the members outlives the table. */
	struct agent *a = c->agents;
	HASH_CLEAR(hh, c->agents);
	while (a) {
		struct agent *next = a->hh.next;
		agent_free(a);
		a = next;
	}
	pthread_cond_destroy(&c->keeper_wake);
	pthread_mutex_destroy(&c->keeper_lock);
	pthread_mutex_destroy(&c->table_lock);
	free(c);
}

void client_stats(struct client *c, struct client_stats *ret)
{
	struct client_stats s = {
		.connects = read_counter(&c->connects),
		.connect_failures = read_counter(&c->connect_failures),
		.reads = read_counter(&c->reads),
		.failures = read_counter(&c->failures),
		.exhausted = read_counter(&c->exhausted),
		.reaped = read_counter(&c->reaped),
	};

	pthread_mutex_lock(&c->table_lock);
	for (struct agent *a = c->agents; a; a = a->hh.next) {
		pthread_mutex_lock(&a->lock);
		s.agents++;
		s.agents_up += a->state == AGENT_UP;
		s.connections += a->n_pooled;
		pthread_mutex_unlock(&a->lock);
	}
	pthread_mutex_unlock(&c->table_lock);
	*ret = s;
}
