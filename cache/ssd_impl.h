/* What the files of the SSD tier share; nobody else includes it. */
#ifndef KELP_SSD_IMPL_H
#define KELP_SSD_IMPL_H

#include <pthread.h>
#include <stdatomic.h>

#include "cache/slab.h"
#include "cache/ssd.h"
#include "cache/ssd_dir.h"
#include "cache/ssd_index.h"
#include "cache/ssd_ring.h"

#define SSD_QUEUE_MAX 256 /* blocks of the cache */
#define SSD_ITEM_BLOCKS_MAX 32 /* SSD_BLOCK_BYTES in a block of the cache */
#define SSD_LANES_MAX 64 /* threads that read at once */
#define SSD_LANE_SCRATCH 2 /* blocks that a lane can read without a place of their own */
#define SSD_LANES_SHARE 16 /* all lanes' scratch takes that part of the slab at most */

/* What a reading thread needs, while it has it. */
struct ssd_lane {
	struct ssd_lane *next; /* free ones; under ssd.lock */
	struct ssd_ring *ring;
	bool in_slab; /* the scratch is; else of the heap */
	struct slab_buf scratch[SSD_LANE_SCRATCH]; /* a block each, page-aligned */
};

/* A block of the cache on its way to the disk. */
struct ssd_item {
	struct blockcache *cache;
	struct block *block; /* pinned */
	const uint8_t *ptr;
	struct ssd_id id;
	uint32_t index; /* of its first SSD block */
	uint32_t bytes;
	uint32_t wanted; /* bit i: the i-th SSD block of it */
};

/* The segment that is being written to. Belongs to the writer. */
struct ssd_open_segment {
	uint32_t segment; /* SSD_NO_SEGMENT: none */
	uint64_t generation;
	uint32_t page; /* next free one */
	uint32_t n_records;
};

struct ssd {
	/* fixed */
	struct ssd_config cfg;
	struct ssd_dir dir;
	uint32_t n_segments;
	unsigned slab_lanes_max; /* lanes whose scratch may be in the slab */

	atomic_bool off;
	struct {
		atomic_uint_fast64_t hits, misses, bytes_read, bytes_written, dropped, refused,
			corrupt;
	} stats;

	/* only for ssd_open() and ssd_stop() */
	pthread_t writer;
	bool writer_started;

	pthread_mutex_t lock;
	pthread_cond_t wake; /* the writer; used with lock */
	/* under lock */
	struct ssd_index *index;
	struct ssd_lane *free_lanes;
	unsigned n_lanes, n_slab_lanes;
	struct ssd_item queue[SSD_QUEUE_MAX];
	size_t queue_first, queue_n, queue_bytes;
	bool full; /* what is written now takes the place of something */
	bool stopping;

	/* of the writer's thread, and of ssd_open() before there is one */
	struct ssd_open_segment open;
	uint64_t generation; /* the highest in use */
	uint64_t refuse_bytes; /* to be dropped before the next request for a segment */
	uint8_t *table; /* of the open segment */
};

static inline void ssd_count(atomic_uint_fast64_t *counter, uint64_t n)
{
	atomic_fetch_add_explicit(counter, n, memory_order_relaxed);
}

static inline bool ssd_is_off(struct ssd *s)
{
	return atomic_load_explicit(&s->off, memory_order_relaxed);
}

/* Turns the tier off; the first call reports. Without ssd.lock. */
void ssd_fail(struct ssd *s, const char *what, int err);

static inline uint64_t ssd_data_offset(uint32_t segment, uint32_t page)
{
	return (uint64_t)segment * SSD_SEGMENT_BYTES + (uint64_t)page * SSD_PAGE_BYTES;
}

static inline uint64_t ssd_table_offset(uint32_t segment)
{
	return SSD_SUPER_BYTES + (uint64_t)segment * SSD_TABLE_BYTES;
}

/* Reads superblock and tables into the index; makes new ones where there are none that fit. */
int ssd_load(struct ssd *s);

void *ssd_writer(void *ssd);

void ssd_lanes_free(struct ssd *s);

#endif
