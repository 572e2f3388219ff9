/* Thread model: a read runs on its caller's thread, on a context of its own from a pool. It may lend
 * the fetches of several chunks to the prefetch threads; what none of those has begun it does
 * itself, so it never waits for a busy queue. Those threads also run the prefetch jobs.
 *
 * No deadlock over blocks: a thread that was told to fill blocks fetches them before it waits for
 * anybody else's, or for a bounce buffer.
 *
 * Locks: reader.lock guards the pools, read_file.lock the state of the readahead. Both are leaves. */
#include "fs/reader.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "cache/blockcache.h"
#include "cache/slab.h"
#include "filer/entry.h"
#include "fs/fetch.h"
#include "fs/reader_impl.h"

/* A read within AGAIN_WITHIN_MS of one that failed for want of time gets AGAIN_TIMEOUT_MS. */
#define AGAIN_WITHIN_MS 1000
#define AGAIN_TIMEOUT_MS 500

#define ZEROS_BYTES (64 * KIB)
/* Contexts that are kept for reuse; more may be in use. */
#define CONTEXTS_KEPT_MAX 256
/* A file of up to so many bytes, and blocks, is fetched whole. */
#define SMALL_FILE_BYTES (1 * MIB)
#define SMALL_FILE_BLOCKS 2
/* A block of which less than this part can be seen is not fetched whole. */
#define VISIBLE_SHARE 4

static_assert(UNITS_MAX + READ_BYTES_MAX / ZEROS_BYTES <= READ_SLICES_MAX,
	      "a read in one batch always has slices enough");

/* What holes are made of. */
static uint8_t zeros[ZEROS_BYTES];

/* ---- Contexts. */

static struct read_ctx *ctx_new(struct reader *r)
{
	struct read_ctx *ctx = calloc(1, sizeof(*ctx));

	if (!ctx)
		return NULL;
	ctx->reader = r;
	for (size_t i = 0; i < HELPERS_MAX; i++) {
		ctx->helpers[i].work.run = reader_helper_run;
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
	bounce_give_back(r->bounces, &ctx->bounce);
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

bool reader_block_is_worth_it(const struct extent *e, const struct chunk *c,
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
			    reader_block_is_worth_it(e, c, &u->place));
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
		int err = reader_bring_units(ctx);
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
	return reader_bring_units(ctx);
}

/* ---- The interface. */

static void free_pools(struct reader *r)
{
	while (r->free_ctxs) {
		struct read_ctx *ctx = r->free_ctxs;

		r->free_ctxs = ctx->next;
		free(ctx);
	}
	bounces_free(r->bounces);
	reader_jobs_free(r);
}

static int make_pools(struct reader *r)
{
	int err = reader_jobs_new(r);

	if (err)
		return err;
	return bounces_new(r->cfg.slab, r->cfg.cache, READ_BYTES_MAX, &r->bounces);
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
		goto free_pools;
	err = workers_new(cfg->prefetch_threads, PREFETCH_JOBS_MAX, &r->workers);
	if (err)
		goto free_pools;
	*ret = r;
	return 0;

free_pools:
	free_pools(r);
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

void read_file_unref(struct read_file *f)
{
	if (atomic_fetch_sub(&f->refs, 1) > 1)
		return;
	chunkmap_free(f->map);
	pthread_mutex_destroy(&f->lock);
	free(f);
}

void read_file_close(struct read_file *f)
{
	atomic_fetch_sub_explicit(&f->reader->active_streams, f->active, memory_order_relaxed);
	read_file_unref(f);
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
	reader_readahead(f, offset, ctx->bytes, &ctx->sequential);

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
