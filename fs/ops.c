/* Thread model: libfuse calls each operation on one of its worker threads; an operation blocks that
 * thread until it has replied, within the time limit of the mount. State shared by operations lives
 * in the inode table, the reader and the directory streams, each with a lock of its own. No lock is
 * held while the kernel is written to, but a directory's own. */
#include "fs/ops.h"

#include <errno.h>
#include <limits.h>
#include <string.h>

#include "filer/base/base.h"
#include "fs/log.h"
#include "fs/mount.h"
#include "fs/ops_impl.h"
#include "fs/options.h"

/* --- failures --- */

/* What an application can make sense of; everything else went wrong on the way to the cluster. */
static int errno_for_application(int err)
{
	static const int known[] = { ENOENT, EACCES, ENOTDIR, ESTALE, ENAMETOOLONG, ENOMEM,
				     ENXIO,  EINVAL, ENODATA, ERANGE, EROFS };

	for (size_t i = 0; i < ARRAY_LEN(known); i++)
		if (err == -known[i])
			return known[i];
	return err == -ENOKEY ? EACCES : EIO;
}

static const char *reason(int err)
{
	return err == -ENOKEY ? "encrypted by the S3 gateway, only readable through it"
			      : strerror(-err);
}

void reply_failure(fuse_req_t req, const char *operation, struct inode *i, const char *path,
		   int err)
{
	int shown = errno_for_application(err);

	if (shown == EIO || shown == EACCES || shown == ENOMEM) {
		CLEANUP_FREE char *of_inode = NULL;

		if (!path && inode_path(mount_of(req)->inodes, i, NULL, &of_inode) == 0)
			path = of_inode;
		log_warning_limited("%s %s: %s", operation, path ? path : "(replaced)",
				    reason(err));
	}
	fuse_reply_err(req, shown);
}

/* --- the session --- */

static void log_capabilities(const struct fuse_conn_info *conn)
{
	static const struct {
		unsigned flag;
		const char *name;
	} names[] = {
		{ FUSE_CAP_ASYNC_READ, "async_read" },
		{ FUSE_CAP_ASYNC_DIO, "async_dio" },
		{ FUSE_CAP_AUTO_INVAL_DATA, "auto_inval_data" },
		{ FUSE_CAP_READDIRPLUS, "readdirplus" },
		{ FUSE_CAP_READDIRPLUS_AUTO, "readdirplus_auto" },
		{ FUSE_CAP_PARALLEL_DIROPS, "parallel_dirops" },
		{ FUSE_CAP_CACHE_SYMLINKS, "cache_symlinks" },
		{ FUSE_CAP_SPLICE_WRITE, "splice_write" },
		{ FUSE_CAP_SPLICE_MOVE, "splice_move" },
	};

	log_debug("protocol %u.%u, capable 0x%x, want 0x%x", conn->proto_major, conn->proto_minor,
		  conn->capable, conn->want);
	for (size_t i = 0; i < ARRAY_LEN(names); i++)
		log_debug("capability %-16s %s, %s", names[i].name,
			  conn->capable & names[i].flag ? "offered" : "not offered",
			  conn->want & names[i].flag ? "asked for" : "not asked for");
	log_debug("max_readahead %u, max_background %u, congestion_threshold %u",
		  conn->max_readahead, conn->max_background, conn->congestion_threshold);
}

static void op_init(void *userdata, struct fuse_conn_info *conn)
{
	struct mount *m = userdata;
	unsigned want = FUSE_CAP_ASYNC_READ | FUSE_CAP_ASYNC_DIO | FUSE_CAP_AUTO_INVAL_DATA |
			FUSE_CAP_READDIRPLUS | FUSE_CAP_PARALLEL_DIROPS | FUSE_CAP_CACHE_SYMLINKS;

	if (m->splice)
		want |= FUSE_CAP_SPLICE_WRITE;
	else
		conn->want &= ~(unsigned)(FUSE_CAP_SPLICE_WRITE | FUSE_CAP_SPLICE_MOVE);
	/* A listing carries all attributes. Left to choose, the kernel soon asks for names only, and then
	 * for the attributes one by one. */
	conn->want &= ~(unsigned)FUSE_CAP_READDIRPLUS_AUTO;
	/* Requests are never spliced in: they are small. */
	conn->want &= ~(unsigned)FUSE_CAP_SPLICE_READ;
	conn->want |= want & conn->capable;
	conn->max_read = (unsigned)m->max_read_bytes;
	conn->max_readahead = UINT_MAX; /* the kernel takes the less of this and its own */
	conn->max_background = m->options->max_background;
	conn->congestion_threshold = m->options->max_background * 3 / 4;
	log_capabilities(conn);
	m->on_ready(m->on_ready_arg);
}

/* --- what a read-only file system refuses --- */

static void op_setattr(fuse_req_t req, fuse_ino_t ino, struct stat *attr, int to_set,
		       struct fuse_file_info *fi)
{
	(void)ino, (void)attr, (void)to_set, (void)fi;
	fuse_reply_err(req, EROFS);
}

static void op_mknod(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, dev_t rdev)
{
	(void)parent, (void)name, (void)mode, (void)rdev;
	fuse_reply_err(req, EROFS);
}

static void op_mkdir(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode)
{
	(void)parent, (void)name, (void)mode;
	fuse_reply_err(req, EROFS);
}

static void op_unlink(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	(void)parent, (void)name;
	fuse_reply_err(req, EROFS);
}

static void op_symlink(fuse_req_t req, const char *target, fuse_ino_t parent, const char *name)
{
	(void)target, (void)parent, (void)name;
	fuse_reply_err(req, EROFS);
}

static void op_rename(fuse_req_t req, fuse_ino_t parent, const char *name, fuse_ino_t new_parent,
		      const char *new_name, unsigned flags)
{
	(void)parent, (void)name, (void)new_parent, (void)new_name, (void)flags;
	fuse_reply_err(req, EROFS);
}

static void op_link(fuse_req_t req, fuse_ino_t ino, fuse_ino_t parent, const char *name)
{
	(void)ino, (void)parent, (void)name;
	fuse_reply_err(req, EROFS);
}

static void op_create(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode,
		      struct fuse_file_info *fi)
{
	(void)parent, (void)name, (void)mode, (void)fi;
	fuse_reply_err(req, EROFS);
}

static void op_write(fuse_req_t req, fuse_ino_t ino, const char *buf, size_t size, off_t offset,
		     struct fuse_file_info *fi)
{
	(void)ino, (void)buf, (void)size, (void)offset, (void)fi;
	fuse_reply_err(req, EROFS);
}

static void op_setxattr(fuse_req_t req, fuse_ino_t ino, const char *name, const char *value,
			size_t size, int flags)
{
	(void)ino, (void)name, (void)value, (void)size, (void)flags;
	fuse_reply_err(req, EROFS);
}

static void op_removexattr(fuse_req_t req, fuse_ino_t ino, const char *name)
{
	(void)ino, (void)name;
	fuse_reply_err(req, EROFS);
}

static void op_fallocate(fuse_req_t req, fuse_ino_t ino, int mode, off_t offset, off_t length,
			 struct fuse_file_info *fi)
{
	(void)ino, (void)mode, (void)offset, (void)length, (void)fi;
	fuse_reply_err(req, EROFS);
}

const struct fuse_lowlevel_ops kelpfs_operations = {
	.init = op_init,
	.lookup = op_lookup,
	.forget = op_forget,
	.forget_multi = op_forget_multi,
	.getattr = op_getattr,
	.readlink = op_readlink,
	.open = op_open,
	.read = op_read,
	.release = op_release,
	.lseek = op_lseek,
	.opendir = op_opendir,
	.readdir = op_readdir,
	.readdirplus = op_readdirplus,
	.releasedir = op_releasedir,
	.statfs = op_statfs,
	.getxattr = op_getxattr,
	.listxattr = op_listxattr,
	.setattr = op_setattr,
	.mknod = op_mknod,
	.mkdir = op_mkdir,
	.unlink = op_unlink,
	.rmdir = op_unlink,
	.symlink = op_symlink,
	.rename = op_rename,
	.link = op_link,
	.create = op_create,
	.write = op_write,
	.setxattr = op_setxattr,
	.removexattr = op_removexattr,
	.fallocate = op_fallocate,
};
