/* Memory of the slab for the time of one read: where a needle lies as it is stored until it has been decoded.
 *
 * It takes the place of the blocks that the cache would give up next, and all of it together is at most one
 * SCRATCH_SHARE of the slab. Never waits. Thread-safe. */
#ifndef KELP_SCRATCH_H
#define KELP_SCRATCH_H

#include <stddef.h>
#include <stdint.h>

#include "cache/slab.h"

struct blockcache;
struct scratch;

#define SCRATCH_SHARE 4
#define SCRATCH_PIECE_BYTES_MAX ((size_t)1 << 20)
#define SCRATCH_PIECES_MAX 64

/* All zeros: none. Only piece[0 .. n - 1] are set. */
struct scratch_room {
	size_t n;
	struct slab_buf piece[SCRATCH_PIECES_MAX];
};

/* cache: what else lives in that slab; NULL: nothing that could make room. Keeps both. 0 or -ENOMEM. */
int scratch_new(struct slab *slab, struct blockcache *cache, struct scratch **ret);
/* All must have been given back. Takes NULL. */
void scratch_free(struct scratch *s);

/* Room for so many bytes in as few pieces as there can be, each full but for the last. Returns 0, or -ENOMEM:
 * there is none now, or never so much. */
int scratch_take(struct scratch *s, size_t bytes, struct scratch_room *ret);
/* Leaves none. */
void scratch_give(struct scratch *s, struct scratch_room *room);

#endif
