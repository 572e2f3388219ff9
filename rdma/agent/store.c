/* Thread model: one thread of its own, the follower, sleeps until inotify or the clock says that a
 * directory may have changed, looks through all of them, and loads, replaces and drops volumes; only
 * it changes the table. Any other thread finds its volume in the table under store.lock, takes a
 * reference, and goes on under that volume's lock. Lock order: the two are never held together.
 *
 * The follower does not have to be quick for readers to be right: an index is brought up to date by
 * whoever looks something up, and a volume whose files are no longer those of its names answers
 * nothing more, so that readers are sent to the volume server until the follower has caught up. */
#include "rdma/agent/store.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <unistd.h>

#include "filer/base/base.h"
#include "rdma/agent/store_scan.h"
#include "rdma/agent/volume.h"

/* Between two looks, however much happens. */
#define SCAN_GAP_MS 10
#define WATCHED                                                                                    \
	(IN_CREATE | IN_DELETE | IN_MOVED_FROM | IN_MOVED_TO | IN_CLOSE_WRITE | IN_DELETE_SELF |   \
	 IN_MOVE_SELF | IN_ONLYDIR)
#define EVENTS_BYTES 4096

struct entry {
	uint32_t id;
	struct volume *volume; /* with a reference; NULL: not to be served */
};

/* Sorted by id. */
struct table {
	size_t n;
	struct entry *entries;
};

struct store {
	/* fixed */
	char *dirs[STORE_DIRS_MAX];
	size_t n_dirs;
	char *idx_dir; /* or NULL */
	int inotify_fd; /* -1: the kernel gives none, and the clock has to do */
	int stop_fd;
	pthread_t follower;

	pthread_mutex_t lock;
	/* under lock; changed by the follower only, which therefore reads it without */
	struct table table;
	uint64_t reloads; /* counted with the change: who sees one finds what was loaded */

	atomic_uint_fast64_t lookups, misses;
};

/* --- the table --- */

static struct entry *table_find(const struct table *t, uint32_t id)
{
	size_t low = 0, high = t->n;

	while (low < high) {
		size_t middle = low + (high - low) / 2;

		if (t->entries[middle].id < id)
			low = middle + 1;
		else
			high = middle;
	}
	return low < t->n && t->entries[low].id == id ? &t->entries[low] : NULL;
}

static struct volume *find_volume(struct store *s, uint32_t id)
{
	LOCK_SCOPE(&s->lock);
	const struct entry *e = table_find(&s->table, id);

	return e && e->volume ? volume_ref(e->volume) : NULL;
}

/* v may be NULL. Takes over its reference. */
static void set_volume(struct store *s, struct entry *e, struct volume *v)
{
	pthread_mutex_lock(&s->lock);
	struct volume *old = e->volume;
	e->volume = v;
	s->reloads += old && v;
	pthread_mutex_unlock(&s->lock);
	if (!old)
		return;
	volume_retire(old);
	volume_unref(old);
}

static int make_table(const struct scan *scan, const struct table *old, struct table *ret)
{
	struct scanned_volume v;
	size_t at = 0, n = 0;

	while (n < STORE_VOLUMES_MAX && scan_next(scan, &at, &v))
		n++;
	struct entry *entries = calloc(n ? n : 1, sizeof(*entries));
	if (!entries)
		return -ENOMEM;
	at = 0;
	for (size_t i = 0; i < n && scan_next(scan, &at, &v); i++) {
		const struct entry *known = table_find(old, v.id);

		entries[i] = (struct entry){ .id = v.id, .volume = known ? known->volume : NULL };
	}
	*ret = (struct table){ .n = n, .entries = entries };
	return 0;
}

/* Volumes that are not in the new table are gone. */
static void replace_table(struct store *s, const struct table *new)
{
	struct table old = s->table;

	pthread_mutex_lock(&s->lock);
	s->table = *new;
	pthread_mutex_unlock(&s->lock);
	for (size_t i = 0; i < old.n; i++) {
		struct volume *v = old.entries[i].volume;

		if (!v || table_find(new, old.entries[i].id))
			continue;
		volume_retire(v);
		volume_unref(v);
	}
	free(old.entries);
}

/* --- following --- */

/* What cannot be loaded now is tried again with the next look. */
static void update(struct store *s, struct entry *e, const struct scanned_volume *found)
{
	const struct volume_names names = { .dir = found->dir,
					    .idx_dir = found->idx_dir,
					    .stem = found->stem };
	struct volume *fresh;

	if (!found->servable) {
		set_volume(s, e, NULL);
		return;
	}
	if (e->volume && volume_check(e->volume, &names) != -ESTALE)
		return;
	if (volume_load(&names, &fresh) != 0)
		return;
	set_volume(s, e, fresh);
}

static bool should_stop(struct store *s, int wait_ms)
{
	struct pollfd p = { .fd = s->stop_fd, .events = POLLIN };

	return poll(&p, 1, wait_ms) > 0;
}

static int look(struct store *s)
{
	struct scanned_volume found;
	struct table table;
	struct scan scan;
	size_t at = 0;

	int err = scan_dirs(&scan, (const char *const *)s->dirs, s->n_dirs, s->idx_dir);
	if (err)
		return err;
	err = make_table(&scan, &s->table, &table);
	if (err)
		goto free_scan;
	replace_table(s, &table);
	for (size_t i = 0; i < table.n && scan_next(&scan, &at, &found); i++) {
		update(s, &s->table.entries[i], &found);
		if (should_stop(s, 0))
			break;
	}
free_scan:
	scan_free(&scan);
	return err;
}

/* Again and again, for a directory may come, or come back: what is watched already stays so. */
static void watch(struct store *s)
{
	if (s->inotify_fd < 0)
		return;
	for (size_t i = 0; i < s->n_dirs; i++)
		inotify_add_watch(s->inotify_fd, s->dirs[i], WATCHED);
	if (s->idx_dir)
		inotify_add_watch(s->inotify_fd, s->idx_dir, WATCHED);
}

/* That there are any is all that counts. */
static void drain_events(struct store *s)
{
	char buf[EVENTS_BYTES] __attribute__((aligned(__alignof__(struct inotify_event))));

	while (s->inotify_fd >= 0 && read(s->inotify_fd, buf, sizeof(buf)) > 0)
		;
}

static void *follow(void *arg)
{
	struct store *s = arg;

	while (!should_stop(s, SCAN_GAP_MS)) {
		struct pollfd fds[] = {
			{ .fd = s->stop_fd, .events = POLLIN },
			{ .fd = s->inotify_fd, .events = POLLIN },
		};

		poll(fds, ARRAY_LEN(fds), STORE_POLL_MS);
		drain_events(s);
		watch(s);
		/* Without a clear view nothing changes. */
		(void)look(s);
	}
	return NULL;
}

static int start_follower(struct store *s)
{
	sigset_t all, before;

	/* signals are for the program's main thread */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	int err = -pthread_create(&s->follower, NULL, follow, s);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return err;
}

/* --- the store --- */

static int copy_config(struct store *s, const struct store_config *cfg)
{
	if (cfg->n_dirs == 0 || cfg->n_dirs > STORE_DIRS_MAX)
		return -EINVAL;
	for (size_t i = 0; i < cfg->n_dirs; i++) {
		s->dirs[i] = strdup(cfg->dirs[i]);
		if (!s->dirs[i])
			return -ENOMEM;
		s->n_dirs++;
	}
	if (cfg->idx_dir)
		s->idx_dir = strdup(cfg->idx_dir);
	return cfg->idx_dir && !s->idx_dir ? -ENOMEM : 0;
}

static void destroy(struct store *s)
{
	const struct table none = { 0 };

	replace_table(s, &none);
	if (s->inotify_fd >= 0)
		close(s->inotify_fd);
	if (s->stop_fd >= 0)
		close(s->stop_fd);
	pthread_mutex_destroy(&s->lock);
	for (size_t i = 0; i < s->n_dirs; i++)
		free(s->dirs[i]);
	free(s->idx_dir);
	free(s);
}

int store_open(const struct store_config *cfg, struct store **ret)
{
	struct store *s = calloc(1, sizeof(*s));

	if (!s)
		return -ENOMEM;
	s->stop_fd = s->inotify_fd = -1;
	int err = -pthread_mutex_init(&s->lock, NULL);
	if (err) {
		free(s);
		return err;
	}
	err = copy_config(s, cfg);
	if (err)
		goto destroy_store;
	s->stop_fd = eventfd(0, EFD_CLOEXEC);
	if (s->stop_fd < 0) {
		err = -errno;
		goto destroy_store;
	}
	s->inotify_fd = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
	watch(s); /* before the first look, so that nothing falls between the two */
	err = look(s);
	if (!err)
		err = start_follower(s);
	if (err)
		goto destroy_store;
	*ret = s;
	return 0;

destroy_store:
	destroy(s);
	return err;
}

void store_close(struct store *s)
{
	if (!s)
		return;
	eventfd_write(s->stop_fd, 1);
	pthread_join(s->follower, NULL);
	destroy(s);
}

int store_find(struct store *s, const struct fid *fid, bool read_deleted, struct needle_place *ret)
{
	struct volume *v = find_volume(s, fid->volume_id);
	int err = v ? volume_find(v, fid->key, read_deleted, ret) : -EOPNOTSUPP;

	volume_unref(v);
	atomic_fetch_add_explicit(&s->lookups, 1, memory_order_relaxed);
	if (err)
		atomic_fetch_add_explicit(&s->misses, 1, memory_order_relaxed);
	/* Whatever stands in the way here does not stand in the server's. */
	return err && err != -ENOENT ? -EOPNOTSUPP : err;
}

void store_unpin(struct needle_place *p)
{
	volume_unref(p->volume);
	p->volume = NULL;
}

void store_note_facts(const struct needle_place *p, uint64_t key)
{
	volume_note_facts(p->volume, key, p->record_offset, &p->facts);
}

void store_stats(struct store *s, struct store_stats *ret)
{
	*ret = (struct store_stats){
		.lookups = atomic_load_explicit(&s->lookups, memory_order_relaxed),
		.misses = atomic_load_explicit(&s->misses, memory_order_relaxed),
	};
	LOCK_SCOPE(&s->lock);
	ret->reloads = s->reloads;
	for (size_t i = 0; i < s->table.n; i++) {
		size_t needles, bytes;

		if (!s->table.entries[i].volume) {
			ret->refused++;
			continue;
		}
		volume_count(s->table.entries[i].volume, &needles, &bytes);
		ret->volumes++;
		ret->needles += needles;
		ret->index_bytes += bytes;
	}
}

bool store_has_volume(struct store *s, uint32_t volume_id)
{
	LOCK_SCOPE(&s->lock);
	const struct entry *e = table_find(&s->table, volume_id);

	return e && e->volume;
}
