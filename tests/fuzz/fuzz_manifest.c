/* Manifests out of any bytes: decoded or refused, never more chunks than allowed, each of them sane. */
#include <errno.h>
#include <stdlib.h>

#include "filer/manifest.h"

/* So that the limit is met too. */
#define CHUNKS_MAX 100

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Touches every byte. */
static unsigned sum_of_key(const struct chunk *c)
{
	unsigned sum = 0;

	for (size_t i = 0; c->cipher_key && i < CIPHER_KEY_BYTES; i++)
		sum += c->cipher_key[i];
	return sum;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct manifest *m;
	int err = manifest_decode(data, size, CHUNKS_MAX, &m);

	if (err == -EPROTO)
		return 0;
	if (err || m->n_chunks > CHUNKS_MAX)
		abort();
	for (size_t i = 0; i < m->n_chunks; i++) {
		const struct chunk *c = &m->chunks[i];

		if (c->offset > INT64_MAX || c->size > INT64_MAX - c->offset || c->sse ||
		    sum_of_key(c) > CIPHER_KEY_BYTES * UINT8_MAX)
			abort();
	}
	manifest_free(m);
	return 0;
}
