/* Comparing needles with their checksums, and who waits for that. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "filer/base/base.h"
#include "filer/base/crc32c.h"
#include "rdma/agent/check.h"

/* Of one needle: a check of it pauses a few times. */
#define NEEDLE_BYTES (4 * CHECK_TURN_BYTES)

struct waiter {
	struct check check; /* first */
	struct needle_place place;
	struct disk_read read;
	bool gone; /* it wants nothing any more */
	bool done;
	int err;
	enum needle_check found;
};

struct world {
	struct checker checker;
	struct disk *disk;
	FILE *file;
	struct needle_info info;
};

static bool is_wanted(const struct check *c)
{
	return !((const struct waiter *)c)->gone;
}

static void note_done(struct check *c, int err, enum needle_check found)
{
	struct waiter *w = (struct waiter *)c;

	assert_false(w->done);
	w->done = true;
	w->err = err;
	w->found = found;
}

static int make(void **state)
{
	struct world *w = calloc(1, sizeof(*w));
	uint8_t *data = malloc(NEEDLE_BYTES);

	memset(data, 'n', NEEDLE_BYTES);
	checker_init(&w->checker);
	assert_int_equal(disk_new(&w->disk), 0);
	w->file = tmpfile();
	assert_non_null(w->file);
	assert_int_equal(fwrite(data, NEEDLE_BYTES, 1, w->file), 1);
	assert_int_equal(fflush(w->file), 0);
	w->info = (struct needle_info){ .data_bytes = NEEDLE_BYTES,
					.crc32c = crc32c(0, data, NEEDLE_BYTES) };
	free(data);
	*state = w;
	return 0;
}

static int drop(void **state)
{
	struct world *w = *state;

	assert_null(w->checker.checks);
	disk_free(w->disk);
	fclose(w->file);
	free(w);
	return 0;
}

/* number: of the needle, all of which hold the same. */
static void start(struct world *w, struct waiter *waiter, uint64_t number)
{
	*waiter = (struct waiter){ .place = { .fd = fileno(w->file), .record_offset = number } };
	waiter->check = (struct check){ .disk = w->disk,
					.place = &waiter->place,
					.info = &w->info,
					.read = &waiter->read,
					.wanted = is_wanted,
					.done = note_done };
	check_start(&w->checker, &waiter->check);
}

static void finish(struct world *w, const struct waiter *waiters, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		while (!waiters[i].done) {
			struct pollfd p = { .fd = disk_fd(w->disk), .events = POLLIN };

			disk_submit(w->disk);
			assert_true(poll(&p, 1, 10000) > 0);
			disk_reap(w->disk);
		}
	}
}

static void all_that_wait_for_a_needle_are_told(void **state)
{
	struct world *w = *state;
	struct waiter waiters[3];

	for (size_t i = 0; i < 3; i++)
		start(w, &waiters[i], 1);
	finish(w, waiters, 3);
	for (size_t i = 0; i < 3; i++) {
		assert_int_equal(waiters[i].err, 0);
		assert_int_equal(waiters[i].found, NEEDLE_SOUND);
	}
}

static void a_check_that_nobody_wants_ends(void **state)
{
	struct world *w = *state;
	struct waiter waiters[2];

	for (size_t i = 0; i < 2; i++)
		start(w, &waiters[i], 1);
	if (waiters[0].done)
		skip(); /* without a ring nothing waits */
	waiters[0].gone = waiters[1].gone = true;
	finish(w, waiters, 2);
	for (size_t i = 0; i < 2; i++)
		assert_int_equal(waiters[i].err, -ECANCELED);
	assert_true(waiters[0].check.at_ < NEEDLE_BYTES);
}

static void a_check_goes_on_for_one_that_still_waits(void **state)
{
	struct world *w = *state;
	struct waiter waiters[3];

	for (size_t i = 0; i < 3; i++)
		start(w, &waiters[i], 1);
	if (waiters[0].done)
		skip(); /* without a ring nothing waits */
	waiters[0].gone = waiters[2].gone = true;
	finish(w, waiters, 3);
	assert_int_equal(waiters[1].err, 0);
	assert_int_equal(waiters[1].found, NEEDLE_SOUND);
}

static void checks_that_nobody_wants_end_before_their_turn(void **state)
{
	struct waiter waiters[CHECKS_RUNNING_MAX + 4];
	struct world *w = *state;

	for (size_t i = 0; i < ARRAY_LEN(waiters); i++)
		start(w, &waiters[i], i);
	if (waiters[0].done)
		skip(); /* without a ring nothing waits */
	for (size_t i = CHECKS_RUNNING_MAX; i < ARRAY_LEN(waiters) - 1; i++)
		waiters[i].gone = true;
	finish(w, waiters, ARRAY_LEN(waiters));
	for (size_t i = 0; i < ARRAY_LEN(waiters); i++) {
		assert_int_equal(waiters[i].err, waiters[i].gone ? -ECANCELED : 0);
		if (waiters[i].gone)
			assert_int_equal(waiters[i].check.at_, 0);
	}
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, make, drop)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(all_that_wait_for_a_needle_are_told),
		TEST(a_check_that_nobody_wants_ends),
		TEST(a_check_goes_on_for_one_that_still_waits),
		TEST(checks_that_nobody_wants_end_before_their_turn),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
