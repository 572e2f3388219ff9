/* Memory that waits for the next answer. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "filer/base/base.h"
#include "rdma/agent/verbs_pool.h"

#define BLOCKS 8

static struct verbs_block *take(struct verbs_pool *p, size_t size)
{
	struct verbs_block *b = verbs_pool_take(p, size);

	assert_non_null(b);
	return b;
}

/* So many of them at once, and all of them back. */
static void use(struct verbs_pool *p, size_t size)
{
	struct verbs_block *b[BLOCKS];

	for (size_t i = 0; i < BLOCKS; i++)
		b[i] = take(p, size);
	for (size_t i = 0; i < BLOCKS; i++)
		verbs_pool_give(p, b[i], size);
}

static void what_was_given_back_last_is_used_first(void **state)
{
	size_t size = verbs_pool_size(100000);
	struct verbs_pool p = { 0 };

	(void)state;
	use(&p, size);
	struct verbs_block *b = take(&p, size);
	assert_int_equal(p.idle_bytes, (BLOCKS - 1) * size);
	verbs_pool_give(&p, b, size);
	assert_ptr_equal(take(&p, size), b);
	verbs_pool_give(&p, b, size);
	verbs_pool_close(&p);
}

static void no_more_is_kept_than_is_allowed(void **state)
{
	size_t small = verbs_pool_size(20000), large = verbs_pool_size(MIB);
	struct verbs_pool p = { 0 };

	(void)state;
	use(&p, small);
	use(&p, large);
	assert_int_equal(p.idle_bytes, BLOCKS * (small + large));
	verbs_pool_bound(&p, BLOCKS * (small + large));
	assert_int_equal(p.idle_bytes, BLOCKS * (small + large));
	verbs_pool_bound(&p, BLOCKS * small + 2 * large - 1);
	assert_int_equal(p.idle_bytes, BLOCKS * small + large);
	verbs_pool_bound(&p, small);
	assert_int_equal(p.idle_bytes, small);
	verbs_pool_close(&p);
	assert_int_equal(p.idle_bytes, 0);
}

static void what_nobody_needs_is_given_back(void **state)
{
	size_t size = verbs_pool_size(MIB);
	struct verbs_pool p = { 0 };

	(void)state;
	use(&p, size);
	verbs_pool_trim(&p, now_ms());
	assert_int_equal(p.idle_bytes, BLOCKS * size);
	verbs_pool_trim(&p, now_ms() + VERBS_POOL_QUIET_MS);
	assert_int_equal(p.idle_bytes, 0);
	verbs_pool_close(&p);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_was_given_back_last_is_used_first),
		cmocka_unit_test(no_more_is_kept_than_is_allowed),
		cmocka_unit_test(what_nobody_needs_is_given_back),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
