#include "rdma/agent/store_index.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#define CAPACITY_MIN 64
/* More than this share is not filled, in fifths; grows by half, so at least half of that is. */
#define FILL_FIFTHS_MAX 4
#define SIZE_DELETED (UINT32_C(1) << 31)

/* Packed: the eighth byte of every needle counts. Empty where the offset is 0, for that is where the
 * superblock lies. */
struct index_slot {
	uint64_t key;
	uint32_t offset_low; /* in units */
	uint32_t size; /* and SIZE_DELETED */
	uint8_t offset_high;
} __attribute__((packed));

/* Keys come from the network, so that nobody must be able to choose where they gather. */
void index_init(struct index *ix)
{
	memset(ix, 0, sizeof(*ix));
	if (getrandom(&ix->seed, sizeof(ix->seed), GRND_NONBLOCK) != (ssize_t)sizeof(ix->seed))
		ix->seed = (uint64_t)(uintptr_t)ix;
}

void index_free(struct index *ix)
{
	free(ix->slots);
	index_init(ix);
}

size_t index_bytes(const struct index *ix)
{
	return ix->capacity * sizeof(struct index_slot);
}

/* The finalizer of splitmix64, with a seed on both sides of the first multiplication. */
static uint64_t mix(uint64_t x, uint64_t seed)
{
	x = ((x ^ seed) ^ ((x ^ seed) >> 30)) * UINT64_C(0xbf58476d1ce4e5b9) + seed;
	x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
	return x ^ (x >> 31);
}

/* Scales the hash to the table, whatever its size. So slots are in the order of hashes, and a larger
 * table is filled from one end to the other. */
static size_t home_of(const struct index *ix, uint64_t key)
{
	return (size_t)(((unsigned __int128)mix(key, ix->seed) * ix->capacity) >> 64);
}

static bool is_empty(const struct index_slot *s)
{
	return s->offset_low == 0 && s->offset_high == 0;
}

/* The slot of a key, or the empty one where it would go: there always is one. */
static struct index_slot *slot_of(const struct index *ix, uint64_t key)
{
	size_t i = home_of(ix, key);

	while (!is_empty(&ix->slots[i]) && ix->slots[i].key != key)
		i = i + 1 < ix->capacity ? i + 1 : 0;
	return &ix->slots[i];
}

static int grow(struct index *ix)
{
	struct index larger = *ix;

	larger.capacity = ix->capacity ? ix->capacity + ix->capacity / 2 : CAPACITY_MIN;
	larger.slots = calloc(larger.capacity, sizeof(*larger.slots));
	if (!larger.slots)
		return -ENOMEM;
	for (size_t i = 0; i < ix->capacity; i++)
		if (!is_empty(&ix->slots[i]))
			*slot_of(&larger, ix->slots[i].key) = ix->slots[i];
	free(ix->slots);
	*ix = larger;
	return 0;
}

int index_put(struct index *ix, uint64_t key, uint64_t offset, uint32_t size)
{
	uint64_t units = offset / INDEX_UNIT_BYTES;

	assert(units > 0 && units >> 40 == 0 && size < SIZE_DELETED);
	if (ix->used + 1 > ix->capacity / 5 * FILL_FIFTHS_MAX) {
		int err = grow(ix);
		if (err)
			return err;
	}
	struct index_slot *s = slot_of(ix, key);
	if (is_empty(s))
		ix->used++;
	if (is_empty(s) || (s->size & SIZE_DELETED))
		ix->live++;
	*s = (struct index_slot){
		.key = key,
		.offset_low = (uint32_t)units,
		.offset_high = (uint8_t)(units >> 32),
		.size = size,
	};
	return 0;
}

void index_delete(struct index *ix, uint64_t key)
{
	struct index_slot *s = ix->capacity ? slot_of(ix, key) : NULL;

	if (!s || is_empty(s) || (s->size & SIZE_DELETED))
		return;
	s->size |= SIZE_DELETED;
	ix->live--;
}

bool index_find(const struct index *ix, uint64_t key, struct index_entry *ret)
{
	const struct index_slot *s = ix->capacity ? slot_of(ix, key) : NULL;

	if (!s || is_empty(s))
		return false;
	ret->offset = ((uint64_t)s->offset_high << 32 | s->offset_low) * INDEX_UNIT_BYTES;
	ret->size = s->size & ~SIZE_DELETED;
	ret->deleted = s->size & SIZE_DELETED;
	return true;
}
