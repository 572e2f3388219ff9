/* Thread model: see fs/ops.c. */
#include "fs/ops_impl.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>

#include "cache/slab.h"
#include "filer/base/base.h"
#include "filer/entry.h"
#include "filer/filer.h"
#include "filer/watch.h"
#include "fs/ahead.h"
#include "fs/handle.h"
#include "fs/options.h"

static struct handle *handle_of(const struct fuse_file_info *fi)
{
	return (struct handle *)(uintptr_t)fi->fh;
}

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

void op_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
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

/* Slices that lie in the slab are spliced from its memfd, others are copied. Not inlined: its slices would be
 * on the stack of every op_read(), spliced or not, all 20 KiB of them. */
static __attribute__((noinline)) void reply_spliced(fuse_req_t req, struct mount *m,
						    const struct read_result *r)
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

void op_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset, struct fuse_file_info *fi)
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

void op_release(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct mount *m = mount_of(req);
	struct handle *h = handle_of(fi);

	(void)ino;
	confirm_open(m, h);
	release_handle(m, h);
	fuse_reply_err(req, 0);
}

void op_lseek(fuse_req_t req, fuse_ino_t ino, off_t offset, int whence, struct fuse_file_info *fi)
{
	uint64_t at;

	(void)ino;
	int err = handle_seek(handle_of(fi), (uint64_t)offset, whence, &at);
	if (err)
		fuse_reply_err(req, -err);
	else
		fuse_reply_lseek(req, (off_t)at);
}
