#include "cache/ssd_ring.h"

#include <assert.h>
#include <errno.h>
#include <liburing.h>
#include <stdlib.h>
#include <unistd.h>

#define MS_PER_S 1000
#define NS_PER_MS INT64_C(1000000)

struct ssd_ring {
	int fd;
	bool has_ring;
	struct io_uring ring;
};

int ssd_ring_new(int fd, bool use_uring, struct ssd_ring **ret)
{
	struct ssd_ring *r = calloc(1, sizeof(*r));

	if (!r)
		return -ENOMEM;
	r->fd = fd;
	/* Some machines forbid it (kernel.io_uring_disabled, seccomp). */
	r->has_ring = use_uring && io_uring_queue_init(SSD_RING_DEPTH, &r->ring, 0) == 0;
	*ret = r;
	return 0;
}

void ssd_ring_free(struct ssd_ring *r)
{
	if (!r)
		return;
	if (r->has_ring)
		io_uring_queue_exit(&r->ring);
	free(r);
}

static void run_plainly(const struct ssd_ring *r, struct ssd_io *io)
{
	ssize_t n;

	do {
		n = io->write ? pwrite(r->fd, io->ptr, io->bytes, (off_t)io->offset)
			      : pread(r->fd, io->ptr, io->bytes, (off_t)io->offset);
	} while (n < 0 && errno == EINTR);
	io->result = n < 0 ? -errno : (int)n;
}

/* Returns how many the kernel took; the others have their result. */
static size_t submit(struct ssd_ring *r, struct ssd_io *ios, size_t n)
{
	size_t taken = 0;

	for (size_t i = 0; i < n; i++) {
		struct io_uring_sqe *sqe = io_uring_get_sqe(&r->ring);
		struct ssd_io *io = &ios[i];

		if (io->write)
			io_uring_prep_write(sqe, r->fd, io->ptr, (unsigned)io->bytes, io->offset);
		else
			io_uring_prep_read(sqe, r->fd, io->ptr, (unsigned)io->bytes, io->offset);
		io_uring_sqe_set_data(sqe, io);
		io->result = -EIO;
	}
	while (taken < n) {
		int res = io_uring_submit(&r->ring);

		if (res == -EINTR || res == -EAGAIN || res == -EBUSY)
			continue;
		if (res <= 0)
			break;
		taken += (size_t)res;
	}
	return taken;
}

static void reap(struct ssd_ring *r, size_t n, void (*stalled)(void *arg), void *arg)
{
	struct __kernel_timespec stall = { .tv_sec = SSD_STALL_MS / MS_PER_S,
					   .tv_nsec = SSD_STALL_MS % MS_PER_S * NS_PER_MS };
	struct __kernel_timespec *patience = &stall;

	while (n > 0) {
		struct io_uring_cqe *cqe;
		int err = io_uring_wait_cqes(&r->ring, &cqe, (unsigned)n, patience, NULL);

		if (err == -ETIME && patience) {
			stalled(arg);
			patience = NULL;
		}
		while (n > 0 && io_uring_peek_cqe(&r->ring, &cqe) == 0) {
			struct ssd_io *io = io_uring_cqe_get_data(cqe);

			io->result = cqe->res;
			io_uring_cqe_seen(&r->ring, cqe);
			n--;
		}
	}
}

void ssd_ring_run(struct ssd_ring *r, struct ssd_io *ios, size_t n, void (*stalled)(void *arg),
		  void *arg)
{
	assert(n <= SSD_RING_DEPTH);
	if (!r->has_ring) {
		for (size_t i = 0; i < n; i++)
			run_plainly(r, &ios[i]);
		return;
	}
	size_t taken = submit(r, ios, n);
	reap(r, taken, stalled, arg);
	if (taken == n)
		return;
	/* what it holds and the kernel refused would come with the next ones */
	io_uring_queue_exit(&r->ring);
	r->has_ring = false;
	for (size_t i = taken; i < n; i++)
		run_plainly(r, &ios[i]);
}
