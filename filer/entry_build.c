#include "filer/entry_build.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "filer/base/base.h"

#define NS_PER_S 1000000000
#define GROW_MIN 4
/* Room for all counts and lengths in 32 bits. */
#define ITEMS_MAX UINT32_MAX

/* Type and special bits in the manner of Go's os.FileMode, above the permissions. */
enum go_mode {
	GO_DIR = 1u << 31,
	GO_SYMLINK = 1 << 27,
	GO_DEVICE = 1 << 26,
	GO_FIFO = 1 << 25,
	GO_SOCKET = 1 << 24,
	GO_SETUID = 1 << 23,
	GO_SETGID = 1 << 22,
	GO_CHAR_DEVICE = 1 << 21, /* with GO_DEVICE or, by the filer's mount, alone */
	GO_STICKY = 1 << 20,
};

bool wire_name_ok(const void *name, size_t len)
{
	const char *s = name;

	if (len == 0 || memchr(s, '/', len) || memchr(s, '\0', len))
		return false;
	return !(s[0] == '.' && (len == 1 || (len == 2 && s[1] == '.')));
}

/* Room for one more item. */
static int grow(void **items, size_t n, size_t *cap, size_t item_bytes)
{
	size_t want = *cap ? *cap + *cap / 2 : GROW_MIN;
	void *p;

	if (n < *cap)
		return 0;
	if (n >= ITEMS_MAX)
		return -EPROTO;
	p = reallocarray(*items, want, item_bytes);
	if (!p)
		return -ENOMEM;
	*items = p;
	*cap = want;
	return 0;
}

int wire_chunk_decode(const struct wire_chunk *w, struct chunk *ret)
{
	struct chunk c = { .fid = w->fid,
			   .offset = (uint64_t)w->offset,
			   .size = w->size,
			   .modified_ns = w->modified_ns };

	if (w->offset < 0 || w->size > (uint64_t)(INT64_MAX - w->offset))
		return -EPROTO;
	if (w->file_id.len > 0 && fid_parse(w->file_id.p, w->file_id.len, &c.fid))
		return -EPROTO;
	if (c.fid.volume_id == 0)
		return -EPROTO;
	if (w->cipher_key.len != 0 && w->cipher_key.len != CIPHER_KEY_BYTES)
		return -EPROTO;
	if (w->cipher_key.len != 0)
		c.cipher_key = w->cipher_key.p;
	if (w->sse < 0 || w->sse > UINT8_MAX)
		return -EPROTO;
	c.sse = (uint8_t)w->sse;
	if (w->md5.len == CHUNK_MD5_BYTES) {
		memcpy(c.md5, w->md5.p, CHUNK_MD5_BYTES);
		c.flags |= CHUNK_HAS_MD5;
	}
	if (w->gzip)
		c.flags |= CHUNK_GZIP;
	if (w->manifest)
		c.flags |= CHUNK_MANIFEST;
	*ret = c;
	return 0;
}

static int add_key(struct wire_entry *e, const uint8_t *key)
{
	size_t cap = e->keys_cap;
	int err = grow((void **)&e->keys, e->n_keys, &cap, sizeof(*e->keys));

	if (!err)
		err = grow((void **)&e->key_of, e->n_keys, &e->keys_cap, sizeof(*e->key_of));
	if (err)
		return err;
	memcpy(e->keys[e->n_keys], key, CIPHER_KEY_BYTES);
	e->key_of[e->n_keys++] = (uint32_t)e->n_chunks;
	return 0;
}

int wire_add_chunk(struct wire_entry *e, const struct wire_chunk *w)
{
	struct chunk c;
	int err = wire_chunk_decode(w, &c);

	if (!err)
		err = grow((void **)&e->chunks, e->n_chunks, &e->chunks_cap, sizeof(c));
	if (!err && c.cipher_key)
		err = add_key(e, c.cipher_key);
	if (err)
		return err;
	c.cipher_key = NULL;
	e->chunks[e->n_chunks++] = c;
	return 0;
}

int wire_add_extended(struct wire_entry *e, struct wire_bytes key, struct wire_bytes value)
{
	const size_t prefix = strlen(WIRE_XATTR_PREFIX);
	int err;

	if (key.len <= prefix || memcmp(key.p, WIRE_XATTR_PREFIX, prefix) != 0 ||
	    memchr(key.p, '\0', key.len))
		return 0;
	err = grow((void **)&e->xattrs, e->n_xattrs, &e->xattrs_cap, sizeof(*e->xattrs));
	if (err)
		return err;
	key.p = (const char *)key.p + prefix;
	key.len -= prefix;
	e->xattrs[e->n_xattrs++] = (struct wire_xattr){ .key = key, .value = value };
	return 0;
}

void wire_entry_release(struct wire_entry *e)
{
	free(e->chunks);
	free(e->keys);
	free(e->key_of);
	free(e->xattrs);
}

static mode_t type_of(uint32_t mode, bool directory)
{
	if (mode & GO_DIR)
		return S_IFDIR;
	if (mode & GO_SYMLINK)
		return S_IFLNK;
	if (mode & GO_FIFO)
		return S_IFIFO;
	if (mode & GO_SOCKET)
		return S_IFSOCK;
	if (mode & GO_CHAR_DEVICE)
		return S_IFCHR;
	if (mode & GO_DEVICE)
		return S_IFBLK;
	if (directory)
		return S_IFDIR;
	switch (mode & S_IFMT) {
	case S_IFDIR:
	case S_IFLNK:
	case S_IFIFO:
	case S_IFSOCK:
	case S_IFCHR:
	case S_IFBLK:
		return mode & S_IFMT;
	default:
		return S_IFREG;
	}
}

static mode_t mode_of(uint32_t mode, bool directory)
{
	mode_t m = type_of(mode, directory) | (mode & 07777);

	if (mode & GO_SETUID)
		m |= S_ISUID;
	if (mode & GO_SETGID)
		m |= S_ISGID;
	if (mode & GO_STICKY)
		m |= S_ISVTX;
	return m;
}

static struct timespec time_of(const struct wire_time *t, struct timespec otherwise)
{
	int64_t carry = t->ns / NS_PER_S, ns = t->ns % NS_PER_S, s;

	if (!t->set)
		return otherwise;
	if (ns < 0) {
		ns += NS_PER_S;
		carry--;
	}
	if (__builtin_add_overflow(t->s, carry, &s))
		s = t->s;
	return (struct timespec){ .tv_sec = s, .tv_nsec = ns };
}

static bool remote_only(const struct wire_entry *w)
{
	return w->n_chunks == 0 && w->content.len == 0 && w->remote_size > 0;
}

/* Size of a regular file: whatever reaches farthest. */
static uint64_t size_of(const struct wire_entry *w, const struct timespec *mtime)
{
	uint64_t size = max_u64(w->file_size, w->content.len);

	for (size_t i = 0; i < w->n_chunks; i++)
		size = max_u64(size, w->chunks[i].offset + w->chunks[i].size);
	if (remote_only(w) || w->remote_mtime_s > mtime->tv_sec)
		size = max_u64(size, w->remote_size);
	return size;
}

/* Where chunks overlap this is more than what is seen of them, but never more than the size. */
static uint64_t stored_bytes_of(const struct entry *e)
{
	uint64_t bytes = e->content_len;

	if (e->remote_only)
		return e->size;
	for (uint32_t i = 0; i < e->n_chunks && bytes < e->size; i++)
		bytes += e->chunks[i].size;
	return min_u64(bytes, e->size);
}

static uint64_t hash_u64(uint64_t h, uint64_t v)
{
	return hash_bytes(h, &v, sizeof(v));
}

/* What is seen of the chunk list; cipher keys and checksums follow from the fids. */
static uint64_t version_of(const struct entry *e, const struct wire_entry *w)
{
	uint64_t h = HASH_SEED;

	h = hash_u64(h, (uint64_t)e->mtime.tv_sec);
	h = hash_u64(h, (uint64_t)e->mtime.tv_nsec);
	h = hash_u64(h, e->size);
	h = hash_u64(h, e->n_chunks);
	for (size_t i = 0; i < e->n_chunks; i++) {
		const struct chunk *c = &e->chunks[i];
		const uint64_t words[] = { c->fid.key,
					   (uint64_t)c->fid.volume_id << 32 | c->fid.cookie,
					   c->offset, c->size, (uint64_t)c->modified_ns };

		h = hash_bytes(h, words, sizeof(words));
	}
	if (e->content)
		h = hash_bytes(h, e->content, e->content_len);
	if (e->symlink)
		h = hash_bytes(h, e->symlink, e->symlink_len);
	if (e->remote_only)
		h = hash_u64(h, (uint64_t)w->remote_mtime_s);
	return h;
}

/* Takes bytes off the end of the entry's memory, NUL-terminated if wanted. */
static void *place(uint8_t **at, struct wire_bytes b, bool terminate)
{
	uint8_t *p = *at;

	if (b.len > 0)
		memcpy(p, b.p, b.len);
	if (terminate)
		p[b.len] = '\0';
	*at += b.len + terminate;
	return p;
}

static size_t memory_of(const struct wire_entry *w)
{
	size_t n = sizeof(struct entry) + w->n_chunks * sizeof(struct chunk) +
		   w->n_xattrs * sizeof(struct xattr) + w->n_keys * CIPHER_KEY_BYTES +
		   w->content.len + w->symlink.len + 1;

	for (size_t i = 0; i < w->n_xattrs; i++)
		n += w->xattrs[i].key.len + 1 + w->xattrs[i].value.len;
	return n;
}

/* The lists behind the entry: structures first, as they are aligned, then bytes. */
static void place_lists(struct entry *e, const struct wire_entry *w)
{
	struct chunk *chunks = (struct chunk *)(e + 1);
	struct xattr *xattrs = (struct xattr *)(chunks + w->n_chunks);
	uint8_t *at = (uint8_t *)(xattrs + w->n_xattrs);

	_Static_assert(sizeof(struct entry) % _Alignof(struct chunk) == 0 &&
			       sizeof(struct chunk) % _Alignof(struct xattr) == 0,
		       "the lists follow each other without padding");
	if (w->n_chunks > 0)
		memcpy(chunks, w->chunks, w->n_chunks * sizeof(*chunks));
	for (size_t i = 0; i < w->n_keys; i++) {
		const struct wire_bytes key = { w->keys[i], CIPHER_KEY_BYTES };

		chunks[w->key_of[i]].cipher_key = place(&at, key, false);
	}
	for (size_t i = 0; i < w->n_xattrs; i++) {
		const struct wire_xattr *x = &w->xattrs[i];

		xattrs[i].name = place(&at, x->key, true);
		xattrs[i].name_len = (uint32_t)x->key.len;
		xattrs[i].value = place(&at, x->value, false);
		xattrs[i].value_len = (uint32_t)x->value.len;
	}
	for (size_t i = 0; i < w->n_chunks; i++)
		e->sse |= chunks[i].sse != CHUNK_SSE_NONE;
	e->chunks = w->n_chunks > 0 ? chunks : NULL;
	e->n_chunks = (uint32_t)w->n_chunks;
	e->xattrs = w->n_xattrs > 0 ? xattrs : NULL;
	e->n_xattrs = (uint32_t)w->n_xattrs;
	if (w->content.len > 0)
		e->content = place(&at, w->content, false);
	e->content_len = (uint32_t)w->content.len;
	if (S_ISLNK(e->mode)) {
		e->symlink = place(&at, w->symlink, true);
		e->symlink_len = (uint32_t)w->symlink.len;
	}
}

static dev_t rdev_of(uint32_t rdev)
{
	/* The kernel's 32 bits: minor's upper part, major, minor's lower part. */
	return makedev(rdev >> 8 & 0xfff, (rdev >> 12 & 0xfff00) | (rdev & 0xff));
}

int wire_build(const struct wire_entry *w, struct entry **ret)
{
	const struct timespec epoch = { 0 };
	struct entry *e;

	if (w->symlink.len > 0 && memchr(w->symlink.p, '\0', w->symlink.len))
		return -EPROTO;
	e = calloc(1, memory_of(w));
	if (!e)
		return -ENOMEM;
	atomic_init(&e->refs, 1);
	e->mode = mode_of(w->mode, w->directory);
	e->uid = w->uid;
	e->gid = w->gid;
	e->rdev = S_ISCHR(e->mode) || S_ISBLK(e->mode) ? rdev_of(w->rdev) : 0;
	e->nlink = w->hard_links > 0 && w->hard_links <= UINT32_MAX ? (uint32_t)w->hard_links : 1;
	e->ino = w->ino;
	e->unannounced = w->hard_links > 1 || w->ttl_s != 0;
	e->mtime = time_of(&w->mtime, epoch);
	e->ctime = time_of(&w->ctime, e->mtime);
	e->atime = time_of(&w->atime, e->mtime);
	place_lists(e, w);
	if (S_ISLNK(e->mode)) {
		e->size = e->symlink_len;
	} else if (S_ISREG(e->mode)) {
		e->remote_only = remote_only(w);
		e->size = size_of(w, &e->mtime);
		e->stored_bytes = stored_bytes_of(e);
	}
	if (e->size > INT64_MAX) {
		free(e);
		return -EPROTO;
	}
	e->version = version_of(e, w);
	*ret = e;
	return 0;
}
