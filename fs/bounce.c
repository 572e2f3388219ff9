#include "fs/bounce.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>

/* Buffers set aside: that part of the slab, and no more than so many. */
#define RESERVED_SHARE 8
#define RESERVED_MAX 32

struct bounces {
	struct slab *slab; /* immutable, as the next */
	struct blockcache *cache;

	pthread_mutex_t lock; /* protects all below; innermost */
	pthread_cond_t given_back;
	uint64_t n_given_back;
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
	err = cond_init_monotonic(&b->given_back);
	if (err)
		goto destroy_lock;
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
	pthread_cond_destroy(&b->given_back);
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

static bool may_use_heap(struct bounces *b, size_t bytes)
{
	LOCK_SCOPE(&b->lock);
	if (b->heap_bytes + bytes > BOUNCE_HEAP_BYTES_MAX)
		return false;
	b->heap_bytes += bytes;
	return true;
}

int bounce_take(struct bounces *b, size_t bytes, struct bounce *ret)
{
	*ret = (struct bounce){ 0 };
	if (take_reserved(b, ret))
		return 0;
	/* In the place of blocks, if need be; but blocks may be smaller, and all be in use. */
	if (slab_alloc(b->slab, bytes, &ret->mem) == 0 ||
	    blockcache_lend(b->cache, bytes, &ret->mem) == 0) {
		ret->ptr = ret->mem.ptr;
		return 0;
	}
	if (!may_use_heap(b, bytes))
		return -EAGAIN;
	ret->heap_bytes = bytes;
	ret->ptr = malloc(bytes);
	if (ret->ptr)
		return 0;
	bounce_give_back(b, ret);
	return -ENOMEM;
}

static uint64_t given_back_so_far(struct bounces *b)
{
	LOCK_SCOPE(&b->lock);
	return b->n_given_back;
}

int bounce_take_in_turn(struct bounces *b, size_t bytes, struct deadline d, struct bounce *ret)
{
	for (;;) {
		uint64_t seen = given_back_so_far(b);
		int err = bounce_take(b, bytes, ret);

		if (err != -EAGAIN)
			return err;
		LOCK_SCOPE(&b->lock);
		while (b->n_given_back == seen)
			if (cond_wait_until(&b->given_back, &b->lock, d) == -ETIMEDOUT)
				return -ETIMEDOUT;
	}
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
		pthread_cond_broadcast(&b->given_back);
	}
	*bounce = (struct bounce){ 0 };
}
