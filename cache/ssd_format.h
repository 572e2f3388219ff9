/* What the SSD tier has on disk, two files for each mount:
 *
 *   NAME.index  a superblock page, then for each segment a table of SSD_TABLE_BYTES: a head, then one
 *               record a block in the order in which they were written
 *   NAME.data   the segments, SSD_SEGMENT_BYTES each: plain bytes of blocks, each from a page on
 *
 * Everything carries a checksum, and a record belongs to one use of one segment, so that what is left
 * of an earlier use, or was torn, is not taken for one. Numbers are little-endian. Pure functions; all
 * that is decoded is hostile. */
#ifndef KELP_SSD_FORMAT_H
#define KELP_SSD_FORMAT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "filer/base/base.h"

#define SSD_VERSION 1u
#define SSD_PAGE_BYTES ((size_t)4096)
#define SSD_BLOCK_BYTES (128 * KIB) /* most of a chunk that is kept as one; aligned in the chunk */
#define SSD_UNIT_BYTES (32 * KIB) /* what has a checksum of its own, and is read at least */
#define SSD_UNITS (SSD_BLOCK_BYTES / SSD_UNIT_BYTES)
#define SSD_SEGMENT_BYTES (16 * MIB)
#define SSD_SEGMENT_PAGES (SSD_SEGMENT_BYTES / SSD_PAGE_BYTES)
#define SSD_SUPER_BYTES SSD_PAGE_BYTES
#define SSD_TABLE_BYTES (64 * KIB)
#define SSD_RECORD_BYTES ((size_t)64)
/* The head takes the place of one. */
#define SSD_RECORDS_MAX (SSD_TABLE_BYTES / SSD_RECORD_BYTES - 1)
/* Pages of the data file are counted in 32 bits. */
#define SSD_SEGMENTS_MAX (UINT32_MAX / SSD_SEGMENT_PAGES)

struct ssd_id {
	uint64_t word[2];
};

struct ssd_key {
	struct ssd_id id; /* of a chunk, and of how it was decoded */
	uint32_t index; /* of the block in the chunk */
};

/* Where a block is, and how to know it again. */
struct ssd_record {
	struct ssd_key key;
	uint32_t page; /* in its segment */
	uint32_t bytes; /* 1 to SSD_BLOCK_BYTES */
	uint32_t crc[SSD_UNITS]; /* ssd_unit_crc() of each unit there is */
};

static inline bool ssd_key_equal(const struct ssd_key *a, const struct ssd_key *b)
{
	return a->id.word[0] == b->id.word[0] && a->id.word[1] == b->id.word[1] &&
	       a->index == b->index;
}

static inline uint32_t ssd_pages(uint32_t bytes)
{
	return (uint32_t)((bytes + SSD_PAGE_BYTES - 1) / SSD_PAGE_BYTES);
}

static inline uint32_t ssd_units(uint32_t bytes)
{
	return (uint32_t)((bytes + SSD_UNIT_BYTES - 1) / SSD_UNIT_BYTES);
}

/* CRC32C of a unit's bytes together with what they are: bytes of another block do not pass. */
uint32_t ssd_unit_crc(const struct ssd_key *key, uint32_t unit, const void *p, size_t n);

/* Each writes SSD_SUPER_BYTES, or reads them: 0, or -EINVAL for anything but a superblock of this
 * version and cluster. */
void ssd_super_encode(const struct ssd_id *cluster, uint8_t *ret);
int ssd_super_decode(const uint8_t *p, const struct ssd_id *cluster);

/* The head of a table, SSD_RECORD_BYTES. generation: which use of the segment this is, never 0. */
void ssd_head_encode(uint32_t segment, uint64_t generation, uint8_t *ret);
int ssd_head_decode(const uint8_t *p, uint32_t segment, uint64_t *ret_generation);

/* A record, SSD_RECORD_BYTES, of that use of that segment. */
void ssd_record_encode(const struct ssd_record *r, uint32_t segment, uint64_t generation,
		       uint8_t *ret);
int ssd_record_decode(const uint8_t *p, uint32_t segment, uint64_t generation,
		      struct ssd_record *ret);

#endif
