/* Needles out of any bytes: pushed whole and in pieces they must give the same, and what is sealed here
 * must open again.
 *
 * Input: a byte of options, a byte for the pieces' length, a byte for the window, then the needle. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <openssl/evp.h>

#include "filer/base/base.h"
#include "filer/decode.h"
#include "filer/entry.h"

enum option {
	OPTION_ENCRYPTED = 1 << 0,
	OPTION_GZIP = 1 << 1,
	OPTION_MD5 = 1 << 2,
	OPTION_LOW_LIMIT = 1 << 3,
	OPTION_SEAL = 1 << 4, /* encrypt the input first, so that what it holds gets past the tag */
};

#define HEADER_BYTES 3
#define NONCE_BYTES 12
#define TAG_BYTES 16
#define OUT_BYTES 4096
#define LOW_LIMIT_BYTES 1000
#define LIMIT_BYTES (1 << 20)
#define INPUT_MAX (1 << 16)

static const uint8_t key[CIPHER_KEY_BYTES] = "any key of 32 bytes serves here";

struct outcome {
	int err;
	uint64_t wanted;
	uint8_t out[OUT_BYTES];
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(bool ok)
{
	if (!ok)
		abort();
}

static size_t seal(const uint8_t *p, size_t n, uint8_t *out)
{
	EVP_CIPHER_CTX *c = EVP_CIPHER_CTX_new();
	int len;

	memset(out, 1, NONCE_BYTES);
	check(c && EVP_EncryptInit_ex(c, EVP_aes_256_gcm(), NULL, key, out));
	check(n == 0 || EVP_EncryptUpdate(c, out + NONCE_BYTES, &len, p, (int)n));
	check(EVP_EncryptFinal_ex(c, out + NONCE_BYTES + n, &len));
	check(EVP_CIPHER_CTX_ctrl(c, EVP_CTRL_AEAD_GET_TAG, TAG_BYTES, out + NONCE_BYTES + n));
	EVP_CIPHER_CTX_free(c);
	return NONCE_BYTES + n + TAG_BYTES;
}

static void decode(struct decode_spec spec, size_t first_window, const uint8_t *p, size_t n,
		   size_t step, struct outcome *ret)
{
	const struct decode_window w[] = { { ret->out, first_window },
					   { ret->out + first_window, OUT_BYTES - first_window } };
	struct decoder *d;

	memset(ret, 0, sizeof(*ret));
	spec.windows = w;
	spec.n_windows = ARRAY_LEN(w);
	check(decoder_new(&spec, &d) == 0);
	for (size_t at = 0; at < n; at += step)
		decoder_push(d, p + at, min_u64(step, n - at));
	ret->err = decoder_finish(d, &ret->wanted);
	check(ret->err == 0 || ret->err == -EPROTO || ret->err == -EBADMSG);
	check(ret->wanted <= OUT_BYTES);
	decoder_free(d);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static uint8_t sealed[NONCE_BYTES + INPUT_MAX + TAG_BYTES], md5[EVP_MAX_MD_SIZE];
	static struct outcome whole, pieces;

	if (size < HEADER_BYTES || size > INPUT_MAX)
		return 0;

	const uint8_t options = data[0];
	const size_t step = data[1] + 1U, first_window = data[2];
	struct decode_spec spec = {
		.cipher_key = options & OPTION_ENCRYPTED ? key : NULL,
		.gzip = options & OPTION_GZIP,
		.plain_limit = options & OPTION_LOW_LIMIT ? LOW_LIMIT_BYTES : LIMIT_BYTES,
		.want_offset = (uint64_t)data[2] * 3,
		.md5 = options & OPTION_MD5 ? md5 : NULL,
	};
	const uint8_t *needle = data + HEADER_BYTES;
	size_t n = size - HEADER_BYTES, plain_len = n;

	check(EVP_Digest(needle, n, md5, NULL, EVP_md5(), NULL));
	if (options & OPTION_ENCRYPTED && options & OPTION_SEAL) {
		n = seal(needle, n, sealed);
		needle = sealed;
	}
	decode(spec, first_window, needle, n, n + 1, &whole);
	decode(spec, OUT_BYTES - first_window, needle, n, step, &pieces);
	check((whole.err == 0) == (pieces.err == 0));
	if (whole.err == 0) {
		check(whole.wanted == pieces.wanted);
		check(memcmp(whole.out, pieces.out, OUT_BYTES) == 0);
	}
	if (needle == sealed && !spec.gzip && plain_len <= spec.plain_limit) {
		const uint64_t start = min_u64(spec.want_offset, plain_len);

		check(whole.err == 0);
		check(whole.wanted == min_u64(OUT_BYTES, plain_len - start));
		check(memcmp(whole.out, data + HEADER_BYTES + start, whole.wanted) == 0);
	}
	return 0;
}
