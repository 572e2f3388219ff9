/* Entries out of any text: refused, or sane and the same when decoded again. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "filer/base/base.h"
#include "filer/entry.h"
#include "filer/entry_build.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(const struct entry *e)
{
	if (e->size > INT64_MAX || e->nlink == 0)
		abort();
	for (uint32_t i = 0; i < e->n_chunks; i++) {
		const struct chunk *c = &e->chunks[i];

		if (c->offset > INT64_MAX || c->size > INT64_MAX - c->offset)
			abort();
		if (c->cipher_key && hash_bytes(0, c->cipher_key, CIPHER_KEY_BYTES) == 1)
			abort();
	}
	for (uint32_t i = 0; i < e->n_xattrs; i++)
		if (strlen(e->xattrs[i].name) != e->xattrs[i].name_len)
			abort();
	if (e->symlink && strlen(e->symlink) != e->symlink_len)
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct entry *e, *again;
	char *name;

	if (entry_from_json((const char *)data, size, &e, &name)) {
		if (wire_json_name((const char *)data, size, &name) == 0)
			free(name);
		return 0;
	}
	check(e);
	if (entry_from_json((const char *)data, size, &again, NULL))
		abort();
	if (!entry_same_version(e, again) || e->mode != again->mode)
		abort();
	entry_put(again);
	entry_put(e);
	free(name);
	return 0;
}
