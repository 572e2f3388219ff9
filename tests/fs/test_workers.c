#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdatomic.h>

#include "filer/base/base.h"
#include "fs/workers.h"

#define PATIENCE_MS 30000

struct task {
	struct work work; /* first */
	atomic_bool held; /* it does not end meanwhile */
	atomic_bool begun;
	atomic_int *clock; /* counts tasks as they are done */
	int done_at; /* 0: not done */
};

static void task_run(struct work *w)
{
	struct task *t = (struct task *)w;

	atomic_store(&t->begun, true);
	while (atomic_load(&t->held))
		sleep_ms(1, deadline_in_ms(1));
	t->done_at = atomic_fetch_add(t->clock, 1) + 1;
}

static struct task task(atomic_int *clock)
{
	return (struct task){ .work = { .run = task_run, .joinable = true }, .clock = clock };
}

static void await_begun(struct task *t)
{
	struct deadline d = deadline_in_ms(PATIENCE_MS);

	while (!atomic_load(&t->begun)) {
		assert_false(deadline_passed(d));
		sleep_ms(1, d);
	}
}

/* It keeps its thread until it is let go. */
static void push_held(struct workers *w, struct task *t)
{
	atomic_store(&t->held, true);
	assert_true(workers_push(w, &t->work, false));
	await_begun(t);
}

static void let_go(struct task *t)
{
	atomic_store(&t->held, false);
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
	struct task t = task(&clock);

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
		t[i] = task(&clock);
	push_held(w, &t[0]);
	assert_true(workers_push(w, &t[1].work, false));
	assert_true(workers_push(w, &t[2].work, false));
	assert_false(workers_push(w, &t[3].work, true)); /* who waited would wait for ever */
	let_go(&t[0]);
	workers_free(w);
	assert_int_equal(clock, 3); /* what was accepted was run */
}

static void urgent_work_goes_ahead(void **state)
{
	struct workers *w = new_workers(1, 10);
	atomic_int clock = 0;
	struct task first = task(&clock), later = task(&clock), urgent = task(&clock);

	(void)state;
	push_held(w, &first);
	assert_true(workers_push(w, &later.work, false));
	assert_true(workers_push(w, &urgent.work, true));
	let_go(&first);
	workers_free(w);
	assert_int_equal(urgent.done_at, 2);
	assert_int_equal(later.done_at, 3);
}

static void retracted_work_is_either_not_begun_or_done(void **state)
{
	struct workers *w = new_workers(1, 10);
	atomic_int clock = 0;
	struct task running = task(&clock), queued = task(&clock);

	(void)state;
	push_held(w, &running);
	assert_true(workers_push(w, &queued.work, false));
	workers_retract(w, &queued.work);
	assert_int_equal(clock, 0);
	let_go(&running);
	workers_retract(w, &running.work);
	assert_int_equal(running.done_at, 1);
	workers_free(w);
	assert_int_equal(queued.done_at, 0);
}

static void retracting_what_was_never_pushed_does_nothing(void **state)
{
	struct workers *w = new_workers(1, 10);
	atomic_int clock = 0;
	struct task t = task(&clock);

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
