/* Thread model: a read runs on its caller's thread, on a context of its own from a pool. It may lend
 * the fetches of several chunks to the prefetch threads; what none of those has begun it does
 * itself, so it never waits for a busy queue. Those threads also run the prefetch jobs.
 *
 * No deadlock over blocks: a thread that was told to fill blocks fetches them before it waits for
 * anybody else's, and memory is never waited for.
 *
 * Locks: reader.lock guards the pools, read_file.lock the state of the readahead. Both are leaves. */
#include "fs/reader.h"

#include <assert.h>
#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "cache/blockcache.h"
#include "cache/slab.h"
#include "filer/entry.h"
#include "fs/fetch.h"
#include "fs/fill.h"
#include "fs/readahead.h"
#include "fs/workers.h"

/* A read within AGAIN_WITHIN_MS of one that failed for want of time gets AGAIN_TIMEOUT_MS. */
#define AGAIN_WITHIN_MS 1000
#define AGAIN_TIMEOUT_MS 500

/* Pieces that a read is made of before it is assembled in batches. */
#define UNITS_MAX 256
#define ZEROS_BYTES (64 * KIB)
/* Threads that may help one read. */
#define HELPERS_MAX 3
/* Contexts that are kept for reuse; more may be in use. */
#define CONTEXTS_KEPT_MAX 256
/* Bounce buffers set aside: that part of the slab, and no more than so many. */
#define BOUNCE_SHARE 8
#define BOUNCE_MAX 32
/* A file of up to so many bytes, and blocks, is fetched whole. */
#define SMALL_FILE_BYTES (1 * MIB)
#define SMALL_FILE_BLOCKS 2
/* A block of which less than this part can be seen is not fetched whole. */
#define VISIBLE_SHARE 4
/* One prefetch request to a server; whole chunks where they are decoded, up to a part of the slab. */
#define PREFETCH_JOB_BYTES (2 * MIB)
#define PREFETCH_JOBS_MAX 256
#define DECODE_SHARE 8
/* A map that is finer than that within one window is read as it is asked for. */
#define PREFETCH_EXTENTS_MAX 128
/* Of the slab, for what all streams together have planned. */
#define READAHEAD_SHARE 2

static_assert(UNITS_MAX + READ_BYTES_MAX / ZEROS_BYTES <= READ_SLICES_MAX,
	      "a read in one batch always has slices enough");

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

struct bounce {
	uint8_t *ptr; /* NULL: none yet */
	struct slab_buf mem; /* ptr NULL: of the heap */
	bool reserved;
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

struct prefetch_job {
	struct work work; /* first */
	struct prefetch_job *next; /* free ones; under reader.lock */
	struct read_file *file; /* holds a reference */
	const struct chunk *chunk;
	uint64_t offset, end; /* in the chunk */
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
	struct reader_config cfg; /* fixed, as are the next four */
	size_t slab_bytes;
	size_t block_bytes;
	struct workers *workers;
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
	size_t n_bounces;
	struct slab_buf bounces[BOUNCE_MAX];
};

/* What holes are made of. */
static uint8_t zeros[ZEROS_BYTES];

static void count(atomic_uint_fast64_t *counter, uint64_t n)
{
	atomic_fetch_add_explicit(counter, n, memory_order_relaxed);
}

/* ---- Bounce buffers: where bytes go that are not to stay in the cache. */

static bool bounce_take_reserved(struct reader *r, struct bounce *ret)
{
	LOCK_SCOPE(&r->lock);
	if (r->n_bounces == 0)
		return false;
	ret->mem = r->bounces[--r->n_bounces];
	ret->ptr = ret->mem.ptr;
	ret->reserved = true;
	return true;
}

static int bounce_need(struct read_ctx *ctx)
{
	struct reader *r = ctx->reader;
	struct bounce *b = &ctx->bounce;

	if (b->ptr || bounce_take_reserved(r, b))
		return 0;
	/* In the place of blocks, if need be; but blocks may be smaller, and all be in use. */
	if (slab_alloc(r->cfg.slab, ctx->bytes, &b->mem) == 0 ||
	    blockcache_lend(r->cfg.cache, ctx->bytes, &b->mem) == 0)
		b->ptr = b->mem.ptr;
	else
		b->ptr = malloc(ctx->bytes);
	return b->ptr ? 0 : -ENOMEM;
}

static void bounce_release(struct reader *r, struct bounce *b)
{
	if (b->reserved) {
		LOCK_SCOPE(&r->lock);
		r->bounces[r->n_bounces++] = b->mem;
	} else if (b->mem.ptr) {
		slab_release(r->cfg.slab, b->mem);
	} else {
		free(b->ptr);
	}
	*b = (struct bounce){ 0 };
}

static uint32_t bounce_region(const struct bounce *b)
{
	return b->mem.ptr ? SLAB_REGION : MEM_UNREGISTERED;
}

/* ---- Contexts. */

static void run_groups(struct read_ctx *ctx);

static void helper_run(struct work *w)
{
	run_groups(((struct helper *)w)->ctx);
}

static struct read_ctx *ctx_new(struct reader *r)
{
	struct read_ctx *ctx = calloc(1, sizeof(*ctx));

	if (!ctx)
		return NULL;
	ctx->reader = r;
	for (size_t i = 0; i < HELPERS_MAX; i++) {
		ctx->helpers[i].work.run = helper_run;
		ctx->helpers[i].work.joinable = true;
		ctx->helpers[i].ctx = ctx;
	}
	return ctx;
}

static struct read_ctx *ctx_take(struct reader *r)
{
	struct read_ctx *ctx;

	{
		LOCK_SCOPE(&r->lock);
		ctx = r->free_ctxs;
		if (ctx) {
			r->free_ctxs = ctx->next;
			r->n_free_ctxs--;
		}
	}
	return ctx ? ctx : ctx_new(r);
}

static void release_units(struct read_ctx *ctx)
{
	for (size_t i = 0; i < ctx->n_units; i++)
		if (ctx->units[i].block)
			block_unpin(ctx->reader->cfg.cache, ctx->units[i].block);
	ctx->n_units = 0;
}

static void ctx_put(struct read_ctx *ctx)
{
	struct reader *r = ctx->reader;

	release_units(ctx);
	bounce_release(r, &ctx->bounce);
	{
		LOCK_SCOPE(&r->lock);
		if (r->n_free_ctxs < CONTEXTS_KEPT_MAX) {
			ctx->next = r->free_ctxs;
			r->free_ctxs = ctx;
			r->n_free_ctxs++;
			return;
		}
	}
	free(ctx);
}

/* ---- The plan: file range to units. */

/* Is enough of the block to be seen through this extent? Encoded chunks are read whole anyway. */
static bool block_is_worth_it(const struct extent *e, const struct chunk *c,
			      const struct block_place *p)
{
	uint64_t from = max_u64(e->chunk_offset, p->start);
	uint64_t to = min_u64(e->chunk_offset + e->len, p->start + p->bytes);

	return chunk_is_encoded(c) || (to - from) * VISIBLE_SHARE >= p->bytes;
}

static void plan_zeros(struct read_ctx *ctx, uint32_t at, uint64_t len)
{
	ctx->units[ctx->n_units++] = (struct unit){
		.state = UNIT_ZERO,
		.at = at,
		.len = (uint32_t)len,
	};
}

/* Plans the extent's bytes from chunk offset `offset` on, at most len, within one block. Returns how
 * many that were. */
static uint32_t plan_piece(struct read_ctx *ctx, const struct extent *e, uint64_t offset,
			   uint32_t at, uint64_t len)
{
	const struct chunk *c = &ctx->file->map->chunks[e->chunk];
	struct unit *u = &ctx->units[ctx->n_units++];

	*u = (struct unit){ .state = UNIT_PLANNED, .at = at, .chunk = c, .offset = offset };
	if (block_place_of(c, offset, ctx->reader->block_bytes, &u->place)) {
		len = min_u64(len, u->place.start + u->place.bytes - offset);
		u->whole = ctx->fragmented || chunk_is_encoded(c) ||
			   ((ctx->sequential || ctx->file->small) &&
			    block_is_worth_it(e, c, &u->place));
	} else {
		u->state = UNIT_DIRECT;
	}
	u->len = (uint32_t)len;
	return u->len;
}

/* Plans from position `at` of the read on, as far as units last. Returns the position reached. */
static uint32_t plan_units(struct read_ctx *ctx, uint32_t at)
{
	const struct chunkmap *map = ctx->file->map;
	size_t i = chunkmap_find(map, ctx->offset + at);

	while (at < ctx->bytes && ctx->n_units < UNITS_MAX) {
		uint64_t pos = ctx->offset + at, left = ctx->bytes - at;
		const struct extent *e = i < map->n_extents ? &map->extents[i] : NULL;

		if (!e || e->offset > pos) {
			uint64_t len = e ? min_u64(left, e->offset - pos) : left;

			plan_zeros(ctx, at, len);
			at += (uint32_t)len;
			continue;
		}
		uint64_t skip = pos - e->offset;
		at += plan_piece(ctx, e, e->chunk_offset + skip, at, min_u64(left, e->len - skip));
		if (ctx->offset + at >= e->offset + e->len)
			i++;
	}
	return at;
}

/* ---- What the cache has of it. */

static void ask_cache(struct read_ctx *ctx, struct unit *u)
{
	struct blockcache *cache = ctx->reader->cfg.cache;
	size_t need = (size_t)(u->offset - u->place.start) + u->len;
	enum block_outcome o;

	if (u->whole)
		o = blockcache_get(cache, &u->place.key, u->place.bytes, false, &u->block);
	else
		o = blockcache_peek(cache, &u->place.key, need, &u->block);
	switch (o) {
	case BLOCK_HIT:
		u->state = UNIT_READY;
		count(&ctx->reader->stats.bytes_cached, u->len);
		break;
	case BLOCK_WAIT:
		u->state = UNIT_WAIT;
		break;
	case BLOCK_FILL:
		u->state = UNIT_FILL;
		break;
	case BLOCK_BYPASS:
	case BLOCK_MISS:
		u->state = UNIT_DIRECT;
		break;
	}
}

static bool must_fetch(const struct unit *u)
{
	return u->state == UNIT_FILL || u->state == UNIT_DIRECT;
}

/* Where a fetch for the unit begins in the chunk, and ends. */
static uint64_t fetch_start(const struct unit *u)
{
	return u->state == UNIT_FILL ? u->place.start : u->offset;
}

static uint64_t fetch_end(const struct unit *u)
{
	return u->state == UNIT_FILL ? u->place.start + u->place.bytes : u->offset + u->len;
}

static void make_groups(struct read_ctx *ctx)
{
	const struct unit *last = NULL;

	ctx->n_groups = 0;
	for (uint32_t i = 0; i < ctx->n_units; i++) {
		const struct unit *u = &ctx->units[i];

		if (!must_fetch(u)) {
			last = NULL;
			continue;
		}
		struct group *g = ctx->n_groups ? &ctx->groups[ctx->n_groups - 1] : NULL;
		if (last && last->chunk == u->chunk && fetch_end(last) == fetch_start(u) &&
		    g->n < FILL_PARTS_MAX)
			g->n++;
		else
			ctx->groups[ctx->n_groups++] = (struct group){ .first = i, .n = 1 };
		last = u;
	}
}

/* ---- Fetching what is missing. */

static struct fill_part part_of(const struct read_ctx *ctx, const struct unit *u)
{
	if (u->state == UNIT_FILL)
		return (struct fill_part){ .block = u->block,
					   .ptr = u->block->data,
					   .len = u->place.bytes,
					   .region = SLAB_REGION };
	return (struct fill_part){ .ptr = ctx->bounce.ptr + u->at,
				   .len = u->len,
				   .region = bounce_region(&ctx->bounce) };
}

static uint64_t decode_bytes_max(const struct reader *r)
{
	return r->slab_bytes / DECODE_SHARE;
}

/* The read has failed already: tells those who wait for its blocks. */
static void abandon_group(struct read_ctx *ctx, const struct group *g, int err)
{
	for (uint32_t i = g->first; i < g->first + g->n; i++)
		if (ctx->units[i].state == UNIT_FILL)
			block_filled(ctx->reader->cfg.cache, ctx->units[i].block, 0, err);
}

static int fetch_group(struct read_ctx *ctx, const struct group *g)
{
	const struct reader_config *cfg = &ctx->reader->cfg;
	const struct unit *u = &ctx->units[g->first];
	struct fill fill;

	fill_init(&fill, cfg->cache, cfg->fetcher, u->chunk);
	for (uint32_t i = 0; i < g->n; i++, u++)
		fill_add(&fill, fetch_start(u), part_of(ctx, u));
	count(&ctx->reader->stats.bytes_direct, fill.bytes);
	if (chunk_is_encoded(fill.chunk))
		fill_extend(&fill, decode_bytes_max(ctx->reader));
	return fill_run(&fill, ctx->deadline);
}

/* Takes groups until there are none left: the reader, and each helper. */
static void run_groups(struct read_ctx *ctx)
{
	size_t i;

	while ((i = atomic_fetch_add(&ctx->next_group, 1)) < ctx->n_groups) {
		int err = atomic_load(&ctx->err), none = 0;

		if (err)
			abandon_group(ctx, &ctx->groups[i], err);
		else
			err = fetch_group(ctx, &ctx->groups[i]);
		if (err)
			atomic_compare_exchange_strong(&ctx->err, &none, err);
	}
}

static int fetch_missing(struct read_ctx *ctx)
{
	struct workers *workers = ctx->reader->workers;
	size_t helpers = 0;

	make_groups(ctx);
	atomic_store(&ctx->next_group, 0);
	while (helpers < HELPERS_MAX && helpers + 1 < ctx->n_groups &&
	       workers_push(workers, &ctx->helpers[helpers].work, true))
		helpers++;
	run_groups(ctx);
	while (helpers > 0)
		workers_retract(workers, &ctx->helpers[--helpers].work);

	for (size_t i = 0; i < ctx->n_units; i++)
		if (ctx->units[i].state == UNIT_FILL)
			ctx->units[i].state = UNIT_READY;
	return atomic_load(&ctx->err);
}

/* Another thread was to fill the block and did not, or not far enough: fetches just the bytes that
 * are wanted here. */
static int fetch_instead(struct read_ctx *ctx, struct unit *u)
{
	int err = bounce_need(ctx);

	if (err)
		return err;
	block_unpin(ctx->reader->cfg.cache, u->block);
	u->block = NULL;
	u->state = UNIT_DIRECT;
	return fetch_group(ctx, &(struct group){ .first = (uint32_t)(u - ctx->units), .n = 1 });
}

static int wait_for_others(struct read_ctx *ctx)
{
	for (struct unit *u = ctx->units; u < ctx->units + ctx->n_units; u++) {
		if (u->state != UNIT_WAIT)
			continue;
		int err = block_wait(ctx->reader->cfg.cache, u->block, ctx->deadline);
		size_t need = (size_t)(u->offset - u->place.start) + u->len;

		if (!err && u->block->valid >= need) {
			u->state = UNIT_READY;
			count(&ctx->reader->stats.bytes_cached, u->len);
			continue;
		}
		if (deadline_passed(ctx->deadline))
			return -ETIMEDOUT;
		err = fetch_instead(ctx, u);
		if (err)
			return err;
	}
	return 0;
}

/* Brings the bytes of all planned units to where their states say. */
static int bring_units(struct read_ctx *ctx)
{
	bool direct = ctx->fragmented;
	int err = 0;

	for (size_t i = 0; i < ctx->n_units; i++) {
		if (ctx->units[i].state == UNIT_PLANNED)
			ask_cache(ctx, &ctx->units[i]);
		direct |= ctx->units[i].state == UNIT_DIRECT;
		ctx->missed |= must_fetch(&ctx->units[i]) || ctx->units[i].state == UNIT_WAIT;
	}
	if (direct)
		err = bounce_need(ctx);
	/* on failure too: the blocks that were promised must be ended */
	atomic_store(&ctx->err, err);
	err = fetch_missing(ctx);
	return err ? err : wait_for_others(ctx);
}

/* ---- The answer. */

static void add_slice(struct read_result *res, const uint8_t *p, size_t len)
{
	struct iovec *last = res->n_slices ? &res->slices[res->n_slices - 1] : NULL;

	if (last && (const uint8_t *)last->iov_base + last->iov_len == p)
		last->iov_len += len;
	else
		res->slices[res->n_slices++] = (struct iovec){ .iov_base = (void *)p,
							       .iov_len = len };
}

static const uint8_t *unit_bytes(const struct read_ctx *ctx, const struct unit *u)
{
	if (u->state == UNIT_DIRECT)
		return ctx->bounce.ptr + u->at;
	return u->block->data + (u->offset - u->place.start);
}

static void slice_units(const struct read_ctx *ctx, struct read_result *res)
{
	for (size_t i = 0; i < ctx->n_units; i++) {
		const struct unit *u = &ctx->units[i];

		if (u->state != UNIT_ZERO) {
			add_slice(res, unit_bytes(ctx, u), u->len);
			continue;
		}
		for (size_t left = u->len; left > 0; left -= min_u64(left, ZEROS_BYTES))
			add_slice(res, zeros, min_u64(left, ZEROS_BYTES));
	}
}

static void copy_units(const struct read_ctx *ctx)
{
	for (size_t i = 0; i < ctx->n_units; i++) {
		const struct unit *u = &ctx->units[i];
		uint8_t *to = ctx->bounce.ptr + u->at;

		if (u->state == UNIT_ZERO)
			memset(to, 0, u->len);
		else if (u->state != UNIT_DIRECT)
			memcpy(to, unit_bytes(ctx, u), u->len);
	}
}

/* More pieces than slices: batch by batch into the bounce buffer. */
static int assemble(struct read_ctx *ctx)
{
	uint32_t at = 0;

	ctx->fragmented = true;
	while (at < ctx->bytes) {
		ctx->n_units = 0;
		at = plan_units(ctx, at);
		int err = bring_units(ctx);
		if (err)
			return err;
		copy_units(ctx);
		release_units(ctx);
	}
	return 0;
}

static int run_read(struct read_ctx *ctx)
{
	ctx->fragmented = false;
	ctx->missed = false;
	ctx->n_units = 0;
	if (plan_units(ctx, 0) < ctx->bytes)
		return assemble(ctx);
	return bring_units(ctx);
}

/* ---- Prefetch. */

static void file_unref(struct read_file *f)
{
	if (atomic_fetch_sub(&f->refs, 1) > 1)
		return;
	chunkmap_free(f->map);
	pthread_mutex_destroy(&f->lock);
	free(f);
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
	file_unref(job->file);
	LOCK_SCOPE(&r->lock);
	job->next = r->free_jobs;
	r->free_jobs = job;
}

static void run_prefetch_fill(struct reader *r, struct fill *fill)
{
	if (fill->n_parts == 0)
		return;
	if (chunk_is_encoded(fill->chunk))
		fill_extend(fill, decode_bytes_max(r));
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

static bool prefetch_piece(struct read_file *f, const struct extent *e, uint64_t offset,
			   uint64_t end)
{
	const struct chunk *c = &f->map->chunks[e->chunk];
	struct block_place place;

	if (!block_place_of(c, offset, f->reader->block_bytes, &place) ||
	    !block_is_worth_it(e, c, &place))
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

static void readahead(struct read_file *f, uint64_t offset, uint32_t len, bool *ret_sequential)
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

/* ---- The interface. */

static void free_pools(struct reader *r)
{
	while (r->free_ctxs) {
		struct read_ctx *ctx = r->free_ctxs;

		r->free_ctxs = ctx->next;
		free(ctx);
	}
	while (r->n_bounces > 0)
		slab_release(r->cfg.slab, r->bounces[--r->n_bounces]);
	free(r->jobs);
}

static int make_pools(struct reader *r)
{
	size_t bounces = min_u64(r->slab_bytes / BOUNCE_SHARE / READ_BYTES_MAX, BOUNCE_MAX);

	r->jobs = calloc(PREFETCH_JOBS_MAX, sizeof(*r->jobs));
	if (!r->jobs)
		return -ENOMEM;
	for (size_t i = 0; i < PREFETCH_JOBS_MAX; i++) {
		r->jobs[i].next = r->free_jobs;
		r->free_jobs = &r->jobs[i];
	}
	while (r->n_bounces < bounces &&
	       slab_alloc(r->cfg.slab, READ_BYTES_MAX, &r->bounces[r->n_bounces]) == 0)
		r->n_bounces++;
	return 0;
}

int reader_new(const struct reader_config *cfg, struct reader **ret)
{
	void *base;
	struct reader *r = calloc(1, sizeof(*r));

	if (!r)
		return -ENOMEM;
	r->cfg = *cfg;
	r->block_bytes = blockcache_block_bytes(cfg->cache);
	slab_region(cfg->slab, &base, &r->slab_bytes);
	pthread_mutex_init(&r->lock, NULL);
	int err = make_pools(r);
	if (err)
		goto free_reader;
	err = workers_new(cfg->prefetch_threads, PREFETCH_JOBS_MAX, &r->workers);
	if (err)
		goto free_pools;
	*ret = r;
	return 0;

free_pools:
	free_pools(r);
free_reader:
	pthread_mutex_destroy(&r->lock);
	free(r);
	return err;
}

void reader_free(struct reader *r)
{
	if (!r)
		return;
	atomic_store(&r->stopping, true);
	workers_free(r->workers);
	free_pools(r);
	pthread_mutex_destroy(&r->lock);
	free(r);
}

int read_file_open(struct reader *r, struct chunkmap *map, struct read_file **ret)
{
	struct read_file *f = calloc(1, sizeof(*f));

	if (!f)
		return -ENOMEM;
	f->reader = r;
	f->map = map;
	f->small = map->size <= min_u64(SMALL_FILE_BYTES, SMALL_FILE_BLOCKS * r->block_bytes);
	atomic_init(&f->refs, 1);
	pthread_mutex_init(&f->lock, NULL);
	readahead_init(&f->readahead);
	*ret = f;
	return 0;
}

void read_file_close(struct read_file *f)
{
	atomic_fetch_sub_explicit(&f->reader->active_streams, f->active, memory_order_relaxed);
	file_unref(f);
}

const struct chunkmap *read_file_map(const struct read_file *f)
{
	return f->map;
}

/* The kernel asks for a page again, by itself, when its readahead failed. Who waited in vain just now
 * has only this long, lest the application wait for twice the time limit. */
static struct deadline deadline_of_read(const struct read_file *f)
{
	struct deadline d = deadline_in_ms(f->reader->cfg.timeout_ms);
	int64_t failed_at_ms = atomic_load(&f->failed_at_ms);

	if (failed_at_ms && now_ms() - failed_at_ms < AGAIN_WITHIN_MS)
		return deadline_sooner(d, AGAIN_TIMEOUT_MS);
	return d;
}

int read_file_at(struct read_file *f, uint64_t offset, size_t len, struct read_result *ret)
{
	struct reader *r = f->reader;

	count(&r->stats.reads, 1);
	len = offset < f->map->size ? min_u64(len, f->map->size - offset) : 0;
	len = min_u64(len, READ_BYTES_MAX);
	if (len == 0) {
		ret->n_slices = 0;
		ret->bytes = 0;
		ret->cached = false;
		ret->opaque = NULL;
		return 0;
	}
	struct read_ctx *ctx = ctx_take(r);
	if (!ctx)
		return -ENOMEM;
	ctx->file = f;
	ctx->offset = offset;
	ctx->bytes = (uint32_t)len;
	ctx->deadline = deadline_of_read(f);
	readahead(f, offset, ctx->bytes, &ctx->sequential);

	int err = run_read(ctx);
	if (err) {
		count(&r->stats.errors, 1);
		if (deadline_passed(ctx->deadline))
			atomic_store(&f->failed_at_ms, now_ms());
		ctx_put(ctx);
		return err;
	}
	ret->n_slices = 0;
	ret->bytes = len;
	ret->opaque = ctx;
	if (ctx->fragmented)
		add_slice(ret, ctx->bounce.ptr, len);
	else
		slice_units(ctx, ret);
	count(&r->stats.bytes, len);
	ret->cached = !ctx->missed;
	return 0;
}

void read_done(struct read_file *f, struct read_result *r)
{
	(void)f;
	if (r->opaque)
		ctx_put(r->opaque);
	r->opaque = NULL;
}

void reader_stats(struct reader *r, struct reader_stats *ret)
{
	*ret = (struct reader_stats){
		.reads = atomic_load(&r->stats.reads),
		.bytes = atomic_load(&r->stats.bytes),
		.bytes_cached = atomic_load(&r->stats.bytes_cached),
		.bytes_direct = atomic_load(&r->stats.bytes_direct),
		.bytes_prefetched = atomic_load(&r->stats.bytes_prefetched),
		.prefetch_failures = atomic_load(&r->stats.prefetch_failures),
		.errors = atomic_load(&r->stats.errors),
	};
}
