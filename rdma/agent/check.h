/* Comparing needles with the checksum that is stored with them, before parts of them are served: a
 * part says nothing about the checksum of the whole, and the disk may have spoiled what it was given
 * to keep.
 *
 * Checks of one needle that one thread is asked for at the same time are one. The outcome is the
 * caller's to remember (store_note_facts()). A check that nobody wants any more ends at its next step.
 *
 * A checker is shared by all threads; all of a check happens on the thread of its disk. */
#ifndef KELP_CHECK_H
#define KELP_CHECK_H

#include <pthread.h>
#include <stddef.h>
#include <stdint.h>

#include "rdma/agent/disk.h"
#include "rdma/agent/store.h"

/* Read at once, to be summed up while it is in the processor's cache. */
#define CHECK_STEP_BYTES ((size_t)256 << 10)
/* Then others get their turn. */
#define CHECK_TURN_BYTES ((size_t)1 << 20)
/* Waiting or running, of all threads. Beyond that, parts of what was not checked are refused for
 * now. */
#define CHECKS_MAX 1024
/* On one disk at the same time, each with memory for a step; more wait for one of them. */
#define CHECKS_RUNNING_MAX 4
/* What is larger is never checked: its first part would have to wait too long. */
#define CHECK_NEEDLE_BYTES_MAX ((uint64_t)64 << 20)

struct check {
	/* Set by the caller; they stay as they are until it is done. */
	struct disk *disk;
	const struct needle_place *place; /* pinned */
	const struct needle_info *info; /* of a parsed tail */
	struct disk_read *read; /* to be used here until then */
	/* Does anybody still wait for it? Asked before each step. */
	bool (*wanted)(const struct check *c);
	/* err: 0, -ENOBUFS and -ENOMEM (not now), -ECANCELED (not wanted), or what the disk said. May
	 * be called before check_start() returns. */
	void (*done)(struct check *c, int err, enum needle_check found);

	struct checker *checker_;
	uint8_t *buf_; /* of a step; NULL: it waits for its turn, or follows another */
	uint64_t at_; /* so many bytes are summed up */
	size_t turn_bytes_;
	uint32_t crc_;
	struct check *next_; /* in the checker's list */
	struct check *followers_; /* who waits for the same, one behind the other */
};

struct checker {
	pthread_mutex_t lock;
	struct check *checks; /* utlist, oldest first: those that follow no other. Under lock */
};

void checker_init(struct checker *k);
void check_start(struct checker *k, struct check *c);

#endif
