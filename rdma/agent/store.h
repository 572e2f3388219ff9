/* The needle store: the volume files of a SeaweedFS volume server, read in place and never written.
 *
 * Follows what the server does to them: appends, overwrites, deletions, vacuum (both renames, .dat
 * first), volumes that come, move away, are erasure-coded or tiered. A generation of a volume is one
 * pair of open .dat and .idx files that belong together; a reader pins the generation it found its
 * needle in, so that the bytes stay right under it whatever happens to the names.
 *
 * Thread-safe. */
#ifndef KELP_STORE_H
#define KELP_STORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "filer/fid.h"

struct store;
struct volume; /* one generation of one volume */

#define STORE_DIRS_MAX 32
#define STORE_VOLUMES_MAX 65536
#define STORE_NEEDLE_BYTES_MAX ((uint64_t)4 << 30)
/* At most so long after the server's change to a directory is it noticed without inotify. */
#define STORE_POLL_MS 1000

struct store_config {
	const char *const *dirs; /* as the volume server's -dir; copied */
	size_t n_dirs;
	const char *idx_dir; /* -dir.idx, or NULL */
};

/* Loads every volume's index (a few tens of bytes a needle) and starts to follow changes. A directory
 * that is not there yet, or holds nothing, is no error. Returns 0 or -errno. */
int store_open(const struct store_config *cfg, struct store **ret);

/* Stops following and drops everything; no needle may be pinned. Takes NULL. */
void store_close(struct store *s);

/* What comparing the data with its checksum came to. */
enum needle_check {
	NEEDLE_UNCHECKED,
	NEEDLE_SOUND,
	NEEDLE_CORRUPT,
};

/* What is remembered of a needle that was read in part, so that later parts need less. */
struct needle_facts {
	bool plain_tail; /* it does not expire, and gzip is known */
	bool gzip;
	enum needle_check check;
};

/* Where a needle's stored bytes lie. */
struct needle_place {
	struct volume *volume; /* pinned; store_unpin() */
	int fd; /* of its .dat; do not close */
	uint64_t record_offset; /* of the record's header */
	uint32_t record_size; /* the Size field of index and header */
	uint8_t version; /* of the volume: 1, 2 or 3 */
	struct needle_facts facts; /* as far as they are known */
};

/* Finds the newest live record of a needle. Catches up with the index's tail first (what the server has
 * acknowledged is visible at once). Returns 0, -ENOENT (unknown, deleted), -EOPNOTSUPP (erasure-coded,
 * tiered, being copied, changing at this moment, or a volume that is not here: to be asked of the
 * volume server). read_deleted: also a deleted needle whose record is still there. */
int store_find(struct store *s, const struct fid *fid, bool read_deleted, struct needle_place *ret);
void store_unpin(struct needle_place *p);

/* Keeps p->facts for later store_find()s, as long as the needle is that of this record in this
 * generation. What is known of its checksum stays where p->facts.check says nothing. So many are kept
 * in each volume. */
#define STORE_FACTS_MAX ((size_t)1 << 20)
void store_note_facts(const struct needle_place *p, uint64_t key);

/* What a record's header and tail said, once checked. */
struct needle_info {
	uint64_t data_offset; /* in the .dat */
	uint32_t data_bytes;
	uint32_t crc32c; /* of the data as stored, in either form: crc32c_matches() */
	bool gzip;
	uint64_t expires_at_ns; /* CLOCK_REALTIME; 0: never */
};

/* Bytes that must be read at record_offset to parse the fixed part. */
#define STORE_HEADER_BYTES 20
/* Bytes behind the data that hold flags, name, mime, times, TTL, pairs, checksum: at most so many. */
#define STORE_TAIL_BYTES_MAX ((size_t)68 << 10)

/* Checks the header against the fid (cookie, key) and the index (size); the tail (what follows the
 * data) may be NULL where only the data's place is wanted: then crc32c, gzip and expiry are not set.
 * Returns 0, -ENOENT (wrong cookie; expired TTL when the tail is there), -EIO (does not hang together;
 * another needle than the index said). Pure. */
int store_parse_header(const struct needle_place *p, const struct fid *fid,
		       const uint8_t header[STORE_HEADER_BYTES], struct needle_info *ret);
int store_parse_tail(const struct needle_place *p, const uint8_t *tail, size_t len,
		     uint64_t now_realtime_ns, struct needle_info *info);

/* Offset and length of that tail, from a parsed header. */
void store_tail_place(const struct needle_place *p, const struct needle_info *info,
		      uint64_t *ret_offset, size_t *ret_len);

/* A convenience for tests and tools: reads and checks header and tail with pread. */
int store_read_info(const struct needle_place *p, const struct fid *fid, struct needle_info *ret);

struct store_stats {
	size_t volumes;
	size_t needles; /* live */
	size_t index_bytes; /* memory */
	size_t refused; /* volumes seen that cannot be served here (EC, tiered, being copied) */
	uint64_t reloads; /* generations replaced */
	uint64_t lookups, misses;
};
void store_stats(struct store *s, struct store_stats *ret);

/* Does the store have the volume, so that it can serve it? */
bool store_has_volume(struct store *s, uint32_t volume_id);

#endif
