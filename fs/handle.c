#include "fs/handle.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <utlist.h>

#include "filer/chunkmap.h"
#include "filer/entry.h"
#include "filer/filer.h"
#include "fs/fetch.h"
#include "fs/mount.h"

static int open_chunks(struct mount *m, struct handle *h)
{
	struct chunkmap *map;
	int err = chunkmap_build(h->entry, fetch_manifest, m->cluster.fetcher, mount_deadline(m),
				 &map);

	if (err)
		return err;
	err = read_file_open(m->reader, map, &h->file);
	if (err)
		chunkmap_free(map);
	return err;
}

static enum handle_kind kind_of(const struct entry *e)
{
	if (e->content)
		return HANDLE_INLINE;
	return e->remote_only ? HANDLE_FILER : HANDLE_CHUNKS;
}

int handle_open(struct mount *m, struct inode *inode, struct entry *entry, const char *path,
		struct handle **ret)
{
	/* The filer itself, and weed mount, give the encrypted bytes. */
	if (entry->sse)
		return -ENOKEY;
	struct handle *h = calloc(1, sizeof(*h));
	int err = -ENOMEM;

	if (!h)
		return err;
	h->path = strdup(path);
	if (!h->path)
		goto free_handle;
	h->kind = kind_of(entry);
	h->inode = inode;
	atomic_init(&h->refs, 1);
	h->entry = entry_get(entry);
	if (h->kind == HANDLE_CHUNKS) {
		err = open_chunks(m, h);
		if (err)
			goto put_entry;
	}
	{
		LOCK_SCOPE(&m->handles_lock);
		DL_APPEND(m->handles, h);
		m->n_handles++;
	}
	*ret = h;
	return 0;

put_entry:
	entry_put(h->entry);
	free(h->path);
free_handle:
	free(h);
	return err;
}

static void handle_put(struct handle *h)
{
	if (atomic_fetch_sub_explicit(&h->refs, 1, memory_order_acq_rel) > 1)
		return;
	if (h->file)
		read_file_close(h->file);
	entry_put(h->entry);
	free(h->path);
	free(h);
}

void handle_close(struct mount *m, struct handle *h)
{
	{
		LOCK_SCOPE(&m->handles_lock);
		DL_DELETE(m->handles, h);
		m->n_handles--;
	}
	handle_put(h);
}

void handle_close_all(struct mount *m)
{
	while (m->handles)
		handle_close(m, m->handles);
}

/* A buffer of our own as the single slice. */
static int own_slice(size_t len, struct read_result *ret)
{
	uint8_t *buf = calloc(1, len ? len : 1);

	if (!buf)
		return -ENOMEM;
	ret->slices[0] = (struct iovec){ .iov_base = buf, .iov_len = len };
	ret->n_slices = 1;
	ret->bytes = len;
	ret->opaque = buf;
	return 0;
}

static int read_inline(struct handle *h, uint64_t offset, size_t len, struct read_result *ret)
{
	const struct entry *e = h->entry;
	int err = own_slice(len, ret);

	if (err)
		return err;
	if (offset < e->content_len)
		memcpy(ret->slices[0].iov_base, e->content + offset,
		       min_u64(len, e->content_len - offset));
	return 0;
}

/* The filer decides by path: what it sent counts only if the path still names what was opened. The
 * chunk list is not compared, because the filer itself changes it when it caches remote content. */
static int still_the_same(struct mount *m, const struct handle *h, struct deadline d)
{
	struct entry *now;
	int err = filer_lookup(m->cluster.filer, h->path, d, &now);

	if (err)
		return err == -ENOENT ? -ESTALE : err;
	const struct entry *was = h->entry;
	bool same = now->size == was->size && now->mtime.tv_sec == was->mtime.tv_sec &&
		    now->mtime.tv_nsec == was->mtime.tv_nsec;
	entry_put(now);
	return same ? 0 : -ESTALE;
}

static int read_through_filer(struct mount *m, struct handle *h, uint64_t offset, size_t len,
			      struct read_result *ret)
{
	struct deadline d = mount_deadline(m);
	size_t got = 0;
	int err = own_slice(len, ret);

	if (err)
		return err;
	int read_err = filer_read(m->cluster.filer, h->path, NULL, offset, ret->slices[0].iov_base,
				  len, d, &got);
	/* "Not found" may also be said of the remote storage that holds the bytes. */
	err = read_err && read_err != -ENOENT ? read_err : still_the_same(m, h, d);
	if (!err && (read_err || got != len))
		err = -EIO;
	if (err)
		free(ret->opaque);
	return err;
}

/* Chunks are gone: overwritten or deleted elsewhere, or lost. The entry tells which. */
static int gone_reason(struct mount *m, const struct handle *h)
{
	struct entry *now;

	if (filer_lookup(m->cluster.filer, h->path, mount_deadline(m), &now))
		return -ESTALE;
	bool same = entry_same_version(now, h->entry);
	entry_put(now);
	return same ? -EIO : -ESTALE;
}

static int read_bytes(struct mount *m, struct handle *h, uint64_t offset, size_t len,
		      struct read_result *ret)
{
	int err;

	switch (h->kind) {
	case HANDLE_INLINE:
		return read_inline(h, offset, len, ret);
	case HANDLE_FILER:
		return read_through_filer(m, h, offset, len, ret);
	case HANDLE_CHUNKS:
		err = read_file_at(h->file, offset, len, ret);
		return err == -ENOENT ? gone_reason(m, h) : err;
	}
	return -EIO;
}

int handle_read(struct mount *m, struct handle *h, uint64_t offset, size_t len,
		struct read_result *ret)
{
	uint64_t size = h->entry->size;
	int err = 0;

	*ret = (struct read_result){ .n_slices = 0 };
	if (offset < size)
		err = read_bytes(m, h, offset, min_u64(len, size - offset), ret);
	if (!err)
		atomic_fetch_add_explicit(&h->refs, 1, memory_order_relaxed);
	return err;
}

void handle_read_done(struct handle *h, struct read_result *r)
{
	if (r->n_slices && h->kind == HANDLE_CHUNKS)
		read_done(h->file, r);
	else if (r->n_slices)
		free(r->opaque);
	handle_put(h);
}

/* Content without a chunk map is all data. */
static int seek_plain(uint64_t size, uint64_t offset, int whence, uint64_t *ret)
{
	if (offset >= size)
		return -ENXIO;
	*ret = whence == SEEK_DATA ? offset : size;
	return 0;
}

int handle_seek(struct handle *h, uint64_t offset, int whence, uint64_t *ret)
{
	if (whence != SEEK_DATA && whence != SEEK_HOLE)
		return -EINVAL;
	if (h->kind != HANDLE_CHUNKS)
		return seek_plain(h->entry->size, offset, whence, ret);
	const struct chunkmap *map = read_file_map(h->file);
	return whence == SEEK_DATA ? chunkmap_seek_data(map, offset, ret)
				   : chunkmap_seek_hole(map, offset, ret);
}
