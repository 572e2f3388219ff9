/* Small files fetched ahead, while a directory is walked: their chunks come into the block cache, many with
 * one exchange, so that who opens the files next finds them there. Nothing is shown of them that was not
 * asked for at open: what is in the cache are needles, which never change.
 *
 * Bounded: AHEAD_JOBS_MAX batches of AHEAD_FILES_MAX files of AHEAD_FILE_BYTES_MAX at a time, and no more
 * than the cache gives for what nobody has asked for yet. Thread-safe. */
#ifndef KELP_AHEAD_H
#define KELP_AHEAD_H

#include <stdbool.h>
#include <stddef.h>

#include "filer/base/base.h"

struct ahead;
struct blockcache;
struct entry;
struct fetcher;

#define AHEAD_FILES_MAX 32
#define AHEAD_FILE_BYTES_MAX (64 * KIB)
#define AHEAD_JOBS_MAX 16

struct ahead_config {
	struct blockcache *cache;
	struct fetcher *fetcher;
	unsigned threads;
	unsigned timeout_ms; /* of a read; a batch takes a part of it */
};

int ahead_new(const struct ahead_config *cfg, struct ahead **ret);
/* Waits for what is under way. Takes NULL. */
void ahead_free(struct ahead *a);

/* Is that a file that is worth it: small, and its data one chunk? */
bool ahead_wants(const struct entry *e);

/* Takes over n entries, up to AHEAD_FILES_MAX, that ahead_wants(). Returns at once; where too much is under
 * way already, they are let go. */
void ahead_fetch(struct ahead *a, struct entry *const *entries, size_t n);

#endif
