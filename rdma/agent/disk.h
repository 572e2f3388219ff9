/* Reads of volume files for one event thread.
 *
 * What is in the page cache is read at once, by preadv2(RWF_NOWAIT); only what the disk has to be
 * asked for goes through io_uring, so that the thread waits for no disk. (Measured, 4 KiB from the page
 * cache: docs/kelpd.md.) Where the kernel refuses io_uring, reads block.
 *
 * Not thread-safe: each thread has its own. */
#ifndef KELP_DISK_H
#define KELP_DISK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct disk;

struct disk_read {
	/* Set by the caller; they stay as they are until the read is over. */
	int fd;
	uint64_t offset;
	void *buf;
	size_t bytes;
	void (*done)(struct disk_read *r); /* not called for what was over at once */
	void *arg;

	int result; /* 0: all bytes; -EIO also where the file ends before */

	size_t got_;
	struct disk_read *next_;
};

#define DISK_UNDER_WAY_MAX 256 /* more wait in order */
#define DISK_WARM_BYTES_MAX ((size_t)1 << 20)

int disk_new(struct disk **ret);
/* Nothing may be under way. Takes NULL. */
void disk_free(struct disk *d);

/* For epoll: readable when disk_reap() has something to do. -1: reads block, and nothing ever has. */
int disk_fd(const struct disk *d);

/* True: it is over, and the result is set. False: done will be called by disk_reap(). */
bool disk_read(struct disk *d, struct disk_read *r);

/* Brings at most DISK_WARM_BYTES_MAX of a file into the page cache; the caller sets fd, offset, bytes,
 * done and arg. True: they are there, or nobody can tell. A file that ends before is no error. */
bool disk_warm(struct disk *d, struct disk_read *r);

/* Lets others have their turn: done will be called by disk_reap(), with nothing read. The caller sets
 * bytes to 0, done and arg. True: there is no way to wait here. */
bool disk_pause(struct disk *d, struct disk_read *r);

/* Hands to the kernel what was begun since the last time. */
void disk_submit(struct disk *d);

/* Calls done for what is over. */
void disk_reap(struct disk *d);

#endif
