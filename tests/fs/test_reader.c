#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "cache/blockcache.h"
#include "cache/slab.h"
#include "filer/chunkmap.h"
#include "filer/entry.h"
#include "filer/source.h"
#include "fs/bounce.h"
#include "fs/fetch.h"
#include "fs/reader.h"

#define BLOCK (128 * KIB) /* of the smallest slab */
#define TIMEOUT_MS 5000
#define PATIENCE_MS 60000
#define SLAB_BLOCKS (SLAB_BYTES_MIN / BLOCK)
/* Reads of 1 MiB around the cache while all of the smallest slab is in use: one has a buffer set aside. */
#define BOUNCES (1 + BOUNCE_HEAP_BYTES_MAX / MIB)
#define NEEDLE_BYTES_MAX (64 * MIB)
#define KEYS 16 /* whose highest byte is kept */

/* A source of patterned needles that counts what is asked, and fails and dawdles on demand: what a
 * real server does not show at will. */
struct store {
	atomic_uint_fast64_t ranges, wholes, bytes;
	atomic_uint_fast64_t outside; /* buffers that were not in the slab */
	atomic_uint_fast64_t high[KEYS]; /* of each key: where the farthest range ended */
	atomic_int under_way, most_under_way;
	atomic_int delay_ms; /* of each request */
	atomic_int fail_next; /* so many requests get fail_err */
	atomic_int fail_err;
	atomic_int fault_percent; /* of requests, at random */
	atomic_bool stall; /* until the deadline */
	atomic_uint seed;
};

static uint8_t pattern(uint64_t key, uint64_t offset)
{
	uint64_t x = offset * 131 + key * 7919;

	return (uint8_t)(x ^ (offset >> 8) ^ (offset >> 17));
}

static int store_fault(struct store *st, struct deadline d)
{
	static const int faults[] = { -ENOENT, -ECONNRESET, -EIO, -ENODATA };
	unsigned seed = atomic_fetch_add(&st->seed, 2654435761u);

	if (atomic_load(&st->stall)) {
		sleep_ms(60000, d);
		return -ETIMEDOUT;
	}
	if (atomic_load(&st->delay_ms))
		sleep_ms(atomic_load(&st->delay_ms), d);
	if (atomic_load(&st->fail_next) > 0 && atomic_fetch_sub(&st->fail_next, 1) > 0)
		return atomic_load(&st->fail_err);
	if (rand_r(&seed) % 100 < atomic_load(&st->fault_percent))
		return faults[(unsigned)rand_r(&seed) % ARRAY_LEN(faults)];
	return 0;
}

static void store_note_high(struct store *st, uint64_t key, uint64_t end)
{
	atomic_uint_fast64_t *high = &st->high[key % KEYS];
	uint_fast64_t before = atomic_load(high);

	while (before < end && !atomic_compare_exchange_weak(high, &before, end))
		;
}

static int store_read_range(void *self, struct server *server, struct needle_range *r,
			    struct deadline d)
{
	struct store *st = self;
	uint64_t at = r->offset;

	(void)server;
	int now = atomic_fetch_add(&st->under_way, 1) + 1;
	int most = atomic_load(&st->most_under_way);
	while (most < now && !atomic_compare_exchange_weak(&st->most_under_way, &most, now))
		;
	atomic_fetch_add(&st->ranges, 1);
	int err = store_fault(st, d);
	for (size_t i = 0; i < r->n_bufs; i++) {
		if (r->bufs[i].region != SLAB_REGION)
			atomic_fetch_add(&st->outside, 1);
		/* what fails leaves rubbish behind */
		if (err)
			memset(r->bufs[i].ptr, 0xee, r->bufs[i].len);
		for (size_t n = 0; !err && n < r->bufs[i].len; n++, at++)
			r->bufs[i].ptr[n] = pattern(r->fid.key, at);
	}
	if (!err) {
		r->got = at - r->offset;
		atomic_fetch_add(&st->bytes, r->got);
		store_note_high(st, r->fid.key, at);
	}
	atomic_fetch_sub(&st->under_way, 1);
	return err;
}

/* The needle's size is its cookie. */
static int store_read_whole(void *self, struct server *server, const struct fid *fid,
			    const struct needle_sink *sink, struct deadline d)
{
	struct store *st = self;
	uint8_t buf[4096];

	(void)server;
	atomic_fetch_add(&st->wholes, 1);
	int err = store_fault(st, d);
	if (!err)
		err = sink->begin(sink->arg, false, fid->cookie);
	for (uint64_t at = 0; !err && at < fid->cookie;) {
		size_t n = min_u64(sizeof(buf), fid->cookie - at);

		for (size_t i = 0; i < n; i++)
			buf[i] = pattern(fid->key, at + i);
		err = sink->push(sink->arg, buf, n);
		at += n;
	}
	return err;
}

static const struct source_ops store_ops = {
	.name = "store",
	.read_range = store_read_range,
	.read_whole = store_read_whole,
};

struct fixture {
	struct store store;
	struct slab *slab;
	struct blockcache *cache;
	struct fetcher *fetcher;
	struct reader *reader;
};

static int setup_with(void **state, unsigned threads, unsigned timeout_ms)
{
	struct fixture *f = calloc(1, sizeof(*f));
	struct source source = { .ops = &store_ops, .self = &f->store };
	struct fetch_config fetch = { .sources = &source, .n_sources = 1 };

	assert_int_equal(slab_new(SLAB_BYTES_MIN, &f->slab), 0);
	assert_int_equal(blockcache_new(f->slab, &f->cache), 0);
	assert_int_equal(fetcher_new(&fetch, &f->fetcher), 0);
	struct reader_config cfg = { .cache = f->cache,
				     .slab = f->slab,
				     .fetcher = f->fetcher,
				     .prefetch_threads = threads,
				     .readahead_max_bytes = 2 * MIB,
				     .timeout_ms = timeout_ms };
	assert_int_equal(reader_new(&cfg, &f->reader), 0);
	*state = f;
	return 0;
}

static int setup(void **state)
{
	return setup_with(state, 3, TIMEOUT_MS);
}

static int setup_alone(void **state)
{
	return setup_with(state, 0, TIMEOUT_MS);
}

/* For those who are to wait, and not in vain. */
static int setup_patient(void **state)
{
	return setup_with(state, 0, PATIENCE_MS);
}

static int teardown(void **state)
{
	struct fixture *f = *state;
	struct slab_stats st;

	reader_free(f->reader);
	fetcher_free(f->fetcher);
	blockcache_free(f->cache);
	slab_stats(f->slab, &st);
	assert_int_equal(st.used_bytes, 0);
	slab_free(f->slab);
	free(f);
	return 0;
}

static struct chunk chunk(uint64_t key, uint64_t offset, uint64_t size, int64_t modified_ns)
{
	return (struct chunk){ .fid = { .key = key, .volume_id = 3, .cookie = (uint32_t)size },
			       .offset = offset,
			       .size = size,
			       .modified_ns = modified_ns };
}

static struct read_file *open_chunks(struct fixture *f, const struct chunk *chunks, uint32_t n,
				     uint64_t size)
{
	struct entry e = { .size = size, .n_chunks = n, .chunks = chunks };
	struct chunkmap *map;
	struct read_file *file;

	assert_int_equal(chunkmap_build(&e, NULL, NULL, deadline_in_ms(1000), &map), 0);
	assert_int_equal(read_file_open(f->reader, map, &file), 0);
	return file;
}

static struct read_file *open_one(struct fixture *f, uint64_t key, uint64_t size)
{
	struct chunk c = chunk(key, 0, size, 1);

	return open_chunks(f, &c, 1, size);
}

/* What the file holds, by the slowest and simplest way: the map's extents one by one. */
static void expect(const struct chunkmap *m, uint64_t offset, uint8_t *buf, size_t len)
{
	memset(buf, 0, len);
	for (size_t i = 0; i < m->n_extents; i++) {
		const struct extent *e = &m->extents[i];
		uint64_t from = max_u64(offset, e->offset);
		uint64_t to = min_u64(offset + len, e->offset + e->len);

		for (uint64_t at = from; at < to; at++)
			buf[at - offset] = pattern(m->chunks[e->chunk].fid.key,
						   e->chunk_offset + (at - e->offset));
	}
}

/* Reads and compares; returns the reader's result. */
static int read_and_compare(struct read_file *file, uint64_t offset, size_t len, bool *ret_wrong)
{
	const struct chunkmap *m = read_file_map(file);
	struct read_result *res = malloc(sizeof(*res));
	size_t want = offset < m->size ? min_u64(len, m->size - offset) : 0, at = 0;
	uint8_t *buf = malloc(want + 1);
	int err = read_file_at(file, offset, len, res);

	if (!err) {
		expect(m, offset, buf, want);
		*ret_wrong |= res->bytes != want || res->n_slices > READ_SLICES_MAX;
		for (size_t i = 0; i < res->n_slices; i++) {
			struct iovec v = res->slices[i];

			*ret_wrong |= v.iov_len > want - at ||
				      memcmp(v.iov_base, buf + at, v.iov_len) != 0;
			at += v.iov_len;
		}
		*ret_wrong |= at != want;
		read_done(file, res);
	}
	free(buf);
	free(res);
	return err;
}

static void assert_reads(struct read_file *file, uint64_t offset, size_t len)
{
	bool wrong = false;

	assert_int_equal(read_and_compare(file, offset, len, &wrong), 0);
	assert_false(wrong);
}

static struct reader_stats stats_of(struct fixture *f)
{
	struct reader_stats st;

	reader_stats(f->reader, &st);
	return st;
}

/* Prefetches under way are over when nothing is asked of the source for a while. */
static void settle(struct fixture *f)
{
	uint64_t before;

	do {
		before = atomic_load(&f->store.ranges) + atomic_load(&f->store.wholes);
		sleep_ms(100, deadline_in_ms(1000));
	} while (before != atomic_load(&f->store.ranges) + atomic_load(&f->store.wholes) ||
		 atomic_load(&f->store.under_way) != 0);
}

static void overlaps_holes_and_the_tail_read_back_right(void **state)
{
	struct fixture *f = *state;
	const struct chunk chunks[] = {
		chunk(1, 0, 3 * MIB, 1),
		chunk(2, 1 * MIB + 5, 700001, 2),
		chunk(3, 4 * MIB, 1, 3),
		chunk(4, 5 * MIB + 77, 2 * MIB, 4),
	};
	struct read_file *file = open_chunks(f, chunks, ARRAY_LEN(chunks), 9 * MIB + 3);

	for (uint64_t at = 0; at < 9 * MIB + 3; at += READ_BYTES_MAX)
		assert_reads(file, at, READ_BYTES_MAX);
	for (uint64_t at = 0; at < 9 * MIB + 3; at += 99991)
		assert_reads(file, at, 99991);
	read_file_close(file);
}

static void reads_end_at_the_end_of_the_file(void **state)
{
	struct fixture *f = *state;
	struct read_file *file = open_one(f, 1, 1000);
	struct read_result res;

	assert_reads(file, 900, 4096);
	assert_int_equal(read_file_at(file, 1000, 10, &res), 0);
	assert_int_equal(res.bytes, 0);
	read_done(file, &res);
	assert_int_equal(read_file_at(file, UINT64_MAX, 10, &res), 0);
	assert_int_equal(res.bytes, 0);
	read_done(file, &res);
	read_file_close(file);
}

static void no_more_than_the_most_is_read_at_once(void **state)
{
	struct fixture *f = *state;
	struct read_file *file = open_one(f, 1, 3 * MIB);
	struct read_result res;

	assert_int_equal(read_file_at(file, 0, 3 * MIB, &res), 0);
	assert_int_equal(res.bytes, READ_BYTES_MAX);
	read_done(file, &res);
	read_file_close(file);
}

static void holes_cost_no_request(void **state)
{
	struct fixture *f = *state;
	struct read_file *file = open_chunks(f, NULL, 0, UINT64_C(1) << 50);

	assert_reads(file, UINT64_C(1) << 49, READ_BYTES_MAX);
	assert_int_equal(atomic_load(&f->store.ranges), 0);
	read_file_close(file);
}

static void a_random_read_fetches_exactly_what_was_asked_for(void **state)
{
	struct fixture *f = *state;
	struct read_file *file = open_one(f, 1, NEEDLE_BYTES_MAX);
	unsigned seed = 4;

	for (int i = 0; i < 200; i++)
		assert_reads(file, MIB + (uint64_t)rand_r(&seed) % 15000 * 4096, 4096);
	settle(f);
	/* an accident or two apart */
	assert_in_range(atomic_load(&f->store.bytes), 150 * 4 * KIB, 202 * 4 * KIB);
	read_file_close(file);
}

static void a_small_file_is_fetched_whole_at_the_first_touch(void **state)
{
	struct fixture *f = *state;
	struct read_file *file = open_one(f, 1, 100000);

	assert_reads(file, 50000, 100);
	assert_reads(file, 10, 90000);
	settle(f);
	assert_int_equal(atomic_load(&f->store.ranges), 1);
	assert_int_equal(atomic_load(&f->store.bytes), 100000);
	read_file_close(file);
}

static void what_was_read_is_not_fetched_again(void **state)
{
	struct fixture *f = *state;
	struct read_file *file = open_one(f, 1, 3 * MIB + 17);

	for (int round = 0; round < 3; round++)
		for (uint64_t at = 0; at < 3 * MIB + 17; at += 64 * KIB)
			assert_reads(file, at, 64 * KIB);
	settle(f);
	assert_int_equal(atomic_load(&f->store.bytes), 3 * MIB + 17);
	read_file_close(file);
	/* nor by another open of it */
	file = open_one(f, 1, 3 * MIB + 17);
	assert_reads(file, 2 * MIB, MIB);
	assert_int_equal(atomic_load(&f->store.bytes), 3 * MIB + 17);
	read_file_close(file);
}

static void a_sequential_reader_finds_the_next_bytes_waiting(void **state)
{
	struct fixture *f = *state;
	struct read_file *file = open_one(f, 1, 16 * MIB);

	for (uint64_t at = 0; at < 2 * MIB; at += BLOCK)
		assert_reads(file, at, BLOCK);
	settle(f);
	struct reader_stats before = stats_of(f);
	assert_reads(file, 2 * MIB, BLOCK);
	struct reader_stats after = stats_of(f);
	assert_int_equal(after.bytes_direct, before.bytes_direct);
	assert_int_equal(after.bytes_cached, before.bytes_cached + BLOCK);
	assert_true(after.bytes_prefetched > MIB);
	assert_true(atomic_load(&f->store.bytes) <= 2 * MIB + BLOCK + 2 * MIB + BLOCK);
	read_file_close(file);
}

static void blocks_under_prefetch_are_fetched_in_large_requests(void **state)
{
	struct fixture *f = *state;
	struct read_file *file = open_one(f, 1, 32 * MIB);

	for (uint64_t at = 0; at < 32 * MIB; at += BLOCK) {
		assert_reads(file, at, BLOCK);
		if (at % MIB == 0)
			settle(f); /* let the prefetch be ahead */
	}
	assert_in_range(atomic_load(&f->store.ranges), 1, 32 * MIB / (2 * BLOCK) - 16);
	assert_int_equal(atomic_load(&f->store.bytes), 32 * MIB);
	read_file_close(file);
}

/* How far beyond a reader's position that needle has been fetched. */
static uint64_t ahead_of(struct fixture *f, uint64_t key, uint64_t position)
{
	uint64_t high = atomic_load(&f->store.high[key % KEYS]);

	return high > position ? high - position : 0;
}

enum { STREAMS = 8 };
#define STREAM_BYTES (16 * MIB)
/* What one of so many may have ahead: its part of half the slab, rounded up to a block. */
#define STREAM_SHARE (SLAB_BYTES_MIN / 2 / STREAMS + BLOCK)

/* The first has bytes all along, the others only so many, and a hole behind them. */
static void open_streams(struct fixture *f, uint64_t bytes, struct read_file *ret[STREAMS])
{
	for (size_t i = 0; i < STREAMS; i++) {
		struct chunk c = chunk(i, 0, i == 0 ? STREAM_BYTES : bytes, 1);

		ret[i] = open_chunks(f, &c, 1, STREAM_BYTES);
	}
}

/* Each reads a block, and again. */
static void read_in_turn(struct read_file *files[STREAMS], uint64_t from, uint64_t to)
{
	for (uint64_t at = from; at < to; at += BLOCK)
		for (size_t i = 0; i < STREAMS; i++)
			assert_reads(files[i], at, BLOCK);
}

static void streams_share_what_may_be_read_ahead(void **state)
{
	struct fixture *f = *state;
	struct read_file *files[STREAMS];

	open_streams(f, STREAM_BYTES, files);
	for (uint64_t at = 0; at < 4 * MIB; at += MIB) {
		read_in_turn(files, at, at + MIB);
		settle(f);
		for (size_t i = 0; i < STREAMS; i++)
			assert_true(ahead_of(f, i, at + MIB) <= STREAM_SHARE);
	}
	assert_true(stats_of(f).bytes_prefetched > 0); /* else nothing was tried */
	for (size_t i = 0; i < STREAMS; i++)
		read_file_close(files[i]);
}

static void the_share_of_files_that_were_closed_goes_to_the_others(void **state)
{
	struct fixture *f = *state;
	struct read_file *files[STREAMS];

	/* of the others nothing is left unread, which would take memory for a while */
	open_streams(f, MIB, files);
	read_in_turn(files, 0, MIB);
	for (size_t i = 1; i < STREAMS; i++)
		read_file_close(files[i]);
	for (uint64_t at = MIB; at < 4 * MIB; at += MIB) {
		for (uint64_t step = 0; step < MIB; step += BLOCK)
			assert_reads(files[0], at + step, BLOCK);
		settle(f);
	}
	struct deadline d = deadline_in_ms(TIMEOUT_MS);
	while (ahead_of(f, 0, 4 * MIB) <= 2 * STREAM_SHARE && !deadline_passed(d))
		sleep_ms(10, d);
	assert_true(ahead_of(f, 0, 4 * MIB) > 2 * STREAM_SHARE);
	read_file_close(files[0]);
}

static void an_encoded_chunk_is_decoded_once_for_all_its_blocks(void **state)
{
	struct fixture *f = *state;
	struct chunk c = chunk(1, 0, 900000, 1);

	c.flags = CHUNK_GZIP;
	struct read_file *file = open_chunks(f, &c, 1, 900000);
	assert_reads(file, 500000, 100);
	for (uint64_t at = 0; at < 900000; at += 50000)
		assert_reads(file, at, 50000);
	settle(f);
	assert_int_equal(atomic_load(&f->store.wholes), 1);
	read_file_close(file);
}

static void the_same_needle_decoded_otherwise_is_not_mixed_up(void **state)
{
	struct fixture *f = *state;
	struct chunk plain = chunk(1, 0, 1000, 1), gzip = plain;

	gzip.flags = CHUNK_GZIP;
	struct read_file *a = open_chunks(f, &plain, 1, 1000);
	struct read_file *b = open_chunks(f, &gzip, 1, 1000);
	assert_reads(a, 0, 1000);
	assert_reads(b, 0, 1000);
	assert_int_equal(atomic_load(&f->store.wholes), 1);
	read_file_close(a);
	read_file_close(b);
}

static void thousands_of_tiny_extents_in_one_read_are_right(void **state)
{
	struct fixture *f = *state;
	enum { N = 9000 };
	struct chunk *chunks = calloc(N, sizeof(*chunks));

	/* every other hundred bytes over one big chunk, and holes beyond it */
	chunks[0] = chunk(1, 0, 700000, 1);
	for (uint32_t i = 1; i < N; i++)
		chunks[i] = chunk(2 + i % 3, (uint64_t)i * 100, 1 + i % 60, 2);
	struct read_file *file = open_chunks(f, chunks, N, MIB);
	assert_reads(file, 0, MIB);
	assert_reads(file, 12345, 500000);
	/* where there were bytes last time, there are holes now */
	assert_reads(file, 700001, 300000);
	assert_reads(file, 650000, 398576);
	read_file_close(file);
	free(chunks);
}

static void chunks_of_one_read_are_fetched_side_by_side(void **state)
{
	struct fixture *f = *state;
	const int order[] = { 2, 1, 3 }; /* as nobody reads on */
	struct chunk chunks[16];

	for (uint32_t i = 0; i < ARRAY_LEN(chunks); i++)
		chunks[i] = chunk(i + 1, (uint64_t)i * MIB / 4, MIB / 4, 1);
	struct read_file *file = open_chunks(f, chunks, ARRAY_LEN(chunks), 4 * MIB);
	atomic_store(&f->store.delay_ms, 1000);
	/* a busy machine may start a thread late, but not each time */
	for (int i = 0; i < 3 && atomic_load(&f->store.most_under_way) < 2; i++)
		assert_reads(file, (uint64_t)order[i] * MIB, MIB);
	assert_true(atomic_load(&f->store.most_under_way) >= 2);
	read_file_close(file);
}

static void a_missing_chunk_is_enoent_and_the_file_stays_usable(void **state)
{
	struct fixture *f = *state;
	struct read_file *file = open_one(f, 1, 8 * MIB);
	bool wrong = false;

	atomic_store(&f->store.fail_err, -ENOENT);
	atomic_store(&f->store.fail_next, 1);
	assert_int_equal(read_and_compare(file, 5 * MIB, 4096, &wrong), -ENOENT);
	assert_int_equal(stats_of(f).errors, 1);
	assert_reads(file, 5 * MIB, 4096);
	read_file_close(file);
}

static void a_stalled_source_ends_at_the_time_limit(void **state)
{
	struct fixture *f = *state;
	struct read_file *file = open_one(f, 1, 8 * MIB);
	bool wrong = false;
	int64_t start = now_ms();

	atomic_store(&f->store.stall, true);
	assert_int_equal(read_and_compare(file, 0, 4096, &wrong), -ETIMEDOUT);
	assert_in_range(now_ms() - start, TIMEOUT_MS / 2, 4 * TIMEOUT_MS);
	atomic_store(&f->store.stall, false);
	assert_reads(file, 0, 4096);
	read_file_close(file);
}

struct one_read {
	struct read_file *file;
	uint64_t offset;
	size_t len;
	int err;
	bool wrong;
};

static void *one_read_run(void *arg)
{
	struct one_read *r = arg;

	r->err = read_and_compare(r->file, r->offset, r->len, &r->wrong);
	return NULL;
}

static void readers_of_one_block_share_one_fetch(void **state)
{
	struct fixture *f = *state;
	struct read_file *file = open_one(f, 1, 2 * BLOCK);
	struct one_read r[6];
	pthread_t t[ARRAY_LEN(r)];

	atomic_store(&f->store.delay_ms, 200);
	for (size_t i = 0; i < ARRAY_LEN(r); i++) {
		r[i] = (struct one_read){ .file = file, .offset = i * 1000, .len = 5000 };
		assert_int_equal(pthread_create(&t[i], NULL, one_read_run, &r[i]), 0);
	}
	for (size_t i = 0; i < ARRAY_LEN(r); i++) {
		pthread_join(t[i], NULL);
		assert_int_equal(r[i].err, 0);
		assert_false(r[i].wrong);
	}
	settle(f);
	assert_true(atomic_load(&f->store.bytes) <= 2 * BLOCK);
	read_file_close(file);
}

static void who_waited_for_a_failed_fetch_fetches_anew(void **state)
{
	struct fixture *f = *state;
	struct read_file *file = open_one(f, 1, BLOCK);
	struct one_read r = { .file = file, .offset = 0, .len = 5000 };
	pthread_t t;

	struct deadline d = deadline_in_ms(TIMEOUT_MS);
	atomic_store(&f->store.delay_ms, 300);
	atomic_store(&f->store.fail_err, -ENOENT);
	atomic_store(&f->store.fail_next, 1);
	assert_int_equal(pthread_create(&t, NULL, one_read_run, &r), 0);
	while (atomic_load(&f->store.ranges) == 0) {
		assert_false(deadline_passed(d));
		sleep_ms(1, d);
	}
	assert_reads(file, 4000, 100);
	pthread_join(t, NULL);
	assert_int_equal(r.err, -ENOENT);
	read_file_close(file);
}

static void without_any_slab_memory_reads_still_work(void **state)
{
	struct fixture *f = *state;
	struct slab_buf held[SLAB_BYTES_MIN / SLAB_CLASS_MIN];
	struct read_result res[3];
	size_t n = 0;
	struct read_file *file = open_one(f, 1, 8 * MIB);

	while (slab_alloc(f->slab, SLAB_CLASS_MIN, &held[n]) == 0)
		n++;
	/* more at once than buffers were set aside */
	for (size_t i = 0; i < ARRAY_LEN(res); i++) {
		assert_int_equal(read_file_at(file, i * 9999, 300000, &res[i]), 0);
		assert_int_equal(res[i].bytes, 300000);
	}
	for (size_t i = 0; i < ARRAY_LEN(res); i++)
		read_done(file, &res[i]);
	for (uint64_t at = 0; at < 8 * MIB; at += MIB)
		assert_reads(file, at, MIB);
	read_file_close(file);
	while (n > 0)
		slab_release(f->slab, held[--n]);
}

/* Takes all of it, as if reads under way had it. Returns how many pieces that are. */
static size_t hold_slab(struct fixture *f, struct slab_buf held[SLAB_BLOCKS])
{
	size_t n = 0;

	while (slab_alloc(f->slab, BLOCK, &held[n]) == 0)
		n++;
	return n;
}

/* Of reads under way that have all the memory that there is for what goes around the cache. */
static void hold_bounces(struct read_file *file, struct read_result held[BOUNCES])
{
	for (size_t i = 0; i < BOUNCES; i++)
		assert_int_equal(read_file_at(file, (2 * (BOUNCES - i)) * MIB + 5, MIB, &held[i]),
				 0);
}

static void reads_that_find_no_memory_wait_for_that_of_others(void **state)
{
	struct fixture *f = *state;
	struct read_file *file = open_one(f, 1, NEEDLE_BYTES_MAX);
	struct slab_buf held[SLAB_BLOCKS];
	struct read_result under_way[BOUNCES];
	struct one_read r = { .file = file, .offset = 5 * MIB, .len = MIB };
	pthread_t t;

	size_t n = hold_slab(f, held);
	hold_bounces(file, under_way);
	uint64_t ranges = atomic_load(&f->store.ranges);
	assert_int_equal(pthread_create(&t, NULL, one_read_run, &r), 0);
	sleep_ms(50, deadline_in_ms(PATIENCE_MS));
	assert_int_equal(atomic_load(&f->store.ranges), ranges);
	for (size_t i = 0; i < BOUNCES; i++)
		read_done(file, &under_way[i]);
	pthread_join(t, NULL);
	assert_int_equal(r.err, 0);
	assert_false(r.wrong);
	read_file_close(file);
	while (n > 0)
		slab_release(f->slab, held[--n]);
}

static void a_read_that_finds_no_memory_in_time_fails(void **state)
{
	struct fixture *f = *state;
	struct read_file *file = open_one(f, 1, NEEDLE_BYTES_MAX);
	struct slab_buf held[SLAB_BLOCKS];
	struct read_result under_way[BOUNCES];
	bool wrong = false;

	size_t n = hold_slab(f, held);
	hold_bounces(file, under_way);
	assert_int_equal(read_and_compare(file, 5 * MIB, MIB, &wrong), -ETIMEDOUT);
	for (size_t i = 0; i < BOUNCES; i++)
		read_done(file, &under_way[i]);
	assert_reads(file, 5 * MIB, MIB);
	read_file_close(file);
	while (n > 0)
		slab_release(f->slab, held[--n]);
}

static void who_waits_for_memory_has_filled_the_blocks_that_others_wait_for(void **state)
{
	struct fixture *f = *state;
	struct read_file *file = open_one(f, 1, NEEDLE_BYTES_MAX),
			 *small = open_one(f, 2, 2 * BLOCK);
	struct slab_buf held[SLAB_BLOCKS];
	struct read_result under_way[BOUNCES];
	struct one_read r = { .file = small, .offset = 0, .len = 2 * BLOCK };
	struct deadline d = deadline_in_ms(PATIENCE_MS);
	pthread_t t;

	size_t n = hold_slab(f, held);
	hold_bounces(file, under_way);
	slab_release(f->slab, held[--n]); /* for one of its blocks */
	uint64_t ranges = atomic_load(&f->store.ranges);
	assert_int_equal(pthread_create(&t, NULL, one_read_run, &r), 0);
	while (atomic_load(&f->store.ranges) == ranges && !deadline_passed(d))
		sleep_ms(1, d);
	assert_reads(small, 1000, BLOCK - 1000);
	assert_int_equal(atomic_load(&f->store.ranges), ranges + 1);
	for (size_t i = 0; i < BOUNCES; i++)
		read_done(file, &under_way[i]);
	pthread_join(t, NULL);
	assert_int_equal(r.err, 0);
	assert_false(r.wrong);
	read_file_close(small);
	read_file_close(file);
	while (n > 0)
		slab_release(f->slab, held[--n]);
}

static void reads_around_a_full_cache_go_into_the_slab(void **state)
{
	struct fixture *f = *state;
	struct read_file *hot = open_one(f, 1, SLAB_BYTES_MIN),
			 *cold = open_one(f, 2, NEEDLE_BYTES_MAX);
	struct read_result under_way[8];
	struct slab_stats st;

	for (int round = 0; round < 2; round++)
		for (uint64_t at = 0; at < SLAB_BYTES_MIN; at += BLOCK)
			assert_reads(hot, at, BLOCK);
	settle(f);
	slab_stats(f->slab, &st);
	assert_int_equal(st.used_bytes, st.total_bytes);
	for (size_t i = 0; i < ARRAY_LEN(under_way); i++)
		assert_int_equal(
			read_file_at(cold, (7 + 13 * i) * BLOCK / 2 + 5, BLOCK / 2, &under_way[i]),
			0);
	for (size_t i = 0; i < ARRAY_LEN(under_way); i++)
		read_done(cold, &under_way[i]);
	assert_int_equal(atomic_load(&f->store.outside), 0);
	read_file_close(hot);
	read_file_close(cold);
}

static void a_file_may_be_closed_with_prefetches_under_way(void **state)
{
	struct fixture *f = *state;

	atomic_store(&f->store.delay_ms, 20);
	for (uint64_t key = 1; key < 6; key++) {
		struct read_file *file = open_one(f, key, 16 * MIB);

		for (uint64_t at = 0; at < MIB; at += BLOCK)
			assert_reads(file, at, BLOCK);
		read_file_close(file);
	}
}

/* Many readers over more files than fit, by every pattern, from a source that fails at random. */
struct crowd {
	struct read_file **files;
	size_t n_files;
	unsigned seed;
	int wrong, failed, odd_errors;
};

static void crowd_read(struct crowd *w, struct read_file *file, uint64_t offset, size_t len)
{
	bool wrong = false;
	int err = read_and_compare(file, offset, len, &wrong);

	w->wrong += wrong;
	w->failed += err != 0;
	w->odd_errors += err != 0 && err != -ENOENT && err != -EIO && err != -ETIMEDOUT;
}

static void *crowd_run(void *arg)
{
	struct crowd *w = arg;

	for (int i = 0; i < 12; i++) {
		struct read_file *file = w->files[(size_t)rand_r(&w->seed) % w->n_files];
		uint64_t size = read_file_map(file)->size;
		uint64_t at = (uint64_t)rand_r(&w->seed) % size;

		switch (rand_r(&w->seed) % 4) {
		case 0:
			for (int n = 0; n < 12; n++, at += BLOCK)
				crowd_read(w, file, at, BLOCK);
			break;
		case 1:
			for (int n = 0; n < 20; n++)
				crowd_read(w, file, (uint64_t)rand_r(&w->seed) % size, 4096);
			break;
		case 2:
			for (int n = 0; n < 12 && at >= 50000; n++, at -= 50000)
				crowd_read(w, file, at, 50000);
			break;
		default:
			crowd_read(w, file, at, MIB);
			break;
		}
	}
	return NULL;
}

static void a_crowd_reads_only_right_bytes_from_a_failing_source(void **state)
{
	struct fixture *f = *state;
	struct read_file *files[6];
	struct crowd w[8];
	pthread_t t[ARRAY_LEN(w)];
	int failed = 0;

	for (uint32_t i = 0; i < ARRAY_LEN(files); i++) {
		struct chunk c[5] = {
			chunk(i * 10 + 1, 0, 2 * MIB, 1),
			chunk(i * 10 + 2, 2 * MIB - 1000, MIB, 2),
			chunk(i * 10 + 3, 4 * MIB, 300000, 1),
			chunk(i * 10 + 4, 4 * MIB + 100000, 3000, 2),
			chunk(i * 10 + 5, 3 * MIB, 500000, 1),
		};

		c[2].flags = i % 2 ? CHUNK_GZIP : 0;
		c[4].flags = CHUNK_GZIP;
		files[i] = open_chunks(f, c, ARRAY_LEN(c), 5 * MIB);
	}
	atomic_store(&f->store.fault_percent, 10);
	for (size_t i = 0; i < ARRAY_LEN(w); i++) {
		w[i] = (struct crowd){ .files = files,
				       .n_files = ARRAY_LEN(files),
				       .seed = (unsigned)i };
		assert_int_equal(pthread_create(&t[i], NULL, crowd_run, &w[i]), 0);
	}
	for (size_t i = 0; i < ARRAY_LEN(w); i++) {
		pthread_join(t[i], NULL);
		assert_int_equal(w[i].wrong, 0);
		assert_int_equal(w[i].odd_errors, 0);
		failed += w[i].failed;
	}
	assert_true(failed > 0); /* else nothing was tried */
	for (size_t i = 0; i < ARRAY_LEN(files); i++)
		read_file_close(files[i]);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
#define TEST_ALONE(name) cmocka_unit_test_setup_teardown(name, setup_alone, teardown)
#define TEST_PATIENT(name) cmocka_unit_test_setup_teardown(name, setup_patient, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(overlaps_holes_and_the_tail_read_back_right),
		TEST_ALONE(overlaps_holes_and_the_tail_read_back_right),
		TEST(reads_end_at_the_end_of_the_file),
		TEST(no_more_than_the_most_is_read_at_once),
		TEST(holes_cost_no_request),
		TEST(a_random_read_fetches_exactly_what_was_asked_for),
		TEST(a_small_file_is_fetched_whole_at_the_first_touch),
		TEST(what_was_read_is_not_fetched_again),
		TEST(a_sequential_reader_finds_the_next_bytes_waiting),
		TEST(blocks_under_prefetch_are_fetched_in_large_requests),
		TEST(streams_share_what_may_be_read_ahead),
		TEST(the_share_of_files_that_were_closed_goes_to_the_others),
		TEST_ALONE(an_encoded_chunk_is_decoded_once_for_all_its_blocks),
		TEST(an_encoded_chunk_is_decoded_once_for_all_its_blocks),
		TEST(the_same_needle_decoded_otherwise_is_not_mixed_up),
		TEST(thousands_of_tiny_extents_in_one_read_are_right),
		TEST(chunks_of_one_read_are_fetched_side_by_side),
		TEST_ALONE(a_missing_chunk_is_enoent_and_the_file_stays_usable),
		TEST_ALONE(a_stalled_source_ends_at_the_time_limit),
		TEST(readers_of_one_block_share_one_fetch),
		TEST_ALONE(who_waited_for_a_failed_fetch_fetches_anew),
		TEST(without_any_slab_memory_reads_still_work),
		TEST_PATIENT(reads_that_find_no_memory_wait_for_that_of_others),
		TEST(a_read_that_finds_no_memory_in_time_fails),
		TEST_PATIENT(who_waits_for_memory_has_filled_the_blocks_that_others_wait_for),
		TEST_ALONE(reads_around_a_full_cache_go_into_the_slab),
		TEST(a_file_may_be_closed_with_prefetches_under_way),
		TEST(a_crowd_reads_only_right_bytes_from_a_failing_source),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
