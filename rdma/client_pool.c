/* Thread model: see rdma/client.c. Here are the states of an agent, and its connections. */
#include "rdma/client_impl.h"

#include <errno.h>

#include "filer/token.h"

/* --- states --- */

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

/* With the agent's lock. 0: it is UP. */
static int agent_ready(struct client *c, struct agent *a, struct deadline d)
{
	if (a->state == AGENT_NEW) {
		set_state(a, AGENT_PROBING);
		int err = client_keeper_ask(c, a);
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
	/* A connection that was being made when it was asked for may have ended the state that this led to. */
	if (!a->asked && now_ms() >= a->retry_at_ms) {
		set_state(a, AGENT_REPROBING);
		int err = client_keeper_ask(c, a);
		if (err)
			agent_rest(c, a, err);
	}
	return refusal == -EUSERS ? -EUSERS : -EOPNOTSUPP;
}

/* --- connections that come and go --- */

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

struct pooled *client_pool_remove(struct agent *a, struct pooled *p)
{
	if (!p->removed) {
		TAILQ_REMOVE(&a->pool, p, link);
		a->n_pooled--;
		p->removed = true;
	}
	return p->users == 0 ? p : NULL;
}

void client_pool_close(struct pooled *p, enum wire_status reason)
{
	if (!p)
		return;
	client_session_close(p->session, reason);
	free(p);
}

void client_pool_connect(struct client *c, const struct client_address *address, struct deadline d,
			 struct attempt *ret)
{
	char token[TOKEN_MAX] = "";
	struct client_session_config cfg = {
		.transport = c->cfg.transport,
		.address = *address,
		.token = token,
		.stall_ms = c->cfg.stall_ms,
		.answer_ms = c->cfg.answer_ms,
		.on_lost = client_keeper_note_lost,
		.on_lost_arg = c,
		.on_answer = c->cfg.on_answer,
		.on_answer_arg = c->cfg.on_answer_arg,
	};

	ret->err = c->cfg.tokens ? token_for_agent(c->cfg.tokens, token) : 0;
	ret->token_sent = token[0] != '\0';
	if (!ret->err)
		ret->err = client_session_open(&cfg, d, &ret->session, &ret->hello);
	count(ret->err ? &c->connect_failures : &c->connects);
}

static bool pool_has_live(struct agent *a)
{
	for (struct pooled *p = TAILQ_FIRST(&a->pool); p; p = TAILQ_NEXT(p, link))
		if (is_live(p))
			return true;
	return false;
}

struct pooled *client_pool_note(struct client *c, struct agent *a, struct attempt *attempt)
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

/* With the agent's lock: a connection that nobody uses and that has been idle for so long, or was cut. */
static struct pooled *next_stale(struct agent *a, int64_t now, int64_t idle_ms)
{
	for (struct pooled *p = TAILQ_FIRST(&a->pool); p; p = TAILQ_NEXT(p, link))
		if (p->users == 0 && (now - p->idle_since_ms >= idle_ms || !is_live(p)))
			return p;
	return NULL;
}

void client_pool_reap(struct client *c, struct agent *a, int64_t idle_ms)
{
	int64_t now = now_ms();

	for (;;) {
		pthread_mutex_lock(&a->lock);
		struct pooled *p = next_stale(a, now, idle_ms);
		if (p) {
			client_pool_remove(a, p);
			count(&c->reaped); /* before anybody can see that it is gone */
		}
		pthread_mutex_unlock(&a->lock);
		if (!p)
			return;
		client_pool_close(p, WIRE_IDLE);
	}
}

/* --- one to read on --- */

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
	uint64_t ms = c->cfg.connect_ms;

	if (pool_has_live(a))
		ms = min_u64(ms, CLIENT_GROW_MS);
	a->connecting++;
	pthread_mutex_unlock(&a->lock);
	client_pool_connect(c, &address, deadline_sooner(d, (int64_t)ms), &attempt);
	pthread_mutex_lock(&a->lock);
	a->connecting--;
	*ret = client_pool_note(c, a, &attempt);
	return attempt.err;
}

/* With the agent's lock, where none is idle. */
static bool may_grow(const struct client *c, struct agent *a)
{
	unsigned n = a->n_pooled + a->connecting, few = c->cfg.connections_few;

	if (n >= c->cfg.connections_max || (a->full_until_ms != 0 && now_ms() < a->full_until_ms))
		return false;
	if (few == 0 || n < few)
		return true;
	const struct pooled *p = pool_pick(a, false);
	return !p || p->users >= CLIENT_READS_EACH;
}

int client_pool_acquire(struct client *c, struct agent *a, struct deadline d, struct pooled **ret)
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

void client_pool_release(struct client *c, struct agent *a, struct pooled *p)
{
	bool dead = client_session_error(p->session) != 0;
	bool owing = !dead && client_session_owes_leases(p->session);
	struct pooled *to_close = NULL;

	pthread_mutex_lock(&a->lock);
	p->users--;
	p->idle_since_ms = now_ms();
	if (dead || p->removed) {
		to_close = client_pool_remove(a, p);
	} else {
		TAILQ_REMOVE(&a->pool, p, link);
		TAILQ_INSERT_HEAD(&a->pool, p, link);
	}
	pthread_mutex_unlock(&a->lock);
	client_pool_close(to_close, WIRE_SHUTDOWN);
	if (owing)
		client_keeper_note_owing(c);
}
