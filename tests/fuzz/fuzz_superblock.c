/* Any bytes as a superblock, and as the name of a volume's files. */
#include <stdlib.h>

#include "rdma/agent/volume_format.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_stem(const char *stem, size_t len)
{
	uint32_t id;

	if (volume_stem_parse(stem, len, &id) == 0 && (len == 0 || stem[len - 1] < '0'))
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct superblock super;

	check_stem((const char *)data, size);
	if (size < SUPERBLOCK_BYTES || superblock_parse(data, &super) != 0)
		return 0;
	if (super.version < 1 || super.version > 3 || super.bytes < SUPERBLOCK_BYTES)
		abort();
	return 0;
}
