/* What tells one cluster from another. */
#ifndef KELP_TOPOLOGY_H
#define KELP_TOPOLOGY_H

#include <stddef.h>

#include "filer/base/base.h"
#include "filer/endpoint.h"

struct http_pool;

/* The TopologyId of the masters' /dir/status: random, made with the cluster, the same for all masters,
 * and kept across restarts. Asks them in turn. Returns 0, -ENOENT: they have none (older versions),
 * -EMSGSIZE: longer than bytes, or what the network says. */
int topology_id(struct http_pool *http, const struct endpoint *masters, size_t n, struct deadline d,
		char *ret, size_t bytes);

#endif
