/* When waiting is done by polling. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "rdma/spin.h"

#define MAX_NS INT64_C(200000)
#define LONG_NS (100 * MAX_NS)

static void it_is_tried_at_first(void **state)
{
	const struct spin s = { 0 };

	(void)state;
	assert_int_equal(spin_window_ns(&s, MAX_NS), MAX_NS);
}

static void it_goes_on_for_twice_as_long_as_waits_take(void **state)
{
	struct spin s = { 0 };

	(void)state;
	for (int i = 0; i < 100; i++)
		spin_note(&s, MAX_NS / 10, MAX_NS, true);
	assert_in_range(spin_window_ns(&s, MAX_NS), MAX_NS / 6, MAX_NS / 5);
}

static void one_long_wait_does_not_end_it(void **state)
{
	struct spin s = { 0 };

	(void)state;
	for (int i = 0; i < 100; i++)
		spin_note(&s, MAX_NS / 10, MAX_NS, true);
	spin_note(&s, LONG_NS, MAX_NS, true);
	assert_true(spin_window_ns(&s, MAX_NS) > 0);
}

static void where_waits_are_long_it_is_tried_now_and_then(void **state)
{
	unsigned tried = 0;
	struct spin s = { 0 };

	(void)state;
	for (int i = 0; i < 100; i++)
		spin_note(&s, LONG_NS, MAX_NS, true);
	for (int i = 0; i < 90; i++) {
		tried += spin_window_ns(&s, MAX_NS) > 0;
		spin_note(&s, LONG_NS, MAX_NS, true);
	}
	assert_int_equal(tried, 90 / (SPIN_TRY_EVERY + 1));
}

/* Waits have been so long that polling stopped; it is now to be tried again. */
static void sleep_until_a_try(struct spin *s)
{
	for (int i = 0; i < 100; i++)
		spin_note(s, LONG_NS, MAX_NS, true);
	while (spin_window_ns(s, MAX_NS) == 0)
		spin_note(s, LONG_NS, MAX_NS, true);
}

static void it_is_taken_up_again_where_trying_it_pays(void **state)
{
	struct spin s = { 0 };

	(void)state;
	sleep_until_a_try(&s);
	spin_note(&s, MAX_NS / 2, MAX_NS, true);
	assert_int_equal(spin_window_ns(&s, MAX_NS), MAX_NS);
}

static void a_try_that_could_not_be_made_is_still_to_come(void **state)
{
	struct spin s = { 0 };

	(void)state;
	sleep_until_a_try(&s);
	spin_note(&s, LONG_NS, MAX_NS, false);
	assert_true(spin_window_ns(&s, MAX_NS) > 0);
	spin_note(&s, LONG_NS, MAX_NS, true);
	assert_int_equal(spin_window_ns(&s, MAX_NS), 0);
}

static void who_wants_none_gets_none(void **state)
{
	struct spin s = { 0 };

	(void)state;
	for (int i = 0; i < 100; i++) {
		assert_int_equal(spin_window_ns(&s, 0), 0);
		spin_note(&s, i, 0, true);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(it_is_tried_at_first),
		cmocka_unit_test(it_goes_on_for_twice_as_long_as_waits_take),
		cmocka_unit_test(one_long_wait_does_not_end_it),
		cmocka_unit_test(where_waits_are_long_it_is_tried_now_and_then),
		cmocka_unit_test(it_is_taken_up_again_where_trying_it_pays),
		cmocka_unit_test(a_try_that_could_not_be_made_is_still_to_come),
		cmocka_unit_test(who_wants_none_gets_none),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
