/* Which names the filer's change events have told of, and when: the memory behind filer/watch.h.
 *
 * Names are kept as hashes in a table of a fixed size: two that share a place make each other look
 * changed, never unchanged. Times are those of CLOCK_MONOTONIC, in nanoseconds.
 *
 * One thread writes, any number reads. */
#ifndef KELP_CHANGES_H
#define KELP_CHANGES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A filer may tell of a change a moment before it can be seen. What was asked for within that time after
 * the event counts as changed. */
#define CHANGES_SETTLE_NS INT64_C(1000000000)

struct changes;

int changes_new(struct changes **ret);
/* Takes NULL. */
void changes_free(struct changes *c);

/* Takes a serialized SubscribeMetadataResponse, heard at now. *ret_filer_ns: where it tells of no change,
 * up to which time of the filer's clock none was; else 0. Returns 0, -EPROTO. */
int changes_take(struct changes *c, const uint8_t *message, size_t len, int64_t now,
		 int64_t *ret_filer_ns);

/* Everything counts as changed until then. */
void changes_forget(struct changes *c, int64_t until);

/* Was nothing said of the path, absolute in the filer's namespace, nor of a directory that was moved or
 * deleted, since then? */
bool changes_none(struct changes *c, const char *path, int64_t since);

#endif
