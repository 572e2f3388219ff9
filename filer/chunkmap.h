/* Chunk lists to visible extents.
 *
 * A file's chunks overlap, come unsorted and may leave holes; at each offset the chunk with the
 * greatest modified_ns is seen. Built once per version of a file, then only read. */
#ifndef KELP_CHUNKMAP_H
#define KELP_CHUNKMAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "filer/base/base.h"
#include "filer/entry.h"

/* [offset, offset+len) of the file is chunk bytes from chunk_offset on. */
struct extent {
	uint64_t offset;
	uint64_t len;
	uint64_t chunk_offset;
	uint32_t chunk; /* index into chunkmap.chunks */
};

/* Sorted, without overlap; what no extent covers, up to size, reads as zeros. Immutable. */
struct chunkmap {
	uint64_t size; /* of the file */
	size_t n_extents;
	size_t n_chunks;
	struct extent *extents;
	struct chunk *chunks; /* owned copy; manifests are resolved */
	uint8_t *keys; /* backing of the chunks' cipher keys */
};

/* Most data chunks of one file: 256 TiB of 4 MiB chunks would need more; 2^24 is 64 TiB. */
#define CHUNKMAP_CHUNKS_MAX (1u << 24)
/* Manifests within manifests, and manifests in all, before a file is called malformed. */
#define MANIFEST_DEPTH_MAX 8
#define MANIFEST_COUNT_MAX (1u << 16)
/* Plain bytes of one manifest needle. */
#define MANIFEST_BYTES_MAX ((size_t)256 << 20)

/* Reads the whole plain (decrypted, inflated) content of a manifest chunk into *ret (malloced).
 * At most max_bytes. Returns 0 or -errno. */
typedef int (*chunkmap_read_manifest)(void *arg, const struct chunk *manifest, size_t max_bytes,
				      struct deadline d, uint8_t **ret, size_t *ret_len);

/* Builds the map of one version. read_manifest is called for each manifest chunk, nested ones too;
 * a manifest that names itself or is beyond the limits gives -EPROTO. Cost O(n log n). Returns 0,
 * -EPROTO, -ENOMEM or what read_manifest returned. */
int chunkmap_build(const struct entry *e, chunkmap_read_manifest read_manifest, void *arg,
		   struct deadline d, struct chunkmap **ret);

/* Takes NULL. */
void chunkmap_free(struct chunkmap *m);

/* Index of the first extent that ends after offset; n_extents when there is none. O(log n). */
size_t chunkmap_find(const struct chunkmap *m, uint64_t offset);

/* lseek SEEK_DATA / SEEK_HOLE. Return 0 and the new offset, or -ENXIO as lseek(2) does. */
int chunkmap_seek_data(const struct chunkmap *m, uint64_t offset, uint64_t *ret);
int chunkmap_seek_hole(const struct chunkmap *m, uint64_t offset, uint64_t *ret);

size_t chunkmap_memory_bytes(const struct chunkmap *m);

#endif
