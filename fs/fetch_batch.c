/* Thread model: see fs/fetch.c. */
#include "fs/fetch_impl.h"

#include <errno.h>

#include "filer/breaker.h"
#include "filer/locate.h"

/* Several needles on their way to where each of them goes. */
struct batch {
	struct fetcher *f;
	const struct source *source;
	struct server *server;
	bool away; /* the server does not answer */
	void (*done)(void *arg, struct needle_item *item);
	void *arg;
};

static void batch_item_done(void *arg, struct needle_item *item)
{
	struct batch *b = arg;
	struct source_counters *c = &b->f->counters[b->source - b->f->sources];

	if (item->err == -EOPNOTSUPP)
		return; /* the next source may have something to say */
	b->away |= item->err == -ETIMEDOUT || item->err == -ECONNREFUSED ||
		   item->err == -EHOSTUNREACH;
	count(item->err ? &c->failures : &c->reads, 1);
	count(&c->bytes, item->range.got);
	if (!item->err)
		count(&b->server->reads, 1);
	count(&b->server->bytes, item->range.got);
	b->done(b->arg, item);
}

/* Which server to ask for the item; NULL: none that is well. */
static struct server *server_for(const struct source *s, const struct location_set *set,
				 size_t turn)
{
	for (size_t i = 0; set && i < set->n; i++) {
		struct server *server = set->servers[(turn + i) % set->n];
		struct breaker *b = s->ops->breaker ? s->ops->breaker(server) : NULL;

		if (!b || breaker_state(b) == BREAKER_CLOSED)
			return server;
	}
	return NULL;
}

/* Offers the items that nobody has tried yet to one source, server by server. */
static void batch_try(struct batch *b, struct needle_item *items, struct location_set *const *sets,
		      size_t n, struct deadline d)
{
	const struct source *s = b->source;
	size_t turn = atomic_fetch_add_explicit(&b->f->turn, 1, memory_order_relaxed);
	bool offered[FETCH_BATCH_MAX] = { false };

	for (size_t i = 0; i < n; i++) {
		struct needle_item *group[NEEDLE_ITEMS_MAX];
		size_t n_group = 0;

		b->server = server_for(s, sets[i], turn);
		for (size_t k = i; b->server && k < n && n_group < NEEDLE_ITEMS_MAX; k++) {
			if (offered[k] || items[k].err != -EOPNOTSUPP ||
			    server_for(s, sets[k], turn) != b->server)
				continue;
			offered[k] = true;
			group[n_group++] = &items[k];
		}
		if (n_group == 0)
			continue;
		if (deadline_passed(d))
			return; /* that says nothing of this server */
		b->away = false;
		s->ops->read_many(s->self, b->server, group, n_group, batch_item_done, b, d);
		if (b->away && s->ops->breaker)
			breaker_failure(s->ops->breaker(b->server));
	}
}

void fetch_batch(struct fetcher *f, struct needle_item *items, size_t n,
		 void (*done)(void *arg, struct needle_item *item), void *arg, struct deadline d)
{
	struct batch b = { .f = f, .done = done, .arg = arg };
	struct location_set *sets[FETCH_BATCH_MAX] = { NULL };

	for (size_t i = 0; i < n; i++) {
		items[i].err = -EOPNOTSUPP;
		if (f->locator && locate_volume(f->locator, items[i].range.fid.volume_id, false,
						fetch_share(d), &sets[i]))
			sets[i] = NULL;
	}
	for (size_t i = 0; i < f->n_sources; i++) {
		b.source = &f->sources[i];
		if (b.source->per_server && b.source->ops->read_many)
			batch_try(&b, items, sets, n, d);
	}
	for (size_t i = 0; i < n; i++) {
		location_set_put(sets[i]);
		if (items[i].err == -EOPNOTSUPP)
			done(arg, &items[i]);
	}
}
