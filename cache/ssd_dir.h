/* The SSD tier's directory and the two files in it that belong to one mount.
 *
 * Each mount has files of its own, NAME-0, NAME-1, ... by cluster, and holds a lock on them: who finds
 * the first ones locked takes the next. The lock goes with the process, however that ends. */
#ifndef KELP_SSD_DIR_H
#define KELP_SSD_DIR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cache/ssd_format.h"

/* Mounts of one cluster at a time that can use one directory. */
#define SSD_SLOTS_MAX 32

struct ssd_dir {
	int fd;
	int index_fd; /* carries the lock */
	int data_fd;
	bool direct; /* data_fd bypasses the page cache: pages only */
};

/* Makes the directory (not its parents) and the files if they are not there. Returns 0, -EPERM: the
 * directory or a file is somebody else's, or open to others; -EUSERS: all slots are in use; or what
 * the system says, -ENOTDIR and -ELOOP (a symbolic link) among it. */
int ssd_dir_open(const char *path, const struct ssd_id *cluster, struct ssd_dir *ret);
void ssd_dir_close(struct ssd_dir *d);

/* Cuts both files to what so many segments need, so that a smaller size takes effect. */
int ssd_dir_trim(const struct ssd_dir *d, uint32_t n_segments);

/* Before a segment is written to. fresh: it has no room on the disk yet, which is got without touching
 * the floor. Returns 0, -ENOSPC, or why the files cannot be written to; -ENOENT: they were removed. */
int ssd_dir_reserve(const struct ssd_dir *d, uint32_t segment, bool fresh);

/* Gives the segment's bytes back to the file system. */
void ssd_dir_release(const struct ssd_dir *d, uint32_t segment);

/* Is less than the floor free? */
bool ssd_dir_is_short(const struct ssd_dir *d);

#endif
