#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "filer.pb-c.h"
#include "filer/base/base.h"
#include "filer/chunkmap.h"
#include "tests/filer/chunkmap_oracle.h"

#define TIMEOUT_MS 60000
/* of the property tests; the same lists each time */
#define SEED 20240229
#define ROUNDS 20000

static int no_manifest(void *arg, const struct chunk *c, size_t max_bytes, struct deadline d,
		       uint8_t **ret, size_t *ret_len)
{
	(void)arg, (void)c, (void)max_bytes, (void)d, (void)ret, (void)ret_len;
	fail_msg("a manifest was read");
	return -EIO;
}

static int build_with(uint64_t size, struct chunk *chunks, size_t n, chunkmap_read_manifest read,
		      void *arg, struct chunkmap **ret)
{
	struct entry e = { .size = size, .chunks = chunks, .n_chunks = (uint32_t)n };

	return chunkmap_build(&e, read, arg, deadline_in_ms(TIMEOUT_MS), ret);
}

static struct chunkmap *build(uint64_t size, struct chunk *chunks, size_t n)
{
	struct chunkmap *m;

	assert_int_equal(build_with(size, chunks, n, no_manifest, NULL, &m), 0);
	assert_true(oracle_well_formed(m));
	assert_true(m->size == size);
	return m;
}

/* key names the chunk. */
static struct chunk piece(uint64_t key, uint64_t offset, uint64_t size, int64_t time)
{
	return (struct chunk){ .fid = { .key = key, .volume_id = 1 },
			       .offset = offset,
			       .size = size,
			       .modified_ns = time };
}

static void assert_extent(const struct chunkmap *m, size_t i, uint64_t key, uint64_t offset,
			  uint64_t len, uint64_t chunk_offset)
{
	assert_true(i < m->n_extents);
	assert_int_equal(m->chunks[m->extents[i].chunk].fid.key, key);
	assert_int_equal(m->extents[i].offset, offset);
	assert_int_equal(m->extents[i].len, len);
	assert_int_equal(m->extents[i].chunk_offset, chunk_offset);
}

static void file_without_chunks_has_no_extents(void **state)
{
	(void)state;
	struct chunkmap *m = build(100, NULL, 0);

	assert_int_equal(m->n_extents, 0);
	assert_int_equal(chunkmap_find(m, 0), 0);
	chunkmap_free(m);
	chunkmap_free(NULL);
}

static void unsorted_chunks_come_out_sorted_with_holes_between(void **state)
{
	(void)state;
	struct chunk c[] = { piece(1, 20, 5, 9), piece(2, 0, 10, 1), piece(3, 10, 5, 1) };
	struct chunkmap *m = build(100, c, ARRAY_LEN(c));

	assert_int_equal(m->n_extents, 3);
	assert_extent(m, 0, 2, 0, 10, 0);
	assert_extent(m, 1, 3, 10, 5, 0);
	assert_extent(m, 2, 1, 20, 5, 0);
	chunkmap_free(m);
}

static void newer_chunk_hides_part_of_older_wherever_it_is_listed(void **state)
{
	(void)state;
	struct chunk c[] = { piece(1, 0, 30, 1), piece(2, 10, 5, 2) };
	struct chunk swapped[] = { c[1], c[0] };
	struct chunk *lists[] = { c, swapped };

	for (size_t i = 0; i < ARRAY_LEN(lists); i++) {
		struct chunkmap *m = build(30, lists[i], 2);

		assert_int_equal(m->n_extents, 3);
		assert_extent(m, 0, 1, 0, 10, 0);
		assert_extent(m, 1, 2, 10, 5, 0);
		assert_extent(m, 2, 1, 15, 15, 15);
		chunkmap_free(m);
	}
}

static void older_chunk_within_newer_is_not_seen_and_does_not_split_it(void **state)
{
	(void)state;
	struct chunk c[] = { piece(1, 0, 30, 2), piece(2, 10, 5, 1) };
	struct chunkmap *m = build(30, c, ARRAY_LEN(c));

	assert_int_equal(m->n_extents, 1);
	assert_extent(m, 0, 1, 0, 30, 0);
	chunkmap_free(m);
}

static void negative_times_are_older(void **state)
{
	(void)state;
	struct chunk c[] = { piece(1, 0, 10, INT64_MIN), piece(2, 0, 10, INT64_MAX),
			     piece(3, 0, 10, -1) };
	struct chunkmap *m = build(10, c, ARRAY_LEN(c));

	assert_int_equal(m->n_extents, 1);
	assert_extent(m, 0, 2, 0, 10, 0);
	chunkmap_free(m);
}

static void extents_end_with_the_file(void **state)
{
	(void)state;
	struct chunk c[] = { piece(1, 0, 30, 1), piece(2, 10, 30, 2), piece(3, 20, 1, 3) };
	struct chunkmap *m = build(20, c, ARRAY_LEN(c));

	assert_int_equal(m->n_extents, 2);
	assert_extent(m, 0, 1, 0, 10, 0);
	assert_extent(m, 1, 2, 10, 10, 0);
	chunkmap_free(m);
}

static void chunks_and_manifests_of_no_size_or_beyond_the_file_are_ignored(void **state)
{
	(void)state;
	struct chunk c[] = { piece(1, 0, 10, 1), piece(2, 5, 0, 2), piece(3, 5, 0, 2),
			     piece(4, 20, 5, 2), piece(5, 20, 5, 2) };

	c[2].flags = CHUNK_MANIFEST;
	c[3].flags = CHUNK_MANIFEST;
	struct chunkmap *m = build(20, c, ARRAY_LEN(c));

	assert_int_equal(m->n_extents, 1);
	assert_extent(m, 0, 1, 0, 10, 0);
	chunkmap_free(m);
}

static void offsets_up_to_the_greatest_are_right(void **state)
{
	(void)state;
	struct chunk c[] = { piece(1, INT64_MAX - 10, 10, 1), piece(2, 0, INT64_MAX, 2),
			     piece(3, INT64_MAX - 5, 2, 3) };
	struct chunkmap *m = build(INT64_MAX, c, ARRAY_LEN(c));

	assert_int_equal(m->n_extents, 3);
	assert_extent(m, 0, 2, 0, INT64_MAX - 5, 0);
	assert_extent(m, 1, 3, INT64_MAX - 5, 2, 0);
	assert_extent(m, 2, 2, INT64_MAX - 3, 3, INT64_MAX - 3);
	chunkmap_free(m);
}

static void chunk_beyond_the_greatest_offset_is_refused(void **state)
{
	(void)state;
	struct chunk bad[] = { piece(1, UINT64_C(1) << 63, 1, 1), piece(1, INT64_MAX, 1, 1),
			       piece(1, 1, INT64_MAX, 1), piece(1, 0, UINT64_MAX, 1) };

	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		struct chunkmap *m = NULL;

		assert_int_equal(build_with(100, &bad[i], 1, no_manifest, NULL, &m), -EPROTO);
		assert_null(m);
	}
}

/* Chunks of equal time: what the filer shows was found by experiment, see the comment in the code. */

static void of_equal_times_the_first_start_wins_and_the_tail_of_the_other_is_a_hole(void **state)
{
	(void)state;
	struct chunk c[] = { piece(1, 0, 10, 7), piece(2, 5, 10, 7) };
	struct chunk swapped[] = { c[1], c[0] };
	struct chunk *lists[] = { c, swapped };

	for (size_t i = 0; i < ARRAY_LEN(lists); i++) {
		struct chunkmap *m = build(15, lists[i], 2);

		assert_int_equal(m->n_extents, 1);
		assert_extent(m, 0, 1, 0, 10, 0);
		chunkmap_free(m);
	}
}

static void of_equal_times_and_starts_the_first_in_the_list_wins(void **state)
{
	(void)state;
	struct chunk c[] = { piece(2, 0, 10, 7), piece(1, 0, 10, 7) };
	struct chunkmap *m = build(10, c, 2);

	assert_int_equal(m->n_extents, 1);
	assert_extent(m, 0, 2, 0, 10, 0);
	chunkmap_free(m);
}

static void of_equal_times_the_end_of_an_inner_chunk_ends_the_outer_one(void **state)
{
	(void)state;
	struct chunk c[] = { piece(1, 0, 20, 7), piece(2, 5, 5, 7) };
	struct chunkmap *m = build(20, c, 2);

	assert_int_equal(m->n_extents, 1);
	assert_extent(m, 0, 1, 0, 10, 0);
	chunkmap_free(m);
}

static void of_equal_times_touching_chunks_are_both_seen(void **state)
{
	(void)state;
	struct chunk c[] = { piece(2, 5, 5, 7), piece(1, 0, 5, 7) };
	struct chunkmap *m = build(10, c, 2);

	assert_int_equal(m->n_extents, 2);
	assert_extent(m, 0, 1, 0, 5, 0);
	assert_extent(m, 1, 2, 5, 5, 0);
	chunkmap_free(m);
}

static void of_equal_times_under_a_newer_one_no_extent_leaves_its_chunk(void **state)
{
	(void)state;
	struct chunk c[] = { piece(1, 0, 10, 7), piece(2, 4, 11, 7), piece(3, 2, 4, 8) };
	struct chunkmap *m = build(15, c, ARRAY_LEN(c));

	assert_int_equal(m->n_extents, 3);
	assert_extent(m, 0, 1, 0, 2, 0);
	assert_extent(m, 1, 3, 2, 4, 0);
	assert_extent(m, 2, 2, 6, 4, 2);
	chunkmap_free(m);
}

static uint64_t rnd(uint64_t *seed)
{
	*seed ^= *seed << 13;
	*seed ^= *seed >> 7;
	*seed ^= *seed << 17;
	return *seed;
}

static size_t random_chunks(uint64_t *seed, struct chunk *c, uint64_t places, unsigned times)
{
	size_t n = rnd(seed) % 24;

	for (size_t i = 0; i < n; i++) {
		uint64_t size = rnd(seed) % (rnd(seed) % 4 ? 8 : places);
		int64_t time = times ? (int64_t)(rnd(seed) % times) : (int64_t)i;

		c[i] = piece(i + 1, rnd(seed) % places, size, time);
	}
	for (size_t i = n; times == 0 && i > 1; i--) { /* distinct times, in any order */
		size_t j = rnd(seed) % i;
		int64_t t = c[j].modified_ns;

		c[j].modified_ns = c[i - 1].modified_ns;
		c[i - 1].modified_ns = t;
	}
	return n;
}

static void any_list_of_distinct_times_shows_the_newest_at_each_byte(void **state)
{
	(void)state;
	uint64_t seed = SEED;

	for (unsigned round = 0; round < ROUNDS; round++) {
		struct chunk c[24];
		uint32_t shown[ORACLE_BYTES_MAX];
		uint64_t places = 1 + rnd(&seed) % 64;
		struct entry e = { .size = rnd(&seed) % (2 * places), .chunks = c };

		e.n_chunks = (uint32_t)random_chunks(&seed, c, places, 0);
		struct chunkmap *m = build(e.size, c, e.n_chunks);

		oracle_paint(&e, shown);
		if (!oracle_same_bytes(&e, m, shown))
			fail_msg("round %u", round);
		chunkmap_free(m);
	}
}

static void any_list_with_equal_times_shows_what_the_filer_shows(void **state)
{
	(void)state;
	uint64_t seed = SEED;

	for (unsigned round = 0; round < ROUNDS; round++) {
		struct chunk c[24];
		struct extent extents[2 * ORACLE_CHUNKS_MAX];
		uint64_t places = 1 + rnd(&seed) % 64;
		struct entry e = { .size = rnd(&seed) % (2 * places), .chunks = c };

		e.n_chunks = (uint32_t)random_chunks(&seed, c, places, 1 + round % 6);
		struct chunkmap *m = build(e.size, c, e.n_chunks);

		if (!oracle_same_extents(&e, m, extents, oracle_filer(&e, extents)))
			fail_msg("round %u", round);
		chunkmap_free(m);
	}
}

static int64_t cpu_ms(void)
{
	struct timespec ts;

	assert_int_equal(clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &ts), 0);
	return ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

/* Each chunk contains the next, which is newer: none can be forgotten before the middle. */
static void a_million_nested_chunks_take_seconds_at_most(void **state)
{
	(void)state;
	enum { N = 1000000 };
	struct chunk *c = calloc(N, sizeof(*c));
	int64_t started_ms = cpu_ms();

	assert_non_null(c);
	for (uint64_t i = 0; i < N; i++)
		c[i] = piece(i + 1, i, INT64_MAX - 2 * i, (int64_t)i);
	struct chunkmap *m = build(INT64_MAX, c, N);

	assert_int_equal(m->n_extents, (size_t)2 * N - 1);
	assert_true(cpu_ms() - started_ms < 20000); /* 1 s, but there are sanitizers */
	chunkmap_free(m);
	free(c);
}

static void find_gives_the_first_extent_that_ends_after_the_offset(void **state)
{
	(void)state;
	struct chunk c[] = { piece(1, 10, 10, 1), piece(2, 20, 10, 1), piece(3, 40, 10, 1) };
	struct chunkmap *m = build(100, c, ARRAY_LEN(c));

	assert_int_equal(chunkmap_find(m, 0), 0);
	assert_int_equal(chunkmap_find(m, 10), 0);
	assert_int_equal(chunkmap_find(m, 19), 0);
	assert_int_equal(chunkmap_find(m, 20), 1);
	assert_int_equal(chunkmap_find(m, 30), 2);
	assert_int_equal(chunkmap_find(m, 49), 2);
	assert_int_equal(chunkmap_find(m, 50), 3);
	assert_int_equal(chunkmap_find(m, UINT64_MAX), 3);
	chunkmap_free(m);
}

static void assert_seek(int (*seek)(const struct chunkmap *, uint64_t, uint64_t *),
			const struct chunkmap *m, uint64_t offset, uint64_t expected)
{
	uint64_t got = UINT64_MAX;

	assert_int_equal(seek(m, offset, &got), 0);
	assert_int_equal(got, expected);
}

static void seek_data_finds_the_next_byte_of_a_chunk(void **state)
{
	(void)state;
	struct chunk c[] = { piece(1, 10, 10, 1), piece(2, 40, 10, 1) };
	struct chunkmap *m = build(100, c, ARRAY_LEN(c));
	uint64_t got = 7;

	assert_seek(chunkmap_seek_data, m, 0, 10);
	assert_seek(chunkmap_seek_data, m, 15, 15);
	assert_seek(chunkmap_seek_data, m, 20, 40);
	assert_seek(chunkmap_seek_data, m, 49, 49);
	assert_int_equal(chunkmap_seek_data(m, 50, &got), -ENXIO); /* only a hole is left */
	assert_int_equal(chunkmap_seek_data(m, 100, &got), -ENXIO);
	assert_int_equal(chunkmap_seek_data(m, UINT64_MAX, &got), -ENXIO);
	assert_int_equal(got, 7);
	chunkmap_free(m);
}

static void seek_hole_passes_touching_extents_and_ends_with_the_file(void **state)
{
	(void)state;
	struct chunk c[] = { piece(1, 10, 10, 1), piece(2, 20, 10, 1), piece(3, 90, 10, 1) };
	struct chunkmap *m = build(100, c, ARRAY_LEN(c));
	uint64_t got = 7;

	assert_seek(chunkmap_seek_hole, m, 0, 0);
	assert_seek(chunkmap_seek_hole, m, 10, 30);
	assert_seek(chunkmap_seek_hole, m, 25, 30);
	assert_seek(chunkmap_seek_hole, m, 30, 30);
	assert_seek(chunkmap_seek_hole, m, 95, 100);
	assert_int_equal(chunkmap_seek_hole(m, 100, &got), -ENXIO);
	assert_int_equal(chunkmap_seek_hole(m, UINT64_MAX, &got), -ENXIO);
	assert_int_equal(got, 7);
	chunkmap_free(m);
}

/* Manifests: needle key i + 1 holds the list manifests[i]. */
#define MANIFESTS_MAX 16

struct store {
	struct {
		const struct chunk *chunks;
		size_t n;
	} manifests[MANIFESTS_MAX];
	size_t reads;
	int err; /* of each read, if not 0 */
};

static struct chunk manifest(uint64_t key, uint64_t offset, uint64_t size)
{
	struct chunk c = piece(key, offset, size, 1);

	c.flags = CHUNK_MANIFEST;
	return c;
}

static int read_stored(void *arg, const struct chunk *c, size_t max_bytes, struct deadline d,
		       uint8_t **ret, size_t *ret_len)
{
	struct store *s = arg;
	FilerPb__FileChunk chunks[4], *list[4];
	FilerPb__FileId fids[4];
	FilerPb__FileChunkManifest pb = FILER_PB__FILE_CHUNK_MANIFEST__INIT;

	(void)d;
	assert_int_equal(max_bytes, MANIFEST_BYTES_MAX);
	s->reads++;
	if (s->err)
		return s->err;
	pb.n_chunks = s->manifests[c->fid.key - 1].n;
	pb.chunks = list;
	assert_true(pb.n_chunks <= ARRAY_LEN(list));
	for (size_t i = 0; i < pb.n_chunks; i++) {
		const struct chunk *from = &s->manifests[c->fid.key - 1].chunks[i];

		filer_pb__file_chunk__init(&chunks[i]);
		filer_pb__file_id__init(&fids[i]);
		fids[i].volume_id = 1;
		fids[i].file_key = from->fid.key;
		chunks[i].fid = &fids[i];
		chunks[i].offset = (int64_t)from->offset;
		chunks[i].size = from->size;
		chunks[i].modified_ts_ns = from->modified_ns;
		chunks[i].is_chunk_manifest = from->flags & CHUNK_MANIFEST;
		chunks[i].cipher_key.data = (uint8_t *)from->cipher_key;
		chunks[i].cipher_key.len = from->cipher_key ? CIPHER_KEY_BYTES : 0;
		list[i] = &chunks[i];
	}
	*ret = malloc(filer_pb__file_chunk_manifest__get_packed_size(&pb) + 1);
	assert_non_null(*ret);
	*ret_len = filer_pb__file_chunk_manifest__pack(&pb, *ret);
	return 0;
}

static void nested_manifests_are_resolved_in_the_order_of_the_list(void **state)
{
	(void)state;
	struct chunk inner[] = { piece(102, 20, 10, 5) };
	struct chunk outer[] = { piece(101, 10, 10, 5), manifest(2, 20, 10),
				 piece(103, 20, 10, 5) };
	struct chunk c[] = { piece(100, 0, 10, 5), manifest(1, 10, 20), piece(104, 10, 10, 5) };
	struct store s = { .manifests = { { outer, 3 }, { inner, 1 } } };
	struct chunkmap *m;

	assert_int_equal(build_with(30, c, ARRAY_LEN(c), read_stored, &s, &m), 0);
	assert_int_equal(s.reads, 2);
	assert_int_equal(m->n_extents, 3);
	assert_extent(m, 0, 100, 0, 10, 0);
	assert_extent(m, 1, 101, 10, 10, 0);
	assert_extent(m, 2, 102, 20, 10, 0);
	chunkmap_free(m);
}

static void manifest_that_names_itself_or_one_above_it_is_refused(void **state)
{
	(void)state;
	struct chunk first[] = { piece(101, 0, 10, 1), manifest(2, 0, 10) };
	struct chunk second[] = { manifest(1, 0, 10) };
	struct chunk c[] = { manifest(1, 0, 10) };
	struct store itself = { .manifests = { { c, 1 } } };
	struct store each_other = { .manifests = { { first, 2 }, { second, 1 } } };
	struct chunkmap *m = NULL;

	assert_int_equal(build_with(10, c, 1, read_stored, &itself, &m), -EPROTO);
	assert_int_equal(itself.reads, 1);
	assert_int_equal(build_with(10, c, 1, read_stored, &each_other, &m), -EPROTO);
	assert_int_equal(each_other.reads, 2);
	assert_null(m);
}

static void manifest_may_be_named_twice_side_by_side(void **state)
{
	(void)state;
	struct chunk list[] = { piece(101, 0, 10, 1) };
	struct chunk c[] = { manifest(1, 0, 10), manifest(1, 0, 10) };
	struct store s = { .manifests = { { list, 1 } } };
	struct chunkmap *m;

	assert_int_equal(build_with(10, c, 2, read_stored, &s, &m), 0);
	assert_int_equal(m->n_extents, 1);
	chunkmap_free(m);
}

static void manifests_nest_as_deep_as_the_limit_and_no_deeper(void **state)
{
	(void)state;
	struct chunk lists[MANIFEST_DEPTH_MAX + 1];
	struct chunk c[] = { manifest(1, 0, 10) };
	struct store s = { 0 };
	struct chunkmap *m = NULL;

	for (size_t i = 0; i <= MANIFEST_DEPTH_MAX; i++) {
		lists[i] = manifest(i + 2, 0, 10);
		s.manifests[i].chunks = &lists[i];
		s.manifests[i].n = 1;
	}
	lists[MANIFEST_DEPTH_MAX] = piece(101, 0, 10, 1);
	assert_int_equal(build_with(10, c, 1, read_stored, &s, &m), -EPROTO);
	assert_int_equal(s.reads, MANIFEST_DEPTH_MAX);
	assert_null(m);
	lists[MANIFEST_DEPTH_MAX - 1] = piece(101, 0, 10, 1);
	assert_int_equal(build_with(10, c, 1, read_stored, &s, &m), 0);
	assert_extent(m, 0, 101, 0, 10, 0);
	chunkmap_free(m);
}

/* Each list names the next one four times. */
static void manifests_are_limited_in_number(void **state)
{
	(void)state;
	struct chunk lists[MANIFEST_DEPTH_MAX - 1][4];
	struct chunk c[8];
	struct store s = { 0 };
	struct chunkmap *m = NULL;

	for (size_t i = 0; i < MANIFEST_DEPTH_MAX - 1; i++) {
		for (size_t j = 0; j < 4; j++)
			lists[i][j] = manifest(i + 2, 0, 10);
		s.manifests[i].chunks = lists[i];
		s.manifests[i].n = 4;
	}
	for (size_t i = 0; i < ARRAY_LEN(c); i++)
		c[i] = manifest(1, 0, 10);
	assert_int_equal(build_with(10, c, ARRAY_LEN(c), read_stored, &s, &m), -EPROTO);
	assert_int_equal(s.reads, MANIFEST_COUNT_MAX);
	assert_null(m);
}

static void failure_to_read_a_manifest_is_passed_on(void **state)
{
	(void)state;
	struct chunk c[] = { piece(101, 0, 10, 1), manifest(1, 0, 10) };
	struct store s = { .err = -ETIMEDOUT };
	struct chunkmap *m = NULL;

	assert_int_equal(build_with(10, c, 2, read_stored, &s, &m), -ETIMEDOUT);
	assert_null(m);
}

static void map_owns_the_keys_of_entry_and_manifests(void **state)
{
	(void)state;
	uint8_t one[CIPHER_KEY_BYTES], two[CIPHER_KEY_BYTES];
	struct chunk list[] = { piece(102, 10, 10, 1), piece(103, 20, 10, 1) };
	struct chunk c[] = { piece(101, 0, 10, 1), manifest(1, 10, 20) };
	struct store s = { .manifests = { { list, 2 } } };
	struct chunkmap *m;

	memset(one, 1, sizeof(one));
	memset(two, 2, sizeof(two));
	c[0].cipher_key = one;
	list[1].cipher_key = two;
	assert_int_equal(build_with(30, c, 2, read_stored, &s, &m), 0);
	memset(one, 0, sizeof(one));
	memset(two, 0, sizeof(two));
	assert_int_equal(m->n_chunks, 3);
	assert_int_equal(m->chunks[0].cipher_key[CIPHER_KEY_BYTES - 1], 1);
	assert_null(m->chunks[1].cipher_key);
	assert_int_equal(m->chunks[2].cipher_key[CIPHER_KEY_BYTES - 1], 2);
	assert_int_equal(chunkmap_memory_bytes(m), sizeof(*m) + 3 * sizeof(struct extent) +
							   3 * sizeof(struct chunk) +
							   (size_t)2 * CIPHER_KEY_BYTES);
	chunkmap_free(m);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(file_without_chunks_has_no_extents),
		cmocka_unit_test(unsorted_chunks_come_out_sorted_with_holes_between),
		cmocka_unit_test(newer_chunk_hides_part_of_older_wherever_it_is_listed),
		cmocka_unit_test(older_chunk_within_newer_is_not_seen_and_does_not_split_it),
		cmocka_unit_test(negative_times_are_older),
		cmocka_unit_test(extents_end_with_the_file),
		cmocka_unit_test(chunks_and_manifests_of_no_size_or_beyond_the_file_are_ignored),
		cmocka_unit_test(offsets_up_to_the_greatest_are_right),
		cmocka_unit_test(chunk_beyond_the_greatest_offset_is_refused),
		cmocka_unit_test(
			of_equal_times_the_first_start_wins_and_the_tail_of_the_other_is_a_hole),
		cmocka_unit_test(of_equal_times_and_starts_the_first_in_the_list_wins),
		cmocka_unit_test(of_equal_times_the_end_of_an_inner_chunk_ends_the_outer_one),
		cmocka_unit_test(of_equal_times_touching_chunks_are_both_seen),
		cmocka_unit_test(of_equal_times_under_a_newer_one_no_extent_leaves_its_chunk),
		cmocka_unit_test(any_list_of_distinct_times_shows_the_newest_at_each_byte),
		cmocka_unit_test(any_list_with_equal_times_shows_what_the_filer_shows),
		cmocka_unit_test(a_million_nested_chunks_take_seconds_at_most),
		cmocka_unit_test(find_gives_the_first_extent_that_ends_after_the_offset),
		cmocka_unit_test(seek_data_finds_the_next_byte_of_a_chunk),
		cmocka_unit_test(seek_hole_passes_touching_extents_and_ends_with_the_file),
		cmocka_unit_test(nested_manifests_are_resolved_in_the_order_of_the_list),
		cmocka_unit_test(manifest_that_names_itself_or_one_above_it_is_refused),
		cmocka_unit_test(manifest_may_be_named_twice_side_by_side),
		cmocka_unit_test(manifests_nest_as_deep_as_the_limit_and_no_deeper),
		cmocka_unit_test(manifests_are_limited_in_number),
		cmocka_unit_test(failure_to_read_a_manifest_is_passed_on),
		cmocka_unit_test(map_owns_the_keys_of_entry_and_manifests),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
