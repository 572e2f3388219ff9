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

static void block_free(struct verbs_block *b)
{
	free(b->memory);
	free(b);
}

struct verbs_block *verbs_pool_take(struct verbs_pool *p, size_t size)
{
	struct verbs_block **head = &p->classes[class_of(size)];
	struct verbs_block *b = *head;

	if (b) {
		*head = b->next;
		return b;
	}
	b = calloc(1, sizeof(*b));
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
}

void verbs_pool_trim(struct verbs_pool *p, int64_t now)
{
	for (size_t i = 0; i < VERBS_POOL_CLASSES; i++) {
		struct verbs_block **at = &p->classes[i];

		while (*at && now - (*at)->since_ms < VERBS_POOL_QUIET_MS)
			at = &(*at)->next;
		/* All behind it have waited longer. */
		while (*at) {
			struct verbs_block *b = *at;

			*at = b->next;
			block_free(b);
		}
	}
}

void verbs_pool_close(struct verbs_pool *p)
{
	for (size_t i = 0; i < VERBS_POOL_CLASSES; i++) {
		while (p->classes[i]) {
			struct verbs_block *b = p->classes[i];

			p->classes[i] = b->next;
			block_free(b);
		}
	}
}
