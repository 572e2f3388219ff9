#include "rdma/agent/disk.h"

#include <errno.h>
#include <liburing.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "filer/base/base.h"

#define PAGE_BYTES UINT64_C(4096) /* the smallest there is: counting too many pages costs nothing */

#ifndef SYS_cachestat
#define SYS_cachestat 451 /* since Linux 6.5, the same on all architectures */
#endif

/* As the kernel has them; headers may be older than it. */
struct cache_range {
	uint64_t offset, bytes;
};
struct cache_counts {
	uint64_t cached, dirty, writeback, evicted, recently_evicted;
};

/* Files are told apart by so much of their descriptors. Who is taken for another is read all the
 * same, and may then wait for pages that are being read in at that moment. */
#define FILES_TOLD_APART 256

struct disk {
	bool has_ring;
	bool refuses[FILES_TOLD_APART]; /* RWF_NOWAIT */
	struct io_uring ring;
	size_t under_way;
	struct disk_read *waiting, *waiting_last;
	uint8_t *scrap; /* what disk_warm() reads goes here, and nobody looks at it */
};

int disk_new(struct disk **ret)
{
	struct disk *d = calloc(1, sizeof(*d));

	if (!d)
		return -ENOMEM;
	d->scrap = malloc(DISK_WARM_BYTES_MAX);
	if (!d->scrap) {
		free(d);
		return -ENOMEM;
	}
	/* Some machines forbid it (kernel.io_uring_disabled, seccomp). */
	d->has_ring = io_uring_queue_init(DISK_UNDER_WAY_MAX, &d->ring, 0) == 0;
	*ret = d;
	return 0;
}

void disk_free(struct disk *d)
{
	if (!d)
		return;
	if (d->has_ring)
		io_uring_queue_exit(&d->ring);
	free(d->scrap);
	free(d);
}

int disk_fd(const struct disk *d)
{
	return d->has_ring ? d->ring.ring_fd : -1;
}

/* Takes the outcome of one attempt. True: the read is over. */
static bool take_result(struct disk_read *r, ssize_t n)
{
	if (n == -EINTR)
		return false;
	if (n <= 0) {
		r->result = n == 0 ? -EIO : (int)n;
		return true;
	}
	r->got_ += (size_t)n;
	r->result = 0;
	return r->got_ >= r->bytes;
}

/* ENOSYS and the like: nobody can tell. */
static int count_missing_pages(const struct disk_read *r, uint64_t *ret)
{
	uint64_t first = r->offset / PAGE_BYTES;
	uint64_t last = (r->offset + r->bytes - 1) / PAGE_BYTES;
	struct cache_range range = { r->offset, r->bytes };
	struct cache_counts counts;

	if (syscall(SYS_cachestat, r->fd, &range, &counts, 0))
		return -errno;
	*ret = last - first + 1 - min_u64(counts.cached, last - first + 1);
	return 0;
}

static bool is_known_cached(const struct disk_read *r)
{
	uint64_t missing = 1;

	return count_missing_pages(r, &missing) == 0 && missing == 0;
}

static bool read_now(struct disk *d, struct disk_read *r)
{
	bool *refuses = &d->refuses[(unsigned)r->fd % FILES_TOLD_APART];
	int flags = d->has_ring && !(*refuses && is_known_cached(r)) ? RWF_NOWAIT : 0;

	for (;;) {
		struct iovec iov = { (uint8_t *)r->buf + r->got_, r->bytes - r->got_ };
		ssize_t n = preadv2(r->fd, &iov, 1, (off_t)(r->offset + r->got_), flags);

		if (n < 0)
			n = -errno;
		/* A file system that cannot tell without waiting, such as tmpfs. (Of overlayfs
		 * cachestat says that nothing is cached.) */
		if (flags && n == -EOPNOTSUPP && !*refuses) {
			*refuses = true;
			if (is_known_cached(r)) {
				flags = 0;
				continue;
			}
		}
		if (flags && (n == -EAGAIN || n == -EOPNOTSUPP))
			return false;
		if (take_result(r, n))
			return true;
	}
}

static void start(struct disk *d, struct disk_read *r)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&d->ring);

	/* The ring has room for all that may be under way, but for what was not submitted yet. */
	if (!sqe) {
		io_uring_submit(&d->ring);
		sqe = io_uring_get_sqe(&d->ring);
	}
	if (r->bytes == 0)
		io_uring_prep_nop(sqe);
	else
		io_uring_prep_read(sqe, r->fd, (uint8_t *)r->buf + r->got_,
				   (unsigned)(r->bytes - r->got_), r->offset + r->got_);
	io_uring_sqe_set_data(sqe, r);
	d->under_way++;
}

static void start_or_queue(struct disk *d, struct disk_read *r)
{
	if (d->under_way < DISK_UNDER_WAY_MAX) {
		start(d, r);
		return;
	}
	r->next_ = NULL;
	if (d->waiting)
		d->waiting_last->next_ = r;
	else
		d->waiting = r;
	d->waiting_last = r;
}

bool disk_read(struct disk *d, struct disk_read *r)
{
	r->got_ = 0;
	r->result = 0;
	if (r->bytes == 0 || read_now(d, r))
		return true;
	start_or_queue(d, r);
	return false;
}

bool disk_warm(struct disk *d, struct disk_read *r)
{
	uint64_t missing = 0;

	r->got_ = 0;
	r->result = 0;
	r->buf = d->scrap;
	if (!d->has_ring || r->bytes == 0 || count_missing_pages(r, &missing) || missing == 0)
		return true;
	start_or_queue(d, r);
	return false;
}

bool disk_pause(struct disk *d, struct disk_read *r)
{
	r->got_ = 0;
	r->result = 0;
	if (!d->has_ring)
		return true;
	start_or_queue(d, r);
	return false;
}

void disk_submit(struct disk *d)
{
	if (d->has_ring && io_uring_sq_ready(&d->ring) > 0)
		io_uring_submit(&d->ring);
}

static void start_waiting(struct disk *d)
{
	while (d->waiting && d->under_way < DISK_UNDER_WAY_MAX) {
		struct disk_read *r = d->waiting;

		d->waiting = r->next_;
		start(d, r);
	}
}

void disk_reap(struct disk *d)
{
	struct io_uring_cqe *cqe;

	if (!d->has_ring)
		return;
	while (io_uring_peek_cqe(&d->ring, &cqe) == 0) {
		struct disk_read *r = io_uring_cqe_get_data(cqe);
		int n = cqe->res;

		io_uring_cqe_seen(&d->ring, cqe);
		d->under_way--;
		if (r->bytes == 0 || take_result(r, n == -EAGAIN ? -EINTR : n))
			r->done(r);
		else
			start_or_queue(d, r);
	}
	start_waiting(d);
	disk_submit(d);
}
