/* Latencies in buckets: percentiles are right to within the width of a bucket. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "fs/ctl_histogram.h"

static struct histogram h, more;

static int clear(void **state)
{
	(void)state;
	memset(&h, 0, sizeof(h));
	memset(&more, 0, sizeof(more));
	return 0;
}

static void an_empty_one_has_no_percentiles(void **state)
{
	(void)state;
	assert_int_equal(histogram_percentile(&h, 0.5), 0);
	assert_int_equal(h.n, 0);
}

static void small_values_are_exact(void **state)
{
	(void)state;
	for (uint64_t v = 1; v <= 10; v++)
		histogram_add(&h, v);
	assert_int_equal(histogram_percentile(&h, 0), 1);
	assert_int_equal(histogram_percentile(&h, 0.5), 5);
	assert_int_equal(histogram_percentile(&h, 0.51), 6);
	assert_int_equal(histogram_percentile(&h, 1), 10);
	assert_true(h.min == 1 && h.max == 10 && h.sum == 55);
}

static void every_value_is_within_a_bucket_of_itself(void **state)
{
	(void)state;
	for (uint64_t v = 1; v < UINT64_MAX / 3; v = v * 3 + 1) {
		clear(NULL);
		histogram_add(&h, v);
		histogram_add(&h, UINT64_MAX);
		uint64_t p = histogram_percentile(&h, 0.5);
		assert_true(p >= v && p - v <= v / HISTOGRAM_STEPS);
	}
}

static void the_largest_value_has_a_bucket(void **state)
{
	(void)state;
	histogram_add(&h, UINT64_MAX);
	assert_true(histogram_percentile(&h, 1) == UINT64_MAX);
}

static void a_percentile_is_never_beyond_the_maximum(void **state)
{
	(void)state;
	histogram_add(&h, 1000001);
	assert_int_equal(histogram_percentile(&h, 0.999), 1000001);
}

static void percentiles_of_a_known_spread_are_close(void **state)
{
	static const double parts[] = { 0.1, 0.5, 0.9, 0.99, 0.999 };

	(void)state;
	for (uint64_t v = 1; v <= 100000; v++)
		histogram_add(&h, v * 1000);
	for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]); i++) {
		double exact = parts[i] * 1e8, got = (double)histogram_percentile(&h, parts[i]);

		assert_true(got >= exact && got <= exact * (1 + 1.0 / HISTOGRAM_STEPS));
	}
}

static void merged_ones_are_as_if_added_to_one(void **state)
{
	struct histogram both = { 0 };

	(void)state;
	for (uint64_t v = 1; v <= 1000; v++) {
		histogram_add(v % 3 ? &h : &more, v * 77);
		histogram_add(&both, v * 77);
	}
	histogram_merge(&h, &more);
	assert_memory_equal(&h, &both, sizeof(h));
	memset(&more, 0, sizeof(more));
	histogram_merge(&h, &more);
	assert_memory_equal(&h, &both, sizeof(h));
	histogram_merge(&more, &h);
	assert_memory_equal(&more, &both, sizeof(h));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(an_empty_one_has_no_percentiles, clear),
		cmocka_unit_test_setup(small_values_are_exact, clear),
		cmocka_unit_test_setup(every_value_is_within_a_bucket_of_itself, clear),
		cmocka_unit_test_setup(the_largest_value_has_a_bucket, clear),
		cmocka_unit_test_setup(a_percentile_is_never_beyond_the_maximum, clear),
		cmocka_unit_test_setup(percentiles_of_a_known_spread_are_close, clear),
		cmocka_unit_test_setup(merged_ones_are_as_if_added_to_one, clear),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
