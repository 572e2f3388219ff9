#include "filer/manifest.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "filer.pb-c.h"
#include "filer/entry_build.h"
#include "filer/json.h"

/* FileChunkManifest.chunks */
#define CHUNKS_FIELD 1
#define VARINT_BYTES_MAX 10

enum wire_type {
	WIRE_VARINT = 0,
	WIRE_FIXED64 = 1,
	WIRE_BYTES = 2,
	WIRE_FIXED32 = 5,
};

/* What is left of the manifest. The list is walked by hand and only its elements are unpacked by
 * protobuf-c: unpacking the whole would cost some hundred bytes of memory for every two of a hostile
 * manifest. */
struct cursor {
	const uint8_t *p;
	size_t left;
};

static int take_varint(struct cursor *c, uint64_t *ret)
{
	uint64_t v = 0;

	for (unsigned i = 0; i < VARINT_BYTES_MAX && i < c->left; i++) {
		v |= (uint64_t)(c->p[i] & 0x7f) << (7 * i);
		if (c->p[i] & 0x80)
			continue;
		c->p += i + 1;
		c->left -= i + 1;
		*ret = v;
		return 0;
	}
	return -EPROTO;
}

static int take_bytes(struct cursor *c, uint64_t n, const uint8_t **ret)
{
	if (n > c->left)
		return -EPROTO;
	*ret = c->p;
	c->p += n;
	c->left -= n;
	return 0;
}

/* Steps over fields that are not chunks. Returns 1 and the next serialized FileChunk, 0 at the end of
 * the manifest, or -EPROTO. */
static int next_chunk(struct cursor *c, const uint8_t **ret, size_t *ret_len)
{
	while (c->left > 0) {
		uint64_t tag, n;
		const uint8_t *p;
		int err = take_varint(c, &tag);

		if (err)
			return err;
		if (tag >> 3 == 0)
			return -EPROTO;
		switch (tag & 7) {
		case WIRE_VARINT:
			err = take_varint(c, &n);
			break;
		case WIRE_FIXED64:
			err = take_bytes(c, 8, &p);
			break;
		case WIRE_FIXED32:
			err = take_bytes(c, 4, &p);
			break;
		case WIRE_BYTES:
			err = take_varint(c, &n);
			if (!err)
				err = take_bytes(c, n, &p);
			if (!err && tag >> 3 == CHUNKS_FIELD) {
				*ret = p;
				*ret_len = (size_t)n;
				return 1;
			}
			break;
		default:
			err = -EPROTO;
		}
		if (err)
			return err;
	}
	return 0;
}

static int count_chunks(const uint8_t *pb, size_t len, size_t chunks_max, size_t *ret)
{
	struct cursor c = { .p = pb, .left = len };
	const uint8_t *p;
	size_t p_len, n = 0;
	int more;

	while ((more = next_chunk(&c, &p, &p_len)) > 0) {
		if (++n > chunks_max)
			return -EPROTO;
	}
	if (more < 0)
		return more;
	*ret = n;
	return 0;
}

/* key: where to keep the cipher key, if there is one. Overwrites the e_tag. */
static int chunk_of(FilerPb__FileChunk *pb, uint8_t key[CIPHER_KEY_BYTES], struct chunk *ret)
{
	struct wire_chunk w = {
		.offset = pb->offset,
		.size = pb->size,
		.modified_ns = pb->modified_ts_ns,
		.md5.p = pb->e_tag,
		.cipher_key = { pb->cipher_key.data, pb->cipher_key.len },
		.gzip = pb->is_compressed,
		.manifest = pb->is_chunk_manifest,
	};
	struct chunk c;

	/* Which encrypted files can be read is decided by the entry, and no writer puts their chunks
	 * into manifests. */
	if (pb->sse_type != CHUNK_SSE_NONE)
		return -EPROTO;
	if (pb->fid)
		w.fid = (struct fid){ .key = pb->fid->file_key,
				      .volume_id = pb->fid->volume_id,
				      .cookie = pb->fid->cookie };
	else
		w.file_id = (struct wire_bytes){ pb->file_id, strlen(pb->file_id) };
	(void)json_base64(pb->e_tag, &w.md5.len); /* other text: no checksum */
	if (wire_chunk_decode(&w, &c))
		return -EPROTO;
	if (c.cipher_key) {
		memcpy(key, c.cipher_key, CIPHER_KEY_BYTES);
		c.cipher_key = key;
	}
	*ret = c;
	return 0;
}

static int decode_chunks(const uint8_t *pb, size_t len, struct manifest *m)
{
	struct cursor c = { .p = pb, .left = len };
	const uint8_t *p = NULL;
	size_t p_len = 0;
	int err = 0;

	for (size_t i = 0; !err && next_chunk(&c, &p, &p_len) > 0; i++) {
		FilerPb__FileChunk *chunk = filer_pb__file_chunk__unpack(NULL, p_len, p);

		if (!chunk)
			return -EPROTO;
		err = chunk_of(chunk, m->keys + i * CIPHER_KEY_BYTES, &m->chunks[i]);
		filer_pb__file_chunk__free_unpacked(chunk, NULL);
	}
	return err;
}

int manifest_decode(const uint8_t *pb, size_t len, size_t chunks_max, struct manifest **ret)
{
	struct manifest *m;
	size_t n;
	int err = count_chunks(pb, len, chunks_max, &n);

	if (err)
		return err;
	m = calloc(1, sizeof(*m));
	if (!m)
		return -ENOMEM;
	m->n_chunks = n;
	m->chunks = calloc(n ? n : 1, sizeof(*m->chunks));
	m->keys = calloc(n ? n : 1, CIPHER_KEY_BYTES);
	err = m->chunks && m->keys ? decode_chunks(pb, len, m) : -ENOMEM;
	if (err) {
		manifest_free(m);
		return err;
	}
	*ret = m;
	return 0;
}

void manifest_free(struct manifest *m)
{
	if (!m)
		return;
	free(m->chunks);
	free(m->keys);
	free(m);
}
