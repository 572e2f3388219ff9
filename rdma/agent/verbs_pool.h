/* Blocks of memory for staged answers, by size, that wait for their next use. One thread's. */
#ifndef KELP_AGENT_VERBS_POOL_H
#define KELP_AGENT_VERBS_POOL_H

#include <stddef.h>
#include <stdint.h>

struct ibv_mr;

#define VERBS_POOL_CLASSES 24
#define VERBS_POOL_CLASS_MIN ((size_t)16 << 10)
/* Kept without being used for so long; then given back to the system. */
#define VERBS_POOL_QUIET_MS 2000

struct verbs_block {
	struct verbs_block *next; /* the pool's */
	uint8_t *memory;
	struct ibv_mr *mr; /* NULL: not leased */
	int64_t since_ms; /* that it waits */
};

struct verbs_pool {
	struct verbs_block *classes[VERBS_POOL_CLASSES]; /* most recently used first */
	size_t idle_bytes; /* of all of these */
};

/* What a request for so many bytes is rounded up to. */
size_t verbs_pool_size(size_t bytes);

/* size: of verbs_pool_size(). NULL: no memory. */
struct verbs_block *verbs_pool_take(struct verbs_pool *p, size_t size);
void verbs_pool_give(struct verbs_pool *p, struct verbs_block *b, size_t size);
/* Gives back to the system what is idle beyond so much, beginning with the largest. */
void verbs_pool_bound(struct verbs_pool *p, size_t idle_bytes_max);
void verbs_pool_trim(struct verbs_pool *p, int64_t now);
void verbs_pool_close(struct verbs_pool *p);

#endif
