/* The circuit breaker: when it opens, who probes, how it grows. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "filer/base/base.h"
#include "filer/breaker.h"

#define THREADS 8

static int make(void **state)
{
	static struct breaker b;
	breaker_init(&b);
	*state = &b;
	return 0;
}

static int drop(void **state)
{
	breaker_destroy(*state);
	return 0;
}

static void fail_until_open(struct breaker *b)
{
	for (int i = 0; i < BREAKER_FAILURES_MAX; i++)
		breaker_failure(b);
	assert_int_equal(breaker_state(b), BREAKER_OPEN);
}

/* Waits for the present pause to end, for a bounded time. */
static void become_probe(struct breaker *b)
{
	struct deadline d = deadline_in_ms(5000);

	while (!breaker_allow(b)) {
		assert_false(deadline_passed(d));
		sleep_ms(5, d);
	}
	assert_int_equal(breaker_state(b), BREAKER_PROBING);
}

static void test_it_rests_until_a_probe_is_due_also_if_nobody_probes(void **state)
{
	struct breaker *b = *state;
	struct deadline d = deadline_in_ms(5000);

	assert_false(breaker_rests(b));
	fail_until_open(b);
	int64_t due_ms = b->retry_at_ms;
	bool rests = breaker_rests(b);
	assert_true(rests || now_ms() >= due_ms);
	while (breaker_rests(b)) {
		assert_false(deadline_passed(d));
		sleep_ms(5, d);
	}
	assert_int_equal(breaker_state(b), BREAKER_OPEN);
}

static void test_one_failure_does_not_open(void **state)
{
	struct breaker *b = *state;

	breaker_failure(b);
	assert_int_equal(breaker_state(b), BREAKER_CLOSED);
	assert_true(breaker_allow(b));
}

static void test_success_between_failures_starts_the_count_again(void **state)
{
	struct breaker *b = *state;

	for (int i = 0; i < 3 * BREAKER_FAILURES_MAX; i++) {
		breaker_failure(b);
		breaker_success(b);
	}
	assert_int_equal(breaker_state(b), BREAKER_CLOSED);
	assert_int_equal(b->opened, 0);
}

static void test_open_refuses_until_the_pause_is_over(void **state)
{
	struct breaker *b = *state;
	int64_t start = now_ms();

	fail_until_open(b);
	become_probe(b);
	assert_true(now_ms() - start >= BREAKER_PAUSE_MIN_MS * 3 / 4);
}

static void test_only_one_caller_probes(void **state)
{
	struct breaker *b = *state;

	fail_until_open(b);
	become_probe(b);
	for (int i = 0; i < 10; i++)
		assert_false(breaker_allow(b));
}

static void test_probe_success_closes(void **state)
{
	struct breaker *b = *state;

	fail_until_open(b);
	become_probe(b);
	breaker_success(b);
	assert_int_equal(breaker_state(b), BREAKER_CLOSED);
	assert_true(breaker_allow(b));
	assert_int_equal(b->pause_ms, BREAKER_PAUSE_MIN_MS);
}

static void test_probe_failure_doubles_the_pause(void **state)
{
	struct breaker *b = *state;

	fail_until_open(b);
	become_probe(b);
	int64_t failed_ms = now_ms();
	breaker_failure(b);
	assert_int_equal(breaker_state(b), BREAKER_OPEN);
	assert_int_equal(b->pause_ms, 2 * BREAKER_PAUSE_MIN_MS);
	bool allowed = breaker_allow(b);
	assert_true(!allowed || now_ms() - failed_ms >= BREAKER_PAUSE_MIN_MS * 2 * 3 / 4);
	assert_int_equal(b->opened, 2);
}

static void test_pause_is_bounded(void **state)
{
	struct breaker *b = *state;

	fail_until_open(b);
	for (int i = 0; i < 20; i++) {
		b->retry_at_ms = 0; /* as if the pause were over */
		assert_true(breaker_allow(b));
		breaker_failure(b);
	}
	assert_int_equal(b->pause_ms, BREAKER_PAUSE_MAX_MS);
	assert_true(b->retry_at_ms <= now_ms() + BREAKER_PAUSE_MAX_MS * 5 / 4);
}

static void test_late_failures_do_not_prolong_the_rest(void **state)
{
	struct breaker *b = *state;

	fail_until_open(b);
	int64_t due = b->retry_at_ms;
	breaker_failure(b);
	assert_int_equal(b->retry_at_ms, due);
	assert_int_equal(b->pause_ms, BREAKER_PAUSE_MIN_MS);
}

static void test_lost_probe_is_replaced(void **state)
{
	struct breaker *b = *state;

	fail_until_open(b);
	become_probe(b);
	assert_false(breaker_allow(b));
	b->retry_at_ms = 0; /* as if it were long ago */
	assert_true(breaker_allow(b));
}

static void *probe(void *arg)
{
	return breaker_allow(arg) ? arg : NULL;
}

static void test_threads_elect_one_probe(void **state)
{
	struct breaker *b = *state;
	pthread_t threads[THREADS];
	int probes = 0;

	fail_until_open(b);
	b->retry_at_ms = 0;
	for (size_t i = 0; i < THREADS; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, probe, b), 0);
	for (size_t i = 0; i < THREADS; i++) {
		void *ret;
		pthread_join(threads[i], &ret);
		probes += ret != NULL;
	}
	assert_int_equal(probes, 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(
			test_it_rests_until_a_probe_is_due_also_if_nobody_probes, make, drop),
		cmocka_unit_test_setup_teardown(test_one_failure_does_not_open, make, drop),
		cmocka_unit_test_setup_teardown(
			test_success_between_failures_starts_the_count_again, make, drop),
		cmocka_unit_test_setup_teardown(test_open_refuses_until_the_pause_is_over, make,
						drop),
		cmocka_unit_test_setup_teardown(test_only_one_caller_probes, make, drop),
		cmocka_unit_test_setup_teardown(test_probe_success_closes, make, drop),
		cmocka_unit_test_setup_teardown(test_probe_failure_doubles_the_pause, make, drop),
		cmocka_unit_test_setup_teardown(test_pause_is_bounded, make, drop),
		cmocka_unit_test_setup_teardown(test_late_failures_do_not_prolong_the_rest, make,
						drop),
		cmocka_unit_test_setup_teardown(test_lost_probe_is_replaced, make, drop),
		cmocka_unit_test_setup_teardown(test_threads_elect_one_probe, make, drop),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
