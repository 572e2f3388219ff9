#include "fs/mount.h"

#include <errno.h>
#include <fcntl.h>
#include <fuse_lowlevel.h>
#include <inttypes.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "cache/blockcache.h"
#include "cache/scratch.h"
#include "cache/slab.h"
#include "cache/ssd.h"
#include "filer/entry.h"
#include "filer/watch.h"
#include "fs/ahead.h"
#include "fs/cachedir.h"
#include "fs/control.h"
#include "fs/dir.h"
#include "fs/fetch.h"
#include "fs/handle.h"
#include "fs/inode.h"
#include "fs/log.h"
#include "fs/mount_status.h"
#include "fs/mountpoint.h"
#include "fs/ops.h"
#include "fs/options.h"
#include "fs/reader.h"
#include "rdma/verbs.h"

#define DIR_THREADS 2
#define AHEAD_THREADS 2

/* Without an explicit readahead_kb. Measured on loopback: 128 (the kernel's default) 2.8 to 3.2 GiB/s
 * from memory, 512 and 1024 3.0 to 3.7. */
#define READAHEAD_KB_DEFAULT 1024

/* What libfuse's pipe has to hold beside the data it splices: a page for the header and for each slice. */
#define PIPE_SPARE_BYTES (64 * KIB)
#define MAX_READ_BYTES_MIN (4 * KIB)

struct deadline mount_deadline(const struct mount *m)
{
	return deadline_in_ms(m->options->timeout_ms);
}

bool mount_hides(const struct mount *m, struct inode *parent, const char *name)
{
	if (m->options->system_entries || parent != inode_root(m->inodes) ||
	    strcmp(m->options->path, "/") != 0)
		return false;
	return strcmp(name, "topics") == 0 || strcmp(name, "etc") == 0;
}

static void tune_readahead(struct mount *m, const char *mountpoint)
{
	const struct options *o = m->options;
	unsigned want = o->readahead_kb == UINT_MAX ? READAHEAD_KB_DEFAULT : o->readahead_kb;
	unsigned effective = 0;
	struct slab_stats slab;
	int err = mountpoint_set_readahead(mountpoint, want, &effective);
	atomic_store(&m->readahead_kb, effective);

	if (err || effective != want)
		log_info("the kernel's readahead stays at %u KiB (%u asked for; that needs root): "
			 "sequential reads arrive in small requests",
			 effective, want);
	slab_stats(m->slab, &slab);
	log_info("in effect: readahead_kb %u, max_read %" PRIu64
		 ", max_background %u, threads %u, slab %zu MiB in pages of %zu KiB",
		 effective, m->max_read_bytes, o->max_background, o->threads,
		 slab.total_bytes / MIB, slab.huge_page_bytes / KIB);
}

/* What does not fit into libfuse's pipe is not spliced, but copied twice. How large a pipe may become depends
 * on fs.pipe-max-size, unless the mount has CAP_SYS_RESOURCE, which root may lack in a container. */
static uint64_t splicable_bytes(uint64_t bytes)
{
	int ends[2];

	if (pipe2(ends, O_CLOEXEC) < 0)
		return bytes;
	while (bytes > MAX_READ_BYTES_MIN &&
	       fcntl(ends[0], F_SETPIPE_SZ, (int)(bytes + PIPE_SPARE_BYTES)) < 0)
		bytes /= 2;
	close(ends[0]);
	close(ends[1]);
	return bytes;
}

/* --- making and taking down ------------------------------------------------------------------- */

static int look_up_root(struct mount *m, char *message, size_t bytes)
{
	const struct options *o = m->options;
	struct entry *root;
	int err = filer_lookup(m->cluster.filer, o->path, mount_deadline(m), &root);

	switch (err) {
	case 0:
		break;
	case -ENOENT:
		snprintf(message, bytes, "%s: no such directory on the filer", o->path);
		return err;
	case -EACCES:
		snprintf(message, bytes,
			 "%s: the filer does not allow it (a read key is given with -o security=)",
			 o->source);
		return err;
	case -EKEYREJECTED:
		snprintf(message, bytes,
			 "%s: a certificate was refused, the filer's or ours (tls_ca, tls_cert, "
			 "tls_key, or [https.client] of security=)",
			 o->source);
		return err;
	case -EPROTO:
		snprintf(message, bytes, "%s: that is not a SeaweedFS filer", o->source);
		return err;
	default:
		snprintf(message, bytes, "%s: the filer cannot be reached: %s", o->source,
			 strerror(-err));
		return err;
	}
	if (!S_ISDIR(root->mode)) {
		snprintf(message, bytes, "%s: not a directory on the filer", o->path);
		entry_put(root);
		return -ENOTDIR;
	}
	err = inode_table_new(o->path, root, &m->inodes);
	if (err)
		entry_put(root);
	return err;
}

static int open_reader(struct mount *m, char *message, size_t message_bytes)
{
	const struct options *o = m->options;
	void *base;
	size_t bytes;
	/* the kernel cannot splice from pages that were set aside */
	bool ordinary = o->splice == TRI_ON || o->huge_pages == HUGE_PAGES_OFF;
	int err = (ordinary ? slab_new_ordinary : slab_new)(o->slab_bytes, &m->slab);

	if (err)
		return err;
	slab_region(m->slab, &base, &bytes);
	err = verbs_region_add(SLAB_REGION, base, bytes);
	if (err)
		return err;
	err = slab_populate_start(m->slab);
	if (err)
		return err;
	err = blockcache_new(m->slab, &m->cache);
	if (err)
		return err;
	err = scratch_new(m->slab, m->cache, &m->scratch);
	if (err)
		return err;
	fetcher_set_scratch(m->cluster.fetcher, m->scratch);
	err = cachedir_open(o, &m->cluster, m->slab, m->cache, &m->ssd, message, message_bytes);
	if (err)
		return err;
	fetcher_set_ssd(m->cluster.fetcher, m->ssd);
	struct reader_config cfg = {
		.cache = m->cache,
		.slab = m->slab,
		.fetcher = m->cluster.fetcher,
		.prefetch_threads = o->prefetch_threads,
		.readahead_max_bytes = o->readahead_bytes,
		.timeout_ms = o->timeout_ms,
	};
	err = reader_new(&cfg, &m->reader);
	if (err || o->readahead_bytes == 0)
		return err;
	struct ahead_config ahead = {
		.cache = m->cache,
		.fetcher = m->cluster.fetcher,
		.threads = AHEAD_THREADS,
		.timeout_ms = o->timeout_ms,
	};
	return ahead_new(&ahead, &m->ahead);
}

/* Where the bytes came from, in one line. */
static void log_sources(struct fetcher *fetcher)
{
	struct fetch_stats stats;
	char line[320] = "";
	size_t n = 0;

	fetcher_stats(fetcher, &stats);
	for (size_t i = 0; i < stats.n_sources && n < sizeof(line); i++)
		n += (size_t)snprintf(line + n, sizeof(line) - n,
				      "%s%s %" PRIu64 " (%" PRIu64 " bytes)", i ? ", " : "",
				      stats.source[i].name, stats.source[i].reads,
				      stats.source[i].bytes);
	log_info("reads by source: %s; failed %" PRIu64, line, stats.failed);
}

static int open_watch(struct mount *m)
{
	const struct options *o = m->options;

	if (o->consistency == CONSISTENCY_OPEN)
		return 0;
	return watch_new(m->cluster.filer, o->path, &m->watch);
}

static void log_watch(struct watch *watch)
{
	struct watch_stats stats;

	watch_stats(watch, &stats);
	log_info("change events: %" PRIu64 " messages on %" PRIu64 " connections", stats.messages,
		 stats.connections);
}

/* Takes down whatever open_mount() made. */
static void close_mount(struct mount *m)
{
	mount_status_stop(m->status);
	handle_close_all(m);
	control_close_all(m);
	if (m->cluster.fetcher)
		log_sources(m->cluster.fetcher);
	if (m->watch)
		log_watch(m->watch);
	dir_prefetcher_free(m->dirs);
	watch_free(m->watch);
	ahead_free(m->ahead);
	reader_free(m->reader);
	ssd_free(m->ssd);
	scratch_free(m->scratch);
	blockcache_free(m->cache);
	slab_free(m->slab);
	inode_table_free(m->inodes);
	cluster_close(&m->cluster);
	pthread_mutex_destroy(&m->statfs_lock);
	pthread_mutex_destroy(&m->handles_lock);
}

static int open_mount(struct mount *m, char *message, size_t bytes)
{
	const struct options *o = m->options;
	int err = -pthread_mutex_init(&m->handles_lock, NULL);

	if (err)
		return err;
	err = -pthread_mutex_init(&m->statfs_lock, NULL);
	if (err) {
		pthread_mutex_destroy(&m->handles_lock);
		return err;
	}
	err = cluster_open(o, &m->cluster, message, bytes);
	if (!err)
		err = look_up_root(m, message, bytes);
	if (!err)
		err = open_reader(m, message, bytes);
	if (!err)
		err = open_watch(m);
	if (!err)
		err = dir_prefetcher_new(m->cluster.filer, m->watch, DIR_THREADS, o->list_page,
					 o->timeout_ms, &m->dirs);
	if (!err)
		err = cluster_search_masters(o, &m->cluster);
	if (!err && o->status.port)
		err = mount_status_start(m, &m->status, message, bytes);
	if (err) {
		close_mount(m);
		return err;
	}
	return 0;
}

static int add_fuse_arg(struct fuse_args *args, const char *format, ...)
	__attribute__((format(printf, 2, 3)));
static int add_fuse_arg(struct fuse_args *args, const char *format, ...)
{
	char *text;
	va_list ap;

	va_start(ap, format);
	int n = vasprintf(&text, format, ap);
	va_end(ap);
	if (n < 0)
		return -ENOMEM;
	int err = fuse_opt_add_arg(args, text) ? -ENOMEM : 0;
	free(text);
	return err;
}

/* A comma or a backslash in the name shown would end it. */
static void escape_commas(const char *s, char *out, size_t bytes)
{
	size_t n = 0;

	for (; *s && n + 2 < bytes; s++) {
		if (*s == ',' || *s == '\\')
			out[n++] = '\\';
		out[n++] = *s;
	}
	out[n] = '\0';
}

static int fuse_arguments(const struct mount *m, struct fuse_args *args)
{
	const struct options *o = m->options;
	char source[OPTION_VALUE_MAX_BYTES];
	int err = add_fuse_arg(args, "kelpfs");

	escape_commas(o->source, source, sizeof(source));
	if (!err)
		err = add_fuse_arg(args, "-oro,default_permissions,subtype=kelpfs,fsname=%s",
				   source);
	if (!err)
		err = add_fuse_arg(args, "-omax_read=%" PRIu64, m->max_read_bytes);
	if (!err && o->fuse_options)
		err = add_fuse_arg(args, "-o%s", o->fuse_options);
	if (!err && o->debug)
		err = add_fuse_arg(args, "-d");
	return err;
}

/* Once the kernel has opened the session. */
struct ready {
	struct mount *mount;
	const char *mountpoint;
	void (*then)(void *arg);
	void *arg;
};

static void session_ready(void *arg)
{
	struct ready *r = arg;

	tune_readahead(r->mount, r->mountpoint);
	r->then(r->arg);
}

static int run_loop(struct mount *m)
{
	struct fuse_loop_config *cfg = fuse_loop_cfg_create();

	if (!cfg)
		return -ENOMEM;
	fuse_loop_cfg_set_max_threads(cfg, m->options->threads);
	fuse_loop_cfg_set_idle_threads(cfg, m->options->threads);
	fuse_loop_cfg_set_clone_fd(cfg, m->options->clone_fd);
	int res = fuse_session_loop_mt(m->session, cfg);
	fuse_loop_cfg_destroy(cfg);
	/* Positive: the number of the signal that asked for the end. */
	return res < 0 ? res : 0;
}

static int serve(struct mount *m, const char *mountpoint, char *message, size_t bytes)
{
	struct fuse_args args = FUSE_ARGS_INIT(0, NULL);
	struct fuse_lowlevel_ops operations = kelpfs_operations;
	int err = fuse_arguments(m, &args);

	if (err)
		goto free_args;
	err = -EINVAL;
	if (m->options->control)
		control_add(&operations);
	m->session = fuse_session_new(&args, &operations, sizeof(operations), m);
	if (!m->session) {
		snprintf(message, bytes, "the mount options were not accepted");
		goto free_args;
	}
	if (fuse_set_signal_handlers(m->session)) {
		snprintf(message, bytes, "signal handlers could not be set");
		goto destroy_session;
	}
	if (fuse_session_mount(m->session, mountpoint)) {
		err = -EIO;
		snprintf(message, bytes,
			 "%s: could not be mounted (is /dev/fuse there, and "
			 "fusermount3 installed?)",
			 mountpoint);
		goto remove_handlers;
	}
	err = run_loop(m);
	fuse_session_unmount(m->session);

remove_handlers:
	fuse_remove_signal_handlers(m->session);
destroy_session:
	fuse_session_destroy(m->session);
free_args:
	fuse_opt_free_args(&args);
	return err;
}

/* Signals are for the main thread, which ends the session. */
static void block_signals(sigset_t *old)
{
	sigset_t all;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, old);
}

int mount_run(const struct options *o, void (*on_ready)(void *arg), void *arg, char *message,
	      size_t bytes)
{
	char mountpoint[PATH_MAX];
	struct mount m = {
		.options = o,
		.start_s = (int64_t)time(NULL),
		.splice = o->splice == TRI_ON,
		.max_read_bytes = o->splice == TRI_ON ? splicable_bytes(o->max_read_bytes)
						      : o->max_read_bytes,
		.on_ready = session_ready,
	};
	struct ready ready = {
		.mount = &m, .mountpoint = mountpoint, .then = on_ready, .arg = arg
	};
	sigset_t old;

	m.on_ready_arg = &ready;
	message[0] = '\0';
	int err = mountpoint_prepare(o->mountpoint, o->nonempty, mountpoint, message, bytes);
	if (err)
		return err;
	block_signals(&old);
	err = open_mount(&m, message, bytes);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (!err) {
		err = serve(&m, mountpoint, message, bytes);
		close_mount(&m);
	}
	if (err && !message[0])
		snprintf(message, bytes, "%s", strerror(-err));
	return err;
}
