#include "rdma/agent/volume_file.h"

#include <errno.h>

#include "filer/base/base.h"

int pread_exact(int fd, void *buf, size_t n, uint64_t offset)
{
	if (offset > INT64_MAX - n)
		return -EIO;
	ssize_t got = pread_up_to(fd, buf, n, offset);
	if (got < 0)
		return (int)got;
	return (size_t)got == n ? 0 : -EIO;
}
