/* Thread model: readers read on their own thread, each with a lane (a ring and scratch memory) of its
 * own. One thread writes. ssd.lock guards the index, the lanes that are free and the queue; it is held
 * for no system call. A reader holds the segment that it reads from, so that nothing overwrites it.
 * Lock order: ssd.lock, then the block cache's.
 *
 * No write is ever synced: what a crash of the machine leaves behind is found out by its checksum. */
#include "cache/ssd.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "cache/blockcache.h"
#include "cache/ssd_impl.h"

void ssd_fail(struct ssd *s, const char *what, int err)
{
	if (!atomic_exchange(&s->off, true) && s->cfg.on_off)
		s->cfg.on_off(s->cfg.arg, what, err);
}

static uint32_t segments_for(uint64_t bytes)
{
	return (uint32_t)((bytes - SSD_SUPER_BYTES) / (SSD_SEGMENT_BYTES + SSD_TABLE_BYTES));
}

static unsigned slab_lanes_for(struct slab *slab)
{
	void *base;
	size_t bytes;

	if (!slab)
		return 0;
	slab_region(slab, &base, &bytes);
	return (unsigned)(bytes / SSD_LANES_SHARE / (SSD_LANE_SCRATCH * SSD_BLOCK_BYTES));
}

static int open_store(struct ssd *s)
{
	int err = ssd_dir_open(s->cfg.dir, &s->cfg.cluster, &s->dir);

	if (err)
		return err;
	err = ssd_index_new(s->n_segments, &s->index);
	if (!err)
		err = ssd_load(s);
	if (err) {
		ssd_index_free(s->index);
		ssd_dir_close(&s->dir);
	}
	return err;
}

int ssd_open(const struct ssd_config *cfg, struct ssd **ret)
{
	if (cfg->bytes < SSD_BYTES_MIN || cfg->bytes > SSD_BYTES_MAX)
		return -EINVAL;
	int err = -ENOMEM;
	struct ssd *s = calloc(1, sizeof(*s));
	if (!s)
		return err;
	s->cfg = *cfg;
	s->n_segments = segments_for(cfg->bytes);
	s->slab_lanes_max = slab_lanes_for(cfg->slab);
	s->open.segment = SSD_NO_SEGMENT;
	s->table = calloc(1, SSD_TABLE_BYTES);
	if (!s->table)
		goto free_ssd;
	pthread_mutex_init(&s->lock, NULL);
	pthread_cond_init(&s->wake, NULL);
	err = open_store(s);
	if (err)
		goto destroy_lock;
	err = -pthread_create(&s->writer, NULL, ssd_writer, s);
	if (err)
		goto close_store;
	s->writer_started = true;
	*ret = s;
	return 0;

close_store:
	ssd_index_free(s->index);
	ssd_dir_close(&s->dir);
destroy_lock:
	pthread_cond_destroy(&s->wake);
	pthread_mutex_destroy(&s->lock);
	free(s->table);
free_ssd:
	free(s);
	return err;
}

void ssd_stop(struct ssd *s)
{
	if (!s || !s->writer_started)
		return;
	{
		LOCK_SCOPE(&s->lock);
		s->stopping = true;
		pthread_cond_signal(&s->wake);
	}
	pthread_join(s->writer, NULL);
	s->writer_started = false;
}

void ssd_free(struct ssd *s)
{
	if (!s)
		return;
	ssd_stop(s);
	ssd_lanes_free(s);
	ssd_index_free(s->index);
	ssd_dir_close(&s->dir);
	pthread_cond_destroy(&s->wake);
	pthread_mutex_destroy(&s->lock);
	free(s->table);
	free(s);
}

/* ---- Blocks that are offered. */

/* Which of the item's blocks should be written: those that are not there, and are worth it. */
static uint32_t choose(struct ssd *s, const struct ssd_item *item)
{
	uint32_t wanted = 0;

	for (uint32_t i = 0; i * SSD_BLOCK_BYTES < item->bytes; i++) {
		uint32_t bytes = (uint32_t)min_u64(SSD_BLOCK_BYTES,
						   item->bytes - i * SSD_BLOCK_BYTES);
		struct ssd_key key = { .id = item->id, .index = item->index + i };
		struct ssd_place place;

		if (ssd_index_find(s->index, &key, bytes, false, &place))
			continue;
		if (!s->full || ssd_index_seen(s->index, &key))
			wanted |= 1u << i;
		else
			ssd_count(&s->stats.refused, 1);
	}
	return wanted;
}

static bool push(struct ssd *s, const struct ssd_item *item)
{
	if (s->queue_n == SSD_QUEUE_MAX ||
	    (s->queue_n > 0 && s->queue_bytes + item->bytes > s->cfg.queue_bytes)) {
		ssd_count(&s->stats.dropped, (uint64_t)__builtin_popcount(item->wanted));
		return false;
	}
	s->queue[(s->queue_first + s->queue_n++) % SSD_QUEUE_MAX] = *item;
	s->queue_bytes += item->bytes;
	pthread_cond_signal(&s->wake);
	return true;
}

void ssd_offer(struct ssd *s, struct blockcache *cache, struct block *b, const struct ssd_id *id,
	       uint64_t offset, size_t bytes)
{
	size_t padded = (bytes + SSD_PAGE_BYTES - 1) & ~(SSD_PAGE_BYTES - 1);
	uint64_t index = offset / SSD_BLOCK_BYTES;
	struct ssd_item item = {
		.cache = cache,
		.block = b,
		.ptr = b->data,
		.id = *id,
		.index = (uint32_t)index,
		.bytes = (uint32_t)bytes,
	};

	if (ssd_is_off(s) || bytes == 0 || bytes > SSD_ITEM_BLOCKS_MAX * SSD_BLOCK_BYTES ||
	    offset % SSD_BLOCK_BYTES || index > UINT32_MAX - SSD_ITEM_BLOCKS_MAX || padded > b->cap)
		return;
	LOCK_SCOPE(&s->lock);
	if (s->stopping)
		return;
	item.wanted = choose(s, &item);
	if (!item.wanted || !push(s, &item))
		return;
	/* the writer takes whole pages: nothing else of the memory goes to the disk */
	memset(b->data + bytes, 0, padded - bytes);
	block_pin(cache, b);
}

void ssd_stats(struct ssd *s, struct ssd_stats *ret)
{
	struct ssd_index_stats x;
	{
		LOCK_SCOPE(&s->lock);
		ssd_index_stats(s->index, &x);
	}
	*ret = (struct ssd_stats){
		.hits = atomic_load(&s->stats.hits),
		.misses = atomic_load(&s->stats.misses),
		.bytes_read = atomic_load(&s->stats.bytes_read),
		.bytes_written = atomic_load(&s->stats.bytes_written),
		.dropped = atomic_load(&s->stats.dropped),
		.refused = atomic_load(&s->stats.refused),
		.corrupt = atomic_load(&s->stats.corrupt),
		.evictions = x.evictions,
		.blocks = x.blocks,
		.segments = x.segments,
		.segments_max = x.segments_max,
		.off = atomic_load(&s->off),
	};
}
