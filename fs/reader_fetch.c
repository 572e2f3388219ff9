/* Thread model: see fs/reader.c. */
#include "fs/reader_impl.h"

#include <errno.h>

#include "cache/blockcache.h"
#include "fs/fetch.h"
#include "fs/fill.h"

/* ---- What the cache has of a read. */

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

/* What goes around the cache has to wait until there is a place for it. */
static bool can_fetch(const struct read_ctx *ctx, const struct unit *u)
{
	return u->state == UNIT_FILL || (u->state == UNIT_DIRECT && ctx->bounce.ptr);
}

static void make_groups(struct read_ctx *ctx)
{
	const struct unit *last = NULL;

	ctx->n_groups = 0;
	for (uint32_t i = 0; i < ctx->n_units; i++) {
		const struct unit *u = &ctx->units[i];

		if (!can_fetch(ctx, u)) {
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

static uint32_t bounce_region(const struct bounce *b)
{
	return b->mem.ptr ? SLAB_REGION : MEM_UNREGISTERED;
}

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
		fill_extend(&fill, reader_decode_bytes_max(ctx->reader));
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

void reader_helper_run(struct work *w)
{
	run_groups(((struct helper *)w)->ctx);
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

static int wait_for_bounce(struct read_ctx *ctx)
{
	return ctx->bounce.ptr ? 0
			       : bounce_take_in_turn(ctx->reader->bounces, ctx->bytes,
						     ctx->deadline, &ctx->bounce);
}

/* Another thread was to fill the block and did not, or not far enough: fetches just the bytes that
 * are wanted here. */
static int fetch_instead(struct read_ctx *ctx, struct unit *u)
{
	int err = wait_for_bounce(ctx);

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

int reader_bring_units(struct read_ctx *ctx)
{
	bool direct = ctx->fragmented;
	int err = 0;

	for (size_t i = 0; i < ctx->n_units; i++) {
		if (ctx->units[i].state == UNIT_PLANNED)
			ask_cache(ctx, &ctx->units[i]);
		direct |= ctx->units[i].state == UNIT_DIRECT;
		ctx->missed |= must_fetch(&ctx->units[i]) || ctx->units[i].state == UNIT_WAIT;
	}
	if (direct && !ctx->bounce.ptr)
		err = bounce_take(ctx->reader->bounces, ctx->bytes, &ctx->bounce);
	bool in_turn = err == -EAGAIN;
	/* on failure too: the blocks that were promised must be ended; and before anything is waited for,
	 * lest who is waited for waits for them */
	atomic_store(&ctx->err, in_turn ? 0 : err);
	err = fetch_missing(ctx);
	if (!err && in_turn) {
		err = wait_for_bounce(ctx);
		if (!err)
			err = fetch_missing(ctx);
	}
	return err ? err : wait_for_others(ctx);
}
