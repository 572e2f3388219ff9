/* Thread model: see fs/ops.c. */
#include "fs/ops_impl.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "filer/base/base.h"
#include "filer/entry.h"
#include "filer/filer.h"
#include "filer/watch.h"
#include "fs/dir.h"
#include "fs/options.h"

static struct dir_stream *stream_of(const struct fuse_file_info *fi)
{
	return (struct dir_stream *)(uintptr_t)fi->fh;
}

/* --- names --- */

static void reply_no_entry(fuse_req_t req, const struct mount *m)
{
	struct fuse_entry_param nothing = { .entry_timeout = m->options->negative_timeout_s };

	if (nothing.entry_timeout > 0)
		fuse_reply_entry(req, &nothing);
	else
		fuse_reply_err(req, ENOENT);
}

/* The inode of a name of which nothing changed, with one more look-up; or NULL. */
static struct inode *known_inode(struct mount *m, struct inode *parent, const char *name,
				 const char *path)
{
	struct inode *i = m->watch ? inode_find(m->inodes, parent, name) : NULL;
	struct inode_view view;

	if (!i)
		return NULL;
	inode_view(m->inodes, i, &view);
	if (!is_current(m, &view, path)) {
		inode_forget(m->inodes, i, 1);
		i = NULL;
	}
	entry_put(view.entry);
	return i;
}

/* Asks the filer what a name stands for, unless that is known. */
static int look_up(fuse_req_t req, struct inode *parent, const char *name, const char *path,
		   struct inode **ret)
{
	struct mount *m = mount_of(req);
	struct asked asked = { .by = fuse_req_ctx(req)->pid, .mark = watch_mark(m->watch) };
	struct entry *e;

	*ret = known_inode(m, parent, name, path);
	if (*ret)
		return 0;
	int err = filer_lookup(m->cluster.filer, path, mount_deadline(m), &e);
	return err ? err : inode_bind(m->inodes, parent, name, e, asked, ret);
}

void op_lookup(fuse_req_t req, fuse_ino_t parent_ino, const char *name)
{
	struct mount *m = mount_of(req);
	struct inode *parent = inode_of(m, parent_ino);
	CLEANUP_FREE char *path = NULL;
	struct fuse_entry_param param;
	struct inode *i;

	if (strlen(name) > NAME_MAX) {
		fuse_reply_err(req, ENAMETOOLONG);
		return;
	}
	if (mount_hides(m, parent, name)) {
		reply_no_entry(req, m);
		return;
	}
	int err = inode_path(m->inodes, parent, name, &path);
	if (!err)
		err = look_up(req, parent, name, path, &i);
	if (err == -ENOENT) {
		reply_no_entry(req, m);
		return;
	}
	if (err) {
		reply_failure(req, "lookup", parent, path, err);
		return;
	}
	fill_entry_param(m, i, &param);
	if (fuse_reply_entry(req, &param))
		inode_forget(m->inodes, i, 1);
}

void op_forget(fuse_req_t req, fuse_ino_t ino, uint64_t n)
{
	struct mount *m = mount_of(req);

	inode_forget(m->inodes, inode_of(m, ino), n);
	fuse_reply_none(req);
}

void op_forget_multi(fuse_req_t req, size_t count, struct fuse_forget_data *forgets)
{
	struct mount *m = mount_of(req);

	for (size_t i = 0; i < count; i++)
		inode_forget(m->inodes, inode_of(m, forgets[i].ino), forgets[i].nlookup);
	fuse_reply_none(req);
}

/* --- listings --- */

void op_opendir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct mount *m = mount_of(req);
	struct inode *i = inode_of(m, ino);
	CLEANUP_FREE char *path = NULL;
	struct dir_stream *d;
	int err = inode_path(m->inodes, i, NULL, &path);

	if (!err)
		err = dir_open(m->dirs, path, &d);
	if (err) {
		reply_failure(req, "opendir", i, path, err);
		return;
	}
	fi->fh = (uintptr_t)d;
	if (fuse_reply_open(req, fi))
		dir_close(d);
}

void op_releasedir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	(void)ino;
	dir_close(stream_of(fi));
	fuse_reply_err(req, 0);
}

/* One reply to readdir or readdirplus being put together. */
struct dir_reply {
	fuse_req_t req;
	struct mount *mount;
	struct inode *dir;
	uint64_t dir_number;
	bool plus;
	char *buf;
	size_t used, bytes;
};

/* Both return whether the name fitted. A position is the kernel's offset of the name before it. */
static bool add_dot(struct dir_reply *r, const char *name, uint64_t position)
{
	struct fuse_entry_param param = { .attr = { .st_ino = r->dir_number, .st_mode = S_IFDIR } };
	char *at = r->buf + r->used;
	size_t left = r->bytes - r->used;
	size_t n = r->plus ? fuse_add_direntry_plus(r->req, at, left, name, &param,
						    (off_t)position + 1)
			   : fuse_add_direntry(r->req, at, left, name, &param.attr,
					       (off_t)position + 1);

	if (n > left)
		return false;
	r->used += n;
	return true;
}

static bool add_name(struct dir_reply *r, const struct dir_name *d, uint64_t position)
{
	struct stat st = { .st_ino = inode_number(r->dir_number, d->name, d->entry),
			   .st_mode = d->entry ? d->entry->mode : 0 };
	size_t left = r->bytes - r->used;
	size_t n = fuse_add_direntry(r->req, r->buf + r->used, left, d->name, &st,
				     (off_t)position + 1);

	if (n > left)
		return false;
	r->used += n;
	return true;
}

/* Each name given this way counts as a look-up, which is taken back when it does not fit. A name
 * without an entry is given without attributes: looking it up will say what is wrong. */
static int add_name_plus(struct dir_reply *r, const struct dir_name *d, uint64_t position,
			 bool *ret_fitted)
{
	struct mount *m = r->mount;
	size_t left = r->bytes - r->used;
	struct fuse_entry_param param = {
		.attr.st_ino = inode_number(r->dir_number, d->name, d->entry),
	};
	struct inode *i = NULL;

	if (d->entry) {
		int err = inode_bind(m->inodes, r->dir, d->name, entry_get(d->entry),
				     (struct asked){ .mark = d->mark, .after = d->after }, &i);

		if (err)
			return err;
		fill_entry_param(m, i, &param);
	}
	size_t n = fuse_add_direntry_plus(r->req, r->buf + r->used, left, d->name, &param,
					  (off_t)position + 1);
	*ret_fitted = n <= left;
	if (*ret_fitted)
		r->used += n;
	else if (i)
		inode_forget(m->inodes, i, 1);
	return 0;
}

static int fill_dir_reply(struct dir_reply *r, struct dir_stream *d, uint64_t position)
{
	bool fitted = true;

	for (; fitted; position++) {
		struct dir_name name;

		if (position < DIR_POSITION_FIRST) {
			fitted = add_dot(r, position == DIR_POSITION_DOT ? "." : "..", position);
			continue;
		}
		int found = dir_at(d, position, &name);
		if (found <= 0)
			return found;
		if (strlen(name.name) > NAME_MAX || mount_hides(r->mount, r->dir, name.name))
			continue;
		if (!r->plus) {
			fitted = add_name(r, &name, position);
			continue;
		}
		int err = add_name_plus(r, &name, position, &fitted);
		if (err)
			return err;
	}
	return 0;
}

static void read_directory(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset,
			   struct fuse_file_info *fi, bool plus)
{
	struct mount *m = mount_of(req);
	struct dir_stream *d = stream_of(fi);
	CLEANUP_FREE char *buf = malloc(size);
	struct dir_reply r = {
		.req = req,
		.mount = m,
		.dir = inode_of(m, ino),
		.plus = plus,
		.buf = buf,
		.bytes = size,
	};

	if (!buf) {
		fuse_reply_err(req, ENOMEM);
		return;
	}
	r.dir_number = inode_shown_number(m->inodes, r.dir);
	dir_lock(d);
	if (offset == DIR_POSITION_DOT)
		dir_rewind(d);
	int err = fill_dir_reply(&r, d, (uint64_t)offset);
	if (err && !r.used)
		dir_failure_told(d);
	dir_unlock(d);
	/* Names that were added count as looked up: a failure after them is for the next request. */
	if (err && !r.used)
		reply_failure(req, "readdir", r.dir, NULL, err);
	else
		fuse_reply_buf(req, buf, r.used);
}

void op_readdir(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset,
		struct fuse_file_info *fi)
{
	read_directory(req, ino, size, offset, fi, false);
}

void op_readdirplus(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset,
		    struct fuse_file_info *fi)
{
	read_directory(req, ino, size, offset, fi, true);
}
