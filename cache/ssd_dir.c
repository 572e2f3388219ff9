#include "cache/ssd_dir.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

/* What stays free on the disk: a part of it, but not more than so much. */
#define FLOOR_SHARE 20
#define FLOOR_MAX_BYTES (10 * GIB)

#define DIR_MODE 0700
#define FILE_MODE 0600
#define NAME_BYTES 80

/* Ours alone to write to. */
static int check_owner(int fd, mode_t type, mode_t forbidden)
{
	struct stat st;

	if (fstat(fd, &st) < 0)
		return -errno;
	if ((st.st_mode & S_IFMT) != type || st.st_uid != geteuid() || (st.st_mode & forbidden))
		return -EPERM;
	return 0;
}

static int open_dir(const char *path, int *ret)
{
	if (mkdir(path, DIR_MODE) < 0 && errno != EEXIST)
		return -errno;
	int fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	int err = check_owner(fd, S_IFDIR, S_IWGRP | S_IWOTH);
	if (err) {
		close(fd);
		return err;
	}
	*ret = fd;
	return 0;
}

static int open_file(int dir, const char *name, int flags, int *ret)
{
	int fd = openat(dir, name, O_RDWR | O_CREAT | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC | flags,
			FILE_MODE);

	if (fd < 0)
		return -errno;
	int err = check_owner(fd, S_IFREG, S_IRWXG | S_IRWXO);
	if (err) {
		close(fd);
		return err;
	}
	*ret = fd;
	return 0;
}

static int open_data(struct ssd_dir *d, const char *name)
{
	int err = open_file(d->fd, name, O_DIRECT, &d->data_fd);

	d->direct = err == 0;
	return err == -EINVAL ? open_file(d->fd, name, 0, &d->data_fd) : err;
}

/* -EWOULDBLOCK: another mount has it. */
static int open_slot(struct ssd_dir *d, const struct ssd_id *cluster, unsigned slot)
{
	char name[NAME_BYTES];
	uint64_t id = cluster->word[0] ^ cluster->word[1];

	snprintf(name, sizeof(name), "kelpfs-%016" PRIx64 "-%u.index", id, slot);
	int err = open_file(d->fd, name, 0, &d->index_fd);
	if (err)
		return err;
	if (flock(d->index_fd, LOCK_EX | LOCK_NB) < 0) {
		err = -errno;
		goto close_index;
	}
	snprintf(name, sizeof(name), "kelpfs-%016" PRIx64 "-%u.data", id, slot);
	err = open_data(d, name);
	if (err)
		goto close_index;
	return 0;

close_index:
	close(d->index_fd);
	return err;
}

int ssd_dir_open(const char *path, const struct ssd_id *cluster, struct ssd_dir *ret)
{
	struct ssd_dir d = { .fd = -1 };
	int err = open_dir(path, &d.fd);

	if (err)
		return err;
	for (unsigned slot = 0; slot < SSD_SLOTS_MAX; slot++) {
		err = open_slot(&d, cluster, slot);
		if (err != -EWOULDBLOCK)
			break;
	}
	if (err) {
		close(d.fd);
		return err == -EWOULDBLOCK ? -EUSERS : err;
	}
	*ret = d;
	return 0;
}

void ssd_dir_close(struct ssd_dir *d)
{
	close(d->data_fd);
	close(d->index_fd);
	close(d->fd);
}

static int trim(int fd, off_t bytes)
{
	struct stat st;

	if (fstat(fd, &st) < 0)
		return -errno;
	return st.st_size > bytes && ftruncate(fd, bytes) < 0 ? -errno : 0;
}

int ssd_dir_trim(const struct ssd_dir *d, uint32_t n_segments)
{
	int err = trim(d->data_fd, (off_t)(n_segments * SSD_SEGMENT_BYTES));

	return err ? err
		   : trim(d->index_fd, (off_t)(SSD_SUPER_BYTES + n_segments * SSD_TABLE_BYTES));
}

/* What may still be taken, negative where it is too much already. */
static int64_t bytes_above_floor(const struct ssd_dir *d)
{
	struct statvfs v;

	if (fstatvfs(d->data_fd, &v) < 0)
		return 0;
	uint64_t total = (uint64_t)v.f_blocks * v.f_frsize;
	uint64_t free = (uint64_t)v.f_bavail * v.f_frsize;

	return (int64_t)(free - min_u64(total / FLOOR_SHARE, FLOOR_MAX_BYTES));
}

bool ssd_dir_is_short(const struct ssd_dir *d)
{
	return bytes_above_floor(d) < 0;
}

static bool was_removed(int fd)
{
	struct stat st;

	return fstat(fd, &st) < 0 || st.st_nlink == 0;
}

int ssd_dir_reserve(const struct ssd_dir *d, uint32_t segment, bool fresh)
{
	off_t at = (off_t)(segment * SSD_SEGMENT_BYTES);

	if (was_removed(d->index_fd) || was_removed(d->data_fd))
		return -ENOENT;
	if (!fresh)
		return 0;
	if (bytes_above_floor(d) < (int64_t)(SSD_SEGMENT_BYTES + SSD_TABLE_BYTES))
		return -ENOSPC;
	if (fallocate(d->data_fd, 0, at, (off_t)SSD_SEGMENT_BYTES) < 0 && errno != EOPNOTSUPP)
		return errno == EDQUOT || errno == EFBIG ? -ENOSPC : -errno;
	return 0;
}

void ssd_dir_release(const struct ssd_dir *d, uint32_t segment)
{
	/* A file system that cannot keeps it for us. */
	(void)!fallocate(d->data_fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
			 (off_t)(segment * SSD_SEGMENT_BYTES), (off_t)SSD_SEGMENT_BYTES);
}
