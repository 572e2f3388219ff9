#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <sys/resource.h>
#include <unistd.h>

#include "filer/base/base.h"
#include "rdma/device.h"

int device_check_memlock(uint64_t bytes, char *message, size_t message_bytes)
{
	struct rlimit limit;

	/* Root is not bound by it. */
	if (geteuid() == 0 || getrlimit(RLIMIT_MEMLOCK, &limit) ||
	    limit.rlim_cur == RLIM_INFINITY || limit.rlim_cur >= bytes)
		return 0;
	snprintf(message, message_bytes,
		 "RDMA needs %" PRIu64 " KiB of locked memory and %" PRIu64
		 " KiB are permitted: ulimit -l %" PRIu64 ", or LimitMEMLOCK=%" PRIu64
		 " (or infinity) for a service",
		 bytes / KIB, (uint64_t)limit.rlim_cur / KIB, bytes / KIB, bytes);
	return -EPERM;
}
