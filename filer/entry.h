/* Entries: what the filer knows of one name, in the form the file system uses.
 *
 * An entry is immutable once built and shared by reference count: open files, the inode table and
 * listings hold the same one. "Version" is what close-to-open consistency compares: mtime, size and
 * the chunk list, because the filer's ETag and directory mtimes are no validators. */
#ifndef KELP_ENTRY_H
#define KELP_ENTRY_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <time.h>

#include "filer/fid.h"

#define CIPHER_KEY_BYTES 32
#define CHUNK_MD5_BYTES 16

enum chunk_flag {
	CHUNK_GZIP = 1 << 0, /* stored compressed; chunk.size is the plain size */
	CHUNK_MANIFEST = 1 << 1, /* the needle holds a list of chunks, not file data */
	CHUNK_HAS_MD5 = 1 << 2, /* md5[] is the MD5 of the plain bytes */
};

enum chunk_sse {
	CHUNK_SSE_NONE = 0,
	CHUNK_SSE_C = 1,
	CHUNK_SSE_KMS = 2,
	CHUNK_SSE_S3 = 3,
};

/* One stored piece of a file. Byte i of the file in [offset, offset+size) is plain byte i-offset of
 * the needle. size may be less than the needle holds (truncation trims it). offset + size never
 * overflows int64_t: the decoder refuses such a chunk. */
struct chunk {
	struct fid fid;
	uint64_t offset;
	uint64_t size;
	int64_t modified_ns; /* where chunks overlap, the greatest wins */
	const uint8_t *cipher_key; /* CIPHER_KEY_BYTES, AES-256-GCM, or NULL; owned by the list */
	uint8_t md5[CHUNK_MD5_BYTES];
	uint8_t flags; /* enum chunk_flag */
	uint8_t sse; /* enum chunk_sse */
};

struct xattr {
	const char *name; /* NUL-terminated, as getxattr(2) names it: "user.foo" */
	const uint8_t *value;
	uint32_t name_len;
	uint32_t value_len;
};

/* All pointers lead into memory owned by the entry. */
struct entry {
	atomic_uint refs;
	mode_t mode; /* S_IF* and permission bits, decoded from either of the filer's encodings */
	uid_t uid;
	gid_t gid;
	dev_t rdev;
	uint32_t nlink; /* at least 1 */
	uint32_t n_chunks;
	uint32_t n_xattrs;
	uint32_t content_len;
	uint32_t symlink_len;
	bool remote_only; /* data lies in remote storage: only the filer can fetch it */
	bool sse; /* some chunk is encrypted by the S3 gateway, which alone decrypts it */
	bool trimmed; /* chunks and content were left out: good for attributes only */
	/* It may change without a change event of its name: it expires, or has other names. */
	bool unannounced;
	uint64_t ino; /* 0: the filer has none */
	uint64_t size; /* of the file; strlen(target) for a symlink */
	uint64_t stored_bytes; /* of the size, without holes; at most size */
	uint64_t version; /* hash of mtime, size and chunk list */
	struct timespec mtime;
	struct timespec ctime; /* mtime where the filer never set it */
	struct timespec atime; /* likewise */
	const struct chunk *chunks;
	const struct xattr *xattrs;
	const uint8_t *content; /* inlined small file, or NULL */
	const char *symlink; /* NUL-terminated target, or NULL */
};

struct entry *entry_get(struct entry *e);

/* Drops a reference. Takes NULL. */
void entry_put(struct entry *e);

/* A copy without chunk list and content, for those who keep many entries and read none. The version is
 * that of the original. Returns 0 or -ENOMEM. */
int entry_trim(const struct entry *e, struct entry **ret);

/* Bytes of memory the entry keeps, for accounting. */
size_t entry_memory_bytes(const struct entry *e);

/* The same file content for a reader: same mtime, size and chunks. */
static inline bool entry_same_version(const struct entry *a, const struct entry *b)
{
	return a->version == b->version;
}

/* Decodes one entry from the filer's JSON (the object of `?metadata=true`, or one element of a
 * listing). ret_name, where not NULL, gets a malloced copy of the last component of FullPath: right
 * for listings only (the lookup answer garbles invalid UTF-8). Limits: ENTRY_JSON_MAX bytes, nesting
 * as cJSON allows. Returns 0, -EPROTO for anything malformed, -ENOMEM. */
#define ENTRY_JSON_MAX ((size_t)512 << 20)
int entry_from_json(const char *json, size_t len, struct entry **ret, char **ret_name);

/* The same from a serialized filer_pb.Entry (gRPC answers, change events). */
int entry_from_pb(const uint8_t *pb, size_t len, struct entry **ret, char **ret_name);

#endif
