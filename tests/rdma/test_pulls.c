/* Which completion belongs to which read. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "rdma/pulls.h"

static void a_completion_is_found_by_its_number(void **state)
{
	struct pulls p = { 0 };
	struct pull *taken[PULLS_MAX];

	(void)state;
	for (uint64_t i = 0; i < PULLS_MAX; i++) {
		taken[i] = pulls_take(&p);
		assert_non_null(taken[i]);
		taken[i]->cookie = i;
	}
	assert_null(pulls_take(&p));
	for (uint64_t i = 0; i < PULLS_MAX; i++) {
		assert_ptr_equal(pulls_find(&p, taken[i]->id), taken[i]);
		assert_int_equal(pulls_find(&p, taken[i]->id)->cookie, i);
	}
}

static void a_late_completion_is_not_taken_for_the_next_use_of_its_place(void **state)
{
	struct pulls p = { 0 };

	(void)state;
	struct pull *first = pulls_take(&p);
	uint32_t late = first->id;
	pulls_give(first);
	assert_null(pulls_find(&p, late));
	struct pull *second = pulls_take(&p);
	assert_ptr_equal(second, first);
	assert_null(pulls_find(&p, late));
	assert_ptr_equal(pulls_find(&p, second->id), second);
}

static void a_completion_of_nothing_is_refused(void **state)
{
	struct pulls p = { 0 };

	(void)state;
	for (uint32_t id = 0; id < 4 * PULLS_MAX; id++)
		assert_null(pulls_find(&p, id));
	uint32_t id = pulls_take(&p)->id;
	assert_null(pulls_find(&p, id + PULLS_MAX));
	assert_null(pulls_find(&p, id - PULLS_MAX));
	assert_null(pulls_find(&p, UINT32_MAX));
}

static void numbers_come_again_only_after_all_others(void **state)
{
	struct pulls p = { 0 };

	(void)state;
	/* Just before the numbers of the first place wrap. */
	p.pull[0].id = ~(uint32_t)(PULLS_MAX - 1);
	struct pull *pull = pulls_take(&p);
	assert_int_equal(pull->id, 0);
	assert_ptr_equal(pulls_find(&p, 0), pull);
	assert_null(pulls_find(&p, ~(uint32_t)(PULLS_MAX - 1)));
}

static void what_is_under_way_is_counted(void **state)
{
	struct pulls p = { 0 };

	(void)state;
	assert_int_equal(pulls_count(&p), 0);
	struct pull *first = pulls_take(&p);
	assert_non_null(pulls_take(&p));
	assert_int_equal(pulls_count(&p), 2);
	pulls_give(first);
	assert_int_equal(pulls_count(&p), 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_completion_is_found_by_its_number),
		cmocka_unit_test(a_late_completion_is_not_taken_for_the_next_use_of_its_place),
		cmocka_unit_test(a_completion_of_nothing_is_refused),
		cmocka_unit_test(what_is_under_way_is_counted),
		cmocka_unit_test(numbers_come_again_only_after_all_others),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
