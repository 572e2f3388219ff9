#include "rdma/agent/store_scan.h"

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "filer/base/base.h"
#include "rdma/agent/store.h"
#include "rdma/agent/volume_format.h"

/* Files that are looked at in all the directories together: an erasure-coded volume has up to 20. */
#define SIGHTINGS_MAX ((size_t)STORE_VOLUMES_MAX * 20)
#define STEM_MAX 250 /* a name has 255 bytes */

enum sight {
	SIGHT_NONE = 0,
	SIGHT_DAT = 1 << 0,
	SIGHT_IDX = 1 << 1,
	SIGHT_COPYING = 1 << 2, /* .note: bytes are missing, or were when it broke off */
	SIGHT_ENCODED = 1 << 3, /* parts of an erasure-coded volume */
};

struct sighting {
	uint32_t id;
	unsigned what; /* enum sight, or-ed */
	const char *dir; /* the caller's */
	bool is_idx_dir;
	char *stem;
};

static bool is_shard(const char *extension)
{
	return strncmp(extension, "ec", 2) == 0 && extension[2] >= '0' && extension[2] <= '9';
}

static enum sight sight_of(const char *extension)
{
	if (strcmp(extension, "dat") == 0)
		return SIGHT_DAT;
	if (strcmp(extension, "idx") == 0)
		return SIGHT_IDX;
	if (strcmp(extension, "note") == 0)
		return SIGHT_COPYING;
	if (strcmp(extension, "ecx") == 0 || is_shard(extension))
		return SIGHT_ENCODED;
	return SIGHT_NONE;
}

static int add(struct scan *s, const struct sighting *sighting, size_t stem_len)
{
	if (s->n == SIGHTINGS_MAX)
		return -E2BIG;
	if (s->n == s->room) {
		size_t room = s->room ? 2 * s->room : 64;
		struct sighting *larger = reallocarray(s->seen, room, sizeof(*larger));

		if (!larger)
			return -ENOMEM;
		s->seen = larger;
		s->room = room;
	}
	char *stem = strndup(sighting->stem, stem_len);
	if (!stem)
		return -ENOMEM;
	s->seen[s->n] = *sighting;
	s->seen[s->n++].stem = stem;
	return 0;
}

static int add_name(struct scan *s, const char *dir, bool is_idx_dir, char *name)
{
	char *dot = strrchr(name, '.');
	struct sighting sighting = { .dir = dir, .is_idx_dir = is_idx_dir, .stem = name };

	if (!dot)
		return 0;
	size_t stem_len = (size_t)(dot - name);
	sighting.what = sight_of(dot + 1);
	if (sighting.what == SIGHT_NONE || stem_len > STEM_MAX ||
	    volume_stem_parse(name, stem_len, &sighting.id) != 0)
		return 0;
	return add(s, &sighting, stem_len);
}

static int scan_names(struct scan *s, DIR *dir, const char *path, bool is_idx_dir)
{
	for (;;) {
		errno = 0;
		struct dirent *e = readdir(dir);

		if (!e)
			return -errno;
		int err = add_name(s, path, is_idx_dir, e->d_name);
		if (err)
			return err;
	}
}

/* The directories that were looked at, for one may be given twice by different names. */
struct visited {
	struct {
		dev_t dev;
		ino_t ino;
	} dirs[STORE_DIRS_MAX + 1];
	size_t n;
};

static bool visit(struct visited *v, const struct stat *st)
{
	for (size_t i = 0; i < v->n; i++)
		if (v->dirs[i].dev == st->st_dev && v->dirs[i].ino == st->st_ino)
			return false;
	v->dirs[v->n].dev = st->st_dev;
	v->dirs[v->n++].ino = st->st_ino;
	return true;
}

static int scan_dir(struct scan *s, struct visited *visited, const char *path, bool is_idx_dir)
{
	struct stat st;
	DIR *dir = opendir(path);
	int err = 0;

	if (!dir)
		return errno == ENOENT ? 0 : -errno;
	if (fstat(dirfd(dir), &st) != 0)
		err = -errno;
	else if (visit(visited, &st))
		err = scan_names(s, dir, path, is_idx_dir);
	closedir(dir);
	return err;
}

static int compare(const void *a, const void *b)
{
	const struct sighting *x = a, *y = b;

	if (x->id != y->id)
		return x->id < y->id ? -1 : 1;
	return strcmp(x->stem, y->stem);
}

int scan_dirs(struct scan *s, const char *const *dirs, size_t n_dirs, const char *idx_dir)
{
	struct visited visited = { .n = 0 };
	int err = 0;

	memset(s, 0, sizeof(*s));
	for (size_t i = 0; !err && i < n_dirs; i++)
		err = scan_dir(s, &visited, dirs[i], false);
	if (!err && idx_dir)
		err = scan_dir(s, &visited, idx_dir, true);
	if (err) {
		scan_free(s);
		return err;
	}
	if (s->n > 0)
		qsort(s->seen, s->n, sizeof(*s->seen), compare);
	return 0;
}

void scan_free(struct scan *s)
{
	for (size_t i = 0; i < s->n; i++)
		free(s->seen[i].stem);
	free(s->seen);
	memset(s, 0, sizeof(*s));
}

/* The index may lie beside the .dat or in the directory for indices; an index that is there twice is
 * being moved, and which one is written to is not known. */
static const char *index_dir_of(const struct sighting *first, const struct sighting *end,
				const struct sighting *dat)
{
	const char *found = NULL;

	for (const struct sighting *x = first; x < end; x++) {
		if (x->what != SIGHT_IDX || strcmp(x->stem, dat->stem) != 0 ||
		    (x->dir != dat->dir && !x->is_idx_dir))
			continue;
		if (found)
			return NULL;
		found = x->dir;
	}
	return found;
}

bool scan_next(const struct scan *s, size_t *at, struct scanned_volume *ret)
{
	const struct sighting *dat = NULL;
	unsigned what = 0, dats = 0;

	if (*at == s->n)
		return false;
	const struct sighting *first = &s->seen[*at], *x = first;
	for (; x < s->seen + s->n && x->id == first->id; x++) {
		what |= x->what;
		if (x->what != SIGHT_DAT || x->is_idx_dir)
			continue;
		dat = x;
		dats++;
	}
	*at += (size_t)(x - first);
	*ret = (struct scanned_volume){ .id = first->id };
	/* Two of one id: which of them the server serves is for the server to say. */
	if (dats != 1 || (what & (SIGHT_COPYING | SIGHT_ENCODED)))
		return true;
	ret->stem = dat->stem;
	ret->dir = dat->dir;
	ret->idx_dir = index_dir_of(first, x, dat);
	ret->servable = ret->idx_dir != NULL;
	return true;
}
