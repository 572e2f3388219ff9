#include "rdma/agent/volume_file.h"

#include <errno.h>
#include <unistd.h>

int pread_exact(int fd, void *buf, size_t n, uint64_t offset)
{
	uint8_t *at = buf;

	if (offset > INT64_MAX - n)
		return -EIO;
	while (n > 0) {
		ssize_t got = pread(fd, at, n, (off_t)offset);

		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0)
			return got < 0 ? -errno : -EIO;
		at += got;
		n -= (size_t)got;
		offset += (uint64_t)got;
	}
	return 0;
}
