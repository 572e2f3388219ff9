#include "rdma/pulls.h"

#include <stddef.h>

_Static_assert((PULLS_MAX & (PULLS_MAX - 1)) == 0, "ids hold the place in their lower bits");

struct pull *pulls_take(struct pulls *p)
{
	for (uint32_t i = 0; i < PULLS_MAX; i++) {
		struct pull *pull = &p->pull[i];

		if (pull->used)
			continue;
		uint32_t next = (pull->id & ~(uint32_t)(PULLS_MAX - 1)) + PULLS_MAX;
		*pull = (struct pull){ .id = next | i, .used = true };
		return pull;
	}
	return NULL;
}

struct pull *pulls_find(struct pulls *p, uint32_t id)
{
	struct pull *pull = &p->pull[id % PULLS_MAX];

	return pull->used && pull->id == id ? pull : NULL;
}

unsigned pulls_count(const struct pulls *p)
{
	unsigned n = 0;

	for (size_t i = 0; i < PULLS_MAX; i++)
		n += p->pull[i].used;
	return n;
}

void pulls_give(struct pull *pull)
{
	pull->used = false;
}
