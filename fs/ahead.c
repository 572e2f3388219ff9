/* Thread model: a batch belongs to the thread that runs it; the lock protects the list of free ones. Who reads
 * a file of the batch meanwhile waits for its block, and is told as soon as that one is there. */
#include "fs/ahead.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "cache/blockcache.h"
#include "cache/slab.h"
#include "filer/entry.h"
#include "fs/fetch.h"
#include "fs/fill.h"
#include "fs/tier.h"
#include "fs/workers.h"

/* Part of a read's time. A reader that waits for a batch in vain must still have time for itself. */
#define TIMEOUT_SHARE 4

_Static_assert(AHEAD_FILES_MAX <= FETCH_BATCH_MAX, "a batch is one fetch");

struct batch {
	struct work work; /* first */
	struct ahead *ahead;
	struct batch *next; /* free ones; under the lock */
	size_t n_entries;
	struct entry *entries[AHEAD_FILES_MAX];

	size_t n_items;
	struct needle_item items[AHEAD_FILES_MAX];
	const struct chunk *chunks[AHEAD_FILES_MAX]; /* of the items, as are the next two */
	struct block *blocks[AHEAD_FILES_MAX];
	struct read_buf bufs[AHEAD_FILES_MAX];
};

struct ahead {
	struct ahead_config cfg; /* immutable */
	struct workers *workers;
	atomic_bool stopping;
	pthread_mutex_t lock; /* leaf */
	struct batch *free;
	struct batch batches[AHEAD_JOBS_MAX];
};

bool ahead_wants(const struct entry *e)
{
	return S_ISREG(e->mode) && e->n_chunks == 1 && !e->sse && !e->content && e->size > 0 &&
	       e->size <= AHEAD_FILE_BYTES_MAX && e->chunks[0].offset == 0 &&
	       e->chunks[0].size == e->size && !(e->chunks[0].flags & CHUNK_MANIFEST);
}

static void item_done(void *arg, struct needle_item *item)
{
	struct batch *b = arg;
	size_t i = (size_t)(item - b->items);
	struct blockcache *cache = b->ahead->cfg.cache;
	struct ssd *ssd = fetcher_ssd(b->ahead->cfg.fetcher);

	if (ssd && !item->err)
		tier_offer(ssd, cache, b->chunks[i], b->blocks[i], 0, b->bufs[i].len);
	block_filled(cache, b->blocks[i], b->bufs[i].len, item->err);
	block_unpin(cache, b->blocks[i]);
}

/* False: the cache has no room for more. */
static bool prepare(struct batch *b, const struct chunk *c, struct deadline d)
{
	const struct ahead_config *cfg = &b->ahead->cfg;
	struct block_place place;
	struct block *block;
	struct fill fill;

	if (!block_place_of(c, 0, blockcache_block_bytes(cfg->cache), &place) ||
	    place.bytes < c->size)
		return true;
	switch (blockcache_get(cfg->cache, &place.key, place.bytes, true, &block)) {
	case BLOCK_FILL:
		break;
	case BLOCK_HIT:
	case BLOCK_WAIT:
		block_unpin(cfg->cache, block);
		return true;
	case BLOCK_BYPASS:
	case BLOCK_MISS:
		return false;
	}
	if (chunk_is_encoded(c)) {
		fill_init(&fill, cfg->cache, cfg->fetcher, c);
		fill_add(&fill, 0,
			 (struct fill_part){ .block = block,
					     .ptr = block->data,
					     .len = place.bytes,
					     .region = SLAB_REGION,
					     .release = true });
		fill_run(&fill, d);
		return true;
	}
	size_t i = b->n_items;
	b->chunks[i] = c;
	b->blocks[i] = block;
	b->bufs[i] = (struct read_buf){ .ptr = block->data,
					.len = place.bytes,
					.region = SLAB_REGION };
	if (fetch_kept(cfg->fetcher, c, 0, &b->bufs[i], 1)) {
		block_filled(cfg->cache, block, place.bytes, 0);
		block_unpin(cfg->cache, block);
		return true;
	}
	b->n_items++;
	b->items[i].range = (struct needle_range){ .fid = c->fid,
						   .bufs = &b->bufs[i],
						   .n_bufs = 1 };
	return true;
}

static void batch_free(struct batch *b)
{
	for (size_t i = 0; i < b->n_entries; i++)
		entry_put(b->entries[i]);
	LOCK_SCOPE(&b->ahead->lock);
	b->next = b->ahead->free;
	b->ahead->free = b;
}

static void batch_run(struct work *w)
{
	struct batch *b = (struct batch *)w;
	struct ahead *a = b->ahead;
	struct deadline d = deadline_in_ms(a->cfg.timeout_ms / TIMEOUT_SHARE);

	b->n_items = 0;
	for (size_t i = 0; i < b->n_entries && !atomic_load(&a->stopping); i++)
		if (!prepare(b, &b->entries[i]->chunks[0], d))
			break;
	if (b->n_items > 0)
		fetch_batch(a->cfg.fetcher, b->items, b->n_items, item_done, b, d);
	batch_free(b);
}

static struct batch *batch_take(struct ahead *a)
{
	LOCK_SCOPE(&a->lock);
	struct batch *b = a->free;

	if (b)
		a->free = b->next;
	return b;
}

void ahead_fetch(struct ahead *a, struct entry *const *entries, size_t n)
{
	struct batch *b = batch_take(a);

	if (!b) {
		for (size_t i = 0; i < n; i++)
			entry_put(entries[i]);
		return;
	}
	b->work = (struct work){ .run = batch_run };
	b->n_entries = n;
	for (size_t i = 0; i < n; i++)
		b->entries[i] = entries[i];
	if (!workers_push(a->workers, &b->work, false))
		batch_free(b);
}

int ahead_new(const struct ahead_config *cfg, struct ahead **ret)
{
	struct ahead *a = calloc(1, sizeof(*a));

	if (!a)
		return -ENOMEM;
	a->cfg = *cfg;
	for (size_t i = 0; i < AHEAD_JOBS_MAX; i++) {
		a->batches[i].ahead = a;
		a->batches[i].next = a->free;
		a->free = &a->batches[i];
	}
	int err = -pthread_mutex_init(&a->lock, NULL);
	if (err)
		goto free_ahead;
	err = workers_new(cfg->threads, AHEAD_JOBS_MAX, &a->workers);
	if (err)
		goto destroy_lock;
	*ret = a;
	return 0;

destroy_lock:
	pthread_mutex_destroy(&a->lock);
free_ahead:
	free(a);
	return err;
}

void ahead_free(struct ahead *a)
{
	if (!a)
		return;
	atomic_store(&a->stopping, true);
	workers_free(a->workers);
	pthread_mutex_destroy(&a->lock);
	free(a);
}
