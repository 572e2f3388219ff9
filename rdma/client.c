/* Thread model: reads run on their callers' threads. One thread, the keeper, is started with the first
 * agent: it makes the first connection to an agent (looking up a name may take long), tries again those
 * that were not there, once in CLIENT_REAP_MS pings idle connections and closes those that nobody wants,
 * and gives back the leases of those that have become idle. Where connecting may take long, the probers do
 * that in its place, so that one agent that does not answer does not hold up the others, nor what else the
 * keeper does. Further connections to an agent that is up are made by the read that wants one.
 *
 * Lock order: the table's lock, an agent's lock, the keeper's. None is held during a call that may wait for
 * the network. */
#include "rdma/client.h"

#include <errno.h>
#include <string.h>

#include "filer/token.h"
#include "rdma/client_impl.h"

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
	int err = client_pool_acquire(c, a, d, &p);

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
	client_pool_release(c, a, p);
	return err;
}

static int read_from(struct client *c, struct agent *a, struct client_extent *extents, size_t n,
		     struct deadline d)
{
	int err = read_once(c, a, extents, n, d);
	if (err == -ECONNRESET && !has_begun(extents, n)) {
		/* The agent closes what was idle, and may have been restarted: what else lies idle
		 * has probably been cut as well. */
		client_pool_reap(c, a, 0);
		err = read_once(c, a, extents, n, d);
	}
	return err;
}

int client_read(struct client *c, const struct endpoint *server, struct client_extent *extents,
		size_t n, struct deadline d)
{
	if (n == 0)
		return -EINVAL;
	struct agent *a = client_agent_get(c, server);
	for (size_t i = 0; i < n; i++) {
		extents[i].begun = extents[i].gzip = false;
		extents[i].got = 0;
		extents[i].err = -EOPNOTSUPP;
	}
	if (!a)
		return -EOPNOTSUPP;
	int err = read_from(c, a, extents, n, d);
	client_agent_put(a);
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
	int err = client_pool_acquire(c, a, d, &p);
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
	client_pool_release(c, a, p);
	return err;
}

int client_ping(struct client *c, const struct endpoint *server, struct deadline d,
		struct wire_hello_reply *ret_hello, int64_t *ret_rtt_ns)
{
	struct agent *a = client_agent_get(c, server);

	if (!a)
		return -EOPNOTSUPP;
	int err = ping(c, a, d, ret_hello, ret_rtt_ns);
	client_agent_put(a);
	return err;
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
	pthread_cond_init(&c->prober_wake, NULL);
	c->cfg = *cfg;
	c->cfg.port = cfg->port ? cfg->port : WIRE_PORT;
	bool stream = cfg->transport->capabilities & WIRE_CAP_STREAM;
	unsigned preset = stream ? CLIENT_STREAMS_MAX : CLIENT_CONNECTIONS_MAX;
	c->cfg.connections_max = (unsigned)min_u64(or_default(cfg->connections_max, preset),
						   CLIENT_CONNECTIONS_LIMIT);
	c->cfg.idle_ms = or_default(cfg->idle_ms, CLIENT_IDLE_MS);
	c->cfg.reap_ms = or_default(cfg->reap_ms, CLIENT_REAP_MS);
	c->cfg.connect_ms = or_default(cfg->connect_ms, CLIENT_CONNECT_MS);
	c->cfg.probe_ms = or_default(cfg->probe_ms,
				     (unsigned)min_u64(c->cfg.connect_ms, CLIENT_CONNECT_MS));
	c->cfg.answer_ms = or_default(cfg->answer_ms, CLIENT_ANSWER_MS);
	c->cfg.stall_ms = or_default(cfg->stall_ms, CLIENT_STALL_MS);
	c->cfg.absent_min_ms = or_default(cfg->absent_min_ms, CLIENT_ABSENT_MIN_MS);
	pthread_mutex_init(&c->table_lock, NULL);
	pthread_mutex_init(&c->keeper_lock, NULL);
	STAILQ_INIT(&c->queue);
	*ret = c;
	return 0;
}

void client_free(struct client *c)
{
	if (!c)
		return;
	client_keeper_stop(c);
	client_agents_free(c);
	pthread_cond_destroy(&c->prober_wake);
	pthread_cond_destroy(&c->keeper_wake);
	pthread_mutex_destroy(&c->keeper_lock);
	pthread_mutex_destroy(&c->table_lock);
	free(c);
}

/* --- counters --- */

static uint64_t read_counter(atomic_uint_fast64_t *counter)
{
	return atomic_load_explicit(counter, memory_order_relaxed);
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
