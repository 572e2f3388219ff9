/* The inside of fs/ops.c, which is in several files: what each operation needs, and the operations that the
 * table names. libfuse says what each of them does; they are for one of its workers, and reply. */
#ifndef KELP_OPS_IMPL_H
#define KELP_OPS_IMPL_H

#include <fuse_lowlevel.h>
#include <stdint.h>

#include "fs/inode.h"
#include "fs/mount.h"

/* open(2) looks the name up and opens it in two requests, some tens of microseconds apart. An entry
 * that the same thread was given so shortly before, and has not opened since, is the present one: a change
 * elsewhere and its acknowledgement take longer (the filer's fastest answer measured is 300 us). */
#define SAME_CALL_NS 200000

_Static_assert(sizeof(fuse_ino_t) >= sizeof(void *), "an inode's address is its number");

static inline struct mount *mount_of(fuse_req_t req)
{
	return fuse_req_userdata(req);
}

static inline struct inode *inode_of(struct mount *m, fuse_ino_t ino)
{
	return ino == FUSE_ROOT_ID ? inode_root(m->inodes) : (struct inode *)ino;
}

static inline fuse_ino_t number_of(struct mount *m, struct inode *i)
{
	return i == inode_root(m->inodes) ? FUSE_ROOT_ID : (fuse_ino_t)i;
}

/* Replies with what an application can make of err, and logs what it cannot. path is of the filer's
 * namespace; where it is NULL, the inode's is looked for. */
void reply_failure(fuse_req_t req, const char *operation, struct inode *i, const char *path,
		   int err);

/* --- fs/ops_attr.c: attributes, symbolic links, capacity --- */

void fill_entry_param(struct mount *m, struct inode *i, struct fuse_entry_param *ret);
/* Is the entry what the filer has for the path, by what its change events say? */
bool is_current(struct mount *m, const struct inode_view *view, const char *path);

void op_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi);
void op_readlink(fuse_req_t req, fuse_ino_t ino);
void op_getxattr(fuse_req_t req, fuse_ino_t ino, const char *name, size_t size);
void op_listxattr(fuse_req_t req, fuse_ino_t ino, size_t size);
void op_statfs(fuse_req_t req, fuse_ino_t ino);

/* --- fs/ops_dir.c: names and listings --- */

void op_lookup(fuse_req_t req, fuse_ino_t parent_ino, const char *name);
void op_forget(fuse_req_t req, fuse_ino_t ino, uint64_t n);
void op_forget_multi(fuse_req_t req, size_t count, struct fuse_forget_data *forgets);
void op_opendir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi);
void op_readdir(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset,
		struct fuse_file_info *fi);
void op_readdirplus(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset,
		    struct fuse_file_info *fi);
void op_releasedir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi);

/* --- fs/ops_file.c: files --- */

void op_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi);
void op_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset, struct fuse_file_info *fi);
void op_release(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi);
void op_lseek(fuse_req_t req, fuse_ino_t ino, off_t offset, int whence, struct fuse_file_info *fi);

#endif
