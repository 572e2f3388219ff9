#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdatomic.h>

#include "filer/base/base.h"
#include "fs/workers.h"

struct task {
	struct work work; /* first */
	int ms;
	atomic_int *clock; /* counts tasks as they are done */
	int done_at; /* 0: not done */
};

static void task_run(struct work *w)
{
	struct task *t = (struct task *)w;

	sleep_ms(t->ms, deadline_in_ms(10000));
	t->done_at = atomic_fetch_add(t->clock, 1) + 1;
}

static struct task task(atomic_int *clock, int ms)
{
	return (struct task){ .work = { .run = task_run, .joinable = true },
			      .ms = ms,
			      .clock = clock };
}

static struct workers *new_workers(unsigned threads, unsigned queue_max)
{
	struct workers *w;

	assert_int_equal(workers_new(threads, queue_max, &w), 0);
	return w;
}

static void too_many_threads_are_refused(void **state)
{
	struct workers *w = NULL;

	(void)state;
	assert_int_equal(workers_new(WORKERS_THREADS_MAX + 1, 1, &w), -EINVAL);
	assert_null(w);
	workers_free(NULL);
}

static void nothing_can_be_pushed_without_threads(void **state)
{
	struct workers *w = new_workers(0, 10);
	atomic_int clock = 0;
	struct task t = task(&clock, 0);

	(void)state;
	assert_false(workers_push(w, &t.work, false));
	workers_free(w);
}

static void a_full_queue_refuses_at_once(void **state)
{
	struct workers *w = new_workers(1, 2);
	atomic_int clock = 0;
	struct task t[4];

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(t); i++)
		t[i] = task(&clock, 200);
	assert_true(workers_push(w, &t[0].work, false));
	sleep_ms(50, deadline_in_ms(1000)); /* the thread takes it */
	assert_true(workers_push(w, &t[1].work, false));
	assert_true(workers_push(w, &t[2].work, false));
	int64_t start = now_ms();
	assert_false(workers_push(w, &t[3].work, true));
	assert_true(now_ms() - start < 100);
	workers_free(w);
	assert_int_equal(clock, 3); /* what was accepted was run */
}

static void urgent_work_goes_ahead(void **state)
{
	struct workers *w = new_workers(1, 10);
	atomic_int clock = 0;
	struct task first = task(&clock, 100), later = task(&clock, 0), urgent = task(&clock, 0);

	(void)state;
	assert_true(workers_push(w, &first.work, false));
	sleep_ms(50, deadline_in_ms(1000));
	assert_true(workers_push(w, &later.work, false));
	assert_true(workers_push(w, &urgent.work, true));
	workers_free(w);
	assert_int_equal(urgent.done_at, 2);
	assert_int_equal(later.done_at, 3);
}

static void retracted_work_is_either_not_begun_or_done(void **state)
{
	struct workers *w = new_workers(1, 10);
	atomic_int clock = 0;
	struct task running = task(&clock, 150), queued = task(&clock, 0);

	(void)state;
	assert_true(workers_push(w, &running.work, false));
	assert_true(workers_push(w, &queued.work, false));
	sleep_ms(50, deadline_in_ms(1000));
	workers_retract(w, &queued.work);
	assert_int_equal(clock, 0);
	workers_retract(w, &running.work);
	assert_int_equal(running.done_at, 1);
	workers_free(w);
	assert_int_equal(queued.done_at, 0);
}

static void retracting_what_was_never_pushed_does_nothing(void **state)
{
	struct workers *w = new_workers(1, 10);
	atomic_int clock = 0;
	struct task t = task(&clock, 0);

	(void)state;
	workers_retract(w, &t.work);
	workers_free(w);
	assert_int_equal(clock, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(too_many_threads_are_refused),
		cmocka_unit_test(nothing_can_be_pushed_without_threads),
		cmocka_unit_test(a_full_queue_refuses_at_once),
		cmocka_unit_test(urgent_work_goes_ahead),
		cmocka_unit_test(retracted_work_is_either_not_begun_or_done),
		cmocka_unit_test(retracting_what_was_never_pushed_does_nothing),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
