/* Reads and writes of one file, several at once, for the thread that waits for them: io_uring, and
 * plain system calls where the kernel refuses it.
 *
 * Not thread-safe: a ring belongs to one thread at a time. */
#ifndef KELP_SSD_RING_H
#define KELP_SSD_RING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SSD_RING_DEPTH 16
/* A disk that says nothing for so long is given up. */
#define SSD_STALL_MS 5000

struct ssd_ring;

struct ssd_io {
	uint64_t offset;
	uint8_t *ptr;
	size_t bytes;
	bool write;
	int result; /* bytes, or -errno */
};

/* use_uring false: plain system calls. */
int ssd_ring_new(int fd, bool use_uring, struct ssd_ring **ret);
void ssd_ring_free(struct ssd_ring *r);

/* Does them all, SSD_RING_DEPTH at most, and waits for as long as the kernel has the memory. stalled is
 * called once when that is longer than SSD_STALL_MS. */
void ssd_ring_run(struct ssd_ring *r, struct ssd_io *ios, size_t n, void (*stalled)(void *arg),
		  void *arg);

#endif
