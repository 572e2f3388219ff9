/* Change events out of any protobuf. */
#include <stdint.h>
#include <stdlib.h>

#include "filer/changes.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct changes *c;
	int64_t filer_ns;

	if (changes_new(&c))
		abort();
	/* whatever was said, it was said of the past */
	if (changes_take(c, data, size, 1, &filer_ns) == 0 &&
	    !changes_none(c, "/d/f", CHANGES_SETTLE_NS + 2))
		abort();
	changes_free(c);
	return 0;
}
