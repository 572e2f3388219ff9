/* Thread model: see fs/reader.c. Jobs run on the prefetch threads, the rest on the thread of a read. */
#include "fs/reader_impl.h"

#include <errno.h>
#include <stdlib.h>

#include "cache/blockcache.h"
#include "filer/entry.h"
#include "fs/fetch.h"
#include "fs/fill.h"

/* One prefetch request to a server, but for chunks that are decoded. */
#define PREFETCH_JOB_BYTES READAHEAD_UNIT_BYTES
/* A map that is finer than that within one window is read as it is asked for. */
#define PREFETCH_EXTENTS_MAX 128
/* Of the slab, for what all streams together have planned. */
#define READAHEAD_SHARE 2

struct prefetch_job {
	struct work work; /* first */
	struct prefetch_job *next; /* free ones; under reader.lock */
	struct read_file *file; /* holds a reference */
	const struct chunk *chunk;
	uint64_t offset, end; /* in the chunk */
};

/* ---- Jobs. */

int reader_jobs_new(struct reader *r)
{
	r->jobs = calloc(PREFETCH_JOBS_MAX, sizeof(*r->jobs));
	if (!r->jobs)
		return -ENOMEM;
	for (size_t i = 0; i < PREFETCH_JOBS_MAX; i++) {
		r->jobs[i].next = r->free_jobs;
		r->free_jobs = &r->jobs[i];
	}
	return 0;
}

void reader_jobs_free(struct reader *r)
{
	free(r->jobs);
}

static struct prefetch_job *job_take(struct reader *r)
{
	LOCK_SCOPE(&r->lock);
	struct prefetch_job *job = r->free_jobs;

	if (job)
		r->free_jobs = job->next;
	return job;
}

static void job_put(struct reader *r, struct prefetch_job *job)
{
	read_file_unref(job->file);
	LOCK_SCOPE(&r->lock);
	job->next = r->free_jobs;
	r->free_jobs = job;
}

static void run_prefetch_fill(struct reader *r, struct fill *fill)
{
	if (fill->n_parts == 0)
		return;
	if (chunk_is_encoded(fill->chunk))
		fill_extend(fill, reader_decode_bytes_max(r));
	fill->counter = &r->stats.bytes_prefetched;
	if (fill_run(fill, deadline_in_ms(r->cfg.timeout_ms)))
		count(&r->stats.prefetch_failures, 1);
}

static void job_fetch(struct reader *r, const struct prefetch_job *job)
{
	uint64_t at = job->offset;
	struct block_place place;
	struct fill fill;

	fill_init(&fill, r->cfg.cache, r->cfg.fetcher, job->chunk);
	while (at < job->end && block_place_of(job->chunk, at, r->block_bytes, &place)) {
		struct block *b;

		if (fill.n_parts == FILL_PARTS_MAX)
			run_prefetch_fill(r, &fill);
		enum block_outcome o = blockcache_get(r->cfg.cache, &place.key, place.bytes, true,
						      &b);

		at = place.start + place.bytes;
		if (o == BLOCK_BYPASS)
			break;
		if (o != BLOCK_FILL) {
			/* somebody was faster; go on behind that block */
			block_unpin(r->cfg.cache, b);
			run_prefetch_fill(r, &fill);
			continue;
		}
		fill_add(&fill, place.start,
			 (struct fill_part){ .block = b,
					     .ptr = b->data,
					     .len = place.bytes,
					     .region = SLAB_REGION,
					     .release = true });
	}
	run_prefetch_fill(r, &fill);
}

static void job_run(struct work *w)
{
	struct prefetch_job *job = (struct prefetch_job *)w;
	struct reader *r = job->file->reader;

	if (!atomic_load(&r->stopping))
		job_fetch(r, job);
	job_put(r, job);
}

/* False: the queue is full. */
static bool push_job(struct read_file *f, const struct chunk *c, uint64_t offset, uint64_t end)
{
	struct reader *r = f->reader;
	struct prefetch_job *job = job_take(r);

	if (!job)
		return false;
	atomic_fetch_add(&f->refs, 1);
	job->work = (struct work){ .run = job_run };
	job->file = f;
	job->chunk = c;
	job->offset = offset;
	job->end = end;
	if (workers_push(r->workers, &job->work, false))
		return true;
	job_put(r, job);
	return false;
}

/* ---- What is worth a job. */

static bool prefetch_piece(struct read_file *f, const struct extent *e, uint64_t offset,
			   uint64_t end)
{
	const struct chunk *c = &f->map->chunks[e->chunk];
	struct block_place place;

	if (!block_place_of(c, offset, f->reader->block_bytes, &place) ||
	    !reader_block_is_worth_it(e, c, &place))
		return true;
	if (chunk_is_encoded(c))
		return push_job(f, c, offset, end);
	while (offset < end) {
		/* cut at multiples, so that neighbouring plans do not cut blocks */
		uint64_t cut = (offset / PREFETCH_JOB_BYTES + 1) * PREFETCH_JOB_BYTES;

		if (!push_job(f, c, offset, min_u64(cut, end)))
			return false;
		offset = cut;
	}
	return true;
}

static void prefetch_range(struct read_file *f, struct readahead_range range)
{
	const struct chunkmap *map = f->map;
	uint64_t end = range.offset + range.len;
	size_t first = chunkmap_find(map, range.offset);
	size_t last = min_u64(map->n_extents, first + PREFETCH_EXTENTS_MAX);

	for (size_t i = first; i < last; i++) {
		const struct extent *e = &map->extents[i];
		uint64_t from = max_u64(range.offset, e->offset);
		uint64_t to = min_u64(end, e->offset + e->len);

		if (from >= to || !prefetch_piece(f, e, e->chunk_offset + (from - e->offset),
						  e->chunk_offset + (to - e->offset)))
			return;
	}
}

/* Each stream's part of what may be read ahead in all, but never nothing. */
static uint64_t window_max(const struct reader *r)
{
	unsigned streams = atomic_load_explicit(&r->active_streams, memory_order_relaxed);
	uint64_t share = r->slab_bytes / READAHEAD_SHARE / (streams ? streams : 1);

	return min_u64(r->cfg.readahead_max_bytes, max_u64(share, 2 * r->block_bytes));
}

void reader_readahead(struct read_file *f, uint64_t offset, uint32_t len, bool *ret_sequential)
{
	struct reader *r = f->reader;
	struct readahead_plan plan;
	const struct readahead_limits lim = { .file_bytes = f->map->size,
					      .window_max = window_max(r),
					      .block_bytes = r->block_bytes };
	{
		LOCK_SCOPE(&f->lock);
		readahead_note(&f->readahead, &lim, offset, len, &plan);
		unsigned active = readahead_active(&f->readahead);
		/* the difference, also where it is negative */
		atomic_fetch_add_explicit(&r->active_streams, active - f->active,
					  memory_order_relaxed);
		f->active = active;
	}
	for (size_t i = 0; i < plan.n_ranges; i++)
		prefetch_range(f, plan.ranges[i]);
	*ret_sequential = plan.sequential;
}
