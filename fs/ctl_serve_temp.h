/* Files by which kelpctl serve hands bytes over to a client on the same machine.
 *
 * They lie in a folder that only their owner can enter, under names that cannot be guessed, and go away
 * without help: when the client says so, when they are too old, at the end, and, should that not have
 * come to pass, at the next start. Thread-safe. */
#ifndef KELP_CTL_SERVE_TEMP_H
#define KELP_CTL_SERVE_TEMP_H

#include <stddef.h>
#include <stdint.h>

struct temp_files;

#define TEMP_PATH_MAX 1024
#define TEMP_FILES_MAX 1024 /* at once */
#define TEMP_BYTES_MAX ((uint64_t)256 << 20) /* ... all together */

/* Makes the folder where there is none, and removes what an earlier run left there. Returns 0, or -errno and
 * a message: the folder belongs to somebody else, others can enter it, another process uses it. */
int temp_files_open(const char *folder, struct temp_files **ret, char *message, size_t bytes);

/* Removes all files; the folder stays. Takes NULL. */
void temp_files_close(struct temp_files *t);

/* Returns 0, -ENOSPC (beyond the limits), or as the file system says. */
int temp_files_add(struct temp_files *t, const void *data, size_t len, char path[TEMP_PATH_MAX]);

/* Only files that were added can be removed. Returns 0 or -ENOENT. */
int temp_files_remove(struct temp_files *t, const char *path);

/* Removes those that are older. */
void temp_files_expire(struct temp_files *t, int64_t age_ms);

struct temp_stats {
	uint64_t files, bytes; /* now */
	uint64_t added, removed, expired;
};
void temp_files_stats(struct temp_files *t, struct temp_stats *ret);

#endif
