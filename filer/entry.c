#include "filer/entry.h"

#include <malloc.h>
#include <stdlib.h>

struct entry *entry_get(struct entry *e)
{
	atomic_fetch_add_explicit(&e->refs, 1, memory_order_relaxed);
	return e;
}

void entry_put(struct entry *e)
{
	if (e && atomic_fetch_sub_explicit(&e->refs, 1, memory_order_acq_rel) == 1)
		free(e);
}

size_t entry_memory_bytes(const struct entry *e)
{
	return malloc_usable_size((void *)e);
}
