/* The place to mount at: whether it can be used, and the kernel's settings for what is mounted there. */
#ifndef KELP_MOUNTPOINT_H
#define KELP_MOUNTPOINT_H

#include <limits.h>
#include <stdbool.h>
#include <stddef.h>

/* Resolves the path into ret and checks that it is a directory, empty (unless nonempty), without a
 * kelpfs on it. A mount that a killed kelpfs left there is taken away. Returns 0, or -errno and a message
 * that says what is wrong and what to do. */
int mountpoint_prepare(const char *path, bool nonempty, char ret[PATH_MAX], char *message,
		       size_t message_bytes);

/* Sets the kernel's readahead for the mount at a resolved path, where permitted, and tells what is in
 * effect. Asks nothing of the mounted file system. Returns 0 or -errno. */
int mountpoint_set_readahead(const char *path, unsigned kib, unsigned *ret_effective_kib);

#endif
