#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <unistd.h>

#include "cache/slab.h"
#include "filer/base/base.h"

static size_t used(struct slab *s)
{
	struct slab_stats st;

	slab_stats(s, &st);
	return st.used_bytes;
}

static struct slab *new_slab(size_t bytes)
{
	struct slab *s;

	assert_int_equal(slab_new(bytes, &s), 0);
	return s;
}

static void refuses_sizes_out_of_bounds(void **state)
{
	(void)state;
	struct slab *s = NULL;

	assert_int_equal(slab_new(SLAB_BYTES_MIN - 1, &s), -EINVAL);
	assert_int_equal(slab_new(SIZE_MAX, &s), -EINVAL);
	assert_null(s);
	slab_free(NULL);
}

static void rounds_the_region_up_to_the_largest_class(void **state)
{
	(void)state;
	struct slab *s = new_slab(SLAB_BYTES_MIN + 1);
	struct slab_stats st;

	slab_stats(s, &st);
	assert_int_equal(st.total_bytes, SLAB_BYTES_MIN + SLAB_CLASS_MAX);
	assert_true(st.huge_page_bytes >= 4096);
	slab_free(s);
}

static void grants_power_of_two_classes_aligned_to_their_size(void **state)
{
	(void)state;
	struct slab *s = new_slab(SLAB_BYTES_MIN);
	static const size_t asked[] = { 0, 1, 4096, 4097, 65536, 65537, 1 << 20, 4 << 20 };
	static const size_t granted[] = { 4096, 4096, 4096, 8192, 65536, 131072, 1 << 20, 4 << 20 };

	for (size_t i = 0; i < ARRAY_LEN(asked); i++) {
		struct slab_buf b;

		assert_int_equal(slab_alloc(s, asked[i], &b), 0);
		assert_int_equal(b.size, granted[i]);
		assert_int_equal(slab_offset(s, b.ptr) % b.size, 0);
		assert_int_equal(used(s), b.size);
		slab_release(s, b);
	}
	assert_int_equal(used(s), 0);
	slab_free(s);
}

static void refuses_what_no_class_holds(void **state)
{
	(void)state;
	struct slab *s = new_slab(SLAB_BYTES_MIN);
	struct slab_buf b;

	assert_int_equal(slab_alloc(s, SLAB_CLASS_MAX + 1, &b), -E2BIG);
	slab_free(s);
}

static void says_enomem_when_full_and_counts_it(void **state)
{
	(void)state;
	struct slab *s = new_slab(SLAB_BYTES_MIN);
	struct slab_buf a, b, c;
	struct slab_stats st;

	assert_int_equal(slab_alloc(s, SLAB_CLASS_MAX, &a), 0);
	assert_int_equal(slab_alloc(s, SLAB_CLASS_MAX, &b), 0);
	c.ptr = NULL;
	assert_int_equal(slab_alloc(s, 1, &c), -ENOMEM);
	assert_null(c.ptr);
	slab_stats(s, &st);
	assert_int_equal(st.failed, 1);
	slab_release(s, a);
	assert_int_equal(slab_alloc(s, 1, &c), 0);
	slab_release(s, b);
	slab_release(s, c);
	slab_free(s);
}

static void merges_freed_neighbours_back_into_the_largest_class(void **state)
{
	(void)state;
	struct slab *s = new_slab(SLAB_BYTES_MIN);
	enum { N = SLAB_BYTES_MIN / SLAB_CLASS_MIN };
	static struct slab_buf bufs[N];
	struct slab_buf big[2];

	for (size_t i = 0; i < N; i++)
		assert_int_equal(slab_alloc(s, SLAB_CLASS_MIN, &bufs[i]), 0);
	/* odd ones first: nothing merges until the even ones come back */
	for (size_t i = 1; i < N; i += 2)
		slab_release(s, bufs[i]);
	assert_int_equal(slab_alloc(s, 2 * SLAB_CLASS_MIN, &big[0]), -ENOMEM);
	for (size_t i = 0; i < N; i += 2)
		slab_release(s, bufs[i]);
	assert_int_equal(slab_alloc(s, SLAB_CLASS_MAX, &big[0]), 0);
	assert_int_equal(slab_alloc(s, SLAB_CLASS_MAX, &big[1]), 0);
	slab_release(s, big[0]);
	slab_release(s, big[1]);
	slab_free(s);
}

static void shows_the_same_bytes_through_the_descriptor(void **state)
{
	(void)state;
	struct slab *s = new_slab(SLAB_BYTES_MIN);
	struct slab_buf a, b;
	char back[6];
	void *base;
	size_t bytes;

	assert_int_equal(slab_alloc(s, 1, &a), 0);
	assert_int_equal(slab_alloc(s, 1, &b), 0);
	memcpy(b.ptr, "kelps", 6);
	assert_int_equal(pread(slab_fd(s), back, 6, (off_t)slab_offset(s, b.ptr)), 6);
	assert_string_equal(back, "kelps");
	slab_region(s, &base, &bytes);
	assert_true(a.ptr >= (uint8_t *)base && b.ptr + b.size <= (uint8_t *)base + bytes);
	/* nobody may shrink it under us */
	assert_int_equal(ftruncate(slab_fd(s), 0), -1);
	assert_int_equal(errno, EPERM);
	slab_release(s, a);
	slab_release(s, b);
	slab_free(s);
}

static size_t present_pages(struct slab *s)
{
	void *base;
	size_t bytes, n = 0;

	slab_region(s, &base, &bytes);
	unsigned char *present = malloc(bytes / 4096);
	assert_int_equal(mincore(base, bytes, present), 0);
	for (size_t i = 0; i < bytes / 4096; i++)
		n += present[i] & 1;
	free(present);
	return n;
}

#define HUGE_PAGE_BYTES (2 * MIB)
#define HUGE_PAGES_PATH "/sys/kernel/mm/hugepages/hugepages-2048kB/"
/* Other programs may take pages that were set aside here. */
#define RESERVE_TRIES 8
#define RESERVE_PAGES 32

static unsigned long read_number(const char *path)
{
	char text[32] = "";
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd >= 0) {
		assert_true(read(fd, text, sizeof(text) - 1) >= 0);
		close(fd);
	}
	return strtoul(text, NULL, 10);
}

static bool write_text(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);

	if (fd < 0)
		return false;
	bool ok = write(fd, text, strlen(text)) == (ssize_t)strlen(text);
	close(fd);
	return ok;
}

static bool set_reserved(unsigned long pages)
{
	char text[32];

	snprintf(text, sizeof(text), "%lu", pages);
	return write_text(HUGE_PAGES_PATH "nr_hugepages", text) &&
	       read_number(HUGE_PAGES_PATH "nr_hugepages") >= pages;
}

static size_t page_bytes(struct slab *s)
{
	struct slab_stats st;

	slab_stats(s, &st);
	return st.huge_page_bytes;
}

/* Is it one of reserved pages? These are present from the start. */
static bool is_reserved(struct slab *s)
{
	return page_bytes(s) == HUGE_PAGE_BYTES &&
	       present_pages(s) == SLAB_BYTES_MIN / SLAB_CLASS_MIN;
}

/* NULL: this machine has no huge pages to give. */
static struct slab *new_reserved_slab(void)
{
	unsigned long pages = read_number(HUGE_PAGES_PATH "nr_hugepages");

	for (int i = 0; i < RESERVE_TRIES; i++) {
		struct slab *s = new_slab(SLAB_BYTES_MIN);

		if (is_reserved(s))
			return s;
		slab_free(s);
		pages += RESERVE_PAGES;
		if (!set_reserved(pages))
			return NULL;
	}
	fail_msg("%lu huge pages are reserved, and none is used", pages);
	return NULL;
}

/* They are the whole machine's, so one test at a time changes their number. */
struct reserved {
	int lock_fd;
	unsigned long before;
};

static int remember_reserved(void **state)
{
	static struct reserved r;

	r.lock_fd = open(HUGE_PAGES_PATH "nr_hugepages", O_RDONLY | O_CLOEXEC);
	if (r.lock_fd >= 0)
		flock(r.lock_fd, LOCK_EX);
	r.before = read_number(HUGE_PAGES_PATH "nr_hugepages");
	*state = &r;
	return 0;
}

static int restore_reserved(void **state)
{
	struct reserved *r = *state;

	if (read_number(HUGE_PAGES_PATH "nr_hugepages") != r->before)
		set_reserved(r->before);
	if (r->lock_fd >= 0)
		close(r->lock_fd);
	return 0;
}

static void lies_in_huge_pages_that_were_reserved(void **state)
{
	(void)state;
	struct slab *s = new_reserved_slab();
	struct slab_buf b;
	char back[6];

	if (!s) {
		print_message("no huge pages can be reserved here\n");
		skip();
	}
	/* all of what is said of other slabs is true of it */
	assert_int_equal(slab_populate_start(s), 0);
	assert_int_equal(slab_alloc(s, SLAB_CLASS_MAX, &b), 0);
	memset(b.ptr, 'x', b.size);
	memcpy(b.ptr + 4096, "kelps", 6);
	assert_int_equal(pread(slab_fd(s), back, 6, (off_t)slab_offset(s, b.ptr) + 4096), 6);
	assert_string_equal(back, "kelps");
	assert_int_equal(ftruncate(slab_fd(s), 0), -1);
	slab_release(s, b);
	slab_free(s);
}

static void with_too_few_reserved_pages_it_lies_in_others(void **state)
{
	(void)state;
	unsigned long pages = read_number(HUGE_PAGES_PATH "nr_hugepages");
	struct slab *plain, *s;

	if (read_number(HUGE_PAGES_PATH "nr_overcommit_hugepages") > 0) {
		print_message("huge pages need not be reserved here\n");
		skip();
	}
	if (pages == 0)
		set_reserved(++pages);
	/* one page more than there are */
	s = new_slab(pages * HUGE_PAGE_BYTES + SLAB_BYTES_MIN);
	assert_int_equal(slab_new_ordinary(SLAB_BYTES_MIN, &plain), 0);
	assert_int_equal(page_bytes(s), page_bytes(plain));
	assert_int_equal(present_pages(s), 0);
	slab_free(s);
	slab_free(plain);
}

static void pages_that_were_set_aside_can_be_left_alone(void **state)
{
	(void)state;
	struct slab *s, *reserved = new_reserved_slab();

	if (!reserved) {
		print_message("no huge pages can be reserved here\n");
		skip();
	}
	slab_free(reserved);
	unsigned long before = read_number(HUGE_PAGES_PATH "free_hugepages");
	assert_int_equal(slab_new_ordinary(SLAB_BYTES_MIN, &s), 0);
	assert_int_equal(read_number(HUGE_PAGES_PATH "free_hugepages"), before);
	slab_free(s);
}

static void what_is_to_be_spliced_lies_in_pages_that_can_be(void **state)
{
	(void)state;
	struct slab *s, *reserved = new_reserved_slab();
	int ends[2];
	off_t at = 4096;

	if (reserved)
		slab_free(reserved);
	assert_int_equal(slab_new_ordinary(SLAB_BYTES_MIN, &s), 0);
	assert_int_equal(pipe(ends), 0);
	assert_int_equal(splice(slab_fd(s), &at, ends[1], NULL, 4096, 0), 4096);
	close(ends[0]);
	close(ends[1]);
	slab_free(s);
}

static void *churn(void *arg)
{
	struct slab *s = arg;
	struct slab_buf held[16] = { 0 };
	unsigned seed = (unsigned)(uintptr_t)held;

	for (int i = 0; i < 20000; i++) {
		struct slab_buf *b = &held[(unsigned)rand_r(&seed) % ARRAY_LEN(held)];
		const uintptr_t mark = (uintptr_t)b;

		if (b->ptr) {
			/* the mark is still ours: nobody else was given this memory */
			if (memcmp(b->ptr, &mark, sizeof(mark)) != 0)
				return "overwritten";
			slab_release(s, *b);
			b->ptr = NULL;
		} else if (slab_alloc(s, (size_t)rand_r(&seed) % (512 * KIB), b) == 0) {
			memcpy(b->ptr, &mark, sizeof(mark));
		}
	}
	for (size_t i = 0; i < ARRAY_LEN(held); i++)
		if (held[i].ptr)
			slab_release(s, held[i]);
	return NULL;
}

static void threads_never_share_a_buffer(void **state)
{
	(void)state;
	struct slab *s = new_slab(SLAB_BYTES_MIN);
	pthread_t t[4];
	struct slab_buf b;

	for (size_t i = 0; i < ARRAY_LEN(t); i++)
		assert_int_equal(pthread_create(&t[i], NULL, churn, s), 0);
	for (size_t i = 0; i < ARRAY_LEN(t); i++) {
		void *complaint;

		pthread_join(t[i], &complaint);
		assert_null(complaint);
	}
	assert_int_equal(used(s), 0);
	assert_int_equal(slab_alloc(s, SLAB_CLASS_MAX, &b), 0);
	slab_release(s, b);
	slab_free(s);
}

static void populating_makes_every_page_present_without_changing_it(void **state)
{
	(void)state;
	struct slab *s;
	struct deadline d = deadline_in_ms(10000);
	struct slab_buf b;

	assert_int_equal(slab_new_ordinary(SLAB_BYTES_MIN, &s), 0);
	assert_int_equal(slab_alloc(s, 4096, &b), 0);
	memset(b.ptr, 'x', 4096);
	assert_true(present_pages(s) < SLAB_BYTES_MIN / 4096);
	assert_int_equal(slab_populate_start(s), 0);
	assert_int_equal(slab_populate_start(s), -EALREADY);
	while (present_pages(s) < SLAB_BYTES_MIN / 4096 && !deadline_passed(d))
		sleep_ms(5, d);
	assert_int_equal(present_pages(s), SLAB_BYTES_MIN / 4096);
	assert_int_equal(b.ptr[4095], 'x');
	slab_release(s, b);
	slab_free(s);
}

static void a_slab_can_be_freed_while_it_is_populated(void **state)
{
	(void)state;
	struct slab *s = new_slab(256 * MIB);

	assert_int_equal(slab_populate_start(s), 0);
	slab_free(s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(lies_in_huge_pages_that_were_reserved,
						remember_reserved, restore_reserved),
		cmocka_unit_test_setup_teardown(with_too_few_reserved_pages_it_lies_in_others,
						remember_reserved, restore_reserved),
		cmocka_unit_test_setup_teardown(pages_that_were_set_aside_can_be_left_alone,
						remember_reserved, restore_reserved),
		cmocka_unit_test_setup_teardown(what_is_to_be_spliced_lies_in_pages_that_can_be,
						remember_reserved, restore_reserved),
		cmocka_unit_test(populating_makes_every_page_present_without_changing_it),
		cmocka_unit_test(a_slab_can_be_freed_while_it_is_populated),
		cmocka_unit_test(refuses_sizes_out_of_bounds),
		cmocka_unit_test(rounds_the_region_up_to_the_largest_class),
		cmocka_unit_test(grants_power_of_two_classes_aligned_to_their_size),
		cmocka_unit_test(refuses_what_no_class_holds),
		cmocka_unit_test(says_enomem_when_full_and_counts_it),
		cmocka_unit_test(merges_freed_neighbours_back_into_the_largest_class),
		cmocka_unit_test(shows_the_same_bytes_through_the_descriptor),
		cmocka_unit_test(threads_never_share_a_buffer),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
