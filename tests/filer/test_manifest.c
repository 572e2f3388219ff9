#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "filer.pb-c.h"
#include "filer/base/base.h"
#include "filer/manifest.h"

#define MANY 1000

/* Two chunks as the filer writes them: {fid{4,2,cookie}, 1048576 bytes at 0, MD5}, and {fid{1,3,cookie},
 * 7 bytes at 1048576, compressed}. */
static const uint8_t two_chunks[] = {
	0x0a, 0x33, 0x18, 0x80, 0x80, 0x40, 0x20, 0xcc, 0x94, 0x82, 0x9f, 0xd9, 0xaf,
	0x8f, 0xf5, 0x18, 0x2a, 0x18, 0x30, 0x5a, 0x66, 0x49, 0x6a, 0x70, 0x45, 0x76,
	0x52, 0x62, 0x54, 0x56, 0x54, 0x57, 0x73, 0x4e, 0x79, 0x65, 0x34, 0x53, 0x35,
	0x77, 0x3d, 0x3d, 0x3a, 0x09, 0x08, 0x04, 0x10, 0x02, 0x1d, 0xf7, 0x1b, 0x39,
	0xed, 0x0a, 0x15, 0x10, 0x80, 0x80, 0x40, 0x18, 0x07, 0x20, 0x05, 0x3a, 0x09,
	0x08, 0x01, 0x10, 0x03, 0x1d, 0x06, 0xe3, 0x76, 0x37, 0x50, 0x01,
};

static const uint8_t first_md5[CHUNK_MD5_BYTES] = {
	0xd1, 0x97, 0xc8, 0x8e, 0x91, 0x2f, 0x45, 0xb4,
	0xd5, 0x4d, 0x6b, 0x0d, 0xc9, 0xee, 0x12, 0xe7
};

static void the_fields_of_each_chunk_are_decoded(void **state)
{
	(void)state;
	struct manifest *m;

	assert_int_equal(manifest_decode(two_chunks, sizeof(two_chunks), 2, &m), 0);
	assert_int_equal(m->n_chunks, 2);
	assert_int_equal(m->chunks[0].fid.volume_id, 4);
	assert_int_equal(m->chunks[0].fid.key, 2);
	assert_int_equal(m->chunks[0].fid.cookie, 0xed391bf7);
	assert_int_equal(m->chunks[0].offset, 0);
	assert_int_equal(m->chunks[0].size, 1048576);
	assert_true(m->chunks[0].modified_ns == INT64_C(1795315011021736524));
	assert_int_equal(m->chunks[0].flags, CHUNK_HAS_MD5);
	assert_memory_equal(m->chunks[0].md5, first_md5, CHUNK_MD5_BYTES);
	assert_null(m->chunks[0].cipher_key);
	assert_int_equal(m->chunks[1].fid.cookie, 0x3776e306);
	assert_int_equal(m->chunks[1].offset, 1048576);
	assert_int_equal(m->chunks[1].size, 7);
	assert_int_equal(m->chunks[1].flags, CHUNK_GZIP);
	manifest_free(m);
	manifest_free(NULL);
}

static void empty_manifest_has_no_chunks(void **state)
{
	(void)state;
	struct manifest *m;

	assert_int_equal(manifest_decode((const uint8_t *)"", 0, 0, &m), 0);
	assert_int_equal(m->n_chunks, 0);
	manifest_free(m);
}

static void every_truncation_but_the_one_between_chunks_is_refused(void **state)
{
	(void)state;
	const size_t between = 2 + 0x33;

	for (size_t len = 1; len < sizeof(two_chunks); len++) {
		/* a copy of its own, so that a read beyond it is seen */
		uint8_t *copy = malloc(len);
		struct manifest *m = NULL;

		assert_non_null(copy);
		memcpy(copy, two_chunks, len);
		int err = manifest_decode(copy, len, 2, &m);

		manifest_free(m);
		free(copy);
		if (err != (len == between ? 0 : -EPROTO))
			fail_msg("length %zu", len);
	}
}

static void more_chunks_than_allowed_are_refused(void **state)
{
	(void)state;
	struct manifest *m = NULL;

	assert_int_equal(manifest_decode(two_chunks, sizeof(two_chunks), 1, &m), -EPROTO);
	assert_null(m);
}

/* Packs a manifest of one chunk. */
static int decode_one(FilerPb__FileChunk *chunk, struct manifest **ret)
{
	FilerPb__FileChunkManifest pb = FILER_PB__FILE_CHUNK_MANIFEST__INIT;
	uint8_t packed[512];

	pb.n_chunks = 1;
	pb.chunks = &chunk;
	assert_true(filer_pb__file_chunk_manifest__get_packed_size(&pb) <= sizeof(packed));
	return manifest_decode(packed, filer_pb__file_chunk_manifest__pack(&pb, packed), 1, ret);
}

static FilerPb__FileChunk plain_chunk(void)
{
	FilerPb__FileChunk c = FILER_PB__FILE_CHUNK__INIT;

	c.file_id = (char *)"3,01637037d6";
	c.size = 10;
	return c;
}

static void chunk_without_fid_message_is_named_by_its_text(void **state)
{
	(void)state;
	FilerPb__FileChunk c = plain_chunk();
	struct manifest *m;

	assert_int_equal(decode_one(&c, &m), 0);
	assert_int_equal(m->chunks[0].fid.volume_id, 3);
	assert_int_equal(m->chunks[0].fid.key, 1);
	assert_int_equal(m->chunks[0].fid.cookie, 0x637037d6);
	manifest_free(m);
}

static void flags_and_key_are_kept(void **state)
{
	(void)state;
	FilerPb__FileChunk c = plain_chunk();
	uint8_t key[CIPHER_KEY_BYTES];
	struct manifest *m;

	memset(key, 0x5a, sizeof(key));
	c.is_chunk_manifest = true;
	c.is_compressed = true;
	c.cipher_key.data = key;
	c.cipher_key.len = sizeof(key);
	assert_int_equal(decode_one(&c, &m), 0);
	assert_int_equal(m->chunks[0].flags, CHUNK_GZIP | CHUNK_MANIFEST);
	assert_memory_equal(m->chunks[0].cipher_key, key, sizeof(key));
	manifest_free(m);
}

static void unparsable_e_tag_is_no_checksum(void **state)
{
	(void)state;
	static const char *const e_tags[] = { "",
					      "abc",
					      "0ZfIjpEvRbTVTWsNye4S5w=",
					      "0ZfIjpEvRbTVTWsNye4S5wAA",
					      "0Zf*jpEvRbTVTWsNye4S5w==",
					      "  0ZfIjpEvRbTVTWsNye4S==" };

	for (size_t i = 0; i < ARRAY_LEN(e_tags); i++) {
		FilerPb__FileChunk c = plain_chunk();
		struct manifest *m;

		c.e_tag = (char *)e_tags[i];
		assert_int_equal(decode_one(&c, &m), 0);
		assert_int_equal(m->chunks[0].flags, 0);
		manifest_free(m);
	}
}

static void assert_refused(FilerPb__FileChunk *c)
{
	struct manifest *m = NULL;

	assert_int_equal(decode_one(c, &m), -EPROTO);
	assert_null(m);
}

static void chunks_that_cannot_be_are_refused(void **state)
{
	(void)state;
	uint8_t key[CIPHER_KEY_BYTES + 1] = { 0 };
	FilerPb__FileChunk c = plain_chunk();

	c.offset = -1;
	assert_refused(&c);
	c = plain_chunk();
	c.offset = INT64_MAX - 9;
	assert_refused(&c);
	c = plain_chunk();
	c.size = UINT64_MAX;
	assert_refused(&c);
	c = plain_chunk();
	c.file_id = (char *)"3,zz";
	assert_refused(&c);
	c = plain_chunk();
	c.cipher_key.data = key;
	c.cipher_key.len = CIPHER_KEY_BYTES - 1;
	assert_refused(&c);
	c.cipher_key.len = CIPHER_KEY_BYTES + 1;
	assert_refused(&c);
	c = plain_chunk();
	c.sse_type = CHUNK_SSE_C;
	assert_refused(&c);
}

static void unknown_fields_are_skipped_and_malformed_ones_refused(void **state)
{
	(void)state;
	static const struct {
		uint8_t bytes[24];
		size_t len;
		int err;
	} cases[] = {
		{ { 0x10, 0x96, 0x01 }, 3, 0 }, /* varint */
		{ { 0x11, 1, 2, 3, 4, 5, 6, 7, 8 }, 9, 0 },
		{ { 0x15, 1, 2, 3, 4 }, 5, 0 },
		{ { 0x12, 2, 'a', 'b' }, 4, 0 },
		{ { 0x08, 0x01 }, 2, 0 }, /* the chunks' field as a varint */
		{ { 0x11, 1, 2, 3, 4, 5, 6, 7 }, 8, -EPROTO },
		{ { 0x15, 1, 2, 3 }, 4, -EPROTO },
		{ { 0x12, 3, 'a', 'b' }, 4, -EPROTO },
		{ { 0x13 }, 1, -EPROTO }, /* group */
		{ { 0x17 }, 1, -EPROTO }, /* no such type */
		{ { 0x02, 0x00 }, 2, -EPROTO }, /* field 0 */
		{ { 0x12, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01 },
		  11,
		  -EPROTO },
		{ { 0x10, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01 },
		  12,
		  -EPROTO },
	};

	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		struct manifest *m = NULL;
		int err = manifest_decode(cases[i].bytes, cases[i].len, 10, &m);

		manifest_free(m);
		if (err != cases[i].err)
			fail_msg("case %zu: %d", i, err);
	}
}

static void many_chunks_keep_their_order_and_keys(void **state)
{
	(void)state;
	static FilerPb__FileChunk chunks[MANY];
	static uint8_t keys[MANY][CIPHER_KEY_BYTES];
	FilerPb__FileChunk *list[MANY];
	FilerPb__FileChunkManifest pb = FILER_PB__FILE_CHUNK_MANIFEST__INIT;
	struct manifest *m;

	for (size_t i = 0; i < MANY; i++) {
		chunks[i] = plain_chunk();
		chunks[i].offset = (int64_t)i;
		memset(keys[i], (int)i, CIPHER_KEY_BYTES);
		chunks[i].cipher_key.data = keys[i];
		chunks[i].cipher_key.len = i % 3 ? CIPHER_KEY_BYTES : 0;
		list[i] = &chunks[i];
	}
	pb.n_chunks = MANY;
	pb.chunks = list;
	CLEANUP_FREE uint8_t *packed = malloc(filer_pb__file_chunk_manifest__get_packed_size(&pb));

	assert_non_null(packed);
	size_t len = filer_pb__file_chunk_manifest__pack(&pb, packed);

	assert_int_equal(manifest_decode(packed, len, MANY, &m), 0);
	assert_int_equal(m->n_chunks, MANY);
	for (size_t i = 0; i < MANY; i++) {
		assert_int_equal(m->chunks[i].offset, i);
		if (i % 3)
			assert_memory_equal(m->chunks[i].cipher_key, keys[i], CIPHER_KEY_BYTES);
		else
			assert_null(m->chunks[i].cipher_key);
	}
	manifest_free(m);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_fields_of_each_chunk_are_decoded),
		cmocka_unit_test(empty_manifest_has_no_chunks),
		cmocka_unit_test(every_truncation_but_the_one_between_chunks_is_refused),
		cmocka_unit_test(more_chunks_than_allowed_are_refused),
		cmocka_unit_test(chunk_without_fid_message_is_named_by_its_text),
		cmocka_unit_test(flags_and_key_are_kept),
		cmocka_unit_test(unparsable_e_tag_is_no_checksum),
		cmocka_unit_test(chunks_that_cannot_be_are_refused),
		cmocka_unit_test(unknown_fields_are_skipped_and_malformed_ones_refused),
		cmocka_unit_test(many_chunks_keep_their_order_and_keys),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
