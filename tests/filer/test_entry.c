/* Entries from JSON and from protobuf: the same rules for both. */
#include <errno.h>
#include <limits.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <cmocka.h>

#include "filer.pb-c.h"
#include "filer/base/base.h"
#include "filer/entry.h"
#include "filer/entry_build.h"

#define KEY_BASE64 "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
#define MTIME "2026-11-22T02:36:51.039889974Z"
#define MTIME_S 1795315011
#define MTIME_NS 39889974

/* An entry as the filer writes it, with the members in `more` put in. */
static char *json_of(const char *more)
{
	char *text;

	assert_true(asprintf(&text,
			     "{\"FullPath\":\"/d1/r35.bin\",\"Mtime\":\"" MTIME "\",\"Mode\":432,"
			     "\"FileSize\":0,\"Uid\":1000,\"Gid\":1001%s%s}",
			     more[0] ? "," : "", more) > 0);
	return text;
}

static int decode(const char *text, struct entry **ret, char **ret_name)
{
	return entry_from_json(text, strlen(text), ret, ret_name);
}

static struct entry *entry_with(const char *more)
{
	CLEANUP_FREE char *text = json_of(more);
	struct entry *e = NULL;

	assert_int_equal(decode(text, &e, NULL), 0);
	return e;
}

static int error_with(const char *more)
{
	CLEANUP_FREE char *text = json_of(more);
	struct entry *e = NULL;
	int err = decode(text, &e, NULL);

	assert_null(e);
	return err;
}

static struct entry *entry_of_pb(FilerPb__Entry *pb, char **ret_name)
{
	uint8_t buf[4096];
	struct entry *e = NULL;

	assert_true(filer_pb__entry__get_packed_size(pb) <= sizeof(buf));
	assert_int_equal(entry_from_pb(buf, filer_pb__entry__pack(pb, buf), &e, ret_name), 0);
	return e;
}

static void a_whole_entry_decodes(void **state)
{
	static const char text[] =
		"{\"FullPath\":\"/d1/r35.bin\",\"Mtime\":\"" MTIME
		"\",\"Crtime\":\"2026-11-22T02:36:51Z\","
		"\"Ctime\":\"0001-01-01T00:00:00Z\",\"Atime\":\"2026-11-22T02:36:52.9Z\",\"Mode\":"
		"432,"
		"\"Uid\":5,\"Gid\":6,\"Mime\":\"a/"
		"b\",\"TtlSec\":0,\"UserName\":\"\",\"GroupNames\":null,"
		"\"SymlinkTarget\":\"\",\"Md5\":\"rE5NA2KuE9ACdrXY6UN3HQ==\",\"FileSize\":3500000,"
		"\"Rdev\":0,\"Inode\":18446744073709551557,\"Extended\":null,\"chunks\":[{\"file_"
		"id\":"
		"\"4,02ed391bf7\",\"size\":1048576,\"modified_ts_ns\":1795315011021736525,\"e_"
		"tag\":"
		"\"0ZfIjpEvRbTVTWsNye4S5w==\",\"fid\":{\"volume_id\":4,\"file_key\":2,\"cookie\":"
		"3979942903}},{\"file_id\":\"1,033776e308\",\"offset\":1048576,\"size\":7}],"
		"\"HardLinkId\":null,\"HardLinkCounter\":0,\"Content\":null,\"Remote\":null,"
		"\"Quota\":0,"
		"\"WORMEnforcedAtTsNs\":0}";
	struct entry *e;
	char *name;

	(void)state;
	assert_int_equal(decode(text, &e, &name), 0);
	assert_string_equal(name, "r35.bin");
	assert_int_equal(e->mode, S_IFREG | 0660);
	assert_int_equal(e->uid, 5);
	assert_int_equal(e->gid, 6);
	assert_int_equal(e->nlink, 1);
	assert_true(e->ino == UINT64_C(18446744073709551557));
	assert_true(e->size == 3500000);
	assert_true(e->mtime.tv_sec == MTIME_S && e->mtime.tv_nsec == MTIME_NS);
	assert_true(e->atime.tv_sec == MTIME_S + 1 && e->atime.tv_nsec == 900000000);
	assert_int_equal(e->n_chunks, 2);
	assert_int_equal(e->chunks[0].fid.volume_id, 4);
	assert_true(e->chunks[0].fid.key == 2 && e->chunks[0].fid.cookie == 0xed391bf7);
	assert_true(e->chunks[0].modified_ns == INT64_C(1795315011021736525));
	assert_int_equal(e->chunks[0].flags, CHUNK_HAS_MD5);
	assert_int_equal(e->chunks[0].md5[0], 0xd1);
	assert_true(e->chunks[1].offset == 1048576 && e->chunks[1].size == 7);
	assert_int_equal(e->chunks[1].flags, 0);
	assert_null(e->content);
	assert_null(e->symlink);
	assert_false(e->remote_only || e->sse);
	free(name);
	entry_put(e);
}

static void modes_decode_from_both_encodings(void **state)
{
	static const struct {
		uint32_t wire;
		mode_t mode;
	} cases[] = {
		{ 0640, S_IFREG | 0640 },
		{ 0x80000000u | 0755, S_IFDIR | 0755 },
		{ 0x80000000u | 01777, S_IFDIR | 01777 },
		{ 1u << 27 | 0777, S_IFLNK | 0777 },
		{ 1u << 26 | 0600, S_IFBLK | 0600 },
		{ 1u << 25 | 0600, S_IFIFO | 0600 },
		{ 1u << 24 | 0600, S_IFSOCK | 0600 },
		{ 1u << 21 | 0600, S_IFCHR | 0600 },
		{ 1u << 26 | 1u << 21 | 0600, S_IFCHR | 0600 },
		{ 04755, S_IFREG | 04755 },
		{ 1u << 23 | 0755, S_IFREG | 04755 },
		{ 1u << 22 | 0755, S_IFREG | 02755 },
		{ 0x80000000u | 1u << 20 | 0777, S_IFDIR | 01777 },
		{ 0100755, S_IFREG | 0755 },
		{ 0040755, S_IFDIR | 0755 },
		{ 0120777, S_IFLNK | 0777 },
		{ 0010600, S_IFIFO | 0600 },
		{ 0170600, S_IFREG | 0600 },
		{ 0x80000000u | 0100755, S_IFDIR | 0755 },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		FilerPb__Entry pb = FILER_PB__ENTRY__INIT;
		FilerPb__FuseAttributes attr = FILER_PB__FUSE_ATTRIBUTES__INIT;
		struct entry *e;
		char more[64];

		snprintf(more, sizeof(more), "\"Mode\":%u", cases[i].wire);
		e = entry_with(more);
		assert_int_equal(e->mode, cases[i].mode);
		entry_put(e);
		attr.file_mode = cases[i].wire;
		pb.attributes = &attr;
		e = entry_of_pb(&pb, NULL);
		assert_int_equal(e->mode, cases[i].mode);
		entry_put(e);
	}
}

static void a_directory_may_say_so_without_a_mode(void **state)
{
	FilerPb__Entry pb = FILER_PB__ENTRY__INIT;
	struct entry *e;

	(void)state;
	pb.is_directory = 1;
	e = entry_of_pb(&pb, NULL);
	assert_int_equal(e->mode, S_IFDIR);
	entry_put(e);
}

static void device_numbers_decode(void **state)
{
	struct entry *e = entry_with("\"Mode\":2097536,\"Rdev\":1281");

	(void)state;
	assert_int_equal(major(e->rdev), 5);
	assert_int_equal(minor(e->rdev), 1);
	entry_put(e);
	/* Minor 0x12345, major 0x678. */
	e = entry_with("\"Mode\":2097536,\"Rdev\":305559621");
	assert_int_equal(major(e->rdev), 0x678);
	assert_int_equal(minor(e->rdev), 0x12345);
	entry_put(e);
	e = entry_with("\"Rdev\":1281");
	assert_int_equal(e->rdev, 0);
	entry_put(e);
}

static void times_that_were_never_set_are_the_mtime(void **state)
{
	struct entry *e = entry_with("\"Ctime\":\"0001-01-01T00:00:00Z\"");

	(void)state;
	assert_true(e->ctime.tv_sec == MTIME_S && e->ctime.tv_nsec == MTIME_NS);
	assert_true(e->atime.tv_sec == MTIME_S && e->atime.tv_nsec == MTIME_NS);
	entry_put(e);
}

static void times_before_1970_and_far_away_decode(void **state)
{
	static const struct {
		const char *text;
		int64_t s, ns;
	} cases[] = {
		{ "1969-12-31T23:59:59.5Z", -1, 500000000 },
		{ "1970-01-01T00:00:00Z", 0, 0 },
		{ "0000-01-01T00:00:00Z", -62167219200, 0 },
		{ "2500-01-01T00:00:00.000000001Z", 16725225600, 1 },
		{ "9999-12-31T23:59:59.9999999999Z", 253402300799, 999999999 },
		{ "2000-02-29T12:00:00+02:30", 951816600, 0 },
		{ "2000-02-29T12:00:00-02:30", 951834600, 0 },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		struct entry *e;
		char more[96];

		snprintf(more, sizeof(more), "\"Atime\":\"%s\"", cases[i].text);
		e = entry_with(more);
		assert_true(e->atime.tv_sec == cases[i].s);
		assert_true(e->atime.tv_nsec == cases[i].ns);
		entry_put(e);
	}
}

static void malformed_times_are_refused(void **state)
{
	static const char *const texts[] = {
		"",
		"2026",
		"2026-11-22 02:36:51Z",
		"2026-13-22T02:36:51Z",
		"2026-00-22T02:36:51Z",
		"2026-11-32T02:36:51Z",
		"2026-11-22T24:36:51Z",
		"2026-11-22T02:36:51",
		"2026-11-22T02:36:51.Z",
		"2026-11-22T02:36:51Zx",
		"2026-11-22T02:36:51+2:00",
		"+026-11-22T02:36:51Z",
		"12026-11-22T02:36:51Z",
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(texts); i++) {
		char more[96];

		snprintf(more, sizeof(more), "\"Atime\":\"%s\"", texts[i]);
		assert_int_equal(error_with(more), -EPROTO);
	}
}

static void protobuf_times_are_normal_whatever_comes(void **state)
{
	FilerPb__Entry pb = FILER_PB__ENTRY__INIT;
	FilerPb__FuseAttributes attr = FILER_PB__FUSE_ATTRIBUTES__INIT;
	struct entry *e;

	(void)state;
	pb.attributes = &attr;
	attr.mtime = INT64_C(300000000000);
	attr.mtime_ns = -1;
	attr.ctime = INT64_C(-62135596800);
	attr.atime = INT64_MAX;
	attr.atime_ns = INT32_MAX;
	e = entry_of_pb(&pb, NULL);
	assert_true(e->mtime.tv_sec == INT64_C(299999999999) && e->mtime.tv_nsec == 999999999);
	assert_true(e->ctime.tv_sec == e->mtime.tv_sec);
	assert_true(e->atime.tv_nsec >= 0 && e->atime.tv_nsec < 1000000000);
	entry_put(e);
}

static void sizes_are_the_farthest_reach(void **state)
{
	struct entry *e;

	(void)state;
	e = entry_with("\"FileSize\":4,\"chunks\":[{\"file_id\":\"1,0100000000\",\"size\":10}]");
	assert_true(e->size == 10);
	entry_put(e);
	e = entry_with("\"FileSize\":40,\"chunks\":[{\"file_id\":\"1,0100000000\",\"size\":10}]");
	assert_true(e->size == 40);
	entry_put(e);
	e = entry_with("\"Content\":\"YmFyAP8=\"");
	assert_true(e->size == 5 && e->content_len == 5);
	assert_memory_equal(e->content, "bar\0\xff", 5);
	entry_put(e);
}

static void symlinks_have_the_size_of_their_target(void **state)
{
	struct entry *e = entry_with(
		"\"Mode\":134218239,\"SymlinkTarget\":\"../\\u003ca\\u003e/\xc3\xa9\"");

	(void)state;
	assert_true(S_ISLNK(e->mode));
	assert_string_equal(e->symlink, "../<a>/\xc3\xa9");
	assert_int_equal(e->symlink_len, 9);
	assert_true(e->size == 9);
	entry_put(e);
	e = entry_with("\"Mode\":134218239");
	assert_string_equal(e->symlink, "");
	entry_put(e);
	e = entry_with("\"SymlinkTarget\":\"x\"");
	assert_null(e->symlink);
	entry_put(e);
}

static void symlink_targets_with_nul_are_refused(void **state)
{
	FilerPb__Entry pb = FILER_PB__ENTRY__INIT;
	FilerPb__FuseAttributes attr = FILER_PB__FUSE_ATTRIBUTES__INIT;
	struct entry *e;
	uint8_t buf[256];

	(void)state;
	pb.attributes = &attr;
	attr.file_mode = 1u << 27 | 0777;
	attr.symlink_target = (ProtobufCBinaryData){ .len = 3, .data = (uint8_t *)"a\0b" };
	assert_int_equal(entry_from_pb(buf, filer_pb__entry__pack(&pb, buf), &e, NULL), -EPROTO);
	assert_int_equal(error_with("\"SymlinkTarget\":\"a\\u0000b\""), -EPROTO);
}

static void a_long_symlink_target_decodes(void **state)
{
	enum { LEN = 100000 };
	char *more = malloc(LEN + 100);
	struct entry *e;
	int n;

	(void)state;
	assert_non_null(more);
	n = snprintf(more, 100, "\"Mode\":134218239,\"SymlinkTarget\":\"");
	memset(more + n, 'x', LEN);
	memcpy(more + n + LEN, "\"", 2);
	e = entry_with(more);
	assert_int_equal(e->symlink_len, LEN);
	entry_put(e);
	free(more);
}

static void link_counts_are_at_least_one(void **state)
{
	struct entry *e = entry_with("\"HardLinkCounter\":3");

	(void)state;
	assert_int_equal(e->nlink, 3);
	entry_put(e);
	e = entry_with("\"HardLinkCounter\":-2");
	assert_int_equal(e->nlink, 1);
	entry_put(e);
}

static void xattrs_are_those_with_the_prefix(void **state)
{
	struct entry *e = entry_with(
		"\"Extended\":{\"xattr-user.foo\":\"YmFy\",\"Seaweed-x\":\"eA==\","
		"\"xattr-\":\"eA==\",\"xattr-user.empty\":null,\"other\":7}");

	(void)state;
	assert_int_equal(e->n_xattrs, 2);
	assert_string_equal(e->xattrs[0].name, "user.foo");
	assert_int_equal(e->xattrs[0].name_len, 8);
	assert_int_equal(e->xattrs[0].value_len, 3);
	assert_memory_equal(e->xattrs[0].value, "bar", 3);
	assert_string_equal(e->xattrs[1].name, "user.empty");
	assert_int_equal(e->xattrs[1].value_len, 0);
	entry_put(e);
	assert_int_equal(error_with("\"Extended\":{\"xattr-user.foo\":1}"), -EPROTO);
	assert_int_equal(error_with("\"Extended\":{\"xattr-user.foo\":\"%\"}"), -EPROTO);
}

static void chunk_flags_and_keys_decode(void **state)
{
	struct entry *e = entry_with(
		"\"chunks\":[{\"file_id\":\"1,0100000000\",\"is_compressed\":true},"
		"{\"fid\":{\"volume_id\":2,\"file_key\":12297829382473034411,"
		"\"cookie\":9},\"cipher_key\":\"" KEY_BASE64
		"\",\"is_chunk_manifest\":true,\"e_tag\":\"no md5\"}]");

	(void)state;
	assert_int_equal(e->n_chunks, 2);
	assert_int_equal(e->chunks[0].flags, CHUNK_GZIP);
	assert_null(e->chunks[0].cipher_key);
	assert_int_equal(e->chunks[1].flags, CHUNK_MANIFEST);
	assert_true(e->chunks[1].fid.key == UINT64_C(12297829382473034411));
	assert_int_equal(e->chunks[1].fid.volume_id, 2);
	assert_int_equal(e->chunks[1].fid.cookie, 9);
	for (int i = 0; i < CIPHER_KEY_BYTES; i++)
		assert_int_equal(e->chunks[1].cipher_key[i], i);
	entry_put(e);
}

static void absurd_chunks_are_refused(void **state)
{
	static const char *const chunks[] = {
		"\"file_id\":\"1,0100000000\",\"offset\":-1",
		"\"file_id\":\"1,0100000000\",\"offset\":9223372036854775808",
		"\"file_id\":\"1,0100000000\",\"size\":-1",
		"\"file_id\":\"1,0100000000\",\"size\":9223372036854775808",
		"\"file_id\":\"1,0100000000\",\"offset\":9223372036854775807,\"size\":1",
		"\"file_id\":\"nonsense\"",
		"\"file_id\":7",
		"\"size\":1",
		"\"file_id\":\"1,0100000000\",\"cipher_key\":\"AAAA\"",
		"\"file_id\":\"1,0100000000\",\"cipher_key\":\"?\"",
		"\"file_id\":\"1,0100000000\",\"sse_type\":-1",
		"\"file_id\":\"1,0100000000\",\"is_compressed\":1",
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(chunks); i++) {
		char more[256];

		/* Of a directory, whose size does not depend on them. */
		snprintf(more, sizeof(more), "\"Mode\":2147484141,\"chunks\":[{%s}]", chunks[i]);
		assert_int_equal(error_with(more), -EPROTO);
	}
	assert_int_equal(error_with("\"chunks\":[7]"), -EPROTO);
	assert_int_equal(error_with("\"chunks\":[{\"file_id\":\"1,0100000000\"}"), -EPROTO);
}

static void encryption_by_the_s3_layer_is_known(void **state)
{
	static const int types[] = { CHUNK_SSE_NONE, CHUNK_SSE_C, CHUNK_SSE_KMS, CHUNK_SSE_S3, 77 };

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(types); i++) {
		struct entry *e;
		char more[160];

		snprintf(more, sizeof(more),
			 "\"chunks\":[{\"file_id\":\"1,0100000000\",\"sse_type\":%d},"
			 "{\"file_id\":\"1,0200000000\"}]",
			 types[i]);
		e = entry_with(more);
		assert_int_equal(e->chunks[0].sse, types[i]);
		assert_int_equal(e->sse, types[i] != CHUNK_SSE_NONE);
		entry_put(e);
	}
}

static void remote_files_without_data_are_remote_only(void **state)
{
	struct entry *e = entry_with("\"Remote\":{\"remote_mtime\":1,\"remote_size\":700}");

	(void)state;
	assert_true(e->remote_only);
	assert_true(e->size == 700);
	entry_put(e);
	e = entry_with("\"Remote\":{\"remote_size\":700},"
		       "\"chunks\":[{\"file_id\":\"1,0100000000\",\"size\":9}]");
	assert_false(e->remote_only);
	assert_true(e->size == 9);
	entry_put(e);
}

static void directories_have_no_size(void **state)
{
	struct entry *e = entry_with("\"Mode\":2147484141,\"FileSize\":77");

	(void)state;
	assert_true(e->size == 0);
	assert_false(e->remote_only);
	entry_put(e);
}

static void the_version_follows_mtime_size_and_chunks(void **state)
{
	static const char *const variants[] = {
		"\"chunks\":[{\"file_id\":\"1,0100000000\",\"size\":9}]",
		"\"chunks\":[{\"file_id\":\"1,0100000001\",\"size\":9}]",
		"\"chunks\":[{\"file_id\":\"1,0200000000\",\"size\":9}]",
		"\"chunks\":[{\"file_id\":\"2,0100000000\",\"size\":9}]",
		"\"chunks\":[{\"file_id\":\"1,0100000000\",\"size\":8}],\"FileSize\":9",
		"\"chunks\":[{\"file_id\":\"1,0100000000\",\"size\":8,\"offset\":1}]",
		"\"chunks\":[{\"file_id\":\"1,0100000000\",\"size\":9,\"modified_ts_ns\":1}]",
		"\"chunks\":[{\"file_id\":\"1,0100000000\",\"size\":9}],\"FileSize\":10",
		"\"FileSize\":9",
		"\"Content\":\"YmFyYmFyYmFy\"",
		"\"Content\":\"YmFyYmFyYmF5\"",
		"\"FileSize\":9,\"Mtime\":\"2026-11-22T02:36:51.039889975Z\"",
	};
	struct entry *e[ARRAY_LEN(variants)];

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(variants); i++) {
		e[i] = entry_with(variants[i]);
		for (size_t j = 0; j < i; j++)
			assert_false(entry_same_version(e[i], e[j]));
	}
	for (size_t i = 0; i < ARRAY_LEN(variants); i++)
		entry_put(e[i]);
}

static void the_version_does_not_follow_attributes(void **state)
{
	struct entry *a = entry_with("\"FileSize\":9,\"Uid\":1,\"Atime\":\"2001-01-01T00:00:00Z\"");
	struct entry *b = entry_with(
		"\"FileSize\":9,\"Uid\":2,\"Extended\":{\"xattr-user.a\":\"eA==\"}");

	(void)state;
	assert_true(entry_same_version(a, b));
	entry_put(a);
	entry_put(b);
}

static void what_expires_or_has_other_names_changes_unannounced(void **state)
{
	static const struct {
		const char *json;
		int32_t ttl_s, links;
		bool unannounced;
	} cases[] = {
		{ "\"TtlSec\":0,\"HardLinkCounter\":1", 0, 1, false },
		{ "\"TtlSec\":60", 60, 0, true },
		{ "\"HardLinkCounter\":2", 0, 2, true },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		FilerPb__Entry pb = FILER_PB__ENTRY__INIT;
		FilerPb__FuseAttributes attributes = FILER_PB__FUSE_ATTRIBUTES__INIT;
		struct entry *e = entry_with(cases[i].json);

		assert_int_equal(e->unannounced, cases[i].unannounced);
		entry_put(e);
		attributes.ttl_sec = cases[i].ttl_s;
		pb.attributes = &attributes;
		pb.hard_link_counter = cases[i].links;
		e = entry_of_pb(&pb, NULL);
		assert_int_equal(e->unannounced, cases[i].unannounced);
		entry_put(e);
	}
}

static void json_and_protobuf_give_the_same_entry(void **state)
{
	FilerPb__Entry pb = FILER_PB__ENTRY__INIT;
	FilerPb__FuseAttributes attr = FILER_PB__FUSE_ATTRIBUTES__INIT;
	FilerPb__FileChunk chunk = FILER_PB__FILE_CHUNK__INIT, *chunks = &chunk;
	FilerPb__FileId fid = FILER_PB__FILE_ID__INIT;
	FilerPb__Extended x = FILER_PB__EXTENDED__INIT, *extended = &x;
	uint8_t key[CIPHER_KEY_BYTES];
	struct entry *a, *b;
	char *name;

	(void)state;
	for (uint8_t i = 0; i < CIPHER_KEY_BYTES; i++)
		key[i] = i;
	pb.name = (ProtobufCBinaryData){ .len = 7, .data = (uint8_t *)"r35.bin" };
	pb.attributes = &attr;
	attr.file_mode = 0660;
	attr.uid = 1000;
	attr.gid = 1001;
	attr.mtime = MTIME_S;
	attr.mtime_ns = MTIME_NS;
	attr.file_size = 99;
	attr.inode = UINT64_MAX;
	fid.volume_id = 4;
	fid.file_key = 2;
	fid.cookie = 0xed391bf7;
	chunk.fid = &fid;
	chunk.offset = 5;
	chunk.size = 6;
	chunk.modified_ts_ns = INT64_C(1795315011021736525);
	chunk.e_tag = (char *)"0ZfIjpEvRbTVTWsNye4S5w==";
	chunk.is_compressed = 1;
	chunk.cipher_key = (ProtobufCBinaryData){ .len = sizeof(key), .data = key };
	pb.n_chunks = 1;
	pb.chunks = &chunks;
	x.key = (ProtobufCBinaryData){ .len = 14, .data = (uint8_t *)"xattr-user.foo" };
	x.value = (ProtobufCBinaryData){ .len = 3, .data = (uint8_t *)"bar" };
	pb.n_extended = 1;
	pb.extended = &extended;
	a = entry_of_pb(&pb, &name);
	assert_string_equal(name, "r35.bin");
	free(name);
	b = entry_with("\"FileSize\":99,\"Inode\":18446744073709551615,\"Extended\":"
		       "{\"xattr-user.foo\":\"YmFy\"},\"chunks\":[{\"file_id\":\"4,02ed391bf7\","
		       "\"offset\":5,"
		       "\"size\":6,\"modified_ts_ns\":1795315011021736525,\"is_compressed\":true,"
		       "\"e_tag\":\"0ZfIjpEvRbTVTWsNye4S5w==\",\"cipher_key\":\"" KEY_BASE64
		       "\"}]");
	assert_true(entry_same_version(a, b));
	assert_true(a->ino == b->ino && a->mode == b->mode && a->uid == b->uid && a->gid == b->gid);
	assert_int_equal(a->chunks[0].flags, b->chunks[0].flags);
	assert_memory_equal(a->chunks[0].md5, b->chunks[0].md5, CHUNK_MD5_BYTES);
	assert_memory_equal(a->chunks[0].cipher_key, b->chunks[0].cipher_key, CIPHER_KEY_BYTES);
	assert_string_equal(a->xattrs[0].name, b->xattrs[0].name);
	entry_put(a);
	entry_put(b);
}

static void what_is_no_entry_is_refused(void **state)
{
	static const char *const texts[] = {
		"",
		"null",
		"[]",
		"{}",
		"{\"error\":\"x\"}",
		"<html>",
		"{\"FullPath\":\"/a\"}",
		"{\"FullPath\":7,\"Mtime\":\"2026-11-22T02:36:51Z\",\"Mode\":1,\"FileSize\":0}",
	};
	struct entry *e;

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(texts); i++)
		assert_int_equal(decode(texts[i], &e, NULL), -EPROTO);
}

static void every_early_end_is_refused(void **state)
{
	CLEANUP_FREE char *text = json_of(
		"\"chunks\":[{\"file_id\":\"1,0100000000\"}],\"Content\":\"YQ==\"");
	struct entry *e;

	(void)state;
	for (size_t len = 0; len < strlen(text); len++) {
		char *copy = malloc(len + 1);

		assert_non_null(copy);
		memcpy(copy, text, len);
		assert_int_equal(entry_from_json(copy, len, &e, NULL), -EPROTO);
		free(copy);
	}
}

static void numbers_in_the_wrong_places_are_refused(void **state)
{
	(void)state;
	assert_int_equal(error_with("\"Mode\":\"0644\""), -EPROTO);
	assert_int_equal(error_with("\"Inode\":1.5"), -EPROTO);
	assert_int_equal(error_with("\"FileSize\":-1"), -EPROTO);
	assert_int_equal(error_with("\"FileSize\":9223372036854775808"), -EPROTO);
	assert_int_equal(error_with("\"Extended\":[]"), -EPROTO);
	assert_int_equal(error_with("\"Remote\":\"x\""), -EPROTO);
	assert_int_equal(error_with("\"Content\":\"?\""), -EPROTO);
}

static void the_name_survives_what_does_not_decode(void **state)
{
	CLEANUP_FREE char *text = json_of("\"chunks\":[{\"offset\":-1}],\"Inode\":\"x\"");
	struct entry *e;
	char *name;

	(void)state;
	assert_int_equal(decode(text, &e, &name), -EPROTO);
	assert_int_equal(wire_json_name(text, strlen(text), &name), 0);
	assert_string_equal(name, "r35.bin");
	free(name);
}

static void protobuf_that_swells_is_refused(void **state)
{
	/* Empty extended attributes: two bytes each, but more than a hundred unpacked. */
	enum { LEN = 1 << 20 };
	uint8_t *pb = malloc(LEN);
	struct entry *e;

	(void)state;
	assert_non_null(pb);
	for (size_t i = 0; i < LEN; i += 2) {
		pb[i] = 5 << 3 | 2;
		pb[i + 1] = 0;
	}
	assert_int_equal(entry_from_pb(pb, LEN, &e, NULL), -EPROTO);
	free(pb);
}

static void hostile_names_are_known(void **state)
{
	(void)state;
	assert_false(wire_name_ok("", 0));
	assert_false(wire_name_ok(".", 1));
	assert_false(wire_name_ok("..", 2));
	assert_false(wire_name_ok("a/b", 3));
	assert_false(wire_name_ok("a\0b", 3));
	assert_true(wire_name_ok("...", 3));
	assert_true(wire_name_ok(".a", 2));
	assert_true(wire_name_ok("\n\x01\xff", 3));
}

static void a_known_file_takes_little_memory(void **state)
{
	struct entry *e = entry_with("\"FileSize\":99,\"chunks\":[{\"file_id\":\"4,02ed391bf7\","
				     "\"size\":6,\"e_tag\":\"0ZfIjpEvRbTVTWsNye4S5w==\"}]");

	(void)state;
	assert_true(entry_memory_bytes(e) <= 320);
	entry_put(e);
}

static void references_are_counted(void **state)
{
	struct entry *e = entry_with("");

	(void)state;
	assert_ptr_equal(entry_get(e), e);
	entry_put(e);
	assert_int_equal(e->uid, 1000);
	entry_put(e);
	entry_put(NULL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_whole_entry_decodes),
		cmocka_unit_test(modes_decode_from_both_encodings),
		cmocka_unit_test(a_directory_may_say_so_without_a_mode),
		cmocka_unit_test(device_numbers_decode),
		cmocka_unit_test(times_that_were_never_set_are_the_mtime),
		cmocka_unit_test(times_before_1970_and_far_away_decode),
		cmocka_unit_test(malformed_times_are_refused),
		cmocka_unit_test(protobuf_times_are_normal_whatever_comes),
		cmocka_unit_test(sizes_are_the_farthest_reach),
		cmocka_unit_test(symlinks_have_the_size_of_their_target),
		cmocka_unit_test(symlink_targets_with_nul_are_refused),
		cmocka_unit_test(a_long_symlink_target_decodes),
		cmocka_unit_test(link_counts_are_at_least_one),
		cmocka_unit_test(xattrs_are_those_with_the_prefix),
		cmocka_unit_test(chunk_flags_and_keys_decode),
		cmocka_unit_test(absurd_chunks_are_refused),
		cmocka_unit_test(encryption_by_the_s3_layer_is_known),
		cmocka_unit_test(remote_files_without_data_are_remote_only),
		cmocka_unit_test(directories_have_no_size),
		cmocka_unit_test(the_version_follows_mtime_size_and_chunks),
		cmocka_unit_test(the_version_does_not_follow_attributes),
		cmocka_unit_test(json_and_protobuf_give_the_same_entry),
		cmocka_unit_test(what_is_no_entry_is_refused),
		cmocka_unit_test(every_early_end_is_refused),
		cmocka_unit_test(numbers_in_the_wrong_places_are_refused),
		cmocka_unit_test(the_name_survives_what_does_not_decode),
		cmocka_unit_test(protobuf_that_swells_is_refused),
		cmocka_unit_test(hostile_names_are_known),
		cmocka_unit_test(a_known_file_takes_little_memory),
		cmocka_unit_test(references_are_counted),
		cmocka_unit_test(what_expires_or_has_other_names_changes_unannounced),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
