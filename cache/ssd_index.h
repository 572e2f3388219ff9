/* What the SSD tier holds: its blocks in memory, which segment gives way next, and which blocks are
 * worth writing when there is no room left.
 *
 * Room is taken segment by segment, in a circle (CLOCK). Each request for room looks at one segment: one
 * that was read from since the last look is kept, and the request refused; another is emptied for it.
 * So it takes two rounds of requests to displace what is in use, and nothing moves: a data set larger
 * than the disk, read again and again, keeps the part that is there.
 *
 * Not thread-safe: the owner has a lock. */
#ifndef KELP_SSD_INDEX_H
#define KELP_SSD_INDEX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cache/ssd_format.h"

struct ssd_index;

#define SSD_NO_SEGMENT UINT32_MAX

struct ssd_place {
	uint32_t segment;
	struct ssd_record record;
};

struct ssd_index_stats {
	uint64_t evictions; /* of segments */
	size_t blocks, segments, segments_max;
};

/* n_segments: at most; none is in use. Memory grows with the blocks that are there. */
int ssd_index_new(uint32_t n_segments, struct ssd_index **ret);
void ssd_index_free(struct ssd_index *x);

/* Finds a block of at least `bytes` bytes. read: that is a use, and the segment is held until
 * ssd_index_release(). */
bool ssd_index_find(struct ssd_index *x, const struct ssd_key *key, uint32_t bytes, bool read,
		    struct ssd_place *ret);
void ssd_index_release(struct ssd_index *x, uint32_t segment);

/* Adds a block to a segment that was taken. One of the same key gives way if it is not longer. False:
 * there are too many, or a longer one is there. */
bool ssd_index_add(struct ssd_index *x, uint32_t segment, const struct ssd_record *r);

/* Forgets a block, if it is still at that place. */
void ssd_index_remove(struct ssd_index *x, const struct ssd_place *p);

/* Would ssd_index_take() give one that was never used? */
bool ssd_index_has_room(const struct ssd_index *x);

/* A segment to write to, empty; fresh ones first while `grow`. SSD_NO_SEGMENT: refused. It belongs to
 * the writer until ssd_index_seal(). */
uint32_t ssd_index_take(struct ssd_index *x, bool grow);
void ssd_index_seal(struct ssd_index *x, uint32_t segment);
/* Gives back a segment that was taken; it counts as never used. */
void ssd_index_give_back(struct ssd_index *x, uint32_t segment);
/* Takes a given one, at start: a free one, or one that was sealed. */
void ssd_index_load(struct ssd_index *x, uint32_t segment);
/* From which segment on the next look goes. */
void ssd_index_set_hand(struct ssd_index *x, uint32_t segment);

/* Has this block been offered before, lately? Remembers that it was. */
bool ssd_index_seen(struct ssd_index *x, const struct ssd_key *key);

void ssd_index_stats(const struct ssd_index *x, struct ssd_index_stats *ret);

#endif
