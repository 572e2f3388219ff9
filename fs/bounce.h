/* Bounce buffers: where bytes of a read go that are not to stay in the cache. Some are set aside in the slab; then
 * comes what is free there, or what the cache can do without, and at last a bounded part of the heap.
 *
 * Thread-safe. */
#ifndef KELP_BOUNCE_H
#define KELP_BOUNCE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cache/blockcache.h"
#include "cache/slab.h"
#include "filer/base/base.h"

/* Of the heap, for all reads under way. */
#define BOUNCE_HEAP_BYTES_MAX ((size_t)4 << 20)

struct bounce {
	uint8_t *ptr; /* NULL: none yet */
	struct slab_buf mem; /* ptr NULL: of the heap */
	size_t heap_bytes; /* that count for the bound */
	bool reserved;
};

struct bounces;

/* Sets buffers of read_bytes_max each aside, a small part of the slab. Both stay the caller's. Returns 0 or
 * -ENOMEM. */
int bounces_new(struct slab *slab, struct blockcache *cache, size_t read_bytes_max,
		struct bounces **ret);

/* All buffers must have been given back. Takes NULL. */
void bounces_free(struct bounces *b);

/* For up to read_bytes_max; *ret has no buffer before. Never waits: -EAGAIN where that would be necessary, -ENOMEM. */
int bounce_take(struct bounces *b, size_t bytes, struct bounce *ret);

/* Likewise, and waits until others give theirs back, or -ETIMEDOUT; who came first is first. Those may be waiting for a block of the cache:
 * who waits here must not be the one who is to fill it. */
int bounce_take_in_turn(struct bounces *b, size_t bytes, struct deadline d, struct bounce *ret);

/* Takes one that has no buffer. */
void bounce_give_back(struct bounces *b, struct bounce *bounce);

#endif
