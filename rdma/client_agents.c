/* Thread model: see rdma/client.c. Here is the table of agents. */
#include "rdma/client_impl.h"

#include <stddef.h>
#include <string.h>

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
	memcpy(key.host, host, strnlen(host, sizeof(key.host) - 1));
	return key;
}

/* Each read looks for its agent: hashing all that a name might take would cost more than the rest of that. */
static size_t key_bytes(const struct agent_key *key)
{
	return offsetof(struct agent_key, host) + strlen(key->host);
}

/* NOLINTBEGIN(readability-function-size): uthash's macros */
static struct agent *table_find(struct client *c, const struct agent_key *key)
{
	struct agent *a;

	HASH_FIND(hh, c->agents, key, key_bytes(key), a);
	return a;
}

static void table_add(struct client *c, struct agent *a)
{
	HASH_ADD(hh, c->agents, key, key_bytes(&a->key), a);
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
	return !a->asked;
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

struct agent *client_agent_get(struct client *c, const struct endpoint *server)
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

void client_agent_put(struct agent *a)
{
	atomic_fetch_sub_explicit(&a->users, 1, memory_order_release);
}

void client_for_each_agent(struct client *c, void (*look_after)(struct client *c, struct agent *a))
{
	pthread_mutex_lock(&c->table_lock);
	for (struct agent *a = c->agents; a;) {
		struct agent *this = a;

		atomic_fetch_add_explicit(&this->users, 1, memory_order_relaxed);
		pthread_mutex_unlock(&c->table_lock);
		look_after(c, this);
		pthread_mutex_lock(&c->table_lock);
		a = this->hh.next;
		client_agent_put(this);
	}
	pthread_mutex_unlock(&c->table_lock);
}

void client_agents_free(struct client *c)
{
	/* The chain through the members outlives the table. */
	struct agent *a = c->agents;

	HASH_CLEAR(hh, c->agents);
	while (a) {
		struct agent *next = a->hh.next;
		agent_free(a);
		a = next;
	}
}
