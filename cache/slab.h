/* The slab: one memfd-backed region, mapped once, from which every destination of a read comes, so
 * that it can be registered with RDMA devices once and spliced from. Power-of-two size classes.
 *
 * Thread-safe. */
#ifndef KELP_SLAB_H
#define KELP_SLAB_H

#include <stddef.h>
#include <stdint.h>

#define SLAB_BYTES_MIN ((size_t)8 << 20)
#define SLAB_CLASS_MIN ((size_t)4 << 10)
#define SLAB_CLASS_MAX ((size_t)4 << 20)
/* The region handle that read_buf.region carries for memory of the slab. */
#define SLAB_REGION 1u

struct slab;

struct slab_buf {
	uint8_t *ptr;
	size_t size; /* usable bytes; at least what was asked */
};

struct slab_stats {
	size_t total_bytes;
	size_t used_bytes; /* granted, by class size */
	size_t huge_page_bytes; /* page size in use: 4096 or a huge one; of transparent ones there may be fewer */
	uint64_t failed; /* allocations refused for want of memory */
};

/* What slab_new() makes of bytes: they are rounded up to SLAB_CLASS_MAX. */
static inline size_t slab_rounded_bytes(size_t bytes)
{
	return (bytes + SLAB_CLASS_MAX - 1) & ~(SLAB_CLASS_MAX - 1);
}

/* In huge pages that were set aside (2 MiB), where all of it fits into them: these are all present then. Else in
 * ordinary or transparent huge pages, which are committed when first touched. 0 or -errno. */
int slab_new(size_t bytes, struct slab **ret);

/* Likewise, but never in pages that were set aside: they may be meant for somebody else, and slab_fd() cannot
 * be spliced from then. */
int slab_new_ordinary(size_t bytes, struct slab **ret);

/* Has the kernel give the region's pages now, in the background, so that no read pays for a first touch
 * (a page fault and a cleared page for each 4 KiB took most of a cold sequential reader's CPU time). Once
 * at most. Best effort: where the kernel cannot, pages come when they are touched. */
int slab_populate_start(struct slab *s);

/* All buffers must have been returned; ends the populating. Takes NULL. */
void slab_free(struct slab *s);

/* Never blocks: -ENOMEM when no buffer of that size is free now, -E2BIG above SLAB_CLASS_MAX. */
int slab_alloc(struct slab *s, size_t bytes, struct slab_buf *ret);
void slab_release(struct slab *s, struct slab_buf b);

/* The memfd, and where in it ptr lies. */
int slab_fd(const struct slab *s);
uint64_t slab_offset(const struct slab *s, const void *ptr);

/* The whole region, for registration. */
void slab_region(const struct slab *s, void **ret_base, size_t *ret_bytes);

void slab_stats(struct slab *s, struct slab_stats *ret);

#endif
