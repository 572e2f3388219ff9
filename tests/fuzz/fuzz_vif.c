/* Any bytes as a .vif. */
#include <stdlib.h>

#include "rdma/agent/volume_format.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct vif vif;

	if (vif_parse((const char *)data, size, &vif) != 0)
		return 0;
	if (vif.entry_bytes != 0 && vif.entry_bytes != IDX_ENTRY_BYTES_4 &&
	    vif.entry_bytes != IDX_ENTRY_BYTES_5)
		abort();
	return 0;
}
