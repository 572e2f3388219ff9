/* What the files of the reader share; nobody else includes it. fs/reader.c has the plan of a read, its answer and
 * what callers ask for, fs/reader_fetch.c brings the bytes of what is planned, fs/reader_prefetch.c those that
 * will be asked for next. */
#ifndef KELP_READER_IMPL_H
#define KELP_READER_IMPL_H

#include <pthread.h>
#include <stdatomic.h>

#include "cache/slab.h"
#include "filer/base/base.h"
#include "fs/bounce.h"
#include "fs/fill.h"
#include "fs/readahead.h"
#include "fs/reader.h"
#include "fs/workers.h"

/* Pieces that a read is made of before it is assembled in batches. */
#define UNITS_MAX 256
/* Threads that may help one read. */
#define HELPERS_MAX 3
/* Prefetch requests that wait or are under way. */
#define PREFETCH_JOBS_MAX 256
/* A chunk that is decoded is fetched whole, up to that part of the slab. */
#define DECODE_SHARE 8

enum unit_state {
	UNIT_ZERO, /* a hole */
	UNIT_PLANNED, /* nothing known yet */
	UNIT_READY, /* in a pinned block */
	UNIT_WAIT, /* in a pinned block that another thread fills */
	UNIT_FILL, /* in a pinned block that this read must fill */
	UNIT_DIRECT, /* goes to the bounce buffer */
};

/* A piece of a read that lies within one block. */
struct unit {
	enum unit_state state;
	bool whole; /* the whole block is worth fetching */
	uint32_t at; /* in the read */
	uint32_t len;
	const struct chunk *chunk;
	uint64_t offset; /* in the chunk */
	struct block_place place;
	struct block *block; /* pinned, or NULL */
};

/* Units that are one fetch. */
struct group {
	uint32_t first, n;
};

struct helper {
	struct work work; /* first */
	struct read_ctx *ctx;
};

struct read_ctx {
	struct reader *reader;
	struct read_ctx *next; /* free ones; under reader.lock */
	/* of the one read that has the context; the helpers only look, but for what is atomic */
	struct read_file *file;
	uint64_t offset;
	uint32_t bytes;
	bool sequential;
	bool missed; /* not all of it was in the cache */
	bool fragmented; /* more pieces than units: assembled in batches */
	struct deadline deadline;
	struct bounce bounce;
	size_t n_units;
	size_t n_groups;
	atomic_size_t next_group;
	atomic_int err; /* of the first group that failed */
	struct helper helpers[HELPERS_MAX];
	struct group groups[UNITS_MAX];
	struct unit units[UNITS_MAX];
};

struct read_file {
	struct reader *reader;
	struct chunkmap *map;
	bool small;
	atomic_uint refs; /* the opener's, and one of each prefetch job */
	atomic_int_fast64_t failed_at_ms; /* a read used up its time; 0: none */
	pthread_mutex_t lock;
	/* under lock */
	struct readahead readahead;
	unsigned active; /* streams that reader.active_streams counts */
};

struct reader {
	struct reader_config cfg; /* fixed, as are the next five */
	size_t slab_bytes;
	size_t block_bytes;
	struct workers *workers;
	struct bounces *bounces;
	struct prefetch_job *jobs;

	atomic_uint active_streams;
	atomic_bool stopping;
	struct {
		atomic_uint_fast64_t reads, bytes, bytes_cached, bytes_direct, bytes_prefetched,
			prefetch_failures, errors;
	} stats;

	pthread_mutex_t lock;
	/* under lock */
	struct read_ctx *free_ctxs;
	size_t n_free_ctxs;
	struct prefetch_job *free_jobs;
};

static inline void count(atomic_uint_fast64_t *counter, uint64_t n)
{
	atomic_fetch_add_explicit(counter, n, memory_order_relaxed);
}

static inline uint64_t reader_decode_bytes_max(const struct reader *r)
{
	return r->slab_bytes / DECODE_SHARE;
}

/* --- fs/reader.c --- */

/* Is enough of the block to be seen through this extent? Encoded chunks are read whole anyway. */
bool reader_block_is_worth_it(const struct extent *e, const struct chunk *c,
			      const struct block_place *p);
/* Drops one of refs; the last one frees the file. Any thread; not with reader.lock. */
void read_file_unref(struct read_file *f);

/* --- fs/reader_fetch.c --- */

/* Brings the bytes of all planned units to where their states say. Returns 0 or -errno, as
 * read_file_at() says; blocks that were promised to others have been ended then, too. */
int reader_bring_units(struct read_ctx *ctx);
/* What a helper does on a prefetch thread. */
void reader_helper_run(struct work *w);

/* --- fs/reader_prefetch.c --- */

/* Makes r->jobs, all of them free. Returns 0 or -ENOMEM. */
int reader_jobs_new(struct reader *r);
/* None of them may be under way. */
void reader_jobs_free(struct reader *r);
/* Notes a read, and has fetched ahead what that calls for. *ret_sequential: whole blocks are worth
 * fetching for it. Waits for nothing. */
void reader_readahead(struct read_file *f, uint64_t offset, uint32_t len, bool *ret_sequential);

#endif
