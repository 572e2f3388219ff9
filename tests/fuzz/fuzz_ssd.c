/* Any bytes as the superblock and a table of the SSD tier; and records of any content with a checksum
 * that fits, so that what lies behind it is reached. */
#include <stdlib.h>
#include <string.h>

#include "cache/ssd_format.h"

#define SEGMENT 3

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_super(const uint8_t *data, size_t size)
{
	const struct ssd_id cluster = { { 1, 2 } };
	uint8_t p[SSD_SUPER_BYTES] = { 0 };

	memcpy(p, data, min_u64(size, sizeof(p)));
	ssd_super_decode(p, &cluster);
}

static void check_record(const uint8_t *p, uint64_t generation)
{
	struct ssd_record r, again;
	uint8_t q[SSD_RECORD_BYTES];

	if (ssd_record_decode(p, SEGMENT, generation, &r))
		return;
	if (r.bytes == 0 || r.bytes > SSD_BLOCK_BYTES ||
	    r.page * SSD_PAGE_BYTES + r.bytes > SSD_SEGMENT_BYTES)
		abort();
	ssd_record_encode(&r, SEGMENT, generation, q);
	if (ssd_record_decode(q, SEGMENT, generation, &again) ||
	    !ssd_key_equal(&r.key, &again.key) || r.page != again.page || r.bytes != again.bytes)
		abort();
}

/* What is in a record, with a checksum that fits. */
static void check_made_up(const uint8_t *p)
{
	struct ssd_record r;
	uint8_t q[SSD_RECORD_BYTES];

	memcpy(&r, p, sizeof(r));
	ssd_record_encode(&r, SEGMENT, 1, q);
	check_record(q, 1);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint64_t generation;

	check_super(data, size);
	for (size_t at = 0; at + SSD_RECORD_BYTES <= size; at += SSD_RECORD_BYTES) {
		check_made_up(data + at);
		if (ssd_head_decode(data, SEGMENT, &generation) == 0)
			check_record(data + at, generation);
	}
	return 0;
}
