/* The inode table: which names the kernel knows, and what is known of each.
 *
 * An inode stands for one name in one directory, as long as the kernel or an open file refers to it.
 * Its entry is what the kernel was last told. Two rules keep every reader on one version:
 *
 *   - While a file is open, its inode's entry keeps the version that was opened. When a look-up finds
 *     another version under that name, the inode is detached (it lives on for those who have it
 *     open, under no name) and the name gets a new inode, and with it a page cache of its own.
 *   - A file that is not open takes the new version in place.
 *
 * Thread-safe. */
#ifndef KELP_INODE_H
#define KELP_INODE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct entry;
struct inode;
struct inode_table;

/* Longest path in the filer's namespace. */
#define INODE_PATH_MAX_BYTES ((size_t)64 << 10)

/* What an inode knows, copied out under the lock. entry holds a reference of its own. */
struct inode_view {
	struct entry *entry;
	int64_t fetched_ns; /* when the request for the entry was answered; 0: must be asked again */
	int64_t mark; /* watch_mark() from before the request; 0: none */
	pid_t looked_up_by; /* thread whose look-up that was; 0: none */
	unsigned open_files;
	bool detached;
};

/* root_path: the mounted path in the filer's namespace. root is taken over. */
int inode_table_new(const char *root_path, struct entry *root, struct inode_table **ret);

/* Drops everything, whatever the kernel still holds. Takes NULL. */
void inode_table_free(struct inode_table *t);

struct inode *inode_root(struct inode_table *t);

/* Path of the inode, or of `name` in it where name is not NULL, in the filer's namespace. Malloced.
 * -ESTALE for a detached inode: its name belongs to another file now. */
int inode_path(struct inode_table *t, struct inode *i, const char *name, char **ret);

/* How an entry was come by. */
struct asked {
	pid_t by; /* the thread that looked its name up; 0: none, a listing gave it */
	int64_t mark; /* watch_mark() from before the request; 0: none */
	const char *after; /* the name before it in the listing that gave it; NULL: none */
};

/* Binds an entry (taken over, also on failure) to a name: finds, updates, replaces or makes the
 * inode by the rules above, and adds one kernel look-up to it. */
int inode_bind(struct inode_table *t, struct inode *parent, const char *name, struct entry *e,
	       struct asked asked, struct inode **ret);

/* The inode that the name is bound to, with one more kernel look-up; NULL where there is none. */
struct inode *inode_find(struct inode_table *t, struct inode *parent, const char *name);

/* Takes the kernel's look-ups back; frees the inode when nothing refers to it any more. */
void inode_forget(struct inode_table *t, struct inode *i, uint64_t n);

/* A fresh entry (taken over) for an inode that is not looked up by name; mark as above. Returns true when the inode
 * took it; false when it keeps what it has, because it is open in another version or is now of
 * another type. */
bool inode_refresh(struct inode_table *t, struct inode *i, struct entry *e, int64_t mark);

/* st_ino of a name: the filer's number, or one made from the directory's and the name where the filer
 * has none, or where there is no entry. */
uint64_t inode_number(uint64_t parent_number, const char *name, const struct entry *e);

/* The same for an inode; the root's is 1. */
uint64_t inode_shown_number(struct inode_table *t, struct inode *i);

void inode_view(struct inode_table *t, struct inode *i, struct inode_view *ret);

/* An open file on the inode with the version of e. -ESTALE when the inode holds another version by
 * now. *ret_keep_cache: the page cache holds pages of that very version. */
int inode_open(struct inode_table *t, struct inode *i, const struct entry *e, bool *ret_keep_cache);

/* To be called when a file is opened. Where that goes on a walk over its directory, file by file in the order
 * in which they were listed: entries (with a reference each) of files further on that are worth fetching now,
 * up to max. More, the longer the walk is, and not again while those are still ahead. */
size_t inode_walk(struct inode_table *t, struct inode *i, bool (*wanted)(const struct entry *e),
		  struct entry **ret, size_t max);

/* The kernel has acted on the reply to open: the page cache holds this version from now on. */
void inode_open_confirmed(struct inode_table *t, struct inode *i);
void inode_close(struct inode_table *t, struct inode *i);

struct inode_stats {
	size_t inodes;
	size_t entry_bytes;
};
void inode_table_stats(struct inode_table *t, struct inode_stats *ret);

#endif
