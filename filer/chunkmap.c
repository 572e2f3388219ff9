#include "filer/chunkmap.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "filer/manifest.h"

/* Building has two steps: collect() makes one flat list of data chunks out of chunks and manifests, and
 * sweep() goes over their ends from left to right and notes what is visible. */

/* Step one. */
struct builder {
	uint64_t file_size;
	chunkmap_read_manifest read_manifest;
	void *arg;
	struct deadline deadline;
	struct chunk *chunks; /* keys still lie in the entry and in the manifests */
	size_t n_chunks;
	size_t cap_chunks;
	struct manifest *manifests; /* only their keys are needed any more */
	size_t n_manifests;
	struct fid path[MANIFEST_DEPTH_MAX]; /* manifests above the present one, outermost first */
};

static int append_chunk(struct builder *b, const struct chunk *c)
{
	if (b->n_chunks == CHUNKMAP_CHUNKS_MAX)
		return -EPROTO;
	if (b->n_chunks == b->cap_chunks) {
		size_t cap = b->cap_chunks ? 2 * b->cap_chunks : 16;
		struct chunk *grown = reallocarray(b->chunks, cap, sizeof(*grown));

		if (!grown)
			return -ENOMEM;
		b->chunks = grown;
		b->cap_chunks = cap;
	}
	b->chunks[b->n_chunks++] = *c;
	return 0;
}

static bool same_fid(const struct fid *a, const struct fid *b)
{
	return a->key == b->key && a->volume_id == b->volume_id && a->cookie == b->cookie;
}

static int load_manifest(struct builder *b, const struct chunk *c, struct manifest **ret)
{
	CLEANUP_FREE uint8_t *bytes = NULL;
	size_t len;
	int err = b->read_manifest(b->arg, c, MANIFEST_BYTES_MAX, b->deadline, &bytes, &len);

	if (err)
		return err;
	return manifest_decode(bytes, len, CHUNKMAP_CHUNKS_MAX - b->n_chunks, ret);
}

static int collect(struct builder *b, const struct chunk *chunks, size_t n, unsigned depth);

static int collect_manifest(struct builder *b, const struct chunk *c, unsigned depth)
{
	struct manifest *m;
	int err;

	if (depth == MANIFEST_DEPTH_MAX || b->n_manifests == MANIFEST_COUNT_MAX)
		return -EPROTO;
	for (unsigned i = 0; i < depth; i++) {
		if (same_fid(&b->path[i], &c->fid))
			return -EPROTO;
	}
	b->path[depth] = c->fid;
	b->n_manifests++;
	err = load_manifest(b, c, &m);
	if (err)
		return err;
	m->next = b->manifests;
	b->manifests = m;
	err = collect(b, m->chunks, m->n_chunks, depth + 1);
	free(m->chunks);
	m->chunks = NULL;
	return err;
}

/* Keeps the order of the list: it decides between chunks of equal time and place. */
static int collect(struct builder *b, const struct chunk *chunks, size_t n, unsigned depth)
{
	for (size_t i = 0; i < n; i++) {
		const struct chunk *c = &chunks[i];
		int err;

		if (c->offset > INT64_MAX || c->size > INT64_MAX - c->offset)
			return -EPROTO;
		if (c->size == 0 || c->offset >= b->file_size)
			continue;
		if (c->flags & CHUNK_MANIFEST)
			err = collect_manifest(b, c, depth);
		else
			err = append_chunk(b, c);
		if (err)
			return err;
	}
	return 0;
}

static void free_manifests(struct manifest *m)
{
	while (m) {
		struct manifest *next = m->next;

		manifest_free(m);
		m = next;
	}
}

/* A set of small numbers that tells its greatest: bits, and above them bits that say in which words
 * there are any. */
#define TOPSET_LEVELS 4
#define TOPSET_WORD_BITS 6
static_assert(CHUNKMAP_CHUNKS_MAX <= 1u << (TOPSET_LEVELS * TOPSET_WORD_BITS), "fits a topset");

struct topset {
	uint64_t *levels[TOPSET_LEVELS]; /* the members are in the first */
};

static int topset_init(struct topset *t, size_t n)
{
	for (unsigned i = 0; i < TOPSET_LEVELS; i++) {
		n = (n >> TOPSET_WORD_BITS) + 1;
		t->levels[i] = calloc(n, sizeof(uint64_t));
		if (!t->levels[i])
			return -ENOMEM;
	}
	return 0;
}

static void topset_release(struct topset *t)
{
	for (unsigned i = 0; i < TOPSET_LEVELS; i++)
		free(t->levels[i]);
}

static void topset_add(struct topset *t, uint32_t x)
{
	for (unsigned i = 0; i < TOPSET_LEVELS; i++) {
		t->levels[i][x >> TOPSET_WORD_BITS] |= UINT64_C(1) << (x & 63);
		x >>= TOPSET_WORD_BITS;
	}
}

static void topset_remove(struct topset *t, uint32_t x)
{
	for (unsigned i = 0; i < TOPSET_LEVELS; i++) {
		uint64_t *word = &t->levels[i][x >> TOPSET_WORD_BITS];

		*word &= ~(UINT64_C(1) << (x & 63));
		if (*word)
			return;
		x >>= TOPSET_WORD_BITS;
	}
}

#define NONE UINT32_MAX

/* The greatest member, or NONE. */
static uint32_t topset_max(const struct topset *t)
{
	uint32_t x = 0;

	for (unsigned i = TOPSET_LEVELS; i-- > 0;) {
		uint64_t word = t->levels[i][x];

		if (!word)
			return NONE;
		x = x << TOPSET_WORD_BITS | (uint32_t)(63 - __builtin_clzll(word));
	}
	return x;
}

/* Step two. A chunk is two points; its rank is its time's place among the times that occur. */
#define POINT_STARTS (UINT32_C(1) << 31)
static_assert(CHUNKMAP_CHUNKS_MAX <= POINT_STARTS, "the index of a chunk leaves that bit free");

struct point {
	uint64_t x;
	uint32_t rank;
	uint32_t what; /* index of the chunk, and POINT_STARTS */
};

/* The sweep repeats what the filer does, so that every reader sees the same file. That matters where
 * chunks of equal time overlap, which no ordinary writer makes. The filer keeps the chunks under the
 * line in a list by time, and
 *   - a chunk that starts while the topmost one has the same time is never listed;
 *   - an end takes the last chunk of that time from the list, whosever end it is.
 * So, of two equals, the one that starts first is seen, up to the nearer end, and what is left of
 * either reads as zeros. Where the wrong one was taken while a newer one hid both, the filer goes on
 * beyond the end of a chunk, and fails or shows what a truncation cut off; here that part is zeros
 * too. */
struct sweep {
	const struct chunk *chunks;
	size_t n_chunks;
	uint64_t file_size;
	int64_t *times; /* sorted, each once */
	size_t n_times;
	struct point *points; /* two for each chunk, sorted */
	uint32_t *last; /* by rank: the last listed chunk of that time, or NONE */
	uint32_t *before; /* by chunk: the one of the same time listed before it, or NONE */
	struct topset listed; /* ranks of listed chunks */
	struct extent *extents;
	size_t n_extents;
	size_t cap_extents;
};

static int compare_times(const void *pa, const void *pb)
{
	const int64_t *a = pa, *b = pb;

	return (*a > *b) - (*a < *b);
}

/* By place, then by time, then ends before starts, then as in the list. */
static int compare_points(const void *pa, const void *pb)
{
	const struct point *a = pa, *b = pb;

	if (a->x != b->x)
		return a->x < b->x ? -1 : 1;
	if (a->rank != b->rank)
		return a->rank < b->rank ? -1 : 1;
	return (a->what > b->what) - (a->what < b->what);
}

static uint32_t rank_of(const struct sweep *s, int64_t time)
{
	size_t lo = 0, hi = s->n_times;

	while (lo + 1 < hi) {
		size_t mid = lo + (hi - lo) / 2;

		if (s->times[mid] <= time)
			lo = mid;
		else
			hi = mid;
	}
	return (uint32_t)lo;
}

static int sweep_init(struct sweep *s)
{
	size_t n = s->n_chunks;

	s->times = calloc(n, sizeof(*s->times));
	s->points = calloc(n, 2 * sizeof(*s->points));
	s->last = calloc(n, sizeof(*s->last));
	s->before = calloc(n, sizeof(*s->before));
	if (!s->times || !s->points || !s->last || !s->before)
		return -ENOMEM;
	for (size_t i = 0; i < n; i++)
		s->times[i] = s->chunks[i].modified_ns;
	qsort(s->times, n, sizeof(*s->times), compare_times);
	for (size_t i = 0; i < n; i++) {
		if (i == 0 || s->times[i] != s->times[s->n_times - 1])
			s->times[s->n_times++] = s->times[i];
	}
	for (size_t i = 0; i < n; i++) {
		const struct chunk *c = &s->chunks[i];
		uint32_t rank = rank_of(s, c->modified_ns);

		s->points[2 * i] = (struct point){ c->offset, rank, (uint32_t)i | POINT_STARTS };
		s->points[2 * i + 1] = (struct point){ c->offset + c->size, rank, (uint32_t)i };
	}
	qsort(s->points, 2 * n, sizeof(*s->points), compare_points);
	for (size_t i = 0; i < s->n_times; i++)
		s->last[i] = NONE;
	return topset_init(&s->listed, s->n_times);
}

static void sweep_release(struct sweep *s)
{
	free(s->times);
	free(s->points);
	free(s->last);
	free(s->before);
	topset_release(&s->listed);
	free(s->extents);
}

/* [from, to) shows the chunk. What was shown before [from, to) is another chunk, so extents need no
 * merging. */
static int sweep_show(struct sweep *s, uint32_t chunk, uint64_t from, uint64_t to)
{
	const struct chunk *c = &s->chunks[chunk];

	to = min_u64(to, min_u64(c->offset + c->size, s->file_size));
	if (from >= to)
		return 0;
	if (s->n_extents == s->cap_extents) {
		size_t cap = s->cap_extents ? 2 * s->cap_extents : s->n_chunks;
		struct extent *grown = reallocarray(s->extents, cap, sizeof(*grown));

		if (!grown)
			return -ENOMEM;
		s->extents = grown;
		s->cap_extents = cap;
	}
	s->extents[s->n_extents++] = (struct extent){
		.offset = from, .len = to - from, .chunk_offset = from - c->offset, .chunk = chunk
	};
	return 0;
}

static void sweep_list(struct sweep *s, uint32_t rank, uint32_t chunk)
{
	s->before[chunk] = s->last[rank];
	s->last[rank] = chunk;
	topset_add(&s->listed, rank);
}

static void sweep_unlist(struct sweep *s, uint32_t rank)
{
	s->last[rank] = s->before[s->last[rank]];
	if (s->last[rank] == NONE)
		topset_remove(&s->listed, rank);
}

static int sweep(struct sweep *s)
{
	uint64_t from = 0; /* since where the topmost chunk shows */

	for (size_t i = 0; i < 2 * s->n_chunks; i++) {
		const struct point *p = &s->points[i];
		bool starts = p->what & POINT_STARTS;
		uint32_t top = topset_max(&s->listed);
		bool shows_other = starts ? top == NONE || p->rank > top : p->rank == top;

		if (shows_other) {
			int err = top == NONE ? 0 : sweep_show(s, s->last[top], from, p->x);

			if (err)
				return err;
			from = p->x;
		}
		if (starts && p->rank != top)
			sweep_list(s, p->rank, p->what & ~POINT_STARTS);
		if (!starts && s->last[p->rank] != NONE)
			sweep_unlist(s, p->rank);
	}
	return 0;
}

/* Copies the chunks' keys into one block of the map. */
static int own_keys(struct chunkmap *m)
{
	size_t n = 0;
	uint8_t *key;

	for (size_t i = 0; i < m->n_chunks; i++)
		n += m->chunks[i].cipher_key != NULL;
	if (n == 0)
		return 0;
	m->keys = calloc(n, CIPHER_KEY_BYTES);
	if (!m->keys)
		return -ENOMEM;
	key = m->keys;
	for (size_t i = 0; i < m->n_chunks; i++) {
		struct chunk *c = &m->chunks[i];

		if (!c->cipher_key)
			continue;
		memcpy(key, c->cipher_key, CIPHER_KEY_BYTES);
		c->cipher_key = key;
		key += CIPHER_KEY_BYTES;
	}
	return 0;
}

/* Gives back what an array grew too far; where that fails, it stays as it is. */
static void *trim(void *p, size_t n, size_t size)
{
	void *trimmed = n ? reallocarray(p, n, size) : NULL;

	return trimmed ? trimmed : p;
}

/* Takes the chunks and extents over into a map, from wherever they were built. */
static int finish(struct builder *b, struct sweep *s, struct chunkmap **ret)
{
	struct chunkmap *m = calloc(1, sizeof(*m));
	int err;

	if (!m)
		return -ENOMEM;
	m->size = b->file_size;
	m->n_chunks = b->n_chunks;
	m->n_extents = s->n_extents;
	m->chunks = trim(b->chunks, b->n_chunks, sizeof(*b->chunks));
	m->extents = trim(s->extents, s->n_extents, sizeof(*s->extents));
	b->chunks = NULL;
	s->extents = NULL;
	err = own_keys(m);
	if (err) {
		chunkmap_free(m);
		return err;
	}
	*ret = m;
	return 0;
}

int chunkmap_build(const struct entry *e, chunkmap_read_manifest read_manifest, void *arg,
		   struct deadline d, struct chunkmap **ret)
{
	struct builder b = {
		.file_size = e->size, .read_manifest = read_manifest, .arg = arg, .deadline = d
	};
	struct sweep s = { .file_size = e->size };
	int err = collect(&b, e->chunks, e->n_chunks, 0);

	if (err)
		goto free_chunks;
	s.chunks = b.chunks;
	s.n_chunks = b.n_chunks;
	if (s.n_chunks > 0) {
		err = sweep_init(&s);
		if (!err)
			err = sweep(&s);
	}
	if (!err)
		err = finish(&b, &s, ret);
	sweep_release(&s);
free_chunks:
	free_manifests(b.manifests);
	free(b.chunks);
	return err;
}

void chunkmap_free(struct chunkmap *m)
{
	if (!m)
		return;
	free(m->extents);
	free(m->chunks);
	free(m->keys);
	free(m);
}

size_t chunkmap_find(const struct chunkmap *m, uint64_t offset)
{
	size_t lo = 0, hi = m->n_extents;

	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;
		const struct extent *x = &m->extents[mid];

		if (x->offset + x->len <= offset)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

int chunkmap_seek_data(const struct chunkmap *m, uint64_t offset, uint64_t *ret)
{
	size_t i = chunkmap_find(m, offset);

	if (i == m->n_extents)
		return -ENXIO;
	*ret = max_u64(offset, m->extents[i].offset);
	return 0;
}

int chunkmap_seek_hole(const struct chunkmap *m, uint64_t offset, uint64_t *ret)
{
	if (offset >= m->size)
		return -ENXIO;
	for (size_t i = chunkmap_find(m, offset); i < m->n_extents; i++) {
		if (m->extents[i].offset > offset)
			break;
		offset = m->extents[i].offset + m->extents[i].len;
	}
	*ret = offset;
	return 0;
}

size_t chunkmap_memory_bytes(const struct chunkmap *m)
{
	size_t n_keys = 0;

	for (size_t i = 0; i < m->n_chunks; i++)
		n_keys += m->chunks[i].cipher_key != NULL;
	return sizeof(*m) + m->n_extents * sizeof(*m->extents) + m->n_chunks * sizeof(*m->chunks) +
	       n_keys * CIPHER_KEY_BYTES;
}
