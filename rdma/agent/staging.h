/* How much memory answers may wait in: for one connection and for all of them together.
 *
 * Memory is taken when an answer needs it and given back when it was sent (or its lease ended): a
 * connection that asks for nothing has none. */
#ifndef KELP_STAGING_H
#define KELP_STAGING_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>

/* Shared by all threads. */
struct staging_budget {
	atomic_size_t used_bytes;
	size_t max_bytes;
};

/* One connection's share; its own thread's. */
struct staging_share {
	struct staging_budget *all;
	size_t used_bytes;
	size_t max_bytes;
};

/* False: that would be too much. */
static inline bool staging_take(struct staging_share *s, size_t bytes)
{
	if (bytes > s->max_bytes - s->used_bytes)
		return false;
	if (atomic_fetch_add_explicit(&s->all->used_bytes, bytes, memory_order_relaxed) + bytes >
	    s->all->max_bytes) {
		atomic_fetch_sub_explicit(&s->all->used_bytes, bytes, memory_order_relaxed);
		return false;
	}
	s->used_bytes += bytes;
	return true;
}

/* What all connections together may still take. */
static inline size_t staging_left(const struct staging_budget *b)
{
	size_t used = atomic_load_explicit(&b->used_bytes, memory_order_relaxed);

	/* Somebody may just be trying to take too much. */
	return used < b->max_bytes ? b->max_bytes - used : 0;
}

static inline void staging_give(struct staging_share *s, size_t bytes)
{
	s->used_bytes -= bytes;
	atomic_fetch_sub_explicit(&s->all->used_bytes, bytes, memory_order_relaxed);
}

#endif
