/* The table of needles: against a plain array that does the same. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>

#include "filer/base/base.h"
#include "rdma/agent/store_index.h"

#define KEYS 5000
#define STEPS 60000

static void test_unknown_keys_are_not_found(void **state)
{
	struct index ix;
	struct index_entry e;

	(void)state;
	index_init(&ix);
	assert_false(index_find(&ix, 1, &e));
	index_delete(&ix, 1);
	assert_int_equal(index_put(&ix, 1, 8, 5), 0);
	assert_false(index_find(&ix, 2, &e));
	assert_false(index_find(&ix, 0, &e));
	index_free(&ix);
}

static void test_extremes_of_all_fields_survive(void **state)
{
	const uint64_t offset_max = ((UINT64_C(1) << 40) - 1) * INDEX_UNIT_BYTES;
	struct index ix;
	struct index_entry e;

	(void)state;
	index_init(&ix);
	assert_int_equal(index_put(&ix, UINT64_MAX, offset_max, INT32_MAX), 0);
	assert_int_equal(index_put(&ix, 0, UINT64_C(1) << 35, 0), 0);
	assert_true(index_find(&ix, UINT64_MAX, &e));
	assert_true(e.offset == offset_max && e.size == INT32_MAX && !e.deleted);
	assert_true(index_find(&ix, 0, &e));
	assert_true(e.offset == UINT64_C(1) << 35 && e.size == 0 && !e.deleted);
	index_free(&ix);
}

static void test_deleted_needles_keep_their_place_until_put_again(void **state)
{
	struct index ix;
	struct index_entry e;

	(void)state;
	index_init(&ix);
	assert_int_equal(index_put(&ix, 7, 64, 100), 0);
	index_delete(&ix, 7);
	index_delete(&ix, 7);
	assert_int_equal(ix.live, 0);
	assert_true(index_find(&ix, 7, &e));
	assert_true(e.deleted && e.offset == 64 && e.size == 100);
	assert_int_equal(index_put(&ix, 7, 128, 9), 0);
	assert_true(index_find(&ix, 7, &e));
	assert_true(!e.deleted && e.offset == 128 && e.size == 9);
	assert_int_equal(ix.live, 1);
	index_free(&ix);
}

static void test_does_as_an_array_does(void **state)
{
	static struct index_entry model[KEYS];
	struct index ix;
	struct index_entry e;
	unsigned random = 1;
	size_t live = 0;

	(void)state;
	index_init(&ix);
	for (unsigned i = 1; i <= STEPS; i++) {
		unsigned key = (unsigned)rand_r(&random) % KEYS;

		if (rand_r(&random) % 4 == 0) {
			index_delete(&ix, key);
			model[key].deleted = true;
		} else {
			model[key] = (struct index_entry){ .offset = (uint64_t)i * 8, .size = i };
			assert_int_equal(index_put(&ix, key, model[key].offset, i), 0);
		}
	}
	for (unsigned key = 0; key < KEYS; key++) {
		bool known = model[key].offset != 0;

		assert_int_equal(index_find(&ix, key, &e), known);
		live += known && !model[key].deleted;
		if (known)
			assert_true(e.offset == model[key].offset && e.size == model[key].size &&
				    e.deleted == model[key].deleted);
	}
	assert_int_equal(ix.live, live);
	index_free(&ix);
}

static void test_a_needle_costs_a_few_tens_of_bytes(void **state)
{
	struct index ix;

	(void)state;
	index_init(&ix);
	for (uint64_t n = 1; n <= 100000; n++) {
		assert_int_equal(index_put(&ix, n, n * 8, 1), 0);
		if (n >= 1000)
			assert_true(index_bytes(&ix) <= n * 33);
	}
	index_free(&ix);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_unknown_keys_are_not_found),
		cmocka_unit_test(test_extremes_of_all_fields_survive),
		cmocka_unit_test(test_deleted_needles_keep_their_place_until_put_again),
		cmocka_unit_test(test_does_as_an_array_does),
		cmocka_unit_test(test_a_needle_costs_a_few_tens_of_bytes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
