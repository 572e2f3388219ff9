/* RDMA: the client's transport over verbs, and the memory that it may read into directly.
 *
 * The memory of a region (struct read_buf's handle) is registered once with each device that a
 * connection uses. Other memory is registered for the time of one read: it works anywhere, and costs
 * more. In a build without verbs connecting fails with -EOPNOTSUPP. */
#ifndef KELP_RDMA_VERBS_H
#define KELP_RDMA_VERBS_H

#include <stddef.h>
#include <stdint.h>

#include "rdma/transport.h"

#define VERBS_REGIONS_MAX 8

extern const struct client_transport client_verbs;

/* Adds a region, before the first connection that is to use it is made; region handles are those of
 * cache/slab.h, 1 to VERBS_REGIONS_MAX. Returns 0, -EINVAL or -EEXIST. Thread-safe. */
int verbs_region_add(uint32_t region, void *base, size_t bytes);

/* Memory that is locked with regions of so many bytes and all connections that there may be to one agent. */
uint64_t verbs_locked_bytes(uint64_t region_bytes);

/* Forgets all regions and lets go of all devices; no connection may be left. */
void verbs_release(void);

/* What may be set before the first connection is made. */
struct verbs_settings {
	const char *device; /* use this one only; NULL: whatever leads to the agent. Copied */
	int tos; /* type of service (DSCP << 2) of packets; negative: the system's */
	unsigned spin_us; /* poll at most so long before sleeping; usually SPIN_US (rdma/spin.h) */
};
int verbs_set(const struct verbs_settings *s);

#endif
