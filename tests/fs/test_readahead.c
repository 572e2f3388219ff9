#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "filer/base/base.h"
#include "fs/readahead.h"

#define BLOCK (1 * MIB)
#define FILE_BYTES (1 * GIB)
#define WINDOW_MAX (16 * MIB)
#define REQUEST (128 * KIB)

/* Follows what was planned, by 64 KiB of a file of FILE_BYTES. */
struct fixture {
	struct readahead ra;
	struct readahead_limits lim;
	struct readahead_plan plan; /* the last one */
	uint64_t planned_bytes;
	uint8_t planned[FILE_BYTES / (64 * KIB)];
};

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	readahead_init(&f->ra);
	f->lim = (struct readahead_limits){ .file_bytes = FILE_BYTES,
					    .window_max = WINDOW_MAX,
					    .block_bytes = BLOCK };
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	free(*state);
	return 0;
}

static const struct readahead_plan *note(struct fixture *f, uint64_t offset, uint64_t len)
{
	readahead_note(&f->ra, &f->lim, offset, len, &f->plan);
	for (size_t i = 0; i < f->plan.n_ranges; i++) {
		struct readahead_range r = f->plan.ranges[i];

		assert_true(r.len > 0);
		assert_true(r.offset + r.len <= f->lim.file_bytes);
		f->planned_bytes += r.len;
		for (uint64_t at = r.offset; at < r.offset + r.len; at += 64 * KIB)
			f->planned[at / (64 * KIB)] = 1;
	}
	return &f->plan;
}

static bool planned(const struct fixture *f, uint64_t offset)
{
	return f->planned[offset / (64 * KIB)] != 0;
}

static uint64_t random_offset(unsigned *seed, uint64_t unit)
{
	return (uint64_t)rand_r(seed) % (FILE_BYTES / unit) * unit;
}

static void the_first_read_at_zero_is_hoped_to_be_sequential(void **state)
{
	struct fixture *f = *state;

	assert_true(note(f, 0, 4096)->sequential);
	assert_true(planned(f, 512 * KIB));
	assert_true(f->planned_bytes <= BLOCK);
}

static void the_first_read_elsewhere_fetches_only_itself(void **state)
{
	struct fixture *f = *state;

	assert_false(note(f, 500 * MIB, 4096)->sequential);
	assert_int_equal(f->planned_bytes, 0);
}

static void sequential_reads_are_planned_ahead_once_each(void **state)
{
	struct fixture *f = *state;
	uint64_t at;

	for (at = 0; at < 256 * MIB; at += REQUEST) {
		assert_true(note(f, at, REQUEST)->sequential);
		/* what is read next is on its way */
		assert_true(planned(f, at + REQUEST));
	}
	assert_true(f->planned_bytes <= at + WINDOW_MAX + BLOCK);
	assert_true(f->planned_bytes >= at + WINDOW_MAX / 2);
	assert_int_equal(readahead_active(&f->ra), 1);
}

static void sequential_reads_from_the_middle_are_recognised(void **state)
{
	struct fixture *f = *state;

	for (uint64_t at = 100 * MIB; at < 101 * MIB; at += REQUEST)
		note(f, at, REQUEST);
	assert_true(f->plan.sequential);
	assert_true(planned(f, 102 * MIB));
}

static void the_window_grows_no_faster_than_what_was_read(void **state)
{
	struct fixture *f = *state;

	for (uint64_t at = 0; at < 64 * MIB; at += REQUEST) {
		note(f, at, REQUEST);
		assert_true(f->planned_bytes <= 4 * (at + REQUEST) + 2 * BLOCK);
	}
}

static void a_long_window_is_planned_in_whole_units(void **state)
{
	struct fixture *f = *state;
	uint64_t at = 0, planned_bytes = 0;

	for (; at < 64 * MIB; at += REQUEST)
		note(f, at, REQUEST);
	for (; at < 128 * MIB; at += REQUEST) {
		const struct readahead_plan *p = note(f, at, REQUEST);

		for (size_t i = 0; i < p->n_ranges; i++) {
			assert_int_equal(p->ranges[i].offset % READAHEAD_UNIT_BYTES, 0);
			assert_int_equal(p->ranges[i].len, READAHEAD_UNIT_BYTES);
			planned_bytes += p->ranges[i].len;
		}
	}
	assert_int_equal(planned_bytes, 64 * MIB);
}

static void plans_end_at_the_end_of_the_file(void **state)
{
	struct fixture *f = *state;

	f->lim.file_bytes = 5 * MIB + 17;
	for (uint64_t at = 0; at < f->lim.file_bytes; at += REQUEST)
		note(f, at, min_u64(REQUEST, f->lim.file_bytes - at));
	assert_true(planned(f, 5 * MIB));
	assert_int_equal(readahead_active(&f->ra), 0); /* done: takes no share any longer */
}

static void requests_that_overtake_each_other_are_still_sequential(void **state)
{
	struct fixture *f = *state;
	unsigned seed = 1;
	uint64_t order[8], misses = 0, n = 0;

	for (uint64_t at = 0; at < 128 * MIB; at += ARRAY_LEN(order) * REQUEST) {
		for (size_t i = 0; i < ARRAY_LEN(order); i++)
			order[i] = at + i * REQUEST;
		for (size_t i = ARRAY_LEN(order) - 1; i > 0; i--) {
			size_t j = (size_t)rand_r(&seed) % (i + 1);
			uint64_t t = order[i];

			order[i] = order[j];
			order[j] = t;
		}
		for (size_t i = 0; i < ARRAY_LEN(order); i++, n++)
			misses += !note(f, order[i], REQUEST)->sequential ||
				  !planned(f, order[i] + MIB);
	}
	assert_true(misses <= n / 20);
	assert_true(f->planned_bytes >= 128 * MIB);
	assert_true(f->planned_bytes <= 128 * MIB + 2 * WINDOW_MAX);
}

static void random_reads_plan_nothing(void **state)
{
	struct fixture *f = *state;
	unsigned seed = 7;
	size_t sequential = 0;

	for (int i = 0; i < 100000; i++)
		sequential += note(f, random_offset(&seed, 4096), 4096)->sequential;
	/* but by accident: two in a row, or the start of the file */
	assert_true(sequential < 20);
	assert_true(f->planned_bytes < 20 * MIB);
}

static void large_random_reads_plan_next_to_nothing(void **state)
{
	struct fixture *f = *state;
	unsigned seed = 3;
	size_t sequential = 0;

	for (int i = 0; i < 10000; i++)
		sequential += note(f, random_offset(&seed, 4096), 64 * KIB)->sequential;
	assert_true(sequential < 100);
	assert_true(f->planned_bytes < 50 * MIB); /* of 625 MiB read */
}

static void a_stream_that_turns_random_stops_reading_ahead(void **state)
{
	struct fixture *f = *state;
	unsigned seed = 5;

	for (uint64_t at = 0; at < 64 * MIB; at += REQUEST)
		note(f, at, REQUEST);
	uint64_t before = f->planned_bytes;
	for (int i = 0; i < 10000; i++)
		note(f, random_offset(&seed, 4096), 4096);
	assert_true(f->planned_bytes - before < 2 * WINDOW_MAX);
	/* nor around the place where it stopped */
	before = f->planned_bytes;
	for (int i = 0; i < 1000; i++)
		note(f, 62 * MIB + (uint64_t)rand_r(&seed) % (2 * MIB), 4096);
	assert_true(f->planned_bytes - before < WINDOW_MAX);
}

static void going_over_the_same_ground_ends_a_stream(void **state)
{
	struct fixture *f = *state;
	unsigned seed = 9;

	for (uint64_t at = 0; at < 64 * MIB; at += REQUEST)
		note(f, at, REQUEST);
	uint64_t before = f->planned_bytes;
	for (int i = 0; i < 2000; i++)
		note(f, 61 * MIB + (uint64_t)rand_r(&seed) % (3 * MIB - 4096), 4096);
	assert_int_equal(f->planned_bytes, before);
	assert_false(f->plan.sequential);
	assert_int_equal(readahead_active(&f->ra), 0);
}

static void interleaved_streams_are_told_apart(void **state)
{
	struct fixture *f = *state;
	static const uint64_t starts[] = {
		0, 100 * MIB, 300 * MIB, 500 * MIB, 700 * MIB, 900 * MIB
	};

	for (uint64_t at = 0; at < 32 * MIB; at += REQUEST)
		for (size_t i = 0; i < ARRAY_LEN(starts); i++) {
			note(f, starts[i] + at, REQUEST);
			if (at >= MIB)
				assert_true(planned(f, starts[i] + at + REQUEST));
		}
	assert_int_equal(readahead_active(&f->ra), ARRAY_LEN(starts));
}

static void random_reads_in_between_do_not_end_a_stream(void **state)
{
	struct fixture *f = *state;
	unsigned seed = 11;

	for (uint64_t at = 0; at < 64 * MIB; at += REQUEST) {
		note(f, at, REQUEST);
		assert_true(f->plan.sequential);
		assert_true(planned(f, at + REQUEST));
		for (int i = 0; i < 10; i++)
			note(f, 512 * MIB + random_offset(&seed, 4096) / 2, 4096);
	}
}

static void backward_reads_are_planned_downwards(void **state)
{
	struct fixture *f = *state;

	for (uint64_t at = 64 * MIB; at > 0; at -= REQUEST) {
		note(f, at, REQUEST);
		if (at < 62 * MIB) {
			assert_true(f->plan.sequential);
			assert_true(planned(f, at - REQUEST));
		}
	}
	assert_true(f->planned_bytes <= 65 * MIB);
}

static void strided_reads_are_foretold(void **state)
{
	struct fixture *f = *state;
	const uint64_t stride = 10 * MIB, len = MIB;

	for (uint64_t i = 1; i < 50; i++) {
		note(f, i * stride, len);
		if (i >= 4) {
			assert_true(planned(f, (i + 1) * stride));
			assert_false(planned(f, (i + 1) * stride + 5 * MIB));
		}
	}
	assert_true(f->planned_bytes <= 50 * len);
}

static void strides_of_small_pieces_are_not_blown_up(void **state)
{
	struct fixture *f = *state;

	for (uint64_t i = 1; i < 100; i++)
		assert_false(note(f, i * 4 * MIB, 4096)->sequential);
	assert_int_equal(f->planned_bytes, 0);
}

static void no_window_means_no_plans(void **state)
{
	struct fixture *f = *state;

	f->lim.window_max = 0;
	for (uint64_t at = 0; at < 16 * MIB; at += REQUEST)
		note(f, at, REQUEST);
	assert_int_equal(f->planned_bytes, 0);
}

static void absurd_offsets_do_not_overflow(void **state)
{
	struct fixture *f = *state;
	unsigned seed = 2;
	const uint64_t top = INT64_MAX;
	struct readahead_plan plan;

	f->lim.file_bytes = top;
	for (int i = 0; i < 1000; i++) {
		uint64_t offset = top - (uint64_t)(i % 300 + 1) * 10 * MIB;

		readahead_note(&f->ra, &f->lim, offset, MIB, &plan);
		readahead_note(&f->ra, &f->lim, top - 1 - (uint64_t)rand_r(&seed), 1, &plan);
		for (size_t n = 0; n < plan.n_ranges; n++)
			assert_true(plan.ranges[n].offset + plan.ranges[n].len <= top);
	}
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(the_first_read_at_zero_is_hoped_to_be_sequential),
		TEST(the_first_read_elsewhere_fetches_only_itself),
		TEST(sequential_reads_are_planned_ahead_once_each),
		TEST(sequential_reads_from_the_middle_are_recognised),
		TEST(the_window_grows_no_faster_than_what_was_read),
		TEST(a_long_window_is_planned_in_whole_units),
		TEST(plans_end_at_the_end_of_the_file),
		TEST(requests_that_overtake_each_other_are_still_sequential),
		TEST(random_reads_plan_nothing),
		TEST(large_random_reads_plan_next_to_nothing),
		TEST(a_stream_that_turns_random_stops_reading_ahead),
		TEST(going_over_the_same_ground_ends_a_stream),
		TEST(interleaved_streams_are_told_apart),
		TEST(random_reads_in_between_do_not_end_a_stream),
		TEST(backward_reads_are_planned_downwards),
		TEST(strided_reads_are_foretold),
		TEST(strides_of_small_pieces_are_not_blown_up),
		TEST(no_window_means_no_plans),
		TEST(absurd_offsets_do_not_overflow),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
