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

/* What a client may come to use at once. */
struct verbs_memory {
	uint64_t region_bytes; /* of all regions, and of other memory that is read into */
	unsigned devices; /* each has the regions locked once more */
	unsigned agents;
	unsigned connections; /* to each of them */
};

/* How many agents are counted on where nobody knows. */
#define VERBS_AGENTS_PRESUMED 16

/* Memory that is locked then, for which RLIMIT_MEMLOCK must have room. */
uint64_t verbs_locked_bytes(const struct verbs_memory *m);

/* Buffers of reads that had to be registered for that one read, so far, in this process; 0 in a build without
 * verbs. Thread-safe. */
uint64_t verbs_registrations(void);

/* RDMA READs that were given up while they were under way, so far, likewise: what their queue pair might still have
 * written to was not used again before it was dead. */
uint64_t verbs_abandoned_reads(void);

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
