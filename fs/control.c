/* Thread model: as fs/ops.c. Each operation looks whether it is about one of our inodes and hands all others
 * on. A file's text is made when it is opened and belongs to that open file: it has no other state. */
#include "fs/control.h"

#include <errno.h>
#include <fcntl.h>
#include <fuse_lowlevel.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <utlist.h>

#include "filer/base/base.h"
#include "filer/entry.h"
#include "filer/filer.h"
#include "fs/log.h"
#include "fs/mount.h"
#include "fs/mount_metrics.h"
#include "fs/ops.h"
#include "fs/options.h"

/* All other inodes are addresses, but for the root's, which is 1. */
#define DIRECTORY ((fuse_ino_t)2)
#define FIRST_FILE (DIRECTORY + 1)

#define TIMEOUT_S 1.0
/* For the question whether the namespace has an entry of that name. */
#define NAMESPACE_MS 1000

static const struct {
	const char *name;
	char *(*text)(struct mount *m);
} files[] = {
	{ "stats", mount_stats_json },
	{ "metrics", mount_metrics_text },
	{ "config", mount_config_json },
};

/* Held by a read until its reply is sent: by then the application may have closed the file. */
struct text {
	atomic_uint refs;
	size_t bytes;
	char *p;
	struct text *prev, *next; /* in mount.texts; under its handles_lock */
};

static struct mount *mount_of(fuse_req_t req)
{
	return fuse_req_userdata(req);
}

static bool is_ours(fuse_ino_t ino)
{
	return ino >= DIRECTORY && ino < FIRST_FILE + ARRAY_LEN(files);
}

static struct text *text_of(const struct fuse_file_info *fi)
{
	return (struct text *)(uintptr_t)fi->fh;
}

/* --- names and attributes --- */

static struct stat stat_of(const struct mount *m, fuse_ino_t ino)
{
	bool is_dir = ino == DIRECTORY;

	return (struct stat){
		.st_ino = UINT64_MAX - ino,
		.st_mode = is_dir ? S_IFDIR | 0555 : S_IFREG | 0444,
		.st_nlink = is_dir ? 2 : 1,
		.st_uid = getuid(),
		.st_gid = getgid(),
		.st_mtim.tv_sec = m->start_s,
		.st_ctim.tv_sec = m->start_s,
	};
}

static struct fuse_entry_param param_of(const struct mount *m, fuse_ino_t ino)
{
	return (struct fuse_entry_param){
		.ino = ino,
		.attr = stat_of(m, ino),
		.attr_timeout = TIMEOUT_S,
		.entry_timeout = TIMEOUT_S,
	};
}

static void reply_entry(fuse_req_t req, fuse_ino_t ino)
{
	struct fuse_entry_param param = param_of(mount_of(req), ino);

	fuse_reply_entry(req, &param);
}

/* Where no filer answers, what was true last is. */
static bool namespace_has_one(struct mount *m)
{
	const char *root = strcmp(m->options->path, "/") == 0 ? "" : m->options->path;
	CLEANUP_FREE char *path = NULL;
	struct entry *e;

	if (asprintf(&path, "%s/%s", root, CONTROL_NAME) < 0) {
		path = NULL;
		return atomic_load(&m->has_own_control);
	}
	int err = filer_lookup(m->cluster.filer, path, deadline_in_ms(NAMESPACE_MS), &e);
	if (!err) {
		entry_put(e);
		if (!atomic_exchange(&m->has_own_control, true))
			log_warning("%s is an entry of the namespace, which is shown in the place "
				    "of the mount's own (-o status= gives the same)",
				    path);
	} else if (err == -ENOENT) {
		atomic_store(&m->has_own_control, false);
	}
	return atomic_load(&m->has_own_control);
}

static void control_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	if (parent == FUSE_ROOT_ID && strcmp(name, CONTROL_NAME) == 0 &&
	    !namespace_has_one(mount_of(req))) {
		reply_entry(req, DIRECTORY);
		return;
	}
	if (!is_ours(parent)) {
		kelpfs_operations.lookup(req, parent, name);
		return;
	}
	for (size_t i = 0; i < ARRAY_LEN(files); i++) {
		if (strcmp(name, files[i].name) == 0) {
			reply_entry(req, FIRST_FILE + i);
			return;
		}
	}
	fuse_reply_err(req, ENOENT);
}

static void control_forget(fuse_req_t req, fuse_ino_t ino, uint64_t n)
{
	if (is_ours(ino))
		fuse_reply_none(req);
	else
		kelpfs_operations.forget(req, ino, n);
}

static void control_forget_multi(fuse_req_t req, size_t count, struct fuse_forget_data *forgets)
{
	size_t n = 0;

	for (size_t i = 0; i < count; i++)
		if (!is_ours(forgets[i].ino))
			forgets[n++] = forgets[i];
	kelpfs_operations.forget_multi(req, n, forgets);
}

static void control_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	if (!is_ours(ino)) {
		kelpfs_operations.getattr(req, ino, fi);
		return;
	}
	struct stat st = stat_of(mount_of(req), ino);
	fuse_reply_attr(req, &st, TIMEOUT_S);
}

static void control_readlink(fuse_req_t req, fuse_ino_t ino)
{
	if (is_ours(ino))
		fuse_reply_err(req, EINVAL);
	else
		kelpfs_operations.readlink(req, ino);
}

static void control_getxattr(fuse_req_t req, fuse_ino_t ino, const char *name, size_t size)
{
	if (is_ours(ino))
		fuse_reply_err(req, ENODATA);
	else
		kelpfs_operations.getxattr(req, ino, name, size);
}

static void control_listxattr(fuse_req_t req, fuse_ino_t ino, size_t size)
{
	if (!is_ours(ino))
		kelpfs_operations.listxattr(req, ino, size);
	else if (size == 0)
		fuse_reply_xattr(req, 0);
	else
		fuse_reply_buf(req, NULL, 0);
}

/* --- files --- */

static struct text *make_text(struct mount *m, fuse_ino_t ino)
{
	struct text *t = malloc(sizeof(*t));

	if (!t)
		return NULL;
	t->p = files[ino - FIRST_FILE].text(m);
	if (!t->p) {
		free(t);
		return NULL;
	}
	t->bytes = strlen(t->p);
	atomic_init(&t->refs, 1);
	LOCK_SCOPE(&m->handles_lock);
	DL_APPEND(m->texts, t);
	return t;
}

static void put_text(struct mount *m, struct text *t)
{
	if (atomic_fetch_sub_explicit(&t->refs, 1, memory_order_acq_rel) > 1)
		return;
	{
		LOCK_SCOPE(&m->handles_lock);
		DL_DELETE(m->texts, t);
	}
	free(t->p);
	free(t);
}

void control_close_all(struct mount *m)
{
	while (m->texts)
		put_text(m, m->texts);
}

static void open_text(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	if (ino == DIRECTORY) {
		fuse_reply_err(req, EISDIR);
		return;
	}
	if ((fi->flags & O_ACCMODE) != O_RDONLY || (fi->flags & O_TRUNC)) {
		fuse_reply_err(req, EROFS);
		return;
	}
	struct mount *m = mount_of(req);
	struct text *t = make_text(m, ino);
	if (!t) {
		fuse_reply_err(req, ENOMEM);
		return;
	}
	fi->fh = (uintptr_t)t;
	fi->direct_io = 1; /* its size is said to be 0 */
	fi->noflush = 1;
	if (fuse_reply_open(req, fi))
		put_text(m, t);
}

static void control_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	if (is_ours(ino))
		open_text(req, ino, fi);
	else
		kelpfs_operations.open(req, ino, fi);
}

static void control_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset,
			 struct fuse_file_info *fi)
{
	if (!is_ours(ino)) {
		kelpfs_operations.read(req, ino, size, offset, fi);
		return;
	}
	struct mount *m = mount_of(req);
	struct text *t = text_of(fi);
	size_t from = min_u64((uint64_t)offset, t->bytes);

	atomic_fetch_add_explicit(&t->refs, 1, memory_order_relaxed);
	fuse_reply_buf(req, t->p + from, min_u64(size, t->bytes - from));
	put_text(m, t);
}

static void control_release(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	if (!is_ours(ino)) {
		kelpfs_operations.release(req, ino, fi);
		return;
	}
	put_text(mount_of(req), text_of(fi));
	fuse_reply_err(req, 0);
}

static void control_lseek(fuse_req_t req, fuse_ino_t ino, off_t offset, int whence,
			  struct fuse_file_info *fi)
{
	if (is_ours(ino))
		fuse_reply_err(req, EINVAL);
	else
		kelpfs_operations.lseek(req, ino, offset, whence, fi);
}

/* --- the directory --- */

static void control_opendir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	if (is_ours(ino))
		fuse_reply_open(req, fi);
	else
		kelpfs_operations.opendir(req, ino, fi);
}

static void control_releasedir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	if (is_ours(ino))
		fuse_reply_err(req, 0);
	else
		kelpfs_operations.releasedir(req, ino, fi);
}

static void list(fuse_req_t req, size_t size, off_t offset, bool plus)
{
	CLEANUP_FREE char *buf = malloc(size);
	struct mount *m = mount_of(req);
	size_t used = 0;

	if (!buf) {
		fuse_reply_err(req, ENOMEM);
		return;
	}
	for (size_t i = (size_t)offset; i < ARRAY_LEN(files); i++) {
		struct fuse_entry_param param = param_of(m, FIRST_FILE + i);
		char *at = buf + used;
		size_t left = size - used;
		size_t n = plus ? fuse_add_direntry_plus(req, at, left, files[i].name, &param,
							 (off_t)i + 1)
				: fuse_add_direntry(req, at, left, files[i].name, &param.attr,
						    (off_t)i + 1);

		if (n > left)
			break;
		used += n;
	}
	fuse_reply_buf(req, buf, used);
}

static void control_readdir(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset,
			    struct fuse_file_info *fi)
{
	if (is_ours(ino))
		list(req, size, offset, false);
	else
		kelpfs_operations.readdir(req, ino, size, offset, fi);
}

static void control_readdirplus(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset,
				struct fuse_file_info *fi)
{
	if (is_ours(ino))
		list(req, size, offset, true);
	else
		kelpfs_operations.readdirplus(req, ino, size, offset, fi);
}

void control_add(struct fuse_lowlevel_ops *ops)
{
	ops->lookup = control_lookup;
	ops->forget = control_forget;
	ops->forget_multi = control_forget_multi;
	ops->getattr = control_getattr;
	ops->readlink = control_readlink;
	ops->open = control_open;
	ops->read = control_read;
	ops->release = control_release;
	ops->lseek = control_lseek;
	ops->opendir = control_opendir;
	ops->readdir = control_readdir;
	ops->readdirplus = control_readdirplus;
	ops->releasedir = control_releasedir;
	ops->getxattr = control_getxattr;
	ops->listxattr = control_listxattr;
}
