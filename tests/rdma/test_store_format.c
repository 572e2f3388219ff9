/* Names, superblocks, index entries, .vif, and the records of needles. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "filer/base/base.h"
#include "filer/base/crc32c.h"
#include "rdma/agent/store.h"
#include "rdma/agent/volume_format.h"
#include "tests/support/volume_files.h"

#define KEY 0x1234
#define COOKIE 0xc00c1e00
#define NS_PER_S UINT64_C(1000000000)

static const struct fid fid = { .volume_id = 3, .key = KEY, .cookie = COOKIE };

/* --- names and small things --- */

static int stem(const char *s, uint32_t *ret)
{
	return volume_stem_parse(s, strlen(s), ret);
}

static void test_a_volume_is_named_by_what_follows_the_last_underscore(void **state)
{
	uint32_t id = 0;

	(void)state;
	assert_int_equal(stem("3", &id), 0);
	assert_int_equal(id, 3);
	assert_int_equal(stem("photos_12", &id), 0);
	assert_int_equal(id, 12);
	assert_int_equal(stem("my_old_photos_4294967295", &id), 0);
	assert_true(id == UINT32_MAX);
	assert_int_equal(stem("a.b_0", &id), 0);
	assert_int_equal(id, 0);
}

static void test_other_names_are_no_volumes(void **state)
{
	static const char *const names[] = { "",
					     "_",
					     "_3",
					     "a_",
					     "3a",
					     "a_3b",
					     "4294967296",
					     "03",
					     "a_03",
					     "+3",
					     "-3",
					     "3 ",
					     "99999999999999999999999" };
	uint32_t id = 77;

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(names); i++)
		assert_int_equal(stem(names[i], &id), -EINVAL);
	assert_int_equal(id, 77);
}

static void test_a_superblock_tells_version_revision_and_length(void **state)
{
	const uint8_t good[] = { 3, 0x10, 5, 1, 0x01, 0x02, 0x00, 0x10 };
	const uint8_t none[8] = { 0 }, newer[8] = { 4 };
	struct superblock super;

	(void)state;
	assert_int_equal(superblock_parse(good, &super), 0);
	assert_int_equal(super.version, 3);
	assert_int_equal(super.revision, 0x0102);
	assert_int_equal(super.bytes, 24);
	assert_int_equal(superblock_parse(none, &super), -EIO);
	assert_int_equal(superblock_parse(newer, &super), -EIO);
}

static void test_the_fifth_byte_of_an_offset_is_the_highest(void **state)
{
	const uint8_t bytes[] = { 1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0, 2, 1, 0, 0, 1, 0 };
	struct idx_entry e;

	(void)state;
	idx_entry_decode(bytes, IDX_ENTRY_BYTES_5, &e);
	assert_true(e.key == UINT64_C(0x0102030405060708));
	assert_true(e.offset == ((UINT64_C(1) << 32) + 2) * 8);
	assert_int_equal(e.size, 0x100);
	assert_false(e.deleted);
	idx_entry_decode(bytes, IDX_ENTRY_BYTES_4, &e);
	assert_true(e.offset == 16);
	assert_int_equal(e.size, 0x01000001);
}

static void test_no_offset_or_a_negative_size_is_a_deletion(void **state)
{
	uint8_t bytes[IDX_ENTRY_BYTES_5] = { [15] = 1 };
	struct idx_entry e;

	(void)state;
	idx_entry_decode(bytes, IDX_ENTRY_BYTES_5, &e);
	assert_true(e.deleted);
	bytes[11] = 1;
	idx_entry_decode(bytes, IDX_ENTRY_BYTES_5, &e);
	assert_false(e.deleted);
	bytes[13] = 0x80;
	idx_entry_decode(bytes, IDX_ENTRY_BYTES_5, &e);
	assert_true(e.deleted);
}

static int vif(const char *text, struct vif *ret)
{
	return vif_parse(text, strlen(text), ret);
}

static void test_vif_tells_the_width_and_whose_the_bytes_are(void **state)
{
	struct vif v = { 0 };

	(void)state;
	assert_int_equal(vif("{\"files\":[],\"version\":3,\"bytesOffset\":5}", &v), 0);
	assert_int_equal(v.entry_bytes, IDX_ENTRY_BYTES_5);
	assert_false(v.tiered);
	assert_int_equal(vif("{\"bytesOffset\":4}", &v), 0);
	assert_int_equal(v.entry_bytes, IDX_ENTRY_BYTES_4);
	assert_int_equal(vif("{\"files\":null,\"bytesOffset\":0}", &v), 0);
	assert_int_equal(v.entry_bytes, 0);
	assert_false(v.tiered);
	assert_int_equal(vif("{\"files\":[{\"backendType\":\"s3\"}]}", &v), 0);
	assert_true(v.tiered);
}

static void test_a_vif_of_another_kind_is_refused(void **state)
{
	struct vif v = { .entry_bytes = 1 };

	(void)state;
	assert_int_equal(vif("", &v), -EPROTO);
	assert_int_equal(vif("[]", &v), -EPROTO);
	assert_int_equal(vif("{\"bytesOffset\":6}", &v), -EPROTO);
	assert_int_equal(vif("{\"bytesOffset\":\"5\"}", &v), -EPROTO);
	assert_int_equal(vif("{\"files\":[]", &v), -EPROTO);
	assert_int_equal(v.entry_bytes, 1);
}

/* --- records --- */

struct record {
	char path[64];
	int fd;
	struct needle_place place;
};

/* Writes one record, and says where it is. */
static void write_record(struct record *r, unsigned version, const struct record_shape *shape)
{
	const struct volume_shape volume = { .version = version };
	struct idx_entry e;
	uint8_t entry[IDX_ENTRY_BYTES_5];

	snprintf(r->path, sizeof(r->path), "/tmp/kelp-record-XXXXXX");
	int idx_fd = mkstemp(r->path);
	char dat[80];
	snprintf(dat, sizeof(dat), "%s.dat", r->path);
	struct volume_files *v = volume_files_new(dat, r->path, &volume);
	uint64_t offset = volume_files_put_shaped(v, KEY, COOKIE, shape);
	volume_files_free(v);
	assert_int_equal(pread(idx_fd, entry, sizeof(entry), 0), sizeof(entry));
	idx_entry_decode(entry, IDX_ENTRY_BYTES_5, &e);
	close(idx_fd);
	r->fd = open(dat, O_RDWR | O_CLOEXEC);
	assert_true(r->fd >= 0);
	unlink(dat);
	unlink(r->path);
	r->place = (struct needle_place){
		.fd = r->fd, .record_offset = offset, .record_size = e.size, .version = version
	};
}

static void drop_record(struct record *r)
{
	close(r->fd);
}

static void expect_data(const struct record *r, const struct needle_info *info,
			const struct record_shape *shape)
{
	char buf[256];

	assert_int_equal(info->data_bytes, shape->len);
	assert_int_equal(pread(r->fd, buf, shape->len, (off_t)info->data_offset), shape->len);
	assert_memory_equal(buf, shape->data, shape->len);
	assert_true(crc32c_matches(info->crc32c, crc32c(0, shape->data, shape->len)));
}

static void test_records_of_every_version_are_read(void **state)
{
	static const struct record_shape shapes[] = {
		{ .data = "", .len = 0 },
		{ .data = "x", .len = 1 },
		{ .data = "0123456789", .len = 10, .flags = RECORD_GZIP },
		{ .data = "old", .len = 3, .masked_crc = true },
		{ .data = "all fields",
		  .len = 10,
		  .flags = RECORD_NAME | RECORD_MIME | RECORD_LAST_MODIFIED | RECORD_TTL |
			   RECORD_PAIRS,
		  .name = "name",
		  .mime = "text/plain",
		  .pairs = "{\"a\":\"b\"}" },
		{ .data = "empty ones", .len = 10, .flags = RECORD_NAME | RECORD_MIME },
	};

	(void)state;
	for (unsigned version = 1; version <= 3; version++)
		for (size_t i = 0; i < ARRAY_LEN(shapes); i++) {
			struct record r;
			struct needle_info info;

			write_record(&r, version, &shapes[i]);
			assert_int_equal(store_read_info(&r.place, &fid, &info), 0);
			expect_data(&r, &info, &shapes[i]);
			assert_int_equal(info.gzip, version > 1 && (shapes[i].flags & RECORD_GZIP));
			assert_true(info.expires_at_ns == 0);
			drop_record(&r);
		}
}

static void test_another_cookie_is_not_found_and_another_key_an_error(void **state)
{
	const struct record_shape shape = { .data = "x", .len = 1 };
	struct fid other = fid;
	struct record r;
	struct needle_info info;

	(void)state;
	write_record(&r, 3, &shape);
	other.cookie++;
	assert_int_equal(store_read_info(&r.place, &other, &info), -ENOENT);
	other = fid;
	other.key++;
	assert_int_equal(store_read_info(&r.place, &other, &info), -EIO);
	drop_record(&r);
}

static void test_sizes_that_contradict_each_other_are_an_error(void **state)
{
	const struct record_shape shape = { .data = "0123456789", .len = 10 };
	const uint8_t huge[] = { 0x7f, 0xff, 0xff, 0xff };
	struct record r;
	struct needle_info info;

	(void)state;
	write_record(&r, 3, &shape);
	r.place.record_size++;
	assert_int_equal(store_read_info(&r.place, &fid, &info), -EIO);
	r.place.record_size--;
	assert_int_equal(pwrite(r.fd, huge, 4, (off_t)r.place.record_offset + 16), 4);
	assert_int_equal(store_read_info(&r.place, &fid, &info), -EIO);
	/* No data at all, and fields that run over the checksum. */
	assert_int_equal(pwrite(r.fd, "\0\0\0\0\x02\xff", 6, (off_t)r.place.record_offset + 16), 6);
	assert_int_equal(store_read_info(&r.place, &fid, &info), -EIO);
	drop_record(&r);
}

static void test_more_fields_than_there_can_be_are_an_error(void **state)
{
	static uint8_t zeros[100000];
	const struct record_shape shape = { .data = zeros, .len = sizeof(zeros) };
	struct record r;
	struct needle_info info;

	(void)state;
	write_record(&r, 3, &shape);
	assert_int_equal(pwrite(r.fd, "\0\0\0\1", 4, (off_t)r.place.record_offset + 16), 4);
	assert_int_equal(store_read_info(&r.place, &fid, &info), -EIO);
	drop_record(&r);
}

static void test_a_record_that_the_file_cuts_off_is_an_error(void **state)
{
	const struct record_shape shape = { .data = "0123456789", .len = 10 };
	struct record r;
	struct needle_info info;

	(void)state;
	write_record(&r, 3, &shape);
	assert_int_equal(ftruncate(r.fd, (off_t)r.place.record_offset + 30), 0);
	assert_int_equal(store_read_info(&r.place, &fid, &info), -EIO);
	assert_int_equal(ftruncate(r.fd, (off_t)r.place.record_offset + 3), 0);
	assert_int_equal(store_read_info(&r.place, &fid, &info), -EIO);
	drop_record(&r);
}

/* Appended at 1000 s, with a TTL. Returns when it ends, in seconds; 0: never, -1: it has. */
static int64_t ttl_end_s(unsigned version, uint8_t flags, uint8_t count, uint8_t unit,
			 uint64_t now_s)
{
	const struct record_shape shape = { .data = "x",
					    .len = 1,
					    .flags = flags,
					    .ttl_count = count,
					    .ttl_unit = unit,
					    .append_at_ns = 1000 * NS_PER_S };
	uint8_t header[STORE_HEADER_BYTES], tail[64];
	struct needle_info info;
	struct record r;
	uint64_t offset;
	size_t len;

	write_record(&r, version, &shape);
	assert_int_equal(pread(r.fd, header, sizeof(header), (off_t)r.place.record_offset),
			 sizeof(header));
	assert_int_equal(store_parse_header(&r.place, &fid, header, &info), 0);
	store_tail_place(&r.place, &info, &offset, &len);
	assert_true(len <= sizeof(tail));
	assert_int_equal(pread(r.fd, tail, len, (off_t)offset), len);
	assert_int_equal(store_parse_tail(&r.place, tail, len - 1, 0, &info), -EIO);
	int err = store_parse_tail(&r.place, tail, len, now_s * NS_PER_S, &info);
	drop_record(&r);
	if (err == -ENOENT)
		return -1;
	assert_int_equal(err, 0);
	return (int64_t)(info.expires_at_ns / NS_PER_S);
}

static void test_a_ttl_counts_from_the_time_of_the_append(void **state)
{
	const uint8_t both = RECORD_TTL | RECORD_LAST_MODIFIED;

	(void)state;
	assert_int_equal(ttl_end_s(3, both, 2, 1, 1119), 1120);
	assert_int_equal(ttl_end_s(3, both, 2, 1, 1120), -1);
	assert_int_equal(ttl_end_s(3, both, 1, 2, 1000), 1000 + 3600);
	assert_int_equal(ttl_end_s(3, both, 1, 3, 1000), 1000 + 86400);
	assert_int_equal(ttl_end_s(3, both, 1, 4, 1000), 1000 + 7 * 86400);
	assert_int_equal(ttl_end_s(3, both, 1, 5, 1000), 1000 + 30 * 86400);
	assert_int_equal(ttl_end_s(3, both, 255, 6, 1000), 1000 + INT64_C(255) * 365 * 86400);
}

static void test_a_ttl_counts_only_where_a_server_counts_it(void **state)
{
	const uint8_t both = RECORD_TTL | RECORD_LAST_MODIFIED;

	(void)state;
	assert_int_equal(ttl_end_s(3, RECORD_TTL, 2, 1, 5000), 0);
	assert_int_equal(ttl_end_s(3, both, 0, 1, 5000), 0);
	assert_int_equal(ttl_end_s(3, both, 2, 0, 5000), 0);
	assert_int_equal(ttl_end_s(3, both, 2, 9, 5000), 0);
	assert_int_equal(ttl_end_s(2, both, 2, 1, 5000), -1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_a_volume_is_named_by_what_follows_the_last_underscore),
		cmocka_unit_test(test_other_names_are_no_volumes),
		cmocka_unit_test(test_a_superblock_tells_version_revision_and_length),
		cmocka_unit_test(test_the_fifth_byte_of_an_offset_is_the_highest),
		cmocka_unit_test(test_no_offset_or_a_negative_size_is_a_deletion),
		cmocka_unit_test(test_vif_tells_the_width_and_whose_the_bytes_are),
		cmocka_unit_test(test_a_vif_of_another_kind_is_refused),
		cmocka_unit_test(test_records_of_every_version_are_read),
		cmocka_unit_test(test_another_cookie_is_not_found_and_another_key_an_error),
		cmocka_unit_test(test_sizes_that_contradict_each_other_are_an_error),
		cmocka_unit_test(test_more_fields_than_there_can_be_are_an_error),
		cmocka_unit_test(test_a_record_that_the_file_cuts_off_is_an_error),
		cmocka_unit_test(test_a_ttl_counts_from_the_time_of_the_append),
		cmocka_unit_test(test_a_ttl_counts_only_where_a_server_counts_it),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
