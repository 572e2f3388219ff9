#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "cache/blockcache.h"
#include "cache/ssd_impl.h"

#define SPANS_MAX SSD_RING_DEPTH

/* A block that is there, and the part of it that is wanted. */
struct span {
	struct ssd_place place;
	uint32_t from, to; /* in the block: what is wanted */
	uint32_t unit; /* the first that is read */
	uint32_t bytes; /* that are read, from that unit on */
	uint8_t *ptr; /* where to: the caller's memory, or scratch */
	bool scratch;
	struct ssd_io *io;
};

struct job {
	struct ssd *s;
	const struct ssd_id *id;
	const struct iovec *iov;
	size_t i_iov, iov_at; /* where in iov the next byte goes */
	uint64_t pos, end; /* of the chunk */
	struct ssd_lane *lane;
	size_t scratch_used;
	size_t n_spans, n_ios;
	struct span spans[SPANS_MAX];
	struct ssd_io ios[SPANS_MAX];
};

/* ---- Lanes. */

static void scratch_free(struct ssd *s, struct ssd_lane *lane)
{
	for (size_t i = 0; i < SSD_LANE_SCRATCH && lane->scratch[i].ptr; i++) {
		if (lane->in_slab)
			slab_release(s->cfg.slab, lane->scratch[i]);
		else
			free(lane->scratch[i].ptr);
		lane->scratch[i].ptr = NULL;
	}
}

static int heap_block(struct slab_buf *ret)
{
	ret->ptr = aligned_alloc(SSD_PAGE_BYTES, SSD_BLOCK_BYTES);
	ret->size = SSD_BLOCK_BYTES;
	return ret->ptr ? 0 : -ENOMEM;
}

/* In the slab: in the place of blocks. */
static int scratch_new(struct ssd *s, struct ssd_lane *lane, bool in_slab)
{
	lane->in_slab = in_slab;
	for (size_t i = 0; i < SSD_LANE_SCRATCH; i++) {
		int err = in_slab ? blockcache_lend(s->cfg.cache, SSD_BLOCK_BYTES,
						    &lane->scratch[i])
				  : heap_block(&lane->scratch[i]);

		if (err) {
			lane->scratch[i].ptr = NULL;
			scratch_free(s, lane);
			return err;
		}
	}
	return 0;
}

static bool may_use_slab(struct ssd *s)
{
	LOCK_SCOPE(&s->lock);
	if (s->n_slab_lanes == s->slab_lanes_max)
		return false;
	s->n_slab_lanes++;
	return true;
}

static int scratch_get(struct ssd *s, struct ssd_lane *lane)
{
	if (may_use_slab(s)) {
		if (scratch_new(s, lane, true) == 0)
			return 0;
		LOCK_SCOPE(&s->lock);
		s->n_slab_lanes--;
	}
	return scratch_new(s, lane, false);
}

static struct ssd_lane *lane_new(struct ssd *s)
{
	struct ssd_lane *lane = calloc(1, sizeof(*lane));

	if (!lane)
		return NULL;
	if (ssd_ring_new(s->dir.data_fd, !s->cfg.no_uring, &lane->ring))
		goto free_lane;
	if (scratch_get(s, lane))
		goto free_ring;
	return lane;

free_ring:
	ssd_ring_free(lane->ring);
free_lane:
	free(lane);
	return NULL;
}

static void lane_free(struct ssd *s, struct ssd_lane *lane)
{
	ssd_ring_free(lane->ring);
	scratch_free(s, lane);
	free(lane);
}

void ssd_lanes_free(struct ssd *s)
{
	while (s->free_lanes) {
		struct ssd_lane *lane = s->free_lanes;

		s->free_lanes = lane->next;
		lane_free(s, lane);
	}
}

/* NULL: so many read already that the disk is no help to one more, or no memory. */
static struct ssd_lane *lane_take(struct ssd *s)
{
	{
		LOCK_SCOPE(&s->lock);
		struct ssd_lane *lane = s->free_lanes;

		if (lane) {
			s->free_lanes = lane->next;
			return lane;
		}
		if (s->n_lanes == SSD_LANES_MAX)
			return NULL;
		s->n_lanes++;
	}
	struct ssd_lane *lane = lane_new(s);
	if (!lane) {
		LOCK_SCOPE(&s->lock);
		s->n_lanes--;
	}
	return lane;
}

static void lane_put(struct ssd *s, struct ssd_lane *lane)
{
	LOCK_SCOPE(&s->lock);
	lane->next = s->free_lanes;
	s->free_lanes = lane;
}

/* ---- What is there. */

static void skip_iov(struct job *j, size_t n)
{
	j->pos += n;
	while (n > 0) {
		size_t here = min_u64(n, j->iov[j->i_iov].iov_len - j->iov_at);

		j->iov_at += here;
		n -= here;
		if (j->iov_at == j->iov[j->i_iov].iov_len) {
			j->i_iov++;
			j->iov_at = 0;
		}
	}
}

/* Straight to where it is wanted if that is whole units, and memory for them. False: it needs scratch,
 * and there is none left. */
static bool choose_memory(struct job *j, struct span *sp)
{
	uint32_t end = (uint32_t)min_u64((sp->to + SSD_UNIT_BYTES - 1) & ~(SSD_UNIT_BYTES - 1),
					 sp->place.record.bytes);
	uint8_t *ptr = (uint8_t *)j->iov[j->i_iov].iov_base + j->iov_at;

	sp->unit = (uint32_t)(sp->from / SSD_UNIT_BYTES);
	sp->bytes = end - (uint32_t)(sp->unit * SSD_UNIT_BYTES);
	if (sp->from % SSD_UNIT_BYTES == 0 && end == sp->to && sp->bytes % SSD_PAGE_BYTES == 0 &&
	    (uintptr_t)ptr % SSD_PAGE_BYTES == 0 &&
	    j->iov[j->i_iov].iov_len - j->iov_at >= sp->bytes) {
		sp->ptr = ptr;
		return true;
	}
	if (j->scratch_used == SSD_LANE_SCRATCH)
		return false;
	sp->ptr = j->lane->scratch[j->scratch_used++].ptr;
	sp->scratch = true;
	return true;
}

/* Under ssd.lock. */
static bool add_span(struct job *j)
{
	struct span *sp = &j->spans[j->n_spans];
	struct ssd_key key = { .id = *j->id };
	uint64_t index = j->pos / SSD_BLOCK_BYTES;

	if (index > UINT32_MAX)
		return false;
	key.index = (uint32_t)index;
	*sp = (struct span){ .from = (uint32_t)(j->pos % SSD_BLOCK_BYTES) };
	sp->to = (uint32_t)min_u64(SSD_BLOCK_BYTES, sp->from + (j->end - j->pos));
	if (!ssd_index_find(j->s->index, &key, sp->to, true, &sp->place)) {
		ssd_count(&j->s->stats.misses, 1);
		return false;
	}
	if (!choose_memory(j, sp)) {
		ssd_index_release(j->s->index, sp->place.segment);
		return false;
	}
	j->n_spans++;
	skip_iov(j, sp->to - sp->from);
	return true;
}

static void collect(struct job *j)
{
	LOCK_SCOPE(&j->s->lock);
	j->n_spans = 0;
	j->scratch_used = 0;
	while (j->pos < j->end && j->n_spans < SPANS_MAX && add_span(j))
		;
}

/* ---- Reading it. */

static void make_ios(struct job *j)
{
	j->n_ios = 0;
	for (size_t i = 0; i < j->n_spans; i++) {
		struct span *sp = &j->spans[i];
		struct ssd_io *last = j->n_ios ? &j->ios[j->n_ios - 1] : NULL;
		uint64_t offset = ssd_data_offset(sp->place.segment, sp->place.record.page) +
				  sp->unit * SSD_UNIT_BYTES;
		size_t bytes = ssd_pages(sp->bytes) * SSD_PAGE_BYTES;

		if (last && last->offset + last->bytes == offset &&
		    last->ptr + last->bytes == sp->ptr) {
			last->bytes += bytes;
		} else {
			last = &j->ios[j->n_ios++];
			*last = (struct ssd_io){ .offset = offset, .ptr = sp->ptr, .bytes = bytes };
		}
		sp->io = last;
	}
}

static bool is_right(const struct span *sp)
{
	const struct ssd_record *r = &sp->place.record;

	for (uint32_t at = 0, unit = sp->unit; at < sp->bytes; at += SSD_UNIT_BYTES, unit++) {
		size_t n = min_u64(SSD_UNIT_BYTES, sp->bytes - at);

		if (ssd_unit_crc(&r->key, unit, sp->ptr + at, n) != r->crc[unit])
			return false;
	}
	return true;
}

static void on_stall(void *arg)
{
	ssd_fail(arg, "read", -ETIMEDOUT);
}

/* The kernel's own trouble says nothing about the disk. */
static bool is_disk_error(int err)
{
	return err < 0 && err != -ENOMEM && err != -EAGAIN && err != -EINTR && err != -ECANCELED;
}

/* A file that somebody cut gives fewer bytes. */
static bool came_in_full(const struct span *sp)
{
	return (size_t)(sp->ptr - sp->io->ptr) + sp->bytes <= (size_t)sp->io->result;
}

static bool check_span(struct job *j, const struct span *sp)
{
	struct ssd *s = j->s;
	int result = sp->io->result;

	if (is_disk_error(result))
		ssd_fail(s, "read", result);
	if (result < 0)
		return false;
	if (came_in_full(sp) && is_right(sp))
		return true;
	ssd_count(&s->stats.corrupt, 1);
	LOCK_SCOPE(&s->lock);
	ssd_index_remove(s->index, &sp->place);
	return false;
}

static void copy_out(const struct job *j, uint64_t skip, const uint8_t *p, size_t n)
{
	for (size_t i = 0; n > 0; i++) {
		size_t len = j->iov[i].iov_len;

		if (skip >= len) {
			skip -= len;
			continue;
		}
		size_t here = min_u64(n, len - skip);
		memcpy((uint8_t *)j->iov[i].iov_base + skip, p, here);
		p += here;
		n -= here;
		skip = 0;
	}
}

static void release(struct job *j)
{
	LOCK_SCOPE(&j->s->lock);
	for (size_t i = 0; i < j->n_spans; i++)
		ssd_index_release(j->s->index, j->spans[i].place.segment);
}

/* Reads what collect() found; `at` of the caller's bytes are there already. Returns how many more are. */
static size_t bring(struct job *j, size_t at)
{
	size_t got = 0, good = 0;

	make_ios(j);
	ssd_ring_run(j->lane->ring, j->ios, j->n_ios, on_stall, j->s);
	for (; good < j->n_spans && check_span(j, &j->spans[good]); good++) {
		const struct span *sp = &j->spans[good];
		uint32_t skip = sp->from - (uint32_t)(sp->unit * SSD_UNIT_BYTES);

		if (sp->scratch)
			copy_out(j, at + got, sp->ptr + skip, sp->to - sp->from);
		got += sp->to - sp->from;
	}
	release(j);
	ssd_count(&j->s->stats.hits, good);
	return got;
}

size_t ssd_read(struct ssd *s, const struct ssd_id *id, uint64_t offset, const struct iovec *iov,
		size_t n_iov)
{
	struct job j = { .s = s, .id = id, .iov = iov, .pos = offset };
	size_t got = 0;

	if (ssd_is_off(s))
		return 0;
	j.end = offset;
	for (size_t i = 0; i < n_iov; i++)
		j.end += iov[i].iov_len;
	j.lane = lane_take(s);
	if (!j.lane)
		return 0;
	while (j.pos < j.end && !ssd_is_off(s)) {
		uint64_t from = j.pos;

		collect(&j);
		if (j.n_spans == 0)
			break;
		size_t n = bring(&j, got);

		got += n;
		if (n < j.pos - from)
			break;
	}
	lane_put(s, j.lane);
	ssd_count(&s->stats.bytes_read, got);
	return got;
}
