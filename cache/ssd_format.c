#include "cache/ssd_format.h"

#include <assert.h>
#include <endian.h>
#include <errno.h>
#include <string.h>

#include "filer/base/crc32c.h"

static const uint8_t magic[8] = "kelpssd";

struct super {
	uint8_t magic[8];
	uint32_t version, page_bytes, block_bytes, unit_bytes, segment_bytes, table_bytes;
	uint64_t cluster[2];
	uint32_t reserved, crc;
} __attribute__((packed));

struct head {
	uint8_t magic[8];
	uint64_t generation;
	uint32_t segment;
	uint8_t reserved[40];
	uint32_t crc;
} __attribute__((packed));

struct record {
	uint64_t id[2];
	uint32_t index, page, bytes;
	uint32_t crcs[SSD_UNITS];
	uint32_t version;
	uint8_t reserved[12];
	uint32_t crc;
} __attribute__((packed));

static_assert(sizeof(struct head) == SSD_RECORD_BYTES, "a head takes the place of a record");
static_assert(sizeof(struct record) == SSD_RECORD_BYTES, "records fill a table");

uint32_t ssd_unit_crc(const struct ssd_key *key, uint32_t unit, const void *p, size_t n)
{
	const uint64_t what[3] = { htole64(key->id.word[0]), htole64(key->id.word[1]),
				   htole64((uint64_t)key->index << 32 | unit) };

	return crc32c(crc32c(0, what, sizeof(what)), p, n);
}

static struct super super_of(const struct ssd_id *cluster)
{
	struct super s = {
		.version = htole32(SSD_VERSION),
		.page_bytes = htole32(SSD_PAGE_BYTES),
		.block_bytes = htole32(SSD_BLOCK_BYTES),
		.unit_bytes = htole32(SSD_UNIT_BYTES),
		.segment_bytes = htole32(SSD_SEGMENT_BYTES),
		.table_bytes = htole32(SSD_TABLE_BYTES),
		.cluster = { htole64(cluster->word[0]), htole64(cluster->word[1]) },
	};

	memcpy(s.magic, magic, sizeof(magic));
	s.crc = htole32(crc32c(0, &s, offsetof(struct super, crc)));
	return s;
}

void ssd_super_encode(const struct ssd_id *cluster, uint8_t *ret)
{
	const struct super s = super_of(cluster);

	memset(ret, 0, SSD_SUPER_BYTES);
	memcpy(ret, &s, sizeof(s));
}

/* There is just one right one. */
int ssd_super_decode(const uint8_t *p, const struct ssd_id *cluster)
{
	const struct super s = super_of(cluster);

	return memcmp(p, &s, sizeof(s)) == 0 ? 0 : -EINVAL;
}

void ssd_head_encode(uint32_t segment, uint64_t generation, uint8_t *ret)
{
	struct head h = { .generation = htole64(generation), .segment = htole32(segment) };

	memcpy(h.magic, magic, sizeof(magic));
	h.crc = htole32(crc32c(0, &h, offsetof(struct head, crc)));
	memcpy(ret, &h, sizeof(h));
}

int ssd_head_decode(const uint8_t *p, uint32_t segment, uint64_t *ret_generation)
{
	struct head h;

	memcpy(&h, p, sizeof(h));
	if (memcmp(h.magic, magic, sizeof(magic)) != 0 ||
	    le32toh(h.crc) != crc32c(0, &h, offsetof(struct head, crc)) ||
	    le32toh(h.segment) != segment || h.generation == 0)
		return -EINVAL;
	*ret_generation = le64toh(h.generation);
	return 0;
}

/* Of a record in its place. */
static uint32_t record_crc(const struct record *r, uint32_t segment, uint64_t generation)
{
	const uint64_t place[2] = { htole64(segment), htole64(generation) };

	return crc32c(crc32c(0, place, sizeof(place)), r, offsetof(struct record, crc));
}

void ssd_record_encode(const struct ssd_record *rec, uint32_t segment, uint64_t generation,
		       uint8_t *ret)
{
	struct record r = {
		.id = { htole64(rec->key.id.word[0]), htole64(rec->key.id.word[1]) },
		.index = htole32(rec->key.index),
		.page = htole32(rec->page),
		.bytes = htole32(rec->bytes),
		.version = htole32(SSD_VERSION),
	};

	for (size_t i = 0; i < SSD_UNITS; i++)
		r.crcs[i] = htole32(rec->crc[i]);
	r.crc = htole32(record_crc(&r, segment, generation));
	memcpy(ret, &r, sizeof(r));
}

int ssd_record_decode(const uint8_t *p, uint32_t segment, uint64_t generation,
		      struct ssd_record *ret)
{
	struct record r;

	memcpy(&r, p, sizeof(r));
	if (le32toh(r.crc) != record_crc(&r, segment, generation) ||
	    le32toh(r.version) != SSD_VERSION)
		return -EINVAL;
	uint32_t page = le32toh(r.page), bytes = le32toh(r.bytes);
	if (bytes == 0 || bytes > SSD_BLOCK_BYTES || page >= SSD_SEGMENT_PAGES ||
	    ssd_pages(bytes) > SSD_SEGMENT_PAGES - page)
		return -EINVAL;
	*ret = (struct ssd_record){
		.key = { .id = { { le64toh(r.id[0]), le64toh(r.id[1]) } },
			 .index = le32toh(r.index) },
		.page = page,
		.bytes = bytes,
	};
	for (size_t i = 0; i < SSD_UNITS; i++)
		ret->crc[i] = le32toh(r.crcs[i]);
	return 0;
}
