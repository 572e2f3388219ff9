/* Chunks and the SSD tier: which of their bytes go there, and under which key. */
#ifndef KELP_TIER_H
#define KELP_TIER_H

#include <stddef.h>
#include <stdint.h>

#include "filer/entry.h"
#include "filer/source.h"

struct block;
struct blockcache;
struct ssd;

/* Under which a chunk's plain bytes are known, in memory and on disk: the file id, and how it is
 * decoded. */
void chunk_identity(const struct chunk *c, uint64_t ret[2]);

/* Fills bufs with the chunk's plain bytes from offset on, from the front as far as they are there.
 * Returns how many bytes. ssd may be NULL. */
size_t tier_read(struct ssd *ssd, const struct chunk *c, uint64_t offset,
		 const struct read_buf *bufs, size_t n_bufs);

/* A whole block of the cache, filled but for block_filled(). What is encrypted in the cluster is not
 * kept: its plain bytes must not be left on a disk. */
void tier_offer(struct ssd *ssd, struct blockcache *cache, const struct chunk *c, struct block *b,
		uint64_t offset, size_t bytes);

#endif
