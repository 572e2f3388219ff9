/* Stored bytes to plain bytes: AES-256-GCM, then gzip, as a stream in bounded memory.
 *
 * The caller pushes the needle's stored bytes in order; the decoder writes those plain bytes that
 * fall into the wanted windows into the caller's buffers and drops the rest. Nothing that came out
 * may be used before decoder_finish() returned 0: only then is the GCM tag or the gzip trailer
 * verified. Not thread-safe. */
#ifndef KELP_DECODE_H
#define KELP_DECODE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct decoder;

/* One contiguous destination; windows follow each other in the plain bytes. */
struct decode_window {
	uint8_t *ptr;
	size_t len;
};

struct decode_spec {
	const uint8_t *cipher_key; /* CIPHER_KEY_BYTES or NULL */
	bool gzip;
	uint64_t plain_limit; /* guard against inflate bombs: more plain bytes are -EPROTO */
	uint64_t want_offset; /* plain offset at which the first window starts */
	const struct decode_window *windows; /* must outlive the decoder */
	size_t n_windows;
	/* CHUNK_MD5_BYTES of all plain bytes, or NULL. A chunk that was trimmed by truncation keeps
	 * the MD5 of its whole needle. */
	const uint8_t *md5;
};

/* Returns 0, -ENOMEM, -EIO (crypto library). */
int decoder_new(const struct decode_spec *spec, struct decoder **ret);

/* Returns 0, -EPROTO (malformed gzip, its trailer included; too many bytes), -ENOMEM, -EIO. After a
 * failure the decoder takes nothing more, and finish returns the same. */
int decoder_push(struct decoder *d, const uint8_t *p, size_t n);

/* No more input. Returns 0; -EBADMSG: the tag or the MD5 does not match; -EPROTO: ended early.
 * *ret_wanted: how many wanted bytes there were (less than asked if the needle is short). */
int decoder_finish(struct decoder *d, uint64_t *ret_wanted);

/* Takes NULL; keys are wiped. */
void decoder_free(struct decoder *d);

#endif
