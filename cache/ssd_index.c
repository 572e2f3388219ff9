#include "cache/ssd_index.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define NONE UINT32_MAX
/* Blocks in memory: as many full ones as fit, and some more for small ones. */
#define BLOCKS_PER_SEGMENT (2 * SSD_SEGMENT_BYTES / SSD_BLOCK_BYTES)
/* A segment of which this part of the blocks was read is kept. */
#define USED_SHARE 4
#define GHOST_WAYS 8
#define GHOSTS_PER_SEGMENT (SSD_SEGMENT_BYTES / SSD_BLOCK_BYTES)

struct entry {
	struct ssd_key key;
	uint32_t page; /* in the whole file */
	uint32_t crc[SSD_UNITS];
	uint32_t bytes : 31, used : 1;
	uint32_t hash_next; /* of the same bucket, or of the free ones */
	uint32_t segment_next;
};

enum segment_state {
	SEGMENT_FREE, /* never used, or given back */
	SEGMENT_OPEN, /* somebody writes to it */
	SEGMENT_SEALED,
};

struct segment {
	enum segment_state state;
	uint32_t first; /* entry */
	uint32_t n, used; /* entries, and those that were read since the last look */
	uint32_t readers;
};

struct ssd_index {
	uint32_t n_segments;
	uint32_t n_free; /* segments */
	uint32_t hand;
	uint32_t free_from; /* no free segment before that */
	struct segment *segments;

	struct entry *entries; /* [n_entries]; the first entries_used were handed out before */
	uint32_t n_entries, entries_used, n_blocks;
	uint32_t free_entry;
	uint32_t *buckets; /* power of two */
	uint32_t bucket_mask;

	uint32_t *ghosts; /* [ghost_sets * GHOST_WAYS], the newest of each set first */
	uint32_t ghost_sets;
	uint64_t evictions;
};

/* The multipliers are those of splitmix64; keys are made of file ids, which come from the network. */
static uint64_t mix(uint64_t v)
{
	v = (v ^ (v >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	v = (v ^ (v >> 27)) * UINT64_C(0x94d049bb133111eb);
	return v ^ (v >> 31);
}

static uint64_t hash_of(const struct ssd_key *k)
{
	return mix(k->id.word[0] + mix(k->id.word[1] + mix(k->index)));
}

static uint32_t *bucket_of(const struct ssd_index *x, const struct ssd_key *k)
{
	return &x->buckets[hash_of(k) & x->bucket_mask];
}

static uint32_t segment_of(const struct entry *e)
{
	return (uint32_t)(e->page / SSD_SEGMENT_PAGES);
}

static uint32_t power_of_two(uint32_t at_least)
{
	uint32_t n = 1;

	while (n < at_least && n < 1u << 31)
		n *= 2;
	return n;
}

int ssd_index_new(uint32_t n_segments, struct ssd_index **ret)
{
	if (n_segments == 0 || n_segments > SSD_SEGMENTS_MAX)
		return -EINVAL;
	struct ssd_index *x = calloc(1, sizeof(*x));
	if (!x)
		return -ENOMEM;
	uint64_t entries = (uint64_t)n_segments * BLOCKS_PER_SEGMENT + SSD_RECORDS_MAX;
	x->n_segments = x->n_free = n_segments;
	x->n_entries = (uint32_t)min_u64(entries, NONE - 1);
	x->bucket_mask = power_of_two(x->n_entries / 2) - 1;
	x->ghost_sets = (uint32_t)(n_segments * GHOSTS_PER_SEGMENT / GHOST_WAYS);
	x->free_entry = NONE;
	/* Pages of these that nobody touched cost nothing. */
	x->segments = calloc(n_segments, sizeof(*x->segments));
	x->entries = calloc(x->n_entries, sizeof(*x->entries));
	x->buckets = malloc(((size_t)x->bucket_mask + 1) * sizeof(*x->buckets));
	x->ghosts = calloc((size_t)x->ghost_sets * GHOST_WAYS, sizeof(*x->ghosts));
	if (!x->segments || !x->entries || !x->buckets || !x->ghosts) {
		ssd_index_free(x);
		return -ENOMEM;
	}
	memset(x->buckets, 0xff, ((size_t)x->bucket_mask + 1) * sizeof(*x->buckets));
	for (uint32_t i = 0; i < n_segments; i++)
		x->segments[i].first = NONE;
	*ret = x;
	return 0;
}

void ssd_index_free(struct ssd_index *x)
{
	if (!x)
		return;
	free(x->ghosts);
	free(x->buckets);
	free(x->entries);
	free(x->segments);
	free(x);
}

static uint32_t find(const struct ssd_index *x, const struct ssd_key *key)
{
	uint32_t i = *bucket_of(x, key);

	while (i != NONE && !ssd_key_equal(&x->entries[i].key, key))
		i = x->entries[i].hash_next;
	return i;
}

static void use(struct entry *e, struct segment *s)
{
	s->used += !e->used;
	e->used = 1;
	s->readers++;
}

bool ssd_index_find(struct ssd_index *x, const struct ssd_key *key, uint32_t bytes, bool read,
		    struct ssd_place *ret)
{
	uint32_t i = find(x, key);

	if (i == NONE || x->entries[i].bytes < bytes)
		return false;
	struct entry *e = &x->entries[i];
	ret->segment = segment_of(e);
	ret->record = (struct ssd_record){ .key = e->key,
					   .page = (uint32_t)(e->page % SSD_SEGMENT_PAGES),
					   .bytes = e->bytes };
	memcpy(ret->record.crc, e->crc, sizeof(e->crc));
	if (read)
		use(e, &x->segments[ret->segment]);
	return true;
}

void ssd_index_release(struct ssd_index *x, uint32_t segment)
{
	assert(x->segments[segment].readers > 0);
	x->segments[segment].readers--;
}

static void unhash(struct ssd_index *x, uint32_t i)
{
	uint32_t *at = bucket_of(x, &x->entries[i].key);

	while (*at != i)
		at = &x->entries[*at].hash_next;
	*at = x->entries[i].hash_next;
}

static void entry_free(struct ssd_index *x, uint32_t i)
{
	x->entries[i].hash_next = x->free_entry;
	x->free_entry = i;
	x->n_blocks--;
}

static uint32_t entry_new(struct ssd_index *x)
{
	uint32_t i = x->free_entry;

	if (i != NONE)
		x->free_entry = x->entries[i].hash_next;
	else if (x->entries_used < x->n_entries)
		i = x->entries_used++;
	return i;
}

/* A segment has a thousand at most, and this is rare. */
static void remove_entry(struct ssd_index *x, uint32_t i)
{
	struct segment *s = &x->segments[segment_of(&x->entries[i])];
	uint32_t *at = &s->first;

	while (*at != i)
		at = &x->entries[*at].segment_next;
	*at = x->entries[i].segment_next;
	s->n--;
	s->used -= x->entries[i].used;
	unhash(x, i);
	entry_free(x, i);
}

bool ssd_index_add(struct ssd_index *x, uint32_t segment, const struct ssd_record *r)
{
	struct segment *s = &x->segments[segment];
	uint32_t i = find(x, &r->key);

	if (i != NONE) {
		if (x->entries[i].bytes > r->bytes)
			return false;
		remove_entry(x, i);
	}
	i = entry_new(x);
	if (i == NONE)
		return false;
	uint32_t *bucket = bucket_of(x, &r->key);
	struct entry *e = &x->entries[i];
	*e = (struct entry){
		.key = r->key,
		.page = (uint32_t)(segment * SSD_SEGMENT_PAGES + r->page),
		.bytes = r->bytes,
		.hash_next = *bucket,
		.segment_next = s->first,
	};
	memcpy(e->crc, r->crc, sizeof(e->crc));
	*bucket = s->first = i;
	s->n++;
	x->n_blocks++;
	return true;
}

void ssd_index_remove(struct ssd_index *x, const struct ssd_place *p)
{
	uint32_t i = find(x, &p->record.key);

	if (i != NONE && x->entries[i].page == p->segment * SSD_SEGMENT_PAGES + p->record.page)
		remove_entry(x, i);
}

/* ---- Segments. */

/* Small blocks may use up the entries before the segments. */
bool ssd_index_has_room(const struct ssd_index *x)
{
	return x->n_free > 0 && x->n_entries - x->n_blocks >= SSD_RECORDS_MAX;
}

static void empty(struct ssd_index *x, struct segment *s)
{
	while (s->first != NONE) {
		uint32_t i = s->first;

		s->first = x->entries[i].segment_next;
		unhash(x, i);
		entry_free(x, i);
	}
	s->n = s->used = 0;
}

/* Its blocks have to be read again to keep it at the next look. */
static void clear_used(struct ssd_index *x, struct segment *s)
{
	for (uint32_t i = s->first; i != NONE; i = x->entries[i].segment_next)
		x->entries[i].used = 0;
	s->used = 0;
}

static uint32_t take_free(struct ssd_index *x)
{
	while (x->segments[x->free_from].state != SEGMENT_FREE)
		x->free_from++;
	x->segments[x->free_from].state = SEGMENT_OPEN;
	x->n_free--;
	return x->free_from;
}

/* The next that could give way, if any can. */
static struct segment *next_sealed(struct ssd_index *x)
{
	for (uint32_t i = 0; i < x->n_segments; i++) {
		struct segment *s = &x->segments[x->hand];

		x->hand = (x->hand + 1) % x->n_segments;
		if (s->state == SEGMENT_SEALED && s->readers == 0)
			return s;
	}
	return NULL;
}

uint32_t ssd_index_take(struct ssd_index *x, bool grow)
{
	if (grow && ssd_index_has_room(x))
		return take_free(x);
	struct segment *s = next_sealed(x);
	if (!s)
		return SSD_NO_SEGMENT;
	if (s->n > 0 && s->used * USED_SHARE >= s->n) {
		clear_used(x, s);
		return SSD_NO_SEGMENT;
	}
	empty(x, s);
	x->evictions++;
	s->state = SEGMENT_OPEN;
	return (uint32_t)(s - x->segments);
}

void ssd_index_seal(struct ssd_index *x, uint32_t segment)
{
	assert(x->segments[segment].state == SEGMENT_OPEN);
	x->segments[segment].state = SEGMENT_SEALED;
}

void ssd_index_give_back(struct ssd_index *x, uint32_t segment)
{
	struct segment *s = &x->segments[segment];

	assert(s->state == SEGMENT_OPEN && s->readers == 0);
	empty(x, s);
	s->state = SEGMENT_FREE;
	x->n_free++;
	if (segment < x->free_from)
		x->free_from = segment;
}

void ssd_index_load(struct ssd_index *x, uint32_t segment)
{
	struct segment *s = &x->segments[segment];

	assert(s->state != SEGMENT_OPEN);
	x->n_free -= s->state == SEGMENT_FREE;
	s->state = SEGMENT_OPEN;
}

void ssd_index_set_hand(struct ssd_index *x, uint32_t segment)
{
	x->hand = segment % x->n_segments;
}

/* ---- Blocks that were offered. */

bool ssd_index_seen(struct ssd_index *x, const struct ssd_key *key)
{
	uint64_t hash = hash_of(key);
	uint32_t tag = (uint32_t)(hash >> 32) | 1u;
	uint32_t *set = &x->ghosts[hash % x->ghost_sets * GHOST_WAYS];
	size_t at = 0;

	while (at < GHOST_WAYS - 1 && set[at] != tag)
		at++;
	bool seen = set[at] == tag;
	memmove(set + 1, set, at * sizeof(*set));
	set[0] = tag;
	return seen;
}

void ssd_index_stats(const struct ssd_index *x, struct ssd_index_stats *ret)
{
	*ret = (struct ssd_index_stats){
		.evictions = x->evictions,
		.blocks = x->n_blocks,
		.segments = x->n_segments - x->n_free,
		.segments_max = x->n_segments,
	};
}
