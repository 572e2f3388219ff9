#include "filer/decode.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <openssl/evp.h>
#include <zlib.h>

#include "filer/base/base.h"
#include "filer/entry.h"

/* A needle of an encrypted chunk: nonce, ciphertext, tag. */
#define NONCE_BYTES 12
#define TAG_BYTES 16

#define STAGE_BYTES (64 * KIB)
/* zlib: the greatest window, and a gzip header is expected */
#define GZIP_WINDOW_BITS (15 + 16)

/* Bytes go push → decrypt → inflate → deliver; stages that a chunk does not need are skipped. */
struct decoder {
	struct decode_spec spec; /* without the key and the MD5 */
	int err; /* the first failure; nothing is decoded after it */

	EVP_CIPHER_CTX *cipher; /* NULL: not encrypted */
	size_t nonce_len;
	size_t held_len;
	uint8_t nonce[NONCE_BYTES];
	uint8_t held[TAG_BYTES]; /* the last bytes so far: perhaps the tag */

	z_stream gzip; /* if spec.gzip */
	bool member_ended; /* here the stream may end, or another gzip member follows */

	EVP_MD_CTX *digest; /* NULL: no MD5 is known */
	uint8_t md5[CHUNK_MD5_BYTES];

	uint64_t plain_pos; /* plain bytes so far */
	uint64_t wanted; /* of these, delivered */
	size_t window; /* present one */
	size_t window_pos; /* in it */

	uint8_t clear[STAGE_BYTES];
	uint8_t inflated[STAGE_BYTES];
};

static int init_crypto(struct decoder *d, const struct decode_spec *spec)
{
	if (spec->cipher_key) {
		d->cipher = EVP_CIPHER_CTX_new();
		if (!d->cipher)
			return -ENOMEM;
		if (!EVP_DecryptInit_ex(d->cipher, EVP_aes_256_gcm(), NULL, spec->cipher_key, NULL))
			return -EIO;
	}
	if (spec->md5) {
		d->digest = EVP_MD_CTX_new();
		if (!d->digest)
			return -ENOMEM;
		if (!EVP_DigestInit_ex(d->digest, EVP_md5(), NULL))
			return -EIO;
		memcpy(d->md5, spec->md5, sizeof(d->md5));
	}
	return 0;
}

int decoder_new(const struct decode_spec *spec, struct decoder **ret)
{
	/* the stages need no zeroing */
	struct decoder *d = malloc(sizeof(*d));
	int err;

	if (!d)
		return -ENOMEM;
	memset(d, 0, offsetof(struct decoder, clear));
	err = init_crypto(d, spec);
	if (err)
		goto free_decoder;
	if (spec->gzip && inflateInit2(&d->gzip, GZIP_WINDOW_BITS) != Z_OK) {
		err = -ENOMEM;
		goto free_decoder;
	}
	d->spec = *spec;
	d->spec.cipher_key = NULL;
	d->spec.md5 = NULL;
	*ret = d;
	return 0;

free_decoder:
	decoder_free(d);
	return err;
}

/* Copies what falls into the windows. */
static void fill_windows(struct decoder *d, const uint8_t *p, size_t n)
{
	uint64_t start = d->spec.want_offset + d->wanted; /* of the next wanted byte */

	if (start < d->plain_pos || start - d->plain_pos >= n)
		return; /* all windows are full, or the first starts later */
	p += start - d->plain_pos;
	n -= start - d->plain_pos;
	while (n > 0 && d->window < d->spec.n_windows) {
		const struct decode_window *w = &d->spec.windows[d->window];
		size_t step = min_u64(n, w->len - d->window_pos);

		if (step == 0) {
			d->window++;
			d->window_pos = 0;
			continue;
		}
		memcpy(w->ptr + d->window_pos, p, step);
		p += step;
		n -= step;
		d->wanted += step;
		d->window_pos += step;
	}
}

static int deliver(struct decoder *d, const uint8_t *p, size_t n)
{
	if (n > d->spec.plain_limit - d->plain_pos)
		return -EPROTO;
	if (d->digest && !EVP_DigestUpdate(d->digest, p, n))
		return -EIO;
	fill_windows(d, p, n);
	d->plain_pos += n;
	return 0;
}

static int inflate_step(struct decoder *d)
{
	int zerr;

	if (d->member_ended)
		inflateReset(&d->gzip);
	d->gzip.next_out = d->inflated;
	d->gzip.avail_out = STAGE_BYTES;
	zerr = inflate(&d->gzip, Z_NO_FLUSH);
	if (zerr == Z_MEM_ERROR)
		return -ENOMEM;
	if (zerr != Z_OK && zerr != Z_STREAM_END)
		return -EPROTO;
	d->member_ended = zerr == Z_STREAM_END;
	return deliver(d, d->inflated, STAGE_BYTES - d->gzip.avail_out);
}

static int gunzip(struct decoder *d, const uint8_t *p, size_t n)
{
	d->gzip.next_in = (uint8_t *)p;
	d->gzip.avail_in = (uInt)n;
	/* What zlib holds back when its output is full comes with the next input: the trailer is read
	 * last, so there is some. */
	while (d->gzip.avail_in > 0) {
		int err = inflate_step(d);

		if (err)
			return err;
	}
	return 0;
}

static int unpack(struct decoder *d, const uint8_t *p, size_t n)
{
	if (n == 0)
		return 0;
	return d->spec.gzip ? gunzip(d, p, n) : deliver(d, p, n);
}

static int decrypt(struct decoder *d, const uint8_t *p, size_t n)
{
	while (n > 0) {
		size_t step = min_u64(n, STAGE_BYTES);
		int clear_len, err;

		if (!EVP_DecryptUpdate(d->cipher, d->clear, &clear_len, p, (int)step))
			return -EIO;
		err = unpack(d, d->clear, (size_t)clear_len);
		if (err)
			return err;
		p += step;
		n -= step;
	}
	return 0;
}

/* Decrypts all but the last TAG_BYTES of what came so far, for they may be the tag. */
static int decrypt_all_but_tag(struct decoder *d, const uint8_t *p, size_t n)
{
	size_t ready, from_held, from_p;
	int err;

	if (d->held_len + n <= TAG_BYTES) {
		memcpy(d->held + d->held_len, p, n);
		d->held_len += n;
		return 0;
	}
	ready = d->held_len + n - TAG_BYTES;
	from_held = min_u64(ready, d->held_len);
	from_p = ready - from_held;
	err = decrypt(d, d->held, from_held);
	if (!err)
		err = decrypt(d, p, from_p);
	if (err)
		return err;
	memmove(d->held, d->held + from_held, d->held_len - from_held);
	memcpy(d->held + d->held_len - from_held, p + from_p, n - from_p);
	d->held_len = TAG_BYTES;
	return 0;
}

static int push_encrypted(struct decoder *d, const uint8_t *p, size_t n)
{
	size_t step = min_u64(n, NONCE_BYTES - d->nonce_len);

	if (step > 0) {
		memcpy(d->nonce + d->nonce_len, p, step);
		d->nonce_len += step;
		if (d->nonce_len == NONCE_BYTES &&
		    !EVP_DecryptInit_ex(d->cipher, NULL, NULL, NULL, d->nonce))
			return -EIO;
	}
	return decrypt_all_but_tag(d, p + step, n - step);
}

int decoder_push(struct decoder *d, const uint8_t *p, size_t n)
{
	while (!d->err && n > 0) {
		size_t step = min_u64(n, STAGE_BYTES);

		d->err = d->cipher ? push_encrypted(d, p, step) : unpack(d, p, step);
		p += step;
		n -= step;
	}
	return d->err;
}

static int check_tag(struct decoder *d)
{
	int len;

	if (d->held_len < TAG_BYTES)
		return -EPROTO;
	if (!EVP_CIPHER_CTX_ctrl(d->cipher, EVP_CTRL_AEAD_SET_TAG, TAG_BYTES, d->held))
		return -EIO;
	return EVP_DecryptFinal_ex(d->cipher, d->clear, &len) > 0 ? 0 : -EBADMSG;
}

static int check_md5(struct decoder *d)
{
	uint8_t md5[EVP_MAX_MD_SIZE];

	if (!EVP_DigestFinal_ex(d->digest, md5, NULL))
		return -EIO;
	return memcmp(md5, d->md5, sizeof(d->md5)) == 0 ? 0 : -EBADMSG;
}

int decoder_finish(struct decoder *d, uint64_t *ret_wanted)
{
	if (!d->err && d->cipher)
		d->err = check_tag(d);
	if (!d->err && d->spec.gzip && !d->member_ended)
		d->err = -EPROTO;
	if (!d->err && d->digest)
		d->err = check_md5(d);
	if (!d->err)
		*ret_wanted = d->wanted;
	return d->err;
}

void decoder_free(struct decoder *d)
{
	if (!d)
		return;
	EVP_CIPHER_CTX_free(d->cipher); /* wipes the key */
	EVP_MD_CTX_free(d->digest);
	inflateEnd(&d->gzip); /* does nothing before inflateInit2() */
	free(d);
}
