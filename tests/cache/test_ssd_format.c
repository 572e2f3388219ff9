#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <string.h>

#include "cache/ssd_format.h"

static const struct ssd_record record = {
	.key = { .id = { { UINT64_C(0x0123456789abcdef), 7 } }, .index = 9 },
	.page = 4000,
	.bytes = 70000,
	.crc = { 1, 2, 3 },
};

static void a_superblock_is_known_again(void **state)
{
	const struct ssd_id cluster = { { 3, 4 } }, other = { { 4, 3 } };
	uint8_t p[SSD_SUPER_BYTES];

	(void)state;
	ssd_super_encode(&cluster, p);
	assert_int_equal(ssd_super_decode(p, &cluster), 0);
	assert_int_equal(ssd_super_decode(p, &other), -EINVAL);
	memset(p, 0, sizeof(p));
	assert_int_equal(ssd_super_decode(p, &cluster), -EINVAL);
}

static void a_head_belongs_to_its_segment(void **state)
{
	uint8_t p[SSD_RECORD_BYTES];
	uint64_t generation = 0;

	(void)state;
	ssd_head_encode(5, 77, p);
	assert_int_equal(ssd_head_decode(p, 5, &generation), 0);
	assert_int_equal(generation, 77);
	assert_int_equal(ssd_head_decode(p, 6, &generation), -EINVAL);
	ssd_head_encode(5, 0, p);
	assert_int_equal(ssd_head_decode(p, 5, &generation), -EINVAL);
}

static void a_record_comes_back_as_it_was(void **state)
{
	uint8_t p[SSD_RECORD_BYTES];
	struct ssd_record r;

	(void)state;
	memset(&r, 0, sizeof(r));
	ssd_record_encode(&record, 5, 77, p);
	assert_int_equal(ssd_record_decode(p, 5, 77, &r), 0);
	assert_true(ssd_key_equal(&r.key, &record.key));
	assert_int_equal(r.page, record.page);
	assert_int_equal(r.bytes, record.bytes);
	assert_memory_equal(r.crc, record.crc, sizeof(r.crc));
}

static void a_record_belongs_to_one_use_of_its_segment(void **state)
{
	uint8_t p[SSD_RECORD_BYTES];
	struct ssd_record r;

	(void)state;
	ssd_record_encode(&record, 5, 77, p);
	assert_int_equal(ssd_record_decode(p, 5, 78, &r), -EINVAL);
	assert_int_equal(ssd_record_decode(p, 4, 77, &r), -EINVAL);
}

static void any_wrong_byte_of_a_record_is_found(void **state)
{
	uint8_t p[SSD_RECORD_BYTES];
	struct ssd_record r;

	(void)state;
	for (size_t i = 0; i < sizeof(p); i++) {
		ssd_record_encode(&record, 5, 77, p);
		p[i] ^= 1;
		assert_int_equal(ssd_record_decode(p, 5, 77, &r), -EINVAL);
	}
}

/* A checksum says who wrote it, not that it makes sense. */
static void a_record_beyond_its_segment_is_refused(void **state)
{
	struct ssd_record bad[] = { record, record, record, record, record };
	uint8_t p[SSD_RECORD_BYTES];
	struct ssd_record r;

	(void)state;
	bad[0].bytes = 0;
	bad[1].bytes = SSD_BLOCK_BYTES + 1;
	bad[2].page = SSD_SEGMENT_PAGES - 1;
	bad[3].page = SSD_SEGMENT_PAGES;
	bad[4].page = UINT32_MAX;
	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		ssd_record_encode(&bad[i], 5, 77, p);
		assert_int_equal(ssd_record_decode(p, 5, 77, &r), -EINVAL);
	}
}

static void equal_bytes_of_other_units_have_other_checksums(void **state)
{
	struct ssd_key key = record.key;
	uint32_t crc = ssd_unit_crc(&key, 0, "bytes", 5);

	(void)state;
	assert_int_equal(ssd_unit_crc(&key, 0, "bytes", 5), crc);
	assert_int_not_equal(ssd_unit_crc(&key, 1, "bytes", 5), crc);
	key.index++;
	assert_int_not_equal(ssd_unit_crc(&key, 0, "bytes", 5), crc);
	key.index--;
	key.id.word[1]++;
	assert_int_not_equal(ssd_unit_crc(&key, 0, "bytes", 5), crc);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_superblock_is_known_again),
		cmocka_unit_test(a_head_belongs_to_its_segment),
		cmocka_unit_test(a_record_comes_back_as_it_was),
		cmocka_unit_test(a_record_belongs_to_one_use_of_its_segment),
		cmocka_unit_test(any_wrong_byte_of_a_record_is_found),
		cmocka_unit_test(a_record_beyond_its_segment_is_refused),
		cmocka_unit_test(equal_bytes_of_other_units_have_other_checksums),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
