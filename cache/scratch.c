/* Thread model: nothing is shared but a counter. */
#include "cache/scratch.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "cache/blockcache.h"
#include "filer/base/base.h"

struct scratch {
	struct slab *slab; /* immutable, as is all but used_bytes */
	struct blockcache *cache;
	size_t bytes_max;
	size_t piece_bytes;
	atomic_size_t used_bytes; /* taken, or about to be */
};

int scratch_new(struct slab *slab, struct blockcache *cache, struct scratch **ret)
{
	struct scratch *s = calloc(1, sizeof(*s));
	void *base;
	size_t bytes;

	if (!s)
		return -ENOMEM;
	slab_region(slab, &base, &bytes);
	s->slab = slab;
	s->cache = cache;
	s->bytes_max = bytes / SCRATCH_SHARE;
	s->piece_bytes = cache ? blockcache_block_bytes(cache) : SCRATCH_PIECE_BYTES_MAX;
	*ret = s;
	return 0;
}

void scratch_free(struct scratch *s)
{
	free(s);
}

static bool reserve(struct scratch *s, size_t bytes)
{
	size_t used = atomic_load_explicit(&s->used_bytes, memory_order_relaxed);

	do {
		if (bytes > s->bytes_max - used)
			return false;
	} while (!atomic_compare_exchange_weak_explicit(
		&s->used_bytes, &used, used + bytes, memory_order_relaxed, memory_order_relaxed));
	return true;
}

static void unreserve(struct scratch *s, size_t bytes)
{
	atomic_fetch_sub_explicit(&s->used_bytes, bytes, memory_order_relaxed);
}

static int take_piece(struct scratch *s, size_t bytes, struct slab_buf *ret)
{
	return s->cache ? blockcache_lend(s->cache, bytes, ret) : slab_alloc(s->slab, bytes, ret);
}

int scratch_take(struct scratch *s, size_t bytes, struct scratch_room *ret)
{
	size_t n = (bytes + s->piece_bytes - 1) / s->piece_bytes;

	/* Whole pieces are counted: the last may be larger than what goes in. */
	if (n > SCRATCH_PIECES_MAX || !reserve(s, n * s->piece_bytes))
		return -ENOMEM;
	for (ret->n = 0; ret->n < n;) {
		size_t wanted = min_u64(bytes, s->piece_bytes);

		if (take_piece(s, wanted, &ret->piece[ret->n])) {
			size_t got = ret->n;

			scratch_give(s, ret);
			unreserve(s, (n - got) * s->piece_bytes);
			return -ENOMEM;
		}
		bytes -= wanted;
		ret->n++;
	}
	return 0;
}

void scratch_give(struct scratch *s, struct scratch_room *room)
{
	for (size_t i = 0; i < room->n; i++)
		slab_release(s->slab, room->piece[i]);
	unreserve(s, room->n * s->piece_bytes);
	room->n = 0;
}
