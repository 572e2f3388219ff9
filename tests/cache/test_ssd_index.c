#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <string.h>

#include "cache/ssd_index.h"

#define SEGMENTS UINT32_C(4)
#define BLOCKS UINT64_C(100) /* in each */

static int setup(void **state)
{
	struct ssd_index *x;

	assert_int_equal(ssd_index_new(SEGMENTS, &x), 0);
	*state = x;
	return 0;
}

static int teardown(void **state)
{
	ssd_index_free(*state);
	return 0;
}

static struct ssd_record block(uint64_t id)
{
	return (struct ssd_record){ .key = { .id = { { id, id * 3 } }, .index = 1 },
				    .page = (uint32_t)(id % BLOCKS),
				    .bytes = 4096 };
}

static bool there(struct ssd_index *x, uint64_t id)
{
	struct ssd_record r = block(id);
	struct ssd_place p;

	return ssd_index_find(x, &r.key, r.bytes, false, &p);
}

static void use(struct ssd_index *x, uint64_t first, uint64_t n)
{
	for (uint64_t id = first; id < first + n; id++) {
		struct ssd_record r = block(id);
		struct ssd_place p;

		assert_true(ssd_index_find(x, &r.key, r.bytes, true, &p));
		ssd_index_release(x, p.segment);
	}
}

static void fill(struct ssd_index *x, uint32_t segment, uint64_t first)
{
	for (uint64_t id = first; id < first + BLOCKS; id++) {
		struct ssd_record r = block(id);

		assert_true(ssd_index_add(x, segment, &r));
	}
	ssd_index_seal(x, segment);
}

/* Segment i has blocks i * BLOCKS and on. */
static void fill_all(struct ssd_index *x)
{
	for (uint32_t i = 0; i < SEGMENTS; i++) {
		assert_int_equal(ssd_index_take(x, true), i);
		fill(x, i, i * BLOCKS);
	}
	assert_false(ssd_index_has_room(x));
}

static void a_block_is_found_where_it_was_put(void **state)
{
	struct ssd_record r = block(5);
	struct ssd_place p;

	uint32_t segment = ssd_index_take(*state, true);
	assert_false(there(*state, 5));
	assert_true(ssd_index_add(*state, segment, &r));
	assert_true(ssd_index_find(*state, &r.key, 4096, false, &p));
	assert_int_equal(p.segment, segment);
	assert_int_equal(p.record.page, r.page);
	assert_false(ssd_index_find(*state, &r.key, 4097, false, &p));
	assert_false(there(*state, 6));
}

static void a_removed_block_is_gone(void **state)
{
	struct ssd_record r = block(5);
	struct ssd_place p;

	fill_all(*state);
	assert_true(ssd_index_find(*state, &r.key, 1, false, &p));
	ssd_index_remove(*state, &p);
	ssd_index_remove(*state, &p);
	assert_false(there(*state, 5));
	assert_true(there(*state, 4) && there(*state, 6));
}

/* It was written anew since somebody looked. */
static void a_block_elsewhere_is_not_removed(void **state)
{
	struct ssd_record r = block(5);
	struct ssd_place p;

	uint32_t segment = ssd_index_take(*state, true);
	assert_true(ssd_index_add(*state, segment, &r));
	assert_true(ssd_index_find(*state, &r.key, 1, false, &p));
	r.page++;
	assert_true(ssd_index_add(*state, segment, &r));
	ssd_index_remove(*state, &p);
	assert_true(there(*state, 5));
}

static void the_oldest_unread_segment_gives_way(void **state)
{
	fill_all(*state);
	assert_int_equal(ssd_index_take(*state, true), 0);
	assert_false(there(*state, 0) || there(*state, BLOCKS - 1));
	assert_true(there(*state, BLOCKS));
}

static void a_segment_in_use_is_kept_once(void **state)
{
	fill_all(*state);
	use(*state, 0, BLOCKS / 2);
	assert_int_equal(ssd_index_take(*state, true), SSD_NO_SEGMENT);
	assert_int_equal(ssd_index_take(*state, true), 1);
	assert_true(there(*state, 0));
	fill(*state, 1, 1000);
	assert_int_equal(ssd_index_take(*state, true), 2);
	fill(*state, 2, 2000);
	assert_int_equal(ssd_index_take(*state, true), 3);
	fill(*state, 3, 3000);
	assert_int_equal(ssd_index_take(*state, true), 0);
}

static void a_few_uses_keep_no_segment(void **state)
{
	fill_all(*state);
	for (unsigned i = 0; i < 100; i++)
		use(*state, 0, BLOCKS / 5);
	assert_int_equal(ssd_index_take(*state, true), 0);
}

static void a_segment_with_a_reader_is_passed_over(void **state)
{
	struct ssd_record r = block(0);
	struct ssd_place p;

	fill_all(*state);
	assert_true(ssd_index_find(*state, &r.key, 1, true, &p));
	assert_int_equal(ssd_index_take(*state, true), 1);
	assert_true(there(*state, 0));
	ssd_index_release(*state, p.segment);
}

static void a_data_set_that_does_not_fit_keeps_what_is_there(void **state)
{
	fill_all(*state);
	for (unsigned epoch = 0; epoch < 10; epoch++) {
		use(*state, 0, SEGMENTS * BLOCKS);
		/* as many again are not there, and are offered */
		for (unsigned i = 0; i < SEGMENTS; i++)
			assert_int_equal(ssd_index_take(*state, true), SSD_NO_SEGMENT);
	}
	for (uint64_t id = 0; id < SEGMENTS * BLOCKS; id++)
		assert_true(there(*state, id));
}

static void a_segment_given_back_is_fresh_again(void **state)
{
	fill_all(*state);
	uint32_t segment = ssd_index_take(*state, true);
	ssd_index_give_back(*state, segment);
	assert_true(ssd_index_has_room(*state));
	assert_int_equal(ssd_index_take(*state, true), segment);
	assert_false(ssd_index_has_room(*state));
}

static void without_growth_no_fresh_segment_is_taken(void **state)
{
	assert_int_equal(ssd_index_take(*state, true), 0);
	fill(*state, 0, 0);
	assert_int_equal(ssd_index_take(*state, false), 0);
}

static void there_is_room_for_full_tables_of_small_blocks(void **state)
{
	struct ssd_index_stats st;
	uint64_t id = 0;

	for (uint32_t segment; id < 100000; ssd_index_seal(*state, segment)) {
		segment = ssd_index_take(*state, true);
		for (size_t i = 0; i < SSD_RECORDS_MAX; i++) {
			struct ssd_record r = block(id++);

			assert_true(ssd_index_add(*state, segment, &r));
		}
	}
	ssd_index_stats(*state, &st);
	assert_true(st.evictions > 0);
	assert_true(there(*state, id - 1));
}

static void what_was_offered_before_is_remembered(void **state)
{
	struct ssd_key a = block(1).key, b = block(2).key;

	assert_false(ssd_index_seen(*state, &a));
	assert_false(ssd_index_seen(*state, &b));
	assert_true(ssd_index_seen(*state, &a));
	assert_true(ssd_index_seen(*state, &b));
}

static void what_was_offered_long_ago_is_not(void **state)
{
	struct ssd_key first = block(1).key;

	assert_false(ssd_index_seen(*state, &first));
	for (uint64_t id = 2; id < 10000; id++) {
		struct ssd_key k = block(id).key;

		ssd_index_seen(*state, &k);
	}
	assert_false(ssd_index_seen(*state, &first));
}

#define T(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(a_block_is_found_where_it_was_put),
		T(a_removed_block_is_gone),
		T(a_block_elsewhere_is_not_removed),
		T(the_oldest_unread_segment_gives_way),
		T(a_segment_in_use_is_kept_once),
		T(a_few_uses_keep_no_segment),
		T(a_segment_with_a_reader_is_passed_over),
		T(a_data_set_that_does_not_fit_keeps_what_is_there),
		T(a_segment_given_back_is_fresh_again),
		T(without_growth_no_fresh_segment_is_taken),
		T(there_is_room_for_full_tables_of_small_blocks),
		T(what_was_offered_before_is_remembered),
		T(what_was_offered_long_ago_is_not),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
