#include "fs/inode.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <uthash.h>
#include <utlist.h>

#include "filer/base/base.h"
#include "filer/entry.h"

/* Longest name that a look-up is made for; the kernel's own limit for FUSE. */
#define NAME_MAX_BYTES 1024

#define ROOT_NUMBER 1

#define MS_PER_S 1000

/* A walk over a directory: so many files on end opened in the order of the listing, each so shortly after the
 * one before. What is fetched ahead then doubles with each file, so many times. */
#define WALK_STREAK_MIN 2
#define WALK_RECENT_S 10
#define WALK_WINDOW_MIN 8
/* So many entries that are no files may lie between two files of a walk. */
#define WALK_SKIP_MAX 64
#define WALK_DOUBLINGS_MAX 10

/* What the key of an inode starts with. */
#define PARENT_BYTES sizeof(uintptr_t)

/* Entries above that are kept without their chunks. */
#define ENTRY_BYTES_KEPT ((size_t)2 << 10)

/* The page cache of an inode: which version its pages are of, and whether the kernel has dropped
 * the pages of the version before. */
enum cache_state {
	CACHE_NONE, /* nothing is known to be right */
	CACHE_TOLD, /* an open was answered without keep_cache; the kernel may not have acted yet */
	CACHE_CONFIRMED, /* a request came through a file opened so: the pages are of cache_version */
};

struct inode {
	/* Immutable. */
	struct inode *parent; /* holds a reference; NULL for the root */

	/* Protected by the table's lock. There is one of these for each name that the kernel knows, so
	 * they are kept small. */
	UT_hash_handle hh;
	struct entry *entry;
	uint64_t number; /* st_ino */
	uint64_t lookups; /* by the kernel */
	uint64_t cache_version;
	int64_t fetched_ns;
	int64_t mark;
	/* Neighbours in the directory, as it was listed last; NULL: none, or not known any more. Of a
	 * detached inode: neighbours on table->nameless. */
	struct inode *prev, *next;
	uint32_t children;
	uint32_t open_files;
	pid_t looked_up_by;
	uint32_t opened_s; /* walk_clock() when it was opened last; 0: never */
	uint32_t ahead_s; /* ... when it was fetched ahead, or passed by */
	uint8_t streak; /* how many files on end were opened up to this one */
	uint8_t cache; /* enum cache_state */
	bool detached; /* not in the hash table; on table->nameless instead */

	/* The key of the hash table: the parent's address, then the name with its NUL. Immutable. */
	char key[];
};

struct inode_table {
	char *root_path; /* immutable; "" for the filer's root */
	struct inode *root;

	/* Protects the table and what its inodes say; innermost but for nothing. */
	pthread_mutex_t lock;
	struct inode *by_name;
	struct inode *nameless; /* detached ones, but for the root */
	struct inode *bound; /* last, and still in by_name: a listing's next name asks for it */
	size_t count;
	size_t entry_bytes;
};

static const char *name_of(const struct inode *i)
{
	return i->key + PARENT_BYTES;
}

uint64_t inode_number(uint64_t parent_number, const char *name, const struct entry *e)
{
	if (e && e->ino)
		return e->ino;
	uint64_t h = hash_bytes(HASH_SEED, &parent_number, sizeof(parent_number));

	h = hash_bytes(h, name, strlen(name));
	return h > ROOT_NUMBER ? h : ROOT_NUMBER + 1;
}

/* Opening a file asks for its entry anyway, so a long chunk list is not kept for every name that the
 * kernel knows. Takes e over. */
static struct entry *without_bulk(struct entry *e)
{
	struct entry *trimmed;

	if (entry_memory_bytes(e) <= ENTRY_BYTES_KEPT || entry_trim(e, &trimmed))
		return e;
	entry_put(e);
	return trimmed;
}

static void set_entry(struct inode_table *t, struct inode *i, struct entry *e)
{
	e = without_bulk(e);
	if (i->entry)
		t->entry_bytes -= entry_memory_bytes(i->entry);
	t->entry_bytes += entry_memory_bytes(e);
	entry_put(i->entry);
	i->entry = e;
	i->fetched_ns = now_ns();
	i->number = i->parent ? inode_number(i->parent->number, name_of(i), e) : ROOT_NUMBER;
}

/* Takes e over on success. */
static struct inode *inode_alloc(struct inode_table *t, struct inode *parent, const char *name,
				 struct entry *e)
{
	size_t name_bytes = strlen(name) + 1;
	struct inode *i = calloc(1, sizeof(*i) + PARENT_BYTES + name_bytes);

	if (!i)
		return NULL;
	i->parent = parent;
	memcpy(i->key, &(uintptr_t){ (uintptr_t)parent }, PARENT_BYTES);
	memcpy(i->key + PARENT_BYTES, name, name_bytes);
	set_entry(t, i, e);
	if (parent)
		parent->children++;
	t->count++;
	return i;
}

static void leave_neighbours(struct inode *i)
{
	if (i->prev)
		i->prev->next = i->next;
	if (i->next)
		i->next->prev = i->prev;
	i->prev = i->next = NULL;
}

/* The listing that i was in has its name after that of prev. */
static void follow_neighbour(struct inode *i, struct inode *prev)
{
	if (i == prev || prev->next == i)
		return;
	leave_neighbours(i);
	i->prev = prev;
	i->next = prev->next;
	if (i->next)
		i->next->prev = i;
	prev->next = i;
}

static void leave_table(struct inode_table *t, struct inode *i)
{
	leave_neighbours(i);
	/* NOLINTNEXTLINE(clang-analyzer-core.NullDereference): it is in that table */
	HASH_DEL(t->by_name, i);
	if (t->bound == i)
		t->bound = NULL;
}

static void detach(struct inode_table *t, struct inode *i)
{
	if (i->detached)
		return;
	leave_table(t, i);
	DL_APPEND(t->nameless, i);
	i->detached = true;
}

/* Frees the inode, and then its parents, as long as nothing refers to them. Not recursive: paths may
 * be deep. */
static void release_unused(struct inode_table *t, struct inode *i)
{
	while (i->parent && !i->lookups && !i->children && !i->open_files) {
		struct inode *parent = i->parent;

		if (i->detached) /* NOLINTNEXTLINE(clang-analyzer-core.NullDereference): it is in that list */
			DL_DELETE(t->nameless, i);
		else
			leave_table(t, i);
		t->entry_bytes -= entry_memory_bytes(i->entry);
		t->count--;
		entry_put(i->entry);
		free(i);
		parent->children--;
		i = parent;
	}
}

int inode_table_new(const char *root_path, struct entry *root, struct inode_table **ret)
{
	struct inode_table *t = calloc(1, sizeof(*t));
	int err = -ENOMEM;

	if (!t)
		return err;
	t->root_path = strdup(strcmp(root_path, "/") == 0 ? "" : root_path);
	if (!t->root_path)
		goto free_table;
	t->root = inode_alloc(t, NULL, "", root);
	if (!t->root)
		goto free_path;
	t->root->detached = true;
	err = -pthread_mutex_init(&t->lock, NULL);
	if (err)
		goto free_root;
	*ret = t;
	return 0;

free_root:
	t->root->entry = NULL;
	free(t->root);
free_path:
	free(t->root_path);
free_table:
	free(t);
	return err;
}

void inode_table_free(struct inode_table *t)
{
	struct inode *i, *tmp;

	if (!t)
		return;
	HASH_ITER (hh, t->by_name, i, tmp) {
		HASH_DEL(t->by_name, i);
		entry_put(i->entry);
		free(i);
	}
	for (i = t->nameless; i; i = tmp) {
		tmp = i->next;
		entry_put(i->entry);
		free(i);
	}
	entry_put(t->root->entry);
	free(t->root);
	pthread_mutex_destroy(&t->lock);
	free(t->root_path);
	free(t);
}

struct inode *inode_root(struct inode_table *t)
{
	return t->root;
}

/* Parents and names never change while the caller holds a reference to i, so no lock is needed but
 * for `detached`. */
static int path_length(struct inode_table *t, const struct inode *i, size_t *ret)
{
	size_t len = strlen(t->root_path);

	for (; i->parent; i = i->parent) {
		if (i->detached)
			return -ESTALE;
		len += 1 + strlen(name_of(i));
	}
	*ret = len;
	return 0;
}

int inode_path(struct inode_table *t, struct inode *i, const char *name, char **ret)
{
	size_t name_len = name ? strlen(name) + 1 : 0;
	size_t len;

	LOCK_SCOPE(&t->lock);
	int err = path_length(t, i, &len);
	if (err)
		return err;
	if (len + name_len > INODE_PATH_MAX_BYTES)
		return -ENAMETOOLONG;
	char *path = malloc(len + name_len + 2);
	if (!path)
		return -ENOMEM;
	char *p = path + len;
	for (const struct inode *a = i; a->parent; a = a->parent) {
		size_t n = strlen(name_of(a));

		p -= n;
		memcpy(p, name_of(a), n);
		*--p = '/';
	}
	memcpy(path, t->root_path, strlen(t->root_path));
	if (name) {
		path[len] = '/';
		memcpy(path + len + 1, name, name_len - 1);
	}
	path[len + name_len] = '\0';
	if (len + name_len == 0)
		memcpy(path, "/", 2);
	*ret = path;
	return 0;
}

/* NULL also for a name that is too long: a listing may have such, no inode has.
 * NOLINTNEXTLINE(readability-function-size): what uthash makes of one line */
static struct inode *find(struct inode_table *t, struct inode *parent, const char *name)
{
	char key[PARENT_BYTES + NAME_MAX_BYTES + 1];
	size_t name_bytes = strlen(name) + 1;
	struct inode *i;

	if (name_bytes > NAME_MAX_BYTES + 1)
		return NULL;
	memcpy(key, &(uintptr_t){ (uintptr_t)parent }, PARENT_BYTES);
	memcpy(key + PARENT_BYTES, name, name_bytes);
	HASH_FIND(hh, t->by_name, key, PARENT_BYTES + name_bytes, i);
	return i;
}

/* The same, fast for the name that was bound last. */
static struct inode *find_before(struct inode_table *t, struct inode *parent, const char *name)
{
	if (t->bound && t->bound->parent == parent && strcmp(name_of(t->bound), name) == 0)
		return t->bound;
	return find(t, parent, name);
}

/* May e take the place of what the inode holds, with the same page cache and the same links that the
 * kernel keeps? */
static bool fits(const struct inode *i, const struct entry *e)
{
	const struct entry *old = i->entry;

	if ((old->mode & S_IFMT) != (e->mode & S_IFMT))
		return false;
	if (S_ISLNK(e->mode)) /* the kernel caches targets for as long as it knows the inode */
		return strcmp(old->symlink ? old->symlink : "", e->symlink ? e->symlink : "") == 0;
	return i->open_files == 0 || entry_same_version(old, e);
}

/* NOLINTNEXTLINE(readability-function-size): what uthash makes of one line */
static void attach(struct inode_table *t, struct inode *i)
{
	HASH_ADD_KEYPTR(hh, t->by_name, i->key, PARENT_BYTES + strlen(name_of(i)) + 1, i);
}

int inode_bind(struct inode_table *t, struct inode *parent, const char *name, struct entry *e,
	       struct asked asked, struct inode **ret)
{
	if (strlen(name) > NAME_MAX_BYTES) {
		entry_put(e);
		return -ENAMETOOLONG;
	}
	LOCK_SCOPE(&t->lock);
	struct inode *i = find(t, parent, name);
	if (i && fits(i, e)) {
		set_entry(t, i, e);
	} else {
		struct inode *fresh = inode_alloc(t, parent, name, e);

		if (!fresh) {
			entry_put(e);
			return -ENOMEM;
		}
		if (i)
			detach(t, i);
		attach(t, fresh);
		i = fresh;
	}
	i->mark = asked.mark;
	i->looked_up_by = asked.by;
	i->lookups++;
	struct inode *before = asked.after ? find_before(t, parent, asked.after) : NULL;
	if (before)
		follow_neighbour(i, before);
	t->bound = i;
	*ret = i;
	return 0;
}

struct inode *inode_find(struct inode_table *t, struct inode *parent, const char *name)
{
	LOCK_SCOPE(&t->lock);
	struct inode *i = find(t, parent, name);

	if (i)
		i->lookups++;
	return i;
}

void inode_forget(struct inode_table *t, struct inode *i, uint64_t n)
{
	LOCK_SCOPE(&t->lock);
	i->lookups -= min_u64(n, i->lookups);
	release_unused(t, i);
}

bool inode_refresh(struct inode_table *t, struct inode *i, struct entry *e, int64_t mark)
{
	LOCK_SCOPE(&t->lock);
	bool take = fits(i, e);

	if (take) {
		set_entry(t, i, e);
		i->mark = mark;
		i->looked_up_by = 0;
	} else {
		entry_put(e);
	}
	return take;
}

uint64_t inode_shown_number(struct inode_table *t, struct inode *i)
{
	LOCK_SCOPE(&t->lock);
	return i->number;
}

void inode_view(struct inode_table *t, struct inode *i, struct inode_view *ret)
{
	LOCK_SCOPE(&t->lock);
	*ret = (struct inode_view){
		.entry = entry_get(i->entry),
		.fetched_ns = i->fetched_ns,
		.mark = i->mark,
		.looked_up_by = i->looked_up_by,
		.open_files = i->open_files,
		.detached = i->detached && i->parent,
	};
}

int inode_open(struct inode_table *t, struct inode *i, const struct entry *e, bool *ret_keep_cache)
{
	LOCK_SCOPE(&t->lock);
	if (!entry_same_version(i->entry, e))
		return -ESTALE;
	i->open_files++;
	i->looked_up_by = 0; /* that look-up was this open's; the next open asks anew */
	*ret_keep_cache = i->cache == CACHE_CONFIRMED && i->cache_version == e->version;
	if (!*ret_keep_cache) {
		i->cache = CACHE_TOLD;
		i->cache_version = e->version;
	}
	return 0;
}

/* In seconds; never 0. */
static uint32_t walk_clock(void)
{
	return (uint32_t)(now_ms() / MS_PER_S) + 1;
}

static bool is_recent(uint32_t at_s, uint32_t now_s)
{
	return at_s && now_s - at_s <= WALK_RECENT_S;
}

/* Notes the open, and returns how many files on end were opened up to this one. */
static unsigned note_step(struct inode *i, uint32_t now_s)
{
	const struct inode *prev = i->prev;

	/* what is no file is not opened on the way; one that is far back begins a walk anew */
	for (unsigned n = 0; prev && !S_ISREG(prev->entry->mode) && n < WALK_SKIP_MAX; n++)
		prev = prev->prev;
	i->streak = 1;
	if (prev && is_recent(prev->opened_s, now_s))
		i->streak = prev->streak < UINT8_MAX ? prev->streak + 1 : UINT8_MAX;
	i->opened_s = now_s;
	return i->streak;
}

size_t inode_walk(struct inode_table *t, struct inode *i, bool (*wanted)(const struct entry *e),
		  struct entry **ret, size_t max)
{
	uint32_t now_s = walk_clock();
	size_t ahead = 0, n = 0;

	LOCK_SCOPE(&t->lock);
	if (i->detached)
		return 0;
	unsigned streak = note_step(i, now_s);
	if (streak < WALK_STREAK_MIN)
		return 0;
	unsigned doublings = (unsigned)min_u64(streak - WALK_STREAK_MIN, WALK_DOUBLINGS_MAX);
	size_t window = min_u64(max, (size_t)WALK_WINDOW_MIN << doublings);
	struct inode *next = i->next;
	for (; next && ahead < window && is_recent(next->ahead_s, now_s); next = next->next)
		ahead++;
	if (ahead > window / 2)
		return 0;
	/* a file that was opened is where somebody else walks */
	for (; next && ahead < window && !is_recent(next->opened_s, now_s);
	     next = next->next, ahead++) {
		next->ahead_s = now_s;
		if (wanted(next->entry))
			ret[n++] = entry_get(next->entry);
	}
	return n;
}

void inode_open_confirmed(struct inode_table *t, struct inode *i)
{
	LOCK_SCOPE(&t->lock);
	if (i->cache == CACHE_TOLD)
		i->cache = CACHE_CONFIRMED;
}

void inode_close(struct inode_table *t, struct inode *i)
{
	LOCK_SCOPE(&t->lock);
	i->open_files--;
	release_unused(t, i);
}

void inode_table_stats(struct inode_table *t, struct inode_stats *ret)
{
	LOCK_SCOPE(&t->lock);
	*ret = (struct inode_stats){ .inodes = t->count, .entry_bytes = t->entry_bytes };
}
