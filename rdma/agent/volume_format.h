/* The formats of a volume's files, as far as finding a needle needs them: names, superblock, index
 * entries, .vif. All of it big-endian.
 *
 * Pure, and believes nothing: this is fuzzed. */
#ifndef KELP_VOLUME_FORMAT_H
#define KELP_VOLUME_FORMAT_H

#include <endian.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

static inline uint16_t be16_at(const uint8_t *p)
{
	uint16_t v;

	memcpy(&v, p, sizeof(v));
	return be16toh(v);
}

static inline uint32_t be32_at(const uint8_t *p)
{
	uint32_t v;

	memcpy(&v, p, sizeof(v));
	return be32toh(v);
}

static inline uint64_t be64_at(const uint8_t *p)
{
	uint64_t v;

	memcpy(&v, p, sizeof(v));
	return be64toh(v);
}

/* Takes the volume's id out of a stem, "<id>" or "<collection>_<id>", of len bytes. Returns 0 or
 * -EINVAL. */
int volume_stem_parse(const char *stem, size_t len, uint32_t *ret_id);

#define SUPERBLOCK_BYTES 8

struct superblock {
	uint8_t version; /* 1 to 3 */
	uint16_t revision; /* one more with every vacuum */
	uint32_t bytes; /* with what is appended to it: where records start, or a little before */
};

/* Returns 0 or -EIO. */
int superblock_parse(const uint8_t bytes[SUPERBLOCK_BYTES], struct superblock *ret);

/* Servers are built with offsets of four or of five bytes. */
#define IDX_ENTRY_BYTES_4 16
#define IDX_ENTRY_BYTES_5 17

struct idx_entry {
	uint64_t key;
	uint64_t offset; /* in bytes; 0: none */
	uint32_t size; /* of what is not deleted: at most INT32_MAX */
	bool deleted;
};

void idx_entry_decode(const uint8_t *p, unsigned entry_bytes, struct idx_entry *ret);

#define VIF_BYTES_MAX ((size_t)1 << 20)

struct vif {
	unsigned entry_bytes; /* 16 or 17; 0: it does not say */
	bool tiered; /* the volume's bytes lie with somebody else */
};

/* Returns 0, -ENOMEM or -EPROTO. */
int vif_parse(const char *text, size_t len, struct vif *ret);

/* How long a record with this Size is, all in all. */
uint64_t record_bytes(uint8_t version, uint32_t size);

#endif
