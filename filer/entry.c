#include "filer/entry.h"

#include <errno.h>
#include <malloc.h>
#include <stdlib.h>
#include <string.h>

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

static size_t bytes_without_chunks(const struct entry *e)
{
	size_t n = sizeof(*e) + e->n_xattrs * sizeof(e->xattrs[0]) + e->symlink_len + 1;

	for (uint32_t i = 0; i < e->n_xattrs; i++)
		n += e->xattrs[i].name_len + 1 + e->xattrs[i].value_len;
	return n;
}

int entry_trim(const struct entry *e, struct entry **ret)
{
	struct entry *copy = malloc(bytes_without_chunks(e));

	if (!copy)
		return -ENOMEM;
	memcpy(copy, e, sizeof(*e));
	atomic_init(&copy->refs, 1);
	copy->trimmed = true;
	copy->chunks = NULL;
	copy->n_chunks = 0;
	copy->content = NULL;
	copy->content_len = 0;

	struct xattr *xattrs = (struct xattr *)(copy + 1);
	char *at = (char *)(xattrs + e->n_xattrs);

	for (uint32_t i = 0; i < e->n_xattrs; i++) {
		xattrs[i] = e->xattrs[i];
		xattrs[i].name = at;
		at = mempcpy(at, e->xattrs[i].name, e->xattrs[i].name_len + 1);
		xattrs[i].value = (const uint8_t *)at;
		at = mempcpy(at, e->xattrs[i].value, e->xattrs[i].value_len);
	}
	copy->xattrs = e->n_xattrs ? xattrs : NULL;
	if (e->symlink) {
		memcpy(at, e->symlink, e->symlink_len + 1);
		copy->symlink = at;
	}
	*ret = copy;
	return 0;
}
