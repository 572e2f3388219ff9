/* Devices in use by the client's connections, each with one protection domain in which all regions are
 * registered. Nothing in it may be touched from outside: the agent never writes or reads there, the
 * client's own reads do. Thread-safe. */
#ifndef KELP_RDMA_VERBS_MEMORY_H
#define KELP_RDMA_VERBS_MEMORY_H

#include <infiniband/verbs.h>
#include <stddef.h>
#include <stdint.h>

#include "filer/source.h"

struct memory_device;

/* For a connection; registers all regions with a device that is new. Returns 0 or -errno. */
int memory_device_get(struct ibv_context *ctx, struct memory_device **ret);
/* Its memory stays registered: other connections will follow. Takes NULL. */
void memory_device_put(struct memory_device *m);
/* The device was removed, and nobody uses it any more. */
void memory_forget(const struct ibv_context *ctx);
struct ibv_pd *memory_device_pd(const struct memory_device *m);

/* The key for a buffer. *ret_own: registered for it alone, to be deregistered; NULL: of its region.
 * Returns 0 or -errno. */
int memory_device_key(const struct memory_device *m, const struct read_buf *b, uint32_t *ret_key,
		      struct ibv_mr **ret_own);

#endif
