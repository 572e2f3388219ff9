/* Chunk lists out of any bytes: the map must be well formed and show what the slow oracles show.
 *
 * Input: a byte of options, 8 bytes of file size, then for each chunk 10 bytes. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "filer/base/base.h"
#include "filer/chunkmap.h"
#include "tests/filer/chunkmap_oracle.h"

enum option {
	OPTION_WIDE = 1 << 0, /* offsets near multiples of 2^56, else small ones */
	OPTION_SIGNED_TIMES = 1 << 1,
	OPTION_MANIFESTS = 1 << 2,
};

#define HEADER_BYTES 9
#define CHUNK_BYTES 10

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static uint64_t little_endian(const uint8_t *p, unsigned n)
{
	uint64_t v = 0;

	for (unsigned i = 0; i < n; i++)
		v |= (uint64_t)p[i] << (8 * i);
	return v;
}

/* Three bytes: small numbers, or ones with their high byte set. */
static uint64_t place(const uint8_t *p, uint8_t options)
{
	if (options & OPTION_WIDE)
		return ((uint64_t)p[2] << 56) + (int16_t)little_endian(p, 2);
	return little_endian(p, 2) % ORACLE_BYTES_MAX;
}

static void check(bool ok)
{
	if (!ok)
		abort();
}

/* Gives any manifest the rest of the input as its content. */
struct rest {
	const uint8_t *p;
	size_t len;
};

static int read_rest(void *arg, const struct chunk *c, size_t max_bytes, struct deadline d,
		     uint8_t **ret, size_t *ret_len)
{
	const struct rest *rest = arg;
	uint8_t *copy = malloc(rest->len + 1);

	(void)c, (void)max_bytes, (void)d;
	if (!copy)
		return -ENOMEM;
	memcpy(copy, rest->p, rest->len);
	*ret = copy;
	*ret_len = rest->len;
	return 0;
}

static void check_map(const struct entry *e, const struct chunkmap *m, uint8_t options)
{
	struct extent extents[2 * ORACLE_CHUNKS_MAX];
	uint64_t at;

	check(oracle_well_formed(m));
	if (!(options & OPTION_MANIFESTS))
		check(oracle_same_extents(e, m, extents, oracle_filer(e, extents)));
	for (size_t i = 0; i < m->n_extents; i++) {
		const struct extent *x = &m->extents[i];

		check(chunkmap_find(m, x->offset) == i);
		check(chunkmap_find(m, x->offset + x->len - 1) == i);
		check(chunkmap_seek_data(m, x->offset, &at) == 0 && at == x->offset);
		check(chunkmap_seek_hole(m, x->offset, &at) == 0 && at >= x->offset + x->len);
		check(at == m->size || chunkmap_find(m, at) == m->n_extents ||
		      m->extents[chunkmap_find(m, at)].offset > at);
	}
	check(chunkmap_seek_data(m, m->size, &at) == -ENXIO);
	check(chunkmap_seek_hole(m, m->size, &at) == -ENXIO);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct chunk chunks[ORACLE_CHUNKS_MAX];
	struct entry e = { .chunks = chunks };
	struct chunkmap *m;
	uint8_t options;

	if (size < HEADER_BYTES)
		return 0;
	options = data[0];
	e.size = options & OPTION_WIDE ? little_endian(data + 1, 8) : (uint64_t)data[1] * 2;
	data += HEADER_BYTES;
	size -= HEADER_BYTES;
	for (; size >= CHUNK_BYTES && e.n_chunks < ORACLE_CHUNKS_MAX; size -= CHUNK_BYTES) {
		struct chunk *c = &chunks[e.n_chunks++];

		*c = (struct chunk){ .fid = { .volume_id = 1, .key = e.n_chunks },
				     .offset = place(data, options),
				     .size = place(data + 3, options),
				     .modified_ns = data[6] % 16 };
		if (options & OPTION_SIGNED_TIMES)
			c->modified_ns = (int64_t)(little_endian(data + 6, 3) << 40);
		if (options & OPTION_MANIFESTS && data[9] & 1)
			c->flags |= CHUNK_MANIFEST;
		data += CHUNK_BYTES;
	}

	struct rest rest = { data, size };
	int err = chunkmap_build(&e, read_rest, &rest, deadline_in_ms(1000), &m);

	check(err == 0 || err == -EPROTO);
	if (err)
		return 0;
	check_map(&e, m, options);
	chunkmap_free(m);
	return 0;
}
