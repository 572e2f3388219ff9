/* Writes the files of a volume as a volume server does, for tests that want them as they like.
 *
 *	struct volume_files *v = volume_files_new("dir/3.dat", "dir/3.idx", &(struct volume_shape){ 0 });
 *	uint64_t offset = volume_files_put(v, 1, 0xc00c1e, "data", 4);
 *	volume_files_delete(v, 1);
 *	volume_files_free(v);
 *
 * What is written is in the files when a call returns. What cannot be written ends the process. */
#ifndef KELP_VOLUME_FILES_H
#define KELP_VOLUME_FILES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct volume_files;

struct volume_shape {
	unsigned version; /* 0: 3 */
	unsigned entry_bytes; /* of the index; 0: 17 */
	uint16_t revision;
	uint16_t extra_bytes; /* behind the superblock */
};

/* Makes both files anew. */
struct volume_files *volume_files_new(const char *dat_path, const char *idx_path,
				      const struct volume_shape *shape);
void volume_files_free(struct volume_files *v);

/* What a record has besides its data. */
struct record_shape {
	const void *data;
	size_t len;
	uint8_t flags;
	const char *name, *mime, *pairs; /* written when the flags say so; NULL is empty */
	uint8_t ttl_count, ttl_unit;
	uint64_t append_at_ns;
	bool masked_crc; /* as old servers stored it */
};

#define RECORD_GZIP 0x01
#define RECORD_NAME 0x02
#define RECORD_MIME 0x04
#define RECORD_LAST_MODIFIED 0x08
#define RECORD_TTL 0x10
#define RECORD_PAIRS 0x20

/* Appends a record and its entry. Returns where the record is. */
uint64_t volume_files_put(struct volume_files *v, uint64_t key, uint32_t cookie, const void *data,
			  size_t len);
uint64_t volume_files_put_shaped(struct volume_files *v, uint64_t key, uint32_t cookie,
				 const struct record_shape *r);

/* Appends a tombstone and its entry. */
void volume_files_delete(struct volume_files *v, uint64_t key);

/* Appends an entry with nothing behind it. */
void volume_files_entry(struct volume_files *v, uint64_t key, uint64_t offset, uint32_t size);
/* Appends bytes to the index. */
void volume_files_idx_bytes(struct volume_files *v, const void *bytes, size_t len);

/* A small file with this text. */
void write_text_file(const char *path, const char *text);

#endif
