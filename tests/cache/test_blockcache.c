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
#include "cache/slab.h"

/* The smallest slab: 64 blocks of 128 KiB, an eighth of them on probation. */
#define BLOCK (128 * KIB)
#define BLOCKS 64

struct fixture {
	struct slab *slab;
	struct blockcache *c;
};

static int setup(void **state)
{
	struct fixture *f = malloc(sizeof(*f));

	assert_int_equal(slab_new(SLAB_BYTES_MIN, &f->slab), 0);
	assert_int_equal(blockcache_new(f->slab, &f->c), 0);
	assert_int_equal(blockcache_block_bytes(f->c), BLOCK);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;
	struct slab_stats st;

	blockcache_free(f->c);
	slab_stats(f->slab, &st);
	assert_int_equal(st.used_bytes, 0); /* nothing leaked */
	slab_free(f->slab);
	free(f);
	return 0;
}

static struct block_key key(uint64_t id)
{
	return (struct block_key){ .id = { id, ~id }, .index = 7 };
}

static enum block_outcome get(struct fixture *f, uint64_t id, bool prefetch, struct block **b)
{
	struct block_key k = key(id);

	return blockcache_get(f->c, &k, BLOCK, prefetch, b);
}

static bool present(struct fixture *f, uint64_t id)
{
	struct block_key k = key(id);
	struct block *b;

	if (blockcache_peek(f->c, &k, BLOCK, &b) != BLOCK_HIT)
		return false;
	block_unpin(f->c, b);
	return true;
}

/* Reads a block as a reader or the read-ahead would, and says how it was found. */
static enum block_outcome touch(struct fixture *f, uint64_t id, bool prefetch)
{
	struct block *b;
	enum block_outcome o = get(f, id, prefetch, &b);

	if (o == BLOCK_BYPASS)
		return o;
	if (o == BLOCK_FILL) {
		memcpy(b->data, &id, sizeof(id));
		block_filled(f->c, b, BLOCK, 0);
	} else {
		assert_memory_equal(b->data, &id, sizeof(id));
	}
	block_unpin(f->c, b);
	return o;
}

static void touch_many(struct fixture *f, uint64_t first, uint64_t n, bool prefetch)
{
	for (uint64_t i = first; i < first + n; i++)
		touch(f, i, prefetch);
}

/* Uses n blocks again and again, with others in between. */
static void make_hot(struct fixture *f, uint64_t first, uint64_t n)
{
	for (uint64_t round = 0; round < 3; round++) {
		touch_many(f, first, n, false);
		touch_many(f, 100000 + round * 4, 4, false);
	}
}

static void a_filled_block_is_found_again(void **state)
{
	struct fixture *f = *state;
	struct block *b;

	assert_int_equal(get(f, 1, false, &b), BLOCK_FILL);
	assert_true(b->cap >= BLOCK);
	memset(b->data, 'x', BLOCK);
	block_filled(f->c, b, BLOCK, 0);
	block_unpin(f->c, b);
	assert_int_equal(get(f, 1, false, &b), BLOCK_HIT);
	assert_int_equal(b->valid, BLOCK);
	assert_int_equal(b->data[BLOCK - 1], 'x');
	block_unpin(f->c, b);
}

static void keys_differ_in_every_part(void **state)
{
	struct fixture *f = *state;
	struct block_key keys[] = {
		{ { 1, 2 }, 3 }, { { 9, 2 }, 3 }, { { 1, 9 }, 3 }, { { 1, 2 }, 9 }
	};
	struct block *b;

	for (size_t i = 0; i < ARRAY_LEN(keys); i++) {
		assert_int_equal(blockcache_get(f->c, &keys[i], BLOCK, false, &b), BLOCK_FILL);
		block_filled(f->c, b, BLOCK, 0);
		block_unpin(f->c, b);
	}
}

static void a_small_block_takes_little_memory(void **state)
{
	struct fixture *f = *state;
	struct block_key k = key(1);
	struct blockcache_stats st;
	struct block *b;

	assert_int_equal(blockcache_get(f->c, &k, 5000, false, &b), BLOCK_FILL);
	block_filled(f->c, b, 5000, 0);
	block_unpin(f->c, b);
	blockcache_stats(f->c, &st);
	assert_int_equal(st.bytes, 8192);
}

static void more_than_a_block_is_bypassed(void **state)
{
	struct fixture *f = *state;
	struct block_key k = key(1);
	struct block *b = (struct block *)&k;

	assert_int_equal(blockcache_get(f->c, &k, BLOCK + 1, false, &b), BLOCK_BYPASS);
	assert_null(b);
}

static void a_short_block_is_filled_anew_when_more_is_wanted(void **state)
{
	struct fixture *f = *state;
	struct block_key k = key(1);
	struct block *old, *b;

	assert_int_equal(blockcache_get(f->c, &k, 100, false, &old), BLOCK_FILL);
	old->data[0] = 'o';
	block_filled(f->c, old, 100, 0);
	assert_int_equal(blockcache_peek(f->c, &k, 200, &b), BLOCK_MISS);
	assert_int_equal(blockcache_get(f->c, &k, 200, false, &b), BLOCK_FILL);
	assert_ptr_not_equal(b, old);
	assert_int_equal(old->data[0], 'o'); /* who still holds the old one keeps it */
	block_unpin(f->c, old);
	block_filled(f->c, b, 200, 0);
	block_unpin(f->c, b);
	assert_int_equal(blockcache_peek(f->c, &k, 200, &b), BLOCK_HIT);
	block_unpin(f->c, b);
}

static void peek_never_makes_a_block(void **state)
{
	struct fixture *f = *state;
	struct block_key k = key(1);
	struct blockcache_stats st;
	struct block *b;

	assert_int_equal(blockcache_peek(f->c, &k, 1, &b), BLOCK_MISS);
	assert_null(b);
	blockcache_stats(f->c, &st);
	assert_int_equal(st.blocks, 0);
}

static void all_pinned_means_bypass_and_pins_hold(void **state)
{
	struct fixture *f = *state;
	struct block *held[BLOCKS], *b;

	for (uint64_t i = 0; i < BLOCKS; i++) {
		assert_int_equal(get(f, i, false, &held[i]), BLOCK_FILL);
		memcpy(held[i]->data, &i, sizeof(i));
		block_filled(f->c, held[i], BLOCK, 0);
	}
	assert_int_equal(get(f, 1000, false, &b), BLOCK_BYPASS);
	for (uint64_t i = 0; i < BLOCKS; i++)
		assert_memory_equal(held[i]->data, &i, sizeof(i));
	block_unpin(f->c, held[5]);
	assert_int_equal(touch(f, 1000, false), BLOCK_FILL);
	for (uint64_t i = 0; i < BLOCKS; i++)
		if (i != 5)
			block_unpin(f->c, held[i]);
}

static void a_scan_does_not_throw_out_what_is_used_again(void **state)
{
	struct fixture *f = *state;

	make_hot(f, 0, 16);
	touch_many(f, 1000, (uint64_t)4 * BLOCKS, false);
	for (uint64_t i = 0; i < 16; i++)
		assert_true(present(f, i));
}

static void a_set_that_only_hits_for_long_survives_a_scan(void **state)
{
	struct fixture *f = *state;

	for (int round = 0; round < 4; round++)
		touch_many(f, 0, BLOCKS / 2, false); /* only the first round fills anything */
	touch_many(f, 1000, (uint64_t)4 * BLOCKS, false);
	for (uint64_t i = 0; i < BLOCKS / 2; i++)
		assert_true(present(f, i));
}

static void walking_through_a_block_in_steps_uses_it_once(void **state)
{
	struct fixture *f = *state;

	for (uint64_t i = 0; i < 16; i++)
		for (int step = 0; step < 32; step++)
			touch(f, i, false);
	touch_many(f, 1000, BLOCKS, false);
	for (uint64_t i = 0; i < 16; i++)
		assert_false(present(f, i));
}

static void what_comes_back_soon_after_eviction_becomes_a_main_block(void **state)
{
	struct fixture *f = *state;

	touch_many(f, 0, BLOCKS + 8, false);
	assert_false(present(f, 0));
	touch(f, 0, false); /* remembered by the ghosts */
	touch_many(f, 1000, (uint64_t)2 * BLOCKS, false);
	assert_true(present(f, 0));
}

static void read_ahead_takes_no_hot_block(void **state)
{
	struct fixture *f = *state;
	struct blockcache_stats st;

	make_hot(f, 0, 40);
	touch_many(f, 1000, BLOCKS, false); /* makes the 40 main ones, the rest is on probation */
	touch_many(f, 2000, BLOCKS, true);
	for (uint64_t i = 0; i < 40; i++)
		assert_true(present(f, i));
	assert_true(present(f, 2000)); /* but it got the room on probation */
	blockcache_stats(f->c, &st);
	assert_int_equal(st.blocks, BLOCKS);
}

static void read_ahead_leaves_readers_room_beside_the_hot_set(void **state)
{
	struct fixture *f = *state;

	make_hot(f, 0, 40);
	touch_many(f, 1000, BLOCKS, false); /* as above */
	touch_many(f, 2000, BLOCKS, true);
	touch_many(f, 3000, (uint64_t)2 * BLOCKS, false);
	for (uint64_t i = 0; i < 40; i++)
		assert_true(present(f, i));
	assert_true(present(f, 2000));
}

static void readers_that_pin_all_the_rest_do_not_take_the_hot_set(void **state)
{
	struct fixture *f = *state;
	struct block *held[BLOCKS - 40], *b;

	make_hot(f, 0, 40);
	touch_many(f, 1000, BLOCKS, false);
	for (uint64_t i = 0; i < ARRAY_LEN(held); i++) {
		assert_int_equal(get(f, 2000 + i, false, &held[i]), BLOCK_FILL);
		block_filled(f->c, held[i], BLOCK, 0);
	}
	assert_int_equal(get(f, 3000, false, &b), BLOCK_BYPASS);
	for (uint64_t i = 0; i < 40; i++)
		assert_true(present(f, i));
	for (uint64_t i = 0; i < ARRAY_LEN(held); i++)
		block_unpin(f->c, held[i]);
	assert_int_equal(touch(f, 3000, false), BLOCK_FILL);
}

static void unread_read_ahead_is_kept_and_bounded(void **state)
{
	struct fixture *f = *state;
	size_t kept = 0;

	touch_many(f, 0, 8, true);
	/* a second stream wants more than there is */
	for (uint64_t i = 1000; i < 1000 + BLOCKS; i++)
		kept += touch(f, i, true) == BLOCK_FILL;
	assert_int_equal(kept, BLOCKS / 2 - 8);
	/* and readers go round it too */
	touch_many(f, 2000, (uint64_t)2 * BLOCKS, false);
	for (uint64_t i = 0; i < 8; i++)
		assert_true(present(f, i));
}

static void abandoned_read_ahead_makes_room_after_a_while(void **state)
{
	struct fixture *f = *state;

	touch_many(f, 0, BLOCKS / 2, true);
	assert_int_equal(touch(f, 1000, true), BLOCK_BYPASS);
	sleep_ms(3200, deadline_in_ms(10000));
	assert_int_equal(touch(f, 1000, true), BLOCK_FILL);
}

static void a_failed_fill_is_told_to_waiters_and_forgotten(void **state)
{
	struct fixture *f = *state;
	struct block *mine, *waits, *b;

	assert_int_equal(get(f, 1, false, &mine), BLOCK_FILL);
	assert_int_equal(get(f, 1, false, &waits), BLOCK_WAIT);
	assert_ptr_equal(mine, waits);
	block_filled(f->c, mine, 0, -ENOENT);
	block_unpin(f->c, mine);
	assert_int_equal(get(f, 1, false, &b), BLOCK_FILL); /* a new try meanwhile */
	assert_int_equal(block_wait(f->c, waits, deadline_in_ms(0)), -ENOENT);
	block_unpin(f->c, waits);
	block_filled(f->c, b, BLOCK, 0);
	block_unpin(f->c, b);
	assert_true(present(f, 1));
}

static void waiting_ends_at_the_deadline(void **state)
{
	struct fixture *f = *state;
	struct block *mine, *waits;

	assert_int_equal(get(f, 1, true, &mine), BLOCK_FILL);
	assert_int_equal(get(f, 1, false, &waits), BLOCK_WAIT);
	int64_t start = now_ms();
	assert_int_equal(block_wait(f->c, waits, deadline_in_ms(50)), -ETIMEDOUT);
	assert_in_range(now_ms() - start, 45, 5000);
	block_unpin(f->c, waits);
	block_filled(f->c, mine, BLOCK, 0);
	block_unpin(f->c, mine);
}

/* Threads over more keys than fit; each block's bytes are its id all over. */
struct crowd {
	struct fixture *f;
	unsigned seed;
	const char *complaint;
};

static void crowd_fill(struct crowd *w, struct block *b, uint64_t id)
{
	if (rand_r(&w->seed) % 16 == 0) {
		block_filled(w->f->c, b, 0, -EIO);
		return;
	}
	memset(b->data, (int)id, BLOCK);
	block_filled(w->f->c, b, BLOCK, 0);
}

static void *crowd_run(void *arg)
{
	struct crowd *w = arg;

	for (int i = 0; i < 3000; i++) {
		uint64_t id = (uint64_t)rand_r(&w->seed) % 100;
		struct block *b;
		bool ready = false;

		switch (get(w->f, id, rand_r(&w->seed) % 4 == 0, &b)) {
		case BLOCK_FILL:
			crowd_fill(w, b, id);
			ready = block_wait(w->f->c, b, deadline_in_ms(0)) == 0;
			break;
		case BLOCK_WAIT:
			ready = block_wait(w->f->c, b, deadline_in_ms(10000)) == 0;
			break;
		case BLOCK_HIT:
			ready = true;
			break;
		case BLOCK_BYPASS:
		case BLOCK_MISS:
			continue;
		}
		for (size_t at = 0; ready && at < BLOCK; at += 997)
			if (b->data[at] != (uint8_t)id)
				w->complaint = "wrong byte";
		block_unpin(w->f->c, b);
	}
	return NULL;
}

static void threads_see_only_whole_blocks(void **state)
{
	struct crowd w[4];
	pthread_t t[ARRAY_LEN(w)];

	for (size_t i = 0; i < ARRAY_LEN(w); i++) {
		w[i] = (struct crowd){ .f = *state, .seed = (unsigned)i };
		assert_int_equal(pthread_create(&t[i], NULL, crowd_run, &w[i]), 0);
	}
	for (size_t i = 0; i < ARRAY_LEN(w); i++) {
		pthread_join(t[i], NULL);
		assert_null(w[i].complaint);
	}
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(a_filled_block_is_found_again),
		TEST(keys_differ_in_every_part),
		TEST(a_small_block_takes_little_memory),
		TEST(more_than_a_block_is_bypassed),
		TEST(a_short_block_is_filled_anew_when_more_is_wanted),
		TEST(peek_never_makes_a_block),
		TEST(all_pinned_means_bypass_and_pins_hold),
		TEST(a_scan_does_not_throw_out_what_is_used_again),
		TEST(a_set_that_only_hits_for_long_survives_a_scan),
		TEST(walking_through_a_block_in_steps_uses_it_once),
		TEST(what_comes_back_soon_after_eviction_becomes_a_main_block),
		TEST(read_ahead_takes_no_hot_block),
		TEST(read_ahead_leaves_readers_room_beside_the_hot_set),
		TEST(readers_that_pin_all_the_rest_do_not_take_the_hot_set),
		TEST(unread_read_ahead_is_kept_and_bounded),
		TEST(abandoned_read_ahead_makes_room_after_a_while),
		TEST(a_failed_fill_is_told_to_waiters_and_forgotten),
		TEST(waiting_ends_at_the_deadline),
		TEST(threads_see_only_whole_blocks),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
