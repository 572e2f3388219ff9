/* One mount: everything that the FUSE operations work with, made and taken down in order. */
#ifndef KELP_MOUNT_H
#define KELP_MOUNT_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "filer/base/base.h"
#include "filer/filer.h"
#include "fs/cluster.h"
#include "fs/latency.h"

struct ahead;
struct blockcache;
struct dir_prefetcher;
struct entry;
struct fuse_session;
struct handle;
struct inode;
struct inode_table;
struct mount_status;
struct options;
struct reader;
struct scratch;
struct slab;
struct ssd;
struct watch;

/* What the kernel's reads came to. Added to by any thread, without order. */
struct mount_counters {
	atomic_uint_fast64_t reads, read_bytes, read_errors;
	struct latency read_latency;
	struct latency cached_latency; /* of those that the block cache alone answered */
};

struct mount {
	/* Immutable once the session runs. */
	const struct options *options;
	struct cluster cluster;
	struct slab *slab;
	struct blockcache *cache;
	struct scratch *scratch;
	struct ssd *ssd; /* NULL: none */
	struct reader *reader;
	struct ahead *ahead; /* NULL: readahead is off */
	struct inode_table *inodes;
	struct dir_prefetcher *dirs;
	struct watch *watch; /* NULL: every open asks */
	struct fuse_session *session;
	struct mount_status *status; /* NULL: not wanted */
	bool splice;
	uint64_t max_read_bytes; /* in effect: the option's, or less for splice */
	int64_t start_s; /* CLOCK_REALTIME */

	struct mount_counters counters;
	atomic_bool has_own_control; /* the namespace has an entry of the name of fs/control.h */
	atomic_uint readahead_kb; /* the kernel's, in effect; 0: not known yet */

	/* Called once, when the kernel has opened the session and the mount can be used. */
	void (*on_ready)(void *arg);
	void *on_ready_arg;

	pthread_mutex_t handles_lock; /* protects the three below; nothing is taken under it */
	struct handle *handles; /* utlist of all open ones */
	size_t n_handles;
	struct text *texts; /* utlist of the open ones of fs/control.h */

	pthread_mutex_t statfs_lock; /* protects the two below; nothing is taken under it */
	struct filer_capacity capacity;
	int64_t capacity_at_ms; /* 0: never asked */
};

/* Looks up the mounted path, mounts and serves until unmounted or told to end. message says what went
 * wrong, for one line to the user. Returns 0 after a clean end, or -errno. */
int mount_run(const struct options *o, void (*on_ready)(void *arg), void *arg, char *message,
	      size_t message_bytes);

/* The time limit of one request. */
struct deadline mount_deadline(const struct mount *m);

/* SeaweedFS's own directories, which weed mount does not show either. */
bool mount_hides(const struct mount *m, struct inode *parent, const char *name);

#endif
