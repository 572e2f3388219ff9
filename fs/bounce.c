#include "fs/bounce.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/queue.h>

/* Buffers set aside: that part of the slab, and no more than so many. */
#define RESERVED_SHARE 8
#define RESERVED_MAX 32

/* One who waits for a buffer, on his stack. */
struct waiter {
	TAILQ_ENTRY(waiter) link;
};

TAILQ_HEAD(waiters, waiter);

struct bounces {
	struct slab *slab; /* immutable, as the next */
	struct blockcache *cache;

	pthread_mutex_t lock; /* protects all below; innermost */
	pthread_cond_t changed; /* a buffer was given back, or the waiters are others */
	uint64_t n_given_back;
	/* The first is next; who comes new gets nothing of the heap before them. */
	struct waiters waiters;
	size_t heap_bytes; /* in use */
	size_t n_reserved; /* not in use */
	struct slab_buf reserved[RESERVED_MAX];
};

int bounces_new(struct slab *slab, struct blockcache *cache, size_t read_bytes_max,
		struct bounces **ret)
{
	struct bounces *b = calloc(1, sizeof(*b));
	int err = -ENOMEM;
	size_t slab_bytes;
	void *base;

	if (!b)
		return err;
	b->slab = slab;
	b->cache = cache;
	err = -pthread_mutex_init(&b->lock, NULL);
	if (err)
		goto free_bounces;
	err = cond_init_monotonic(&b->changed);
	if (err)
		goto destroy_lock;
	TAILQ_INIT(&b->waiters);
	slab_region(slab, &base, &slab_bytes);
	size_t wanted = min_u64(slab_bytes / RESERVED_SHARE / read_bytes_max, RESERVED_MAX);
	while (b->n_reserved < wanted &&
	       slab_alloc(slab, read_bytes_max, &b->reserved[b->n_reserved]) == 0)
		b->n_reserved++;
	*ret = b;
	return 0;

destroy_lock:
	pthread_mutex_destroy(&b->lock);
free_bounces:
	free(b);
	return err;
}

void bounces_free(struct bounces *b)
{
	if (!b)
		return;
	while (b->n_reserved > 0)
		slab_release(b->slab, b->reserved[--b->n_reserved]);
	pthread_cond_destroy(&b->changed);
	pthread_mutex_destroy(&b->lock);
	free(b);
}

static bool take_reserved(struct bounces *b, struct bounce *ret)
{
	LOCK_SCOPE(&b->lock);
	if (b->n_reserved == 0)
		return false;
	ret->mem = b->reserved[--b->n_reserved];
	ret->ptr = ret->mem.ptr;
	ret->reserved = true;
	return true;
}

/* me: NULL for one who does not wait. */
static bool may_use_heap(struct bounces *b, size_t bytes, const struct waiter *me)
{
	LOCK_SCOPE(&b->lock);
	if (TAILQ_FIRST(&b->waiters) != me || b->heap_bytes + bytes > BOUNCE_HEAP_BYTES_MAX)
		return false;
	b->heap_bytes += bytes;
	return true;
}

static int take(struct bounces *b, size_t bytes, const struct waiter *me, struct bounce *ret)
{
	struct bounce got = { 0 };

	if (take_reserved(b, ret))
		return 0;
	/* In the place of blocks, if need be; but blocks may be smaller, and all be in use. */
	if (slab_alloc(b->slab, bytes, &got.mem) == 0 ||
	    blockcache_lend(b->cache, bytes, &got.mem) == 0) {
		got.ptr = got.mem.ptr;
		*ret = got;
		return 0;
	}
	if (!may_use_heap(b, bytes, me))
		return -EAGAIN;
	got.heap_bytes = bytes;
	got.ptr = malloc(bytes);
	if (!got.ptr) {
		bounce_give_back(b, &got);
		return -ENOMEM;
	}
	*ret = got;
	return 0;
}

int bounce_take(struct bounces *b, size_t bytes, struct bounce *ret)
{
	return take(b, bytes, NULL, ret);
}

/* With the lock, which it lets go of while it tries. -EAGAIN: something may have changed, or d is over. */
static int try_in_turn(struct bounces *b, size_t bytes, const struct waiter *me, struct deadline d,
		       struct bounce *ret)
{
	uint64_t seen = b->n_given_back;

	if (TAILQ_FIRST(&b->waiters) == me) {
		pthread_mutex_unlock(&b->lock);
		int err = take(b, bytes, me, ret);
		pthread_mutex_lock(&b->lock);
		if (err != -EAGAIN || b->n_given_back != seen)
			return err;
	}
	cond_wait_until(&b->changed, &b->lock, d);
	return -EAGAIN;
}

int bounce_take_in_turn(struct bounces *b, size_t bytes, struct deadline d, struct bounce *ret)
{
	struct waiter me;
	int err = -EAGAIN;

	LOCK_SCOPE(&b->lock);
	TAILQ_INSERT_TAIL(&b->waiters, &me, link);
	while (err == -EAGAIN && !deadline_passed(d))
		err = try_in_turn(b, bytes, &me, d, ret);
	TAILQ_REMOVE(&b->waiters, &me, link);
	pthread_cond_broadcast(&b->changed);
	return err == -EAGAIN ? -ETIMEDOUT : err;
}

void bounce_give_back(struct bounces *b, struct bounce *bounce)
{
	if (!bounce->ptr && !bounce->heap_bytes)
		return;
	if (!bounce->mem.ptr)
		free(bounce->ptr);
	else if (!bounce->reserved)
		slab_release(b->slab, bounce->mem);
	{
		LOCK_SCOPE(&b->lock);
		if (bounce->reserved)
			b->reserved[b->n_reserved++] = bounce->mem;
		b->heap_bytes -= bounce->heap_bytes;
		b->n_given_back++;
		pthread_cond_broadcast(&b->changed);
	}
	*bounce = (struct bounce){ 0 };
}
