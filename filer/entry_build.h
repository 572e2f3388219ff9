/* Entries on their way from the wire to struct entry: what JSON and protobuf have in common, so that
 * the rules of what a mode, a time, a size or a chunk means stand in one place. Private to filer/. */
#ifndef KELP_ENTRY_BUILD_H
#define KELP_ENTRY_BUILD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "filer/entry.h"

/* Bytes in somebody else's memory. */
struct wire_bytes {
	const void *p;
	size_t len;
};

/* Go's zero time, year 1: the filer never set it. */
#define WIRE_UNSET_TIME_S INT64_C(-62135596800)

struct wire_time {
	bool set; /* false: the filer never set it */
	int64_t s; /* since 1970 */
	int64_t ns; /* any value: carried over */
};

struct wire_chunk {
	struct wire_bytes file_id; /* text; empty: see fid */
	struct fid fid;
	int64_t offset;
	uint64_t size;
	int64_t modified_ns;
	struct wire_bytes md5; /* raw; of another length than CHUNK_MD5_BYTES: none */
	struct wire_bytes cipher_key; /* raw or empty */
	bool gzip;
	bool manifest;
	int64_t sse;
};

struct wire_xattr {
	struct wire_bytes key; /* as the filer names it, see WIRE_XATTR_PREFIX */
	struct wire_bytes value;
};

/* Extended attributes of files, among other things in the filer's map; the rest of the key is the
 * attribute's name. */
#define WIRE_XATTR_PREFIX "xattr-"

struct wire_entry {
	uint32_t mode; /* in either of the filer's encodings */
	bool directory; /* says so apart from its mode */
	uint32_t uid;
	uint32_t gid;
	uint32_t rdev;
	uint64_t ino;
	int64_t hard_links;
	int64_t ttl_s;
	uint64_t file_size;
	uint64_t remote_size;
	int64_t remote_mtime_s;
	struct wire_time mtime;
	struct wire_time ctime;
	struct wire_time atime;
	struct wire_bytes symlink;
	struct wire_bytes content;

	/* Owned, see wire_entry_release(). */
	struct chunk *chunks; /* cipher_key not yet set */
	uint8_t (*keys)[CIPHER_KEY_BYTES]; /* key_of[i] says whose */
	uint32_t *key_of;
	struct wire_xattr *xattrs;
	size_t n_chunks, chunks_cap;
	size_t n_keys, keys_cap;
	size_t n_xattrs, xattrs_cap;
};

/* Checks a chunk. ret->cipher_key leads into the wire's memory. Returns 0 or -EPROTO. */
int wire_chunk_decode(const struct wire_chunk *w, struct chunk *ret);

/* Add to the entry; extended attributes that are none of a file are dropped. Return 0, -EPROTO,
 * -ENOMEM. */
int wire_add_chunk(struct wire_entry *e, const struct wire_chunk *w);
int wire_add_extended(struct wire_entry *e, struct wire_bytes key, struct wire_bytes value);

/* Builds the entry in one piece of memory. Returns 0, -EPROTO, -ENOMEM. */
int wire_build(const struct wire_entry *e, struct entry **ret);

void wire_entry_release(struct wire_entry *e);

/* Only the name of an entry, for one that does not decode. malloced. Return 0, -EPROTO, -ENOMEM. */
int wire_json_name(const char *json, size_t len, char **ret);
int wire_pb_name(const uint8_t *pb, size_t len, char **ret);

/* A name that can stand in a directory: not empty, "." or "..", no slash and no NUL. */
bool wire_name_ok(const void *name, size_t len);

#endif
