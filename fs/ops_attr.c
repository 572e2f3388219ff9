/* Thread model: see fs/ops.c. */
#include "fs/ops_impl.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

#include "filer/base/base.h"
#include "filer/entry.h"
#include "filer/filer.h"
#include "filer/watch.h"
#include "fs/options.h"

#define BLOCK_BYTES 512
#define STATFS_BLOCK_BYTES 4096
#define STATFS_TTL_MS 20000

/* What statfs says where the filer's gRPC port cannot be asked. */
#define CAPACITY_UNKNOWN_BYTES ((uint64_t)1 << 50)

static uint32_t map_id(const struct id_maps *maps, uint32_t id)
{
	for (size_t i = 0; i < maps->n; i++)
		if (maps->map[i].filer == id)
			return maps->map[i].local;
	return id;
}

static void fill_stat(const struct mount *m, const struct entry *e, uint64_t ino, struct stat *st)
{
	*st = (struct stat){
		.st_ino = ino,
		.st_mode = e->mode,
		.st_nlink = e->nlink,
		.st_uid = map_id(&m->options->uid_maps, e->uid),
		.st_gid = map_id(&m->options->gid_maps, e->gid),
		.st_rdev = e->rdev,
		.st_size = (off_t)e->size,
		.st_blksize = STATFS_BLOCK_BYTES,
		.st_blocks = (blkcnt_t)((e->stored_bytes + BLOCK_BYTES - 1) / BLOCK_BYTES),
		.st_mtim = e->mtime,
		.st_ctim = e->ctime,
		.st_atim = e->atime,
	};
}

void fill_entry_param(struct mount *m, struct inode *i, struct fuse_entry_param *ret)
{
	struct inode_view view;

	inode_view(m->inodes, i, &view);
	*ret = (struct fuse_entry_param){
		.ino = number_of(m, i),
		.attr_timeout = m->options->attr_timeout_s,
		.entry_timeout = m->options->entry_timeout_s,
	};
	fill_stat(m, view.entry, inode_shown_number(m->inodes, i), &ret->attr);
	entry_put(view.entry);
}

bool is_current(struct mount *m, const struct inode_view *view, const char *path)
{
	return !view->entry->unannounced && watch_unchanged(m->watch, path, view->mark);
}

/* The inode's entry, at most as old as the kernel may keep attributes. An open or a detached inode
 * shows the version that is open, whatever its name stands for now. */
static int recent_entry(struct mount *m, struct inode *i, int64_t max_age_ns, struct entry **ret)
{
	CLEANUP_FREE char *path = NULL;
	struct inode_view view;
	struct entry *fresh;

	inode_view(m->inodes, i, &view);
	if (view.detached || now_ns() - view.fetched_ns <= max_age_ns) {
		*ret = view.entry;
		return 0;
	}
	int err = inode_path(m->inodes, i, NULL, &path);
	if (!err && is_current(m, &view, path)) {
		*ret = view.entry;
		return 0;
	}
	int64_t mark = watch_mark(m->watch);
	if (!err)
		err = filer_lookup(m->cluster.filer, path, mount_deadline(m), &fresh);
	if (err) {
		if (view.open_files && err == -ENOENT) {
			*ret = view.entry;
			return 0;
		}
		entry_put(view.entry);
		return err;
	}
	entry_put(view.entry);
	bool taken = inode_refresh(m->inodes, i, fresh, mark);
	inode_view(m->inodes, i, &view);
	if (!taken && !view.open_files) {
		entry_put(view.entry);
		return -ESTALE; /* of another type: the kernel must look the name up again */
	}
	*ret = view.entry;
	return 0;
}

static int64_t attr_timeout_ns(const struct mount *m)
{
	return (int64_t)(m->options->attr_timeout_s * 1e9);
}

void op_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct mount *m = mount_of(req);
	struct inode *i = inode_of(m, ino);
	struct inode_view view;
	struct entry *e;
	struct stat st;

	/* Part of a read: of the version that is open, and no reason to wait for a filer. Whoever asks
	 * by name has it looked up when entry_timeout is over. */
	if (fi) {
		inode_view(m->inodes, i, &view);
		e = view.entry;
	} else {
		int err = recent_entry(m, i, SAME_CALL_NS, &e);
		if (err) {
			reply_failure(req, "getattr", i, NULL, err);
			return;
		}
	}
	fill_stat(m, e, inode_shown_number(m->inodes, i), &st);
	entry_put(e);
	fuse_reply_attr(req, &st, m->options->attr_timeout_s);
}

void op_readlink(fuse_req_t req, fuse_ino_t ino)
{
	struct mount *m = mount_of(req);
	struct inode *i = inode_of(m, ino);
	struct entry *e;
	int err = recent_entry(m, i, attr_timeout_ns(m), &e);

	if (err) {
		reply_failure(req, "readlink", i, NULL, err);
		return;
	}
	if (!e->symlink)
		fuse_reply_err(req, EINVAL);
	else if (e->symlink_len >= PATH_MAX)
		fuse_reply_err(req, ENAMETOOLONG);
	else
		fuse_reply_readlink(req, e->symlink);
	entry_put(e);
}

/* --- extended attributes --- */

static void reply_sized(fuse_req_t req, const void *value, size_t len, size_t size)
{
	if (size == 0)
		fuse_reply_xattr(req, len);
	else if (len > size)
		fuse_reply_err(req, ERANGE);
	else
		fuse_reply_buf(req, value, len);
}

void op_getxattr(fuse_req_t req, fuse_ino_t ino, const char *name, size_t size)
{
	struct mount *m = mount_of(req);
	struct inode *i = inode_of(m, ino);
	struct entry *e;
	int err = recent_entry(m, i, attr_timeout_ns(m), &e);

	if (err) {
		reply_failure(req, "getxattr", i, NULL, err);
		return;
	}
	uint32_t n = 0;
	while (n < e->n_xattrs && strcmp(e->xattrs[n].name, name) != 0)
		n++;
	if (n == e->n_xattrs)
		fuse_reply_err(req, ENODATA);
	else
		reply_sized(req, e->xattrs[n].value, e->xattrs[n].value_len, size);
	entry_put(e);
}

void op_listxattr(fuse_req_t req, fuse_ino_t ino, size_t size)
{
	struct mount *m = mount_of(req);
	struct inode *i = inode_of(m, ino);
	struct entry *e;
	int err = recent_entry(m, i, attr_timeout_ns(m), &e);

	if (err) {
		reply_failure(req, "listxattr", i, NULL, err);
		return;
	}
	size_t len = 0;
	for (uint32_t n = 0; n < e->n_xattrs; n++)
		len += e->xattrs[n].name_len + 1;
	CLEANUP_FREE char *names = malloc(len ? len : 1);
	if (!names) {
		fuse_reply_err(req, ENOMEM);
	} else {
		char *p = names;

		for (uint32_t n = 0; n < e->n_xattrs; n++)
			p = mempcpy(p, e->xattrs[n].name, e->xattrs[n].name_len + 1);
		reply_sized(req, names, len, size);
	}
	entry_put(e);
}

/* --- capacity --- */

static struct filer_capacity capacity(struct mount *m)
{
	LOCK_SCOPE(&m->statfs_lock);
	if (!m->capacity_at_ms || now_ms() - m->capacity_at_ms > STATFS_TTL_MS) {
		struct filer_capacity c;

		if (filer_statistics(m->cluster.filer, mount_deadline(m), &c) == 0)
			m->capacity = c;
		else if (!m->capacity_at_ms)
			m->capacity = (struct filer_capacity){
				.total_bytes = CAPACITY_UNKNOWN_BYTES
			};
		m->capacity_at_ms = now_ms();
	}
	return m->capacity;
}

void op_statfs(fuse_req_t req, fuse_ino_t ino)
{
	struct filer_capacity c = capacity(mount_of(req));
	uint64_t free_bytes = c.total_bytes > c.used_bytes ? c.total_bytes - c.used_bytes : 0;
	struct statvfs st = {
		.f_bsize = STATFS_BLOCK_BYTES,
		.f_frsize = STATFS_BLOCK_BYTES,
		.f_blocks = c.total_bytes / STATFS_BLOCK_BYTES,
		.f_bfree = free_bytes / STATFS_BLOCK_BYTES,
		.f_bavail = free_bytes / STATFS_BLOCK_BYTES,
		.f_files = c.files,
		.f_namemax = NAME_MAX,
	};

	(void)ino;
	fuse_reply_statfs(req, &st);
}
