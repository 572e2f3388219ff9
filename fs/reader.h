/* Reads of open files: plans a range into pieces of chunks, finds what the block cache has, fetches
 * the rest, and hands the caller slices that it can write to the kernel without a copy.
 *
 * Includes no FUSE header, so that tests and kelpctl drive it too. Thread-safe. */
#ifndef KELP_READER_H
#define KELP_READER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "filer/base/base.h"
#include "filer/chunkmap.h"

struct blockcache;
struct slab;
struct fetcher;
struct reader;
struct read_file;

#define READ_BYTES_MAX ((size_t)1 << 20) /* of one call */
#define READ_SLICES_MAX 512

struct reader_config {
	struct blockcache *cache;
	struct slab *slab;
	struct fetcher *fetcher;
	unsigned prefetch_threads;
	size_t readahead_max_bytes; /* window of one stream; 0: no readahead */
	unsigned timeout_ms; /* of one read, in all */
};

int reader_new(const struct reader_config *cfg, struct reader **ret);
/* All files must be closed. Stops and joins the prefetch threads. */
void reader_free(struct reader *r);

/* An open file: one immutable chunk map (taken over; freed with the file) and the state of its
 * readahead. */
int read_file_open(struct reader *r, struct chunkmap *map, struct read_file **ret);
/* Waits for nothing; prefetches under way finish on their own. */
void read_file_close(struct read_file *f);

const struct chunkmap *read_file_map(const struct read_file *f);

/* Result of a read: slices in order, valid until read_done(). */
struct read_result {
	struct iovec slices[READ_SLICES_MAX];
	size_t n_slices;
	size_t bytes;
	bool cached; /* all of it was in the block cache */
	void *opaque;
};

/* Reads up to len bytes (at most READ_BYTES_MAX) at offset: short only at end of file. Returns 0,
 * -ENOENT (chunks are gone: look the entry up again), -EIO, -ETIMEDOUT, -EACCES, -ENOMEM. */
int read_file_at(struct read_file *f, uint64_t offset, size_t len, struct read_result *ret);
void read_done(struct read_file *f, struct read_result *r);

struct reader_stats {
	uint64_t reads, bytes, bytes_cached, bytes_direct, bytes_prefetched, prefetch_failures,
		errors;
};
void reader_stats(struct reader *r, struct reader_stats *ret);

#endif
