/* Plain bytes of a chunk from wherever they can be had: the one place that knows the order of
 * sources (agents, volume servers, the filer's proxy), replicas, breakers, refreshed locations and
 * the total time limit, and that decodes what is stored compressed or encrypted.
 *
 * Thread-safe. */
#ifndef KELP_FETCH_H
#define KELP_FETCH_H

#include <stddef.h>
#include <stdint.h>

#include "filer/chunkmap.h"
#include "filer/entry.h"
#include "filer/source.h"
#include "fs/latency.h"

struct location_set;
struct locator;
struct fetcher;
struct scratch;
struct server;
struct ssd;

#define FETCH_SOURCES_MAX 8

struct fetch_config {
	const struct source *sources; /* in the order in which they are tried; copied */
	size_t n_sources;
	struct locator *locator;
	bool verify_md5; /* check e_tag where whole chunks are decoded */
};

struct fetch_stats {
	struct {
		const char *name;
		uint64_t reads, bytes, failures; /* bytes: also of those that failed half-way */
		struct latency_counts latency; /* of those that did not fail */
	} source[FETCH_SOURCES_MAX]; /* in order; an SSD tier, where there is one, is the first */
	size_t n_sources;
	uint64_t failed; /* reads that no source could serve */
};

int fetcher_new(const struct fetch_config *cfg, struct fetcher **ret);
void fetcher_free(struct fetcher *f);

/* An SSD tier is asked before all sources, and stays the caller's. Only before the first fetch. */
void fetcher_set_ssd(struct fetcher *f, struct ssd *ssd);
struct ssd *fetcher_ssd(const struct fetcher *f);
/* Where needles that have to be decoded may lie meanwhile; stays the caller's. Likewise. Without it, or room
 * in it, a source that needs memory for that takes it from the heap. */
void fetcher_set_scratch(struct fetcher *f, struct scratch *s);

/* Is a range of this chunk readable by itself, or only the whole needle? */
static inline bool chunk_is_encoded(const struct chunk *c)
{
	return c->cipher_key != NULL || (c->flags & CHUNK_GZIP) != 0;
}

/* Fills bufs with plain bytes [offset, offset + sum of lens) of the chunk. All or nothing. A needle
 * that is shorter than chunk->size claims gives -EIO. bufs changes during the call and is put right
 * before it returns. Returns 0, -ENOENT: every place that could have it says it is gone (the caller
 * looks the entry up again), -EIO, -ETIMEDOUT, -EACCES, -ENOMEM. Never takes longer than d. */
int fetch_chunk(struct fetcher *f, const struct chunk *c, uint64_t offset, struct read_buf *bufs,
		size_t n_bufs, struct deadline d);

/* A needle that no entry describes: how long it is and whether it is stored compressed is not known. It
 * is not encrypted, as far as anybody can tell. */
struct fetch_needle {
	struct fid fid;
	struct location_set
		*places; /* the servers that are asked; borrowed. NULL: as the masters say */
	const struct server *first; /* asked before the others; NULL: any */

	/* Out, as far as the fetches so far told; initially zero. */
	const char *source; /* the source that gave the last bytes */
	bool gzip; /* stored compressed */
	uint64_t plain_bytes; /* of all of it, not compressed; 0: not known */
	bool ended; /* the last fetch failed because the needle ends before the range does */
};

/* As fetch_chunk(). */
int fetch_needle_range(struct fetcher *f, struct fetch_needle *n, uint64_t offset,
		       struct read_buf *bufs, size_t n_bufs, struct deadline d);

/* All plain bytes, malloced; they match the needle's checksum. -EFBIG: more than max_bytes. */
int fetch_needle_whole(struct fetcher *f, struct fetch_needle *n, size_t max_bytes,
		       struct deadline d, uint8_t **ret, size_t *ret_len);

/* Fills bufs likewise, but only from the SSD tier. False: not all of it is there. */
bool fetch_kept(struct fetcher *f, const struct chunk *c, uint64_t offset, struct read_buf *bufs,
		size_t n_bufs);

#define FETCH_BATCH_MAX 32

/* Fills bufs of up to FETCH_BATCH_MAX plain chunks, in as few exchanges as the sources offer. Best effort:
 * each is tried once at each source, and whatever fails (err is set) is for fetch_chunk(). done is called once
 * for each, as soon as its err is known; range.fid must be its chunk's. */
void fetch_batch(struct fetcher *f, struct needle_item *items, size_t n,
		 void (*done)(void *arg, struct needle_item *item), void *arg, struct deadline d);

/* chunkmap_read_manifest over a fetcher (arg). */
int fetch_manifest(void *fetcher, const struct chunk *manifest, size_t max_bytes, struct deadline d,
		   uint8_t **ret, size_t *ret_len);

void fetcher_stats(struct fetcher *f, struct fetch_stats *ret);

#endif
