/* The number that RLIMIT_MEMLOCK must have for RDMA, and what is said of it. No device is needed. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <linux/capability.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cache/slab.h"
#include "filer/base/base.h"
#include "fs/memlock.h"

/* 24 messages of 16 KiB and 16 of 4 KiB with 8 bytes before each, in whole pages, and the queues. */
#define LINK_BYTES ((uint64_t)113 * 4096 + 65536)

/* Small enough for the limit that root has where it may not raise it. */
static const struct verbs_memory CLIENT = {
	.region_bytes = MIB, .devices = 2, .agents = 2, .connections = 3
};

/* Not so in a build without verbs, or with other pages. */
static bool numbers_are_for_here(void)
{
	const struct verbs_memory one = { .agents = 1, .connections = 1 };

	return verbs_locked_bytes(&one) > 0 && sysconf(_SC_PAGESIZE) == 4096;
}

static void every_device_locks_the_regions_once_more(void **state)
{
	(void)state;
	const struct verbs_memory m = { .region_bytes = GIB, .devices = 3 };

	assert_int_equal(verbs_locked_bytes(&m), 3 * GIB);
}

static void every_connection_to_every_agent_locks_its_messages_and_queues(void **state)
{
	(void)state;
	const struct verbs_memory m = { .agents = 3, .connections = 7 };

	assert_int_equal(verbs_locked_bytes(&m), 21 * LINK_BYTES);
}

static void a_mount_counts_the_slab_as_large_as_it_becomes(void **state)
{
	(void)state;
	struct slab *s;
	void *base;
	size_t bytes;

	assert_int_equal(slab_new(17 * MIB, &s), 0);
	slab_region(s, &base, &bytes);
	assert_int_equal(bytes, 20 * MIB);
	assert_int_equal(slab_rounded_bytes(17 * MIB), bytes);
	slab_free(s);
}

struct answer {
	int err;
	rlim_t soft_limit; /* afterwards */
	char message[512];
};

/* Asks in a process that may not lock what it likes. */
static struct answer ask(const struct verbs_memory *m, rlim_t soft, rlim_t hard)
{
	struct __user_cap_header_struct head = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3] = { 0 };
	struct rlimit limit = { .rlim_cur = soft, .rlim_max = hard };
	struct answer a = { 0 };
	int ends[2], status;

	assert_int_equal(pipe(ends), 0);
	pid_t child = fork();
	assert_true(child >= 0);
	if (child == 0) {
		if (setrlimit(RLIMIT_MEMLOCK, &limit) || syscall(SYS_capset, &head, data))
			_exit(77);
		a.err = memlock_allow(m, a.message, sizeof(a.message));
		getrlimit(RLIMIT_MEMLOCK, &limit);
		a.soft_limit = limit.rlim_cur;
		_exit(write(ends[1], &a, sizeof(a)) != sizeof(a));
	}
	close(ends[1]);
	assert_int_equal(waitpid(child, &status, 0), child);
	if (WIFEXITED(status) && WEXITSTATUS(status) == 77)
		skip();
	assert_int_equal(status, 0);
	assert_int_equal(read(ends[0], &a, sizeof(a)), sizeof(a));
	close(ends[0]);
	return a;
}

static void the_message_says_the_number_that_is_needed(void **state)
{
	(void)state;
	const uint64_t kib = (2 * MIB + 6 * LINK_BYTES) / KIB;
	char wanted[64];
	struct answer a = ask(&CLIENT, 64 * KIB, 64 * KIB);

	assert_int_equal(a.err, -EPERM);
	snprintf(wanted, sizeof(wanted), "ulimit -l %llu,", (unsigned long long)kib);
	assert_non_null(strstr(a.message, wanted));
	assert_non_null(strstr(a.message, "64 KiB are permitted"));
	assert_non_null(
		strstr(a.message, "(2 devices, 2 agents; 1548 KiB for each further agent)"));
}

static void with_that_number_nothing_is_said_and_the_soft_limit_is_raised(void **state)
{
	(void)state;
	const uint64_t bytes = 2 * MIB + 6 * LINK_BYTES;
	struct answer a = ask(&CLIENT, 64 * KIB, bytes);

	assert_int_equal(a.err, 0);
	assert_string_equal(a.message, "");
	assert_int_equal(a.soft_limit, bytes);
}

static void what_suffices_for_one_connection_is_used(void **state)
{
	(void)state;
	const uint64_t least = MIB + LINK_BYTES;
	struct answer a = ask(&CLIENT, 0, least);

	assert_int_equal(a.err, 0);
	assert_string_equal(a.message, "");
	assert_int_equal(a.soft_limit, least);
	assert_int_equal(ask(&CLIENT, 0, least - 1).err, -EPERM);
}

static void without_a_device_nothing_is_needed(void **state)
{
	(void)state;
	const struct verbs_memory m = { .region_bytes = GIB, .agents = 1, .connections = 1 };

	assert_int_equal(ask(&m, 0, 0).err, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_device_locks_the_regions_once_more),
		cmocka_unit_test(every_connection_to_every_agent_locks_its_messages_and_queues),
		cmocka_unit_test(a_mount_counts_the_slab_as_large_as_it_becomes),
		cmocka_unit_test(the_message_says_the_number_that_is_needed),
		cmocka_unit_test(with_that_number_nothing_is_said_and_the_soft_limit_is_raised),
		cmocka_unit_test(what_suffices_for_one_connection_is_used),
		cmocka_unit_test(without_a_device_nothing_is_needed),
	};
	if (!numbers_are_for_here())
		return 77;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
