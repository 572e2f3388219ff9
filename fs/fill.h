/* A fill: one contiguous run of a chunk's plain bytes on its way into blocks of the cache, and
 * between them into plain memory, in one fetch.
 *
 * Whoever is told BLOCK_FILL owes the block an end: fill_run() or fill_end() gives it. A fill
 * belongs to one thread. */
#ifndef KELP_FILL_H
#define KELP_FILL_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cache/blockcache.h"
#include "filer/base/base.h"
#include "filer/entry.h"

struct fetcher;

#define FILL_PARTS_MAX 64

/* Where a chunk's bytes lie in the cache. */
struct block_place {
	struct block_key key;
	uint64_t start; /* of the block in the chunk */
	size_t bytes; /* block_bytes, or less at the chunk's end */
};

/* The block that has byte `offset` of the chunk. False: no such byte, or the chunk is too long to be
 * cached. */
bool block_place_of(const struct chunk *c, uint64_t offset, size_t block_bytes,
		    struct block_place *ret);

struct fill_part {
	struct block *block; /* NULL: plain memory */
	uint8_t *ptr;
	size_t len;
	uint32_t region;
	bool release; /* the fill's own pin: dropped at the end */
};

struct fill {
	struct blockcache *cache;
	struct fetcher *fetcher;
	const struct chunk *chunk;
	uint64_t offset; /* of the first part in the chunk */
	uint64_t bytes; /* of all parts */
	atomic_uint_fast64_t
		*counter; /* what is fetched is added before anybody sees it; or NULL */
	size_t n_parts;
	struct fill_part parts[FILL_PARTS_MAX];
};

void fill_init(struct fill *f, struct blockcache *cache, struct fetcher *fetcher,
	       const struct chunk *c);

/* Appends a part that begins at `offset` of the chunk. False: it does not follow the last one, or
 * there are too many. */
bool fill_add(struct fill *f, uint64_t offset, struct fill_part part);

/* Adds missing blocks after and before, up to so many bytes in all: for chunks that are read as a
 * whole anyway. */
void fill_extend(struct fill *f, uint64_t max_bytes);

/* Fetches, and ends every block. Returns fetch_chunk()'s result. */
int fill_run(struct fill *f, struct deadline d);

/* Ends every block without a fetch: with the bytes that are there (err 0), or with err. */
void fill_end(struct fill *f, int err);

#endif
