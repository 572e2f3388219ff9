/* Thread model: blockcache.lock guards every field of the cache and of its blocks, but for the bytes
 * of a block: those belong to its filler while it is FILLING, and never change while it is READY.
 * Lock order: blockcache.lock, then the slab's.
 *
 * Eviction is S3-FIFO (small, main and ghost queues) with two additions. Prefetched blocks that no
 * reader has touched wait in a queue of their own, so that one stream's read-ahead is not thrown out
 * by another's. And a use is only counted when enough has been filled, or other blocks have been read,
 * since the last counted one: a reader that walks through a block in small steps uses it once. */
#include "cache/blockcache.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Without memory for its table, uthash is to say so rather than exit(). */
#define HASH_NONFATAL_OOM 1
#define uthash_nonfatal_oom(b) ((b)->hashed = false)
#define HASH_FUNCTION(key, len, h) ((h) = hash_of_key(key))
#include <uthash.h>
#include <utlist.h>

#include "cache/slab.h"

#define BLOCK_BYTES_MIN (64 * KIB)
#define BLOCK_BYTES_MAX (1 * MIB)
#define BLOCKS_PER_SLAB 64
/* Headers are set aside at start; that many blocks at most. */
#define BLOCKS_MAX ((size_t)1 << 20)
/* Shares of the slab: new blocks on probation, unread prefetched ones, and how much must have been
 * filled, or read in other blocks, between two uses that both count. */
#define SMALL_SHARE 8
#define UNREAD_SHARE 2
#define CORRELATED_SHARE 32
#define CORRELATED_READ_SHARE 4
#define USES_MAX 3
/* Counted uses after the first that make a block on probation a main one. */
#define USES_TO_PROMOTE 1
/* Prefetched, but not wanted for so long: the reader went elsewhere. */
#define UNREAD_STALE_MS 3000
#define FILL_CONDS 16
#define GHOST_WAYS 4
#define GHOST_SETS 4096

enum queue_id {
	QUEUE_NONE, /* not READY, or detached */
	QUEUE_UNREAD,
	QUEUE_SMALL,
	QUEUE_MAIN,
	QUEUES,
};

struct cached_block {
	struct block pub; /* first: callers hold a pointer to it */
	struct block_key key;
	struct slab_buf mem;
	enum block_state state;
	enum queue_id queue;
	unsigned pins;
	unsigned uses; /* 0 to USES_MAX */
	bool hashed; /* can be found; else it is gone once its pins are */
	bool prefetched; /* no reader has asked for it yet */
	int err; /* FAILED: why */
	int64_t ready_ms; /* UNREAD: since when */
	uint64_t used_at,
		used_at_read; /* filled_bytes and read_bytes when the last use was counted */
	struct cached_block *prev, *next; /* in its queue, or (next) in the list of free headers */
	UT_hash_handle hh;
};

struct block_queue {
	struct cached_block *oldest; /* head; the newest is at the tail */
	size_t bytes;
	size_t n;
};

struct ghost {
	uint32_t tag; /* of the key; 0: empty */
	uint32_t at; /* evictions when it was put in */
};

struct blockcache {
	/* fixed */
	struct slab *slab;
	size_t block_bytes;
	size_t slab_bytes;
	size_t n_headers;
	struct cached_block *headers;
	struct ghost *ghosts; /* [GHOST_SETS * GHOST_WAYS] */

	pthread_mutex_t lock;
	pthread_cond_t filled[FILL_CONDS]; /* by key; used with lock */
	/* under lock */
	struct cached_block *table;
	struct block_queue queues[QUEUES];
	struct cached_block *free_headers;
	size_t headers_used; /* the first so many have been handed out before */
	size_t n_blocks, bytes;
	size_t prefetching_bytes; /* being filled, wanted by no reader yet */
	/* The clocks of "used again": what was filled, and the blocks that readers went to from others. */
	uint64_t filled_bytes, read_bytes;
	const struct cached_block *last_read; /* to be compared only, may be gone */
	struct blockcache_stats stats;
};

/* Keys are made of file ids, which come from the network; the multipliers are those of splitmix64. */
static uint64_t mix(uint64_t x)
{
	x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
	return x ^ (x >> 31);
}

static uint64_t hash64_of_key(const struct block_key *k)
{
	return mix(k->id[0] + mix(k->id[1] + mix(k->index)));
}

static unsigned hash_of_key(const struct block_key *k)
{
	return (unsigned)hash64_of_key(k);
}

#define KEY_LEN (offsetof(struct block_key, index) + sizeof(uint32_t))

static struct cached_block *table_find(struct blockcache *c, const struct block_key *k)
{
	struct cached_block *b;

	HASH_FIND(hh, c->table, k, KEY_LEN, b);
	return b;
}

/* What it expands to is not ours to make smaller. */
/* NOLINTNEXTLINE(readability-function-size) */
static bool table_add(struct blockcache *c, struct cached_block *b)
{
	b->hashed = true;
	HASH_ADD(hh, c->table, key, KEY_LEN, b);
	return b->hashed;
}

static void table_remove(struct blockcache *c, struct cached_block *b)
{
	if (b->hashed)
		HASH_DEL(c->table, b);
	b->hashed = false;
}

static pthread_cond_t *cond_of(struct blockcache *c, const struct cached_block *b)
{
	return &c->filled[hash64_of_key(&b->key) % FILL_CONDS];
}

static struct cached_block *of_pub(struct block *b)
{
	return (struct cached_block *)b;
}

static void queue_push(struct blockcache *c, struct cached_block *b, enum queue_id id)
{
	struct block_queue *q = &c->queues[id];

	DL_APPEND(q->oldest, b);
	q->n++;
	q->bytes += b->mem.size;
	b->queue = id;
}

static void queue_remove(struct blockcache *c, struct cached_block *b)
{
	struct block_queue *q = &c->queues[b->queue];

	if (b->queue == QUEUE_NONE)
		return;
	DL_DELETE(q->oldest, b);
	q->n--;
	q->bytes -= b->mem.size;
	b->queue = QUEUE_NONE;
}

static struct ghost *ghost_set(struct blockcache *c, uint64_t hash)
{
	return &c->ghosts[hash % GHOST_SETS * GHOST_WAYS];
}

static uint32_t ghost_tag(uint64_t hash)
{
	return (uint32_t)(hash >> 32) | 1u;
}

/* Evicted blocks are remembered for as many evictions as there are blocks. */
static bool ghost_is_alive(const struct blockcache *c, const struct ghost *g)
{
	return g->tag != 0 && (uint32_t)c->stats.evictions - g->at <= c->n_blocks;
}

static void ghost_add(struct blockcache *c, const struct block_key *k)
{
	uint64_t hash = hash64_of_key(k);
	struct ghost *set = ghost_set(c, hash), *oldest = set;

	for (struct ghost *g = set; g < set + GHOST_WAYS; g++) {
		if (!ghost_is_alive(c, g)) {
			oldest = g;
			break;
		}
		if ((int32_t)(g->at - oldest->at) < 0)
			oldest = g;
	}
	*oldest = (struct ghost){ .tag = ghost_tag(hash), .at = (uint32_t)c->stats.evictions };
}

static bool ghost_take(struct blockcache *c, const struct block_key *k)
{
	uint64_t hash = hash64_of_key(k);
	struct ghost *set = ghost_set(c, hash);

	for (struct ghost *g = set; g < set + GHOST_WAYS; g++) {
		if (g->tag == ghost_tag(hash) && ghost_is_alive(c, g)) {
			g->tag = 0;
			return true;
		}
	}
	return false;
}

/* Gives back an unpinned block. */
static void destroy(struct blockcache *c, struct cached_block *b)
{
	assert(b->pins == 0);
	if (b->prefetched)
		c->stats.prefetch_wasted_bytes += b->mem.size;
	queue_remove(c, b);
	table_remove(c, b);
	slab_release(c->slab, b->mem);
	c->n_blocks--;
	c->bytes -= b->mem.size;
	b->next = c->free_headers;
	c->free_headers = b;
}

static void evict(struct blockcache *c, struct cached_block *b)
{
	c->stats.evictions++;
	destroy(c, b);
}

static void requeue(struct blockcache *c, struct cached_block *b, enum queue_id id)
{
	queue_remove(c, b);
	queue_push(c, b, id);
}

/* Each of the following makes one block's room, and says false if its queue has none to give. They
 * look at each block of the queue once, pinned ones go to the end. */

static bool evict_from_small(struct blockcache *c)
{
	for (size_t n = c->queues[QUEUE_SMALL].n; n > 0; n--) {
		struct cached_block *b = c->queues[QUEUE_SMALL].oldest;

		if (b->uses >= USES_TO_PROMOTE) {
			b->uses = 0;
			requeue(c, b, QUEUE_MAIN);
		} else if (b->pins > 0) {
			requeue(c, b, QUEUE_SMALL);
		} else {
			ghost_add(c, &b->key);
			evict(c, b);
			return true;
		}
	}
	return false;
}

static bool evict_from_main(struct blockcache *c)
{
	for (size_t n = c->queues[QUEUE_MAIN].n * (USES_MAX + 1); n > 0; n--) {
		struct cached_block *b = c->queues[QUEUE_MAIN].oldest;

		if (b->uses == 0 && b->pins == 0) {
			evict(c, b);
			return true;
		}
		if (b->uses > 0)
			b->uses--;
		requeue(c, b, QUEUE_MAIN);
	}
	return false;
}

static bool evict_unread(struct blockcache *c, bool only_stale)
{
	int64_t stale_ms = now_ms() - UNREAD_STALE_MS;

	for (size_t n = c->queues[QUEUE_UNREAD].n; n > 0; n--) {
		struct cached_block *b = c->queues[QUEUE_UNREAD].oldest;

		if (only_stale && b->ready_ms > stale_ms)
			return false;
		if (b->pins == 0) {
			evict(c, b);
			return true;
		}
		requeue(c, b, QUEUE_UNREAD);
	}
	return false;
}

static bool evict_one(struct blockcache *c, bool prefetch)
{
	size_t small = c->queues[QUEUE_SMALL].bytes;
	size_t probation = small + c->queues[QUEUE_UNREAD].bytes + c->prefetching_bytes;
	size_t share = c->slab_bytes / SMALL_SHARE;

	if (evict_unread(c, true))
		return true;
	if (small > share && evict_from_small(c))
		return true;
	/* newcomers, read ahead or not, take from the hot set only until they have their share */
	if (probation < share && evict_from_main(c))
		return true;
	/* read-ahead leaves some there: else readers would have to take from the hot set */
	if ((!prefetch || small > share / 2) && evict_from_small(c))
		return true;
	/* what is only pinned is free again soon: rather read around the cache meanwhile */
	if (prefetch || c->queues[QUEUE_SMALL].n > 0)
		return false;
	return evict_from_main(c) || evict_unread(c, false);
}

static struct cached_block *header_take(struct blockcache *c)
{
	struct cached_block *b = c->free_headers;

	if (b)
		c->free_headers = b->next;
	else if (c->headers_used < c->n_headers)
		b = &c->headers[c->headers_used++];
	return b;
}

static bool prefetch_is_over_its_share(const struct blockcache *c, size_t want)
{
	return c->queues[QUEUE_UNREAD].bytes + c->prefetching_bytes + want >
	       c->slab_bytes / UNREAD_SHARE;
}

static int memory_take(struct blockcache *c, size_t want, bool prefetch, struct slab_buf *ret)
{
	while (slab_alloc(c->slab, want, ret) < 0)
		if (!evict_one(c, prefetch))
			return -ENOMEM;
	return 0;
}

static struct cached_block *block_make(struct blockcache *c, const struct block_key *k, size_t want,
				       bool prefetch)
{
	struct slab_buf mem;

	if (want > c->block_bytes)
		return NULL;
	while (prefetch && prefetch_is_over_its_share(c, want))
		if (!evict_unread(c, true))
			return NULL;
	if (memory_take(c, want, prefetch, &mem))
		return NULL;
	struct cached_block *b = header_take(c);
	if (!b && evict_one(c, prefetch))
		b = header_take(c);
	if (!b)
		goto release_mem;
	*b = (struct cached_block){
		.pub = { .data = mem.ptr, .cap = mem.size },
		.key = *k,
		.mem = mem,
		.state = BLOCK_FILLING,
		.pins = 1,
		.prefetched = prefetch,
	};
	if (!table_add(c, b))
		goto free_header;
	c->n_blocks++;
	c->bytes += mem.size;
	if (prefetch) {
		c->prefetching_bytes += mem.size;
		c->stats.prefetched_bytes += mem.size;
	}
	return b;

free_header:
	b->next = c->free_headers;
	c->free_headers = b;
release_mem:
	slab_release(c->slab, mem);
	return NULL;
}

int blockcache_lend(struct blockcache *c, size_t bytes, struct slab_buf *ret)
{
	if (bytes > c->block_bytes)
		return -E2BIG;
	LOCK_SCOPE(&c->lock);
	return memory_take(c, bytes, false, ret);
}

static void note_use(const struct blockcache *c, struct cached_block *b)
{
	b->used_at = c->filled_bytes;
	b->used_at_read = c->read_bytes;
}

static bool is_correlated(const struct blockcache *c, const struct cached_block *b)
{
	return c->filled_bytes - b->used_at < c->slab_bytes / CORRELATED_SHARE &&
	       c->read_bytes - b->used_at_read < c->slab_bytes / CORRELATED_READ_SHARE;
}

/* Where a block goes that a reader wants: back among the main ones if it was evicted too early. */
static void queue_as_read(struct blockcache *c, struct cached_block *b)
{
	note_use(c, b);
	queue_push(c, b, ghost_take(c, &b->key) ? QUEUE_MAIN : QUEUE_SMALL);
}

static void note_reader(struct blockcache *c, struct cached_block *b)
{
	if (b != c->last_read)
		c->read_bytes += b->mem.size;
	c->last_read = b;
	if (b->prefetched) {
		b->prefetched = false;
		c->stats.prefetch_used_bytes += b->mem.size;
		if (b->state == BLOCK_FILLING) {
			c->prefetching_bytes -= b->mem.size;
		} else {
			queue_remove(c, b);
			queue_as_read(c, b);
		}
		return;
	}
	if (b->state != BLOCK_READY || is_correlated(c, b))
		return;
	note_use(c, b);
	if (b->uses < USES_MAX)
		b->uses++;
}

/* The block can be found no longer, and goes with its last pin. */
static void detach(struct blockcache *c, struct cached_block *b)
{
	queue_remove(c, b);
	table_remove(c, b);
	if (b->pins == 0)
		destroy(c, b);
}

static struct cached_block *find_usable(struct blockcache *c, const struct block_key *k,
					size_t want)
{
	struct cached_block *b = table_find(c, k);

	if (b && b->state == BLOCK_READY && b->pub.valid < want)
		return NULL;
	return b;
}

static enum block_outcome pin(struct blockcache *c, struct cached_block *b, bool prefetch,
			      struct block **ret)
{
	bool ready = b->state == BLOCK_READY;

	b->pins++;
	*ret = &b->pub;
	if (!prefetch) {
		note_reader(c, b);
		c->stats.hits += ready;
		c->stats.waits += !ready;
	}
	return ready ? BLOCK_HIT : BLOCK_WAIT;
}

enum block_outcome blockcache_get(struct blockcache *c, const struct block_key *k, size_t want,
				  bool prefetch, struct block **ret)
{
	LOCK_SCOPE(&c->lock);
	struct cached_block *b = find_usable(c, k, want);

	if (b)
		return pin(c, b, prefetch, ret);
	b = table_find(c, k);
	if (b)
		detach(c, b);
	c->stats.misses += !prefetch;
	b = block_make(c, k, want, prefetch);
	if (!b) {
		c->stats.bypasses += !prefetch;
		*ret = NULL;
		return BLOCK_BYPASS;
	}
	*ret = &b->pub;
	return BLOCK_FILL;
}

enum block_outcome blockcache_peek(struct blockcache *c, const struct block_key *k, size_t want,
				   struct block **ret)
{
	LOCK_SCOPE(&c->lock);
	struct cached_block *b = find_usable(c, k, want);

	if (b)
		return pin(c, b, false, ret);
	c->stats.misses++;
	*ret = NULL;
	return BLOCK_MISS;
}

void block_filled(struct blockcache *c, struct block *pub, size_t valid, int err)
{
	struct cached_block *b = of_pub(pub);

	LOCK_SCOPE(&c->lock);
	assert(b->state == BLOCK_FILLING && b->pins > 0 && (err || valid <= b->pub.cap));
	if (b->prefetched)
		c->prefetching_bytes -= b->mem.size;
	if (err) {
		b->state = BLOCK_FAILED;
		b->err = err;
		if (b->prefetched)
			c->stats.prefetch_wasted_bytes += b->mem.size;
		b->prefetched = false;
		c->stats.failures++;
		table_remove(c, b);
	} else {
		b->state = BLOCK_READY;
		b->pub.valid = valid;
		c->filled_bytes += b->mem.size;
		if (b->prefetched) {
			b->ready_ms = now_ms();
			queue_push(c, b, QUEUE_UNREAD);
		} else {
			queue_as_read(c, b);
		}
	}
	pthread_cond_broadcast(cond_of(c, b));
}

int block_wait(struct blockcache *c, struct block *pub, struct deadline d)
{
	struct cached_block *b = of_pub(pub);

	LOCK_SCOPE(&c->lock);
	while (b->state == BLOCK_FILLING) {
		int err = cond_wait_until(cond_of(c, b), &c->lock, d);

		if (err && b->state == BLOCK_FILLING)
			return err;
	}
	return b->state == BLOCK_READY ? 0 : b->err;
}

void block_pin(struct blockcache *c, struct block *pub)
{
	struct cached_block *b = of_pub(pub);

	LOCK_SCOPE(&c->lock);
	assert(b->pins > 0);
	b->pins++;
}

void block_unpin(struct blockcache *c, struct block *pub)
{
	struct cached_block *b = of_pub(pub);

	LOCK_SCOPE(&c->lock);
	assert(b->pins > 0);
	b->pins--;
	if (b->pins == 0 && !b->hashed)
		destroy(c, b);
}

size_t blockcache_block_bytes(const struct blockcache *c)
{
	return c->block_bytes;
}

static size_t choose_block_bytes(size_t slab_bytes)
{
	size_t bytes = BLOCK_BYTES_MIN;

	while (bytes < BLOCK_BYTES_MAX && bytes * 2 <= slab_bytes / BLOCKS_PER_SLAB)
		bytes *= 2;
	return bytes;
}

static int conds_init(struct blockcache *c)
{
	for (unsigned i = 0; i < FILL_CONDS; i++) {
		int err = cond_init_monotonic(&c->filled[i]);

		if (err) {
			while (i-- > 0)
				pthread_cond_destroy(&c->filled[i]);
			return err;
		}
	}
	return 0;
}

int blockcache_new(struct slab *slab, struct blockcache **ret)
{
	void *base;
	int err = -ENOMEM;
	struct blockcache *c = calloc(1, sizeof(*c));

	if (!c)
		return err;
	c->slab = slab;
	slab_region(slab, &base, &c->slab_bytes);
	c->block_bytes = choose_block_bytes(c->slab_bytes);
	c->n_headers = min_u64(c->slab_bytes / SLAB_CLASS_MIN, BLOCKS_MAX);
	c->headers = calloc(c->n_headers, sizeof(*c->headers));
	if (!c->headers)
		goto free_cache;
	c->ghosts = calloc((size_t)GHOST_SETS * GHOST_WAYS, sizeof(*c->ghosts));
	if (!c->ghosts)
		goto free_headers;
	err = conds_init(c);
	if (err)
		goto free_ghosts;
	pthread_mutex_init(&c->lock, NULL);
	*ret = c;
	return 0;

free_ghosts:
	free(c->ghosts);
free_headers:
	free(c->headers);
free_cache:
	free(c);
	return err;
}

void blockcache_free(struct blockcache *c)
{
	if (!c)
		return;
	for (unsigned q = QUEUE_UNREAD; q < QUEUES; q++)
		while (c->queues[q].oldest)
			destroy(c, c->queues[q].oldest);
	assert(c->n_blocks == 0);
	for (unsigned i = 0; i < FILL_CONDS; i++)
		pthread_cond_destroy(&c->filled[i]);
	pthread_mutex_destroy(&c->lock);
	free(c->ghosts);
	free(c->headers);
	free(c);
}

void blockcache_stats(struct blockcache *c, struct blockcache_stats *ret)
{
	LOCK_SCOPE(&c->lock);
	*ret = c->stats;
	ret->blocks = c->n_blocks;
	ret->bytes = c->bytes;
	ret->block_bytes = c->block_bytes;
}
