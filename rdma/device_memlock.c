#include <errno.h>
#include <inttypes.h>
#include <linux/capability.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "filer/base/base.h"
#include "rdma/device.h"

/* The kernel's number of the first user namespace. */
#define FIRST_USER_NAMESPACE 0xeffffffdu

/* Capabilities of another user namespace, as in most containers, do not count. */
static bool is_exempt(void)
{
	struct __user_cap_header_struct head = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3];
	struct stat st;

	if (syscall(SYS_capget, &head, data) ||
	    !(data[CAP_TO_INDEX(CAP_IPC_LOCK)].effective & CAP_TO_MASK(CAP_IPC_LOCK)))
		return false;
	return stat("/proc/self/ns/user", &st) == 0 && st.st_ino == FIRST_USER_NAMESPACE;
}

struct active {
	const char *only;
	unsigned n;
	char last[DEVICE_NAME_MAX];
};

/* All ports of a device are visited in a row. */
static int count_active(void *arg, const struct device_port *p)
{
	struct active *a = arg;

	if (!p->active || strcmp(p->device, a->last) == 0 ||
	    (a->only && strcmp(p->device, a->only) != 0))
		return 0;
	snprintf(a->last, sizeof(a->last), "%s", p->device);
	a->n++;
	return 0;
}

unsigned device_count_active(const char *only)
{
	struct active a = { .only = only };

	device_walk(count_active, &a);
	return a.n;
}

static bool is_enough(rlim_t limit, uint64_t bytes)
{
	return limit == RLIM_INFINITY || limit >= bytes;
}

int device_allow_memlock(uint64_t bytes, char *message, size_t message_bytes)
{
	struct rlimit limit;

	if (is_exempt() || getrlimit(RLIMIT_MEMLOCK, &limit) || is_enough(limit.rlim_cur, bytes))
		return 0;
	if (is_enough(limit.rlim_max, bytes)) {
		limit.rlim_cur = limit.rlim_max;
		if (setrlimit(RLIMIT_MEMLOCK, &limit) == 0)
			return 0;
	}
	uint64_t kib = (bytes + KIB - 1) / KIB;
	snprintf(message, message_bytes,
		 "RDMA needs %" PRIu64 " KiB of locked memory and %" PRIu64
		 " KiB are permitted: ulimit -l %" PRIu64 ", 'memlock %" PRIu64
		 "' in /etc/security/limits.conf, or LimitMEMLOCK=infinity for a service",
		 kib, (uint64_t)limit.rlim_max / KIB, kib, kib);
	return -EPERM;
}
