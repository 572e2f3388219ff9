#include "fs/fill.h"

#include <errno.h>
#include <string.h>

#include "cache/slab.h"
#include "fs/fetch.h"
#include "fs/tier.h"

bool block_place_of(const struct chunk *c, uint64_t offset, size_t block_bytes,
		    struct block_place *ret)
{
	uint64_t index = offset / block_bytes;

	if (index > UINT32_MAX || offset >= c->size)
		return false;
	struct block_place place = { .key.index = (uint32_t)index, .start = index * block_bytes };

	place.bytes = min_u64(block_bytes, c->size - place.start);
	chunk_identity(c, place.key.id);
	*ret = place;
	return true;
}

void fill_init(struct fill *f, struct blockcache *cache, struct fetcher *fetcher,
	       const struct chunk *c)
{
	f->cache = cache;
	f->fetcher = fetcher;
	f->chunk = c;
	f->offset = 0;
	f->bytes = 0;
	f->counter = NULL;
	f->n_parts = 0;
}

bool fill_add(struct fill *f, uint64_t offset, struct fill_part part)
{
	if (f->n_parts == 0) {
		f->offset = offset;
		f->bytes = 0;
	} else if (f->n_parts == FILL_PARTS_MAX || offset != f->offset + f->bytes) {
		return false;
	}
	f->parts[f->n_parts++] = part;
	f->bytes += part.len;
	return true;
}

/* The block at offset, if it is missing and memory for it is to be had. */
static bool get_missing(struct fill *f, uint64_t offset, uint64_t max_bytes, struct fill_part *ret)
{
	struct block_place place;
	struct block *b;

	if (f->n_parts == FILL_PARTS_MAX ||
	    !block_place_of(f->chunk, offset, blockcache_block_bytes(f->cache), &place) ||
	    f->bytes + place.bytes > max_bytes)
		return false;
	switch (blockcache_get(f->cache, &place.key, place.bytes, true, &b)) {
	case BLOCK_FILL:
		*ret = (struct fill_part){ .block = b,
					   .ptr = b->data,
					   .len = place.bytes,
					   .region = SLAB_REGION,
					   .release = true };
		return true;
	case BLOCK_HIT:
	case BLOCK_WAIT:
		block_unpin(f->cache, b);
		return false;
	case BLOCK_BYPASS:
	case BLOCK_MISS:
		break;
	}
	return false;
}

void fill_extend(struct fill *f, uint64_t max_bytes)
{
	size_t block_bytes = blockcache_block_bytes(f->cache);
	struct fill_part part;
	uint64_t end;

	while ((end = f->offset + f->bytes) < f->chunk->size && end % block_bytes == 0 &&
	       get_missing(f, end, max_bytes, &part))
		fill_add(f, end, part);

	while (f->offset > 0 && f->offset % block_bytes == 0 &&
	       get_missing(f, f->offset - block_bytes, max_bytes, &part)) {
		memmove(&f->parts[1], &f->parts[0], f->n_parts * sizeof(f->parts[0]));
		f->parts[0] = part;
		f->n_parts++;
		f->offset -= part.len;
		f->bytes += part.len;
	}
}

void fill_end(struct fill *f, int err)
{
	for (size_t i = 0; i < f->n_parts; i++) {
		struct fill_part *p = &f->parts[i];

		if (!p->block)
			continue;
		block_filled(f->cache, p->block, p->len, err);
		if (p->release)
			block_unpin(f->cache, p->block);
	}
	f->n_parts = 0;
}

/* Before anybody but the filler sees them. */
static void offer_blocks(const struct fill *f)
{
	struct ssd *ssd = fetcher_ssd(f->fetcher);
	uint64_t offset = f->offset;

	if (!ssd)
		return;
	for (size_t i = 0; i < f->n_parts; i++) {
		const struct fill_part *p = &f->parts[i];

		if (p->block)
			tier_offer(ssd, f->cache, f->chunk, p->block, offset, p->len);
		offset += p->len;
	}
}

int fill_run(struct fill *f, struct deadline d)
{
	struct read_buf bufs[FILL_PARTS_MAX];
	size_t n = 0;

	for (size_t i = 0; i < f->n_parts; i++) {
		const struct fill_part *p = &f->parts[i];

		if (n > 0 && bufs[n - 1].ptr + bufs[n - 1].len == p->ptr &&
		    bufs[n - 1].region == p->region)
			bufs[n - 1].len += p->len;
		else
			bufs[n++] = (struct read_buf){ .ptr = p->ptr,
						       .len = p->len,
						       .region = p->region };
	}
	int err = n ? fetch_chunk(f->fetcher, f->chunk, f->offset, bufs, n, d) : 0;
	if (!err) {
		offer_blocks(f);
		if (f->counter)
			atomic_fetch_add_explicit(f->counter, f->bytes, memory_order_relaxed);
	}
	fill_end(f, err);
	return err;
}
