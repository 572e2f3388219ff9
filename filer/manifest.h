/* Chunk manifests: needles that hold a list of chunks instead of file data. */
#ifndef KELP_MANIFEST_H
#define KELP_MANIFEST_H

#include <stddef.h>
#include <stdint.h>

#include "filer/entry.h"

struct manifest {
	struct manifest *next; /* for an owner who keeps several */
	size_t n_chunks;
	struct chunk *chunks; /* as listed; offsets are absolute in the file */
	uint8_t *keys; /* backing of the chunks' cipher keys */
};

/* Decodes the plain bytes of a manifest needle (a serialized FileChunkManifest). Memory is
 * proportional to the number of chunks, of which there may be chunks_max. Returns 0, -EPROTO for
 * anything malformed or too long, -ENOMEM. */
int manifest_decode(const uint8_t *pb, size_t len, size_t chunks_max, struct manifest **ret);

/* Takes NULL. */
void manifest_free(struct manifest *m);

#endif
