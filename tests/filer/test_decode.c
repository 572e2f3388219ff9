#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <openssl/evp.h>
#include <zlib.h>

#include "filer/base/base.h"
#include "filer/decode.h"
#include "filer/entry.h"

#define NONCE_BYTES 12
#define TAG_BYTES 16
/* More than the decoder's stages, and no multiple of them. */
#define PLAIN_BYTES (300 * KIB + 7)
#define NO_LIMIT UINT64_MAX

/* What a writer does: the plain text, gzip of it, either of them encrypted. */
struct fixture {
	uint8_t key[CIPHER_KEY_BYTES];
	uint8_t md5[CHUNK_MD5_BYTES];
	uint8_t plain[PLAIN_BYTES];
	uint8_t *zipped, *sealed, *zipped_sealed;
	size_t zipped_len, sealed_len, zipped_sealed_len;
};

static uint8_t *zip(const uint8_t *p, size_t n, size_t *ret_len)
{
	z_stream z = { .next_in = (uint8_t *)p, .avail_in = (uInt)n };

	assert_int_equal(deflateInit2(&z, 6, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY), Z_OK);
	size_t room = deflateBound(&z, n);
	uint8_t *out = malloc(room);

	assert_non_null(out);
	z.next_out = out;
	z.avail_out = (uInt)room;
	assert_int_equal(deflate(&z, Z_FINISH), Z_STREAM_END);
	*ret_len = z.total_out;
	deflateEnd(&z);
	return out;
}

static uint8_t *seal(const uint8_t *key, const uint8_t *p, size_t n, size_t *ret_len)
{
	EVP_CIPHER_CTX *c = EVP_CIPHER_CTX_new();
	uint8_t *out = malloc(NONCE_BYTES + n + TAG_BYTES);
	int len = 0, last;

	assert_non_null(out);
	memset(out, 0x42, NONCE_BYTES);
	assert_true(EVP_EncryptInit_ex(c, EVP_aes_256_gcm(), NULL, key, out));
	if (n > 0)
		assert_true(EVP_EncryptUpdate(c, out + NONCE_BYTES, &len, p, (int)n));
	assert_int_equal(len, n);
	assert_true(EVP_EncryptFinal_ex(c, out + NONCE_BYTES + n, &last));
	assert_true(
		EVP_CIPHER_CTX_ctrl(c, EVP_CTRL_AEAD_GET_TAG, TAG_BYTES, out + NONCE_BYTES + n));
	EVP_CIPHER_CTX_free(c);
	*ret_len = NONCE_BYTES + n + TAG_BYTES;
	return out;
}

static int make_fixture(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	uint32_t x = 1;

	assert_non_null(f);
	for (size_t i = 0; i < sizeof(f->key); i++)
		f->key[i] = (uint8_t)(i * 7);
	for (size_t i = 0; i < PLAIN_BYTES; i++) {
		x = x * 1664525 + 1013904223;
		f->plain[i] = (uint8_t)(x >> 28); /* compresses to about a half */
	}
	assert_true(EVP_Digest(f->plain, PLAIN_BYTES, f->md5, NULL, EVP_md5(), NULL));
	f->zipped = zip(f->plain, PLAIN_BYTES, &f->zipped_len);
	f->sealed = seal(f->key, f->plain, PLAIN_BYTES, &f->sealed_len);
	f->zipped_sealed = seal(f->key, f->zipped, f->zipped_len, &f->zipped_sealed_len);
	*state = f;
	return 0;
}

static int free_fixture(void **state)
{
	struct fixture *f = *state;

	free(f->zipped);
	free(f->sealed);
	free(f->zipped_sealed);
	free(f);
	return 0;
}

/* Decodes in pushes of step bytes; returns the first failure. */
static int run(const struct decode_spec *spec, const uint8_t *p, size_t n, size_t step,
	       uint64_t *ret_wanted)
{
	struct decoder *d;
	int err = decoder_new(spec, &d);

	assert_int_equal(err, 0);
	for (size_t at = 0; !err && at < n; at += step) {
		err = decoder_push(d, p + at, min_u64(step, n - at));
		assert_int_not_equal(err, -EBADMSG);
	}
	int finished = decoder_finish(d, ret_wanted);

	assert_true(err == 0 || finished == err);
	decoder_free(d);
	return finished;
}

static void assert_decodes(const struct fixture *f, bool encrypted, bool gzip, const uint8_t *p,
			   size_t n)
{
	static const size_t steps[] = { 1, 11, 12, 13, 28, 29, 4096, 65536, 65537, 1 << 20 };
	static uint8_t out[PLAIN_BYTES];

	for (size_t i = 0; i < ARRAY_LEN(steps); i++) {
		const struct decode_window w = { out, sizeof(out) };
		const struct decode_spec spec = { .cipher_key = encrypted ? f->key : NULL,
						  .gzip = gzip,
						  .plain_limit = PLAIN_BYTES,
						  .windows = &w,
						  .n_windows = 1,
						  .md5 = f->md5 };
		uint64_t wanted = 0;

		memset(out, 0, sizeof(out));
		assert_int_equal(run(&spec, p, n, steps[i], &wanted), 0);
		assert_int_equal(wanted, PLAIN_BYTES);
		assert_memory_equal(out, f->plain, PLAIN_BYTES);
	}
}

static void plain_bytes_pass(void **state)
{
	const struct fixture *f = *state;

	assert_decodes(f, false, false, f->plain, PLAIN_BYTES);
}

static void gzip_is_inflated_however_it_is_cut(void **state)
{
	const struct fixture *f = *state;

	assert_decodes(f, false, true, f->zipped, f->zipped_len);
}

static void ciphertext_is_decrypted_however_it_is_cut(void **state)
{
	const struct fixture *f = *state;

	assert_decodes(f, true, false, f->sealed, f->sealed_len);
}

static void encrypted_gzip_is_decrypted_then_inflated(void **state)
{
	const struct fixture *f = *state;

	assert_decodes(f, true, true, f->zipped_sealed, f->zipped_sealed_len);
}

static void several_gzip_members_are_one_text(void **state)
{
	const struct fixture *f = *state;
	const size_t cut = PLAIN_BYTES / 3;
	size_t a_len, b_len, empty_len;
	CLEANUP_FREE uint8_t *a = zip(f->plain, cut, &a_len);
	CLEANUP_FREE uint8_t *b = zip(f->plain + cut, PLAIN_BYTES - cut, &b_len);
	CLEANUP_FREE uint8_t *empty = zip(f->plain, 0, &empty_len);
	uint8_t *all = malloc(a_len + empty_len + b_len);

	assert_non_null(all);
	memcpy(all, a, a_len);
	memcpy(all + a_len, empty, empty_len);
	memcpy(all + a_len + empty_len, b, b_len);
	assert_decodes(f, false, true, all, a_len + empty_len + b_len);
	free(all);
}

static void bytes_after_the_gzip_stream_are_refused(void **state)
{
	const struct fixture *f = *state;
	uint8_t *more = calloc(1, f->zipped_len + 20);
	const struct decode_spec spec = { .gzip = true, .plain_limit = NO_LIMIT };
	uint64_t wanted;

	assert_non_null(more);
	memcpy(more, f->zipped, f->zipped_len);
	assert_int_equal(run(&spec, more, f->zipped_len + 20, KIB, &wanted), -EPROTO);
	free(more);
}

static void empty_needles_decode_to_nothing(void **state)
{
	const struct fixture *f = *state;
	uint64_t wanted = 7;
	size_t sealed_len, zipped_len;
	CLEANUP_FREE uint8_t *sealed = seal(f->key, f->plain, 0, &sealed_len);
	CLEANUP_FREE uint8_t *zipped = zip(f->plain, 0, &zipped_len);
	struct decode_spec spec = { .plain_limit = 0 };

	assert_int_equal(run(&spec, f->plain, 0, 1, &wanted), 0);
	assert_int_equal(wanted, 0);
	spec.gzip = true;
	assert_int_equal(run(&spec, zipped, zipped_len, 5, &wanted), 0);
	spec.gzip = false;
	spec.cipher_key = f->key;
	assert_int_equal(run(&spec, sealed, sealed_len, 5, &wanted), 0);
}

static void windows_get_the_wanted_part_and_nothing_else(void **state)
{
	const struct fixture *f = *state;
	const size_t starts[] = { 0, 1, 65535, 65536, 100000, PLAIN_BYTES - 190 };
	const struct {
		const uint8_t *p;
		size_t n;
		bool encrypted, gzip;
	} forms[] = { { f->plain, PLAIN_BYTES, false, false },
		      { f->sealed, f->sealed_len, true, false },
		      { f->zipped_sealed, f->zipped_sealed_len, true, true } };

	for (size_t i = 0; i < ARRAY_LEN(starts) * ARRAY_LEN(forms); i++) {
		const size_t start = starts[i % ARRAY_LEN(starts)], form = i / ARRAY_LEN(starts);
		uint8_t a[100], b[1], c[89];
		const struct decode_window w[] = {
			{ a, sizeof(a) }, { NULL, 0 }, { b, 1 }, { c, sizeof(c) }, { NULL, 0 }
		};
		const struct decode_spec spec = {
			.cipher_key = forms[form].encrypted ? f->key : NULL,
			.gzip = forms[form].gzip,
			.plain_limit = NO_LIMIT,
			.want_offset = start,
			.windows = w,
			.n_windows = ARRAY_LEN(w),
		};
		uint64_t wanted = 0;

		assert_int_equal(run(&spec, forms[form].p, forms[form].n, 1000, &wanted), 0);
		assert_int_equal(wanted, 190);
		assert_memory_equal(a, f->plain + start, 100);
		assert_memory_equal(b, f->plain + start + 100, 1);
		assert_memory_equal(c, f->plain + start + 101, 89);
	}
}

static void needle_shorter_than_the_windows_is_counted(void **state)
{
	const struct fixture *f = *state;
	uint8_t a[100], b[100];
	const struct decode_window w[] = { { a, sizeof(a) }, { b, sizeof(b) } };
	struct decode_spec spec = { .plain_limit = NO_LIMIT,
				    .want_offset = PLAIN_BYTES - 150,
				    .windows = w,
				    .n_windows = 2 };
	uint64_t wanted = 7;

	memset(b, 0xee, sizeof(b));
	assert_int_equal(run(&spec, f->plain, PLAIN_BYTES, KIB, &wanted), 0);
	assert_int_equal(wanted, 150);
	assert_memory_equal(b, f->plain + PLAIN_BYTES - 50, 50);
	assert_int_equal(b[50], 0xee);
	spec.want_offset = UINT64_MAX - 10;
	assert_int_equal(run(&spec, f->plain, PLAIN_BYTES, KIB, &wanted), 0);
	assert_int_equal(wanted, 0);
}

static void any_changed_byte_of_an_encrypted_needle_is_found(void **state)
{
	const struct fixture *f = *state;
	const struct decode_spec spec = { .cipher_key = f->key, .plain_limit = NO_LIMIT };
	size_t n;
	CLEANUP_FREE uint8_t *sealed = seal(f->key, f->plain, 50, &n);
	uint64_t wanted = 7;

	for (size_t i = 0; i < n; i++) {
		sealed[i] ^= 1;
		assert_int_equal(run(&spec, sealed, n, 9, &wanted), -EBADMSG);
		sealed[i] ^= 1;
	}
	assert_int_equal(run(&spec, sealed, n, 9, &wanted), 0);
}

static void another_key_does_not_open_it(void **state)
{
	const struct fixture *f = *state;
	uint8_t key[CIPHER_KEY_BYTES] = { 0 };
	const struct decode_spec spec = { .cipher_key = key, .plain_limit = NO_LIMIT };
	uint64_t wanted;

	assert_int_equal(run(&spec, f->sealed, f->sealed_len, KIB, &wanted), -EBADMSG);
}

static void encrypted_needle_without_room_for_nonce_and_tag_is_refused(void **state)
{
	const struct fixture *f = *state;
	const struct decode_spec spec = { .cipher_key = f->key, .plain_limit = NO_LIMIT };

	for (size_t n = 0; n < NONCE_BYTES + TAG_BYTES; n++) {
		uint64_t wanted = 7;

		assert_int_equal(run(&spec, f->sealed, n, 5, &wanted), -EPROTO);
		assert_int_equal(wanted, 7);
	}
}

static void gzip_that_ends_early_is_refused(void **state)
{
	const struct fixture *f = *state;
	const struct decode_spec spec = { .gzip = true, .plain_limit = NO_LIMIT };
	const size_t lens[] = { 0, 1, 9, 10, 1000, f->zipped_len - 8, f->zipped_len - 1 };
	uint64_t wanted;

	for (size_t i = 0; i < ARRAY_LEN(lens); i++)
		assert_int_equal(run(&spec, f->zipped, lens[i], KIB, &wanted), -EPROTO);
}

static void damaged_gzip_is_refused_and_so_is_its_trailer(void **state)
{
	const struct fixture *f = *state;
	const struct decode_spec spec = { .gzip = true, .plain_limit = NO_LIMIT };
	const size_t places[] = { 0, 2, f->zipped_len / 2, f->zipped_len - 8, f->zipped_len - 1 };
	uint64_t wanted;

	for (size_t i = 0; i < ARRAY_LEN(places); i++) {
		f->zipped[places[i]] ^= 0xff;
		assert_int_equal(run(&spec, f->zipped, f->zipped_len, KIB, &wanted), -EPROTO);
		f->zipped[places[i]] ^= 0xff;
	}
}

static void inflate_bomb_is_stopped_at_the_limit(void **state)
{
	(void)state;
	const size_t size = 64 * MIB;
	CLEANUP_FREE uint8_t *zeros = calloc(1, size);
	size_t n;

	assert_non_null(zeros);
	CLEANUP_FREE uint8_t *bomb = zip(zeros, size, &n);
	struct decode_spec spec = { .gzip = true, .plain_limit = size - 1 };
	uint64_t wanted;

	assert_true(n < size / 500);
	assert_int_equal(run(&spec, bomb, n, n, &wanted), -EPROTO);
	spec.plain_limit = size;
	assert_int_equal(run(&spec, bomb, n, n, &wanted), 0);
}

static void plain_bytes_beyond_the_limit_are_refused(void **state)
{
	const struct fixture *f = *state;
	const struct decode_spec spec = { .plain_limit = PLAIN_BYTES - 1 };
	uint64_t wanted;

	assert_int_equal(run(&spec, f->plain, PLAIN_BYTES, KIB, &wanted), -EPROTO);
}

static void wrong_md5_is_found(void **state)
{
	const struct fixture *f = *state;
	uint8_t md5[CHUNK_MD5_BYTES];
	const struct decode_spec spec = { .gzip = true, .plain_limit = NO_LIMIT, .md5 = md5 };
	uint64_t wanted;

	memcpy(md5, f->md5, sizeof(md5));
	md5[CHUNK_MD5_BYTES - 1] ^= 1;
	assert_int_equal(run(&spec, f->zipped, f->zipped_len, KIB, &wanted), -EBADMSG);
}

static void nothing_is_decoded_after_a_failure(void **state)
{
	const struct fixture *f = *state;
	const struct decode_spec spec = { .plain_limit = 10 };
	struct decoder *d;
	uint64_t wanted = 7;

	assert_int_equal(decoder_new(&spec, &d), 0);
	assert_int_equal(decoder_push(d, f->plain, 11), -EPROTO);
	assert_int_equal(decoder_push(d, f->plain, 1), -EPROTO);
	assert_int_equal(decoder_finish(d, &wanted), -EPROTO);
	assert_int_equal(wanted, 7);
	decoder_free(d);
	decoder_free(NULL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(plain_bytes_pass),
		cmocka_unit_test(gzip_is_inflated_however_it_is_cut),
		cmocka_unit_test(ciphertext_is_decrypted_however_it_is_cut),
		cmocka_unit_test(encrypted_gzip_is_decrypted_then_inflated),
		cmocka_unit_test(several_gzip_members_are_one_text),
		cmocka_unit_test(bytes_after_the_gzip_stream_are_refused),
		cmocka_unit_test(empty_needles_decode_to_nothing),
		cmocka_unit_test(windows_get_the_wanted_part_and_nothing_else),
		cmocka_unit_test(needle_shorter_than_the_windows_is_counted),
		cmocka_unit_test(any_changed_byte_of_an_encrypted_needle_is_found),
		cmocka_unit_test(another_key_does_not_open_it),
		cmocka_unit_test(encrypted_needle_without_room_for_nonce_and_tag_is_refused),
		cmocka_unit_test(gzip_that_ends_early_is_refused),
		cmocka_unit_test(damaged_gzip_is_refused_and_so_is_its_trailer),
		cmocka_unit_test(inflate_bomb_is_stopped_at_the_limit),
		cmocka_unit_test(plain_bytes_beyond_the_limit_are_refused),
		cmocka_unit_test(wrong_md5_is_found),
		cmocka_unit_test(nothing_is_decoded_after_a_failure),
	};

	return cmocka_run_group_tests(tests, make_fixture, free_fixture);
}
