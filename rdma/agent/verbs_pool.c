#include "rdma/agent/verbs_pool.h"

#include <stdlib.h>

#include "filer/base/base.h"

#define PAGE_BYTES ((size_t)4096)

/* Records are a little longer than their data, which often is a power of two. */
static size_t class_bytes(size_t i)
{
	return (VERBS_POOL_CLASS_MIN << i) + PAGE_BYTES;
}

static size_t class_of(size_t size)
{
	size_t i = 0;

	while (class_bytes(i) < size && i < VERBS_POOL_CLASSES - 1)
		i++;
	return i;
}

size_t verbs_pool_size(size_t bytes)
{
	return class_bytes(class_of(bytes));
}

/* Takes the one at *at out of class i. */
static struct verbs_block *unlink_block(struct verbs_pool *p, size_t i, struct verbs_block **at)
{
	struct verbs_block *b = *at;

	*at = b->next;
	p->idle_bytes -= class_bytes(i);
	return b;
}

static void block_free(struct verbs_block *b)
{
	free(b->memory);
	free(b);
}

struct verbs_block *verbs_pool_take(struct verbs_pool *p, size_t size)
{
	size_t i = class_of(size);

	if (p->classes[i])
		return unlink_block(p, i, &p->classes[i]);
	struct verbs_block *b = calloc(1, sizeof(*b));
	if (b && posix_memalign((void **)&b->memory, PAGE_BYTES, size)) {
		free(b);
		b = NULL;
	}
	return b;
}

void verbs_pool_give(struct verbs_pool *p, struct verbs_block *b, size_t size)
{
	struct verbs_block **head = &p->classes[class_of(size)];

	b->since_ms = now_ms();
	b->next = *head;
	*head = b;
	p->idle_bytes += size;
}

void verbs_pool_bound(struct verbs_pool *p, size_t idle_bytes_max)
{
	for (size_t i = VERBS_POOL_CLASSES; i-- > 0 && p->idle_bytes > idle_bytes_max;)
		while (p->classes[i] && p->idle_bytes > idle_bytes_max)
			block_free(unlink_block(p, i, &p->classes[i]));
}

void verbs_pool_trim(struct verbs_pool *p, int64_t now)
{
	for (size_t i = 0; i < VERBS_POOL_CLASSES; i++) {
		struct verbs_block **at = &p->classes[i];

		while (*at && now - (*at)->since_ms < VERBS_POOL_QUIET_MS)
			at = &(*at)->next;
		/* All behind it have waited longer. */
		while (*at)
			block_free(unlink_block(p, i, at));
	}
}

void verbs_pool_close(struct verbs_pool *p)
{
	verbs_pool_bound(p, 0);
}
