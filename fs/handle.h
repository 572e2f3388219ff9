/* Open files: one version of an entry, pinned, and the way its bytes are read.
 *
 * A reply to a read reaches the application before the thread that sent it has let go of the bytes, and
 * by then the application may have closed the file: so a read holds the handle too. */
#ifndef KELP_HANDLE_H
#define KELP_HANDLE_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#include "fs/reader.h"

struct entry;
struct inode;
struct mount;

enum handle_kind {
	HANDLE_CHUNKS, /* through the reader */
	HANDLE_INLINE, /* the entry holds the content */
	HANDLE_FILER, /* only the filer can produce the bytes: they lie in remote storage */
};

struct handle {
	/* Immutable. */
	enum handle_kind kind;
	struct inode *inode;
	struct entry *entry;
	struct read_file *file; /* HANDLE_CHUNKS */
	char *path; /* at the time of opening; for HANDLE_FILER and for messages */

	atomic_bool confirmed; /* the kernel has been seen to act on the reply to open */
	atomic_uint refs; /* one of the kernel, one of each read that is not done */
	struct handle *prev, *next; /* utlist of all open ones, protected by mount.handles_lock */
};

/* entry: a reference is taken. -ENOKEY where the content is encrypted by the S3 gateway. */
int handle_open(struct mount *m, struct inode *inode, struct entry *entry, const char *path,
		struct handle **ret);

/* No more reads will start; the memory goes with the last of those that have. */
void handle_close(struct mount *m, struct handle *h);

/* At the end of the session: the kernel does not send the release of what was closed just before. */
void handle_close_all(struct mount *m);

/* Reads up to len bytes at offset, short only at end of file. On success the bytes stay valid, and the
 * handle with them, until handle_read_done(). -ESTALE: the file was replaced and this version's bytes are gone. */
int handle_read(struct mount *m, struct handle *h, uint64_t offset, size_t len,
		struct read_result *ret);
void handle_read_done(struct handle *h, struct read_result *r);

/* lseek SEEK_DATA, SEEK_HOLE. */
int handle_seek(struct handle *h, uint64_t offset, int whence, uint64_t *ret);

#endif
