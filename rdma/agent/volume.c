/* Thread model: any thread. volume.lock guards the index and how far the .idx file has been read;
 * whoever looks up first reads what was appended, so that an append is visible once it has been
 * acknowledged. Everything else is fixed once volume_load() has returned.
 *
 * A vacuum renames the new .dat first and the new .idx after it, so that for a moment the names are
 * those of two generations. A pair is accepted when no commit was under way (.cpc) and both names
 * still meant the opened files after everything had been read. Open files keep their inodes from
 * being used again, so equal inodes are equal files. */
#include "rdma/agent/volume.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "filer/base/base.h"
#include "rdma/agent/store_index.h"
#include "rdma/agent/volume_file.h"
#include "rdma/agent/volume_format.h"

/* Of the index, read at once: whole entries of either width. */
#define STEP_BYTES ((size_t)IDX_ENTRY_BYTES_4 * IDX_ENTRY_BYTES_5 * 64)
/* What the entries of the index of facts have for a size. */
#define FACT_CHECK 3u /* enum needle_check */
#define FACT_GZIP 4u
#define FACT_PLAIN_TAIL 8u
/* So many entries are compared with their records. */
#define SAMPLE_ENTRIES 64

struct file_id {
	dev_t dev;
	ino_t ino;
};

/* What a file looked like. */
struct stamp {
	bool exists;
	struct file_id id;
	off_t bytes;
	struct timespec changed;
};

struct volume {
	atomic_uint refs;
	/* fixed */
	int dat_fd, idx_fd;
	struct file_id dat_id, idx_id;
	struct superblock super;
	/* only for volume_check(), which one thread calls */
	struct stamp vif;

	pthread_mutex_t lock;
	/* under lock */
	bool retired; /* for good: nothing is found here any more */
	unsigned entry_bytes; /* 0: not known before there are entries */
	struct index index;
	struct index facts; /* where these needles were; in the place of the size: FACT_ */
	uint64_t idx_bytes; /* of .idx, so many have been read: whole entries */
	uint8_t last_entry[IDX_ENTRY_BYTES_5]; /* of these */
	uint64_t dat_bytes; /* .dat was at least so long */
	/* written under lock, read by volume_count() without */
	atomic_size_t n_needles, n_bytes;
};

/* --- files by name --- */

static int path_of(const char *dir, const char *stem, const char *extension, char path[PATH_MAX])
{
	int n = snprintf(path, PATH_MAX, "%s/%s.%s", dir, stem, extension);

	return n < 0 || n >= PATH_MAX ? -ENAMETOOLONG : 0;
}

static struct file_id file_id_of(const struct stat *st)
{
	return (struct file_id){ .dev = st->st_dev, .ino = st->st_ino };
}

static bool same_file(const struct file_id *a, const struct file_id *b)
{
	return a->dev == b->dev && a->ino == b->ino;
}

static int stat_name(const char *dir, const char *stem, const char *extension, struct stat *ret)
{
	char path[PATH_MAX];
	int err = path_of(dir, stem, extension, path);

	if (err)
		return err;
	return stat(path, ret) == 0 ? 0 : -errno;
}

/* 0 when that is what the name means. */
static int check_name(const char *dir, const char *stem, const char *extension,
		      const struct file_id *id)
{
	struct stat st;
	int err = stat_name(dir, stem, extension, &st);

	if (err == -ENOENT)
		return -ESTALE;
	if (err)
		return err;
	struct file_id now = file_id_of(&st);
	return same_file(&now, id) ? 0 : -ESTALE;
}

static int open_file(const char *dir, const char *stem, const char *extension, struct file_id *ret,
		     int *ret_fd)
{
	char path[PATH_MAX];
	struct stat st;
	int err = path_of(dir, stem, extension, path);

	if (err)
		return err;
	/* What is no file is not opened at all: that could wait for ever. */
	if (stat(path, &st) != 0)
		return -errno;
	if (!S_ISREG(st.st_mode))
		return -EIO;
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	if (fstat(fd, &st) != 0) {
		err = -errno;
		close(fd);
		return err;
	}
	*ret = file_id_of(&st);
	*ret_fd = fd;
	return 0;
}

/* --- .vif --- */

static int vif_stamp(const struct volume_names *names, struct stamp *ret)
{
	struct stat st;
	int err = stat_name(names->dir, names->stem, "vif", &st);

	if (err && err != -ENOENT)
		return err;
	memset(ret, 0, sizeof(*ret));
	if (!err)
		*ret = (struct stamp){ .exists = true,
				       .id = file_id_of(&st),
				       .bytes = st.st_size,
				       .changed = st.st_mtim };
	return 0;
}

static bool same_stamp(const struct stamp *a, const struct stamp *b)
{
	return a->exists == b->exists && same_file(&a->id, &b->id) && a->bytes == b->bytes &&
	       a->changed.tv_sec == b->changed.tv_sec && a->changed.tv_nsec == b->changed.tv_nsec;
}

static int vif_read(const struct volume_names *names, struct vif *ret)
{
	struct file_id id;
	struct stat st;
	int fd = -1;

	int err = open_file(names->dir, names->stem, "vif", &id, &fd);
	if (err)
		return err;
	err = fstat(fd, &st) == 0 ? 0 : -errno;
	if (!err && (st.st_size == 0 || (uint64_t)st.st_size > VIF_BYTES_MAX))
		err = -EIO;
	CLEANUP_FREE char *text = err ? NULL : malloc((size_t)st.st_size);
	if (!err && !text)
		err = -ENOMEM;
	if (!err)
		err = pread_exact(fd, text, (size_t)st.st_size, 0);
	close(fd);
	return err ? err : vif_parse(text, (size_t)st.st_size, ret);
}

/* Whose bytes they are, and how wide the entries. Old servers wrote no .vif. */
static int load_vif(struct volume *v, const struct volume_names *names)
{
	struct vif vif = { 0 };
	int err = vif_stamp(names, &v->vif);

	if (!err && v->vif.exists)
		err = vif_read(names, &vif);
	if (err)
		return err;
	if (vif.tiered)
		return -EOPNOTSUPP;
	v->entry_bytes = vif.entry_bytes;
	return 0;
}

/* Servers write it again for reasons that are nothing to us. */
static int check_vif(struct volume *v, const struct volume_names *names)
{
	struct stamp now;
	struct vif vif = { 0 };
	int err = vif_stamp(names, &now);

	if (err || same_stamp(&now, &v->vif))
		return err;
	if (now.exists)
		err = vif_read(names, &vif);
	if (err)
		return err;
	if (vif.tiered)
		return -ESTALE;
	v->vif = now;
	return 0;
}

/* --- do index and records fit each other? --- */

static bool record_is_inside(const struct volume *v, const struct idx_entry *e)
{
	return e->offset >= v->super.bytes && e->offset <= v->dat_bytes &&
	       record_bytes(v->super.version, e->size) <= v->dat_bytes - e->offset;
}

static bool record_fits(const struct volume *v, const struct idx_entry *e)
{
	uint8_t header[STORE_HEADER_BYTES];

	return pread_exact(v->dat_fd, header, sizeof(header), e->offset) == 0 &&
	       be64_at(header + 4) == e->key && be32_at(header + 12) == e->size;
}

/* How many of the first entries are true, if they are so wide. Records stay where they are as long as
 * the index does, and the first needles were written before any was deleted. */
static int count_fits(const struct volume *v, unsigned entry_bytes, uint64_t idx_bytes,
		      unsigned *ret)
{
	uint8_t entries[SAMPLE_ENTRIES * IDX_ENTRY_BYTES_5];
	size_t n = min_u64(idx_bytes / entry_bytes, SAMPLE_ENTRIES);
	int err = pread_exact(v->idx_fd, entries, n * entry_bytes, 0);

	*ret = 0;
	for (size_t i = 0; !err && i < n; i++) {
		struct idx_entry e;

		idx_entry_decode(entries + i * entry_bytes, entry_bytes, &e);
		*ret += !e.deleted && record_is_inside(v, &e) && record_fits(v, &e);
	}
	return err;
}

/* Nothing told the width of the entries: it is that with which they are true. */
static int guess_entry_bytes(const struct volume *v, uint64_t idx_bytes, unsigned *ret)
{
	unsigned four, five;

	int err = count_fits(v, IDX_ENTRY_BYTES_4, idx_bytes, &four);
	if (!err)
		err = count_fits(v, IDX_ENTRY_BYTES_5, idx_bytes, &five);
	if (err)
		return err;
	if (four == five)
		return -EIO;
	*ret = four > five ? IDX_ENTRY_BYTES_4 : IDX_ENTRY_BYTES_5;
	return 0;
}

/* With the newest record in its place, the index is of this .dat. */
static int check_newest(const struct volume *v)
{
	uint64_t end = v->idx_bytes;

	for (unsigned i = 0; i < SAMPLE_ENTRIES && end > 0; i++, end -= v->entry_bytes) {
		uint8_t bytes[IDX_ENTRY_BYTES_5];
		struct idx_entry e;
		int err = pread_exact(v->idx_fd, bytes, v->entry_bytes, end - v->entry_bytes);

		if (err)
			return err;
		idx_entry_decode(bytes, v->entry_bytes, &e);
		if (!e.deleted && record_is_inside(v, &e))
			return record_fits(v, &e) ? 0 : -EAGAIN;
	}
	return 0;
}

/* --- the index (all with the lock) --- */

static void publish_counts(struct volume *v)
{
	size_t bytes = index_bytes(&v->index) + index_bytes(&v->facts);

	atomic_store_explicit(&v->n_needles, v->index.live, memory_order_relaxed);
	atomic_store_explicit(&v->n_bytes, bytes, memory_order_relaxed);
}

static void retire(struct volume *v)
{
	v->retired = true;
	index_free(&v->index);
	index_free(&v->facts);
	publish_counts(v);
}

static int refresh_dat_bytes(struct volume *v)
{
	struct stat st;

	if (fstat(v->dat_fd, &st) != 0)
		return -errno;
	v->dat_bytes = (uint64_t)st.st_size;
	return 0;
}

/* A record that was taken back may make room for another of the same needle. */
static void forget_facts(struct volume *v, uint64_t key)
{
	struct index_entry e;

	if (v->facts.used > 0 && index_find(&v->facts, key, &e))
		(void)index_put(&v->facts, key, e.offset, 0);
}

/* What lies outside of .dat was taken back by the server, whose next entry will say so. */
static int apply(struct volume *v, const struct idx_entry *e)
{
	forget_facts(v, e->key);
	if (e->deleted)
		index_delete(&v->index, e->key);
	else if (record_is_inside(v, e))
		return index_put(&v->index, e->key, e->offset, e->size);
	return 0;
}

/* Reads up to idx_bytes, whole entries. The last one that is known comes first: another one there
 * means that the file was written anew, under its old inode. */
static int read_step(struct volume *v, uint64_t idx_bytes)
{
	uint8_t buf[IDX_ENTRY_BYTES_5 + STEP_BYTES];
	size_t known = v->idx_bytes ? v->entry_bytes : 0;
	size_t n = min_u64(idx_bytes - v->idx_bytes, STEP_BYTES);

	n -= n % v->entry_bytes;
	int err = pread_exact(v->idx_fd, buf, known + n, v->idx_bytes - known);
	if (err)
		return err == -EIO ? -ESTALE : err; /* shorter than a moment ago */
	if (known && memcmp(buf, v->last_entry, known) != 0)
		return -ESTALE;
	/* After the index: a record is written before its entry. */
	err = refresh_dat_bytes(v);
	size_t at = known;
	while (!err && at < known + n) {
		struct idx_entry e;

		idx_entry_decode(buf + at, v->entry_bytes, &e);
		err = apply(v, &e);
		if (!err)
			at += v->entry_bytes;
	}
	if (at > known)
		memcpy(v->last_entry, buf + at - v->entry_bytes, v->entry_bytes);
	v->idx_bytes += at - known;
	return err;
}

static int read_appended(struct volume *v, uint64_t idx_bytes)
{
	int err = 0;

	if (v->entry_bytes == 0) {
		err = refresh_dat_bytes(v);
		if (!err)
			err = guess_entry_bytes(v, idx_bytes, &v->entry_bytes);
		if (err)
			return err;
	}
	while (!err && idx_bytes - v->idx_bytes >= v->entry_bytes)
		err = read_step(v, idx_bytes);
	publish_counts(v);
	return err;
}

/* Brings the index up to date with its file. A file without a name has been replaced or deleted, and
 * what is appended now is appended elsewhere. */
static int catch_up(struct volume *v)
{
	struct stat st;

	if (v->retired)
		return -ESTALE;
	if (fstat(v->idx_fd, &st) != 0)
		return -errno;
	int err = 0;
	if (st.st_nlink == 0 || (uint64_t)st.st_size < v->idx_bytes)
		err = -ESTALE;
	else if ((uint64_t)st.st_size > v->idx_bytes)
		err = read_appended(v, (uint64_t)st.st_size);
	if (err == -ESTALE)
		retire(v);
	return err;
}

static struct needle_facts facts_of(const struct volume *v, uint64_t key, uint64_t record_offset)
{
	struct index_entry e;

	if (v->facts.used == 0 || !index_find(&v->facts, key, &e) || e.offset != record_offset)
		return (struct needle_facts){ 0 };
	return (struct needle_facts){
		.plain_tail = e.size & FACT_PLAIN_TAIL,
		.gzip = e.size & FACT_GZIP,
		.check = (enum needle_check)(e.size & FACT_CHECK),
	};
}

static int find(struct volume *v, uint64_t key, bool read_deleted, struct needle_place *ret)
{
	struct index_entry e;
	LOCK_SCOPE(&v->lock);

	int err = catch_up(v);
	if (err)
		return err;
	if (!index_find(&v->index, key, &e) || (e.deleted && !read_deleted))
		return -ENOENT;
	*ret = (struct needle_place){
		.fd = v->dat_fd,
		.record_offset = e.offset,
		.record_size = e.size,
		.version = v->super.version,
		.facts = facts_of(v, key, e.offset),
	};
	return 0;
}

/* --- the life of a generation --- */

static void destroy(struct volume *v)
{
	if (v->idx_fd >= 0)
		close(v->idx_fd);
	if (v->dat_fd >= 0)
		close(v->dat_fd);
	index_free(&v->index);
	index_free(&v->facts);
	pthread_mutex_destroy(&v->lock);
	free(v);
}

static int read_superblock(const struct volume *v, struct superblock *ret)
{
	uint8_t bytes[SUPERBLOCK_BYTES];
	int err = pread_exact(v->dat_fd, bytes, sizeof(bytes), 0);

	return err ? err : superblock_parse(bytes, ret);
}

/* Does the pair belong together, and to its names? */
static int check_pair(const struct volume *v, const struct volume_names *names)
{
	struct superblock super;
	int err = check_name(names->dir, names->stem, "dat", &v->dat_id);

	if (!err)
		err = check_name(names->idx_dir, names->stem, "idx", &v->idx_id);
	if (!err)
		err = read_superblock(v, &super);
	/* Files can also be written over, as rsync --inplace does. */
	if (!err && super.revision != v->super.revision)
		err = -ESTALE;
	return err;
}

static bool name_exists(const char *dir, const char *stem, const char *extension)
{
	struct stat st;

	return stat_name(dir, stem, extension, &st) != -ENOENT;
}

static bool commit_is_under_way(const struct volume_names *names)
{
	return name_exists(names->dir, names->stem, "cpc") ||
	       name_exists(names->idx_dir, names->stem, "cpc");
}

static int load(struct volume *v, const struct volume_names *names)
{
	if (commit_is_under_way(names))
		return -EAGAIN;
	int err = open_file(names->dir, names->stem, "dat", &v->dat_id, &v->dat_fd);
	if (!err)
		err = open_file(names->idx_dir, names->stem, "idx", &v->idx_id, &v->idx_fd);
	if (!err)
		err = read_superblock(v, &v->super);
	if (!err)
		err = load_vif(v, names);
	if (err)
		return err == -ENOENT ? -EAGAIN : err;
	LOCK_SCOPE(&v->lock);
	err = catch_up(v);
	if (!err)
		err = check_newest(v);
	if (!err)
		err = check_pair(v, names);
	if (!err && commit_is_under_way(names))
		err = -EAGAIN;
	return err == -ESTALE ? -EAGAIN : err;
}

int volume_load(const struct volume_names *names, struct volume **ret)
{
	struct volume *v = calloc(1, sizeof(*v));

	if (!v)
		return -ENOMEM;
	atomic_init(&v->refs, 1);
	v->dat_fd = v->idx_fd = -1;
	index_init(&v->index);
	index_init(&v->facts);
	int err = -pthread_mutex_init(&v->lock, NULL);
	if (err) {
		free(v);
		return err;
	}
	err = load(v, names);
	if (err) {
		destroy(v);
		return err;
	}
	*ret = v;
	return 0;
}

struct volume *volume_ref(struct volume *v)
{
	atomic_fetch_add_explicit(&v->refs, 1, memory_order_relaxed);
	return v;
}

void volume_unref(struct volume *v)
{
	if (v && atomic_fetch_sub_explicit(&v->refs, 1, memory_order_acq_rel) == 1)
		destroy(v);
}

static int catch_up_locked(struct volume *v)
{
	LOCK_SCOPE(&v->lock);

	return catch_up(v);
}

int volume_check(struct volume *v, const struct volume_names *names)
{
	int err = catch_up_locked(v);

	if (err)
		return err;
	err = check_pair(v, names);
	if (!err)
		err = check_vif(v, names);
	if (err != -ESTALE)
		return err;
	/* Between the two renames of a vacuum the old pair is as good as ever. */
	if (commit_is_under_way(names))
		return -EAGAIN;
	volume_retire(v);
	return -ESTALE;
}

void volume_retire(struct volume *v)
{
	LOCK_SCOPE(&v->lock);

	retire(v);
}

int volume_find(struct volume *v, uint64_t key, bool read_deleted, struct needle_place *ret)
{
	int err = find(v, key, read_deleted, ret);

	if (!err)
		ret->volume = volume_ref(v);
	return err;
}

void volume_note_facts(struct volume *v, uint64_t key, uint64_t record_offset,
		       const struct needle_facts *facts)
{
	uint32_t bits = (facts->plain_tail ? FACT_PLAIN_TAIL : 0u) |
			(facts->gzip ? FACT_GZIP : 0u) | (uint32_t)facts->check;
	struct index_entry e;
	LOCK_SCOPE(&v->lock);

	/* It may have become another's since it was found. */
	if (v->retired || !index_find(&v->index, key, &e) || e.offset != record_offset)
		return;
	/* Who did not compare it must not take away what another has found meanwhile. */
	if (facts->check == NEEDLE_UNCHECKED)
		bits |= (uint32_t)facts_of(v, key, record_offset).check;
	/* Full: all of it is forgotten, rather than who was there first kept for ever. */
	if (v->facts.used >= STORE_FACTS_MAX)
		index_free(&v->facts);
	/* Without memory it is not remembered. */
	(void)index_put(&v->facts, key, record_offset, bits);
	publish_counts(v);
}

void volume_count(const struct volume *v, size_t *ret_needles, size_t *ret_bytes)
{
	*ret_needles = atomic_load_explicit(&v->n_needles, memory_order_relaxed);
	*ret_bytes = atomic_load_explicit(&v->n_bytes, memory_order_relaxed);
}
