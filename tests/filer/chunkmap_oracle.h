/* What a chunk map has to show, found slowly and plainly: for the unit tests and the fuzzer. */
#ifndef KELP_TESTS_CHUNKMAP_ORACLE_H
#define KELP_TESTS_CHUNKMAP_ORACLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "filer/chunkmap.h"

#define ORACLE_CHUNKS_MAX 64
#define ORACLE_BYTES_MAX 512
#define ORACLE_HOLE UINT32_MAX

/* The chunk that each byte of the file shows, for lists without equal times: each byte asks all. */
static inline void oracle_paint(const struct entry *e, uint32_t shown[ORACLE_BYTES_MAX])
{
	for (uint64_t at = 0; at < e->size; at++) {
		shown[at] = ORACLE_HOLE;
		for (uint32_t i = 0; i < e->n_chunks; i++) {
			const struct chunk *c = &e->chunks[i];
			bool covers = c->offset <= at && at - c->offset < c->size;

			if (covers && (shown[at] == ORACLE_HOLE ||
				       e->chunks[shown[at]].modified_ns < c->modified_ns))
				shown[at] = i;
		}
	}
}

struct oracle_point {
	uint64_t x;
	int64_t time;
	bool starts;
	uint32_t chunk;
};

static inline bool oracle_before(const struct oracle_point *a, const struct oracle_point *b)
{
	if (a->x != b->x)
		return a->x < b->x;
	if (a->time != b->time)
		return a->time < b->time;
	return !a->starts && b->starts;
}

static inline size_t oracle_points(const struct entry *e, struct oracle_point *points)
{
	size_t n = 0;

	for (uint32_t i = 0; i < e->n_chunks; i++) {
		const struct chunk *c = &e->chunks[i];

		if (c->size == 0 || c->offset >= e->size)
			continue;
		for (int end = 0; end < 2; end++) {
			struct oracle_point p = { .x = c->offset + (end ? c->size : 0),
						  .time = c->modified_ns,
						  .starts = !end,
						  .chunk = i };
			size_t at = n++;

			for (; at > 0 && oracle_before(&p, &points[at - 1]); at--)
				points[at] = points[at - 1];
			points[at] = p;
		}
	}
	return n;
}

/* Extents whose .chunk counts in e->chunks: the filer's own way of going over the ends with a list
 * sorted by time, equal times included. extents needs room for 2 * ORACLE_CHUNKS_MAX. */
static inline size_t oracle_filer(const struct entry *e, struct extent *extents)
{
	struct oracle_point points[2 * ORACLE_CHUNKS_MAX];
	uint32_t list[ORACLE_CHUNKS_MAX];
	size_t n_points = oracle_points(e, points), n_list = 0, n = 0;
	uint64_t from = 0;

	if (!e->chunks)
		return 0;
	for (size_t i = 0; i < n_points; i++) {
		const struct oracle_point *p = &points[i];
		const struct chunk *top = n_list > 0 ? &e->chunks[list[n_list - 1]] : NULL;
		size_t at = n_list;
		bool turns;

		if (p->starts) {
			turns = !top || top->modified_ns < p->time;
			while (at > 0 && e->chunks[list[at - 1]].modified_ns > p->time)
				at--;
		} else {
			turns = top && top->modified_ns == p->time;
			while (at > 0 && e->chunks[list[at - 1]].modified_ns != p->time)
				at--;
		}
		if (turns && top) {
			uint64_t to = min_u64(p->x, min_u64(e->size, top->offset + top->size));

			if (from < to)
				extents[n++] = (struct extent){ .offset = from,
								.len = to - from,
								.chunk_offset = from - top->offset,
								.chunk = list[n_list - 1] };
		}
		if (turns)
			from = p->x;
		if (p->starts && (turns || at < n_list)) {
			memmove(&list[at + 1], &list[at], (n_list - at) * sizeof(list[0]));
			list[at] = p->chunk;
			n_list++;
		} else if (!p->starts && at > 0) {
			memmove(&list[at - 1], &list[at], (n_list - at) * sizeof(list[0]));
			n_list--;
		}
	}
	return n;
}

/* The extents of a map are in order, apart from each other, within the file and their chunks, and no two
 * that touch show the same chunk. */
static inline bool oracle_well_formed(const struct chunkmap *m)
{
	uint64_t end = 0;

	for (size_t i = 0; i < m->n_extents; i++) {
		const struct extent *x = &m->extents[i];

		if (x->len == 0 || x->offset < end || x->offset >= m->size ||
		    x->len > m->size - x->offset || x->chunk >= m->n_chunks ||
		    x->offset - m->chunks[x->chunk].offset != x->chunk_offset ||
		    x->chunk_offset > m->chunks[x->chunk].size ||
		    x->len > m->chunks[x->chunk].size - x->chunk_offset ||
		    (i > 0 && x->offset == end && x[-1].chunk == x->chunk))
			return false;
		end = x->offset + x->len;
	}
	return true;
}

/* Chunks are told from each other by their keys, since a map leaves some of them out. */
static inline bool oracle_same_extents(const struct entry *e, const struct chunkmap *m,
				       const struct extent *extents, size_t n)
{
	if (m->n_extents != n)
		return false;
	for (size_t i = 0; i < n; i++) {
		const struct extent *a = &m->extents[i], *b = &extents[i];

		if (a->offset != b->offset || a->len != b->len ||
		    a->chunk_offset != b->chunk_offset ||
		    m->chunks[a->chunk].fid.key != e->chunks[b->chunk].fid.key)
			return false;
	}
	return true;
}

static inline bool oracle_same_bytes(const struct entry *e, const struct chunkmap *m,
				     const uint32_t shown[ORACLE_BYTES_MAX])
{
	for (uint64_t at = 0; at < e->size; at++) {
		size_t i = chunkmap_find(m, at);
		bool hole = i == m->n_extents || m->extents[i].offset > at;

		if (hole != (shown[at] == ORACLE_HOLE))
			return false;
		if (!hole && m->chunks[m->extents[i].chunk].fid.key != e->chunks[shown[at]].fid.key)
			return false;
	}
	return true;
}

#endif
