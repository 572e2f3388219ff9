#include "fs/mountpoint.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <mntent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fs/log.h"

#define OUR_TYPE "fuse.kelpfs"

static bool directory_is_empty(const char *path)
{
	DIR *d = opendir(path);
	bool empty = true;

	if (!d)
		return true;
	for (struct dirent *e = readdir(d); e && empty; e = readdir(d))
		empty = strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0;
	closedir(d);
	return empty;
}

/* Is a file system of ours on top at the resolved path? */
static bool is_ours(const char *path)
{
	FILE *f = setmntent("/proc/self/mounts", "re");
	char strings[2 * PATH_MAX];
	struct mntent m;
	bool ours = false;

	if (!f)
		return false;
	while (getmntent_r(f, &m, strings, sizeof(strings)))
		if (strcmp(m.mnt_dir, path) == 0)
			ours = strcmp(m.mnt_type, OUR_TYPE) == 0;
	endmntent(f);
	return ours;
}

/* Trailing slashes and symlinks out of the way, as the kernel lists it; a dead mount cannot be resolved,
 * so its parent is. */
static int resolve(const char *path, char ret[PATH_MAX])
{
	char parent[PATH_MAX], resolved[PATH_MAX];

	if (realpath(path, ret))
		return 0;
	if (errno != ENOTCONN)
		return -errno;
	if (snprintf(parent, sizeof(parent), "%s", path) >= (int)sizeof(parent))
		return -ENAMETOOLONG;
	char *last = strrchr(parent, '/');
	while (last && last > parent && !last[1]) {
		*last = '\0';
		last = strrchr(parent, '/');
	}
	if (!last)
		return -ENOTCONN;
	*last = '\0';
	if (!realpath(*parent ? parent : "/", resolved))
		return -errno;
	int n = snprintf(ret, PATH_MAX, "%s/%s", strcmp(resolved, "/") ? resolved : "", last + 1);
	return n < PATH_MAX ? 0 : -ENAMETOOLONG;
}

/* A kelpfs that was killed leaves a mount that answers nothing. */
static int clear_dead_mount(const char *path, char *message, size_t bytes)
{
	if (is_ours(path) && umount2(path, MNT_DETACH) == 0) {
		log_info("%s: took away a mount whose program is gone", path);
		return 0;
	}
	snprintf(message, bytes, "%s: a dead mount is in the way (fusermount3 -u %s takes it away)",
		 path, path);
	return -ENOTCONN;
}

static int look_at(char *path, struct stat *ret, char *message, size_t bytes)
{
	if (stat(path, ret) == 0)
		return 0;
	if (errno == ENOTCONN) {
		int err = clear_dead_mount(path, message, bytes);
		if (err)
			return err;
		if (stat(path, ret) == 0)
			return 0;
	}
	return -errno;
}

int mountpoint_prepare(const char *path, bool nonempty, char ret[PATH_MAX], char *message,
		       size_t bytes)
{
	struct stat st;
	int err = resolve(path, ret);

	if (!err)
		err = look_at(ret, &st, message, bytes);
	if (err) {
		if (!message[0])
			snprintf(message, bytes, "mountpoint %s: %s", path, strerror(-err));
		return err;
	}
	if (!S_ISDIR(st.st_mode)) {
		snprintf(message, bytes, "mountpoint %s: not a directory", path);
		return -ENOTDIR;
	}
	if (is_ours(ret)) {
		snprintf(message, bytes,
			 "mountpoint %s: a kelpfs is mounted there already (fusermount3 -u %s)",
			 path, path);
		return -EBUSY;
	}
	if (!nonempty && !directory_is_empty(ret)) {
		snprintf(message, bytes,
			 "mountpoint %s: not empty (-o nonempty mounts over what is there)", path);
		return -ENOTEMPTY;
	}
	return 0;
}

static int read_number(int fd, unsigned *ret)
{
	char text[32];
	char *end;
	ssize_t n = pread(fd, text, sizeof(text) - 1, 0);

	if (n < 0)
		return -errno;
	text[n] = '\0';
	unsigned long v = strtoul(text, &end, 10);
	if (end == text || v > UINT_MAX)
		return -EIO;
	*ret = (unsigned)v;
	return 0;
}

int mountpoint_set_readahead(const char *path, unsigned kib, unsigned *ret_effective_kib)
{
	char knob[96], text[16];
	struct statx st;

	/* What the kernel knows already: the session's thread may be the one that runs this. */
	if (statx(AT_FDCWD, path, AT_STATX_DONT_SYNC, STATX_INO, &st))
		return -errno;
	snprintf(knob, sizeof(knob), "/sys/class/bdi/%u:%u/read_ahead_kb", st.stx_dev_major,
		 st.stx_dev_minor);
	int fd = open(knob, O_WRONLY | O_CLOEXEC);
	if (fd >= 0) {
		int n = snprintf(text, sizeof(text), "%u\n", kib);
		ssize_t written = write(fd, text, (size_t)n);

		(void)written; /* what is in effect is read back */
		close(fd);
	}
	fd = open(knob, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	int err = read_number(fd, ret_effective_kib);
	close(fd);
	return err;
}
