/* Thread model: see rdma/client.c. Here are the keeper and the probers. */
#include "rdma/client_impl.h"

#include <errno.h>
#include <netdb.h>
#include <stdio.h>
#include <string.h>

/* --- what it is told; by any thread --- */

void client_keeper_note_lost(void *arg)
{
	struct client *c = arg;

	LOCK_SCOPE(&c->keeper_lock);
	c->lost = true;
	pthread_cond_signal(&c->keeper_wake);
}

void client_keeper_note_owing(struct client *c)
{
	if (atomic_exchange(&c->owing_is_known, true))
		return;
	LOCK_SCOPE(&c->keeper_lock);
	c->owing = true;
	c->return_at = deadline_in_ms(CLIENT_LEASES_MS);
	pthread_cond_signal(&c->keeper_wake);
}

/* --- first connections --- */

static bool is_stopping(struct client *c)
{
	LOCK_SCOPE(&c->keeper_lock);
	return c->stop;
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

/* One of n addresses of an agent, of which each has its part of the time that readers wait. */
static void try_to_connect(struct client *c, const struct agent_key *key, size_t n,
			   struct client_address *ret_address, struct attempt *ret)
{
	uint64_t ms = max_u64(c->cfg.probe_ms, c->cfg.connect_ms / n);

	ret->err = resolve(key, ret_address);
	if (!ret->err)
		client_pool_connect(c, ret_address, deadline_in_ms((int64_t)ms), ret);
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
	for (size_t i = 0; i < hello.n_addresses && ret->err && !is_stopping(c); i++) {
		struct agent_key told = { .port = hello.addresses[i].port };

		strncpy(told.host, hello.addresses[i].host, sizeof(told.host) - 1);
		try_to_connect(c, &told, hello.n_addresses, ret_address, ret);
	}
}

/* PROBING or REPROBING -> UP or ABSENT; by a prober, or the keeper where there is none. */
static void probe(struct client *c, struct agent *a)
{
	struct client_address address = { 0 };
	struct attempt attempt = { 0 };

	if (c->cfg.directory && !a->key.mapped)
		try_told_addresses(c, &a->key, &address, &attempt);
	else
		try_to_connect(c, &a->key, 1, &address, &attempt);
	LOCK_SCOPE(&a->lock);
	a->asked = false;
	if (!attempt.err)
		a->address = address;
	client_pool_note(c, a, &attempt);
}

/* --- connections that nobody uses --- */

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
			dead = client_pool_remove(a, idle[i]);
		pthread_mutex_unlock(&a->lock);
		client_pool_close(dead, WIRE_SHUTDOWN);
	}
}

static void bury_dead(struct client *c, struct agent *a)
{
	client_pool_reap(c, a, INT64_MAX);
}

/* A ping takes in what the agent sent meanwhile, and answers it. */
static void reap_and_ping(struct client *c, struct agent *a)
{
	client_pool_reap(c, a, c->cfg.idle_ms);
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
		client_keeper_note_owing(c);
}

/* --- the threads --- */

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
		struct agent *a = c->n_probers ? NULL : STAILQ_FIRST(&c->queue);
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
			client_for_each_agent(c, bury_dead);
		if (owing) {
			atomic_store(&c->owing_is_known, false);
			client_for_each_agent(c, return_leases);
		}
		if (a)
			probe(c, a);
		if (deadline_passed(reap)) {
			client_for_each_agent(c, reap_and_ping);
			reap = deadline_in_ms(c->cfg.reap_ms);
		}
		pthread_mutex_lock(&c->keeper_lock);
	}
	pthread_mutex_unlock(&c->keeper_lock);
	return NULL;
}

static void *probe_queued(void *arg)
{
	struct client *c = arg;

	pthread_mutex_lock(&c->keeper_lock);
	while (!c->stop) {
		struct agent *a = STAILQ_FIRST(&c->queue);

		if (!a) {
			pthread_cond_wait(&c->prober_wake, &c->keeper_lock);
			continue;
		}
		STAILQ_REMOVE_HEAD(&c->queue, queue_link);
		pthread_mutex_unlock(&c->keeper_lock);
		probe(c, a);
		pthread_mutex_lock(&c->keeper_lock);
	}
	pthread_mutex_unlock(&c->keeper_lock);
	return NULL;
}

/* With the keeper's lock. Fewer probers will do. */
static int start_keeper(struct client *c)
{
	int err = -pthread_create(&c->keeper, NULL, keep, c);

	if (err)
		return err;
	c->keeper_runs = true;
	while (c->cfg.connect_ms > CLIENT_CONNECT_MS && c->n_probers < CLIENT_PROBERS &&
	       pthread_create(&c->probers[c->n_probers], NULL, probe_queued, c) == 0)
		c->n_probers++;
	return 0;
}

int client_keeper_ask(struct client *c, struct agent *a)
{
	LOCK_SCOPE(&c->keeper_lock);

	int err = c->keeper_runs ? 0 : start_keeper(c);
	if (err)
		return err;
	if (a->state == AGENT_PROBING)
		STAILQ_INSERT_HEAD(&c->queue, a, queue_link);
	else
		STAILQ_INSERT_TAIL(&c->queue, a, queue_link);
	a->asked = true;
	pthread_cond_signal(&c->keeper_wake);
	pthread_cond_signal(&c->prober_wake);
	return 0;
}

void client_keeper_stop(struct client *c)
{
	pthread_mutex_lock(&c->keeper_lock);
	c->stop = true;
	pthread_cond_signal(&c->keeper_wake);
	pthread_cond_broadcast(&c->prober_wake);
	pthread_mutex_unlock(&c->keeper_lock);
	if (c->keeper_runs)
		pthread_join(c->keeper, NULL);
	for (unsigned i = 0; i < c->n_probers; i++)
		pthread_join(c->probers[i], NULL);
}
