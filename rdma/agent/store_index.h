/* Where the needles of one volume lie: key -> offset and size, in some 21 to 32 bytes a needle.
 *
 * An open-addressing table of our own: it is on the path of every read, holds millions of entries per
 * volume, and those at hand (uthash, the hsearch family) spend two to four times as much on each or
 * stop at a fixed size.
 *
 * Not thread-safe. */
#ifndef KELP_STORE_INDEX_H
#define KELP_STORE_INDEX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Records start at multiples of this, so that is what offsets are counted in. */
#define INDEX_UNIT_BYTES 8

struct index_slot;

struct index {
	struct index_slot *slots;
	size_t capacity;
	size_t used; /* of the slots */
	size_t live; /* of the used: not deleted */
	uint64_t seed;
};

struct index_entry {
	uint64_t offset; /* in bytes; never 0 */
	uint32_t size; /* at most INT32_MAX */
	bool deleted; /* this is where it was */
};

void index_init(struct index *ix);
void index_free(struct index *ix);
size_t index_bytes(const struct index *ix);

/* Puts a live needle, over what there was. offset: a multiple of INDEX_UNIT_BYTES that fits 43 bits,
 * not 0; size: at most INT32_MAX. Returns 0 or -ENOMEM, and then nothing has changed. */
int index_put(struct index *ix, uint64_t key, uint64_t offset, uint32_t size);

/* Marks a needle as deleted, and remembers where it was; does nothing where it is not known. */
void index_delete(struct index *ix, uint64_t key);

bool index_find(const struct index *ix, uint64_t key, struct index_entry *ret);

#endif
