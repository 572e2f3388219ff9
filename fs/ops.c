/* Thread model: libfuse calls each operation on one of its worker threads; an operation blocks that
 * thread until it has replied, within the time limit of the mount. State shared by operations lives
 * in the inode table, the reader and the directory streams, each with a lock of its own. No lock is
 * held while the kernel is written to, but a directory's own. */
#include "fs/ops.h"

#include <errno.h>
#include <fcntl.h>
#include <fuse_lowlevel.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "cache/slab.h"
#include "filer/base/base.h"
#include "filer/entry.h"
#include "filer/filer.h"
#include "filer/watch.h"
#include "fs/ahead.h"
#include "fs/dir.h"
#include "fs/handle.h"
#include "fs/inode.h"
#include "fs/log.h"
#include "fs/mount.h"
#include "fs/options.h"

/* open(2) looks the name up and opens it in two requests, some tens of microseconds apart. An entry
 * that the same thread was given so shortly before, and has not opened since, is the present one: a change
 * elsewhere and its acknowledgement take longer (the filer's fastest answer measured is 300 us). */
#define SAME_CALL_NS 200000

#define BLOCK_BYTES 512
#define STATFS_BLOCK_BYTES 4096
#define STATFS_TTL_MS 20000

/* What statfs says where the filer's gRPC port cannot be asked. */
#define CAPACITY_UNKNOWN_BYTES ((uint64_t)1 << 50)

_Static_assert(sizeof(fuse_ino_t) >= sizeof(void *), "an inode's address is its number");

static struct mount *mount_of(fuse_req_t req)
{
	return fuse_req_userdata(req);
}

static struct inode *inode_of(struct mount *m, fuse_ino_t ino)
{
	return ino == FUSE_ROOT_ID ? inode_root(m->inodes) : (struct inode *)ino;
}

static fuse_ino_t number_of(struct mount *m, struct inode *i)
{
	return i == inode_root(m->inodes) ? FUSE_ROOT_ID : (fuse_ino_t)i;
}

static struct handle *handle_of(const struct fuse_file_info *fi)
{
	return (struct handle *)(uintptr_t)fi->fh;
}

static struct dir_stream *stream_of(const struct fuse_file_info *fi)
{
	return (struct dir_stream *)(uintptr_t)fi->fh;
}

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

/* path is of the filer's namespace; where it is NULL, the inode's is looked for. */
static void reply_failure(fuse_req_t req, const char *operation, struct inode *i, const char *path,
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

/* --- attributes ---------------------------------------------------------------------------- */

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

static void fill_entry_param(struct mount *m, struct inode *i, struct fuse_entry_param *ret)
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

/* Is the entry what the filer has for the path, by what its change events say? */
static bool is_current(struct mount *m, const struct inode_view *view, const char *path)
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

static void op_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
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

static void op_readlink(fuse_req_t req, fuse_ino_t ino)
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

/* --- names --------------------------------------------------------------------------------- */

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

static void op_lookup(fuse_req_t req, fuse_ino_t parent_ino, const char *name)
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

static void op_forget(fuse_req_t req, fuse_ino_t ino, uint64_t n)
{
	struct mount *m = mount_of(req);

	inode_forget(m->inodes, inode_of(m, ino), n);
	fuse_reply_none(req);
}

static void op_forget_multi(fuse_req_t req, size_t count, struct fuse_forget_data *forgets)
{
	struct mount *m = mount_of(req);

	for (size_t i = 0; i < count; i++)
		inode_forget(m->inodes, inode_of(m, forgets[i].ino), forgets[i].nlookup);
	fuse_reply_none(req);
}

/* --- files --------------------------------------------------------------------------------- */

/* The entry to open: the one that this very open(2) looked up, one that is known to be current, or a new
 * one. -ESTALE makes the kernel look the name up again, which gives it the new size and, where the old
 * version is still open, a new inode. */
static int entry_to_open(struct mount *m, fuse_req_t req, struct inode *i, const char *path,
			 struct entry **ret)
{
	struct inode_view view;
	struct entry *fresh;

	inode_view(m->inodes, i, &view);
	if (view.detached) {
		entry_put(view.entry);
		return -ESTALE;
	}
	bool same_call = view.looked_up_by == fuse_req_ctx(req)->pid &&
			 now_ns() - view.fetched_ns <= SAME_CALL_NS;
	if (!view.entry->trimmed && (same_call || is_current(m, &view, path))) {
		*ret = view.entry;
		return 0;
	}
	int64_t mark = watch_mark(m->watch);
	int err = filer_lookup(m->cluster.filer, path, mount_deadline(m), &fresh);
	if (err) {
		entry_put(view.entry);
		return err;
	}
	bool same = entry_same_version(view.entry, fresh);
	entry_put(view.entry);
	if (same)
		*ret = entry_get(fresh);
	if (!inode_refresh(m->inodes, i, fresh, mark) || !same) {
		if (same)
			entry_put(fresh);
		return -ESTALE;
	}
	return 0;
}

static int open_handle(struct mount *m, struct inode *i, struct entry *e, const char *path,
		       struct fuse_file_info *fi)
{
	struct handle *h;
	bool keep_cache;
	int err = handle_open(m, i, e, path, &h);

	if (err)
		return err;
	err = inode_open(m->inodes, i, e, &keep_cache);
	if (err) {
		handle_close(m, h);
		return err;
	}
	fi->fh = (uintptr_t)h;
	fi->keep_cache = keep_cache;
	fi->direct_io = m->options->direct_io;
	fi->noflush = 1;
	return 0;
}

static void release_handle(struct mount *m, struct handle *h)
{
	struct inode *i = h->inode;

	handle_close(m, h);
	inode_close(m->inodes, i);
}

/* The files that are opened next, if this is a walk over a directory. */
static void fetch_ahead(struct mount *m, struct inode *i)
{
	struct entry *entries[AHEAD_FILES_MAX];
	size_t n;

	if (!m->ahead)
		return;
	n = inode_walk(m->inodes, i, ahead_wants, entries, AHEAD_FILES_MAX);
	if (n > 0)
		ahead_fetch(m->ahead, entries, n);
}

static void op_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct mount *m = mount_of(req);
	struct inode *i = inode_of(m, ino);
	CLEANUP_FREE char *path = NULL;
	struct entry *e;

	if ((fi->flags & O_ACCMODE) != O_RDONLY || (fi->flags & O_TRUNC)) {
		fuse_reply_err(req, EROFS);
		return;
	}
	int err = inode_path(m->inodes, i, NULL, &path);
	if (!err)
		err = entry_to_open(m, req, i, path, &e);
	if (!err) {
		err = open_handle(m, i, e, path, fi);
		entry_put(e);
	}
	if (!err)
		fetch_ahead(m, i);
	if (err)
		reply_failure(req, "open", i, path, err);
	else if (fuse_reply_open(req, fi))
		release_handle(m, handle_of(fi));
}

static void confirm_open(struct mount *m, struct handle *h)
{
	if (!atomic_exchange_explicit(&h->confirmed, true, memory_order_relaxed))
		inode_open_confirmed(m->inodes, h->inode);
}

/* fuse_bufvec has room for one buffer; this is how libfuse's callers give it more. */
union slices {
	struct fuse_bufvec vec;
	char room[sizeof(struct fuse_bufvec) + READ_SLICES_MAX * sizeof(struct fuse_buf)];
};

/* Slices that lie in the slab are spliced from its memfd, others are copied. */
static void reply_spliced(fuse_req_t req, struct mount *m, const struct read_result *r)
{
	union slices slices;
	struct fuse_buf *buf = slices.vec.buf;
	void *base;
	size_t bytes;

	slices.vec = FUSE_BUFVEC_INIT(0);
	slices.vec.count = r->n_slices;
	slab_region(m->slab, &base, &bytes);
	for (size_t i = 0; i < r->n_slices; i++) {
		const struct iovec *s = &r->slices[i];
		uintptr_t at = (uintptr_t)s->iov_base;
		bool in_slab = at >= (uintptr_t)base && at < (uintptr_t)base + bytes;

		buf[i] = (struct fuse_buf){ .size = s->iov_len, .mem = s->iov_base, .fd = -1 };
		if (in_slab) {
			buf[i].flags = FUSE_BUF_IS_FD | FUSE_BUF_FD_SEEK;
			buf[i].fd = slab_fd(m->slab);
			buf[i].pos = (off_t)slab_offset(m->slab, s->iov_base);
		}
	}
	fuse_reply_data(req, &slices.vec, FUSE_BUF_SPLICE_NONBLOCK);
}

/* Before the reply, so that who has read finds it counted. */
static void note_read(struct mount *m, int err, const struct read_result *r, int64_t start_ns)
{
	struct mount_counters *c = &m->counters;

	if (err) {
		atomic_fetch_add_explicit(&c->read_errors, 1, memory_order_relaxed);
		return;
	}
	atomic_fetch_add_explicit(&c->reads, 1, memory_order_relaxed);
	atomic_fetch_add_explicit(&c->read_bytes, r->bytes, memory_order_relaxed);
	int64_t elapsed_ns = now_ns() - start_ns;
	latency_add(&c->read_latency, elapsed_ns);
	if (r->cached)
		latency_add(&c->cached_latency, elapsed_ns);
}

static void op_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset,
		    struct fuse_file_info *fi)
{
	struct mount *m = mount_of(req);
	struct handle *h = handle_of(fi);
	int64_t start_ns = now_ns();
	struct read_result r;

	(void)ino;
	confirm_open(m, h);
	int err = handle_read(m, h, (uint64_t)offset, size, &r);
	note_read(m, err, &r, start_ns);
	if (err) {
		reply_failure(req, "read", h->inode, h->path, err);
		return;
	}
	if (m->splice)
		reply_spliced(req, m, &r);
	else
		fuse_reply_iov(req, r.slices, (int)r.n_slices);
	handle_read_done(h, &r);
}

static void op_release(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct mount *m = mount_of(req);
	struct handle *h = handle_of(fi);

	(void)ino;
	confirm_open(m, h);
	release_handle(m, h);
	fuse_reply_err(req, 0);
}

static void op_lseek(fuse_req_t req, fuse_ino_t ino, off_t offset, int whence,
		     struct fuse_file_info *fi)
{
	uint64_t at;

	(void)ino;
	int err = handle_seek(handle_of(fi), (uint64_t)offset, whence, &at);
	if (err)
		fuse_reply_err(req, -err);
	else
		fuse_reply_lseek(req, (off_t)at);
}

/* --- directories --------------------------------------------------------------------------- */

static void op_opendir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
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

static void op_releasedir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
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

static void op_readdir(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset,
		       struct fuse_file_info *fi)
{
	read_directory(req, ino, size, offset, fi, false);
}

static void op_readdirplus(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset,
			   struct fuse_file_info *fi)
{
	read_directory(req, ino, size, offset, fi, true);
}

/* --- extended attributes, capacity ---------------------------------------------------------- */

static void reply_sized(fuse_req_t req, const void *value, size_t len, size_t size)
{
	if (size == 0)
		fuse_reply_xattr(req, len);
	else if (len > size)
		fuse_reply_err(req, ERANGE);
	else
		fuse_reply_buf(req, value, len);
}

static void op_getxattr(fuse_req_t req, fuse_ino_t ino, const char *name, size_t size)
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

static void op_listxattr(fuse_req_t req, fuse_ino_t ino, size_t size)
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

static void op_statfs(fuse_req_t req, fuse_ino_t ino)
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

/* --- the session --------------------------------------------------------------------------- */

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
	conn->max_read = (unsigned)m->options->max_read_bytes;
	conn->max_readahead = UINT_MAX; /* the kernel takes the less of this and its own */
	conn->max_background = m->options->max_background;
	conn->congestion_threshold = m->options->max_background * 3 / 4;
	log_capabilities(conn);
	m->on_ready(m->on_ready_arg);
}

/* --- what a read-only file system refuses --------------------------------------------------- */

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
