/* The SSD tier: plain bytes of chunks in files on a local disk, below the block cache. It survives the
 * process, however that ends.
 *
 * Nothing in it has to be there, and nothing is believed: every byte is checked when it is read back,
 * and what does not fit is a miss. Writes go on behind, and are dropped when the disk is slower than the
 * cluster. While there is room every block is kept; afterwards only those that come a second time, in
 * place of segments that nobody reads. A disk that fails turns the tier off, once.
 *
 * Thread-safe. */
#ifndef KELP_SSD_H
#define KELP_SSD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "cache/ssd_format.h"

struct block;
struct blockcache;
struct slab;
struct ssd;

#define SSD_BYTES_MIN ((uint64_t)64 * MIB)
#define SSD_BYTES_MAX ((uint64_t)8 << 40)

struct ssd_config {
	const char *dir; /* absolute; made if only it is missing */
	uint64_t bytes; /* of both files together, at most */
	struct ssd_id cluster; /* file ids mean something within one cluster only */
	size_t queue_bytes; /* blocks that wait to be written, and stay pinned as long */
	bool no_uring; /* for tests: plain system calls */
	/* Where those who read have the memory for what is not whole units, up to a part of it (SSD_LANES_SHARE);
	 * beyond, and where slab is NULL, it is of the heap. Borrowed; freed after the tier. */
	struct slab *slab;
	struct blockcache *cache; /* that has that slab */
	/* Called once, by any thread that uses the tier, when it turned itself off. */
	void (*on_off)(void *arg, const char *what, int err);
	void *arg;
};

struct ssd_stats {
	uint64_t hits, misses; /* blocks */
	uint64_t bytes_read, bytes_written;
	uint64_t dropped; /* blocks that were not written because the disk was slower */
	uint64_t refused; /* blocks that were not worth it */
	uint64_t corrupt; /* blocks whose bytes were not those that had been written */
	uint64_t evictions; /* segments */
	size_t blocks, segments, segments_max;
	bool off;
};

/* Opens and reads the index. Returns 0, -EINVAL (size), -ENOMEM, or as ssd_dir_open(). */
int ssd_open(const struct ssd_config *cfg, struct ssd **ret);

/* Writes what is queued, and takes nothing more: afterwards no block is pinned. Takes NULL. */
void ssd_stop(struct ssd *s);
/* Stops and frees. Takes NULL. Nobody may be reading. */
void ssd_free(struct ssd *s);

/* Fills iov with bytes [offset, ...) of what has that id, from the front as far as they are there.
 * Returns how many bytes; behind those iov may hold anything. */
size_t ssd_read(struct ssd *s, const struct ssd_id *id, uint64_t offset, const struct iovec *iov,
		size_t n_iov);

/* Takes a block for writing, if it is worth it: its first `bytes` bytes are what follows offset. The
 * caller still fills it, and holds a pin; what lies between its bytes and the next page is cleared. The
 * rest of the chunk's bytes within SSD_BLOCK_BYTES must be part of it, else nothing happens. Never waits
 * for the disk. */
void ssd_offer(struct ssd *s, struct blockcache *cache, struct block *b, const struct ssd_id *id,
	       uint64_t offset, size_t bytes);

void ssd_stats(struct ssd *s, struct ssd_stats *ret);

#endif
