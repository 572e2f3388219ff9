#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "cache/blockcache.h"
#include "cache/scratch.h"
#include "filer/base/base.h"

#define BLOCK (128 * KIB) /* of a cache in the smallest slab */
#define SHARE (SLAB_BYTES_MIN / SCRATCH_SHARE)
#define THREADS 4
#define TAKES_EACH 3000

struct fixture {
	struct slab *slab;
	struct blockcache *cache;
	struct scratch *scratch;
};

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	assert_int_equal(slab_new(SLAB_BYTES_MIN, &f->slab), 0);
	assert_int_equal(blockcache_new(f->slab, &f->cache), 0);
	assert_int_equal(blockcache_block_bytes(f->cache), BLOCK);
	assert_int_equal(scratch_new(f->slab, f->cache, &f->scratch), 0);
	*state = f;
	return 0;
}

static size_t used(struct slab *s)
{
	struct slab_stats st;

	slab_stats(s, &st);
	return st.used_bytes;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	scratch_free(f->scratch);
	blockcache_free(f->cache);
	assert_int_equal(used(f->slab), 0); /* nothing leaked */
	slab_free(f->slab);
	free(f);
	return 0;
}

static struct block *fill_block(struct fixture *f, uint32_t index)
{
	const struct block_key k = { .id = { 1, 2 }, .index = index };
	struct block *b;

	if (blockcache_get(f->cache, &k, BLOCK, false, &b) != BLOCK_FILL)
		return NULL;
	block_filled(f->cache, b, BLOCK, 0);
	return b;
}

static void pieces_are_full_but_for_the_last(void **state)
{
	struct fixture *f = *state;
	struct scratch_room room;

	assert_int_equal(scratch_take(f->scratch, 2 * BLOCK + 28, &room), 0);
	assert_int_equal(room.n, 3);
	assert_int_equal(room.piece[0].size, BLOCK);
	assert_int_equal(room.piece[1].size, BLOCK);
	assert_in_range(room.piece[2].size, 28, BLOCK);
	for (size_t i = 0; i < room.n; i++)
		memset(room.piece[i].ptr, (int)i, room.piece[i].size);
	scratch_give(f->scratch, &room);
	assert_int_equal(room.n, 0);
	assert_int_equal(used(f->slab), 0);
}

static void all_together_take_no_more_than_their_share(void **state)
{
	struct fixture *f = *state;
	struct scratch_room most, more;

	assert_int_equal(scratch_take(f->scratch, SHARE + 1, &more), -ENOMEM);
	assert_int_equal(scratch_take(f->scratch, SHARE - BLOCK, &most), 0);
	assert_int_equal(scratch_take(f->scratch, BLOCK + 1, &more), -ENOMEM);
	assert_int_equal(scratch_take(f->scratch, BLOCK, &more), 0);
	scratch_give(f->scratch, &most);
	scratch_give(f->scratch, &more);
	assert_int_equal(scratch_take(f->scratch, SHARE, &most), 0);
	scratch_give(f->scratch, &most);
}

static void blocks_that_nobody_reads_make_room(void **state)
{
	struct fixture *f = *state;
	struct scratch_room room;
	struct slab_buf mem;

	for (uint32_t i = 0; i < SLAB_BYTES_MIN / BLOCK; i++)
		block_unpin(f->cache, fill_block(f, i));
	assert_int_equal(slab_alloc(f->slab, BLOCK, &mem), -ENOMEM);
	assert_int_equal(scratch_take(f->scratch, SHARE, &room), 0);
	scratch_give(f->scratch, &room);
}

static void what_is_in_use_stays_and_nothing_is_kept_of_the_attempt(void **state)
{
	struct block *pinned[SLAB_BYTES_MIN / BLOCK - 2];
	struct fixture *f = *state;
	struct scratch_room room;

	for (uint32_t i = 0; i < ARRAY_LEN(pinned); i++)
		pinned[i] = fill_block(f, i);
	assert_int_equal(scratch_take(f->scratch, 3 * BLOCK, &room), -ENOMEM);
	assert_int_equal(used(f->slab), sizeof(pinned) / sizeof(pinned[0]) * BLOCK);
	for (size_t i = 0; i < ARRAY_LEN(pinned); i++)
		block_unpin(f->cache, pinned[i]);
	assert_int_equal(scratch_take(f->scratch, SHARE, &room), 0);
	scratch_give(f->scratch, &room);
}

static void a_slab_without_a_cache_will_do(void **state)
{
	struct fixture *f = *state;
	struct scratch_room room;
	struct scratch *s;

	assert_int_equal(scratch_new(f->slab, NULL, &s), 0);
	assert_int_equal(scratch_take(s, SCRATCH_PIECE_BYTES_MAX + 1, &room), 0);
	assert_int_equal(room.n, 2);
	scratch_give(s, &room);
	scratch_free(s);
}

static void *take_often(void *arg)
{
	struct fixture *f = arg;
	struct scratch_room room;

	for (unsigned i = 0; i < TAKES_EACH; i++) {
		if (scratch_take(f->scratch, (i % 9 + 1) * BLOCK - i, &room))
			continue;
		for (size_t k = 0; k < room.n; k++)
			*(volatile uint8_t *)room.piece[k].ptr = (uint8_t)i;
		scratch_give(f->scratch, &room);
	}
	return NULL;
}

static void many_threads_take_and_give(void **state)
{
	struct fixture *f = *state;
	pthread_t threads[THREADS];
	struct scratch_room room;

	for (size_t i = 0; i < THREADS; i++)
		pthread_create(&threads[i], NULL, take_often, f);
	for (size_t i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
	/* The count is as it was. */
	assert_int_equal(scratch_take(f->scratch, SHARE, &room), 0);
	scratch_give(f->scratch, &room);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
		TEST(pieces_are_full_but_for_the_last),
		TEST(all_together_take_no_more_than_their_share),
		TEST(blocks_that_nobody_reads_make_room),
		TEST(what_is_in_use_stays_and_nothing_is_kept_of_the_attempt),
		TEST(a_slab_without_a_cache_will_do),
		TEST(many_threads_take_and_give),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
