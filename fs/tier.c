#include "fs/tier.h"

#include <string.h>

#include "cache/ssd.h"

/* More of one read are left to the other sources. */
#define TIER_BUFS_MAX 64

void chunk_identity(const struct chunk *c, uint64_t ret[2])
{
	uint64_t decoding = 0;

	/* the same needle read in another way has other plain bytes */
	if (c->cipher_key)
		decoding = hash_bytes(HASH_SEED, c->cipher_key, CIPHER_KEY_BYTES);
	if (c->flags & CHUNK_GZIP)
		decoding = hash_bytes(decoding, "gzip", 4);
	ret[0] = c->fid.key;
	ret[1] = ((uint64_t)c->fid.volume_id << 32 | c->fid.cookie) ^ decoding;
}

static bool is_kept(const struct ssd *ssd, const struct chunk *c)
{
	return ssd && !c->cipher_key;
}

size_t tier_read(struct ssd *ssd, const struct chunk *c, uint64_t offset,
		 const struct read_buf *bufs, size_t n_bufs)
{
	struct iovec iov[TIER_BUFS_MAX];
	size_t n = min_u64(n_bufs, TIER_BUFS_MAX);
	struct ssd_id id;

	if (!is_kept(ssd, c))
		return 0;
	for (size_t i = 0; i < n; i++)
		iov[i] = (struct iovec){ .iov_base = bufs[i].ptr, .iov_len = bufs[i].len };
	chunk_identity(c, id.word);
	return ssd_read(ssd, &id, offset, iov, n);
}

void tier_offer(struct ssd *ssd, struct blockcache *cache, const struct chunk *c, struct block *b,
		uint64_t offset, size_t bytes)
{
	struct ssd_id id;

	if (!is_kept(ssd, c))
		return;
	chunk_identity(c, id.word);
	ssd_offer(ssd, cache, b, &id, offset, bytes);
}
