/* The block cache: plain bytes of chunks, in blocks of the slab.
 *
 * A block is block_bytes of one chunk's plain bytes (the last one shorter), keyed by an opaque
 * 16-byte id and its index. Who asks first for a missing block fills it, others wait for that one
 * fill. Scan-resistant eviction (S3-FIFO). Never waits for memory: where no block can be had, the
 * caller reads around the cache.
 *
 * Thread-safe. Life of a block: FILLING -> READY -> evicted, or FILLING -> FAILED -> gone once the
 * last waiter has let go. */
#ifndef KELP_BLOCKCACHE_H
#define KELP_BLOCKCACHE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "filer/base/base.h"

struct slab;
struct slab_buf;
struct blockcache;

struct block_key {
	uint64_t id[2]; /* the file id */
	uint32_t index;
};

enum block_state {
	BLOCK_FILLING,
	BLOCK_READY,
	BLOCK_FAILED,
};

/* Opaque but for what a filler and a reader need. Valid while pinned. */
struct block {
	uint8_t *data;
	size_t cap; /* bytes that fit */
	size_t valid; /* READY: bytes from the block's start that are there */
};

enum block_outcome {
	BLOCK_HIT, /* pinned and ready, valid >= want */
	BLOCK_WAIT, /* pinned; somebody else is filling it: block_wait() */
	BLOCK_FILL, /* pinned, of at least want bytes; the caller fills it and calls block_filled() */
	BLOCK_BYPASS, /* no memory, or want does not fit: read around the cache; *ret is NULL */
	BLOCK_MISS, /* only from blockcache_peek() */
};

struct blockcache_stats {
	uint64_t hits, misses, waits, bypasses, evictions, failures;
	/* Memory of blocks that were prefetched: all, those that a reader asked for after all, and those
	 * that were given up without. */
	uint64_t prefetched_bytes, prefetch_used_bytes, prefetch_wasted_bytes;
	size_t blocks, bytes, block_bytes;
};

/* block_bytes is chosen from the slab's size (a power of two, 64 KiB to 1 MiB). Keeps slab. */
int blockcache_new(struct slab *slab, struct blockcache **ret);
void blockcache_free(struct blockcache *c);

size_t blockcache_block_bytes(const struct blockcache *c);

/* Memory of the slab, of at most block_bytes, in the place of blocks if need be, as a reader's block would
 * have it; to be given back to the slab. Returns 0, -ENOMEM: everything is in use, or -E2BIG. */
int blockcache_lend(struct blockcache *c, size_t bytes, struct slab_buf *ret);

/* Gets the block, of which the first `want` bytes must be there. A READY block with fewer is dropped
 * and filled anew. prefetch: the caller is not a reader: a hit does not count as use, and no block is
 * taken from the hot set for it. */
enum block_outcome blockcache_get(struct blockcache *c, const struct block_key *k, size_t want,
				  bool prefetch, struct block **ret);

/* HIT or WAIT when the block is there or coming, else MISS. */
enum block_outcome blockcache_peek(struct blockcache *c, const struct block_key *k, size_t want,
				   struct block **ret);

/* The filler's report: valid bytes, or err (-errno), which every waiter gets. Keeps the filler's pin.
 */
void block_filled(struct blockcache *c, struct block *b, size_t valid, int err);

/* Waits for the filler. 0: READY (check valid); else the filler's error or -ETIMEDOUT. */
int block_wait(struct blockcache *c, struct block *b, struct deadline d);

/* One pin more, by somebody who has one: also of a block that is still being filled. */
void block_pin(struct blockcache *c, struct block *b);
void block_unpin(struct blockcache *c, struct block *b);

void blockcache_stats(struct blockcache *c, struct blockcache_stats *ret);

#endif
